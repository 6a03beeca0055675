"""_form_data.py: forms, from bytes to events and fields."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from time import thread_time
from typing import Any

import pytest
from faults import linear_time
from forms import BOUNDARY, cut_at, multipart, needs_multipart, part
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asgicore import BodyTooLargeError, HTTPError, Limits, MalformedBodyError, MalformedRequestError
from asgicore._form_data import PartParser, Signal, decode_field, parse_urlencoded
from asgicore.limits import DEFAULT_LIMITS

NO_LIMITS = Limits(
    max_body_bytes=None,
    max_form_fields=None,
    max_form_files=None,
    max_form_field_bytes=None,
    max_form_memory_bytes=None,
    max_part_headers=None,
    max_part_header_bytes=None,
)


@dataclass
class Found:
    """A part, as the parser gives it."""

    name: str
    filename: str | None
    content_type: str | None
    charset: str | None
    headers: list[tuple[str, str]]
    content: bytearray = field(default_factory=bytearray)
    start: int = 0
    is_whole: bool = False


def parse(
    blocks: Iterable[bytes],
    limits: Limits = DEFAULT_LIMITS,
    boundary: bytes = BOUNDARY,
) -> list[Found]:
    """All parts of a form."""
    parser = PartParser({"boundary": boundary.decode()}, limits)
    found: list[Found] = []
    for block in blocks:
        parser.feed(block)
        while (event := parser.next()) is not Signal.NEEDS_BLOCK:
            if isinstance(event, bytes):
                assert event
                found[-1].content += event
            elif event is Signal.PART_ENDS:
                found[-1].is_whole = True
            else:
                assert not isinstance(event, Signal)
                found.append(Found(event.name, event.filename, event.content_type, event.charset, event.headerlist))
                found[-1].start = parser.position
    parser.finish()
    assert all(one.is_whole for one in found)
    return found


# --- what browsers send ----------------------------------------------------------------------------------

FIREFOX = b"----geckoformboundary6a2f0c9d4be81735ce90a1d2f4b67c58"
CHROMIUM = b"----WebKitFormBoundaryK3kOaL9Zr0sYq1xT"

BROWSERS: list[Any] = [
    pytest.param(
        CHROMIUM,
        b'------WebKitFormBoundaryK3kOaL9Zr0sYq1xT\r\nContent-Disposition: form-data; name="title"\r\n\r\n'
        b"A caf\xc3\xa9\r\n"
        b'------WebKitFormBoundaryK3kOaL9Zr0sYq1xT\r\nContent-Disposition: form-data; name="text"\r\n\r\n'
        b"line one\r\nline two\r\n"
        b'------WebKitFormBoundaryK3kOaL9Zr0sYq1xT\r\nContent-Disposition: form-data; name="file"; '
        b'filename="r\xc3\xa9sum\xc3\xa9 \xf0\x9f\x90\x8d.pdf"\r\nContent-Type: application/pdf\r\n\r\n'
        b"%PDF-1.7\n\xff\x00\r\n"
        b"------WebKitFormBoundaryK3kOaL9Zr0sYq1xT--\r\n",
        [
            ("title", None, None, "A café".encode()),
            ("text", None, None, b"line one\r\nline two"),
            ("file", "résumé 🐍.pdf", "application/pdf", b"%PDF-1.7\n\xff\x00"),
        ],
        id="Chromium, fields and a file with a non-ASCII name",
    ),
    pytest.param(
        FIREFOX,
        b'------geckoformboundary6a2f0c9d4be81735ce90a1d2f4b67c58\r\nContent-Disposition: form-data; name="file"; '
        b'filename="a%22b%0D%0Ac.txt"\r\nContent-Type: text/plain\r\n\r\nx\r\n'
        b"------geckoformboundary6a2f0c9d4be81735ce90a1d2f4b67c58--\r\n",
        [("file", 'a"b\r\nc.txt', "text/plain", b"x")],
        id="Firefox, quote and line break in a file name",
    ),
    pytest.param(
        FIREFOX,
        b"------geckoformboundary6a2f0c9d4be81735ce90a1d2f4b67c58\r\nContent-Disposition: form-data; "
        b'name="say %22hi%22"\r\n\r\n50%25 off\r\n'
        b"------geckoformboundary6a2f0c9d4be81735ce90a1d2f4b67c58--\r\n",
        [('say "hi"', None, None, b"50%25 off")],
        id="Firefox, quotes in a field name, escapes in the value stay",
    ),
    pytest.param(
        CHROMIUM,
        b'------WebKitFormBoundaryK3kOaL9Zr0sYq1xT\r\nContent-Disposition: form-data; name="file"; filename=""\r\n'
        b"Content-Type: application/octet-stream\r\n\r\n\r\n"
        b"------WebKitFormBoundaryK3kOaL9Zr0sYq1xT--\r\n",
        [("file", "", "application/octet-stream", b"")],
        id="Chromium, no file chosen",
    ),
    pytest.param(
        CHROMIUM,
        b'------WebKitFormBoundaryK3kOaL9Zr0sYq1xT\r\nContent-Disposition: form-data; name="file"; '
        b'filename="dir/back\\slash 100%.png"\r\nContent-Type: image/png\r\n\r\n\x89PNG\r\n\x1a\n\r\n'
        b'------WebKitFormBoundaryK3kOaL9Zr0sYq1xT\r\nContent-Disposition: form-data; name="file"; '
        b'filename="two.png"\r\nContent-Type: image/png\r\n\r\n\r\n'
        b"------WebKitFormBoundaryK3kOaL9Zr0sYq1xT--\r\n",
        [
            ("file", "dir/back\\slash 100%.png", "image/png", b"\x89PNG\r\n\x1a\n"),
            ("file", "two.png", "image/png", b""),
        ],
        id="Chromium, several files of one field, one of a folder, one empty",
    ),
    pytest.param(CHROMIUM, b"------WebKitFormBoundaryK3kOaL9Zr0sYq1xT--\r\n", [], id="Chromium, an empty FormData"),
    pytest.param(
        b"----------------------------5f3a2b1c",
        b'------------------------------5f3a2b1c\r\nContent-Disposition: form-data; name="json"\r\n'
        b"Content-Type: application/json; charset=utf-8\r\n\r\n{}\r\n"
        b"------------------------------5f3a2b1c--\r\n",
        [("json", None, "application/json", b"{}")],
        id="curl, a field with a content type",
    ),
    pytest.param(
        b"b",
        b"\r\n--b\r\ncontent-disposition: form-data; name=plain; filename=x.bin\r\n"
        b"Content-Transfer-Encoding: base64\r\n\r\nQQ==\r\n--b--",
        [("plain", "x.bin", None, b"QQ==")],
        id="others: line break in front, tokens, base64 that is not decoded, nothing at the end",
    ),
]


@needs_multipart
@pytest.mark.parametrize("size", [1, 7, 10**6], ids=["bytes", "pieces", "whole"])
@pytest.mark.parametrize(("boundary", "body", "expected"), BROWSERS)
def test_parts_of_a_client_are_what_was_sent(boundary: bytes, body: bytes, expected: list[Any], size: int) -> None:
    """Names are unescaped as browsers escape them, contents are the bytes that were sent, wherever the body is cut."""
    found = parse((body[start : start + size] for start in range(0, len(body), size)), boundary=boundary)
    assert [(one.name, one.filename, one.content_type, bytes(one.content)) for one in found] == expected


@needs_multipart
def test_parts_with_other_header_fields_keep_them() -> None:
    """Header fields are there as sent; the charset of the content type is taken out of it."""
    sent = part("a", b"x", None, b'Content-Type: Text/Plain; Charset="KOI8-R"', b"X-Id: 5")
    (found,) = parse([multipart(sent)])
    assert (found.content_type, found.charset) == ("text/plain", "KOI8-R")
    assert ("X-Id", "5") in found.headers


@needs_multipart
def test_parts_that_hold_a_multipart_of_their_own_are_content() -> None:
    """RFC 7578 section 4.3: nested multiparts are obsolete; one is the content of its part."""
    inner = multipart(part("inner", b"x"), boundary=b"inner")
    (found,) = parse([multipart(part("outer", inner, None, b"Content-Type: multipart/mixed; boundary=inner"))])
    assert bytes(found.content) == inner


# --- wherever it is cut ----------------------------------------------------------------------------------

texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8).filter(
    # What no client can tell apart from an escape, and what Internet Explorer sent.
    lambda text: not any(mark in text for mark in ("%22", "%0D", "%0A", "\\"))
)
# Contents that look like what is around them.
contents = st.one_of(
    st.binary(max_size=80),
    st.lists(
        st.sampled_from([b"\r", b"\n", b"\r\n", b"--", b"x", b"\r\n\r\n", BOUNDARY[:9], b"\r\n--" + BOUNDARY[:-1]]),
        max_size=12,
    ).map(b"".join),
).filter(lambda content: b"\r\n--" + BOUNDARY not in b"\r\n" + content)
parts = st.lists(st.tuples(texts, contents, st.none() | st.just("") | texts), max_size=5)
CUTS = st.lists(st.integers(0, 2000), max_size=40)


@needs_multipart
@settings(max_examples=300)
@given(parts, CUTS, st.sampled_from([b"", b"\r\n"]), st.sampled_from([b"", b"\r\n", b"epilogue\r\n--" + BOUNDARY]))
@example([("a", b"", None)], [*range(200)], b"", b"")
def test_parts_of_any_form_come_back_wherever_it_is_cut(
    sent: list[tuple[str, bytes, str | None]], places: list[int], before: bytes, after: bytes
) -> None:
    """What a client encodes comes out, and stands in the body where the parser says."""
    body = before + multipart(*(part(name, content, filename) for name, content, filename in sent)) + after
    found = parse(cut_at(body, places))
    assert [(one.name, bytes(one.content), one.filename) for one in found] == sent
    for one in found:
        assert body[one.start :].startswith(bytes(one.content) + b"\r\n--" + BOUNDARY)


@needs_multipart
@settings(max_examples=300)
@given(st.lists(st.one_of(st.binary(max_size=20), st.sampled_from([
    b"\r\n--" + BOUNDARY, b"--" + BOUNDARY, b"\r\n", b"--", b"Content-Disposition: form-data; name=a", b"\r\n\r\n",
    b'Content-Disposition: form-data; name="a"; filename="b"', b"Content-Length: 3", b"\r", b": ",
])), max_size=12), CUTS)  # fmt: skip
def test_parts_of_any_bytes_are_parsed_or_refused(pieces: list[bytes], places: list[int]) -> None:
    """Anything else than a form is refused with a 400 or 413, and wherever it is cut in the same way."""
    body = b"".join([b"--", BOUNDARY, b"\r\n", *pieces])
    outcomes: list[object] = []
    for blocks in (cut_at(body, places), [body]):
        try:
            outcomes.append([(one.name, bytes(one.content), one.start) for one in parse(blocks)])
        except (MalformedBodyError, BodyTooLargeError) as exc:
            outcomes.append(exc.status_code)
    assert outcomes[0] == outcomes[1]


SMALL = multipart(part("a", b"1"), part("b", b"\r\n2", "f"))


@needs_multipart
def test_parts_of_a_form_cut_short_anywhere_are_refused() -> None:
    """A form without its last boundary is no form: a 400, whatever is missing."""
    end = len(SMALL) - len(b"\r\n")
    for length in range(end):
        with pytest.raises(MalformedBodyError) as caught:
            parse([SMALL[:length]] if length else [])
        assert caught.value.field == "body"
    assert len(parse([SMALL[:end]])) == 2


@needs_multipart
def test_parts_of_a_large_block_are_those_of_its_slices() -> None:
    """A block of many megabytes is parsed piece by piece."""
    content = bytes(range(256)) * (2**13 * 5)
    body = multipart(part("a", b"1"), part("f", content, "f"), part("b", b"2"))
    found = parse([body], NO_LIMITS)
    assert [one.name for one in found] == ["a", "f", "b"]
    assert found[1].content == content
    assert body[found[2].start :].startswith(b"2\r\n--")


# --- what is refused -------------------------------------------------------------------------------------

HEAD = b'Content-Disposition: form-data; name="a"'
START = b"--" + BOUNDARY + b"\r\n"

MALFORMED: list[Any] = [
    pytest.param(b"x" * 100, "does not begin with its boundary", id="no boundary"),
    pytest.param(b"preamble\r\n" + SMALL, "does not begin with its boundary", id="preamble"),
    pytest.param(b"\r\n\r\n" + SMALL, "does not begin with its boundary", id="two line breaks in front"),
    pytest.param(b"\r" * 10**5, "does not begin with its boundary", id="CR flood in front"),
    pytest.param(START[:-2] + b"\n" + HEAD, "line break after first boundary", id="LF after the first boundary"),
    pytest.param(START[:-2] + b" \r\n" + HEAD, "after first boundary", id="blank after the first boundary"),
    pytest.param(START[:-2] + b"\r" * 10**5, "after first boundary", id="CR flood after the first boundary"),
    pytest.param(START + HEAD + b"\r\n\r\nx\r\n" + START[:-2] + b"\r" * 99, "after boundary", id="CR flood after one"),
    pytest.param(START + HEAD + b"\n\nx", "line break in segment header", id="LF in the head"),
    pytest.param(START + b"\r\nx\r\n", "missing content-disposition", id="no head"),
    pytest.param(START + b"Content-Type: text/plain\r\n\r\n", "missing content-disposition", id="no disposition"),
    pytest.param(START + b"Content-Disposition: attachment\r\n\r\n", "wrong type", id="another disposition"),
    pytest.param(START + b"Content-Disposition: form-data\r\n\r\n", "missing name", id="no name"),
    pytest.param(START + HEAD[:-2] + b"\xff\"\r\n\r\n", "failed to decode", id="name that is no UTF-8"),
    pytest.param(START + b"no colon\r\n\r\n", "malformed segment header", id="head without a colon"),
    pytest.param(START + HEAD + b"\r\n folded: x\r\n\r\n", "continuation", id="folded line"),
    pytest.param(START + HEAD + b"\r\nContent-Length: 99999999999\r\n\r\n", "content-length", id="declared huge"),
    pytest.param(START + HEAD + b"\r\nContent-Length: 2\r\n\r\nx\r\n--" + BOUNDARY, "cont", id="declared too long"),
]  # fmt: skip


@needs_multipart
@pytest.mark.parametrize(("body", "reason"), MALFORMED)
def test_parts_of_a_malformed_form_are_refused(body: bytes, reason: str) -> None:
    """A 400 that names the body and says what is wrong, and nothing that was sent; asked again, the same."""
    parser = PartParser({"boundary": BOUNDARY.decode()}, DEFAULT_LIMITS)

    def drain() -> None:
        parser.feed(body)
        while parser.next() is not Signal.NEEDS_BLOCK:
            pass
        parser.finish()

    with pytest.raises(MalformedBodyError, match=f"(?i){reason}|before the last boundary") as caught:
        drain()
    assert caught.value.field == "body"
    with pytest.raises(MalformedBodyError) as again:
        parser.next()
    assert again.value is caught.value


@needs_multipart
@pytest.mark.parametrize(
    ("boundary", "is_accepted"),
    [
        ("a", True),
        ("x" * 70, True),
        ("with space:and=more?'()+_,-./", True),
        ("", False),
        ("x" * 71, False),
        ("x" * 10**6, False),
        ("ends with a blank ", False),
        ("line\nbreak", False),
        ("nul\0", False),
        ("é", False),
    ],
)
def test_parts_with_boundary_are_held_to_rfc_2046(boundary: str, is_accepted: bool) -> None:
    """RFC 2046 section 5.1.1: 1 to 70 characters, the last one no blank; else a 400 that names the content type."""
    if is_accepted:
        raw = boundary.encode()
        assert [one.name for one in parse([multipart(part("a", b"1"), boundary=raw)], boundary=raw)] == ["a"]
    else:
        with pytest.raises(MalformedRequestError, match="boundary") as caught:
            PartParser({"boundary": boundary}, DEFAULT_LIMITS)
        assert caught.value.field == "content-type"


@needs_multipart
def test_parts_without_boundary_are_refused() -> None:
    """A multipart form that does not say where its parts end: a 400."""
    with pytest.raises(MalformedRequestError, match="boundary is missing"):
        PartParser({"charset": "utf-8"}, DEFAULT_LIMITS)


FEW = Limits(max_form_fields=2, max_form_files=1, max_part_headers=3, max_part_header_bytes=100)


@needs_multipart
def test_parts_at_the_limits_pass() -> None:
    """A limit is the most that is allowed."""
    line = b"X-Long: ".ljust(100, b"x")
    assert len(parse([multipart(*[part("a", b"", None, b"X-A: 1", line)] * 3)], FEW)) == 3


@needs_multipart
@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        pytest.param(multipart(*[part("a", b"")] * 4), 400, "body: more than 3 parts", id="parts"),
        pytest.param(
            multipart(part("a", b"", None, b"X-A: 1", b"X-B: 1", b"X-C: 1")),
            400,
            "part header: more than 3 fields",
            id="header fields",
        ),
        pytest.param(
            multipart(part("a", b"", None, b"X-Long: ".ljust(101, b"x"))),
            413,
            "part header: larger than the limit of 100 bytes",
            id="header field",
        ),
        pytest.param(
            START + b"x" * 200, 413, "part header: larger than the limit of 100 bytes", id="header field without end"
        ),
    ],
)
def test_parts_over_a_limit_are_refused(body: bytes, status: int, text: str) -> None:
    """Too many: 400; too large: 413."""
    with pytest.raises(HTTPError) as caught:
        parse([body], FEW)
    assert (caught.value.status_code, caught.value.detail) == (status, text)


@needs_multipart
def test_parts_without_limits_are_all_parsed() -> None:
    """``None`` lifts each of them."""
    many = multipart(*[part("a", b"", None, b"X-Long: " + b"x" * 9000, *[b"X-A: 1"] * 20)] * 1200)
    assert len(parse([many], NO_LIMITS)) == 1200


# --- hostile ---------------------------------------------------------------------------------------------

MIB = 2**20


def flood(start: bytes, unit: bytes, end: bytes = b"", size: int = 16 * MIB) -> Callable[[], Iterable[bytes]]:
    """16 MiB in blocks of 64 KiB."""

    def blocks() -> Iterable[bytes]:
        yield start
        block = unit * (65536 // len(unit))
        for _ in range(size // len(block)):
            yield block
        if end:
            yield end

    return blocks


CONTENT = START + HEAD + b"\r\n\r\n"
END = b"\r\n--" + BOUNDARY + b"--\r\n"
HOSTILE: dict[str, tuple[Callable[[], Iterable[bytes]], int]] = {
    "part header": (flood(START, b"x"), 413),
    "part header of one name": (flood(START + b"X: ", b"x"), 413),
    "folded header": (flood(START + HEAD + b"\r\n", b" a\r\n"), 400),
    "header fields": (flood(START, b"A: b\r\n"), 400),
    "options": (flood(START, HEAD + b'; a="\\' * 600 + b"\r\n"), 400),
    "other options": (flood(START, HEAD + b"; " + b"a" * 4000 + b"\r\n"), 400),
    "parts": (flood(b"", START + HEAD + b"\r\n\r\n\r\n"), 400),
    "CR in front": (flood(b"", b"\r"), 400),
    "LF in front": (flood(b"", b"\n"), 400),
    "CR after the first boundary": (flood(START[:-2], b"\r"), 400),
    "CR after a boundary": (flood(CONTENT + b"\r\n" + START[:-2], b"\r"), 400),
    "after the last boundary": (flood(multipart(), b"\r\n--" + BOUNDARY), 200),
    "CR after the last boundary": (flood(multipart(), b"\r"), 200),
    "CR in content": (flood(CONTENT, b"\r", END), 200),
    "line breaks in content": (flood(CONTENT, b"\r\n", END), 200),
    "near-boundaries in content": (flood(CONTENT, b"\r\n--" + BOUNDARY[:-1], END), 200),
    "content without end": (flood(CONTENT, b"\r\n--" + BOUNDARY[:-1]), 400),
}


@needs_multipart
@pytest.mark.parametrize("name", HOSTILE)
def test_parts_of_hostile_input_take_linear_time(name: str) -> None:
    """16 MiB of the worst are parsed or refused at once, with the right status."""
    blocks, status = HOSTILE[name]
    with linear_time():
        if status == 200:
            parse(blocks())
        else:
            with pytest.raises(HTTPError) as caught:
                parse(blocks())
            assert caught.value.status_code == status


def longest_step(blocks: Iterable[bytes]) -> float:
    """The longest time that a step from one event to the next takes, in seconds of this thread."""
    parser = PartParser({"boundary": BOUNDARY.decode()}, DEFAULT_LIMITS)
    longest = 0.0
    with suppress(HTTPError):
        for block in blocks:
            parser.feed(block)
            event: object = None
            while event is not Signal.NEEDS_BLOCK:
                began = thread_time()
                try:
                    event = parser.next()
                finally:
                    longest = max(longest, thread_time() - began)
    return longest


@contextmanager
def untraced() -> Iterator[None]:
    """Whoever measures coverage looks away: it is not their time that counts."""
    trace = sys.gettrace()
    sys.settrace(None)
    yield
    sys.settrace(trace)


@needs_multipart
@pytest.mark.parametrize("name", HOSTILE)
def test_parts_of_hostile_input_come_in_short_steps(name: str) -> None:
    """Between two events, where others get their turn, no step takes 5 ms; of several tries the machine spoils some."""
    with untraced():
        assert min(longest_step(HOSTILE[name][0]()) for _ in range(5)) < 0.005


@needs_multipart
@pytest.mark.parametrize("bad", [b"; ", b";a", b'; a="', b'; a="\\', b"; a=" + b"b" * 50, b';a="\\"', b";a=b"])
def test_parts_of_hostile_options_come_in_short_steps(bad: bytes) -> None:
    """A head as large as it may be, of what regular expressions stumble over, is parsed in less than 5 ms."""
    lines = (HEAD + bad * (4000 // len(bad)) + b"\r\n") * 8
    with untraced():
        assert min(longest_step([START + lines + b"\r\n"]) for _ in range(5)) < 0.005


# --- text ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "charset", "expected"),
    [
        (b"caf\xc3\xa9", None, "café"),
        (b"caf\xc3\xa9", "UTF-8", "café"),
        (b"caf\xe9 \x80", "ISO-8859-1", "café €"),
        (b"caf\xe9", " us-ascii ", "café"),
        ("текст".encode("cp1251"), "windows-1251", "текст"),
        ("日本".encode("shift_jis"), "Shift_JIS", "日本"),
        (b"\x87\x40 \xfb\xfc \x81\x60", "shift_jis", "① 髙 \uff5e"),
        (b"\x8c\x63", "euc-kr", "똠"),
        (b"\xf9\xd6", "big5", "碁"),
        ("漢".encode("gb18030"), "gbk", "漢"),
        (b"", None, ""),
    ],
)
def test_text_of_field_is_decoded_by_its_charset(value: bytes, charset: str | None, expected: str) -> None:
    """UTF-8 unless another charset is named, by its label in the WHATWG encoding standard."""
    assert decode_field("a", value, charset) == expected


@pytest.mark.parametrize(
    ("value", "charset"),
    [
        (b"\xff", None),
        (b"\xff", "utf-8"),
        (b"\x81", "latin1"),
        (b"x", "utf-7"),
        (b"x", "utf-16"),
        (b"x", "idna"),
        (b"x", "punycode"),
        (b"x", "unicode_escape"),
        (b"x", "rot13"),
        (b"x", "zlib"),
        (b"x", "undefined"),
        (b"x", "no such charset" * 1000),
        (b"x", ""),
    ],
)
def test_text_of_field_that_cannot_be_decoded_is_refused(value: bytes, charset: str | None) -> None:
    """A 400 that names the field; codecs that are no text, or slow, are not known."""
    with pytest.raises(MalformedBodyError) as caught:
        decode_field('the "field"', value, charset)
    assert caught.value.field == "form field 'the \"field\"'"
    assert len(caught.value.detail) < 200


def test_text_of_field_with_an_unknown_charset_is_not_looked_up() -> None:
    """Python keeps every name of a codec that it was asked for: a client must not be able to fill that."""
    import encodings

    with pytest.raises(MalformedBodyError):
        decode_field("a", b"", "a-charset-nobody-has")
    assert not [name for name in vars(encodings)["_cache"] if "nobody" in name]


@pytest.mark.parametrize(
    ("raw", "charset", "expected"),
    [
        pytest.param(b"", None, [], id="empty"),
        pytest.param(b"a=1&b=two+words&a=%C3%A9", None, [("a", "1"), ("b", "two words"), ("a", "é")], id="as a query"),
        pytest.param(b"a=1;b=2", None, [("a", "1;b=2")], id="semicolon is no separator"),
        pytest.param(b"a=x%0D%0Ay", None, [("a", "x\r\ny")], id="line break"),
        pytest.param(b"a=%ff", None, [("a", "\ufffd")], id="escape that is no UTF-8"),
        pytest.param(b"a=%e9", "iso-8859-1", [("a", "é")], id="escape in another charset"),
        pytest.param(b"\xe9=\xe9", "latin1", [("é", "é")], id="raw bytes in another charset"),
        pytest.param(b"a=%93%fa", "shift_jis", [("a", "日")], id="escape in a charset of two bytes"),
        pytest.param(b"a=1", "UTF-8", [("a", "1")], id="charset named"),
    ],
)
def test_urlencoded_form_gives_fields(raw: bytes, charset: str | None, expected: list[tuple[str, str]]) -> None:
    """The grammar is that of query strings; text is UTF-8, unless the content type names another charset."""
    assert list(parse_urlencoded(raw, charset, DEFAULT_LIMITS).items()) == expected


LARGER = "larger than the limit of 10 bytes"


@pytest.mark.parametrize(
    ("raw", "charset", "limits", "status", "detail"),
    [
        (b"a=\xff", None, {}, 400, "body: no text in UTF-8"),
        (b"a=\x81", "cp1252", {}, 400, "body: no text in cp1252"),
        (b"a=1", "utf-7", {}, 400, "content-type: charset 'utf-7' is not known; send UTF-8"),
        (b"a&b&c", None, {"max_form_fields": 2}, 400, "body: more than 2 form fields"),
        (b"a=" + b"x" * 9, None, {"max_form_memory_bytes": 10}, 413, f"form fields: {LARGER}"),
        (b"a=1", None, {"max_form_fields": 0}, 400, "body: more than 0 form fields"),
        (
            b"b=1&long%00\xff=" + b"x" * 11,
            None,
            {"max_form_field_bytes": 10},
            413,
            f"form field 'long%00ÿ': {LARGER}",
        ),
        (b"x" * 100, None, {"max_form_field_bytes": 10}, 413, f"form field '{'x' * 40}': {LARGER}"),
    ],
)  # fmt: skip
def test_urlencoded_form_that_cannot_be_parsed_is_refused(
    raw: bytes, charset: str | None, limits: dict[str, int], status: int, detail: str
) -> None:
    """What is no text, too many or too large is refused; the error names the field and shows no more than that."""
    with pytest.raises(HTTPError) as caught:
        parse_urlencoded(raw, charset, Limits(**limits))
    assert (caught.value.status_code, caught.value.detail) == (status, detail)


def test_urlencoded_form_at_the_limits_passes() -> None:
    """A limit is the most that is allowed; an empty form has no field too many."""
    limits = Limits(max_form_fields=2, max_form_field_bytes=3, max_form_memory_bytes=10)
    assert len(parse_urlencoded(b"abc=def&a=", None, limits)) == 2
    assert len(parse_urlencoded(b"", None, Limits(max_form_fields=0))) == 0
    assert len(parse_urlencoded(b"&".join([b"a=" + b"x" * 200] * 2000), None, NO_LIMITS)) == 2000


@pytest.mark.parametrize("unit", [b"&", b"a=1&", b"a&"])
def test_urlencoded_form_of_a_million_fields_is_refused_at_once(unit: bytes) -> None:
    """Counted before it is split."""
    raw = unit * (2 * MIB // len(unit))
    with linear_time():
        with pytest.raises(MalformedBodyError):
            parse_urlencoded(raw, None, DEFAULT_LIMITS)
