"""_body.py: one reader of ``receive``, nothing lost, nothing beyond the limits, nothing left behind."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import sys
import threading
import tracemalloc
import weakref
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterable, Iterator
from contextlib import aclosing, asynccontextmanager
from itertools import product
from pathlib import Path
from tempfile import SpooledTemporaryFile
from time import perf_counter
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from clocks import Beats, Clock, turn_time
from conftest import BACKENDS

from asgicore import (
    Body,
    BodyConsumedError,
    BodyTimeoutError,
    BodyTooLargeError,
    ClientDisconnectedError,
    Limits,
    MalformedBodyError,
    ServerProtocolError,
)
from asgicore._late_scope import innermost_scope
from asgicore._spool import Spool
from asgicore._state import RequestState
from asgicore.testing import DISCONNECT, EMPTY, Channel, Message, body_messages

only_asyncio = pytest.mark.parametrize("anyio_backend", [b for b in BACKENDS if b.values[0][0] == "asyncio"])
needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks at /proc/self/fd")

WAYS = ["read", "stream", "file"]
"""How an application takes a body in."""

MiB = 2**20


class Feed:
    """A channel that gives a message when the test puts it there; exceptions are raised."""

    def __init__(self, *items: Any) -> None:
        self._items: deque[Any] = deque(items)
        self._more: anyio.Event | None = None
        self._inside = False
        self.calls = 0

    def put(self, *items: Any) -> None:
        self._items.extend(items)
        if self._more is not None:
            self._more.set()

    async def receive(self) -> Any:
        assert not self._inside, "two readers of receive()"
        self._inside = True
        self.calls += 1
        try:
            while not self._items:
                self._more = anyio.Event()
                with anyio.move_on_after(10) as scope:
                    await self._more.wait()
                assert not scope.cancelled_caught, "waits for a message that does not come"
            item = self._items.popleft()
            if isinstance(item, BaseException):
                raise item
            return item
        finally:
            self._inside = False

    @property
    def is_waiting(self) -> bool:
        return self._inside


async def settle() -> None:
    """Let every other task run until it waits; a parked listener wakes by a timer, which is not waited for."""
    for _ in range(25):
        await checkpoint()


def part(data: bytes, more: bool = True) -> Message:
    return {"type": "http.request", "body": data, "more_body": more}


def body_of(*parts: bytes, keep: bool = False, suspend: bool = False, **limits: Any) -> tuple[Body, Channel]:
    """A body that arrives in these parts, and its channel."""
    channel = Channel(body_messages(*parts), suspends=suspend)
    return Body(channel.receive, Limits(**limits), keep=keep), channel


async def begin(body: Body) -> None:
    """What the handler does in spool mode."""
    if (rest := body.begin(innermost_scope())) is not None:
        await rest


async def use(body: Body, way: str) -> bytes:
    """Take the whole body in, one way or another."""
    if way == "read":
        return await body.read()
    if way == "stream":
        stream: Any = body.stream()
        async with aclosing(stream):
            data: bytes = b"".join([piece async for piece in stream])
        return data
    if way == "call":
        data = b""
        while True:
            message = await body()
            data += message["body"]
            if not message["more_body"]:
                return data
    file = await body.file()
    return file.read()


@asynccontextmanager
async def listening(body: Body) -> AsyncIterator[None]:
    """A listener in a task of its own, as the handler starts one; cancelled at the end."""
    async with anyio.create_task_group() as group:
        group.start_soon(body.listen)
        await settle()
        yield
        group.cancel_scope.cancel()


# --- reading -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [*WAYS, "call"])
@pytest.mark.parametrize(
    "parts", [(), (b"a",), (b"a", b"b", b"c"), (b"", b"a", b"", b"b", b""), (b"x" * 5000, b"y", b"z" * 5000)]
)
async def test_body_in_any_parts_is_read_whole(way: str, parts: tuple[bytes, ...]) -> None:
    """However it arrives and however it is taken, the bytes are those that were sent, and nothing more is received."""
    for keep, suspend in product((False, True), repeat=2):
        body, channel = body_of(*parts, keep=keep, suspend=suspend)
        async with aclosing(body):
            assert await use(body, way) == b"".join(parts)
            assert body.is_settled
            assert not body.is_disconnected
            assert channel.received == max(len(parts), 1)


async def test_body_before_its_use_receives_nothing() -> None:
    """An unused body costs no ``receive``, so that 401 or 413 can go out at once."""
    body, channel = body_of(b"a")
    stream = body.stream()
    assert channel.received == 0
    await stream.__anext__()
    assert channel.received == 1
    await body.aclose()


async def test_stream_gives_parts_as_they_come_and_none_empty() -> None:
    """Each part is the object that the server gave; empty ones are left out."""
    parts = (b"one", b"", b"two", b"three", b"")
    body, channel = body_of(*parts)
    seen: list[tuple[bytes, int]] = [(piece, channel.received) async for piece in body.stream()]
    assert seen == [(b"one", 1), (b"two", 3), (b"three", 4)]
    assert seen[0][0] is parts[0]


@pytest.mark.parametrize("threshold", [0, 5, 100])
@pytest.mark.parametrize("loaded", [False, True])
async def test_kept_body_can_be_used_any_number_of_times_and_mixed(threshold: int, loaded: bool) -> None:
    """In memory or on disk, every use gives the same bytes, whatever was used before and wherever the file stands."""
    for ways in product(WAYS, repeat=3):
        body, _ = body_of(b"abc", b"defg", b"hij", keep=True, spool_threshold_bytes=threshold)
        async with aclosing(body):
            if loaded:
                await body.load()
            assert [await use(body, way) for way in ways] == [b"abcdefghij"] * 3


async def test_kept_body_read_leaves_the_file_where_the_application_put_it() -> None:
    """``body()`` and ``stream()`` read around the position that the application's file has."""
    body, _ = body_of(b"abcdefghij", keep=True, spool_threshold_bytes=4)
    async with aclosing(body):
        file = await body.file()
        assert file.read(3) == b"abc"
        assert await use(body, "stream") == b"abcdefghij"
        assert await use(body, "read") == b"abcdefghij"
        assert file.read() == b"defghij"
        assert await body.file() is file
        assert file.tell() == 0


async def test_kept_body_read_twice_gives_the_same_object() -> None:
    """A body in memory is joined once, and one that came in one message is not copied at all."""
    data = b"x" * 5000
    body, _ = body_of(data, keep=True)
    assert await body.read() is data
    spooled, _ = body_of(data, data, keep=True, spool_threshold_bytes=0)
    async with aclosing(spooled):
        assert await spooled.read() is await spooled.read()


@pytest.mark.parametrize("first", WAYS)
@pytest.mark.parametrize("second", WAYS)
async def test_unkept_body_used_twice_raises_at_once(first: str, second: str) -> None:
    """In stream mode a second use says what to do, and never waits for a message that cannot come."""
    body, _ = body_of(b"abc")
    async with aclosing(body):
        await use(body, first)
        with anyio.fail_after(5):
            if second == "stream":
                with pytest.raises(BodyConsumedError, match="body='spool'"):
                    body.stream()
            else:
                with pytest.raises(BodyConsumedError, match="body='spool'"):
                    await use(body, second)


@pytest.mark.parametrize("second", WAYS)
async def test_unkept_body_whose_stream_was_left_cannot_be_used_again(second: str) -> None:
    """A stream that was left in the middle is a use: the rest is never taken for the whole."""
    body, _ = body_of(b"abc", b"def")
    async with aclosing(body):
        async for _ in body.stream():
            break
        with pytest.raises(BodyConsumedError, match=r"after stream\(\)"):
            await use(body, second)


@pytest.mark.parametrize("way", WAYS)
async def test_unkept_body_whose_messages_were_taken_by_hand_is_not_read_as_whole(way: str) -> None:
    """After a part was taken as a message, what is left is not the body, and is not given as one."""
    body, _ = body_of(b"abc", b"def")
    async with aclosing(body):
        assert (await body())["body"] == b"abc"
        with pytest.raises(BodyConsumedError):
            await use(body, way)


