"""The check finds what BEHAVIOUR.md lists of others, in small applications of each; test_check_own.py has ours."""

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

pytestmark = pytest.mark.timeout(300)


class Defect(NamedTuple):
    """One row of the table: what is listed, and how it is found."""

    row: str
    """Numbers of the rows of BEHAVIOUR.md, or of its measurements, and what they list."""
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
    Defect("27: lifespan raises", DJANGO, "", "lifespan", "raised"),
    Defect("1: outer cancel, the response is not closed", DJANGO, "/file", "cancel", "file-left"),
    Defect("1: send() raises, the response is not closed", DJANGO, "/file", "send-fails", "file-left"),
    Defect("1: the stream raises, the response is not closed", DJANGO, "/broken-stream", "get", "file-left"),
    Defect("3: a synchronous stream is held in memory", DJANGO, "/sync-parts", "slow-reader", "memory"),
    Defect("3: a file is held in memory", DJANGO, "/large-file", "slow-reader", "memory"),
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
    Defect("27: websockets raise", DJANGO, "/hello", "websocket", "websocket-raised"),
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
    Defect("39: a disconnect from a cancelled receive()", DJANGO, "/hello", "leave-after", "late-disconnect"),
    Defect("40: garbage for each request", DJANGO, "/hello", "leaks", "leak-cycles"),
    Defect("43: no ranges", DJANGO, "/file", "ranges", "range-ignored"),
    Defect(
        "1: outer cancel leaves the view running", DJANGO, "/slow", "cancel", "task-left", is_cured_in_django_6=True
    ),
    Defect("3: a synchronous stream goes on without a client", DJANGO, "/sync-stream", "leave-waiting", "thread-left"),
    # --- Starlette
    Defect("2: a handler runs to its end", STARLETTE, "/slow", "leave-waiting", "works-on"),
    Defect("2: a stream, spec_version 2.4, silent send()", STARLETTE, "/stream", "leave-streaming", "works-on"),
    Defect("2.2: ClientDisconnect reaches the server", STARLETTE, "/stream", "leave-streaming", "disconnect-raised"),
    Defect("6: no limit of the body unless asked for", STARLETTE, "/read", "body-limit", "body-unlimited"),
    Defect("7, 38: a disconnect within the body is a 500", STARLETTE, "/read", "truncated", "disconnect-as-error"),
    Defect("38: and is raised at the server", STARLETTE, "/read", "truncated", "disconnect-raised"),
    Defect("19: a generator is not closed", STARLETTE, "/stream", "send-fails", "generator-left"),
    Defect("23: body to HEAD", STARLETTE, "/hello", "head", "body-forbidden"),
    Defect("23: body with 204", STARLETTE, "/nothing", "get", "body-forbidden"),
    Defect("29: a second request waits for ever", STARLETTE, "/read-twice", "get", "unanswered"),
    Defect("30: polling loses the body", STARLETTE, "/read-polling", "post", "parts-differ"),
    Defect("30: polling is never told", STARLETTE, "/wait-polling", "leave-waiting", "works-on"),
    Defect("37: line breaks go out in a header", STARLETTE, "/reflect", "odd-scopes", "header-value"),
    Defect("41: a thread is not told", STARLETTE, "/sync-wait", "leave-waiting", "works-on"),
    # --- a2wsgi
    Defect("7: a truncated upload is a whole one", A2WSGI, "/read", "truncated", "truncated-answered"),
    Defect("13: cookies joined by a comma", A2WSGI, "/echo", "cookies", "cookies-split"),
    Defect("14: underscores for hyphens", A2WSGI, "/echo", "header-alias", "header-alias"),
    Defect("14: repeated headers at quadratic cost", A2WSGI, "/hello", "header-cost", "header-cost"),
    Defect("18: no trio", A2WSGI, "/hello", "get", "request-raised", backend="trio"),
    Defect("20: readline() loses the body", A2WSGI, "/readline", "post", "request-raised"),
    Defect("20: readlines() returns wrong lines", A2WSGI, "/readlines", "post", "request-raised"),
    Defect("20: a status without a reason", A2WSGI, "/bare-status", "get", "request-raised"),
    Defect("20: exc_info is raised after all", A2WSGI, "/exc-info", "get", "request-raised"),
    Defect("20: content-length is not kept to", A2WSGI, "/too-long", "get", "length-mismatch"),
    Defect("21: slow uploads hold the threads", A2WSGI, "/read", "slow-uploads", "uploads-hold"),
    Defect("23: body to HEAD", A2WSGI, "/hello", "head", "body-forbidden"),
    Defect("32: root_path cut from a longer segment", A2WSGI, "/echo", "root-path", "root-cut"),
    Defect("33: a query that is not UTF-8", A2WSGI, "/echo", "odd-scopes", "odd-scope"),
    Defect("4: send() raises, the call never returns", A2WSGI, "/parts", "send-fails", "works-on"),
    Defect("4: a thread is pinned", A2WSGI, "/parts", "send-fails", "thread-left"),
    Defect("4: an endless stream goes on", A2WSGI, "/stream", "leave-streaming", "works-on"),
    Defect("4: a healthy request times out", A2WSGI, "/stream", "aborts", "pool-stuck"),
    # --- asgiref's bridge
    Defect("27: lifespan raises", ASGIREF, "", "lifespan", "raised"),
    Defect("7: a truncated upload is an error", ASGIREF, "/read", "truncated", "disconnect-raised"),
    Defect("13: cookies joined by a comma", ASGIREF, "/echo", "cookies", "cookies-split"),
    Defect("14: underscores for hyphens", ASGIREF, "/echo", "header-alias", "header-alias"),
    Defect("18: no trio", ASGIREF, "/hello", "get", "request-raised", backend="trio"),
    Defect("20: close() is not called", ASGIREF, "/file", "get", "file-left"),
    Defect("2.3: close() is not called when send() raises", ASGIREF, "/file", "send-fails", "file-left"),
    Defect("20: no write()", ASGIREF, "/write", "get", "request-raised"),
    Defect("20: header values are ASCII", ASGIREF, "/latin1", "get", "request-raised"),
    Defect("20: a status without a reason", ASGIREF, "/bare-status", "get", "request-raised"),
    Defect("21: spooling to disk on the loop", ASGIREF, "/read", "large-upload", "disk-on-loop"),
    Defect("22: one request after the other", ASGIREF, "/blocking", "concurrency", "serial"),
    Defect("23: body to HEAD", ASGIREF, "/hello", "head", "body-forbidden"),
    Defect("27: websockets raise", ASGIREF, "/hello", "websocket", "websocket-raised"),
    Defect("32: root_path cut from a longer segment", ASGIREF, "/echo", "root-path", "root-cut"),
    Defect("33: a query that is not UTF-8", ASGIREF, "/echo", "odd-scopes", "query-refused"),
    Defect("4: an endless stream goes on", ASGIREF, "/stream", "leave-streaming", "works-on"),
    Defect("4: a healthy request times out", ASGIREF, "/stream", "aborts", "pool-stuck"),
]

