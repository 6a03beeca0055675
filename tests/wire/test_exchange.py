"""What goes over the wire in both directions, between every server and httpx."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator

import httpx
import pytest

from .clients import Http1Exchange
from .servers import Server
from .site import content

SIZES = [pytest.param(1000, id="small"), pytest.param(50 * 2**20, id="50MiB")]


def sha256(parts: list[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def test_get_answers_in_the_protocol_that_was_asked_for(server: Server, client: httpx.Client) -> None:
    """The same application answers HTTP/1.1 and HTTP/2."""
    response = client.get("/")
    assert response.http_version == ("HTTP/2" if server.kind.http2 else "HTTP/1.1")
    assert response.text == f"Hello over HTTP/{'2' if server.kind.http2 else '1.1'}!\n"
    assert response.headers["content-type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("path", ["/digest", "/stream/digest"])
def test_upload_with_declared_length_arrives_whole(client: httpx.Client, path: str, size: int) -> None:
    """Every byte of an upload arrives, in order, spooled or streamed."""
    parts = content(size)
    # As an iterator: httpx copies what is left of one piece of bytes for every frame of HTTP/2.
    response = client.post(path, content=iter(parts), headers={"content-length": str(size)})
    assert response.json() == {"sha256": sha256(parts), "size": size}


@pytest.mark.parametrize("path", ["/digest", "/stream/digest"])
def test_upload_in_chunks_arrives_whole(client: httpx.Client, path: str) -> None:
    """An upload without a declared length arrives like any other."""
    parts = [b"a", *content(3 * 2**20), b"z"]

    def produce() -> Iterator[bytes]:
        yield from parts

    response = client.post(path, content=produce())
    assert response.json() == {"sha256": sha256(parts), "size": 3 * 2**20 + 2}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("path", ["/whole", "/parts"])
def test_download_arrives_whole(client: httpx.Client, path: str, size: int) -> None:
    """Every byte of a response arrives, in order, given whole or streamed."""
    digest = hashlib.sha256()
    with client.stream("GET", path, params={"size": size}) as response:
        for part in response.iter_raw():
            digest.update(part)
    assert digest.hexdigest() == sha256(content(size))
    if path == "/whole":
        assert response.headers["content-length"] == str(size)


def test_stream_part_leaves_before_the_next_is_made(client: httpx.Client, server: Server, ident: str) -> None:
    """A part of a stream is with the client while the generator waits for something else."""
    with client.stream("GET", "/steps", params={"id": ident}) as response:
        lines = response.iter_lines()
        assert next(lines) == "one"
        with server.client() as other:
            assert other.get("/go", params={"id": ident}).status_code == 204
        assert list(lines) == ["two"]


@pytest.mark.parametrize("path", ["/text", "/parts?size=70000"])
def test_head_has_the_fields_and_no_body(client: httpx.Client, path: str) -> None:
    """HEAD is answered like GET, without the body (RFC 9110 section 9.3.2)."""
    response = client.head(path)
    assert response.status_code == 200
    assert response.content == b""
    if path == "/text":
        assert response.headers["content-length"] == "5"


@pytest.mark.parametrize(("path", "status"), [("/no-content", 204), ("/not-modified", 304)])
def test_status_without_body_has_none(client: httpx.Client, path: str, status: int) -> None:
    """204 and 304 have neither a body nor a length of 0 (RFC 9110 sections 8.6, 15.3.5 and 15.4.5)."""
    response = client.get(path)
    assert response.status_code == status
    assert response.content == b""
    assert "content-length" not in response.headers
    if status == 304:
        assert response.headers["etag"] == '"1"'


@pytest.mark.parametrize(
    ("method", "path"),
    [("HEAD", "/text"), ("HEAD", "/parts?size=70000"), ("GET", "/no-content"), ("GET", "/not-modified")],
)
def test_answer_without_body_ends_with_its_head(server: Server, method: str, path: str) -> None:
    """No byte follows the head of a response without a body, which the next response would begin with."""
    if server.kind.http2:
        pytest.skip("HTTP/2 has frames; test_head_… and test_status_… see their content")
    with Http1Exchange(server, method, path, fields=[("connection", "close")]) as exchange:
        head, blank, rest = exchange.rest().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 ")
    assert (blank, rest) == (b"\r\n\r\n", b"")


def test_repeated_set_cookie_is_kept_in_order(client: httpx.Client) -> None:
    """Each cookie has a field of its own, in the order of the calls (RFC 6265bis section 3)."""
    fields = client.get("/text").headers.get_list("set-cookie")
    assert [field.partition(";")[0] for field in fields] == ["first=1", "second=2", "first=3"]
    assert "HttpOnly" in fields[1]
    assert "Path=/below" in fields[2]


def test_cookie_crumbs_arrive_as_one_field(client: httpx.Client) -> None:
    """Several cookie fields, which HTTP/2 allows, are read as one (RFC 9113 section 8.2.3)."""
    response = client.get("/cookies", headers=[("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3; d=4")])
    assert response.json() == {"a": "1", "b": "2", "c": "3", "d": "4"}


def test_many_requests_at_once_are_all_served(server: Server, ident: str) -> None:
    """Fifty requests wait for each other, which they can only do side by side."""

    async def ask_all() -> list[httpx.Response]:
        async with server.async_client() as client, asyncio.timeout(30):
            asked = (client.get("/meet", params={"id": ident, "size": 50}) for _ in range(50))
            return await asyncio.gather(*asked)

    assert [response.text for response in asyncio.run(ask_all())] == ["50"] * 50


def test_state_of_lifespan_reaches_requests(client: httpx.Client, server: Server) -> None:
    """What the lifespan yields is the state of every request."""
    if not server.kind.has_lifespan:
        pytest.skip("the server does not run the lifespan protocol")
    assert server.events("lifespan") == ["startup"]
    assert client.get("/state").json() == {"shared": "since startup"}


def test_websocket_is_refused(server: Server) -> None:
    """A websocket is refused with 403, and nobody logs an error."""
    if server.kind.http2:
        pytest.skip("an upgrade is a matter of HTTP/1.1")
    fields = [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ]
    with Http1Exchange(server, "GET", "/", fields=fields) as exchange:
        assert exchange.answer().status == 403
