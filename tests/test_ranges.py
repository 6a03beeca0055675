"""_ranges.py: what a Range asks for, Content-Range, multipart/byteranges."""

from __future__ import annotations

from time import thread_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgicore._ranges import Part, build_content_range, build_multipart, parse_ranges, requested_ranges

SIZE = 1000


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        # the examples of RFC 9110 section 14.1.2, of 10,000 bytes there
        pytest.param(b"bytes=0-499", [(0, 500)], id="14.1.2 the first 500"),
        pytest.param(b"bytes=500-999", [(500, 500)], id="14.1.2 the second 500"),
        pytest.param(b"bytes=-500", [(500, 500)], id="14.1.2 the last 500"),
        pytest.param(b"bytes=950-", [(950, 50)], id="14.1.2 from 950 on"),
        pytest.param(b"bytes=0-0,-1", [(0, 1), (999, 1)], id="14.1.2 the first and the last"),
        pytest.param(
            b"bytes= 0-99, 450-549, -100", [(0, 100), (450, 100), (900, 100)], id="14.1.2 first, middle, last"
        ),
        pytest.param(b"bytes=500-600,601-999", [(500, 500)], id="14.1.2 parts that touch"),
        pytest.param(b"bytes=500-700,601-999", [(500, 500)], id="14.1.2 parts that overlap"),
        # the ends
        pytest.param(b"bytes=0-", [(0, 1000)], id="all from the first"),
        pytest.param(b"bytes=999-", [(999, 1)], id="the last byte"),
        pytest.param(b"bytes=0-999", [(0, 1000)], id="exactly all"),
        pytest.param(b"bytes=0-5000", [(0, 1000)], id="beyond the end"),
        pytest.param(b"bytes=-5000", [(0, 1000)], id="more than there is"),
        pytest.param(b"bytes=5-5", [(5, 1)], id="one byte"),
        pytest.param(b"bytes=9999999999999999999-", [], id="nineteen digits"),
        pytest.param(b"bytes=0-9999999999999999999", [(0, 1000)], id="nineteen digits, cut"),
        # unsatisfiable
        pytest.param(b"bytes=1000-", [], id="from behind the end"),
        pytest.param(b"bytes=1000-1001", [], id="behind the end"),
        pytest.param(b"bytes=-0", [], id="the last zero bytes"),
        pytest.param(b"bytes=1000-,2000-", [], id="all behind the end"),
        pytest.param(b"bytes=1000-,0-0", [(0, 1)], id="what is behind the end is left out"),
        # form
        pytest.param(b"BYTES=0-1", [(0, 2)], id="14.1 case of the unit"),
        pytest.param(b"bytes=0-1 ,\t3-4", [(0, 2), (3, 2)], id="blanks around commas"),
        pytest.param(b"bytes=,0-1,,3-4,", [(0, 2), (3, 2)], id="5.6.1.2 empty members"),
        pytest.param(b"bytes=00-0001", [(0, 2)], id="leading zeros"),
        # order
        pytest.param(b"bytes=500-599,0-99", [(500, 100), (0, 100)], id="15.3.7.2 their order is kept"),
        pytest.param(b"bytes=500-599,0-99,90-199", [(0, 200), (500, 100)], id="15.3.7.2 joined: ascending"),
        pytest.param(b"bytes=0-99,10-19", [(0, 100)], id="one within another"),
        pytest.param(b"bytes=10-19,0-99,5-5", [(0, 100)], id="some within another"),
        # ignored
        pytest.param(b"bytes=5-4", None, id="14.1.1 the last before the first"),
        pytest.param(b"bytes=2000-1999", None, id="14.1.1 the same behind the end"),
        pytest.param(b"bytes=0-1,5-4", None, id="14.1.1 one of them malformed"),
        pytest.param(b"bytes=-", None, id="neither first nor last"),
        pytest.param(b"bytes=", None, id="none"),
        pytest.param(b"bytes=,", None, id="empty members alone"),
        pytest.param(b"bytes", None, id="no set"),
        pytest.param(b"", None, id="empty"),
        pytest.param(b"0-1", None, id="no unit"),
        pytest.param(b"bytes =0-1", None, id="a blank after the unit"),
        pytest.param(b"seconds=0-1", None, id="another unit"),
        pytest.param(b"bytes=0-1;2-3", None, id="another separator"),
        pytest.param(b"bytes=0 - 1", None, id="blanks within"),
        pytest.param(b"bytes=+0-1", None, id="a sign"),
        pytest.param(b"bytes=0--1", None, id="a negative number"),
        pytest.param(b"bytes=0x0-0x1", None, id="hexadecimal"),
        pytest.param(b"bytes=1_0-20", None, id="a number as Python writes it"),
        pytest.param("bytes=0-\u0661".encode(), None, id="digits of other scripts"),
        pytest.param(b"bytes=0-1,*", None, id="another form of range"),
        pytest.param(b"bytes=0-99999999999999999999", None, id="twenty digits"),
        pytest.param(b"bytes=" + b",".join(b"%d-%d" % (n * 10, n * 10) for n in range(17)), None, id="seventeen"),
        pytest.param(b"bytes=0-599,400-999", None, id="more bytes than there are"),
        pytest.param(b"bytes=0-,0-", None, id="all of it twice"),
        pytest.param(b"bytes=0-1," + b" " * 1024, None, id="longer than 1 KiB"),
    ],
)
def test_range_of_table_gives_parts(field: bytes, expected: list[Part] | None) -> None:
    """RFC 9110 section 14: parts, none that exists, or a field to be ignored."""
    assert parse_ranges(field, SIZE) == expected


