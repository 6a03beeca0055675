"""Middleware, context, errors and databases: Django's own stack behaves on our handler as on its own."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import django
import pytest
from asgiref import testing
from asgiref.local import Local
from asgiref.sync import async_to_sync, iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.core.exceptions import MiddlewareNotUsed, PermissionDenied, SuspiciousOperation
from django.core.signals import got_request_exception
from django.db import connection, connections, transaction
from django.http import Http404, HttpRequest, HttpResponse
from django.template import engines
from django.template.response import TemplateResponse
from django.test import AsyncClient, AsyncRequestFactory, Client, TestCase, TransactionTestCase, override_settings
from django.urls import path
from django.utils.decorators import async_only_middleware, sync_and_async_middleware, sync_only_middleware
from django.utils.deprecation import MiddlewareMixin
from django_site import OURS, STOCK, Diary, ask, backends, both, handlers, noting, receivers, run, same, site

from asgicore.django_bridge import get_asgi_application
from asgicore.testing import Channel

ApplicationCommunicator: Any = testing.ApplicationCommunicator
variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="")
local: Any = Local()


def respond(request: HttpRequest, *more: object) -> HttpResponse:
    return HttpResponse(" ".join([request.path, *map(str, more)]))


async def async_view(request: HttpRequest) -> HttpResponse:
    return respond(request)


VIEWS: dict[str, Callable[..., Any]] = {"sync view": respond, "async view": async_view}
views = pytest.mark.parametrize("view", [pytest.param(view, id=name) for name, view in VIEWS.items()])


# --- every kind of middleware, in every mix ----------------------------------------------------------------


class Noting:
    """Middleware of every kind, that notes its hooks in one diary; each kind may answer or fail at one hook."""

    def __init__(self, diary: Diary, acts: dict[str, str]) -> None:
        self.diary = diary
        self.acts = acts
        self.number = 0

    def at(self, name: str, hook: str) -> Any:
        self.diary.note(f"{name}.{hook}")
        act = self.acts.get(f"{name}.{hook}")
        if act == "respond":
            return HttpResponse(f"from {name}.{hook}")
        if act == "raise":
            raise RuntimeError(f"{name}.{hook}")
        if act == "404":
            raise Http404(f"{name}.{hook}")
        return None

    def sync_function(self, name: str) -> Any:
        def factory(get_response: Any) -> Any:
            def middleware(request: HttpRequest) -> Any:
                response = self.at(name, "before") or get_response(request)
                return self.at(name, "after") or response

            return middleware

        return sync_only_middleware(factory)

    def async_function(self, name: str) -> Any:
        def factory(get_response: Any) -> Any:
            async def middleware(request: HttpRequest) -> Any:
                response = self.at(name, "before") or await get_response(request)
                return self.at(name, "after") or response

            return middleware

        return async_only_middleware(factory)

    def both_function(self, name: str) -> Any:
        sync, async_ = self.sync_function(name), self.async_function(name)

        def factory(get_response: Any) -> Any:
            return (async_ if iscoroutinefunction(get_response) else sync)(get_response)

        return sync_and_async_middleware(factory)

    def mixin(self, name: str) -> Any:
        at = self.at

        class Middleware(MiddlewareMixin):
            def process_request(self, request: HttpRequest) -> Any:
                return at(name, "process_request")

            def process_response(self, request: HttpRequest, response: Any) -> Any:
                return at(name, "process_response") or response

            def process_view(self, request: HttpRequest, view: Any, args: Any, kwargs: Any) -> Any:
                return at(name, "process_view")

            def process_exception(self, request: HttpRequest, exception: Exception) -> Any:
                return at(name, "process_exception")

            def process_template_response(self, request: HttpRequest, response: Any) -> Any:
                at(name, "process_template_response")
                return response

        return Middleware

    def async_class(self, name: str) -> Any:
        at = self.at

        class Middleware:
            async_capable = True
            sync_capable = False

            def __init__(self, get_response: Any) -> None:
                self.get_response = get_response
                markcoroutinefunction(self)

            async def __call__(self, request: HttpRequest) -> Any:
                response = at(name, "before") or await self.get_response(request)
                return at(name, "after") or response

            async def process_view(self, request: HttpRequest, view: Any, args: Any, kwargs: Any) -> Any:
                return at(name, "process_view")

            async def process_exception(self, request: HttpRequest, exception: Exception) -> Any:
                return at(name, "process_exception")

            async def process_template_response(self, request: HttpRequest, response: Any) -> Any:
                at(name, "process_template_response")
                return response

        return Middleware

    def request_only(self, name: str) -> Any:
        at = self.at

        class Middleware(MiddlewareMixin):
            def process_request(self, request: HttpRequest) -> Any:
                return at(name, "process_request")

        return Middleware

    def make(self, kinds: tuple[str, ...]) -> list[Any]:
        return [getattr(self, kind)(f"{number}") for number, kind in enumerate(kinds)]


KINDS = ["sync_function", "async_function", "both_function", "mixin", "async_class", "request_only"]
MIXES = [
    *itertools.product(KINDS, repeat=2),
    ("mixin", "mixin", "mixin"),
    ("mixin", "request_only", "mixin", "async_function", "mixin", "mixin"),
    ("sync_function", "async_function", "sync_function", "async_class", "mixin"),
    ("both_function", "mixin", "mixin", "sync_function", "mixin", "mixin"),
]


async def compare(kinds: tuple[str, ...], view: Any, acts: dict[str, str], **changes: Any) -> Any:
    """The same stack on both; asserts the same answer and the same hooks in the same order."""
    found = []
    for base in (STOCK, OURS):
        diary = Diary()
        with site(view, middleware=Noting(diary, acts).make(kinds), **changes), receivers(diary):
            found.append(await run(base(), Channel(), diary))
    theirs, mine = found
    assert mine.diary.events == theirs.diary.events
    assert mine.answer == theirs.answer
    assert repr(mine.raised) == repr(theirs.raised)
    return mine


@backends
@views
@pytest.mark.parametrize("kinds", MIXES, ids=", ".join)
async def test_middleware_of_any_kinds_is_called_as_by_stock_django(kinds: tuple[str, ...], view: Any) -> None:
    """Every hook, in order; what is synchronous is in the thread of the request, what is asynchronous on the loop."""
    outcome = await compare(kinds, view, {})
    assert outcome.status == 200
    places = {place for what, place in outcome.diary.entries if what in ("started", "finished")}
    assert places == {"thread 1"}
    synchronous = [place for what, place in outcome.diary.entries if "process_re" in what]
    assert set(synchronous) <= {"thread 1"}


HOOKS = ["process_request", "process_view", "process_response", "before", "after"]


@backends
@pytest.mark.parametrize("act", ["respond", "raise", "404"])
@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("position", [0, 1, 2])
async def test_middleware_that_answers_or_fails_is_treated_as_by_stock_django(
    hook: str, act: str, position: int
) -> None:
    """Whatever a hook of a stack returns or raises: who else is called, and what the client gets, is the same."""
    stacks = [("mixin", "mixin", "mixin"), ("mixin", "mixin", "async_class")]
    if hook in ("before", "after"):
        stacks = [("async_function", "sync_function", "async_class"), ("sync_function", "async_class", "sync_function")]
    for kinds in stacks:
        await compare(kinds, async_view, {f"{position}.{hook}": act})


@backends
@views
@pytest.mark.parametrize("act", ["respond", "raise", ""])
@pytest.mark.parametrize("kinds", [("mixin", "mixin"), ("async_class", "mixin"), ("async_class", "async_class")])
async def test_middleware_exception_hooks_are_called_as_by_stock_django(
    kinds: tuple[str, ...], act: str, view: Any
) -> None:
    """``process_exception`` may answer, pass or fail itself."""

    def failing(request: HttpRequest) -> Any:
        raise RuntimeError("view")

    async def async_failing(request: HttpRequest) -> Any:
        raise RuntimeError("view")

    chosen = async_failing if iscoroutinefunction(view) else failing
    outcome = await compare(kinds, chosen, {"1.process_exception": act})
    assert outcome.diary.count("1.process_exception") == 1


@backends
@pytest.mark.parametrize("kinds", [("mixin", "mixin"), ("async_class", "mixin"), ("async_class", "async_class")])
async def test_middleware_template_hooks_are_called_as_by_stock_django(kinds: tuple[str, ...]) -> None:
    """``process_template_response``, before the response is rendered."""

    def view(request: HttpRequest) -> Any:
        return TemplateResponse(request, engines["django"].from_string("text"), {})

    outcome = await compare(kinds, view, {})
    assert outcome.body == b"text"
    assert outcome.diary.count("0.process_template_response") == 1


@handlers
def test_middleware_that_is_not_used_is_left_out(base: Any) -> None:
    """``MiddlewareNotUsed`` when the handler is made."""

    def unused(get_response: Any) -> Any:
        raise MiddlewareNotUsed("no")

    diary = Diary()
    noting_ = Noting(diary, {})
    with site(respond, middleware=[unused, noting_.mixin("0"), unused, noting_.mixin("1")]):
        outcome = asyncio.run(ask(base()))
    assert outcome.status == 200
    assert diary.count("0.process_request") == diary.count("1.process_request") == 1


@backends
async def test_middleware_default_stack_is_that_of_stock_django() -> None:
    """Sessions in cookies, CSRF, security, locale, messages: the same fields and the same body."""
    stack = [
        "django.middleware.security.SecurityMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.locale.LocaleMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
        "django.middleware.clickjacking.XFrameOptionsMiddleware",
    ]

    def view(request: HttpRequest) -> HttpResponse:
        request.session["count"] = request.session.get("count", 0) + 1
        return respond(request, request.session["count"], request.LANGUAGE_CODE)

    changes: dict[str, Any] = {
        "SESSION_ENGINE": "django.contrib.sessions.backends.signed_cookies",
        "MESSAGE_STORAGE": "django.contrib.messages.storage.cookie.CookieStorage",
    }
    with site(view, middleware=stack, **changes):
        theirs, mine = await both(path="/page/")
        refused = await same(method="POST", path="/page/")
    assert (mine.status, mine.body) == (theirs.status, theirs.body)
    assert [name for name, _ in mine.headers] == [name for name, _ in theirs.headers]
    assert mine.header("vary") == theirs.header("vary")
    assert refused.status == 403


# --- errors ------------------------------------------------------------------------------------------------


ERRORS: dict[str, Exception] = {
    "404": Http404("gone"),
    "403": PermissionDenied("no"),
    "400": SuspiciousOperation("odd"),
    "500": RuntimeError("broken"),
    "os": OSError("disk"),
    "timeout": TimeoutError("slow"),
    "unicode": UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
    "group": ExceptionGroup("several", [ValueError("one")]),
}


@backends
@pytest.mark.parametrize("is_async", [True, False])
@pytest.mark.parametrize("name", ERRORS)
async def test_error_of_a_view_is_answered_as_by_stock_django(name: str, is_async: bool) -> None:
    """Django's own pages, and ``got_request_exception`` for what is a 500."""

    def view(request: HttpRequest) -> Any:
        raise ERRORS[name]

    async def async_failing(request: HttpRequest) -> Any:
        raise ERRORS[name]

    told = []

    def note(**arguments: Any) -> None:
        told.append((arguments["sender"], arguments["request"].path))

    got_request_exception.connect(note)
    try:
        with site(async_failing if is_async else view):
            outcome = await same()
    finally:
        assert got_request_exception.disconnect(note)
    assert outcome.status == int(name) if name.isdigit() else 500
    assert len(told) == (0 if name in ("400", "403", "404") else 2)


