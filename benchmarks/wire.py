"""``python -m benchmarks.wire``: requests over sockets, asked for by ``wrk`` or ``oha``.

One worker on the first core (uvicorn with httptools and uvloop; Granian), the client with 64 connections on the second
one; each server in turn, the rounds interleaved; requests per second beside those of the reference.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import importlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from . import drive, files, shared
from .apart import EXIT_SECONDS, ROOT, scratch
from .apps import HANDLERS, PEERS, App, Peer
from .report import OURS, Row, Verdict, number, ratio, spread, verdict_text

CONNECTIONS = 64
CLIENTS = {
    "wrk": ("-t1", f"-c{CONNECTIONS}", "-d{seconds}s"),
    "oha": ("--no-tui", "-c", f"{CONNECTIONS}", "-z", "{seconds}s"),
}
"""What asks for answers: the first that is installed. Both print ``Requests/sec:``."""
# wrk says so in words; oha counts statuses and errors, those among them that the end of its time has cut short.
FAILURES = re.compile(
    r"Non-2xx|Socket errors|^ +\[(?!2\d\d\] \d+ responses|\d+\] aborted due to deadline)", re.MULTILINE
)
START_SECONDS = 30
ROUNDS = 7
SECONDS = 5
VARIABLES = ("BENCHMARKS_ROW", "BENCHMARKS_PEER")
"""What tells a server's process which application to build."""


@dataclass(frozen=True)
class Server:
    title: str
    needs: tuple[str, ...]
    arguments: tuple[str, ...]
    """The command line; the port is filled in."""


SERVERS = {
    "uvicorn": Server(
        "uvicorn, httptools, uvloop",
        ("uvicorn", "httptools", "uvloop"),
        tuple(
            "uvicorn --host 127.0.0.1 --port {port} --http httptools --loop uvloop --log-level error --no-access-log "
            "--factory benchmarks.wire:build".split()
        ),
    ),
    "granian": Server(
        "Granian, uvloop",
        ("granian", "uvloop"),
        tuple(
            "granian --host 127.0.0.1 --port {port} --interface asgi --loop uvloop --workers 1 --no-log "
            "--workers-kill-timeout 5 --factory benchmarks.wire:build".split()
        ),
    ),
}


@dataclass(frozen=True)
class Measurement:
    """One row: an application of each peer behind one server."""

    title: str
    app: str
    peers: Mapping[str, Peer]
    chosen: tuple[str, ...]
    """The peers that are measured where none are named."""
    reference: str
    goal: float | None
    """Ours is to answer at least so many times what the reference does, the watch included."""
    server: str = "uvicorn"


def django(title: str, app: str, goal: float | None, server: str) -> Measurement:
    return Measurement(f"Django, {title}", app, HANDLERS, tuple(HANDLERS), "django", goal, server)


MEASUREMENTS = {
    "wire-hello": Measurement(
        "hello", "hello", PEERS, ("raw", "starlette-pair", "asgicore", "asgicore-notify"), "raw", 0.92
    ),
    **{
        f"wire-{app}{suffix}": django(title, app, goal, server)
        for server, suffix in (("uvicorn", ""), ("granian", "-granian"))
        for app, title, goal in (
            ("django-async", "async view", 7.0),
            ("django-sync", "sync view", 3.0),
            ("django-sync-query", "sync view with a query, default middleware", None),
        )
    },
}
GROUPS = {"django": [name for name in MEASUREMENTS if "django" in name]}


def build() -> App:
    """The application, in the process of the server."""
    row, peer = (os.environ[name] for name in VARIABLES)
    measurement = MEASUREMENTS[row]
    app = measurement.peers[peer].build(measurement.app)
    assert app is not None
    return app


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextlib.contextmanager
def server(row: str, peer: str, core: int) -> Iterator[str]:
    """Run one server until it answers right; gives its URL."""
    measurement, port = MEASUREMENTS[row], free_port()
    arguments = [part.format(port=port) for part in SERVERS[measurement.server].arguments]
    with scratch() as env:
        env |= zip(VARIABLES, (row, peer), strict=True)
        with drive.bound(core if core in drive.cores() else None):
            process = subprocess.Popen([sys.executable, "-m", *arguments], cwd=ROOT, env=env)
        try:
            url = f"http://127.0.0.1:{port}/{measurement.app}"
            deadline = time.monotonic() + START_SECONDS
            while not check(url):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the server for {row}, {peer} did not start")
                time.sleep(0.05)
            yield url
        finally:
            process.terminate()
            try:
                process.wait(EXIT_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def check(url: str) -> bool:
    """Whether the server is there.

    Raises:
        RuntimeError: It is, and gives another answer.
    """
    # Whatever proxy the environment names is not for this machine itself.
    try:
        with build_opener(ProxyHandler({})).open(url, timeout=10) as response:
            body = response.read().decode()
    except (URLError, ConnectionError, http.client.HTTPException) as exc:
        if getattr(exc, "code", None) is not None:
            raise RuntimeError(f"{url} answered {exc}") from exc
        return False
    if response.status != 200 or body != shared.HELLO:
        raise RuntimeError(f"{url} answered {response.status} {body[:200]!r}")
    return True


def client() -> str | None:
    """The one of ``CLIENTS`` that is installed."""
    return next(filter(shutil.which, CLIENTS), None)


def requests_per_second(url: str, seconds: int, core: int) -> float:
    """One run of the client.

    Raises:
        RuntimeError: There were errors, so the figure would mean nothing.
    """
    name = client()
    assert name is not None
    command = [name, *(part.format(seconds=seconds) for part in CLIENTS[name]), url]
    with drive.bound(core if core in drive.cores() else None):
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 30, check=True)
    found = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
    if found is None or FAILURES.search(done.stdout):
        raise RuntimeError(f"{name}: {done.stdout}")
    return float(found[1])


