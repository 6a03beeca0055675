"""_disposition.py: file names in content-disposition, safe against whoever chose them."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgicore import InvalidHeaderError
from asgicore._disposition import build_disposition

# RFC 6266 section 4.1 with nothing that is optional: one value, then one parameter or two.
STRICT = re.compile(
    r'(?P<kind>inline|attachment)(?:; filename="(?P<plain>[\x20\x21\x23-\x5b\x5d-\x7e]+)"'
    r"(?:; filename\*=UTF-8''(?P<escaped>(?:[A-Za-z0-9!#$&+\-.^_`|~]|%[0-9A-F]{2})+))?)?"
)


def name_of(value: str) -> str | None:
    """The file name that a client takes, which knows RFC 8187."""
    found = STRICT.fullmatch(value)
    assert found, value
    return unquote(found["escaped"], errors="strict") if found["escaped"] else found["plain"]


@pytest.mark.parametrize(
    ("filename", "plain", "name"),
    [
        pytest.param("report.pdf", "report.pdf", None, id="plain"),
        pytest.param("my report (1).pdf", "my report (1).pdf", None, id="blanks and parentheses"),
        pytest.param("a;b=c, d.txt", "a;b=c, d.txt", None, id="separators"),
        pytest.param("it's.txt", "it's.txt", None, id="an apostrophe"),
        pytest.param("na\u00efve.txt", "naive.txt", "na\u00efve.txt", id="an accent"),
        pytest.param("na\u0069\u0308ve.txt", "naive.txt", "na\u0069\u0308ve.txt", id="an accent of its own"),
        pytest.param("\u20ac rates.csv", "_ rates.csv", "\u20ac rates.csv", id="RFC 6266 5 the euro sign"),
        pytest.param("\u0444\u0430\u0439\u043b.pdf", "____.pdf", "\u0444\u0430\u0439\u043b.pdf", id="Cyrillic"),
        pytest.param("\U0001f600.png", "_.png", "\U0001f600.png", id="beyond the first plane"),
        pytest.param('a".txt', "a_.txt", 'a".txt', id="a quote"),
        pytest.param('x"; filename="evil.bat', "x_; filename=_evil.bat", 'x"; filename="evil.bat', id="a parameter"),
        pytest.param("50%2e.txt", "50_2e.txt", "50%2e.txt", id="what looks escaped"),
        pytest.param("/etc/passwd", "passwd", None, id="an absolute path"),
        pytest.param("../../x.txt", "x.txt", None, id="a path upward"),
        pytest.param("C:\\Users\\x.txt", "x.txt", None, id="a path of Windows"),
        pytest.param("..\\x/y\\z.txt", "z.txt", None, id="both separators"),
        pytest.param("a\uff0fb.txt", "a_b.txt", "a\uff0fb.txt", id="a slash that becomes one"),
        pytest.param("a\uff02b.txt", "a_b.txt", "a\uff02b.txt", id="a quote that becomes one"),
        pytest.param("\uff0e\uff0e", "_", "\uff0e\uff0e", id="dots that become a directory"),
        pytest.param("photo_\u202egnp.exe", "photo_gnp.exe", None, id="an override of direction"),
        pytest.param("\u2066a\u2069\u200f.txt", "a.txt", None, id="isolates and marks"),
        pytest.param("  a.txt  ", "a.txt", None, id="blanks around"),
        pytest.param(".htaccess", ".htaccess", None, id="a leading dot"),
        pytest.param("a'b\u00e9%*.txt", "a'be_*.txt", "a'b\u00e9%*.txt", id="all that RFC 8187 escapes"),
    ],
)
def test_file_name_of_table_goes_out_safely(filename: str, plain: str, name: str | None) -> None:
    """RFC 6266 section 4.3: the second form only where it tells more."""
    value = build_disposition("attachment", filename)
    found = STRICT.fullmatch(value)
    assert found
    assert found["plain"] == plain
    assert name_of(value) == (plain if name is None else name)
    assert (found["escaped"] is None) is (name is None)


@pytest.mark.parametrize("kind", ["inline", "attachment"])
def test_disposition_without_name_is_the_word_alone(kind: str) -> None:
    """And with a name it comes first."""
    assert build_disposition(kind) == kind
    assert build_disposition(kind, "a") == f'{kind}; filename="a"'


@pytest.mark.parametrize("char", ["\r\n", "\n", "\r", "\0", "\t", "\x1b", "\x7f", "\x85", "\u2028", "\u2029"])
def test_file_name_with_control_raises(char: str) -> None:
    """Nothing of it becomes a line of its own, in the response or in a log."""
    with pytest.raises(InvalidHeaderError, match="control characters") as caught:
        build_disposition("attachment", f"a{char}set-cookie: b=c.txt")
    assert char not in str(caught.value)


@pytest.mark.parametrize("filename", ["", ".", "..", "/", "a/", "a\\", "..\\..", " ", "\u202e", "\u200e.\u200e"])
def test_file_name_that_names_no_file_raises(filename: str) -> None:
    """Also where nothing is left of it."""
    with pytest.raises(InvalidHeaderError, match="names no file"):
        build_disposition("attachment", filename)


def test_file_name_with_surrogate_raises() -> None:
    """It has no UTF-8 form."""
    with pytest.raises(InvalidHeaderError, match="surrogate"):
        build_disposition("attachment", "a\udcff.txt")


def test_file_name_of_another_type_raises() -> None:
    """The type is named."""
    name: Any = b"a.txt"
    with pytest.raises(InvalidHeaderError, match="not bytes"):
        build_disposition("attachment", name)


@pytest.mark.parametrize("kind", ["Attachment", "form-data", "", None])
def test_disposition_of_another_kind_raises(kind: Any) -> None:
    """The words that there are, are named."""
    with pytest.raises(ValueError, match="'inline' or 'attachment'"):
        build_disposition(kind, "a")


@given(st.text(max_size=30))
def test_any_file_name_is_refused_or_read_back(filename: str) -> None:
    """A strict parser and Werkzeug's agree on the name, which is the last part of what was given."""
    try:
        value = build_disposition("attachment", filename)
    except InvalidHeaderError:
        return
    name = name_of(value)
    assert name
    assert not re.search(r"[/\\\x00-\x1f\x7f]", name)
    directionless = re.sub("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]", "", filename)
    assert directionless.replace("\\", "/").rpartition("/")[2].strip(" ") == name
    kind, options = pytest.importorskip("werkzeug.http").parse_options_header(value)
    assert kind == "attachment"
    assert options["filename"] == name
