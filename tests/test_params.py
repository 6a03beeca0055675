"""_params.py: the query string."""

from __future__ import annotations

import sys
import tracemalloc
from time import thread_time
from urllib.parse import quote, unquote

import pytest
from faults import linear_time
from hypothesis import example, given, settings
from hypothesis import strategies as st
from multidict import MultiDictProxy

from asgicore import MalformedRequestError, _params
from asgicore._params import parse_fields, parse_query


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        pytest.param(b"", [], id="empty"),
        pytest.param(b"a=1", [("a", "1")], id="one"),
        pytest.param(b"a=1&b=2&a=3", [("a", "1"), ("b", "2"), ("a", "3")], id="repeats in order"),
        pytest.param(b"a", [("a", "")], id="without equals sign"),
        pytest.param(b"a=", [("a", "")], id="without value"),
        pytest.param(b"=1", [("", "1")], id="without name"),
        pytest.param(b"=", [("", "")], id="equals sign alone"),
        pytest.param(b"&&a=1&&", [("a", "1")], id="empty fields"),
        pytest.param(b"a=1=2", [("a", "1=2")], id="equals sign in value"),
        pytest.param(b"a=1;b=2", [("a", "1;b=2")], id="WHATWG 5.1 semicolon is no separator"),
        pytest.param(b"a+b=c+d", [("a b", "c d")], id="WHATWG 5.1 plus is a blank"),
        pytest.param(b"a=%2B%20", [("a", "+ ")], id="escaped plus"),
        pytest.param(b"a%3D=%26", [("a=", "&")], id="escaped separators"),
        pytest.param(b"a=%C3%A9", [("a", "é")], id="UTF-8"),
        pytest.param(b"a=%c3%a9", [("a", "é")], id="lower-case escapes"),
        pytest.param("a=é".encode(), [("a", "é")], id="raw UTF-8"),
        pytest.param("é=%41".encode(), [("é", "A")], id="raw UTF-8 and escapes"),
        pytest.param(b"a=%ff", [("a", "\ufffd")], id="escape that is no UTF-8"),
        pytest.param(b"a=%ed%a0%80", [("a", "\ufffd\ufffd\ufffd")], id="escaped surrogate"),
        pytest.param(b"a=%25252525", [("a", "%252525")], id="decoded once"),
        pytest.param(b"a=%", [("a", "%")], id="broken escape at the end"),
        pytest.param(b"a=%zz%4", [("a", "%zz%4")], id="broken escapes"),
        pytest.param(b"a=%00", [("a", "\0")], id="NUL"),
    ],
)
def test_query_of_bytes_gives_fields(raw: bytes, expected: list[tuple[str, str]]) -> None:
    """Fields are split at ``&`` alone and decoded once; every repeat is kept in order."""
    params = parse_query(raw, 1000)
    assert type(params) is MultiDictProxy
    assert list(params.items()) == expected


@pytest.mark.parametrize("raw", [b"\xff", b"a=\xff", b"a=\xed\xa0\x80", b"a=%41&b=\xc3"])
def test_query_with_raw_bytes_that_are_no_utf8_is_refused(raw: bytes) -> None:
    """Text is asked for, and there is none: a 400 that names the query string."""
    with pytest.raises(MalformedRequestError) as caught:
        parse_query(raw, 1000)
    assert caught.value.field == "query_string"


@pytest.mark.parametrize(
    ("number", "limit", "is_accepted"), [(1000, 1000, True), (1001, 1000, False), (1, 0, False), (2000, None, True)]
)
def test_query_with_number_of_fields_is_held_to_the_limit(number: int, limit: int | None, is_accepted: bool) -> None:
    """A limit is the most that is allowed."""
    raw = b"&".join([b"a=1"] * number)
    if is_accepted:
        assert len(parse_query(raw, limit)) == number
    else:
        with pytest.raises(MalformedRequestError):
            parse_query(raw, limit)


def test_query_that_is_empty_passes_any_limit() -> None:
    """A request without a query has no field too many, also where none is allowed."""
    assert len(parse_query(b"", 0)) == 0


