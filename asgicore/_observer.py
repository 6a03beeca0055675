"""What an observer is, and what it is told of a request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

from .types import HeadersInput, Scope

__all__ = ["Observe", "Observer", "ObserverCall", "Outcome", "Timings"]


class Outcome(Enum):
    """How a request ended. Each has exactly one, whatever went wrong on the way."""

    COMPLETED = "completed"
    """The response, whatever its status, was sent to its end. Also an ``HTTPError`` that the endpoint raised."""
    REFUSED = "refused"
    """The endpoint was not asked, or could not go on by the client's fault: a ``RequestError`` (malformed, too
    large, too slow), no free worker thread, or a response made by ``create_request``."""
    FAILED = "failed"
    """Any other exception: answered with 500 before the response was started, the connection dropped after it."""
    CLIENT_LEFT = "client_left"
    """The client left before the response was complete."""
    CLOSED = "closed"
    """``Handler.aclose()`` ended it: a 503, or a stream cut short."""
    CANCELLED = "cancelled"
    """The server, or whatever else is around the handler, cancelled it before the response was complete; or the event
    loop threw it away."""


def _between(begin: float | None, end: float | None) -> float | None:
    return None if begin is None or end is None else end - begin


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """When what happened, in seconds of ``time.monotonic()``; ``None`` where it did not come to that, or not yet."""

    received: float
    """The handler was called."""
    body_complete: float | None = None
    """The last part of the body was here."""
    endpoint_called: float | None = None
    """The endpoint was called, or began to wait for a thread."""
    endpoint_returned: float | None = None
    """It returned a response, or raised an exception that was answered."""
    response_started: float | None = None
    """The server took status and header fields."""
    response_ended: float | None = None
    """The server took the last message of the response: whether the response is complete."""
    finished: float | None = None
    """Background work and cleanup are over."""
    status_code: int | None = None
    """Of the response that was started, whoever made it."""
    bytes_received: int = 0
    """Of the body, as far as it was received."""
    bytes_sent: int = 0
    """Of the body, as far as the server took it; of a file that the server reads by itself, the declared length."""

    @property
    def total_seconds(self) -> float | None:
        """From the call of the handler to the end of everything."""
        return _between(self.received, self.finished)

    @property
    def body_seconds(self) -> float | None:
        """From the call of the handler to the last part of the body."""
        return _between(self.received, self.body_complete)

    @property
    def endpoint_seconds(self) -> float | None:
        """In the endpoint, the wait for a thread included."""
        return _between(self.endpoint_called, self.endpoint_returned)

    @property
    def first_byte_seconds(self) -> float | None:
        """From the call of the handler to the start of the response."""
        return _between(self.received, self.response_started)

    @property
    def response_seconds(self) -> float | None:
        """From the start of the response to its end."""
        return _between(self.response_started, self.response_ended)


class Observer:
    """Told of every HTTP request of a handler; override what is needed, each method does nothing by itself.

    The methods run on the event loop, in the task and context of the request, and must not block: nothing waits for
    them. What they raise is logged and changes nothing.
    """

    def around(self, scope: Scope) -> AbstractContextManager[object] | None:
        """A context manager that is entered before anything is done for a request, and left after all else.

        What it sets in context variables is seen by the endpoint, in its worker thread, too, by iterators and by
        background work. It is never left with an exception: how the request ended is told by ``__call__()``, within.

        Args:
            scope: Of the connection, as the server gave it; nothing of it was checked yet.
        """
        return None

    def extra_headers(self, request: Any, response: Any, timings: Timings) -> HeadersInput | None:
        """Further fields for the head of the response, which is about to be sent; asked for once, of errors, too.

        Args:
            request: As for ``__call__()``.
            response: What is about to be sent; it is too late to change it.
            timings: What is known so far.
        """
        return None

    def __call__(
        self, request: Any, response: Any, timings: Timings, outcome: Outcome, error: BaseException | None
    ) -> object:
        """The request is over: called once, on every exit, when everything is closed.

        Args:
            request: What the endpoint got; a ``Request`` of the scope alone where there was none, as its head was
                refused.
            response: What was sent or was to be sent; ``None`` if there was none.
            timings: When what happened.
            outcome: How it ended.
            error: The exception that was answered, reached the server or was logged, whichever counts most; ``None`` if
                there was none, or it only says that the client left.
        """
        return None


ObserverCall: TypeAlias = Callable[[Any, Any, Timings, Outcome, "BaseException | None"], object]
"""A function ``(request, response, timings, outcome, error)``: an observer that wants the end alone."""

Observe: TypeAlias = ObserverCall | Sequence[ObserverCall]
"""One observer, or several."""
