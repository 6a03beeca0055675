"""Query strings and urlencoded forms: pairs separated by ``&`` and nothing else (WHATWG URL standard, section 5.1)."""

from __future__ import annotations

from urllib.parse import unquote

from multidict import MultiDict, MultiDictProxy

from .errors import MalformedRequestError

__all__ = ["parse_fields", "parse_query"]


def parse_query(raw: bytes, max_params: int | None) -> MultiDictProxy[str]:
    """Parse a query string; see :func:`parse_fields`.

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
    if "+" in text:
        text = text.replace("+", " ")
    fields = text.split("&")
    if "%" not in text:
        try:
            # Every field with its "=": multidict takes the halves as they are.
            return MultiDict([field.split("=", 1) for field in fields])  # type: ignore[misc]
        except ValueError:
            pass  # one has none
    halves = [field.partition("=") for field in fields if field]
    return MultiDict([(_unquote(name, encoding), _unquote(value, encoding)) for name, _, value in halves])


def _unquote(text: str, encoding: str) -> str:
    # The test is 20 ns, unquote() of plain text 150.
    return unquote(text, encoding) if "%" in text else text