def measure(row: str, peers: list[str], rounds: int, seconds: int) -> dict[str, list[float]]:
    """Requests per second of each peer in each round. A single round shows that it works, and has nothing before it."""
    figures: dict[str, list[float]] = {peer: [] for peer in peers}
    cores = drive.cores() or [0]
    server_core, client_core = cores[0], cores[-1]
    with contextlib.ExitStack() as stack:
        urls = {peer: stack.enter_context(server(row, peer, server_core)) for peer in peers}
        if rounds > 1:
            for url in urls.values():
                requests_per_second(url, 1, client_core)
        for _ in range(rounds):
            for peer, url in urls.items():
                figures[peer].append(requests_per_second(url, seconds, client_core))
    return figures


def judge(measurement: Measurement, figures: dict[str, list[float]]) -> list[Verdict]:
    reference, goal = measurement.reference, measurement.goal
    if goal is None or OURS not in figures or reference not in figures:
        return []
    value = ratio(figures, OURS, reference)
    return [Verdict(f"{OURS} ≥ {goal:g} times {reference}", value, value >= goal)]


def missing(measurement: Measurement) -> str:
    """What is not installed."""
    if client() is None:
        return "wrk is not installed, nor is oha (https://github.com/wg/wrk, https://github.com/hatoo/oha)"
    for name in SERVERS[measurement.server].needs:
        try:
            importlib.import_module(name)
        except ImportError:
            return f"{name} is not installed (pip install 'asgicore[server]')"
    return ""


def run(name: str, given: Sequence[str] | None, rounds: int, seconds: int) -> Row | None:
    """One row, of these peers or of its own; ``None`` if it is left out, which is said."""
    measurement = MEASUREMENTS[name]
    peers = [peer for peer in given or measurement.chosen if peer in measurement.peers]
    if given and not peers:
        return None
    if reason := missing(measurement):
        print(f"{name}: skipped: {reason}")
        return None
    figures = measure(name, peers, rounds, seconds)
    where = f"{client()}, {SERVERS[measurement.server].title}, one worker, {CONNECTIONS} connections, {seconds} s a run"
    if len(drive.cores()) < 2:
        where += "; server and client share one core"
    title = f"{measurement.title} on the wire, requests per second"
    if measurement.server != "uvicorn":
        title += f" ({SERVERS[measurement.server].title.partition(',')[0]})"
    row = Row(name, title, "requests/s", figures, judge(measurement, figures), where, is_higher_better=True)
    print_row(row, measurement.reference)
    return row


def print_row(row: Row, reference: str) -> None:
    print(f"\n{row.title} ({row.note})")
    for peer in reversed(row.ordered()):
        share = f"  {ratio(row.figures, peer, reference):6.2f} of {reference}" if reference in row.figures else ""
        print(f"  {peer:18}{number(row.median(peer)):>10}   {spread(row.figures[peer]):>20}{share}")
    for verdict in row.goals:
        print(f"  goal: {verdict_text(verdict)}", flush=True)


def parse(arguments: list[str]) -> Any:
    parser = argparse.ArgumentParser("python -m benchmarks.wire", description=__doc__)
    names = [*MEASUREMENTS, *GROUPS]
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--peers", nargs="+", choices=[*PEERS], metavar="PEER", help=", ".join(PEERS))
    parser.add_argument("--rounds", type=int, help=f"how many ({ROUNDS}, with --quick 1)")
    parser.add_argument("--seconds", type=int, help=f"length of one run ({SECONDS}, with --quick 1)")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument(
        "--output", type=Path, help="folder for the files; without it only a run of the defaults writes them"
    )
    options = parser.parse_args(arguments)
    options.is_default = not (options.quick or options.rounds or options.seconds or options.peers or options.only)
    options.rounds = options.rounds or (1 if options.quick else ROUNDS)
    options.seconds = options.seconds or (1 if options.quick else SECONDS)
    return options


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    names = [name for given in options.only or MEASUREMENTS for name in GROUPS.get(given, [given])]
    found = [run(name, options.peers, options.rounds, options.seconds) for name in names]
    rows = [row for row in found if row is not None]
    folder = options.output or (files.RESULTS if options.is_default else None)
    if folder is not None and rows:
        files.write(rows, options.rounds, folder, "wire")
        print(f"written to {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
