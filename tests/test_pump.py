"""_pump.py: one worker for a producer's whole life; what is ready goes out at once, and never too far ahead."""

from __future__ import annotations

import asyncio
import gc
import threading
import tracemalloc
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextvars import ContextVar
from functools import partial
from time import monotonic
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from faults import frees_at_once, on_asyncio, turn
from hypothesis import given, settings
from hypothesis import strategies as st

from asgicore import ClientDisconnectedError, ThreadsBusyError, UsageError
from asgicore._jobs import new_waiter
from asgicore._pump import MAX_BYTES, Pump, Put, iterate
from asgicore._threads import Threads
from asgicore.testing import LeakGuard
from asgicore.testing._living import descriptors as open_files
from asgicore.testing._living import tasks as living_tasks

DEADLINE = 10.0
KiB = 1024
MiB = 1024 * KiB


def until_sync(is_true: Callable[[], object]) -> None:
    """Wait for what another thread does."""
    end = monotonic() + DEADLINE
    while not is_true():
        assert monotonic() < end
        threading.Event().wait(0.001)


async def until(is_true: Callable[[], object]) -> None:
    """Wait for what another thread does, and let the loop run."""
    with anyio.fail_after(DEADLINE):
        while not is_true():
            await anyio.sleep(0.001)


async def drain(pump: Pump[Any]) -> list[bytes | str]:
    """All parts of a pump, which is closed afterwards."""
    with anyio.fail_after(DEADLINE):
        try:
            return [part async for part in pump]
        finally:
            await pump.aclose()


class Parts:
    """An iterable with a ``close()``, whose threads and steps are known."""

    def __init__(self, parts: Iterable[bytes], error: BaseException | None = None) -> None:
        self.parts = iter(parts)
        self.error = error
        self.given = 0
        self.threads: set[int] = set()
        self.closed: list[int] = []

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        self.threads.add(threading.get_ident())
        for part in self.parts:
            self.given += 1
            return part
        if self.error is not None:
            raise self.error
        raise StopIteration

    def close(self) -> None:
        self.closed.append(threading.get_ident())


def pump_of(parts: Iterable[bytes], threads: Threads | None = None, max_bytes: int = MAX_BYTES) -> Pump[None]:
    return Pump(threads or Threads(), partial(iterate, parts), max_bytes)


# --- parts -----------------------------------------------------------------------------------------------


@pytest.mark.untraced
@pytest.mark.parametrize(
    "parts",
    [
        pytest.param([], id="none"),
        pytest.param([b""], id="one empty"),
        pytest.param([b"a", b"", b"b", b"", b""], id="with empty ones"),
        pytest.param([b"%d" % number for number in range(10_000)], id="tiny"),
        pytest.param([bytes(64 * KiB)] * 40, id="large"),
        pytest.param([bytes(MiB), b"x", bytes(MiB), bytes(MiB), b""], id="larger than the bound"),
    ],
)
@pytest.mark.parametrize("max_bytes", [MAX_BYTES, 1])
async def test_pump_of_any_parts_gives_them_in_order_from_one_thread(parts: list[bytes], max_bytes: int) -> None:
    """Nothing is left out, joined or split; one worker runs and closes the iterator."""
    source = Parts(parts)
    threads = Threads()
    assert await drain(pump_of(source, threads, max_bytes)) == parts
    assert len(source.closed) == 1
    assert source.threads == set(source.closed)
    assert threading.get_ident() not in source.threads
    assert threads.alive == 1