@pytest.mark.parametrize("way", WAYS)
async def test_kept_body_whose_messages_were_taken_by_hand_is_not_read_as_whole(way: str) -> None:
    """The same where it would be kept."""
    body, _ = body_of(b"abc", b"def", keep=True)
    async with aclosing(body):
        assert (await body())["body"] == b"abc"
        with pytest.raises(BodyConsumedError):
            await use(body, way)


async def test_call_gives_checked_messages_and_then_the_disconnect() -> None:
    """Called like ``receive``: every part with all keys, then ``http.disconnect``, as often as asked."""
    channel = Channel([{"type": "http.request", "more_body": True}, {"type": "http.request", "body": b"x"}, EMPTY])
    body = Body(channel.receive)
    assert await body() == {"type": "http.request", "body": b"", "more_body": True}
    assert await body() == {"type": "http.request", "body": b"x", "more_body": False}
    channel.disconnect()
    for _ in range(3):
        assert await body() == DISCONNECT
    assert body.is_disconnected


# --- beginning by hand -------------------------------------------------------------------------------


@only_asyncio
async def test_begin_of_a_body_in_one_message_awaits_nothing() -> None:
    """What most requests come with is there already, and nothing is left to be awaited."""
    for data in (b"", b"abc"):
        body, channel = body_of(data, keep=True)
        assert body.begin(innermost_scope()) is None
        assert body.state is RequestState.COMPLETE
        assert await body.read() == data
        assert channel.received == 1
        assert not body.needs_closing


@pytest.mark.parametrize("parts", [(b"",), (b"a",), (b"", b"a"), (b"a", b"b", b"c"), (b"aaaaaaaa", b"b")])
async def test_begin_of_any_body_keeps_it_whole(parts: tuple[bytes, ...]) -> None:
    """Whether ``receive`` suspends or not, with and without a timeout, and whether it is one message or several."""
    for suspend, seconds in product((False, True), (None, 5)):
        body, _ = body_of(*parts, keep=True, suspend=suspend, spool_threshold_bytes=4, body_timeout_seconds=seconds)
        async with aclosing(body):
            await begin(body)
            assert body.is_settled
            assert await body.read() == b"".join(parts)


@pytest.mark.parametrize("parts", [(b"",), (b"a",), (b"a", b"b")])
async def test_begin_with_an_awaitable_that_is_no_coroutine_reads_it(parts: tuple[bytes, ...]) -> None:
    """Granian's ``receive`` gives an object that can only be awaited."""
    messages = iter(body_messages(*parts))

    class Ready:
        def __await__(self) -> Generator[Any, Any, Message]:
            yield from checkpoint().__await__()
            return next(messages)

    body = Body(lambda: Ready(), keep=True)
    await begin(body)
    assert await body.read() == b"".join(parts)


async def test_begin_with_a_client_that_is_gone_raises() -> None:
    """The first message may be the disconnect, and ``receive`` may say so by an OSError."""
    for item in (DISCONNECT, ConnectionResetError()):
        for suspends in (False, True):
            feed = Feed() if suspends else Feed(item)
            body = Body(feed.receive, keep=True)
            with anyio.fail_after(5):
                async with anyio.create_task_group() as group:

                    async def run(body: Body = body) -> None:
                        with pytest.raises(ClientDisconnectedError):
                            await begin(body)

                    group.start_soon(run)
                    if suspends:
                        await settle()
                        feed.put(item)
            assert body.is_disconnected
            assert body.state is RequestState.ABORTED


# --- messages as servers really send them ------------------------------------------------------------

TAKEN = [
    pytest.param({"type": "http.request"}, b"", id="no keys"),
    pytest.param({"type": "http.request", "body": None}, b"", id="body None"),
    pytest.param({"type": "http.request", "body": None, "more_body": None}, b"", id="both None"),
    pytest.param({"type": "http.request", "body": b"ab"}, b"ab", id="no more_body"),
    pytest.param({"type": "http.request", "body": bytearray(b"ab")}, b"ab", id="bytearray"),
    pytest.param({"type": "http.request", "body": memoryview(b"ab")}, b"ab", id="memoryview"),
    pytest.param({"type": "http.request", "body": memoryview(b"abcd")[::2]}, b"ac", id="memoryview with strides"),
    pytest.param({"type": "http.request", "more_body": False}, b"", id="no body"),
    pytest.param({"type": "http.request", "body": b"ab", "more_body": False, "extra": 1}, b"ab", id="unknown key"),
]

REFUSED = [
    pytest.param({"type": "http.request", "body": "text"}, id="body str"),
    pytest.param({"type": "http.request", "body": 5}, id="body int"),
    pytest.param({"type": "http.request", "body": [b"a"]}, id="body list"),
    pytest.param({"type": "http.request", "body": b"", "more_body": 0}, id="more_body 0"),
    pytest.param({"type": "http.request", "body": b"", "more_body": ""}, id="more_body empty text"),
    pytest.param({"type": "http.request", "body": b"", "more_body": "false"}, id="more_body text"),
    pytest.param({"type": "http.request", "body": b"", "more_body": 1}, id="more_body 1"),
    pytest.param({"type": "http.response.start", "status": 200}, id="a response"),
    pytest.param({"type": "websocket.receive"}, id="a websocket's"),
    pytest.param({"type": "pending"}, id="a name used inside"),
    pytest.param({"type": "failed"}, id="another name used inside"),
    pytest.param({"type": None}, id="type None"),
    pytest.param({"type": b"http.request"}, id="type bytes"),
    pytest.param({"type": ["http.request"]}, id="type list"),
    pytest.param({"body": b"a"}, id="no type"),
    pytest.param({}, id="empty"),
    pytest.param(None, id="None"),
    pytest.param("http.request", id="text"),
    pytest.param(b"http.disconnect", id="bytes"),
    pytest.param([("type", "http.request")], id="list"),
    pytest.param(5, id="number"),
]

READERS: dict[str, Callable[[Body], Awaitable[Any]]] = {
    "begin": begin,
    "load": Body.load,
    "call": Body.__call__,
    "read": lambda body: use(body, "read"),
    "stream": lambda body: use(body, "stream"),
    "file": lambda body: use(body, "file"),
}


@pytest.mark.parametrize(("message", "data"), TAKEN)
async def test_message_with_missing_or_unusual_keys_is_taken(message: Message, data: bytes) -> None:
    """In "Request - receive event": ``body`` defaults to empty and ``more_body`` to false; parts come out as bytes."""
    odd = {"type": "http.request", "body": bytearray(b"odd"), "more_body": True}
    for lead, way, keep in product((False, True), WAYS, (False, True)):
        messages = [part(b"lead"), odd, message] if lead else [message]
        expected = b"leadodd" + data if lead else data
        body = Body(Channel(messages).receive, keep=keep)
        async with aclosing(body):
            if keep:
                await begin(body)
            result = await use(body, way)
            assert result == expected
            assert type(result) is bytes


@pytest.mark.parametrize("message", REFUSED)
async def test_message_against_the_specification_is_refused(message: Any) -> None:
    """Nothing is guessed: the server's fault is a clear exception, and the same again when asked again."""
    for reader, lead in product(READERS, (0, 1)):
        channel = Feed(*[part(b"lead")] * lead, message, DISCONNECT)
        body = Body(channel.receive, keep=reader in ("begin", "load"))
        async with aclosing(body):
            with pytest.raises(ServerProtocolError) as caught:
                for _ in range(lead + 1 if reader == "call" else 1):
                    await READERS[reader](body)
            for _ in range(2):
                with pytest.raises(ServerProtocolError) as again:
                    await body()
                assert again.value is caught.value
            assert channel.calls == lead + 1


@pytest.mark.parametrize("message", REFUSED)
async def test_message_against_the_specification_read_ahead_is_refused(message: Any) -> None:
    """The same where the listener has read it ahead."""
    for reader in READERS:
        if reader == "begin":
            continue
        body = Body(Feed(message).receive, keep=reader == "load")
        async with aclosing(body), listening(body):
            with anyio.fail_after(5), pytest.raises(ServerProtocolError):
                await READERS[reader](body)


@pytest.mark.parametrize("message", [*REFUSED[7:], pytest.param({"type": "http.disconnected"}, id="a near miss")])
@pytest.mark.parametrize("who", ["call", "listen"])
async def test_message_after_the_body_of_an_unknown_type_is_refused(message: Any, who: str) -> None:
    """Where only the disconnect may come, an unknown type is the server's fault, too."""
    body = Body(Feed(EMPTY, message).receive)
    await body.load()
    with pytest.raises(ServerProtocolError):
        with anyio.fail_after(5):
            await (body() if who == "call" else body.listen())


