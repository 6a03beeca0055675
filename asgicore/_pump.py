"""A synchronous producer in one worker thread for its whole life, drained by the loop.

What is ready goes out at once; what is not sent yet is bounded in bytes; a hop is paid when one side has to wait, and
not for every part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from threading import Lock
from typing import Any, Final, Generic, Protocol, TypeVar, cast

from ._jobs import Ending, Job, Waiter, new_waiter
from ._threads import Threads
from .errors import ClientDisconnectedError, UsageError

__all__ = ["Producing", "Pump", "Put", "close", "iterate"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

MAX_BYTES: Final = 768 * 2**10
"""How far a producer runs ahead: twelve messages of the usual size. With four, 64 MiB take twice the time, spent on
waking one side after the other."""

# What a part costs at least, so that tiny and empty ones are bounded in number, too: about an object and its places.
PART_BYTES: Final = 64


class Put(Protocol):
    """What a producer is called with."""

    def __call__(self, part: bytes | str, /) -> None:
        """Pass a part on; waits while too much is ahead of the consumer.

        Raises:
            ClientDisconnectedError: Nobody takes parts any more.
        """
        ...

    @property
    def is_closed(self) -> bool:
        """Whether nobody takes parts any more: clean up and return."""
        ...


class Producing(Ending, Protocol[T_co]):
    """A producer at work."""

    def cancelled(self, cancel: Callable[[], object], is_once: bool) -> None:
        """As of ``Origin``."""
        ...

    def told(self) -> None:
        """As of ``Origin``."""
        ...

    async def settle(self) -> None:
        """As ``Job.settle()``."""
        ...

    def take(self) -> T_co:
        """As ``Job.take()``."""
        ...


class Pump(Generic[T]):
    """An async iterator over the parts that ``produce`` puts; for one consumer.

    ``produce`` is called in a worker thread at the first ``anext()``, with what puts a part; one thread at a time may
    call that. Errors of ``produce`` are raised after the parts before them. ``aclose()`` is for the consumer to call
    in every case: if nothing was asked for by then, ``produce`` is called with ``is_closed`` true, to clean up.

    Args:
        threads: Where it runs.
        produce: The producer.
        max_bytes: How many bytes may be ahead of the consumer; a larger part is let through alone.
    """

    __slots__ = (
        "_ahead",
        "_batch",
        "_gate",
        "_is_closed",
        "_is_over",
        "_job",
        "_lock",
        "_max_bytes",
        "_needed",
        "_owed",
        "_parts",
        "_produce",
        "_result",
        "_threads",
        "_waiter",
    )

    def __init__(self, threads: Threads, produce: Callable[[Put], T], max_bytes: int = MAX_BYTES) -> None:
        self._threads = threads
        self._produce: Callable[[Put], T] | None = produce
        self._max_bytes = max_bytes
        self._job: Producing[T] | None = None
        self._result: T | None = None
        self._is_over = False
        # This guards what follows.
        self._lock = Lock()
        # Closed while the producer waits.
        self._gate: Lock | None = None
        self._parts: list[bytes | str] = []
        self._ahead = 0
        self._needed = 0
        self._waiter: Waiter | None = None
        self._is_closed = False
        # The consumer's own: parts in reverse order, and what of them was taken but not reported yet.
        self._batch: list[bytes | str] = []
        self._owed = 0

    # --- in the worker -------------------------------------------------------------------------------

    def __call__(self, part: bytes | str, /) -> None:
        if type(part) is not bytes and not isinstance(part, (bytes, str)):
            if not isinstance(part, (bytearray, memoryview)):
                raise TypeError(f"a body takes parts of bytes or str, not {type(part).__name__}")
            part = bytes(part)  # the producer may use its buffer again
        cost = len(part)
        self._pass_on(part, cost if cost > PART_BYTES else PART_BYTES)

    def _pass_on(self, part: Any, cost: int) -> None:
        with self._lock:
            while self._ahead and self._ahead + cost > self._max_bytes and not self._is_closed:
                self._needed = cost
                self._wait()
            if self.is_closed:
                raise ClientDisconnectedError
            self._ahead += cost
            self._parts.append(part)
            waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.notify()

    def _wait(self, seconds: float = -1) -> None:
        """Wait for the consumer, with the lock held before and after. A ``Condition`` is twenty times as dear."""
        gate = self._gate
        if gate is None:
            gate = self._gate = Lock()
            gate.acquire()
        self._lock.release()
        try:
            if gate.acquire(timeout=seconds):
                gate.release()  # whoever else waits comes through as well
        finally:
            self._lock.acquire()

    def _wake(self) -> None:
        """Let the producer go on, if it waits; with the lock held."""
        if self._gate is not None:
            self._gate.release()
            self._gate = None

    @property
    def is_closed(self) -> bool:
        """Whether ``aclose()`` was called; asked in the thread, which may await something to clean up then."""
        if self._is_closed and self._job is not None:
            self._job.told()
        return self._is_closed

    def notify(self) -> None:
        """The producer has ended."""
        with self._lock:
            waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.notify()

    # --- on the loop ---------------------------------------------------------------------------------

    def __aiter__(self) -> Pump[T]:
        return self

    def start_thread(self) -> None:
        """Have a thread begin, ahead of the first ``anext()``.

        Raises:
            ThreadsBusyError: Too many wait for a thread.
        """
        if self._job is None:
            self._start(self._threads.max_waiting)

    async def __anext__(self) -> bytes | str:
        """Return the next part.

        Raises:
            StopAsyncIteration: ``produce`` has returned, or the pump is closed.
            ThreadsBusyError: Too many wait for a thread.
            Exception: What ``produce`` raised.
        """
        batch = self._batch
        if not batch:
            batch = await self._next_batch()
            if not batch:
                raise StopAsyncIteration
        part = batch.pop()
        cost = len(part)
        self._owed += cost if cost > PART_BYTES else PART_BYTES
        if not batch or self._owed * 2 >= self._max_bytes:
            self._settle()
        return part

    def _settle(self) -> None:
        with self._lock:
            self._ahead -= self._owed
            self._owed = 0
            if self._needed and (not self._ahead or self._ahead + self._needed <= self._max_bytes):
                self._needed = 0
                self._wake()

    async def _next_batch(self) -> list[bytes | str]:
        """Wait for parts; there are none at the end."""
        while not self._is_over:
            job = self._job or self._start(self._threads.max_waiting)
            waiter: Waiter | None = None
            with self._lock:
                if self._is_closed:
                    break
                # Asked first: whatever was put is here when the job is done.
                is_done = job.is_done
                if self._parts:
                    self._batch, self._parts = self._parts, []
                    self._batch.reverse()
                    return self._batch
                if not is_done:
                    waiter = self._waiter = new_waiter()
            if waiter is None:
                self._finish(job)
            else:
                await waiter
        return []

    def _start(self, max_waiting: int | None) -> Producing[T]:
        produce, self._produce = cast("Callable[[Put], T]", self._produce), None
        job = Job(self._threads, produce, (self,), None)
        job.listeners.append(self)
        try:
            self._threads.submit(job, max_waiting)
        except BaseException:
            self._produce = produce
            raise
        self._job = job
        return job

    def _finish(self, job: Producing[T]) -> None:
        self._is_over = True
        self._result = job.take()

    def stop_thread(self) -> None:
        """Stop the producer, without waiting for the end of its thread; for a loop that can wait no more."""
        if self._job is not None and not self._is_closed:
            # First: the thread is told of it by seeing that this is closed.
            self._job.cancelled(_raise_disconnected, is_once=True)
        with self._lock:
            self._is_closed = True
            self._parts.clear()
            self._batch.clear()
            self._wake()
        self.notify()

    async def aclose(self) -> None:
        """Stop the producer and wait for the end of its thread, whatever cancels; may be called again.

        It wakes at once if it waits for room, and ends with its next part otherwise.

        Raises:
            Exception: What ``produce`` raised since the last part that was asked for, unless it is the
                ``ClientDisconnectedError`` that told it of the end.
        """
        self.stop_thread()
        # Not refused, however many wait: what cleans up has to run.
        job = self._job or self._start(None)
        await job.settle()
        if not self._is_over:
            with suppress(ClientDisconnectedError):
                self._finish(job)

    @property
    def result(self) -> T:
        """What ``produce`` returned.

        Raises:
            UsageError: It has not returned, as far as the consumer knows.
        """
        if not self._is_over:
            raise UsageError("the producer has not ended")
        return cast("T", self._result)


def _raise_disconnected() -> None:
    raise ClientDisconnectedError("nobody takes parts any more")


def iterate(iterable: Iterable[bytes | str], put: Put) -> None:
    """Put every part of an iterable; for ``Pump``, as ``partial(iterate, iterable)``.

    The iterator and the iterable are closed here, each once if it has a ``close()``, also if it never began.
    """
    try:
        if not put.is_closed:
            iterator = iter(iterable)
            try:
                for part in iterator:
                    put(part)
            finally:
                if iterator is not iterable:
                    close(iterator)
    finally:
        close(iterable)


def close(target: object) -> None:
    """Call its ``close()``, if it has one."""
    closing: Callable[[], object] | None = getattr(target, "close", None)
    if closing is not None:
        closing()
