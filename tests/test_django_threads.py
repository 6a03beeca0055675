"""The threads of the Django bridge as a site sees them: connections, transactions, thread-locals, disconnects."""

from __future__ import annotations

import asyncio
import gc
import random
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from contextvars import Context, ContextVar
from functools import partial
from time import monotonic
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from asgiref.local import Local
from asgiref.sync import SyncToAsync, ThreadSensitiveContext, async_to_sync, sync_to_async
from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import request_finished, request_started
from django.db import connection, connections, models, transaction
from django.db.backends.base import base as database_base
from django.db.backends.sqlite3.base import DatabaseWrapper
from django.http import HttpResponse, StreamingHttpResponse
from django.test import RequestFactory
from django.urls import path
from django.utils.decorators import async_only_middleware, sync_and_async_middleware, sync_only_middleware
from django.utils.deprecation import MiddlewareMixin
from django_site import (
    OURS,
    SECONDS,
    STOCK,
    Outcome,
    ask,
    backends,
    eventually,
    handlers,
    receivers,
    run,
    site,
    start,
    wait_for,
)
from django_site import Diary as SiteDiary
from faults import turn

from asgicore.django_bridge._workers import Worker
from asgicore.testing import Channel, Client, LeakGuard, Message, check_messages, http_scope, lint
from asgicore.testing._living import descriptors as open_files
from asgicore.testing._living import tasks as living_tasks

MODULE = "asgicore.django_bridge"

made: list[Any] = []


def new_handler(max_workers: int = 40, **options: Any) -> Any:
    """A handler whose threads end with the test."""
    handler = OURS(max_workers=max_workers, **options)
    made.append(handler)
    return handler


def workers() -> list[Worker]:
    """The threads of the bridge in this process."""
    return [one for one in threading.enumerate() if isinstance(one, Worker)]


@pytest.fixture(autouse=True)
def _leaves_no_thread() -> Iterator[None]:
    """Every thread of a test ends when it is told to, and closes its connections; none was lent to two requests."""
    before = set(workers())
    yield
    gates, ends = list(_gates), monotonic() + SECONDS
    del _gates[:]
    for gate in gates:
        gate.open.set()
    for handler in made:
        for worker in handler.workers.exit():
            worker.jobs.put(None)  # also those that were never given back
    del made[:]
    connections.close_all()
    while set(workers()) - before:
        assert monotonic() < ends
        threading.Event().wait(0.001)


class Gate:
    """Where synchronous views wait for the test, and how many do."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.lock = threading.Lock()
        self.begun = self.inside = self.most = 0
        _gates.append(self)

    def wait(self, request: Any = None) -> HttpResponse:
        with self.lock:
            self.begun += 1
            self.inside += 1
            self.most = max(self.most, self.inside)
        wait_for(self.open)
        with self.lock:
            self.inside -= 1
        return HttpResponse(b"waited")


_gates: list[Gate] = []


def counts(handler: Any) -> tuple[int, int, int]:
    return handler.workers.in_use, handler.workers.waiting, handler.workers.alive


async def is_free(handler: Any) -> None:
    """Wait until no request has a thread or waits for one."""
    await eventually(lambda: counts(handler)[:2] == (0, 0), "all threads are free")


# --- how many ----------------------------------------------------------------------------------------------


@backends
async def test_threads_of_many_slow_views_are_at_most_the_limit() -> None:
    """500 slow synchronous views at once: 40 threads, and everybody is answered."""
    gate = Gate()
    with site(gate.wait):
        handler = new_handler()
        before = threading.active_count()
        tasks = [start(ask_long(handler)) for _ in range(500)]
        await eventually(lambda: gate.inside == 40)
        await eventually(lambda: handler.workers.waiting == 460)
        assert counts(handler) == (40, 460, 40)
        assert threading.active_count() <= before + 40
        gate.open.set()
        statuses = [(await task).status for task in tasks]
        assert statuses == [200] * 500
        assert gate.most == 40
        await is_free(handler)
        assert handler.workers.alive == 40


async def ask_long(app: Any, **scope: Any) -> Outcome:
    """As ``ask``, beside others that take their time, so that tasks cannot be counted."""
    outcome = Outcome(Channel())
    with anyio.fail_after(4 * SECONDS):
        await app(http_scope(**scope), outcome.channel.receive, outcome.channel.send)
    return outcome


@pytest.mark.untraced
@backends
async def test_threads_of_many_asynchronous_requests_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """5,000 asynchronous requests in flight, middleware included, are held by the loop's own thread."""
    go = asyncio.Event()
    inside = 0

    async def view(request: Any) -> HttpResponse:
        nonlocal inside
        inside += 1
        await go.wait()
        return HttpResponse(b"waited")

    started: list[threading.Thread] = []
    real = threading.Thread.start

    def record(self: threading.Thread) -> None:
        started.append(self)
        real(self)

    with site(view, middleware=[async_layer]):
        handler = new_handler()
        monkeypatch.setattr(threading.Thread, "start", record)
        tasks = [start(ask_long(handler)) for _ in range(5000)]
        await eventually(lambda: inside == 5000)
        assert counts(handler) == (0, 0, 0)
        go.set()
        assert {(await task).status for task in tasks} == {200}
        assert started == []


@backends
async def test_threads_run_synchronous_views_in_parallel_up_to_the_limit() -> None:
    """Four views that wait for each other: all pass, with four threads."""
    together = threading.Barrier(4)

    def view(request: Any) -> HttpResponse:
        together.wait(SECONDS)
        return HttpResponse(b"together")

    with site(view):
        handler = new_handler(4)
        tasks = [start(ask_long(handler)) for _ in range(20)]
        assert {(await task).status for task in tasks} == {200}
        await is_free(handler)
        assert handler.workers.alive == 4


@backends
async def test_threads_of_requests_one_after_the_other_are_one() -> None:
    """It is warm, and the one of the request before."""
    names = set()

    def view(request: Any) -> HttpResponse:
        names.add(threading.current_thread().name)
        return HttpResponse()

    with site(view, middleware=[Hooks, sync_layer]):
        handler = new_handler()
        for _ in range(50):
            assert (await ask(handler)).status == 200
        assert len(names) == 1
        assert counts(handler) == (0, 0, 1)


@backends
async def test_threads_of_requests_that_wait_in_asynchronous_code_do_not_count_while_others_wait() -> None:
    """Long polls that have each used the database, with one thread: others are served, and the polls go on."""
    go = asyncio.Event()
    places: dict[str, list[int]] = {}

    def note(name: str) -> None:
        places.setdefault(name, []).append(threading.get_ident())

    async def poll(request: Any) -> HttpResponse:
        await sync_to_async(note)(request.GET["name"])
        await go.wait()
        await sync_to_async(note)(request.GET["name"])
        return HttpResponse(b"polled")

    def view(request: Any) -> HttpResponse:
        return HttpResponse(b"served")

    with site(view, patterns=[path("poll", poll)]):
        handler = new_handler(1)
        polls = [start(ask_long(handler, path="/poll", query_string=b"name=%d" % number)) for number in range(5)]
        await eventually(lambda: len(places) == 5)
        assert (await ask_long(handler)).body == b"served"
        go.set()
        assert [(await poll).status for poll in polls] == [200] * 5
        assert all(first == second for first, second in places.values())
        await is_free(handler)
        await eventually(lambda: handler.workers.alive == 1)


@backends
async def test_threads_of_a_view_that_waits_for_another_request_of_the_site_do_not_deadlock() -> None:
    """With a single thread, a view that used it asks its own site for a synchronous view."""

    async def outer(request: Any) -> HttpResponse:
        await sync_to_async(len)("")
        inner = await asyncio.create_task(ask_long(handler, path="/inner"), context=fresh())
        return HttpResponse(await sync_to_async(inner.body.upper)())

    def view(request: Any) -> HttpResponse:
        return HttpResponse(b"inner")

    with site(view, patterns=[path("outer", outer)]):
        handler = new_handler(1)
        assert (await ask_long(handler, path="/outer")).body == b"INNER"
        await is_free(handler)


def fresh() -> Context:
    """A context in which nothing is set, as that of another connection."""
    return Context()


# --- connections -------------------------------------------------------------------------------------------


