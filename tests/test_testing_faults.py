"""asgicore.testing: one fault in one request, and every fault that there can be."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from faults import on_asyncio, on_trio
from test_testing_client import Answers, body, hello, start

from asgicore import Handler, Request, Response, StreamingResponse
from asgicore.testing import STRICT, UVICORN, Client, Fault, LeakGuard, check_messages, every_fault

SLOW = replace(UVICORN, suspends=True)


# --- one fault -------------------------------------------------------------------------------------------


def test_fault_that_is_none_raises() -> None:
    """Its kind is known, its time is one that comes."""
    with pytest.raises(ValueError, match="one of send, receive, disconnect, cancel, native_cancel, not 'crash'"):
        Fault("crash")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="first call or a later one, not at 0"):
        Fault("send", 0)


def test_fault_says_what_it_is() -> None:
    """As text it is an id for pytest."""
    fault = Fault("send", 3)
    assert (str(fault), repr(fault)) == ("send-3", "<Fault send-3>")
    fault.happened = True
    assert repr(fault) == "<Fault send-3 happened>"
    assert str(fault.error) == "fault of the test: send 3"


async def test_fault_in_send_raises_in_the_application_from_then_on() -> None:
    """The error is kept, and not raised in the test."""
    raised: list[Exception] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        for _ in range(2):
            try:
                await send(body(b"a", True))
            except ValueError as exc:
                raised.append(exc)
        raise raised[0]

    fault = Fault("send", 2, ValueError("of the server"))
    response = await Client(app).get("/", fault=fault)
    assert fault.happened
    assert raised == [fault.error, fault.error]
    assert (response.status_code, response.is_complete, response.error) == (200, False, fault.error)


async def test_fault_in_receive_is_a_disconnect_for_our_handler() -> None:
    """An OSError of receive() is quiet."""

    async def endpoint(request: Request) -> Response:
        raise AssertionError

    response = await Client(Handler(endpoint)).post("/", content=[b"a", b"b"], fault=Fault("receive", 2))
    assert (response.messages, response.error) == ((), None)


async def test_fault_disconnect_comes_when_so_many_messages_have_passed() -> None:
    """In either direction: two of the body, then two of the response."""
    for at in range(1, 7):
        passed: list[str] = []

        async def app(scope: Any, receive: Any, send: Any, passed: list[str] = passed) -> None:
            for message in (start(), body(b"a", True), body(b"b")):
                got = await receive() if len(passed) < 2 else None
                if got is not None:
                    passed.append(got["type"])
                    if got["type"] == "http.disconnect":
                        return
                await send(message)
                passed.append(message["type"])

        async with Client(app, server=STRICT).exchange(
            "POST", "/", content=[b"1"], fault=Fault("disconnect", at)
        ) as seen:
            response = await seen.finish()
        assert len(response.messages) == min(at - 1, 3)


@pytest.mark.parametrize("at", [1, 2, 3])
async def test_fault_cancel_comes_at_that_await(at: int) -> None:
    """The application is cancelled where it waits for the n-th time, as by a server; a shield holds."""
    reached: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for number in range(1, 4):
            await checkpoint()
            reached.append(number)
        await hello(scope, receive, send)

    async with Client(app).exchange("GET", "/", fault=Fault("cancel", at)) as exchange:
        response = await exchange.finish()
    assert reached == list(range(1, at))
    assert (exchange.outcome, response.status_code, exchange.error) == ("cancelled", 0, None)


@on_asyncio
async def test_fault_native_cancel_breaks_into_a_shield() -> None:
    """Which the other kind does not."""
    ended: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        with anyio.CancelScope(shield=True):
            await checkpoint()
            ended.append("out")
        await checkpoint()
        ended.append("over")

    for kind, expected in (("cancel", ["out"]), ("native_cancel", [])):
        ended.clear()
        fault = Fault(kind)  # type: ignore[arg-type]
        await Client(app).get("/", fault=fault)
        assert fault.happened
        assert ended == expected


async def test_fault_that_did_not_happen_leaves_the_response_whole() -> None:
    """The request is like any other then."""
    fault = Fault("send", 3)
    response = await Client(hello).get("/", fault=fault)
    assert (response.body, fault.happened, fault.is_used) == (b"hello", False, True)


async def test_fault_that_the_application_answers_with_an_error_raises_nothing() -> None:
    """A test asks for what was raised, where it matters."""
    response = await Client(Answers(start(), error=KeyError("x")), server=SLOW).get("/", fault=Fault("send", 7))
    assert isinstance(response.error, KeyError)


async def test_fault_passes_what_the_application_waits_with() -> None:
    """Counting awaits changes nothing: values and errors go in, results come out."""
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        with anyio.move_on_after(0):
            await anyio.sleep_forever()
        seen.append("timed out")
        async with anyio.create_task_group() as group:
            group.start_soon(checkpoint)
        seen.append("joined")
        await hello(scope, receive, send)

    assert (await Client(app).get("/", fault=Fault("cancel", 1000))).body == b"hello"
    assert seen == ["timed out", "joined"]


# --- every fault -----------------------------------------------------------------------------------------


async def test_every_fault_goes_on_until_one_does_not_happen() -> None:
    """For each kind that the backend has, in their order."""
    client = Client(hello, server=SLOW)
    seen = []
    for fault in every_fault():
        response = await client.get("/", fault=fault)
        seen.append(str(fault))
        check_messages(list(response.messages), complete=None)
    expected = ["send-1", "send-2", "send-3", "receive-1", "disconnect-1", "disconnect-2", "disconnect-3"]
    expected += ["cancel-1", "cancel-2", "cancel-3"]
    if not on_trio():
        expected += ["native_cancel-1", "native_cancel-2", "native_cancel-3"]
    assert seen == expected


async def test_every_fault_of_some_kinds_has_these() -> None:
    """In the order that was asked for."""
    faults = []
    for fault in every_fault("receive", "send"):
        await Client(hello).get("/", fault=fault)
        faults.append(str(fault))
    assert faults == ["receive-1", "send-1", "send-2", "send-3"]


async def test_every_fault_of_an_endless_response_has_a_limit() -> None:
    """Given by the test, or an error in the end."""

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        while True:
            await send(body(b"x", True))

    faults = []
    for fault in every_fault("send", limit=5):
        await Client(endless).get("/", fault=fault)
        faults.append(fault.at)
    assert faults == [1, 2, 3, 4, 5]

    with pytest.raises(RuntimeError, match="10000 faults of kind 'send' happened: give a limit"):
        for fault in every_fault("send"):
            fault.is_used = fault.happened = True


def test_every_fault_that_is_not_used_raises() -> None:
    """A loop that forgets to pass the fault tests nothing."""
    with pytest.raises(RuntimeError, match="pass it as fault=fault"):
        for _ in every_fault():
            pass


async def test_every_fault_in_our_handler_closes_the_stream_and_leaves_nothing() -> None:
    """Whatever goes wrong, wherever: what was opened is closed, and nothing is left behind."""
    opened: list[bool] = []

    async def parts(request: Request) -> AsyncIterator[bytes]:
        opened.append(True)
        try:
            async for part in request.stream():
                yield part.upper()
                await checkpoint()
        finally:
            opened.pop()

    async def endpoint(request: Request) -> Response:
        await checkpoint()
        return StreamingResponse(parts(request))

    client = Client(Handler(endpoint, body="stream"), server=STRICT)
    happened = 0
    async with LeakGuard():
        for fault in every_fault():
            response = await client.post("/", content=[b"a", b"b", b"c"], fault=fault)
            assert opened == [], fault
            happened += fault.happened
            if not fault.happened:
                assert response.body == b"ABC"
    assert happened > 30
