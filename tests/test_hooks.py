"""_hooks.py: every hook overridden alone, and every base implementation called with plain channels."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable
from contextvars import ContextVar, Token
from tempfile import SpooledTemporaryFile
from typing import Any, Literal

import anyio
import pytest
from anyio.lowlevel import checkpoint

from asgicore import (
    Body,
    BodyTooLargeError,
    ClientDisconnectedError,
    Handler,
    HTTPError,
    Limits,
    Request,
    Response,
    StreamingResponse,
)
from asgicore.testing import DISCONNECT, EMPTY, Channel, Message, body_messages, call, check_messages, http_scope
from asgicore.types import Receive, Scope, Send


async def hello(request: Request) -> Response:
    """The smallest endpoint."""
    return Response(b"hello")


async def echo(request: Request) -> Response:
    """Gives the body back."""
    return Response(await request.body())


async def forever(request: Request) -> Response:
    """Waits until it is cancelled."""
    await anyio.sleep_forever()
    raise AssertionError("not reached")


async def letters(*parts: bytes) -> AsyncIterator[bytes]:
    """A body in parts."""
    for part in parts:
        yield part


def sizes(channel: Channel) -> list[int]:
    """Lengths of the body messages."""
    return [len(message["body"]) for message in channel.sent[1:]]


# --- overridden alone ------------------------------------------------------------------------------------


async def test_handle_overridden_wraps_the_life_of_a_request() -> None:
    """A handle() of one's own can change the scope and the channels."""

    class Moved(Handler):
        async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
            async def tagged(message: Any) -> None:
                if message["type"] == "http.response.start":
                    message["headers"] = [*message["headers"], (b"x-tag", b"1")]
                await send(message)

            await super().handle({**scope, "path": "/moved"}, receive, tagged)

    async def where(request: Request) -> Response:
        return Response(request.path)

    channel = await call(Moved(where), path="/asked")
    assert channel.body == b"/moved"
    assert (b"x-tag", b"1") in channel.headers


async def test_read_body_overridden_replaces_the_body() -> None:
    """The file that read_body() returns is what the endpoint gets, and is closed with the request."""
    files: list[SpooledTemporaryFile[bytes]] = []

    class Louder(Handler):
        async def read_body(self, receive: Receive) -> SpooledTemporaryFile[bytes]:
            file: SpooledTemporaryFile[bytes] = SpooledTemporaryFile(max_size=1024)
            files.append(file)
            while True:
                message = await receive()
                file.write(message["body"].upper())
                if not message["more_body"]:
                    file.seek(0)
                    return file

    channel = await call(Louder(echo), body_messages(b"qui", b"et"))
    assert channel.body == b"QUIET"
    assert files[0].closed


async def test_read_body_overridden_by_super_gives_the_file_of_the_body() -> None:
    """The base read_body() called with what the override was given fills the file that the endpoint uses."""
    seen: list[bytes] = []

    class Reading(Handler):
        async def read_body(self, receive: Receive) -> SpooledTemporaryFile[bytes]:
            file = await super().read_body(receive)
            seen.append(file.read())
            file.seek(0)
            return file

    async def twice(request: Request) -> Response:
        file = await request.file()
        return Response(file.read() + await request.body())

    channel = await call(Reading(twice), body_messages(b"one", b"two"))
    assert seen == [b"onetwo"]
    assert channel.body == b"onetwoonetwo"


async def test_read_body_overridden_still_counts_and_checks() -> None:
    """What read_body() receives is limited and checked whoever reads it."""

    class Reading(Handler):
        async def read_body(self, receive: Receive) -> SpooledTemporaryFile[bytes]:
            while True:
                await receive()

    handler = Reading(hello, limits=Limits(max_body_bytes=3))
    assert (await call(handler, body_messages(b"ab", b"cd", b"ef"))).status == 413
    short = await call(handler, body_messages(b"ab"), headers=[(b"content-length", b"3")])
    assert short.status == 400
    assert (await call(handler, [DISCONNECT])).sent == []


