"""_grace.py: what a cancelled endpoint may still wait for, by policy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from urllib.error import URLError

import anyio
import pytest
from faults import on_asyncio

from asgicore import Handler, Request, Response, StreamingResponse
from asgicore.testing import Client

SECONDS = 10


class Pool:
    """Connections that have to be given back, which takes a moment."""

    def __init__(self) -> None:
        self.lent = 0
        self.began = anyio.Event()
        self.cut = 0

    async def use(self, cleanup_seconds: float = 0.02, is_shielded: bool = False) -> None:
        self.lent += 1
        try:
            self.began.set()
            await anyio.sleep(SECONDS)
        finally:
            with anyio.CancelScope(shield=is_shielded):
                await self.give_back(cleanup_seconds)

    async def give_back(self, seconds: float) -> None:
        try:
            await anyio.sleep(seconds)
        except BaseException:
            self.cut += 1
            raise
        self.lent -= 1


async def leave(handler: Handler, began: anyio.Event) -> int:
    """Ask, and go away when the endpoint has begun to wait; returns how many messages were sent."""
    with anyio.fail_after(SECONDS):
        async with Client(handler) as client, client.exchange("GET", "/") as exchange:
            await began.wait()
            exchange.disconnect()
            while not exchange.is_finished:
                await anyio.sleep(0.001)
            return exchange.sends


@pytest.mark.parametrize(
    ("policy", "endpoint", "lent"),
    [
        # Without a policy of its own, what waits in the cleanup is cut short unless it is shielded.
        ({}, "cleans up", 1),
        ({}, "shields", 0),
        ({"grace_seconds": 5.0}, "cleans up", 0),
        ({"grace_seconds": 5.0}, "shields", 0),
        ({"grace_seconds": 0.05}, "cleans up slowly", 1),
        ({"grace_seconds": 0.0}, "cleans up", 1),
        ({"on_disconnect": "notify"}, "cleans up", 0),
    ],
)
@pytest.mark.parametrize("body", ["spool", "stream"])
async def test_cancelled_endpoint_gives_back_what_it_has_by_policy(
    policy: dict[str, Any], endpoint: str, lent: int, body: Any
) -> None:
    pool = Pool()

    async def view(request: Request) -> Response:
        if "on_disconnect" in policy:
            pool.lent += 1
            pool.began.set()
            await request.wait_disconnected()
            await pool.give_back(0.02)
        else:
            await pool.use(SECONDS if endpoint == "cleans up slowly" else 0.02, endpoint == "shields")
        return Response()

    sent = await leave(Handler(view, body=body, **policy), pool.began)
    assert pool.lent == pool.cut == lent
    assert sent == (2 if "on_disconnect" in policy else 0)


async def test_cancellation_that_has_to_wait_for_a_shield_begins_the_time_when_it_arrives() -> None:
    """A shielded section is finished; then the endpoint is cancelled once, and cleans up."""
    pool, order = Pool(), list[str]()

    async def view(request: Request) -> Response:
        pool.lent += 1
        try:
            with anyio.CancelScope(shield=True):
                pool.began.set()
                await anyio.sleep(0.05)
                order.append("shielded")
            await anyio.sleep(SECONDS)
            return Response()
        finally:
            order.append("cancelled")
            await pool.give_back(0.02)

    await leave(Handler(view, grace_seconds=5), pool.began)
    assert (pool.lent, order) == (0, ["shielded", "cancelled"])


async def test_scopes_of_the_endpoint_stay_its_own() -> None:
    """Timeouts and task groups that are open when the cancellation arrives are left in their order."""
    pool = Pool()

    async def view(request: Request) -> Response:
        with anyio.fail_after(SECONDS):
            async with anyio.create_task_group():
                with anyio.move_on_after(SECONDS):
                    await pool.use()
        return Response()

    await leave(Handler(view, grace_seconds=5), pool.began)
    assert pool.lent == 0


async def test_stream_that_is_cancelled_cleans_up(caplog: pytest.LogCaptureFixture) -> None:
    """And nothing is taken for an error: the cancellation is ours."""
    caplog.set_level("INFO")
    pool = Pool()

    async def parts() -> AsyncIterator[bytes]:
        yield b"first"
        await pool.use()

    async def view(request: Request) -> Response:
        return StreamingResponse(parts())

    sent = await leave(Handler(view, grace_seconds=5), pool.began)
    assert pool.lent == 0
    assert sent == 2
    assert caplog.records == []


async def test_error_of_what_the_endpoint_waits_for_is_its_own() -> None:
    """It comes the way that a cancellation comes; one may have a reason of another kind, or none that can be told."""

    class Silent(Exception):
        def __str__(self) -> str:
            raise AssertionError("nobody asks for the text")

    async def fail(error: Exception) -> None:
        await anyio.sleep(0.001)
        raise error

    caught: list[type[Exception]] = []

    async def view(request: Request) -> Response:
        for error in (URLError(OSError()), Silent()):
            waited = fail(error) if on_trio else asyncio.ensure_future(fail(error))
            try:
                await waited
            except Exception as exc:
                caught.append(type(exc))
        return Response("answered")

    on_trio = anyio.get_cancelled_exc_class() is not asyncio.CancelledError
    with anyio.fail_after(SECONDS):
        async with Client(Handler(view, grace_seconds=1)) as client:
            assert (await client.get("/")).text == "answered"
    assert caught == [URLError, Silent]


@pytest.mark.parametrize("waits", [False, True])
async def test_request_whose_client_stays_is_answered(waits: bool) -> None:
    async def view(request: Request) -> Response:
        if waits:
            with anyio.move_on_after(0.01):
                await anyio.sleep(SECONDS)
        return Response(await request.body())

    with anyio.fail_after(SECONDS):
        async with Client(Handler(view, grace_seconds=1)) as client:
            assert (await client.post("/", content=b"here")).text == "here"


@on_asyncio
async def test_cancellation_by_the_server_goes_through() -> None:
    """A server that is told to stop cancels natively: no time is given, and the cancellation is the server's."""
    pool = Pool()

    async def view(request: Request) -> Response:
        await pool.use(0.0)
        return Response()

    with anyio.fail_after(SECONDS):
        async with Client(Handler(view, grace_seconds=5)) as client, client.exchange("GET", "/") as exchange:
            await pool.began.wait()
            exchange.cancel(native=True)
            while not exchange.is_finished:
                await anyio.sleep(0.001)
            assert exchange.outcome == "cancelled"
    assert pool.lent == 0


@pytest.mark.parametrize(
    "options", [{"grace_seconds": -1}, {"grace_seconds": float("nan")}, {"grace_seconds": 1, "on_disconnect": "notify"}]
)
def test_grace_that_cannot_be_is_refused(options: dict[str, Any]) -> None:
    async def view(request: Request) -> Response:
        return Response()

    with pytest.raises(ValueError, match="grace_seconds takes"):
        Handler(view, **options)
