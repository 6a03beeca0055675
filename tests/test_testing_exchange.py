"""asgicore.testing: an exchange message by message, as the test paces it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from time import perf_counter
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from conftest import BACKENDS
from faults import on_asyncio
from test_testing_client import Answers, body, hello, start

from asgicore import Handler, Request, Response, StreamingResponse
from asgicore.testing import (
    DAPHNE,
    GUNICORN,
    SERVERS,
    STRICT,
    UVICORN,
    Client,
    Exchange,
    IncompleteResponseError,
    Server,
)
from asgicore.testing._living import tasks as living_tasks


async def endless(scope: Any, receive: Any, send: Any) -> None:
    """Sends without end, and looks at nothing else."""
    await send(start())
    while True:
        await send(body(b"tick", True))


async def upper(scope: Any, receive: Any, send: Any) -> None:
    """Answers each part of the body with that part in upper case."""
    await send(start())
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        more = message["more_body"]
        await send(body(message["body"].upper(), more))


class Waits:
    """Waits for ever, and remembers how that ended."""

    def __init__(self, shielded_turns: int = 0) -> None:
        self.shielded_turns = shielded_turns
        self.ended: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                for _ in range(self.shielded_turns):
                    await checkpoint()
                self.ended.append("cancelled")
            raise


def endless_of(kind: str) -> Any:
    """An application with an endless stream, by one of the peers or ours."""
    if kind == "raw":
        return endless

    async def ticks() -> AsyncIterator[bytes]:
        while True:
            yield b"tick"
            await checkpoint()

    if kind == "ours":

        async def endpoint(request: Request) -> Response:
            return StreamingResponse(ticks())

        return Handler(endpoint)
    pytest.importorskip("starlette")
    from starlette.responses import StreamingResponse as StarletteStream

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await StarletteStream(ticks())(scope, receive, send)

    return app


# --- from the application --------------------------------------------------------------------------------


@pytest.mark.parametrize("server", SERVERS, ids=str)
@pytest.mark.parametrize(
    "kind",
    [
        "raw",
        "ours",
        # Starlette leaves its generator to the collector.
        pytest.param("theirs", marks=pytest.mark.filterwarnings("ignore::ResourceWarning")),
    ],
)
async def test_exchange_with_endless_stream_ends_in_a_tenth_of_a_second(kind: str, server: Server) -> None:
    """Three parts are enough: the client leaves, and the application is over, on every server."""
    app = endless_of(kind)
    before, quickest = living_tasks(), 10.0
    for _ in range(3):  # the machine may halt once
        began = perf_counter()
        parts = []
        async with Client(app, server=server).exchange("GET", "/") as exchange:
            assert (await exchange.start()).status_code == 200
            async for part in exchange:
                parts.append(part)
                if len(parts) == 3:
                    break
        quickest = min(quickest, perf_counter() - began)
        assert parts == [b"tick"] * 3
        assert exchange.is_finished
        if kind != "theirs":  # on trio a task closes the generator that Starlette leaves
            assert living_tasks() == before
    assert quickest < 0.1


@on_asyncio
async def test_exchange_with_endless_stream_of_quart_ends() -> None:
    """Quart closes its generator."""
    quart: Any = pytest.importorskip("quart")
    app, ended = quart.Quart("site"), []

    async def endpoint() -> Any:
        async def ticks() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b"tick"
                    await checkpoint()
            finally:
                ended.append(True)

        return ticks()

    app.add_url_rule("/", view_func=endpoint)
    for server in SERVERS:
        async with Client(app, server=server).exchange("GET", "/") as exchange:
            assert await exchange.next_part() == b"tick"
        assert exchange.is_finished
    assert len(ended) == len(SERVERS)


async def test_exchange_gives_messages_as_they_come() -> None:
    """Every message, then None."""
    async with Client(Answers(start(201), body(b"a", True), body(b"b"))).exchange("GET", "/") as exchange:
        assert await exchange.next_message() == start(201)
        assert exchange.response.status_code == 201
        assert not exchange.response.is_complete
        assert (await exchange.start()).status_code == 201
        assert await exchange.next_message() == body(b"a", True)
        assert await exchange.next_message() == body(b"b")
        assert await exchange.next_message() is None
        assert [message["type"] for message in exchange.messages] == [
            "http.response.start",
            *["http.response.body"] * 2,
        ]
        assert exchange.response.body == b"ab"
        assert exchange.response.is_complete


async def test_exchange_start_waits_for_nothing_more() -> None:
    """Status and header fields are there while the body is not; hints before them are passed over and kept."""
    gate = anyio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.early_hint", "links": [b"</a>"]})
        await send(start(200, (b"x-a", b"1")))
        await gate.wait()
        await send(body(b"late"))

    async with Client(app, server=STRICT).exchange("GET", "/") as exchange:
        head = await exchange.start()
        assert (head.status_code, head.headers["x-a"]) == (200, "1")
        assert not exchange.is_complete
        gate.set()
        assert await exchange.next_part() == b"late"
        assert await exchange.next_part() == b""
        assert await exchange.next_part() == b""
        assert exchange.response.early_hints == (("</a>",),)


async def test_exchange_start_of_no_response_is_empty() -> None:
    """Where errors are not raised, the status of what never began is that of the server; without one it is 0."""
    async with Client(Answers()).exchange("GET", "/") as exchange:
        with pytest.raises(IncompleteResponseError):
            await exchange.start()
        assert (await exchange.start()).status_code == 0
    async with Client(Answers(), raise_app_exceptions=False).exchange("GET", "/") as exchange:
        assert (await exchange.start()).status_code == 500


async def test_exchange_that_gets_nothing_raises() -> None:
    """Each wait of the test has an end, and says what the application does."""
    async with Client(Waits(), timeout_seconds=0.01).exchange("GET", "/") as exchange:
        with pytest.raises(TimeoutError, match=r"sent nothing within 0\.01 s: it called receive 0 and send 0 times"):
            await exchange.next_message()


async def test_exchange_tells_where_the_application_waits() -> None:
    """In receive, in send, or nowhere any more."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await receive()
        await send(start())
        await send(body(b"a"))
        await receive()

    client = Client(app, server=GUNICORN, timeout_seconds=0.01)
    async with client.exchange("POST", "/", more_body=True, window=1) as exchange:
        exchange.send_body_nowait(b"1")
        await anyio.wait_all_tasks_blocked()
        assert (exchange.is_receiving, exchange.is_sending) == (True, False)
        with pytest.raises(TimeoutError, match=r"waiting at test_testing_exchange.py:[0-9]+ in .*app\(\) in receive"):
            await exchange.next_message()
        exchange.send_body_nowait(b"2")
        await anyio.wait_all_tasks_blocked()
        assert (exchange.is_receiving, exchange.is_sending) == (False, True)
        assert (exchange.receives, exchange.sends) == (2, 2)
        with pytest.raises(TimeoutError, match=r"did not receive the body .* in send"):
            await exchange.send_body(b"3")
    assert exchange.most_readers == 1


