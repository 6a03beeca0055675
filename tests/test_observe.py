"""_observe.py and _observer.py: what an observer is told, on every way that a request can end."""

from __future__ import annotations

import asyncio
import logging
import threading
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from clocks import turn_time
from faults import dropped_when, on_asyncio, on_trio

from asgicore import (
    Body,
    BodyConsumedError,
    BodyTimeoutError,
    BodyTooLargeError,
    ClientDisconnectedError,
    FileResponse,
    Handler,
    HTTPError,
    Limits,
    MalformedBodyError,
    MalformedRequestError,
    Observer,
    Outcome,
    Request,
    Response,
    ResponseStateError,
    ServerProtocolError,
    StreamingResponse,
    Threads,
    ThreadsBusyError,
    Timings,
    _exchange,
    _observe,
)
from asgicore.testing import DISCONNECT, EMPTY, Channel, LeakGuard, Message, body_messages, call, http_scope
from asgicore.types import Receive, Scope, Send
from asgicore.wsgi_bridge import WSGIHandler

variable: ContextVar[str] = ContextVar("variable", default="unset")


@dataclass
class End:
    """What an observer was told."""

    request: Any
    response: Any
    timings: Timings
    outcome: Outcome
    error: BaseException | None

    @property
    def status(self) -> int | None:
        return None if self.response is None else self.response.status_code

    @property
    def came_to(self) -> list[str]:
        """What the timings have, in their order."""
        names = (
            *("received", "body_complete", "endpoint_called", "endpoint_returned"),
            *("response_started", "response_ended", "finished"),
        )
        return [name for name in names if getattr(self.timings, name) is not None]


class Ends(list[End]):
    """An observer that keeps what it is told."""

    def __call__(
        self, request: Any, response: Any, timings: Timings, outcome: Outcome, error: BaseException | None
    ) -> None:
        self.append(End(request, response, timings, outcome, error))

    def only(self) -> End:
        (end,) = self
        return end


async def observe(
    endpoint: Any, channel: Channel, scope: dict[str, Any] | None = None, base: type[Handler] = Handler, **options: Any
) -> tuple[End, BaseException | None]:
    """Run one request; returns what was told, and what was raised."""
    ends, raised = Ends(), None
    handler = base(endpoint, observe=ends, **options)
    with anyio.fail_after(5):
        try:
            await handler(http_scope(**(scope or {})), channel.receive, channel.send)
        except Exception as exc:
            raised = exc
    return ends.only(), raised


async def hello(request: Request) -> Response:
    return Response(b"hello")


async def waits(request: Request) -> Response:
    await anyio.sleep_forever()
    raise AssertionError("not reached")


async def stream(*parts: bytes | BaseException | Callable[[], Awaitable[object]]) -> AsyncIterator[bytes]:
    """Parts, exceptions that are raised between them, and functions that are awaited."""
    for part in parts:
        if isinstance(part, BaseException):
            raise part
        if isinstance(part, bytes):
            yield part
        else:
            await part()


ALL = [
    *("received", "body_complete", "endpoint_called", "endpoint_returned"),
    *("response_started", "response_ended", "finished"),
]
REFUSED = ["received", "response_started", "response_ended", "finished"]


# --- the client gets a response ----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["async", "waiting", "def", "stream", "def stream", "whole body"])
async def test_observer_response_sent_is_told_completed(mode: str) -> None:
    """A request whose response went out whole came to everything, in this order."""

    async def endpoint(request: Request) -> Response:
        if mode == "waiting":
            await checkpoint()
        if mode == "stream":
            return StreamingResponse(stream(b"he", checkpoint, b"llo"))
        if mode == "def stream":
            return StreamingResponse(iter([b"he", b"llo"]))
        return Response(b"hello")

    def synchronous(request: Request) -> Response:
        return Response(b"hello")

    channel = Channel(body_messages(b"ab", b"c"))
    end, raised = await observe(synchronous if mode == "def" else endpoint, channel)
    assert (channel.body, raised) == (b"hello", None)
    assert (end.request.path, end.status, end.outcome, end.error) == ("/", 200, Outcome.COMPLETED, None)
    assert end.came_to == ALL
    moments = [getattr(end.timings, name) for name in ALL]
    assert moments == sorted(moments)
    assert (end.timings.bytes_received, end.timings.bytes_sent) == (3, 5)


async def test_observer_http_error_is_told_completed_with_the_error() -> None:
    """What an endpoint raises as its answer is a response like any other; the error is there to be seen."""

    async def endpoint(request: Request) -> Response:
        raise HTTPError(404)

    end, _ = await observe(endpoint, Channel())
    assert (end.status, end.outcome) == (404, Outcome.COMPLETED)
    assert isinstance(end.error, HTTPError)
    assert end.came_to == ALL


async def test_observer_repeated_messages_after_the_body_are_not_counted() -> None:
    """The body is complete once."""
    server = Channel([*body_messages(b"ab"), *body_messages(b"cd")])

    async def endpoint(request: Request) -> Response:
        while server.received < 2:
            await checkpoint()
        return Response()

    end, _ = await observe(endpoint, server)
    assert end.timings.bytes_received == 2


async def test_observer_body_that_nobody_reads_is_not_complete() -> None:
    """In stream mode the endpoint is called before anything is received."""
    end, _ = await observe(hello, Channel(body_messages(b"ab")), body="stream")
    assert end.came_to == [name for name in ALL if name != "body_complete"]
    assert end.timings.body_seconds is None
    assert (end.timings.bytes_received, end.outcome) == (0, Outcome.COMPLETED)


async def test_observer_not_modified_is_told_what_was_sent() -> None:
    """The response is the one that the endpoint's was made into."""

    async def endpoint(request: Request) -> Response:
        response = Response(b"hello")
        response.set_etag("a")
        return response

    end, _ = await observe(endpoint, Channel(), {"headers": [(b"if-none-match", b'"a"')]})
    assert (end.status, end.outcome, end.timings.bytes_sent) == (304, Outcome.COMPLETED, 0)


