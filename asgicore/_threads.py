"""Worker threads: warm, counted, limited, and never waited for by the loop that uses them.

A job goes from the loop to a thread through a lock, and its end comes back through the loop's own way of being called
from other threads. Nothing here belongs to a loop: several loops and threads may share one :class:`Threads`.

Source: PEP 479 and PEP 567 for what cannot be raised in a coroutine and for contexts; trio's thread cache for idle
workers that need no lock of their own.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Generator
from contextlib import suppress
from contextvars import Context, ContextVar, copy_context
from itertools import count
from time import monotonic
from typing import Any, Final, Generic, Protocol, TypeVar, TypeVarTuple, cast
from weakref import WeakSet

from anyio import move_on_after
from anyio.lowlevel import checkpoint_if_cancelled

from ._watch import is_trio, run_shielded
from .errors import ThreadsBusyError, UsageError

__all__ = ["Executor", "Job", "Threads"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

EXIT_SECONDS: Final = 30.0
"""How long the exit of the interpreter waits for jobs that run: what servers and process managers give a worker
before they kill it."""

_MISSING: Final = object()
_numbers = count(1)


class Executor(Protocol):
    """Whoever runs functions in threads of its own, such as ``concurrent.futures.ThreadPoolExecutor``.

    It runs every function that it takes.
    """

    def submit(self, function: Callable[..., Any], /, *args: Any) -> object: ...


class Waiter(Protocol):
    """What one task waits for, once, and any thread may call."""

    def __await__(self) -> Generator[Any, Any, None]: ...
    def notify(self) -> None: ...


class _AsyncioWaiter:
    __slots__ = ("_future", "_loop")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[None] = self._loop.create_future()

    def __await__(self) -> Generator[Any, Any, None]:
        return self._future.__await__()

    def notify(self) -> None:
        with suppress(RuntimeError):  # the loop is closed, and nobody waits
            self._loop.call_soon_threadsafe(self._settle)

    def _settle(self) -> None:
        if not self._future.done():
            self._future.set_result(None)


class _TrioWaiter:
    __slots__ = ("_lowlevel", "_task", "_token")

    def __init__(self) -> None:
        import trio

        self._lowlevel = trio.lowlevel
        self._token = trio.lowlevel.current_trio_token()
        self._task: trio.lowlevel.Task | None = None

    def __await__(self) -> Generator[Any, Any, None]:
        # No other task runs between this and the suspension, so that the call from the thread finds the task waiting.
        self._task = self._lowlevel.current_task()
        return self._lowlevel.wait_task_rescheduled(self._abort).__await__()

    def _abort(self, _: object) -> Any:
        self._task = None
        return self._lowlevel.Abort.SUCCEEDED

    def notify(self) -> None:
        with suppress(RuntimeError):  # trio.RunFinishedError
            self._token.run_sync_soon(self._settle)

    def _settle(self) -> None:
        if self._task is not None:
            task, self._task = self._task, None
            self._lowlevel.reschedule(task)


def new_waiter() -> Waiter:
    """A waiter for the current task."""
    return _TrioWaiter() if is_trio() else _AsyncioWaiter()


class Notified(Protocol):
    """Who is told of a job's end, in the worker."""

    def notify(self) -> None: ...


