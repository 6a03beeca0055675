"""Paths that clients send: what may be looked for below a directory, and where that really is.

Source: the reserved names of Microsoft's "Naming Files, Paths, and Namespaces". They are refused on every system, so
that a site behaves the same where it is written and where it runs.
"""

from __future__ import annotations

import os
import re
from typing import Final

__all__ = ["is_inside", "split_untrusted"]

# Controls, and what Unicode says breaks a line; what ends a name or names a drive, another stream of a file or another
# directory on Windows; surrogates, which stand for what is no text.
_NEVER: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\\\\:]")

# With any ending, or none: "aux.txt" is the device, too, and so is "aux .txt".
_DEVICE: Final = re.compile(r"(?:con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9¹²³]) *+(?:\..*)?", re.IGNORECASE)

# Longer than what systems take: 4096 bytes on Linux, 1024 on macOS, 32767 characters on Windows, 260 by default.
_MAX_LENGTH: Final = 4096


def split_untrusted(path: str) -> list[str] | None:
    """The names of a relative path, from the top down; ``None`` if it must not be looked for.

    That is: it leads upward or is absolute, has empty names (so that one file has one path), names that Windows
    takes for others or for devices, or characters that no name should have.
    """
    if len(path) > _MAX_LENGTH or _NEVER.search(path):
        return None
    names = path.split("/")
    for name in names:
        # ".", ".." and "" end with a dot, or with nothing.
        if not name or name[-1] in ". " or _DEVICE.fullmatch(name):
            return None
    return names


def is_inside(path: str, root: str) -> bool:
    """Whether one real path is below another one."""
    return path.startswith(root.rstrip(os.sep) + os.sep)