@pytest.mark.parametrize("extension", ["pathsend", "zerocopysend"])
async def test_observer_file_that_the_server_reads_is_counted(extension: str, tmp_path: Path) -> None:
    """The bytes of a file are those that the server was told to send, and its last message ends the response."""
    path = tmp_path / "file"
    path.write_bytes(bytes(3000))

    async def endpoint(request: Request) -> Response:
        return FileResponse(path)

    ends = Ends()
    channel = await call(Handler(endpoint, observe=ends), extensions={f"http.response.{extension}": {}})
    assert channel.sent[1]["type"] == f"http.response.{extension}"
    assert (ends.only().timings.bytes_sent, ends.only().outcome) == (3000, Outcome.COMPLETED)
    assert ends.only().came_to == ALL


async def test_observer_trailers_end_the_response() -> None:
    """A response with trailers ends with them, and hints do not start it."""
    asked: list[Timings] = []

    class Looking(Observer):
        def extra_headers(self, request: Any, response: Any, timings: Timings) -> None:
            asked.append(timings)

    async def endpoint(request: Request) -> Response:
        assert await request.send_early_hints("</style.css>; rel=preload")
        assert asked == []
        response = Response(b"hello")
        response.set_trailers(["x-sum"], lambda: {"x-sum": "1"})
        return response

    ends = Ends()
    server = Channel()
    scope = http_scope(extensions={"http.response.trailers": {}, "http.response.early_hint": {}})
    with anyio.fail_after(5):
        await Handler(endpoint, observe=[ends, Looking()])(scope, server.receive, server.send)
    assert server.sent[-1]["type"] == "http.response.trailers"
    assert (ends.only().timings.bytes_sent, ends.only().outcome) == (5, Outcome.COMPLETED)
    assert ends.only().came_to == ALL


async def test_observer_trailers_that_fail_are_no_end() -> None:
    """The last message of the body is not the last one of the response."""

    async def endpoint(request: Request) -> Response:
        response = Response(b"hello")
        response.set_trailers(["x-sum"], lambda: {"x-other": "1"})
        return response

    end, raised = await observe(endpoint, Channel(), {"extensions": {"http.response.trailers": {}}})
    assert (end.outcome, end.error) == (Outcome.FAILED, raised)
    assert raised is not None
    assert end.timings.response_ended is None


async def test_observer_durations_are_differences() -> None:
    """Each duration is between two moments, None if one of them is missing."""
    timings = Timings(
        received=1.0,
        body_complete=3.0,
        endpoint_called=4.0,
        endpoint_returned=8.0,
        response_started=17.0,
        response_ended=33.0,
        finished=65.0,
    )
    assert (timings.total_seconds, timings.body_seconds, timings.endpoint_seconds) == (64.0, 2.0, 4.0)
    assert (timings.first_byte_seconds, timings.response_seconds) == (16.0, 16.0)
    nothing = Timings(received=1.0)
    assert nothing.total_seconds is nothing.endpoint_seconds is nothing.response_seconds is None


# --- refused -----------------------------------------------------------------------------------------------


async def test_observer_head_refused_gets_a_request_of_the_scope() -> None:
    """Of a request whose head is malformed an access log can have a line all the same."""
    end, _ = await observe(hello, Channel(), {"path": "/a\x00b", "method": "PUT"})
    assert (end.status, end.outcome) == (400, Outcome.REFUSED)
    assert isinstance(end.error, MalformedRequestError)
    assert (end.request.method, end.request.path) == ("PUT", "/a\x00b")
    assert end.came_to == REFUSED


@pytest.mark.parametrize(
    ("messages", "headers", "status", "error"),
    [
        (body_messages(b"abcdef"), [(b"content-length", b"6")], 413, BodyTooLargeError),
        (body_messages(b"ab", b"cd", b"ef"), [], 413, BodyTooLargeError),
        (body_messages(b"ab"), [(b"content-length", b"3")], 400, MalformedBodyError),
    ],
    ids=["declared", "counted", "short"],
)
async def test_observer_body_refused_is_told_refused(messages: Any, headers: Any, status: int, error: Any) -> None:
    """A body that is too large or not as declared is answered without the endpoint."""
    end, _ = await observe(hello, Channel(messages), {"headers": headers}, limits=Limits(max_body_bytes=5))
    assert (end.status, end.outcome, type(end.error)) == (status, Outcome.REFUSED, error)
    assert "endpoint_called" not in end.came_to
    assert "endpoint_returned" not in end.came_to
    assert end.timings.response_ended is not None


@turn_time
async def test_observer_body_too_slow_is_told_refused() -> None:
    """So is one that stops coming."""
    server = Channel(body_messages(b"ab", b"cd")[:1], tells="nothing")
    end, _ = await observe(hello, server, limits=Limits(body_timeout_seconds=0.05))
    assert (end.status, end.outcome, type(end.error)) == (408, Outcome.REFUSED, BodyTimeoutError)


async def test_observer_body_refused_while_the_endpoint_reads_is_told_refused() -> None:
    """In stream mode the endpoint was called, and could not go on."""

    async def endpoint(request: Request) -> Response:
        return Response(await request.body())

    end, _ = await observe(endpoint, Channel(body_messages(b"abcdef")), body="stream", limits=Limits(max_body_bytes=5))
    assert (end.status, end.outcome, type(end.error)) == (413, Outcome.REFUSED, BodyTooLargeError)
    assert "endpoint_returned" in end.came_to


