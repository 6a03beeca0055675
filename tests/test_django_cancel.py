"""A client that leaves a Django request: cancelled once, at once, and nothing of it stays behind in any thread."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Callable
from time import perf_counter
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from asgiref.sync import async_to_sync, sync_to_async
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django_site import (
    OURS,
    SECONDS,
    STOCK,
    Diary,
    backends,
    eventually,
    handlers,
    noting,
    receivers,
    run,
    site,
    start,
    wait_for,
)
from faults import turn

from asgicore.django_bridge._cancel import CancelOnce
from asgicore.testing import DISCONNECT, Channel, Message, http_scope
from asgicore.testing._living import tasks as living_tasks

pytestmark = backends


async def leave(handler: Any, is_waiting: anyio.Event, release: threading.Event | None = None, **scope: Any) -> Any:
    """A request whose client leaves when the view waits; its outcome."""
    server = Channel()
    request = start(run(handler, server, **scope))
    with anyio.fail_after(SECONDS):
        await is_waiting.wait()
        server.disconnect()
        await server.told.wait()
        if release is not None:
            release.set()
        return await request


# --- once --------------------------------------------------------------------------------------------------


@handlers
async def test_cancel_reaches_the_view_once(base: Any) -> None:
    """What the view awaits in its ``except`` and ``finally`` is not cancelled again, as under stock Django."""
    steps: list[str] = []
    is_waiting = anyio.Event()

    async def view(request: HttpRequest) -> HttpResponse:
        try:
            is_waiting.set()
            await asyncio.sleep(SECONDS)
        except asyncio.CancelledError:
            for _ in range(3):
                await asyncio.sleep(0.002)
            steps.append("except")
            raise
        finally:
            await asyncio.sleep(0.002)
            await sync_to_async(steps.append)("finally")
        raise AssertionError

    with site(view):
        outcome = await leave(base(), is_waiting)
    assert steps == ["except", "finally"]
    assert outcome.raised is None
    assert outcome.channel.sent == []


@handlers
async def test_cancel_that_the_view_swallows_is_not_repeated(base: Any) -> None:
    """A view that catches the cancellation goes on to its end; nobody gets its response, which is closed."""
    is_waiting = anyio.Event()
    diary = Diary()

    async def view(request: HttpRequest) -> HttpResponse:
        is_waiting.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(SECONDS)
        await asyncio.sleep(0.002)
        diary.note("went on")
        response = HttpResponse(b"nobody")
        response._resource_closers.append(lambda: diary.note("closed"))
        return response

    with site(view):
        outcome = await leave(base(), is_waiting)
    assert outcome.raised is None
    assert diary.events == ["went on", "closed"]
    if base is OURS:
        assert outcome.channel.sent == []


async def test_cancel_arrives_within_a_turn_or_two_of_the_loop() -> None:
    """The view is cancelled as soon as the server tells."""
    is_waiting = anyio.Event()
    left = anyio.Event()

    async def view(request: HttpRequest) -> HttpResponse:
        try:
            is_waiting.set()
            await anyio.sleep_forever()
        finally:
            left.set()
        raise AssertionError

    server = Channel()
    with site(view):
        request = start(run(OURS(), server))
        with anyio.fail_after(SECONDS):
            await is_waiting.wait()
            await turn(3)
            server.disconnect()
            await turn(4)
            assert left.is_set()
            await request


async def test_cancel_respects_a_shield_of_anyio() -> None:
    """A shielded section in the view is not cut short; the first thing after it is."""
    steps: list[str] = []
    is_waiting, go_on = anyio.Event(), anyio.Event()

    async def view(request: HttpRequest) -> HttpResponse:
        with anyio.CancelScope(shield=True):
            is_waiting.set()
            await go_on.wait()
            steps.append("shielded")
        await asyncio.sleep(SECONDS)
        steps.append("never")
        return HttpResponse()

    server = Channel()
    with site(view):
        request = start(run(OURS(), server))
        with anyio.fail_after(SECONDS):
            await is_waiting.wait()
            server.disconnect()
            await server.told.wait()
            await turn(20)
            assert not request.done()
            go_on.set()
            outcome = await request
    assert steps == ["shielded"]
    assert outcome.raised is None


async def test_cancel_respects_a_shield_around_a_scope() -> None:
    """An inner scope that shields nothing is protected by one around it."""
    steps: list[str] = []
    is_waiting, go_on = anyio.Event(), anyio.Event()

    async def view(request: HttpRequest) -> HttpResponse:
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(SECONDS):
                is_waiting.set()
                await go_on.wait()
            steps.append("shielded")
        return HttpResponse(b"nobody")

    server = Channel()
    with site(view):
        request = start(run(OURS(), server))
        with anyio.fail_after(SECONDS):
            await is_waiting.wait()
            server.disconnect()
            await server.told.wait()
            await turn(20)
            go_on.set()
            outcome = await request
    assert steps == ["shielded"]
    assert outcome.channel.sent == []


async def test_cancel_ends_task_groups_timeouts_and_scopes_of_the_view() -> None:
    """What the view has opened of asyncio's and anyio's own is left in order, and takes no cancellation for its own."""
    ended: list[str] = []
    is_waiting = anyio.Event()

    async def child(name: str) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(name)

    async def view(request: HttpRequest) -> HttpResponse:
        async with asyncio.timeout(SECONDS):
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(child("task group"))
                with anyio.move_on_after(SECONDS):
                    async with anyio.create_task_group() as group:
                        group.start_soon(child, "anyio")
                        await checkpoint()
                        is_waiting.set()
                        await anyio.sleep_forever()
        ended.append("never")
        return HttpResponse()

    with site(view):
        outcome = await leave(OURS(), is_waiting)
    assert sorted(ended) == ["anyio", "task group"]
    assert outcome.raised is None


@pytest.mark.parametrize("error", [RuntimeError("cleanup"), ExceptionGroup("several", [RuntimeError("cleanup")])])
async def test_cancel_answered_by_an_error_of_the_view_is_quiet(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody waits for an answer: what a view raises on its way out is Django's to log, and nothing is sent."""
    is_waiting = anyio.Event()

    async def view(request: HttpRequest) -> HttpResponse:
        try:
            is_waiting.set()
            await anyio.sleep_forever()
        finally:
            raise error

    diary = Diary()
    with site(view), receivers(diary):
        server = Channel()
        request = start(run(OURS(), server, diary))
        with anyio.fail_after(SECONDS):
            await is_waiting.wait()
            server.disconnect()
            outcome = await request
    assert outcome.raised is None
    assert outcome.channel.sent == []
    assert diary.events == ["started", "finished"]


