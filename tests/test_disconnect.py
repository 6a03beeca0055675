"""_handler.py and _watch.py: a client that leaves, in every phase and however the server tells it."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from itertools import repeat
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from clocks import turn_time, turn_time_on_asyncio
from faults import on_asyncio, turn, turns

from asgicore import ClientDisconnectedError, Handler, HTTPError, Limits, Request, Response, StreamingResponse
from asgicore._spool import Spool
from asgicore.testing import (
    DISCONNECT,
    EMPTY,
    Channel,
    Client,
    Fault,
    Message,
    body_messages,
    check_messages,
    http_scope,
)
from asgicore.testing._living import tasks as living_tasks

modes = pytest.mark.parametrize("mode", ["spool", "stream"])


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """A client that left is nobody's fault: no test here may log at WARNING or above."""
    caplog.set_level(logging.DEBUG)
    yield
    loud = [record.getMessage() for record in caplog.get_records("call") if record.levelno >= logging.WARNING]
    assert loud == []


async def serve(handler: Handler, server: Channel) -> None:
    """One request from beginning to end, which leaves no task and no second reader."""
    before = living_tasks()
    with anyio.fail_after(5):
        await handler(http_scope(method="POST"), server.receive, server.send)
    assert living_tasks() == before


async def never(request: Request) -> Response:
    """Must not be called."""
    raise AssertionError("the endpoint was called")


class Waiting:
    """An endpoint that waits in some way, and remembers how that ended."""

    def __init__(self, wait: Callable[[], Awaitable[object]], server: Channel) -> None:
        self._wait = wait
        self._server = server
        self.ended: list[str] = []

    async def __call__(self, request: Request) -> Response:
        self._server.disconnect()
        try:
            await self._wait()
        except anyio.get_cancelled_exc_class():
            assert request.is_disconnected
            self.ended.append("cancelled")
            raise
        self.ended.append("returned")
        return Response(b"for nobody")


# --- before and during the body --------------------------------------------------------------------------


@pytest.mark.parametrize("count", range(4))
@pytest.mark.parametrize("suspend", [False, True])
async def test_disconnect_before_the_end_of_the_body_calls_no_endpoint(count: int, suspend: bool) -> None:
    """In spool mode a truncated body never reaches the endpoint, and nothing is sent."""
    messages = body_messages(b"a", b"b", b"c", b"d")[:count]
    server = Channel([*messages, DISCONNECT], suspends=suspend)
    await serve(Handler(never), server)
    assert server.sent == []


@pytest.mark.parametrize("count", range(4))
@pytest.mark.parametrize("how", ["body", "stream", "file", "json"])
async def test_disconnect_while_the_endpoint_reads_raises_in_it(count: int, how: str) -> None:
    """In stream mode every way to read a truncated body raises; nothing is sent."""
    seen: list[type[Exception]] = []

    async def endpoint(request: Request) -> Response:
        try:
            if how == "stream":
                async for _ in request.stream():
                    pass
            else:
                await getattr(request, how)()
        except Exception as exc:
            seen.append(type(exc))
            raise
        raise AssertionError("a truncated body was taken for a whole one")

    messages = body_messages(b"1", b"2", b"3", b"4")[:count]
    server = Channel([*messages, DISCONNECT])
    await serve(Handler(endpoint, body="stream"), server)
    assert seen == [ClientDisconnectedError]
    assert server.sent == []


@modes
@pytest.mark.parametrize("error", [OSError("gone"), ConnectionResetError(), ClientDisconnectedError()])
async def test_disconnect_by_an_oserror_of_receive_is_the_same(mode: Any, error: OSError) -> None:
    """An OSError of receive() is the disconnect, whatever its class."""

    async def endpoint(request: Request) -> Response:
        return Response(await request.body())

    fault = Fault("receive", 2, error)
    response = await Client(Handler(endpoint, body=mode)).post("/", content=[b"a", b"b"], fault=fault)
    assert fault.happened
    assert response.error is None
    assert response.messages == ()


