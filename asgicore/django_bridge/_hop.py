# pyright: basic
# Django has no types of its own.
"""Synchronous code of a request in its thread, by a shorter way than ``sync_to_async``.

What that promises holds: the same thread, context variables there and back, ``async_to_sync`` within, and what a
cancellation does. It is left out what is for other cases, or is done twice. A response that a view makes is noted where
it is made, so that it is closed even if its request was cancelled on the way.

Source: ``asgiref.sync.SyncToAsync``.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Any, Final, Protocol

from asgiref import sync as asgiref
from django.http.response import HttpResponseBase

from ._variables import thread_above
from ._workers import Lease, Workers

__all__ = ["Hop", "RequestContext", "around", "note", "noting"]

_sensitive: Final[Any] = asgiref.SyncToAsync.thread_sensitive_context
_executors: Final[Any] = asgiref.SyncToAsync.context_to_thread_executor
_thread_locals: Final[Any] = asgiref.SyncToAsync.threadlocal
# Private, so that it may be gone one day; and monitoring may put something in the place of the call.
_restore: Final[Any] = getattr(asgiref, "_restore_context", None)
_call: Final[Any] = asgiref.SyncToAsync.__call__


class RequestContext(asgiref.ThreadSensitiveContext):
    """asgiref's context around a request, which knows the request's thread.

    Entered and left as asgiref does it, but for one thing: the thread of an ``async_to_sync`` above is not hidden.
    Django's handler does not hide it either, and looking for it costs more than all the rest.
    """

    def __init__(self, workers: Workers) -> None:
        self.lease = Lease(workers)
        super().__init__(executor=self.lease)  # type: ignore[arg-type]  # all that is asked of it is submit()
        self.task: asyncio.Task[Any] | None = asyncio.current_task()
        self.made: list[Any] = []
        """The responses that views and middleware have made."""

    def enter(self) -> None:
        """As ``async with``, without waiting."""
        self.token = _sensitive.set(self)
        _executors[self] = self.lease

    def leave(self) -> None:
        """As the end of ``async with``, without waiting."""
        _executors.pop(self, None)
        try:  # noqa: SIM105  # suppress() costs a microsecond
            _sensitive.reset(self.token)
        except ValueError:
            pass  # another context: the loop has given the task up
        self._exited = True
        self.task = None
        self.made = []
        self.lease.release()


def around() -> Any:
    """The context that the current code is in, ours or another one; ``None`` if there is none."""
    return _sensitive.get(None)


def note(response: Any) -> Any:
    """Note a response that was made just now, and return it."""
    context = _sensitive.get(None)
    if type(context) is RequestContext and isinstance(response, HttpResponseBase):
        context.made.append(response)
    return response


def noting(view: Any) -> Any:
    """An asynchronous view whose response is noted."""

    async def noted(*args: Any, **kwargs: Any) -> Any:
        return note(await view(*args, **kwargs))

    return noted


class _Tasks(list[Any]):
    """The tasks that run for ``async_to_sync`` in the thread, as asgiref keeps them; cancelled with who waits."""

    is_cancelled = False

    def append(self, task: Any, /) -> None:
        super().append(task)
        if self.is_cancelled:
            # It begins after the request was cancelled, and nobody else would ever tell it.
            task.cancel()


class _Pending(Protocol):
    """What a hop waits for, again where it was cancelled."""

    @property
    def is_done(self) -> bool: ...
    async def wait(self) -> Any: ...
    def give_up(self) -> None: ...


class _Above:
    """What was handed to a thread that waits in ``async_to_sync``."""

    __slots__ = ("_future",)

    def __init__(self, future: asyncio.Future[Any]) -> None:
        self._future = future

    @property
    def is_done(self) -> bool:
        return self._future.done()

    async def wait(self) -> Any:
        return await asyncio.shield(self._future)

    def give_up(self) -> None:
        self._future.cancel()
        if not self._future.cancelled():
            self._future.exception()  # or asyncio complains that nobody has looked at it


class Hop(asgiref.SyncToAsync[..., Any]):
    """As ``sync_to_async(function)``.

    Args:
        function: What is called.
        notes: Whether it returns responses that are to be noted.
    """

    def __init__(self, function: Callable[..., Any], notes: bool = False) -> None:
        super().__init__(function, thread_sensitive=True)
        if notes:
            self.func = lambda *args, **kwargs: note(function(*args, **kwargs))

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        context = _sensitive.get(None)
        if (
            type(context) is not RequestContext
            or context._exited
            or _restore is None
            or asgiref.SyncToAsync.__call__ is not _call
            or sys.exc_info()[1] is not None
        ):
            return await super().__call__(*args, **kwargs)
        variables, tasks, loop = copy_context(), _Tasks(), asyncio.get_running_loop()
        work = (loop, variables, tasks, args, kwargs)
        # The thread of an async_to_sync above waits for this; all below it runs there.
        above = thread_above()
        job: _Pending = (
            context.lease.start(self._in_thread, *work)
            if above is None
            else _Above(loop.run_in_executor(above, self._in_thread, *work))
        )
        try:
            return await job.wait()
        except asyncio.CancelledError:
            tasks.is_cancelled = True
            if job.is_done or not tasks:
                job.give_up()
                raise
            task = tasks[0]
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                job.give_up()
                raise
            # It went on in spite of that, and so does the thread.
            return await job.wait()
        finally:
            _restore(variables)

    def _in_thread(
        self, loop: asyncio.AbstractEventLoop, variables: Context, tasks: _Tasks, args: Any, kwargs: Any
    ) -> Any:
        # What async_to_sync in this thread looks for.
        _thread_locals.main_event_loop = loop
        _thread_locals.main_event_loop_pid = os.getpid()
        _thread_locals.task_context = tasks
        return variables.run(self._in_context, variables, args, kwargs)

    def _in_context(self, variables: Context, args: Any, kwargs: Any) -> Any:
        # Takes asgiref's own storages along to this thread.
        _restore(variables)
        return self.func(*args, **kwargs)
