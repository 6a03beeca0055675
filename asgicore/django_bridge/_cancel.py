"""Cancelling as Django does: once, so that what a view awaits in its own cleanup is not cancelled again.

Source: ``asyncio.timeout``, for the counting of cancellations.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Final, Self

from .._late_scope import EARLY, innermost_scope
from .._watch import is_held_back

# A shielded section is left when it likes; five milliseconds later is still at once for whoever has left.
_TRY_AGAIN_SECONDS: Final = 0.005


def no_scope() -> None:
    """Nothing has to be known before the endpoint's first step."""


class CancelOnce:
    """Cancels the current task once, and swallows that cancellation when it comes out.

    Args:
        outer: Not looked at.
    """

    __slots__ = ("_cancelling", "_is_called", "_is_left", "_task")

    def __init__(self, outer: object = None) -> None:
        self._is_called = self._is_left = False

    def __enter__(self) -> Self:
        task: Any = asyncio.current_task()
        self._task: asyncio.Task[Any] = task
        self._cancelling = task.cancelling()
        return self

    def cancel(self) -> None:
        """Cancel the task, or wait until it leaves the section that an anyio scope shields."""
        if self._is_called or self._is_left:
            return
        if _is_shielded(self._task):
            asyncio.get_running_loop().call_later(_TRY_AGAIN_SECONDS, self.cancel)
            return
        self._is_called = True
        self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        self._is_left = True
        if not self._is_called:
            return None
        return self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError and not is_held_back(error)


def _is_shielded(task: asyncio.Task[Any]) -> bool:
    """Whether the task is in a scope that shields, as far as anyio's books tell."""
    scope: Any = innermost_scope(task)
    if scope is EARLY:
        return False
    while scope is not None:
        if scope.shield:
            return True
        scope = scope._parent_scope
    return False
