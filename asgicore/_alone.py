"""A response served by itself: inside of another framework, or of a bare ASGI application.

Source: ASGI specification, "Extensions", "Websocket Denial Response".
"""

from __future__ import annotations

import logging
from typing import Any, Final

from ._body import Body
from ._channel import Channel, find_channel
from ._exchange import Exchange
from ._handler import Handler
from ._headers import list_headers
from ._lifespan import as_http, is_connecting, offers_denial, refuse_websocket
from ._response import Response
from ._threads import SHARED
from ._watch import run_shielded
from .errors import ClientDisconnectedError, HTTPError, ServerProtocolError
from .limits import Limits
from .types import Message, Receive, Scope, Send

__all__ = ["serve_alone"]

logger = logging.getLogger("asgicore")


class _Answered(dict[str, Any]):
    """A scope with the response that was made to it already."""

    __slots__ = ("channel", "response")

    def __init__(self, scope: Scope, response: Response, channel: Channel) -> None:
        super().__init__(scope)
        if type(scope.get("headers")) is not list:
            # The specification allows any iterable, and an iterator can be read once.
            self["headers"] = list_headers(scope.get("headers"))
        self.response = response
        self.channel = channel


class _Alone(Handler):
    """The engine around responses that are there already.

    The request was accepted by whoever calls, so that neither its head nor its body is checked; and what fails is the
    caller's to answer.
    """

    def _import_late(self) -> None:
        """Made when the package is imported; a response alone is asked for nothing."""

    def create_request(self, scope: Any, body: Body) -> tuple[Response, None]:
        if scope.channel.reader is None:
            scope.channel.reader = body
        return scope.response, None

    async def run_get_response(self, request: Response) -> Response:
        return request

    def _answer(self, exchange: Exchange, exc: Exception) -> Response:
        if isinstance(exc, HTTPError):  # the response's own way of saying 404 or 412
            return super()._answer(exchange, exc)
        raise exc


# One for all of them: a handler keeps nothing of a request.
_ALONE: Final = _Alone(body="stream", threads=SHARED, limits=Limits(max_body_bytes=None, body_timeout_seconds=None))


async def serve_alone(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    """Send ``response`` to the request of ``scope``.

    Raises:
        ServerProtocolError: The scope is neither that of an HTTP request nor of a websocket.
        BaseException: What making or sending the response raises.
    """
    kind = scope.get("type")
    if kind == "websocket":
        await _deny(response, scope, receive, send)
    elif kind == "http":
        channel = find_channel(scope, receive)
        channel.is_answered = True
        answered = _Answered(scope, response, channel)
        if channel.reader is None:
            await _ALONE.handle(answered, receive, send)
        else:
            await _serve_beside(channel.reader, answered, send)
    else:
        raise ServerProtocolError(f"a response answers an http or websocket scope, not {kind!r}")


async def _serve_beside(reader: Body, scope: _Answered, send: Send) -> None:
    """Send a response where a request, of which it may be made, reads the channel."""

    async def receive_disconnect() -> Message:
        await reader.listen()
        return {"type": "http.disconnect"}

    try:
        await _ALONE.handle(scope, receive_disconnect, send)
    except Exception as exc:
        if not reader.is_disconnected:
            raise
        # The request was told, and the response only of what came of it.
        level = logging.DEBUG if isinstance(exc, ClientDisconnectedError) else logging.INFO
        logger.log(level, "the client left, then %s was raised", type(exc).__name__, exc_info=exc)


async def _deny(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    """Send ``response`` in place of accepting a websocket, or close that where the server does not offer more."""
    is_taken = False
    try:
        if not offers_denial(scope):
            await refuse_websocket(scope, receive, send)
            logger.debug("this server sends no response to a websocket: closed")
        elif await is_connecting(receive):
            is_taken = True
            scope, receive, send = as_http(scope, receive, send)
            await _ALONE.handle(_Answered(scope, response, Channel(receive)), receive, send)
    finally:
        if not is_taken:
            await run_shielded(_ALONE._close_unseen(response), _ALONE.limits.close_timeout_seconds)
