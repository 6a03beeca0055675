"""The process is told to stop, which a server tells its application only when every stream has ended."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from types import FrameType
from typing import Any, Final, Protocol

from anyio import Event, create_task_group, sleep

from ._watch import is_trio, start_listener, stop

__all__ = ["close_on_signals"]

# Ctrl-C, what process managers send, and Ctrl-Break on Windows.
_NAMES: Final = ("SIGINT", "SIGTERM", "SIGBREAK")

# How often requests are closed that began since: a browser reconnects while the server still listens.
_AGAIN_SECONDS: Final = 0.1


class Closable(Protocol):
    """A handler."""

    async def aclose(self, grace_seconds: float = ...) -> None: ...


@asynccontextmanager
async def close_on_signals(
    handler: Closable, *others: Closable, grace_seconds: float = 1.0
) -> AsyncGenerator[None, None]:
    """Within the block, close the handlers when the process is told to stop: by SIGINT, SIGTERM or SIGBREAK.

    Most servers wait for open streams before they run the end of the lifespan, and streams of events have no end. This
    is a lifespan by itself, ``Handler(endpoint, lifespan=close_on_signals)``, or goes around the ``yield`` of another.
    The server's own handling of the signals goes on, and is all there is again after the block. A signal that has no
    handler of Python's is left alone, and so are all of them in another thread than the main one, which gets none.

    Args:
        handler: A ``Handler``.
        others: Further ones.
        grace_seconds: As for ``Handler.aclose()``. Shorter than there: a stream of events would use all of it.
    """
    told = Event()

    async def close() -> None:
        await told.wait()
        while True:
            async with create_task_group() as group:
                for one in (handler, *others):
                    group.start_soon(one.aclose, grace_seconds)
            await sleep(_AGAIN_SECONDS)

    with _listening(_caller(told.set)):
        closing = start_listener(close())
        try:
            yield
        finally:
            await stop(closing)


def _caller(function: Callable[[], object]) -> Callable[[], object]:
    """Calls ``function`` on the current loop, from wherever a signal interrupts it."""
    if is_trio():
        import trio

        token = trio.lowlevel.current_trio_token()
        return lambda: token.run_sync_soon(function, idempotent=True)
    loop = asyncio.get_running_loop()
    return lambda: loop.call_soon_threadsafe(function)


@contextmanager
def _listening(notify: Callable[[], object]) -> Generator[None, None, None]:
    """Call ``notify`` when a signal comes, and then whoever handled it before.

    Where the event loop handles signals itself, it learns of them before any handler of Python's and in another way.
    """
    is_over = False
    previous: dict[int, Callable[[int, FrameType | None], Any]] = {}

    def on_signal(number: int, frame: FrameType | None) -> None:
        if not is_over:  # somebody may have put a handler of theirs before this one, and call it still
            with suppress(RuntimeError):  # the loop is closed
                notify()
        previous[number](number, frame)

    try:
        for name in _NAMES:
            number = getattr(signal, name, None)
            before = None if number is None else signal.getsignal(number)
            if number is not None and callable(before):
                previous[number] = before
                signal.signal(number, on_signal)
    except ValueError:
        previous.clear()  # not the main thread
    try:
        yield
    finally:
        is_over = True
        for number, before in previous.items():
            if signal.getsignal(number) is on_signal:
                signal.signal(number, before)
