"""A listener that takes a task only when somebody asks for it.

Most listeners are stopped where their first step has left them: in ``receive()``, at a future of the server's. A task
that is started for that step, and cancelled after it, takes two turns of the loop: a tenth of what a Django request
with a synchronous view takes. So that step is made at once and by hand, and so is the last one.

A coroutine must not be able to tell: a timeout or a cancel scope keeps the task that it is entered in. In each of its
steps, however it is made, the current task is therefore one and the same object, which becomes a real task as soon as
anything is asked of it. That one carries the coroutine on then.

Source: "Extending asyncio" in Python's documentation, for what surrounds each step of a task.
"""

from __future__ import annotations

import asyncio
from asyncio import CancelledError
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import copy_context
from typing import Any, Final

from ._watch import AsyncioListener, run_shielded

__all__ = ["SteppedListener"]

_NOTHING: Final = object()
_FUTURE: Final[Any] = asyncio.Future
_current_task: Final[Any] = asyncio.current_task
_enter_task: Final[Any] = asyncio._enter_task
_leave_task: Final[Any] = asyncio._leave_task


class _OwnTask:
    """The task of a listener, as long as nothing is asked of it."""

    __slots__ = ("__weakref__", "_listener")

    def __init__(self, listener: SteppedListener) -> None:
        self._listener = listener

    def __getattr__(self, name: str) -> Any:
        return getattr(self._listener.task(), name)


class SteppedListener(AsyncioListener, Coroutine[Any, Any, None]):
    """As ``AsyncioListener``; to its task, if there is one, the coroutine.

    Args:
        task: The current one.
        listen: What runs.
        left: Called when that has ended by itself, by an error or without one.
    """

    __slots__ = ("_context", "_coro", "_left", "_loop", "_own", "_pending")

    _task: Any

    def __init__(self, task: asyncio.Task[Any], listen: Coroutine[Any, Any, None], left: Callable[[], object]) -> None:
        self._loop = task.get_loop()
        self._coro: Coroutine[Any, Any, None] | None = listen
        self._left: Callable[[], object] | None = left
        self._context = copy_context()
        self._own: Any = _OwnTask(self)
        self._task = None
        # What the coroutine has yielded while no task runs it.
        self._pending: Any = _NOTHING
        if self._advance(listen.send, None):
            # Not before the current task waits, which this may cancel.
            self._loop.call_soon(self._tell)

    def task(self) -> asyncio.Task[None]:
        """The real task."""
        if self._task is None:
            # Not by the loop, whose tasks may start at once: it may be asked for in the middle of a step.
            self._task = asyncio.Task(self, loop=self._loop, context=self._context)
        task: asyncio.Task[None] = self._task
        return task

    @property
    def is_over(self) -> bool:
        """Whether the coroutine has ended."""
        return self._coro is None

    # --- by hand -------------------------------------------------------------------------------------

    def _step(self, step: Callable[..., Any], *args: Any) -> Any:
        """Make a step, with our own task as the current one."""
        loop, own = self._loop, self._own or _OwnTask(self)
        current = _current_task(loop)
        if current is not None:
            _leave_task(loop, current)
        _enter_task(loop, own)
        try:
            return step(*args)
        finally:
            _leave_task(loop, own)
            if current is not None:
                _enter_task(loop, current)
            # An exception leads to this frame, and a task that was cancelled to the exception.
            del args, current

    def _advance(self, step: Callable[[Any], Any], argument: Any) -> bool:
        """Make a step by hand and wait for what it yields; whether the coroutine has ended by itself instead."""
        try:
            yielded = self._pending = self._step(self._context.run, step, argument)
        except BaseException as exc:
            self._coro = self._own = None  # which refers to this
            if not isinstance(exc, (Exception, CancelledError)):
                raise
            return isinstance(exc, Exception)
        if self._task is None and type(yielded) is _FUTURE and yielded._asyncio_future_blocking:
            # The protocol of asyncio futures: whoever takes what was yielded clears this.
            yielded._asyncio_future_blocking = False
            yielded.add_done_callback(self._go_on)
        else:
            self.task()
        return False

    def _go_on(self, future: object) -> None:
        # It may have been stopped, or taken over by a task, since it was called.
        if future is self._pending and self._task is None:
            self._pending = _NOTHING
            assert self._coro is not None
            if self._advance(self._coro.send, None):
                self._tell()

    def _take_back(self) -> Any:
        """What the coroutine has yielded, which nobody waits for any more."""
        pending, self._pending = self._pending, _NOTHING
        if isinstance(pending, _FUTURE):
            pending.remove_done_callback(self._go_on)
        return pending

    def _tell(self) -> None:
        if self._left is not None:
            # What it cancels may look at the current task.
            self._step(self._left)

    # --- by the task ---------------------------------------------------------------------------------

    def send(self, value: Any, /) -> Any:
        """Take a step, which is the task's first one if something is pending: to wait for that."""
        pending = self._take_back()
        if pending is not _NOTHING:
            if isinstance(pending, _FUTURE):
                pending._asyncio_future_blocking = True
            return pending
        return self._step_in_task("send", value)

    def throw(self, kind: Any, value: Any = None, trace: Any = None, /) -> Any:
        """Have an exception raised, after what would have been waited for was cancelled."""
        pending = self._take_back()
        if isinstance(pending, _FUTURE):
            pending.cancel()
        try:
            return self._step_in_task("throw", kind)
        finally:
            del kind

    def _step_in_task(self, step: str, argument: Any) -> Any:
        if self._coro is None:
            raise StopIteration
        try:
            return self._step(getattr(self._coro, step), argument)
        except BaseException as exc:
            self._coro = self._own = None  # which refers to this
            if not isinstance(exc, Exception):
                raise
        finally:
            del argument
        self._tell()
        raise StopIteration

    __await__: Any = None  # tasks send and throw

    def close(self) -> None:
        """Close the coroutine."""
        if self._coro is not None:
            self._take_back()
            coro, self._coro, self._own = self._coro, None, None
            with suppress(Exception):  # as if it had ended by itself
                coro.close()

    # --- for the request -----------------------------------------------------------------------------

    def cancel(self) -> None:
        """As ``Listener``."""
        self._left = None
        if self._task is not None:
            super().cancel()
        else:
            self.close()

    def stop(self) -> Coroutine[Any, Any, None] | None:
        """As ``Listener``."""
        self._left = None
        if self._task is None and self._coro is not None:
            self._take_back().cancel()
            # By its class: an instance would lead to this frame, and the frame to it.
            self._advance(self._coro.throw, CancelledError)
            if not self.is_over:  # it awaits something in a cleanup of its own
                self.task()
                return run_shielded(self._wait(), None)
        return None if self._task is None else self._end_task()

    async def _end_task(self) -> None:
        await self._stop()
        # It refers to this.
        self._task = None if self._task.done() else self._task
