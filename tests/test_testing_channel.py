"""asgicore.testing.Channel, call, http_scope and check_messages: nothing between the test and the messages."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from asgicore.testing import (
    DAPHNE,
    DISCONNECT,
    EMPTY,
    Channel,
    LintError,
    LintWarning,
    Message,
    body_messages,
    call,
    check_messages,
    http_scope,
)

START: Message = {"type": "http.response.start", "status": 201, "headers": [(b"x-a", b"1")]}
TRAILERS = "http.response.trailers"


def part(data: bytes, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Sends back each part of the body as it comes."""
    await send(START)
    more = True
    while more:
        message = await receive()
        more = message["more_body"]
        await send(part(message["body"], more))


# --- what is received ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ((), [EMPTY]),
        ((b"a",), [{"type": "http.request", "body": b"a", "more_body": False}]),
        (
            (b"a", b""),
            [
                {"type": "http.request", "body": b"a", "more_body": True},
                {"type": "http.request", "body": b"", "more_body": False},
            ],
        ),
    ],
)
def test_body_messages_are_one_for_each_part(parts: tuple[bytes, ...], expected: list[Message]) -> None:
    """The last one ends the body; without parts there is the message of an empty one."""
    assert body_messages(*parts) == expected


async def test_channel_gives_its_messages_in_order_and_counts_them() -> None:
    """The same objects, taken from the iterable one by one."""
    taken: list[Message] = []

    def messages() -> Iterator[Message]:
        for message in body_messages(b"a", b"b"):
            taken.append(message)
            yield message

    channel = Channel(messages())
    for number in (1, 2):
        assert await channel.receive() is taken[-1]
        assert channel.received == len(taken) == number
    assert not channel.told.is_set()


async def test_channel_tells_on_receive_before_it_has_a_message() -> None:
    """With its index, that of the disconnect too; what on_receive raises is raised, and no message is lost."""
    seen: list[tuple[int, int]] = []
    fails = [False, True, False, False]

    async def on_receive(index: int) -> None:
        seen.append((index, len(taken)))
        if fails.pop(0):
            raise OSError("late")

    def messages() -> Iterator[Message]:
        for message in body_messages(b"a", b"b"):
            taken.append(message)
            yield message

    taken: list[Message] = []
    channel = Channel(messages(), on_receive=on_receive)
    assert (await channel.receive())["body"] == b"a"
    with pytest.raises(OSError, match="late"):
        await channel.receive()
    assert (await channel.receive())["body"] == b"b"
    channel.disconnect()
    assert await channel.receive() == DISCONNECT
    assert seen == [(0, 0), (1, 1), (1, 1), (2, 2)]


@pytest.mark.parametrize("how", ["raise", "disconnect"])
async def test_channel_cancelled_in_on_receive_does_as_it_was_told(how: Any) -> None:
    """It is a part of receive."""
    given: list[Message] = []

    async def on_receive(index: int) -> None:
        await anyio.sleep_forever()

    channel = Channel(on_receive=on_receive, when_cancelled=how)
    with anyio.CancelScope() as scope:
        scope.cancel()
        given.append(await channel.receive())
    assert given == ([] if how == "raise" else [DISCONNECT])
    assert channel.received == 0


async def test_channel_gives_disconnect_when_the_response_is_complete() -> None:
    """It waits till then, and gives it again and again."""
    channel = Channel()
    assert await channel.receive() is EMPTY
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:

            async def listen() -> None:
                assert await channel.receive() == DISCONNECT

            group.start_soon(listen)
            await channel.send(START)
            await channel.send(part(b"a", True))
            await anyio.wait_all_tasks_blocked()
            assert not channel.told.is_set()
            await channel.send(part(b""))
        assert channel.told.is_set()
        assert await channel.receive() == DISCONNECT
    assert not channel.has_left
    assert channel.received == 1


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ({"status": 200}, {"type": "http.response.pathsend", "path": "/a"}),
        ({"status": 200}, {"type": "http.response.zerocopysend", "file": 1}),
        ({"status": 200, "trailers": True}, {"type": TRAILERS, "headers": []}),
    ],
    ids=["path", "file", "trailers"],
)
async def test_channel_knows_every_end_of_a_response(start: Message, end: Message) -> None:
    """A file, and the last trailers where they were announced."""
    channel = Channel(())
    await channel.send({"type": "http.response.start", **start})
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(channel.receive)
            if end["type"] == TRAILERS:
                await channel.send(part(b"a"))
                await channel.send({**end, "more_trailers": True})
                await anyio.wait_all_tasks_blocked()
                assert not channel.told.is_set()
            await channel.send(end)
    assert channel.told.is_set()


async def test_channel_with_two_readers_at_once_raises_to_the_second() -> None:
    """Parts of a body have one order."""
    channel = Channel(())
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(channel.receive)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(AssertionError, match="while another call of it waits"):
                await channel.receive()
            channel.disconnect()


