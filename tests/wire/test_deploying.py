"""docs/deploying.md: each command line serves, and ends when it is told to."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import signal
import ssl
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from pages import tried_by

from .servers import PROJECT, eventually, free_port

PAGE = (PROJECT / "docs" / "deploying.md").read_text(encoding="utf-8")

MODULES = ("uvicorn", "hypercorn", "granian", "gunicorn", "daphne")
COMMANDS = re.findall(rf"(?:^|`)((?:{'|'.join(MODULES)}) [^`\n]*hello:app)", PAGE, re.MULTILINE)
# That which makes a certificate, and that which asks a server that has it.
OPENSSL, CURL = re.findall(r"^(?:openssl|curl) .*$", PAGE, re.MULTILINE)

APP = """
from asgicore import Handler, Response

async def hello(request):
    return Response(request.scheme)

app = Handler(hello)
"""


def test_page_has_a_command_for_each_server() -> None:
    """All five, as they are served for a proxy and with TLS of their own, and two more workers."""
    plain = [command for command in COMMANDS if "8000" in command]
    encrypted = [command for command in COMMANDS if "8443" in command]
    assert {command.split()[0] for command in plain} == {command.split()[0] for command in encrypted} == set(MODULES)
    assert (len(plain), len(encrypted)) == (7, 5)
    pieces = {piece.text for piece in tried_by("wire/test_deploying.py::test_command_of_the_page_serves")}
    assert pieces == {OPENSSL, CURL, *COMMANDS} - {*encrypted}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the application is, and the certificate that the page's own command makes."""
    path = tmp_path_factory.mktemp("deploying")
    (path / "hello.py").write_text(APP, encoding="utf-8")
    if shutil.which("openssl"):
        subprocess.run(shlex.split(OPENSSL), cwd=path, check=True, capture_output=True, timeout=30)
    return path


@pytest.mark.parametrize("command", COMMANDS, ids=[re.sub(r"\W+", "-", command) for command in COMMANDS])
def test_command_of_the_page_serves(command: str, directory: Path) -> None:
    """The server answers at the address that it is given, and ends by SIGTERM."""
    words = shlex.split(command)
    needs = [words[0], *(["uvicorn_worker"] if "uvicorn_worker" in command else [])]
    if "trio" in words:
        needs.append("trio")
    for module in needs:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    is_encrypted = "8443" in command
    if is_encrypted and not (directory / "cert.pem").exists():
        pytest.skip("openssl is not installed")
    port = str(free_port())
    # One process each: a second one shows nothing more, and takes as long to start.
    words = shlex.split(command.replace("--workers 2", "--workers 1"))
    words = [word.replace("8443", port).replace("8000", port) for word in words]
    log = directory / f"log-{port}"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", *words],
            cwd=directory,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(directory), str(PROJECT)]), "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    scheme = "https" if is_encrypted else "http"
    trusting: ssl.SSLContext | bool = True
    if is_encrypted:
        # The certificate names localhost, and the server listens on its address.
        trusting = ssl.create_default_context(cafile=str(directory / "cert.pem"))
        trusting.check_hostname = False
    try:
        with httpx.Client(base_url=f"{scheme}://127.0.0.1:{port}", verify=trusting, trust_env=False) as client:

            def answers() -> bool:
                assert server.poll() is None, log.read_text()
                try:
                    return client.get("/").text == scheme
                except httpx.TransportError:
                    return False

            eventually(answers, command)
        if is_encrypted and shutil.which("curl"):
            asked = subprocess.run(
                shlex.split(CURL.replace("8443", port)), capture_output=True, text=True, timeout=20, check=False
            )
            assert asked.stdout == scheme, asked.stderr
        server.terminate()
        server.wait(10)
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait(5)
