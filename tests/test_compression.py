"""_compression.py: which responses are compressed, and what becomes of their fields."""

from __future__ import annotations

import os
import random
import sys
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from codings import CODINGS, MODULES, decode

from asgicore import (
    Compression,
    FileResponse,
    Handler,
    HTMLResponse,
    HTTPError,
    JSONResponse,
    Request,
    Response,
    StreamingResponse,
    is_compressible,
)
from asgicore.testing import Channel, body_messages, call, check_messages, http_scope

TEXT = b"A line of text that comes again and again.\n" * 100
GZIP = Compression(encodings=["gzip"])

Make = Callable[[], Response]


def answer(channel: Channel) -> dict[bytes, bytes]:
    """The fields of a response that has none of them twice."""
    fields = dict(channel.headers)
    assert len(fields) == len(channel.headers)
    return fields


async def serve(
    make: Make,
    accepted: bytes | None = b"gzip",
    compression: Compression | None = GZIP,
    method: str = "GET",
    **more: Any,
) -> Channel:
    """One request, whose messages are legal; ``headers`` are further fields."""

    async def endpoint(request: Request) -> Response:
        return make()

    headers = list(more.pop("headers", ()))
    if accepted is not None:
        headers.append((b"accept-encoding", accepted))
    channel = await call(Handler(endpoint, compression=compression), method=method, headers=headers, **more)
    check_messages(channel.sent, method=method, complete=True)
    return channel


def text(**more: Any) -> Response:
    return Response(TEXT, content_type="text/plain", **more)


async def parts() -> AsyncIterator[bytes]:
    for start in range(0, len(TEXT), 430):
        yield TEXT[start : start + 430]


def synchronous_parts() -> Iterator[bytes]:
    for start in range(0, len(TEXT), 430):
        yield TEXT[start : start + 430]


def stream(**more: Any) -> Response:
    return StreamingResponse(parts(), content_type="text/plain", **more)


def synchronous(**more: Any) -> Response:
    return StreamingResponse(synchronous_parts(), content_type="text/plain", **more)


KINDS = [
    pytest.param(text, id="whole"),
    pytest.param(stream, id="stream"),
    pytest.param(synchronous, id="synchronous stream"),
]


# --- what is compressed ----------------------------------------------------------------------------------


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("make", KINDS)
async def test_response_is_compressed_by_the_coding_that_the_client_wants(make: Make, coding: str) -> None:
    """Whole or part by part; decoded it is what the endpoint gave."""
    channel = await serve(make, coding.encode(), Compression())
    fields = answer(channel)
    assert fields[b"content-encoding"] == coding.encode()
    assert fields[b"vary"] == b"accept-encoding"
    assert fields[b"content-type"] == b"text/plain"
    assert len(channel.body) < len(TEXT) / 2
    assert decode(coding, channel.body) == TEXT
    assert (b"content-length" in fields) is (make is text)


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize(
    "accepted", [None, b"", b"identity", b"gzip;q=0", b"br", b"*;q=0", b"identity;q=0", b"," * 5000]
)
async def test_response_to_a_client_that_does_not_want_it_is_as_it_was(make: Make, accepted: bytes | None) -> None:
    """It says that it depends on the client's wishes; never a 406 or a 400."""
    channel = await serve(make, accepted)
    assert channel.status == 200
    assert answer(channel)[b"vary"] == b"accept-encoding"
    assert b"content-encoding" not in answer(channel)
    assert channel.body == TEXT


