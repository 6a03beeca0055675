"""What makes ``anyio.from_thread`` work in a worker thread of ours, as in one of anyio's own.

anyio looks for the token of a loop among what it has noted for the current thread, and has no call that notes one. So a
job notes itself there: it is the token, and the backend that anyio calls then. Should anyio look elsewhere one day, it
will say that it knows of no event loop, as in any thread.

Source: "Calling asynchronous code from a worker thread" and "Reacting to cancellation in worker threads" in anyio's
documentation.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, Final, Self, TypeVar

from anyio import CancelScope, RunFinishedError

__all__ = ["Origin", "current_loop"]

T = TypeVar("T")

_modules = sys.modules
# What anyio notes for a thread.
_local: Any = getattr(_modules.get("anyio._core._eventloop"), "threadlocals", None)
_running_loop: Final[Any] = asyncio._get_running_loop
_current_task: Final[Any] = asyncio.current_task
_CANCELLED: Final[Any] = object()


def current_loop() -> Any:
    """The loop of asyncio that runs here, or trio's token; ``None`` outside of both."""
    loop = _running_loop()
    if "trio" in _modules and (loop is None or _current_task(loop) is None):  # trio may be a guest of asyncio's loop
        try:
            return _modules["trio"].lowlevel.current_trio_token()
        except RuntimeError:
            pass  # a thread without a loop
    return loop


class Origin:
    """The part of a job that knows where it comes from, and whether whoever waits for it was cancelled."""

    __slots__ = ("_cancel", "_scopes", "native_token")

    native_token: Any
    """What ``current_loop()`` gave."""
    _cancel: Callable[[], object] | None
    _scopes: tuple[CancelScope, ...]

    # --- on the loop ---------------------------------------------------------------------------------

    def cancelled(self, cancel: Callable[[], object]) -> None:
        """Whoever waits was cancelled: what the thread awaits is, too.

        Args:
            cancel: Raises that; called in the thread.
        """
        self._cancel = cancel
        for scope in self._scopes:
            scope.cancel()

    async def _run(self, function: Callable[..., Awaitable[T]], args: tuple[Any, ...]) -> T:
        with CancelScope() as scope:
            self._scopes += (scope,)
            if self._cancel is not None:
                scope.cancel()
            try:
                return await function(*args)
            finally:
                self._scopes = tuple(other for other in self._scopes if other is not scope)
        return _CANCELLED  # type: ignore[no-any-return]

    # --- in the thread -------------------------------------------------------------------------------

    def note(self) -> object:
        """Have anyio know of this; returns what it knew before, for ``forget()``."""
        if _local is None or self.native_token is None:
            return None
        noted: dict[str, Any] = _local.__dict__
        before = noted.get("current_token")
        noted["current_token"] = self
        return before

    def forget(self, before: object) -> None:
        """Have anyio know what it knew before."""
        if _local is not None and self.native_token is not None:
            noted: dict[str, Any] = _local.__dict__
            if before is None:
                del noted["current_token"]
            else:
                noted["current_token"] = before

    # --- what anyio asks of a token and of a backend ---------------------------------------------------

    @property
    def backend_class(self) -> Self:
        """This."""
        return self

    def check_cancelled(self) -> None:
        """As ``anyio.from_thread.check_cancelled()``."""
        if self._cancel is not None:
            self._cancel()

    def run_async_from_thread(
        self, function: Callable[..., Coroutine[Any, Any, T]], args: tuple[Any, ...], token: object
    ) -> T:
        """As ``anyio.from_thread.run()``."""
        result = self._await(partial(self._run, function, args))
        if result is _CANCELLED:
            self.check_cancelled()
        return result

    def run_sync_from_thread(self, function: Callable[..., T], args: tuple[Any, ...], token: object) -> T:
        """As ``anyio.from_thread.run_sync()``."""

        async def call() -> T:
            return function(*args)

        return self._await(call)

    def _await(self, function: Callable[[], Coroutine[Any, Any, T]]) -> T:
        if not isinstance(self.native_token, asyncio.AbstractEventLoop):
            import trio

            try:
                return trio.from_thread.run(function, trio_token=self.native_token)
            except trio.RunFinishedError:
                raise RunFinishedError from None
        coro = function()
        try:
            future = asyncio.run_coroutine_threadsafe(coro, self.native_token)
        except RuntimeError:  # the loop is closed
            coro.close()
            raise RunFinishedError from None
        return future.result()
