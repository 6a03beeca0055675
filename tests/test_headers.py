"""_headers.py: the request's fields checked and decoded, the response's checked and encoded."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from faults import linear_time
from hypothesis import example, given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy, MultiDict, istr

from asgicore import (
    Handler,
    Headers,
    HeadersTooLargeError,
    InvalidHeaderError,
    MalformedRequestError,
    Request,
    Response,
)
from asgicore._grammar import NOT_FIELD_VALUE_BYTES
from asgicore._headers import (
    check_raw_headers,
    check_request_headers,
    decode_request_headers,
    encode_field,
    find,
    find_all,
    pairs,
    parse_content_length,
    parse_content_type,
)
from asgicore.limits import DEFAULT_LIMITS, Limits
from asgicore.testing import Client

UNLIMITED = Limits(max_headers=None, max_header_bytes=None)
# --- the head of a request -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "declared"),
    [
        pytest.param(None, None, id="missing"),
        pytest.param([], None, id="empty"),
        pytest.param([(b"host", b"a")], None, id="no length"),
        pytest.param([(b"content-length", b"5")], 5, id="length"),
        pytest.param([(b"Content-Length", b"5")], 5, id="upper case"),
        pytest.param([[b"content-length", b"5"]], 5, id="lists as pairs"),
        pytest.param(((b"content-length", b"5"),), 5, id="tuple of pairs"),
        pytest.param([(b"content-length", b"5"), (b"content-length", b"5")], 5, id="RFC 9110 8.6 equal repeats"),
        pytest.param([(b"content-length", b"5"), (b"Content-Length", b"05")], 5, id="equal in number"),
        pytest.param(
            [(b"x-content-leng", b"5"), (b"hose", b"5"), (b"hose", b"5")], None, id="names of the same length"
        ),
        pytest.param([(b"cookie", b"a=1"), (b"cookie", b"b=2")], None, id="repeats of other names"),
    ],
)
def test_request_headers_that_are_legal_give_the_declared_length(headers: Any, declared: int | None) -> None:
    """Of a legal head only the declared length of the body is taken."""
    assert check_request_headers(headers, DEFAULT_LIMITS) == declared


@pytest.mark.parametrize(
    ("headers", "field"),
    [
        pytest.param([(b"host", b"a"), (b"host", b"b")], "host", id="RFC 9112 3.2 two hosts"),
        pytest.param([(b"host", b"a"), (b"HOST", b"a")], "host", id="RFC 9112 3.2 equal hosts"),
        pytest.param(
            [(b"content-length", b"5"), (b"content-length", b"6")], "content-length", id="RFC 9110 8.6 differ"
        ),
        pytest.param([(b"content-length", b"5"), (b"CONTENT-LENGTH", b"x")], "content-length", id="second is bad"),
        pytest.param([(b"content-length", b"")], "content-length", id="RFC 9110 8.6 empty"),
        pytest.param(5, "headers", id="no iterable"),
        pytest.param([5], "headers", id="no pair"),
        pytest.param([(b"a",)], "headers", id="one of a pair"),
        pytest.param([(b"a", b"b", b"c")], "headers", id="three of a pair"),
        pytest.param([(b"a", None)], "headers", id="no value"),
        pytest.param([(None, b"a")], "headers", id="no name"),
        pytest.param([(b"content-length", "5")], "headers", id="length as text"),
    ],
)
def test_request_headers_that_are_malformed_are_refused(headers: Any, field: str) -> None:
    """An ambiguous or unreadable head is a 400 that names the field."""
    with pytest.raises(MalformedRequestError) as caught:
        check_request_headers(headers, DEFAULT_LIMITS)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("headers", "limits"),
    [
        pytest.param([(b"a", b"")] * 129, DEFAULT_LIMITS, id="one name more than 128 times"),
        pytest.param([(b"x-%d" % n, b"") for n in range(10_000)], DEFAULT_LIMITS, id="10,000 names"),
        pytest.param([(b"a", b"b" * 10 * 2**20)], DEFAULT_LIMITS, id="one of 10 MiB"),
        pytest.param([(b"a", b"b" * 2**16)], DEFAULT_LIMITS, id="one byte over"),
        pytest.param([(b"a", b"b")], Limits(max_headers=0), id="none allowed"),
        pytest.param([(b"a", b"b")], Limits(max_header_bytes=1), id="two bytes for one"),
    ],
)
def test_request_headers_over_a_limit_are_refused_with_431(headers: Any, limits: Limits) -> None:
    """Number and size of the fields are bounded."""
    with pytest.raises(HeadersTooLargeError) as caught:
        check_request_headers(headers, limits)
    assert caught.value.status_code == 431


def test_request_headers_exactly_at_a_limit_are_accepted() -> None:
    """A limit is the most that is allowed."""
    assert check_request_headers([(b"a", b"")] * 128, DEFAULT_LIMITS) is None
    assert check_request_headers([(b"a", b"b" * (2**16 - 1))], DEFAULT_LIMITS) is None
    assert check_request_headers([(b"a", b"b" * 2**17)] * 200, UNLIMITED) is None


@pytest.mark.parametrize("number", [10_000, 200_000])
def test_request_headers_repeated_without_limits_take_linear_time(number: int) -> None:
    """Repeats are collected, never joined one by one."""
    headers = [(b"x-a", b"b" * 5)] * number
    with linear_time():
        check_request_headers(headers, UNLIMITED)
        decoded = decode_request_headers(headers[:10_000])
        assert len(decoded.getall("x-a")) == 10_000


async def test_request_headers_from_one_shot_iterator_reach_the_endpoint() -> None:
    """The specification asks for an iterable: one that can be read once is checked and kept."""
    seen: list[Any] = []

    async def endpoint(request: Request) -> Response:
        seen.extend([list(request.headers.items()), request.content_length])
        return Response()

    fields = [(b"host", b"a"), (b"content-length", b"0")]
    response = await Client(Handler(endpoint)).get("/", scope={"headers": iter(fields)})
    assert response.status_code == 200
    assert seen == [[("host", "a"), ("content-length", "0")], 0]


async def test_request_headers_from_one_shot_iterator_over_the_limit_give_431() -> None:
    """A generator of fields is counted, too."""

    async def endpoint(request: Request) -> Response:
        raise AssertionError("not reached")

    fields = ((b"a", b"b") for _ in range(129))
    assert (await Client(Handler(endpoint)).get("/", scope={"headers": fields})).status_code == 431


field_name = st.one_of(
    st.binary(max_size=20), st.sampled_from([b"host", b"Host", b"content-length", b"CONTENT-LENGTH"])
)
field_value = st.one_of(st.binary(max_size=20), st.sampled_from([b"5", b"6", b"5, 5"]))
anything = st.one_of(
    st.none(), st.integers(), st.text(max_size=5), st.binary(max_size=5), st.lists(st.binary(max_size=3))
)
any_pair = st.one_of(st.tuples(field_name, field_value), anything, st.tuples(anything, anything))


@settings(max_examples=300)
@given(st.one_of(st.lists(any_pair, max_size=8), anything))
@example([("", b"")])
@example([(b"content-length", bytearray(b"5"))])
def test_request_headers_of_any_shape_are_accepted_or_refused_with_4xx(headers: Any) -> None:
    """Whatever a server puts there, nothing but a documented error comes of it."""
    try:
        declared = check_request_headers(headers, Limits(max_headers=4, max_header_bytes=50))
    except (HeadersTooLargeError, MalformedRequestError):
        return
    assert declared is None or declared >= 0


# --- content-length --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "length"),
    [
        (b"0", 0),
        (b"42", 42),
        (b"007", 7),
        (b" 42\t", 42),
        (b"42, 42", 42),
        (b"42,\t42 ,42", 42),
        (b"9" * 15, 10**15 - 1),
    ],
)
def test_content_length_of_digits_is_a_number(value: bytes, length: int) -> None:
    """RFC 9110 section 8.6: digits, and equal repeats folded into one field."""
    assert parse_content_length(value) == length


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b" ",
        b"+10",
        b"-1",
        b"1_0",
        b"0xa",
        "²".encode("latin-1"),
        "٣".encode(),
        b"1.0",
        b"1e3",
        b"9" * 16,
        b"9" * 5000,
        b"1 0",
        b"10\n",
        b"\x0b10",
        b"42, 43",
        b"42,",
        b",42",
        b",",
        b"42,,42",
        b"4 2, 4 2",
        b"4 2, 42",
        b"4\t2,42",
        b"042, 42",
        b"42;42",
    ],
)
def test_content_length_of_anything_else_is_refused(value: bytes) -> None:
    """RFC 9110 section 8.6: 1*DIGIT, no more than 15 of them, every repeat the same."""
    with pytest.raises(MalformedRequestError) as caught:
        parse_content_length(value)
    assert caught.value.field == "content-length"


@settings(max_examples=500)
@given(st.one_of(st.binary(max_size=40), st.text(alphabet="0123456789 \t,+-_", max_size=20).map(str.encode)))
def test_content_length_of_any_bytes_is_digits_or_refused(value: bytes) -> None:
    """What is accepted is one run of ASCII digits, or a comma-separated list of the same run."""
    try:
        length = parse_content_length(value)
    except MalformedRequestError:
        return
    members = {member.strip(b" \t") for member in value.split(b",")}
    assert len(members) == 1
    (digits,) = members
    assert digits.isdigit()
    assert length == int(digits)


@pytest.mark.parametrize("unit", [b"9", b",", b" ", b"42,", b"4 ", b"\t,"])
def test_content_length_of_hostile_value_takes_linear_time(unit: bytes) -> None:
    """A megabyte of digits is refused without being converted (CVE-2020-10735)."""
    value = unit * (2**20 // len(unit))
    with linear_time():
        with pytest.raises(MalformedRequestError):
            parse_content_length(value)


# --- decoding --------------------------------------------------------------------------------------------


def test_find_with_repeats_gives_the_first_value_or_all() -> None:
    """Names are compared without regard to case and as a whole; one that is not there gives None, or nothing."""
    raw = [(b"ab", b"0"), (b"A", b"1"), (b"b", b"2"), (b"a", b"3")]
    assert find(raw, b"a") == b"1"
    assert find(raw, b"c") is None
    assert find_all(raw, b"a") == [b"1", b"3"]
    assert find_all(raw, b"c") == []


def test_decoded_headers_keep_order_and_repeats_and_cannot_be_changed() -> None:
    """Names are looked up without regard to case, ``_`` is not ``-``, bytes are latin-1."""
    headers = decode_request_headers([(b"x-a", b"1"), (b"host", b"h"), (b"x-a", b"\xe9"), (b"x_b", b"no")])
    assert type(headers) is CIMultiDictProxy
    assert list(headers.items()) == [("x-a", "1"), ("host", "h"), ("x-a", "é"), ("x_b", "no")]
    assert headers.getall("X-A") == ["1", "é"]
    assert headers["HOST"] == "h"
    assert "x-b" not in headers
    assert not hasattr(headers, "add")


@pytest.mark.parametrize("pair", [("x", b"y"), (b"x", "y"), (b"x", None), (5, b"y")])
def test_decoded_headers_with_other_types_are_refused(pair: Any) -> None:
    """A field that is no pair of bytes is a 400 that names the headers."""
    with pytest.raises(MalformedRequestError) as caught:
        decode_request_headers([pair])
    assert caught.value.field == "headers"


@given(st.lists(st.tuples(st.binary(max_size=12), st.binary(max_size=12)), max_size=8))
def test_decoded_headers_of_any_bytes_hold_every_pair(raw: list[tuple[bytes, bytes]]) -> None:
    """No byte is lost or changed on the way to text."""
    decoded = decode_request_headers(raw)
    assert [(name.encode("latin-1"), value.encode("latin-1")) for name, value in decoded.items()] == [
        (name.lower(), value) for name, value in raw
    ]


# --- content-type ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "media_type", "parameters"),
    [
        (b"", "", {}),
        (b"text/plain", "text/plain", {}),
        (b" Text/HTML ", "text/html", {}),
        (b"text/html;charset=utf-8", "text/html", {"charset": "utf-8"}),
        (b"text/html ; Charset = UTF-8 ", "text/html", {"charset": "UTF-8"}),
        (b'text/html; charset="utf-8"', "text/html", {"charset": "utf-8"}),
        (b'text/html; charset= "utf-8"', "text/html", {"charset": "utf-8"}),
        (b'a/b; c="d;e=f"; g=h', "a/b", {"c": "d;e=f", "g": "h"}),
        (b'a/b; c="d\\"e"; g=h', "a/b", {"c": 'd"e', "g": "h"}),
        (b'a/b; c="\\\\"; g=h', "a/b", {"c": "\\", "g": "h"}),
        (b'a/b; c="d"junk; g=h', "a/b", {"c": "d", "g": "h"}),
        (b'a/b; c="open; g=h', "a/b", {"c": "open; g=h"}),
        (b'a/b; c="open\\', "a/b", {"c": "open"}),
        (b'a/b; c=""', "a/b", {"c": ""}),
        (b"a/b; c=", "a/b", {"c": ""}),
        (b"a/b; c=d; c=e", "a/b", {"c": "d"}),
        (b"a/b; bare; c=d", "a/b", {"c": "d"}),
        (b"a/b; bare", "a/b", {}),
        (b"a/b; =d; e=f", "a/b", {"e": "f"}),
        (b"a/b;;;c=d;;", "a/b", {"c": "d"}),
        (b"a/b; c=\xe9", "a/b", {"c": "é"}),
        (b"multipart/form-data; boundary=a=b", "multipart/form-data", {"boundary": "a=b"}),
        (b";charset=utf-8", "", {"charset": "utf-8"}),
    ],
)
def test_content_type_of_value_gives_media_type_and_parameters(
    value: bytes, media_type: str, parameters: dict[str, str]
) -> None:
    """RFC 9110 section 8.3.1, and section 5.6.4 for quotes."""
    assert parse_content_type(value) == (media_type, parameters)


def test_content_type_longer_than_4096_bytes_is_refused() -> None:
    """4 KiB is the most."""
    assert parse_content_type(b"a" * 4096) == ("a" * 4096, {})
    with pytest.raises(MalformedRequestError) as caught:
        parse_content_type(b"a" * 4097)
    assert caught.value.field == "content-type"


@pytest.mark.parametrize("length", [4096, 60_000])
@pytest.mark.parametrize(
    "unit", [b";", b"; ", b"a=;", b'a="\\"', b"\\", b'"', b"=", b"; !=", b"Content-Type: ", b'a="";', b" "]
)
def test_content_type_of_hostile_value_takes_linear_time(unit: bytes, length: int) -> None:
    """The values that stalled other parsers are refused or parsed at once."""
    value = (b'a/b; x="' + unit * length)[:length]
    with linear_time():
        for hostile in (value, value[8:]):
            try:
                parse_content_type(hostile)
            except MalformedRequestError:
                assert len(hostile) > 4096


@settings(max_examples=300)
@given(st.one_of(st.binary(max_size=60), st.text(alphabet='ab;="\\ /', max_size=40).map(str.encode)))
def test_content_type_of_any_bytes_is_parsed(value: bytes) -> None:
    """There is no value that cannot be read; names come out in lower case and never empty."""
    media_type, parameters = parse_content_type(value)
    assert media_type == media_type.strip().lower()
    assert all(name and name == name.strip().lower() and ";" not in name for name in parameters)


token = st.text(alphabet="abcxyz0-_.", min_size=1, max_size=8)


@pytest.mark.untraced
@given(st.dictionaries(token, st.text(alphabet=st.characters(codec="latin-1"), max_size=12), max_size=4))
def test_content_type_with_quoted_parameters_gives_them_back(parameters: dict[str, str]) -> None:
    """Whatever stands in a quoted-string comes out as it went in."""
    quoted = [
        '{}="{}"'.format(name, text.replace("\\", "\\\\").replace('"', '\\"')) for name, text in parameters.items()
    ]
    value = "; ".join(["a/b", *quoted])
    assert parse_content_type(value.encode("latin-1")) == ("a/b", parameters)


# --- encoding --------------------------------------------------------------------------------------------

BAD_NAMES: list[Any] = [
    "",
    " ",
    "a b",
    " a",
    "a:",
    ":status",
    "a\r\nb",
    "a\n",
    "\x00",
    "a\x7f",
    "é",
    "a\u2028",
    "\u017f",
    b"a",
    None,
    5,
    "connection",
    "Transfer-Encoding",
    "KEEP-ALIVE",
    "Proxy-Connection",
]
BAD_VALUES: list[Any] = [
    "\r",
    "\n",
    "a\r\nset-cookie: b=c",
    "a\x00b",
    "a\x0bb",
    "a\x1bb",
    "a\x7fb",
    "\u2603",
    "a\u2028b",
    "\ud800",
    "\u560d",
    "\u0130",
    " a",
    "a ",
    "\ta",
    " ",
    b"a",
    None,
    5,
]


def _by_setitem(headers: Headers, name: Any, value: Any) -> None:
    headers[name] = value


WAYS_IN: dict[str, Callable[[Headers, Any, Any], object]] = {
    "[]": _by_setitem,
    "add": lambda headers, name, value: headers.add(name, value),
    "setdefault": lambda headers, name, value: headers.setdefault(name, value),
    "extend pairs": lambda headers, name, value: headers.extend([(name, value)]),
    "extend mapping": lambda headers, name, value: headers.extend({name: value}),
    "update pairs": lambda headers, name, value: headers.update([(name, value)]),
    "update mapping": lambda headers, name, value: headers.update({name: value}),
    "update after a good one": lambda headers, name, value: headers.update([("x-good", "1"), (name, value)]),
    "merge": lambda headers, name, value: headers.merge({name: value}),
    "constructor pairs": lambda headers, name, value: Headers([(name, value)]),
    "constructor mapping": lambda headers, name, value: Headers({name: value}),
    "constructor generator": lambda headers, name, value: Headers((name, value) for _ in range(1)),
}
TEXT_WAYS_IN: dict[str, Callable[[Headers, str, Any], object]] = {
    "constructor kwargs": lambda headers, name, value: Headers(**{name: value}),
    "extend kwargs": lambda headers, name, value: headers.extend(**{name: value}),
    "update kwargs": lambda headers, name, value: headers.update(**{name: value}),
    "merge kwargs": lambda headers, name, value: headers.merge(**{name: value}),
    "constructor MultiDict": lambda headers, name, value: Headers(MultiDict([(name, value)])),
    "constructor CIMultiDict": lambda headers, name, value: Headers(CIMultiDict([(name, value)])),
    "extend proxy": lambda headers, name, value: headers.extend(CIMultiDictProxy(CIMultiDict([(name, value)]))),
}


BAD_NAMES_BY_WAY = [
    *((way, name) for way in WAYS_IN for name in BAD_NAMES),
    # These containers take no name but text.
    *((way, name) for way in TEXT_WAYS_IN for name in BAD_NAMES if isinstance(name, str)),
]


@pytest.mark.parametrize(("way", "name"), BAD_NAMES_BY_WAY, ids=[f"{way}-{name!r}" for way, name in BAD_NAMES_BY_WAY])
def test_headers_with_illegal_name_are_refused_by_every_way_in(way: str, name: Any) -> None:
    """RFC 9110 section 5.1: a name is a token of text, and framing belongs to the server; refused where it is set."""
    headers = Headers({"x-kept": "1"})
    with pytest.raises(InvalidHeaderError) as caught:
        (WAYS_IN | TEXT_WAYS_IN)[way](headers, name, "v")
    assert caught.value.header == (name if isinstance(name, str) else repr(name))
    assert list(headers.items()) == [("x-kept", "1")]


@pytest.mark.parametrize("way", [*WAYS_IN, *TEXT_WAYS_IN])
@pytest.mark.parametrize("value", BAD_VALUES, ids=repr)
def test_headers_with_illegal_value_are_refused_by_every_way_in(way: str, value: Any) -> None:
    """RFC 9110 section 5.5: no controls, nothing outside latin-1, no blank at an end; refused where it is set."""
    headers = Headers({"x-kept": "1"})
    with pytest.raises(InvalidHeaderError) as caught:
        (WAYS_IN | TEXT_WAYS_IN)[way](headers, "X-Bad", value)
    assert caught.value.header == "x-bad"
    assert list(headers.items()) == [("x-kept", "1")]


def test_header_value_with_next_line_is_refused() -> None:
    """U+0085 is latin-1 and ends a line for many readers: refused as the Unicode line separators are."""
    with pytest.raises(InvalidHeaderError):
        encode_field("x-a", "a\x85b")


@pytest.mark.parametrize("way", [*WAYS_IN, *TEXT_WAYS_IN])
@pytest.mark.parametrize("value", ["", "a", "a b", "a\tb", "é\xff", "a;b,c"])
def test_headers_with_legal_field_take_it_by_every_way_in(way: str, value: str) -> None:
    """What is legal is kept as it is, and goes out with its name in lower case."""
    headers = Headers()
    made = (WAYS_IN | TEXT_WAYS_IN)[way](headers, "X-Fine", value)
    kept = made if isinstance(made, Headers) else headers
    assert kept["x-fine"] == value
    assert (b"x-fine", value.encode("latin-1")) in kept.raw()


def test_headers_with_repeats_keep_their_order() -> None:
    """RFC 9110 section 5.3: fields of one name stay apart and in order, Set-Cookie above all."""
    headers = Headers([("Set-Cookie", "a=1"), ("Vary", "x"), ("set-cookie", "b=2")])
    headers.add("SET-COOKIE", "c=3")
    assert headers.getall("set-cookie") == ["a=1", "b=2", "c=3"]
    assert headers.raw() == [
        (b"set-cookie", b"a=1"),
        (b"vary", b"x"),
        (b"set-cookie", b"b=2"),
        (b"set-cookie", b"c=3"),
    ]


def test_headers_methods_keep_the_meaning_of_the_multidict() -> None:
    """``[]`` and ``update`` replace, ``add`` and ``extend`` append, ``merge`` and ``setdefault`` fill gaps."""
    headers = Headers([("a", "1"), ("A", "2")], b="3")
    headers["a"] = "4"
    assert headers.getall("a") == ["4"]
    headers.update({"B": "5"}, c="6")
    headers.merge([("c", "no"), ("d", "7")])
    headers.extend(CIMultiDict([("d", "8"), ("d", "9")]))
    assert headers.setdefault("a", "no") == "4"
    assert headers.setdefault("e", "10") == "10"
    assert sorted(headers.items()) == [
        ("B", "5"),
        ("a", "4"),
        ("c", "6"),
        ("d", "7"),
        ("d", "8"),
        ("d", "9"),
        ("e", "10"),
    ]
    assert isinstance(headers, CIMultiDict)


def test_headers_setdefault_without_default_is_refused_unless_present() -> None:
    """There is no header without a value."""
    headers = Headers(a="1")
    assert headers.setdefault("a") == "1"
    with pytest.raises(InvalidHeaderError):
        headers.setdefault("b")


def test_headers_filled_behind_the_checks_are_checked_when_they_leave() -> None:
    """Nothing illegal reaches the wire, even by calls of the base class."""
    headers = Headers()
    CIMultiDict.add(headers, "x-a", "b\r\nc")
    with pytest.raises(InvalidHeaderError, match="x-a"):
        headers.raw()


@pytest.mark.parametrize("argument", ["ab", [5], [("a",)], [("a", "b", "c")], {"abc"}])
def test_headers_from_no_pairs_are_a_type_error(argument: Any) -> None:
    """A headers argument is a mapping or pairs; the error says so."""
    with pytest.raises(TypeError, match="mapping or pairs"):
        Headers(argument)


def test_pairs_of_argument_give_every_repeat() -> None:
    """Mappings, multidicts, proxies and pairs are all read; None is empty."""
    expected = [("a", "1"), ("a", "2")]
    multi = CIMultiDict(expected)
    sources: list[Any] = [expected, iter(expected), multi, CIMultiDictProxy(multi), MultiDict(expected)]
    for source in sources:
        assert list(pairs(source)) == expected
    assert list(pairs(None)) == []
    assert list(pairs({"a": "1"})) == [("a", "1")]


@settings(max_examples=500)
@given(st.text(max_size=20), st.text(max_size=30))
@example("x", "a\x85b")
@example("content-type", "\x80")
@example("content-type ", "x")
def test_encoded_field_of_any_text_is_legal_or_refused(name: str, value: str) -> None:
    """Whatever text goes in, out come legal bytes or InvalidHeaderError, which names the header."""
    refused = None
    try:
        raw_name, raw_value = encode_field(name, value)
    except InvalidHeaderError as exc:
        refused = exc
    if refused is not None:
        assert refused.header.lower() == name.lower()
        return
    assert raw_name.decode("ascii") == name.lower()
    assert raw_value.decode("latin-1") == value
    assert raw_name
    assert not set(raw_name) & set(b'\x00\t\r\n "(),/:;<=>?@[\\]{}\x7f')
    assert not NOT_FIELD_VALUE_BYTES.search(raw_value)
    assert raw_value == raw_value.strip(b" \t")


def test_encoded_field_with_subclass_of_text_is_plain() -> None:
    """Case-insensitive names of multidict and other subclasses of str are text."""

    class Text(str):
        __slots__ = ()

    assert encode_field(istr("X-A"), Text("b")) == (b"x-a", b"b")


@pytest.mark.parametrize("value", ["a" * 2**20, "é" * 2**20, "a" * 2**20 + "\r", " " * 2**20, "\u2603" * 2**20])
def test_encoded_field_of_hostile_length_takes_linear_time(value: str) -> None:
    """A megabyte is checked in milliseconds."""
    refused = ""
    with linear_time():
        try:
            encode_field("x-a", value)
        except InvalidHeaderError as exc:
            refused = str(exc)
        assert len(refused) < 200
        with pytest.raises(InvalidHeaderError):
            encode_field("é" + value, "")


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param([("a", b"b")], id="name as text"),
        pytest.param([(b"a", "b")], id="value as text"),
        pytest.param([(b"", b"b")], id="empty name"),
        pytest.param([(b"a b", b"b")], id="blank in name"),
        pytest.param([(b"\xe9", b"b")], id="name outside ASCII"),
        pytest.param([(b"a", b"b\r\nc: d")], id="line break in value"),
        pytest.param([(b"a", b"\x00")], id="NUL in value"),
        pytest.param([(b"a", b"\x7f")], id="DEL in value"),
        pytest.param([(b"Transfer-Encoding", b"chunked")], id="framing"),
        pytest.param([(b"connection", b"close")], id="connection"),
        pytest.param([(b"a", b" b")], id="blank before the value"),
        pytest.param([(b"a", b"b\t")], id="blank after the value"),
    ],
)
def test_raw_headers_that_are_illegal_are_refused(fields: Iterable[Any]) -> None:
    """Fields that are bytes already pass the same checks as text."""
    with pytest.raises(InvalidHeaderError):
        check_raw_headers(fields)


def test_raw_headers_that_are_legal_come_out_in_lower_case() -> None:
    """Lists are taken for tuples, obs-text is legal, order and repeats are kept."""
    fields = [[b"X-A", b"\xe9"], (b"x-a", b"a\tb"), (b"b", b"")]
    assert check_raw_headers(iter(fields)) == [(b"x-a", b"\xe9"), (b"x-a", b"a\tb"), (b"b", b"")]


@settings(max_examples=300)
@given(st.lists(st.tuples(st.binary(max_size=8), st.binary(max_size=12)), max_size=3))
def test_raw_headers_of_any_bytes_agree_with_those_of_text(raw: list[tuple[bytes, bytes]]) -> None:
    """Bytes are legal if, and only if, the same fields as text are, in which U+0085 would be a line break."""

    def outcome(check: Callable[[], object]) -> object:
        try:
            return check()
        except InvalidHeaderError:
            return "refused"

    raw = [(name, value.replace(b"\x85", b"")) for name, value in raw]
    text = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in raw]
    assert outcome(lambda: check_raw_headers(raw)) == outcome(lambda: [encode_field(*field) for field in text])


def test_raw_headers_that_keep_their_case_lose_what_is_the_server_s() -> None:
    """Names are those of the application; how the connection goes on is no business of it."""
    given = [(b"X-Own", b"1"), (b"Connection", b"keep-alive"), (b"transfer-encoding", b"chunked")]
    assert check_raw_headers(given, keeps_case=True) == [(b"X-Own", b"1")]
    with pytest.raises(InvalidHeaderError):
        check_raw_headers(given)
