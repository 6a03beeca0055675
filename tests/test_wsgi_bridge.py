"""wsgi_bridge.py: a WSGI application on an ASGI server has all that PEP 3333 promises it, and pins no thread."""

from __future__ import annotations

import contextlib
import contextvars
import hashlib
import io
import logging
import os
import sys
import threading
import types
import zlib
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.validate import validator

import anyio
import pytest
from faults import on_asyncio

from asgicore import ClientDisconnectedError, Compression, ContentLengthError, Limits
from asgicore._threads import Threads
from asgicore.testing import DISCONNECT, Channel, Client, Message, body_messages, call, check_messages, http_scope, lint
from asgicore.testing._living import tasks as living_tasks
from asgicore.wsgi_bridge import WSGIHandler
from asgicore.wsgi_bridge._input import Conversation

SECONDS = 5.0
TEXT = ("Content-Type", "text/plain")
MiB = 2**20

App = Callable[[dict[str, Any], Any], Iterable[bytes]]

modes = pytest.mark.parametrize("mode", ["spool", "stream"])


# --- helpers ---------------------------------------------------------------------------------------------


class Parts:
    """An iterable of parts that tells where it was called and how often it was closed; exceptions are raised."""

    def __init__(self, *parts: bytes | BaseException | Callable[[], object]) -> None:
        self._parts = iter(parts)
        self.given = 0
        self.closed = 0
        self.threads: set[int] = set()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Parts:
        self.threads.add(threading.get_ident())
        start_response("200 OK", [TEXT])
        return self

    def __iter__(self) -> Parts:
        return self

    def __next__(self) -> bytes:
        self.threads.add(threading.get_ident())
        part: Any = next(self._parts)
        if callable(part):
            part = part()
        if isinstance(part, BaseException):
            raise part
        self.given += 1
        found: bytes = part
        return found

    def close(self) -> None:
        self.threads.add(threading.get_ident())
        self.closed += 1


def endless(part: bytes = b"x" * 65536) -> Iterator[bytes]:
    while True:
        yield part


def answering(*parts: bytes, status: str = "200 OK", headers: Iterable[tuple[str, str]] = (TEXT,)) -> App:
    """An application that returns a list."""

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response(status, list(headers))
        return list(parts)

    return app


def streaming(*parts: bytes, status: str = "200 OK", headers: Iterable[tuple[str, str]] = (TEXT,)) -> App:
    """An application that is a generator: nothing of it runs before its first part is asked for."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response(status, list(headers))
        yield from parts

    return app


def asking(ask: Callable[[dict[str, Any]], object]) -> App:
    """An application whose answer is the ``repr`` of what ``ask`` finds in the environ."""

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        found = repr(ask(environ)).encode()
        start_response("200 OK", [TEXT])
        return [found]

    return app


def checked(app: App, **options: Any) -> WSGIHandler:
    """The bridge, with the standard library's validator between it and the application."""
    return WSGIHandler(validator(app), **options)


def values(channel: Channel, name: bytes) -> list[bytes]:
    return [value for key, value in channel.headers if key == name]


async def eventually(check: Callable[[], object], what: str = "it happens") -> None:
    """Wait for something in another thread."""
    with anyio.move_on_after(SECONDS):
        while not check():
            await anyio.sleep(0.001)
        return
    raise AssertionError(f"{what} within {SECONDS:g} s")


async def serve(handler: Any, channel: Channel, **scope: Any) -> None:
    """One request that must end, and leave no task."""
    before = living_tasks()
    with anyio.fail_after(SECONDS):
        await handler(http_scope(**scope), channel.receive, channel.send)
    assert living_tasks() == before


def errors(caplog: pytest.LogCaptureFixture) -> list[BaseException]:
    """What was logged as an error, each of which has to be logged once."""
    records = [record for record in caplog.records if record.levelno >= logging.WARNING]
    found = [record.exc_info[1] for record in records if record.exc_info is not None]
    assert len(found) == len(records)
    return [exc for exc in found if exc is not None]