async def test_observer_no_free_thread_is_told_refused() -> None:
    """A request that would have to wait behind too many others is refused by the engine."""
    threads = Threads(max_threads=1, max_waiting=0)
    ends, gate = Ends(), threading.Event()
    handler = Handler(lambda request: Response(), threads=threads, observe=ends)
    job = threads.start(gate.wait, 5)
    try:
        assert (await call(handler)).status == 503
    finally:
        gate.set()
        await job.wait()
        await threads.aclose()
    assert (ends.only().outcome, type(ends.only().error)) == (Outcome.REFUSED, ThreadsBusyError)


async def test_observer_response_of_create_request_is_told_refused() -> None:
    """A hook that answers in place of the endpoint refuses, too, without an error."""

    class Teapot(Handler):
        def create_request(self, scope: Scope, body: Body) -> tuple[Any, Response | None]:
            return None, Response(b"", 418)

    end, _ = await observe(hello, Channel(), base=Teapot)
    assert (end.status, end.outcome, end.error, end.came_to) == (418, Outcome.REFUSED, None, REFUSED)


# --- failed ------------------------------------------------------------------------------------------------


async def test_observer_exception_before_the_start_is_told_failed() -> None:
    """The client gets a 500, and the observer the exception."""
    failure = KeyError("no")

    async def endpoint(request: Request) -> Response:
        raise failure

    end, raised = await observe(endpoint, Channel())
    assert (end.status, end.outcome, raised) == (500, Outcome.FAILED, None)
    assert end.error is failure
    assert end.came_to == ALL


@pytest.mark.parametrize("failure", [KeyError("no"), HTTPError(404)], ids=["any", "http"])
async def test_observer_exception_after_the_start_is_told_failed(failure: Exception) -> None:
    """What reaches the server is what the observer gets."""

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(stream(b"a", failure))

    end, raised = await observe(endpoint, Channel())
    assert raised is failure
    assert (end.status, end.outcome, end.error) == (200, Outcome.FAILED, failure)
    assert end.timings.response_started is not None
    assert end.timings.response_ended is None


async def test_observer_exception_in_create_request_is_told_failed() -> None:
    """That the endpoint was not called does not make a failure the client's."""

    class Broken(Handler):
        def create_request(self, scope: Scope, body: Body) -> tuple[Any, Response | None]:
            raise KeyError("no")

    end, _ = await observe(hello, Channel(), base=Broken)
    assert (end.status, end.outcome, type(end.error)) == (500, Outcome.FAILED, KeyError)


async def test_observer_error_page_that_fails_is_told_with_the_last_error() -> None:
    """Of two errors the one that was answered counts."""

    class Broken(Handler):
        def handle_http_error(self, request: Any, exc: HTTPError) -> Response:
            raise KeyError("no page")

    async def endpoint(request: Request) -> Response:
        raise HTTPError(404)

    end, _ = await observe(endpoint, Channel(), base=Broken)
    assert (end.status, end.outcome, type(end.error)) == (500, Outcome.FAILED, KeyError)


async def test_observer_error_page_that_cannot_be_prepared_is_told_failed() -> None:
    """The same where the page fails later."""

    class Unfit(Response):
        async def prepare(self, scope: Scope) -> Response:
            raise KeyError("unfit")

    class Broken(Handler):
        def handle_http_error(self, request: Any, exc: HTTPError) -> Response:
            return Unfit(b"", 404)

    async def endpoint(request: Request) -> Response:
        raise HTTPError(404)

    end, _ = await observe(endpoint, Channel(), base=Broken)
    assert (end.status, end.outcome, type(end.error)) == (500, Outcome.FAILED, KeyError)


@pytest.mark.parametrize("message", [{"type": "http.surprise"}, 7, {"type": "http.request", "body": 7}])
async def test_observer_server_that_breaks_the_protocol_is_told_failed(message: Any) -> None:
    """Whatever the server gives, the error about it is the body's."""
    end, raised = await observe(hello, Channel([message]))
    assert isinstance(raised, ServerProtocolError)
    assert (end.response, end.outcome, end.error) == (None, Outcome.FAILED, raised)
    assert (end.request.path, end.timings.bytes_received) == ("/", 0)


async def test_observer_receive_that_fails_is_told_failed() -> None:
    """An error of the server's own reaches it, and the observer."""

    async def breaks(index: int) -> None:
        raise RuntimeError("receive")

    end, raised = await observe(hello, Channel(on_receive=breaks))
    assert isinstance(raised, RuntimeError)
    assert (end.response, end.outcome, end.error) == (None, Outcome.FAILED, raised)
    assert end.came_to == ["received", "finished"]


async def test_observer_send_that_fails_at_the_last_message_is_told_failed() -> None:
    """What the server did not take was not sent."""

    async def on_send(index: int, message: Message) -> None:
        if index:
            raise RuntimeError("send")

    end, raised = await observe(hello, Channel(on_send=on_send))
    assert isinstance(raised, RuntimeError)
    assert (end.status, end.outcome, end.error, end.timings.bytes_sent) == (200, Outcome.FAILED, raised, 0)
    assert end.timings.response_ended is None


# --- what fails after the response -------------------------------------------------------------------------


async def test_observer_background_work_that_fails_is_told_completed_with_the_error() -> None:
    """The client has its response; the error is there to be seen."""

    async def background() -> None:
        raise KeyError("later")

    async def endpoint(request: Request) -> Response:
        return Response(background=background)

    end, _ = await observe(endpoint, Channel())
    assert (end.status, end.outcome, type(end.error)) == (200, Outcome.COMPLETED, KeyError)
    assert end.came_to == ALL


async def test_observer_background_work_counts_into_the_end() -> None:
    """A request is over when its background work is."""
    ends, released, begun = Ends(), anyio.Event(), anyio.Event()

    async def background() -> None:
        begun.set()
        await released.wait()

    async def endpoint(request: Request) -> Response:
        return Response(background=background)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(call, Handler(endpoint, observe=ends))
            await begun.wait()
            assert ends == []
            released.set()
    assert ends.only().outcome is Outcome.COMPLETED


