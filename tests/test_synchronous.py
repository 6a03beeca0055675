"""Synchronous endpoints, iterators and background work, as a handler runs them."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import logging
import threading
import types
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.to_thread
import pytest
from anyio.lowlevel import checkpoint
from faults import on_asyncio

from asgicore import (
    BodyConsumedError,
    Handler,
    HTTPError,
    Limits,
    MalformedBodyError,
    Request,
    Response,
    ResponseStateError,
    StreamingResponse,
    Threads,
)
from asgicore._pump import Pump
from asgicore._writer import Writer
from asgicore.testing import EMPTY, Channel, Client, Message, body_messages, call, http_scope, lint
from asgicore.testing._living import descriptors as open_files

SECONDS = 5
SMALL = Limits(spool_threshold_bytes=10)
BODY = b'{"name": "x", "more": "' + b"y" * 3_000_000 + b'"}'


def hello(request: Request) -> Response:
    return Response(f"hello {request.path}")


class Endpoint:
    def __call__(self, request: Request) -> Response:
        return Response("hello /")

    def method(self, request: Request) -> Response:
        return Response("hello /")


async def later(request: Request) -> Response:
    await checkpoint()
    return hello(request)


# --- endpoints -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "endpoint",
    [hello, functools.partial(hello), Endpoint(), Endpoint().method, lambda request: later(request)],
    ids=["function", "partial", "object", "method", "gives an awaitable"],
)
async def test_endpoint_synchronous_of_any_kind_serves(endpoint: Any) -> None:
    """Whatever can be called serves; what it gives is awaited if it has to be."""
    channel = await call(Handler(endpoint))
    assert channel.status == 200
    assert channel.body == b"hello /"


async def test_endpoint_synchronous_runs_in_a_worker_thread() -> None:
    """The thread of the loop is never held, and a thread that has ended its work is used again."""
    seen: list[threading.Thread] = []

    def endpoint(request: Request) -> Response:
        seen.append(threading.current_thread())
        return Response()

    handler = Handler(endpoint)
    for _ in range(5):
        await call(handler)
    assert threading.current_thread() not in seen
    assert len(set(seen)) == 1
    assert handler.threads.alive == 1
    assert handler.threads.in_use == 0
    assert await handler.threads.aclose()


@pytest.mark.parametrize("limits", [Limits(), SMALL], ids=["memory", "disk"])
async def test_endpoint_synchronous_reads_the_body(limits: Limits) -> None:
    """Every accessor can be used any number of times, in any order, wherever the body is kept."""
    seen: list[object] = []

    def endpoint(request: Request) -> Response:
        seen.append(request.json_nowait()["name"])
        for _ in range(2):
            assert b"".join(request.stream_nowait()) == BODY
            assert request.file_nowait().read() == BODY
            assert request.body_nowait() == BODY
        assert request.file_nowait().read(5) == BODY[:5]
        assert request.json_nowait(loads=len) == len(BODY)
        return Response(str(len(request.body_nowait())))

    channel = await call(
        Handler(endpoint, limits=limits), body_messages(*(BODY[i : i + 65536] for i in range(0, len(BODY), 65536)))
    )
    assert channel.body == str(len(BODY)).encode()
    assert seen == ["x"]


async def test_endpoint_synchronous_without_a_body_reads_none() -> None:
    """No body is an empty one."""

    def endpoint(request: Request) -> Response:
        assert request.body_nowait() == b""
        assert list(request.stream_nowait()) == []
        assert request.file_nowait().read() == b""
        with pytest.raises(MalformedBodyError):
            request.json_nowait()
        return Response("seen")

    assert (await call(Handler(endpoint))).body == b"seen"


@pytest.mark.parametrize("use", ["body_nowait", "stream_nowait", "file_nowait", "json_nowait"])
async def test_nowait_accessor_of_a_body_that_is_not_here_raises(use: str) -> None:
    """In stream mode the body is to be awaited, which the error says."""

    async def endpoint(request: Request) -> Response:
        with pytest.raises(BodyConsumedError, match=r"await body\(\)"):
            getattr(request, use)()
        return Response(await request.body())

    assert (await call(Handler(endpoint, body="stream"), body_messages(b"abc"))).body == b"abc"


@pytest.mark.parametrize("use", ["body_nowait", "stream_nowait", "file_nowait"])
async def test_nowait_accessor_after_the_request_raises(use: str) -> None:
    """The file is closed with the request."""
    kept: list[Request] = []

    def endpoint(request: Request) -> Response:
        kept.append(request)
        request.file_nowait()
        return Response()

    await call(Handler(endpoint))
    with pytest.raises(BodyConsumedError, match="the request is over"):
        getattr(kept[0], use)()


def test_endpoint_synchronous_in_stream_mode_is_refused() -> None:
    """It runs when its body is here; at construction, with the remedy."""
    with pytest.raises(ValueError, match="leave out body='stream'"):
        Handler(hello, body="stream")


async def test_endpoint_synchronous_with_a_slow_upload_holds_no_thread() -> None:
    """The thread is asked for when the whole body is here."""
    handler = Handler(hello)
    arrive = anyio.Event()

    async def on_receive(index: int) -> None:
        if index == 1:
            assert handler.threads.alive == handler.threads.in_use == 0
            await arrive.wait()

    channel = Channel(body_messages(b"a", b"b"), on_receive=on_receive)
    with anyio.fail_after(SECONDS):
        async with anyio.create_task_group() as group:
            group.start_soon(handler, http_scope(method="POST"), channel.receive, channel.send)
            await checkpoint()
            arrive.set()
    assert channel.body == b"hello /"


async def test_endpoint_synchronous_sees_and_sets_context_variables() -> None:
    """What the caller has set is seen in the thread, and what the endpoint sets is seen by the response."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")

    def endpoint(request: Request) -> Response:
        seen = variable.get()
        variable.set("by the endpoint")

        async def parts() -> AsyncIterator[str]:
            yield f"{seen}, {variable.get()}"

        return StreamingResponse(parts())

    variable.set("by the server")
    assert (await call(Handler(endpoint))).body == b"by the server, by the endpoint"


