"""Forms, read: fields in memory, files as ranges of what is kept of the body.

A kept body keeps its files, too: nothing is written a second time. Of a body that streams, the contents of all files
are kept, one after the other, as the engine keeps bodies: in memory, or in one temporary file.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from functools import partial
from typing import Final, TypeAlias, TypeVarTuple, cast

from multidict import MultiDict, MultiDictProxy

from ._body import Body
from ._form_data import ALL_FIELDS, MULTIPART, URLENCODED, PartParser, Signal, decode_field, describe, parse_urlencoded
from ._multipart_library import Segment
from ._parts import Part, PartReader, SyncPart, SyncPartReader
from ._spool import BATCH_BYTES, Parts, Spool, in_file_thread
from ._uploads import UploadFile
from ._watch import Closing
from .errors import BodyTooLargeError, MalformedBodyError, UnsupportedMediaTypeError
from .limits import Limits

__all__ = ["Form", "open_parts", "open_parts_nowait", "read_form", "read_form_nowait"]

Ts = TypeVarTuple("Ts")

Form: TypeAlias = MultiDictProxy[str | UploadFile]

# Text up to this size is decoded on the event loop, which takes 2 ms at most: it may be all escapes.
_LOOP_BYTES: Final = 64 * 2**10

# What is written at once of files that stream. Parsing and writing take turns at every batch, which costs a tenth of
# the whole where a batch is as small as that of a body.
_BATCH_BYTES: Final = 2 * BATCH_BYTES

# Blocks of 1 MiB that a thread reads and parses in one go: some 5 ms, so that a cancellation does not wait for longer.
_STEP_BLOCKS: Final = 16


class _Entry:
    """A field, with its value, or a file, with its place among all that is kept."""

    __slots__ = ("segment", "size", "start", "value")

    def __init__(self, segment: Segment, start: int) -> None:
        self.segment = segment
        self.value: bytearray | None = bytearray() if segment.filename is None else None
        self.start = start
        self.size = 0


class _Builder:
    """Gathers fields and files from the events of a form.

    Args:
        limits: Those of forms apply.
    """

    __slots__ = ("_entries", "_fields", "_files", "_limits", "file_bytes", "memory_bytes")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._entries: list[_Entry] = []
        self._fields = self._files = 0
        self.file_bytes = 0
        """Size of all files."""
        self.memory_bytes = 0
        """Size of all that is in memory whatever the threshold is."""

    def take(self, event: Segment | bytes | Signal, start: int) -> bytes:
        """Take in what comes next of the form.

        Args:
            event: That.
            start: Where the content of a part that begins here stands, or will stand, among all that is kept.

        Returns:
            Content of a file, ``b""`` if it is something else.

        Raises:
            MalformedBodyError: Too many fields or files.
            BodyTooLargeError: Too much for memory.
        """
        if isinstance(event, bytes):
            entry = self._entries[-1]
            entry.size += len(event)
            if entry.value is None:
                self.file_bytes += len(event)
                return event
            entry.value += event
            limit = self._limits.max_form_field_bytes
            if limit is not None and entry.size > limit:
                raise BodyTooLargeError(limit, describe(entry.segment.name))
            self._count_bytes(len(event))
        elif not isinstance(event, Signal):
            self._entries.append(_Entry(event, start))
            if event.filename is None:
                self._fields = _count(self._fields, self._limits.max_form_fields, "form fields")
            else:
                self._files = _count(self._files, self._limits.max_form_files, "files")
            for name, value in event.headerlist:
                self._count_bytes(len(name) + len(value))
        return b""

    def _count_bytes(self, number: int) -> None:
        self.memory_bytes += number
        limit = self._limits.max_form_memory_bytes
        if limit is not None and self.memory_bytes > limit:
            raise BodyTooLargeError(limit, ALL_FIELDS)

    def build(self, kept: bytes | Spool) -> Form:
        """The form.

        Args:
            kept: Where the files stand.

        Raises:
            MalformedBodyError: A field is no text in its charset.
        """
        # RFC 7578 section 4.6: the charset of those that name none.
        charsets = [entry.value for entry in self._entries if entry.value and entry.segment.name == "_charset_"]
        default = charsets[0].decode("latin-1") if charsets else None
        form: MultiDict[str | UploadFile] = MultiDict()
        for entry in self._entries:
            segment = entry.segment
            if entry.value is None:
                form.add(segment.name, UploadFile(segment, kept, entry.start, entry.size))
            else:
                form.add(segment.name, decode_field(segment.name, entry.value, segment.charset or default))
        return MultiDictProxy(form)


def _count(number: int, limit: int | None, what: str) -> int:
    if limit is not None and number >= limit:
        raise MalformedBodyError("body", f"more than {limit} {what}")
    return number + 1


def _open_parser(body: Body, media_type: str, parameters: Mapping[str, str], *wanted: str) -> PartParser:
    if media_type != MULTIPART:
        raise UnsupportedMediaTypeError(media_type, *wanted, MULTIPART)
    return PartParser(parameters, body.limits)


# --- of a kept body --------------------------------------------------------------------------------------


class _Kept:
    """Reads the form in a kept body, some of it at a time, without waiting for anything but the disk."""

    __slots__ = ("_blocks", "_body", "_builder", "_parser")

    def __init__(self, body: Body, parser: PartParser) -> None:
        self._body = body
        self._parser = parser
        self._builder = _Builder(body.limits)
        self._blocks = body.stream_nowait()

    def __call__(self) -> Form | None:
        """Go on; ``None`` if there is more."""
        parser, builder = self._parser, self._builder
        for _ in range(_STEP_BLOCKS):
            block = next(self._blocks, b"")
            if not block:
                parser.finish()
                return builder.build(self._body.kept)
            parser.feed(block)
            while (event := parser.next()) is not Signal.NEEDS_BLOCK:
                builder.take(event, parser.position)
        return None


def _kept_form(body: Body, media_type: str, parameters: Mapping[str, str]) -> Callable[[], Form | None]:
    if media_type != URLENCODED:
        return _Kept(body, _open_parser(body, media_type, parameters, URLENCODED))
    return partial(_parse_kept, body, parameters.get("charset"))


def _parse_kept(body: Body, charset: str | None) -> Form:
    enough = body.limits.max_form_memory_bytes
    parts = Parts()
    for block in body.stream_nowait():
        parts.add(block)
        if enough is not None and parts.size > enough:
            break
    return _parse(parts.join(), charset, body.limits)


def read_form_nowait(body: Body, media_type: str, parameters: Mapping[str, str]) -> Form:
    """As ``read_form()``, in a worker thread, of a body that is kept and here."""
    read = _kept_form(body, media_type, parameters)
    while (form := read()) is None:
        pass
    return form


# --- of any body -----------------------------------------------------------------------------------------


async def read_form(body: Body, media_type: str, parameters: Mapping[str, str]) -> Form:
    """Read a form.

    Args:
        body: Its limits apply.
        media_type: The content type.
        parameters: Those of the content type.

    Raises:
        As ``Request.form()``.
    """
    limits = body.limits
    if body.is_kept:
        await body.load()
        if body.data is None:
            read = _kept_form(body, media_type, parameters)
            while (form := await in_file_thread(read)) is None:
                pass
            return form
    if media_type == URLENCODED:
        raw = await body.read("form()", limits.max_form_memory_bytes)
        return await _off_loop(len(raw), _parse, raw, parameters.get("charset"), limits)
    parser = _open_parser(body, media_type, parameters, URLENCODED)
    builder = _Builder(limits)
    if body.is_kept:
        reader = PartReader(parser, body.stream(), limits)
        while (event := await reader.event()) is not None:
            builder.take(event, parser.position)
    else:
        await body.keep(Parts(), _file_contents(body, parser, builder), _BATCH_BYTES)
    return await _off_loop(builder.memory_bytes, builder.build, body.kept)


async def _off_loop(size: int, function: Callable[[*Ts], Form], *args: *Ts) -> Form:
    """Decode so many bytes, in a worker thread if it takes long."""
    return function(*args) if size <= _LOOP_BYTES else await in_file_thread(function, *args)


async def _file_contents(body: Body, parser: PartParser, builder: _Builder) -> AsyncGenerator[bytes, None]:
    """The contents of all files, one after the other."""
    blocks = cast("AsyncGenerator[bytes, None]", body.stream("form()"))
    async with Closing(blocks):
        reader = PartReader(parser, blocks, body.limits)
        while (event := await reader.event()) is not None:
            content = builder.take(event, builder.file_bytes)
            if content:
                yield content


def _parse(raw: bytes, charset: str | None, limits: Limits) -> Form:
    return cast("Form", MultiDictProxy(parse_urlencoded(raw, charset, limits)))


# --- part by part ----------------------------------------------------------------------------------------


def open_parts(body: Body, media_type: str, parameters: Mapping[str, str]) -> AsyncIterator[Part]:
    """The parts of a multipart form while they come.

    Raises:
        As ``Request.multipart()``.
    """
    parser = _open_parser(body, media_type, parameters)
    return PartReader(parser, body.stream("multipart()"), body.limits)


def open_parts_nowait(body: Body, media_type: str, parameters: Mapping[str, str]) -> Iterator[SyncPart]:
    """As ``open_parts()``, in a worker thread, of a body that is kept and here."""
    parser = _open_parser(body, media_type, parameters)
    return SyncPartReader(parser, body.stream_nowait(), body.limits)
