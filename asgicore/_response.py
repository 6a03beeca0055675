"""Responses: what an endpoint returns.

A response built without touching ``.headers`` keeps its header fields as the bytes that go out.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import Any, ClassVar, Final, Self, TypeAlias, cast
from urllib.parse import quote

from ._cookies import SameSite, build_set_cookie
from ._grammar import CONTENT_LENGTH, PATH_CONTROL
from ._headers import Headers, encode_field, encode_name, find, find_all, pairs
from ._pump import Pump, iterate
from ._threads import SHARED, Threads
from .errors import ContentLengthError, InvalidHeaderError, ResponseStateError, is_status
from .types import HeadersInput, RawHeaders

__all__ = ["HTMLResponse", "JSONResponse", "RedirectResponse", "Response", "StreamingResponse"]

Background: TypeAlias = Callable[[], object]
"""A function without arguments, async or not; what is not async runs in a worker thread."""

AsyncParts: TypeAlias = AsyncIterable[bytes] | AsyncIterable[str] | AsyncIterable[bytes | str]
SyncParts: TypeAlias = Iterable[bytes] | Iterable[str] | Iterable[bytes | str]

Keep: TypeAlias = Callable[[AsyncIterator[bytes | str], float, bytes], AsyncIterator[bytes | str]]

_TEXT: Final = "text/plain; charset=utf-8"

# Checked and encoded once; others are checked each time.
_CONTENT_TYPES: Final = {
    value: encode_field("content-type", value)
    for value in (
        _TEXT,
        "text/plain",
        "text/html; charset=utf-8",
        "text/html",
        "application/json",
        "application/octet-stream",
        "text/event-stream",
    )
}


class Response:
    """A response whose body is there as a whole.

    Args:
        content: The body; ``str`` is sent as UTF-8.
        status_code: 100 to 599.
        headers: A mapping (a multidict keeps its repeats) or pairs of ``str``. Names go out in lower case.
        content_type: The ``content-type`` field as it is; overrides one in ``headers``. Without either, ``str`` is
            ``text/plain; charset=utf-8`` and bytes have none.
        background: Called without arguments after the last byte was handed to the server, in a worker thread unless
            it is async; not cancelled by a disconnect, and not called if the response was not sent to its end.

    Raises:
        InvalidHeaderError: A header field must not leave; it is named. Also for ``connection`` and
            ``transfer-encoding``, which are the server's.
        ContentLengthError: ``headers`` declare another length than the body has.
        ValueError: The status is no status.
        TypeError: The content is neither ``bytes`` nor ``str``, or ``background`` is no callable.
    """

    __slots__ = ("_body", "_headers", "_raw", "background", "status_code")

    default_content_type: ClassVar[str | None] = None
    """The ``content-type`` where none is given."""

    status_code: int
    background: Background | None
    _body: bytes
    _headers: Headers | None
    _raw: RawHeaders

    def __init__(
        self,
        content: bytes | str = b"",
        status_code: int = 200,
        headers: HeadersInput | None = None,
        content_type: str | None = None,
        *,
        background: Background | None = None,
    ) -> None:
        if type(content) is bytes:
            body = content
            default = self.default_content_type
        elif isinstance(content, str):
            body = content.encode()
            default = self.default_content_type or _TEXT
        else:
            body = _as_bytes(content)
            default = self.default_content_type
        if background is not None:
            _check_background(background)
        self.status_code = (
            status_code if type(status_code) is int and 200 <= status_code <= 599 else _status(status_code)
        )
        self.background = background
        self._headers = None
        self._body = body
        if headers is None:
            kind = default if content_type is None else content_type
            raw = [] if kind is None else [_content_type(kind)]
            is_declared = False
        else:
            raw = _fields(headers, content_type, default)
            is_declared = find(raw, b"content-length") is not None
        self._raw = raw
        if is_declared:
            self._check_length(raw)
        elif body or status_code != 304:
            # 304 has no body, and a length would be that of the 200 it stands for (RFC 9110 section 8.6).
            raw.append((b"content-length", b"%d" % len(body)))

    @classmethod
    def prepared(cls, content: Any, status_code: int, raw_headers: RawHeaders) -> Self:
        """A response of fields that were checked already, ``content-length`` among them; for bridges.

        Args:
            content: What ``cls`` takes; not looked at.
            status_code: 200 to 599.
            raw_headers: Pairs of bytes, names in lower case, in order; kept, not copied.
        """
        response = cls.__new__(cls)
        response.status_code = status_code
        response.background = None
        response._headers = None
        response._raw = raw_headers
        response._set_content(content)
        return response

    def _set_content(self, content: Any) -> None:
        self._body = content

    @property
    def body(self) -> bytes:
        """The body as it goes out. Setting it adjusts ``content-length``."""
        return self._body

    @body.setter
    def body(self, content: bytes | str) -> None:
        self._body = _as_bytes(content)
        self.headers["content-length"] = str(len(self._body))

    @property
    def headers(self) -> Headers:
        """The header fields, a ``CIMultiDict``; what is set is checked at once."""
        if self._headers is None:
            self._headers = Headers([(name.decode("ascii"), value.decode("latin-1")) for name, value in self._raw])
        return self._headers

    def raw_headers(self) -> RawHeaders:
        """The fields as they go on the wire: pairs of bytes, names in lower case, in order.

        Raises:
            InvalidHeaderError: A field must not leave, or ``content-length`` is given more than once.
            ContentLengthError: The declared length is not that of the body.
        """
        raw = self._raw.copy()
        if self._headers is not None:
            raw = self._headers.raw()
            self._check_length(raw)
        status = self.status_code
        if type(status) is not int or not 200 <= status <= 599:
            status = _status(status)
        if status in (204, 304) or status < 200:
            # RFC 9110 section 8.6: no length on 1xx and 204; on 304 that of the representation, which 0 is not.
            raw = [field for field in raw if field[0] != b"content-length" or (status == 304 and field[1] != b"0")]
        return raw

    def _check_length(self, raw: RawHeaders) -> None:
        declared = find_all(raw, b"content-length")
        if len(declared) > 1:
            raise InvalidHeaderError("content-length", "given more than once")
        if declared:
            if not CONTENT_LENGTH.fullmatch(declared[0]):
                raise InvalidHeaderError("content-length", "not a number of bytes")
            # Without a body here the length may be that of the answer to a GET, for HEAD and 304; the writer knows.
            if self._body and int(declared[0]) != len(self._body):
                raise ContentLengthError(int(declared[0]), len(self._body))

    def set_cookie(
        self,
        key: str,
        value: str = "",
        max_age: int | timedelta | None = None,
        expires: datetime | str | int | None = None,
        path: str | None = "/",
        domain: str | None = None,
        secure: bool = False,
        httponly: bool = False,
        samesite: SameSite | None = "lax",
        partitioned: bool = False,
    ) -> None:
        """Add one ``set-cookie`` field (RFC 6265bis section 4.1); fields of other cookies stay.

        Args:
            key: The name, a token.
            value: Printable ASCII without blanks, ``,``, ``;``, ``\\`` and inner quotes.
            max_age: Lifetime in seconds; a session cookie if both this and ``expires`` are ``None``.
            expires: A point in time, seconds from now, or an HTTP date.
            path: ``Path``; ``None`` leaves it out.
            domain: ``Domain``; ``None`` means this host alone.
            secure: ``Secure``: sent over HTTPS only.
            httponly: ``HttpOnly``: hidden from scripts.
            samesite: ``SameSite``; ``"none"`` needs ``secure``.
            partitioned: ``Partitioned`` (CHIPS), which brings ``Secure`` with it.

        Raises:
            InvalidHeaderError: A part holds an illegal character, or name prefix and attributes contradict each other.
        """
        cookie = build_set_cookie(
            key,
            value,
            max_age=max_age,
            expires=expires,
            path=path,
            domain=domain,
            secure=secure,
            httponly=httponly,
            samesite=samesite,
            partitioned=partitioned,
        )
        if self._headers is None:
            self._raw.append((b"set-cookie", cookie.encode("ascii")))
        else:
            self._headers.add("set-cookie", cookie)

    def delete_cookie(
        self,
        key: str,
        path: str | None = "/",
        domain: str | None = None,
        secure: bool = False,
        httponly: bool = False,
        samesite: SameSite | None = "lax",
        partitioned: bool = False,
    ) -> None:
        """Tell the client to forget a cookie. Path, domain and attributes must be those it was set with.

        Raises:
            InvalidHeaderError: As :meth:`set_cookie`.
        """
        # Browsers ignore a deletion that the name's prefix does not allow.
        secure = secure or samesite == "none" or str(key).lower().startswith(("__secure-", "__host-"))
        self.set_cookie(key, "", 0, 0, path, domain, secure, httponly, samesite, partitioned)

    async def aclose(self) -> None:
        """Let go of what the body is made from; the engine calls it once for every response."""

    def close_nowait(self) -> None:
        """As :meth:`aclose`, as far as it goes without waiting: the event loop has given the request up."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.status_code}>"


