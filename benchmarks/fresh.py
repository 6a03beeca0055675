"""Figures that need a process of their own: ``python -m benchmarks.fresh KIND PEER`` prints them as JSON.

Started by ``python -m benchmarks`` (see ``processes.py``), once for each peer and round.
"""

from __future__ import annotations

import _thread
import argparse
import asyncio
import contextlib
import gc
import json
import logging
import os
import statistics
import sys
import threading
from collections.abc import Callable, Coroutine, Mapping
from itertools import islice
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from asgicore._threads import Threads

from . import drive, shared
from .apps import BARE, HANDLERS, PEERS, App, wsgi
from .workloads import (
    WORKLOADS,
    Message,
    Workload,
    WrongAnswerError,
    check_error,
    check_parts,
    form,
    text,
    upload,
)

HEARTBEAT_SECONDS = 0.001
TINY_BYTES = 8
TINY = 300_000

FRESH = Workload("sync-fresh", "", text(""), ())
FIRST = Workload("first-byte", "", text(""), ())
LEFT = Workload("left-parts", "", text(""), ())
WAIT = Workload("wait", "", text(shared.HELLO), ())
DJANGO_WAIT = Workload("django-wait", "", text(shared.HELLO), ())
DJANGO_SLOW = Workload("django-slow", "", text(shared.HELLO), ())
STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")
TASKS = Path("/proc/self/task")
QUIET_SECONDS = 0.3
"""Nothing that was going to happen by itself takes longer."""
LEFT_AFTER = 20
"""So many parts have come when a client leaves."""


class UnsupportedError(Exception):
    """This peer has nothing to compare here."""


def build(peer: str, workload: str) -> App:
    kind = workload.partition("-")[0]
    peers = {"wsgi": wsgi.BRIDGES, "django": {**HANDLERS, BARE.name: BARE}}.get(kind, PEERS)
    app = peers[peer].build(workload)
    if app is None:
        raise UnsupportedError(f"{peer} has no {workload}")
    return app


# --- memory ---------------------------------------------------------------------------------------------


def memory(field: str) -> int:
    """Bytes of resident memory: ``VmRSS`` now, ``VmHWM`` at the highest."""
    if STATUS.exists():
        lines = STATUS.read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
    # Elsewhere the highest value is all there is; a process that only grows is what is measured here.
    import resource

    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return highest if sys.platform == "darwin" else highest * 1024


def forget_peak() -> None:
    """Let ``VmHWM`` begin again at what is in use now."""
    # Not Linux, or not allowed: then the peak of the start-up counts, which is hardly above idle here.
    with contextlib.suppress(OSError):
        CLEAR_REFS.write_text("5")