def test_range_of_sixteen_parts_gives_all() -> None:
    """As many as are taken."""
    field = b"bytes=" + b",".join(b"%d-%d" % (n * 10, n * 10) for n in range(16))
    assert parse_ranges(field, SIZE) == [(n * 10, 1) for n in range(16)]


@pytest.mark.parametrize(("field", "expected"), [(b"bytes=0-", []), (b"bytes=0-0,1-", []), (b"bytes=-5", None)])
def test_range_of_nothing_gives_no_part(field: bytes, expected: list[Part] | None) -> None:
    """An empty file has no first byte; its last bytes are satisfiable (section 14.1.2), and it is sent as it is."""
    assert parse_ranges(field, 0) == expected


def test_range_that_is_given_twice_is_ignored() -> None:
    """The field is no list of ranges."""
    assert requested_ranges([(b"Range", b"bytes=0-1")], SIZE) == [(0, 2)]
    assert requested_ranges([(b"range", b"bytes=0-1"), (b"range", b"bytes=0-1")], SIZE) is None
    assert requested_ranges([], SIZE) is None


NUMBER = st.integers(0, 30)
SPEC = st.one_of(
    st.builds(lambda first, more: f"{first}-{first + more}", NUMBER, NUMBER),
    NUMBER.map(lambda first: f"{first}-"),
    NUMBER.map(lambda last: f"-{last}"),
)
FIELD = st.lists(SPEC, min_size=1, max_size=18).map(lambda specs: "bytes=" + ",".join(specs))


def asked_for(field: str, size: int) -> set[int]:
    """The positions that a well-formed field names, one by one."""
    positions: set[int] = set()
    for spec in field.removeprefix("bytes=").split(","):
        first, _, last = spec.partition("-")
        if first:
            positions |= set(range(int(first), min(int(last) + 1 if last else size, size)))
        else:
            positions |= set(range(max(size - int(last), 0), size))
    return positions


@given(FIELD, NUMBER)
def test_parts_are_what_was_asked_for_and_no_more(field: str, size: int) -> None:
    """Every position that exists once, none that does not, and never more bytes than there are."""
    parts = parse_ranges(field.encode(), size)
    if parts is None:
        return
    positions = [position for start, count in parts for position in range(start, start + count)]
    assert set(positions) == asked_for(field, size)
    assert len(positions) == len(set(positions)) <= size
    assert all(count > 0 for _, count in parts)


