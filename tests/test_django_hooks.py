"""The hooks of Django's handler: a subclass that overrides one works the same when it is rebased on ours."""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import AsyncIterator, Callable
from contextlib import nullcontext
from io import BytesIO
from pathlib import Path
from typing import Any

import anyio
import pytest
from asgiref.sync import sync_to_async
from django.contrib.staticfiles import handlers as static_handlers
from django.core.exceptions import RequestAborted
from django.core.handlers import asgi as stock_asgi
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.urls import set_script_prefix
from django_site import (
    DIRECTORY,
    OURS,
    SECONDS,
    STOCK,
    Diary,
    Outcome,
    ask,
    backends,
    handlers,
    receivers,
    run,
    site,
    start,
)

from asgicore import Request
from asgicore.django_bridge import ASGIRequest, get_asgi_application
from asgicore.testing import DISCONNECT, Channel, Client, Message, body_messages, http_scope

pytestmark = backends

Make = Callable[[Any, list[Any]], Any]


# --- one subclass for each hook: a class on this base that notes its calls ---------------------------------


def with_call(base: Any, calls: list[Any]) -> Any:
    class Handler(base):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            calls.append(("__call__", scope["type"]))
            await super().__call__({**scope, "path": "/renamed"}, receive, send)

    return Handler


def with_handle(base: Any, calls: list[Any]) -> Any:
    class Handler(base):
        async def handle(self, scope: Any, receive: Any, send: Any) -> None:
            async def sending(message: Any) -> None:
                if message["type"] == "http.response.start":
                    message = {**message, "headers": [*message["headers"], (b"X-Handle", b"1")]}
                await send(message)

            calls.append("handle")
            await super().handle({**scope, "path": "/renamed"}, receive, sending)
            calls.append("handled")

    return Handler


def with_read_body(base: Any, calls: list[Any]) -> Any:
    class Handler(base):
        async def read_body(self, receive: Any) -> Any:
            async def receiving() -> Any:
                message = await receive()
                calls.append((message["type"], message.get("body")))
                return message

            body_file = await super().read_body(receiving)
            calls.append((body_file.tell(), body_file.read()))
            body_file.seek(0)
            return body_file

    return Handler


def with_own_read_body(base: Any, calls: list[Any]) -> Any:
    class Handler(base):
        async def read_body(self, receive: Any) -> Any:
            more, read = True, b""
            while more:
                message = await receive()
                calls.append(message["type"])
                if message["type"] == "http.disconnect":
                    raise RequestAborted
                read += message.get("body", b"")
                more = message.get("more_body", False)
            return BytesIO(read.upper())

    return Handler


def with_create_request(base: Any, calls: list[Any]) -> Any:
    class Handler(base):
        def create_request(self, scope: Any, body_file: Any) -> Any:
            calls.append((scope["path"], body_file.read()))
            body_file.seek(0)
            request, response = super().create_request(scope, body_file)
            if request is not None:
                request.META["HTTP_X_HOOK"] = "1"
            return request, response

    return Handler


def with_refusal(base: Any, calls: list[Any]) -> Any:
    class Handler(base):
        def create_request(self, scope: Any, body_file: Any) -> Any:
            calls.append("create_request")
            return None, HttpResponse(b"refused", status=403)

    return Handler


def with_run_get_response(base: Any, calls: list[Any]) -> Any:
    class Handler(base):
        async def run_get_response(self, request: Any) -> Any:
            calls.append(request.path)
            response = await super().run_get_response(request)
            calls.append(response.status_code)
            response["X-Hook"] = "1"
            return response

    return Handler


def with_own_response(base: Any, calls: list[Any]) -> Any:
    class Handler(base):
        async def run_get_response(self, request: Any) -> Any:
            calls.append(request.path)
            return HttpResponse(b"own " + request.body)

    return Handler


def with_get_response_async(base: Any, calls: list[Any]) -> Any:
    class Handler(base):
        async def get_response_async(self, request: Any) -> Any:
            calls.append(request.path)
            response = await super().get_response_async(request)
            response["X-Hook"] = "1"
            return response

    return Handler


def with_inner_get_response_async(base: Any, calls: list[Any]) -> Any:
    class Handler(base):
        async def _get_response_async(self, request: Any) -> Any:
            calls.append(request.path)
            return await super()._get_response_async(request)

    return Handler


