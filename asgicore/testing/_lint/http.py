"""One HTTP request and its response, message by message.

Source: ASGI HTTP specification 2.5; ASGI extensions; RFC 9110.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from enum import Enum, auto
from stat import S_ISREG
from typing import Any, Final, NamedTuple, cast

from ..._extensions import DEBUG, EARLY_HINT, PATHSEND, TRAILERS, ZEROCOPYSEND
from ..._grammar import CONTENT_LENGTH, NOT_FIELD_VALUE_BYTES
from ..._headers import HOP_BY_HOP
from ...types import RawHeaders
from . import rules
from .fields import Report, check_repeats, check_trailer_fields, declared_length, is_once, is_series, read_fields
from .scope import check_http_scope

__all__ = ["HTTPExchange", "Shape", "check_shape", "kind_of"]

_START: Final = "http.response.start"
_BODY: Final = "http.response.body"
_PUSH: Final = "http.response.push"


# Who waits for the disconnect in one task and sends in another needs some turns of the loop to tell the other.
_ON_THEIR_WAY: Final = 8


class _State(Enum):
    """What has been sent of the response."""

    IDLE = auto()
    BODY = auto()
    TRAILERS = auto()
    DONE = auto()


class Shape(NamedTuple):
    """The keys of a message besides its type."""

    section: str
    required: dict[str, type]
    optional: dict[str, type]
    is_extension: bool = False


# object: looked at by those who know more of it.
_SHAPES: Final = {
    _START: Shape(rules.START, {"status": int}, {"headers": object, "trailers": bool}),
    _BODY: Shape(rules.BODY, {}, {"body": bytes, "more_body": bool}),
    EARLY_HINT: Shape(rules.EARLY_HINTS, {"links": object}, {}, is_extension=True),
    _PUSH: Shape(rules.PUSH, {"path": str, "headers": object}, {}, is_extension=True),
    PATHSEND: Shape(rules.PATH_SEND, {"path": str}, {}, is_extension=True),
    ZEROCOPYSEND: Shape(
        rules.ZERO_COPY, {"file": object}, {"offset": int, "count": int, "more_body": bool}, is_extension=True
    ),
    TRAILERS: Shape(rules.TRAILERS, {"headers": object}, {"more_trailers": bool}, is_extension=True),
    DEBUG: Shape(rules.DEBUG, {"info": dict}, {}, is_extension=True),
}

_REQUEST: Final = Shape(rules.REQUEST, {}, {"body": bytes, "more_body": bool})


def check_shape(
    message: Mapping[str, Any], shape: Shape, report: Report, prefix: str = "", value_rule: str = "value-type"
) -> dict[str, Any]:
    """Check the keys of a message; returns those whose values have the right type."""
    kind = message["type"]
    values: dict[str, Any] = {}
    for key, wanted in {**shape.required, **shape.optional}.items():
        if key not in message:
            if key in shape.required:
                report(f"{prefix}key-missing", f"{kind} has no {key!r}", shape.section)
            continue
        value = message[key]
        # A bool is an int to Python, and none to the specification.
        if isinstance(value, wanted) and (wanted is not int or not isinstance(value, bool)):
            values[key] = value
        else:
            report(value_rule, f"{key!r} of {kind} is {wanted.__name__}, not {type(value).__name__}", shape.section)
    for key in message.keys() - shape.required.keys() - shape.optional.keys() - {"type"}:
        report(f"{prefix}key-unknown", f"{kind} has the key {key!r}, which is ignored", shape.section)
    return values


class HTTPExchange:
    """Follows a request and its response.

    Args:
        scope: The scope; it is looked into and kept.
        report: Told what is wrong. If it raises, the message counts as not sent, or not received.
    """

    def __init__(self, scope: Mapping[str, Any], report: Report) -> None:
        self._report = report
        fields = check_http_scope(scope, report) or []
        self._is_head = scope.get("method") == "HEAD"
        self._is_http1 = str(scope.get("http_version", "1.1")).startswith("1")
        offered: Any = scope.get("extensions")
        self._offered: frozenset[str] = (
            frozenset(cast("dict[str, Any]", offered)) if isinstance(offered, dict) else frozenset()
        )
        # The request.
        self._expected = _expected_length(fields)
        self._received = 0
        self._has_body = False
        self._has_left = False
        # The response.
        self._state = _State.IDLE
        self._is_lost = False
        self._is_broken = False
        self._late = 0
        self._is_silent = False
        self._is_reset = False
        self._has_trailers = False
        self._has_coding = False
        self._trailer_names: set[bytes] = set()
        self._length: int | None = None
        self._sent = 0
        self._parts = 0
        self._has_debug = False

    # --- what the server gives --------------------------------------------------------------------------

    def receiving(self, is_alone: bool) -> None:
        """The application calls ``receive``; ``is_alone`` if no other call of it is under way."""
        if not is_alone:
            self._report("receive-concurrent", "receive() is called while another call of it waits")
        elif self._has_left:
            self._report("receive-after-disconnect", "receive() is called after it gave http.disconnect")

    def received(self, message: Any) -> None:
        """The server gives a message."""
        kind = kind_of(message)
        if kind is None:
            self._report("event-type", f"receive() gives a dict with a str as type, not {message!r:.80}")
        elif kind == "http.disconnect":
            check_shape(message, Shape(rules.DISCONNECT, {}, {}), self._report, "event-", "event-value")
            self._has_left = self._is_lost = True
        elif kind != "http.request":
            self._report("event-unknown", f"receive() gives http.request or http.disconnect, not {kind!r}")
        elif self._has_left:
            self._report("event-after-disconnect", "http.request comes after http.disconnect")
        elif self._has_body:
            self._report("request-after-end", "http.request comes after the one that ended the body")
        else:
            values = check_shape(message, _REQUEST, self._report, "event-", "event-value")
            received = self._received + len(values.get("body", b""))
            is_last = not values.get("more_body", False)
            expected = self._expected
            if expected is not None and (received > expected or (is_last and received < expected)):
                self._expected = None
                self._report("request-length", f"the body has {received} bytes, content-length declares {expected}")
            self._received, self._has_body = received, is_last

    def channel_failed(self) -> None:
        """The server raised: whatever the application owes, it cannot give any more."""
        self._is_lost = self._is_broken = True

    # --- what the application sends ---------------------------------------------------------------------

    def sending(self, message: Any) -> None:
        """The application sends a message."""
        kind = kind_of(message)
        if kind is None:
            self._report("message-type", f"send() takes a dict with a str as type, not {message!r:.80}")
            return
        shape = _SHAPES.get(kind)
        if shape is None:
            self._unknown(kind)
            return
        values = check_shape(message, shape, self._report)
        if shape.is_extension and kind not in self._offered:
            self._report("extension-not-offered", f"the scope does not offer {kind}", shape.section)
        if self._is_broken or (self._is_lost and self._state is not _State.DONE):
            self._late += 1
            if self._is_broken or self._late > _ON_THEIR_WAY:
                self._report("send-after-disconnect", f"{kind} is sent after the client has left")
            return
        _HANDLERS[kind](self, values)

    def _unknown(self, kind: str) -> None:
        others = self._offered - _SHAPES.keys() - {"tls"}
        if others:
            self._report("message-unjudged", f"{kind!r} may be of the extensions {', '.join(sorted(others))}")
        else:
            self._report("message-unknown", f"{kind!r} is no message of an HTTP response")

    def _is_open(self, kind: str) -> bool:
        """Whether what belongs to the body may come now."""
        if self._state is _State.BODY:
            return True
        if self._state is _State.IDLE:
            self._report("before-start", f"{kind} is sent before {_START}")
        else:
            self._report("after-end", f"{kind} is sent after the body has ended")
        return False

    def _start(self, values: dict[str, Any]) -> None:
        if self._state is not _State.IDLE:
            self._report("start-twice", f"a second {_START}")
            return
        status: int = values.get("status", 200)
        if not 100 <= status <= 599:
            self._report("status-range", f"the status {int(status)} is not between 100 and 599")
        elif status < 200:
            self._report("status-interim", f"{int(status)} is no final response; early hints are an extension")
        has_trailers = values.get("trailers", False)
        if has_trailers and TRAILERS not in self._offered:
            self._report("extension-not-offered", f"the scope does not offer {TRAILERS}", rules.TRAILERS)
        fields = read_fields(values.get("headers", ()), self._report, section=rules.START)
        length = self._check_head(status, fields) if fields is not None else None
        self._length = length
        self._has_coding = fields is None or _has(fields, b"transfer-encoding")
        self._trailer_names = _list(fields or [], b"trailer")
        self._is_silent = self._is_head or status in (204, 304) or status < 200
        self._is_reset = status == 205
        self._has_trailers = has_trailers
        if has_trailers and (self._is_silent or (self._is_http1 and length is not None)):
            why = "that declares its length" if length is not None else "that has no body"
            self._report("trailers-nowhere", f"{_START} announces trailers of a response {why}")
        self._state = _State.BODY

    def _check_head(self, status: int, fields: RawHeaders) -> int | None:
        """Check the fields of a response; returns the declared length."""
        check_repeats(fields, self._report)
        for name, _ in fields:
            if name == b"transfer-encoding":
                self._report("transfer-encoding", "the response has transfer-encoding, which the server ignores")
            elif not self._is_http1 and (name.decode("latin-1") in HOP_BY_HOP or name == b"upgrade"):
                self._report("header-connection", f"the field {name.decode('latin-1')} on HTTP/2")
        try:
            length = declared_length(fields)
        except ValueError as exc:
            self._report("length-malformed", f"content-length is {exc.args[0]!r}")
            return None
        if length is not None and (status < 200 or status == 204):
            self._report("length-forbidden", f"a response with the status {int(status)} has content-length")
        return length

    def _body(self, values: dict[str, Any]) -> None:
        if not self._is_open(_BODY):
            return
        is_last = not values.get("more_body", False)
        size = len(values.get("body", b""))
        if is_last and size and not (self._parts or self._is_silent or self._has_coding) and self._length is None:
            self._report("length-unknown", f"a whole body of {size} bytes without content-length")
        self._count(size, is_last)
        self._parts += 1
        if is_last:
            self._end()

    def _count(self, size: int, is_last: bool) -> None:
        """Hold ``size`` more bytes of the body against what the head says."""
        sent = self._sent + size
        if size and self._is_silent:
            why = "to HEAD" if self._is_head else "with this status"
            self._report("body-forbidden", f"{size} bytes of body in a response {why}")
        elif size and self._is_reset:
            self._report("body-reset", f"{size} bytes of body in a response with the status 205")
        elif self._length is not None and not self._is_silent:
            length = self._length
            if sent > length or (is_last and sent < length):
                self._length = None
                self._report("length-mismatch", f"the body has {sent} bytes, content-length declares {length}")
        self._sent = sent

    def _end(self) -> None:
        self._state = _State.TRAILERS if self._has_trailers else _State.DONE

    # --- extensions -------------------------------------------------------------------------------------

    def _hint(self, values: dict[str, Any]) -> None:
        if self._state is _State.BODY:
            self._report("hint-late", f"{EARLY_HINT} is sent after {_START}")
        elif self._state is not _State.IDLE:
            self._report("after-end", f"{EARLY_HINT} is sent after the body has ended")
        links: Any = values.get("links", (b"",))
        if not is_series(links):
            self._report("hint-type", f"links are an iterable of bytes, not {type(links).__name__}")
        elif is_once(links):
            self._report("headers-once", f"links are a {type(links).__name__}, which can be read once")
        else:
            if not list(links):
                self._report("hint-empty", f"{EARLY_HINT} has no links")
            for link in links:
                if not isinstance(link, bytes):
                    self._report("hint-type", f"a link is bytes, not {type(link).__name__}")
                elif NOT_FIELD_VALUE_BYTES.search(link):
                    self._report("header-value", "a link holds a control character")

    def _push(self, values: dict[str, Any]) -> None:
        if self._is_open(_PUSH):
            read_fields(values.get("headers", ()), self._report, section=rules.PUSH)

    def _path(self, values: dict[str, Any]) -> None:
        if not self._is_open(PATHSEND):
            return
        path: str | None = values.get("path")
        if path is not None and not _is_absolute(path):
            self._report("path-relative", f"the path {path!r} is not absolute")
        if self._parts:
            self._report("path-mixed", f"{PATHSEND} is sent beside other parts of the body")
        if self._is_silent:
            self._report("body-forbidden", "a file as the body of a response that has none")
        elif path is not None and os.path.isabs(path):
            size = _size_of_file(path)
            if size is None:
                self._report("path-missing", f"there is no file {path!r}")
            else:
                self._count(size, True)
        self._end()

    def _file(self, values: dict[str, Any]) -> None:
        if not self._is_open(ZEROCOPYSEND):
            return
        file: Any = values.get("file")
        if "file" in values and not isinstance(file, int) and not _has_descriptor(file):
            self._report("file-type", f"the file is {type(file).__name__}, which has no descriptor")
        for key, least in (("offset", 0), ("count", 1)):
            if values.get(key, least) < least:
                self._report("file-range", f"{key!r} of {ZEROCOPYSEND} is {values.pop(key)}")
        is_last = not values.get("more_body", False)
        if "count" in values:
            self._count(values["count"], is_last)
        else:
            # To the end of the file: only the server counts it.
            if self._is_silent:
                self._report("body-forbidden", "a file as the body of a response that has none")
            self._length = None
        self._parts += 1
        if is_last:
            self._end()

    def _trailers(self, values: dict[str, Any]) -> None:
        if self._state is _State.DONE:
            self._report("after-end", f"{TRAILERS} is sent after the response has ended")
        elif not self._has_trailers:
            self._report("trailers-unannounced", f"{_START} did not announce {TRAILERS}")
        elif self._state is not _State.TRAILERS:
            self._report("trailers-early", f"{TRAILERS} is sent before the last part of the body")
        else:
            fields = read_fields(values.get("headers", ()), self._report, section=rules.TRAILERS)
            check_trailer_fields(fields or [], self._trailer_names, self._report)
            if not values.get("more_trailers", False):
                self._state = _State.DONE

    def _debug(self, values: dict[str, Any]) -> None:
        if self._state is not _State.IDLE or self._has_debug:
            self._report("debug-order", f"{DEBUG} is sent after the start, or twice")
        self._has_debug = True

    # --- the end ----------------------------------------------------------------------------------------

    @property
    def is_complete(self) -> bool:
        """Whether the whole response has been sent."""
        return self._state is _State.DONE

    def ended(self, error: Exception | None) -> None:
        """The application has returned, or raised ``error``."""
        if self._is_lost:
            return
        if error is not None:
            self._report("raised", f"{type(error).__name__} {_WHEN[self._state]}")
        elif self._state is _State.IDLE:
            self._report("no-response", "the application returned without a response")
        elif self._state is not _State.DONE:
            missing = TRAILERS if self._state is _State.TRAILERS else "a last part of the body"
            self._report("unfinished", f"the application returned without {missing}")


# Here and not in the exchange, which would refer to itself.
_HANDLERS: Final[dict[str, Callable[[HTTPExchange, dict[str, Any]], None]]] = {
    _START: HTTPExchange._start,
    _BODY: HTTPExchange._body,
    EARLY_HINT: HTTPExchange._hint,
    _PUSH: HTTPExchange._push,
    PATHSEND: HTTPExchange._path,
    ZEROCOPYSEND: HTTPExchange._file,
    TRAILERS: HTTPExchange._trailers,
    DEBUG: HTTPExchange._debug,
}

_WHEN: Final = {
    _State.IDLE: "before the response was started",
    _State.BODY: "after the response was started",
    _State.TRAILERS: "before the trailers",
    _State.DONE: "after the response had ended",
}


def kind_of(message: Any) -> str | None:
    """The type of a message, ``None`` for what is no message."""
    kind: Any = cast("dict[str, Any]", message).get("type") if isinstance(message, dict) else None
    return kind if isinstance(kind, str) else None


def _expected_length(fields: RawHeaders) -> int | None:
    """How long the body of the request is to be, where the head tells."""
    # RFC 9112 section 6.3: transfer-encoding overrides content-length.
    if _has(fields, b"transfer-encoding"):
        return None
    values = _list(fields, b"content-length")
    value = values.pop() if len(values) == 1 else b""
    return int(value) if CONTENT_LENGTH.fullmatch(value) else None


def _has(fields: RawHeaders, wanted: bytes) -> bool:
    return any(name == wanted for name, _ in fields)


def _list(fields: RawHeaders, wanted: bytes) -> set[bytes]:
    """The members of a field that is a list, in lower case."""
    return {member.strip(b" \t").lower() for name, value in fields if name == wanted for member in value.split(b",")}


def _is_absolute(path: str) -> bool:
    # Of whatever system the server runs on.
    return path.startswith(("/", "\\\\")) or path[1:3] in (":\\", ":/")


def _size_of_file(path: str) -> int | None:
    """``None`` if there is no such file."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_size if S_ISREG(status.st_mode) else None


def _has_descriptor(file: Any) -> bool:
    try:
        return isinstance(file.fileno(), int)
    # ValueError: it is closed.
    except (AttributeError, OSError, ValueError):
        return False
