"""The query string: pairs separated by ``&`` and nothing else (WHATWG URL standard, section 5.1)."""

from __future__ import annotations

from urllib.parse import unquote

from multidict import MultiDict, MultiDictProxy

from .errors import MalformedRequestError

__all__ = ["parse_query"]


def parse_query(raw: bytes, max_params: int | None) -> MultiDictProxy[str]:
    """Parse a query string, keeping every repeat in order; a field without ``=`` has the value ``""``.

    Escapes are decoded once; an escape that is no UTF-8 becomes U+FFFD, a broken one stays as it is.

    Raises:
        MalformedRequestError: More than ``max_params`` fields, or raw bytes that are no UTF-8.
    """
    # Counted before anything is split, so that a million fields cost one scan.
    if max_params is not None and raw and raw.count(b"&") >= max_params:
        raise MalformedRequestError("query_string", f"more than {max_params} fields")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise MalformedRequestError("query_string", "not UTF-8; other bytes must be percent-encoded") from None
    if "+" in text:
        text = text.replace("+", " ")
    fields = text.split("&")
    if "%" not in text:
        try:
            # Every field with its "=": multidict takes the halves as they are.
            return MultiDictProxy(MultiDict([field.split("=", 1) for field in fields]))  # type: ignore[misc]
        except ValueError:
            pass  # one has none
    halves = [field.partition("=") for field in fields if field]
    return MultiDictProxy(MultiDict([(_unquote(name), _unquote(value)) for name, _, value in halves]))


def _unquote(text: str) -> str:
    # The test is 20 ns, unquote() of plain text 150.
    return unquote(text) if "%" in text else text
