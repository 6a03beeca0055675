"""Responses whose body comes part by part."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from functools import partial
from typing import Any, TypeAlias, cast

from ._pump import Pump, iterate
from ._response import Background, Extras, Response, build_fields, check_status
from ._threads import SHARED, Threads
from .errors import ResponseStateError, UsageError
from .types import HeadersInput

__all__ = ["AsyncParts", "StreamingResponse", "SyncParts"]

AsyncParts: TypeAlias = AsyncIterable[bytes] | AsyncIterable[str] | AsyncIterable[bytes | str]
SyncParts: TypeAlias = Iterable[bytes] | Iterable[str] | Iterable[bytes | str]


class StreamingResponse(Response):
    """A response whose body comes part by part.

    Of an asynchronous iterable the next part is asked for when the server has taken the last one. A synchronous one
    runs in a worker thread for its whole life, at most 768 KiB ahead of the server, and every part goes out at once.
    The iterator is closed by the engine on every exit, in the task or thread that iterated, also where it never began.

    Args:
        content: An asynchronous or synchronous iterable of ``bytes`` or ``str`` (sent as UTF-8).
        status_code: As for :class:`Response`.
        headers: As for :class:`Response`. A ``content-length`` is held against what comes: bytes beyond it are not
            sent, and a stream that falls short of it is aborted.
        content_type: As for :class:`Response`; none if ``None``.
        background: As for :class:`Response`.

    Raises:
        TypeError: ``content`` is no iterable, or is there as a whole.
        InvalidHeaderError: As for :class:`Response`.
    """

    __slots__ = ("_content", "_iterator", "file", "path", "segments")

    path: str | None
    """The absolute path of a file that the body is the whole of: sent by the server itself where it offers to
    (``http.response.pathsend``); the content is then not asked for."""
    file: Any
    """An open binary file that holds :attr:`segments`."""
    segments: list[bytes | tuple[int, int]] | None
    """The body as ``bytes`` and (offset, count) of :attr:`file`: sent by the server itself where it offers to
    (``http.response.zerocopysend``); the content is then not asked for."""

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
        self._extras = None if background is None else Extras(background)
        self.status_code: int = check_status(status_code)
        self._headers = None
        self._raw = build_fields(headers, content_type, self.default_content_type)
        self._check_length(self._raw)

    def _set_content(self, content: AsyncParts | SyncParts) -> None:
        self._content: AsyncIterable[bytes | str] | Iterable[bytes | str] | None = content
        self._iterator: AsyncIterator[bytes | str] | None = None
        self._body = b""
        self.path = self.file = self.segments = None

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
        if isinstance(content, AsyncIterable):
            self._iterator = aiter(content)
        else:
            self._iterator = Pump(threads, partial(iterate, content))
        return self._iterator

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
        # A name that no iterator of an application has by chance.
        stop_thread = getattr(self._iterator, "stop_thread", None)
        if stop_thread is not None:
            stop_thread()
