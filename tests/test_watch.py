"""_watch.py: a coroutine that is stepped by hand behaves as one that is awaited, and cleanup holds."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from clocks import Clock, turn_time_on_asyncio
from conftest import BACKENDS

from asgicore import _watch
from asgicore._watch import (
    is_trio,
    resume,
    run_shielded,
    running_asyncio_task,
    start_listener,
    stop,
    timed,
)

only_asyncio = pytest.mark.parametrize("anyio_backend", [b for b in BACKENDS if b.values[0][0] == "asyncio"])


class Watched:
    """The body, as ``resume`` sees it: settled after so many suspensions."""

    def __init__(self, settles_after: int | None = None) -> None:
        self.suspensions = 0
        self._settles_after = settles_after

    is_dropped = False

    @property
    def is_settled(self) -> bool:
        return self._settles_after is not None and self.suspensions >= self._settles_after

    def suspended(self) -> None:
        self.suspensions += 1


async def drive(coro: Coroutine[Any, Any, Any], watched: Watched | None = None) -> Any:
    """What the handler does: one step by hand, the rest by ``resume``."""
    try:
        yielded = coro.send(None)
    except StopIteration as stop:
        return stop.value
    return await resume(coro, yielded, watched or Watched())


async def settle() -> None:
    """Let every other task run until it waits."""
    for _ in range(25):
        await checkpoint()


# --- resume and timed: as if awaited -----------------------------------------------------------------

Scenario = Callable[[], Coroutine[Any, Any, Any]]


async def at_once() -> str:
    return "value"


async def after_some_turns() -> str:
    for _ in range(5):
        await checkpoint()
    return "value"


async def fails_at_once() -> str:
    raise LookupError("at once")


async def fails_later() -> str:
    await checkpoint()
    raise LookupError("later")


async def exits() -> str:
    await checkpoint()
    raise SystemExit(3)


async def own_scope() -> str:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await anyio.sleep_forever()
    return f"caught {scope.cancelled_caught}"


async def own_scope_cancelled_later() -> str:
    async def cancel(scope: anyio.CancelScope) -> None:
        await checkpoint()
        scope.cancel()

    async with anyio.create_task_group() as group:
        with anyio.CancelScope() as scope:
            group.start_soon(cancel, scope)
            await anyio.sleep_forever()
    return f"caught {scope.cancelled_caught}"


async def nested_scopes() -> str:
    with anyio.CancelScope() as outer:
        with anyio.CancelScope() as inner:
            await checkpoint()
            outer.cancel()
            try:
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await checkpoint()
    return f"inner {inner.cancelled_caught} outer {outer.cancelled_caught}"


async def own_deadline() -> str:
    with anyio.move_on_after(0.01) as scope:
        await anyio.sleep_forever()
    try:
        with anyio.fail_after(0.01):
            await anyio.sleep_forever()
    except TimeoutError:
        return f"caught {scope.cancelled_caught}, timed out"
    return "not timed out"


async def task_group() -> list[int]:
    results: list[int] = []

    async def child(number: int) -> None:
        await checkpoint()
        results.append(number)

    async with anyio.create_task_group() as group:
        for number in range(3):
            group.start_soon(child, number)
    return sorted(results)


async def task_group_that_fails() -> str:
    async def child() -> None:
        await checkpoint()
        raise LookupError("child")

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(child)
            await anyio.sleep_forever()
    except BaseExceptionGroup as exc:
        return f"{len(exc.exceptions)} {exc.exceptions[0]!r}"
    return "no error"


async def thread() -> int:
    return await anyio.to_thread.run_sync(lambda: 5)


async def generator() -> list[int]:
    async def numbers() -> Any:
        for number in range(3):
            await checkpoint()
            yield number

    return [number async for number in numbers()]


async def context_variable() -> str:
    token = VARIABLE.set("inner")
    await checkpoint()
    value = VARIABLE.get()
    VARIABLE.reset(token)
    return value


VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="outer")

SCENARIOS: list[Scenario] = [
    at_once,
    after_some_turns,
    fails_at_once,
    fails_later,
    exits,
    own_scope,
    own_scope_cancelled_later,
    nested_scopes,
    own_deadline,
    task_group,
    task_group_that_fails,
    thread,
    generator,
    context_variable,
]


async def outcome(work: Awaitable[Any]) -> tuple[str, str]:
    """What came of it, so that two can be compared."""
    try:
        return "returned", repr(await work)
    except (Exception, SystemExit) as exc:
        return "raised", repr(exc)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
async def test_resume_and_timed_behave_as_await(scenario: Scenario) -> None:
    """Values, exceptions, scopes, deadlines, task groups, threads and context: all as if awaited."""
    with anyio.fail_after(5):
        expected = await outcome(scenario())
        for settles_after in (None, 0, 1, 2, 4):
            assert await outcome(drive(scenario(), Watched(settles_after))) == expected
        assert await outcome(timed(scenario(), "label")) == expected
        assert await outcome(drive(timed(scenario(), "label"))) == expected


@pytest.mark.parametrize("settles_after", [None, 0, 2])
async def test_resume_cancelled_from_outside_raises_inside(settles_after: int | None) -> None:
    """The scope around it cancels the coroutine, its shielded cleanup runs to the end, and the scope catches it."""
    steps: list[str] = []

    async def work() -> None:
        try:
            await checkpoint()
            await checkpoint()
            await anyio.sleep_forever()
        except BaseException:
            steps.append("cancelled")
            with anyio.CancelScope(shield=True):
                await settle()
                steps.append("cleaned up")
            raise

    for wrapped in (drive(work(), Watched(settles_after)), drive(timed(work(), "label"), Watched(settles_after))):
        with anyio.fail_after(5):
            async with anyio.create_task_group() as group:
                with anyio.CancelScope() as scope:

                    async def cancel(scope: anyio.CancelScope = scope) -> None:
                        await settle()
                        scope.cancel()

                    group.start_soon(cancel)
                    await wrapped
        assert scope.cancelled_caught
    assert steps == ["cancelled", "cleaned up"] * 2


@only_asyncio
@pytest.mark.parametrize("settles_after", [None, 0])
async def test_resume_cancelled_natively_raises_inside(settles_after: int | None) -> None:
    """``Task.cancel()`` arrives with its message, and a coroutine that swallows it goes on."""
    seen: list[Any] = []

    async def work() -> str:
        await asyncio.sleep(0)
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError as exc:
            seen.append(exc.args)
        await asyncio.sleep(0)
        return "went on"

    task = asyncio.create_task(drive(work(), Watched(settles_after)))
    await settle()
    task.cancel("enough")
    assert await task == "went on"
    assert seen == [("enough",)]


@only_asyncio
@pytest.mark.parametrize("settles_after", [None, 0])
async def test_resume_with_asyncio_timeouts_and_groups_behaves_as_await(settles_after: int | None) -> None:
    """What asyncio itself offers works inside, too: ``timeout``, ``wait_for``, ``TaskGroup``."""

    async def child() -> None:
        raise LookupError("child")

    async def work() -> list[str]:
        seen = []
        try:
            async with asyncio.timeout(0.01):
                await asyncio.sleep(5)
        except TimeoutError:
            seen.append("timeout")
        try:
            await asyncio.wait_for(asyncio.sleep(5), 0.01)
        except TimeoutError:
            seen.append("wait_for")
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(child())
                await asyncio.sleep(5)
        except* LookupError:
            seen.append("group")
        task = asyncio.current_task()
        assert task is not None
        seen.append(str(task.cancelling()))
        return seen

    assert await drive(work(), Watched(settles_after)) == ["timeout", "wait_for", "group", "0"]


@only_asyncio
async def test_resume_asks_the_body_until_it_is_settled() -> None:
    """Each suspension is told to the body, and none once nothing of it is left to receive (on trio they all are)."""

    async def work() -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    for settles_after, told in ((None, 10), (0, 1), (1, 1), (4, 4)):
        watched = Watched(settles_after)
        await drive(work(), watched)
        assert watched.suspensions == told


@types.coroutine
def ask(value: Any) -> Generator[Any, Any, Any]:
    """Yield to whoever runs the coroutine, and return what that sends."""
    return (yield value)


def test_resume_forwards_what_is_yielded_sent_thrown_and_closed() -> None:
    """PEP 342: the one who runs it cannot tell it from the coroutine inside."""
    seen: list[Any] = []

    async def work() -> str:
        seen.append(await ask(1))
        seen.append(await ask(2))
        try:
            await ask(3)
        except LookupError as exc:
            seen.append(exc)
        try:
            await ask(4)
        finally:
            seen.append("closed")
        return "unreachable"

    error = LookupError()
    for settles_after in (None, 2):
        del seen[:]
        coro = drive(work(), Watched(settles_after))
        assert coro.send(None) == 1
        assert coro.send("a") == 2
        assert coro.send(None) == 3
        assert coro.throw(error) == 4
        coro.close()
        assert seen == ["a", None, error, "closed"]


def test_timed_forwards_what_is_yielded_sent_thrown_and_closed() -> None:
    """The same in debug mode."""
    seen: list[Any] = []

    async def work() -> None:
        seen.append(await ask(1))
        try:
            await ask(2)
        except LookupError as exc:
            seen.append(exc)
        try:
            await ask(3)
        finally:
            seen.append("closed")

    error = LookupError()
    coro = timed(work(), "label")
    assert coro.send(None) == 1
    assert coro.send("a") == 2
    assert coro.throw(error) == 3
    coro.close()
    assert seen == ["a", error, "closed"]


def test_resume_of_a_coroutine_that_ignores_its_closing_says_so() -> None:
    """As the interpreter does for any coroutine that goes on after ``GeneratorExit``."""

    async def work() -> None:
        try:
            await ask(1)
        except GeneratorExit:
            await ask(2)

    coro = drive(work())
    coro.send(None)
    with pytest.raises(RuntimeError, match="ignored GeneratorExit"):
        coro.close()


def test_timed_that_is_never_awaited_is_told_like_any_coroutine() -> None:
    """Nothing runs before it is awaited."""
    coro = timed(at_once(), "label")
    assert isinstance(coro, Coroutine)
    with pytest.raises(StopIteration) as stop:
        coro.send(None)
    assert stop.value.value == "value"


async def test_timed_reports_a_step_that_holds_the_loop(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocking code in an async function is named with how long it held the loop; waiting is not held against it."""
    clock = Clock()
    monkeypatch.setattr(_watch, "perf_counter", clock)
    resumed = anyio.Event()

    async def time_passes() -> None:
        clock.work(60)
        resumed.set()

    async def work(error: Exception | None) -> None:
        clock.work(0.05)
        await resumed.wait()
        clock.work(0.2)
        if error is not None:
            raise error
        await checkpoint()
        clock.work(0.05)

    async with anyio.create_task_group() as group:
        group.start_soon(time_passes)
        with caplog.at_level(logging.WARNING, "asgicore"):
            await timed(work(None), "GET /slow")
            with pytest.raises(LookupError):
                await timed(work(LookupError()), "GET /slower")
    assert caplog.messages == [
        "GET /slow held the event loop for 200 ms; run blocking code in a worker thread",
        "GET /slower held the event loop for 200 ms; run blocking code in a worker thread",
    ]


