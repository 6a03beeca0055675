"""Parts of a representation: which bytes a request asks for, and how they are told apart in one answer.

Source: RFC 9110 sections 14 and 15.3.7.2.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, TypeAlias

from ._headers import find_all

__all__ = ["Part", "Segment", "build_content_range", "build_multipart", "parse_ranges", "requested_ranges"]

Part: TypeAlias = tuple[int, int]
"""Where a part begins, and how many bytes it has: at least one."""

Segment: TypeAlias = bytes | Part
"""A piece of a body: bytes, or a part of a file."""

# Viewers of documents ask for about ten at a time, players for one. More is an attack, or more work than it saves.
_MAX_PARTS: Final = 16
_MAX_FIELD_BYTES: Final = 1024

# RFC 9110 section 14.1: range-unit "=" range-set; names of units are compared without regard to case.
_FIELD: Final = re.compile(rb"bytes=([0-9, \t\-]+)", re.IGNORECASE)

# RFC 9110 section 14.1.1: int-range = first-pos "-" [ last-pos ], suffix-range = "-" suffix-length. Nineteen digits
# are more than any file has, and far below the length at which CPython's int() gets slow or refuses.
_SPEC: Final = re.compile(rb"([0-9]{1,19})-([0-9]{0,19})|-([0-9]{1,19})")


def requested_ranges(raw_headers: Iterable[tuple[bytes, bytes]], size: int) -> list[Part] | None:
    """As ``parse_ranges()``, of the fields of a request; a field that is given twice is ignored."""
    fields = find_all(raw_headers, b"range")
    return parse_ranges(fields[0], size) if len(fields) == 1 else None


def parse_ranges(field: bytes, size: int) -> list[Part] | None:
    """The parts that a ``range`` field asks for.

    Those that overlap or touch are joined, which puts all in ascending order; else they are in the order of the
    field (RFC 9110 section 15.3.7.2).

    Args:
        field: The value of the field.
        size: How many bytes there are.

    Returns:
        The parts; none if nothing that is asked for exists (416). ``None`` if the field is to be ignored, which
        section 14.2 allows: it is malformed, has another unit, asks for more than 16 parts or for more than there
        is, or is longer than 1 KiB.
    """
    if len(field) > _MAX_FIELD_BYTES or not (found := _FIELD.fullmatch(field.strip(b" \t"))):
        return None
    # RFC 9110 section 5.6.1.2: empty members of a list are skipped.
    specs = [spec for member in found[1].split(b",") if (spec := member.strip(b" \t"))]
    if not 0 < len(specs) <= _MAX_PARTS:
        return None
    parts: list[Part] = []
    for spec in specs:
        numbers = _SPEC.fullmatch(spec)
        if numbers is None:
            return None
        first, last, suffix = numbers.groups()
        if suffix is not None:
            count = min(int(suffix), size)
            if count:
                parts.append((size - count, count))
            elif int(suffix):
                # Satisfiable by section 14.1.2, but no Content-Range says "the last bytes of nothing".
                return None
            continue
        start = int(first)
        stop = int(last) + 1 if last else max(size, start + 1)
        if stop <= start:
            return None
        if start < size:
            parts.append((start, min(stop, size) - start))
    if sum(count for _, count in parts) > size:
        return None  # the whole is less
    return _joined(parts)


def _joined(parts: list[Part]) -> list[Part]:
    joined: list[Part] = []
    for start, count in sorted(parts):
        if joined and start <= sum(joined[-1]):
            before, _ = joined[-1]
            joined[-1] = before, max(sum(joined[-1]), start + count) - before
        else:
            joined.append((start, count))
    return parts if len(joined) == len(parts) else joined


def build_content_range(part: Part | None, size: int) -> bytes:
    """The value of ``content-range``; ``None`` is for 416 (RFC 9110 section 14.4)."""
    if part is None:
        return b"bytes */%d" % size
    start, count = part
    return b"bytes %d-%d/%d" % (start, start + count - 1, size)


def build_multipart(parts: list[Part], size: int, content_type: bytes | None, boundary: bytes) -> list[Segment]:
    """The body that holds several parts (RFC 9110 section 14.6).

    Args:
        parts: What it holds.
        size: How many bytes there are in all.
        content_type: What they are of.
        boundary: Stands between the parts and in none of them.
    """
    kind = b"" if content_type is None else b"Content-Type: %b\r\n" % content_type
    segments: list[Segment] = []
    lead = b"--"
    for part in parts:
        content_range = build_content_range(part, size)
        segments += (b"%b%b\r\n%bContent-Range: %b\r\n\r\n" % (lead, boundary, kind, content_range), part)
        lead = b"\r\n--"
    segments.append(b"%b%b--\r\n" % (lead, boundary))
    return segments
