"""A Django site for the tests of the bridge, which asks Django's own handler the same questions.

Django holds one configuration a process; it is made here, and tests change it for themselves with ``site()``.
"""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
import sys
import tempfile
import threading
import types
import warnings
from atexit import register
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Literal

import anyio
import django
import pytest
from anyio.lowlevel import checkpoint
from django.conf import settings
from django.core.handlers import asgi as stock
from django.core.signals import request_finished, request_started, setting_changed
from django.test import override_settings
from django.urls import re_path

from asgicore import django_bridge as ours
from asgicore.testing import EMPTY, Channel, Message, http_scope
from asgicore.testing._living import tasks as living_tasks

DIRECTORY = Path(tempfile.mkdtemp(prefix="asgicore-django-"))
register(shutil.rmtree, DIRECTORY, ignore_errors=True)

if not settings.configured:
    settings.configure(
        ALLOWED_HOSTS=["*"],
        CACHES={"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}},
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                # A file: of a database in memory every thread would have its own.
                "NAME": str(DIRECTORY / "site.sqlite3"),
                "TEST": {"NAME": None},
            }
        },
        FILE_UPLOAD_TEMP_DIR=str(DIRECTORY),
        INSTALLED_APPS=["django.contrib.staticfiles"],
        LOGGING_CONFIG=None,
        MIDDLEWARE=[],
        ROOT_URLCONF="django_site",
        SECRET_KEY="only of the tests",
        STATIC_URL="/static/",
        STATICFILES_DIRS=[str(DIRECTORY / "static")],
        TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates"}],
        USE_TZ=True,
    )
    (DIRECTORY / "static").mkdir()
    (DIRECTORY / "static" / "style.css").write_text("body { color: black }")
    django.setup()

urlpatterns: list[Any] = []

SECONDS = 5.0
STOCK: Any = stock.ASGIHandler
OURS: Any = ours.ASGIHandler

