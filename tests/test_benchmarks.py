"""The benchmarks run, and what they compare is right."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BRIDGES = ("asgicore", "asgiref", "a2wsgi")
BENCH = ("baize", "blacksheep", "django", "emmett55", "falcon", "fastapi", "litestar", "quart", "starlette")
WIRE = ("granian", "httptools", "uvicorn", "uvloop")
OURS = ("asgicore", "asgicore-notify", "asgicore-stream")

# Without the peers there is nothing to measure against; .ci/run fails if this skips where the extra is installed.
needs_peers = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ["django", *BENCH])), reason="needs the extra 'bench'"
)
pytestmark = [
    pytest.mark.skipif(not (ROOT / "benchmarks").exists(), reason="not a checkout"),
    pytest.mark.timeout(150),  # dozens of processes, each of which imports a framework
]


def run(*arguments: str, module: str = "benchmarks") -> str:
    """Run ``python -m benchmarks``; returns what it prints."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def put_into_readme(folder: Path) -> str:
    """Put the figures of a run into a README; returns its text."""
    readme = folder / "README.md"
    readme.write_text("before\n<!-- figures:start -->\n<!-- figures:end -->\nafter\n", encoding="utf-8")
    # In a process of its own, as everything here: the folder need not be importable where the tests run.
    code = "import sys, pathlib as p; from benchmarks.files import *; put_into_readme(*map(p.Path, sys.argv[1:]))"
    subprocess.run([sys.executable, "-c", code, readme, folder], cwd=ROOT, check=True, timeout=50)
    return readme.read_text(encoding="utf-8")


@pytest.mark.skipif(not (ROOT / ".git").exists() or shutil.which("git") is None, reason="needs a git checkout")
def test_run_against_a_commit_times_both_states() -> None:
    """The package as it is and as it was are timed side by side; what is no commit is refused by name."""
    printed = run("--quick", "--against", "HEAD", "--only", "hello")
    figures = {line[2:20].strip(): float(line[20:32]) for line in printed.splitlines() if "asgicore/peer" in line}
    before = next(name for name in figures if name.startswith("at "))
    assert figures.keys() == {"asgicore", before}
    assert all(figure > 0 for figure in figures.values())
    command = [sys.executable, "-m", "benchmarks", "--against", "no-such-commit"]
    refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert refused.returncode == 1
    assert "'no-such-commit'" in refused.stderr


def test_check_our_applications_answer_right() -> None:
    """Our applications, and the raw ones they are held against, give the answers that are asked for."""
    both = ("hello", "inspect", "json", "count", "spool", "whole", "parts", "hello-task", "thread")
    streams = ("sync-parts", "sync-download", "events", "named-events")
    # Multipart forms need the extra 'forms'.
    forms = ("form-upload", "form-small", "form-fields") if importlib.util.find_spec("multipart") else ("form-small",)
    alone = ("wsgi-hello", "wsgi-upload", "wsgi-download", "gzip", "gzip-parts", "file", "file-small")
    printed = run("--check", "--peers", "raw", *OURS, "--only", *both, *streams, *forms, *alone, "hop")
    rows = dict(line.split(": ", 1) for line in printed.splitlines())
    for name in both:
        assert {"raw", "asgicore", "asgicore-notify"} <= set(rows[name].split(", ")), name
    for name in streams:
        assert {"raw", "asgicore"} <= set(rows[name].split(", ")), name
    for name in forms:
        assert set(OURS) <= set(rows[name].split(", ")), name
    for name in alone:
        assert "asgicore" in rows[name].split(", "), name


@needs_peers
def test_check_both_handlers_of_the_django_site_answer_right() -> None:
    """The Django bridge and Django's own handler give the answers that are asked for, of every view."""
    rows = [line.split(": ", 1) for line in run("--check", "--only", "django").splitlines()]
    assert len(rows) >= 12
    assert all({"asgicore", "django"} <= set(names.split(", ")) for _, names in rows), rows


@pytest.mark.skipif(not all(map(importlib.util.find_spec, BENCH)), reason="needs the extra 'bench'")
def test_quick_run_prints_and_writes_every_peer(tmp_path: Path) -> None:
    """A quick run of one row times every peer and writes the table, the chart and the figures."""
    printed = run("--quick", "--only", "hello", "--output", str(tmp_path))
    assert "goal: asgicore" in printed
    data = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    row = data["rows"][0]
    assert {"raw", "starlette-pair", *OURS, *BENCH} <= set(row["results"])
    assert all(result["low"] > 0 for result in row["results"].values())
    assert all(goal["value"] is not None for goal in row["goals"])
    assert set(BENCH) <= set(data["conditions"]["versions"])
    assert "## Hello" in (tmp_path / "results.md").read_text(encoding="utf-8")
    assert (tmp_path / "results.svg").read_text(encoding="utf-8").startswith("<svg ")


@pytest.mark.skipif(not all(map(importlib.util.find_spec, BRIDGES)), reason="needs the extra 'bench'")
def test_quick_run_of_the_bridges_times_all_and_puts_them_into_the_readme(tmp_path: Path) -> None:
    """The WSGI bridges are timed side by side, and have a table of their own in the README."""
    run(
        "--quick",
        "--only",
        "wsgi-hello",
        "wsgi-download-peak",
        "hello",
        "--peers",
        "asgicore",
        "--output",
        str(tmp_path),
    )
    rows = {row["name"]: row for row in json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["rows"]}
    for name in ("wsgi-hello", "wsgi-download-peak"):
        assert set(rows[name]["results"]) == set(BRIDGES), rows[name]["note"]
    text = put_into_readme(tmp_path)
    assert "\n| | asgicore | asgiref | a2wsgi |\n" in text
    assert text.count("| WSGI hello, µs |") == text.count("| hello, µs |") == 1
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")


