"""Parts of a response's body on their way to the writer: what they may be, and how they are cut."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias, cast

Chunks: TypeAlias = Callable[[bytes], Iterable[tuple[bytes, bool]]]
"""Cuts bytes into (chunk, is_last)."""


def slice_bytes(data: bytes, size: int) -> Iterable[tuple[bytes, bool]]:
    """Cut ``data`` into (chunk, is_last) of at most ``size`` bytes; empty data gives one ``(b"", True)``."""
    last = max(len(data) - size, 0)
    position = 0
    while position < last:
        yield data[position : position + size], False
        position += size
    yield data[position:] if position else data, True


def start_thread_of(parts: object) -> None:
    """Have what makes the parts begin, if a thread does: there may be no room for it."""
    # A name that no iterator of an application has by chance; isinstance() of a protocol takes 10 us on Python 3.11.
    start_thread = getattr(parts, "start_thread", None)
    if start_thread is not None:
        start_thread()


def stop_thread_of(parts: object) -> None:
    """Have the thread end that makes the parts, if one does, without waiting for it."""
    stop_thread = getattr(parts, "stop_thread", None)
    if stop_thread is not None:
        stop_thread()


def as_part(part: Any) -> bytes:
    """A part of a body as bytes.

    Raises:
        TypeError: It is neither ``bytes`` nor ``str``.
    """
    if isinstance(part, str):
        return part.encode()
    if isinstance(part, bytes):
        return part
    if isinstance(part, (bytearray, memoryview)):
        return bytes(cast("bytearray", part))
    raise TypeError(f"a streaming response takes parts of bytes or str, not {type(part).__name__}")