# --- clients that leave ----------------------------------------------------------------------------------


@pytest.mark.parametrize("tells", ["event", "raise", "both", "nothing"])
async def test_channel_whose_client_left_tells_as_it_was_told(tells: Any) -> None:
    """By receive, by send, by both or not at all."""
    channel = Channel((), tells=tells)
    channel.disconnect()
    assert channel.has_left
    with anyio.move_on_after(5 if tells in ("event", "both") else 0):
        await channel.receive()
    assert channel.told.is_set() is (tells in ("event", "both"))
    if tells in ("raise", "both"):
        with pytest.raises(ConnectionResetError, match="the client has left"):
            await channel.send(START)
        assert channel.sent == []
    else:
        await channel.send(START)
        assert channel.sent == [START]
    assert channel.sends == 1


@pytest.mark.parametrize("how", ["raise", "disconnect", "error", "wait"])
async def test_channel_whose_receive_is_cancelled_does_as_it_was_told(how: Any) -> None:
    """As cancelled_receive of a server."""
    channel = Channel((), when_cancelled=how)
    happened: list[Any] = []

    async def listen() -> None:
        try:
            happened.append(await channel.receive())
        except RuntimeError as exc:
            happened.append(str(exc))

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(listen)
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await anyio.wait_all_tasks_blocked()
                assert (happened == []) is (how in ("raise", "wait"))
                channel.disconnect()
    assert happened == {"raise": [], "error": ["receive() was cancelled"]}.get(how, [DISCONNECT])
    assert channel.told.is_set() is (how in ("disconnect", "wait"))


def test_channel_whose_receive_is_thrown_away_where_no_loop_runs_says_nothing() -> None:
    """As a server that is gone: what waits in it is closed, and nothing else is raised."""

    async def begin() -> Any:
        waiting: Any = Channel(()).receive()
        waiting.send(None)
        return waiting

    loop = asyncio.new_event_loop()
    try:
        waiting = loop.run_until_complete(begin())
    finally:
        loop.close()
    waiting.close()


# --- what is sent ----------------------------------------------------------------------------------------


async def test_channel_keeps_what_is_sent_in_the_same_objects() -> None:
    """Legal or not, before and after the end."""
    messages: list[Message] = [part(b"early"), START, START, part(b""), part(b"late")]
    channel = Channel()
    for message in messages:
        await channel.send(message)
    assert [id(message) for message in channel.sent] == [id(message) for message in messages]


async def test_channel_tells_on_send_before_it_keeps_a_message() -> None:
    """With its index; what on_send raises is raised, and the message is not kept."""
    seen: list[tuple[int, int]] = []

    async def on_send(index: int, message: Message) -> None:
        seen.append((index, len(channel.sent)))
        if message["type"] == "http.response.body":
            raise OSError("full")

    channel = Channel(on_send=on_send)
    await channel.send(START)
    with pytest.raises(OSError, match="full"):
        await channel.send(part(b"a"))
    assert seen == [(0, 0), (1, 1)]
    assert (channel.sent, channel.sends) == ([START], 2)


@pytest.mark.parametrize("suspends", [False, True])
async def test_channel_gives_up_the_loop_where_it_was_told_to(suspends: bool) -> None:
    """In each call, once; else in none that has nothing to wait for."""
    channel = Channel(suspends=suspends)
    for call_ in (channel.receive, lambda: channel.send(START)):
        with anyio.CancelScope() as scope:
            scope.cancel()
            await call_()
        assert scope.cancelled_caught is suspends


async def test_channel_reads_the_response_from_its_messages() -> None:
    """Status and header fields of the start, whatever comes before it; the parts of the body together."""
    channel = Channel()
    await channel.send({"type": "http.response.early_hint", "links": [b"a"]})
    with pytest.raises(AssertionError, match="no response was started"):
        _ = channel.status
    await channel.send(START)
    for message in (part(b"a", True), {"type": "http.response.body", "more_body": True}, part(b"b")):
        await channel.send(message)
    assert (channel.status, channel.headers, channel.body) == (201, [(b"x-a", b"1")], b"ab")


async def test_channel_of_a_start_without_headers_has_none() -> None:
    """They may be left out."""
    channel = Channel()
    await channel.send({"type": "http.response.start", "status": 200})
    assert channel.headers == []


# --- calls -----------------------------------------------------------------------------------------------


async def test_call_makes_one_request_and_returns_its_channel() -> None:
    """With the messages and the changes to the scope that it is given."""
    scopes: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)
        await echo(scope, receive, send)

    channel = await call(app, body_messages(b"a", b"b"), method="POST", path="/x")
    assert (channel.status, channel.body, len(channel.sent)) == (201, b"ab", 3)
    assert scopes == [http_scope(method="POST", path="/x")]
    assert (await call(echo)).body == b""


