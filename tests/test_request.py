"""_request.py and _request_head.py: the request as the endpoint sees it, on ordinary and on odd scopes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import anyio
import pytest
from faults import linear_time
from hypothesis import example, given, settings
from hypothesis import strategies as st
from multidict import CIMultiDictProxy, MultiDictProxy

from asgicore import (
    Body,
    BodyConsumedError,
    BodyTooLargeError,
    ClientDisconnectedError,
    Handler,
    HeadersTooLargeError,
    Limits,
    MalformedBodyError,
    MalformedRequestError,
    Request,
    RequestError,
    Response,
    ServerProtocolError,
    _request_head,
)
from asgicore.testing import DISCONNECT, Channel, Message, body_messages, call, http_scope

ACCESSORS = [
    "method",
    "path",
    "raw_path",
    "root_path",
    "path_info",
    "scheme",
    "http_version",
    "query_string",
    "query_params",
    "url",
    "raw_headers",
    "headers",
    "cookies",
    "content_type",
    "charset",
    "content_length",
    "last_event_id",
    "host",
    "client",
    "server",
    "state",
    "extensions",
    "is_disconnected",
]


async def never() -> Message:
    """A channel that nobody should ask."""
    raise AssertionError("received")


def request_of(limits: Limits | None = None, **scope: Any) -> Request:
    """A request over this scope alone, without anything a server would add."""
    return Request({"type": "http", **scope}, never, limits=limits or Limits())


def with_header(name: bytes, *values: bytes) -> Request:
    return request_of(headers=[(name, value) for value in values])


# --- the request line ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ACCESSORS)
def test_accessor_on_ordinary_scope_gives_the_same_twice(name: str) -> None:
    """What is parsed once is kept, and nothing changes by asking."""
    request = Request(http_scope(headers=[(b"cookie", b"a=1"), (b"host", b"h")], query_string=b"a=1"), never)
    assert getattr(request, name) == getattr(request, name)
    with pytest.raises(AttributeError):
        setattr(request, name, None)


def test_accessors_of_lists_and_mappings_are_kept() -> None:
    """The parsed containers are built once."""
    request = Request(http_scope(), never)
    for name in ("query_params", "headers", "cookies", "state"):
        assert getattr(request, name) is getattr(request, name)


def test_accessors_on_ordinary_scope_give_its_parts() -> None:
    """Every accessor on a scope as servers send it."""
    scope = http_scope(
        method="POST",
        path="/app/é",
        raw_path=b"/app/%C3%A9",
        root_path="/app",
        scheme="https",
        http_version="2",
        query_string=b"a=1&b=%C3%A9&a=2",
        headers=[
            (b"host", b"example.com:8443"),
            (b"cookie", b"c=1"),
            (b"cookie", b"d=2"),
            (b"content-type", b'Text/HTML; charset="UTF-8"'),
            (b"content-length", b"5"),
            (b"x-a", b"\xe9"),
        ],
        client=("10.0.0.1", 1234),
        server=("10.0.0.2", 443),
        state={"db": 1},
        extensions={"http.response.pathsend": {}},
    )
    request = Request(scope, never)
    assert request.scope is scope
    assert request.method == "POST"
    assert request.path == "/app/é"
    assert request.raw_path == b"/app/%C3%A9"
    assert request.root_path == "/app"
    assert request.path_info == "/é"
    assert request.scheme == "https"
    assert request.http_version == "2"
    assert request.query_string == b"a=1&b=%C3%A9&a=2"
    assert list(request.query_params.items()) == [("a", "1"), ("b", "é"), ("a", "2")]
    assert type(request.query_params) is MultiDictProxy
    assert request.url == "https://example.com:8443/app/%C3%A9?a=1&b=%C3%A9&a=2"
    assert request.raw_headers == scope["headers"]
    assert type(request.headers) is CIMultiDictProxy
    assert request.headers["X-A"] == "é"
    assert request.cookies == {"c": "1", "d": "2"}
    assert (request.content_type, request.charset, request.content_length) == ("text/html", "UTF-8", 5)
    assert request.host == "example.com:8443"
    assert (request.client, request.server) == (("10.0.0.1", 1234), ("10.0.0.2", 443))
    assert request.state == {"db": 1}
    assert request.extensions == {"http.response.pathsend": {}}
    assert request.is_disconnected is False
    assert repr(request) == "<Request 'POST' '/app/é'>"


def test_accessors_on_empty_scope_give_defaults() -> None:
    """Every key of the scope may be missing."""
    request = Request({}, never)
    values = {name: getattr(request, name) for name in ACCESSORS}
    assert values == {
        "method": "GET",
        "path": "",
        "raw_path": None,
        "root_path": "",
        "path_info": "",
        "scheme": "http",
        "http_version": "1.1",
        "query_string": b"",
        "query_params": MultiDictProxy(request.query_params.copy()),
        "url": "",
        "raw_headers": [],
        "headers": CIMultiDictProxy(request.headers.copy()),
        "cookies": {},
        "content_type": "",
        "charset": None,
        "content_length": None,
        "last_event_id": None,
        "host": "",
        "client": None,
        "server": None,
        "state": {},
        "extensions": {},
        "is_disconnected": False,
    }
    assert not request.query_params
    assert not request.headers


def test_accessors_on_scope_of_none_give_defaults() -> None:
    """Every key of the scope may be None."""
    empty = Request({}, never)
    request = Request(dict.fromkeys(http_scope(extensions={})), never)
    for name in ACCESSORS:
        assert getattr(request, name) == getattr(empty, name)


@pytest.mark.parametrize("key", ["method", "path", "root_path", "scheme", "http_version"])
@pytest.mark.parametrize("value", [b"/", 5, ["/"], True, {"a": 1}], ids=repr)
def test_accessor_of_text_with_other_type_is_refused(key: str, value: Any) -> None:
    """An accessor that needs text is a 400 that names the field where there is none."""
    request = request_of(**{key: value})
    with pytest.raises(MalformedRequestError) as caught:
        getattr(request, key)
    assert caught.value.field == key
    assert caught.value.status_code == 400


def test_path_info_with_root_path_of_other_type_is_refused() -> None:
    """The field that is wrong is named, not the accessor that needs it."""
    with pytest.raises(MalformedRequestError) as caught:
        _ = request_of(path="/a", root_path=b"/a").path_info
    assert caught.value.field == "root_path"


@pytest.mark.parametrize(
    ("path", "root_path", "expected"),
    [
        ("/app/a", "/app", ("/app", "/a")),
        ("/app/a", "/app/", ("/app", "/a")),
        ("/app", "/app", ("/app", "")),
        ("/apple/x", "/app", ("/app", "/apple/x")),
        ("/a", "/", ("", "/a")),
        ("/a", "", ("", "/a")),
        ("/a", None, ("", "/a")),
    ],
)
def test_path_info_below_root_path_is_cut_on_whole_segments(
    path: str, root_path: str | None, expected: tuple[str, str]
) -> None:
    """``path`` is the whole path whatever the root; the scope is never rewritten."""
    request = request_of(path=path, root_path=root_path)
    assert (request.root_path, request.path_info) == expected
    assert request.path == path
    assert request.scope["path"] == path


@pytest.mark.parametrize("value", ["/a", 5, bytearray(b"/a"), ["/"]], ids=repr)
def test_raw_path_of_other_type_is_unknown(value: Any) -> None:
    """The raw path is optional: one that cannot be read is not there."""
    request = request_of(path="/b", raw_path=value)
    assert request.raw_path is None
    assert request.url == "/b"


@pytest.mark.parametrize("http_version", ["1.0", "1.1", "2", "3", "1"])
def test_http_version_of_server_is_kept(http_version: str) -> None:
    """As the server gives it."""
    assert request_of(http_version=http_version).http_version == http_version


@pytest.mark.parametrize(
    ("raw", "field"), [(b"a=\xff", "query_string"), (b"&" * 1000, "query_string")], ids=["bytes", "number"]
)
def test_query_params_of_malformed_query_are_refused_each_time(raw: bytes, field: str) -> None:
    """The accessor that needs text raises, naming the field; the bytes can still be had."""
    request = request_of(query_string=raw)
    for _ in range(2):
        with pytest.raises(MalformedRequestError) as caught:
            _ = request.query_params
        assert caught.value.field == field
    assert request.query_string == raw


def test_query_params_over_the_own_limit_are_refused() -> None:
    """The limits are those that the request was built with."""
    request = request_of(Limits(max_query_params=1), query_string=b"a=1&b=2")
    with pytest.raises(MalformedRequestError):
        _ = request.query_params


# --- header fields ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param([(b"X-A", b"1"), (b"x-a", b"2")], id="upper case"),
        pytest.param([[b"x-a", b"1"], [b"x-a", b"2"]], id="lists"),
        pytest.param(((b"x-a", b"1"), (b"x-a", b"2")), id="tuple"),
    ],
)
def test_headers_of_odd_containers_are_read(headers: Any) -> None:
    """Names come out in lower case, repeats in order."""
    request = request_of(headers=headers)
    assert request.raw_headers == [(b"x-a", b"1"), (b"x-a", b"2")]
    assert request.headers.getall("X-A") == ["1", "2"]


def test_headers_with_upper_case_names_are_in_lower_case_as_text() -> None:
    """A copy into a plain dict is looked up as the specification spells the names, whatever the server does."""
    request = request_of(headers=[(b"Host", b"h"), (b"X-A", b"1")])
    assert dict(request.headers) == {"host": "h", "x-a": "1"}


def test_headers_of_one_shot_iterator_are_read_once() -> None:
    """The fields are kept, so that every accessor finds them."""
    request = request_of(headers=iter([(b"host", b"h"), (b"cookie", b"a=1"), (b"content-length", b"3")]))
    assert request.content_length == 3
    assert request.host == "h"
    assert request.cookies == {"a": "1"}
    assert list(request.headers) == ["host", "cookie", "content-length"]


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param(5, id="number"),
        pytest.param([5], id="list of numbers"),
        pytest.param([(b"host",)], id="one of a pair"),
        pytest.param([(b"host", b"a", b"b")], id="three of a pair"),
        pytest.param([(None, b"a")], id="no name"),
        pytest.param([(5, b"a")], id="number as name"),
        pytest.param([("host", "a")], id="text"),
        pytest.param([(b"host", "a")], id="host as text"),
        pytest.param([(b"host", None)], id="no host"),
        pytest.param([(b"host", 5)], id="number as host"),
        pytest.param([(b"cookie", "a=1")], id="cookie as text"),
        pytest.param([(b"cookie", None)], id="no cookie"),
        pytest.param([(b"cookie", b"a=1"), (b"cookie", "b=2")], id="second cookie as text"),
        pytest.param([(b"content-type", "text/html")], id="content type as text"),
        pytest.param([(b"content-type", 5)], id="number as content type"),
        pytest.param([(b"content-length", "5")], id="length as text"),
        pytest.param([(b"content-length", 5)], id="number as length"),
        pytest.param({b"host": b"a"}, id="mapping"),
    ],
)
@pytest.mark.parametrize(
    "name",
    ["raw_headers", "headers", "host", "cookies", "content_type", "charset", "content_length", "last_event_id", "url"],
)
def test_headers_of_other_types_are_refused_or_not_needed(name: str, headers: Any) -> None:
    """An accessor gives what it finds, or a 400 that names the headers: never another error."""
    request = request_of(headers=headers)
    named = None
    try:
        value = getattr(request, name)
    except MalformedRequestError as exc:
        named = exc.field
    if named is None:
        assert name not in ("headers", "raw_headers")
        assert value == getattr(request_of(), name)
    else:
        assert named in ("headers", "host", "cookie", "content-type", "content-length")


def test_cookies_over_a_limit_are_refused_with_431_each_time() -> None:
    """RFC 6585 section 5; nothing half parsed is kept."""
    request = Request({"headers": [(b"cookie", b"a=1; b=2")]}, never, limits=Limits(max_cookies=1))
    for _ in range(2):
        with pytest.raises(HeadersTooLargeError):
            _ = request.cookies


def test_cookies_in_crumbs_are_joined() -> None:
    """RFC 9113 section 8.2.3: the fields of HTTP/2 are one list."""
    request = with_header(b"cookie", b"a=1", b"b=2; c=3", b"a=4")
    assert request.cookies == {"a": "4", "b": "2", "c": "3"}


@pytest.mark.parametrize(
    ("value", "content_type", "charset"),
    [
        (b"text/html", "text/html", None),
        (b"Text/HTML; Charset=UTF-8", "text/html", "UTF-8"),
        (b"", "", None),
        (b"; charset=x", "", "x"),
    ],
)
def test_content_type_of_field_is_split(value: bytes, content_type: str, charset: str | None) -> None:
    """RFC 9110 section 8.3."""
    request = with_header(b"content-type", value)
    assert (request.content_type, request.charset) == (content_type, charset)


def test_content_type_too_long_is_refused() -> None:
    """RFC 9110 section 8.3: far longer than any media type."""
    request = with_header(b"content-type", b"a" * 4097)
    for name in ("content_type", "charset"):
        with pytest.raises(MalformedRequestError) as caught:
            getattr(request, name)
        assert caught.value.field == "content-type"


@pytest.mark.parametrize("value", [b"", b"+1", b"1_0", b"0xa", "²".encode(), b"9" * 5000, b"1, 2"])
def test_content_length_of_malformed_field_is_refused(value: bytes) -> None:
    """RFC 9110 section 8.6: 1*DIGIT."""
    with pytest.raises(MalformedRequestError) as caught:
        _ = with_header(b"content-length", value).content_length
    assert caught.value.field == "content-length"


@pytest.mark.parametrize("value", ["1", "", "a b", "ö, №1", "\u2028"])
def test_last_event_id_is_text(value: str) -> None:
    """WHATWG HTML, section 9.2: browsers send it as UTF-8."""
    assert with_header(b"last-event-id", value.encode()).last_event_id == value


def test_last_event_id_that_is_no_utf8_is_refused() -> None:
    """No browser sends it."""
    with pytest.raises(MalformedRequestError) as caught:
        _ = with_header(b"last-event-id", b"\xff").last_event_id
    assert caught.value.field == "last-event-id"


# --- where it came from ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scope", "host"),
    [
        pytest.param({"headers": [(b"host", b"a:1")], "server": ("b", 2)}, "a:1", id="host"),
        pytest.param({"server": ("b", 8000)}, "b:8000", id="no host"),
        pytest.param({"headers": [(b"host", b"")], "server": ("b", 80)}, "b", id="empty host"),
        pytest.param({"server": ["b", "8000"]}, "b:8000", id="text port"),
        pytest.param({"server": ("::1", 443), "scheme": "https"}, "[::1]", id="IPv6"),
        pytest.param({"server": ("/run/s.sock", None)}, "", id="unix socket"),
        pytest.param({"server": None}, "", id="nothing"),
        pytest.param({"headers": [(b"x-forwarded-host", b"evil"), (b"forwarded", b"host=evil")]}, "", id="forwarded"),
    ],
)
def test_host_of_scope_is_the_field_or_the_socket(scope: dict[str, Any], host: str) -> None:
    """Forwarding headers are not ours to read."""
    request = request_of(path="/p", **scope)
    assert request.host == host
    assert request.url == (f"{request.scheme}://{host}/p" if host else "/p")


@pytest.mark.parametrize("host", [b"a/?", b"a/b", b"a?b", b"a#b", b"b@a", b"a b", b"a\\b"])
def test_host_that_is_poisoned_is_refused_and_moves_no_path(host: bytes) -> None:
    """CVE-2026-48710: the path comes from the scope alone."""
    request = request_of(path="/p", headers=[(b"host", host)])
    for name in ("host", "url"):
        with pytest.raises(MalformedRequestError) as caught:
            getattr(request, name)
        assert caught.value.field == "host"
    assert request.path == "/p"


def test_forwarding_headers_change_nothing() -> None:
    """Who the client is and how it came, the server says."""
    plain = Request(http_scope(), never)
    names = [
        b"x-forwarded-for",
        b"x-forwarded-proto",
        b"x-forwarded-host",
        b"x-forwarded-port",
        b"x-real-ip",
        b"forwarded",
    ]
    headers = [*http_scope()["headers"], *((name, b"9.9.9.9") for name in names)]
    request = Request(http_scope(headers=headers), never)
    for name in ("client", "server", "scheme", "host", "url", "root_path"):
        assert getattr(request, name) == getattr(plain, name)


def test_state_of_scope_is_shared_and_else_its_own() -> None:
    """What the server hands over is used; without it the request has a mapping of its own, scope untouched."""
    given_state: dict[str, Any] = {"db": 1}
    request = request_of(state=given_state)
    request.state["user"] = 2
    assert given_state == {"db": 1, "user": 2}
    for odd in (None, 5, (), "state"):
        request = request_of(state=odd)
        request.state["user"] = 2
        assert request.state == {"user": 2}
        assert request.scope["state"] is odd
    assert "state" not in request_of().scope


@pytest.mark.parametrize("extensions", [None, 5, [], "a"])
def test_extensions_of_other_type_are_none(extensions: Any) -> None:
    """A server that offers nothing readable offers nothing."""
    assert request_of(extensions=extensions).extensions == {}


# --- laziness and size -----------------------------------------------------------------------------------


class Untouched(dict[str, Any]):
    """A scope that nobody may look into."""

    def refuse(self, *args: Any) -> Any:
        raise AssertionError("looked into the scope")

    __getitem__ = get = __iter__ = __contains__ = keys = items = values = refuse


def test_request_when_constructed_looks_at_nothing() -> None:
    """Nothing is parsed, received or even looked up until asked for."""
    request = Request(Untouched(), never)
    with pytest.raises(AssertionError, match="looked"):
        _ = request.method


@pytest.mark.parametrize("parser", ["parse_query", "parse_cookies", "parse_content_type", "decode_request_headers"])
def test_request_accessors_parse_only_what_they_need(parser: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each parser runs for its own accessors, once."""
    calls: list[str] = []
    parse: Callable[..., Any] = getattr(_request_head, parser)

    def counted(*args: Any) -> Any:
        calls.append(parser)
        return parse(*args)

    monkeypatch.setattr(_request_head, parser, counted)
    headers = [(b"cookie", b"a=1"), (b"content-type", b"a/b; charset=c")]
    request = Request(http_scope(headers=headers, query_string=b"a=1"), never)
    own = {
        "parse_query": ["query_params"],
        "parse_cookies": ["cookies"],
        "parse_content_type": ["content_type", "charset"],
        "decode_request_headers": ["headers"],
    }[parser]
    for name in ACCESSORS:
        if name not in own:
            getattr(request, name)
    assert calls == []
    for name in [*own, *own]:
        getattr(request, name)
    assert calls == [parser]


