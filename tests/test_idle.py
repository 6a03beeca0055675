"""_idle.py: a client that sends nothing is given up, and nobody else is disturbed by that."""

from __future__ import annotations

import asyncio
import gc
import types
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Generator
from contextlib import aclosing
from itertools import repeat
from typing import Any, cast

import anyio
import pytest
from anyio.lowlevel import checkpoint
from clocks import turn_time, turn_time_on_asyncio
from conftest import BACKENDS

from asgicore import Body, BodyTimeoutError, Limits
from asgicore._idle import IdleTimer, as_coroutine, receive_within, resume_within
from asgicore._watch import resume, timed
from asgicore.testing import DISCONNECT, EMPTY, Channel, Message

only_asyncio = pytest.mark.parametrize("anyio_backend", [b for b in BACKENDS if b.values[0][0] == "asyncio"])

IDLE = 0.04


class Server:
    """A ``receive`` that behaves in some way."""

    def __init__(self, manner: str, message: Message = EMPTY) -> None:
        self.manner = manner
        self.message = message

    async def receive(self) -> Message:
        if self.manner == "at once":
            return self.message
        if self.manner == "after some turns":
            for _ in range(5):
                await checkpoint()
            return self.message
        if self.manner == "its own timeout":
            await checkpoint()
            raise TimeoutError("the server's")
        if self.manner == "its own timeout at once":
            raise TimeoutError("the server's")
        if self.manner == "own scope":
            with anyio.move_on_after(IDLE / 4):
                await anyio.sleep_forever()
            return self.message
        await anyio.sleep_forever()
        raise AssertionError


class Ready:
    """An awaitable that is no coroutine, as Granian's."""

    def __init__(self, receive: Callable[[], Coroutine[Any, Any, Message]]) -> None:
        self._receive = receive

    def __await__(self) -> Generator[Any, Any, Message]:
        return self._receive().__await__()


@turn_time
@pytest.mark.parametrize("manner", ["at once", "after some turns", "own scope"])
@pytest.mark.parametrize("seconds", [None, 5, 0.5])
async def test_receive_within_its_time_gives_the_message(manner: str, seconds: float | None) -> None:
    """The object that the server gave, also from an awaitable that is no coroutine."""
    server = Server(manner)
    with anyio.fail_after(5):
        assert await receive_within(server.receive, seconds) is EMPTY
        assert await receive_within(lambda: Ready(server.receive), seconds) is EMPTY
        assert await as_coroutine(Ready(server.receive)) is EMPTY


@turn_time
async def test_receive_within_beyond_its_time_raises() -> None:
    """A 408 that names the seconds, after them; the caller goes on undisturbed."""
    began = anyio.current_time()
    with anyio.fail_after(5):
        with pytest.raises(BodyTimeoutError, match=r"nothing received for 0\.04 seconds") as caught:
            await receive_within(Server("never").receive, IDLE)
        await checkpoint()
    assert IDLE <= anyio.current_time() - began < IDLE * 1.25
    assert caught.value.seconds == IDLE
    assert caught.value.__cause__ is None


async def test_receive_within_no_time_at_all_takes_only_what_is_there() -> None:
    """Zero seconds: a message that is there already is taken, and one that is not is not waited for."""
    with anyio.fail_after(5):
        assert await receive_within(Server("at once").receive, 0) is EMPTY
        with pytest.raises(BodyTimeoutError):
            await receive_within(Server("never").receive, 0)


@pytest.mark.parametrize("manner", ["its own timeout", "its own timeout at once"])
@pytest.mark.parametrize("seconds", [None, 5])
async def test_receive_within_whose_server_times_out_itself_raises_that(manner: str, seconds: float | None) -> None:
    """A ``TimeoutError`` of the server is an OSError like any other, and not the idle timeout."""
    with pytest.raises(TimeoutError, match="the server's"):
        await receive_within(Server(manner).receive, seconds)


@pytest.mark.parametrize("seconds", [None, 5])
async def test_receive_within_cancelled_by_a_scope_is_cancelled(seconds: float | None) -> None:
    """The scope around it catches its own cancellation; no timeout is made of it."""
    with anyio.fail_after(5):
        with anyio.move_on_after(0.01) as scope:
            await receive_within(Server("never").receive, seconds)
        await checkpoint()
    assert scope.cancelled_caught


