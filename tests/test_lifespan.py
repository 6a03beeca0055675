"""_lifespan.py: startup and shutdown are answered whatever fails in them, and websockets are refused."""

from __future__ import annotations

import functools
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
import pytest
from clocks import turn_time

from asgicore import ServerProtocolError
from asgicore._lifespan import bind_lifespan, refuse_websocket, run_lifespan
from asgicore.testing import Channel, Message

STARTUP = {"type": "lifespan.startup"}
SHUTDOWN = {"type": "lifespan.shutdown"}
CONNECT = {"type": "websocket.connect"}

STARTED = {"type": "lifespan.startup.complete"}
STOPPED = {"type": "lifespan.shutdown.complete"}


def serving(*items: Any, refuses: int | None = None) -> Channel:
    """A server that gives these messages, then waits for ever; an exception is raised."""

    async def on_receive(index: int) -> None:
        if index < len(items) and isinstance(items[index], BaseException):
            raise items[index]

    async def on_send(index: int, message: Message) -> None:
        if index == refuses:
            raise OSError("gone")

    return Channel(items, on_receive=on_receive, on_send=on_send)


class Life:
    """A lifespan that fails where it is told to, and records what it went through."""

    def __init__(self, fails: str = "", state: Any = None) -> None:
        self.fails = fails
        self.state = state
        self.steps: list[str] = []
        self.error = LookupError("no database\r\nat all")

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[Any]:
        self.steps.append("startup")
        if self.fails == "startup":
            raise self.error
        try:
            yield self.state
        except BaseException as exc:
            self.steps.append(type(exc).__name__)
            raise
        else:
            self.steps.append("shutdown")
            if self.fails == "shutdown":
                raise self.error


async def run(life: Any, server: Channel, **scope: Any) -> None:
    ended = []

    async def end() -> None:
        ended.append(len(server.sent))

    with anyio.fail_after(5):
        try:
            await run_lifespan(life, {"type": "lifespan", **scope}, server.receive, server.send, end)
        finally:
            # Once, before the server is told that all is over, which it may take for the last word.
            over = [m for m in server.sent if m["type"] not in ("lifespan.startup.complete",)]
            assert ended == ([len(server.sent) - 1] if over else [])


# --- binding -----------------------------------------------------------------------------------------


@asynccontextmanager
async def with_nothing() -> AsyncIterator[Mapping[str, Any]]:
    yield {"given": None}


@asynccontextmanager
async def with_handler(handler: object) -> AsyncIterator[Mapping[str, Any]]:
    yield {"given": handler}


@asynccontextmanager
async def with_default(handler: object = None) -> AsyncIterator[Mapping[str, Any]]:
    yield {"given": handler}


@asynccontextmanager
async def with_anything(*args: Any, **kwargs: Any) -> AsyncIterator[Mapping[str, Any]]:
    yield {"given": args[0]}


@asynccontextmanager
async def with_two(name: str, handler: object) -> AsyncIterator[Mapping[str, Any]]:
    yield {"given": handler, "name": name}


class Managed:
    """A class-based context manager, and one with methods to bind."""

    def __init__(self, handler: object) -> None:
        self.handler = handler

    async def __aenter__(self) -> Mapping[str, Any]:
        return {"given": self.handler}

    async def __aexit__(self, *exc: object) -> None:
        pass


class Methods:
    @asynccontextmanager
    async def method(self, handler: object) -> AsyncIterator[Mapping[str, Any]]:
        yield {"given": handler}

    @asynccontextmanager
    async def bare(self) -> AsyncIterator[Mapping[str, Any]]:
        yield {"given": None}


HANDLER = object()


@pytest.mark.parametrize(
    ("lifespan", "given"),
    [
        pytest.param(with_nothing, None, id="no argument"),
        pytest.param(with_handler, HANDLER, id="one argument"),
        pytest.param(with_default, HANDLER, id="an optional argument"),
        pytest.param(with_anything, HANDLER, id="any arguments"),
        pytest.param(functools.partial(with_two, "x"), HANDLER, id="partial"),
        pytest.param(functools.partial(with_two, "x", None), None, id="partial with all"),
        pytest.param(Managed, HANDLER, id="class"),
        pytest.param(Methods().method, HANDLER, id="bound method"),
        pytest.param(Methods().bare, None, id="bound method without argument"),
    ],
)
async def test_bind_gives_the_handler_to_a_function_that_takes_it(
    lifespan: Callable[..., AbstractAsyncContextManager[Mapping[str, Any]]], given: object
) -> None:
    """Called with the handler or with nothing, decided from the signature."""
    async with bind_lifespan(lifespan, HANDLER)() as state:
        assert state is not None
        assert state["given"] is given


