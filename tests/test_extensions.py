"""_extensions.py and what the engine does with it: extensions are used where the server offers them, else never."""

from __future__ import annotations

import gc
import gzip
import logging
import re
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import anyio
import pytest
from faults import turn
from hypothesis import given
from hypothesis import strategies as st

from asgicore import (
    TLS,
    ClientDisconnectedError,
    Compression,
    ContentLengthError,
    Handler,
    InvalidHeaderError,
    Request,
    Response,
    ResponseStateError,
    StreamingResponse,
)
from asgicore._extensions import build_server_timing, encode_trailer_names, encode_trailers, find_tls
from asgicore._writer import Writer
from asgicore.testing import Channel, Message, call, check_messages, http_scope

DEBUG = "http.response.debug"
HINT = "http.response.early_hint"
PATHSEND = "http.response.pathsend"
TRAILERS = "http.response.trailers"
ZEROCOPY = "http.response.zerocopysend"
ALL = (DEBUG, HINT, PATHSEND, TRAILERS, ZEROCOPY)

LINK = "</style.css>; rel=preload; as=style"
ODD: list[Any] = [None, [], list(ALL), 5, "http.response.trailers", {}]
"""Extensions that are no mapping, or offer nothing."""


def offers(*names: str) -> dict[str, Any]:
    """What a scope with these extensions has."""
    return {name: {} for name in names}


def types(channel: Channel) -> list[str]:
    return [message["type"].rpartition(".")[2] for message in channel.sent]


def checked(channel: Channel, *offered: str, method: str = "GET") -> Channel:
    """The channel, whose messages are one whole and legal response."""
    check_messages(channel.sent, method=method, complete=True, extensions=offered)
    return channel


async def serve(app: Any, server: Channel, *offered: str, **scope: Any) -> None:
    with anyio.fail_after(5):
        await app(http_scope(extensions=offers(*offered), **scope), server.receive, server.send)


def respond(make: Callable[[], Response], **options: Any) -> Handler:
    """A handler that answers with what ``make`` gives."""

    async def endpoint(request: Request) -> Response:
        return make()

    return Handler(endpoint, **options)


class Parts:
    """A body in parts that notes what was asked of it, and that it was closed."""

    def __init__(self, *parts: bytes) -> None:
        self.parts = list(parts)
        self.asked = 0
        self.closed = 0

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        self.asked += 1
        if not self.parts:
            raise StopAsyncIteration
        return self.parts.pop(0)

    async def aclose(self) -> None:
        self.closed += 1


async def never() -> Any:
    raise AssertionError("receive was called")


# --- trailers ------------------------------------------------------------------------------------------------


def whole() -> Response:
    return Response(b"0123456789")


def stream() -> Response:
    return StreamingResponse(Parts(b"01234", b"56789"), headers={"content-length": "10"})


def trailing(make: Callable[[], Response], compute: Callable[[], Any], *names: str) -> Response:
    response = make()
    response.set_trailers(names or ["x-checksum"], compute)
    return response


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("make", [whole, stream])
async def test_trailers_where_offered_follow_the_body(make: Callable[[], Response], is_async: bool) -> None:
    """Declared in the head, which has no length then, and computed when the last part is out (RFC 9110 section 6.5)."""
    seen: list[int] = []

    def compute() -> Any:
        seen.append(len(server.sent))

        async def later() -> dict[str, str]:
            await turn(3)
            return {"X-Checksum": "17"}

        return later() if is_async else {"X-Checksum": "17"}

    server = Channel()
    await serve(respond(partial(trailing, make, compute)), server, TRAILERS)
    checked(server, TRAILERS)
    start, *bodies, last = server.sent
    assert start["trailers"] is True
    assert dict(start["headers"])[b"trailer"] == b"x-checksum"
    assert b"".join(message["body"] for message in bodies) == b"0123456789"
    assert last == {"type": TRAILERS, "headers": [(b"x-checksum", b"17")], "more_trailers": False}
    assert seen == [len(server.sent) - 1]


@pytest.mark.parametrize(("name", "value"), [("etag", '"1"'), ("accept-ranges", "bytes"), ("server-timing", "db")])
async def test_trailers_with_a_field_that_may_come_late_are_sent(name: str, value: str) -> None:
    """RFC 9110 sections 8.8.3 and 14.3, and Server Timing section 3."""
    server = Channel()
    await serve(respond(partial(trailing, stream, lambda: {name: value}, name)), server, TRAILERS)
    assert checked(server, TRAILERS).sent[-1]["headers"] == [(name.encode(), value.encode())]


@pytest.mark.parametrize("extensions", ODD, ids=repr)
@pytest.mark.parametrize("make", [whole, stream])
async def test_trailers_not_offered_are_left_out(make: Callable[[], Response], extensions: Any) -> None:
    """The response is what it is without them; the function is not called."""
    channel = await call(respond(partial(trailing, make, lambda: 1 / 0)), extensions=extensions)
    assert checked(channel).body == b"0123456789"
    assert b"trailer" not in dict(channel.headers)
    assert dict(channel.headers)[b"content-length"] == b"10"
    assert "trailers" not in channel.sent[0]


