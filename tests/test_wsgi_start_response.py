"""_start_response.py: status, headers and body of a WSGI application, by the rules of PEP 3333."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from asgicore import ContentLengthError, InvalidHeaderError, ResponseStateError
from asgicore.testing import LeakGuard
from asgicore.wsgi_bridge._start_response import StartResponse, parse_status

TEXT = ("Content-Type", "text/plain")


class Wire:
    """What was handed over, in order."""

    def __init__(self, head: bool = False) -> None:
        self.sent: list[Any] = []
        self.response = StartResponse(lambda *start: self.sent.append(start), self.sent.append, head)


@pytest.fixture
def wire() -> Wire:
    return Wire()


# --- status ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("200 OK", 200),
        ("200", 200),
        ("200 ", 200),
        ("404 Not Found", 404),
        ("299 Nothing anybody knows", 299),
        ("418 I'm a teapot", 418),
        ("500 Erreur évidente", 500),
        ("599 \x80\xff", 599),
    ],
)
def test_status_line_with_or_without_reason_is_read(line: str, status: int) -> None:
    """The reason is the application's to leave out (RFC 9112 section 4)."""
    assert parse_status(line) == status


@pytest.mark.parametrize(
    "line",
    [
        *("", "20", "2000", "2000 OK", "200OK", " 200 OK", "OK", "-20 OK", "2.0 OK", "٢٠٠ OK", "200\tOK"),
        *("200 OK\r\nx: y", "200 OK\n", "200\n", "200 O\x00K", "200 O\x7fK"),
        *("100 Continue", "101 Switching Protocols", "099 Low", "600 High", "000"),
        *(200, None, b"200 OK", ["200 OK"], True),
    ],
)
def test_status_line_of_another_form_is_refused(line: Any) -> None:
    """A clear error, in the application's own call, that names what is wrong."""
    with pytest.raises(InvalidHeaderError, match="status") as caught:
        parse_status(line)
    assert caught.value.header == "status"


# --- headers ---------------------------------------------------------------------------------------------


def test_headers_keep_every_repeat_in_order(wire: Wire) -> None:
    """Names go out in lower case, repeats stay apart, latin-1 is allowed, and blanks around values go."""
    wire.response(
        "200 OK",
        [
            TEXT,
            ("Set-Cookie", "a=1"),
            ("ETag", '"1"'),
            ("X-Latin", "é"),
            ("set-cookie", "b=2"),
            ("X-Blank", " b\t"),
            ("SET-COOKIE", "c=3"),
        ],
    )
    wire.response.begin()
    expected = [
        (b"content-type", b"text/plain"),
        (b"set-cookie", b"a=1"),
        (b"etag", b'"1"'),
        (b"x-latin", b"\xe9"),
        (b"set-cookie", b"b=2"),
        (b"x-blank", b"b"),
        (b"set-cookie", b"c=3"),
    ]
    assert wire.sent == [(200, expected)]


@pytest.mark.parametrize(
    "name",
    [
        *("connection", "Keep-Alive", "proxy-connection", "Transfer-Encoding", "TE", "Trailers", "Upgrade"),
        *("Proxy-Authenticate", "Proxy-Authorization"),
    ],
)
def test_headers_of_the_connection_are_refused(wire: Wire, name: str) -> None:
    """Hop-by-hop fields are the server's (PEP 3333, "Other HTTP Features")."""
    with pytest.raises(InvalidHeaderError, match=name.lower()) as caught:
        wire.response("200 OK", [TEXT, (name.lower(), "x")])
    assert caught.value.header == name.lower()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("X-A", f"b{control}c") for control in "\r\n\x00\x0b\x1f\x7f\x85"),
        *(("X-A", value) for value in ("b\r\nset-cookie: c", "b\n", "☃", "\ud800", b"bytes", 5, None)),
        *((name, "b") for name in ("", "X A", "X:A", "X-A\r\n", "é", "☃", "Lin\u212a", b"bytes", 5, None, ["x"])),
    ],
    ids=repr,
)
def test_headers_that_must_not_leave_are_refused(wire: Wire, name: Any, value: Any) -> None:
    """Refused in the application's call, whatever it is; nothing is taken of that call."""
    with pytest.raises(InvalidHeaderError):
        wire.response("200 OK", [TEXT, (name, value)])
    assert wire.response.status == 0
    assert wire.response.headers == []


