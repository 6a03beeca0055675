"""_conditions.py: entity tags, preconditions in their order, If-Range."""

from __future__ import annotations

from time import thread_time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgicore import InvalidHeaderError
from asgicore._conditions import build_etag, check_etag, evaluate, if_range_holds, is_weak, tags_match

DATE = 784111777
THEN = b"Sun, 06 Nov 1994 08:49:37 GMT"
BEFORE = b"Sun, 06 Nov 1994 08:49:36 GMT"
AFTER = b"Sun, 06 Nov 1994 08:49:38 GMT"
TAG = '"a"'

MATCH, NONE_MATCH = b"if-match", b"if-none-match"
MODIFIED, UNMODIFIED = b"if-modified-since", b"if-unmodified-since"

OPAQUE = st.text(st.characters(min_codepoint=0x21, max_codepoint=0xFF, blacklist_characters='"\x7f'), max_size=8)
TAGS = st.builds(lambda text, weak: build_etag(text, weak=weak), OPAQUE, st.booleans())


def has_text(tag: str) -> bool:
    return not tag.endswith('""')


@pytest.mark.parametrize(
    ("tag", "other", "strong", "weak"),
    [
        ('W/"1"', 'W/"1"', False, True),
        ('W/"1"', 'W/"2"', False, False),
        ('W/"1"', '"1"', False, True),
        ('"1"', '"1"', True, True),
    ],
)
def test_comparison_of_tags_is_that_of_the_rfc(tag: str, other: str, strong: bool, weak: bool) -> None:
    """The table of RFC 9110 section 8.8.3.2."""
    for left, right in ((tag, other), (other, tag)):
        assert tags_match(left.encode(), right, strong=True) is strong
        assert tags_match(left.encode(), right, strong=False) is weak


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        pytest.param(b'"a"', True, id="one"),
        pytest.param(b'"b", "a"', True, id="second"),
        pytest.param(b' "b",\t"a" ', True, id="blanks"),
        pytest.param(b'"b","a"', True, id="no blanks"),
        pytest.param(b',,"a",,', True, id="RFC 9110 5.6.1.2 empty members"),
        pytest.param(b'W/"a"', True, id="weak"),
        pytest.param(b"*", True, id="any"),
        pytest.param(b" * ", True, id="any, with blanks"),
        pytest.param(b'"b"', False, id="another"),
        pytest.param(b"", False, id="empty"),
        pytest.param(b",", False, id="no member"),
        pytest.param(b"a", False, id="without quotes"),
        pytest.param(b'w/"a"', False, id="case of W counts"),
        pytest.param(b'"b" "a"', False, id="no comma"),
        pytest.param(b'"a', False, id="unclosed"),
        pytest.param(b'*, "a"', False, id="any and one"),
        pytest.param(b'"a", b', False, id="one of them malformed"),
        pytest.param(b'"a b"', False, id="a blank in a tag"),
        pytest.param(b'"a", "\x00"', False, id="a control in a tag"),
    ],
)
def test_list_of_tags_matches_weakly_or_nothing(field: bytes, expected: bool) -> None:
    """A malformed list matches nothing."""
    assert tags_match(field, TAG, strong=False) is expected


def test_tag_that_looks_like_a_separator_matches_as_a_member_alone() -> None:
    """What stands between two tags is no tag."""
    assert not tags_match(b'"a","b"', '","', strong=True)
    assert tags_match(b'"a",","', '","', strong=True)


@given(st.lists(TAGS.filter(has_text), max_size=5), TAGS.filter(has_text), st.booleans())
def test_list_of_tags_matches_as_werkzeug_says(tags: list[str], tag: str, strong: bool) -> None:
    """With Werkzeug as the oracle, for lists that are well formed; it knows no empty tags, which the RFC does."""
    field = ", ".join(tags)
    parsed = pytest.importorskip("werkzeug.http").parse_etags(field)
    opaque = tag.removeprefix("W/")[1:-1]
    expected = not is_weak(tag) and parsed.is_strong(opaque) if strong else parsed.contains_weak(opaque)
    assert tags_match(field.encode("latin-1"), tag, strong=strong) is expected


