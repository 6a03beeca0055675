"""A channel that never suspends does not keep the other tasks of the event loop waiting.

The engine decides by a clock when to give up the loop. Here that clock is moved by the server and by the parts alone,
by what they would cost, so that nothing depends on the machine.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from itertools import islice, repeat
from tempfile import SpooledTemporaryFile
from typing import Any

import anyio
import pytest
from clocks import Beats, Clock
from faults import turn

from asgicore import Handler, Limits, Request, Response, StreamingResponse, _receiver, _writer
from asgicore._spool import Spool
from asgicore.testing import EMPTY, Channel, Message, http_scope
from asgicore.types import Receive, Send

STALL_SECONDS = 0.005
"""What the engine promises that others wait at most. Two of its slots are in it: trio runs the tasks of a turn in any
order, so that another task may be first in one turn and last in the next."""

MESSAGE_SECONDS = 50e-6
"""What a server works for one message."""

NO_LIMIT = Limits(max_body_bytes=None)


class Endless:
    """A receive function that always has a message ready, ``count`` of them, and works for each."""

    def __init__(self, clock: Clock, part: bytes, count: int) -> None:
        self._clock = clock
        self._messages = islice(repeat({"type": "http.request", "body": part, "more_body": True}), count)
        self.received = 0
        self._ended = False

    async def __call__(self) -> Message:
        for message in self._messages:
            self._clock.work(MESSAGE_SECONDS)
            self.received += 1
            return message
        if not self._ended:
            self._ended = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await anyio.sleep_forever()
        raise AssertionError("not reached")


async def discard(message: Any) -> None:
    """A send function that takes everything at once."""


async def count_parts(request: Request) -> Response:
    size = 0
    async for part in request.stream():
        size += len(part)
    return Response(str(size))


async def read_all(request: Request) -> Response:
    return Response(str(len(await request.body())))


def assert_fair(beats: Beats, clock: Clock, began: float, *, work: float) -> None:
    """Others never waited for longer than promised, while ``work`` seconds were worked."""
    assert clock.now - began == pytest.approx(work, rel=0.01)
    assert beats.longest <= STALL_SECONDS
    assert beats.turns >= work / STALL_SECONDS


UPLOADS = {"tiny parts": (b"x", 2000), "empty parts": (b"", 2000), "32 MiB": (bytes(65536), 512)}


@pytest.mark.parametrize("mode", ["stream", "spool"])
@pytest.mark.parametrize("name", UPLOADS)
async def test_fairness_upload_that_is_there_already_lets_others_run(name: str, mode: Any, clock: Clock) -> None:
    """Receiving messages that are all buffered does not hold the loop, however many and large they are."""
    part, count = UPLOADS[name]
    receive = Endless(clock, part, count)
    handler = Handler(count_parts, body=mode, limits=NO_LIMIT)
    beats, began = Beats(clock), clock.now
    await beats.during(lambda: handler(http_scope(method="POST"), receive, discard))
    assert receive.received == count
    assert_fair(beats, clock, began, work=count * MESSAGE_SECONDS)


async def test_fairness_upload_of_one_huge_message_lets_others_run(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message that is larger than the threshold goes to the disk in a worker thread, and others run meanwhile."""
    write = Spool.write
    is_writing, others_ran = threading.Event(), threading.Event()
    outcomes = []

    def slow(self: Spool, parts: Any) -> None:
        is_writing.set()
        outcomes.append(others_ran.wait(20))
        write(self, parts)

    async def others() -> None:
        while not is_writing.is_set():
            await turn()
        await turn(10)
        others_ran.set()

    monkeypatch.setattr(Spool, "write", slow)
    handler = Handler(count_parts, limits=NO_LIMIT)
    with anyio.fail_after(50):
        async with anyio.create_task_group() as group:
            group.start_soon(others)
            await handler(http_scope(method="POST"), Endless(clock, bytes(64 * 2**20), 1), discard)
    assert outcomes == [True]


async def test_fairness_endless_upload_in_stream_mode_ends_with_the_endpoint(clock: Clock) -> None:
    """A client that never stops sending cannot hold a loop: a timeout of the endpoint gets its turn."""
    receive = Endless(clock, b"", 10**9)

    async def endpoint(request: Request) -> Response:
        with anyio.move_on_after(0.02):
            await request.body()
        return Response(b"enough")

    handler = Handler(endpoint, body="stream", limits=NO_LIMIT)
    with anyio.fail_after(30):
        await handler(http_scope(method="POST"), receive, discard)
    assert receive.received < 10**9


async def test_fairness_read_body_of_a_subclass_lets_others_run(clock: Clock) -> None:
    """A read_body() of one's own that reads message by message is fair by what it is given."""
    receive = Endless(clock, b"x", 2000)

    class Reading(Handler):
        async def read_body(self, receive: Receive) -> SpooledTemporaryFile[bytes]:
            file: SpooledTemporaryFile[bytes] = SpooledTemporaryFile(max_size=2**20)
            while True:
                message = await receive()
                file.write(message["body"])
                if not message["more_body"]:
                    file.seek(0)
                    return file

    handler = Reading(read_all, limits=NO_LIMIT)
    beats, began = Beats(clock), clock.now
    await beats.during(lambda: handler(http_scope(method="POST"), receive, discard))
    assert_fair(beats, clock, began, work=2000 * MESSAGE_SECONDS)


