"""What a client gets: the start of a response, and the whole of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from multidict import CIMultiDictProxy

from .._headers import decode_request_headers, parse_content_type
from ..types import RawHeaders
from ._requests import Message

__all__ = ["ClientResponse", "ResponseStart"]


@dataclass(frozen=True)
class ResponseStart:
    """Status and header fields."""

    status_code: int
    """The status; 0 if no response began."""
    raw_headers: RawHeaders
    """Header fields as they were sent, both bytes, in order."""

    @cached_property
    def headers(self) -> CIMultiDictProxy[str]:
        """Header fields as text, every repeat kept."""
        return decode_request_headers(self.raw_headers)


@dataclass(frozen=True)
class ClientResponse(ResponseStart):
    """A response, as far as it came."""

    parts: tuple[bytes, ...]
    """The body as it was sent, part by part, empty ones left out. A body that HEAD, 204 or 304 forbid is here if it was
    sent, though a server drops it."""
    is_complete: bool
    """Whether it came to its end."""
    raw_trailers: RawHeaders
    """Trailers, as ``raw_headers``."""
    early_hints: tuple[tuple[str, ...], ...]
    """The ``link`` fields of each 103 that came before."""
    debug: Mapping[str, Any] | None
    """What the application told in ``http.response.debug``."""
    path: str | None
    """The file that the server was told to send by its path; the body has its bytes."""
    messages: tuple[Message, ...]
    """All messages that the server took, in order."""
    error: Exception | None
    """What the application raised."""

    @cached_property
    def body(self) -> bytes:
        """The whole body."""
        return b"".join(self.parts)

    @cached_property
    def text(self) -> str:
        """The body as text, in the charset of its content type, UTF-8 if it names none."""
        content_type = self.headers.get("content-type", "").encode("latin-1")
        return self.body.decode(parse_content_type(content_type)[1].get("charset", "utf-8"))

    @cached_property
    def trailers(self) -> CIMultiDictProxy[str]:
        """Trailers as text."""
        return decode_request_headers(self.raw_trailers)

    def json(self) -> Any:
        """The body, parsed as JSON."""
        return json.loads(self.body)


def build_start(start: Message | None) -> ResponseStart:
    """Status and header fields of a ``http.response.start``."""
    return ResponseStart(start["status"], start["headers"]) if start else ResponseStart(0, [])


def build_response(
    start: Message | None,
    messages: Iterable[Message],
    parts: Iterable[bytes],
    *,
    is_complete: bool,
    error: Exception | None,
) -> ClientResponse:
    """A response of the messages that a server took."""
    head = build_start(start)
    taken = tuple(messages)
    trailers: RawHeaders = []
    hints: list[tuple[str, ...]] = []
    debug: Mapping[str, Any] | None = None
    path: str | None = None
    for message in taken:
        kind = message["type"]
        if kind == "http.response.trailers":
            trailers += message.get("headers", ())
        elif kind == "http.response.early_hint":
            hints.append(tuple(bytes(link).decode("latin-1") for link in message.get("links", ())))
        elif kind == "http.response.debug":
            debug = message.get("info")
        elif kind == "http.response.pathsend":
            path = str(message["path"])
    return ClientResponse(
        status_code=head.status_code,
        raw_headers=head.raw_headers,
        parts=tuple(part for part in parts if part),
        is_complete=is_complete,
        raw_trailers=trailers,
        early_hints=tuple(hints),
        debug=debug,
        path=path,
        messages=taken,
        error=error,
    )
