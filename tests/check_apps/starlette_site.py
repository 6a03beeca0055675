"""A small Starlette application."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route


async def hello(request: Request) -> Response:
    return PlainTextResponse("Hello, world!")


async def echo(request: Request) -> Response:
    seen = [request.url.path, str(request.cookies), str(request.headers.get("x-forwarded-for"))]
    return PlainTextResponse("\n".join(seen))


async def read(request: Request) -> Response:
    return PlainTextResponse(f"{len(await request.body())} bytes")


async def read_twice(request: Request) -> Response:
    size = len(await request.body())
    again = Request(request.scope, request.receive)
    return PlainTextResponse(f"{size} and {len(await again.body())} bytes")


async def read_polling(request: Request) -> Response:
    size = 0
    async for part in request.stream():
        size += len(part)
        await request.is_disconnected()
    return PlainTextResponse(f"{size} bytes")


async def wait_polling(request: Request) -> Response:
    while not await request.is_disconnected():
        await asyncio.sleep(0.005)
    return PlainTextResponse("nobody is there")


def sync_wait(request: Request) -> Response:
    time.sleep(1.5)
    return PlainTextResponse("at last")


async def reflect(request: Request) -> Response:
    return PlainTextResponse("next", headers={"x-next": request.query_params.get("next", "-")})


async def nothing(request: Request) -> Response:
    return Response(b"that nobody may have", status_code=204)


async def slow(request: Request) -> Response:
    await asyncio.sleep(60)
    return PlainTextResponse("at last")


async def stream(request: Request) -> Response:
    async def parts() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 1024
            await asyncio.sleep(0)

    return StreamingResponse(parts())


async def sync_stream(request: Request) -> Response:
    def parts() -> Iterator[bytes]:
        while True:
            yield b"x" * 1024

    return StreamingResponse(parts())


METHODS = ["GET", "POST"]
app = Starlette(
    routes=[
        Route("/hello", hello, methods=METHODS),
        Route("/read", read, methods=METHODS),
        Route("/read-twice", read_twice, methods=METHODS),
        Route("/read-polling", read_polling, methods=METHODS),
        Route("/wait-polling", wait_polling, methods=METHODS),
        Route("/sync-wait", sync_wait, methods=METHODS),
        Route("/reflect", reflect, methods=METHODS),
        Route("/nothing", nothing, methods=METHODS),
        Route("/slow", slow, methods=METHODS),
        Route("/stream", stream, methods=METHODS),
        Route("/sync-stream", sync_stream, methods=METHODS),
        Route("/{path:path}", echo, methods=METHODS),
    ]
)
