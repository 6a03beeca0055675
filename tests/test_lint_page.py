"""docs/lint.md: its commands print what it shows, its tables are those of the code."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from pages import tried_by

from asgicore.__main__ import main
from asgicore.testing._check.probes import NAMES, describe_probe
from asgicore.testing._check.rules import CHECK_RULES
from asgicore.testing._lint.rules import RULES

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "lint.md").read_text(encoding="utf-8")

# A file, a command, and what it prints.
SHOWN = re.findall(
    r"^```py\n# (\w+)\.py\n(.*?)^```$.*?^```console\n\$ (.*?)^```$.*?^```text\n(.*?)^```$",
    PAGE,
    re.DOTALL | re.MULTILINE,
)


def test_page_shows_three_applications() -> None:
    """Starlette, Django and Quart, and the lint of two; each with its file, one command and what that prints."""
    assert [name for name, *_ in SHOWN] == ["lint_both", "starlette_app", "django_app", "quart_app"]
    pieces = tried_by("test_lint_page.py::test_command_of_the_page_prints_what_it_shows")
    shown = [(f"# {name}.py\n{code}", f"$ {command}", output) for name, code, command, output in SHOWN]
    assert [piece.text for piece in pieces] == [text for texts in shown for text in texts]


@pytest.mark.parametrize(("name", "code", "command", "output"), SHOWN, ids=[name for name, *_ in SHOWN])
def test_command_of_the_page_prints_what_it_shows(
    name: str, code: str, command: str, output: str, tmp_path: Path
) -> None:
    """Word by word, but for the seconds; the exit status of the check is 1 where there are errors."""
    for framework in re.findall(r"\b([a-z]+)_app\b", f"{name}\n{code}"):
        if importlib.util.find_spec(framework) is None:
            pytest.skip(f"needs {framework}")
    for file, text, *_ in SHOWN:
        (tmp_path / f"{file}.py").write_text(text, encoding="utf-8")
    words = shlex.split(command)
    assert words[0] == "python"
    done = subprocess.run(
        [sys.executable, *words[1:]],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == ("check" in words), done.stderr
    assert without_seconds(done.stdout) == without_seconds(output)


def without_seconds(text: str) -> str:
    return re.sub(r"in \d+\.\d s$", "in some s", text.strip(), flags=re.MULTILINE)


def table(title: str) -> list[tuple[str, ...]]:
    """The rows of the first table after a line, without its head."""
    rest = PAGE[PAGE.index(title) :]
    found = re.search(r"^\|.*\n\|[-|]+\n((?:\|.*\n)+)", rest, re.MULTILINE)
    assert found
    return [tuple(cell.strip().strip("`") for cell in row.strip("|").split(" | ")) for row in found[1].splitlines()]


@pytest.mark.parametrize(
    ("title", "rules"),
    [
        ("### Rules of the check", CHECK_RULES.values()),
        ("By the application:", [rule for rule in RULES.values() if rule.by == "application"]),
        ("By the server:", [rule for rule in RULES.values() if rule.by == "server"]),
    ],
)
def test_page_lists_every_rule(title: str, rules: list[object]) -> None:
    """With its level, where it is written, and what it says."""
    assert table(title) == [(rule.name, rule.level, rule.section, rule.text) for rule in rules]  # type: ignore[attr-defined]


def test_page_lists_every_probe() -> None:
    """With what it tries."""
    assert table("### Probes") == [(name, describe_probe(name)) for name in NAMES]


def test_page_lists_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    """Those that the command knows."""
    with pytest.raises(SystemExit):
        main(["check", "--help"])
    known = set(re.findall(r"^  (--[\w-]+)", capsys.readouterr().out, re.MULTILINE))
    assert {row[0].split()[0] for row in table("### Options")} == known