@backends
async def test_error_pages_of_the_site_are_used() -> None:
    """``handler404``, ``handler500`` and the others of the urlconf."""

    def page(status: int) -> Any:
        def handler(request: HttpRequest, exception: Any = None) -> HttpResponse:
            return HttpResponse(f"own {status}", status=status)

        return handler

    def view(request: HttpRequest) -> Any:
        raise ERRORS[request.path[1:]]

    urls = {f"handler{status}": page(status) for status in (400, 403, 404, 500)}
    with site(view, urls=urls):
        for status in (400, 403, 404, 500):
            assert (await same(path=f"/{status}")).body == b"own %d" % status
    with site(patterns=[path("here/", respond)], urls={"handler404": page(404)}):
        assert (await same(path="/nowhere/")).body == b"own 404"


@backends
@pytest.mark.parametrize("name", ["404", "500", "400"])
async def test_error_pages_of_debug_are_shown(name: str) -> None:
    """The technical pages, with the variables of the request."""

    async def view(request: HttpRequest) -> Any:
        raise ERRORS[name]

    with site(view, DEBUG=True):
        theirs, mine = await both(path="/somewhere", query_string=b"a=1")
    assert mine.status == theirs.status == int(name)
    assert b"/somewhere" in mine.body
    assert mine.header("content-type") == theirs.header("content-type")


