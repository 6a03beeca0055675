"""_writer.py: whatever the code above does, what reaches ``send`` is one legal response."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

import anyio
import pytest
from clocks import Beats, Clock

from asgicore import ClientDisconnectedError, ContentLengthError, InvalidHeaderError, ResponseStateError
from asgicore._chunks import slice_bytes
from asgicore._writer import Writer, limit_send
from asgicore.testing import Channel, Message

# What the letters of a script below stand for.
START: Message = {"type": "http.response.start", "status": 200, "headers": []}
MESSAGES: dict[str, Message] = {
    "S": START,
    "P": {"type": "http.response.body", "body": b"part", "more_body": True},
    "L": {"type": "http.response.body", "body": b"last", "more_body": False},
}


def chunks_of(size: int) -> Callable[[bytes], Iterable[tuple[bytes, bool]]]:
    """``chunk_bytes`` of a handler with this chunk size."""
    return lambda data: slice_bytes(data, size)


class parts:
    """A body in parts; at its end ``error`` is raised. No generator, so that nobody has to close it."""

    def __init__(self, *items: Any, error: BaseException | None = None) -> None:
        self._items = iter(items)
        self._error = error
        self.asked = 0

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        self.asked += 1
        for item in self._items:
            return item
        if self._error is not None:
            raise self._error
        raise StopAsyncIteration


async def use(writer: Writer, way: str, *, status: int = 200, size: int = 6, headers: Any = ()) -> None:
    """Send one response, whole or as a stream of two parts."""
    data = b"x" * size
    half = (size + 1) // 2
    if way == "whole":
        await writer.send_whole(status, list(headers), data, chunks_of(half) if size else None)
    else:
        await writer.send_stream(status, list(headers), parts(data[:half], data[half:]), chunks_of(65536))


def kinds(channel: Channel) -> str:
    """The messages that were sent, as a script."""
    letters = {"http.response.start": "S", "http.response.body": "P"}
    return "".join("L" if message.get("more_body") is False else letters[message["type"]] for message in channel.sent)


class Failing:
    """A ``send`` that fails at one call, and counts the calls."""

    def __init__(self, index: int, error: BaseException) -> None:
        self.index = index
        self.error = error
        self.calls = 0

    async def __call__(self, message: Message) -> None:
        self.calls += 1
        if self.calls == self.index + 1:
            raise self.error


# --- cutting -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "chunk", "sizes"),
    [
        pytest.param(0, 4, [0], id="empty"),
        pytest.param(1, 4, [1], id="one byte"),
        pytest.param(4, 4, [4], id="exactly one chunk"),
        pytest.param(5, 4, [4, 1], id="one byte more"),
        pytest.param(8, 4, [4, 4], id="exactly two chunks"),
        pytest.param(11, 4, [4, 4, 3], id="a rest"),
    ],
)
def test_slice_bytes_of_any_size_gives_one_last_chunk(size: int, chunk: int, sizes: list[int]) -> None:
    """Every chunk but the last is full, the last one alone is marked, and nothing is lost."""
    data = bytes(range(size))
    cut = list(slice_bytes(data, chunk))
    assert [len(piece) for piece, _ in cut] == sizes
    assert [last for _, last in cut] == [False] * (len(sizes) - 1) + [True]
    assert b"".join(piece for piece, _ in cut) == data


def test_slice_bytes_of_one_chunk_copies_nothing() -> None:
    """Data that fits goes out as the object that came in."""
    data = b"x" * 100
    ((piece, _),) = slice_bytes(data, 100)
    assert piece is data


# --- called like send --------------------------------------------------------------------------------


@pytest.mark.parametrize("script", ["S", "SP", "SL", "SPPL"])
async def test_call_in_legal_order_passes(script: str) -> None:
    """One start, parts, one end: "Response Start", "Response Body"."""
    channel = Channel()
    writer = Writer(channel.send)
    assert not writer.is_started
    for letter in script:
        await writer(MESSAGES[letter])
    assert kinds(channel) == script
    assert writer.is_started
    assert writer.is_done == script.endswith("L")
    assert writer.is_open == (not script.endswith("L"))


@pytest.mark.parametrize("script", ["P", "L", "SS", "SPS", "SLS", "SLP", "SLL"])
async def test_call_out_of_order_raises_and_sends_nothing_more(script: str) -> None:
    """A message that ASGI does not allow at this point never reaches the server, and changes nothing."""
    channel = Channel()
    writer = Writer(channel.send)
    for letter in script[:-1]:
        await writer(MESSAGES[letter])
    state = writer.state
    with pytest.raises(ResponseStateError, match=r"http\.response\.(start|body) may not be sent"):
        await writer(MESSAGES[script[-1]])
    assert kinds(channel) == script[:-1]
    assert writer.state is state


@pytest.mark.parametrize("kind", ["http.response.push", "http.response", "", None, 5])
async def test_call_with_an_unknown_type_raises(kind: object) -> None:
    """A message that the writer does not know is refused, whatever the state."""
    channel = Channel()
    writer = Writer(channel.send)
    with pytest.raises(ResponseStateError, match="is no message of an HTTP response"):
        await writer({"type": kind})
    assert channel.sent == []
    assert not writer.is_started


@pytest.mark.parametrize("status", [None, "200", 99, 600, 200.0, True, ...])
async def test_call_start_with_a_bad_status_raises_and_a_good_one_may_follow(status: object) -> None:
    """The status is an integer from 100 to 599; a refused start is none."""
    channel = Channel()
    writer = Writer(channel.send)
    message = {"type": "http.response.start", "status": status}
    if status is ...:
        del message["status"]
    with pytest.raises(ResponseStateError, match="the status of a response"):
        await writer(message)
    assert not writer.is_started
    await writer(START)
    assert kinds(channel) == "S"


@pytest.mark.parametrize(
    "header",
    [
        pytest.param((b"x-a", b"1\r\nx-b: 2"), id="CR LF in the value"),
        pytest.param((b"x-a", b"\x00"), id="NUL in the value"),
        pytest.param((b"x a", b"1"), id="space in the name"),
        pytest.param((b"", b"1"), id="no name"),
        pytest.param(("x-a", b"1"), id="text as name"),
        pytest.param((b"x-a", "1"), id="text as value"),
        pytest.param((b"transfer-encoding", b"chunked"), id="transfer-encoding"),
    ],
)
async def test_call_start_with_a_bad_header_raises_and_sends_nothing(header: Any) -> None:
    """Nothing illegal reaches ``send``, and an error response can still be sent."""
    channel = Channel()
    writer = Writer(channel.send)
    with pytest.raises(InvalidHeaderError):
        await writer({"type": "http.response.start", "status": 200, "headers": [header]})
    assert channel.sent == []
    assert not writer.is_started


@pytest.mark.parametrize("value", [b"abc", b"-1", b"+5", b"1_0", b"", b"5, 5", b"\xb2", b"0x5"])
async def test_call_start_with_a_malformed_content_length_raises_and_sends_nothing(value: bytes) -> None:
    """RFC 9110 section 8.6: a length is digits; the writer counts by it, so it takes nothing else."""
    channel = Channel()
    writer = Writer(channel.send)
    with pytest.raises(ValueError):  # noqa: PT011 - which subclass is the header module's matter
        await writer({"type": "http.response.start", "status": 200, "headers": [(b"content-length", value)]})
    assert channel.sent == []
    assert not writer.is_started


async def test_call_start_with_two_lengths_that_differ_raises() -> None:
    """RFC 9112 section 6.3: two lengths are a way to smuggle a response; neither leaves."""
    channel = Channel()
    headers = [(b"content-length", b"4"), (b"content-length", b"40")]
    with pytest.raises(ValueError, match="content-length"):
        await Writer(channel.send)({"type": "http.response.start", "status": 200, "headers": headers})
    assert channel.sent == []


async def test_call_start_without_headers_sends_an_empty_list() -> None:
    """The specification makes ``headers`` optional; a one-shot iterable of any case comes out as a list."""
    channel = Channel()
    await Writer(channel.send)({"type": "http.response.start", "status": 204})
    await Writer(channel.send)({"type": "http.response.start", "status": 200, "headers": iter([(b"X-A", b"1")])})
    assert [message["headers"] for message in channel.sent] == [[], [(b"x-a", b"1")]]


@pytest.mark.parametrize("body", [b"abc", bytearray(b"abc"), memoryview(b"abc")])
async def test_call_body_of_bytes_like_leaves_as_bytes(body: Any) -> None:
    """Servers get ``bytes``, and both keys, whatever was given."""
    channel = Channel()
    writer = Writer(channel.send)
    await writer(START)
    await writer({"type": "http.response.body", "body": body})
    assert channel.sent[1] == {"type": "http.response.body", "body": b"abc", "more_body": False}
    assert type(channel.sent[1]["body"]) is bytes


@pytest.mark.parametrize("body", [None, ..., b""])
async def test_call_body_missing_ends_the_response(body: Any) -> None:
    """A missing ``body`` is empty and a missing ``more_body`` is false: "Response Body"."""
    channel = Channel()
    writer = Writer(channel.send)
    await writer(START)
    message = {"type": "http.response.body", "body": body}
    if body is ...:
        del message["body"]
    await writer(message)
    assert channel.sent[1] == {"type": "http.response.body", "body": b"", "more_body": False}


@pytest.mark.parametrize("body", [5, "text", [65, 66], True, object()])
async def test_call_body_of_a_wrong_type_raises_and_sends_nothing(body: Any) -> None:
    """Nothing is guessed: a body that is not bytes is the application's mistake, and not five zero bytes."""
    channel = Channel()
    writer = Writer(channel.send)
    await writer(START)
    with pytest.raises((TypeError, ResponseStateError)):
        await writer({"type": "http.response.body", "body": body, "more_body": True})
    assert kinds(channel) == "S"
    assert not writer.is_done


