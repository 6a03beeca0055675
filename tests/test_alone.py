"""_alone.py: a response is an ASGI application, inside of whatever calls it."""

from __future__ import annotations

import logging
import types
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from faults import spawned, turn

from asgicore import (
    BodyConsumedError,
    ClientDisconnectedError,
    ContentLengthError,
    HTTPError,
    InvalidHeaderError,
    JSONResponse,
    Limits,
    Request,
    Response,
    ResponseStateError,
    ServerProtocolError,
    StreamingResponse,
)
from asgicore._alone import _ALONE
from asgicore.testing import (
    DISCONNECT,
    EMPTY,
    Channel,
    LeakGuard,
    Message,
    body_messages,
    call,
    check_messages,
    http_scope,
)
from asgicore.testing._living import tasks as living_tasks

App = Callable[[Any, Any, Any], Any]


async def serve(app: Any, server: Channel, **scope: Any) -> None:
    with anyio.fail_after(5):
        await app(http_scope(**scope), server.receive, server.send)


class Parts:
    """A body in parts that notes that it was closed; ``wait`` is awaited before each."""

    def __init__(self, *parts: bytes | Exception, wait: Callable[[], Any] = checkpoint) -> None:
        self.parts = list(parts)
        self.wait = wait
        self.closed = 0

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        await self.wait()
        if not self.parts:
            raise StopAsyncIteration
        part = self.parts.pop(0)
        if isinstance(part, Exception):
            raise part
        return part

    async def aclose(self) -> None:
        await checkpoint()
        self.closed += 1


# --- the response is sent ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize(
    ("make", "body"),
    [
        (lambda: Response("text"), b"text"),
        (lambda: Response(bytes(200_000)), bytes(200_000)),
        (lambda: JSONResponse({"a": 1}), b'{"a":1}'),
        (lambda: StreamingResponse(Parts(b"a", b"b")), b"ab"),
        (lambda: StreamingResponse(iter([b"a", b"b"])), b"ab"),
        (lambda: Response(status_code=204), b""),
    ],
    ids=["text", "large", "json", "async stream", "sync stream", "204"],
)
async def test_response_called_sends_itself(make: Callable[[], Response], body: bytes, method: str) -> None:
    """As from a handler, HEAD without a body."""
    channel = await call(make(), method=method)
    check_messages(channel.sent, method=method, complete=True)
    assert channel.body == (b"" if method == "HEAD" else body)


async def test_response_called_runs_its_background_work_after_the_end() -> None:
    """Async or in a thread, as from a handler; its error is logged and nothing else."""
    seen: list[int] = []
    server = Channel()
    await serve(Response(b"a", background=lambda: seen.append(len(server.sent))), server)
    assert seen == [2]


async def test_response_called_several_times_is_sent_each_time() -> None:
    """What is there as a whole serves any number of requests, at once as well."""
    response = Response(b"a")
    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(call, response)
    assert (await call(response)).body == b"a"


async def test_stream_called_twice_raises_to_the_caller() -> None:
    """Nothing was sent yet, so that the caller can answer."""
    response = StreamingResponse([b"a"])
    assert (await call(response)).body == b"a"
    server = Channel()
    with pytest.raises(ResponseStateError, match="can be sent once"):
        await serve(response, server)
    assert server.sent == []


async def test_response_that_never_waits_starts_no_task() -> None:
    """You pay for what happens."""
    with spawned() as names:
        await Response(b"a")(http_scope(), Channel().receive, Channel().send)
    assert names == []


class KnowingItsScope(Channel):
    """A channel like those of servers, whose ``receive`` is a method of what knows the scope."""

    def __init__(self) -> None:
        super().__init__()
        self.scope = http_scope()


@pytest.mark.parametrize("reads", [True, False])
async def test_response_called_leaves_nothing_to_the_collector(reads: bool) -> None:
    """What is noted in the scope of the server makes no cycle with it."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if reads:
            await Request(scope, receive).body()
        await Response("text")(scope, receive, send)

    async with LeakGuard(cycles=["asgicore", __name__]):
        server = KnowingItsScope()
        await app(server.scope, server.receive, server.send)
        assert server.body == b"text"
        del server


async def test_response_called_with_a_receive_that_takes_no_weak_reference_answers() -> None:
    """It is still known again: a second reader of the channel is refused."""

    class Receive:
        __slots__ = ()

        async def __call__(self) -> Message:
            return EMPTY

    receive, scope, server = Receive(), http_scope(), Channel()
    assert await Request(scope, receive).body() == b""
    with pytest.raises(BodyConsumedError):
        await Request(scope, receive).body()
    await Response("text")(scope, receive, server.send)
    assert server.body == b"text"


async def test_response_called_with_an_upload_that_nobody_reads_answers() -> None:
    """Its size is the caller's to limit: what is not read costs nothing."""
    server = Channel([{"type": "http.request", "body": bytes(2000), "more_body": True}] * 2)
    await serve(StreamingResponse(Parts(b"a")), server, headers=[(b"content-length", b"%d" % 10**15)])
    assert server.body == b"a"


