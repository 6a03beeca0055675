"""Header fields, as the lint looks at them: without changing or consuming them.

Source: ASGI HTTP specification 2.5, "headers"; RFC 9110 section 5.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final, Protocol

from ..._extensions import NEVER_TRAILERS
from ..._grammar import CONTENT_LENGTH, NOT_FIELD_VALUE_BYTES, TOKEN
from ...types import RawHeaders

__all__ = ["Report", "check_repeats", "check_trailer_fields", "declared_length", "is_once", "is_series", "read_fields"]


class Report(Protocol):
    """Takes what was found; raises where the lint is to raise."""

    def __call__(self, rule: str, message: str, section: str = "") -> None:
        """Report that ``rule`` is broken.

        Args:
            rule: Its name.
            message: What was seen.
            section: Where it is written for this message, if that is not where the rule itself is.
        """
        ...


def is_series(value: object) -> bool:
    """Whether a value can be iterated over, and is no text."""
    return isinstance(value, Iterable) and not isinstance(value, (str, bytes))


def is_once(value: object) -> bool:
    """Whether looking into a value takes its content away."""
    return isinstance(value, Iterator)


# RFC 9110 section 5.3: who sends a field line twice must know that its values can be joined by commas. These are no
# lists; content-length has a rule of its own.
_SINGLE: Final = frozenset(
    name.encode()
    for name in (
        "age content-disposition content-location content-range content-type date etag expires last-modified location "
        "retry-after server"
    ).split()
)


def read_fields(given: Any, report: Report, prefix: str = "", section: str = "") -> RawHeaders | None:
    """Check fields and return those that can be read, names in lower case.

    Args:
        given: What the message or the scope has as headers.
        report: Told what is wrong.
        prefix: Put before the names of the rules: those of the scope are its own.
        section: Where the message is described.

    Returns:
        The fields; ``None`` if they cannot be looked into.
    """
    kind = type(given).__name__
    if not is_series(given):
        report(f"{prefix}headers-type", f"headers are an iterable of pairs, not {kind}", section)
        return None
    if is_once(given):
        report(f"{prefix}headers-once", f"headers are a {kind}, which can be read once", section)
        return None
    fields: RawHeaders = []
    for item in given:
        kind = type(item).__name__
        if is_once(item):
            report(f"{prefix}headers-once", f"a header is a {kind}, which can be read once", section)
            return None
        try:
            name, value = item
        except (TypeError, ValueError):
            name = value = None
        if not isinstance(name, bytes) or not isinstance(value, bytes):
            report(f"{prefix}header-type", f"a header is a pair of bytes, not {_short(item)}", section)
            continue
        if name.startswith(b":"):
            report(f"{prefix}header-pseudo", f"the pseudo header {_short(name)}", section)
        elif not TOKEN.fullmatch(name.decode("latin-1")):
            report(f"{prefix}header-name", f"{_short(name)} is no name of a field")
        elif name != name.lower():
            report(f"{prefix}header-case", f"the name {_short(name)} is not in lower case", section)
        control = NOT_FIELD_VALUE_BYTES.search(value)
        if control:
            report(f"{prefix}header-value", f"the value of {_short(name)} holds {control.group()!r}")
        elif value != value.strip(b" \t"):
            report(f"{prefix}header-blank", f"the value of {_short(name)} begins or ends with a blank")
        fields.append((name.lower(), value))
    return fields


def check_repeats(fields: RawHeaders, report: Report) -> None:
    """Report fields that stand twice and are no lists."""
    seen: set[bytes] = set()
    for name, _ in fields:
        if name in seen:
            report("header-repeated", f"the field {_short(name)} stands more than once")
        elif name in _SINGLE:
            seen.add(name)


def check_trailer_fields(fields: RawHeaders, declared: set[bytes], report: Report) -> None:
    """Report trailers that may not be any, and those that the field ``trailer`` did not name."""
    for name, _ in fields:
        if name in NEVER_TRAILERS:
            report("trailer-forbidden", f"the field {_short(name)} cannot come after the body")
        elif name not in declared:
            report("trailer-undeclared", f"the field trailer of the response does not name {_short(name)}")


def declared_length(fields: RawHeaders) -> int | None:
    """What ``content-length`` declares; ``None`` if there is none.

    Raises:
        ValueError: It is not one number of bytes.
    """
    values = [value for name, value in fields if name == b"content-length"]
    if not values:
        return None
    if len(values) > 1 or not CONTENT_LENGTH.fullmatch(values[0]):
        raise ValueError(b", ".join(values))
    return int(values[0])


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
