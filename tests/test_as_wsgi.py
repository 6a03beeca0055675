"""_as_wsgi.py: an ASGI application under a WSGI server, streaming both ways, with its lifespan, on one event loop."""

from __future__ import annotations

import asyncio
import contextvars
import errno
import io
import logging
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import anyio
import pytest

from asgicore import (
    ClientDisconnectedError,
    Handler,
    InvalidHeaderError,
    Limits,
    Request,
    Response,
    ResponseStateError,
    StreamingResponse,
)
from asgicore.testing import LeakGuard
from asgicore.wsgi_bridge import WSGIApplication, _as_wsgi, as_wsgi

pytestmark = pytest.mark.timeout(30)

SECONDS = 5.0
TYPE = (b"content-type", b"text/plain")


def environ_of(body: bytes | Any = b"", **changes: Any) -> dict[str, Any]:
    """The environ of one request; ``body`` is its bytes, or the input itself."""
    environ: dict[str, Any] = {"SCRIPT_NAME": "", "PATH_INFO": "/", "QUERY_STRING": "", "wsgi.multithread": True}
    if isinstance(body, bytes):
        environ["wsgi.input"] = io.BytesIO(body)
        if body:
            environ["CONTENT_LENGTH"] = str(len(body))
    else:
        environ["wsgi.input"] = body
    environ |= changes
    setup_testing_defaults(environ)
    return environ


