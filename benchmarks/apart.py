"""What cannot share a process: each gets one, which waits while the others have their turn.

``python -m benchmarks.apart PEER SECONDS WORKLOAD`` is such a process: for each line on its standard input it does one
round, and answers with a line of JSON. With 0 seconds it only checks the answers, of as many workloads as it is given.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import gc
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import drive
from .apps import PEERS, Peer
from .workloads import WORKLOADS, Workload, WrongAnswerError

ROOT = Path(__file__).resolve().parent.parent
DEADLINE_SECONDS = 300
EXIT_SECONDS = 30


@contextlib.contextmanager
def scratch() -> Iterator[dict[str, str]]:
    """The environment for processes whose temporary files go when this ends, whatever became of the processes."""
    # What is imported from a checkout would be compiled each time, and what was installed is compiled already.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
        yield {**environment, "TMPDIR": folder, "TEMP": folder, "TMP": folder}


class Process:
    """One peer in a process of its own, with the packages of ``tree``."""

    def __init__(
        self,
        workloads: Iterable[Workload],
        peer: str,
        tree: Path,
        seconds: float,
        core: int | None,
        env: dict[str, str],
    ) -> None:
        names = [workload.name for workload in workloads]
        command = [sys.executable, "-m", "benchmarks.apart", peer, str(seconds), *names]
        if core is not None:
            command += ["--core", str(core)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, cwd=tree, env=env, stdin=pipe, stdout=pipe, text=True)

    def answer(self) -> dict[str, Any]:
        """What the process says next; it ends itself when that takes too long."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"note": f"failed: exit status {self.process.wait(EXIT_SECONDS)}"}

    def round(self) -> dict[str, Any]:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has said why, or says nothing any more
            print(file=self.process.stdin, flush=True)
        return self.answer()

    def close(self) -> None:
        """End it: no more lines come."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


def measure(
    workload: Workload,
    peers: Mapping[str, tuple[str, Path]],
    rounds: int,
    seconds: float,
    core: int | None,
    note: Callable[[str, str], None],
) -> dict[str, list[float]]:
    """As ``drive.measure``, each in a process of its own: by name, the peer and the folder with its packages."""
    figures: dict[str, list[float]] = {}
    with contextlib.ExitStack() as stack:
        env = stack.enter_context(scratch())
        processes: dict[str, Process] = {}
        for name, (peer, tree) in peers.items():
            process = Process([workload], peer, tree, seconds if rounds else 0, core, env)
            stack.callback(process.close)
            answer = process.answer()
            if "note" in answer:
                note(name, answer["note"])
            else:
                processes[name] = process
                figures[name] = []
        for _ in range(rounds):
            for name, process in list(processes.items()):
                answer = process.round()
                if "note" in answer:
                    note(name, answer["note"])
                    del processes[name], figures[name]
                else:
                    figures[name].append(answer["seconds"])
    return figures


def check(
    workloads: Sequence[Workload], peers: Iterable[str], core: int | None, note: Callable[[Workload, str, str], None]
) -> dict[str, list[str]]:
    """By row, the peers that answer right. A peer gets one process for all rows: nothing is measured."""
    right: dict[str, list[str]] = {workload.name: [] for workload in workloads}
    with scratch() as env:
        for peer in peers:
            rows = [workload for workload in workloads if find_peer(workload, peer) is not None]
            process = Process(rows, peer, ROOT, 0, core, env)
            with contextlib.closing(process):
                for workload in rows:
                    answer = process.answer()
                    if "note" in answer:
                        note(workload, peer, answer["note"])
                    else:
                        right[workload.name].append(peer)
    return right


def find_peer(workload: Workload, name: str) -> Peer | None:
    """The peer of that name, of the row alone or of all rows; ``None`` if the row has none."""
    if workload.own_peers:
        return next((peer for peer in workload.own_peers if peer.name == name), None)
    return PEERS[name] if name in PEERS and name in (workload.peers or PEERS) else None


def tell(**answer: object) -> None:
    print(json.dumps(answer), flush=True)


async def serve(workload: Workload, peer: Peer, seconds: float) -> None:
    """Say that the answer is right, then do a round for each line that comes."""
    async with contextlib.AsyncExitStack() as stack:
        app = await drive.start(workload, peer, stack, lambda _, text: tell(note=text))
        if app is None:
            return
        try:
            number = await drive.warm(app, workload, seconds) if seconds else 0
            gc.collect()
            gc.freeze()
            tell()
            if not seconds:
                return
            # Waiting for its turn may take any time; a round may not.
            faulthandler.cancel_dump_traceback_later()
            # This blocks the loop: between the rounds nothing here has anything to do.
            for _ in sys.stdin:
                faulthandler.dump_traceback_later(DEADLINE_SECONDS, exit=True)
                gc.collect()
                spent = await drive.spend(app, workload, number)
                faulthandler.cancel_dump_traceback_later()
                tell(seconds=spent / number)
        except WrongAnswerError as exc:
            tell(note=f"wrong answer: {exc}")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.apart", description=__doc__)
    parser.add_argument("peer")
    parser.add_argument("seconds", type=float, help="CPU time of one round; 0 checks the answers only")
    parser.add_argument("workloads", nargs="+", choices=WORKLOADS, metavar="workload")
    parser.add_argument("--core", type=int, help="bind to this core")
    options = parser.parse_args(arguments)
    logging.disable(logging.CRITICAL)
    faulthandler.dump_traceback_later(DEADLINE_SECONDS, exit=True)
    for workload in map(WORKLOADS.__getitem__, options.workloads):
        peer = find_peer(workload, options.peer)
        if peer is None:
            tell(note="has no part in this")
            continue
        try:
            with drive.bound(options.core):
                drive.run(workload.loop, serve, workload, peer, options.seconds)
        except ImportError as exc:
            tell(note=f"not installed ({exc.name})")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
