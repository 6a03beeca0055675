"""One lifespan, message by message.

Source: ASGI Lifespan specification 2.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import Any, Final

from . import rules
from .fields import Report
from .http import Shape, check_shape, kind_of
from .scope import check_lifespan_scope

__all__ = ["LifespanExchange"]


class _State(Enum):
    NEW = auto()
    STARTING = auto()
    """Startup was received, and is to be answered."""
    RUNNING = auto()
    STOPPING = auto()
    """Shutdown was received, and is to be answered."""
    DONE = auto()


_EVENTS: Final = {
    "lifespan.startup": (_State.NEW, _State.STARTING),
    "lifespan.shutdown": (_State.RUNNING, _State.STOPPING),
}

_ANSWERS: Final = {
    "lifespan.startup.complete": (_State.STARTING, _State.RUNNING),
    "lifespan.startup.failed": (_State.STARTING, _State.DONE),
    "lifespan.shutdown.complete": (_State.STOPPING, _State.DONE),
    "lifespan.shutdown.failed": (_State.STOPPING, _State.DONE),
}

_WHEN: Final = {
    _State.NEW: "before lifespan.startup was received",
    _State.STARTING: "while the startup is to be answered",
    _State.RUNNING: "before lifespan.shutdown",
    _State.STOPPING: "while the shutdown is to be answered",
    _State.DONE: "after the last answer",
}


class LifespanExchange:
    """Follows the lifespan of an application; the arguments are those of ``HTTPExchange``."""

    def __init__(self, scope: Mapping[str, Any], report: Report) -> None:
        self._report = report
        self._state = _State.NEW
        self._is_lost = False
        check_lifespan_scope(scope, report)

    def receiving(self, is_alone: bool) -> None:
        """The application calls ``receive``."""
        if not is_alone:
            self._report("receive-concurrent", "receive() is called while another call of it waits", rules.LIFESPAN)

    def received(self, message: Any) -> None:
        """The server gives a message."""
        kind = kind_of(message)
        if kind is None:
            self._report("event-type", f"receive() gives a dict with a str as type, not {message!r:.80}")
        elif kind not in _EVENTS:
            self._report("event-unknown", f"receive() gives lifespan.startup or lifespan.shutdown, not {kind!r}")
        else:
            check_shape(message, Shape(rules.LIFESPAN, {}, {}), self._report, "event-", "event-value")
            before, after = _EVENTS[kind]
            if self._state is not before:
                self._report("lifespan-event-order", f"{kind} is given {_WHEN[self._state]}")
            self._state = after

    def channel_failed(self) -> None:
        """The server raised: whatever the application owes, it cannot give any more."""
        self._is_lost = True

    def sending(self, message: Any) -> None:
        """The application sends a message."""
        kind = kind_of(message)
        if kind is None:
            self._report("message-type", f"send() takes a dict with a str as type, not {message!r:.80}")
        elif kind not in _ANSWERS:
            self._report("message-unknown", f"{kind!r} is no message of a lifespan")
        else:
            optional: dict[str, type] = {"message": str} if kind.endswith(".failed") else {}
            check_shape(message, Shape(rules.LIFESPAN, {}, optional), self._report)
            before, after = _ANSWERS[kind]
            if self._state is not before:
                self._report("lifespan-order", f"{kind} is sent {_WHEN[self._state]}")
            else:
                self._state = after

    def ended(self, error: Exception | None) -> None:
        """The application has returned, or raised ``error``."""
        if self._is_lost:
            return
        if error is not None:
            # What is raised before says that the application knows no lifespans.
            rule = "raised" if self._state in (_State.NEW, _State.STARTING) else "lifespan-raised"
            self._report(rule, f"{type(error).__name__} {_WHEN[self._state]}", rules.LIFESPAN)
        elif self._state is _State.NEW:
            self._report("lifespan-ignored", "the application returned from the lifespan without a word")
        elif self._state is _State.RUNNING:
            self._report("lifespan-left", "the application returned before lifespan.shutdown")
        elif self._state is not _State.DONE:
            self._report("lifespan-unanswered", f"the application returned {_WHEN[self._state]}")