async def test_disconnect_by_an_oserror_of_receive_cancels_a_waiting_endpoint() -> None:
    """The same where the listener gets the OSError."""
    ended = []

    async def endpoint(request: Request) -> Response:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(request.is_disconnected)
        raise AssertionError("not reached")

    response = await Client(Handler(endpoint)).get("/", fault=Fault("receive", 2, OSError("gone")))
    assert ended == [True]
    assert response.error is None
    assert response.messages == ()


async def test_disconnect_while_waiting_for_the_body_in_spool_mode_ends_quietly() -> None:
    """A client that leaves in the middle of a slow upload costs nothing more."""
    server = Channel(body_messages(b"a", b"b")[:1])
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(Handler(never), http_scope(method="POST"), server.receive, server.send)
            await anyio.wait_all_tasks_blocked()
            server.disconnect()
    assert server.sent == []


async def test_disconnect_of_an_unread_body_in_stream_mode_cancels() -> None:
    """The disconnect is heard also while the endpoint ignores the body, as long as no part of it is in the way."""
    server = Channel(())
    waiting = Waiting(anyio.sleep_forever, server)
    await serve(Handler(waiting, body="stream"), server)
    assert waiting.ended == ["cancelled"]


async def test_disconnect_unread_body_is_held_back_and_not_lost() -> None:
    """While the endpoint waits one message at most is read ahead, and the endpoint gets it later."""
    received = []

    async def endpoint(request: Request) -> Response:
        await turn(10)
        received.append(server.received)
        return Response(await request.body())

    server = Channel(body_messages(b"a", b"b", b"c"))
    await serve(Handler(endpoint, body="stream"), server)
    assert received == [1]
    assert server.body == b"abc"


async def test_disconnect_after_parts_read_ahead_cancels_once_they_are_taken() -> None:
    """The part that was read ahead is handed over, then the disconnect behind it is heard."""
    seen = []
    server = Channel([*body_messages(b"a", b"b")[:1], DISCONNECT])

    async def endpoint(request: Request) -> Response:
        await turn(5)
        stream = request.stream()
        seen.append(await anext(stream))
        with pytest.raises(ClientDisconnectedError):
            await anext(stream)
        assert request.is_disconnected
        return Response(b"for nobody")

    await serve(Handler(endpoint, body="stream"), server)
    assert seen == [b"a"]
    assert server.sent == []


# --- while the endpoint waits ----------------------------------------------------------------------------


async def nested() -> None:
    with anyio.CancelScope(), anyio.CancelScope():
        await anyio.sleep_forever()


async def moving_on() -> None:
    with anyio.move_on_after(60):
        await anyio.sleep_forever()


async def failing_after() -> None:
    with anyio.fail_after(60):
        await anyio.sleep_forever()


async def children() -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep_forever)
        group.start_soon(moving_on)


async def in_group() -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep_forever)
        await anyio.sleep_forever()


async def on_event() -> None:
    await anyio.Event().wait()


async def on_lock() -> None:
    lock = anyio.Lock()
    async with lock, anyio.create_task_group() as group:

        async def take() -> None:
            async with lock:
                raise AssertionError("not reached")

        group.start_soon(take)
        await anyio.sleep_forever()


async def busy() -> None:
    while True:
        await checkpoint()


WAITS = [anyio.sleep_forever, nested, moving_on, failing_after, children, in_group, on_event, on_lock, busy]


@pytest.mark.parametrize("wait", WAITS, ids=lambda wait: wait.__name__)
@pytest.mark.parametrize("tells", ["event", "both"])
@modes
async def test_disconnect_while_the_endpoint_waits_cancels_it(
    wait: Callable[[], Awaitable[object]], tells: Any, mode: Any
) -> None:
    """However the endpoint waits, it is cancelled when the client leaves, and nothing is sent."""
    server = Channel(tells=tells)
    waiting = Waiting(wait, server)
    await serve(Handler(waiting, body=mode), server)
    assert waiting.ended == ["cancelled"]
    assert server.sends == 0


async def in_asyncio_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(60))