async def test_call_body_longer_than_declared_raises_before_the_excess() -> None:
    """Not one byte beyond the declared length reaches the server."""
    channel = Channel()
    writer = Writer(channel.send)
    await writer({**START, "headers": [(b"content-length", b"6")]})
    assert not writer.is_open
    await writer(MESSAGES["P"])
    with pytest.raises(ContentLengthError, match="declares 6 bytes, the body has 8"):
        await writer(MESSAGES["P"])
    assert channel.body == b"part"


async def test_call_last_body_shorter_than_declared_raises_and_does_not_end() -> None:
    """A response that falls short is not ended, and does not count as ended."""
    channel = Channel()
    writer = Writer(channel.send)
    await writer({**START, "headers": [(b"content-length", b"6")]})
    with pytest.raises(ContentLengthError, match="declares 6 bytes, the body has 4"):
        await writer(MESSAGES["L"])
    assert kinds(channel) == "S"
    assert not writer.is_done


async def test_call_body_as_long_as_declared_passes() -> None:
    """A body that keeps its promise is sent and ended."""
    channel = Channel()
    writer = Writer(channel.send)
    await writer({**START, "headers": [(b"content-length", b"8")]})
    await writer(MESSAGES["P"])
    await writer(MESSAGES["L"])
    assert channel.body == b"partlast"
    assert writer.is_done