@pytest.mark.parametrize("who", ["call", "listen"])
async def test_receive_failing_with_oserror_after_the_body_is_the_disconnect(who: str) -> None:
    """The same news, whichever way a server tells it."""
    body = Body(Feed(EMPTY, ConnectionResetError()).receive)
    await body.load()
    with anyio.fail_after(5):
        await (body() if who == "call" else body.listen())
    assert body.is_disconnected
    assert body.state is RequestState.GONE


@pytest.mark.parametrize("count", [1, 10, 1000])
@pytest.mark.parametrize("message", [EMPTY, {"type": "http.request"}, part(b"late"), part(b"late", False)])
async def test_message_after_the_body_that_repeats_it_is_ignored(count: int, message: Message) -> None:
    """Some servers repeat ``http.request`` after the body: harmless, it changes nothing."""
    body = Body(Feed(part(b"abc", False), *[message] * count, DISCONNECT).receive)
    assert await body.read() == b"abc"
    with anyio.fail_after(5):
        await body.listen()
    assert body.is_disconnected


# --- limits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [*WAYS, "call", "begin"])
async def test_body_of_exactly_the_limit_is_accepted(way: str) -> None:
    """The limit itself is allowed, in whatever parts it comes."""
    data = b"0123456789"
    for size, declared, threshold in product((1, 3, 10), (False, True), (0, 100)):
        parts = [data[start : start + size] for start in range(0, 10, size)]
        keep = way == "begin"
        body, _ = body_of(*parts, b"", keep=keep, max_body_bytes=10, spool_threshold_bytes=threshold)
        async with aclosing(body):
            if declared:
                body.declare(10)
            if keep:
                await begin(body)
            assert await use(body, "read" if keep else way) == data


@pytest.mark.parametrize("way", [*WAYS, "call", "begin"])
async def test_body_one_byte_beyond_the_limit_is_refused(way: str) -> None:
    """Counted as it arrives where nothing is declared: refused with at most one message past the limit."""
    data = b"x" * 11
    for size, keep, threshold in product((1, 3, 11), (False, True), (0, 5, 100)):
        parts = [data[start : start + size] for start in range(0, 11, size)]
        channel = Feed(*map(part, parts), *[part(b"more")] * 10)
        body = Body(channel.receive, Limits(max_body_bytes=10, spool_threshold_bytes=threshold), keep=keep)
        async with aclosing(body):
            with pytest.raises(BodyTooLargeError) as caught:
                await (begin(body) if way == "begin" else use(body, way))
            assert caught.value.status_code == 413
            assert caught.value.limit == 10
            assert body.failure is caught.value
            assert channel.calls == len(parts)
            if way != "begin":
                with pytest.raises((BodyTooLargeError, BodyConsumedError)):
                    await use(body, way)
            assert channel.calls == len(parts)


async def test_declare_beyond_the_limit_raises_before_anything_is_received() -> None:
    """413 on the declared length: not one message is asked for."""
    body, channel = body_of(b"x", max_body_bytes=10)
    body.declare(10)
    with pytest.raises(BodyTooLargeError):
        body.declare(11)
    assert channel.received == 0


async def test_body_without_a_limit_is_read() -> None:
    """``None`` lifts the limit."""
    body, _ = body_of(b"x" * MiB, b"y" * MiB, max_body_bytes=None, body_timeout_seconds=None)
    body.declare(2 * MiB)
    assert len(await body.read()) == 2 * MiB


@pytest.mark.parametrize(
    ("parts", "declared", "text"),
    [
        pytest.param((b"abc",), 4, "3 bytes, content-length declares 4", id="short"),
        pytest.param((b"ab", b"c"), 4, "3 bytes, content-length declares 4", id="short in two"),
        pytest.param((), 1, "0 bytes, content-length declares 1", id="nothing"),
        pytest.param((b"abcde",), 4, "5 bytes, content-length declares 4", id="long"),
        pytest.param((b"ab", b"cde"), 4, "5 bytes, content-length declares 4", id="long in two"),
        pytest.param((b"abcd", b"e"), 4, "5 bytes, content-length declares 4", id="one more"),
        pytest.param((b"abcde", b"f"), 4, "5 bytes and more, content-length declares 4", id="long at once"),
        pytest.param((b"a",), 0, "1 bytes, content-length declares 0", id="something for nothing"),
    ],
)
async def test_body_not_as_long_as_declared_is_refused(parts: tuple[bytes, ...], declared: int, text: str) -> None:
    """A body that is not what was announced is a 400, and never a shorter or longer body."""
    for way, keep, threshold in product([*WAYS, "call", "begin"], (False, True), (0, 100)):
        body, _ = body_of(*parts, keep=keep, spool_threshold_bytes=threshold)
        async with aclosing(body):
            body.declare(declared)
            with pytest.raises(MalformedBodyError, match=text) as caught:
                await (begin(body) if way == "begin" else use(body, way))
            assert caught.value.status_code == 400
            assert body.failure is caught.value


@pytest.mark.parametrize("way", WAYS)
async def test_body_as_long_as_declared_and_an_empty_end_is_accepted(way: str) -> None:
    """The last message may be empty: the length is held against the bytes, not against the messages."""
    body, _ = body_of(b"ab", b"cd", b"", b"")
    async with aclosing(body):
        body.declare(4)
        assert await use(body, way) == b"abcd"


# --- the client leaves -------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [*WAYS, "call", "begin"])
@pytest.mark.parametrize("news", [DISCONNECT, OSError("gone"), ConnectionResetError(), TimeoutError()], ids=repr)
async def test_body_cut_anywhere_is_aborted_and_never_an_end(way: str, news: Any) -> None:
    """A disconnect, or an OSError of ``receive``, before the last part is no end of the body, now or later."""
    for keep, threshold, position in product((False, True), (0, 100), range(4)):
        feed = Feed(*[part(b"abc")] * position, news)
        body = Body(feed.receive, Limits(spool_threshold_bytes=threshold), keep=keep)
        async with aclosing(body):
            with pytest.raises(ClientDisconnectedError):
                await (begin(body) if way == "begin" else use(body, way))
            assert body.is_disconnected
            assert body.is_settled
            assert body.state is RequestState.ABORTED
            await body.wait_disconnected()
            with pytest.raises(ClientDisconnectedError):
                await body.load()
            assert await body() == DISCONNECT
            with pytest.raises((ClientDisconnectedError, BodyConsumedError)):
                await use(body, "read")
            assert feed.calls == position + 1