def _status(status_code: object) -> int:
    if not is_status(status_code):
        raise ValueError(f"status_code takes an integer from 100 to 599, not {status_code!r}")
    return int(status_code)  # http.HTTPStatus


def _check_background(background: object) -> None:
    if not callable(background):
        raise TypeError(f"background takes a function without arguments, not {background!r}")


def _content_type(value: str) -> tuple[bytes, bytes]:
    # Only a str is looked up: anything else may not even have a hash, and is refused.
    return (isinstance(value, str) and _CONTENT_TYPES.get(value)) or encode_field("content-type", value)


def _fields(headers: HeadersInput | None, content_type: str | None, default: str | None) -> RawHeaders:
    """Check and encode a ``headers=`` argument, with a type that overrides it or a default that does not."""
    raw = [encode_field(name, value) for name, value in pairs(headers)]
    if content_type is not None:
        raw = [field for field in raw if field[0] != b"content-type"]
    elif find(raw, b"content-type") is None:
        content_type = default
    if content_type is not None:
        raw.append(_content_type(content_type))
    return raw


def _as_bytes(content: object) -> bytes:
    if isinstance(content, str):
        return content.encode()
    if isinstance(content, bytes):
        return content
    if isinstance(content, (bytearray, memoryview)):
        return bytes(cast("bytearray", content))
    raise TypeError(
        f"content takes bytes or str, not {type(content).__name__}; "
        "use JSONResponse for data, StreamingResponse for an iterable"
    )


