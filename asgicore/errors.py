"""Every error asgicore raises on purpose, sorted by who must act.

::

    AsgicoreError
    ├── HTTPError                        an answer: status, detail, headers
    │   ├── RequestError                 the client sent something wrong (400)
    │   │   ├── MalformedRequestError      the request line or a field of the head (400)
    │   │   ├── TargetTooLongError         path or query string (414)
    │   │   ├── HeadersTooLargeError       number or size of header fields, cookies (431)
    │   │   ├── MalformedBodyError         the body is not what was announced (400)
    │   │   ├── BodyTooLargeError          the body exceeds the limit (413)
    │   │   ├── UnsupportedMediaTypeError  the body is of another media type (415)
    │   │   └── BodyTimeoutError           the body stopped coming (408)
    │   └── ThreadsBusyError             too many wait for a worker thread (503)
    ├── UsageError                       the application misused asgicore (500)
    │   ├── BodyConsumedError              the body was used already
    │   ├── MissingExtraError              a package is not installed that an extra brings
    │   ├── InvalidHeaderError             a response header that must not leave
    │   ├── ContentLengthError             declared length and bytes disagree
    │   └── ResponseStateError             response messages in an illegal order
    ├── ServerProtocolError              the ASGI server broke the specification (500)
    └── ClientDisconnectedError          nobody's fault; stop work, send nothing

Facts are attributes; the text is made of them in one place. ``status_hint`` is the
status that answers the error when it reaches ``asgicore.Handler``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any, ClassVar, TypeGuard

__all__ = [
    "AsgicoreError",
    "BodyConsumedError",
    "BodyTimeoutError",
    "BodyTooLargeError",
    "ClientDisconnectedError",
    "ContentLengthError",
    "HTTPError",
    "HeadersTooLargeError",
    "InvalidHeaderError",
    "MalformedBodyError",
    "MalformedRequestError",
    "MissingExtraError",
    "RequestError",
    "ResponseStateError",
    "ServerProtocolError",
    "TargetTooLongError",
    "ThreadsBusyError",
    "UnsupportedMediaTypeError",
    "UsageError",
]


class AsgicoreError(Exception):
    """Base of every error in this module."""

    status_hint: ClassVar[int] = 500
    """The HTTP status that answers this error."""


class HTTPError(AsgicoreError):
    """An answer that an endpoint raises instead of returning it.

    Args:
        status_code: The status of the answer, 300 to 599.
        detail: Its body, sent as ``text/plain``; the status phrase if ``None``.
        headers: Further headers, a mapping or pairs of ``str``.

    Raises:
        ValueError: The status is not an integer from 300 to 599.
    """

    status_code: int
    detail: str
    headers: Mapping[str, str] | Iterable[tuple[str, str]] | None

    def __init__(
        self,
        status_code: int,
        detail: str | None = None,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
    ) -> None:
        if not is_status(status_code) or status_code < 300:
            raise ValueError(
                f"HTTPError takes a status from 300 to 599, not {status_code!r}; return a Response for any other status"
            )
        self.status_code = int(status_code)
        self.detail = _phrase(self.status_code) if detail is None else detail
        self.headers = headers
        super().__init__(status_code, detail, headers)

    def __str__(self) -> str:
        return f"{self.status_code} {self.detail}"


def is_status(value: object) -> TypeGuard[int]:
    """Whether ``value`` is an integer from 100 to 599 (RFC 9110 section 15), ``bool`` excluded."""
    return isinstance(value, int) and not isinstance(value, bool) and 100 <= value <= 599


def _phrase(status_code: int) -> str:
    try:
        return HTTPStatus(status_code).phrase
    except ValueError:
        return "Error"


class RequestError(HTTPError):
    """The client's fault: answered without a traceback and not logged as an error.

    ``field`` names the part of the request, ``detail`` says what is wrong with it.
    """

    status_hint = 400
    field: str

    def __init__(self, field: str, reason: str) -> None:
        self.field = field
        super().__init__(self.status_hint, f"{field}: {reason}")
        self.args: tuple[Any, ...] = (field, reason)


class MalformedRequestError(RequestError):
    """A field of the request's head cannot be read (400)."""


class TargetTooLongError(RequestError):
    """The path or the query string exceeds its limit (414, RFC 9110 section 15.5.15)."""

    status_hint = 414


class HeadersTooLargeError(RequestError):
    """Too many or too large header fields or cookies (431, RFC 6585 section 5)."""

    status_hint = 431


class MalformedBodyError(RequestError):
    """The body does not match its declared length, or cannot be parsed (400)."""


