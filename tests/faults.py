"""Servers that misbehave, and independent eyes: a reading of the message grammar, counts of tasks, turns and awaits."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import os
import re
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Iterator
from contextlib import contextmanager
from time import process_time
from typing import Any, Literal, TypeVar

import anyio
import pytest
from anyio.lowlevel import checkpoint
from fakes import DISCONNECT, EMPTY, Channel, Message

T = TypeVar("T")

_ASYNCIO: list[Any] = [pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio")]
if importlib.util.find_spec("uvloop"):
    _ASYNCIO.append(pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"))

on_asyncio = pytest.mark.parametrize("anyio_backend", _ASYNCIO, indirect=True)
"""For tests of what only asyncio has, native cancellation above all."""


def on_trio() -> bool:
    """Whether the current task is trio's."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return True
    return False


# --- the message grammar ---------------------------------------------------------------------------------

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_ILLEGAL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


def _without_head_start(messages: list[Message]) -> list[Message]:
    """What follows the messages that come before a response."""
    rest = list(messages)
    debugged = 0
    while rest and rest[0]["type"] in ("http.response.debug", "http.response.early_hint"):
        message = rest.pop(0)
        if message["type"] == "http.response.debug":
            debugged += 1
            assert message.keys() == {"type", "info"}
            assert type(message["info"]) is dict
        else:
            assert message.keys() == {"type", "links"}
            assert message["links"]
            assert all(type(link) is bytes and not _ILLEGAL.search(link) for link in message["links"])
    assert debugged <= 1
    return rest


def check_messages(
    messages: list[Message],
    *,
    method: str = "GET",
    complete: bool | None = None,
    offered: Iterable[str] = (),
) -> None:
    """Assert that these messages are a legal beginning of a response under ASGI HTTP 2.5.

    Args:
        messages: What the server has taken, in order.
        method: The method of the request; HEAD forbids a body.
        complete: Whether the response must have ended; either way if ``None``.
        offered: The extensions that the server offers; messages of others are illegal.
    """
    assert {message["type"] for message in messages} <= {"http.response.start", "http.response.body", *offered}
    messages = _without_head_start(messages)
    if not messages:
        assert not complete, "no response was sent"
        return
    start, *rest = messages
    assert start["type"] == "http.response.start"
    assert start.keys() <= {"type", "status", "headers", "trailers"}
    status = start["status"]
    assert type(status) is int
    assert 100 <= status <= 599
    lengths = []
    for name, value in start["headers"]:
        assert type(name) is bytes
        assert type(value) is bytes
        assert _NAME.fullmatch(name), name
        assert not _ILLEGAL.search(value), value
        if name == b"content-length":
            lengths.append(value)
        assert name != b"transfer-encoding"
    assert len(lengths) <= 1
    silent = method == "HEAD" or status < 200 or status in (204, 304)
    if status < 200 or status == 204:
        assert not lengths
    size = 0
    ended = body_ended = False
    trails = start.get("trailers", False)
    assert not (trails and (silent or lengths))
    for message in rest:
        assert not ended, "a message after the final one"
        if body_ended:
            assert message["type"] == "http.response.trailers"
            for name, value in message["headers"]:
                assert _NAME.fullmatch(name)
                assert not _ILLEGAL.search(value)
            ended = not message.get("more_trailers", False)
            continue
        more = message.get("more_body", False)
        assert type(more) is bool
        if message["type"] == "http.response.pathsend":
            assert message.keys() == {"type", "path"}
            assert os.path.isabs(message["path"])
            size += os.path.getsize(message["path"])
        elif message["type"] == "http.response.zerocopysend":
            assert message.keys() <= {"type", "file", "offset", "count", "more_body"}
            assert message["count"] > 0
            message["file"].fileno()
            size += message["count"]
        else:
            assert message["type"] == "http.response.body"
            assert message.keys() <= {"type", "body", "more_body"}
            body = message.get("body", b"")
            assert type(body) is bytes
            size += len(body)
        body_ended = not more
        ended = body_ended and not trails
    if silent:
        assert size == 0
    elif lengths:
        declared = int(lengths[0])
        assert size <= declared
        assert not body_ended or size == declared
    if complete is not None:
        assert ended is complete


# --- servers ---------------------------------------------------------------------------------------------