@backends
@pytest.mark.parametrize("is_async", [True, False])
async def test_error_is_propagated_if_the_site_wants_that(is_async: bool) -> None:
    """``DEBUG_PROPAGATE_EXCEPTIONS``: the exception itself reaches the server, as under stock Django."""
    error = RuntimeError("view")

    def view(request: HttpRequest) -> Any:
        raise error

    async def async_failing(request: HttpRequest) -> Any:
        raise error

    with site(async_failing if is_async else view, DEBUG_PROPAGATE_EXCEPTIONS=True):
        outcome = await ask(OURS())
    assert outcome.raised is error
    assert outcome.channel.sent == []


@backends
@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
async def test_error_that_ends_the_process_is_no_response(kind: type[BaseException]) -> None:
    """``SystemExit`` and the like go through, and the request is closed."""
    diary = Diary()

    async def view(request: HttpRequest) -> Any:
        raise kind("leave")

    with site(view), receivers(diary):
        channel = Channel()
        coro = noting(OURS, diary)({"type": "http", "method": "GET", "path": "/"}, channel.receive, channel.send)
        with pytest.raises(kind):
            await coro
    assert diary.events == ["started", "request.close", "finished"]
    assert channel.sent == []


# --- context -----------------------------------------------------------------------------------------------


@backends
@views
@pytest.mark.parametrize("kinds", [("sync",), ("async",), ("sync", "async"), ("async", "sync"), ("sync", "sync")])
async def test_context_variables_are_seen_as_under_stock_django(kinds: tuple[str, ...], view: Any) -> None:
    """What one layer sets, the next sees, inwards and outwards, and the receivers of both signals, too."""
    seen: list[str] = []

    def step(text: str) -> None:
        variable.set(variable.get() + text)
        local.steps = [*getattr(local, "steps", []), text]

    def layer(kind: str) -> Any:
        def sync(get_response: Any) -> Any:
            def middleware(request: HttpRequest) -> Any:
                step("(")
                response = get_response(request)
                step(")")
                return response

            return middleware

        def async_(get_response: Any) -> Any:
            async def middleware(request: HttpRequest) -> Any:
                step("[")
                response = await get_response(request)
                step("]")
                return response

            return middleware

        return sync_only_middleware(sync) if kind == "sync" else async_only_middleware(async_)

    def started(**arguments: Any) -> None:
        step("s")

    def finished(**arguments: Any) -> None:
        seen.append(variable.get() + " " + "".join(getattr(local, "steps", [])))

    def sync_view(request: HttpRequest) -> HttpResponse:
        step("v")
        return respond(request, variable.get())

    async def view_async(request: HttpRequest) -> HttpResponse:
        step("a")
        await sync_to_async(step)("t")
        return respond(request, variable.get())

    from django.core.signals import request_finished, request_started

    chosen = view_async if iscoroutinefunction(view) else sync_view
    request_started.connect(started)
    request_finished.connect(finished)
    try:
        with site(chosen, middleware=[layer(kind) for kind in kinds]):
            for base in (STOCK, OURS):
                context = contextvars.copy_context()
                task = asyncio.get_running_loop().create_task(ask(base()), context=context)
                outcome = await task
                seen.append(outcome.body.decode())
                seen.append(context.get(variable, "unset"))
    finally:
        assert request_started.disconnect(started)
        assert request_finished.disconnect(finished)
    theirs, mine = seen[:3], seen[3:]
    assert mine[1] == theirs[1]
    # Difference "6.1": what the view sets is seen by who called, which a task of its own kept from that before.
    opened = mine[1].removeprefix("/ ").rstrip()
    assert mine[0] == f"{mine[2]} {mine[2]}"
    assert mine[2].startswith(opened)
    assert len(mine[2]) == len(opened) + len(kinds)
    if django.VERSION >= (6, 1):
        assert mine == theirs