async def test_trailers_of_a_whole_response_not_offered_cost_no_message() -> None:
    """It goes out in two messages, as any other."""
    assert len((await call(respond(partial(trailing, whole, dict)))).sent) == 2


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)], ids=["HEAD", "204", "304"])
@pytest.mark.parametrize("make", [whole, stream])
async def test_trailers_of_a_response_without_body_are_left_out(
    make: Callable[[], Response], method: str, status: int
) -> None:
    """What has no body has nothing that trailers could follow."""

    def build() -> Response:
        response = trailing(make, lambda: 1 / 0)
        response.status_code = status
        return response

    channel = await call(respond(build), method=method, extensions=offers(TRAILERS))
    assert checked(channel, method=method).status == status
    assert types(channel) == ["start", "body"]


async def test_trailers_empty_end_the_response_nevertheless() -> None:
    """None of the declared fields has to come; the server is told that none will."""
    channel = await call(respond(partial(trailing, whole, dict)), extensions=offers(TRAILERS))
    assert checked(channel, TRAILERS).sent[-1]["headers"] == []


async def test_trailers_of_a_large_response_follow_messages_of_chunk_size() -> None:
    """The cutting of the handler stays, its own ``chunk_bytes`` included."""

    class Cut(Handler):
        def chunk_bytes(self, data: bytes) -> Iterator[tuple[bytes, bool]]:
            yield data[:4], False
            yield data[4:], True

    async def endpoint(request: Request) -> Response:
        return trailing(whole, dict)

    channel = await call(Cut(endpoint), extensions=offers(TRAILERS))
    checked(channel, TRAILERS)
    assert [message["body"] for message in channel.sent[1:-1]] == [b"0123", b"456789"]


@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
async def test_trailers_of_a_compressed_response_follow_it(is_stream: bool) -> None:
    """They are those of the response that was made, of whose content they tell."""
    content = b"0123456789" * 1000

    async def endpoint(request: Request) -> Response:
        response = StreamingResponse(Parts(content)) if is_stream else Response(content)
        response.headers["content-type"] = "text/plain"
        response.set_trailers(["x-checksum"], lambda: {"x-checksum": "17"})
        return response

    handler = Handler(endpoint, compression=Compression(encodings=["gzip"]))
    channel = await call(handler, headers=[(b"accept-encoding", b"gzip")], extensions=offers(TRAILERS))
    checked(channel, TRAILERS)
    assert (b"content-encoding", b"gzip") in channel.headers
    assert channel.sent[-1]["headers"] == [(b"x-checksum", b"17")]
    assert gzip.decompress(b"".join(message["body"] for message in channel.sent[1:-1])) == content


def undeclared() -> dict[str, str]:
    return {"x-checksum": "1", "x-other": "2"}


def illegal() -> dict[str, str]:
    return {"x-checksum": "1\r\nx-evil: 2"}


def raises() -> dict[str, str]:
    raise LookupError("no checksum")


async def raises_later() -> dict[str, str]:
    await turn()
    raise LookupError("no checksum")


FAULTS: list[Any] = [
    (undeclared, InvalidHeaderError),
    (illegal, InvalidHeaderError),
    (raises, LookupError),
    (raises_later, LookupError),
    (lambda: 5, TypeError),
]


@pytest.mark.parametrize(("compute", "error"), FAULTS, ids=["undeclared", "illegal", "raises", "async", "no fields"])
@pytest.mark.parametrize("make", [whole, stream])
async def test_trailers_that_fail_abort_the_response(
    make: Callable[[], Response], compute: Any, error: type[Exception]
) -> None:
    """The error reaches the server, nothing follows the body, all is closed and no background work runs."""
    done: list[str] = []
    response = trailing(make, compute)
    response.background = lambda: done.append("background")
    server = Channel()
    with pytest.raises(error):
        await serve(respond(lambda: response), server, TRAILERS)
    check_messages(server.sent, complete=False, extensions=[TRAILERS])
    assert types(server)[-1] == "body"
    assert server.sent[-1]["more_body"] is False
    assert not done


async def test_trailers_come_before_background_work() -> None:
    """The response is at its end with them, and not with the last part."""
    seen: list[list[str]] = []

    def build() -> Response:
        response = trailing(whole, dict)
        response.background = lambda: seen.append(types(server))
        return response

    server = Channel()
    await serve(respond(build), server, TRAILERS)
    assert seen == [["start", "body", "trailers"]]