async def in_asyncio_timeout() -> None:
    async with asyncio.timeout(60):
        await asyncio.sleep(60)


async def in_gather() -> None:
    await asyncio.gather(asyncio.sleep(60), asyncio.sleep(60))


async def in_wait_for() -> None:
    await asyncio.wait_for(asyncio.sleep(60), 60)


@on_asyncio
@pytest.mark.parametrize(
    "wait", [in_asyncio_group, in_asyncio_timeout, in_gather, in_wait_for], ids=lambda wait: wait.__name__
)
async def test_disconnect_while_the_endpoint_waits_natively_cancels_it(wait: Callable[[], Awaitable[object]]) -> None:
    """The same for the means of asyncio itself."""
    server = Channel()
    waiting = Waiting(wait, server)
    await serve(Handler(waiting), server)
    assert waiting.ended == ["cancelled"]
    assert server.sent == []


async def test_disconnect_respects_a_shielded_section() -> None:
    """A shielded section runs to its end; the cancellation comes at the next wait after it."""
    server = Channel()
    order = []

    async def shielded() -> None:
        with anyio.CancelScope(shield=True):
            await server.told.wait()
            await turn(20)
            order.append("committed")
        await checkpoint()
        order.append("not reached")

    waiting = Waiting(shielded, server)
    await serve(Handler(waiting), server)
    assert order == ["committed"]
    assert waiting.ended == ["cancelled"]


async def test_disconnect_respects_shielded_cleanup_of_the_endpoint() -> None:
    """What the endpoint does in a shielded finally is waited for."""
    server = Channel()
    order = []

    async def cleaning() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await turn(20)
                order.append("rolled back")

    await serve(Handler(Waiting(cleaning, server)), server)
    assert order == ["rolled back"]


async def test_disconnect_inner_timeout_of_the_endpoint_still_works() -> None:
    """A timeout of the endpoint's own is told apart from the client's leaving."""

    async def endpoint(request: Request) -> Response:
        with anyio.move_on_after(0.005) as scope:
            await anyio.sleep_forever()
        assert scope.cancelled_caught
        return Response(b"late")

    server = Channel()
    await serve(Handler(endpoint), server)
    assert server.body == b"late"


@pytest.mark.parametrize("phase", ["plain", "child", "nested", "stream", "send"])
async def test_disconnect_cancels_within_one_turn_of_the_loop(phase: str) -> None:
    """The cancellation arrives in the turn after the one in which receive() gave the disconnect."""
    told: list[int] = []
    cancelled: list[int] = []

    async def wait() -> None:
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            cancelled.append(count())
            raise

    async def endpoint(request: Request) -> Response:
        if phase in ("stream", "send"):
            return StreamingResponse(parts())
        if phase == "child":
            async with anyio.create_task_group() as group:
                group.start_soon(wait)
        with anyio.CancelScope(), anyio.fail_after(60):
            await wait()
        raise AssertionError("not reached")

    async def parts() -> AsyncIterator[bytes]:
        yield b"a"
        await wait()

    async def blocks(index: int, message: Message) -> None:
        if phase == "send" and index == 1:
            await wait()

    async def receive() -> Message:
        message = await server.receive()
        if message["type"] == "http.disconnect":
            told.append(count())
        return message

    server = Channel(on_send=blocks)
    with turns() as count, anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(Handler(endpoint), http_scope(), receive, server.send)
            await turn(20)
            assert told == []
            server.disconnect()
    assert len(told) == len(cancelled) == 1
    assert cancelled[0] - told[0] <= 1


async def test_disconnect_endpoint_swallows_the_cancellation_sends_nothing() -> None:
    """An endpoint that returns a response all the same has nobody to send it to; the response is closed."""
    server = Channel()
    closed = []

    class Stream:
        def __aiter__(self) -> AsyncIterator[bytes]:
            raise AssertionError("not reached")

        async def aclose(self) -> None:
            closed.append(True)

    async def endpoint(request: Request) -> Response:
        server.disconnect()
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            return StreamingResponse(Stream())
        raise AssertionError("not reached")

    await serve(Handler(endpoint), server)
    assert server.sent == []
    assert closed == [True]


