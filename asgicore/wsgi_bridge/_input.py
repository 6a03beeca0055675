"""``wsgi.input`` over a body that is still coming.

Source: PEP 3333 "Input and Error Streams".
"""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, cast

from .._pump import PART_BYTES, Pump, Put
from .._threads import Threads
from ..errors import ClientDisconnectedError

__all__ = ["Conversation", "open_input"]

# A body message has 64 KiB at most from the servers in use; a line is looked for in as much.
_BUFFER_BYTES: Final = 65536


class _RawInput(io.RawIOBase):
    """The parts of a body as a raw stream.

    What ``receive_part`` raised is raised again by every later read: a body that broke off never ends.
    """

    def __init__(self, receive_part: Callable[[], bytes]) -> None:
        self._receive_part: Callable[[], bytes] | None = receive_part
        self._rest = memoryview(b"")
        self._error: BaseException | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        target = memoryview(buffer)
        part = self._rest or memoryview(self._next_part())
        size = min(len(part), len(target))
        target[:size] = part[:size]
        self._rest = part[size:]
        return size

    def readall(self) -> bytes:
        # Not by way of readinto: nothing is gained from cutting a body into buffers and joining it again.
        parts = [bytes(self._rest)]
        self._rest = memoryview(b"")
        while part := self._next_part():
            parts.append(part)
        return b"".join(parts)

    def _next_part(self) -> bytes:
        """The next part, ``b""`` at the end of the body and ever after."""
        if self._error is not None:
            raise self._error.with_traceback(None)
        if self._receive_part is None:
            return b""
        try:
            part = self._receive_part()
        except BaseException as exc:
            self._error = exc
            raise
        if not part:
            self._receive_part = None
        return part

    def close(self) -> None:
        # The error's traceback leads back to here.
        self._error = self._receive_part = None
        super().close()


class _Question:
    """Asks the loop for the next part of the request's body."""

    __slots__ = ("answer", "error", "is_answered")

    def __init__(self) -> None:
        self.is_answered = False
        self.answer = b""
        self.error: Exception | None = None

    def __len__(self) -> int:
        return 0  # what a pump counts


class Conversation(Pump[None]):
    """A pump whose producer can ask the consumer for parts of the request's body: both go on by turns.

    Args:
        threads: As for ``Pump``.
        produce: As for ``Pump``; ``receive_part()`` is for it to call.
        stream: Begins to read the body; called when the first part is asked for.
    """

    __slots__ = ("_body", "_stream")

    def __init__(
        self, threads: Threads, produce: Callable[[Put], None], stream: Callable[[], AsyncIterator[bytes]]
    ) -> None:
        super().__init__(threads, produce)
        self._stream = stream
        self._body: AsyncIterator[bytes] | None = None

    def receive_part(self) -> bytes:
        """Wait, in the worker, for the next part of the body; ``b""`` at its end.

        Raises:
            ClientDisconnectedError: The client left, or nobody answers any more.
            RequestError: The body is too large, too slow or not as long as declared.
        """
        question = _Question()
        self._pass_on(question, PART_BYTES)
        with self._lock:
            while not question.is_answered:
                if self._is_closed:
                    raise ClientDisconnectedError
                self._wait()
        if question.error is None:
            return question.answer
        error, question.error = question.error, None
        try:
            raise error
        finally:
            del error

    async def first(self) -> bytes | str | None:
        """The first part of the response, ``None`` if it has none; raises as ``Pump`` does."""
        # Most have none, and then this is all.
        return await anext(self, None) if await self._next_batch() else None

    async def __anext__(self) -> bytes | str:
        """Return the next part of the response, answering questions on the way; raises as ``Pump`` does."""
        while isinstance(part := cast("object", await super().__anext__()), _Question):
            try:
                if self._body is None:
                    self._body = self._stream()
                part.answer = await anext(self._body, b"")
            except Exception as exc:
                part.error = exc
            with self._lock:
                part.is_answered = True
                self._wake()
        return cast("bytes | str", part)


def open_input(receive_part: Callable[[], bytes]) -> io.BufferedReader:
    """A buffered reader over a body, for one thread.

    Args:
        receive_part: Waits for the next part of the body; ``b""`` is its end, after which it is not called again. It
            raises ``asgicore.ClientDisconnectedError`` if the client left first. What it raises, every later
            read raises, too.

    Close it when the request is over.
    """
    return io.BufferedReader(_RawInput(receive_part), _BUFFER_BYTES)
