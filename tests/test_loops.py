"""One handler on two event loops in two threads, as servers have it that run their workers as threads."""

from __future__ import annotations

import gzip
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import Any

import anyio
import pytest
from anyio import from_thread
from anyio.lowlevel import checkpoint
from conftest import BACKENDS, _set_clock
from faults import turn

from asgicore import (
    Compression,
    Handler,
    JSONResponse,
    Limits,
    Request,
    Response,
    StreamingResponse,
    Threads,
    UsageError,
    _encoded,
    _spool,
)
from asgicore._threads import SHARED
from asgicore.testing import (
    DAPHNE,
    Channel,
    Client,
    LeakGuard,
    LifespanError,
    body_messages,
    call,
    check_messages,
    http_scope,
)
from asgicore.wsgi_bridge import WSGIHandler

SECONDS = 10

# It keeps no state between lifespan and requests.
DAPHNE_WITH_LIFESPAN = replace(DAPHNE, has_lifespan=True)

PAIRS = [pytest.param((BACKENDS[0].values[0], other.values[0]), id=f"asyncio-and-{other.id}") for other in BACKENDS]

Main = Callable[[], Awaitable[object]]


@pytest.fixture(autouse=True)
def _real_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that nothing holds back gives up the loop as it does outside of the tests."""
    _set_clock(monkeypatch, perf_counter)


def run_at_once(backends: Any, *mains: Main) -> None:
    """Run each on an event loop in a thread of its own, all at the same time."""
    errors: list[BaseException] = []
    begin = threading.Barrier(len(mains), timeout=SECONDS)

    async def in_time(main: Main) -> None:
        begin.wait()
        with anyio.fail_after(SECONDS):
            await main()

    def run(main: Main, backend: str, options: Any) -> None:
        try:
            anyio.run(in_time, main, backend=backend, backend_options=options)
        except BaseException as exc:
            errors.append(exc)

    threads = [
        threading.Thread(target=run, args=(main, *backend), daemon=True)
        for main, backend in zip(mains, backends, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS + 5)
        assert not thread.is_alive(), "a loop does not end"
    for error in errors:
        raise error


# --- a site, and what it answers -------------------------------------------------------------------------

THRESHOLD = 4096

who: ContextVar[int] = ContextVar("who")


def body_of(number: int) -> bytes:
    """Of up to some 14,000 bytes, like that of no other request."""
    return b"%d:" % number * (number * 37 % 2000)


def parts_of(number: int) -> list[bytes]:
    return [b"%d-%d " % (number, place) * (place * number % 900) for place in range(30)]


async def double(number: int) -> int:
    await checkpoint()
    return 2 * number


class Site:
    """Handlers over the same threads, and a count of what they have opened and closed."""

    def __init__(self) -> None:
        self.threads = Threads(6)
        self.opened: list[int] = []
        self.closed: list[int] = []
        self.later: list[int] = []
        limits = Limits(spool_threshold_bytes=THRESHOLD)
        self.asynchronous = Handler(self.endpoint, threads=self.threads, limits=limits, compression=Compression())
        self.streamed = Handler(self.reads_as_it_comes, threads=self.threads, limits=limits, body="stream")
        self.synchronous = Handler(self.in_thread, threads=self.threads, limits=limits)
        self.wsgi = WSGIHandler(self.app, threads=self.threads, limits=limits)
        self.handlers = [self.asynchronous, self.streamed, self.synchronous, self.wsgi]

    async def endpoint(self, request: Request) -> Response:
        number = int(request.query_params["number"])
        kind = request.path
        await checkpoint()
        if kind == "/json":
            return JSONResponse({"got": await request.json(), "of": request.headers["x-number"]})
        if kind == "/file":
            file = await request.file()
            return Response(await self.threads.run(file.read))
        if kind == "/parts":
            return StreamingResponse(self.parts(number))
        if kind == "/endless":
            return StreamingResponse(self.endless(number))
        if kind == "/later":
            return Response(b"%d" % number, background=partial(self.later.append, number))
        if kind == "/text":
            return Response(body_of(number) * 20, content_type="text/plain")
        await anyio.sleep_forever()
        raise AssertionError("not reached")

    async def reads_as_it_comes(self, request: Request) -> Response:
        async def upper() -> AsyncIterator[bytes]:
            async for part in request.stream():
                yield part.replace(b":", b"!")

        return StreamingResponse(upper())

    def in_thread(self, request: Request) -> Response:
        number = int(request.query_params["number"])
        assert who.get() == number
        who.set(-number)
        return Response(b"%d %b" % (from_thread.run(double, number), request.body_nowait()))

    def app(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield environ["QUERY_STRING"].encode()
        yield from self.parts(int(environ["HTTP_X_NUMBER"]))
        yield environ["wsgi.input"].read()

    def parts(self, number: int) -> Iterator[bytes]:
        self.opened.append(number)
        try:
            yield from parts_of(number)
        finally:
            self.closed.append(number)

    def endless(self, number: int) -> Iterator[bytes]:
        self.opened.append(number)
        try:
            while True:
                yield b"%d," % number
        finally:
            self.closed.append(number)


# --- requests ----------------------------------------------------------------------------------------------


async def ask(
    handler: Handler, path: str, number: int, body: bytes = b"", act: Any = None, accepts: str = ""
) -> Channel:
    """Make one request, whose client may ``act``."""
    cut = 500 + number % 5000
    turns = number // len(KINDS) % 8
    parts = [body[start : start + cut] for start in range(0, len(body), cut)]
    headers = [(b"x-number", b"%d" % number), (b"accept-encoding", accepts.encode())]
    scope = http_scope("POST", path, query_string=b"number=%d" % number, headers=headers)
    server = Channel(body_messages(*parts), suspends=turns % 2 == 0, tells="both")
    who.set(number)
    async with anyio.create_task_group() as group:
        if act is not None:
            group.start_soon(act, server, group.cancel_scope, turns)
        await handler(scope, server.receive, server.send)
    check_messages(server.sent, method="POST", complete=True if act is None else None)
    return server


async def asks_for_json(site: Site, number: int) -> None:
    server = await ask(site.asynchronous, "/json", number, b'[%d, "%b"]' % (number, body_of(number)))
    assert server.body == b'{"got":[%d,"%b"],"of":"%d"}' % (number, body_of(number), number)


async def asks_for_a_file(site: Site, number: int) -> None:
    server = await ask(site.asynchronous, "/file", number, body_of(number))
    assert server.body == body_of(number)


async def asks_for_parts(site: Site, number: int) -> None:
    server = await ask(site.asynchronous, "/parts", number)
    assert server.body == b"".join(parts_of(number))


async def asks_for_compressed_text(site: Site, number: int) -> None:
    server = await ask(site.asynchronous, "/text", number, accepts=f"gzip;q=0.{number % 7 + 1}")
    is_compressed = (b"content-encoding", b"gzip") in server.headers
    assert is_compressed == (len(body_of(number)) > 100)
    assert (gzip.decompress(server.body) if is_compressed else server.body) == body_of(number) * 20


async def asks_for_work_later(site: Site, number: int) -> None:
    server = await ask(site.asynchronous, "/later", number)
    assert server.body == b"%d" % number
    assert number in site.later


async def sends_what_is_read_as_it_comes(site: Site, number: int) -> None:
    server = await ask(site.streamed, "/", number, body_of(number))
    assert server.body == body_of(number).replace(b":", b"!")


async def asks_a_thread(site: Site, number: int) -> None:
    server = await ask(site.synchronous, "/", number, body_of(number))
    assert server.body == b"%d %b" % (2 * number, body_of(number))
    assert who.get() == -number


async def asks_wsgi(site: Site, number: int) -> None:
    server = await ask(site.wsgi, "/", number, body_of(number))
    assert server.body == b"".join([b"number=%d" % number, *parts_of(number), body_of(number)])


async def leaves(server: Channel, scope: anyio.CancelScope, turns: int) -> None:
    await turn(turns)
    server.disconnect()


async def is_cancelled(server: Channel, scope: anyio.CancelScope, turns: int) -> None:
    await turn(turns)
    scope.cancel()


async def leaves_while_it_waits(site: Site, number: int) -> None:
    server = await ask(site.asynchronous, "/wait", number, body_of(number), leaves)
    assert server.sent == []


async def leaves_a_stream(site: Site, number: int) -> None:
    server = await ask(site.asynchronous, "/endless", number, b"", leaves)
    assert server.body == b"%d," % number * (len(server.body) // len(b"%d," % number))


async def leaves_wsgi(site: Site, number: int) -> None:
    server = await ask(site.wsgi, "/", number, body_of(number), leaves)
    assert b"".join([b"number=%d" % number, *parts_of(number), body_of(number)]).startswith(server.body)


async def is_cancelled_while_it_waits(site: Site, number: int) -> None:
    server = await ask(site.asynchronous, "/wait", number, body_of(number), is_cancelled)
    assert server.sent == []


async def is_cancelled_in_a_thread(site: Site, number: int) -> None:
    server = await ask(site.synchronous, "/", number, body_of(number), is_cancelled)
    assert (b"%d %b" % (2 * number, body_of(number))).startswith(server.body)


async def is_cancelled_in_a_stream(site: Site, number: int) -> None:
    server = await ask(site.asynchronous, "/endless", number, b"", is_cancelled)
    assert server.body == b"%d," % number * (len(server.body) // len(b"%d," % number))


KINDS = [
    *(asks_for_json, asks_for_a_file, asks_for_parts, asks_for_compressed_text, asks_for_work_later),
    *(sends_what_is_read_as_it_comes, asks_a_thread, asks_wsgi, leaves_while_it_waits, leaves_a_stream, leaves_wsgi),
    *(is_cancelled_while_it_waits, is_cancelled_in_a_thread, is_cancelled_in_a_stream),
]


@pytest.mark.untraced
@pytest.mark.parametrize("backends", PAIRS)
def test_requests_of_all_kinds_on_two_loops_are_answered_right(backends: Any) -> None:
    """Some hundred of them at once: each gets its own answer, and nothing is left of any."""
    site = Site()

    async def requests(first: int) -> None:
        async with anyio.create_task_group() as group:
            for number in range(first, first + 16 * len(KINDS)):
                group.start_soon(KINDS[number % len(KINDS)], site, number)
        for handler in site.handlers:
            assert not handler._here.waiting

    for backend, options in backends:
        anyio.run(turn, backend=backend, backend_options=options)  # what a kind of loop opens once stays open
    with LeakGuard():
        run_at_once(backends, partial(requests, 0), partial(requests, 1000))
    for pool in (site.threads, _spool._files, _encoded._encoding_threads):
        assert pool.in_use == pool.waiting == 0
    assert len(site.opened) == len(site.closed) > 0
    assert anyio.run(site.threads.aclose)


# --- what ends with a loop -------------------------------------------------------------------------------


@pytest.mark.parametrize("backends", PAIRS)
def test_lifespan_that_ends_leaves_the_threads_to_the_other_loop(backends: Any) -> None:
    """They end with the last lifespan: requests of a loop that goes on have theirs."""
    handler = Handler(lambda request: Response(b"hello"))
    threads = handler.threads
    both, ended = threading.Barrier(2, timeout=SECONDS), threading.Event()

    async def ends() -> None:
        async with Client(handler) as client:
            await SHARED.run(both.wait)
            assert (await client.get("/")).body == b"hello"
        ended.set()

    async def goes_on() -> None:
        async with Client(handler) as client:
            await SHARED.run(both.wait)
            await SHARED.run(ended.wait, SECONDS)
            assert handler.threads is threads
            assert (await client.get("/")).body == b"hello"

    run_at_once(backends, ends, goes_on)
    assert handler.threads is not threads
    with pytest.raises(UsageError, match="closed"):
        threads.start(len, b"")


@pytest.mark.parametrize("backends", PAIRS)
def test_lifespan_gives_each_loop_its_own_state_where_the_server_keeps_none(backends: Any) -> None:
    """A pool of connections belongs to a loop. A thread without a lifespan gets the state of the last one."""
    both = threading.Barrier(2, timeout=SECONDS)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[dict[str, Any]]:
        yield {"thread": threading.get_ident()}

    async def endpoint(request: Request) -> Response:
        return Response(str(request.state.get("thread") == threading.get_ident()) + str(len(request.state)))

    handler = Handler(endpoint, lifespan=lifespan)

    async def serves() -> None:
        async with Client(handler, server=DAPHNE_WITH_LIFESPAN) as client:
            await SHARED.run(both.wait)
            assert (await client.get("/")).body == b"True1"
            elsewhere = partial(anyio.run, partial(call, handler, state=None))
            assert (await SHARED.run(elsewhere)).body == b"False1"
            await SHARED.run(both.wait)

    run_at_once(backends, serves, serves)
    # What was yielded is closed.
    assert anyio.run(partial(call, handler, state=None)).body == b"False0"


@pytest.mark.parametrize("backends", PAIRS)
@pytest.mark.parametrize("case", ["waits", "fails", "yields nothing"])
def test_lifespan_that_begins_leaves_the_state_of_the_other_loop_alone(case: str, backends: Any) -> None:
    """Whatever becomes of it; and its own requests get its own state, be it empty."""
    serves_already, begins, asked, done = (threading.Event() for _ in range(4))

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[dict[str, Any]]:
        if not serves_already.is_set():
            yield {"pool": 1}
            return
        if case != "yields nothing":
            begins.set()
            await SHARED.run(asked.wait, SECONDS)
        if case == "fails":
            raise OSError("no pool")
        yield {}

    async def endpoint(request: Request) -> Response:
        return Response(str(len(request.state)))

    handler = Handler(endpoint, lifespan=lifespan)

    async def serves() -> None:
        async with Client(handler, server=DAPHNE_WITH_LIFESPAN) as client:
            serves_already.set()
            await SHARED.run(begins.wait, SECONDS)
            assert (await client.get("/")).body == b"1"
            asked.set()
            await SHARED.run(done.wait, SECONDS)
            assert (await client.get("/")).body == b"1"

    async def begins_later() -> None:
        await SHARED.run(serves_already.wait, SECONDS)
        try:
            async with Client(handler, server=DAPHNE_WITH_LIFESPAN) as client:
                begins.set()
                await SHARED.run(asked.wait, SECONDS)
                assert (await client.get("/")).body == b"0"
        except LifespanError:
            assert case == "fails"
        finally:
            done.set()

    run_at_once(backends, serves, begins_later)


@pytest.mark.parametrize("backends", PAIRS)
def test_aclose_ends_the_requests_of_its_own_loop_alone(backends: Any) -> None:
    """Nothing of another loop may be touched from this one, and its requests are not waited for."""

    async def endpoint(request: Request) -> Response:
        await anyio.sleep_forever()
        raise AssertionError("not reached")

    handler = Handler(endpoint)
    both, closed = threading.Barrier(2, timeout=SECONDS), threading.Event()

    async def request(server: Channel, then: Main) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(handler, http_scope(), server.receive, server.send)
            await anyio.wait_all_tasks_blocked()
            await SHARED.run(both.wait)
            await then()

    async def closes() -> None:
        server = Channel()
        await request(server, partial(handler.aclose, 0))
        assert server.status == 503
        await handler.aclose(2 * SECONDS)
        closed.set()

    async def goes_on() -> None:
        server = Channel()

        async def leave_later() -> None:
            await SHARED.run(closed.wait, SECONDS)
            await turn(5)
            assert handler._here.waiting
            server.disconnect()

        await request(server, leave_later)
        assert server.sent == []

    run_at_once(backends, closes, goes_on)
