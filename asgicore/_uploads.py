"""The files of a form: ranges of what was received, in memory or on disk."""

from __future__ import annotations

import io
import os
import shutil
from typing import BinaryIO, cast

from multidict import CIMultiDict, CIMultiDictProxy

from ._multipart_library import Segment
from ._spool import BATCH_BYTES, Spool, in_file_thread
from .errors import BodyConsumedError

__all__ = ["UploadFile", "part_headers"]

# As much as a small read takes from the disk at once.
_BUFFER_BYTES = 64 * 2**10

_OVER = "the request is over and its files closed; read or save what you need before the endpoint returns"


def part_headers(segment: Segment) -> CIMultiDictProxy[str]:
    """The header fields of a part, every repeat in order."""
    return CIMultiDictProxy(CIMultiDict(segment.headerlist))


class _Range(io.RawIOBase):
    """A range of a spooled file, as a file of its own that can be read; others read theirs meanwhile."""

    def __init__(self, spool: Spool, start: int, size: int) -> None:
        self._spool = spool
        self._start = start
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        if position < 0:
            raise ValueError(f"negative seek position {position}")
        self._position = position
        return position

    def readinto(self, buffer: object, /) -> int:
        with memoryview(cast("bytearray", buffer)).cast("B") as view:
            block = self._read(len(view))
            view[: len(block)] = block
        return len(block)

    def readall(self) -> bytes:
        return self._read(self._size)

    def _read(self, size: int) -> bytes:
        if self._spool.is_closed:
            raise ValueError(_OVER)
        size = min(size, self._size - self._position)
        block = self._spool.read_at(self._start + self._position, size) if size > 0 else b""
        self._position += len(block)
        return block


class UploadFile:
    """A file that a form brought.

    False where no file was chosen: browsers then send an empty name and nothing more.
    """

    __slots__ = ("_content", "_file", "_headers", "_segment", "_start", "size")

    size: int
    """In bytes."""

    def __init__(self, segment: Segment, content: bytes | Spool, start: int, size: int) -> None:
        self._segment = segment
        self._content = content
        self._start = start
        self._file: BinaryIO | None = None
        self._headers: CIMultiDictProxy[str] | None = None
        self.size = size

    @property
    def name(self) -> str:
        """The name of the field."""
        return self._segment.name

    @property
    def filename(self) -> str:
        """The name of the file as it was sent, ``""`` if none was chosen.

        A stranger's text, good to be shown and never a path: it may hold ``../``, controls, or a name that is taken.
        """
        return self._segment.filename or ""

    @property
    def content_type(self) -> str:
        """The media type in lower case and without parameters, as the client says; ``""`` if it says none."""
        return self._segment.content_type or ""

    @property
    def headers(self) -> CIMultiDictProxy[str]:
        """The header fields of the part."""
        if self._headers is None:
            self._headers = part_headers(self._segment)
        return self._headers

    @property
    def file(self) -> BinaryIO:
        """The content as a binary file to be read, in synchronous code: a large one is on disk.

        Its position is that of ``read()`` and ``seek()``.
        """
        if self._file is None:
            self._file = self._open()
        return self._file

    def _open(self) -> BinaryIO:
        if isinstance(self._content, bytes):
            return io.BytesIO(self._content[self._start : self._start + self.size])
        return io.BufferedReader(_Range(self._content, self._start, self.size), _BUFFER_BYTES)

    async def read(self, size: int = -1) -> bytes:
        """Return up to ``size`` bytes from the position on, ``b""`` at the end; all that is left if it is negative.

        Raises:
            BodyConsumedError: The file is on disk and the request is over.
        """
        if isinstance(self._content, bytes):
            return self.file.read(size)
        self._check_open()
        return await in_file_thread(self.file.read, size)

    async def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a position, as files do; returns it."""
        if isinstance(self._content, bytes):
            return self.file.seek(offset, whence)
        return await in_file_thread(self.file.seek, offset, whence)

    async def save(self, path: str | os.PathLike[str]) -> None:
        """Write the whole file to ``path``, in a worker thread; what is there is replaced.

        Cancelled, it has written everything or not begun.

        Raises:
            OSError: It cannot be written; a part of it may be there.
            BodyConsumedError: As ``read()``.
        """
        await in_file_thread(self.save_nowait, path)

    def save_nowait(self, path: str | os.PathLike[str]) -> None:
        """As ``save()``, in a synchronous endpoint."""
        self._check_open()
        with open(path, "wb") as out:
            shutil.copyfileobj(self._open(), out, BATCH_BYTES)

    def _check_open(self) -> None:
        if isinstance(self._content, Spool) and self._content.is_closed:
            raise BodyConsumedError(_OVER)

    def __bool__(self) -> bool:
        return bool(self._segment.filename) or self.size > 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.filename!r} {self.content_type!r} {self.size} bytes>"
