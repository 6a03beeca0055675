"""_spool.py: large bodies go to disk in worker threads, in batches, in order, and nothing is left there."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from tempfile import SpooledTemporaryFile
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from conftest import BACKENDS

from asgicore import BodyTooLargeError, ClientDisconnectedError
from asgicore._spool import BATCH_BYTES, Parts, Spool, in_file_thread, spool

only_asyncio = pytest.mark.parametrize("anyio_backend", [b for b in BACKENDS if b.values[0][0] == "asyncio"])

KiB = 1024
MiB = 1024 * KiB


async def settle() -> None:
    """Let every other task run until it waits."""
    for _ in range(25):
        await checkpoint()


@pytest.fixture
def file() -> Iterator[Spool]:
    """An empty body on disk, closed whatever happens."""
    made = Spool(SpooledTemporaryFile(max_size=1))
    yield made
    made.close()
    assert made.is_closed


def content(into: Spool) -> bytes:
    into.file.seek(0)
    return into.file.read()


class Source:
    """Parts of a body, as they are asked for; at the end ``error`` is raised."""

    def __init__(self, *parts: bytes, error: BaseException | None = None, suspend: bool = True) -> None:
        self.parts = parts
        self.error = error
        self.suspend = suspend
        self.given = 0

    async def __call__(self) -> AsyncGenerator[bytes, None]:
        for part in self.parts:
            if self.suspend:
                await checkpoint()
            self.given += len(part)
            yield part
        if self.error is not None:
            raise self.error


async def run(source: Source, into: Spool, first: bytes = b"") -> None:
    """Spool what is in memory already and what follows."""
    parts = Parts()
    parts.add(first)
    with anyio.fail_after(10):
        async with aclosing(source()) as rest:
            await spool(parts, rest, into)


class Disk(Spool):
    """A disk whose every write waits to be let through, or fails."""

    __slots__ = ("error", "failing_at", "let_through", "threads", "writes")

    def __init__(self, error: BaseException | None = None, failing_at: int = 0) -> None:
        super().__init__(SpooledTemporaryFile(max_size=1))
        self.error = error
        self.failing_at = failing_at
        self.let_through = threading.Event()
        self.threads: set[int] = set()
        self.writes: list[int] = []

    def write(self, parts: list[bytes | bytearray]) -> None:
        self.threads.add(threading.get_ident())
        self.writes.append(sum(map(len, parts)))
        self.let_through.wait(5)
        if self.error is not None and len(self.writes) > self.failing_at:
            raise self.error
        super().write(parts)


@pytest.fixture
def disks() -> Iterator[Callable[..., Disk]]:
    """Makes disks, and closes their files."""
    made: list[Disk] = []

    def make(*args: Any, open_: bool = True) -> Disk:
        disk = Disk(*args)
        if open_:
            disk.let_through.set()
        made.append(disk)
        return disk

    yield make
    for disk in made:
        disk.let_through.set()
        disk.close()


# --- parts in memory ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "items",
    [
        pytest.param([], id="none"),
        pytest.param([b""], id="one empty"),
        pytest.param([b"a"], id="one small"),
        pytest.param([b"x" * 5000], id="one large"),
        pytest.param([b"a", b"b", b"", b"c"], id="small ones"),
        pytest.param([b"x" * 4096, b"y" * 4096], id="large ones"),
        pytest.param([b"a", b"x" * 4096, b"b", b"c", b"x" * 4095, b"y" * 4097, b"d"], id="mixed"),
    ],
)
def test_parts_of_any_size_are_kept_in_order(items: list[bytes]) -> None:
    """Size, join and take agree, and taking leaves nothing."""
    parts = Parts()
    for item in items:
        parts.add(item)
    assert parts.size == sum(map(len, items))
    assert parts.join() == b"".join(items)
    assert type(parts.join()) is bytes
    taken = parts.take()
    assert b"".join(taken) == b"".join(items)
    assert parts.size == 0
    assert parts.take() == []
    assert parts.join() == b""


def test_parts_of_one_large_part_copies_nothing() -> None:
    """It goes out as the object that came in."""
    data = b"x" * 5000
    parts = Parts()
    parts.add(data)
    assert parts.join() is data


def test_parts_of_many_tiny_ones_are_gathered() -> None:
    """Not a list of them, which would cost 20 times their size."""
    parts = Parts()
    for _ in range(100_000):
        parts.add(b"ab")
    assert len(parts.take()) == 1


# --- the file ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "batches",
    [
        pytest.param([[]], id="nothing"),
        pytest.param([[b""], [b"", bytearray()]], id="empty parts"),
        pytest.param([[b"abc"]], id="one"),
        pytest.param([[b"a", bytearray(b"b"), b"", b"c"], [b"d"], [], [bytearray(b"e")]], id="several batches"),
        pytest.param([[b"x" * 5] * 3000], id="more parts than a system call takes"),
        pytest.param([[b"x"] * 1024, [b"y"] * 1025, [b"z"] * 2048], id="as many as a system call takes, and one more"),
    ],
)
@pytest.mark.parametrize("limit", [None, 1, 4, 7])
def test_spool_written_in_batches_holds_them_in_order(
    file: Spool, monkeypatch: pytest.MonkeyPatch, batches: list[list[bytes | bytearray]], limit: int | None
) -> None:
    """Also where the system takes less than it is given at a time."""
    if limit is not None:
        if not hasattr(os, "writev"):
            pytest.skip("this system gathers no writes")
        monkeypatch.setattr(os, "writev", lambda fd, parts: os.write(fd, b"".join(parts)[:limit]))
    for batch in batches:
        file.write(list(batch))
    expected = b"".join(bytes(part) for batch in batches for part in batch)
    assert content(file) == expected
    assert file.read_at(0, len(expected) + 1) == expected


def test_spool_read_at_leaves_the_position_alone(file: Spool) -> None:
    """What the application reads goes on where it was, also after a read that failed."""
    file.write([b"0123456789"])
    file.rewind()
    assert file.file.read(3) == b"012"
    assert file.read_at(5, 2) == b"56"
    assert file.read_at(10, 5) == b""
    assert file.file.read(2) == b"34"
    with pytest.raises((OSError, ValueError)):
        file.read_at(-1, 5)
    assert file.file.tell() == 5
    file.rewind()
    assert file.file.tell() == 0


def test_spool_used_by_the_application_is_an_ordinary_file(file: Spool) -> None:
    """It can be read, sought, iterated and written to, whatever way it was filled."""
    file.write([b"one\n", b"two\nthree"])
    file.rewind()
    assert list(file.file) == [b"one\n", b"two\n", b"three"]
    file.file.seek(0, 2)
    assert file.file.tell() == 13
    file.file.write(b"\nfour")
    assert content(file) == b"one\ntwo\nthree\nfour"
    assert file.read_at(8, 5) == b"three"


def test_spool_closed_twice_is_closed(file: Spool) -> None:
    """Closing may be repeated."""
    file.close()
    assert file.is_closed
    assert file.file.closed
    file.close()


def test_spool_operations_of_several_threads_do_not_overlap(file: Spool) -> None:
    """Reads from many threads at once each get what they asked for."""
    file.write([bytes([number]) * KiB for number in range(64)])
    failures: list[bool] = []

    def read(number: int) -> None:
        failures.extend(file.read_at(number * KiB, KiB) != bytes([number]) * KiB for _ in range(50))

    threads = [threading.Thread(target=read, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert failures == [False] * 400


# --- threads -----------------------------------------------------------------------------------------


async def test_in_file_thread_runs_elsewhere_and_gives_the_result() -> None:
    """Arguments, result and exception pass; the loop's thread is not used."""
    assert await in_file_thread(threading.get_ident) != threading.get_ident()
    assert await in_file_thread(divmod, 7, 3) == (2, 1)
    with pytest.raises(ZeroDivisionError):
        await in_file_thread(divmod, 7, 0)


