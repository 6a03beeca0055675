"""The response on the wire: the only caller of ``send``.

Source: ASGI HTTP specification 2.5, "Response Start", "Response Body"; RFC 9110 sections 6.4.1, 8.6, 9.3.2, 15.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from time import perf_counter
from typing import Any, Final

from anyio import move_on_after
from anyio.lowlevel import checkpoint

from ._headers import check_raw_headers, find
from ._state import RESPONSE, ResponseEvent, ResponseState
from .errors import ClientDisconnectedError, ContentLengthError, ResponseStateError, is_status
from .types import RawHeaders, Send

FAIR_SECONDS: Final = 0.004
"""Other tasks wait no longer than this for a client that takes everything at once."""

# The clock is looked at after this many bytes: for parts of 64 bytes that is every 64th.
_CLOCK_BYTES: Final = 4096

_IDLE = ResponseState.IDLE
_BODY = ResponseState.BODY
_DONE = ResponseState.DONE
_BROKEN = ResponseState.BROKEN

Chunks = Callable[[bytes], Iterable[tuple[bytes, bool]]]


def slice_bytes(data: bytes, size: int) -> Iterable[tuple[bytes, bool]]:
    """Cut ``data`` into (chunk, is_last) of at most ``size`` bytes; empty data gives one ``(b"", True)``."""
    last = max(len(data) - size, 0)
    position = 0
    while position < last:
        yield data[position : position + size], False
        position += size
    yield data[position:] if position else data, True


def has_no_body(status: int) -> bool:
    """Whether a response with this status has no body (RFC 9110 section 6.4.1)."""
    return status in (204, 304) or status < 200


class Writer:
    """Sends one response, in legal order, whatever the code above does.

    Called like ``send`` itself it takes ready-made messages and checks them; the engine uses :meth:`send_whole`
    and :meth:`send_stream`. A body that HEAD, 1xx, 204 or 304 forbid is not sent.

    Args:
        send: The server's channel. Nobody else may call it.
        head: Whether the request is a HEAD.
        chunk_size: Longest body message, in bytes.
        timeout_seconds: Longest wait for the server to take one message.
    """

    __slots__ = ("_chunk_size", "_head", "_left", "_length", "_send", "_silent", "closes_connection", "state")

    def __init__(
        self, send: Send, *, head: bool = False, chunk_size: int = 65536, timeout_seconds: float | None = None
    ) -> None:
        self._send = send if timeout_seconds is None else _with_timeout(send, timeout_seconds)
        self._head = head
        self._chunk_size = chunk_size
        self.state = _IDLE
        self.closes_connection = False
        # Known from the start on: whether the body is left out, what is declared, what of it is still to come.
        self._silent = False
        self._length: int | None = None
        self._left = 0

    closes_connection: bool
    """Whether to tell an HTTP/1 client that the connection ends here, because its body was refused."""

    @property
    def is_started(self) -> bool:
        """Whether anything was sent, so that an error cannot become a response any more."""
        return self.state is not _IDLE

    @property
    def is_open(self) -> bool:
        """Whether a body was begun whose length only its end tells."""
        return self.state is _BODY and self._length is None

    @property
    def is_broken(self) -> bool:
        """Whether a send failed: the client is gone."""
        return self.state is _BROKEN

    @property
    def is_done(self) -> bool:
        """Whether the final message was sent."""
        return self.state is _DONE

    async def __call__(self, message: Any) -> None:
        """Check one message and send it.

        Raises:
            ResponseStateError: ASGI does not allow it now, or does not know it.
            InvalidHeaderError: A header must not leave.
            ContentLengthError: The body gets longer than declared, or ends short of it.
            ClientDisconnectedError: The client left.
        """
        kind = message.get("type")
        if kind == "http.response.start":
            self._advance(ResponseEvent.START, kind)
            try:
                status, headers = message.get("status"), message.get("headers") or ()
                if not is_status(status):
                    raise ResponseStateError(f"the status of a response is an integer from 100 to 599, not {status!r}")
                headers = check_raw_headers(headers)
                self._begin(status, headers)
            except BaseException:
                self.state = _IDLE
                raise
            await self._put({**message, "headers": headers})
        elif kind == "http.response.body":
            body, more = bytes(message.get("body") or b""), bool(message.get("more_body", False))
            self._advance(ResponseEvent.PART if more else ResponseEvent.LAST_PART, kind)
            if self._silent:
                body = b""
            elif self._length is not None:
                self._count(len(body), not more)
            await self._put({"type": kind, "body": body, "more_body": more})
        else:
            raise ResponseStateError(f"{kind!r} is no message of an HTTP response")

    async def send_whole(
        self, status: int, headers: RawHeaders, size: int, chunks: Iterable[tuple[bytes, bool]]
    ) -> None:
        """Send a response whose body is there already.

        Args:
            status: The status, 100 to 599.
            headers: Checked fields.
            size: Length of the body in bytes.
            chunks: (chunk, is_last) pairs, the last one and only that with ``True``.

        Raises:
            ContentLengthError: ``headers`` declare another length; nothing was sent.
            ResponseStateError: A response was started before.
            ClientDisconnectedError: The client left.
        """
        headers = self._start(status, headers)
        if self._silent:
            chunks = ((b"", True),)
        elif self._length is not None and self._length != size:
            self.state = _IDLE
            raise ContentLengthError(self._length, size)
        await self._put({"type": "http.response.start", "status": status, "headers": headers})
        turned = 0.0
        for chunk, is_last in chunks:
            if is_last:
                self.state = _DONE
            elif (now := perf_counter()) - turned > FAIR_SECONDS:
                if turned:
                    await checkpoint()
                turned = now
            await self._put({"type": "http.response.body", "body": chunk, "more_body": not is_last})

    async def send_stream(self, status: int, headers: RawHeaders, parts: AsyncIterator[Any], chunks: Chunks) -> None:
        """Send a response whose body comes part by part; each is sent before the next is asked for.

        Args:
            status: The status, 100 to 599.
            headers: Checked fields; a ``content-length`` is held against what comes.
            parts: ``bytes`` or ``str`` (as UTF-8); empty ones are left out.
            chunks: Cuts a part that is longer than a body message.

        Raises:
            ContentLengthError: The body gets longer than declared (the excess is not sent), or ends short of it.
            ResponseStateError: A response was started before.
            ClientDisconnectedError: The client left.
            BaseException: What ``parts`` raises; the response is then not ended.
        """
        headers = self._start(status, headers)
        await self._put({"type": "http.response.start", "status": status, "headers": headers})
        if not self._silent:
            send = self._send
            counted = self._length is not None
            usual = 0 if counted else self._chunk_size
            room = _CLOCK_BYTES
            turned = perf_counter()
            async for part in parts:
                # The usual part, with as few operations as can be: for small parts they are most of the cost.
                if type(part) is bytes and 0 < (size := len(part)) <= usual:
                    try:
                        await send({"type": "http.response.body", "body": part, "more_body": True})
                    except OSError as exc:
                        raise self._break() from exc
                    room -= size
                    if room > 0:
                        continue
                else:
                    await self._send_part(part, chunks)
                    room -= 64
                    if room > 0:
                        continue
                room = _CLOCK_BYTES
                if perf_counter() - turned > FAIR_SECONDS:
                    await checkpoint()
                    turned = perf_counter()
            if counted:
                self._count(0, True)
        self.state = _DONE
        await self._put({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_part(self, part: Any, chunks: Chunks) -> None:
        if isinstance(part, str):
            part = part.encode()
        elif isinstance(part, bytearray | memoryview):
            part = bytes(part)
        elif not isinstance(part, bytes):
            raise TypeError(f"a streaming response takes parts of bytes or str, not {type(part).__name__}")
        if not part:
            return
        if self._length is not None:
            self._count(len(part), False)
        for chunk, _ in chunks(part):
            await self._put({"type": "http.response.body", "body": chunk, "more_body": True})

    def _start(self, status: int, headers: RawHeaders) -> RawHeaders:
        if self.state is not _IDLE:
            self._advance(ResponseEvent.START, "http.response.start")
        self._begin(status, headers)
        self.state = _BODY
        return [*headers, (b"connection", b"close")] if self.closes_connection else headers

    def _begin(self, status: int, headers: RawHeaders) -> None:
        """Learn from the head what may follow it."""
        self._silent = self._head or has_no_body(status)
        declared = find(headers, b"content-length")
        if declared is not None and not self._silent:
            self._length = self._left = int(declared)

    def _count(self, size: int, is_last: bool) -> None:
        length = self._length or 0
        if size > self._left or (is_last and size < self._left):
            raise ContentLengthError(length, length - self._left + size)
        self._left -= size

    def _advance(self, event: ResponseEvent, kind: str) -> None:
        state = RESPONSE[self.state].get(event)
        if state is None:
            if self.state is _BROKEN:
                raise ClientDisconnectedError
            raise ResponseStateError(f"{kind} may not be sent {_WHEN[self.state]}")
        self.state = state

    async def _put(self, message: dict[str, Any]) -> None:
        try:
            await self._send(message)
        except OSError as exc:
            raise self._break() from exc

    def _break(self) -> ClientDisconnectedError:
        """A send failed: the client left (ASGI 2.4, "Disconnect"), whatever kind of ``OSError`` it is."""
        self.state = _BROKEN
        return ClientDisconnectedError("the client disconnected while the response was sent")


_WHEN: Final = {
    _IDLE: "before http.response.start",
    _BODY: "after http.response.start",
    _DONE: "after the response has ended",
}


def _with_timeout(send: Send, seconds: float) -> Send:
    async def send_within(message: Any) -> None:
        with move_on_after(seconds) as scope:
            await send(message)
        if scope.cancelled_caught:
            raise TimeoutError(f"the server did not take a message within {seconds:g} seconds (send_timeout_seconds)")

    return send_within
