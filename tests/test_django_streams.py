"""Django's streams and files: part by part, in constant memory, closed where they ran, whatever the client does."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import threading
from collections.abc import AsyncIterator, Iterator
from io import BytesIO, RawIOBase
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from django.core.files.base import ContentFile, File
from django.http import FileResponse, HttpRequest, HttpResponse, StreamingHttpResponse
from django_site import (
    OURS,
    SECONDS,
    STOCK,
    Diary,
    ask,
    backends,
    both,
    eventually,
    noting,
    receivers,
    run,
    same,
    site,
    start,
    wait_for,
)

from asgicore import ContentLengthError
from asgicore.testing import Channel, Message
from asgicore.testing._living import descriptors as open_files

pytestmark = backends

MiB = 2**20
DATA = bytes(range(256)) * 2048  # 512 KiB: more than one block, many messages
variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


@pytest.fixture(autouse=True)
def _no_collector() -> Iterator[None]:
    """Nothing here may be left to the garbage collector."""
    gc.disable()
    yield
    gc.enable()


def returning(response: Any, is_async: bool = True) -> Any:
    if not is_async:
        return lambda request: response() if callable(response) else response

    async def view(request: HttpRequest) -> Any:
        return response() if callable(response) else response

    return view


# --- synchronous iterators ---------------------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [True, False], ids=["async view", "sync view"])
async def test_stream_of_a_generator_sends_each_part_at_once(is_async: bool) -> None:
    """A part is on the wire before the next one is made: the generator waits for that."""
    sent = [threading.Event() for _ in range(3)]

    async def on_send(index: int, message: Message) -> None:
        if message.get("body"):
            sent[int(message["body"])].set()

    def parts() -> Iterator[str]:
        for number in range(3):
            yield str(number)
            wait_for(sent[number])

    with site(returning(lambda: StreamingHttpResponse(parts()), is_async)):
        outcome = await run(OURS(), Channel(on_send=on_send))
    assert outcome.body == b"012"
    assert outcome.is_ended


async def test_stream_of_a_generator_is_never_far_ahead_of_the_client() -> None:
    """However slow the client is, less than one MiB waits for it."""
    made = sent = 0
    ahead = []

    def parts() -> Iterator[bytes]:
        nonlocal made
        for _ in range(800):
            made += 65536
            yield b"x" * 65536

    async def on_send(index: int, message: Message) -> None:
        nonlocal sent
        if index % 50 == 0:
            await anyio.sleep(0.001)  # a slow client, not a wait for something
        ahead.append(made - sent)
        sent += len(message.get("body", b""))

    with site(returning(lambda: StreamingHttpResponse(parts()))):
        outcome = await run(OURS(), Channel(on_send=on_send))
    assert sent == 800 * 65536
    assert max(ahead) <= MiB
    assert outcome.is_ended


@pytest.mark.parametrize("is_async", [True, False], ids=["async view", "sync view"])
async def test_stream_of_a_generator_runs_in_the_thread_of_the_request(is_async: bool) -> None:
    """View, parts, closing and the signal share a thread, and the context of the view."""
    diary = Diary()

    def parts() -> Iterator[bytes]:
        diary.note("part")
        try:
            yield variable.get().encode()
        finally:
            diary.note("closed")

    def respond() -> StreamingHttpResponse:
        variable.set("of the view")
        return StreamingHttpResponse(parts())

    with site(returning(respond, is_async)), receivers(diary):
        outcome = await run(noting(OURS, diary), Channel(), diary)
    assert outcome.body == b"of the view"
    assert diary.entries == [(what, "thread 1") for what in ("started", "part", "closed", "request.close", "finished")]


@pytest.mark.parametrize("where", ["waiting for room", "between parts", "before the first part"])
async def test_stream_of_a_generator_is_closed_when_the_client_leaves(where: str) -> None:
    """It makes no part more than fits, its ``finally`` runs in its thread, before the application returns."""
    diary = Diary()
    release = threading.Event()
    is_waiting = anyio.Event()
    loop = asyncio.get_running_loop()
    made = 0

    def parts() -> Iterator[bytes]:
        nonlocal made
        diary.note("begun")
        try:
            if where != "waiting for room":
                if where == "between parts":
                    yield b"first"
                loop.call_soon_threadsafe(is_waiting.set)
                wait_for(release)
            while True:
                made += 1
                yield b"x" * 65536
        finally:
            diary.note("closed")

    async def on_send(index: int, message: Message) -> None:
        if where == "waiting for room" and index == 2:
            is_waiting.set()
            await anyio.sleep_forever()

    server = Channel(on_send=on_send)
    with site(returning(lambda: StreamingHttpResponse(parts()))), receivers(diary):
        handler = OURS()
        request = start(run(handler, server, diary))
        with anyio.fail_after(SECONDS):
            await is_waiting.wait()
            server.disconnect()
            await server.told.wait()
            release.set()
            outcome = await request
    assert outcome.raised is None
    assert diary.entries == [(what, "thread 1") for what in ("started", "begun", "closed", "finished")]
    assert made <= 14
    assert handler.workers.in_use == 0


class Parts:
    """An iterable that is no generator, with what iterators may have; notes what is called, where."""

    def __init__(self, diary: Diary, *parts: bytes, fails: str = "") -> None:
        self.diary = diary
        self.fails = fails
        self.parts = iter(parts)

    def __iter__(self) -> Parts:
        self.diary.note("iter")
        if self.fails == "iter":
            raise RuntimeError("iter")
        return self

    def __next__(self) -> bytes:
        if self.fails == "next":
            raise RuntimeError("next")
        return next(self.parts)

    def close(self) -> None:
        self.diary.note("close")
        if self.fails == "close":
            raise RuntimeError("close")


async def test_stream_of_an_iterator_is_closed_once_in_the_thread() -> None:
    """What has a ``close()`` is closed by Django's response, once."""
    diary = Diary()
    with site(returning(lambda: StreamingHttpResponse(Parts(diary, b"a", b"b")))):
        outcome = await run(OURS(), Channel(), diary)
    assert outcome.body == b"ab"
    assert diary.count("close") == 1
    assert ("close", "thread 1") in diary.entries