def with_resolve_request(base: Any, calls: list[Any]) -> Any:
    class Handler(base):
        def resolve_request(self, request: Any) -> Any:
            match = super().resolve_request(request)
            calls.append(match.route)
            return match

    return Handler


def with_load_middleware(base: Any, calls: list[Any]) -> Any:
    class Handler(base):
        def load_middleware(self, is_async: bool = False) -> None:
            super().load_middleware(is_async=is_async)
            calls.append(is_async)
            inner: Any = vars(self)["_middleware_chain"]

            async def outermost(request: Any) -> Any:
                response = await inner(request)
                response["X-Hook"] = "1"
                return response

            self._middleware_chain = outermost

    return Handler


def with_make_view_atomic(base: Any, calls: list[Any]) -> Any:
    class Handler(base):
        def make_view_atomic(self, view: Any) -> Any:
            calls.append(view.__name__)
            return super().make_view_atomic(view)

    return Handler


def with_send_response(base: Any, calls: list[Any]) -> Any:
    class Handler(base):
        async def send_response(self, response: Any, send: Any) -> None:
            async def sending(message: Any) -> None:
                calls.append((message["type"], message.get("body")))
                if message["type"] == "http.response.start":
                    message = {**message, "headers": [*message["headers"], (b"X-Hook", b"1")]}
                await send(message)

            await super().send_response(response, sending)

    return Handler


def with_changed_response(base: Any, calls: list[Any]) -> Any:
    class Handler(base):
        async def send_response(self, response: Any, send: Any) -> None:
            calls.append(response.status_code)
            response["X-Hook"] = "1"
            await super().send_response(response, send)

    return Handler


def with_own_send_response(base: Any, calls: list[Any]) -> Any:
    class Handler(base):
        async def send_response(self, response: Any, send: Any) -> None:
            calls.append(response.status_code)
            await send({"type": "http.response.start", "status": 202, "headers": [(b"X-Own", b"1")]})
            await send({"type": "http.response.body", "body": b"own ", "more_body": True})
            await send({"type": "http.response.body", "body": b"messages"})

    return Handler


def with_chunk_bytes(base: Any, calls: list[Any]) -> Any:
    class Handler(base):
        @classmethod
        def chunk_bytes(cls, data: Any) -> Any:
            for chunk, is_last in super().chunk_bytes(data):
                calls.append((len(chunk), is_last))
                yield chunk.upper(), is_last

    return Handler


def with_chunk_size(base: Any, calls: list[Any]) -> Any:
    class Handler(base):
        chunk_size = 3

    return Handler


def with_request_class(base: Any, calls: list[Any]) -> Any:
    class OwnRequest(stock_asgi.ASGIRequest):
        def __init__(self, scope: Any, body_file: Any) -> None:
            super().__init__(scope, body_file)
            self.META["HTTP_X_HOOK"] = "own"

        def close(self) -> None:
            calls.append("close")
            super().close()

    class Handler(base):
        request_class = OwnRequest

    return Handler


HOOKS: dict[str, Make] = {
    make.__name__.removeprefix("with_"): make
    for make in (
        with_call,
        with_handle,
        with_read_body,
        with_own_read_body,
        with_create_request,
        with_refusal,
        with_run_get_response,
        with_own_response,
        with_get_response_async,
        with_inner_get_response_async,
        with_resolve_request,
        with_load_middleware,
        with_make_view_atomic,
        with_send_response,
        with_changed_response,
        with_own_send_response,
        with_chunk_bytes,
        with_chunk_size,
        with_request_class,
    )
}


def view(request: HttpRequest) -> HttpResponse:
    return HttpResponse(f"{request.path} {request.META.get('HTTP_X_HOOK')} ".encode() + request.body)


async def async_view(request: HttpRequest) -> HttpResponse:
    return view(request)


async def streaming_view(request: HttpRequest) -> StreamingHttpResponse:
    async def parts() -> Any:
        yield b"stream of "
        yield request.path

    return StreamingHttpResponse(parts())


async def failing_view(request: HttpRequest) -> HttpResponse:
    raise RuntimeError("view")