@pytest.mark.parametrize(("head", "status"), [(True, 200), (False, 204), (False, 304), (False, 103)])
async def test_call_where_no_body_is_allowed_sends_none(head: bool, status: int) -> None:
    """RFC 9110 section 6.4.1: whatever is written, no byte of a body leaves; HEAD keeps the length."""
    channel = Channel()
    writer = Writer(channel.send, head)
    await writer({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"4")]})
    await writer(MESSAGES["P"])
    await writer(MESSAGES["L"])
    assert kinds(channel) == "SPL"
    assert channel.body == b""


async def test_call_start_when_the_connection_closes_says_so() -> None:
    """A refused body closes the connection in whatever way the response is sent."""
    channel = Channel()
    writer = Writer(channel.send)
    writer.closes_connection = True
    await writer(START)
    assert (b"connection", b"close") in channel.headers


async def test_call_never_suspending_leaves_turns_to_others(clock: Clock) -> None:
    """Code that sends messages itself to a client that takes everything does not hold the loop."""
    beats = Beats(clock)

    async def send(message: Message) -> None:
        clock.work(0.0005)

    writer = Writer(send)

    async def work() -> None:
        await writer(START)
        for _ in range(100):
            await writer(MESSAGES["P"])

    await beats.during(work)
    assert beats.longest <= STALL_SECONDS
    assert beats.turns >= 10