async def test_observer_background_work_that_is_cancelled_is_told_completed() -> None:
    """The response is there; that the server cancels what follows changes nothing about it."""
    ends = Ends()

    async def endpoint(request: Request) -> Response:
        async def background() -> None:
            scope.cancel()
            await anyio.sleep_forever()

        return Response(background=background)

    with anyio.fail_after(5), anyio.CancelScope() as scope:
        await call(Handler(endpoint, observe=ends))
    assert ends.only().outcome is Outcome.COMPLETED
    assert isinstance(ends.only().error, anyio.get_cancelled_exc_class())


async def test_observer_closing_that_fails_is_told_completed_with_the_error() -> None:
    """As with background work."""

    class Closing(Response):
        async def aclose(self) -> None:
            raise KeyError("close")

    async def endpoint(request: Request) -> Response:
        return Closing(b"hello")

    end, _ = await observe(endpoint, Channel())
    assert (end.outcome, type(end.error)) == (Outcome.COMPLETED, KeyError)


async def test_observer_first_error_after_the_answer_does_not_replace_it() -> None:
    """Of an error that was answered and one that follows, the first is told."""

    async def endpoint(request: Request) -> Response:
        raise ValueError("answered")

    class Later(Handler):
        def handle_uncaught_exception(self, request: Any, exc: Exception) -> Response:
            return Response(b"", 500, background=background)

    async def background() -> None:
        raise KeyError("later")

    end, _ = await observe(endpoint, Channel(), base=Later)
    assert (end.status, end.outcome, type(end.error)) == (500, Outcome.FAILED, ValueError)


# --- the client leaves -------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["body", "handler", "response"])
async def test_observer_client_that_leaves_is_told(phase: str) -> None:
    """The timings say how far it had come; that it left is no error, and hooks are told as ever."""
    left = []

    class Telling(Handler):
        async def client_left(self, request: Any, phase: Any) -> None:
            left.append(phase)

    server = Channel(body_messages(b"a", b"b")[: 1 if phase == "body" else 2])

    async def leave() -> None:
        server.disconnect()
        await anyio.sleep_forever()

    async def endpoint(request: Request) -> Response:
        if phase == "response":
            return StreamingResponse(stream(b"a", leave))
        server.disconnect()
        return await waits(request)

    if phase == "body":
        server.disconnect()
    end, raised = await observe(endpoint, server, base=Telling)
    assert (end.outcome, end.error, raised) == (Outcome.CLIENT_LEFT, None, None)
    assert (end.request.path, left) == ("/", [phase])
    came_to = {
        "body": ["received", "finished"],
        "handler": ["received", "body_complete", "endpoint_called", "finished"],
        "response": [name for name in ALL if name != "response_ended"],
    }
    assert end.came_to == came_to[phase]
    assert end.status == (200 if phase == "response" else None)


@pytest.mark.parametrize("at", [0, 1])
async def test_observer_send_to_nobody_is_told_client_left(at: int) -> None:
    """An OSError of send() is the same; the response is there, but was not sent."""

    async def on_send(index: int, message: Message) -> None:
        if index == at:
            raise ConnectionResetError

    end, raised = await observe(hello, Channel(on_send=on_send), on_disconnect="notify")
    assert (end.status, end.outcome, end.error, raised) == (200, Outcome.CLIENT_LEFT, None, None)
    assert ("response_started" in end.came_to) == (at == 1)
    assert end.timings.response_ended is None


@turn_time
async def test_observer_server_that_takes_nothing_is_told_client_left() -> None:
    """So is a message that is not taken within the limit."""

    async def on_send(index: int, message: Message) -> None:
        await anyio.sleep_forever()

    end, _ = await observe(hello, Channel(on_send=on_send), limits=Limits(send_timeout_seconds=0.05))
    assert (end.outcome, end.error) == (Outcome.CLIENT_LEFT, None)


@pytest.mark.parametrize("raises", [KeyError("cut short"), ClientDisconnectedError()], ids=["other", "own"])
async def test_observer_error_because_the_client_left_is_told_with_it(raises: Exception) -> None:
    """What an endpoint makes of its cancellation is seen, unless it says no more than the outcome does."""
    server = Channel()

    async def endpoint(request: Request) -> Response:
        server.disconnect()
        try:
            return await waits(request)
        finally:
            raise raises

    end, raised = await observe(endpoint, server)
    assert raised is None
    assert end.outcome is Outcome.CLIENT_LEFT
    assert end.error is (raises if isinstance(raises, KeyError) else None)


# --- closed, cancelled, thrown away ------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["body", "handler", "response", "declared"])
async def test_observer_handler_closed_is_told_closed(phase: str) -> None:
    """aclose() ends a request with a 503, a cut stream or, where a length was declared, an abort."""
    ends, waiting = Ends(), anyio.Event()
    server = Channel(body_messages(b"a", b"b")[: 1 if phase == "body" else 2])

    async def wait() -> None:
        waiting.set()
        await anyio.sleep_forever()

    async def endpoint(request: Request) -> Response:
        if phase == "handler":
            await wait()
        headers = {"content-length": "9"} if phase == "declared" else None
        return StreamingResponse(stream(b"a", wait), headers=headers)

    handler = Handler(endpoint, observe=ends)
    raised: list[Exception] = []

    async def serve() -> None:
        try:
            await handler(http_scope(), server.receive, server.send)
        except Exception as exc:
            raised.append(exc)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(serve)
            if phase == "body":
                while not handler._here.waiting:
                    await checkpoint()
            else:
                await waiting.wait()
            await handler.aclose(grace_seconds=0)
    end = ends.only()
    assert end.outcome is Outcome.CLOSED
    assert end.status == (200 if phase in ("response", "declared") else 503)
    assert (end.timings.response_ended is None) == (phase == "declared")
    assert [type(exc) for exc in raised] == ([ResponseStateError] if phase == "declared" else [])