@given(st.binary(max_size=60), TAGS, st.booleans())
def test_list_of_any_bytes_raises_nothing(field: bytes, tag: str, strong: bool) -> None:
    """What clients send matches, or not; and what matches strongly, matches weakly."""
    assert tags_match(field, tag, strong=False) or not tags_match(field, tag, strong=strong)


@pytest.mark.parametrize(
    "tag", ["a", "", '"a', 'a"', '"a b"', '"a""', 'w/"a"', "W/a", '"\u20ac"', '"\x00"', None, b'"a"']
)
def test_check_of_what_is_no_tag_raises(tag: Any) -> None:
    """The error shows what a tag looks like."""
    with pytest.raises(InvalidHeaderError, match="entity tag"):
        check_etag(tag)


@pytest.mark.parametrize("opaque", ['a"b', "a b", "a\n", "\x7f"])
def test_build_of_tag_with_illegal_character_raises(opaque: str) -> None:
    """RFC 9110 section 8.8.3: visible characters without quotes."""
    with pytest.raises(InvalidHeaderError, match="entity tag"):
        build_etag(opaque)


# --- the order -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "fields", "etag", "date", "expected"),
    [
        pytest.param("GET", [], TAG, DATE, None, id="no condition"),
        # step 1: If-Match
        pytest.param("GET", [(MATCH, b'"a"')], TAG, DATE, None, id="13.1.1 matches"),
        pytest.param("GET", [(MATCH, b'"b"')], TAG, DATE, 412, id="13.1.1 another"),
        pytest.param("PUT", [(MATCH, b'"b", "a"')], TAG, None, None, id="13.1.1 one of them"),
        pytest.param("PUT", [(MATCH, b'W/"a"')], TAG, None, 412, id="13.1.1 compared strongly, theirs weak"),
        pytest.param("PUT", [(MATCH, b'"a"')], 'W/"a"', None, 412, id="13.1.1 compared strongly, ours weak"),
        pytest.param("PUT", [(MATCH, b"*")], TAG, None, None, id="13.1.1 anything"),
        pytest.param("PUT", [(MATCH, b"*")], None, None, None, id="13.1.1 anything, without a tag"),
        pytest.param("PUT", [(MATCH, b'"a"')], None, None, 412, id="13.1.1 no tag"),
        pytest.param("PUT", [(MATCH, b"a")], TAG, None, 412, id="13.1.1 malformed"),
        pytest.param("PUT", [(MATCH, b'"b"'), (b"If-Match", b'"a"')], TAG, None, None, id="13.1.1 two fields"),
        # step 2: If-Unmodified-Since
        pytest.param("PUT", [(UNMODIFIED, THEN)], None, DATE, None, id="13.1.4 the same"),
        pytest.param("PUT", [(UNMODIFIED, AFTER)], None, DATE, None, id="13.1.4 older"),
        pytest.param("PUT", [(UNMODIFIED, BEFORE)], None, DATE, 412, id="13.1.4 newer"),
        pytest.param("GET", [(UNMODIFIED, BEFORE)], None, DATE, 412, id="13.1.4 newer, GET"),
        pytest.param("PUT", [(UNMODIFIED, BEFORE)], None, None, None, id="13.1.4 no date"),
        pytest.param("PUT", [(UNMODIFIED, b"yesterday")], None, DATE, None, id="13.1.4 malformed is ignored"),
        pytest.param("PUT", [(UNMODIFIED, BEFORE), (UNMODIFIED, BEFORE)], None, DATE, None, id="13.1.4 two dates"),
        pytest.param("PUT", [(MATCH, b'"a"'), (UNMODIFIED, BEFORE)], TAG, DATE, None, id="13.2.2 If-Match goes before"),
        # step 3: If-None-Match
        pytest.param("GET", [(NONE_MATCH, b'"a"')], TAG, DATE, 304, id="13.1.2 GET"),
        pytest.param("HEAD", [(NONE_MATCH, b'"a"')], TAG, DATE, 304, id="13.1.2 HEAD"),
        pytest.param("PUT", [(NONE_MATCH, b'"a"')], TAG, DATE, 412, id="13.1.2 PUT"),
        pytest.param("GET", [(NONE_MATCH, b'W/"a"')], TAG, DATE, 304, id="13.1.2 compared weakly, theirs weak"),
        pytest.param("GET", [(NONE_MATCH, b'"a"')], 'W/"a"', DATE, 304, id="13.1.2 compared weakly, ours weak"),
        pytest.param("GET", [(NONE_MATCH, b'"b"')], TAG, DATE, None, id="13.1.2 another"),
        pytest.param("GET", [(NONE_MATCH, b"*")], None, None, 304, id="13.1.2 anything"),
        pytest.param("PUT", [(NONE_MATCH, b"*")], TAG, None, 412, id="13.1.2 lost update of the first PUT"),
        pytest.param("GET", [(NONE_MATCH, b"a")], TAG, DATE, None, id="13.1.2 malformed"),
        pytest.param("GET", [(NONE_MATCH, b'"b"'), (NONE_MATCH, b'"a"')], TAG, DATE, 304, id="13.1.2 two fields"),
        # step 4: If-Modified-Since
        pytest.param("GET", [(MODIFIED, THEN)], TAG, DATE, 304, id="13.1.3 the same"),
        pytest.param("HEAD", [(MODIFIED, AFTER)], TAG, DATE, 304, id="13.1.3 older"),
        pytest.param("GET", [(MODIFIED, BEFORE)], TAG, DATE, None, id="13.1.3 newer"),
        pytest.param("GET", [(MODIFIED, b"Sunday, 06-Nov-94 08:49:37 GMT")], TAG, DATE, 304, id="13.1.3 obsolete form"),
        pytest.param("GET", [(MODIFIED, b" " + THEN + b"\t")], TAG, DATE, 304, id="13.1.3 blanks around"),
        pytest.param("POST", [(MODIFIED, THEN)], TAG, DATE, None, id="13.1.3 for GET and HEAD alone"),
        pytest.param("GET", [(MODIFIED, b"now")], TAG, DATE, None, id="13.1.3 malformed is ignored"),
        pytest.param("GET", [(MODIFIED, THEN)], TAG, None, None, id="13.1.3 no date"),
        pytest.param("GET", [(MODIFIED, THEN), (MODIFIED, THEN)], TAG, DATE, None, id="13.1.3 two dates"),
        pytest.param(
            "GET", [(NONE_MATCH, b'"b"'), (MODIFIED, THEN)], TAG, DATE, None, id="13.2.2 If-None-Match goes before"
        ),
        pytest.param("GET", [(MATCH, b'"a"'), (NONE_MATCH, b'"a"')], TAG, DATE, 304, id="13.2.2 both are asked"),
        pytest.param("GET", [(MATCH, b'"b"'), (NONE_MATCH, b'"a"')], TAG, DATE, 412, id="13.2.2 If-Match comes first"),
        pytest.param("GET", [(UNMODIFIED, BEFORE), (MODIFIED, THEN)], TAG, DATE, 412, id="13.2.2 the second step"),
        pytest.param("GET", [(UNMODIFIED, THEN), (MODIFIED, THEN)], TAG, DATE, 304, id="13.2.2 the fourth step"),
        # what is no condition
        pytest.param("OPTIONS", [(MATCH, b'"b"')], TAG, DATE, None, id="13.2.1 methods without a representation"),
        pytest.param("GET", [(b"if-range", b'"b"')], TAG, DATE, None, id="If-Range alone"),
        pytest.param("GET", [(b"if-anything", b'"b"')], TAG, DATE, None, id="unknown field"),
    ],
)
def test_preconditions_of_table_give_status(
    method: str, fields: list[tuple[bytes, bytes]], etag: str | None, date: int | None, expected: int | None
) -> None:
    """RFC 9110 section 13.2.2."""
    assert evaluate(method, [(b"host", b"x"), *fields], etag, date) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([(MATCH, b"*")], 412),
        ([(MATCH, b'"a"')], 412),
        ([(NONE_MATCH, b"*")], None),
        ([(NONE_MATCH, b'"a"')], None),
    ],
)
def test_preconditions_where_nothing_is_there_yet(fields: list[tuple[bytes, bytes]], expected: int | None) -> None:
    """RFC 9110 sections 13.1.1 and 13.1.2: ``*`` stands for whatever is there now."""
    assert evaluate("PUT", fields, None, None, exists=False) == expected