@pytest.mark.parametrize(
    ("accepted", "expected"),
    [
        (b"gzip, br, zstd", "the first"),
        (b"gzip;q=0.5, br;q=0.5, zstd;q=0.5, identity;q=0.4", "the first"),
        (b"gzip, br;q=0.9, zstd;q=0.9", "gzip"),
        (b"*", "the first"),
        (b"*;q=0.1, gzip", "gzip"),
        (b"gzip;q=0.1, identity;q=0.2, *;q=0", None),
    ],
)
async def test_coding_is_chosen_by_weight_then_by_the_order_of_encodings(accepted: bytes, expected: str | None) -> None:
    """RFC 9110 section 12.5.3."""
    compression = Compression()
    assert compression.encodings
    coding = compression.encodings[0] if expected == "the first" else expected
    channel = await serve(text, accepted, compression)
    assert answer(channel).get(b"content-encoding") == (coding.encode() if coding else None)
    assert decode(coding, channel.body) == TEXT


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: Response(TEXT[:1023], content_type="text/plain"), id="short"),
        pytest.param(lambda: stream(headers={"content-length": "1023"}), id="short stream"),
        pytest.param(lambda: Response(TEXT), id="no type"),
        pytest.param(lambda: Response(TEXT, content_type="image/png"), id="image"),
        pytest.param(lambda: Response(TEXT, content_type="font/woff2"), id="font"),
        pytest.param(lambda: Response(TEXT, content_type="application/zip"), id="archive"),
        pytest.param(lambda: Response(TEXT, content_type="application/octet-stream"), id="bytes"),
        pytest.param(lambda: StreamingResponse(parts(), content_type="text/event-stream"), id="events"),
        pytest.param(
            lambda: StreamingResponse(parts(), content_type="Text/Event-Stream; charset=utf-8"), id="events, spelled"
        ),
        pytest.param(lambda: text(headers={"content-encoding": "br"}), id="encoded"),
        pytest.param(lambda: text(headers={"content-encoding": "identity"}), id="said to stay as it is"),
        pytest.param(lambda: text(headers={"cache-control": "private, No-Transform"}), id="no-transform"),
        pytest.param(lambda: text(headers={"content-digest": "sha-256=:x:"}), id="digest"),
        pytest.param(lambda: text(status_code=206, headers={"content-range": "bytes 0-4299/9000"}), id="part"),
        pytest.param(lambda: text(status_code=206), id="multipart range"),
        pytest.param(lambda: text(headers={"content-range": "bytes 0-4299/9000"}), id="range"),
        pytest.param(lambda: Response(b"", 204, content_type="text/plain"), id="204"),
        pytest.param(lambda: stream(status_code=204), id="204 stream"),
    ],
)
async def test_response_that_must_not_be_or_gains_nothing_is_as_it_was(make: Make) -> None:
    """Not a byte and not a field is changed."""

    async def endpoint(request: Request) -> Response:
        return make()

    if make().headers.get("content-length") == "1023":
        expected = make()
        assert await GZIP.apply(http_scope(headers=[(b"accept-encoding", b"gzip")]), expected) is expected
        await expected.aclose()
        return
    plain = await call(Handler(endpoint))
    channel = await serve(make)
    assert channel.headers == plain.headers
    assert channel.body == plain.body


async def test_response_that_does_not_get_smaller_is_as_it_was() -> None:
    """It depends on the client's wishes all the same."""
    noise = random.Random(1).randbytes(5000)
    channel = await serve(lambda: Response(noise, content_type="text/plain"))
    assert channel.body == noise
    assert answer(channel) == {
        b"content-type": b"text/plain",
        b"content-length": str(len(noise)).encode(),
        b"vary": b"accept-encoding",
    }


@pytest.mark.parametrize("make", [lambda: JSONResponse([0] * 600), lambda: HTMLResponse("é" * 600), text])
async def test_response_of_other_kinds_is_compressed(make: Make) -> None:
    """JSON and HTML are text."""
    assert decode("gzip", (await serve(make)).body) == make().body


@pytest.mark.parametrize("status", [200, 201, 203, 400, 404, 500])
async def test_response_of_any_status_with_content_is_compressed(status: int) -> None:
    """Errors that an endpoint returns have content as others."""
    channel = await serve(lambda: text(status_code=status))
    assert channel.status == status
    assert decode("gzip", channel.body) == TEXT


async def test_error_that_an_endpoint_raises_is_not_compressed() -> None:
    """What the engine answers by itself is short, or a traceback."""

    def fail() -> Response:
        raise HTTPError(404, "x" * 5000)

    channel = await serve(fail)
    assert channel.body == b"x" * 5000
    assert b"content-encoding" not in answer(channel)


@pytest.mark.parametrize(
    ("media_type", "expected"),
    [
        ("text/html", True),
        ("text/css", True),
        ("text/event-stream", False),
        ("application/json", True),
        ("application/problem+json", True),
        ("application/atom+xml", True),
        ("image/svg+xml", True),
        ("application/wasm", True),
        ("font/ttf", True),
        ("font/woff2", False),
        ("image/png", False),
        ("video/mp4", False),
        ("application/pdf", False),
        ("application/epub+zip", False),
        ("application/gzip", False),
        ("multipart/byteranges", False),
        ("", False),
    ],
)
def test_type_is_compressible_if_it_is_written_as_text(media_type: str, expected: bool) -> None:
    """What is compressed already is not compressed again."""
    assert is_compressible(media_type) is expected