class Job(Generic[T]):
    """A function that was handed over to a worker thread; made by :meth:`Threads.start`."""

    __slots__ = ("_changes", "_context", "_error", "_result", "_shared", "_threads", "_work", "is_done", "listeners")

    is_done: bool
    """Whether the thread is done with it."""

    def __init__(
        self, threads: Threads, function: Callable[[*Ts], T], args: tuple[*Ts], shared: Context | None
    ) -> None:
        self._threads = threads
        self._work: tuple[Callable[..., T], tuple[Any, ...]] | None = (function, args)
        self._context = copy_context()
        self._shared = shared
        self._changes: list[tuple[ContextVar[Any], Any]] = []
        self._result: T | None = None
        self._error: BaseException | None = None
        self.is_done = False
        self.listeners: list[Notified] = []

    async def wait(self) -> T:
        """Return or raise, once, what the function did; its changes of context variables are made here, too.

        If cancelled while the job waits for a slot, the job never runs. If cancelled later, this waits for its end
        all the same and then raises the cancellation; what the function returned or raised is lost.

        Raises:
            RuntimeError: The function raised what would steer the waiting coroutine instead of failing it, such as
                ``StopIteration`` or a cancellation; that is the ``__cause__``.
            UsageError: The threads were closed before the job began, or this was called before.
        """
        if not self.is_done:
            try:
                await self._ended()
            except GeneratorExit:
                self._threads.withdraw(self)
                raise
            except BaseException:
                await self.aclose()
                raise
        return self._take()

    async def aclose(self) -> None:
        """Give up on a job: it leaves the queue, or this waits for its end, whatever cancels."""
        if self._threads.withdraw(self):
            self.fail(UsageError("this job was given up before it began"))
            self.tell()
        else:
            await self.settle()

    async def settle(self) -> None:
        """Wait for the end, whatever cancels, and leave the outcome alone.

        A native cancellation that arrives meanwhile is raised afterwards.
        """
        cancelled = None
        while not self.is_done:
            try:
                await run_shielded(self._ended(), None)
            except asyncio.CancelledError as exc:
                cancelled = exc
        if cancelled is not None:
            try:
                raise cancelled
            finally:
                del cancelled

    async def _ended(self) -> None:
        waiter = new_waiter()
        self.listeners.append(waiter)
        if not self.is_done:
            await waiter

    def _take(self) -> T:
        changes, self._changes = self._changes, []
        for variable, value in changes:
            variable.set(value)
        if self._error is None:
            result, self._result, self._error = self._result, None, UsageError("the outcome of this job was taken")
            return cast("T", result)
        # Not kept: the traceback gets this frame.
        error, self._error = self._error, UsageError("the outcome of this job was taken")
        try:
            raise error
        finally:
            del error

    # --- in the worker -------------------------------------------------------------------------------

    def run(self, worker: _Worker | None) -> Job[Any] | None:
        """Run the function, tell whoever waits, and return the job that the worker goes on with."""
        self._call()
        following = self._threads.end(self, worker)
        self.tell()
        return following

    def fail(self, error: BaseException) -> None:
        """End without having run."""
        self._work, self._error = None, error

    def tell(self) -> None:
        self.is_done = True
        listeners, self.listeners = self.listeners, []
        for listener in listeners:
            listener.notify()

    def _call(self) -> None:
        function, args = cast("tuple[Callable[..., T], tuple[Any, ...]]", self._work)
        before, shared = self._context, self._shared
        self._work = self._shared = None
        try:
            # What of the caller's must not be seen here is no change either.
            _hide_async_library(before)
            context = before.copy() if shared is None else shared
            if shared is not None:
                shared.run(_bring, before)
            try:
                self._result = context.run(function, *args)
            finally:
                self._changes = [item for item in context.items() if before.get(item[0], _MISSING) is not item[1]]
        except BaseException as exc:
            self._error = _raisable(exc, function)
        finally:
            # The traceback has this frame, and the job the traceback.
            del self, function, args, before, shared


def _bring(before: Context) -> None:
    for variable, value in before.items():
        if variable.get(_MISSING) is not value:
            variable.set(value)


def _hide_async_library(context: Context) -> None:
    # anyio.run() lets the context say what runs, and would not start a loop in a thread that inherits it.
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