@pytest.mark.parametrize("error", [RuntimeError("cut short"), HTTPError(503), OSError("broken")])
async def test_disconnect_endpoint_turns_the_cancellation_into_an_error_is_quiet(error: Exception) -> None:
    """An error that the endpoint makes of its cancellation is not answered and not an error in the log."""
    server = Channel()

    async def endpoint(request: Request) -> Response:
        server.disconnect()
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            raise error from None
        raise AssertionError("not reached")

    await serve(Handler(endpoint), server)
    assert server.sent == []


async def test_disconnect_child_fails_while_cancelled_is_quiet() -> None:
    """The exception group of children that fail while they are cancelled is quiet as well."""
    server = Channel()

    async def child() -> None:
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            raise RuntimeError("cut short") from None

    async def wait() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(child)
            group.start_soon(child)

    async def endpoint(request: Request) -> Response:
        server.disconnect()
        await wait()
        raise AssertionError("not reached")

    await serve(Handler(endpoint), server)
    assert server.sent == []


# --- while a response streams ----------------------------------------------------------------------------


class Producing:
    """An endpoint that streams, and remembers what became of its generator."""

    def __init__(self, wait: Callable[[int], Awaitable[object]], parts: int = 5) -> None:
        self._wait = wait
        self._parts = parts
        self.produced = 0
        self.closed = 0

    async def __call__(self, request: Request) -> Response:
        return StreamingResponse(self._generate())

    async def _generate(self) -> AsyncIterator[bytes]:
        try:
            for number in range(self._parts):
                self.produced += 1
                yield b"%d" % number
                await self._wait(number)
        finally:
            self.closed += 1


@pytest.mark.parametrize("tells", ["event", "both"])
@pytest.mark.parametrize("at", [0, 2])
async def test_disconnect_while_the_generator_waits_closes_it(tells: Any, at: int) -> None:
    """A generator that waits when the client leaves is closed before the application returns."""
    server = Channel(tells=tells)

    async def wait(number: int) -> None:
        if number == at:
            server.disconnect()
            await anyio.sleep_forever()

    endpoint = Producing(wait)
    await serve(Handler(endpoint), server)
    assert (endpoint.produced, endpoint.closed) == (at + 1, 1)
    check_messages(server.sent, complete=False)


@pytest.mark.parametrize("tells", ["event", "raise", "both"])
async def test_disconnect_while_the_generator_is_busy_stops_it(tells: Any) -> None:
    """A stream that goes on producing stops within two parts, whether the server tells or raises."""
    server = Channel(tells=tells)

    async def wait(number: int) -> None:
        if number == 3:
            server.disconnect()
        await turn(2)

    endpoint = Producing(wait, 10**6)
    await serve(Handler(endpoint), server)
    assert endpoint.produced <= 6
    assert endpoint.closed == 1
    check_messages(server.sent, complete=False)


async def test_disconnect_noticed_by_send_alone_stops_a_generator_that_never_waits() -> None:
    """A failed send ends the response at once."""
    server = Channel(tells="raise")

    async def wait(number: int) -> None:
        if number == 3:
            server.disconnect()

    endpoint = Producing(wait, 10**6)
    await serve(Handler(endpoint), server)
    assert (endpoint.produced, endpoint.closed) == (5, 1)
    assert server.sends == 6  # the start, four parts and the one that failed


@pytest.mark.parametrize("tells", ["event", "both"])
@pytest.mark.parametrize("at", [0, 1, 2])
async def test_disconnect_while_send_blocks_cancels_it(tells: Any, at: int) -> None:
    """A send that a slow client holds up is cancelled when that client leaves."""

    async def blocks(index: int, message: Message) -> None:
        if index == at:
            server.disconnect()
            await anyio.sleep_forever()

    async def wait(number: int) -> None:
        pass

    server = Channel(tells=tells, on_send=blocks)
    endpoint = Producing(wait)
    await serve(Handler(endpoint), server)
    assert endpoint.closed == (1 if at else 0)
    assert server.sends == at + 1
    check_messages(server.sent, complete=False if at else None)


