"""_handler.py: options, errors, refusals, scopes, background work and the end of a handler."""

from __future__ import annotations

import functools
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import replace
from itertools import repeat
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from clocks import turn_time
from faults import interim_passes, on_trio, spawned, turn

import asgicore._watch
from asgicore import (
    BodyConsumedError,
    BodyTooLargeError,
    ClientDisconnectedError,
    ContentLengthError,
    Handler,
    HTTPError,
    InvalidHeaderError,
    JSONResponse,
    Limits,
    MalformedBodyError,
    Request,
    Response,
    ResponseStateError,
    ServerProtocolError,
    StreamingResponse,
    _late_scope,
)
from asgicore.testing import (
    DISCONNECT,
    EMPTY,
    UVICORN,
    Channel,
    Client,
    Fault,
    Message,
    body_messages,
    call,
    check_messages,
    http_scope,
    lint,
)
from asgicore.testing._living import tasks as living_tasks
from asgicore.types import Send


async def hello(request: Request) -> Response:
    """The smallest endpoint."""
    return Response(b"hello")


async def echo(request: Request) -> Response:
    """Gives the body back."""
    return Response(await request.body())


class Parts:
    """A stream of parts that remembers how far it was read and how often it was closed."""

    def __init__(self, *parts: bytes, error: BaseException | None = None) -> None:
        self._rest = iter(parts)
        self._error = error
        self.read = 0
        self.closed = 0

    def __aiter__(self) -> Parts:
        return self

    async def __anext__(self) -> bytes:
        for part in self._rest:
            self.read += 1
            return part
        if self._error is not None:
            raise self._error
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self.closed += 1


def fails(error: BaseException) -> Handler:
    """A handler whose endpoint raises."""

    async def endpoint(request: Request) -> Response:
        raise error

    return Handler(endpoint)