@pytest.mark.parametrize("fails", ["next", "close"])
async def test_stream_of_an_iterator_that_fails_is_closed(fails: str, caplog: pytest.LogCaptureFixture) -> None:
    """An error of an iterator is raised to the server; one of its ``close()`` hides no signal."""
    diary = Diary()
    with site(returning(lambda: StreamingHttpResponse(Parts(diary, b"a", fails=fails)))), receivers(diary):
        outcome = await run(OURS(), Channel(), diary)
    assert repr(outcome.raised) == ("RuntimeError('next')" if fails == "next" else "None")
    assert diary.count("close") == diary.count("finished") == 1


async def test_stream_of_a_stop_iteration_ends_and_hangs_nobody() -> None:
    """A generator that raises ``StopIteration`` inside, by mistake, is an error and not a silent end."""

    def parts() -> Iterator[bytes]:
        yield b"a"
        yield next(iter(()))

    with site(returning(lambda: StreamingHttpResponse(parts()))):
        outcome = await ask(OURS())
    assert isinstance(outcome.raised, RuntimeError)
    assert not outcome.is_ended


async def test_stream_sent_twice_is_an_error() -> None:
    """A stream can be had once; Django says nothing and sends an empty one."""
    kept = StreamingHttpResponse(iter([b"once"]))
    with site(returning(lambda: kept)):
        handler = OURS()
        assert (await ask(handler)).body == b"once"
        assert (await ask(handler)).body == b""


# --- subclasses, and what middleware does to streams -------------------------------------------------------


class OwnIter(StreamingHttpResponse):
    def __iter__(self) -> Any:
        for part in super().__iter__():
            yield part.upper()


class OwnAiter(StreamingHttpResponse):
    async def __aiter__(self) -> Any:
        yield b"own "
        async for part in super().__aiter__():
            yield part.upper()


class OwnContent(StreamingHttpResponse):
    @property
    def streaming_content(self) -> Any:
        return [b"own content"]

    @streaming_content.setter
    def streaming_content(self, value: Any) -> None:
        self._set_streaming_content(value)