async def test_create_request_overridden_gives_its_own_request() -> None:
    """The endpoint gets whatever create_request() returns."""

    class Framework(Handler):
        def create_request(self, scope: Scope, body: Body) -> tuple[Any, Response | None]:
            return {"path": scope["path"], "body": body}, None

    async def endpoint(request: Any) -> Response:
        return Response(request["path"].encode() + b" " + await request["body"].read())

    channel = await call(Framework(endpoint), body_messages(b"data"), path="/x")
    assert channel.body == b"/x data"


async def test_create_request_overridden_refuses_with_its_own_response() -> None:
    """A response in place of a request goes out, and neither body nor endpoint is touched."""

    class Closed(Handler):
        def create_request(self, scope: Scope, body: Body) -> tuple[Any, Response | None]:
            return None, Response(b"closed", 503)

    channel = await call(Closed(forever))
    assert (channel.status, channel.body, channel.received) == (503, b"closed", 0)
    assert (b"connection", b"close") in channel.headers


async def test_run_get_response_overridden_needs_no_endpoint() -> None:
    """A subclass with run_get_response() stands on its own."""

    class Framework(Handler):
        async def run_get_response(self, request: Any) -> Response:
            return Response(request.method)

    assert (await call(Framework(), method="PATCH")).body == b"PATCH"


async def test_run_get_response_overridden_by_super_surrounds_the_endpoint() -> None:
    """The base run_get_response() awaits the endpoint."""

    class Tagged(Handler):
        async def run_get_response(self, request: Any) -> Response:
            response = await super().run_get_response(request)
            response.headers["x-tag"] = "1"
            return response

    assert (b"x-tag", b"1") in (await call(Tagged(hello))).headers


async def test_run_get_response_overridden_is_cancelled_by_a_disconnect() -> None:
    """The watch covers a run_get_response() of one's own."""
    server = Channel()
    cancelled = []

    class Framework(Handler):
        async def run_get_response(self, request: Any) -> Response:
            server.disconnect()
            try:
                await anyio.sleep_forever()
            finally:
                cancelled.append(True)
            raise AssertionError("not reached")

    with anyio.fail_after(5):
        await Framework()(http_scope(), server.receive, server.send)
    assert cancelled == [True]
    assert server.sent == []


@pytest.mark.parametrize("ends", ["returns", "raises"])
async def test_listen_for_disconnect_overridden_decides_when_the_client_left(ends: str) -> None:
    """The endpoint is cancelled when listen_for_disconnect() ends, however it does."""
    requests: list[Request] = []

    class Impatient(Handler):
        async def listen_for_disconnect(self, receive: Receive) -> None:
            if ends == "raises":
                raise ClientDisconnectedError

    async def endpoint(request: Request) -> Response:
        requests.append(request)
        return await forever(request)

    channel = await call(Impatient(endpoint))
    assert channel.sent == []
    assert requests[0].is_disconnected


async def test_listen_for_disconnect_overridden_failing_cancels_and_tells_the_server() -> None:
    """What listen_for_disconnect() raises cancels the endpoint and goes to the server: no disconnect can come."""
    error = LookupError("no listener")

    class Failing(Handler):
        async def listen_for_disconnect(self, receive: Receive) -> None:
            raise error

    with pytest.raises(LookupError) as raised:
        await call(Failing(forever))
    assert raised.value is error


async def test_listen_for_disconnect_overridden_deaf_lets_the_endpoint_finish() -> None:
    """A listener that hears nothing leaves the endpoint alone, and does not outlive it."""
    ended = []

    class Deaf(Handler):
        async def listen_for_disconnect(self, receive: Receive) -> None:
            try:
                await anyio.sleep_forever()
            finally:
                ended.append(True)

    server = Channel()

    async def endpoint(request: Request) -> Response:
        server.disconnect()
        for _ in range(10):
            await checkpoint()
        return Response(b"done")

    with anyio.fail_after(5):
        await Deaf(endpoint)(http_scope(), server.receive, server.send)
    assert server.body == b"done"
    assert ended == [True]


async def test_listen_for_disconnect_overridden_by_super_listens() -> None:
    """The base listen_for_disconnect() called with what the override was given hears the disconnect."""
    heard = []

    class Telling(Handler):
        async def listen_for_disconnect(self, receive: Receive) -> None:
            await super().listen_for_disconnect(receive)
            heard.append(True)

    server = Channel()

    async def endpoint(request: Request) -> Response:
        server.disconnect()
        return await forever(request)

    with anyio.fail_after(5):
        await Telling(endpoint)(http_scope(), server.receive, server.send)
    assert heard == [True]