# --- send_whole and send_stream ----------------------------------------------------------------------


@pytest.mark.parametrize("way", ["whole", "stream"])
async def test_send_gives_start_parts_and_one_end(way: str) -> None:
    """A response in several messages has one start and one end, and its bytes in order."""
    channel = Channel()
    writer = Writer(channel.send)
    await use(writer, way, headers=[(b"x-a", b"1")])
    assert kinds(channel) == {"whole": "SPL", "stream": "SPPL"}[way]
    assert channel.status == 200
    assert channel.headers == [(b"x-a", b"1")]
    assert channel.body == b"x" * 6
    assert writer.is_done
    assert writer.is_started
    assert not writer.is_open
    assert not writer.is_broken


@pytest.mark.parametrize("way", ["whole", "stream"])
@pytest.mark.parametrize("script", ["S", "SP", "SPL"])
async def test_send_after_a_start_raises_and_sends_nothing_more(way: str, script: str) -> None:
    """A second response never follows a first one."""
    channel = Channel()
    writer = Writer(channel.send)
    for letter in script:
        await writer(MESSAGES[letter])
    with pytest.raises(ResponseStateError, match=r"http\.response\.start may not be sent"):
        await use(writer, way)
    assert kinds(channel) == script


@pytest.mark.parametrize("way", ["whole", "stream"])
async def test_send_of_an_empty_body_is_a_start_and_an_end(way: str) -> None:
    """Strict servers need the final message also where there is no body."""
    channel = Channel()
    await use(Writer(channel.send), way, size=0)
    assert kinds(channel) == "SL"


@pytest.mark.parametrize("way", ["whole", "stream"])
@pytest.mark.parametrize(
    ("head", "status"), [(True, 200), (True, 404), (False, 100), (False, 103), (False, 204), (False, 304)]
)
async def test_send_where_no_body_is_allowed_sends_none(way: str, head: bool, status: int) -> None:
    """RFC 9110 section 6.4.1: start and one empty end; the declared length of HEAD and 304 stays."""
    channel = Channel()
    writer = Writer(channel.send, head)
    await use(writer, way, status=status, headers=[(b"content-length", b"6")])
    assert kinds(channel) == "SL"
    assert channel.body == b""
    assert channel.headers == [(b"content-length", b"6")]
    assert writer.is_done


async def test_send_stream_where_no_body_is_allowed_asks_for_no_part() -> None:
    """The iterator of a HEAD response is left unread."""
    source = parts(b"x")
    await Writer(Channel().send, True).send_stream(200, [], source, chunks_of(10))
    assert source.asked == 0


async def test_send_whole_empty_with_a_declared_length_raises_before_the_start() -> None:
    """Only HEAD and 304 may declare a length and have no body; an error response is still possible."""
    channel = Channel()
    writer = Writer(channel.send)
    with pytest.raises(ContentLengthError, match="declares 5 bytes, the body has 0"):
        await writer.send_whole(200, [(b"content-length", b"5")], b"", None)
    assert channel.sent == []
    assert not writer.is_started
    await writer.send_whole(500, [(b"content-length", b"0")], b"", None)
    assert channel.status == 500


@pytest.mark.parametrize("way", ["whole", "stream"])
async def test_send_when_the_connection_closes_says_so(way: str) -> None:
    """An HTTP/1 client is told that its connection ends, and the given list of headers is left alone."""
    channel = Channel()
    writer = Writer(channel.send)
    writer.closes_connection = True
    headers = [(b"x-a", b"1")]
    if way == "whole":
        await writer.send_whole(413, headers, b"", None)
    else:
        await writer.send_stream(413, headers, parts(), chunks_of(10))
    assert channel.headers == [(b"x-a", b"1"), (b"connection", b"close")]
    assert headers == [(b"x-a", b"1")]


