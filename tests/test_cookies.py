"""_cookies.py: the request's cookies parsed as browsers write them, the response's checked and built."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from http.cookies import SimpleCookie
from typing import Any

import pytest
from faults import linear_time
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asgicore import HeadersTooLargeError, InvalidHeaderError
from asgicore._cookies import build_set_cookie, parse_cookies
from asgicore.limits import DEFAULT_LIMITS, Limits

UNLIMITED = Limits(max_cookie_bytes=None, max_cookies=None)


def build(key: Any = "a", value: Any = "b", **attributes: Any) -> str:
    """A set-cookie value with nothing but what is asked for."""
    defaults: dict[str, Any] = {
        "max_age": None,
        "expires": None,
        "path": None,
        "domain": None,
        "secure": False,
        "httponly": False,
        "samesite": None,
        "partitioned": False,
    }
    return build_set_cookie(key, value, **defaults | attributes)


# --- the request's ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param([b""], {}, id="empty"),
        pytest.param([b"a=1"], {"a": "1"}, id="one"),
        pytest.param([b"a=1; b=2"], {"a": "1", "b": "2"}, id="two"),
        pytest.param([b"a=1;b=2 ;\tc=3\t"], {"a": "1", "b": "2", "c": "3"}, id="RFC 6265 5.2 blanks go"),
        pytest.param([b"a = 1"], {"a": "1"}, id="RFC 6265 5.2 blanks around the equals sign go"),
        pytest.param([b"a=1", b"b=2", b"c=3"], {"a": "1", "b": "2", "c": "3"}, id="RFC 9113 8.2.3 crumbs"),
        pytest.param([b"a=1;", b"", b";b=2;;"], {"a": "1", "b": "2"}, id="empty crumbs and semicolons"),
        pytest.param([b"a=1; a=2"], {"a": "2"}, id="of repeats the last"),
        pytest.param([b"a=1; A=2"], {"a": "1", "A": "2"}, id="names keep their case"),
        pytest.param([b"a=b=c=="], {"a": "b=c=="}, id="equals sign in value"),
        pytest.param([b"a="], {"a": ""}, id="empty value"),
        pytest.param([b"a, b=c, d"], {"a, b": "c, d"}, id="comma is no separator"),
        pytest.param([b"=__Host-sid=x; a=1"], {"a": "1"}, id="CVE-2023-23934 nameless is dropped"),
        pytest.param([b"__Host-sid; a=1"], {"a": "1"}, id="without equals sign is dropped"),
        pytest.param([b" =x"], {}, id="blank name is dropped"),
        pytest.param([b'{"json":1}=2; a=1'], {'{"json":1}': "2", "a": "1"}, id="odd name loses nothing"),
        pytest.param([b'a={"b": 1}'], {"a": '{"b": 1}'}, id="JSON value"),
        pytest.param([b'a="b c"'], {"a": "b c"}, id="quotes go"),
        pytest.param([b'a=""'], {"a": ""}, id="empty quotes"),
        pytest.param([b'a="'], {"a": '"'}, id="one quote stays"),
        pytest.param([b'a="b'], {"a": '"b'}, id="open quote stays"),
        pytest.param([b'a=b"c"'], {"a": 'b"c"'}, id="inner quotes stay"),
        pytest.param([b'a="b\\"c\\\\d"'], {"a": 'b"c\\d'}, id="http.cookies escapes"),
        pytest.param([b'a="b\\054c\\073d"'], {"a": "b,c;d"}, id="http.cookies octal"),
        pytest.param([b'a="\\09x\\400"'], {"a": "09x400"}, id="no octal"),
        pytest.param([b'a="b\\"'], {"a": "b\\"}, id="backslash at the end"),
        pytest.param(["a=é".encode()], {"a": "é"}, id="UTF-8"),
        pytest.param([b"a=\xe9"], {"a": "é"}, id="latin-1"),
        pytest.param(["é=1; b=\xff".encode("latin-1")], {"é": "1", "b": "ÿ"}, id="latin-1 as a whole"),
        pytest.param([b"a=%C3%A9+b"], {"a": "%C3%A9+b"}, id="percent is not decoded"),
        pytest.param([b"a=\x01\x00"], {"a": "\x01\x00"}, id="controls"),
    ],
)
def test_cookies_of_fields_are_parsed_as_browsers_write_them(fields: list[bytes], expected: dict[str, str]) -> None:
    """All fields are joined with ``"; "`` and read leniently; one odd pair costs no other."""
    assert parse_cookies(fields, DEFAULT_LIMITS) == expected


BLANKS = [char for char in map(chr, range(0x3001)) if char.isspace() and char not in " \t"]


@pytest.mark.parametrize("blank", BLANKS, ids=lambda char: f"U+{ord(char):04X}")
def test_cookie_name_behind_unicode_blank_is_another_name(blank: str) -> None:
    """RFC 6265 section 5.2 strips SP and HTAB alone: another name for browsers must not become ``__Host-``."""
    for name in (f"{blank}__Host-sid", f"__Host-sid{blank}"):
        cookies = parse_cookies([f"__Host-sid=good; {name}=evil".encode()], DEFAULT_LIMITS)
        assert cookies["__Host-sid"] == "good"


def test_cookie_name_behind_latin1_blank_is_another_name() -> None:
    """The same where the bytes are no UTF-8 and read as latin-1."""
    for blank in (b"\xa0", b"\x85"):
        cookies = parse_cookies([b"__Host-sid=good; " + blank + b"__Host-sid=evil; c=\xff"], DEFAULT_LIMITS)
        assert cookies["__Host-sid"] == "good"


def test_cookie_value_between_unicode_blanks_keeps_them() -> None:
    """Of a value, too, only SP and HTAB are stripped."""
    assert parse_cookies(["a=\u2003b\u2003".encode()], DEFAULT_LIMITS) == {"a": "\u2003b\u2003"}


@pytest.mark.parametrize("text", ["é", "☃", "a b", "a;b,c", '"', "\\", "\x01"])
def test_cookie_value_in_octal_utf8_is_decoded(text: str) -> None:
    """Werkzeug quotes the UTF-8 bytes of a value in octal: undoing its quoting gives the text back."""
    quoted = "".join(
        char if char.isalnum() and char.isascii() else "".join(f"\\{byte:03o}" for byte in char.encode())
        for char in text
    )
    assert parse_cookies([f'a="{quoted}"'.encode()], DEFAULT_LIMITS) == {"a": text}


def test_cookie_value_in_octal_latin1_is_decoded() -> None:
    """``http.cookies`` quotes the code points of a value in octal."""
    quoted = SimpleCookie({"a": "déjà vu; \\"}).output(header="").strip()
    assert "\\" in quoted
    assert parse_cookies([quoted.encode()], DEFAULT_LIMITS) == {"a": "déjà vu; \\"}


@pytest.mark.parametrize(
    ("fields", "limits"),
    [
        pytest.param([b"a=" + b"b" * (16 * 2**10 - 1)], DEFAULT_LIMITS, id="one byte over"),
        pytest.param([b"a=" + b"b" * 8 * 2**10] * 2, DEFAULT_LIMITS, id="in two fields"),
        pytest.param([b"; ".join([b"a=1"] * 257)], DEFAULT_LIMITS, id="one cookie over"),
        pytest.param([b"a=1"] * 257, DEFAULT_LIMITS, id="one crumb over"),
        pytest.param([b";" * 256], DEFAULT_LIMITS, id="empty pairs count"),
        pytest.param([b"a=1"], Limits(max_cookies=0), id="none allowed"),
    ],
)
def test_cookies_over_a_limit_are_refused_with_431(fields: list[bytes], limits: Limits) -> None:
    """Number and size are bounded over all fields."""
    with pytest.raises(HeadersTooLargeError) as caught:
        parse_cookies(fields, limits)
    assert (caught.value.field, caught.value.status_code) == ("cookie", 431)


def test_cookies_exactly_at_a_limit_are_accepted() -> None:
    """A limit is the most that is allowed."""
    assert parse_cookies([b"a=" + b"b" * (16 * 2**10 - 2)], DEFAULT_LIMITS)
    assert len(parse_cookies([b"%d=1" % number for number in range(256)], DEFAULT_LIMITS)) == 256


@pytest.mark.parametrize(
    "value",
    [
        b'a="' + b"\\" * 2**18 + b'"',
        b'a="' + b"\\101" * 2**16 + b'"',
        b'a="' + b"\\\\" * 2**17,
        b"; ".join([b"a=1"] * 1_000_000),
        b";" * 2**20,
        b"=" * 2**20,
        b" " * 2**20,
        b'"' * 2**20,
        b"a=" + b" " * 2**20 + b"b",
        b"\xff" * 2**20,
    ],
    ids=lambda value: repr(value[:12]),
)
def test_cookies_of_hostile_value_take_linear_time(value: bytes) -> None:
    """The values that stalled other parsers are refused at once (CVE-2024-7592)."""
    with linear_time():
        with pytest.raises(HeadersTooLargeError):
            parse_cookies([value], DEFAULT_LIMITS)


@pytest.mark.parametrize("unit", [b"\\", b"\\101", b'\\"', b" ", b"\xff", b"="])
def test_cookies_of_hostile_value_without_limits_take_linear_time(unit: bytes) -> None:
    """Also a quarter of a megabyte of escapes is parsed, not only refused, in linear time."""
    with linear_time():
        parse_cookies([b'a="' + unit * (2**18 // len(unit)) + b'"'], UNLIMITED)


@pytest.mark.untraced
@settings(max_examples=500)
@given(
    st.lists(
        st.one_of(st.binary(max_size=30), st.text(alphabet='ab=;" \\017\t\u2003é', max_size=30).map(str.encode)),
        min_size=1,
        max_size=4,
    )
)
@example([b'a="\\\n"'])
def test_cookies_of_any_bytes_are_parsed_or_refused(fields: list[bytes]) -> None:
    """Whatever bytes come, the names are not empty and hold no separator, and no blank is left around them."""
    try:
        cookies = parse_cookies(fields, Limits(max_cookies=10, max_cookie_bytes=80))
    except HeadersTooLargeError:
        return
    assert len(cookies) <= 10
    for name, value in cookies.items():
        assert name == name.strip(" \t") != ""
        assert not set(name) & {";", "="}
        assert isinstance(value, str)


@given(st.binary(max_size=40), st.integers(0, 40))
def test_cookies_in_crumbs_are_those_of_one_field(raw: bytes, cut: int) -> None:
    """RFC 9113 section 8.2.3: where a client splits the field changes nothing."""
    pairs = raw.split(b"; ")
    cut = min(cut, len(pairs))
    crumbs = [b"; ".join(pairs[:cut]), b"; ".join(pairs[cut:])]
    assert parse_cookies(crumbs, UNLIMITED) == parse_cookies([raw], UNLIMITED)


# --- the response's --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        pytest.param({}, "a=b", id="nothing"),
        pytest.param({"value": ""}, "a=", id="empty value"),
        pytest.param({"value": '"b"'}, 'a="b"', id="RFC 6265 4.1.1 quoted value"),
        pytest.param({"max_age": 0}, "a=b; Max-Age=0", id="Max-Age 0"),
        pytest.param({"max_age": -1}, "a=b; Max-Age=-1", id="Max-Age -1"),
        pytest.param({"max_age": timedelta(days=1, seconds=0.9)}, "a=b; Max-Age=86400", id="Max-Age timedelta"),
        pytest.param(
            {"expires": datetime(2030, 1, 2, 3, 4, 5)}, "a=b; Expires=Wed, 02 Jan 2030 03:04:05 GMT", id="Expires naive"
        ),
        pytest.param(
            {"expires": datetime(2030, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=2)))},
            "a=b; Expires=Wed, 02 Jan 2030 01:04:05 GMT",
            id="Expires aware",
        ),
        pytest.param(
            {"expires": "Wed, 02 Jan 2030 03:04:05 GMT"},
            "a=b; Expires=Wed, 02 Jan 2030 03:04:05 GMT",
            id="Expires text",
        ),
        pytest.param({"domain": "example.com"}, "a=b; Domain=example.com", id="Domain"),
        pytest.param({"domain": ".example.com"}, "a=b; Domain=.example.com", id="Domain with a dot"),
        pytest.param({"path": "/"}, "a=b; Path=/", id="Path"),
        pytest.param({"path": "/a b,c"}, "a=b; Path=/a b,c", id="Path with blank"),
        pytest.param({"secure": True}, "a=b; Secure", id="Secure"),
        pytest.param({"httponly": True}, "a=b; HttpOnly", id="HttpOnly"),
        pytest.param({"samesite": "lax"}, "a=b; SameSite=Lax", id="SameSite lax"),
        pytest.param({"samesite": "strict"}, "a=b; SameSite=Strict", id="SameSite strict"),
        pytest.param({"samesite": "none", "secure": True}, "a=b; Secure; SameSite=None", id="SameSite none"),
        pytest.param({"partitioned": True}, "a=b; Secure; Partitioned", id="Partitioned brings Secure"),
        pytest.param(
            {"partitioned": True, "samesite": "none"}, "a=b; Secure; SameSite=None; Partitioned", id="Partitioned none"
        ),
        pytest.param({"key": "__Secure-a", "secure": True}, "__Secure-a=b; Secure", id="__Secure-"),
        pytest.param(
            {"key": "__Secure-a", "partitioned": True}, "__Secure-a=b; Secure; Partitioned", id="__Secure- CHIPS"
        ),
        pytest.param(
            {"key": "__Host-a", "secure": True, "path": "/"}, "__Host-a=b; Path=/; Secure", id="__Host- root path"
        ),
        pytest.param(
            {
                "max_age": 5,
                "expires": datetime(2030, 1, 2),
                "path": "/p",
                "domain": "d.e",
                "secure": True,
                "httponly": True,
                "samesite": "strict",
                "partitioned": True,
            },
            "a=b; Max-Age=5; Expires=Wed, 02 Jan 2030 00:00:00 GMT; Domain=d.e; Path=/p; Secure; HttpOnly; "
            "SameSite=Strict; Partitioned",
            id="everything",
        ),
    ],
)
def test_set_cookie_with_attributes_is_written_as_rfc6265bis_says(attributes: dict[str, Any], expected: str) -> None:
    """RFC 6265bis section 4.1 and CHIPS: each attribute has its place and spelling."""
    assert build(**attributes) == expected


def test_set_cookie_expiring_in_seconds_is_dated_from_now() -> None:
    """A number is taken as seconds from now."""
    before = datetime.now(UTC)
    expires = parsedate_to_datetime(build(expires=60).partition("Expires=")[2])
    assert timedelta(seconds=58) < expires - before < timedelta(seconds=70)


HOSTILE = ["\r", "\n", "\r\nset-cookie: x=y", "\x00", "\x1f", "\x7f", ";", "; Secure", "é", "☃", "\u2028", "\ud800"]


@pytest.mark.parametrize("hostile", HOSTILE, ids=repr)
@pytest.mark.parametrize("part", ["key", "value", "path", "domain", "expires"])
def test_set_cookie_with_hostile_part_is_refused(part: str, hostile: str) -> None:
    """Nothing ends a header, or an attribute, in any part of a cookie."""
    for text in (hostile, f"a{hostile}", f"a{hostile}b"):
        with pytest.raises(InvalidHeaderError) as caught:
            build(**{part: text})
        assert caught.value.header == "set-cookie"
        assert all(char.isprintable() for char in str(caught.value))


@pytest.mark.parametrize(
    "attributes",
    [
        pytest.param({"key": ""}, id="RFC 6265 4.1.1 empty name"),
        pytest.param({"key": "a b"}, id="RFC 6265 4.1.1 blank in name"),
        pytest.param({"key": "a=b"}, id="RFC 6265 4.1.1 equals sign in name"),
        pytest.param({"key": "a,b"}, id="RFC 6265 4.1.1 comma in name"),
        pytest.param({"key": '"a"'}, id="RFC 6265 4.1.1 quotes in name"),
        pytest.param({"key": b"a"}, id="name of bytes"),
        pytest.param({"key": None}, id="no name"),
        pytest.param({"value": "a b"}, id="RFC 6265 4.1.1 blank in value"),
        pytest.param({"value": "a,b"}, id="RFC 6265 4.1.1 comma in value"),
        pytest.param({"value": "a\\b"}, id="RFC 6265 4.1.1 backslash in value"),
        pytest.param({"value": 'a"b'}, id="RFC 6265 4.1.1 quote in value"),
        pytest.param({"value": '"a'}, id="RFC 6265 4.1.1 open quote"),
        pytest.param({"value": b"a"}, id="value of bytes"),
        pytest.param({"value": 5}, id="value of number"),
        pytest.param({"path": 5}, id="path of number"),
        pytest.param({"domain": b"a"}, id="domain of bytes"),
        pytest.param({"domain": ""}, id="empty domain"),
        pytest.param({"domain": "a b"}, id="blank in domain"),
        pytest.param({"domain": "a:80"}, id="port in domain"),
        pytest.param({"domain": "a/b"}, id="path in domain"),
        pytest.param({"samesite": "Lax"}, id="SameSite in other case"),
        pytest.param({"samesite": "lax; Secure"}, id="SameSite of other text"),
        pytest.param({"samesite": True}, id="SameSite of other type"),
        pytest.param({"samesite": "none"}, id="RFC 6265bis SameSite none without Secure"),
        pytest.param({"key": "__Secure-a"}, id="RFC 6265bis 4.1.3.1 __Secure- without Secure"),
        pytest.param({"key": "__secure-a"}, id="RFC 6265bis 4.1.3.1 in any case"),
        pytest.param({"key": "__Host-a", "path": "/"}, id="RFC 6265bis 4.1.3.2 __Host- without Secure"),
        pytest.param({"key": "__Host-a", "secure": True}, id="RFC 6265bis 4.1.3.2 __Host- without path"),
        pytest.param({"key": "__HOST-a", "secure": True, "path": "/b"}, id="RFC 6265bis 4.1.3.2 __Host- other path"),
        pytest.param(
            {"key": "__Host-a", "secure": True, "path": "/", "domain": "a.b"}, id="RFC 6265bis 4.1.3.2 __Host- domain"
        ),
        pytest.param({"max_age": True}, id="Max-Age bool"),
        pytest.param({"max_age": 1.5}, id="Max-Age fraction"),
        pytest.param({"max_age": "5"}, id="Max-Age text"),
        pytest.param({"max_age": "5; Secure"}, id="Max-Age injection"),
        pytest.param({"max_age": 10**5000}, id="Max-Age of 5000 digits"),
        pytest.param({"expires": True}, id="Expires bool"),
        pytest.param({"expires": 1.5}, id="Expires fraction"),
        pytest.param({"expires": b"x"}, id="Expires bytes"),
        pytest.param({"expires": 10**20}, id="Expires beyond the calendar"),
        pytest.param({"expires": -(10**20)}, id="Expires before the calendar"),
        pytest.param({"expires": 10**400}, id="Expires beyond a float"),
        pytest.param(
            {"expires": datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1)))}, id="Expires before the year 1 in UTC"
        ),
    ],
)
def test_set_cookie_with_illegal_part_is_refused(attributes: dict[str, Any]) -> None:
    """A part that the grammar or a browser refuses raises InvalidHeaderError, and nothing else."""
    with pytest.raises(InvalidHeaderError) as caught:
        build(**attributes)
    assert caught.value.header == "set-cookie"


legal_text = st.text(alphabet="aZ09_-.", min_size=1, max_size=8)
cookie_text = st.one_of(legal_text, legal_text, legal_text, st.text(max_size=8))
LINE = re.compile(
    r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+=[\x21\x22-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*"
    r"(; Max-Age=-?[0-9]+)?(; Expires=[\x20-\x3a\x3c-\x7e]*)?(; Domain=[A-Za-z0-9._\-]+)?"
    r"(; Path=[\x20-\x3a\x3c-\x7e]*)?"
    r"(; Secure)?(; HttpOnly)?(; SameSite=(Lax|Strict|None))?(; Partitioned)?"
)


@pytest.mark.untraced
@settings(max_examples=500)
@given(
    key=st.one_of(cookie_text, cookie_text.map("__Host-{}".format), cookie_text.map("__secure-{}".format)),
    value=cookie_text,
    max_age=st.one_of(st.none(), st.integers(), st.timedeltas()),
    expires=st.one_of(st.none(), st.integers(-(2**40), 2**40), st.datetimes(timezones=st.timezones()), cookie_text),
    path=st.one_of(st.none(), st.just("/"), cookie_text),
    domain=st.one_of(st.none(), cookie_text),
    secure=st.booleans(),
    httponly=st.booleans(),
    samesite=st.sampled_from([None, "lax", "strict", "none"]),
    partitioned=st.booleans(),
)
def test_set_cookie_of_any_parts_is_one_legal_line_or_refused(**parts: Any) -> None:
    """Whatever goes in, out comes a line of RFC 6265bis that the parser reads back, or InvalidHeaderError."""
    try:
        line = build(**parts)
    except InvalidHeaderError:
        return
    assert LINE.fullmatch(line)
    pair = line.partition(";")[0]
    value = parts["value"]
    expected = value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value
    assert parse_cookies([pair.encode("ascii")], DEFAULT_LIMITS) == {parts["key"]: expected}
    if parts["key"].lower().startswith("__host-"):
        assert "; Path=/; Secure" in line
        assert "Domain" not in line


@pytest.mark.parametrize("part", ["key", "value", "path", "domain", "expires"])
def test_set_cookie_with_hostile_length_takes_linear_time(part: str) -> None:
    """A megabyte of any part is checked in milliseconds."""
    with linear_time():
        build(**{part: "a" * 2**20})
        with pytest.raises(InvalidHeaderError):
            build(**{part: "a" * 2**20 + "\n"})