VIEWS = {"sync": view, "async": async_view, "stream": streaming_view, "failing": failing_view}


@pytest.mark.parametrize("kind", VIEWS)
@pytest.mark.parametrize("hook", HOOKS)
async def test_hook_overridden_works_on_ours_as_on_stock(hook: str, kind: str) -> None:
    """The same calls with the same arguments, and the client gets the same."""
    found: list[tuple[list[Any], Any]] = []
    for base in (STOCK, OURS):
        calls: list[Any] = []
        diary = Diary()
        with site(VIEWS[kind]), receivers(diary):
            handler = HOOKS[hook](base, calls)()
            messages = body_messages(b"some ", b"body")
            outcome = await run(handler, Channel(messages), diary, method="POST", path="/path")
        assert outcome.raised is None
        found.append((calls, outcome))
        assert diary.events == ["started", "finished"]
    (their_calls, theirs), (my_calls, mine) = found
    assert mine.answer == theirs.answer
    if kind == "stream":
        # An empty final message has an empty body, or none.
        their_calls, my_calls = (
            [each for each in calls if each[1:] != (None,)] for calls in (_texts(their_calls), _texts(my_calls))
        )
    assert my_calls == their_calls
    if hook != "chunk_size":
        assert my_calls


def _texts(calls: list[Any]) -> list[Any]:
    return [
        (call[0], call[1] or None) if isinstance(call, tuple) and call[0] == "http.response.body" else (call,)
        for call in calls
    ]


@pytest.mark.parametrize("hook", [hook for hook in HOOKS if hook not in ("refusal", "own_response")])
async def test_hook_overridden_keeps_what_ours_promises_when_the_client_leaves(hook: str) -> None:
    """Whatever is overridden, a client that leaves ends a view that waits, and everything is closed."""
    entered = anyio.Event()

    async def waiting(request: HttpRequest) -> HttpResponse:
        entered.set()
        await anyio.sleep_forever()
        raise AssertionError

    diary = Diary()
    server = Channel(body_messages(b"some ", b"body"))
    with site(waiting), receivers(diary):
        request = start(run(HOOKS[hook](OURS, [])(), server, diary, method="POST"))
        with anyio.fail_after(SECONDS):
            await entered.wait()
            server.disconnect()
            outcome = await request
    assert outcome.raised is None
    assert outcome.channel.sent == []
    assert diary.events == ["started", "finished"]


@handlers
async def test_hook_listen_for_disconnect_overridden_is_called_beside_a_view_that_waits(base: Any) -> None:
    """It gets ``receive``, and calls the one beneath it, which raises ``RequestAborted`` in the end."""
    calls: list[Any] = []
    entered = anyio.Event()

    class Handler(base):
        async def listen_for_disconnect(self, receive: Any) -> None:
            calls.append("listening")
            try:
                await super().listen_for_disconnect(receive)
            except RequestAborted:
                calls.append("aborted")
                raise

    async def waiting(request: HttpRequest) -> HttpResponse:
        entered.set()
        try:
            await anyio.sleep_forever()
        finally:
            calls.append("view left")
        raise AssertionError

    server = Channel()
    with site(waiting):
        request = start(run(Handler(), server))
        with anyio.fail_after(SECONDS):
            await entered.wait()
            server.disconnect()
            outcome = await request
    assert outcome.raised is None
    assert calls == ["listening", "aborted", "view left"]


@pytest.mark.parametrize("ends_by", ["returning", "raising"])
async def test_hook_listen_for_disconnect_of_ones_own_decides_when_the_client_has_left(ends_by: str) -> None:
    """What it waits for is its business: it may return, or raise ``RequestAborted``."""
    entered, leave = anyio.Event(), anyio.Event()

    class Handler(OURS):
        async def listen_for_disconnect(self, receive: Any) -> None:
            await leave.wait()
            if ends_by == "raising":
                raise RequestAborted

    async def waiting(request: HttpRequest) -> HttpResponse:
        entered.set()
        await anyio.sleep_forever()
        raise AssertionError

    with site(waiting):
        request = start(run(Handler(), Channel()))
        with anyio.fail_after(SECONDS):
            await entered.wait()
            leave.set()
            outcome = await request
    assert outcome.raised is None
    assert outcome.channel.sent == []


