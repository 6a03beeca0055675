"""The files of a run: JSON with everything, a table in Markdown, a chart in SVG."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from .apps import HANDLERS, PEERS
from .chart import chart
from .report import OURS, Row, number, ratio, spread, verdict_text

RESULTS = Path(__file__).resolve().parent / "results"
STEMS = {"results": "In process", "wire": "On the wire"}
CPUS = Path("/proc/cpuinfo")
README = RESULTS.parent.parent / "README.md"
MARKS = ("<!-- figures:start -->", "<!-- figures:end -->")
README_PEERS = (
    OURS,
    "asgicore-notify",
    "raw",
    "starlette-pair",
    "starlette",
    "fastapi",
    "falcon",
    "blacksheep",
    "django",
)
IN_README = (
    "hello",
    "inspect",
    "json",
    "count",
    "spool",
    "whole",
    "parts",
    "thread",
    "sync-parts",
    "sync-download",
    "inflight",
    "import",
    "wire-hello",
)
README_BRIDGES = (OURS, "asgiref", "a2wsgi")
BRIDGES_IN_README = ("wsgi-hello", "wsgi-upload", "wsgi-download", "wsgi-upload-peak", "wsgi-download-peak")
DJANGO_IN_README = (
    "django-async",
    "django-async-uvloop",
    "django-sync",
    "django-async-default",
    "django-sync-default",
    "django-async-query",
    "django-sync-query",
    "django-file",
    "django-stream",
    "django-upload",
    "django-form",
    "django-file-peak",
    "django-stream-peak",
    "django-inflight",
    "django-inflight-threads",
    "django-threads-async",
    "django-crowd",
    "django-stall-buffered",
    "wire-django-async",
    "wire-django-sync",
    "wire-django-sync-query",
    "wire-django-async-granian",
    "wire-django-sync-granian",
    "wire-django-sync-query-granian",
)


@dataclass(frozen=True)
class Table:
    """One table of the README."""

    rows: tuple[str, ...]
    peers: tuple[str, ...]
    reference: str = ""
    """With one, a last column says how many times as good ours is."""


TABLES = (
    Table(IN_README, README_PEERS),
    Table(BRIDGES_IN_README, README_BRIDGES),
    Table(DJANGO_IN_README, tuple(HANDLERS), "django"),
)
BESIDE = ("a2wsgi", "anyio", "multidict", "uvloop", "trio", "uvicorn", "httptools", "granian", "pydantic", "asgiref")


def conditions(what: str, rounds: int) -> dict[str, Any]:
    """What the figures depend on, with nothing that tells whose machine it is."""
    versions: dict[str, str] = {}
    for peer in PEERS.values():
        if peer.version:
            versions[peer.distribution] = peer.version
    for name in BESIDE:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    system = f"{platform.system()} {'.'.join(platform.release().split('.')[:2])} {platform.machine()}"
    if CPUS.exists() and (model := re.search(r"^model name\s*: (.+)$", CPUS.read_text(), re.MULTILINE)):
        system += f", {model[1].strip()}"
    return {
        "what": what,
        "date": date.today().isoformat(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "os": system,
        "cores": os.cpu_count(),
        "rounds": rounds,
        "versions": versions,
    }


def described(facts: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    where = f"{facts['python']} on {facts['os']}, {facts['cores']} cores"
    return f"{facts['what']}: {where}, {facts['rounds']} rounds, {facts['date']}. {versions}."


def goals(rows: Iterable[Row]) -> Iterator[str]:
    """One table: every goal, and what became of it."""
    yield "| measurement | goal | ratio or figure | met |"
    yield "|---|---|---:|---|"
    for row in rows:
        for verdict in row.goals:
            value = "-" if verdict.value is None else number(verdict.value)
            met = "-" if verdict.is_met is None else "yes" if verdict.is_met else "**no**"
            yield f"| {row.title} | {verdict.text} | {value} | {met} |"


def section(row: Row) -> Iterator[str]:
    """One row with all its peers."""
    yield f"## {row.title[0].upper()}{row.title[1:]}"
    yield ""
    yield f"| | median, {row.unit} | lowest to highest round | asgicore / peer |"
    yield "|---|---:|---:|---:|"
    base = row.median(OURS) if OURS in row.figures else None
    for peer in reversed(row.ordered()) if row.is_higher_better else row.ordered():
        median = row.median(peer)
        share = f"{base / median:.2f}" if base is not None and median else "-"
        name = f"**{peer}**" if peer.startswith(OURS) else peer
        yield f"| {name} | {number(median)} | {spread(row.figures[peer])} | {share} |"
    yield ""
    for verdict in row.goals:
        yield f"Goal: {verdict_text(verdict)}."
        yield ""
    if row.note:
        yield f"{row.note[0].upper()}{row.note[1:]}."
        yield ""


def read(folder: Path) -> list[tuple[dict[str, Any], list[Row]]]:
    """Conditions and rows of the runs whose files are there."""
    runs = []
    for stem in STEMS:
        path = folder / f"{stem}.json"
        if path.exists():
            data = json.loads(path.read_text(encoding="utf-8"))
            runs.append((data["conditions"], [Row.from_json(row) for row in data["rows"]]))
    return runs


def write(rows: Sequence[Row], rounds: int, folder: Path, stem: str = "results") -> None:
    """Write the JSON of this run; then the table and the chart of all runs whose JSON is in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    data = {"conditions": conditions(STEMS[stem], rounds), "rows": [row.as_json() for row in rows]}
    (folder / f"{stem}.json").write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    runs = read(folder)
    every = [row for _, run in runs for row in run if row.figures]
    captions = [described(facts) for facts, _ in runs]
    text = [
        "<!-- Written by the benchmarks; do not edit. -->",
        "",
        "# Results",
        "",
        *[f"{caption}\n" for caption in captions],
        "![Medians of asgicore and its peers](results.svg)",
        "",
        *goals(every),
        "",
        *[line for row in every for line in section(row)],
    ]
    (folder / "results.md").write_text("\n".join(text).rstrip() + "\n", encoding="utf-8")
    (folder / "results.svg").write_text(chart(every, captions), encoding="utf-8")