@settings(max_examples=40)
@given(
    sizes=st.lists(st.integers(0, 300), max_size=60),
    max_bytes=st.integers(0, 1000),
    pauses=st.lists(st.integers(0, 3), min_size=1, max_size=7),
    delays=st.lists(st.booleans(), min_size=1, max_size=5),
    taken=st.integers(0, 70),
    backend=st.sampled_from(["asyncio", "trio"]),
)
def test_pump_in_any_interleaving_keeps_order_and_bound(
    sizes: list[int], max_bytes: int, pauses: list[int], delays: list[bool], taken: int, backend: str
) -> None:
    """Random sizes, bounds and speeds of both sides, and a consumer that may leave at any part."""
    put_bytes = 0
    worst = 0
    got = 0
    closed = 0

    class Source:
        def __iter__(self) -> Iterator[bytes]:
            nonlocal put_bytes, worst
            for index, size in enumerate(sizes):
                if delays[index % len(delays)]:
                    threading.Event().wait(0.0001)
                yield bytes([index]) * size
                # Back here, the part has been taken into the queue.
                put_bytes += max(size, 64)
                worst = max(worst, put_bytes - got)

        def close(self) -> None:
            nonlocal closed
            closed += 1

    async def main() -> None:
        nonlocal got
        pump = pump_of(Source(), max_bytes=max_bytes)
        received: list[bytes | str] = []
        try:
            if taken:
                async for part in pump:
                    received.append(part)
                    for _ in range(pauses[len(received) % len(pauses)]):
                        await checkpoint()
                    got += max(len(part), 64)
                    if len(received) == taken:
                        break
        finally:
            await pump.aclose()
        assert received == [bytes([index]) * size for index, size in enumerate(sizes)][:taken]

    anyio.run(main, backend=backend if backend == "asyncio" or trio_is_here() else "asyncio")
    assert closed == 1
    largest = max([64, *sizes])
    # The bound, or one part alone, and beside it the part that is being sent.
    assert worst <= max(max_bytes, largest) + largest


def trio_is_here() -> bool:
    import importlib.util

    return importlib.util.find_spec("trio") is not None


@pytest.mark.parametrize("number", [1, 2, 3])
async def test_pump_gives_a_part_before_the_next_one_is_made(number: int) -> None:
    """What is ready goes out at once, the first part as any other."""
    go_on = threading.Semaphore(0)

    def parts() -> Iterator[bytes]:
        for index in range(number):
            yield b"%d" % index
            assert go_on.acquire(timeout=DEADLINE)

    pump = pump_of(parts())
    with anyio.fail_after(DEADLINE):
        for index in range(number):
            assert await anext(pump) == b"%d" % index
            go_on.release()
        with pytest.raises(StopAsyncIteration):
            await anext(pump)
    await pump.aclose()


@pytest.mark.parametrize(("size", "ahead"), [(0, 16), (1, 16), (64, 16), (256, 4), (400, 2), (1024, 1), (5000, 1)])
async def test_pump_runs_no_further_ahead_than_its_bound(size: int, ahead: int) -> None:
    """Tiny and empty parts count, too; one that is too large is alone."""
    source = Parts([bytes(size)] * 100)
    pump = pump_of(source, max_bytes=1024)
    with anyio.fail_after(DEADLINE):
        await anext(pump)
        await until(lambda: pump._needed)
        # One waits in the worker to be let through; the one with the consumer may be reported later.
        assert ahead + 1 <= source.given <= ahead + 2
        rest = [part async for part in pump]
    assert len(rest) == 99
    await pump.aclose()


@pytest.mark.parametrize("kind", [bytearray, memoryview])
async def test_pump_keeps_what_a_producer_put_though_it_uses_its_buffer_again(kind: Any) -> None:
    """A buffer is copied before the producer goes on."""
    buffer = bytearray(4)

    def produce(put: Put) -> None:
        for number in range(10):
            buffer[:] = b"%04d" % number
            put(kind(buffer))

    assert await drain(Pump(Threads(), produce)) == [b"%04d" % number for number in range(10)]


