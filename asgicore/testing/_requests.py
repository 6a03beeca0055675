"""Requests as a server gives them: the scope, and the messages of the body.

Source: ASGI HTTP specification 2.5, "HTTP Connection Scope", "Request".
"""

from __future__ import annotations

import json as json_module
from collections.abc import AsyncIterable, Iterable, Iterator, Mapping
from typing import Any, Final, TypeAlias, TypedDict, cast
from urllib.parse import quote, unquote, urlencode

from .._headers import pairs
from ..types import RawHeaders
from ._faults import Fault
from ._servers import UVICORN, Server

__all__ = [
    "OWN_FIELDS",
    "Content",
    "ExchangeOptions",
    "FieldsInput",
    "Message",
    "RequestOptions",
    "build_scope",
    "cut_body",
    "encode_content",
    "encode_headers",
    "http_scope",
    "merge_headers",
]

Message: TypeAlias = dict[str, Any]
"""One ASGI event."""

Content: TypeAlias = bytes | str | Iterable[bytes | str] | AsyncIterable[bytes | str]
"""A request body: whole, or its parts. A list or tuple ends with its last part, other iterables with an empty one."""

FieldsInput: TypeAlias = Mapping[str, str] | Iterable[tuple[str | bytes, str | bytes]]
"""Header fields: a mapping (a multidict keeps its repeats) or pairs; bytes are sent as they are."""

OWN_FIELDS: Final[RawHeaders] = [(b"host", b"testserver"), (b"user-agent", b"asgicore.testing")]
"""What every request has."""

# RFC 3986 section 3.3.
_PATH_SAFE: Final = "/:@!$&'()*+,;=~-._"


class RequestOptions(TypedDict, total=False):
    """What a request may be given by name."""

    headers: FieldsInput
    """Further header fields; they take the place of the client's own of the same name."""
    params: Mapping[str, Any] | Iterable[tuple[str, Any]]
    """Query fields, added to those of the path."""
    content: Content
    """The body."""
    json: Any
    """A value that is sent as JSON."""
    data: Mapping[str, Any] | Iterable[tuple[str, Any]]
    """Form fields, sent urlencoded."""
    scope: Mapping[str, Any]
    """Changes to the scope; a key whose value is ``...`` is taken out."""
    fault: Fault
    """What goes wrong. What the application raises then is kept in ``error``, and not raised."""


class ExchangeOptions(RequestOptions, total=False):
    """What an exchange may be given by name."""

    more_body: bool
    """Whether the test goes on with the body by ``send_body``."""
    window: int
    """How many messages the application may be ahead of the test; 0: ``send`` waits until each one is taken."""
    window_bytes: int | None
    """How many bytes of body it may be ahead; the server's by default, ``None``: any number."""
    record: bool
    """Whether what is sent is kept, as ``response`` and ``messages`` need it: ``False`` for more than fits into
    memory."""


_OPTIONS: Final = tuple(ExchangeOptions.__annotations__)


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse options that other clients have, and this one would pass over.

    Raises:
        TypeError: There is no option of such a name.
    """
    for name in options:
        if name not in _OPTIONS:
            raise TypeError(f"a request has no option {name!r}; it takes {', '.join(_OPTIONS)}")


def http_scope(method: str = "GET", path: str = "/", like: Server = UVICORN, /, **changes: Any) -> dict[str, Any]:
    """The scope of one request, as servers give it.

    ::

        http_scope("POST", "/caf%C3%A9?size=2", headers=[(b"host", b"example.org")])

    Args:
        method: The method.
        path: The path, percent-encoded or not, and the query; ``"*"`` for OPTIONS.
        like: Whose scope it is.
        **changes: Keys of the scope as they are to be; one whose value is ``...`` is taken out. ``path`` changes
            ``raw_path``, too, where that is not given.

    Raises:
        ValueError: The path is not one.
    """
    if isinstance(changes.get("path"), str) and "raw_path" not in changes:
        changes["raw_path"] = quote(changes["path"], safe=_PATH_SAFE, errors="surrogatepass").encode("ascii")
    return build_scope(method, path, server=like, headers=[*OWN_FIELDS], changes=changes)


def build_scope(
    method: str,
    path: str,
    *,
    server: Server,
    headers: RawHeaders,
    params: Mapping[str, Any] | Iterable[tuple[str, Any]] | None = None,
    root_path: str = "",
    client: tuple[str, int] | None = ("127.0.0.1", 50000),
    http_version: str = "1.1",
    scheme: str = "http",
    state: Mapping[str, Any] | None = None,
    changes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The scope of a client's request, as ``server`` gives it.

    Args:
        method: The method, as it is.
        path: The path below ``root_path``, percent-encoded or not, and the query; ``"*"`` for OPTIONS.
        server: Whose scope it is.
        headers: All header fields, names in lower case.
        params: Query fields, added to those of the path.
        root_path: The mount point, not encoded.
        client: Address of the client.
        http_version: ``"1.0"``, ``"1.1"``, ``"2"`` or ``"3"``.
        scheme: ``"http"`` or ``"https"``.
        state: What the lifespan has left; each request has a copy.
        changes: Keys to set; one whose value is ``...`` is taken out.

    Raises:
        ValueError: The path is not one.
    """
    if path != "*" and not path.startswith("/"):
        raise ValueError(f"a path begins with '/', {path!r} does not; other targets are set by scope={{'path': …}}")
    path, _, query = path.partition("?")
    if params:
        query += ("&" if query else "") + urlencode(list(_items(params)), doseq=True)
    # What is escaped already stays as it is.
    raw_path = quote(root_path, safe=_PATH_SAFE) + quote(path, safe=_PATH_SAFE + "%")
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": http_version,
        "method": method,
        "scheme": scheme,
        # A byte that is no UTF-8 is U+FFFD on all servers.
        "path": root_path + unquote(path),
        "raw_path": raw_path.encode("ascii"),
        "query_string": query.encode("latin-1"),
        "root_path": root_path,
        "headers": [field for field in headers if b"_" not in field[0]] if server.drops_underscores else headers,
        "client": _address(client, server),
        "server": _address(("127.0.0.1", 443 if scheme == "https" else 80), server),
    }
    if server.spec_version is not None:
        scope["asgi"]["spec_version"] = server.spec_version
    extensions = server.http2_extensions if http_version == "2" else server.extensions
    if extensions is not None:
        scope["extensions"] = {name: {} for name in extensions}
    if server.has_state:
        scope["state"] = dict(state or {})
    scope.update(changes or {})
    return {key: value for key, value in scope.items() if value is not ...}


