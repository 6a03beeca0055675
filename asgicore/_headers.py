"""Header fields: the request's raw list checked in one pass, the response's fields encoded and checked.

Source: RFC 9110 sections 5 and 8, RFC 9112 section 6.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from multidict import CIMultiDict, CIMultiDictProxy, MultiMapping, istr

from . import _grammar
from .errors import HeadersTooLargeError, InvalidHeaderError, MalformedRequestError
from .limits import Limits
from .types import HeadersInput, RawHeaders

# --- request ---------------------------------------------------------------------------------------------

# istr keys spare multidict the case folding of the names that nearly every request has. Never filled from
# requests: a client must not be able to grow it.
_KNOWN: Final = {
    name.encode(): istr(name)
    for name in (
        "accept accept-charset accept-encoding accept-language access-control-request-headers "
        "access-control-request-method authorization cache-control connection content-disposition "
        "content-encoding content-language content-length content-type cookie date dnt expect forwarded from "
        "host if-match if-modified-since if-none-match if-range if-unmodified-since last-event-id link "
        "max-forwards origin pragma priority range referer sec-ch-ua sec-ch-ua-mobile sec-ch-ua-platform "
        "sec-fetch-dest sec-fetch-mode sec-fetch-site sec-fetch-user sec-gpc te trailer transfer-encoding "
        "upgrade upgrade-insecure-requests user-agent via x-api-key x-csrf-token x-csrftoken x-forwarded-for "
        "x-forwarded-host x-forwarded-port x-forwarded-proto x-real-ip x-request-id x-requested-with"
    ).split()
}


NO_PAIR: Final = "a field is not a pair of bytes"


def list_headers(headers: Any) -> list[Any]:
    """The scope's ``headers`` as a list, whatever iterable they are.

    Raises:
        MalformedRequestError: They are none.
    """
    try:
        return list(headers or ())
    except TypeError:
        raise MalformedRequestError("headers", NO_PAIR) from None


def check_request_headers(headers: Any, limits: Limits) -> int | None:
    """Check number, size and framing fields of the scope's ``headers`` without decoding any of them.

    Args:
        headers: Pairs of name and value, both bytes, as in the scope; may be ``None`` or have names in any case.
        limits: ``max_headers`` and ``max_header_bytes`` apply.

    Returns:
        The declared length of the body in bytes, ``None`` if none is declared.

    Raises:
        HeadersTooLargeError: More fields or bytes than allowed.
        MalformedRequestError: ``content-length`` or ``host`` is malformed or ambiguous, or a field is no pair of bytes.
    """
    if not headers:
        return None
    declared: int | None = None
    has_host = False
    size = 0
    try:
        if limits.max_headers is not None and len(headers) > limits.max_headers:
            raise HeadersTooLargeError("headers", f"{len(headers)} fields, the limit is {limits.max_headers}")
        for name, value in headers:
            length = len(name)
            size += length + len(value)
            # Comparing lengths first makes this loop faster than any that compares or hashes names.
            if length == 14 and name.lower() == b"content-length":
                # RFC 9110 section 8.6: lengths that differ are a 400.
                if declared is not None and declared != parse_content_length(value):
                    raise MalformedRequestError("content-length", "given more than once, with different values")
                declared = parse_content_length(value)
            elif length == 4 and name.lower() == b"host":
                # RFC 9112 section 3.2: more than one Host is a 400.
                if has_host:
                    raise MalformedRequestError("host", "given more than once")
                has_host = True
    except (AttributeError, TypeError, ValueError):
        raise MalformedRequestError("headers", NO_PAIR) from None
    if limits.max_header_bytes is not None and size > limits.max_header_bytes:
        raise HeadersTooLargeError("headers", f"{size} bytes, the limit is {limits.max_header_bytes}")
    return declared


def refuse_underscores(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Refuse names that would pass for others where hyphens become underscores, as in CGI.

    Raises:
        MalformedRequestError: There is one.
    """
    for name, _ in headers:
        if b"_" in name:
            raise MalformedRequestError("headers", f"{name[:64]!r} has an underscore, which is refused; send a hyphen")


def parse_content_length(value: bytes) -> int:
    """A declared length in bytes.

    Raises:
        MalformedRequestError: It is no number of bytes.
    """
    # RFC 9110 section 8.6 lets a recipient take "42, 42" for 42; servers that fold repeats produce it.
    values = {member.strip(b" \t") for member in value.split(b",")}
    if len(values) == 1:
        (digits,) = values
        if _grammar.CONTENT_LENGTH.fullmatch(digits):
            return int(digits)
    raise MalformedRequestError("content-length", "not a number of bytes (RFC 9110 section 8.6)")


