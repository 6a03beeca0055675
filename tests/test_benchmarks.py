"""The benchmarks run, and what they compare is right."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BRIDGES = ("asgicore", "asgiref", "a2wsgi")
BENCH = ("baize", "blacksheep", "django", "emmett55", "falcon", "fastapi", "litestar", "quart", "starlette")
OURS = ("asgicore", "asgicore-notify", "asgicore-stream")

pytestmark = pytest.mark.skipif(not (ROOT / "benchmarks").exists(), reason="not a checkout")


def run(*arguments: str) -> str:
    """Run ``python -m benchmarks``; returns what it prints."""
    command = [sys.executable, "-m", "benchmarks", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_check_our_applications_answer_right() -> None:
    """Our applications, and the raw ones they are held against, give the answers that are asked for."""
    printed = run("--check", "--peers", "raw", *OURS)
    rows = dict(line.split(": ", 1) for line in printed.splitlines())
    for name in ("hello", "inspect", "json", "count", "spool", "whole", "parts", "hello-task", "thread"):
        assert {"raw", "asgicore", "asgicore-notify"} <= set(rows[name].split(", ")), name
    for name in ("sync-parts", "sync-download"):
        assert {"raw", "asgicore"} <= set(rows[name].split(", ")), name
    for name in ("wsgi-hello", "wsgi-upload", "wsgi-download"):
        assert "asgicore" in rows[name].split(", "), name


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
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- figures:start -->\n<!-- figures:end -->\nafter\n", encoding="utf-8")
    # In a process of its own, as everything here: the folder need not be importable where the tests run.
    code = "import sys, pathlib as p; from benchmarks.files import *; put_into_readme(*map(p.Path, sys.argv[1:]))"
    subprocess.run([sys.executable, "-c", code, readme, tmp_path], cwd=ROOT, check=True, timeout=50)
    text = readme.read_text(encoding="utf-8")
    assert "\n| | asgicore | asgiref | a2wsgi |\n" in text
    assert text.count("| WSGI hello, µs |") == text.count("| hello, µs |") == 1
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")


def test_quick_run_of_ours_gives_the_figures_of_fresh_processes(tmp_path: Path) -> None:
    """Memory and the time to the first byte of synchronous code are measured in processes of their own."""
    names = ("sync-peak", "wsgi-upload-peak", "first-byte")
    run("--quick", "--only", *names, "--peers", "asgicore", "--output", str(tmp_path))
    rows = {row["name"]: row for row in json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["rows"]}
    for name in (*names, "first-part"):
        assert rows[name]["results"]["asgicore"]["low"] > 0, rows[name]["note"]
