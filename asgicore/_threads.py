"""Worker threads: warm, counted, limited, and never waited for by the loop that uses them.

A job goes from the loop to a thread through a lock, and its end comes back through the loop's own way of being called
from other threads. Nothing here belongs to a loop: several loops and threads may share one ``Threads``.

Source: trio's thread cache, for idle workers that are kept without a lock.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextvars import Context
from itertools import count
from time import monotonic
from typing import Any, Final, Protocol, TypeVar, TypeVarTuple
from weakref import WeakSet

from anyio import move_on_after
from anyio.lowlevel import checkpoint_if_cancelled

from ._jobs import Job, Waiter, new_waiter
from .errors import ThreadsBusyError, UsageError

__all__ = ["Executor", "Threads"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

EXIT_SECONDS: Final = 30.0
"""How long the exit of the interpreter waits for jobs that run: what servers and process managers give a worker
before they kill it."""

_numbers = count(1)


class Executor(Protocol):
    """Whoever runs functions in threads of its own, such as ``concurrent.futures.ThreadPoolExecutor``.

    It runs every function that it takes.
    """

    def submit(self, function: Callable[..., Any], /, *args: Any) -> object: ...


class _Worker(threading.Thread):
    """A thread that runs one job after the other, and ends when it was idle for some time.

    It refers to what it shares with the others and not to the ``Threads``, so that those can be collected.
    """

    def __init__(self, threads: Threads, job: Job[Any]) -> None:
        more: dict[str, Any] = {"context": Context()} if sys.version_info >= (3, 14) else {}
        super().__init__(name=f"asgicore-{next(_numbers)}", daemon=True, **more)
        self.idle: dict[_Worker, None] = threads.idle
        self.living: set[_Worker] = threads.living
        self.idle_seconds: float = threads.idle_seconds
        self.given: tuple[Threads, Job[Any]] | None = (threads, job)
        self.is_last: bool = False
        # Released when there is a job, or when there is none because this is the end.
        self.wake: threading.Lock = threading.Lock()
        self.wake.acquire()

    def run(self) -> None:
        self.living.add(self)
        try:
            while self._work() and not self.is_last:
                if not self.wake.acquire(timeout=self.idle_seconds):
                    try:
                        del self.idle[self]
                    except KeyError:
                        self.wake.acquire()  # somebody took it out to give it a job
                    else:
                        return
        finally:
            self.idle.pop(self, None)
            self.living.discard(self)

    def _work(self) -> bool:
        if self.given is None:
            return False
        # A function of its own, so that nothing of the jobs is kept while the thread is idle.
        (threads, job), self.given = self.given, None
        following: Job[Any] | None = job
        del job
        while following is not None:
            following = threads.work(following, self)
        del threads
        return True


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
        self.begin()
        if max_threads < 1 or (max_waiting is not None and max_waiting < 0) or not idle_seconds >= 0:
            raise ValueError(
                "Threads takes max_threads of at least 1, max_waiting and idle_seconds of at least 0; "
                f"not {max_threads!r}, {max_waiting!r} and {idle_seconds!r}"
            )
        self.max_threads: int = max_threads
        self.max_waiting: int | None = max_waiting
        self.idle_seconds: float = min(idle_seconds, threading.TIMEOUT_MAX)
        self._executor = executor
        self._is_closed = False
        register(self)

    def begin(self) -> None:
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
        """Run a function in a worker thread; returns and raises what it does. As ``start()`` and ``wait()``.

        The function is finished or never begun when this returns or raises, also when cancelled. What it opens is
        lost with its result when this is cancelled, so it is to be kept where the cleanup finds it.
        """
        await checkpoint_if_cancelled()
        job = self.start(function, *args, context=context)
        try:
            return await job.wait()
        except BaseException:
            job.drop()
            raise

    def start(self, function: Callable[[*Ts], T], *args: *Ts, context: Context | None = None) -> Job[T]:
        """Hand a function over and go on; the first that came gets the next free slot.

        It sees the context variables as they are now. Errors of a job that nobody waits for are lost.

        Args:
            function: What to run.
            args: Its arguments.
            context: A context for several jobs, one after the other; it gets the caller's variables before each. If
                ``None``, jobs of one task that are waited for one after the other have one.

        Raises:
            ThreadsBusyError: ``max_waiting`` jobs wait already.
            UsageError: The threads are closed.
        """
        job = Job(self, function, args, context)
        self.submit(job, self.max_waiting)
        return job

    def submit(self, job: Job[Any], max_waiting: int | None) -> None:
        """As ``start()``, with another limit."""
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
                    self._executor.submit(self._run, [job])
                    return
                try:
                    worker, _ = self.idle.popitem()  # the last one that worked
                except KeyError:
                    _Worker(self, job).start()
                else:
                    worker.given = (self, job)
                    worker.wake.release()
                return
            except Exception as exc:
                # The system has no more threads, or the executor takes no more functions.
                job.fail(exc)
                job = self.end(job, None)

    def _run(self, jobs: list[Job[Any]]) -> None:
        # An executor gets each job on its own: it may do something around each. It may keep the list, too.
        self._launch(self.work(jobs.pop(), None))

    def work(self, job: Job[Any], worker: _Worker | None) -> Job[Any] | None:
        """Run a job here, and return the one to go on with."""
        try:
            job.run()
            return self.end(job, worker)
        finally:
            # The traceback of an error leads back to this frame, and the job to the error.
            del job

    def withdraw(self, job: Job[Any]) -> bool:
        """Take a job out of the queue; ``False`` if it has begun."""
        with self._lock:
            return self._waiting.pop(job, False) is None

    def end(self, job: Job[Any], worker: _Worker | None) -> Job[Any] | None:
        """Free the slot of a job and tell whoever waits for it; returns the next one to run, which has the slot."""
        following = self._free(job, worker)
        job.tell()
        return following

    def _free(self, job: Job[Any], worker: _Worker | None) -> Job[Any] | None:
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

        Jobs that have not begun by then fail with ``UsageError``. Returns whether all have ended.
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


class Pool(Protocol):
    """Threads that end with the process."""

    def begin(self) -> None:
        """There are no threads, as in the child of a fork."""
        ...

    def exit(self) -> Sequence[threading.Thread]:
        """Take no more work; returns the threads that are there."""
        ...


_all: WeakSet[Pool] = WeakSet()


def register(pool: Pool) -> None:
    """Have a pool end with the process, and begin anew in the child of a fork."""
    _all.add(pool)


def _exit() -> None:
    deadline = monotonic() + EXIT_SECONDS
    # Asked again: what waited for a thread may have begun meanwhile.
    while (workers := [worker for pool in list(_all) for worker in pool.exit()]) and monotonic() < deadline:
        workers[0].join(max(deadline - monotonic(), 0))


def _forget() -> None:
    for threads in list(_all):
        threads.begin()


SHARED: Final = Threads()
"""For what no handler looks after."""

atexit.register(_exit)
if hasattr(os, "register_at_fork"):  # pragma: no branch - not on Windows
    os.register_at_fork(after_in_child=_forget)