@only_asyncio
@pytest.mark.parametrize("seconds", [None, 5])
async def test_receive_within_cancelled_natively_is_cancelled(seconds: float | None) -> None:
    """``Task.cancel()`` is raised unchanged."""
    task = asyncio.create_task(receive_within(Server("never").receive, seconds))
    await asyncio.sleep(0)
    task.cancel("enough")
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert caught.value.args == ("enough",)


@only_asyncio
async def test_receive_within_beyond_its_time_and_cancelled_at_once_is_cancelled() -> None:
    """A cancellation in the same turn as the timeout is never swallowed."""
    task = asyncio.create_task(receive_within(Server("never").receive, IDLE))
    while not task.cancelling():  # the timeout's own
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@only_asyncio
async def test_receive_within_a_server_that_answers_its_cancellation_takes_the_answer() -> None:
    """A ``receive`` that returns an event when it is cancelled has returned an event."""

    async def receive() -> Message:
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            return DISCONNECT
        raise AssertionError

    assert await receive_within(receive, IDLE) is DISCONNECT
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


@only_asyncio
@pytest.mark.parametrize("seconds", [None, 5])
async def test_resume_within_goes_on_with_a_receive_that_was_stepped(seconds: float | None) -> None:
    """What the first step yielded is waited for, then the rest."""
    coro = Server("after some turns").receive()
    yielded = coro.send(None)
    assert await resume_within(coro, yielded, None, seconds) is EMPTY


# --- a stream of messages ----------------------------------------------------------------------------


def stalled(*items: Message, seconds: float = IDLE, turns: int = 0) -> Body:
    """A body whose client sends these messages, each after some turns of the loop, and then nothing."""

    async def on_receive(index: int) -> None:
        for _ in range(turns):
            await checkpoint()

    return Body(Channel(items, on_receive=on_receive).receive, Limits(body_timeout_seconds=seconds))


def part(data: bytes) -> Message:
    return {"type": "http.request", "body": data, "more_body": True}


async def read_on(stream: AsyncIterator[bytes]) -> None:
    async for _ in stream:
        pass


async def by_hand(stream: AsyncIterator[bytes]) -> None:
    while True:
        await stream.__anext__()


async def by_a_generator(stream: AsyncIterator[bytes]) -> None:
    async def lines() -> AsyncIterator[bytes]:
        async for piece in stream:
            yield piece.upper()

    async with aclosing(lines()) as source:  # type: ignore[type-var]
        async for _ in source:
            pass


async def by_an_object(stream: AsyncIterator[bytes]) -> None:
    class Lines:
        def __aiter__(self) -> AsyncIterator[bytes]:
            return self

        async def __anext__(self) -> bytes:
            return (await anext(stream)).upper()

    async for _ in Lines():
        pass


async def by_an_awaitable(stream: AsyncIterator[bytes]) -> None:
    class Next:
        def __await__(self) -> Generator[Any, Any, bytes]:
            return (yield from stream.__anext__().__await__())

    while True:
        await Next()


async def by_an_opaque_awaitable(stream: AsyncIterator[bytes]) -> None:
    class Steps:
        """An iterator that forwards each step, as compiled code does."""

        def __init__(self) -> None:
            self._forward = [stream.__anext__().__await__()]

        def __await__(self) -> Steps:
            return self

        def __iter__(self) -> Steps:
            return self

        def __next__(self) -> Any:
            return next(self._forward[0])

        def send(self, value: Any) -> Any:
            return self._forward[0].send(value)

        def throw(self, *error: Any) -> Any:
            return self._forward[0].throw(*error)

        def close(self) -> None:
            self._forward[0].close()

    while True:
        await Steps()


async def by_a_scope(stream: AsyncIterator[bytes]) -> None:
    with anyio.move_on_after(5):
        await read_on(stream)


async def by_a_child_task(stream: AsyncIterator[bytes]) -> None:
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(read_on, stream)
    except BaseExceptionGroup as exc:
        raise exc.exceptions[0] from None


async def by_stepping(stream: AsyncIterator[bytes]) -> None:
    coro = read_on(stream)
    await resume(coro, coro.send(None), _Watched())


async def by_timing(stream: AsyncIterator[bytes]) -> None:
    await timed(read_on(stream), "label")


async def by_somebody_elses_stepping(stream: AsyncIterator[bytes]) -> None:
    await stepped(read_on(stream))


@types.coroutine
def stepped(inner: Coroutine[Any, Any, None]) -> Generator[Any, Any, None]:
    """As other libraries step coroutines."""
    value = inner.send(None)
    while True:
        try:
            answer = yield value
        except BaseException as exc:
            value = inner.throw(exc)
        else:
            value = inner.send(answer)