class OwnAsyncContent(StreamingHttpResponse):
    is_async = True

    @property
    def streaming_content(self) -> Any:
        async def parts() -> AsyncIterator[bytes]:
            yield b"own async content"

        return parts()

    @streaming_content.setter
    def streaming_content(self, value: Any) -> None:
        self._set_streaming_content(value)


class OwnBytes(StreamingHttpResponse):
    def make_bytes(self, value: Any) -> bytes:
        return b"<%s>" % super().make_bytes(value)


class NotStreamed(HttpResponse):
    """No ``StreamingHttpResponse``, but a stream all the same."""

    streaming = True
    is_async = False

    async def __aiter__(self) -> Any:
        yield b"ducks"


async def async_parts() -> AsyncIterator[Any]:
    for part in (b"a", "b\xe9", memoryview(b"c"), 4):
        yield part


class AsyncIterable:
    """An asynchronous iterable that is no generator and has no ``aclose()``."""

    def __init__(self) -> None:
        self.left = 3

    def __aiter__(self) -> AsyncIterable:
        return self

    async def __anext__(self) -> bytes:
        if not self.left:
            raise StopAsyncIteration
        self.left -= 1
        return b"%d" % self.left


STREAMS = {
    "own __iter__": lambda: OwnIter([b"a", "b"]),
    "own __aiter__, sync": lambda: OwnAiter([b"a", "b"]),
    "own __aiter__, async": lambda: OwnAiter(async_parts()),
    "own streaming_content": lambda: OwnContent([b"a"]),
    "own make_bytes": lambda: OwnBytes([b"a", "b"]),
    "own make_bytes, async": lambda: OwnBytes(async_parts()),
    "own class": NotStreamed,
    "async generator": lambda: StreamingHttpResponse(async_parts()),
    "async latin-1": lambda: StreamingHttpResponse(async_parts(), content_type="text/plain; charset=latin-1"),
    "async iterable": lambda: StreamingHttpResponse(AsyncIterable()),
}


@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume synchronous iterators")
@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("is_async", [True, False], ids=["async view", "sync view"])
async def test_stream_of_a_subclass_is_what_stock_django_sends(name: str, is_async: bool) -> None:
    """Whatever of ``StreamingHttpResponse`` a site overrides is asked, as by Django's handler."""
    with site(returning(STREAMS[name], is_async)):
        outcome = await same()
    assert outcome.body
    assert outcome.is_ended


async def test_stream_of_its_own_asynchronous_content_is_sent() -> None:
    """``streaming_content`` overridden by something asynchronous is asked as well."""
    with site(returning(lambda: OwnAsyncContent([b"a"]))):
        outcome = await ask(OURS())
    assert outcome.is_ended
    assert outcome.body in (b"own async content", b"a")


@pytest.mark.parametrize("is_async", [True, False])
async def test_stream_that_middleware_wraps_is_what_stock_django_sends(is_async: bool) -> None:
    """``streaming_content`` may be replaced on the way out, and Django's own ``GZipMiddleware`` does so."""
    import gzip

    def wrapping(get_response: Any) -> Any:
        def middleware(request: HttpRequest) -> Any:
            response = get_response(request)
            inner = response.streaming_content
            if response.is_async:

                async def parts() -> AsyncIterator[bytes]:
                    async for part in inner:
                        yield part * 2

                response.streaming_content = parts()
            else:
                response.streaming_content = (part * 2 for part in inner)
            return response

        return middleware

    def respond() -> StreamingHttpResponse:
        return StreamingHttpResponse(async_parts() if is_async else iter([b"ab" * 500]))

    with site(returning(respond), middleware=[wrapping]):
        await same()
    with site(returning(respond), middleware=["django.middleware.gzip.GZipMiddleware"]):
        theirs, mine = await both(headers=[(b"host", b"x"), (b"accept-encoding", b"gzip")])
    assert mine.header("content-encoding") == ["gzip"]
    assert gzip.decompress(mine.body) == gzip.decompress(theirs.body)


# --- asynchronous iterators --------------------------------------------------------------------------------


