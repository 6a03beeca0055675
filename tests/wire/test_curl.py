"""The same servers and curl, which speaks both protocols from a code base of its own."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from .clients import curl_command
from .servers import Server
from .site import TIGHT, content

SIZE = 50 * 2**20

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@pytest.fixture(scope="session")
def large_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("curl") / "large"
    path.write_bytes(b"".join(content(SIZE)))
    return path


@pytest.fixture(scope="session")
def large_sha256(large_file: Path) -> str:
    return hashlib.sha256(large_file.read_bytes()).hexdigest()


def curl(server: Server, path: str, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = curl_command(server, path, *arguments)
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=50)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done


def test_curl_upload_arrives_whole(server: Server, large_file: Path, large_sha256: str) -> None:
    """A file of 50 MiB arrives byte for byte."""
    answer = curl(server, "/digest", "--data-binary", f"@{large_file}", "-H", "Expect:").stdout
    assert json.loads(answer) == {"sha256": large_sha256, "size": SIZE}


def test_curl_upload_in_chunks_arrives_whole(server: Server) -> None:
    """A file whose size curl does not know arrives byte for byte."""
    body = b"".join(content(3 * 2**20))
    # curl frames it as its protocol does: with chunks in HTTP/1.1, with DATA frames in HTTP/2.
    answer = curl(server, "/stream/digest", "-X", "POST", "-H", "Expect:", "-T", "-", stdin=body).stdout
    assert json.loads(answer) == {"sha256": hashlib.sha256(body).hexdigest(), "size": len(body)}


def test_curl_download_arrives_whole(server: Server, large_sha256: str) -> None:
    """A stream of 50 MiB arrives byte for byte."""
    assert hashlib.sha256(curl(server, f"/parts?size={SIZE}").stdout).hexdigest() == large_sha256


def test_curl_head_has_no_body(server: Server) -> None:
    """curl takes the answer to HEAD for complete."""
    answer = curl(server, "/text", "--head").stdout.decode().lower()
    assert "content-length: 5" in answer
    assert answer.endswith("\r\n\r\n")


def test_curl_waits_for_100_continue_and_then_sends(server: Server) -> None:
    """A client that asks first is told to go on, and its body arrives (RFC 9110 section 10.1.1)."""
    if server.kind.http2:
        pytest.skip("curl asks over HTTP/1.1 alone")
    asks = ("-v", "-H", "Expect: 100-continue", "--expect100-timeout", "30", "--data-binary", "@-")
    done = curl(server, "/digest", *asks, stdin=b"x" * 5000)
    assert json.loads(done.stdout)["size"] == 5000
    assert b"< HTTP/1.1 100 " in done.stderr


def test_curl_that_asks_first_is_spared_a_body_too_large(server: Server) -> None:
    """A client that asks first gets its 413 and sends nothing, where the server lets the application decide."""
    if server.kind.http2:
        pytest.skip("curl asks over HTTP/1.1 alone")
    asks = ("-H", "Expect: 100-continue", "--expect100-timeout", "30", "--data-binary", "@-")
    body = b"x" * (2 * (TIGHT.max_body_bytes or 0))
    answer = curl(server, "/tight/digest", *asks, "-w", "\n%{http_code} %{size_upload}", stdin=body).stdout
    status, sent = answer.splitlines()[-1].split()
    assert status == b"413"
    if server.kind.continues_late:
        assert sent == b"0"