@handlers
async def test_hook_handle_of_ones_own_may_use_all_the_others(base: Any) -> None:
    """A whole ``handle`` that a site wrote itself, with the raw channels, finds every step where it was."""
    steps = []

    class Handler(base):
        async def handle(self, scope: Any, receive: Any, send: Any) -> None:
            set_script_prefix(stock_asgi.get_script_prefix(scope))
            body_file = await self.read_body(receive)
            steps.append(body_file.read())
            body_file.seek(0)
            request, refusal = self.create_request(scope, body_file)
            assert refusal is None
            response = await self.run_get_response(request)
            await self.send_response(response, send)
            await sync_to_async(response.close)()
            body_file.close()

    with site(view):
        outcome = await ask(Handler(), body_messages(b"b", b"ody"), method="POST")
    assert steps == [b"body"]
    assert outcome.body == b"/ None body"


# --- hooks called by themselves ----------------------------------------------------------------------------


@handlers
async def test_hook_read_body_called_with_a_plain_receive_gives_a_file_at_its_beginning(base: Any) -> None:
    """Small or spooled, with missing keys: the same file."""
    messages: list[Message] = [
        {"type": "http.request", "body": b"one", "more_body": True},
        {"type": "http.request"},
    ]
    with site(view, FILE_UPLOAD_MAX_MEMORY_SIZE=4):
        handler = base()
        with await handler.read_body(Channel(messages).receive) as body_file:
            assert body_file.read() == b"one"
        with await handler.read_body(Channel(body_messages(b"one", b"two", b"three")).receive) as body_file:
            assert body_file._rolled
            assert body_file.tell() == 0
            assert body_file.read() == b"onetwothree"
        with pytest.raises(RequestAborted):
            await handler.read_body(Channel([*body_messages(b"one", b"two")[:1], DISCONNECT]).receive)


@handlers
async def test_hook_listen_for_disconnect_called_by_itself_raises_when_the_client_leaves(base: Any) -> None:
    """With a plain ``receive``, after the body."""
    with site(view):
        with pytest.raises(RequestAborted):
            await base().listen_for_disconnect(Channel([DISCONNECT]).receive)


@handlers
async def test_hook_create_request_called_by_itself_gives_a_request_or_a_response(base: Any) -> None:
    """Without any engine around it."""
    with site(view):
        handler = base()
        request, response = handler.create_request(http_scope(path="/here"), BytesIO())
        assert response is None
        assert request.path == "/here"
        assert isinstance(request, stock_asgi.ASGIRequest)
        request, response = handler.create_request(http_scope(query_string=b"\xff"), BytesIO())
        assert request is None
        assert response.status_code == 400


@pytest.mark.parametrize("kind", ["whole", "stream", "sync stream"])
@handlers
async def test_hook_send_response_called_by_itself_sends_a_response(base: Any, kind: str) -> None:
    """To a plain ``send``."""

    async def parts() -> Any:
        yield b"te"
        yield b"xt"

    response: Any = HttpResponse(b"text")
    if kind != "whole":
        response = StreamingHttpResponse(parts() if kind == "stream" else [b"te", b"xt"])
    channel = Channel()
    with site(view):
        if base is STOCK and kind == "sync stream":
            with pytest.warns(Warning, match="synchronous iterators"):
                await base().send_response(response, channel.send)
        else:
            await base().send_response(response, channel.send)
    outcome = Outcome(channel)
    assert outcome.status == 200
    assert outcome.body == b"text"
    assert outcome.is_ended


@handlers
async def test_hook_chunk_bytes_of_the_class_cuts_data(base: Any) -> None:
    """It is a class method that gives (chunk, is_last), one pair for empty data, too."""
    assert list(base.chunk_bytes(b"")) == [(b"", True)]
    assert list(base.chunk_bytes(b"x" * 65536)) == [(b"x" * 65536, True)]
    assert list(base.chunk_bytes(b"x" * 65537)) == [(b"x" * 65536, False), (b"x", True)]
    assert base.chunk_size == 65536


