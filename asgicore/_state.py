"""The two state machines of a request, as tables: rules that affect the legal order live here.

Source: ASGI HTTP specification 2.5, "Request", "Response Start", "Response Body", "Disconnect"; ASGI extensions
"Early Hints", "HTTP Trailers".
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

__all__ = ["REQUEST", "RESPONSE", "RequestEvent", "RequestState", "ResponseEvent", "ResponseState"]


class RequestState(Enum):
    """What has arrived of the request body."""

    READING = auto()
    """More parts may come."""
    COMPLETE = auto()
    """The last part came; only a disconnect can follow."""
    ABORTED = auto()
    """The client left before the last part: what came is not a body."""
    GONE = auto()
    """The client left after the last part."""


class RequestEvent(Enum):
    PART = auto()
    LAST_PART = auto()
    DISCONNECT = auto()


REQUEST: Final = {
    RequestState.READING: {
        RequestEvent.PART: RequestState.READING,
        RequestEvent.LAST_PART: RequestState.COMPLETE,
        RequestEvent.DISCONNECT: RequestState.ABORTED,
    },
    RequestState.COMPLETE: {
        # Repeated http.request messages after the body are harmless: some servers send them.
        RequestEvent.PART: RequestState.COMPLETE,
        RequestEvent.LAST_PART: RequestState.COMPLETE,
        RequestEvent.DISCONNECT: RequestState.GONE,
    },
    RequestState.ABORTED: {RequestEvent.DISCONNECT: RequestState.ABORTED},
    RequestState.GONE: {RequestEvent.DISCONNECT: RequestState.GONE},
}


class ResponseState(Enum):
    """What has been sent of the response."""

    IDLE = auto()
    """Nothing yet: an error can still become a response."""
    BODY = auto()
    """The start is out; body messages follow."""
    TRAILERS = auto()
    """The final body message is out; trailers follow."""
    DONE = auto()
    """The final message is out."""
    BROKEN = auto()
    """A send failed or the client left: nothing more may be sent."""


class ResponseEvent(Enum):
    HINTS = auto()
    START = auto()
    PART = auto()
    LAST_PART = auto()
    LAST_PART_BEFORE_TRAILERS = auto()
    TRAILERS = auto()
    LAST_TRAILERS = auto()
    FAILURE = auto()


RESPONSE: Final = {
    ResponseState.IDLE: {
        ResponseEvent.HINTS: ResponseState.IDLE,
        ResponseEvent.START: ResponseState.BODY,
        ResponseEvent.FAILURE: ResponseState.BROKEN,
    },
    ResponseState.BODY: {
        ResponseEvent.PART: ResponseState.BODY,
        ResponseEvent.LAST_PART: ResponseState.DONE,
        ResponseEvent.LAST_PART_BEFORE_TRAILERS: ResponseState.TRAILERS,
        ResponseEvent.FAILURE: ResponseState.BROKEN,
    },
    ResponseState.TRAILERS: {
        ResponseEvent.TRAILERS: ResponseState.TRAILERS,
        ResponseEvent.LAST_TRAILERS: ResponseState.DONE,
        ResponseEvent.FAILURE: ResponseState.BROKEN,
    },
    ResponseState.DONE: {},
    ResponseState.BROKEN: {},
}
