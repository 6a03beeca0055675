"""Django through its bridge, on uvicorn and on Granian: the example's site, used as its users would, with SQLite."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import importlib.util
import re
import shutil
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from .clients import SECONDS, exchange
from .django_servers import (
    ADMIN,
    APP,
    MAX_WORKERS,
    NOTES,
    activity,
    await_activity,
    complaints,
    environment,
    open_files,
    prepare,
    site,
    status,
)
from .servers import KINDS, UVICORN, Kind, Server, eventually, running
from .site import content

pytest.importorskip("django")

NAMES = ("uvicorn-h11", "uvicorn-httptools-uvloop", "granian-h1")
chosen = pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.name in NAMES], ids=lambda kind: kind.name)

MIB = 2**20


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database that is ready for use; each server gets a copy."""
    directory = tmp_path_factory.mktemp("template")
    path = directory / "db.sqlite3"
    prepare(environment({"DATABASE_NAME": str(path)}, directory))
    # Nothing may be left in the log beside it, which the copy would lack.
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return path


def copied(template: Path, directory: Path, **more: str) -> dict[str, str]:
    path = shutil.copy(template, directory / "db.sqlite3")
    return environment({"DATABASE_NAME": str(path)}, directory, **more)


@pytest.fixture(scope="module", params=[kind for kind in KINDS if kind.name in NAMES], ids=lambda kind: kind.name)
def shared_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, template: Path
) -> Iterator[Server]:
    kind: Kind = request.param
    directory = tmp_path_factory.mktemp(kind.name)
    with site(kind, directory, copied(template, directory)) as server:
        yield server


@pytest.fixture
def server(shared_server: Server) -> Iterator[Server]:
    """A server that complains of nothing while the test runs."""
    before = len(complaints(shared_server))
    yield shared_server
    assert complaints(shared_server)[before:] == [], shared_server.log


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


@pytest.fixture
def anyio_backend() -> str:
    """Of the clients; the servers choose their own loop."""
    return "asyncio"


def token(page: httpx.Response) -> str:
    """What a form of the page sends against forged requests."""
    found = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.raise_for_status().text)
    assert found, page.text
    return found[1]


def submit(client: httpx.Client, path: str, **fields: str) -> httpx.Response:
    """Fill in the form of a page and send it."""
    return client.post(path, data={"csrfmiddlewaretoken": token(client.get(path)), **fields})


def log_in(client: httpx.Client) -> None:
    name, password = ADMIN
    response = submit(client, "/admin/login/?next=/admin/", username=name, password=password)
    assert (response.status_code, response.headers["location"]) == (302, "/admin/")


@pytest.fixture(scope="module")
def session(shared_server: Server) -> httpx.Cookies:
    """The cookies of somebody who may use the admin; hashing the password takes too long to do it for each test."""
    with shared_server.client() as client:
        log_in(client)
        return client.cookies


@pytest.fixture
def admin(client: httpx.Client, session: httpx.Cookies) -> httpx.Client:
    client.cookies = session
    return client


# --- the admin -----------------------------------------------------------------------------------------------


def test_admin_without_login_shows_the_form_of_the_login(client: httpx.Client) -> None:
    """Whoever is not known is sent to the login, and comes back from there to the same page."""
    response = client.get("/admin/notes/note/")
    assert (response.status_code, response.headers["location"]) == (302, "/admin/login/?next=/admin/notes/note/")
    assert "csrfmiddlewaretoken" in client.get(response.headers["location"]).text


def test_login_with_a_wrong_password_is_refused(client: httpx.Client) -> None:
    """The form comes back, and there is no session."""
    response = submit(client, "/admin/login/", username=ADMIN[0], password="wrong")
    assert response.status_code == 200
    assert "Please enter the correct username and password" in response.text
    assert "sessionid" not in client.cookies


def test_login_without_the_token_is_forbidden(client: httpx.Client) -> None:
    """``CsrfViewMiddleware`` is at work: neither no token nor another one's will do."""
    name, password = ADMIN
    assert client.post("/admin/login/", data={"username": name, "password": password}).status_code == 403
    forged = {"username": name, "password": password, "csrfmiddlewaretoken": "x" * 64}
    client.get("/admin/login/")
    assert client.post("/admin/login/", data=forged).status_code == 403