def test_query_with_a_million_fields_is_refused_at_once() -> None:
    """Counted before it is split, without a stall and without memory."""
    raw = b"&".join([b"a=1"] * 1_000_000)
    tracemalloc.start()
    try:
        with linear_time():
            with pytest.raises(MalformedRequestError):
                parse_query(raw, 1000)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("unit", [b"%", b"%4", b"%41", b"%ff", b"+", b"=", b";", b"%25", "é".encode()])
def test_query_of_hostile_value_takes_linear_time(unit: bytes) -> None:
    """A megabyte of the worst units is done at once; the default limit allows 64 KiB."""
    raw = unit * (2**20 // len(unit))
    with linear_time():
        parse_query(raw, 1000)


def longest_step(raw: bytes, monkeypatch: pytest.MonkeyPatch) -> float:
    """The longest time between two moments at which another thread may have the interpreter, as far as escapes go."""
    longest = 0.0
    unescape = _params._unescape

    def timed(piece: bytes) -> bytes:
        nonlocal longest
        began = thread_time()
        try:
            return unescape(piece)
        finally:
            longest = max(longest, thread_time() - began)

    with monkeypatch.context() as patch:
        patch.setattr(_params, "_unescape", timed)
        parse_fields(raw)
    return longest


@pytest.mark.parametrize("unit", [b"%", b"x%", b"%4", b"%41", b"%ff", b"\\%41", "%41é".encode()])
def test_query_of_hostile_value_comes_in_short_steps(unit: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest query takes less than 5 ms, twice that on a slow machine; a form of megabytes holds up nobody."""
    raw = unit * (2**16 // len(unit))
    # Twice as long on a machine that is slow or busy; whoever counts branches makes each cost more.
    limit = 0.01 if sys.gettrace() is None else 0.02
    times: list[float] = []
    for _ in range(5):
        began = thread_time()
        parse_query(raw, 1000)
        times.append(thread_time() - began)
    assert min(times) < limit
    assert min(longest_step(raw * 16, monkeypatch) for _ in range(5)) < limit


pieces = st.sampled_from([b"%", b"%4", b"%41", b"%e2", b"%82", b"%AC", b"%g1", b"%0", b"%5c", b"\\", b"x", b"N", b"\n"])


@settings(max_examples=500)
@given(st.lists(pieces, max_size=20).map(b"".join), st.sampled_from(["utf-8", "gb18030", "cp1252"]), st.integers(3, 9))
@example(b"%e2%82%ac", "utf-8", 4)
@example(b"xx%41", "utf-8", 3)
def test_escapes_are_decoded_as_the_standard_library_does_wherever_they_are_cut(
    raw: bytes, encoding: str, size: int
) -> None:
    """What is long is decoded piece by piece, and no escape or character is torn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_params, "_SLICE_BYTES", size)
        assert parse_fields(b"a=" + raw, encoding)["a"] == unquote(raw.decode(encoding), encoding)


@settings(max_examples=500)
@given(st.one_of(st.binary(max_size=60), st.text(alphabet="a=&;+%4fF é", max_size=40).map(str.encode)))
@example(b"%c3%")
def test_query_of_any_bytes_is_parsed_or_refused(raw: bytes) -> None:
    """Bytes that are UTF-8 are parsed, others refused with a 400; there are never more fields than separators tell."""
    try:
        params = parse_query(raw, 10)
    except MalformedRequestError:
        assert raw.count(b"&") >= 10 or "\ufffd" in raw.decode("utf-8", "replace")
        return
    assert len(params) <= raw.count(b"&") + 1
    for name, value in params.items():
        assert (name + value).encode("utf-8") is not None


readable = st.text(alphabet=st.characters(codec="utf-8"), max_size=8)


@given(st.lists(st.tuples(readable.filter(bool), readable), max_size=8))
@example([("&", "=;+% ")])
def test_query_of_encoded_fields_gives_them_back(fields: list[tuple[str, str]]) -> None:
    """What a client encodes comes out as it was."""
    raw = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in fields)
    assert list(parse_query(raw.encode("ascii"), None).items()) == fields