async def test_handle_uncaught_exception_overridden_answers(caplog: pytest.LogCaptureFixture) -> None:
    """handle_uncaught_exception() gets the request and the exception, which is logged already."""
    seen: list[tuple[Any, Exception]] = []
    error = RuntimeError("no")

    class Pages(Handler):
        def handle_uncaught_exception(self, request: Any, exc: Exception) -> Response:
            assert [record.levelno for record in caplog.records] == [logging.ERROR]
            seen.append((request, exc))
            return Response(b"sorry", 500)

    async def endpoint(request: Request) -> Response:
        raise error

    channel = await call(Pages(endpoint))
    assert (channel.status, channel.body) == (500, b"sorry")
    assert isinstance(seen[0][0], Request)
    assert seen[0][1] is error


async def test_handle_http_error_overridden_answers_endpoint_and_head() -> None:
    """handle_http_error() makes the response of every HTTPError; the request is None where its head is refused."""
    seen: list[tuple[bool, int]] = []

    class Pages(Handler):
        def handle_http_error(self, request: Any, exc: HTTPError) -> Response:
            seen.append((request is None, exc.status_code))
            return Response(f"error {exc.status_code}", exc.status_code)

    async def endpoint(request: Request) -> Response:
        raise HTTPError(418)

    assert (await call(Pages(endpoint))).body == b"error 418"
    assert (await call(Pages(endpoint), path="/\x00")).body == b"error 400"
    assert seen == [(False, 418), (True, 400)]


async def test_send_response_overridden_wraps_the_messages() -> None:
    """send_response() may change response and messages; a body that HEAD forbids stays out."""

    class Tagging(Handler):
        async def send_response(self, response: Response, send: Send) -> None:
            async def tagged(message: Any) -> None:
                if message["type"] == "http.response.start":
                    message = {**message, "headers": [*message["headers"], (b"X-Tag", b"1")]}
                await send(message)

            await super().send_response(response, tagged)

    channel = await call(Tagging(hello))
    assert channel.body == b"hello"
    assert (b"x-tag", b"1") in channel.headers
    head = await call(Tagging(hello), method="HEAD")
    check_messages(head.sent, method="HEAD", complete=True)


async def test_send_response_overridden_asks_no_body_of_a_stream_for_head() -> None:
    """The writer around a send of one's own does not see the request, and is told: for this response alone."""

    class Wrapping(Handler):
        async def send_response(self, response: Response, send: Send) -> None:
            async def wrapped(message: Any) -> None:
                await send(message)

            await super().send_response(response, wrapped)

    seen: list[str] = []

    async def parts() -> AsyncIterator[bytes]:
        seen.append("asked for")
        yield b"part"

    async def endpoint(request: Request) -> Response:
        if request.path == "/declared":
            return Response(b"", headers={"content-length": "5"})
        if request.path == "/within":
            inner = await call(Wrapping(endpoint), method="GET")
            return Response(inner.body)
        return StreamingResponse(parts())

    head = await call(Wrapping(endpoint), method="HEAD")
    check_messages(head.sent, method="HEAD", complete=True)
    assert (len(head.sent), seen) == (2, [])
    assert (await call(Wrapping(endpoint), method="HEAD", path="/declared")).headers == [(b"content-length", b"5")]
    assert (await call(Wrapping(endpoint), method="HEAD", path="/within")).headers == [(b"content-length", b"4")]
    assert (await call(Wrapping(endpoint))).body == b"part"


async def test_send_response_overridden_cannot_break_the_grammar(caplog: pytest.LogCaptureFixture) -> None:
    """Illegal messages of a send_response() of one's own are refused before they leave."""

    class Wild(Handler):
        async def send_response(self, response: Response, send: Send) -> None:
            if response.status_code == 500:
                await super().send_response(response, send)
            else:
                await send({"type": "http.response.body", "body": b"early"})

    channel = await call(Wild(hello))
    assert channel.status == 500
    check_messages(channel.sent, complete=True)
    assert "ResponseStateError" in caplog.text


