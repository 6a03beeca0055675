"""_signals.py: streams end when the process is told to stop, and the server's own handling goes on."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from types import FrameType
from typing import Any

import anyio
import pytest
from clocks import turn_time
from conftest import BACKENDS
from faults import turn

from asgicore import EventSourceResponse, Handler, Request, Response, close_on_signals
from asgicore.testing import Channel, Client, Message, check_messages, http_scope, lint
from asgicore.testing._living import tasks as living_tasks

only_asyncio = pytest.mark.parametrize("anyio_backend", [b for b in BACKENDS if b.values[0][0] == "asyncio"])

pytestmark = pytest.mark.skipif(os.name == "nt", reason="a signal ends the process there")

NAMES = ["SIGINT", "SIGTERM"]


class Server:
    """Handles signals as servers do: it remembers them."""

    def __init__(self) -> None:
        self.told: list[int] = []

    def handle(self, number: int, frame: FrameType | None) -> None:
        self.told.append(number)


@pytest.fixture
def server() -> Iterator[Server]:
    """A server that handles SIGINT and SIGTERM by ``signal.signal``, as uvicorn does."""
    server = Server()
    before = {name: signal.signal(getattr(signal, name), server.handle) for name in NAMES}
    yield server
    for name, handler in before.items():
        # Whatever the test has put there, but for a handler that the library left behind.
        assert signal.getsignal(getattr(signal, name)) == server.handle
        signal.signal(getattr(signal, name), handler)


class Closing:
    """Remembers how it was closed."""

    def __init__(self) -> None:
        self.closed: list[float] = []
        self.told = anyio.Event()

    async def aclose(self, grace_seconds: float = 5.0) -> None:
        self.closed.append(grace_seconds)
        self.told.set()


async def endless(request: Request) -> Response:
    async def events() -> AsyncIterator[str]:
        while True:
            yield "event"
            await anyio.sleep_forever()

    return EventSourceResponse(events())


class Listener(Channel):
    """A client that knows when it has its first event."""

    def __init__(self) -> None:
        super().__init__()
        self.has_event = anyio.Event()

    async def send(self, message: Message) -> None:
        await super().send(message)
        if message.get("body"):
            self.has_event.set()


@turn_time
@pytest.mark.parametrize("name", NAMES)
async def test_signal_ends_the_streams_and_is_handled_by_the_server_too(name: str, server: Server) -> None:
    """Streams that are open, and those that begin after it; each with a final message."""
    number = getattr(signal, name)
    handler = Handler(endless)
    before = living_tasks()
    early, late = Listener(), Listener()
    with anyio.fail_after(10):
        async with close_on_signals(handler, grace_seconds=0):
            async with anyio.create_task_group() as group:
                group.start_soon(handler, http_scope(), early.receive, early.send)
                await early.has_event.wait()
                signal.raise_signal(number)
            check_messages(early.sent, complete=True)
            await handler(http_scope(), late.receive, late.send)
            check_messages(late.sent, complete=True)
    assert server.told == [number]
    assert living_tasks() == before


async def test_handlers_are_closed_with_the_grace_that_was_given(server: Server) -> None:
    """All of them; and nothing is closed without a signal."""
    one, other = Closing(), Closing()
    with anyio.fail_after(10):
        async with close_on_signals(one, other, grace_seconds=3):
            await turn(5)
            assert one.closed == other.closed == []
            signal.raise_signal(signal.SIGTERM)
            await other.told.wait()
    assert one.closed[0] == other.closed[0] == 3


async def test_signals_after_the_block_are_the_servers_alone(server: Server) -> None:
    """As they are where the block is left by an error."""
    closing = Closing()
    with pytest.raises(LookupError):
        async with close_on_signals(closing):
            raise LookupError
    signal.raise_signal(signal.SIGTERM)
    await turn(5)
    assert server.told == [signal.SIGTERM]
    assert closing.closed == []


async def test_handler_that_somebody_put_before_ours_stays(server: Server) -> None:
    """What it calls of ours after the block does nothing but call the server's."""
    closing = Closing()
    later: list[int] = []
    async with close_on_signals(closing):
        ours: Any = signal.getsignal(signal.SIGTERM)

        def theirs(number: int, frame: FrameType | None) -> None:
            later.append(number)
            ours(number, frame)

        signal.signal(signal.SIGTERM, theirs)
    assert signal.getsignal(signal.SIGTERM) is theirs
    signal.raise_signal(signal.SIGTERM)
    await turn(5)
    assert (later, server.told, closing.closed) == ([signal.SIGTERM], [signal.SIGTERM], [])
    signal.signal(signal.SIGTERM, server.handle)