async def test_stream_cut_gives_the_parts_before() -> None:
    """What came before the client left is given, and then the error."""
    body = Body(Feed(part(b"a"), part(b"b"), DISCONNECT).receive)
    seen = []
    with pytest.raises(ClientDisconnectedError, match="before the end of the body"):
        async for piece in body.stream():
            seen.append(piece)  # noqa: PERF401 - it ends by raising
    assert seen == [b"a", b"b"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("keep", [False, True])
async def test_body_used_after_the_client_is_known_to_have_left_raises(way: str, keep: bool) -> None:
    """Nothing waits for a message that cannot come."""
    body, channel = body_of(b"abc", keep=keep)
    body.leave()
    with anyio.fail_after(5), pytest.raises(ClientDisconnectedError):
        await use(body, way)
    assert channel.received == 0


@pytest.mark.parametrize("way", [*WAYS, "call", "begin"])
@pytest.mark.parametrize("position", range(3))
async def test_receive_failing_otherwise_propagates_unchanged(way: str, position: int) -> None:
    """A server's error that is no OSError is no disconnect; the same object arrives."""
    error = RuntimeError("broken server")
    body = Body(Feed(*[part(b"abc")] * position, error).receive)
    async with aclosing(body):
        with pytest.raises(RuntimeError) as caught:
            await (begin(body) if way == "begin" else use(body, way))
        assert caught.value is error
        assert not body.is_disconnected


# --- the listener ------------------------------------------------------------------------------------


@turn_time
async def test_listener_of_an_unread_body_reads_one_message_ahead_and_no_further() -> None:
    """An upload nobody reads is held back: the server's buffer fills, ours does not."""
    body, channel = body_of(*[b"x"] * 10)
    async with listening(body):
        assert channel.received == 1
        for _ in range(20):
            body.suspended()
            await checkpoint()
        await anyio.sleep(0.12)  # longer than it takes a parked listener to look again
        assert channel.received == 1


@pytest.mark.parametrize("way", [*WAYS, "call"])
@pytest.mark.parametrize("parts", [(b"",), (b"abc",), (b"a", b"b"), (b"", b"a", b"", b"b", b"c", b"")])
async def test_listener_beside_a_reader_loses_nothing(way: str, parts: tuple[bytes, ...]) -> None:
    """What was read ahead is kept for the application, whichever way it reads."""
    for keep, suspend in product((False, True), repeat=2):
        body, channel = body_of(*parts, keep=keep, suspend=suspend, spool_threshold_bytes=2)
        with anyio.fail_after(5):
            async with aclosing(body), listening(body):
                assert channel.received == 1
                assert await use(body, way) == b"".join(parts)


@pytest.mark.parametrize("body_timeout_seconds", [None, 5])
async def test_listener_that_is_inside_receive_hands_over_its_message(body_timeout_seconds: float | None) -> None:
    """A reader that comes while the listener waits gets the message that the listener gets; nobody else receives."""
    for way in (*WAYS, "call"):
        feed = Feed()
        body = Body(feed.receive, Limits(body_timeout_seconds=body_timeout_seconds))
        results: list[bytes] = []

        async def read(body: Body = body, way: str = way, results: list[bytes] = results) -> None:
            results.append(await use(body, way))

        with anyio.fail_after(5):
            async with aclosing(body), listening(body):
                assert feed.calls == 1
                async with anyio.create_task_group() as readers:
                    readers.start_soon(read)
                    await settle()
                    assert feed.calls == 1
                    feed.put(part(b"a"))
                    await settle()
                    feed.put(part(b"b"), part(b"c", False))
        assert results == [b"abc"]


async def test_listener_with_the_last_message_read_ahead_still_notices_the_disconnect() -> None:
    """The body stays readable after the client has left, since all of it came."""
    for way in WAYS:
        body, channel = body_of(b"abc")
        async with aclosing(body), listening(body):
            assert not body.is_disconnected
            channel.disconnect()
            await settle()
            assert body.is_disconnected
            assert not body.is_settled
            assert await use(body, way) == b"abc"
            assert body.state is RequestState.GONE
            assert body.is_settled


async def test_listener_with_an_unread_body_notices_a_disconnect_at_once() -> None:
    """A client that sends no body and leaves is noticed; nothing is taken for a body."""
    feed = Feed()
    body = Body(feed.receive)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(body.listen)
            await settle()
            feed.put(DISCONNECT)
    assert body.is_disconnected
    assert body.state is RequestState.ABORTED
    with pytest.raises(ClientDisconnectedError):
        await body.read()


@pytest.mark.parametrize("news", [DISCONNECT, OSError("gone")], ids=["event", "OSError"])
@pytest.mark.parametrize("way", [*WAYS, "call"])
async def test_listener_that_gets_the_disconnect_wakes_the_reader_beside_it(news: Any, way: str) -> None:
    """A reader that waits for the listener's message learns that there is none."""
    feed = Feed()
    body = Body(feed.receive)

    async def read() -> None:
        with pytest.raises(ClientDisconnectedError):
            await use(body, way)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(body.listen)
            await settle()
            group.start_soon(read)
            await settle()
            feed.put(news)
    assert feed.calls == 1


async def test_listener_goes_on_when_what_it_read_ahead_was_taken() -> None:
    """A task that the watch knows nothing of takes the message; the parked listener finds out and reads the next."""
    feed = Feed(part(b"a"))
    body = Body(feed.receive)
    with anyio.fail_after(5):
        async with listening(body):
            assert (await body())["body"] == b"a"
            while not feed.is_waiting:  # by looking again, at most 50 ms later
                await anyio.sleep(0.01)
            feed.put(DISCONNECT)
            await body.wait_disconnected()


async def test_listener_is_woken_at_once_when_the_endpoint_suspends() -> None:
    """Where the endpoint itself reads, the listener takes over in the same turn in which the endpoint waits."""
    feed = Feed(part(b"a"))
    body = Body(feed.receive)
    with anyio.fail_after(5):
        async with listening(body):
            body.suspended()
            await settle()
            assert feed.calls == 1  # the part is still there: held back
            await body()
            body.suspended()
            for _ in range(10):
                await checkpoint()
            assert feed.calls == 2


@turn_time
async def test_listener_stays_out_while_the_application_is_inside_receive() -> None:
    """Exactly one task is inside ``receive``, whether the application takes messages or iterates."""
    for way in ("call", "stream", "read"):
        feed = Feed()
        body = Body(feed.receive)
        with anyio.fail_after(5):
            async with aclosing(body), anyio.create_task_group() as group:
                group.start_soon(use, body, way)
                await settle()
                async with listening(body):
                    for _ in range(5):
                        body.suspended()
                        await checkpoint()
                    await anyio.sleep(0.06)
                    assert feed.calls == 1
                    feed.put(part(b"a"))
                    await settle()
                    assert feed.calls == 2
                    feed.put(part(b"", False))
                    await settle()
                    feed.put(DISCONNECT)
                    await body.wait_disconnected()


async def test_call_after_the_body_beside_the_listener_is_no_second_reader() -> None:
    """Code that waits for ``http.disconnect`` by itself, as Starlette's does, gets it from the one reader."""
    feed = Feed(EMPTY)
    body = Body(feed.receive)
    await body.load()
    results: list[Any] = []

    async def wait() -> None:
        results.append(await body())

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(body.listen)
            group.start_soon(wait)
            group.start_soon(wait)
            await settle()
            feed.put(DISCONNECT)
    assert results == [DISCONNECT, DISCONNECT]


@pytest.mark.parametrize("suspend", [False, True])
async def test_polling_for_the_disconnect_during_an_upload_leaves_the_body_intact(suspend: bool) -> None:
    """``is_disconnected`` asked a thousand times, with and without a turn between, touches no message."""
    data = [b"%d," % number for number in range(500)]
    body, channel = body_of(*data, suspend=suspend)
    seen = []
    async with listening(body):
        async for piece in body.stream():
            seen.append(piece)
            for _ in range(2):
                assert not body.is_disconnected
                body.suspended()
                await checkpoint()
    assert b"".join(seen) == b"".join(data)
    assert channel.received == 500


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("turns", range(6))
async def test_listener_starting_and_stopping_at_any_turn_loses_nothing(way: str, turns: int) -> None:
    """Each listener ends after some turns and another one starts, as for an endpoint and its background work."""
    data = [b"%d," % number for number in range(30)]
    body, _ = body_of(*data, suspend=True)
    result: list[bytes] = []

    async def read() -> None:
        result.append(await use(body, way))

    with anyio.fail_after(5):
        async with aclosing(body), anyio.create_task_group() as group:
            group.start_soon(read)
            while not result:
                async with anyio.create_task_group() as listener:
                    listener.start_soon(body.listen)
                    for _ in range(turns):
                        body.suspended()
                        await checkpoint()
                    listener.cancel_scope.cancel()
                await checkpoint()
    assert result == [b"".join(data)]


@pytest.mark.parametrize("way", [*WAYS, "call"])
async def test_reader_goes_on_alone_when_the_listener_is_stopped(way: str) -> None:
    """The reader that waited for the listener's message asks ``receive`` itself."""
    feed = Feed()
    body = Body(feed.receive)
    results: list[bytes] = []

    async def read() -> None:
        results.append(await use(body, way))

    with anyio.fail_after(5):
        async with aclosing(body), anyio.create_task_group() as group:
            async with listening(body):
                group.start_soon(read)
                await settle()
            await settle()
            assert feed.calls == 2
            feed.put(part(b"a"), part(b"b", False))
    assert results == [b"ab"]


@pytest.mark.parametrize("way", [*WAYS, "call"])
async def test_reader_gone_on_alone_takes_an_oserror_for_the_disconnect(way: str) -> None:
    """It is the same channel, and the same news."""
    feed = Feed()
    body = Body(feed.receive)

    async def read() -> None:
        with pytest.raises(ClientDisconnectedError):
            await use(body, way)

    with anyio.fail_after(5):
        async with aclosing(body), anyio.create_task_group() as group:
            async with listening(body):
                group.start_soon(read)
                await settle()
            feed.put(OSError("gone"))
    assert body.is_disconnected


@turn_time
@pytest.mark.parametrize("way", [*WAYS, "call"])
async def test_reader_gone_on_alone_keeps_the_idle_timeout(way: str) -> None:
    """A client that sends nothing is given up all the same."""
    body = Body(Feed().receive, Limits(body_timeout_seconds=0.05))

    async def read() -> None:
        with pytest.raises(BodyTimeoutError):
            await use(body, way)

    with anyio.fail_after(5):
        async with aclosing(body), anyio.create_task_group() as group, listening(body):
            group.start_soon(read)
            await settle()


@pytest.mark.parametrize("way", [*WAYS, "call"])
async def test_listener_whose_receive_fails_raises_and_the_reader_gets_the_same(way: str) -> None:
    """Whoever runs the listener hands the failure on with ``fail``; the reader beside it gets the same object."""
    error = RuntimeError("broken server")
    feed = Feed()
    body = Body(feed.receive)

    async def listen() -> None:
        try:
            await body.listen()
        except RuntimeError as exc:
            body.fail(exc)

    async def read() -> None:
        with pytest.raises(RuntimeError) as caught:
            await use(body, way)
        assert caught.value is error

    with anyio.fail_after(5):
        async with aclosing(body), anyio.create_task_group() as group:
            group.start_soon(listen)
            await settle()
            group.start_soon(read)
            await settle()
            feed.put(error)
    with pytest.raises(RuntimeError) as caught:
        await body.load()
    assert caught.value is error
    assert feed.calls == 1


async def test_listener_after_a_failure_receives_nothing_more() -> None:
    """Nothing more will come; the listener only waits for its end."""
    feed = Feed(EMPTY)
    body = Body(feed.receive)
    failure = BodyTooLargeError(1)
    assert body.fail(failure) is failure
    async with listening(body):
        body.suspended()
        await settle()
        assert feed.calls == 0
    body.leave()
    assert body.is_disconnected


async def test_leave_with_a_part_read_ahead_keeps_the_part() -> None:
    """Another way to learn of the disconnect, a failed send, does not throw away what came before."""
    body, channel = body_of(b"a", b"b")
    async with listening(body):
        channel.disconnect()
        body.leave()
        assert body.is_disconnected
        assert (await body())["body"] == b"a"
    last, _ = body_of(b"end")
    async with listening(last):
        last.leave()
        assert await last.read() == b"end"
        assert last.state is RequestState.GONE


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("call", "call"),
        ("call", "listen"),
        ("listen", "call"),
        ("listen", "listen"),
        ("call", "wait"),
        ("wait", "wait"),
    ],
)
async def test_waiting_for_the_disconnect_goes_on_when_the_one_inside_receive_is_cancelled(
    first: str, second: str
) -> None:
    """Of two that wait, the one inside ``receive`` gives up, as a poll with a timeout does: the other takes over."""
    feed = Feed(EMPTY)
    body = Body(feed.receive)
    await body.load()
    body.lone_scope = (
        {} if "wait" in (first, second) else None
    )  # else it is the listener alone that receives for those who wait
    ways: dict[str, Callable[[], Coroutine[Any, Any, object]]] = {
        "call": body.__call__,
        "listen": body.listen,
        "wait": body.wait_disconnected,
    }
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            scope = anyio.CancelScope()

            async def give_up() -> None:
                with scope:
                    await ways[first]()

            group.start_soon(give_up)
            await settle()
            group.start_soon(ways[second])
            await settle()
            assert feed.calls == 2
            scope.cancel()
            await settle()
            feed.put(DISCONNECT)
    assert body.is_disconnected