def times_as_good(row: Row, reference: str) -> str:
    """Empty where it says nothing: one of the two is missing or has nothing at all."""
    sides = (OURS, reference) if row.is_higher_better else (reference, OURS)
    if not all(peer in row.figures and min(row.figures[peer]) > 0 for peer in sides):
        return ""
    return number(ratio(row.figures, *sides))


def put_into_readme(readme: Path, folder: Path) -> None:
    """Replace what stands between the two marks by the figures of the last runs.

    Raises:
        ValueError: There are no figures, or the marks are not there once each.
    """
    text = readme.read_text(encoding="utf-8")
    runs = read(folder)
    if not runs or [text.count(mark) for mark in MARKS] != [1, 1]:
        raise ValueError(f"needs {folder / 'results.json'}, and {MARKS} in {readme}")
    lines: list[str] = []
    for table in TABLES:
        rows = [row for _, run in runs for row in run if OURS in row.figures and row.name in table.rows]
        if not rows:
            continue
        heads = [*table.peers, "times as good"] if table.reference else table.peers
        lines += [f"| | {' | '.join(heads)} |", f"|---|{'---:|' * len(heads)}"]
        for row in rows:
            cells = [number(row.median(peer)) if peer in row.figures else "" for peer in table.peers]
            if table.reference:
                cells.append(times_as_good(row, table.reference))
            lines.append(f"| {row.title}, {row.unit} | {' | '.join(cells)} |")
        lines.append("")
    captions = [f"{described(facts)}\n" for facts, _ in runs]
    figures = "\n".join([*lines, *captions, "", "![Medians of asgicore and its peers](benchmarks/results/results.svg)"])
    before, rest = text.split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    readme.write_text(f"{before}{MARKS[0]}\n\n{figures}\n\n{MARKS[1]}{after}", encoding="utf-8")
