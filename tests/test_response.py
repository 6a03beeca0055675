"""_response.py: what an endpoint returns, and everything that may not leave in it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy, MultiDict

import asgicore
from asgicore import (
    ContentLengthError,
    Handler,
    Headers,
    HTMLResponse,
    HTTPError,
    InvalidHeaderError,
    JSONResponse,
    RedirectResponse,
    Request,
    Response,
    ResponseStateError,
    StreamingResponse,
)
from asgicore._grammar import NOT_FIELD_VALUE_BYTES
from asgicore.testing import Channel, call, http_scope


async def parts(*items: bytes | str) -> AsyncIterator[bytes | str]:
    """A body in parts."""
    for item in items:
        yield item


async def nothing() -> None:
    """Background work that does nothing."""


EVERY_CLASS: dict[str, Callable[..., Response]] = {
    "Response": lambda **options: Response(b"", **options),
    "HTMLResponse": lambda **options: HTMLResponse(b"", **options),
    "JSONResponse": lambda **options: JSONResponse({}, **options),
    "RedirectResponse": lambda **options: RedirectResponse("/", **{"status_code": 307, **options}),
    "StreamingResponse": lambda **options: StreamingResponse(parts(), **options),
}
each_class = pytest.mark.parametrize("build", EVERY_CLASS.values(), ids=EVERY_CLASS)

# --- the body --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "body", "content_type"),
    [
        pytest.param(b"", b"", None, id="nothing"),
        pytest.param(b"a", b"a", None, id="bytes"),
        pytest.param(bytearray(b"a"), b"a", None, id="bytearray"),
        pytest.param(memoryview(b"abc")[1:], b"bc", None, id="memoryview"),
        pytest.param(
            memoryview(b"\x01\x00\x02\x00").cast("H"), b"\x01\x00\x02\x00", None, id="memoryview of two-byte items"
        ),
        pytest.param("é", "é".encode(), b"text/plain; charset=utf-8", id="text"),
        pytest.param("", b"", b"text/plain; charset=utf-8", id="empty text"),
    ],
)
def test_response_of_content_has_body_length_and_type(content: Any, body: bytes, content_type: bytes | None) -> None:
    """Bytes go out as they are and without a type, text as UTF-8; the length is that of the bytes."""
    response = Response(content)
    assert response.body == body
    assert type(response.body) is bytes
    expected = [] if content_type is None else [(b"content-type", content_type)]
    assert response.raw_headers() == [*expected, (b"content-length", str(len(body)).encode())]
    assert response.status_code == 200
    assert response.background is None


@pytest.mark.parametrize("content", [None, 5, {"a": 1}, ["a"], object(), iter([b"a"])])
def test_response_of_other_content_is_a_type_error(content: Any) -> None:
    """What is neither bytes nor text is refused, with the class to use instead."""
    with pytest.raises(TypeError, match="JSONResponse"):
        Response(content)


def test_response_of_async_iterable_is_a_type_error() -> None:
    """An iterable is for StreamingResponse."""
    with pytest.raises(TypeError, match="StreamingResponse"):
        Response(parts())  # type: ignore[arg-type]


def test_html_response_of_content_has_its_type() -> None:
    """Bytes or text, an HTMLResponse is HTML."""
    for content in ("é", "é".encode()):
        assert HTMLResponse(content).headers["content-type"] == "text/html; charset=utf-8"


def test_body_when_set_adjusts_the_length() -> None:
    """A body put in place of another takes its length along."""
    response = Response("a", headers={"content-length": "1"})
    response.body = "éé"
    assert response.body == "éé".encode()
    assert response.raw_headers() == [(b"content-length", b"4"), (b"content-type", b"text/plain; charset=utf-8")]
    response.body = b""
    assert response.headers.getall("content-length") == ["0"]
    with pytest.raises(TypeError):
        response.body = None  # type: ignore[assignment]


# --- laziness --------------------------------------------------------------------------------------------


def test_response_without_touching_headers_builds_no_multidict(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ready list of byte pairs goes out: cookies and header arguments need no multidict either."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a multidict was built")

    monkeypatch.setattr(Headers, "__init__", refuse)
    response = Response("a", headers={"X-A": "b"})
    response.set_cookie("c", "d")
    response.delete_cookie("e")
    assert [name for name, _ in response.raw_headers()] == [
        b"x-a",
        b"content-type",
        b"content-length",
        b"set-cookie",
        b"set-cookie",
    ]
    for built in (HTMLResponse("a"), JSONResponse({}), RedirectResponse("/"), StreamingResponse(parts())):
        built.raw_headers()
    with pytest.raises(AssertionError, match="multidict"):
        _ = response.headers


def test_headers_when_touched_are_one_object_with_all_fields() -> None:
    """The multidict holds what was given and what was computed; it is built once."""
    response = Response("a", headers=[("X-A", "1"), ("x-a", "2")])
    assert isinstance(response.headers, CIMultiDict)
    assert response.headers is response.headers
    assert response.headers.getall("X-a") == ["1", "2"]
    assert response.headers["Content-Length"] == "1"
    assert response.headers["CONTENT-TYPE"] == "text/plain; charset=utf-8"


def test_response_has_no_dict() -> None:
    """The classes are slotted: a typing error in an attribute is an error."""
    for build in EVERY_CLASS.values():
        with pytest.raises(AttributeError):
            build().statuscode = 5  # type: ignore[attr-defined]


# --- header fields ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param([("X-A", "1"), ("b", "2"), ("x-a", "3")], id="pairs"),
        pytest.param(iter([("X-A", "1"), ("b", "2"), ("x-a", "3")]), id="iterator"),
        pytest.param(MultiDict([("X-A", "1"), ("b", "2"), ("x-a", "3")]), id="MultiDict"),
        pytest.param(CIMultiDict([("X-A", "1"), ("b", "2"), ("x-a", "3")]), id="CIMultiDict"),
        pytest.param(CIMultiDictProxy(CIMultiDict([("X-A", "1"), ("b", "2"), ("x-a", "3")])), id="proxy"),
        pytest.param(Headers([("X-A", "1"), ("b", "2"), ("x-a", "3")]), id="Headers"),
        pytest.param([["X-A", "1"], ["b", "2"], ["x-a", "3"]], id="lists"),
    ],
)
def test_headers_argument_with_repeats_keeps_them_in_order(headers: Any) -> None:
    """Names go out in lower case, every repeat in its place."""
    raw = Response(b"", headers=headers).raw_headers()
    assert raw == [(b"x-a", b"1"), (b"b", b"2"), (b"x-a", b"3"), (b"content-length", b"0")]


@each_class
@pytest.mark.parametrize(
    ("headers", "named"),
    [
        ({"x-a": "b\r\nset-cookie: c=d"}, "x-a"),
        ({"x-a": "b\x00"}, "x-a"),
        ({"x-a": "☃"}, "x-a"),
        ({"x a": "b"}, "x a"),
        ({"x-a\r\n": "b"}, "x-a\r\n"),
        ({"": "b"}, ""),
        ({"é": "b"}, "é"),
        ({"x-a": None}, "x-a"),
        ({"x-a": b"b"}, "x-a"),
        ({b"x-a": "b"}, "b'x-a'"),
        ([(5, "b")], "5"),
        ({"Transfer-Encoding": "chunked"}, "Transfer-Encoding"),
        ({"connection": "close"}, "connection"),
    ],
    ids=repr,
)
def test_headers_argument_with_illegal_field_is_refused(
    build: Callable[..., Response], headers: Any, named: str
) -> None:
    """Refused where it is given, in every class, naming the header."""
    with pytest.raises(InvalidHeaderError) as caught:
        build(headers=headers)
    assert caught.value.header == named


@each_class
@pytest.mark.parametrize("headers", [5, "ab", ["a"], [("a",)], [("a", "b", "c")]])
def test_headers_argument_of_other_type_is_a_type_error(build: Callable[..., Response], headers: Any) -> None:
    """A headers argument is a mapping or pairs."""
    with pytest.raises(TypeError):
        build(headers=headers)


@each_class
def test_headers_when_set_with_illegal_value_are_refused_and_unchanged(build: Callable[..., Response]) -> None:
    """What is set later is checked at once, too; nothing of it is kept."""
    response = build()
    before = response.raw_headers()
    with pytest.raises(InvalidHeaderError, match="x-a"):
        response.headers["x-a"] = "b\nc"
    assert response.raw_headers() == before


@pytest.mark.parametrize("content_type", ["a\r\nb: c", "a\x00", "☃", " a", 5, ["a"]])
@pytest.mark.parametrize("headers", [None, {}])
def test_content_type_that_is_illegal_is_refused(content_type: Any, headers: Any) -> None:
    """The content type is a header value like any other."""
    with pytest.raises(InvalidHeaderError) as caught:
        Response(b"", headers=headers, content_type=content_type)
    assert caught.value.header == "content-type"


@pytest.mark.parametrize(
    ("headers", "content_type", "expected"),
    [
        (None, None, ["text/plain; charset=utf-8"]),
        (None, "text/css", ["text/css"]),
        (None, "application/json", ["application/json"]),
        ({"x-a": "b"}, None, ["text/plain; charset=utf-8"]),
        ({"Content-Type": "text/csv"}, None, ["text/csv"]),
        ({"Content-Type": "text/csv"}, "text/css", ["text/css"]),
        ([("content-type", "a/b"), ("Content-Type", "c/d")], "text/css", ["text/css"]),
    ],
)
def test_content_type_argument_overrides_the_header(
    headers: Any, content_type: str | None, expected: list[str]
) -> None:
    """The argument leads, then the header, then the default of the class."""
    assert Response("a", headers=headers, content_type=content_type).headers.getall("content-type") == expected


@pytest.mark.parametrize(
    "build", [EVERY_CLASS["Response"], EVERY_CLASS["StreamingResponse"], EVERY_CLASS["HTMLResponse"]]
)
def test_content_type_that_is_empty_means_the_same_with_and_without_headers(build: Callable[..., Response]) -> None:
    """Whether there are other headers does not change what an empty type means."""
    without = [field for field in build(content_type="").raw_headers() if field[0] == b"content-type"]
    beside = [
        field for field in build(content_type="", headers={"x-a": "b"}).raw_headers() if field[0] == b"content-type"
    ]
    assert without == beside


def test_content_type_of_subclass_is_its_default() -> None:
    """A subclass says what its responses are."""

    class CSSResponse(Response):
        default_content_type = "text/css"

    assert CSSResponse(b"a").headers["content-type"] == "text/css"
    assert CSSResponse("a", headers={"x-a": "b"}).headers["content-type"] == "text/css"
    assert CSSResponse("a", content_type="a/b").headers["content-type"] == "a/b"


@settings(max_examples=300)
@given(
    st.dictionaries(st.text(max_size=6), st.text(max_size=8), max_size=3),
    st.one_of(st.none(), st.text(max_size=8)),
    st.text(max_size=8),
)
@example({"x-a": "\x85"}, None, "")
@example({}, "\r", "")
def test_headers_of_any_text_are_legal_bytes_or_refused(
    headers: dict[str, str], content_type: str | None, later: str
) -> None:
    """Whatever text goes in by whichever way, legal bytes come out, or InvalidHeaderError or ContentLengthError."""
    try:
        response = Response(b"abc", headers=headers, content_type=content_type)
        response.headers.add("x-later", later)
        raw = response.raw_headers()
    except (InvalidHeaderError, ContentLengthError):
        return
    for name, value in raw:
        assert name == name.lower() != b""
        assert not set(name) & set(b"\x00\r\n :\x7f")
        assert not NOT_FIELD_VALUE_BYTES.search(value)
    assert sum(name == b"content-length" for name, _ in raw) == 1


async def test_headers_changed_by_middleware_do_not_stay_in_the_response() -> None:
    """A response may be built once and returned often: what a middleware adds to a message leaks into no other."""
    constant = Response("a")

    async def endpoint(request: Request) -> Response:
        return constant

    async def middleware(index: int, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message["headers"].append((b"x-request", b"secret"))

    first, second = Channel(on_send=middleware), Channel()
    for channel in (first, second):
        await Handler(endpoint)(http_scope(), channel.receive, channel.send)
    assert (b"x-request", b"secret") in first.headers
    assert (b"x-request", b"secret") not in second.headers


# --- content-length --------------------------------------------------------------------------------------


@pytest.mark.parametrize("declared", ["0", "2", "4", "999999999999999"])
def test_content_length_that_differs_from_the_body_is_refused(declared: str) -> None:
    """A length that lies is an error where it is given, and where it is set later."""
    with pytest.raises(ContentLengthError) as caught:
        Response(b"abc", headers={"Content-Length": declared})
    assert (caught.value.declared, caught.value.actual) == (int(declared), 3)
    response = Response(b"abc")
    response.headers["content-length"] = declared
    with pytest.raises(ContentLengthError):
        response.raw_headers()


@each_class
@pytest.mark.parametrize("declared", ["", "+2", "-2", "2.0", "0x2", "1_0", "²", "a", "2,2", "9" * 16, "9" * 5000])
def test_content_length_that_is_no_number_is_refused(build: Callable[..., Response], declared: str) -> None:
    """RFC 9110 section 8.6: 1*DIGIT."""
    with pytest.raises(InvalidHeaderError) as caught:
        build(headers={"content-length": declared})
    assert caught.value.header == "content-length"


@each_class
def test_content_length_that_is_repeated_is_refused(build: Callable[..., Response]) -> None:
    """One field only, where it is given and where it is added."""
    with pytest.raises(InvalidHeaderError, match="more than once"):
        build(headers=[("content-length", "2"), ("Content-Length", "2")])
    response = build()
    response.headers["content-length"] = str(len(response.body))
    response.headers.add("content-length", str(len(response.body)))
    with pytest.raises(InvalidHeaderError, match="more than once"):
        response.raw_headers()


def test_content_length_that_is_right_is_kept_in_place() -> None:
    """A declared length that is true is not given twice."""
    raw = Response(b"abc", headers=[("content-length", "3"), ("x-a", "b")]).raw_headers()
    assert raw == [(b"content-length", b"3"), (b"x-a", b"b")]


@pytest.mark.parametrize(
    ("response", "length"),
    [
        pytest.param(lambda: Response(b"", 200), b"0", id="200 empty"),
        pytest.param(lambda: Response(b"abc", 404), b"3", id="404"),
        pytest.param(lambda: Response(b"", 204), None, id="RFC 9110 8.6 204"),
        pytest.param(lambda: Response(b"abc", 204), None, id="RFC 9110 8.6 204 with a body"),
        pytest.param(lambda: Response(b"", 101), None, id="RFC 9110 8.6 1xx"),
        pytest.param(lambda: Response(b"", 204, {"content-length": "0"}), None, id="RFC 9110 8.6 204 declared"),
        pytest.param(lambda: Response(b"", 304), None, id="304"),
        pytest.param(lambda: Response(b"", HTTPStatus.NOT_MODIFIED), None, id="304 as enum"),
        pytest.param(lambda: Response(b"", 304, {"content-length": "0"}), None, id="304 declared 0"),
        pytest.param(lambda: Response(b"", 304, {"content-length": "9"}), b"9", id="RFC 9110 15.4.5 304 declared"),
        pytest.param(lambda: Response(b"abc", 304), b"3", id="RFC 9110 15.4.5 304 of a representation"),
        pytest.param(lambda: Response(b"", 200, {"content-length": "9"}), b"9", id="RFC 9110 9.3.2 for HEAD"),
        pytest.param(lambda: Response("", 205), b"0", id="205"),
        pytest.param(lambda: StreamingResponse(parts()), None, id="stream"),
        pytest.param(lambda: StreamingResponse(parts(), headers={"content-length": "9"}), b"9", id="stream declared"),
        pytest.param(lambda: StreamingResponse(parts(), 204, {"content-length": "9"}), None, id="stream 204"),
        pytest.param(lambda: RedirectResponse("/"), b"0", id="redirect"),
    ],
)
@pytest.mark.parametrize("is_touched", [False, True], ids=["raw", "multidict"])
def test_content_length_of_response_is_that_of_its_status(
    response: Callable[[], Response], length: bytes | None, is_touched: bool
) -> None:
    """RFC 9110 section 8.6: none on 1xx and 204, on 304 that of the representation, else that of the body."""
    built = response()
    if is_touched:
        _ = built.headers
    assert [value for name, value in built.raw_headers() if name == b"content-length"] == (
        [] if length is None else [length]
    )


def test_content_length_that_was_removed_stays_away() -> None:
    """What an endpoint takes out is not put back."""
    response = Response(b"abc")
    del response.headers["content-length"]
    assert response.raw_headers() == []


# --- status ----------------------------------------------------------------------------------------------

NO_STATUS: list[Any] = [0, -1, 99, 600, 1000, True, False, "200", 200.0, None, b"200", 10**30]


@pytest.mark.parametrize("status", NO_STATUS, ids=repr)
@each_class
def test_status_that_is_none_is_refused(build: Callable[..., Response], status: Any) -> None:
    """A status is an integer from 100 to 599."""
    with pytest.raises(ValueError, match="status"):
        build(status_code=status)


@pytest.mark.parametrize("status", [100, 200, 299, 418, 599, HTTPStatus.CREATED])
def test_status_that_is_one_is_kept_as_an_integer(status: int) -> None:
    """Members of HTTPStatus become plain integers, which every server can write."""
    response = Response(b"", status)
    assert type(response.status_code) is int
    assert response.status_code == status
    assert repr(response) == f"<Response {int(status)}>"


@pytest.mark.parametrize("status", [0, 99, 600, 9999, -1, True, "200", 200.0, None], ids=repr)
async def test_status_that_is_set_later_to_none_never_leaves(status: Any) -> None:
    """Whatever an endpoint does to the attribute, what is sent is a status."""

    async def endpoint(request: Request) -> Response:
        response = Response(b"a")
        response.status_code = status
        return response

    channel = await call(Handler(endpoint))
    assert channel.status == 500


# --- cookies ---------------------------------------------------------------------------------------------


def cookies_of(response: Response) -> list[str]:
    return [value.decode("ascii") for name, value in response.raw_headers() if name == b"set-cookie"]


def test_set_cookie_without_attributes_has_the_documented_defaults() -> None:
    """``Path=/`` and ``SameSite=Lax``."""
    response = Response()
    response.set_cookie("a")
    response.set_cookie("b", "c")
    assert cookies_of(response) == ["a=; Path=/; SameSite=Lax", "b=c; Path=/; SameSite=Lax"]


@pytest.mark.parametrize("is_touched", [False, True], ids=["raw", "multidict"])
def test_set_cookie_with_every_attribute_adds_one_field(is_touched: bool) -> None:
    """RFC 6265bis section 4.1; fields of other cookies, and of the same one, stay."""
    response = Response(headers=[("Set-Cookie", "first=1")])
    if is_touched:
        _ = response.headers
    response.set_cookie(
        "a",
        "b",
        timedelta(minutes=1),
        datetime(2030, 1, 2, 3, 4, 5),
        "/p",
        "example.com",
        True,
        True,
        "strict",
        True,
    )
    response.set_cookie(key="a", value="b", path=None, samesite=None)
    assert cookies_of(response) == [
        "first=1",
        "a=b; Max-Age=60; Expires=Wed, 02 Jan 2030 03:04:05 GMT; Domain=example.com; Path=/p; Secure; HttpOnly; "
        "SameSite=Strict; Partitioned",
        "a=b",
    ]
    assert response.headers.getall("set-cookie") == cookies_of(response)


@pytest.mark.parametrize(
    "arguments",
    [
        {"key": "a\r\nb"},
        {"key": "a;b"},
        {"key": "é"},
        {"key": ""},
        {"key": 5},
        {"key": "a", "value": "b\r\nc"},
        {"key": "a", "value": "b;c"},
        {"key": "a", "value": "b\x00"},
        {"key": "a", "value": "é"},
        {"key": "a", "path": "/;b"},
        {"key": "a", "path": "/\n"},
        {"key": "a", "domain": "b;c"},
        {"key": "a", "domain": "b\n"},
        {"key": "a", "samesite": "none"},
        {"key": "__Host-a"},
        {"key": "__Secure-a"},
        {"key": "__Host-a", "secure": True, "domain": "b.c"},
        {"key": "__Host-a", "secure": True, "path": "/b"},
    ],
    ids=repr,
)
@pytest.mark.parametrize("is_touched", [False, True], ids=["raw", "multidict"])
def test_set_cookie_that_is_illegal_is_refused_and_adds_nothing(arguments: dict[str, Any], is_touched: bool) -> None:
    """RFC 6265bis section 4.1.3: refused where it is set."""
    response = Response()
    if is_touched:
        _ = response.headers
    with pytest.raises(InvalidHeaderError) as caught:
        response.set_cookie(**arguments)
    assert caught.value.header == "set-cookie"
    assert cookies_of(response) == []


@pytest.mark.parametrize(
    ("arguments", "attributes"),
    [
        ({"key": "a"}, {"Path=/", "SameSite=Lax"}),
        ({"key": "a", "path": None, "samesite": None}, set()),
        ({"key": "a", "path": "/b", "domain": "c.d"}, {"Path=/b", "Domain=c.d", "SameSite=Lax"}),
        ({"key": "a", "httponly": True, "samesite": "strict"}, {"Path=/", "HttpOnly", "SameSite=Strict"}),
        ({"key": "a", "samesite": "none"}, {"Path=/", "Secure", "SameSite=None"}),
        ({"key": "a", "partitioned": True}, {"Path=/", "Secure", "SameSite=Lax", "Partitioned"}),
        ({"key": "__Host-a"}, {"Path=/", "Secure", "SameSite=Lax"}),
        ({"key": "__secure-a"}, {"Path=/", "Secure", "SameSite=Lax"}),
    ],
    ids=lambda value: repr(sorted(value) if isinstance(value, set) else value),
)
def test_delete_cookie_with_attributes_repeats_those_it_was_set_with(
    arguments: dict[str, Any], attributes: set[str]
) -> None:
    """RFC 6265 section 5.3: a cookie is replaced by one of the same name, domain and path, which is over."""
    response = Response()
    response.delete_cookie(**arguments)
    (cookie,) = cookies_of(response)
    pair, *given_attributes = cookie.split("; ")
    assert pair == f"{arguments['key']}="
    assert given_attributes[0] == "Max-Age=0"
    assert given_attributes[1].startswith("Expires=")
    assert set(given_attributes[2:]) == attributes


@pytest.mark.parametrize("arguments", [{"key": "a\r\n"}, {"key": ""}, {"key": 5}, {"key": "a", "path": "/;"}], ids=repr)
def test_delete_cookie_that_is_illegal_is_refused(arguments: dict[str, Any]) -> None:
    """The same checks as for setting one."""
    with pytest.raises(InvalidHeaderError):
        Response().delete_cookie(**arguments)


def test_delete_cookie_that_no_browser_would_accept_is_refused() -> None:
    """A ``__Host-`` cookie has no other path to be deleted at."""
    with pytest.raises(InvalidHeaderError, match="__Host-"):
        Response().delete_cookie("__Host-a", "/b")


# --- JSON ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "body"),
    [
        ({"a": [1, 2.5, None, True], "é": "☃"}, '{"a":[1,2.5,null,true],"é":"☃"}'.encode()),
        ([], b"[]"),
        (None, b"null"),
        ("</script>", b'"</script>"'),
        ({1: "a"}, b'{"1":"a"}'),
    ],
)
def test_json_response_of_data_is_compact_utf8(content: Any, body: bytes) -> None:
    """RFC 8259 section 8.1: UTF-8; and no blanks."""
    response = JSONResponse(content)
    assert response.body == body
    assert response.raw_headers() == [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_json_response_of_no_number_is_refused(number: float) -> None:
    """RFC 8259 section 6: NaN and the infinities are no JSON."""
    with pytest.raises(ValueError, match="JSON"):
        JSONResponse({"a": [number]})


def test_json_response_of_data_that_refers_to_itself_is_refused() -> None:
    """What has no end has no JSON."""
    content: list[Any] = []
    content.append(content)
    with pytest.raises(ValueError, match="ircular"):
        JSONResponse(content)


@pytest.mark.parametrize("content", [b"a", object(), {1, 2}, {(1, 2): 3}, datetime(2030, 1, 2)])
def test_json_response_of_other_data_is_a_type_error(content: Any) -> None:
    """What JSON has no form for is refused."""
    with pytest.raises(TypeError):
        JSONResponse(content)


def test_json_response_with_own_encoder_uses_it() -> None:
    """The encoder may give text or bytes, the type may be another."""
    assert JSONResponse({"a": 1}, dumps=json.dumps).body == b'{"a": 1}'
    response = JSONResponse({1}, 201, {"x-a": "b"}, "application/ld+json", dumps=lambda value: repr(value).encode())
    assert response.body == b"{1}"
    assert response.status_code == 201
    assert response.headers["content-type"] == "application/ld+json"
    assert response.headers["x-a"] == "b"


json_data: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=8,
)


@settings(max_examples=200)
@given(json_data)
def test_json_response_of_any_data_is_json_or_refused(content: Any) -> None:
    """What goes out is JSON that reads as what went in; the rest is a ValueError."""

    def refuse(name: str) -> None:
        raise AssertionError(name)

    try:
        body = JSONResponse(content).body
    except ValueError:
        return
    assert json.loads(body.decode("utf-8"), parse_constant=refuse) == content


# --- redirects -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "location"),
    [
        ("/", b"/"),
        ("", b""),
        ("https://example.com:8000/a?b=c&d=e#f", b"https://example.com:8000/a?b=c&d=e#f"),
        ("//example.com/", b"//example.com/"),
        ("http://[::1]/", b"http://[::1]/"),
        ("/a b", b"/a%20b"),
        ("/é/☃", b"/%C3%A9/%E2%98%83"),
        ("/%C3%A9", b"/%C3%A9"),
        ("/100%", b"/100%"),
        ('/"<>\\^`{|}', b"/%22%3C%3E%5C%5E%60%7B%7C%7D"),
        (":/?#[]@!$&'()*+,;=%-._~", b":/?#[]@!$&'()*+,;=%-._~"),
        ("../a", b"../a"),
    ],
)
def test_redirect_to_url_is_quoted(url: str, location: bytes) -> None:
    """RFC 3986: what may stand in a URL stays as it is, the rest is percent-encoded; nothing is escaped twice."""
    response = RedirectResponse(url)
    assert response.status_code == 307
    assert response.body == b""
    assert response.raw_headers() == [(b"location", location), (b"content-length", b"0")]


@pytest.mark.parametrize("code", [*range(0x20), 0x7F])
def test_redirect_to_url_with_control_is_refused(code: int) -> None:
    """A control in a target is an attack or a mistake, and not hidden by an escape."""
    for url in (f"/a{chr(code)}b", f"{chr(code)}/a", f"/a{chr(code)}", f"/é{chr(code)}/evil.example"):
        with pytest.raises(InvalidHeaderError) as caught:
            RedirectResponse(url)
        assert caught.value.header == "location"


def test_redirect_to_url_without_utf8_form_is_refused() -> None:
    """A lone surrogate cannot be escaped."""
    with pytest.raises(InvalidHeaderError, match="location"):
        RedirectResponse("/\ud800")


@pytest.mark.parametrize("status", [200, 299, 400, 500, 0, True, "302", None])
def test_redirect_with_other_status_is_refused(status: Any) -> None:
    """RFC 9110 section 15.4: a redirect has a status from 300 to 399."""
    with pytest.raises(ValueError, match="300 to 399"):
        RedirectResponse("/", status)


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308, 399, HTTPStatus.SEE_OTHER])
def test_redirect_with_redirect_status_is_built(status: int) -> None:
    """Every status of the class is allowed."""
    assert RedirectResponse("/", status).status_code == status


def test_redirect_with_location_header_has_one_location() -> None:
    """The URL leads; other headers stay, repeats in order."""
    headers = [("Location", "/other"), ("X-A", "1"), ("x-a", "2")]
    response = RedirectResponse("/a", 303, headers, background=nothing)
    assert response.headers.getall("location") == ["/a"]
    assert response.headers.getall("x-a") == ["1", "2"]
    assert response.background is nothing


class Address:
    """An object whose text is its address."""

    def __str__(self) -> str:
        return "/a b"


def test_redirect_to_object_uses_its_text() -> None:
    """URL objects of other libraries are taken by their text."""
    assert RedirectResponse(Address()).headers["location"] == "/a%20b"  # type: ignore[arg-type]


@settings(max_examples=300)
@given(st.text(max_size=20))
@example("\t//evil.example")
def test_redirect_to_any_text_is_printable_ascii_or_refused(url: str) -> None:
    """Whatever text goes in, a printable location that means the same comes out, or InvalidHeaderError."""
    try:
        location = RedirectResponse(url).headers["location"]
    except InvalidHeaderError:
        return
    assert location.isascii()
    assert location.isprintable()
    assert " " not in location
    assert unquote(location) == unquote(url)


# --- background ------------------------------------------------------------------------------------------


@each_class
def test_background_is_kept(build: Callable[..., Response]) -> None:
    """Every class takes background work."""
    assert build(background=nothing).background is nothing


@each_class
@pytest.mark.parametrize("background", [5, "nothing", nothing.__name__])
def test_background_that_cannot_be_called_is_refused(build: Callable[..., Response], background: Any) -> None:
    """Refused where it is given, not after the response was sent."""
    with pytest.raises(TypeError, match="background takes a function without arguments"):
        build(background=background)


def test_background_that_is_a_coroutine_is_refused() -> None:
    """A coroutine can be awaited once; the function is what is asked for."""
    coroutine = nothing()
    try:
        with pytest.raises(TypeError, match="background"):
            Response(background=coroutine)  # type: ignore[arg-type]
    finally:
        coroutine.close()


# --- streams ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"a", "a", bytearray(b"a"), memoryview(b"a"), {"a": 1}, None, parts])
def test_streaming_response_of_other_content_is_a_type_error(content: Any) -> None:
    """What is there as a whole does not stream, part for part of itself; a function that makes parts must be called."""
    with pytest.raises(TypeError, match="takes an iterable of bytes or str"):
        StreamingResponse(content)


def test_streaming_response_of_iterable_has_no_length_and_no_type() -> None:
    """Neither is known before the parts are; the body as a whole is empty."""
    response = StreamingResponse(parts(b"a"))
    assert response.raw_headers() == []
    assert response.body == b""
    typed = StreamingResponse(parts(), 201, {"x-a": "b"}, "text/event-stream", background=nothing)
    assert typed.raw_headers() == [(b"x-a", b"b"), (b"content-type", b"text/event-stream")]
    assert (typed.status_code, typed.background) == (201, nothing)


async def test_streaming_response_parts_can_be_had_once() -> None:
    """A second sending is an error that says what to do."""
    response = StreamingResponse(parts(b"a", "b"))
    assert [part async for part in response.parts()] == [b"a", "b"]
    with pytest.raises(ResponseStateError, match="once"):
        response.parts()


async def test_streaming_response_sent_twice_gives_500_the_second_time(caplog: pytest.LogCaptureFixture) -> None:
    """A streaming response that is kept and returned again is not sent again: a 500, logged once."""
    constant = StreamingResponse(parts(b"a"))

    async def endpoint(request: Request) -> Response:
        return constant

    app = Handler(endpoint)
    first, second = await call(app), await call(app)
    assert (first.status, first.body) == (200, b"a")
    assert second.status == 500
    assert [record.levelname for record in caplog.records if record.name == "asgicore"] == ["ERROR"]


async def test_streaming_response_when_closed_closes_its_generator() -> None:
    """A generator that was begun runs its cleanup; closing again does nothing."""
    events: list[str] = []

    async def produce() -> AsyncIterator[bytes]:
        try:
            yield b"a"
        finally:
            events.append("closed")

    response = StreamingResponse(produce())
    assert await anext(response.parts()) == b"a"
    await response.aclose()
    await response.aclose()
    assert events == ["closed"]
    with pytest.raises(ResponseStateError):
        response.parts()


class Source:
    """An asynchronous iterable with an iterator of its own; both tell when they are closed."""

    def __init__(self, events: list[str], iterator: Any = None) -> None:
        self.events = events
        self.iterator = iterator

    def __aiter__(self) -> Any:
        return self.iterator or self

    async def __anext__(self) -> bytes:
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self.events.append("closed")


async def test_streaming_response_when_closed_before_it_began_closes_the_iterable() -> None:
    """What was never iterated is closed as well: it may hold a connection."""
    events: list[str] = []
    response = StreamingResponse(Source(events))
    await response.aclose()
    await response.aclose()
    assert events == ["closed"]
    with pytest.raises(ResponseStateError):
        response.parts()


async def test_streaming_response_of_iterator_that_is_no_generator_is_closed() -> None:
    """An iterator needs an ``aclose`` of its own, not a generator's."""
    events: list[str] = []
    inner: list[str] = []
    response = StreamingResponse(Source(events, Source(inner)))
    assert [part async for part in response.parts()] == []
    await response.aclose()
    assert inner == ["closed"]