async def test_exchange_without_record_keeps_nothing() -> None:
    """A stream of any length goes through; what was kept for later is not there."""
    async with Client(Answers(start(), *[body(b"a", True)] * 1000, body())).exchange(
        "GET", "/", record=False
    ) as exchange:
        size = 0
        async for part in exchange:
            size += len(part)
        assert size == 1000
        assert (await exchange.start()).status_code == 200
        with pytest.raises(RuntimeError, match="record=False"):
            exchange.messages  # noqa: B018


# --- towards the application -----------------------------------------------------------------------------


@pytest.mark.parametrize("server", [server for server in SERVERS if not server.reads_body_first], ids=str)
async def test_exchange_body_is_paced_by_the_test(server: Server) -> None:
    """Each part is answered before the next is sent."""
    async with Client(upper, server=server).exchange("POST", "/", more_body=True) as exchange:
        for part in (b"a", "b"):
            await exchange.send_body(part)
            assert await exchange.next_part() == (part.encode() if isinstance(part, str) else part).upper()
        await exchange.send_body(b"c", more=False)
        assert (await exchange.finish()).body == b"ABC"
        with pytest.raises(RuntimeError, match="the body has ended"):
            await exchange.send_body(b"d")


async def test_exchange_body_begins_with_the_content() -> None:
    """What is given at first is not the end; the length is not declared."""
    for content in (b"a", [b"a"], iter([b"a"])):
        async with Client(upper).exchange("POST", "/", content=content, more_body=True) as exchange:
            assert await exchange.next_part() == b"A"
            assert (b"transfer-encoding", b"chunked") in exchange.scope["headers"]
            exchange.send_body_nowait(b"b")
            exchange.send_body_nowait(b"c", more=False)
            assert (await exchange.finish()).body == b"ABC"