@pytest.mark.parametrize("lifespan", [with_two, lambda *, handler: None, lambda a, b, c: None])
def test_bind_of_a_function_with_other_arguments_raises(lifespan: Any) -> None:
    """Told at construction, not at startup."""
    with pytest.raises(TypeError, match="called with the handler or with nothing"):
        bind_lifespan(lifespan, HANDLER)


@pytest.mark.parametrize("lifespan", [5, "name", None, object()])
def test_bind_of_what_cannot_be_called_raises(lifespan: Any) -> None:
    """What is no function at all is named."""
    with pytest.raises(TypeError, match="takes an async context manager function"):
        bind_lifespan(lifespan, HANDLER)


# --- startup and shutdown ----------------------------------------------------------------------------


@pytest.mark.parametrize("life", [None, "life"])
async def test_lifespan_is_answered_from_startup_to_shutdown(
    life: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """With and without a function of its own; nothing is logged."""
    server = serving(STARTUP, SHUTDOWN)
    function = Life() if life else None
    await run(function, server)
    assert server.sent == [STARTED, STOPPED]
    assert function is None or function.steps == ["startup", "shutdown"]
    assert caplog.records == []


@pytest.mark.parametrize("state", [{"pool": 1}, {}, None])
async def test_lifespan_state_goes_into_the_server_s(state: Any) -> None:
    """What is yielded is there before startup is complete, beside what the server has put there."""
    shared: dict[str, Any] = {"server": True}
    seen: list[dict[str, Any]] = []

    async def on_send(index: int, message: Message) -> None:
        seen.append(dict(shared))

    server = Channel([STARTUP, SHUTDOWN], on_send=on_send)
    await run(Life(state=state), server, state=shared)
    assert shared == {"server": True, **(state or {})}
    assert seen[0] == shared


@pytest.mark.parametrize("scope", [{}, {"state": None}, {"state": ()}])
async def test_lifespan_state_without_support_of_the_server_is_dropped(scope: dict[str, Any]) -> None:
    """A server that keeps no state is no failure."""
    server = serving(STARTUP, SHUTDOWN)
    await run(Life(state={"pool": 1}), server, **scope)
    assert server.sent == [STARTED, STOPPED]


@pytest.mark.parametrize("state", [5, "text", [("pool", 1)]])
async def test_lifespan_that_yields_no_mapping_fails_at_startup(state: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The mistake is reported to the server, which then does not start."""
    server = serving(STARTUP, SHUTDOWN)
    await run(Life(state=state), server, state={})
    assert [message["type"] for message in server.sent] == ["lifespan.startup.failed"]
    assert f"mapping or None, not {type(state).__name__}" in server.sent[0]["message"]
    assert len(caplog.records) == 1


@pytest.mark.parametrize("phase", ["startup", "shutdown"])
async def test_lifespan_that_fails_says_so_and_is_logged_once(phase: str, caplog: pytest.LogCaptureFixture) -> None:
    """The server gets the message, the log the traceback, and nothing is raised: servers read that as no support."""
    server = serving(STARTUP, SHUTDOWN)
    life = Life(phase)
    await run(life, server)
    before = [] if phase == "startup" else [STARTED]
    failed = {"type": f"lifespan.{phase}.failed", "message": "LookupError: no database\r\nat all"}
    assert server.sent == [*before, failed]
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.ERROR, f"the application's {phase} failed")
    ]
    assert caplog.records[0].exc_info is not None
    assert caplog.records[0].exc_info[1] is life.error


@pytest.mark.parametrize("message", [SHUTDOWN, {"type": "http.request"}, {}])
@pytest.mark.parametrize("life", [None, "life"])
async def test_lifespan_with_a_wrong_first_message_raises(message: Any, life: str | None) -> None:
    """The server's fault; nothing is sent and nothing is started."""
    server = serving(message)
    function = Life() if life else None
    with pytest.raises(ServerProtocolError, match=r"where lifespan\.startup must come"):
        await run(function, server)
    assert server.sent == []
    assert function is None or function.steps == []


@pytest.mark.parametrize("message", [STARTUP, {"type": "http.disconnect"}, {}])
@pytest.mark.parametrize("life", [None, "life"])
async def test_lifespan_with_a_wrong_second_message_raises(
    message: Any, life: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """It is not taken for a shutdown, nor for a failure of the application."""
    server = serving(STARTUP, message)
    function = Life() if life else None
    with pytest.raises(ServerProtocolError, match=r"where lifespan\.shutdown must come"):
        await run(function, server)
    assert server.sent == [STARTED]
    assert function is None or function.steps == ["startup", "ServerProtocolError"]
    assert caplog.records == []


async def test_lifespan_whose_receive_fails_raises_that() -> None:
    """An error of the server while the application waits is the server's."""
    error = OSError("gone")
    life = Life()
    server = serving(STARTUP, error)
    with pytest.raises(OSError, match="gone") as caught:
        await run(life, server)
    assert caught.value is error
    assert life.steps == ["startup", "OSError"]
    assert server.sent == [STARTED]


@turn_time
@pytest.mark.parametrize("life", [None, "life"])
async def test_lifespan_cancelled_while_it_waits_is_cancelled_and_cleaned_up(
    life: str | None, anyio_backend: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A server that gives the application up cancels it: the context manager is left, and nothing is sent."""
    server = serving(STARTUP)
    function = Life() if life else None
    with anyio.fail_after(5):
        with anyio.move_on_after(0.02) as scope:
            await run(function, server)
    assert scope.cancelled_caught
    assert server.sent == [STARTED]
    if function is not None:
        assert function.steps == ["startup", "Cancelled" if anyio_backend[0] == "trio" else "CancelledError"]
    assert caplog.records == []


async def test_lifespan_runs_startup_and_shutdown_in_one_task() -> None:
    """Scopes, task groups and context variables that are opened at startup can be closed at shutdown."""
    server = serving(STARTUP, SHUTDOWN)
    ended = anyio.Event()

    @asynccontextmanager
    async def life() -> AsyncIterator[None]:
        async with anyio.create_task_group() as group:
            group.start_soon(ended.wait)
            yield
            ended.set()

    await run(life, server)
    assert server.sent == [STARTED, STOPPED]


# --- websockets --------------------------------------------------------------------------------------


async def refuse(server: Channel, **scope: Any) -> None:
    with anyio.fail_after(5):
        await refuse_websocket({"type": "websocket", **scope}, server.receive, server.send)


@pytest.mark.parametrize("scope", [{}, {"extensions": None}, {"extensions": {}}, {"extensions": {"other": {}}}])
async def test_websocket_without_the_extension_is_closed(scope: dict[str, Any]) -> None:
    """Closed before it is accepted, which servers turn into a 403."""
    server = serving(CONNECT)
    await refuse(server, **scope)
    assert server.sent == [{"type": "websocket.close", "code": 1000, "reason": ""}]


async def test_websocket_with_the_extension_is_answered_with_403() -> None:
    """The denial response: a start and one empty end."""
    server = serving(CONNECT)
    await refuse(server, extensions={"websocket.http.response": {}})
    assert server.sent == [
        {"type": "websocket.http.response.start", "status": 403, "headers": [(b"content-length", b"0")]},
        {"type": "websocket.http.response.body", "body": b"", "more_body": False},
    ]


@pytest.mark.parametrize("item", [{"type": "websocket.disconnect", "code": 1006}, {}, OSError("gone")], ids=repr)
async def test_websocket_whose_client_left_first_is_not_answered(item: Any) -> None:
    """Nothing is sent, and nothing is raised."""
    server = serving(item)
    await refuse(server)
    assert server.sent == []


@pytest.mark.parametrize("refuses", [0, 1])
async def test_websocket_whose_client_leaves_meanwhile_is_no_error(
    refuses: int, caplog: pytest.LogCaptureFixture
) -> None:
    """An OSError of ``send`` is the client's leaving: quiet at every level that is on by default."""
    server = serving(CONNECT, refuses=refuses)
    with caplog.at_level(logging.DEBUG, "asgicore"):
        await refuse(server, extensions={"websocket.http.response": {}})
    assert len(server.sent) == refuses
    assert [record.levelno for record in caplog.records] == [logging.DEBUG]


async def test_run_lifespan_that_ends_before_the_shutdown_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A server may take what is raised for an application without lifespan, and say nothing."""
    error = ValueError("the worker crashed")

    @asynccontextmanager
    async def dying() -> AsyncIterator[None]:
        async def worker() -> None:
            await anyio.lowlevel.checkpoint()
            raise error

        async with anyio.create_task_group() as group:
            group.start_soon(worker)
            yield

    server = serving({"type": "lifespan.startup"})
    with pytest.raises(ExceptionGroup):
        await run(dying, server)
    (record,) = caplog.records
    assert "ended before the shutdown" in record.message
    assert record.exc_info is not None
