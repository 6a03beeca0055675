"""_parts.py: multipart forms part by part, in asynchronous endpoints and in others."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from clocks import Beats, Clock
from faults import turn
from forms import BOUNDARY, cut, form_scope, multipart, needs_multipart, part

from asgicore import (
    BodyConsumedError,
    ClientDisconnectedError,
    Handler,
    Limits,
    MalformedBodyError,
    Part,
    Request,
    Response,
    SyncPart,
    UnsupportedMediaTypeError,
    _parts,
)
from asgicore._form_data import PartParser
from asgicore.testing import DISCONNECT, Channel

pytestmark = needs_multipart

FILE = bytes(range(256)) * 600
FORM = multipart(
    part("title", "café".encode()),
    part("file", FILE, "a.bin", b"Content-Type: application/octet-stream"),
    part("file", b"", ""),
    part("note", b"\xcf\xf0", None, b"Content-Type: text/plain; charset=windows-1251"),
)
EXPECTED = [
    ("title", None, "", "café".encode()),
    ("file", "a.bin", "application/octet-stream", FILE),
    ("file", "", "", b""),
    ("note", None, "text/plain", b"\xcf\xf0"),
]

modes = pytest.mark.parametrize("mode", ["spool", "stream"])
# In memory, and on disk.
thresholds = pytest.mark.parametrize("threshold", [2**20, 1000], ids=["memory", "disk"])


async def serve(
    endpoint: Callable[[Request], Any],
    body: bytes = FORM,
    *,
    mode: Any = "stream",
    size: int = 10_000,
    content_type: bytes = b"multipart/form-data; boundary=" + BOUNDARY,
    **limits: Any,
) -> Channel:
    """Run one request with a form, cut into messages of ``size`` bytes."""
    server = Channel(cut(body, size))
    handler = Handler(endpoint, body=mode, limits=Limits(**limits))
    with anyio.fail_after(20):
        await handler(form_scope(content_type), server.receive, server.send)
    return server


@modes
@thresholds
@pytest.mark.parametrize("size", [50, 10**6], ids=["cut", "whole"])
async def test_parts_of_a_form_are_iterated_with_their_content(mode: str, threshold: int, size: int) -> None:
    """Heads and contents come in order, whether the body is kept or not."""
    found = []

    async def endpoint(request: Request) -> Response:
        async for one in request.multipart():
            assert isinstance(one, Part)
            pieces = [piece async for piece in one.stream()]
            assert all(pieces)
            found.append((one.name, one.filename, one.content_type, b"".join(pieces)))
        return Response()

    server = await serve(endpoint, mode=mode, size=size, spool_threshold_bytes=threshold)
    assert server.status == 200
    assert found == EXPECTED


@thresholds
async def test_parts_of_a_form_are_iterated_in_synchronous_endpoints(threshold: int) -> None:
    """The twins do the same without ``await``."""
    found = []

    def endpoint(request: Request) -> Response:
        for one in request.multipart_nowait():
            assert isinstance(one, SyncPart)
            found.append((one.name, one.filename, one.content_type, b"".join(one.stream())))
        return Response()

    server = await serve(endpoint, mode="spool", spool_threshold_bytes=threshold)
    assert server.status == 200
    assert found == EXPECTED


async def test_part_says_what_its_head_says() -> None:
    """Name, file name, type, charset and header fields."""

    async def endpoint(request: Request) -> Response:
        seen = [one async for one in request.multipart()]
        last = seen[-1]
        assert (last.charset, seen[0].charset) == ("windows-1251", None)
        assert last.headers["content-type"] == "text/plain; charset=windows-1251"
        assert last.headers is last.headers
        assert repr(seen[1]) == "<Part 'file' 'a.bin'>"
        return Response()

    assert (await serve(endpoint)).status == 200


@modes
async def test_part_that_is_read_whole_gives_bytes_or_text(mode: str) -> None:
    """Text is UTF-8, unless the part names another charset."""

    async def endpoint(request: Request) -> Response:
        texts = []
        async for one in request.multipart():
            if one.filename is None:
                texts.append(await one.text())
            else:
                texts.append(str(len(await one.read())))
        return Response(" ".join(texts))

    server = await serve(endpoint, mode=mode)
    assert server.body.decode() == f"café {len(FILE)} 0 Пр"


async def test_part_that_is_read_whole_in_a_synchronous_endpoint_gives_bytes_or_text() -> None:
    """As in an asynchronous one."""

    def endpoint(request: Request) -> Response:
        parts = request.multipart_nowait()
        texts = [one.text() if one.filename is None else str(len(one.read())) for one in parts]
        return Response(" ".join(texts))

    server = await serve(endpoint, mode="spool")
    assert server.body.decode() == f"café {len(FILE)} 0 Пр"


@modes
async def test_part_that_is_not_read_is_skipped(mode: str) -> None:
    """Asking for the next one passes over what is left, of a part that was begun too."""
    names = []

    async def endpoint(request: Request) -> Response:
        async for one in request.multipart():
            names.append(one.name)
            if one.filename:
                async for _ in one.stream():
                    break
        return Response()

    assert (await serve(endpoint, mode=mode, size=1000)).status == 200
    assert names == ["title", "file", "file", "note"]


async def test_part_that_is_not_read_is_skipped_in_a_synchronous_endpoint() -> None:
    """As in an asynchronous one."""

    def endpoint(request: Request) -> Response:
        names = []
        for one in request.multipart_nowait():
            names.append(one.name)
            next(one.stream(), None)
        return Response(" ".join(names))

    assert (await serve(endpoint, mode="spool", spool_threshold_bytes=10)).body == b"title file file note"


async def test_part_that_is_gone_says_so() -> None:
    """The data of a part cannot be had when the next one was asked for."""

    async def endpoint(request: Request) -> Response:
        reader = request.multipart()
        first = await anext(reader)
        second = await anext(reader)
        pieces = second.stream()
        assert await anext(pieces)
        third = await anext(reader)
        with pytest.raises(BodyConsumedError, match="the part 'title' is gone: the next one was asked for"):
            await first.read()
        with pytest.raises(BodyConsumedError, match="the part 'file' is gone"):
            await anext(pieces)
        assert await third.read() == b""
        fourth = await anext(reader)
        with pytest.raises(StopAsyncIteration):
            await anext(reader)
        with pytest.raises(BodyConsumedError, match="the part 'note' is gone"):
            await fourth.text()
        return Response()

    assert (await serve(endpoint, size=1000)).status == 200


async def test_part_that_is_gone_says_so_in_a_synchronous_endpoint() -> None:
    """As in an asynchronous one."""

    def endpoint(request: Request) -> Response:
        reader = request.multipart_nowait()
        first, second = next(reader), next(reader)
        pieces = second.stream()
        assert next(pieces)
        next(reader)
        with pytest.raises(BodyConsumedError, match="the part 'title' is gone"):
            first.read()
        with pytest.raises(BodyConsumedError, match="the part 'file' is gone"):
            next(pieces)
        assert len(list(reader)) == 1
        return Response()

    assert (await serve(endpoint, mode="spool", spool_threshold_bytes=10)).status == 200


async def test_part_that_is_used_twice_says_so() -> None:
    """It is not kept: a second use is an error and never an empty content."""

    async def endpoint(request: Request) -> Response:
        async for one in request.multipart():
            await one.read()
            with pytest.raises(BodyConsumedError, match=r"stream\(\) after read\(\) of the part '\w+'"):
                one.stream()
            with pytest.raises(BodyConsumedError, match=r"read\(\) after read\(\)"):
                await one.text()
        return Response()

    def synchronous(request: Request) -> Response:
        for one in request.multipart_nowait():
            one.stream()
            with pytest.raises(BodyConsumedError, match=r"read\(\) after stream\(\)"):
                one.read()
        return Response()

    assert (await serve(endpoint)).status == 200
    assert (await serve(synchronous, mode="spool")).status == 200


async def test_part_stream_that_has_ended_stays_ended() -> None:
    """Asked again at its end it gives nothing, and takes nothing of the next part."""

    async def endpoint(request: Request) -> Response:
        async for one in request.multipart():
            pieces = one.stream()
            assert pieces.__aiter__() is pieces
            assert [piece async for piece in pieces] or one.filename == ""
            with pytest.raises(StopAsyncIteration):
                await anext(pieces)
        return Response("whole")

    assert (await serve(endpoint)).body == b"whole"


@modes
async def test_part_that_is_too_large_to_be_read_whole_is_refused(mode: str) -> None:
    """413 with the name of the field; streamed, it may have any size."""

    async def endpoint(request: Request) -> Response:
        async for one in request.multipart():
            if request.query_string:
                async for _ in one.stream():
                    pass
            else:
                await one.read()
        return Response("all")

    server = await serve(endpoint, mode=mode, max_form_field_bytes=1000)
    assert (server.status, server.body) == (413, b"form field 'file': larger than the limit of 1000 bytes")


async def test_part_that_is_too_large_is_refused_in_a_synchronous_endpoint() -> None:
    """As in an asynchronous one, and at the limit it passes."""

    def endpoint(request: Request) -> Response:
        sizes = [len(one.read()) for one in request.multipart_nowait()]
        return Response(str(max(sizes)))

    server = await serve(endpoint, mode="spool", max_form_field_bytes=len(FILE) - 1)
    assert server.status == 413
    server = await serve(endpoint, mode="spool", max_form_field_bytes=len(FILE))
    assert server.body == str(len(FILE)).encode()
    server = await serve(endpoint, mode="spool", max_form_field_bytes=None)
    assert server.body == str(len(FILE)).encode()


# --- while it comes --------------------------------------------------------------------------------------


async def test_parts_reach_the_endpoint_while_the_body_comes() -> None:
    """In stream mode a part is there when its head is, its content when it comes."""
    body = multipart(part("a", b"1"), part("b", b"22222"))
    messages = cut(body, 1)
    log: list[str] = []

    async def endpoint(request: Request) -> Response:
        async for one in request.multipart():
            log.append(f"{one.name} at {server.received}")
            log.extend([f"{piece.decode()} at {server.received}" async for piece in one.stream()])
        return Response()

    server = Channel(messages, suspends=True)
    with anyio.fail_after(10):
        await Handler(endpoint, body="stream")(form_scope(), server.receive, server.send)
    head = body.index(b"\r\n\r\n") + 4
    second = body.index(b"\r\n\r\n", head) + 4
    assert log[:2] == [f"a at {head}", f"1 at {head + 1}"]
    assert log[2:5] == [f"b at {second}", f"2 at {second + 1}", f"2 at {second + 2}"]


@pytest.mark.parametrize("number", range(6))
async def test_parts_of_a_client_that_leaves_raise(number: int) -> None:
    """A disconnect in the middle is never taken for the end of a form."""
    raised = []

    async def endpoint(request: Request) -> Response:
        try:
            async for one in request.multipart():
                async for _ in one.stream():
                    pass
        except ClientDisconnectedError as exc:
            raised.append(exc)
            raise
        return Response("whole")

    messages = [*cut(FORM, len(FORM) // 5)[:number], DISCONNECT]
    for message in messages[:-1]:
        message["more_body"] = True
    server = Channel(messages)
    with anyio.fail_after(10):
        await Handler(endpoint, body="stream", on_disconnect="notify")(form_scope(), server.receive, server.send)
    assert len(raised) == 1
    assert server.sent == []


async def test_parts_whose_reading_was_cancelled_cannot_be_gone_on_with() -> None:
    """What a timeout of the endpoint cut short is not taken for a whole form."""
    caught = []

    async def endpoint(request: Request) -> Response:
        reader = request.multipart()
        with anyio.CancelScope() as scope:
            async for one in reader:
                async for _ in one.stream():
                    if one.filename:
                        scope.cancel()
        with pytest.raises(BodyConsumedError, match="its reading was cut short"):
            await anext(reader)
        caught.append(scope.cancelled_caught)
        return Response()

    server = Channel(cut(FORM, 20_000)[:2])
    with anyio.fail_after(10):
        await Handler(endpoint, body="stream")(form_scope(), server.receive, server.send)
    assert caught == [True]


@pytest.mark.parametrize("reads", [False, True])
async def test_parts_of_an_endpoint_that_stops_in_the_middle_leave_nothing(reads: bool) -> None:
    """The rest of the upload is held back, and whoever was received from is closed with the request."""
    received = 0
    body = multipart(*[part("f", bytes(50_000), "f")] * 20)

    async def endpoint(request: Request) -> Response:
        async for one in request.multipart():
            if reads:
                async for _ in one.stream():
                    break
            break
        await turn(5)
        return Response("enough")

    server = Channel(cut(body, 10_000))
    with anyio.fail_after(10):
        await Handler(endpoint, body="stream")(form_scope(), server.receive, server.send)
    received = server.received
    assert server.body == b"enough"
    assert received < 5


# --- what is refused -------------------------------------------------------------------------------------


@modes
@pytest.mark.parametrize(
    ("content_type", "status", "text"),
    [
        (b"", 415, "content-type: missing; multipart/form-data is wanted"),
        (b"text/plain", 415, "content-type: 'text/plain'; multipart/form-data is wanted"),
        (b"application/x-www-form-urlencoded", 415, "content-type: 'application/x-www-form-urlencoded'; "),
        (b"multipart/mixed; boundary=x", 415, "content-type: 'multipart/mixed'"),
        (b"multipart/form-data", 400, "content-type: its boundary is missing"),
        (b"multipart/form-data; boundary=", 400, "content-type: its boundary is missing"),
        (b'multipart/form-data; boundary="' + b"x" * 71 + b'"', 400, "content-type: its boundary is none"),
        (b"multipart/form-data; boundary=" + b"x" * 5000, 400, "content-type: longer than 4096 bytes"),
    ],
)
async def test_parts_of_another_content_type_are_refused_at_once(
    mode: str, content_type: bytes, status: int, text: str
) -> None:
    """415 for another media type, 400 for a boundary that cannot be; in stream mode before anything is received."""

    async def endpoint(request: Request) -> Response:
        request.multipart()
        return Response("not reached")

    server = await serve(endpoint, mode=mode, content_type=content_type)
    assert server.status == status
    assert server.body.decode().startswith(text)
    if mode == "stream":
        assert server.received == 0


async def test_parts_of_another_content_type_are_refused_in_a_synchronous_endpoint() -> None:
    """As in an asynchronous one."""

    def endpoint(request: Request) -> Response:
        with pytest.raises(UnsupportedMediaTypeError):
            request.multipart_nowait()
        return Response("refused")

    assert (await serve(endpoint, mode="spool", content_type=b"text/plain")).body == b"refused"


@modes
async def test_parts_of_a_malformed_form_are_refused_where_it_is_malformed(mode: str) -> None:
    """What came before is given; then a 400, and asked again the same."""
    names = []

    async def endpoint(request: Request) -> Response:
        reader = request.multipart()
        with pytest.raises(MalformedBodyError) as caught:
            async for one in reader:
                names.append(one.name)  # noqa: PERF401 - what came before the error counts
        with pytest.raises(MalformedBodyError) as again:
            await anext(reader)
        assert again.value is caught.value
        raise again.value

    server = await serve(endpoint, FORM[:-10], mode=mode, size=1000)
    assert (server.status, server.body) == (400, b"body: ends before the last boundary of its form")
    assert names == ["title", "file", "file", "note"]


async def test_parts_of_a_malformed_form_are_refused_in_a_synchronous_endpoint() -> None:
    """As in an asynchronous one."""

    def endpoint(request: Request) -> Response:
        return Response(str(len(list(request.multipart_nowait()))))

    assert (await serve(endpoint, FORM[:-10], mode="spool")).status == 400


@modes
async def test_parts_in_great_number_are_refused(mode: str) -> None:
    """20,000 parts: 400 as soon as there are more than fields and files may be."""
    count = 0

    async def endpoint(request: Request) -> Response:
        nonlocal count
        async for _ in request.multipart():
            count += 1
        return Response("not reached")

    server = await serve(endpoint, multipart(*[part("a", b"")] * 20_000), mode=mode, size=65536)
    assert (server.status, server.body) == (400, b"body: more than 1100 parts")
    assert count == 1100
    if mode == "stream":
        assert server.received < 4


async def test_parts_of_a_kept_body_can_be_iterated_again() -> None:
    """In spool mode the form begins anew with each iterator; in stream mode a second one raises at once."""

    async def spooled(request: Request) -> Response:
        counts = [len([one async for one in request.multipart()]) for _ in range(2)]
        return Response(str([*counts, len(await request.form())]))

    async def streamed(request: Request) -> Response:
        request.multipart()
        with pytest.raises(BodyConsumedError, match=r"multipart\(\) after multipart\(\)"):
            request.multipart()
        with pytest.raises(BodyConsumedError, match=r"form\(\) after multipart\(\)"):
            await request.form()
        return Response("raised")

    assert (await serve(spooled, mode="spool")).body == b"[4, 4, 4]"
    assert (await serve(streamed)).body == b"raised"


async def test_parts_where_the_body_is_not_here_say_so() -> None:
    """The synchronous twin in stream mode raises and names what to do."""

    async def endpoint(request: Request) -> Response:
        with pytest.raises(BodyConsumedError, match="the body is not here yet"):
            request.multipart_nowait()
        return Response("raised")

    assert (await serve(endpoint)).body == b"raised"


# --- fairness --------------------------------------------------------------------------------------------

EVENT_SECONDS = 50e-6


@modes
async def test_parts_of_a_body_that_is_here_let_others_run(
    mode: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much was received at once, parsing it does not hold the loop."""

    class Working(PartParser):
        def next(self) -> Any:
            clock.work(EVENT_SECONDS)
            return super().next()

    monkeypatch.setattr("asgicore._form.PartParser", Working)

    async def endpoint(request: Request) -> Response:
        return Response(str(len([one async for one in request.multipart()])))

    server = Channel(cut(multipart(*[part("a", b"x")] * 1000), 65536))
    beats = Beats(clock)
    handler = Handler(endpoint, body=mode)
    await beats.during(lambda: handler(form_scope(), server.receive, server.send))
    assert server.body == b"1000"
    assert beats.turns > 20
    assert beats.longest <= 0.005