OTHERS = "no defect of these four in today's releases"
INSIDE = "happens between the application and its framework, where no message tells of it"
COST = "what it costs, and no rule says how much it may"
# The rows of which no probe shows anything, and why.
UNSEEN = {
    5: OTHERS,  # asgiref 3.12 cured it; the hop that did is part of 16
    10: OTHERS,  # Django and Starlette raise again, as they should
    11: INSIDE,  # when background work runs
    12: "a choice: that a handler is cancelled is what others ask for",
    15: INSIDE,  # context variables
    24: "a defect of servers",
    25: "a time limit may be minutes, and a check does not wait so long",
    26: "a server ends streams at its shutdown by a disconnect: row 2",
    28: OTHERS,  # Django and Starlette unwrap what is their own
    31: "a choice: whether a handler runs before the whole upload is there, as in ours by default",
    35: INSIDE,  # what a dict of headers has lost was never sent
    42: COST,  # Starlette's thread hops
    44: INSIDE,  # how an asynchronous callable is recognised
    45: INSIDE,  # types
    46: "a defect of test clients",
    47: "of Pythons without the global lock",
    48: INSIDE,  # signals and hooks
    49: OTHERS,
    50: INSIDE,  # who reads a body that is closed
    51: INSIDE,  # in which thread signals are sent
    52: INSIDE,  # what a subclass may override
    53: OTHERS,
    54: "a generator that blocks is the application's own; holds-loop finds it under any framework",
    55: "a matter of forms: the bridge is handed what was parsed",
}

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
    with ThreadPoolExecutor(3) as pool:
        yield {
            (target, backend): pool.submit(find, target, backend)
            for target, backend in RUNS
            if not is_missing(NEEDS[target], "trio" if backend == "trio" else "anyio")
        }


@pytest.mark.parametrize("row", [pytest.param(row, id=f"{row.target}-{row.row}") for row in DEFECTS])
def test_check_finds_a_listed_defect(row: Defect, runs: dict[tuple[str, str], Future[Found]]) -> None:
    """Pointed at a small application, the probe finds the rule that it breaks."""
    if (row.target, row.backend) not in runs:
        pytest.skip(f"needs {NEEDS[row.target]} and {row.backend}")
    if row.is_cured_in_django_6:
        import django

        if django.VERSION >= (6,):
            pytest.skip("a defect of Django 5.2 that Django 6 has no more")
    results = runs[row.target, row.backend].result()
    assert row.rule in [finding.rule for finding in results[row.probe, row.path]]


def test_table_of_defects_holds_every_row_of_the_list() -> None:
    """Each of the 55 is shown by a probe, or has a reason why none can; no probe is made up."""
    numbers = [number for row in DEFECTS for number in row.row.partition(":")[0].split(", ")]
    shown = {int(number) for number in numbers if "." not in number}
    assert shown.isdisjoint(UNSEEN)
    assert shown | UNSEEN.keys() == set(range(1, 56))
    assert {row.probe for row in DEFECTS} <= set(NAMES)