class Server(Channel):
    """A channel whose client leaves when told, and a choice of how the application gets to know.

    Args:
        messages: As for ``Channel``.
        tells: ``"event"``: ``receive`` gives the disconnect and ``send`` stays silent. ``"raise"``: only ``send``
            raises. ``"both"``. ``"nothing"``: neither.
        when_cancelled: What ``receive`` does when it is cancelled: ``"raise"`` passes it on, ``"event"`` returns a
            disconnect instead, ``"error"`` raises something else, ``"swallow"`` goes on waiting.
        suspend: As for ``Channel``.
        on_send: As for ``Channel``.
    """

    def __init__(
        self,
        messages: Iterable[Message] = (EMPTY,),
        *,
        tells: Literal["event", "raise", "both", "nothing"] = "event",
        when_cancelled: Literal["raise", "event", "error", "swallow"] = "raise",
        suspend: bool = False,
        on_send: Callable[[int, Message], Awaitable[None]] | None = None,
    ) -> None:
        super().__init__(messages, suspend=suspend, on_send=on_send)
        self._tells = tells
        self._when_cancelled = when_cancelled
        self.has_left = False
        self.told = anyio.Event()
        """Set when ``receive`` gave a disconnect."""
        self.sends = 0
        """How often ``send`` was called."""

    def disconnect(self) -> None:
        self.has_left = True
        if self._tells in ("event", "both"):
            super().disconnect()

    async def receive(self) -> Message:
        try:
            message = await super().receive()
        except anyio.get_cancelled_exc_class():
            if self._when_cancelled == "event":
                return DISCONNECT
            if self._when_cancelled == "error":
                raise RuntimeError("receive() was cancelled") from None
            if self._when_cancelled == "swallow":
                with anyio.CancelScope(shield=True):
                    return await super().receive()
            raise
        if message is DISCONNECT:
            self.told.set()
        return message

    async def send(self, message: Message) -> None:
        self.sends += 1
        if self.has_left and self._tells in ("raise", "both"):
            raise ConnectionResetError("the peer is gone")
        await super().send(message)


# --- loops that give up ------------------------------------------------------------------------------------


@types.coroutine
def dropped_when(coro: Any, is_time: Callable[[], bool]) -> Generator[Any, Any, None]:
    """Run ``coro`` until it waits for something and it is time, then throw it away, as a loop that is closed does."""
    yielded = coro.send(None)
    while not is_time():
        yielded = coro.send((yield yielded))
    coro.close()


@types.coroutine
def dropped_at(coro: Any, number: int) -> Generator[Any, Any, bool]:
    """Throw ``coro`` away where it waits for the ``number``-th time; returns whether it got there."""
    try:
        yielded = coro.send(None)
        for _ in range(number - 1):
            yielded = coro.send((yield yielded))
    except StopIteration:
        return False
    coro.close()
    return True


# --- time ------------------------------------------------------------------------------------------------


@contextmanager
def linear_time() -> Iterator[None]:
    """A bound on work whose input is so long that it takes minutes where the time grows with its square."""
    began = process_time()
    yield
    assert process_time() - began < 5, "takes far longer than the length of the input tells"


# --- counting --------------------------------------------------------------------------------------------


def living_tasks() -> int:
    """How many tasks there are, the listener's included."""
    if on_trio():
        import trio

        return trio.lowlevel.current_statistics().tasks_living
    return len(asyncio.all_tasks())


@contextmanager
def spawned() -> Iterator[list[str]]:
    """The names of the tasks that are created within the block."""
    names: list[str] = []
    if on_trio():
        import trio

        class Watch(trio.abc.Instrument):
            def task_spawned(self, task: Any) -> None:
                names.append(task.name)

        instrument = Watch()
        trio.lowlevel.add_instrument(instrument)
        try:
            yield names
        finally:
            trio.lowlevel.remove_instrument(instrument)
    else:
        loop = asyncio.get_running_loop()

        def create(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
            task = asyncio.Task(coro, loop=loop, **options)
            names.append(task.get_name())
            return task

        before = loop.get_task_factory()
        loop.set_task_factory(create)
        try:
            yield names
        finally:
            loop.set_task_factory(before)


@contextmanager
def turns() -> Iterator[Callable[[], int]]:
    """A count of the turns of the event loop; keeps the loop busy."""
    count = 0
    if on_trio():
        import trio

        class Count(trio.abc.Instrument):
            def before_io_wait(self, timeout: float) -> None:
                nonlocal count
                count += 1

        instrument = Count()
        trio.lowlevel.add_instrument(instrument)
        try:
            yield lambda: count
        finally:
            trio.lowlevel.remove_instrument(instrument)
    else:
        loop = asyncio.get_running_loop()

        handle: asyncio.Handle

        def turn() -> None:
            nonlocal count, handle
            count += 1
            handle = loop.call_soon(turn)

        handle = loop.call_soon(turn)
        try:
            yield lambda: count
        finally:
            handle.cancel()


def open_files() -> int | None:
    """How many file descriptors are open; ``None`` where the system does not tell."""
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return None


async def turn(times: int = 1) -> None:
    """Let everything else go on for so many turns of the loop."""
    for _ in range(times):
        await checkpoint()


class Steps:
    """Runs a coroutine and acts when it suspends for the ``number``-th time."""

    def __init__(self, number: int, act: Callable[[], object]) -> None:
        self.number = number
        self.seen = 0
        self._act = act

    @types.coroutine
    def run(self, coro: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
        """Await ``coro``; every suspension passes through here unchanged."""
        value: Any = None
        error: BaseException | None = None
        while True:
            try:
                yielded = coro.send(value) if error is None else coro.throw(error)
            except StopIteration as stop:
                result: T = stop.value
                return result
            self.seen += 1
            if self.seen == self.number:
                self._act()
            try:
                value, error = (yield yielded), None
            except BaseException as exc:
                value, error = None, exc


def garbage_of(*modules: str) -> list[object]:
    """What the collector finds now of the classes of these modules; what threads of other tests leave is not meant."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        gc.collect()
        return [one for one in gc.garbage if type(one).__module__ in modules]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
