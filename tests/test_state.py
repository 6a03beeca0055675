"""_state.py: the order that the ASGI HTTP specification 2.5 allows, state by state."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgicore._state import REQUEST, RESPONSE, RequestEvent, RequestState, ResponseEvent, ResponseState


@pytest.mark.parametrize(
    ("events", "state"),
    [
        pytest.param("", RequestState.READING, id="nothing yet"),
        pytest.param("P", RequestState.READING, id="more_body true"),
        pytest.param("L", RequestState.COMPLETE, id="more_body false"),
        pytest.param("PPL", RequestState.COMPLETE, id="parts and the last"),
        pytest.param("LLP", RequestState.COMPLETE, id="repeats after the body"),
        pytest.param("D", RequestState.ABORTED, id="disconnect at once"),
        pytest.param("PD", RequestState.ABORTED, id="disconnect in mid-body"),
        pytest.param("PDD", RequestState.ABORTED, id="disconnect repeated in mid-body"),
        pytest.param("LD", RequestState.GONE, id="disconnect after the body"),
        pytest.param("LDD", RequestState.GONE, id="disconnect repeated after the body"),
        pytest.param("DP", None, id="body after a disconnect"),
        pytest.param("LDL", None, id="end after a disconnect"),
    ],
)
def test_request_after_events_is_in_state(events: str, state: RequestState | None) -> None:
    """In "Request" and "Disconnect": each sequence ends in its state, an illegal one has none."""
    names = {"P": RequestEvent.PART, "L": RequestEvent.LAST_PART, "D": RequestEvent.DISCONNECT}
    found: RequestState | None = RequestState.READING
    for event in events:
        assert found is not None
        found = REQUEST[found].get(names[event])
    assert found is state


@pytest.mark.parametrize(
    ("events", "state"),
    [
        pytest.param("", ResponseState.IDLE, id="nothing yet"),
        pytest.param("S", ResponseState.BODY, id="started"),
        pytest.param("SPP", ResponseState.BODY, id="parts"),
        pytest.param("SL", ResponseState.DONE, id="whole"),
        pytest.param("SPL", ResponseState.DONE, id="parts and the last"),
        pytest.param("F", ResponseState.BROKEN, id="failed at once"),
        pytest.param("SPF", ResponseState.BROKEN, id="failed in mid-body"),
        pytest.param("P", None, id="body before the start"),
        pytest.param("L", None, id="end before the start"),
        pytest.param("SS", None, id="second start"),
        pytest.param("SLS", None, id="start after the end"),
        pytest.param("SLP", None, id="body after the end"),
        pytest.param("SLL", None, id="second end"),
        pytest.param("FS", None, id="start after a failure"),
        pytest.param("SFL", None, id="end after a failure"),
        pytest.param("HH", ResponseState.IDLE, id="hints"),
        pytest.param("HSL", ResponseState.DONE, id="hints and a response"),
        pytest.param("SH", None, id="hints after the start"),
        pytest.param("SPB", ResponseState.TRAILERS, id="trailers to follow"),
        pytest.param("SBTE", ResponseState.DONE, id="trailers in two messages"),
        pytest.param("SBF", ResponseState.BROKEN, id="failed before the trailers"),
        pytest.param("ST", None, id="trailers before the end of the body"),
        pytest.param("SLE", None, id="trailers that were not announced"),
        pytest.param("SBP", None, id="body after its end"),
        pytest.param("SBEE", None, id="trailers after their end"),
    ],
)
def test_response_after_events_is_in_state(events: str, state: ResponseState | None) -> None:
    """In "Response Start" and "Response Body": one start, parts, one end; nothing after it or after a failure.

    Hints come before the start, and trailers after the body where they were announced.
    """
    names = {
        "H": ResponseEvent.HINTS,
        "B": ResponseEvent.LAST_PART_BEFORE_TRAILERS,
        "T": ResponseEvent.TRAILERS,
        "E": ResponseEvent.LAST_TRAILERS,
        "S": ResponseEvent.START,
        "P": ResponseEvent.PART,
        "L": ResponseEvent.LAST_PART,
        "F": ResponseEvent.FAILURE,
    }
    found: ResponseState | None = ResponseState.IDLE
    for event in events:
        assert found is not None
        found = RESPONSE[found].get(names[event])
    assert found is state


def test_tables_of_transitions_know_every_state() -> None:
    """No state lacks a row, and every state is reached, the first one by hints alone."""
    assert set(REQUEST) == set(RequestState)
    assert set(RESPONSE) == set(ResponseState)
    assert {state for row in REQUEST.values() for state in row.values()} == set(RequestState)
    assert {state for row in RESPONSE.values() for state in row.values()} == set(ResponseState)
    assert [event for row in RESPONSE.values() for event, state in row.items() if state is ResponseState.IDLE] == [
        ResponseEvent.HINTS
    ]


@given(st.lists(st.sampled_from(RequestEvent)))
def test_request_once_left_never_has_a_body_again(events: list[RequestEvent]) -> None:
    """A body that was cut short never becomes whole, whatever the server says afterwards."""
    state = RequestState.READING
    aborted = False
    for event in events:
        state = REQUEST[state].get(event, state)
        aborted = aborted or state is RequestState.ABORTED
        assert not aborted or state is RequestState.ABORTED


@given(st.lists(st.sampled_from(ResponseEvent)))
def test_response_by_legal_events_has_one_start_and_one_end(events: list[ResponseEvent]) -> None:
    """Of any sequence, what the table lets through has one start after all hints, and ends with the only end."""
    state = ResponseState.IDLE
    passed: list[ResponseEvent] = []
    for event in events:
        following = RESPONSE[state].get(event)
        if following is not None:
            state = following
            passed.append(event)
    assert passed.count(ResponseEvent.START) <= 1
    ends = (ResponseEvent.LAST_PART, ResponseEvent.LAST_TRAILERS, ResponseEvent.FAILURE)
    assert sum(passed.count(end) for end in ends) <= 1
    assert not set(ends) & set(passed[:-1])
    if ResponseEvent.START in passed:
        assert set(passed[: passed.index(ResponseEvent.START)]) <= {ResponseEvent.HINTS}
        assert ResponseEvent.HINTS not in passed[passed.index(ResponseEvent.START) :]
