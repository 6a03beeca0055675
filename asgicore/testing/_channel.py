"""Both channels of one connection, scripted: for middleware and bare ASGI functions, without a client in between.

A ``Connection`` acts as one server does: it refuses, measures, holds back and forgets what is sent. A channel does
none of that. It gives what it was told to give, and keeps what it gets, in the same objects.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, Literal

from anyio import Event, fail_after
from anyio.lowlevel import checkpoint

from ..types import RawHeaders
from ._connection import BODY, PATHSEND, START, TRAILERS, ZEROCOPYSEND, receive_as
from ._exchange import App
from ._requests import Message, http_scope
from ._servers import CancelledReceive

__all__ = ["DISCONNECT", "EMPTY", "Channel", "body_messages", "call"]

EMPTY: Final[Message] = {"type": "http.request", "body": b"", "more_body": False}
"""The one message of a request without a body."""

DISCONNECT: Final[Message] = {"type": "http.disconnect"}
"""The client has left, or the response is complete."""

_CALL_SECONDS: Final = 5


def body_messages(*parts: bytes) -> list[Message]:
    """A request body: one ``http.request`` for each part, the last of which ends it."""
    last = len(parts) - 1
    return [{"type": "http.request", "body": part, "more_body": index < last} for index, part in enumerate(parts)] or [
        EMPTY
    ]


class Channel:
    """What a server gives an application for one request, and what it gets.

    ::

        channel = Channel(body_messages(b"one", b"two"))
        await app(http_scope("POST", "/"), channel.receive, channel.send)
        assert channel.status == 200

    ``send`` takes every message, legal or not, as often as it is called; ``check_messages()`` tells what is wrong
    with them. One task at a time may be within ``receive``.

    Args:
        messages: What ``receive`` gives, one after the other, each taken from the iterable when it is asked for. After
            them it waits until the response is complete or ``disconnect()`` is called, and gives ``http.disconnect``
            then, again and again.
        suspends: Whether each ``receive`` and ``send`` gives up the event loop once.
        on_receive: Awaited with the index of each message to come, before ``receive`` has it; may wait or raise.
        on_send: Awaited with the index of each message and the message, before that is kept; may wait or raise.
        tells: How the application gets to know that the client has left. ``"event"``: ``receive`` gives
            ``http.disconnect``. ``"raise"``: ``send`` raises ``ConnectionResetError``. ``"both"``. ``"nothing"``.
        when_cancelled: What a cancelled ``receive`` does, as ``Server.cancelled_receive``.
    """

    sent: list[Message]
    """What ``send`` has taken."""
    sends: int
    """How often ``send`` was called."""
    received: int
    """How many of the messages ``receive`` has given."""
    told: Event
    """Set when ``receive`` has given ``http.disconnect``."""
    has_left: bool
    """Whether ``disconnect()`` was called."""

    def __init__(
        self,
        messages: Iterable[Message] = (EMPTY,),
        *,
        suspends: bool = False,
        on_receive: Callable[[int], Awaitable[object]] | None = None,
        on_send: Callable[[int, Message], Awaitable[object]] | None = None,
        tells: Literal["event", "raise", "both", "nothing"] = "event",
        when_cancelled: CancelledReceive = "raise",
    ) -> None:
        self.sent = []
        self.sends = 0
        self.received = 0
        self.told = Event()
        self.has_left = False
        self._messages = iter(messages)
        self._suspends = suspends
        self.on_receive = on_receive
        self.on_send = on_send
        self._tells = tells
        self._when_cancelled: CancelledReceive = when_cancelled
        self._gone = Event()
        self._is_receiving = False
        self._has_trailers = False

    def disconnect(self) -> None:
        """The client leaves."""
        self.has_left = True
        if self._tells in ("event", "both"):
            self._gone.set()

    async def receive(self) -> Message:
        """Give the application its next message."""
        assert not self._is_receiving, "receive() is called while another call of it waits"
        self._is_receiving = True
        try:
            message = await receive_as(self._when_cancelled, self._next_message)
        finally:
            self._is_receiving = False
        if message == DISCONNECT:
            self.told.set()
        return message

    async def _next_message(self) -> Message:
        if self._suspends:
            await checkpoint()
        if self.on_receive is not None:
            await self.on_receive(self.received)
        for message in self._messages:
            self.received += 1
            return message
        await self._gone.wait()
        return DISCONNECT

    async def send(self, message: Message) -> None:
        """Take a message of the application."""
        self.sends += 1
        if self.has_left and self._tells in ("raise", "both"):
            raise ConnectionResetError("the client has left")
        if self._suspends:
            await checkpoint()
        if self.on_send is not None:
            await self.on_send(len(self.sent), message)
        self.sent.append(message)
        self._has_trailers = self._has_trailers or bool(message.get("trailers"))
        if self._ends(message):
            self._gone.set()

    def _ends(self, message: Message) -> bool:
        """Whether the response is complete with this message."""
        if message["type"] == TRAILERS:
            return not message.get("more_trailers")
        is_part = message["type"] in (BODY, PATHSEND, ZEROCOPYSEND)
        return is_part and not message.get("more_body") and not self._has_trailers

    @property
    def status(self) -> int:
        """The status of the response."""
        status: int = self._start["status"]
        return status

    @property
    def headers(self) -> RawHeaders:
        """The header fields of the response, as they were sent."""
        headers: RawHeaders = self._start.get("headers", [])
        return headers

    @property
    def body(self) -> bytes:
        """All parts of the response, but for files that were left to the server."""
        return b"".join(message.get("body", b"") for message in self.sent)

    @property
    def _start(self) -> Message:
        for message in self.sent:
            if message["type"] == START:
                return message
        raise AssertionError("no response was started")


async def call(app: App, messages: Iterable[Message] = (EMPTY,), **scope: Any) -> Channel:
    """Make one request of an application, until that has returned, within five seconds.

    Args:
        app: Any ASGI application.
        messages: What it receives, as for ``Channel``.
        **scope: Changes to the scope, as for ``http_scope()``.

    Returns:
        The channel, with what was sent.

    Raises:
        TimeoutError: The application did not return.
        BaseException: What it raises.
    """
    channel = Channel(messages)
    with fail_after(_CALL_SECONDS):
        await app(http_scope(**scope), channel.receive, channel.send)
    return channel
