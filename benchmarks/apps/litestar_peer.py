"""Litestar: route handlers with declared data and media types."""

# No postponed annotations: Litestar evaluates them.
from collections.abc import Callable, Iterator
from typing import Any

from litestar import Litestar, MediaType, Request, get, post
from litestar.response import File, Stream

from .. import shared
from . import App


@get("/hello", media_type=MediaType.TEXT)
async def hello() -> str:
    return shared.HELLO


@get("/inspect")
async def inspect(request: Request[Any, Any, Any]) -> dict[str, int]:
    headers, query, cookies = request.headers, request.query_params, request.cookies
    return shared.summary(
        [headers[name] for name in shared.HEADER_NAMES],
        [query[name] for name in shared.QUERY_NAMES],
        [cookies[name] for name in shared.COOKIE_NAMES],
    )


@post("/json", media_type=MediaType.TEXT, status_code=200)
async def json(data: dict[str, Any]) -> str:
    name: str = data["name"]
    return name


@post("/count", media_type=MediaType.TEXT, status_code=200)
async def count(request: Request[Any, Any, Any]) -> str:
    return str(await shared.count(request.stream()))


@post("/spool", media_type=MediaType.TEXT, status_code=200)
async def spool(request: Request[Any, Any, Any]) -> str:
    return str(await shared.spool(request.stream()))


@post("/kept", media_type=MediaType.TEXT, status_code=200)
async def kept(request: Request[Any, Any, Any]) -> str:
    return str(await shared.keep(request.stream()))


@get("/parts")
async def parts() -> Stream:
    return Stream(shared.parts(), media_type="text/plain")


@get("/wait", media_type=MediaType.TEXT)
async def wait() -> str:
    await shared.gate.wait()
    return shared.HELLO


@get("/thread", media_type=MediaType.TEXT, sync_to_thread=True)
def thread() -> str:
    return shared.HELLO


def streamed(path: str, parts: Callable[[], Iterator[bytes]]) -> Any:
    @get(path)
    async def endpoint() -> Stream:
        return Stream(parts(), media_type="text/plain")

    return endpoint


def filed(path: str, name: Callable[[], str]) -> Any:
    @get(path)
    async def endpoint() -> File:
        return File(name(), content_disposition_type="inline")

    return endpoint


HANDLERS: dict[str, Any] = {
    "hello": hello,
    "inspect": inspect,
    "json": json,
    "count": count,
    "spool": spool,
    "parts": parts,
    "wait": wait,
    "kept": kept,
    "thread": thread,
    **{name: streamed(f"/{name}", parts) for name, parts in shared.GENERATORS.items()},
    **{name: filed(f"/{name}", path) for name, path in shared.FILES.items()},
}


def build(workload: str, variant: str) -> App | None:
    if workload not in HANDLERS:
        return None
    return Litestar([HANDLERS[workload]], openapi_config=None, request_max_body_size=shared.LIMIT_BYTES)
