"""Starlette around a Handler, and responses that its endpoints return.

What happened is appended to the file that ``WIRE_EVENTS`` names, as by ``wire.site``.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from typing import Any

import anyio
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request as StarletteRequest
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

from asgicore import Handler, HTTPError, JSONResponse, Request, Response, StreamingResponse

_events = os.open(os.environ.get("WIRE_EVENTS", os.devnull), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def record(ident: str, what: str) -> None:
    os.write(_events, f"{ident} {what}\n".encode())


async def ticks(ident: str) -> AsyncIterator[bytes]:
    try:
        while True:
            yield b"tick\n"
            await anyio.sleep(0.01)
    finally:
        record(ident, "closed")


# --- a handler -----------------------------------------------------------------------------------------------


async def mounted(request: Request) -> Response:
    match request.path_info:
        case "/where":
            return JSONResponse([request.root_path, request.path_info])
        case "/ticks":
            return StreamingResponse(ticks(request.query_params["id"]))
        case "/digest":
            digest = hashlib.sha256()
            async for part in request.stream():
                digest.update(part)
            return Response(digest.hexdigest())
        case "/hinted":
            was_hinted = await request.send_early_hints("</style.css>; rel=preload; as=style")
            response: Response = StreamingResponse(iter([b"hinted: ", str(was_hinted).encode()]))
            response.set_trailers(["x-checksum"], lambda: {"x-checksum": "17"})
            return response
        case _:
            raise HTTPError(404)


# --- responses -----------------------------------------------------------------------------------------------


async def hello(request: StarletteRequest) -> Any:
    response = Response(b"Hello!", background=lambda: record(request.query_params.get("id", "-"), "background"))
    response.set_etag()
    return response


async def stream(request: StarletteRequest) -> Any:
    return StreamingResponse(ticks(request.query_params["id"]))


async def echo(scope: Any, receive: Any, send: Any) -> None:
    request = Request(scope, receive, send)
    await StreamingResponse(request.stream(), content_type="application/octet-stream")(scope, receive, send)


class Echo:
    """An instance, which Starlette takes for an ASGI application."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await echo(scope, receive, send)


async def broken(request: StarletteRequest) -> Any:
    class Broken(Response):
        async def prepare(self, scope: Any) -> Response:
            raise LookupError("excused")

    return Broken()


async def chat(websocket: WebSocket) -> None:
    # Starlette's own types of scopes and messages are narrower than those of ASGI.
    response: Any = Response(b"log in first", 401)
    await response(websocket.scope, websocket._receive, websocket._send)


class Passing(BaseHTTPMiddleware):
    async def dispatch(self, request: StarletteRequest, call_next: Any) -> Any:
        return await call_next(request)


app = Starlette(
    routes=[
        Route("/", hello),
        Route("/stream", stream),
        Route("/echo", Echo()),
        Route("/broken", broken),
        Route("/robots.txt", Response("User-agent: *")),
        Mount("/spooled", app=Handler(mounted)),
        Mount("/streamed", app=Handler(mounted, body="stream")),
        Mount("/passed", app=Handler(mounted), middleware=[Middleware(Passing)]),
        WebSocketRoute("/chat", chat),
    ]
)