async def test_blocks_within_each_other_close_both(server: Server) -> None:
    """Two applications of one process, left in any order."""
    one, other = Closing(), Closing()
    with anyio.fail_after(10):
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(close_on_signals(one))
            await stack.enter_async_context(close_on_signals(other))
            signal.raise_signal(signal.SIGTERM)
            await one.told.wait()
            await other.told.wait()
    assert server.told == [signal.SIGTERM]


@pytest.mark.parametrize("handling", [signal.SIG_DFL, signal.SIG_IGN])
async def test_signal_that_nobody_handles_is_left_alone(handling: Any, server: Server) -> None:
    """It ends the process at once, as it did, or is ignored, as it was."""
    signal.signal(signal.SIGTERM, handling)
    async with close_on_signals(Closing()):
        assert signal.getsignal(signal.SIGTERM) == handling
        assert signal.getsignal(signal.SIGINT) != server.handle
    assert signal.getsignal(signal.SIGTERM) == handling
    signal.signal(signal.SIGTERM, server.handle)


async def test_keyboard_interrupt_is_raised_as_ever(server: Server) -> None:
    """Python's own handler of SIGINT raises it, and the streams are closed all the same."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    closing = Closing()
    with anyio.fail_after(10):
        async with close_on_signals(closing):
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            await closing.told.wait()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, server.handle)


@only_asyncio
async def test_server_whose_loop_handles_the_signal_gets_it_too() -> None:
    """As Hypercorn and Granian have it: by ``loop.add_signal_handler``."""
    loop, told, closing = asyncio.get_running_loop(), anyio.Event(), Closing()
    loop.add_signal_handler(signal.SIGTERM, told.set)
    try:
        with anyio.fail_after(10):
            async with close_on_signals(closing):
                os.kill(os.getpid(), signal.SIGTERM)
                await told.wait()
                await closing.told.wait()
            again = anyio.Event()
            loop.add_signal_handler(signal.SIGTERM, again.set)
            os.kill(os.getpid(), signal.SIGTERM)
            await again.wait()
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


def test_block_in_another_thread_does_nothing(server: Server) -> None:
    """Python has no signals there: a server in a thread is stopped by whoever started it."""
    closing = Closing()
    done: list[bool] = []

    async def run() -> None:
        async with close_on_signals(closing):
            done.append(signal.getsignal(signal.SIGTERM) == server.handle)

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    thread.join(10)
    assert done == [True]


def test_signal_after_the_end_of_the_loop_is_the_servers_alone(server: Server) -> None:
    """A loop that ended within the block can be told nothing."""
    blocks = []

    async def run() -> None:
        block = close_on_signals(Closing())
        blocks.append(block)
        await block.__aenter__()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(run())
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.close()
    signal.raise_signal(signal.SIGTERM)
    assert server.told == [signal.SIGTERM]
    for name in NAMES:
        signal.signal(getattr(signal, name), server.handle)


@turn_time
async def test_is_a_lifespan_by_itself(server: Server) -> None:
    """``Handler(endpoint, lifespan=close_on_signals)``: from startup to shutdown."""
    handler = lint(Handler(endless, lifespan=close_on_signals))
    async with Client(handler) as client, client.exchange("GET", "/") as exchange:
        assert await exchange.next_part()
        signal.raise_signal(signal.SIGTERM)
        assert (await exchange.finish()).is_complete
    assert server.told == [signal.SIGTERM]
