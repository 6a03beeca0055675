"""_file_response.py: a file on disk, conditional and in parts, as RFC 9110 sections 13 and 14 have it."""

from __future__ import annotations

import contextlib
import os
import random
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.parser import BytesParser
from email.policy import HTTP
from functools import partial
from gzip import decompress
from pathlib import Path
from time import thread_time, time
from typing import Any

import anyio
import pytest
from faults import dropped_at, dropped_when, on_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asgicore import (
    Compression,
    ContentLengthError,
    FileResponse,
    Handler,
    HTTPError,
    InvalidHeaderError,
    Limits,
    Request,
    Response,
    ResponseStateError,
    Threads,
    UsageError,
    _file_response,
    _spool,
)
from asgicore.testing import Channel, call, check_messages, http_scope

module: Any = _file_response

SIZE = 10_000
CONTENT = bytes(index * 7 % 251 for index in range(SIZE))
THEN = 784111777
DATE = b"Sun, 06 Nov 1994 08:49:37 GMT"
BEFORE = b"Sun, 06 Nov 1994 08:49:36 GMT"
AFTER = b"Sun, 06 Nov 1994 08:49:38 GMT"
BIG = 3 * 2**20 + 12_345
NOISE = random.Random(0).randbytes(BIG)

needs_links = pytest.mark.skipif(not hasattr(os, "symlink") or sys.platform == "win32", reason="needs symbolic links")
needs_fifo = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of 10,000 bytes, last changed at the date of RFC 9110's examples."""
    path = tmp_path / "file.bin"
    path.write_bytes(CONTENT)
    os.utime(path, (THEN, THEN))
    return path


@pytest.fixture
def big(tmp_path: Path) -> Path:
    """A file that takes four reads."""
    path = tmp_path / "big.bin"
    path.write_bytes(NOISE)
    os.utime(path, (THEN, THEN))
    return path


def open_below(folder: Path) -> list[str]:
    """The files below a folder that this process has open; none where that cannot be seen."""
    found = []
    for name in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ():
        with contextlib.suppress(OSError):  # that of the listing itself
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return [path for path in found if path.startswith(str(folder))]


@pytest.fixture(autouse=True)
def _all_closed(tmp_path: Path) -> Iterator[None]:
    """After every test nothing is open."""
    yield
    assert open_below(tmp_path) == []


def write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def real(path: Path) -> str:
    return os.path.realpath(path)


def content_of(path: Path | str) -> bytes:
    return Path(path).read_bytes()


def serve(*args: Any, **kwargs: Any) -> Handler:
    """A handler that answers with this file."""

    async def endpoint(request: Request) -> Response:
        return FileResponse(*args, **kwargs)

    return Handler(endpoint)


async def get(path: Any, *fields: tuple[bytes, bytes], method: str = "GET", **kwargs: Any) -> Channel:
    """The answer to a request with these fields."""
    channel = await call(serve(path, **kwargs), method=method, headers=[(b"host", b"x"), *fields])
    check_messages(channel.sent, method=method, complete=True)
    return channel


def field(channel: Channel, name: bytes) -> bytes | None:
    values = [value for key, value in channel.headers if key == name]
    assert len(values) <= 1
    return values[0] if values else None


def etag_of(path: Path) -> bytes:
    status = path.stat()
    return f'"{status.st_mtime_ns:x}-{status.st_size:x}-{status.st_ino:x}"'.encode()


# --- the whole -------------------------------------------------------------------------------------------


async def test_file_has_length_type_tag_date_and_offers_ranges(path: Path) -> None:
    """The head of a 200, and every byte after it."""
    channel = await get(path)
    assert channel.status == 200
    assert dict(channel.headers) == {
        b"content-type": b"application/octet-stream",
        b"etag": etag_of(path),
        b"last-modified": DATE,
        b"accept-ranges": b"bytes",
        b"content-length": b"10000",
    }
    assert channel.body == CONTENT


async def test_small_file_goes_out_in_one_message(path: Path) -> None:
    """It was read with the hop that opened it."""
    channel = await get(path)
    assert len(channel.sent) == 2


async def test_large_file_goes_out_in_messages_of_chunk_size(big: Path) -> None:
    """The reads are larger; nothing is lost or twice at their borders."""
    channel = await get(big)
    assert channel.body == content_of(big)
    assert {len(message["body"]) for message in channel.sent[1:-2]} == {65536}
    handler = serve(big)
    handler.chunk_size = 10_000
    smaller = await call(handler)
    assert smaller.body == channel.body
    assert max(len(message["body"]) for message in smaller.sent[1:]) == 10_000


async def test_empty_file_has_an_empty_body(tmp_path: Path) -> None:
    """And a length of zero."""
    (tmp_path / "empty.txt").touch()
    channel = await get(tmp_path / "empty.txt")
    assert (channel.status, channel.body, field(channel, b"content-length")) == (200, b"", b"0")


@pytest.mark.parametrize("size", [65535, 65536, 65537, 2**20 - 1, 2**20, 2**20 + 1])
async def test_file_of_critical_size_arrives_whole(tmp_path: Path, size: int) -> None:
    """Around the sizes of messages and reads."""
    (tmp_path / "file").write_bytes(NOISE[:size])
    channel = await get(tmp_path / "file")
    assert channel.body == content_of(tmp_path / "file")