class Witness:
    """An asynchronous generator that sets a context variable, and can undo that only where it ran."""

    def __init__(self, parts: int = 10**9) -> None:
        self.parts = parts
        self.finalised = 0
        self.is_waiting = anyio.Event()

    async def generate(self, waits_after: int | None = None) -> AsyncIterator[bytes]:
        task = asyncio.current_task()
        token = variable.set("stream")
        try:
            for number in range(self.parts):
                if number == waits_after:
                    self.is_waiting.set()
                    await anyio.sleep_forever()
                yield b"%d" % number
                await checkpoint()
        finally:
            await anyio.lowlevel.cancel_shielded_checkpoint()
            assert asyncio.current_task() is task
            variable.reset(token)
            self.finalised += 1


@pytest.mark.parametrize("exit_", ["end", "waiting", "sending", "send raises"])
@pytest.mark.parametrize("is_async", [True, False], ids=["async view", "sync view"])
async def test_stream_of_an_async_generator_is_closed_in_its_task_before_the_application_returns(
    exit_: str, is_async: bool
) -> None:
    """Its ``finally`` runs in the task and context that iterated, and ends, on every exit."""
    witness = Witness(3 if exit_ == "end" else 10**9)
    waits_after = 2 if exit_ == "waiting" else None

    async def on_send(index: int, message: Message) -> None:
        if index == 3 and exit_ == "send raises":
            raise BrokenPipeError
        if index == 3 and exit_ == "sending":
            witness.is_waiting.set()
            await anyio.sleep_forever()

    server = Channel(on_send=on_send)
    with site(returning(lambda: StreamingHttpResponse(witness.generate(waits_after)), is_async)):
        request = start(run(OURS(), server))
        with anyio.fail_after(SECONDS):
            if exit_ in ("waiting", "sending"):
                await witness.is_waiting.wait()
                server.disconnect()
            outcome = await request
    assert outcome.raised is None
    assert witness.finalised == 1
    assert outcome.is_ended is (exit_ == "end")


async def test_stream_of_an_async_generator_that_never_began_is_closed() -> None:
    """A client that is gone when the response starts costs the generator nothing, and leaves no warning."""
    witness = Witness()
    made: list[Any] = []

    async def on_send(index: int, message: Message) -> None:
        raise BrokenPipeError

    def respond() -> StreamingHttpResponse:
        made.append(witness.generate())
        return StreamingHttpResponse(made[0])

    with site(returning(respond)):
        outcome = await run(OURS(), Channel(on_send=on_send))
    assert outcome.raised is None
    assert witness.finalised == 0
    assert made[0].ag_frame is None


async def test_stream_of_an_async_generator_gives_the_thread_back() -> None:
    """A stream may go on for hours: middleware and view are done, and their thread serves somebody else."""
    witness = Witness()

    def middleware(get_response: Any) -> Any:
        return lambda request: get_response(request)

    server = Channel()
    diary = Diary()
    with site(returning(lambda: StreamingHttpResponse(witness.generate(2))), middleware=[middleware]):
        handler = noting(OURS, diary, max_workers=1)
        request = start(run(handler, server, diary))
        with anyio.fail_after(SECONDS):
            await witness.is_waiting.wait()
            await eventually(lambda: handler.workers.in_use == 0, "the thread is given back")
            assert handler.workers.alive == 1
            server.disconnect()
            await request
        assert handler.workers.alive == 1
    assert diary.events == ["request.close"]


async def test_stream_of_an_async_generator_with_receivers_of_the_site_keeps_its_thread() -> None:
    """Where somebody else's receivers are connected, what they keep in the thread stays theirs to the end."""
    witness = Witness()
    server = Channel()
    diary = Diary()
    with site(returning(lambda: StreamingHttpResponse(witness.generate(2)), False)), receivers(diary):
        handler = noting(OURS, diary)
        request = start(run(handler, server, diary))
        with anyio.fail_after(SECONDS):
            await witness.is_waiting.wait()
            assert handler.workers.in_use == 1
            server.disconnect()
            await request
    assert diary.places() == {"thread 1"}


