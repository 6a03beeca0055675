"""The response on the wire: the only caller of ``send``.

Source: ASGI HTTP specification 2.5, "Response Start", "Response Body"; ASGI specification, "Extensions"; RFC 9110
sections 6.4.1, 6.5, 8.6, 9.3.2, 15.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Container, Iterable, Mapping, Sequence
from inspect import isawaitable
from time import perf_counter
from typing import Any, Final, cast

from anyio import move_on_after
from anyio.lowlevel import checkpoint

from ._chunks import Chunks, as_part, start_thread_of
from ._extensions import (
    DEBUG,
    EARLY_HINT,
    PATHSEND,
    TRAILERS,
    ZEROCOPYSEND,
    check_trailer_name,
    encode_links,
    encode_trailers,
)
from ._grammar import CONTENT_LENGTH
from ._headers import check_raw_headers, find, find_all
from ._state import RESPONSE, ResponseEvent, ResponseState
from ._watch import FAIR_SECONDS
from .errors import (
    ClientDisconnectedError,
    ContentLengthError,
    InvalidHeaderError,
    ResponseStateError,
    is_status,
)
from .types import HeadersInput, RawHeaders, Send

# The clock is looked at after this many bytes, of which each part costs some however short it is: for parts of 64 bytes
# that is every 32nd, for parts of one byte every 42nd.
_CLOCK_BYTES: Final = 8192
_PART_BYTES: Final = 192

_IDLE = ResponseState.IDLE
_BODY = ResponseState.BODY
TRAILING = ResponseState.TRAILERS
DONE = ResponseState.DONE
_BROKEN = ResponseState.BROKEN

Trailers = tuple[tuple[bytes, ...], Callable[[], HeadersInput | Awaitable[HeadersInput]]]
"""The names that are declared before the body, and what gives the fields after it."""

# RFC 9110 section 6.4.1: these have no body, and neither has 1xx.
_BODILESS: Final = (204, 205, 304)

_CLOSE: Final = (b"connection", b"close")


def _without_content(headers: RawHeaders) -> RawHeaders:
    """The head of a 205: unlike 204 and 304 it is not framed as empty by its status (RFC 9110 section 15.3.6)."""
    return [*(field for field in headers if field[0].lower() != b"content-length"), (b"content-length", b"0")]


class Writer:
    """Sends one response, in legal order, whatever the code above does.

    Called like ``send`` itself it takes ready-made messages and checks them; the engine uses ``send_whole()``
    and ``send_stream()``. A body that HEAD, 1xx, 204, 205 or 304 forbid is not sent.

    Args:
        send: The server's channel. Nobody else may call it.
        head: Whether the request is a HEAD.
        chunk_size: Longest body message, in bytes.
    """

    # Defaults live in the class: what most responses never change costs them nothing to set.
    state: ResponseState = _IDLE
    closes_connection: bool = False
    """Whether to tell an HTTP/1 client that the connection ends here, because its body was refused."""
    keeps_case: bool = False
    """Whether header names of ready-made messages go out as they are."""
    extensions: Container[str] = ()
    """The ASGI extensions that the server offers."""
    trailers: Trailers | None = None
    """To be sent after the body, which then goes out by ``send_stream()`` or ``send_trailed()``."""
    # Known from the start on: whether the body is left out, what is declared, what of it is still to come.
    _silent: bool = False
    _length: int | None = None
    _left: int = 0
    _is_start_taken: bool = False
    _is_between: bool = False
    _is_counted: bool = True
    _is_trailing: bool = False
    _is_debugged: bool = False
    _turned: float = 0.0

    def __init__(self, send: Send, head: bool = False, chunk_size: int = 65536) -> None:
        self._send = send
        self._head = head
        self._chunk_size = chunk_size

    @property
    def is_started(self) -> bool:
        """Whether anything was sent, so that an error cannot become a response any more."""
        return self.state is not _IDLE

    @property
    def is_open(self) -> bool:
        """Whether the start was taken, and only the final message, which may be sent now, tells where the body ends."""
        return self.state is _BODY and self._is_start_taken and self._length is None and not self._is_between

    @property
    def is_broken(self) -> bool:
        """Whether a send failed: the client is gone."""
        return self.state is _BROKEN

    @property
    def is_done(self) -> bool:
        """Whether the final message was sent."""
        return self.state is DONE

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
            following = self._after(ResponseEvent.START, kind)
            status, headers = message.get("status"), message.get("headers") or ()
            headers = check_raw_headers(headers, self.keeps_case)
            if not is_status(status):
                raise ResponseStateError(f"the status of a response is an integer from 100 to 599, not {status!r}")
            self._begin(status, headers)
            if status == 204 or status < 200:
                # RFC 9110 section 8.6: these have none.
                headers = [field for field in headers if field[0].lower() != b"content-length"]
            elif status == 205:
                headers = _without_content(headers)
            self.state = following
            if self.closes_connection:
                headers.append(_CLOSE)
            message = {**message, "headers": headers}
            if message.pop("trailers", False) and TRAILERS in self.extensions:
                self._is_trailing = True
                if not self._silent:
                    message["trailers"] = True
            await self._put(message)
            self._is_start_taken = True
        elif kind == "http.response.body":
            body, more = message.get("body") or b"", bool(message.get("more_body", False))
            if not isinstance(body, (bytes, bytearray, memoryview)):
                raise TypeError(f"the body of a message is bytes, not {type(body).__name__}")
            body = bytes(cast("bytes", body))
            following = self._after(ResponseEvent.PART if more else self._last_part, kind)
            if self._silent:
                body = b""
            elif self._length is not None:
                self._count(len(body), not more)
            self.state = following
            await self._put({"type": kind, "body": body, "more_body": more})
            if perf_counter() - self._turned > FAIR_SECONDS:
                await checkpoint()
                self._turned = perf_counter()
        else:
            await self._send_extension(message, kind)

    async def _send_extension(self, message: Any, kind: Any) -> None:
        """Check a message of an ASGI extension and send it."""
        if kind not in (DEBUG, EARLY_HINT, PATHSEND, TRAILERS, ZEROCOPYSEND):
            raise ResponseStateError(f"{kind!r} is no message of an HTTP response")
        if kind not in self.extensions:
            raise ResponseStateError(f"this server does not take {kind}; look at the extensions of the scope first")
        if kind == DEBUG:
            self._after(ResponseEvent.START, kind)
            if self._is_debugged:
                raise ResponseStateError(f"{kind} may be sent once")
            self._is_debugged = True
        elif kind == EARLY_HINT:
            self._after(ResponseEvent.HINTS, kind)
            links = check_raw_headers([(b"link", link) for link in message.get("links") or ()])
            message = {**message, "links": [link for _, link in links]}
        elif kind == TRAILERS:
            is_last = not message.get("more_trailers", False)
            following = self._after(ResponseEvent.LAST_TRAILERS if is_last else ResponseEvent.TRAILERS, kind)
            headers = check_raw_headers(message.get("headers") or ())
            for name, _ in headers:
                check_trailer_name(name)
            message = {**message, "headers": headers}
            self.state = following
            if self._silent:
                return  # as after a GET, and nothing is there that it could follow
        else:
            more = kind == ZEROCOPYSEND and bool(message.get("more_body", False))
            following = self._after(ResponseEvent.PART if more else self._last_part, kind)
            if self._silent:
                message = {"type": "http.response.body", "body": b"", "more_body": more}
            elif self._length is not None:
                count = message.get("count")
                if kind == ZEROCOPYSEND and isinstance(count, int):
                    self._count(count, not more)
                else:  # as much as the file has, which the server knows
                    self._is_counted = False
            self.state = following
        await self._put(message)

    async def send_early_hints(self, links: Iterable[str]) -> bool:
        """Send a 103 with these ``link`` fields ahead of the response (RFC 8297).

        Returns:
            Whether it was sent: ``False`` if there are no links, the server does not offer it, or the response was
            started.

        Raises:
            InvalidHeaderError: A link must not leave.
            ClientDisconnectedError: The client left.
        """
        encoded = encode_links(links)
        if not encoded or EARLY_HINT not in self.extensions or self.state is not _IDLE:
            return False
        await self._put({"type": EARLY_HINT, "links": encoded})
        return True

    async def send_debug(self, info: Mapping[str, Any]) -> None:
        """Tell a test client about the response that follows, where the server is one."""
        if DEBUG in self.extensions and self.state is _IDLE and not self._is_debugged:
            self._is_debugged = True
            await self._put({"type": DEBUG, "info": dict(info)})

    async def send_whole(self, status: int, headers: RawHeaders, body: bytes, chunks: Chunks | None) -> None:
        """Send a response whose body is there already.

        Args:
            status: The status, 100 to 599.
            headers: Checked fields; a ``content-length`` agrees with ``body`` unless that is empty.
            body: The whole body.
            chunks: Cuts it into (chunk, is_last) pairs; ``None`` if it goes out in one message.

        Raises:
            ContentLengthError: The body is empty, but a length is declared that only HEAD and 304 may have.
            ResponseStateError: A response was started before.
            ClientDisconnectedError: The client left.
        """
        if self.state is not _IDLE:
            self._after(ResponseEvent.START, "http.response.start")
        if self._head or status in _BODILESS or status < 200:
            body, chunks = b"", None
            if status == 205:
                headers = _without_content(headers)
        elif not body and int(find(headers, b"content-length") or 0):
            raise ContentLengthError(int(find(headers, b"content-length") or 0), 0)
        self.state = _BODY
        self._length = len(body)
        if self.closes_connection:
            headers = [*headers, _CLOSE]
        send = self._send
        try:
            await send({"type": "http.response.start", "status": status, "headers": headers})
        except OSError as exc:
            raise self._break() from exc
        if chunks is not None:
            body = await self._send_chunks(chunks(body))
        self.state = DONE
        try:
            await send({"type": "http.response.body", "body": body, "more_body": False})
        except OSError as exc:
            raise self._break() from exc

    async def _send_chunks(self, chunks: Iterable[tuple[bytes, bool]]) -> bytes:
        """Send all chunks but the last one, which is returned."""
        send = self._send
        turned = perf_counter()
        for chunk, is_last in chunks:
            if is_last:
                return chunk
            try:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            except OSError as exc:
                raise self._break() from exc
            if perf_counter() - turned > FAIR_SECONDS:
                await checkpoint()
                turned = perf_counter()
        raise ResponseStateError("chunk_bytes gave no last chunk; its last pair must be (chunk, True)")

    async def send_stream(
        self,
        status: int,
        headers: RawHeaders,
        parts: AsyncIterator[Any],
        chunks: Chunks,
        *,
        cuts_all: bool = False,
    ) -> None:
        """Send a response whose body comes part by part; each is sent before the next is asked for.

        Args:
            status: The status, 100 to 599.
            headers: Checked fields; a ``content-length`` is held against what comes.
            parts: ``bytes`` or ``str`` (as UTF-8); empty ones are left out. If it has a ``start_thread()``, that
                is called when a body is wanted and nothing was sent yet, so that what it raises can be answered.
            chunks: Cuts a part that is longer than a body message.
            cuts_all: Whether it cuts every part.

        Raises:
            ContentLengthError: The body gets longer than declared (the excess is not sent), or ends short of it.
            ResponseStateError: A response was started before.
            ClientDisconnectedError: The client left.
            BaseException: What ``parts`` raises; the response is then not ended.
        """
        self._open(status, headers)
        if not self._silent:
            start_thread_of(parts)
        await self._send_start(status, headers)
        if not self._silent:
            send = self._send
            counted = self._length is not None
            turned = perf_counter()
            usual = 0 if counted or cuts_all else min(_CLOCK_BYTES, self._chunk_size)
            room = usual
            largest = 0 if cuts_all else self._chunk_size
            async for part in parts:
                # The usual part, with as few operations as can be: for small parts they are most of the cost.
                # One that is empty, large, due to be counted or to have the clock looked at takes the other way.
                if type(part) is bytes and part:
                    room -= len(part) + _PART_BYTES
                    if room > 0:
                        try:
                            await send({"type": "http.response.body", "body": part, "more_body": True})
                        except OSError as exc:
                            raise self._break() from exc
                        continue
                if type(part) is bytes and 0 < len(part) <= largest:
                    # As _send_part() does it, in half the time: files come in such parts.
                    if counted:
                        self._count(len(part), False)
                    try:
                        await send({"type": "http.response.body", "body": part, "more_body": True})
                    except OSError as exc:
                        raise self._break() from exc
                else:
                    await self._send_part(part, chunks, cuts_all)
                room = usual
                if perf_counter() - turned > FAIR_SECONDS:
                    await checkpoint()
                    turned = perf_counter()
            if counted:
                self._count(0, True)
        await self._send_last({"type": "http.response.body", "body": b"", "more_body": False})

    async def send_between(self, part: bytes) -> None:
        """Send a part while ``send_stream()`` waits for its next one, which it must not get before this ends.

        Raises:
            ClientDisconnectedError: The client left.
        """
        self._is_between = True
        try:
            await self._put({"type": "http.response.body", "body": part, "more_body": True})
        finally:
            self._is_between = False

    async def send_trailed(self, status: int, headers: RawHeaders, body: bytes, chunks: Chunks) -> None:
        """As ``send_whole()``, with ``trailers`` after the body."""
        self._open(status, headers)
        await self._send_start(status, headers)
        body = b"" if self._silent else await self._send_chunks(chunks(body))
        await self._send_last({"type": "http.response.body", "body": body, "more_body": False})

    async def send_path(self, status: int, headers: RawHeaders, path: str) -> None:
        """Send a response whose body is a whole file, which the server reads.

        Args:
            status: The status, 100 to 599.
            headers: Checked fields.
            path: The absolute path of the file.

        Raises:
            ResponseStateError: A response was started before.
            ClientDisconnectedError: The client left.

        Source: ASGI extension "http.response.pathsend".
        """
        self._open(status, headers)
        await self._send_start(status, headers)
        if self._silent:
            await self._send_last({"type": "http.response.body", "body": b"", "more_body": False})
        else:
            await self._send_last({"type": PATHSEND, "path": path})

    async def send_segments(
        self, status: int, headers: RawHeaders, file: Any, segments: Sequence[bytes | tuple[int, int]]
    ) -> None:
        """Send a response made of pieces of an open file, which the server reads.

        Args:
            status: The status, 100 to 599.
            headers: Checked fields.
            file: A binary file with a descriptor, open until this returns.
            segments: ``bytes`` as they are, and (offset, count) in bytes within the file.

        Raises:
            ContentLengthError: They are not as long as declared; nothing was sent.
            ResponseStateError: A response was started before.
            ClientDisconnectedError: The client left.

        Source: ASGI extension "http.response.zerocopysend".
        """
        self._open(status, headers)
        if self._length is not None:
            self._count(sum(len(part) if isinstance(part, bytes) else part[1] for part in segments), True)
        await self._send_start(status, headers)
        if not self._silent:
            for segment in segments:
                if isinstance(segment, bytes):
                    await self._put({"type": "http.response.body", "body": segment, "more_body": True})
                elif segment[1]:  # to some systems, none is all that follows
                    offset, count = segment
                    await self._put(
                        {"type": ZEROCOPYSEND, "file": file, "offset": offset, "count": count, "more_body": True}
                    )
        await self._send_last({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_last(self, message: dict[str, Any]) -> None:
        """Send the final message of the body, and the trailers."""
        if not self._is_trailing:
            self.state = DONE
            await self._put(message)
            return
        self.state = TRAILING
        await self._put(message)
        names, compute = cast("Trailers", self.trailers)
        fields = compute()
        headers = encode_trailers(await fields if isawaitable(fields) else fields, names)
        self.state = DONE
        await self._put({"type": TRAILERS, "headers": headers, "more_trailers": False})

    async def _send_part(self, part: Any, chunks: Chunks, cuts_all: bool) -> None:
        part = as_part(part)
        if not part:
            return
        if self._length is not None:
            self._count(len(part), False)
        if cuts_all or len(part) > self._chunk_size:
            part = await self._send_chunks(chunks(part))
        await self._put({"type": "http.response.body", "body": part, "more_body": True})

    def _open(self, status: int, headers: RawHeaders) -> None:
        if self.state is not _IDLE:
            self._after(ResponseEvent.START, "http.response.start")
        self._begin(status, headers)

    async def _send_start(self, status: int, headers: RawHeaders) -> None:
        self.state = _BODY
        if status == 205:
            headers = _without_content(headers)
        if self.closes_connection:
            headers = [*headers, _CLOSE]
        message: dict[str, Any] = {"type": "http.response.start", "status": status, "headers": headers}
        if self.trailers is not None and not self._silent:
            # HTTP/1.1 has room for trailers after a chunked body alone.
            message["headers"] = [
                *(field for field in headers if field[0] != b"content-length"),
                (b"trailer", b", ".join(self.trailers[0])),
            ]
            self._is_trailing = message["trailers"] = True
        await self._put(message)
        self._is_start_taken = True

    def _begin(self, status: int, headers: RawHeaders) -> None:
        """Learn from the head what may follow it."""
        self._silent = self._head or status in _BODILESS or status < 200
        declared = set(find_all(headers, b"content-length"))
        if len(declared) > 1 or not all(map(CONTENT_LENGTH.fullmatch, declared)):
            raise InvalidHeaderError("content-length", "not one number of bytes")
        # Set in any case: another response may have come this far, and no further.
        self._length = int(declared.pop()) if declared and not self._silent else None
        self._left = self._length or 0

    def _count(self, size: int, is_last: bool) -> None:
        length = self._length or 0
        if not self._is_counted:
            return
        if size > self._left or (is_last and size < self._left):
            raise ContentLengthError(length, length - self._left + size)
        self._left -= size

    @property
    def _last_part(self) -> ResponseEvent:
        return ResponseEvent.LAST_PART_BEFORE_TRAILERS if self._is_trailing else ResponseEvent.LAST_PART

    def _after(self, event: ResponseEvent, kind: str) -> ResponseState:
        """The state that the event leads to, if it is legal now."""
        state = RESPONSE[self.state].get(event)
        if state is None:
            if self.state is _BROKEN:
                raise ClientDisconnectedError
            raise ResponseStateError(f"{kind} may not be sent {_WHEN[self.state]}")
        return state

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
    TRAILING: "after the body: trailers follow",
    DONE: "after the response has ended",
}


def limit_send(send: Send, seconds: float) -> Send:
    """``send`` that raises ``TimeoutError`` when the server does not take a message within ``seconds``."""

    async def send_within(message: Any) -> None:
        with move_on_after(seconds) as scope:
            await send(message)
        if scope.cancelled_caught:
            raise TimeoutError(f"the server did not take a message within {seconds:g} seconds (send_timeout_seconds)")

    return send_within


def tap_send(send: Send, before: Callable[[Any], Any] | None, after: Callable[[Any], None]) -> Send:
    """``send`` whose messages go through ``before``; ``after`` gets those that the server has taken."""

    async def send_tapped(message: Any) -> None:
        if before is not None:
            message = before(message)
        await send(message)
        after(message)

    return send_tapped
