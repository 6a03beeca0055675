"""baize: views on a router."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from baize.asgi import (
    FileResponse,
    JSONResponse,
    PlainTextResponse,
    Request,
    Response,
    Router,
    StreamResponse,
    request_response,
)
from baize.concurrency import run_in_threadpool

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
    data = await request.json
    return PlainTextResponse(data["name"])


async def count(request: Request) -> Response:
    return PlainTextResponse(str(await shared.count(request.stream())))


async def spool(request: Request) -> Response:
    return PlainTextResponse(str(await shared.spool(request.stream())))


async def form(request: Request) -> Response:
    return PlainTextResponse(str(len((await request.form).multi_items())))


async def form_upload(request: Request) -> Response:
    upload = (await request.form)["file"]
    try:
        return PlainTextResponse(str(upload.file.seek(0, 2)))
    finally:
        await upload.aclose()


async def kept(request: Request) -> Response:
    return PlainTextResponse(str(await shared.keep(request.stream())))


async def parts(request: Request) -> Response:
    return StreamResponse(shared.parts(), content_type="text/plain")


async def wait(request: Request) -> Response:
    await shared.gate.wait()
    return PlainTextResponse(shared.HELLO)


def work() -> str:
    return shared.HELLO


async def thread(request: Request) -> Response:
    return PlainTextResponse(await run_in_threadpool(work))


def filed(path: Callable[[], str]) -> Callable[[Request], Any]:
    async def view(request: Request) -> Response:
        return FileResponse(path())

    return view


VIEWS: dict[str, Callable[[Request], Any]] = {
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
    **{name: filed(path) for name, path in shared.FILES.items()},
}


def build(workload: str, variant: str) -> App | None:
    if workload not in VIEWS:
        return None
    return Router((f"/{workload}", request_response(VIEWS[workload])))
