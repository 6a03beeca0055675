"""The messages sent are legal, whatever the endpoint, the channels and the moment of a fault.

Source: ASGI HTTP specification 2.5; ``check_messages`` reads it independently of the package.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from faults import Steps, interim_passes, on_asyncio, turn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asgicore import (
    AsgicoreError,
    Handler,
    HTTPError,
    Limits,
    Request,
    Response,
    ServerProtocolError,
    StreamingResponse,
    UsageError,
)
from asgicore.testing import DISCONNECT, Channel, Message, body_messages, check_messages, http_scope
from asgicore.testing._living import descriptors as open_files
from asgicore.testing._living import tasks as living_tasks


class Injected(Exception):
    """An error that a test puts somewhere."""


@pytest.fixture(autouse=True)
def _silent(caplog: pytest.LogCaptureFixture) -> None:
    """Most requests here fail on purpose; their tracebacks would take most of the time."""
    caplog.set_level(logging.CRITICAL, "asgicore")


# --- a server that is faulty by plan ---------------------------------------------------------------------


class Faulty(Channel):
    """A server that suspends, fails and speaks nonsense at given calls, and asserts the rules of their use.

    Args:
        messages: What it gives, until the client leaves.
        suspend: Numbers of the calls, of either channel, that give up the loop.
        fail_send: The number of a call that raises, as each one after it does, and what.
        fail_receive: The same.
        deaf: Whether no disconnect follows the messages.
    """

    def __init__(
        self,
        messages: list[Any],
        *,
        suspend: frozenset[int] = frozenset(),
        fail_send: tuple[int, Exception] | None = None,
        fail_receive: tuple[int, Exception] | None = None,
        deaf: bool = False,
    ) -> None:
        super().__init__(self._until_it_leaves(messages), on_receive=self._before_receive, on_send=self._before_send)
        self._count = len(messages)
        self._suspend = suspend
        self._fail_send = fail_send
        self._fail_receive = fail_receive
        self._deaf = deaf
        self._receives = 0
        self._sending = False
        self.failed = False
        """Whether ``send`` has failed."""
        self.is_told = False
        """Whether ``receive`` has told, or tells when it is called, that the client is gone."""

    def _until_it_leaves(self, messages: list[Any]) -> Iterator[Any]:
        for message in messages:
            if self.has_left:
                return
            self.is_told = self.is_told or message == DISCONNECT
            yield message
        if self.is_told:
            self.disconnect()

    async def _before_receive(self, index: int) -> None:
        number = self._receives
        self._receives += 1
        if number + self.sends in self._suspend:
            await checkpoint()
        if self._fail_receive is not None and self._fail_receive[0] <= number:
            self.is_told = True
            raise self._fail_receive[1]
        if self._deaf and (self.has_left or index == self._count):
            await anyio.sleep_forever()

    async def _before_send(self, index: int, message: Message) -> None:
        assert not self._sending, "two callers of send()"
        assert not self.failed, "send() was called after it had failed"
        self._sending = True
        try:
            number = self.sends - 1
            if number + self._receives in self._suspend:
                await checkpoint()
            if self._fail_send is not None and self._fail_send[0] <= number:
                self.failed = True
                raise self._fail_send[1]
        finally:
            self._sending = False

    def leave(self) -> None:
        """The client leaves now: what it has not sent yet never comes."""
        self.is_told = True
        self.disconnect()


# --- an endpoint that does as planned --------------------------------------------------------------------


@dataclass
class Plan:
    """What an endpoint does, step by step."""

    reads: str = "nothing"
    waits: int = 0
    fails: tuple[str, Exception] | None = None
    """Where the endpoint raises, and what: "first", "read", "last", or "part N" of a stream."""
    status: int = 200
    headers: list[tuple[str, str]] = field(default_factory=list)
    content: Any = b""
    """bytes or str, or a list of the parts of a stream, or what is no content at all."""
    declared: int | None = None
    part_waits: int = 0
    background: str = "none"
    opened: int = 0
    closed: int = 0
    worked: int = 0

    def fail_at(self, place: str) -> None:
        if self.fails is not None and self.fails[0] == place:
            raise self.fails[1]

    async def __call__(self, request: Request) -> Any:
        self.fail_at("first")
        if self.reads == "stream":
            async for _ in request.stream():
                await turn(self.waits)
        elif self.reads == "some":
            async for _ in request.stream():
                break
        elif self.reads != "nothing":
            await getattr(request, self.reads)()
        self.fail_at("read")
        await turn(self.waits)
        headers = list(self.headers)
        if self.declared is not None:
            headers.append(("content-length", str(self.declared)))
        background = None if self.background == "none" else self.work
        response: Any
        if isinstance(self.content, list):
            response = StreamingResponse(self.parts(), self.status, headers, background=background)
        elif isinstance(self.content, (bytes, str)):
            response = Response(self.content, self.status, headers, background=background)
        else:
            response = self.content
        self.fail_at("last")
        return response

    async def parts(self) -> AsyncIterator[Any]:
        self.opened += 1
        try:
            for number, part in enumerate(self.content):
                self.fail_at(f"part {number}")
                await turn(self.part_waits)
                yield part
        finally:
            self.closed += 1

    async def work(self) -> None:
        self.worked += 1
        await turn(self.waits)
        if self.background == "raises":
            raise Injected("background")


# --- the property ----------------------------------------------------------------------------------------

small_bytes = st.binary(max_size=9)
texts = st.text(st.characters(), max_size=6)
errors: st.SearchStrategy[Exception] = st.one_of(
    st.just(Injected("endpoint")),
    st.builds(HTTPError, st.integers(300, 599), st.none() | texts),
    st.just(OSError("a file of the endpoint's")),
    st.just(ExceptionGroup("group", [Injected("child")])),
)
header_names = st.sampled_from(
    ["x-a", "X-A", "set-cookie", "Content-Type", "vary", "content-length", "transfer-encoding", "connection"]
) | st.text(max_size=5)
header_values = st.sampled_from(["1", "a=b; Path=/", "a\r\nb: c", "\0", "", "é", "☃", " x ", "0", "-1"]) | texts
stream_parts = st.lists(
    st.one_of(small_bytes, texts, small_bytes.map(bytearray), st.sampled_from([1, None, ["x"]])), max_size=5
)
plans = st.builds(
    Plan,
    reads=st.sampled_from(["nothing", "body", "stream", "some", "file", "json"]),
    waits=st.integers(0, 2),
    fails=st.none() | st.tuples(st.sampled_from(["first", "read", "last", "part 0", "part 1", "part 3"]), errors),
    status=st.integers(100, 599) | st.sampled_from([200, 204, 304, 100]),
    # Repeats go out as the endpoint gives them; of this field they are its own mistake, and the lint says so.
    headers=st.lists(st.tuples(header_names, header_values), max_size=2).filter(
        lambda fields: [name for name, _ in fields].count("Content-Type") < 2
    ),
    content=st.one_of(small_bytes, texts, stream_parts, stream_parts, st.sampled_from([None, 1, Response])),
    declared=st.none() | st.integers(0, 12),
    part_waits=st.integers(0, 1),
    background=st.sampled_from(["none", "works", "raises"]),
)
good_messages = st.lists(small_bytes, max_size=4).map(lambda parts: body_messages(*parts))
odd_messages: st.SearchStrategy[list[Any]] = st.lists(
    st.one_of(
        st.fixed_dictionaries(
            {"type": st.just("http.request")},
            optional={
                "body": st.one_of(small_bytes, st.none(), small_bytes.map(bytearray), st.just("text")),
                "more_body": st.one_of(st.booleans(), st.none(), st.just(1)),
            },
        ),
        st.just(DISCONNECT),
        st.sampled_from([{}, {"type": "http.other"}, {"type": None}, None]),
    ),
    max_size=5,
)
send_errors = st.sampled_from([OSError("gone"), ConnectionResetError("gone"), Injected("send")])
channels = st.fixed_dictionaries(
    {
        "messages": st.one_of(
            good_messages,
            st.tuples(good_messages, st.integers(0, 4)).map(lambda pair: [*pair[0][: pair[1]], DISCONNECT]),
            odd_messages,
        ),
        "suspend": st.frozensets(st.integers(0, 8)),
        "fail_send": st.none() | st.none() | st.tuples(st.integers(0, 5), send_errors),
        "fail_receive": st.none()
        | st.none()
        | st.tuples(st.integers(0, 4), st.sampled_from([OSError("gone"), Injected("receive")])),
        "deaf": st.booleans(),
    }
)
handlers = st.fixed_dictionaries(
    {
        "body": st.sampled_from(["spool", "stream"]),
        "on_disconnect": st.sampled_from(["cancel", "notify"]),
        "debug": st.booleans(),
    }
)
lengths = st.sampled_from([None, None, b"0", b"3", b"9", b"x", b"999"])
interruptions = st.none() | st.tuples(st.sampled_from(["cancel", "leave", "aclose"]), st.integers(1, 12))


class Small(Handler):
    """Bodies are cut into short messages."""

    chunk_size = 4


LIMITS = Limits(max_body_bytes=20, spool_threshold_bytes=12)


@pytest.mark.untraced
@interim_passes
@settings(
    max_examples=200,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    plan=plans,
    channel=channels,
    options=handlers,
    method=st.sampled_from(["GET", "POST", "HEAD"]),
    version=st.sampled_from(["1.0", "1.1", "2"]),
    length=lengths,
    interruption=interruptions,
)
async def test_messages_of_any_endpoint_on_any_channel_are_legal(
    plan: Plan,
    channel: dict[str, Any],
    options: dict[str, Any],
    method: str,
    version: str,
    length: bytes | None,
    interruption: tuple[str, int] | None,
) -> None:
    """Whatever endpoint and channels do, the messages are legal, nothing is left, and no error but theirs comes out."""
    plan = Plan(**{name: getattr(plan, name) for name in plan.__dataclass_fields__})  # hypothesis may replay one
    plan.opened = plan.closed = plan.worked = 0
    server = Faulty(**{**channel, "messages": list(channel["messages"])})
    handler = Small(plan, limits=LIMITS, **options)
    scope = http_scope(method=method, http_version=version)
    if length is not None:
        scope["headers"] = [*scope["headers"], (b"content-length", length)]

    before = living_tasks()
    raised: Exception | None = None
    outer = anyio.CancelScope()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:

            def interrupt() -> None:
                assert interruption is not None
                if interruption[0] == "cancel":
                    outer.cancel()
                elif interruption[0] == "leave":
                    server.leave()
                else:
                    group.start_soon(handler.aclose, 0)

            steps = Steps(interruption[1] if interruption is not None else 0, interrupt)
            # An endpoint that waits for a body that never ends needs an end.
            with anyio.move_on_after(0.1) as late, outer:
                try:
                    await steps.run(handler(scope, server.receive, server.send))
                except Exception as exc:
                    raised = exc
                except BaseExceptionGroup:
                    raise AssertionError("a group that nobody made") from None
    await turn(3)
    assert living_tasks() == before
    assert plan.opened == plan.closed <= 1
    check_messages(server.sent, method=method)

    ended = bool(server.sent) and server.sent[-1].get("more_body") is False
    if raised is not None:
        injected = (Injected, ExceptionGroup) if plan.fails is None else (Injected, type(plan.fails[1]))
        assert isinstance(raised, (*injected, UsageError, ServerProtocolError, TypeError)), raised
        assert not isinstance(raised, HTTPError) or (plan.fails is not None and raised is plan.fails[1])
        assert not ended, "a response that failed was ended as if it were whole"
    elif not outer.cancel_called and not late.cancel_called and not server.is_told and not server.failed:
        assert ended, "the client is there and got no whole response"
    if plan.worked:
        assert ended
        assert plan.worked == 1


# --- fail at every call, stop at every await -------------------------------------------------------------


@dataclass
class Case:
    """An endpoint that stands for many, with the request that it needs."""

    build: Callable[[], Plan]
    messages: Callable[[], list[Message]]
    options: dict[str, Any] = field(default_factory=dict)

    def start(self, **faults: Any) -> tuple[Plan, Faulty, Small]:
        plan = self.build()
        server = Faulty(self.messages(), suspend=frozenset(range(100)), **faults)
        limits = Limits(spool_threshold_bytes=8, max_body_bytes=100)
        return plan, server, Small(plan, limits=limits, **self.options)


CASES = {
    "bytes": Case(lambda: Plan(content=b"123456789"), body_messages),
    "waiting": Case(lambda: Plan(content=b"1", waits=3), body_messages),
    "stream": Case(lambda: Plan(content=[b"1", b"23456", "7"], part_waits=1), body_messages),
    "spooled upload": Case(lambda: Plan(reads="file", content=b"1"), lambda: body_messages(*[b"12345"] * 5)),
    "spooled upload, streamed": Case(
        lambda: Plan(reads="stream", content=[b"1", b"2"]), lambda: body_messages(*[b"12345"] * 5)
    ),
    "streamed upload": Case(
        lambda: Plan(reads="stream", content=b"1"), lambda: body_messages(*[b"12345"] * 5), {"body": "stream"}
    ),
    "unread upload": Case(
        lambda: Plan(waits=4, content=[b"1", b"2"]), lambda: body_messages(*[b"12345"] * 5), {"body": "stream"}
    ),
    "background": Case(lambda: Plan(content=b"1", background="works", waits=2), body_messages),
    "error page": Case(lambda: Plan(fails=("read", Injected("page")), waits=1), body_messages),
    "refusal": Case(lambda: Plan(), lambda: body_messages(*[b"1234567890"] * 12)),
    "notify": Case(lambda: Plan(content=[b"1", b"2"], waits=2), body_messages, {"on_disconnect": "notify"}),
    "debug": Case(lambda: Plan(content=[b"1", b"2"], waits=2), body_messages, {"debug": True}),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)

POST = http_scope(method="POST")


def check(plan: Plan, server: Faulty, before: tuple[set[Any], set[Any]]) -> None:
    """What holds after every request."""
    check_messages(server.sent, method="POST")
    assert plan.opened == plan.closed <= 1
    assert (living_tasks(), open_files()) == before
    assert plan.worked <= 1
    if plan.worked:
        check_messages(server.sent, method="POST", complete=True)


@each_case
async def test_messages_without_a_fault_are_a_whole_response(case: Case) -> None:
    """The cases below end well where nothing fails, whichever calls suspend."""
    plan, server, handler = case.start()
    before = living_tasks(), open_files()
    with anyio.fail_after(5):
        await handler(POST, server.receive, server.send)
    check_messages(server.sent, method="POST", complete=True)
    check(plan, server, before)


@each_case
@pytest.mark.parametrize("error", [OSError("gone"), Injected("send")], ids=["OSError", "other"])
async def test_messages_every_send_failing_in_turn_are_legal(case: Case, error: Exception) -> None:
    """Whichever send fails: nothing after it, an OSError is quiet, any other error comes out as it is."""
    number = 0
    while True:
        plan, server, handler = case.start(fail_send=(number, error))
        before = living_tasks(), open_files()
        raised = None
        with anyio.fail_after(5):
            try:
                await handler(POST, server.receive, server.send)
            except Exception as exc:
                raised = exc
        check(plan, server, before)
        assert len(server.sent) == min(number, server.sends)
        if not server.failed:
            break
        assert raised is (None if isinstance(error, OSError) else error)
        assert not plan.worked
        number += 1
    assert number >= 2


@pytest.mark.untraced
@each_case
@pytest.mark.parametrize("error", [OSError("gone"), Injected("receive")], ids=["OSError", "other"])
async def test_messages_every_receive_failing_in_turn_are_legal(case: Case, error: Exception) -> None:
    """Whichever receive fails: what was begun is legal, an OSError is quiet, any other error is no response."""
    for number in range(14):
        plan, server, handler = case.start(fail_receive=(number, error))
        before = living_tasks(), open_files()
        raised = None
        with anyio.fail_after(5):
            try:
                await handler(POST, server.receive, server.send)
            except Exception as exc:
                raised = exc
        check(plan, server, before)
        assert raised is None or (raised is error and not isinstance(error, OSError))


@pytest.mark.untraced
@each_case
@pytest.mark.parametrize("how", ["leave", "scope", "aclose"])
async def test_messages_interrupted_at_every_await_are_legal(case: Case, how: str) -> None:
    """Wherever the client leaves, a scope cancels or the handler closes: legal messages, nothing left."""
    number = 0
    while True:
        number += 1
        plan, server, handler = case.start()
        before = living_tasks(), open_files()
        outer = anyio.CancelScope()
        with anyio.fail_after(5):
            async with anyio.create_task_group() as group:

                def close(handler: Handler = handler, group: Any = group) -> None:
                    group.start_soon(handler.aclose, 0)

                acts: dict[str, Callable[[], object]] = {"leave": server.leave, "scope": outer.cancel, "aclose": close}
                steps = Steps(number, acts[how])
                with outer:
                    try:
                        await steps.run(handler(POST, server.receive, server.send))
                        await turn(2)
                    except AsgicoreError:
                        assert how == "aclose"
        check(plan, server, before)
        assert outer.cancelled_caught is outer.cancel_called
        if not steps.has_acted:
            break
    check_messages(server.sent, method="POST", complete=True)


@on_asyncio
@each_case
async def test_messages_cancelled_natively_at_every_await_are_legal(case: Case) -> None:
    """The same for Task.cancel(), which always comes out."""
    loop = asyncio.get_running_loop()
    number = 0
    while True:
        number += 1
        plan, server, handler = case.start()
        before = living_tasks(), open_files()

        tasks: list[asyncio.Task[None]] = []

        def cancel(tasks: list[asyncio.Task[None]] = tasks) -> None:
            loop.call_soon(lambda: tasks[0].cancel())

        steps = Steps(number, cancel)

        async def app(handler: Handler = handler, server: Faulty = server, steps: Steps = steps) -> None:
            await steps.run(handler(POST, server.receive, server.send))
            await turn(3)

        task = asyncio.create_task(app())
        tasks.append(task)
        with anyio.fail_after(5):
            await asyncio.wait([task])
        check(plan, server, before)
        assert task.cancelled() is (steps.has_acted)
        if not task.cancelled():
            task.result()
            break


async def test_messages_of_an_empty_stream_are_start_and_end() -> None:
    """A stream without parts, or with empty parts alone, is a start and one final message."""
    for content in ([], [b""], ["", b"", bytearray()]):
        plan = Plan(content=content)
        server = Faulty(body_messages())
        await Handler(plan)(POST, server.receive, server.send)
        check_messages(server.sent, complete=True)
        assert len(server.sent) == 2