@pytest.mark.parametrize("error", [ValueError("no"), StopIteration(5), StopAsyncIteration(), KeyError("x")])
async def test_endpoint_synchronous_that_raises_is_a_500(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """Logged once with its traceback, as an asynchronous one's."""

    def endpoint(request: Request) -> Response:
        raise error

    channel = await call(Handler(endpoint))
    assert channel.status == 500
    (record,) = caplog.records
    assert record.exc_info is not None
    logged = record.exc_info[1]
    assert error in (logged, logged.__cause__ if logged else None)


async def test_endpoint_synchronous_raising_an_http_error_answers_it() -> None:
    """As an asynchronous one's."""

    def endpoint(request: Request) -> Response:
        raise HTTPError(418, "short and stout", {"x-pot": "tea"})

    channel = await call(Handler(endpoint))
    assert (channel.status, channel.body) == (418, b"short and stout")
    assert (b"x-pot", b"tea") in channel.headers


async def test_endpoint_synchronous_returning_anything_else_is_a_500(caplog: pytest.LogCaptureFixture) -> None:
    """The log says what was returned."""
    endpoint: Any = lambda request: "text"  # noqa: E731 - what is tested is a function that is no coroutine function
    assert (await call(Handler(endpoint))).status == 500
    assert "must return a Response" in str(caplog.records[0].exc_info)


@pytest.mark.parametrize("on_disconnect", ["cancel", "notify"])
async def test_endpoint_synchronous_learns_that_the_client_left(
    on_disconnect: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """It can look at any time; the slot is held until the thread has ended, and what it returned is closed."""
    caplog.set_level(logging.INFO)
    server = Channel()
    begun, closed = threading.Event(), []

    def parts() -> Iterator[bytes]:
        yield b"never"

    class Closing(StreamingResponse):
        async def aclose(self) -> None:
            closed.append(handler.threads.in_use)
            await super().aclose()

    def endpoint(request: Request) -> Response:
        begun.set()
        deadline = threading.Event()
        for _ in range(1000):
            if request.is_disconnected:
                return Closing(parts())
            deadline.wait(0.005)
        raise AssertionError("the endpoint was never told")

    handler = Handler(endpoint, on_disconnect=on_disconnect)

    async def leave() -> None:
        await anyio.to_thread.run_sync(begun.wait)
        assert handler.threads.in_use == 1
        server.disconnect()

    with anyio.fail_after(SECONDS):
        async with anyio.create_task_group() as group:
            group.start_soon(leave)
            await handler(http_scope(), server.receive, server.send)
    assert handler.threads.in_use == 0
    assert closed == [0]
    if on_disconnect == "cancel":
        assert server.sent == []
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("ends", ["raises", "returns"])
async def test_endpoint_synchronous_whose_client_left_may_fail_quietly(
    ends: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody is there to get the answer, and nothing is logged as an error."""
    server = Channel()
    begun = threading.Event()

    def endpoint(request: Request) -> Any:
        begun.set()
        pause = threading.Event()
        while not request.is_disconnected:
            pause.wait(0.005)
        if ends == "raises":
            raise LookupError("gone")
        return "no response"

    async def leave() -> None:
        await anyio.to_thread.run_sync(begun.wait)
        server.disconnect()

    with anyio.fail_after(SECONDS):
        async with anyio.create_task_group() as group:
            group.start_soon(leave)
            await Handler(endpoint)(http_scope(), server.receive, server.send)
    assert server.sent == []
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_endpoint_synchronous_whose_lost_response_fails_to_close_is_quiet(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What goes wrong with a response that nobody saw is told, and is no error."""
    caplog.set_level(logging.INFO)
    server = Channel()
    begun = threading.Event()

    class Failing(Response):
        async def aclose(self) -> None:
            raise LookupError("not closed")

    def endpoint(request: Request) -> Response:
        begun.set()
        pause = threading.Event()
        while not request.is_disconnected:
            pause.wait(0.005)
        return Failing()

    async def leave() -> None:
        await anyio.to_thread.run_sync(begun.wait)
        server.disconnect()

    with anyio.fail_after(SECONDS):
        async with anyio.create_task_group() as group:
            group.start_soon(leave)
            await Handler(endpoint)(http_scope(), server.receive, server.send)
    assert server.sent == []
    assert "closing a response" in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_endpoints_beyond_the_queue_get_a_503() -> None:
    """At once, with retry-after, while those that have a place are served in order."""
    release = threading.Event()

    def endpoint(request: Request) -> Response:
        assert release.wait(SECONDS)
        return Response("served")

    threads = Threads(2, max_waiting=3)
    handler = Handler(endpoint, threads=threads)
    channels = [Channel() for _ in range(9)]
    with anyio.fail_after(SECONDS):
        async with anyio.create_task_group() as group:
            for channel in channels:
                group.start_soon(handler, http_scope(), channel.receive, channel.send)
            while sum(bool(channel.sent) for channel in channels) < 4:
                await checkpoint()
            assert (threads.in_use, threads.waiting) == (2, 3)
            release.set()
    assert sorted(channel.status for channel in channels) == [200] * 5 + [503] * 4
    refused = next(channel for channel in channels if channel.status == 503)
    assert (b"retry-after", b"1") in refused.headers
    assert (threads.in_use, threads.waiting) == (0, 0)
    assert await threads.aclose()


async def test_endpoints_that_wait_do_not_keep_others() -> None:
    """With every thread in use, asynchronous endpoints, uploads to disk and files are served."""
    release = threading.Event()

    def blocked(request: Request) -> Response:
        assert release.wait(SECONDS)
        return Response("at last")

    async def upload(request: Request) -> Response:
        file = await request.file()
        return Response(str(len(file.read())))

    threads = Threads(2)
    handler, other = Handler(blocked, threads=threads), Handler(upload, limits=SMALL, threads=threads)
    channels = [Channel() for _ in range(4)]
    with anyio.fail_after(SECONDS):
        async with anyio.create_task_group() as group:
            for channel in channels:
                group.start_soon(handler, http_scope(), channel.receive, channel.send)
            while threads.in_use < 2:
                await checkpoint()
            assert (await call(other, body_messages(b"x" * 20, b"y" * 20))).body == b"40"
            release.set()
    assert [channel.body for channel in channels] == [b"at last"] * 4
    assert await threads.aclose()


async def test_endpoint_synchronous_in_an_executor_of_ones_own() -> None:
    """The strategy is the framework's to bring."""
    with ThreadPoolExecutor(1, thread_name_prefix="mine") as executor:

        def endpoint(request: Request) -> Response:
            return Response(threading.current_thread().name)

        handler = Handler(endpoint, threads=Threads(executor=executor))
        assert (await call(handler)).body == b"mine_0"
        assert handler.threads.alive == 0


# --- background ------------------------------------------------------------------------------------------


async def test_background_synchronous_runs_in_a_thread_after_the_response(caplog: pytest.LogCaptureFixture) -> None:
    """After the last byte; its error is logged."""
    channel = Channel()
    seen: list[Any] = []

    def work() -> None:
        seen.append((len(channel.sent), threading.current_thread() is not threading.main_thread()))
        raise ValueError("in the background")

    async def endpoint(request: Request) -> Response:
        return Response("x", background=work)

    with anyio.fail_after(SECONDS):
        await Handler(endpoint)(http_scope(), channel.receive, channel.send)
    assert seen == [(2, True)]
    assert "background work" in caplog.text


# --- iterators -------------------------------------------------------------------------------------------


class Parts:
    """An iterator that remembers its threads and how often it was closed."""

    def __init__(self, *parts: Any, fails: BaseException | None = None, wait: threading.Event | None = None) -> None:
        self.parts = iter(parts)
        self.fails = fails
        self.wait = wait
        self.given = self.closed = 0
        self.threads: set[int] = set()

    def __iter__(self) -> Parts:
        return self

    def __next__(self) -> Any:
        self.threads.add(threading.get_ident())
        for part in self.parts:
            self.given += 1
            return part
        if self.wait is not None:
            assert self.wait.wait(SECONDS)
        if self.fails is not None:
            raise self.fails
        raise StopIteration

    def close(self) -> None:
        self.threads.add(threading.get_ident())
        self.closed += 1


def streaming(parts: Any, **more: Any) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        return StreamingResponse(parts, **more)

    return endpoint


async def test_iterator_synchronous_streams_from_one_thread() -> None:
    """Part by part, in order, empty ones left out, and closed once where it ran."""
    parts = Parts(b"a", "ä", b"", bytearray(b"c"), b"x" * 100_000)
    channel = await call(Handler(streaming(parts)))
    assert channel.body == b"a" + "ä".encode() + b"c" + b"x" * 100_000
    assert [len(message["body"]) for message in channel.sent[1:]] == [1, 2, 1, 65536, 34464, 0]
    assert parts.closed == 1
    assert len(parts.threads) == 1
    assert threading.get_ident() not in parts.threads


async def test_iterator_synchronous_from_a_synchronous_endpoint_streams() -> None:
    """Both in threads, one after the other."""

    def endpoint(request: Request) -> Response:
        return StreamingResponse(str(number) for number in range(1000))

    assert (await call(Handler(endpoint))).body == "".join(map(str, range(1000))).encode()


async def test_iterator_synchronous_part_goes_out_before_the_next_one_is_there() -> None:
    """Nothing is held back for what may take long."""
    release, server = threading.Event(), Channel()
    parts = Parts(b"first", wait=release)

    with anyio.fail_after(SECONDS):
        async with anyio.create_task_group() as group:
            group.start_soon(Handler(streaming(parts)), http_scope(), server.receive, server.send)
            while len(server.sent) < 2:
                await checkpoint()
            assert server.sent[1]["body"] == b"first"
            release.set()
    assert parts.closed == 1


async def test_iterator_synchronous_that_raises_aborts(caplog: pytest.LogCaptureFixture) -> None:
    """The parts before the error are sent, no final message is, and the server gets the error itself."""
    error = LookupError("in the middle")
    parts = Parts(b"a", b"b", fails=error)
    channel = Channel()
    with anyio.fail_after(SECONDS), pytest.raises(LookupError) as raised:
        await Handler(streaming(parts))(http_scope(), channel.receive, channel.send)
    assert raised.value is error
    assert channel.body == b"ab"
    assert channel.sent[-1]["more_body"] is True
    assert parts.closed == 1


@pytest.mark.parametrize("part", [5, None, ["a"]])
async def test_iterator_synchronous_of_other_parts_aborts(part: Any) -> None:
    """A part is bytes or str."""
    parts = Parts(part)
    channel = Channel()
    with anyio.fail_after(SECONDS), pytest.raises(TypeError, match=r"parts of bytes or str"):
        await Handler(streaming(parts))(http_scope(), channel.receive, channel.send)
    assert parts.closed == 1


@pytest.mark.parametrize(
    ("scope", "status"), [({"method": "HEAD"}, 200), ({}, 204), ({}, 304)], ids=["HEAD", "204", "304"]
)
async def test_iterator_synchronous_is_closed_unread_where_no_body_may_be(scope: Any, status: int) -> None:
    """Not one part is asked for."""
    parts = Parts(b"a")
    channel = await call(Handler(streaming(parts, status_code=status)), **scope)
    assert channel.body == b""
    assert (parts.given, parts.closed) == (0, 1)
    assert threading.get_ident() not in parts.threads


async def test_iterator_synchronous_of_a_response_that_is_replaced_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    """A response that is not sent is let go of in a thread, too."""
    parts = Parts(b"a")

    class Refusing(Handler):
        async def response_ready(self, request: Any, response: Response) -> None:
            raise HTTPError(403)

    assert (await call(Refusing(streaming(parts)))).status == 403
    assert (parts.given, parts.closed) == (0, 1)
    assert threading.get_ident() not in parts.threads


@pytest.mark.parametrize("how", ["event", "send"])
async def test_iterator_synchronous_stops_when_the_client_leaves(how: str, caplog: pytest.LogCaptureFixture) -> None:
    """Within one part, closed in its thread, and nothing at warning level is logged."""

    def count() -> Iterator[bytes]:
        number = 0
        try:
            while True:
                number += 1
                yield b"x" * 65536
        finally:
            produced.append((number, threading.get_ident()))

    produced: list[tuple[int, int]] = []

    async def on_send(index: int, message: Message) -> None:
        if index == 4:
            if how == "send":
                raise ConnectionResetError
            channel.disconnect()
            await anyio.sleep_forever()

    channel = Channel(on_send=on_send)
    handler = Handler(streaming(count()), body="stream")
    with anyio.fail_after(SECONDS):
        await handler(http_scope(), channel.receive, channel.send)
    ((number, thread),) = produced
    assert number <= 5 + 13  # what was sent, twelve messages ahead, and one more
    assert thread != threading.get_ident()
    assert handler.threads.in_use == 0
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_iterator_synchronous_declared_length_is_held() -> None:
    """More than declared is cut and an error, as for asynchronous ones."""
    parts = Parts(b"abc", b"def")
    channel = Channel()
    with anyio.fail_after(SECONDS), pytest.raises(Exception, match="content-length"):
        await Handler(streaming(parts, headers={"content-length": "4"}))(http_scope(), channel.receive, channel.send)
    assert channel.body == b"abc"
    assert parts.closed == 1


async def test_iterator_synchronous_beyond_the_queue_is_a_503() -> None:
    """Nothing was sent yet when the thread is asked for, so the client learns when to come again."""
    release = threading.Event()
    threads = Threads(1, max_waiting=0)
    first, second = Parts(b"a", wait=release), Parts(b"b")
    server = Channel()
    with anyio.fail_after(SECONDS):
        async with anyio.create_task_group() as group:
            group.start_soon(Handler(streaming(first), threads=threads), http_scope(), server.receive, server.send)
            while len(server.sent) < 2:
                await checkpoint()
            refused = Channel()

            async def ask() -> None:
                await Handler(streaming(second), threads=threads)(http_scope(), refused.receive, refused.send)

            group.start_soon(ask)
            while not refused.sent:
                await checkpoint()
            release.set()
    assert refused.status == 503
    assert second.closed == 1
    assert await threads.aclose()


# --- the end ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_lifespan", [False, True])
async def test_threads_of_a_handler_end_with_its_lifespan(has_lifespan: bool) -> None:
    """Those of its own do, after the application's part; a second lifespan gets new ones."""
    order: list[int] = []

    @asynccontextmanager
    async def life() -> AsyncIterator[None]:
        yield
        order.append(handler.threads.alive)

    handler = Handler(hello, lifespan=life if has_lifespan else None)
    for _ in range(2):
        threads = handler.threads
        async with Client(lint(handler)) as client:
            assert (await client.get("/")).status_code == 200
        assert threads is not handler.threads
        assert threads.in_use == 0
    assert order == ([1, 1] if has_lifespan else [])


async def test_threads_that_a_handler_was_given_outlive_its_lifespan() -> None:
    """They are their owner's to close."""
    threads = Threads()
    handler = Handler(hello, threads=threads)
    async with Client(handler) as client:
        assert (await client.get("/")).status_code == 200
    assert handler.threads is threads
    assert (await call(handler)).status == 200
    assert await threads.aclose()


# --- what the event loop gives up ------------------------------------------------------------------------


@on_asyncio
@pytest.mark.parametrize("on_disconnect", ["cancel", "notify"])
async def test_iterator_synchronous_of_a_request_that_is_thrown_away_is_stopped(on_disconnect: Any) -> None:
    """No thread stays behind that waits for somebody to take its parts."""
    threads = Threads(1)
    closed = threading.Event()

    def parts() -> Iterator[bytes]:
        try:
            while True:
                yield b"x" * 65536
        finally:
            closed.set()

    async def on_send(index: int, message: Message) -> None:
        if message["type"] == "http.response.body":
            waits.set()
            await anyio.sleep_forever()

    waits = anyio.Event()
    channel = Channel(on_send=on_send)
    handler = Handler(streaming(parts()), threads=threads, on_disconnect=on_disconnect)
    coro = handler(http_scope(), channel.receive, channel.send)

    @types.coroutine
    def forward() -> Generator[Any, Any, None]:
        # Carries the request on until it waits in send(), then throws it away.
        yielded = coro.send(None)
        while not waits.is_set():
            yielded = coro.send((yield yielded))
        coro.close()

    with anyio.fail_after(SECONDS):
        with contextlib.suppress(RuntimeError):  # a scope that is left from outside of its task says so
            await forward()
        await anyio.to_thread.run_sync(closed.wait, SECONDS)
    assert closed.is_set()
    assert await threads.aclose()


@on_asyncio
async def test_endpoint_synchronous_of_a_request_that_is_thrown_away_ends_by_itself() -> None:
    """Its thread is let go on; nobody waits for it, and nothing fails."""
    threads = Threads(1)
    release, begun = threading.Event(), threading.Event()

    def endpoint(request: Request) -> Response:
        begun.set()
        assert release.wait(SECONDS)
        return Response()

    coro: Any = Handler(endpoint, threads=threads, on_disconnect="notify")(
        http_scope(), Channel().receive, Channel().send
    )
    coro.send(None)
    await anyio.to_thread.run_sync(begun.wait, SECONDS)
    coro.close()
    release.set()
    assert await threads.aclose()


async def test_endpoint_synchronous_cancelled_before_it_has_a_thread_never_runs() -> None:
    """Its place in the queue is free at once."""
    release, ran = threading.Event(), []
    threads = Threads(1)

    def blocks(request: Request) -> Response:
        assert release.wait(SECONDS)
        return Response()

    def never(request: Request) -> Response:
        ran.append(True)
        return Response()

    first, second = Channel(), Channel()
    with anyio.fail_after(SECONDS):
        async with anyio.create_task_group() as group:
            group.start_soon(Handler(blocks, threads=threads), http_scope(), first.receive, first.send)
            while not threads.in_use:
                await checkpoint()
            group.start_soon(Handler(never, threads=threads), http_scope(), second.receive, second.send)
            while not threads.waiting:
                await checkpoint()
            second.disconnect()
            while threads.waiting:
                await checkpoint()
            release.set()
    assert ran == []
    assert second.sent == []
    assert await threads.aclose()


# --- files that the server reads -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scope", "status", "expected"),
    [
        ({}, 200, ["http.response.start", "http.response.pathsend"]),
        ({"method": "HEAD"}, 200, ["http.response.start", "http.response.body"]),
        ({}, 304, ["http.response.start", "http.response.body"]),
    ],
)
async def test_response_with_a_path_is_left_to_a_server_that_sends_paths(
    scope: Any, status: int, expected: list[str]
) -> None:
    """Where it is offered and a body is wanted; the content is closed unread."""
    parts = Parts(b"never")

    async def endpoint(request: Request) -> Response:
        response = StreamingResponse(parts, status)
        response.path = "/a/file"
        return response

    channel = await call(Handler(endpoint), extensions={"http.response.pathsend": {}}, **scope)
    assert [message["type"] for message in channel.sent] == expected
    assert (parts.given, parts.closed) == (0, 1)
    if expected[1].endswith("pathsend"):
        assert channel.sent[1] == {"type": "http.response.pathsend", "path": "/a/file"}


async def test_response_with_a_path_is_streamed_where_no_path_is_sent() -> None:
    """A server that does not offer it gets the content."""

    async def endpoint(request: Request) -> Response:
        response = StreamingResponse(Parts(b"content"))
        response.path = "/a/file"
        return response

    assert (await call(Handler(endpoint))).body == b"content"


async def test_send_path_after_a_start_is_refused_and_a_refused_body_closes_the_connection() -> None:
    """The writer checks the order, and says what becomes of the connection, as for every response."""
    channel = Channel()
    writer = Writer(channel.send)
    writer.closes_connection = True
    await writer.send_path(200, [], "/a/file")
    assert channel.sent[0]["headers"] == [(b"connection", b"close")]
    with pytest.raises(ResponseStateError):
        await writer.send_path(200, [], "/a/file")


# --- the pieces ------------------------------------------------------------------------------------------


async def test_pump_started_twice_runs_once() -> None:
    """``start()`` is for whoever wants to know at once that there is no room."""
    threads = Threads(1)
    ran: list[bool] = []
    pump: Pump[None] = Pump(threads, lambda put: ran.append(put.is_closed))
    pump.start_thread()
    pump.start_thread()
    assert [part async for part in pump] == []
    await pump.aclose()
    assert ran == [False]
    assert await threads.aclose()


@on_asyncio
@pytest.mark.parametrize("what", ["stream", "upload"])
async def test_request_that_is_thrown_away_leaves_nothing(what: str) -> None:
    """An asynchronous stream, and an upload on its way to the disk."""
    waits = anyio.Event()

    async def parts() -> AsyncIterator[bytes]:
        yield b"x"

    async def on_send(index: int, message: Message) -> None:
        waits.set()
        await anyio.sleep_forever()

    async def on_receive(index: int) -> None:
        if what == "upload" and index == 40:
            waits.set()
            await anyio.sleep_forever()

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(parts())

    messages = body_messages(*[b"x" * 65536] * 40, b"end") if what == "upload" else [EMPTY]
    channel = Channel(messages, on_receive=on_receive, on_send=on_send)
    coro = Handler(endpoint, limits=SMALL)(http_scope(), channel.receive, channel.send)

    @types.coroutine
    def forward() -> Generator[Any, Any, None]:
        yielded = coro.send(None)
        while not waits.is_set():
            yielded = coro.send((yield yielded))
        coro.close()

    files = open_files()
    with anyio.fail_after(SECONDS):
        with contextlib.suppress(RuntimeError):
            await forward()
        while open_files() != files:  # a thread may still be at the file
            await anyio.sleep(0.001)


async def test_synchronous_parts_of_a_request_may_take_back_what_another_one_set() -> None:
    """Endpoint, iterator and background work of one request: a token of one is good in the next."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="default")
    variable.set("of the server")
    tokens: list[contextvars.Token[str]] = []
    seen: list[str] = []

    def parts() -> Iterator[str]:
        yield variable.get()
        variable.reset(tokens.pop())
        tokens.append(variable.set("of the iterator"))

    def background() -> None:
        seen.append(variable.get())
        variable.reset(tokens.pop())
        seen.append(variable.get())

    def endpoint(request: Request) -> Response:
        tokens.append(variable.set("of the endpoint"))
        return StreamingResponse(parts(), background=background)

    channel = await call(Handler(endpoint))
    assert channel.body == b"of the endpoint"
    assert seen == ["of the iterator", "of the server"]
