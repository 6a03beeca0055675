# pyright: basic
# Django has no types of its own.
"""Warm threads for Django's synchronous code, each lent to one request at a time.

Django keeps a database connection per thread, and middleware may keep more there. So a request that runs synchronous
code borrows a thread, runs everything in that one, and gives it back when all is closed; the next request finds the
connections open, as under a threaded WSGI server.

A request that borrowed a thread may wait for long in asynchronous code. Its thread is nobody else's meanwhile, but
while others wait, it does not count: else forty long polls would be all that a site can hold, and a view that waits for
another request of the same site would wait for ever.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextvars import Context
from itertools import count
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, Final, cast
from weakref import WeakSet, ref

from .._spool import in_file_thread
from .._threads import register
from ._job import FutureJob, Job, WaitedJob

_numbers = count(1)

_TICK_SECONDS: Final = 0.02
_PARKED_TICKS: Final = 3
"""A thread whose request has not used it for so many looks waits in asynchronous code. Looks are turns of the loop,
too, so that a request that is merely held up by a busy loop is not taken for one."""


class Worker(threading.Thread):
    """A thread that runs the jobs of one lease after the other."""

    def __init__(self, workers: Workers) -> None:
        more: dict[str, Any] = {"context": Context()} if sys.version_info >= (3, 14) else {}
        super().__init__(name=f"asgicore-django-{next(_numbers)}", daemon=True, **more)
        # Refers to what it shares with the others and not to the Workers, so that those can be collected.
        self.workers: ref[Workers] = ref(workers)
        self.alive_threads: set[Worker] = workers.alive_threads
        self.idle_seconds: float = workers.idle_seconds
        self.look: Callable[[], tuple[bool, bool, bool]] = workers.look
        self.forget: Callable[[], object] = workers.forget
        self.jobs: SimpleQueue[tuple[Lease, Job] | None] = SimpleQueue()
        self.is_used: bool = False
        """Whether the thread has database connections, open or not."""
        self.is_open: bool = False
        """Whether one of them is open."""
        self.is_pristine: bool = True
        """Whether none of them is within a transaction."""

    def run(self) -> None:
        try:
            while True:
                try:
                    given = self.jobs.get(timeout=self.idle_seconds)
                except Empty:
                    workers = self.workers()
                    if workers is None or workers.retire(self):
                        return
                    del workers
                    continue
                if given is None:
                    return
                self._work(*given)
                del given
        finally:
            try:
                self.forget()
            finally:
                self.alive_threads.discard(self)

    def _work(self, lease: Lease, job: Job) -> None:
        prepare = None
        if job.is_kept or job.is_wanted:
            prepare, lease.prepare = lease.prepare, None
        # A thread that has no connections has nothing to prepare.
        job.run(prepare if self.is_used else None)
        del prepare
        try:
            self.is_used, self.is_open, self.is_pristine = self.look()
        except Exception:
            # A database that cannot be asked is looked after as one that is open.
            self.is_used, self.is_open, self.is_pristine = True, True, False
        # Before the loop hears of it: what it does next may be giving the thread back.
        lease.ended()
        job.tell()


class Lease:
    """The thread of one request, borrowed when it first runs synchronous code; what asgiref submits to.

    Args:
        workers: Where it is borrowed.
    """

    __slots__ = (
        "__weakref__",
        "_workers",
        "gives_back",
        "has_foreign_jobs",
        "idle_ticks",
        "is_parked",
        "is_released",
        "keeps",
        "last",
        "pending",
        "prepare",
        "running",
        "was_parked",
        "worker",
    )

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self.worker: Worker | None = None
        """The thread, while there is one."""
        self.last: Worker | None = None
        """The thread that there was before, which the next one should be, too."""
        self.prepare: Callable[[], object] | None = None
        """Called in the thread before the first job."""
        self.keeps: bool = False
        """Whether jobs run whatever cancels the request: it is being closed."""
        self.pending: list[Job] = []
        """Waiting for a thread, or for the right to run in it."""
        self.running: int = 0
        """Jobs that were handed to the thread and have not ended."""
        self.idle_ticks: int = 0
        self.is_parked: bool = False
        self.was_parked: bool = False
        """Whether it has shown that it waits in asynchronous code."""
        self.has_foreign_jobs: bool = False
        """Whether code of the site has run something in the thread by itself, and may have left it open."""
        self.gives_back: bool = False
        """Whether the thread goes back as soon as it is idle."""
        self.is_released: bool = False
        """Whether that is for good."""

    def submit(self, function: Callable[..., Any], /, *args: Any) -> asyncio.Future[Any]:
        """Run a function in the request's thread, after those before it; what ``run_in_executor`` calls.

        A future of the loop's own, which asyncio takes as it is: one of ``concurrent.futures`` has to be wrapped, and
        costs a third of the whole hop.

        Raises:
            RuntimeError: The request is over, or the threads are closed.
        """
        self.has_foreign_jobs = True
        job = FutureJob(function, args, self.keeps)
        future = cast("asyncio.Future[Any]", job.future)
        self._workers.run(self, job)
        return future

    def start(self, function: Callable[..., Any], /, *args: Any) -> WaitedJob:
        """As ``submit()``, for one task to wait for."""
        job = WaitedJob(function, args, self.keeps)
        self._workers.run(self, job)
        return job

    def drop_cancelled(self) -> None:
        """Leave the queue, if nobody waits any more for what is in it."""
        self._workers.drop_cancelled(self)

    def submit_last(self, function: Callable[..., Any], /, *args: Any) -> None:
        """Run a function in the request's thread if it has one, and wait for nothing; in a finalizer, too."""
        self._workers.finish(self, Job(function, args, True))

    def ended(self) -> None:
        """A job has ended; in the thread."""
        self._workers.ended(self)

    @property
    def is_busy(self) -> bool:
        """Whether a job runs or waits."""
        return bool(self.running or self.pending)

    def give_back(self) -> None:
        """Give the thread back as soon as it has done what it was given; another can be borrowed."""
        self.gives_back = True
        self._workers.give_back(self)

    def release(self) -> None:
        """As ``give_back()``, for good."""
        # Before the look: whoever borrows a thread just now, elsewhere, gives it back at the end of that job.
        self.is_released = True
        if self.worker is not None or self.pending:
            self._workers.give_back(self)


