"""Forms, as they are sent: ``application/x-www-form-urlencoded`` and ``multipart/form-data``.

Blocks of a body in, events out; nothing here waits.

Source: RFC 7578, RFC 2046 section 5.1.1, WHATWG HTML standard, "Multipart form data".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from math import inf
from typing import Final

from multidict import MultiDict

from . import _grammar
from ._multipart_library import Segment, load_library
from ._params import parse_fields
from .errors import BodyTooLargeError, MalformedBodyError, MalformedRequestError
from .limits import Limits

__all__ = [
    "ALL_FIELDS",
    "MULTIPART",
    "URLENCODED",
    "PartParser",
    "Signal",
    "decode_field",
    "describe",
    "parse_urlencoded",
]

MULTIPART: Final = "multipart/form-data"
URLENCODED: Final = "application/x-www-form-urlencoded"

SLICE_BYTES: Final = 2**20
"""Longest block that is parsed in one go: the search for a boundary in it takes 0.2 ms."""

# What text may be encoded in, by the labels of the WHATWG encoding standard that are in use, and by their names here:
# what it calls by an old name mostly has more in it than Python's codec of that name. All have ASCII in them. Never
# looked up among Python's codecs: some take quadratic time, some are no text, and a name that is unknown is kept there
# for ever.
_CHARSETS: Final = {
    label: codec
    for codec, labels in {
        "utf-8": "utf-8 utf8 unicode-1-1-utf-8",
        "cp1252": "us-ascii ascii iso-8859-1 iso8859-1 latin1 latin-1 l1 windows-1252 cp1252",
        "cp1250": "windows-1250 cp1250",
        "cp1251": "windows-1251 cp1251",
        "cp1254": "windows-1254 cp1254 iso-8859-9 latin5",
        "iso8859-2": "iso-8859-2 latin2",
        "iso8859-15": "iso-8859-15 latin-9",
        "koi8-r": "koi8-r",
        "koi8-u": "koi8-u",
        "cp932": "shift_jis shift-jis sjis windows-31j ms_kanji x-sjis",
        "euc_jp": "euc-jp",
        "gb18030": "gb18030 gbk gb2312",
        "big5hkscs": "big5 big5-hkscs",
        "cp949": "euc-kr ks_c_5601-1987 windows-949",
    }.items()
    for label in labels.split()
}

ALL_FIELDS: Final = "form fields"
"""What ``Limits.max_form_memory_bytes`` is about, for the error that names it."""

# As much of a name as an error repeats.
_SHOWN: Final = 40


class Signal(Enum):
    """What is neither a head nor content."""

    PART_ENDS = 1
    NEEDS_BLOCK = 2


def describe(name: str) -> str:
    """A field of a form, for the error that names it; escaped and cut."""
    return f"form field {name[:_SHOWN]!r}"


def _codec(charset: str | None, field: str) -> str:
    codec = "utf-8" if charset is None else _CHARSETS.get(charset.strip().lower())
    if codec is None:
        raise MalformedBodyError(field, f"charset {str(charset)[:_SHOWN]!r} is not known; send UTF-8")
    return codec


def decode_field(name: str, value: bytes | bytearray, charset: str | None) -> str:
    """The text of a field.

    Raises:
        MalformedBodyError: It is no text in this charset, UTF-8 if ``None``, or the charset is not known.
    """
    codec = _codec(charset, describe(name))
    try:
        return value.decode(codec)
    except UnicodeDecodeError:
        raise MalformedBodyError(describe(name), f"no text in {charset or 'UTF-8'}") from None


def parse_urlencoded(raw: bytes, charset: str | None, limits: Limits) -> MultiDict[str]:
    """Parse an urlencoded form: the grammar of query strings.

    Raises:
        BodyTooLargeError: More than ``limits.max_form_memory_bytes``, or ``limits.max_form_field_bytes`` in one field,
            as they were sent.
        MalformedBodyError: More than ``limits.max_form_fields`` fields, or what is no text.
    """
    if limits.max_form_memory_bytes is not None and len(raw) > limits.max_form_memory_bytes:
        raise BodyTooLargeError(limits.max_form_memory_bytes, ALL_FIELDS)
    codec = _codec(charset, "content-type")
    if limits.max_form_fields is not None and raw and raw.count(b"&") >= limits.max_form_fields:
        raise MalformedBodyError("body", f"more than {limits.max_form_fields} form fields")
    longest = limits.max_form_field_bytes
    if longest is not None and len(raw) > longest:
        for field in raw.split(b"&"):
            name, _, value = field.partition(b"=")
            if len(value) > longest or len(name) > longest:
                raise BodyTooLargeError(longest, describe(name[:_SHOWN].decode("latin-1")))
    try:
        return parse_fields(raw, codec)
    except UnicodeDecodeError:
        raise MalformedBodyError("body", f"no text in {charset or 'UTF-8'}") from None


class PartParser:
    """Takes a multipart form apart, block by block.

    Args:
        parameters: Those of the content type.
        limits: Those of forms and their parts apply.

    Raises:
        MissingExtraError: The library is not installed.
        MalformedRequestError: The content type has no boundary, or none that can be.
    """

    __slots__ = (
        "_begin",
        "_block",
        "_cut",
        "_events",
        "_failure",
        "_head",
        "_is_complete",
        "_library",
        "_limits",
        "_max_parts",
        "_offset",
        "_parser",
        "_parts",
        "_piece",
        "_tail",
        "position",
    )

    position: int
    """Where in the body the content stands that comes next."""

    def __init__(self, parameters: Mapping[str, str], limits: Limits) -> None:
        self._library = load_library()
        boundary = parameters.get("boundary", "")
        if not _grammar.BOUNDARY.fullmatch(boundary):
            reason = "its boundary is none (RFC 2046 section 5.1.1)" if boundary else "its boundary is missing"
            raise MalformedRequestError("content-type", reason)
        numbers = (limits.max_form_fields, limits.max_form_files)
        self._limits = limits
        self._max_parts = sum(inf if number is None else number for number in numbers)
        self._parser = self._library.PushMultipartParser(
            boundary,
            max_header_size=_bound(limits.max_part_header_bytes),
            max_header_count=_bound(limits.max_part_headers),
            max_segment_size=_bound(limits.max_body_bytes),
            max_segment_count=self._max_parts,
            # No folded lines, which take quadratic time, and no part without a name.
            strict=True,
        )
        self._begin = b"--" + boundary.encode("ascii")
        # The first bytes, until they tell whether the boundary is there; None then.
        self._head: bytes | None = b""
        self._block = b""
        self._cut = 0
        self._piece = b""
        self._events: Iterator[Segment | bytes | None] = iter(())
        self._is_complete = False
        self._failure: Exception | None = None
        self._parts = 0
        # Where the piece stands that is being parsed, and what came right before it.
        self._offset = 0
        self._tail = b""
        self.position = 0

    def feed(self, block: bytes) -> None:
        """Go on with this block; the last one is used up."""
        if self._head is not None:
            block = self._head + block
            self._head = block
            # As much as there may be in front of the first boundary, and that: the library wants to see both at once.
            if len(block) < 2 + len(self._begin):
                return
            if not block.startswith((self._begin, b"\r\n" + self._begin)):
                raise self._fail(MalformedBodyError("body", "does not begin with its boundary"))
            self._head = None
        self._block = block
        self._cut = 0

    def next(self) -> Segment | bytes | Signal:
        """The next event in what was fed: the head of a part, some of its content, or a signal.

        Raises:
            MalformedBodyError: It is no form, or has too many parts.
            BodyTooLargeError: The head of a part is too large.
        """
        if self._failure is not None:
            raise self._failure
        while True:
            try:
                for event in self._events:
                    if event is None:
                        return Signal.PART_ENDS
                    if isinstance(event, bytes):
                        self.position += len(event)
                    else:
                        self._parts += 1
                        self.position = self._find_content()
                    return event
            except self._library.MultipartError as exc:
                if not self._ends():
                    raise self._fail(self._translated(exc)) from None
                self._is_complete = True
            if self._is_complete or self._cut >= len(self._block):
                self._block = b""
                return Signal.NEEDS_BLOCK
            piece = self._piece
            self._tail = piece if len(piece) >= 3 else self._tail[-3:] + piece
            self._offset += len(piece)
            self._piece = piece = self._block[self._cut : self._cut + SLICE_BYTES]
            self._cut += SLICE_BYTES
            self._events = self._parser.parse(piece)

    def finish(self) -> None:
        """The body is here: see that the form is, too.

        Raises:
            MalformedBodyError: The last boundary is missing.
        """
        if not self._is_complete and not self._ends():
            raise self._fail(MalformedBodyError("body", "ends before the last boundary of its form"))

    def _ends(self) -> bool:
        """Whether the last boundary has come: what follows it says nothing. Ends the parsing."""
        try:
            self._parser.close()
        except self._library.MultipartError:
            return False
        return True

    def _find_content(self) -> int:
        """Where the content of the part stands whose head was just parsed: after the first empty line."""
        # From the end of the last content on; in front of this piece there are at most three bytes of that line.
        begin = self.position - self._offset
        if begin < 0:
            tail = self._tail[-3:]
            found = (tail + self._piece[:3]).find(b"\r\n\r\n", max(begin + len(tail), 0))
            if found >= 0:
                return self._offset - len(tail) + found + 4
        return self._offset + self._piece.index(b"\r\n\r\n", max(begin, 0)) + 4

    def _fail(self, failure: Exception) -> Exception:
        self._failure = failure
        return failure

    def _translated(self, exc: Exception) -> Exception:
        reason, limits = str(exc.args[0]), self._limits
        if isinstance(exc, self._library.ParserLimitReached):
            if self._parts >= self._max_parts:
                return MalformedBodyError("body", f"more than {self._max_parts} parts")
            if "header count" in reason:
                return MalformedBodyError("part header", f"more than {limits.max_part_headers} fields")
            if limits.max_part_header_bytes is not None and "header length" in reason:
                return BodyTooLargeError(limits.max_part_header_bytes, "part header")
        return MalformedBodyError("body", f"no multipart form: {reason[:1].lower()}{reason[1:]}")


def _bound(limit: int | None) -> float:
    return inf if limit is None else limit