# --- options ---------------------------------------------------------------------------------------------


def test_compression_by_default_has_what_is_installed_the_best_first() -> None:
    """gzip is always among them."""
    compression = Compression()
    assert list(compression.encodings or ()) == [name for name in ("zstd", "br", "gzip") if MODULES[name]]
    assert compression.minimum_bytes == 1024
    assert compression.levels == {
        name: level for name, level in {"zstd": 3, "br": 4, "gzip": 5}.items() if MODULES[name]
    }


def test_compression_where_extras_are_missing_has_gzip_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default; what is named has to be there."""
    for name in ("compression.zstd", "zstandard", "backports.zstd", "brotli", "brotlicffi"):
        monkeypatch.setitem(sys.modules, name, None)
    assert Compression().encodings == ("gzip",)
    with pytest.raises(ImportError, match=r"asgicore\[compression\]"):
        Compression(encodings=["br", "gzip"])


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"encodings": ["deflate"]}, ValueError),
        ({"encodings": "gzip"}, TypeError),
        ({"content_types": "text/html"}, TypeError),
        ({"levels": {"deflate": 1}}, ValueError),
        ({"levels": {"gzip": 0}}, ValueError),
        ({"levels": {"gzip": 10}}, ValueError),
        ({"levels": {"gzip": "5"}}, ValueError),
        ({"minimum_bytes": -1}, ValueError),
    ],
)
def test_compression_with_a_wrong_option_is_refused(options: dict[str, Any], error: type[Exception]) -> None:
    """At once, and not with the first response."""
    with pytest.raises(error):
        Compression(**options)


def test_compression_is_frozen() -> None:
    """One object may serve any number of handlers. Type checkers refuse it too, and are told to look away."""
    with pytest.raises(AttributeError):
        GZIP.minimum_bytes = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        GZIP.levels["gzip"] = 1  # type: ignore[index]


@pytest.mark.parametrize("coding", CODINGS)
async def test_level_is_the_one_that_is_set(coding: str) -> None:
    """A low one and a high one give bodies of different sizes."""
    words = random.Random(1).choices([b"%x " % (n * n * 7919) for n in range(400)], k=6000)
    body = b"".join(words)
    sizes = [
        len((await serve(lambda: Response(body, content_type="text/plain"), coding.encode(), compression)).body)
        for compression in (
            Compression(encodings=[coding], levels={coding: 1}),
            Compression(encodings=[coding], levels={coding: 9}),
        )
    ]
    assert sizes[0] != sizes[1]


async def test_minimum_is_the_one_that_is_set() -> None:
    """A body that long is compressed, one shorter is not."""
    compression = Compression(encodings=["gzip"], minimum_bytes=200)
    for size in (199, 200):

        def build(size: int = size) -> Response:
            return Response(b"x" * size, content_type="text/plain")

        channel = await serve(build, compression=compression)
        assert (b"content-encoding" in answer(channel)) is (size == 200)


@pytest.mark.parametrize(
    ("content_types", "compressed"),
    [
        (["application/x-own"], {"application/x-own"}),
        ({"text/event-stream", "text/plain"}, {"text/event-stream", "text/plain"}),
        (lambda kind: kind.startswith("text/"), {"text/plain"}),
        (lambda kind: True, {"application/x-own", "text/plain"}),
    ],
)
async def test_types_are_those_that_are_set(content_types: Any, compressed: set[str]) -> None:
    """Events are compressed only where a collection names them, so that a rule for text does not hit them."""
    compression = Compression(encodings=["gzip"], content_types=content_types)
    for kind in ("application/x-own", "text/event-stream", "text/plain"):

        def build(kind: str = kind) -> Response:
            return StreamingResponse(parts(), content_type=f"{kind.upper()}; a=b")

        channel = await serve(build, compression=compression)
        assert (b"content-encoding" in answer(channel)) is (kind in compressed)
        assert decode("gzip" if kind in compressed else None, channel.body) == TEXT


# --- fields ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], b"accept-encoding"),
        (["accept"], b"accept, accept-encoding"),
        (["accept", "Cookie,origin"], b"accept, Cookie, origin, accept-encoding"),
        (["Accept-Encoding"], b"Accept-Encoding"),
        (["*"], b"*"),
        ([""], b"accept-encoding"),
    ],
)
@pytest.mark.parametrize("accepted", [b"gzip", None])
async def test_vary_is_added_to_what_is_there(given: list[str], expected: bytes, accepted: bytes | None) -> None:
    """RFC 9110 section 12.5.5; once, whether the response was compressed or not."""
    channel = await serve(lambda: text(headers=[("vary", value) for value in given]), accepted)
    assert answer(channel)[b"vary"] == expected


@pytest.mark.parametrize("make", KINDS)
async def test_fields_that_are_not_true_any_more_are_changed(make: Any) -> None:
    """A strong tag becomes weak, ranges are not offered, the rest stays as it was."""
    headers = [("etag", '"1"'), ("accept-ranges", "bytes"), ("x-a", "1"), ("x-a", "2"), ("cache-control", "no-store")]
    channel = await serve(lambda: make(headers=headers))
    assert [field for field in channel.headers if field[0] not in (b"content-length", b"content-type")] == [
        (b"etag", b'W/"1"'),
        (b"x-a", b"1"),
        (b"x-a", b"2"),
        (b"cache-control", b"no-store"),
        (b"vary", b"accept-encoding"),
        (b"content-encoding", b"gzip"),
    ]
    plain = await serve(lambda: make(headers=headers), None)
    assert [value for name, value in plain.headers if name in (b"etag", b"accept-ranges")] == [b'"1"', b"bytes"]


async def test_etag_that_is_weak_stays_as_it_is() -> None:
    """It is not made weaker."""
    assert answer(await serve(lambda: text(headers={"etag": 'W/"1"'})))[b"etag"] == b'W/"1"'


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize(
    ("known", "expected"),
    [(b'W/"1"', b'W/"1"'), (b'"1"', b'"1"'), (b'"1", W/"1"', b'"1"'), (b'W/"0", W/"1"', b'W/"1"')],
)
async def test_revalidation_of_a_compressed_response_is_a_304_with_its_etag(
    make: Any, known: bytes, expected: bytes
) -> None:
    """RFC 9110 section 15.4.5: the tag and the Vary of the response that the client has."""

    def tagged() -> Response:
        response: Response = make()
        response.set_etag("1")
        return response

    channel = await serve(tagged, headers=[(b"if-none-match", known)])
    assert channel.status == 304
    assert answer(channel) == {b"etag": expected, b"vary": b"accept-encoding"}


@pytest.mark.parametrize(
    ("content_type", "varies"), [("text/plain", True), ("image/png", False), ("text/event-stream", False)]
)
async def test_revalidation_by_date_varies_as_the_response_would(content_type: str, varies: bool) -> None:
    """A 304 tells no type, so the response that it stands for is asked."""

    def dated() -> Response:
        response = Response(TEXT, content_type=content_type)
        response.last_modified = 1_700_000_000
        return response

    since = [(b"if-modified-since", b"Tue, 14 Nov 2023 22:13:20 GMT")]
    channel = await serve(dated, headers=since)
    assert channel.status == 304
    assert (b"vary" in answer(channel)) is varies


async def test_304_of_an_endpoint_varies() -> None:
    """Nobody knows what it stands for; RFC 9110 section 15.4.5 wants what the 200 would have."""
    channel = await serve(lambda: Response(b"", 304, {"etag": '"1"'}), headers=[(b"if-none-match", b'W/"1"')])
    assert answer(channel) == {b"etag": b'W/"1"', b"vary": b"accept-encoding"}


DATE = b"Sun, 09 Sep 2001 01:46:40 GMT"


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """A file that is compressed, last changed at ``DATE``."""
    path = tmp_path / "page.txt"
    path.write_bytes(TEXT)
    os.utime(path, (1_000_000_000, 1_000_000_000))
    return path


@pytest.mark.parametrize("accepted", [b"gzip", None])
@pytest.mark.parametrize("range_", [b"bytes=0-9", b"bytes=100-", b"bytes=0-9,20-29"])
async def test_part_of_a_file_varies_as_the_whole_does(page: Path, range_: bytes, accepted: bytes | None) -> None:
    """RFC 9110 section 15.3.7; a part itself is not encoded."""
    channel = await serve(lambda: FileResponse(page), accepted, headers=[(b"range", range_)])
    assert channel.status == 206
    assert answer(channel)[b"vary"] == b"accept-encoding"
    assert b"content-encoding" not in answer(channel)
    assert TEXT[:10] in channel.body or channel.body == TEXT[100:]


async def test_part_of_what_is_not_compressed_does_not_vary(page: Path) -> None:
    """A file of another type, and a part that an endpoint made itself."""
    for make in (
        lambda: FileResponse(page, content_type="image/png"),
        lambda: Response(TEXT[:10], 206, {"content-range": "bytes 0-9/4300"}, "text/plain", background=lambda: None),
        lambda: Response(TEXT[:10], 206, {"content-range": "bytes 0-9/4300"}, "text/plain"),
    ):
        channel = await serve(make, headers=[(b"range", b"bytes=0-9")])
        assert (channel.status, b"vary" in answer(channel)) == (206, False)


@pytest.mark.parametrize(
    ("content_type", "compression", "status"),
    [("text/plain", GZIP, 200), ("image/png", GZIP, 206), ("text/plain", None, 206)],
)
async def test_part_is_not_joined_by_a_date_that_the_compressed_file_has_too(
    page: Path, content_type: str, compression: Any, status: int
) -> None:
    """RFC 9110 sections 8.8.1 and 13.1.5: who has the beginning of the one would get the end of the other."""

    def make() -> Response:
        return FileResponse(page, content_type=content_type)

    assert answer(await serve(make, compression=compression))[b"last-modified"] == DATE
    condition = [(b"range", b"bytes=100-"), (b"if-range", DATE)]
    assert (await serve(make, compression=compression, headers=condition)).status == status


async def test_part_is_joined_by_the_tag_of_what_is_not_encoded(page: Path) -> None:
    """The encoded one has a weak tag, which never joins."""
    tags = [answer(await serve(lambda: FileResponse(page), accepted))[b"etag"] for accepted in (None, b"gzip")]
    assert tags[1] == b"W/" + tags[0]
    for tag, status in zip(tags, (206, 200), strict=True):
        condition = [(b"range", b"bytes=100-"), (b"if-range", tag)]
        assert (await serve(lambda: FileResponse(page), headers=condition)).status == status


# --- HEAD ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("accepted", [b"gzip", None])
async def test_head_has_the_fields_of_get_but_the_length_that_it_does_not_know(
    make: Any, accepted: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RFC 9110 section 9.3.2: what only the content tells is left out; nothing is encoded."""
    get = await serve(lambda: make(headers={"etag": '"1"'}), accepted)
    monkeypatch.setattr(zlib, "compressobj", lambda level, *_: zlib.decompressobj())  # which encodes nothing
    head = await serve(lambda: make(headers={"etag": '"1"'}), accepted, method="HEAD")
    assert head.body == b""
    expected = [field for field in get.headers if field[0] != b"content-length" or accepted is None]
    assert head.headers == expected