def test_quick_run_of_ours_gives_the_figures_of_fresh_processes(tmp_path: Path) -> None:
    """Memory and the time to the first byte of synchronous code are measured in processes of their own."""
    names = ("sync-peak", "wsgi-upload-peak", "first-byte", "left", "left-parts", "threads", "cycles")
    run("--quick", "--only", *names, "--peers", "asgicore", "--output", str(tmp_path))
    rows = {row["name"]: row for row in json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["rows"]}
    for name in ("sync-peak", "wsgi-upload-peak", "first-byte", "first-part", "left", "left-end"):
        assert rows[name]["results"]["asgicore"]["low"] > 0, rows[name]["note"]
    nothing = ("threads-async", "cycles-async", "cycles-sync", "cycles-stream", "cycles-sync-stream")
    assert [rows[name]["results"]["asgicore"]["high"] for name in nothing] == [0] * len(nothing)
    assert rows["left-parts"]["results"]["asgicore"]["high"] <= 2


@needs_peers
def test_quick_run_of_the_django_bridge_measures_both_handlers_and_puts_them_into_the_readme(tmp_path: Path) -> None:
    """Both handlers of the Django site are measured, in processes of their own, and have a table in the README."""
    names = ("django-async", "django-file-peak", "django-threads", "django-cycles", "django-cancel")
    run("--quick", "--only", *names, "--output", str(tmp_path))
    rows = {row["name"]: row for row in json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["rows"]}
    for row in rows.values():
        assert {"asgicore", "django"} <= set(row["results"]), row["note"]
    for name in ("django-async", "django-file-peak", "django-cancel"):
        assert all(result["low"] > 0 for result in rows[name]["results"].values()), name
    # What Django's own handler is known for: that it is counted shows that ours is.
    assert rows["django-threads-async"]["results"]["django"]["low"] >= 1
    assert rows["django-cycles-error"]["results"]["django"]["low"] >= 1
    assert rows["django-file-peak"]["results"]["django"]["low"] >= 190
    text = put_into_readme(tmp_path)
    assert "\n| | asgicore | django | times as good |\n" in text
    assert text.count("| Django, async view, µs |") == 1


@needs_peers
def test_process_of_a_peer_that_dies_leaves_it_out_and_tells() -> None:
    """A peer whose process ends before it answers is left out of the row, with a note."""
    code = """
from dataclasses import replace
from benchmarks import apart
from benchmarks.workloads import WORKLOADS
notes = []
workload = replace(WORKLOADS["django-async"], name="none")  # which the process does not know
peers = {"nobody": ("asgicore", apart.ROOT)}
figures = apart.measure(workload, peers, 1, 0.001, None, lambda *note: notes.append(note))
print(figures, notes)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert done.stdout == "{} [('nobody', 'failed: exit status 2')]\n", done.stderr


OHA = """\
#!/bin/sh
test "$*" = "--no-tui -c 64 -z 3s http://127.0.0.1:1/" || exit 2
cat <<END
Summary:
  Success rate:\t100.00%
  Requests/sec:\t1234.5678

Response time histogram:
  0.001 sec [7400] |■■■■■■■■

Status code distribution:
  [{status}] 7400 responses

Error distribution:
  [64] {error}
END
"""


@pytest.mark.parametrize(
    ("status", "error", "printed"),
    [
        (200, "aborted due to deadline", "1234.5678\n"),
        (503, "aborted due to deadline", "RuntimeError\n"),
        (200, "connection closed before message completed", "RuntimeError\n"),
    ],
)
def test_oha_asks_where_wrk_is_not_installed(status: int, error: str, printed: str, tmp_path: Path) -> None:
    """Its figure counts where every answer was right; what the end of its time has cut short is no failure."""
    (tmp_path / "oha").write_text(OHA.format(status=status, error=error), encoding="utf-8")
    (tmp_path / "oha").chmod(0o755)
    (tmp_path / "cat").symlink_to(shutil.which("cat") or "/bin/cat")
    code = """
from benchmarks import wire
assert wire.client() == "oha"
try:
    print(wire.requests_per_second("http://127.0.0.1:1/", 3, 0))
except RuntimeError as exc:
    print(type(exc).__name__)
"""
    environment = {**os.environ, "PATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=50
    )
    assert done.stdout == printed, done.stderr


@needs_peers
@pytest.mark.skipif(not shutil.which("wrk"), reason="needs wrk")
@pytest.mark.skipif(not all(map(importlib.util.find_spec, WIRE)), reason="needs the extras 'bench' and 'server'")
@pytest.mark.parametrize("name", ["wire-django-sync-query", "wire-django-async-granian"])
def test_quick_run_on_the_wire_measures_both_handlers_of_the_django_site(name: str, tmp_path: Path) -> None:
    """Both handlers of the Django site serve requests over sockets, behind uvicorn and Granian."""
    printed = run("--quick", "--only", name, "--output", str(tmp_path), module="benchmarks.wire")
    row = json.loads((tmp_path / "wire.json").read_text(encoding="utf-8"))["rows"][0]
    assert set(row["results"]) == {"asgicore", "django"}, printed
    assert all(result["low"] > 0 for result in row["results"].values())