@pytest.mark.parametrize(
    ("items", "sent"),
    [
        pytest.param([b"a", b"b"], [b"a", b"b"], id="bytes"),
        pytest.param(["é", "b"], [b"\xc3\xa9", b"b"], id="text is UTF-8"),
        pytest.param([bytearray(b"a"), memoryview(b"b")], [b"a", b"b"], id="bytes-like"),
        pytest.param([b"", "", bytearray(), memoryview(b""), b"x", b""], [b"x"], id="empty parts left out"),
        pytest.param([], [], id="no part"),
        pytest.param(["x" * 10], [b"x" * 4, b"x" * 4, b"xx"], id="long part cut"),
        pytest.param(["é" * 5], [b"\xc3\xa9\xc3\xa9", b"\xc3\xa9\xc3\xa9", b"\xc3\xa9"], id="long text cut"),
        pytest.param(["x" * 4, "y" * 5], [b"x" * 4, b"y" * 4, b"y"], id="exactly one message, and one byte more"),
    ],
)
@pytest.mark.parametrize("declared", [False, True])
async def test_send_stream_of_any_parts_sends_bytes(items: list[Any], sent: list[bytes], declared: bool) -> None:
    """Parts leave in order, as bytes, none empty, none longer than a message, whether a length is declared or not."""
    channel = Channel()
    headers = [(b"content-length", str(sum(map(len, sent))).encode())] if declared else []
    await Writer(channel.send, False, 4).send_stream(200, headers, parts(*items), chunks_of(4))
    bodies = [message["body"] for message in channel.sent[1:]]
    assert bodies == [*sent, b""]
    assert all(type(body) is bytes for body in bodies)
    assert kinds(channel) == "S" + "P" * len(sent) + "L"


@pytest.mark.parametrize("size", [1, 1000, 4095, 4096, 4097, 65536])
async def test_send_stream_of_parts_longer_than_a_message_cuts_each(size: int) -> None:
    """No message is longer than ``chunk_size``, however small that is."""
    channel = Channel()
    body = b"x" * (2 * size + 1)
    await Writer(channel.send, False, size).send_stream(200, [], parts(body, body), chunks_of(size))
    assert max(len(message["body"]) for message in channel.sent[1:]) <= size
    assert channel.body == body + body


@pytest.mark.parametrize("part", [5, None, [b"x"], object(), 1.5])
async def test_send_stream_with_a_part_of_a_wrong_type_raises_and_does_not_end(part: Any) -> None:
    """What is neither bytes nor text is the application's mistake; the response is not ended as if it were whole."""
    channel = Channel()
    writer = Writer(channel.send)
    with pytest.raises(TypeError, match=f"bytes or str, not {type(part).__name__}"):
        await writer.send_stream(200, [], parts(b"a", part), chunks_of(10))
    assert kinds(channel) == "SP"
    assert not writer.is_broken


@pytest.mark.parametrize(
    ("items", "declared", "sent"),
    [
        pytest.param([b"x" * 8, b"x" * 8], 10, b"x" * 8, id="too long"),
        pytest.param([b"x" * 16], 10, b"", id="first part too long"),
        pytest.param([b"x" * 8], 20, b"x" * 8, id="too short"),
        pytest.param([], 1, b"", id="nothing at all"),
        pytest.param([b"x"], 0, b"", id="something where nothing is declared"),
    ],
)
async def test_send_stream_against_its_declared_length_raises(items: list[bytes], declared: int, sent: bytes) -> None:
    """The excess is never sent, and a response that falls short is never ended."""
    channel = Channel()
    writer = Writer(channel.send)
    with pytest.raises(ContentLengthError) as caught:
        headers = [(b"content-length", str(declared).encode())]
        await writer.send_stream(200, headers, parts(*items), chunks_of(65536))
    assert caught.value.declared == declared
    assert channel.body == sent
    assert "L" not in kinds(channel)
    assert not writer.is_done
    assert not writer.is_open  # so that nobody ends it later


async def test_send_stream_sends_each_part_before_the_next_is_asked_for() -> None:
    """Backpressure: the producer is at most one part ahead of a client that does not read."""
    taken = anyio.Event()
    body = parts(*[b"x"] * 10)

    async def slow(index: int, message: Message) -> None:
        if index == 3:
            await taken.wait()

    channel = Channel(on_send=slow)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(Writer(channel.send).send_stream, 200, [], body, chunks_of(10))
            await anyio.wait_all_tasks_blocked()
            assert body.asked == 3
            taken.set()
    assert channel.body == b"x" * 10


