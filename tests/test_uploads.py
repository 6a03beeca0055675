"""_uploads.py: files of a form, in memory and on disk."""

from __future__ import annotations

import csv
import io
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asgicore import BodyConsumedError, UploadFile
from asgicore._spool import Spool

CONTENT = bytes(range(256)) * 1024


@dataclass
class Head:
    """What the library says of a part."""

    name: str = "file"
    filename: str | None = "a.bin"
    content_type: str | None = "text/plain"
    charset: str | None = None
    headerlist: list[tuple[str, str]] = field(default_factory=lambda: [("X-A", "1"), ("X-A", "2")])


Make = Callable[..., UploadFile]


@pytest.fixture(params=["memory", "disk"])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    """Makes files that stand in the middle of what is kept."""
    spools: list[Spool] = []

    def make(content: bytes = CONTENT, **head: Any) -> UploadFile:
        around = b"before" + content + b"after"
        kept: bytes | Spool = around
        if request.param == "disk":
            kept = Spool(SpooledTemporaryFile())
            spools.append(kept)
            kept.write([around])
        return UploadFile(Head(**head), kept, len(b"before"), len(content))

    yield make
    for spool in spools:
        spool.close()


def test_upload_of_a_part_says_what_the_client_said(make: Make) -> None:
    """Names, type, header fields and size."""
    upload = make(filename="../étage.bin")
    assert (upload.name, upload.filename, upload.content_type, upload.size) == (
        "file",
        "../étage.bin",
        "text/plain",
        len(CONTENT),
    )
    assert upload.headers.getall("x-a") == ["1", "2"]
    assert upload.headers is upload.headers
    assert repr(upload) == "<UploadFile '../étage.bin' 'text/plain' 262144 bytes>"


@pytest.mark.parametrize(
    ("filename", "content", "expected"), [("", b"", False), ("a", b"", True), ("", b"x", True), ("a", b"x", True)]
)
def test_upload_without_a_chosen_file_is_false(make: Make, filename: str, content: bytes, expected: bool) -> None:
    """Browsers send an empty name and no content where no file was chosen."""
    assert bool(make(content, filename=filename)) is expected


def test_upload_without_content_type_has_none(make: Make) -> None:
    """It is empty, and nothing is guessed."""
    assert make(content_type=None).content_type == ""


async def test_upload_reads_as_files_do(make: Make) -> None:
    """Piece by piece from the position on, and never what stands before and after it."""
    upload = make()
    assert await upload.read(10) == CONTENT[:10]
    assert await upload.read() == CONTENT[10:]
    assert await upload.read() == await upload.read(5) == b""
    assert await upload.seek(-4, os.SEEK_END) == len(CONTENT) - 4
    assert await upload.read(100) == CONTENT[-4:]
    assert await upload.seek(1) == 1
    assert await upload.seek(2, os.SEEK_CUR) == 3
    assert await upload.read(200_000) == CONTENT[3:200_003]


async def test_upload_file_has_the_position_of_the_upload(make: Make) -> None:
    """``file`` is for synchronous code, and the same file."""
    upload = make()
    assert upload.file is upload.file
    assert upload.file.read(3) == CONTENT[:3]
    assert await upload.read(3) == CONTENT[3:6]
    assert upload.file.tell() == 6
    assert upload.file.readable()
    assert upload.file.seekable()


def test_upload_file_is_read_by_the_standard_library(make: Make) -> None:
    """Text, lines and large reads."""
    upload = make(b"id,name\r\n1,Ada\r\n" * 1000)
    rows = list(csv.reader(io.TextIOWrapper(upload.file, "utf-8", newline="")))
    assert len(rows) == 2000
    assert rows[1] == ["1", "Ada"]


@pytest.mark.parametrize("position", [-1, -7])
async def test_upload_seek_before_the_start_is_refused(make: Make, position: int) -> None:
    """As files do."""
    upload = make()
    with pytest.raises(ValueError, match=r"negative|-\d"):
        await upload.seek(position)


async def test_upload_beyond_its_end_is_empty(make: Make) -> None:
    """A position may be anywhere; there is nothing to be read."""
    upload = make()
    assert await upload.seek(10**9) == 10**9
    assert await upload.read(5) == await upload.read() == b""


