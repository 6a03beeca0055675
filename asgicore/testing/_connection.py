"""The server's end of one exchange: the ``receive`` and ``send`` that the application gets, as a server makes them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, NamedTuple

from anyio import CancelScope, Event, get_cancelled_exc_class, to_thread
from anyio.lowlevel import checkpoint

from .._headers import find
from ..types import RawHeaders
from ._faults import Fault, FaultKind
from ._requests import Message, cut_body
from ._servers import CancelledReceive, Server

__all__ = ["BODY", "PATHSEND", "START", "TRAILERS", "ZEROCOPYSEND", "Connection", "Sent", "receive_as"]

START: Final = "http.response.start"
BODY: Final = "http.response.body"
TRAILERS: Final = "http.response.trailers"
PATHSEND: Final = "http.response.pathsend"
ZEROCOPYSEND: Final = "http.response.zerocopysend"
EARLY_HINT: Final = "http.response.early_hint"
DEBUG: Final = "http.response.debug"
PUSH: Final = "http.response.push"

_PARTS: Final = (BODY, PATHSEND, ZEROCOPYSEND)
_KINDS: Final = (START, *_PARTS, TRAILERS, EARLY_HINT, DEBUG, PUSH)

# An application that never waits gives up the loop once it is so many messages ahead, so that the test has its turn.
_AHEAD: Final = 64


class Sent(NamedTuple):
    """A message that the server took."""

    message: Message
    part: bytes
    """What it adds to the body: of a file its bytes."""


class Connection:
    """Both channels of one exchange.

    Args:
        server: How they behave.
        scope: The scope of the request; its extensions are what ``send`` takes.
        window: How many messages ``send`` takes ahead of the test; ``None``: any number.
        window_bytes: The same in bytes of body.
        fault: What goes wrong.
        on_start: Called with the header fields of the response.
    """

    def __init__(
        self,
        server: Server,
        scope: Mapping[str, Any],
        *,
        window: int | None,
        window_bytes: int | None,
        fault: Fault | None,
        on_start: Callable[[RawHeaders], None],
    ) -> None:
        self.server = server
        self._extensions: frozenset[str] = frozenset(scope.get("extensions") or ())
        self._is_head = scope.get("method") == "HEAD"
        self._window = window
        self._window_bytes = window_bytes
        self._fault = fault
        self._on_start = on_start
        self._changed = Event()
        # towards the application
        self._incoming: deque[Message] = deque()
        self.is_request_whole: bool = False
        self._is_told = False
        self.receives: int = 0
        self.readers: int = 0
        self.most_readers: int = 0
        # from the application
        self.outgoing: deque[Sent] = deque()
        self._outgoing_bytes = 0
        self._held: Sent | None = None
        self.start: Message | None = None
        self._length: int | None = None
        self._is_body_ended = False
        self.is_complete: bool = False
        self.sends: int = 0
        self.senders: int = 0
        self._passed = 0
        self.has_left: bool = False
        self.is_closed: bool = False

    # --- the test's side

    async def change(self) -> None:
        """Wait for anything to happen here."""
        await self._changed.wait()

    def notify(self) -> None:
        """Wake whoever waits for a change."""
        self._changed.set()
        self._changed = Event()

    def add_body(self, part: bytes | str, more: bool) -> None:
        """Let the application receive this part of the body."""
        for message in cut_body(part, more, self.server):
            self.add_message(message)
        if not more:
            self.is_request_whole = True

    def add_message(self, message: Message) -> None:
        """Let the application receive this message."""
        self._incoming.append(message)
        self.notify()

    @property
    def unreceived(self) -> int:
        """How many messages the application has not received yet."""
        return len(self._incoming)

    def leave(self) -> None:
        """The client leaves."""
        self.has_left = True
        self.notify()

    def close(self) -> None:
        """No call waits for the test from now on."""
        self.is_closed = self.has_left = True
        self.notify()

    def answer_500(self) -> None:
        """Answer for an application that ended without a response, as servers do."""
        if self.start is None:
            text = b"Internal Server Error"
            fields = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(text))]
            self.start = {"type": START, "status": 500, "headers": fields}
            self._put(Sent(self.start, b""))
            self._put(Sent({"type": BODY, "body": text, "more_body": False}, text))
            self.is_complete = True

    def take(self) -> Sent:
        """The oldest message that the test has not seen yet."""
        sent = self.outgoing.popleft()
        self._outgoing_bytes -= len(sent.part)
        self.notify()
        return sent

    # --- receive

    async def receive(self) -> Message:
        """Give the application its next message."""
        self.receives += 1
        self._fail("receive", self.receives)
        self.readers += 1
        self.most_readers = max(self.most_readers, self.readers)
        try:
            message = await receive_as(self.server.cancelled_receive, self._next_message)
        finally:
            self.readers -= 1
        self._pass()
        return message

    async def _next_message(self) -> Message:
        if self.server.suspends:
            await checkpoint()
        while not self._incoming:
            if self.is_closed or self._tells():
                self._is_told = True
                return {"type": "http.disconnect"}
            await self.change()
        message = self._incoming.popleft()
        self.notify()
        return message

    def _tells(self) -> bool:
        if self._is_told and not self.server.repeats_disconnect:
            return False
        if self.has_left:
            return self.server.tells_disconnect
        return self.is_complete and self.server.disconnects_after_response

    # --- send

    async def send(self, message: Mapping[str, Any]) -> None:
        """Take a message of the application."""
        self.sends += 1
        self._fail("send", self.sends)
        self.senders += 1
        try:
            if self.server.suspends:
                await checkpoint()
            if self.has_left:
                await self._send_to_nobody()
                return
            copy = dict(message)
            if self._accept(copy):
                await self._take(copy)
        finally:
            self.senders -= 1

    async def _send_to_nobody(self) -> None:
        if self.server.send_after_disconnect == "raise":
            raise ConnectionResetError("the client has left")
        while self.server.send_after_disconnect == "wait":
            await self.change()
        # An application that sends without end must not keep the loop for itself.
        await checkpoint()

    def _accept(self, message: Message) -> bool:
        """Whether the server takes this message.

        Raises:
            Exception: It refuses it.
        """
        kind = message.get("type")
        if self.is_complete:
            if self.server.after_end is not None:
                raise self.server.after_end(f"{kind} came after the response was complete")
            return False
        problem = self._problem(kind, message)
        if problem and self.server.illegal is not None:
            raise self.server.illegal(problem)
        return True

    def _problem(self, kind: Any, message: Message) -> str | None:
        if kind not in _KINDS:
            return f"{kind!r} is no message of an HTTP response"
        if kind not in (START, BODY) and kind not in self._extensions:
            return f"the scope does not offer {kind}"
        if kind == START:
            if self.start is not None:
                return "http.response.start came twice"
            if self.server.needs_headers and "headers" not in message:
                return "http.response.start came without headers"
        elif kind in _PARTS:
            if self.start is None:
                return f"{kind} came before http.response.start"
            if self._is_body_ended:
                return f"{kind} came after the end of the body"
        elif kind == TRAILERS:
            if not self._is_body_ended:
                return "trailers came before the end of the body"
        elif kind in (EARLY_HINT, DEBUG) and self.start is not None:
            return f"{kind} came after http.response.start"
        return None

    async def _take(self, message: Message) -> None:
        kind = message["type"]
        part = await self._part_of(kind, message)
        if kind == START and self.start is None:
            # An iterator can be read once.
            message["headers"] = fields = [(bytes(name), bytes(value)) for name, value in message.get("headers", ())]
            self.start = message
            length = find(fields, b"content-length")
            if length is not None and not self._is_head and message["status"] not in (204, 304):
                self._length = int(length)
            self._on_start(fields)
        elif kind in _PARTS:
            is_last = kind == PATHSEND or not message.get("more_body", False)
            part = self._measure(part, is_last)
            if is_last:
                self._is_body_ended = True
                trails = self.start is not None and self.start.get("trailers", False)
                self.is_complete = not (trails and TRAILERS in self._extensions)
        elif kind == TRAILERS and self._is_body_ended:
            self.is_complete = not message.get("more_trailers", False)
        self._put(Sent(message, part))
        self._pass()
        await self._wait_for_room()

    async def _part_of(self, kind: str, message: Message) -> bytes:
        if kind in (PATHSEND, ZEROCOPYSEND):
            return await to_thread.run_sync(_read_file, message)
        if kind != BODY:
            return b""
        body: Any = message.get("body", b"")
        if self.server.needs_bytes and not isinstance(body, bytes):
            raise TypeError(f"body is bytes, not {type(body).__name__}")
        return bytes(body)

    def _measure(self, part: bytes, is_last: bool) -> bytes:
        """Hold the body against the declared length; what is left of ``part``."""
        how = self.server.wrong_length
        if self._length is None or how == "send":
            return part
        if how == "error" and (len(part) > self._length or (is_last and len(part) < self._length)):
            raise (self.server.illegal or RuntimeError)(
                f"the body is {'longer' if len(part) > self._length else 'shorter'} than its content-length"
            )
        part = part[: self._length]
        self._length -= len(part)
        return part

    def _put(self, sent: Sent) -> None:
        if self.server.holds_start and sent.message is self.start:
            self._held = sent
            return
        if self._held is not None:
            self.outgoing.append(self._held)
            self._held = None
        self.outgoing.append(sent)
        self._outgoing_bytes += len(sent.part)
        self.notify()

    async def _wait_for_room(self) -> None:
        while self._is_full:
            if self.has_left:
                await self._send_to_nobody()
                return
            await self.change()
        if len(self.outgoing) > _AHEAD:
            await checkpoint()

    @property
    def _is_full(self) -> bool:
        if self._window is not None and len(self.outgoing) > self._window:
            return True
        return self._window_bytes is not None and self._outgoing_bytes > self._window_bytes

    # --- faults

    def _fail(self, kind: FaultKind, number: int) -> None:
        fault = self._fault
        if fault is not None and fault.kind == kind and number >= fault.at:
            fault.happened = True
            raise fault.error

    def _pass(self) -> None:
        self._passed += 1
        fault = self._fault
        if fault is not None and fault.kind == "disconnect" and self._passed >= fault.at:
            fault.happened = True
            self.leave()


async def receive_as(how: CancelledReceive, next_message: Callable[[], Awaitable[Message]]) -> Message:
    """Await the next message; ``how`` tells what becomes of a cancellation."""
    if how == "raise":
        # Also where it is thrown away without an event loop, whose cancellations have no class then.
        return await next_message()
    try:
        return await next_message()
    except get_cancelled_exc_class():
        if how == "error":
            raise RuntimeError("receive() was cancelled") from None
        if how == "wait":
            with CancelScope(shield=True):
                return await next_message()
        return {"type": "http.disconnect"}


def _read_file(message: Message) -> bytes:
    """What a server sends for a path or a file; it reads the file while ``send`` waits."""
    if message["type"] == PATHSEND:
        with open(message["path"], "rb") as file:
            return file.read()
    given = message["file"]
    descriptor: int = given if isinstance(given, int) else given.fileno()
    offset, count = message.get("offset"), message.get("count")
    if count is None:
        count = os.fstat(descriptor).st_size
    return os.read(descriptor, count) if offset is None else os.pread(descriptor, count, offset)