@pytest.mark.parametrize("second", ["call", "listen"])
@pytest.mark.parametrize("item", [RuntimeError("broken server"), {"type": "unknown"}], ids=["error", "unknown type"])
async def test_waiting_for_the_disconnect_ends_when_the_one_inside_receive_fails(second: str, item: Any) -> None:
    """Both learn that no disconnect can come any more."""
    feed = Feed(EMPTY)
    body = Body(feed.receive)
    await body.load()
    failures: list[BaseException] = []

    async def wait(way: str) -> None:
        try:
            await (body() if way == "call" else body.listen())
        except (RuntimeError, ServerProtocolError) as exc:
            failures.append(exc)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(wait, "call")
            await settle()
            group.start_soon(wait, second)
            await settle()
            feed.put(item)
    assert len(failures) == 2


async def test_wait_disconnected_raises_when_no_disconnect_can_come() -> None:
    """What ``receive`` raised is told to whoever waits, and to whoever comes later only if that waits."""
    error = RuntimeError("broken server")
    body = Body(Feed().receive)
    failures: list[BaseException] = []

    async def wait() -> None:
        try:
            await body.wait_disconnected()
        except RuntimeError as exc:
            failures.append(exc)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            group.start_soon(wait)
            await settle()
            body.fail(error)
    assert failures == [error, error]


async def test_wait_disconnected_without_a_handler_listens_itself() -> None:
    """A body that stands alone has no listener beside it; what is read ahead meanwhile is kept."""
    feed = Feed(part(b"abc", False))
    body = Body(feed.receive)
    body.lone_scope = {}
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(body.wait_disconnected)
            await settle()
            feed.put(DISCONNECT)
        await body.wait_disconnected()
    assert body.is_disconnected
    assert await body.read() == b"abc"


async def test_wait_disconnected_returns_when_the_client_leaves() -> None:
    """Several tasks may wait; whoever comes later returns at once."""
    body, channel = body_of(b"abc")
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(body.listen)
            group.start_soon(body.wait_disconnected)
            group.start_soon(body.wait_disconnected)
            await settle()
            channel.disconnect()
        await body.wait_disconnected()
    assert body.is_disconnected


# --- two tasks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [3, 100])
async def test_kept_body_used_by_several_tasks_at_once_gives_each_all_of_it(threshold: int) -> None:
    """Reads of the spooled file do not disturb each other."""
    data = [bytes([65 + number]) * 1000 for number in range(20)]
    body, _ = body_of(*data, keep=True, spool_threshold_bytes=threshold)
    results: list[bytes] = []

    async def run(way: str) -> None:
        results.append(await use(body, way))

    async with aclosing(body):
        await body.load()
        with anyio.fail_after(5):
            async with anyio.create_task_group() as group:
                for way in ["read", "stream"] * 4:
                    group.start_soon(run, way)
    assert results == [b"".join(data)] * 8


@pytest.mark.parametrize(
    ("first", "second"), [("read", "read"), ("stream", "file"), ("load", "stream"), ("file", "load")]
)
async def test_kept_body_first_used_by_two_tasks_at_once_has_one_reader(first: str, second: str) -> None:
    """Whether the second one waits or is refused, ``receive`` is never entered twice and no part is lost."""
    feed = Feed()
    body = Body(feed.receive, keep=True)
    results: list[bytes] = []

    async def run(way: str) -> None:
        if way == "load":
            await body.load()
            way = "read"
        try:
            results.append(await use(body, way))
        except BodyConsumedError:
            results.append(b"refused")

    with anyio.fail_after(5):
        async with aclosing(body), anyio.create_task_group() as group:
            group.start_soon(run, first)
            await settle()
            group.start_soon(run, second)
            await settle()
            feed.put(part(b"a"), part(b"b"), part(b"c", False))
    assert results[0] == b"abc" or results[1] == b"abc"
    assert set(results) <= {b"abc", b"refused"}


# --- the idle timeout --------------------------------------------------------------------------------

IDLE = 0.02
IDLE_WAYS = [*WAYS, "call", "begin", "load"]


