"""Starlette around a Handler and responses of ours, on uvicorn and on Hypercorn: over real sockets."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from .clients import exchange
from .servers import KINDS, Kind, Server, eventually, running
from .site import content

pytest.importorskip("starlette")

NAMES = ("uvicorn-h11", "uvicorn-httptools-uvloop", "hypercorn-trio-h1", "hypercorn-asyncio-h2")


@pytest.fixture(scope="module", params=[kind for kind in KINDS if kind.name in NAMES], ids=lambda kind: kind.name)
def shared_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    kind: Kind = request.param
    with running(kind, tmp_path_factory.mktemp(kind.name), "wire.mounted_site:app") as server:
        yield server


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


@pytest.mark.parametrize("mount", ["spooled", "streamed", "passed"])
def test_handler_mounted_in_starlette_answers(client: httpx.Client, mount: str) -> None:
    """It knows where it is, and gets every byte of an upload."""
    assert client.get(f"/{mount}/where").json() == [f"/{mount}", "/where"]
    assert client.get(f"/{mount}/nowhere").status_code == 404
    parts = content(3 * 2**20 + 1)
    response = client.post(f"/{mount}/digest", content=iter(parts))
    assert response.text == hashlib.sha256(b"".join(parts)).hexdigest()


def test_response_returned_from_starlette_is_sent(client: httpx.Client, server: Server) -> None:
    """With its conditions and its background work."""
    response = client.get("/?id=first")
    assert response.text == "Hello!"
    server.await_event("first", "background")
    again = client.get("/", headers={"if-none-match": response.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get("/robots.txt").text == "User-agent: *"


@pytest.mark.parametrize(
    "path", ["/stream", "/spooled/ticks", "/streamed/ticks", "/passed/ticks"], ids=lambda path: path.strip("/")
)
def test_client_that_leaves_ends_the_stream(server: Server, path: str) -> None:
    """A response that Starlette calls, and a handler that it mounts."""
    ident = f"leaves{path}"
    with exchange(server, "GET", f"{path}?id={ident}") as visitor:
        visitor.await_body()
        visitor.leave()
        server.await_event(ident, "closed")


def test_upload_is_streamed_back(client: httpx.Client) -> None:
    """A response made of the request of the same channel: every byte comes back, in order."""
    parts = content(2**20 + 1)
    assert client.post("/echo", content=iter(parts)).content == b"".join(parts)


def test_client_that_leaves_within_an_upload_that_is_streamed_back_is_quiet(
    server: Server, client: httpx.Client
) -> None:
    """Nothing is logged, and the next one is served."""
    with exchange(server, "POST", "/echo", body=b"x" * 1000, length=10**6) as visitor:
        visitor.await_body()
        visitor.leave()
    assert client.get("/").text == "Hello!"


def test_error_of_a_response_is_answered_by_starlette(shared_server: Server) -> None:
    """Its page for errors, and the server's traceback."""
    with shared_server.client() as client:
        response = client.get("/broken")
    assert (response.status_code, response.text) == (500, "Internal Server Error")
    eventually(lambda: "LookupError: excused" in shared_server.log, "the server logs the error")


def test_websocket_is_denied_with_a_response(server: Server, client: httpx.Client) -> None:
    """The client of a handshake gets the 401 and its text."""
    if server.kind.http2:
        pytest.skip("websockets over HTTP/2 begin otherwise")
    if server.kind.name.startswith("uvicorn"):
        pytest.importorskip("wsproto", reason="uvicorn answers handshakes with this, or websockets")
    handshake = {
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
        "sec-websocket-version": "13",
    }
    response = client.get("/chat", headers=handshake)
    assert (response.status_code, response.text) == (401, "log in first")


def frames(server: Server, path: str, **fields: str) -> list[Any]:
    """The events of HTTP/2 that answer one GET."""
    h2 = pytest.importorskip("h2.connection")
    config = pytest.importorskip("h2.config")
    events = pytest.importorskip("h2.events")
    connection = h2.H2Connection(config.H2Configuration(client_side=True, header_encoding="utf-8"))
    connection.initiate_connection()
    pseudo = {":method": "GET", ":scheme": "http", ":authority": f"127.0.0.1:{server.port}", ":path": path}
    connection.send_headers(1, [*pseudo.items(), *fields.items()], end_stream=True)
    received: list[Any] = []
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as peer:
        while not any(isinstance(event, events.StreamEnded) for event in received):
            peer.sendall(connection.data_to_send())
            part = peer.recv(65536)
            assert part, "the connection was closed"
            received += connection.receive_data(part)
    return received


def test_hints_and_trailers_arrive_where_the_server_offers_them(server: Server, client: httpx.Client) -> None:
    """Over HTTP/2 from Hypercorn; without them elsewhere."""
    if not server.kind.http2:
        assert client.get("/spooled/hinted").text == "hinted: False"
        return
    received = frames(server, "/spooled/hinted", te="trailers")
    told = ("InformationalResponseReceived", "ResponseReceived", "DataReceived", "TrailersReceived")
    names = [name for event in received if (name := type(event).__name__) in told]
    assert list(dict.fromkeys(names)) == list(told)
    assert [names.count(name) for name in told if name != "DataReceived"] == [1, 1, 1]
    hints, head, trailers = (
        dict(event.headers)
        for event in received
        if type(event).__name__ in told and type(event).__name__ != "DataReceived"
    )
    assert (hints[":status"], hints["link"]) == ("103", "</style.css>; rel=preload; as=style")
    assert head["trailer"] == "x-checksum"
    assert trailers == {"x-checksum": "17"}
    assert b"".join(event.data for event in received if hasattr(event, "data")) == b"hinted: True"
