"""The request body: the only caller of ``receive``.

Source: ASGI HTTP specification 2.5, "Request - receive event", "Disconnect - receive event".
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from tempfile import SpooledTemporaryFile
from time import perf_counter
from typing import Any, Final

from anyio import CancelScope, Event, move_on_after
from anyio.lowlevel import checkpoint

from ._idle import IdleTimer, receive_within
from ._spool import BATCH_BYTES, Parts, Spool, in_file_thread, spool
from ._state import REQUEST, RequestEvent, RequestState
from ._watch import running_asyncio_task
from .errors import (
    BodyConsumedError,
    BodyTimeoutError,
    BodyTooLargeError,
    ClientDisconnectedError,
    MalformedBodyError,
    ServerProtocolError,
)
from .limits import DEFAULT_LIMITS, Limits
from .types import Message, Receive

FAIR_SECONDS: Final = 0.004
"""Other tasks wait no longer than this for a channel that never suspends."""

# How often the clock is looked at: 50 ns every 16 messages are not felt, and 16 messages of 64 KiB are hashed in 2 ms.
_CLOCK_EVERY: Final = 16

_READING = RequestState.READING
_COMPLETE = RequestState.COMPLETE
_LEFT = (RequestState.ABORTED, RequestState.GONE)

_DISCONNECT: Final = {"type": "http.disconnect"}

# The listener is inside receive(); its message is not there yet.
_PENDING: Final[Message] = {}


class Body:
    """The body of one request, and the news that the client left.

    Called like ``receive`` itself it gives the next message, checked and counted.

    Args:
        receive: The server's channel. Nobody else may call it.
        limits: ``max_body_bytes``, ``spool_threshold_bytes`` and ``body_timeout_seconds`` apply.
        keep: Whether the body is read whole and kept (:meth:`load`), to be used any number of times; otherwise it can be used once.
    """

    __slots__ = (
        "_ahead",
        "_arrived",
        "_data",
        "_declared",
        "_left",
        "_parked",
        "_reading",
        "_receive",
        "_received",
        "_source",
        "_spool",
        "_used",
        "failure",
        "is_kept",
        "limits",
        "state",
    )

    def __init__(self, receive: Receive, limits: Limits = DEFAULT_LIMITS, *, keep: bool = False) -> None:
        self._receive = receive
        self.limits = limits
        self.is_kept = keep
        self.state = _READING
        self.failure: BaseException | None = None
        self._declared: int | None = None
        self._received = 0
        self._data: bytes | None = None
        self._spool: Spool | None = None
        self._source: AsyncGenerator[bytes, None] | None = None
        # Inside receive() for one message; while a generator is, its ag_await tells.
        self._reading = False
        # The first use in stream mode, for the error that the second one gets.
        self._used: str | None = None
        # Read ahead by the listener: nothing, _PENDING, or one message.
        self._ahead: Message | None = None
        # Made when somebody waits: for a message read ahead, to be woken from parking, for the disconnect.
        self._arrived: Event | None = None
        self._parked: Event | None = None
        self._left: Event | None = None

    # --- facts ---------------------------------------------------------------------------------------

    @property
    def is_disconnected(self) -> bool:
        """Whether the client is known to have left."""
        return self.state in _LEFT

    @property
    def is_settled(self) -> bool:
        """Whether nothing of the body is left to receive."""
        return self.state is not _READING

    @property
    def _is_waiting(self) -> bool:
        """Whether the application waits for a part of the body at this moment."""
        return self._reading or (self._source is not None and self._source.ag_await is not None)

    def declare(self, length: int | None) -> None:
        """Say what ``content-length`` announces, in bytes, before anything is received.

        Raises:
            BodyTooLargeError: More than ``limits.max_body_bytes``.
        """
        self._declared = length
        limit = self.limits.max_body_bytes
        if length is not None and limit is not None and length > limit:
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
            part = self._accept(await self._next(self.limits.body_timeout_seconds))
            return {"type": "http.request", "body": part, "more_body": self.state is _READING}
        await self._wait_for_disconnect()
        return _DISCONNECT

    async def _next(self, seconds: float | None) -> Message:
        """One raw message for the application."""
        if self._ahead is not None:
            return await self._take()
        self._reading = True
        try:
            return await receive_within(self._receive, seconds)
        except BodyTimeoutError as exc:
            self.failure = exc
            raise
        except OSError:
            return _DISCONNECT
        finally:
            self._reading = False

    async def _take(self) -> Message:
        """The message that the listener has read ahead, or is about to."""
        seconds = self.limits.body_timeout_seconds
        while self._ahead is _PENDING:
            self._arrived = Event()
            with CancelScope() if seconds is None else move_on_after(seconds) as scope:
                await self._arrived.wait()
            if scope.cancelled_caught and seconds is not None:
                raise self.fail(BodyTimeoutError(seconds))
        message = self._ahead
        self._ahead = None
        if message is None:
            # The listener ended without one: it failed, or the watch is over and we go on alone.
            if self.failure is not None:
                raise self.failure
            return _DISCONNECT if self.is_disconnected else await self._receive()
        return message

    def _accept(self, message: Message) -> bytes:
        """Take a message in: check it, count it, move the state.

        Returns:
            Its part of the body, ``b""`` where there is none.
        """
        kind = message.get("type")
        if kind == "http.disconnect":
            self.leave()
            self._check_whole()
        if kind != "http.request":
            raise self.fail(ServerProtocolError(f"the server sent {kind!r} where http.request or http.disconnect may come"))
        # asgiref.typing calls both keys required; the specification makes them optional.
        part: object = message.get("body")
        more: object = message.get("more_body", False)
        if part is None:
            part = b""
        elif isinstance(part, bytearray | memoryview):
            part = bytes(part)
        if not isinstance(part, bytes) or not (more is None or isinstance(more, bool)):
            raise self.fail(
                ServerProtocolError(
                    f"http.request takes bytes as body and a bool as more_body, not {type(part).__name__} and {type(more).__name__}"
                )
            )
        self._received += len(part)
        limit = self.limits.max_body_bytes
        if limit is not None and self._received > limit:
            raise self.fail(BodyTooLargeError(limit))
        if self._declared is not None and (self._received > self._declared or (not more and self._received < self._declared)):
            raise self.fail(
                MalformedBodyError(
                    "body", f"{self._received} bytes{' and more' if more else ''}, content-length declares {self._declared}"
                )
            )
        self._move(RequestEvent.PART if more else RequestEvent.LAST_PART)
        return part

    def fail(self, failure: BaseException) -> BaseException:
        """Remember why nothing more can be received; whoever asks for more gets the same again."""
        self.failure = failure
        return failure

    def _move(self, event: RequestEvent) -> None:
        self.state = REQUEST[self.state][event]
        if self.state is not _READING and self._parked is not None:
            self._parked.set()

    def leave(self) -> None:
        """The client is gone, whoever noticed it."""
        self._move(RequestEvent.DISCONNECT)
        if self._left is not None:
            self._left.set()

    async def _parts(self) -> AsyncGenerator[bytes, None]:
        """The parts as they come, none of them empty. Holds no scope across a ``yield``."""
        source = self._source
        assert source is not None  # set by _open() before the first step
        seconds = self.limits.body_timeout_seconds
        timer: IdleTimer | None = None
        receive = self._receive
        if seconds is not None:
            if running_asyncio_task() is None:
                receive = functools.partial(receive_within, receive, seconds)
            else:
                timer = IdleTimer(source, seconds)
        bounds = [bound for bound in (self.limits.max_body_bytes, self._declared) if bound is not None]
        bound = min(bounds) if bounds else 2**63
        room = bound - self._received
        messages = 0
        turned = perf_counter()
        try:
            while self.state is _READING:
                if self.failure is not None:
                    raise self.failure
                try:
                    message = await receive() if self._ahead is None else await self._take()
                except OSError:
                    message = _DISCONNECT
                # The usual message, with as few operations as can be: at 64 KiB a part they are most of the cost.
                try:
                    part = message["body"]
                    room -= len(part)
                    usual = message["more_body"] is True and message["type"] == "http.request" and type(part) is bytes
                except (KeyError, TypeError):
                    part, usual = b"", False
                if not usual or room < 0:
                    self._received = bound - room - len(part)
                    part = self._accept(message)
                    room = bound - self._received
                if part:
                    yield part
                messages += 1
                if messages >= _CLOCK_EVERY:
                    messages = 0
                    if perf_counter() - turned > FAIR_SECONDS:
                        await checkpoint()
                        turned = perf_counter()
            self._check_whole()
        except asyncio.CancelledError:
            if timer is None or seconds is None or not timer.take_back():
                raise
            raise self.fail(BodyTimeoutError(seconds)) from None
        finally:
            self._source = None
            self._received = bound - room
            if timer is not None:
                timer.stop()

    def _open(self) -> AsyncGenerator[bytes, None]:
        self._source = source = self._parts()
        return source

    # --- using ---------------------------------------------------------------------------------------

    def _use(self, what: str) -> None:
        """Begin the one use that an unkept body has."""
        if self._used is not None:
            raise BodyConsumedError(
                f"{what} after {self._used}: the body was read as it came and is not kept; keep the result of the "
                "first use, or construct the Handler with body='spool'"
            )
        self._used = what

    async def load(self) -> None:
        """Receive everything and keep it: in memory up to the threshold, else in a temporary file.

        Raises:
            RequestError: The body is too large, too slow or not as long as declared.
            ClientDisconnectedError: The client left before the end.
        """
        if self.state is not _READING:
            self._check_whole()
            return
        if self.failure is not None:
            raise self.failure
        part = self._accept(await self._next(self.limits.body_timeout_seconds))
        threshold = self.limits.spool_threshold_bytes
        if self.state is not _READING and len(part) <= threshold:
            self._data = part
            return
        parts = Parts()
        parts.add(part)
        rest = self._open()
        async with aclosing(rest):
            while parts.size <= threshold:
                try:
                    parts.add(await anext(rest))
                except StopAsyncIteration:
                    self._data = parts.join()
                    return
            self._spool = into = Spool(SpooledTemporaryFile(max_size=max(threshold, 1)))
            await spool(parts, rest, into)

    def adopt(self, file: SpooledTemporaryFile[bytes]) -> None:
        """Keep a file that somebody else filled from this body; it is closed with the request."""
        if self._spool is None or self._spool.file is not file:
            self._spool = Spool(file)
            self._data = None
        self.is_kept = True

    async def read(self) -> bytes:
        """Return the whole body, ``b""`` if there is none.

        Raises:
            BodyConsumedError: It is not kept and was used before.
            RequestError: It is too large, too slow or not as long as declared.
            ClientDisconnectedError: The client left before the end.
        """
        if self.is_kept:
            if self._data is None:
                self._check_open()
                await self.load()
            if self._data is None:
                blocks = [block async for block in self._blocks()]
                self._data = b"".join(blocks)
            return self._data
        self._use("body()")
        parts = Parts()
        async with aclosing(self._open()) as source:
            async for part in source:
                parts.add(part)
        return parts.join()

    def stream(self) -> AsyncIterator[bytes]:
        """Return an iterator over the body as it comes, or as it is kept; no part is empty.

        Raises:
            BodyConsumedError: At once, if the body is not kept and was used before.
        """
        if self.is_kept:
            self._check_open()
            return self._kept()
        self._use("stream()")
        return self._open() if self.state is _READING else self._kept()

    async def _kept(self) -> AsyncGenerator[bytes, None]:
        await self.load()
        if self._spool is not None:
            async for block in self._blocks():
                yield block
        elif self._data:
            yield self._data

    async def _blocks(self) -> AsyncGenerator[bytes, None]:
        assert self._spool is not None
        offset = 0
        while block := await in_file_thread(self._spool.read_at, offset, BATCH_BYTES):
            offset += len(block)
            yield block

    async def file(self) -> SpooledTemporaryFile[bytes]:
        """Return the body as a binary file at position 0; it is closed with the request.

        Raises:
            BodyConsumedError: It is not kept and was used before.
            RequestError: It is too large, too slow or not as long as declared.
            ClientDisconnectedError: The client left before the end.
        """
        if not self.is_kept:
            self._use("file()")
        self._check_open()
        await self.load()
        if self._spool is None:
            data = self._data or b""
            file: SpooledTemporaryFile[bytes] = SpooledTemporaryFile(max_size=max(self.limits.spool_threshold_bytes, len(data), 1))
            file.write(data)
            file.seek(0)
            self._spool = Spool(file)
        else:
            await in_file_thread(self._spool.rewind)
        return self._spool.file

    def _check_whole(self) -> None:
        if self.state is RequestState.ABORTED:
            raise ClientDisconnectedError("the client disconnected before the end of the body")

    def _check_open(self) -> None:
        if self._spool is not None and self._spool.is_closed:
            raise BodyConsumedError("the request is over and its body closed; read what you need before the endpoint returns")

    # --- the listener's side -------------------------------------------------------------------------

    async def listen(self) -> None:
        """Return when the client has left. Runs beside the application while that waits for something.

        Of an unread body it reads ahead one message and no further, so that an upload nobody reads is held back.

        Raises:
            Exception: What ``receive`` raises, but for ``OSError``, which is the disconnect.
        """
        while self.state is _READING:
            if self._ahead is not None or self._is_waiting:
                self._parked = Event()
                await self._parked.wait()
                self._parked = None
                continue
            self._ahead = _PENDING
            message: Message | None = None
            try:
                message = await self._receive()
            except OSError:
                message = _DISCONNECT
            finally:
                self._ahead = message
                if self._arrived is not None:
                    self._arrived.set()
                    self._arrived = None
            if message.get("type") == "http.disconnect":
                self.leave()
                return
        await self._wait_for_disconnect()

    async def _wait_for_disconnect(self) -> None:
        while self.state is _COMPLETE:
            try:
                message = await self._receive()
            except OSError:
                message = _DISCONNECT
            kind = message.get("type")
            if kind == "http.disconnect":
                self.leave()
            elif kind != "http.request":
                raise ServerProtocolError(f"the server sent {kind!r} where http.disconnect may come")
            else:
                # Harmless, but a server that gives these without end must not hold the loop.
                await checkpoint()

    def suspended(self) -> None:
        """The application suspends: wake the listener if it may read ahead now."""
        if self._parked is not None and self._ahead is None and not self._is_waiting:
            self._parked.set()

    async def wait_disconnected(self) -> None:
        """Return when the client has left."""
        if not self.is_disconnected:
            if self._left is None:
                self._left = Event()
            await self._left.wait()

    # --- closing -------------------------------------------------------------------------------------

    @property
    def needs_closing(self) -> bool:
        """Whether there is an iterator or a file to close."""
        return self._source is not None or self._spool is not None

    async def aclose(self) -> None:
        """Close the iterator and the file; may be called again."""
        if self._source is not None and not self._source.ag_running:
            await self._source.aclose()
        if self._spool is not None and not self._spool.is_closed:
            try:
                await in_file_thread(self._spool.close)
            finally:
                # A native cancellation can keep the hop from beginning; better a late loop than a lost descriptor.
                self.close_nowait()

    def close_nowait(self) -> None:
        """Close the file on the spot."""
        if self._spool is not None and not self._spool.is_closed:
            self._spool.close()