@pytest.mark.parametrize("kind", ["lifespan", "websocket2", None])
async def test_response_called_with_another_scope_raises(kind: Any) -> None:
    """A lifespan, for one: a response is no application of its own."""
    server = Channel()
    with pytest.raises(ServerProtocolError, match="http or websocket scope"):
        await Response()({"type": kind}, server.receive, server.send)
    assert (server.sent, server.received) == ([], 0)


async def test_response_called_with_a_scope_that_cannot_be_changed_answers() -> None:
    """Nothing has to be noted there."""
    server = Channel()
    scope = types.MappingProxyType(http_scope())
    with anyio.fail_after(5):
        await StreamingResponse(Parts(b"a"))(scope, server.receive, server.send)
    assert server.body == b"a"


# --- errors --------------------------------------------------------------------------------------------------


async def test_http_error_of_preparing_is_answered() -> None:
    """It is the response's own way of saying 412."""
    response = Response(b"a")
    response.set_etag("v1")
    channel = await call(response, headers=[(b"if-match", b'"v0"')])
    assert (channel.status, channel.body) == (412, b"Precondition Failed")


class Failing(StreamingResponse):
    """A stream whose ``prepare`` raises."""

    async def prepare(self, scope: Any) -> Response:
        raise LookupError("prepare")


class Unstartable(Parts):
    def start_thread(self) -> None:
        raise LookupError("start")


