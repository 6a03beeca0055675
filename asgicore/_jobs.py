"""A function on its way through a worker thread: its context, its outcome, and whoever waits for it.

Source: PEP 479 for what cannot be raised in a coroutine, PEP 567 for contexts.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Generator
from contextlib import suppress
from contextvars import Context, ContextVar, copy_context
from typing import Any, Final, Generic, Protocol, TypeVar, TypeVarTuple, cast

from ._from_thread import Origin, current_loop
from ._watch import is_trio, run_shielded
from .errors import UsageError

__all__ = ["Job", "Notified", "Queue", "Waited", "Waiter", "forget_context", "hide_async_library", "new_waiter"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_MISSING: Final = object()

# The context that the jobs of a request run in, one after the other, so that a token from one is good in the next; in
# a list, as taking it out is one operation: tasks that the request starts have the same list.
_kept: Final[ContextVar[list[Context]]] = ContextVar("asgicore_kept_context")


class Waiter(Protocol):
    """What one task waits for, once, and any thread may call."""

    def __await__(self) -> Generator[Any, Any, None]: ...
    def notify(self) -> None: ...


class Waited(Protocol):
    """What a task waits for, which has to know if the task is cancelled."""

    def cancelled(self, cancel: Callable[[], object], /) -> None:
        """``cancel`` raises the cancellation."""
        ...


class _AsyncioWaiter:
    """A future, as far as a task looks at one, that another thread wakes the task through.

    One of asyncio's own is settled by a callback, which schedules another one that wakes the task: that turn of the
    loop is a sixth of what a hop costs.
    """

    __slots__ = ("_asyncio_future_blocking", "_callback", "_cancelled", "_is_notified", "_loop", "_right", "_waited")

    def __init__(self, waited: Waited | None) -> None:
        self._waited = waited
        self._loop = asyncio.get_running_loop()
        self._callback: tuple[Callable[[Any], object], Context | None] | None = None
        self._is_notified = False
        self._cancelled: tuple[Any, ...] | None = None
        # To wake the task: whoever takes it does, and nobody else. Taking it is one operation.
        self._right: list[None] = [None]
        # The protocol of asyncio futures.
        self._asyncio_future_blocking = False

    def __await__(self) -> Generator[Any, Any, None]:
        if not self._is_notified:
            self._asyncio_future_blocking = True
            yield self
        self.result()

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def add_done_callback(self, callback: Callable[[Any], object], *, context: Context | None = None) -> None:
        self._callback = (callback, context)
        if self._is_notified:
            self._wake()

    def done(self) -> bool:
        return self._is_notified or self._cancelled is not None

    def result(self) -> None:
        if self._cancelled is not None:
            raise asyncio.CancelledError(*self._cancelled)

    def cancel(self, msg: Any | None = None) -> bool:
        """Wake the task with a cancellation, unless it is being woken."""
        # By the message a cancel scope knows its own.
        self._cancelled = () if msg is None else (msg,)
        if self._wake():
            if self._waited is not None:
                self._waited.cancelled(_raise_cancelled)
            return True
        self._cancelled = None
        return False

    def notify(self) -> None:
        self._is_notified = True
        if self._callback is not None:
            self._wake()

    def _wake(self) -> bool:
        try:
            self._right.pop()
        except IndexError:
            return False
        callback, context = cast("tuple[Callable[[Any], object], Context | None]", self._callback)
        with suppress(RuntimeError):  # the loop is closed, and nobody waits
            self._loop.call_soon_threadsafe(callback, self, context=context)
        return True


class _TrioWaiter:
    __slots__ = ("_lowlevel", "_task", "_token", "_waited")

    def __init__(self, waited: Waited | None) -> None:
        import trio

        self._waited = waited
        self._lowlevel = trio.lowlevel
        self._token = trio.lowlevel.current_trio_token()
        self._task: trio.lowlevel.Task | None = None

    def __await__(self) -> Generator[Any, Any, None]:
        # No other task runs between this and the suspension, so that the call from the thread finds the task waiting.
        self._task = self._lowlevel.current_task()
        return self._lowlevel.wait_task_rescheduled(self._abort).__await__()

    def _abort(self, raise_cancel: Callable[[], object]) -> Any:
        if self._waited is not None:
            self._waited.cancelled(raise_cancel)
        self._task = None
        return self._lowlevel.Abort.SUCCEEDED

    def notify(self) -> None:
        with suppress(RuntimeError):  # trio.RunFinishedError
            self._token.run_sync_soon(self._settle)

    def _settle(self) -> None:
        if self._task is not None:
            task, self._task = self._task, None
            self._lowlevel.reschedule(task)


def _raise_cancelled() -> None:
    raise asyncio.CancelledError("the task that waits for this thread was cancelled")


def new_waiter(waited: Waited | None = None) -> Waiter:
    """A waiter for the current task; ``waited`` is told of a cancellation."""
    return _TrioWaiter(waited) if is_trio() else _AsyncioWaiter(waited)


class Notified(Protocol):
    """Who is told of a job's end, in the worker."""

    def notify(self) -> None: ...


