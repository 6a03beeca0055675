"""Flask through the WSGI bridge, on uvicorn and on Hypercorn's trio worker: the example, used as its users would."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

import httpx
import pytest

from .clients import exchange
from .servers import KINDS, Kind, Server, running
from .site import content

pytest.importorskip("flask")

NAMES = ("uvicorn-h11", "uvicorn-httptools-uvloop", "hypercorn-trio-h1")
SIZE = 50 * 2**20


@pytest.fixture(scope="module", params=[kind for kind in KINDS if kind.name in NAMES], ids=lambda kind: kind.name)
def shared_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    kind: Kind = request.param
    with running(kind, tmp_path_factory.mktemp(kind.name), "examples.flask_site:app") as server:
        yield server
    assert server.complaints() == [], server.log


@pytest.fixture
def server(shared_server: Server) -> Iterator[Server]:
    """A server that complains of nothing while the test runs."""
    before = len(shared_server.complaints())
    yield shared_server
    assert shared_server.complaints()[before:] == [], shared_server.log


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


def sha256(parts: list[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def test_page_counts_the_visits_of_a_session(client: httpx.Client, server: Server) -> None:
    """``flask.session`` is kept in a signed cookie, one for each visitor."""
    for number in (1, 2, 3):
        assert f"Visit number {number}." in client.get("/").text
    with server.client() as other:
        assert "Visit number 1." in other.get("/").text


def test_form_is_read_and_the_redirect_carries_every_cookie(client: httpx.Client) -> None:
    """Two ``set-cookie`` fields stay two, and the name is escaped on the page."""
    response = client.post("/name", data={"name": "Zoë <b>"})
    assert response.status_code == 303
    assert response.headers["location"] == "/"
    cookies = [field.partition("=")[0] for field in response.headers.get_list("set-cookie")]
    assert sorted(cookies) == ["greeted", "session"]
    assert "Hello, Zoë &lt;b&gt;!" in client.get("/").text


@pytest.mark.parametrize("in_chunks", [False, True])
def test_upload_of_50_mib_is_answered_with_its_hash(client: httpx.Client, in_chunks: bool) -> None:
    """Every byte arrives, in order, with a declared length or without."""
    parts = content(SIZE)
    headers = {} if in_chunks else {"content-length": str(SIZE)}
    response = client.post("/upload", content=iter(parts), headers=headers)
    assert response.json() == {"size": SIZE, "sha256": sha256(parts)}


def test_upload_by_form_is_answered_with_its_hash(client: httpx.Client) -> None:
    """As a browser sends it."""
    parts = content(3 * 2**20 + 1)
    response = client.post("/upload", files={"file": ("name.bin", b"".join(parts))})
    assert response.json() == {"size": 3 * 2**20 + 1, "sha256": sha256(parts)}


def test_send_file_of_50_mib_arrives_whole(client: httpx.Client) -> None:
    """Flask's ``send_file``, with its length, its name, and nothing for HEAD; a range of it, too."""
    parts = content(SIZE)
    name = client.post("/upload", content=iter(parts), headers={"content-length": str(SIZE)}).json()["sha256"]
    digest = hashlib.sha256()
    with client.stream("GET", f"/files/{name}") as response:
        for part in response.iter_bytes():
            digest.update(part)
    assert digest.hexdigest() == name
    assert response.headers["content-length"] == str(SIZE)
    assert response.headers["content-disposition"] == f"attachment; filename={name}"
    head = client.head(f"/files/{name}")
    assert (head.content, head.headers["content-length"]) == (b"", str(SIZE))
    some = client.get(f"/files/{name}", headers={"range": "bytes=65530-65545"})
    assert (some.status_code, some.content) == (206, b"".join(parts[:2])[65530:65546])
    same = client.get(f"/files/{name}", headers={"if-none-match": response.headers["etag"]})
    assert (same.status_code, same.content) == (304, b"")


@pytest.mark.parametrize("name", ["0" * 64, "..%2fflask_site.py", "%00"])
def test_file_that_was_never_uploaded_is_not_found(client: httpx.Client, name: str) -> None:
    """Whatever a client asks for."""
    assert client.get(f"/files/{name}").status_code in (400, 404)


def test_stream_with_context_arrives_line_by_line(client: httpx.Client) -> None:
    """Request and session are there while the lines are made, and each is sent at once."""
    client.post("/name", data={"name": "Ann"})
    with client.stream("GET", "/count", params={"to": 5}) as response:
        assert "content-length" not in response.headers
        parts = list(response.iter_text())
    assert "".join(parts) == "".join(f"{number} for Ann\n" for number in range(1, 6))
    assert len(parts) > 1


def test_clients_that_leave_streams_keep_no_thread(server: Server, client: httpx.Client) -> None:
    """More of them than there are threads, in endless streams: the next visitor is served."""
    for _ in range(60):
        with exchange(server, "GET", "/count?to=100000") as visitor:
            visitor.await_body()
            visitor.leave()
    assert client.get("/").status_code == 200


def test_upload_that_breaks_off_keeps_nothing(server: Server, client: httpx.Client) -> None:
    """A truncated upload reaches no view."""

    def files() -> set[str]:
        return set(re.findall(r"files/(\w+)", client.get("/").text))

    before = files()
    with exchange(server, "POST", "/upload", body=b"x" * 100_000, length=10**6) as visitor:
        visitor.leave()
    assert files() == before
    assert client.post("/upload", content=b"").json()["size"] == 0


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nothing", 404), ("DELETE", "/upload", 405)])
def test_other_requests_are_refused_by_flask(client: httpx.Client, method: str, path: str, status: int) -> None:
    """Its own error pages come through."""
    response = client.request(method, path)
    assert response.status_code == status
    assert response.headers["content-type"] == "text/html; charset=utf-8"