def test_request_is_slotted_and_leaves_the_scope_alone() -> None:
    """No dict per request, and the scope is the server's."""
    scope = http_scope(headers=[(b"Cookie", b"a=1")], query_string=b"a=1")
    before = {**scope, "headers": list(scope["headers"])}
    request = Request(scope, never)
    for name in ACCESSORS:
        getattr(request, name)
    assert scope == before
    assert not hasattr(request, "__dict__")
    with pytest.raises(AttributeError):
        request.user = 5  # type: ignore[attr-defined]


def test_request_of_body_takes_its_limits() -> None:
    """A Body that exists is used with its limits; there is one reader of the channel."""
    body = Body(never, Limits(max_query_params=1))
    request = Request({"query_string": b"a&b"}, body)
    with pytest.raises(MalformedRequestError):
        _ = request.query_params


def test_request_subclass_with_slots_adds_attributes() -> None:
    """A framework's own request has what it needs beside."""

    class Own(Request):
        __slots__ = ("user",)
        user: str

        @property
        def method(self) -> str:
            return super().method.lower()

    request = Own({"method": "PUT"}, never)
    request.user = "me"
    assert (request.method, request.user) == ("put", "me")
    assert repr(request) == "<Own 'PUT' None>"


scalar = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.binary(max_size=8), st.just("/\ud800")
)
field = st.tuples(
    st.one_of(scalar, st.sampled_from([b"host", b"Cookie", b"content-type", b"content-length", b"x-a"])),
    st.one_of(scalar, st.binary(max_size=20)),
)
odd = st.one_of(
    scalar, st.lists(st.one_of(scalar, field), max_size=4), st.tuples(scalar, scalar), st.dictionaries(scalar, scalar)
)
odd_scope = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(http_scope(extensions={}), odd)
    | {"headers": st.one_of(odd, st.lists(field, max_size=5), st.lists(field, max_size=5).map(iter))},
)


