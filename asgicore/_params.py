"""Query strings and urlencoded forms: pairs separated by ``&`` and nothing else (WHATWG URL standard, section 5.1)."""

from __future__ import annotations

import re
from codecs import getincrementaldecoder
from typing import Final

from multidict import MultiDict, MultiDictProxy

from .errors import MalformedRequestError

__all__ = ["parse_fields", "parse_query"]

# A per cent sign that begins no escape stands for itself.
_BROKEN: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")

# As much as is unescaped in one go, which takes 1 ms at most; a worker thread holds the interpreter as long.
_SLICE_BYTES: Final = 2**14


def parse_query(raw: bytes, max_params: int | None) -> MultiDictProxy[str]:
    """Parse a query string; see ``parse_fields()``.

    Raises:
        MalformedRequestError: More than ``max_params`` fields, or raw bytes that are no UTF-8.
    """
    # Counted before anything is split, so that a million fields cost one scan.
    if max_params is not None and raw and raw.count(b"&") >= max_params:
        raise MalformedRequestError("query_string", f"more than {max_params} fields")
    try:
        return MultiDictProxy(parse_fields(raw))
    except UnicodeDecodeError:
        raise MalformedRequestError("query_string", "not UTF-8; other bytes must be percent-encoded") from None


def parse_fields(raw: bytes, encoding: str = "utf-8") -> MultiDict[str]:
    """Parse pairs, keeping every repeat in order; a field without ``=`` has the value ``""``.

    Escapes are decoded once; an escape that is no text in ``encoding`` becomes U+FFFD, a broken one stays as it is.

    Args:
        raw: The pairs.
        encoding: What text is encoded in; one that has ASCII in it.

    Raises:
        UnicodeDecodeError: Raw bytes that are no text in ``encoding``.
    """
    text = raw.decode(encoding)
    if "%" not in text:
        if "+" in text:
            text = text.replace("+", " ")
        fields = text.split("&")
        try:
            # Every field with its "=": multidict takes the halves as they are.
            return MultiDict([field.split("=", 1) for field in fields])  # type: ignore[misc]
        except ValueError:  # one has none
            pairs = [field.partition("=") for field in fields if field]
            return MultiDict([(name, value) for name, _, value in pairs])
    # In bytes, since an escape may be a part of a character.
    halves = [field.partition(b"=") for field in raw.replace(b"+", b" ").split(b"&") if field]
    return MultiDict([(_unquote(name, encoding), _unquote(value, encoding)) for name, _, value in halves])


def _unquote(raw: bytes, encoding: str) -> str:
    if b"%" not in raw:
        return raw.decode(encoding)
    if len(raw) <= _SLICE_BYTES:
        return _unescape(raw).decode(encoding, "replace")
    decoder = getincrementaldecoder(encoding)("replace")
    pieces: list[str] = []
    start = 0
    while start < len(raw):
        end = start + _SLICE_BYTES
        escape = raw.rfind(b"%", end - 2, end)
        if escape >= 0:
            end = escape  # and not within it
        pieces.append(decoder.decode(_unescape(raw[start:end]), end >= len(raw)))
        start = end
    return "".join(pieces)


def _unescape(raw: bytes) -> bytes:
    # unquote_to_bytes() of the standard library takes ten times as long, a broken escape most of all. The escapes of
    # Python's own strings are the same ones but for their first characters.
    while b"%%" in raw:  # twice at most; one by one they would take twice as long as all others
        raw = raw.replace(b"%%", b"%25%")
    escaped = _BROKEN.sub(b"%25", raw).replace(b"\\", rb"\x5c").replace(b"%", rb"\x")
    return escaped.decode("unicode_escape").encode("latin-1")