async def test_call_of_what_does_not_return_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for ever."""
    monkeypatch.setattr("asgicore.testing._channel._CALL_SECONDS", 0)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await anyio.sleep_forever()

    with pytest.raises(TimeoutError):
        await call(app)


# --- scopes ----------------------------------------------------------------------------------------------


def test_scope_of_a_target_is_what_servers_make_of_it() -> None:
    """Decoded path, raw path and query; with the fields that the client sends."""
    scope = http_scope("POST", "/caf%C3%A9?a=1")
    assert scope == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/café",
        "raw_path": b"/caf%C3%A9",
        "query_string": b"a=1",
        "root_path": "",
        "headers": [(b"host", b"testserver"), (b"user-agent", b"asgicore.testing")],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 80),
        "state": {},
    }
    assert scope["headers"] is not http_scope()["headers"]


def test_scope_takes_keys_as_they_are_and_leaves_out_others() -> None:
    """Also those that are called like arguments; ``...`` takes a key out."""
    changed = http_scope(method="get", server=None, client=..., headers=3, extensions={"tls": {}})
    assert changed == {
        **{key: value for key, value in http_scope().items() if key != "client"},
        "method": "get",
        "server": None,
        "headers": 3,
        "extensions": {"tls": {}},
    }


@pytest.mark.parametrize(
    ("path", "raw_path"), [("/a b%", b"/a%20b%25"), ("/é", b"/%C3%A9"), ("/\udcff", b"/%ED%B3%BF"), ("*", b"*")]
)
def test_scope_with_another_path_has_its_raw_path_too(path: str, raw_path: bytes) -> None:
    """One without the other would be a scope that no server makes; unless it is wanted."""
    assert http_scope(path=path)["raw_path"] == raw_path
    assert http_scope(path=path, raw_path=b"/other")["raw_path"] == b"/other"
    assert "raw_path" not in http_scope(path=path, raw_path=...)
    assert http_scope(path=...)["raw_path"] == b"/"


def test_scope_like_that_of_another_server_differs_as_the_server_does() -> None:
    """The third argument is a server."""
    scope = http_scope("GET", "/", DAPHNE)
    assert scope["asgi"] == {"version": "3.0"}
    assert scope["client"] == ["127.0.0.1", 50000]
    assert "state" not in scope


def test_scope_of_a_target_that_is_no_path_is_an_error() -> None:
    """Other targets are set by their keys."""
    with pytest.raises(ValueError, match="a path begins with '/'"):
        http_scope("GET", "a")


# --- check_messages --------------------------------------------------------------------------------------

END = part(b"")


@pytest.mark.parametrize(
    ("messages", "options"),
    [
        ([], {}),
        ([], {"complete": False}),
        ([START], {}),
        ([START], {"complete": False}),
        ([START, part(b"a", True)], {"complete": False}),
        ([START, END], {}),
        ([START, END], {"complete": True}),
        ([START, END], {"complete": True, "method": "HEAD"}),
        (
            [{**START, "trailers": True}, END, {"type": TRAILERS, "headers": []}],
            {"extensions": [TRAILERS], "complete": True},
        ),
        ([{**START, "trailers": True}, END], {"extensions": [TRAILERS], "complete": False}),
        (iter([START, END]), {"complete": True}),
    ],
)
def test_messages_that_are_allowed_pass(messages: Any, options: Any) -> None:
    """A whole response, or the beginning of one."""
    check_messages(messages, **options)


@pytest.mark.parametrize(
    ("messages", "options", "rule"),
    [
        ([END], {}, "before-start"),
        ([START, END, END], {}, "after-end"),
        ([None], {}, "message-type"),
        ([START, part(b"a")], {"method": "HEAD"}, "body-forbidden"),
        ([{**START, "trailers": True}, END], {}, "extension-not-offered"),
        ([], {"complete": True}, "no-response"),
        ([START], {"complete": True}, "unfinished"),
        ([{**START, "trailers": True}, END], {"extensions": [TRAILERS], "complete": True}, "unfinished"),
    ],
)
def test_messages_that_are_not_allowed_raise_what_the_lint_raises(messages: Any, options: Any, rule: str) -> None:
    """With the rule that is broken."""
    with pytest.raises(LintError) as caught:
        check_messages(messages, **options)
    assert caught.value.finding.rule == rule


def test_messages_that_are_not_recommended_are_warned_of() -> None:
    """As under the lint."""
    with pytest.warns(LintWarning, match="key-unknown"):
        check_messages([START, {**END, "more_bdy": True}], complete=True)


def test_messages_of_a_response_that_was_to_be_cut_short_and_is_not_raise() -> None:
    """They are legal, so it is not the lint that complains."""
    with pytest.raises(AssertionError, match="the response is complete"):
        check_messages([START, END], complete=False)