@pytest.mark.parametrize("headers", [5, [5], [("a",)], ["abc"]])
def test_headers_that_are_no_pairs_are_refused(wire: Wire, headers: Any) -> None:
    """Whatever else is given."""
    with pytest.raises(TypeError):
        wire.response("200 OK", headers)


def test_headers_are_taken_at_the_call(wire: Wire) -> None:
    """What the application does to its list afterwards reaches nobody."""
    headers = [TEXT]
    wire.response("200 OK", headers)
    headers.append(("X-Late", "1"))
    wire.response.put_part(b"a")
    assert wire.sent == [(200, [(b"content-type", b"text/plain")]), b"a"]


@pytest.mark.parametrize("values", [["x"], ["-1"], ["+1"], ["1_0"], ["²"], ["1" * 16], ["1", "1"], ["1", "2"], [""]])
def test_content_length_that_is_not_one_number_is_refused(wire: Wire, values: list[str]) -> None:
    """RFC 9110 section 8.6."""
    with pytest.raises(InvalidHeaderError, match="content-length"):
        wire.response("200 OK", [("Content-Length", value) for value in values])


@pytest.mark.parametrize(
    ("status", "length", "kept"),
    [("200", "0", True), ("204", "0", False), ("204", "5", False), ("304", "0", False), ("304", "5", True)],
)
def test_content_length_of_response_without_body_is_left_out(wire: Wire, status: str, length: str, kept: bool) -> None:
    """None on 204; on 304 that of the representation, which 0 is not (RFC 9110 section 8.6)."""
    wire.response(status, [("Content-Length", length)])
    assert wire.response.headers == ([(b"content-length", length.encode())] if kept else [])


# --- laziness and replacement ----------------------------------------------------------------------------


def test_start_response_hands_over_nothing_before_a_part_that_is_not_empty(wire: Wire) -> None:
    """PEP 3333, "The start_response() Callable"."""
    wire.response("200 OK", [TEXT])
    assert wire.response.put_part(b"") is True
    assert wire.sent == []
    assert wire.response.put_part(b"a") is True
    assert wire.response.put_part(b"") is True
    assert wire.response.put_part(b"b") is True
    wire.response.finish()
    assert wire.sent == [(200, [(b"content-type", b"text/plain")]), b"a", b"b"]


def test_start_response_called_twice_is_refused(wire: Wire) -> None:
    """Without ``exc_info`` the second call is a mistake; the first stays."""
    wire.response("200 OK", [TEXT])
    with pytest.raises(ResponseStateError, match="exc_info"):
        wire.response("500 Oops", [])
    wire.response.finish()
    assert wire.sent == [(200, [(b"content-type", b"text/plain")])]


def test_start_response_with_exc_info_before_the_first_byte_replaces(wire: Wire) -> None:
    """Status, headers and declared length of the first call are gone."""
    wire.response("200 OK", [TEXT, ("Content-Length", "100")])
    wire.response.put_part(b"")
    try:
        raise KeyError
    except KeyError:
        wire.response("500 Oops", [("X-Error", "1")], sys.exc_info())
    wire.response.put_part(b"sorry")
    wire.response.finish()
    assert wire.sent == [(500, [(b"x-error", b"1")]), b"sorry"]


@pytest.mark.parametrize("exc_info", [None, (None, None, None)])
def test_start_response_without_exception_in_the_first_call_is_taken(wire: Wire, exc_info: Any) -> None:
    """``sys.exc_info()`` outside of a handler names no exception."""
    wire.response("200 OK", [], exc_info)
    wire.response.finish()
    wire.response("500 Oops", [], (None, None, None))  # nothing to raise: the application cannot be helped
    assert wire.sent == [(200, [])]