@pytest.mark.parametrize("at", range(4))
async def test_disconnect_raised_by_a_send_that_has_blocked_ends_quietly(at: int) -> None:
    """The same where the server lets the send fail instead."""

    async def fails(index: int, message: Message) -> None:
        if index == at:
            await turn(3)
            raise BrokenPipeError

    async def wait(number: int) -> None:
        await checkpoint()

    server = Channel(tells="nothing", on_send=fails)
    endpoint = Producing(wait, 2)
    await serve(Handler(endpoint), server)
    assert server.sends == at + 1
    assert endpoint.closed == (1 if at else 0)


@pytest.mark.parametrize("at", range(2))
@pytest.mark.parametrize("error", [OSError(113, "no route"), TimeoutError(), ClientDisconnectedError()])
async def test_disconnect_raised_by_send_of_a_whole_response_ends_quietly(at: int, error: OSError) -> None:
    """Any OSError of send is the disconnect, and send is not called again."""

    async def fails(index: int, message: Message) -> None:
        if index == at:
            raise error

    async def endpoint(request: Request) -> Response:
        return Response(b"x")

    server = Channel(on_send=fails)
    await serve(Handler(endpoint), server)
    assert server.sends == at + 1


@modes
@pytest.mark.parametrize("on_disconnect", ["cancel", "notify"])
async def test_disconnect_raised_by_send_of_an_error_page_ends_quietly(mode: Any, on_disconnect: Any) -> None:
    """A refusal that nobody is there to get is no error either."""
    server = Channel(body_messages(b"abc"), tells="raise")
    server.disconnect()

    async def endpoint(request: Request) -> Response:
        raise HTTPError(404)

    handler = Handler(endpoint, body=mode, on_disconnect=on_disconnect, limits=Limits(max_body_bytes=2))
    await serve(handler, server)
    assert server.sends == 1


async def test_disconnect_told_by_nobody_stream_goes_on_until_it_is_cancelled() -> None:
    """Where the server tells nothing the stream goes on; cancelled from outside it is closed and that is raised."""
    server = Channel(tells="nothing")

    async def wait(number: int) -> None:
        if number == 3:
            server.disconnect()
        if number == 20:
            outer.cancel()
        await checkpoint()

    endpoint = Producing(wait, 10**6)
    reached: list[bool] = []
    with anyio.fail_after(5), anyio.CancelScope() as outer:
        await Handler(endpoint)(http_scope(), server.receive, server.send)
        reached.append(True)
    assert outer.cancelled_caught
    assert reached == []
    assert (endpoint.produced, endpoint.closed) == (21, 1)


@pytest.mark.parametrize("spec", [..., "2.0", "2.3", "2.4", "2.5"])
async def test_disconnect_is_listened_for_whatever_the_spec_version(spec: Any) -> None:
    """spec_version selects no strategy."""
    server = Channel()
    waiting = Waiting(anyio.sleep_forever, server)
    asgi = {"version": "3.0"} if spec is ... else {"version": "3.0", "spec_version": spec}
    with anyio.fail_after(5):
        await Handler(waiting)(http_scope(asgi=asgi), server.receive, server.send)
    assert waiting.ended == ["cancelled"]


# --- after the final byte --------------------------------------------------------------------------------


@pytest.mark.parametrize("streams", [False, True], ids=["bytes", "stream"])
async def test_disconnect_reported_before_the_final_send_returns_is_no_disconnect(streams: bool) -> None:
    """Servers report a disconnect when the response is complete: it cancels nothing, background work included."""
    done = []
    left = []

    class Told(Handler):
        async def client_left(self, request: Any, phase: Any) -> None:
            left.append(phase)

    class Early(Channel):
        async def send(self, message: Message) -> None:
            await super().send(message)
            if message["type"] == "http.response.body" and not message["more_body"]:
                await self.told.wait()
                await turn(5)
                done.append("sent")

    async def background() -> None:
        await turn(5)
        done.append("background")

    async def parts() -> AsyncIterator[bytes]:
        yield b"x"

    async def endpoint(request: Request) -> Response:
        await checkpoint()
        if streams:
            return StreamingResponse(parts(), background=background)
        return Response(b"x", background=background)

    server = Early()
    await serve(Told(endpoint), server)
    check_messages(server.sent, complete=True)
    assert done == ["sent", "background"]
    assert left == []


