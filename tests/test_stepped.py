"""_stepped.py: a listener that is stepped by hand cannot tell, and takes a task only when somebody asks for it."""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from conftest import BACKENDS

from asgicore._stepped import SteppedListener
from asgicore._watch import stop
from asgicore.testing._living import tasks as living_tasks

ASYNCIO = [b for b in BACKENDS if b.values[0][0] == "asyncio"]
pytestmark = pytest.mark.parametrize("anyio_backend", ASYNCIO)

SECONDS = 5


class Scene:
    """A listener beside the current task, and what became of it."""

    def __init__(self, listen: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.left = 0
        self.ended = False
        self.error: BaseException | None = None
        self._listen = listen
        task = asyncio.current_task()
        assert task is not None
        self.task: asyncio.Task[Any] = task
        self.listener = SteppedListener(task, self._run(), self._leave)

    async def _run(self) -> None:
        try:
            await self._listen()
        except Exception as exc:
            self.error = exc
        finally:
            self.ended = True

    def _leave(self) -> None:
        self.left += 1

    async def stop(self) -> None:
        """``stop()`` returns."""
        with anyio.fail_after(SECONDS):
            await stop(self.listener)


async def settle() -> None:
    for _ in range(25):
        await checkpoint()


async def test_stepped_listener_stopped_where_it_waits_took_no_task_and_no_turn() -> None:
    """The usual request: ``receive`` waits, and the request ends."""
    event = asyncio.Event()
    before = living_tasks()
    scene = Scene(event.wait)  # type: ignore[arg-type]
    await settle()
    assert not scene.ended
    assert living_tasks() == before
    assert scene.listener.stop() is None  # nothing to be awaited
    assert scene.ended
    assert (scene.left, scene.error) == (0, None)
    assert living_tasks() == before
    event.set()
    await scene.stop()
    assert scene.left == 0


async def test_stepped_listener_whose_future_comes_tells_once_without_a_task() -> None:
    """A disconnect is told in the turn in which a task would have told it."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def listen() -> None:
        await future

    before = living_tasks()
    scene = Scene(listen)
    future.set_result(None)
    assert scene.left == 0
    await asyncio.sleep(0)
    assert (scene.left, scene.ended) == (1, True)
    assert living_tasks() == before
    await scene.stop()
    assert scene.left == 1


async def test_stepped_listener_waits_for_one_future_after_the_other() -> None:
    """Messages that are no disconnect are passed over, by hand as well."""
    queue: asyncio.Queue[bool] = asyncio.Queue()

    async def listen() -> None:
        while await queue.get():
            pass

    scene = Scene(listen)
    for more in (True, True, False):
        assert scene.left == 0
        queue.put_nowait(more)
        await settle()
    assert scene.left == 1
    await scene.stop()


@pytest.mark.parametrize("is_stopped", [False, True])
async def test_stepped_listener_that_ends_at_once_tells_when_the_task_waits(is_stopped: bool) -> None:
    """What it tells cancels the current task, which has to wait then; and nothing is told to one that has gone on."""

    async def listen() -> None:
        """The client has left already."""

    scene = Scene(listen)
    assert scene.ended
    assert scene.left == 0
    if is_stopped:
        await scene.stop()
    await settle()
    assert scene.left == (0 if is_stopped else 1)
    await scene.stop()


@pytest.mark.parametrize("moment", ["at once", "later"])
async def test_stepped_listener_that_is_cancelled_by_what_it_waits_for_tells_nothing(moment: str) -> None:
    """As a task: a server that cancels its own future ends the listener and nothing else."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    if moment == "at once":
        future.cancel()

    async def listen() -> None:
        await future

    scene = Scene(listen)
    future.cancel()
    await settle()
    assert (scene.ended, scene.left) == (True, 0)
    await scene.stop()
    assert not scene.task.cancelling()


async def test_stepped_listener_stopped_while_its_future_has_come_tells_nothing() -> None:
    """The response was sent, and the server says so before the listener is stopped."""
    event = asyncio.Event()
    scene = Scene(event.wait)  # type: ignore[arg-type]
    event.set()
    await scene.stop()
    assert scene.ended
    await settle()
    assert scene.left == 0


async def test_stepped_listener_with_a_timeout_of_its_own_is_cut_short_alone() -> None:
    """``asyncio.timeout`` cancels the task that it is entered in: that of the listener."""

    async def listen() -> None:
        async with asyncio.timeout(0.001):
            await asyncio.Event().wait()

    scene = Scene(listen)
    with anyio.fail_after(SECONDS):
        while not scene.ended:
            await asyncio.sleep(0.001)
    assert isinstance(scene.error, TimeoutError)
    assert not scene.task.cancelling()
    await settle()
    assert scene.left == 1
    await scene.stop()


async def test_stepped_listener_with_a_timeout_of_its_own_can_be_stopped() -> None:
    """Its end takes the timeout along."""

    async def listen() -> None:
        async with asyncio.timeout(SECONDS):
            await asyncio.Event().wait()

    scene = Scene(listen)
    await scene.stop()
    assert (scene.ended, scene.error, scene.left) == (True, None, 0)
    await settle()
    assert not scene.task.cancelling()


async def test_stepped_listener_with_a_cancel_scope_is_in_no_scope_of_the_request() -> None:
    """A scope of anyio's belongs to a task, and those of two tasks do not nest."""
    inner: list[anyio.CancelScope] = []

    async def listen() -> None:
        with anyio.CancelScope() as scope:
            inner.append(scope)
            await asyncio.Event().wait()

    with anyio.CancelScope() as outer:
        scene = Scene(listen)
        with anyio.CancelScope() as other:
            await checkpoint()
        inner[0].cancel()
        await settle()
        assert scene.ended
        await checkpoint()
    assert not outer.cancel_called
    assert not other.cancel_called
    assert inner[0].cancelled_caught
    assert (scene.error, scene.left) == (None, 1)
    await scene.stop()


async def test_stepped_listener_with_a_task_group_ends_with_its_children() -> None:
    """What a middleware puts around ``receive``: a group with a task beside it."""
    ended: list[str] = []

    async def child(name: str) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(name)

    async def anyio_group() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(child, "anyio")
            await asyncio.Event().wait()

    async def asyncio_group() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(child("asyncio"))
            await asyncio.Event().wait()

    before = living_tasks()
    for listen in (anyio_group, asyncio_group):
        scene = Scene(listen)
        await settle()
        await scene.stop()
        assert (scene.ended, scene.error, scene.left) == (True, None, 0)
    assert ended == ["anyio", "asyncio"]
    assert living_tasks() == before
    assert not scene.task.cancelling()


async def test_stepped_listener_changes_context_variables_for_itself_alone() -> None:
    """As in a task: a copy, in which tokens stay valid from the first step to the last."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    seen = []
    event = asyncio.Event()

    async def listen() -> None:
        seen.append(variable.get())
        token = variable.set("within")
        try:
            await event.wait()
            seen.append(variable.get())
        finally:
            variable.reset(token)

    variable.set("around")
    for wakes in (False, True):
        scene = Scene(listen)
        variable.set("later")
        if wakes:
            event.set()
            await settle()
        await scene.stop()
        assert variable.get() == "later"
    assert (scene.error, seen) == (None, ["around", "later", "within"])


async def test_stepped_listener_is_in_one_task_in_every_step() -> None:
    """By hand, in a task of its own and in its cleanup it finds the same one, which is not the request's."""
    found: list[Any] = []
    queue: asyncio.Queue[None] = asyncio.Queue()

    async def listen() -> None:
        try:
            while True:
                found.append(asyncio.current_task())
                await queue.get()
                found.append(asyncio.current_task())
                await asyncio.sleep(0)
        finally:
            found.append(asyncio.current_task())

    scene = Scene(listen)
    queue.put_nowait(None)
    await settle()
    await scene.stop()
    assert len(found) == 4
    assert len(set(map(id, found))) == 1
    assert found[0] is not scene.task
    assert asyncio.current_task() is scene.task


async def test_stepped_listener_whose_task_is_asked_for_goes_on_in_it() -> None:
    """Somebody keeps the task and asks or cancels it later: it is a real one, and what it waits for is cancelled."""
    kept: list[Any] = []
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def listen() -> None:
        kept.append(asyncio.current_task())
        await future

    scene = Scene(listen)
    await settle()
    assert not kept[0].done()
    assert kept[0] in asyncio.all_tasks() or kept[0].get_coro() is scene.listener
    await settle()
    assert not scene.ended
    kept[0].cancel()
    await settle()
    assert scene.ended
    assert future.cancelled()
    assert kept[0].cancelled()
    assert scene.left == 0
    await scene.stop()


async def test_stepped_listener_whose_task_is_cancelled_before_it_began_is_cancelled() -> None:
    """Asked for by the cancellation itself, the task has not taken over yet."""
    kept: list[Any] = []
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def listen() -> None:
        kept.append(asyncio.current_task())
        await future

    scene = Scene(listen)
    kept[0].cancel()
    await settle()
    assert scene.ended
    assert future.cancelled()
    await scene.stop()


async def test_stepped_listener_that_asks_for_its_task_and_ends_has_an_empty_task() -> None:
    """The task that was asked for finds nothing to do."""

    async def listen() -> None:
        task: Any = asyncio.current_task()
        task.set_name("listener")

    scene = Scene(listen)
    assert scene.ended
    await settle()
    assert scene.left == 1
    assert scene.listener.task().done()
    await scene.stop()


@pytest.mark.parametrize("steps", [1, 5])
async def test_stepped_listener_with_a_cleanup_that_waits_has_ended_after_stop(steps: int) -> None:
    """A scope that shields the cleanup belongs to the same task in all of it."""

    async def listen() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            with anyio.CancelScope(shield=True):
                for _ in range(steps):
                    await asyncio.sleep(0)

    scene = Scene(listen)
    await scene.stop()
    assert (scene.ended, scene.error, scene.left) == (True, None, 0)


@pytest.mark.usefixtures("leaves_listeners_behind")
async def test_stepped_listener_that_swallows_its_cancellation_is_left_behind() -> None:
    """A server that does not let go of its listener does not hold up the response, and tells nothing afterwards."""
    release = asyncio.Event()

    async def listen() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await release.wait()

    scene = Scene(listen)
    await scene.stop()
    assert not scene.ended
    release.set()
    await settle()
    assert (scene.ended, scene.left) == (True, 0)


async def test_stepped_listener_that_swallows_its_cancellation_and_ends_has_ended() -> None:
    """The same, where nothing is left to wait for."""

    async def listen() -> None:
        task: Any = asyncio.current_task()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            task.get_name()

    before = living_tasks()
    scene = Scene(listen)
    await scene.stop()
    assert (scene.ended, scene.left) == (True, 0)
    assert living_tasks() == before


async def test_stepped_listener_that_waits_for_a_task_takes_it_along() -> None:
    """What is no plain future is waited for by a task, which cancels it as tasks do."""
    ended: list[bool] = []

    async def work() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(True)

    async def listen() -> None:
        await asyncio.create_task(work())

    before = living_tasks()
    scene = Scene(listen)
    await settle()
    await scene.stop()
    assert ended == [True]
    assert scene.ended
    assert living_tasks() == before


@pytest.mark.parametrize("turns", [0, 3])
async def test_stepped_listener_that_gives_up_the_loop_goes_on_in_a_task(turns: int) -> None:
    """A channel that never waits is not run by hand."""
    passed: list[None] = []

    async def listen() -> None:
        while True:
            passed.append(None)
            await asyncio.sleep(0)

    scene = Scene(listen)
    for _ in range(turns):
        await asyncio.sleep(0)
    assert len(passed) >= 1 + turns // 2
    await scene.stop()
    assert (scene.ended, scene.left) == (True, 0)


@pytest.mark.parametrize("manner", ["waits", "in a task", "over"])
async def test_stepped_listener_cancelled_ends_by_itself(manner: str) -> None:
    """``cancel()`` waits for nothing: for a request that the loop has given up."""

    async def listen() -> None:
        if manner == "in a task":
            await asyncio.sleep(0)
        if manner != "over":
            await asyncio.Event().wait()

    scene = Scene(listen)
    scene.listener.cancel()
    await settle()
    assert (scene.ended, scene.left) == (True, 0)
    scene.listener.cancel()
    scene.listener.close()
    await scene.stop()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks are new in Python 3.12")
@pytest.mark.parametrize("manner", ["waits", "asks", "turns"])
async def test_stepped_listener_with_eager_tasks_is_stopped(manner: str) -> None:
    """A loop whose tasks start at once makes no difference."""

    async def listen() -> None:
        if manner == "asks":
            task: Any = asyncio.current_task()
            task.get_name()
        while manner == "turns":
            await asyncio.sleep(0)
        await asyncio.Event().wait()

    loop = asyncio.get_running_loop()
    if not isinstance(loop, asyncio.BaseEventLoop):
        pytest.skip("uvloop's own loop takes no eager factory on every Python")
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined, unused-ignore]
    try:
        scene = Scene(listen)
        await settle()
        await scene.stop()
        assert (scene.ended, scene.error, scene.left) == (True, None, 0)
    finally:
        loop.set_task_factory(None)