# --- the client leaves -------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["whole", "stream", "call", "counted", "large"])
@pytest.mark.parametrize("error", [OSError, ConnectionResetError, TimeoutError, ClientDisconnectedError])
@pytest.mark.parametrize("index", range(4))
async def test_send_failing_with_oserror_is_a_disconnect_and_the_last_send(
    way: str, error: type[OSError], index: int
) -> None:
    """ASGI 2.4, "Disconnect": any OSError means that the client left, and nothing is sent to it again."""
    cause = error("gone")
    send = Failing(index, cause)
    writer = Writer(send, False, 4)

    async def run() -> None:
        if way == "whole":
            await writer.send_whole(200, [], b"x" * 12, chunks_of(4))
        elif way == "stream":
            await writer.send_stream(200, [], parts(b"a", "b", b"c"), chunks_of(4))
        elif way == "counted":
            await writer.send_stream(200, [(b"content-length", b"3")], parts(b"a", "b", b"c"), chunks_of(4))
        elif way == "large":
            await writer.send_stream(200, [], parts("x" * 12), chunks_of(4))
        else:
            for letter in "SPPL":
                await writer(MESSAGES[letter])

    with pytest.raises(ClientDisconnectedError, match="disconnected while the response was sent") as caught:
        await run()
    assert caught.value.__cause__ is cause
    assert writer.is_broken
    assert not writer.is_done
    assert not writer.is_open
    assert writer.is_started
    for letter in "SPL":
        with pytest.raises(ClientDisconnectedError):
            await writer(MESSAGES[letter])
    for again in ("whole", "stream"):
        with pytest.raises(ClientDisconnectedError):
            await use(writer, again)
    assert send.calls == index + 1


@pytest.mark.parametrize("way", ["whole", "stream", "call"])
@pytest.mark.parametrize("index", range(3))
async def test_send_failing_otherwise_propagates_unchanged(way: str, index: int) -> None:
    """A server's error that is no OSError is no disconnect; the same object arrives."""
    error = RuntimeError("broken server")
    send = Failing(index, error)
    writer = Writer(send)
    with pytest.raises(RuntimeError) as caught:
        if way == "call":
            for letter in "SPL":
                await writer(MESSAGES[letter])
        else:
            await use(writer, way)
    assert caught.value is error
    assert not writer.is_broken
    assert send.calls == index + 1


@pytest.mark.parametrize(
    "error", [OSError("disk"), ConnectionResetError("database"), ValueError("x"), KeyboardInterrupt()]
)
@pytest.mark.parametrize("items", [(), (b"a",)])
async def test_send_stream_whose_iterator_fails_raises_that_and_does_not_end(
    error: BaseException, items: tuple[bytes, ...]
) -> None:
    """The application's error, an OSError too, is not taken for a client that left."""
    channel = Channel()
    writer = Writer(channel.send)
    with pytest.raises(type(error)) as caught:
        await writer.send_stream(200, [], parts(*items, error=error), chunks_of(10))
    assert caught.value is error
    assert not writer.is_broken
    assert kinds(channel) == "S" + "P" * len(items)


async def test_send_stream_whose_cutting_fails_raises_that() -> None:
    """An OSError of an overridden ``chunk_bytes`` is the application's, too."""
    error = OSError("disk")

    def cut(data: bytes) -> Iterator[tuple[bytes, bool]]:
        yield data[:1], False
        raise error

    writer = Writer(Channel().send, False, 4)
    with pytest.raises(OSError, match="disk") as caught:
        await writer.send_stream(200, [], parts("x" * 9), cut)
    assert caught.value is error
    assert not writer.is_broken


@pytest.mark.parametrize("way", ["whole", "stream"])
@pytest.mark.parametrize("index", range(3))
async def test_send_cancelled_propagates_and_is_not_ended(way: str, index: int) -> None:
    """A cancellation within ``send`` is not swallowed, and no further message goes out."""

    async def stuck(at: int, message: Message) -> None:
        if at == index:
            await anyio.sleep_forever()

    channel = Channel(on_send=stuck)
    writer = Writer(channel.send)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(use, writer, way)
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
    assert len(channel.sent) == index
    assert not writer.is_broken