# --- responses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "body"),
    [
        pytest.param([b"Hello"], b"Hello", id="one"),
        pytest.param([], b"", id="none"),
        pytest.param([b""], b"", id="empty"),
        pytest.param([b"a", b"", b"b"], b"ab", id="several"),
        pytest.param([b"x" * 200_000], b"x" * 200_000, id="large"),
    ],
)
@pytest.mark.parametrize("sequence", [list, tuple])
async def test_response_complete_at_once_declares_its_length(
    parts: list[bytes], body: bytes, sequence: type[Any]
) -> None:
    """A list needs no chunks (PEP 3333, "Handling the Content-Length Header")."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [TEXT])
        given: Iterable[bytes] = sequence(parts)
        return given

    channel = await call(WSGIHandler(app))
    check_messages(channel.sent, complete=True)
    assert (channel.status, channel.body) == (200, body)
    assert values(channel, b"content-type") == [b"text/plain"]
    assert values(channel, b"content-length") == [b"%d" % len(body)]
    # The validator makes an iterator of everything: nobody can tell that it is complete.
    channel = await call(checked(app))
    check_messages(channel.sent, complete=True)
    assert (channel.status, channel.body) == (200, body)


@pytest.mark.parametrize("parts", [[], [b""], [b"a"], [b"", b"a", b"", b"b", b""], [b"x" * 100_000] * 5], ids=len)
async def test_response_of_generator_arrives_whole(parts: list[bytes]) -> None:
    """Empty parts are left out, and one final message ends it."""
    channel = await call(checked(streaming(*parts)))
    check_messages(channel.sent, complete=True)
    assert channel.body == b"".join(parts)
    assert all(message["body"] for message in channel.sent[1:-1])


async def test_response_of_generator_comes_part_by_part() -> None:
    """No part waits for the next one."""
    go = threading.Event()
    parts = Parts(b"first", lambda: b"second" if go.wait(SECONDS) else b"late")
    seen: list[bytes] = []

    async def on_send(index: int, message: Message) -> None:
        if message.get("body"):
            seen.append(message["body"])
            go.set()

    await serve(checked(parts), Channel(on_send=on_send))
    assert seen == [b"first", b"second"]


async def test_response_of_many_tiny_parts_arrives_whole() -> None:
    """In order, joined or not."""
    expected = [b"%d\n" % number for number in range(5000)]
    channel = await call(checked(streaming(*expected)))
    assert channel.body == b"".join(expected)


async def test_response_is_held_back_by_a_slow_client() -> None:
    """The application is never far ahead of what the server has taken."""
    parts = Parts(*[b"x" * 65536] * 200)
    taken = 0

    async def on_send(index: int, message: Message) -> None:
        nonlocal taken
        taken += len(message.get("body", b""))
        if index % 20 == 1:
            # Time enough for an application that nothing holds back.
            for _ in range(20):
                await anyio.sleep(0.001)
        assert parts.given * 65536 <= taken + MiB

    channel = Channel(on_send=on_send)
    await serve(checked(parts), channel)
    assert len(channel.body) == 200 * 65536


@pytest.mark.parametrize("status", ["200", "200 ", "200 OK", "200 Nothing anybody knows"])
async def test_status_line_with_or_without_reason_is_taken(status: str) -> None:
    """The reason goes nowhere in ASGI."""
    channel = await call(WSGIHandler(answering(b"a", status=status)))
    assert channel.status == 200


async def test_headers_keep_repeats_and_latin_1() -> None:
    """In order, in lower case."""
    headers = [TEXT, ("Set-Cookie", "a=1"), ("X-Latin", "é"), ("Set-Cookie", "b=2")]
    channel = await call(WSGIHandler(answering(b"a", headers=headers)))
    assert [field for field in channel.headers if field[0] != b"content-length"] == [
        (b"content-type", b"text/plain"),
        (b"set-cookie", b"a=1"),
        (b"x-latin", b"\xe9"),
        (b"set-cookie", b"b=2"),
    ]


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        ("OK", [TEXT]),
        ("100 Continue", [TEXT]),
        ("200 OK\r\nx: y", [TEXT]),
        (200, [TEXT]),
        ("200 OK", [("Connection", "close")]),
        ("200 OK", [("Transfer-Encoding", "chunked")]),
        ("200 OK", [("X", "a\r\nset-cookie: b")]),
        ("200 OK", [("X", "☃")]),
        ("200 OK", [("X Y", "a")]),
        ("200 OK", [("Content-Length", "1"), ("Content-Length", "2")]),
    ],
)
async def test_head_that_must_not_leave_is_an_error_of_the_application(
    status: Any, headers: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """It is raised in its call of ``start_response``, logged once, and answered with 500."""
    channel = await call(WSGIHandler(answering(b"a", status=status, headers=headers)))
    check_messages(channel.sent, complete=True)
    assert channel.status == 500
    assert len(errors(caplog)) == 1


@pytest.mark.parametrize(
    ("method", "status", "headers"),
    [
        ("HEAD", "200 OK", [TEXT, ("Content-Length", "6")]),
        ("HEAD", "200 OK", [TEXT]),
        ("GET", "204 No Content", []),
        ("GET", "304 Not Modified", [("ETag", '"1"')]),
    ],
)
@pytest.mark.parametrize("make", [answering, streaming])
async def test_response_without_body_has_none(
    make: Callable[..., App], method: str, status: str, headers: list[tuple[str, str]]
) -> None:
    """What the application gives for HEAD, 204 and 304 goes nowhere (RFC 9110 section 6.4.1)."""
    channel = await call(checked(make(b"abc", b"def", status=status, headers=headers)), method=method)
    check_messages(channel.sent, method=method, complete=True)
    assert channel.body == b""
    if method == "HEAD":
        assert values(channel, b"content-length") in ([b"6"], [])
        assert (b"content-type", b"text/plain") in channel.headers


async def test_response_to_head_is_not_iterated_to_its_end() -> None:
    """An endless one ends."""
    parts = Parts(*[b"x"] * 1000)
    channel = await call(checked(parts), method="HEAD")
    check_messages(channel.sent, method="HEAD", complete=True)
    assert parts.given < 5
    assert parts.closed == 1


# --- start_response and write ----------------------------------------------------------------------------


async def test_headers_wait_for_the_first_part_that_is_not_empty() -> None:
    """Until then the application may change its mind (PEP 3333, "Error Handling")."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [TEXT, ("X-First", "1"), ("Content-Length", "100")])
        yield b""
        try:
            raise KeyError
        except KeyError:
            start_response("500 Oops", [TEXT, ("X-Second", "2")], sys.exc_info())
        yield b"sorry"

    channel = await call(checked(app))
    check_messages(channel.sent, complete=True)
    assert (channel.status, channel.body) == (500, b"sorry")
    assert values(channel, b"x-first") == []
    assert values(channel, b"x-second") == [b"2"]


async def test_exc_info_after_the_first_part_is_raised_and_cuts_the_response(caplog: pytest.LogCaptureFixture) -> None:
    """The response that has begun never ends as if it were whole."""
    error = KeyError("late")

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [TEXT])
        yield b"a"
        try:
            raise error
        except KeyError:
            start_response("500 Oops", [TEXT], sys.exc_info())
        yield b"never"

    channel = Channel()
    with pytest.raises(KeyError) as caught:
        await serve(checked(app), channel)
    assert caught.value is error
    check_messages(channel.sent, complete=False)
    assert channel.body in (b"", b"a")


async def test_start_response_called_twice_is_an_error(caplog: pytest.LogCaptureFixture) -> None:
    """Without ``exc_info``."""

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [TEXT])
        start_response("200 OK", [TEXT])
        return [b"a"]

    channel = await call(WSGIHandler(app))
    assert channel.status == 500
    assert len(errors(caplog)) == 1


@pytest.mark.parametrize(
    "app",
    [
        pytest.param(lambda environ, start_response: [b"a"], id="list"),
        pytest.param(lambda environ, start_response: iter([b"a"]), id="iterator"),
        pytest.param(lambda environ, start_response: [], id="nothing"),
        pytest.param(lambda environ, start_response: start_response("200 OK", [TEXT]) and None, id="None"),
        pytest.param(answering("text"), id="str"),  # type: ignore[arg-type]
        pytest.param(streaming("text"), id="streamed str"),  # type: ignore[arg-type]
    ],
)
async def test_application_that_breaks_the_rules_is_answered_with_500(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    """As long as nothing was sent, an error is an error page, and logged once."""
    channel = await call(WSGIHandler(app))
    check_messages(channel.sent, complete=True)
    assert channel.status == 500
    assert len(errors(caplog)) == 1


async def test_write_sends_before_the_iterable() -> None:
    """Old applications use it (PEP 3333, "The write() Callable")."""

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        write = start_response("200 OK", [TEXT])
        write(b"a")
        write(b"b")
        return [b"c"]

    channel = await call(checked(app))
    check_messages(channel.sent, complete=True)
    assert channel.body == b"abc"


async def test_write_goes_out_while_the_application_is_still_running() -> None:
    """It is for progress, among others."""
    sent = threading.Event()

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [TEXT])(b"first ")
        return [b"in time" if sent.wait(SECONDS) else b"too late"]

    async def on_send(index: int, message: Message) -> None:
        if message.get("body") == b"first ":
            sent.set()

    channel = Channel(on_send=on_send)
    await serve(checked(app), channel)
    assert channel.body == b"first in time"


async def test_write_raises_when_the_client_left() -> None:
    """A clear error, an ``OSError``, in the application's own call; the thread is free."""
    raised: list[BaseException] = []
    wrote = threading.Event()

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        write = start_response("200 OK", [TEXT])
        try:
            for part in endless():
                write(part)
                wrote.set()
        except OSError as exc:
            raised.append(exc)
            raise
        return []

    channel = Channel()
    async with anyio.create_task_group() as group:
        group.start_soon(serve, checked(app), channel)
        await eventually(wrote.is_set)
        channel.disconnect()
    assert [type(exc) for exc in raised] == [ClientDisconnectedError]