def test_start_response_with_exc_info_after_the_first_byte_raises_that_exception(wire: Wire) -> None:
    """The same object with its traceback, which leads to where it was raised."""
    wire.response("200 OK", [TEXT])
    wire.response.put_part(b"a")
    error = KeyError("a")

    def fail() -> None:
        raise error

    with pytest.raises(KeyError) as caught:
        try:
            fail()
        except KeyError:
            wire.response("500 Oops", [], sys.exc_info())
    assert caught.value is error
    assert "fail" in [entry.name for entry in caught.traceback]
    assert wire.sent == [(200, [(b"content-type", b"text/plain")]), b"a"]


def test_start_response_that_raises_leaves_no_cycle() -> None:
    """The frame that raises does not hold the exception, nor the traceback that leads back to it."""

    def application() -> None:
        wire = Wire()
        wire.response("200 OK", [])
        wire.response.put_part(b"a")
        try:
            try:
                raise KeyError
            except KeyError:
                wire.response("500 Oops", [], sys.exc_info())
        except KeyError:
            pass
        wire.__dict__.clear()  # the wire's own: it holds the response, which holds its method

    application()
    with LeakGuard(cycles=[__name__, "asgicore.wsgi_bridge._start_response"]):
        for _ in range(10):
            application()


def test_start_response_refused_with_exc_info_keeps_what_was_given(wire: Wire) -> None:
    """An error page with a broken header does not erase the response."""
    wire.response("200 OK", [TEXT])
    try:
        raise KeyError
    except KeyError:
        with pytest.raises(InvalidHeaderError):
            wire.response("500 Oops", [("X", "\n")], sys.exc_info())
    assert wire.response.status == 200


def test_body_without_start_response_is_refused(wire: Wire) -> None:
    """In every way it can come."""
    for act in (
        lambda: wire.response.put_part(b"a"),
        lambda: wire.response.write(b"a"),
        lambda: wire.response.settle_length(1),
        wire.response.begin,
        wire.response.finish,
    ):
        with pytest.raises(ResponseStateError, match="start_response"):
            act()
    assert wire.sent == []


@pytest.mark.parametrize("part", ["text", None, 5, bytearray(b"a"), memoryview(b"a"), [b"a"]])
def test_part_that_is_not_bytes_is_refused(wire: Wire, part: Any) -> None:
    """PEP 3333: bytes, and nothing that could be taken for them."""
    write = wire.response("200 OK", [])
    with pytest.raises(TypeError, match=type(part).__name__):
        wire.response.put_part(part)
    with pytest.raises(TypeError, match=type(part).__name__):
        write(part)
    assert wire.sent == []


# --- write -----------------------------------------------------------------------------------------------


def test_write_sends_before_the_parts_of_the_iterable(wire: Wire) -> None:
    """The callable that ``start_response`` returns (PEP 3333, "The write() Callable")."""
    write = wire.response("200 OK", [TEXT])
    write(b"a")
    write(b"")
    write(b"b")
    wire.response.put_part(b"c")
    wire.response.finish()
    assert wire.sent == [(200, [(b"content-type", b"text/plain")]), b"a", b"b", b"c"]


def test_write_of_nothing_sends_the_headers(wire: Wire) -> None:
    """The first call does, whatever it is given (PEP 3333, "The start_response() Callable")."""
    wire.response("200 OK", [])(b"")
    assert wire.sent == [(200, [])]


def test_write_beyond_the_declared_length_is_refused(wire: Wire) -> None:
    """PEP 3333, "Handling the Content-Length Header"."""
    write = wire.response("200 OK", [("Content-Length", "3")])
    write(b"ab")
    with pytest.raises(ContentLengthError) as caught:
        write(b"cd")
    assert (caught.value.declared, caught.value.actual) == (3, 4)
    write(b"c")
    wire.response.finish()
    assert wire.sent[1:] == [b"ab", b"c"]