class BodyTooLargeError(RequestError):
    """The body, or what ``field`` names of it, exceeds its limit in bytes (413, RFC 9110 section 15.5.14)."""

    status_hint = 413
    limit: int

    def __init__(self, limit: int, field: str = "body") -> None:
        self.limit = limit
        super().__init__(field, f"larger than the limit of {limit} bytes")
        self.args: tuple[Any, ...] = (limit, field)


class UnsupportedMediaTypeError(RequestError):
    """The body is of a media type that was not asked for (415, RFC 9110 section 15.5.16).

    ``media_type`` is what the client sent, ``""`` if it named none.
    """

    status_hint = 415
    media_type: str

    def __init__(self, media_type: str, *wanted: str) -> None:
        self.media_type = media_type
        # repr: nothing of what was sent reaches a log unescaped.
        given = repr(media_type) if media_type else "missing"
        super().__init__("content-type", f"{given}; {' or '.join(wanted)} is wanted")
        self.args: tuple[Any, ...] = (media_type, *wanted)


class BodyTimeoutError(RequestError):
    """No part of the body came for ``Limits.body_timeout_seconds`` (408, RFC 9110 section 15.5.9).

    Or not all of it came within ``Limits.max_body_seconds``: ``is_whole`` then. ``seconds`` is the limit.
    """

    status_hint = 408
    seconds: float
    is_whole: bool

    def __init__(self, seconds: float, is_whole: bool = False) -> None:
        self.seconds = seconds
        self.is_whole = is_whole
        problem = "not received within" if is_whole else "nothing received for"
        super().__init__("body", f"{problem} {seconds:g} seconds")
        self.args: tuple[Any, ...] = (seconds, is_whole)


class ThreadsBusyError(HTTPError):
    """Too many jobs wait for a worker thread already (503 with ``retry-after``, RFC 9110 section 15.6.4).

    ``waiting`` is their number.
    """

    status_hint = 503
    retry_after_seconds: ClassVar[int] = 1
    """The least there is: the queue is long now, and may be empty in a second."""
    waiting: int

    def __init__(self, waiting: int) -> None:
        self.waiting = waiting
        super().__init__(self.status_hint, headers={"retry-after": str(self.retry_after_seconds)})
        self.args: tuple[Any, ...] = (waiting,)


class UsageError(AsgicoreError):
    """The application's fault: a 500, logged with its traceback."""


class BodyConsumedError(UsageError):
    """The request body was used already and is not kept."""


class MissingExtraError(UsageError, ImportError):
    """A package is not installed that one of asgicore's extras brings, or another one is in its place.

    ``extra`` is the name of the extra.
    """

    extra: str
    reason: str

    def __init__(self, extra: str, reason: str) -> None:
        self.extra = extra
        self.reason = reason
        super().__init__(extra, reason)

    def __str__(self) -> str:
        return f"{self.reason}; install asgicore[{self.extra}]"


class InvalidHeaderError(UsageError, ValueError):
    """A response header, cookie or status that must not reach the wire.

    ``header`` is the name of the header (as given), ``reason`` what is wrong.
    """

    header: str
    reason: str

    def __init__(self, header: object, reason: str) -> None:
        self.header = header if isinstance(header, str) else repr(header)
        self.reason = reason
        super().__init__(self.header, reason)

    def __str__(self) -> str:
        # repr: whatever was given, nothing of it reaches a log unescaped.
        return f"header {self.header!r}: {self.reason}"


class ContentLengthError(UsageError, ValueError):
    """The declared ``content-length`` and the bytes of the body disagree.

    ``declared`` and ``actual`` are in bytes; ``actual`` is what was there when it was noticed.
    """

    declared: int
    actual: int

    def __init__(self, declared: int, actual: int) -> None:
        self.declared = declared
        self.actual = actual
        super().__init__(declared, actual)

    def __str__(self) -> str:
        return (
            f"content-length declares {self.declared} bytes, the body has {self.actual}; "
            "leave the header out, or set it to the number of bytes"
        )


class ResponseStateError(UsageError):
    """A response message that ASGI does not allow at this point."""


class ServerProtocolError(AsgicoreError):
    """The ASGI server sent something that the specification does not allow.

    Args:
        message: What it sent, and what may come.
        kind: The type of the message, where it sent one of a wrong type.
    """

    def __init__(self, message: str, kind: object = None) -> None:
        super().__init__(message)
        self.kind = kind


class ClientDisconnectedError(AsgicoreError, OSError):
    """The client left. Not an error of anybody: stop work, send nothing.

    Also an ``OSError``, which the ASGI specification (2.4 and later) tells servers to expect.
    """

    def __init__(self, message: str = "the client disconnected") -> None:
        super().__init__(message)