async def test_in_file_thread_has_a_limit_of_its_own() -> None:
    """40 at once, whatever blocks the threads of the application; both are bounded."""
    running = 0
    most = 0
    lock = threading.Lock()
    go_on = threading.Event()

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            if running == 40:
                go_on.set()
        go_on.wait(5)
        with lock:
            running -= 1

    blocked = threading.Event()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            limiter = anyio.CapacityLimiter(3)
            for _ in range(3):
                group.start_soon(lambda: anyio.to_thread.run_sync(blocked.wait, 5, limiter=limiter))
            async with anyio.create_task_group() as files:
                for _ in range(60):
                    files.start_soon(in_file_thread, work)
            blocked.set()
    assert most == 40


async def test_in_file_thread_cancelled_by_a_scope_is_finished_or_never_begun() -> None:
    """A disk operation is not abandoned half way: whoever comes next finds it done or not begun."""
    go_on = threading.Event()
    steps: list[str] = []

    def work() -> None:
        steps.append("begun")
        go_on.wait(5)
        steps.append("finished")

    with anyio.fail_after(10):
        with anyio.CancelScope() as scope:
            scope.cancel()
            await in_file_thread(work)
        assert steps == []
        async with anyio.create_task_group() as group:
            group.start_soon(in_file_thread, work)
            while not steps:
                await checkpoint()
            group.cancel_scope.cancel()
            go_on.set()
    assert steps == ["begun", "finished"]