@pytest.mark.parametrize("when_cancelled", ["raise", "disconnect", "error"])
@modes
async def test_disconnect_listener_is_stopped_within_a_few_turns(when_cancelled: Any, mode: Any) -> None:
    """After the last send the application returns at once, whatever receive() does when it is cancelled."""
    after: list[int] = []

    async def on_send(index: int, message: Message) -> None:
        after[:] = [count()]

    async def silent(index: int) -> None:
        # No disconnect after the response, as some servers have it.
        if index:
            await anyio.sleep_forever()

    server = Channel(on_receive=silent, on_send=on_send, when_cancelled=when_cancelled)

    async def endpoint(request: Request) -> Response:
        await turn(3)
        return Response(b"x")

    with turns() as count:
        await serve(Handler(endpoint, body=mode), server)
        assert count() - after[0] <= 3
    check_messages(server.sent, complete=True)


@pytest.mark.usefixtures("leaves_listeners_behind")
@pytest.mark.parametrize("suspend", [False, True])
async def test_disconnect_listener_that_swallows_the_cancellation_holds_up_nothing(suspend: bool) -> None:
    """A receive() that goes on waiting when it is cancelled is left behind, in a task from the first or not."""

    left = anyio.Event()

    async def silent(index: int) -> None:
        if index:
            await left.wait()

    server = Channel(on_receive=silent, when_cancelled="wait", suspends=suspend)

    async def endpoint(request: Request) -> Response:
        await turn(3)
        return Response(b"x")

    before = living_tasks()
    with anyio.fail_after(5):
        await Handler(endpoint)(http_scope(), server.receive, server.send)
    check_messages(server.sent, complete=True)
    assert len(living_tasks() - before) == 1
    left.set()
    await anyio.wait_all_tasks_blocked()
    assert living_tasks() == before


# --- repeated messages after the body --------------------------------------------------------------------

EXTRA: dict[str, Message] = {
    "same": EMPTY,
    "no keys": {"type": "http.request"},
    "with a body": {"type": "http.request", "body": b"x", "more_body": True},
}


@pytest.mark.parametrize("extra", EXTRA.values(), ids=EXTRA)
@pytest.mark.parametrize("count", [1, 10])
@pytest.mark.parametrize("suspend", [False, True])
async def test_disconnect_extra_requests_after_the_body_are_ignored(extra: Message, count: int, suspend: bool) -> None:
    """Repeated http.request messages after the body change nothing; the disconnect behind them is heard."""
    server = Channel([*body_messages(b"data"), *[extra] * count], suspends=suspend)

    async def endpoint(request: Request) -> Response:
        await turn(count * 4 + 4)
        assert not request.is_disconnected
        return Response(await request.body())

    await serve(Handler(endpoint), server)
    assert server.body == b"data"

    gone = Channel([*body_messages(b"data"), *[extra] * count], suspends=suspend)
    waiting = Waiting(anyio.sleep_forever, gone)
    await serve(Handler(waiting), gone)
    assert waiting.ended == ["cancelled"]


async def test_disconnect_endless_extra_requests_starve_nobody() -> None:
    """A server that gives such messages in a hot loop holds up neither the endpoint nor the end of the request."""
    server = Channel(repeat(EMPTY))

    async def endpoint(request: Request) -> Response:
        await turn(50)
        return Response(b"done")

    await serve(Handler(endpoint), server)
    assert server.body == b"done"
    assert server.received <= 200


# --- cancellation from outside ---------------------------------------------------------------------------

PHASES = ["body", "endpoint", "group", "shielded", "stream", "send", "background"]