async def test_head_that_the_endpoint_answers_without_content_is_judged_by_its_length() -> None:
    """The length that it declares is that of the GET."""
    for length, compressed in ((5000, True), (500, False)):

        def build(length: int = length) -> Response:
            return Response(b"", headers={"content-length": str(length)}, content_type="text/plain")

        channel = await serve(build, method="HEAD")
        assert (b"content-encoding" in answer(channel)) is compressed
        assert (b"content-length" in answer(channel)) is not compressed


# --- what is carried over --------------------------------------------------------------------------------


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("accepted", [b"gzip", None])
async def test_cookies_status_and_background_work_are_carried_over(make: Any, accepted: bytes | None) -> None:
    """And debug information, for clients of tests."""
    done: list[str] = []

    def build() -> Response:
        response: Response = make(status_code=201, background=lambda: done.append("background"))
        response.set_cookie("a", "1")
        response.set_cookie("b", "2")
        response.debug_info = {"template": "x"}
        return response

    channel = await serve(build, accepted)
    assert channel.status == 201
    assert [value[:3] for name, value in channel.headers if name == b"set-cookie"] == [b"a=1", b"b=2"]
    assert done == ["background"]
    offered: dict[str, Any] = {"http.response.debug": {}}

    async def endpoint(request: Request) -> Response:
        return build()

    channel = await call(
        Handler(endpoint, compression=GZIP), headers=[(b"accept-encoding", b"gzip")], extensions=offered
    )
    assert channel.sent[0] == {"type": "http.response.debug", "info": {"template": "x"}}


