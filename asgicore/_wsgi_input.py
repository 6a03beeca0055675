"""``wsgi.input`` over a body that is still coming.

Source: PEP 3333 "Input and Error Streams".
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, Final

__all__ = ["open_input"]

# A body message has 64 KiB at most from the servers in use; a line is looked for in as much.
_BUFFER_BYTES: Final = 65536


class _RawInput(io.RawIOBase):
    """The parts of a body as a raw stream.

    What ``receive_part`` raised is raised again by every later read: a body that broke off never ends.
    """

    def __init__(self, receive_part: Callable[[], bytes]) -> None:
        self._receive_part: Callable[[], bytes] | None = receive_part
        self._rest = memoryview(b"")
        self._error: BaseException | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        target = memoryview(buffer)
        part = self._rest or memoryview(self._next_part())
        size = min(len(part), len(target))
        target[:size] = part[:size]
        self._rest = part[size:]
        return size

    def readall(self) -> bytes:
        # Not by way of readinto: nothing is gained from cutting a body into buffers and joining it again.
        parts = [bytes(self._rest)]
        self._rest = memoryview(b"")
        while part := self._next_part():
            parts.append(part)
        return b"".join(parts)

    def _next_part(self) -> bytes:
        """The next part, ``b""`` at the end of the body and ever after."""
        if self._error is not None:
            raise self._error.with_traceback(None)
        if self._receive_part is None:
            return b""
        try:
            part = self._receive_part()
        except BaseException as exc:
            self._error = exc
            raise
        if not part:
            self._receive_part = None
        return part

    def close(self) -> None:
        # The error's traceback leads back to here.
        self._error = self._receive_part = None
        super().close()


def open_input(receive_part: Callable[[], bytes]) -> io.BufferedReader:
    """A buffered reader over a body, for one thread.

    Args:
        receive_part: Waits for the next part of the body; ``b""`` is its end, after which it is not called again. It
            raises :class:`asgicore.ClientDisconnectedError` if the client left first. What it raises, every later
            read raises, too.

    Close it when the request is over.
    """
    return io.BufferedReader(_RawInput(receive_part), _BUFFER_BYTES)