# --- listeners ---------------------------------------------------------------------------------------


async def stop_in_time(listener: _watch.Listener) -> None:
    """``stop()`` returns."""
    with anyio.fail_after(5):
        await stop(listener)


class Listen:
    """A coroutine for a listener, which behaves in some way when it is cancelled."""

    def __init__(self, manner: str) -> None:
        self.manner = manner
        self.began = False
        self.ended = False
        self.release = anyio.Event()

    async def __call__(self) -> None:
        self.began = True
        try:
            if self.manner == "ends at once":
                return
            await anyio.sleep_forever()
        except BaseException as exc:
            if self.manner == "returns":
                return
            if self.manner == "raises":
                raise LookupError("on cancellation") from exc
            if self.manner == "cleans up":
                with anyio.CancelScope(shield=True):
                    for _ in range(5):
                        await checkpoint()
            elif self.manner == "swallows":
                with anyio.CancelScope(shield=True):
                    await self.release.wait()
            raise
        finally:
            self.ended = True


@pytest.mark.parametrize("manner", ["waits", "ends at once", "returns", "cleans up"])
@pytest.mark.parametrize("turns", [0, 1, 5])
async def test_listener_stopped_has_ended(manner: str, turns: int) -> None:
    """Whatever ``receive`` does on its cancellation, the listener does not outlive ``stop()``."""
    listen = Listen(manner)
    listener = start_listener(listen())
    for _ in range(turns):
        await checkpoint()
    await stop_in_time(listener)
    assert listen.ended or not listen.began
    await stop_in_time(listener)


