"""One Django site, behind the bridge or behind Django's own handler: the handler is all that differs.

Its settings are those of a production site. A process has one site, so each handler gets a process of its own.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import django
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.db import connection, models
from django.http import FileResponse, HttpResponse, StreamingHttpResponse
from django.urls import path, set_script_prefix

from .. import shared
from . import App

TEXT = "text/plain"
BYTES = "application/octet-stream"
FOLDER = tempfile.TemporaryDirectory(prefix="benchmarks-django-")
"""For the database and the big files."""

# What startproject writes.
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

settings.configure(
    ALLOWED_HOSTS=["localhost", "127.0.0.1"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": Path(FOLDER.name, "site.sqlite3"),
            "CONN_MAX_AGE": 600,
        }
    },
    DATA_UPLOAD_MAX_MEMORY_SIZE=None,
    INSTALLED_APPS=[
        "django.contrib.admin",
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
        "django.contrib.messages",
        "django.contrib.staticfiles",
    ],
    LOGGING={
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {"null": {"class": "logging.NullHandler"}},
        "loggers": {"django": {"handlers": ["null"], "level": "ERROR", "propagate": False}},
    },
    MIDDLEWARE=[],
    ROOT_URLCONF="",
    SECRET_KEY="benchmarks",
    TEMPLATES=[
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "APP_DIRS": True,
            "OPTIONS": {
                "context_processors": [
                    "django.template.context_processors.request",
                    "django.contrib.auth.context_processors.auth",
                    "django.contrib.messages.context_processors.messages",
                ]
            },
        }
    ],
    USE_TZ=True,
)
django.setup()
# Its own handler says so each time; that is what these rows are about.
warnings.filterwarnings("ignore", "StreamingHttpResponse must consume")


class Greeting(models.Model):
    name: Any = models.CharField(max_length=20, unique=True)
    text: Any = models.CharField(max_length=100)

    class Meta:
        app_label = "benchmarks"


WANTED = "greeting 50"


@cache
def fill_database() -> None:
    with connection.schema_editor() as editor:
        editor.create_model(Greeting)
    manager: Any = Greeting._default_manager
    manager.bulk_create(Greeting(name=f"greeting {number}", text=shared.HELLO) for number in range(100))
    connection.close()


@cache
def big_file(size: int) -> Path:
    """A file whose content is what the checks expect."""
    name = Path(FOLDER.name, f"{size}.bin")
    with name.open("wb") as file:
        for start in range(0, size, shared.MESSAGE_BYTES):
            file.write(shared.BLOCK[: size - start])
    return name


async def hello(request: Any) -> HttpResponse:
    return HttpResponse(shared.HELLO, content_type=TEXT)


def sync_hello(request: Any) -> HttpResponse:
    return HttpResponse(shared.HELLO, content_type=TEXT)


def query(request: Any) -> HttpResponse:
    manager: Any = Greeting._default_manager
    return HttpResponse(manager.get(name=WANTED).text, content_type=TEXT)


async def async_query(request: Any) -> HttpResponse:
    manager: Any = Greeting._default_manager
    greeting = await manager.aget(name=WANTED)
    return HttpResponse(greeting.text, content_type=TEXT)


def file(request: Any) -> FileResponse:
    return FileResponse(big_file(shared.FILE_BYTES).open("rb"))


def stream(request: Any) -> Any:
    return StreamingHttpResponse(shared.sync_fresh(), content_type=BYTES)


async def parts(request: Any) -> Any:
    return StreamingHttpResponse(shared.parts(), content_type=TEXT)


def sync_parts(request: Any) -> Any:
    return StreamingHttpResponse(shared.sync_parts(), content_type=TEXT)


def upload(request: Any) -> HttpResponse:
    return HttpResponse(str(len(request.body)), content_type=TEXT)


def form(request: Any) -> HttpResponse:
    return HttpResponse(str(request.FILES["file"].size), content_type=TEXT)


async def kept(request: Any) -> HttpResponse:
    """The handler has spooled the body already."""
    return HttpResponse(request.headers["content-length"], content_type=TEXT)


async def wait(request: Any) -> HttpResponse:
    await shared.gate.wait()
    return HttpResponse(shared.HELLO, content_type=TEXT)


def slow(request: Any) -> HttpResponse:
    shared.crowd.wait()
    return HttpResponse(shared.HELLO, content_type=TEXT)


async def error(request: Any) -> HttpResponse:
    raise ValueError("as asked for")


def sync_error(request: Any) -> HttpResponse:
    raise ValueError("as asked for")


VIEWS: dict[str, Callable[[Any], Any]] = {
    "django-async": hello,
    "django-sync": sync_hello,
    "django-async-default": hello,
    "django-sync-default": sync_hello,
    "django-async-query": async_query,
    "django-sync-query": query,
    "django-file": file,
    "django-stream": stream,
    "django-parts": parts,
    "django-sync-parts": sync_parts,
    "django-upload": upload,
    "django-form": form,
    "django-kept": kept,
    "django-wait": wait,
    "django-slow": slow,
    "django-error": error,
    "django-sync-error": sync_error,
}
WITH_MIDDLEWARE = {"django-async-default", "django-sync-default", "django-async-query", "django-sync-query"}
WITH_DATABASE = {"django-async-query", "django-sync-query"}


class Bare(ASGIHandler):  # type: ignore[misc]
    """Django's own code for request, middleware, view and response, and nothing around it.

    No threads but the one for all synchronous code, no signals, no watch.
    """

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise ValueError(scope["type"])
        message = await receive()
        set_script_prefix("")
        request, _ = self.create_request(scope, BytesIO(message["body"]))
        response: Any = await self.get_response_async(request)
        headers = [(name.encode(), value.encode()) for name, value in response.items()]
        await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
        if response.streaming:
            async for part in response:
                await send({"type": "http.response.body", "body": part, "more_body": True})
        body = b"" if response.streaming else response.content
        await send({"type": "http.response.body", "body": body, "more_body": False})
        request.close()


def build(workload: str, variant: str) -> App | None:
    get_asgi_application: Callable[[], App] = Bare
    if variant == "stock":
        from django.core.asgi import get_asgi_application
    elif variant == "bridge":
        from asgicore.django_bridge import get_asgi_application
    if workload in WITH_DATABASE:
        # Django refuses to do that in the thread of a loop.
        with ThreadPoolExecutor(1) as executor:
            executor.submit(fill_database).result()
    settings.MIDDLEWARE = MIDDLEWARE if workload in WITH_MIDDLEWARE else []
    # One workload at a time, so one route at a time.
    urls: Any = ModuleType("urls")
    urls.urlpatterns = [path(workload, VIEWS[workload])]
    settings.ROOT_URLCONF = urls
    return get_asgi_application()