def _items(fields: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> Iterable[tuple[str, Any]]:
    return cast("Mapping[str, Any]", fields).items() if isinstance(fields, Mapping) else fields


def _address(address: tuple[str, int] | None, server: Server) -> Any:
    if address is None:
        return None
    host, port = address
    if server.addresses == "text port":
        return host, str(port)
    return [host, port] if server.addresses == "list" else (host, port)


def encode_headers(fields: FieldsInput | None) -> RawHeaders:
    """Header fields as a server gives them: bytes, names in lower case."""
    given: Any = fields
    return [(_encode(name).lower(), _encode(value)) for name, value in pairs(given)]


def _encode(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("latin-1")


def encode_content(options: ExchangeOptions, http_version: str) -> tuple[Content, RawHeaders]:
    """The body of a request, or its beginning, and the header fields that announce it.

    Raises:
        TypeError: It is given in more than one way.
    """
    ways = [way for way in ("content", "json", "data") if way in options]
    if len(ways) > 1:
        raise TypeError(f"a request has one body, not {' and '.join(ways)}")
    fields: RawHeaders = []
    if "json" in options:
        content: Content = json_module.dumps(options["json"], separators=(",", ":")).encode()
        fields.append((b"content-type", b"application/json"))
    elif "data" in options:
        content = urlencode(list(_items(options["data"])), doseq=True).encode()
        fields.append((b"content-type", b"application/x-www-form-urlencoded"))
    else:
        content = options.get("content", b"")
    if isinstance(content, str):
        content = content.encode()
    if options.get("more_body") or not isinstance(content, bytes):
        # RFC 9112 section 6.1; later versions need no field for it.
        if http_version == "1.1":
            fields.append((b"transfer-encoding", b"chunked"))
    elif ways:
        fields.append((b"content-length", b"%d" % len(content)))
    return content, fields


def merge_headers(own: RawHeaders, *given: RawHeaders) -> RawHeaders:
    """Header fields, where later ones take the place of those before them of the same name."""
    merged = own
    for fields in given:
        replaced = {name for name, _ in fields}
        if b"content-length" in replaced:
            # RFC 9112 section 6.2: never both.
            replaced.add(b"transfer-encoding")
        merged = [field for field in merged if field[0] not in replaced] + fields
    return merged


def cut_body(part: bytes | str, more: bool, server: Server) -> Iterator[Message]:
    """One part of a body as ``http.request`` messages, cut and ended as ``server`` does it."""
    data = part.encode() if isinstance(part, str) else part
    size = server.max_body_message_bytes or max(len(data), 1)
    chunks = [data[start : start + size] for start in range(0, len(data), size)] or [b""]
    if not more and server.ends_body_apart and data:
        chunks.append(b"")
    for index, chunk in enumerate(chunks):
        yield {"type": "http.request", "body": chunk, "more_body": more or index < len(chunks) - 1}
    if not more:
        for _ in range(server.extra_requests):
            yield {"type": "http.request", "body": b"", "more_body": False}