@pytest.mark.parametrize("index", range(6))
@pytest.mark.parametrize("make", [whole, stream])
@pytest.mark.parametrize("tells", ["raise", "both"])
async def test_disconnect_at_any_message_of_a_response_with_trailers_is_quiet(
    make: Callable[[], Response], tells: Any, index: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Whichever send fails, nothing is sent after it, and nobody hears of an error."""
    caplog.set_level(logging.INFO, "asgicore")
    ran: list[str] = []

    async def leave(number: int, message: Message) -> None:
        if number == index:
            server.disconnect()
            raise ConnectionResetError

    async def work() -> None:
        ran.append("background")

    response = trailing(make, dict)
    response.background = work
    server = Channel(tells=tells, on_send=leave)
    await serve(respond(lambda: response), server, TRAILERS)
    is_whole = not server.has_left
    check_messages(server.sent, complete=is_whole or None, extensions=[TRAILERS])
    assert "trailers" in types(server) or not is_whole
    assert server.sends == len(server.sent) + (not is_whole)
    assert ran == (["background"] if is_whole else [])
    assert not caplog.records
    gc.collect()  # an iterator that was left behind would warn here


async def test_disconnect_between_body_and_trailers_cancels_the_computation(caplog: pytest.LogCaptureFixture) -> None:
    """A function that waits ends with the client."""
    caplog.set_level(logging.INFO, "asgicore")
    ended: list[str] = []

    async def compute() -> dict[str, str]:
        server.disconnect()
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("cancelled")
        raise AssertionError("not reached")

    server = Channel()
    await serve(respond(partial(trailing, stream, compute)), server, TRAILERS)
    assert ended == ["cancelled"]
    assert types(server)[-1] == "body"
    assert not caplog.records


async def test_aclose_between_body_and_trailers_ends_the_response_without_them() -> None:
    """The body is whole; what would come after it is left out, and the server is told so."""

    async def compute() -> dict[str, str]:
        computing.set()
        await anyio.sleep_forever()
        raise AssertionError("not reached")

    server, computing = Channel(), anyio.Event()
    handler = respond(partial(trailing, whole, compute))
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(partial(serve, handler, server, TRAILERS))
            await computing.wait()
            await handler.aclose(0)
    checked(server, TRAILERS)
    assert server.sent[-1]["headers"] == []


async def test_aclose_within_a_stream_with_trailers_ends_it_without_them() -> None:
    """As a stream without: with a final message, and the trailers' own."""

    async def endless() -> AsyncIterator[bytes]:
        yield b"tick"
        waiting.set()
        await anyio.sleep_forever()

    server, waiting = Channel(), anyio.Event()
    handler = respond(lambda: trailing(lambda: StreamingResponse(endless()), lambda: 1 / 0))
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(partial(serve, handler, server, TRAILERS))
            await waiting.wait()
            await handler.aclose(0)
    assert types(checked(server, TRAILERS)) == ["start", "body", "body", "trailers"]


async def test_trailers_of_a_response_that_failed_do_not_follow_the_answer() -> None:
    """What is sent in its place has its own length, and no trailers but its own."""

    class Streams(Handler):
        def handle_uncaught_exception(self, request: Any, exc: Exception) -> Response:
            return StreamingResponse(Parts(b"it ", b"failed"), 500)

    response = trailing(stream, lambda: 1 / 0)

    async def endpoint(request: Request) -> Response:
        response.headers["content-length"] = "3"
        return response

    assert isinstance(response, StreamingResponse)
    response.parts()  # so that it cannot be sent again
    for handler in (Handler(endpoint), Streams(endpoint)):
        channel = await call(handler, extensions=offers(TRAILERS))
        assert checked(channel).status == 500
        assert channel.body in (b"Internal Server Error", b"it failed")


async def test_length_of_a_stream_that_failed_is_not_held_against_the_answer() -> None:
    """A stream that could not begin leaves nothing of itself behind in what is sent next."""

    class Unstartable(Parts):
        def start_thread(self) -> None:
            raise LookupError("no room")

    class Streams(Handler):
        def handle_uncaught_exception(self, request: Any, exc: Exception) -> Response:
            return StreamingResponse(Parts(b"it failed"), 500)

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(Unstartable(), headers={"content-length": "3"})

    assert checked(await call(Streams(endpoint))).body == b"it failed"


@pytest.mark.parametrize(
    ("names", "error"),
    [
        ("x-checksum", TypeError),
        (b"x-checksum", TypeError),
        ([], ValueError),
        (["x checksum"], InvalidHeaderError),
        ([":status"], InvalidHeaderError),
        ([5], InvalidHeaderError),
        (["Content-Length"], InvalidHeaderError),
        (["transfer-encoding"], InvalidHeaderError),
        (["x-a", "set-cookie"], InvalidHeaderError),
        (["authorization"], InvalidHeaderError),
        (["trailer"], InvalidHeaderError),
    ],
    ids=repr,
)
def test_set_trailers_with_names_that_may_not_come_raises(names: Any, error: type[Exception]) -> None:
    """What a recipient needs before the body cannot be said after it (RFC 9110 section 6.5.1)."""
    with pytest.raises(error):
        Response().set_trailers(names, dict)


def test_set_trailers_with_what_is_no_function_raises() -> None:
    """A mapping would be the fields of a body that is not sent yet."""
    fields: Any = {"x-checksum": "1"}
    with pytest.raises(TypeError, match="set_trailers takes a function"):
        Response().set_trailers(["x-checksum"], fields)


def test_encode_trailer_names_with_repeats_declares_each_once() -> None:
    """In lower case, in order."""
    assert encode_trailer_names(["X-B", "x-a", "x-b"]) == (b"x-b", b"x-a")


def test_encode_trailers_keeps_repeats_in_order() -> None:
    """A field may come more than once."""
    fields = [("x-a", "2"), ("X-A", "1")]
    assert encode_trailers(fields, (b"x-a",)) == [(b"x-a", b"2"), (b"x-a", b"1")]


# --- ready-made messages -------------------------------------------------------------------------------------

START: Message = {"type": "http.response.start", "status": 200, "headers": [(b"trailer", b"x-a")], "trailers": True}
LAST: Message = {"type": "http.response.body", "body": b"x"}
FIELDS: Message = {"type": TRAILERS, "headers": [(b"X-A", b"1")]}


def writer_of(channel: Channel, *offered: str, head: bool = False) -> Writer:
    writer = Writer(channel.send, head)
    writer.extensions = offered
    return writer


async def test_messages_with_trailers_pass_where_offered() -> None:
    """Several messages of them, too; the last one ends the response."""
    channel = Channel()
    writer = writer_of(channel, TRAILERS)
    for message in (START, LAST, {**FIELDS, "more_trailers": True}, FIELDS):
        assert not writer.is_done
        await writer(message)
    assert writer.is_done
    checked(channel, TRAILERS)
    assert channel.sent[-1]["headers"] == [(b"x-a", b"1")]


async def test_messages_with_trailers_not_offered_raise_at_the_trailers() -> None:
    """The announcement is left out; the fields cannot be."""
    channel = Channel()
    writer = writer_of(channel)
    await writer(START)
    await writer(LAST)
    assert writer.is_done
    with pytest.raises(ResponseStateError, match=r"does not take http\.response\.trailers"):
        await writer(FIELDS)
    checked(channel)


async def test_messages_with_trailers_for_head_end_with_the_body() -> None:
    """An application that does not look at the method sends them nevertheless, and they are left out."""
    channel = Channel()
    writer = writer_of(channel, TRAILERS, head=True)
    for message in (START, LAST, FIELDS):
        await writer(message)
    assert writer.is_done
    checked(channel, method="HEAD")
    assert types(channel) == ["start", "body"]


async def test_message_with_trailers_that_frame_raises() -> None:
    """Fields about framing and routing never come after the body, whoever sends them."""
    channel = Channel()
    writer = writer_of(channel, TRAILERS)
    await writer(START)
    await writer(LAST)
    with pytest.raises(InvalidHeaderError):
        await writer({**FIELDS, "headers": [(b"content-length", b"1")]})
    assert not writer.is_done


@pytest.mark.parametrize(
    ("before", "message", "reason"),
    [
        ([], FIELDS, "before http.response.start"),
        ([START], FIELDS, "after http.response.start"),
        ([START, LAST], LAST, "after the body: trailers follow"),
        ([START, LAST, FIELDS], FIELDS, "after the response has ended"),
        ([START], {"type": DEBUG, "info": {}}, "after http.response.start"),
        ([START], {"type": HINT, "links": [b"<a>"]}, "after http.response.start"),
        ([{"type": DEBUG, "info": {}}], {"type": DEBUG, "info": {}}, "once"),
        ([START], {"type": "http.response.push", "path": "/"}, "no message"),
        ([START], {"type": "websocket.close"}, "no message"),
        ([], {"type": PATHSEND, "path": "/a"}, "before http.response.start"),
        ([START, LAST, FIELDS], {"type": PATHSEND, "path": "/a"}, "after the response has ended"),
    ],
)
async def test_message_of_an_extension_out_of_order_raises_and_is_not_sent(
    before: list[Message], message: Message, reason: str
) -> None:
    """One legal order, whoever sends."""
    channel = Channel()
    writer = writer_of(channel, *ALL)
    for earlier in before:
        await writer(earlier)
    state = writer.state
    with pytest.raises(ResponseStateError, match=reason):
        await writer(message)
    assert len(channel.sent) == len(before)
    assert writer.state is state


async def test_messages_of_debug_and_hints_pass_before_the_start() -> None:
    """Hints any number of times."""
    channel = Channel()
    writer = writer_of(channel, *ALL)
    hint = {"type": HINT, "links": [b"<a>", b"<b>"]}
    for message in (hint, {"type": DEBUG, "info": {"a": 1}}, hint, {**START, "trailers": False}, LAST):
        await writer(message)
    checked(channel, *ALL)
    assert [message.get("links") for message in channel.sent[:3]] == [[b"<a>", b"<b>"], None, [b"<a>", b"<b>"]]


@pytest.mark.parametrize("link", [b"<a>\r\nx: y", b"\x00", "text"])
async def test_message_with_a_link_that_must_not_leave_raises(link: Any) -> None:
    """Row 37 of the contract holds for hints, too."""
    channel = Channel()
    with pytest.raises(InvalidHeaderError):
        await writer_of(channel, HINT)({"type": HINT, "links": [link]})
    assert not channel.sent


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Any]:
    path = tmp_path / "data.bin"
    path.write_bytes(b"0123456789")
    with path.open("rb") as opened:
        yield opened


