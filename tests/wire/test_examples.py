"""The examples, as the README starts them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from html.parser import HTMLParser
from urllib.parse import quote

import httpx
import pytest

from .clients import exchange
from .servers import UVICORN, Server, running
from .site import content


@pytest.fixture(scope="module")
def hello(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(UVICORN, tmp_path_factory.mktemp("hello"), "examples.hello:app") as server:
        yield server
    assert server.complaints() == [], server.log


@pytest.fixture(scope="module")
def upload(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(UVICORN, tmp_path_factory.mktemp("upload"), "examples.upload:app") as server:
        yield server
    assert server.complaints() == [], server.log


@pytest.fixture
def client(upload: Server) -> Iterator[httpx.Client]:
    with upload.client() as client:
        yield client


def test_hello_greets(hello: Server) -> None:
    """The smallest application answers."""
    with hello.client() as client:
        response = client.get("/")
    assert response.status_code == 200
    assert response.text == "Hello, world!\n"


@pytest.mark.parametrize(
    "size", [pytest.param(0, id="empty"), pytest.param(1000, id="small"), pytest.param(50 * 2**20, id="50MiB")]
)
def test_upload_is_answered_with_its_hash(client: httpx.Client, size: int) -> None:
    """A body of any size is spooled, and its size and SHA-256 come back."""
    parts = content(size)
    response = client.post("/upload", content=iter(parts), headers={"content-length": str(size)})
    assert response.status_code == 200
    assert response.json() == {"size": size, "sha256": hashlib.sha256(b"".join(parts)).hexdigest()}


def test_progress_comes_line_by_line(client: httpx.Client) -> None:
    """The first step is reported while the others are still to be done."""
    with client.stream("GET", "/progress", params={"steps": 3}) as response:
        parts = list(response.iter_text())
    assert len(parts) > 1
    assert "".join(parts) == "step 1 of 3\nstep 2 of 3\nstep 3 of 3\ndone\n"


def test_progress_of_a_client_that_leaves_is_no_error(upload: Server) -> None:
    """A visitor may close the page: the next one is served, and nothing is logged."""
    with exchange(upload, "GET", "/progress?steps=1000") as visitor:
        visitor.await_body()
        visitor.leave()
    with upload.client() as client:
        assert client.get("/").status_code == 200
    assert upload.complaints() == []


@pytest.mark.parametrize("steps", ["0", "1001", "many", "-1"])
def test_progress_with_steps_out_of_range_is_refused(client: httpx.Client, steps: str) -> None:
    """A number of steps that nobody should wait for is the client's mistake."""
    response = client.get("/progress", params={"steps": steps})
    assert response.status_code == 400
    assert response.text == "steps takes a number from 1 to 1000"


def test_page_needs_nothing_from_elsewhere(client: httpx.Client) -> None:
    """The page is complete in itself: it works without a network."""
    response = client.get("/")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    addresses: list[str] = []

    class Addresses(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            addresses.extend(value or "" for name, value in attrs if name in ("src", "href"))

    Addresses().feed(response.text)
    assert addresses == ["data:,"]
    assert "@import" not in response.text
    assert "url(" not in response.text


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nothing", 404), ("DELETE", "/upload", 405)])
def test_other_requests_are_refused(client: httpx.Client, method: str, path: str, status: int) -> None:
    """What the example does not serve is refused; 405 names what it does (RFC 9110 section 15.5.6)."""
    response = client.request(method, path)
    assert response.status_code == status
    if status == 405:
        assert response.headers["allow"] == "POST"


@pytest.fixture(scope="module")
def showcase(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    pytest.importorskip("multipart", reason="not installed: multipart (extra 'forms')")
    with running(UVICORN, tmp_path_factory.mktemp("showcase"), "examples.showcase:app") as server:
        yield server
    assert server.complaints() == [], server.log


def test_showcase_answers_what_its_page_asks(showcase: Server) -> None:
    """The page, an upload, events from the last one on, a range, a download, the same list once, and visits."""
    with showcase.client() as client:
        assert "<h2>Upload</h2>" in client.get("/").text
        sent = client.post("/upload", data={"note": "ä"}, files={"file": ("Bücher.bin", b"abc" * 10**5)})
        expected = {
            "name": "Bücher.bin",
            "size": 3 * 10**5,
            "sha256": hashlib.sha256(b"abc" * 10**5).hexdigest(),
            "note": "ä",
        }
        assert sent.json() == expected
        assert "form;dur=" in sent.headers["server-timing"]
        with client.stream("GET", "/events", headers={"last-event-id": "7"}) as events:
            lines = [line for _, line in zip(range(5), events.iter_lines(), strict=False)]
        assert lines == ["retry: 500", "", "event: count", "id: 8", 'data: {"number":8}']
        part = client.get("/tone.wav", headers={"range": "bytes=0-3"})
        assert (part.status_code, part.content, part.headers["content-type"]) == (206, b"RIFF", "audio/wav")
        names = client.get("/files")
        for name in names.json():
            download = client.get("/files/" + quote(name))
            assert download.text
            assert download.headers["content-disposition"].startswith("attachment; filename")
        again = client.get("/files", headers={"if-none-match": names.headers["etag"]})
        assert again.status_code == 304
        assert [client.post("/visits").json()["visits"] for _ in range(3)] == [1, 2, 3]
        assert client.delete("/visits").status_code == 204
        assert client.post("/visits").json() == {"visits": 1}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/files/..%2f..%2fetc%2fpasswd", 404),
        ("GET", "/files/none.txt", 404),
        ("PUT", "/visits", 405),
        ("POST", "/upload", 415),
    ],
)
def test_showcase_refuses_what_it_does_not_serve(showcase: Server, method: str, path: str, status: int) -> None:
    """Each mistake has its status."""
    with showcase.client() as client:
        assert client.request(method, path, content=b"{}" if method == "POST" else None).status_code == status
