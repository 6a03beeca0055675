"""_sse.py: whatever an event holds, a client gets that and nothing else."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import pytest
from event_streams import Received, read
from hypothesis import given
from hypothesis import strategies as st

from asgicore import ServerSentEvent
from asgicore._responses import encode_json
from asgicore._sse import build_event, build_message

# Line ends, what only Python takes for one, and what means something to a parser, more often than by chance.
_CHARACTERS = st.one_of(
    st.sampled_from("\r\n\v\f\x1c\x85\u2028\u2029\ufeff\0: \tdatienr"), st.characters(exclude_categories=["Cs"])
)
TEXTS = st.text(_CHARACTERS)
LINES = TEXTS.map(lambda text: re.sub(r"[\r\n]", "", text))
IDS = LINES.map(lambda text: text.replace("\0", ""))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)


@st.composite
def events(draw: st.DrawFn) -> ServerSentEvent:
    """Any event that there may be."""
    data = draw(st.none() | TEXTS | JSON)
    return ServerSentEvent(
        data,
        event=draw(st.none() | LINES) if data is not None else None,
        id=draw(st.none() | IDS),
        retry=draw(st.none() | st.integers(0, 10**12)),
        comment=draw(TEXTS if data is None else st.none() | TEXTS),
    )


def lines(text: str) -> str:
    """The text with LF for every line end, as a client has it."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def cut(body: bytes, size: int) -> list[bytes]:
    """The body in parts of so many bytes."""
    return [body[start : start + size] for start in range(0, len(body), size)]


@given(st.lists(events(), max_size=5), st.integers(1, 40))
def test_any_events_are_got_as_they_were_given(given_events: list[ServerSentEvent], size: int) -> None:
    """Data, type and id of each, the last retry and every line of the comments; also in parts of any size."""
    body = b"".join(build_event(event, encode_json) for event in given_events)
    source = read(*cut(body, size))
    expected: list[Received] = []
    comments: list[str] = []
    last_id, retry = "", None
    for event in given_events:
        last_id = last_id if event.id is None else event.id
        retry = retry if event.retry is None else event.retry
        if event.comment is not None:
            comments += lines(event.comment).split("\n")
        if isinstance(event.data, str):
            expected.append(Received(lines(event.data), event.event or "message", last_id))
        elif event.data is not None:
            expected.append(Received(encode_json(event.data), event.event or "message", last_id))
            assert json.loads(source.events[len(expected) - 1].data) == event.data
    assert source.events == expected
    assert source.comments == [f" {comment}" for comment in comments]
    assert (source.last_event_id, source.retry) == (last_id, retry)


@given(events(), events())
def test_events_cut_at_any_byte_give_the_first_one_whole(first: ServerSentEvent, second: ServerSentEvent) -> None:
    """What is cut within the second event is the first one and nothing of the second."""
    begin, rest = build_event(first, encode_json), build_event(second, encode_json)
    before = read(begin)
    for end in range(len(rest)):
        source = read(begin + rest[:end])
        assert source.events == before.events
        assert source.last_event_id == before.last_event_id


@given(TEXTS)
def test_any_text_is_the_data_of_a_message(text: str) -> None:
    """A ``str`` is written as the event that has it as data."""
    body = build_message(text)
    assert read(body).events == [Received(lines(text), "message", "")]
    assert body == build_event(ServerSentEvent(text), encode_json)


