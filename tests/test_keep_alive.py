"""_keep_alive.py: what is sent between two parts comes in time, disturbs nobody and leaves nothing behind."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextvars import ContextVar
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from clocks import turn_time, turn_time_on_asyncio
from conftest import BACKENDS
from faults import spawned

from asgicore import Body, Handler, Limits, Request, Response, StreamingResponse, Threads
from asgicore._exchange import Exchange
from asgicore._keep_alive import KeepAlive
from asgicore._watch import is_trio
from asgicore.testing import Channel, LeakGuard, Message, check_messages, http_scope
from asgicore.testing._living import tasks as living_tasks

only_asyncio = pytest.mark.parametrize("anyio_backend", [b for b in BACKENDS if b.values[0][0] == "asyncio"])

# All times here are in units of so many seconds, since the loops take a turn for each millisecond.
UNIT = 0.1
# After how long something is sent, and how much later than it should a timer of these loops may end.
SILENCE = 15
LATE = 0.3

Parts = Callable[[], AsyncIterator[bytes]]
OnSend = Callable[[int, Message], Awaitable[None]]


def now() -> float:
    return anyio.current_time() / UNIT


async def sleep(units: float) -> None:
    await anyio.sleep(units * UNIT)


class Line(Channel):
    """A channel that knows when it took what, and that nobody may call ``send`` of while another call waits."""

    def __init__(self, on_send: OnSend | None = None) -> None:
        super().__init__(on_send=on_send)
        self._began = now()
        self._is_busy = False
        self.taken: list[tuple[float, bytes]] = []
        """The parts of the body, each with the time after which it was taken."""

    async def send(self, message: Message) -> None:
        assert not self._is_busy, "two senders"
        self._is_busy = True
        try:
            await super().send(message)
        finally:
            self._is_busy = False
        if message.get("body"):
            self.taken.append((round(now() - self._began, 1), message["body"]))


async def serve(parts: Parts | Response, line: Line, handler: Handler | None = None, **options: Any) -> None:
    """One request for a stream that is kept alive. It leaves no task behind."""
    before = living_tasks()
    handler = handler or handler_of(parts, **options)
    with anyio.fail_after(3600):
        try:
            await handler(http_scope(), line.receive, line.send)
        finally:
            assert living_tasks() == before


def handler_of(parts: Parts | Response, **options: Any) -> Handler:
    async def endpoint(request: Request) -> Response:
        if isinstance(parts, Response):
            return parts
        response = StreamingResponse(parts())
        response.keep_alive = (SILENCE * UNIT, b"ping")
        return response

    return Handler(endpoint, **options)


@turn_time
@pytest.mark.parametrize("waits_first", [True, False])
async def test_something_is_sent_whenever_nothing_was_for_so_long(waits_first: bool) -> None:
    """The time is counted from the last part, or from the last one that was sent between; however often it waits."""

    async def parts() -> AsyncIterator[bytes]:
        yield b"one"
        await sleep(50)
        yield b"two"
        for _ in range(4):
            await sleep(10)
            yield b"more"
        await sleep(20)

    async def endpoint(request: Request) -> Response:
        if waits_first:
            await checkpoint()
        response = StreamingResponse(parts())
        response.keep_alive = (SILENCE * UNIT, b"ping")
        return response

    line = Line()
    await serve(parts, line, Handler(endpoint))
    assert [part for _, part in line.taken] == [
        *(b"one", b"ping", b"ping", b"ping", b"two"),
        *(b"more", b"more", b"more", b"more", b"ping"),
    ]
    expected = [0, 15, 30, 45, 50, 60, 70, 80, 90, 105]
    assert [at for at, _ in line.taken] == pytest.approx(expected, abs=LATE)
    check_messages(line.sent, complete=True)


@turn_time
async def test_empty_part_is_nothing_that_was_sent() -> None:
    """It does not put off what is due."""

    async def parts() -> AsyncIterator[bytes]:
        yield b"one"
        for _ in range(4):
            await sleep(10)
            yield b""

    line = Line()
    await serve(parts, line)
    assert [part for _, part in line.taken] == [b"one", b"ping", b"ping"]
    assert [at for at, _ in line.taken] == pytest.approx([0, 15, 30], abs=LATE)


@turn_time
async def test_nothing_is_sent_while_the_client_does_not_read() -> None:
    """A part that is not taken holds back what comes after it, and the time is counted from when it was."""

    async def parts() -> AsyncIterator[bytes]:
        yield b"one"
        yield b"two"
        await sleep(20)
        yield b"three"

    async def on_send(index: int, message: Message) -> None:
        if message.get("body") == b"two":
            await sleep(100)

    line = Line(on_send)
    await serve(parts, line)
    assert [part for _, part in line.taken] == [b"one", b"two", b"ping", b"three"]
    assert [at for at, _ in line.taken] == pytest.approx([0, 100, 115, 120], abs=LATE)


@turn_time
async def test_part_that_is_ready_meanwhile_waits_for_that_one_send() -> None:
    """A client that stops to read gets one ping, however long it takes, and then what is ready."""
    asked: list[float] = []

    async def parts() -> AsyncIterator[bytes]:
        await sleep(20)
        asked.append(now())
        yield b"one"
        asked.append(now())
        yield b"two"

    async def on_send(index: int, message: Message) -> None:
        if message.get("body") == b"ping":
            await sleep(100)

    line = Line(on_send)
    await serve(parts, line)
    assert [part for _, part in line.taken] == [b"ping", b"one", b"two"]
    assert [at for at, _ in line.taken] == pytest.approx([115, 115, 115], abs=LATE)
    # Back-pressure: the second part was not asked for before the first was taken.
    assert asked[1] - asked[0] == pytest.approx(95, abs=LATE)


@turn_time
async def test_stream_that_ends_meanwhile_ends_after_that_one_send() -> None:
    """The final message comes last."""

    async def parts() -> AsyncIterator[bytes]:
        yield b"one"
        await sleep(20)

    async def on_send(index: int, message: Message) -> None:
        if message.get("body") == b"ping":
            await sleep(100)

    line = Line(on_send)
    await serve(parts, line)
    assert [part for _, part in line.taken] == [b"one", b"ping"]
    check_messages(line.sent, complete=True)


_variable: ContextVar[str] = ContextVar("variable", default="outside")


@turn_time
async def test_iterator_is_not_disturbed() -> None:
    """It runs in one task, and holds cancel scopes, task groups and context variables across its ``yield``."""
    tasks: list[Any] = []
    ended: list[str] = []

    async def beat() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("beat")

    async def parts() -> AsyncIterator[bytes]:
        tasks.append(anyio.get_current_task().id)
        token = _variable.set("inside")
        async with anyio.create_task_group() as group:
            group.start_soon(beat)
            with anyio.move_on_after(95 * UNIT) as scope:
                yield b"one"
                await sleep(40)
                tasks.append(anyio.get_current_task().id)
                yield b"two"
                await anyio.sleep_forever()
            assert scope.cancelled_caught
            yield b"three"
            group.cancel_scope.cancel()
        assert _variable.get() == "inside"
        _variable.reset(token)
        tasks.append(anyio.get_current_task().id)

    line = Line()
    await serve(parts, line)
    assert [part for _, part in line.taken] == [
        *(b"one", b"ping", b"ping", b"two", b"ping", b"ping", b"ping"),
        b"three",
    ]
    assert tasks == [anyio.get_current_task().id] * 3
    assert ended == ["beat"]
    assert _variable.get() == "outside"


# --- the client leaves -----------------------------------------------------------------------------------

POINTS = ["start", "part", "waiting", "ping", "behind a ping"]


class Source:
    """Parts at 0, 20, 40 ..., and how they ended."""

    def __init__(self) -> None:
        self.closed = 0

    async def parts(self) -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"part"
                await sleep(20)
        finally:
            self.closed += 1
            with anyio.CancelScope(shield=True):
                await sleep(1)


def reach(point: str, act: Callable[[], object]) -> OnSend:
    """What a server does whose client does something at that point, and takes nothing from then on."""

    async def on_send(index: int, message: Message) -> None:
        body = message.get("body")
        if (
            (point == "start" and index == 0)
            or (point == "part" and body == b"part")
            or (point == "ping" and body == b"ping")
        ):
            act()
            await sleep(1000)
        elif point == "behind a ping" and body == b"ping":
            await sleep(10)
            act()
            await sleep(1000)

    return on_send


@turn_time
@pytest.mark.parametrize("point", POINTS)
async def test_client_that_leaves_ends_the_stream_at_once(point: str, caplog: pytest.LogCaptureFixture) -> None:
    """Wherever it is: the iterator is closed, nothing is logged that anybody has to look at, and no task is left."""
    source = Source()
    line = Line()
    line.on_send = reach(point, line.disconnect)
    began = now()
    async with anyio.create_task_group() as group:
        if point == "waiting":

            async def leave() -> None:
                await sleep(17)
                line.disconnect()

            group.start_soon(leave)
        with anyio.fail_after(100):
            await handler_of(source.parts)(http_scope(), line.receive, line.send)
    at = {"start": 0, "part": 0, "waiting": 17, "ping": 15, "behind a ping": 25}[point]
    assert now() - began == pytest.approx(at + source.closed, abs=LATE)
    assert source.closed == (0 if point == "start" else 1)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    check_messages(line.sent)


@turn_time
@pytest.mark.parametrize("point", POINTS[1:])
async def test_handler_that_closes_ends_the_stream_cleanly(point: str) -> None:
    """Wherever it is, the final message is sent, and never beside another one."""
    source = Source()
    line = Line()
    handler = handler_of(source.parts)
    arrived = anyio.Event()
    line.on_send = reach(point, arrived.set)
    with anyio.fail_after(500):
        async with anyio.create_task_group() as group:
            group.start_soon(handler, http_scope(), line.receive, line.send)
            if point == "waiting":
                await sleep(17)
            else:
                await arrived.wait()
            await handler.aclose(0)
    assert source.closed == 1
    check_messages(line.sent, complete=True)


@turn_time
async def test_handler_that_closes_while_a_send_goes_on_whatever_cancels_breaks_the_stream_off(
    caplog: pytest.LogCaptureFixture, leaves_listeners_behind: None
) -> None:
    """After the time for closing nothing more is sent: there would be two senders."""
    source = Source()
    arrived = anyio.Event()

    async def on_send(index: int, message: Message) -> None:
        if message.get("body") == b"ping":
            arrived.set()
            with anyio.CancelScope(shield=True):
                try:
                    await sleep(100)
                except anyio.get_cancelled_exc_class():
                    await sleep(100)  # a native one, against which no shield holds

    line = Line(on_send)
    handler = handler_of(source.parts, limits=Limits(close_timeout_seconds=5 * UNIT))
    errors: list[Exception] = []

    async def request() -> None:
        try:
            await handler(http_scope(), line.receive, line.send)
        except Exception as exc:
            errors.append(exc)

    with anyio.fail_after(500):
        async with anyio.create_task_group() as group:
            group.start_soon(request)
            await arrived.wait()
            await handler.aclose(0)
    assert [type(error).__name__ for error in errors] == ["ResponseStateError"]
    assert source.closed == 1
    assert "cleanup did not end within 0.5 seconds" in caplog.text
    await sleep(100)
    check_messages(line.sent, complete=False)


@turn_time
async def test_ping_that_cannot_be_sent_ends_the_stream(caplog: pytest.LogCaptureFixture) -> None:
    """A client that left without a word: noticed by the ping, not by the part that comes much later."""
    source = Source()

    async def on_send(index: int, message: Message) -> None:
        if message.get("body") == b"ping":
            raise BrokenPipeError

    line = Line(on_send)
    began = now()
    await serve(source.parts, line)
    assert now() - began == pytest.approx(16, abs=LATE)
    assert source.closed == 1
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@turn_time
async def test_ping_that_is_not_taken_in_time_ends_the_stream() -> None:
    """``send_timeout_seconds`` goes for it as for any other message."""
    source = Source()

    async def on_send(index: int, message: Message) -> None:
        if message.get("body") == b"ping":
            await anyio.sleep_forever()

    line = Line(on_send)
    began = now()
    await serve(source.parts, line, limits=Limits(send_timeout_seconds=2 * UNIT))
    assert now() - began == pytest.approx(18, abs=LATE)
    assert source.closed == 1


@turn_time
@pytest.mark.parametrize("on_disconnect", ["cancel", "notify"])
async def test_error_of_the_server_in_a_ping_comes_out(on_disconnect: Any) -> None:
    """The very object, as from any other send; with "notify" when the next part is there."""
    source, error = Source(), LookupError("of the server")

    async def on_send(index: int, message: Message) -> None:
        if message.get("body") == b"ping":
            raise error

    line = Line(on_send)
    began = now()
    with pytest.raises(LookupError) as raised:
        await serve(source.parts, line, on_disconnect=on_disconnect)
    assert raised.value is error
    assert now() - began == pytest.approx(16 if on_disconnect == "cancel" else 21, abs=LATE)
    assert source.closed == 1
    check_messages(line.sent, complete=False)


@turn_time
@pytest.mark.parametrize("ends", [True, False])
async def test_ping_that_cannot_be_sent_is_told_where_nothing_is_cancelled(ends: bool) -> None:
    """With "notify" the request knows that its client left; the stream ends with its next part, or by itself."""
    known: list[float] = []

    async def endpoint(request: Request) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            await request.wait_disconnected()
            known.append(now())
            assert request.is_disconnected
            if not ends:
                yield b"too late"
                raise AssertionError("not reached")

        response = StreamingResponse(parts())
        response.keep_alive = (SILENCE * UNIT, b"ping")
        return response

    async def on_send(index: int, message: Message) -> None:
        if message.get("body") == b"ping":
            raise BrokenPipeError

    line = Line(on_send)
    began = now()
    await serve(StreamingResponse([]), line, Handler(endpoint, on_disconnect="notify"))
    assert known == pytest.approx([began + 15], abs=LATE)
    assert [message["type"] for message in line.sent] == ["http.response.start"]


# --- other ends ------------------------------------------------------------------------------------------


@turn_time
@pytest.mark.parametrize("is_sending", [True, False])
async def test_error_of_the_iterator_breaks_the_response_off(is_sending: bool) -> None:
    """At once, also where a ping is being sent."""

    async def parts() -> AsyncIterator[bytes]:
        yield b"one"
        await sleep(20)
        raise LookupError("of the iterator")

    async def on_send(index: int, message: Message) -> None:
        if is_sending and message.get("body") == b"ping":
            await anyio.sleep_forever()

    line = Line(on_send)
    with pytest.raises(LookupError, match="of the iterator"):
        await serve(parts, line)
    assert [part for _, part in line.taken] == ([b"one"] if is_sending else [b"one", b"ping"])
    check_messages(line.sent, complete=False)


@turn_time
@pytest.mark.parametrize("point", POINTS)
async def test_request_that_is_cancelled_from_outside_leaves_nothing(point: str) -> None:
    """Wherever it is; the cancellation goes where it came from."""
    source = Source()
    line = Line()
    before = living_tasks()
    with anyio.CancelScope() as scope:
        line.on_send = reach(point, scope.cancel)
        if point == "waiting":
            scope.deadline = anyio.current_time() + 17 * UNIT
        await serve(source.parts, line)
    assert scope.cancelled_caught
    assert living_tasks() == before
    assert source.closed == (0 if point == "start" else 1)


@turn_time_on_asyncio
@pytest.mark.parametrize("point", POINTS)
async def test_request_that_is_cancelled_natively_leaves_nothing(point: str) -> None:
    """As servers do it when they stop."""
    source = Source()
    line = Line()
    before = living_tasks()
    handler = handler_of(source.parts)
    task = asyncio.create_task(handler(http_scope(), line.receive, line.send))
    line.on_send = reach(point, task.cancel)
    if point == "waiting":
        await sleep(17)
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert living_tasks() == before
    assert source.closed == (0 if point == "start" else 1)


@pytest.mark.skipif(
    sys.version_info >= (3, 13), reason="closing an iterator that awaits in its cleanup raises RuntimeError there"
)
@turn_time_on_asyncio
async def test_request_that_the_loop_gives_up_stops_its_pings() -> None:
    """What can be stopped without waiting is."""
    source = Source()
    line = Line()
    coro = handler_of(source.parts)(http_scope(), line.receive, line.send)
    before = living_tasks()
    coro.send(None)
    await sleep(1)
    assert living_tasks() - before
    coro.close()
    await sleep(0.1)
    assert living_tasks() == before


@only_asyncio
async def test_thread_of_a_request_that_the_loop_gives_up_is_stopped() -> None:
    """The producer ends with its next part."""
    gate, ended = threading.Event(), threading.Event()

    def parts() -> Iterator[bytes]:
        try:
            while True:
                assert gate.wait(10)
                yield b"part"
        finally:
            ended.set()

    response = StreamingResponse(parts())
    response.keep_alive = (SILENCE * UNIT, b"ping")
    line = Line()
    coro = handler_of(response)(http_scope(), line.receive, line.send)
    coro.send(None)
    coro.close()
    gate.set()
    assert await asyncio.to_thread(ended.wait, 10)


class Bare:
    """An iterator that has nothing to close."""

    def __init__(self) -> None:
        self._rest = iter([b"one", b"two"])

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        await sleep(20)
        for part in self._rest:
            return part
        raise StopAsyncIteration


@turn_time
async def test_iterator_that_has_nothing_to_close_is_kept_alive() -> None:
    """Any asynchronous iterator will do."""
    line = Line()
    await serve(Bare, line)
    assert [part for _, part in line.taken] == [b"ping", b"one", b"ping", b"two", b"ping"]


async def test_keep_alive_that_has_not_begun_can_be_stopped() -> None:
    """There is nothing to stop then."""
    kept = KeepAlive(Bare(), 15, b"ping", Exchange(http_scope(), Body(Line().receive), Line().send, 1))
    kept.stop_thread()
    await kept.aclose()


# --- where nothing is to be sent -------------------------------------------------------------------------


async def test_stream_that_never_waits_starts_no_task() -> None:
    """Nothing is paid for what does not happen."""

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"part"

    line = Line()
    with spawned() as names:
        await serve(parts, line)
    assert names == []
    assert len(line.taken) == 100


async def test_stream_without_keep_alive_has_no_task_but_the_listener() -> None:
    """The seam costs nothing where it is not used."""

    async def parts() -> AsyncIterator[bytes]:
        yield b"part"
        await checkpoint()

    tasks = []
    for keep_alive in (None, (15, b"ping")):
        response = StreamingResponse(parts())
        response.keep_alive = keep_alive
        with spawned() as names:
            await serve(response, Line())
        tasks.append(len(names))
    # On asyncio the listener is stepped by hand.
    assert tasks == ([1, 2] if is_trio() else [0, 1])


@turn_time
async def test_stream_of_declared_length_is_left_alone() -> None:
    """What is sent between would be counted."""

    async def parts() -> AsyncIterator[bytes]:
        yield b"one"
        await sleep(100)
        yield b"two"

    response = StreamingResponse(parts(), headers={"content-length": "6"})
    response.keep_alive = (SILENCE * UNIT, b"ping")
    line = Line()
    await serve(response, line)
    assert line.body == b"onetwo"


@turn_time
async def test_head_gets_nothing() -> None:
    """There is no body to keep alive, and the iterator does not begin."""

    async def parts() -> AsyncIterator[bytes]:
        raise AssertionError("not reached")
        yield b""

    async def on_send(index: int, message: Message) -> None:
        await sleep(100)

    line = Line(on_send)
    await handler_of(parts)(http_scope(method="HEAD"), line.receive, line.send)
    check_messages(line.sent, method="HEAD", complete=True)


@pytest.mark.parametrize("waits_first", [True, False])
async def test_stream_that_finds_no_thread_is_answered(waits_first: bool) -> None:
    """What cannot begin is refused before the start is sent, as without keep-alive, and leaves no task."""
    threads, gate = Threads(1, max_waiting=0), threading.Event()

    async def endpoint(request: Request) -> Response:
        if waits_first:
            await checkpoint()
        response = StreamingResponse(iter([b"part"]))
        response.keep_alive = (SILENCE * UNIT, b"ping")
        return response

    async def on_send(index: int, message: Message) -> None:
        gate.set()  # what never began is closed in a thread, too

    line = Line(on_send)
    job = threads.start(gate.wait)
    try:
        await serve(StreamingResponse([]), line, Handler(endpoint, threads=threads))
    finally:
        gate.set()
        await job.wait()
        await threads.aclose()
    assert line.status == 503
    check_messages(line.sent, complete=True)


async def test_thread_of_a_synchronous_iterator_is_kept_alive_too() -> None:
    """A producer that blocks its thread does not keep the pings from being sent."""
    pinged = threading.Event()

    def parts() -> Iterator[bytes]:
        yield b"one"
        assert pinged.wait(10)
        yield b"two"

    async def on_send(index: int, message: Message) -> None:
        if message.get("body") == b"ping":
            pinged.set()

    response = StreamingResponse(parts())
    response.keep_alive = (0.01, b"ping")
    line = Line(on_send)
    await serve(response, line)
    bodies = [part for _, part in line.taken]
    assert (bodies[0], bodies[1], bodies[-1]) == (b"one", b"ping", b"two")
    check_messages(line.sent, complete=True)


@turn_time
async def test_request_leaves_no_cycle() -> None:
    """Nothing of the machinery waits for the collector."""

    async def parts() -> AsyncIterator[bytes]:
        await sleep(20)
        yield b"part"

    handler = handler_of(parts)
    async with LeakGuard(cycles=["asgicore._keep_alive", "asgicore._exchange"]):
        await serve(parts, Line(), handler)
