"""Rows whose figures come from a fresh process for each peer and round."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from . import shared
from .apart import DEADLINE_SECONDS, ROOT, scratch
from .apps import BARE, HANDLERS, PEERS, wsgi
from .report import OURS, Row, Verdict, at_most, judge
from .workloads import FILERS, STREAMERS, Goal

MAX_STALL_MS = 5.0
"""Over the idle baseline of the same run."""

HOP = "one hop"
DOWNLOAD_NOTE = "parts of 64 KiB, each with bytes of its own; the reader pauses for 1 ms after each MiB"

Results = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    peers: tuple[str, ...]
    rounds: int
    is_quick: bool
    core: int | None


def child(kind: str, peer: str, number: int, core: int | None) -> dict[str, Any]:
    """The figures of one fresh process, empty if the peer has nothing to compare."""
    command = [sys.executable, "-m", "benchmarks.fresh", kind, peer, str(number)]
    if core is not None:
        command += ["--core", str(core)]
    with scratch() as env:
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=DEADLINE_SECONDS)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        return {"failed": last[0]}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def collect(kind: str, peers: Iterable[str], number: int, rounds: int, core: int | None) -> tuple[Results, list[str]]:
    """Figures of all peers, interleaved, and notes on those left out."""
    results: Results = {peer: [] for peer in peers}
    notes = []
    for _ in range(rounds):
        for peer in list(results):
            result = child(kind, peer, number, core)
            if result and not result.keys() & {"failed", "skipped"}:
                results[peer].append(result)
            else:
                notes += [f"{peer}: {how} ({why})" for how, why in result.items()]
                del results[peer]
    return results, notes


def figures_of(results: Results, key: str, scale: float = 1.0) -> dict[str, list[float]]:
    """Without the peers that have nothing of the kind."""
    return {
        peer: [result[key] * scale for result in many]
        for peer, many in results.items()
        if all(key in result for result in many)
    }


def limit(figures: dict[str, list[float]], text: str, value: float) -> list[Verdict]:
    """A goal for ours that is a number."""
    if OURS not in figures:
        return []
    return [at_most(text, statistics.median(figures[OURS]), value)]


def inflight(plan: Plan) -> list[Row]:
    number = 500 if plan.is_quick else 5000
    results, notes = collect("inflight", plan.peers, number, plan.rounds, plan.core)
    size = figures_of(results, "bytes")
    set_up, finish = figures_of(results, "setup_us"), figures_of(results, "finish_us")
    threads = figures_of(results, "threads")
    many = ", ".join(f"{peer} {max(values):,.0f}" for peer, values in threads.items() if max(values) > 1)
    note = "; ".join(["resident memory (RSS), scope, channel and task included", *notes])
    label = f"{number:,} requests whose endpoints wait:"
    return [
        Row("inflight", f"{label} bytes each", "bytes", size, judge(size, (Goal(OURS, "falcon", 1.0),)), note),
        Row("inflight-setup", f"{label} to set one up", "µs", set_up, limit(set_up, f"{OURS}, µs,", 20)),
        Row("inflight-finish", f"{label} to finish one", "µs", finish, limit(finish, f"{OURS}, µs,", 8)),
        Row(
            "inflight-threads",
            f"{label} threads",
            "threads",
            threads,
            limit(threads, OURS, 1),
            f"more than one: {many}" if many else "",
        ),
    ]


def cancel(plan: Plan) -> list[Row]:
    number = 500 if plan.is_quick else 5000
    peers = [peer for peer in plan.peers if peer == OURS]
    results, notes = collect("cancel", peers, number, plan.rounds, plan.core)
    note = "; ".join(["wall time until every endpoint is cancelled and its request over", *notes])
    title = f"{number:,} clients leave at once while their endpoints wait"
    return [Row("cancel", title, "ms", figures_of(results, "ms"), [], note)]


def left_rows(results: Results, notes: list[str], kind: str, endpoint: str) -> list[Row]:
    note = "; ".join(["wall time", *notes])
    cancelled, end = figures_of(results, "endpoint_us"), figures_of(results, "end_us")
    return [
        Row(kind, f"{endpoint}, from a disconnect to its cancellation", "µs", cancelled, [], note),
        Row(f"{kind}-end", f"{endpoint}, from a disconnect to the end of the request", "µs", end, [], note),
    ]


def left(plan: Plan) -> list[Row]:
    results, notes = collect("left", plan.peers, 50 if plan.is_quick else 500, plan.rounds, plan.core)
    return left_rows(results, notes, "left", "an endpoint that waits")


def left_parts(plan: Plan) -> list[Row]:
    peers = [peer for peer in plan.peers if peer in STREAMERS]
    results, notes = collect("left-parts", peers, 2 if plan.is_quick else 10, plan.rounds, plan.core)
    figures = figures_of(results, "parts")
    note = "; ".join(["a part takes 1 ms; 280 of 300 are left when the client leaves", *notes])
    title = "synchronous generator: parts that it is asked for after a disconnect"
    return [Row("left-parts", title, "parts", figures, limit(figures, OURS, 1), note)]


def thread_rows(results: Results, notes: list[str], kind: str, titles: Mapping[str, str]) -> list[Row]:
    rows = []
    for name, title in titles.items():
        figures = figures_of(results, name)
        goals = limit(figures, OURS, 0) if name == "async" else []
        rows.append(Row(f"{kind}-{name}", f"threads started for a request, {title}", "threads", figures, goals))
    rows[0].note = "; ".join(notes)
    return rows


def threads(plan: Plan) -> list[Row]:
    results, notes = collect("threads", plan.peers, 100, plan.rounds, plan.core)
    return thread_rows(results, notes, "threads", {"async": "async endpoint", "sync": "sync endpoint"})


COLLECTED = "found by gc.collect() after 100 requests without a collection"
CYCLES = {
    "async": "async endpoint",
    "sync": "sync endpoint",
    "stream": "stream, asynchronous parts",
    "sync-stream": "stream, synchronous parts",
}


def cycles(plan: Plan) -> list[Row]:
    results, notes = collect("cycles", plan.peers, 100, plan.rounds, plan.core)
    note = "; ".join([COLLECTED, *notes])
    rows = []
    for name, title in CYCLES.items():
        figures = figures_of(results, name)
        title = f"objects in reference cycles left by a request, {title}"
        rows.append(Row(f"cycles-{name}", title, "objects", figures, limit(figures, OURS, 0), note))
    return rows


def peak(plan: Plan) -> list[Row]:
    results, notes = collect("peak", plan.peers, shared.BIG_BYTES, plan.rounds, plan.core)
    size = figures_of(results, "bytes", 1 / shared.MIB)
    note = "; ".join(["resident memory (RSS), 1 MiB threshold", *notes])
    return [
        Row("peak", "peak memory over idle, 64 MiB upload spooled", "MB", size, limit(size, f"{OURS}, MB,", 2.5), note)
    ]


def sync_peak(plan: Plan) -> list[Row]:
    size = 2**26 if plan.is_quick else 2**30
    peers = [peer for peer in plan.peers if peer in STREAMERS]
    results, notes = collect("sync-peak", peers, size, plan.rounds, plan.core)
    note = "; ".join([f"resident memory (RSS), {DOWNLOAD_NOTE}; Django would have all of it in memory", *notes])
    figures = figures_of(results, "bytes", 1 / shared.MIB)
    title = f"peak memory over idle, {size // shared.MIB:,} MiB from a synchronous generator, a slow reader"
    return [Row("sync-peak", title, "MB", figures, limit(figures, f"{OURS}, MB,", 2.0), note)]


def file_peak(plan: Plan) -> list[Row]:
    peers = [peer for peer in plan.peers if peer in FILERS]
    results, notes = collect("file-peak", peers, shared.BIG_BYTES, plan.rounds, plan.core)
    note = "; ".join(["resident memory (RSS); the reader pauses for 1 ms after each MiB", *notes])
    figures = figures_of(results, "bytes", 1 / shared.MIB)
    title = "peak memory over idle, 64 MiB file, a slow reader"
    return [Row("file-peak", title, "MB", figures, limit(figures, f"{OURS}, MB,", 4.0), note)]


def bridge_peak(kind: str, what: str, size: int, quick_size: int, note: str) -> Callable[[Plan], list[Row]]:
    """A row of the memory of each WSGI bridge."""

    def rows(plan: Plan) -> list[Row]:
        number = quick_size if plan.is_quick else size
        peers = [name for name in wsgi.BRIDGES if name in plan.peers or name not in PEERS]
        results, notes = collect(kind, peers, number, plan.rounds, plan.core)
        figures = figures_of(results, "bytes", 1 / shared.MIB)
        title = f"peak memory over idle, WSGI {number // shared.MIB:,} MiB {what}"
        return [Row(kind, title, "MB", figures, [], "; ".join([f"resident memory (RSS), {note}", *notes]))]

    return rows


def first_byte(plan: Plan) -> list[Row]:
    peers = [peer for peer in plan.peers if peer in STREAMERS]
    results, notes = collect("first-byte", peers, 100 if plan.is_quick else 1000, plan.rounds, plan.core)
    first, part = figures_of(results, "first_us"), figures_of(results, "part_us")
    if OURS in results:
        first[HOP] = part[HOP] = [result["hop_us"] for result in results[OURS]]
    note = "; ".join(["wall time; one hop is to a thread of asgicore's and back, with nothing to do", *notes])
    goals = judge(part, (Goal(OURS, HOP, 1.0),)) if OURS in results else []
    return [
        Row("first-byte", "synchronous generator: request to first body byte", "µs", first, [], note),
        Row("first-part", "synchronous generator: first part yielded to first body byte", "µs", part, goals, note),
    ]


def lag(kind: str, title: str, peers: Iterable[str] = PEERS) -> Callable[[Plan], list[Row]]:
    """A row of worst lags of a heartbeat."""

    def rows(plan: Plan) -> list[Row]:
        chosen = [peer for peer in plan.peers if peer in peers]
        results, notes = collect(kind, chosen, 2 if plan.is_quick else 7, 1, None)
        busy = {peer: many[0]["busy_ms"] for peer, many in results.items()}
        goals = []
        if OURS in results:
            idle = max(results[OURS][0]["idle_ms"])
            goals = [
                at_most(f"{OURS}, the worst of all, over the worst idle lag, ms,", max(busy[OURS]) - idle, MAX_STALL_MS)
            ]
        baselines = ", ".join(f"{peer} {max(many[0]['idle_ms']):.1f}" for peer, many in results.items())
        note = "; ".join([f"worst lag while idle: {baselines}", *notes])
        return [Row(kind, title, "ms", busy, goals, note)]

    return rows


IMPORTS = {
    "asyncio alone": "import asyncio",
    "asgicore": "import asgicore",
    "starlette-pair": "from starlette.requests import Request; from starlette.responses import Response",
    "starlette": "import starlette.applications",
    "fastapi": "import fastapi",
    "falcon": "import falcon.asgi",
    "blacksheep": "import blacksheep",
    "litestar": "import litestar",
    "baize": "import baize.asgi",
    "emmett55": "import emmett55",
    "quart": "import quart",
    "django": "import django.core.handlers.asgi",
}
IMPORT = """
import sys, time
started = time.process_time()
{statement}
print(time.process_time() - started, len(sys.modules))
"""


def imports(plan: Plan) -> list[Row]:
    statements = {peer: statement for peer, statement in IMPORTS.items() if peer in plan.peers or peer not in PEERS}
    seconds: dict[str, list[float]] = {peer: [] for peer in statements}
    modules: dict[str, list[float]] = {peer: [] for peer in statements}
    notes = []
    for _ in range(plan.rounds * 5):
        for peer in list(seconds):
            # Isolated and away from the checkout: only what is installed is found.
            done = subprocess.run(
                [sys.executable, "-I", "-c", IMPORT.format(statement=statements[peer])],
                cwd=tempfile.gettempdir(),
                capture_output=True,
                text=True,
                timeout=DEADLINE_SECONDS,
            )
            if done.returncode:
                notes.append(f"{peer}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
                del seconds[peer], modules[peer]
                continue
            spent, count = done.stdout.split()
            seconds[peer].append(float(spent) * 1e3)
            modules[peer].append(float(count))
    goal = (Goal(OURS, "starlette-pair", 1.0),)
    note = "; ".join(["CPU time of the import statement in a fresh process", *notes])
    return [
        Row("import", "import", "ms", seconds, judge(seconds, goal), note),
        Row("import-modules", "import: modules loaded", "modules", modules, judge(modules, goal)),
    ]


DJANGO_FILE_BYTES = 200 * shared.MIB
DJANGO_CYCLES = {
    "async": "async view",
    "sync": "sync view",
    "stream": "stream, asynchronous parts",
    "sync-stream": "stream, synchronous parts",
    "error": "async view that raises",
    "sync-error": "sync view that raises",
}


def django_collect(kind: str, plan: Plan, number: int, peers: Iterable[str] = HANDLERS) -> tuple[Results, list[str]]:
    return collect(kind, [peer for peer in plan.peers if peer in peers], number, plan.rounds, plan.core)


def django_peak(kind: str, what: str, size: int, goal: float | None) -> Callable[[Plan], list[Row]]:
    """A row of the memory that a download takes."""

    def rows(plan: Plan) -> list[Row]:
        results, notes = django_collect(kind, plan, size)
        figures = figures_of(results, "bytes", 1 / shared.MIB)
        goals = [] if goal is None else limit(figures, f"{OURS}, MB,", goal)
        note = "; ".join(["resident memory (RSS); the reader pauses for 1 ms after each MiB", *notes])
        return [Row(kind, f"Django, peak memory over idle, {what}", "MB", figures, goals, note)]

    return rows


def django_inflight(plan: Plan) -> list[Row]:
    number = 500 if plan.is_quick else 5000
    results, notes = django_collect("django-inflight", plan, number)
    size, threads = figures_of(results, "bytes"), figures_of(results, "threads")
    note = "; ".join(["resident memory (RSS), scope, channel and task included", *notes])
    label = f"Django, {number:,} requests whose async views wait:"
    goals = judge(size, (Goal(OURS, "django", 0.4),))
    return [
        Row("django-inflight", f"{label} bytes each", "bytes", size, goals, note),
        Row("django-inflight-threads", f"{label} threads", "threads", threads, limit(threads, OURS, 1)),
        Row("django-inflight-setup", f"{label} to set one up", "µs", figures_of(results, "setup_us")),
        Row("django-inflight-finish", f"{label} to finish one", "µs", figures_of(results, "finish_us")),
    ]


def django_threads(plan: Plan) -> list[Row]:
    results, notes = django_collect("django-threads", plan, 100)
    return thread_rows(results, notes, "django-threads", {"async": "Django's async view", "sync": "Django's sync view"})


def django_crowd(plan: Plan) -> list[Row]:
    number = 100 if plan.is_quick else 500
    results, notes = django_collect("django-crowd", plan, number)
    figures = figures_of(results, "threads")
    note = "; ".join([f"over those before the first request; {OURS} with its default of 40 workers", *notes])
    title = f"Django, {number} requests whose sync views wait: threads"
    return [Row("django-crowd", title, "threads", figures, limit(figures, OURS, 40), note)]


def django_cycles(plan: Plan) -> list[Row]:
    results, notes = django_collect("django-cycles", plan, 100, (*HANDLERS, BARE.name))
    note = "; ".join([COLLECTED, "raw is Django's own code without a handler", *notes])
    rows = []
    for name, title in DJANGO_CYCLES.items():
        figures = figures_of(results, name)
        goals = []
        if {OURS, BARE.name} <= figures.keys():
            over = statistics.median(figures[OURS]) - statistics.median(figures[BARE.name])
            goals = [at_most(f"{OURS}, more than {BARE.name},", over, 0)]
        title = f"Django, objects in reference cycles left by a request, {title}"
        rows.append(Row(f"django-cycles-{name}", title, "objects", figures, goals, note))
    return rows


def django_cancel(plan: Plan) -> list[Row]:
    results, notes = django_collect("django-cancel", plan, 50 if plan.is_quick else 500)
    return left_rows(results, notes, "django-cancel", "Django's async view")


KINDS: dict[str, Callable[[Plan], list[Row]]] = {
    "inflight": inflight,
    "cancel": cancel,
    "left": left,
    "left-parts": left_parts,
    "threads": threads,
    "cycles": cycles,
    "import": imports,
    "peak": peak,
    "sync-peak": sync_peak,
    "file-peak": file_peak,
    "wsgi-download-peak": bridge_peak("wsgi-download-peak", "download, a slow reader", 2**30, 2**26, DOWNLOAD_NOTE),
    "wsgi-upload-peak": bridge_peak(
        "wsgi-upload-peak",
        "upload, read in pieces of 64 KiB",
        shared.BIG_BYTES,
        2**24,
        "bridges that spool do so to disk, from 1 MiB (asgicore) or 64 KiB (asgiref)",
    ),
    "first-byte": first_byte,
    "stall": lag("stall", "worst lag of a heartbeat while 64 MiB spool to disk, a message a turn"),
    "stall-buffered": lag("stall-buffered", "worst lag of a heartbeat while 64 MiB spool to disk, all there already"),
    "fair-upload": lag("fair-upload", "worst lag of a heartbeat while 64 MiB are streamed that are all there already"),
    "fair-tiny-in": lag("fair-tiny-in", "worst lag of a heartbeat while 300,000 tiny messages come that never suspend"),
    "fair-tiny-out": lag(
        "fair-tiny-out", "worst lag of a heartbeat while 300,000 tiny parts go out that never suspend"
    ),
    "django-file-peak": django_peak("django-file-peak", "FileResponse of 200 MiB", DJANGO_FILE_BYTES, 4.0),
    "django-stream-peak": django_peak(
        "django-stream-peak", "StreamingHttpResponse of 64 MiB, synchronous parts of 64 KiB", shared.BIG_BYTES, None
    ),
    "django-inflight": django_inflight,
    "django-threads": django_threads,
    "django-crowd": django_crowd,
    "django-cycles": django_cycles,
    "django-cancel": django_cancel,
    "django-stall": lag(
        "django-stall", "Django, worst lag of a heartbeat while 64 MiB spool to disk, a message a turn", HANDLERS
    ),
    "django-stall-buffered": lag(
        "django-stall-buffered",
        "Django, worst lag of a heartbeat while 64 MiB spool to disk, all there already",
        HANDLERS,
    ),
    "django-stall-form": lag(
        "django-stall-form",
        "Django, worst lag of a heartbeat while a form with 64 MiB is spooled, and parsed in a sync view",
        HANDLERS,
    ),
}
