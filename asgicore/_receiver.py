"""The channel from the server: the only caller of ``receive`` while a request lives.

It checks, counts and bounds what comes, and keeps apart the two who want messages: the application, and the listener
that waits for the client to leave.

Source: ASGI HTTP specification 2.5, "Request - receive event", "Disconnect - receive event".
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from itertools import repeat
from time import perf_counter
from types import AsyncGeneratorType
from typing import Any, Final, cast

from anyio import CancelScope, Event, current_time, move_on_after
from anyio.lowlevel import checkpoint

from ._channel import TAPPED
from ._idle import IdleTimer, receive_within
from ._state import REQUEST, RequestEvent, RequestState
from ._watch import FAIR_SECONDS, is_trio
from .errors import (
    BodyTimeoutError,
    BodyTooLargeError,
    ClientDisconnectedError,
    MalformedBodyError,
    ServerProtocolError,
)
from .limits import Limits
from .types import Message, Receive, Scope

# How often the clock is looked at: 50 ns every 16 messages are not felt, and 16 messages of 64 KiB are hashed in 2 ms.
_CLOCK_EVERY: Final = 16

_READING = RequestState.READING

DISCONNECT: Final = {"type": "http.disconnect"}

# The listener is inside receive(); its message is not there yet.
_PENDING: Final[Message] = {"type": "pending"}

# Nothing more will come: whoever takes this gets the failure.
_FAILED: Final[Message] = {"type": "failed"}

# How often a parked listener looks whether a part was taken by a task that it knows nothing of.
_LOOK_AGAIN_SECONDS: Final = 0.05


def _kind(message: object) -> object:
    """The type of a message; for what is no message its Python type, which no message has."""
    if isinstance(message, Mapping):
        return cast("Message", message).get("type")
    return type(message)


def _is_last(message: Message | None) -> bool:
    """Whether a message read ahead ends the body."""
    return message is not None and _kind(message) == "http.request" and not message.get("more_body")


class Receiver:
    """Messages from the server, checked and counted, and the news that the client left.

    Called like ``receive`` itself it gives the next message.
    """

    # Set by Body: a call less for each request.
    _receive: Receive
    """The server's channel. Nobody else may call it."""
    limits: Limits
    """``max_body_bytes``, ``body_timeout_seconds`` and ``max_body_seconds`` apply here."""
    # Defaults live in the class: what most requests never change costs them nothing to set.
    state: RequestState = _READING
    is_disconnected: bool = False
    """Whether the client is known to have left."""
    lone_scope: Scope | None = None
    """The scope, where no handler listens for the disconnect and others may build requests on the same channel."""
    is_dropped: bool = False
    """Whether the event loop has given the request up: nothing can be awaited any more."""
    failure: BaseException | None = None
    """Why nothing more can be received."""
    _declared: int | None = None
    _received: int = 0
    _source: AsyncGeneratorType[bytes, None] | None = None
    # When all of it has to be here; set when it is first waited for.
    _deadline: float | None = None
    # When messages taken one by one last gave up the loop.
    _turned: float = 0.0
    # Inside receive() for the disconnect; made when somebody else waits for it meanwhile.
    _is_listening: bool = False
    _listened: Event | None = None
    # Inside receive() for one message; while a generator is, its ag_await tells.
    _reading: bool = False
    # Why what was received is not the whole body, although the messages are gone.
    _lost: str | None = None
    # Read ahead by the listener: nothing, _PENDING, or one message.
    _ahead: Message | None = None
    # Made when somebody waits: for a message read ahead, to be woken from parking, for the disconnect.
    _arrived: Event | None = None
    _parked: Event | None = None
    _left: Event | None = None

    # --- facts ---------------------------------------------------------------------------------------

    @property
    def is_settled(self) -> bool:
        """Whether nothing of the body is left to receive."""
        return self.state is not _READING

    @property
    def _is_waiting(self) -> bool:
        """Whether the application waits for a part of the body at this moment."""
        return self._reading or (self._source is not None and self._source.ag_await is not None)

    def declare(self, length: int, checks: bool = True) -> None:
        """Say what ``content-length`` announces, in bytes, before anything is received.

        Args:
            length: What it announces.
            checks: Whether the body has to be so long.

        Raises:
            BodyTooLargeError: More than ``limits.max_body_bytes``.
        """
        if checks:
            self._declared = length
        limit = self.limits.max_body_bytes
        if limit is not None and length > limit:
            raise BodyTooLargeError(limit)

    # --- receiving -----------------------------------------------------------------------------------

    async def __call__(self) -> Message:
        """The next message from the server: parts of the body first, then ``http.disconnect``.

        Raises:
            RequestError: The body is too large, too slow or not as long as declared.
            ClientDisconnectedError: The client left before the end of the body.
            ServerProtocolError: The message is not one of the specification.
        """
        if self.state is _READING:
            # Whoever takes messages has the body; it can be kept only by adopt().
            self._lost = "its messages were taken one by one"
            part = self._accept(await self._next())
            if perf_counter() - self._turned > FAIR_SECONDS:
                await checkpoint()
                self._turned = perf_counter()
            return {"type": "http.request", "body": part, "more_body": self.state is _READING}
        await self.await_disconnect()
        return DISCONNECT

    async def _next(self) -> Message:
        """One raw message for the application."""
        if self._ahead is not None:
            return await self._wait_for(self._take())
        return await self._wait_for(self._receive_in_time())

    def _receive_in_time(self) -> Coroutine[Any, Any, Message]:
        if self.limits.max_body_seconds is None:
            return receive_within(self._receive, self.limits.body_timeout_seconds)
        return self._in_time(functools.partial(receive_within, self._receive))

    async def _in_time(self, wait: Callable[[float | None], Awaitable[Message]]) -> Message:
        seconds = self._patience()
        try:
            return await wait(seconds)
        except BodyTimeoutError:
            raise self._late(seconds) from None

    def _patience(self) -> float | None:
        """How many seconds the next message may take, ``None`` for any number."""
        seconds, most = self.limits.body_timeout_seconds, self.limits.max_body_seconds
        if most is None:
            return seconds
        now = current_time()
        if self._deadline is None:
            self._deadline = now + most
        left = max(self._deadline - now, 0.0)
        return left if seconds is None else min(seconds, left)

    def _late(self, seconds: float | None) -> BodyTimeoutError:
        """The error after a wait of so many seconds, fewer than for one message if all of it is late."""
        idle, most = self.limits.body_timeout_seconds, self.limits.max_body_seconds
        if most is not None and (idle is None or seconds != idle):
            return BodyTimeoutError(most, is_whole=True)
        return BodyTimeoutError(cast("float", idle))

    async def _wait_for(self, message: Awaitable[Message]) -> Message:
        self._reading = True
        try:
            return await message
        except OSError:
            return DISCONNECT
        except Exception as exc:
            self.fail(exc)
            raise
        finally:
            self._reading = False

    async def _take(self) -> Message:
        """The message that the listener has read ahead, or is about to."""
        while self._ahead is _PENDING:
            self._arrived = Event()
            seconds = self._patience()
            with CancelScope() if seconds is None else move_on_after(seconds) as scope:
                await self._arrived.wait()
            if scope.cancelled_caught and seconds is not None:
                raise self.fail(self._late(seconds))
        if self.failure is not None:
            raise self.failure
        message = self._ahead
        self._ahead = None
        if message is None:
            # The watch is over and we go on alone.
            return await self._receive_in_time()
        return message

    def _accept(self, message: Message) -> bytes:
        """Take a message in: check it, count it, move the state.

        Returns:
            Its part of the body, ``b""`` where there is none.
        """
        kind = _kind(message)
        if kind == "http.disconnect":
            self._ahead = None
            self.leave()
            self._check_whole()
        if kind != "http.request":
            raise self.fail(
                ServerProtocolError(f"the server sent {kind!r} where http.request or http.disconnect may come", kind)
            )
        # asgiref.typing calls both keys required; the specification makes them optional.
        part: Any = message.get("body")
        more: object = message.get("more_body", False)
        if part is None:
            part = b""
        elif type(part) in (bytearray, memoryview):
            part = bytes(part)
        if not isinstance(part, bytes) or not (more is None or isinstance(more, bool)):
            raise self.fail(
                ServerProtocolError(
                    "http.request takes bytes as body and a bool as more_body, "
                    f"not {type(part).__name__} and {type(more).__name__}"
                )
            )
        self._received += len(part)
        limit = self.limits.max_body_bytes
        if limit is not None and self._received > limit:
            raise self.fail(BodyTooLargeError(limit))
        if self._declared is not None and (
            self._received > self._declared or (not more and self._received < self._declared)
        ):
            raise self.fail(
                MalformedBodyError(
                    "body",
                    f"{self._received} bytes{' and more' if more else ''}, content-length declares {self._declared}",
                )
            )
        self._move(RequestEvent.PART if more else RequestEvent.LAST_PART)
        if self.is_disconnected and not more:
            self._move(RequestEvent.DISCONNECT)
        return part

    def fail(self, failure: BaseException) -> BaseException:
        """Remember why nothing more can be received; whoever asks for more gets the same again."""
        self.failure = failure
        self._ahead = _FAILED
        if self._left is not None:
            self._left.set()
        return failure

    def _move(self, event: RequestEvent) -> None:
        self.state = REQUEST[self.state][event]
        if self.state is not _READING and self._parked is not None:
            self._parked.set()

    def leave(self) -> None:
        """The client is gone, whoever noticed it."""
        self.is_disconnected = True
        if self.state is not _READING or self._ahead in (None, _PENDING, DISCONNECT):
            self._move(RequestEvent.DISCONNECT)
            if self._ahead is None:
                self._ahead = DISCONNECT
        # Otherwise a part that came before the client left is still to be had, perhaps the last one.
        if self._left is not None:
            self._left.set()

    def _check_whole(self) -> None:
        if self.state is RequestState.ABORTED:
            raise ClientDisconnectedError("the client disconnected before the end of the body")

    async def _parts(self) -> AsyncGenerator[bytes, None]:
        """The parts as they come, none of them empty. Holds no scope across a ``yield``."""
        source = self._source
        assert source is not None  # set by _open() before the first step
        timer: IdleTimer | None = None
        receive: Receive = self._receive
        if self._patience() is not None:
            if is_trio():
                receive = self._receive_in_time
            else:
                left = None if self._deadline is None else self._deadline - current_time()
                timer = IdleTimer(source, self.limits.body_timeout_seconds, left)
        bounds = [bound for bound in (self.limits.max_body_bytes, self._declared) if bound is not None]
        bound = min(bounds) if bounds else 2**63
        room = bound - self._received
        turned = perf_counter()
        # Read at every message: from the instance that takes half as long as from the class.
        self._ahead = self._ahead
        try:
            while self.state is _READING:
                for _ in repeat(None, _CLOCK_EVERY):
                    try:
                        message = await receive() if self._ahead is None else await self._take()
                    except OSError:
                        message = DISCONNECT
                    except Exception as exc:
                        self.fail(exc)
                        raise
                    # The usual message, with as few operations as can be: at 64 KiB a part they are most of the cost.
                    try:
                        part, more, kind = message["body"], message["more_body"], message["type"]
                    except (KeyError, TypeError):
                        part = more = kind = None
                    if more is True and type(part) is bytes and kind == "http.request":
                        left = room - len(part)
                        if left >= 0:
                            room = left
                            if part:
                                yield part
                            continue
                    self._received = bound - room
                    part = self._accept(message)
                    room = bound - self._received
                    if part:
                        yield part
                    if self.state is not _READING:
                        break
                if perf_counter() - turned > FAIR_SECONDS:
                    await checkpoint()
                    turned = perf_counter()
            self._check_whole()
        except asyncio.CancelledError:
            if timer is None or not timer.take_back():
                raise
            raise self.fail(self._late(None if timer.is_late else self.limits.body_timeout_seconds)) from None
        finally:
            self._source = None
            self._received = bound - room
            if timer is not None:
                timer.stop()

    # --- the listener's side -------------------------------------------------------------------------

    async def listen(self) -> None:
        """Return when the client has left.

        Raises:
            Exception: What ``receive`` raised: no disconnect can come any more.
        """
        await self.watch()
        if self.failure is not None and not self.is_disconnected:
            raise self.failure

    async def watch(self, left: Callable[[], object] | None = None) -> None:
        """Wait beside the application until the client has left, then call ``left``; also if ``receive`` fails.

        Of an unread body it reads ahead one message and no further, so that an upload nobody reads is held back.
        """
        try:
            while self.state is _READING:
                if self._ahead is not None or self._is_waiting:
                    if _is_last(self._ahead):
                        break  # what follows is the disconnect, and nothing is held back by waiting for it
                    await self._park()
                    continue
                self._ahead = _PENDING
                try:
                    message = await self._receive()
                except OSError:
                    message = DISCONNECT
                except BaseException:
                    self._put_ahead(None)
                    raise
                # What is no message is one of an unknown type; None stands for nothing here.
                self._put_ahead(message if isinstance(message, Mapping) else {"type": type(message)})
                if _kind(message) == "http.disconnect":
                    self._ahead = DISCONNECT
                    self.leave()
            await self.await_disconnect()
        except Exception as exc:
            self.fail(exc)
        if left is not None:
            left()

    def _put_ahead(self, message: Message | None) -> None:
        if self._ahead is _PENDING:
            self._ahead = message
        if self._arrived is not None:
            self._arrived.set()
            self._arrived = None

    async def _park(self) -> None:
        """Wait until the application has taken what was read ahead and waits for something else."""
        self._parked = parked = Event()
        # suspended() wakes us at once where the endpoint itself reads the body; where a task of its own does,
        # nobody notices, and we look again.
        with move_on_after(_LOOK_AGAIN_SECONDS):
            await parked.wait()
        self._parked = None

    async def await_disconnect(self) -> None:
        while self._is_listening:
            # Somebody else is inside receive(): wait for what that one gets, or go on where it gave up.
            if self._listened is None:
                self._listened = Event()
            await self._listened.wait()
            if self.failure is not None:
                raise self.failure
        self._is_listening = True
        try:
            while not self.is_disconnected:
                try:
                    message = await self._receive()
                except OSError:
                    message = DISCONNECT
                kind = _kind(message)
                if kind == "http.disconnect":
                    self.leave()
                elif kind != "http.request":
                    raise ServerProtocolError(f"the server sent {kind!r} where http.disconnect may come", kind)
                else:
                    # Harmless, but a server that gives these without end must not hold the loop.
                    await checkpoint()
        except Exception as exc:
            self.fail(exc)
            raise
        finally:
            self._is_listening = False
            if self._listened is not None:
                self._listened.set()
                self._listened = None

    def suspended(self) -> None:
        """The application suspends: wake the listener if it may read ahead now."""
        if self._parked is not None and self._ahead is None and not self._is_waiting:
            self._parked.set()

    async def wait_disconnected(self) -> None:
        """Return when the client has left.

        Raises:
            Exception: What ``receive`` raised: no disconnect can come any more.
        """
        if self.lone_scope is not None:
            await self.listen()
        elif not self.is_disconnected:
            if self._left is None:
                self._left = Event()
            await self._left.wait()
            if self.failure is not None and not self.is_disconnected:
                raise self.failure


def tap_receive(receive: Receive, after: Callable[[Message], None]) -> Receive:
    """``receive`` whose messages ``after`` gets to see."""

    async def receive_tapped() -> Message:
        message = await receive()
        after(message)
        return message

    # It is the same channel still, for the requests that are built on it within and around.
    vars(receive_tapped)[TAPPED] = receive
    return receive_tapped
