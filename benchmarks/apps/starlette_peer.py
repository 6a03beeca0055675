"""Starlette: ``Request`` and ``Response`` alone ("pair"), and as an application with a route."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from .. import shared
from . import App


async def hello(request: Request) -> Response:
    return PlainTextResponse(shared.HELLO)


async def inspect(request: Request) -> Response:
    headers, query, cookies = request.headers, request.query_params, request.cookies
    return JSONResponse(
        shared.summary(
            [headers[name] for name in shared.HEADER_NAMES],
            [query[name] for name in shared.QUERY_NAMES],
            [cookies[name] for name in shared.COOKIE_NAMES],
        )
    )


async def json(request: Request) -> Response:
    data = await request.json()
    return PlainTextResponse(data["name"])


async def count(request: Request) -> Response:
    return PlainTextResponse(str(await shared.count(request.stream())))


async def spool(request: Request) -> Response:
    return PlainTextResponse(str(await shared.spool(request.stream())))


async def form(request: Request) -> Response:
    async with request.form() as form:
        return PlainTextResponse(str(len(form)))


async def form_upload(request: Request) -> Response:
    async with request.form() as form:
        upload: Any = form["file"]
        return PlainTextResponse(str(upload.size))


async def kept(request: Request) -> Response:
    return PlainTextResponse(str(await shared.keep(request.stream())))


async def parts(request: Request) -> Response:
    return StreamingResponse(shared.parts(), media_type="text/plain")


async def wait(request: Request) -> Response:
    await shared.gate.wait()
    return PlainTextResponse(shared.HELLO)


def thread(request: Request) -> Response:
    return PlainTextResponse(shared.HELLO)


def streamed(parts: Callable[[], Iterator[bytes]]) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        return StreamingResponse(parts(), media_type="text/plain")

    return endpoint


def filed(path: Callable[[], str]) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        return FileResponse(path())

    return endpoint


ENDPOINTS: dict[str, Callable[[Request], Any]] = {
    "hello": hello,
    "inspect": inspect,
    "json": json,
    "count": count,
    "spool": spool,
    "form": form,
    "form-upload": form_upload,
    "parts": parts,
    "wait": wait,
    "kept": kept,
    "thread": thread,
    **{name: streamed(parts) for name, parts in shared.GENERATORS.items()},
    **{name: filed(path) for name, path in shared.FILES.items()},
}


def build(workload: str, variant: str) -> App | None:
    endpoint = ENDPOINTS.get(workload)
    if endpoint is None:
        return None
    if variant == "app":
        return Starlette(routes=[Route(f"/{workload}", endpoint, methods=["GET", "POST"])])

    async def pair(scope: Any, receive: Any, send: Any) -> None:
        response = await endpoint(Request(scope, receive))
        await response(scope, receive, send)

    async def threaded_pair(scope: Any, receive: Any, send: Any) -> None:
        response = await run_in_threadpool(endpoint, Request(scope, receive))
        await response(scope, receive, send)

    return threaded_pair if workload == "thread" else pair