@pytest.mark.parametrize("way", IDLE_WAYS)
@pytest.mark.parametrize(("parts", "threshold"), [(0, 100), (2, 100), (2, 0)])
async def test_body_that_stops_coming_is_given_up(way: str, parts: int, threshold: int) -> None:
    """A stalled upload ends with a 408 within the timeout and a quarter, and whoever asks again gets the same."""
    feed = Feed(*[part(b"abc")] * parts)
    keep = way in ("begin", "load")
    body = Body(feed.receive, Limits(body_timeout_seconds=IDLE, spool_threshold_bytes=threshold), keep=keep)
    async with aclosing(body):
        began = perf_counter()
        with (
            anyio.fail_after(5),
            pytest.raises(BodyTimeoutError, match=r"nothing received for 0\.02 seconds") as caught,
        ):
            if way == "begin":
                await begin(body)
            elif way == "load":
                await body.load()
            else:
                await use(body, way)
        assert perf_counter() - began >= IDLE * 0.9
        assert caught.value.status_code == 408
        assert body.failure is caught.value
        calls = feed.calls
        feed.put(part(b"late", False))
        with pytest.raises(BodyTimeoutError) as again:
            await body.load()
        assert again.value is caught.value
        assert feed.calls == calls
        assert not body.is_disconnected


@turn_time
@pytest.mark.parametrize("way", [*WAYS, "call", "load"])
@pytest.mark.parametrize("parts", [0, 2])
async def test_body_that_stops_coming_while_the_listener_waits_is_given_up(way: str, parts: int) -> None:
    """The timeout holds also for a reader that waits for the listener's message."""
    feed = Feed()
    body = Body(feed.receive, Limits(body_timeout_seconds=IDLE), keep=way == "load")
    with anyio.fail_after(5):
        async with aclosing(body), listening(body):
            feed.put(*[part(b"abc")] * parts)
            with pytest.raises(BodyTimeoutError) as caught:
                await (body.load() if way == "load" else use(body, way))
            assert body.failure is caught.value
            feed.put(part(b"late", False))
            with pytest.raises(BodyTimeoutError):
                await body.load()


@turn_time
@pytest.mark.parametrize("way", [*WAYS, "begin"])
async def test_body_that_trickles_in_time_is_read(way: str) -> None:
    """The timeout is for one message, not for the body."""

    async def trickles(index: int) -> None:
        await anyio.sleep(0.03)

    channel = Channel(body_messages(*[b"x"] * 8), on_receive=trickles)
    body = Body(channel.receive, Limits(body_timeout_seconds=0.12), keep=way == "begin")
    async with aclosing(body):
        if way == "begin":
            await begin(body)
            way = "read"
        assert await use(body, way) == b"x" * 8


@turn_time
async def test_stream_with_a_slow_consumer_is_not_idle() -> None:
    """The application takes the time it needs between two parts; only waiting for the client counts."""
    body, _ = body_of(b"a", b"b", b"c", suspend=True, body_timeout_seconds=0.02)
    seen = []
    async for piece in body.stream():
        seen.append(piece)
        await anyio.sleep(0.06)
    assert seen == [b"a", b"b", b"c"]


@turn_time
async def test_body_spooled_to_a_slow_disk_is_not_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time that the disk takes is not the client's."""
    write = Spool.write
    writing, goes_on = threading.Event(), threading.Event()
    writes: list[bool] = []

    def slow(self: Spool, parts: Any) -> None:
        writing.set()
        writes.append(goes_on.wait(20))
        goes_on.clear()
        write(self, parts)

    async def disk() -> None:
        while True:
            while not writing.is_set():
                await checkpoint()
            writing.clear()
            await anyio.sleep(0.08)
            goes_on.set()

    monkeypatch.setattr(Spool, "write", slow)
    body, _ = body_of(*[b"x" * MiB] * 3, keep=True, suspend=True, spool_threshold_bytes=0, body_timeout_seconds=0.02)
    async with anyio.create_task_group() as group, aclosing(body):
        group.start_soon(disk)
        await begin(body)
        assert await body.read() == b"x" * (3 * MiB)
        group.cancel_scope.cancel()
    assert len(writes) >= 2
    assert all(writes)


async def test_stream_taken_over_by_another_task_times_out_there() -> None:
    """The first part is read here and the rest in a child task: the timeout is raised where the waiting is done."""
    feed = Feed(part(b"head"))
    body = Body(feed.receive, Limits(body_timeout_seconds=IDLE))
    stream = body.stream()
    outcome: list[BaseException] = []

    async def rest() -> None:
        try:
            await stream.__anext__()
        except BodyTimeoutError as exc:
            outcome.append(exc)

    with anyio.fail_after(5):
        assert await stream.__anext__() == b"head"
        async with aclosing(body), anyio.create_task_group() as group:
            group.start_soon(rest)
    assert len(outcome) == 1


@only_asyncio
async def test_stream_idle_and_cancelled_at_once_is_cancelled() -> None:
    """A native cancellation that arrives in the same turn as the timeout is never swallowed."""
    body = Body(Feed().receive, Limits(body_timeout_seconds=IDLE))
    stream = body.stream()
    task = asyncio.ensure_future(anext(stream))
    while not task.cancelling():  # the timer's own
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelling() == 1
    await body.aclose()


@only_asyncio
@pytest.mark.usefixtures("small_heap")
async def test_stream_left_and_dropped_is_collected() -> None:
    """A stream that nobody holds any more is not kept alive, nor looked after, by its idle timer."""
    feed = Feed(part(b"a"), part(b"b"))
    body = Body(feed.receive, Limits(body_timeout_seconds=IDLE))
    async for _ in body.stream():
        break
    gone = weakref.ref(body)
    del body
    for _ in range(3):
        await asyncio.sleep(IDLE)
        gc.collect()
    assert gone() is None


# --- cancellation ------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [*WAYS, "call", "begin", "load"])
@pytest.mark.parametrize("position", range(3))
@pytest.mark.parametrize("listener", [False, True])
async def test_reader_cancelled_at_any_await_is_cancelled(way: str, position: int, listener: bool) -> None:
    """A cancellation arrives wherever the reader waits, and leaves ``receive`` free."""
    feed = Feed(*[part(b"abc")] * position)
    body = Body(feed.receive, keep=way in ("begin", "load"))

    async def read() -> None:
        if way == "begin":
            await begin(body)
        elif way == "load":
            await body.load()
        else:
            await use(body, way)

    with anyio.fail_after(5):
        async with aclosing(body), anyio.create_task_group() as group:
            if listener:
                group.start_soon(body.listen)
                await settle()
            if way == "begin" and listener:
                group.cancel_scope.cancel()  # begin() comes before any listener
                return
            async with anyio.create_task_group() as reader:
                reader.start_soon(read)
                await settle()
                reader.cancel_scope.cancel()
            group.cancel_scope.cancel()
    assert not feed.is_waiting
    assert body.failure is None


@pytest.mark.parametrize("listener", [False, True])
@pytest.mark.parametrize("threshold", [0, 4, 100])
async def test_kept_body_whose_reading_was_cancelled_is_never_taken_for_whole(listener: bool, threshold: int) -> None:
    """Read again after a cancellation, it is the whole body or an error, and never the part that came later."""
    feed = Feed(part(b"abc"), part(b"def"))
    body = Body(feed.receive, Limits(spool_threshold_bytes=threshold), keep=True)
    with anyio.fail_after(5):
        async with aclosing(body):
            async with anyio.create_task_group() as reader:
                reader.start_soon(body.load)
                await settle()
                reader.cancel_scope.cancel()
            feed.put(part(b"ghi", False))
            try:
                data = await body.read()
            except BodyConsumedError:
                return
    assert data == b"abcdefghi"


async def test_call_cancelled_while_the_listener_receives_keeps_the_message() -> None:
    """What the listener gets after the reader was cancelled is there for the next one."""
    feed = Feed()
    body = Body(feed.receive)
    with anyio.fail_after(5):
        async with listening(body):
            with anyio.move_on_after(0.01):
                await body()
            feed.put(part(b"a"))
            await settle()
            assert (await body())["body"] == b"a"
            assert feed.calls <= 2


async def test_call_cancelled_before_a_message_read_ahead_is_taken_keeps_it() -> None:
    """A scope that is cancelled already takes no part away."""
    body, _ = body_of(b"a", b"b")
    async with listening(body):
        with anyio.CancelScope() as scope:
            scope.cancel()
            await checkpoint()
        assert (await body())["body"] == b"a"
        assert (await body())["body"] == b"b"