# --- content-length --------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [answering, streaming])
@pytest.mark.parametrize("parts", [[b"abcdef"], [b"ab", b"cdef"], [b"abc", b"def"]])
async def test_body_longer_than_declared_is_cut(make: Callable[..., App], parts: list[bytes]) -> None:
    """Not a byte more than declared leaves (PEP 3333)."""
    channel = await call(checked(make(*parts, headers=[TEXT, ("Content-Length", "3")])))
    check_messages(channel.sent, complete=True)
    assert channel.body == b"abc"
    assert values(channel, b"content-length") == [b"3"]


async def test_body_of_endless_iterable_ends_where_it_was_declared_to() -> None:
    """No more is asked for than can be sent."""
    parts = Parts(*[b"ab"] * 1000)

    def app(environ: dict[str, Any], start_response: Any) -> Parts:
        start_response("200 OK", [TEXT, ("Content-Length", "5")])
        return parts

    channel = await call(checked(app))
    assert channel.body == b"ababa"
    assert parts.given < 10
    assert parts.closed == 1


async def test_body_shorter_than_declared_is_cut_off(caplog: pytest.LogCaptureFixture) -> None:
    """The client can tell: there is no final message."""
    channel = Channel()
    with pytest.raises(ContentLengthError):
        await serve(checked(streaming(b"a", b"b", headers=[TEXT, ("Content-Length", "3")])), channel)
    check_messages(channel.sent, complete=False)


