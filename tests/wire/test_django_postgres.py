"""Django through its bridge on a real PostgreSQL: how many connections it makes, keeps and gives back."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from .django_servers import (
    ADMIN,
    MAX_WORKERS,
    NOTES,
    await_activity,
    complaints,
    environment,
    prepare,
    site,
    status,
)
from .postgres import Cluster, cluster
from .servers import KINDS, Server, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import psycopg

pytest.importorskip("django")

NAMES = ("uvicorn-httptools-uvloop", "granian-h1")
DATABASE = "site"

REQUESTS = 1000
CLIENTS = 12  # more than there are workers
SECONDS = 60.0

# What each of them has to answer when it is read to the end.
CHECKS: dict[str, Callable[[httpx.Response], bool]] = {
    "/": lambda response: f"{NOTES} notes" in response.text,
    "/api/notes/": lambda response: response.json()["count"] == NOTES,
    "/health/": lambda response: response.text == "ok\n",
    "/notes.csv": lambda response: response.text.count("\n") == NOTES + 1,
    "/notes.ndjson": lambda response: response.text.count("\n") == NOTES,
    "/uploads/999999/": lambda response: response.status_code == 404,
    "/admin/": lambda response: response.status_code == 302,
}
# And these take longer than any client stays.
SLOW = ("/notes.csv?pause=0.02", "/notes.ndjson?pause=0.02", "/events/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    cluster: Cluster
    observer: psycopg.Connection[Any]
    """A connection to another database, which is not counted."""

    def backends(self) -> dict[int, str]:
        """What each backend of the site's database does now, by process."""
        rows = self.observer.execute("SELECT pid, state FROM pg_stat_activity WHERE datname = %s", [DATABASE])
        return {pid: state or "starting" for pid, state in rows}

    def is_quiet(self) -> bool:
        """Whether no backend runs a query or is within a transaction."""
        return set(self.backends().values()) <= {"idle"}

    def is_settled(self) -> bool:
        """Whether it is quiet, and no thread has a connection but the workers that are kept."""
        return self.is_quiet() and len(self.backends()) <= MAX_WORKERS

    def lacks(self, backends: set[int]) -> bool:
        """Whether none of these is there any more."""
        return not backends & set(self.backends())

    def sessions(self) -> list[int]:
        """Every backend that there ever was, in order."""
        return self.cluster.sessions(DATABASE)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    with cluster() as postgres, postgres.connect() as observer:
        observer.execute(f"CREATE DATABASE {DATABASE}")
        prepare(environment(postgres.variables(DATABASE), tmp_path_factory.mktemp("prepared")))
        database = Database(cluster=postgres, observer=observer)
        eventually(lambda: not database.backends(), "the database is ready")
        yield database


@pytest.fixture(params=[kind for kind in KINDS if kind.name in NAMES], ids=lambda kind: kind.name)
def start(request: pytest.FixtureRequest, database: Database, tmp_path: Path) -> Any:
    """Starts a server that leaves nothing behind in the database when it ends."""

    @contextmanager
    def start(**more: str) -> Iterator[Server]:
        variables: Mapping[str, str] = environment(database.cluster.variables(DATABASE), tmp_path, **more)
        with site(request.param, tmp_path, variables) as server:
            yield server
        eventually(lambda: not database.backends(), "the server has closed its connections")

    return start


@pytest.fixture
def anyio_backend() -> str:
    """Of the clients; the servers choose their own loop."""
    return "asyncio"


# --- clients -----------------------------------------------------------------------------------------------------


async def visit(client: httpx.AsyncClient, path: str) -> None:
    """Ask for something and read it to the end."""
    response = await client.get(path)
    assert response.status_code < 500
    assert CHECKS[path](response), f"{path}: {response.status_code} {response.text[:1000]}"


async def leave(server: Server, path: str, draw: random.Random) -> None:
    """Ask for something and go away: at once, a moment later, or within the response."""
    moment = draw.choice(("at once", "later", "within"))
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode())
        await writer.drain()
        if moment == "later":
            await asyncio.sleep(draw.uniform(0, 0.03))
        elif moment == "within":
            head = await reader.readuntil(b"\r\n\r\n")
            assert re.match(rb"HTTP/1\.1 (200|302|404) ", head), head
    finally:
        # Some close, some reset the connection.
        if draw.random() < 0.5:
            writer.transport.abort()
        else:
            writer.close()