async def test_exchange_body_is_whole_before_daphne_calls_the_application() -> None:
    """The application starts with the end of the upload, or not at all."""
    async with Client(upper, server=DAPHNE).exchange("POST", "/", content=b"a", more_body=True) as exchange:
        await anyio.wait_all_tasks_blocked()
        assert exchange.receives == exchange.sends == 0
        exchange.send_body_nowait(b"b", more=False)
        assert (await exchange.finish()).body == b"AB"
    called: list[bool] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        called.append((await receive())["type"] == "http.disconnect")

    async with Client(app, server=DAPHNE).exchange("POST", "/", more_body=True) as exchange:
        exchange.disconnect()
    assert called == [True]


async def test_exchange_body_not_received_is_no_hindrance_once_the_application_ended() -> None:
    """The rest of a body that was answered early goes nowhere."""
    async with Client(hello).exchange("POST", "/", more_body=True) as exchange:
        await exchange.send_body(b"a")
        assert (await exchange.finish()).body == b"hello"


async def test_exchange_message_of_any_kind_reaches_the_application() -> None:
    """Also what no server should send."""
    got: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        got.append(await receive())
        await hello(scope, receive, send)

    async with Client(app).exchange("GET", "/", more_body=True) as exchange:
        exchange.send_message_nowait({"type": "http.nonsense"})
        await exchange.finish()
    assert got == [{"type": "http.nonsense"}]


async def test_exchange_counts_readers_that_wait_together() -> None:
    """Two calls of receive at the same time each take what the other may need."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(receive)
            group.start_soon(receive)
        await hello(scope, receive, send)

    async with Client(app).exchange("POST", "/", more_body=True) as exchange:
        await anyio.wait_all_tasks_blocked()
        await exchange.send_body(b"a")
        await exchange.send_body(b"b")
        await exchange.finish()
        assert exchange.most_readers == 2


# --- a slow reader ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [0, 1, 5])
async def test_exchange_with_window_lets_the_application_be_so_far_ahead(window: int) -> None:
    """send() waits until the test takes a message, when so many are waiting."""
    async with Client(endless).exchange("GET", "/", window=window) as exchange:
        for taken in range(4):
            await anyio.wait_all_tasks_blocked()
            assert exchange.is_sending
            assert exchange.sends == taken + window + 1
            await exchange.next_message()


@pytest.mark.parametrize(("window_bytes", "sends"), [(0, 2), (3, 2), (4, 3), (39, 11)])
async def test_exchange_with_window_in_bytes_lets_the_application_be_so_far_ahead(
    window_bytes: int, sends: int
) -> None:
    """The start has no bytes of body, each part has four."""
    async with Client(endless).exchange("GET", "/", window_bytes=window_bytes) as exchange:
        await anyio.wait_all_tasks_blocked()
        assert exchange.sends == sends


@pytest.mark.untraced
async def test_exchange_without_window_takes_everything() -> None:
    """And the test has its turn all the same."""
    app = Answers(start(), *[body(bytes(1000), True)] * 5000, body())
    async with Client(app).exchange("GET", "/", window_bytes=None) as exchange:
        while not exchange.is_finished:
            await checkpoint()
        assert exchange.sends == 5002
        assert len((await exchange.finish()).body) == 5_000_000


# --- leaving ---------------------------------------------------------------------------------------------


async def test_exchange_disconnect_cancels_a_waiting_endpoint_of_ours() -> None:
    """The disconnect is told at once; nothing is raised and nothing was sent."""
    ended: list[bool] = []

    async def endpoint(request: Request) -> Response:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(request.is_disconnected)
        raise AssertionError

    async with Client(Handler(endpoint)).exchange("GET", "/") as exchange:
        await anyio.wait_all_tasks_blocked()
        exchange.disconnect()
        response = await exchange.finish()
        assert ended == [True]
    assert (response.status_code, response.messages, exchange.outcome) == (0, (), "returned")


async def test_exchange_disconnect_amid_the_body_is_told_after_it() -> None:
    """What was sent before is received before."""
    got: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while not got or got[-1] != "http.disconnect":
            got.append((await receive())["type"])

    async with Client(app).exchange("POST", "/", content=b"a", more_body=True) as exchange:
        exchange.disconnect()
        await exchange.finish()
    assert got == ["http.request", "http.disconnect"]


@pytest.mark.parametrize("raises", [OSError("gone"), ValueError("at a loss")], ids=["quiet", "loud"])
async def test_exchange_whose_client_left_passes_over_an_oserror(raises: Exception) -> None:
    """ASGI HTTP 2.4: the error that send() raises may come out of the application; any other is raised."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        try:
            while True:
                await send(body(b"x", True))
        except OSError:
            raise raises from None

    async with Client(app, server=STRICT).exchange("GET", "/") as exchange:
        await exchange.start()
        exchange.disconnect()
        if isinstance(raises, OSError):
            assert (await exchange.finish()).error is raises
        else:
            with pytest.raises(ValueError, match="at a loss"):
                await exchange.finish()


