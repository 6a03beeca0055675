"""What a request leaves behind: no reference cycle, file descriptor, thread or task."""

from __future__ import annotations

import gc
import random
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from faults import frees_at_once, on_asyncio, on_trio, turn

from asgicore import (
    EventSourceResponse,
    Handler,
    HTTPError,
    JSONResponse,
    Limits,
    Request,
    Response,
    StreamingResponse,
    Threads,
)
from asgicore._spool import _files
from asgicore.testing import DISCONNECT, EMPTY, Channel, Message, body_messages, check_messages, http_scope
from asgicore.testing._living import descriptors as open_files
from asgicore.testing._living import tasks as living_tasks
from asgicore.wsgi_bridge import WSGIHandler

pytestmark = pytest.mark.untraced


@pytest.fixture(autouse=True)
def _no_collector() -> Iterator[None]:
    """What is garbage stays until it is counted; what is there already is left out of the count."""
    gc.disable()
    gc.collect()
    gc.freeze()  # for good: what is thawed would be gone through by each of the collections to come
    yield
    gc.enable()


async def hello(request: Request) -> Response:
    return Response(b"hello")


async def waits(request: Request) -> Response:
    await checkpoint()
    return Response(b"hello")


async def json(request: Request) -> Response:
    return JSONResponse({"got": (await request.json())["name"]})


async def streams(request: Request) -> Response:
    async def parts() -> AsyncIterator[bytes]:
        for number in range(3):
            yield b"%d" % number
            await checkpoint()

    return StreamingResponse(parts())


async def events(request: Request) -> Response:
    async def produce() -> AsyncIterator[str]:
        for number in range(3):
            yield f"event {number}"
            await checkpoint()

    return EventSourceResponse(produce())


async def uploads(request: Request) -> Response:
    size = 0
    async for part in request.stream():
        size += len(part)
    file = await request.file()
    return Response(b"%d %d" % (size, len(file.read())))


async def works_later(request: Request) -> Response:
    async def background() -> None:
        await checkpoint()

    return Response(b"hello", background=background)


async def fails(request: Request) -> Response:
    raise RuntimeError("no")


async def refuses(request: Request) -> Response:
    await checkpoint()
    raise HTTPError(404)


async def fails_midway(request: Request) -> Response:
    async def parts() -> AsyncIterator[bytes]:
        yield b"a"
        raise RuntimeError("midway")

    return StreamingResponse(parts())


class Plain:
    """Channels without a class of anyio's, so that what they leave behind is known: nothing."""

    def __init__(self, messages: list[Message]) -> None:
        self._rest = iter(messages)

    async def receive(self) -> Message:
        for message in self._rest:
            return message
        await anyio.sleep_forever()
        raise AssertionError("not reached")

    async def send(self, message: Message) -> None:
        pass


class Turning(Plain):
    """The same, by a server that gives up the loop in each receive() before it waits: a listener of it takes a task."""

    async def receive(self) -> Message:
        await checkpoint()
        return await super().receive()


SCOPE = http_scope(method="POST")


async def collected(
    app: Callable[..., Awaitable[None]], messages: list[Message], times: int, server: type[Plain] = Plain
) -> int:
    """How many objects the collector finds after so many requests."""

    async def requests(number: int) -> None:
        for _ in range(number):
            channel = server(messages)
            with suppress(RuntimeError):
                await app(SCOPE, channel.receive, channel.send)

    # Caches fill with the first requests, of the backend and of logging too.
    await requests(5)
    await turn(3)
    gc.collect()
    await requests(times)
    await turn(3)
    return gc.collect()


async def raw(scope: Any, receive: Any, send: Any) -> None:
    """What a bare application does for one request that waits: it has a task beside it while it does."""
    message = await receive()
    async with anyio.create_task_group() as group:
        group.start_soon(receive)
        await checkpoint()
        group.cancel_scope.cancel()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": message["body"], "more_body": False})


SUCCESSES: dict[str, tuple[Callable[[Request], Awaitable[Response]], list[Message], int, dict[str, Any]]] = {
    "hello": (hello, [EMPTY], 1000, {}),
    "hello, notify": (hello, [EMPTY], 1000, {"on_disconnect": "notify"}),
    "hello, unread": (hello, [EMPTY], 1000, {"body": "stream"}),
    "waiting": (waits, [EMPTY], 1000, {}),
    "waiting, notify": (waits, [EMPTY], 1000, {"on_disconnect": "notify"}),
    "waiting, debug": (waits, [EMPTY], 1000, {"debug": True}),
    "waiting, unread": (waits, body_messages(b"a", b"b"), 1000, {"body": "stream"}),
    "json": (json, body_messages(b'{"name": "x"}'), 1000, {}),
    "json, streamed": (json, body_messages(b'{"name":', b' "x"}'), 1000, {"body": "stream"}),
    "stream": (streams, [EMPTY], 1000, {}),
    "events": (events, [EMPTY], 1000, {}),
    "background": (works_later, [EMPTY], 1000, {}),
    "upload": (uploads, body_messages(*[bytes(1000)] * 4), 30, {}),
    "refused": (refuses, [EMPTY], 1000, {}),
}