async def storm(server: Server, seed: int, count: int) -> None:
    """Requests of every kind from some clients at once; a third of them is not waited for."""
    draw = random.Random(seed)
    plan = iter(range(count))

    async def guest(client: httpx.AsyncClient) -> None:
        for _ in plan:
            if draw.random() < 1 / 3:
                await leave(server, draw.choice([*CHECKS, *SLOW]), draw)
            else:
                await visit(client, draw.choice([*CHECKS]))

    async with asyncio.timeout(SECONDS), server.async_client() as client, asyncio.TaskGroup() as guests:
        for _ in range(CLIENTS):
            guests.create_task(guest(client))


# --- what becomes of the connections -----------------------------------------------------------------------------


@pytest.mark.timeout(120)
async def test_connections_are_kept_and_none_leaks(database: Database, start: Any) -> None:
    """1,000 requests with random disconnects go over a few connections, of which one for each worker is left."""
    before = len(database.sessions())
    with start() as server:
        for seed in (1, 2):
            await storm(server, seed, REQUESTS // 2)
            eventually(database.is_settled, "the backends are idle, and no more than there are workers")
            assert database.backends()
        assert status(server)["connections"] <= MAX_WORKERS
        made = database.sessions()[before:]
        # More than there are workers: while a stream pauses, its thread does not count, and another one is started.
        assert len(made) <= REQUESTS // 20, f"{len(made)} connections were made"
        assert set(database.backends()) <= set(made)


async def test_connections_that_may_not_be_kept_are_closed(database: Database, start: Any) -> None:
    """With ``CONN_MAX_AGE=0``, each request closes its own: none is left when the requests are over."""
    before = len(database.sessions())
    with start(CONN_MAX_AGE="0") as server:
        await storm(server, 3, 120)
        eventually(lambda: not database.backends(), "no connection is left")
        made = len(database.sessions()) - before
        assert made > MAX_WORKERS
        assert status(server)["connections"] == 0


async def test_connections_that_the_database_closed_are_replaced(database: Database, start: Any) -> None:
    """``CONN_HEALTH_CHECKS``: after a restart of the database no visitor sees an error."""
    with start() as server, server.client() as client:
        await storm(server, 4, 60)
        # A stream of somebody who left has a cursor, and is idle for the database while it pauses.
        for name in ("csv", "ndjson"):
            await_activity(server, name, open=0)
        for _ in range(3):
            eventually(database.is_quiet, "the backends are idle")
            gone = set(database.backends())
            assert gone
            database.observer.execute("SELECT pg_terminate_backend(pid) FROM unnest(%s) AS pid", [list(gone)])
            eventually(partial(database.lacks, gone), "the backends are gone")
            for path in CHECKS:
                assert CHECKS[path](client.get(path)), path
            assert database.backends()


async def test_transactions_of_visitors_who_leave_end(database: Database, start: Any) -> None:
    """The admin saves in a transaction: it is committed or rolled back, and neither lock nor transaction stays."""
    draw = random.Random(5)
    with start() as server:
        async with logged_in(server) as client:
            form = (await client.get("/admin/notes/note/add/")).raise_for_status().text
            found = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', form)
            assert found
            for number in range(40):
                fields = {"csrfmiddlewaretoken": found[1], "title": f"Left {number}", "text": ""}
                with suppress(httpx.TimeoutException):  # of the visitor who leaves
                    await client.post("/admin/notes/note/add/", data=fields, timeout=draw.uniform(0.001, 0.03))
        eventually(database.is_settled, "the backends are idle, and no more than there are workers")
        with database.cluster.connect(DATABASE) as connection:
            # Whoever holds a lock on a row or on the table would be waited for.
            connection.execute("SET lock_timeout = '5s'")
            row = connection.execute("DELETE FROM notes_note WHERE title LIKE 'Left %'").rowcount
            log = connection.execute(
                "DELETE FROM django_admin_log WHERE object_repr LIKE 'Left %' AND action_flag = 1"
            ).rowcount
        # A note and the entry about it are written in the same transaction.
        assert row == log
        assert 0 < row <= 40
    assert complaints(server) == []


@asynccontextmanager
async def logged_in(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    name, password = ADMIN
    async with server.async_client() as client:
        page = (await client.get("/admin/login/")).text
        found = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page)
        assert found
        fields = {"csrfmiddlewaretoken": found[1], "username": name, "password": password}
        assert (await client.post("/admin/login/?next=/admin/", data=fields)).status_code == 302
        yield client