@pytest.mark.untraced
@settings(max_examples=400)
@given(odd_scope)
@example({"headers": [(b"host", "a")]})
@example({"headers": [(b"cookie", None)]})
@example({"query_string": b"\xff", "path": "/\ud800"})
def test_request_on_fuzzed_scope_never_raises_but_documented_errors(scope: Mapping[str, Any]) -> None:
    """The constructor takes anything; an accessor gives a value or a 4xx that names a field."""
    request = Request(scope, never)
    assert repr(request)
    refused: list[RequestError] = []
    for name in ACCESSORS:
        try:
            getattr(request, name)
        except RequestError as exc:
            refused.append(exc)
    assert all(400 <= exc.status_code < 500 and exc.field for exc in refused)


# --- the body, stand-alone -------------------------------------------------------------------------------

DEADLINE_SECONDS = 5


def standing_alone(*messages: Message, limits: Limits | None = None) -> tuple[Request, Channel]:
    """A request without a handler, over a channel that gives these messages."""
    channel = Channel(messages)
    return Request(http_scope(method="POST"), channel.receive, limits=limits or Limits()), channel


@pytest.mark.parametrize(
    ("messages", "body"),
    [
        pytest.param(body_messages(b""), b"", id="empty"),
        pytest.param(body_messages(b"abc"), b"abc", id="one part"),
        pytest.param(body_messages(b"a", b"", b"bc", b""), b"abc", id="parts"),
        pytest.param([{"type": "http.request"}], b"", id="missing keys"),
        pytest.param([{"type": "http.request", "body": None}], b"", id="None as body"),
    ],
)
async def test_body_of_lone_request_is_whole(messages: list[Message], body: bytes) -> None:
    """A Request over a bare channel reads the body by itself."""
    with anyio.fail_after(DEADLINE_SECONDS):
        assert await standing_alone(*messages)[0].body() == body
        assert b"".join([part async for part in standing_alone(*messages)[0].stream()]) == body
        file = await standing_alone(*messages)[0].file()
        with file:
            assert file.tell() == 0
            assert file.read() == body