class Answer:
    """A response, read as a WSGI server reads it, with the standard library's validator in between."""

    def __init__(self, app: WSGIApplication, body: bytes | Any = b"", **environ: Any) -> None:
        self.status = ""
        self.headers: list[tuple[str, str]] = []
        parts: Any = validator(app)(environ_of(body, **environ), self._start)
        try:
            self.parts = list(parts)
        finally:
            parts.close()
        self.body = b"".join(self.parts)

    def _start(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
        self.status, self.headers = status, headers
        return self._write

    @staticmethod
    def _write(data: bytes) -> object:
        raise AssertionError("write() is for old applications")


def begin(app: WSGIApplication, body: bytes | Any = b"", **environ: Any) -> Any:
    """A response that the test reads itself."""
    return app(environ_of(body, **environ), lambda status, headers, exc_info=None: None)


Serve = Callable[..., WSGIApplication]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Makes WSGI applications that end with the test, and leave nothing."""
    served: list[WSGIApplication] = []
    tasks: list[set[Any]] = []

    def make(app: Any, **options: Any) -> WSGIApplication:
        application = as_wsgi(app, **{"close_timeout_seconds": SECONDS, **options})
        served.append(application)
        return application

    yield make
    for application in served:
        if application._loop is not None:
            tasks.append(application._loop._tasks)
        application.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("asgicore-as-wsgi")]
    assert not any(tasks)


class App:
    """An ASGI application without a lifespan that tells what it went through.

    ``/sync`` is answered at once: when it is, the loop has done what was due before.
    """

    def __init__(self, run: Callable[[App, Any, Any], Any]) -> None:
        self._run = run
        self.told: list[Any] = []
        self.go: asyncio.Event

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise NotImplementedError
        if scope["path"] == "/go":
            self.go.set()
        if scope["path"] in ("/sync", "/go"):
            await answer(send)
            return
        self.go = asyncio.Event()
        self.scope = scope
        await self._run(self, receive, send)


def settle(app: WSGIApplication, path: str = "/sync") -> None:
    """Let the loop do what is due."""
    for _ in range(5):
        assert Answer(app, PATH_INFO=path).body == b"ok"


async def start(send: Any, status: int = 200, *headers: tuple[bytes, bytes]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [TYPE, *headers]})


async def part(send: Any, body: bytes, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def answer(send: Any, body: bytes = b"ok") -> None:
    await start(send)
    await part(send, body, False)


# --- requests and responses ------------------------------------------------------------------------------


async def echo(request: Request) -> Response:
    return Response(await request.body(), headers={"x-method": request.method}, content_type="text/plain")


@pytest.mark.parametrize("mode", ["spool", "stream"])
@pytest.mark.parametrize("size", [0, 1, 65536, 65537, 3 * 2**20])
def test_handler_answers_under_a_wsgi_server(serve: Serve, mode: Any, size: int) -> None:
    """Bodies of any size go through both ways, and the validator has nothing to complain of."""
    app = serve(Handler(echo, body=mode))
    body = os.urandom(size)
    got = Answer(app, body, REQUEST_METHOD="POST")
    assert got.status == "200 OK"
    assert ("x-method", "POST") in got.headers
    assert ("content-length", str(size)) in got.headers
    assert got.body == body


def test_application_gets_the_scope_of_the_request(serve: Serve) -> None:
    """With path, prefix and query of the request; the environ is there, too."""
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)
        await answer(send)

    environ = environ_of(SCRIPT_NAME="/app", PATH_INFO="/\xc3\xa9", QUERY_STRING="a=1", HTTP_X_ONE="1")
    parts = serve(app, lifespan=False)(environ, lambda *args: None)
    assert list(parts) == [b"ok"]
    (scope,) = seen
    assert (scope["path"], scope["root_path"], scope["query_string"]) == ("/app/é", "/app", b"a=1")
    assert (b"x-one", b"1") in scope["headers"]
    assert scope["wsgi.environ"] is environ


@pytest.mark.parametrize(
    ("method", "status", "line"),
    [("HEAD", 200, "200 OK"), ("GET", 204, "204 No Content"), ("GET", 304, "304 Not Modified")],
)
def test_response_without_body_has_none(serve: Serve, method: str, status: int, line: str) -> None:
    """What the application sends for HEAD, 204 and 304 goes nowhere (RFC 9110 section 6.4.1)."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        # The validator wants no type where there is no content.
        headers = [(b"content-type", b"text/plain")] if status == 200 else []
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await part(send, b"abc")
        await part(send, b"def", False)

    got = Answer(serve(app, lifespan=False), REQUEST_METHOD=method)
    assert (got.status, got.parts) == (line, [])


def test_response_keeps_every_header_field(serve: Serve) -> None:
    """Repeats in order, latin-1 values, and a status that nobody knows."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send, 299, (b"set-cookie", b"a=1"), (b"x-latin", b"\xe9"), (b"set-cookie", b"b=2"))
        await part(send, b"", False)

    got = Answer(serve(app, lifespan=False))
    assert got.status == "299 Unknown"
    assert got.headers == [
        ("content-type", "text/plain"),
        ("set-cookie", "a=1"),
        ("x-latin", "é"),
        ("set-cookie", "b=2"),
    ]


def test_response_says_nothing_of_the_connection(serve: Serve) -> None:
    """What closes the connection under an ASGI server is left to the WSGI server (PEP 3333)."""
    app = serve(Handler(echo, limits=Limits(max_body_bytes=5)))
    got = Answer(app, b"x" * 100, REQUEST_METHOD="POST")
    assert got.status.startswith("413 ")
    assert "connection" not in dict(got.headers)


# --- the body of the request -----------------------------------------------------------------------------


class Input:
    """A ``wsgi.input`` that gives parts one by one; an exception among them is raised."""

    def __init__(self, *parts: bytes | BaseException) -> None:
        self._parts = iter(parts)
        self.sizes: list[int] = []

    def read(self, size: int) -> bytes:
        self.sizes.append(size)
        found = next(self._parts)
        if isinstance(found, BaseException):
            raise found
        return found


async def receive_all(app: App, receive: Any, send: Any) -> None:
    while True:
        message = await receive()
        app.told.append(message)
        if not message.get("more_body"):
            break
    await answer(send)


def test_body_is_read_when_the_application_asks(serve: Serve) -> None:
    """Nothing before, and no more than it asks for: the client is held back."""

    async def run(app: App, receive: Any, send: Any) -> None:
        app.told.append(len(source.sizes))
        app.told.append(await receive())
        app.told.append(len(source.sizes))
        await answer(send)

    app = App(run)
    source = Input(b"a" * 65536, b"b" * 65536)
    assert list(begin(serve(app), source, CONTENT_LENGTH=str(2**20))) == [b"ok"]
    assert app.told == [0, {"type": "http.request", "body": b"a" * 65536, "more_body": True}, 1]


def test_body_of_declared_length_is_read_to_it(serve: Serve) -> None:
    """And not beyond: what follows may be the next request."""
    app = App(receive_all)
    source = Input(b"a" * 65536, b"b" * 5)
    list(begin(serve(app), source, CONTENT_LENGTH="65541"))
    assert source.sizes == [65536, 5]
    assert [(len(message["body"]), message["more_body"]) for message in app.told] == [(65536, True), (5, False)]


def test_body_of_a_stream_that_ends_is_read_to_its_end(serve: Serve) -> None:
    """A server that ends the stream itself can take a body in chunks."""
    app = App(receive_all)
    list(begin(serve(app), Input(b"abc", b"de", b""), **{"wsgi.input_terminated": True}))
    assert [(message["body"], message["more_body"]) for message in app.told] == [
        (b"abc", True),
        (b"de", True),
        (b"", False),
    ]


def test_body_that_nobody_declared_is_empty_and_not_read(serve: Serve) -> None:
    """Reading it could wait for ever."""
    app = App(receive_all)
    source = Input()
    list(begin(serve(app), source))
    assert app.told == [{"type": "http.request", "body": b"", "more_body": False}]
    assert source.sizes == []


@pytest.mark.parametrize("cut", [b"", ConnectionResetError("gone"), OSError("odd")], ids=repr)
def test_body_that_breaks_off_is_a_disconnect(serve: Serve, cut: bytes | BaseException) -> None:
    """It never ends as if it were whole; the server hears that the client left, and nothing else."""
    app = App(receive_all)
    with pytest.raises(ClientDisconnectedError) as caught:
        begin(serve(app), Input(b"abc", cut), CONTENT_LENGTH="10")
    assert caught.value.errno == errno.EPIPE
    assert app.told == [{"type": "http.request", "body": b"abc", "more_body": True}, {"type": "http.disconnect"}]


def test_body_that_breaks_off_reaches_no_endpoint(serve: Serve) -> None:
    """A handler that spools answers nothing, and logs nothing."""

    async def never(request: Request) -> Response:
        raise AssertionError("the endpoint was called")

    with pytest.raises(ClientDisconnectedError):
        begin(serve(Handler(never)), b"abc", CONTENT_LENGTH="10")


def test_body_that_the_server_cannot_read_is_an_error(serve: Serve) -> None:
    """What ``wsgi.input`` raises comes out of ``receive``."""
    error = ValueError("a chunk without a size")
    app = App(receive_all)
    with pytest.raises(ValueError, match="chunk") as caught:
        begin(serve(app), Input(error), CONTENT_LENGTH="10")
    assert caught.value is error


def test_body_asked_for_by_a_call_that_was_cancelled_is_kept(serve: Serve) -> None:
    """The part that arrives later is the next call's; nothing is lost, and nothing is asked for twice."""
    go = threading.Event()

    class Slow(Input):
        def read(self, size: int) -> bytes:
            assert go.wait(SECONDS)
            return super().read(size)

    async def run(app: App, receive: Any, send: Any) -> None:
        for _ in range(3):
            asked = asyncio.create_task(receive())
            await asyncio.sleep(0)
            asked.cancel()
            await asyncio.wait([asked])
        go.set()
        await receive_all(app, receive, send)

    app = App(run)
    source = Slow(b"abc", b"de")
    list(begin(serve(app), source, CONTENT_LENGTH="5"))
    assert [message["body"] for message in app.told] == [b"abc", b"de"]
    assert len(source.sizes) == 2


def test_body_is_read_while_the_response_is_under_way(serve: Serve) -> None:
    """Each part is answered before the next one is read."""

    async def run(app: App, receive: Any, send: Any) -> None:
        await start(send)
        more = True
        while more:
            message = await receive()
            more = message["more_body"]
            await part(send, message["body"].upper(), more)

    app = App(run)
    source = Input(b"a", b"b", b"c")
    parts = begin(serve(app), source, CONTENT_LENGTH="3")
    got: list[tuple[bytes, int]] = [(body, len(source.sizes)) for body in parts]
    assert got == [(b"A", 1), (b"B", 2), (b"C", 3)]


def test_body_is_not_waited_for_while_there_is_something_to_send(serve: Serve) -> None:
    """A listener that reads ahead does not hold a response up that is there already."""
    sent = threading.Event()

    async def run(app: App, receive: Any, send: Any) -> None:
        await start(send)
        listener = asyncio.create_task(receive())
        await asyncio.sleep(0)
        await part(send, b"a")
        await part(send, b"b", False)
        sent.set()
        app.told.append(await listener)

    def start_response(*args: Any) -> None:
        assert sent.wait(SECONDS)  # the thread comes when everything is there

    app = App(run)
    wsgi = serve(app)
    source = Input()
    assert list(wsgi(environ_of(source, CONTENT_LENGTH="5"), start_response)) == [b"ab"]
    settle(wsgi)
    assert source.sizes == []
    assert app.told == [{"type": "http.disconnect"}]


def test_body_that_breaks_off_after_the_response_changes_nothing(serve: Serve) -> None:
    """The client had everything it wanted."""
    reading, answered = threading.Event(), threading.Event()

    class Slow(Input):
        def read(self, size: int) -> bytes:
            reading.set()
            assert answered.wait(SECONDS)
            return super().read(size)

    async def run(app: App, receive: Any, send: Any) -> None:
        listener = asyncio.create_task(receive())
        while not reading.is_set():
            await asyncio.sleep(0)
        await answer(send)
        answered.set()
        app.told.append(await listener)
        app.told.append(await receive())

    app = App(run)
    wsgi = serve(app)
    assert list(begin(wsgi, Slow(ConnectionResetError()), CONTENT_LENGTH="5")) == [b"ok"]
    settle(wsgi)
    assert app.told == [{"type": "http.disconnect"}] * 2


# --- the body of the response ----------------------------------------------------------------------------


def test_response_comes_part_by_part(serve: Serve) -> None:
    """The first part is there while the application waits for something else."""

    async def run(app: App, receive: Any, send: Any) -> None:
        await start(send)
        await part(send, b"first")
        await app.go.wait()
        await part(send, b"")
        await part(send, b"second")
        await part(send, b"", False)

    wsgi = serve(App(run))
    parts = begin(wsgi)
    assert next(parts) == b"first"
    settle(wsgi, "/go")
    assert list(parts) == [b"second"]
    assert list(parts) == []
    parts.close()


def test_response_of_many_small_parts_is_joined(serve: Serve) -> None:
    """What is there at once is one part for the server, up to a size."""

    async def run(app: App, receive: Any, send: Any) -> None:
        await start(send)
        for number in range(20_000):
            await part(send, b"%05d\n" % number)
        await part(send, b"", False)

    got = Answer(serve(App(run)))
    assert got.body == b"".join(b"%05d\n" % number for number in range(20_000))
    assert len(got.parts) < 2000
    assert max(map(len, got.parts)) < 65536 + 6


def test_response_is_no_further_ahead_than_a_part(serve: Serve) -> None:
    """An application that sends faster than the client reads is held back."""
    size = 65536

    async def run(app: App, receive: Any, send: Any) -> None:
        await start(send)
        for number in range(50):
            app.told.append(number)
            await part(send, b"x" * size)
        await part(send, b"", False)

    app = App(run)
    wsgi = serve(app)
    parts = begin(wsgi)
    taken = 0
    for _ in range(10):
        settle(wsgi)
        assert len(app.told) * size <= taken + 2 * size
        taken += len(next(parts))
    rest = sum(map(len, parts))
    assert taken + rest == 50 * size


def test_response_is_complete_while_the_application_goes_on(serve: Serve) -> None:
    """What an application does after its response keeps no thread of the server."""

    async def run(app: App, receive: Any, send: Any) -> None:
        await answer(send)
        app.told.append(await receive())
        app.told.append(await receive())
        await app.go.wait()
        app.told.append("done")

    app = App(run)
    wsgi = serve(app)
    assert Answer(wsgi).body == b"ok"
    settle(wsgi)
    assert app.told == [
        {"type": "http.request", "body": b"", "more_body": False},
        {"type": "http.disconnect"},
    ]
    settle(wsgi, "/go")
    assert app.told[-1] == "done"


def test_response_whose_end_the_server_does_not_ask_for_is_complete(serve: Serve) -> None:
    """Some servers stop at the declared length: the application has sent everything, and goes on."""

    async def run(app: App, receive: Any, send: Any) -> None:
        await start(send, 200, (b"content-length", b"2"))
        await part(send, b"ok")
        await part(send, b"", False)
        await app.go.wait()
        app.told.append("done")

    app = App(run)
    wsgi = serve(app, close_timeout_seconds=0.0)
    parts = begin(wsgi)
    settle(wsgi)
    assert next(parts) == b"ok"
    parts.close()
    settle(wsgi, "/go")
    assert app.told == ["done"]


# --- clients that leave ----------------------------------------------------------------------------------


@pytest.mark.parametrize("taken", [0, 1])
def test_client_leaving_is_told_to_the_application(serve: Serve, taken: int) -> None:
    """By ``http.disconnect`` and by an ``OSError`` of ``send``; ``close`` returns when the application has ended."""

    async def run(app: App, receive: Any, send: Any) -> None:
        await receive()
        await start(send)
        await part(send, b"a")
        app.told.append(await receive())
        for _ in range(2):
            try:
                await part(send, b"b")
            except OSError as exc:
                app.told.append(type(exc))
        app.told.append(await receive())

    app = App(run)
    parts = begin(serve(app))
    for _ in range(taken):
        next(parts)
    parts.close()
    gone = {"type": "http.disconnect"}
    assert app.told == [gone, ClientDisconnectedError, ClientDisconnectedError, gone]
    parts.close()
    assert list(parts) == []


def test_client_leaving_wakes_an_application_that_waits_for_room(serve: Serve) -> None:
    """It waits in ``send``, which raises."""

    async def run(app: App, receive: Any, send: Any) -> None:
        await start(send)
        try:
            while True:
                await part(send, b"x" * 65536)
        finally:
            app.told.append("stopped")

    app = App(run)
    wsgi = serve(app)
    parts = begin(wsgi)
    next(parts)
    settle(wsgi)
    parts.close()
    assert app.told == ["stopped"]


def test_client_leaving_an_application_that_does_not_listen_cancels_it(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """After a while that can be set."""

    async def run(app: App, receive: Any, send: Any) -> None:
        await start(send)
        await part(send, b"a")
        try:
            await asyncio.Event().wait()
        finally:
            app.told.append("cancelled")

    app = App(run)
    parts = begin(serve(app, close_timeout_seconds=0.01))
    assert next(parts) == b"a"
    parts.close()
    assert app.told == ["cancelled"]
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


def test_client_leaving_an_application_that_cannot_be_stopped_frees_the_thread(
    serve: Serve, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread is the server's; that the application goes on is logged."""
    monkeypatch.setattr("asgicore.wsgi_bridge._as_wsgi.CANCEL_SECONDS", 0.05)

    async def run(app: App, receive: Any, send: Any) -> None:
        await start(send)
        await part(send, b"a")
        while not app.go.is_set():
            try:
                await app.go.wait()
            except asyncio.CancelledError:
                app.told.append("no")

    app = App(run)
    wsgi = serve(app, close_timeout_seconds=0.01)
    parts = begin(wsgi)
    next(parts)
    parts.close()
    assert app.told == ["no"]
    assert "goes on" in caplog.text
    settle(wsgi, "/go")


def test_client_leaving_a_handler_cancels_its_endpoint(serve: Serve) -> None:
    """As under an ASGI server: the stream is closed before ``close`` returns."""
    told: list[str] = []

    async def drip() -> AsyncIterator[bytes]:
        try:
            yield b"drip"
            await asyncio.Event().wait()
        finally:
            told.append("closed")

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(drip(), content_type="text/plain")

    parts = begin(serve(Handler(endpoint)))
    assert next(parts) == b"drip"
    parts.close()
    assert told == ["closed"]


def test_server_failing_at_the_start_ends_the_application(serve: Serve) -> None:
    """A ``start_response`` that raises is a client that left."""

    async def run(app: App, receive: Any, send: Any) -> None:
        await receive()
        await start(send)
        app.told.append(await receive())

    def fail(*args: Any) -> Any:
        raise KeyError("no such header")

    app = App(run)
    with pytest.raises(KeyError):
        serve(app)(environ_of(), fail)
    assert app.told == [{"type": "http.disconnect"}]


# --- errors ----------------------------------------------------------------------------------------------


def test_application_failing_before_its_response_fails_the_call(serve: Serve) -> None:
    """The server gets the very exception, and answers with 500."""
    error = KeyError("a")

    async def run(app: App, receive: Any, send: Any) -> None:
        raise error

    with pytest.raises(KeyError) as caught:
        begin(serve(App(run)))
    assert caught.value is error
    assert "run" in [entry.name for entry in caught.traceback]


@pytest.mark.parametrize("sent", [0, 1])
def test_application_failing_within_its_response_fails_the_iteration(serve: Serve, sent: int) -> None:
    """The server has to cut the connection off; the response never ends as if it were whole."""

    async def run(app: App, receive: Any, send: Any) -> None:
        await start(send)
        for _ in range(sent):
            await part(send, b"a")
        raise KeyError("a")

    parts = begin(serve(App(run)))
    for _ in range(sent):
        assert next(parts) == b"a"
    with pytest.raises(KeyError):
        next(parts)
    assert list(parts) == []
    parts.close()


def test_application_failing_in_a_response_that_is_closed_is_over(serve: Serve) -> None:
    """Nobody asks what became of it, and nothing is waited for."""

    async def run(app: App, receive: Any, send: Any) -> None:
        await start(send)
        await part(send, b"a")
        raise KeyError("a")

    wsgi = serve(App(run))
    parts = begin(wsgi)
    settle(wsgi)
    parts.close()


@pytest.mark.parametrize("has_started", [False, True])
def test_application_ending_within_its_response_is_an_error(serve: Serve, has_started: bool) -> None:
    """A response that has no end is none."""

    async def run(app: App, receive: Any, send: Any) -> None:
        if has_started:
            await start(send)

    with pytest.raises(ResponseStateError, match="complete"):
        list(begin(serve(App(run))))


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        ([{"type": "http.response.body", "body": b""}], ResponseStateError),
        ([{"type": "http.response.start", "status": 200}] * 2, ResponseStateError),
        ([{"type": "http.response.pathsend", "path": "/a"}], ResponseStateError),
        ([{"type": "http.response.start", "status": 200, "headers": [(b"a", b"\n")]}], InvalidHeaderError),
    ],
)
def test_application_breaking_the_protocol_gets_an_error(
    serve: Serve, messages: list[Any], error: type[Exception]
) -> None:
    """As the writer has it: in the application's own call."""

    async def run(app: App, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    with pytest.raises(error):
        list(begin(serve(App(run))))


def test_application_failing_after_its_response_is_logged(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """Once, with its traceback; the response was complete."""

    async def run(app: App, receive: Any, send: Any) -> None:
        await answer(send)
        raise KeyError("late")

    wsgi = serve(App(run))
    assert Answer(wsgi).body == b"ok"
    settle(wsgi)
    (record,) = [one for one in caplog.records if one.levelno >= logging.WARNING and one.name == "asgicore"]
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], KeyError)


def test_application_exiting_exits_in_the_thread_of_the_request(serve: Serve) -> None:
    """As a WSGI application would; the loop goes on."""

    async def run(app: App, receive: Any, send: Any) -> None:
        sys.exit(3)

    wsgi = serve(App(run))
    with pytest.raises(SystemExit):
        begin(wsgi)
    settle(wsgi)


def test_task_of_an_application_exiting_ends_the_loop_with_a_word(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """Requests under way fail, and later ones, too: nobody waits for what cannot come."""

    async def run(app: App, receive: Any, send: Any) -> None:
        async def leave() -> None:
            sys.exit(3)

        tasks.append(asyncio.create_task(leave()))
        await asyncio.Event().wait()

    tasks: list[asyncio.Task[None]] = []

    wsgi = serve(App(run))
    with pytest.raises(RuntimeError, match="cancelled"):
        begin(wsgi)
    loop = wsgi._loop
    assert loop is not None
    loop._thread.join(SECONDS)
    with pytest.raises(RuntimeError, match="closed"):
        begin(wsgi)
    assert "ended" in caplog.text
    assert isinstance(tasks[0].exception(), SystemExit)  # retrieved, so that asyncio does not complain of it later


# --- lifespan --------------------------------------------------------------------------------------------


class Life:
    """A lifespan that tells what happens, around an application that answers with its state."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.fails = ""

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[dict[str, Any]]:
        self.told.append("startup")
        if self.fails == "startup":
            raise KeyError("no database")
        yield {"shared": ["since startup"], "own": "fresh"}
        if self.fails == "shutdown":
            raise KeyError("no database")
        self.told.append("shutdown")

    async def endpoint(self, request: Request) -> Response:
        self.told.append("request")
        state = request.state
        text = f"{state['shared']} {state['own']}"
        state["own"] = "used"
        return Response(text, content_type="text/plain")


def test_lifespan_runs_once_around_all_requests(serve: Serve) -> None:
    """Startup before the first one, of however many at once; shutdown when it is closed."""
    life = Life()
    wsgi = serve(Handler(life.endpoint, lifespan=life))
    assert life.told == []
    with ThreadPoolExecutor(20) as pool:
        bodies = {got.body for got in pool.map(lambda _: Answer(wsgi), range(50))}
    assert bodies == {b"['since startup'] fresh"}
    assert life.told == ["startup"] + ["request"] * 50
    assert wsgi._start() is wsgi._loop  # for a thread that came a moment later than the first one
    wsgi.close()
    assert life.told[-1] == "shutdown"
    assert life.told.count("shutdown") == 1


def test_lifespan_that_fails_to_start_fails_the_request(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """With a word of why; the next request tries again."""
    life = Life()
    life.fails = "startup"
    wsgi = serve(Handler(life.endpoint, lifespan=life))
    for _ in range(2):
        with pytest.raises(RuntimeError, match="failed to start: KeyError: 'no database'"):
            begin(wsgi)
    assert life.told == ["startup", "startup"]
    life.fails = ""
    assert Answer(wsgi).status == "200 OK"


def test_lifespan_that_fails_to_shut_down_is_logged(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """``close`` does not raise for it."""
    life = Life()
    life.fails = "shutdown"
    wsgi = serve(Handler(life.endpoint, lifespan=life))
    Answer(wsgi)
    wsgi.close()
    assert "failed to shut down: KeyError" in caplog.text


def test_lifespan_can_be_left_out(serve: Serve) -> None:
    """The application never hears of one."""
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])
        await answer(send)

    wsgi = serve(app, lifespan=False)
    Answer(wsgi)
    wsgi.close()
    assert seen == ["http"]


def lifespan_app(run: Callable[[Any, Any], Any]) -> Any:
    """An application whose lifespan is ``run(receive, send)``."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            assert scope["asgi"] == {"version": "3.0", "spec_version": "2.0"}
            await run(receive, send)
        else:
            await answer(send)

    return app


async def started(receive: Any, send: Any) -> None:
    assert await receive() == {"type": "lifespan.startup"}
    await send({"type": "lifespan.startup.complete"})


def quiet(caplog: pytest.LogCaptureFixture) -> bool:
    return not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_lifespan_that_nobody_answers_is_none(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """An application that returns, or raises, at a scope that it does not know is served (ASGI, "Lifespan")."""

    async def returns(receive: Any, send: Any) -> None:
        return

    async def raises(receive: Any, send: Any) -> None:
        raise ValueError("lifespan?")

    for run in (returns, raises):
        wsgi = serve(lifespan_app(run))
        assert Answer(wsgi).body == b"ok"
        wsgi.close()
    assert quiet(caplog)


def test_lifespan_that_raises_what_it_reported_is_not_reported_twice(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """Starlette sends the failure, and raises it as well."""

    async def run(receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed"})
        raise ValueError

    with pytest.raises(RuntimeError, match="failed to start: it does not say why"):
        begin(serve(lifespan_app(run)))
    assert quiet(caplog)


def test_lifespan_that_breaks_is_logged_and_the_application_served_on(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """There is nothing else to be done; closing does not wait for it."""

    async def run(receive: Any, send: Any) -> None:
        await started(receive, send)
        raise ValueError("broken")

    wsgi = serve(lifespan_app(run))
    assert Answer(wsgi).body == b"ok"
    wsgi.close()
    (record,) = [one for one in caplog.records if one.levelno >= logging.WARNING and one.name == "asgicore"]
    assert "lifespan failed" in record.getMessage()


@pytest.mark.parametrize("kind", ["lifespan.startup.complete", "lifespan.shutdown.complete", "lifespan.odd", None])
def test_lifespan_message_out_of_order_is_refused(serve: Serve, kind: str | None) -> None:
    """In the application's own call."""
    refused: list[BaseException] = []

    async def run(receive: Any, send: Any) -> None:
        await started(receive, send)
        try:
            await send({"type": kind})
        except ResponseStateError as exc:
            refused.append(exc)

    assert Answer(serve(lifespan_app(run))).body == b"ok"
    assert len(refused) == 1


def test_lifespan_that_goes_on_after_its_shutdown_is_cancelled(serve: Serve) -> None:
    """There is nothing more to receive, and nobody waits for it."""
    ended: list[str] = []

    async def run(receive: Any, send: Any) -> None:
        await started(receive, send)
        assert await receive() == {"type": "lifespan.shutdown"}
        await send({"type": "lifespan.shutdown.complete"})
        try:
            await receive()
        finally:
            ended.append("cancelled")

    wsgi = serve(lifespan_app(run))
    Answer(wsgi)
    wsgi.close()
    assert ended == ["cancelled"]


def test_lifespan_whose_shutdown_takes_too_long_is_cancelled(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """After the time that can be set, with a word."""

    async def run(receive: Any, send: Any) -> None:
        await started(receive, send)
        await receive()
        await asyncio.Event().wait()

    wsgi = serve(lifespan_app(run), close_timeout_seconds=0.05)
    Answer(wsgi)
    wsgi.close()
    assert "shutdown takes longer than 0.05 seconds" in caplog.text


# --- the loop --------------------------------------------------------------------------------------------


def test_application_closed_serves_no_more(serve: Serve) -> None:
    """Closing is for good, before the first request, too."""
    wsgi = serve(App(receive_all))
    wsgi.close()
    with pytest.raises(RuntimeError, match="closed"):
        begin(wsgi)
    wsgi.close()


def test_application_closed_lets_requests_end(serve: Serve) -> None:
    """What an application does after its response is waited for."""

    async def run(app: App, receive: Any, send: Any) -> None:
        await answer(send)
        assert loop is not None
        while not loop._is_stopping.is_set():
            await asyncio.sleep(0)
        for _ in range(5):
            await asyncio.sleep(0)
        app.told.append("done")

    app = App(run)
    wsgi = serve(app)
    settle(wsgi)
    loop = wsgi._loop
    Answer(wsgi)
    wsgi.close()
    assert app.told == ["done"]


def test_application_closed_cancels_requests_that_do_not_end(serve: Serve) -> None:
    """And the thread that waits for one of them hears of it."""
    reached = threading.Event()

    async def run(app: App, receive: Any, send: Any) -> None:
        reached.set()
        await asyncio.Event().wait()

    wsgi = serve(App(run), close_timeout_seconds=0.05)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(begin, wsgi)
        assert reached.wait(SECONDS)
        wsgi.close()
        with pytest.raises(RuntimeError, match="cancelled"):
            asked.result(SECONDS)


def test_application_that_holds_the_loop_up_cannot_hold_up_closing(
    serve: Serve, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop that is blocked is left alone; the thread does not keep the process."""
    monkeypatch.setattr("asgicore.wsgi_bridge._loop.CANCEL_SECONDS", 0.01)
    reached, go = threading.Event(), threading.Event()

    async def run(app: App, receive: Any, send: Any) -> None:
        await answer(send)
        reached.set()
        go.wait(SECONDS)

    wsgi = serve(App(run), close_timeout_seconds=0.01)
    assert list(begin(wsgi)) == [b"ok"]
    assert reached.wait(SECONDS)
    loop = wsgi._loop
    assert loop is not None
    wsgi.close()
    assert "does not end" in caplog.text
    go.set()
    loop._thread.join(SECONDS)
    assert loop._thread.daemon


def test_loop_that_cannot_be_made_fails_the_request(serve: Serve) -> None:
    """With what kept it from being made."""

    def fail() -> asyncio.AbstractEventLoop:
        raise OSError("too many open files")

    with pytest.raises(OSError, match="too many"):
        begin(serve(App(receive_all), loop_factory=fail))


def test_loop_is_made_by_the_function_given(serve: Serve) -> None:
    """uvloop, for example."""
    made: list[asyncio.AbstractEventLoop] = []

    def make() -> asyncio.AbstractEventLoop:
        made.append(asyncio.new_event_loop())
        return made[0]

    async def run(app: App, receive: Any, send: Any) -> None:
        app.told.append(asyncio.get_running_loop())
        await answer(send)

    app = App(run)
    Answer(serve(app, loop_factory=make))
    assert app.told == made


def test_context_of_the_server_thread_is_the_application_s(serve: Serve) -> None:
    """What WSGI middleware has set can be read; what the application sets stays its own."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="nothing")

    async def run(app: App, receive: Any, send: Any) -> None:
        app.told.append(variable.get())
        variable.set("changed")
        await answer(send)

    app = App(run)
    wsgi = serve(app)
    context = contextvars.copy_context()
    context.run(variable.set, "set")
    context.run(Answer, wsgi)
    assert context.run(variable.get) == "set"
    Answer(wsgi)
    assert app.told == ["set", "nothing"]


def test_context_of_a_server_on_trio_is_not_taken_for_that_of_the_application(serve: Serve) -> None:
    """anyio asks the context what runs; the loop is asyncio's."""
    sniffio = pytest.importorskip("sniffio")

    async def endpoint(request: Request) -> Response:
        await anyio.sleep(0.001)
        return Response(sniffio.current_async_library())

    context = contextvars.copy_context()
    context.run(sniffio.current_async_library_cvar.set, "trio")
    assert context.run(Answer, serve(Handler(endpoint))).body == b"asyncio"


def test_requests_of_many_threads_run_side_by_side(serve: Serve) -> None:
    """They wait for each other, which they can only do at once; one loop serves them."""
    waiting: list[asyncio.Event] = []

    async def run(app: App, receive: Any, send: Any) -> None:
        waiting.append(asyncio.Event())
        event = waiting[-1]
        if len(waiting) == 20:
            for other in waiting:
                other.set()
        await event.wait()
        await answer(send)

    wsgi = serve(App(run))
    with ThreadPoolExecutor(20) as pool:
        assert {got.body for got in pool.map(lambda _: Answer(wsgi), range(20))} == {b"ok"}


def test_requests_leave_no_cycles(serve: Serve) -> None:
    """Nothing waits for the garbage collector, whether it went well or not."""

    async def run(app: App, receive: Any, send: Any) -> None:
        if app.scope["path"] == "/fail":
            raise KeyError
        await receive_all(app, receive, send)
        app.told.clear()

    wsgi = serve(App(run))

    def ask(path: str) -> None:
        try:
            parts = begin(wsgi, b"abc", PATH_INFO=path)
        except KeyError:
            return
        assert list(parts) == [b"ok"]
        parts.close()

    for path in ("/", "/fail"):
        ask(path)
        settle(wsgi)
        with LeakGuard(cycles=["asgicore.wsgi_bridge._as_wsgi", "asgicore._writer"]):
            for _ in range(20):
                ask(path)
            settle(wsgi)


def run_python(code: str) -> str:
    """What a fresh interpreter prints, that has nothing to complain of."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=20, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


SITE = """
import contextlib, io, os, sys, threading
from wsgiref.util import setup_testing_defaults
from asgicore import Handler, Response
from asgicore.wsgi_bridge._as_wsgi import as_wsgi

@contextlib.asynccontextmanager
async def lifespan():
    print("startup", os.getpid() == parent, flush=True)
    yield
    print("shutdown", os.getpid() == parent, flush=True)

async def endpoint(request):
    return Response("hello")

def ask():
    environ = {"wsgi.input": io.BytesIO(), "QUERY_STRING": ""}
    setup_testing_defaults(environ)
    print(b"".join(app(environ, lambda *args: None)), flush=True)

parent = os.getpid()
app = as_wsgi(Handler(endpoint, lifespan=lifespan))
"""


def test_interpreter_exit_shuts_the_application_down() -> None:
    """Without anybody calling ``close``."""
    assert run_python(SITE + "ask()").splitlines() == ["startup True", "b'hello'", "shutdown True"]


FORK = """
ask()
lock = app._lock
with lock:  # as if another thread were just starting it
    pid = os.fork()
    if not pid:
        ask()
        ask()
        sys.exit(0)
assert os.waitpid(pid, 0)[1] == 0
ask()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_process_forked_from_one_that_serves_has_a_loop_of_its_own() -> None:
    """Servers that fork may have answered a request before; each process has its lifespan."""
    code = "import warnings; warnings.filterwarnings('ignore', 'This process', DeprecationWarning)" + SITE + FORK
    assert run_python(code).splitlines() == [
        *("startup True", "b'hello'"),
        *("startup False", "b'hello'", "b'hello'", "shutdown False"),
        *("b'hello'", "shutdown True"),
    ]


def test_fork_leaves_the_loop_to_the_other_process(serve: Serve) -> None:
    """What the test above sees from outside: the loop is kept, unused, and the next request starts another one."""
    wsgi = serve(App(receive_all))
    fresh = serve(App(receive_all))
    settle(wsgi)
    loop = wsgi._loop
    assert loop is not None
    _as_wsgi._after_fork()
    assert fresh._loop is None
    assert _as_wsgi._inherited.pop() is loop
    settle(wsgi)
    assert wsgi._loop is not loop
    loop.stop()


def test_exit_closes_every_application(serve: Serve) -> None:
    """What the first of these tests sees from outside."""
    wsgi = serve(App(receive_all))
    settle(wsgi)
    _as_wsgi._close_all()
    with pytest.raises(RuntimeError, match="closed"):
        begin(wsgi)


# --- Starlette -------------------------------------------------------------------------------------------


def test_starlette_application_is_served(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """Routing, forms of response, background tasks and its lifespan."""
    pytest.importorskip("starlette")
    from starlette.applications import Starlette
    from starlette.background import BackgroundTask
    from starlette.requests import Request as StarletteRequest
    from starlette.responses import PlainTextResponse
    from starlette.responses import StreamingResponse as StarletteStreaming
    from starlette.routing import Mount, Route

    told: list[str] = []

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        told.append("startup")
        yield
        told.append("shutdown")

    async def upload(request: StarletteRequest) -> PlainTextResponse:
        size = 0
        async for received in request.stream():
            size += len(received)
        url = str(request.url)
        return PlainTextResponse(f"{size} {url}", background=BackgroundTask(told.append, "background"))

    async def endless(request: StarletteRequest) -> StarletteStreaming:
        async def drip() -> AsyncIterator[bytes]:
            try:
                yield b"drip"
                await asyncio.Event().wait()
            finally:
                told.append("closed")

        return StarletteStreaming(drip(), media_type="text/plain")

    async def fail(request: StarletteRequest) -> PlainTextResponse:
        raise KeyError("a")

    routes = [Route("/upload", upload, methods=["POST"]), Route("/endless", endless), Route("/fail", fail)]
    wsgi = serve(Starlette(routes=[*routes, Mount("/sub", routes=routes)], lifespan=lifespan))
    got = Answer(wsgi, b"x" * 200_000, REQUEST_METHOD="POST", PATH_INFO="/upload", HTTP_HOST="example.com")
    assert got.body == b"200000 http://example.com/upload"
    parts = begin(wsgi, PATH_INFO="/sub/endless")
    assert next(parts) == b"drip"
    parts.close()
    assert Answer(wsgi, PATH_INFO="/nothing").status == "404 Not Found"
    # Starlette answers, and raises what was wrong as well.
    assert Answer(wsgi, PATH_INFO="/fail").status == "500 Internal Server Error"
    wsgi.close()
    assert "failed after its response" in caplog.text
    # The background work of one request and the end of another are in no order.
    assert (told[0], sorted(told[1:-1]), told[-1]) == ("startup", ["background", "closed"], "shutdown")


def _takes_what_as_wsgi_gives(app: Callable[[dict[str, Any], Any], Iterable[bytes]]) -> None:
    """mypy: it is an application as WSGI servers type it."""


def test_application_is_typed_as_servers_have_it(serve: Serve) -> None:
    """An environ and a ``start_response``, and an iterable of bytes."""
    _takes_what_as_wsgi_gives(serve(Handler(echo)))