async def test_whole_body_shorter_than_declared_is_an_error_page(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing was sent yet."""
    channel = await call(WSGIHandler(answering(b"ab", headers=[TEXT, ("Content-Length", "3")])))
    check_messages(channel.sent, complete=True)
    assert channel.status == 500
    assert [type(exc) for exc in errors(caplog)] == [ContentLengthError]


# --- the body of the request -----------------------------------------------------------------------------

BODY = b"first line\nsecond\n\nlong " + b"x" * 100_000 + b"\nlast"

CHUNKS = [BODY[:3], BODY[3:15], b"", BODY[15:50_000], BODY[50_000:]]


async def test_input_that_nobody_answers_any_more_ends_with_the_request() -> None:
    """An application that waits for a part of the body when the response is closed is told so."""
    raised: list[BaseException] = []

    def produce(put: Any) -> None:
        try:
            conversation.receive_part()
        except ClientDisconnectedError as exc:
            raised.append(exc)
            raise

    conversation = Conversation(Threads(), produce, lambda: pytest.fail("nobody asks for the body"))
    conversation.start_thread()
    await eventually(lambda: conversation._parts, "it has asked")
    with anyio.fail_after(SECONDS):
        await conversation.aclose()
    assert len(raised) == 1


@modes
@pytest.mark.parametrize(
    "read",
    [
        pytest.param(lambda file: file.read(10**6), id="read"),
        pytest.param(lambda file: [file.read(5), file.read(7), file.read(10**6), file.read(1)], id="read in parts"),
        pytest.param(lambda file: [file.readline(), file.readline(), file.read(3)], id="readline"),
        pytest.param(lambda file: [file.readline(4), file.readline(100), file.readline(1)], id="readline with limit"),
        pytest.param(lambda file: file.readlines(), id="readlines"),
        pytest.param(lambda file: [file.readlines(12), file.readlines(5)], id="readlines with hint"),
        pytest.param(lambda file: list(file), id="iteration"),
        pytest.param(lambda file: next(iter(file)), id="first line"),
    ],
)
@pytest.mark.parametrize("threshold", [2**20, 1000], ids=["memory", "disk"])
async def test_input_reads_as_a_file_does(mode: Any, read: Callable[[Any], object], threshold: int) -> None:
    """``read``, ``readline`` and ``readlines`` with limits, and iteration: as on the whole body in a file."""
    app = asking(lambda environ: hashlib.sha256(repr(read(environ["wsgi.input"])).encode()).hexdigest())
    handler = checked(app, body=mode, limits=Limits(spool_threshold_bytes=threshold))
    channel = await call(handler, body_messages(*CHUNKS), method="POST")
    expected = hashlib.sha256(repr(read(io.BytesIO(BODY))).encode()).hexdigest()
    assert channel.body == repr(expected).encode()


@modes
async def test_input_reads_without_size_to_its_end(mode: Any) -> None:
    """The validator forbids it, and every application does it."""
    app = asking(lambda environ: (len(environ["wsgi.input"].read()), environ["wsgi.input"].read()))
    channel = await call(WSGIHandler(app, body=mode), body_messages(*CHUNKS), method="POST")
    assert channel.body == repr((len(BODY), b"")).encode()


@modes
async def test_input_need_not_be_read(mode: Any) -> None:
    """An application may answer without a look at the body."""
    channel = await call(checked(answering(b"no"), body=mode), body_messages(b"a", b"b"), method="POST")
    assert channel.body == b"no"


@pytest.mark.parametrize("declared", [True, False])
async def test_input_that_was_spooled_has_its_length(declared: bool) -> None:
    """Also where the client sent chunks, whose number nobody declared."""
    headers = [(b"content-length", b"3") if declared else (b"transfer-encoding", b"chunked")]
    app = asking(lambda environ: (environ["CONTENT_LENGTH"], environ["wsgi.input"].read(3)))
    channel = await call(checked(app), body_messages(b"a", b"bc"), method="POST", headers=headers)
    assert channel.body == b"('3', b'abc')"


async def test_input_that_is_streamed_is_received_as_it_is_read() -> None:
    """The client is held back by an application that does not read."""
    counts: list[int] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        for _ in range(3):
            counts.append(channel.received)
            assert len(environ["wsgi.input"].read(1000)) == 1000
        start_response("200 OK", [TEXT])
        return [b"enough"]

    channel = Channel(body_messages(*[b"x" * 1000] * 100))
    await serve(checked(app, body="stream"), channel, method="POST")
    assert channel.body == b"enough"
    # The watch may have read one message ahead.
    assert all(count <= number + 1 for number, count in enumerate(counts))
    assert channel.received <= 5


async def test_input_cut_off_while_spooling_reaches_no_application() -> None:
    """A truncated upload is no upload."""
    called: list[bool] = []
    messages = [{"type": "http.request", "body": b"12345", "more_body": True}, DISCONNECT]
    channel = Channel(messages)
    await serve(checked(asking(lambda environ: called.append(True))), channel, method="POST")
    assert (called, channel.sent) == ([], [])


@pytest.mark.parametrize(
    "read",
    [
        lambda file: file.read(10),
        lambda file: file.read(),
        lambda file: file.readline(),
        lambda file: file.readlines(),
        lambda file: list(file),
    ],
)
async def test_input_cut_off_while_streaming_raises_in_read(
    read: Callable[[Any], object], caplog: pytest.LogCaptureFixture
) -> None:
    """It is never an end of file, however often it is asked for, and it is no error of anybody."""
    raised: list[BaseException] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        for _ in range(2):
            try:
                read(environ["wsgi.input"])
            except OSError as exc:
                raised.append(exc)
        read(environ["wsgi.input"])
        start_response("200 OK", [TEXT])
        return [b"as if nothing had happened"]

    messages = [{"type": "http.request", "body": b"12345", "more_body": True}, DISCONNECT]
    channel = Channel(messages)
    await serve(WSGIHandler(app, body="stream"), channel, method="POST", headers=[(b"content-length", b"10")])
    assert [type(exc) for exc in raised] == [ClientDisconnectedError] * 2
    assert channel.sent == []
    assert errors(caplog) == []


@modes
async def test_input_over_the_limit_is_refused(mode: Any) -> None:
    """Declared or counted, with 413."""
    handler = WSGIHandler(
        asking(lambda environ: environ["wsgi.input"].read()), body=mode, limits=Limits(max_body_bytes=5)
    )
    for headers in ([], [(b"content-length", b"9")]):
        channel = await call(handler, body_messages(b"12345", b"6789"), method="POST", headers=headers)
        assert channel.status == 413


# --- environ ---------------------------------------------------------------------------------------------


async def ask(key: str, options: dict[str, Any] | None = None, **scope: Any) -> str:
    """One key of the environ that the application gets."""
    app = asking(lambda environ: environ.get(key))
    channel = await call(checked(app, **(options or {})), **scope)
    assert channel.status == 200
    return channel.body.decode()


async def test_environ_joins_cookies_with_semicolons() -> None:
    """HTTP/2 sends them as several fields (RFC 9113 section 8.2.3)."""
    assert await ask("HTTP_COOKIE", headers=[(b"cookie", b"a=1"), (b"cookie", b"b=2")]) == "'a=1; b=2'"


async def test_environ_has_no_field_of_a_name_that_passes_for_another() -> None:
    """Neither with underscores nor ``Proxy``."""
    headers = [(b"x_forwarded_for", b"spoofed"), (b"x-forwarded-for", b"1.2.3.4"), (b"proxy", b"http://evil")]
    assert await ask("HTTP_X_FORWARDED_FOR", headers=headers) == "'1.2.3.4'"
    assert await ask("HTTP_PROXY", headers=headers) == "None"


async def test_request_with_a_name_that_passes_for_another_is_refused_where_that_is_asked_for() -> None:
    """By 400, before the application is called; the name is told so that no log is fooled."""
    called: list[str] = []
    handler = checked(asking(lambda environ: called.append("called")), underscores="refuse")
    channel = await call(handler, headers=[(b"x-fine", b"1"), (b"x_forwarded\n_for", b"spoofed")])
    assert channel.status == 400
    assert b"headers: b'x_forwarded\\n_for' has an underscore" in channel.body
    assert called == []
    assert (await call(handler, headers=[(b"host", b"a"), (b"host", b"b")])).status == 400
    assert (await call(handler, headers=[(b"x-fine", b"1")])).status == 200
    assert (await call(handler, headers=None)).status == 200


def test_underscores_takes_one_of_two_words() -> None:
    """Anything else is an error when the bridge is made."""
    with pytest.raises(ValueError, match="underscores is 'drop' or 'refuse', not 'keep'"):
        WSGIHandler(answering(b"x"), underscores="keep")  # type: ignore[arg-type]


@pytest.mark.parametrize(("path", "path_info"), [("/apple/x", "/apple/x"), ("/app/x", "/x"), ("/app", "")])
async def test_environ_splits_the_prefix_on_whole_segments(path: str, path_info: str) -> None:
    """``/apple`` does not begin with ``/app``."""
    assert await ask("PATH_INFO", root_path="/app", path=path, raw_path=None) == repr(path_info)
    assert await ask("SCRIPT_NAME", root_path="/app", path=path, raw_path=None) == "'/app'"


async def test_environ_tunnels_utf_8_in_latin_1() -> None:
    """PEP 3333, "Unicode Issues"."""
    assert await ask("PATH_INFO", path="/é☃", raw_path=None) == repr("/é☃".encode().decode("latin-1"))
    assert await ask("QUERY_STRING", query_string=b"a=\xff") == repr("a=\xff")


async def test_environ_takes_further_keys() -> None:
    """From a mapping, or from a function of the scope."""
    assert await ask("REMOTE_USER", {"environ": {"REMOTE_USER": "ann"}}) == "'ann'"
    assert await ask("x.path", {"environ": lambda scope: {"x.path": scope["path"]}}, path="/p") == "'/p'"


async def test_environ_holds_the_scope() -> None:
    """For what WSGI has no key for."""
    app = asking(lambda environ: environ["asgi.scope"]["path"])
    assert (await call(checked(app), path="/p")).body == b"'/p'"


@pytest.mark.parametrize(("max_threads", "multithread"), [(1, "False"), (2, "True")])
async def test_environ_tells_whether_there_are_other_threads(max_threads: int, multithread: str) -> None:
    """``wsgi.multithread`` is the truth."""
    assert await ask("wsgi.multithread", {"threads": Threads(max_threads)}) == multithread


async def test_header_fields_beyond_the_limit_reach_no_application() -> None:
    """431, before anything is joined (RFC 6585 section 5)."""
    called: list[bool] = []
    handler = checked(asking(lambda environ: called.append(True)))
    channel = await call(handler, headers=[(b"x-many", b"1")] * 10_000)
    assert (channel.status, called) == (431, [])


async def test_errors_of_the_application_go_to_the_standard_stream(capsys: pytest.CaptureFixture[str]) -> None:
    """``wsgi.errors`` can be written to."""

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["wsgi.errors"].write("a word\n")
        environ["wsgi.errors"].flush()
        start_response("200 OK", [TEXT])
        return [b"a"]

    await call(checked(app))
    assert capsys.readouterr().err == "a word\n"


# --- the end: close() exactly once, in the thread of the application -------------------------------------


async def test_close_is_called_once_in_the_same_thread() -> None:
    """After the last part; another thread could not use what the application has open."""
    parts = Parts(b"a", b"b")
    await call(checked(parts))
    assert parts.closed == 1
    assert len(parts.threads) == 1
    assert parts.threads != {threading.get_ident()}


class Closing(list[bytes]):
    """A list that can be closed, as some frameworks return."""

    closed = 0

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("parts", [[], [b"a"], [b"a", b"b"]])
async def test_close_of_a_list_is_called(parts: list[bytes]) -> None:
    """Also where nothing had to be streamed."""
    result = Closing(parts)

    def app(environ: dict[str, Any], start_response: Any) -> Closing:
        start_response("200 OK", [TEXT])
        return result

    await call(checked(app))
    assert result.closed == 1


@pytest.mark.parametrize("sent", [0, 1, 2])
async def test_close_is_called_when_the_iteration_fails(sent: int, caplog: pytest.LogCaptureFixture) -> None:
    """Before the first part it becomes an error page, later it cuts the response; the exception is the same."""
    error = KeyError("a")
    parts = Parts(*[b"x"] * sent, error)
    channel = Channel()
    if sent:
        with pytest.raises(KeyError) as caught:
            await serve(checked(parts), channel)
        assert caught.value is error
        check_messages(channel.sent, complete=False)
    else:
        await serve(checked(parts), channel)
        assert channel.status == 500
        assert errors(caplog) == [error]
    assert parts.closed == 1
    assert len(parts.threads) == 1


async def test_close_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The client has its response."""

    class Failing(Parts):
        def close(self) -> None:
            super().close()
            raise KeyError("in close")

    parts = Failing(b"a")
    channel = Channel()
    await serve(checked(parts), channel)
    assert channel.body == b"a"
    assert parts.closed == 1
    assert [type(exc) for exc in errors(caplog)] == [KeyError]


@pytest.mark.parametrize("make", [answering, streaming])
async def test_application_that_raises_is_answered_with_500(
    make: Callable[..., App], caplog: pytest.LogCaptureFixture
) -> None:
    """``start_response`` or not: nothing was sent. Logged once, and nothing of it in the answer."""
    error = KeyError("secret")

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [TEXT])
        raise error

    channel = await call(checked(app))
    check_messages(channel.sent, complete=True)
    assert channel.status == 500
    assert b"secret" not in channel.body
    assert errors(caplog) == [error]