class Queue(Protocol):
    """Where a job waits for its thread."""

    def withdraw(self, job: Job[Any], /) -> bool:
        """Take a job out; ``False`` if it has begun."""
        ...


class Job(Origin, Generic[T]):
    """A function that was handed over to a worker thread; made by ``Threads.start()``."""

    __slots__ = (
        *("_changes", "_context", "_error", "_is_kept", "_queue", "_result", "_shared", "_work"),
        *("is_done", "listeners"),
    )

    is_done: bool
    """Whether the thread is done with it."""

    def __init__(self, queue: Queue, function: Callable[[*Ts], T], args: tuple[*Ts], shared: Context | None) -> None:
        self._queue = queue
        self._work: tuple[Callable[..., T], tuple[Any, ...]] | None = (function, args)
        self._context = before = copy_context()
        # A context of the caller's own is his to hand on.
        self._is_kept = shared is None
        self._shared = _take_kept(before) if shared is None else shared
        # As it says in Origin.
        self.native_token: Any = current_loop()
        self._cancel = None
        self._is_once = False
        self._scopes = ()
        self._changes: list[tuple[ContextVar[Any], Any]] = []
        self._result: object = _MISSING
        self._error: BaseException | None = None
        self.is_done = False
        self.listeners: list[Notified] = []

    async def wait(self) -> T:
        """Return or raise, once, what the function did; its changes of context variables are made here, too.

        If cancelled while the job waits for a slot, the job never runs. If cancelled later, this waits for its end
        all the same and then raises the cancellation; ``take()`` has what the function returned or raised.

        Raises:
            RuntimeError: The function raised what would steer the waiting coroutine instead of failing it, such as
                ``StopIteration`` or a cancellation; that is the ``__cause__``.
            UsageError: The threads were closed before the job began, or this was called before.
        """
        if not self.is_done:
            try:
                await self.ended()
            except GeneratorExit:
                self._queue.withdraw(self)
                raise
            except BaseException:
                await self.aclose()
                raise
        return self.take()

    async def aclose(self) -> None:
        """Give up on a job: it leaves the queue, or this waits for its end, whatever cancels."""
        if self._queue.withdraw(self):
            self.fail(UsageError("this job was given up before it began"))
            self.tell()
        else:
            await self.settle()

    async def settle(self) -> None:
        """Wait for the end, whatever cancels, and leave the outcome alone.

        A native cancellation that arrives meanwhile is raised afterwards.
        """
        await settle(self)

    async def ended(self) -> None:
        """Wait for the end, or for a cancellation."""
        waiter = new_waiter(self)
        self.listeners.append(waiter)
        if not self.is_done:
            await waiter
        else:
            self.listeners.clear()  # it was told, and the waiter refers to this

    def take(self) -> T:
        """Return or raise, once, what the function did; for a job that ``is_done``."""
        changes, self._changes = self._changes, []
        for variable, value in changes:
            variable.set(value)
        shared, self._shared = self._shared, None
        if shared is not None and self._is_kept:
            _kept.set([shared])
        if self._error is None:
            result, self._result = self._result, _MISSING
            if result is _MISSING:
                raise UsageError("the outcome of this job was taken already")
            return cast("T", result)
        # Not kept: the traceback gets this frame.
        error, self._error = self._error, None
        try:
            raise error
        finally:
            del error

    def drop(self) -> None:
        """Let go of what nobody takes: an error leads to frames of the thread, which know this."""
        self._result, self._error = _MISSING, None

    # --- in the worker -------------------------------------------------------------------------------

    def fail(self, error: BaseException) -> None:
        """End without having run."""
        self._work, self._error = None, error

    def tell(self) -> None:
        """The thread is done: wake whoever waits."""
        self.is_done = True
        listeners, self.listeners = self.listeners, []
        for listener in listeners:
            listener.notify()

    def run(self) -> None:
        """Run the function and keep what it did."""
        function, args = cast("tuple[Callable[..., T], tuple[Any, ...]]", self._work)
        before, context = self._context, self._shared
        self._work = None
        noted = self.note()
        try:
            # What of the caller's must not be seen here is no change either.
            hide_async_library(before)
            if context is None:
                self._shared = context = before.copy()
            else:
                context.run(bring, before)
            try:
                self._result = context.run(function, *args)
            finally:
                self._changes = [item for item in context.items() if before.get(item[0], _MISSING) is not item[1]]
        except BaseException as exc:
            self._error = _raisable(exc, function)
        finally:
            self.forget(noted)
            # The traceback has this frame, and the job the traceback.
            del self, function, args, before, context, noted


