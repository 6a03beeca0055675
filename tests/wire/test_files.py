"""Files over sockets: whole, in parts and not at all, by whichever way the server offers."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest

from .clients import curl_command
from .servers import Server
from .site import FILE_BYTES, content

FILE = "/file?path=file.bin"
CONTENT = b"".join(content(FILE_BYTES))


def test_file_arrives_whole_with_its_validators(client: httpx.Client) -> None:
    """Every byte, by messages or by the path that the server is told."""
    answer = client.get(FILE)
    assert answer.status_code == 200
    assert answer.content == CONTENT
    assert answer.headers["content-length"] == str(FILE_BYTES)
    assert answer.headers["accept-ranges"] == "bytes"
    assert client.get(FILE, headers={"if-none-match": answer.headers["etag"]}).status_code == 304
    assert client.get(FILE, headers={"if-modified-since": answer.headers["last-modified"]}).status_code == 304
    assert client.get(FILE, headers={"if-match": '"other"'}).status_code == 412


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("0-0", 0, 1),
        ("1000000-3999999", 1000000, 4000000),
        ("-321", FILE_BYTES - 321, FILE_BYTES),
        ("0-", 0, FILE_BYTES),
    ],
)
def test_range_arrives_as_206(client: httpx.Client, asked: str, start: int, stop: int) -> None:
    """The part and its place (RFC 9110 section 14)."""
    answer = client.get(FILE, headers={"range": f"bytes={asked}"})
    assert answer.status_code == 206
    assert answer.content == CONTENT[start:stop]
    assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{FILE_BYTES}"


def test_ranges_arrive_as_multipart(client: httpx.Client) -> None:
    """Each between boundaries (RFC 9110 section 14.6)."""
    answer = client.get(FILE, headers={"range": "bytes=10-19,2000000-3999999"})
    assert answer.status_code == 206
    boundary = answer.headers["content-type"].partition("boundary=")[2].encode()
    parts = [part.partition(b"\r\n\r\n")[2] for part in answer.content.split(b"--" + boundary)[1:-1]]
    assert parts == [CONTENT[10:20] + b"\r\n", CONTENT[2000000:4000000] + b"\r\n"]


def test_range_behind_the_end_is_a_416(client: httpx.Client) -> None:
    """With the size that there is, and the connection goes on."""
    answer = client.get(FILE, headers={"range": f"bytes={FILE_BYTES}-"})
    assert answer.status_code == 416
    assert answer.headers["content-range"] == f"bytes */{FILE_BYTES}"
    assert client.get(FILE).content == CONTENT


def test_head_of_file_has_its_length_and_no_body(client: httpx.Client) -> None:
    """RFC 9110 section 9.3.2; the connection goes on."""
    answer = client.head(FILE)
    assert (answer.status_code, answer.content) == (200, b"")
    # Some servers leave the length out of what has no body, as they may (section 8.6).
    assert answer.headers.get("content-length", str(FILE_BYTES)) == str(FILE_BYTES)
    assert client.get(FILE).content == CONTENT


@pytest.mark.parametrize(
    "path", ["none", "..", "../file.bin", "/etc/passwd", "%00", "..%5Cfile.bin", "file.bin%3A%3A$DATA"]
)
def test_path_that_leads_elsewhere_is_a_404(client: httpx.Client, path: str) -> None:
    """Whatever the server makes of it first."""
    assert client.get(f"/file?path={path}").status_code == 404


def test_file_name_arrives_for_those_who_know_rfc_8187_and_others(client: httpx.Client) -> None:
    """Both forms, the escaped one in ASCII."""
    answer = client.get(f"{FILE}&name=%E2%82%AC%20rates.bin")
    expected = "attachment; filename=\"_ rates.bin\"; filename*=UTF-8''%E2%82%AC%20rates.bin"
    assert answer.headers["content-disposition"] == expected


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_resumes_a_download(server: Server, tmp_path: Path) -> None:
    """What is there already is not sent again."""
    target = tmp_path / "file.bin"
    target.write_bytes(CONTENT[:1_234_567])
    command = curl_command(server, FILE, "--continue-at", "-", "--output", str(target), "--verbose")
    done = subprocess.run(command, capture_output=True, timeout=50)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    assert re.search(rb"< HTTP/[0-9.]+ 206", done.stderr)
    assert target.read_bytes() == CONTENT
