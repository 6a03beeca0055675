"""Responses whose body comes part by part."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeAlias, cast

from ._chunks import stop_thread_of
from ._pump import Pump, iterate
from ._response import Background, Extras, Response, build_fields, check_status
from ._threads import SHARED, Threads
from .errors import ResponseStateError, UsageError
from .types import HeadersInput

__all__ = ["AsyncParts", "StreamingResponse", "SyncParts"]

AsyncParts: TypeAlias = AsyncIterable[bytes] | AsyncIterable[str] | AsyncIterable[bytes | str]
SyncParts: TypeAlias = Iterable[bytes] | Iterable[str] | Iterable[bytes | str]

Keep: TypeAlias = Callable[[AsyncIterator[bytes | str], float, bytes], AsyncIterator[bytes | str]]


class StreamingResponse(Response):
    """A response whose body comes part by part.

    Of an asynchronous iterable the next part is asked for when the server has taken the last one. A synchronous one
    runs in a worker thread for its whole life, at most 768 KiB ahead of the server, and every part goes out at once.
    The iterator is closed by the engine on every exit, in the task or thread that iterated, also where it never began.

    Args:
        content: An asynchronous or synchronous iterable of ``bytes`` or ``str`` (sent as UTF-8).
        status_code: As for ``Response``.
        headers: As for ``Response``. A ``content-length`` is held against what comes: bytes beyond it are not
            sent, and a stream that falls short of it is aborted.
        content_type: As for ``Response``; none if ``None``.
        background: As for ``Response``.

    Raises:
        TypeError: ``content`` is no iterable, or is there as a whole.
        InvalidHeaderError: As for ``Response``.
    """

    __slots__ = ("_content", "_iterator", "file", "keep_alive", "path", "segments")

    path: str | None
    """The absolute path of a file that the body is the whole of: sent by the server itself where it offers to
    (``http.response.pathsend``); the content is then not asked for."""
    file: Any
    """An open binary file that holds ``segments``."""
    segments: list[bytes | tuple[int, int]] | None
    """The body as ``bytes`` and (offset, count) of ``file``: sent by the server itself where it offers to
    (``http.response.zerocopysend``); the content is then not asked for."""

    keep_alive: tuple[float, bytes] | None
    """Seconds, more than 0, and what is sent between two parts whenever nothing was sent for so long; not where a
    length is declared."""

    def __init__(
        self,
        content: AsyncParts | SyncParts,
        status_code: int = 200,
        headers: HeadersInput | None = None,
        content_type: str | None = None,
        *,
        background: Background | None = None,
    ) -> None:
        if isinstance(content, (str, bytes, bytearray, memoryview, Mapping)) or not isinstance(
            content, (AsyncIterable, Iterable)
        ):
            raise TypeError(
                f"StreamingResponse takes an iterable of bytes or str, not {type(cast('object', content)).__name__}; "
                "use Response for what is there as a whole"
            )
        self._set_content(content)
        self._extras = None if background is None and not self._is_fitted else Extras(background)
        self.status_code: int = check_status(status_code)
        self._headers = None
        self._raw = build_fields(headers, content_type, self.default_content_type)
        self._check_length(self._raw)

    def _set_content(self, content: AsyncParts | SyncParts) -> None:
        self._content: AsyncIterable[bytes | str] | Iterable[bytes | str] | None = content
        self._iterator: AsyncIterator[bytes | str] | None = None
        self._body = b""
        self.path = self.file = self.segments = self.keep_alive = None

    def _body_to_hash(self) -> bytes:
        raise UsageError("the body of a stream is not here to be hashed; give set_etag() a value")

    def parts(self, threads: Threads = SHARED) -> AsyncIterator[bytes | str]:
        """The iterator over the body; it can be had once.

        Args:
            threads: Where a synchronous iterable runs.

        Raises:
            ResponseStateError: The response was sent or closed before.
        """
        content, self._content = self._content, None
        if content is None:
            raise ResponseStateError("a streaming response can be sent once; build a new one for each request")
        self._iterator = self._iterate(content, threads)
        return self._iterator

    def kept_parts(self, threads: Threads, keep: Keep) -> AsyncIterator[bytes | str]:
        """As ``parts()``, inside of what ``keep`` makes with ``keep_alive`` if that is set, closed like them."""
        parts = self.parts(threads)
        if self.keep_alive is None:
            return parts
        self._iterator = kept = keep(parts, *self.keep_alive)
        return kept

    def _iterate(
        self, content: AsyncIterable[bytes | str] | Iterable[bytes | str], threads: Threads
    ) -> AsyncIterator[bytes | str]:
        if isinstance(content, AsyncIterable):
            return aiter(content)
        return Pump(threads, partial(iterate, content))

    def cut(self) -> bytes | None:
        """What is sent last where the stream is cut short; ``None`` if it must not look as if it had ended."""
        return b""

    async def aclose(self) -> None:
        """Close the iterator (or the iterable, if it never began) by its own ``aclose``, if it has one."""
        if self._iterator is None and isinstance(self._content, Iterable):
            self.parts()  # what is synchronous is closed in a thread, begun or not
        target = self._iterator if self._iterator is not None else self._content
        self._iterator = self._content = None
        close = getattr(target, "aclose", None)
        if close is not None:
            await close()

    def close_nowait(self) -> None:
        """Stop the thread of a synchronous iterator; Python closes an asynchronous one."""
        stop_thread_of(self._iterator)
