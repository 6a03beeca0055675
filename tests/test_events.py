"""_events.py: a stream of events is what a browser understands, from any iterable, and ends on every way out."""

from __future__ import annotations

import asyncio
import threading
import zlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from clocks import turn_time
from event_streams import EventSource, Received
from hypothesis import given, settings
from hypothesis import strategies as st
from test_sse import TEXTS, events, lines

from asgicore import (
    ClientDisconnectedError,
    Compression,
    EventSourceResponse,
    Handler,
    InvalidHeaderError,
    Request,
    Response,
    ServerSentEvent,
)
from asgicore._events import _produce
from asgicore.testing import Channel, Message, call, check_messages, http_scope
from asgicore.testing._living import tasks as living_tasks


def endpoint_of(response: Response) -> Handler:
    async def endpoint(request: Request) -> Response:
        return response

    return Handler(endpoint)


async def got(response: Response, **scope: Any) -> tuple[EventSource, Channel]:
    """What a client has in the end, and the channel it came by."""
    channel = await call(endpoint_of(response), **scope)
    check_messages(channel.sent, complete=True)
    source = EventSource()
    for message in channel.sent[1:]:
        source.feed(message["body"])
    return source, channel


ITEMS: list[ServerSentEvent | str] = [
    "a\r\nb",
    ServerSentEvent({"number": 1}, event="update", id="1"),
    ServerSentEvent(id="2"),
    ServerSentEvent("c", retry=100),
]
EXPECTED = [Received("a\nb", "message", ""), Received('{"number":1}', "update", "1"), Received("c", "message", "2")]


class Items:
    """An asynchronous iterator that is no generator."""

    def __init__(self) -> None:
        self._rest = iter(ITEMS)
        self.closed = 0

    def __aiter__(self) -> AsyncIterator[ServerSentEvent | str]:
        return self

    async def __anext__(self) -> ServerSentEvent | str:
        await checkpoint()
        for item in self._rest:
            return item
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self.closed += 1


async def generated() -> AsyncIterator[ServerSentEvent | str]:
    for item in ITEMS:
        yield item


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(generated, id="asynchronous generator"),
        pytest.param(Items, id="asynchronous iterator"),
        pytest.param(lambda: iter(ITEMS), id="iterator"),
        pytest.param(lambda: ITEMS, id="list"),
        pytest.param(lambda: (item for item in ITEMS), id="generator"),
    ],
)
@pytest.mark.parametrize("retry_milliseconds", [None, 0, 3000])
@pytest.mark.parametrize("ping_seconds", [None, 15.0])
async def test_events_are_got_one_by_one(
    content: Any, retry_milliseconds: int | None, ping_seconds: float | None
) -> None:
    """Each goes out as a message of its own, the reconnection time before all of them."""
    response = EventSourceResponse(content(), ping_seconds=ping_seconds, retry_milliseconds=retry_milliseconds)
    source, channel = await got(response)
    assert source.events == EXPECTED
    assert source.retry == 100
    bodies = [message["body"] for message in channel.sent[1:-1]]
    assert len(bodies) == len(ITEMS) + (retry_milliseconds is not None)
    assert all(body.endswith(b"\n\n") for body in bodies)
    if retry_milliseconds is not None:
        assert bodies[0] == b"retry: %d\n\n" % retry_milliseconds


async def test_fields_are_those_that_streams_of_events_need() -> None:
    """The type as it is, nothing kept, nothing held back by a proxy, and no length."""
    _, channel = await got(EventSourceResponse([]))
    assert channel.status == 200
    assert channel.headers == [
        (b"content-type", b"text/event-stream"),
        (b"cache-control", b"no-store"),
        (b"x-accel-buffering", b"no"),
    ]