@only_asyncio
@pytest.mark.parametrize("way", ["read", "stream", "begin"])
async def test_reader_cancelled_natively_is_cancelled(way: str) -> None:
    """``Task.cancel()``, as servers use it, is not taken for the idle timeout."""
    body = Body(Feed(part(b"a")).receive, keep=way == "begin")
    task = asyncio.create_task(begin(body) if way == "begin" else use(body, way))
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert body.failure is None
    await body.aclose()


# --- many messages -----------------------------------------------------------------------------------


@pytest.mark.untraced
@pytest.mark.parametrize("way", ["read", "stream", "begin"])
@pytest.mark.parametrize("data", [b"ab", b""], ids=["two bytes", "empty"])
async def test_body_of_many_tiny_messages_takes_little_memory(way: str, data: bytes) -> None:
    """Tiny and empty messages are gathered, not listed: 5,000 cost less than 256 KiB."""

    def messages() -> Iterator[Message]:
        for _ in range(5000):
            yield part(data)
        yield EMPTY

    body = Body(Channel(messages()).receive, keep=way == "begin")
    tracemalloc.start()
    try:
        if way == "begin":
            await begin(body)
            read = len(await body.read())
        elif way == "read":
            read = len(await body.read())
        else:
            read = 0
            async for piece in body.stream():
                read += len(piece)
        assert tracemalloc.get_traced_memory()[1] < MiB // 4
    finally:
        tracemalloc.stop()
    assert read == 5000 * len(data)


@pytest.mark.untraced
@pytest.mark.parametrize("way", ["read", "stream", "begin", "load", "spool", "call"])
@pytest.mark.parametrize("data", [b"ab", b""], ids=["two bytes", "empty"])
async def test_receive_that_never_suspends_leaves_turns_to_others(way: str, data: bytes, clock: Clock) -> None:
    """A large body that is buffered already does not keep other tasks waiting."""

    def messages() -> Iterable[Message]:
        for _ in range(1000):
            clock.work(50e-6)
            yield part(data)
        yield EMPTY

    body = Body(
        Channel(messages()).receive,
        Limits(spool_threshold_bytes=0 if way == "spool" else MiB),
        keep=way in ("begin", "load", "spool"),
    )

    async def work() -> None:
        if way in ("begin", "spool"):
            await begin(body)
        elif way == "load":
            await body.load()
        else:
            await use(body, way)

    beats = Beats(clock)
    async with aclosing(body):
        await beats.during(work)
    assert beats.longest <= 0.005  # see test_fairness.py
    assert beats.turns >= 10


@pytest.mark.parametrize("who", ["call", "listen"])
async def test_server_that_repeats_messages_without_end_does_not_hold_the_loop(who: str, clock: Clock) -> None:
    """After the body a hot loop of ``http.request`` gives up the loop after each."""

    def messages() -> Iterator[Message]:
        while True:
            clock.work(1)
            yield EMPTY

    body = Body(Channel(messages()).receive)
    await body.load()
    beats = Beats(clock)

    async def work() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(body if who == "call" else body.listen)
            for _ in range(100):
                await checkpoint()
            group.cancel_scope.cancel()

    await beats.during(work)
    assert beats.longest <= 2  # messages: trio runs the tasks of a turn in any order
    assert beats.turns >= 100


# --- on disk -----------------------------------------------------------------------------------------


def descriptors() -> dict[str, os.stat_result]:
    """The open files of this process that have no name."""
    found = {}
    for entry in os.listdir("/proc/self/fd"):
        path = f"/proc/self/fd/{entry}"
        try:
            if os.readlink(path).endswith(" (deleted)"):
                found[entry] = os.stat(path)
        except OSError:
            continue  # the descriptor of the listing itself
    return found


@needs_proc
@pytest.mark.parametrize("parts", [(b"x" * 100,), (b"x" * 50, b"x" * 50), (b"",)])
async def test_body_up_to_the_threshold_makes_no_file(parts: tuple[bytes, ...]) -> None:
    """Nothing on disk below the threshold, ``file()`` included."""
    before = descriptors().keys()
    body, _ = body_of(*parts, keep=True, spool_threshold_bytes=100)
    async with aclosing(body):
        await begin(body)
        for way in WAYS:
            assert await use(body, way) == b"".join(parts)
        assert descriptors().keys() == before


@needs_proc
@pytest.mark.parametrize("parts", [(b"x" * 101,), (b"x" * 50, b"x" * 51)])
async def test_body_beyond_the_threshold_is_an_unnamed_file_of_the_owner_alone(parts: tuple[bytes, ...]) -> None:
    """No name, mode 0600, and gone when the body is closed."""
    before = descriptors().keys()
    body, _ = body_of(*parts, keep=True, spool_threshold_bytes=100)
    async with aclosing(body):
        await begin(body)
        new = [stat for name, stat in descriptors().items() if name not in before]
        assert len(new) == 1
        assert new[0].st_mode & 0o777 == 0o600
        assert new[0].st_size == 101
        assert new[0].st_nlink == 0
        assert await body.read() == b"x" * 101
    assert descriptors().keys() == before
    await body.aclose()  # may be called again


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Which thread each disk operation runs in."""
    seen: list[tuple[str, int]] = []
    for name in ("write", "read_at", "rewind", "close"):

        def record(self: Spool, *args: Any, name: str = name, original: Any = getattr(Spool, name)) -> Any:
            seen.append((name, threading.get_ident()))
            return original(self, *args)

        monkeypatch.setattr(Spool, name, record)
    return seen


async def test_disk_is_touched_in_worker_threads_only(threads: list[tuple[str, int]]) -> None:
    """Writing, reading, rewinding and closing are hops; 4 MiB in small parts are a handful of writes."""
    body, _ = body_of(*[b"x" * 16384] * 256, keep=True)
    await begin(body)
    for way in ("file", "stream", "read"):
        if way == "file":
            await body.file()
        else:
            await use(body, way)
    await body.aclose()
    assert {name for name, _ in threads} == {"write", "read_at", "rewind", "close"}
    assert threading.get_ident() not in {thread for _, thread in threads}
    assert sum(name == "write" for name, _ in threads) <= 5


@pytest.mark.parametrize("cut", ["disconnect", "too large", "timeout", "cancelled"])
async def test_disk_file_of_a_body_that_was_cut_is_closed_in_a_thread(threads: list[tuple[str, int]], cut: str) -> None:
    """However the upload ends, the file is closed off the loop, exactly once."""
    feed = Feed(part(b"x" * 200))
    if cut == "disconnect":
        feed.put(DISCONNECT)
    elif cut == "too large":
        feed.put(part(b"x" * 2000))
    seconds = 0.05 if cut == "timeout" else None
    body = Body(
        feed.receive, Limits(spool_threshold_bytes=100, max_body_bytes=1000, body_timeout_seconds=seconds), keep=True
    )

    async def cancel(scope: anyio.CancelScope) -> None:
        while not threads:  # the file is there from its first write on
            await checkpoint()
        scope.cancel()

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            if cut == "cancelled":
                group.start_soon(cancel, group.cancel_scope)
            with pytest.raises((ClientDisconnectedError, BodyTooLargeError, BodyTimeoutError)):
                await begin(body)
    await body.aclose()
    await body.aclose()
    assert [name for name, _ in threads if name == "close"] == ["close"]
    assert threading.get_ident() not in {thread for _, thread in threads}


@pytest.mark.parametrize("after", range(4))
@pytest.mark.parametrize("endless", [False, True])
async def test_disk_that_is_full_raises_and_the_file_is_closed(
    monkeypatch: pytest.MonkeyPatch, after: int, endless: bool
) -> None:
    """ENOSPC at any write is the OSError that the disk gave; receiving stops, and closing works."""
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    write = Spool.write
    writes = 0

    def fail(self: Spool, parts: Any) -> None:
        nonlocal writes
        writes += 1
        if writes > after:
            raise full
        write(self, parts)

    monkeypatch.setattr(Spool, "write", fail)
    parts = [part(b"x" * (MiB // 2)) for _ in range(9)]
    feed = Feed(*parts, *([] if endless else [EMPTY]))
    body = Body(feed.receive, Limits(spool_threshold_bytes=MiB // 2), keep=True)
    with anyio.fail_after(5), pytest.raises(OSError, match=os.strerror(errno.ENOSPC)) as caught:
        if endless and after == 3:
            feed.put(EMPTY)
        await begin(body)
    assert caught.value is full
    assert not body.is_disconnected
    spooled = body._spool
    assert spooled is not None
    await body.aclose()
    assert spooled.is_closed
    assert spooled.file.closed


async def test_disk_that_was_full_does_not_leave_half_a_body(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked again after the disk failed, the body is an error, and never what came afterwards."""

    def fail(self: Spool, parts: Any) -> None:
        raise OSError(errno.ENOSPC, "full")

    feed = Feed(*[part(b"x" * MiB)] * 4)
    body = Body(feed.receive, Limits(spool_threshold_bytes=10), keep=True)
    async with aclosing(body):
        with monkeypatch.context() as patched:
            patched.setattr(Spool, "write", fail)
            with pytest.raises(OSError, match="full"):
                await begin(body)
        feed.put(part(b"rest", False))
        with anyio.fail_after(5), pytest.raises((OSError, BodyConsumedError)):
            await body.read()