@pytest.mark.parametrize(
    ("value", "etag", "date", "expected"),
    [
        pytest.param(None, TAG, DATE, True, id="none"),
        pytest.param(b'"a"', TAG, DATE, True, id="the tag"),
        pytest.param(b' "a" ', TAG, DATE, True, id="the tag, with blanks"),
        pytest.param(b'"b"', TAG, DATE, False, id="another tag"),
        pytest.param(b'W/"a"', TAG, DATE, False, id="a weak tag"),
        pytest.param(b'W/"a"', 'W/"a"', DATE, False, id="both weak"),
        pytest.param(b'"a"', None, DATE, False, id="a tag where there is none"),
        pytest.param(b'"b", "a"', TAG, DATE, False, id="a list is no tag"),
        pytest.param(THEN, TAG, DATE, True, id="the date"),
        pytest.param(b"Sun Nov  6 08:49:37 1994", TAG, DATE, True, id="the date in another form"),
        pytest.param(AFTER, TAG, DATE, False, id="a later date is no match"),
        pytest.param(BEFORE, TAG, DATE, False, id="an earlier date"),
        pytest.param(THEN, TAG, None, False, id="a date where there is none"),
        pytest.param(b"a", TAG, DATE, False, id="malformed"),
        pytest.param(b"*", TAG, DATE, False, id="no star"),
    ],
)
def test_if_range_of_table_holds_or_not(
    value: bytes | None, etag: str | None, date: int | None, expected: bool
) -> None:
    """RFC 9110 section 13.1.5: the strong comparison, or exactly the date."""
    fields = [] if value is None else [(b"If-Range", value)]
    assert if_range_holds(fields, etag, date) is expected


def test_if_range_that_is_given_twice_does_not_hold() -> None:
    """It is no list."""
    assert not if_range_holds([(b"if-range", b'"a"'), (b"if-range", b'"a"')], TAG, DATE)


@pytest.mark.parametrize(
    "field",
    [
        pytest.param(b'"a' * 100_000, id="unclosed"),
        pytest.param(b'"b",' * 25_000 + b'"a"', id="many tags"),
        pytest.param(b'"",' * 2_700 + b'"a"', id="as many as are looked at"),
        pytest.param(b" " * 8_000 + b'"a"' + b" x", id="blanks"),
        pytest.param(b"W/" * 4_000 + b'"a"', id="weak and weaker"),
        pytest.param(b"," * 8_000 + b'"a" x', id="commas"),
    ],
)
def test_hostile_list_of_tags_takes_less_than_five_milliseconds(field: bytes) -> None:
    """Linear, and bounded: the best of three."""
    spent = []
    for _ in range(3):
        began = thread_time()
        evaluate("GET", [(NONE_MATCH, field)], TAG, None)
        spent.append(thread_time() - began)
    assert min(spent) < 0.005