async def test_stream_of_lone_request_gives_no_empty_part() -> None:
    """Parts come as they are, the empty ones left out."""
    request, _ = standing_alone(*body_messages(b"a", b"", b"bc", b""))
    with anyio.fail_after(DEADLINE_SECONDS):
        assert [part async for part in request.stream()] == [b"a", b"bc"]


async def use_body(request: Request) -> None:
    await request.body()


async def use_json(request: Request) -> None:
    await request.json()


async def use_file(request: Request) -> None:
    (await request.file()).close()


async def use_stream(request: Request) -> None:
    async for _ in request.stream():
        pass


USES = [use_body, use_json, use_file, use_stream]


@pytest.mark.parametrize("first", USES)
@pytest.mark.parametrize("second", USES)
async def test_body_of_lone_request_used_twice_is_refused_at_once(first: Any, second: Any) -> None:
    """The body was read as it came: a second use raises, says what to do, and waits for nothing."""
    request, channel = standing_alone(*body_messages(b"1"))
    with anyio.fail_after(DEADLINE_SECONDS):
        await first(request)
        received = channel.received
        with pytest.raises(BodyConsumedError, match="body='spool'"):
            await second(request)
    assert channel.received == received


async def test_stream_of_lone_request_used_twice_is_refused_before_it_is_iterated() -> None:
    """The call itself raises."""
    request, _ = standing_alone(*body_messages(b"1"))
    stream = request.stream()
    with pytest.raises(BodyConsumedError):
        request.stream()
    with anyio.fail_after(DEADLINE_SECONDS):
        assert [part async for part in stream] == [b"1"]