@pytest.mark.parametrize("stop", [StopIteration("x"), StopAsyncIteration("x"), GeneratorExit("x")], ids=repr)
async def test_application_that_raises_what_ends_iterators_does_not_hang(
    stop: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception that futures and coroutines take for something else arrives somewhere."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        raise stop

    channel = Channel()
    raised: BaseException | None = None
    try:
        await serve(WSGIHandler(app), channel)
    except BaseException as exc:
        raised = exc
    if raised is None:
        assert channel.status == 500
    else:
        assert stop in (raised, raised.__cause__)
        assert channel.sent == []


@pytest.mark.parametrize("at", [0, 1, 2, 5])
@pytest.mark.parametrize("error", [OSError("gone"), ConnectionResetError(), BrokenPipeError()], ids=repr)
async def test_close_is_called_when_send_fails(at: int, error: OSError, caplog: pytest.LogCaptureFixture) -> None:
    """The client left: the request ends quietly, and the thread is free."""
    parts = Parts(*[b"x" * 65536] * 100)

    async def on_send(index: int, message: Message) -> None:
        if index == at:
            raise error

    await serve(checked(parts), Channel(on_send=on_send))
    await eventually(lambda: parts.closed)
    assert parts.closed == 1
    assert len(parts.threads) == 1
    assert parts.given < 50
    assert errors(caplog) == []


@pytest.mark.parametrize("at", [0, 1, 2, 5])
async def test_close_is_called_when_the_client_leaves(at: int, caplog: pytest.LogCaptureFixture) -> None:
    """Under a server whose ``send`` stays silent: an endless stream stops within a few parts."""
    parts = Parts(*[b"x" * 65536] * 100_000)
    given = 0

    async def on_send(index: int, message: Message) -> None:
        nonlocal given
        if index == at:
            given = parts.given
            channel.disconnect()
        await anyio.lowlevel.checkpoint()

    channel = Channel(on_send=on_send)
    await serve(checked(parts), channel)
    assert parts.closed == 1
    assert len(parts.threads) == 1
    assert parts.given <= given + 20
    assert errors(caplog) == []


async def test_client_leaving_while_the_application_works_ends_when_it_does(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A thread cannot be cancelled: the request is over when its thread is, and nothing is sent."""
    working, go = threading.Event(), threading.Event()
    parts = Parts(b"a")

    def app(environ: dict[str, Any], start_response: Any) -> Parts:
        working.set()
        assert go.wait(SECONDS)
        return parts(environ, start_response)

    channel = Channel()
    ended = False

    async def run() -> None:
        nonlocal ended
        await serve(checked(app), channel)
        ended = True

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await eventually(working.is_set)
        channel.disconnect()
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        assert not ended
        go.set()
    assert parts.closed == 1
    assert channel.sent == []
    assert errors(caplog) == []


async def test_close_is_called_when_the_request_is_cancelled() -> None:
    """From outside, while the client reads slowly; the cancellation goes on."""
    parts = Parts(*[b"x" * 65536] * 1000)
    reached = anyio.Event()

    async def on_send(index: int, message: Message) -> None:
        if index == 3:
            reached.set()
            await anyio.sleep_forever()

    channel = Channel(on_send=on_send)
    with anyio.fail_after(SECONDS):
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(checked(parts), http_scope(), channel.receive, channel.send)
                await reached.wait()
                scope.cancel()
        assert scope.cancelled_caught
    await eventually(lambda: parts.closed)
    assert parts.closed == 1
    assert len(parts.threads) == 1


async def test_close_is_called_when_the_application_works_and_the_request_is_cancelled() -> None:
    """The call returns when the thread has ended, and not before."""
    working, go = threading.Event(), threading.Event()
    parts = Parts(b"a")

    def app(environ: dict[str, Any], start_response: Any) -> Parts:
        working.set()
        assert go.wait(SECONDS)
        return parts(environ, start_response)

    channel = Channel()
    with anyio.fail_after(SECONDS):
        async with anyio.create_task_group() as group:
            group.start_soon(checked(app), http_scope(), channel.receive, channel.send)
            await eventually(working.is_set)
            group.cancel_scope.cancel()
            # Nobody may wait in a cancelled task group: the thread ends by itself.
            threading.Timer(0.05, go.set).start()
    await eventually(lambda: parts.closed)
    assert parts.closed == 1


# --- threads ---------------------------------------------------------------------------------------------


async def test_requests_run_side_by_side() -> None:
    """Four requests wait for each other, which they can only do at once."""
    barrier = threading.Barrier(4, timeout=SECONDS)

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        barrier.wait()
        start_response("200 OK", [TEXT])
        return [b"together"]

    handler = checked(app, threads=Threads(4))
    channels = [Channel() for _ in range(4)]
    async with anyio.create_task_group() as group:
        for channel in channels:
            group.start_soon(handler, http_scope(), channel.receive, channel.send)
    assert [channel.body for channel in channels] == [b"together"] * 4


async def test_requests_with_one_thread_run_one_after_the_other() -> None:
    """No more at once than threads are allowed."""
    lock = threading.Lock()
    others: list[bool] = []

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        others.append(not lock.acquire(blocking=False))
        start_response("200 OK", [TEXT])
        yield b"a"
        yield b"b"
        lock.release()

    handler = checked(app, threads=Threads(1))
    channels = [Channel() for _ in range(5)]
    with anyio.fail_after(SECONDS):
        async with anyio.create_task_group() as group:
            for channel in channels:
                group.start_soon(handler, http_scope(), channel.receive, channel.send)
    assert [channel.body for channel in channels] == [b"ab"] * 5
    assert others == [False] * 5


async def test_slow_uploads_take_no_thread() -> None:
    """The body is spooled before the application gets one."""
    handler = checked(answering(b"ok"), threads=Threads(1))
    async with anyio.create_task_group() as group:
        for _ in range(10):
            slow = Channel([{"type": "http.request", "body": b"a", "more_body": True}])
            group.start_soon(handler, http_scope(method="POST"), slow.receive, slow.send)
        await anyio.lowlevel.checkpoint()
        assert (await call(handler)).body == b"ok"
        group.cancel_scope.cancel()


async def test_clients_that_abort_leave_a_healthy_bridge(small_heap: None) -> None:
    """200 of them, in the middle of endless streams: every thread is free, every iterable closed."""
    threads = Threads(8)
    streams: list[Parts] = []

    def app(environ: dict[str, Any], start_response: Any) -> Parts:
        parts = Parts(*[b"x" * 65536] * 20_000 if environ["PATH_INFO"] == "/endless" else [b"ok"])
        streams.append(parts)
        return parts(environ, start_response)

    handler = checked(app, threads=threads)
    limit = anyio.CapacityLimiter(20)

    async def abort(number: int) -> None:
        async def on_send(index: int, message: Message) -> None:
            await anyio.lowlevel.checkpoint()
            if index == 1 + number % 5:
                if number % 2:
                    channel.disconnect()
                else:
                    raise ConnectionResetError

        channel = Channel(on_send=on_send)
        async with limit:
            await handler(http_scope(path="/endless"), channel.receive, channel.send)

    async def succeed() -> None:
        channel = Channel()
        await handler(http_scope(), channel.receive, channel.send)
        assert channel.body == b"ok"

    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(succeed)
        before = threading.active_count()
        async with anyio.create_task_group() as group:
            for number in range(200):
                group.start_soon(abort, number)
        assert (await call(handler)).body == b"ok"
    await eventually(lambda: sum(parts.closed for parts in streams) == 221, "every iterable is closed")
    assert {parts.closed for parts in streams} == {1}
    await eventually(lambda: not threads.in_use, "every thread is free")
    # Each of them may have begun with fewer threads than it is allowed.
    assert threads.alive <= 8
    assert threading.active_count() <= before + 8


variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="nothing")


async def test_context_of_the_request_is_the_application_s() -> None:
    """It sees what was set outside; call, iteration and ``close`` share what the application sets."""
    seen: list[str] = []
    tokens: list[contextvars.Token[str]] = []

    class Result(Parts):
        def __next__(self) -> bytes:
            seen.append(variable.get())
            return super().__next__()

        def close(self) -> None:
            super().close()
            variable.reset(tokens.pop())
            seen.append(variable.get())

    parts = Result(b"a")

    def app(environ: dict[str, Any], start_response: Any) -> Parts:
        seen.append(variable.get())
        tokens.append(variable.set("inside"))
        return parts(environ, start_response)

    token = variable.set("outside")
    try:
        await call(checked(app))
    finally:
        variable.reset(token)
    assert seen[0] == "outside"
    assert set(seen[1:-1]) == {"inside"}
    assert seen[-1] == "outside"


# --- files -----------------------------------------------------------------------------------------------

CONTENT = bytes(range(256)) * 1024


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "file"
    made.write_bytes(CONTENT)
    return made


def sending(open_file: Callable[[], Any], *headers: tuple[str, str], files: list[Any] | None = None) -> App:
    """An application that hands over a file."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [TEXT, *headers])
        file = open_file()
        if files is not None:
            files.append(file)
        wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](file, 8192)
        return wrapped

    return app


async def test_file_arrives_whole_and_is_closed(path: Path) -> None:
    """A real file, from the disk."""
    files: list[Any] = []
    channel = await call(WSGIHandler(sending(lambda: path.open("rb"), files=files)))
    check_messages(channel.sent, complete=True)
    assert channel.body == CONTENT
    assert files[0].closed


async def test_file_is_sent_from_where_it_stands(path: Path) -> None:
    """The application may have read its beginning (PEP 3333, "Optional Platform-Specific File Handling")."""

    def open_file() -> Any:
        file = path.open("rb")
        file.read(1000)
        return file

    assert (await call(WSGIHandler(sending(open_file)))).body == CONTENT[1000:]


async def test_file_is_cut_at_the_declared_length(path: Path) -> None:
    """A range of it, for example."""
    channel = await call(WSGIHandler(sending(lambda: path.open("rb"), ("Content-Length", "1000"))))
    check_messages(channel.sent, complete=True)
    assert channel.body == CONTENT[:1000]


async def test_file_that_is_none_arrives_whole_and_is_closed() -> None:
    """Whatever has ``read`` will do."""
    files: list[Any] = []
    channel = await call(WSGIHandler(sending(lambda: io.BytesIO(CONTENT), files=files)))
    assert channel.body == CONTENT
    assert files[0].closed


async def test_file_under_middleware_arrives_whole(path: Path) -> None:
    """The wrapper is an iterable like any other to whoever stands in between."""
    channel = await call(checked(sending(lambda: path.open("rb"))))
    check_messages(channel.sent, complete=True)
    assert channel.body == CONTENT


async def test_file_is_not_read_in_answer_to_head(path: Path) -> None:
    """And closed all the same."""
    files: list[Any] = []
    app = sending(lambda: path.open("rb"), ("Content-Length", str(len(CONTENT))), files=files)
    channel = await call(WSGIHandler(app), method="HEAD")
    check_messages(channel.sent, method="HEAD", complete=True)
    assert values(channel, b"content-length") == [b"%d" % len(CONTENT)]
    assert files[0].closed


async def test_file_of_a_client_that_leaves_is_closed(path: Path) -> None:
    """Whatever of it was sent."""
    files: list[Any] = []

    async def on_send(index: int, message: Message) -> None:
        if index == 1:
            raise ConnectionResetError

    await serve(WSGIHandler(sending(lambda: path.open("rb"), files=files)), Channel(on_send=on_send))
    await eventually(lambda: files[0].closed)


async def test_file_is_left_to_a_server_that_sends_paths(path: Path) -> None:
    """The extension ``http.response.pathsend``, where it is offered and the file is sent from its beginning."""
    handler = WSGIHandler(sending(lambda: path.open("rb")))
    channel = await call(handler, extensions={"http.response.pathsend": {}})
    assert [message["type"] for message in channel.sent] == ["http.response.start", "http.response.pathsend"]
    assert channel.sent[1]["path"] == str(path)


# --- frameworks ------------------------------------------------------------------------------------------


@modes
async def test_bottle_application_is_served(mode: Any) -> None:
    """Forms, cookies and errors of a framework in one file."""
    bottle = pytest.importorskip("bottle")
    site = bottle.Bottle()

    def form() -> str:
        bottle.response.set_cookie("a", "1")
        bottle.response.set_cookie("b", "2")
        return f"{bottle.request.forms.getunicode('name')} {bottle.request.query.q}"

    site.route("/form", "POST", form)
    handler = checked(site, body=mode)
    headers = [(b"content-type", b"application/x-www-form-urlencoded"), (b"content-length", b"15")]
    messages = body_messages(b"name=Zo%C", b"3%AB&b")
    channel = await call(handler, messages, method="POST", path="/form", query_string=b"q=5", headers=headers)
    assert channel.body == "Zoë 5".encode()
    assert sorted(values(channel, b"set-cookie")) == [b"a=1", b"b=2"]
    assert (await call(handler, path="/nothing")).status == 404


@modes
async def test_flask_application_is_served(mode: Any) -> None:
    """JSON, streams with the request's context, and the functions that Flask calls when the response is over."""
    flask = pytest.importorskip("flask")
    site = flask.Flask("site")
    told: list[str] = []

    def double() -> Any:
        return {"doubled": flask.request.get_json()["number"] * 2}

    def stream() -> Any:
        def lines() -> Iterator[str]:
            for number in range(3):
                yield f"{number} of {flask.request.path}\n"

        response = flask.Response(flask.stream_with_context(lines()), mimetype="text/plain")
        response.call_on_close(lambda: told.append("closed"))
        return response

    site.add_url_rule("/double", view_func=double, methods=["POST"])
    site.add_url_rule("/stream", view_func=stream)
    # Without the validator, which forbids read() without a size.
    handler = WSGIHandler(site, body=mode)
    # In chunks: nobody has declared the length.
    headers = [(b"content-type", b"application/json"), (b"transfer-encoding", b"chunked")]
    channel = await call(handler, body_messages(b'{"numb', b'er": 21}'), method="POST", path="/double", headers=headers)
    assert channel.body.strip() == b'{"doubled":42}'
    assert (await call(handler, path="/stream")).body == b"0 of /stream\n1 of /stream\n2 of /stream\n"
    assert told == ["closed"]


# --- other scopes ----------------------------------------------------------------------------------------


async def test_lifespan_is_answered() -> None:
    """As ``Handler`` does, to the satisfaction of the lint."""
    async with Client(lint(checked(answering(b"a")))) as client:
        assert client.state == {}


async def test_websocket_is_refused() -> None:
    """WSGI has none."""
    channel = Channel([{"type": "websocket.connect"}])
    with anyio.fail_after(SECONDS):
        await checked(answering(b"a"))({"type": "websocket", "path": "/"}, channel.receive, channel.send)
    assert [message["type"] for message in channel.sent] == ["websocket.close"]


@pytest.mark.parametrize("options", [{"body": "file"}, {"body": None}])
def test_bridge_with_odd_options_is_refused(options: dict[str, Any]) -> None:
    """When it is built."""
    with pytest.raises(ValueError, match="body"):
        WSGIHandler(answering(b"a"), **options)


@pytest.mark.parametrize("make", [answering, streaming])
@pytest.mark.parametrize("size", [100, 100_000])
async def test_bridge_with_compression_compresses_what_the_application_gives(
    make: Callable[..., App], size: int
) -> None:
    """Whole or part by part, on the loop or in a thread; the application knows nothing of it."""
    parts = [bytes([number]) * size for number in range(20)]
    app = checked(make(*parts, headers=[("Content-Type", "text/plain")]), compression=Compression(encodings=["gzip"]))
    channel = await call(app, headers=[(b"accept-encoding", b"gzip")])
    check_messages(channel.sent, complete=True)
    assert values(channel, b"content-encoding") == [b"gzip"]
    assert zlib.decompress(channel.body, 31) == b"".join(parts)


def test_bridge_of_something_that_is_no_application_is_refused() -> None:
    """When it is built; an ASGI application, for example."""

    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    odd: list[Any] = [None, 5, app]
    for application in odd:
        with pytest.raises(TypeError):
            WSGIHandler(application)


def takes_asgi(app: Callable[[Any, Any, Any], Awaitable[None]]) -> None:
    """mypy: the bridge is an ASGI application."""


def test_bridge_is_typed_as_an_asgi_application() -> None:
    """So that servers take it."""
    takes_asgi(WSGIHandler(answering(b"a")))


class Readable:
    """A file of the application's own making, without ``close``."""

    def __init__(self, file: Any, name: object = None) -> None:
        self.file, self.name = file, name
        self.read, self.fileno, self.tell = file.read, file.fileno, file.tell


@pytest.mark.parametrize("offered", [False, True])
@pytest.mark.parametrize("name", ["nothing", "of another file", "of no file"])
async def test_file_without_a_path_or_close_is_read(path: Path, name: str, offered: bool) -> None:
    """A path is sent only where it leads to the very file that is open."""
    other = path.with_name("other")
    other.write_bytes(b"other")
    names = {"nothing": None, "of another file": str(other), "of no file": str(path.with_name("gone"))}
    with path.open("rb") as file:
        app = sending(lambda: Readable(file, names[name]))
        extensions: dict[str, Any] = {"http.response.pathsend": {}} if offered else {}
        assert (await call(WSGIHandler(app), extensions=extensions)).body == CONTENT


async def test_file_object_without_close_that_is_no_real_file_is_read() -> None:
    """It is iterated like everything else."""

    class Reader:
        def __init__(self) -> None:
            self.read = io.BytesIO(CONTENT).read

    assert (await call(WSGIHandler(sending(Reader)))).body == CONTENT


async def test_long_list_declares_its_length_and_is_not_joined() -> None:
    """Many large parts go out as they are."""

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [TEXT])
        return [b"x" * 65536] * 3

    channel = await call(WSGIHandler(app))
    assert values(channel, b"content-length") == [b"196608"]
    assert [len(message["body"]) for message in channel.sent[1:]] == [65536] * 3 + [0]

    def declares(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [TEXT, ("Content-Length", "196608")])
        return [b"x" * 65536] * 3

    again = await call(WSGIHandler(declares))
    assert values(again, b"content-length") == [b"196608"]
    assert again.body == channel.body