@settings(max_examples=100)
@given(st.lists(st.tuples(st.sampled_from(["read", "set", "current", "end"]), st.integers(-300, 300)), max_size=12))
def test_upload_on_disk_behaves_as_a_file_in_memory(steps: list[tuple[str, int]]) -> None:
    """Any sequence of reads and seeks gives what ``BytesIO`` gives."""
    content = bytes(range(200))
    spool = Spool(SpooledTemporaryFile())
    try:
        spool.write([b"xx" + content + b"yy"])
        file = UploadFile(Head(), spool, 2, len(content)).file
        model = io.BytesIO(content)
        for step, number in steps:
            if step == "read":
                assert file.read(number if number >= 0 else -1) == model.read(number if number >= 0 else -1)
            else:
                whence = {"set": os.SEEK_SET, "current": os.SEEK_CUR, "end": os.SEEK_END}[step]
                size = {"set": 0, "current": model.tell(), "end": len(content)}[step]
                if size + number < 0:
                    continue  # BytesIO goes to the start then, files refuse it
                assert file.seek(number, whence) == model.seek(number, whence)
        assert file.tell() == model.tell()
    finally:
        spool.close()


async def test_upload_saves_all_of_it_whatever_its_position(make: Make, tmp_path: Path) -> None:
    """What is there is replaced, and the position stays."""
    upload = make()
    await upload.seek(1000)
    path = tmp_path / "saved"
    path.write_bytes(b"x" * 10**6)
    await upload.save(path)
    assert path.read_bytes() == CONTENT
    assert await upload.read(1) == CONTENT[1000:1001]
    upload.save_nowait(str(path) + "2")
    assert path.with_name("saved2").read_bytes() == CONTENT


async def test_upload_that_cannot_be_saved_raises(make: Make, tmp_path: Path) -> None:
    """The error of the system comes through."""
    with pytest.raises(FileNotFoundError):
        await make().save(tmp_path / "missing" / "saved")


async def test_upload_on_disk_is_read_in_worker_threads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The event loop never touches the disk."""
    threads = set()
    read_at = Spool.read_at

    def noticed(self: Spool, offset: int, size: int) -> bytes:
        threads.add(threading.current_thread())
        return read_at(self, offset, size)

    monkeypatch.setattr(Spool, "read_at", noticed)
    spool = Spool(SpooledTemporaryFile())
    try:
        spool.write([CONTENT])
        upload = UploadFile(Head(), spool, 0, len(CONTENT))
        await upload.read(10)
        await upload.seek(0)
        await upload.read()
        await upload.save(tmp_path / "saved")
    finally:
        spool.close()
    assert threads
    assert threading.main_thread() not in threads


async def test_upload_on_disk_is_read_by_several_tasks_at_once() -> None:
    """Files that share a temporary file do not move each other's positions."""
    spool = Spool(SpooledTemporaryFile())
    contents: list[bytes | bytearray] = [bytes([number]) * 100_000 for number in range(4)]
    spool.write(contents)
    got: dict[int, bytes] = {}

    async def read(number: int) -> None:
        upload = UploadFile(Head(), spool, number * 100_000, 100_000)
        pieces = []
        while piece := await upload.read(30_000):
            pieces.append(piece)
        got[number] = b"".join(pieces)

    try:
        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                for number in range(4):
                    group.start_soon(read, number)
    finally:
        spool.close()
    assert [got[number] for number in range(4)] == contents


async def test_upload_on_disk_after_the_request_says_so(tmp_path: Path) -> None:
    """What is closed cannot be read: an error that says what to do, also for synchronous code."""
    spool = Spool(SpooledTemporaryFile())
    spool.write([CONTENT])
    upload = UploadFile(Head(), spool, 0, len(CONTENT))
    file = upload.file
    spool.close()
    with pytest.raises(BodyConsumedError, match="the request is over"):
        await upload.read()
    with pytest.raises(BodyConsumedError, match="the request is over"):
        await upload.save(tmp_path / "saved")
    with pytest.raises(ValueError, match="the request is over"):
        file.read()
    assert not os.listdir(tmp_path)