@pytest.mark.parametrize("manner", ["at once", "later", "in a task"])
async def test_stepped_listener_tells_within_a_task(manner: str) -> None:
    """Whoever is told may ask for the current task, which is not the request's."""
    event = asyncio.Event()
    found: list[Any] = []

    async def listen() -> None:
        if manner != "at once":
            await event.wait()
        if manner == "in a task":
            await asyncio.sleep(0)

    task: Any = asyncio.current_task()
    listener = SteppedListener(task, listen(), lambda: found.append(asyncio.current_task()))
    event.set()
    await settle()
    assert len(found) == 1
    assert found[0] not in (None, task)
    with anyio.fail_after(SECONDS):
        await stop(listener)


async def test_stepped_listener_that_is_interrupted_lets_that_through() -> None:
    """Control-C ends the process, whatever runs at that moment."""

    async def listen() -> None:
        raise KeyboardInterrupt

    task = asyncio.current_task()
    assert task is not None
    with pytest.raises(KeyboardInterrupt):
        SteppedListener(task, listen(), lambda: None)


@pytest.mark.parametrize("is_in_a_task", [False, True])
async def test_stepped_listener_that_fails_tells_like_one_that_ends(is_in_a_task: bool) -> None:
    """What failed is known to whoever it listened for; nothing of it is logged, and no task complains."""
    event = asyncio.Event()

    async def listen() -> None:
        await event.wait()
        if is_in_a_task:
            await asyncio.sleep(0)
        raise OSError("the connection is lost")

    left: list[None] = []
    task = asyncio.current_task()
    assert task is not None
    listener = SteppedListener(task, listen(), lambda: left.append(None))
    event.set()
    await settle()
    assert (len(left), listener.is_over) == (1, True)
    with anyio.fail_after(SECONDS):
        await stop(listener)
