"""Responses that run ahead of their clients by way of the disk, so that a thread is free when its application is done.

Every part has its place in the queue of a pump. One that finds no room in memory is written to a temporary file, by the
thread that gives it, and something small keeps its place. When its turn comes, it is read by a thread for files.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import contextmanager
from tempfile import TemporaryFile
from threading import Lock
from time import monotonic
from typing import IO, Any, Final, cast

from .._pump import PART_BYTES, Producing, Put
from .._spool import BATCH_BYTES, BLOCK_BYTES, in_file_thread
from .._threads import Threads
from ._input import Conversation

__all__ = ["Overflowing"]

logger = logging.getLogger("asgicore")

# How long a producer waits for room in memory, in all: no file is made for a client that takes what comes at once, such
# as a proxy on the same machine, though a thread may be faster still.
_PATIENCE_SECONDS: Final = 0.1


class _OnDisk:
    """The place of parts that follow each other in the file."""

    __slots__ = ("size",)

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return 0  # what a pump counts


class Overflowing(Conversation):
    """A conversation whose producer waits for the consumer only where memory and file are both full.

    Args:
        threads: As for ``Pump``.
        produce: As for ``Pump``.
        stream: As for ``Conversation``.
        max_disk_bytes: How large the file may get, which is begun anew when all of it was taken; ``None``: any size.
    """

    __slots__ = (
        "_blocks",
        "_disk",
        "_end",
        "_file",
        "_left",
        "_max_disk_bytes",
        "_patience_seconds",
        "_taken",
        "_turn",
    )

    def __init__(
        self,
        threads: Threads,
        produce: Callable[[Put], None],
        stream: Callable[[], AsyncIterator[bytes]],
        max_disk_bytes: int | None,
    ) -> None:
        super().__init__(threads, produce, stream)
        # The producer's own.
        self._patience_seconds = _PATIENCE_SECONDS
        # Whoever waits for the disk holds the first: a quick producer would always be back before a reader.
        self._turn = Lock()
        # This guards what follows. The loop never waits for it, for it is held while the disk is at work.
        self._disk = Lock()
        self._max_disk_bytes = max_disk_bytes
        self._file: IO[bytes] | None = None
        self._end = 0
        self._taken = 0
        # The consumer's own: what was read, in reverse order, and how much of this place is still to be taken.
        self._blocks: list[bytes] = []
        self._left = 0

    # --- in the worker -------------------------------------------------------------------------------

    def _pass_on(self, part: Any, cost: int) -> None:
        # A question of the producer's waits for its turn, as it would without a file: the client may answer it only
        # when it has got what was given before.
        if not (isinstance(part, bytes) and self._is_full(cost) and self._put_on_disk(part)):
            super()._pass_on(part, cost)

    def _is_full(self, cost: int) -> bool:
        """Whether there is no room in memory, as long as it is worth to wait for that."""
        with self._lock:
            while self._ahead and self._ahead + cost > self._max_bytes and not self._is_closed:
                if self._patience_seconds <= 0:
                    return True
                self._needed = cost
                began = monotonic()
                self._wait(self._patience_seconds)
                self._patience_seconds -= monotonic() - began
        return False

    def _put_on_disk(self, part: bytes) -> bool:
        """Write a part to the file; ``False`` if that has no room for it, or nobody takes parts any more."""
        try:
            with self._at_the_disk():
                limit = self._max_disk_bytes
                if self._is_closed or (limit is not None and self._end + len(part) > limit):
                    return False
                try:
                    self._write(part)
                except OSError as exc:
                    # What was written before is good, and this part is still here: it waits for room in memory.
                    self._max_disk_bytes = 0
                    logger.warning("a response is not spooled any further: %s", exc)
                    return False
                self._end += len(part)
                self._keep_place(len(part))
                return True
        finally:
            if self._is_closed:
                self._close_nowait()

    @contextmanager
    def _at_the_disk(self) -> Generator[None]:
        """Nobody else is at the file; whoever has waited longer comes first."""
        with self._turn:
            self._disk.acquire()
        try:
            yield
        finally:
            self._disk.release()

    def _write(self, part: bytes) -> None:
        file = self._file
        if file is None:
            file = self._file = TemporaryFile(buffering=0)
        file.seek(self._end)
        rest = memoryview(part)
        while rest:
            rest = rest[file.write(rest) :]

    def _keep_place(self, size: int) -> None:
        with self._lock:
            parts = cast("list[Any]", self._parts)
            if parts and isinstance(parts[-1], _OnDisk):
                parts[-1].size += size
            else:
                parts.append(_OnDisk(size))
                self._ahead += PART_BYTES
            waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.notify()

    # --- in a thread for files -----------------------------------------------------------------------

    def _read(self, size: int) -> None:
        """Read what comes next in the file, and close that after the last of it."""
        try:
            with self._at_the_disk():
                file = self._file
                if file is None:
                    return  # nobody takes parts any more
                file.seek(self._taken)
                self._taken += size
                blocks: list[bytes] = []
                while size:
                    block = file.read(min(size, BLOCK_BYTES))
                    if not block:
                        raise OSError(errno.EIO, "a temporary file is shorter than what was written to it")
                    blocks.append(block)
                    size -= len(block)
                # Kept, not returned: whoever waits for it may be cancelled, and ask again.
                self._blocks = blocks[::-1]
                if self._taken == self._end:
                    self._end = self._taken = 0
                    self._close_file()
        finally:
            if self._is_closed:
                self._close_nowait()

    def _close(self) -> None:
        with self._disk:
            self._close_file()

    def _close_file(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            file.close()

    # --- on the loop ---------------------------------------------------------------------------------

    async def __anext__(self) -> bytes | str:
        """As ``Conversation``; raises ``OSError`` if the file cannot be read."""
        while not self._left or self._is_closed:
            part = cast("object", await super().__anext__())
            if not isinstance(part, _OnDisk):
                return cast("bytes | str", part)
            self._left = part.size
        if not self._blocks:
            await in_file_thread(self._read, min(self._left, BATCH_BYTES))
            if self._is_closed:
                raise StopAsyncIteration
        block = self._blocks.pop()
        self._left -= len(block)
        return block

    def stop_thread(self) -> None:
        """As ``Pump``; the file is closed at once, or as soon as the thread that is at it is done."""
        super().stop_thread()
        self._close_nowait()

    def _close_nowait(self) -> None:
        if self._disk.acquire(blocking=False):
            try:
                self._close_file()
            finally:
                self._disk.release()

    async def aclose(self) -> None:
        """As ``Pump``; the file is closed by a thread for files, while the producer ends."""
        super().stop_thread()
        if self._file is not None:
            try:
                await in_file_thread(self._close)
            except GeneratorExit:
                self._close_nowait()
                raise  # nothing can be awaited any more
            except BaseException:
                self._close_nowait()
                await cast("Producing[None]", self._job).settle()
                raise
        await super().aclose()
