"""The check finds what BEHAVIOUR.md lists of others, in small applications of each, and nothing in ours."""

from __future__ import annotations

import importlib.util
import os
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from asgicore.testing._check import NAMES
from asgicore.testing._check_process import check
from asgicore.testing._rules import Finding

APPS = Path(__file__).parent / "check_apps"

pytestmark = pytest.mark.timeout(300)


class Defect(NamedTuple):
    """One row of the table: what is listed, and how it is found."""

    row: str
    """Number or section in BEHAVIOUR.md."""
    target: str
    path: str
    probe: str
    rule: str
    backend: str = "asyncio"
    is_cured_in_django_6: bool = False


DJANGO = "django_one_file:stock"
STARLETTE = "starlette_site:app"
A2WSGI = "wsgi_site:a2wsgi"
ASGIREF = "wsgi_site:asgiref"

DEFECTS = [
    # --- Django 5.2
    Defect(
        "1: outer cancel leaves the view running", DJANGO, "/slow", "cancel", "task-left", is_cured_in_django_6=True
    ),
    Defect("1: send() raises, the response is not closed", DJANGO, "/file", "send-fails", "file-left"),
    Defect("3: a synchronous stream is held in memory", DJANGO, "/sync-stream", "slow-reader", "memory"),
    Defect("3: a synchronous stream goes on without a client", DJANGO, "/sync-stream", "leave-waiting", "thread-left"),
    Defect("6: no limit of the body", DJANGO, "/read", "body-limit", "body-unlimited"),
    Defect("8: spooling to disk on the loop", DJANGO, "/read", "large-upload", "disk-on-loop"),
    Defect("9: messages after the body", DJANGO, "/hello", "extra-messages", "extra-message"),
    Defect("13: cookies joined by a comma", DJANGO, "/echo", "cookies", "cookies-split", is_cured_in_django_6=True),
    Defect("16: threads for each request", DJANGO, "/hello", "leaks", "threads-started"),
    Defect("17: no limit of threads", DJANGO, "/blocking", "concurrency", "threads-unlimited"),
    Defect("19: a generator is not closed", DJANGO, "/stream", "send-fails", "generator-left"),
    Defect("23: body to HEAD", DJANGO, "/hello", "head", "body-forbidden"),
    Defect("23: body with 204", DJANGO, "/nothing", "get", "body-forbidden"),
    Defect("23: no content-length", DJANGO, "/hello", "get", "length-unknown"),
    Defect("27: lifespan raises", DJANGO, "", "lifespan", "raised"),
    Defect(
        "32: root_path cut from a longer segment",
        DJANGO,
        "/echo",
        "root-path",
        "root-beside",
        is_cured_in_django_6=True,
    ),
    Defect("33: a query that is not UTF-8", DJANGO, "/echo", "odd-scopes", "query-refused"),
    Defect("34: a unix socket has the port None", DJANGO, "/echo", "odd-scopes", "none-as-text"),
    Defect("36: names keep their case", DJANGO, "/hello", "get", "header-case"),
    Defect("40: garbage for each request", DJANGO, "/hello", "leaks", "leak-cycles"),
    # --- Starlette
    Defect("2: a handler runs to its end", STARLETTE, "/slow", "leave-waiting", "works-on"),
    Defect("2: a stream, spec_version 2.4, silent send()", STARLETTE, "/stream", "leave-streaming", "works-on"),
    Defect("6: no limit of the body unless asked for", STARLETTE, "/read", "body-limit", "body-unlimited"),
    Defect("7, 38: a disconnect within the body is a 500", STARLETTE, "/read", "truncated", "disconnect-as-error"),
    Defect("38: and is raised at the server", STARLETTE, "/read", "truncated", "disconnect-raised"),
    Defect("2.2: ClientDisconnect reaches the server", STARLETTE, "/stream", "leave-streaming", "disconnect-raised"),
    Defect("19: a generator is not closed", STARLETTE, "/stream", "send-fails", "generator-left"),
    Defect("23: body to HEAD", STARLETTE, "/hello", "head", "body-forbidden"),
    Defect("23: body with 204", STARLETTE, "/nothing", "get", "body-forbidden"),
    # --- a2wsgi
    Defect("4: an endless stream goes on", A2WSGI, "/stream", "leave-streaming", "works-on"),
    Defect("4: send() raises, the call never returns", A2WSGI, "/stream", "send-fails", "works-on"),
    Defect("4: a thread is pinned", A2WSGI, "/stream", "send-fails", "thread-left"),
    Defect("4: a healthy request times out", A2WSGI, "/stream", "aborts", "pool-stuck"),
    Defect("7: a truncated upload is a whole one", A2WSGI, "/read", "truncated", "truncated-answered"),
    Defect("13: cookies joined by a comma", A2WSGI, "/echo", "cookies", "cookies-split"),
    Defect("14: underscores for hyphens", A2WSGI, "/echo", "header-alias", "header-alias"),
    Defect("14: repeated headers at quadratic cost", A2WSGI, "/hello", "header-cost", "header-cost"),
    Defect("18: no trio", A2WSGI, "/hello", "get", "request-raised", backend="trio"),
    Defect("20: readline() loses the body", A2WSGI, "/readline", "post", "request-raised"),
    Defect("20: a status without a reason", A2WSGI, "/bare-status", "get", "request-raised"),
    Defect("20: exc_info is raised after all", A2WSGI, "/exc-info", "get", "request-raised"),
    Defect("20: content-length is not kept to", A2WSGI, "/too-long", "get", "length-mismatch"),
    Defect("23: body to HEAD", A2WSGI, "/hello", "head", "body-forbidden"),
    Defect("32: root_path cut from a longer segment", A2WSGI, "/echo", "root-path", "root-cut"),
    Defect("33: a query that is not UTF-8", A2WSGI, "/echo", "odd-scopes", "odd-scope"),
    # --- asgiref's bridge
    Defect("4: an endless stream goes on", ASGIREF, "/stream", "leave-streaming", "works-on"),
    Defect("4: a healthy request times out", ASGIREF, "/stream", "aborts", "pool-stuck"),
    Defect("2.3: a truncated upload is an error", ASGIREF, "/read", "truncated", "disconnect-raised"),
    Defect("13: cookies joined by a comma", ASGIREF, "/echo", "cookies", "cookies-split"),
    Defect("14: underscores for hyphens", ASGIREF, "/echo", "header-alias", "header-alias"),
    Defect("18: no trio", ASGIREF, "/hello", "get", "request-raised", backend="trio"),
    Defect("20: close() is not called", ASGIREF, "/file", "get", "file-left"),
    Defect("20: no write()", ASGIREF, "/write", "get", "request-raised"),
    Defect("20: header values are ASCII", ASGIREF, "/latin1", "get", "request-raised"),
    Defect("20: a status without a reason", ASGIREF, "/bare-status", "get", "request-raised"),
    Defect("21: spooling to disk on the loop", ASGIREF, "/read", "large-upload", "disk-on-loop"),
    Defect("22: one request after the other", ASGIREF, "/blocking", "concurrency", "serial"),
    Defect("23: body to HEAD", ASGIREF, "/hello", "head", "body-forbidden"),
    Defect("27: lifespan raises", ASGIREF, "", "lifespan", "raised"),
    Defect("32: root_path cut from a longer segment", ASGIREF, "/echo", "root-path", "root-cut"),
    Defect("33: a query that is not UTF-8", ASGIREF, "/echo", "odd-scopes", "query-refused"),
]

