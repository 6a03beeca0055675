"""Every block of every page is tried; here are commands that would install something, or take minutes.

Blocks of Python run in test_docs.py, and servers in wire/.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from pages import PAGES, ROOT, TRIED, Piece, fits, pieces, tried_by, who_tries

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
EXTRAS: dict[str, list[str]] = PYPROJECT["project"]["optional-dependencies"]


def of(test: str) -> list[Piece]:
    return tried_by(f"test_pages.py::{test}")


def brought_by(extra: str) -> set[str]:
    """The names of the packages that an extra installs, by those that it names, too."""
    names = set()
    for requirement in EXTRAS[extra]:
        if own := re.match(r"asgicore\[([\w,]+)\]", requirement):
            names |= {name for other in own[1].split(",") for name in brought_by(other)}
        elif name := re.match(r"[\w.-]+", requirement):
            names.add(name[0])
    return names


def test_every_block_of_every_page_is_tried() -> None:
    """Each command, and each block that is none, is left to one test in ``TRIED``: what is new there needs one, too."""
    assert [(piece.where, piece.language, piece.text) for piece in pieces() if len(who_tries(piece)) != 1] == []


@pytest.mark.parametrize("test", [test for test in TRIED if test])
def test_what_tries_blocks_is_there(test: str) -> None:
    """It exists, and each of its patterns has something to try."""
    file, _, name = test.partition("::")
    source = (ROOT / "tests" / file).read_text(encoding="utf-8")
    assert re.search(rf"^(async )?def {name}\(", source, re.MULTILINE)
    for pattern in TRIED[test]:
        assert any(fits(piece, *pattern) for piece in pieces()), pattern


# --- what is installed --------------------------------------------------------------------------------------


def test_environment_is_made_before_it_is_used() -> None:
    """``.venv`` is made by what Python has, and what a page does in it comes after that."""
    assert importlib.util.find_spec("venv")
    assert {piece.text for piece in of("test_environment_is_made_before_it_is_used")} == {
        "python3 -m venv .venv",
        ". .venv/bin/activate",
    }
    for page in {piece.page for piece in pieces()}:
        commands = [piece.text for piece in pieces() if piece.page == page and ".venv" in piece.text]
        assert commands[:1] in ([], ["python3 -m venv .venv"]), page


def test_what_a_page_installs_is_declared() -> None:
    """The extras are those of the project, and other packages are in one of them."""
    for piece in of("test_what_a_page_installs_is_declared"):
        words = shlex.split(piece.text.partition("pip install ")[2])
        for word in words:
            extras = re.fullmatch(r"\.(?:\[([\w,]+)\])?", word)
            if extras:
                assert {*(extras[1] or "").split(",")} <= {"", *EXTRAS}, piece.where
            else:
                assert word in {"-q", "-e", *brought_by("dev")}, piece.where


def test_extra_that_a_text_names_is_declared() -> None:
    """Also where ``pip install`` stands within a line."""
    for page in PAGES:
        for extras in re.findall(r"pip install [^`\n]*\.\[([\w,]+)\]", page.read_text(encoding="utf-8")):
            assert {*extras.split(",")} <= EXTRAS.keys(), page.name


# --- the tools ----------------------------------------------------------------------------------------------


def test_run_of_pytest_names_what_there_is(request: pytest.FixtureRequest) -> None:
    """Files that are there, and options that it has with the plugins of the extra ``test``."""
    assert {"pytest", "pytest-xdist", "pytest-cov"} <= brought_by("test")
    for module in ("xdist", "pytest_cov"):
        pytest.importorskip(module)
    for piece in of("test_run_of_pytest_names_what_there_is"):
        for word in shlex.split(piece.text)[3:]:
            if word.startswith("-"):
                request.config.getoption(word)  # ValueError: there is no such option
            else:
                assert word.isdigit() or (ROOT / word).exists(), piece.where


def test_tool_is_installed_by_the_extra_dev() -> None:
    """Each takes its settings from the project, and knows the options; ruff alone has any here."""
    for piece in of("test_tool_is_installed_by_the_extra_dev"):
        tool, *options = shlex.split(piece.text.removeprefix(".venv/bin/"))
        assert tool in brought_by("dev")
        assert tool in PYPROJECT["tool"]
        found = shutil.which(tool, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
        if tool == "ruff" and found:
            done = subprocess.run([found, *options, "--help"], capture_output=True, text=True, timeout=20, check=False)
            assert done.returncode == 0, done.stderr
        else:
            assert tool == "ruff" or not options, piece.where


def test_options_of_the_benchmarks_are_known() -> None:
    """Every command can be read; test_benchmarks.py runs some of them."""
    arguments = [shlex.split(piece.text)[2:] for piece in of("test_options_of_the_benchmarks_are_known")]
    code = """
import importlib, json, sys
for module, *options in json.load(sys.stdin):
    importlib.import_module(module if "." in module else f"{module}.__main__").parse(options)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        input=json.dumps(arguments),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
