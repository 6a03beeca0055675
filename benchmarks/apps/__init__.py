"""The peers, each in a module of its own, written as its documentation recommends."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

App = Callable[..., Any]


@dataclass(frozen=True)
class Peer:
    """One column of the tables.

    A peer's module has ``build(workload, variant)``, which returns an ASGI application that serves ``/workload``, or
    ``None`` where the peer has nothing to compare.
    """

    name: str
    module: str
    distribution: str
    variant: str = ""

    def build(self, workload: str) -> App | None:
        """The application.

        Raises:
            ImportError: The peer is not installed.
        """
        module = importlib.import_module(f"{__name__}.{self.module}")
        app: App | None = module.build(workload, self.variant)
        return app

    @property
    def is_ours(self) -> bool:
        return self.module == "ours"

    @property
    def version(self) -> str | None:
        """``None`` if it is not installed."""
        if not self.distribution:
            return ""
        try:
            return importlib.metadata.version(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            return None


PEERS = {
    peer.name: peer
    for peer in (
        Peer("raw", "raw", ""),
        Peer("asgicore", "ours", "asgicore", "cancel"),
        Peer("asgicore-notify", "ours", "asgicore", "notify"),
        Peer("asgicore-stream", "ours", "asgicore", "stream"),
        Peer("starlette-pair", "starlette_peer", "starlette", "pair"),
        Peer("starlette", "starlette_peer", "starlette", "app"),
        Peer("fastapi", "fastapi_peer", "fastapi"),
        Peer("falcon", "falcon_peer", "falcon"),
        Peer("blacksheep", "blacksheep_peer", "blacksheep"),
        Peer("litestar", "litestar_peer", "litestar"),
        Peer("baize", "baize_peer", "baize"),
        Peer("emmett55", "emmett_peer", "emmett55"),
        Peer("quart", "quart_peer", "quart"),
        Peer("django", "django_peer", "django"),
    )
}

OBSERVED = Peer("asgicore-observed", "ours", "asgicore", "observed")


HANDLERS = {
    peer.name: peer
    for peer in (
        Peer("asgicore", "django_site", "asgicore", "bridge"),
        Peer("django", "django_site", "django", "stock"),
    )
}
"""Of one Django site: the bridge and Django's own."""
BARE = Peer("raw", "django_site", "", "bare")
"""What the same site takes without a handler."""
