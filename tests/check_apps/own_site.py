"""Small applications of ours for ``python -m asgicore check``: one for each path."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
from anyio.lowlevel import checkpoint

from asgicore import Handler, Request, Response, StreamingResponse


async def hello(request: Request) -> Response:
    return Response("Hello, world!")


async def echo(request: Request) -> Response:
    seen = [
        request.path,
        str(request.query_params.get("q")),
        str(sorted(request.cookies.items())),
        str(request.headers.get("x-forwarded-for")),
        str(request.headers.getall("x-probe", [])),
        request.url,
    ]
    return Response("\n".join(seen))


async def read(request: Request) -> Response:
    body = await request.body()
    return Response(f"{len(body)} bytes, {body[:20]!r}")


async def read_stream(request: Request) -> Response:
    size = 0
    async for part in request.stream():
        size += len(part)
    return Response(f"{size} bytes")


async def nothing(request: Request) -> Response:
    return Response(b"that nobody may have", status_code=204)


async def slow(request: Request) -> Response:
    await anyio.sleep_forever()
    raise AssertionError("for ever is over")


async def stream(request: Request) -> StreamingResponse:
    async def parts() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 1024
            await checkpoint()

    return StreamingResponse(parts())


async def sync_stream(request: Request) -> StreamingResponse:
    def parts() -> Iterator[bytes]:
        while True:
            yield b"x" * 65536

    return StreamingResponse(parts())


def blocking(request: Request) -> Response:
    time.sleep(0.05)
    return Response("slept")


PATHS: dict[str, Any] = {
    "/hello": Handler(hello),
    "/read": Handler(read),
    "/read-stream": Handler(read_stream, body="stream"),
    "/nothing": Handler(nothing),
    "/slow": Handler(slow),
    "/stream": Handler(stream),
    "/sync-stream": Handler(sync_stream),
    "/blocking": Handler(blocking),
}
_echo = Handler(echo)


async def app(scope: Any, receive: Any, send: Any) -> None:
    handler = PATHS.get(scope.get("path", ""), _echo)
    await handler(scope, receive, send)