async def test_cancel_logs_nothing_at_warning_or_above(caplog: pytest.LogCaptureFixture) -> None:
    """A client that leaves is an outcome and no error."""
    is_waiting = anyio.Event()

    async def view(request: HttpRequest) -> HttpResponse:
        is_waiting.set()
        await anyio.sleep_forever()
        raise AssertionError

    with site(view), caplog.at_level(logging.DEBUG):
        await leave(OURS(), is_waiting)
        await run(OURS(), Channel([DISCONNECT]))
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_cancel_that_comes_too_late_cancels_nobody() -> None:
    """A shield delays the cancellation; by then the request may be over, and its task serve somebody else."""
    task: Any = asyncio.current_task()
    with CancelOnce() as scope:
        pass
    scope.cancel()
    assert task.cancelling() == 0
    await checkpoint()


# --- on_disconnect="notify" --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["view", "stream"])
async def test_notify_lets_the_view_go_on(kind: str) -> None:
    """Nothing is cancelled: the view, and its response as far as the server takes it, come to their end."""
    is_waiting, go_on = anyio.Event(), anyio.Event()
    diary = Diary()

    async def parts() -> AsyncIterator[bytes]:
        yield b"one"
        if kind == "stream":
            is_waiting.set()
            await go_on.wait()
        diary.note("went on")
        yield b"two"

    async def view(request: HttpRequest) -> Any:
        if kind == "view":
            is_waiting.set()
            await go_on.wait()
        return StreamingHttpResponse(parts())

    server = Channel()
    with site(view), receivers(diary):
        request = start(run(OURS(on_disconnect="notify"), server, diary))
        with anyio.fail_after(SECONDS):
            await is_waiting.wait()
            server.disconnect()
            await server.told.wait()
            await turn(5)
            assert not request.done()
            go_on.set()
            outcome = await request
    assert outcome.raised is None
    assert diary.events == ["started", "went on", "finished"]


