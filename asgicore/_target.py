"""Path, prefix, host and URL of a request.

Source: ASGI HTTP specification ("path", "raw_path", "root_path", "server"), RFC 3986, RFC 9110 section 7.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from . import _grammar
from .errors import MalformedRequestError, TargetTooLongError
from .limits import Limits

__all__ = [
    "address",
    "build_url",
    "check_encodable",
    "check_host",
    "check_target",
    "host_from_server",
    "split_root_path",
]

_DEFAULT_PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443}

# RFC 3986 section 3.3: pchar and "/"; everything else in a path is percent-encoded.
_PATH_SAFE: Final = "/:@!$&'()*+,;=~-._"


def check_target(path: object, query_string: object, limits: Limits) -> None:
    """Check length and characters of the request target without decoding it.

    Raises:
        TargetTooLongError: The path or the query string exceeds its limit.
        MalformedRequestError: The decoded path holds a control character.
    """
    if isinstance(path, str):
        limit = limits.max_path_bytes
        # A character has at most four bytes: only a path near the limit is encoded to be measured.
        if limit is not None and len(path) * 4 > limit and len(path.encode("utf-8", "surrogatepass")) > limit:
            raise TargetTooLongError("path", f"longer than {limit} bytes")
        if not path.isprintable() and _grammar.PATH_CONTROL.search(path):
            raise MalformedRequestError("path", "holds a control character")
    if query_string:
        limit = limits.max_query_bytes
        if limit is not None and isinstance(query_string, bytes) and len(query_string) > limit:
            raise TargetTooLongError("query_string", f"{len(query_string)} bytes, the limit is {limit}")


def check_encodable(path: str) -> None:
    """Check that a decoded path has a UTF-8 form: no half of a surrogate pair, which no server decodes.

    Raises:
        MalformedRequestError: It has none.
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        raise MalformedRequestError("path", "holds characters that have no UTF-8 form") from None


def split_root_path(path: str, root_path: str) -> tuple[str, str]:
    """Split the mount point off a path, on whole segments only.

    Returns:
        The prefix without a trailing slash (``""`` for none), and the rest of the path. A path outside of the prefix
        is returned whole: ``/pathology`` under ``/path`` stays ``/pathology``.
    """
    prefix = root_path.rstrip("/")
    if prefix and path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in ("", "/"):
        return prefix, path[len(prefix) :]
    return prefix, path


def address(value: Any) -> tuple[str, int | None] | None:
    """A ``client`` or ``server`` entry of the scope as (host, port).

    Tuples and lists, ports as text, and unix sockets (path and ``None``) are all seen from servers in use.

    Returns:
        ``None`` if the entry is missing or cannot be read; the port is ``None`` for a unix socket.
    """
    # A tuple, mostly; to ask the base class takes longer than all else here.
    if not value or (value.__class__ is not tuple and isinstance(value, (str, bytes, Mapping))):
        return None
    try:
        host, port = value
    except (TypeError, ValueError):
        return None
    if not isinstance(host, str):
        return None
    if isinstance(port, str):
        port = int(port) if port.isascii() and port.isdigit() and len(port) <= 5 else None
    return host, port if isinstance(port, int) else None


def check_host(value: bytes) -> str:
    """The ``host`` field, if it is one (RFC 9110 section 7.2): a path hidden in it must not move the URL.

    Raises:
        MalformedRequestError: It is no host with an optional port.
    """
    text = value.decode("latin-1").strip(" \t")
    if not _grammar.HOST.fullmatch(text):
        raise MalformedRequestError("host", "not a host with an optional port (RFC 9110 section 7.2)")
    return text


def host_from_server(server: tuple[str, int | None] | None, scheme: str) -> str:
    """Host and port of the listening socket, for requests without a ``host`` field; ``""`` if unknown."""
    if server is None or server[1] is None:
        return ""
    host, port = server
    if ":" in host:
        host = f"[{host}]"
    return host if port == _DEFAULT_PORTS.get(scheme) else f"{host}:{port}"


def build_url(scheme: str, host: str, path: str, raw_path: bytes | None, query_string: bytes) -> str:
    """The URL as text. The path is the raw one where the server gives it, else the decoded one quoted again.

    Raises:
        MalformedRequestError: Path or query cannot be written in a URL.
    """
    if raw_path:
        # It has no query by the specification, but some servers leave it in.
        target = raw_path.partition(b"?")[0]
    else:
        check_encodable(path)
        target = quote(path, safe=_PATH_SAFE).encode()
    if _grammar.NOT_URL.search(target) or _grammar.NOT_URL.search(query_string):
        raise MalformedRequestError("url", "the target holds characters that must be percent-encoded")
    authority = f"{scheme}://{host}" if host else ""
    query = f"?{query_string.decode('ascii')}" if query_string else ""
    return f"{authority}{target.decode('ascii')}{query}"
