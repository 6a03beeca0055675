"""The request body as the application has it: as it comes, or kept in memory or on disk.

Source: ASGI HTTP specification 2.5, "Request - receive event".
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator
from functools import partial
from types import AsyncGeneratorType, CoroutineType
from typing import TYPE_CHECKING, Any, Final, cast

from anyio import Lock

from ._channel import find_channel
from ._idle import as_coroutine, resume_within
from ._late_scope import EARLY, Outer, outermost_since
from ._receiver import DISCONNECT, Receiver
from ._spool import BATCH_BYTES, Parts, Spool, in_file_thread, new_file, spool
from ._state import RequestState
from ._watch import Closing
from .errors import BodyConsumedError
from .limits import DEFAULT_LIMITS, Limits
from .types import Message, Receive, Scope

if TYPE_CHECKING:
    from tempfile import SpooledTemporaryFile

_READING = RequestState.READING
_COMPLETE = RequestState.COMPLETE

_COROUTINE: Final[type[Any]] = CoroutineType


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


_READ_BY_ANOTHER: Final = (
    "another Request on this channel has read the body; build one and hand that around, or give a receive() that has "
    "its messages again"
)


class Body(Receiver):
    """The body of one request.

    Args:
        receive: The server's channel. Nobody else may call it.
        limits: ``max_body_bytes``, ``spool_threshold_bytes``, ``body_timeout_seconds`` and ``max_body_seconds``
            apply.
        keep: Whether the body is read whole and kept (``load()``), to be used any number of times; otherwise it
            can be used once.
    """

    find_hinter: Callable[[], Callable[[Iterable[str]], Awaitable[bool]] | None] | None = None
    """Finds what sends early hints ahead of the response, where the server takes them."""
    needs_closing: bool = False
    """Whether an iterator or a file may have to be closed."""
    data: bytes | None = None
    """The whole body, where it is kept in memory and is here already."""
    _spool: Spool | None = None
    _loading: Lock | None = None
    # The first use in stream mode, for the error that the second one gets.
    _used: str | None = None

    def __init__(self, receive: Receive, limits: Limits = DEFAULT_LIMITS, keep: bool = False) -> None:
        self._receive: Receive = receive
        self.limits: Limits = limits
        self.is_kept: bool = keep

    def give_up(self) -> None:
        """Another request on the channel has read it: whoever asks for it is told, and nobody waits for it."""
        self._lost = _READ_BY_ANOTHER

    # --- keeping -------------------------------------------------------------------------------------

    def begin(self, outer: Outer) -> Coroutine[Any, Any, None] | None:
        """Start ``load()``; most bodies are whole with the first message, which is there already.

        Args:
            outer: What ``innermost_scope()`` gives.

        Returns:
            ``None`` if everything is here, else what is left to be awaited.

        Raises:
            As ``load()``.
        """
        if outer is EARLY:
            return self.load()
        try:
            coro: Any = self._receive()
            if type(coro) is not _COROUTINE:
                coro = as_coroutine(coro)  # Granian's awaitables are no coroutines, and only those can be stepped
            yielded = coro.send(None)
        except StopIteration as stop:
            message: Message = stop.value
        except OSError:
            message = DISCONNECT
        except Exception as exc:
            self.fail(exc)
            raise
        else:
            held = outermost_since(outer)
            if self.limits.max_body_seconds is None:
                return self._load_later(resume_within(coro, yielded, held, self.limits.body_timeout_seconds))
            return self._load_later(self._in_time(partial(resume_within, coro, yielded, held)))
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
        async with Closing(rest):
            while parts.size <= threshold:
                try:
                    parts.add(await anext(rest))
                except StopAsyncIteration:
                    self.data = parts.join()
                    self._lost = None
                    return
            self._spool = into = Spool(new_file(threshold))
            await spool(parts, rest, into, batch_bytes)
        self._lost = None

    def adopt(self, file: SpooledTemporaryFile[bytes]) -> None:
        """Keep a file that somebody else filled from this body; it is closed with the request."""
        if self._spool is None or self._spool.file is not file:
            self._spool = Spool(file)
            self.data = None
        self._lost = None
        self.is_kept = self.needs_closing = True

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
            raise BodyConsumedError(_READ_BY_ANOTHER)
        channel.is_read = True
        if channel.reader is None:
            channel.reader = self
        else:
            # A response is being sent here, which listens for the disconnect.
            self._receive = channel.reader

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
        source = self._open()
        async with Closing(source):
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
        file = new_file(max(self.limits.spool_threshold_bytes, len(data)))
        file.write(data)
        file.seek(0)
        self._spool = Spool(file)
        self.needs_closing = True
        return file

    @property
    def kept(self) -> bytes | Spool:
        """What was kept, where it is here: the whole body, or what a form kept of it."""
        return self._spool if self.data is None and self._spool is not None else self.data or b""

    def _open(self) -> AsyncGeneratorType[bytes, None]:
        self.needs_closing = True
        # Typed as what it is, for its ag_await.
        self._source = source = cast("AsyncGeneratorType[bytes, None]", self._parts())
        return source

    # --- using, in a worker thread -------------------------------------------------------------------

    def read_nowait(self) -> bytes:
        """As ``read()``, for a body that is kept and here."""
        self._check_here()
        if self.data is None:
            self.data = b"".join(self.stream_nowait())
        return self.data

    def stream_nowait(self) -> Iterator[bytes]:
        """As ``stream()``, for a body that is kept and here."""
        self._check_here()
        if self._spool is None:
            return iter((self.data,) if self.data else ())
        return iter(_KeptParts(self._spool), b"")

    def file_nowait(self) -> SpooledTemporaryFile[bytes]:
        """As ``file()``, for a body that is kept and here."""
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

    def _check_open(self) -> None:
        if self._spool is not None and self._spool.is_closed:
            raise BodyConsumedError(
                "the request is over and its body closed; read what you need before the endpoint returns"
            )

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
