"""The end of a request: everything is closed once, in order, in the right task, on every way out."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import logging
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar
from tempfile import SpooledTemporaryFile
from typing import Any, Literal

import anyio
import pytest
from anyio.lowlevel import checkpoint
from faults import Steps, dropped_at, dropped_when, on_asyncio, turn

from asgicore import (
    Body,
    BodyConsumedError,
    Handler,
    HTTPError,
    Limits,
    Request,
    Response,
    ResponseStateError,
    StreamingResponse,
)
from asgicore.testing import DISCONNECT, Channel, Message, body_messages, call, check_messages, http_scope
from asgicore.testing._living import descriptors as open_files
from asgicore.testing._living import tasks as living_tasks

UPLOAD = body_messages(bytes(30), bytes(30), bytes(30))
"""More than the handlers here keep in memory: these bodies go to a temporary file."""

variable: ContextVar[str] = ContextVar("variable", default="unset")


@pytest.fixture(autouse=True)
def _no_collector() -> Iterator[None]:
    """Nothing here may be left to the garbage collector."""
    gc.disable()
    yield
    gc.enable()


class Ledger(Handler):
    """A handler whose endpoint opens one of everything, and that remembers what was closed.

    The generator of the response sets a context variable before its first part and resets it in its ``finally``, where
    it also waits: that works in the task and context that iterated alone. Where the engine closes the generator nothing
    cuts that wait short; where a cancellation is raised inside of the generator, its ``finally`` is its own matter.
    """

    fails: str | None = None
    is_cut = False
    """Whether the generator was closed by the engine, and its cleanup did not come to its end."""
    after_parts = 2

    def __init__(self, **options: Any) -> None:
        super().__init__(self.serve, limits=Limits(spool_threshold_bytes=16), **options)
        self.files: list[SpooledTemporaryFile[bytes]] = []
        self.started = 0
        self.order: list[str] = []
        self.finished = 0
        self.wait: Callable[[str], Any] | None = None
        self.cleaning = anyio.Event()
        self.slow_turns = 3

    def create_request(self, scope: Any, body: Body) -> tuple[Any, Response | None]:
        if self.fails == "create_request":
            raise RuntimeError("create_request")
        return super().create_request(scope, body)

    async def at(self, place: str) -> None:
        if self.wait is not None:
            await self.wait(place)

    async def serve(self, request: Request) -> Response:
        file = await request.file()
        self.files.append(file)
        await self.at("endpoint")
        if self.fails == "endpoint":
            raise RuntimeError("endpoint")
        if self.fails == "answer":
            raise HTTPError(409)
        return StreamingResponse(self.generate())

    async def generate(self) -> AsyncIterator[bytes]:
        self.started += 1
        task = anyio.get_current_task().id
        token = variable.set("set")
        try:
            for number in range(4):
                if self.fails == "stream" and number == self.after_parts:
                    raise RuntimeError("stream")
                yield b"%d" % number
                await self.at("stream")
        finally:
            is_closed = isinstance(sys.exc_info()[1], GeneratorExit)
            if is_closed:
                self.cleaning.set()
            try:
                await turn(self.slow_turns)
                is_closed = False
            finally:
                self.is_cut = is_closed
                assert anyio.get_current_task().id == task
                assert variable.get() == "set"
                variable.reset(token)
                self.order.append("generator")

    async def request_finished(self, request: Any, response: Response | None) -> None:
        self.cleaning.set()
        await turn(self.slow_turns)
        assert all(not file.closed for file in self.files), "hooks run while the body is open"
        self.finished += 1
        self.order.append("finished")

    def check(self) -> None:
        """Everything that was opened is closed, once."""
        assert not self.is_cut
        assert self.finished == 1
        assert self.order == (["generator"] if self.started else []) + ["finished"]
        assert all(file.closed for file in self.files)
        assert variable.get() == "unset"


async def run(handler: Ledger, server: Channel) -> BaseException | None:
    """One request; returns what it raised. Nothing of it is left afterwards."""
    before = living_tasks(), open_files()
    raised: BaseException | None = None
    with anyio.fail_after(5):
        try:
            await handler(http_scope(method="POST"), server.receive, server.send)
        except Exception as exc:
            raised = exc
    assert (living_tasks(), open_files()) == before
    handler.check()
    check_messages(server.sent)
    return raised


modes = pytest.mark.parametrize("mode", ["spool", "stream"])
suspends = pytest.mark.parametrize("suspend", [False, True], ids=["at once", "suspending"])


# --- ways out --------------------------------------------------------------------------------------------


@modes
@suspends
async def test_cleanup_after_success(mode: Any, suspend: bool) -> None:
    """After a response that was sent everything is closed, the generator before the hook."""
    server = Channel(UPLOAD, suspends=suspend)
    assert await run(Ledger(body=mode), server) is None
    check_messages(server.sent, complete=True)


@modes
@suspends
@pytest.mark.parametrize("fails", ["endpoint", "answer", "create_request"])
async def test_cleanup_after_an_error_before_the_start(mode: Any, suspend: bool, fails: str) -> None:
    """After an error that was answered everything is closed."""
    server = Channel(UPLOAD, suspends=suspend)
    handler = Ledger(body=mode)
    handler.fails = fails
    assert await run(handler, server) is None
    assert server.status == (409 if fails == "answer" else 500)


@modes
@suspends
@pytest.mark.parametrize("after", range(4))
async def test_cleanup_after_the_stream_fails(mode: Any, suspend: bool, after: int) -> None:
    """After a stream that failed everything is closed before the caller gets the error."""
    server = Channel(UPLOAD, suspends=suspend)
    handler = Ledger(body=mode)
    handler.fails, handler.after_parts = "stream", after
    assert str(await run(handler, server)) == "stream"
    check_messages(server.sent, complete=False)


@pytest.mark.untraced
@modes
@suspends
@pytest.mark.parametrize("at", range(6))
@pytest.mark.parametrize("error", [OSError("gone"), RuntimeError("broken")], ids=["OSError", "RuntimeError"])
async def test_cleanup_after_send_fails(mode: Any, suspend: bool, at: int, error: Exception) -> None:
    """Whichever send fails, everything is closed, and nothing more is sent."""

    async def fails(index: int, message: Message) -> None:
        if index == at:
            raise error

    server = Channel(UPLOAD, suspends=suspend, on_send=fails)
    raised = await run(Ledger(body=mode), server)
    assert raised is (None if isinstance(error, OSError) else error)
    assert server.sends == at + 1


@modes
@suspends
@pytest.mark.parametrize("count", range(3))
async def test_cleanup_after_a_disconnect_within_the_body(mode: Any, suspend: bool, count: int) -> None:
    """After an upload that was broken off its temporary file is closed."""
    server = Channel([*UPLOAD[:count], DISCONNECT], suspends=suspend)
    assert await run(Ledger(body=mode), server) is None
    assert server.sent == []


@modes
@suspends
@pytest.mark.parametrize("place", ["endpoint", "stream"])
async def test_cleanup_after_a_disconnect_after_the_body(mode: Any, suspend: bool, place: str) -> None:
    """After a disconnect while endpoint or generator wait everything is closed."""
    server = Channel(UPLOAD, suspends=suspend)

    async def wait(at: str) -> None:
        if at == place:
            server.disconnect()
            await anyio.sleep_forever()

    handler = Ledger(body=mode)
    handler.wait = wait
    assert await run(handler, server) is None
    check_messages(server.sent, complete=False if place == "stream" else None)


@modes
@suspends
async def test_cleanup_after_receive_fails(mode: Any, suspend: bool) -> None:
    """After a server that breaks down in the middle of an upload everything is closed."""
    error = RuntimeError("broken")

    async def breaks(index: int) -> None:
        if index == 2:
            raise error

    assert await run(Ledger(body=mode), Channel(UPLOAD, suspends=suspend, on_receive=breaks)) is error


async def test_cleanup_of_an_upload_refused_midway_closes_its_file() -> None:
    """A body that turns out too large on its way to the disk leaves no file."""

    class Small(Ledger):
        def __init__(self) -> None:
            super().__init__()
            self.limits = Limits(spool_threshold_bytes=16, max_body_bytes=80)

    server = Channel(UPLOAD)
    assert await run(Small(), server) is None
    assert server.status == 413


# --- cancellation at every await -------------------------------------------------------------------------


async def every_await(
    mode: str,
    begin: Callable[[Ledger, Channel, Steps], Any],
    act: Callable[[Channel], Callable[[], object]],
) -> int:
    """Run the same request again and again, and act at the first, second, ... suspension until there are no more."""
    number = 0
    while True:
        number += 1
        handler, server = Ledger(body=mode), Channel(UPLOAD, suspends=True)
        steps = Steps(number, act(server))
        before = living_tasks(), open_files()
        with anyio.fail_after(5):
            await begin(handler, server, steps)
        assert (living_tasks(), open_files()) == before
        handler.check()
        check_messages(server.sent)
        if not steps.has_acted:
            check_messages(server.sent, complete=True)
            return number


@modes
async def test_cleanup_after_outer_scope_cancelled_at_every_await(mode: str) -> None:
    """Wherever a scope around the application is cancelled, everything is closed and the cancellation goes on."""
    scope = anyio.CancelScope()
    reached: list[int] = []

    async def begin(handler: Ledger, server: Channel, steps: Steps) -> None:
        nonlocal scope
        scope = anyio.CancelScope()
        reached.clear()
        with scope:
            await steps.run(handler(http_scope(method="POST"), server.receive, server.send))
            await turn(2)
            reached.append(True)
        assert scope.cancelled_caught is (steps.has_acted)
        assert bool(reached) is not scope.cancelled_caught

    assert await every_await(mode, begin, lambda server: lambda: scope.cancel()) > 10


@on_asyncio
@modes
async def test_cleanup_after_native_cancellation_at_every_await(mode: str) -> None:
    """The same for Task.cancel() of the server."""
    loop = asyncio.get_running_loop()
    task: asyncio.Task[None]

    def cancel_from_outside() -> None:
        # As a server does it: not in the context of the request.
        loop.call_soon(lambda: task.cancel(), context=contextvars.Context())

    async def begin(handler: Ledger, server: Channel, steps: Steps) -> None:
        nonlocal task

        async def app() -> None:
            await steps.run(handler(http_scope(method="POST"), server.receive, server.send))
            handler.check()  # at once, in the context of the request
            await turn(3)

        task = asyncio.create_task(app())
        await asyncio.wait([task])
        assert task.cancelled() is (steps.has_acted)
        if not task.cancelled():
            task.result()

    assert await every_await(mode, begin, lambda server: cancel_from_outside) > 10


@modes
async def test_cleanup_after_a_disconnect_at_every_await(mode: str) -> None:
    """Wherever the client leaves, everything is closed and the application returns."""

    async def begin(handler: Ledger, server: Channel, steps: Steps) -> None:
        await steps.run(handler(http_scope(method="POST"), server.receive, server.send))

    assert await every_await(mode, begin, lambda server: server.disconnect) > 10


@modes
async def test_cleanup_after_aclose_at_every_await(mode: str) -> None:
    """Wherever the handler is closed, everything is closed, and what was begun is legal."""
    current: list[Ledger] = []

    async def begin(handler: Ledger, server: Channel, steps: Steps) -> None:
        current[:] = [handler]
        async with anyio.create_task_group() as group:

            async def close() -> None:
                await current[0].aclose(0)

            steps.act = lambda: group.start_soon(close)
            # Nobody knows whether a start that was cut short was taken: then the connection is aborted.
            with contextlib.suppress(ResponseStateError):
                await steps.run(handler(http_scope(method="POST"), server.receive, server.send))

    assert await every_await(mode, begin, lambda server: lambda: None) > 10


# --- cancellation during the cleanup itself --------------------------------------------------------------


def cancelled_directly(task: asyncio.Task[Any]) -> None:
    """As servers do that keep their tasks."""
    task.cancel()


def cancelled_by_a_callback(task: asyncio.Task[Any]) -> None:
    """As servers do that give their tasks some seconds to end."""
    asyncio.get_running_loop().call_soon(task.cancel)


@on_asyncio
@pytest.mark.parametrize("cancel", [cancelled_directly, cancelled_by_a_callback], ids=["direct", "callback"])
@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("first", ["cancel", "disconnect", "success"])
async def test_cleanup_native_cancellation_during_it_waits_for_its_end(
    cancel: Callable[[asyncio.Task[Any]], None], times: int, first: str
) -> None:
    """A native cancellation that arrives during the cleanup is held back until everything is closed."""
    handler = Ledger()
    handler.slow_turns = 20

    async def blocks(index: int, message: Message) -> None:
        if index == 2 and first != "success":
            await anyio.sleep_forever()

    server = Channel(UPLOAD, on_send=blocks)

    async def app() -> None:
        await handler(http_scope(method="POST"), server.receive, server.send)
        await turn(2)

    before = living_tasks()
    with anyio.fail_after(5):
        task = asyncio.create_task(app())
        while not handler.started:
            await checkpoint()
        await turn(2)
        if first == "cancel":
            task.cancel()
        elif first == "disconnect":
            server.disconnect()
        await handler.cleaning.wait()
        for _ in range(times):
            cancel(task)
            await turn(3)
        assert not task.done()
        await asyncio.wait([task])
    assert task.cancelled()
    assert living_tasks() == before
    assert not handler.is_cut
    assert handler.order == ["generator", "finished"]
    assert all(file.closed for file in handler.files)


@on_asyncio
@pytest.mark.parametrize("means", ["TaskGroup", "timeout", "wait_for"])
async def test_cleanup_cancelled_by_means_of_asyncio_around_it_waits_for_its_end(means: str) -> None:
    """A task group, a timeout or wait_for() of the server around the application does not cut the cleanup short."""
    handler = Ledger()
    handler.slow_turns = 20

    async def blocks(index: int, message: Message) -> None:
        if index == 2:
            server.disconnect()
            await anyio.sleep_forever()

    server = Channel(UPLOAD, on_send=blocks)

    async def app() -> None:
        await handler(http_scope(method="POST"), server.receive, server.send)

    async def fails_meanwhile() -> None:
        await handler.cleaning.wait()
        await turn(3)
        raise RuntimeError("another connection")

    timeouts: list[asyncio.Timeout] = []

    async def expires_meanwhile() -> None:
        await handler.cleaning.wait()
        await turn(3)
        timeouts[0].reschedule(0)

    with anyio.fail_after(5):
        if means == "TaskGroup":

            async def in_group() -> None:
                async with asyncio.TaskGroup() as group:
                    group.create_task(app())
                    group.create_task(fails_meanwhile())

            with pytest.raises(ExceptionGroup):
                await in_group()
        elif means == "timeout":

            async def with_timeout() -> None:
                async with asyncio.timeout(None) as timeout:
                    timeouts.append(timeout)
                    await app()

            task = asyncio.create_task(with_timeout())
            await expires_meanwhile()
            await asyncio.wait([task])
            assert isinstance(task.exception(), TimeoutError)
        else:
            task = asyncio.create_task(app())
            waiter = asyncio.create_task(asyncio.wait_for(task, 60))
            await handler.cleaning.wait()
            await turn(3)
            waiter.cancel()
            await asyncio.wait([task, waiter])
    assert not handler.is_cut
    assert handler.order == ["generator", "finished"]
    assert all(file.closed for file in handler.files)


@on_asyncio
@pytest.mark.parametrize("means", ["scope", "fail_after", "timeout", "group"])
async def test_cleanup_own_cancellations_inside_it_work(means: str) -> None:
    """Timeouts and task groups that the cleanup uses itself still work while it is shielded."""
    order = []

    async def parts() -> AsyncIterator[bytes]:
        try:
            yield b"a"
        finally:
            if means == "scope":
                with anyio.move_on_after(0.002):
                    await anyio.sleep_forever()
            elif means == "fail_after":
                with pytest.raises(TimeoutError), anyio.fail_after(0.002):
                    await anyio.sleep_forever()
            elif means == "timeout":
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.002):
                        await asyncio.sleep(60)
            else:
                async with anyio.create_task_group() as group:
                    group.start_soon(anyio.sleep_forever)
                    await checkpoint()
                    group.cancel_scope.cancel()
            await checkpoint()
            order.append("closed")

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(parts())

    assert (await call(Handler(endpoint))).body == b"a"
    assert order == ["closed"]


async def test_cleanup_that_hangs_is_given_up_and_the_hooks_still_run(caplog: pytest.LogCaptureFixture) -> None:
    """A generator that never ends its cleanup is cut short in time; request_finished() runs all the same, once."""
    finished = []

    class Finishing(Handler):
        async def request_finished(self, request: Any, response: Response | None) -> None:
            finished.append(True)

    async def parts() -> AsyncIterator[bytes]:
        try:
            yield b"a"
        finally:
            await anyio.sleep_forever()

    async def endpoint(request: Request) -> Response:
        files.append(await request.file())
        return StreamingResponse(parts())

    async def breaks(index: int, message: Message) -> None:
        if index == 1:
            raise OSError("gone")

    files: list[SpooledTemporaryFile[bytes]] = []
    server = Channel(UPLOAD, on_send=breaks)
    with anyio.fail_after(5):
        handler = Finishing(endpoint, limits=Limits(close_timeout_seconds=0.02))
        await handler(http_scope(), server.receive, server.send)
    assert "cleanup did not end within 0.02 seconds" in caplog.text
    assert files[0].closed
    assert finished == [True]


# --- what is closed --------------------------------------------------------------------------------------


class Source:
    """A stream that is no generator: an iterable of its own, or one that makes an iterator."""

    def __init__(self, *, error: BaseException | None = None) -> None:
        self.closed = 0
        self._error = error

    def __aiter__(self) -> Source:
        return self

    async def __anext__(self) -> bytes:
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self.closed += 1
        if self._error is not None:
            raise self._error


@pytest.mark.parametrize(
    "how", ["sent", "HEAD", "204", "replaced by response_ready", "refused headers", "disconnect before", "replaced"]
)
async def test_cleanup_closes_an_iterator_once_also_unread(how: str) -> None:
    """An iterator is closed once whether it was read, never begun, or its response replaced by an error page."""
    source = Source()

    class Changing(Handler):
        async def response_ready(self, request: Any, response: Response) -> None:
            if how == "replaced by response_ready":
                raise RuntimeError("no")
            if how == "refused headers":
                response.headers.add("content-length", "1")
                response.headers.add("content-length", "2")

    async def endpoint(request: Request) -> Response:
        if how == "disconnect before":
            server.disconnect()
            with anyio.CancelScope(shield=True):
                await server.told.wait()
        return StreamingResponse(source, 204 if how == "204" else 200)

    server = Channel()
    with anyio.fail_after(5):
        await Changing(endpoint)(http_scope(method="HEAD" if how == "HEAD" else "GET"), server.receive, server.send)
    assert source.closed == 1
    check_messages(server.sent, method="HEAD" if how == "HEAD" else "GET")


async def test_cleanup_closes_replaced_responses_too() -> None:
    """A page that takes the place of a response, and fails in turn, is closed like the first."""
    sources = [Source(), Source()]

    class Paging(Handler):
        async def response_ready(self, request: Any, response: Response) -> None:
            raise RuntimeError("no")

        def handle_uncaught_exception(self, request: Any, exc: Exception) -> Response:
            return StreamingResponse(sources[1], 500)

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(sources[0])

    assert (await call(Paging(endpoint))).status == 500
    assert [source.closed for source in sources] == [1, 1]


async def test_cleanup_an_iterator_that_fails_to_close_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """An error in closing is logged; the response stands, and everything else is closed."""
    files: list[SpooledTemporaryFile[bytes]] = []

    async def endpoint(request: Request) -> Response:
        files.append(await request.file())
        return StreamingResponse(Source(error=RuntimeError("stuck")))

    channel = await call(Handler(endpoint), path="/a\u00e9")
    check_messages(channel.sent, complete=True)
    [record] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.getMessage() == "closing GET /a%C3%A9 failed"
    assert files[0].closed


async def test_cleanup_a_generator_that_goes_on_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A generator that answers its closing with another part is reported."""

    async def parts() -> AsyncIterator[bytes]:
        try:
            yield b"a"
            raise RuntimeError("midway")
        finally:
            yield b"more"

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(parts())

    channel = await call_raising(Handler(endpoint))
    assert channel.sends <= 4
    assert caplog.records == [] or all("closing" in record.getMessage() for record in caplog.records)