async def test_notify_ends_a_stream_that_the_server_refuses() -> None:
    """An error of ``send`` ends the response under every policy."""

    async def parts() -> AsyncIterator[bytes]:
        while True:
            yield b"x"

    async def view(request: HttpRequest) -> Any:
        return StreamingHttpResponse(parts())

    async def on_send(index: int, message: Message) -> None:
        if index == 3:
            raise BrokenPipeError

    with site(view):
        outcome = await run(OURS(on_disconnect="notify"), Channel(on_send=on_send))
    assert outcome.raised is None
    assert len(outcome.channel.sent) == 3


# --- threads ---------------------------------------------------------------------------------------------


PLACES = ["middleware before", "view before", "sync call", "view after", "middleware after", "response"]


class Layers:
    """Synchronous middleware over an asynchronous view over a synchronous call, which waits at one place."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.is_waiting = anyio.Event()
        self.release = threading.Event()
        self.loop = asyncio.get_running_loop()
        self.threads: set[threading.Thread] = set()

    def at(self, place: str) -> None:
        self.threads.add(threading.current_thread())
        if place == self.place:
            self.loop.call_soon_threadsafe(self.is_waiting.set)
            wait_for(self.release)

    async def at_async(self, place: str) -> None:
        if place == self.place:
            self.is_waiting.set()
            await anyio.sleep_forever()

    def middleware(self, get_response: Any) -> Any:
        def call(request: HttpRequest) -> Any:
            self.at("middleware before")
            response = get_response(request)
            self.at("middleware after")
            return response

        return call

    async def view(self, request: HttpRequest) -> Any:
        await self.at_async("view before")
        await sync_to_async(self.at)("sync call")
        await self.at_async("view after")
        return StreamingHttpResponse(self.parts())

    async def parts(self) -> AsyncIterator[bytes]:
        yield b"one"
        await self.at_async("response")
        yield b"two"


@contextlib.asynccontextmanager
async def heartbeat() -> AsyncIterator[list[float]]:
    """How late a task that wants to run every two milliseconds was, each time."""
    late: list[float] = []

    async def beat() -> None:
        while True:
            began = perf_counter()
            await asyncio.sleep(0.002)
            late.append(perf_counter() - began - 0.002)

    task = start(beat())
    try:
        yield late
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("how", ["disconnect", "native", "scope"])
async def test_cancel_in_sync_middleware_over_an_async_view_over_a_sync_call(
    place: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Five times at each place: everything is closed in the thread of the request, and the loop never waits."""
    async with heartbeat() as late:
        for _ in range(5):
            layers = Layers(place)
            diary = Diary()
            with site(layers.view, middleware=[layers.middleware]), receivers(diary):
                handler = noting(OURS, diary, max_workers=2)
                server = Channel()
                before = living_tasks()
                with anyio.fail_after(SECONDS):
                    async with anyio.create_task_group() as group:
                        task = start(handler(http_scope(), server.receive, server.send))

                        async def wait(task: asyncio.Task[None] = task) -> None:
                            try:
                                await task
                            except asyncio.CancelledError:
                                if not task.done():
                                    task.cancel()
                                    await asyncio.wait([task])

                        group.start_soon(wait)
                        await layers.is_waiting.wait()
                        if how == "disconnect":
                            server.disconnect()
                            await server.told.wait()
                        elif how == "native":
                            task.cancel()
                        else:
                            group.cancel_scope.cancel()
                        layers.release.set()
                    while living_tasks() - before:
                        await checkpoint()
                assert task.cancelled() or task.result() is None
                workers = handler.workers
                await eventually(lambda: workers.in_use == 0, "the thread is given back")  # noqa: B023  # called before the loop goes on
            assert diary.count("started") == diary.count("finished") == diary.count("request.close") == 1, diary.entries
            assert len(diary.places()) == 1, diary.entries
            assert "loop" not in diary.places()
            assert len(layers.threads) <= 1
            assert handler.workers.alive == 1
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
    # The machine may halt for a while; a loop that waits for a thread that waits for it halts for good.
    assert max(late, default=0) < 1


async def test_cancel_of_a_sync_view_waits_for_its_thread_and_leaves_it_usable() -> None:
    """A thread cannot be cancelled; its next request gets it in order."""
    is_waiting, release = anyio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    diary = Diary()

    def view(request: HttpRequest) -> HttpResponse:
        if request.path == "/wait":
            loop.call_soon_threadsafe(is_waiting.set)
            wait_for(release)
        diary.note(request.path)
        return HttpResponse(b"done")

    with site(view):
        handler = OURS(max_workers=1)
        first = await leave(handler, is_waiting, release, path="/wait")
        second = await run(handler, Channel(), path="/next")
    assert first.channel.sent == []
    assert second.body == b"done"
    assert diary.events == ["/wait", "/next"]
    assert handler.workers.alive == 1