@pytest.mark.parametrize("last", [b"xyz", b"xy", b"xyzz"])
async def test_messages_that_send_a_file_are_counted(last: bytes, file: Any) -> None:
    """Pieces of a file and ready bytes make up the declared length together."""
    channel = Channel()
    writer = writer_of(channel, ZEROCOPY)
    await writer({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"7")]})
    await writer({"type": ZEROCOPY, "file": file, "offset": 2, "count": 4, "more_body": True})
    if len(last) == 3:
        await writer({"type": "http.response.body", "body": last})
        checked(channel, ZEROCOPY)
    else:
        with pytest.raises(ContentLengthError):
            await writer({"type": "http.response.body", "body": last})
        assert not writer.is_done


async def test_message_that_sends_more_of_a_file_than_declared_raises(file: Any) -> None:
    """It is not sent."""
    channel = Channel()
    writer = writer_of(channel, ZEROCOPY)
    await writer({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"7")]})
    with pytest.raises(ContentLengthError):
        await writer({"type": ZEROCOPY, "file": file, "count": 8, "more_body": True})
    assert types(channel) == ["start"]


async def test_message_that_sends_a_file_to_its_end_is_not_counted(file: Any) -> None:
    """How much that is, the server knows alone; nobody ends such a response in its place."""
    channel = Channel()
    writer = writer_of(channel, ZEROCOPY)
    await writer({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"13")]})
    await writer({"type": ZEROCOPY, "file": file, "more_body": True})
    assert not writer.is_open
    await writer({"type": "http.response.body", "body": b"xyz"})
    assert types(channel) == ["start", "zerocopysend", "body"]


