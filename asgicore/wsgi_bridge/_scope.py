"""The HTTP scope of an ASGI application, from the environ of a WSGI server: the way back of ``_environ``.

Source: ASGI HTTP specification "Connection Scope" and its "WSGI Compatibility"; PEP 3333 "environ Variables".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote_from_bytes, unquote_to_bytes

from .._meta import KEYS
from .._target import _PATH_SAFE
from ..types import RawHeaders

__all__ = ["body_length", "build_scope"]

# Never filled from requests.
_NAMES: Final = {key: name for name, key in KEYS.items() if key}

# ASGI has "2" where RFC 3875 section 4.1.16 asks for two numbers.
_VERSIONS: Final = {"HTTP/1.0": "1.0", "HTTP/1.1": "1.1", "HTTP/2.0": "2", "HTTP/3.0": "3"}


def build_scope(environ: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, Any]:
    """Build the scope of one request.

    Args:
        environ: As PEP 3333 has it; ``REQUEST_URI`` or ``RAW_URI``, which most servers give, become ``raw_path``.
        state: The lifespan's; the scope gets a copy, as the specification has it.
    """
    script_name: bytes = environ.get("SCRIPT_NAME", "").encode("latin-1")
    path: bytes = script_name + environ.get("PATH_INFO", "").encode("latin-1") or b"/"
    query: str = environ.get("QUERY_STRING") or ""
    protocol: str = environ.get("SERVER_PROTOCOL") or "HTTP/1.1"
    return {
        "type": "http",
        # Not 2.4, though what is sent after the client left raises OSError: some applications then stop listening for
        # http.disconnect, and would sit out a silence in their stream.
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": _VERSIONS.get(protocol) or protocol.partition("/")[2],
        "method": environ["REQUEST_METHOD"],
        "scheme": environ.get("wsgi.url_scheme", "http"),
        "path": path.decode("utf-8", "replace"),
        "raw_path": _raw_path(environ, path),
        "query_string": query.encode("latin-1"),
        "root_path": script_name.decode("utf-8", "replace"),
        "headers": _headers(environ),
        "client": _address(environ.get("REMOTE_ADDR"), environ.get("REMOTE_PORT"), 0),
        "server": _address(environ.get("SERVER_NAME"), environ.get("SERVER_PORT"), None),
        "state": dict(state),
        "extensions": {},
        "wsgi.environ": environ,
    }


def body_length(environ: Mapping[str, Any]) -> int | None:
    """How much of ``wsgi.input`` is the body; ``None``: all of it, up to its end.

    Without a length and without the server's word that the stream ends, reading it might wait for ever (PEP 3333 has
    no chunked bodies): then there is no body.
    """
    declared = environ.get("CONTENT_LENGTH") or ""
    if declared.isascii() and declared.isdigit():
        return int(declared)
    return None if environ.get("wsgi.input_terminated") else 0


def _raw_path(environ: Mapping[str, Any], path: bytes) -> bytes:
    """The path as the client wrote it, if the server tells and no middleware has changed it."""
    target: str = environ.get("REQUEST_URI") or environ.get("RAW_URI") or ""
    if target[:1] != "/":
        # RFC 9112 section 3.2.2: the absolute form, of requests to a proxy.
        target = "/" + target.partition("://")[2].partition("/")[2]
    raw = target.partition("?")[0].encode("latin-1", "replace")
    return raw if unquote_to_bytes(raw) == path else quote_from_bytes(path, safe=_PATH_SAFE).encode()


def _headers(environ: Mapping[str, Any]) -> RawHeaders:
    headers: RawHeaders = []
    for key, value in environ.items():
        name = _NAMES.get(key)
        if name is None:
            # HTTP_CONTENT_LENGTH is nothing that PEP 3333 knows, and must not pass for CONTENT_LENGTH.
            if not key.startswith("HTTP_") or key in ("HTTP_CONTENT_LENGTH", "HTTP_CONTENT_TYPE"):
                continue
            name = key[5:].replace("_", "-").lower().encode("latin-1")
        elif not value and key.startswith("CONTENT_"):
            continue  # PEP 3333: empty or missing is the same
        headers.append((name, value.encode("latin-1")))
    return headers


def _address(host: str | None, port: str | int | None, unknown: int | None) -> tuple[str, int | None] | None:
    if not host:
        return None
    text = str(port)
    return host, int(text) if text.isascii() and text.isdigit() else unknown
