"""The bridge where hardly anybody gets: strange servers, strange sites, Django and anyio of another day."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from io import BytesIO
from itertools import count
from typing import Any

import anyio
import asgiref
import django
import pytest
from asgiref.sync import ThreadSensitiveContext, markcoroutinefunction, sync_to_async
from django.core.exceptions import BadRequest
from django.core.signals import request_finished, request_started
from django.db import close_old_connections, connection, connections, reset_queries
from django.dispatch import Signal
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django_site import (
    OURS,
    SECONDS,
    STOCK,
    Diary,
    ask,
    backends,
    eventually,
    noting,
    receivers,
    run,
    same,
    site,
    start,
)
from faults import Steps, interrupted, turn

from asgicore import _late_scope, django_bridge
from asgicore.django_bridge import _handler, _quiet
from asgicore.testing import Channel, Message, body_messages, http_scope

pytestmark = backends


async def view(request: HttpRequest) -> HttpResponse:
    return HttpResponse(b"async")


def sync_view(request: HttpRequest) -> HttpResponse:
    return HttpResponse(threading.current_thread().name)


# --- what is around the handler ----------------------------------------------------------------------------


async def test_context_of_somebody_else_keeps_its_thread() -> None:
    """Within a ``ThreadSensitiveContext`` of the caller's, synchronous code runs where the caller's does."""
    diary = Diary()
    with site(sync_view), receivers(diary):
        handler = OURS()
        async with ThreadSensitiveContext():
            mine = await sync_to_async(threading.current_thread)()
            outcome = await run(handler, Channel(), diary)
        assert outcome.body.decode() == mine.name
        assert handler.workers.alive == 0
    assert diary.events == ["started", "finished"]
    assert diary.places() == {"thread 1"}


async def test_context_of_somebody_else_is_enough_for_an_asynchronous_request() -> None:
    """All of Django's own is done there, too, where nobody knows whether it is nothing."""
    with site(view):
        handler = OURS()
        async with ThreadSensitiveContext():
            outcome = await ask(handler)
    assert outcome.body == b"async"


@pytest.mark.parametrize("is_beneath", [True, False])
async def test_handler_called_by_a_view_of_another_one_is_served(is_beneath: bool) -> None:
    """A view may ask another application of the bridge; in its own task that shares the thread of the request."""
    names: list[str] = []
    inner: Any = None

    async def nested(request: HttpRequest) -> HttpResponse:
        names.append((await sync_to_async(threading.current_thread)()).name)
        if request.path == "/inner":
            return HttpResponse(b"inner")
        asked = ask(inner, path="/inner")
        outcome = await (asked if is_beneath else start(asked))
        names.append((await sync_to_async(threading.current_thread)()).name)
        return HttpResponse(b"outer of " + outcome.body)

    with site(nested):
        inner, outer = OURS(), OURS()
        outcome = await ask(outer)
    assert outcome.body == b"outer of inner"
    assert names[0] == names[2]
    assert (names[0] == names[1]) is is_beneath
    assert inner.workers.in_use == outer.workers.in_use == 0


@pytest.mark.parametrize("suspend", [False, True])
@pytest.mark.parametrize("headers", [3, "text", [(b"x",)], [3]])
async def test_headers_that_are_none_are_a_400_whatever_the_server_does(headers: Any, suspend: bool) -> None:
    """Even where the request was refused before anything of it was known, and ``send`` waits."""
    diary = Diary()
    with site(view), receivers(diary):
        outcome = await run(OURS(), Channel(suspends=suspend), diary, headers=headers)
    assert outcome.raised is None
    assert outcome.status == 400
    assert outcome.is_ended
    assert diary.events == []


async def test_refusal_is_cut_short_by_a_client_that_leaves() -> None:
    """A refusal that the server does not take ends with its client."""
    is_sending = anyio.Event()

    async def on_send(index: int, message: Message) -> None:
        is_sending.set()
        await anyio.sleep_forever()

    server = Channel(on_send=on_send)
    with site(view):
        request = start(run(OURS(), server, headers=3))
        with anyio.fail_after(SECONDS):
            await is_sending.wait()
            server.disconnect()
            outcome = await request
    assert outcome.raised is None
    assert outcome.channel.sent == []


