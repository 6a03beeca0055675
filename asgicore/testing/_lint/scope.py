"""The scope of an HTTP request and of the lifespan, held against the specification.

What it says of TLS is not looked into.

Source: ASGI specification 3.0, "Connection Scope", "Extensions"; ASGI HTTP specification 2.5, "HTTP Connection Scope".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from ..._grammar import TOKEN
from ...types import RawHeaders
from .fields import Report, is_once, is_series, read_fields
from .rules import CORE_SCOPE, LIFESPAN

__all__ = ["check_http_scope", "check_lifespan_scope"]

_Check = Callable[[Any], bool]


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_bytes(value: Any) -> bool:
    return isinstance(value, bytes)


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_pair(value: Any) -> bool:
    """Two items that can be looked at again."""
    return is_series(value) and not is_once(value) and len(list(value)) == 2


def _is_client(value: Any) -> bool:
    if not _is_pair(value):
        return False
    host, port = value
    return isinstance(host, str) and _is_number(port)


def _is_server(value: Any) -> bool:
    if not _is_pair(value):
        return False
    host, port = value
    return isinstance(host, str) and (port is None or _is_number(port))


def _is_dict(value: object) -> bool:
    return isinstance(value, dict)


def _is_raw_path(value: Any) -> bool:
    return value is None or (isinstance(value, bytes) and b"?" not in value)


def _is_method(value: Any) -> bool:
    return isinstance(value, str) and TOKEN.fullmatch(value) is not None and value == value.upper()


# Key: whether it is required, what it must be, and that in words.
_HTTP: Final[dict[str, tuple[bool, _Check, str]]] = {
    "http_version": (True, _is_text, "a str"),
    "method": (True, _is_method, "a method in upper case"),
    "scheme": (False, lambda value: _is_text(value) and value != "", "a str that is not empty"),
    "path": (True, _is_text, "a str"),
    "raw_path": (False, _is_raw_path, "bytes without a query string, or None"),
    "query_string": (True, _is_bytes, "bytes"),
    "root_path": (False, _is_text, "a str"),
    "client": (False, lambda value: value is None or _is_client(value), "a pair of str and int, or None"),
    "server": (False, lambda value: value is None or _is_server(value), "a pair of str and int or None, or None"),
    "state": (False, _is_dict, "a dict"),
}


def check_http_scope(scope: Mapping[str, Any], report: Report) -> RawHeaders | None:
    """Check the scope of a request; returns its header fields, ``None`` if they cannot be read."""
    _check_asgi(scope, report)
    for key, (is_required, is_right, wanted) in _HTTP.items():
        if key not in scope:
            if is_required:
                report("scope-key-missing", f"the scope has no {key!r}")
        elif not is_right(scope[key]):
            report("scope-value", f"{key!r} of the scope is {wanted}, not {scope[key]!r}")
    extensions: Any = scope.get("extensions", {})
    if not _is_dict(extensions):
        report("scope-extensions", f"extensions are a dict, not {extensions!r}")
    else:
        for name, value in extensions.items():
            if not isinstance(name, str) or not _is_dict(value):
                report("scope-extensions", f"the extension {name!r} is a dict, not {value!r}")
    if "headers" not in scope:
        report("scope-key-missing", "the scope has no 'headers'")
        return None
    return read_fields(scope["headers"], report, "scope-")


def check_lifespan_scope(scope: Mapping[str, Any], report: Report) -> None:
    """Check the scope of the lifespan."""
    _check_asgi(scope, report)
    if "state" in scope and not isinstance(scope["state"], dict):
        report("scope-value", f"'state' of the scope is a dict, not {scope['state']!r}", LIFESPAN)


def _check_asgi(scope: Mapping[str, Any], report: Report) -> None:
    asgi: Any = scope.get("asgi")
    if not _is_dict(asgi) or not isinstance(asgi.get("version"), str):
        report("scope-key-missing", "the scope has no dict 'asgi' with a str as 'version'", CORE_SCOPE)
    elif not isinstance(asgi.get("spec_version", ""), str):
        report("scope-value", "'spec_version' is a str", CORE_SCOPE)
