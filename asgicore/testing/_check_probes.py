"""All probes of the check, in the order in which they run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from . import _check_leaving as leaving
from . import _check_requests as requests
from . import _check_resources as resources
from ._check_probing import Probing

__all__ = ["PROBES", "Probe"]


class Probe(NamedTuple):
    """One thing that is tried."""

    name: str
    run: Callable[[Probing], Awaitable[None]]

    @property
    def text(self) -> str:
        """What is tried, in a sentence."""
        return (self.run.__doc__ or "").strip()


_FUNCTIONS = [
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
    resources.slow_reader,
    resources.holds_loop,
    resources.concurrency,
    resources.leaks,
]

PROBES: Final = {name: Probe(name, run) for run in _FUNCTIONS for name in [run.__name__.replace("_", "-")]}
"""Every probe by its name."""