@backends
async def test_context_variable_may_be_reset_by_its_token_across_hops() -> None:
    """Set in one synchronous hook and reset in another: both run in one context, as under stock Django."""
    found = []
    for base in (STOCK, OURS):
        results: list[str] = []

        class Middleware(MiddlewareMixin):
            results: list[str]

            def process_request(self, request: HttpRequest) -> None:
                request.token = variable.set("set")

            def process_response(self, request: HttpRequest, response: Any) -> Any:
                try:
                    variable.reset(request.token)
                    self.results.append("reset")
                except ValueError:
                    self.results.append("another context")
                return response

        Middleware.results = results
        with site(async_view, middleware=[Middleware]):
            await ask(base())
        found.append(results)
    assert found[0] == found[1]


@backends
@views
async def test_context_of_one_request_is_not_that_of_the_next(view: Any) -> None:
    """Neither context variables nor what is kept in a thread of asgiref's ``Local`` go over."""
    seen = []

    def middleware(get_response: Any) -> Any:
        def call(request: HttpRequest) -> Any:
            seen.append((variable.get(), getattr(local, "steps", None)))
            variable.set("left behind")
            local.steps = "left behind"
            return get_response(request)

        return call

    with site(view, middleware=[middleware]):
        handler = OURS(max_workers=1)
        for _ in range(3):
            await asyncio.get_running_loop().create_task(ask(handler), context=contextvars.Context())
        assert handler.workers.alive == 1
    assert seen == [("", None)] * 3