def _take_kept(before: Context) -> Context | None:
    """The context of the job before, unless another one runs in it, or it has variables that are unset now."""
    kept = before.get(_kept)
    if not kept:
        return None
    try:
        context = kept.pop()
    except IndexError:  # pragma: no cover - another thread took it between these two lines
        return None
    return context if all(variable in before for variable in context) else None


def forget_context() -> None:
    """No more jobs of this request: what its context variables hold may lead back to the task, and so to that."""
    kept = _kept.get(None)
    if kept is not None:
        kept.clear()


class Ending(Protocol):
    """What ends in another thread."""

    @property
    def is_done(self) -> bool: ...
    async def ended(self) -> None: ...


async def settle(job: Ending) -> None:
    """As ``Job.settle()``."""
    cancelled = None
    while not job.is_done:
        try:
            await run_shielded(job.ended(), None)
        except asyncio.CancelledError as exc:
            cancelled = exc
    if cancelled is not None:
        try:
            raise cancelled
        finally:
            del cancelled


def bring(before: Context) -> None:
    """Set the variables of the current context to what they are in another one."""
    for variable, value in before.items():
        if variable.get(_MISSING) is not value:
            variable.set(value)


def hide_async_library(context: Context) -> None:
    """Have a context that goes to another thread not say what runs in this one."""
    # anyio.run() lets it say so, and anyio believes that: there it would start no loop, or take asyncio for trio.
    sniffio: Any = sys.modules.get("sniffio")
    if sniffio is not None and context.get(sniffio.current_async_library_cvar) is not None:
        context.run(sniffio.current_async_library_cvar.set, None)


def _raisable(exc: BaseException, function: Callable[..., Any]) -> BaseException:
    """The exception, or what stands for it where it would mean something else to the coroutine that gets it."""
    steering: tuple[type[BaseException], ...] = (
        StopIteration,
        StopAsyncIteration,
        GeneratorExit,
        asyncio.CancelledError,
    )
    if "trio" in sys.modules:
        steering += (sys.modules["trio"].Cancelled,)
    if not isinstance(exc, steering):
        return exc
    error = RuntimeError(f"{getattr(function, '__qualname__', function)!s} raised {type(exc).__name__} in a thread")
    error.__cause__ = exc
    return error
