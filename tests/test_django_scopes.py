"""Everything about the bridge that is no request: other scopes, options by argument and by setting, the imports."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import subprocess
import sys
import textwrap
import weakref
from collections.abc import AsyncIterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anyio
import pytest
from django.core.asgi import get_asgi_application as stock_get_asgi_application
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse
from django_site import OURS, SECONDS, STOCK, ask, backends, handlers, site

from asgicore import UsageError, django_bridge
from asgicore.django_bridge import ASGIHandler, get_asgi_application
from asgicore.testing import Channel, LeakGuard, http_scope


def view(request: HttpRequest) -> HttpResponse:
    return HttpResponse(repr(sorted(request.scope.get("state") or {})))


async def async_view(request: HttpRequest) -> HttpResponse:
    return HttpResponse(b"async")


def given(*kinds: str) -> Channel:
    """The channel of a scope in which these messages come."""
    return Channel([{"type": kind} for kind in kinds])


def given_lifespan() -> Channel:
    return given("lifespan.startup", "lifespan.shutdown")


async def call(app: Any, channel: Channel, **scope: Any) -> list[str]:
    """Call an application with this very scope; returns the types of what it sent."""
    with anyio.fail_after(SECONDS):
        await app(scope, channel.receive, channel.send)
    return kinds_of(channel)


def kinds_of(channel: Channel) -> list[str]:
    return [message["type"] for message in channel.sent]


# --- scopes ------------------------------------------------------------------------------------------------


@backends
async def test_scope_of_a_lifespan_is_answered_quietly(caplog: pytest.LogCaptureFixture) -> None:
    """Difference "scopes": servers that ask get their answer, and the log stays empty."""
    with site(view):
        kinds = await call(OURS(), given_lifespan(), type="lifespan")
    assert kinds == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert caplog.records == []


@backends
@pytest.mark.parametrize("offers", [True, False])
async def test_scope_of_a_websocket_is_refused_quietly(offers: bool, caplog: pytest.LogCaptureFixture) -> None:
    """By a response where the server offers that, else by closing."""
    extensions: dict[str, Any] = {"websocket.http.response": {}} if offers else {}
    with site(view):
        kinds = await call(OURS(), given("websocket.connect"), type="websocket", path="/", extensions=extensions)
    assert kinds == (
        ["websocket.http.response.start", "websocket.http.response.body"] if offers else ["websocket.close"]
    )
    assert caplog.records == []


@backends
@pytest.mark.parametrize("kind", ["lifespan", "websocket", "nonsense"])
async def test_scope_is_refused_as_by_stock_django_where_the_site_is_strict(kind: str) -> None:
    """``strict``: the same error with the same words, and nothing is received or sent."""
    words = []
    with site(view):
        for app in (STOCK(), OURS(strict=True)):
            channel = Channel()
            with pytest.raises(ValueError, match=kind) as raised:
                await call(app, channel, type=kind)
            words.append(str(raised.value))
            assert (channel.received, channel.sends) == (0, 0)
    assert words[0] == words[1] == f"Django can only handle ASGI/HTTP connections, not {kind}."


@backends
async def test_scope_of_an_unknown_type_is_always_refused() -> None:
    """Nobody knows what to say there."""
    with site(view):
        with pytest.raises(ValueError, match="not nonsense"):
            await call(OURS(), Channel(), type="nonsense")
        with pytest.raises(KeyError):
            await call(OURS(), Channel())


@backends
async def test_scope_that_is_routed_goes_to_the_other_application() -> None:
    """``routes``: any type, with the very scope and channels; everything else is Django's."""
    seen: list[Any] = []

    async def other(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope, receive, send))
        await send({"type": "other"})

    with site(view):
        handler = OURS(routes={"websocket": other, "nonsense": other})
        for kind in ("websocket", "nonsense"):
            channel = Channel()
            scope = {"type": kind}
            await handler(scope, channel.receive, channel.send)
            assert kinds_of(channel) == ["other"]
            assert seen[-1][0] is scope
        assert (await ask(handler)).status == 200
        strict = OURS(routes={"websocket": other}, strict=True)
        assert await call(strict, Channel(), type="websocket") == ["other"]
        with pytest.raises(ValueError, match="lifespan"):
            await call(strict, Channel(), type="lifespan")


@backends
async def test_scope_of_http_may_be_routed_too() -> None:
    """Even that: Django is then beneath something else."""

    async def other(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "other"})

    with site(view):
        assert await call(OURS(routes={"http": other}), Channel(), type="http") == ["other"]


# --- lifespan= ---------------------------------------------------------------------------------------------