@backends
async def test_sync_and_async_code_nested_in_each_other_keep_to_one_thread() -> None:
    """``async_to_sync`` in a synchronous view, ``sync_to_async`` within that, and so on: as under stock Django."""
    found = []
    for base in (STOCK, OURS):
        diary = Diary()

        def view(request: HttpRequest, note: Any = diary.note) -> HttpResponse:
            def innermost() -> None:
                note("innermost")

            async def middle() -> str:
                note("middle")
                await sync_to_async(innermost)()
                await sync_to_async(innermost, thread_sensitive=True)()
                return "deep"

            note("view")
            text = async_to_sync(middle)()
            note("view again")
            return respond(request, text)

        with site(view), receivers(diary):
            outcome = await run(base(), Channel(), diary)
        assert outcome.body == b"/ deep"
        found.append(diary.entries)
    assert found[0] == found[1]


@backends
@pytest.mark.parametrize("error", [ValueError("inner"), StopIteration("inner")])
async def test_sync_code_that_raises_in_an_async_view_raises_there(error: Exception) -> None:
    """The exception itself; a ``StopIteration``, which no coroutine can be given, as a ``RuntimeError``."""
    caught: list[BaseException] = []

    def fail() -> None:
        raise error

    async def view(request: HttpRequest) -> HttpResponse:
        try:
            await sync_to_async(fail)()
        except Exception as exc:
            caught.append(exc)
        return respond(request)

    with site(view):
        assert (await ask(OURS())).status == 200
    assert caught[0] is error or (isinstance(caught[0], RuntimeError) and caught[0].__cause__ is error)


# --- databases ---------------------------------------------------------------------------------------------