async def test_fields_of_ones_own_come_in_their_place() -> None:
    """Whatever they say, in any case."""
    given_fields = {"Cache-Control": "no-cache", "X-Accel-Buffering": "yes", "Content-Type": "text/event-stream;x=y"}
    _, channel = await got(EventSourceResponse([], 201, {**given_fields, "x-more": "1"}))
    assert channel.status == 201
    assert sorted(channel.headers) == [
        (b"cache-control", b"no-cache"),
        (b"content-type", b"text/event-stream;x=y"),
        (b"x-accel-buffering", b"yes"),
        (b"x-more", b"1"),
    ]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"ping_seconds": 0}, ValueError, "ping_seconds takes seconds above 0, or None for no pings, not 0"),
        ({"ping_seconds": -1.0}, ValueError, "ping_seconds"),
        ({"ping_seconds": float("inf")}, ValueError, "ping_seconds"),
        ({"ping_seconds": float("nan")}, ValueError, "ping_seconds"),
        ({"retry_milliseconds": -1}, ValueError, "retry takes milliseconds"),
        ({"retry_milliseconds": 1.5}, TypeError, "retry takes milliseconds"),
        ({"headers": {"content-length": "1"}}, InvalidHeaderError, "a stream of events has none"),
        ({"content": "data"}, TypeError, "iterable"),
        ({"content": {"data": 1}}, TypeError, "iterable"),
        ({"content": None}, TypeError, "iterable"),
    ],
)
def test_what_is_no_stream_of_events_is_refused(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    """Where it is made, by an error that names the argument."""
    with pytest.raises(error, match=message):
        EventSourceResponse(**{"content": [], **arguments})


@pytest.mark.parametrize("item", [None, 1, b"bytes", {"data": 1}])
@pytest.mark.parametrize("is_async", [True, False])
async def test_item_that_is_no_event_breaks_the_response_off(item: Any, is_async: bool) -> None:
    """Peers take a mapping for data or for fields; here neither is guessed, and the error says what to write."""

    async def items() -> AsyncIterator[Any]:
        yield "one"
        yield item

    channel = Channel()
    response = EventSourceResponse(items() if is_async else iter(["one", item]))
    with anyio.fail_after(5), pytest.raises(TypeError, match=rf"not {type(item).__name__}; .* ServerSentEvent\(data\)"):
        await endpoint_of(response)(http_scope(), channel.receive, channel.send)
    assert channel.body == b"data: one\n\n"
    check_messages(channel.sent, complete=False)


async def test_event_that_cannot_be_written_breaks_the_response_off() -> None:
    """What came before it was sent."""
    channel = Channel()
    response = EventSourceResponse(["one", ServerSentEvent(object())])
    with anyio.fail_after(5), pytest.raises(TypeError, match="JSON"):
        await endpoint_of(response)(http_scope(), channel.receive, channel.send)
    assert channel.body == b"data: one\n\n"


@settings(max_examples=30)
@given(st.lists(events() | TEXTS, max_size=5))
def test_any_events_are_got_as_they_were_given(items: list[ServerSentEvent | str]) -> None:
    """From the iterable to the client."""

    async def run() -> tuple[EventSource, Channel]:
        return await got(EventSourceResponse(items))

    source, _ = asyncio.run(run())
    texts = [item if isinstance(item, str) else item.data for item in items]
    assert len(source.events) == len([text for text in texts if text is not None])
    for event, text in zip(source.events, (text for text in texts if text is not None), strict=True):
        if isinstance(text, str):
            assert event.data == lines(text)


async def test_head_gets_the_fields_alone() -> None:
    """A stream without end is not begun for it."""

    async def endless() -> AsyncIterator[str]:
        raise AssertionError("not reached")
        yield ""

    channel = await call(endpoint_of(EventSourceResponse(endless(), retry_milliseconds=1)), method="HEAD")
    assert channel.headers[0] == (b"content-type", b"text/event-stream")
    check_messages(channel.sent, method="HEAD", complete=True)


async def test_background_runs_after_the_last_event() -> None:
    """As for any response."""
    ran: list[bool] = []
    await got(EventSourceResponse(["a"], background=lambda: ran.append(True)))
    assert ran == [True]


async def test_response_closed_before_it_was_sent_closes_its_iterator() -> None:
    """The engine does that where an error comes first."""
    items = Items()
    response = EventSourceResponse(items)
    await response.aclose()
    assert items.closed == 1


async def test_iterator_is_closed_once() -> None:
    """Also where it is no generator."""
    items = Items()
    source, _ = await got(EventSourceResponse(items))
    assert source.events == EXPECTED
    assert items.closed == 1


async def test_iterator_without_aclose_is_left_alone() -> None:
    """Nothing but the protocol of iterators is asked for."""

    class Bare:
        def __aiter__(self) -> AsyncIterator[str]:
            return self

        async def __anext__(self) -> str:
            raise StopAsyncIteration

    source, _ = await got(EventSourceResponse(Bare()))
    assert source.events == []


def test_iterable_is_closed_where_nobody_takes_the_first_part() -> None:
    """A client that leaves while the thread begins."""
    closed: list[bool] = []

    class Put:
        is_closed = False

        def __call__(self, part: bytes | str, /) -> None:
            self.is_closed = True
            raise ClientDisconnectedError

    class Items:
        def __iter__(self) -> Iterator[str]:
            raise AssertionError("not reached")

        def close(self) -> None:
            closed.append(True)

    with pytest.raises(ClientDisconnectedError):
        _produce(Items(), b"retry: 1\n\n", Put())
    assert closed == [True]


# --- waiting ---------------------------------------------------------------------------------------------


@turn_time
async def test_pings_are_comments() -> None:
    """A client that gets them has the events and nothing else."""

    async def slow() -> AsyncIterator[str]:
        yield "one"
        await anyio.sleep(40)
        yield "two"

    channel = Channel()
    with anyio.fail_after(100):
        await endpoint_of(EventSourceResponse(slow()))(http_scope(), channel.receive, channel.send)
    source = EventSource()
    source.feed(channel.body)
    assert [event.data for event in source.events] == ["one", "two"]
    assert source.comments == [" ping", " ping"]
    assert [message["body"] for message in channel.sent[1:]] == [
        *(b"data: one\n\n", b": ping\n\n", b": ping\n\n", b"data: two\n\n", b"")
    ]


# For those who have their events compressed.
OF_EVENTS = Compression(encodings=["gzip"], minimum_bytes=0, content_types={"text/event-stream"})


@turn_time
@pytest.mark.parametrize("accepted", [b"gzip", b"identity"])
async def test_pings_between_compressed_events_are_left_out(accepted: bytes) -> None:
    """What is encoded has no room for them; what only might have been is sent with them."""

    async def slow() -> AsyncIterator[str]:
        yield "one"
        await anyio.sleep(20)
        yield "two"

    async def endpoint(request: Request) -> Response:
        return EventSourceResponse(slow())

    channel = Channel()
    before = living_tasks()
    with anyio.fail_after(100):
        scope = http_scope(headers=[(b"accept-encoding", accepted)])
        await Handler(endpoint, compression=OF_EVENTS)(scope, channel.receive, channel.send)
    assert living_tasks() <= before
    if accepted == b"gzip":
        assert zlib.decompress(channel.body, 31) == b"data: one\n\ndata: two\n\n"
    else:
        assert channel.body == b"data: one\n\n: ping\n\ndata: two\n\n"


async def test_events_of_a_synchronous_iterable_that_are_compressed_arrive() -> None:
    """They are made into text before they are encoded."""

    async def endpoint(request: Request) -> Response:
        return EventSourceResponse([ServerSentEvent({"number": 1}), "two"])

    channel = await call(Handler(endpoint, compression=OF_EVENTS), headers=[(b"accept-encoding", b"gzip")])
    assert zlib.decompress(channel.body, 31) == b'data: {"number":1}\n\ndata: two\n\n'


@turn_time
async def test_pings_can_be_left_out() -> None:
    """With ``None``, nothing but the events is sent."""

    async def slow() -> AsyncIterator[str]:
        await anyio.sleep(100)
        yield "one"

    channel = Channel()
    with anyio.fail_after(1000):
        await endpoint_of(EventSourceResponse(slow(), ping_seconds=None))(http_scope(), channel.receive, channel.send)
    assert channel.body == b"data: one\n\n"


@pytest.mark.parametrize("where", ["waiting", "sending"])
@pytest.mark.parametrize("is_async", [True, False])
async def test_client_that_leaves_ends_the_stream(where: str, is_async: bool) -> None:
    """The iterator is closed, in its task or its thread, before the request is over, and no task is left."""
    ended: list[str] = []
    waits = threading.Event()

    async def produce() -> AsyncIterator[str]:
        try:
            yield "one"
            if where == "waiting":
                channel.disconnect()
                await anyio.sleep_forever()
            while True:
                yield "more"
        finally:
            ended.append("closed")

    def produce_in_a_thread() -> Iterator[str]:
        try:
            yield "one"
            if where == "waiting":
                assert waits.wait(10)
            while True:
                yield "more"
        finally:
            ended.append("closed")

    async def on_send(index: int, message: Message) -> None:
        if where == "sending" and index == 2:
            channel.disconnect()
            await anyio.sleep_forever()
        if where == "waiting" and not is_async and index == 1:
            channel.disconnect()
            waits.set()

    before = living_tasks()
    channel = Channel(on_send=on_send)
    response = EventSourceResponse(produce() if is_async else produce_in_a_thread())
    with anyio.fail_after(10):
        await endpoint_of(response)(http_scope(), channel.receive, channel.send)
    assert ended == ["closed"]
    assert living_tasks() == before
    check_messages(channel.sent, complete=False)


@turn_time
async def test_response_that_is_called_by_itself_pings_too() -> None:
    """Inside of another framework, or of a bare application."""

    async def slow() -> AsyncIterator[str]:
        await anyio.sleep(20)
        yield "one"

    channel = Channel()
    with anyio.fail_after(100):
        await EventSourceResponse(slow())(http_scope(), channel.receive, channel.send)
    assert channel.body == b": ping\n\ndata: one\n\n"
    check_messages(channel.sent, complete=True)


# --- reconnecting ----------------------------------------------------------------------------------------


async def test_client_that_reconnects_goes_on_where_it_was() -> None:
    """The id of the last event that it got comes back, and nothing is lost or repeated."""
    log = ["zero", "öne", "two", "three"]

    async def feed(request: Request) -> Response:
        last = request.last_event_id
        begin = 0 if last is None else int(last.removeprefix("№")) + 1

        async def produce() -> AsyncIterator[ServerSentEvent]:
            for number in range(begin, min(begin + 2, len(log))):
                yield ServerSentEvent(log[number], id=f"№{number}")

        return EventSourceResponse(produce())

    data: list[str] = []
    headers: list[tuple[bytes, bytes]] = []
    for _ in range(3):
        channel = await call(Handler(feed), headers=headers)
        source = EventSource()
        source.feed(channel.body)
        data += [event.data for event in source.events]
        headers = [(b"last-event-id", source.last_event_id.encode())] if source.last_event_id else headers
    assert data == log
