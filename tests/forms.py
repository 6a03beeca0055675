"""Forms as clients send them."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest

from asgicore.testing import Message, body_messages, http_scope

needs_multipart = pytest.mark.skipif(importlib.util.find_spec("multipart") is None, reason="needs the extra 'forms'")

BOUNDARY = b"----WebKitFormBoundaryK3kOaL9Zr0sYq1xT"


def quoted(name: str) -> bytes:
    """A name as browsers write it (WHATWG HTML standard, "Multipart form data")."""
    return name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A").encode()


def part(name: str, content: bytes, filename: str | None = None, *headers: bytes) -> bytes:
    """One part, without its boundary."""
    disposition = b'Content-Disposition: form-data; name="' + quoted(name) + b'"'
    if filename is not None:
        disposition += b'; filename="' + quoted(filename) + b'"'
    return b"\r\n".join([disposition, *headers, b"", content])


def multipart(*parts: bytes, boundary: bytes = BOUNDARY) -> bytes:
    """A whole form."""
    return b"".join([b"--" + boundary + b"\r\n" + one + b"\r\n" for one in parts]) + b"--" + boundary + b"--\r\n"


def form_scope(content_type: bytes = b"multipart/form-data; boundary=" + BOUNDARY, **changes: Any) -> dict[str, Any]:
    """A scope with a form."""
    headers = [(b"host", b"testserver"), *([(b"content-type", content_type)] if content_type else [])]
    return http_scope(method="POST", headers=headers, **changes)


URLENCODED = b"application/x-www-form-urlencoded"


def cut(body: bytes, size: int) -> list[Message]:
    """The messages of a body, of so many bytes each."""
    return body_messages(*[body[start : start + size] for start in range(0, len(body), size)])


def cut_at(body: bytes, places: Iterable[int]) -> list[bytes]:
    """The pieces of a body, none of them empty."""
    ends = sorted({place % (len(body) + 1) for place in places} | {0, len(body)})
    return [body[start:end] for start, end in pairwise(ends)]
