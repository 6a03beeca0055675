"""The pages, every block that stands on them, and the test that tries it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "benchmarks").rglob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]

_FENCE = re.compile(r" *(`{3,}|~{3,})(.*)")
_ITEM = re.compile(r"[-*:] |\d+\. |:::|!!!")


class Piece(NamedTuple):
    """One command of a shell block; of other languages the whole block."""

    page: str
    line: int
    language: str
    text: str

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"


SHELL = "sh"
INDENTED = "indented"  # by four blanks, without a fence: each line is a block here

_COMMAND = f"{SHELL}|{INDENTED}"
_VENV = r"\.venv/bin/"
_SERVER = "(uvicorn|hypercorn|granian|gunicorn|waitress-serve)"

# Each test, and what it tries: patterns for a page, a language and a whole piece. What would install something or take
# minutes is looked at as far as that goes without.
TRIED = {
    "test_docs.py::test_examples_of_a_page_do_what_the_page_says": [("README.md|docs/.*", "python", ".*")],
    "test_docs.py::test_errors_page_shows_the_tree_of_the_classes": [("docs/errors.md", "text", "AsgicoreError\n.*")],
    "test_lint_page.py::test_command_of_the_page_prints_what_it_shows": [("docs/lint.md", "py|console|text", ".*")],
    "test_testing_plugin.py::test_page_on_testing_shows_fixtures_that_work": [("docs/testing.md", "py", ".*")],
    # A drawing.
    "": [("docs/threat-model.md", "text", ".*──HTTP──▶.*")],
    # --- what is installed, and the tools
    "test_pages.py::test_environment_is_made_before_it_is_used": [
        (".*", SHELL, r"python3 -m venv \.venv|\. \.venv/bin/activate"),
    ],
    "test_pages.py::test_what_a_page_installs_is_declared": [(".*", _COMMAND, rf"({_VENV})?pip install .*")],
    "test_pages.py::test_run_of_pytest_names_what_there_is": [(".*", SHELL, rf"{_VENV}python -m pytest .*")],
    "test_pages.py::test_tool_is_installed_by_the_extra_dev": [(".*", SHELL, rf"{_VENV}(ruff|mypy|pyright)( .*)?")],
    "test_pages.py::test_options_of_the_benchmarks_are_known": [
        (".*", _COMMAND, rf"({_VENV})?python -m benchmarks(\.wire)?( .*)?"),
    ],
    "test_site.py::test_each_entry_of_the_reference_is_rendered": [
        (".*", SHELL, rf"{_VENV}python -m mkdocs build --strict"),
    ],
    "test_project.py::test_package_with_its_files_has_no_fault": [(".*", SHELL, rf"{_VENV}python \.ci/package")],
    # --- servers, and what is asked of them
    "test_check_own.py::test_check_of_the_readme_finds_nothing": [("README.md", SHELL, "python -m asgicore check .*")],
    "wire/test_examples.py::test_showcase_answers_what_its_page_asks": [
        ("README.md", SHELL, rf"{_VENV}python -m uvicorn examples\.showcase:app"),
    ],
    "wire/test_pages.py::test_server_of_a_page_answers": [
        ("README.md|docs/as-wsgi.md|docs/flask.md", SHELL, rf"{_SERVER} (.* )?\w+:app(lication)?"),
        ("docs/flask.md", "console", ".*"),
    ],
    "wire/test_pages.py::test_file_is_put_as_the_page_does_it": [("docs/uploads.md", SHELL, "curl -T .*")],
    "wire/test_pages.py::test_fresh_django_site_moves_as_the_pages_say": [
        ("README.md|docs/index.md|docs/django.md", "diff", ".*"),
        ("docs/django.md", SHELL, r"python -m (asgicore\.django_bridge|uvicorn) .*"),
    ],
    "wire/test_browser.py::test_script_of_the_page_on_events_hears_them": [("docs/events.md", "js", ".*")],
    "wire/test_deploying.py::test_command_of_the_page_serves": [
        ("docs/deploying.md", SHELL, r"openssl .*|curl .*|.* hello:app"),
    ],
    "wire/test_tutorial.py::test_step_prints_what_the_page_shows": [
        ("docs/tutorial.md", SHELL, "python -m (uvicorn|pytest) .*"),
        ("docs/tutorial.md", "console|text", ".*"),
    ],
}


def _blocks(page: Path) -> Iterator[tuple[int, str, str]]:
    """The line where each begins, its language, and what is within."""
    lines = iter(enumerate(page.read_text(encoding="utf-8").splitlines(keepends=True), 1))
    above = ""
    for number, line in lines:
        if opening := _FENCE.match(line):
            within: list[str] = []
            for _, inner in lines:
                if inner.strip() == opening[1]:
                    break
                within.append(inner)
            else:
                raise AssertionError(f"{page.name}:{number}: a fence that is never closed")
            yield number, opening[2].strip(), "".join(within)
        elif line.startswith(("    ", "\t")) and line.strip():
            if not _ITEM.match(above):  # what belongs to an item of a list, or to an entry of the reference
                yield number, INDENTED, line.strip()
        elif line.strip() and not line.startswith(" "):
            above = line


@cache
def pieces() -> list[Piece]:
    """All of all pages, in order."""
    found = []
    for path in PAGES:
        page = path.relative_to(ROOT).as_posix()
        for line, language, text in _blocks(path):
            parts = [text]
            if language in (SHELL, INDENTED):
                commands = (re.sub(r"\s+#.*", "", command) for command in text.splitlines())
                parts = [part for command in commands for part in command.split(" && ")]
            found += [Piece(page, line, language, part) for part in parts]
    return found


def who_tries(piece: Piece) -> list[str]:
    """What tries it: one test, if all is well."""
    return [test for test, patterns in TRIED.items() if any(fits(piece, *pattern) for pattern in patterns)]


def fits(piece: Piece, page: str, language: str, text: str) -> bool:
    return (
        re.fullmatch(page, piece.page) is not None
        and re.fullmatch(language, piece.language) is not None
        and re.fullmatch(text, piece.text, re.DOTALL) is not None
    )


def tried_by(test: str) -> list[Piece]:
    """What is left to a test, by its file and its name; there is something."""
    found = [piece for piece in pieces() if test in who_tries(piece)]
    assert found, test
    return found
