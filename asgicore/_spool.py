"""Bodies too large for memory: a temporary file that only worker threads touch.

The standard library's ``SpooledTemporaryFile``: unnamed, mode 0600, and, unlike anyio's, safe after a failed
roll-over.
"""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Final, TypeVar, TypeVarTuple

from ._threads import Threads

if TYPE_CHECKING:
    from tempfile import SpooledTemporaryFile

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

BATCH_BYTES: Final = 2**20
"""What one hop to a worker thread writes or reads: at 1 MiB the hops cost a few percent, at 64 KiB they cost more
than the writing (200 MiB: 0.07 s and 0.24 s)."""

BLOCK_BYTES: Final = 65536
"""The usual body message: a block of this size that is read need not be cut, which copies."""

# How many parts one system call takes: Linux' limit; POSIX promises 16, and the systems in use 1024.
_IOV_MAX: Final = 1024

# Below this a part is copied into a buffer; a list of tiny parts would cost 20 times their size.
_COPY_BELOW: Final = 4096

# File operations have threads of their own, so that uploads and blocked application code cannot starve each other.
# None is refused, for the closing of a file is one, too.
_files: Final = Threads(40, max_waiting=None)


def new_file(max_bytes: int) -> SpooledTemporaryFile[bytes]:
    """A file that is in memory as long as it is not larger than this, or than a byte."""
    from tempfile import SpooledTemporaryFile

    return SpooledTemporaryFile(max_size=max(max_bytes, 1))


async def in_file_thread(function: Callable[[*Ts], T], *args: *Ts) -> T:
    """Run a file operation in a worker thread; it is finished or never begun when this returns or raises."""
    return await _files.run(function, *args)


class Parts:
    """Parts of a body in memory, in order: large ones as they came, small ones gathered."""

    __slots__ = ("_parts", "size")

    def __init__(self) -> None:
        self._parts: list[bytes | bytearray] = []
        self.size: int = 0

    def add(self, part: bytes) -> None:
        self.size += len(part)
        if len(part) >= _COPY_BELOW:
            self._parts.append(part)
        elif self._parts and isinstance(self._parts[-1], bytearray):
            self._parts[-1] += part
        else:
            self._parts.append(bytearray(part))

    def join(self) -> bytes:
        if len(self._parts) == 1 and isinstance(self._parts[0], bytes):
            return self._parts[0]
        return b"".join(self._parts)

    def take(self) -> list[bytes | bytearray]:
        """All parts; none are left."""
        parts, self._parts, self.size = self._parts, [], 0
        return parts


class Spool:
    """A body on disk. Every operation is a hop to a worker thread; operations do not overlap.

    ``file`` is what the application may get: its position is left where the application put it.
    """

    __slots__ = ("_lock", "file", "is_closed")

    def __init__(self, file: SpooledTemporaryFile[bytes]) -> None:
        self.file: SpooledTemporaryFile[bytes] = file
        self.is_closed: bool = False
        self._lock = threading.Lock()

    def write(self, parts: list[bytes | bytearray]) -> None:
        """Append to the file, before anybody else has it."""
        with self._lock:
            # Straight to the disk: write() would first copy everything to memory, holding the interpreter.
            self.file.rollover()
            if not hasattr(os, "writev"):  # pragma: no cover - Windows
                self.file.writelines(parts)
                return
            # One system call for a batch, a quarter cheaper than one for each part. The file's own buffer is
            # empty still, so that going round it loses nothing.
            descriptor = self.file.fileno()
            for first in range(0, len(parts), _IOV_MAX):
                left = [memoryview(part) for part in parts[first : first + _IOV_MAX]]
                while left:
                    written = os.writev(descriptor, left)
                    while left and written >= len(left[0]):
                        written -= len(left.pop(0))
                    if written:
                        left[0] = left[0][written:]

    def read_at(self, offset: int, size: int) -> bytes:
        """Read without moving the position that the application sees."""
        with self._lock:
            position = self.file.tell()
            try:
                self.file.seek(offset)
                return self.file.read(size)
            finally:
                self.file.seek(position)

    def rewind(self) -> None:
        with self._lock:
            self.file.seek(0)

    def close(self) -> None:
        with self._lock:
            self.is_closed = True
            self.file.close()


async def spool(parts: Parts, rest: AsyncGenerator[bytes, None], into: Spool, batch_bytes: int = BATCH_BYTES) -> None:
    """Write parts to ``into``, receiving the next batch while the last one is being written.

    Raises:
        OSError: The disk is full, or the like; the file is then of no use.
    """
    writing = _files.start(into.write, parts.take())
    try:
        async for part in rest:
            parts.add(part)
            if parts.size >= batch_bytes:
                await writing.wait()
                writing = _files.start(into.write, parts.take())
    except GeneratorExit:
        raise  # nothing can be awaited any more
    except BaseException:
        # Nobody has the file while a thread is at it.
        await writing.aclose()
        raise
    await writing.wait()
    if parts.size:
        await _files.run(into.write, parts.take())
