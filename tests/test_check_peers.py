"""The check finds the known defects of others, in small applications of each; test_check_own.py has ours."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from asgicore.testing._check.probes import NAMES
from asgicore.testing._check.processes import check
from asgicore.testing._lint.rules import Finding

APPS = Path(__file__).parent / "check_apps"

pytestmark = [pytest.mark.timeout(300), pytest.mark.untraced]


class Defect(NamedTuple):
    """One row of the table: what is wrong, and how it is found."""

    what: str
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

# What leaves a task or a thread behind ends its process, and stands last for that. The lifespan stands first where it
# only raises.
DEFECTS = [
    # --- Django 5.2
    Defect("lifespan raises", DJANGO, "", "lifespan", "raised"),
    Defect("outer cancel, the response is not closed", DJANGO, "/file", "cancel", "file-left"),
    Defect("send() raises, the response is not closed", DJANGO, "/file", "send-fails", "file-left"),
    Defect("the stream raises, the response is not closed", DJANGO, "/broken-stream", "get", "file-left"),
    Defect("a synchronous stream is held in memory", DJANGO, "/sync-parts", "slow-reader", "memory"),
    Defect("a file is held in memory", DJANGO, "/large-file", "slow-reader", "memory"),
    Defect("no limit of the body", DJANGO, "/read", "body-limit", "body-unlimited"),
    Defect("spooling to disk on the loop", DJANGO, "/read", "large-upload", "disk-on-loop"),
    Defect("messages after the body", DJANGO, "/hello", "extra-messages", "extra-message"),
    Defect("cookies joined by a comma", DJANGO, "/echo", "cookies", "cookies-split", is_cured_in_django_6=True),
    Defect("threads for each request", DJANGO, "/hello", "leaks", "threads-started"),
    Defect("no limit of threads", DJANGO, "/blocking", "concurrency", "threads-unlimited"),
    Defect("a generator is not closed", DJANGO, "/stream", "send-fails", "generator-left"),
    Defect("body to HEAD", DJANGO, "/hello", "head", "body-forbidden"),
    Defect("body with 204", DJANGO, "/nothing", "get", "body-forbidden"),
    Defect("no content-length", DJANGO, "/hello", "get", "length-unknown"),
    Defect("websockets raise", DJANGO, "/hello", "websocket", "websocket-raised"),
    Defect(
        "root_path cut from a longer segment",
        DJANGO,
        "/echo",
        "root-path",
        "root-beside",
        is_cured_in_django_6=True,
    ),
    Defect("a query that is not UTF-8", DJANGO, "/echo", "odd-scopes", "query-refused"),
    Defect("a unix socket has the port None", DJANGO, "/echo", "odd-scopes", "none-as-text"),
    Defect("names keep their case", DJANGO, "/hello", "get", "header-case"),
    Defect(
        "a disconnect from a cancelled receive()",
        DJANGO,
        "/hello",
        "leave-after",
        "late-disconnect",
        is_cured_in_django_6=True,
    ),
    Defect("garbage for each request", DJANGO, "/hello", "leaks", "leak-cycles"),
    Defect("no ranges", DJANGO, "/file", "ranges", "range-ignored"),
    Defect("outer cancel leaves the view running", DJANGO, "/slow", "cancel", "task-left", is_cured_in_django_6=True),
    Defect("a synchronous stream goes on without a client", DJANGO, "/sync-stream", "leave-waiting", "thread-left"),
    # --- Starlette
    Defect("a handler runs to its end", STARLETTE, "/slow", "leave-waiting", "works-on"),
    Defect("a stream, spec_version 2.4, silent send()", STARLETTE, "/stream", "leave-streaming", "trusts-send"),
    Defect("ClientDisconnect reaches the server", STARLETTE, "/stream", "leave-streaming", "disconnect-raised"),
    Defect("no limit of the body unless asked for", STARLETTE, "/read", "body-limit", "body-unlimited"),
    Defect("a disconnect within the body is a 500", STARLETTE, "/read", "truncated", "disconnect-as-error"),
    Defect("and is raised at the server", STARLETTE, "/read", "truncated", "disconnect-raised"),
    Defect("a generator is not closed", STARLETTE, "/stream", "send-fails", "generator-left"),
    Defect("body to HEAD", STARLETTE, "/hello", "head", "body-forbidden"),
    Defect("body with 204", STARLETTE, "/nothing", "get", "body-forbidden"),
    Defect("a second request waits for ever", STARLETTE, "/read-twice", "get", "unanswered"),
    Defect("polling loses the body", STARLETTE, "/read-polling", "post", "parts-differ"),
    Defect("polling is never told", STARLETTE, "/wait-polling", "leave-waiting", "works-on"),
    Defect("line breaks go out in a header", STARLETTE, "/reflect", "odd-scopes", "header-value"),
    Defect("a thread is not told", STARLETTE, "/sync-wait", "leave-waiting", "works-on"),
    # --- a2wsgi
    Defect("a truncated upload is a whole one", A2WSGI, "/read", "truncated", "truncated-answered"),
    Defect("cookies joined by a comma", A2WSGI, "/echo", "cookies", "cookies-split"),
    Defect("underscores for hyphens", A2WSGI, "/echo", "header-alias", "header-alias"),
    Defect("repeated headers at quadratic cost", A2WSGI, "/hello", "header-cost", "header-cost"),
    Defect("no trio", A2WSGI, "/hello", "get", "request-raised", backend="trio"),
    Defect("readline() loses the body", A2WSGI, "/readline", "post", "request-raised"),
    Defect("readlines() returns wrong lines", A2WSGI, "/readlines", "post", "request-raised"),
    Defect("a status without a reason", A2WSGI, "/bare-status", "get", "request-raised"),
    Defect("exc_info is raised after all", A2WSGI, "/exc-info", "get", "request-raised"),
    Defect("content-length is not kept to", A2WSGI, "/too-long", "get", "length-mismatch"),
    Defect("slow uploads hold the threads", A2WSGI, "/read", "slow-uploads", "uploads-hold"),
    Defect("body to HEAD", A2WSGI, "/hello", "head", "body-forbidden"),
    Defect("root_path cut from a longer segment", A2WSGI, "/echo", "root-path", "root-cut"),
    Defect("a query that is not UTF-8", A2WSGI, "/echo", "odd-scopes", "odd-scope"),
    Defect("send() raises, the call never returns", A2WSGI, "/parts", "send-fails", "works-on"),
    Defect("a thread is pinned", A2WSGI, "/parts", "send-fails", "thread-left"),
    Defect("an endless stream goes on", A2WSGI, "/stream", "leave-streaming", "works-on"),
    Defect("a healthy request times out", A2WSGI, "/stream", "aborts", "pool-stuck"),
    # --- asgiref's bridge
    Defect("lifespan raises", ASGIREF, "", "lifespan", "raised"),
    Defect("a truncated upload is an error", ASGIREF, "/read", "truncated", "disconnect-raised"),
    Defect("cookies joined by a comma", ASGIREF, "/echo", "cookies", "cookies-split"),
    Defect("underscores for hyphens", ASGIREF, "/echo", "header-alias", "header-alias"),
    Defect("no trio", ASGIREF, "/hello", "get", "request-raised", backend="trio"),
    Defect("close() is not called", ASGIREF, "/file", "get", "file-left"),
    Defect("close() is not called when send() raises", ASGIREF, "/file", "send-fails", "file-left"),
    Defect("no write()", ASGIREF, "/write", "get", "request-raised"),
    Defect("header values are ASCII", ASGIREF, "/latin1", "get", "request-raised"),
    Defect("a status without a reason", ASGIREF, "/bare-status", "get", "request-raised"),
    Defect("spooling to disk on the loop", ASGIREF, "/read", "large-upload", "disk-on-loop"),
    Defect("one request after the other", ASGIREF, "/blocking", "concurrency", "serial"),
    Defect("body to HEAD", ASGIREF, "/hello", "head", "body-forbidden"),
    Defect("websockets raise", ASGIREF, "/hello", "websocket", "websocket-raised"),
    Defect("root_path cut from a longer segment", ASGIREF, "/echo", "root-path", "root-cut"),
    Defect("a query that is not UTF-8", ASGIREF, "/echo", "odd-scopes", "query-refused"),
    Defect("an endless stream goes on", ASGIREF, "/stream", "leave-streaming", "works-on"),
    Defect("a healthy request times out", ASGIREF, "/stream", "aborts", "pool-stuck"),
]

# What has to be there.
NEEDS = {DJANGO: "django", STARLETTE: "starlette", A2WSGI: "a2wsgi", ASGIREF: "asgiref.wsgi"}
# Those that wait longest first.
RUNS = [
    *((target, "asyncio") for target in (DJANGO, A2WSGI, ASGIREF, STARLETTE)),
    (A2WSGI, "trio"),
    (ASGIREF, "trio"),
]

Found = dict[tuple[str, str], list[Finding]]


def is_missing(*names: str) -> bool:
    try:
        return any(importlib.util.find_spec(name) is None for name in names)
    except ModuleNotFoundError:
        return True


def jobs_for(target: str, backend: str) -> list[tuple[str, str]]:
    rows = [row for row in DEFECTS if (row.target, row.backend) == (target, backend)]
    return list(dict.fromkeys((row.probe, row.path) for row in rows))


def find(target: str, backend: str) -> Found:
    # What goes on when time is over is found sooner for less of it.
    jobs = jobs_for(target, backend)
    results = check(target, jobs, directory=os.fspath(APPS), backend=backend, deadline=1.0, grace=0.3)
    return {(result.probe, result.path): result.findings for result in results}


@pytest.fixture(scope="module")
def runs() -> Iterator[dict[tuple[str, str], Future[Found]]]:
    """What the check finds in each application; they mostly wait, so some do it beside each other."""
    with ThreadPoolExecutor(4) as pool:
        yield {
            (target, backend): pool.submit(find, target, backend)
            for target, backend in RUNS
            if not is_missing(NEEDS[target], "trio" if backend == "trio" else "anyio")
        }


@pytest.mark.parametrize("row", [pytest.param(row, id=f"{row.target}-{row.what}") for row in DEFECTS])
def test_check_finds_a_known_defect(row: Defect, runs: dict[tuple[str, str], Future[Found]]) -> None:
    """Pointed at a small application, the probe finds the rule that it breaks."""
    if (row.target, row.backend) not in runs:
        pytest.skip(f"needs {NEEDS[row.target]} and {row.backend}")
    if row.is_cured_in_django_6:
        import django

        if django.VERSION >= (6,):
            pytest.skip("a defect of Django 5.2 that Django 6 has no more")
    results = runs[row.target, row.backend].result()
    assert row.rule in [finding.rule for finding in results[row.probe, row.path]]


def test_probes_of_the_table_are_probes_of_the_command() -> None:
    """None is made up for the table."""
    assert {row.probe for row in DEFECTS} <= set(NAMES)