async def test_chunk_bytes_overridden_cuts_every_body() -> None:
    """chunk_bytes() cuts bodies and long parts of streams, also those shorter than chunk_size."""

    class Threes(Handler):
        def chunk_bytes(self, data: bytes) -> Iterable[tuple[bytes, bool]]:
            for at in range(0, len(data), 3):
                yield data[at : at + 3], at + 3 >= len(data)

    channel = await call(Threes(echo), body_messages(b"abcdefgh"))
    assert [message["body"] for message in channel.sent[1:]] == [b"abc", b"def", b"gh"]
    check_messages(channel.sent, complete=True)


async def test_chunk_bytes_overridden_cuts_every_part_of_streams() -> None:
    """Each part of a stream goes through chunk_bytes(), as each whole body does."""

    class Halves(Handler):
        chunk_size = 4

        def chunk_bytes(self, data: bytes) -> Iterable[tuple[bytes, bool]]:
            return [(data[: len(data) // 2], False), (data[len(data) // 2 :], True)]

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(letters(b"abcdef", b"gh"))

    channel = await call(Halves(endpoint))
    assert [message["body"] for message in channel.sent[1:]] == [b"abc", b"def", b"g", b"h", b""]


async def test_request_class_overridden_is_built() -> None:
    """create_request() builds request_class with scope and body."""

    class Mine(Request):
        __slots__ = ()

        @property
        def shout(self) -> str:
            return self.path.upper()

    class Framework(Handler):
        request_class = Mine

    async def endpoint(request: Mine) -> Response:
        return Response(request.shout)

    assert (await call(Framework(endpoint), path="/a")).body == b"/A"


async def test_chunk_size_overridden_bounds_every_message() -> None:
    """No body message is longer than chunk_size, of a body or of a stream."""

    class Small(Handler):
        chunk_size = 3

    async def stream(request: Request) -> Response:
        return StreamingResponse(letters(b"abcdefg", b"hi"))

    assert sizes(await call(Small(echo), body_messages(b"abcdefg"))) == [3, 3, 1]
    assert sizes(await call(Small(echo), body_messages(b"abc"))) == [3]
    assert sizes(await call(Small(echo))) == [0]
    assert sizes(await call(Small(stream))) == [3, 3, 1, 2, 0]


async def test_chunk_size_is_64_kib() -> None:
    """Messages are of 64 KiB unless a subclass says otherwise."""
    assert Handler.chunk_size == 65536

    async def endpoint(request: Request) -> Response:
        return Response(bytes(65536 * 2 + 1))

    assert sizes(await call(Handler(endpoint))) == [65536, 65536, 1]


async def test_response_ready_overridden_is_called_before_the_start() -> None:
    """response_ready() sees request and response once, when nothing was sent, and can still change the head."""
    seen: list[Any] = []

    class Ready(Handler):
        async def response_ready(self, request: Any, response: Response) -> None:
            assert channel.sent == []
            seen.append(request)
            response.headers["x-ready"] = "1"

    channel = Channel()
    with anyio.fail_after(5):
        await Ready(hello)(http_scope(), channel.receive, channel.send)
    assert (b"x-ready", b"1") in channel.headers
    assert len(seen) == 1
    assert isinstance(seen[0], Request)


class Closing:
    """A stream that tells whether it was closed; not a generator, so that it must be closed unread as well."""

    def __init__(self) -> None:
        self.closed = 0

    def __aiter__(self) -> Closing:
        return self

    async def __anext__(self) -> bytes:
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self.closed += 1


async def test_response_ready_fails_gives_500_and_closes_the_response() -> None:
    """The response that response_ready() failed on is closed unread, once, and a 500 takes its place."""
    stream = Closing()

    class Failing(Handler):
        async def response_ready(self, request: Any, response: Response) -> None:
            raise RuntimeError("no")

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(stream)

    assert (await call(Failing(endpoint))).status == 500
    assert stream.closed == 1


async def test_response_ready_cancelled_by_a_disconnect_closes_the_response() -> None:
    """A response whose response_ready() is cut short is closed, too."""
    stream = Closing()
    server = Channel()

    class Waiting(Handler):
        async def response_ready(self, request: Any, response: Response) -> None:
            server.disconnect()
            await anyio.sleep_forever()

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(stream)

    with anyio.fail_after(5):
        await Waiting(endpoint)(http_scope(), server.receive, server.send)
    assert server.sent == []
    assert stream.closed == 1


class Telling(Handler):
    """Remembers which hooks were called at the end, in order."""

    told: list[tuple[str, str]]

    async def client_left(self, request: Any, phase: Literal["body", "handler", "response"]) -> None:
        self.told.append(("left", f"{phase} {'none' if request is None else request.path}"))

    async def request_finished(self, request: Any, response: Response | None) -> None:
        self.told.append(("finished", "none" if response is None else str(response.status_code)))


@pytest.mark.parametrize("phase", ["body", "handler", "response"])
async def test_client_left_overridden_is_told_the_phase(phase: str) -> None:
    """client_left() is called once, with what was under way, before request_finished()."""
    server = Channel(body_messages(b"a", b"b")[: 1 if phase == "body" else 2])

    async def waiting() -> AsyncIterator[bytes]:
        yield b"a"
        server.disconnect()
        await anyio.sleep_forever()

    async def endpoint(request: Request) -> Response:
        if phase == "response":
            return StreamingResponse(waiting())
        server.disconnect()
        return await forever(request)

    handler = Telling(endpoint)
    handler.told = []
    if phase == "body":
        server.disconnect()
    with anyio.fail_after(5):
        await handler(http_scope(), server.receive, server.send)
    finished = ("finished", "200" if phase == "response" else "none")
    assert handler.told == [("left", f"{phase} /"), finished]


async def test_client_left_overridden_alone_has_effect() -> None:
    """client_left() is called where no other hook is overridden."""
    left = []

    class Leaving(Handler):
        async def client_left(self, request: Any, phase: Literal["body", "handler", "response"]) -> None:
            await checkpoint()
            left.append(phase)

    assert (await call(Leaving(hello), [DISCONNECT])).sent == []
    assert left == ["body"]


async def test_client_left_after_a_whole_response_is_not_called() -> None:
    """A client that stays, or leaves after the last byte, did not leave."""
    handler = Telling(hello)
    handler.told = []
    await call(handler)
    await call(handler, [EMPTY, DISCONNECT])
    assert handler.told == [("finished", "200")] * 2


async def test_client_left_in_notify_mode_is_called() -> None:
    """A client that left is told also where nothing is cancelled."""
    server = Channel(tells="raise")

    async def endpoint(request: Request) -> Response:
        server.disconnect()
        return Response(b"late")

    handler = Telling(endpoint, on_disconnect="notify")
    handler.told = []
    await handler(http_scope(), server.receive, server.send)
    assert handler.told == [("left", "response /"), ("finished", "200")]


async def test_request_finished_overridden_alone_can_read_the_body() -> None:
    """request_finished() runs once while the body is open; afterwards its file is closed."""
    seen: list[tuple[bytes, int]] = []
    files = []

    class Finishing(Handler):
        async def request_finished(self, request: Any, response: Response | None) -> None:
            assert response is not None
            file = await request.file()
            files.append(file)
            await checkpoint()
            seen.append((file.read(), response.status_code))

    await call(Finishing(hello), body_messages(b"data"))
    assert seen == [(b"data", 200)]
    assert files[0].closed


async def test_request_finished_without_a_request_gets_none() -> None:
    """request_finished() is also called for a request whose head was refused."""
    seen: list[tuple[Any, int]] = []

    class Finishing(Handler):
        async def request_finished(self, request: Any, response: Response | None) -> None:
            assert response is not None
            seen.append((request, response.status_code))

    await call(Finishing(hello), path="/\x00")
    assert seen == [(None, 400)]


async def test_request_finished_fails_is_logged_and_the_body_closed(caplog: pytest.LogCaptureFixture) -> None:
    """An error of a hook at the end is logged; the response stands and the file is closed."""
    files = []

    class Failing(Handler):
        async def request_finished(self, request: Any, response: Response | None) -> None:
            files.append(await request.file())
            raise RuntimeError("in the end")

    channel = await call(Failing(hello))
    assert channel.body == b"hello"
    assert files[0].closed
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


async def test_request_finished_runs_in_the_context_of_the_endpoint() -> None:
    """Endpoint, response_ready() and request_finished() share one context: a token can be reset."""
    variable: ContextVar[str] = ContextVar("variable", default="unset")
    tokens: list[Token[str]] = []
    seen = []

    class Finishing(Handler):
        async def response_ready(self, request: Any, response: Response) -> None:
            seen.append(variable.get())

        async def request_finished(self, request: Any, response: Response | None) -> None:
            seen.append(variable.get())
            variable.reset(tokens.pop())

    async def endpoint(request: Request) -> Response:
        tokens.append(variable.set("set"))
        await checkpoint()
        return Response()

    await call(Finishing(endpoint))
    assert seen == ["set", "set"]
    assert variable.get() == "unset"


async def test_hooks_all_overridden_are_called_in_the_documented_order() -> None:
    """The order of the hooks is that of the life of a request."""
    order: list[str] = []

    class Tracing(Handler):
        async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
            order.append("handle")
            await super().handle(scope, receive, send)

        def create_request(self, scope: Scope, body: Body) -> tuple[Any, Response | None]:
            order.append("create_request")
            return super().create_request(scope, body)

        async def read_body(self, receive: Receive) -> SpooledTemporaryFile[bytes]:
            order.append("read_body")
            return await super().read_body(receive)

        async def run_get_response(self, request: Any) -> Response:
            order.append("run_get_response")
            return await super().run_get_response(request)

        async def response_ready(self, request: Any, response: Response) -> None:
            order.append("response_ready")

        async def send_response(self, response: Response, send: Send) -> None:
            order.append("send_response")
            await super().send_response(response, send)

        def chunk_bytes(self, data: bytes) -> Iterable[tuple[bytes, bool]]:
            order.append("chunk_bytes")
            return super().chunk_bytes(data)

        async def request_finished(self, request: Any, response: Response | None) -> None:
            order.append("request_finished")

    async def background() -> None:
        order.append("background")

    async def endpoint(request: Request) -> Response:
        return Response(b"x", background=background)

    await call(Tracing(endpoint))
    assert order == [
        "handle",
        "create_request",
        "read_body",
        "run_get_response",
        "response_ready",
        "send_response",
        "chunk_bytes",
        "background",
        "request_finished",
    ]


# --- the base implementations, with plain channels -------------------------------------------------------


def receiving(*messages: Message) -> Receive:
    """A plain receive function, which nobody may call more often than there are messages."""

    async def on_receive(index: int) -> None:
        assert index < len(messages), "nothing more was to be received"

    return Channel(messages, on_receive=on_receive).receive


async def test_base_handle_with_plain_channels_answers() -> None:
    """handle() serves a request by itself."""
    channel = Channel()
    await Handler(hello).handle(http_scope(), receiving(EMPTY), channel.send)
    check_messages(channel.sent, complete=True)
    assert channel.sent[1]["body"] == b"hello"


async def test_base_read_body_with_plain_receive_returns_the_file() -> None:
    """read_body() reads to the end into a file at position 0."""
    file = await Handler(hello).read_body(receiving(*body_messages(b"a", b"", b"b")))
    with file:
        assert file.tell() == 0
        assert file.read() == b"ab"


async def test_base_read_body_with_a_large_body_returns_the_file() -> None:
    """read_body() goes past the spool threshold."""
    handler = Handler(hello, limits=Limits(spool_threshold_bytes=10))
    file = await handler.read_body(receiving(*body_messages(b"12345678", b"12345678", b"90")))
    with file:
        assert file.read() == b"1234567812345678" + b"90"


async def test_base_read_body_with_an_empty_body_returns_an_empty_file() -> None:
    """No body is an empty file."""
    with await Handler(hello).read_body(receiving({"type": "http.request"})) as file:
        assert file.read() == b""


async def test_base_read_body_client_leaves_raises() -> None:
    """read_body() raises when the client leaves before the end: that is no end of file."""
    with pytest.raises(ClientDisconnectedError):
        await Handler(hello).read_body(receiving(body_messages(b"a", b"b")[0], DISCONNECT))


async def test_base_read_body_too_large_raises() -> None:
    """read_body() keeps to the limit."""
    handler = Handler(hello, limits=Limits(max_body_bytes=1))
    with pytest.raises(BodyTooLargeError):
        await handler.read_body(receiving(*body_messages(b"a", b"b")))


async def test_base_create_request_returns_request_or_response() -> None:
    """create_request() returns (request, None), or (None, response) for a head that is malformed."""
    handler = Handler(hello)
    request, response = handler.create_request(http_scope(path="/x"), Body(receiving()))
    assert isinstance(request, Request)
    assert (request.path, response) == ("/x", None)
    request, response = handler.create_request(http_scope(headers=[(b"content-length", b"x")]), Body(receiving()))
    assert request is None
    assert response is not None
    assert response.status_code == 400


async def test_base_run_get_response_awaits_the_endpoint() -> None:
    """run_get_response() returns what the endpoint does."""
    response = await Handler(hello).run_get_response(Request(http_scope(), receiving()))
    assert response.body == b"hello"


async def test_base_listen_for_disconnect_returns_at_the_disconnect_only() -> None:
    """listen_for_disconnect() passes over everything else."""
    rest = receiving(EMPTY, *body_messages(b"a", b"b"), {"type": "http.request"}, DISCONNECT)
    await Handler(hello).listen_for_disconnect(rest)
    with pytest.raises(AssertionError, match="nothing more"):
        await rest()


async def test_base_handle_http_error_returns_status_detail_and_headers() -> None:
    """handle_http_error() answers with what the error says, as plain text."""
    error = HTTPError(401, "who?", {"www-authenticate": "Basic"})
    response = Handler(hello).handle_http_error(None, error)
    assert (response.status_code, response.body) == (401, b"who?")
    assert response.headers["www-authenticate"] == "Basic"
    assert response.headers["content-type"] == "text/plain; charset=utf-8"


async def test_base_handle_uncaught_exception_returns_500() -> None:
    """handle_uncaught_exception() tells nothing, but for the traceback in debug mode, as text."""
    error = RuntimeError("<secret>")
    response = Handler(hello).handle_uncaught_exception(None, error)
    assert (response.status_code, response.body) == (500, b"Internal Server Error")
    response = Handler(hello, debug=True).handle_uncaught_exception(None, error)
    assert response.status_code == 500
    assert b"RuntimeError: <secret>" in response.body
    assert response.headers["content-type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize("streams", [False, True], ids=["bytes", "stream"])
async def test_base_send_response_with_plain_send_sends_start_body_end(streams: bool) -> None:
    """send_response() sends a legal sequence to any send function."""
    channel = Channel()
    response = StreamingResponse(letters(b"a", b"", b"b")) if streams else Response(b"ab")
    await Handler(hello).send_response(response, channel.send)
    check_messages(channel.sent, complete=True)
    assert channel.body == b"ab"
    await response.aclose()


async def test_base_send_response_client_left_raises() -> None:
    """An OSError of send is the disconnect."""

    async def on_send(index: int, message: Message) -> None:
        raise OSError("gone")

    with pytest.raises(ClientDisconnectedError):
        await Handler(hello).send_response(Response(b"x"), Channel(on_send=on_send).send)


def test_base_chunk_bytes_cuts_and_marks_the_last() -> None:
    """chunk_bytes() yields (chunk, is_last); empty data yields one empty last chunk."""

    class Small(Handler):
        chunk_size = 2

    handler = Small(hello)
    assert list(handler.chunk_bytes(b"")) == [(b"", True)]
    assert list(handler.chunk_bytes(b"ab")) == [(b"ab", True)]
    assert list(handler.chunk_bytes(b"abc")) == [(b"ab", False), (b"c", True)]
    assert list(handler.chunk_bytes(b"abcd")) == [(b"ab", False), (b"cd", True)]


async def test_base_end_hooks_do_nothing() -> None:
    """The hooks for frameworks can be called by super()."""
    handler = Handler(hello)
    await handler.response_ready(None, Response())
    await handler.client_left(None, "body")
    await handler.request_finished(None, None)


async def test_send_response_that_sends_nothing_ends_the_call() -> None:
    """A hook that leaves out the response leaves the rest to the server; the engine adds nothing."""

    class Mute(Handler):
        async def send_response(self, response: Response, send: Any) -> None:
            pass

    async def endpoint(request: Request) -> Response:
        return Response()

    channel = await call(Mute(endpoint))
    assert channel.sent == []
