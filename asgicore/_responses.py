"""Responses of one kind of content: HTML, JSON, none but a redirect."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, ClassVar, Final
from urllib.parse import quote

from ._grammar import PATH_CONTROL
from ._headers import encode_name, pairs
from ._response import Background, Response
from .errors import InvalidHeaderError, is_status
from .types import HeadersInput

__all__ = ["HTMLResponse", "JSONResponse", "RedirectResponse"]


class HTMLResponse(Response):
    """A ``Response`` of type ``text/html; charset=utf-8``."""

    __slots__ = ()

    default_content_type: ClassVar[str | None] = "text/html; charset=utf-8"


# One encoder for all: json.dumps() with arguments builds one each time.
encode_json: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


class JSONResponse(Response):
    """A ``Response`` whose content is data, written as JSON (RFC 8259) in UTF-8.

    Args:
        content: What the standard library's ``json`` can write.
        status_code: As for ``Response``.
        headers: As for ``Response``.
        content_type: As for ``Response``; ``application/json`` if ``None``.
        background: As for ``Response``.
        dumps: Replaces the standard library's encoder; returns ``str`` or ``bytes``.

    Raises:
        TypeError: The data cannot be written as JSON.
        ValueError: It holds NaN or an infinity, which JSON does not know, or refers to itself.
    """

    __slots__ = ()

    default_content_type: ClassVar[str | None] = "application/json"

    def __init__(
        self,
        content: Any,
        status_code: int = 200,
        headers: HeadersInput | None = None,
        content_type: str | None = None,
        *,
        background: Background | None = None,
        dumps: Callable[[Any], str | bytes] = encode_json,
    ) -> None:
        text = dumps(content)
        if isinstance(text, str):
            # A lone surrogate, which JSON may hold, has no UTF-8 form; its escape is what JSON writes for it.
            text = text.encode(errors="backslashreplace")
        super().__init__(text, status_code, headers, content_type, background=background)


# RFC 3986 reserved and unreserved characters and "%", so that what is escaped already stays as it is.
_URL_SAFE: Final = ":/?#[]@!$&'()*+,;=%-._~"


class RedirectResponse(Response):
    """Sends the client to another URL (RFC 9110 section 15.4).

    Args:
        url: Absolute or relative; characters outside of URLs are percent-encoded.
        status_code: 300 to 399; 307 keeps the method, 303 makes it a GET.
        headers: As for ``Response``.
        background: As for ``Response``.

    Raises:
        InvalidHeaderError: The URL holds a control character.
        ValueError: The status is no redirect.
    """

    __slots__ = ()

    def __init__(
        self,
        url: str,
        status_code: int = 307,
        headers: HeadersInput | None = None,
        *,
        background: Background | None = None,
    ) -> None:
        if not is_status(status_code) or not 300 <= status_code <= 399:
            raise ValueError(f"a redirect takes a status from 300 to 399, not {status_code!r}")
        # Controls would be escaped, and so hidden; a newline in a target is an attack or a mistake.
        url = str(url)
        if PATH_CONTROL.search(url):
            raise InvalidHeaderError("location", "the URL holds a control character")
        try:
            location = quote(url, safe=_URL_SAFE)
        except UnicodeEncodeError:
            raise InvalidHeaderError("location", "the URL holds characters that have no UTF-8 form") from None
        kept = [(name, value) for name, value in pairs(headers) if encode_name(name) != b"location"]
        super().__init__(b"", status_code, [("location", location), *kept], background=background)
