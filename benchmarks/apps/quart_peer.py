"""Quart: view functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from quart import Quart, Response, request

from .. import shared
from . import App

TEXT = "text/plain"


async def hello() -> Response:
    return Response(shared.HELLO, content_type=TEXT)


async def inspect() -> dict[str, int]:
    headers, query, cookies = request.headers, request.args, request.cookies
    return shared.summary(
        [headers[name] for name in shared.HEADER_NAMES],
        [query[name] for name in shared.QUERY_NAMES],
        [cookies[name] for name in shared.COOKIE_NAMES],
    )


async def json() -> Response:
    data = await request.get_json()
    return Response(data["name"], content_type=TEXT)


async def count() -> Response:
    return Response(str(await shared.count(request.body)), content_type=TEXT)


async def spool() -> Response:
    return Response(str(await shared.spool(request.body)), content_type=TEXT)


async def kept() -> Response:
    return Response(str(await shared.keep(request.body)), content_type=TEXT)


async def parts() -> Any:
    return shared.parts(), {"content-type": TEXT}


async def wait() -> Response:
    await shared.gate.wait()
    return Response(shared.HELLO, content_type=TEXT)


def thread() -> Response:
    return Response(shared.HELLO, content_type=TEXT)


def streamed(parts: Callable[[], Iterator[bytes]]) -> Callable[[], Any]:
    async def view() -> Any:
        return parts(), {"content-type": TEXT}

    return view


VIEWS: dict[str, Any] = {
    "hello": hello,
    "inspect": inspect,
    "json": json,
    "count": count,
    "spool": spool,
    "parts": parts,
    "wait": wait,
    "kept": kept,
    "thread": thread,
    **{name: streamed(parts) for name, parts in shared.GENERATORS.items()},
}


def build(workload: str, variant: str) -> App | None:
    if workload not in VIEWS:
        return None
    app = Quart(__name__)
    app.config["MAX_CONTENT_LENGTH"] = shared.LIMIT_BYTES
    app.route(f"/{workload}", methods=["GET", "POST"])(VIEWS[workload])
    return app
