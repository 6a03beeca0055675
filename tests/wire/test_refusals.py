"""What is refused: bodies that are too large or too slow, too many header fields."""

from __future__ import annotations

import time

import httpx
import pytest

from .clients import Answer, Fields, exchange
from .servers import Server
from .site import IMPATIENT, TIGHT

LIMIT = TIGHT.max_body_bytes or 0


def post(server: Server, target: str, body: bytes, *, declared: bool) -> Answer:
    """Send head and body in one go."""
    fields: Fields = []
    if not declared and not server.kind.http2:
        fields = [("transfer-encoding", "chunked")]
        body = b"1\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (body[:1], len(body) - 1, body[1:])
    with exchange(server, "POST", target, fields=fields, body=body, length=len(body) if declared else None) as upload:
        return upload.answer()


@pytest.mark.parametrize("mount", ["/tight", "/tight-stream"])
def test_body_declared_too_large_is_refused(server: Server, mount: str) -> None:
    """A declared length above the limit is answered with 413 (RFC 9110 section 15.5.14)."""
    if not server.kind.survives_early_answers:
        pytest.skip("the server fails on a body that is still coming when it is refused; the next test sends none")
    answer = post(server, f"{mount}/digest", b"x" * (LIMIT + 1), declared=True)
    assert answer.status == 413
    assert answer.body == f"body: larger than the limit of {LIMIT} bytes".encode()
    assert post(server, f"{mount}/digest", b"x" * LIMIT, declared=True).status == 200


@pytest.mark.parametrize("mount", ["/tight", "/tight-stream"])
def test_body_declared_too_large_is_refused_unread(server: Server, ident: str, mount: str) -> None:
    """The 413 comes before a byte of the body was sent, and the endpoint does not run."""
    if server.kind.reads_body_first:
        pytest.skip("the server reads the whole body before it starts the application")
    with exchange(server, "POST", f"{mount}/digest?id={ident}", length=10**10) as upload:
        assert upload.answer().status == 413
    assert server.events(ident) == []


@pytest.mark.parametrize("mount", ["/tight", "/tight-stream"])
def test_body_in_chunks_too_large_is_refused(server: Server, mount: str) -> None:
    """A body without a declared length is counted, and answered with 413 above the limit."""
    assert post(server, f"{mount}/digest", b"x" * (LIMIT + 1), declared=False).status == 413
    assert post(server, f"{mount}/digest", b"x" * LIMIT, declared=False).status == 200


@pytest.mark.parametrize("mount", ["/impatient", "/impatient-stream"])
def test_body_that_stops_coming_is_refused(server: Server, mount: str) -> None:
    """A body of which no part comes for the idle timeout is answered with 408 (RFC 9110 section 15.5.9)."""
    if server.kind.reads_body_first:
        pytest.skip("the server reads the whole body before it starts the application")
    began = time.monotonic()
    with exchange(server, "POST", f"{mount}/digest", body=b"x", length=100) as upload:
        answer = upload.answer()
    assert answer.status == 408
    assert time.monotonic() - began >= (IMPATIENT.body_timeout_seconds or 0)
    if not server.kind.http2:
        # What still comes of the body would be taken for the next request.
        assert (answer.get("connection") or "").lower() == "close"


def test_too_many_header_fields_are_refused(client: httpx.Client) -> None:
    """More header fields than the limit are answered with 431 (RFC 6585 section 5)."""
    many = {f"x-{number}": "1" for number in range((TIGHT.max_headers or 0) + 1)}
    assert client.get("/tight/text", headers=many).status_code == 431
    assert client.get("/tight/text").status_code == 200


def test_header_fields_beyond_the_default_limit_are_refused(server: Server) -> None:
    """The limits that nobody set refuse 200 header fields, where the server does not do so itself."""
    fields = [(f"x-{number}", "1") for number in range(200)]
    with exchange(server, "GET", "/text", fields=fields) as request:
        # gunicorn and Granian take 100 fields at most: their own answer is 431, too, or a reset of the stream.
        if server.kind.name == "gunicorn-h2":
            with pytest.raises(ConnectionResetError):
                request.answer()
        else:
            assert request.answer().status == 431
