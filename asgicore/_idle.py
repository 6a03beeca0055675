"""The idle timeout of a body: how long to wait for one message.

A scope with a deadline around every ``receive`` costs 4 to 8 us a message, more than the message itself. On
asyncio a message is stepped by hand, which tells whether it has to be waited for at all, and a stream of messages is
looked after by a timer that costs a message nothing. Trio can cancel by scopes alone, and gets one where a message has
to be waited for.
"""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Coroutine
from math import inf
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any, Final, cast

from anyio import move_on_after

from ._late_scope import EARLY, ScopeAround, innermost_scope, outermost_since
from ._watch import is_trio, resume, running_asyncio_task
from .errors import BodyTimeoutError
from .types import Message, Receive

# A timer looks this often within the timeout: it fires at most a quarter late.
_LOOKS = 4
# And so often when the time for all of it is over.
_LATE_SECONDS: Final = 0.05


class _Settled:
    """The body, as ``resume()`` sees it, where nobody watches."""

    is_settled = True
    is_dropped: bool = False  # nobody asks this one

    def suspended(self) -> None:
        pass


_SETTLED = _Settled()


async def as_coroutine(awaitable: Awaitable[Message]) -> Message:
    """Wrap an awaitable that is no coroutine (Granian's): only coroutines can be stepped."""
    return await awaitable


async def receive_within(receive: Receive, seconds: float | None) -> Message:
    """Receive one message.

    Raises:
        BodyTimeoutError: None came within ``seconds``.
    """
    if seconds is None:
        return await receive()
    outer = innermost_scope() if is_trio() else None
    if outer is EARLY:
        with move_on_after(seconds):
            return await receive()
        raise BodyTimeoutError(seconds)
    coro = as_coroutine(receive())
    try:
        yielded = coro.send(None)
    except StopIteration as stop:
        message: Message = stop.value
        return message
    return await resume_within(coro, yielded, outermost_since(outer), seconds)


async def resume_within(coro: Coroutine[Any, Any, Message], yielded: Any, held: Any, seconds: float | None) -> Message:
    """Go on with a ``receive`` that has suspended.

    Args:
        held: What ``outermost_since()`` gives: on trio, the scopes that the ``receive`` holds.

    Raises:
        BodyTimeoutError: It did not end within ``seconds``.
    """
    if seconds is None:
        return await resume(coro, yielded, _SETTLED)
    if is_trio():
        with ScopeAround(cast("Any", innermost_scope()) if held is None else held.parent) as scope:
            scope.expire(seconds)
            return await resume(coro, yielded, _SETTLED)
        raise BodyTimeoutError(seconds)
    timeout = asyncio.timeout(seconds)
    try:
        async with timeout:
            return await resume(coro, yielded, _SETTLED)
    except TimeoutError:
        if timeout.expired():
            raise BodyTimeoutError(seconds) from None
        raise


_GENERATOR: Final[type[Any]] = AsyncGeneratorType
_STEPPED: Final[tuple[type[Any], ...]] = (CoroutineType, GeneratorType, AsyncGeneratorType)


def _waits_in(awaited: Any, source: object) -> bool:
    """Whether a coroutine waits for the generator ``source``, through whatever it awaits."""
    while awaited is not None and awaited is not source:
        kind = cast("type[object]", type(awaited))
        if kind is CoroutineType:
            awaited = awaited.cr_await
        elif kind is AsyncGeneratorType:
            awaited = awaited.ag_await
        elif kind is GeneratorType:
            if awaited.gi_yieldfrom is None and awaited.gi_frame is not None:
                # One that forwards by hand, as resume() does: what it steps is among its variables.
                held = awaited.gi_frame.f_locals.values()
                return any(_waits_in(one, source) for one in held if isinstance(one, _STEPPED))
            awaited = awaited.gi_yieldfrom
        else:
            # The step of an asynchronous generator does not tell whose it is, but refers to it.
            referents: list[Any] = gc.get_referents(awaited)
            awaited = next((one for one in referents if type(one) is _GENERATOR), None)
    return awaited is source


class IdleTimer:
    """Looks after a generator that receives messages, on asyncio.

    Args:
        source: The generator. While it waits, ``ag_await`` is the call of ``receive`` that it waits for:
            the same call at every look within ``seconds`` is a client that sends nothing.
        seconds: The idle timeout.
        left: How long all that follows may take.
    """

    __slots__ = (
        "_cancelling",
        "_deadline",
        "_handle",
        "_looks",
        "_loop",
        "_pause",
        "_seen",
        "_source",
        "_task",
        *("expired", "is_late"),
    )

    def __init__(
        self, source: AsyncGeneratorType[bytes, None], seconds: float | None, left: float | None = None
    ) -> None:
        # Weak: a stream that is dropped half-read must not be kept alive by its timer.
        self._source = weakref.ref(source)
        self._seen: Any = None
        self._looks = 0
        self._task = cast("asyncio.Task[Any]", running_asyncio_task())
        self._cancelling = 0
        self._loop = asyncio.get_running_loop()
        self.expired = False
        self.is_late = False
        self._pause = inf if seconds is None else seconds / _LOOKS
        self._deadline = inf if left is None else self._loop.time() + left
        self._handle = self._look_later()

    def _look_later(self) -> asyncio.TimerHandle:
        left = self._deadline - self._loop.time()
        # When the time is over, whoever has a part may do with it as he likes; he is asked again when he waits.
        # uvloop counts milliseconds, and would call at once for less.
        return self._loop.call_later(min(self._pause, max(left, 0.002) if left > 0 else _LATE_SECONDS), self._look)

    def _look(self) -> None:
        source = self._source()
        if source is None:
            return
        waits_for: Any = source.ag_await
        self.is_late = waits_for is not None and self._loop.time() >= self._deadline
        if waits_for is None or waits_for is not self._seen:
            self._seen = waits_for
            self._looks = 0
        else:
            self._looks += 1
        if self._looks < _LOOKS and not self.is_late:
            self._handle = self._look_later()
            return
        # The stream may have been handed to another task since it began, and none else may be cancelled. Where whoever
        # waits hides it (an awaitable in C that steps another one), it is taken for the task that began.
        waiting = (task for task in asyncio.all_tasks(self._loop) if _waits_in(task.get_coro(), source))
        self._task = next(waiting, self._task)
        self._cancelling = self._task.cancelling()
        self.expired = True
        self._task.cancel()

    def take_back(self) -> bool:
        """Whether the cancellation that arrived is this timer's and nobody else's; if so it is taken back."""
        return self.expired and self._task.uncancel() <= self._cancelling

    def stop(self) -> None:
        """Look no more, and let go of the generator."""
        self._handle.cancel()
        self._seen = None
