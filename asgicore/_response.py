"""Responses: what an endpoint returns.

A response built without touching ``.headers`` keeps its header fields as the bytes that go out.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from time import time
from typing import Any, ClassVar, Final, Self, TypeAlias, cast

from ._conditions import build_etag, check_etag, evaluate, is_weak
from ._cookies import SameSite, build_set_cookie
from ._dates import build_http_date, parse_http_date, to_timestamp
from ._extensions import build_server_timing, encode_trailer_names
from ._grammar import CONTENT_LENGTH
from ._headers import Headers, encode_field, find, find_all, pairs
from ._writer import Trailers
from .errors import ContentLengthError, HTTPError, InvalidHeaderError, is_status
from .types import HeadersInput, RawHeaders, Receive, Scope, Send

__all__ = ["Extras", "Response"]

Background: TypeAlias = Callable[[], object]
"""A function without arguments, async or not; what is not async runs in a worker thread."""

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

# What a 304 leaves out: it is about content, which it has none of (RFC 9110 section 15.4.5).
_ABOUT_CONTENT: Final = frozenset(
    name.encode()
    for name in (
        "content-disposition content-encoding content-language content-length content-range content-type"
    ).split()
)


class Extras:
    """What few responses have; those that have none of it cost nothing for it.

    Args:
        background: As ``Response.background``.

    Raises:
        TypeError: It is no callable.
    """

    __slots__ = ("background", "debug_info", "is_compressible", "is_conditional", "trailers")

    def __init__(self, background: Background | None = None) -> None:
        if background is not None:
            _check_background(background)
        self.background = background
        self.debug_info: Mapping[str, Any] | None = None
        self.trailers: Trailers | None = None
        self.is_compressible = False
        """Whether clients get it compressed that want it so: then its date is that of two representations."""
        self.is_conditional = False
        """Whether the application has set a validator, against which the preconditions of requests are held."""


class Response:
    """A response whose body is there as a whole; also an ASGI application: ``await response(scope, receive, send)``.

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

    __slots__ = ("_body", "_extras", "_headers", "_raw", "status_code")

    default_content_type: ClassVar[str | None] = None
    """The ``content-type`` where none is given."""

    status_code: int
    _body: bytes
    _extras: Extras | None
    _headers: Headers | None
    _raw: RawHeaders
    _serve: ClassVar[Callable[[Response, Scope, Receive, Send], Awaitable[None]]]
    """What ``__call__()`` does; the engine, which stands above this module, puts itself here."""
    _is_fitted: ClassVar[bool] = False
    """Whether the class has a ``prepare()`` of its own, so that there is something to be called for."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls._is_fitted = cls.prepare is not Response.prepare

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
        self._extras = None if background is None and not self._is_fitted else Extras(background)
        self.status_code = (
            status_code if type(status_code) is int and 200 <= status_code <= 599 else check_status(status_code)
        )
        self._headers = None
        self._body = body
        if headers is None:
            kind = default if content_type is None else content_type
            raw = [] if kind is None else [_content_type(kind)]
            is_declared = False
        else:
            raw = build_fields(headers, content_type, default)
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
        response._extras = None
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
            status = check_status(status)
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
            InvalidHeaderError: As ``set_cookie()``.
        """
        # Browsers ignore a deletion that the name's prefix does not allow.
        secure = secure or samesite == "none" or str(key).lower().startswith(("__secure-", "__host-"))
        self.set_cookie(key, "", 0, 0, path, domain, secure, httponly, samesite, partitioned)

    def set_etag(self, value: str | None = None, *, weak: bool = False) -> None:
        """Give the representation a tag, by which GET and HEAD become conditional (RFC 9110 section 8.8.3).

        Args:
            value: The tag, with or without its quotes; that of a hash of the body as it is now if ``None``.
            weak: Whether representations that mean the same have the same tag; else it stands for the bytes.

        Raises:
            InvalidHeaderError: A character may not stand in a tag.
            UsageError: There is no body to take a hash of.
        """
        if value is None:
            from hashlib import blake2b

            value = blake2b(self._body_to_hash(), digest_size=16).hexdigest()
        is_quoted = not isinstance(value, str) or value.endswith('"')  # what is no text is no tag either
        tag = check_etag(value) if is_quoted else build_etag(value)
        self.headers["etag"] = f"W/{tag}" if weak and not is_weak(tag) else tag
        self._extended().is_conditional = True

    def _body_to_hash(self) -> bytes:
        return self._body

    @property
    def last_modified(self) -> datetime | None:
        """When the representation changed last, in whole seconds, by which GET and HEAD become conditional (RFC 9110
        section 8.8.2). Takes a ``datetime`` (without a zone: UTC) or seconds since 1970, of which a moment to come is
        taken for now; ``None`` takes the field away."""
        value = parse_http_date(self.headers.get("last-modified", "").encode("latin-1"))
        return None if value is None else datetime.fromtimestamp(value, UTC)

    @last_modified.setter
    def last_modified(self, moment: datetime | float | None) -> None:
        if moment is None:
            self.headers.pop("last-modified", None)
        else:
            # RFC 9110 section 8.8.2.1: no later than the date of the message.
            self.headers["last-modified"] = build_http_date(min(to_timestamp(moment), int(time())))
            self._extended().is_conditional = True

    @property
    def background(self) -> Background | None:
        """Called without arguments after the last byte was handed to the server."""
        return None if self._extras is None else self._extras.background

    @background.setter
    def background(self, background: Background | None) -> None:
        if background is not None:
            _check_background(background)
        self._extended().background = background

    @property
    def debug_info(self) -> Mapping[str, Any] | None:
        """What a test client gets to know of how the response was made (``http.response.debug``), a mapping."""
        return None if self._extras is None else self._extras.debug_info

    @debug_info.setter
    def debug_info(self, info: Mapping[str, Any] | None) -> None:
        if info is not None and not isinstance(info, Mapping):
            raise TypeError(f"debug_info takes a mapping or None, not {type(info).__name__}")
        self._extended().debug_info = info

    def set_trailers(self, names: Iterable[str], compute: Callable[[], HeadersInput | Awaitable[HeadersInput]]) -> None:
        """Send fields after the body (RFC 9110 section 6.5), where the server offers it; else they are left out.

        ::

            digest = sha256()
            response = StreamingResponse(hashed(parts, digest))
            response.set_trailers(["x-checksum"], lambda: {"x-checksum": digest.hexdigest()})

        Args:
            names: Of all fields that may come; declared in the field ``trailer``.
            compute: Called without arguments when the last part was sent, on the event loop; may be async.

        Raises:
            InvalidHeaderError: A name is no token, or that of a field which a recipient needs before the body.
            TypeError: ``names`` is a single text, or ``compute`` is no callable.
            ValueError: There is no name.

        A response that gets trailers goes out without ``content-length``, and its body part by part by this engine,
        also where the server could send a file by itself. What ``compute`` raises, also by a field that was not
        declared, aborts the response.
        """
        if not callable(compute):
            raise TypeError(f"set_trailers takes a function that gives the fields, not {compute!r}")
        self._extended().trailers = (encode_trailer_names(names), compute)

    def add_server_timing(self, name: str, milliseconds: float | None = None, description: str | None = None) -> None:
        """Add one metric to the field ``server-timing``, which browsers show (W3C Server Timing).

        Raises:
            InvalidHeaderError: The name is no token, or the description holds a control.
            ValueError: ``milliseconds`` is no finite number.
        """
        self.headers.add("server-timing", build_server_timing(name, milliseconds, description))

    def _extended(self) -> Extras:
        if self._extras is None:
            self._extras = Extras()
        return self._extras

    async def prepare(self, scope: Scope) -> Response:
        """Fit the response to the request. Called once by the engine, before anything is sent; not for responses
        that have none of this and inherit it.

        With a validator (``set_etag()``, ``last_modified``) a GET or HEAD that is conditional on it is
        answered with 304, or refused with 412 (RFC 9110 section 13).

        Returns:
            What to send: this response, or another one that brings the extras of this, on which it is not called
            again. Both are closed.

        Raises:
            HTTPError: To be answered with that.
        """
        if (
            self._extras is not None
            and self._extras.is_conditional
            and 200 <= self.status_code < 300
            and scope.get("method") in ("GET", "HEAD")
        ):
            modified = self.last_modified
            verdict = evaluate(
                scope["method"],
                scope.get("headers") or (),
                self.headers.get("etag"),
                None if modified is None else to_timestamp(modified),
            )
            if verdict == 412:
                raise HTTPError(412)
            if verdict == 304:
                return self._not_modified()
        return self

    def _not_modified(self) -> Response:
        """The 304 that stands for this response, without the fields about content (RFC 9110 section 15.4.5)."""
        response = Response.prepared(
            b"", 304, [field for field in self.raw_headers() if field[0] not in _ABOUT_CONTENT]
        )
        response._extras = self._extras
        return response

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response, as an ASGI application: inside of another framework, or of a bare application.

        A disconnect cancels a stream; all is closed on every way out.

        Raises:
            BaseException: What making or sending it raises, unchanged; a client that leaves is no error.
        """
        await self._serve(scope, receive, send)

    async def aclose(self) -> None:
        """Let go of what the body is made from; the engine calls it once for every response."""

    def close_nowait(self) -> None:
        """As ``aclose()``, as far as it goes without waiting: the event loop has given the request up."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.status_code}>"


def check_status(status_code: object) -> int:
    """The status as an integer from 100 to 599.

    Raises:
        ValueError: It is none.
    """
    if not is_status(status_code):
        raise ValueError(f"status_code takes an integer from 100 to 599, not {status_code!r}")
    return int(status_code)  # http.HTTPStatus


def _check_background(background: object) -> None:
    if not callable(background):
        raise TypeError(f"background takes a function without arguments, not {background!r}")


def _content_type(value: str) -> tuple[bytes, bytes]:
    # Only a str is looked up: anything else may not even have a hash, and is refused.
    return (isinstance(value, str) and _CONTENT_TYPES.get(value)) or encode_field("content-type", value)


def build_fields(headers: HeadersInput | None, content_type: str | None, default: str | None) -> RawHeaders:
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
