"""Django: asynchronous views, no middleware; its handler spools the body before the view runs."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path

from .. import shared
from . import App

settings.configure(
    ALLOWED_HOSTS=["*"],
    DATA_UPLOAD_MAX_MEMORY_SIZE=None,
    FILE_UPLOAD_MAX_MEMORY_SIZE=shared.SPOOL_BYTES,
    LOGGING_CONFIG=None,
    MIDDLEWARE=[],
    ROOT_URLCONF="",
    SECRET_KEY="benchmarks",
)
django.setup()

TEXT = "text/plain"


async def hello(request: Any) -> HttpResponse:
    return HttpResponse(shared.HELLO, content_type=TEXT)


async def inspect(request: Any) -> HttpResponse:
    headers, query, cookies = request.headers, request.GET, request.COOKIES
    return JsonResponse(
        shared.summary(
            [headers[name] for name in shared.HEADER_NAMES],
            [query[name] for name in shared.QUERY_NAMES],
            [cookies[name] for name in shared.COOKIE_NAMES],
        )
    )


async def json(request: Any) -> HttpResponse:
    data = jsonlib.loads(request.body)
    return HttpResponse(data["name"], content_type=TEXT)


async def spool(request: Any) -> HttpResponse:
    return HttpResponse(str(shared.read_back(request)), content_type=TEXT)


async def kept(request: Any) -> HttpResponse:
    """The handler has spooled the body already."""
    return HttpResponse(request.headers["content-length"], content_type=TEXT)


async def whole(request: Any) -> HttpResponse:
    return HttpResponse(shared.whole(), content_type="application/octet-stream")


async def parts(request: Any) -> Any:
    return StreamingHttpResponse(shared.parts(), content_type=TEXT)


async def wait(request: Any) -> HttpResponse:
    await shared.gate.wait()
    return HttpResponse(shared.HELLO, content_type=TEXT)


def thread(request: Any) -> HttpResponse:
    return HttpResponse(shared.HELLO, content_type=TEXT)


def streamed(parts: Callable[[], Iterator[bytes]]) -> Callable[[Any], Any]:
    """Read as a whole, in a thread, before the first byte goes out; Django warns of that."""

    async def view(request: Any) -> Any:
        return StreamingHttpResponse(parts(), content_type=TEXT)

    return view


VIEWS: dict[str, Callable[[Any], Any]] = {
    "hello": hello,
    "inspect": inspect,
    "json": json,
    "count": spool,
    "spool": spool,
    "whole": whole,
    "parts": parts,
    "wait": wait,
    "kept": kept,
    "thread": thread,
    **{name: streamed(parts) for name, parts in shared.GENERATORS.items()},
}


def build(workload: str, variant: str) -> App | None:
    if workload == "sync-fresh":
        return None  # A gigabyte in memory is more than some machines have.
    # One workload at a time, so one route at a time.
    urls: Any = ModuleType("urls")
    urls.urlpatterns = [path(workload, VIEWS[workload])]
    settings.ROOT_URLCONF = urls
    app: App = get_asgi_application()
    return app