@pytest.mark.usefixtures("leaves_listeners_behind")
async def test_listener_that_swallows_its_cancellation_is_left_behind() -> None:
    """A server that does not let go of its listener does not hold up the response."""
    assert _watch._STOP_SECONDS <= 0.01
    listen = Listen("swallows")
    listener = start_listener(listen())
    await settle()
    await stop_in_time(listener)
    assert not listen.ended
    listen.release.set()
    await settle()
    assert listen.ended


@only_asyncio
@pytest.mark.usefixtures("leaves_listeners_behind")
async def test_listener_that_swallows_a_native_cancellation_is_left_behind() -> None:
    """The same for ``receive`` that catches ``CancelledError`` and waits on."""
    release = asyncio.Event()

    async def listen() -> None:
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            await release.wait()

    listener = start_listener(listen())
    await settle()
    await stop_in_time(listener)
    release.set()
    await settle()


@pytest.mark.parametrize("manner", ["waits", "cleans up"])
async def test_listener_cancelled_ends_by_itself(manner: str) -> None:
    """``cancel()`` waits for nothing; the loop does the rest."""
    listen = Listen(manner)
    listener = start_listener(listen())
    await settle()
    listener.cancel()
    assert not listen.ended
    await settle()
    assert listen.ended
    listener.cancel()
    await stop_in_time(listener)