async def test_observer_request_that_ends_although_closed_is_told_completed() -> None:
    """An endpoint that does not let itself be cancelled is not cut short."""
    ends, waiting, released = Ends(), anyio.Event(), anyio.Event()

    async def endpoint(request: Request) -> Response:
        with anyio.CancelScope(shield=True):
            waiting.set()
            await released.wait()
        return Response()

    handler = Handler(endpoint, observe=ends)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(call, handler)
            await waiting.wait()
            await handler.aclose(grace_seconds=0)
            released.set()
    assert ends.only().outcome is Outcome.COMPLETED


@pytest.mark.parametrize("phase", ["body", "handler", "response", "last"])
async def test_observer_cancelled_from_outside_is_told_cancelled(phase: str) -> None:
    """The cancellation is the error, and goes on as it was."""
    ends = Ends()

    async def cancel() -> None:
        scope.cancel()
        await anyio.sleep_forever()

    async def on_send(index: int, message: Message) -> None:
        if phase == "last" and index == 1:
            await cancel()

    async def on_receive(index: int) -> None:
        if phase == "body":
            await cancel()

    async def endpoint(request: Request) -> Response:
        if phase == "handler":
            await cancel()
        return Response() if phase == "last" else StreamingResponse(stream(b"a", cancel))

    server = Channel(on_receive=on_receive, on_send=on_send)
    with anyio.fail_after(5), anyio.CancelScope() as scope:
        await Handler(endpoint, observe=ends)(http_scope(), server.receive, server.send)
        raise AssertionError("not reached")
    assert scope.cancelled_caught
    end = ends.only()
    assert end.outcome is Outcome.CANCELLED
    assert isinstance(end.error, anyio.get_cancelled_exc_class())
    assert end.timings.response_ended is None


async def test_observer_cancelled_by_the_server_is_told_cancelled() -> None:
    """A native cancellation is the same."""
    if on_trio():
        pytest.skip("trio has no tasks to be cancelled")
    ends, waiting = Ends(), anyio.Event()

    async def endpoint(request: Request) -> Response:
        waiting.set()
        return await waits(request)

    server = Channel()
    task = asyncio.ensure_future(Handler(endpoint, observe=ends)(http_scope(), server.receive, server.send))
    await waiting.wait()
    task.cancel("shutdown")
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (ends.only().outcome, type(ends.only().error)) == (Outcome.CANCELLED, asyncio.CancelledError)


class Around(Observer):
    """Sets a context variable around each request."""

    def __init__(self, value: str = "set", order: list[str] | None = None) -> None:
        self.value = value
        self.order = [] if order is None else order
        self.ends = Ends()

    @contextmanager
    def around(self, scope: Scope) -> Iterator[None]:
        token = variable.set(self.value)
        self.order.append(f"enter {self.value}")
        try:
            yield
        finally:
            self.order.append(f"leave {self.value}")
            variable.reset(token)

    def __call__(
        self, request: Any, response: Any, timings: Timings, outcome: Outcome, error: BaseException | None
    ) -> None:
        self.order.append(f"end {self.value}, {variable.get()}")
        self.ends(request, response, timings, outcome, error)


@types.coroutine
def begun(coro: Any) -> Iterator[None]:
    """Run a coroutine until it waits for something, and leave it there."""
    coro.send(None)
    return
    yield