@on_asyncio
async def test_leaks_nothing_to_collect_where_the_listener_takes_a_task() -> None:
    """A server whose receive() does not wait at once: the task and its cancellation are no cycle."""
    assert await collected(Handler(waits), [EMPTY], 200, Turning) == 0


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[frees_at_once] if name == "upload" else []) for name in SUCCESSES]
)
async def test_leaks_nothing_to_collect_after_requests_that_succeed(name: str) -> None:
    """With the collector off, 1,000 requests leave nothing for it on asyncio, and on trio no more than trio does."""
    endpoint, messages, times, options = SUCCESSES[name]
    handler = Handler(endpoint, limits=Limits(spool_threshold_bytes=2000), **options)
    found = await collected(handler, messages, times)
    if on_trio():
        # A cancelled task of trio's is a cycle of its own: exception, traceback and frame.
        bare = await collected(raw, messages, times)
        assert found <= bare, f"{found} objects, the bare application with a task beside it leaves {bare}"
    else:
        assert found == 0


async def test_leaks_nothing_to_collect_on_trio_where_nothing_waits() -> None:
    """Also on trio a request that never waits leaves nothing."""
    assert await collected(Handler(hello), [EMPTY], 1000) == 0


FAILURES: dict[str, tuple[Callable[[Request], Awaitable[Response]], Callable[[int], list[Message]], int]] = {
    "uncaught": (fails, lambda size: [EMPTY], 0),
    "after the start": (fails_midway, lambda size: [EMPTY], 0),
    "malformed": (json, lambda size: body_messages(b"{" * size), 0),
    "disconnect while waiting": (waits, lambda size: [EMPTY, DISCONNECT], 0),
    # On trio alone: its cancellation refers to the frames that it went through.
    "disconnect in the body": (hello, lambda size: [*body_messages(*[b"a"] * (size + 1))[:size], DISCONNECT], 44),
    # The error is kept, so that whoever asks for more of the body gets it again: its traceback is a cycle.
    "too large": (hello, lambda size: body_messages(*[bytes(1000)] * (size + 5)), 120),
}