# What has to be there, and what our own is beside it.
NEEDS = {DJANGO: "django", STARLETTE: "starlette", A2WSGI: "a2wsgi", ASGIREF: "asgiref.wsgi"}
OWN = {DJANGO: "django_one_file:own", STARLETTE: "own_site:app", A2WSGI: "wsgi_site:own", ASGIREF: "wsgi_site:own"}


def is_missing(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is None
    except ModuleNotFoundError:
        return True


def skip_without(target: str, backend: str) -> None:
    for name in (NEEDS[target], "trio" if backend == "trio" else "anyio"):
        if is_missing(name):
            pytest.skip(f"needs {name}")


@cache
def found(target: str, backend: str, jobs: tuple[tuple[str, str], ...]) -> dict[tuple[str, str], list[Finding]]:
    """What these probes find; run once for all tests."""
    results = check(target, list(jobs), directory=os.fspath(APPS), backend=backend, deadline=1.0, grace=0.4)
    return {(result.probe, result.path): result.findings for result in results}


def jobs_for(target: str, backend: str) -> tuple[tuple[str, str], ...]:
    rows = [row for row in DEFECTS if (row.target, row.backend) == (target, backend)]
    # The lifespan ends the application.
    return tuple(sorted({(row.probe, row.path) for row in rows}, key=lambda job: (job[0] == "lifespan", job)))


@pytest.mark.parametrize("row", [pytest.param(row, id=f"{row.target}-{row.row}") for row in DEFECTS])
def test_check_finds_a_listed_defect(row: Defect) -> None:
    """Pointed at a small application, the probe finds the rule that it breaks."""
    skip_without(row.target, row.backend)
    if row.is_cured_in_django_6:
        import django

        if django.VERSION >= (6,):
            pytest.skip("a defect of Django 5.2 that Django 6 has no more")
    results = found(row.target, row.backend, jobs_for(row.target, row.backend))
    assert row.rule in [finding.rule for finding in results[row.probe, row.path]]


# Django's own handler keeps the case of names, and so does ours, as a drop-in: decision 3 of BEHAVIOUR.md.
KEPT = {"header-case"}


@pytest.mark.parametrize("target", [DJANGO, STARLETTE, A2WSGI, ASGIREF])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_check_finds_nothing_in_ours_where_it_finds_something_elsewhere(target: str, backend: str) -> None:
    """The same probes of the same paths of an application of ours: neither error nor warning."""
    if (target, backend) == (DJANGO, "trio"):
        pytest.skip("Django knows asyncio alone")
    for name in ("django" if target == DJANGO else "anyio", "trio" if backend == "trio" else "anyio"):
        if is_missing(name):
            pytest.skip(f"needs {name}")
    results = found(OWN[target], backend, jobs_for(target, "asyncio"))
    bad = {
        job: finding
        for job, findings in results.items()
        for finding in findings
        if finding.level != "note" and not (target == DJANGO and finding.rule in KEPT)
    }
    assert bad == {}


@pytest.mark.parametrize("path", ["/hello", "/read-stream", "/stream"])
def test_check_of_ours_finds_nothing_by_any_probe(path: str) -> None:
    """Every probe there is, on an answer, an upload that is read part by part, and a stream."""
    jobs = tuple((name, path) for name in NAMES if name != "lifespan")
    for findings in found("own_site:app", "asyncio", jobs).values():
        assert [finding for finding in findings if finding.level != "note"] == []


def test_table_of_defects_names_probes_that_there_are() -> None:
    """No row is about nothing."""
    assert {row.probe for row in DEFECTS} <= set(NAMES)