async def test_exchange_left_open_cancels_the_application_after_the_grace() -> None:
    """Its shielded cleanup is waited for."""
    app = Waits(shielded_turns=50)
    async with Client(app, grace_seconds=0.001).exchange("GET", "/") as exchange:
        await anyio.wait_all_tasks_blocked()
        assert not exchange.is_finished
    assert app.ended == ["cancelled"]
    assert (exchange.outcome, exchange.error) == ("cancelled", None)


async def test_exchange_left_open_lets_the_application_end_within_the_grace() -> None:
    """Even if there is no time for it, there are some turns of the loop."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        for _ in range(10):
            await checkpoint()

    async with Client(app, grace_seconds=0).exchange("GET", "/") as exchange:
        await anyio.wait_all_tasks_blocked()
    assert exchange.outcome == "returned"


async def test_exchange_cancel_ends_the_application() -> None:
    """As by a server that stops; a response that was not begun does not come."""
    app = Waits()
    async with Client(app).exchange("GET", "/") as exchange:
        await anyio.wait_all_tasks_blocked()
        exchange.cancel()
        assert (await exchange.finish()).status_code == 0
    assert (app.ended, exchange.outcome) == (["cancelled"], "cancelled")


@on_asyncio
async def test_exchange_native_cancel_breaks_into_a_shield() -> None:
    """A shield of anyio does not hold against it; once the application has ended it does nothing."""
    reached: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        with anyio.CancelScope(shield=True):
            try:
                await anyio.sleep_forever()
            finally:
                reached.append("out")

    async with Client(app).exchange("GET", "/") as exchange:
        await anyio.wait_all_tasks_blocked()
        exchange.cancel(native=True)
        await exchange.finish()
        assert (reached, exchange.outcome) == (["out"], "cancelled")
        exchange.cancel(native=True)


@pytest.mark.parametrize("anyio_backend", [backend for backend in BACKENDS if backend.id == "trio"], indirect=True)
async def test_exchange_native_cancel_on_trio_raises() -> None:
    """There is no such thing."""
    async with Client(Waits()).exchange("GET", "/") as exchange:
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(RuntimeError, match="only a running task of asyncio"):
            exchange.cancel(native=True)


@on_asyncio
async def test_exchange_native_cancel_that_is_swallowed_leaves_the_task_as_it_was() -> None:
    """An application that goes on after it returns like any other."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            pass
        await hello(scope, receive, send)

    async with Client(app).exchange("GET", "/") as exchange:
        await anyio.wait_all_tasks_blocked()
        exchange.cancel(native=True)
        assert (await exchange.finish()).body == b"hello"
    assert exchange.outcome == "returned"


# --- errors ----------------------------------------------------------------------------------------------


async def test_exchange_error_is_raised_where_the_test_waits_for_more() -> None:
    """Once: what came before it is given first, and the end of the block does not raise it again."""
    async with Client(Answers(start(), body(b"a", True), error=ValueError("x"))).exchange("GET", "/") as exchange:
        assert await exchange.next_part() == b"a"
        with pytest.raises(ValueError, match="x"):
            await exchange.next_part()
        assert await exchange.next_part() == b""
    assert exchange.outcome == "raised"