# --- spooling ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suspend", [False, True])
@pytest.mark.parametrize(
    ("first", "parts"),
    [
        pytest.param(b"", [], id="nothing"),
        pytest.param(b"abc", [], id="only what was there"),
        pytest.param(b"", [b"abc"], id="only what follows"),
        pytest.param(b"head", [b"x" * 65536] * 100, id="several batches"),
        pytest.param(b"head", [b"x" * BATCH_BYTES] * 3, id="a batch each"),
        pytest.param(b"head", [b"x" * (BATCH_BYTES - 1), b"y", b"z"], id="around a batch"),
        pytest.param(b"head", [b"x" * (4 * BATCH_BYTES), b"tail"], id="giant"),
        pytest.param(b"head", [b"ab"] * 5000, id="tiny"),
        pytest.param(b"head", [b"a", b"x" * 5000] * 1500, id="mixed"),
    ],
)
async def test_spool_of_any_parts_holds_them_in_order(
    disks: Callable[..., Disk], first: bytes, parts: list[bytes], suspend: bool
) -> None:
    """Written in worker threads, about one batch at a time, and all of it when it returns."""
    disk = disks()
    await run(Source(*parts, suspend=suspend), disk, first)
    expected = first + b"".join(parts)
    assert content(disk) == expected
    assert threading.get_ident() not in disk.threads
    assert len(disk.writes) <= len(expected) // BATCH_BYTES + 2


async def test_spool_receives_the_next_batch_while_the_last_is_written(disks: Callable[..., Disk]) -> None:
    """A slow disk does not stop receiving, but no more than one batch is gathered meanwhile."""
    disk = disks(open_=False)
    source = Source(*[b"x" * (256 * KiB)] * 40)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(run, source, disk, b"x" * BATCH_BYTES)
            while not disk.writes:
                await checkpoint()
            await settle()
            assert len(disk.writes) == 1  # still at it
            assert 256 * KiB <= source.given <= 2 * BATCH_BYTES
            disk.let_through.set()
    assert content(disk) == b"x" * (11 * BATCH_BYTES)


@pytest.mark.parametrize("failing_at", range(4))
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), ValueError("closed"), MemoryError()], ids=repr)
@pytest.mark.parametrize("suspend", [False, True])
async def test_spool_whose_disk_fails_raises_that_and_receives_no_more(
    disks: Callable[..., Disk], error: BaseException, failing_at: int, suspend: bool
) -> None:
    """The very object, not in a group; the rest of a large upload is not drained for nothing."""
    disk = disks(error, failing_at)
    source = Source(*[b"x" * (512 * KiB)] * 100, suspend=suspend)
    with pytest.raises(type(error)) as caught:
        await run(source, disk, b"x" * BATCH_BYTES)
    assert caught.value is error
    assert len(disk.writes) == failing_at + 1
    assert source.given <= (failing_at + 3) * BATCH_BYTES


async def test_spool_whose_last_write_fails_raises_that(disks: Callable[..., Disk]) -> None:
    """The failure that comes when everything was received is one, too."""
    error = OSError(errno.ENOSPC, "full")
    for failing_at, parts in ((0, ()), (1, (b"tail",))):
        with pytest.raises(OSError, match="full") as caught:
            await run(Source(*parts), disks(error, failing_at), b"head")
        assert caught.value is error


