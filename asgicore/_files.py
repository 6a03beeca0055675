"""Open files as bodies of responses, for the bridges: read in worker threads, in large blocks."""

from __future__ import annotations

import os
import stat
from typing import Any

from ._spool import BATCH_BYTES, in_file_thread

__all__ = ["FileParts", "path_of", "regular_file_status"]


class FileParts:
    """So many bytes of a file, from where it stands, read where the engine reads files; itself its iterator.

    Args:
        file: Whatever has ``read``.
        size: How many bytes, at most.
        closed: What is closed with it, if it can be.
    """

    __slots__ = ("_closed", "_file", "_left")

    def __init__(self, file: Any, size: int, closed: object = None) -> None:
        self._file = file
        self._left = size
        self._closed = closed

    def __aiter__(self) -> FileParts:
        return self

    async def __anext__(self) -> bytes:
        size = min(self._left, BATCH_BYTES)
        block: bytes = await in_file_thread(self._file.read, size) if size else b""
        if not block:
            raise StopAsyncIteration
        self._left -= len(block)
        return block

    async def aclose(self) -> None:
        close = getattr(self._closed, "close", None)
        if close is not None:
            await in_file_thread(close)


def regular_file_status(file: Any) -> os.stat_result | None:
    """The status of a regular file; ``None`` for everything else that can be read."""
    try:
        status = os.fstat(file.fileno())
    except (AttributeError, OSError, TypeError, ValueError):
        return None
    return status if stat.S_ISREG(status.st_mode) else None


def path_of(file: Any, status: os.stat_result) -> str | None:
    """The absolute path of an open file; ``None`` if it has none any more."""
    name = getattr(file, "name", None)
    if not isinstance(name, str):
        return None
    path = os.path.abspath(name)
    try:
        return path if os.path.samestat(os.stat(path), status) else None
    except OSError:
        return None
