"""_media_types.py: the types that go with endings, the same on every machine."""

from __future__ import annotations

import mimetypes
import re

import pytest

from asgicore._grammar import TOKEN
from asgicore._media_types import _TABLE, _TYPES, UNKNOWN, media_type_of


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("index.html", "text/html; charset=utf-8"),
        ("INDEX.HTM", "text/html; charset=utf-8"),
        ("/srv/site/app.min.js", "text/javascript; charset=utf-8"),
        ("module.mjs", "text/javascript; charset=utf-8"),
        ("style.css", "text/css; charset=utf-8"),
        ("data.json", "application/json"),
        ("site.webmanifest", "application/manifest+json"),
        ("app.wasm", "application/wasm"),
        ("logo.svg", "image/svg+xml"),
        ("photo.JPEG", "image/jpeg"),
        ("clip.mp4", "video/mp4"),
        ("captions.vtt", "text/vtt; charset=utf-8"),
        ("font.woff2", "font/woff2"),
        ("favicon.ico", "image/vnd.microsoft.icon"),
        ("archive.tar.gz", "application/gzip"),
        ("paper.pdf", "application/pdf"),
        ("README", UNKNOWN),
        ("x.unknown", UNKNOWN),
        ("x.", UNKNOWN),
        (".html", UNKNOWN),
        ("", UNKNOWN),
        ("a.b/c", UNKNOWN),
        ("x." + "h" * 1_000_000, UNKNOWN),
    ],
)
def test_media_type_follows_from_the_last_ending(name: str, expected: str) -> None:
    """Case does not count, and what is unknown is neither run nor shown."""
    assert media_type_of(name) == expected


def test_media_types_do_not_depend_on_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of the system say what they like."""
    monkeypatch.setitem(mimetypes.types_map, ".html", "application/x-evil")
    monkeypatch.setitem(mimetypes.types_map, ".unknown", "text/html")
    assert media_type_of("a.html") == "text/html; charset=utf-8"
    assert media_type_of("a.unknown") == UNKNOWN


def test_table_of_media_types_is_well_formed() -> None:
    """Types of two tokens, endings in lower case, sorted, and none twice."""
    lines = [line.split() for line in _TABLE.strip().splitlines()]
    types = [line[0] for line in lines]
    endings = [ending for line in lines for ending in line[1:]]
    assert types == sorted(set(types))
    assert len(endings) == len(set(endings)) == len(_TYPES)
    assert all(re.fullmatch(r"[a-z0-9]+", ending) for ending in endings)
    assert all(line[1:] == sorted(line[1:]) and line[1:] for line in lines)
    for media_type in types:
        major, _, minor = media_type.partition("/")
        assert TOKEN.fullmatch(major)
        assert TOKEN.fullmatch(minor)


def test_text_types_say_their_charset() -> None:
    """And no other type does."""
    assert all(
        (": " not in value) and value.startswith("text/") is value.endswith("; charset=utf-8")
        for value in _TYPES.values()
    )