@pytest.fixture
def table() -> Iterator[None]:
    """A table in the database of the site."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS note (text TEXT)")
        cursor.execute("DELETE FROM note")
    connection.close()
    yield
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE note")
    connection.close()


def insert(text: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO note VALUES (%s)", [text])


def notes() -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT text FROM note ORDER BY text")
        return [row[0] for row in cursor.fetchall()]


@pytest.fixture
def _atomic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", True)


@backends
@pytest.mark.usefixtures("table", "_atomic")
async def test_atomic_requests_roll_back_what_a_failing_view_has_written() -> None:
    """``ATOMIC_REQUESTS``: a synchronous view is a transaction; one that is exempt is none."""

    def good(request: HttpRequest) -> HttpResponse:
        insert("good")
        return respond(request, connection.in_atomic_block)

    def bad(request: HttpRequest) -> HttpResponse:
        insert("bad")
        raise RuntimeError("view")

    def exempt(request: HttpRequest) -> HttpResponse:
        insert("exempt")
        raise RuntimeError("view")

    patterns = [path("good/", good), path("bad/", bad), path("exempt/", transaction.non_atomic_requests(exempt))]
    with site(patterns=patterns):
        handler = OURS()
        assert (await ask(handler, path="/good/")).body == b"/good/ True"
        assert (await ask(handler, path="/bad/")).status == 500
        assert (await ask(handler, path="/exempt/")).status == 500

    def after() -> list[str]:
        try:
            return notes()
        finally:
            connection.close()

    assert await sync_to_async(after)() == ["exempt", "good"]


@backends
@pytest.mark.usefixtures("table", "_atomic")
async def test_atomic_requests_with_an_async_view_are_the_error_of_stock_django() -> None:
    """Django refuses that with its own words."""
    with site(async_view, DEBUG=True):
        theirs, mine = await both()
    assert mine.status == theirs.status == 500
    assert b"You cannot use ATOMIC_REQUESTS with async views" in mine.body


@backends
@views
@pytest.mark.usefixtures("table")
@pytest.mark.parametrize("max_age", [0, 60, None])
async def test_connections_live_as_long_as_conn_max_age_says(
    max_age: int | None, view: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 0 each request has a connection of its own; else those of a worker go on to the next request."""
    monkeypatch.setitem(connections.settings["default"], "CONN_MAX_AGE", max_age)
    used: list[Any] = []

    def query() -> None:
        insert("row")
        used.append(connection.connection)

    def sync_view(request: HttpRequest) -> HttpResponse:
        query()
        return respond(request)

    async def view_async(request: HttpRequest) -> HttpResponse:
        await sync_to_async(query)()
        return respond(request)

    with site(view_async if iscoroutinefunction(view) else sync_view):
        handler = OURS(max_workers=1)
        for _ in range(3):
            assert (await ask(handler)).status == 200
        assert handler.workers.alive == 1
        await handler.workers.aclose()
    assert len(set(map(id, used))) == (3 if max_age == 0 else 1)
    with pytest.raises(Exception, match="closed"):
        used[-1].execute("SELECT 1")


@backends
@pytest.mark.usefixtures("table")
async def test_queries_are_reset_between_requests_in_debug() -> None:
    """``connection.queries`` of a worker are those of one request."""
    counts: list[int] = []

    def view(request: HttpRequest) -> HttpResponse:
        notes()
        counts.append(len(connection.queries))
        return respond(request)

    with site(view, DEBUG=True):
        handler = OURS(max_workers=1)
        for _ in range(3):
            await ask(handler)
        await handler.workers.aclose()
    assert counts == [1, 1, 1]


# --- Django's own clients ----------------------------------------------------------------------------------


@backends
async def test_async_request_factory_makes_requests_for_hooks_of_ours() -> None:
    """A request of Django's factory goes through ``get_response_async`` and ``run_get_response``."""
    with site(async_view):
        handler = OURS()
        request = AsyncRequestFactory().get("/made/")
        assert (await handler.get_response_async(request)).content == b"/made/"
        response = await handler.run_get_response(request)
        assert response._handler_class is OURS


@backends
async def test_async_client_works_beside_our_handler() -> None:
    """Django's asynchronous client, which has a handler of its own, sees the same site."""
    with site(async_view):
        response = await AsyncClient().get("/client/")
        assert response.content == b"/client/"
        assert (await ask(OURS(), path="/client/")).body == response.content