async def upload_peak(app: App, number: int) -> dict[str, float]:
    """Peak memory over idle, in bytes, for one upload of ``number`` bytes."""
    big = upload("upload", "", app="spool", number=number // shared.MESSAGE_BYTES, is_fresh=True)
    async with drive.lifespan(app):
        # Big enough to go to disk, so that what is loaded and started late is there when idle is taken.
        await drive.check(app, upload("upload", "", app="spool", number=32, is_fresh=True))
        gc.collect()
        forget_peak()
        idle = memory("VmRSS")
        await drive.check(app, big)
        return {"bytes": memory("VmHWM") - idle, "idle_bytes": idle}


async def peak(peer: str, number: int) -> dict[str, float]:
    """For an upload that is spooled and read back."""
    return await upload_peak(build(peer, "spool"), number)


async def wsgi_upload_peak(peer: str, number: int) -> dict[str, float]:
    """For an upload that a WSGI application reads in pieces."""
    return await upload_peak(build(peer, "wsgi-pieces"), number)


class SlowReader(drive.Channel):
    """A client that pauses after each MiB; counts what comes, and keeps nothing."""

    __slots__ = ("number", "pause", "size", "start")

    def __init__(self, pause: int = shared.MIB) -> None:
        super().__init__(FRESH.body(), asyncio.Event)
        self.start: Message = {}
        self.size = self.number = 0
        self.pause = pause

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.start = message
        else:
            before = self.size
            self.size += len(message.get("body", b""))
            self.number += 1
            if self.size // self.pause > before // self.pause:
                await asyncio.sleep(0.001)
        await super().send(message)


async def download(app: App, workload: Workload, size: int, parts: int) -> None:
    """One download of ``parts`` parts of ``size`` bytes by a slow reader."""
    channel = SlowReader(16 * size)
    await app(next(workload.scopes()), channel.receive, channel.send)
    is_whole = channel.done.is_set() and channel.size == size * parts and channel.number >= parts
    if channel.start.get("status") != 200 or not is_whole:
        raise WrongAnswerError(f"{channel.start}, {channel.size:,} bytes in {channel.number:,} messages")


async def download_peak(app: App, workload: Workload, number: int) -> dict[str, float]:
    """Peak memory over idle, in bytes, for one download of ``number`` bytes by a slow reader."""
    async with drive.lifespan(app):
        # So small that the heap does not grow by it: what the big one takes then counts in full.
        shared.FRESH_BYTES = shared.FRESH_PARTS = 64
        await download(app, workload, shared.FRESH_BYTES, shared.FRESH_PARTS)
        shared.FRESH_BYTES, shared.FRESH_PARTS = shared.MESSAGE_BYTES, number // shared.MESSAGE_BYTES
        gc.collect()
        forget_peak()
        idle = memory("VmRSS")
        await download(app, workload, shared.FRESH_BYTES, shared.FRESH_PARTS)
        return {"bytes": memory("VmHWM") - idle, "idle_bytes": idle}


async def sync_peak(peer: str, number: int) -> dict[str, float]:
    """For a synchronous generator."""
    return await download_peak(build(peer, "sync-fresh"), FRESH, number)


async def file_peak(peer: str, number: int) -> dict[str, float]:
    """For a file."""
    idle = 0
    for name, size in (("file-small", shared.SMALL_FILE_BYTES), ("file", number)):
        shared.FILES[name]()
        app, channel = build(peer, name), SlowReader()
        async with drive.lifespan(app):
            gc.collect()
            forget_peak()
            # After a small one: what is made once is idle, too.
            idle = memory("VmRSS")
            await app(next(WORKLOADS[name].scopes()), channel.receive, channel.send)
        if channel.size != size:
            raise WrongAnswerError(f"{channel.start}, {channel.size:,} bytes")
    return {"bytes": memory("VmHWM") - idle, "idle_bytes": idle}


async def wsgi_download_peak(peer: str, number: int) -> dict[str, float]:
    """For the iterable of a WSGI application."""
    return await download_peak(build(peer, "wsgi-fresh"), FRESH, number)


async def django_stream_peak(peer: str, number: int) -> dict[str, float]:
    """For a StreamingHttpResponse over a synchronous generator."""
    return await download_peak(build(peer, "django-stream"), WORKLOADS["django-stream"], number)


async def django_file_peak(peer: str, number: int) -> dict[str, float]:
    """For a FileResponse."""
    app, workload = build(peer, "django-file"), WORKLOADS["django-file"]
    # Where it is built, Django is installed.
    from .apps import django_site

    async with drive.lifespan(app):
        idle = 0
        for size in (64 * shared.KIB, number):
            shared.FILE_BYTES = size
            django_site.big_file(shared.FILE_BYTES)
            gc.collect()
            forget_peak()
            idle = memory("VmRSS")
            await download(app, workload, shared.MESSAGE_BYTES, shared.FILE_BYTES // shared.MESSAGE_BYTES)
        return {"bytes": memory("VmHWM") - idle, "idle_bytes": idle}


# --- the first byte -------------------------------------------------------------------------------------


class FirstByteChannel(drive.Channel):
    """Notes when the first byte of the body comes, and keeps what comes."""

    __slots__ = ("body", "first")

    def __init__(self) -> None:
        super().__init__(FIRST.body(), asyncio.Event)
        self.first = 0.0
        self.body = b""

    async def send(self, message: Message) -> None:
        if not self.body and message.get("body"):
            self.first = perf_counter()
        self.body += message.get("body", b"")
        await super().send(message)


async def first_byte(peer: str, number: int) -> dict[str, float]:
    """Microseconds from a request, and from the first part of a synchronous generator, to the first byte."""
    app, threads = build(peer, "first-byte"), Threads()
    first, part, hop = [], [], []
    async with drive.lifespan(app):
        for _ in range(number):
            channel, scope = FirstByteChannel(), next(FIRST.scopes())
            shared.yielded.clear()
            started = perf_counter()
            await app(scope, channel.receive, channel.send)
            if channel.body != shared.PART * 3 or not channel.done.is_set():
                raise WrongAnswerError(f"{channel.body!r}")
            first.append(channel.first - started)
            part.append(channel.first - shared.yielded[0])
            started = perf_counter()
            await threads.run(shared.HELLO.encode)
            hop.append(perf_counter() - started)
    figures = {"first_us": first, "part_us": part, "hop_us": hop}
    return {name: statistics.median(seconds) * 1e6 for name, seconds in figures.items()}


# --- many requests in flight ----------------------------------------------------------------------------


def thread_count() -> int:
    """Threads of this process, those of no module of Python's included where the system tells."""
    return len(os.listdir(TASKS)) if TASKS.exists() else threading.active_count()


class Flight:
    """Requests whose endpoints all wait, and what it took."""

    def __init__(self, number: int, workload: Workload = WAIT) -> None:
        # Scopes and channels are a server's, as everywhere: their memory counts, the time to make them does not.
        self.channels = [drive.Channel(workload.body(), asyncio.Event) for _ in range(number)]
        self.scopes = list(islice(workload.scopes(), number))
        self.tasks: list[asyncio.Task[None]] = []
        self.set_up_seconds = 0.0

    def begin(self, app: App) -> None:
        """Start the requests."""
        self.tasks = [
            asyncio.create_task(app(scope, channel.receive, channel.send))
            for scope, channel in zip(self.scopes, self.channels, strict=True)
        ]

    async def start(self, app: App) -> None:
        """Start the requests, and return when all their endpoints wait."""
        shared.gate.close(len(self.channels), asyncio.Event)
        started = process_time()
        self.begin(app)
        await shared.gate.full.wait()
        for _ in range(4):
            # Whoever watches for the disconnect begins after the endpoint.
            await asyncio.sleep(0)
        self.set_up_seconds = process_time() - started

    async def end(self) -> float:
        """Wait until all are over; returns the CPU seconds that takes."""
        started = process_time()
        async with asyncio.timeout(60):
            for task in self.tasks:
                await task
        return process_time() - started

    def check(self) -> None:
        if not all(channel.done.is_set() for channel in self.channels):
            raise WrongAnswerError("a response without an end")


async def inflight_of(app: App, workload: Workload, number: int) -> dict[str, float]:
    """Bytes (RSS) for each request that waits, microseconds of CPU to set one up and to finish it."""
    async with drive.lifespan(app):
        first = Flight(20, workload)
        await first.start(app)
        shared.gate.open.set()
        await first.end()
        # The gate is open now: one request with a look at the answer.
        shared.gate.close(1, asyncio.Event)
        shared.gate.open.set()
        await drive.check(app, workload)
        gc.collect()
        before = memory("VmRSS")
        flight = Flight(number, workload)
        await flight.start(app)
        gc.collect()
        size = memory("VmRSS") - before
        threads = thread_count()
        shared.gate.open.set()
        finish = await flight.end()
        flight.check()
    return {
        "bytes": size / number,
        "setup_us": flight.set_up_seconds / number * 1e6,
        "finish_us": finish / number * 1e6,
        "threads": threads,
    }


async def inflight(peer: str, number: int) -> dict[str, float]:
    """Of each peer."""
    return await inflight_of(build(peer, "wait"), WAIT, number)


async def django_inflight(peer: str, number: int) -> dict[str, float]:
    """Of both handlers of the Django site."""
    return await inflight_of(build(peer, "django-wait"), DJANGO_WAIT, number)


async def cancel(peer: str, number: int) -> dict[str, float]:
    """Milliseconds until all endpoints are cancelled when all their clients leave at once."""
    app = build(peer, "wait")
    async with drive.lifespan(app):
        for size in (20, number):
            flight = Flight(size)
            await flight.start(app)
            gc.collect()
            started = perf_counter()
            for channel in flight.channels:
                channel.disconnect()
            cpu = await flight.end()
            spent = perf_counter() - started
    return {"ms": spent * 1e3, "cpu_us_each": cpu / number * 1e6}


async def left_by(app: App, workload: Workload, number: int) -> dict[str, Any]:
    """Microseconds from a disconnect to the cancelled endpoint, and to the end of the request."""
    endpoint, end = [], []
    async with drive.lifespan(app):
        for _ in range(number):
            flight = Flight(1, workload)
            await flight.start(app)
            shared.cancelled.clear()
            started = perf_counter()
            flight.channels[0].disconnect()
            _, waits = await asyncio.wait(flight.tasks, timeout=QUIET_SECONDS)
            end.append(perf_counter() - started)
            if waits:
                shared.gate.open.set()
                await flight.end()
            if not shared.cancelled:
                return {"skipped": "the endpoint runs to its end"}
            endpoint.append(shared.cancelled[0] - started)
    return {"endpoint_us": statistics.median(endpoint) * 1e6, "end_us": statistics.median(end) * 1e6}


async def left(peer: str, number: int) -> dict[str, Any]:
    """Of each peer."""
    return await left_by(build(peer, "wait"), WAIT, number)


async def django_cancel(peer: str, number: int) -> dict[str, Any]:
    """Of both handlers of the Django site."""
    return await left_by(build(peer, "django-wait"), DJANGO_WAIT, number)


class LeavingChannel(drive.Channel):
    """A client that leaves within the parts of a stream."""

    __slots__ = ("left_at", "number")

    def __init__(self) -> None:
        super().__init__(LEFT.body(), asyncio.Event)
        self.number = 0
        self.left_at = 0.0

    async def send(self, message: Message) -> None:
        self.number += bool(message.get("body"))
        if self.number >= LEFT_AFTER and not self.left_at:
            self.left_at = perf_counter()
            self.disconnect()


async def left_parts(peer: str, number: int) -> dict[str, float]:
    """Parts that a synchronous generator is asked for after its client has left."""
    app, parts = build(peer, "left-parts"), []
    async with drive.lifespan(app):
        for _ in range(number):
            channel = LeavingChannel()
            shared.yielded.clear()
            await app(next(LEFT.scopes()), channel.receive, channel.send)
            # A thread may be in the midst of a part.
            await asyncio.sleep(10 * shared.LEFT_SECONDS)
            if not channel.left_at:
                raise WrongAnswerError(f"{channel.number} parts of {shared.LEFT_PARTS}")
            parts.append(sum(at > channel.left_at for at in shared.yielded))
    return {"parts": statistics.median(parts)}


# --- threads --------------------------------------------------------------------------------------------


async def threads_of(peer: str, workloads: Mapping[str, Workload], number: int) -> dict[str, float]:
    """Threads started for a request."""
    started = 0
    start, start_bare = threading.Thread.start, _thread.start_new_thread

    def counted(thread: threading.Thread) -> None:
        nonlocal started
        started += 1
        start(thread)

    def counted_bare(*args: Any) -> int:
        nonlocal started
        started += 1
        return start_bare(*args)

    # Executors, anyio and asgicore use the class; whoever does not, the function.
    threading.Thread.start = counted  # type: ignore[assignment,method-assign]
    _thread.start_new_thread = counted_bare
    figures = {}
    for name, workload in workloads.items():
        with contextlib.suppress(UnsupportedError):
            app = build(peer, workload.name)
            async with drive.lifespan(app):
                await drive.check(app, workload)
                await drive.spend(app, workload, 10)
                started = 0
                await drive.spend(app, workload, number)
                figures[name] = started / number
    return figures


async def threads(peer: str, number: int) -> dict[str, float]:
    """For an asynchronous endpoint, and for a synchronous one."""
    return await threads_of(peer, {"async": WORKLOADS["hello"], "sync": WORKLOADS["thread"]}, number)


async def django_threads(peer: str, number: int) -> dict[str, float]:
    """For an async view, and for a sync one."""
    return await threads_of(peer, {name: WORKLOADS[f"django-{name}"] for name in ("async", "sync")}, number)


async def django_crowd(peer: str, number: int) -> dict[str, float]:
    """Threads, over those before the first request, while so many sync views are asked for that all wait."""
    app = build(peer, "django-slow")
    before = thread_count()
    async with drive.lifespan(app):
        shared.crowd.open.set()
        await drive.check(app, DJANGO_SLOW)
        shared.crowd.close()
        flight = Flight(number, DJANGO_SLOW)
        flight.begin(app)
        # How many may enter is the handler's affair: as many as there are when no more have come for some time.
        seen = -1
        while seen < shared.crowd.entered:
            seen = shared.crowd.entered
            await asyncio.sleep(QUIET_SECONDS)
        threads = thread_count() - before
        shared.crowd.open.set()
        await flight.end()
        flight.check()
        if shared.crowd.entered != number:
            raise WrongAnswerError(f"{shared.crowd.entered} of {number} requests reached the view")
    return {"threads": threads, "entered": seen}


# --- garbage --------------------------------------------------------------------------------------------

CYCLES = {
    "async": WORKLOADS["hello"],
    "sync": WORKLOADS["thread"],
    "stream": WORKLOADS["parts"],
    "sync-stream": WORKLOADS["sync-parts"],
}
DJANGO_CYCLES = {
    "async": WORKLOADS["django-async"],
    "sync": WORKLOADS["django-sync"],
    "stream": Workload("django-parts", "", check_parts, ()),
    "sync-stream": Workload("django-sync-parts", "", check_parts, ()),
    "error": Workload("django-error", "", check_error, ()),
    "sync-error": Workload("django-sync-error", "", check_error, ()),
}


async def cycles_of(peer: str, workloads: Mapping[str, Workload], number: int) -> dict[str, float]:
    """Objects in reference cycles that a request leaves to the garbage collector."""
    shared.PARTS = 3
    figures = {}
    for name, workload in workloads.items():
        with contextlib.suppress(UnsupportedError):
            app = build(peer, workload.name)
            async with drive.lifespan(app):
                await drive.check(app, workload)
                await drive.spend(app, workload, 10)
                gc.collect()
                gc.disable()
                await drive.spend(app, workload, number)
                # Callbacks and threads that a request leaves behind hold what is no cycle.
                await asyncio.sleep(0.05)
                figures[name] = gc.collect() / number
                gc.enable()
    return figures


async def cycles(peer: str, number: int) -> dict[str, float]:
    """Of each peer."""
    return await cycles_of(peer, CYCLES, number)


async def django_cycles(peer: str, number: int) -> dict[str, float]:
    """Of both handlers of the Django site."""
    return await cycles_of(peer, DJANGO_CYCLES, number)


# --- what other tasks see -------------------------------------------------------------------------------


async def worst_lag(work: Coroutine[Any, Any, object]) -> float:
    """The longest time, in milliseconds, that a heartbeat came late while ``work`` ran."""
    worst = 0.0

    async def beat() -> None:
        nonlocal worst
        while True:
            before = perf_counter()
            try:
                await asyncio.sleep(HEARTBEAT_SECONDS)
            finally:
                worst = max(worst, perf_counter() - before - HEARTBEAT_SECONDS)

    heart = asyncio.create_task(beat())
    await asyncio.sleep(HEARTBEAT_SECONDS * 5)
    await work
    heart.cancel()
    await asyncio.wait([heart])
    return worst * 1e3


class SuspendingChannel(drive.Channel):
    """Every message comes in a turn of its own, as from a socket."""

    async def receive(self) -> Message:
        await asyncio.sleep(0)
        return await super().receive()


async def lags(app: App, workload: Workload, number: int, channel_type: type[drive.Channel]) -> dict[str, Any]:
    """Worst lags while one request runs, each beside that of an idle time of the same length."""

    async def request() -> None:
        channel = channel_type(workload.body(), asyncio.Event)
        await app(next(workload.scopes()), channel.receive, channel.send)
        if not channel.done.is_set():
            raise WrongAnswerError("a response without an end")

    async with drive.lifespan(app):
        await drive.check(app, workload)
        busy, idle = [], []
        for _ in range(number):
            gc.collect()
            started = perf_counter()
            busy.append(await worst_lag(request()))
            idle.append(await worst_lag(asyncio.sleep(perf_counter() - started)))
    return {"busy_ms": busy, "idle_ms": idle}


async def stall(peer: str, number: int) -> dict[str, Any]:
    """While 64 MiB spool to disk, a message in each turn of the loop."""
    return await lags(build(peer, "kept"), upload("kept", ""), number, SuspendingChannel)


async def stall_buffered(peer: str, number: int) -> dict[str, Any]:
    """While 64 MiB spool to disk that the server has already."""
    return await lags(build(peer, "kept"), upload("kept", ""), number, drive.Channel)


async def fair_upload(peer: str, number: int) -> dict[str, Any]:
    """While the endpoint streams 64 MiB that the server has already."""
    return await lags(build(peer, "count"), WORKLOADS["count"], number, drive.Channel)


async def fair_tiny_in(peer: str, number: int) -> dict[str, Any]:
    """While the endpoint streams 300,000 tiny messages that the server has already."""
    tiny = upload("count", "", size=TINY_BYTES, number=TINY)
    return await lags(build(peer, "count"), tiny, number, drive.Channel)


async def fair_tiny_out(peer: str, number: int) -> dict[str, Any]:
    """While 300,000 tiny parts go to a server that takes everything at once."""
    shared.PART, shared.PARTS = b"p" * TINY_BYTES, TINY
    return await lags(build(peer, "parts"), WORKLOADS["parts"], number, drive.Channel)


async def django_stall(peer: str, number: int) -> dict[str, Any]:
    """While 64 MiB spool to disk, a message in each turn of the loop."""
    return await lags(build(peer, "django-kept"), upload("django-kept", ""), number, SuspendingChannel)


async def django_stall_buffered(peer: str, number: int) -> dict[str, Any]:
    """While 64 MiB spool to disk that the server has already."""
    return await lags(build(peer, "django-kept"), upload("django-kept", ""), number, drive.Channel)


async def django_stall_form(peer: str, number: int) -> dict[str, Any]:
    """While a form of 64 MiB is spooled to disk, a message in each turn of the loop, and parsed in a sync view."""
    return await lags(build(peer, "django-form"), form("django-form", ""), number, SuspendingChannel)


KINDS: dict[str, Callable[[str, int], Coroutine[Any, Any, dict[str, Any]]]] = {
    "inflight": inflight,
    "cancel": cancel,
    "left": left,
    "left-parts": left_parts,
    "threads": threads,
    "cycles": cycles,
    "peak": peak,
    "sync-peak": sync_peak,
    "file-peak": file_peak,
    "wsgi-download-peak": wsgi_download_peak,
    "wsgi-upload-peak": wsgi_upload_peak,
    "first-byte": first_byte,
    "stall": stall,
    "stall-buffered": stall_buffered,
    "fair-upload": fair_upload,
    "fair-tiny-in": fair_tiny_in,
    "fair-tiny-out": fair_tiny_out,
    "django-file-peak": django_file_peak,
    "django-stream-peak": django_stream_peak,
    "django-inflight": django_inflight,
    "django-threads": django_threads,
    "django-crowd": django_crowd,
    "django-cycles": django_cycles,
    "django-cancel": django_cancel,
    "django-stall": django_stall,
    "django-stall-buffered": django_stall_buffered,
    "django-stall-form": django_stall_form,
}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.fresh", description=__doc__)
    parser.add_argument("kind", choices=[*KINDS])
    parser.add_argument("peer", choices=sorted({*PEERS, *wsgi.BRIDGES, *HANDLERS}))
    parser.add_argument("number", type=int, help="requests, bytes or repeats, whichever the kind has")
    parser.add_argument("--core", type=int, help="bind to this core")
    options = parser.parse_args(arguments)
    logging.disable(logging.CRITICAL)
    try:
        with drive.bound(options.core):
            result = asyncio.run(KINDS[options.kind](options.peer, options.number))
    except ImportError as exc:
        result = {"skipped": f"not installed ({exc.name})"}
    except UnsupportedError:
        result = {}
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