@pytest.mark.parametrize(
    ("declared", "sent"), [(None, 3 * 65536), ("196608", 3 * 65536), ("70000", 70_000), ("65536", 65_536), ("0", 0)]
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_long_list_needs_no_thread_however_slow_the_client_is(
    declared: str | None, sent: int, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    """All of it is here when the application returns: it is closed then, and cut where its length is declared."""
    threads = Threads()

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [TEXT, *([("Content-Length", declared)] if declared else [])])
        return [b"x" * 65536, b"y" * 65536, b"z" * 65536]

    async def on_send(index: int, message: Message) -> None:
        await eventually(lambda: not threads.in_use, "the thread is free")

    channel = Channel(on_send=on_send)
    await serve(WSGIHandler(app, threads=threads), channel, method=method)
    check_messages(channel.sent, method=method, complete=True)
    whole = b"x" * 65536 + b"y" * 65536 + b"z" * 65536
    assert channel.body == (b"" if method == "HEAD" else whole[:sent])
    assert ("more than its content-length" in caplog.text) is (method == "GET" and sent < len(whole))
    await threads.aclose()


@pytest.mark.parametrize(("mode", "length"), [("spool", "'3'"), ("stream", "None")])
async def test_environ_declares_the_body_that_came_where_no_length_is_checked(mode: Any, length: str) -> None:
    """An application reads as much as is declared (PEP 3333): never less than there is."""

    class Unpacked(WSGIHandler):
        checks_content_length = False

    def told(environ: dict[str, Any]) -> Any:
        return environ.get("CONTENT_LENGTH"), environ["wsgi.input"].read()

    handler = Unpacked(asking(told), body=mode)
    for parts, declared in ((b"abc", b"1"), (b"abc", b"30")):
        channel = await call(handler, body_messages(parts), headers=[(b"content-length", declared)])
        assert channel.body.decode() == f"({length}, b'abc')"
    channel = await call(handler, body_messages(b""), headers=[(b"content-length", b"30")])
    assert channel.body.decode() == f"({length.replace('3', '0')}, b'')"


async def test_environ_has_no_length_where_none_is_declared_and_a_further_key_wins() -> None:
    """Whether lengths are checked or not."""

    class Unpacked(WSGIHandler):
        checks_content_length = False

    def told(environ: dict[str, Any]) -> Any:
        return environ.get("CONTENT_LENGTH")

    for kind in (WSGIHandler, Unpacked):
        assert (await call(kind(asking(told)))).body == b"None"
        for environ in ({"CONTENT_LENGTH": "7"}, lambda scope: {"CONTENT_LENGTH": "7"}):
            handler = kind(asking(told), environ=environ)
            assert (await call(handler, body_messages(b"abc"), headers=[(b"content-length", b"3")])).body == b"'7'"


async def test_list_that_the_next_request_fills_anew_is_sent_as_it_was() -> None:
    """An application may keep one for each thread: under a WSGI server nothing of it is asked for any more by then."""
    kept = threading.local()
    threads = Threads(1)

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        parts: list[bytes] = kept.__dict__.setdefault("parts", [])
        parts[:] = [environ["QUERY_STRING"].encode() * MiB] * 3
        start_response("200 OK", [TEXT])
        return parts

    handler = WSGIHandler(app, threads=threads)

    async def on_send(index: int, message: Message) -> None:
        if index == 1:
            assert (await call(handler, query_string=b"b")).body == b"b" * 3 * MiB

    channel = Channel(on_send=on_send)
    await serve(handler, channel, query_string=b"a")
    assert channel.body == b"a" * 3 * MiB
    await threads.aclose()


async def test_input_that_breaks_a_limit_is_answered_by_the_engine(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever the application makes of the error that its read() raises."""

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        try:
            environ["wsgi.input"].read()
        except Exception:
            start_response("500 Oops", [TEXT])
            return [b"oops"]
        raise AssertionError("not reached")

    handler = WSGIHandler(app, body="stream", limits=Limits(max_body_bytes=2))
    channel = await call(handler, body_messages(b"abc", b"d"))
    assert channel.status == 413
    assert errors(caplog) == []


async def test_client_that_left_before_there_was_a_thread_costs_the_application_nothing() -> None:
    """It is not called."""
    release, called = threading.Event(), []

    def blocks(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        assert release.wait(SECONDS)
        start_response("200 OK", [TEXT])
        return []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        called.append(True)
        return []

    threads = Threads(1)
    first, second = Channel(), Channel()
    async with anyio.create_task_group() as group:
        group.start_soon(WSGIHandler(blocks, threads=threads), http_scope(), first.receive, first.send)
        await eventually(lambda: threads.in_use == 1)
        group.start_soon(WSGIHandler(app, threads=threads), http_scope(), second.receive, second.send)
        await eventually(lambda: threads.waiting == 1)
        second.disconnect()
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        release.set()
    assert called == []
    assert second.sent == []
    assert await threads.aclose()


async def test_file_of_a_client_that_left_before_it_was_sent_is_closed(path: Path) -> None:
    """Between the application and the engine it belongs to neither, and is closed all the same."""
    files: list[Any] = []
    working, go = threading.Event(), threading.Event()
    hand_over = sending(lambda: path.open("rb"), files=files)

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        working.set()
        assert go.wait(SECONDS)
        return hand_over(environ, start_response)

    channel = Channel()
    async with anyio.create_task_group() as group:
        group.start_soon(WSGIHandler(app), http_scope(), channel.receive, channel.send)
        await eventually(working.is_set)
        channel.disconnect()
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        go.set()
    assert channel.sent == []
    assert files[0].closed


@on_asyncio
@pytest.mark.parametrize("at", ["application", "stream"])
async def test_request_that_is_thrown_away_frees_its_thread(at: str) -> None:
    """The loop gives the request up: the application's next part ends its iteration."""
    threads = Threads(1)
    parts = Parts(*[b"x" * 65536] * 100_000)
    working, go, sending_now = threading.Event(), threading.Event(), anyio.Event()

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        working.set()
        if at == "application":
            assert go.wait(SECONDS)
        return parts(environ, start_response)

    async def on_send(index: int, message: Message) -> None:
        if message["type"] == "http.response.body":
            sending_now.set()
            await anyio.sleep_forever()

    channel = Channel(on_send=on_send)
    coro = WSGIHandler(app, threads=threads)(http_scope(), channel.receive, channel.send)

    @types.coroutine
    def forward() -> Generator[Any, Any, None]:
        yielded = coro.send(None)
        while not (working.is_set() if at == "application" else sending_now.is_set()):
            yielded = coro.send((yield yielded)) if at == "stream" else yielded
        coro.close()

    with anyio.fail_after(SECONDS):
        with contextlib.suppress(RuntimeError):  # a scope that is left from outside of its task says so
            await forward()
        go.set()
        await eventually(lambda: threads.in_use == 0)
    assert parts.closed == 1
    assert await threads.aclose()


async def test_file_of_which_a_range_is_asked_is_found_and_closed(tmp_path: Path) -> None:
    """Werkzeug wraps the wrapper: it seeks in the file, and closes it."""
    werkzeug_utils = pytest.importorskip("werkzeug.utils")
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(2**40)  # nobody reads this to its end
        file.seek(-4, os.SEEK_END)
        file.write(b"last")
    opened: list[Any] = []

    def app(environ: Any, start_response: Any) -> Any:
        opened.append(path.open("rb"))
        response = werkzeug_utils.send_file(opened[-1], environ, mimetype="text/plain", conditional=False)
        response.make_conditional(environ, accept_ranges=True, complete_length=2**40)
        return response(environ, start_response)

    channel = await call(WSGIHandler(app), headers=[(b"range", b"bytes=-4")])
    assert (channel.status, channel.body) == (206, b"last")
    assert opened[0].closed