class Workers:
    """A limited number of threads for requests that run synchronous code, and a queue before them.

    Args:
        max_workers: How many requests have a thread at once. Threads of requests that wait in asynchronous code
            while others wait for a thread do not count.
        look: Tells, in a worker, whether there is something of it that lasts, whether that is open, and in order.
        forget: Called in a thread that ends.
        idle_seconds: An idle thread ends after this time, and its connections with it. 60: long enough for the pauses
            of a site, short enough for a database that has better things to do.

    Raises:
        ValueError: ``max_workers`` is below 1.
    """

    def __init__(
        self,
        max_workers: int = 40,
        *,
        look: Callable[[], tuple[bool, bool, bool]] = lambda: (False, False, True),
        forget: Callable[[], object] = lambda: None,
        idle_seconds: float = 60.0,
    ) -> None:
        if isinstance(max_workers, bool) or not isinstance(max_workers, int) or max_workers < 1:
            raise ValueError(f"max_workers takes a number of threads of at least 1, not {max_workers!r}")
        self.max_workers: int = max_workers
        self.idle_seconds: float = idle_seconds
        self.look = look
        self.forget = forget
        self.begin()
        register(self)

    def begin(self) -> None:
        """Nothing runs, nothing waits: at first, and in the child of a fork, which has none of the threads."""
        self._lock = threading.Lock()
        self._idle: list[Worker] = []
        self._held: set[Lease] = set()
        self._parked = 0
        # Those who have a thread and want to go on in it, and those who have none.
        self._returning: deque[Lease] = deque()
        self._waiting: deque[Lease] = deque()
        # What a finalizer wants done, which may run where the lock is held: whoever holds it does that.
        self._errands: deque[tuple[Lease, Job | None]] = deque()
        self._is_turn_of_new = True
        self._is_closed = False
        self._ticking: WeakSet[asyncio.AbstractEventLoop] = WeakSet()
        self.alive_threads: set[Worker] = set()

    @property
    def alive(self) -> int:
        """How many threads there are."""
        return len(self.alive_threads)

    @property
    def in_use(self) -> int:
        """How many requests have a thread that counts."""
        return len(self._held) - self._parked

    @property
    def waiting(self) -> int:
        """How many requests wait for a thread."""
        return len(self._waiting) + len(self._returning)

    # --- for leases ----------------------------------------------------------------------------------

    def run(self, lease: Lease, job: Job) -> None:
        """Hand a job to the thread of a lease, or let it wait for one."""
        try:
            with self._lock:
                if lease.is_released:
                    raise RuntimeError("the request is over; synchronous code can be run in its thread no more")
                lease.idle_ticks = 0
                lease.gives_back = False
                if lease.worker is not None and not lease.is_parked and not lease.pending:
                    lease.running += 1
                    lease.worker.jobs.put((lease, job))
                elif self._is_closed and lease.worker is None and not job.is_kept:
                    raise RuntimeError("the worker threads are closed; no more requests are taken")
                else:
                    lease.pending.append(job)
                    if len(lease.pending) == 1:
                        self._ask(lease)
        finally:
            if self._errands:
                self._run_errands()

    def _ask(self, lease: Lease) -> None:
        """Admit a lease, or have it wait."""
        if len(self._held) - self._parked < self.max_workers:
            try:
                self._admit(lease)
            except BaseException:
                lease.pending.clear()
                raise
            return
        (self._returning if lease.is_parked else self._waiting).append(lease)
        loop = asyncio.get_running_loop()
        if loop not in self._ticking:
            self._ticking.add(loop)
            loop.call_later(_TICK_SECONDS, self._tick, loop)

    def _admit(self, lease: Lease) -> None:
        """Let a lease have a thread that counts."""
        if lease.is_parked:
            lease.is_parked = False
            self._parked -= 1
        else:
            lease.worker = self._thread(lease)
            self._held.add(lease)
        worker = lease.worker
        assert worker is not None  # a parked lease has kept its own
        while lease.pending:
            lease.running += 1
            worker.jobs.put((lease, lease.pending.pop(0)))

    def _thread(self, lease: Lease) -> Worker:
        if self._idle:
            if lease.last in self._idle:
                self._idle.remove(lease.last)
                return lease.last
            return self._idle.pop()  # the last one that worked
        worker = Worker(self)
        worker.start()
        # Not before: nobody can wait for the end of a thread that has not begun. It waits for its first job.
        self.alive_threads.add(worker)
        return worker

    def ended(self, lease: Lease) -> None:
        """A job of a lease has ended; in its thread."""
        with self._lock:
            lease.running -= 1
            lease.idle_ticks = 0
            self._take_back(lease)
            if lease.was_parked and lease.worker is not None and not lease.is_busy and not lease.is_parked:
                self._park(lease)
                self._admit_waiting()
        if self._errands:
            self._run_errands()

    def drop_cancelled(self, lease: Lease) -> None:
        """Let a lease that has no thread leave the queue, if nobody waits for its jobs."""
        with self._lock:
            if lease.worker is None and lease.pending and not any(it.is_kept or it.is_wanted for it in lease.pending):
                lease.pending.clear()
                self._waiting.remove(lease)
        if self._errands:
            self._run_errands()

    def give_back(self, lease: Lease) -> None:
        """Take the thread of a lease as soon as it is idle."""
        self._errands.append((lease, None))
        self._run_errands()

    def finish(self, lease: Lease, job: Job) -> None:
        """Hand a last job to the thread of a lease."""
        self._errands.append((lease, job))
        self._run_errands()

    def _run_errands(self) -> None:
        # Whoever finds the lock held leaves it to the holder, who looks after letting go of it.
        while self._errands and self._lock.acquire(blocking=False):
            try:
                while self._errands:
                    lease, job = self._errands.popleft()
                    if job is not None and lease.worker is not None:
                        lease.running += 1
                        lease.worker.jobs.put((lease, job))
                    else:
                        self._take_back(lease)
            finally:
                self._lock.release()

    def _take_back(self, lease: Lease) -> None:
        """Take the thread of a lease that gives it back and does not use it."""
        if not (lease.is_released or lease.gives_back):
            return
        if lease.is_released and lease.worker is None and lease.pending and not any(it.is_kept for it in lease.pending):
            # Tasks that outlive their request may wait for these.
            _fail_all(lease, RuntimeError("the request is over; synchronous code can be run in its thread no more"))
            self._waiting.remove(lease)
        worker = lease.worker
        if worker is None or lease.is_busy or not (lease.is_released or worker.is_pristine):
            return
        lease.worker, lease.last = None, worker
        self._held.discard(lease)
        if lease.is_parked:
            lease.is_parked = False
            self._parked -= 1
        if self._is_closed or not worker.is_pristine or len(self._idle) >= self.max_workers:
            # A transaction that was left open would be the next request's; it ends with the thread.
            worker.jobs.put(None)
        else:
            self._idle.append(worker)
        self._admit_waiting()

    def _admit_waiting(self) -> None:
        while (self._returning or self._waiting) and len(self._held) - self._parked < self.max_workers:
            # In turn, so that neither those who come back nor those who are new wait for the others for ever.
            if self._returning and self._waiting:
                self._is_turn_of_new = not self._is_turn_of_new
            is_new = self._is_turn_of_new if self._returning and self._waiting else bool(self._waiting)
            lease = (self._waiting if is_new else self._returning).popleft()
            try:
                self._admit(lease)
            except RuntimeError as exc:  # the system has no more threads
                _fail_all(lease, exc)

    def _park(self, lease: Lease) -> None:
        """Have the thread of a lease not count, until it is used again."""
        lease.is_parked = lease.was_parked = True
        self._parked += 1

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look after the threads that are not used as long as somebody waits."""
        with self._lock:
            if self._returning or self._waiting:
                for lease in self._held:
                    if not lease.is_busy and not lease.is_parked:
                        lease.idle_ticks += 1
                        if lease.idle_ticks >= _PARKED_TICKS:
                            self._park(lease)
                self._admit_waiting()
            if self._returning or self._waiting:
                loop.call_later(_TICK_SECONDS, self._tick, loop)
            else:
                self._ticking.discard(loop)
        if self._errands:
            self._run_errands()

    # --- for threads ---------------------------------------------------------------------------------

    def retire(self, worker: Worker) -> bool:
        """Whether an idle thread may end."""
        with self._lock:
            is_idle = worker in self._idle  # or it was just borrowed
            if is_idle:
                self._idle.remove(worker)
        if self._errands:
            self._run_errands()
        return is_idle

    # --- the end -------------------------------------------------------------------------------------

    async def aclose(self, seconds: float = 10.0) -> bool:
        """Take no more requests, end the idle threads, and wait for the others, for so long at most.

        Returns whether all have ended.
        """
        self.exit()
        await in_file_thread(_join, self.alive_threads, seconds)
        return not self.alive_threads

    def exit(self) -> list[Worker]:
        """Take no more requests and end the idle threads; returns those that are there."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
            workers = list(self.alive_threads)
        if self._errands:
            self._run_errands()
        for worker in idle:
            worker.jobs.put(None)
        return workers

    def __del__(self) -> None:
        for worker in getattr(self, "_idle", ()):
            worker.jobs.put(None)


def _fail_all(lease: Lease, error: RuntimeError) -> None:
    for job in lease.pending:
        job.fail(error)
        job.tell()
    lease.pending.clear()


def _join(threads: set[Worker], seconds: float) -> None:
    """Wait for all threads, those included that begin meanwhile."""
    deadline = monotonic() + seconds
    while threads and (left := deadline - monotonic()) > 0:
        for thread in list(threads)[:1]:
            thread.join(left)