@pytest.mark.parametrize(
    "error",
    [
        BodyTooLargeError(5),
        ClientDisconnectedError(),
        RuntimeError("broken server"),
        anyio.BrokenResourceError("the server's own"),
        ExceptionGroup("the server's own", [ValueError(), KeyError()]),
        KeyboardInterrupt(),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("parts", [0, 1, 40])
@pytest.mark.parametrize("suspend", [False, True])
async def test_spool_whose_body_fails_raises_that(
    disks: Callable[..., Disk], error: BaseException, parts: int, suspend: bool
) -> None:
    """The very object: not wrapped, and a group that is the server's not unwrapped."""
    disk = disks()
    with pytest.raises(type(error)) as caught:
        await run(Source(*[b"x" * 65536] * parts, error=error, suspend=suspend), disk, b"head")
    if isinstance(error, BaseExceptionGroup):  # trio sorts cancellations out of groups, and makes them anew for that
        assert isinstance(caught.value, BaseExceptionGroup)
        assert caught.value.exceptions == error.exceptions
    else:
        assert caught.value is error
    disk.close()
    assert disk.file.closed


async def test_spool_whose_body_and_disk_fail_raises_one_of_them(disks: Callable[..., Disk]) -> None:
    """One error comes out, and no group of both."""
    disk = disks(OSError(errno.ENOSPC, "full"), open_=False)

    async def rest() -> AsyncGenerator[bytes, None]:
        while not disk.writes:
            await checkpoint()
        disk.let_through.set()
        raise BodyTooLargeError(5)
        yield b""

    parts = Parts()
    parts.add(b"head")
    with anyio.fail_after(10):
        async with aclosing(rest()) as source:
            with pytest.raises((OSError, BodyTooLargeError)):
                await spool(parts, source, disk)


@pytest.mark.parametrize("while_writing", [False, True])
async def test_spool_cancelled_by_a_scope_ends_after_the_write(disks: Callable[..., Disk], while_writing: bool) -> None:
    """The scope catches its cancellation; no thread is at the file any more, so that it can be closed."""
    disk = disks(open_=not while_writing)
    waiting = anyio.Event()

    async def rest() -> AsyncGenerator[bytes, None]:
        waiting.set()
        await anyio.sleep_forever()
        yield b""

    parts = Parts()
    parts.add(b"head")
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:

            async def cancel() -> None:
                await waiting.wait()
                while not disk.writes:
                    await checkpoint()
                scope.cancel()
                await settle()
                disk.let_through.set()

            group.start_soon(cancel)
            with anyio.CancelScope() as scope:
                async with aclosing(rest()) as source:
                    await spool(parts, source, disk)
            assert scope.cancelled_caught
    assert content(disk) == b"head"


@only_asyncio
@pytest.mark.parametrize("times", [1, 3])
async def test_spool_cancelled_natively_ends_after_the_write(disks: Callable[..., Disk], times: int) -> None:
    """``Task.cancel()`` is raised when the thread is done with the file."""
    disk = disks(open_=False)
    never: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def rest() -> AsyncGenerator[bytes, None]:
        await never
        yield b""

    async def work() -> None:
        parts = Parts()
        parts.add(b"head")
        async with aclosing(rest()) as source:
            await spool(parts, source, disk)

    task = asyncio.create_task(work())
    while not disk.writes:
        await asyncio.sleep(0)
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0)
    assert not task.done()
    disk.let_through.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert content(disk) == b"head"


@only_asyncio
async def test_spool_cancelled_natively_while_the_disk_fails_is_cancelled(disks: Callable[..., Disk]) -> None:
    """Cancellation is never swallowed, whatever else fails in the same moment."""
    disk = disks(OSError(errno.ENOSPC, "full"), open_=False)
    task = asyncio.create_task(run(Source(*[b"x" * BATCH_BYTES] * 9), disk, b"head"))
    while not disk.writes:
        await asyncio.sleep(0)
    await settle()
    task.cancel()
    disk.let_through.set()
    with pytest.raises(asyncio.CancelledError):
        await task
