"""A Django site in one file: Django's own handler, and ours."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import django
from django.conf import settings

if not settings.configured:
    settings.configure(
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF=__name__,
        MIDDLEWARE=[],
        SECRET_KEY="only of the tests",
        LOGGING_CONFIG=None,
        USE_TZ=True,
    )
    django.setup()

from django.core.asgi import get_asgi_application
from django.http import FileResponse, HttpResponse, StreamingHttpResponse
from django.urls import re_path

from asgicore import django_bridge


async def hello(request: Any) -> HttpResponse:
    return HttpResponse("Hello, world!", content_type="text/plain")


async def echo(request: Any) -> HttpResponse:
    keys = ("PATH_INFO", "HTTP_COOKIE", "HTTP_X_FORWARDED_FOR", "SERVER_PORT")
    seen = [*(str(request.META.get(key, "-")) for key in keys), str(sorted(request.COOKIES.items()))]
    return HttpResponse("\n".join(seen), content_type="text/plain")


async def read(request: Any) -> HttpResponse:
    return HttpResponse(f"{len(request.read())} bytes")


def sync_view(request: Any) -> HttpResponse:
    return HttpResponse("Hello, world!")


def nothing(request: Any) -> HttpResponse:
    return HttpResponse(b"that nobody may have", status=204)


async def slow(request: Any) -> HttpResponse:
    await asyncio.sleep(60)
    return HttpResponse("at last")


async def stream(request: Any) -> StreamingHttpResponse:
    async def parts() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 1024
            await asyncio.sleep(0)

    return StreamingHttpResponse(parts())


async def sync_stream(request: Any) -> StreamingHttpResponse:
    def parts() -> Iterator[bytes]:
        while True:
            time.sleep(0.001)  # whoever takes it all does not take the machine's memory within the second
            yield b"x" * 65536

    return StreamingHttpResponse(parts())


def sync_parts(request: Any) -> StreamingHttpResponse:
    return StreamingHttpResponse(b"%d" % (number % 10) * 2**20 for number in range(48))


class Holding(StreamingHttpResponse):
    """A response that has something to close."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.file = open(__file__, "rb")

    def close(self) -> None:
        self.file.close()
        super().close()


async def broken_stream(request: Any) -> StreamingHttpResponse:
    async def parts() -> AsyncIterator[bytes]:
        yield b"x"
        raise ValueError("of the stream's own")

    return Holding(parts())


def file(request: Any) -> FileResponse:
    return FileResponse(open(__file__, "rb"))


large = tempfile.TemporaryFile()
large.truncate(32 * 2**20)


def large_file(request: Any) -> FileResponse:
    return FileResponse(open(f"/dev/fd/{large.fileno()}", "rb"))


def blocking(request: Any) -> HttpResponse:
    time.sleep(0.1)
    return HttpResponse("slept")


urlpatterns = [
    re_path(r"^hello$", hello),
    re_path(r"^read$", read),
    re_path(r"^sync$", sync_view),
    re_path(r"^nothing$", nothing),
    re_path(r"^slow$", slow),
    re_path(r"^stream$", stream),
    re_path(r"^sync-stream$", sync_stream),
    re_path(r"^sync-parts$", sync_parts),
    re_path(r"^broken-stream$", broken_stream),
    re_path(r"^file$", file),
    re_path(r"^large-file$", large_file),
    re_path(r"^blocking$", blocking),
    re_path(r"", echo),
]

stock = get_asgi_application()
default = django_bridge.get_asgi_application()
own = django_bridge.get_asgi_application(max_body_bytes=16 * 2**20)
