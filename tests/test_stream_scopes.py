"""Streams whose iterators hold cancel scopes and task groups across their ``yield``."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from conftest import BACKENDS

from asgicore import ContentLengthError, Handler, Limits, Request, Response, StreamingResponse, UsageError
from asgicore.testing import UVICORN, Channel, Client, Fault, Message, http_scope

only_asyncio = pytest.mark.parametrize("anyio_backend", [b for b in BACKENDS if b.values[0][0] == "asyncio"])

SECONDS = 5


class Source:
    """Makes iterators that hold something across their ``yield``, and remembers how they ended."""

    def __init__(self) -> None:
        self.ended: list[str] = []

    async def _finish(self, how: str) -> None:
        for _ in range(3):
            await checkpoint()
        self.ended.append(how)

    async def scope(self) -> AsyncIterator[bytes]:
        with anyio.move_on_after(60):
            try:
                while True:
                    yield b"abc"
            finally:
                await self._finish("scope")

    async def scope_after_a_wait(self) -> AsyncIterator[bytes]:
        await checkpoint()
        with anyio.CancelScope():
            try:
                while True:
                    yield b"abc"
            finally:
                await self._finish("scope")

    async def nested(self) -> AsyncIterator[bytes]:
        with anyio.fail_after(60), anyio.CancelScope(), anyio.move_on_after(60):
            try:
                while True:
                    yield b"abc"
            finally:
                await self._finish("scope")

    async def group(self) -> AsyncIterator[bytes]:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep_forever)
            try:
                while True:
                    yield b"abc"
            finally:
                group.cancel_scope.cancel()
                self.ended.append("scope")

    async def asyncio_group(self) -> AsyncIterator[bytes]:
        async with asyncio.TaskGroup():
            try:
                while True:
                    yield b"abc"
            finally:
                await self._finish("scope")


holding = pytest.mark.parametrize("kind", ["scope", "scope_after_a_wait", "nested", "group"])


def handler_of(
    source: Source,
    kind: str,
    on_disconnect: Any = "cancel",
    close_timeout_seconds: float | None = 10.0,
    **response: Any,
) -> Handler:
    """Streams what the source makes."""

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(getattr(source, kind)(), **response)

    return Handler(endpoint, on_disconnect=on_disconnect, limits=Limits(close_timeout_seconds=close_timeout_seconds))


def client_of(handler: Handler, suspends: bool = False) -> Client:
    """Has the handler run in a scope of the server's; whoever runs it can wait afterwards.

    A send that the client leaves behind does not return.
    """

    async def app(scope: Any, receive: Any, send: Any) -> None:
        with anyio.fail_after(SECONDS):
            try:
                await handler(scope, receive, send)
            finally:
                await checkpoint()

    server = replace(UVICORN, suspends=suspends, send_after_disconnect="wait")
    return Client(app, server=server, grace_seconds=SECONDS)


def failing(error: Exception) -> Fault:
    """The send of the second part raises."""
    return Fault("send", 3, error)


@holding
@pytest.mark.parametrize("suspends", [False, True])
async def test_stream_in_scopes_of_its_own_whose_client_leaves_ends_quietly(
    kind: str, suspends: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The iterator is closed, the task is as it was, and nothing is logged that anybody has to look at."""
    source = Source()
    async with client_of(handler_of(source, kind), suspends).exchange("GET", "/", window=0) as exchange:
        await exchange.next_part()
        await anyio.wait_all_tasks_blocked()
        exchange.disconnect()
        await exchange.finish()
    assert exchange.outcome == "returned"
    assert source.ended == ["scope"]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@holding