@pytest.mark.parametrize("kind", [PATHSEND, ZEROCOPY])
async def test_message_that_sends_a_file_of_no_declared_length_passes(kind: str, file: Any) -> None:
    """There is nothing to hold it against."""
    channel = Channel()
    writer = writer_of(channel, kind)
    await writer({"type": "http.response.start", "status": 200, "headers": []})
    await writer(
        {"type": PATHSEND, "path": file.name} if kind == PATHSEND else {"type": kind, "file": file, "count": 3}
    )
    checked(channel, kind)
    assert writer.is_done


@pytest.mark.parametrize("kind", [PATHSEND, ZEROCOPY])
async def test_message_that_sends_a_file_for_head_is_an_empty_body(kind: str, file: Any) -> None:
    """HEAD has no body, whatever it is made of."""
    channel = Channel()
    writer = writer_of(channel, *ALL, head=True)
    await writer({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"10")]})
    await writer({"type": kind, "path": file.name})
    checked(channel, *ALL, method="HEAD")
    assert types(channel) == ["start", "body"]


# --- files that the server sends -----------------------------------------------------------------------------


def by_path(file: Any, parts: Parts) -> StreamingResponse:
    response = StreamingResponse(parts, headers={"content-length": "10"})
    response.path = file.name
    return response


def by_segments(file: Any, parts: Parts) -> StreamingResponse:
    response = StreamingResponse(parts, headers={"content-length": "10"})
    response.file = file
    response.segments = [b"01", (2, 5), b"", (0, 0), (7, 3)]
    return response


SENDS: list[Any] = [(by_path, PATHSEND), (by_segments, ZEROCOPY)]


@pytest.mark.parametrize(("make", "extension"), SENDS)
async def test_file_is_sent_by_the_server_where_offered(make: Any, extension: str, file: Any) -> None:
    """The content is not asked for, and closed."""
    parts = Parts(b"0123456789")
    response = make(file, parts)
    channel = await call(respond(lambda: response), extensions=offers(extension))
    checked(channel, extension)
    assert (parts.asked, parts.closed) == (0, 1)
    if extension == PATHSEND:
        assert channel.sent[1:] == [{"type": PATHSEND, "path": file.name}]
    else:
        pieces = [(m["offset"], m["count"]) for m in channel.sent if m["type"] == ZEROCOPY]
        assert pieces == [(2, 5), (7, 3)]


@pytest.mark.parametrize("extensions", ODD, ids=repr)
@pytest.mark.parametrize(("make", "extension"), SENDS)
async def test_file_is_sent_here_where_not_offered(make: Any, extension: str, extensions: Any, file: Any) -> None:
    """The content is iterated as of any stream."""
    response = make(file, Parts(b"01234", b"56789"))
    channel = await call(respond(lambda: response), extensions=extensions)
    assert checked(channel).body == b"0123456789"


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
@pytest.mark.parametrize(("make", "extension"), SENDS)
async def test_file_of_a_response_without_body_is_not_sent(
    make: Any, extension: str, method: str, status: int, file: Any
) -> None:
    """Neither is it read."""
    parts = Parts()
    response = make(file, parts)
    response.status_code = status
    channel = await call(respond(lambda: response), method=method, extensions=offers(extension))
    assert types(checked(channel, method=method)) == ["start", "body"]
    assert (parts.asked, parts.closed) == (0, 1)


@pytest.mark.parametrize(("make", "extension"), SENDS)
async def test_file_with_trailers_is_sent_here(make: Any, extension: str, file: Any) -> None:
    """They are made of what passes through the iterator, which it does not where the server sends the file."""
    parts = Parts(b"0123456789")

    def build() -> Response:
        response: Response = make(file, parts)
        response.set_trailers(["x-parts"], lambda: {"x-parts": str(parts.asked)})
        return response

    channel = await call(respond(build), extensions=offers(extension, TRAILERS))
    assert channel.sent[-1]["headers"] == [(b"x-parts", b"2")]
    checked(channel, TRAILERS)
    channel = await call(respond(build), extensions=offers(extension))
    assert extension in [message["type"] for message in channel.sent]