# --- time --------------------------------------------------------------------------------------------


STALL_SECONDS = 0.005
"""What others may have to wait for the loop; see test_fairness.py."""


async def test_send_stream_of_many_tiny_parts_leaves_turns_to_others(clock: Clock) -> None:
    """A client that takes everything at once does not keep other tasks waiting."""
    beats = Beats(clock)

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(100_000):
            yield b"ab"

    async def send(message: Message) -> None:
        clock.work(0.2e-6)

    await beats.during(lambda: Writer(send).send_stream(200, [], endless(), chunks_of(65536)))
    assert beats.longest <= STALL_SECONDS
    assert beats.turns >= 4


@pytest.mark.parametrize("part", [b"", "", b"x" * 5000, bytearray(b"x"), "é"])
@pytest.mark.parametrize("declared", [False, True])
async def test_send_stream_of_unusual_parts_leaves_turns_to_others(part: Any, declared: bool, clock: Clock) -> None:
    """Parts that are empty, large, text or counted have the clock looked at, too."""
    beats = Beats(clock)
    size = len(part.encode() if isinstance(part, str) else part)

    async def body() -> AsyncIterator[Any]:
        for _ in range(60):
            clock.work(0.001)
            yield part

    async def send(message: Message) -> None:
        pass

    headers = [(b"content-length", str(60 * size).encode())] if declared else []
    await beats.during(lambda: Writer(send).send_stream(200, headers, body(), chunks_of(65536)))
    assert beats.longest <= STALL_SECONDS
    assert beats.turns >= 12


@pytest.mark.parametrize("way", ["whole", "stream"])
async def test_send_of_many_chunks_leaves_turns_to_others(way: str, clock: Clock) -> None:
    """One large body, or one large part, is cut into messages that do not hold the loop."""
    beats = Beats(clock)
    data = b"x" * 2**20

    async def send(message: Message) -> None:
        clock.work(0.0005)

    writer = Writer(send, False, 8192)

    async def work() -> None:
        if way == "whole":
            await writer.send_whole(200, [], data, chunks_of(8192))
        else:
            await writer.send_stream(200, [], parts(data), chunks_of(8192))

    await beats.during(work)
    assert beats.longest <= STALL_SECONDS
    assert beats.turns >= 12


@pytest.mark.parametrize("cut", ["nothing", "no last chunk"])
async def test_send_whole_whose_cutting_gives_no_last_chunk_raises_and_does_not_end(cut: str) -> None:
    """An overridden ``chunk_bytes`` that forgets the end is told so; the response is not ended."""

    def forgetful(data: bytes) -> Iterable[tuple[bytes, bool]]:
        return [] if cut == "nothing" else [(data, False)]

    channel = Channel()
    writer = Writer(channel.send)
    with pytest.raises(ResponseStateError, match="chunk_bytes gave no last chunk"):
        await writer.send_whole(200, [], b"body", forgetful)
    assert "L" not in kinds(channel)
    assert not writer.is_done


async def test_limit_send_to_a_server_that_takes_all_passes_everything() -> None:
    """In time, messages pass unchanged."""
    channel = Channel()
    send = limit_send(channel.send, 5)
    await send(START)
    assert channel.sent == [START]


async def test_limit_send_to_a_frozen_client_is_a_disconnect() -> None:
    """A server that takes no message in time is a client that left: the stream stops and nothing follows."""

    async def stuck(index: int, message: Message) -> None:
        if index == 1:
            await anyio.sleep_forever()

    channel = Channel(on_send=stuck)
    writer = Writer(limit_send(channel.send, 0.02))
    with anyio.fail_after(5):
        with pytest.raises(ClientDisconnectedError) as caught:
            await writer.send_stream(200, [], parts(b"a", b"b"), chunks_of(10))
    assert isinstance(caught.value.__cause__, TimeoutError)
    assert "send_timeout_seconds" in str(caught.value.__cause__)
    assert kinds(channel) == "S"
    assert writer.is_broken