class Discarding:
    """A send function that takes everything at once, and works for each message."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.sends = 0

    async def __call__(self, message: Any) -> None:
        self._clock.work(MESSAGE_SECONDS)
        self.sends += 1


# How many parts there are, and what one costs: tiny ones less, because the clock is not looked at for each of them.
STREAMS: dict[str, tuple[bytes | str, int, float]] = {
    "one byte": (b"x", 5000, 20e-6),
    "64 bytes": (b"x" * 64, 3000, 10e-6),
    "empty": (b"", 2000, 50e-6),
    "text": ("x", 2000, 50e-6),
    "64 KiB": (bytes(65536), 2000, 50e-6),
}


@pytest.mark.parametrize("declared", [False, True], ids=["undeclared", "declared"])
@pytest.mark.parametrize("name", STREAMS)
async def test_fairness_stream_to_a_server_that_never_suspends_lets_others_run(
    name: str, declared: bool, clock: Clock
) -> None:
    """Sending parts that are taken at once does not hold the loop, however many they are."""
    part, count, cost = STREAMS[name]

    async def parts() -> AsyncIterator[bytes | str]:
        for _ in range(count):
            clock.work(cost)
            yield part

    async def endpoint(request: Request) -> Response:
        headers = {"content-length": str(count * len(part))} if declared else None
        return StreamingResponse(parts(), headers=headers)

    handler = Handler(endpoint, body="stream")
    beats, began = Beats(clock), clock.now
    await beats.during(lambda: handler(http_scope(), Endless(clock, b"", 0), discard))
    assert_fair(beats, clock, began, work=count * cost)


@pytest.mark.parametrize("streams", [False, True], ids=["bytes", "stream"])
async def test_fairness_64_mib_at_once_lets_others_run(streams: bool, clock: Clock) -> None:
    """A large body that is there as a whole goes out in messages, and others have their turns in between."""
    data = bytes(64 * 2**20)

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(whole()) if streams else Response(data)

    async def whole() -> AsyncIterator[bytes]:
        yield data

    send = Discarding(clock)
    handler = Handler(endpoint)
    beats, began = Beats(clock), clock.now
    await beats.during(lambda: handler(http_scope(), Endless(clock, b"", 0), send))
    assert send.sends >= 1025
    assert_fair(beats, clock, began, work=send.sends * MESSAGE_SECONDS)


async def test_fairness_send_response_of_a_subclass_lets_others_run(clock: Clock) -> None:
    """A send_response() of one's own that sends message by message is fair by what it is given."""

    class Sending(Handler):
        async def send_response(self, response: Response, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(2000):
                await send({"type": "http.response.body", "body": b"x", "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def endpoint(request: Request) -> Response:
        return Response()

    send = Discarding(clock)
    handler = Sending(endpoint)
    beats, began = Beats(clock), clock.now
    await beats.during(lambda: handler(http_scope(), Endless(clock, b"", 0), send))
    assert_fair(beats, clock, began, work=2002 * MESSAGE_SECONDS)


async def test_fairness_endless_messages_after_the_body_let_others_run(clock: Clock) -> None:
    """A server that repeats http.request without end takes one turn for each."""

    async def works(index: int) -> None:
        clock.work(MESSAGE_SECONDS)

    server = Channel(repeat(EMPTY), on_receive=works)

    async def endpoint(request: Request) -> Response:
        await turn(2000)
        return Response()

    beats = Beats(clock)
    await beats.during(lambda: Handler(endpoint)(http_scope(), server.receive, server.send))
    # Two where trio runs the listener last in one turn and first in the next.
    assert beats.longest < 2.5 * MESSAGE_SECONDS
    assert beats.turns >= 2000
    assert server.received < 10_000


@pytest.mark.parametrize("way", ["upload", "stream", "whole"])
async def test_fairness_that_is_missing_is_noticed_by_these_tests(
    way: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an engine that never gives up the loop the other task waits for all of the work."""
    monkeypatch.setattr(_receiver, "FAIR_SECONDS", float("inf"))
    monkeypatch.setattr(_writer, "FAIR_SECONDS", float("inf"))

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(2000):
            yield b"x"

    async def endpoint(request: Request) -> Response:
        if way == "upload":
            return await count_parts(request)
        return StreamingResponse(parts()) if way == "stream" else Response(bytes(2000 * 65536))

    handler = Handler(endpoint, body="stream", limits=NO_LIMIT)
    receive = Endless(clock, b"x", 2000 if way == "upload" else 0)
    beats = Beats(clock)
    await beats.during(lambda: handler(http_scope(method="POST"), receive, Discarding(clock)))
    assert beats.longest >= 2000 * MESSAGE_SECONDS


async def test_fairness_slow_server_is_not_run_ahead_of() -> None:
    """The next part is asked for when the last one was taken: one part at most is ahead of a slow client."""
    produced = 0
    ahead = 0

    async def parts() -> AsyncIterator[bytes]:
        nonlocal produced
        for _ in range(50):
            produced += 1
            yield b"x"

    async def slow(index: int, message: Message) -> None:
        nonlocal ahead
        await turn(3)
        ahead = max(ahead, produced - max(index - 1, 0))

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(parts())

    server = Channel(on_send=slow)
    with anyio.fail_after(30):
        await Handler(endpoint)(http_scope(), server.receive, server.send)
    assert produced == 50
    assert ahead <= 1