def with_wrong_length() -> Response:
    response = StreamingResponse(Parts(b"a"))
    response.headers.extend([("content-length", "1"), ("content-length", "2")])
    return response


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: Failing(Parts(b"a")), LookupError),
        (lambda: StreamingResponse(Unstartable()), LookupError),
        (with_wrong_length, InvalidHeaderError),
    ],
    ids=["prepare", "start", "fields"],
)
async def test_error_before_the_start_reaches_the_caller(
    make: Callable[[], Any], error: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    """Whose page for errors it is; nothing was sent, nothing is logged here, and the content is closed."""
    response = make()
    content = response._content
    server = Channel()
    with pytest.raises(error):
        await serve(response, server)
    assert server.sent == []
    assert content.closed == 1
    assert not caplog.records


async def test_error_within_the_body_reaches_the_caller(caplog: pytest.LogCaptureFixture) -> None:
    """Unchanged; no end is sent, so that the server aborts, and the background work does not run."""
    ran: list[str] = []
    error = LookupError("gone")
    parts = Parts(b"a", error)
    server = Channel()
    with pytest.raises(LookupError) as caught:
        await serve(StreamingResponse(parts, background=lambda: ran.append("background")), server)
    assert caught.value is error
    check_messages(server.sent, complete=False)
    assert parts.closed == 1
    assert not caplog.records
    assert not ran


async def test_http_error_within_the_body_reaches_the_caller() -> None:
    """Too late for an answer."""
    server = Channel()
    with pytest.raises(HTTPError):
        await serve(StreamingResponse(Parts(b"a", HTTPError(404))), server)
    check_messages(server.sent, complete=False)


async def test_length_that_is_not_kept_reaches_the_caller() -> None:
    """As from a handler."""
    server = Channel()
    with pytest.raises(ContentLengthError):
        await serve(StreamingResponse(Parts(b"abc"), headers={"content-length": "2"}), server)


# --- disconnects ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tells", ["event", "raise", "both"])
async def test_disconnect_within_a_stream_cancels_it_and_returns(tells: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Quietly: a client that leaves is no error of the caller's."""
    caplog.set_level(logging.INFO, "asgicore")
    server = Channel(tells=tells)
    before = living_tasks()
    count = 0

    async def wait() -> None:
        nonlocal count
        count += 1
        if count == 3:
            server.disconnect()
            if tells == "event":
                await anyio.sleep_forever()
        await checkpoint()

    parts = Parts(*[b"a"] * 10, wait=wait)
    await serve(StreamingResponse(parts), server)
    assert count == 3
    assert parts.closed == 1
    check_messages(server.sent, complete=False)
    assert not caplog.records
    assert living_tasks() == before


@pytest.mark.parametrize("index", range(5))
async def test_disconnect_at_any_message_of_a_stream_returns(index: int) -> None:
    """Nothing is sent after the message that failed."""

    async def leave(number: int, message: Message) -> None:
        if number == index:
            raise BrokenPipeError

    server = Channel(on_send=leave)
    parts = Parts(b"a", b"b")
    await serve(StreamingResponse(parts), server)
    assert len(server.sent) == min(index, 4)
    assert server.sends == min(index + 1, 4)
    assert parts.closed == 1


async def test_cancellation_from_outside_goes_through_and_closes() -> None:
    """The caller's scope is the one that is cancelled."""
    waiting = anyio.Event()

    async def wait() -> None:
        waiting.set()
        await anyio.sleep_forever()

    parts = Parts(b"a", wait=wait)
    returned: list[str] = []

    async def run() -> None:
        await StreamingResponse(parts)(http_scope(), server.receive, server.send)
        returned.append("not reached")

    server = Channel()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(run)
            await waiting.wait()
            group.cancel_scope.cancel()
    assert returned == []
    assert parts.closed == 1
    assert not _ALONE._here.waiting


# --- beside a Request on the same channel --------------------------------------------------------------------

CHUNKS = [b"%d" % number * 100 for number in range(30)]


async def echo_at_once(scope: Any, receive: Any, send: Any) -> None:
    request = Request(scope, receive, send)
    await StreamingResponse(request.stream())(scope, receive, send)


async def echo_later(scope: Any, receive: Any, send: Any) -> None:
    """The request is not read before the response has begun and waited."""
    request = Request(scope, receive, send)

    async def parts() -> AsyncIterator[bytes]:
        yield b"echo:"
        await turn(5)
        async for part in request.stream():
            yield part
            await turn(2)

    await StreamingResponse(parts())(scope, receive, send)


async def echo_in_a_copy(scope: Any, receive: Any, send: Any) -> None:
    """As frameworks do, the inner application has a scope of its own."""
    request = Request(scope, receive, send)
    stream = request.stream()
    await StreamingResponse(stream)({**scope, "path": "/inner"}, receive, send)


ECHOES = [echo_at_once, echo_later, echo_in_a_copy]


@pytest.mark.parametrize("suspend", [False, True], ids=["at once", "suspends"])
@pytest.mark.parametrize("app", ECHOES)
async def test_response_that_streams_its_request_loses_nothing(app: App, suspend: bool) -> None:
    """There is one reader of the channel: the response listens for the disconnect through the request, or the
    request reads through the response."""
    server = Channel(body_messages(*CHUNKS), suspends=suspend)
    await serve(app, server, method="POST")
    check_messages(server.sent, complete=True)
    assert server.body.removeprefix(b"echo:") == b"".join(CHUNKS)


@pytest.mark.parametrize("suspend", [False, True], ids=["at once", "suspends"])
@pytest.mark.parametrize("app", ECHOES)
async def test_disconnect_within_an_upload_that_is_streamed_back_is_quiet(
    app: App, suspend: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The upload is cut, and so is the response."""
    caplog.set_level(logging.INFO, "asgicore")
    server = Channel([*body_messages(*CHUNKS)[:-1], DISCONNECT], suspends=suspend)
    await serve(app, server, method="POST")
    check_messages(server.sent, complete=False)
    assert not caplog.records


async def test_disconnect_cancels_a_stream_whose_request_was_read() -> None:
    """The channel is the request's, which passes the news on."""
    closed: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive, send)
        assert await request.body() == b"upload"

        async def parts() -> AsyncIterator[bytes]:
            try:
                yield b"part"
                server.disconnect()
                await anyio.sleep_forever()
            finally:
                closed.append("closed")

        await StreamingResponse(parts())(scope, receive, send)
        assert request.is_disconnected

    server = Channel(body_messages(b"upload"))
    await serve(app, server)
    assert closed == ["closed"]


async def test_disconnect_is_heard_by_a_task_of_the_request_and_by_the_response() -> None:
    """wait_disconnected() beside a stream: one of the two is inside of receive()."""
    heard: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive, send)
        await request.body()

        async def watch() -> None:
            await request.wait_disconnected()
            heard.append("request")

        async def wait() -> None:
            await turn(3)
            server.disconnect()
            await anyio.sleep_forever()

        async with anyio.create_task_group() as group:
            group.start_soon(watch)
            await StreamingResponse(Parts(b"a", wait=wait))(scope, receive, send)
            heard.append("response")

    server = Channel()
    await serve(app, server)
    assert sorted(heard) == ["request", "response"]


@pytest.mark.parametrize("first", ["request", "response"])
async def test_failure_of_receive_reaches_the_caller(first: str) -> None:
    """The server's fault, whoever of the two was told."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive, send)
        if first == "request":
            await request.body()
        await StreamingResponse(Parts(b"a", wait=anyio.sleep_forever))(scope, receive, send)

    messages = [EMPTY] if first == "request" else []

    async def breaks(index: int) -> None:
        if index == len(messages):
            await turn(3)
            raise RuntimeError("the server failed")

    with pytest.raises(RuntimeError, match="the server failed"):
        await serve(app, Channel(messages, on_receive=breaks))


async def test_body_larger_than_any_limit_can_be_read_within_the_response() -> None:
    """The request's own limits hold, and no others."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive, send, limits=Limits(max_body_bytes=None))
        size = 0

        async def parts() -> AsyncIterator[bytes]:
            nonlocal size
            await turn(5)
            async for part in request.stream():
                size += len(part)
            yield b"%d" % size

        await StreamingResponse(parts())(scope, receive, send)

    block = bytes(2**20)
    limit = Limits().max_body_bytes
    assert limit
    count = limit // 2**20 + 2

    def messages() -> Iterator[Message]:
        for _ in range(count):
            yield {"type": "http.request", "body": block, "more_body": True}
        yield EMPTY

    server = Channel(messages())
    await serve(app, server)
    assert server.body == b"%d" % (count * 2**20)


async def test_second_request_that_reads_is_refused_beside_a_response() -> None:
    """As without one: the first has the body."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await Request(scope, receive).body()
        with pytest.raises(BodyConsumedError, match="another Request on this channel"):
            await Request(scope, receive).body()
        await Response(b"a")(scope, receive, send)

    server = Channel()
    await serve(app, server)
    assert server.body == b"a"


async def test_response_after_one_that_failed_is_sent() -> None:
    """The page for errors of a bare application, on the same scope and channel."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await Failing(Parts(b"a"))(scope, receive, send)
        except LookupError:
            await StreamingResponse(Parts(b"it failed"), 500)(scope, receive, send)

    server = Channel(body_messages(b"a", b"b"))
    await serve(app, server)
    assert (server.status, server.body) == (500, b"it failed")


async def test_request_cut_within_the_response_raises_in_its_iterator() -> None:
    """The generator sees the error that a read gives, and may do its own cleanup."""
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive, send)

        async def parts() -> AsyncIterator[bytes]:
            yield b"a"
            try:
                await request.body()
            except (ClientDisconnectedError, anyio.get_cancelled_exc_class()) as exc:
                seen.append(type(exc).__name__)
                raise

        await StreamingResponse(parts())(scope, receive, send)

    server = Channel([*body_messages(b"a", b"b")[:1], DISCONNECT])
    await serve(app, server)
    assert len(seen) == 1


