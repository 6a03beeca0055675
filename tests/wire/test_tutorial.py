"""docs/tutorial.md, typed in by a reader: its files, its servers, its commands, and what they print."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pages import tried_by

from .servers import PROJECT, STOP_SECONDS, eventually, free_port, typed

PAGE = (PROJECT / "docs" / "tutorial.md").read_text(encoding="utf-8")

BLOCK = re.compile(r"^```(?P<language>python|sh|console|text)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
STEPS = re.split(r"^## (?=\d)", PAGE, flags=re.MULTILINE)[1:]

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


class Reader:
    """Does what a step says, in a directory of its own, with another port than that of the page."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = str(free_port())
        self.environment = {**os.environ, "PYTHONPATH": str(PROJECT), "PYTHONUNBUFFERED": "1", "PYTEST_ADDOPTS": ""}
        self.log = directory / "log"
        self.server: subprocess.Popen[bytes] | None = None
        self.prints: list[str] = []
        self.runs = ""

    def serve(self, command: str) -> None:
        words = shlex.split(command)
        assert words[:3] == ["python", "-m", "uvicorn"]
        with self.log.open("wb") as log:
            self.server = subprocess.Popen(
                [sys.executable, *words[1:-1], "--port", self.port, words[-1]],
                cwd=self.directory,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        # What it says last: before that nobody listens yet, or a worker is still starting, which Ctrl-C may hang up.
        workers = int(words[words.index("--workers") + 1]) if "--workers" in words else 0
        eventually(lambda: "Uvicorn running" in self.printed(), command)
        eventually(lambda: self.printed().count("Application startup complete") >= workers, command)

    def printed(self) -> str:
        if self.server is not None:
            assert self.server.poll() is None, self.log.read_text()
        return self.log.read_text()

    def stop(self) -> None:
        """By Ctrl-C, which goes to the whole group of the terminal."""
        if self.server is None:
            return
        server, self.server = self.server, None
        os.killpg(server.pid, signal.SIGINT)
        try:
            server.wait(STOP_SECONDS)
        finally:
            if server.poll() is None:
                os.killpg(server.pid, signal.SIGKILL)
                server.wait(5)
        for text in self.prints:
            assert text in self.log.read_text()

    def test(self, command: str) -> None:
        words = shlex.split(command)
        assert words[:3] == ["python", "-m", "pytest"]
        done = subprocess.run(
            # Of the loops that may be installed here, the one that everybody has.
            [sys.executable, *words[1:], "-p", "no:cacheprovider", "-k", "not trio"],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        self.runs = done.stdout + done.stderr

    def type(self, console: str) -> None:
        """Each command of a console block prints what stands below it."""
        for command, expected, done in typed(console, self.directory, self.port):
            assert done.stdout.replace("\r", "") == expected, (command, done.stderr, self.log.read_text())

    def follow(self, step: str) -> None:
        for block in BLOCK.finditer(step):
            text = block["text"]
            match block["language"]:
                case "python":
                    if name := re.match(r"# (\w+\.py)\n", text):
                        (self.directory / name[1]).write_text(text, encoding="utf-8")
                case "sh" if "pytest" in text:
                    self.test(text)
                case "sh":
                    self.stop()
                    self.prints = []
                    self.serve(text)
                case "console":
                    self.type(text)
                case _ if self.server is not None:
                    self.prints.append(text)
                case _:
                    assert text.strip() in self.runs


@contextmanager
def reading(directory: Path) -> Generator[Reader]:
    reader = Reader(directory)
    try:
        yield reader
        reader.stop()
    finally:
        if reader.server is not None:
            os.killpg(reader.server.pid, signal.SIGKILL)
            reader.server.wait(5)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of all steps, so that each step is tested alone, too."""
    path = tmp_path_factory.mktemp("tutorial")
    for block in BLOCK.finditer(PAGE):
        if block["language"] == "python" and (name := re.match(r"# (\w+\.py)\n", block["text"])):
            (path / name[1]).write_text(block["text"], encoding="utf-8")
    return path


def test_blocks_of_the_page_are_those_of_its_steps() -> None:
    """All but those of its first lines, which install what the steps need."""
    followed = [
        block["text"].strip() for step in STEPS for block in BLOCK.finditer(step) if block["language"] != "python"
    ]
    pieces = tried_by("wire/test_tutorial.py::test_step_prints_what_the_page_shows")
    assert followed == [piece.text.strip() for piece in pieces]


@pytest.mark.parametrize("step", STEPS, ids=[step.partition("\n")[0].replace(" ", "-") for step in STEPS])
def test_step_prints_what_the_page_shows(step: str, directory: Path) -> None:
    """Every command works as printed, on uvicorn, and its output is that of the page, word by word."""
    with reading(directory) as reader:
        reader.follow(step)
