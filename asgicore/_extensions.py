"""What ASGI extensions carry: early hints, trailers, TLS; and the field ``server-timing``.

Source: ASGI specification, "Extensions", "TLS Extension"; RFC 8297 (early hints); RFC 9110 section 6.5 (trailers);
W3C Server Timing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from . import _grammar
from ._headers import encode_field, encode_name, encode_value, pairs
from .errors import InvalidHeaderError
from .types import HeadersInput, RawHeaders

__all__ = [
    "TLS",
    "build_server_timing",
    "check_trailer_name",
    "encode_links",
    "encode_trailer_names",
    "encode_trailers",
    "find_tls",
]

DEBUG: Final = "http.response.debug"
EARLY_HINT: Final = "http.response.early_hint"
PATHSEND: Final = "http.response.pathsend"
TRAILERS: Final = "http.response.trailers"
ZEROCOPYSEND: Final = "http.response.zerocopysend"


def encode_links(links: Iterable[str]) -> list[bytes]:
    """Check and encode the values of ``link`` fields (RFC 8288), as an early hint takes them.

    Raises:
        InvalidHeaderError: A value must not leave.
        TypeError: ``links`` is a single ``str``.
    """
    if isinstance(links, (str, bytes)):
        raise TypeError("early hints take each link as an argument of its own, not one text of all of them")
    return [encode_value("link", link) for link in links]


# RFC 9110 section 6.5.1: a trailer must not say what a recipient needs before the content: framing, routing, request
# modifiers, authentication, how the content is to be processed. Cookies are not taken from trailers either;
# Accept-Ranges (section 14.3) and ETag (8.8.3) are.
NEVER_TRAILERS: Final = frozenset(
    name.encode()
    for name in (
        "age allow authorization cache-control content-encoding content-length content-location "
        "content-range content-type cookie date expect expires host if-match if-modified-since if-none-match "
        "if-range if-unmodified-since location max-forwards pragma proxy-authenticate proxy-authorization range "
        "retry-after set-cookie te trailer upgrade vary www-authenticate"
    ).split()
)


def check_trailer_name(name: bytes) -> bytes:
    """The name, in lower case, of a field that may come after the body.

    Raises:
        InvalidHeaderError: It may not.
    """
    if name in NEVER_TRAILERS:
        raise InvalidHeaderError(name.decode(), "may not be sent after the body (RFC 9110 section 6.5.1)")
    return name


def encode_trailer_names(names: Iterable[str]) -> tuple[bytes, ...]:
    """Check and encode the names that the field ``trailer`` declares.

    Raises:
        InvalidHeaderError: A name is no token, or names a field that may not come after the body.
        TypeError: ``names`` is a single ``str``.
        ValueError: There is none.
    """
    if isinstance(names, (str, bytes)):
        raise TypeError("set_trailers takes a list of names, not a single text")
    encoded = tuple(dict.fromkeys(check_trailer_name(encode_name(name)) for name in names))
    if not encoded:
        raise ValueError("set_trailers takes the name of at least one field")
    return encoded


def encode_trailers(fields: HeadersInput, declared: tuple[bytes, ...]) -> RawHeaders:
    """Check and encode the trailers themselves.

    Raises:
        InvalidHeaderError: A field must not leave, or was not declared.
    """
    raw = [encode_field(name, value) for name, value in pairs(fields)]
    for name, _ in raw:
        if name not in declared:
            raise InvalidHeaderError(name.decode(), "not among the names that set_trailers declared")
    return raw


def build_server_timing(name: str, milliseconds: float | None = None, description: str | None = None) -> str:
    """One metric of a ``server-timing`` field.

    Raises:
        InvalidHeaderError: The name is no token, or the description holds what no field may.
        ValueError: ``milliseconds`` is no finite number.
    """
    if not isinstance(name, str) or not _grammar.TOKEN.fullmatch(name):
        raise InvalidHeaderError("server-timing", "the name of a metric is a token")
    metric = name
    if milliseconds is not None:
        if not abs(milliseconds) < float("inf"):
            raise ValueError(f"milliseconds takes a finite number, not {milliseconds!r}")
        metric += f";dur={milliseconds:.6f}".rstrip("0").rstrip(".")
    if description is not None:
        encode_value("server-timing", f'"{description}"')
        escaped = description.replace("\\", "\\\\").replace('"', '\\"')
        metric += f';desc="{escaped}"'
    return metric


@dataclass(frozen=True, slots=True, kw_only=True)
class TLS:
    """The TLS connection of a request, as far as the server tells; ``None`` is what it does not."""

    version: int | None = None
    """The version as on the wire: 0x0303 is TLS 1.2, 0x0304 is TLS 1.3."""
    cipher_suite: int | None = None
    """The number of the cipher suite (IANA TLS Cipher Suites)."""
    server_cert: str | None = None
    """The server's certificate, PEM."""
    client_cert_chain: tuple[str, ...] = ()
    """The client's certificates, PEM, its own first; verified by the server if ``client_cert_error`` is ``None``."""
    client_cert_name: str | None = None
    """The distinguished name of the client's certificate (RFC 4514)."""
    client_cert_error: str | None = None
    """Why the client's certificate was not accepted."""


def find_tls(extensions: Mapping[str, Any]) -> TLS | None:
    """What the TLS extension says; ``None`` where the connection has none or the server does not tell.

    Values of a wrong type are taken for missing ones.
    """
    given: Any = extensions.get("tls")
    if not isinstance(given, Mapping):
        return None
    facts = cast("Mapping[str, Any]", given)
    given = facts.get("client_cert_chain")
    # The specification allows any iterable of text; a text is one, too, and no chain.
    chain = list(cast("Iterable[object]", given)) if isinstance(given, Iterable) and not isinstance(given, str) else []

    def text(key: str) -> str | None:
        value = facts.get(key)
        return value if isinstance(value, str) else None

    def number(key: str) -> int | None:
        value = facts.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    return TLS(
        version=number("tls_version"),
        cipher_suite=number("cipher_suite"),
        server_cert=text("server_cert"),
        client_cert_chain=tuple(item for item in chain if isinstance(item, str)),
        client_cert_name=text("client_cert_name"),
        client_cert_error=text("client_cert_error"),
    )