class _Watched:
    is_settled = False
    is_dropped = False

    def suspended(self) -> None:
        pass


READERS: list[Callable[[AsyncIterator[bytes]], Awaitable[None]]] = [
    read_on,
    by_hand,
    by_a_generator,
    by_an_object,
    by_an_awaitable,
    by_an_opaque_awaitable,
    by_a_scope,
    by_a_child_task,
    by_stepping,
    by_timing,
    by_somebody_elses_stepping,
]


@turn_time
@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
@pytest.mark.parametrize("parts", [1, 3])
async def test_stream_that_stalls_is_given_up_however_it_is_read(
    reader: Callable[[AsyncIterator[bytes]], Awaitable[None]], parts: int
) -> None:
    """Through generators, objects, scopes, tasks and stepping: the timeout is raised in the reader, and only there.

    It is raised in time, a quarter late at most.
    """
    body = stalled(*[part(b"x")] * parts, turns=1)
    bystander = anyio.Event()

    async def wait() -> None:
        await bystander.wait()

    began = anyio.current_time()
    with anyio.fail_after(3):
        async with aclosing(body), anyio.create_task_group() as group:
            group.start_soon(wait)
            with pytest.raises(BodyTimeoutError):
                await reader(body.stream())
            # Some milliseconds are the turns that the parts take.
            assert IDLE <= anyio.current_time() - began <= IDLE * 1.25 + 0.01
            await checkpoint()
            bystander.set()


@only_asyncio
async def test_stream_that_stalls_under_wait_for_is_given_up() -> None:
    """``asyncio.wait_for`` runs each step in a task of its own on Python 3.11."""
    body = stalled(part(b"x"))
    stream = body.stream()
    async with aclosing(body):
        assert await asyncio.wait_for(anext(stream), 5) == b"x"
        with pytest.raises(BodyTimeoutError):
            await asyncio.wait_for(anext(stream), 3)


@only_asyncio
async def test_stream_handed_to_another_task_leaves_the_first_one_alone() -> None:
    """The task that began to read and waits for something else is not cancelled in place of the reader."""
    body = stalled(part(b"x"))
    stream = body.stream()
    assert await anext(stream) == b"x"

    async def rest() -> str:
        try:
            await anext(stream)
        except BodyTimeoutError:
            return "timed out"
        return "went on"

    async with aclosing(body), asyncio.timeout(3):
        assert await asyncio.create_task(rest()) == "timed out"


@turn_time
async def test_stream_that_trickles_is_not_idle() -> None:
    """Each message has the whole time; the body may take longer."""

    async def trickles(index: int) -> None:
        await anyio.sleep(0.02)

    channel = Channel([part(b"x")] * 7 + [EMPTY], on_receive=trickles)
    body = Body(channel.receive, Limits(body_timeout_seconds=0.1))
    with anyio.fail_after(5):
        assert [piece async for piece in body.stream()] == [b"x"] * 7


@turn_time
async def test_stream_of_empty_messages_in_time_is_not_idle() -> None:
    """A message without a part is a message."""

    async def trickles(index: int) -> None:
        await anyio.sleep(0.02)

    channel = Channel([part(b"")] * 7 + [EMPTY], on_receive=trickles)
    body = Body(channel.receive, Limits(body_timeout_seconds=0.1))
    with anyio.fail_after(5):
        assert [piece async for piece in body.stream()] == []


@turn_time
async def test_stream_left_for_long_is_not_idle() -> None:
    """While the application does something else the client owes nothing."""
    body = stalled(part(b"a"), part(b"b"), EMPTY, seconds=0.02, turns=1)
    seen = []
    async for piece in body.stream():
        seen.append(piece)
        await anyio.sleep(0.06)
    assert seen == [b"a", b"b"]


@only_asyncio
async def test_stream_idle_and_cancelled_at_once_is_cancelled() -> None:
    """A cancellation in the same turn as the timeout is not swallowed, and the count is right afterwards."""
    body = stalled()
    stream = body.stream()

    async def read() -> None:
        await anext(stream)

    task = asyncio.create_task(read())
    while not task.cancelling():  # the timer's own
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelling() == 1
    assert body.failure is None
    await body.aclose()


@only_asyncio
async def test_stream_cancelled_natively_is_cancelled() -> None:
    """A cancellation that is not the timer's is raised unchanged."""
    body = stalled(seconds=5)
    task = asyncio.create_task(read_on(body.stream()))
    await asyncio.sleep(0.01)
    task.cancel("enough")
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert caught.value.args == ("enough",)
    assert body.failure is None


