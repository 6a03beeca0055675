"""Header fields as the variables that CGI made of them, for the bridges.

Source: RFC 3875 section 4.1, RFC 9110 section 5.3, RFC 9113 section 8.2.3.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from ._headers import _KNOWN

__all__ = ["KEYS", "add_headers"]

# What the names that nearly every request has become; "" for what is dropped. Never filled from requests: a client
# must not be able to grow it.
KEYS: Final = {raw: "HTTP_" + name.upper().replace("-", "_") for raw, name in _KNOWN.items()} | {
    # RFC 3875 sections 4.1.2 and 4.1.3.
    b"content-type": "CONTENT_TYPE",
    b"content-length": "CONTENT_LENGTH",
    # A program that the application starts would take HTTP_PROXY for its own setting (CVE-2016-1000110).
    b"proxy": "",
}


def add_headers(environ: dict[str, Any], headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Add the fields of a request; repeats are joined, and names with an underscore left out."""
    repeated: dict[str, list[str]] = {}
    known = KEYS.get
    for name, value in headers:
        key = known(name)
        if key is None:
            name = name.lower()  # servers send lower case; the specification lets nobody rely on that
            key = known(name)
            if key is None:
                # The hyphen becomes an underscore: a name that has one already would pass for another field.
                if b"_" in name:
                    continue
                key = "HTTP_" + name.upper().replace(b"-", b"_").decode("latin-1")
        if not key:
            continue
        if key not in environ:
            environ[key] = value.decode("latin-1")
        elif key in repeated:
            # Collected and joined once: appending to the text would cost the square of their number.
            repeated[key].append(value.decode("latin-1"))
        else:
            repeated[key] = [environ[key], value.decode("latin-1")]
    for key, values in repeated.items():
        # RFC 9110 section 5.3, but RFC 9113 section 8.2.3 for cookies.
        if key == "HTTP_COOKIE":
            environ[key] = "; ".join([value.rstrip("; ") for value in values])
        else:
            environ[key] = ",".join(values)
