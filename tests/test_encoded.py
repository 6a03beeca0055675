"""_encoded.py: encoded streams: parts, threads, scopes, lengths, closing."""

from __future__ import annotations

import threading
import zlib
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from clocks import Beats, Clock
from codings import CODINGS, decode, new_decoder
from faults import turn
from hypothesis import given, settings
from hypothesis import strategies as st
from test_stream_scopes import Source, holding

from asgicore import (
    Compression,
    ContentLengthError,
    Handler,
    Limits,
    Request,
    Response,
    ResponseStateError,
    StreamingResponse,
    Threads,
    ThreadsBusyError,
    _encoded,
)
from asgicore.testing import Channel, Message, call, check_messages, http_scope

SECONDS = 5
GZIP = Compression(encodings=["gzip"])
WANTED = [(b"accept-encoding", b"gzip, br, zstd")]


def handler_of(response: Any, compression: Compression = GZIP, **options: Any) -> Handler:
    async def endpoint(request: Request) -> Response:
        made: Response = response() if callable(response) and not isinstance(response, Response) else response
        return made

    return Handler(endpoint, compression=compression, **options)


def stream(content: Any, **more: Any) -> StreamingResponse:
    return StreamingResponse(content, content_type="text/plain", **more)


async def serve(response: Any, compression: Compression = GZIP, method: str = "GET", **scope: Any) -> Channel:
    channel = await call(handler_of(response, compression), method=method, headers=WANTED, **scope)
    check_messages(channel.sent, method=method)
    return channel


# --- parts -----------------------------------------------------------------------------------------------

bodies = st.lists(
    st.binary(max_size=200) | st.text(max_size=50) | st.integers(0, 300_000).map(bytes), min_size=0, max_size=6
)


def as_bytes(parts: list[bytes | str]) -> bytes:
    return b"".join(part.encode() if isinstance(part, str) else part for part in parts)


@pytest.mark.untraced
@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("is_synchronous", [False, True])
@settings(max_examples=25)
@given(parts=bodies)
async def test_stream_of_any_parts_is_the_same_when_decoded(
    coding: str, is_synchronous: bool, parts: list[bytes | str]
) -> None:
    """Empty ones, text, and those that threads encode in several pieces."""

    async def asynchronous() -> AsyncIterator[bytes | str]:
        for part in parts:
            yield part

    content = iter(parts) if is_synchronous else asynchronous()
    channel = await serve(stream(content), Compression(encodings=[coding]))
    assert dict(channel.headers)[b"content-encoding"] == coding.encode()
    assert decode(coding, channel.body) == as_bytes(parts)


@pytest.mark.parametrize("coding", CODINGS)
async def test_part_of_a_stream_is_there_before_the_next_is_asked_for(coding: str) -> None:
    """Each goes out at once, and can be decoded then."""
    decoder = new_decoder(coding)
    arrived: list[bytes] = []
    given = [b"one", b"two\n" * 1000, bytes(300_000), b"four"]

    async def parts() -> AsyncIterator[bytes]:
        for index, part in enumerate(given):
            assert b"".join(arrived) == b"".join(given[:index])
            yield part
            yield b""

    async def arrive(index: int, message: Message) -> None:
        if message["type"] == "http.response.body" and message["more_body"]:
            arrived.append(decoder(message["body"]))

    channel = Channel(on_send=arrive)
    with anyio.fail_after(SECONDS):
        handler = handler_of(stream(parts()), Compression(encodings=[coding]))
        await handler(http_scope(headers=WANTED), channel.receive, channel.send)
    assert b"".join(arrived) == b"".join(given)


async def test_part_of_a_synchronous_stream_goes_out_while_the_next_is_made() -> None:
    """The producer may wait for what its client says to it."""
    taken = threading.Event()

    def parts() -> Iterator[bytes]:
        yield b"first"
        assert taken.wait(SECONDS)
        yield b"second"

    async def arrive(index: int, message: Message) -> None:
        if index == 1:
            assert zlib.decompressobj(31).decompress(message["body"]) == b"first"
            taken.set()

    channel = Channel(on_send=arrive)
    with anyio.fail_after(SECONDS):
        await handler_of(stream(parts()))(http_scope(headers=WANTED), channel.receive, channel.send)
    assert decode("gzip", channel.body) == b"firstsecond"


