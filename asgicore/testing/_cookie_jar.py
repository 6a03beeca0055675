"""The cookies of a client that talks to one application: no domains, no paths, no clock.

Source: RFC 6265 section 5.3 as far as it goes: a cookie replaces the one of its name, one that has expired goes.
"""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping
from time import time

from .._dates import parse_http_date
from .._headers import find_all

__all__ = ["build_cookie", "store_cookies"]


def store_cookies(jar: MutableMapping[str, str], headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Put what a response sets into the jar, and take out what it deletes."""
    for value in find_all(headers, b"set-cookie"):
        pair, *attributes = value.decode("latin-1").split(";")
        name, _, content = pair.partition("=")
        name = name.strip()
        if _is_expired(attributes):
            jar.pop(name, None)
        else:
            jar[name] = content.strip()


def _is_expired(attributes: list[str]) -> bool:
    named = {name.strip().lower(): value.strip() for name, _, value in (one.partition("=") for one in attributes)}
    if "max-age" in named:  # it counts more than expires
        return named["max-age"].startswith("-") or named["max-age"] == "0"
    expires = parse_http_date(named.get("expires", "").encode("latin-1"))
    return expires is not None and expires <= time()


def build_cookie(jar: MutableMapping[str, str]) -> list[tuple[bytes, bytes]]:
    """The ``cookie`` field of a request; none if the jar is empty."""
    if not jar:
        return []
    return [(b"cookie", "; ".join(f"{name}={value}" for name, value in jar.items()).encode("latin-1"))]