async def call_raising(handler: Handler) -> Channel:
    server = Channel()
    with anyio.fail_after(5), pytest.raises(RuntimeError):
        await handler(http_scope(), server.receive, server.send)
    return server


@pytest.mark.parametrize("kind", ["SystemExit", "KeyboardInterrupt"])
async def test_cleanup_after_an_exit_of_the_process_closes_everything(kind: Literal["SystemExit"]) -> None:
    """What ends the process passes through, after the generator was closed."""
    source = Source()
    error = {"SystemExit": SystemExit, "KeyboardInterrupt": KeyboardInterrupt}[kind]

    class Raising(Source):
        async def __anext__(self) -> bytes:
            raise error

    source = Raising()

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(source)

    server = Channel()
    caught = None
    try:
        await Handler(endpoint)(http_scope(), server.receive, server.send)
    except BaseException as exc:
        caught = exc
    assert type(caught) is error
    assert source.closed == 1


@modes
@pytest.mark.parametrize("size", [4, 40], ids=["in memory", "on disk"])
async def test_cleanup_closes_a_body_stream_that_was_broken_off(mode: Any, size: int) -> None:
    """An iterator over the body that the endpoint did not exhaust is closed with the request, or holds nothing."""
    streams: list[Any] = []

    async def endpoint(request: Request) -> Response:
        streams.append(request.stream())
        async for _ in streams[0]:
            break
        return Response()

    handler = Handler(endpoint, body=mode, limits=Limits(spool_threshold_bytes=16))
    await call(handler, body_messages(bytes(size), bytes(size)))
    assert mode == "spool" or streams[0].ag_frame is None
    with pytest.raises(StopAsyncIteration) if mode == "stream" or size < 16 else pytest.raises(BodyConsumedError):
        while True:
            await anext(streams[0])


