"""asgicore.testing: servers as they are, in their scopes, in receive and in send."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from test_testing_client import Answers, body, hello, start

from asgicore import Handler, Request, Response
from asgicore.testing import (
    ANYCORN,
    DAPHNE,
    GRANIAN,
    GUNICORN,
    HYPERCORN,
    SERVERS,
    STRICT,
    UVICORN,
    Client,
    ClientResponse,
    Fault,
    Server,
)

App = Callable[[Any, Any, Any], Awaitable[None]]


async def scope_of(server: Server, **options: Any) -> dict[str, Any]:
    """The scope that an application gets."""
    async with Client(hello, server=server, **options).exchange("GET", "/", headers={"x_y": "1"}) as exchange:
        await exchange.finish()
        return exchange.scope


async def serve(app: App, server: Server, method: str = "GET", **options: Any) -> ClientResponse:
    return await Client(app, server=server).request(method, "/", **options)


# --- the scope -------------------------------------------------------------------------------------------


def test_servers_have_names_of_their_own() -> None:
    """Tests are called by them."""
    names = "strict uvicorn hypercorn hypercorn-trio anycorn granian daphne gunicorn"
    assert " ".join(map(str, SERVERS)) == names


@pytest.mark.parametrize(
    ("server", "spec", "extensions", "state", "client"),
    [
        (STRICT, "2.5", 5, True, ("127.0.0.1", 50000)),
        (UVICORN, "2.3", None, True, ("127.0.0.1", 50000)),
        (HYPERCORN, "2.1", 0, True, ("127.0.0.1", 50000)),
        (ANYCORN, "2.1", 2, True, ("127.0.0.1", 50000)),
        (GRANIAN, "2.3", 2, True, ("127.0.0.1", "50000")),
        (DAPHNE, None, None, False, ["127.0.0.1", 50000]),
        (GUNICORN, "2.4", None, True, ("127.0.0.1", 50000)),
    ],
    ids=str,
)
async def test_scope_of_server_is_its_own(
    server: Server, spec: str | None, extensions: int | None, state: bool, client: Any
) -> None:
    """Version, extensions, state and addresses are those of the server."""
    scope = await scope_of(server)
    assert scope["asgi"].get("spec_version") == spec
    assert (len(scope["extensions"]) if "extensions" in scope else None) == extensions
    assert ("state" in scope) is state
    assert scope["client"] == client
    assert any(name == b"x_y" for name, _ in scope["headers"]) is (server not in (DAPHNE, GUNICORN))


async def test_scope_of_http2_offers_more() -> None:
    """uvicorn, Hypercorn and anycorn offer trailers and hints there alone."""
    for server in (UVICORN, HYPERCORN, ANYCORN):
        scope = await scope_of(server, http_version="2")
        assert {"http.response.trailers", "http.response.early_hint"} <= scope["extensions"].keys()
    assert "extensions" not in await scope_of(DAPHNE, http_version="2")


# --- receive ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("server", "sizes"),
    [
        (UVICORN, [262144, 37856]),
        (HYPERCORN, [65536] * 4 + [37856, 0]),
        (GRANIAN, [262144, 37856, 0]),
        (DAPHNE, [8192] * 36 + [5088]),
        (replace(UVICORN, max_body_message_bytes=None), [300000]),
        (replace(UVICORN, extra_requests=2), [262144, 37856, 0, 0]),
    ],
    ids=str,
)
async def test_receive_gives_the_body_in_the_servers_messages(server: Server, sizes: list[int]) -> None:
    """Cut to its size, ended in its way, with the extra messages that it sends."""
    got: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while len(got) < len(sizes):
            got.append(await receive())
        await hello(scope, receive, send)

    await serve(app, server, "POST", content=bytes(262144 + 37856))
    assert [len(message["body"]) for message in got] == sizes
    ends = [message["more_body"] for message in got]
    assert ends[: len(sizes) - server.extra_requests] == [True] * (len(sizes) - server.extra_requests - 1) + [False]
    assert not any(ends[len(sizes) - server.extra_requests :])


async def test_receive_gives_no_second_end_to_an_empty_body() -> None:
    """There is one message then, on servers too that end a body apart."""
    got: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        got.append(await receive())
        await hello(scope, receive, send)
        got.append(await receive())

    await serve(app, HYPERCORN)
    assert got == [{"type": "http.request", "body": b"", "more_body": False}, {"type": "http.disconnect"}]


async def test_extra_messages_do_not_disturb_our_handler() -> None:
    """They are harmless."""

    async def endpoint(request: Request) -> Response:
        for _ in range(5):
            await checkpoint()
        return Response("fine")

    assert (await serve(Handler(endpoint), replace(STRICT, extra_requests=10))).body == b"fine"


@pytest.mark.parametrize("server", SERVERS, ids=str)
async def test_receive_after_the_client_left_tells_once_or_again(server: Server) -> None:
    """Some servers give the disconnect again, others wait for ever then."""
    got: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while True:
            got.append((await receive())["type"])
            await checkpoint()

    async with Client(app, server=server).exchange("GET", "/") as exchange:
        await anyio.wait_all_tasks_blocked()
        assert got == ["http.request"]
        exchange.disconnect()
        for _ in range(20):
            await checkpoint()
        assert got[1] == "http.disconnect"
        assert (len(got) > 2) is server.repeats_disconnect


@pytest.mark.parametrize("server", SERVERS, ids=str)
async def test_receive_after_the_response_tells_at_once_or_waits(server: Server) -> None:
    """All but gunicorn say that the client has left when it has its response."""
    told: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await hello(scope, receive, send)
        told.append(await receive())

    async with Client(app, server=server).exchange("GET", "/") as exchange:
        while await exchange.next_message():
            pass
        await anyio.wait_all_tasks_blocked()
        assert bool(told) is (server is not GUNICORN)
    assert told == [{"type": "http.disconnect"}]


async def test_receive_of_a_server_that_tells_nothing_waits() -> None:
    """Neither channel says that the client left; the application is cancelled in the end."""
    server = replace(UVICORN, tells_disconnect=False)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await receive()
        raise AssertionError

    async with Client(app, server=server, grace_seconds=0).exchange("GET", "/") as exchange:
        await anyio.wait_all_tasks_blocked()
    assert exchange.outcome == "cancelled"


@pytest.mark.parametrize("how", ["raise", "disconnect", "error", "wait"])
async def test_receive_that_is_cancelled_does_what_the_server_does(how: Any) -> None:
    """A listener that is stopped gets its cancellation, a disconnect, an error, or waits on until there is one."""
    got: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(start())

        async def listen() -> None:
            try:
                got.append(await receive())
            except RuntimeError as exc:
                got.append(str(exc))

        async with anyio.create_task_group() as group:
            group.start_soon(listen)
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
        await send(body(b"done"))

    async with Client(app, server=replace(UVICORN, cancelled_receive=how)).exchange("GET", "/") as exchange:
        if how != "wait":
            assert await exchange.next_part() == b"done"
    assert (
        got
        == {
            "raise": [],
            "disconnect": [{"type": "http.disconnect"}],
            "error": ["receive() was cancelled"],
            "wait": [{"type": "http.disconnect"}],
        }[how]
    )


async def test_receive_that_heeds_no_cancellation_ends_with_the_exchange() -> None:
    """Also where the server tells no disconnect: a test does not hang."""
    server = replace(UVICORN, cancelled_receive="wait", tells_disconnect=False)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await receive()

    async with Client(app, server=server, grace_seconds=0).exchange("GET", "/"):
        await anyio.wait_all_tasks_blocked()


# --- send ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("server", SERVERS, ids=str)
async def test_send_after_the_client_left_is_silent_or_raises(server: Server) -> None:
    """Only a server that is strict says so; nothing is seen of what was sent."""
    raised: list[Exception] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        try:
            await send(start())
        except OSError as exc:
            raised.append(exc)

    async with Client(app, server=server).exchange("GET", "/") as exchange:
        exchange.disconnect()
        assert (await exchange.finish()).messages == ()
    assert bool(raised) is (server is STRICT)


async def test_send_of_a_server_that_waits_does_not_return_when_the_client_left() -> None:
    """Neither the call that is under way nor the next; the application is cancelled there."""
    got: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await send(start())
            await send(body(b"a", True))
        except anyio.get_cancelled_exc_class():
            got.append("cancelled")
            raise

    server = replace(UVICORN, send_after_disconnect="wait")
    for window in (0, 1):
        async with Client(app, server=server, grace_seconds=0).exchange("GET", "/", window=window) as exchange:
            await anyio.wait_all_tasks_blocked()
            assert exchange.sends == window + 1
    assert got == ["cancelled"] * 2


ILLEGAL = {
    "a second start": ([start(), start(), body()], "came twice"),
    "a body before the start": ([body(), start(), body()], "before http.response.start"),
    "trailers amid the body": (
        [start(trailers=True), body(b"", True), {"type": "http.response.trailers", "headers": []}],
        "trailers came before the end",
    ),
    "a body after its end": (
        [start(trailers=True), body(), body()],
        "came after the end of the body",
    ),
    "hints after the start": ([start(), {"type": "http.response.early_hint", "links": []}], "came after"),
    "an unknown message": ([{"type": "http.response.nonsense"}], "no message of an HTTP response"),
}


@pytest.mark.parametrize("name", ILLEGAL)
async def test_send_of_what_is_illegal_raises_on_the_strict_server(name: str) -> None:
    """The order of messages is that of the specification."""
    messages, problem = ILLEGAL[name]
    with pytest.raises(RuntimeError, match=problem):
        await serve(Answers(*messages), STRICT)


@pytest.mark.parametrize(
    ("server", "error"),
    [(UVICORN, RuntimeError), (HYPERCORN, RuntimeError), (GRANIAN, RuntimeError), (DAPHNE, ValueError)],
)
async def test_send_of_a_second_start_raises_the_servers_error(server: Server, error: type[Exception]) -> None:
    """It is of another class on Daphne."""
    with pytest.raises(error, match="came twice"):
        await serve(Answers(start(), start()), server)


async def test_send_of_what_is_illegal_is_taken_by_gunicorn() -> None:
    """A second start and unknown messages go nowhere; the first start counts."""
    messages = [start(201), {"type": "nonsense"}, start(202), body(b"a")]
    response = await serve(Answers(*messages), GUNICORN)
    assert (response.status_code, response.body, len(response.messages)) == (201, b"a", 4)
    response = await serve(Answers(body(b"a", True), start(201), body(b"b")), GUNICORN)
    assert (response.status_code, response.body) == (201, b"ab")
    trailers = {"type": "http.response.trailers", "headers": []}
    assert (await serve(Answers(start(201), trailers, body(b"b")), GUNICORN)).body == b"b"


async def test_send_of_an_extension_that_is_not_offered_raises() -> None:
    """The scope says what a server takes."""
    with pytest.raises(RuntimeError, match=r"does not offer http\.response\.pathsend"):
        await serve(Answers(start(), {"type": "http.response.pathsend", "path": "/"}), UVICORN)


async def test_send_of_a_push_is_taken_where_it_is_offered() -> None:
    """It adds nothing to the response."""
    push = {"type": "http.response.push", "path": "/a", "headers": []}
    client = Client(Answers(push, start(), body(b"a")), server=HYPERCORN, http_version="2")
    assert (await client.get("/")).body == b"a"


async def test_send_with_trailers_that_are_not_offered_ends_with_the_body() -> None:
    """The key alone promises nothing."""
    assert (await serve(Answers(start(trailers=True), body(b"a")), UVICORN)).is_complete


@pytest.mark.parametrize("server", SERVERS, ids=str)
async def test_send_after_the_end_is_an_error_or_ignored(server: Server) -> None:
    """Daphne and gunicorn pass over it."""
    app = Answers(start(), body(b"a"), body(b"b"))
    if server.after_end is None:
        assert (await serve(app, server)).body == b"a"
    else:
        with pytest.raises(RuntimeError, match="after the response was complete"):
            await serve(app, server)


@pytest.mark.parametrize("server", SERVERS, ids=str)
@pytest.mark.parametrize(
    ("length", "parts", "cut", "problem"),
    [
        pytest.param(b"3", [b"ab", b"cd"], b"abc", "longer", id="longer"),
        pytest.param(b"5", [b"ab", b"cd"], b"abcd", "shorter", id="shorter"),
        pytest.param(b"4", [b"ab", b"cd"], b"abcd", None, id="as declared"),
    ],
)
async def test_send_of_a_body_of_wrong_length_does_what_the_server_does(
    server: Server, length: bytes, parts: list[bytes], cut: bytes, problem: str | None
) -> None:
    """An error, the bytes as they are, or as many as were declared."""
    app = Answers(start(200, (b"content-length", length)), body(parts[0], True), body(parts[1]))
    if problem and server.wrong_length == "error":
        with pytest.raises(RuntimeError, match=f"{problem} than its content-length"):
            await serve(app, server)
    else:
        assert (await serve(app, server)).body == (b"abcd" if server.wrong_length == "send" else cut)


@pytest.mark.parametrize("server", SERVERS, ids=str)
async def test_send_of_a_start_without_headers_is_an_error_on_granian(server: Server) -> None:
    """The specification has them optional."""
    app = Answers({"type": "http.response.start", "status": 200}, body(b"a"))
    if server is GRANIAN:
        with pytest.raises(RuntimeError, match="without headers"):
            await serve(app, server)
    else:
        assert (await serve(app, server)).raw_headers == []


@pytest.mark.parametrize("server", SERVERS, ids=str)
async def test_send_of_a_memoryview_is_an_error_on_daphne(server: Server) -> None:
    """The others take whatever has bytes."""
    app = Answers(start(), {"type": "http.response.body", "body": memoryview(b"a")})
    if server is DAPHNE:
        with pytest.raises(TypeError, match="body is bytes, not memoryview"):
            await serve(app, server)
    else:
        assert (await serve(app, server)).body == b"a"


@pytest.mark.parametrize("server", SERVERS, ids=str)
async def test_start_is_seen_at_once_or_with_the_first_part(server: Server) -> None:
    """A start that waits for its body is not seen by clients of Granian, Daphne and gunicorn."""
    gate = anyio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await gate.wait()
        await send(body(b"a"))

    async with Client(app, server=server).exchange("GET", "/") as exchange:
        if server.holds_start:
            with anyio.move_on_after(0.02) as scope:
                await exchange.start()
            assert scope.cancelled_caught
        else:
            await exchange.start()
        gate.set()
        assert (await exchange.start()).status_code == 200
        assert (await exchange.finish()).body == b"a"


@pytest.mark.parametrize("server", SERVERS, ids=str)
async def test_send_to_a_client_that_does_not_read_waits_at_the_servers_window(server: Server) -> None:
    """Daphne alone takes everything."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        for _ in range(50):
            await send(body(bytes(2**17), True))
        await send(body())

    async with Client(app, server=server).exchange("GET", "/") as exchange:
        await anyio.wait_all_tasks_blocked()
        assert exchange.is_complete is (server.window_bytes is None)
        if server.window_bytes is not None:
            assert exchange.is_sending
            assert exchange.sends - 1 == server.window_bytes // 2**17 + 1
        assert len((await exchange.finish()).body) == 50 * 2**17


async def test_server_that_suspends_gives_up_the_loop_in_each_call() -> None:
    """Three calls are three awaits, at each of which the application can be cancelled."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await hello(scope, receive, send)

    for at in (1, 2, 3, 4):
        quick, slow = Fault("cancel", at), Fault("cancel", at)
        await serve(app, UVICORN, fault=quick)
        await serve(app, replace(UVICORN, suspends=True), fault=slow)
        assert not quick.happened
        assert slow.happened is (at <= 3)
