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
from typing import Any, Final, Self, TypeVar, cast

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

    __slots__ = ("_cancel", "_is_once", "_scopes", "native_token")

    native_token: Any
    """What ``current_loop()`` gave."""
    _cancel: Callable[[], object] | None
    _is_once: bool
    _scopes: tuple[CancelScope, ...]

    # --- on the loop ---------------------------------------------------------------------------------

    def cancelled(self, cancel: Callable[[], object], is_once: bool = False) -> None:
        """Whoever waits was cancelled: what the thread awaits is, too.

        Args:
            cancel: Raises that; called in the thread.
            is_once: Whether that is over when the thread was ``told()``. Otherwise it holds, as in a cancelled scope.
        """
        # In this order: the thread looks at the second one first.
        self._is_once, self._cancel = is_once, cancel
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

    def told(self) -> None:
        """The thread knows that it was cancelled, and cleans up."""
        if self._is_once:
            self._cancel = None

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
        cancel = self._cancel
        if cancel is not None:
            self.told()
            del self  # which has the error in the end
            cancel()

    def run_async_from_thread(
        self, function: Callable[..., Coroutine[Any, Any, T]], args: tuple[Any, ...], token: object
    ) -> T:
        """As ``anyio.from_thread.run()``."""
        try:
            result = self._await(partial(self._run, function, args))
            if result is _CANCELLED:
                self.check_cancelled()
            return result
        finally:
            del self  # as there

    def run_sync_from_thread(self, function: Callable[..., T], args: tuple[Any, ...], token: object) -> T:
        """As ``anyio.from_thread.run_sync()``."""

        async def call() -> tuple[T | None, StopIteration | None]:
            try:
                return function(*args), None
            except StopIteration as exc:  # which no coroutine can raise
                return None, exc

        result, end = self._await(call)
        if end is not None:
            try:
                raise end
            finally:
                del end
        return cast("T", result)

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
        try:
            return future.result()
        finally:
            # An error leads to this frame, and the future to the error, as the job does that keeps it.
            del self, future