def find(raw: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """The first value of ``name`` (in lower case), without decoding anything; ``None`` if there is none."""
    length = len(name)
    for key, value in raw:
        if len(key) == length and key.lower() == name:
            return value
    return None


def find_all(raw: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """All values of ``name`` (in lower case), in order."""
    length = len(name)
    return [value for key, value in raw if len(key) == length and key.lower() == name]


def decode_request_headers(raw: Iterable[tuple[bytes, bytes]]) -> CIMultiDictProxy[str]:
    """The fields as text (latin-1, RFC 9110 section 5.5), every repeat kept in order."""
    known = _KNOWN.get
    try:
        pairs = [(known(name) or name.lower().decode("latin-1"), value.decode("latin-1")) for name, value in raw]
    except (AttributeError, TypeError, ValueError):
        raise MalformedRequestError("headers", NO_PAIR) from None
    return CIMultiDictProxy(CIMultiDict(pairs))


# Far above any media type in use; a value longer than this is an attack on the parser.
_MAX_CONTENT_TYPE_BYTES: Final = 4096


def parse_content_type(value: bytes) -> tuple[str, dict[str, str]]:
    """Split a ``content-type`` into media type and parameters (RFC 9110 section 8.3.1), in one linear scan.

    Returns:
        The media type in lower case, ``""`` if empty, and its parameters by lower-case name, unquoted.
        Parameters without a value are left out; of repeats the first counts.

    Raises:
        MalformedRequestError: Longer than 4096 bytes.
    """
    if len(value) > _MAX_CONTENT_TYPE_BYTES:
        raise MalformedRequestError("content-type", f"longer than {_MAX_CONTENT_TYPE_BYTES} bytes")
    media_type, _, rest = value.decode("latin-1").partition(";")
    parameters: dict[str, str] = {}
    while rest:
        name, equals, tail = rest.partition("=")
        if not equals:
            break
        # A parameter without a value before this one ends at its own semicolon.
        name = name.rpartition(";")[2].strip().lower()
        tail = tail.lstrip(" \t")
        if tail.startswith('"'):
            text, rest = _quoted_string(tail)
        else:
            text, _, rest = tail.partition(";")
            text = text.strip()
        if name:
            parameters.setdefault(name, text)
    return media_type.strip().lower(), parameters


def _quoted_string(text: str) -> tuple[str, str]:
    """Split off a leading quoted-string (RFC 9110 section 5.6.4): its content, and what follows the next ``;``."""
    out: list[str] = []
    start = position = 1
    while position < len(text):
        if text[position] == '"':
            break
        if text[position] == "\\":
            out.append(text[start:position])
            start = position + 1
            position += 1
        position += 1
    out.append(text[start:position])
    return "".join(out), text[position:].partition(";")[2]


# --- response --------------------------------------------------------------------------------------------

# RFC 9112 section 6 and RFC 9113 section 8.2.2: how the message is framed and what becomes of the connection is
# the server's business; an application that says something else splits the response.
HOP_BY_HOP: Final = frozenset({"connection", "keep-alive", "proxy-connection", "transfer-encoding"})

# Names that skip validation because it was done here, once. Never filled from applications' input.
_NAMES: Final = {
    name: name.encode()
    for name in (
        "accept-ranges access-control-allow-credentials access-control-allow-headers "
        "access-control-allow-methods access-control-allow-origin access-control-expose-headers "
        "access-control-max-age age allow cache-control content-disposition content-encoding "
        "content-language content-length content-location content-range content-security-policy content-type "
        "cross-origin-opener-policy date etag expires last-modified link location referrer-policy "
        "retry-after server server-timing set-cookie strict-transport-security vary www-authenticate "
        "x-accel-buffering x-content-type-options x-frame-options x-request-id"
    ).split()
}


_BLANK: Final = "the value begins or ends with a blank"


def encode_name(name: object) -> bytes:
    """Check a field name (RFC 9110 section 5.1) and encode it in lower case.

    Raises:
        InvalidHeaderError: It is no ``str``, no token, or belongs to the server.
    """
    if type(name) is str and (known := _NAMES.get(name)) is not None:
        return known
    if not isinstance(name, str):
        raise InvalidHeaderError(name, f"the name must be str, not {type(name).__name__}")
    if not _grammar.TOKEN.fullmatch(name):
        raise InvalidHeaderError(name, "the name may hold only letters, digits and !#$%&'*+-.^_`|~")
    lower = name.lower()
    if lower in HOP_BY_HOP:
        raise InvalidHeaderError(name, "set by the server, which frames the message; leave it out")
    return lower.encode("ascii")


def encode_value(name: str, value: object) -> bytes:
    """Check a field value (RFC 9110 section 5.5) and encode it as latin-1.

    Raises:
        InvalidHeaderError: It is no ``str``, holds a control or a character outside latin-1, or begins or ends
            with a blank.
    """
    if not isinstance(value, str):
        raise InvalidHeaderError(name, f"the value must be str, not {type(value).__name__}")
    if not (value.isascii() and value.isprintable()):  # the common case, in 50 ns
        illegal = _grammar.NOT_FIELD_VALUE.search(value)
        if illegal:
            raise InvalidHeaderError(
                name, f"the value holds {illegal.group()!r}; controls and characters outside latin-1 cannot be sent"
            )
    if value and (value[0] in " \t" or value[-1] in " \t"):
        raise InvalidHeaderError(name, _BLANK)
    return value.encode("latin-1")


def encode_field(name: object, value: object) -> tuple[bytes, bytes]:
    """Check and encode one field; see ``encode_name()`` and ``encode_value()``."""
    raw = encode_name(name)
    return raw, encode_value(raw.decode("ascii"), value)


# A multidict is no collections.abc.Mapping.
_MAPPINGS: Final[tuple[Any, ...]] = (Mapping, MultiMapping)


def pairs(headers: HeadersInput | None) -> Iterator[tuple[str, str]]:
    """The pairs of a ``headers=`` argument; a multidict gives every repeat.

    Raises:
        TypeError: It is neither a mapping nor pairs.
    """
    if headers is None:
        return
    given: Any = headers
    items: Any = given.items() if isinstance(headers, _MAPPINGS) else given
    for item in items:
        try:
            name, value = item
        except (TypeError, ValueError):
            raise TypeError(f"headers takes a mapping or pairs of (name, value), not {item!r}") from None
        yield name, value


def check_raw_headers(headers: Iterable[Any], keeps_case: bool = False) -> RawHeaders:
    """Check fields that are bytes already, from code that builds ASGI messages itself.

    Args:
        headers: Pairs of name and value.
        keeps_case: Whether names stay as they are, and fields that are the server's are left out instead of refused;
            else names come out in lower case.

    Raises:
        InvalidHeaderError: As for ``encode_field()``.
    """
    checked: RawHeaders = []
    for name, value in headers:
        if not isinstance(name, bytes) or not isinstance(value, bytes):
            raise InvalidHeaderError(name, "an ASGI message takes names and values as bytes")
        if keeps_case and name.lower().decode("latin-1") in HOP_BY_HOP:
            continue
        lower = encode_name(name.decode("latin-1"))
        if _grammar.NOT_FIELD_VALUE_BYTES.search(value):
            raise InvalidHeaderError(lower.decode("ascii"), "the value holds a control character")
        if value != value.strip(b" \t"):
            raise InvalidHeaderError(lower.decode("ascii"), _BLANK)
        checked.append((name if keeps_case else lower, value))
    return checked


class Headers(CIMultiDict[str]):
    """The headers of a response: a ``CIMultiDict`` whose every way in checks name and value.

    Repeats keep their order. Every method that sets raises
    ``asgicore.InvalidHeaderError`` at the call, naming the header.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.extend(*args, **kwargs)

    def __setitem__(self, key: str, value: str) -> None:
        encode_field(key, value)
        super().__setitem__(key, value)

    def add(self, key: str, value: str) -> None:
        encode_field(key, value)
        super().add(key, value)

    def setdefault(self, key: str, default: Any = None) -> str:
        if key not in self:
            encode_field(key, default)
        return super().setdefault(key, default)

    def extend(self, arg: Any = (), /, **kwargs: str) -> None:
        super().extend(self._checked(arg, kwargs))

    def update(self, arg: Any = (), /, **kwargs: str) -> None:
        super().update(self._checked(arg, kwargs))

    def merge(self, arg: Any = (), /, **kwargs: str) -> None:
        super().merge(self._checked(arg, kwargs))

    @staticmethod
    def _checked(arg: Any, kwargs: Mapping[str, str]) -> list[tuple[str, str]]:
        items = [*pairs(arg), *kwargs.items()]
        for name, value in items:
            encode_field(name, value)
        return items

    def raw(self) -> RawHeaders:
        """The fields as they go on the wire."""
        return [encode_field(name, value) for name, value in self.items()]