async def test_streaming_response_of_iterator_with_attributes_of_its_own_is_sent() -> None:
    """Whatever they are called: ``start`` and ``stop`` are what a slice of something has."""

    class Slice:
        def __init__(self, start: int, stop: int) -> None:
            self.start, self.stop = start, stop

        def __aiter__(self) -> Slice:
            return self

        async def __anext__(self) -> bytes:
            if self.start == self.stop:
                raise StopAsyncIteration
            self.start += 1
            return b"x"

    response = StreamingResponse(Slice(0, 3))
    assert (await call(response)).body == b"xxx"
    response = StreamingResponse(Slice(0, 3))
    response.parts()
    response.close_nowait()


async def test_streaming_response_of_iterator_without_aclose_closes_silently() -> None:
    """There is nothing to close where there is no ``aclose``."""

    class Bare:
        def __aiter__(self) -> Any:
            return self

        async def __anext__(self) -> bytes:
            raise StopAsyncIteration

    response = StreamingResponse(Bare())
    assert [part async for part in response.parts()] == []
    await response.aclose()


async def test_response_when_closed_does_nothing() -> None:
    """A response whose body is there as a whole has nothing to close."""
    response = Response(b"a")
    await response.aclose()
    assert response.body == b"a"


# --- through the handler ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY_CLASS)
@pytest.mark.parametrize(("method", "status"), [("GET", 200), ("HEAD", 200), ("GET", 204), ("GET", 304), ("GET", 103)])
async def test_response_of_every_class_is_sent_as_its_status_demands(name: str, method: str, status: int) -> None:
    """RFC 9110 sections 6.4.1 and 9.3.2: no body on HEAD, 1xx, 204 and 304, no length on 1xx and 204."""
    if name == "RedirectResponse":
        status = 307

    async def endpoint(request: Request) -> Response:
        if name == "StreamingResponse":
            return StreamingResponse(parts(b"ab", "c"), status)
        if name == "RedirectResponse":
            return RedirectResponse("/", status)
        whole_class: type[Response] = getattr(asgicore, name)
        return whole_class("abc", status)

    channel = await call(Handler(endpoint), method=method)
    assert channel.status == status
    whole = {"JSONResponse": b'"abc"', "RedirectResponse": b""}.get(name, b"abc")
    is_silent = method == "HEAD" or status in (103, 204, 304)
    assert channel.body == (b"" if is_silent else whole)
    lengths = [value for field, value in channel.headers if field == b"content-length"]
    if name == "StreamingResponse" or status in (103, 204):
        assert lengths == []
    else:
        assert lengths == [b"%d" % len(whole)]
    assert [message.get("more_body") for message in channel.sent].count(False) == 1


async def test_http_error_with_repeated_headers_sends_them_in_order() -> None:
    """What an endpoint raises on purpose takes its headers along."""

    async def endpoint(request: Request) -> Response:
        raise HTTPError(401, "who?", [("WWW-Authenticate", "Basic"), ("www-authenticate", "Bearer")])

    channel = await call(Handler(endpoint))
    assert (channel.status, channel.body) == (401, b"who?")
    assert [value for name, value in channel.headers if name == b"www-authenticate"] == [b"Basic", b"Bearer"]
