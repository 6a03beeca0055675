"""A function on its way through a request's thread, and whoever waits for it: asgiref, a task, or nobody."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from .._jobs import Waiter, new_waiter

__all__ = ["FutureJob", "Job", "WaitedJob"]

logger = logging.getLogger("django.request")


class Job:
    """A function on its way through a worker; by itself one that nobody waits for."""

    __slots__ = ("_args", "_error", "_function", "_result", "is_done", "is_kept")

    is_wanted: bool = True
    """Whether somebody waits for it still."""

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...], is_kept: bool) -> None:
        self._function: Callable[..., Any] | None = function
        self._args = args
        self._result: Any = None
        self._error: BaseException | None = None
        self.is_kept: bool = is_kept
        """Whether it runs whatever becomes of who waits for it."""
        self.is_done: bool = False
        """Whether it has ended."""

    def run(self, prepare: Callable[[], object] | None) -> None:
        """Run the function, after what prepares the thread for it; in the worker."""
        function, self._function = self._function, None
        assert function is not None
        try:
            if not self.is_kept and not self.is_wanted:
                return
            if prepare is not None:
                self._prepare(prepare)
            self._result = function(*self._args)
        except BaseException as exc:
            self.fail(exc)
        finally:
            # Errors lead to this frame, and the job to the error.
            del function, prepare

    def _prepare(self, prepare: Callable[[], object]) -> None:
        try:
            prepare()
        except Exception:
            if not self.is_kept:
                raise
            logger.exception("preparing a thread for the end of a request failed")

    def fail(self, error: BaseException) -> None:
        """End with an error."""
        if isinstance(error, (StopIteration, GeneratorExit)):
            # No future takes the one, and a coroutine takes the other for its own end.
            cause, error = error, RuntimeError(f"synchronous code raised {type(error).__name__} in a thread")
            error.__cause__ = cause
        self._error = error

    def tell(self) -> None:
        """It has ended: wake whoever waits; in any thread."""
        self.is_done = True
        error, self._error = self._error, None
        if error is not None:
            logger.error("closing what a request leaves behind failed", exc_info=error)
            del error


class FutureJob(Job):
    """A job that asgiref waits for, which shields what it waits for."""

    __slots__ = ("_loop", "future")

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...], is_kept: bool) -> None:
        super().__init__(function, args, is_kept)
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] | None = self._loop.create_future()

    @property
    def is_wanted(self) -> bool:  # type: ignore[override]
        """Whether its future was not cancelled."""
        return self.future is not None and not self.future.cancelled()

    def tell(self) -> None:
        """As ``Job.tell()``."""
        self.is_done = True
        try:
            self._loop.call_soon_threadsafe(self._settle)
        except RuntimeError:
            self._error = None  # the loop is closed, and nobody waits

    def _settle(self) -> None:
        # The error leads to frames that lead to the job.
        error, self._error = self._error, None
        result, self._result = self._result, None
        future, self.future = self.future, None
        try:
            if future is None or future.done():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)
        finally:
            del error


class WaitedJob(Job):
    """A job that one task waits for."""

    __slots__ = ("_waiter", "is_wanted")

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...], is_kept: bool) -> None:
        super().__init__(function, args, is_kept)
        self.is_wanted: bool = True
        self._waiter: Waiter | None = None

    async def wait(self) -> Any:
        """Return or raise, once, what the function did; can be called again if it was cancelled."""
        if not self.is_done:
            waiter = self._waiter = new_waiter()
            # It may end between the two, and tell another waiter.
            if not self.is_done:
                await waiter
        error, self._error = self._error, None
        result, self._result = self._result, None
        if error is None:
            return result
        try:
            raise error
        finally:
            del error

    def give_up(self) -> None:
        """Nobody waits for it any more; if it has not begun, it never runs."""
        self.is_wanted = False
        self._error = None

    def tell(self) -> None:
        """As ``Job.tell()``."""
        self.is_done = True
        if not self.is_wanted:
            self._error = None
        if self._waiter is not None:
            self._waiter.notify()