async def test_listener_is_outside_of_every_scope_of_the_task() -> None:
    """A scope of the endpoint that is cancelled does not cancel the listener."""
    listen = Listen("waits")
    with anyio.CancelScope() as scope:
        listener = start_listener(listen())
        scope.cancel()
        await checkpoint()
    await settle()
    assert listen.began
    assert not listen.ended
    await stop(listener)


@pytest.mark.parametrize("manner", ["waits", "returns", "cleans up"])
async def test_listener_stopped_in_a_cancelled_scope_has_ended(manner: str) -> None:
    """The usual way of a disconnect: the scope around is cancelled, and still nothing is left behind."""
    listen = Listen(manner)
    listener = start_listener(listen())
    await settle()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await stop_in_time(listener)
        assert listen.ended
    assert listen.ended


@only_asyncio
@pytest.mark.parametrize("manner", ["waits", "cleans up"])
@pytest.mark.parametrize("turns", range(4))
async def test_listener_stopped_by_a_task_that_is_cancelled_has_ended(manner: str, turns: int) -> None:
    """A native cancellation that arrives meanwhile is raised, after the listener has ended."""
    listen = Listen(manner)
    listener = start_listener(listen())
    await settle()
    task = asyncio.create_task(stop(listener))
    for _ in range(turns):
        await asyncio.sleep(0)
    was_done = task.done()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled() or was_done
    if turns:
        assert listen.ended
    else:
        await stop(listener)


@pytest.mark.parametrize("anyio_backend", BACKENDS[:1])  # uvloop's own loop takes no eager factory on every Python
@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks are new in Python 3.12")
@pytest.mark.parametrize("manner", ["waits", "ends at once", "cleans up"])
async def test_listener_with_eager_tasks_is_stopped(manner: str) -> None:
    """A loop whose tasks start at once makes no difference."""
    loop = asyncio.get_running_loop()
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined, unused-ignore]
    try:
        listen = Listen(manner)
        listener = start_listener(listen())
        assert listen.began
        await stop_in_time(listener)
        assert listen.ended
    finally:
        loop.set_task_factory(None)


# --- which backend -----------------------------------------------------------------------------------


