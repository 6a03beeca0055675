"""``as_wsgi`` under real WSGI servers: the application of the other tests, in threads."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import httpx
import pytest

from .clients import Http1Exchange
from .servers import Kind, Server, eventually, running
from .site import content

KINDS = (
    Kind(
        name="gunicorn-gthread",
        modules=("gunicorn",),
        arguments=(
            *("-k", "gthread", "--threads", "32", "-w", "1", "-b", "127.0.0.1:{port}", "--graceful-timeout", "5"),
            *("--no-control-socket", "{app}"),
        ),
    ),
    Kind(
        name="waitress",
        modules=("waitress",),
        arguments=("--listen=127.0.0.1:{port}", "--threads=32", "{app}"),
        # It takes a request when it is whole, and up to 16 MiB of a response that nobody reads.
        reads_body_first=True,
    ),
)
APP = "wire.wsgi_site:app"
ENVIRONMENT = {"WIRE_SIGTERM": "1"}

_numbers = count(1)


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    chosen: Kind = request.param
    return chosen


@pytest.fixture(scope="module")
def shared_server(kind: Kind, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    environment = ENVIRONMENT if kind.name == "waitress" else {}
    with running(kind, tmp_path_factory.mktemp(kind.name), APP, environment) as server:
        yield server
    assert server.events("lifespan") == ["startup", "shutdown"]


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


@pytest.fixture
def ident() -> str:
    return f"wsgi{next(_numbers)}"


def sha256(parts: list[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


SIZES = [pytest.param(0, id="empty"), pytest.param(1000, id="small"), pytest.param(50 * 2**20, id="50MiB")]


def test_get_is_answered(client: httpx.Client) -> None:
    """With the fields of the application, and those of the server."""
    response = client.get("/")
    assert response.text == "Hello over HTTP/1.1!\n"
    assert response.headers["content-type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("path", ["/digest", "/stream/digest"])
def test_upload_with_declared_length_arrives_whole(client: httpx.Client, path: str, size: int) -> None:
    """Every byte, in order, spooled or streamed."""
    parts = content(size)
    response = client.post(path, content=iter(parts), headers={"content-length": str(size)})
    assert response.json() == {"sha256": sha256(parts), "size": size}


@pytest.mark.parametrize("path", ["/digest", "/stream/digest"])
def test_upload_in_chunks_arrives_whole(client: httpx.Client, path: str) -> None:
    """These servers end the stream of a body whose length nobody declared."""
    parts = [b"a", *content(3 * 2**20), b"z"]
    response = client.post(path, content=iter(parts))
    assert response.json() == {"sha256": sha256(parts), "size": 3 * 2**20 + 2}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("path", ["/whole", "/parts"])
def test_download_arrives_whole(client: httpx.Client, path: str, size: int) -> None:
    """Every byte, in order, given whole or streamed."""
    digest = hashlib.sha256()
    with client.stream("GET", path, params={"size": size}) as response:
        for part in response.iter_bytes():
            digest.update(part)
    assert digest.hexdigest() == sha256(content(size))


def test_stream_arrives_part_by_part(client: httpx.Client, server: Server, ident: str) -> None:
    """The first part is here before the second one exists."""
    with client.stream("GET", "/steps", params={"id": ident}) as response:
        parts = response.iter_text()
        assert next(parts) == "one\n"
        with server.client() as other:
            assert other.get("/go", params={"id": ident}).status_code == 204
        assert "".join(parts) == "two\n"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("HEAD", "/text", 200),
        ("HEAD", "/parts?size=70000", 200),
        ("GET", "/no-content", 204),
        ("GET", "/not-modified", 304),
    ],
)
def test_answer_without_body_ends_with_its_head(server: Server, method: str, path: str, status: int) -> None:
    """No byte follows the head, which the next response would begin with."""
    if server.kind.name == "waitress" and path.startswith("/parts"):
        pytest.skip("waitress 3.0 ends a HEAD without a declared length with a last chunk of its own")
    with Http1Exchange(server, method, path, fields=[("connection", "close")]) as exchange:
        head, blank, rest = exchange.rest().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert (blank, rest) == (b"\r\n\r\n", b"")


def test_cookies_and_state_go_through(client: httpx.Client) -> None:
    """Repeated fields in order, several cookies as one, and the state of the lifespan."""
    fields = client.get("/text").headers.get_list("set-cookie")
    assert [field.partition(";")[0] for field in fields] == ["first=1", "second=2", "first=3"]
    assert client.get("/cookies", headers={"cookie": "a=1; b=2"}).json() == {"a": "1", "b": "2"}
    assert client.get("/state").json() == {"shared": "since startup"}


def test_body_that_is_too_large_is_refused(client: httpx.Client) -> None:
    """The answer says nothing of the connection, which is the server's."""
    response = client.post("/tight/digest", content=b"x" * 1001)
    assert response.status_code == 413


