"""All probes of the check, in the order in which they run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from . import leaving, requests, resources
from .probing import Probing

__all__ = ["LIFESPAN", "NAMES", "PROBES", "describe_probe"]

_FUNCTIONS: Final[list[Callable[[Probing], Awaitable[None]]]] = [
    requests.get,
    requests.head,
    requests.post,
    requests.headers,
    requests.cookies,
    requests.header_alias,
    requests.header_cost,
    requests.odd_scopes,
    requests.root_path,
    requests.extra_messages,
    requests.ranges,
    requests.websocket,
    leaving.leave_before,
    leaving.truncated,
    leaving.leave_waiting,
    leaving.leave_streaming,
    leaving.leave_after,
    leaving.send_fails,
    leaving.cancel,
    leaving.aborts,
    resources.large_upload,
    resources.body_limit,
    resources.slow_uploads,
    resources.slow_reader,
    resources.holds_loop,
    resources.concurrency,
    resources.leaks,
]

PROBES: Final = {run.__name__.replace("_", "-"): run for run in _FUNCTIONS}
"""Every probe by its name."""

LIFESPAN: Final = "lifespan"
"""The probe that is no request: startup and shutdown, once for the whole check, which it ends."""

NAMES: Final = [*PROBES, LIFESPAN]


def describe_probe(name: str) -> str:
    """What a probe tries, in a sentence."""
    return "Startup and shutdown." if name == LIFESPAN else (PROBES[name].__doc__ or "").strip()
