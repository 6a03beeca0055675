"""The personalities of the testing kit are those of the servers: the same application finds out the same of both."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

import asgicore.testing
from asgicore.testing import SERVERS, Client

from .probe import QUESTIONS, UPLOAD, Probe
from .servers import ANYCORNS, KINDS, Kind, Server, eventually, running

SECONDS = 10.0


OVER_HTTP1 = [kind for kind in (*KINDS, *ANYCORNS) if not kind.http2]
OVER_HTTP2 = [kind for kind in (*KINDS, *ANYCORNS) if kind.http2]


def personality(kind: Kind) -> asgicore.testing.Server:
    """The one whose name the kind's begins with, the longest of them."""
    return max((one for one in SERVERS if kind.name.startswith(one.name)), key=lambda one: len(one.name))


@pytest.fixture(scope="module", params=OVER_HTTP1, ids=lambda kind: kind.name)
def probed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(request.param, tmp_path_factory.mktemp("probe"), app="wire.probe:app") as server:
        yield server


def findings(server: Server, path: str) -> list[str]:
    """What the application finds out under a real server."""
    upload = UPLOAD if path == "/body" else b""
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nx_y: 1\r\ncontent-length: {len(upload)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS) as connection:
        connection.sendall(head.encode() + upload)
        # The client stays, with its connection, until all is found out; or until the application waits for it to leave,
        # which a server need not call for a client that has left.
        word = "waiting" if path == "/left" else "over"
        eventually(lambda: word in server.events(path), f"{server.kind.name} {path}", 50)
    eventually(lambda: "over" in server.events(path), f"{server.kind.name} {path}", 50)
    return server.events(path)


def expectations(server: asgicore.testing.Server, path: str) -> list[str]:
    """What it finds out under the personality."""
    found: list[str] = []

    async def main() -> None:
        client = Client(Probe(lambda path, word: found.append(word)), server=server, raise_app_exceptions=False)
        upload = UPLOAD if path == "/body" else b""
        async with client.exchange("POST", path, content=upload, headers={"x_y": "1"}) as exchange:
            if path == "/left":
                await anyio.wait_all_tasks_blocked()
                exchange.disconnect()
            with anyio.fail_after(SECONDS):
                while not exchange.is_finished:
                    await anyio.sleep(0.01)

    anyio.run(main)
    return found


@pytest.mark.parametrize("path", QUESTIONS)
def test_personality_does_what_the_server_does(probed: Server, path: str) -> None:
    """Scope, messages, and what becomes of calls that are out of order or come too late."""
    assert without_sizes(findings(probed, path)) == without_sizes(expectations(personality(probed.kind), path))


def without_sizes(words: list[str]) -> list[str]:
    """The network cuts a body further than the server would: how long its messages are at most is not seen here."""
    return [word for word in words if not word.startswith("longest ")]


def test_personality_gives_messages_as_long_as_the_server(probed: Server) -> None:
    """No message of a body is longer under the server than under its personality."""
    longest = next(int(word.split()[1]) for word in findings(probed, "/body") if word.startswith("longest "))
    assert longest <= (personality(probed.kind).max_body_message_bytes or 0)


@pytest.mark.parametrize("kind", OVER_HTTP2, ids=lambda kind: kind.name)
def test_personality_over_http2_offers_what_the_server_offers(kind: Kind, tmp_path: Path) -> None:
    """The extensions are others than over HTTP/1.1."""
    with running(kind, tmp_path, app="wire.probe:app") as server:
        with server.client() as client:
            client.post("/scope").raise_for_status()
            # The client stays until all is told: some cancel what goes on when it leaves.
            server.await_event("/scope", "over")
        told = next(word for word in server.events("/scope") if word.startswith("extensions "))
    offered = personality(kind).http2_extensions
    assert told == f"extensions {sorted(offered) if offered is not None else None}"
