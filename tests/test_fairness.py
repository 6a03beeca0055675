"""A channel that never suspends does not keep the other tasks of the event loop waiting."""

from __future__ import annotations

import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from itertools import islice, repeat
from tempfile import SpooledTemporaryFile
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from fakes import EMPTY, Message, http_scope
from faults import Server, turn

from asgicore import Handler, Limits, Request, Response, StreamingResponse
from asgicore.types import Receive, Send

STALL_SECONDS = 0.025
"""Five times what the engine allows itself: the parts that it does not count, and a slow machine, are in it."""

NO_LIMIT = Limits(max_body_bytes=None)


@pytest.fixture(autouse=True)
def _no_collector() -> Iterator[None]:
    """A run of the collector is a stall, but not one of the engine's."""
    gc.disable()
    yield
    gc.enable()


async def longest_wait(app: Callable[[], Awaitable[object]]) -> tuple[float, int]:
    """The longest time that another task had to wait for its turn while ``app`` ran, and how many turns it had.

    Time is that of this thread's own work: other programs on the machine are not in it.
    """
    longest = 0.0
    beats = 0
    over = anyio.Event()

    async def beat() -> None:
        nonlocal longest, beats
        last = time.thread_time()
        while not over.is_set():
            await checkpoint()
            now = time.thread_time()
            longest = max(longest, now - last)
            last = now
            beats += 1

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            group.start_soon(beat)
            await turn(3)
            await app()
            over.set()
    return longest, beats


class Endless:
    """A receive function that always has a message ready, until the client leaves."""

    def __init__(self, part: bytes, count: int) -> None:
        self._messages = islice(repeat({"type": "http.request", "body": part, "more_body": True}), count)
        self.received = 0
        self._ended = False

    async def __call__(self) -> Message:
        for message in self._messages:
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


UPLOADS = {
    "tiny parts": (b"x", 100_000),
    "empty parts": (b"", 100_000),
    "64 MiB": (bytes(65536), 1024),
}


@pytest.mark.parametrize("mode", ["stream", "spool"])
@pytest.mark.parametrize("name", UPLOADS)
async def test_fairness_upload_that_is_there_already_lets_others_run(name: str, mode: Any) -> None:
    """Receiving messages that are all buffered does not hold the loop, however many and large they are."""
    part, count = UPLOADS[name]
    receive = Endless(part, count)
    handler = Handler(count_parts, body=mode, limits=NO_LIMIT)
    longest, beats = await longest_wait(lambda: handler(http_scope(method="POST"), receive, discard))
    assert receive.received == count
    assert longest < STALL_SECONDS
    assert beats > 5 or name == "64 MiB"  # which streams within the time that others may have to wait


async def test_fairness_upload_of_one_huge_message_lets_others_run() -> None:
    """A message that is larger than the threshold goes to the disk in a worker thread."""
    receive = Endless(bytes(64 * 2**20), 1)
    handler = Handler(count_parts, limits=NO_LIMIT)
    longest, _ = await longest_wait(lambda: handler(http_scope(method="POST"), receive, discard))
    assert longest < STALL_SECONDS


async def test_fairness_endless_upload_in_stream_mode_ends_with_the_endpoint() -> None:
    """A client that never stops sending cannot hold a loop: a timeout of the endpoint gets its turn."""
    receive = Endless(b"", 10**9)

    async def endpoint(request: Request) -> Response:
        with anyio.move_on_after(0.02):
            await request.body()
        return Response(b"enough")

    handler = Handler(endpoint, body="stream", limits=NO_LIMIT)
    with anyio.fail_after(5):
        await handler(http_scope(method="POST"), receive, discard)
    assert receive.received < 10**8


async def test_fairness_read_body_of_a_subclass_lets_others_run() -> None:
    """A read_body() of one's own that reads message by message is fair by what it is given."""
    receive = Endless(b"x", 100_000)

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
    longest, beats = await longest_wait(lambda: handler(http_scope(method="POST"), receive, discard))
    assert longest < STALL_SECONDS
    assert beats > 5


async def tiny() -> AsyncIterator[bytes]:
    for _ in range(100_000):
        yield b"x"


async def empty() -> AsyncIterator[bytes]:
    for _ in range(100_000):
        yield b""


async def texts() -> AsyncIterator[str]:
    for _ in range(100_000):
        yield "x"


async def large() -> AsyncIterator[bytes]:
    part = bytes(65536)
    for _ in range(1024):
        yield part


async def huge() -> AsyncIterator[bytes]:
    yield bytes(64 * 2**20)


class Discarding:
    """A send function that takes everything at once and does a little work for it, as servers do."""

    def __init__(self, work: int = 0) -> None:
        self.sends = 0
        self._work = work

    async def __call__(self, message: Any) -> None:
        self.sends += 1
        if self._work:
            sum(range(self._work))


@pytest.mark.parametrize("declared", [False, True], ids=["undeclared", "declared"])
@pytest.mark.parametrize("parts", [tiny, empty, texts, large], ids=lambda parts: parts.__name__)
async def test_fairness_stream_to_a_server_that_never_suspends_lets_others_run(
    parts: Callable[[], AsyncIterator[Any]], declared: bool
) -> None:
    """Sending parts that are taken at once does not hold the loop, however many they are."""
    sizes = {tiny: 100_000, empty: 0, texts: 100_000, large: 64 * 2**20}
    headers = {"content-length": str(sizes[parts])} if declared else None

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(parts(), headers=headers)

    send = Discarding()
    handler = Handler(endpoint, body="stream")
    longest, beats = await longest_wait(lambda: handler(http_scope(), Endless(b"", 0), send))
    assert longest < STALL_SECONDS
    assert beats > 5 or parts is large  # all of it takes no longer than others may have to wait


@pytest.mark.parametrize("streams", [False, True], ids=["bytes", "stream"])
async def test_fairness_64_mib_at_once_lets_others_run(streams: bool) -> None:
    """A large body that is there as a whole goes out in messages, and others have their turns in between."""
    data = bytes(64 * 2**20)

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(whole()) if streams else Response(data)

    async def whole() -> AsyncIterator[bytes]:
        yield data

    send = Discarding(20_000)
    handler = Handler(endpoint)
    longest, beats = await longest_wait(lambda: handler(http_scope(), Endless(b"", 0), send))
    assert send.sends >= 1025
    assert longest < STALL_SECONDS
    assert beats > 5


async def test_fairness_send_response_of_a_subclass_lets_others_run() -> None:
    """A send_response() of one's own that sends message by message is fair by what it is given."""

    class Sending(Handler):
        async def send_response(self, response: Response, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(100_000):
                await send({"type": "http.response.body", "body": b"x", "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def endpoint(request: Request) -> Response:
        return Response()

    handler = Sending(endpoint)
    longest, beats = await longest_wait(lambda: handler(http_scope(), Endless(b"", 0), discard))
    assert longest < STALL_SECONDS
    assert beats > 5


async def test_fairness_endless_messages_after_the_body_let_others_run() -> None:
    """A server that repeats http.request without end takes one turn for each."""
    server = Server(repeat(EMPTY))

    async def endpoint(request: Request) -> Response:
        await turn(2000)
        return Response()

    longest, beats = await longest_wait(lambda: Handler(endpoint)(http_scope(), server.receive, server.send))
    assert longest < STALL_SECONDS
    assert beats >= 2000
    assert server.received < 10_000


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

    server = Server(on_send=slow)
    with anyio.fail_after(5):
        await Handler(endpoint)(http_scope(), server.receive, server.send)
    assert produced == 50
    assert ahead <= 1
