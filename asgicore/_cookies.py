"""Cookies: the request's parsed as browsers write them, the response's checked and built.

Source: RFC 6265 sections 4.1 and 5.2, RFC 6265bis (SameSite, prefixes), CHIPS (Partitioned).
Not ``http.cookies``: its parser drops every cookie after the first odd one, and its unquoting was quadratic.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from time import time
from typing import Final, Literal, TypeAlias

from . import _grammar
from ._dates import build_http_date, to_timestamp
from .errors import HeadersTooLargeError, InvalidHeaderError
from .limits import Limits

__all__ = ["SameSite", "build_set_cookie", "parse_cookies"]

SameSite: TypeAlias = Literal["lax", "strict", "none"]

# 300 years; browsers cap the age of a cookie at 400 days (RFC 6265bis section 5.5).
_MAX_SECONDS: Final = 10**10

_ESCAPE: Final = re.compile(r"\\(?:([0-3][0-7][0-7])|(.))")


def parse_cookies(values: list[bytes], limits: Limits) -> dict[str, str]:
    """Parse all ``cookie`` fields, joined with ``"; "`` (RFC 9113 section 8.2.3).

    Lenient as browsers and servers are: surrounding blanks go, quotes around a value go, a pair without a
    name is dropped, and of repeats the last counts. Text is UTF-8, or latin-1 if it is not.

    Raises:
        HeadersTooLargeError: More bytes or cookies than ``limits`` allow.
    """
    raw = values[0] if len(values) == 1 else b"; ".join(values)
    if limits.max_cookie_bytes is not None and len(raw) > limits.max_cookie_bytes:
        raise HeadersTooLargeError("cookie", f"{len(raw)} bytes, the limit is {limits.max_cookie_bytes}")
    if limits.max_cookies is not None and raw.count(b";") >= limits.max_cookies:
        # Empty pairs ("a=1;;") count too: they cost the same.
        raise HeadersTooLargeError("cookie", f"more than {limits.max_cookies} cookies")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    cookies: dict[str, str] = {}
    for pair in text.split(";"):
        name, equals, value = pair.partition("=")
        name = name.strip(" \t")
        if name and equals:
            cookies[name] = value
    # As a second step, because few values need it: three tests for all cookies in place of three for each.
    if '"' in text or "= " in text or " ;" in text or "\t" in text or text[-1:] == " ":
        for name, value in cookies.items():
            value = value.strip(" \t")
            cookies[name] = _unquote(value) if value[:1] == '"' else value
    return cookies


def _unquote(value: str) -> str:
    """Undo the quoting of ``http.cookies`` and Werkzeug, in one linear pass."""
    if len(value) < 2 or value[-1] != '"':
        return value
    text = _ESCAPE.sub(lambda found: chr(int(found[1], 8)) if found[1] else found[2], value[1:-1])
    try:
        # Werkzeug writes the bytes of UTF-8 in octal, http.cookies those of latin-1.
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


def build_set_cookie(
    key: str,
    value: str,
    *,
    max_age: int | timedelta | None,
    expires: datetime | str | int | None,
    path: str | None,
    domain: str | None,
    secure: bool,
    httponly: bool,
    samesite: SameSite | None,
    partitioned: bool,
) -> str:
    """Build the value of one ``set-cookie`` field; see ``asgicore.Response.set_cookie()``.

    Raises:
        InvalidHeaderError: A part holds a character that it may not hold, or the attributes contradict each other.
    """
    if not isinstance(key, str) or not _grammar.TOKEN.fullmatch(key):
        raise InvalidHeaderError(
            "set-cookie", f"the cookie name {key!r} may hold only letters, digits and !#$%&'*+-.^_`|~"
        )
    if not isinstance(value, str) or not _grammar.COOKIE_VALUE.fullmatch(value):
        raise _fault(
            key,
            f"the value {value!r} may not hold blanks, controls, commas, semicolons, backslashes, inner quotes or "
            "non-ASCII; encode it (urllib.parse.quote)",
        )
    if path is not None and not (isinstance(path, str) and _grammar.COOKIE_PATH.fullmatch(path)):
        raise _fault(key, f"the path {path!r} may not hold semicolons, controls or non-ASCII")
    if domain is not None and not (isinstance(domain, str) and _grammar.COOKIE_DOMAIN.fullmatch(domain)):
        raise _fault(key, f"the domain {domain!r} may hold only letters, digits, dots and hyphens")
    if samesite is not None and samesite not in ("lax", "strict", "none"):
        raise _fault(key, f"samesite is 'lax', 'strict', 'none' or None, not {samesite!r}")
    # CHIPS: browsers ignore Partitioned without Secure, so the one brings the other.
    secure = secure or partitioned
    if samesite == "none" and not secure:
        raise _fault(key, "browsers refuse SameSite=None without Secure; pass secure=True")
    prefix = key.lower()
    # RFC 6265bis section 4.1.3: prefixes are compared without regard to case.
    if prefix.startswith(("__secure-", "__host-")) and not secure:
        raise _fault(key, "the prefix demands Secure; pass secure=True")
    if prefix.startswith("__host-") and (domain is not None or path != "/"):
        raise _fault(key, "the prefix __Host- demands path='/' and no domain")

    parts = [f"{key}={value}"]
    if max_age is not None:
        if isinstance(max_age, timedelta):
            max_age = int(max_age.total_seconds())
        if isinstance(max_age, bool) or not isinstance(max_age, int):
            raise _fault(key, f"max_age takes whole seconds or a timedelta, not {max_age!r}")
        if abs(max_age) > _MAX_SECONDS:
            raise _fault(key, f"max_age is beyond {_MAX_SECONDS} seconds")
        parts.append(f"Max-Age={max_age}")
    if expires is not None:
        parts.append(f"Expires={_expires(key, expires)}")
    if domain is not None:
        parts.append(f"Domain={domain}")
    if path is not None:
        parts.append(f"Path={path}")
    if secure:
        parts.append("Secure")
    if httponly:
        parts.append("HttpOnly")
    if samesite is not None:
        parts.append(f"SameSite={samesite.capitalize()}")
    if partitioned:
        parts.append("Partitioned")
    return "; ".join(parts)


def _expires(key: str, expires: datetime | str | int) -> str:
    """An HTTP date (RFC 9110 section 5.6.7): from a ``datetime`` (naive: UTC), seconds from now, or as given."""
    try:
        if isinstance(expires, datetime):
            return build_http_date(to_timestamp(expires))
        if isinstance(expires, int) and not isinstance(expires, bool):
            return build_http_date(time() + expires)
    except (OverflowError, ValueError):
        raise _fault(key, "expires is beyond the calendar") from None
    if isinstance(expires, str) and _grammar.COOKIE_PATH.fullmatch(expires):
        return expires
    raise _fault(key, f"expires takes a datetime, seconds from now or an HTTP date, not {expires!r}")


def _fault(key: str, reason: str) -> InvalidHeaderError:
    return InvalidHeaderError("set-cookie", f"cookie {key!r}: {reason}")