def test_admin_creates_changes_and_deletes_an_object(admin: httpx.Client) -> None:
    """Forms, redirects, messages and history, as on any Django site."""
    added = submit(admin, "/admin/notes/note/add/", title="Zoë <b>", text="first")
    assert (added.status_code, added.headers["location"]) == (302, "/admin/notes/note/")
    listed = admin.get("/admin/notes/note/", params={"q": "Zoë"}).text
    assert "was added successfully" in listed
    found = re.search(r'href="(/admin/notes/note/\d+/)change/[^"]*">Zoë &lt;b&gt;</a>', listed)
    assert found, listed
    page = found[1]

    changed = submit(admin, f"{page}change/", title="Zoë", text="second", _continue="1")
    assert (changed.status_code, changed.headers["location"]) == (302, f"{page}change/")
    assert "second</textarea>" in admin.get(f"{page}change/").text
    assert "Changed Title and Text." in admin.get(f"{page}history/").text

    deleted = submit(admin, f"{page}delete/", post="yes")
    assert (deleted.status_code, deleted.headers["location"]) == (302, "/admin/notes/note/")
    assert "was deleted successfully" in admin.get("/admin/notes/note/").text
    assert admin.get(f"{page}change/").status_code == 302


@pytest.mark.parametrize(
    "path",
    ["", "notes/", "notes/note/", "notes/note/?p=2", "notes/upload/", "auth/user/", "password_change/", "jsi18n/"],
)
def test_page_of_the_admin_is_shown(admin: httpx.Client, path: str) -> None:
    """Templates, context processors and the session's user are there."""
    assert admin.get(f"/admin/{path}").status_code == 200


def test_logout_ends_the_session(client: httpx.Client) -> None:
    """The cookie that is kept opens nothing any more."""
    log_in(client)
    kept = client.cookies["sessionid"]
    page = client.get("/admin/")
    assert client.post("/admin/logout/", data={"csrfmiddlewaretoken": token(page)}).status_code == 200
    assert client.get("/admin/", headers={"cookie": f"sessionid={kept}"}).status_code == 302


# --- uploads and downloads -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size",
    [
        pytest.param(1, id="one-byte"),
        pytest.param(100_000, id="in-memory"),
        # FILE_UPLOAD_MAX_MEMORY_SIZE is 2.5 MiB: of the body with its boundaries, and of the file in it.
        pytest.param(5 * MIB // 2, id="at-the-threshold"),
        pytest.param(20 * MIB + 1, id="spooled"),
    ],
)
def test_upload_is_kept_with_its_size_and_its_hash(server: Server, client: httpx.Client, size: int) -> None:
    """Every byte arrives, in ``request.FILES``, and comes back by a ``FileResponse``; no file stays open."""
    body = b"".join(content(size))
    name = f"upload-{size}.bin"
    fields = {"csrfmiddlewaretoken": token(client.get("/upload/"))}
    response = client.post("/upload/", data=fields, files={"file": (name, body)})
    assert (response.status_code, response.headers["location"]) == (302, "/")
    page = client.get("/").text
    found = re.search(rf'href="(/uploads/\d+/)">uploads/{name}</a>, (\d+) bytes, SHA-256 <code>(\w+)</code>', page)
    assert found, page
    assert (int(found[2]), found[3]) == (size, hashlib.sha256(body).hexdigest())
    assert f"uploads/{name} is kept." in page

    download = client.get(found[1])
    assert download.content == body
    assert download.headers["content-length"] == str(size)
    assert download.headers["content-disposition"] == f'attachment; filename="{name}"'
    eventually(lambda: open_files(server) == [], "the files are closed")


def test_requests_after_an_upload_on_the_same_connection_are_served(client: httpx.Client) -> None:
    """Servers go on with a connection in the context of the request that filled their buffers; that is over by then."""
    for _ in range(5):
        refused = client.post("/upload/", content=bytes(2 * MIB), headers={"content-type": "text/plain"})
        assert refused.status_code == 403
        for path in ("/", "/api/notes/", "/notes.csv", "/notes.ndjson"):
            assert client.get(path).status_code == 200


def test_upload_without_a_file_shows_the_form_again(client: httpx.Client) -> None:
    """Django's own checks come through."""
    response = submit(client, "/upload/")
    assert response.status_code == 200
    assert "This field is required." in response.text


