"""What requests and responses that are built apart, on one channel, have to know of each other.

Source: ASGI specification, "Applications": what is added to a scope has a name of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from types import MethodType
from typing import Any, Final, cast
from weakref import WeakMethod, ref

from .types import Receive, Scope

__all__ = ["NOTED", "TAPPED", "Channel", "find_channel", "is_read"]

NOTED: Final = "asgicore.channel"
"""Where a scope has what is known of its channel."""

TAPPED: Final = "asgicore_tapped"
"""Where a ``receive`` that only looks on has the one that it looks at."""


class Channel:
    """One ``receive``, of which two must not take messages; noted in the scope and in copies made of it since."""

    __slots__ = ("_noted", "_reader", "is_answered", "is_read")

    def __init__(self, receive: Receive) -> None:
        self._noted = _refer(receive)
        self.is_read = False
        """Whether a request has begun to read the body."""
        self.is_answered = False
        """Whether a response was begun."""
        self._reader: ref[Any] | None = None

    def is_of(self, receive: Receive) -> bool:
        """Whether this is about that ``receive``: middleware may have put another one in its place."""
        return self._noted() == receive

    @property
    def reader(self) -> Any:
        """The ``Body`` that takes the messages; ``None`` if there is none, or nobody uses it any more."""
        return None if self._reader is None else self._reader()

    @reader.setter
    def reader(self, body: Any) -> None:
        self._reader = ref(body)  # weak: a body knows its scope


def _refer(receive: Receive) -> Callable[[], Receive | None]:
    """A weak reference, where there can be one: to a server, ``receive`` is mostly what knows the scope."""
    if isinstance(receive, MethodType):
        return WeakMethod(receive)
    try:
        return ref(receive)
    except TypeError:
        return lambda: receive


def find_channel(scope: Scope, receive: Receive) -> Channel:
    """What is known of this channel; noted from now on, where the scope can be added to."""
    receive = getattr(receive, TAPPED, receive)
    channel = scope.get(NOTED)
    if not isinstance(channel, Channel) or not channel.is_of(receive):
        channel = Channel(receive)
        with suppress(TypeError):
            cast("dict[str, Any]", scope)[NOTED] = channel
    return channel


def is_read(scope: Scope, receive: Receive) -> bool:
    """Whether a request on this channel has begun to read the body; of a scope that has something noted."""
    channel = scope[NOTED]
    return isinstance(channel, Channel) and channel.is_read and channel.is_of(getattr(receive, TAPPED, receive))
