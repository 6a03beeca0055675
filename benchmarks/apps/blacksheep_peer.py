"""BlackSheep: routes on the application's router."""

from __future__ import annotations

from blacksheep import Application, Content, Request, Response, Router, StreamedContent, text
from blacksheep import json as json_response

from .. import shared
from . import App


async def hello() -> Response:
    return text(shared.HELLO)


async def inspect(request: Request) -> Response:
    query, cookies = request.query, request.cookies
    return json_response(
        shared.summary(
            [request.get_first_header(name.encode()).decode() for name in shared.HEADER_NAMES],  # type: ignore[union-attr]
            [query[name][0] for name in shared.QUERY_NAMES],
            [cookies[name] for name in shared.COOKIE_NAMES],
        )
    )


async def json(request: Request) -> Response:
    data = await request.json()
    return text(data["name"])


async def count(request: Request) -> Response:
    return text(str(await shared.count(request.stream())))  # type: ignore[arg-type]


async def spool(request: Request) -> Response:
    return text(str(await shared.spool(request.stream())))  # type: ignore[arg-type]


async def kept(request: Request) -> Response:
    return text(str(await shared.keep(request.stream())))  # type: ignore[arg-type]


async def whole() -> Response:
    return Response(200, content=Content(b"application/octet-stream", shared.whole()))


async def parts() -> Response:
    return Response(200, content=StreamedContent(b"text/plain", shared.parts))


async def wait() -> Response:
    await shared.gate.wait()
    return text(shared.HELLO)


HANDLERS = {
    "hello": hello,
    "inspect": inspect,
    "json": json,
    "count": count,
    "spool": spool,
    "whole": whole,
    "parts": parts,
    "wait": wait,
    "kept": kept,
}


def build(workload: str, variant: str) -> App | None:
    if workload not in HANDLERS:
        return None
    app = Application(router=Router())
    add = app.router.post if workload in ("json", "count", "spool", "kept") else app.router.get
    add(f"/{workload}")(HANDLERS[workload])
    return app
