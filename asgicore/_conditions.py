"""Conditional requests: entity tags, and the preconditions in their order.

Source: RFC 9110 sections 8.8 and 13.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, Literal

from ._dates import parse_http_date
from .errors import InvalidHeaderError

__all__ = ["build_etag", "check_etag", "evaluate", "if_range_holds", "is_weak", "tags_match"]

# RFC 9110 section 8.8.3: entity-tag = [ "W/" ] DQUOTE *etagc DQUOTE, etagc = %x21 / %x23-7E / obs-text
_OPAQUE: Final = r'"[\x21\x23-\x7e\x80-\xff]*+"'
_ETAG: Final = re.compile(rf"(?:W/)?{_OPAQUE}")
_TAG: Final = re.compile(rb'(W/)?("[^"]*")')

# RFC 9110 section 5.6.1.2: #entity-tag as recipients take it, empty members included. Possessive: linear.
_TAGS: Final = re.compile(
    rf"(?:[ \t]*+(?:(?:W/)?{_OPAQUE}[ \t]*+)?,)*+[ \t]*+(?:(?:W/)?{_OPAQUE})?[ \t]*+".encode("latin-1")
)

# Hundreds of tags, and what servers take as one field; 64 KiB would cost 5 ms. A longer list matches nothing: the
# whole answer to If-None-Match, and 412 to If-Match, both of which are safe.
_MAX_LIST_BYTES: Final = 8192

_NAMES: Final = frozenset((b"if-match", b"if-unmodified-since", b"if-none-match", b"if-modified-since", b"if-range"))

# RFC 9110 section 13.2.1: of methods that neither select nor change a representation they are ignored.
_UNCONDITIONAL: Final = ("CONNECT", "OPTIONS", "TRACE")


def build_etag(opaque: str, *, weak: bool = False) -> str:
    """An entity tag as it stands in the field.

    Args:
        opaque: What is between the quotes; visible ASCII without ``"``.
        weak: Whether what it stands for may differ in its bytes (RFC 9110 section 8.8.1).

    Raises:
        InvalidHeaderError: A character may not stand in a tag.
    """
    return check_etag(f'W/"{opaque}"' if weak else f'"{opaque}"')


def check_etag(etag: str) -> str:
    """The tag, if it is one as it stands in the field: ``"…"`` or ``W/"…"``.

    Raises:
        InvalidHeaderError: It is none.
    """
    if not isinstance(etag, str) or not _ETAG.fullmatch(etag):
        raise InvalidHeaderError(
            "etag",
            f'{etag!r} is no entity tag; it takes "…" or W/"…" around visible characters, without blanks and quotes',
        )
    return etag


def is_weak(etag: str) -> bool:
    """Whether the tag says so."""
    return etag.startswith("W/")


def tags_match(field: bytes, etag: str | None, *, strong: bool) -> bool:
    """Whether a list of tags, or ``*``, matches the tag of what is there (RFC 9110 section 8.8.3.2).

    Args:
        field: The value of the field; repeats joined with commas. If malformed, it matches nothing.
        etag: The tag, ``None`` if it has none.
        strong: Whether weak tags never match; else weak and strong ones are the same.
    """
    if field.strip(b" \t") == b"*":
        return True
    if etag is None or (strong and is_weak(etag)):
        return False
    opaque = etag.removeprefix("W/").encode("latin-1")
    # Mostly one tag, which is another one or the same.
    if opaque not in field or len(field) > _MAX_LIST_BYTES or not _TAGS.fullmatch(field):
        return False
    return any(tag == opaque and not (strong and weak) for weak, tag in _TAG.findall(field))


def evaluate(
    method: str,
    raw_headers: Iterable[tuple[bytes, bytes]],
    etag: str | None,
    last_modified: int | None,
    *,
    exists: bool = True,
) -> Literal[304, 412] | None:
    """Whether the preconditions of a request allow to go on, in the order of RFC 9110 section 13.2.2.

    To be asked where the answer would be a 2xx, before anything is changed.

    Args:
        method: The method of the request.
        raw_headers: Its fields, pairs of bytes, names in any case.
        etag: The current tag, as it stands in the field; ``None`` if there is none.
        last_modified: The current date in whole seconds since 1970; ``None`` if there is none.
        exists: Whether there is anything now that ``*`` stands for.

    Returns:
        The status that answers instead, ``None`` to go on.
    """
    fields = _fields(raw_headers)
    if not fields or method in _UNCONDITIONAL:
        return None
    reads = method in ("GET", "HEAD")
    if (tags := fields.get(b"if-match")) is not None:
        if not exists or not tags_match(tags, etag, strong=True):
            return 412
    elif (since := _date(fields, b"if-unmodified-since")) is not None and _is_later(last_modified, since):
        return 412
    if (tags := fields.get(b"if-none-match")) is not None:
        if exists and tags_match(tags, etag, strong=False):
            return 304 if reads else 412
    elif reads and last_modified is not None and (since := _date(fields, b"if-modified-since")) is not None:
        return None if _is_later(last_modified, since) else 304
    return None


def if_range_holds(raw_headers: Iterable[tuple[bytes, bytes]], etag: str | None, last_modified: int | None) -> bool:
    """Whether ``range`` may be answered with a part (RFC 9110 section 13.1.5); so it may without ``if-range``.

    Args:
        raw_headers: As for ``evaluate()``.
        etag: As for ``evaluate()``.
        last_modified: As for ``evaluate()``; ``None`` also where it is no strong validator (section 8.8.2.2):
            another version may have the same date.
    """
    value = _fields(raw_headers).get(b"if-range")
    if value is None:
        return True
    value = value.strip(b" \t")
    if value.endswith(b'"'):
        # One tag, and no list of them.
        return etag is not None and not is_weak(etag) and value == etag.encode("latin-1")
    return last_modified is not None and parse_http_date(value) == last_modified


def _fields(raw_headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """The fields that are conditions; repeats are joined, which makes one that is no list malformed."""
    fields: dict[bytes, bytes] = {}
    for name, value in raw_headers:
        # Most requests have none.
        if name[:3].lower() == b"if-" and (name := name.lower()) in _NAMES:
            fields[name] = fields[name] + b", " + value if name in fields else value
    return fields


def _date(fields: dict[bytes, bytes], name: bytes) -> int | None:
    value = fields.get(name)
    return None if value is None else parse_http_date(value.strip(b" \t"))


def _is_later(last_modified: int | None, since: int) -> bool:
    return last_modified is not None and last_modified > since
