"""Responses that are made from others: with other fields, and with their content encoded.

Every part of a stream goes out when it came, and can be decoded then.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator
from time import perf_counter
from typing import Any, Final

from anyio.lowlevel import checkpoint

from ._chunks import as_part, slice_bytes, start_thread_of
from ._encoders import Codec, Encoder
from ._pump import close
from ._response import Response
from ._streaming_response import Keep, StreamingResponse
from ._threads import SHARED, Threads
from ._watch import FAIR_SECONDS
from .errors import ContentLengthError
from .types import RawHeaders

__all__ = ["StreamEncoding", "derive", "encode_whole"]

# What a thread encodes in one go: 4 ms of work. A client that leaves is noticed in between.
_PIECE_BYTES: Final = 2**18

# As many at once as can run; the rest waits, for its responses are in memory anyway.
_encoding_threads: Final = Threads(os.cpu_count() or 1, max_waiting=None)


def _encode(encoder: Encoder, piece: bytes, end: Callable[[], bytes] | None) -> bytes:
    data = encoder.encode(piece)
    return data + end() if end is not None else data


async def encode_whole(encoder: Encoder, body: bytes, loop_bytes: int) -> bytes:
    """Encode a body at once, in a worker thread if it is longer than ``loop_bytes``."""
    if len(body) <= loop_bytes:
        return _encode(encoder, body, encoder.finish)
    encoded = [
        await _encoding_threads.run(_encode, encoder, piece, encoder.finish if is_last else None)
        for piece, is_last in slice_bytes(body, _PIECE_BYTES)
    ]
    return b"".join(encoded)


class StreamEncoding:
    """The encoding of one body that comes part by part."""

    __slots__ = ("_codec", "_declared", "_encoder", "_level", "_size", "is_at_rest", "loop_bytes")

    def __init__(self, codec: Codec, level: int, loop_bytes: int, declared: int | None) -> None:
        self._codec = codec
        self._level = level
        self._declared = declared
        self._encoder: Encoder | None = None
        self._size = 0
        self.loop_bytes = loop_bytes
        """What may be encoded on the event loop at once."""
        self.is_at_rest = False
        """Whether all that came was encoded and sent."""

    def pieces(self, part: Any) -> Iterable[tuple[bytes, bool]]:
        """A part of the body as (piece, is_last) of bounded length; nothing of an empty one.

        Raises:
            ContentLengthError: The body gets longer than declared.
        """
        data = as_part(part)
        self._size += len(data)
        if self._declared is not None and self._size > self._declared:
            raise ContentLengthError(self._declared, self._size)
        return slice_bytes(data, _PIECE_BYTES) if data else ()

    def encode(self, piece: bytes, is_last: bool) -> bytes:
        """Encode a piece; after the last one of a part, all that came can be decoded."""
        encoder = self._open()
        return _encode(encoder, piece, encoder.flush if is_last else None)

    def finish(self) -> bytes:
        """The end of the encoded body.

        Raises:
            ContentLengthError: The body ended short of what was declared.
        """
        if self._declared is not None and self._size < self._declared:
            raise ContentLengthError(self._declared, self._size)
        return self._open().finish()

    def cut(self) -> bytes | None:
        """As ``StreamingResponse.cut()``."""
        if self._declared is not None:
            return None
        # Else a piece is lost, and what was sent is all that can be decoded.
        return self._open().finish() if self.is_at_rest else b""

    def _open(self) -> Encoder:
        # Made when there is something to encode: it takes a megabyte, and the body may not be wanted.
        if self._encoder is None:
            self._encoder = self._codec.build(self._level)
        return self._encoder


class _EncodedParts:
    """The parts of an asynchronous body, encoded; who made the body closes it."""

    __slots__ = ("_encoding", "_is_over", "_parts", "_pieces", "_turned")

    def __init__(self, parts: AsyncIterator[Any], encoding: StreamEncoding) -> None:
        self._parts = parts
        self._encoding = encoding
        self._pieces: Iterator[tuple[bytes, bool]] = iter(())
        self._is_over = False
        self._turned = perf_counter()

    def __aiter__(self) -> _EncodedParts:
        return self

    def start_thread(self) -> None:
        """Start what makes the parts, if it has to be."""
        start_thread_of(self._parts)

    async def __anext__(self) -> bytes:
        while not self._is_over:
            for piece, is_last in self._pieces:
                if data := await self._encode(piece, is_last):
                    return data
            self._encoding.is_at_rest = True
            try:
                part = await anext(self._parts)
            except StopAsyncIteration:
                self._encoding.is_at_rest = False
                self._is_over = True
                return self._encoding.finish()
            self._encoding.is_at_rest = False
            self._pieces = iter(self._encoding.pieces(part))
        raise StopAsyncIteration

    async def _encode(self, piece: bytes, is_last: bool) -> bytes:
        encoding = self._encoding
        if len(piece) > encoding.loop_bytes:
            return await _encoding_threads.run(encoding.encode, piece, is_last)
        # Little may come out of much: who counts what is sent would give up the loop too late.
        if perf_counter() - self._turned > FAIR_SECONDS:
            await checkpoint()
            self._turned = perf_counter()
        return encoding.encode(piece, is_last)


class _EncodedIterable:
    """The parts of a synchronous body, encoded in the thread that makes them."""

    __slots__ = ("_content", "_encoding")

    def __init__(self, content: Iterable[Any], encoding: StreamEncoding) -> None:
        self._content = content
        self._encoding = encoding

    def __iter__(self) -> Generator[bytes, None, None]:
        encoding = self._encoding
        iterator = iter(self._content)
        try:
            for part in iterator:
                for piece, is_last in encoding.pieces(part):
                    if data := encoding.encode(piece, is_last):
                        yield data
            yield encoding.finish()
        finally:
            if iterator is not self._content:
                close(iterator)

    def close(self) -> None:
        close(self._content)


class _Derived(StreamingResponse):
    """Another stream with other fields, encoded or not; closing this closes that."""

    __slots__ = ("_encoding", "_source")

    def _set_content(self, content: Any) -> None:
        super()._set_content(())
        self._source: StreamingResponse = content
        self._encoding: StreamEncoding | None = None

    def encode(self, encoding: StreamEncoding | None) -> None:
        """Encode the body; ``None``: it stays as it is, and a server may read it from its file."""
        self._encoding = encoding
        if encoding is None:
            self.path, self.file, self.segments = self._source.path, self._source.file, self._source.segments

    def parts(self, threads: Threads = SHARED) -> AsyncIterator[Any]:
        source, encoding = self._source, self._encoding
        if encoding is None:
            return source.parts(threads)
        # Encoded in the thread that makes them, unless the source does something of its own to its parts.
        kind = type(source)
        makes_nothing = kind.parts is StreamingResponse.parts and kind._iterate is StreamingResponse._iterate
        if isinstance(source._content, Iterable) and makes_nothing:
            source._content = _EncodedIterable(source._content, encoding)
            return source.parts(threads)
        return _EncodedParts(source.parts(threads), encoding)

    def kept_parts(self, threads: Threads, keep: Keep) -> AsyncIterator[Any]:
        # What is sent between the parts is not encoded, so that an encoded body has no room for it.
        return self._source.kept_parts(threads, keep) if self._encoding is None else self.parts(threads)

    def cut(self) -> bytes | None:
        return self._source.cut() if self._encoding is None else self._encoding.cut()

    async def aclose(self) -> None:
        await self._source.aclose()

    def close_nowait(self) -> None:
        self._source.close_nowait()


def derive(response: Response, fields: RawHeaders, content: bytes | StreamEncoding | None = None) -> Response:
    """A response with these fields, and this content in place of its own, unless that is ``None``."""
    derived: Response
    if isinstance(response, StreamingResponse):
        derived = stream = _Derived.prepared(response, response.status_code, fields)
        stream.encode(content if isinstance(content, StreamEncoding) else None)
    else:
        body = content if isinstance(content, bytes) else response.body
        derived = Response.prepared(body, response.status_code, fields)
    derived._extras = response._extras
    return derived