async def test_segments_that_are_not_as_long_as_declared_are_not_begun(
    file: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The mistake is answered with a 500, as nothing was sent yet."""
    response = by_segments(file, Parts())
    assert response.segments is not None
    response.segments.append(b"more")
    channel = await call(respond(lambda: response), extensions=offers(ZEROCOPY))
    assert checked(channel).status == 500
    assert isinstance(caplog.records[0].exc_info[1], ContentLengthError)  # type: ignore[index]


@pytest.mark.parametrize("index", range(5))
@pytest.mark.parametrize(("make", "extension"), SENDS)
async def test_disconnect_at_any_message_of_a_file_is_quiet(
    make: Any, extension: str, index: int, file: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is sent after the one that failed, and the content is closed."""
    caplog.set_level(logging.INFO, "asgicore")
    failed: list[int] = []

    async def leave(number: int, message: Message) -> None:
        if number == index:
            failed.append(number)
            raise BrokenPipeError

    parts = Parts()
    response = make(file, parts)
    server = Channel(on_send=leave)
    await serve(respond(lambda: response), server, extension)
    check_messages(server.sent, complete=not failed, extensions=[extension])
    assert server.sends == len(server.sent) + len(failed)
    assert parts.closed == 1
    assert not caplog.records


# --- early hints ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", ["spool", "stream"])
async def test_hints_where_offered_go_out_ahead_of_the_response(body: Any) -> None:
    """As many as are sent, each with its links; then the response, as ever."""
    sent: list[bool] = []

    async def endpoint(request: Request) -> Response:
        sent.append(await request.send_early_hints(LINK, "</a.js>; rel=preload; as=script"))
        sent.append(await request.send_early_hints(LINK))
        return Response(await request.body())

    channel = await call(Handler(endpoint, body=body), extensions=offers(HINT))
    checked(channel, HINT)
    assert types(channel) == ["early_hint", "early_hint", "start", "body"]
    assert channel.sent[0]["links"] == [LINK.encode(), b"</a.js>; rel=preload; as=script"]
    assert sent == [True, True]


@pytest.mark.parametrize("extensions", [*ODD, ...], ids=repr)
async def test_hints_not_offered_are_left_out(extensions: Any) -> None:
    """The endpoint is told, and answers as ever."""
    sent: list[bool] = []

    async def endpoint(request: Request) -> Response:
        sent.append(await request.send_early_hints(LINK))
        return Response()

    assert types(checked(await call(Handler(endpoint), extensions=extensions))) == ["start", "body"]
    assert sent == [False]


@pytest.mark.parametrize("extensions", [{}, offers(HINT)], ids=["not offered", "offered"])
@pytest.mark.parametrize("link", ["<a>\r\nset-cookie: a=1", "<\x00>", "</\u2603>", b"</a>", " </a>"])
async def test_hints_with_a_link_that_must_not_leave_raise(link: Any, extensions: Any) -> None:
    """Under every server, so that the mistake does not wait for one that offers them."""
    raised: list[BaseException] = []

    async def endpoint(request: Request) -> Response:
        with pytest.raises(InvalidHeaderError, match="'link'") as caught:
            await request.send_early_hints(LINK, link)
        raised.append(caught.value)
        return Response()

    assert types(checked(await call(Handler(endpoint), extensions=extensions))) == ["start", "body"]
    assert raised


async def test_hints_of_a_writer_with_a_single_text_raise() -> None:
    """Its characters would be the links."""
    channel = Channel()
    with pytest.raises(TypeError, match="each link as an argument of its own"):
        await writer_of(channel, HINT).send_early_hints(LINK)
    assert not channel.sent


async def test_hints_without_links_are_none() -> None:
    """A 103 that says nothing is not sent."""
    sent: list[bool] = []

    async def endpoint(request: Request) -> Response:
        sent.append(await request.send_early_hints())
        return Response()

    assert types(await call(Handler(endpoint), extensions=offers(HINT))) == ["start", "body"]
    assert sent == [False]


async def test_hints_after_the_start_are_left_out() -> None:
    """From inside of a stream, and from background work."""
    sent: list[bool] = []

    async def endpoint(request: Request) -> Response:
        async def hint() -> None:
            sent.append(await request.send_early_hints(LINK))

        async def parts() -> AsyncIterator[bytes]:
            await hint()
            yield b"part"
            await hint()

        return StreamingResponse(parts(), background=hint)

    checked(await call(Handler(endpoint), extensions=offers(HINT)))
    assert sent == [False, False, False]


async def test_hints_from_a_task_beside_the_endpoint_go_out_until_the_start() -> None:
    """Whoever has the request may send them."""
    sent: list[bool] = []

    async def endpoint(request: Request) -> Response:
        async def hint() -> None:
            sent.append(await request.send_early_hints(LINK))

        async with anyio.create_task_group() as group:
            group.start_soon(hint)
            group.start_soon(hint)
        return Response()

    channel = checked(await call(Handler(endpoint), extensions=offers(HINT)), HINT)
    assert types(channel) == ["early_hint", "early_hint", "start", "body"]
    assert sent == [True, True]


async def test_hints_after_the_end_of_the_request_are_left_out() -> None:
    """A request that somebody keeps sends nothing, and does not keep what belongs to the response."""
    kept: list[Request] = []

    async def endpoint(request: Request) -> Response:
        kept.append(request)
        return Response()

    channel = await call(Handler(endpoint), extensions=offers(HINT))
    with anyio.fail_after(5):
        assert not await kept[0].send_early_hints(LINK)
    checked(channel)


@pytest.mark.parametrize("how", ["disconnect", "cancelled"])
async def test_hints_after_a_request_without_response_are_left_out(how: str) -> None:
    """Also where no response was started, and something still holds what belongs to the request."""
    kept: list[Any] = []
    server, waiting = Channel(), anyio.Event()

    async def endpoint(request: Request) -> Response:
        kept.append(request)
        try:
            waiting.set()
            await anyio.sleep_forever()
        except BaseException as exc:
            kept.append(exc)  # its traceback leads to all frames
            raise
        raise AssertionError("not reached")

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(partial(serve, Handler(endpoint), server, HINT))
            await waiting.wait()
            if how == "cancelled":
                group.cancel_scope.cancel()
            else:
                server.disconnect()
    assert not await kept[0].send_early_hints(LINK)
    assert not server.sent
    kept.clear()


async def test_hints_to_a_client_that_left_raise_and_cost_no_error(caplog: pytest.LogCaptureFixture) -> None:
    """A failing send is the disconnect; a response after it is not sent."""
    caplog.set_level(logging.INFO, "asgicore")
    server = Channel(tells="raise")

    async def endpoint(request: Request) -> Response:
        server.disconnect()
        with pytest.raises(ClientDisconnectedError):
            await request.send_early_hints(LINK)
        return Response()

    await serve(Handler(endpoint), server, HINT)
    assert (server.sent, server.sends) == ([], 1)
    assert not caplog.records


async def test_hints_before_an_error_do_not_keep_it_from_being_answered() -> None:
    """They are no start."""

    async def endpoint(request: Request) -> Response:
        await request.send_early_hints(LINK)
        raise LookupError

    channel = checked(await call(Handler(endpoint), extensions=offers(HINT)), HINT)
    assert channel.sent[1]["status"] == 500


async def test_hints_of_several_handlers_on_one_scope_keep_to_their_channels() -> None:
    """Nothing of a request is kept in its scope."""

    async def endpoint(request: Request) -> Response:
        assert await request.send_early_hints(LINK)
        return Response()

    scope = http_scope(extensions=offers(HINT))
    channels = [Channel(), Channel()]
    for handler, channel in zip((Handler(endpoint), Handler(endpoint)), channels, strict=True):
        with anyio.fail_after(5):
            await handler(scope, channel.receive, channel.send)
    assert [types(channel) for channel in channels] == [["early_hint", "start", "body"]] * 2


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="counts references")
async def test_hints_leave_no_cycle_behind() -> None:
    """What sends them is held by the body, which it holds: weakly, so that nothing waits for the collector."""

    async def endpoint(request: Request) -> Response:
        await request.send_early_hints(LINK)
        return Response()

    handler = Handler(endpoint)
    await call(handler, extensions=offers(HINT))
    gc.collect()
    gc.disable()
    try:
        before = sum(type(one).__name__ == "Exchange" for one in gc.get_objects())
        await call(handler, extensions=offers(HINT))
        assert sum(type(one).__name__ == "Exchange" for one in gc.get_objects()) == before
    finally:
        gc.enable()


