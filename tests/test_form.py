"""_form.py and the methods of Request: whole forms, from any body, on every exit."""

from __future__ import annotations

import gzip
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import anyio
import pytest
from anyio.lowlevel import checkpoint
from clocks import Beats, Clock
from faults import frees_at_once, linear_time, on_trio, turn
from forms import BOUNDARY, URLENCODED, cut, cut_at, form_scope, multipart, needs_multipart, part
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import MultiDictProxy

from asgicore import (
    BodyConsumedError,
    ClientDisconnectedError,
    Handler,
    Limits,
    MalformedBodyError,
    MissingExtraError,
    Request,
    Response,
    UploadFile,
    _form,
    _spool,
)
from asgicore._form_data import PartParser
from asgicore._spool import Spool
from asgicore.testing import DISCONNECT, Channel, LeakGuard, Message, body_messages
from asgicore.testing._living import descriptors as open_files
from asgicore.testing._living import tasks as living_tasks

FILE = bytes(range(256)) * 600
MULTIPART = b"multipart/form-data; boundary=" + BOUNDARY
FORM = multipart(
    part("title", "café".encode()),
    part("first", FILE, "é.bin", b"Content-Type: application/octet-stream", b"X-A: 1"),
    part("title", b"two"),
    part("none", b"", "", b"Content-Type: application/octet-stream"),
    part("second", FILE[::-1], "b.bin"),
)

Endpoint = Callable[[Request], Any]