@backends
@pytest.mark.parametrize("takes", ["handler", "nothing"])
async def test_lifespan_of_the_site_is_entered_and_left(takes: str) -> None:
    """It may take the handler; what it yields is the ``state`` of every request's scope."""
    steps: list[Any] = []

    @contextlib.asynccontextmanager
    async def with_handler(handler: Any) -> AsyncIterator[Mapping[str, Any]]:
        steps.append(isinstance(handler, ASGIHandler))
        yield {"pool": 1}
        steps.append("left")

    @contextlib.asynccontextmanager
    async def with_nothing() -> AsyncIterator[Mapping[str, Any]]:
        steps.append(True)
        yield {"pool": 1}
        steps.append("left")

    bodies: list[bytes] = []
    with site(view):
        handler = OURS(lifespan=with_handler if takes == "handler" else with_nothing)

        async def between(index: int) -> None:
            if channel.sent:
                bodies.append((await ask(handler, state=...)).body)

        channel = given_lifespan()
        channel.on_receive = between
        kinds = await call(handler, channel, type="lifespan")
    assert kinds == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert steps == [True, "left"]
    assert bodies == [b"[&#x27;pool&#x27;]"] or bodies == [b"['pool']"]


@backends
@pytest.mark.parametrize("phase", ["startup", "shutdown"])
async def test_lifespan_of_the_site_that_fails_is_reported(phase: str, caplog: pytest.LogCaptureFixture) -> None:
    """The server gets the message, the log the traceback."""

    @contextlib.asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        if phase == "startup":
            raise RuntimeError("no database")
        yield
        raise RuntimeError("no database")

    with site(view):
        channel = given_lifespan()
        await call(OURS(lifespan=lifespan), channel, type="lifespan")
    assert channel.sent[-1] == {"type": f"lifespan.{phase}.failed", "message": "RuntimeError: no database"}
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1


@backends
async def test_lifespan_that_ends_ends_the_threads_and_another_one_has_new_ones() -> None:
    """No thread of the bridge is left after the shutdown; a test may begin again."""
    with site(view):
        handler = OURS()
        for _ in range(2):
            await ask(handler)
            workers = handler.workers
            assert workers.alive == 1
            await call(handler, given_lifespan(), type="lifespan")
            assert workers.alive == 0
            assert handler.workers is not workers
        assert (await ask(handler)).status == 200
        await handler.workers.aclose()


# --- options -----------------------------------------------------------------------------------------------


@handlers
def test_application_is_had_without_arguments(base: Any) -> None:
    """A drop-in: one import is changed, nothing else."""
    get = stock_get_asgi_application if base is STOCK else get_asgi_application
    with site(view):
        assert isinstance(get(), base)


@backends
async def test_option_by_setting_is_that_of_every_handler() -> None:
    """``ASGICORE`` in the settings; what the call says goes before it."""
    chosen = {"ON_DISCONNECT": "notify", "STRICT": True, "MAX_WORKERS": 3, "MAX_BODY_BYTES": 10}
    with site(view, ASGICORE=chosen):
        handler = get_asgi_application()
        assert handler.workers.max_workers == 3
        assert handler.limits.max_body_bytes == 10
        with pytest.raises(ValueError, match="lifespan"):
            await call(handler, Channel(), type="lifespan")
        other = get_asgi_application(strict=False, max_workers=5)
        assert other.workers.max_workers == 5
        assert other.limits.max_body_bytes == 10
        assert await call(other, given_lifespan(), type="lifespan")


def test_option_may_be_switched_off_by_the_call() -> None:
    """``False`` says something; ``None`` says nothing, and leaves it to the setting."""
    with site(view, ASGICORE={"STRICT": True, "MAX_BODY_BYTES": 10}):
        assert OURS(strict=False)._strict is False
        assert OURS(strict=None)._strict is True
        assert OURS(max_body_bytes=None).limits.max_body_bytes == 10


def test_option_that_is_unknown_is_named_with_those_that_are_not() -> None:
    """A mistyped key is no silent default."""
    with site(view, ASGICORE={"MAX_WORKER": 3}):
        with pytest.raises(ImproperlyConfigured, match="does not know 'MAX_WORKER'; it knows ON_DISCONNECT, STRICT"):
            OURS()
    with site(view, ASGICORE={"strict": True}), pytest.raises(ImproperlyConfigured, match="does not know 'strict'"):
        OURS()
    with site(view, ASGICORE=["STRICT"]), pytest.raises(ImproperlyConfigured, match="takes a dictionary, not list"):
        OURS()


@pytest.mark.parametrize(
    "options",
    [
        {"on_disconnect": "ignore"},
        {"max_workers": 0},
        {"max_workers": True},
        {"max_workers": "4"},
        {"max_body_bytes": -1},
        {"max_body_bytes": "1M"},
        {"underscores": "keep"},
    ],
)
def test_option_with_a_value_that_it_cannot_have_is_an_error(options: dict[str, Any]) -> None:
    """By argument and by setting, when the handler is made."""
    with site(view):
        with pytest.raises(ValueError, match=r"on_disconnect|max_workers|max_body_bytes|underscores"):
            OURS(**options)
    with site(view, ASGICORE={name.upper(): value for name, value in options.items()}):
        with pytest.raises(ValueError, match=r"on_disconnect|max_workers|max_body_bytes|underscores"):
            OURS()


def test_option_that_is_none_of_ours_is_a_type_error() -> None:
    """Options have names, and Django's handler has none."""
    with site(view):
        with pytest.raises(TypeError):
            OURS(workers=3)
        with pytest.raises(TypeError):
            OURS("cancel")
        with pytest.raises(TypeError, match="lifespan"):
            OURS(lifespan=3)