@given(SPEC, st.integers(1, 30))
def test_single_range_is_that_of_werkzeug(spec: str, size: int) -> None:
    """With Werkzeug as the oracle, but for suffixes of more bytes than there are, which are all of them (RFC 9110
    section 14.1.2), and of none; it takes neither for satisfiable."""
    if spec == "-0" or (spec[0] == "-" and int(spec[1:]) > size):
        return
    parsed = pytest.importorskip("werkzeug.http").parse_range_header(f"bytes={spec}")
    assert parsed is not None
    span = parsed.range_for_length(size)
    expected = [] if span is None else [(span[0], span[1] - span[0])]
    assert parse_ranges(f"bytes={spec}".encode(), size) == expected


@given(st.binary(max_size=60), st.integers(0, 100))
def test_range_of_any_bytes_raises_nothing(value: bytes, size: int) -> None:
    """With and without a known unit before them."""
    for field in (value, b"bytes=" + value):
        parts = parse_ranges(field, size)
        assert parts is None or all(0 <= start < start + count <= size for start, count in parts)


@given(st.integers(0, 10**12), st.integers(1, 10**6), st.integers(0, 10**6))
def test_content_range_is_read_back_by_werkzeug(start: int, count: int, more: int) -> None:
    """RFC 9110 section 14.4."""
    size = start + count + more
    http = pytest.importorskip("werkzeug.http")
    found = http.parse_content_range_header(build_content_range((start, count), size).decode())
    assert found is not None
    assert (found.units, found.start, found.stop, found.length) == ("bytes", start, start + count, size)


def test_content_range_of_nothing_tells_the_size() -> None:
    """RFC 9110 section 15.5.17."""
    assert build_content_range(None, 47022) == b"bytes */47022"


def test_multipart_has_type_and_place_of_each_part() -> None:
    """The example of RFC 9110 section 15.3.7.2, in its order."""
    segments = build_multipart([(500, 500), (7000, 1000)], 8000, b"application/pdf", b"THIS_STRING_SEPARATES")
    assert segments == [
        b"--THIS_STRING_SEPARATES\r\nContent-Type: application/pdf\r\nContent-Range: bytes 500-999/8000\r\n\r\n",
        (500, 500),
        b"\r\n--THIS_STRING_SEPARATES\r\nContent-Type: application/pdf\r\nContent-Range: bytes 7000-7999/8000\r\n\r\n",
        (7000, 1000),
        b"\r\n--THIS_STRING_SEPARATES--\r\n",
    ]


def test_multipart_without_type_leaves_it_out() -> None:
    """What has no type gets none."""
    assert build_multipart([(0, 1)], 9, None, b"b")[0] == b"--b\r\nContent-Range: bytes 0-0/9\r\n\r\n"


@pytest.mark.parametrize(
    "field",
    [
        pytest.param(b"bytes=" + b",".join(b"%d-%d" % (n, n) for n in range(10_000)), id="10,000 ranges"),
        pytest.param(b"bytes=" + b",".join([b"0-"] * 100_000), id="100,000 times the whole"),
        pytest.param(b"bytes=" + b",".join([b"0-"] * 1_000), id="1,000 times the whole"),
        pytest.param(b"bytes=" + b"9" * 5_000 + b"-", id="5,000 digits"),
        pytest.param(b"bytes=0-" + b"9" * 1_000, id="1,000 digits"),
        pytest.param(b"bytes=" + b"," * 1_000, id="commas"),
        pytest.param(b"bytes=" + b" \t" * 500 + b"x", id="blanks"),
    ],
)
def test_hostile_range_is_ignored_in_less_than_five_milliseconds(field: bytes) -> None:
    """Linear, and bounded: the best of three."""
    spent = []
    for _ in range(3):
        began = thread_time()
        assert parse_ranges(field, 2**40) is None
        spent.append(thread_time() - began)
    assert min(spent) < 0.005