# --- files -------------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "data.bin"
    path.write_bytes(DATA)
    return path


class Odd(RawIOBase):
    """A file-like object without descriptor and without size, that gives what it likes."""

    def __init__(self) -> None:
        self.left = 5

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        self.left -= 1
        return b"odd" if self.left >= 0 else b""


def offset(path: Path) -> Any:
    file = path.open("rb")
    file.seek(1000)
    return file


FILES = {
    "file": lambda path: FileResponse(path.open("rb")),
    "attachment": lambda path: FileResponse(path.open("rb"), as_attachment=True, filename="d\xe4ta.bin"),
    "named": lambda path: FileResponse(path.open("rb"), filename="other.txt"),
    "offset": lambda path: FileResponse(offset(path)),
    "at its end": lambda path: FileResponse(os.fdopen(os.open(path, os.O_RDONLY | os.O_APPEND), "rb")),
    "unbuffered": lambda path: FileResponse(path.open("rb", buffering=0)),
    "memory": lambda path: FileResponse(BytesIO(DATA), filename="memory.bin"),
    "memory, offset": lambda path: FileResponse(_sought(BytesIO(DATA), 7)),
    "django file": lambda path: FileResponse(File(path.open("rb"))),
    "content file": lambda path: FileResponse(ContentFile(DATA, name="content.bin")),
    "odd": lambda path: FileResponse(Odd()),
    "iterator": lambda path: FileResponse(iter([b"a", b"b"])),
    "list": lambda path: FileResponse([b"a", b"b"]),
}


def _sought(file: Any, position: int) -> Any:
    file.seek(position)
    return file


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("is_async", [True, False], ids=["async view", "sync view"])
async def test_file_is_what_stock_django_sends(name: str, is_async: bool, path: Path) -> None:
    """Whatever is given as a file: its fields and all of what is left of it; closed afterwards."""
    before = open_files()
    with site(returning(lambda: FILES[name](path), is_async)):
        theirs, mine = await both()
    assert mine.answer == theirs.answer
    # What has a size declares it in Django's words, which are not taken away.
    assert mine.header("content-length") == theirs.header("content-length")
    assert mine.raised is theirs.raised is None
    assert mine.is_ended
    assert open_files() == before
    assert all(len(message.get("body", b"")) <= 65536 for message in mine.channel.sent)


async def test_file_that_is_a_pipe_is_sent_to_its_end() -> None:
    """A pipe has no size and no place: it is read as it comes."""
    made = []

    def respond() -> FileResponse:
        reader, writer = os.pipe()
        os.write(writer, b"through the pipe")
        os.close(writer)
        made.append(os.fdopen(reader, "rb"))
        return FileResponse(made[-1])

    with site(returning(respond)):
        outcome = await same()
    assert outcome.body == b"through the pipe"
    assert all(file.closed for file in made)


@pytest.mark.parametrize("name", ["file", "named", "unbuffered"])
async def test_file_is_left_to_the_server_where_it_offers_to(name: str, path: Path) -> None:
    """``http.response.pathsend``: nothing is read, and the file is closed."""
    made = []

    def respond() -> FileResponse:
        made.append(FILES[name](path))
        return made[-1]

    with site(returning(respond)):
        outcome = await ask(OURS(), extensions={"http.response.pathsend": {}})
    start_, message = outcome.channel.sent
    assert start_["status"] == 200
    assert message == {"type": "http.response.pathsend", "path": str(path)}
    assert outcome.header("content-length") == [str(len(DATA))]
    assert made[0].file_to_stream.closed


@pytest.mark.parametrize("name", ["offset", "memory", "odd", "iterator", "deleted", "replaced", "shorter"])
async def test_file_that_is_not_the_whole_of_a_path_is_sent_by_us(name: str, path: Path) -> None:
    """What the server would send instead is not what the view returned."""

    def respond() -> FileResponse:
        if name in FILES:
            return FILES[name](path)
        response = FileResponse(path.open("rb"))
        if name == "deleted":
            path.unlink()
        elif name == "replaced":
            path.unlink()
            path.write_bytes(b"something else")
        else:
            response["Content-Length"] = "10"
        return response

    with site(returning(respond)):
        outcome = await ask(OURS(), extensions={"http.response.pathsend": {}})
    assert {message["type"] for message in outcome.channel.sent[1:]} == {"http.response.body"}
    assert outcome.body
    if name in ("deleted", "replaced"):
        assert outcome.body == DATA
    if name == "shorter":
        assert outcome.body == DATA[:10]
        assert outcome.is_ended


