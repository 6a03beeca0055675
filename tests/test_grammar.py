"""_grammar.py: each pattern accepts what its rule accepts, nothing else, and never backtracks."""

from __future__ import annotations

import re

import pytest
from faults import linear_time
from hypothesis import given
from hypothesis import strategies as st

from asgicore import _grammar

ALL_TEXT = [chr(code) for code in range(0x180)] + ["\u2028", "\u2603", "\u560d", "\ud800", "\U0001f600"]
TCHAR = set("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
# cookie-octet = %x21 / %x23-2B / %x2D-3A / %x3C-5B / %x5D-7E
COOKIE_OCTET = {chr(code) for code in range(0x21, 0x7F)} - set('",;\\')


@pytest.mark.parametrize(
    ("pattern", "legal"),
    [
        pytest.param(_grammar.TOKEN, TCHAR, id="RFC 9110 5.6.2 token"),
        pytest.param(_grammar.COOKIE_VALUE, COOKIE_OCTET, id="RFC 6265 4.1.1 cookie-value"),
        pytest.param(
            _grammar.COOKIE_PATH, {chr(code) for code in range(0x20, 0x7F)} - {";"}, id="RFC 6265 4.1.1 path-value"
        ),
        pytest.param(
            _grammar.COOKIE_DOMAIN,
            set("._-0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"),
            id="RFC 1034 3.5 domain",
        ),
    ],
)
def test_alphabet_of_pattern_is_that_of_the_rule(pattern: re.Pattern[str], legal: set[str]) -> None:
    """A single character matches if, and only if, the rule lists it; so it does within a word."""
    assert {char for char in ALL_TEXT if pattern.fullmatch(char)} == legal
    assert {char for char in ALL_TEXT if pattern.fullmatch(f"a{char}a")} == legal


def test_field_value_with_character_outside_the_rule_is_found() -> None:
    """RFC 9110 section 5.5: HTAB, SP, VCHAR and obs-text are legal; in text the line break U+0085 is not."""
    legal = {"\t", *map(chr, range(0x20, 0x7F)), *map(chr, range(0x80, 0x100))}
    assert {char for char in ALL_TEXT if not _grammar.NOT_FIELD_VALUE.search(f"a{char}")} == legal - {"\x85"}
    as_bytes = {chr(code) for code in range(256) if not _grammar.NOT_FIELD_VALUE_BYTES.search(b"a%c" % code)}
    assert as_bytes == legal


def test_path_control_in_path_is_found() -> None:
    """The controls of ASCII have no place in a decoded path."""
    found = {code for code in range(0x180) if _grammar.PATH_CONTROL.search(f"/{chr(code)}")}
    assert found == {*range(0x20), 0x7F}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"0", True),
        (b"007", True),
        (b"9" * 15, True),
        (b"9" * 16, False),
        (b"", False),
        (b"+1", False),
        (b"-1", False),
        (b"1_0", False),
        (b"0x1", False),
        (b" 1", False),
        (b"1\n", False),
        (b"1.0", False),
        ("²".encode("latin-1"), False),
        ("٣".encode(), False),
    ],
)
def test_content_length_of_digits_alone_matches(value: bytes, expected: bool) -> None:
    """RFC 9110 section 8.6: 1*DIGIT, and no more of them than a petabyte takes."""
    assert bool(_grammar.CONTENT_LENGTH.fullmatch(value)) is expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ('"abc"', True),
        ('""', True),
        ("", True),
        ('"abc', False),
        ('abc"', False),
        ('"a"b"', False),
        ('"', False),
        ("abc\n", False),
    ],
)
def test_cookie_value_in_quotes_matches_whole_or_not(value: str, expected: bool) -> None:
    """RFC 6265 section 4.1.1: quotes stand around the whole value or nowhere."""
    assert bool(_grammar.COOKIE_VALUE.fullmatch(value)) is expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("example.com", True),
        ("example.com:8000", True),
        ("example.com:", True),
        ("xn--mnchen-3ya.de", True),
        ("my_host", True),
        ("127.0.0.1", True),
        ("[::1]", True),
        ("[::1]:443", True),
        ("[fe80::1%25eth0]", True),
        ("a%20b", True),
        ("", False),
        (":80", False),
        ("a/?", False),
        ("a/b", False),
        ("a?b", False),
        ("a#b", False),
        ("user@a", False),
        ("a b", False),
        ("a\\b", False),
        ("a:b", False),
        ("a:80:80", False),
        ("a:123456", False),
        ("a\n", False),
        ("::1", False),
        ("[::1", False),
        ("[]", False),
        ("[::1]x", False),
        ("münchen.de", False),
        ("a:٣", False),
    ],
)
def test_host_of_field_matches_host_with_optional_port(value: str, expected: bool) -> None:
    """RFC 9110 section 7.2: uri-host and an optional port; nothing that would end the authority of a URL."""
    assert bool(_grammar.HOST.fullmatch(value)) is expected


PATTERNS = {name: value for name, value in vars(_grammar).items() if isinstance(value, re.Pattern)}


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("unit", ["a", '"', "[", ":", "a:", "%", "0", "\\", "a;", " ", "."])
def test_pattern_on_hostile_input_takes_linear_time(name: str, unit: str) -> None:
    """A megabyte that almost matches is done with at once."""
    pattern = PATTERNS[name]
    for text in (unit * (2**20 // len(unit)), unit * (2**20 // len(unit)) + "\n"):
        subject = text.encode() if isinstance(pattern.pattern, bytes) else text
        with linear_time():
            pattern.fullmatch(subject)
            pattern.search(subject)


@given(st.text())
def test_token_on_any_text_never_spans_a_separator(text: str) -> None:
    """What passes as a token is ASCII, printable and without separators."""
    if _grammar.TOKEN.fullmatch(text):
        assert set(text) <= TCHAR