class _Worker(threading.Thread):
    """A thread that runs one job after the other, and ends when it was idle for some time.

    It refers to what it shares with the others and not to the ``Threads``, so that those can be collected.
    """

    def __init__(self, threads: Threads, job: Job[Any]) -> None:
        more: dict[str, Any] = {"context": Context()} if sys.version_info >= (3, 14) else {}
        super().__init__(name=f"asgicore-{next(_numbers)}", daemon=True, **more)
        self.idle, self.living, self.idle_seconds = threads.idle, threads.living, threads.idle_seconds
        self.job: Job[Any] | None = job
        self.is_last = False
        # Released when there is a job, or when there is none because this is the end.
        self.wake = threading.Lock()
        self.wake.acquire()

    def run(self) -> None:
        self.living.add(self)
        try:
            job, self.job = self.job, None
            while job is not None:
                while job is not None:
                    job = job.run(self)
                if self.is_last:
                    return
                if not self.wake.acquire(timeout=self.idle_seconds):
                    try:
                        del self.idle[self]
                    except KeyError:
                        self.wake.acquire()  # somebody took it out to give it a job
                    else:
                        return
                job, self.job = self.job, None
        finally:
            self.idle.pop(self, None)
            self.living.discard(self)


class Threads:
    """A limited number of worker threads, and a queue before them.

    Args:
        max_threads: How many jobs run at once. 40: what anyio and Starlette give, enough for code that waits for
            databases, and few enough for their connections.
        max_waiting: How many more may wait; beyond it: 503. 1,000: where a job takes a second, the last of them waits
            for 25, a little less than clients do. ``None``: any number.
        idle_seconds: An idle worker ends after this time. 10: the pauses of a busy site are shorter.
        executor: Runs the jobs instead of workers of its own; limit and queue stay.

    Raises:
        ValueError: ``max_threads`` is below 1, or another number below 0.
    """

    __slots__ = (
        "__weakref__",
        "_closing",
        "_executor",
        "_is_closed",
        "_lock",
        "_running",
        "_waiting",
        "idle",
        "idle_seconds",
        "living",
        "max_threads",
        "max_waiting",
    )

    def __init__(
        self,
        max_threads: int = 40,
        *,
        max_waiting: int | None = 1000,
        idle_seconds: float = 10.0,
        executor: Executor | None = None,
    ) -> None:
        self._begin()
        if max_threads < 1 or (max_waiting is not None and max_waiting < 0) or not idle_seconds >= 0:
            raise ValueError(
                "Threads takes max_threads of at least 1, max_waiting and idle_seconds of at least 0; "
                f"not {max_threads!r}, {max_waiting!r} and {idle_seconds!r}"
            )
        self.max_threads = max_threads
        self.max_waiting = max_waiting
        self.idle_seconds = min(idle_seconds, threading.TIMEOUT_MAX)
        self._executor = executor
        self._is_closed = False
        _all.add(self)

    def _begin(self) -> None:
        """Nothing runs, nothing waits: at first, and in the child of a fork, which has none of the threads."""
        self._lock = threading.Lock()
        self._running: set[Job[Any]] = set()
        self._waiting: OrderedDict[Job[Any], None] = OrderedDict()
        self._closing: list[Waiter] = []
        # Changed by one operation at a time, so that no lock is needed: a finalizer must not wait for one.
        self.idle: dict[_Worker, None] = {}
        self.living: set[_Worker] = set()

    @property
    def in_use(self) -> int:
        """How many jobs run."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """How many jobs wait for a slot."""
        return len(self._waiting)

    @property
    def alive(self) -> int:
        """How many worker threads there are, the idle ones included; none of an executor's."""
        return len(self.living)

    async def run(self, function: Callable[[*Ts], T], *args: *Ts, context: Context | None = None) -> T:
        """Run a function in a worker thread; returns and raises what it does. As :meth:`start` and ``wait()``.

        The function is finished or never begun when this returns or raises, also when cancelled. What it opens is
        lost with its result when this is cancelled, so it is to be kept where the cleanup finds it.
        """
        await checkpoint_if_cancelled()
        return await self.start(function, *args, context=context).wait()

    def start(self, function: Callable[[*Ts], T], *args: *Ts, context: Context | None = None) -> Job[T]:
        """Hand a function over and go on; the first that came gets the next free slot.

        It sees the context variables as they are now. Errors of a job that nobody waits for are lost.

        Args:
            function: What to run.
            args: Its arguments.
            context: A context for several jobs, one after the other, so that a token from one is good in the next;
                it gets the caller's variables before each.

        Raises:
            ThreadsBusyError: ``max_waiting`` jobs wait already.
            UsageError: The threads are closed.
        """
        job = Job(self, function, args, context)
        self.submit(job, self.max_waiting)
        return job

    def submit(self, job: Job[Any], max_waiting: int | None) -> None:
        """As :meth:`start`, with another limit."""
        with self._lock:
            if self._is_closed:
                raise UsageError("these threads are closed; no more jobs can be started")
            if len(self._running) >= self.max_threads:
                if max_waiting is not None and len(self._waiting) >= max_waiting:
                    raise ThreadsBusyError(len(self._waiting))
                self._waiting[job] = None
                return
            self._running.add(job)
        self._launch(job)

    def _launch(self, job: Job[Any] | None) -> None:
        while job is not None:
            try:
                if self._executor is not None:
                    self._executor.submit(self._run, job)
                    return
                try:
                    worker, _ = self.idle.popitem()  # the last one that worked
                except KeyError:
                    _Worker(self, job).start()
                else:
                    worker.job = job
                    worker.wake.release()
                return
            except Exception as exc:
                # The system has no more threads, or the executor takes no more functions.
                job.fail(exc)
                failed, job = job, self.end(job, None)
                failed.tell()

    def _run(self, job: Job[Any]) -> None:
        # An executor gets each job on its own: it may do something around each.
        self._launch(job.run(None))

    def withdraw(self, job: Job[Any]) -> bool:
        """Take a job out of the queue; ``False`` if it has begun."""
        with self._lock:
            return self._waiting.pop(job, _MISSING) is None

    def end(self, job: Job[Any], worker: _Worker | None) -> Job[Any] | None:
        """Free the slot of a job; returns the next one to run, which has the slot."""
        closing: list[Waiter] = []
        with self._lock:
            self._running.discard(job)
            if self._waiting:
                following, _ = self._waiting.popitem(last=False)
                self._running.add(following)
                return following
            if self._is_closed:
                if not self._running:
                    closing, self._closing = self._closing, closing
                if worker is not None:
                    worker.is_last = True
            elif worker is not None:
                # Before the loop hears of the end, so that the next job finds this worker.
                worker.idle[worker] = None
        for waiter in closing:
            waiter.notify()
        return None

    async def aclose(self, seconds: float = 10.0) -> bool:
        """Take no more jobs, end the idle workers, and wait for the jobs that were taken, for so long at most.

        Jobs that have not begun by then fail with :exc:`UsageError`. Returns whether all have ended.
        """
        with self._lock:
            self._is_closed = True
        self._retire()
        try:
            with move_on_after(seconds):
                while self._running:
                    waiter = new_waiter()
                    self._closing.append(waiter)
                    if self._running:
                        await waiter
        finally:
            self._drop()
        return not self._running

    def _drop(self) -> None:
        with self._lock:
            jobs, self._waiting = self._waiting, OrderedDict()
        for job in jobs:
            job.fail(UsageError("these threads were closed before the job began"))
            job.tell()

    def _retire(self) -> None:
        while True:
            try:
                worker, _ = self.idle.popitem()
            except KeyError:
                return
            worker.wake.release()  # and no job: it ends

    def exit(self) -> list[_Worker]:
        """Take no more jobs, forget those that wait, end the idle workers; returns those that are there."""
        with self._lock:
            self._is_closed = True
        self._drop()
        workers = list(self.living)
        self._retire()
        return workers

    def __del__(self) -> None:
        self._retire()


_all: WeakSet[Threads] = WeakSet()


def _exit() -> None:
    deadline = monotonic() + EXIT_SECONDS
    for worker in [worker for threads in list(_all) for worker in threads.exit()]:
        worker.join(max(deadline - monotonic(), 0))


def _forget() -> None:
    for threads in list(_all):
        threads._begin()


atexit.register(_exit)
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forget)