# --- websockets ----------------------------------------------------------------------------------------------

CONNECT: Message = {"type": "websocket.connect"}
LEFT: Message = {"type": "websocket.disconnect", "code": 1006}
DENIAL: dict[str, Any] = {"websocket.http.response": {}}


class Socket(Channel):
    """A server whose client asks for a websocket; it gets to know of the end of a denial, too."""

    def __init__(self, *messages: Message, **options: Any) -> None:
        super().__init__(messages or (CONNECT,), **options)

    async def receive(self) -> Message:
        message = await super().receive()
        return LEFT if message is DISCONNECT else message

    async def send(self, message: Message) -> None:
        assert self.received, "sent before websocket.connect was taken"
        await super().send(message)


async def deny(response: Response, socket: Socket, **scope: Any) -> None:
    scope = {"extensions": DENIAL, "method": ..., "scheme": "wss", **scope}
    await serve(response, socket, type="websocket", **scope)


def as_http(socket: Socket) -> list[Message]:
    """What was sent, with the types of an HTTP response."""
    assert all(message["type"].startswith("websocket.http.response.") for message in socket.sent)
    return [{**message, "type": message["type"].removeprefix("websocket.")} for message in socket.sent]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Response("no", 401),
        lambda: StreamingResponse(Parts(b"n", b"o"), 401),
        lambda: Response(b"n" * 99_999, 401),
    ],
    ids=["whole", "stream", "large"],
)
async def test_websocket_is_denied_with_the_response_where_offered(make: Callable[[], Response]) -> None:
    """The messages are those of HTTP, by another name (ASGI, "Websocket Denial Response")."""
    socket = Socket()
    await deny(make(), socket)
    check_messages(as_http(socket), complete=True)
    assert socket.sent[0]["status"] == 401
    assert socket.body.startswith(b"n")