ASYNCIO: list[Any] = [pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio")]
if importlib.util.find_spec("uvloop"):
    ASYNCIO.append(pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"))

backends = pytest.mark.parametrize("anyio_backend", ASYNCIO, indirect=True)
"""For every test of the bridge that runs a loop: Django knows asyncio alone."""

handlers = pytest.mark.parametrize("base", [pytest.param(STOCK, id="stock"), pytest.param(OURS, id="ours")])
"""For tests of what holds for Django's handler as for ours."""


# --- the differences that there are ------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """One thing that our handler does otherwise than Django's, on purpose."""

    name: str
    why: str


DIFFERENCES = [
    Difference("length", "a response whose body is there declares its length; Django leaves that to a middleware"),
    Difference("bodiless", "HEAD, 204, 304 and 1xx have no body message that holds anything (RFC 9110)"),
    Difference("hop-by-hop", "fields that are the server's business are dropped"),
    Difference("controls", "a field that holds a control character becomes an error response"),
    Difference("quiet", "an OSError of send() is a client that left: nothing is raised"),
    Difference("extra", "messages after the body that say nothing are ignored, where Django asserts"),
    Difference("closing", "request, response and body are closed, and request_finished is sent, on every exit"),
    Difference("streams", "what is synchronous is sent part by part, where Django reads all of it before"),
    Difference("errors", "what is raised before the response has begun is logged and answered with 500, not raised"),
    Difference("scopes", "lifespan and websocket are answered, unless strict"),
    Difference("6.1", "root_path and cookies of several fields as in Django 6.1, on 5.2 too"),
    Difference("addresses", "unix sockets have SERVER_PORT 0, where Django writes None; ports are numbers"),
    Difference("proxy", "the field Proxy makes no HTTP_PROXY, which programs take for a setting"),
    Difference("limits", "what the engine's limits refuse: header floods, long paths, malformed lengths"),
    Difference("sender", "request_finished names the handler after a request that was refused, too"),
]
"""All of them, which the tests refer to by name. What is compared with Django's handler is equal in all else."""


# --- a site ------------------------------------------------------------------------------------------------


_names = count(1)


@contextmanager
def site(
    view: Callable[..., Any] | None = None,
    *,
    patterns: Iterable[Any] = (),
    middleware: Iterable[Any] = (),
    urls: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Iterator[None]:
    """A site with this view at every path.

    Args:
        view: The view.
        patterns: What comes before it in the urlconf.
        middleware: Middleware, outermost first: callables, or dotted paths.
        urls: More of the urlconf: ``handler404`` and the like.
        changes: Settings.
    """
    urlconf: Any = types.ModuleType(f"django_site_urls_{next(_names)}")
    urlconf.urlpatterns = [*patterns, *([] if view is None else [re_path(r"^.*$", view)])]
    for name, value in (urls or {}).items():
        setattr(urlconf, name, value)
    # Settings name middleware by a path.
    module = types.ModuleType(f"django_site_middleware_{next(_names)}")
    sys.modules[module.__name__] = module
    paths = []
    for number, each in enumerate(middleware):
        if not isinstance(each, str):
            setattr(module, f"number_{number}", each)
            each = f"{module.__name__}.number_{number}"
        paths.append(each)
    receivers = setting_changed.receivers[:]
    try:
        with override_settings(ROOT_URLCONF=urlconf, MIDDLEWARE=paths, **changes):
            yield
            # Those of handlers that are not collected yet would be asked about every setting of every site.
            setting_changed.receivers = receivers
    finally:
        del sys.modules[module.__name__]


# --- who did what, and where -------------------------------------------------------------------------------


class Diary:
    """What happens around a request, in order, each with its place: the loop, or a thread by its number."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, str]] = []
        self.arguments: list[tuple[str, dict[str, Any]]] = []
        self._loop_thread = threading.get_ident()
        self._threads: dict[threading.Thread, str] = {}

    def place(self) -> str:
        """Where this is called."""
        if threading.get_ident() == self._loop_thread:
            return "loop"
        return self._threads.setdefault(threading.current_thread(), f"thread {len(self._threads) + 1}")

    def note(self, what: str) -> None:
        self.entries.append((what, self.place()))

    @property
    def events(self) -> list[str]:
        return [what for what, _ in self.entries]

    def places(self, *events: str) -> set[str]:
        """Where these events took place (all, if none is named)."""
        return {place for what, place in self.entries if not events or what in events}

    def count(self, what: str) -> int:
        return self.events.count(what)


@contextmanager
def receivers(diary: Diary, kinds: Literal["", "sync", "async", "both"] = "sync") -> Iterator[None]:
    """Note both signals in a diary."""
    connected: list[tuple[Any, Any]] = []

    def connect(signal: Any, name: str, is_async: bool) -> None:
        def note(**arguments: Any) -> None:
            diary.note(name)
            diary.arguments.append((name, arguments))

        async def note_async(**arguments: Any) -> None:
            note(**arguments)

        receiver = note_async if is_async else note
        signal.connect(receiver, weak=False)
        connected.append((signal, receiver))

    for signal, name in ((request_started, "started"), (request_finished, "finished")):
        if kinds in ("sync", "both"):
            connect(signal, name, False)
        if kinds in ("async", "both"):
            connect(signal, name if kinds == "async" else f"{name}, async", True)
    try:
        yield
    finally:
        for signal, receiver in connected:
            assert signal.disconnect(receiver)


def noting(base: Any, diary: Diary, **options: Any) -> Any:
    """A handler on this base whose requests note when they are closed."""

    class Request(base.request_class):
        def close(self) -> None:
            diary.note("request.close")
            super().close()

    class Handler(base):
        request_class = Request
        bodies: list[Any] = []  # noqa: RUF012  # of one test, set anew for each class
        requests: list[Any] = []  # noqa: RUF012  # of one test, set anew for each class

        def create_request(self, scope: Any, body_file: Any) -> Any:
            self.bodies.append(body_file)
            made = super().create_request(scope, body_file)
            self.requests.append(made[0])
            return made

    Handler.bodies, Handler.requests = [], []
    return Handler(**options)


# --- one request -------------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """What became of a request."""

    channel: Channel
    raised: BaseException | None = None
    diary: Diary = field(default_factory=Diary)

    @property
    def status(self) -> int | None:
        return self.channel.status if self.channel.sent else None

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Names in their case, in order, without what difference "length" is about."""
        return [(name, value) for name, value in self.channel.headers if name != b"Content-Length"]

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.channel.sent[1:])

    @property
    def is_ended(self) -> bool:
        """Whether the final message was sent."""
        sent = self.channel.sent
        return bool(sent) and sent[-1]["type"] == "http.response.body" and not sent[-1].get("more_body", False)

    @property
    def answer(self) -> tuple[Any, ...]:
        """What the client gets."""
        if not self.channel.sent:
            return ()
        return self.status, self.headers, self.body, self.is_ended

    def header(self, name: str) -> list[str]:
        """The values of one field."""
        wanted = name.lower().encode()
        return [value.decode("latin-1") for key, value in self.channel.headers if key.lower() == wanted]


@contextmanager
def as_it_is(app: Any) -> Iterator[None]:
    """Let stock Django do what the bridge must not: warn of synchronous streams, and leave bodies open."""
    if isinstance(app, OURS) or not isinstance(app, STOCK):
        yield
        return
    files: list[Any] = []
    read_body = app.read_body

    async def reading(receive: Any) -> Any:
        files.append(await read_body(receive))
        return files[-1]

    app.read_body = reading
    try:
        with warnings.catch_warnings():
            # Difference "streams", of which Django warns.
            warnings.filterwarnings("ignore", "StreamingHttpResponse must consume synchronous iterators")
            yield
    finally:
        del app.read_body
        for file in files:
            file.close()


async def run(app: Any, channel: Channel, diary: Diary | None = None, **scope: Any) -> Outcome:
    """One request to its end, within five seconds; no task of it is left."""
    outcome = Outcome(channel, None, diary or Diary())
    before = living_tasks()
    with anyio.fail_after(SECONDS), as_it_is(app):
        try:
            await app(http_scope(**scope), channel.receive, channel.send)
        except Exception as exc:
            outcome.raised = exc
        # asgiref's own tasks for synchronous code end one turn later than the code.
        while living_tasks() - before:
            await checkpoint()
    return outcome


async def ask(app: Any, messages: Iterable[Message] = (EMPTY,), **scope: Any) -> Outcome:
    """A request that nothing disturbs."""
    return await run(app, Channel(messages), **scope)


async def both(
    messages: Iterable[Message] = (EMPTY,), options: Mapping[str, Any] | None = None, **scope: Any
) -> tuple[Outcome, Outcome]:
    """The same request to Django's handler and to ours, within a ``site()``; both give the client the same."""
    messages = list(messages)
    theirs = await ask(STOCK(), messages, **scope)
    mine = await ask(OURS(**(options or {})), messages, **scope)
    return theirs, mine


async def same(messages: Iterable[Message] = (EMPTY,), **scope: Any) -> Outcome:
    """As ``both()``, asserting that the client gets the same; returns ours."""
    theirs, mine = await both(messages, **scope)
    assert mine.answer == theirs.answer
    assert repr(mine.raised) == repr(theirs.raised)
    return mine


async def eventually(check: Callable[[], object], what: str = "it happens") -> None:
    """Wait for something in another thread or task."""
    with anyio.move_on_after(SECONDS):
        while not check():
            await anyio.sleep(0.001)
        return
    raise AssertionError(f"not within {SECONDS:g} s: {what}")


def start(coro: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """A task beside the test."""
    return asyncio.get_running_loop().create_task(coro)


def wait_for(event: threading.Event) -> None:
    """Block a thread until then, with a deadline."""
    assert event.wait(SECONDS), "nobody set the event"


async def forever() -> AsyncIterator[bytes]:
    """A stream that ends with its client alone."""
    while True:
        yield b"x"
        await checkpoint()
