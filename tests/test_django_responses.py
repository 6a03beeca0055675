"""Django's responses on the wire: what the client gets is what stock Django sends, but never what may not be sent."""

from __future__ import annotations

import logging
import math
from http import HTTPStatus
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.http import (
    FileResponse,
    HttpResponse,
    HttpResponseNotModified,
    HttpResponsePermanentRedirect,
    HttpResponseRedirect,
    JsonResponse,
    StreamingHttpResponse,
)
from django.template import engines
from django.template.response import TemplateResponse
from django_site import OURS, STOCK, Diary, ask, backends, both, noting, receivers, run, same, site
from faults import interim_passes
from hypothesis import given, settings
from hypothesis import strategies as st

from asgicore import ContentLengthError
from asgicore.errors import InvalidHeaderError
from asgicore.testing import Channel, check_messages

pytestmark = backends


def answering(make: Any, is_async: bool = True) -> Any:
    """A view that returns what ``make`` gives."""
    if not is_async:
        return lambda request: make()

    async def view(request: Any) -> Any:
        return make()

    return view


def lowered(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages with field names in lower case; difference of the bridge: Django's case is kept."""
    return [
        {**message, "headers": [(name.lower(), value) for name, value in message["headers"]]}
        if "headers" in message
        else message
        for message in messages
    ]


# --- whole responses ---------------------------------------------------------------------------------------


def with_headers(**headers: str) -> HttpResponse:
    response = HttpResponse(b"text")
    for name, value in headers.items():
        response[name.replace("_", "-")] = value
    return response


def with_cookies() -> HttpResponse:
    response = HttpResponse(b"text")
    response.set_cookie("one", "1", max_age=60, secure=True, httponly=True, samesite="Lax")
    response.set_cookie("two", 'quo"ted; and, more', path="/sub", domain="example.org")
    response.set_signed_cookie("three", "3", salt="pepper")
    response.delete_cookie("four")
    return response


RESPONSES = {
    "bytes": lambda: HttpResponse(b"text"),
    "text": lambda: HttpResponse("h\xf6her \u20ac"),
    "latin-1": lambda: HttpResponse("h\xf6her", content_type="text/plain; charset=latin-1"),
    "iterator": lambda: HttpResponse(iter([b"a", "b"])),
    "empty": lambda: HttpResponse(),
    "status": lambda: HttpResponse(b"text", status=418, reason="Short and stout"),
    "status of the enumeration": lambda: HttpResponse(b"text", status=HTTPStatus.ACCEPTED),
    "json": lambda: JsonResponse({"a": [1, "\u20ac"]}),
    "redirect": lambda: HttpResponseRedirect("/h\xf6her/?a=b"),
    "permanent": lambda: HttpResponsePermanentRedirect("/there"),
    "one chunk": lambda: HttpResponse(b"x" * 65536),
    "two chunks": lambda: HttpResponse(b"x" * 65537),
    "large": lambda: HttpResponse(b"0123456789abcdef" * 20000),
    "case": lambda: with_headers(X_CamelCase="1", x_lower="2", WWW_Authenticate="Basic"),
    "words beyond latin-1": lambda: with_headers(X_Word="\u20ac"),
    "words of latin-1": lambda: with_headers(X_Word="h\xf6her"),
    "spaces": lambda: with_headers(X_Word="a  b\tc"),
    "empty field": lambda: with_headers(X_Word=""),
    "cookies": with_cookies,
    "streamed text": lambda: StreamingHttpResponse(iter(["h\xf6her", b"more"])),
    "streamed latin-1": lambda: StreamingHttpResponse(["h\xf6her"], content_type="text/plain; charset=latin-1"),
    "streamed nothing": lambda: StreamingHttpResponse([]),
    "streamed large": lambda: StreamingHttpResponse([b"x" * 200000, b"", b"y"]),
    "streamed other": lambda: StreamingHttpResponse([1, memoryview(b"view")]),
}


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
@pytest.mark.parametrize("name", RESPONSES)
async def test_response_is_the_same_as_under_stock_django(name: str, is_async: bool) -> None:
    """Status, header names in their case, in their order, cookies and body."""
    from django.utils import timezone

    # Cookies that expire and signed ones tell the second.
    now = timezone.now()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.time", lambda: now.timestamp())
        with site(answering(RESPONSES[name], is_async)):
            outcome = await same()
    assert outcome.is_ended
    check_messages(lowered(outcome.channel.sent), complete=True)
    assert all(len(message.get("body", b"")) <= 65536 for message in outcome.channel.sent)


@pytest.mark.parametrize("name", [name for name in RESPONSES if not name.startswith("streamed")])
async def test_response_whose_body_is_there_declares_its_length(name: str) -> None:
    """Difference "length": one field, the length of the body, also of an empty one where a status allows a body."""
    with site(answering(RESPONSES[name])):
        outcome = await ask(OURS())
    has_body = outcome.body or outcome.status not in (204, 304)
    assert outcome.header("content-length") == ([str(len(outcome.body))] if has_body else [])


@pytest.mark.parametrize("name", RESPONSES)
async def test_response_has_names_in_lower_case_where_that_is_asked_for(name: str) -> None:
    """As ASGI wants them; nothing else changes."""
    with site(answering(RESPONSES[name])):
        kept, low = await ask(OURS()), await ask(OURS(preserve_header_case=False))
    check_messages(low.channel.sent, complete=True)
    dated = [(key, value) for key, value in low.channel.headers if key != b"set-cookie"]
    assert dated == [(key.lower(), value) for key, value in kept.channel.headers if key != b"Set-Cookie"]
    assert low.body == kept.body


async def test_response_whose_length_a_middleware_declares_declares_it_once() -> None:
    """Django's own ``CommonMiddleware`` gives the field already."""
    with site(answering(lambda: HttpResponse(b"text")), middleware=["django.middleware.common.CommonMiddleware"]):
        outcome = await same()
    assert outcome.channel.headers.count((b"Content-Length", b"4")) == 1


async def test_response_template_is_rendered_when_middleware_and_view_are_done() -> None:
    """A ``TemplateResponse`` is rendered late, with what its hooks put in, and its callbacks are called."""
    seen = []

    class Middleware:
        def __init__(self, get_response: Any) -> None:
            self.get_response = get_response

        def __call__(self, request: Any) -> Any:
            return self.get_response(request)

        def process_template_response(self, request: Any, response: Any) -> Any:
            response.context_data["name"] += ", late"
            response.add_post_render_callback(lambda rendered: seen.append(rendered.content))
            return response

    template = engines["django"].from_string("name: {{ name }}")
    for is_async in (True, False):
        view = answering(lambda: None)

        async def async_view(request: Any) -> Any:
            return TemplateResponse(request, template, {"name": "one"})

        def sync_view(request: Any) -> Any:
            return TemplateResponse(request, template, {"name": "one"})

        view = async_view if is_async else sync_view
        with site(view, middleware=[Middleware]):
            outcome = await same()
        assert outcome.body == b"name: one, late"
    assert seen == [b"name: one, late"] * 4


# --- what has no body --------------------------------------------------------------------------------------


def declared(response: Any) -> Any:
    response["Content-Length"] = "4"
    return response


class Counted:
    """An iterator that must not be read, and must be closed once."""

    def __init__(self) -> None:
        self.asked = self.closed = 0

    def __iter__(self) -> Counted:
        return self

    def __next__(self) -> bytes:
        self.asked += 1
        return b"x"

    def close(self) -> None:
        self.closed += 1


class AsyncCounted:
    """The same, asynchronous."""

    def __init__(self) -> None:
        self.asked = self.closed = 0

    def __aiter__(self) -> AsyncCounted:
        return self

    async def __anext__(self) -> bytes:
        self.asked += 1
        return b"x"

    async def aclose(self) -> None:
        self.closed += 1


BODILESS = [("HEAD", 200), ("GET", 204), ("GET", 304), ("HEAD", 404), ("GET", 101), ("GET", 103)]


@interim_passes
@pytest.mark.parametrize(("method", "status"), BODILESS)
@pytest.mark.parametrize("kind", ["whole", "declared", "sync stream", "async stream", "file"])
async def test_response_that_may_have_no_body_has_none(method: str, status: int, kind: str, tmp_path: Any) -> None:
    """Difference "bodiless": the head is that of stock Django; nothing follows it, nothing is read, all is closed."""
    sources: list[Any] = []
    files: list[Any] = []
    path = tmp_path / "file.bin"
    path.write_bytes(b"text")

    def make() -> Any:
        if kind == "whole":
            return HttpResponse(b"text", status=status)
        if kind == "declared":
            return declared(HttpResponse(b"text", status=status))
        if kind == "file":
            files.append(open(path, "rb"))
            return FileResponse(files[-1], status=status)
        sources.append(Counted() if kind == "sync stream" else AsyncCounted())
        return StreamingHttpResponse(sources[-1], status=status)

    diary = Diary()
    with site(answering(make)), receivers(diary):
        outcome = await run(noting(OURS, diary), Channel(), diary, method=method)
    assert outcome.raised is None
    assert outcome.status == status
    assert outcome.body == b""
    check_messages(lowered(outcome.channel.sent), method=method, complete=True)
    lengths = outcome.header("content-length")
    if status < 200 or status == 204:
        assert lengths == []
    elif kind in ("whole", "declared", "file"):
        assert lengths == ["4"]
    for source in sources:
        assert source.asked == 0
        assert source.closed == 1
    assert all(file.closed for file in files)
    assert diary.events == ["started", "request.close", "finished"]


@pytest.mark.parametrize("method", ["HEAD", "GET"])
async def test_response_head_is_that_of_stock_django_where_there_is_no_body(method: str) -> None:
    """A ``HttpResponseNotModified`` and a conditional view give the same fields."""
    with site(answering(HttpResponseNotModified), middleware=["django.middleware.http.ConditionalGetMiddleware"]):
        theirs, mine = await both(method=method)
    assert (mine.status, mine.headers) == (theirs.status, theirs.headers)
    assert mine.body == b""


async def test_response_conditional_get_is_304_without_body() -> None:
    """Django's own ``ConditionalGetMiddleware`` compares the entity tag; what it returns goes out as it is."""
    with site(answering(lambda: HttpResponse(b"text")), middleware=["django.middleware.http.ConditionalGetMiddleware"]):
        tag = (await same()).header("etag")[0].encode()
        outcome = await same(headers=[(b"host", b"x"), (b"if-none-match", tag)])
    assert outcome.status == 304
    assert outcome.body == b""


# --- lengths that lie --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [4, 100_004])
@pytest.mark.parametrize(
    "declaration", ["{short}", "{long}", "-{true}", "+{true}", "{true}x", "", "{true}, {true}", "0", "\u0664", "9" * 30]
)
async def test_response_whose_declared_length_is_wrong_never_leaves(size: int, declaration: str) -> None:
    """A length that is not that of the body would let one response be read as two (SECURITY row 33)."""

    def make() -> HttpResponse:
        response = HttpResponse(b"x" * size)
        response["Content-Length"] = declaration.format(short=size - 1, long=size + 1, true=size)
        return response

    with site(answering(make)):
        outcome = await ask(OURS())
    check_messages(lowered(outcome.channel.sent))
    assert outcome.status == 500
    assert outcome.is_ended


@pytest.mark.parametrize("is_async", [True, False])
async def test_response_stream_longer_than_declared_is_cut_and_raises(is_async: bool) -> None:
    """Not a byte beyond the declared length leaves, and the response is not ended as if it were whole."""

    async def parts() -> Any:
        for part in (b"ab", b"cd"):
            yield part

    def make() -> Any:
        response = StreamingHttpResponse(parts() if is_async else iter([b"ab", b"cd"]))
        response["Content-Length"] = "3"
        return response

    diary = Diary()
    with site(answering(make)), receivers(diary):
        outcome = await run(noting(OURS, diary), Channel(), diary)
    assert isinstance(outcome.raised, ContentLengthError)
    assert outcome.body == b"ab"
    assert not outcome.is_ended
    assert diary.events == ["started", "request.close", "finished"]


@pytest.mark.parametrize("is_async", [True, False])
async def test_response_stream_shorter_than_declared_is_not_ended(is_async: bool) -> None:
    """The client can tell that something is missing."""

    async def parts() -> Any:
        yield b"ab"

    def make() -> Any:
        response = StreamingHttpResponse(parts() if is_async else iter([b"ab"]))
        response["Content-Length"] = "3"
        return response

    with site(answering(make)):
        outcome = await ask(OURS())
    assert isinstance(outcome.raised, ContentLengthError)
    assert not outcome.is_ended


# --- fields that may not leave -----------------------------------------------------------------------------


BAD_VALUES = ["a\x00b", "a\x01", "\x7f", "a\x1b[2J", "\x08", "a\x0bb", "a\x0cb"]


@pytest.mark.parametrize("value", BAD_VALUES)
@pytest.mark.parametrize("kind", ["header", "content type", "cookie", "stream"])
async def test_response_field_with_a_control_character_never_leaves(
    kind: str, value: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Difference "controls": the response becomes a 500, and the log names the field."""

    def make() -> Any:
        if kind == "stream":
            response: Any = StreamingHttpResponse([b"text"])
            response["X-Word"] = value
        elif kind == "content type":
            response = HttpResponse(b"text", content_type=value)
        else:
            response = HttpResponse(b"text")
            if kind == "header":
                response["X-Word"] = value
            else:
                response.cookies["name"] = "value"
                response.cookies["name"]._value = response.cookies["name"]._coded_value = value
        return response

    with site(answering(make)):
        outcome = await ask(OURS())
    assert outcome.raised is None
    check_messages(lowered(outcome.channel.sent), complete=True)
    assert outcome.status == 500
    assert [name for name, _ in outcome.channel.headers if name in (b"X-Word", b"Set-Cookie")] == []
    errors = [record.exc_info[1] for record in caplog.records if record.exc_info]
    assert [type(error) for error in errors] == [InvalidHeaderError]


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\rb"])
async def test_response_field_with_a_newline_is_refused_by_django_itself(value: str) -> None:
    """Django raises when it is set, in the view: the same 500."""

    def make() -> Any:
        response = HttpResponse()
        response["X-Word"] = value
        return response

    with site(answering(make)):
        assert (await same()).status == 500


@pytest.mark.parametrize(
    "store",
    [
        lambda response: response.headers._store.update(x=("X-Word", "a\r\nX-Evil: 1")),
        lambda response: response.headers._store.update(x=("X-Word\r\nX-Evil", "1")),
        lambda response: response.headers._store.update(x=("X Word", "1")),
        lambda response: response.headers._store.update(x=("", "1")),
        lambda response: response.headers._store.update(x=("X-W\xf6rd", "1")),
        lambda response: response.set_cookie("name", "value", path="/\r\nX-Evil: 1"),
        lambda response: response.set_cookie("name", "value", domain="a\x00b"),
    ],
    ids=["value", "name", "space", "empty", "latin-1", "cookie path", "cookie domain"],
)
async def test_response_field_that_got_past_django_never_leaves(store: Any) -> None:
    """Whatever way a field came in, it is checked before it goes out."""

    def make() -> Any:
        response = HttpResponse(b"text")
        store(response)
        return response

    with site(answering(make)):
        outcome = await ask(OURS())
    check_messages(lowered(outcome.channel.sent), complete=True)
    assert outcome.status == 500
    assert b"Evil" not in repr(outcome.channel.sent).encode()


@pytest.mark.parametrize("status", [0, 99, 600, 1000, -1, "200", None, 200.0])
async def test_response_status_that_is_none_never_leaves(status: Any) -> None:
    """Django checks the status when a response is made; what is set later is checked before it goes out."""

    def make() -> Any:
        response = HttpResponse(b"text")
        response.status_code = status
        return response

    with site(answering(make)):
        outcome = await ask(OURS())
    check_messages(lowered(outcome.channel.sent), complete=True)
    assert outcome.status == 500


@pytest.mark.parametrize("name", ["Connection", "Keep-Alive", "Transfer-Encoding", "Proxy-Connection"])
@pytest.mark.parametrize("kind", [HttpResponse, StreamingHttpResponse])
async def test_response_hop_by_hop_field_is_dropped(name: str, kind: Any) -> None:
    """Difference "hop-by-hop": what is between server and client is the server's to say."""

    def make() -> Any:
        response = kind([b"text"])
        response[name] = "chunked"
        response["X-Other"] = "stays"
        return response

    with site(answering(make)):
        outcome = await ask(OURS())
    assert outcome.header(name) == []
    assert outcome.header("x-other") == ["stays"]
    assert outcome.body == b"text"


@pytest.mark.untraced
@interim_passes
@given(
    name=st.text(max_size=8) | st.sampled_from(["X-Word", "content-length", "Set-Cookie", "Transfer-Encoding"]),
    value=st.text(max_size=20),
    cookie=st.text(max_size=20),
    status=st.integers(90, 610),
)
@settings(max_examples=150)
async def test_response_whatever_the_view_sets_is_legal_on_the_wire(
    name: str, value: str, cookie: str, status: int
) -> None:
    """No name, value, cookie or status makes messages that a server may choke on."""

    async def view(request: Any) -> HttpResponse:
        response = HttpResponse(b"text")
        response.status_code = status
        response.headers._store["x"] = (name, value)
        response.set_cookie("name", cookie)
        return response

    with site(view):
        outcome = await ask(OURS())
    check_messages(lowered(outcome.channel.sent), complete=True)
    assert all(isinstance(field, bytes) for pair in outcome.channel.headers for field in pair)


# --- what a view should not return -------------------------------------------------------------------------


@pytest.mark.parametrize("what", [None, "text", b"bytes", 3, math.inf, {"a": 1}])
@pytest.mark.parametrize("is_async", [True, False])
async def test_response_that_is_none_is_answered_as_by_stock_django(what: Any, is_async: bool) -> None:
    """A view that returns something else is an error page; Django's own where Django looks."""
    with site(answering(lambda: what, is_async)):
        theirs, mine = await both()
    assert mine.status == 500
    # Difference "errors": what Django would raise to the server.
    assert mine.answer == theirs.answer or (theirs.raised is not None and theirs.channel.sent == [])


async def test_response_of_a_view_that_returns_a_coroutine_is_answered_as_by_stock_django(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A forgotten ``await`` has Django's own words in the log."""

    made = []

    async def inner() -> None: ...

    async def view(request: Any) -> Any:
        made.append(inner())
        return made[-1]

    with site(view):
        assert (await same()).status == 500
    for coroutine in made:
        coroutine.close()
    texts = [str(record.exc_info[1]) for record in caplog.records if record.exc_info]
    assert len(texts) == 2
    assert all("unawaited coroutine" in text for text in texts)


async def test_response_of_the_same_object_twice_is_sent_twice() -> None:
    """A response that a site keeps, as some caches do, goes out every time."""
    kept = HttpResponse(b"kept")
    with site(answering(lambda: kept)):
        handler = OURS()
        assert [(await ask(handler)).body for _ in range(3)] == [b"kept"] * 3


async def test_response_is_logged_as_by_stock_django(caplog: pytest.LogCaptureFixture) -> None:
    """Django's records of 4xx and 5xx come from Django, once."""

    def make() -> Any:
        raise RuntimeError("view")

    found = []
    for base in (STOCK, OURS):
        caplog.clear()
        with site(answering(make)):
            await ask(base())
        found.append([(record.name, record.levelno, record.getMessage()) for record in caplog.records])
    assert found[0] == found[1]
    assert found[1] == [("django.request", logging.ERROR, "Internal Server Error: /")]
    assert django_settings.configured
