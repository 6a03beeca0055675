"""The response of a WSGI application: ``start_response``, ``write`` and what of the body may leave.

Nothing here waits: it runs in the thread of the application and hands over what it has.

Source: PEP 3333 "The start_response() Callable", "Handling the Content-Length Header", "Error Handling", "The write()
Callable"; RFC 9110 sections 6.4.1, 8.6, 15.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from http import HTTPStatus
from types import TracebackType
from typing import Final, TypeAlias

from .._grammar import CONTENT_LENGTH
from .._headers import _NAMES, encode_name, encode_value, pairs
from ..errors import ContentLengthError, InvalidHeaderError, ResponseStateError
from ..types import HeadersInput, RawHeaders

__all__ = ["ExcInfo", "StartResponse", "parse_status"]

ExcInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
"""What ``sys.exc_info()`` returns."""

# RFC 9110 section 15 and RFC 9112 section 4: three digits, and a reason that nobody has to give. 1xx answers are
# the server's, and a response that has only such an answer never ends.
_STATUS: Final = re.compile(r"([2-5][0-9]{2})(?: [^\x00-\x1f\x7f]*)?")

# The names and lines that frameworks write, so that they need not be parsed. Never filled from applications' input.
_TITLED: Final = {name.title(): raw for name, raw in _NAMES.items()} | {"ETag": b"etag"} | _NAMES
_KNOWN: Final = {f"{status.value} {status.phrase}": status.value for status in HTTPStatus if status >= 200}

# PEP 3333 "Other HTTP Features" leaves the hop-by-hop features of RFC 2616 section 13.5.1 to the server; the rest of
# them is refused for every response.
HOP_BY_HOP: Final = frozenset({b"proxy-authenticate", b"proxy-authorization", b"te", b"trailers", b"upgrade"})

_NOT_STARTED: Final = "the application gave a body, or ended, without calling start_response"


def parse_status(status: object) -> int:
    """The code of a status line: ``"200 OK"``, ``"200"``.

    Raises:
        InvalidHeaderError: It is no ``str`` of three digits from 200 to 599, followed by nothing or by a blank and a
            reason without controls.
    """
    if type(status) is str and (known := _KNOWN.get(status)) is not None:
        return known
    if not isinstance(status, str):
        raise InvalidHeaderError("status", f"start_response takes it as str, '200 OK', not {type(status).__name__}")
    found = _STATUS.fullmatch(status)
    if found is None:
        raise InvalidHeaderError("status", f"{status!r} is not three digits, 200 to 599, a blank and a reason")
    return int(found[1])


class StartResponse:
    """The ``start_response`` of one request, and the state of its response.

    Call ``put_part()`` with every part that the application's iterable gives, stop where it returns ``False``, and
    call ``finish()`` at the end. Nothing is handed over before the first part that is not empty, so that the
    application may still replace status and headers.

    Args:
        begin: Called once, with status and headers: pairs of bytes, names in lower case, every repeat in order.
        put: Called with every part of the body that may leave, none of them empty.
        head: Whether the request is a HEAD, whose response has no body.
    """

    __slots__ = ("_begin", "_given", "_head", "_put", "has_excess", "headers", "is_begun", "length", "status")

    status: int
    """The status, 200 to 599; 0 before the application gave one."""
    headers: RawHeaders
    length: int | None
    """The declared ``content-length``."""
    is_begun: bool
    """Whether status and headers were handed over."""
    has_excess: bool
    """Whether the application's iterable gave more than it declared, which was cut."""

    def __init__(
        self, begin: Callable[[int, RawHeaders], object], put: Callable[[bytes], object], head: bool = False
    ) -> None:
        self._begin = begin
        self._put = put
        self._head = head
        self._given = 0
        self.status = 0
        self.headers = []
        self.length = None
        self.is_begun = False
        self.has_excess = False

    # --- for the application -------------------------------------------------------------------------

    def __call__(
        self, status: str, headers: HeadersInput, exc_info: ExcInfo | None = None, /
    ) -> Callable[[bytes], object]:
        """Take status and headers; with ``exc_info``, in place of those given before.

        Returns:
            ``write()``.

        Raises:
            BaseException: The one in ``exc_info``, if the response has begun.
            ResponseStateError: Called again without ``exc_info``.
            InvalidHeaderError: The status or a field must not leave; what was given before stays.
        """
        if exc_info:
            try:
                exc = exc_info[1]
                if self.is_begun and exc is not None:
                    raise exc.with_traceback(exc_info[2])
            finally:
                exc_info = exc = None  # the traceback leads back to this frame
        elif self.status:
            raise ResponseStateError("start_response was called again without exc_info")
        code = parse_status(status)
        raw: RawHeaders = []
        length: int | None = None
        for name, value in pairs(headers):
            raw_name = _TITLED.get(name) if type(name) is str else None
            if raw_name is None:
                raw_name = encode_name(name)
                if raw_name in HOP_BY_HOP:
                    raise InvalidHeaderError(name, "set by the server, which owns the connection; leave it out")
            # Blanks around a value do not belong to it (RFC 9110 section 5.5); WSGI servers have always cut them.
            raw_value = encode_value(name, value.strip(" \t") if type(value) is str else value)
            if raw_name == b"content-length":
                if not CONTENT_LENGTH.fullmatch(raw_value):
                    raise InvalidHeaderError("content-length", "not a number of bytes")
                if length is not None:
                    raise InvalidHeaderError("content-length", "given more than once")
                length = int(raw_value)
                if code == 204 or (code == 304 and not length):
                    continue  # RFC 9110 section 8.6: none on 204; on 304 that of the representation, which 0 is not
            raw.append((raw_name, raw_value))
        self.status = code
        self.headers = raw
        self.length = length
        return self.write

    def write(self, data: bytes, /) -> None:
        """Send a part of the body before the iterable's; PEP 3333 has it for old applications.

        Raises:
            ContentLengthError: The body gets longer than declared; nothing of ``data`` is sent.
            TypeError: ``data`` is not ``bytes``.
        """
        self.check(data)
        if not self.is_begun:
            self.begin()
        if data and not self.is_bodiless:
            given = self._given + len(data)
            if self.length is not None and given > self.length:
                raise ContentLengthError(self.length, given)
            self._given = given
            self._put(data)

    # --- for the server ------------------------------------------------------------------------------

    @property
    def is_bodiless(self) -> bool:
        """Whether the response has no body, whatever the application gives (RFC 9110 section 6.4.1)."""
        return self._head or self.status == 204 or self.status == 304

    def put_part(self, part: bytes) -> bool:
        """Take a part that the application's iterable gave.

        Returns:
            Whether it may be asked for more. If not, everything that may leave was handed over.

        Raises:
            ResponseStateError: ``start_response`` was not called.
            TypeError: ``part`` is not ``bytes``.
        """
        self.check(part)
        if not part:
            return True
        if not self.is_begun:
            self.begin()
        if self.is_bodiless:
            return False
        if self.length is not None:
            # PEP 3333: no more bytes than declared, and then no more parts. One that ends where it should is asked
            # once more: what stands behind its last part is to run.
            room = self.length - self._given
            if len(part) > room:
                self.has_excess = True
                if room:
                    self._given = self.length
                    self._put(part[:room])
                return False
        self._given += len(part)
        self._put(part)
        return True

    def begin(self) -> None:
        """Hand status and headers over; from here on they cannot be replaced.

        Raises:
            ResponseStateError: ``start_response`` was not called.
        """
        if not self.status:
            raise ResponseStateError(_NOT_STARTED)
        self.is_begun = True
        self._begin(self.status, self.headers)

    def finish(self) -> None:
        """The application's iterable has ended.

        Raises:
            ResponseStateError: ``start_response`` was not called.
            ContentLengthError: The body ends short of its declared length.
        """
        if not self.is_begun:
            self._check_length(0)
            self.begin()
        else:
            self._check_length(self._given)

    def settle_length(self, size: int) -> int:
        """Declare the length of a body that is complete before anything was handed over, or hold it against that.

        Args:
            size: Its length in bytes.

        Returns:
            How much of it may leave. Neither status nor headers nor body are handed over.

        Raises:
            ResponseStateError: ``start_response`` was not called.
            ContentLengthError: The body ends short of its declared length.
        """
        if not self.status:
            raise ResponseStateError(_NOT_STARTED)
        if self.length is None:
            self.declare(size)
        elif size > self.length and not self.is_bodiless:
            self.has_excess = True
            size = self.length
        else:
            self._check_length(size)
        self.is_begun = True
        return 0 if self.is_bodiless else size

    def declare(self, length: int) -> None:
        """Declare how long the body is, which the application has not done but is known."""
        # The answer to a HEAD may come without the body whose length it would have to declare.
        if self.status not in (204, 304) and (length or not self._head):
            self.headers.append((b"content-length", b"%d" % length))

    def _check_length(self, given: int) -> None:
        if self.length is not None and given < self.length and not self.is_bodiless:
            raise ContentLengthError(self.length, given)

    def check(self, part: object) -> None:
        """Raise ``TypeError`` for what is no part of a body."""
        if not isinstance(part, bytes):
            raise TypeError(f"a WSGI application gives its body in parts of bytes, not {type(part).__name__}")
