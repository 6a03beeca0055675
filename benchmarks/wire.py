"""``python -m benchmarks.wire``: hello over sockets, asked for by ``wrk``.

uvicorn with httptools and uvloop, one worker on the first core, ``wrk`` with 64 connections on the second one; each
server in turn, the rounds interleaved; requests per second as a share of what the bare ASGI function gets.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

from . import drive, files, shared
from .apps import PEERS
from .processes import ROOT
from .report import OURS, Row, Verdict, number, ratio, spread, verdict_text

CONNECTIONS = 64
SHARE = 0.92
"""Of raw: what we go for, the watch included."""
DEFAULT = ("raw", "starlette-pair", "asgicore", "asgicore-notify")


def serve(peer: str, core: int) -> None:
    """Serve one peer, after telling the port on the standard output. Does not return."""
    import uvicorn

    app = PEERS[peer].build("hello")
    with drive.bound(core if core in drive.cores() else None), socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, http="httptools", loop="uvloop", log_level="error", access_log=False)  # type: ignore[arg-type]
        print(listener.getsockname()[1], flush=True)
        uvicorn.Server(config).run(sockets=[listener])


@contextlib.contextmanager
def server(peer: str, core: int) -> Iterator[str]:
    """Run one server; gives its URL."""
    command = [sys.executable, "-m", "benchmarks.wire", "--serve", peer, "--core", str(core)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port = process.stdout.readline().strip()
            if not port:
                raise RuntimeError(f"the server for {peer} did not start")
            yield f"http://127.0.0.1:{port}/hello"
        finally:
            process.terminate()
            process.wait(10)


def check(url: str) -> None:
    # Whatever proxy the environment names is not for this machine itself.
    with build_opener(ProxyHandler({})).open(url, timeout=10) as response:
        body = response.read().decode()
    if response.status != 200 or body != shared.HELLO:
        raise RuntimeError(f"{url} answered {response.status} {body[:200]!r}")


def requests_per_second(url: str, seconds: int, core: int) -> float:
    """One run of ``wrk``.

    Raises:
        RuntimeError: There were errors, so the figure would mean nothing.
    """
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", url]
    with drive.bound(core if core in drive.cores() else None):
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 30, check=True)
    found = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
    if found is None or "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
        raise RuntimeError(f"wrk: {done.stdout}")
    return float(found[1])


def measure(peers: list[str], rounds: int, seconds: int) -> dict[str, list[float]]:
    """Requests per second of each peer in each round."""
    figures: dict[str, list[float]] = {peer: [] for peer in peers}
    cores = drive.cores() or [0]
    server_core, client_core = cores[0], cores[-1]
    with contextlib.ExitStack() as stack:
        urls = {peer: stack.enter_context(server(peer, server_core)) for peer in peers}
        for url in urls.values():
            check(url)
            requests_per_second(url, 1, client_core)
        for _ in range(rounds):
            for peer, url in urls.items():
                figures[peer].append(requests_per_second(url, seconds, client_core))
    return figures


def judge(figures: dict[str, list[float]]) -> list[Verdict]:
    if OURS not in figures or "raw" not in figures:
        return []
    value = ratio(figures, OURS, "raw")
    return [Verdict(f"{OURS} ≥ {SHARE:g} times raw", value, value >= SHARE)]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.wire", description=__doc__)
    parser.add_argument("--peers", nargs="+", choices=[*PEERS], default=[*DEFAULT])
    parser.add_argument("--rounds", type=int, help="how many (7, with --quick 1)")
    parser.add_argument("--seconds", type=int, help="length of one run (5, with --quick 1)")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument(
        "--output", type=Path, help="folder for the files; without it only a run of the defaults writes them"
    )
    parser.add_argument("--serve", choices=[*PEERS], help=argparse.SUPPRESS)
    parser.add_argument("--core", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve:
        serve(options.serve, options.core)
        return 0
    if shutil.which("wrk") is None:
        print("skipped: wrk is not installed (https://github.com/wg/wrk)")
        return 0
    try:
        for name in ("uvicorn", "httptools", "uvloop"):
            importlib.import_module(name)
    except ImportError as exc:
        print(f"skipped: {exc.name} is not installed (pip install 'asgicore[server]')")
        return 0
    rounds = options.rounds or (1 if options.quick else 7)
    seconds = options.seconds or (1 if options.quick else 5)
    figures = measure(options.peers, rounds, seconds)
    note = f"uvicorn, httptools, uvloop, one worker, {CONNECTIONS} connections, {seconds} s a run"
    if len(drive.cores()) < 2:
        note += "; server and client share one core"
    title = "hello on the wire, requests per second"
    row = Row("wire", title, "requests/s", figures, judge(figures), note, is_higher_better=True)
    print(f"{row.title} ({note})")
    for peer in reversed(row.ordered()):
        share = f"  {ratio(figures, peer, 'raw'):6.1%} of raw" if "raw" in figures else ""
        print(f"  {peer:18}{number(row.median(peer)):>10}   {spread(figures[peer]):>20}{share}")
    for verdict in row.goals:
        print(f"  goal: {verdict_text(verdict)}")
    is_default = not (options.quick or options.rounds or options.seconds) and options.peers == [*DEFAULT]
    folder = options.output or (files.RESULTS if is_default else None)
    if folder is not None:
        files.write([row], rounds, folder, "wire")
        print(f"written to {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
