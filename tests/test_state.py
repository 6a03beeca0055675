"""_state.py: the order that the ASGI HTTP specification 2.5 allows, state by state."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
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
        pytest.param("HHS", ResponseState.BODY, id="hints before the start"),
        pytest.param("SH", None, id="hint after the start"),
        pytest.param("SLH", None, id="hint after the end"),
        pytest.param("SPB", ResponseState.TRAILERS, id="body ended, trailers to come"),
        pytest.param("SBTE", ResponseState.DONE, id="trailers"),
        pytest.param("SBF", ResponseState.BROKEN, id="failed between body and trailers"),
        pytest.param("SBL", None, id="second end, where trailers have to come"),
        pytest.param("SBP", None, id="body where trailers have to come"),
        pytest.param("SE", None, id="trailers within the body"),
        pytest.param("SLE", None, id="trailers that were not announced"),
        pytest.param("SBEE", None, id="trailers after the end"),
    ],
)
def test_response_after_events_is_in_state(events: str, state: ResponseState | None) -> None:
    """In "Response Start", "Response Body" and "Extensions": one start, parts, one end; nothing after it or after a
    failure."""
    names = {
        "S": ResponseEvent.START,
        "P": ResponseEvent.PART,
        "L": ResponseEvent.LAST_PART,
        "F": ResponseEvent.FAILURE,
        "H": ResponseEvent.HINTS,
        "B": ResponseEvent.LAST_PART_BEFORE_TRAILERS,
        "T": ResponseEvent.TRAILERS,
        "E": ResponseEvent.LAST_TRAILERS,
    }
    found: ResponseState | None = ResponseState.IDLE
    for event in events:
        assert found is not None
        found = RESPONSE[found].get(names[event])
    assert found is state


def test_tables_of_transitions_know_every_state() -> None:
    """No state lacks a row, and every state is reached, the first one by what does not leave it."""
    assert set(REQUEST) == set(RequestState)
    assert set(RESPONSE) == set(ResponseState)
    assert {state for row in REQUEST.values() for state in row.values()} == set(RequestState)
    assert {state for row in RESPONSE.values() for state in row.values()} == set(ResponseState)
    assert RESPONSE[ResponseState.IDLE][ResponseEvent.HINTS] is ResponseState.IDLE


@settings(deadline=None)
@given(st.lists(st.sampled_from(RequestEvent)))
def test_request_once_left_never_has_a_body_again(events: list[RequestEvent]) -> None:
    """A body that was cut short never becomes whole, whatever the server says afterwards."""
    state = RequestState.READING
    aborted = False
    for event in events:
        state = REQUEST[state].get(event, state)
        aborted = aborted or state is RequestState.ABORTED
        assert not aborted or state is RequestState.ABORTED


@settings(deadline=None)
@given(st.lists(st.sampled_from(ResponseEvent)))
def test_response_by_legal_events_has_one_start_and_one_end(events: list[ResponseEvent]) -> None:
    """Of any sequence, what the table lets through begins with the only start and ends with the only end."""
    state = ResponseState.IDLE
    passed: list[ResponseEvent] = []
    for event in events:
        following = RESPONSE[state].get(event)
        if following is not None:
            state = following
            passed.append(event)
    assert passed.count(ResponseEvent.START) <= 1
    assert passed.count(ResponseEvent.LAST_PART) + passed.count(ResponseEvent.FAILURE) <= 1
    if ResponseEvent.LAST_PART in passed:
        assert passed[0] is ResponseEvent.START
        assert passed[-1] is ResponseEvent.LAST_PART
