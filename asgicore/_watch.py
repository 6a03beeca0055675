"""A watch over a request that costs nothing until its endpoint waits.

An endpoint is stepped once by hand. If it finishes, no task, handle or lock was made. If it suspends, a listener
starts that waits for the disconnect beside it, and ``resume()`` carries the endpoint on in the task that it began
in, so that its cancel scopes, timeouts and context variables stay valid. A task group would do the same for 50 us.

Source: PEP 342 and PEP 492 for the protocol of ``send`` and ``throw``.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import types
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import suppress
from contextvars import ContextVar
from math import inf
from time import perf_counter
from typing import Any, Final, Protocol, TypeVar, cast

from anyio import CancelScope, current_effective_deadline, move_on_after

T = TypeVar("T")

logger = logging.getLogger("asgicore")

FAIR_SECONDS = 0.0015
"""A channel that never suspends gives up the loop this often. A timer passes up to three such turns before the task
that it wakes runs, so that others wait for 5 ms at most."""

SLOW_STEP_SECONDS = 0.1
"""In debug mode a step that holds the event loop longer than this is reported: blocking code in an async function."""


class Progress(Protocol):
    """What ``resume()`` asks of the body whenever the endpoint suspends."""

    @property
    def is_settled(self) -> bool:
        """Whether nothing of the body is left to receive: suspensions need no more attention."""
        ...

    def suspended(self) -> None:
        """The endpoint waits for something."""
        ...

    is_dropped: bool
    """Whether the event loop has given the request up: nothing can be awaited any more."""


def running_asyncio_task() -> asyncio.Task[Any] | None:
    """The current asyncio task, ``None`` under trio (its guest mode on an asyncio loop included)."""
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


_modules = sys.modules
_current_task: Any = asyncio.current_task


def is_trio() -> bool:
    """Whether the current task is trio's."""
    # Nearly free where trio is not in use at all.
    if "trio" not in _modules:
        return False
    try:
        return _current_task() is None
    except RuntimeError:
        return True