@pytest.mark.parametrize("make", KINDS)
async def test_trailers_follow_the_compressed_body(make: Any) -> None:
    """They are computed when it was sent."""

    def build() -> Response:
        response: Response = make()
        response.set_trailers(["x-after"], lambda: {"x-after": "1"})
        return response

    async def endpoint(request: Request) -> Response:
        return build()

    channel = await call(
        Handler(endpoint, compression=GZIP),
        headers=[(b"accept-encoding", b"gzip")],
        extensions={"http.response.trailers": {}},
    )
    *_, last = channel.sent
    assert last["type"] == "http.response.trailers"
    assert last["headers"] == [(b"x-after", b"1")]
    encoded = b"".join(message["body"] for message in channel.sent if message["type"] == "http.response.body")
    assert decode("gzip", encoded) == TEXT


async def test_response_that_is_used_for_many_requests_is_not_changed() -> None:
    """Clients that want it compressed and those that do not take turns."""
    response = text(headers={"etag": '"1"', "vary": "cookie"})
    before = response.raw_headers()
    for accepted in (b"gzip", None, b"gzip", b"gzip;q=0"):
        channel = await serve(lambda: response, accepted)
        assert decode("gzip" if accepted == b"gzip" else None, channel.body) == TEXT
        assert response.raw_headers() == before
        assert response.body == TEXT


