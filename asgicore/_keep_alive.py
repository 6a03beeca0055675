"""Something to send while a stream waits for its next part, so that nobody takes the connection for dead.

The parts are asked for in the request's own task, and nothing disturbs that. What is sent between them comes from a
task beside it, which begins when the request first waits. While it sends, a part that is ready waits for that one send.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, Protocol

from anyio import Event, sleep

from ._chunks import start_thread_of, stop_thread_of
from ._watch import Listener, is_trio, start_listener, stop

__all__ = ["Connection", "KeepAlive"]

# Timers of uvloop are of whole milliseconds, and may end so much early.
_EARLY_SECONDS: Final = 0.001


class Connection(Protocol):
    """What a stream is sent on."""

    @property
    def is_open(self) -> bool:
        """Whether something may be sent between two parts."""
        ...

    async def send_between(self, part: bytes) -> None:
        """Send it; no other send is under way."""
        ...

    def lose(self, error: Exception) -> None:
        """Sending it has failed."""
        ...


def _clock() -> Callable[[], float]:
    """The clock that ``anyio.sleep()`` goes by, without the look-up that ``anyio.current_time`` makes each time."""
    if is_trio():
        import trio

        return trio.current_time
    return asyncio.get_running_loop().time


class KeepAlive:
    """An iterator over ``parts`` that has ``data`` sent when no part has come for ``seconds``.

    Args:
        parts: An asynchronous iterator; closed with this.
        seconds: How long nothing is sent, more than 0.
        data: What is sent then.
        connection: Where it is sent.
    """

    __slots__ = (
        "_clock",
        "_connection",
        "_data",
        "_error",
        "_is_sent",
        "_listener",
        "_next",
        "_parts",
        "_seconds",
        "_sending",
        "_sent_at",
        "_waits",
    )

    def __init__(self, parts: AsyncIterator[Any], seconds: float, data: bytes, connection: Connection) -> None:
        self._parts = parts
        self._next = parts.__anext__
        self._seconds = seconds
        self._data = data
        self._connection = connection
        self._clock = _clock()
        self._waits = False
        # When something was sent last, and whether it was the last part: an empty one is not sent.
        self._sent_at = self._clock()
        self._is_sent = True
        # Set when what is being sent was sent, None while nothing is.
        self._sending: Event | None = None
        self._error: Exception | None = None
        self._listener: Listener | None = None

    # --- for who sends the parts -----------------------------------------------------------------------

    def start_thread(self) -> None:
        """Have a thread begin, if one makes the parts."""
        start_thread_of(self._parts)

    def __aiter__(self) -> KeepAlive:
        return self

    async def __anext__(self) -> Any:
        if self._is_sent:
            self._sent_at = self._clock()
        self._waits = True
        try:
            part = await self._next()
        except StopAsyncIteration:
            self._waits = False
            if self._sending is not None:
                await self._settle(self._sending)
            raise
        finally:
            self._waits = False
        self._is_sent = bool(part)
        if self._sending is not None:
            await self._settle(self._sending)
        return part

    async def _settle(self, sent: Event) -> None:
        await sent.wait()
        if self._error is not None:
            raise self._error

    # --- beside it -----------------------------------------------------------------------------------

    def attend(self) -> None:
        """The request waits: from now on somebody looks at the clock. To be called once."""
        self._listener = start_listener(self._run())

    async def _run(self) -> None:
        while self._error is None:
            rest = self._rest()
            if rest > _EARLY_SECONDS:
                await sleep(rest)
            elif self._connection.is_open:
                await self._ping()
            else:
                return

    def _rest(self) -> float:
        """How long nothing has to be done."""
        return self._sent_at + self._seconds - self._clock() if self._waits else self._seconds

    async def _ping(self) -> None:
        self._sending = sent = Event()
        try:
            await self._connection.send_between(self._data)
        except Exception as exc:
            # Whoever waits for the next part is cancelled or, where nothing is cancelled, gets this with it.
            self._error = exc
            self._connection.lose(exc)
        else:
            self._sending = None
            self._sent_at = self._clock()
        finally:
            sent.set()

    # --- the end -------------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Send nothing any more, and close the parts."""
        try:
            listener, self._listener = self._listener, None
            if listener is not None:
                await stop(listener)
                if self._sending is not None:
                    await self._sending.wait()
        finally:
            self._error = None  # it knows the frames that know this
            close = getattr(self._parts, "aclose", None)
            if close is not None:
                await close()

    def stop_thread(self) -> None:
        """As ``aclose()``, as far as it goes without waiting."""
        if self._listener is not None:
            self._listener.cancel()
        stop_thread_of(self._parts)