async def test_path_is_text_or_a_path_and_may_be_relative(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What os.fspath() knows."""
    monkeypatch.chdir(path.parent)
    for given_path in (path, str(path), os.fsencode(path), "file.bin"):
        assert (await get(given_path)).body == CONTENT
    with pytest.raises(TypeError):
        FileResponse(None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("a.html", {}, b"text/html; charset=utf-8"),
        ("a.html", {"content_type": "text/x-other"}, b"text/x-other"),
        ("a.html", {"headers": {"content-type": "text/x-own"}}, b"text/x-own"),
        ("a.bin", {"filename": "a.pdf"}, b"application/pdf"),
        ("noending", {}, b"application/octet-stream"),
    ],
)
async def test_type_follows_from_the_name(
    tmp_path: Path, name: str, arguments: dict[str, Any], expected: bytes
) -> None:
    """The name that the client gets goes before that on disk; what is said, before both."""
    (tmp_path / name).touch()
    assert field(await get(tmp_path / name, **arguments), b"content-type") == expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, None),
        ({"filename": "a.txt"}, b'attachment; filename="a.txt"'),
        ({"filename": "a.txt", "disposition": "inline"}, b'inline; filename="a.txt"'),
        ({"disposition": "attachment"}, b"attachment"),
        ({"filename": "\u20ac.txt"}, b"attachment; filename=\"_.txt\"; filename*=UTF-8''%E2%82%AC.txt"),
        ({"headers": {"Content-Disposition": "inline"}}, b"inline"),
        ({"headers": {"Content-Disposition": "inline"}, "filename": "a"}, b'attachment; filename="a"'),
    ],
)
async def test_disposition_says_what_was_asked_for(
    path: Path, arguments: dict[str, Any], expected: bytes | None
) -> None:
    """A file with a name is saved, as with Starlette; without one, nothing is said."""
    assert field(await get(path, **arguments), b"content-disposition") == expected


async def test_disposition_of_plain_name_is_that_of_starlette(path: Path) -> None:
    """Whoever comes from there gets the same."""
    starlette = pytest.importorskip("starlette.responses")
    theirs = starlette.FileResponse(path, filename="report.pdf").headers["content-disposition"]
    assert field(await get(path, filename="report.pdf"), b"content-disposition") == theirs.encode()


@pytest.mark.parametrize("filename", ["a\r\nset-cookie: x=1", "a\0", "", "..", "a\udc80"])
def test_file_name_that_must_not_leave_raises_at_once(filename: str) -> None:
    """Where the name is given, and not when the response is sent."""
    with pytest.raises(InvalidHeaderError, match="content-disposition"):
        FileResponse("/file", filename=filename)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"disposition": "form-data"}, ValueError),
        ({"status_code": 99}, ValueError),
        ({"etag": "no quotes"}, InvalidHeaderError),
        ({"background": 1}, TypeError),
        ({"headers": {"content-length": "5"}}, InvalidHeaderError),
        ({"headers": {"content-range": "bytes 0-1/2"}}, InvalidHeaderError),
        ({"headers": {"x": "a\nb"}}, InvalidHeaderError),
    ],
)
def test_wrong_argument_raises_at_once(arguments: dict[str, Any], error: type[Exception]) -> None:
    """Before there is anything to close."""
    with pytest.raises(error):
        FileResponse("/file", **arguments)


async def test_fields_of_the_application_stay(path: Path) -> None:
    """Those that were given, those that were set, and its own tag and date."""

    async def endpoint(request: Request) -> Response:
        response = FileResponse(path, headers=[("x-one", "1"), ("accept-ranges", "none")])
        response.headers["cache-control"] = "no-cache"
        response.set_cookie("a", "b")
        response.set_etag("mine")
        response.last_modified = datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC)
        return response

    channel = await call(Handler(endpoint), headers=[(b"range", b"bytes=0-1")])
    assert channel.status == 200, "accept-ranges: none means none"
    fields = dict(channel.headers)
    assert fields[b"x-one"] == b"1"
    assert fields[b"cache-control"] == b"no-cache"
    assert fields[b"set-cookie"].startswith(b"a=b")
    assert fields[b"etag"] == b'"mine"'
    assert fields[b"last-modified"] == b"Sun, 09 Sep 2001 01:46:40 GMT"
    assert fields[b"accept-ranges"] == b"none"


async def test_length_that_is_set_later_is_refused(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It would disagree with the file, sooner or later."""

    async def endpoint(request: Request) -> Response:
        response = FileResponse(path)
        response.headers["content-length"] = "10000"
        return response

    assert (await call(Handler(endpoint))).status == 500
    assert "leave it out" in caplog.text


async def test_tag_of_content_is_refused(path: Path) -> None:
    """set_etag() without a value would have to read the file."""
    with pytest.raises(UsageError, match="value"):
        FileResponse(path).set_etag()


async def test_file_with_another_status_is_neither_conditional_nor_in_parts(path: Path) -> None:
    """RFC 9110 section 13.2.1: conditions are for answers that would be successful; a page of a 404 is none."""
    fields = [(b"range", b"bytes=0-1"), (b"if-none-match", b"*"), (b"if-match", b'"x"')]
    channel = await get(path, *fields, status_code=404)
    assert (channel.status, channel.body) == (404, CONTENT)
    assert field(channel, b"etag") is None
    assert field(channel, b"accept-ranges") is None


async def test_head_has_the_head_of_get(path: Path, big: Path) -> None:
    """RFC 9110 section 9.3.2: the same fields, and no body."""
    for name in (path, big):
        whole = await get(name)
        head = await get(name, method="HEAD")
        assert head.sent[0] == whole.sent[0]
        assert head.body == b""


async def test_synchronous_endpoint_returns_a_file(path: Path) -> None:
    """It is opened by the engine, in another thread."""

    def endpoint(request: Request) -> Response:
        return FileResponse(path)

    handler = Handler(endpoint)
    assert (await call(handler)).body == CONTENT
    await handler.threads.aclose()


async def test_file_response_is_an_application_of_its_own(path: Path) -> None:
    """``await response(scope, receive, send)``, with all of it."""
    assert (await call(FileResponse(path), headers=[(b"range", b"bytes=0-4")])).body == CONTENT[:5]
    assert (await call(FileResponse(path.parent / "none", missing_is_404=True))).status == 404


async def test_background_runs_after_files_parts_and_304(path: Path) -> None:
    """Whatever became of the file."""
    ran: list[bool] = []
    for fields in ([], [(b"range", b"bytes=0-1")], [(b"if-none-match", b"*")]):
        await get(path, *fields, background=lambda: ran.append(True))
    assert len(ran) == 3


async def test_file_response_that_is_sent_twice_raises(path: Path) -> None:
    """As a stream: build a new one for each request."""
    response = FileResponse(path)
    await call(response)
    with pytest.raises(ResponseStateError, match="once"):
        await call(response)


@pytest.mark.parametrize("names", [[], ["pathsend"], ["zerocopysend"]])
async def test_file_response_that_is_prepared_cannot_be_prepared_again(path: Path, names: list[str]) -> None:
    """Neither while it is being sent: the answer to another request would be made of the fields of this one."""
    scope = http_scope(extensions={f"http.response.{name}": {} for name in names})
    response = FileResponse(path)
    await response.prepare(scope)
    with pytest.raises(ResponseStateError, match="once"):
        await response.prepare(scope)
    await response.aclose()


async def test_body_without_the_engine_raises(path: Path) -> None:
    """Nobody has opened the file."""
    response = FileResponse(path)
    with pytest.raises(ResponseStateError, match="through the engine"):
        await anext(response.parts())
    await response.aclose()


# --- RFC 9110 sections 13 and 14 -------------------------------------------------------------------------

TAG = object()
"""In the table: the tag of the file."""


@pytest.mark.parametrize(
    ("method", "fields", "expected", "part"),
    [
        pytest.param("GET", [], 200, None, id="no condition"),
        pytest.param("GET", [("if-none-match", TAG)], 304, None, id="13.1.2 If-None-Match"),
        pytest.param("HEAD", [("if-none-match", TAG)], 304, None, id="13.1.2 HEAD"),
        pytest.param("GET", [("if-none-match", b'"x", *')], 200, None, id="13.1.2 malformed"),
        pytest.param("GET", [("if-none-match", b"*")], 304, None, id="13.1.2 anything"),
        pytest.param("GET", [("if-none-match", b'"x"')], 200, None, id="13.1.2 another"),
        pytest.param("POST", [("if-none-match", TAG)], 200, None, id="13.1.2 POST is not the file's to judge"),
        pytest.param("GET", [("if-modified-since", DATE)], 304, None, id="13.1.3 If-Modified-Since"),
        pytest.param("GET", [("if-modified-since", AFTER)], 304, None, id="13.1.3 later"),
        pytest.param("GET", [("if-modified-since", BEFORE)], 200, None, id="13.1.3 earlier"),
        pytest.param("GET", [("if-modified-since", b"x")], 200, None, id="13.1.3 malformed"),
        pytest.param(
            "GET", [("if-none-match", b'"x"'), ("if-modified-since", DATE)], 200, None, id="13.1.3 the tag leads"
        ),
        pytest.param("GET", [("if-match", TAG)], 200, None, id="13.1.1 If-Match"),
        pytest.param("GET", [("if-match", b'"x"')], 412, None, id="13.1.1 another"),
        pytest.param("HEAD", [("if-match", b'"x"')], 412, None, id="13.1.1 HEAD"),
        pytest.param("GET", [("if-unmodified-since", DATE)], 200, None, id="13.1.4 If-Unmodified-Since"),
        pytest.param("GET", [("if-unmodified-since", BEFORE)], 412, None, id="13.1.4 changed since"),
        pytest.param("GET", [("if-match", TAG), ("if-unmodified-since", BEFORE)], 200, None, id="13.2.2 the tag leads"),
        pytest.param("GET", [("if-match", TAG), ("if-none-match", TAG)], 304, None, id="13.2.2 the third step"),
        pytest.param("GET", [("range", b"bytes=0-499")], 206, (0, 500), id="14.2 Range"),
        pytest.param("GET", [("range", b"bytes=9500-")], 206, (9500, 500), id="14.2 to the end"),
        pytest.param("GET", [("range", b"bytes=-500")], 206, (9500, 500), id="14.2 suffix"),
        pytest.param("GET", [("range", b"bytes=0-")], 206, (0, SIZE), id="14.2 all of it"),
        pytest.param("GET", [("range", b"bytes=0-99,50-149")], 206, (0, 150), id="14.2 one is left when joined"),
        pytest.param("GET", [("range", b"bytes=10000-")], 416, None, id="15.5.17 nothing there"),
        pytest.param("GET", [("range", b"bytes=-0")], 416, None, id="15.5.17 nothing asked for"),
        pytest.param("GET", [("range", b"bytes=5-4")], 200, None, id="14.1.1 malformed is ignored"),
        pytest.param("GET", [("range", b"lines=0-4")], 200, None, id="14.2 another unit is ignored"),
        pytest.param("GET", [("range", b"bytes=0-,0-")], 200, None, id="14.2 more than the whole is ignored"),
        pytest.param("HEAD", [("range", b"bytes=0-4")], 200, None, id="14.2 for GET alone, HEAD"),
        pytest.param("HEAD", [("range", b"bytes=99999-")], 200, None, id="14.2 for GET alone, HEAD of nothing"),
        pytest.param("POST", [("range", b"bytes=0-4")], 200, None, id="14.2 for GET alone, POST"),
        pytest.param("GET", [("range", b"bytes=0-4"), ("if-range", TAG)], 206, (0, 5), id="13.1.5 If-Range"),
        pytest.param("GET", [("range", b"bytes=0-4"), ("if-range", b'"x"')], 200, None, id="13.1.5 another tag"),
        pytest.param("GET", [("range", b"bytes=0-4"), ("if-range", DATE)], 206, (0, 5), id="13.1.5 the date"),
        pytest.param("GET", [("range", b"bytes=0-4"), ("if-range", AFTER)], 200, None, id="13.1.5 another date"),
        pytest.param("GET", [("range", b"bytes=99999-"), ("if-range", b'"x"')], 200, None, id="13.1.5 before 416"),
        pytest.param("GET", [("if-range", b'"x"')], 200, None, id="13.1.5 without Range"),
        pytest.param("GET", [("range", b"bytes=0-4"), ("if-none-match", TAG)], 304, None, id="13.2.2 304 before 206"),
        pytest.param("GET", [("range", b"bytes=0-4"), ("if-match", b'"x"')], 412, None, id="13.2.2 412 before 206"),
        pytest.param("GET", [("range", b"bytes=0-4"), ("if-match", TAG)], 206, (0, 5), id="13.2.2 and then the range"),
        pytest.param(
            "GET", [("range", b"bytes=99999-"), ("if-none-match", TAG)], 304, None, id="13.2.2 304 before 416"
        ),
    ],
)
async def test_conditions_and_ranges_of_table_give_status_and_bytes(
    path: Path, method: str, fields: list[tuple[str, Any]], expected: int, part: tuple[int, int] | None
) -> None:
    """Status, body and the fields that belong to them."""
    sent = [(name.encode(), etag_of(path) if value is TAG else value) for name, value in fields]
    channel = await get(path, *sent, method=method)
    assert channel.status == expected
    length, content_range = field(channel, b"content-length"), field(channel, b"content-range")
    if expected == 200:
        assert channel.body == (b"" if method == "HEAD" else CONTENT)
        assert (length, content_range) == (b"10000", None)
    elif expected == 206:
        assert part is not None
        start, count = part
        assert channel.body == CONTENT[start : start + count]
        assert (length, content_range) == (b"%d" % count, b"bytes %d-%d/10000" % (start, start + count - 1))
    elif expected == 304:
        # RFC 9110 section 15.4.5: the validators, and nothing about the content that is not there.
        assert dict(channel.headers) == {b"etag": etag_of(path), b"last-modified": DATE}
    elif expected == 416:
        assert content_range == b"bytes */10000"
    if expected in (200, 206):
        assert field(channel, b"etag") == etag_of(path)
        assert field(channel, b"last-modified") == DATE
        assert field(channel, b"accept-ranges") == b"bytes"


async def test_304_keeps_what_caches_need(path: Path) -> None:
    """RFC 9110 section 15.4.5: what a 200 would say of caching; nothing of name and type."""
    fields = {"cache-control": "max-age=60", "vary": "cookie", "content-language": "en", "expires": "0"}
    channel = await get(path, (b"if-none-match", b"*"), headers=fields, filename="a.txt")
    assert {name for name, _ in channel.headers} == {b"cache-control", b"vary", b"expires", b"etag", b"last-modified"}


async def test_several_ranges_are_told_apart_by_a_boundary(path: Path) -> None:
    """RFC 9110 section 14.6, read by the standard library's parser of MIME."""
    channel = await get(path, (b"range", b"bytes=0-99,-100,5000-5049"), content_type="text/x-test")
    assert channel.status == 206
    assert field(channel, b"content-range") is None, "RFC 9110 section 15.3.7.2"
    kind = field(channel, b"content-type")
    assert kind is not None
    assert re.fullmatch(rb"multipart/byteranges; boundary=[0-9a-f]{32}", kind)
    assert field(channel, b"content-length") == b"%d" % len(channel.body)
    message = BytesParser(policy=HTTP.clone(utf8=True)).parsebytes(
        b"Content-Type: " + kind + b"\r\n\r\n" + channel.body
    )
    assert [(part["content-type"], part["content-range"]) for part in message.iter_parts()] == [
        ("text/x-test", "bytes 0-99/10000"),
        ("text/x-test", "bytes 9900-9999/10000"),
        ("text/x-test", "bytes 5000-5049/10000"),
    ]
    for start, stop in ((0, 100), (9900, 10000), (5000, 5050)):
        assert b"\r\n\r\n" + CONTENT[start:stop] + b"\r\n--" in channel.body
    other = field(await get(path, (b"range", b"bytes=0-99,-100")), b"content-type")
    assert other != kind, "a boundary that nobody knows before"


@pytest.mark.parametrize(
    ("range_", "status"), [(b"bytes=0-4", 206), (b"bytes=0-4,4-9", 206), (b"bytes=0-4,10-14", 200)]
)
async def test_several_ranges_of_an_encoded_file_are_the_whole_file(path: Path, range_: bytes, status: int) -> None:
    """The field content-encoding would say of the multipart body what is true of its parts alone."""
    channel = await get(path, (b"range", range_), headers={"content-encoding": "gzip"})
    assert (channel.status, field(channel, b"content-encoding")) == (status, b"gzip")
    assert field(channel, b"content-type") == b"application/octet-stream"
    assert status == 206 or channel.body == CONTENT


async def test_several_large_ranges_arrive_in_their_order(big: Path) -> None:
    """Each of more than one read, the later one first."""
    content = content_of(big)
    half = BIG // 2
    channel = await get(big, (b"range", b"bytes=%d-,0-%d" % (half + 10, half)))
    assert field(channel, b"content-length") == b"%d" % len(channel.body)
    first, second = channel.body.find(content[half + 10 :]), channel.body.find(content[: half + 1])
    assert 0 < first < second


SPEC = st.one_of(
    st.builds(lambda first, more: f"{first}-{first + more}", st.integers(0, 12_000), st.integers(0, 12_000)),
    st.integers(0, 12_000).map(lambda first: f"{first}-"),
    st.integers(1, SIZE).map(lambda last: f"-{last}"),
)
TAGS = st.sampled_from(["{tag}", "W/{tag}", '"x"', '"x", {tag}', '{tag}, W/"y"', "*"])
DATES = st.sampled_from([date.decode() for date in (BEFORE, DATE, AFTER)])
CONDITIONS = st.one_of(
    st.fixed_dictionaries({"If-Match": TAGS.filter(lambda tags: tags != "*")}),
    st.fixed_dictionaries({}, optional={"If-None-Match": TAGS, "If-Modified-Since": DATES}),
    st.fixed_dictionaries(
        {"Range": SPEC.map("bytes={}".format)}, optional={"If-Range": st.sampled_from(["{tag}", '"x"'])}
    ),
)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(conditions=CONDITIONS)
def test_conditions_and_ranges_are_those_of_werkzeug(path: Path, conditions: dict[str, str]) -> None:
    """With Werkzeug as the oracle, where it follows the RFC.

    Left to the table is where it does not: it does not know If-Unmodified-Since, takes ``If-Match: *`` for a tag and
    If-Match beside others in no order of section 13.2.2, answers a Range before it looks at If-None-Match, and finds
    a suffix of more bytes than there are, or of none, neither satisfiable nor to be ignored. Several ranges it
    answers with the whole, as it may.
    """
    environ = pytest.importorskip("werkzeug.test").EnvironBuilder
    unsatisfiable = pytest.importorskip("werkzeug.exceptions").RequestedRangeNotSatisfiable
    tag = etag_of(path).decode()
    headers = {name: value.replace("{tag}", tag) for name, value in conditions.items()}
    theirs = pytest.importorskip("werkzeug.wrappers").Response(CONTENT)
    theirs.set_etag(tag[1:-1])
    theirs.last_modified = datetime.fromtimestamp(THEN, UTC)
    try:
        theirs.make_conditional(environ(headers=list(headers.items())).get_environ(), True, SIZE)
        expected = theirs.status_code
    except unsatisfiable:
        expected = 416
    fields = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    ours = anyio.run(lambda: get(path, *fields))
    assert ours.status == expected
    if expected == 206:
        assert field(ours, b"content-range") == theirs.headers["content-range"].encode()
        assert ours.body == theirs.get_data()


# --- validators ------------------------------------------------------------------------------------------


async def test_tag_changes_with_content_time_and_file(path: Path) -> None:
    """Size, time and number of the file: each alone is enough."""
    seen = {field(await get(path), b"etag")}
    write(path, CONTENT + b"x")
    os.utime(path, (THEN, THEN))
    seen.add(field(await get(path), b"etag"))
    os.utime(path, ns=(THEN * 10**9, THEN * 10**9 + 1))
    seen.add(field(await get(path), b"etag"))
    other = path.with_name("other")
    write(other, CONTENT + b"x")
    os.utime(other, ns=(THEN * 10**9, THEN * 10**9 + 1))
    os.replace(other, path)
    seen.add(field(await get(path), b"etag"))
    assert len(seen) == 4
    assert not any(tag is None or tag.startswith(b"W/") for tag in seen)


async def test_tag_of_a_file_that_changed_just_now_is_weak(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 9110 section 8.8.1: within what its clock tells apart it may change again, and keep its time."""
    for age, is_strong in ((0, False), (1.9, False), (2, True), (-5, False)):
        monkeypatch.setattr(module, "time", lambda now=THEN + age: now)
        channel = await get(path)
        tag = field(channel, b"etag")
        assert tag is not None
        assert tag == (b"" if is_strong else b"W/") + etag_of(path)
        # Section 13.1.5: neither is strong enough to join parts then.
        for validator in (tag, DATE):
            part = await get(path, (b"range", b"bytes=0-4"), (b"if-range", validator))
            assert part.status == (206 if is_strong else 200)
        assert (await get(path, (b"if-none-match", tag))).status == 304
        assert (await get(path, (b"if-match", tag))).status == (200 if is_strong else 412)


async def test_date_of_a_file_of_the_future_is_that_of_the_answer(path: Path) -> None:
    """RFC 9110 section 8.8.2.1."""
    os.utime(path, (time() + 10**6, time() + 10**6))
    channel = await get(path)
    value = field(channel, b"last-modified")
    assert value is not None
    date = datetime.strptime(value.decode(), "%a, %d %b %Y %H:%M:%S GMT").replace(tzinfo=UTC).timestamp()
    assert abs(date - time()) < 60


async def test_file_from_before_1970_has_its_date(path: Path) -> None:
    """Times below zero are times."""
    os.utime(path, ns=(-1, -1))
    assert field(await get(path), b"last-modified") == b"Wed, 31 Dec 1969 23:59:59 GMT"


async def test_tag_is_given_or_left_out(path: Path) -> None:
    """A tag of the application's own, with its quotes, or none."""
    assert field(await get(path, etag='"v1"'), b"etag") == b'"v1"'
    assert field(await get(path, etag='W/"v1"', headers={"etag": '"v0"'}), b"etag") == b'W/"v1"'
    assert (await get(path, (b"if-none-match", b'"v1"'), etag='"v1"')).status == 304
    assert field(await get(path, etag=False), b"etag") is None
    assert (await get(path, (b"if-none-match", etag_of(path)), etag=False)).status == 200
    assert (await get(path, (b"if-modified-since", DATE), etag=False)).status == 304


# --- what is no file -------------------------------------------------------------------------------------


def _directory(folder: Path) -> Path:
    return folder


def _missing(folder: Path) -> Path:
    return folder / "none"


def _below_a_file(folder: Path) -> Path:
    (folder / "file").touch()
    return folder / "file" / "below"


def _loop(folder: Path) -> Path:
    (folder / "loop").symlink_to("loop")
    return folder / "loop"


def _too_long(folder: Path) -> Path:
    return folder / ("a" * 300)


def _nul(folder: Path) -> Path:
    return folder / "a\0b"


def _fifo(folder: Path) -> Path:
    os.mkfifo(folder / "fifo")
    return folder / "fifo"


def _device(folder: Path) -> Path:
    return Path("/dev/null")


def _endless(folder: Path) -> Path:
    return Path("/dev/zero")


def _socket(folder: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as listener:
        # Such names are short, and the folder's is not.
        before = Path.cwd()
        os.chdir(folder)
        try:
            listener.bind("s")
        finally:
            os.chdir(before)
    return folder / "s"


@needs_fifo
@needs_links
@pytest.mark.parametrize(
    "make", [_directory, _missing, _below_a_file, _loop, _too_long, _nul, _fifo, _device, _endless, _socket]
)
async def test_path_of_no_regular_file_is_an_error_or_a_404(
    tmp_path: Path, make: Callable[[Path], Path], caplog: pytest.LogCaptureFixture
) -> None:
    """Without waiting for anything: a clear error that is logged, or a 404 that is not."""
    path = make(tmp_path)
    for method in ("GET", "HEAD"):
        caplog.clear()
        answer = await get(path, method=method)
        assert answer.status == 500
        assert "missing_is_404" in caplog.text
        caplog.clear()
        answer = await get(path, method=method, missing_is_404=True)
        assert answer.status == 404
        assert not caplog.records
        assert str(path).encode() not in answer.body


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
async def test_unreadable_file_is_an_error_or_a_404(path: Path) -> None:  # pragma: no cover - not where root tests
    """As what is missing."""
    os.chmod(path, 0)
    assert (await get(path)).status == 500
    assert (await get(path, missing_is_404=True)).status == 404


async def test_unreadable_file_is_an_error_or_a_404_whoever_we_are(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As what is missing; the system says no, and not the file."""

    def refuse(*_: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(module, "open_regular", refuse)
    assert (await get(path)).status == 500
    assert (await get(path, missing_is_404=True)).status == 404


async def test_machine_that_is_out_of_descriptors_is_no_404(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is there."""

    def refuse(*_: Any) -> Any:
        raise OSError(24, "Too many open files", str(path))

    monkeypatch.setattr(module, "open_regular", refuse)
    assert (await get(path, missing_is_404=True)).status == 500


# --- below a directory -----------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory with a file, beside one with a secret, and links of all kinds."""
    root = tmp_path / "top"
    (root / "sub").mkdir(parents=True)
    (root / "a.txt").write_text("a")
    (root / "sub" / "b.txt").write_text("b")
    (tmp_path / "topside").mkdir()
    (tmp_path / "topside" / "secret").write_text("secret")
    (tmp_path / "secret").write_text("secret")
    if sys.platform != "win32":
        (root / "inside").symlink_to("sub/b.txt")
        (root / "inside-far").symlink_to(root / "sub")
        (root / "outside").symlink_to(tmp_path / "secret")
        (root / "outside-dir").symlink_to(tmp_path / "topside")
        (root / "up").symlink_to("..")
        (root / "loop").symlink_to("loop")
        (root / "dangling").symlink_to("nothing")
        (tmp_path / "link-to-root").symlink_to(root)
    return root


async def under(root: Any, untrusted: str, **more: Any) -> Channel:
    async def endpoint(request: Request) -> Response:
        return FileResponse.under(root, untrusted, **more)

    channel = await call(Handler(endpoint))
    check_messages(channel.sent, complete=True)
    return channel


@needs_links
@pytest.mark.parametrize(
    ("untrusted", "expected"),
    [("a.txt", b"a"), ("sub/b.txt", b"b"), ("inside", b"b"), ("inside-far/b.txt", b"b"), ("up/top/a.txt", b"a")],
)
async def test_file_below_the_root_is_sent(root: Path, untrusted: str, expected: bytes) -> None:
    """Also by links, as long as they end within it."""
    for base in (root, str(root), root.parent / "link-to-root", root / "sub" / ".."):
        channel = await under(base, untrusted)
        assert (channel.status, channel.body) == (200, expected)


@needs_links
@pytest.mark.parametrize(
    "untrusted",
    [
        "outside",
        "outside-dir/secret",
        "up/secret",
        "up/topside/secret",
        "loop",
        "dangling",
        "sub",
        "none",
        "a.txt/x",
        "",
        ".",
        "..",
        "../secret",
        "sub/../../secret",
        "../top/a.txt",
        "/etc/passwd",
        "//etc/passwd",
        "a.txt\0",
        "\0",
        "..\\secret",
        "C:\\secret",
        "c:secret",
        "a.txt::$DATA",
        "a.txt.",
        "a.txt ",
        "a.txt/",
        "sub//b.txt",
        "./a.txt",
        "con",
        "nul.txt",
        "a\udcff",
        "a" * 5000,
        "a" * 300,
        "\r\nx: y",
        "\u2028",
    ],
)
async def test_path_that_leads_elsewhere_is_a_404(root: Path, untrusted: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever it is that it leads to, and nothing is logged for whoever tries."""
    for disposition in (None, "attachment"):
        channel = await under(root, untrusted, disposition=disposition)
        assert channel.status == 404
        assert b"secret" not in channel.body
    assert not caplog.records


async def test_untrusted_path_is_refused_where_it_is_given(root: Path) -> None:
    """No file is looked for."""
    with pytest.raises(HTTPError, match="404"):
        FileResponse.under(root, "../secret")


async def test_missing_root_is_an_error(tmp_path: Path) -> None:
    """Not of the client's."""
    assert (await under(tmp_path / "none", "a.txt")).status == 500


async def test_arguments_of_a_file_below_are_those_of_a_file(root: Path) -> None:
    """The type follows from the client's name for it."""
    channel = await under(
        root, "a.txt", headers={"x": "1"}, filename="b.html", disposition="inline", etag='"1"', background=lambda: None
    )
    assert (
        dict(channel.headers).items()
        >= {
            b"content-type": b"text/html; charset=utf-8",
            b"content-disposition": b'inline; filename="b.html"',
            b"etag": b'"1"',
            b"x": b"1",
        }.items()
    )
    assert dict((await under(root, "a.txt")).headers)[b"content-type"] == b"text/plain; charset=utf-8"


@needs_links
@pytest.mark.parametrize("swapped", ["file", "directory"])
async def test_link_that_is_put_in_between_is_not_followed(
    root: Path, swapped: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at the path and the opening: what counts is what was opened."""
    find = module.find_under

    def find_then_swap(real_root: str, names: list[str]) -> str:
        found: str = find(real_root, names)
        if swapped == "file":
            (root / "sub" / "b.txt").unlink()
            (root / "sub" / "b.txt").symlink_to(root.parent / "secret")
        else:
            (root / "sub").rename(root / "was")
            (root.parent / "topside" / "b.txt").write_text("secret")
            (root / "sub").symlink_to(root.parent / "topside")
        return found

    monkeypatch.setattr(module, "find_under", find_then_swap)
    assert (await under(root, "sub/b.txt")).status == 404


@needs_links
async def test_link_that_comes_and_goes_is_not_followed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks at the path sees a directory, whoever opens it would be led out: no look tells what was opened."""
    (root.parent / "topside" / "b.txt").write_text("secret")
    (root / "link").symlink_to(root.parent / "topside")
    realpath: Any = os.path.realpath

    def swap() -> None:
        (root / "sub").rename(root / "was")
        (root / "link").rename(root / "sub")
        (root / "was").rename(root / "link")

    def realpath_between(*args: Any, **kwargs: Any) -> str:
        if (root / "sub").is_symlink():
            swap()
        found: str = realpath(*args, **kwargs)
        swap()
        return found

    monkeypatch.setattr(os.path, "realpath", realpath_between)
    channel = await under(str(root), "sub/b.txt")
    assert (channel.status, b"secret" in channel.body) == (404, False)


@needs_links
@pytest.mark.skipif(not hasattr(os, "O_PATH"), reason="needs directories that can be passed without being read")
async def test_directory_that_may_be_passed_and_not_listed_is_passed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by its path: a directory on the way is not opened for reading."""
    flags = []
    open_ = os.open

    def noted(path: Any, flag: int, *args: Any, **kwargs: Any) -> int:
        if flag & os.O_DIRECTORY:
            flags.append(flag & os.O_PATH)
        return open_(path, flag, *args, **kwargs)

    monkeypatch.setattr(os, "open", noted)
    monkeypatch.setattr(os, "supports_dir_fd", {noted})
    assert (await under(root, "sub/b.txt")).body == b"b"
    assert flags == [os.O_PATH, os.O_PATH]


# --- files that change, clients that leave ---------------------------------------------------------------


class Interfering(Channel):
    """A server during whose n-th send something happens."""

    def __init__(self, number: int, act: Callable[[], Any]) -> None:
        async def on_send(index: int, _: Any) -> None:
            if index == number:
                act()

        super().__init__(on_send=on_send)


@pytest.mark.parametrize("rest", [0, 5, 2**20, BIG - 1])
async def test_file_that_shrinks_aborts_the_response(big: Path, rest: int, caplog: pytest.LogCaptureFixture) -> None:
    """It is never ended as if it were whole; the error tells both lengths."""
    channel = Interfering(1, lambda: os.truncate(big, rest))
    with anyio.fail_after(5), pytest.raises(ContentLengthError) as caught:
        await serve(big)(http_scope(), channel.receive, channel.send)
    check_messages(channel.sent, complete=False)
    assert caught.value.declared == BIG
    # The first MiB was read when the file was opened.
    assert caught.value.actual == max(rest, 2**20)
    assert "shorter" in caught.value.__notes__[0]


async def test_file_that_shrinks_within_a_range_aborts_the_response(big: Path) -> None:
    """The length is that of the answer."""
    channel = Interfering(1, lambda: os.truncate(big, 0))
    scope = http_scope(headers=[(b"range", b"bytes=5-2500000,2600000-2600009")])
    with anyio.fail_after(5), pytest.raises(ContentLengthError):
        await serve(big)(scope, channel.receive, channel.send)
    check_messages(channel.sent, complete=False)


async def test_file_that_shrinks_before_anything_is_sent_is_a_500(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Between the look at its length and the first read."""
    open_regular = module.open_regular

    def open_then_cut(name: str) -> Any:
        opened = open_regular(name)
        os.truncate(path, 10)
        return opened

    monkeypatch.setattr(module, "open_regular", open_then_cut)
    assert (await get(path)).status == 500
    assert "10000 bytes, the body has 10" in caplog.text


async def test_file_that_grows_is_cut_at_the_declared_length(big: Path) -> None:
    """As long as it was when it was opened."""
    content = content_of(big)

    def grow() -> None:
        with big.open("ab") as file:
            file.write(bytes(2**20))

    channel = Interfering(1, grow)
    with anyio.fail_after(5):
        await serve(big)(http_scope(), channel.receive, channel.send)
    check_messages(channel.sent, complete=True)
    assert channel.body == content


async def test_file_that_is_replaced_is_sent_as_it_was(big: Path) -> None:
    """What was opened, and no mixture."""
    content = content_of(big)
    other = big.with_name("other")
    other.write_bytes(bytes(BIG))
    channel = Interfering(1, lambda: os.replace(other, big))
    with anyio.fail_after(5):
        await serve(big)(http_scope(), channel.receive, channel.send)
    assert channel.body == content


@pytest.mark.parametrize("tells", ["event", "raise", "both"])
@pytest.mark.parametrize("at", [0, 1, 2, 17, 20])
@pytest.mark.parametrize("fields", [[], [(b"range", b"bytes=1-2999999,3000001-")]], ids=["whole", "parts"])
async def test_client_that_leaves_has_the_file_closed(
    big: Path, tells: Any, at: int, fields: list[tuple[bytes, bytes]]
) -> None:
    """At once, wherever the response was; counted after every test."""

    async def on_send(index: int, _: Any) -> None:
        if index == at:
            server.disconnect()

    server = Channel(tells=tells, suspends=True, on_send=on_send)
    with anyio.fail_after(5):
        await serve(big)(http_scope(headers=fields), server.receive, server.send)
    check_messages(server.sent, complete=False)


@pytest.mark.parametrize("at", [0, 1, 20])
async def test_send_that_fails_has_the_file_closed(big: Path, at: int) -> None:
    """Whatever it fails with."""

    async def on_send(index: int, _: Any) -> None:
        if index == at:
            raise RuntimeError("a bug of the server")

    channel = Channel(on_send=on_send)
    with anyio.fail_after(5), pytest.raises(RuntimeError, match="a bug"):
        await serve(big)(http_scope(), channel.receive, channel.send)


@pytest.mark.parametrize("blocks", ["open", "read", "close"])
async def test_cancellation_while_a_thread_is_at_the_file_closes_it(
    big: Path, blocks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread ends first, and what it has opened is not lost with its result."""
    entered, leave = threading.Event(), threading.Event()

    def wait_there() -> None:
        entered.set()
        assert leave.wait(5)

    if blocks == "open":
        open_regular = module.open_regular

        def slow_open(name: str) -> Any:
            opened = open_regular(name)
            wait_there()
            return opened

        monkeypatch.setattr(module, "open_regular", slow_open)
    else:
        name = "_read" if blocks == "read" else "close"
        slow = getattr(module.FileBlocks, name)

        def slowly(self: Any) -> None:
            wait_there()
            slow(self)

        monkeypatch.setattr(module.FileBlocks, name, slowly)
    channel = Channel()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(serve(big), http_scope(), channel.receive, channel.send)
            while not entered.is_set():
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
            leave.set()


@pytest.mark.parametrize("at", [0, 1, 20])
async def test_request_that_the_loop_throws_away_closes_the_file(big: Path, at: int) -> None:
    """Nothing can be awaited any more."""
    waits: list[bool] = []

    async def on_send(index: int, _: Any) -> None:
        if index == at:
            assert open_below(big.parent)
            waits.append(True)
            await anyio.lowlevel.checkpoint()

    channel = Channel(on_send=on_send)
    with anyio.fail_after(5):
        await dropped_when(serve(big)(http_scope(), channel.receive, channel.send), lambda: bool(waits))


@on_asyncio
@pytest.mark.parametrize("names", [[], ["pathsend"], ["zerocopysend"]])
@pytest.mark.parametrize("fields", [[], [(b"accept-encoding", b"gzip")], [(b"if-none-match", b"*")]])
async def test_request_that_is_thrown_away_wherever_it_waits_closes_the_file(
    big: Path, names: list[str], fields: list[tuple[bytes, bytes]]
) -> None:
    """Also where it has been answered and cleans up: nothing is awaited then."""

    async def endpoint(request: Request) -> Response:
        return FileResponse(big, content_type="text/plain")

    app = Handler(endpoint, compression=Compression(encodings=["gzip"]))
    scope = http_scope(headers=fields, extensions={f"http.response.{name}": {} for name in names})
    number = 0
    is_under_way = True
    with anyio.fail_after(20):
        while is_under_way:
            number += 1
            channel = Channel(suspends=number % 2 == 0)
            is_under_way = await dropped_at(app(scope, channel.receive, channel.send), number)
            while open_below(big.parent):  # until the thread that is at the file is done
                await anyio.lowlevel.checkpoint()
    # What is answered by 304 may find its thread done at once.
    assert number > (0 if (b"if-none-match", b"*") in fields else 2)


@on_asyncio
async def test_request_that_is_thrown_away_while_no_thread_is_free_closes_the_file(
    big: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The closing that waits for a thread never runs."""
    threads = Threads(1)
    monkeypatch.setattr(_spool, "_files", threads)
    leave = threading.Event()
    busy: list[Any] = []

    async def on_send(index: int, _: Any) -> None:
        if index == 1:
            busy.append(threads.start(leave.wait))
            raise ConnectionResetError

    for names in ([], ["zerocopysend"]):
        channel = Channel(on_send=on_send)
        scope = http_scope(extensions={f"http.response.{name}": {} for name in names})
        is_time = partial(getattr, threads, "waiting")
        with anyio.fail_after(5):
            await dropped_when(serve(big)(scope, channel.receive, channel.send), is_time)
        assert open_below(big.parent) == []
        leave.set()
        await busy.pop().wait()
        leave.clear()
    await threads.aclose()


@on_asyncio
async def test_request_that_is_thrown_away_while_a_thread_opens_the_file_closes_it(
    big: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the thread, as soon as it is done."""
    entered, leave, closed = threading.Event(), threading.Event(), threading.Event()
    open_regular, close = module.open_regular, module.FileBlocks.close

    def slow_open(name: str) -> Any:
        opened = open_regular(name)
        entered.set()
        assert leave.wait(5)
        return opened

    def noted(self: Any) -> None:
        was_open = self.file is not None
        close(self)
        if was_open:
            closed.set()

    monkeypatch.setattr(module, "open_regular", slow_open)
    monkeypatch.setattr(module.FileBlocks, "close", noted)
    channel = Channel()

    def is_time() -> bool:
        return entered.wait(5)

    with anyio.fail_after(5):
        await dropped_when(serve(big)(http_scope(), channel.receive, channel.send), is_time)
    assert open_below(big.parent)
    leave.set()
    assert closed.wait(5)


async def test_response_that_is_never_sent_opens_nothing(path: Path) -> None:
    """And has nothing to close."""
    FileResponse(path)
    response = FileResponse(path)
    await response.aclose()
    response.close_nowait()


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_response_that_is_prepared_and_not_sent_is_closed(big: Path, method: str) -> None:
    """By either way of closing."""
    for is_patient in (True, False):
        response = FileResponse(big)
        assert await response.prepare(http_scope(method=method)) is response
        if is_patient:
            await response.aclose()
        else:
            response.close_nowait()


# --- files that the server sends -------------------------------------------------------------------------


class Offering(Channel):
    """A server that sends files by itself: fills in what it was told to send."""

    async def send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.pathsend":
            message = {"type": "http.response.body", "body": content_of(message["path"]), "told": "path"}
        elif message["type"] == "http.response.zerocopysend":
            assert not message["file"].closed
            body = os.pread(message["file"].fileno(), message["count"], message["offset"])
            message = {"type": "http.response.body", "body": body, "more_body": message["more_body"], "told": "file"}
        await super().send(message)

    @property
    def kinds(self) -> list[str]:
        return [message.get("told", "body") for message in self.sent[1:]]


async def offered(app: Any, *names: str, **scope: Any) -> Offering:
    extensions: dict[str, Any] = {f"http.response.{name}": {} for name in names}
    channel = Offering()
    with anyio.fail_after(5):
        await app(http_scope(extensions=extensions, **scope), channel.receive, channel.send)
    return channel


@pytest.mark.parametrize(
    ("names", "fields", "told"),
    [
        (["pathsend"], [], ["path"]),
        (["pathsend"], [(b"range", b"bytes=0-4")], ["body"]),
        (["pathsend", "zerocopysend"], [], ["path"]),
        (["pathsend", "zerocopysend"], [(b"range", b"bytes=0-4")], ["file", "body"]),
        (["zerocopysend"], [], ["file", "body"]),
        (["zerocopysend"], [(b"range", b"bytes=5-9")], ["file", "body"]),
        (["zerocopysend"], [(b"range", b"bytes=0-4,10-14")], ["body", "file", "body", "file", "body", "body"]),
        (["early_hint"], [], ["body"]),
    ],
)
async def test_server_that_sends_files_is_told_to(
    path: Path, names: list[str], fields: list[tuple[bytes, bytes]], told: list[str]
) -> None:
    """Whole files by their path, parts by their place; the same bytes as without."""
    channel = await offered(serve(path), *names, headers=fields)
    assert channel.kinds == told
    alone = await get(path, *fields)
    boundary = re.compile(rb"[0-9a-f]{32}")
    assert boundary.sub(b"", channel.body) == boundary.sub(b"", alone.body)
    assert [name for name, _ in channel.headers] == [name for name, _ in alone.headers]


@pytest.mark.parametrize("names", [["pathsend"], ["zerocopysend"]])
async def test_server_that_sends_files_gets_no_body_for_head_and_304(path: Path, names: list[str]) -> None:
    """RFC 9110 sections 9.3.2 and 15.4.5."""
    for scope in ({"method": "HEAD"}, {"headers": [(b"if-none-match", b"*")]}):
        channel = await offered(serve(path), *names, **scope)
        assert channel.kinds == ["body"]
        assert channel.body == b""


@needs_links
async def test_server_is_told_the_real_path_of_a_file_below(root: Path) -> None:
    """It opens the path again, and need not follow links."""

    async def endpoint(request: Request) -> Response:
        return FileResponse.under(root, "inside-far/b.txt")

    channel = await call(Handler(endpoint), extensions={"http.response.pathsend": {}})
    assert channel.sent[1]["path"] == real(root / "sub" / "b.txt")


async def test_path_that_the_server_is_told_is_absolute(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ASGI extension "http.response.pathsend"."""
    monkeypatch.chdir(path.parent)
    response = FileResponse("file.bin")
    await response.prepare(http_scope(extensions={"http.response.pathsend": {}}))
    assert response.path == str(path)
    await response.aclose()


async def test_send_response_that_wraps_send_gets_the_bytes(big: Path) -> None:
    """A hook that looks at every message is told of no file, also for HEAD."""
    seen: list[str] = []

    class Counting(Handler):
        async def send_response(self, response: Response, send: Any) -> None:
            async def counted(message: Any) -> None:
                seen.append(message["type"])
                await send(message)

            await super().send_response(response, counted)

    async def endpoint(request: Request) -> Response:
        return FileResponse(big)

    channel = await offered(Counting(endpoint), "pathsend", "zerocopysend")
    assert channel.body == content_of(big)
    assert "http.response.pathsend" not in seen
    head = await offered(Counting(endpoint), "pathsend", method="HEAD")
    assert head.body == b""


# --- compression -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [5_000, BIG])
@pytest.mark.parametrize("names", [[], ["pathsend", "zerocopysend"]], ids=["read", "offered"])
async def test_file_that_is_compressed_arrives_whole(tmp_path: Path, size: int, names: list[str]) -> None:
    """By whichever way it would have gone; its parts are those of the file as it is, and are not compressed."""
    text = tmp_path / "a.txt"
    write(text, b"some text, " * (size // 11))
    os.utime(text, (THEN, THEN))

    async def endpoint(request: Request) -> Response:
        return FileResponse(text)

    handler = Handler(endpoint, compression=Compression(encodings=["gzip"]))
    gzip = (b"accept-encoding", b"gzip")
    channel = await offered(handler, *names, headers=[gzip])
    assert field(channel, b"content-encoding") == b"gzip"
    assert field(channel, b"etag") == b"W/" + etag_of(text)
    assert decompress(channel.body) == content_of(text)
    part = await offered(handler, *names, headers=[gzip, (b"range", b"bytes=0-3")])
    assert (part.status, part.body, field(part, b"content-encoding")) == (206, b"some", None)
    known = await offered(handler, *names, headers=[gzip, (b"if-none-match", b"W/" + etag_of(text))])
    assert (known.status, field(known, b"etag")) == (304, b"W/" + etag_of(text))
    other = await offered(
        handler, *names, headers=[gzip, (b"range", b"bytes=0-3"), (b"if-range", b"W/" + etag_of(text))]
    )
    assert other.status == 200
    head = await offered(handler, *names, method="HEAD", headers=[gzip])
    assert (head.status, head.body, field(head, b"content-encoding")) == (200, b"", b"gzip")


# --- attacks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(b"bytes=" + b",".join(b"%d-%d" % (n, n) for n in range(10_000)), id="10,000 ranges"),
        pytest.param(b"bytes=" + b",".join([b"0-"] * 1_000), id="1,000 times all"),
        pytest.param(b"bytes=" + b"9" * 5_000 + b"-", id="5,000 digits"),
        pytest.param(b"bytes=0-" + b"9" * 5_000, id="5,000 digits of the last"),
    ],
)
@on_asyncio
async def test_hostile_range_costs_the_loop_less_than_five_milliseconds(path: Path, value: bytes) -> None:
    """And is answered with the whole file, once."""
    spent = []
    for _ in range(3):
        app, channel = serve(path), Channel()
        app.limits = Limits(max_header_bytes=None)  # or the engine answers with 431
        scope = http_scope(headers=[(b"range", value)])
        began = thread_time()
        await app(scope, channel.receive, channel.send)
        spent.append(thread_time() - began)
        assert (channel.status, channel.body) == (200, CONTENT)
    assert min(spent) < 0.005


async def test_amplification_by_ranges_is_bounded(path: Path) -> None:
    """As many parts as there can be, each of one byte: never more than a few KiB above what is asked for."""
    value = b"bytes=" + b",".join(b"%d-%d" % (n * 2, n * 2) for n in range(16))
    channel = await get(path, (b"range", value))
    assert channel.status == 206
    assert len(channel.body) < 16 * 200
