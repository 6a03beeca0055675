"""``python -m asgicore.django_bridge``: what it says of a project."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django_site import OURS, Diary, receivers, site

pytest.importorskip("django", reason="needs the extra 'django'")

from django.http import HttpResponse
from django.test import override_settings
from django.urls import include, path

from asgicore.django_bridge import _check
from asgicore.django_bridge._check import Finding, inspect_project

SITE = Path(__file__).parent.parent / "examples" / "django_site"


def of(subject: str) -> list[Finding]:
    return [finding for finding in inspect_project() if finding.subject == subject]


def synchronous_view(request: Any) -> HttpResponse:
    return HttpResponse()


async def asynchronous_view(request: Any) -> HttpResponse:
    return HttpResponse()


class Synchronous:
    """Middleware that is synchronous alone."""

    async_capable = False


class Asynchronous:
    """Middleware that is not."""

    async_capable = True


def test_check_of_the_example_site_ends_with_0_and_names_its_middleware() -> None:
    """As its user runs it, from the directory of the project."""
    done = subprocess.run(
        [sys.executable, "-m", "asgicore.django_bridge", "--settings", "mysite.settings", "--pythonpath", str(SITE)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        cwd=SITE.parent.parent,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "django.contrib.sessions.middleware.SessionMiddleware" in done.stdout
    assert "2 hops to a thread" in done.stdout


def test_check_run_as_a_module_ends_with_its_status(as_command: Callable[..., None]) -> None:
    """``python -m asgicore.django_bridge``."""
    with pytest.raises(SystemExit) as ended:
        as_command("asgicore.django_bridge", "--help")
    assert ended.value.code == 0
    as_command("asgicore.django_bridge.__main__", run_name="imported")


def test_check_of_what_is_no_project_ends_with_2_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the command line, not a traceback."""
    out = io.StringIO()
    monkeypatch.setattr(sys, "path", list(sys.path))
    with override_settings(ASGICORE={"MAX_WORKER": 3}):
        assert _check.main([], out) == 2
    assert "'MAX_WORKER'" in out.getvalue()
    assert "MAX_WORKERS" in out.getvalue()
    with override_settings(ASGICORE=3):
        assert _check.main([], out) == 2


def test_check_of_project_with_something_to_change_ends_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a build can ask for it."""
    out = io.StringIO()
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "unset")
    with site(synchronous_view, middleware=[Synchronous]):
        assert _check.main(["--settings", "django_site"], out) == 1
    assert "change" in out.getvalue()


def test_check_of_middleware_tells_which_forces_a_hop() -> None:
    """Synchronous middleware is to be changed, Django's kind shares its hops, other middleware is fine."""
    frames = "django.middleware.clickjacking.XFrameOptionsMiddleware"
    locale = "django.middleware.locale.LocaleMiddleware"
    with site(asynchronous_view, middleware=[frames, locale, Asynchronous, Synchronous, locale]):
        kinds = [finding.kind for finding in inspect_project() if "iddleware" in finding.subject]
        (hops,) = of("MIDDLEWARE")
    assert kinds == ["note", "note", "good", "change", "note"]
    # Two stretches of two hops each, and the synchronous one.
    assert hops.text.startswith("5 hops")
    with site(asynchronous_view, middleware=[Asynchronous]):
        assert of("MIDDLEWARE")[0].kind == "good"


def test_check_of_signals_names_receivers_that_are_not_django_s() -> None:
    """Each costs a hop."""
    with site(asynchronous_view):
        assert [finding.kind for finding in of("request_started") + of("request_finished")] == ["good", "good"]
        with receivers(Diary(), "both"):
            (finding,) = of("request_started")
    assert finding.kind == "note"
    assert "note_async" in finding.text


def test_check_of_databases_asks_for_connections_that_are_kept() -> None:
    """And says nothing of a database that is none."""
    from django.db import connections

    with site(asynchronous_view):
        entry = connections.settings["default"]
        before = dict(entry)
        try:
            entry.update(CONN_MAX_AGE=0, ATOMIC_REQUESTS=True)
            assert [finding.kind for finding in of("DATABASES['default']")] == ["change", "note"]
            entry.update(CONN_MAX_AGE=60, ATOMIC_REQUESTS=False)
            assert [finding.kind for finding in of("DATABASES['default']")] == ["good"]
            entry["ENGINE"] = "django.db.backends.dummy"
            assert of("DATABASES['default']") == []
        finally:
            entry.clear()
            entry.update(before)


def test_check_of_views_counts_those_that_need_a_thread() -> None:
    """Included ones, too."""
    patterns = [path("one/", synchronous_view), path("more/", include([path("two/", synchronous_view)]))]
    with site(asynchronous_view, patterns=patterns):
        (finding,) = of("ROOT_URLCONF")
    assert finding.text.startswith("1 of 3 views")


application: Any = None


def test_check_of_application_tells_whose_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bridge's is good, another one is to be changed, and one that is not there is told of."""
    module = sys.modules[__name__]
    with site(asynchronous_view):
        assert of("ASGI_APPLICATION") == []
    for value, kind in ((OURS(), "good"), (object(), "change")):
        monkeypatch.setattr(module, "application", value)
        with site(asynchronous_view, ASGI_APPLICATION=f"{__name__}.application"):
            assert [finding.kind for finding in of("ASGI_APPLICATION")] == [kind]
    with site(asynchronous_view, ASGI_APPLICATION="nowhere.application"):
        (finding,) = of("ASGI_APPLICATION")
    assert finding.kind == "change"
    assert "nowhere" in finding.text
