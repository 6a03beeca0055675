"""Emmett55: routes, with the JSON service where JSON goes out."""

from __future__ import annotations

import atexit
from tempfile import TemporaryDirectory
from typing import Any

from emmett55 import App as Emmett
from emmett55 import request, response
from emmett55.tools import service

from .. import shared
from . import App

# An application makes folders for logs and static files where it is.
_root = TemporaryDirectory(prefix="benchmarks-")
atexit.register(_root.cleanup)


async def hello() -> str:
    return shared.HELLO


async def inspect() -> dict[str, int]:
    headers, query, cookies = request.headers, request.query_params, request.cookies
    return shared.summary(
        [headers[name] for name in shared.HEADER_NAMES],
        [query[name] for name in shared.QUERY_NAMES],
        [cookies[name].value for name in shared.COOKIE_NAMES],
    )


async def json() -> Any:
    params = await request.body_params
    return params.name


async def count() -> str:
    return str(await shared.count(request.body))


async def spool() -> str:
    return str(await shared.spool(request.body))


async def kept() -> str:
    return str(await shared.keep(request.body))


async def parts() -> Any:
    return response.wrap_aiter(shared.parts())


async def wait() -> str:
    await shared.gate.wait()
    return shared.HELLO


ROUTES = {
    "hello": hello,
    "inspect": inspect,
    "json": json,
    "count": count,
    "spool": spool,
    "parts": parts,
    "wait": wait,
    "kept": kept,
}


# A process can hold one application; its static routes are looked up in one step, however many they are.
_app = Emmett(__name__, root_path=_root.name)
for _name, _view in ROUTES.items():
    _route = _app.route(f"/{_name}", methods=["get", "post"])
    # The service looks for the route that is being made, as where both stand above a function.
    _route(service.json(_view) if _name == "inspect" else _view)


def build(workload: str, variant: str) -> App | None:
    return _app if workload in ROUTES else None
