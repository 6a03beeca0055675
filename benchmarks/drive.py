"""A server without sockets: gives requests to an application and takes its answers, on one core, by CPU time.

The channel behaves as uvicorn's: ``receive`` gives the body, then blocks until the response is complete or the client
leaves; ``send`` does not suspend.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from time import process_time
from typing import Any, TypeVar

from .apps import App, Peer
from .workloads import Message, Workload, WrongAnswerError

T = TypeVar("T")

DISCONNECT: Message = {"type": "http.disconnect"}
# Scopes and channels are made before the clock starts, so many at a time.
BATCH = 100


class Channel:
    """Both channels of one request; keeps nothing of what is sent."""

    __slots__ = ("done", "messages")

    def __init__(self, messages: Iterable[Message], event: Callable[[], Any]) -> None:
        self.messages = iter(messages)
        self.done = event()

    async def receive(self) -> Message:
        for message in self.messages:
            return message
        await self.done.wait()
        return DISCONNECT

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body"):
            self.done.set()

    def disconnect(self) -> None:
        self.done.set()


class RecordingChannel(Channel):
    """Keeps what is sent, for the check."""

    __slots__ = ("sent",)

    def __init__(self, messages: Iterable[Message], event: Callable[[], Any]) -> None:
        super().__init__(messages, event)
        self.sent: list[Message] = []

    async def send(self, message: Message) -> None:
        self.sent.append(message)
        await super().send(message)


def cores() -> list[int]:
    """The cores this process may be bound to; none where that cannot be done."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


@contextlib.contextmanager
def bound(core: int | None) -> Iterator[None]:
    """Run on one core; ``None`` changes nothing."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def run(loop: str, main: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
    """Run ``main`` on asyncio, uvloop or trio.

    Raises:
        ImportError: The loop is not installed.
    """
    if loop == "trio":
        import trio

        return trio.run(main, *args)
    if loop == "uvloop":
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(main(*args))
    return asyncio.run(main(*args))


def event_type(loop: str) -> Callable[[], Any]:
    if loop == "trio":
        import trio

        return trio.Event
    return asyncio.Event


async def turn(loop: str) -> None:
    """One turn of the loop."""
    if loop == "trio":
        import trio

        await trio.lowlevel.checkpoint()
    else:
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def lifespan(app: App) -> AsyncIterator[None]:
    """Start and stop an application as servers do; one that does not know the lifespan protocol does without."""
    inbox: asyncio.Queue[Message] = asyncio.Queue()
    outbox: asyncio.Queue[Message] = asyncio.Queue()
    scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}

    async def serve() -> None:
        try:
            await app(scope, inbox.get, outbox.put)
        except Exception as exc:
            # As uvicorn's "auto": it is no lifespan application.
            await outbox.put({"type": "unsupported", "message": repr(exc)})

    task = asyncio.create_task(serve())
    await inbox.put({"type": "lifespan.startup"})
    answer = await outbox.get()
    if answer["type"] == "lifespan.startup.failed":
        raise WrongAnswerError(f"startup failed: {answer.get('message')}")
    try:
        yield
    finally:
        if answer["type"] == "lifespan.startup.complete":
            await inbox.put({"type": "lifespan.shutdown"})
        await task


async def check(app: App, workload: Workload) -> None:
    """One request, with a look at the answer.

    Raises:
        WrongAnswerError: The answer is not what was asked for.
    """
    channel = RecordingChannel(workload.body(), event_type(workload.loop))
    await app(next(workload.scopes()), channel.receive, channel.send)
    workload.check(channel.sent)


async def spend(app: App, workload: Workload, number: int) -> float:
    """CPU seconds that ``number`` requests take, one after the other.

    Raises:
        WrongAnswerError: A request got no complete response.
    """
    event, scopes, body = event_type(workload.loop), workload.scopes(), workload.body
    spent = 0.0
    while number > 0:
        size = min(number, BATCH)
        number -= size
        calls = [(next(scopes), Channel(body(), event)) for _ in range(size)]
        if workload.is_task_each:
            create_task = asyncio.get_running_loop().create_task
            started = process_time()
            for scope, channel in calls:
                await create_task(app(scope, channel.receive, channel.send))
        else:
            started = process_time()
            for scope, channel in calls:
                await app(scope, channel.receive, channel.send)
        # What a request leaves for the loop to do is part of its cost.
        await turn(workload.loop)
        spent += process_time() - started
        if not all(channel.done.is_set() for _, channel in calls):
            raise WrongAnswerError("a response without an end")
    return spent


async def start(
    workload: Workload,
    peer: Peer,
    stack: contextlib.AsyncExitStack,
    note: Callable[[str, str], None],
) -> App | None:
    """The application of a peer, started and checked; ``None`` if it is left out, and ``note`` is told why."""
    try:
        app = peer.build(workload.app or workload.name)
        if app is None:
            return None
        if workload.loop != "trio":
            await stack.enter_async_context(lifespan(app))
        await check(app, workload)
    except ImportError as exc:
        note(peer.name, f"not installed ({exc.name})")
    except WrongAnswerError as exc:
        note(peer.name, f"wrong answer: {exc}")
    except Exception as exc:
        # A peer that breaks must not keep the others from being measured.
        note(peer.name, f"failed: {exc!r}")
    else:
        return app
    return None


async def warm(app: App, workload: Workload, seconds: float) -> int:
    """Warm the caches of an application; returns how many requests take so long."""
    # The first ones warm, the next ones tell how long one takes; of slow ones, one is enough.
    few = 1 if await spend(app, workload, 1) > 4 * seconds else 3
    await spend(app, workload, few - 1)
    return min(max(int(few * seconds / await spend(app, workload, few)), 1), 20_000)


async def measure(
    workload: Workload,
    peers: Iterable[Peer],
    rounds: int,
    seconds: float,
    note: Callable[[str, str], None],
) -> dict[str, list[float]]:
    """Seconds per request of every peer, one figure a round, the rounds interleaved: A B C A B C ...

    Args:
        rounds: How many; 0 checks the answers only.
        seconds: CPU time for one peer in one round, as near as whole requests allow.
        note: Told why a peer is left out.
    """
    async with contextlib.AsyncExitStack() as stack:
        apps: dict[str, App] = {}
        for peer in peers:
            app = await start(workload, peer, stack, note)
            if app is not None:
                apps[peer.name] = app
        figures: dict[str, list[float]] = {name: [] for name in apps}
        if rounds:
            numbers = {name: await warm(app, workload, seconds) for name, app in apps.items()}
            # What is loaded by now is never garbage; what the requests make is.
            gc.collect()
            gc.freeze()
        for _ in range(rounds):
            for name, app in apps.items():
                gc.collect()
                figures[name].append(await spend(app, workload, numbers[name]) / numbers[name])
        gc.unfreeze()
        return figures