async def test_hook_handle_uncaught_exception_answers_what_django_does_not_catch(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With Django's three arguments, for errors outside of the middleware chain; logged once."""
    calls = []

    class Handler(OURS):
        async def run_get_response(self, request: Any) -> Any:
            raise RuntimeError("outside")

        def handle_uncaught_exception(self, request: Any, resolver: Any, exc_info: Any) -> Any:
            calls.append((request.path, type(resolver).__name__, repr(exc_info[1])))
            return HttpResponse(b"own page", status=503)

    diary = Diary()
    with site(view), receivers(diary):
        outcome = await run(Handler(), Channel(), diary, path="/there")
    assert (outcome.status, outcome.body) == (503, b"own page")
    assert calls == [("/there", "URLResolver", "RuntimeError('outside')")]
    assert diary.events == ["started", "finished"]
    assert len([record for record in caplog.records if record.levelno >= logging.ERROR]) == 1


@pytest.mark.parametrize("debug", [True, False])
async def test_hook_handle_uncaught_exception_gives_the_site_s_own_error_page(debug: bool) -> None:
    """``handler500``, the page of DEBUG, and plain text where the page fails itself."""

    class Handler(OURS):
        async def run_get_response(self, request: Any) -> Any:
            raise RuntimeError("outside")

    def page(request: Any) -> HttpResponse:
        return HttpResponse(b"the site's", status=500)

    def broken(request: Any) -> HttpResponse:
        raise RuntimeError("page")

    with site(view, urls={"handler500": page}, DEBUG=debug):
        outcome = await ask(Handler())
    assert outcome.status == 500
    assert (b"RuntimeError at /" in outcome.body) if debug else (outcome.body == b"the site's")
    with site(view, urls={"handler500": broken}, DEBUG=debug):
        outcome = await ask(Handler())
    assert outcome.status == 500
    if not debug:
        assert outcome.body == b"Internal Server Error"
        assert outcome.header("content-type") == ["text/plain"]


async def test_hook_handle_uncaught_exception_shows_a_broken_page_in_debug(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Django's own debug page fails, the traceback of that is the answer."""

    def broken(*_: Any) -> Any:
        raise RuntimeError("debug page")

    monkeypatch.setattr("django.views.debug.technical_500_response", broken)

    class Handler(OURS):
        async def run_get_response(self, request: Any) -> Any:
            raise RuntimeError("outside")

    with site(view, DEBUG=True):
        outcome = await ask(Handler())
    assert outcome.status == 500
    assert b"debug page" in outcome.body
    assert outcome.header("content-type") == ["text/plain"]


async def test_hook_send_response_that_sends_nothing_is_an_error() -> None:
    """A ``send_response`` that forgets the final message is told so, and the client gets a 500."""

    class Handler(OURS):
        forgets = True

        async def send_response(self, response: Any, send: Any) -> None:
            if not self.forgets:
                await super().send_response(response, send)
            self.forgets = False

    with site(view):
        outcome = await ask(Handler())
    assert outcome.status == 500
    assert outcome.is_ended


async def test_hook_run_get_response_that_returns_nothing_is_an_error() -> None:
    """Neither a response of Django's: a 500, and everything is closed."""

    class Handler(OURS):
        async def run_get_response(self, request: Any) -> Any:
            return None

    diary = Diary()
    with site(view), receivers(diary):
        outcome = await run(Handler(), Channel(), diary)
    assert outcome.status == 500
    assert diary.events == ["started", "finished"]


# --- hooks of the engine -----------------------------------------------------------------------------------


async def test_hook_of_the_engine_is_called_with_django_s_objects() -> None:
    """``response_ready``, ``request_finished`` and ``client_left`` get Django's request and response."""
    calls: list[Any] = []
    entered = anyio.Event()

    class Handler(OURS):
        async def response_ready(self, request: Any, response: Any) -> None:
            calls.append(("ready", type(request), type(response)))

        async def request_finished(self, request: Any, response: Any) -> None:
            calls.append(("finished", type(request), type(response)))
            assert not request._stream.closed

        async def client_left(self, request: Any, phase: str) -> None:
            calls.append(("left", type(request), phase))

    async def waiting(request: HttpRequest) -> HttpResponse:
        if request.path == "/":
            return HttpResponse()
        entered.set()
        await anyio.sleep_forever()
        raise AssertionError

    diary = Diary()
    with site(waiting), receivers(diary):
        handler = Handler()
        await run(handler, Channel(), diary)
        assert calls == [("ready", ASGIRequest, HttpResponse), ("finished", ASGIRequest, HttpResponse)]
        calls.clear()
        server = Channel()
        request = start(run(handler, server, diary, path="/wait"))
        with anyio.fail_after(SECONDS):
            await entered.wait()
            server.disconnect()
            await request
    assert calls == [("left", ASGIRequest, "handler"), ("finished", ASGIRequest, type(None))]
    assert diary.events == ["started", "finished"] * 2
    assert not issubclass(ASGIRequest, Request)


async def test_handler_of_the_django_page_lets_go_of_a_stream_before_its_first_byte() -> None:
    """``response_ready`` comes when the view is done, the signal ``request_finished`` when the stream is."""
    page = (Path(__file__).parent.parent / "docs" / "django.md").read_text("utf-8")
    code = re.search(r"^```python\n(import django\n.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert code
    namespace: dict[str, Any] = {}
    exec(code[1], namespace)
    at_work: list[int] = []

    async def parts() -> AsyncIterator[bytes]:
        at_work.append(len(handler.at_work))
        assert diary.events == ["started"]
        yield b"a"

    async def views(request: HttpRequest) -> Any:
        at_work.append(len(handler.at_work))
        if request.path == "/fails":
            raise LookupError
        return StreamingHttpResponse(parts())

    diary = Diary()
    with site(views), receivers(diary):
        handler = namespace["get_application"]()
        assert (await run(handler, Channel(), diary)).body == b"a"
        assert at_work == [1, 0]
        assert (await run(handler, Channel(), diary, path="/fails")).status == 500
    assert at_work == [1, 0, 1]
    assert diary.events == ["started", "finished"] * 2
    assert not handler.at_work


# --- static files ------------------------------------------------------------------------------------------


def rebased_static_handler(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Django's own ``ASGIStaticFilesHandler``, whose ``__init__`` does not call ``super()``, with ours beneath it."""
    monkeypatch.setattr(stock_asgi, "ASGIHandler", OURS)
    spec: Any = importlib.util.spec_from_file_location("rebased_static_handlers", static_handlers.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.undo()
    return module.ASGIStaticFilesHandler


@pytest.mark.parametrize("which", ["stock around ours", "rebased around ours", "rebased around stock"])
async def test_static_files_handler_serves_files_and_hands_on_the_rest(
    which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Static paths come from the directory, others from the application beneath, missing ones are 404."""
    static = rebased_static_handler(monkeypatch) if "rebased" in which else static_handlers.ASGIStaticFilesHandler
    assert issubclass(static, OURS) is ("rebased" in which)
    diary = Diary()
    with site(view), receivers(diary):
        handler = static(STOCK() if "stock" in which.split()[-1] else OURS())
        found = await run(handler, Channel(), path="/static/style.css")
        missing = await ask(handler, path="/static/missing.css")
        other = await ask(handler, path="/other")
        refused = pytest.raises(ValueError, match="lifespan")
        with refused if "stock" in which.split()[-1] else nullcontext():
            async with Client(handler):
                pass
    assert found.status == 200
    assert found.body == (DIRECTORY / "static" / "style.css").read_bytes()
    assert found.header("content-type") == ["text/css"]
    assert missing.status == 404
    assert other.body == b"/other None "
    assert diary.count("started") == diary.count("finished") == 3


# --- the names ---------------------------------------------------------------------------------------------


async def test_handler_is_one_of_django_s_and_has_all_its_names() -> None:
    """What asks for Django's handler, or for an attribute of it, finds it."""
    from django.core.asgi import get_asgi_application as stock_get_asgi_application

    with site(view):
        handler = get_asgi_application()
        assert isinstance(handler, OURS)
        assert isinstance(handler, STOCK)
        assert vars(stock_get_asgi_application()).keys() <= vars(handler).keys()
    assert OURS.request_class is ASGIRequest
    assert issubclass(ASGIRequest, stock_asgi.ASGIRequest)
    public = {name for name in dir(STOCK) if not name.startswith("__")}
    assert public <= set(dir(OURS))
    assert OURS.__mro__.index(STOCK) > 0
