"""Time that does not depend on the machine: a clock that only the test moves, and loops whose time is made of turns."""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import importlib.util
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

# --- a clock that only the test moves --------------------------------------------------------------------


class Clock:
    """Stands still but for the work that a test does on it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def work(self, seconds: float) -> None:
        """Let so much time pass, as a parser or a socket that holds the loop does."""
        self.now += seconds


class Beats:
    """Another task of the loop, that wants a turn at any time.

    Args:
        clock: What its waiting is measured by.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.turns = 0
        """How many turns it had."""
        self.longest = 0.0
        """The longest time that it had to wait for one, in seconds of the clock."""

    async def _beat(self, over: anyio.Event) -> None:
        last = self._clock.now
        while not over.is_set():
            await checkpoint()
            self.longest = max(self.longest, self._clock.now - last)
            last = self._clock.now
            self.turns += 1

    async def during(self, work: Callable[[], Awaitable[object]]) -> None:
        """Run ``work`` beside it. What does not end within half a minute hangs."""
        over = anyio.Event()
        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                group.start_soon(self._beat, over)
                await checkpoint()
                await checkpoint()
                self.turns = 0
                await work()
                over.set()


# --- loops whose time is made of turns -------------------------------------------------------------------

TURN_SECONDS = 0.001


class _TurnTime:
    """Timers of an asyncio loop by a clock that goes on by a millisecond each turn, while a timer is set.

    However slow the machine is, two timers end in their order and with the same number of turns between them.
    Worker threads do not take part: for what waits for them time runs fast.
    """

    def __init__(self) -> None:
        super().__init__()
        self._now = 1000.0
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._numbers = count()
        self._is_turning = False

    def time(self) -> float:
        return self._now

    def call_later(
        self, delay: float, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)  # type: ignore[arg-type]
        heapq.heappush(self._timers, (when, next(self._numbers), handle))
        if not self._is_turning:
            self._is_turning = True
            self.call_soon(self._turn)  # type: ignore[attr-defined]
        return handle

    def _turn(self) -> None:
        while self._timers and self._timers[0][2].cancelled():
            heapq.heappop(self._timers)
        self._is_turning = bool(self._timers)
        if not self._timers:
            return
        self._now += TURN_SECONDS
        while self._timers and self._timers[0][0] <= self._now:
            self.call_soon(_run, heapq.heappop(self._timers)[2])  # type: ignore[attr-defined]
        self.call_soon(self._turn)  # type: ignore[attr-defined]

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Called by each timer that is cancelled; it is passed over when its time comes."""


def _run(handle: asyncio.TimerHandle) -> None:
    # What ran before it in this turn may have cancelled it.
    if not handle.cancelled():
        handle._run()


class _AsyncioTurns(_TurnTime, asyncio.SelectorEventLoop):  # type: ignore[misc]
    pass


def _trio_turns() -> tuple[str, dict[str, Any]]:
    import trio.testing

    # Jumps when every task waits.
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


_ASYNCIO: list[Any] = [pytest.param(("asyncio", {"loop_factory": _AsyncioTurns}), id="asyncio")]
if importlib.util.find_spec("uvloop"):
    import uvloop

    class _UvloopTurns(_TurnTime, uvloop.Loop):  # type: ignore[misc]
        pass

    _ASYNCIO.append(pytest.param(("asyncio", {"loop_factory": _UvloopTurns}), id="uvloop"))
_TRIO = [pytest.param(_trio_turns, id="trio")] if importlib.util.find_spec("trio") else []

turn_time = pytest.mark.parametrize("anyio_backend", [*_ASYNCIO, *_TRIO], indirect=True)
"""For tests of what ends, or does not end, by a timer. Not for those that use worker threads."""

turn_time_on_asyncio = pytest.mark.parametrize("anyio_backend", _ASYNCIO, indirect=True)
"""The same for what only asyncio has."""
