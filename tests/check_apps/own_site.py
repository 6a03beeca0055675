"""Small applications of ours for ``python -m asgicore check``: one for each path."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
from anyio.lowlevel import checkpoint

from asgicore import (
    EventSourceResponse,
    FileResponse,
    Handler,
    HTTPError,
    InvalidHeaderError,
    Request,
    Response,
    StreamingResponse,
)


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


async def read_twice(request: Request) -> Response:
    size = len(await request.body())
    return Response(f"{size} and {len(await request.body())} bytes")


async def read_polling(request: Request) -> Response:
    size = 0
    async for part in request.stream():
        size += len(part)
        assert not request.is_disconnected
    return Response(f"{size} bytes")


async def wait_polling(request: Request) -> Response:
    while not request.is_disconnected:
        await anyio.sleep(0.005)
    return Response("nobody is there")


def sync_wait(request: Request) -> Response:
    while not request.is_disconnected:
        time.sleep(0.005)
    return Response("nobody is there")


async def reflect(request: Request) -> Response:
    try:
        return Response("next", headers={"x-next": str(request.query_params.get("next", "-"))})
    except InvalidHeaderError as exc:
        raise HTTPError(400) from exc


async def file(request: Request) -> FileResponse:
    return FileResponse(__file__)


async def events(request: Request) -> EventSourceResponse:
    async def parts() -> AsyncIterator[str]:
        while True:
            yield "tick"
            await checkpoint()

    return EventSourceResponse(parts())


def plain(request: Request) -> Response:
    return Response("Hello, world!")


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
    "/read-twice": Handler(read_twice),
    "/read-polling": Handler(read_polling, body="stream"),
    "/wait-polling": Handler(wait_polling, on_disconnect="notify"),
    "/sync-wait": Handler(sync_wait),
    "/reflect": Handler(reflect),
    "/file": Handler(file),
    "/events": Handler(events),
    "/plain": Handler(plain),
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
