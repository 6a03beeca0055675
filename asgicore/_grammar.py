"""Patterns, each under the rule that it compiles.

Only fixed-width classes and single repetitions: nothing here can backtrack.
"""

from __future__ import annotations

import re
from typing import Final

# RFC 9110 section 5.6.2: token = 1*tchar
TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")

# RFC 9110 section 5.5: field-value holds VCHAR, SP, HTAB and obs-text (0x80-0xFF); CR, LF, NUL and the other
# controls must not be sent. Text outside latin-1 has no encoding in a header. U+0085 is refused as well: it is a
# line break to whoever reads the field as text.
NOT_FIELD_VALUE: Final = re.compile(r"[^\t\x20-\x7e\x80-\x84\x86-\xff]")
NOT_FIELD_VALUE_BYTES: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")

# RFC 9110 section 8.6: Content-Length = 1*DIGIT. Fifteen digits are a petabyte: enough, and far below the
# length at which CPython's int() gets slow or refuses.
CONTENT_LENGTH: Final = re.compile(rb"[0-9]{1,15}")

# RFC 6265 section 4.1.1: cookie-octet = %x21 / %x23-2B / %x2D-3A / %x3C-5B / %x5D-7E; the whole value may
# stand in double quotes.
COOKIE_VALUE: Final = re.compile(
    r'[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*|"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*"'
)

# RFC 6265 section 4.1.1: path-value = any CHAR except CTLs or ";"
COOKIE_PATH: Final = re.compile(r"[\x20-\x3a\x3c-\x7e]*")

# RFC 1034 section 3.5 with the underscore and the leading dot that are seen in the wild.
COOKIE_DOMAIN: Final = re.compile(r"[A-Za-z0-9._\-]+")

# RFC 9110 section 7.2: Host = uri-host [ ":" port ], RFC 3986 section 3.2.2: IP-literal / IPv4address / reg-name.
# reg-name is percent-encoded, unreserved and sub-delims; the literal is checked no further than its alphabet.
HOST: Final = re.compile(r"(?:\[[A-Za-z0-9\-._~!$&'()*+,;=:%]+\]|[A-Za-z0-9\-._~!$&'()*+,;=%]+)(?::[0-9]{0,5})?")

# Controls that no request target may hold (RFC 3986 section 2: URIs are printable ASCII), looked for in the
# decoded path, where %0a has become a newline.
# RFC 3986 section 2: a URL is made of printable ASCII.
NOT_URL: Final = re.compile(rb"[^\x21-\x7e]")

PATH_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")

# RFC 2046 section 5.1.1: boundary = 0*69<bchars> bcharsnospace. Clients are not held to bchars, only to ASCII.
BOUNDARY: Final = re.compile(r"[\x20-\x7e]{0,69}[\x21-\x7e]")