def test_many_requests_at_once_are_all_served(server: Server, ident: str) -> None:
    """They wait for each other, each in a thread of the server, all on one event loop."""

    async def ask_all() -> list[httpx.Response]:
        async with server.async_client() as client, asyncio.timeout(30):
            asked = (client.get("/meet", params={"id": ident, "size": 25}) for _ in range(25))
            return await asyncio.gather(*asked)

    assert [response.text for response in asyncio.run(ask_all())] == ["25"] * 25


def test_client_leaving_a_stream_closes_the_generator(server: Server, ident: str) -> None:
    """As soon as the server writes to the client in vain."""
    with Http1Exchange(server, "GET", f"/drip?id={ident}") as download:
        download.await_body()
        download.leave()
        server.await_event(ident, "closed")
    assert server.events(ident) == ["dripping", "closed"]


def test_client_leaving_a_stream_that_is_held_back_closes_the_generator(
    server: Server, client: httpx.Client, ident: str
) -> None:
    """A generator is asked for no more than buffers on the way hold."""
    with Http1Exchange(server, "GET", f"/flood?id={ident}") as download:
        download.await_body()
        taken = [0]

        def is_held_back() -> bool:
            taken.append(client.get("/flooded", params={"id": ident}).json())
            return len(taken) > 5 and len(set(taken[-5:])) == 1

        eventually(is_held_back, f"{server.kind.name} holds the stream back")
        assert 0 < taken[-1] < 32 * 2**20
        download.leave()
        server.await_event(ident, "closed")


def test_client_leaving_within_a_streamed_upload_stops_the_endpoint(server: Server, ident: str) -> None:
    """What has come is never taken for a whole body."""
    if server.kind.reads_body_first:
        pytest.skip("the server reads the whole body before it starts the application")
    with Http1Exchange(server, "POST", f"/stream/digest?id={ident}", body=b"x" * 100_000, length=10**6) as upload:
        server.await_event(ident, "receiving")
        upload.leave()
        server.await_event(ident, "stopped by ClientDisconnectedError")
    assert server.events(ident) == ["began", "receiving", "stopped by ClientDisconnectedError"]


def test_client_leaving_within_a_spooled_upload_keeps_the_endpoint_from_running(server: Server, ident: str) -> None:
    """A body that was cut off reaches no endpoint, and the request is cleaned up."""
    if server.kind.reads_body_first:
        pytest.skip("the server reads the whole body before it starts the application")
    with Http1Exchange(server, "POST", f"/reporting/digest?id={ident}", body=b"x" * 1000, length=10**6) as upload:
        server.await_event(ident, "created")
        upload.leave()
        server.await_event(ident, "finished")
    assert server.events(ident) == ["created", "finished"]


def test_response_that_breaks_is_cut_off(shared_server: Server) -> None:
    """An error in mid-stream never ends the response as if it were whole; the server logs it."""
    with shared_server.client() as client, pytest.raises(httpx.RemoteProtocolError):
        client.get("/broken")
    eventually(lambda: "broken on purpose" in shared_server.log, "the error is logged")


def test_sigterm_with_a_stream_that_nobody_reads_ends_the_server(kind: Kind, tmp_path: Path) -> None:
    """The loop in its thread keeps no process."""
    environment = ENVIRONMENT if kind.name == "waitress" else {}
    with running(kind, tmp_path, APP, environment) as server:
        with Http1Exchange(server, "GET", "/drip?id=left") as download:
            download.await_body()
            download.leave()
            server.await_event("left", "closed")
    assert server.events("lifespan") == ["startup", "shutdown"]