@pytest.mark.parametrize("part", [1, None, ["a"]])
@pytest.mark.parametrize("is_synchronous", [False, True])
async def test_part_that_is_no_bytes_aborts_the_response(part: Any, is_synchronous: bool) -> None:
    """With the error that it has without compression."""

    async def asynchronous() -> AsyncIterator[Any]:
        yield b"before"
        yield part

    content: Any = iter([b"before", part]) if is_synchronous else asynchronous()
    with pytest.raises(TypeError, match="takes parts of bytes or str"):
        await serve(stream(content))


async def test_part_that_is_a_buffer_is_copied() -> None:
    """The producer may use it again."""

    async def parts() -> AsyncIterator[Any]:
        buffer = bytearray(b"one")
        yield buffer
        buffer[:] = b"two"
        yield memoryview(buffer)

    assert decode("gzip", (await serve(stream(parts()))).body) == b"onetwo"


# --- lengths ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_synchronous", [False, True])
@pytest.mark.parametrize("size", [1999, 2001])
async def test_stream_that_is_not_as_long_as_declared_is_aborted(size: int, is_synchronous: bool) -> None:
    """The length does not go out, and is held against what comes all the same."""

    async def asynchronous() -> AsyncIterator[bytes]:
        yield bytes(1000)
        yield bytes(size - 1000)

    content: Any = [bytes(1000), bytes(size - 1000)] if is_synchronous else asynchronous()
    channel = Channel()
    with pytest.raises(ContentLengthError) as raised, anyio.fail_after(SECONDS):
        handler = handler_of(stream(content, headers={"content-length": "2000"}))
        await handler(http_scope(headers=WANTED), channel.receive, channel.send)
    assert (raised.value.declared, raised.value.actual) == (2000, size)
    check_messages(channel.sent, complete=False)
    assert b"content-length" not in dict(channel.headers)


async def test_stream_that_is_as_long_as_declared_is_whole() -> None:
    """Nothing is wrong with it."""
    channel = await serve(stream([bytes(1000), bytes(1000)], headers={"content-length": "2000"}))
    check_messages(channel.sent, complete=True)
    assert decode("gzip", channel.body) == bytes(2000)


# --- threads ---------------------------------------------------------------------------------------------


class Counting:
    """zlib's encoder, which tells in which thread it works and how much it gets at once."""

    def __init__(self, encoder: Any) -> None:
        self._encoder = encoder

    threads: set[int]
    sizes: list[int]
    flushes: list[int]

    def flush(self, mode: int = zlib.Z_FINISH) -> bytes:
        Counting.flushes.append(mode)
        encoded: bytes = self._encoder.flush(mode)
        return encoded

    def compress(self, data: bytes) -> bytes:
        Counting.threads.add(threading.get_ident())
        Counting.sizes.append(len(data))
        encoded: bytes = self._encoder.compress(data)
        return encoded


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> type[Counting]:
    build = zlib.compressobj
    monkeypatch.setattr(zlib, "compressobj", lambda *arguments: Counting(build(*arguments)))
    Counting.threads, Counting.sizes, Counting.flushes = set(), [], []
    return Counting


LEVELS = [
    pytest.param(5, 65536, True, id="small"),
    pytest.param(5, 65537, False, id="large"),
    pytest.param(9, 2000, False, id="small, at a level that is slow"),
]


@pytest.mark.parametrize(("level", "size", "on_loop"), LEVELS)
@pytest.mark.parametrize("is_whole", [True, False])
async def test_content_is_encoded_on_the_loop_if_that_takes_no_time(
    level: int, size: int, on_loop: bool, is_whole: bool, counting: type[Counting]
) -> None:
    """Else in a worker thread; the loop is never held for more than a millisecond or two."""

    async def parts() -> AsyncIterator[bytes]:
        yield bytes(size)

    response = Response(bytes(size), content_type="text/plain") if is_whole else stream(parts())
    channel = await serve(response, Compression(encodings=["gzip"], levels={"gzip": level}))
    assert decode("gzip", channel.body) == bytes(size)
    assert (counting.threads == {threading.get_ident()}) is on_loop