@only_asyncio
async def test_stream_given_up_leaves_no_cancellation_behind() -> None:
    """Whoever catches the timeout goes on in a task that is not cancelled, in scopes that work."""
    body = stalled(part(b"x"))
    with pytest.raises(BodyTimeoutError):
        await read_on(body.stream())
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    with anyio.move_on_after(0.01) as scope:
        await anyio.sleep(5)
    assert scope.cancelled_caught
    await body.aclose()


@turn_time_on_asyncio
@pytest.mark.usefixtures("small_heap")
async def test_stream_dropped_lets_its_timer_end() -> None:
    """The timer of a stream that nobody holds neither keeps it nor goes on looking."""
    body = stalled(part(b"x"))
    async for _ in body.stream():
        break
    gone = weakref.ref(body)
    del body
    for _ in range(3):
        gc.collect()
        await asyncio.sleep(IDLE / 2)
    assert gone() is None


@turn_time_on_asyncio
async def test_timer_of_a_stream_that_is_gone_looks_no_more() -> None:
    """Between the end of a stream and its closing by the loop a timer may look; it finds nothing and ends."""

    async def parts() -> AsyncGenerator[bytes, None]:
        yield b""

    source = cast("types.AsyncGeneratorType[bytes, None]", parts())
    timer = IdleTimer(source, IDLE)
    due = timer._handle.when()
    del source
    await asyncio.sleep(2 * IDLE)
    assert timer._handle.when() == due
    assert not timer.expired


# --- all of it in time -----------------------------------------------------------------------------------


async def use_whole(body: Body, how: str) -> int:
    if how == "one by one":
        size = 0
        while not body.is_settled:
            size += len((await body())["body"])
        return size
    if how == "stream":
        return sum([len(part) async for part in body.stream()])
    return len(await body.read())


@pytest.mark.parametrize("seconds", [None, 5.0])
@pytest.mark.parametrize("how", ["kept", "read", "stream", "one by one", "behind a listener"])
async def test_body_that_trickles_is_refused_when_its_time_is_over(seconds: float | None, how: str) -> None:
    """One byte now and then is never idle, and has no end."""

    async def trickles(index: int) -> None:
        if index:  # the first is there, however late a busy machine looks
            await anyio.sleep(0.01)

    channel = Channel(repeat(part(b"x")), on_receive=trickles)
    limits = Limits(body_timeout_seconds=seconds, max_body_seconds=0.1)
    body = Body(channel.receive, limits, keep=how == "kept")
    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            if how == "behind a listener":
                group.start_soon(body.watch)
                await checkpoint()
            with pytest.raises(BodyTimeoutError, match=r"not received within 0\.1 seconds") as caught:
                await use_whole(body, how)
            group.cancel_scope.cancel()
    assert (caught.value.seconds, caught.value.is_whole) == (0.1, True)
    assert 1 <= channel.received < 29


@pytest.mark.parametrize("how", ["kept", "read", "stream", "one by one"])
async def test_body_that_stops_within_its_time_is_refused_for_that(how: str) -> None:
    """The shorter time is the one that counts; a body in time is not looked at twice."""

    channel = Channel([part(b"x")] * 2, suspends=True)
    limits = Limits(body_timeout_seconds=0.02, max_body_seconds=20.0)
    body = Body(channel.receive, limits, keep=how == "kept")
    with anyio.fail_after(15):
        with pytest.raises(BodyTimeoutError, match=r"nothing received for 0\.02 seconds"):
            await use_whole(body, how)


@pytest.mark.parametrize("seconds", [None, 0.5])
async def test_body_whose_consumer_takes_its_time_is_refused_when_it_waits(seconds: float | None) -> None:
    """What was received may be used for any time; nothing is cut short but a wait."""

    async def trickles(index: int) -> None:
        if used:  # the first is there, however late a busy machine looks
            await anyio.sleep(0.01)

    channel = Channel(repeat(part(b"x")), on_receive=trickles)
    body = Body(channel.receive, Limits(body_timeout_seconds=seconds, max_body_seconds=0.05))
    used = 0
    with anyio.fail_after(15):
        with pytest.raises(BodyTimeoutError, match="not received within"):
            async for _ in body.stream():
                if used == 0:
                    await anyio.sleep(0.2)
                used += 1
    assert used >= 1