@pytest.mark.parametrize("use", USES)
async def test_body_of_lone_request_that_is_cut_short_is_an_abort(use: Any) -> None:
    """A disconnect before the end is never an end of file."""
    request, _ = standing_alone({"type": "http.request", "body": b"1", "more_body": True}, DISCONNECT)
    with anyio.fail_after(DEADLINE_SECONDS), pytest.raises(ClientDisconnectedError):
        await use(request)
    assert request.is_disconnected


@pytest.mark.parametrize("use", USES)
async def test_body_of_lone_request_over_the_limit_is_refused(use: Any) -> None:
    """What is not declared is counted."""
    request, _ = standing_alone(*body_messages(b"1", b"23", b"4"), limits=Limits(max_body_bytes=2))
    with anyio.fail_after(DEADLINE_SECONDS), pytest.raises(BodyTooLargeError):
        await use(request)


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize(
    "message",
    [
        {"type": "http.request", "body": "text"},
        {"type": "http.request", "body": b"", "more_body": "yes"},
        {"type": "websocket.receive"},
        {},
    ],
    ids=repr,
)
async def test_body_of_lone_request_with_illegal_message_is_the_servers_fault(use: Any, message: Message) -> None:
    """Nothing is guessed."""
    request, _ = standing_alone(message)
    with anyio.fail_after(DEADLINE_SECONDS), pytest.raises(ServerProtocolError):
        await use(request)


