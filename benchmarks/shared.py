"""What the applications of all peers have in common, so that no peer is given other work than the next."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from tempfile import SpooledTemporaryFile
from time import perf_counter, sleep
from typing import Any, BinaryIO

KIB = 2**10
MIB = 2**20
MESSAGE_BYTES = 64 * KIB
BIG_BYTES = 64 * MIB
MESSAGES = BIG_BYTES // MESSAGE_BYTES
SPOOL_BYTES = MIB
LIMIT_BYTES = 128 * MIB
"""The body limit of every peer that has one."""

HELLO = "Hello, world!"
PART = b"p" * 64
PARTS = 20_000
EVENTS = 20_000
BLOCK = bytes(range(256)) * (MESSAGE_BYTES // 256)
FILE_BYTES = 200 * MIB
FORM_FIELDS = 1000
FRESH_BYTES = MESSAGE_BYTES
FRESH_PARTS = MESSAGES

SMALL_FILE_BYTES = 16 * KIB

HEADER_NAMES = ("host", "user-agent", "accept-language")
QUERY_NAMES = tuple(f"field{index}" for index in range(10))
COOKIE_NAMES = tuple(f"cookie{index}" for index in range(5))


def summary(headers: Iterable[str], query: Iterable[str], cookies: Iterable[str]) -> dict[str, int]:
    """The answer of "inspect": wrong unless every value was read."""
    return {
        "headers": len("".join(headers)),
        "query": len("".join(query)),
        "cookies": len("".join(cookies)),
    }


@cache
def whole() -> bytes:
    """The body of the 64 MiB response."""
    return bytes(range(256)) * (BIG_BYTES // 256)


_folder = cache(lambda: tempfile.TemporaryDirectory(prefix="benchmarks-files-"))


@cache
def file(size: int = BIG_BYTES) -> str:
    """The path of a file in the page cache, with the bytes of ``whole()``; it goes with the process."""
    path = Path(_folder().name, f"{size}.bin")
    with path.open("wb") as written:
        for position in range(0, size, MESSAGE_BYTES):
            written.write(BLOCK[: size - position])
    return str(path)


FILES: dict[str, Callable[[], str]] = {"file": file, "file-small": lambda: file(SMALL_FILE_BYTES)}
"""Paths of files, by the name of the workload that sends them."""


async def parts() -> AsyncIterator[bytes]:
    """The body of the streaming response."""
    part = PART
    for _ in range(PARTS):
        yield part


def event_data(number: int) -> str:
    """The data of one event of a stream."""
    return f"event number {number} of some sixty bytes, which is what they mostly have"


async def events() -> AsyncIterator[str]:
    """The data of a stream of events."""
    for number in range(EVENTS):
        yield event_data(number)


def sync_parts() -> Iterator[bytes]:
    """The parts of the streaming response, from a synchronous generator."""
    part = PART
    for _ in range(PARTS):
        yield part


def sync_download() -> Iterator[bytes]:
    """The body of the 64 MiB response, in parts."""
    block = BLOCK
    for _ in range(MESSAGES):
        yield block


def sync_fresh() -> Iterator[bytes]:
    """Parts with bytes of their own, for figures of memory."""
    for index in range(FRESH_PARTS):
        yield b"%c" % (index & 127) * FRESH_BYTES


yielded: list[float] = []
"""When the generator of "first-byte" had its first part; when that of "left-parts" had each of its own."""


def sync_first() -> Iterator[bytes]:
    yielded.append(perf_counter())
    yield PART
    yield PART
    yield PART


LEFT_PARTS = 300
LEFT_SECONDS = 0.001


def sync_left() -> Iterator[bytes]:
    """Parts of a stream whose client leaves, each of which takes a while, and when they were there."""
    for _ in range(LEFT_PARTS):
        sleep(LEFT_SECONDS)
        yielded.append(perf_counter())
        yield PART


GENERATORS = {
    "sync-parts": sync_parts,
    "sync-download": sync_download,
    "sync-fresh": sync_fresh,
    "first-byte": sync_first,
    "left-parts": sync_left,
}
"""Synchronous generators, by the name of the workload that streams them."""


async def count(stream: AsyncIterable[bytes]) -> int:
    """Count the bytes of a streamed upload."""
    size = 0
    async for chunk in stream:
        size += len(chunk)
    return size


async def spool(stream: AsyncIterable[bytes]) -> int:
    """Write an upload to a spooled file and read it back; what peers without a spool of their own do."""
    with SpooledTemporaryFile(max_size=SPOOL_BYTES) as file:
        async for chunk in stream:
            file.write(chunk)
        file.seek(0)
        return read_back(file)


async def keep(stream: AsyncIterable[bytes]) -> int:
    """Write an upload to a spooled file, and leave it there."""
    with SpooledTemporaryFile(max_size=SPOOL_BYTES) as file:
        async for chunk in stream:
            file.write(chunk)
        return file.tell()


def read_back(file: BinaryIO | SpooledTemporaryFile[bytes]) -> int:
    """Count the bytes of a file."""
    size = 0
    while chunk := file.read(MESSAGE_BYTES):
        size += len(chunk)
    return size


cancelled: list[float] = []
"""When endpoints were cancelled that waited at the gate."""


class Gate:
    """Where the endpoints of "wait" wait."""

    open: Any
    """An event: set, they go on."""
    full: Any
    """An event: set when all that were expected wait."""

    def close(self, expected: int, event: Callable[[], Any]) -> None:
        self._missing = expected
        self.open, self.full = event(), event()

    async def wait(self) -> None:
        self._missing -= 1
        if self._missing == 0:
            self.full.set()
        try:
            await self.open.wait()
        except BaseException:
            cancelled.append(perf_counter())
            raise


gate = Gate()


class Crowd:
    """Where synchronous endpoints wait in their threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.close()

    def close(self) -> None:
        self.open = threading.Event()
        self.entered = 0

    def wait(self) -> None:
        with self._lock:
            self.entered += 1
        self.open.wait()


crowd = Crowd()
