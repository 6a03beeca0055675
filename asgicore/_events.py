"""Server-sent events as a response.

Source: WHATWG HTML Living Standard, section 9.2 "Server-sent events"; RFC 9111 section 5.2.2.5 for ``no-store``.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable
from functools import partial
from math import isfinite
from typing import Any, ClassVar, Final, TypeAlias, cast

from ._headers import find
from ._pump import Pump, Put, iterate
from ._response import Background
from ._responses import encode_json
from ._sse import ServerSentEvent, build_event, build_message
from ._streaming_response import StreamingResponse
from ._threads import Threads
from .errors import InvalidHeaderError
from .types import HeadersInput

__all__ = ["EventSourceResponse", "EventsInput"]

EventsInput: TypeAlias = (
    AsyncIterable[ServerSentEvent]
    | AsyncIterable[str]
    | AsyncIterable[ServerSentEvent | str]
    | Iterable[ServerSentEvent]
    | Iterable[str]
    | Iterable[ServerSentEvent | str]
)
"""An asynchronous or synchronous iterable of ``ServerSentEvent`` or ``str``, which is an event's data."""

# A comment, which clients ignore (section 9.2.7), and a blank line, so that a client has nothing of it left.
_PING: Final = b": ping\n\n"

_DEFAULTS: Final = (
    # An event that comes from a cache is none.
    (b"cache-control", b"no-store"),
    # nginx gathers a response before it passes any of it on, unless it is told not to.
    (b"x-accel-buffering", b"no"),
)


class EventSourceResponse(StreamingResponse):
    """Server-sent events, for a browser's ``EventSource`` and its like.

    Each event goes out at once, as a message of its own. It is sent as ``text/event-stream`` with ``cache-control:
    no-store`` and ``x-accel-buffering: no``; fields of your own come in their place.

    Args:
        content: An asynchronous or synchronous iterable of ``ServerSentEvent``, or of ``str``: an event's data.
        status_code: As for ``Response``. Clients stay with 200 alone; 204 tells them to reconnect no more.
        headers: As for ``Response``.
        ping_seconds: A comment is sent when nothing else was for so long, so that no proxy takes the connection for
            dead, and a client that left without a word is noticed. ``None``: none is.
        retry_milliseconds: How long the client waits before it reconnects; sent before the first event.
        background: As for ``Response``.

    Raises:
        TypeError: ``content`` is no iterable, or is there as a whole.
        ValueError: ``ping_seconds`` or ``retry_milliseconds`` is out of range.
        InvalidHeaderError: As for ``Response``; also for ``content-length``: a stream of events has none.
    """

    __slots__ = ("_opening",)

    default_content_type: ClassVar[str | None] = "text/event-stream"

    def __init__(
        self,
        content: EventsInput,
        status_code: int = 200,
        headers: HeadersInput | None = None,
        *,
        ping_seconds: float | None = 15.0,
        retry_milliseconds: int | None = None,
        background: Background | None = None,
    ) -> None:
        super().__init__(cast("Any", content), status_code, headers, background=background)
        raw = self._raw
        if find(raw, b"content-length") is not None:
            raise InvalidHeaderError("content-length", "a stream of events has none")
        raw += [field for field in _DEFAULTS if find(raw, field[0]) is None]
        if ping_seconds is not None and not (isfinite(ping_seconds) and ping_seconds > 0):
            raise ValueError(f"ping_seconds takes seconds above 0, or None for no pings, not {ping_seconds!r}")
        self.keep_alive: tuple[float, bytes] | None = None if ping_seconds is None else (ping_seconds, _PING)
        self._opening = b"" if retry_milliseconds is None else _encode(ServerSentEvent(retry=retry_milliseconds))

    def _iterate(self, content: AsyncIterable[Any] | Iterable[Any], threads: Threads) -> AsyncIterator[bytes | str]:
        if isinstance(content, AsyncIterable):
            return _Events(aiter(content), self._opening)
        return Pump(threads, partial(_produce, content, self._opening))


def _encode(item: object) -> bytes:
    if isinstance(item, str):
        return build_message(item)
    if isinstance(item, ServerSentEvent):
        return build_event(item, encode_json)
    raise TypeError(
        f"a stream of events takes ServerSentEvent or str, not {type(item).__name__}; "
        "for data as JSON, give it ServerSentEvent(data)"
    )


class _Events:
    """The events of an asynchronous iterator, as they are sent."""

    __slots__ = ("_iterator", "_next", "_opening")

    def __init__(self, iterator: AsyncIterator[Any], opening: bytes) -> None:
        self._iterator = iterator
        self._next = iterator.__anext__
        self._opening = opening

    def __aiter__(self) -> _Events:
        return self

    async def __anext__(self) -> bytes:
        if self._opening:
            opening, self._opening = self._opening, b""
            return opening
        return _encode(await self._next())

    async def aclose(self) -> None:
        close = getattr(self._iterator, "aclose", None)
        if close is not None:
            await close()


class _Encoded:
    """Puts the events of a synchronous iterable as they are sent; in its worker thread."""

    __slots__ = ("_put",)

    def __init__(self, put: Put) -> None:
        self._put = put

    def __call__(self, item: Any, /) -> None:
        self._put(_encode(item))

    @property
    def is_closed(self) -> bool:
        return self._put.is_closed


def _produce(content: Iterable[Any], opening: bytes, put: Put) -> None:
    try:
        if opening and not put.is_closed:
            put(opening)
    finally:
        # Closes the iterable, too, where nobody takes anything any more.
        iterate(content, _Encoded(put))