class Book:
    """Every database connection that is opened and closed, and by whom."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened: list[Any] = []
        self.closed: list[tuple[Any, threading.Thread]] = []
        self.asked = 0
        opened, closed = self.opened, self.closed
        get, close, usable = DatabaseWrapper.get_new_connection, DatabaseWrapper._close, DatabaseWrapper.is_usable

        def get_new_connection(wrapper: Any, params: Any) -> Any:
            opened.append(made := get(wrapper, params))
            return made

        def close_connection(wrapper: Any) -> None:
            closed.append((wrapper.connection, threading.current_thread()))
            close(wrapper)

        def is_usable(wrapper: Any) -> Any:
            self.asked += 1
            return usable(wrapper)

        monkeypatch.setattr(DatabaseWrapper, "get_new_connection", get_new_connection)
        monkeypatch.setattr(DatabaseWrapper, "_close", close_connection)
        monkeypatch.setattr(DatabaseWrapper, "is_usable", is_usable)

    def number(self, one: Any) -> int:
        """Which one it is, in the order in which they were opened."""
        return next(number for number, other in enumerate(self.opened) if other is one)

    @property
    def open(self) -> list[Any]:
        return [one for one in self.opened if not any(one is other for other, _ in self.closed)]


@pytest.fixture
def book(monkeypatch: pytest.MonkeyPatch) -> Book:
    connections.close_all()
    return Book(monkeypatch)


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Changes options of the database for the test."""

    def change(**changes: Any) -> None:
        for name, value in changes.items():
            monkeypatch.setitem(connections.settings["default"], name, value)

    return change


def query(sql: str = "SELECT 1", *params: object) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
        return cursor.fetchall()


@asynccontextmanager
async def table() -> AsyncIterator[None]:
    """A table that views write to."""
    await elsewhere(query, "DROP TABLE IF EXISTS entry")
    await elsewhere(query, "CREATE TABLE entry (name TEXT)")
    yield
    await elsewhere(query, "DROP TABLE entry")


async def elsewhere(function: Callable[..., Any], *args: Any) -> Any:
    """Ask the database in a thread and a connection that are no request's."""

    def call() -> Any:
        try:
            return function(*args)
        finally:
            connections.close_all()

    return await asyncio.to_thread(call)


def entries() -> list[str]:
    return [name for (name,) in query("SELECT name FROM entry ORDER BY name")]


CALLS: dict[str, Callable[[Any], Any]] = {}