async def test_wait_disconnected_of_lone_request_returns_when_the_client_has_left() -> None:
    """Without a handler nobody else listens: whoever waits must hear of it."""
    request, channel = standing_alone(*body_messages(b"1"))
    with anyio.fail_after(DEADLINE_SECONDS):
        assert await request.body() == b"1"
        assert not request.is_disconnected
        channel.disconnect()
        await request.wait_disconnected()
    assert request.is_disconnected


async def test_wait_disconnected_after_the_disconnect_returns_at_once() -> None:
    """What is known already needs no waiting."""
    request, _ = standing_alone(DISCONNECT)
    with anyio.fail_after(DEADLINE_SECONDS):
        with pytest.raises(ClientDisconnectedError):
            await request.body()
        await request.wait_disconnected()


# --- JSON ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"a": [1, 2.5, null, true, "\\u00e9"]}', {"a": [1, 2.5, None, True, "é"]}),
        ('"☃"'.encode(), "☃"),
        (b" 1 ", 1),
        pytest.param(b"\xef\xbb\xbf[1]", [1], id="RFC 8259 8.1 byte order mark"),
        pytest.param(b"1" * 4000, int("1" * 4000), id="4000 digits"),
        pytest.param(b"[" * 500 + b"]" * 500, None, id="500 levels"),
    ],
    ids=lambda value: repr(value)[:24],
)
async def test_json_of_body_is_parsed(body: bytes, expected: Any) -> None:
    """RFC 8259: UTF-8 text; a byte order mark is ignored, as the RFC allows."""
    request, _ = standing_alone(*body_messages(body))
    with anyio.fail_after(DEADLINE_SECONDS):
        found = await request.json()
    assert found == (json.loads(body) if expected is None else expected)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b" ", id="blank"),
        pytest.param(b"{", id="cut"),
        pytest.param(b"[1,]", id="comma"),
        pytest.param(b"{'a': 1}", id="single quotes"),
        pytest.param(b"[1] 2", id="more than one"),
        pytest.param(b"NaN", id="RFC 8259 6 NaN"),
        pytest.param(b"[Infinity]", id="RFC 8259 6 Infinity"),
        pytest.param(b'{"a": -Infinity}', id="RFC 8259 6 -Infinity"),
        pytest.param(b'"\xff"', id="RFC 8259 8.1 no UTF-8"),
        pytest.param(b'"\xe9"', id="RFC 8259 8.1 latin-1"),
        pytest.param('"a"'.encode("utf-16"), id="RFC 8259 8.1 UTF-16"),
        pytest.param('"a"'.encode("utf-16-le"), id="RFC 8259 8.1 UTF-16LE"),
        pytest.param('"a"'.encode("utf-32"), id="RFC 8259 8.1 UTF-32"),
        pytest.param(b"\xef\xbb", id="half a byte order mark"),
        pytest.param(b"\xef\xbb\xbf\xef\xbb\xbf1", id="two byte order marks"),
        pytest.param(b'"\x01"', id="RFC 8259 7 control"),
        pytest.param(b"1" * 5000, id="5000 digits"),
        pytest.param(b"[" * 200_000 + b"]" * 200_000, id="200,000 levels"),
        pytest.param(b'{"a":' * 100_000, id="100,000 levels cut"),
    ],
)
async def test_json_of_malformed_body_is_refused(body: bytes) -> None:
    """What is no JSON, or too deep or too long to be read, is a 400; nothing of the body stands in the answer."""
    request, _ = standing_alone(*body_messages(body))
    with linear_time():
        with anyio.fail_after(DEADLINE_SECONDS), pytest.raises(MalformedBodyError) as caught:
            await request.json()
    assert caught.value.field == "body"
    assert caught.value.status_code == 400
    assert len(caught.value.detail) < 120


