"""asgicore: ``Handler(endpoint)`` and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from asgicore import Endpoint, FileResponse, Handler, JSONResponse, Limits, Request, Response, StreamingResponse

from .. import shared
from . import App


async def hello(request: Request) -> Response:
    return Response(shared.HELLO)


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
    return Response(data["name"])


async def count(request: Request) -> Response:
    return Response(str(await shared.count(request.stream())))


async def spool(request: Request) -> Response:
    return Response(str(shared.read_back(await request.file())))


async def form(request: Request) -> Response:
    form = await request.form()
    return Response(str(len(form)))


async def form_upload(request: Request) -> Response:
    upload: Any = (await request.form())["file"]
    return Response(str(upload.size))


async def whole(request: Request) -> Response:
    return Response(shared.whole())


async def parts(request: Request) -> Response:
    return StreamingResponse(shared.parts())


async def wait(request: Request) -> Response:
    await shared.gate.wait()
    return Response(shared.HELLO)


async def kept(request: Request) -> Response:
    """The body is spooled before the endpoint runs; only its size is asked for."""
    file = await request.file()
    return Response(str(file.seek(0, 2)))


def thread(request: Request) -> Response:
    return Response(shared.HELLO)


def streamed(parts: Callable[[], Iterator[bytes]]) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        return StreamingResponse(parts())

    return endpoint


def filed(path: Callable[[], str]) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        return FileResponse(path())

    return endpoint


def nothing(*_: object) -> None:
    """An observer that has nothing to do."""


ENDPOINTS: dict[str, Endpoint] = {
    "hello": hello,
    "inspect": inspect,
    "json": json,
    "count": count,
    "spool": spool,
    "form": form,
    "form-upload": form_upload,
    "whole": whole,
    "parts": parts,
    "wait": wait,
    "kept": kept,
    "thread": thread,
    **{name: streamed(parts) for name, parts in shared.GENERATORS.items()},
    **{name: filed(path) for name, path in shared.FILES.items()},
}


def build(workload: str, variant: str) -> App | None:
    """``variant``: the defaults are "cancel"; "notify", "stream" and "observed" differ in one option each."""
    if variant == "stream" and workload not in ("hello", "inspect", "json", "form", "form-upload"):
        return None
    return Handler(
        ENDPOINTS[workload],
        # An upload that is counted as it comes needs no spool.
        body="stream" if variant == "stream" or workload == "count" else "spool",
        on_disconnect="notify" if variant == "notify" else "cancel",
        observe=nothing if variant == "observed" else (),
        limits=Limits(max_body_bytes=shared.LIMIT_BYTES),
    )
