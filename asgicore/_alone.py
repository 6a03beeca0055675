"""A response served by itself: inside of another framework, or of a bare ASGI application."""

from __future__ import annotations

from typing import Any

from ._body import Body
from ._exchange import Exchange
from ._handler import Handler
from ._response import Response
from ._threads import SHARED
from .errors import HTTPError, ServerProtocolError
from .types import Receive, Scope, Send

__all__ = ["serve_alone"]


class _Alone(Handler):
    """The engine around a response that is there already.

    The request was accepted by whoever calls, so that its head is not checked; and what fails is the caller's to
    answer.
    """

    def __init__(self, response: Response) -> None:
        super().__init__(body="stream", threads=SHARED)
        self._response = response

    def create_request(self, scope: Scope, body: Body) -> tuple[Any, Response | None]:
        return None, None

    async def run_get_response(self, request: Any) -> Response:
        return self._response

    def _answer(self, exchange: Exchange, exc: Exception) -> Response:
        if isinstance(exc, HTTPError):  # the response's own way of saying 404 or 412
            return super()._answer(exchange, exc)
        raise exc


async def serve_alone(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    """Send ``response`` to the request of ``scope``.

    Raises:
        ServerProtocolError: The scope is not that of an HTTP request.
        BaseException: What making or sending the response raises.
    """
    if scope.get("type") != "http":
        raise ServerProtocolError(f"a response answers an http scope, not {scope.get('type')!r}")
    await _Alone(response).handle(scope, receive, send)