async def test_exchange_error_that_the_test_does_not_wait_for_is_raised_at_the_end() -> None:
    """An error after the response is not lost."""
    error = ValueError("in the background")
    with pytest.raises(ValueError, match="in the background") as raised:
        async with Client(Answers(start(), body(b"a"), error=error)).exchange("GET", "/") as exchange:
            assert await exchange.next_part() == b"a"
            assert await exchange.next_part() == b""
    assert raised.value is error
    assert exchange.error is error


async def test_exchange_block_that_raises_raises_that() -> None:
    """What the test raises comes out as it is, with a note of what the application raised; skipping works as well."""
    with pytest.raises(AssertionError, match="of the test") as raised:
        async with Client(Answers(error=ValueError("x"))).exchange("GET", "/"):
            await anyio.wait_all_tasks_blocked()
            raise AssertionError("of the test")
    assert raised.value.__notes__ == ["the application had raised ValueError('x')"]
    with pytest.raises(pytest.skip.Exception):
        async with Client(hello).exchange("GET", "/"):
            pytest.skip("of the test")
    with pytest.raises(ValueError, match="x") as own:
        async with Client(Answers(error=ValueError("x"))).exchange("GET", "/") as exchange:
            await exchange.next_message()
    assert not hasattr(own.value, "__notes__")


async def test_exchange_block_that_is_cancelled_cancels_the_application() -> None:
    """A deadline around the exchange ends both."""
    app = Waits()
    exchanges: list[Exchange] = []
    with anyio.CancelScope() as scope:
        async with Client(app, grace_seconds=0).exchange("GET", "/") as exchange:
            exchanges.append(exchange)
            await anyio.wait_all_tasks_blocked()
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert app.ended == ["cancelled"]
    assert exchanges[0].outcome == "cancelled"


@pytest.mark.parametrize("server", [UVICORN, STRICT], ids=str)
async def test_exchange_with_our_handler_logs_nothing_when_the_client_leaves(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """A disconnect is nobody's fault."""
    caplog.set_level(logging.DEBUG)
    async with Client(endless_of("ours"), server=server).exchange("GET", "/") as exchange:
        await exchange.next_part()
    assert exchange.error is None
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


@on_asyncio
@pytest.mark.parametrize("has_begun", [False, True])
async def test_application_that_cancels_itself_gives_no_response(has_begun: bool) -> None:
    """Its own CancelledError, which nobody else wanted, is no end of a response."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if has_begun:
            await send(start())
            await send(body(b"half", True))
        raise asyncio.CancelledError

    problem = "nobody had cancelled it, before it " + ("ended its response" if has_begun else "began a response")
    with pytest.raises(IncompleteResponseError, match=problem) as raised:
        await Client(app).get("/")
    assert isinstance(raised.value.__cause__, asyncio.CancelledError)


@on_asyncio
async def test_application_that_cancels_itself_after_its_response_has_answered() -> None:
    """The client has all that it asked for."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await hello(scope, receive, send)
        raise asyncio.CancelledError

    assert (await Client(app).get("/")).status_code == 200


class Ends(BaseException):
    """As pytest's own exceptions, no Exception."""


async def test_base_exception_of_the_application_reaches_the_test_as_it_is() -> None:
    """In no group, whether the test waits for the application or not, and once."""
    ends = Ends("whole")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise ends

    with pytest.raises(Ends) as raised:
        await Client(app).get("/")
    assert raised.value is ends
    with pytest.raises(Ends) as raised:
        async with Client(app, raise_app_exceptions=False).exchange("GET", "/"):
            pass
    assert raised.value is ends


async def test_exchange_before_its_block_or_in_a_second_one_is_an_error() -> None:
    """Nothing runs before, and one exchange is one request."""
    exchange = Client(Answers()).exchange("GET", "/")
    with pytest.raises(RuntimeError, match="runs within async with"):
        await exchange.start()
    async with exchange:
        with pytest.raises(RuntimeError, match="entered once"):
            async with exchange:
                pass  # pragma: no cover
        exchange.cancel()