async def test_synchronous_stream_is_encoded_in_the_thread_that_makes_it(counting: type[Counting]) -> None:
    """Nothing is encoded on the loop, and nothing takes another way to a thread."""
    made_in: set[int] = set()

    def parts() -> Iterator[bytes]:
        made_in.add(threading.get_ident())
        yield b"a"
        yield bytes(300_000)

    channel = await serve(stream(parts()))
    assert decode("gzip", channel.body) == b"a" + bytes(300_000)
    assert counting.threads == made_in
    assert counting.threads != {threading.get_ident()}


@pytest.mark.parametrize("is_whole", [True, False])
async def test_large_content_is_encoded_in_pieces(is_whole: bool, counting: type[Counting]) -> None:
    """A quarter of a megabyte each, so that the memory for it and the time of each hop are bounded."""

    async def parts() -> AsyncIterator[bytes]:
        yield bytes(2**20 + 1)

    response = Response(bytes(2**20 + 1), content_type="text/plain") if is_whole else stream(parts())
    assert decode("gzip", (await serve(response)).body) == bytes(2**20 + 1)
    assert counting.sizes == [2**18] * 4 + [1]
    assert counting.flushes == ([zlib.Z_FINISH] if is_whole else [zlib.Z_SYNC_FLUSH, zlib.Z_FINISH])


