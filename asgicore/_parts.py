"""The parts of a multipart form, one after the other, while its body comes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from time import perf_counter

from anyio.lowlevel import checkpoint
from multidict import CIMultiDictProxy

from ._form_data import PartParser, Signal, decode_field, describe
from ._multipart_library import Segment
from ._spool import Parts
from ._uploads import part_headers
from ._watch import FAIR_SECONDS
from .errors import BodyConsumedError, BodyTooLargeError
from .limits import Limits

__all__ = ["Part", "PartReader", "SyncPart", "SyncPartReader"]


class _Head:
    """What stands in the head of a part."""

    __slots__ = ("_headers", "_number", "_segment", "_used")

    def __init__(self, segment: Segment, number: int) -> None:
        self._segment = segment
        self._number = number
        self._headers: CIMultiDictProxy[str] | None = None
        self._used: str | None = None

    @property
    def name(self) -> str:
        """The name of the field."""
        return self._segment.name

    @property
    def filename(self) -> str | None:
        """The name of the file as it was sent, never a path; ``""`` if none was chosen, ``None`` if it is no file."""
        return self._segment.filename

    @property
    def content_type(self) -> str:
        """The media type in lower case and without parameters, as the client says; ``""`` if it says none."""
        return self._segment.content_type or ""

    @property
    def charset(self) -> str | None:
        """The ``charset`` parameter of the content type, as given."""
        return self._segment.charset

    @property
    def headers(self) -> CIMultiDictProxy[str]:
        """The header fields of the part."""
        if self._headers is None:
            self._headers = part_headers(self._segment)
        return self._headers

    def _use(self, what: str) -> None:
        if self._used is not None:
            raise BodyConsumedError(
                f"{what} after {self._used} of the part {self.name!r}: it is not kept; keep the result of the first use"
            )
        self._used = what

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} {self.filename!r}>"


class _Reader:
    """Which part is being read, and how far.

    Args:
        parser: Takes the form apart.
        limits: ``max_form_field_bytes`` applies to parts that are read as a whole.
    """

    def __init__(self, parser: PartParser, limits: Limits) -> None:
        self._parser = parser
        self._limits = limits
        # Which part it is, by its number: a reference to the part would be a cycle.
        self._number = 0
        self._is_over = True
        self._is_cut = False

    def _check_current(self, part: _Head) -> None:
        if part._number != self._number:
            raise BodyConsumedError(
                f"the part {part.name!r} is gone: the next one was asked for; read a part before you go on"
            )

    def _content(self, event: Segment | bytes | Signal | None) -> bytes:
        """The content in what comes next of a part, ``b""`` at its end."""
        if isinstance(event, bytes):
            return event
        self._is_over = True
        return b""

    def _add(self, parts: Parts, content: bytes, part: _Head) -> None:
        parts.add(content)
        limit = self._limits.max_form_field_bytes
        if limit is not None and parts.size > limit:
            raise BodyTooLargeError(limit, describe(part.name))


class Part(_Head):
    """A part of a multipart form that is still coming: what is not read of it is skipped by asking for the next one."""

    __slots__ = ("_reader",)

    def __init__(self, segment: Segment, number: int, reader: PartReader) -> None:
        super().__init__(segment, number)
        self._reader = reader

    def stream(self) -> AsyncIterator[bytes]:
        """Return an asynchronous iterator over the content as it comes; no piece is empty.

        Raises:
            BodyConsumedError: At once, if the content was used before; from the iterator, if the next part was asked
                for.

        The iterator raises as ``Request.stream()`` and ``asgicore.Request.multipart()`` do.
        """
        self._use("stream()")
        return _Content(self, self._reader)

    async def read(self) -> bytes:
        """Return the content.

        Raises:
            BodyTooLargeError: More than ``Limits.max_form_field_bytes``.
            BodyConsumedError: It was used before, or the next part was asked for.
            RequestError: As ``stream()``.
            ClientDisconnectedError: As ``stream()``.
        """
        self._use("read()")
        parts = Parts()
        while content := await self._reader.content(self):
            self._reader._add(parts, content, self)
        return parts.join()

    async def text(self) -> str:
        """Return the content as text: UTF-8, unless the part has another ``charset``.

        Raises:
            MalformedBodyError: It is no text in this charset.
            BodyTooLargeError: As ``read()``, as all its other errors.
        """
        return decode_field(self.name, await self.read(), self.charset)


class _Content:
    """An iterator over the content of a part. No generator: one that is not exhausted would have to be closed."""

    __slots__ = ("_part", "_reader")

    def __init__(self, part: Part, reader: PartReader) -> None:
        self._part = part
        self._reader = reader

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        content = await self._reader.content(self._part)
        if not content:
            raise StopAsyncIteration
        return content


class PartReader(_Reader):
    """An asynchronous iterator over the parts.

    Args:
        parser: As for ``_Reader``.
        blocks: The body; none of them is empty. Closed by whoever opened it.
        limits: As for ``_Reader``.
    """

    def __init__(self, parser: PartParser, blocks: AsyncIterator[bytes], limits: Limits) -> None:
        super().__init__(parser, limits)
        self._blocks = blocks
        self._turned = perf_counter()

    async def event(self) -> Segment | bytes | Signal | None:
        """What comes next, ``None`` at the end of the body."""
        if self._is_cut:
            raise BodyConsumedError("the rest of the form cannot be had: its reading was cut short")
        # Before anything is taken out of the parser: it would be lost with a cancellation.
        if perf_counter() - self._turned > FAIR_SECONDS:
            await checkpoint()
            self._turned = perf_counter()
        parser, blocks = self._parser, self._blocks
        while (event := parser.next()) is Signal.NEEDS_BLOCK:
            try:
                block = await anext(blocks)
            except StopAsyncIteration:
                parser.finish()
                return None
            except BaseException:
                # Half a form must not be taken for a whole one by whoever goes on.
                self._is_cut = True
                raise
            parser.feed(block)
        return event

    async def content(self, part: _Head) -> bytes:
        """The content that comes next of this part, ``b""`` at its end."""
        self._check_current(part)
        return b"" if self._is_over else self._content(await self.event())

    def __aiter__(self) -> AsyncIterator[Part]:
        return self

    async def __anext__(self) -> Part:
        self._number += 1
        while isinstance(event := await self.event(), bytes | Signal):
            pass
        if event is None:
            raise StopAsyncIteration
        self._is_over = False
        return Part(event, self._number, self)


class SyncPart(_Head):
    """As ``Part``, in a synchronous endpoint."""

    __slots__ = ("_reader",)

    def __init__(self, segment: Segment, number: int, reader: SyncPartReader) -> None:
        super().__init__(segment, number)
        self._reader = reader

    def stream(self) -> Iterator[bytes]:
        """As ``Part.stream()``."""
        self._use("stream()")
        return self._reader.contents(self)

    def read(self) -> bytes:
        """As ``Part.read()``."""
        self._use("read()")
        parts = Parts()
        for content in self._reader.contents(self):
            self._reader._add(parts, content, self)
        return parts.join()

    def text(self) -> str:
        """As ``Part.text()``."""
        return decode_field(self.name, self.read(), self.charset)


class SyncPartReader(_Reader):
    """An iterator over the parts of a body that is here.

    Args:
        parser: As for ``_Reader``.
        blocks: The body.
        limits: As for ``_Reader``.
    """

    def __init__(self, parser: PartParser, blocks: Iterator[bytes], limits: Limits) -> None:
        super().__init__(parser, limits)
        self._blocks = blocks

    def event(self) -> Segment | bytes | Signal | None:
        """What comes next, ``None`` at the end of the body."""
        while (event := self._parser.next()) is Signal.NEEDS_BLOCK:
            block = next(self._blocks, b"")
            if not block:
                self._parser.finish()
                return None
            self._parser.feed(block)
        return event

    def contents(self, part: _Head) -> Iterator[bytes]:
        """The content of this part."""
        self._check_current(part)
        while not self._is_over and (content := self._content(self.event())):
            yield content
            self._check_current(part)

    def __iter__(self) -> Iterator[SyncPart]:
        return self

    def __next__(self) -> SyncPart:
        self._number += 1
        while isinstance(event := self.event(), bytes | Signal):
            pass
        if event is None:
            raise StopIteration
        self._is_over = False
        return SyncPart(event, self._number, self)