class HTMLResponse(Response):
    """A :class:`Response` of type ``text/html; charset=utf-8``."""

    __slots__ = ()

    default_content_type: ClassVar[str | None] = "text/html; charset=utf-8"


# One encoder for all: json.dumps() with arguments builds one each time.
encode_json: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


class JSONResponse(Response):
    """A :class:`Response` whose content is data, written as JSON (RFC 8259) in UTF-8.

    Args:
        content: What the standard library's ``json`` can write.
        status_code: As for :class:`Response`.
        headers: As for :class:`Response`.
        content_type: As for :class:`Response`; ``application/json`` if ``None``.
        background: As for :class:`Response`.
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
        headers: As for :class:`Response`.
        background: As for :class:`Response`.

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


class StreamingResponse(Response):
    """A response whose body comes part by part.

    Of an asynchronous iterable the next part is asked for when the server has taken the last one. A synchronous one
    runs in a worker thread for its whole life, at most 768 KiB ahead of the server, and every part goes out at once.
    The iterator is closed by the engine on every exit, in the task or thread that iterated, also where it never began.

    Args:
        content: An asynchronous or synchronous iterable of ``bytes`` or ``str`` (sent as UTF-8).
        status_code: As for :class:`Response`.
        headers: As for :class:`Response`. A ``content-length`` is held against what comes: bytes beyond it are not
            sent, and a stream that falls short of it is aborted.
        content_type: As for :class:`Response`; none if ``None``.
        background: As for :class:`Response`.

    Raises:
        TypeError: ``content`` is no iterable, or is there as a whole.
        InvalidHeaderError: As for :class:`Response`.
    """

    __slots__ = ("_content", "_iterator", "keep_alive", "path")

    path: str | None
    """The absolute path of a file that the body is the whole of: sent by the server itself where it offers to
    (``http.response.pathsend``); the content is then not asked for."""

    keep_alive: tuple[float, bytes] | None
    """Seconds, more than 0, and what is sent between two parts whenever nothing was sent for so long; not where a
    length is declared."""

    def __init__(
        self,
        content: AsyncParts | SyncParts,
        status_code: int = 200,
        headers: HeadersInput | None = None,
        content_type: str | None = None,
        *,
        background: Background | None = None,
    ) -> None:
        if isinstance(content, (str, bytes, bytearray, memoryview, Mapping)) or not isinstance(
            content, (AsyncIterable, Iterable)
        ):
            raise TypeError(
                f"StreamingResponse takes an iterable of bytes or str, not {type(cast('object', content)).__name__}; "
                "use Response for what is there as a whole"
            )
        self._set_content(content)
        if background is not None:
            _check_background(background)
        self.status_code: int = _status(status_code)
        self.background = background
        self._headers = None
        self._raw = _fields(headers, content_type, self.default_content_type)
        self._check_length(self._raw)

    def _set_content(self, content: AsyncParts | SyncParts) -> None:
        self._content: AsyncIterable[bytes | str] | Iterable[bytes | str] | None = content
        self._iterator: AsyncIterator[bytes | str] | None = None
        self._body = b""
        self.path = None
        self.keep_alive = None

    def parts(self, threads: Threads = SHARED) -> AsyncIterator[bytes | str]:
        """The iterator over the body; it can be had once.

        Args:
            threads: Where a synchronous iterable runs.

        Raises:
            ResponseStateError: The response was sent or closed before.
        """
        content, self._content = self._content, None
        if content is None:
            raise ResponseStateError("a streaming response can be sent once; build a new one for each request")
        self._iterator = self._iterate(content, threads)
        return self._iterator

    def kept_parts(self, threads: Threads, keep: Keep) -> AsyncIterator[bytes | str]:
        """As :meth:`parts`, inside of what ``keep`` makes with :attr:`keep_alive` if that is set, closed like them."""
        parts = self.parts(threads)
        if self.keep_alive is None:
            return parts
        self._iterator = kept = keep(parts, *self.keep_alive)
        return kept

    def _iterate(
        self, content: AsyncIterable[bytes | str] | Iterable[bytes | str], threads: Threads
    ) -> AsyncIterator[bytes | str]:
        if isinstance(content, AsyncIterable):
            return aiter(content)
        return Pump(threads, partial(iterate, content))

    async def aclose(self) -> None:
        """Close the iterator (or the iterable, if it never began) by its own ``aclose``, if it has one."""
        if self._iterator is None and isinstance(self._content, Iterable):
            self.parts()  # what is synchronous is closed in a thread, begun or not
        target = self._iterator if self._iterator is not None else self._content
        self._iterator = self._content = None
        close = getattr(target, "aclose", None)
        if close is not None:
            await close()

    def close_nowait(self) -> None:
        """Stop the thread of a synchronous iterator; Python closes an asynchronous one."""
        stop = getattr(self._iterator, "stop", None)
        if stop is not None:
            stop()