def step(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Something a view does, by its name."""
    CALLS[function.__name__] = function
    return function


@step
def asks(wrapper: Any) -> None:
    query()


@step
def nothing(wrapper: Any) -> None:
    pass


@step
def asks_when_too_old(wrapper: Any) -> None:
    query()
    wrapper.close_at = monotonic() - 1


@step
def leaves_autocommit_off(wrapper: Any) -> None:
    query()
    wrapper.set_autocommit(False)


@step
def meets_an_error(wrapper: Any) -> None:
    query()
    with suppress(database_base.DatabaseError):
        query("SELECT nothing FROM nowhere")


@step
def meets_a_broken_connection(wrapper: Any) -> None:
    query()
    wrapper.errors_occurred = True
    wrapper.connection.close()


@step
def raises(wrapper: Any) -> None:
    query()
    raise LookupError("view")


SCRIPT = [
    "asks",
    "asks",
    "nothing",
    "asks_when_too_old",
    "asks",
    "leaves_autocommit_off",
    "asks",
    "meets_an_error",
    "asks",
    "meets_a_broken_connection",
    "asks",
    "raises",
    "asks",
]


class Scripted:
    """A view that does one thing of the script per request, and notes the connection at both ends."""

    def __init__(self, book: Book) -> None:
        self.book = book
        self.seen: list[Any] = []

    def __call__(self, request: Any) -> HttpResponse:
        wrapper: Any = connections["default"]
        before = None if wrapper.connection is None else self.book.number(wrapper.connection)
        asked = self.book.asked
        try:
            CALLS[request.GET["do"]](wrapper)
        finally:
            after = None if wrapper.connection is None else self.book.number(wrapper.connection)
            limited = wrapper.close_at is not None
            self.seen.append((before, after, limited, self.book.asked - asked, len(self.book.closed)))
        return HttpResponse(b"done")


def under_wsgi(view: Any) -> list[Any]:
    """What a threaded WSGI server does with the script: all in one thread, which lives on."""

    def serve() -> None:
        app = WSGIHandler()
        for name in SCRIPT:
            environ = RequestFactory().get("/", {"do": name}).environ
            app(environ, lambda *_: None).close()
        connections.close_all()

    with ThreadPoolExecutor(1) as executor:
        executor.submit(serve).result(SECONDS)
    return list(view.seen)


@pytest.mark.parametrize("checks", [False, True], ids=["unchecked", "health checks"])
@pytest.mark.parametrize("age", [None, 600, 0], ids=["for ever", "600 s", "one request"])
@backends
async def test_connections_live_and_end_as_under_a_threaded_wsgi_server(
    age: int | None,
    checks: bool,
    options: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Which request has which connection, whether it ages, how often it is asked for its health, and when it ends."""
    caplog.set_level("CRITICAL")
    options(CONN_MAX_AGE=age, CONN_HEALTH_CHECKS=checks)
    with pytest.MonkeyPatch.context() as patch:
        theirs = Scripted(Book(patch))
        with site(theirs):
            await asyncio.to_thread(under_wsgi, theirs)
    mine = Scripted(Book(monkeypatch))
    with site(mine):
        handler = new_handler(1)
        for name in SCRIPT:
            await ask(handler, query_string=b"do=" + name.encode())
            assert handler.workers.in_use == 0
        assert mine.seen == theirs.seen
        assert await handler.workers.aclose()
        assert mine.book.open == []
        assert len(mine.book.closed) == len(theirs.book.closed)


@pytest.mark.parametrize("age", [None, 0])
@backends
async def test_connections_of_asynchronous_views_are_those_of_the_thread(
    age: int | None, options: Callable[..., None], book: Book
) -> None:
    """An asynchronous view that asks the database in a thread: persistent if they are to be, else closed at the end."""
    options(CONN_MAX_AGE=age)

    async def view(request: Any) -> HttpResponse:
        await sync_to_async(query)()
        await sync_to_async(query)()
        return HttpResponse()

    with site(view):
        handler = new_handler(1)
        for _ in range(3):
            assert (await ask(handler)).status == 200
            assert len(book.open) == (1 if age is None else 0)
        assert len(book.opened) == (1 if age is None else 3)


@pytest.mark.untraced
@backends
async def test_connections_are_never_those_of_two_requests_at_once(options: Callable[..., None], book: Book) -> None:
    """300 requests of all kinds, five threads: five connections, each with one request at a time."""
    options(CONN_MAX_AGE=None)
    owners: dict[int, Any] = {}
    lock = threading.Lock()
    shared: list[str] = []

    def use(request: Any) -> None:
        query()
        with lock:
            if owners.setdefault(id(connection.connection), request) is not request:
                shared.append("in use")

    def end(request: Any) -> None:
        with lock:
            owners.pop(id(connection.connection), None)

    def sync_view(request: Any) -> HttpResponse:
        use(request)
        query()
        end(request)
        return HttpResponse()

    async def async_view(request: Any) -> HttpResponse:
        await sync_to_async(use)(request)
        await turn(2)
        await sync_to_async(use)(request)
        await sync_to_async(end)(request)
        return HttpResponse()

    with site(sync_view, patterns=[path("async", async_view)], middleware=[Hooks]):
        handler = new_handler(5)
        tasks = [start(ask_long(handler, path="/async" if number % 2 else "/")) for number in range(300)]
        assert {(await task).status for task in tasks} == {200}
        assert shared == []
        assert len(book.opened) <= 5 + handler.workers.alive
        await is_free(handler)


@backends
async def test_connections_are_closed_when_their_thread_ends(options: Callable[..., None], book: Book) -> None:
    """In that thread, however long they might have lived."""
    options(CONN_MAX_AGE=None)

    def view(request: Any) -> HttpResponse:
        query()
        return HttpResponse()

    with site(view):
        handler = new_handler()
        handler.workers.idle_seconds = 0.01
        await ask(handler)
        (worker,) = book.opened and workers()[-1:]
        await eventually(lambda: handler.workers.alive == 0)
        assert [thread for _, thread in book.closed] == [worker]
        assert book.open == []


@backends
async def test_connections_are_closed_at_shutdown(options: Callable[..., None], book: Book) -> None:
    """When the lifespan ends, after the requests that still run; the next lifespan begins with new threads."""
    options(CONN_MAX_AGE=None)
    gate = Gate()

    def view(request: Any) -> HttpResponse:
        query()
        return gate.wait() if "wait" in request.GET else HttpResponse()

    with site(view):
        handler = new_handler(3)
        server = Lifespan(handler)
        await server.begin()
        tasks = [start(ask_long(handler, query_string=b"wait")) for _ in range(2)]
        await eventually(lambda: gate.inside == 2)
        await ask_long(handler)
        assert len(book.open) == 3
        old = handler.workers
        ending = start(server.end())
        await eventually(lambda: len(book.open) == 2)
        gate.open.set()
        assert [(await task).status for task in tasks] == [200, 200]
        await asyncio.wait_for(ending, SECONDS)
        assert book.open == []
        assert old.alive == 0
        assert (await ask(handler)).status == 200


class Lifespan:
    """A client's lifespan in a task of its own: the test goes on while it ends."""

    def __init__(self, app: Any) -> None:
        self._client = Client(lint(app))
        self._began, self._ends = asyncio.Event(), asyncio.Event()

    async def _run(self) -> None:
        async with self._client:
            self._began.set()
            await self._ends.wait()

    async def begin(self) -> None:
        self._task = start(self._run())
        await eventually(self._began.is_set)

    async def end(self) -> None:
        self._ends.set()
        await self._task


# --- transactions ------------------------------------------------------------------------------------------


@backends
async def test_atomic_requests_commit_and_roll_back(
    options: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    """A view that raises leaves nothing, one that does not what it wrote; in one thread, one after the other."""
    caplog.set_level("CRITICAL")
    options(ATOMIC_REQUESTS=True, CONN_MAX_AGE=None)
    atomic: list[bool] = []

    def view(request: Any) -> HttpResponse:
        atomic.append(connection.in_atomic_block)
        query("INSERT INTO entry VALUES (%s)", request.path)
        if "bad" in request.path:
            raise LookupError
        return HttpResponse()

    async with table():
        with site(view):
            handler = new_handler(1)
            statuses = [(await ask(handler, path=f"/{name}")).status for name in ("a", "bad", "b", "bad", "c")]
            assert statuses == [200, 500, 200, 500, 200]
            assert atomic == [True] * 5
            assert await elsewhere(entries) == ["/a", "/b", "/c"]


@handlers
@backends
async def test_atomic_requests_refuse_asynchronous_views(
    base: Any, options: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    """As Django says."""
    options(ATOMIC_REQUESTS=True)

    async def view(request: Any) -> HttpResponse:
        raise AssertionError("not reached")

    with site(view):
        assert (await ask(base())).status == 500
    assert "ATOMIC_REQUESTS with async views" in caplog.text


def _leave_atomic(request: Any) -> HttpResponse:
    transaction.atomic().__enter__()
    query("INSERT INTO entry VALUES ('left')")
    return HttpResponse()


def _leave_two_atomics(request: Any) -> HttpResponse:
    transaction.atomic().__enter__()
    return _leave_atomic(request)


def _leave_autocommit(request: Any) -> HttpResponse:
    transaction.set_autocommit(False)
    query("INSERT INTO entry VALUES ('left')")
    return HttpResponse()


def _leave_begin(request: Any) -> HttpResponse:
    query("BEGIN")
    query("INSERT INTO entry VALUES ('left')")
    return HttpResponse()


def _leave_rollback_needed(request: Any) -> HttpResponse:
    transaction.atomic().__enter__()
    query("INSERT INTO entry VALUES ('left')")
    transaction.set_rollback(True)
    return HttpResponse()


async def _leave_async(request: Any) -> HttpResponse:
    atomic = transaction.atomic()
    await sync_to_async(atomic.__enter__)()
    await sync_to_async(query)("INSERT INTO entry VALUES ('left')")
    return HttpResponse()


def _leave_with_a_stream(request: Any) -> StreamingHttpResponse:
    _leave_atomic(request)

    async def parts() -> AsyncIterator[bytes]:
        yield b"a"

    return StreamingHttpResponse(parts())


LEAVING = [
    _leave_atomic,
    _leave_two_atomics,
    _leave_autocommit,
    _leave_begin,
    _leave_rollback_needed,
    _leave_async,
    _leave_with_a_stream,
]


@pytest.mark.parametrize("leave", LEAVING, ids=lambda leave: leave.__name__.strip("_"))
@pytest.mark.parametrize("age", [None, 0])
@backends
async def test_transaction_left_open_does_not_reach_the_next_request(
    leave: Any, age: int | None, options: Callable[..., None]
) -> None:
    """It is rolled back; the next requests write and read as if nothing had been, as in new threads."""
    if leave is _leave_begin and age is None:
        pytest.skip("Django does not know of it, and under a WSGI server it reaches the next request, too")
    options(CONN_MAX_AGE=age, TIMEOUT=1)

    def view(request: Any) -> HttpResponse:
        if connection.in_atomic_block or not connection.get_autocommit():
            return HttpResponse(b"in a transaction", status=500)
        query("INSERT INTO entry VALUES (%s)", request.path)
        return HttpResponse(",".join(entries()))

    async with table():
        with site(view, patterns=[path("leave", leave)]):
            handler = new_handler(1)
            assert (await ask(handler, path="/leave")).status == 200
            outcomes = [await ask(handler, path=f"/{number}") for number in range(2)]
            assert [outcome.body for outcome in outcomes] == [b"/0", b"/0,/1"]
            assert await elsewhere(entries) == ["/0", "/1"]
            await is_free(handler)
            assert handler.workers.alive <= 1


@backends
async def test_queries_of_a_request_are_its_own_under_debug(options: Callable[..., None]) -> None:
    """``connection.queries`` begins anew with each, in a thread and a connection that are the same."""
    options(CONN_MAX_AGE=None)
    seen: list[tuple[int, int]] = []

    def view(request: Any) -> HttpResponse:
        query()
        query("SELECT 2")
        seen.append((threading.get_ident(), len(connection.queries)))
        return HttpResponse()

    with site(view, DEBUG=True):
        handler = new_handler(1)
        for _ in range(3):
            assert (await ask(handler)).status == 200
    assert len({ident for ident, _ in seen}) == 1
    assert [number for _, number in seen] == [2, 2, 2]


# --- what belongs to one request ---------------------------------------------------------------------------


@backends
async def test_thread_locals_of_a_request_are_not_seen_by_one_that_runs_between_its_calls() -> None:
    """With one thread and three at once: each finds what it left, and nobody else's."""
    local = threading.local()
    turns = [asyncio.Event() for _ in range(3)]
    begun: list[int] = []

    def put(name: str) -> str:
        before = getattr(local, "name", "")
        local.name = name
        return before

    async def view(request: Any) -> HttpResponse:
        number = int(request.GET["number"])
        seen = [await sync_to_async(put)(f"first of {number}")]
        begun.append(number)
        await turns[number].wait()
        seen.append(await sync_to_async(put)(f"second of {number}"))
        await sync_to_async(put)("")
        return HttpResponse("|".join(seen))

    with site(view):
        handler = new_handler(1)
        tasks = [start(ask_long(handler, query_string=b"number=%d" % number)) for number in range(3)]
        await eventually(lambda: len(begun) == 3)
        for number in (1, 0, 2):
            turns[number].set()
            assert (await tasks[number]).body == b"|first of %d" % number
        await is_free(handler)


variable: ContextVar[str] = ContextVar("variable", default="")
local: Any = Local()


@handlers
@backends
async def test_context_variables_of_a_request_are_not_seen_by_the_next_one(base: Any) -> None:
    """Neither plain ones nor asgiref's, set in middleware, views, their threads and at the end; within one they are."""
    seen: list[tuple[str, str]] = []

    def note(request: Any) -> None:
        seen.append((variable.get(), getattr(local, "name", "")))

    def put(request: Any) -> None:
        variable.set(request.path)
        local.name = request.path

    @sync_and_async_middleware  # type: ignore[untyped-decorator]
    def middleware(get_response: Any) -> Any:
        async def serve(request: Any) -> Any:
            note(request)
            await sync_to_async(put)(request)
            response = await get_response(request)
            response._resource_closers.append(lambda: put(request))
            return response

        return serve

    def view(request: Any) -> HttpResponse:
        note(request)
        put(request)
        return HttpResponse()

    async def main() -> None:
        for name in ("a", "b", "c"):
            await asyncio.create_task(ask(handler, path=f"/{name}"), context=fresh())

    with site(view, middleware=[middleware]):
        handler = new_handler(1) if base is OURS else STOCK()
        await main()
    assert seen == [("", ""), ("/a", "/a"), ("", ""), ("/b", "/b"), ("", ""), ("/c", "/c")]


# --- streams -----------------------------------------------------------------------------------------------


class Hooks(MiddlewareMixin):
    """Middleware with hooks that run in the thread of the request, and use its connection where told."""

    uses_connection = False

    def process_request(self, request: Any) -> None:
        if self.uses_connection:
            query()

    def process_response(self, request: Any, response: Any) -> Any:
        return response


class AskingHooks(Hooks):
    """The same, and the connection is open."""

    uses_connection = True


def has_sent(server: Channel, number: int) -> bool:
    return len(server.sent) > number


@pytest.mark.parametrize("middleware", [Hooks, AskingHooks])
@pytest.mark.parametrize("age", [None, 0])
@backends
async def test_asynchronous_stream_gives_its_thread_back_when_it_begins(
    middleware: Any, age: int | None, options: Callable[..., None], book: Book
) -> None:
    """Ten of them and one thread: all send, and others are served; closing them takes the thread again, for each."""
    options(CONN_MAX_AGE=age)
    places: list[str] = []
    closed: list[str] = []

    async def parts() -> AsyncIterator[bytes]:
        while True:
            yield b"data: x\n\n"
            await anyio.sleep(0.001)

    def view(request: Any) -> HttpResponse:
        return HttpResponse(b"served")

    async def stream(request: Any) -> StreamingHttpResponse:
        response = StreamingHttpResponse(parts(), content_type="text/event-stream")
        response._resource_closers.append(lambda: closed.append(threading.current_thread().name))
        places.append(threading.current_thread().name)
        return response

    with site(view, patterns=[path("stream", stream)], middleware=[middleware]):
        handler = new_handler(1)
        servers = [Channel() for _ in range(10)]
        tasks = [start(handler(http_scope(path="/stream"), one.receive, one.send)) for one in servers]
        for server in servers:
            await eventually(partial(has_sent, server, 2))
        await eventually(lambda: counts(handler) == (0, 0, 1), "the thread is free")
        assert len(book.open) == (1 if middleware is AskingHooks and age is None else 0)
        assert (await ask_long(handler)).body == b"served"
        for server in servers:
            server.disconnect()
        for task in tasks:
            await asyncio.wait_for(task, SECONDS)
        assert len(closed) == 10
        assert set(closed) <= {worker.name for worker in workers()}
        assert counts(handler) == (0, 0, 1)


@backends
async def test_asynchronous_stream_within_a_transaction_keeps_its_thread() -> None:
    """What a view left open is not given to others while its stream goes on."""

    async def parts() -> AsyncIterator[bytes]:
        while True:
            yield b"x"
            await checkpoint()

    async def stream(request: Any) -> StreamingHttpResponse:
        await sync_to_async(transaction.atomic().__enter__)()
        return StreamingHttpResponse(parts())

    with site(stream):
        handler = new_handler(1)
        server = Channel()
        task = start(handler(http_scope(), server.receive, server.send))
        await eventually(lambda: len(server.sent) > 20)
        assert handler.workers.in_use == 1
        server.disconnect()
        await asyncio.wait_for(task, SECONDS)
        assert handler.workers.in_use == 0


@pytest.mark.parametrize("is_async", [False, True], ids=["of a sync view", "of an async view"])
@backends
async def test_synchronous_stream_keeps_its_thread_and_frees_it_within_one_part(is_async: bool) -> None:
    """The iterator is not asked again after the part in which its client left, and is closed in its thread."""
    begun: list[int] = []
    closed: list[int] = []
    go = threading.Semaphore(0)

    def parts() -> Iterator[bytes]:
        try:
            while True:
                begun.append(threading.get_ident())
                assert go.acquire(timeout=SECONDS)
                yield b"part"
        finally:
            closed.append(threading.get_ident())

    def sync_view(request: Any) -> StreamingHttpResponse:
        return StreamingHttpResponse(parts())

    async def async_view(request: Any) -> StreamingHttpResponse:
        return StreamingHttpResponse(parts())

    with site(async_view if is_async else sync_view):
        handler = new_handler(1)
        server = Channel()
        task = start(handler(http_scope(), server.receive, server.send))
        go.release()
        await eventually(lambda: len(begun) == 2 and len(server.sent) == 2)
        assert handler.workers.in_use == 1
        server.disconnect()
        await eventually(server.told.is_set)
        await turn(20)
        assert handler.workers.in_use == 1
        assert not task.done()
        go.release()
        await asyncio.wait_for(task, SECONDS)
        assert len(begun) == 2
        assert closed == begun[:1]
        assert counts(handler) == (0, 0, 1)


# --- clients that leave ------------------------------------------------------------------------------------


class Closed:
    """Responses that tell when they are closed."""

    def __init__(self) -> None:
        self.made = 0
        self.closed: list[str] = []

    def response(self, content: bytes = b"x") -> HttpResponse:
        self.made += 1
        response = HttpResponse(content)
        response._resource_closers.append(lambda: self.closed.append(threading.current_thread().name))
        return response


async def leave_in(handler: Any, gate: Gate, **scope: Any) -> tuple[Channel, asyncio.Task[None]]:
    """A request whose client leaves while its view is at the gate."""
    server = Channel()
    task = start(handler(http_scope(**scope), server.receive, server.send))
    begun = gate.begun
    await eventually(lambda: gate.begun > begun)
    server.disconnect()
    await eventually(lambda: server.told.is_set())
    await turn(20)
    return server, task


@sync_and_async_middleware  # type: ignore[untyped-decorator]
def cleaning_layer(get_response: Any) -> Any:
    """Asynchronous middleware that cleans up in the thread of the request, whatever happens."""

    async def serve(request: Any) -> Any:
        try:
            return await get_response(request)
        finally:
            await sync_to_async(len)("")

    return serve


@async_only_middleware  # type: ignore[untyped-decorator]
def async_layer(get_response: Any) -> Any:
    async def serve(request: Any) -> Any:
        return await get_response(request)

    return serve


@sync_only_middleware  # type: ignore[untyped-decorator]
def sync_layer(get_response: Any) -> Any:
    def serve(request: Any) -> Any:
        return get_response(request)

    return serve


@pytest.mark.parametrize(
    "middleware",
    [[], [Hooks], [async_layer], [cleaning_layer], [sync_layer], [Hooks, AskingHooks], [sync_layer, cleaning_layer]],
    ids=["bare", "hooks", "async", "cleaning", "sync", "joined hooks", "sync over cleaning"],
)
@backends
async def test_synchronous_view_whose_client_left_keeps_its_thread_and_closes_its_response(middleware: Any) -> None:
    """Until it ends; then its response is closed and ``request_finished`` sent, once, in that thread."""
    gate, closed, diary = Gate(), Closed(), SiteDiary()

    def view(request: Any) -> HttpResponse:
        gate.wait()
        return closed.response()

    with site(view, middleware=middleware), receivers(diary):
        handler = new_handler(1)
        server, task = await leave_in(handler, gate)
        assert handler.workers.in_use == 1
        assert not task.done()
        other = start(ask_long(handler))
        await turn(20)
        assert gate.begun == 1
        gate.open.set()
        await asyncio.wait_for(task, SECONDS)
        assert (await other).status == 200
        assert server.sent == []
        assert len(closed.closed) == closed.made == 2
        assert diary.count("started") == diary.count("finished") == 2
        assert diary.places("started", "finished") == {"thread 1"}
        assert counts(handler) == (0, 0, 1)


@backends
async def test_response_of_middleware_whose_client_left_is_closed() -> None:
    """Middleware answers by itself from a hook in the thread, beside others whose hooks share the hop."""
    gate, closed = Gate(), Closed()

    class Answers(MiddlewareMixin):
        def process_request(self, request: Any) -> HttpResponse:
            gate.wait()
            return closed.response()

    def view(request: Any) -> HttpResponse:
        raise AssertionError("not reached")

    with site(view, middleware=[Hooks, Answers]):
        handler = new_handler(1)
        _, task = await leave_in(handler, gate)
        gate.open.set()
        await asyncio.wait_for(task, SECONDS)
        assert len(closed.closed) == 1


@pytest.mark.parametrize("when", ["in the queue", "in the hook"])
@backends
async def test_response_of_a_view_whose_client_left_in_a_hook_after_it_is_closed(when: str) -> None:
    """The view is done, and middleware looks at its response in a thread, or waits for one to do so."""
    gate, closed = Gate(), Closed()

    class After(MiddlewareMixin):
        def process_response(self, request: Any, response: Any) -> Any:
            if when == "in the hook":
                gate.wait()
            return response

    async def view(request: Any) -> HttpResponse:
        return closed.response()

    def slow(request: Any) -> HttpResponse:
        return gate.wait()

    with site(view, patterns=[path("slow", slow)], middleware=[After] if when == "in the hook" else [After, After]):
        handler = new_handler(1)
        if when == "in the hook":
            _, task = await leave_in(handler, gate)
        else:
            other = start(ask_long(handler, path="/slow"))
            await eventually(lambda: gate.begun == 1)
            server = Channel()
            task = start(handler(http_scope(), server.receive, server.send))
            await eventually(lambda: handler.workers.waiting == 1)
            server.disconnect()
            await eventually(lambda: server.told.is_set())
        gate.open.set()
        await asyncio.wait_for(task, SECONDS)
        if when == "in the queue":
            assert (await other).status == 200
        assert closed.made == len(closed.closed) == 1


@backends
async def test_request_whose_client_left_in_the_queue_never_runs_its_view() -> None:
    """The view is not called, no thread is used for it, and both signals are sent."""
    gate, diary = Gate(), SiteDiary()
    called: list[str] = []

    def view(request: Any) -> HttpResponse:
        called.append(request.path)
        return gate.wait()

    with site(view), receivers(diary, ""):
        handler = new_handler(1)
        first = start(ask_long(handler, path="/first"))
        await eventually(lambda: gate.begun == 1)
        server = Channel()
        task = start(handler(http_scope(path="/left"), server.receive, server.send))
        await eventually(lambda: handler.workers.waiting == 1)
        server.disconnect()
        await eventually(lambda: server.told.is_set())
        gate.open.set()
        assert (await first).status == 200
        await asyncio.wait_for(task, SECONDS)
        assert called == ["/first"]
        await is_free(handler)


@backends
async def test_request_whose_client_left_in_the_queue_leaves_the_queue() -> None:
    """It has never had a thread, and has nothing to close in one: it ends while all threads are busy."""
    gate = Gate()

    def view(request: Any) -> HttpResponse:
        return gate.wait()

    with site(view):
        handler = new_handler(1)
        first = start(ask_long(handler, path="/first"))
        await eventually(lambda: gate.begun == 1)
        server = Channel()
        task = start(handler(http_scope(path="/left"), server.receive, server.send))
        await eventually(lambda: handler.workers.waiting == 1)
        server.disconnect()
        done, _ = await asyncio.wait([task], timeout=1)
        waiting = handler.workers.waiting
        gate.open.set()
        await first
        await asyncio.wait_for(task, SECONDS)
        assert (bool(done), waiting) == (True, 0)


@pytest.mark.parametrize("kind", ["middleware", "view"])
@backends
async def test_asynchronous_view_whose_client_left_before_it_began_is_cancelled(kind: str) -> None:
    """Synchronous code is at work when the client leaves, and only then calls asynchronous code, which waits."""
    gate = Gate()
    fate: list[str] = []

    async def waits(request: Any) -> HttpResponse:
        fate.append("begun")
        try:
            await anyio.sleep_forever()
        finally:
            fate.append("cancelled")
        raise AssertionError("not reached")

    def view(request: Any) -> Any:
        gate.wait()
        return async_to_sync(waits)(request)

    @sync_only_middleware  # type: ignore[untyped-decorator]
    def works(get_response: Any) -> Any:
        def serve(request: Any) -> Any:
            gate.wait()
            return get_response(request)

        return serve

    with site(waits if kind == "middleware" else view, middleware=[works] if kind == "middleware" else []):
        handler = new_handler(1)
        before = asyncio.all_tasks()
        _, task = await leave_in(handler, gate)
        gate.open.set()
        done, _ = await asyncio.wait([task], timeout=2)
        if not done:
            await cancel_all(before)
        assert done, "the thread is lost, and the request does not end"
        assert fate in (["begun", "cancelled"], [])
        await is_free(handler)


@pytest.mark.parametrize("how", ["goes on", "ends at once", "raises", "is cancelled again"])
@backends
async def test_asynchronous_code_below_a_view_that_heeds_no_cancellation_is_waited_for(how: str) -> None:
    """It does what it likes with a cancellation; the view ends then, its response is closed, and its thread is free."""
    closed, fate = Closed(), []
    inside = asyncio.Event()

    async def stubborn() -> str:
        inside.set()
        try:
            await anyio.sleep_forever()
        except asyncio.CancelledError:
            fate.append("cancelled")
            if how == "raises":
                raise LookupError("in place of it") from None
            if how == "is cancelled again":
                task.cancel()  # by the server, in the very moment that it ends
        if how == "goes on":
            await turn(5)
            fate.append(await sync_to_async(str)("went on"))
        return "done"

    def view(request: Any) -> HttpResponse:
        fate.append(async_to_sync(stubborn)())
        return closed.response()

    with site(view):
        handler = new_handler(1)
        server = Channel()
        task = start(handler(http_scope(), server.receive, server.send))
        await asyncio.wait_for(inside.wait(), SECONDS)
        server.disconnect()
        await asyncio.wait([task], timeout=SECONDS)
        assert task.done()
        assert task.cancelled() is (how == "is cancelled again")
        expected = {"goes on": ["cancelled", "went on", "done"], "raises": ["cancelled"]}
        assert fate == expected.get(how, ["cancelled", "done"])
        assert closed.made == len(closed.closed)
        assert server.sent == []
        assert counts(handler) == (0, 0, 1)


async def cancel_all(but: set[Any]) -> None:
    """End what hangs, so that the test fails and the next one begins."""
    while others := asyncio.all_tasks() - but:
        for other in others:
            other.cancel()
        await asyncio.wait(others, timeout=0.1)


class Heartbeat:
    """How long the loop is held up, in beats of a thread that nothing holds up: where the machine halts, both do."""

    BEAT = 0.005

    def __init__(self) -> None:
        self.beats = 0
        self.worst = 0
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._beat)

    def _beat(self) -> None:
        while not self._ends.wait(self.BEAT):
            self.beats += 1

    async def _listen(self) -> None:
        while True:
            before = self.beats
            await asyncio.sleep(self.BEAT)
            self.worst = max(self.worst, self.beats - before - 1)

    async def __aenter__(self) -> Heartbeat:
        self._thread.start()
        self._task = start(self._listen())
        await turn(2)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        self._ends.set()
        self._thread.join(SECONDS)

    @property
    def milliseconds(self) -> float:
        return self.worst * self.BEAT * 1000


@backends
async def test_heartbeat_notices_a_loop_that_is_held_up() -> None:
    """The measure of the tests below can fail: a loop that waits for a thread is seen."""
    async with Heartbeat() as heartbeat:
        held = heartbeat.beats + 40
        while heartbeat.beats < held:
            threading.Event().wait(0.005)
        await asyncio.sleep(0.02)
    assert heartbeat.milliseconds > 100


MIXES: dict[str, list[Any]] = {
    "none": [],
    "sync": [sync_layer],
    "async": [async_layer],
    "sync over async": [sync_layer, async_layer],
    "async over sync": [async_layer, sync_layer],
    "sync, async, sync, async": [sync_layer, async_layer, sync_layer, async_layer],
    "hooks": [Hooks, AskingHooks],
    "all": [AskingHooks, sync_layer, cleaning_layer, Hooks, async_layer, sync_layer, Hooks],
}


def check_django_messages(messages: list[Message]) -> None:
    """As ``check_messages()``, whatever case the names are in."""
    start, *rest = messages or [{}]
    if start:
        headers = [(name.lower(), value) for name, value in start["headers"]]
        check_messages([{**start, "headers": headers}, *rest])


class Storm:
    """A site whose clients leave at any moment, and an account of what began and ended."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.lock = threading.Lock()
        self.started = self.finished = self.begun = self.ended = 0
        self.names: set[str] = set()
        """Of the requests whose view, or whose stream, has begun."""
        self.made = Closed()
        self.left: dict[str, threading.Event] = {}

    # Signals, for which nobody else is asked.

    def on_started(self, **_: Any) -> None:
        with self.lock:
            self.started += 1

    def on_finished(self, **_: Any) -> None:
        with self.lock:
            self.finished += 1

    def begin(self, request: Any) -> None:
        with self.lock:
            self.begun += 1
            self.names.add(request.GET["name"])

    def has_begun(self, before: int) -> bool:
        return self.begun > before

    def end(self) -> None:
        with self.lock:
            self.ended += 1

    # Views.

    def sync_view(self, request: Any) -> HttpResponse:
        self.begin(request)
        try:
            if "waits" in request.GET:
                wait_for(self.left[request.GET["name"]])
            query()
            return self.made.response()
        finally:
            self.end()

    async def async_view(self, request: Any) -> HttpResponse:
        self.begin(request)
        try:
            await sync_to_async(query)()
            if "waits" in request.GET:
                await anyio.sleep_forever()
            await turn(3)
            await sync_to_async(query)()
            return self.made.response()
        finally:
            self.end()

    def nested_view(self, request: Any) -> HttpResponse:
        self.begin(request)
        try:
            return HttpResponse(b"%d" % async_to_sync(self.nested)("waits" in request.GET))
        finally:
            self.end()

    async def nested(self, waits: bool) -> int:
        if waits:
            await anyio.sleep_forever()
        await turn(2)
        return len(await sync_to_async(query)())

    async def async_stream(self, request: Any) -> StreamingHttpResponse:
        await sync_to_async(query)()
        return StreamingHttpResponse(self.parts(request))

    async def parts(self, request: Any) -> AsyncIterator[bytes]:
        self.begin(request)
        try:
            while True:
                yield b"x"
                await turn(2)
        finally:
            self.end()

    def sync_stream(self, request: Any) -> StreamingHttpResponse:
        query()
        return StreamingHttpResponse(self.sync_parts(request))

    def sync_parts(self, request: Any) -> Iterator[bytes]:
        self.begin(request)
        try:
            while True:
                yield b"x" * 1000
        finally:
            self.end()

    @property
    def patterns(self) -> list[Any]:
        return [
            path(name, getattr(self, name))
            for name in ("sync_view", "async_view", "nested_view", "async_stream", "sync_stream")
        ]

    async def request(self, handler: Any, number: int) -> None:
        dice, name = self.dice, str(number)
        kind = dice.choice(["sync_view", "async_view", "nested_view", "async_stream", "sync_stream"])
        self.left[name] = threading.Event()
        server = Channel(suspends=dice.random() < 0.5, tells=dice.choice(["event", "both"]))
        waits = b"&waits" if dice.random() < 0.5 else b""
        scope = http_scope(path=f"/{kind}", query_string=b"name=" + name.encode() + waits)
        task = start(handler(scope, server.receive, server.send))
        how = dice.random()
        if how < 0.4:
            await turn(dice.randrange(30))
        elif how < 0.7:
            with anyio.move_on_after(SECONDS / 2):
                while name not in self.names and not task.done():
                    await checkpoint()
        else:
            with anyio.move_on_after(0.05):
                while not server.sent and not task.done():
                    await checkpoint()
        server.disconnect()
        await turn(dice.randrange(5))
        self.left[name].set()
        await task
        check_django_messages(server.sent)


@asynccontextmanager
async def storm(seed: int, signals: bool) -> AsyncIterator[Storm]:
    made = Storm(seed)
    receiving = [(request_started, made.on_started), (request_finished, made.on_finished)] if signals else []
    for signal, receiver in receiving:
        signal.connect(receiver)
    try:
        yield made
    finally:
        for signal, receiver in receiving:
            signal.disconnect(receiver)


@pytest.mark.untraced
@pytest.mark.parametrize("mix", MIXES)
@backends
async def test_storm_of_disconnects_holds_up_nothing_and_leaves_nothing(
    mix: str, options: Callable[..., None], book: Book, small_heap: None, caplog: pytest.LogCaptureFixture
) -> None:
    """1,000 requests over eight mixes of middleware and two loops, whose clients leave at any moment.

    No beat of the loop is late by 100 ms; every request that began has ended, with both signals; all threads are free,
    and no task, file or connection is left.
    """
    options(CONN_MAX_AGE=None)
    caplog.set_level("ERROR")
    async with storm(hash_of(mix), signals=True) as made:
        with site(middleware=MIXES[mix], patterns=made.patterns):
            handler = new_handler(6)
            await made.request(handler, -1)  # what is loaded lazily is loaded now
            before = living_tasks()
            files = open_files()
            async with Heartbeat() as heartbeat:
                others = asyncio.all_tasks()
                for round_ in range(7):
                    tasks = [start(made.request(handler, round_ * 9 + number)) for number in range(9)]
                    _, hanging = await asyncio.wait(tasks, timeout=SECONDS)
                    if hanging:
                        await cancel_all(others)
                    assert not hanging, "requests that do not end"
                    for task in tasks:
                        task.result()
            await is_free(handler)
            await eventually(lambda: living_tasks() == before, "no task is left")
            assert handler.workers.alive <= 6
            assert heartbeat.milliseconds < 100
            assert made.begun == made.ended > 10
            assert made.started == made.finished == 64
            assert made.made.made == len(made.made.closed)
            assert len(book.open) <= handler.workers.alive
            assert await handler.workers.aclose()
            assert book.open == []
            assert len(open_files()) <= len(files)
    assert caplog.records == []


def hash_of(text: str) -> int:
    """The same in every process."""
    return sum(text.encode()) + 20251130


OF_OURS = tuple(f"{MODULE}.{name}" for name in ("_answer", "_cancel", "_chain", "_handler", "_request", "_workers"))


@pytest.mark.untraced
@pytest.mark.parametrize("kind", ["sync_view", "async_view", "async_stream"])
@backends
async def test_disconnects_leave_no_cycle_of_ours(kind: str, small_heap: None) -> None:
    """100 clients that leave in what waits: of our classes nothing is left to the collector."""
    async with storm(1, signals=False) as made:
        with site(patterns=made.patterns, middleware=[Hooks, async_layer]):
            handler = new_handler(2)
            await left_in(handler, made, kind, 3)
            async with LeakGuard(cycles=OF_OURS):
                await left_in(handler, made, kind, 100)


async def left_in(handler: Any, made: Storm, kind: str, number: int) -> None:
    """Requests one after the other whose clients leave when the view, or its stream, has begun."""
    for name in map(str, range(number)):
        made.left[name] = threading.Event()
        server = Channel()
        begun = made.begun
        scope = http_scope(path=f"/{kind}", query_string=b"waits&name=" + name.encode())
        task = start(handler(scope, server.receive, server.send))
        await eventually(partial(made.has_begun, begun))
        server.disconnect()
        await eventually(server.told.is_set)
        made.left[name].set()
        await asyncio.wait_for(task, SECONDS)
    await turn(5)


@pytest.mark.untraced
@pytest.mark.parametrize("kind", ["nested_view", "sync_stream"])
@backends
async def test_disconnects_leave_a_small_constant_where_an_error_goes_through_asgiref(
    kind: str, small_heap: None
) -> None:
    """Its frames keep the error that they pass on, as under stock Django; it does not grow."""
    async with storm(1, signals=False) as made:
        with site(patterns=made.patterns):
            handler = new_handler(2)
            await left_in(handler, made, kind, 3)
            gc.collect()
            gc.disable()
            try:
                await left_in(handler, made, kind, 20)
                once = gc.collect()
                await left_in(handler, made, kind, 20)
                again = gc.collect()
            finally:
                gc.enable()
            assert again <= once * 1.2  # what runs as the count is taken may be in the one or in the other
            assert once <= 20 * 300


@pytest.mark.untraced
@pytest.mark.parametrize("kind", ["view", "stream", "hooks"])
@backends
async def test_requests_with_threads_leave_no_cycle_of_ours(kind: str, small_heap: None) -> None:
    """100 requests in threads: of our classes nothing is left to the collector."""

    def view(request: Any) -> Any:
        return StreamingHttpResponse(iter([b"a", b"b"])) if kind == "stream" else HttpResponse(b"x")

    with site(view, middleware=[Hooks, Hooks] if kind == "hooks" else []):
        handler = new_handler(1)
        for _ in range(3):
            await ask(handler)
        async with LeakGuard(cycles=OF_OURS):
            for _ in range(100):
                await ask(handler)
            await is_free(handler)


@pytest.mark.untraced
@pytest.mark.parametrize("kind", ["view", "error", "404", "hooks", "nested"])
@backends
async def test_requests_with_threads_leave_no_more_to_collect_than_stock_django(
    kind: str, small_heap: None, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where views raise, which leaves frames of asgiref's and of Django's in a cycle with the error."""
    caplog.set_level("CRITICAL", "django")

    def view(request: Any) -> Any:
        if kind == "error":
            raise LookupError("view")
        return HttpResponse(b"%d" % async_to_sync(nested)() if kind == "nested" else b"x")

    async def nested() -> int:
        return await sync_to_async(len)("abc")

    found = []
    for base in (STOCK, OURS):
        patterns = [path("other", view)] if kind == "404" else [path("", view)]
        with site(patterns=patterns, middleware=[Hooks, Hooks] if kind == "hooks" else []):
            handler = new_handler(1) if base is OURS else STOCK()
            for _ in range(3):
                await ask(handler)
            gc.collect()
            gc.disable()
            try:
                for _ in range(20):
                    await ask(handler)
                found.append(gc.collect())
            finally:
                gc.enable()
    theirs, mine = found
    # asgiref's frames hold what they submit to, which here is the lease of the request, and has a few things more.
    assert mine <= theirs + 20 * 10


# --- the end -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["stream", "stream that had a thread", "view"])
@backends
async def test_request_that_is_closed_after_the_shutdown_is_closed_whole(what: str) -> None:
    """The threads are gone, the server cuts what is left: responses are closed, and ``request_finished`` is sent."""
    closed, diary = Closed(), SiteDiary()
    inside = asyncio.Event()

    async def parts() -> AsyncIterator[bytes]:
        yield b"x"
        inside.set()
        await anyio.sleep_forever()

    async def view(request: Any) -> Any:
        if what == "view":
            inside.set()
            await anyio.sleep_forever()
        response = StreamingHttpResponse(parts())
        response._resource_closers.append(lambda: closed.closed.append(""))
        return response

    with site(view, middleware=[Hooks] if "had" in what else []):
        handler = new_handler(1)
        lifespan = Lifespan(handler)
        await lifespan.begin()
        server = Channel()
        with receivers(diary):
            task = start(handler(http_scope(), server.receive, server.send))
            await asyncio.wait_for(inside.wait(), SECONDS)
            ending = start(lifespan.end())
            if what == "stream" or what == "view":
                await eventually(lambda: handler.workers.alive == 0)
            await turn(20)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(task, SECONDS)
            await asyncio.wait_for(ending, SECONDS)
        assert len(closed.closed) == (0 if what == "view" else 1)
        assert diary.count("started") == diary.count("finished") == 1


def test_request_that_its_loop_gave_up_is_closed_and_frees_its_thread() -> None:
    """The loop is closed with a request in it that has a thread: its coroutine is closed where no loop runs."""
    closed, diary = Closed(), SiteDiary()

    async def view(request: Any) -> HttpResponse:
        await sync_to_async(query)()
        inside.set()
        await anyio.sleep_forever()
        raise AssertionError("not reached")

    async def main() -> None:
        server = Channel()
        coroutine = handler(http_scope(), server.receive, server.send)
        coroutines.append(coroutine)
        await drive(coroutine, inside)

    coroutines: list[Any] = []
    inside = threading.Event()
    with site(view), receivers(diary):
        handler = new_handler(1)
        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
        coroutines.pop().close()
        ends = monotonic() + SECONDS
        while counts(handler)[0] and monotonic() < ends:
            threading.Event().wait(0.001)
        assert counts(handler) == (0, 0, 1)
        assert diary.count("started") == diary.count("finished") == 1
    assert closed.made == 0


async def drive(coroutine: Any, inside: threading.Event) -> None:
    """Step a coroutine by hand until it is inside; it is left suspended then."""
    while not inside.is_set():
        waited = coroutine.send(None)
        if waited is not None:
            waited._asyncio_future_blocking = False
            while not waited.done() and not inside.is_set():
                await asyncio.sleep(0)
        else:
            await asyncio.sleep(0)


# --- asgiref -----------------------------------------------------------------------------------------------


@handlers
@backends
async def test_sync_to_async_calls_at_once_run_one_after_another_in_one_thread(base: Any) -> None:
    """As with asgiref's own executor of one thread."""
    lock = threading.Lock()
    order: list[tuple[int, int]] = []

    def work(number: int) -> int:
        assert lock.acquire(blocking=False), "two at once"
        order.append((number, threading.get_ident()))
        lock.release()
        return number

    async def view(request: Any) -> HttpResponse:
        results = await asyncio.gather(*[sync_to_async(work)(number) for number in range(10)])
        assert results == list(range(10))
        return HttpResponse()

    with site(view):
        outcome = await ask(new_handler(2) if base is OURS else STOCK())
    assert outcome.status == 200
    assert [number for number, _ in order] == list(range(10))
    assert len({ident for _, ident in order}) == 1


@handlers
@pytest.mark.parametrize("depth", [1, 4])
@pytest.mark.parametrize("over", [[], [sync_layer], [async_layer, sync_layer, async_layer]], ids=len)
@backends
async def test_async_to_sync_several_layers_deep_stays_in_the_thread_of_the_request(
    base: Any, depth: int, over: list[Any]
) -> None:
    """Synchronous code in it runs in the thread that waits, asynchronous code on the loop; with one thread."""
    places: list[str] = []
    loop_thread = threading.get_ident()

    def place() -> None:
        places.append("loop" if threading.get_ident() == loop_thread else threading.current_thread().name)

    def sync_part(left: int) -> None:
        place()
        if left:
            async_to_sync(async_part)(left)

    async def async_part(left: int) -> None:
        place()
        await sync_to_async(sync_part)(left - 1)
        await asyncio.gather(*[sync_to_async(place)() for _ in range(2)])

    def view(request: Any) -> HttpResponse:
        sync_part(depth)
        return HttpResponse()

    with site(view, middleware=over):
        handler = new_handler(1) if base is OURS else STOCK()
        assert (await ask(handler)).status == 200
    assert places[:3:2] == [places[0]] * 2
    assert places[1] == "loop"
    assert places.count("loop") == depth
    assert len(set(places)) == 2
    assert len(places) == 1 + depth * 4
    if base is OURS:
        assert counts(handler) == (0, 0, 1)


@handlers
@backends
async def test_sync_to_async_that_is_not_thread_sensitive_runs_elsewhere(base: Any) -> None:
    """In the loop's own executor, beside the thread of the request and at the same time."""
    together = threading.Barrier(3)

    def meet() -> str:
        together.wait(SECONDS)
        return threading.current_thread().name

    async def view(request: Any) -> HttpResponse:
        names = await asyncio.gather(
            sync_to_async(meet)(),
            sync_to_async(meet, thread_sensitive=False)(),
            sync_to_async(meet, thread_sensitive=False)(),
        )
        return HttpResponse(",".join(names))

    with site(view):
        outcome = await ask(new_handler(1) if base is OURS else STOCK())
    names = outcome.body.decode().split(",")
    assert len(set(names)) == 3
    if base is OURS:
        assert [name.startswith("asgicore-django-") for name in names] == [True, False, False]


@backends
async def test_sync_to_async_of_a_task_that_outlives_the_request_raises() -> None:
    """A clear error at once, in place of a thread of nobody's; also where it waits for one as the request ends."""
    gate = Gate()
    over, errors = asyncio.Event(), []
    tasks: list[asyncio.Task[None]] = []

    async def outlive(waits: bool) -> None:
        if not waits:
            await over.wait()
        try:
            await sync_to_async(len)("")
        except RuntimeError as exc:
            errors.append(str(exc))

    async def view(request: Any) -> HttpResponse:
        tasks.extend(start(outlive(waits)) for waits in (False, True))
        await turn(3)
        return HttpResponse()

    def slow(request: Any) -> HttpResponse:
        return gate.wait()

    with site(view, patterns=[path("slow", slow)]):
        handler = new_handler(1)
        other = start(ask_long(handler, path="/slow"))
        await eventually(lambda: gate.begun == 1)
        outcome = start(ask_long(handler))
        await eventually(lambda: handler.workers.waiting == 1)
        await turn(20)
        gate.open.set()
        assert (await other).status == (await outcome).status == 200
        over.set()
        await asyncio.wait_for(asyncio.gather(*tasks), SECONDS)
        assert any("ThreadSensitiveContext has exited" in error for error in errors)
        await is_free(handler)


@handlers
@backends
async def test_sync_to_async_in_a_context_of_its_own_uses_the_thread_of_asgiref(base: Any) -> None:
    """A task that is in no request's context: asgiref's own single thread, and its check for deadlocks."""

    def inner() -> str:
        return threading.current_thread().name

    async def twice() -> str:
        return await sync_to_async(inner)()

    def blocks() -> str:
        # In asgiref's single thread, which would have to wait for itself.
        made = asyncio.run_coroutine_threadsafe(nested(), loop)
        return made.result(SECONDS)

    async def nested() -> str:
        return await twice()

    async def view(request: Any) -> HttpResponse:
        return HttpResponse(await asyncio.create_task(twice(), context=fresh()))

    loop = asyncio.get_running_loop()
    with site(view):
        handler = new_handler(1) if base is OURS else STOCK()
        outcome = await ask(handler)
    assert outcome.body.startswith(b"ThreadPoolExecutor")


@handlers
@backends
async def test_sync_to_async_that_would_wait_for_itself_raises_as_asgiref_says(
    base: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """asgiref's check for its single thread is reached where it is under stock Django, and nothing hangs."""

    async def deep() -> None:
        await sync_to_async(len)("")

    def from_thread() -> None:
        # What asgiref keeps in the context tells it of the deadlock.
        assert SyncToAsync.deadlock_context.get(False)
        asyncio.run_coroutine_threadsafe(deep(), loop).result(SECONDS)

    async def outside() -> str:
        try:
            await sync_to_async(from_thread)()
        except RuntimeError as exc:
            return str(exc)
        return "no error"

    async def view(request: Any) -> HttpResponse:
        return HttpResponse(await asyncio.create_task(outside(), context=fresh()))

    loop = asyncio.get_running_loop()
    with site(view):
        outcome = await ask(new_handler(1) if base is OURS else STOCK())
    assert outcome.body == b"Single thread executor already being used, would deadlock"


@handlers
@backends
async def test_thread_sensitive_contexts_within_a_request_are_as_under_stock_django(base: Any) -> None:
    """A plain one changes nothing, one with an executor has its own thread, and afterwards all is as before."""

    def name() -> int:
        return threading.get_ident()

    async def view(request: Any) -> HttpResponse:
        seen = [await sync_to_async(name)()]
        async with ThreadSensitiveContext():
            seen.append(await sync_to_async(name)())
        seen.append(await sync_to_async(name)())
        with ThreadPoolExecutor(1) as executor:
            async with ThreadSensitiveContext(executor=executor):
                seen.append(await sync_to_async(name)())
        seen.append(await sync_to_async(name)())
        return HttpResponse("".join("same " if one == seen[0] else "other " for one in seen))

    with site(view, middleware=[Hooks]):
        outcome = await ask(new_handler(1) if base is OURS else STOCK())
    assert outcome.body == b"same same same other same "


@backends
async def test_request_within_a_thread_sensitive_context_of_somebody_else_uses_that() -> None:
    """As asgiref has it, the outermost context counts: a server or test that gives a thread is obeyed."""
    seen: list[str] = []

    def view(request: Any) -> HttpResponse:
        seen.append(threading.current_thread().name)
        return HttpResponse()

    with site(view), ThreadPoolExecutor(1, thread_name_prefix="theirs") as executor:
        handler = new_handler(1)
        async with ThreadSensitiveContext(executor=executor):
            assert (await ask(handler)).status == 200
        assert seen[0].startswith("theirs")
        assert counts(handler) == (0, 0, 0)
        assert (await ask(handler)).status == 200
        assert seen[1].startswith("asgicore-django-")


@pytest.mark.parametrize("kind", [ValueError, StopIteration, StopAsyncIteration, GeneratorExit, asyncio.CancelledError])
@backends
async def test_view_that_raises_what_steers_coroutines_is_answered(
    kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """But for a cancellation, which is passed on; both signals are sent, and the thread is free afterwards."""
    caplog.set_level("CRITICAL")
    diary = SiteDiary()

    def view(request: Any) -> HttpResponse:
        raise kind("no")

    with site(view), receivers(diary):
        handler = new_handler(1)
        task = start(run(handler, Channel()))
        done, _ = await asyncio.wait([task], timeout=SECONDS)
        assert done
        await eventually(lambda: diary.count("started") == diary.count("finished") == 1)
        await is_free(handler)
        if kind is asyncio.CancelledError:
            assert task.cancelled()
        else:
            assert task.result().status == 500


# --- failures ----------------------------------------------------------------------------------------------


@backends
async def test_request_for_which_no_thread_can_be_started_is_answered_and_closed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With a 500, which is logged; both signals are sent, and the next request finds everything in order."""
    diary = SiteDiary()

    def view(request: Any) -> HttpResponse:
        return HttpResponse(b"served")

    def no_thread(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with site(view), receivers(diary, ""):
        finished: list[int] = []

        def note(**_: Any) -> None:
            finished.append(1)

        request_finished.connect(note)
        try:
            handler = new_handler(1)
            with monkeypatch.context() as patched:
                patched.setattr(Worker, "start", no_thread)
                assert (await ask(handler)).status == 500
            assert "can't start new thread" in caplog.text
            assert finished == [1]
            assert counts(handler) == (0, 0, 0)
            assert (await ask(handler)).body == b"served"
            assert finished == [1, 1]
        finally:
            request_finished.disconnect(note)


@pytest.mark.parametrize("when", ["before the view", "as the thread goes back", "before closing"])
@backends
async def test_request_whose_old_connection_cannot_be_closed_is_closed_itself(
    when: str, options: Callable[..., None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The database fails as a thread is taken again: nothing hangs, and the response and both signals are in order."""
    options(CONN_MAX_AGE=None)
    closed, finished = Closed(), []
    fails = threading.Event()
    real = DatabaseWrapper.close_if_unusable_or_obsolete

    def close(wrapper: Any) -> None:
        if fails.is_set():
            fails.clear()
            raise LookupError("closing failed")
        real(wrapper)

    async def parts() -> AsyncIterator[bytes]:
        yield b"x"
        await is_free(handler)
        if when == "before closing":
            fails.set()

    async def stream(request: Any) -> StreamingHttpResponse:
        if when == "as the thread goes back":
            fails.set()
        response = StreamingHttpResponse(parts())
        response._resource_closers.append(lambda: closed.closed.append(""))
        return response

    def view(request: Any) -> HttpResponse:
        query()
        return closed.response()

    monkeypatch.setattr(DatabaseWrapper, "close_if_unusable_or_obsolete", close)

    def note(**_: Any) -> None:
        finished.append(1)

    with site(view, patterns=[path("stream", stream)], middleware=[AskingHooks]):
        handler = new_handler(1)
        await ask(handler)
        if when == "before the view":
            request_finished.connect(note)
            try:
                fails.set()
                outcome = await ask(handler)
                assert outcome.status in (200, 500)
                assert finished == [1]
            finally:
                request_finished.disconnect(note)
        else:
            before = len(closed.closed)
            assert (await ask(handler, path="/stream")).body == b"x"
            assert len(closed.closed) == before + 1
        assert "closing failed" in caplog.text
        assert (await ask(handler)).status == 200
        await is_free(handler)


# --- what is read bit by bit -------------------------------------------------------------------------------


class Entry(models.Model):
    """Something to read a lot of."""

    number = models.IntegerField()

    class Meta:
        app_label = "asgicore_tests"


NUMBERS = 1000


@pytest.fixture(scope="module")
def many_entries() -> None:
    """So many that they are read in several slices; nobody changes them."""

    def create() -> None:
        with connection.schema_editor() as editor:
            editor.create_model(Entry)
        Entry.objects.bulk_create([Entry(number=number) for number in range(NUMBERS)])
        connections.close_all()

    with ThreadPoolExecutor(1) as executor:
        executor.submit(create).result(SECONDS)


def read_entries() -> AsyncIterator[Any]:
    found: AsyncIterator[Any] = Entry.objects.order_by("number").aiterator(chunk_size=150)
    return found


@pytest.mark.untraced
@pytest.mark.parametrize("begins", ["in the view", "in the stream"])
@pytest.mark.parametrize("age", [None, 0])
@handlers
@backends
async def test_stream_of_a_queryset_that_is_read_slice_by_slice_is_whole(
    base: Any, age: int | None, begins: str, options: Callable[..., None], many_entries: None
) -> None:
    """Its cursor belongs to one connection in one thread, from the first slice to the last; others come between."""
    if base is STOCK and sys.version_info >= (3, 13):
        pytest.skip("stock Django leaves its threads' connections to the collector, and sqlite3 complains")
    options(CONN_MAX_AGE=age)

    async def view(request: Any) -> StreamingHttpResponse:
        entries = read_entries()
        first = [await anext(entries)] if begins == "in the view" else []

        async def parts() -> AsyncIterator[bytes]:
            for entry in first:
                yield b"%d," % entry.number
            async for entry in entries:
                yield b"%d," % entry.number
                if entry.number % 100 == 0:
                    between = await asyncio.create_task(ask_long(handler, path="/other"), context=fresh())
                    assert between.body == b"1000"

        return StreamingHttpResponse(parts())

    def other(request: Any) -> HttpResponse:
        return HttpResponse(str(Entry.objects.count()))

    with site(view, patterns=[path("other", other)], middleware=[AskingHooks]):
        handler = new_handler(2) if base is OURS else STOCK()
        outcomes = await asyncio.gather(*[ask_long(handler) for _ in range(3)])
        expected = b"".join(b"%d," % number for number in range(NUMBERS))
        assert [outcome.body == expected for outcome in outcomes] == [True] * 3
        assert all(outcome.is_ended for outcome in outcomes)