@pytest.mark.parametrize("on_disconnect", ["cancel", "notify"])
async def test_cleanup_dropped_by_the_loop_closes_the_file(on_disconnect: Any) -> None:
    """A request that is thrown away unfinished closes its file on the spot and leaves no task."""
    files: list[SpooledTemporaryFile[bytes]] = []

    async def endpoint(request: Request) -> Response:
        files.append(await request.file())
        await anyio.sleep_forever()
        raise AssertionError("not reached")

    before = living_tasks()
    server = Channel(body_messages(b"data"))
    handler = Handler(endpoint, on_disconnect=on_disconnect)
    with anyio.fail_after(5):
        await dropped_when(handler(http_scope(), server.receive, server.send), lambda: bool(files))
    assert files[0].closed
    assert server.sent == []
    await turn(3)
    assert living_tasks() == before


@pytest.mark.parametrize("use", ["body", "stream", "file", "form"])
@pytest.mark.parametrize("mode", ["spool", "stream"])
@pytest.mark.parametrize("is_loop_gone", [False, True], ids=["in a task", "in no task"])
def test_request_dropped_while_its_body_comes_is_not_answered(
    mode: Any, use: str, is_loop_gone: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither the generator that cannot be closed nor the scope that is left in no task counts as an error."""

    async def endpoint(request: Request) -> Response:
        if use == "stream":
            async for _ in request.stream():
                pass
        else:
            await getattr(request, use)()
        raise AssertionError("not reached")

    async def waits(index: int) -> None:
        if index:
            await asyncio.sleep(60)

    channel = Channel([{"type": "http.request", "body": b"a=1&", "more_body": True}], on_receive=waits)

    async def begin() -> Any:
        headers = [(b"content-type", b"application/x-www-form-urlencoded")]
        scope = http_scope(method="POST", headers=headers)
        coro: Any = Handler(endpoint, body=mode)(scope, channel.receive, channel.send)
        coro.send(None)
        if not is_loop_gone:
            coro.close()
        return coro

    loop = asyncio.new_event_loop()
    try:
        coro = loop.run_until_complete(begin())
    finally:
        loop.close()
    coro.close()
    assert channel.received == 1
    assert channel.sent == []
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@on_asyncio
@pytest.mark.parametrize("body", ["spool", "stream"])
async def test_request_dropped_while_its_listener_cleans_up_leaves_no_task(body: Any) -> None:
    """Wherever that is, nothing is awaited any more, and what receives ends by itself."""
    closed: list[str] = []

    class Closing(Response):
        async def aclose(self) -> None:
            closed.append("with time")

        def close_nowait(self) -> None:
            closed.append("at once")

    async def endpoint(request: Request) -> Response:
        await checkpoint()
        await checkpoint()
        return Closing("answer")

    async def slow_to_end(index: int) -> None:
        if index:
            try:
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await turn(3)

    before = living_tasks()
    number, is_under_way = 0, True
    while is_under_way:
        number += 1
        message = {"type": "http.request", "body": b"data", "more_body": body == "stream"}
        channel = Channel([message], on_receive=slow_to_end)
        coro = Handler(endpoint, body=body)(http_scope(), channel.receive, channel.send)
        with anyio.fail_after(5):
            is_under_way = await dropped_at(coro, number)
        await turn(10)
        assert living_tasks() == before
    assert "at once" in closed
    assert closed[-1] == "with time"


class Slow:
    """An iterator whose closing takes some turns."""

    def __init__(self) -> None:
        self.closed = 0

    def __aiter__(self) -> Slow:
        return self

    async def __anext__(self) -> bytes:
        return b"x"

    async def aclose(self) -> None:
        for _ in range(5):
            await checkpoint()
        self.closed += 1


@on_asyncio
@pytest.mark.parametrize("where", ["endpoint", "send"])
async def test_cleanup_with_a_native_cancellation_pending_as_it_begins_is_whole(where: str) -> None:
    """A cancellation that was asked for and has not arrived hits nothing of the cleanup, and is raised after it."""
    finished: list[bool] = []
    slow = Slow()

    class Telling(Handler):
        async def request_finished(self, request: Any, response: Response | None) -> None:
            for _ in range(5):
                await checkpoint()
            finished.append(True)

    async def endpoint(request: Request) -> Response:
        if where == "endpoint":
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            return Response("x")
        return StreamingResponse(slow)

    async def cancels(index: int, message: Message) -> None:
        if index == 2:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            raise OSError("gone")

    server = Channel(on_send=cancels)
    with anyio.fail_after(5):
        task = asyncio.create_task(Telling(endpoint)(http_scope(), server.receive, server.send))
        await asyncio.wait([task])
    assert task.cancelled()
    assert finished == [True]
    assert slow.closed == (where == "send")