async def test_websocket_is_denied_with_a_response_that_fits_the_request() -> None:
    """``prepare`` gets an http scope; other extensions are not for websockets."""
    seen: list[Any] = []

    class Fitted(Response):
        async def prepare(self, scope: Any) -> Response:
            seen.append((scope["type"], scope["method"], scope["scheme"], scope["path"]))
            return await super().prepare(scope)

    for scheme in ("ws", "wss"):
        response = Fitted(b"no", 403)
        response.debug_info = {"a": 1}
        response.set_trailers(["x-a"], dict)
        offered = {**DENIAL, "http.response.debug": {}, "http.response.trailers": {}}
        socket = Socket()
        await deny(response, socket, scheme=scheme, path="/chat", extensions=offered)
        check_messages(as_http(socket), complete=True)
    assert seen == [("http", "GET", "http", "/chat"), ("http", "GET", "https", "/chat")]


@pytest.mark.parametrize("extensions", [..., None, {}, [], 5, {"other": {}}], ids=repr)
async def test_websocket_is_closed_where_no_denial_is_offered(extensions: Any) -> None:
    """Servers answer that with a 403; the response is closed, and its background work does not run."""
    ran: list[str] = []
    parts = Parts(b"no")
    socket = Socket()
    await deny(StreamingResponse(parts, 401, background=lambda: ran.append("ran")), socket, extensions=extensions)
    assert socket.sent == [{"type": "websocket.close", "code": 1000, "reason": ""}]
    assert parts.closed == 1
    assert not ran


@pytest.mark.parametrize("extensions", [{}, DENIAL], ids=["close", "denial"])
async def test_websocket_whose_client_left_first_is_not_answered(extensions: Any) -> None:
    """Nothing is sent, and the response is closed."""
    parts = Parts(b"no")
    socket = Socket(LEFT)
    await deny(StreamingResponse(parts), socket, extensions=extensions)
    assert socket.sent == []
    assert parts.closed == 1


async def test_websocket_whose_receive_fails_as_the_client_leaves_is_not_answered() -> None:
    """An ``OSError`` is the disconnect, as ever."""
    parts = Parts(b"no")

    async def leaves(index: int) -> None:
        raise ConnectionResetError

    socket = Socket(on_receive=leaves)
    await deny(StreamingResponse(parts), socket)
    assert socket.sends == 0
    assert parts.closed == 1


async def test_websocket_whose_client_leaves_within_the_denial_is_quiet(caplog: pytest.LogCaptureFixture) -> None:
    """A stream is cancelled."""
    caplog.set_level(logging.INFO, "asgicore")
    socket = Socket()

    async def wait() -> None:
        await turn(3)
        socket.disconnect()
        await anyio.sleep_forever()

    parts = Parts(b"no", wait=wait)
    await deny(StreamingResponse(parts), socket)
    check_messages(as_http(socket), complete=False)
    assert parts.closed == 1
    assert not caplog.records


@pytest.mark.parametrize("extensions", [{}, DENIAL], ids=["close", "denial"])
async def test_websocket_whose_caller_is_cancelled_before_it_connects_has_its_response_closed(extensions: Any) -> None:
    """On every way out."""
    parts = Parts(b"no")
    waiting = anyio.Event()

    async def waits(index: int) -> None:
        waiting.set()
        await anyio.sleep_forever()

    socket = Socket(on_receive=waits)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(partial(deny, StreamingResponse(parts), socket, extensions=extensions))
            await waiting.wait()
            group.cancel_scope.cancel()
    assert parts.closed == 1


async def test_websocket_denied_with_a_content_that_fails_to_close_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Not raised: the websocket was closed as it should be."""
    caplog.set_level(logging.INFO, "asgicore")

    class Unclosable(Parts):
        async def aclose(self) -> None:
            raise LookupError

    socket = Socket()
    await deny(StreamingResponse(Unclosable()), socket, extensions={})
    assert len(socket.sent) == 1
    assert [record.levelno for record in caplog.records] == [logging.INFO]