async def test_hooks_see_the_response_before_and_what_was_sent_after() -> None:
    """response_ready may still change it; request_finished gets what went out."""
    seen: list[Any] = []

    class Framework(Handler):
        async def response_ready(self, request: Any, response: Response) -> None:
            response.headers["x-late"] = "1"
            seen.append(response.body)

        async def request_finished(self, request: Any, response: Response | None) -> None:
            assert response is not None
            seen.append(dict(response.headers))

    async def endpoint(request: Request) -> Response:
        return text()

    channel = await call(Framework(endpoint, compression=GZIP), headers=[(b"accept-encoding", b"gzip")])
    assert seen[0] == TEXT
    assert seen[1]["content-encoding"] == "gzip"
    assert answer(channel)[b"x-late"] == b"1"


async def test_response_with_a_field_that_must_not_leave_is_a_500(caplog: pytest.LogCaptureFixture) -> None:
    """As without compression."""

    def build() -> Response:
        response = text()
        response.headers["content-length"] = "1"
        return response

    assert (await serve(build)).status == 500
    assert len(caplog.records) == 1


@pytest.mark.parametrize("headers", [None, [(b"accept-encoding",)], 5, iter(()), [(b"accept-encoding", "gzip")]])
async def test_request_whose_fields_cannot_be_read_gets_the_response_as_it_is(headers: Any) -> None:
    """Where a framework did not refuse it: a response is no place to complain of the request."""
    applied = await GZIP.apply(http_scope(headers=headers), text())
    assert applied.body == TEXT


# --- requests --------------------------------------------------------------------------------------------


async def test_request_body_that_is_encoded_arrives_as_it_was_sent() -> None:
    """Nothing is decoded, so that 100 KiB stay 100 KiB."""
    bomb = zlib.compress(bytes(20_000_000), 9, 31)

    async def endpoint(request: Request) -> Response:
        assert await request.body() == bomb
        return Response("ok")

    headers = [(b"content-encoding", b"gzip"), (b"content-length", str(len(bomb)).encode())]
    channel = await call(Handler(endpoint, compression=GZIP), body_messages(bomb), method="POST", headers=headers)
    assert channel.body == b"ok"


async def test_response_that_was_compressed_is_not_compressed_again() -> None:
    """Applied to its own result it does nothing."""
    scope = http_scope(headers=[(b"accept-encoding", b"gzip")])
    once = await GZIP.apply(scope, text())
    assert once.headers["content-encoding"] == "gzip"
    assert await GZIP.apply(scope, once) is once
