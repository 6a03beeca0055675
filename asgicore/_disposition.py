"""The ``content-disposition`` of a response: whether to show or to save it, and under which name.

Source: RFC 6266 sections 4 and appendix D, RFC 8187 section 3.2.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote

from .errors import InvalidHeaderError

__all__ = ["build_disposition"]

_NAME: Final = "content-disposition"

# C0, DEL, C1, and what Unicode says breaks a line: no name has them, and whoever shows or logs one may obey them.
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")

# Marks, embeddings, overrides and isolates of direction: with them "gpj.exe" is shown as "exe.jpg".
_DIRECTION: Final = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")

# What stands in a quoted-string as it is and is the same to all: "\" begins an escape that many do not know, and
# some take "%" for the beginning of one.
_PLAIN: Final = re.compile(r"[\x20-\x7e]+")
_ODD: Final = re.compile(r'["\\%/]|[^\x20-\x7e]')

# RFC 8187 section 3.2.1: attr-char, besides letters and digits
_ATTR_CHARS: Final = "!#$&+-.^_`|~"


def build_disposition(disposition: str, filename: str | None = None) -> str:
    """The value of the field.

    Of ``filename`` the last part counts, after any ``/`` and ``\\``; what changes the direction of text is left out.
    A name that is not plain ASCII goes out twice: escaped as RFC 8187 says, and before it, for clients that do not
    know that, as ASCII that comes near it.

    Args:
        disposition: ``"inline"`` or ``"attachment"``.
        filename: What the client is to call it.

    Raises:
        InvalidHeaderError: The name is empty, or holds a control character or a surrogate.
        ValueError: ``disposition`` is neither of the two.
    """
    if disposition not in ("inline", "attachment"):
        raise ValueError(f"disposition is 'inline' or 'attachment', not {disposition!r}")
    if filename is None:
        return disposition
    name = _clean(filename)
    if _PLAIN.fullmatch(name) and not _ODD.search(name):
        return f'{disposition}; filename="{name}"'
    # Imported where it is used: most names are ASCII.
    from unicodedata import combining, normalize

    near = _ODD.sub("_", "".join(char for char in normalize("NFKD", name) if not combining(char)))
    near = near if near.strip(". ") else "_"
    return f"{disposition}; filename=\"{near}\"; filename*=UTF-8''{quote(name, safe=_ATTR_CHARS)}"


def _clean(filename: str) -> str:
    if not isinstance(filename, str):
        raise InvalidHeaderError(_NAME, f"the file name must be str, not {type(filename).__name__}")
    if (illegal := _CONTROL.search(filename)) is not None:
        raise InvalidHeaderError(_NAME, f"the file name holds {illegal.group()!r}; leave control characters out")
    if _SURROGATE.search(filename):
        raise InvalidHeaderError(_NAME, "the file name holds a surrogate, which has no UTF-8 form; replace it")
    name = _DIRECTION.sub("", filename.replace("\\", "/").rpartition("/")[2]).strip(" ")
    if name in ("", ".", ".."):
        raise InvalidHeaderError(_NAME, f"the file name {filename!r} names no file")
    return name
