"""``python -m benchmarks``: measure asgicore and its peers, and write the tables and the chart."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from . import apart, commits, drive, files, processes, wire
from .apps import PEERS, Peer
from .report import OURS, Row, judge, print_row
from .workloads import WORKLOADS, Goal, Workload

NAMES = [*WORKLOADS, *processes.KINDS, *wire.MEASUREMENTS]
GROUPS = {prefix: [name for name in NAMES if name.startswith(f"{prefix}-")] for prefix in ("wsgi", "django", "wire")}
HELP = f"{', '.join(NAMES)}; {', '.join(GROUPS)} for all that begin so"
SCALES = {"µs": 1e6, "ms": 1e3}


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=[*NAMES, *GROUPS], metavar="NAME", help=HELP)
    parser.add_argument("--peers", nargs="+", choices=[*PEERS], metavar="PEER", help=", ".join(PEERS))
    parser.add_argument(
        "--rounds", type=int, help="how many (15, with --quick 3); a third of it for fresh processes, half on the wire"
    )
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds: to see that it works")
    parser.add_argument("--check", action="store_true", help="check the answers, measure nothing")
    parser.add_argument("--core", type=int, help="the core to run on (the last one)")
    parser.add_argument(
        "--output",
        type=Path,
        help="folder for the files; without it only a run of everything, and not a quick one, writes them",
    )
    parser.add_argument("--readme", action="store_true", help="measure nothing; put the last figures into README.md")
    parser.add_argument(
        "--against",
        metavar="COMMIT",
        help="measure asgicore alone, as it is and as it was in this commit: rows in one process, not fresh ones",
    )
    return parser.parse_args(arguments)


class Run:
    """One run of the command."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.named: list[str] | None = options.peers
        self.peers: list[str] = options.peers or [*PEERS]
        self.is_quick: bool = options.quick
        self.seconds: float = 0.005 if self.is_quick else 0.05
        self.rounds: int = 0 if options.check else options.rounds or (3 if options.quick else 15)
        self.wire_rounds: int = max(self.rounds // 2, 1)
        self.core: int | None = max(drive.cores(), default=None) if options.core is None else options.core
        self.failed: list[str] = []

    def against(self, workload: Workload, name: str, tree: Path) -> Row:
        """Measure asgicore as it is, beside that of ``tree``."""
        notes: list[str] = []
        sides = {OURS: (OURS, apart.ROOT), name: (OURS, tree)}
        figures = apart.measure(
            workload, sides, self.rounds, self.seconds, self.core, lambda side, text: notes.append(f"{side}: {text}")
        )
        return self.row(workload, figures, notes)

    def peers_of(self, workload: Workload) -> list[Peer]:
        if workload.own_peers:
            return [peer for peer in workload.own_peers if peer.name in self.peers or peer.name not in PEERS]
        return [PEERS[name] for name in self.peers if not workload.peers or name in workload.peers]

    def check(self, workloads: Sequence[Workload]) -> None:
        """Measure nothing; print who answers right."""
        apart_ones = [workload for workload in workloads if workload.is_apart]
        peers = dict.fromkeys(peer.name for workload in apart_ones for peer in self.peers_of(workload))
        right = apart.check(apart_ones, peers, self.core, self.fail)
        for workload in workloads:
            names = right[workload.name] if workload.is_apart else self.in_process(workload).figures
            print(f"{workload.name}: {', '.join(names)}")

    def fail(self, workload: Workload, peer: str, text: str) -> None:
        """Have the command fail if this note is of a failure."""
        if text.startswith(("wrong answer", "failed")):
            self.failed.append(f"{workload.name}, {peer}: {text}")

    def in_process(self, workload: Workload) -> Row:
        """Measure one workload, all peers side by side."""
        peers = self.peers_of(workload)
        notes: list[str] = [workload.note] if workload.note else []

        def note(peer: str, text: str) -> None:
            notes.append(f"{peer}: {text}")
            self.fail(workload, peer, text)

        try:
            if workload.is_apart:
                sides = {peer.name: (peer.name, apart.ROOT) for peer in peers}
                figures = apart.measure(workload, sides, self.rounds, self.seconds, self.core, note)
            else:
                with drive.bound(self.core):
                    figures = drive.run(workload.loop, drive.measure, workload, peers, self.rounds, self.seconds, note)
        except ImportError as exc:
            figures = {}
            notes.append(f"skipped: {exc.name} is not installed")
        return self.row(workload, figures, notes, workload.goals)

    def row(
        self, workload: Workload, figures: dict[str, list[float]], notes: list[str], goals: Sequence[Goal] = ()
    ) -> Row:
        """The figures in the unit of the row, held against its goals."""
        if self.rounds:
            scale = SCALES[workload.unit] / workload.per
            figures = {peer: [value * scale for value in many] for peer, many in figures.items()}
        verdicts = judge(figures, goals) if figures and self.rounds else []
        return Row(workload.name, workload.title, workload.unit, figures, verdicts, "; ".join(notes))

    def fresh(self, kind: str) -> list[Row]:
        """Measure one kind in fresh processes."""
        rounds = max(self.rounds // 3, 1)
        rows = processes.KINDS[kind](processes.Plan(tuple(self.peers), rounds, self.is_quick, self.core))
        self.failed += [row.note for row in rows if "failed (" in row.note]
        return rows

    def on_the_wire(self, name: str) -> Row | None:
        """Measure one server; ``None`` if what it needs is not installed."""
        return wire.run(name, self.named, self.wire_rounds, 1 if self.is_quick else wire.SECONDS)


def choose(given: list[str] | None) -> list[str]:
    """The rows of these names, groups among them."""
    return [row for name in given or NAMES for row in GROUPS.get(name, [name])]


def compare(options: argparse.Namespace) -> int:
    """Measure two states of asgicore side by side; the exit status is 1 if one of them failed."""
    logging.disable(logging.CRITICAL)
    run = Run(options)
    failed = False
    with commits.tree_of(options.against) as (name, tree):
        for chosen in choose(options.only):
            if chosen in WORKLOADS and apart.find_peer(WORKLOADS[chosen], OURS) is not None:
                row = run.against(WORKLOADS[chosen], name, tree)
                failed = failed or len(row.figures) < 2
                print_row(row)
    return 1 if failed else 0


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    if options.against is not None:
        return compare(options)
    if options.readme:
        files.put_into_readme(files.README, options.output or files.RESULTS)
        return 0
    # Peers log what they are asked for, and the time of a log is not what is measured.
    logging.disable(logging.CRITICAL)
    run = Run(options)
    rows: list[Row] = []
    wire_rows: list[Row] = []
    names = choose(options.only)
    if options.check:
        run.check([WORKLOADS[name] for name in names if name in WORKLOADS])
        names = []
    for name in names:
        if name in WORKLOADS:
            rows.append(run.in_process(WORKLOADS[name]))
            print_row(rows[-1])
        elif name in wire.MEASUREMENTS:
            if (row := run.on_the_wire(name)) is not None:
                wire_rows.append(row)
        else:
            for row in run.fresh(name):
                rows.append(row)
                print_row(row)
    is_whole = not (options.only or options.peers or options.quick or options.check)
    folder = options.output or (files.RESULTS if is_whole else None)
    if folder is not None:
        for stem, some, rounds in (("results", rows, run.rounds), ("wire", wire_rows, run.wire_rounds)):
            if some:
                files.write(some, rounds, folder, stem)
        print(f"\nwritten to {folder}")
    for failure in run.failed:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if run.failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
