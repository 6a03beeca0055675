"""Files on disk as bodies: opened, read and closed in worker threads, in as few hops as can be.

Source: POSIX open() for what ``O_NONBLOCK`` does; RFC 9110 section 6.4 for bodies that fall short.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable
from io import FileIO
from threading import Lock
from typing import Final, TypeVar, TypeVarTuple

from ._paths import is_inside
from ._ranges import Segment
from ._spool import BATCH_BYTES, BLOCK_BYTES, in_file_thread
from .errors import ContentLengthError, ResponseStateError

__all__ = ["FileBlocks", "find_under", "is_missing", "open_regular"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# Opening a FIFO would wait for its other end; a terminal must not become ours.
_FLAGS: Final = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)
_NOFOLLOW: Final[int] = getattr(os, "O_NOFOLLOW", 0)

# To look further from there: Linux wants no permission to read for it.
_FOLDER: Final[int] = getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_PATH", os.O_RDONLY)

# What it means that there is no such file for us: not there, not a file, not readable, not a path at all.
_MISSING: Final = frozenset(
    (
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EACCES,
        errno.EPERM,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.EINVAL,
        errno.ENXIO,
        errno.ENODEV,
    )
)


def is_missing(error: Exception) -> bool:
    """Whether an error of opening is about this path, and not about the machine."""
    # ValueError: a NUL, or a character that the system has no bytes for.
    return isinstance(error, ValueError) or (isinstance(error, OSError) and error.errno in _MISSING)


def open_regular(path: str, flags: int = 0, folder: int | None = None) -> tuple[FileIO, os.stat_result]:
    """Open a file for reading, without waiting for anything but the disk; returns it with its status.

    Args:
        path: Of the file; seen from ``folder``, if that is given.
        flags: More of them.
        folder: The descriptor of a directory.

    Raises:
        OSError: It is missing, unreadable or not a regular file.
        ValueError: It cannot be the path of a file.
    """
    descriptor = os.open(path, _FLAGS | flags, dir_fd=folder)
    try:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "Not a regular file", path)
        return FileIO(descriptor, "rb"), status
    except BaseException:
        os.close(descriptor)
        raise


def find_under(real_root: str, names: list[str]) -> str:
    """The real path of a file below a directory, which itself is given by its real path.

    Raises:
        OSError: There is no such file, or it is elsewhere.
    """
    path = os.path.realpath(os.path.join(real_root, *names), strict=True)
    if not is_inside(path, real_root):
        raise OSError(errno.ELOOP, "A symbolic link leads out of the directory", path)
    return path


def open_real(real_root: str, path: str) -> tuple[FileIO, os.stat_result]:
    """As ``open_regular()``, for a path that ``find_under()`` has found.

    Opened one name after the other, each in the directory that was opened before: no link is followed that was put
    into the path meanwhile, and none that comes and goes.

    Raises:
        OSError: As there; also if there is such a link.
        ValueError: As there.
    """
    if os.open not in os.supports_dir_fd:  # pragma: no cover - Windows
        return _open_unmoved(path)
    *folders, name = path.removeprefix(real_root).strip(os.sep).split(os.sep)
    folder = os.open(real_root, _FOLDER)
    try:
        for below in folders:
            outer, folder = folder, os.open(below, _FOLDER | _NOFOLLOW, dir_fd=folder)
            os.close(outer)
        return open_regular(name, _NOFOLLOW, folder)
    finally:
        os.close(folder)


def _open_unmoved(path: str) -> tuple[FileIO, os.stat_result]:  # pragma: no cover - Windows
    file, status = open_regular(path)
    try:
        if os.path.realpath(path) != path or not os.path.samestat(os.lstat(path), status):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
    except BaseException:
        file.close()
        raise
    return file, status


def _size_of(segments: Iterable[Segment]) -> int:
    return sum(len(segment) if isinstance(segment, bytes) else segment[1] for segment in segments)


class FileBlocks:
    """A body made of pieces of a file and of bytes; itself its iterator.

    Whatever touches the disk is called in a worker thread, one at a time.
    """

    __slots__ = ("_is_stopped", "_left", "_lock", "_ready", "_size", "file")

    file: FileIO | None
    """The file while it is open."""

    def __init__(self) -> None:
        self.file = None
        self._lock = Lock()
        self._is_stopped = False
        # Both from the last to the first, so that they are taken from the end.
        self._left: list[Segment] | None = None
        self._ready: list[bytes] = []
        self._size = 0

    # --- in a worker thread --------------------------------------------------------------------------

    def hold(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Call what uses the file; if the loop has given it up meanwhile, it is closed afterwards."""
        try:
            with self._lock:
                return function(*args)
        finally:
            if self._is_stopped:
                self.stop()

    def begin(self, segments: Iterable[Segment], *, reads: bool) -> None:
        """Say what the body is made of.

        Args:
            segments: ``bytes``, and (offset, count) of the file.
            reads: Whether to read the first blocks at once, and a small file whole.

        Raises:
            OSError: The file cannot be read.
            ContentLengthError: It is shorter than it was.
        """
        self._left = list(segments)[::-1]
        self._size = _size_of(self._left)
        if reads:
            self._read()

    def whole(self) -> bytes | None:
        """The body, if all of it was read and goes into one message; it is then not given again."""
        if self._left or self._size > BLOCK_BYTES:
            return None
        body, self._ready = b"".join(self._ready[::-1]), []
        return body

    def _read(self) -> None:
        """Read the next blocks, 1 MiB in all, and close the file after the last one."""
        file, left = self.file, self._left
        if file is None or left is None:
            raise ResponseStateError("the file of this response is not open: send the response through the engine")
        blocks: list[bytes] = []
        room = BATCH_BYTES
        while left and room > 0:
            segment = left.pop()
            if isinstance(segment, bytes):
                blocks.append(segment)
                room -= len(segment)
                continue
            offset, count = segment
            missing = min(count, room)
            if missing < count:
                left.append((offset + missing, count - missing))
            room -= missing
            file.seek(offset)
            while missing:
                block = file.read(min(missing, BLOCK_BYTES))
                if not block:
                    raise self._fell_short(missing)
                missing -= len(block)
                blocks.append(block)
        if not left:
            self.close()
        self._ready = blocks[::-1]

    def _fell_short(self, missing: int) -> ContentLengthError:
        error = ContentLengthError(self._size, self._size - missing - _size_of(self._left or ()))
        error.add_note("The file got shorter while it was being sent; put a new file in its place (os.replace).")
        return error

    def close(self) -> None:
        """Close the file, if it is open."""
        if self.file is not None:
            file, self.file = self.file, None
            file.close()

    # --- on the event loop ---------------------------------------------------------------------------

    def __aiter__(self) -> FileBlocks:
        return self

    async def __anext__(self) -> bytes:
        if not self._ready:
            if self._left is not None and not self._left:
                raise StopAsyncIteration
            await in_file_thread(self.hold, self._read)
        return self._ready.pop()

    async def aclose(self) -> None:
        """Close the file, and forget what was read."""
        self._ready = []
        if self.file is not None:
            await in_file_thread(self.hold, self.close)

    def stop(self) -> None:
        """Close the file without waiting: at once, or as soon as the thread that is at it is done."""
        self._is_stopped = True
        if self._lock.acquire(blocking=False):
            try:
                self.close()
            finally:
                self._lock.release()
