"""The environ of a WSGI application, from an ASGI scope.

Source: PEP 3333 "environ Variables" and "Unicode Issues", RFC 3875 section 4.1, ASGI HTTP specification
"Connection Scope" and its "WSGI Compatibility".
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias
from urllib.parse import quote_from_bytes, unquote_to_bytes

from .._meta import add_headers
from .._target import _PATH_SAFE, address, split_root_path
from ..types import Scope

__all__ = ["Extra", "build_environ"]

Extra: TypeAlias = Mapping[str, Any] | Callable[[Scope], Mapping[str, Any]]
"""Further keys of the environ: a mapping, or a function that makes one from the scope."""

_CONTENT_LENGTH: Final = "CONTENT_LENGTH"

# RFC 3875 section 4.1.16: a protocol has two numbers, where ASGI has "2".
_PROTOCOLS: Final = {"1.0": "HTTP/1.0", "1.1": "HTTP/1.1", "2": "HTTP/2.0", "3": "HTTP/3.0"}

_DEFAULT_PORTS: Final = {"http": "80", "https": "443"}


def build_environ(
    scope: Scope,
    *,
    input: Any,
    errors: Any = None,
    multithread: bool = True,
    multiprocess: bool = True,
    run_once: bool = False,
    file_wrapper: Callable[..., Any] | None = None,
    content_length: int | None = None,
    trusts_declared: bool = True,
    extra: Extra | None = None,
) -> dict[str, Any]:
    """Build the environ of one request; every value that PEP 3333 calls a native string is ``str`` within latin-1.

    Args:
        scope: An HTTP scope whose ``headers`` were checked: pairs of bytes, their number limited.
        input: ``wsgi.input``, which ends where the body does.
        errors: ``wsgi.errors``; ``sys.stderr`` if ``None``.
        multithread: Whether another thread of this process may run the application at the same time.
        multiprocess: Whether another process may.
        run_once: Whether the process serves this request alone.
        file_wrapper: ``wsgi.file_wrapper``; left out if ``None``.
        content_length: Length of the body in bytes where it is here already, in chunks or not; 0 and ``None`` leave
            ``CONTENT_LENGTH`` as the client has it.
        trusts_declared: Whether the length that the client declares was checked. If not, it counts for nothing.
        extra: Further keys, which win over those made here.
    """
    path: str = scope.get("path") or ""
    root_path: str = scope.get("root_path") or ""
    raw_path: bytes | None = scope.get("raw_path")
    if raw_path and b"?" in raw_path:
        raw_path = raw_path.partition(b"?")[0]  # some servers leave the query in
    if root_path and root_path[0] != "/":
        root_path = "/" + root_path
    if not path.isascii() or not root_path.isascii():
        path = _path_bytes(path, raw_path).decode("latin-1")
        root_path = _tunnel(root_path)
    if not raw_path:
        raw_path = quote_from_bytes(path.encode("latin-1"), safe=_PATH_SAFE).encode()
    uri = raw_path.decode("latin-1")
    if path[:1] != "/":
        # "OPTIONS *" is about no path at all; PATH_INFO is empty or begins with a slash.
        path = "/" + path if path and path != "*" else ""
    script_name, path_info = split_root_path(path, root_path) if root_path else ("", path)
    query: Any = scope.get("query_string")
    if query:
        query = query.decode("latin-1") if isinstance(query, bytes) else _tunnel(query)
        uri = f"{uri}?{query}"

    scheme: str = scope.get("scheme") or "http"
    server = address(scope.get("server"))
    if server is None or server[1] is None or not server[0]:
        # A unix socket, or nothing at all: PEP 3333 wants both, and neither empty. The host field, which the client
        # writes, has no business here.
        server_name = "localhost"
        server_port = _DEFAULT_PORTS.get(scheme, "80")
    else:
        host = _tunnel(server[0])
        server_name = f"[{host}]" if ":" in host else host  # RFC 3875 section 4.1.14
        server_port = str(server[1])
    version: str = scope.get("http_version") or "1.1"
    environ: dict[str, Any] = {
        "REQUEST_METHOD": _tunnel(scope["method"]),
        "SCRIPT_NAME": script_name,
        "PATH_INFO": path_info,
        "QUERY_STRING": query or "",
        "REQUEST_URI": uri,
        "RAW_URI": uri,
        "SERVER_PROTOCOL": _PROTOCOLS.get(version) or f"HTTP/{version}",
        "SERVER_NAME": server_name,
        "SERVER_PORT": server_port,
        "REMOTE_ADDR": "",  # as other servers have it for unix sockets: it is there, but empty
        "SERVER_SOFTWARE": "asgicore",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scheme,
        "wsgi.input": input,
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr if errors is None else errors,
        "wsgi.multithread": multithread,
        "wsgi.multiprocess": multiprocess,
        "wsgi.run_once": run_once,
        "asgi.scope": scope,
    }
    client = address(scope.get("client"))
    if client is not None:
        environ["REMOTE_ADDR"] = _tunnel(client[0])
        if client[1] is not None:
            environ["REMOTE_PORT"] = str(client[1])

    add_headers(environ, scope.get("headers") or ())
    is_refuted = not trusts_declared and _CONTENT_LENGTH in environ
    if content_length or (is_refuted and content_length == 0):
        environ[_CONTENT_LENGTH] = str(content_length)
        environ.pop("HTTP_TRANSFER_ENCODING", None)  # of the body as it came; Werkzeug would ignore the length
    elif is_refuted:
        del environ[_CONTENT_LENGTH]
    elif _CONTENT_LENGTH in environ:
        # RFC 9110 section 8.6: repeats and "42, 42" are of one value; applications expect one number.
        environ[_CONTENT_LENGTH] = environ[_CONTENT_LENGTH].partition(",")[0].strip(" \t")

    if file_wrapper is not None:
        environ["wsgi.file_wrapper"] = file_wrapper
    if extra is not None:
        environ.update(extra(scope) if callable(extra) else extra)
    return environ


def _tunnel(text: str) -> str:
    """UTF-8 bytes, one character each (PEP 3333, "Unicode Issues")."""
    return text if text.isascii() else _encode(text).decode("latin-1")


def _encode(text: str) -> bytes:
    try:
        # Where a server decoded bytes that are no UTF-8 this way, they come back.
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")


def _path_bytes(path: str, raw_path: bytes | None) -> bytes:
    """The path as the client sent it, percent-decoded.

    The scope's ``path`` has U+FFFD where the bytes are no UTF-8, and these are what a WSGI application gets. They are
    in ``raw_path``, which counts as long as it says the same: a middleware may have changed ``path`` alone.
    """
    if raw_path:
        sent = unquote_to_bytes(raw_path)
        if sent.decode("utf-8", "replace") == path:
            return sent
    return _encode(path)