async def test_refusal_that_the_loop_gives_up_raises_nothing() -> None:
    """Nothing was opened, so nothing is closed."""
    is_sending = anyio.Event()

    async def on_send(index: int, message: Message) -> None:
        is_sending.set()
        await anyio.sleep_forever()

    async def until_closed(coro: Any) -> None:
        await Steps(0, lambda: None).run(coro)

    channel = Channel(on_send=on_send)
    with site(view):
        before = asyncio.all_tasks()
        coro = OURS()(http_scope(headers=3), channel.receive, channel.send)
        start(until_closed(coro))
        with anyio.fail_after(SECONDS):
            await is_sending.wait()
        coro.close()
        left = asyncio.all_tasks() - before
        for task in left:
            task.cancel()
        done, _ = await asyncio.wait(left)
        assert all(task.cancelled() or isinstance(task.exception(), RuntimeError) for task in done)
    assert channel.sent == []


@pytest.mark.parametrize("grace", [0, SECONDS])
async def test_shutdown_answers_a_view_that_waits_with_503(grace: float) -> None:
    """``aclose`` ends what waits; Django's closing and both signals are as ever."""
    diary = Diary()
    is_waiting, go_on = anyio.Event(), anyio.Event()

    async def waiting(request: HttpRequest) -> HttpResponse:
        is_waiting.set()
        await go_on.wait()
        return HttpResponse(b"in time")

    with site(waiting), receivers(diary):
        handler = OURS()
        request = start(run(handler, Channel(), diary))
        with anyio.fail_after(SECONDS):
            await is_waiting.wait()
            closing = start(handler.aclose(grace))
            await turn(5)
            go_on.set()
            outcome = await request
            await closing
    if grace:
        assert outcome.body == b"in time"
    else:
        assert outcome.status == 503
        assert outcome.header("retry-after") == ["1"]
    assert outcome.is_ended
    assert diary.events == ["started", "finished"]


# --- what is beneath it ------------------------------------------------------------------------------------


@pytest.fixture
def _no_receivers_of_django() -> Iterator[None]:
    """As Django's own test client leaves the signals: without what looks after the connections."""
    for signal, receiver in ((request_started, reset_queries), (request_started, close_old_connections)):
        assert signal.disconnect(receiver)
    assert request_finished.disconnect(close_old_connections)
    yield
    for signal, receiver in ((request_started, reset_queries), (request_started, close_old_connections)):
        signal.connect(receiver)
    request_finished.connect(close_old_connections)


@pytest.mark.usefixtures("_no_receivers_of_django")
@pytest.mark.parametrize("is_async", [True, False])
async def test_signals_without_django_s_own_receivers_close_no_connection(is_async: bool) -> None:
    """Who disconnects them wants the connections to stay; a connection outlives its requests then."""
    used: list[Any] = []

    def query() -> None:
        connection.ensure_connection()
        used.append(connection.connection)

    def querying(request: HttpRequest) -> HttpResponse:
        query()
        return HttpResponse()

    async def querying_async(request: HttpRequest) -> HttpResponse:
        await sync_to_async(query)()
        return HttpResponse()

    with site(querying_async if is_async else querying):
        handler = OURS(max_workers=1)
        for _ in range(3):
            assert (await ask(handler)).status == 200
        await handler.workers.aclose()
    assert len(used) == 3
    assert used[0] is used[1] is used[2]


