"""What only the tests of the engine need: turns of the loop, tasks that are made, loops that give up, long inputs."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
import sysconfig
import types
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from time import process_time
from typing import Any, TypeVar

import pytest
from anyio.lowlevel import checkpoint

from asgicore.testing._faults import count_awaits

T = TypeVar("T")

_ASYNCIO: list[Any] = [pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio")]
if importlib.util.find_spec("uvloop"):
    _ASYNCIO.append(pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"))

on_asyncio = pytest.mark.parametrize("anyio_backend", _ASYNCIO, indirect=True)
"""For tests of what only asyncio has, native cancellation above all."""


frees_at_once = pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    reason="without the GIL, what one thread has made and another lets go of waits for the first, or the collector",
)
"""For tests of what is freed without the collector after it has been in a worker thread."""


interim_passes = pytest.mark.filterwarnings("ignore:.*status-interim")
"""For tests of statuses from 100 to 199, which the lint does not recommend, and the engine sends as any other."""


def on_trio() -> bool:
    """Whether the current task is trio's."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return True
    return False


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


# --- threads that come in ----------------------------------------------------------------------------------


@contextmanager
def interrupted(function: Any, number: int, act: Callable[[], object]) -> Iterator[Callable[[], bool]]:
    """Call ``act`` before the ``number``-th instruction of a function, where another thread may come in.

    What is given tells whether it came so far.
    """
    left = number

    def trace(frame: Any, event: str, _: Any) -> Any:
        nonlocal left
        if frame.f_code is not function.__code__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            left -= 1
            if left == 0:
                act()
        return trace

    before = sys.gettrace()
    sys._getframe().f_trace_opcodes = True  # Python 3.12 looks at this when tracing begins
    sys.settrace(trace)
    try:
        yield lambda: left <= 0
    finally:
        sys.settrace(before)


# --- time ------------------------------------------------------------------------------------------------


@contextmanager
def linear_time() -> Iterator[None]:
    """A bound on work whose input is so long that it takes minutes where the time grows with its square."""
    began = process_time()
    yield
    assert process_time() - began < 5, "takes far longer than the length of the input tells"


# --- counting --------------------------------------------------------------------------------------------


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


async def turn(times: int = 1) -> None:
    """Let everything else go on for so many turns of the loop."""
    for _ in range(times):
        await checkpoint()


class Steps:
    """Runs a coroutine and acts when it suspends for the ``number``-th time."""

    def __init__(self, number: int, act: Callable[[], object]) -> None:
        self.number = number
        self.act = act
        self.has_acted = False

    async def run(self, coro: Coroutine[Any, Any, T]) -> T:
        """Await ``coro``; every suspension passes through here unchanged."""
        return await count_awaits(coro, self.number, self._reach)

    def _reach(self) -> None:
        self.has_acted = True
        self.act()
