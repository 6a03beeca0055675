"""asgicore.testing: startup and shutdown around a test, and the state that they give to requests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio
import pytest
from faults import on_asyncio

from asgicore import Handler, JSONResponse, Request, Response
from asgicore.testing import DAPHNE, UVICORN, Client, LifespanError

pytestmark = pytest.mark.usefixtures("leak_guard")


async def show_state(request: Request) -> Response:
    state = dict(request.state)
    request.state["seen"] = True
    return JSONResponse(state)


class Life:
    """A lifespan that remembers how far it came, and fails where it is told to."""

    def __init__(self, fails: str = "") -> None:
        self.fails = fails
        self.steps: list[str] = []

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[dict[str, Any]]:
        if self.fails == "startup":
            raise ValueError("no database")
        self.steps.append("startup")
        yield {"pool": "a pool"}
        if self.fails == "shutdown":
            raise ValueError("still in use")
        self.steps.append("shutdown")


class Script:
    """An application that answers its lifespan with these messages; an exception among them is raised."""

    def __init__(self, *steps: Any) -> None:
        self.steps = steps
        self.got: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "lifespan"
        for step in self.steps:
            if step == "receive":
                self.got.append((await receive())["type"])
            elif isinstance(step, Exception):
                raise step
            else:
                await send({"type": f"lifespan.{step}", **({"message": "why"} if "failed" in step else {})})


async def test_lifespan_of_ours_surrounds_the_test_and_gives_its_state() -> None:
    """Each request has a copy of its own."""
    life = Life()
    async with Client(Handler(show_state, lifespan=life)) as client:
        assert life.steps == ["startup"]
        assert client.state == {"pool": "a pool"}
        for _ in range(2):
            assert (await client.get("/")).json() == {"pool": "a pool"}
        assert client.state == {"pool": "a pool"}
    assert life.steps == ["startup", "shutdown"]


async def test_lifespan_of_starlette_surrounds_the_test() -> None:
    """The same for a framework's application."""
    pytest.importorskip("starlette")
    from starlette.applications import Starlette

    life = Life()
    async with Client(Starlette(lifespan=lambda app: life())) as client:
        assert client.state == {"pool": "a pool"}
    assert life.steps == ["startup", "shutdown"]


@on_asyncio
async def test_lifespan_of_quart_surrounds_the_test() -> None:
    """The same for Quart."""
    quart = pytest.importorskip("quart")
    app, steps = quart.Quart("site"), []
    app.before_serving(lambda: steps.append("startup"))
    app.after_serving(lambda: steps.append("shutdown"))
    async with Client(app):
        assert steps == ["startup"]
    assert steps == ["startup", "shutdown"]


async def test_lifespan_without_state_is_not_needed() -> None:
    """Requests go without it; the state is the test's to set."""
    client = Client(Handler(show_state))
    client.state["pool"] = "of the test"
    assert (await client.get("/")).json() == {"pool": "of the test"}


async def test_lifespan_of_a_server_without_state_is_run() -> None:
    """The handler keeps the state itself then."""
    life = Life()
    async with Client(Handler(show_state, lifespan=life), server=replace(UVICORN, has_state=False)) as client:
        assert client.state == {}
        assert (await client.get("/")).json() == {"pool": "a pool"}


async def test_lifespan_is_none_on_daphne() -> None:
    """A server that has none calls nothing."""
    life = Life()
    async with Client(Handler(show_state, lifespan=life), server=DAPHNE):
        pass
    assert life.steps == []


async def test_lifespan_that_is_open_cannot_be_opened_again() -> None:
    """Once at a time; afterwards it can."""
    life = Life()
    client = Client(Handler(show_state, lifespan=life))
    async with client:
        with pytest.raises(RuntimeError, match="open already"):
            await client.__aenter__()
    async with client:
        pass
    assert life.steps == ["startup", "shutdown"] * 2