async def test_json_with_own_parser_uses_it() -> None:
    """A parser gets the text, and refuses it with ValueError."""
    with anyio.fail_after(DEADLINE_SECONDS):
        request, _ = standing_alone(*body_messages("é".encode()))
        assert await request.json(loads=str.upper) == "É"
        request, _ = standing_alone(*body_messages(b"x"))
        with pytest.raises(MalformedBodyError) as caught:
            await request.json(loads=float)
    assert caught.value.detail == "body: no JSON that can be read"


async def test_json_with_own_parser_that_fails_otherwise_is_not_hidden() -> None:
    """An error of the parser that is no refusal is the application's fault."""

    def fail(text: str) -> Any:
        raise KeyError(text)

    request, _ = standing_alone(*body_messages(b"x"))
    with anyio.fail_after(DEADLINE_SECONDS), pytest.raises(KeyError):
        await request.json(loads=fail)


# --- through the handler ---------------------------------------------------------------------------------


async def test_body_of_spooled_request_can_be_used_in_every_way_any_number_of_times() -> None:
    """In spool mode the uses mix, and give the same each time."""
    seen: list[bytes] = []

    async def endpoint(request: Request) -> Response:
        for _ in range(2):
            seen.append(await request.body())
            seen.append(b"".join([part async for part in request.stream()]))
            file = await request.file()
            assert file.tell() == 0
            seen.append(file.read())
            seen.append(json.dumps(await request.json()).encode())
        return Response()

    channel = await call(Handler(endpoint), body_messages(b"[1,", b" 2]"), method="POST")
    assert channel.status == 200
    assert seen == [b"[1, 2]"] * 8


