"""Falcon: a resource with responders."""

from __future__ import annotations

from typing import Any

import falcon
import falcon.asgi
from falcon.util import sync_to_async

from .. import shared
from . import App


class Hello:
    async def on_get(self, req: Any, resp: Any) -> None:
        resp.content_type = falcon.MEDIA_TEXT
        resp.text = shared.HELLO


class Inspect:
    async def on_get(self, req: Any, resp: Any) -> None:
        resp.media = shared.summary(
            [req.get_header(name) for name in shared.HEADER_NAMES],
            [req.get_param(name) for name in shared.QUERY_NAMES],
            [req.cookies[name] for name in shared.COOKIE_NAMES],
        )


class Json:
    async def on_post(self, req: Any, resp: Any) -> None:
        data = await req.get_media()
        resp.content_type = falcon.MEDIA_TEXT
        resp.text = data["name"]


class Count:
    async def on_post(self, req: Any, resp: Any) -> None:
        resp.content_type = falcon.MEDIA_TEXT
        resp.text = str(await shared.count(req.stream))


class Spool:
    async def on_post(self, req: Any, resp: Any) -> None:
        resp.content_type = falcon.MEDIA_TEXT
        resp.text = str(await shared.spool(req.stream))


class Kept:
    async def on_post(self, req: Any, resp: Any) -> None:
        resp.content_type = falcon.MEDIA_TEXT
        resp.text = str(await shared.keep(req.stream))


class Parts:
    async def on_get(self, req: Any, resp: Any) -> None:
        resp.content_type = falcon.MEDIA_TEXT
        resp.stream = shared.parts()


class Wait:
    async def on_get(self, req: Any, resp: Any) -> None:
        await shared.gate.wait()
        resp.content_type = falcon.MEDIA_TEXT
        resp.text = shared.HELLO


def work() -> str:
    return shared.HELLO


class Thread:
    """Responders are coroutine functions; what is synchronous is for ``sync_to_async``."""

    async def on_get(self, req: Any, resp: Any) -> None:
        resp.content_type = falcon.MEDIA_TEXT
        resp.text = await sync_to_async(work)


RESOURCES = {
    "hello": Hello,
    "inspect": Inspect,
    "json": Json,
    "count": Count,
    "spool": Spool,
    "parts": Parts,
    "wait": Wait,
    "kept": Kept,
    "thread": Thread,
}


def build(workload: str, variant: str) -> App | None:
    if workload not in RESOURCES:
        return None
    app = falcon.asgi.App()
    app.add_route(f"/{workload}", RESOURCES[workload]())
    return app