@pytest.mark.parametrize("lead", [0, 1])
async def test_body_of_one_giant_message_is_spooled(lead: int) -> None:
    """A single message beyond the threshold goes to disk in a thread, whole."""
    data = os.urandom(1024) * 8192
    body, _ = body_of(*[b"lead"] * lead, data, keep=True)
    async with aclosing(body):
        await begin(body)
        file = await body.file()
        assert file._rolled  # type: ignore[attr-defined]
        assert await body.read() == b"lead" * lead + data


@pytest.mark.parametrize("size", [4096, 5000])
async def test_body_with_a_high_threshold_and_many_parts_is_spooled(size: int) -> None:
    """Everything gathered below the threshold is written, however many parts it is."""
    count = 3000
    body, _ = body_of(*[b"x" * size] * count, b"end", keep=True, spool_threshold_bytes=(count - 10) * size)
    async with aclosing(body):
        await begin(body)
        assert await body.read() == b"x" * (size * count) + b"end"


async def test_body_of_mixed_parts_is_spooled_in_order() -> None:
    """Tiny and large parts, several batches: the file holds them in order."""
    parts = [bytes([number % 251]) * size for number, size in enumerate([1, 70_000, 3, 3, 5000, 0, 999] * 60)]
    body, _ = body_of(*parts, keep=True, suspend=True, spool_threshold_bytes=1000)
    async with aclosing(body):
        await begin(body)
        assert await use(body, "stream") == b"".join(parts)


@only_asyncio
@pytest.mark.parametrize("times", [1, 2, 3])
async def test_spooling_cancelled_natively_closes_the_file(times: int) -> None:
    """``Task.cancel()`` at any turn of the loop, in spooling or in the closing itself: no descriptor is left."""
    for turns in range(0, 60, 2):
        body, _ = body_of(*[b"x" * 65536] * 40, keep=True, suspend=True, spool_threshold_bytes=100)

        async def run(body: Body = body) -> None:
            try:
                await begin(body)
                await asyncio.sleep(5)
            finally:
                await body.aclose()

        task = asyncio.create_task(run())
        for _ in range(turns):
            await asyncio.sleep(0)
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert body._spool is None or body._spool.is_closed
        assert body._spool is None or body._spool.file.closed


@only_asyncio
@pytest.mark.parametrize("turns", range(1, 7))
async def test_aclose_cancelled_natively_closes_the_file(turns: int) -> None:
    """A cancellation that hits the closing closes the file on the spot."""
    body, _ = body_of(b"x" * 1000, keep=True, spool_threshold_bytes=100)
    await begin(body)
    task = asyncio.create_task(body.aclose())
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert body._spool is not None
    assert body._spool.is_closed
    assert body._spool.file.closed


async def test_aclose_in_a_cancelled_scope_closes_the_file() -> None:
    """The same for a scope that is cancelled already."""
    body, _ = body_of(b"x" * 1000, keep=True, spool_threshold_bytes=100)
    await begin(body)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await body.aclose()
    assert body._spool is not None
    assert body._spool.file.closed


async def test_aclose_of_a_file_that_cannot_be_closed_raises_and_may_be_called_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A disk that fails at the end is told once."""
    body, _ = body_of(b"x" * 1000, keep=True, spool_threshold_bytes=100)
    await begin(body)
    assert body._spool is not None
    file = body._spool.file
    close = file.close

    def fail() -> None:
        close()
        raise OSError(errno.EIO, "bad disk")

    monkeypatch.setattr(file, "close", fail)
    with pytest.raises(OSError, match="bad disk"):
        await body.aclose()
    await body.aclose()


# --- closing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
async def test_body_on_disk_used_after_its_closing_raises_clearly(way: str) -> None:
    """The request is over: an error that says so, not one about a closed file."""
    body, _ = body_of(b"x" * 1000, keep=True, spool_threshold_bytes=100)
    await begin(body)
    await body.aclose()
    with pytest.raises(BodyConsumedError, match="the request is over"):
        await use(body, way)


async def test_body_in_memory_read_after_its_closing_is_still_there() -> None:
    """What is in memory needs no file."""
    body, _ = body_of(b"abc", keep=True)
    await begin(body)
    await body.aclose()
    assert await body.read() == b"abc"


async def test_aclose_of_an_unused_body_does_nothing() -> None:
    """Most bodies have nothing to close."""
    body, channel = body_of(b"abc")
    assert not body.needs_closing
    await body.aclose()
    body.close_nowait()
    assert channel.received == 0


@pytest.mark.parametrize("steps", [0, 1])
async def test_aclose_ends_a_stream_that_was_left(steps: int) -> None:
    """The iterator is closed with the request, whether it was begun or not, and twice is once."""
    body, _ = body_of(b"a", b"b")
    stream = body.stream()
    for _ in range(steps):
        await stream.__anext__()
    assert body.needs_closing
    await body.aclose()
    await body.aclose()
    with pytest.raises(StopAsyncIteration):
        await stream.__anext__()


async def test_aclose_leaves_a_stream_alone_that_another_task_is_in() -> None:
    """A generator that runs cannot be closed; its task is cancelled by whoever started it."""
    feed = Feed()
    body = Body(feed.receive)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(use, body, "stream")
            await settle()
            await body.aclose()
            group.cancel_scope.cancel()


async def test_close_nowait_closes_the_file_on_the_spot() -> None:
    """Where nothing can be awaited any more."""
    body, _ = body_of(b"x" * 1000, keep=True, spool_threshold_bytes=100)
    await begin(body)
    assert body._spool is not None
    body.close_nowait()
    assert body._spool.file.closed
    body.close_nowait()
    await body.aclose()


async def test_adopt_keeps_a_file_that_somebody_else_filled() -> None:
    """What an overridden ``read_body`` returns is the body from then on, and is closed with it."""
    body, _ = body_of(b"abc", b"def")
    data = await body.read()
    file: SpooledTemporaryFile[bytes] = SpooledTemporaryFile(max_size=100)
    file.write(data.upper())
    file.seek(0)
    body.adopt(file)
    assert body.is_kept
    assert [await use(body, way) for way in (*WAYS, *WAYS)] == [b"ABCDEF"] * 6
    assert await body.file() is file
    await body.aclose()
    assert file.closed


@pytest.mark.parametrize("threshold", [2, 100])
async def test_adopt_of_the_body_s_own_file_changes_nothing(threshold: int) -> None:
    """The default ``read_body`` gives back the file that the body has."""
    body, _ = body_of(b"abc", b"def", keep=True, spool_threshold_bytes=threshold)
    async with aclosing(body):
        await body.load()
        file = await body.file()
        body.adopt(file)
        assert await body.read() == b"abcdef"
        assert await body.file() is file
        assert await use(body, "stream") == b"abcdef"


@pytest.mark.skipif(not hasattr(sys, "getrefcount"), reason="counts references")
@pytest.mark.usefixtures("small_heap")
async def test_body_used_and_closed_leaves_no_reference_cycle() -> None:
    """With the collector off, a body that was read is gone when nobody holds it."""
    gc.collect()
    gc.disable()
    try:
        for way in WAYS:
            for keep in (False, True):
                body, channel = body_of(b"a", b"b", keep=keep)
                await use(body, way)
                await body.aclose()
                gone = weakref.ref(body)
                del body, channel
                assert gone() is None, (way, keep)
    finally:
        gc.enable()