@pytest.mark.parametrize(
    ("scope", "status"),
    [
        ({"query_string": b"\xff"}, 400),
        ({"query_string": b"&" * 2000}, 400),
        ({"headers": [(b"cookie", b"a=1; " * 300)]}, 431),
        ({"headers": [(b"content-type", b"a" * 5000)]}, 400),
        ({"headers": [(b"host", b"a/b")]}, 400),
        ({"headers": [(b"host", "a")]}, 400),
        ({"headers": [(b"cookie", None)]}, 400),
        ({"headers": [("cookie", "a=1")]}, 400),
        ({"method": b"GET"}, 400),
        ({"path": None, "raw_path": None}, 200),
        ({"path": b"/"}, 400),
        ({"root_path": 5}, 400),
        ({"path": "/\ud800", "raw_path": None}, 400),
        ({"server": None, "client": None, "headers": []}, 200),
    ],
    ids=repr,
)
async def test_scope_that_is_odd_is_answered_without_an_error_in_the_log(
    scope: dict[str, Any], status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A client's fault that an endpoint runs into is a 4xx and no traceback."""

    async def endpoint(request: Request) -> Response:
        for name in ACCESSORS:
            getattr(request, name)
        return Response()

    channel = await call(Handler(endpoint), **scope)
    assert channel.status == status
    assert [record for record in caplog.records if record.name == "asgicore"] == []


@pytest.mark.parametrize("first", ["body", "stream", "json", "file"])
@pytest.mark.parametrize("second", ["body", "stream", "json", "file"])
async def test_two_requests_on_one_channel_do_not_wait_for_each_others_body(first: str, second: str) -> None:
    """The second one is told that the body is gone, in every order of use, also where both were built before."""

    async def use(request: Request, how: str) -> None:
        if how == "stream":
            assert [part async for part in request.stream()] == [b"1"]
        elif how == "file":
            (await request.file()).close()
        else:
            await getattr(request, how)()

    for are_built_before in (True, False):
        channel = Channel(body_messages(b"1"))
        scope = http_scope()
        one = Request(scope, channel.receive)
        other = Request(scope, channel.receive) if are_built_before else None
        with anyio.fail_after(1):
            await use(one, first)
            with pytest.raises(BodyConsumedError, match="another Request"):
                await use(other or Request(scope, channel.receive), second)


@pytest.mark.parametrize("mode", ["spool", "stream"])
@pytest.mark.parametrize("use", ["body", "stream", "json", "file", "form", "nothing"])
async def test_handler_behind_a_request_that_read_the_body_does_not_wait_for_it(mode: Any, use: str) -> None:
    """A middleware that looked at the body itself: the endpoint runs, and is told when it asks for what is gone."""

    async def endpoint(request: Request) -> Response:
        if use == "nothing":
            return Response("not asked for")
        with pytest.raises(BodyConsumedError, match="another Request"):
            if use == "stream":
                [part async for part in request.stream()]
            else:
                await getattr(request, use)()
        return Response("told")

    handler = Handler(endpoint, body=mode)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert await Request(scope, receive).body() == b"a=1"
        await handler(scope, receive, send)

    fields = [(b"content-type", b"application/x-www-form-urlencoded"), (b"content-length", b"3")]
    channel = Channel(body_messages(b"a=1"))
    with anyio.fail_after(5):
        await app(http_scope("POST", headers=fields), channel.receive, channel.send)
    assert channel.body == (b"not asked for" if use == "nothing" else b"told")


async def test_handler_behind_a_request_that_read_the_body_hears_of_the_disconnect() -> None:
    """An endpoint that waits is cancelled; one behind a ``receive`` that gives the body again reads it."""
    began = anyio.Event()
    ended: list[str] = []

    async def endpoint(request: Request) -> Response:
        if ended:
            return Response(await request.body())
        began.set()
        try:
            await anyio.sleep_forever()
            return Response()
        finally:
            ended.append("cancelled")

    handler = Handler(endpoint)
    channel = Channel(body_messages(b"1"))
    scope = http_scope()
    with anyio.fail_after(5):
        await Request(scope, channel.receive).body()
        async with anyio.create_task_group() as group:
            group.start_soon(handler, scope, channel.receive, channel.send)
            await began.wait()
            channel.disconnect()
        assert ended == ["cancelled"]
        again = Channel(body_messages(b"1"))
        await handler(scope, again.receive, again.send)
    assert again.body == b"1"


async def test_request_on_a_scope_that_cannot_be_added_to_reads_its_body() -> None:
    """Where nothing can be noted, nothing is."""
    channel = Channel(body_messages(b"1"))
    assert await Request(MappingProxyType(http_scope()), channel.receive).body() == b"1"