@pytest.mark.parametrize("max_age", [0, 60])
async def test_stream_gives_a_thread_back_with_its_connection_in_order(
    max_age: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a middleware opened is closed before the stream goes on for hours, or kept for the next request."""
    monkeypatch.setitem(connections.settings["default"], "CONN_MAX_AGE", max_age)
    is_waiting, go_on = anyio.Event(), anyio.Event()
    used: list[Any] = []

    def middleware(get_response: Any) -> Any:
        def call(request: HttpRequest) -> Any:
            connection.ensure_connection()
            used.append(connection.connection)
            return get_response(request)

        return call

    async def parts() -> AsyncIterator[bytes]:
        yield b"one"
        is_waiting.set()
        await go_on.wait()

    async def streaming(request: HttpRequest) -> Any:
        return StreamingHttpResponse(parts()) if request.path == "/stream" else HttpResponse()

    with site(streaming, middleware=[middleware]):
        handler = OURS(max_workers=1)
        request = start(run(handler, Channel(), path="/stream"))
        with anyio.fail_after(SECONDS):
            await is_waiting.wait()
            await eventually(lambda: handler.workers.in_use == 0, "the thread is given back")
            assert (await ask(handler, path="/other")).status == 200
            go_on.set()
            outcome = await request
        assert outcome.is_ended
        assert handler.workers.alive == 1
        await handler.workers.aclose()
    assert (used[0] is used[1]) is (max_age == 60)


async def test_signals_of_a_django_that_keeps_them_otherwise_are_sent_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the receivers cannot be read, nothing is skipped: Django's own code tells them, in the thread."""
    diary = Diary()
    live = request_started._live_receivers
    asked: list[Any] = []

    def other(sender: Any) -> Any:
        asked.append(sender)
        if len(asked) == 1:
            raise TypeError("one argument more")
        return live(sender)

    with site(view), receivers(diary):
        handler = OURS()
        monkeypatch.setattr(request_started, "_live_receivers", other)
        outcome = await run(handler, Channel(), diary)
    assert outcome.status == 200
    assert asked
    assert diary.entries == [("started", "thread 1"), ("finished", "thread 1")]
    assert _quiet.STARTED.signal is request_started


def test_receivers_asked_for_at_any_moment_are_those_that_are_connected(anyio_backend: Any) -> None:
    """Another loop may ask while this one finds out what has changed."""

    def known(**_: Any) -> None: ...
    def other(**_: Any) -> None: ...

    for number in count(1):
        signal = Signal()
        own = _quiet.OwnReceivers(signal, known)
        signal.connect(known)
        assert own.only(None) == [known]
        signal.connect(other)
        with interrupted(_quiet.OwnReceivers.only, number, partial(is_none, own.only)) as came_in:
            is_none(own.only)
        if not came_in():
            break
    assert number > 20


def is_none(only: Callable[[object], Any]) -> None:
    assert only(None) is None


async def test_cancel_where_the_books_of_anyio_cannot_be_read_is_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shield cannot be seen then; a client that leaves ends the view all the same."""
    monkeypatch.setattr(_late_scope, "_state_of", _late_scope._closed)
    monkeypatch.setattr(_late_scope, "_states", _late_scope._UNREAD)
    is_waiting = anyio.Event()

    async def waiting(request: HttpRequest) -> HttpResponse:
        is_waiting.set()
        await anyio.sleep_forever()
        raise AssertionError

    diary = Diary()
    server = Channel()
    with site(waiting), receivers(diary):
        request = start(run(OURS(), server, diary))
        with anyio.fail_after(SECONDS):
            await is_waiting.wait()
            server.disconnect()
            outcome = await request
    assert outcome.raised is None
    assert diary.events == ["started", "finished"]


# --- strange sites -----------------------------------------------------------------------------------------


async def test_views_that_are_made_as_the_site_goes_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is remembered of views is bounded, and forgotten views work as before."""
    monkeypatch.setattr(_handler, "_MAX_VIEWS", 3)

    def make(number: int) -> Any:
        def made(request: HttpRequest) -> HttpResponse:
            return HttpResponse(str(number))

        return made

    with site(view):
        handler = OURS()
        made = [make(number) for number in range(10)]
        for _ in range(2):
            for number, each in enumerate(made):
                response = await handler.make_view_atomic(each)(None)
                assert response.content == b"%d" % number
                assert len(handler._views) <= 3


async def test_view_without_a_hash_is_called() -> None:
    """A callable may forbid to be remembered."""

    class View:
        __hash__ = None  # type: ignore[assignment]

        def __call__(self, request: HttpRequest) -> HttpResponse:
            return HttpResponse(b"no hash")

    class AsyncView:
        __hash__ = None  # type: ignore[assignment]

        def __init__(self) -> None:
            markcoroutinefunction(self)

        async def __call__(self, request: HttpRequest) -> HttpResponse:
            return HttpResponse(b"no hash")

    for each in (View(), AsyncView()):
        with site(view):
            handler = OURS()
            assert (await handler.make_view_atomic(each)(None)).content == b"no hash"


async def test_middleware_loaded_again_for_synchronous_use_is_django_s() -> None:
    """``load_middleware`` without ``is_async``, as a WSGI handler does it."""
    with site(sync_view):
        handler = OURS()
        handler.load_middleware()
        response = await sync_to_async(handler.get_response)(OURS.request_class(http_scope(), None))
    assert response.status_code == 200


async def test_request_class_that_refuses_is_a_400(caplog: pytest.LogCaptureFixture) -> None:
    """``BadRequest`` of a request's own ``__init__``: the client's fault, with both signals."""

    class Request(OURS.request_class):
        def __init__(self, scope: Any, body_file: Any) -> None:
            raise BadRequest("odd")

    class Handler(OURS):
        request_class = Request

    diary = Diary()
    with site(view), receivers(diary):
        outcome = await run(Handler(), Channel(), diary)
    assert outcome.status == 400
    assert diary.events == ["started", "finished"]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


async def test_response_with_a_field_of_bytes_is_sent() -> None:
    """Django makes text of them; what a subclass leaves as bytes goes out as it is, or not at all."""

    def answering(value: bytes) -> Any:
        async def answering(request: HttpRequest) -> HttpResponse:
            response = HttpResponse(b"text")
            response.headers._store["x-bytes"] = ("X-Bytes", value)
            return response

        return answering

    with site(answering("h\xf6her".encode("latin-1"))):
        assert (await same()).header("x-bytes") == ["h\xf6her"]
    with site(answering(b"a\r\nb")):
        outcome = await ask(OURS())
    assert outcome.status == 500
    assert outcome.header("x-bytes") == []


@pytest.mark.parametrize("fails", [False, True])
async def test_response_that_another_one_took_the_place_of_is_closed(
    fails: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A response that may not leave is closed as well, whatever that does, and the end is told once."""
    diary = Diary()

    def close() -> None:
        diary.note("closed")
        if fails:
            raise RuntimeError("close")

    async def answering(request: HttpRequest) -> HttpResponse:
        response = HttpResponse(b"text")
        response.headers._store["x"] = ("X", "a\x00b")
        response._resource_closers.append(close)
        return response

    with site(answering), receivers(diary):
        outcome = await run(noting(OURS, diary), Channel(), diary)
    assert outcome.status == 500
    assert diary.events == ["started", "closed", "request.close", "finished"]
    logged = [str(record.exc_info[1]) for record in caplog.records if record.exc_info]
    assert ("close" in logged) is fails


async def test_read_body_called_by_itself_raises_what_the_server_does() -> None:
    """And leaves no file open."""
    with site(view):
        handler = OURS()
        with pytest.raises(Exception, match=r"http\.nonsense"):
            await handler.read_body(Channel([{"type": "http.nonsense"}]).receive)


async def test_thread_that_cannot_be_started_is_an_error_of_that_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system has no more threads: a 500 for this client, everything closed, and the next one is served."""
    begin = threading.Thread.start
    refuses = True

    def refusing(thread: threading.Thread) -> None:
        if refuses and thread.name.startswith("asgicore-django"):
            raise RuntimeError("can't start new thread")
        begin(thread)

    monkeypatch.setattr(threading.Thread, "start", refusing)
    with site(sync_view):
        handler = noting(OURS, Diary())
        outcome = await ask(handler)
        assert outcome.status == 500
        assert [body.closed for body in handler.bodies] == [True]
        assert handler.workers.in_use == handler.workers.alive == 0
        refuses = False
        assert (await ask(handler)).status == 200


@pytest.mark.parametrize("error", [RuntimeError, ValueError, OSError])
async def test_finished_receiver_that_raises_is_logged_once_and_called_once(
    error: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever it raises, nothing is closed twice."""
    diary = Diary()

    def fail(**arguments: Any) -> None:
        diary.note("failing")
        raise error("receiver")

    with site(view):
        handler = noting(OURS, diary)
        request_finished.connect(fail)
        try:
            outcome = await run(handler, Channel(), diary)
        finally:
            assert request_finished.disconnect(fail)
    assert outcome.is_ended
    assert diary.events == ["request.close", "failing"]
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == ["receiver"]


async def test_body_that_is_left_to_a_hook_may_be_any_file() -> None:
    """``read_body`` may return what it likes, as long as it can be read."""

    class Handler(OURS):
        async def read_body(self, receive: Any) -> Any:
            (await super().read_body(receive)).close()
            return BytesIO(b"other")

    async def reading(request: HttpRequest) -> HttpResponse:
        return HttpResponse(request.body)

    with site(reading):
        outcome = await ask(Handler(), body_messages(b"some"), method="POST")
    assert outcome.body == b"other"


# --- the import, in this process ---------------------------------------------------------------------------


def load_again() -> Any:
    """Run the package's own file once more, under another name."""
    spec: Any = importlib.util.spec_from_file_location("asgicore.django_bridge", django_bridge.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("lacks", ["django", "a new django", "a new asgiref", "nothing"])
def test_import_says_what_is_missing(lacks: str, monkeypatch: pytest.MonkeyPatch, anyio_backend: Any) -> None:
    """No Django, or one that is too old: an error that says what to install."""
    if lacks == "django":
        monkeypatch.setitem(sys.modules, "django", None)
    elif lacks == "a new django":
        monkeypatch.setattr(django, "VERSION", (4, 2, 0, "final", 0))
    elif lacks == "a new asgiref":
        monkeypatch.setattr(asgiref, "__version__", "3.8.1")
    if lacks == "nothing":
        assert load_again().ASGIHandler is OURS
    else:
        with pytest.raises(ImportError, match=r"pip install 'asgicore\[django\]'"):
            load_again()


def test_names_are_those_of_django(anyio_backend: Any) -> None:
    """What is exported is listed, and nothing else is."""
    assert django_bridge.__all__ == ["ASGIHandler", "ASGIRequest", "get_asgi_application"]
    assert issubclass(OURS, STOCK)