async def test_is_trio_tells_the_backend(anyio_backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked within a task, whether trio is imported or not."""
    expected = anyio_backend[0] == "trio"
    assert is_trio() is expected
    assert (running_asyncio_task() is None) is expected
    if not expected:
        monkeypatch.setattr(_watch, "_modules", {})
        assert is_trio() is False


def test_running_asyncio_task_without_a_loop_is_none() -> None:
    """Outside of every loop there is no task, and no error."""
    assert running_asyncio_task() is None


# --- shielded cleanup --------------------------------------------------------------------------------


class Cleanup:
    """Some turns of work whose end can be asked for."""

    def __init__(self, inner: Callable[[], Awaitable[object]] | None = None) -> None:
        self.inner = inner
        self.ended = False
        self.seen: list[str] = []

    async def __call__(self) -> None:
        try:
            for _ in range(4):
                await checkpoint()
            if self.inner is not None:
                await self.inner()
            for _ in range(4):
                await checkpoint()
            self.ended = True
        except BaseException as exc:
            self.seen.append(type(exc).__name__)
            raise


@pytest.mark.parametrize("seconds", [None, 5])
async def test_run_shielded_runs_to_the_end(seconds: float | None, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing disturbs it, nothing is logged; work that never suspends is done as well."""
    cleanup = Cleanup()
    await run_shielded(cleanup(), seconds)
    assert cleanup.ended

    async def nothing() -> None:
        cleanup.seen.append("nothing")

    await run_shielded(nothing(), seconds)
    assert cleanup.seen == ["nothing"]
    assert caplog.records == []


@pytest.mark.parametrize("seconds", [None, 5])
async def test_run_shielded_in_a_cancelled_scope_runs_to_the_end(seconds: float | None) -> None:
    """A scope that is cancelled before or meanwhile does not cut it short."""
    for meanwhile in (False, True):
        with anyio.CancelScope() as scope:

            async def cancel(scope: anyio.CancelScope = scope) -> None:
                scope.cancel()

            cleanup = Cleanup(cancel)
            if not meanwhile:
                scope.cancel()
            await run_shielded(cleanup(), seconds)
        assert cleanup.ended


async def test_run_shielded_beyond_its_time_is_cut_short_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The deadline is the one thing that ends it; the caller goes on."""
    cleanup = Cleanup(anyio.sleep_forever)
    with anyio.fail_after(5):
        await run_shielded(cleanup(), 0.02)
        await checkpoint()
    assert not cleanup.ended
    assert caplog.messages == ["cleanup did not end within 0.02 seconds and was cancelled"]


@only_asyncio
@pytest.mark.parametrize("turns", range(1, 10))
@pytest.mark.parametrize("times", [1, 3])
async def test_run_shielded_holds_against_native_cancellation(turns: int, times: int) -> None:
    """``Task.cancel()`` at any turn, also repeated, is held back, and raised when the cleanup has ended."""
    cleanup = Cleanup()
    task = asyncio.create_task(run_shielded(cleanup(), 5))
    for _ in range(turns):
        await asyncio.sleep(0)
    if task.done():
        return
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cleanup.ended
    assert cleanup.seen == []


@only_asyncio
async def test_run_shielded_holds_while_it_waits_for_anything() -> None:
    """Futures, tasks, threads, sleeps and locks: whatever the cleanup waits for, it gets it."""
    loop = asyncio.get_running_loop()

    async def child() -> int:
        await asyncio.sleep(0.01)
        return 1

    async def inner() -> None:
        future: asyncio.Future[int] = loop.create_future()
        loop.call_later(0.01, future.set_result, 2)
        lock = asyncio.Lock()
        results.append(await asyncio.create_task(child()))
        results.append(await future)
        results.append(await anyio.to_thread.run_sync(lambda: 3))
        async with lock:
            await asyncio.sleep(0.01)
        failed: asyncio.Future[int] = loop.create_future()
        loop.call_soon(failed.set_exception, LookupError("future"))
        try:
            await failed
        except LookupError:
            results.append(4)

    results: list[int] = []
    cleanup = Cleanup(inner)
    task = asyncio.create_task(run_shielded(cleanup(), 5))
    await asyncio.sleep(0)
    while not task.done():
        task.cancel()
        await asyncio.sleep(0.002)
    assert task.cancelled()
    assert cleanup.ended
    assert results == [1, 2, 3, 4]


async def inside_timeout() -> str:
    try:
        async with asyncio.timeout(0.02):
            await asyncio.sleep(5)
    except TimeoutError:
        return "timed out"
    return "no timeout"


async def inside_wait_for() -> str:
    try:
        await asyncio.wait_for(asyncio.sleep(5), 0.02)
    except TimeoutError:
        return "timed out"
    return "no timeout"


async def inside_move_on() -> str:
    with anyio.move_on_after(0.02):
        await anyio.sleep(5)
    return "timed out"


async def inside_scope() -> str:
    with anyio.CancelScope() as scope:
        asyncio.get_running_loop().call_later(0.02, scope.cancel)
        await anyio.sleep(5)
    return "timed out" if scope.cancelled_caught else "not caught"


async def inside_turns() -> str:
    with anyio.CancelScope() as scope:
        asyncio.get_running_loop().call_later(0.02, scope.cancel)
        while True:
            await asyncio.sleep(0)
    return "timed out" if scope.cancelled_caught else "not caught"


async def inside_group() -> str:
    async def fail() -> None:
        await asyncio.sleep(0.02)
        raise LookupError

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())
            await asyncio.sleep(5)
    except BaseExceptionGroup:
        return "timed out"
    return "no error"


async def inside_anyio_group() -> str:
    async def fail() -> None:
        await anyio.sleep(0.02)
        raise LookupError

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(fail)
            await anyio.sleep(5)
    except BaseExceptionGroup:
        return "timed out"
    return "no error"


@turn_time_on_asyncio
@pytest.mark.parametrize("cancelled", ["never", "before", "meanwhile"])
@pytest.mark.parametrize(
    "inside",
    [inside_timeout, inside_wait_for, inside_move_on, inside_scope, inside_turns, inside_group, inside_anyio_group],
    ids=lambda inside: inside.__name__,
)
async def test_run_shielded_lets_timeouts_inside_of_it_work(
    cancelled: str, inside: Callable[[], Awaitable[str]]
) -> None:
    """What the cleanup sets itself ends what it is meant to end, and nothing more, natively cancelled or not."""
    results: list[str] = []

    async def inner() -> None:
        results.append(await inside())

    cleanup = Cleanup(inner)
    task = asyncio.create_task(run_shielded(cleanup(), 5))
    if cancelled == "before":
        await asyncio.sleep(0)
        task.cancel()
    elif cancelled == "meanwhile":
        await asyncio.sleep(0.01)
        task.cancel()
    await asyncio.wait([task], timeout=5)
    assert task.done()
    assert results == ["timed out"]
    assert cleanup.ended
    assert task.cancelled() is (cancelled != "never")


@turn_time_on_asyncio
@pytest.mark.parametrize("around", ["timeout", "wait_for", "TaskGroup", "task group"])
async def test_run_shielded_holds_against_what_is_around_it(around: str) -> None:
    """A timeout or a task group of the server cancels natively, too, from inside asyncio; it is held back as well."""

    async def inner() -> None:
        await asyncio.sleep(0.05)

    async def fail() -> None:
        await asyncio.sleep(0.01)
        raise LookupError

    cleanup = Cleanup(inner)
    if around == "timeout":
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await run_shielded(cleanup(), 5)
    elif around == "wait_for":
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(run_shielded(cleanup(), 5), 0.01)
    elif around == "TaskGroup":
        with pytest.raises(BaseExceptionGroup):
            async with asyncio.TaskGroup() as group:
                group.create_task(fail())
                await run_shielded(cleanup(), 5)
    else:
        with pytest.raises(BaseExceptionGroup):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(fail)
                await run_shielded(cleanup(), 5)
    assert cleanup.seen == []
    assert cleanup.ended


@turn_time_on_asyncio
async def test_run_shielded_beyond_its_time_and_cancelled_natively_is_cut_short(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The deadline works also after a cancellation was held back, and that is raised then."""
    cleanup = Cleanup(anyio.sleep_forever)
    task = asyncio.create_task(run_shielded(cleanup(), 0.03))
    await asyncio.sleep(0.01)
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=5)
    assert done
    assert task.cancelled()
    assert not cleanup.ended
    assert caplog.messages == ["cleanup did not end within 0.03 seconds and was cancelled"]


@only_asyncio
async def test_run_shielded_within_another_holds() -> None:
    """A cleanup within a cleanup, each with its own time."""
    inner = Cleanup()

    async def nested() -> None:
        await run_shielded(inner(), 5)

    outer = Cleanup(nested)
    task = asyncio.create_task(run_shielded(outer(), 5))
    await asyncio.sleep(0)
    while not task.done():
        task.cancel()
        await asyncio.sleep(0)
    assert task.cancelled()
    assert inner.ended
    # The inner one raises what it held back; the outer one may stop there, but never within the inner.
    assert inner.seen == []


@only_asyncio
async def test_run_shielded_given_up_by_the_loop_is_closed_quietly() -> None:
    """A coroutine that is thrown away, in whatever context that happens, raises nothing."""
    seen: list[str] = []

    async def work() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            seen.append("closed")

    coro = run_shielded(work(), None)
    contextvars.copy_context().run(coro.send, None)
    coro.close()
    assert seen == ["closed"]