@pytest.mark.parametrize("on_disconnect", ["cancel", "notify"])
@pytest.mark.parametrize("close_timeout_seconds", [10.0, None])
@pytest.mark.parametrize("suspends", [False, True])
async def test_stream_in_scopes_of_its_own_whose_send_fails_raises_that(
    kind: str,
    suspends: bool,
    on_disconnect: Any,
    close_timeout_seconds: float | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The very object comes out, and the iterator is closed."""
    source, error = Source(), ValueError("of the server")
    handler = handler_of(source, kind, on_disconnect, close_timeout_seconds)
    response = await client_of(handler, suspends).get("/", fault=failing(error))
    assert response.error is error
    assert source.ended == ["scope"]
    assert caplog.records == []


@holding
async def test_stream_in_scopes_of_its_own_that_gives_too_much_is_told(kind: str) -> None:
    """The error about its length comes out, and not one about scopes."""
    source = Source()
    handler = handler_of(source, kind, headers={"content-length": "4"})
    with pytest.raises(ContentLengthError):
        await client_of(handler, suspends=True).get("/")
    assert source.ended == ["scope"]


@holding
async def test_stream_in_scopes_of_its_own_is_ended_by_aclose(kind: str) -> None:
    """The final message is sent, and the request is over."""
    source = Source()
    handler = handler_of(source, kind)
    async with client_of(handler).exchange("GET", "/", window=0) as exchange:
        await exchange.next_part()
        await anyio.wait_all_tasks_blocked()
        async with anyio.create_task_group() as group:
            group.start_soon(handler.aclose, 0)
            with anyio.fail_after(SECONDS):
                while not source.ended:
                    await checkpoint()
            response = await exchange.finish()
    assert source.ended == ["scope"]
    assert response.messages[-1]["more_body"] is False
    assert response.is_complete


@holding
async def test_stream_in_scopes_of_its_own_cancelled_from_outside_is_closed(kind: str) -> None:
    """The cleanup is shielded, and the cancellation goes where it came from."""
    source = Source()
    async with client_of(handler_of(source, kind)).exchange("GET", "/", window=0) as exchange:
        await exchange.next_part()
        await anyio.wait_all_tasks_blocked()
        exchange.cancel()
        await exchange.finish()
    assert exchange.outcome == "cancelled"
    assert source.ended == ["scope"]


async def test_stream_in_a_scope_of_its_own_that_closes_too_slowly_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    """After the time for closing its cleanup is cancelled, which is logged, and what was under way comes out."""
    cut: list[bool] = []

    async def parts() -> AsyncIterator[bytes]:
        with anyio.CancelScope():
            try:
                while True:
                    yield b"x"
            finally:
                try:
                    await anyio.sleep_forever()
                finally:
                    cut.append(True)

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(parts())

    error = ValueError("of the server")
    handler = Handler(endpoint, limits=Limits(close_timeout_seconds=0.05))
    response = await client_of(handler).get("/", fault=failing(error))
    assert response.error is error
    assert cut == [True]
    assert "did not end within 0.05 seconds" in caplog.text


@only_asyncio
@pytest.mark.parametrize("leaves", [True, False])
async def test_stream_in_a_task_group_of_asyncio_is_closed_quietly(
    leaves: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The group wraps the GeneratorExit it is left with; that is no error, and replaces none."""
    source, error = Source(), ValueError("of the server")
    client = client_of(handler_of(source, "asyncio_group"))
    if leaves:
        async with client.exchange("GET", "/", window=0) as exchange:
            await exchange.next_part()
            await anyio.wait_all_tasks_blocked()
            exchange.disconnect()
            await exchange.finish()
    else:
        assert (await client.get("/", fault=failing(error))).error is error
    assert source.ended == ["scope"]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


class Parts:
    """An endless iterator whose closing fails."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __aiter__(self) -> Parts:
        return self

    async def __anext__(self) -> bytes:
        return b"x"

    async def aclose(self) -> None:
        raise self.error


async def close_with(error: BaseException) -> Exception | None:
    """What comes out of a request whose ``send`` fails, when then the closing of its stream does."""

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(Parts(error))

    response = await client_of(Handler(endpoint)).get("/", fault=failing(LookupError("of the server")))
    return response.error


async def test_stream_whose_group_fails_while_it_is_closed_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """What else the group holds is an error of the closing; what was under way comes out."""
    closing = ValueError("while closing")
    came_out = await close_with(BaseExceptionGroup("of the closing", [GeneratorExit(), closing]))
    assert isinstance(came_out, LookupError)
    (record,) = caplog.records
    assert record.exc_info is not None
    group_error = record.exc_info[1]
    assert isinstance(group_error, ExceptionGroup)
    assert group_error.exceptions == (closing,)


async def test_stream_whose_closing_ends_the_process_says_so() -> None:
    """A KeyboardInterrupt among the errors of the closing is not swallowed."""
    with pytest.raises(BaseExceptionGroup) as raised:
        await close_with(BaseExceptionGroup("of the closing", [GeneratorExit(), KeyboardInterrupt()]))
    assert raised.value.subgroup(KeyboardInterrupt) is not None
    assert raised.value.subgroup(GeneratorExit) is None


# --- scopes that are cancelled while a part is sent ------------------------------------------------------------


async def expiring(seconds: float = 0.01) -> AsyncIterator[bytes]:
    with anyio.move_on_after(seconds):
        while True:
            yield b"abc"


async def breaking() -> AsyncIterator[bytes]:
    async def fail() -> None:
        raise ValueError("of the group")

    async with anyio.create_task_group() as group:
        group.start_soon(fail)
        while True:
            yield b"abc"


@pytest.mark.parametrize("on_disconnect", ["cancel", "notify"])
@pytest.mark.parametrize("parts", [expiring, breaking])
async def test_stream_whose_own_scope_is_cancelled_while_a_part_is_sent_is_an_error(
    parts: Callable[[], AsyncIterator[bytes]], on_disconnect: Any
) -> None:
    """The server gets an error that says what to do, and no cancellation that is nobody's."""

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(parts())

    async def on_send(index: int, message: Message) -> None:
        if index == 1:
            await anyio.sleep_forever()

    channel = Channel(on_send=on_send)
    with anyio.fail_after(SECONDS):
        with pytest.raises(UsageError, match="between two parts") as caught:
            await Handler(endpoint, on_disconnect=on_disconnect)(http_scope(), channel.receive, channel.send)
        assert isinstance(caught.value.__cause__, anyio.get_cancelled_exc_class())
        await checkpoint()
    assert len(channel.sent) == 1


@pytest.mark.parametrize("parts", [expiring, breaking])
async def test_stream_whose_own_scope_is_cancelled_while_a_send_fails_raises_that(
    parts: Callable[[], AsyncIterator[bytes]],
) -> None:
    """What has failed first is what the server gets."""

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(parts())

    failure = ValueError("of the server")

    async def on_send(index: int, message: Message) -> None:
        if index == 1:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.02)
            raise failure

    channel = Channel(on_send=on_send)
    with anyio.fail_after(SECONDS):
        with pytest.raises(ValueError, match="of the server") as caught:
            await Handler(endpoint)(http_scope(), channel.receive, channel.send)
        assert caught.value is failure
        await checkpoint()


def expiring_later() -> AsyncIterator[bytes]:
    """Not in the very turn of the loop in which the request is cancelled, however busy the machine is.

    anyio loses count of the cancellations of a scope that is left by the closing of a generator.
    """
    return expiring(1)


@pytest.mark.parametrize("parts", [expiring_later, breaking])
async def test_stream_whose_own_scope_is_cancelled_as_the_request_is_ends_with_that(
    parts: Callable[[], AsyncIterator[bytes]],
) -> None:
    """A cancellation from outside is never taken for one of the iterator."""

    async def on_send(index: int, message: Message) -> None:
        if index == 1:
            scope.cancel()
            await anyio.sleep_forever()

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(parts())

    channel = Channel(on_send=on_send)
    with anyio.fail_after(SECONDS), anyio.CancelScope() as scope:
        await Handler(endpoint)(http_scope(), channel.receive, channel.send)
    assert scope.cancelled_caught
    assert len(channel.sent) == 1
