"""_paths.py: what of a client's path may be looked for."""

from __future__ import annotations

import os

import pytest
from faults import linear_time
from hypothesis import given
from hypothesis import strategies as st

from asgicore._paths import is_inside, split_untrusted


@pytest.mark.parametrize(
    "path",
    [
        "a",
        "a.txt",
        "css/site.css",
        "a b/c d.txt",
        ".well-known/security.txt",
        "..a",
        "a..b",
        "...a",
        "\u00e9/\u65e5\u672c.txt",
        "console.log",
        "auxiliary/nullable.txt",
        "com10.txt",
        "com0x",
        "lpt",
        "con-fusion",
        "%2e%2e/x",
        "~root",
        "$HOME",
    ],
)
def test_split_of_harmless_path_gives_its_names(path: str) -> None:
    """As they are."""
    assert split_untrusted(path) == path.split("/")


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("", id="empty"),
        pytest.param("..", id="up"),
        pytest.param("../a", id="up and down"),
        pytest.param("a/../b", id="up in the middle"),
        pytest.param("a/..", id="up at the end"),
        pytest.param(".", id="here"),
        pytest.param("./a", id="here and down"),
        pytest.param("...", id="three dots"),
        pytest.param("/a", id="absolute"),
        pytest.param("//host/share", id="a share"),
        pytest.param("a//b", id="an empty name"),
        pytest.param("a/", id="an empty name at the end"),
        pytest.param("a\\b", id="a backslash"),
        pytest.param("..\\a", id="up on Windows"),
        pytest.param("\\\\host\\share", id="a share on Windows"),
        pytest.param("\\\\?\\C:\\a", id="a device path on Windows"),
        pytest.param("c:/a", id="a drive"),
        pytest.param("c:a", id="relative to a drive"),
        pytest.param("a.txt::$DATA", id="the stream of a file"),
        pytest.param("a.txt:other", id="another stream of a file"),
        pytest.param("a.txt.", id="a trailing dot"),
        pytest.param("a.txt ", id="a trailing blank"),
        pytest.param("a /b", id="a trailing blank in the middle"),
        pytest.param("a\0.txt", id="NUL"),
        pytest.param("a\n", id="a newline"),
        pytest.param("a\x1b[2J", id="an escape"),
        pytest.param("a\x85", id="a control beyond ASCII"),
        pytest.param("a\u2028b", id="a line separator"),
        pytest.param("a\udcff", id="a surrogate"),
        pytest.param("a" * 4097, id="longer than any path"),
        *[
            pytest.param(name, id=name)
            for name in (
                "con",
                "CON",
                "Con.txt",
                "aux",
                "aux.tar.gz",
                "nul",
                "prn.x",
                "com1",
                "COM9.log",
                "lpt1",
                "lpt\u00b9",
                "com\u00b2.x",
                "conin$",
                "CONOUT$",
                "a/nul/b",
                "aux .txt",
                "com0",
            )
        ],
    ],
)
def test_split_of_path_that_leads_elsewhere_gives_none(path: str) -> None:
    """On every system, whatever it would mean there."""
    assert split_untrusted(path) is None


@given(st.text(st.sampled_from("a./\\:~ \0\n\u00e9"), max_size=12))
def test_names_of_any_path_stay_below(path: str) -> None:
    """What is not refused is a chain of plain names on POSIX and on Windows."""
    names = split_untrusted(path)
    if names is not None:
        joined = os.path.normpath(os.path.join("/root/of/it", *names))
        assert joined == "/root/of/it/" + path
        assert not set("\\:\0\n") & set(path)


def test_split_of_hostile_path_is_linear() -> None:
    """Blanks after the name of a device, and many names."""
    with linear_time():
        for _ in range(1000):
            split_untrusted("aux" + " " * 4000 + "x")
            split_untrusted("a/" * 2000 + "a")


@pytest.mark.parametrize(
    ("path", "root", "expected"),
    [
        ("/srv/a", "/srv", True),
        ("/srv/a/b", "/srv", True),
        ("/srv", "/srv", False),
        ("/srvx/a", "/srv", False),
        ("/a", "/", True),
        ("/etc/passwd", "/srv", False),
    ],
)
def test_path_is_inside_by_whole_names(path: str, root: str, expected: bool) -> None:
    """A root is no prefix of text."""
    assert is_inside(path.replace("/", os.sep), root.replace("/", os.sep)) is expected