@pytest.mark.parametrize("change", ["truncated", "grown"])
async def test_file_that_changes_while_it_is_served_keeps_its_declared_length(change: str, path: Path) -> None:
    """Never a byte more than was declared; fewer are an error, and the response is not ended (SECURITY row 41)."""
    await anyio.Path(path).write_bytes(DATA * 8)

    async def on_send(index: int, message: Message) -> None:
        if index == 1:
            if change == "truncated":
                os.truncate(path, 100)
            else:
                with path.open("ab") as file:
                    file.write(b"more")

    before = open_files()
    with site(returning(lambda: FileResponse(path.open("rb")))):
        outcome = await run(OURS(), Channel(on_send=on_send))
    assert outcome.header("content-length") == [str(8 * len(DATA))]
    if change == "grown":
        assert outcome.body == DATA * 8
        assert outcome.is_ended
    else:
        assert isinstance(outcome.raised, ContentLengthError)
        assert not outcome.is_ended
    assert open_files() == before


@pytest.mark.parametrize("exit_", ["disconnect", "send raises"])
async def test_file_is_closed_when_the_client_leaves(exit_: str, path: Path) -> None:
    """Reading stops, and the file is closed before the application returns."""
    before = open_files()
    diary = Diary()
    is_sending = anyio.Event()

    async def on_send(index: int, message: Message) -> None:
        if index == 2:
            if exit_ == "send raises":
                raise BrokenPipeError
            is_sending.set()
            await anyio.sleep_forever()

    server = Channel(on_send=on_send)
    with site(returning(lambda: FileResponse(path.open("rb")))), receivers(diary):
        request = start(run(OURS(), server, diary))
        with anyio.fail_after(SECONDS):
            if exit_ == "disconnect":
                await is_sending.wait()
                server.disconnect()
            outcome = await request
    assert outcome.raised is None
    assert open_files() == before
    assert diary.events == ["started", "finished"]


async def test_file_is_read_in_large_blocks_off_the_loop(path: Path) -> None:
    """Few reads, each outside of the loop's thread."""
    places = []

    class Watched(File):
        def read(self, size: int = -1) -> bytes:
            places.append((threading.current_thread() is threading.main_thread(), size))
            data: bytes = self.file.read(size)
            return data

        def fileno(self) -> int:
            number: int = self.file.fileno()
            return number

    with site(returning(lambda: FileResponse(Watched(path.open("rb"))))):
        outcome = await ask(OURS())
    assert outcome.body == DATA
    assert not any(is_loop for is_loop, _ in places)
    assert len(places) <= 3


async def test_file_in_text_mode_ends(path: Path) -> None:
    """A view's mistake, of which stock Django never sees the end: it compares what it reads with ``b""``."""
    before = open_files()
    with site(returning(lambda: FileResponse(path.open("r", encoding="latin-1", newline="")))):
        outcome = await ask(OURS())
    assert outcome.is_ended or outcome.raised is not None
    assert open_files() == before


async def test_file_block_size_is_that_of_the_handler(path: Path) -> None:
    """Django sets ``block_size`` of file responses to the handler's ``chunk_size``; so it is here."""
    sizes = {}
    for base in (STOCK, OURS):
        made: list[Any] = []

        class Handler(base):  # type: ignore[misc,valid-type]
            chunk_size = 5000

        def respond(made: Any = made) -> FileResponse:
            made.append(FileResponse(BytesIO(DATA)))
            return made[-1]

        with site(returning(respond)):
            outcome = await ask(Handler())
        sizes[base] = made[0].block_size, max(len(message.get("body", b"")) for message in outcome.channel.sent)
        assert outcome.body == DATA
    assert sizes[STOCK] == sizes[OURS] == (5000, 5000)
