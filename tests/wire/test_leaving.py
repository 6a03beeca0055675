"""Clients that leave, in every phase: over HTTP/1.1 by closing the connection, over HTTP/2 by resetting the stream."""

from __future__ import annotations

import httpx
import pytest

from .clients import exchange
from .servers import Server, eventually


def test_client_leaving_within_a_streamed_upload_stops_the_endpoint(server: Server, ident: str) -> None:
    """An endpoint that reads the body as it comes is stopped, and never takes what it has for a whole body."""
    if server.kind.reads_body_first:
        pytest.skip("the server reads the whole body before it starts the application")
    with exchange(server, "POST", f"/stream/digest?id={ident}", body=b"x" * 1000, length=10**6) as upload:
        server.await_event(ident, "receiving")
        upload.leave()
        server.await_event(ident, "stopped by ClientDisconnectedError")
    assert server.events(ident) == ["began", "receiving", "stopped by ClientDisconnectedError"]


def test_client_leaving_within_a_spooled_upload_keeps_the_endpoint_from_running(server: Server, ident: str) -> None:
    """A body that was cut off reaches no endpoint, and the request is cleaned up."""
    if server.kind.reads_body_first:
        pytest.skip("the server reads the whole body before it starts the application")
    with exchange(server, "POST", f"/reporting/digest?id={ident}", body=b"x" * 1000, length=10**6) as upload:
        server.await_event(ident, "created")
        upload.leave()
        server.await_event(ident, "finished")
    assert server.events(ident) == ["created", "finished"]


@pytest.mark.parametrize("path", ["/wait", "/stream/wait"])
def test_client_leaving_while_the_endpoint_waits_cancels_it(server: Server, ident: str, path: str) -> None:
    """The endpoint is cancelled where it waits, and its shielded cleanup runs to the end."""
    with exchange(server, "GET", f"{path}?id={ident}") as request:
        server.await_event(ident, "waiting")
        request.leave()
        server.await_event(ident, "cleaned")
    assert server.events(ident) == ["waiting", "cancelled", "cleaned"]


def test_client_leaving_an_unread_upload_cancels_the_endpoint(server: Server, ident: str) -> None:
    """An endpoint that waits for something else than the upload hears of the client, too."""
    if server.kind.reads_body_first:
        pytest.skip("the server reads the whole body before it starts the application")
    with exchange(server, "POST", f"/stream/wait?id={ident}", length=10**6) as upload:
        server.await_event(ident, "waiting")
        upload.leave()
        server.await_event(ident, "cleaned")
    assert server.events(ident) == ["waiting", "cancelled", "cleaned"]


def test_client_leaving_a_stream_closes_the_generator(server: Server, ident: str) -> None:
    """A generator that waits between its parts is closed."""
    with exchange(server, "GET", f"/drip?id={ident}") as download:
        download.await_body()
        download.leave()
        server.await_event(ident, "closed")
    assert server.events(ident) == ["dripping", "closed"]


def test_client_leaving_a_stream_that_is_held_back_closes_the_generator(
    server: Server, client: httpx.Client, ident: str
) -> None:
    """A generator is asked for no more than buffers on the way hold, and closed where its last part waits."""
    if not server.kind.holds_back:
        pytest.skip("the server takes everything at once, and would run out of memory")
    with exchange(server, "GET", f"/flood?id={ident}") as download:
        download.await_body()
        taken = [0]

        def is_held_back() -> bool:
            taken.append(client.get("/flooded", params={"id": ident}).json())
            return len(taken) > 5 and len(set(taken[-5:])) == 1

        eventually(is_held_back, f"{server.kind.name} holds the stream back")
        # Kernel and server take some 5 MB; without back-pressure it would be hundreds.
        assert 0 < taken[-1] < 32 * 2**20
        download.leave()
        server.await_event(ident, "closed")


def test_server_serves_on_after_clients_left(server: Server, ident: str) -> None:
    """Twenty clients that leave cost the next one nothing."""
    for number in range(20):
        with exchange(server, "GET", f"/wait?id={ident}-{number}") as request:
            server.await_event(f"{ident}-{number}", "waiting")
            request.leave()
    for number in range(20):
        server.await_event(f"{ident}-{number}", "cleaned")
    with server.client() as client:
        assert client.get("/").status_code == 200
