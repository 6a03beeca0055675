"""The request body: the only caller of ``receive``.

Source: ASGI HTTP specification 2.5, "Request - receive event", "Disconnect - receive event".
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import aclosing
from itertools import repeat
from tempfile import SpooledTemporaryFile
from time import perf_counter
from types import AsyncGeneratorType, CoroutineType
from typing import Any, Final, cast

from anyio import CancelScope, Event, Lock, move_on_after
from anyio.lowlevel import checkpoint

from ._channel import find_channel
from ._idle import IdleTimer, as_coroutine, receive_within, resume_within
from ._spool import BATCH_BYTES, Parts, Spool, in_file_thread, spool
from ._state import REQUEST, RequestEvent, RequestState
from ._watch import FAIR_SECONDS, is_trio
from .errors import (
    BodyConsumedError,
    BodyTimeoutError,
    BodyTooLargeError,
    ClientDisconnectedError,
    MalformedBodyError,
    ServerProtocolError,
)
from .limits import DEFAULT_LIMITS, Limits
from .types import Message, Receive, Scope

# How often the clock is looked at: 50 ns every 16 messages are not felt, and 16 messages of 64 KiB are hashed in 2 ms.
_CLOCK_EVERY: Final = 16

_READING = RequestState.READING
_COMPLETE = RequestState.COMPLETE

_DISCONNECT: Final = {"type": "http.disconnect"}

# The listener is inside receive(); its message is not there yet.
_PENDING: Final[Message] = {"type": "pending"}

# Nothing more will come: whoever takes this gets the failure.
_FAILED: Final[Message] = {"type": "failed"}


_COROUTINE: Final[type[Any]] = CoroutineType

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


class _Kept:
    """An iterator over a kept body. No generator: one that is not exhausted would have to be closed."""

    __slots__ = ("_body", "_offset")

    def __init__(self, body: Body) -> None:
        self._body = body
        self._offset = 0

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        block = await self._body.read_kept(self._offset)
        if not block:
            raise StopAsyncIteration
        self._offset += len(block)
        return block

    async def aclose(self) -> None:
        """Nothing is held; for ``contextlib.aclosing``."""


class _KeptParts:
    """Reads a kept body block by block, ``b""`` at its end."""

    __slots__ = ("_offset", "_spool")

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._offset = 0

    def __call__(self) -> bytes:
        block = self._spool.read_at(self._offset, BATCH_BYTES)
        self._offset += len(block)
        return block


class Body:
    """The body of one request, and the news that the client left.

    Called like ``receive`` itself it gives the next message, checked and counted.

    Args:
        receive: The server's channel. Nobody else may call it.
        limits: ``max_body_bytes``, ``spool_threshold_bytes`` and ``body_timeout_seconds`` apply.
        keep: Whether the body is read whole and kept (:meth:`load`), to be used any number of times; otherwise it
            can be used once.
    """

    # Defaults live in the class: what most requests never change costs them nothing to set.
    state: RequestState = _READING
    is_disconnected: bool = False
    """Whether the client is known to have left."""
    lone_scope: Scope | None = None
    """The scope, where no handler listens for the disconnect and others may build requests on the same channel."""
    failure: BaseException | None = None
    """Why nothing more can be received."""
    find_hinter: Callable[[], Callable[[Iterable[str]], Awaitable[bool]] | None] | None = None
    """Finds what sends early hints ahead of the response, where the server takes them."""
    needs_closing: bool = False
    """Whether an iterator or a file may have to be closed."""
    data: bytes | None = None
    """The whole body, where it is kept in memory and is here already."""
    _declared: int | None = None
    _received: int = 0
    _spool: Spool | None = None
    _source: AsyncGeneratorType[bytes, None] | None = None
    # When messages taken one by one last gave up the loop.
    _turned: float = 0.0
    _loading: Lock | None = None
    # Inside receive() for the disconnect; made when somebody else waits for it meanwhile.
    _is_listening: bool = False
    _listened: Event | None = None
    # Inside receive() for one message; while a generator is, its ag_await tells.
    _reading: bool = False
    # Why what was received is not the whole body, although the messages are gone.
    _lost: str | None = None
    # The first use in stream mode, for the error that the second one gets.
    _used: str | None = None
    # Read ahead by the listener: nothing, _PENDING, or one message.
    _ahead: Message | None = None
    # Made when somebody waits: for a message read ahead, to be woken from parking, for the disconnect.
    _arrived: Event | None = None
    _parked: Event | None = None
    _left: Event | None = None

    def __init__(self, receive: Receive, limits: Limits = DEFAULT_LIMITS, keep: bool = False) -> None:
        self._receive: Receive = receive
        self.limits: Limits = limits
        self.is_kept: bool = keep

    # --- facts ---------------------------------------------------------------------------------------

    @property
    def is_settled(self) -> bool:
        """Whether nothing of the body is left to receive."""
        return self.state is not _READING

    @property
    def _is_waiting(self) -> bool:
        """Whether the application waits for a part of the body at this moment."""
        return self._reading or (self._source is not None and self._source.ag_await is not None)

    def declare(self, length: int) -> None:
        """Say what ``content-length`` announces, in bytes, before anything is received.

        Raises:
            BodyTooLargeError: More than ``limits.max_body_bytes``.
        """
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
        await self._wait_for_disconnect()
        return _DISCONNECT

    async def _next(self) -> Message:
        """One raw message for the application."""
        if self._ahead is not None:
            return await self._wait_for(self._take())
        return await self._wait_for(receive_within(self._receive, self.limits.body_timeout_seconds))

    async def _wait_for(self, message: Awaitable[Message]) -> Message:
        self._reading = True
        try:
            return await message
        except OSError:
            return _DISCONNECT
        except Exception as exc:
            self.fail(exc)
            raise
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
        if self.failure is not None:
            raise self.failure
        message = self._ahead
        self._ahead = None
        if message is None:
            # The watch is over and we go on alone.
            return await receive_within(self._receive, self.limits.body_timeout_seconds)
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
        if self.state is not _READING or self._ahead in (None, _PENDING, _DISCONNECT):
            self._move(RequestEvent.DISCONNECT)
            if self._ahead is None:
                self._ahead = _DISCONNECT
        # Otherwise a part that came before the client left is still to be had, perhaps the last one.
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
            if is_trio():
                receive = functools.partial(receive_within, receive, seconds)
            else:
                timer = IdleTimer(source, seconds)
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
                        message = _DISCONNECT
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
            if timer is None or seconds is None or not timer.take_back():
                raise
            raise self.fail(BodyTimeoutError(seconds)) from None
        finally:
            self._source = None
            self._received = bound - room
            if timer is not None:
                timer.stop()

    def _open(self) -> AsyncGeneratorType[bytes, None]:
        self.needs_closing = True
        # Typed as what it is, for its ag_await.
        self._source = source = cast("AsyncGeneratorType[bytes, None]", self._parts())
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
        if self.lone_scope is not None:
            self._claim(self.lone_scope)

    def _claim(self, scope: Scope) -> None:
        """See that no other request on this channel has begun to read, and let others see that this one has."""
        channel = find_channel(scope, self._receive)
        if channel.is_read:
            raise BodyConsumedError("another Request on this channel has read the body; build one and hand that around")
        channel.is_read = True
        if channel.reader is None:
            channel.reader = self
        else:
            # A response is being sent here, which listens for the disconnect.
            self._receive = channel.reader

    def begin(self) -> Coroutine[Any, Any, None] | None:
        """Start :meth:`load`; most bodies are whole with the first message, which is there already.

        Returns:
            ``None`` if everything is here, else what is left to be awaited.

        Raises:
            As :meth:`load`.
        """
        if is_trio():
            return self.load()
        try:
            coro: Any = self._receive()
            if type(coro) is not _COROUTINE:
                coro = as_coroutine(coro)  # Granian's awaitables are no coroutines, and only those can be stepped
            yielded = coro.send(None)
        except StopIteration as stop:
            message: Message = stop.value
        except OSError:
            message = _DISCONNECT
        except Exception as exc:
            self.fail(exc)
            raise
        else:
            return self._load_later(resume_within(coro, yielded, self.limits.body_timeout_seconds))
        try:
            part = message["body"]
            if message["more_body"] is False and type(part) is bytes and message["type"] == "http.request":
                # The usual body is whole, and neither larger nor otherwise than it may be: what _accept() checks.
                size, declared, limits = len(part), self._declared, self.limits
                if (
                    size <= limits.spool_threshold_bytes
                    and (size == declared or declared is None)
                    and (limits.max_body_bytes is None or size <= limits.max_body_bytes)
                ):
                    self.data = part
                    self.state = _COMPLETE
                    return None
        except (KeyError, TypeError):
            pass
        return self._load(self._accept(message))

    async def load(self) -> None:
        """Receive everything and keep it: in memory up to the threshold, else in a temporary file.

        Raises:
            RequestError: The body is too large, too slow or not as long as declared.
            ClientDisconnectedError: The client left before the end.
        """
        if self.data is not None or self._spool is not None:
            self._check_kept()
            return
        if self._loading is None:
            self._loading = Lock(fast_acquire=True)
        # Two tasks may be the first to ask.
        async with self._loading:
            self._check_kept()
            if self.data is None and self._spool is None and self.state is _READING:
                rest = self._load(self._accept(await self._next()))
                if rest is not None:
                    await rest

    async def _load_later(self, first: Awaitable[Message]) -> None:
        rest = self._load(self._accept(await self._wait_for(first)))
        if rest is not None:
            await rest

    def _load(self, first: bytes) -> Coroutine[Any, Any, None] | None:
        """Keep the first part; what is left to do is awaited."""
        if self.state is not _READING and len(first) <= self.limits.spool_threshold_bytes:
            self.data = first
            return None
        self._lost = "its reading was cut short"
        parts = Parts()
        parts.add(first)
        return self.keep(parts, self._open())

    async def keep(self, parts: Parts, rest: AsyncGenerator[bytes, None], batch_bytes: int = BATCH_BYTES) -> None:
        """Keep parts and what follows them: in memory up to the threshold, else in a temporary file.

        Args:
            parts: What is here already.
            rest: What follows: of this body, all of it or, where it streams, what a form keeps. Closed at the end.
            batch_bytes: How much is written at once; twice as much is in memory.

        Raises:
            OSError: The disk is full, or the like.
        """
        threshold = self.limits.spool_threshold_bytes
        async with aclosing(rest):
            while parts.size <= threshold:
                try:
                    parts.add(await anext(rest))
                except StopAsyncIteration:
                    self.data = parts.join()
                    self._lost = None
                    return
            self._spool = into = Spool(SpooledTemporaryFile(max_size=max(threshold, 1)))
            await spool(parts, rest, into, batch_bytes)
        self._lost = None

    def adopt(self, file: SpooledTemporaryFile[bytes]) -> None:
        """Keep a file that somebody else filled from this body; it is closed with the request."""
        if self._spool is None or self._spool.file is not file:
            self._spool = Spool(file)
            self.data = None
        self._lost = None
        self.is_kept = self.needs_closing = True

    async def read(self, use: str = "body()", enough: int | None = None) -> bytes:
        """Return the whole body, ``b""`` if there is none.

        Args:
            use: What the body is used for, for the error that a second use gets.
            enough: Of a body that is not kept: stop when more than so many bytes are here, and return those.

        Raises:
            BodyConsumedError: It is not kept and was used before.
            RequestError: It is too large, too slow or not as long as declared.
            ClientDisconnectedError: The client left before the end.
        """
        if self.is_kept:
            if self.data is None:
                self._check_open()
                await self.load()
            if self.data is None:
                self.data = b"".join([block async for block in _Kept(self)])
            return self.data
        self._use(use)
        self._check_kept()
        # Most bodies are whole with the first message, which needs no iterator.
        first = self._accept(await self._next())
        if self.state is not _READING:
            return first
        parts = Parts()
        parts.add(first)
        async with aclosing(self._open()) as source:
            async for part in source:
                parts.add(part)
                if enough is not None and parts.size > enough:
                    break
        return parts.join()

    def stream(self, use: str = "stream()") -> AsyncIterator[bytes]:
        """Return an iterator over the body as it comes, or as it is kept; no part is empty.

        Args:
            use: What the body is used for, for the error that a second use gets.

        Raises:
            BodyConsumedError: At once, if the body is not kept and was used before.
        """
        if self.is_kept:
            self._check_open()
            return _Kept(self)
        self._use(use)
        self._check_kept()
        return self._open()

    async def read_kept(self, offset: int) -> bytes:
        """Some of the kept body from ``offset`` on, ``b""`` at its end."""
        self._check_open()
        await self.load()
        if self._spool is not None:
            return await in_file_thread(self._spool.read_at, offset, BATCH_BYTES)
        return (self.data or b"")[offset:] if offset else self.data or b""

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
            return self._file_in_memory()
        await in_file_thread(self._spool.rewind)
        return self._spool.file

    def _file_in_memory(self) -> SpooledTemporaryFile[bytes]:
        data = self.data or b""
        file: SpooledTemporaryFile[bytes] = SpooledTemporaryFile(
            max_size=max(self.limits.spool_threshold_bytes, len(data), 1)
        )
        file.write(data)
        file.seek(0)
        self._spool = Spool(file)
        self.needs_closing = True
        return file

    @property
    def kept(self) -> bytes | Spool:
        """What was kept, where it is here: the whole body, or what a form kept of it."""
        return self._spool if self.data is None and self._spool is not None else self.data or b""

    # --- using, in a worker thread -------------------------------------------------------------------

    def read_nowait(self) -> bytes:
        """As :meth:`read`, for a body that is kept and here."""
        self._check_here()
        if self.data is None:
            self.data = b"".join(self.stream_nowait())
        return self.data

    def stream_nowait(self) -> Iterator[bytes]:
        """As :meth:`stream`, for a body that is kept and here."""
        self._check_here()
        if self._spool is None:
            return iter((self.data,) if self.data else ())
        return iter(_KeptParts(self._spool), b"")

    def file_nowait(self) -> SpooledTemporaryFile[bytes]:
        """As :meth:`file`, for a body that is kept and here."""
        self._check_here()
        if self._spool is None:
            return self._file_in_memory()
        self._spool.rewind()
        return self._spool.file

    def _check_here(self) -> None:
        self._check_open()
        self._check_kept()
        if not self.is_kept or (self.data is None and self._spool is None):
            raise BodyConsumedError(
                "the body is not here yet; in an async function await body(), stream(), file(), json() or form()"
            )

    def _check_kept(self) -> None:
        if self.data is None:
            self._check_whole()
            if self.failure is not None:
                raise self.failure
        if self._lost is not None:
            raise BodyConsumedError(f"the body cannot be had: {self._lost}")

    def _check_whole(self) -> None:
        if self.state is RequestState.ABORTED:
            raise ClientDisconnectedError("the client disconnected before the end of the body")

    def _check_open(self) -> None:
        if self._spool is not None and self._spool.is_closed:
            raise BodyConsumedError(
                "the request is over and its body closed; read what you need before the endpoint returns"
            )

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
                    message = _DISCONNECT
                except BaseException:
                    self._put_ahead(None)
                    raise
                # What is no message is one of an unknown type; None stands for nothing here.
                self._put_ahead(message if isinstance(message, Mapping) else {"type": type(message)})
                if _kind(message) == "http.disconnect":
                    self._ahead = _DISCONNECT
                    self.leave()
            await self._wait_for_disconnect()
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

    async def _wait_for_disconnect(self) -> None:
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
                    message = _DISCONNECT
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

    # --- closing -------------------------------------------------------------------------------------

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