async def test_cancel_of_a_request_that_waits_for_a_thread_never_runs_its_view() -> None:
    """Its place in the queue is given up, and its request is closed all the same."""
    is_waiting, release = anyio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    diary = Diary()

    def view(request: HttpRequest) -> HttpResponse:
        diary.note(request.path)
        if request.path == "/first":
            loop.call_soon_threadsafe(is_waiting.set)
            wait_for(release)
        return HttpResponse(b"done")

    with site(view):
        handler = OURS(max_workers=1)
        first = start(run(handler, Channel(), path="/first"))
        server = Channel()
        with anyio.fail_after(SECONDS):
            await is_waiting.wait()
            second = start(handler(http_scope(path="/second"), server.receive, server.send))
            await eventually(lambda: handler.workers.waiting == 1, "the second request waits")
            server.disconnect()
            await server.told.wait()
            await turn(3)
            release.set()
            assert (await first).body == b"done"
            await second
    assert diary.events == ["/first"]
    assert handler.workers.in_use == handler.workers.waiting == 0


async def test_cancel_of_an_async_to_sync_in_a_sync_view_ends_what_it_runs() -> None:
    """As under asgiref: what a synchronous view runs on the loop is cancelled with it."""
    is_waiting = anyio.Event()
    left: list[str] = []

    async def inner() -> None:
        try:
            is_waiting.set()
            await anyio.sleep_forever()
        finally:
            left.append("inner")

    def view(request: HttpRequest) -> HttpResponse:
        try:
            async_to_sync(inner)()
        finally:
            left.append("view")
        raise AssertionError

    found = []
    for base in (STOCK, OURS):
        left.clear()
        is_waiting = anyio.Event()
        with site(view):
            outcome = await leave(base(), is_waiting)
            await eventually(lambda: "view" in left, "the view has ended")
        found.append((outcome.raised, list(left), outcome.channel.sent))
    assert found[0] == found[1] == (None, ["inner", "view"], [])


@pytest.mark.parametrize("reason", ["task that outlives", "thread that outlives"])
async def test_sync_code_after_the_request_is_refused(reason: str) -> None:
    """A task that outlives its request has no thread there any more, and is told so, as by asgiref."""
    results: list[Any] = []
    go_on = anyio.Event()
    tasks: list[Any] = []

    async def late() -> None:
        await go_on.wait()
        try:
            results.append(await sync_to_async(threading.current_thread)())
        except RuntimeError as exc:
            results.append(exc)

    async def view(request: HttpRequest) -> HttpResponse:
        if reason == "thread that outlives":
            await sync_to_async(lambda: None)()
        tasks.append(asyncio.create_task(late()))
        return HttpResponse()

    with site(view):
        handler = OURS()
        server = Channel()
        await handler(http_scope(), server.receive, server.send)
        go_on.set()
        with anyio.fail_after(SECONDS):
            await tasks[0]
    assert isinstance(results[0], RuntimeError)
    assert handler.workers.in_use == 0


async def test_disconnect_and_end_of_the_view_in_the_same_turn() -> None:
    """Whichever comes first, there is one end: a whole response or none, and both signals."""
    for number in range(12):
        diary = Diary()
        is_waiting = anyio.Event()
        go_on = anyio.Event()

        async def view(request: HttpRequest, waiting: Any = is_waiting, go_on: Any = go_on) -> HttpResponse:
            waiting.set()
            await go_on.wait()
            return HttpResponse(b"whole")

        server = Channel()
        with site(view), receivers(diary):
            request = start(run(OURS(), server, diary))
            with anyio.fail_after(SECONDS):
                await is_waiting.wait()
                acts: list[Callable[[], object]] = [server.disconnect, go_on.set]
                for index, act in enumerate(acts if number % 2 else acts[::-1]):
                    act()
                    await turn((number // 2) * index)
                outcome = await request
        assert outcome.raised is None
        assert outcome.channel.sent == [] or outcome.body == b"whole" or not outcome.is_ended
        assert diary.events == ["started", "finished"]
