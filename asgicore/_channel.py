"""What requests and responses that are built apart, on one channel, have to know of each other.

Source: ASGI specification, "Applications": what is added to a scope has a name of its own.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final, cast
from weakref import ref

from .types import Receive, Scope

__all__ = ["Channel", "find_channel"]

_KEY: Final = "asgicore.channel"


class Channel:
    """One ``receive``, of which two must not take messages; noted in the scope and in copies made of it since."""

    __slots__ = ("_reader", "is_answered", "is_read", "receive")

    def __init__(self, receive: Receive) -> None:
        self.receive = receive
        self.is_read = False
        """Whether a request has begun to read the body."""
        self.is_answered = False
        """Whether a response was begun."""
        self._reader: ref[Any] | None = None

    @property
    def reader(self) -> Any:
        """The :class:`Body` that takes the messages; ``None`` if there is none, or nobody uses it any more."""
        return None if self._reader is None else self._reader()

    @reader.setter
    def reader(self, body: Any) -> None:
        self._reader = ref(body)  # weak: a body knows its scope


def find_channel(scope: Scope, receive: Receive) -> Channel:
    """What is known of this channel; noted from now on, where the scope can be added to."""
    channel = scope.get(_KEY)
    # Middleware may have put another receive() in place of the one that this is about.
    if not isinstance(channel, Channel) or channel.receive != receive:
        channel = Channel(receive)
        with suppress(TypeError):
            cast("dict[str, Any]", scope)[_KEY] = channel
    return channel
