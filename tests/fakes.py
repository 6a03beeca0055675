"""An ASGI server without sockets: scripted ``receive``, recording ``send``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import anyio

Message = dict[str, Any]

EMPTY: Message = {"type": "http.request", "body": b"", "more_body": False}
DISCONNECT: Message = {"type": "http.disconnect"}


def http_scope(**changes: Any) -> dict[str, Any]:
    """A scope as servers give it, with ``changes``; a change to ``...`` removes the key."""
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"testserver"), (b"user-agent", b"fake")],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
        "state": {},
    }
    scope.update(changes)
    return {key: value for key, value in scope.items() if value is not ...}


def body_messages(*parts: bytes) -> list[Message]:
    """``http.request`` messages with these parts, the last one ending the body."""
    parts = parts or (b"",)
    return [
        {"type": "http.request", "body": part, "more_body": index < len(parts) - 1} for index, part in enumerate(parts)
    ]


_ENDS = ("http.response.body", "http.response.pathsend", "http.response.zerocopysend")


def _ends(message: Message, *, trails: bool) -> bool:
    """Whether a server has the whole response with this message."""
    if message["type"] == "http.response.trailers":
        return not message.get("more_trailers")
    return message["type"] in _ENDS and not message.get("more_body") and not trails


class Channel:
    """Both channels of one connection.

    Args:
        messages: What ``receive`` gives, in order; after them it waits until the response is complete or
            ``disconnect()`` is called, then gives ``http.disconnect``, as servers do.
        suspend: Whether every ``receive`` and ``send`` gives up the loop once.
        on_send: Called with (index, message) before a message is recorded; may raise or wait.
    """

    def __init__(
        self,
        messages: Iterable[Message] = (EMPTY,),
        *,
        suspend: bool = False,
        on_send: Callable[[int, Message], Awaitable[None]] | None = None,
    ) -> None:
        self._messages = iter(messages)
        self._suspend = suspend
        self._on_send = on_send
        self._gone = anyio.Event()
        self._receiving = False
        self._trails = False
        self.received = 0
        self.sent: list[Message] = []

    async def receive(self) -> Message:
        assert not self._receiving, "two readers of receive()"
        self._receiving = True
        try:
            if self._suspend:
                await anyio.lowlevel.checkpoint()
            for message in self._messages:
                self.received += 1
                return message
            await self._gone.wait()
            return DISCONNECT
        finally:
            self._receiving = False

    async def send(self, message: Message) -> None:
        if self._suspend:
            await anyio.lowlevel.checkpoint()
        if self._on_send is not None:
            await self._on_send(len(self.sent), message)
        self.sent.append(message)
        self._trails = self._trails or bool(message.get("trailers"))
        if _ends(message, trails=self._trails):
            self._gone.set()

    def disconnect(self) -> None:
        self._gone.set()

    @property
    def status(self) -> int:
        status: int = self.sent[0]["status"]
        return status

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        headers: list[tuple[bytes, bytes]] = self.sent[0]["headers"]
        return headers

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.sent[1:])


async def call(app: Any, messages: Iterable[Message] = (EMPTY,), **scope: Any) -> Channel:
    """Run one request to its end; the channel holds what was sent. Bounded by five seconds."""
    channel = Channel(messages)
    with anyio.fail_after(5):
        await app(http_scope(**scope), channel.receive, channel.send)
    return channel
