# pyright: basic
# Django has no types of its own.
"""What a site gains by the bridge, and what keeps it from gaining more.

``python -m asgicore.django_bridge`` prints it for the project that ``DJANGO_SETTINGS_MODULE`` or ``--settings`` names.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from typing import Any, Final, NamedTuple, TextIO

import django
from asgiref.sync import iscoroutinefunction
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.urls import URLResolver, get_resolver
from django.utils.module_loading import import_string

from ._chain import hooks_of
from ._options import read_options
from ._quiet import FINISHED, STARTED

__all__ = ["Finding", "inspect_project", "main"]


class Finding(NamedTuple):
    """One line of the report."""

    kind: str
    """``"good"``, ``"note"`` or ``"change"``: what is there to be done about it."""
    subject: str
    """What it is about: a setting, a middleware, a signal."""
    text: str
    """What it means, and what to do."""


def inspect_project() -> list[Finding]:
    """Look at the settings, middleware, signals and views of the project that is set up.

    Raises:
        ImproperlyConfigured: A middleware cannot be imported, or the setting ``ASGICORE`` is malformed.
    """
    return [*_entry(), *_middleware(), *_signals(), *_databases(), *_views()]


def _entry() -> Iterator[Finding]:
    options = read_options({})
    name = getattr(settings, "ASGI_APPLICATION", None)
    if name:
        module, _, attribute = name.rpartition(".")
        try:
            application = import_string(name)
        except (ImportError, ImproperlyConfigured) as exc:
            yield Finding("change", "ASGI_APPLICATION", f"{name} cannot be imported: {exc}")
        else:
            from ._handler import ASGIHandler

            if isinstance(application, ASGIHandler):
                yield Finding("good", "ASGI_APPLICATION", f"{name} is the bridge's already")
            else:
                yield Finding(
                    "change",
                    "ASGI_APPLICATION",
                    f"{name} is {type(application).__name__}; in {module}, take {attribute} from "
                    "asgicore.django_bridge.get_asgi_application()",
                )
    yield Finding(
        "note",
        "max_workers",
        f"{options['max_workers']} requests run synchronous code at once; Django starts a thread for each request",
    )


def _middleware() -> Iterator[Finding]:
    hopping = 0
    stretch: set[str] = set()
    for path in settings.MIDDLEWARE:
        middleware = import_string(path)
        if not getattr(middleware, "async_capable", False):
            hopping += 1
            yield Finding(
                "change",
                path,
                "synchronous: every request runs through a thread, which waits as long as an asynchronous view does; "
                "make it async_capable, or put it next to the other synchronous ones",
            )
        elif hooks := hooks_of(middleware) if isinstance(middleware, type) else []:
            stretch.update(hooks)
            yield Finding("note", path, f"asynchronous around hooks that are not: {' and '.join(hooks)}")
            continue
        else:
            yield Finding("good", path, "asynchronous")
        hopping += len(stretch)
        stretch.clear()
    hopping += len(stretch)
    if hopping:
        yield Finding(
            "note",
            "MIDDLEWARE",
            f"{hopping} hops to a thread for each request; hooks of middleware that follows each other share them",
        )
    else:
        yield Finding("good", "MIDDLEWARE", "a request to an asynchronous view meets no thread")


def _signals() -> Iterator[Finding]:
    from ._handler import ASGIHandler

    for name, own in (("request_started", STARTED), ("request_finished", FINISHED)):
        if own.only(ASGIHandler) is None:
            synchronous, asynchronous = own.signal._live_receivers(ASGIHandler)
            others = [receiver for receiver in (*synchronous, *asynchronous) if receiver not in own.known]
            names = ", ".join(f"{receiver.__module__}.{getattr(receiver, '__qualname__', '?')}" for receiver in others)
            yield Finding("note", name, f"a hop to a thread for each request, for the receivers {names}")
        else:
            yield Finding("good", name, "Django's own receivers alone: no hop where they have nothing to do")


def _databases() -> Iterator[Finding]:
    databases: Any = connections.settings
    for alias, entry in databases.items():
        if entry["ENGINE"] in ("", "django.db.backends.dummy"):
            continue
        if entry["CONN_MAX_AGE"] == 0:
            yield Finding(
                "change",
                f"DATABASES[{alias!r}]",
                "CONN_MAX_AGE is 0: each request opens a connection and closes it; threads are kept, so that a "
                "connection can be, as under a threaded WSGI server: 'CONN_MAX_AGE': 60",
            )
        else:
            yield Finding(
                "good",
                f"DATABASES[{alias!r}]",
                f"connections are kept (CONN_MAX_AGE {entry['CONN_MAX_AGE']}), at most one for each thread",
            )
        if entry["ATOMIC_REQUESTS"]:
            yield Finding("note", f"DATABASES[{alias!r}]", "ATOMIC_REQUESTS: for synchronous views, as under Django")


def _views() -> Iterator[Finding]:
    views = list(_callbacks(get_resolver().url_patterns))
    asynchronous = sum(1 for view in views if iscoroutinefunction(view))
    yield Finding(
        "note",
        "ROOT_URLCONF",
        f"{asynchronous} of {len(views)} views are asynchronous; each of the others takes one hop to a thread",
    )


def _callbacks(patterns: Any) -> Iterator[Any]:
    for pattern in patterns:
        if isinstance(pattern, URLResolver):
            yield from _callbacks(pattern.url_patterns)
        else:
            yield pattern.callback


_MARKS: Final = {"good": "ok    ", "note": "note  ", "change": "change"}


def main(arguments: list[str] | None = None, out: TextIO | None = None) -> int:
    """Inspect a project and print what was found.

    Args:
        arguments: Of the command line; those of the process if ``None``.
        out: Where it is printed; standard output if ``None``.

    Returns:
        0, or 1 where something is to be changed, or 2 where the project cannot be set up.
    """
    out = sys.stdout if out is None else out
    parser = argparse.ArgumentParser(
        prog="python -m asgicore.django_bridge",
        description="Tell what a site gains, and what keeps it from gaining more.",
    )
    parser.add_argument("--settings", help="the settings module; else that of DJANGO_SETTINGS_MODULE")
    parser.add_argument("--pythonpath", help="a directory to import from, as that of manage.py; else the current one")
    options = parser.parse_args(arguments)
    sys.path.insert(0, options.pythonpath or os.getcwd())
    if options.settings:
        os.environ["DJANGO_SETTINGS_MODULE"] = options.settings
    try:
        django.setup(set_prefix=False)
        findings = inspect_project()
    except (ImportError, ImproperlyConfigured) as exc:
        print(f"the project cannot be inspected: {exc}", file=out)
        return 2
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        print(f"{_MARKS[finding.kind]}  {finding.subject:{width}}  {finding.text}", file=out)
    return 1 if any(finding.kind == "change" for finding in findings) else 0