@pytest.mark.parametrize(
    ("event", "written"),
    [
        pytest.param(ServerSentEvent("a"), b"data: a\n\n", id="data"),
        pytest.param(ServerSentEvent(""), b"data: \n\n", id="empty data"),
        pytest.param(ServerSentEvent(" a"), b"data:  a\n\n", id="a blank of its own"),
        pytest.param(ServerSentEvent("a\r\nb\rc\nd"), b"data: a\ndata: b\ndata: c\ndata: d\n\n", id="every line end"),
        pytest.param(ServerSentEvent("a\n"), b"data: a\ndata: \n\n", id="a line end at the end"),
        pytest.param(ServerSentEvent("a\u2028b\x85c"), "data: a\u2028b\x85c\n\n".encode(), id="no line ends"),
        pytest.param(
            ServerSentEvent("a\n\ndata: b"), b"data: a\ndata: \ndata: data: b\n\n", id="what looks like an event"
        ),
        pytest.param(ServerSentEvent({"a": [1, None, "ü"]}), '{"a":[1,null,"ü"]}'.encode(), id="json"),
        pytest.param(ServerSentEvent(["\ud800"]), rb'["\ud800"]', id="json with a lone surrogate"),
        pytest.param(ServerSentEvent(0), b"0", id="json that is false"),
        pytest.param(
            ServerSentEvent("a", event="e", id="1", retry=5, comment="c"),
            b": c\nevent: e\nid: 1\nretry: 5\ndata: a\n\n",
            id="all",
        ),
        pytest.param(ServerSentEvent(id=""), b"id: \n\n", id="id that is to be forgotten"),
        pytest.param(ServerSentEvent(retry=0), b"retry: 0\n\n", id="retry"),
        pytest.param(ServerSentEvent(comment="a\nb"), b": a\n: b\n\n", id="comment of two lines"),
    ],
)
def test_event_is_written_as_the_standard_has_it(event: ServerSentEvent, written: bytes) -> None:
    """Section 9.2.5, byte by byte."""
    if not written.endswith(b"\n\n"):
        written = b"data: " + written + b"\n\n"
    assert build_event(event, encode_json) == written


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"data": "a", "event": "a\nb"}, ValueError, r"event takes a single line, not 'a\\nb'"),
        ({"data": "a", "event": "a\rb"}, ValueError, "event takes a single line"),
        ({"data": "a", "event": b"a"}, TypeError, "event takes str, not bytes"),
        ({"event": "a"}, ValueError, "reaches no listener"),
        ({"id": "a\nb"}, ValueError, "id takes a single line"),
        ({"id": "a\rb"}, ValueError, "id takes a single line"),
        ({"id": "a\0b"}, ValueError, r"id takes text without NUL, .*, not 'a\\x00b'"),
        ({"id": 1}, TypeError, "id takes str, not int"),
        ({"retry": -1}, ValueError, "retry takes milliseconds, an integer from 0 on, not -1"),
        ({"retry": 1.5}, TypeError, "retry takes milliseconds, an integer from 0 on, not 1.5"),
        ({"retry": True}, TypeError, "retry takes milliseconds"),
        ({"retry": "1"}, TypeError, "retry takes milliseconds"),
        ({"comment": 1}, TypeError, "comment takes str, not int"),
        ({}, ValueError, "data, id, retry or comment, and got none"),
        ({"data": None}, ValueError, "for the JSON null, data='null'"),
    ],
)
def test_event_that_no_client_would_get_right_is_refused(
    fields: dict[str, Any], error: type[Exception], message: str
) -> None:
    """Where it is made, by an error that names the field."""
    with pytest.raises(error, match=message):
        ServerSentEvent(**fields)


@pytest.mark.parametrize("data", ["a\ud800", b"bytes", float("nan"), {1: object()}])
def test_data_that_cannot_be_written_is_refused(data: Any) -> None:
    """Text without a UTF-8 form, and what is no JSON."""
    with pytest.raises((TypeError, ValueError), match=r"surrogate '\\ud800'|JSON"):
        build_event(ServerSentEvent(data), encode_json)


def test_event_is_a_value() -> None:
    """It can be compared and not be changed, and takes its data alone by position."""
    event = ServerSentEvent("a", id="1")
    assert event == ServerSentEvent(data="a", id="1")
    assert event not in (ServerSentEvent("a"), ServerSentEvent("a", event="x"), ServerSentEvent(comment="a"))
    assert repr(event) == "ServerSentEvent(data='a', event=None, id='1', retry=None, comment=None)"
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.data = "b"  # type: ignore[misc]
    assert not hasattr(event, "__dict__")
    with pytest.raises(TypeError):
        ServerSentEvent("a", "b")  # type: ignore[call-arg]
