"""Servers that the pages start: each command line serves, and what is asked of it prints what the page shows."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pages import Piece, pieces, tried_by

from .servers import PROJECT, UVICORN, Kind, running, typed

ADDRESS = {
    "uvicorn": ("--port", "{port}"),
    "hypercorn": ("--bind", "127.0.0.1:{port}"),
    "granian": ("--port", "{port}"),
    "gunicorn": ("--bind", "127.0.0.1:{port}", "--no-control-socket"),
    "waitress": ("--listen=127.0.0.1:{port}",),
}


def of(test: str, language: str) -> list[Piece]:
    return [piece for piece in tried_by(f"wire/test_pages.py::{test}") if piece.language == language]


def started_by(command: str) -> tuple[Kind, str]:
    """The server that a command starts, with one process at a port that is free, and its application."""
    words = shlex.split(re.sub(r"--workers \d+", "--workers 1", command.removeprefix("python -m ")))
    server, *options, app = words
    module = server.removesuffix("-serve")
    modules = (module, "trio") if "trio" in options else (module,)
    return Kind(name=server, modules=modules, arguments=(*options, *ADDRESS[module], app)), app


def write(page: str, start: str, file: Path) -> None:
    """Save the block of Python that begins so."""
    (code,) = (one.text for one in pieces() if one.page == page and one.text.startswith(start))
    file.write_text(code, encoding="utf-8")


def importing(directory: Path) -> dict[str, str]:
    return {"PYTHONPATH": os.pathsep.join([str(directory), str(PROJECT)])}


SERVERS = of("test_server_of_a_page_answers", "sh")


@pytest.mark.parametrize("piece", SERVERS, ids=[re.sub(r"\W+", "-", piece.text) for piece in SERVERS])
def test_server_of_a_page_answers(piece: Piece, tmp_path: Path) -> None:
    """With the application of the page, which greets; and as the page types it, where it does."""
    kind, app = started_by(piece.text)
    module = app.partition(":")[0]
    if module == "site_on_asgi":
        pytest.importorskip("flask")
    write(piece.page, f"# {module}.py\n", tmp_path / f"{module}.py")
    with running(kind, tmp_path, app, importing(tmp_path)) as server:
        with server.client() as client:
            assert client.get("/").text == "Hello, world!"
        for console in of("test_server_of_a_page_answers", "console"):
            if console.page == piece.page and shutil.which("curl"):
                for command, expected, done in typed(console.text, tmp_path, server.port):
                    assert done.stdout == expected, (command, done.stderr)
    assert server.complaints() == [], server.log


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_file_is_put_as_the_page_does_it(tmp_path: Path) -> None:
    """The command of the page stores the file, whole, under the name of the path."""
    (piece,) = of("test_file_is_put_as_the_page_does_it", "sh")
    write(piece.page, "import shutil\n", tmp_path / "uploads.py")
    photo = bytes(range(256)) * 2**13
    (tmp_path / "photo.jpg").write_bytes(photo)
    (tmp_path / "stored").mkdir()
    variables = {**importing(tmp_path), "TMPDIR": str(tmp_path / "stored")}
    with running(UVICORN, tmp_path, "uploads:app", variables) as server:
        ((_, _, done),) = typed(f"$ {piece.text} --fail\n", tmp_path, server.port)
        assert done.returncode == 0, done.stderr
        (stored,) = (tmp_path / "stored").glob("*/*")
        assert (stored.name, stored.read_bytes() == photo) == ("photo", True)
    assert server.complaints() == [], server.log


def patched(text: str, diff: str) -> str:
    """A text with the change that a diff shows, which fits to it in one place."""
    lines = [(line[:1], line[1:] if line.strip() else line) for line in diff.splitlines(keepends=True)]
    before = "".join(line for sign, line in lines if sign != "+")
    after = "".join(line for sign, line in lines if sign != "-")
    assert text.count(before) == 1, diff
    return text.replace(before, after)


def test_fresh_django_site_moves_as_the_pages_say(tmp_path: Path) -> None:
    """What ``startproject`` writes takes the change of each page, is told the one thing to change, and is served."""
    pytest.importorskip("django", reason="needs the extra 'django'")
    name = "test_fresh_django_site_moves_as_the_pages_say"
    look, serve = (piece.text for piece in of(name, "sh"))
    variables = {**os.environ, **importing(tmp_path)}

    def run(command: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, *shlex.split(command)[1:]]
        return subprocess.run(
            words, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=50, check=False
        )

    made = run("python -m django startproject mysite .")
    assert made.returncode == 0, made.stderr
    asgi = tmp_path / "mysite" / "asgi.py"
    # The pages have the quotes of Black, which startproject calls where it is installed.
    written = asgi.read_text(encoding="utf-8").replace("'", '"')
    (moved,) = {patched(written, piece.text) for piece in of(name, "diff")}
    asgi.write_text(moved, encoding="utf-8")

    told = run(look)
    assert told.returncode == 1, told.stdout + told.stderr
    assert {line.split()[0] for line in told.stdout.splitlines()} == {"ok", "note", "change"}
    (change,) = (line for line in told.stdout.splitlines() if line.startswith("change"))
    assert "'CONN_MAX_AGE': 60" in change

    kind, app = started_by(serve)
    with running(kind, tmp_path, app, importing(tmp_path)) as server, server.client() as client:
        assert "The install worked successfully" in client.get("/").text
    assert server.complaints() == [], server.log