@pytest.mark.parametrize("name", FAILURES)
async def test_leaks_a_small_constant_after_requests_that_fail(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """On error paths what is left to the collector is nothing or a constant, however much was received."""
    endpoint, messages, bound = FAILURES[name]
    caplog.set_level("CRITICAL", "asgicore")  # records would keep the tracebacks
    handler = Handler(endpoint, limits=Limits(spool_threshold_bytes=2000, max_body_bytes=5000))
    times = 50
    small = await collected(handler, messages(2), times)
    large = await collected(handler, messages(20), times)
    if on_trio() and name == "disconnect while waiting":
        bound = 2  # what trio keeps of its last cancellation
    once = 100  # the last request may still be held by what ran it
    assert small <= bound * times + once
    assert large <= bound * times + once
    assert abs(large - small) <= times + once


async def test_leaks_no_file_thread_or_task_after_a_mixed_run(caplog: pytest.LogCaptureFixture) -> None:
    """Descriptors, threads and tasks are back where they were after a mixed run with clients that leave."""
    caplog.set_level("CRITICAL", "asgicore")
    dice = random.Random(20251122)
    endpoints = [hello, waits, json, streams, events, uploads, works_later, fails, refuses, fails_midway]
    limits = Limits(spool_threshold_bytes=2000)
    handlers = [
        Handler(endpoint, limits=limits, body=mode)
        for endpoint in endpoints
        for mode in ("spool", "stream")
        if (endpoint, mode) != (uploads, "stream")
    ]

    async def request(handler: Handler) -> None:
        parts = [bytes(dice.choice([0, 10, 1000])) for _ in range(dice.randrange(1, 6))]
        messages = body_messages(*parts)
        if dice.random() < 0.3:
            messages = [*messages[: dice.randrange(len(messages))], DISCONNECT]
        server = Channel(messages, suspends=dice.random() < 0.7, tells=dice.choice(["event", "raise", "both"]))
        leaves_at = dice.randrange(12)
        async with anyio.create_task_group() as group:

            async def leave() -> None:
                await turn(leaves_at)
                server.disconnect()

            if dice.random() < 0.5:
                group.start_soon(leave)
            with suppress(RuntimeError):
                await handler(SCOPE, server.receive, server.send)
        check_messages(server.sent, method="POST")

    async def together() -> None:
        async with anyio.create_task_group() as group:
            for handler in handlers * 3:
                group.start_soon(request, handler)

    with anyio.fail_after(30):
        # All threads but those for files, of which there may be 40; other tests have left some, which end one day.
        others = threading.active_count() - _files.alive
        await together()
        before = living_tasks(), open_files()
        for _ in range(4):
            await together()
        assert (living_tasks(), open_files()) == before
        assert threading.active_count() - _files.alive <= others
        assert _files.alive <= 40


@pytest.mark.parametrize("spec", ["2.3", "2.4"])
async def test_leaks_nothing_after_random_disconnects(spec: str, caplog: pytest.LogCaptureFixture) -> None:
    """A thousand clients leave at any moment: no endpoint goes on, nothing is left, nothing is logged."""
    dice = random.Random(20251123)
    begun = ended = 0

    async def endpoint(request: Request) -> Response:
        nonlocal begun, ended
        begun += 1
        try:
            await request.body()
            if dice.random() < 0.5:
                await turn(dice.randrange(8))
                return StreamingResponse(parts())
            await anyio.sleep_forever()
        finally:
            ended += 1
        raise AssertionError("not reached")

    async def parts() -> AsyncIterator[bytes]:
        nonlocal begun, ended
        begun += 1
        try:
            while True:
                yield b"x"
                await turn(dice.randrange(4))
        finally:
            ended += 1

    async def request() -> None:
        server = Channel(body_messages(b"a", b"b"), suspends=dice.random() < 0.5)
        async with anyio.create_task_group() as group:
            group.start_soon(handlers[dice.randrange(2)], scope, server.receive, server.send)
            await turn(dice.randrange(15))
            server.disconnect()
        check_messages(server.sent)

    scope = http_scope(asgi={"version": "3.0", "spec_version": spec})
    handlers = [Handler(endpoint), Handler(endpoint, body="stream")]
    before = living_tasks(), open_files()
    threads = threading.active_count()
    with anyio.fail_after(40):
        for _ in range(20):
            async with anyio.create_task_group() as group:
                for _ in range(50):
                    group.start_soon(request)
    assert begun == ended > 500
    assert (living_tasks(), open_files()) == before
    assert threading.active_count() <= threads  # those of earlier tests end when they have been idle for long
    assert [record for record in caplog.records if record.levelname not in ("DEBUG", "INFO")] == []


@pytest.mark.parametrize("kind", ["endpoint", "iterator", "wsgi", "wsgi stream"])
async def test_leaks_nothing_of_threads_after_random_disconnects(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """Five hundred clients of each kind leave at any moment: all threads are free, and what was begun was closed."""
    dice = random.Random(20251124)
    begun, closed = [], []

    class Parts:
        """Sends without end until it is told that nobody listens."""

        def __iter__(self) -> Iterator[bytes]:
            return self

        def __next__(self) -> bytes:
            return b"x" * 65536

        def close(self) -> None:
            closed.append(threading.get_ident())

    def endpoint(request: Request) -> Response:
        request.body_nowait()
        begun.append(True)
        return StreamingResponse(Parts())

    async def iterator(request: Request) -> Response:
        begun.append(True)
        return StreamingResponse(Parts())

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        begun.append(True)
        environ["wsgi.input"].read()
        start_response("200 OK", [("content-type", "text/plain")])
        return Parts()

    threads = Threads(8)
    handler: Handler
    if kind.startswith("wsgi"):
        # A client that leaves within the upload has read() raise, and there is nothing to close then.
        handler = WSGIHandler(app, threads=threads, body="stream" if kind == "wsgi stream" else "spool")
    else:
        handler = Handler(endpoint if kind == "endpoint" else iterator, threads=threads)

    async def request() -> None:
        server = Channel(body_messages(b"a", b"b"), suspends=dice.random() < 0.5, tells=dice.choice(["event", "both"]))
        async with anyio.create_task_group() as group:
            group.start_soon(handler, http_scope(method="POST"), server.receive, server.send)
            await turn(dice.randrange(12))
            if dice.random() < 0.3:
                while not server.sent and threads.in_use:
                    await checkpoint()
            server.disconnect()

    before = living_tasks(), open_files()
    with anyio.fail_after(20):
        for _ in range(25):
            async with anyio.create_task_group() as group:
                for _ in range(20):
                    group.start_soon(request)
        assert (threads.in_use, threads.waiting) == (0, 0)
        assert threads.alive <= 8
        assert (living_tasks(), open_files()) == before
        assert await threads.aclose()
        while threads.alive:
            await anyio.sleep(0.001)
    assert len(begun) > 50
    assert len(closed) <= len(begun)
    if kind != "wsgi stream":
        assert len(closed) == len(begun)
    assert threading.get_ident() not in closed
    assert [record for record in caplog.records if record.levelname not in ("DEBUG", "INFO")] == []