# --- declared length -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "sent", "has_excess"),
    [
        ([b"abc"], [b"abc"], False),
        ([b"a", b"bc", b""], [b"a", b"bc"], False),
        ([b"abcdef"], [b"abc"], True),
        ([b"ab", b"cdef"], [b"ab", b"c"], True),
        ([b"abc", b"d"], [b"abc"], True),
    ],
)
def test_body_longer_than_declared_is_cut(wire: Wire, parts: list[bytes], sent: list[bytes], has_excess: bool) -> None:
    """No more than declared is handed over, and then no more is asked for."""
    wire.response("200 OK", [("Content-Length", "3")])
    goes_on = [wire.response.put_part(part) for part in parts]
    assert goes_on == [True] * (len(parts) - 1) + [not has_excess]
    wire.response.finish()
    assert wire.sent[1:] == sent
    assert wire.response.has_excess is has_excess


@pytest.mark.parametrize("parts", [[], [b""], [b"ab"], [b"a", b"", b"b"]])
def test_body_shorter_than_declared_is_an_error(wire: Wire, parts: list[bytes]) -> None:
    """It must not end as if it were whole."""
    wire.response("200 OK", [("Content-Length", "3")])
    for part in parts:
        wire.response.put_part(part)
    with pytest.raises(ContentLengthError) as caught:
        wire.response.finish()
    assert (caught.value.declared, caught.value.actual) == (3, len(b"".join(parts)))
    assert wire.response.is_begun is bool(b"".join(parts))


@pytest.mark.parametrize(("head", "status"), [(True, "200 OK"), (False, "204"), (False, "304"), (True, "304")])
def test_body_of_response_without_one_is_not_asked_for(head: bool, status: str) -> None:
    """HEAD, 204 and 304 (RFC 9110 section 6.4.1): the head goes out, and the iterable is left alone."""
    wire = Wire(head)
    write = wire.response(status, [TEXT, ("Content-Length", "100")])
    write(b"abc")
    assert wire.response.put_part(b"") is True
    assert wire.response.put_part(b"abc") is False
    wire.response.finish()
    assert len(wire.sent) == 1
    assert wire.response.is_bodiless


# --- complete at once ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "status", "declared", "body", "length", "sent"),
    [
        pytest.param(False, "200", None, b"abc", b"3", b"abc", id="length added"),
        pytest.param(False, "200", None, b"", b"0", b"", id="empty"),
        pytest.param(False, "200", "3", b"abc", b"3", b"abc", id="declared"),
        pytest.param(False, "200", "2", b"abc", b"2", b"ab", id="cut"),
        pytest.param(True, "200", None, b"abc", b"3", b"", id="HEAD"),
        pytest.param(True, "200", None, b"", None, b"", id="HEAD without the body"),
        pytest.param(True, "200", "9", b"", b"9", b"", id="HEAD declared"),
        pytest.param(True, "200", "2", b"abc", b"2", b"", id="HEAD declared wrongly"),
        pytest.param(False, "204", None, b"abc", None, b"", id="204"),
        pytest.param(False, "304", None, b"", None, b"", id="304"),
        pytest.param(False, "304", "9", b"", b"9", b"", id="304 declared"),
    ],
)
def test_whole_body_has_its_length_declared(
    head: bool, status: str, declared: str | None, body: bytes, length: bytes | None, sent: bytes
) -> None:
    """A response that is complete when the application returns needs no chunks."""
    wire = Wire(head)
    wire.response(status, [] if declared is None else [("Content-Length", declared)])
    assert body[: wire.response.settle_length(len(body))] == sent
    assert wire.response.headers == ([] if length is None else [(b"content-length", length)])
    assert wire.response.is_begun
    assert wire.response.has_excess is (declared == "2" and not head)
    assert wire.sent == []


def test_whole_body_shorter_than_declared_is_an_error(wire: Wire) -> None:
    """Nothing has left yet: it becomes an error page."""
    wire.response("200 OK", [("Content-Length", "3")])
    with pytest.raises(ContentLengthError):
        wire.response.settle_length(2)
    assert not wire.response.is_begun