async def test_startup_that_fails_raises() -> None:
    """The message of the application is the text; its exception, where that gets out, tells more."""
    with pytest.raises(LifespanError, match=r"lifespan\.startup\.failed: ValueError: no database"):
        await Client(Handler(show_state, lifespan=Life("startup"))).__aenter__()
    pytest.importorskip("starlette")
    from starlette.applications import Starlette

    client = Client(Starlette(lifespan=lambda app: Life("startup")()))
    with pytest.raises(ValueError, match="no database"):
        await client.__aenter__()
    with pytest.raises(ValueError, match="no database"):  # it was not opened
        await client.__aenter__()


async def test_shutdown_that_fails_raises() -> None:
    """Unless the test has failed itself: then it is a note."""
    with pytest.raises(LifespanError, match=r"lifespan\.shutdown\.failed: ValueError: still in use"):
        async with Client(Handler(show_state, lifespan=Life("shutdown"))):
            pass
    with pytest.raises(AssertionError, match="of the test") as raised:
        async with Client(Handler(show_state, lifespan=Life("shutdown"))):
            raise AssertionError("of the test")
    assert "the shutdown of the application failed: LifespanError" in raised.value.__notes__[0]


@pytest.mark.parametrize(
    ("steps", "error", "text"),
    [
        pytest.param([], LifespanError, "without an answer to lifespan.startup", id="returns"),
        pytest.param(["receive", ValueError("no such scope")], ValueError, "no such scope", id="raises"),
        pytest.param(["receive", "startup.failed"], LifespanError, "lifespan.startup.failed: why", id="failed"),
        pytest.param(["receive", "nonsense"], LifespanError, "lifespan.nonsense: ", id="another message"),
        pytest.param(["receive", "receive"], TimeoutError, "answer lifespan.startup within 0.3 s", id="waits"),
    ],
)
async def test_startup_without_an_answer_raises(steps: list[Any], error: type[Exception], text: str) -> None:
    """Whatever it does in place of an answer."""
    with pytest.raises(error, match=text):
        await Client(Script(*steps), timeout_seconds=0.3).__aenter__()


UP = ["receive", "startup.complete"]


@pytest.mark.parametrize(
    ("steps", "error", "text"),
    [
        pytest.param([*UP], LifespanError, "without an answer to lifespan.shutdown", id="returned before"),
        pytest.param([*UP, ValueError("a task died")], ValueError, "a task died", id="raised before"),
        pytest.param([*UP, "receive"], LifespanError, "without an answer to lifespan.shutdown", id="returns"),
        pytest.param([*UP, "receive", "receive"], TimeoutError, "answer lifespan.shutdown within", id="waits"),
    ],
)
async def test_shutdown_without_an_answer_raises(steps: list[Any], error: type[Exception], text: str) -> None:
    """Whatever it does in place of an answer, also before it was asked."""
    with pytest.raises(error, match=text):
        async with Client(Script(*steps), timeout_seconds=0.3):
            await anyio.wait_all_tasks_blocked()


async def test_shutdown_that_is_answered_lets_the_application_return() -> None:
    """What goes on for ever after its answer is cancelled."""
    app = Script(*UP, "receive", "shutdown.complete", "receive")
    async with Client(app, timeout_seconds=0.3):
        pass
    assert app.got == ["lifespan.startup", "lifespan.shutdown"]


async def test_lifespan_around_a_test_that_is_cancelled_is_cancelled() -> None:
    """A deadline around the client ends both."""
    app = Script(*UP, "receive", "shutdown.complete")
    with anyio.CancelScope() as scope:
        async with Client(app):
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert app.got == ["lifespan.startup"]


@pytest.mark.parametrize("when", ["startup", "shutdown"])
async def test_base_exception_of_a_lifespan_reaches_the_test_as_it_is(when: str) -> None:
    """In no group of errors."""

    class Ends(BaseException):
        pass

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (message := await receive())["type"] != f"lifespan.{when}":
            await send({"type": f"{message['type']}.complete"})
        raise Ends

    with pytest.raises(Ends):
        async with Client(app):
            pass