@backends
async def test_application_communicator_of_asgiref_drives_our_application() -> None:
    """The usual test of an ASGI application, with its own way to end it."""
    with site(respond):
        application = get_asgi_application()
        scope = AsyncRequestFactory()._base_scope(path="/communicated/")
        communicator = ApplicationCommunicator(application, scope)
        await communicator.send_input({"type": "http.request"})
        begun = await communicator.receive_output()
        assert begun["status"] == 200
        assert dict(begun["headers"])[b"Content-Type"] == b"text/html; charset=utf-8"
        assert (await communicator.receive_output())["body"] == b"/communicated/"
        await communicator.wait()
        assert await communicator.receive_nothing()


@backends
async def test_application_communicator_disconnect_ends_the_view() -> None:
    """As Django's own tests of its handler do it."""
    entered = asyncio.Event()
    left = []

    async def view(request: HttpRequest) -> HttpResponse:
        entered.set()
        try:
            await asyncio.sleep(5)
        finally:
            left.append(True)
        raise AssertionError

    with site(view):
        communicator = ApplicationCommunicator(get_asgi_application(), AsyncRequestFactory()._base_scope(path="/"))
        await communicator.send_input({"type": "http.request"})
        await asyncio.wait_for(entered.wait(), 5)
        await communicator.send_input({"type": "http.disconnect"})
        await communicator.wait()
    assert left == [True]


def serve(application: Any, path: str) -> bytes:
    """A request from synchronous code, as a test of Django's makes it."""
    outcome = async_to_sync(ask)(application, path=path)
    return outcome.body


def counting(request: HttpRequest) -> HttpResponse:
    if request.path == "/write/":
        insert("from the view")
    return respond(request, *notes(), threading.current_thread() is threading.main_thread())


async def async_counting(request: HttpRequest) -> HttpResponse:
    return await sync_to_async(counting)(request)


@pytest.fixture(scope="module")
def _database() -> Iterator[None]:
    """Django's test database: SQLite in memory, of which every connection sees its own."""
    name = connection.settings_dict["NAME"]
    connection.creation.create_test_db(verbosity=0, autoclobber=True)
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE note (text TEXT)")
    yield
    connection.creation.destroy_test_db(name, verbosity=0)


@pytest.mark.usefixtures("_database")
class TestDatabase(TestCase):
    """A ``TestCase`` of Django's, whose transaction the views must see, and which ends without a trace."""

    def test_database_of_a_test_case_is_seen_by_sync_and_async_views(self) -> None:
        """What the test has written in its transaction is there, and what the view writes is seen by the test."""
        insert("from the test")
        for view in (counting, async_counting):
            for base in (STOCK, OURS):
                with self.subTest(view=view, base=base), site(view):
                    assert serve(base(), "/read/") == b"/read/ from the test True"
        with site(async_counting):
            serve(OURS(), "/write/")
        assert notes() == ["from the test", "from the view"]

    def test_database_of_a_test_case_is_empty_at_first(self) -> None:
        """Nothing of the other test is left; Django's synchronous client sees the same."""
        assert notes() == []
        insert("one")
        with site(counting):
            assert Client().get("/read/").content == serve(OURS(), "/read/") == b"/read/ one True"

    async def test_database_in_an_asynchronous_test_is_seen(self) -> None:
        """An asynchronous test of Django's runs above our handler in the same way."""
        await sync_to_async(insert)("one")
        with site(async_counting):
            outcome = await ask(OURS(), path="/read/")
        assert outcome.body == b"/read/ one True"

    def test_database_connection_of_the_test_stays_open(self) -> None:
        """Django disconnects ``close_old_connections`` in its clients; a handler in a transaction closes nothing."""
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        inner = connection.connection
        with site(counting), override_settings(DEBUG=False):
            serve(OURS(), "/read/")
        assert connection.connection is inner


@pytest.mark.usefixtures("_database")
class TestTransactions(TransactionTestCase):
    """A ``TransactionTestCase``, whose tests commit."""

    available_apps: list[str] = []  # noqa: RUF012  # of one test, set anew for each class

    def test_database_of_a_transaction_test_case_is_seen(self) -> None:
        """Within and without ``atomic``."""
        with site(counting):
            with transaction.atomic():
                insert("one")
                assert serve(OURS(), "/read/") == b"/read/ one True"
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM note")