def test_middleware_that_cannot_be_loaded_is_the_error_of_stock_django() -> None:
    """``ImproperlyConfigured`` or ``ImportError``, as from Django's handler."""
    with site(view, middleware=["no.such.Middleware"]):
        found = []
        for base in (STOCK, OURS):
            with pytest.raises(ImportError) as raised:
                base()
            found.append(str(raised.value))
    assert found[0] == found[1]
    with site(view, middleware=[lambda get_response: None]):
        for base in (STOCK, OURS):
            with pytest.raises(ImproperlyConfigured, match="factory"):
                base()


# --- what is left behind -----------------------------------------------------------------------------------


@backends
@pytest.mark.usefixtures("small_heap")
async def test_requests_leave_no_garbage_of_ours() -> None:
    """No object of the bridge or of the engine is for the collector to find."""
    with site(async_view):
        handler = OURS()
        await ask(handler)
        async with LeakGuard(cycles=["asgicore"]):
            for _ in range(50):
                channel = Channel()
                await handler(http_scope(), channel.receive, channel.send)


def test_handler_that_is_dropped_is_collected() -> None:
    """Signals and threads hold none: tests make handlers by the thousand."""
    with site(view):
        handler = OURS()
        watch = weakref.ref(handler)
        del handler
        gc.collect()
        assert watch() is None


# --- the import --------------------------------------------------------------------------------------------


def python(code: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run code in an interpreter of its own, which finds the package where this one does."""
    root = str(Path(django_bridge.__file__).parents[2])
    paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": paths, **environ},
    )


def test_import_without_django_names_the_extra() -> None:
    """The error says what to install."""
    result = python(
        """
        import sys
        sys.modules["django"] = None
        import asgicore.django_bridge
        """
    )
    assert result.returncode == 1
    assert "pip install 'asgicore[django]'" in result.stderr


@pytest.mark.parametrize(("django", "asgiref"), [((4, 2), "3.13.0"), ((5, 1), "3.13.0"), ((5, 2), "3.12.9")])
def test_import_with_a_version_that_is_too_old_names_both(django: tuple[int, int], asgiref: str) -> None:
    """The error names what is there and what is needed."""
    result = python(
        f"""
        import django, asgiref
        django.VERSION, asgiref.__version__ = {(*django, 0, "final", 0)!r}, {asgiref!r}
        import asgicore.django_bridge
        """
    )
    assert result.returncode == 1
    assert "needs Django 5.2 and asgiref 3.13" in result.stderr
    assert asgiref in result.stderr


def test_import_needs_no_settings_and_the_application_needs_them() -> None:
    """As with Django's own module: settings are read when the application is made."""
    result = python(
        """
        import os
        from asgicore.django_bridge import get_asgi_application
        from django.core.exceptions import ImproperlyConfigured
        try:
            get_asgi_application()
        except ImproperlyConfigured:
            print("asks for settings")
        """,
        DJANGO_SETTINGS_MODULE="",
    )
    assert result.stdout.strip() == "asks for settings", result.stderr


def test_import_and_application_work_in_the_usual_asgi_module(tmp_path: Path) -> None:
    """An ``asgi.py`` of one line, with a settings module; Django is set up by the call."""
    (tmp_path / "site_settings.py").write_text(
        "SECRET_KEY = 'x'\nROOT_URLCONF = 'site_urls'\nALLOWED_HOSTS = ['*']\nMIDDLEWARE = []\n"
        "ASGICORE = {'MAX_WORKERS': 2}\n"
    )
    (tmp_path / "site_urls.py").write_text(
        "from django.http import HttpResponse\nfrom django.urls import path\n"
        "urlpatterns = [path('', lambda request: HttpResponse('served'))]\n"
    )
    result = python(
        f"""
        import asyncio, sys
        sys.path.insert(0, {str(tmp_path)!r})
        from asgicore.django_bridge import get_asgi_application
        from asgicore.testing import call
        application = get_asgi_application()
        channel = asyncio.run(call(application))
        print(channel.status, channel.body)
        print(application.workers.max_workers, application.workers.alive)
        """,
        DJANGO_SETTINGS_MODULE="site_settings",
    )
    assert result.stdout.split("\n")[:2] == ["200 b'served'", "2 1"], result.stderr


@pytest.mark.skipif(find_spec("trio") is None, reason="trio is not installed")
def test_trio_is_refused_with_what_to_do_instead() -> None:
    """Django needs asyncio: a server on trio does not start, and one that does not ask gets a clear error."""

    async def main() -> None:
        handler, channel = ASGIHandler(), given("lifespan.startup")
        assert await call(handler, channel, type="lifespan") == ["lifespan.startup.failed"]
        assert "needs asyncio" in channel.sent[0]["message"]
        with pytest.raises(UsageError, match="needs asyncio"):
            await call(handler, Channel(), **http_scope())

    with site(view):
        anyio.run(main, backend="trio")