def test_upload_that_breaks_off_reaches_no_view(server: Server, client: httpx.Client) -> None:
    """A truncated upload runs nothing and keeps nothing; the same one runs when it is whole."""
    fields = {"csrfmiddlewaretoken": token(client.get("/upload/"))}
    request = client.build_request("POST", "/upload/", data=fields, files={"file": ("name.bin", b"x" * 5 * MIB)})
    body = request.read()
    headers = [(name, request.headers[name]) for name in ("cookie", "content-type")]
    reached = f"INFO notes.views: upload of {len(body)} bytes"
    before = client.get("/").text

    for sent in (0, 1000, len(body) // 2, len(body) - 1):
        with exchange(server, "POST", "/upload/", fields=headers, body=body[:sent], length=len(body)) as visitor:
            visitor.leave()
    # Later requests of the same kind are through: so these are, too.
    eventually(lambda: open_files(server) == [], "the bodies are closed")
    assert client.get("/").text == before
    assert reached not in server.log

    with exchange(server, "POST", "/upload/", fields=headers, body=body, length=len(body)) as visitor:
        assert visitor.answer().status == 302
    assert server.log.count(reached) == 1


def test_download_of_64_mib_arrives_whole(server: Server, client: httpx.Client) -> None:
    """A ``FileResponse`` has its length and its name, and ``HEAD`` has them, too, without a body."""
    digest, expected = hashlib.sha256(), hashlib.sha256()
    with client.stream("GET", "/big/") as response:
        for part in response.iter_bytes():
            digest.update(part)
    for index in range(64):
        expected.update(index.to_bytes(4, "big") * (MIB // 4))
    assert digest.hexdigest() == expected.hexdigest()
    assert response.headers["content-length"] == str(64 * MIB)
    assert response.headers["content-disposition"] == 'attachment; filename="big.bin"'
    head = client.head("/big/")
    assert (head.content, head.headers["content-length"]) == (b"", str(64 * MIB))
    eventually(lambda: open_files(server) == [], "the files are closed")


def test_clients_that_leave_downloads_keep_neither_file_nor_thread(server: Server, client: httpx.Client) -> None:
    """More of them than there are workers, each half-way: all files are closed, and the next visitor is served."""
    with ExitStack() as visitors:
        # They are all there at once; those in excess wait for a worker.
        for visitor in [
            visitors.enter_context(exchange(server, "GET", "/big/?mib=32")) for _ in range(3 * MAX_WORKERS)
        ]:
            visitor.await_body()
            visitor.leave()
    eventually(lambda: open_files(server) == [], "the files are closed")
    assert client.get("/").status_code == 200


def test_download_of_nothing_is_not_found(client: httpx.Client) -> None:
    """``get_object_or_404`` gives the site's own page."""
    response = client.get("/uploads/999999/")
    assert response.status_code == 404
    assert "Here is what there is." in response.text


# --- streams ---------------------------------------------------------------------------------------------------

# Too slow to come to its end within a test.
DRIPS = {"csv": "/notes.csv?pause=0.2", "ndjson": "/notes.ndjson?pause=0.2", "events": "/events/"}


def test_streams_of_rows_arrive_whole(client: httpx.Client) -> None:
    """Every row, in order, from synchronous and from asynchronous generators."""
    rows = client.get("/notes.csv").raise_for_status().text.splitlines()
    assert rows[0] == "id,title,created"
    assert [row.split(",")[1] for row in rows[1:]] == [f"Note {number}" for number in range(1, NOTES + 1)]
    lines = client.get("/notes.ndjson").raise_for_status().text.splitlines()
    assert [line.partition('"title": ')[2] for line in lines] == [f'"Note {n}"}}' for n in range(1, NOTES + 1)]


@pytest.mark.parametrize("name", DRIPS)
def test_first_part_of_a_stream_arrives_before_the_last_is_made(server: Server, name: str) -> None:
    """The stream is under way when its first part is here."""
    before = activity(server, name)
    with exchange(server, "GET", DRIPS[name]) as visitor:
        visitor.await_body()
        assert activity(server, name) == {**before, "open": before["open"] + 1}
    await_activity(server, name, open=before["open"])


@pytest.mark.parametrize("name", DRIPS)
def test_clients_that_leave_streams_have_them_closed(server: Server, name: str) -> None:
    """Generators are broken off where they stand, in threads as on the loop; none runs to its end."""
    before = activity(server, name)
    with ExitStack() as visitors:
        for visitor in [visitors.enter_context(exchange(server, "GET", DRIPS[name])) for _ in range(MAX_WORKERS)]:
            visitor.await_body()
            visitor.leave()
    await_activity(server, name, open=before["open"], broken_off=before["broken_off"] + MAX_WORKERS)
    assert activity(server, name)["finished"] == before["finished"]


@pytest.mark.parametrize("name", ["ndjson", "events"])
def test_asynchronous_streams_hold_no_workers(server: Server, client: httpx.Client, name: str) -> None:
    """Though the middleware is synchronous, more of them can be open than there are workers; pages are served on."""
    before = activity(server, name)
    with ExitStack() as visitors:
        for _ in range(2 * MAX_WORKERS):
            visitors.enter_context(exchange(server, "GET", DRIPS[name])).await_body()
        assert client.get("/").status_code == 200
    await_activity(server, name, open=before["open"])


# --- synchronous and asynchronous views ------------------------------------------------------------------------


async def test_requests_of_every_kind_are_served_at_once(server: Server) -> None:
    """50 at a time, synchronous and asynchronous views with the database, and streams."""
    kinds = ("/", "/api/notes/", "/slow/?seconds=0.1", "/notes.csv", "/notes.ndjson")
    async with server.async_client() as client:
        responses = await asyncio.gather(*(client.get(path) for path in kinds * 10))
    assert [response.status_code for response in responses] == [200] * 50
    assert {response.json()["count"] for response in responses[1::5]} == {NOTES}
    assert {response.text.count("\n") for response in responses[3::5]} == {NOTES + 1}
    assert {response.text.count("\n") for response in responses[4::5]} == {NOTES}


async def test_threads_are_no_more_than_workers(server: Server) -> None:
    """However many synchronous views are asked for at a time."""
    finished = activity(server, "slow")["finished"]
    async with server.async_client() as client:
        slow = asyncio.gather(*(client.get("/slow/?seconds=0.3") for _ in range(5 * MAX_WORKERS)))
        most = 0
        while not slow.done():
            told = (await client.get("/status/")).json()
            most = max(most, told["threads"])
            assert told["activities"].get("slow", {"open": 0})["open"] <= MAX_WORKERS
        assert {response.status_code for response in await slow} == {200}
    assert activity(server, "slow")["finished"] == finished + 5 * MAX_WORKERS
    # Beside them: the loop's own thread, and those that servers and the engine have for files.
    assert most <= MAX_WORKERS + 8
    assert status(server)["connections"] <= MAX_WORKERS


def test_clients_that_leave_synchronous_views_give_their_workers_back(server: Server, client: httpx.Client) -> None:
    """A thread cannot be cancelled: the view comes to its end, and the next visitor is served."""
    before = activity(server, "slow")
    with ExitStack() as visitors:
        for _ in range(MAX_WORKERS - 1):  # one is left for the status
            visitors.enter_context(exchange(server, "GET", "/slow/?seconds=1"))
        await_activity(server, "slow", open=MAX_WORKERS - 1)
    await_activity(server, "slow", open=0)
    assert client.get("/").status_code == 200
    after = activity(server, "slow")
    assert after == {**before, "finished": before["finished"] + MAX_WORKERS - 1}


# --- what a client may ask beside that -------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/health/", "/big/?mib=1", *DRIPS.values()])
def test_head_has_the_fields_and_no_body(server: Server, client: httpx.Client, path: str) -> None:
    """Also of streams without end, which are closed; the connection serves on."""
    for _ in range(2):
        response = client.head(path)
        assert (response.status_code, response.content) == (200, b"")
    for name in DRIPS:
        await_activity(server, name, open=0)
    eventually(lambda: open_files(server) == [], "the files are closed")


def test_page_that_did_not_change_is_answered_with_304(client: httpx.Client) -> None:
    """``ConditionalGetMiddleware`` works for a page that is asked for again."""
    first = client.get("/")
    again = client.get("/", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get("/", headers={"if-none-match": '"other"'}).status_code == 200


def test_view_that_raises_is_answered_with_the_page_of_the_site(server: Server, client: httpx.Client) -> None:
    """The visitor sees ``500.html``, the log has the traceback once, and the connection serves on."""
    before = server.log.count("RuntimeError: this view is broken")
    response = client.get("/broken/")
    assert response.status_code == 500
    assert "It is in the log." in response.text
    eventually(lambda: server.log.count("RuntimeError: this view is broken") > before, "it is logged")
    assert server.log.count("RuntimeError: this view is broken") == before + 1
    assert client.get("/").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/%00", 400),  # the engine's own answer; it is Django's 404 otherwise
        ("GET", "/caf%C3%A9", 404),
        ("GET", "/admin", 301),
        ("GET", "/slow/?seconds=never", 400),
        ("POST", "/upload/", 403),
        ("DELETE", "/health/", 403),
        ("OPTIONS", "/events/", 405),
    ],
)
def test_other_requests_are_refused_by_django(client: httpx.Client, method: str, path: str, status: int) -> None:
    """Its middleware, its URL resolver and its decorators answer."""
    response = client.request(method, path)
    assert response.status_code == status
    if status == 405:
        assert response.headers["allow"] == "GET, HEAD"


_LINE = b"POST /upload/ HTTP/1.1\r\nhost: 127.0.0.1\r\n"


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(_LINE + b"content-length: many\r\n\r\n", id="content-length-is-no-number"),
        pytest.param(_LINE + b"content-length: -1\r\n\r\n", id="content-length-is-negative"),
        pytest.param(_LINE + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello", id="two-content-lengths"),
        pytest.param(b"GET /?q=\xff\xfe HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n", id="query-is-no-utf-8"),
        pytest.param(b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\nbad name: 1\r\n\r\n", id="field-name-with-a-blank"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00", id="tls"),
    ],
)
def test_malformed_request_is_refused_and_the_next_is_served(server: Server, client: httpx.Client, raw: bytes) -> None:
    """By the server or by Django: with a 4xx, or by closing the connection; never with a 500 or an error in the log."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS) as connection:
        connection.sendall(raw)
        received = connection.recv(65536)
    assert re.match(rb"HTTP/1\.[01] 4\d\d |\Z", received), received
    assert client.get("/health/").text == "ok\n"


def test_websocket_is_refused_quietly(server: Server, client: httpx.Client) -> None:
    """A handshake gets an answer that is not 101, and the log has no error, where Django itself raises."""
    if server.kind.modules[0] == "uvicorn" and not any(map(importlib.util.find_spec, ("websockets", "wsproto"))):
        pytest.skip("uvicorn has nothing to speak the protocol with")
    upgrade = [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", base64.b64encode(b"sixteen bytes ..").decode()),
    ]
    with exchange(server, "GET", "/health/", fields=upgrade) as connection:
        assert 400 <= connection.answer().status < 500
    assert client.get("/health/").text == "ok\n"


def test_lifespan_is_answered(server: Server) -> None:
    """No server finds the protocol unsupported, or says so."""
    assert not re.search("protocol appears unsupported|Lifespan errored", server.log)


# --- servers that are told to stop, and other settings -----------------------------------------------------------


@chosen
def test_sigterm_with_open_streams_ends_them_and_the_server(kind: Kind, template: Path, tmp_path: Path) -> None:
    """A server that is stopped is gone within seconds, whatever is streaming; where it can, it closes the streams."""
    if kind.name.startswith("granian"):
        # By itself it waits for open responses without end.
        kind = replace(kind, arguments=("--workers-kill-timeout", "2", *kind.arguments))
    with ExitStack() as visitors, running(kind, tmp_path, APP, copied(template, tmp_path)) as server:
        for path in DRIPS.values():
            visitors.enter_context(exchange(server, "GET", path)).await_body()
    if kind.cuts_streams:
        for name in DRIPS:
            assert server.log.count(f"INFO notes.counts: {name} broken_off") == 1, server.log
    assert server.complaints(of="django") == [], server.log
    assert server.complaints(of="asgicore") == [], server.log


def test_debug_shows_its_pages_and_serves_static_files(template: Path, tmp_path: Path) -> None:
    """``DEBUG=1``, as the example recommends for a first look: the admin has its style sheets."""
    with site(UVICORN, tmp_path, copied(template, tmp_path, DEBUG="1")) as server, server.client() as client:
        sheet = client.get("/static/admin/css/base.css")
        assert sheet.status_code == 200
        assert sheet.headers["content-type"].startswith("text/css")
        assert len(sheet.content) == int(sheet.headers["content-length"]) > 10_000
        since = {"if-modified-since": sheet.headers["last-modified"]}
        again = client.get("/static/admin/css/base.css", headers=since)
        assert (again.status_code, again.content) == (304, b"")
        assert "Using the URLconf defined in" in client.get("/nothing").text
        broken = client.get("/broken/")
        assert broken.status_code == 500
        assert "this view is broken" in broken.text