async def test_hints_of_a_bare_request_go_out_by_its_send() -> None:
    """``Request(scope, receive, send)`` has the channel that it takes."""
    channel = Channel()
    scope = http_scope(extensions=offers(HINT))
    assert await Request(scope, channel.receive, channel.send).send_early_hints(LINK)
    assert not await Request(scope, channel.receive).send_early_hints(LINK)
    assert not await Request(http_scope(), channel.receive, channel.send).send_early_hints(LINK)
    assert types(channel) == ["early_hint"]


@pytest.mark.parametrize("reads", [False, True])
async def test_hints_of_a_bare_request_after_its_response_are_left_out(reads: bool) -> None:
    """The response has begun; the request knows by the scope that both have."""
    channel = Channel()
    scope = http_scope(extensions=offers(HINT))
    request = Request(scope, channel.receive, channel.send)
    if reads:
        await request.body()
    with anyio.fail_after(5):
        await Response()(scope, channel.receive, channel.send)
        assert not await request.send_early_hints(LINK)
    checked(channel)


# --- debug ---------------------------------------------------------------------------------------------------


async def test_debug_info_where_offered_goes_out_once_before_the_start() -> None:
    """A test client learns how the response was made."""

    def build() -> Response:
        response = Response(b"page")
        response.debug_info = {"template": "page.html"}
        assert response.debug_info == {"template": "page.html"}
        return response

    channel = checked(await call(respond(build), extensions=offers(DEBUG)), DEBUG)
    assert channel.sent[0] == {"type": DEBUG, "info": {"template": "page.html"}}
    assert types(await call(respond(build))) == ["start", "body"]


async def test_debug_info_of_the_answer_to_an_error_is_no_second_one() -> None:
    """The message comes once a response (ASGI, "Debug")."""

    class Told(Handler):
        def handle_uncaught_exception(self, request: Any, exc: Exception) -> Response:
            response = Response(b"it failed", 500)
            response.debug_info = {"made": "second"}
            return response

    response = StreamingResponse(Parts())
    response.parts()  # so that it cannot be sent again
    response.debug_info = {"made": "first"}

    async def endpoint(request: Request) -> Response:
        return response

    channel = checked(await call(Told(endpoint), extensions=offers(DEBUG)), DEBUG)
    assert channel.sent[1]["status"] == 500


def test_debug_info_that_is_no_mapping_raises() -> None:
    """Where it is set; ``None`` takes it away."""
    response = Response()
    assert response.debug_info is None
    wrong: Any = ["template"]
    with pytest.raises(TypeError, match="debug_info takes a mapping"):
        response.debug_info = wrong
    response.debug_info = {"a": 1}
    response.debug_info = None
    assert response.debug_info is None


# --- server-timing -------------------------------------------------------------------------------------------

TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
METRIC = re.compile(rf'{TOKEN}(;dur=-?[0-9]+(\.[0-9]+)?)?(;desc="(?P<desc>([^"\\\x00-\x08\x0a-\x1f\x7f]|\\["\\])*)")?')


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("db",), "db"),
        (("db", 53), "db;dur=53"),
        (("db", 0), "db;dur=0"),
        (("db", 100), "db;dur=100"),
        (("db", 1.25), "db;dur=1.25"),
        (("db", 1e-9), "db;dur=0"),
        (("db", 1e21), "db;dur=1000000000000000000000"),
        (("cache", None, "Cache Read"), 'cache;desc="Cache Read"'),
        (("cache", 2.0, ""), 'cache;dur=2;desc=""'),
        (("a", None, 'say "\\"'), 'a;desc="say \\"\\\\\\""'),
    ],
)
def test_server_timing_metric_is_written_as_the_grammar_says(arguments: tuple[Any, ...], text: str) -> None:
    """W3C Server Timing: name, duration in plain digits, quoted description."""
    assert build_server_timing(*arguments) == text


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("",), InvalidHeaderError),
        (("a b",), InvalidHeaderError),
        (("a;dur=1",), InvalidHeaderError),
        ((b"a",), InvalidHeaderError),
        ((5,), InvalidHeaderError),
        (("a", float("nan")), ValueError),
        (("a", float("inf")), ValueError),
        (("a", None, "line\r\nx: y"), InvalidHeaderError),
        (("a", None, "\u2603"), InvalidHeaderError),
    ],
)
def test_server_timing_metric_that_must_not_leave_raises(arguments: tuple[Any, ...], error: type[Exception]) -> None:
    """A name is a token, a duration finite, a description without controls."""
    with pytest.raises(error):
        Response().add_server_timing(*arguments)