async def test_parts_lose_nothing_to_a_cancellation_at_a_turn(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A timeout that comes while the parser gives way to others costs no part: the next call goes on."""

    async def cancelled() -> None:
        if scope is not None:
            scope.cancel()
        await checkpoint()

    monkeypatch.setattr(_parts, "checkpoint", cancelled)
    scope: anyio.CancelScope | None = None
    names: list[str] = []

    async def endpoint(request: Request) -> Response:
        nonlocal scope
        reader = request.multipart()
        clock.work(1)
        with anyio.CancelScope() as scope:
            await anext(reader)
        assert scope.cancelled_caught
        scope = None
        names.extend([one.name async for one in reader])
        return Response()

    assert (await serve(endpoint, mode="spool")).status == 200
    assert names == ["title", "file", "file", "note"]


def test_parts_of_a_lone_parser_are_iterators() -> None:
    """Readers are iterators over their parts and nothing else."""
    parser = PartParser({"boundary": BOUNDARY.decode()}, Limits())
    reader = _parts.SyncPartReader(parser, iter([FORM]), Limits())
    assert isinstance(reader, Iterator)
    assert iter(reader) is reader
    blocks: Any = None
    later = _parts.PartReader(parser, blocks, Limits())
    assert isinstance(later, AsyncIterator)
    assert later.__aiter__() is later