@pytest.mark.parametrize("is_whole", [True, False])
async def test_client_that_leaves_ends_the_encoding_after_its_piece(
    is_whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a thread has begun is waited for, and the rest is not begun."""
    entered, leave = threading.Event(), threading.Event()
    begun: list[int] = []

    class Slow:
        def compress(self, data: bytes) -> bytes:
            begun.append(len(data))
            entered.set()
            assert leave.wait(SECONDS)
            return b""

        def flush(self, mode: int = 0) -> bytes:
            return b""

    monkeypatch.setattr(zlib, "compressobj", lambda *arguments: Slow())

    async def parts() -> AsyncIterator[bytes]:
        yield bytes(2**20)

    response = Response(bytes(2**20), content_type="text/plain") if is_whole else stream(parts())
    channel = Channel()
    with anyio.fail_after(SECONDS):
        async with anyio.create_task_group() as group:
            group.start_soon(handler_of(response), http_scope(headers=WANTED), channel.receive, channel.send)
            while not entered.is_set():
                await checkpoint()
            channel.disconnect()
            await turn(5)
            leave.set()
    assert begun == [2**18]
    check_messages(channel.sent, complete=False)
    assert _encoded._encoding_threads.waiting == 0


async def test_stream_of_parts_that_shrink_to_nothing_gives_up_the_loop(clock: Clock) -> None:
    """Little is sent for much that is encoded, so that what was sent is no measure of the time."""
    part, number = bytes(30_000), 200

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(number):
            clock.work(0.0005)
            yield part

    beats, channel = Beats(clock), Channel()
    handler = handler_of(stream(parts()))
    await beats.during(lambda: handler(http_scope(headers=WANTED), channel.receive, channel.send))
    assert decode("gzip", channel.body) == part * number
    assert beats.longest <= 0.005
    assert beats.turns >= number * 0.0005 / 0.005


async def test_synchronous_stream_without_a_free_thread_is_a_503() -> None:
    """Nothing was sent when the thread is asked for. The body is closed when there is one."""
    held = threading.Event()

    async def release(index: int, message: Message) -> None:
        if message["type"] == "http.response.body":
            held.set()

    threads, body, channel = Threads(1, max_waiting=0), SynchronousBody(b"x"), Channel(on_send=release)
    with anyio.fail_after(SECONDS):
        job = threads.start(held.wait, SECONDS)
        handler = handler_of(stream(body), threads=threads)
        await handler(http_scope(headers=WANTED), channel.receive, channel.send)
        assert channel.status == 503
        assert body.closed == 1
        assert await job.wait()
        await threads.aclose()


class Started:
    """An asynchronous body that has to be started, for which there is no room."""

    closed = 0

    def __aiter__(self) -> Started:
        return self

    async def __anext__(self) -> bytes:
        raise AssertionError("not reached")

    def start_thread(self) -> None:
        raise ThreadsBusyError(1)

    async def aclose(self) -> None:
        self.closed += 1


async def test_asynchronous_stream_that_cannot_be_started_is_a_503() -> None:
    """What makes its parts elsewhere is asked before the response is begun."""
    body = Started()
    assert (await call(handler_of(lambda: stream(body)), headers=WANTED)).status == 503
    assert body.closed == 1


# --- closing ---------------------------------------------------------------------------------------------


class Body:
    """An asynchronous body that counts how often it was closed, and in which task."""

    def __init__(self, *parts: bytes, error: Exception | None = None) -> None:
        self._parts = iter(parts)
        self._error = error
        self.closed = 0

    def __aiter__(self) -> Body:
        return self

    async def __anext__(self) -> bytes:
        for part in self._parts:
            return part
        if self._error is not None:
            raise self._error
        raise StopAsyncIteration

    async def aclose(self) -> None:
        await checkpoint()
        self.closed += 1


class SynchronousBody:
    """A synchronous iterable, and an iterator of its own."""

    def __init__(self, *parts: bytes, error: Exception | None = None) -> None:
        self._parts = parts
        self._error = error
        self.closed = 0
        self.iterators_closed = 0

    def __iter__(self) -> Iterator[bytes]:
        return SynchronousIterator(self, iter(self._parts), self._error)

    def close(self) -> None:
        self.closed += 1


class SynchronousIterator:
    """It has a close() of its own, which Python does not call."""

    def __init__(self, body: SynchronousBody, parts: Iterator[bytes], error: Exception | None) -> None:
        self._body, self._parts, self._error = body, parts, error

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        for part in self._parts:
            return part
        raise self._error or StopIteration

    def close(self) -> None:
        self._body.iterators_closed += 1


class Owner(StreamingResponse):
    """A response with something of its own to let go of, once."""

    __slots__ = ("closed",)

    async def aclose(self) -> None:
        self.closed = getattr(self, "closed", 0) + 1
        await super().aclose()


BODIES = [pytest.param(Body, id="asynchronous"), pytest.param(SynchronousBody, id="synchronous")]


@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize("wanted", [b"gzip", b""])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_body_is_closed_once_when_it_ended_or_never_began(kind: Any, wanted: bytes, method: str) -> None:
    """Whether it was encoded or not; and so is the response that it is of."""
    body = kind(b"one", b"two")
    response = Owner(body, content_type="text/plain")
    channel = await call(handler_of(response), method=method, headers=[(b"accept-encoding", wanted)])
    check_messages(channel.sent, method=method, complete=True)
    assert body.closed == 1
    assert response.closed == 1


@pytest.mark.parametrize("kind", BODIES)
async def test_body_that_fails_aborts_the_response_and_is_closed(kind: Any) -> None:
    """The very error comes out, and the encoded body has no end."""
    error = ValueError("of the body")
    body = kind(b"one", error=error)
    channel = Channel()
    with pytest.raises(ValueError, match="of the body") as raised, anyio.fail_after(SECONDS):
        await handler_of(stream(body))(http_scope(headers=WANTED), channel.receive, channel.send)
    assert raised.value is error
    assert body.closed == 1
    decoder = zlib.decompressobj(31)
    assert decoder.decompress(channel.body) == b"one"
    assert not decoder.eof


@pytest.mark.parametrize("kind", BODIES)
async def test_body_whose_client_leaves_is_closed(kind: Any) -> None:
    """Before the application returns."""
    body = kind(*[b"part"] * 1000)

    async def leave(index: int, message: Message) -> None:
        if index == 2:
            channel.disconnect()
            await anyio.sleep_forever()

    channel = Channel(on_send=leave)
    with anyio.fail_after(SECONDS):
        await handler_of(stream(body))(http_scope(headers=WANTED), channel.receive, channel.send)
    assert body.closed == 1
    if kind is SynchronousBody:
        assert body.iterators_closed == 1


async def test_synchronous_iterator_is_closed_once_with_its_body() -> None:
    """Each that has a close(); what is both is closed once."""
    body = SynchronousBody(b"one")
    await serve(stream(body))
    assert (body.iterators_closed, body.closed) == (1, 1)
    body = SynchronousBody(b"one")
    assert decode("gzip", (await serve(stream(iter(body)))).body) == b"one"
    assert (body.iterators_closed, body.closed) == (1, 0)


async def test_stream_that_was_sent_before_cannot_be_sent_again(caplog: pytest.LogCaptureFixture) -> None:
    """The error is the one that it has without compression."""
    response = stream([b"one"])
    await serve(response)
    assert (await serve(response)).status == 500
    assert "can be sent once" in caplog.text


async def test_stream_that_does_something_of_its_own_to_its_parts_is_encoded_after_that() -> None:
    """A subclass that overrides parts() may put others in between."""

    class Marked(StreamingResponse):
        __slots__ = ()

        def parts(self, threads: Any = None) -> AsyncIterator[bytes | str]:
            original = super().parts(threads)

            async def marked() -> AsyncIterator[bytes | str]:
                async for part in original:
                    yield part
                    yield "|"

            return marked()

    channel = await serve(Marked([b"one", b"two"], content_type="text/plain"))
    assert decode("gzip", channel.body) == b"one|two|"


def test_response_that_a_loop_gives_up_is_closed_as_far_as_it_goes() -> None:
    """The thread of a synchronous body is told; Python closes the rest."""
    told: list[str] = []

    class Told(StreamingResponse):
        __slots__ = ()

        def close_nowait(self) -> None:
            told.append("close_nowait")

    coro = GZIP.apply(http_scope(headers=WANTED), Told([b"x"], content_type="text/plain"))
    with pytest.raises(StopIteration) as stopped:
        coro.send(None)
    stopped.value.value.close_nowait()
    assert told == ["close_nowait"]


# --- scopes and variables --------------------------------------------------------------------------------


@holding
@pytest.mark.parametrize("suspends", [False, True])
async def test_encoded_stream_in_scopes_of_its_own_whose_client_leaves_ends_quietly(
    kind: str, suspends: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The user's generator is iterated and closed in one task, as without compression."""
    source = Source()

    async def leave(index: int, message: Message) -> None:
        if suspends:
            await checkpoint()
        if index == 2:
            channel.disconnect()
            await anyio.sleep_forever()

    channel = Channel(on_send=leave)
    with anyio.fail_after(SECONDS):
        handler = handler_of(stream(getattr(source, kind)()))
        await handler(http_scope(headers=WANTED), channel.receive, channel.send)
        await checkpoint()
    assert source.ended == ["scope"]
    assert caplog.records == []


@holding
@pytest.mark.parametrize("close_timeout_seconds", [10.0, None])
async def test_encoded_stream_in_scopes_of_its_own_whose_send_fails_raises_that(
    kind: str, close_timeout_seconds: float | None, caplog: pytest.LogCaptureFixture
) -> None:
    """The very object comes out, and the iterator is closed within the scopes that it is in."""
    source, error = Source(), ValueError("of the server")

    async def fail(index: int, message: Message) -> None:
        if index == 2:
            raise error

    channel = Channel(on_send=fail)
    with anyio.fail_after(SECONDS), pytest.raises(ValueError, match="of the server") as raised:
        limits = Limits(close_timeout_seconds=close_timeout_seconds)
        handler = handler_of(stream(getattr(source, kind)()), limits=limits)
        await handler(http_scope(headers=WANTED), channel.receive, channel.send)
    assert raised.value is error
    assert source.ended == ["scope"]
    assert caplog.records == []


async def test_context_variable_set_across_a_yield_is_reset_with_its_token() -> None:
    """Also where a part is encoded in a thread in between."""
    variable: ContextVar[int] = ContextVar("variable", default=0)
    seen: list[int] = []

    async def parts() -> AsyncIterator[bytes]:
        token = variable.set(1)
        try:
            yield b"small"
            seen.append(variable.get())
            yield bytes(100_000)
            seen.append(variable.get())
        finally:
            variable.reset(token)

    assert decode("gzip", (await serve(stream(parts()))).body) == b"small" + bytes(100_000)
    assert seen == [1, 1]


# --- a handler that is closed ----------------------------------------------------------------------------


async def closed_within(response: Response, blocks_at: int | None = None) -> tuple[Channel, list[Exception]]:
    """What was sent of a stream by the time that its handler was closed, while a send or the stream itself waited."""
    raised: list[Exception] = []
    blocked: list[bool] = []

    async def on_send(index: int, _: Message) -> None:
        if index == blocks_at and not blocked:
            blocked.append(True)
            await anyio.sleep_forever()

    handler = handler_of(response)
    channel = Channel(on_send=on_send)

    async def run() -> None:
        try:
            await handler(http_scope(headers=WANTED), channel.receive, channel.send)
        except Exception as exc:
            raised.append(exc)

    with anyio.fail_after(SECONDS):
        async with anyio.create_task_group() as group:
            group.start_soon(run)
            await anyio.wait_all_tasks_blocked()
            await handler.aclose(grace_seconds=0)
    return channel, raised


async def parts_that_stop() -> AsyncIterator[bytes]:
    yield b"first"
    yield b"second"
    await anyio.sleep_forever()


async def test_encoded_stream_that_is_cut_short_has_the_end_of_its_encoding() -> None:
    """As one that is not encoded is ended: what came before can be read without an error."""
    channel, raised = await closed_within(stream(parts_that_stop()))
    check_messages(channel.sent, complete=True)
    assert zlib.decompress(channel.body, 31) == b"firstsecond"
    assert not raised


async def test_encoded_stream_that_is_cut_within_a_part_ends_without_it() -> None:
    """What was not taken cannot be followed by an end that counts it."""
    channel, raised = await closed_within(stream(parts_that_stop()), blocks_at=2)
    check_messages(channel.sent, complete=True)
    assert new_decoder("gzip")(channel.body) == b"first"
    assert not raised


async def test_encoded_stream_of_declared_length_that_is_cut_short_is_aborted() -> None:
    """Though no length goes out, an end would say that it is whole."""
    channel, raised = await closed_within(stream(parts_that_stop(), headers={"content-length": "5000"}))
    check_messages(channel.sent, complete=False)
    assert [type(exc) for exc in raised] == [ResponseStateError]


async def test_stream_with_other_fields_that_is_cut_short_is_ended() -> None:
    """It is made from another one, and its content is as it was."""
    content = stream(parts_that_stop())
    content.set_etag("1")
    derived = _encoded.derive(content, [])
    assert isinstance(derived, StreamingResponse)
    assert derived.cut() == b""
    await derived.aclose()


# --- files -----------------------------------------------------------------------------------------------


def of_a_file(**more: Any) -> StreamingResponse:
    response = StreamingResponse([b"by the application"], headers={"content-length": "18"}, **more)
    response.path = "/a/file"
    response.file, response.segments = object(), [b"head", (0, 14)]
    return response


SERVER_SENDS: dict[str, Any] = {"http.response.pathsend": {}, "http.response.zerocopysend": {}}


@pytest.mark.parametrize("offered", SERVER_SENDS)
@pytest.mark.parametrize(
    ("content_type", "wanted"), [("image/png", b"gzip"), ("text/plain", b""), ("text/plain", b"br;q=0")]
)
async def test_file_that_is_not_compressed_is_sent_by_the_server(
    offered: str, content_type: str, wanted: bytes
) -> None:
    """By its path or without copying, as without compression."""
    compression = Compression(encodings=["gzip"], minimum_bytes=0)
    handler = handler_of(lambda: of_a_file(content_type=content_type), compression)
    channel = await call(handler, headers=[(b"accept-encoding", wanted)], extensions={offered: {}})
    assert offered in [message["type"] for message in channel.sent]


async def test_file_that_is_compressed_is_streamed() -> None:
    """What the server has is not what the client gets."""
    compression = Compression(encodings=["gzip"], minimum_bytes=0)
    channel = await call(
        handler_of(lambda: of_a_file(content_type="text/plain"), compression), headers=WANTED, extensions=SERVER_SENDS
    )
    assert decode("gzip", channel.body) == b"by the application"


async def test_stream_that_is_not_encoded_goes_through_a_send_of_a_hook() -> None:
    """A hook that sends by itself gets the parts of what only might have been encoded."""

    class Counting(Handler):
        sent = 0

        async def send_response(self, response: Response, send: Any) -> None:
            async def counted(message: Any) -> None:
                self.sent += 1
                await send(message)

            await super().send_response(response, counted)

    async def endpoint(request: Request) -> Response:
        return stream(["one", "two"])

    handler = Counting(endpoint, compression=GZIP)
    channel = await call(handler, headers=[(b"accept-encoding", b"identity")])
    assert channel.body == b"onetwo"
    assert handler.sent == len(channel.sent) == 4