@given(
    st.from_regex(TOKEN, fullmatch=True),
    st.none() | st.floats(allow_nan=False, allow_infinity=False),
    st.none() | st.text(st.characters(max_codepoint=0xFF)),
)
def test_server_timing_metric_matches_the_grammar(name: str, milliseconds: float | None, text: str | None) -> None:
    """Whatever is taken can be parsed, and gives back what was meant."""
    try:
        metric = build_server_timing(name, milliseconds, text)
    except InvalidHeaderError:
        assert text is not None
        assert re.search(r"[\x00-\x08\x0a-\x1f\x7f\x85]", text)  # U+0085 is a line break in text
        return
    found = METRIC.fullmatch(metric)
    assert found
    if text is not None:
        assert re.sub(r"\\(.)", r"\1", found["desc"]) == text


def test_server_timing_metrics_are_fields_of_their_own() -> None:
    """A list field may be split (RFC 9110 section 5.3)."""
    response = Response()
    response.add_server_timing("db", 53, "Query")
    response.add_server_timing("app")
    assert response.headers.getall("server-timing") == ['db;dur=53;desc="Query"', "app"]


# --- TLS -----------------------------------------------------------------------------------------------------

PEM = "-----BEGIN CERTIFICATE-----\n"


@pytest.mark.parametrize("tls", [None, [], "tls", 5, ...], ids=repr)
def test_tls_that_is_not_told_is_none(tls: Any) -> None:
    """No mapping, no TLS."""
    extensions = {} if tls is ... else {"tls": tls}
    assert Request(http_scope(extensions=extensions), never).tls is None


@pytest.mark.parametrize("extensions", ODD, ids=repr)
def test_tls_of_odd_extensions_is_none(extensions: Any) -> None:
    """Whatever the server gives."""
    assert Request(http_scope(extensions=extensions), never).tls is None


FULL: dict[str, Any] = {
    "server_cert": PEM,
    "client_cert_chain": [PEM, PEM],
    "client_cert_name": "CN=ada",
    "client_cert_error": None,
    "tls_version": 0x0304,
    "cipher_suite": 0x1301,
}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, TLS()),
        (dict.fromkeys(FULL), TLS()),
        (
            FULL,
            TLS(
                server_cert=PEM,
                client_cert_chain=(PEM, PEM),
                client_cert_name="CN=ada",
                version=0x0304,
                cipher_suite=0x1301,
            ),
        ),
        ({"client_cert_chain": (PEM,)}, TLS(client_cert_chain=(PEM,))),
        ({"client_cert_chain": {PEM: 1}.keys()}, TLS(client_cert_chain=(PEM,))),
        ({"client_cert_chain": [PEM, None, b"x"]}, TLS(client_cert_chain=(PEM,))),
        ({"client_cert_chain": PEM}, TLS()),
        ({"tls_version": True, "cipher_suite": "0x1301", "server_cert": b"x", "client_cert_chain": 5}, TLS()),
        ({"client_cert_error": "expired"}, TLS(client_cert_error="expired")),
    ],
)
def test_tls_takes_what_has_the_right_type(given: Mapping[str, Any], expected: TLS) -> None:
    """ASGI, "TLS Extension": every key may be missing or ``None``."""
    assert find_tls({"tls": given}) == expected
    assert Request(http_scope(extensions={"tls": given}), never).tls == expected


# --- all of it -----------------------------------------------------------------------------------------------


@given(
    offered=st.sets(st.sampled_from(ALL)),
    method=st.sampled_from(["GET", "HEAD", "POST"]),
    status=st.sampled_from([200, 204, 206, 304, 404]),
    has=st.sets(st.sampled_from(["trailers", "debug", "path", "segments", "hints", "background"])),
    is_stream=st.booleans(),
)
def test_extensions_in_any_combination_make_a_legal_response(
    offered: set[str], method: str, status: int, has: set[str], is_stream: bool
) -> None:
    """Every message is one that the server takes, in the order that it takes them."""
    ran: list[str] = []

    async def endpoint(request: Request) -> Response:
        if "hints" in has:
            assert await request.send_early_hints(LINK) == (HINT in offered)
        response = stream() if is_stream else whole()
        response.status_code = status
        if "trailers" in has:
            response.set_trailers(["x-a"], lambda: {"x-a": "1"})
        if "debug" in has:
            response.debug_info = {"a": 1}
        if "background" in has:
            response.background = work
        if isinstance(response, StreamingResponse):
            if "segments" in has:
                response.file, response.segments = file, [(0, 10)]
            if "path" in has:
                response.path = file.name
        return response

    async def work() -> None:
        ran.append("background")

    async def main() -> None:
        channel = await call(Handler(endpoint), method=method, extensions=offers(*sorted(offered)))
        checked(channel, *offered, method=method)

    with NamedTemporaryFile() as file:
        file.write(b"0123456789")
        file.flush()
        anyio.run(main)
    assert ran == (["background"] if "background" in has else [])
