"""wsgi_bridge/_overflow.py: a thread is free when its application is done; a slow client gets the rest from a file."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import logging
import threading
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from functools import partial
from io import FileIO
from tempfile import TemporaryFile
from time import monotonic
from typing import Any, Literal

import anyio
import pytest
from anyio.lowlevel import checkpoint
from faults import dropped_at, dropped_when, on_asyncio, turn
from hypothesis import given, settings
from hypothesis import strategies as st
from test_pump import trio_is_here, until_sync
from test_wsgi_bridge import TEXT, Parts, checked, eventually, serve

from asgicore import ClientDisconnectedError, _spool
from asgicore._pump import Put
from asgicore._threads import Threads
from asgicore.testing import Channel, Client, LeakGuard, Message, body_messages, check_messages, every_fault, http_scope
from asgicore.wsgi_bridge import WSGIHandler, _overflow
from asgicore.wsgi_bridge._overflow import Overflowing

SECONDS = 5.0
MiB = 2**20


class Files:
    """The temporary files that were made: who was at them, and what goes wrong."""

    def __init__(self) -> None:
        self.made: list[File] = []
        self.room = 2**40
        """How much may be written to each."""
        self.readable = 2**40
        """How much may be read from each."""
        self.on_write: Callable[[], object] = int
        self.on_read: Callable[[], object] = int

    def __call__(self, *, buffering: Literal[0]) -> File:
        if not self.room:
            raise OSError(errno.EMFILE, "no more files")
        self.made.append(File(self, TemporaryFile(buffering=buffering)))
        return self.made[-1]

    @property
    def threads(self) -> set[int]:
        return {thread for file in self.made for thread in file.threads}

    @property
    def are_closed(self) -> bool:
        return all(file.closings for file in self.made)

    def check(self, on_loop: bool = False) -> None:
        """Each was closed once, and none of them was touched on the loop."""
        assert [len(file.closings) for file in self.made] == [1] * len(self.made)
        assert (threading.get_ident() in self.threads) <= on_loop


class File:
    def __init__(self, files: Files, file: FileIO) -> None:
        self.files = files
        self.file = file
        self.threads = {threading.get_ident()}
        self.closings: list[int] = []
        self.most = 0

    def seek(self, position: int) -> None:
        self.threads.add(threading.get_ident())
        self.file.seek(position)

    def write(self, data: memoryview) -> int:
        self.files.on_write()
        room = self.files.room - self.file.tell()
        if not room:
            raise OSError(errno.ENOSPC, "no space left")
        # Disks may take less than they get.
        written = self.file.write(data[: min(room, 100_000)])
        self.most = max(self.most, self.file.tell())
        return written

    def read(self, size: int) -> bytes:
        self.files.on_read()
        self.threads.add(threading.get_ident())
        return self.file.read(min(size, self.files.readable))

    def close(self) -> None:
        self.threads.add(threading.get_ident())
        self.closings.append(threading.get_ident())
        self.file.close()


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> Files:
    """Every file that is made; no producer waits for room before it turns to one."""
    files = Files()
    monkeypatch.setattr(_overflow, "TemporaryFile", files)
    monkeypatch.setattr(_overflow, "_PATIENCE_SECONDS", 0)
    return files


def blocks(number: int, size: int = 65_537) -> list[bytes]:
    """Parts that differ, of an odd size."""
    return [number.to_bytes(4, "big") * (size // 4) + b"." * (size % 4) for number in range(number)]


def digest(parts: Any) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()


class Reader(Channel):
    """A client that stops reading at one message, until it is let go on."""

    def __init__(self, *messages: Any, at: int = 1, **options: Any) -> None:
        super().__init__(*messages, **options)
        self.at = at
        self.is_waiting = anyio.Event()
        self.go_on = anyio.Event()

    async def send(self, message: Message) -> None:
        if self.sends == self.at:
            self.is_waiting.set()
            await self.go_on.wait()
        await super().send(message)


def overflowing(
    produce: Callable[[Put], None],
    threads: Threads | None = None,
    max_disk_bytes: int | None = None,
    max_bytes: int = 1000,
) -> Overflowing:
    pump = Overflowing(threads or Threads(), produce, lambda: pytest.fail("nobody asks for the body"), max_disk_bytes)
    pump._max_bytes = max_bytes
    return pump


def putting(parts: Iterable[bytes]) -> Callable[[Put], None]:
    def produce(put: Put) -> None:
        for part in parts:
            put(part)

    return produce


# --- a slow client ---------------------------------------------------------------------------------------


def iterating(parts: Parts) -> Any:
    return parts


def writing(parts: Parts) -> Any:
    """The same by ``write()``; what is returned is empty, and closed."""

    class Rest(list[bytes]):
        close = parts.close

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        write = start_response("200 OK", [TEXT])
        for part in parts:
            write(part)
        return Rest()

    return app


@pytest.mark.parametrize("make", [iterating, writing])
@pytest.mark.parametrize("at", [0, 1, 5])
async def test_slow_client_holds_no_thread_and_gets_every_byte(make: Any, at: int, files: Files) -> None:
    """The application comes to its end while the client has read next to nothing; the order is kept."""
    given = blocks(60)
    parts = Parts(*given)
    threads = Threads()
    channel = Reader(at=at)
    async with LeakGuard():
        async with anyio.create_task_group() as group:
            handler = WSGIHandler(make(parts), response_spool_bytes=None, threads=threads)
            group.start_soon(serve, handler, channel)
            await eventually(lambda: parts.closed and not threads.in_use, "the thread is free")
            await channel.is_waiting.wait()
            assert len(channel.body) <= 5 * 65_537
            assert not files.are_closed
            channel.go_on.set()
    check_messages(channel.sent, complete=True)
    assert digest([channel.body]) == digest(given)
    assert (parts.given, parts.closed, len(parts.threads)) == (60, 1, 1)
    files.check()


async def test_slow_client_costs_little_memory(files: Files) -> None:
    """64 MiB ahead of a client: 768 KiB of parts and 1 MiB from the disk are in memory, and little more."""
    threads = Threads()
    size = 0

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [TEXT])
        return (bytes(MiB // 16) for _ in range(1024))

    async def on_send(index: int, message: Message) -> None:
        nonlocal size
        size += len(message.pop("body", b""))
        if index == 2:
            await eventually(lambda: not threads.in_use)
            assert files.made[-1].most > 60 * MiB

    handler = WSGIHandler(app, response_spool_bytes=None, threads=threads)
    # What the first one loads is no memory of a part.
    await serve(handler, Channel(on_send=on_send))
    tracemalloc.start()
    try:
        await serve(handler, Channel(on_send=on_send))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size == 2 * 64 * MiB
    assert peak < 2.2 * MiB
    files.check()


async def test_client_that_keeps_up_needs_no_file(files: Files) -> None:
    """What goes out at once never meets the disk."""
    taken = threading.Semaphore(20)

    async def on_send(index: int, message: Message) -> None:
        taken.release()

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [TEXT])
        for part in blocks(200, 10_000):
            assert taken.acquire(timeout=SECONDS)
            yield part

    channel = Channel(on_send=on_send)
    await serve(WSGIHandler(app, response_spool_bytes=None), channel)
    assert channel.body == b"".join(blocks(200, 10_000))
    assert files.made == []


async def test_client_that_is_a_little_slower_than_a_thread_needs_no_file(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A producer waits for some time, in all, before it turns to the disk."""
    monkeypatch.setattr(_overflow, "_PATIENCE_SECONDS", 60)
    channel = Channel()
    await serve(WSGIHandler(Parts(*blocks(100)), response_spool_bytes=None), channel)
    assert channel.body == b"".join(blocks(100))
    assert files.made == []