def in_phase(phase: str) -> tuple[Handler, Channel, list[BaseException]]:
    """A handler that waits in one phase, its server, and where the cancellation it got is kept."""
    caught: list[BaseException] = []

    async def wait() -> None:
        try:
            await anyio.sleep_forever()
        except BaseException as exc:
            caught.append(exc)
            raise

    async def parts() -> AsyncIterator[bytes]:
        yield b"a"
        await wait()

    async def blocks(index: int, message: Message) -> None:
        if phase == "send":
            await wait()

    async def receive_blocks(index: int) -> None:
        await wait()

    async def endpoint(request: Request) -> Response:
        if phase == "endpoint":
            await wait()
        if phase == "group":
            async with anyio.create_task_group() as group:
                group.start_soon(anyio.sleep_forever)
                await wait()
        if phase == "shielded":
            with anyio.CancelScope(shield=True):
                await turn(20)
            await wait()
        if phase == "stream":
            return StreamingResponse(parts())
        return Response(b"x", background=wait if phase == "background" else None)

    server = Channel(on_send=blocks, on_receive=receive_blocks if phase == "body" else None)
    return Handler(endpoint), server, caught


@turn_time
@pytest.mark.parametrize("phase", PHASES)
async def test_disconnect_outer_scope_cancelled_passes_through(phase: str) -> None:
    """The cancellation of a scope around the application is not swallowed, in any phase."""
    handler, server, caught = in_phase(phase)
    reached: list[bool] = []

    async def run() -> None:
        with scope:
            await handler(http_scope(), server.receive, server.send)
            reached.append(True)

    scope = anyio.CancelScope()
    before = living_tasks()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(run)
            await anyio.wait_all_tasks_blocked()
            scope.cancel()
    assert scope.cancelled_caught
    assert reached == []
    assert len(caught) == 1
    assert living_tasks() == before
    check_messages(server.sent, complete=True if phase == "background" else None)


@turn_time_on_asyncio
@pytest.mark.parametrize("phase", PHASES)
async def test_disconnect_native_cancellation_passes_through_unchanged(phase: str) -> None:
    """Task.cancel() by the server reaches the endpoint and comes out as the same object, message included."""
    handler, server, caught = in_phase(phase)
    raised: list[BaseException] = []

    async def run() -> None:
        try:
            await handler(http_scope(), server.receive, server.send)
        except BaseException as exc:
            raised.append(exc)
            raise

    before = living_tasks()
    with anyio.fail_after(5):
        task = asyncio.create_task(run())
        await (turn(40) if phase == "shielded" else anyio.wait_all_tasks_blocked())
        task.cancel("the server shuts down")
        await asyncio.wait([task])
    assert task.cancelled()
    assert len(raised) == 1
    assert raised[0] is caught[0]
    assert raised[0].args == ("the server shuts down",)
    assert living_tasks() == before


@turn_time_on_asyncio
@pytest.mark.parametrize("order", ["disconnect first", "cancellation first"])
@pytest.mark.parametrize("apart", range(4))
async def test_disconnect_and_native_cancellation_together_raise_the_cancellation(order: str, apart: int) -> None:
    """A server that tells the disconnect and cancels the task sees its cancellation, whichever comes first."""
    cleaned = []
    server = Channel()

    async def endpoint(request: Request) -> Response:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await turn(2)
                cleaned.append(True)
        raise AssertionError("not reached")

    async def run() -> None:
        await Handler(endpoint)(http_scope(), server.receive, server.send)
        await turn(3)

    with anyio.fail_after(5):
        task = asyncio.create_task(run())
        await anyio.wait_all_tasks_blocked()
        steps: list[Callable[[], object]] = [server.disconnect, task.cancel]
        if order == "cancellation first":
            steps.reverse()
        steps[0]()
        await turn(apart)
        steps[1]()
        await asyncio.wait([task])
    assert task.cancelled()