def errors(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What was logged at WARNING or above."""
    return [record for record in caplog.records if record.levelno >= logging.WARNING]


# --- options ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"body": "file"}, "body is 'spool' or 'stream', not 'file'", id="body"),
        pytest.param({"on_disconnect": None}, "on_disconnect is 'cancel' or 'notify', not None", id="on_disconnect"),
    ],
)
def test_handler_option_unknown_raises(options: Any, message: str) -> None:
    """A word that is no option is refused at construction, naming those that are."""
    with pytest.raises(ValueError, match=message):
        Handler(hello, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"limits": {"max_body_bytes": 1}}, "limits takes a Limits, .* not dict", id="limits"),
        pytest.param({"compression": True}, "compression takes a Compression, .* not bool", id="compression"),
    ],
)
def test_handler_option_of_another_type_raises(options: Any, message: str) -> None:
    """At construction, and not with the first request."""
    with pytest.raises(TypeError, match=message):
        Handler(hello, **options)


def test_handler_without_endpoint_raises() -> None:
    """A handler needs an endpoint, or a run_get_response() of its own."""
    with pytest.raises(TypeError, match="run_get_response"):
        Handler()


class Callable:
    """An object that is called like an endpoint, and has one as a method."""

    async def __call__(self, request: Request) -> Response:
        return Response(b"hello")

    async def method(self, request: Request) -> Response:
        return Response(b"hello")

    @classmethod
    async def class_method(cls, request: Request) -> Response:
        return Response(b"hello")


async def greet(greeting: bytes, request: Request) -> Response:
    """An endpoint that takes more than a request."""
    return Response(greeting)


@pytest.mark.parametrize(
    "endpoint",
    [
        pytest.param(hello, id="function"),
        pytest.param(functools.partial(greet, b"hello"), id="partial"),
        pytest.param(functools.partial(functools.partial(greet), b"hello"), id="partial of a partial"),
        pytest.param(Callable(), id="object"),
        pytest.param(functools.partial(Callable()), id="partial of an object"),
        pytest.param(Callable().method, id="bound method"),
        pytest.param(Callable.class_method, id="class method"),
    ],
)
async def test_handler_async_callable_of_any_kind_serves(endpoint: Any) -> None:
    """Whatever is asynchronous when called is an endpoint."""
    assert (await call(Handler(endpoint))).body == b"hello"


@pytest.mark.parametrize("endpoint", ["text", 5, b"", object()])
def test_handler_of_what_cannot_be_called_raises(endpoint: Any) -> None:
    """Refused at construction, with what is expected in its place."""
    with pytest.raises(TypeError, match="cannot be called; it takes a request and returns a response"):
        Handler(endpoint)


async def test_handler_spool_mode_runs_the_endpoint_when_the_body_is_here() -> None:
    """In spool mode the whole body was received before the endpoint begins, and can be used again and again."""
    received = []

    async def endpoint(request: Request) -> Response:
        received.append(channel.received)
        file = await request.file()
        streamed = [part async for part in request.stream()]
        data: bytes = await request.body() + b"".join(streamed) + file.read() + await request.body()
        return Response(data)

    channel = Channel(body_messages(b"a", b"b", b"c"))
    await Handler(endpoint)(http_scope(), channel.receive, channel.send)
    assert received == [3]
    assert channel.body == b"abc" * 4


async def test_handler_stream_mode_receives_nothing_before_it_is_asked() -> None:
    """In stream mode an endpoint can refuse by the head alone."""

    async def endpoint(request: Request) -> Response:
        raise HTTPError(401)

    channel = await call(Handler(endpoint, body="stream"), body_messages(b"a", b"b"))
    assert (channel.status, channel.received) == (401, 0)


@pytest.mark.parametrize("first", ["body", "stream", "file", "json"])
@pytest.mark.parametrize("second", ["body", "stream", "file", "json"])
async def test_handler_stream_mode_second_use_raises_at_once(first: str, second: str) -> None:
    """In stream mode the body can be used once; a second use raises with advice and waits for nothing."""

    async def use(request: Request, how: str) -> None:
        if how == "stream":
            async for _ in request.stream():
                pass
        else:
            await getattr(request, how)()

    async def endpoint(request: Request) -> Response:
        await use(request, first)
        with pytest.raises(BodyConsumedError, match="body='spool'"):
            await use(request, second)
        return Response(b"refused")

    assert (await call(Handler(endpoint, body="stream"), body_messages(b"1"))).body == b"refused"


@pytest.mark.parametrize("mode", ["spool", "stream"])
async def test_handler_two_requests_on_one_body_do_not_hang(mode: Any) -> None:
    """A second Request over the same Body follows the same rules and never waits for what cannot come."""

    class Sharing(Handler):
        def create_request(self, scope: Any, body: Any) -> tuple[Any, Response | None]:
            return (Request(scope, body), Request(scope, body)), None

    async def endpoint(requests: tuple[Request, Request]) -> Response:
        first, second = requests
        data: bytes = await first.body()
        if mode == "spool":
            return Response(data + await second.body())
        with pytest.raises(BodyConsumedError):
            await second.body()
        return Response(data)

    channel = await call(Sharing(endpoint, body=mode), body_messages(b"x"))
    assert channel.body == (b"xx" if mode == "spool" else b"x")


async def test_handler_notify_mode_enters_no_cancel_scope(monkeypatch: pytest.MonkeyPatch) -> None:
    """In notify mode no scope is entered, and of a disconnect only request.is_disconnected changes."""
    entered = []
    enter = type(anyio.CancelScope()).__enter__

    def entering(self: Any) -> Any:
        entered.append(self)
        return enter(self)

    server = Channel()

    async def endpoint(request: Request) -> Response:
        assert not request.is_disconnected
        server.disconnect()
        await request.wait_disconnected()
        assert request.is_disconnected
        await turn(5)
        seen.extend(entered)
        finished.append(True)
        return Response(b"for nobody")

    finished: list[bool] = []
    seen: list[Any] = []
    handler = Handler(endpoint, on_disconnect="notify", body="stream", limits=Limits(body_timeout_seconds=None))
    with anyio.fail_after(5):
        monkeypatch.setattr(type(anyio.CancelScope()), "__enter__", entering)
        await handler(http_scope(), server.receive, server.send)
        monkeypatch.undo()
    assert finished == [True]
    assert seen == []


async def scopes_entered(on_disconnect: Any, waits: bool, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many cancel scopes are entered while one request is served, anyio's and, late on trio, trio's."""

    async def endpoint(request: Request) -> Response:
        if waits:
            await checkpoint()
        return Response("hello")

    handler = Handler(endpoint, on_disconnect=on_disconnect, body="stream")
    await call(handler)  # what is looked up once is looked up now
    channel = Channel()
    entered = []
    kind = type(anyio.CancelScope())
    enter, enter_on_trio = kind.__enter__, _late_scope._enter_on_trio

    def entering(self: Any) -> Any:
        entered.append(self)
        return enter(self)

    def entering_on_trio(outer: Any) -> Any:
        entered.append(outer)
        return enter_on_trio(outer)

    with monkeypatch.context() as patch:
        patch.setattr(kind, "__enter__", entering)
        patch.setattr(_late_scope, "_enter_on_trio", entering_on_trio)
        await handler(http_scope(), channel.receive, channel.send)
    assert channel.body == b"hello"
    return len(entered)


@pytest.mark.parametrize("waits", [False, True], ids=["never waits", "waits"])
async def test_handler_enters_a_cancel_scope_where_it_may_have_to_cancel(
    waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancel mode takes one scope more than notify mode, and only if the endpoint waits."""
    usual = await scopes_entered("notify", waits, monkeypatch)
    assert usual == 0 or waits
    assert await scopes_entered("cancel", waits, monkeypatch) - usual == waits


async def test_handler_notify_mode_stream_goes_on_after_the_client_left() -> None:
    """In notify mode nothing is cancelled while a response streams, either."""
    server = Channel()

    async def parts(request: Request) -> AsyncIterator[bytes]:
        server.disconnect()
        await request.wait_disconnected()
        yield b"a"
        await turn(3)
        yield b"b"

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(parts(request))

    with anyio.fail_after(5):
        await Handler(endpoint, on_disconnect="notify")(http_scope(), server.receive, server.send)
    check_messages(server.sent, complete=True)
    assert server.body == b"ab"


async def test_handler_notify_mode_receive_fails_wakes_the_endpoint() -> None:
    """An endpoint that waits for the disconnect is not left waiting where receive() fails: nothing can come."""

    async def breaks(index: int) -> None:
        if index:
            await checkpoint()
            raise RuntimeError("the server is broken")

    async def endpoint(request: Request) -> Response:
        await request.wait_disconnected()
        return Response()

    server = Channel(on_receive=breaks)
    with anyio.fail_after(5), pytest.raises(RuntimeError, match="the server is broken"):
        await Handler(endpoint, on_disconnect="notify")(http_scope(), server.receive, server.send)


async def test_handler_debug_slow_step_is_reported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In debug mode code that holds the event loop is named, in an endpoint and in its stream; else nothing is."""
    now = 0.0
    monkeypatch.setattr(asgicore._watch, "perf_counter", lambda: now)

    async def blocking() -> AsyncIterator[bytes]:
        nonlocal now
        yield b"a"
        await checkpoint()
        now += 0.3
        yield b"b"

    async def endpoint(request: Request) -> Response:
        nonlocal now
        await checkpoint()
        now += 0.2
        await checkpoint()
        now += 0.05
        return StreamingResponse(blocking())

    await call(Handler(endpoint), path="/a\n")
    await call(Handler(endpoint), path="/a b")
    assert errors(caplog) == []
    await call(Handler(endpoint, debug=True), path="/a b")
    assert [record.getMessage() for record in errors(caplog)] == [
        "GET /a%20b held the event loop for 200 ms; run blocking code in a worker thread",
        "GET /a%20b held the event loop for 300 ms; run blocking code in a worker thread",
    ]


async def test_handler_debug_slow_first_step_is_reported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An endpoint that blocks and never suspends, or fails, is reported too."""
    now = 0.0
    monkeypatch.setattr(asgicore._watch, "perf_counter", lambda: now)

    async def endpoint(request: Request) -> Response:
        nonlocal now
        now += 1.5
        return Response()

    await call(Handler(endpoint, debug=True))
    assert [record.getMessage() for record in errors(caplog)] == [
        "GET / held the event loop for 1500 ms; run blocking code in a worker thread"
    ]


@pytest.mark.parametrize("mode", ["spool", "stream"])
async def test_handler_debug_serves_cancels_and_fails_alike(mode: Any) -> None:
    """Debug mode changes what is reported, not what is served."""
    server = Channel(body_messages(b"a", b"b"), suspends=True)
    with anyio.fail_after(5):
        await Handler(echo, debug=True, body=mode)(http_scope(), server.receive, server.send)
    assert server.body == b"ab"

    async def waits(request: Request) -> Response:
        gone.disconnect()
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.append(True)
        raise AssertionError("not reached")

    cancelled: list[bool] = []
    gone = Channel()
    with anyio.fail_after(5):
        await Handler(waits, debug=True, body=mode)(http_scope(), gone.receive, gone.send)
    assert cancelled == [True]


# --- nothing is paid for what does not happen ------------------------------------------------------------


@pytest.mark.parametrize("mode", ["spool", "stream"])
@pytest.mark.parametrize("on_disconnect", ["cancel", "notify"])
async def test_handler_endpoint_never_suspends_creates_no_task(mode: Any, on_disconnect: Any) -> None:
    """A request that never waits creates no task, also with a body and a stream."""

    async def streams(request: Request) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            yield await request.body()

        return StreamingResponse(parts())

    before = living_tasks()
    for endpoint in (hello, echo, streams):
        channel = Channel(body_messages(b"a", b"b"))
        handler = Handler(endpoint, body=mode, on_disconnect=on_disconnect)
        with spawned() as names:
            await handler(http_scope(), channel.receive, channel.send)
        check_messages(channel.sent, complete=True)
        assert names == []
        assert living_tasks() == before


@pytest.mark.parametrize("has_scope", [False, True])
async def test_handler_endpoint_that_waits_has_one_listener(has_scope: bool) -> None:
    """An endpoint that waits has one task beside it at most, which is gone when the application returns.

    On asyncio it has none where ``receive`` waits for a future and has nothing to do with the task it is called in.
    """

    async def endpoint(request: Request) -> Response:
        await turn(3)
        beside.append(len(living_tasks() - before))
        return Response()

    async def receive() -> Message:
        if has_scope:
            with anyio.CancelScope() as scope:
                scope.cancel()
                await turn()
            with anyio.fail_after(5):
                return await channel.receive()
        return await channel.receive()

    before = living_tasks()
    beside: list[int] = []
    channel = Channel()
    with spawned() as names:
        await Handler(endpoint)(http_scope(), receive, channel.send)
    assert beside == [1 if has_scope or on_trio() else 0]
    assert len(names) == (1 if on_trio() else 0)
    assert living_tasks() == before


async def test_handler_context_set_in_the_endpoint_is_visible_to_the_caller() -> None:
    """The endpoint runs in the task that called the application, before and after it has waited."""
    variable: ContextVar[str] = ContextVar("variable", default="unset")
    other: ContextVar[str] = ContextVar("other", default="unset")
    tasks = []

    async def endpoint(request: Request) -> Response:
        variable.set("early")
        await checkpoint()
        other.set("late")
        tasks.append(anyio.get_current_task().id)
        return Response()

    channel = Channel(suspends=True)
    await Handler(endpoint)(http_scope(), channel.receive, channel.send)
    assert (variable.get(), other.get()) == ("early", "late")
    assert tasks == [anyio.get_current_task().id]


# --- errors before the start -----------------------------------------------------------------------------


async def test_handler_http_error_becomes_its_response(caplog: pytest.LogCaptureFixture) -> None:
    """An HTTPError is an answer: status, detail and headers; it is not logged."""
    error = HTTPError(429, "slow down", [("retry-after", "5"), ("x-a", "1"), ("x-a", "2")])
    channel = await call(fails(error))
    assert (channel.status, channel.body) == (429, b"slow down")
    assert channel.headers == [
        (b"retry-after", b"5"),
        (b"x-a", b"1"),
        (b"x-a", b"2"),
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"9"),
    ]
    assert caplog.records == []


@pytest.mark.parametrize(("status", "detail"), [(404, b"Not Found"), (499, b"Error"), (599, b"Error")])
async def test_handler_http_error_without_detail_has_the_phrase(status: int, detail: bytes) -> None:
    """Without a detail the body is the phrase of the status."""
    channel = await call(fails(HTTPError(status)))
    assert (channel.status, channel.body) == (status, detail)


async def test_handler_http_error_detail_empty_has_no_body() -> None:
    """An empty detail is an empty body."""
    assert (await call(fails(HTTPError(404, "")))).body == b""


async def test_handler_http_error_with_illegal_headers_is_a_500(caplog: pytest.LogCaptureFixture) -> None:
    """Headers that must not leave make an HTTPError the application's fault."""
    channel = await call(fails(HTTPError(404, headers={"x-a": "1\r\nx-b: 2"})))
    check_messages(channel.sent, complete=True)
    assert channel.status == 500
    assert [type(record.exc_info[1]) for record in errors(caplog) if record.exc_info] == [InvalidHeaderError]


async def test_handler_uncaught_exception_is_a_500_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """Any other exception is logged once with method, quoted path and traceback, and answered without a word of it."""
    error = RuntimeError("secret one")
    channel = await call(
        fails(error),
        body_messages(b"secret two"),
        method="PO\nST",
        path="/a b/\u2028\u00e9%",
        query_string=b"q=secret-three",
        headers=[(b"host", b"h"), (b"authorization", b"secret four")],
    )
    assert (channel.status, channel.body) == (500, b"Internal Server Error")
    [record] = errors(caplog)
    assert record.name == "asgicore"
    assert record.levelno == logging.ERROR
    assert record.getMessage() == "PO%0AST /a%20b/%E2%80%A8%C3%A9%25 failed"
    assert record.exc_info is not None
    assert record.exc_info[1] is error
    for word in ("secret two", "secret-three", "secret four"):
        assert word not in caplog.text


async def test_handler_uncaught_exception_with_lone_surrogates_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A path and a message that have no UTF-8 form break neither the log nor the page."""
    channel = await call(Handler(fails(RuntimeError("\udcff")).endpoint, debug=True), path="/\udcff")
    assert channel.status == 500
    assert b"RuntimeError: \\udcff" in channel.body
    assert len(errors(caplog)) == 1


async def test_handler_debug_answers_the_traceback_as_text() -> None:
    """With debug the body of a 500 is the traceback, as plain text; without it nothing of it leaves."""
    endpoint = fails(RuntimeError("<b>why</b>")).endpoint
    shown = await call(Handler(endpoint, debug=True))
    assert shown.body.startswith(b"Traceback (most recent call last):")
    assert b"RuntimeError: <b>why</b>" in shown.body
    assert (b"content-type", b"text/plain; charset=utf-8") in shown.headers
    hidden = await call(Handler(endpoint))
    assert b"why" not in hidden.body
    assert not any(b"why" in value for _, value in hidden.headers)


@pytest.mark.parametrize(
    "result", [None, b"bytes", "text", {"a": 1}, Response], ids=["None", "bytes", "str", "dict", "class"]
)
async def test_handler_endpoint_returns_no_response_is_a_500(result: Any, caplog: pytest.LogCaptureFixture) -> None:
    """What is no Response is the application's fault, and the log says which type came."""

    async def endpoint(request: Request) -> Response:
        return result  # type: ignore[no-any-return]

    assert (await call(Handler(endpoint))).status == 500
    assert f"the endpoint returned {type(result).__name__}; it must return a Response" in caplog.text
    assert len(errors(caplog)) == 1


@pytest.mark.parametrize("hook", ["create_request", "read_body", "response_ready", "send_response"])
async def test_handler_hook_fails_before_the_start_is_a_500(hook: str, caplog: pytest.LogCaptureFixture) -> None:
    """An error in a hook is an error of the application: logged once, answered with 500."""
    error = RuntimeError(hook)
    failed = []

    def fail(self: Handler, *args: Any) -> Any:
        failed.append(hook)
        if hook == "send_response" and len(failed) > 1:
            return Handler.send_response(self, *args)
        raise error

    async def fail_later(self: Handler, *args: Any) -> Any:
        if hook == "send_response" and failed:
            return await Handler.send_response(self, *args)
        failed.append(hook)
        await checkpoint()
        raise error

    failing = type("Failing", (Handler,), {hook: fail if hook == "create_request" else fail_later})
    channel = await call(failing(hello))
    check_messages(channel.sent, complete=True)
    assert channel.status == 500
    [record] = errors(caplog)
    assert record.exc_info is not None
    assert record.exc_info[1] is error


async def test_handler_hook_raises_http_error_is_answered() -> None:
    """A hook can refuse as an endpoint can."""

    class Refusing(Handler):
        async def run_get_response(self, request: Any) -> Response:
            raise HTTPError(451)

    assert (await call(Refusing())).status == 451


async def test_handler_http_error_hook_fails_is_a_500(caplog: pytest.LogCaptureFixture) -> None:
    """Where handle_http_error() fails, its error is logged and answered with 500."""

    class Failing(Handler):
        def handle_http_error(self, request: Any, exc: HTTPError) -> Response:
            raise RuntimeError("no page")

    assert (await call(Failing(fails(HTTPError(404)).endpoint))).status == 500
    assert len(errors(caplog)) == 1


async def test_handler_uncaught_exception_hook_fails_reaches_the_caller(caplog: pytest.LogCaptureFixture) -> None:
    """Where handle_uncaught_exception() fails, too, the server gets its error and nothing is sent."""
    error = RuntimeError("no page")

    class Failing(Handler):
        def handle_uncaught_exception(self, request: Any, exc: Exception) -> Response:
            raise error

    channel = Channel()
    with pytest.raises(RuntimeError) as caught:
        await Failing(fails(RuntimeError("first")).endpoint)(http_scope(), channel.receive, channel.send)
    assert caught.value is error
    assert channel.sent == []
    assert len(errors(caplog)) == 1


@pytest.mark.parametrize("suspends", [False, True])
async def test_handler_base_exception_reaches_the_caller(suspends: bool) -> None:
    """What is no Exception passes through and becomes no response."""

    class Stop(BaseException):
        pass

    stop = Stop()

    async def endpoint(request: Request) -> Response:
        if suspends:
            await checkpoint()
        raise stop

    channel = Channel()
    with pytest.raises(Stop) as caught:
        await Handler(endpoint)(http_scope(), channel.receive, channel.send)
    assert caught.value is stop
    assert channel.sent == []


# --- errors after the start ------------------------------------------------------------------------------


async def test_handler_stream_fails_raises_the_original_and_sends_nothing_more() -> None:
    """After the start the original exception object reaches the caller, and the response is not ended."""
    error = RuntimeError("midway")
    stream = Parts(b"a", b"b", error=error)

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(stream)

    channel = Channel()
    with pytest.raises(RuntimeError) as caught:
        await Handler(endpoint)(http_scope(), channel.receive, channel.send)
    assert caught.value is error
    assert caught.value.__cause__ is None
    check_messages(channel.sent, complete=False)
    assert channel.body == b"ab"
    assert stream.closed == 1


@pytest.mark.parametrize("error", [HTTPError(404), ClientDisconnectedError(), FileNotFoundError("no file")])
async def test_handler_stream_raises_an_answer_or_oserror_after_the_start_raises_it(error: Exception) -> None:
    """After the start no exception becomes a response or is taken for a disconnect, whatever its class."""

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(Parts(b"a", error=error))

    channel = Channel()
    with pytest.raises(type(error)) as caught:
        await Handler(endpoint)(http_scope(), channel.receive, channel.send)
    assert caught.value is error
    check_messages(channel.sent, complete=False)


@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize("where", ["endpoint", "stream"])
async def test_handler_exception_group_of_the_user_passes_untouched(
    members: int, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Groups that user code raised are neither unwrapped nor wrapped."""
    group = ExceptionGroup("mine", [RuntimeError(str(number)) for number in range(members)])

    async def endpoint(request: Request) -> Response:
        await checkpoint()
        if where == "endpoint":
            raise group
        return StreamingResponse(Parts(b"a", error=group))

    channel = Channel()
    if where == "endpoint":
        await Handler(endpoint)(http_scope(), channel.receive, channel.send)
        assert channel.status == 500
        [record] = errors(caplog)
        assert record.exc_info is not None
        assert record.exc_info[1] is group
    else:
        with pytest.raises(ExceptionGroup) as caught:
            await Handler(endpoint)(http_scope(), channel.receive, channel.send)
        assert caught.value is group
    assert len(group.exceptions) == members


@pytest.mark.parametrize("members", [1, 2])
async def test_handler_task_group_of_the_endpoint_fails_with_its_group(
    members: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The group of a task group inside the endpoint is what is logged."""

    async def fail() -> None:
        await checkpoint()
        raise RuntimeError("child")

    async def endpoint(request: Request) -> Response:
        async with anyio.create_task_group() as group:
            for _ in range(members):
                group.start_soon(fail)
        return Response()

    assert (await call(Handler(endpoint))).status == 500
    [record] = errors(caplog)
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ExceptionGroup)


@pytest.mark.parametrize("part", [1, None, ["a"]], ids=["int", "None", "list"])
async def test_handler_stream_part_of_another_type_raises(part: Any) -> None:
    """A part that is neither bytes nor str aborts the response."""

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(Parts(b"a", part))

    channel = Channel()
    with pytest.raises(TypeError, match="takes parts of bytes or str"):
        await Handler(endpoint)(http_scope(), channel.receive, channel.send)
    check_messages(channel.sent, complete=False)


@pytest.mark.parametrize("declared", [1, 3, 5])
async def test_handler_stream_of_a_wrong_length_is_aborted(declared: int) -> None:
    """A stream longer or shorter than declared is aborted: the excess is not sent, the end neither."""

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(Parts(b"ab", b"cd"), headers={"content-length": str(declared)})

    channel = Channel()
    with pytest.raises(ContentLengthError):
        await Handler(endpoint)(http_scope(), channel.receive, channel.send)
    check_messages(channel.sent, complete=False)


async def test_handler_send_fails_otherwise_raises_unchanged() -> None:
    """An error of send that is no OSError reaches the caller, and send is not called again."""
    error = RuntimeError("the server is broken")

    async def breaks(index: int, message: Message) -> None:
        raise error

    server = Channel(on_send=breaks)
    with pytest.raises(RuntimeError) as caught:
        await Handler(hello)(http_scope(), server.receive, server.send)
    assert caught.value is error
    assert server.sends == 1


@pytest.mark.parametrize("mode", ["spool", "stream"])
async def test_handler_receive_fails_reaches_the_caller(mode: Any, caplog: pytest.LogCaptureFixture) -> None:
    """An error of receive that is no OSError is the server's: it reaches the caller and becomes no response."""
    error = RuntimeError("the server is broken")
    response = await Client(Handler(echo, body=mode)).get("/", fault=Fault("receive", error=error))
    assert response.error is error
    assert response.messages == ()
    assert errors(caplog) == []


async def test_handler_receive_fails_while_the_endpoint_waits_reaches_the_caller() -> None:
    """The listener's error ends the endpoint and reaches the caller."""
    error = RuntimeError("the server is broken")
    ended = []

    async def endpoint(request: Request) -> Response:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(True)
        raise AssertionError("not reached")

    response = await Client(Handler(endpoint, body="stream")).get("/", fault=Fault("receive", error=error))
    assert response.error is error
    assert ended == [True]
    assert response.messages == ()


ILLEGAL_MESSAGES: dict[str, Any] = {
    "unknown type": {"type": "http.something"},
    "websocket": {"type": "websocket.receive", "text": "x"},
    "no type": {"body": b"", "more_body": False},
    "body of str": {"type": "http.request", "body": "text"},
    "body of int": {"type": "http.request", "body": 1},
    "more_body of str": {"type": "http.request", "body": b"", "more_body": "no"},
    "None": None,
    "text": "http.request",
}


@pytest.mark.parametrize("mode", ["spool", "stream"])
@pytest.mark.parametrize("message", ILLEGAL_MESSAGES.values(), ids=ILLEGAL_MESSAGES)
async def test_handler_illegal_message_as_body_raises(
    message: Any, mode: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A message that ASGI does not allow is the server's fault: one clear exception, no guess and no response."""
    channel = Channel([message])
    with anyio.fail_after(5), pytest.raises(ServerProtocolError):
        await Handler(echo, body=mode)(http_scope(), channel.receive, channel.send)
    assert channel.sent == []
    assert errors(caplog) == []


@pytest.mark.parametrize("name", ["unknown type", "no type", "None", "text"])
async def test_handler_illegal_message_after_the_body_raises(name: str) -> None:
    """The same where the listener gets it."""

    async def endpoint(request: Request) -> Response:
        await anyio.sleep_forever()
        raise AssertionError("not reached")

    channel = Channel([EMPTY, ILLEGAL_MESSAGES[name]])
    with anyio.fail_after(5), pytest.raises(ServerProtocolError):
        await Handler(endpoint)(http_scope(), channel.receive, channel.send)
    assert channel.sent == []


@pytest.mark.parametrize("mode", ["spool", "stream"])
@pytest.mark.parametrize(
    "message",
    [
        {"type": "http.request"},
        {"type": "http.request", "body": None},
        {"type": "http.request", "body": b"", "more_body": None},
        {"type": "http.request", "body": bytearray(b"")},
        {"type": "http.request", "body": memoryview(b"")},
    ],
    ids=["no keys", "None body", "None more_body", "bytearray", "memoryview"],
)
async def test_handler_message_with_defaults_is_an_empty_body(message: Message, mode: Any) -> None:
    """Keys that are missing or None have the defaults of the specification."""
    channel = await call(Handler(echo, body=mode), [message])
    assert (channel.status, channel.body) == (200, b"")


# --- refusals of the request -----------------------------------------------------------------------------


async def test_handler_declared_body_too_large_is_413_before_the_first_receive(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A declared length above the limit is refused unread, and the connection closed."""
    handler = Handler(echo, limits=Limits(max_body_bytes=10))
    channel = await call(handler, body_messages(bytes(11)), headers=[(b"content-length", b"11")])
    assert (channel.status, channel.received) == (413, 0)
    assert (b"connection", b"close") in channel.headers
    assert caplog.records == []


@pytest.mark.parametrize("mode", ["spool", "stream"])
async def test_handler_counted_body_too_large_is_413(mode: Any) -> None:
    """An undeclared body is counted and refused with one message above the limit at most."""
    handler = Handler(echo, limits=Limits(max_body_bytes=10), body=mode)
    channel = await call(handler, body_messages(*[bytes(4)] * 100))
    assert (channel.status, channel.received) == (413, 3)
    assert (b"connection", b"close") in channel.headers


@pytest.mark.parametrize("mode", ["spool", "stream"])
@pytest.mark.parametrize("headers", [[], [(b"content-length", b"10")]], ids=["counted", "declared"])
async def test_handler_body_of_exactly_the_limit_is_accepted(mode: Any, headers: Any) -> None:
    """The limit itself is allowed."""
    handler = Handler(echo, limits=Limits(max_body_bytes=10), body=mode)
    channel = await call(handler, body_messages(bytes(4), bytes(6)), headers=headers)
    assert (channel.status, len(channel.body)) == (200, 10)


@pytest.mark.parametrize("version", ["1.0", "1.1", "2", "3"])
async def test_handler_refused_body_closes_http_1_only(version: str) -> None:
    """connection: close is for HTTP/1; HTTP/2 and 3 have no such field (RFC 9113 section 8.2.2)."""
    handler = Handler(echo, limits=Limits(max_body_bytes=1))
    channel = await call(handler, body_messages(b"ab"), headers=[(b"content-length", b"2")], http_version=version)
    assert channel.status == 413
    assert ((b"connection", b"close") in channel.headers) is version.startswith("1")


async def test_handler_refused_request_without_a_body_keeps_the_connection() -> None:
    """A client's fault that the endpoint noticed after the body does not close the connection."""

    async def endpoint(request: Request) -> Response:
        return JSONResponse(await request.json())

    channel = await call(Handler(endpoint), body_messages(b"{"))
    assert channel.status == 400
    assert (b"connection", b"close") not in channel.headers


@pytest.mark.parametrize("mode", ["spool", "stream"])
@pytest.mark.parametrize("declared", [1, 2, 4, 100])
async def test_handler_body_of_another_length_than_declared_is_400(
    mode: Any, declared: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A body longer or shorter than declared is the client's fault."""
    channel = await call(
        Handler(echo, body=mode), body_messages(b"ab", b"c"), headers=[(b"content-length", b"%d" % declared)]
    )
    assert channel.status == 400
    assert caplog.records == []


@pytest.mark.parametrize("mode", ["spool", "stream"])
async def test_handler_that_does_not_check_the_length_takes_the_body_that_comes(mode: Any) -> None:
    """Behind middleware that changes bodies; what is declared too large is refused all the same, and a cut body cut."""

    class Unpacked(Handler):
        checks_content_length = False

    handler = Unpacked(echo, body=mode, limits=Limits(max_body_bytes=100))
    for declared in (1, 3, 50):
        headers = [(b"content-length", b"%d" % declared)]
        channel = await call(handler, body_messages(b"ab", b"c"), headers=headers)
        assert (channel.status, channel.body) == (200, b"abc")
        cut = await call(handler, [*body_messages(b"ab", b"c")[:1], DISCONNECT], headers=headers)
        assert cut.sent == []
    channel = await call(handler, body_messages(b"abc"), headers=[(b"content-length", b"101")])
    assert (channel.status, channel.received) == (413, 0)


@pytest.mark.parametrize("mode", ["spool", "stream"])
async def test_handler_body_stops_coming_is_408(mode: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A body whose next part does not come in time is answered 408, and the connection closed."""
    handler = Handler(echo, body=mode, limits=Limits(body_timeout_seconds=0.02))
    channel = await call(handler, body_messages(b"a", b"b", b"c")[:2])
    assert channel.status == 408
    assert (b"connection", b"close") in channel.headers
    assert errors(caplog) == []


@pytest.mark.parametrize("mode", ["spool", "stream"])
async def test_handler_body_that_trickles_is_408(mode: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A body that goes on and on, if only now and then, is answered 408 when its time is over."""

    async def trickles(index: int) -> None:
        await anyio.sleep(0.01)

    channel = Channel(repeat({"type": "http.request", "body": b"x", "more_body": True}), on_receive=trickles)
    with anyio.fail_after(15):
        handler = Handler(echo, body=mode, limits=Limits(max_body_seconds=0.1))
        await handler(http_scope("POST"), channel.receive, channel.send)
    assert channel.status == 408
    assert b"not received within 0.1 seconds" in channel.body
    assert errors(caplog) == []


@pytest.mark.parametrize(
    ("status", "scope"),
    [
        pytest.param(431, {"headers": [(b"x-%d" % number, b"1") for number in range(129)]}, id="number of fields"),
        pytest.param(431, {"headers": [(b"x", bytes(65536).replace(b"\0", b"a"))]}, id="size of fields"),
        pytest.param(414, {"path": "/" + "a" * 16384}, id="path"),
        pytest.param(414, {"query_string": b"a" * 65537}, id="query"),
        pytest.param(400, {"path": "/a\x00"}, id="control character"),
        pytest.param(400, {"headers": [(b"content-length", b"+1")]}, id="content-length"),
        pytest.param(400, {"headers": [(b"content-length", b"1"), (b"content-length", b"2")]}, id="two lengths"),
        pytest.param(400, {"headers": [(b"host", b"a"), (b"host", b"b")]}, id="two hosts"),
    ],
)
async def test_handler_malformed_head_is_refused_unread(
    status: int, scope: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A head that is malformed or too large is refused before body and endpoint, without a log record."""
    channel = await call(fails(AssertionError("not reached")), **scope)
    check_messages(channel.sent, complete=True)
    assert (channel.status, channel.received) == (status, 0)
    assert caplog.records == []


@pytest.mark.parametrize(
    "scope",
    [
        {"server": None, "client": None, "root_path": None, "state": ..., "asgi": {}},
        {"server": ("/run/socket", None), "client": ["h", "1"]},
        {"headers": ..., "query_string": ..., "raw_path": ..., "scheme": ..., "http_version": ..., "method": ...},
        {"headers": iter([(b"Host", b"h")])},
        {"path": ..., "query_string": None, "headers": None},
    ],
    ids=["None", "unix socket", "missing", "one-shot headers", "no path"],
)
async def test_handler_odd_scope_is_served(scope: Any) -> None:
    """Optional keys may be missing, None or of another shape."""
    assert (await call(Handler(hello), **scope)).body == b"hello"


async def test_handler_polling_is_disconnected_eats_no_message() -> None:
    """Asking a thousand times whether the client has left during an upload takes nothing of the body."""

    async def endpoint(request: Request) -> Response:
        data = b""
        async for part in request.stream():
            for _ in range(20):
                assert not request.is_disconnected
                await checkpoint()
            data += part
        return Response(data)

    parts = [b"%02d" % number for number in range(50)]
    channel = await call(Handler(endpoint, body="stream"), body_messages(*parts))
    assert channel.body == b"".join(parts)


# --- responses without a body ----------------------------------------------------------------------------


@interim_passes
@pytest.mark.parametrize("streams", [False, True], ids=["bytes", "stream"])
@pytest.mark.parametrize(
    ("method", "status"),
    [("HEAD", 200), ("HEAD", 404), ("GET", 204), ("GET", 205), ("GET", 304), ("GET", 100), ("POST", 199)],
)
async def test_handler_bodiless_response_sends_one_empty_message(method: str, status: int, streams: bool) -> None:
    """HEAD, 1xx, 204, 205 and 304 have a start and one empty end; a stream is closed unread."""
    stream = Parts(b"a", b"b")

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(stream, status) if streams else Response(b"ab", status)

    channel = await call(Handler(endpoint), method=method)
    check_messages(channel.sent, method=method, complete=True)
    assert channel.status == status
    assert len(channel.sent) == 2
    lengths = [value for name, value in channel.headers if name == b"content-length"]
    if streams:
        assert (stream.read, stream.closed) == (0, 1)
        assert lengths == ([b"0"] if status == 205 else [])
    else:
        assert lengths == ([b"2"] if method == "HEAD" or status == 304 else [b"0"] if status == 205 else [])


async def test_reset_by_messages_of_a_hook_has_no_content() -> None:
    """Whoever writes the messages: a length that was declared is that of nothing (RFC 9110 section 15.3.6)."""

    class Own(Handler):
        async def send_response(self, response: Response, send: Send) -> None:
            await send({"type": "http.response.start", "status": 205, "headers": [(b"content-length", b"2")]})
            await send({"type": "http.response.body", "body": b"ab"})

    channel = await call(Own(hello))
    check_messages(channel.sent, complete=True)
    assert (channel.headers, channel.body) == ([(b"content-length", b"0")], b"")


# --- other scopes and the state --------------------------------------------------------------------------


async def test_handler_lifespan_state_is_in_each_request() -> None:
    """What the lifespan yields is request.state, a copy for each request, also where servers keep no state."""

    @asynccontextmanager
    async def lifespan(app: Handler) -> AsyncIterator[dict[str, Any]]:
        assert app is handler
        yield {"pool": "p"}

    async def endpoint(request: Request) -> Response:
        before = dict(request.state)
        request.state["mine"] = 1
        return JSONResponse(before)

    handler = Handler(endpoint, lifespan=lifespan)
    # Under the lint, which knows how often each message is sent.
    async with Client(lint(handler), server=replace(UVICORN, has_state=False)) as client:
        assert (await client.get("/")).body == b'{"pool":"p"}'
        assert (await client.get("/")).body == b'{"pool":"p"}'


async def test_handler_state_of_the_server_is_the_state_of_the_request() -> None:
    """A server that keeps state gives it in the scope."""

    async def endpoint(request: Request) -> Response:
        return JSONResponse(dict(request.state))

    assert (await call(Handler(endpoint), state={"a": 1})).body == b'{"a":1}'


@pytest.mark.parametrize(
    ("extensions", "types"),
    [
        ({}, ["websocket.close"]),
        ({"websocket.http.response": {}}, ["websocket.http.response.start", "websocket.http.response.body"]),
    ],
    ids=["close", "denial response"],
)
async def test_handler_websocket_is_refused(
    extensions: Any, types: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A websocket is refused as the server allows, without a log record."""
    channel = Channel([{"type": "websocket.connect"}])
    await Handler(hello)({"type": "websocket", "extensions": extensions}, channel.receive, channel.send)
    assert [message["type"] for message in channel.sent] == types
    assert caplog.records == []


@pytest.mark.parametrize("kind", ["other", None, 1])
async def test_handler_unknown_scope_raises_before_anything_is_sent(kind: Any) -> None:
    """A scope of another type is one clear exception."""
    channel = Channel()
    with pytest.raises(ServerProtocolError, match="http, lifespan and websocket"):
        await Handler(hello)({"type": kind}, channel.receive, channel.send)
    assert (channel.received, channel.sent) == (0, [])


# --- background work -------------------------------------------------------------------------------------


async def test_handler_background_runs_after_the_last_send_returned() -> None:
    """Background work begins when the final message was taken, and the application waits for it."""
    order = []

    async def slow(index: int, message: Message) -> None:
        await turn(3)
        order.append(f"send {index}")

    async def background() -> None:
        order.append("background")
        await turn(3)
        order.append("done")

    async def endpoint(request: Request) -> Response:
        return Response(b"x", background=background)

    channel = Channel(on_send=slow)
    await Handler(endpoint)(http_scope(), channel.receive, channel.send)
    assert order == ["send 0", "send 1", "background", "done"]


@pytest.mark.parametrize("streams", [False, True], ids=["bytes", "stream"])
async def test_handler_background_is_not_cancelled_by_a_disconnect(streams: bool) -> None:
    """A client that leaves right after the final byte, or during the work, cuts nothing short."""
    server = Channel()
    done = []

    async def background() -> None:
        server.disconnect()
        await turn(10)
        done.append(True)

    async def endpoint(request: Request) -> Response:
        await checkpoint()
        if streams:
            return StreamingResponse(Parts(b"a"), background=background)
        return Response(b"x", background=background)

    with anyio.fail_after(5):
        await Handler(endpoint)(http_scope(), server.receive, server.send)
    assert done == [True]


async def test_handler_background_fails_is_logged_and_the_response_stands(caplog: pytest.LogCaptureFixture) -> None:
    """An error of background work is logged once and neither sent nor raised."""

    async def background() -> None:
        raise RuntimeError("later")

    async def endpoint(request: Request) -> Response:
        return Response(b"x", background=background)

    channel = await call(Handler(endpoint), path="/a\u00e9")
    check_messages(channel.sent, complete=True)
    [record] = errors(caplog)
    assert record.getMessage() == "the background work of GET /a%C3%A9 failed"


@pytest.mark.parametrize("how", ["error", "disconnect", "failing send", "refused length"])
async def test_handler_background_of_an_aborted_response_does_not_run(how: str) -> None:
    """Background work belongs to a response that was sent to its end."""
    ran = []
    server = Channel()

    async def background() -> None:
        ran.append(True)

    async def parts() -> AsyncIterator[bytes]:
        yield b"a"
        if how == "error":
            raise RuntimeError("midway")
        if how == "disconnect":
            server.disconnect()
            await anyio.sleep_forever()

    async def breaks(index: int, message: Message) -> None:
        if how == "failing send" and index == 1:
            raise OSError("gone")

    async def endpoint(request: Request) -> Response:
        headers = {"content-length": "9"} if how == "refused length" else None
        return StreamingResponse(parts(), headers=headers, background=background)

    server = Channel(on_send=breaks)
    with anyio.fail_after(5):
        try:
            await Handler(endpoint)(http_scope(), server.receive, server.send)
        except (RuntimeError, ContentLengthError):
            assert how in ("error", "refused length")
    assert ran == []


async def test_handler_background_can_read_the_kept_body() -> None:
    """The body stays open until background work is done."""
    seen = []

    async def endpoint(request: Request) -> Response:
        async def background() -> None:
            file = await request.file()
            seen.append(file.read() + await request.body())

        return Response(background=background)

    await call(Handler(endpoint), body_messages(b"data"))
    assert seen == [b"datadata"]


async def test_handler_body_used_after_the_request_raises() -> None:
    """A body that is used when the request is over raises a clear error."""
    requests = []

    async def endpoint(request: Request) -> Response:
        requests.append(request)
        await request.file()
        return Response()

    await call(Handler(endpoint), body_messages(b"data"))
    with pytest.raises(BodyConsumedError, match="the request is over"):
        await requests[0].file()


# --- the end of a handler --------------------------------------------------------------------------------


class Running:
    """Requests that run in the background of a test."""

    def __init__(self, handler: Handler, group: Any) -> None:
        self._handler = handler
        self._group = group
        self.raised: list[Exception] = []

    async def start(self, server: Channel) -> None:
        async def run() -> None:
            try:
                await self._handler(http_scope(), server.receive, server.send)
            except Exception as exc:
                self.raised.append(exc)

        self._group.start_soon(run)
        await anyio.wait_all_tasks_blocked()


async def test_handler_aclose_idle_returns_at_once() -> None:
    """Without requests there is nothing to wait for."""
    with anyio.fail_after(5):
        await Handler(hello).aclose(grace_seconds=60)


async def test_handler_aclose_waits_for_requests_that_end_in_time() -> None:
    """A request that ends within the grace is not touched."""
    goes_on = anyio.Event()

    async def endpoint(request: Request) -> Response:
        await goes_on.wait()
        return Response(b"done")

    handler = Handler(endpoint)
    server = Channel()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            await Running(handler, group).start(server)
            group.start_soon(handler.aclose, 60)
            await anyio.wait_all_tasks_blocked()
            assert server.sent == []
            goes_on.set()
    assert server.body == b"done"


@turn_time
async def test_handler_aclose_ends_streams_cleanly() -> None:
    """An open stream is cancelled, its generator closed, and ended with a final message."""
    closed = []

    async def parts() -> AsyncIterator[bytes]:
        try:
            yield b"a"
            await anyio.sleep_forever()
        finally:
            closed.append(True)

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(parts())

    handler = Handler(endpoint)
    servers = [Channel() for _ in range(3)]
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            running = Running(handler, group)
            for server in servers:
                await running.start(server)
            await handler.aclose(grace_seconds=0)
    for server in servers:
        check_messages(server.sent, complete=True)
    assert closed == [True] * 3
    assert running.raised == []


async def test_handler_aclose_answers_waiting_endpoints_with_503() -> None:
    """An endpoint that has not answered is cancelled and answered for."""

    async def endpoint(request: Request) -> Response:
        await anyio.sleep_forever()
        raise AssertionError("not reached")

    handler = Handler(endpoint)
    server = Channel()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            await Running(handler, group).start(server)
            await handler.aclose(grace_seconds=0)
    check_messages(server.sent, complete=True)
    assert server.status == 503
    assert any(name == b"retry-after" for name, _ in server.headers)


async def test_handler_aclose_aborts_a_response_of_declared_length() -> None:
    """What cannot be ended without a lie is aborted."""

    async def parts() -> AsyncIterator[bytes]:
        yield b"a"
        await anyio.sleep_forever()

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(parts(), headers={"content-length": "2"})

    handler = Handler(endpoint)
    server = Channel()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            running = Running(handler, group)
            await running.start(server)
            await handler.aclose(grace_seconds=0)
    check_messages(server.sent, complete=False)
    assert [type(error) for error in running.raised] == [ResponseStateError]


async def test_handler_aclose_while_the_start_is_being_sent_stays_legal() -> None:
    """A start that the server had not taken when it was cut short is followed by nothing."""
    blocked = anyio.Event()

    async def blocks(index: int, message: Message) -> None:
        if message["type"] == "http.response.start":
            await blocked.wait()

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(Parts(b"a"))

    handler = Handler(endpoint)
    server = Channel(on_send=blocks)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            await Running(handler, group).start(server)
            await handler.aclose(grace_seconds=0)
    check_messages(server.sent)


async def test_handler_aclose_while_the_end_is_being_sent_runs_background_only_after_it() -> None:
    """Background work waits until the final message was taken, also where the handler is closed meanwhile."""
    taken = anyio.Event()
    ran: list[bool] = []

    async def blocks(index: int, message: Message) -> None:
        if message["type"] == "http.response.body":
            await taken.wait()

    async def background() -> None:
        check_messages(server.sent, complete=True)
        ran.append(True)

    async def endpoint(request: Request) -> Response:
        return Response(b"x", background=background)

    handler = Handler(endpoint)
    server = Channel(on_send=blocks)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            await Running(handler, group).start(server)
            await handler.aclose(grace_seconds=0)
            await turn(10)
            assert ran == []
            taken.set()
    assert ran == ([True] if len(server.sent) == 2 else [])


async def test_handler_aclose_in_notify_mode_cancels_nothing() -> None:
    """With notify a request goes on, whatever the handler wishes."""
    goes_on = anyio.Event()

    async def endpoint(request: Request) -> Response:
        await goes_on.wait()
        return Response(b"done")

    handler = Handler(endpoint, on_disconnect="notify")
    server = Channel()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            await Running(handler, group).start(server)
            await handler.aclose(grace_seconds=0)
            await turn(5)
            assert server.sent == []
            goes_on.set()
    assert server.body == b"done"


async def test_handler_send_timeout_aborts_the_response(caplog: pytest.LogCaptureFixture) -> None:
    """A server that does not take a message in time is given up; nothing more is sent."""

    async def blocks(index: int, message: Message) -> None:
        if index == 1:
            await anyio.sleep_forever()

    server = Channel(on_send=blocks)
    with anyio.fail_after(5):
        await Handler(hello, limits=Limits(send_timeout_seconds=0.02))(http_scope(), server.receive, server.send)
    assert server.sends == 2
    check_messages(server.sent, complete=False)
    assert errors(caplog) == []


async def test_handler_body_error_caught_by_the_endpoint_is_its_own_matter() -> None:
    """An endpoint may answer a body that it cannot use in its own way."""

    async def endpoint(request: Request) -> Response:
        try:
            await request.body()
        except BodyTooLargeError as exc:
            return Response(f"at most {exc.limit}", 413)
        raise AssertionError("not reached")

    handler = Handler(endpoint, body="stream", limits=Limits(max_body_bytes=1))
    assert (await call(handler, body_messages(b"ab"))).body == b"at most 1"


async def test_handler_disconnect_in_stream_mode_raises_in_the_endpoint() -> None:
    """A truncated body is no end of file: reading it raises."""
    seen = []

    async def endpoint(request: Request) -> Response:
        stream = request.stream()
        seen.append(await anext(stream))
        with pytest.raises(ClientDisconnectedError):
            await anext(stream)
        seen.append(b"raised")
        return Response(b"for nobody")

    channel = await call(Handler(endpoint, body="stream"), [*body_messages(b"a", b"b")[:1], DISCONNECT])
    assert seen == [b"a", b"raised"]
    assert channel.sent == []


async def test_handler_is_reentrant_for_requests_at_once() -> None:
    """One handler serves many requests at once, each with its own body and answer."""
    servers = [Channel(body_messages(b"%d" % number), suspends=True) for number in range(50)]
    handler = Handler(echo)
    async with anyio.create_task_group() as group:
        for server in servers:
            group.start_soon(handler, http_scope(), server.receive, server.send)
    assert [server.body for server in servers] == [b"%d" % number for number in range(50)]


# --- found by attacking the whole ----------------------------------------------------------------------


async def test_http_error_304_declares_no_length() -> None:
    """The text that stands for the status is no length of a body that is not there."""

    async def endpoint(request: Request) -> Response:
        raise HTTPError(304, headers={"x-more": "1"})

    channel = await call(Handler(endpoint))
    assert channel.status == 304
    assert channel.headers == [(b"x-more", b"1")]
    assert channel.body == b""


@pytest.mark.parametrize("nested", [False, True])
async def test_handler_group_of_the_clients_errors_is_answered_by_the_first(
    nested: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """An endpoint that reads the body in a task group does not make a 500 of what the client did."""

    async def endpoint(request: Request) -> Response:
        async def read() -> None:
            if nested:
                async with anyio.create_task_group() as inner:
                    inner.start_soon(request.body)
            else:
                await request.body()

        async with anyio.create_task_group() as group:
            group.start_soon(read)
        raise AssertionError("not reached")

    handler = Handler(endpoint, body="stream", limits=Limits(max_body_bytes=2))
    channel = await call(handler, body_messages(b"abc", b"d"))
    assert channel.status == 413
    assert caplog.records == []


async def test_handler_group_of_other_errors_is_a_500(caplog: pytest.LogCaptureFixture) -> None:
    """One error that is not the client's makes the group the application's."""

    async def endpoint(request: Request) -> Response:
        raise ExceptionGroup("both", [MalformedBodyError("body", "bad"), ValueError("ours")])

    assert (await call(Handler(endpoint))).status == 500
    assert len(caplog.records) == 1


@pytest.mark.parametrize("headers", [5, object()])
async def test_handler_headers_that_are_no_iterable_are_a_400(headers: Any, caplog: pytest.LogCaptureFixture) -> None:
    """As every other malformed head."""
    assert (await call(Handler(hello), headers=headers)).status == 400
    assert caplog.records == []


async def test_aclose_by_two_callers_ends_for_both() -> None:
    """Neither waits for its whole time when the last request is over."""
    release, waits = anyio.Event(), anyio.Event()
    ended: list[bool] = []

    async def endpoint(request: Request) -> Response:
        waits.set()
        await release.wait()
        return Response()

    handler = Handler(endpoint)
    channel = Channel()

    async def close() -> None:
        await handler.aclose(60)
        ended.append(True)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(handler, http_scope(), channel.receive, channel.send)
            await waits.wait()
            group.start_soon(close)
            group.start_soon(close)
            for _ in range(5):
                await checkpoint()
            release.set()
    assert ended == [True, True]


@pytest.mark.parametrize("on_disconnect", ["cancel", "notify"])
async def test_aclose_ends_an_upload_that_is_still_coming(on_disconnect: Any) -> None:
    """The client is told to come again, on a connection that is closed; in notify mode it is left alone."""
    waits = anyio.Event()

    async def on_receive(index: int) -> None:
        if index:
            waits.set()
            await anyio.sleep_forever()

    channel = Channel(body_messages(b"a", b"b"), on_receive=on_receive)
    handler = Handler(hello, on_disconnect=on_disconnect)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(handler, http_scope(method="POST"), channel.receive, channel.send)
            await waits.wait()
            await handler.aclose(0)
            if on_disconnect == "notify":
                group.cancel_scope.cancel()
    if on_disconnect == "notify":
        assert channel.sent == []
    else:
        assert channel.status == 503
        assert (b"connection", b"close") in channel.headers
        assert (b"retry-after", b"1") in channel.headers


async def test_aclose_waits_for_an_upload_that_ends() -> None:
    """Within the time it is given."""
    arrive, waits = anyio.Event(), anyio.Event()

    async def on_receive(index: int) -> None:
        if index == 1:
            waits.set()
            await arrive.wait()

    channel = Channel(body_messages(b"a", b"b"), on_receive=on_receive)
    handler = Handler(hello)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(handler, http_scope(method="POST"), channel.receive, channel.send)
            await waits.wait()
            group.start_soon(handler.aclose, 60)
            await checkpoint()
            arrive.set()
    assert channel.status == 200


async def test_handler_send_response_that_forgets_the_end_is_an_error() -> None:
    """Before anything was sent the client gets a 500, after it the server an error; never a response without an end."""

    class Forgets(Handler):
        starts = False

        async def send_response(self, response: Response, send: Any) -> None:
            if response.status_code == 500:
                await super().send_response(response, send)
            elif self.starts:
                await send({"type": "http.response.start", "status": 200, "headers": []})

    assert (await call(Forgets(hello))).status == 500
    handler = Forgets(hello)
    handler.starts = True
    with pytest.raises(ResponseStateError, match="before the final message"):
        await call(handler)


async def test_handler_204_by_hand_declares_no_length() -> None:
    """RFC 9110 section 8.6, whoever builds the message."""

    class ByHand(Handler):
        async def send_response(self, response: Response, send: Any) -> None:
            headers = [(b"content-length", b"5"), (b"x-more", b"1")]
            await send({"type": "http.response.start", "status": 204, "headers": headers})
            await send({"type": "http.response.body"})

    assert (await call(ByHand(hello))).headers == [(b"x-more", b"1")]


@pytest.mark.parametrize("mode", ["spool", "stream"])
async def test_handler_error_of_receive_keeps_its_cause(mode: Any) -> None:
    """What the server raises reaches it as it is."""
    cause = KeyError("root")

    async def breaks(index: int) -> None:
        raise RuntimeError("of the server") from cause

    channel = Channel(on_receive=breaks)
    with pytest.raises(RuntimeError, match="of the server") as raised:
        await Handler(echo, body=mode)(http_scope(), channel.receive, channel.send)
    assert raised.value.__cause__ is cause


@pytest.mark.parametrize("mode", ["spool", "stream"])
async def test_handler_receive_that_fails_when_called_is_a_disconnect(
    mode: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Awaited or not, an OSError is the client that left."""

    def receive() -> Any:
        raise ConnectionResetError

    async def endpoint(request: Request) -> Response:
        return Response(await request.body())

    channel = Channel()
    await Handler(endpoint, body=mode)(http_scope(), receive, channel.send)
    assert channel.sent == []
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_handler_state_of_the_lifespan_where_the_server_gives_none() -> None:
    """A server that says None keeps no state; the handler does."""

    @asynccontextmanager
    async def life() -> AsyncIterator[dict[str, Any]]:
        yield {"db": 1}

    async def endpoint(request: Request) -> Response:
        return Response(str(request.state["db"]))

    handler = Handler(endpoint, lifespan=life)
    bodies: list[bytes] = []

    async def ask(index: int) -> None:
        if index == 1:
            bodies.append((await call(handler, state=None)).body)

    server = Channel([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}], on_receive=ask)
    with anyio.fail_after(5):
        await handler({"type": "lifespan", "state": None}, server.receive, server.send)
    assert bodies == [b"1"]