@pytest.fixture(params=["spool", "stream", "def"])
def serve(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Runs a request whose endpoint looks at its form: in both modes, and in a synchronous endpoint."""

    async def serve(
        look: Callable[[MultiDictProxy[str | UploadFile]], str] = lambda form: str(len(form)),
        body: bytes = FORM,
        *,
        content_type: bytes = MULTIPART,
        size: int = 10_000,
        **limits: Any,
    ) -> Channel:
        async def endpoint(request: Request) -> Response:
            return Response(look(await request.form()))

        def synchronous(request: Request) -> Response:
            return Response(look(request.form_nowait()))

        return await run(
            synchronous if request.param == "def" else endpoint,
            cut(body, size) or body_messages(b""),
            mode="stream" if request.param == "stream" else "spool",
            content_type=content_type,
            **limits,
        )

    return serve


async def run(
    endpoint: Endpoint,
    messages: list[Message],
    *,
    mode: Any = "spool",
    content_type: bytes = MULTIPART,
    on_disconnect: Any = "cancel",
    **limits: Any,
) -> Channel:
    server = Channel(messages)
    handler = Handler(endpoint, body=mode, on_disconnect=on_disconnect, limits=Limits(**limits))
    with anyio.fail_after(20):
        await handler(form_scope(content_type), server.receive, server.send)
    return server


def described(form: MultiDictProxy[str | UploadFile]) -> list[Any]:
    """The fields of a form, with what their files hold."""
    return [
        (name, value if isinstance(value, str) else (value.filename, value.content_type, value.file.read()))
        for name, value in form.items()
    ]


EXPECTED = [
    ("title", "café"),
    ("first", ("é.bin", "application/octet-stream", FILE)),
    ("title", "two"),
    ("none", ("", "application/octet-stream", b"")),
    ("second", ("b.bin", "", FILE[::-1])),
]


# --- what comes out --------------------------------------------------------------------------------------


@needs_multipart
@pytest.mark.parametrize("threshold", [0, 1000, 200_000, 2**20])
@pytest.mark.parametrize("size", [1000, 10**6], ids=["cut", "whole"])
async def test_form_of_fields_and_files_is_read(serve: Any, threshold: int, size: int) -> None:
    """Every repeat in order, text and files, in memory and on disk."""
    found = []

    def look(form: MultiDictProxy[str | UploadFile]) -> str:
        found.extend(described(form))
        assert type(form) is MultiDictProxy
        assert form.getall("title") == ["café", "two"]
        return "seen"

    server = await serve(look, size=size, spool_threshold_bytes=threshold)
    assert server.body == b"seen"
    assert found == EXPECTED


async def test_form_urlencoded_is_read(serve: Any) -> None:
    """The same container; no extra is needed."""
    found: list[Any] = []

    def look(form: MultiDictProxy[str | UploadFile]) -> str:
        found.extend(form.items())
        return "seen"

    body = b"title=caf%C3%A9&a=1;b=2&title=two+words&empty="
    server = await serve(look, body, content_type=URLENCODED + b"; charset=UTF-8", size=5)
    assert server.body == b"seen"
    assert found == [("title", "café"), ("a", "1;b=2"), ("title", "two words"), ("empty", "")]


@pytest.mark.parametrize("size", [10_000, 100_000])
async def test_form_urlencoded_that_is_large_is_read(serve: Any, size: int) -> None:
    """Larger ones are parsed in a worker thread."""
    body = urlencode([("text", "é" * size), ("b", "2")]).encode()

    def look(form: MultiDictProxy[str | UploadFile]) -> str:
        assert form["text"] == "é" * size
        return str(form["b"])

    assert (await serve(look, body, content_type=URLENCODED)).body == b"2"


async def test_form_without_fields_is_empty(serve: Any) -> None:
    """A form that was sent without any field."""
    assert (await serve(body=b"", content_type=URLENCODED)).body == b"0"


@needs_multipart
async def test_form_without_parts_is_empty(serve: Any) -> None:
    """As ``fetch`` sends an empty FormData."""
    assert (await serve(body=multipart())).body == b"0"


@needs_multipart
@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([part("_charset_", b"windows-1252"), part("a", b"caf\xe9")], "café"),
        ([part("a", b"caf\xe9"), part("_charset_", b"ISO-8859-1")], "café"),
        ([part("_charset_", b"latin1"), part("a", b"\xc3\xa9", None, b"Content-Type: text/plain; charset=utf-8")], "é"),
        ([part("a", b"\xe9", None, b"Content-Type: text/plain; charset=windows-1252")], "é"),
        ([part("_charset_", b""), part("a", b"\xc3\xa9")], "é"),
        ([part("_charset_", b"latin1", "file"), part("a", b"\xc3\xa9")], "é"),
    ],
)
async def test_form_with_charset_is_decoded_by_it(serve: Any, parts: list[bytes], expected: str) -> None:
    """RFC 7578 section 4.6: that of the part, else that of the field ``_charset_``, else UTF-8."""
    assert (await serve(lambda form: str(form["a"]), multipart(*parts))).body.decode() == expected


SCRIPT = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "ü"]),
        st.binary(max_size=60).filter(lambda content: b"\r\n--" not in b"\r\n" + content),
        st.none() | st.sampled_from(["", "f.txt"]),
    ),
    max_size=6,
)


@needs_multipart
@settings(max_examples=60)
@given(SCRIPT, st.lists(st.integers(0, 1500), max_size=30), st.sampled_from(["spool", "stream"]), st.integers(0, 150))
def test_form_of_any_parts_comes_back_however_it_comes(
    script: list[tuple[str, bytes, str | None]], places: list[int], mode: str, threshold: int
) -> None:
    """Any parts, cut into messages anywhere, kept in memory or on disk, in both modes."""
    script = [
        (name, content if filename is not None else content.hex().encode(), filename)
        for name, content, filename in script
    ]
    body = multipart(*(part(*one) for one in script))
    found: list[Any] = []

    async def endpoint(request: Request) -> Response:
        for name, value in (await request.form()).items():
            if isinstance(value, UploadFile):
                found.append((name, await value.read(), value.filename))
            else:
                found.append((name, value.encode(), None))
        return Response()

    async def main() -> None:
        server = await run(endpoint, body_messages(*cut_at(body, places)), mode=mode, spool_threshold_bytes=threshold)
        assert server.status == 200, server.body

    anyio.run(main)
    assert found == script


# --- kept ------------------------------------------------------------------------------------------------


@needs_multipart
@pytest.mark.parametrize("mode", ["spool", "stream"])
async def test_form_is_read_once_and_kept(mode: str) -> None:
    """Later calls give the same object; so do calls at the same time, and the synchronous twin."""
    forms = []

    async def endpoint(request: Request) -> Response:
        async def ask() -> None:
            forms.append(await request.form())

        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(ask)
        forms.extend([await request.form(), request.form_nowait()])
        return Response()

    server = await run(endpoint, cut(FORM, 1000), mode=mode, spool_threshold_bytes=5000)
    assert server.status == 200
    assert len(forms) == 5
    assert all(form is forms[0] for form in forms)


@needs_multipart
@pytest.mark.parametrize("mode", ["spool", "stream"])
async def test_form_that_cannot_be_read_fails_twice_in_the_same_way(mode: str) -> None:
    """Also for those who asked at the same time: the client's error stays the client's."""

    async def endpoint(request: Request) -> Response:
        with pytest.raises(MalformedBodyError) as first:
            await request.form()
        with pytest.raises(MalformedBodyError) as second:
            await request.form()
        assert first.value is second.value
        async with anyio.create_task_group() as group:
            group.start_soon(request.form)
            group.start_soon(request.form)
        return Response("not reached")

    server = await run(endpoint, cut(FORM[:-9], 1000), mode=mode)
    assert (server.status, server.body) == (400, b"body: ends before the last boundary of its form")


async def test_form_in_stream_mode_uses_the_body_up() -> None:
    """Nothing of the body is kept beside the form, and the error says what it was used for."""

    async def endpoint(request: Request) -> Response:
        await request.form()
        with pytest.raises(BodyConsumedError, match=r"body\(\) after form\(\)"):
            await request.body()
        return Response("raised")

    async def other(request: Request) -> Response:
        await request.body()
        with pytest.raises(BodyConsumedError, match=r"form\(\) after body\(\)"):
            await request.form()
        return Response("raised")

    for each in (endpoint, other):
        assert (await run(each, body_messages(b"a=1"), mode="stream", content_type=URLENCODED)).body == b"raised"


@needs_multipart
@pytest.mark.parametrize("threshold", [100, 2**20])
async def test_form_in_spool_mode_leaves_the_body_to_be_read(threshold: int) -> None:
    """Form, body and file may be mixed, and the file that the application has keeps its position."""

    async def endpoint(request: Request) -> Response:
        file = await request.file()
        file.seek(7)
        form = await request.form()
        assert file.tell() == 7
        upload = form["first"]
        assert isinstance(upload, UploadFile)
        assert await upload.read() == FILE
        assert file.tell() == 7
        assert await request.body() == FORM
        assert await upload.seek(1) == 1
        assert await upload.read(1) == FILE[1:2]
        return Response("all")

    assert (await run(endpoint, cut(FORM, 9000), spool_threshold_bytes=threshold)).body == b"all"


@needs_multipart
async def test_form_of_a_body_that_is_kept_is_not_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of a spooled body are ranges of it: one temporary file, and nothing is written twice."""
    written = []
    write = Spool.write

    def noticed(self: Spool, parts: Any) -> None:
        written.append(sum(map(len, parts)))
        write(self, parts)

    monkeypatch.setattr(Spool, "write", noticed)
    open_: list[set[Any]] = []

    async def endpoint(request: Request) -> Response:
        form = await request.form()
        for value in form.values():
            if isinstance(value, UploadFile):
                await value.read()
        open_.append(open_files())
        return Response()

    before = open_files()
    await run(endpoint, cut(FORM, 9000), spool_threshold_bytes=100)
    assert sum(written) == len(FORM)
    if before:  # as far as the system tells
        assert [len(files - before) for files in open_] == [1]


@needs_multipart
async def test_form_in_stream_mode_writes_files_alone_into_one_file() -> None:
    """However many files come, they are in one temporary file; what is no file is not on the disk."""
    open_: list[set[Any]] = []
    sizes = []

    async def endpoint(request: Request) -> Response:
        form = await request.form()
        uploads = [value for value in form.values() if isinstance(value, UploadFile)]
        for number, value in enumerate(uploads):
            assert await value.read() == bytes([number]) * 1000
        content = uploads[0]._content
        assert isinstance(content, Spool)
        sizes.append(content.file.seek(0, os.SEEK_END))
        open_.append(open_files())
        return Response()

    before = open_files()
    body = multipart(part("a", b"x" * 500), *[part("f", bytes([number]) * 1000, "f") for number in range(100)])
    server = await run(endpoint, cut(body, 9000), mode="stream", spool_threshold_bytes=100)
    assert server.status == 200
    assert sizes == [100_000]
    if before:  # as far as the system tells
        assert [len(files - before) for files in open_] == [1]


@needs_multipart
@pytest.mark.parametrize("mode", ["spool", "stream"])
async def test_form_of_large_files_never_touches_the_disk_on_the_loop(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writing and reading happen in worker threads."""
    threads = set()
    for name in ("write", "read_at", "close"):
        method = getattr(Spool, name)

        def noticed(self: Spool, *args: Any, method: Any = method) -> Any:
            threads.add(threading.current_thread())
            return method(self, *args)

        monkeypatch.setattr(Spool, name, noticed)

    async def endpoint(request: Request) -> Response:
        form = await request.form()
        await form["first"].read()  # type: ignore[union-attr]
        return Response()

    assert (await run(endpoint, cut(FORM, 9000), mode=mode, spool_threshold_bytes=100)).status == 200
    assert threads
    assert threading.main_thread() not in threads


# --- what is refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content_type", "status", "text"),
    [
        (
            b"text/plain",
            415,
            "content-type: 'text/plain'; application/x-www-form-urlencoded or multipart/form-data is wanted",
        ),
        (b"", 415, "content-type: missing; application/x-www-form-urlencoded or multipart/form-data is wanted"),
        (b"multipart/mixed; boundary=x", 415, "content-type: 'multipart/mixed'; "),
        pytest.param(b"multipart/form-data", 400, "content-type: its boundary is missing", marks=needs_multipart),
        pytest.param(
            b"multipart/form-data; boundary=\xe9", 400, "content-type: its boundary is none", marks=needs_multipart
        ),
        (URLENCODED + b"; charset=utf-7", 400, "content-type: charset 'utf-7' is not known; send UTF-8"),
    ],
)
async def test_form_of_another_content_type_is_refused(serve: Any, content_type: bytes, status: int, text: str) -> None:
    """415 that names the two that are forms; 400 for parameters that cannot be."""
    server = await serve(content_type=content_type, body=b"a=1")
    assert server.status == status
    assert server.body.decode().startswith(text)


LIMITED: list[Any] = [
    pytest.param({"max_form_fields": 1}, 400, "body: more than 1 form fields", id="fields"),
    pytest.param({"max_form_fields": 0}, 400, "body: more than 0 form fields", id="no fields"),
    pytest.param({"max_form_files": 2}, 400, "body: more than 2 files", id="files"),
    pytest.param(
        {"max_form_field_bytes": 4}, 413, "form field 'title': larger than the limit of 4 bytes", id="field bytes"
    ),
    pytest.param({"max_form_memory_bytes": 20}, 413, "form fields: larger than the limit of 20 bytes", id="memory"),
    pytest.param({"max_part_headers": 2}, 400, "part header: more than 2 fields", id="header fields"),
    pytest.param(
        {"max_part_header_bytes": 50}, 413, "part header: larger than the limit of 50 bytes", id="header bytes"
    ),
    pytest.param({"max_body_bytes": 20_000}, 413, "body: larger than the limit of 20000 bytes", id="body"),
]


@needs_multipart
@pytest.mark.parametrize(("limits", "status", "text"), LIMITED)
async def test_form_over_a_limit_is_refused(serve: Any, limits: dict[str, int], status: int, text: str) -> None:
    """Too many: 400; too large: 413. The answer names what it is about."""
    server = await serve(**limits)
    assert (server.status, server.body.decode()) == (status, text)


@needs_multipart
async def test_form_at_the_limits_passes(serve: Any) -> None:
    """A limit is the most that is allowed."""
    server = await serve(
        max_form_fields=2,
        max_form_files=3,
        max_form_field_bytes=5,
        max_part_headers=3,
        max_body_bytes=len(FORM),
        max_form_memory_bytes=1000,
    )
    assert server.body == b"5"


@needs_multipart
async def test_form_memory_is_counted_with_part_headers(serve: Any) -> None:
    """What a head and a value take together is the most that is allowed."""
    size = len("Content-Disposition") + len('form-data; name="a"') + len(b"xyz")
    for limit, status in ((size, 200), (size - 1, 413)):
        assert (await serve(body=multipart(part("a", b"xyz")), max_form_memory_bytes=limit)).status == status


@needs_multipart
async def test_form_without_limits_is_read(serve: Any) -> None:
    """``None`` lifts each of them."""
    names = ["form_fields", "form_files", "form_field_bytes", "form_memory_bytes", "part_headers", "part_header_bytes"]
    limits: dict[str, Any] = {f"max_{name}": None for name in names}
    body = multipart(part("a", bytes(10**6)), *[part("f", b"", "f")] * 200, *[part("b", b"")] * 1100)
    assert (await serve(body=body, **limits)).body == b"1301"
    assert (await serve(body=b"a=1&" * 2000, content_type=URLENCODED, **limits)).body == b"2000"


@pytest.mark.parametrize("size", [1, 2**16])
async def test_form_urlencoded_over_the_memory_limit_is_refused(serve: Any, size: int) -> None:
    """413 as soon as it is known."""
    server = await serve(body=b"a=" + b"x" * 3000, content_type=URLENCODED, size=size, max_form_memory_bytes=2000)
    assert (server.status, server.body) == (413, b"form fields: larger than the limit of 2000 bytes")


@needs_multipart
@pytest.mark.parametrize("length", [0, 1, 60, 150, len(FORM) - 3])
async def test_form_that_is_cut_short_is_refused(serve: Any, length: int) -> None:
    """A body that ends where its form does not: 400."""
    server = await serve(body=FORM[:length])
    assert server.status == 400
    assert server.body.startswith(b"body: ")


@needs_multipart
async def test_form_field_that_is_no_text_is_refused(serve: Any) -> None:
    """400 that names the field, of which nothing that could break a log or a page is shown."""
    server = await serve(body=multipart(part("bad\n<name>" + "x" * 50, b"\xff")))
    assert server.status == 400
    assert server.body == b"form field 'bad\\n<name>" + b"x" * 30 + b"': no text in UTF-8"


HOSTILE: list[Any] = [
    pytest.param(URLENCODED, lambda: b"a=1&" * 100_000, 400, id="100,000 urlencoded fields"),
    pytest.param(URLENCODED, lambda: b"&" * 2**20, 400, id="separators alone"),
    pytest.param(URLENCODED, lambda: b"a=" + b"%41" * 500_000, 413, id="escapes, too large"),
    pytest.param(MULTIPART, lambda: multipart(*[part("a", b"1")] * 100_000), 400, id="100,000 fields"),
    pytest.param(MULTIPART, lambda: multipart(*[part("a", b"")] * 20_000), 400, id="20,000 parts"),
    pytest.param(MULTIPART, lambda: multipart(*[part("a", b"", "f")] * 5000), 400, id="5,000 files"),
    pytest.param(MULTIPART, lambda: b"--" + BOUNDARY + b"\r\n" + b"x" * 2**24, 413, id="16 MiB part header"),
    pytest.param(MULTIPART, lambda: multipart(part("a", bytes(7 * 2**20))), 413, id="7 MiB field"),
    pytest.param(MULTIPART, lambda: multipart(*[part("a" * 3000, b"")] * 900), 413, id="long names"),
    pytest.param(
        MULTIPART, lambda: multipart(*[part("a", b"", None, b"X: " + b"x" * 4000)] * 900), 413, id="long headers"
    ),
    pytest.param(MULTIPART, lambda: multipart() + b"\r" * 2**24, 200, id="CR flood after the form"),
    pytest.param(MULTIPART, lambda: multipart(part("a", b"\r" * 2**19)), 200, id="CR flood in a field"),
]


@needs_multipart
@pytest.mark.parametrize(("content_type", "body", "status"), HOSTILE)
async def test_form_of_hostile_input_is_answered_at_once(
    serve: Any, content_type: bytes, body: Callable[[], bytes], status: int
) -> None:
    """In linear time, with the right status."""
    sent = body()
    with linear_time():
        server = await serve(body=sent, content_type=content_type, size=65536, max_body_bytes=2**25)
    assert server.status == status


@needs_multipart
@pytest.mark.parametrize(
    ("content_type", "body", "status", "value"),
    [
        pytest.param(URLENCODED, b"a=%252541", 200, b"%2541", id="escapes in escapes"),
        pytest.param(URLENCODED, gzip.compress(gzip.compress(b"a=1")), 400, b"", id="gzip in gzip"),
        pytest.param(
            MULTIPART,
            multipart(b'content-disposition: form-data; name="a"\r\ncontent-transfer-encoding: base64\r\n\r\nYQ=='),
            200,
            b"YQ==",
            id="base64",
        ),
        pytest.param(
            MULTIPART,
            multipart(
                b'content-disposition: form-data; name="a"\r\ncontent-type: multipart/mixed; boundary=n\r\n\r\n'
                + b"--n\r\n" * 1000
            ),
            200,
            b"--n\r\n" * 1000,
            id="forms in a form",
        ),
    ],
)
async def test_form_in_nested_encodings_is_decoded_once(
    serve: Any, content_type: bytes, body: bytes, status: int, value: bytes
) -> None:
    """What is encoded again is a value, or no form: nothing is unpacked that would grow (RFC 7578 section 4.7)."""
    with linear_time():
        server = await serve(lambda form: str(form["a"]), body, content_type=content_type)
    assert server.status == status
    assert value in server.body


@needs_multipart
async def test_form_of_hostile_input_in_stream_mode_is_refused_early() -> None:
    """Nothing is received beyond what shows that it is refused."""

    async def endpoint(request: Request) -> Response:
        await request.form()
        return Response("not reached")

    for body in (
        b"--" + BOUNDARY + b"\r\n" + b"x" * 2**22,
        b"x" * 2**22,
        multipart(*[part("a", b"")] * 20_000),
        multipart(part("a", bytes(2**22))),
    ):
        server = await run(endpoint, cut(body, 65536), mode="stream")
        assert server.status in (400, 413)
        assert server.received < 20


# --- closed, on every exit -------------------------------------------------------------------------------


@pytest.fixture
def nothing_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever happens, no file descriptor is open in the end, and no temporary file is left."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = open_files()
    yield
    assert open_files() == before
    assert not list(tmp_path.iterdir())


BIG = multipart(part("a", b"1"), *[part("f", bytes([number]) * 5000, "f") for number in range(6)], part("b", b"2"))
MESSAGES = cut(BIG, 1500)
closing = pytest.mark.usefixtures("nothing_left")
modes = pytest.mark.parametrize("mode", ["spool", "stream"])


@closing
@needs_multipart
@modes
@pytest.mark.parametrize("ending", ["returns", "fails", "refuses"])
async def test_form_whose_files_nobody_reads_is_closed_with_the_request(mode: str, ending: str) -> None:
    """Also if the endpoint fails; what is kept on disk cannot be read afterwards."""
    uploads: list[UploadFile] = []

    async def endpoint(request: Request) -> Response:
        form = await request.form()
        uploads.extend(value for value in form.values() if isinstance(value, UploadFile))
        await uploads[0].read(10)
        if ending == "fails":
            raise RuntimeError("no")
        if ending == "refuses":
            raise MalformedBodyError("f", "too dull")
        return Response("kept")

    server = await run(endpoint, MESSAGES, mode=mode, spool_threshold_bytes=1000)
    assert server.status == {"returns": 200, "fails": 500, "refuses": 400}[ending]
    with pytest.raises(BodyConsumedError, match="the request is over"):
        await uploads[1].read()


@closing
@needs_multipart
@modes
@pytest.mark.parametrize("on_disconnect", ["cancel", "notify"])
@pytest.mark.parametrize("number", range(len(MESSAGES)))
async def test_form_of_a_client_that_leaves_at_any_message_leaves_nothing(
    mode: str, on_disconnect: str, number: int
) -> None:
    """A disconnect in the middle is never the end of a form; everything is closed."""
    outcomes: list[object] = []

    async def endpoint(request: Request) -> Response:
        try:
            outcomes.append(await request.form())
        except ClientDisconnectedError as exc:
            outcomes.append(exc)
            raise
        return Response("not reached")

    messages = [*MESSAGES[:number], DISCONNECT]
    before = living_tasks()
    server = await run(endpoint, messages, mode=mode, on_disconnect=on_disconnect, spool_threshold_bytes=1000)
    assert server.sent == []
    assert all(isinstance(outcome, ClientDisconnectedError) for outcome in outcomes)
    await turn(3)
    assert living_tasks() == before


@closing
@needs_multipart
@modes
@pytest.mark.parametrize("length", range(20, len(BIG), 1700))
async def test_form_that_is_malformed_anywhere_leaves_nothing(mode: str, length: int) -> None:
    """Parse errors close what was written."""

    async def endpoint(request: Request) -> Response:
        await request.form()
        return Response("not reached")

    server = await run(endpoint, cut(BIG[:length], 1500), mode=mode, spool_threshold_bytes=1000)
    assert server.status == 400


@closing
@needs_multipart
@pytest.mark.parametrize("number", range(1, len(MESSAGES), 4))
async def test_form_whose_reading_is_cancelled_leaves_nothing(number: int) -> None:
    """A timeout in the endpoint closes what was written; a second call says that the body was used."""
    ready = anyio.Event()

    async def on_receive(index: int) -> None:
        if index < number:
            await checkpoint()
        else:
            ready.set()
            await anyio.sleep_forever()

    async def endpoint(request: Request) -> Response:
        async with anyio.create_task_group() as group:

            async def cancel() -> None:
                await ready.wait()
                group.cancel_scope.cancel()

            group.start_soon(cancel)
            await request.form()
        with pytest.raises(BodyConsumedError, match=r"form\(\) after form\(\)"):
            await request.form()
        return Response("cancelled")

    channel = Channel(MESSAGES, on_receive=on_receive)
    with anyio.fail_after(10):
        handler = Handler(endpoint, body="stream", limits=Limits(spool_threshold_bytes=1000))
        await handler(form_scope(), channel.receive, channel.send)
    assert channel.body == b"cancelled"


@closing
@needs_multipart
@modes
async def test_form_that_fills_the_disk_leaves_nothing(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the disk is a 500, and closes what was written."""

    def write(self: Spool, parts: Any) -> None:
        self.file.rollover()
        raise OSError(28, "no space left")

    async def endpoint(request: Request) -> Response:
        await request.form()
        return Response("not reached")

    monkeypatch.setattr(Spool, "write", write)
    assert (await run(endpoint, MESSAGES, mode=mode, spool_threshold_bytes=1000)).status == 500


@closing
@needs_multipart
async def test_form_of_a_request_that_was_built_alone_is_closed_by_hand() -> None:
    """Without a handler, ``aclose()`` closes the files."""
    request = Request(form_scope(), Channel(MESSAGES).receive, limits=Limits(spool_threshold_bytes=1000))
    with anyio.fail_after(5):
        form = await request.form()
    upload = form["f"]
    assert isinstance(upload, UploadFile)
    assert await upload.read() == bytes([0]) * 5000
    await request.aclose()
    with pytest.raises(BodyConsumedError, match="the request is over"):
        await upload.read()


@frees_at_once
@needs_multipart
@modes
async def test_form_leaves_nothing_to_the_collector(mode: str) -> None:
    """No reference cycle holds a form, its files or its parts."""

    async def endpoint(request: Request) -> Response:
        form = await request.form()
        await form["f"].read()  # type: ignore[union-attr]
        return Response()

    async def parts(request: Request) -> Response:
        async for one in request.multipart():
            if one.filename:
                await one.read()
        return Response()

    modules = [f"asgicore.{name}" for name in ("_form", "_form_data", "_parts", "_uploads", "_request", "_body")]
    for each in (endpoint, parts):
        for _ in range(2):
            # trio leaves cycles of its own, which hold some of ours.
            async with LeakGuard(cycles=[] if on_trio() else modules):
                await run(each, MESSAGES, mode=mode, spool_threshold_bytes=1000)
                await turn(3)


# --- memory ----------------------------------------------------------------------------------------------


@needs_multipart
async def test_form_in_stream_mode_keeps_no_more_than_the_threshold_in_memory() -> None:
    """Of a large upload memory holds the threshold and what is on its way to the disk."""
    import tracemalloc

    sizes = []

    async def endpoint(request: Request) -> Response:
        upload = (await request.form())["f"]
        assert isinstance(upload, UploadFile)
        sizes.append(upload.size)
        return Response()

    async def upload_of(pieces: int) -> None:
        messages = [
            b"--" + BOUNDARY + b"\r\n" + part("f", b"", "f"),
            *[bytes(65536)] * pieces,
            b"\r\n--" + BOUNDARY + b"--\r\n",
        ]

        def one_by_one() -> Iterator[Message]:
            while messages:
                body = messages.pop(0)
                # A copy: servers give no bytes twice.
                yield {"type": "http.request", "body": bytes(bytearray(body)), "more_body": bool(messages)}

        channel = Channel(one_by_one())
        with anyio.fail_after(30):
            await handler(form_scope(), channel.receive, channel.send)

    handler = Handler(endpoint, body="stream", limits=Limits(max_body_bytes=2**26))
    # What the first one loads, a MiB of modules, is no memory of a body.
    await upload_of(64)
    tracemalloc.start()
    try:
        await upload_of(512)
        left, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sizes == [4 * 2**20, 32 * 2**20]
    assert peak < 5 * 2**20, f"{left} of it is left in the end"


# --- fairness --------------------------------------------------------------------------------------------

EVENT_SECONDS = 50e-6


@needs_multipart
@modes
async def test_form_that_is_here_lets_others_run(mode: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand fields in one message do not hold the loop."""

    class Working(PartParser):
        def next(self) -> Any:
            clock.work(EVENT_SECONDS)
            return super().next()

    monkeypatch.setattr(_form, "PartParser", Working)

    async def endpoint(request: Request) -> Response:
        return Response(str(len(await request.form())))

    server = Channel(body_messages(multipart(*[part("a", b"x")] * 1000)))
    beats = Beats(clock)
    handler = Handler(endpoint, body=mode)
    await beats.during(lambda: handler(form_scope(), server.receive, server.send))
    assert server.body == b"1000"
    assert beats.longest <= 0.005
    assert beats.turns > 20


@needs_multipart
@pytest.mark.parametrize(("threshold", "on_loop"), [(10**6, True), (1000, False)])
async def test_form_of_a_kept_body_is_parsed_where_it_is(
    threshold: int, on_loop: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the loop if it is in memory, in worker threads if it is on disk."""
    threads = set()

    class Noticed(PartParser):
        def next(self) -> Any:
            threads.add(threading.current_thread())
            return super().next()

    monkeypatch.setattr(_form, "PartParser", Noticed)

    async def endpoint(request: Request) -> Response:
        return Response(str(len(await request.form())))

    server = await run(endpoint, body_messages(multipart(*[part("a", b"x")] * 100)), spool_threshold_bytes=threshold)
    assert server.body == b"100"
    assert len(threads) == 1
    assert (threading.main_thread() in threads) is on_loop


@needs_multipart
async def test_form_of_a_huge_kept_body_is_read_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancellation waits for one step at most."""
    monkeypatch.setattr(_form, "_STEP_BLOCKS", 2)
    steps = []

    async def noticed(function: Any, *args: Any) -> Any:
        steps.append(function)
        return await _spool.in_file_thread(function, *args)

    monkeypatch.setattr(_form, "in_file_thread", noticed)

    async def endpoint(request: Request) -> Response:
        upload = (await request.form())["f"]
        assert isinstance(upload, UploadFile)
        return Response(str(upload.size))

    body = multipart(part("f", bytes(5 * 2**20), "f"))
    assert (await run(endpoint, cut(body, 65536))).body == str(5 * 2**20).encode()
    assert len(steps) == 4


@pytest.mark.parametrize("mode", ["spool", "stream"])
@pytest.mark.parametrize(
    ("content_type", "where", "name"),
    [(URLENCODED, _form, "_parse"), pytest.param(MULTIPART, _form._Builder, "build", marks=needs_multipart)],
)
async def test_form_of_much_text_is_decoded_in_a_worker_thread(
    mode: str, content_type: bytes, where: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Megabytes of escapes, or of text in an old charset, take longer than the loop may be held."""
    threads = []
    decode = getattr(where, name)

    def noticed(*args: Any) -> Any:
        threads.append(threading.current_thread())
        return decode(*args)

    monkeypatch.setattr(where, name, noticed)

    async def endpoint(request: Request) -> Response:
        return Response(str(len(await request.form())))

    for size in (100, 10**6 - 100):
        body = b"a=" + b"x" * size if content_type == URLENCODED else multipart(part("a", b"x" * size))
        assert (await run(endpoint, cut(body, 65536), mode=mode, content_type=content_type)).body == b"1"
    assert threads[0] is threading.main_thread()
    assert threads[1] is not threading.main_thread()


# --- the extra -------------------------------------------------------------------------------------------


async def test_form_that_is_multipart_without_the_extra_names_it(
    serve: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The application's fault: a 500, and the log says what to install."""
    monkeypatch.setitem(sys.modules, "multipart", None)
    server = await serve()
    assert server.status == 500
    assert "install asgicore[forms]" in caplog.text


async def test_form_that_is_urlencoded_needs_no_extra(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parser of query strings serves."""
    monkeypatch.setitem(sys.modules, "multipart", None)
    assert (await serve(body=b"a=1&b=2", content_type=URLENCODED)).body == b"2"


async def test_parts_without_the_extra_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, before anything is received."""
    monkeypatch.setitem(sys.modules, "multipart", None)

    async def endpoint(request: Request) -> Response:
        with pytest.raises(MissingExtraError, match=r"asgicore\[forms\]"):
            request.multipart()
        return Response("raised")

    server = await run(endpoint, body_messages(FORM), mode="stream")
    assert server.body == b"raised"
    assert server.received == 0