@on_asyncio
@pytest.mark.parametrize(("phase", "on_disconnect"), [("handler", "notify"), ("handler", "cancel"), ("body", "notify")])
async def test_observer_of_a_request_thrown_away_elsewhere_is_told_in_its_own_context(
    phase: str, on_disconnect: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """What the loop gives up may end in the middle of another request, whose span must not be taken for its own."""
    around = Around()
    server = Channel(() if phase == "body" else (EMPTY,))
    handler = Handler(waits, observe=around, on_disconnect=on_disconnect)
    coro = handler(http_scope(), server.receive, server.send)

    async def begin() -> None:
        await begun(coro)

    await asyncio.get_running_loop().create_task(begin())
    token = variable.set("another request's")
    # A cancel scope of the request cannot be left from here.
    with suppress(RuntimeError):
        coro.close()
    assert around.order == ["enter set", "end set, set", "leave set"]
    assert around.ends.only().outcome is Outcome.CANCELLED
    assert isinstance(around.ends.only().error, (GeneratorExit, RuntimeError))
    assert variable.get() == "another request's"
    variable.reset(token)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@on_asyncio
async def test_observer_of_a_request_thrown_away_may_fail(caplog: pytest.LogCaptureFixture) -> None:
    """An observer that fails then is logged as ever."""

    class Failing(Observer):
        @contextmanager
        def around(self, scope: Scope) -> Iterator[None]:
            yield
            raise KeyError("leaving")

    ends, begun = Ends(), []

    async def endpoint(request: Request) -> Response:
        begun.append(request)
        return await waits(request)

    server = Channel()
    handler = Handler(endpoint, observe=[ends, Failing()])
    with anyio.fail_after(5):
        await dropped_when(handler(http_scope(), server.receive, server.send), lambda: bool(begun))
    assert ends.only().outcome is Outcome.CANCELLED
    assert [record.getMessage() for record in caplog.records] == [
        "the observer test_observer_of_a_request_thrown_away_may_fail.<locals>.Failing failed"
    ]


# --- what is around a request ------------------------------------------------------------------------------


async def test_observer_around_is_seen_by_all_code_of_the_request() -> None:
    """A context variable is set in the endpoint, in iterators and in background work, in threads as on the loop."""
    seen: list[tuple[str, str]] = []

    def note(where: str) -> None:
        seen.append((where, variable.get()))

    async def parts() -> AsyncIterator[bytes]:
        note("async iterator")
        yield b"a"
        await checkpoint()
        note("async iterator")

    def sync_parts() -> Iterator[bytes]:
        note("sync iterator")
        yield b"a"

    async def endpoint(request: Request) -> Response:
        await checkpoint()
        note("async endpoint")
        return StreamingResponse(parts(), background=lambda: note("sync background"))

    async def background() -> None:
        note("async background")

    def synchronous(request: Request) -> Response:
        note("def endpoint")
        return StreamingResponse(sync_parts(), background=background)

    async def mixed(request: Request) -> Response:
        return StreamingResponse(sync_parts())

    for each in (endpoint, synchronous, mixed):
        around = Around()
        await call(Handler(each, observe=around))
        assert around.order == ["enter set", "end set, set", "leave set"]
        assert variable.get() == "unset"
    assert {value for _, value in seen} == {"set"}
    assert {where for where, _ in seen} == {
        *("async iterator", "sync iterator", "async endpoint", "def endpoint"),
        *("sync background", "async background"),
    }


async def test_observers_several_are_nested_and_told_within_all() -> None:
    """The first is outermost, and each end is told before anything is left."""
    order: list[str] = []
    await call(Handler(hello, observe=(Around("a", order), Around("b", order))))
    assert order == ["enter a", "enter b", "end a, b", "end b, b", "leave b", "leave a"]


@pytest.mark.parametrize("fails", [False, True])
async def test_observer_around_is_left_without_an_exception(fails: bool) -> None:
    """What comes after a yield runs, whatever becomes of the request; nothing can be swallowed there."""
    left: list[str] = []

    class Plain(Observer):
        @contextmanager
        def around(self, scope: Scope) -> Iterator[None]:
            yield
            left.append(scope["path"])

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(stream(b"a", *([KeyError("no")] if fails else [])))

    server = Channel()
    handler = Handler(endpoint, observe=Plain())
    if fails:
        with pytest.raises(KeyError):
            await handler(http_scope(), server.receive, server.send)
    else:
        await handler(http_scope(), server.receive, server.send)
    assert left == ["/"]


async def test_observer_around_may_give_nothing() -> None:
    """An observer may leave a request alone."""
    asked = []

    class Choosing(Observer):
        def around(self, scope: Scope) -> None:
            asked.append(scope["path"])

    assert (await call(Handler(hello, observe=Choosing()))).body == b"hello"
    assert asked == ["/"]


async def test_observer_that_reads_an_iterator_of_headers_takes_nothing_away() -> None:
    """Header fields may be any iterable: observer and request both get them."""
    seen: list[Any] = []

    class Reading(Observer):
        @contextmanager
        def around(self, scope: Scope) -> Iterator[None]:
            seen.append(list(scope["headers"]))
            yield

    async def endpoint(request: Request) -> Response:
        return Response(request.headers["x-a"])

    fields = [(b"x-a", b"1")]
    assert (await call(Handler(endpoint, observe=Reading()), headers=iter(fields))).body == b"1"
    assert seen == [fields]


async def test_observer_of_headers_that_are_none_is_told_refused() -> None:
    """What is no list of fields is the engine's to refuse."""
    end, _ = await observe(hello, Channel(), {"headers": 7})
    assert (end.status, end.outcome) == (400, Outcome.REFUSED)


@pytest.mark.parametrize("error", [TypeError, KeyError])
async def test_observer_of_headers_that_fail_changes_no_answer(error: type[Exception]) -> None:
    """An iterator that raises on the way does so for the engine, too, and the end is told."""

    def fields() -> Iterator[tuple[bytes, bytes]]:
        yield b"host", b"x"
        raise error

    plain = await call(Handler(hello), headers=fields())
    end, raised = await observe(hello, Channel(), {"headers": fields()})
    assert (end.timings.status_code, raised) == (plain.status, None)
    assert end.outcome is (Outcome.REFUSED if plain.status == 400 else Outcome.FAILED)


async def test_observer_within_a_request_that_read_the_body_does_not_wait_for_it() -> None:
    """Whoever looks on is not another channel: a second reader is told at once."""

    class Reading(Handler):
        async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
            with pytest.raises(BodyConsumedError):
                await Request(scope, receive, send).body()
            await Response("told")(scope, receive, send)

    ends = Ends()
    handler = Reading(hello, observe=ends)
    channel, scope = Channel(body_messages(b"abc")), http_scope(method="POST")
    with anyio.fail_after(5):
        assert await Request(scope, channel.receive, channel.send).body() == b"abc"
        await handler(scope, channel.receive, channel.send)
    assert channel.body == b"told"
    assert (ends.only().response, ends.only().timings.status_code) == (None, 200)


async def test_observer_error_that_is_no_exception_is_told_failed() -> None:
    """Nobody cancelled anything."""

    class Own(BaseException):
        pass

    async def endpoint(request: Request) -> Response:
        raise Own

    ends = Ends()
    with pytest.raises(Own):
        await Handler(endpoint, observe=ends)(http_scope(), Channel().receive, Channel().send)
    assert ends.only().outcome is Outcome.FAILED
    assert isinstance(ends.only().error, Own)


# --- fields for the response -------------------------------------------------------------------------------


class Adding(Observer):
    """Adds fields to each response."""

    def __init__(self, fields: Any) -> None:
        self.fields = fields
        self.asked: list[tuple[Any, Any, Timings]] = []

    def extra_headers(self, request: Any, response: Any, timings: Timings) -> Any:
        self.asked.append((request, response, timings))
        return self.fields


@pytest.mark.parametrize("kind", ["whole", "stream", "def", "error", "failure", "refused"])
async def test_observer_extra_headers_are_sent_once_on_every_response(kind: str) -> None:
    """Also on the answer to an error, and with the timings so far."""

    async def endpoint(request: Request) -> Response:
        if kind == "error":
            raise HTTPError(404)
        if kind == "failure":
            raise KeyError("no")
        return StreamingResponse(stream(b"a")) if kind == "stream" else Response()

    adding = Adding({"Server-Timing": "all;dur=1.5"})
    handler = Handler((lambda request: Response()) if kind == "def" else endpoint, observe=adding)
    channel = await call(handler, path="/\x00" if kind == "refused" else "/")
    assert channel.headers.count((b"server-timing", b"all;dur=1.5")) == 1
    ((request, response, timings),) = adding.asked
    assert (request.method, response.status_code) == ("GET", channel.status)
    assert timings.response_started is timings.finished is None
    assert (timings.endpoint_seconds is None) == (kind == "refused")


async def test_observer_extra_headers_are_asked_for_when_a_first_answer_could_not_be_started() -> None:
    """What goes out is what they are asked about."""

    async def endpoint(request: Request) -> Response:
        response = Response(b"hello")
        response.headers["content-length"] = "5"
        response._body = b"longer than that"
        return response

    adding = Adding([("x-a", "1"), ("x-a", "2")])
    channel = await call(Handler(endpoint, observe=adding))
    assert channel.status == 500
    assert [value for name, value in channel.headers if name == b"x-a"] == [b"1", b"2"]
    assert [response.status_code for _, response, _ in adding.asked] == [500]


@pytest.mark.parametrize(
    "fields",
    [
        *({"x-a": "1\r\nx-b: 2"}, {"connection": "close"}, {"Content-Length": "3"}),
        *([("x-a",)], {"x-a": 1}, 7),
    ],
    ids=["CR LF", "the server's", "length", "no pairs", "no text", "no fields"],
)
async def test_observer_extra_headers_that_must_not_leave_are_logged(
    fields: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """They are left out, and nothing else changes."""
    plain = await call(Handler(hello))
    channel = await call(Handler(hello, observe=[Adding(fields), Adding({"x-b": "2"})]))
    assert channel.headers == [*plain.headers, (b"x-b", b"2")]
    assert channel.body == b"hello"
    assert [record.getMessage() for record in caplog.records] == ["the observer Adding failed"]


async def test_observer_extra_headers_repeat_only_what_may_be_repeated(caplog: pytest.LogCaptureFixture) -> None:
    """A second type would contradict the first; a second cookie is another one."""

    async def endpoint(request: Request) -> Response:
        response = Response("hello")
        response.set_cookie("a", "1")
        return response

    adding = [Adding({"Content-Type": "x/y"}), Adding({"Set-Cookie": "b=2"})]
    channel = await call(Handler(endpoint, observe=adding))
    names = [name for name, _ in channel.headers]
    assert (names.count(b"content-type"), names.count(b"set-cookie")) == (1, 2)
    assert [record.getMessage() for record in caplog.records] == ["the observer Adding failed"]


async def test_observer_extra_headers_leave_the_response_as_it_is() -> None:
    """A response that is sent to many has no fields of one of them."""
    response = Response(b"hello")

    async def endpoint(request: Request) -> Response:
        return response

    handler = Handler(endpoint, observe=Adding({"x-a": "1"}))
    for _ in range(2):
        assert [name for name, _ in (await call(handler)).headers].count(b"x-a") == 1
    assert "x-a" not in response.headers


# --- observers that fail, and what is none -----------------------------------------------------------------


async def test_observer_that_fails_everywhere_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Each failure is logged with its traceback; the response goes out, and other observers are told."""

    class Failing(Observer):
        def around(self, scope: Scope) -> Any:
            raise KeyError("around")

        def extra_headers(self, request: Any, response: Any, timings: Timings) -> Any:
            raise KeyError("extra_headers")

        def __call__(self, *args: Any) -> None:
            raise KeyError("end")

    class Leaving(Observer):
        @contextmanager
        def around(self, scope: Scope) -> Iterator[None]:
            yield
            raise ValueError("leaving")

    ends = Ends()
    channel = await call(Handler(hello, observe=[Failing(), Leaving(), ends]))
    assert channel.body == b"hello"
    assert ends.only().outcome is Outcome.COMPLETED
    assert [record.levelname for record in caplog.records] == ["ERROR"] * 4
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == [
        *("'around'", "'extra_headers'", "'end'", "leaving"),
    ]


async def test_observer_function_that_fails_is_named_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """The name tells which one it was."""

    def broken(*args: Any) -> None:
        raise KeyError("no")

    await call(Handler(hello, observe=broken))
    assert [record.getMessage().rpartition(".")[2] for record in caplog.records] == ["broken failed"]


async def test_observer_error_of_the_endpoint_is_raised_although_the_observer_fails() -> None:
    """What reaches the server is what would reach it without an observer."""

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(stream(b"a", ValueError("of the stream")))

    def broken(*args: Any) -> None:
        raise KeyError("no")

    server = Channel()
    with pytest.raises(ValueError, match="of the stream"):
        await Handler(endpoint, observe=broken)(http_scope(), server.receive, server.send)


async def observing_late(*args: Any) -> None:
    """No observer."""


class Late(Observer):
    """No observer either."""

    async def __call__(self, *args: Any) -> None:
        """Nobody would wait for it."""


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (7, "not iterable"),
        ([7], "not 7"),
        (Around, "an instance of Observer"),
        (observing_late, "asynchronous"),
        ([Late()], "asynchronous"),
    ],
    ids=["number", "list of numbers", "class", "async function", "async call"],
)
async def test_observer_that_is_none_is_refused_at_once(given: Any, says: str) -> None:
    """When the handler is made, not when a request comes."""
    with pytest.raises(TypeError, match=says):
        Handler(hello, observe=given)


async def test_observer_base_class_does_nothing() -> None:
    """Each method can be left out."""
    observer = Observer()
    assert observer.around({}) is None
    assert observer.extra_headers(None, None, Timings(received=0.0)) is None
    assert observer(None, None, Timings(received=0.0), Outcome.COMPLETED, None) is None
    assert (await call(Handler(hello, observe=observer))).body == b"hello"


# --- handlers of several kinds -----------------------------------------------------------------------------


@pytest.mark.parametrize("none", [(), []])
async def test_handler_without_observers_knows_nothing_of_them(none: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """No clock is looked at, nothing wrapped and no object of an observer's made."""

    def never(*args: Any, **options: Any) -> Any:
        raise AssertionError("not for this handler")

    for name in ("monotonic", "copy_context", "tap_receive", "tap_send", "Observers", "_Observation", "Timings"):
        monkeypatch.setattr(_observe, name, never)
    handler = Handler(hello, observe=none)
    assert (await call(handler)).body == b"hello"
    assert "handle" not in vars(handler)
    assert handler._new_exchange.__name__ == "Exchange"


async def test_observer_of_a_handler_with_its_own_handle_sees_through_it() -> None:
    """Whatever a subclass puts around the engine, the observer is around that, once."""

    class Moved(Handler):
        async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
            async def late(message: Any) -> None:
                await checkpoint()
                await send(message)

            await super().handle({**scope, "path": "/moved"}, receive, late)

    end, _ = await observe(hello, Channel(), base=Moved)
    assert (end.request.path, end.status, end.outcome, end.came_to) == ("/moved", 200, Outcome.COMPLETED, ALL)


@pytest.mark.parametrize("answers", [True, False])
async def test_observer_of_a_handle_that_leaves_the_engine_out_is_told_what_was_sent(answers: bool) -> None:
    """There is no response that it could be given, and the request is that of the scope."""

    class Bare(Handler):
        async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
            if answers:
                await send({"type": "http.response.start", "status": 204})
                await send({"type": "http.response.body"})

    ends = Ends()
    adding = Adding({"x-a": "1"})
    channel = Channel()
    await Bare(hello, observe=[ends, adding])(http_scope(path="/bare"), channel.receive, channel.send)
    end = ends.only()
    assert (end.request.path, end.response) == ("/bare", None)
    assert end.outcome is (Outcome.COMPLETED if answers else Outcome.FAILED)
    assert [message.get("headers") for message in channel.sent] == ([[(b"x-a", b"1")], None] if answers else [])


async def test_observers_of_handlers_within_each_other_are_told_of_their_own() -> None:
    """An endpoint may hand the request to another handler, observed or not."""
    inner_ends, outer_ends = Ends(), Ends()

    async def missing(request: Request) -> Response:
        raise HTTPError(404)

    inner = Handler(missing, observe=inner_ends)
    plain = Handler(missing)

    async def endpoint(request: Request) -> Response:
        for handler in (inner, plain):
            assert (await call(handler, path="/inner")).status == 404
        # As the class has it, past the observers.
        channel = Channel()
        await Handler.handle(inner, http_scope(), channel.receive, channel.send)
        assert channel.status == 404
        return Response()

    await call(Handler(endpoint, observe=outer_ends))
    assert (inner_ends.only().request.path, inner_ends.only().status) == ("/inner", 404)
    assert (outer_ends.only().status, outer_ends.only().error) == (200, None)
    assert outer_ends.only().came_to == ALL


@pytest.mark.parametrize("kind", ["lifespan", "websocket"])
async def test_observer_of_other_scopes_is_not_told(kind: str) -> None:
    """Observers are about HTTP requests."""
    ends = Ends()
    messages = (
        [{"type": "websocket.connect"}]
        if kind == "websocket"
        else [
            {"type": "lifespan.startup"},
            {"type": "lifespan.shutdown"},
        ]
    )

    server = Channel(messages)
    with anyio.fail_after(5):
        await Handler(hello, observe=ends)({"type": kind}, server.receive, server.send)
    assert ends == []


async def test_observer_of_a_wsgi_application_is_told() -> None:
    """The bridge passes its observers on, and the application's thread sees what is around the request."""
    seen = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.append(variable.get())
        if environ["PATH_INFO"] == "/fails":
            raise KeyError("no")
        start_response("201 Created", [])
        return [b"made"]

    around = Around()
    handler = WSGIHandler(app, observe=around)
    assert (await call(handler)).status == 201
    assert (await call(handler, path="/fails")).status == 500
    assert seen == ["set", "set"]
    assert [(end.status, end.outcome, type(end.error)) for end in around.ends] == [
        (201, Outcome.COMPLETED, type(None)),
        (500, Outcome.FAILED, KeyError),
    ]
    await handler.threads.aclose()


@pytest.mark.parametrize("fails", [False, True])
async def test_observed_request_leaves_no_cycle(fails: bool) -> None:
    """Nothing of it is left to the garbage collector; of one that fails, nothing of the observer's."""

    async def endpoint(request: Request) -> Response:
        if fails:
            raise HTTPError(404)
        return Response()

    def look(*args: Any) -> None:
        pass

    class Looking(Observer):
        @contextmanager
        def around(self, scope: Scope) -> Iterator[None]:
            yield

    handler = Handler(endpoint, observe=[look, Looking()])
    async with LeakGuard(cycles=["asgicore._observe", "asgicore._exchange"]):
        await call(handler)


async def test_observer_client_gone_before_the_handler_is_asked_is_told() -> None:
    """A disconnect as the first message is the client's leaving in the body."""
    end, _ = await observe(hello, Channel([DISCONNECT]))
    assert (end.response, end.outcome, end.came_to) == (None, Outcome.CLIENT_LEFT, ["received", "finished"])


def test_note_error_without_a_request_does_nothing() -> None:
    """Bridges tell of errors wherever they see them."""
    _exchange.note_error(KeyError("no"), Request({}, Body(Channel().receive)))
    _exchange.note_error(None, None)