async def test_pump_that_several_threads_put_into_keeps_its_bound() -> None:
    """Not what it is made for, but an application may write from threads of its own: none is left waiting."""
    waiting: list[int] = []

    class Counting(Pump[None]):
        def _wait(self, seconds: float = -1) -> None:
            waiting.append(1)
            super()._wait(seconds)

    def produce(put: Put) -> None:
        threads = [threading.Thread(target=put, args=(bytes([number]) * MAX_BYTES,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    pump = Counting(Threads(), produce)
    parts = []
    with anyio.fail_after(30):
        pump.start_thread()
        while len(waiting) < 3:
            await anyio.sleep(0.001)
        async for part in pump:
            parts.append(part[0])
            assert len(pump._parts) <= 1
    assert sorted(parts) == [0, 1, 2, 3]


async def test_pump_of_an_endless_gibibyte_needs_little_memory() -> None:
    """A producer of 1 GiB and a consumer that is slow: less than 2 MiB at the most."""
    # What the first one loads is no memory of a part.
    assert len(await drain(pump_of(bytes(MiB // 4) for _ in range(16)))) == 16
    parts = (bytes(MiB // 4) for _ in range(4 * KiB))
    pump = pump_of(parts)
    size = 0
    gc.collect()
    tracemalloc.start()
    try:
        async for part in pump:
            size += len(part)
            if size % (64 * MiB) == 0:
                await turn(3)
        left, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        await pump.aclose()
    assert size == 1024 * MiB
    assert peak < 2 * MiB, f"{left} of it is left in the end"


async def test_pump_wakes_the_loop_only_if_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand parts that are there already cost no wake-ups."""
    made = 0

    def counting() -> Any:
        nonlocal made
        made += 1
        return new_waiter()

    monkeypatch.setattr("asgicore._pump.new_waiter", counting)
    source = Parts([b"x"] * 1000)
    pump = pump_of(source)
    with anyio.fail_after(DEADLINE):
        await anext(pump)
        await until(lambda: source.closed)
        made = 0
        assert len([part async for part in pump]) == 999
    assert made <= 2
    await pump.aclose()


# --- results and errors ----------------------------------------------------------------------------------


async def test_pump_gives_the_result_of_its_producer() -> None:
    """When it has ended, and not before."""

    def produce(put: Put) -> int:
        put(b"a")
        return 5

    pump = Pump(Threads(), produce)
    with pytest.raises(UsageError, match="has not ended"):
        _ = pump.result
    assert await anext(pump) == b"a"
    with pytest.raises(UsageError, match="has not ended"):
        _ = pump.result
    with pytest.raises(StopAsyncIteration):
        await anext(pump)
    assert pump.result == 5
    with pytest.raises(StopAsyncIteration):
        await anext(pump)
    await pump.aclose()
    assert pump.result == 5


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit, ClientDisconnectedError])
@pytest.mark.parametrize("number", [0, 1, 500])
async def test_pump_whose_producer_fails_raises_that_after_its_parts(kind: type[BaseException], number: int) -> None:
    """The very error, once; the iterator is closed."""
    error = kind("no")
    source = Parts([b"x"] * number, error)
    pump = pump_of(source)
    received = []
    with anyio.fail_after(DEADLINE), pytest.raises(kind) as caught:
        while True:
            received.append(await anext(pump))
    assert caught.value is error
    assert received == [b"x"] * number
    assert len(source.closed) == 1
    with pytest.raises(StopAsyncIteration):
        await anext(pump)
    await pump.aclose()


@pytest.mark.parametrize("kind", [StopAsyncIteration, StopIteration, asyncio.CancelledError, GeneratorExit])
async def test_pump_whose_producer_raises_a_signal_of_coroutines_does_not_end_quietly(
    kind: type[BaseException],
) -> None:
    """It is no end of the parts: what is not whole must not look whole."""

    def produce(put: Put) -> None:
        put(b"a")
        raise kind

    pump = Pump(Threads(), produce)
    assert await anext(pump) == b"a"
    with anyio.fail_after(DEADLINE), pytest.raises(RuntimeError, match="in a thread") as caught:
        await anext(pump)
    assert type(caught.value.__cause__) is kind
    await pump.aclose()


variable: ContextVar[str] = ContextVar("variable", default="unset")


async def test_pump_sees_context_variables_and_brings_changes_back() -> None:
    """Those of its beginning are there; changes are the consumer's when the producer has ended."""

    def produce(put: Put) -> None:
        put(variable.get().encode())
        variable.set("theirs")

    variable.set("mine")
    pump = Pump(Threads(), produce)
    assert await anext(pump) == b"mine"
    assert variable.get() == "mine"
    assert await drain(pump) == []
    assert variable.get() == "theirs"


# --- the consumer leaves ---------------------------------------------------------------------------------


async def test_aclose_while_the_producer_waits_for_room_wakes_it() -> None:
    """It raises in ``put``, and the iterator is closed in its thread, without another part."""
    source = Parts([bytes(KiB)] * 100)
    pump = pump_of(source, max_bytes=KiB)
    with anyio.fail_after(DEADLINE):
        await anext(pump)
        await until(lambda: source.given == 3)
        await pump.aclose()
        await pump.aclose()
    assert source.given == 3
    assert source.threads == set(source.closed)
    assert len(source.closed) == 1
    with pytest.raises(StopAsyncIteration):
        await anext(pump)


async def test_aclose_while_a_part_is_made_ends_with_it() -> None:
    """The thread cannot be stopped, so its end is waited for; the part is dropped."""
    begun, go_on = threading.Event(), threading.Event()
    errors: list[BaseException] = []

    def produce(put: Put) -> None:
        put(b"first")
        begun.set()
        assert go_on.wait(DEADLINE)
        assert put.is_closed
        try:
            put(b"second")
        except ClientDisconnectedError as exc:
            errors.append(exc)
            raise

    threads = Threads()
    pump = Pump(threads, produce)
    with anyio.fail_after(DEADLINE):
        assert await anext(pump) == b"first"
        await until(begun.is_set)
        async with anyio.create_task_group() as group:
            group.start_soon(pump.aclose)
            await turn(10)
            assert threads.in_use == 1
            go_on.set()
    assert len(errors) == 1
    assert threads.in_use == 0


@pytest.mark.parametrize("iterations", [0, 1])
async def test_aclose_of_a_generator_runs_its_cleanup_once_in_its_thread(iterations: int) -> None:
    """``finally`` blocks run where the body ran; one that never began has none."""
    ended: list[int] = []

    def parts() -> Iterator[bytes]:
        try:
            while True:
                yield bytes(KiB)
        finally:
            ended.append(threading.get_ident())

    pump = pump_of(parts(), max_bytes=KiB)
    for _ in range(iterations):
        await anext(pump)
    with anyio.fail_after(DEADLINE):
        await pump.aclose()
    assert len(ended) == iterations
    assert threading.get_ident() not in ended


async def test_aclose_before_anything_was_asked_for_closes_the_iterable() -> None:
    """In a worker, without a step of the iteration."""
    source = Parts([b"a"])
    pump = pump_of(source)
    with anyio.fail_after(DEADLINE):
        await pump.aclose()
        await pump.aclose()
    assert source.given == 0
    assert len(source.closed) == 1
    assert threading.get_ident() not in source.closed
    with pytest.raises(StopAsyncIteration):
        await anext(pump)


async def test_aclose_where_too_many_wait_for_a_thread_closes_the_iterable_all_the_same() -> None:
    """The pump was refused; what cleans up is not."""
    threads = Threads(1, max_waiting=0)
    go_on = threading.Event()
    job = threads.start(go_on.wait, DEADLINE)
    source = Parts([b"a"])
    pump = pump_of(source, threads)
    with pytest.raises(ThreadsBusyError):
        await anext(pump)
    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as group:
            group.start_soon(pump.aclose)
            await until(lambda: threads.waiting == 1)
            go_on.set()
    await job.wait()
    assert (source.given, len(source.closed)) == (0, 1)


async def test_pump_that_was_refused_may_be_asked_again() -> None:
    """Nothing had begun."""
    threads = Threads(1, max_waiting=0)
    go_on = threading.Event()
    job = threads.start(go_on.wait, DEADLINE)
    pump = pump_of([b"a", b"b"], threads)
    with pytest.raises(ThreadsBusyError):
        await anext(pump)
    go_on.set()
    await job.wait()
    assert await drain(pump) == [b"a", b"b"]


async def test_aclose_while_the_job_waits_for_a_thread_closes_the_iterable() -> None:
    """It has its turn, and does nothing but that."""
    threads = Threads(1)
    go_on = threading.Event()
    job = threads.start(go_on.wait, DEADLINE)
    source = Parts([b"a"])
    pump = pump_of(source, threads)
    with anyio.fail_after(DEADLINE):
        with anyio.move_on_after(0.01) as scope:
            await anext(pump)
        assert scope.cancelled_caught
        async with anyio.create_task_group() as group:
            group.start_soon(pump.aclose)
            await turn(5)
            go_on.set()
    await job.wait()
    assert (source.given, len(source.closed)) == (0, 1)


async def test_aclose_beside_a_consumer_that_waits_ends_the_iteration() -> None:
    """Another task may close it; the consumer gets no error."""
    go_on = threading.Event()

    def produce(put: Put) -> None:
        assert go_on.wait(DEADLINE)

    pump = Pump(Threads(), produce)
    results: list[list[bytes | str]] = []

    async def consume() -> None:
        results.append([part async for part in pump])

    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as group:
            group.start_soon(consume)
            await turn(10)
            group.start_soon(pump.aclose)
            await until(lambda: results)
            go_on.set()
    assert results == [[]]


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
async def test_aclose_whose_producer_fails_raises_that_once(kind: type[BaseException]) -> None:
    """An error of the cleanup is not lost."""

    def produce(put: Put) -> None:
        put(b"a")
        try:
            while True:
                put(bytes(MAX_BYTES))
        except ClientDisconnectedError:
            raise kind from None

    pump = Pump(Threads(), produce)
    await anext(pump)
    with anyio.fail_after(DEADLINE), pytest.raises(kind):
        await pump.aclose()
    await pump.aclose()


async def test_aclose_of_a_producer_that_swallows_the_end_gives_its_result() -> None:
    """A producer may return what it knows; every further ``put`` raises again."""

    def produce(put: Put) -> int:
        raised = 0
        for _ in range(5):
            try:
                put(bytes(MAX_BYTES))
            except ClientDisconnectedError:
                raised += 1
        return raised

    pump = Pump(Threads(), produce)
    await anext(pump)
    with anyio.fail_after(DEADLINE):
        await pump.aclose()
    assert 3 <= pump.result <= 4


async def test_anext_cancelled_loses_no_part() -> None:
    """Whoever asks next gets what came meanwhile."""
    go_on = threading.Semaphore(0)

    def parts() -> Iterator[bytes]:
        for number in range(10):
            assert go_on.acquire(timeout=DEADLINE)
            yield b"%d" % number

    pump = pump_of(parts())
    received = []
    with anyio.fail_after(DEADLINE):
        for _ in range(10):
            with anyio.CancelScope() as scope:
                scope.cancel()
                received.append(await anext(pump))
            with anyio.move_on_after(0.001):
                received.append(await anext(pump))
            go_on.release()
        received += [part async for part in pump]
    assert received == [b"%d" % number for number in range(10)]
    await pump.aclose()


async def test_aclose_in_a_cancelled_scope_waits_for_the_thread() -> None:
    """Cleanup is whole, whatever cancels."""
    source = Parts([bytes(KiB)] * 100)
    pump = pump_of(source, max_bytes=KiB)
    await anext(pump)
    with anyio.fail_after(DEADLINE), anyio.CancelScope() as scope:
        scope.cancel()
        await pump.aclose()
    assert len(source.closed) == 1


@on_asyncio
@pytest.mark.parametrize("times", [1, 2, 5])
async def test_aclose_cancelled_natively_waits_for_the_thread(times: int) -> None:
    """However often; the cancellation is raised afterwards."""
    begun, go_on = threading.Event(), threading.Event()
    ended: list[bool] = []

    def produce(put: Put) -> None:
        put(b"a")
        begun.set()
        assert go_on.wait(DEADLINE)
        ended.append(True)

    pump = Pump(Threads(), produce)
    await anext(pump)
    await until(begun.is_set)
    task = asyncio.create_task(pump.aclose())
    for _ in range(times):
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [True]
    await pump.aclose()
    assert pump.result is None


@on_asyncio
async def test_consumer_cancelled_natively_at_any_turn_leaves_a_closed_iterator() -> None:
    """At every point of a short stream."""
    for turns in range(40):
        source = Parts([bytes(KiB)] * 20)
        threads = Threads()
        task = asyncio.create_task(drain(pump_of(source, threads, KiB)))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        # A task that never began never called anything.
        assert len(source.closed) == (1 if turns else 0)
        assert threads.in_use == 0


# --- iterables -------------------------------------------------------------------------------------------


async def test_iterate_closes_both_an_iterable_and_its_iterator() -> None:
    """Each once: a generator behind ``__iter__`` is another object than what has the ``close()``."""
    closed: list[str] = []

    class Source:
        def __iter__(self) -> Iterator[bytes]:
            try:
                yield b"a"
                yield bytes(MAX_BYTES)
                yield bytes(MAX_BYTES)
            finally:
                closed.append("iterator")

        def close(self) -> None:
            closed.append("iterable")

    pump = pump_of(Source())
    await anext(pump)
    with anyio.fail_after(DEADLINE):
        await pump.aclose()
    assert closed == ["iterator", "iterable"]


async def test_iterate_of_what_has_no_close_needs_none() -> None:
    """A list, for instance."""
    assert await drain(pump_of([b"a", b"b"])) == [b"a", b"b"]
    pump = pump_of([b"a"])
    await pump.aclose()


async def test_iterate_of_what_cannot_be_iterated_raises_and_closes_it() -> None:
    """The error is the one of Python."""
    source: Any = Parts([])
    broken: Any = type("Broken", (), {"close": source.close})()
    with pytest.raises(TypeError, match="not iterable"):
        await drain(pump_of(broken))
    assert len(source.closed) == 1


async def test_iterate_whose_close_fails_raises_that_after_the_parts() -> None:
    """As any other error of the producer."""

    class Source(Parts):
        def close(self) -> None:
            super().close()
            raise ValueError("no close")

    source = Source([b"a", b"b"])
    pump = pump_of(source)
    received = []
    with anyio.fail_after(DEADLINE), pytest.raises(ValueError, match="no close"):
        while True:
            received.append(await anext(pump))
    assert received == [b"a", b"b"]
    assert len(source.closed) == 1
    await pump.aclose()


# --- what is left ----------------------------------------------------------------------------------------


async def test_pump_leaves_nothing_after_consumers_that_leave() -> None:
    """200 streams, most of them left midway: every iterator is closed, and no thread, task or slot is left."""
    threads = Threads(10)
    sources = [Parts([bytes(number * 7)] * 50) for number in range(200)]

    async def consume(number: int, source: Parts) -> None:
        pump = pump_of(source, threads, 500)
        try:
            received = 0
            async for _ in pump:
                received += 1
                if received == number % 60:
                    break
                if number % 3:
                    await checkpoint()
        finally:
            await pump.aclose()

    async def all_of_them() -> None:
        with anyio.fail_after(DEADLINE):
            async with anyio.create_task_group() as group:
                for number, source in enumerate(sources):
                    group.start_soon(consume, number, source)

    before = living_tasks(), open_files()
    await all_of_them()
    assert (living_tasks(), open_files()) == before
    assert [len(source.closed) for source in sources] == [1] * 200
    assert (threads.in_use, threads.waiting) == (0, 0)
    assert threads.alive <= 10
    assert await threads.aclose()
    await until(lambda: threads.alive == 0)


@frees_at_once
async def test_pump_leaves_no_cycle() -> None:
    """With the collector off, pumps that were used, left or never asked leave nothing to it."""
    threads = Threads()

    async def use(number: int) -> list[weakref.ref[Any]]:
        gone: list[weakref.ref[Any]] = []
        for index in range(number):
            source = Parts([b"x"] * 5)
            pump = pump_of(source, threads, 100)
            gone.append(weakref.ref(source))
            for _ in range(index % 3):
                await anext(pump)
            if index % 2:
                await drain(pump)
            await pump.aclose()
        return gone

    await use(6)
    async with LeakGuard(cycles=["asgicore._jobs", "asgicore._threads", "asgicore._pump"]):
        gone = await use(60)
        assert [ref for ref in gone if ref() is not None] == []


async def test_pump_is_an_async_iterator() -> None:
    """``async for`` takes it, and ``aiter`` gives itself."""
    pump = pump_of([b"a"])
    iterator: AsyncIterator[bytes | str] = pump
    assert aiter(iterator) is pump
    assert await drain(pump) == [b"a"]