@turn_time
@pytest.mark.parametrize("order", ["disconnect first", "cancellation first"])
@pytest.mark.parametrize("apart", range(4))
async def test_disconnect_and_outer_scope_together_raise_the_cancellation(order: str, apart: int) -> None:
    """The same for a scope around the application: it gets its cancellation, at the latest at the next wait."""
    server = Channel()
    reached: list[bool] = []

    async def endpoint(request: Request) -> Response:
        await anyio.sleep_forever()
        raise AssertionError("not reached")

    async def run() -> None:
        with scope:
            await Handler(endpoint)(http_scope(), server.receive, server.send)
            await turn(20)
            reached.append(True)

    scope = anyio.CancelScope()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(run)
            await anyio.wait_all_tasks_blocked()
            steps: list[Callable[[], object]] = [server.disconnect, scope.cancel]
            if order == "cancellation first":
                steps.reverse()
            steps[0]()
            await turn(apart)
            steps[1]()
    assert scope.cancelled_caught
    assert reached == []


async def test_disconnect_listener_slow_to_end_is_gone_when_an_outer_scope_cancels() -> None:
    """Cancelled from outside, the application does not leave its listener behind either."""

    async def slow_to_end(index: int) -> None:
        if index:
            try:
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await turn(3)
                ended.append(True)

    async def endpoint(request: Request) -> Response:
        await anyio.sleep_forever()
        raise AssertionError("not reached")

    async def run() -> None:
        try:
            with scope:
                await Handler(endpoint)(http_scope(), server.receive, server.send)
        finally:
            at_the_end.extend(ended)

    server = Channel(on_receive=slow_to_end)
    ended: list[bool] = []
    at_the_end: list[bool] = []
    scope = anyio.CancelScope()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(run)
            await anyio.wait_all_tasks_blocked()
            scope.cancel()
    assert at_the_end == [True]


@on_asyncio
async def test_disconnect_native_cancellation_while_a_refused_upload_is_written_is_not_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Cancelled while it waits for the disk to refuse an upload, the application raises the cancellation."""
    release = threading.Event()
    write = Spool.write

    def slow(self: Spool, *args: Any) -> None:
        release.wait(5)
        write(self, *args)

    monkeypatch.setattr(Spool, "write", slow)
    server = Channel(body_messages(*[b"12345"] * 5))
    handler = Handler(never, limits=Limits(spool_threshold_bytes=8, max_body_bytes=20))
    reached = []

    async def app() -> None:
        await handler(http_scope(method="POST"), server.receive, server.send)
        reached.append(True)
        await turn(3)

    with anyio.fail_after(5):
        task = asyncio.create_task(app())
        while server.received < 5:
            await checkpoint()
        await turn(5)
        assert not task.done()
        task.cancel()
        await turn(5)
        release.set()
        await asyncio.wait([task])
    assert task.cancelled()
    assert reached == []


@on_asyncio
async def test_disconnect_cancel_count_of_the_task_is_left_as_it_was() -> None:
    """A disconnect leaves no trace on the caller's task: later timeouts of asyncio work."""
    server = Channel()
    task = asyncio.current_task()
    assert task is not None
    before = task.cancelling()
    await serve(Handler(Waiting(anyio.sleep_forever, server)), server)
    assert task.cancelling() == before
    async with asyncio.timeout(5):
        await checkpoint()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await asyncio.sleep(5)


@on_asyncio
@pytest.mark.parametrize("child", ["in the block", "while leaving"])
async def test_disconnect_after_a_task_group_of_asyncio_has_failed_ends_quietly(child: str) -> None:
    """Before Python 3.13 the group may leave a cancellation in the task's count, which is nobody's."""

    async def fails() -> None:
        raise ValueError("of a child")

    async def endpoint(request: Request) -> Response:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(fails())
                if child == "in the block":
                    await anyio.sleep_forever()
        except* ValueError:
            pass
        waits.set()
        await anyio.sleep_forever()
        raise AssertionError("not reached")

    waits = anyio.Event()
    server = Channel()
    with anyio.fail_after(5):
        task = asyncio.create_task(Handler(endpoint)(http_scope(), server.receive, server.send))
        await waits.wait()
        server.disconnect()
        await asyncio.wait([task])
    assert not task.cancelled()
    assert task.exception() is None
    assert server.sent == []