def _delegate(coro: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
    # In a generator marked as a coroutine, "yield from" takes a coroutine, which typeshed does not know.
    return cast("Generator[Any, Any, T]", coro)


@types.coroutine
def resume(
    coro: Coroutine[Any, Any, T], yielded: Any, body: Progress, arrived: Callable[[Any], object] | None = None
) -> Generator[Any, Any, T]:
    """Carry on a coroutine whose first step yielded ``yielded``; awaited like the coroutine itself.

    Returns and raises what the coroutine does. ``body.suspended()`` is called at each suspension until the
    body is settled; ``arrived`` at each step, with the exception or the value that it is made with.
    """
    sent: Any = None
    try:
        while True:
            body.suspended()
            try:
                sent = yield yielded
            except BaseException as exc:
                if isinstance(exc, GeneratorExit):
                    body.is_dropped = True  # whatever the coroutine makes of it
                elif arrived is not None:
                    arrived(exc)
                yielded = coro.throw(exc)
            else:
                if arrived is not None:
                    arrived(sent)
                elif sent is None and body.is_settled:
                    # asyncio resumes with None, which is what "yield from" sends first: from here on the
                    # interpreter delegates, and a suspension costs what it costs without us.
                    return (yield from _delegate(coro))
                yielded = coro.send(sent)
    except StopIteration as stop:
        ended: T = stop.value
        return ended
    except GeneratorExit:
        body.is_dropped = True
        raise
    finally:
        # Trio sends outcomes, and one that is a cancellation refers to this frame.
        sent = None


class Closing:
    """Closes an asynchronous generator, as ``contextlib.aclosing``, unless the event loop has given the request up.

    Then nothing can be awaited, and the generator may be in the middle of a step.
    """

    __slots__ = ("_generator",)

    def __init__(self, generator: AsyncGenerator[Any, None]) -> None:
        self._generator = generator

    async def __aenter__(self) -> None:
        """Nothing is to be done."""

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not GeneratorExit:
            await self._generator.aclose()


async def timed(coro: Coroutine[Any, Any, T], label: str) -> T:
    """Run a coroutine and report each step that holds the event loop too long (debug mode)."""
    return await _time_steps(coro, label)


@types.coroutine
def _time_steps(coro: Coroutine[Any, Any, T], label: str) -> Generator[Any, Any, T]:
    step: Callable[[Any], Any] = coro.send
    argument: Any = None
    while True:
        began = perf_counter()
        try:
            yielded = step(argument)
        except StopIteration as stop:
            result: T = stop.value
            return result
        finally:
            held = perf_counter() - began
            if held > SLOW_STEP_SECONDS:
                logger.warning(
                    "%s held the event loop for %.0f ms; run blocking code in a worker thread", label, held * 1000
                )
        try:
            argument = yield yielded
            step = coro.send
        except BaseException as exc:
            argument = exc
            step = coro.throw


# How long a listener that was cancelled may take to end before it is left behind. A server's receive() that
# swallows the cancellation must not hold up the response; 5 ms is some hundred turns of a busy loop.
_STOP_SECONDS = 0.005


class AsyncioListener:
    """Runs ``listen`` in a task of its own."""

    __slots__ = ("_task",)

    def __init__(self, listen: Coroutine[Any, Any, None]) -> None:
        self._task = asyncio.get_running_loop().create_task(listen)

    def cancel(self) -> None:
        """As ``Listener``."""
        with suppress(RuntimeError):  # the loop is closed, and nothing of it runs any more
            self._task.cancel()

    def stop(self) -> Coroutine[Any, Any, None] | None:
        """As ``Listener``."""
        return None if self._task.done() else self._stop()

    async def _stop(self) -> None:
        self._task.cancel()
        try:
            # One turn of the loop, unless receive() awaits something in a cleanup of its own.
            await asyncio.sleep(0)
        except GeneratorExit:
            raise  # nothing can be awaited any more
        except BaseException:
            await self._settle()
            raise
        await self._settle()

    async def _settle(self) -> None:
        if not self._task.done():
            await run_shielded(self._wait(), None)

    async def _wait(self) -> None:
        await asyncio.wait((self._task,), timeout=_STOP_SECONDS)


class TrioListener:
    """Runs ``listen`` in a system task: a nursery would have to be open before the endpoint's first step."""

    __slots__ = ("_ended", "_scope")

    def __init__(self, listen: Coroutine[Any, Any, None]) -> None:
        import trio

        self._scope = trio.CancelScope()
        self._ended = trio.Event()
        trio.lowlevel.spawn_system_task(self._run, listen, name="asgicore listener")

    async def _run(self, listen: Coroutine[Any, Any, None]) -> None:
        try:
            with self._scope:
                await listen
        finally:
            self._ended.set()

    def cancel(self) -> None:
        """As ``Listener``."""
        self._scope.cancel()

    def stop(self) -> Coroutine[Any, Any, None] | None:
        """As ``Listener``."""
        self._scope.cancel()
        return None if self._ended.is_set() else self._wait()

    async def _wait(self) -> None:
        with move_on_after(_STOP_SECONDS, shield=True):
            await self._ended.wait()


class Listener(Protocol):
    """What waits for the disconnect beside a request."""

    def cancel(self) -> None:
        """Cancel it and leave it to the loop."""
        ...

    def stop(self) -> Coroutine[Any, Any, None] | None:
        """Cancel it.

        Returns:
            What waits for its end, for a few milliseconds at most; ``None`` if it has ended. A cancellation of the
            caller that arrives meanwhile is raised afterwards.
        """
        ...


def start_listener(listen: Coroutine[Any, Any, None]) -> Listener:
    """Start a coroutine beside the current task, outside of every scope; it must not raise."""
    return TrioListener(listen) if is_trio() else AsyncioListener(listen)


async def stop(listener: Listener) -> None:
    """Cancel a listener and wait for its end, as ``Listener.stop()`` says."""
    if (rest := listener.stop()) is not None:
        await rest


class Shield(Protocol):
    """A scope of somebody else's that can begin to shield."""

    def begin(self, seconds: float | None) -> None:
        """Shield what follows, for so long at most."""
        ...


async def run_shielded(work: Coroutine[Any, Any, None], seconds: float | None, shield: Shield | None = None) -> None:
    """Await cleanup in the current task so that nothing cuts it short but ``seconds``.

    An anyio shield does not hold against a native ``Task.cancel()``, which is what servers use. On asyncio
    such a cancellation is held back and raised when the cleanup has ended. ``work`` must not raise.

    Args:
        work: The cleanup.
        seconds: How long it may take.
        shield: Shields in place of a new scope; the cancellation after ``seconds`` is then raised here, for its owner.
    """
    if is_trio():
        await _run_until(work, seconds, shield)
        return
    mark = object()
    token = _cleanup.set(mark)
    try:
        await _hold(_run_until(work, seconds, shield), mark)
    finally:
        # Another context: the loop has given the task up, and somebody else closes its coroutine.
        with suppress(ValueError):
            _cleanup.reset(token)


async def _run_until(work: Coroutine[Any, Any, None], seconds: float | None, shield: Shield | None) -> None:
    if shield is not None:
        shield.begin(seconds)
        await _spend_cancellation()
        await work
        return
    with CancelScope(shield=True) if seconds is None else move_on_after(seconds, shield=True) as scope:
        await _spend_cancellation()
        await work
    if scope.cancel_called:
        log_cut(seconds)


def log_cut(seconds: float | None) -> None:
    """Tell that a cleanup took too long."""
    logger.warning("cleanup did not end within %g seconds and was cancelled", seconds)


# What a task yields, where it is cancelled already, before its cleanup begins.
_SPENDING: Final = object()


@types.coroutine
def _spend_cancellation() -> Generator[Any, Any, None]:
    # A native cancellation that has not arrived yet would hit the first thing that the cleanup waits for, and come
    # from the task's own context.
    task = running_asyncio_task()
    if task is not None and task.cancelling():
        yield _SPENDING


# Set while a cleanup runs, and so in every callback and task that begins in it: a timeout, task group or scope
# inside of the cleanup cancels the task from there, and must; whoever cancels without it is outside.
_cleanup: ContextVar[object] = ContextVar("asgicore_cleanup", default=None)


def is_held_back(error: BaseException | None) -> bool:
    """Whether this is a native cancellation that had to wait for a cleanup: no scope of ours may swallow it.

    No class of its own: ``asyncio.timeout`` knows ``CancelledError`` alone.
    """
    return getattr(error, "is_held_back", False)


def is_cancelled(error: BaseException) -> bool:
    """Whether a cancellation that arrived comes from outside: from a scope that the task is in still, or natively."""
    task = running_asyncio_task()
    return (
        (task is not None and task.cancelling() > 0)
        or getattr(error, "is_native", False)
        or current_effective_deadline() == -inf
    )


# What anyio says when a scope cancels a task; another text is taken for that of a native cancellation.
_OF_A_SCOPE: Final = "Cancelled via cancel scope "


class _Guard(asyncio.Future[None]):
    """What the task waits for in place of the cleanup's own future."""

    mark: object = None
    refused: bool = False
    refused_native: bool = False
    task: asyncio.Task[Any]

    def cancel(self, msg: Any | None = None) -> bool:
        if _cleanup.get() is self.mark:
            return super().cancel(msg)
        self.refused = True
        self.refused_native = self.refused_native or not str(msg).startswith(_OF_A_SCOPE)
        # As if it had not been asked for yet: a timeout inside of the cleanup counts the requests.
        self.task.uncancel()
        return True

    def settle(self, _: object) -> None:
        if not self.done():
            self.set_result(None)


@types.coroutine
def _hold(coro: Coroutine[Any, Any, None], mark: object) -> Generator[Any, Any, None]:
    loop, task = asyncio.get_running_loop(), cast("asyncio.Task[Any]", asyncio.current_task())
    refused = refused_native = False
    step: Callable[[Any], Any] = coro.send
    argument: Any = None
    try:
        while True:
            waited = step(argument)
            step, argument = coro.send, None
            guard = _Guard(loop=loop)
            # Before the cleanup begins, whoever cancels is outside.
            guard.mark, guard.task = mark if waited is not _SPENDING else _SPENDING, task
            if waited is _SPENDING:
                waited = None
            if waited is None:  # a bare yield: one turn of the loop
                loop.call_soon(guard.settle, None)
            else:
                # The protocol of asyncio futures: whoever yields one sets this, the task that takes it clears it.
                waited._asyncio_future_blocking = False
                waited.add_done_callback(guard.settle)
            try:
                yield from guard
            except asyncio.CancelledError as exc:
                if waited is not None:
                    waited.cancel()
                step, argument = coro.throw, exc
            refused = refused or guard.refused
            refused_native = refused_native or guard.refused_native
    except StopIteration:
        if refused:
            cancelled: Any = asyncio.CancelledError()
            cancelled.is_held_back = True
            cancelled.is_native = refused_native
            raise cancelled from None
