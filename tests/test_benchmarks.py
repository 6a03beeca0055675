"""The benchmarks run, and what they compare is right."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
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
    for name in ("hello", "inspect", "json", "count", "spool", "whole", "parts", "hello-task"):
        assert {"raw", "asgicore", "asgicore-notify"} <= set(rows[name].split(", ")), name


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