async def test_producer_loses_its_patience_once(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """After it has waited that long, it waits no more."""
    monkeypatch.setattr(_overflow, "_PATIENCE_SECONDS", 0.01)
    waits: list[float] = []

    class Counting(Overflowing):
        def _wait(self, seconds: float = -1) -> None:
            waits.append(seconds)
            super()._wait(seconds)

    threads = Threads()
    pump = Counting(threads, putting([bytes(1000)] * 50), lambda: pytest.fail("not asked for"), None)
    pump._max_bytes = 1000
    pump.start_thread()
    await eventually(lambda: not threads.in_use)
    assert waits == [0.01]
    assert sum([len(part) async for part in pump]) == 50_000
    await pump.aclose()
    files.check()


async def test_file_that_was_drained_is_closed_before_the_end(files: Files) -> None:
    """Each time that the client has caught up; the next one is another."""
    go_on = threading.Semaphore(0)
    threads = Threads()

    def produce(put: Put) -> None:
        for number in range(3):
            for _ in range(10):
                put(b"%d" % number * 900)
            assert go_on.acquire(timeout=SECONDS)

    pump = overflowing(produce, threads)
    pump.start_thread()
    got = b""
    with anyio.fail_after(SECONDS):
        for number in range(3):
            # The number is asked for within this turn of the loop alone.
            await eventually(lambda: len(files.made) > number and files.made[-1].most == 8100)  # noqa: B023
            while len(got) < (number + 1) * 9000:
                part = await anext(pump)
                assert isinstance(part, bytes)
                got += part
            assert files.are_closed
            go_on.release()
        assert [part async for part in pump] == []
    await pump.aclose()
    assert got == b"".join(b"%d" % number * 9000 for number in range(3))
    assert len(files.made) == 3
    files.check()


async def test_part_on_its_way_to_the_file_reaches_a_client_that_has_caught_up(files: Files) -> None:
    """It waits by the time that the part is written."""
    writes, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        writes.set()
        assert go_on.wait(SECONDS)

    async def let_go() -> None:
        await eventually(lambda: pump._waiter, "the client waits")
        go_on.set()

    files.on_write = wait
    given = [b"a" * 900, b"b" * 900, b"c" * 90]
    pump = overflowing(putting(given))
    pump.start_thread()
    await eventually(writes.is_set)
    with anyio.fail_after(SECONDS):
        async with anyio.create_task_group() as group:
            group.start_soon(let_go)
            got = [part async for part in pump]
    await pump.aclose()
    assert got == given
    files.check()


# --- the bound -------------------------------------------------------------------------------------------


async def test_producer_waits_where_the_file_is_full(files: Files) -> None:
    """As without one; what is begun anew when all was taken never gets larger."""
    threads = Threads()
    parts = Parts(*blocks(100, 700))
    pump = overflowing(putting(parts), threads, 5000)
    pump.start_thread()
    with anyio.fail_after(SECONDS):
        await eventually(lambda: pump._needed)
        # One in memory, seven on disk, and one that waits.
        assert (parts.given, threads.in_use, files.made[0].most) == (9, 1, 4900)
        got = [await anext(pump)]
        got += [part async for part in pump]
    await pump.aclose()
    assert digest(got) == digest(blocks(100, 700))
    assert max(file.most for file in files.made) <= 5000
    files.check()


async def test_bound_is_that_of_the_bridge(files: Files) -> None:
    """In bytes of one response."""
    threads = Threads()
    channel = Reader()
    async with anyio.create_task_group() as group:
        handler = WSGIHandler(Parts(*blocks(100)), response_spool_bytes=MiB, threads=threads)
        group.start_soon(serve, handler, channel)
        await eventually(lambda: files.made and files.made[0].most > MiB - 65_537)
        assert threads.in_use == 1
        channel.go_on.set()
    assert digest([channel.body]) == digest(blocks(100))
    assert max(file.most for file in files.made) <= MiB
    files.check()


async def test_part_larger_than_the_file_may_get_waits_in_memory(files: Files) -> None:
    """It is let through alone, as without a file."""
    given = [b"a" * 600, b"b" * 9000, b"c" * 600, b"d" * 9000]
    pump = overflowing(putting(given), None, 1000)
    with anyio.fail_after(SECONDS):
        got = [part async for part in pump]
    await pump.aclose()
    assert digest(got) == digest(given)
    assert all(file.most <= 1000 for file in files.made)
    files.check()


@pytest.mark.parametrize(
    ("room", "message"), [(0, "[Errno 24] no more files"), (100_000, "[Errno 28] no space left")], ids=["none", "some"]
)
async def test_producer_whose_disk_is_full_waits_for_its_client(
    room: int, message: str, files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is lost of what was written, nor of the part that was not; it is logged once."""
    files.room = room
    threads = Threads()
    parts = Parts(*blocks(60))
    channel = Reader()
    async with anyio.create_task_group() as group:
        group.start_soon(serve, WSGIHandler(parts, response_spool_bytes=None, threads=threads), channel)
        await eventually(lambda: caplog.records)
        await channel.is_waiting.wait()
        assert (parts.closed, threads.in_use) == (0, 1)
        channel.go_on.set()
    check_messages(channel.sent, complete=True)
    assert digest([channel.body]) == digest(blocks(60))
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.WARNING, f"a response is not spooled any further: {message}")
    ]
    assert (parts.closed, len(files.made)) == (1, bool(room))
    files.check()


@pytest.mark.parametrize("value", [-1, True, 1.5, "1"])
def test_bound_that_is_no_number_of_bytes_is_refused(value: Any) -> None:
    """When the bridge is built."""
    with pytest.raises(ValueError, match="response_spool_bytes"):
        WSGIHandler(Parts(), response_spool_bytes=value)


# --- the request's body ----------------------------------------------------------------------------------


async def test_input_is_asked_for_after_what_was_given_before_it(files: Files) -> None:
    """The client may send it only when it has got that."""
    got = b""

    async def stream() -> AsyncIterator[bytes]:
        for number in range(1, 4):
            assert len(got) == number * 5000
            yield b"%d" % number

    def produce(put: Put) -> None:
        for number in range(1, 5):
            for _ in range(5):
                put(b"%d" % number * 1000)
            assert pump.receive_part() == (b"%d" % number if number < 4 else b"")

    pump = Overflowing(Threads(), produce, stream, None)
    pump._max_bytes = 1000
    pump.start_thread()
    await eventually(lambda: files.made)
    with anyio.fail_after(SECONDS):
        async for part in pump:
            assert isinstance(part, bytes)
            got += part
    await pump.aclose()
    assert got == b"".join(b"%d" % number * 5000 for number in range(1, 5))
    files.check()


async def test_input_that_is_streamed_comes_back_whole(files: Files) -> None:
    """Of a client that sends and reads in turns."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [TEXT])
        while part := environ["wsgi.input"].read(100_000):
            yield from [part] * 20

    upload = [bytes([number]) * 100_000 for number in range(5)]
    channel = Reader(body_messages(*upload), suspends=True)
    handler = checked(app, body="stream", response_spool_bytes=None)
    async with anyio.create_task_group() as group:
        group.start_soon(partial(serve, handler, channel, method="POST"))
        await eventually(lambda: files.made)
        channel.go_on.set()
    assert digest([channel.body]) == digest(part * 20 for part in upload)
    files.check()


# --- what goes wrong -------------------------------------------------------------------------------------


async def test_client_that_leaves_stops_an_endless_stream(files: Files) -> None:
    """Within one part; nothing is left, on disk or elsewhere."""
    threads = Threads()
    parts = Parts(*[b"x" * 65536] * 100_000)
    channel = Reader(tells="both")
    wrote = threading.Event()
    go_on = threading.Event()

    def wait() -> None:
        if files.made[0].most > MiB:
            wrote.set()
            assert go_on.wait(SECONDS)

    files.on_write = wait
    async with LeakGuard():
        async with anyio.create_task_group() as group:
            group.start_soon(serve, WSGIHandler(parts, response_spool_bytes=None, threads=threads), channel)
            await eventually(wrote.is_set)
            given = parts.given
            channel.disconnect()
            channel.go_on.set()
            await turn(10)
            go_on.set()
    assert given <= parts.given <= given + 1
    assert (parts.closed, threads.in_use) == (1, 0)
    files.check()


@pytest.mark.parametrize("how", ["disconnect", "send"])
async def test_client_that_leaves_when_the_thread_is_free_leaves_nothing(files: Files, how: str) -> None:
    """The file is closed by a thread for files."""
    threads = Threads()
    parts = Parts(*blocks(40))

    async def on_send(index: int, message: Message) -> None:
        if index == 3:
            await eventually(lambda: not threads.in_use)
            if how == "send":
                raise ConnectionResetError
            channel.disconnect()
            await anyio.sleep_forever()

    channel = Channel(on_send=on_send)
    async with LeakGuard():
        await serve(WSGIHandler(parts, response_spool_bytes=None, threads=threads), channel)
    check_messages(channel.sent, complete=False)
    assert parts.closed == 1
    assert len(files.made) == 1
    files.check()


async def test_error_of_the_application_follows_what_it_gave_before(files: Files) -> None:
    """All of that goes out, and the response never ends as if it were whole."""
    error = KeyError("a")
    threads = Threads()
    parts = Parts(*blocks(40), error)
    channel = Reader()

    async def run() -> None:
        with pytest.raises(KeyError) as caught:
            await serve(WSGIHandler(parts, response_spool_bytes=None, threads=threads), channel)
        assert caught.value is error

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await eventually(lambda: parts.closed and not threads.in_use)
        channel.go_on.set()
    check_messages(channel.sent, complete=False)
    assert digest([channel.body]) == digest(blocks(40))
    assert parts.closed == 1
    files.check()


async def test_file_that_got_shorter_cuts_the_response(files: Files) -> None:
    """It is an error, and not an end."""
    files.readable = 0
    threads = Threads()
    channel = Reader()

    async def run() -> None:
        with pytest.raises(OSError, match="shorter than"):
            await serve(WSGIHandler(Parts(*blocks(40)), response_spool_bytes=None, threads=threads), channel)

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await eventually(lambda: files.made and not threads.in_use)
        channel.go_on.set()
    check_messages(channel.sent, complete=False)
    files.check()


@pytest.fixture
def site(files: Files, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A bridge that keeps a kilobyte in memory, and reads two at once."""
    monkeypatch.setattr(_overflow, "BATCH_BYTES", 2000)
    monkeypatch.setattr(Overflowing, "__init__", small(Overflowing.__init__))
    return Site()


def small(init: Any) -> Any:
    def of_a_kilobyte(self: Overflowing, *args: Any, **options: Any) -> None:
        init(self, *args, **options)
        self._max_bytes = 1000

    return of_a_kilobyte


class Site:
    """An ASGI application that sends nothing before its thread is free."""

    given = blocks(12, 500)

    def __init__(self) -> None:
        self.threads = Threads()
        self.streams: list[Parts] = []
        self.handler = WSGIHandler(self.app, response_spool_bytes=None, threads=self.threads)

    def app(self, environ: dict[str, Any], start_response: Any) -> Parts:
        self.streams.append(Parts(*self.given))
        return self.streams[-1](environ, start_response)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_later(message: Message) -> None:
            # Without a turn of the loop: faults are counted by them.
            until_sync(lambda: self.streams[-1].closed)
            await send(message)

        await self.handler(scope, receive, send_later)

    def check(self) -> None:
        assert [parts.closed for parts in self.streams] == [1] * len(self.streams)
        assert [len(parts.threads) for parts in self.streams] == [1] * len(self.streams)
        assert self.threads.in_use == 0


async def test_every_fault_leaves_nothing(files: Files, site: Site) -> None:
    """A send that fails, a client that leaves, a cancellation: at each moment of a response that is on disk."""
    client = Client(site)
    happened = 0
    async with LeakGuard():
        for fault in every_fault():
            response = await client.get("/", fault=fault)
            happened += fault.happened
            if not fault.happened:
                assert digest([response.body]) == digest(site.given)
            await eventually(lambda: files.are_closed and not site.threads.in_use)
            # A native cancellation may break into whatever waits.
            files.check(on_loop=fault.kind == "native_cancel")
            files.made.clear()
    assert happened > 20
    site.check()


@on_asyncio
async def test_request_that_is_thrown_away_wherever_it_waits_closes_the_file(files: Files, site: Site) -> None:
    """At once, or by the thread that is at it."""
    number = 0
    is_under_way = True
    with anyio.fail_after(20):
        while is_under_way:
            number += 1
            channel = Channel(suspends=True)
            is_under_way = await dropped_at(site(http_scope(), channel.receive, channel.send), number)
            await eventually(lambda: files.are_closed and not site.threads.in_use)
    assert number > 10
    files.check(on_loop=True)
    site.check()


@on_asyncio
async def test_request_that_is_thrown_away_while_no_thread_is_free_closes_the_file(
    files: Files, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The closing that waits for a thread never runs."""
    threads = Threads(1)
    monkeypatch.setattr(_spool, "_files", threads)
    leave = threading.Event()
    busy = threads.start(leave.wait, SECONDS)

    async def on_send(index: int, _: Any) -> None:
        if index == 1:
            raise ConnectionResetError

    channel = Channel(on_send=on_send)
    with anyio.fail_after(SECONDS):
        await dropped_when(site(http_scope(), channel.receive, channel.send), partial(getattr, threads, "waiting"))
    assert len(files.made) == 1
    files.check(on_loop=True)
    leave.set()
    await busy.wait()
    assert await threads.aclose()
    site.check()


@on_asyncio
async def test_closing_that_is_cancelled_natively_waits_for_the_thread_and_not_for_the_file(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is closed at once; the cancellation is raised when the producer has ended."""
    threads = Threads(1)
    monkeypatch.setattr(_spool, "_files", threads)
    go_on = threading.Event()

    def produce(put: Put) -> None:
        putting([b"a" * 900, b"b" * 900])(put)
        assert go_on.wait(SECONDS)
        raise KeyError

    pump = overflowing(produce)
    pump.start_thread()
    await eventually(lambda: files.made and files.made[0].most == 900)
    busy = threads.start(go_on.wait, SECONDS)
    task = asyncio.create_task(pump.aclose())
    await eventually(lambda: threads.waiting)
    task.cancel()
    await eventually(lambda: files.are_closed)
    await turn(5)
    assert not task.done()
    go_on.set()
    with anyio.fail_after(SECONDS), pytest.raises(asyncio.CancelledError):
        await task
    assert files.made[0].closings == [threading.get_ident()]
    await busy.wait()
    assert await threads.aclose()


async def test_thread_that_writes_when_the_loop_gives_up_closes_the_file(files: Files) -> None:
    """The loop does not wait for it, and it takes no further part."""
    writes, go_on = threading.Event(), threading.Event()
    raised: list[BaseException] = []
    threads = Threads()

    def wait() -> None:
        writes.set()
        assert go_on.wait(SECONDS)

    def produce(put: Put) -> None:
        put(b"a" * 900)
        put(b"b" * 900)
        try:
            put(b"c" * 900)
        except OSError as exc:
            raised.append(exc)
            raise

    files.on_write = wait
    pump = overflowing(produce, threads)
    pump.start_thread()
    await eventually(writes.is_set)
    pump.stop_thread()
    assert not files.are_closed
    go_on.set()
    await eventually(lambda: files.are_closed and not threads.in_use)
    await pump.aclose()
    assert [type(exc) for exc in raised] == [ClientDisconnectedError]
    files.check()


async def test_thread_that_reads_when_the_loop_gives_up_closes_the_file(files: Files) -> None:
    """The consumer is told of the end."""
    reads, go_on = threading.Event(), threading.Event()
    ended: list[bytes | str] = []

    def wait() -> None:
        reads.set()
        assert go_on.wait(SECONDS)

    async def consume() -> None:
        ended.extend([part async for part in pump])

    threads = Threads()
    files.on_read = wait
    pump = overflowing(putting([b"a" * 900, b"b" * 900, b"c" * 900]), threads)
    pump.start_thread()
    await eventually(lambda: not threads.in_use)
    assert await anext(pump) == b"a" * 900
    files.readable = 100
    with anyio.fail_after(SECONDS):
        async with anyio.create_task_group() as group:
            group.start_soon(consume)
            await eventually(reads.is_set)
            pump.stop_thread()
            assert not files.are_closed
            go_on.set()
    await pump.aclose()
    assert ended == []
    files.check()


async def test_thread_that_comes_too_late_to_read_finds_no_file(files: Files) -> None:
    """It was closed on the way there."""
    threads = Threads()
    pump = overflowing(putting([b"a" * 900, b"b" * 900]), threads)
    pump.start_thread()
    await eventually(lambda: not threads.in_use)
    pump.stop_thread()
    pump._read(900)
    await pump.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(pump)
    files.check(on_loop=True)


async def test_anext_cancelled_while_the_file_is_read_loses_nothing(files: Files) -> None:
    """Whoever asks next gets what was read meanwhile."""
    reads, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        reads.set()
        assert go_on.wait(SECONDS)

    async def consume() -> None:
        with scope:
            await anext(pump)

    threads = Threads()
    scope = anyio.CancelScope()
    files.on_read = wait
    pump = overflowing(putting([b"a" * 900, b"b" * 900, b"c" * 900]), threads)
    pump.start_thread()
    await eventually(lambda: not threads.in_use)
    assert await anext(pump) == b"a" * 900
    with anyio.fail_after(SECONDS):
        async with anyio.create_task_group() as group:
            group.start_soon(consume)
            await eventually(reads.is_set)
            scope.cancel()
            await turn(3)
            go_on.set()
        assert scope.cancelled_caught
        assert digest([part async for part in pump]) == digest([b"b" * 900, b"c" * 900])
    await pump.aclose()
    files.check()


# --- any of them -----------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(
    sizes=st.lists(st.integers(1, 300), max_size=60),
    max_bytes=st.integers(0, 600),
    max_disk_bytes=st.one_of(st.none(), st.integers(0, 1000)),
    batch_bytes=st.integers(1, 400),
    delays=st.lists(st.booleans(), min_size=1, max_size=5),
    pauses=st.lists(st.integers(0, 3), min_size=1, max_size=7),
    taken=st.integers(0, 70),
    backend=st.sampled_from(["asyncio", "trio"]),
)
def test_parts_of_any_size_at_any_pace_keep_their_order(
    sizes: list[int],
    max_bytes: int,
    max_disk_bytes: int | None,
    batch_bytes: int,
    delays: list[bool],
    pauses: list[int],
    taken: int,
    backend: str,
) -> None:
    """Whatever is in memory and whatever on disk; of a consumer that may leave at any part."""
    given = [bytes([index]) * size for index, size in enumerate(sizes)]
    files = Files()

    def produce(put: Put) -> None:
        for index, part in enumerate(given):
            if delays[index % len(delays)]:
                threading.Event().wait(0.0001)
            put(part)

    async def main() -> None:
        pump = overflowing(produce, None, max_disk_bytes, max_bytes)
        got: list[Any] = []
        try:
            if taken:
                async for part in pump:
                    got.append(part)
                    for _ in range(pauses[len(got) % len(pauses)]):
                        await checkpoint()
                    if len(got) == taken:
                        break
        finally:
            await pump.aclose()
        body = b"".join(got)
        assert b"".join(given).startswith(body)
        if len(got) < taken:
            assert len(body) == sum(sizes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_overflow, "TemporaryFile", files)
        patch.setattr(_overflow, "_PATIENCE_SECONDS", 0)
        patch.setattr(_overflow, "BATCH_BYTES", batch_bytes)
        anyio.run(main, backend=backend if trio_is_here() else "asyncio")
    files.check()
    assert max_disk_bytes is None or all(file.most <= max_disk_bytes for file in files.made)


def test_disk_is_had_by_turns() -> None:
    """Whoever waits for it has it before one that comes again: a client is not kept waiting by a quick application."""
    overflowing = Overflowing(Threads(), lambda put: None, lambda: pytest.fail("nobody asks for the body"), None)
    order: list[str] = []

    def read() -> None:
        with overflowing._at_the_disk():
            order.append("reader")

    reader = threading.Thread(target=read)
    with overflowing._at_the_disk():
        reader.start()
        deadline = monotonic() + SECONDS
        while not overflowing._turn.locked():  # until the reader waits
            assert monotonic() < deadline
    # At once again, as a producer that never rests.
    with overflowing._at_the_disk():
        order.append("writer")
    reader.join(SECONDS)
    assert order == ["reader", "writer"]
