"""The end of a Django request: signals, closing and threads, the same on every way out, and as under stock Django."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Iterator
from io import BytesIO
from typing import Any, Literal

import anyio
import pytest
from anyio.lowlevel import checkpoint
from django.core.signals import request_finished, request_started
from django.http import FileResponse, HttpResponse, StreamingHttpResponse
from django_site import (
    OURS,
    SECONDS,
    STOCK,
    Diary,
    Outcome,
    ask,
    backends,
    eventually,
    handlers,
    noting,
    receivers,
    run,
    site,
    start,
    wait_for,
)
from faults import Steps

from asgicore.testing import DISCONNECT, EMPTY, Channel, Message, body_messages, http_scope
from asgicore.testing._living import descriptors as open_files
from asgicore.testing._living import tasks as living_tasks

pytestmark = backends

KINDS = ["async", "sync", "async stream", "sync stream", "stream of sync view", "file", "sync middleware"]
kinds = pytest.mark.parametrize("kind", KINDS)
signal_kinds = pytest.mark.parametrize("receiving", ["sync", "async", "both"])


@pytest.fixture(autouse=True)
def _no_collector() -> Iterator[None]:
    """Nothing here may be left to the garbage collector."""
    gc.disable()
    yield
    gc.enable()


class Scene:
    """A site whose view notes what happens, and fails or waits where a test wants it to.

    Args:
        kind: What sort of view and response there is.
        fails: Where it raises: ``"view"``, ``"stream"`` (after two parts), ``"middleware"``.
        waits: Whether the view waits, or the stream after two parts, until its client has left.
    """

    def __init__(self, kind: str, fails: str = "", waits: bool = False) -> None:
        self.kind = kind
        self.fails = fails
        self.waits = waits
        self.diary = Diary()
        self.is_waiting = anyio.Event()
        self.release = threading.Event()
        self.loop = asyncio.get_running_loop()
        self.file: Any = None

    # What the view does, in its thread or on the loop.

    def _made(self, response: Any) -> Any:
        response._resource_closers.append(lambda: self.diary.note("response.close"))
        return response

    def _wait_here(self) -> None:
        self.loop.call_soon_threadsafe(self.is_waiting.set)
        wait_for(self.release)

    async def _wait(self) -> None:
        self.is_waiting.set()
        await anyio.sleep_forever()

    def _respond(self) -> Any:
        if self.fails == "view":
            raise RuntimeError("view")
        if self.kind == "async stream":
            return self._made(StreamingHttpResponse(self._parts()))
        if "stream" in self.kind:
            return self._made(StreamingHttpResponse(self._sync_parts()))
        if self.kind == "file":
            self.file = BytesIO(b"0123")
            return self._made(FileResponse(self.file))
        return self._made(HttpResponse(b"0123"))

    async def _parts(self) -> AsyncIterator[bytes]:
        try:
            for number in range(4):
                if number == 2 and self.fails == "stream":
                    raise RuntimeError("stream")
                if number == 2 and self.waits:
                    await self._wait()
                yield b"%d" % number
                await checkpoint()
        finally:
            self.diary.note("generator")

    def _sync_parts(self) -> Iterator[bytes]:
        try:
            for number in range(4):
                if number == 2 and self.fails == "stream":
                    raise RuntimeError("stream")
                if number == 2 and self.waits:
                    self._wait_here()
                yield b"%d" % number
        finally:
            self.diary.note("generator")

    @property
    def is_sync(self) -> bool:
        return self.kind in ("sync", "stream of sync view")

    @property
    def waits_in_view(self) -> bool:
        return self.waits and self.kind in ("async", "sync", "sync middleware")

    async def async_view(self, request: Any) -> Any:
        self.diary.note("view")
        if self.waits_in_view:
            try:
                await self._wait()
            finally:
                self.diary.note("view left")
        return self._respond()

    def sync_view(self, request: Any) -> Any:
        self.diary.note("view")
        if self.waits_in_view:
            self._wait_here()
        return self._respond()

    def middleware(self, get_response: Any) -> Any:
        def call(request: Any) -> Any:
            self.diary.note("middleware")
            if self.fails == "middleware":
                raise RuntimeError("middleware")
            return get_response(request)

        return call

    def site(self, **changes: Any) -> Any:
        middleware = [self.middleware] if self.kind == "sync middleware" or self.fails == "middleware" else []
        view = self.sync_view if self.is_sync else self.async_view
        return site(view, middleware=middleware, **changes)

    def handler(self, base: Any, **options: Any) -> Any:
        return noting(base, self.diary, **options)

    async def ask(self, base: Any, channel: Channel | None = None, **scope: Any) -> Outcome:
        with self.site():
            handler = self.handler(base)
            outcome = await run(handler, channel or Channel(), self.diary, **scope)
            self.handlers = [handler]
        return outcome

    def check(self, has_response: bool = True) -> None:
        """Both signals once, everything closed once, in Django's order; synchronous receivers in one thread."""
        diary = self.diary
        events = [what for what in diary.events if what not in ("view", "view left", "middleware", "generator")]
        closing = ["response.close"] if has_response else []
        started = [what for what in events if what.startswith("started")]
        finished = [what for what in events if what.startswith("finished")]
        assert events == [*started, *closing, "request.close", *finished]
        assert len(started) == len(set(started)) == len(finished) == len(set(finished))
        threads = diary.places("request.close", "response.close")
        assert len(threads) == 1
        assert "loop" not in threads
        if diary.count("view") and self.is_sync:
            assert diary.places("view") == threads


# --- the way it should go ----------------------------------------------------------------------------------


@kinds
@signal_kinds
async def test_exit_after_a_whole_response_is_as_under_stock_django(kind: str, receiving: Any) -> None:
    """Signals, view and closing come in Django's order, in the same threads, and the client gets the same."""
    diaries = []
    answers = []
    for base in (STOCK, OURS):
        scene = Scene(kind)
        with receivers(scene.diary, receiving):
            outcome = await scene.ask(base)
        assert outcome.raised is None
        scene.check()
        diaries.append(scene.diary.entries)
        answers.append(outcome.answer)
        assert scene.file is None or scene.file.closed
        assert all(body.closed for handler in scene.handlers for body in handler.bodies)
    assert diaries[0] == diaries[1]
    assert answers[0] == answers[1]
    assert answers[1][0] == 200
    assert answers[1][2] == b"0123"


@signal_kinds
async def test_signals_have_the_arguments_of_stock_django(receiving: Any) -> None:
    """The sender is the class of the handler; ``request_started`` brings the scope, and nothing else comes along."""
    found = {}
    for base in (STOCK, OURS):
        scene = Scene("sync")
        with receivers(scene.diary, receiving):
            await scene.ask(base)
        sender = type(scene.handlers[0])
        assert all(arguments.pop("sender") is sender for _, arguments in scene.diary.arguments)
        signals = [arguments.pop("signal") for _, arguments in scene.diary.arguments]
        assert set(signals) == {request_started, request_finished}
        scopes = [arguments.get("scope") for _, arguments in scene.diary.arguments]
        assert [scope is None or scope["path"] == "/" for scope in scopes] == [True] * len(scopes)
        found[base] = [(name, sorted(arguments)) for name, arguments in scene.diary.arguments]
    assert found[STOCK] == found[OURS]


async def test_signals_of_another_sender_are_not_received() -> None:
    """A receiver that asks for one sender hears of the requests of that handler alone."""
    diary = Diary()

    def note(**arguments: Any) -> None:
        diary.note("finished")

    class Other(OURS):
        pass

    request_finished.connect(note, sender=Other)
    try:
        with site(lambda request: HttpResponse()):
            mine, other = OURS(), Other()
            await ask(mine)
            assert diary.events == []
            await ask(other)
            assert diary.events == ["finished"]
            await ask(mine)
            await ask(other)
            assert diary.events == ["finished", "finished"]
    finally:
        assert request_finished.disconnect(note, sender=Other)


async def test_signals_receivers_that_come_and_go_are_heeded_at_once() -> None:
    """What is connected between two requests is called in the next one, what is disconnected no more."""

    async def view(request: Any) -> HttpResponse:
        return HttpResponse()

    diary = Diary()
    with site(view):
        handler = OURS()
        await ask(handler)
        with receivers(diary):
            await ask(handler)
            assert diary.events == ["started", "finished"]
        await ask(handler)
        assert diary.events == ["started", "finished"]
        with receivers(diary, "async"):
            await ask(handler)
        assert diary.events == ["started", "finished"] * 2


async def test_signals_receivers_that_are_collected_are_heeded_no_more() -> None:
    """A receiver that is held weakly may vanish at any time."""
    diary = Diary()

    class Watcher:
        def note(self, **arguments: Any) -> None:
            diary.note("finished")

    async def view(request: Any) -> HttpResponse:
        return HttpResponse()

    watcher = Watcher()
    request_finished.connect(watcher.note)
    with site(view):
        handler = OURS()
        await ask(handler)
        assert diary.events == ["finished"]
        del watcher
        await ask(handler)
        await ask(handler)
    assert diary.events == ["finished"]


@pytest.mark.parametrize("kind", ["sync", "async", "sync middleware"])
async def test_signals_of_many_requests_keep_to_one_thread_each(kind: str) -> None:
    """In each of a hundred requests, some at once, everything synchronous is in one thread, never on the loop."""
    threads: dict[int, set[str]] = {}

    def note(request: Any) -> None:
        threads.setdefault(int(request.path[1:]), set()).add(threading.current_thread().name)

    def started(scope: Any, **arguments: Any) -> None:
        threads.setdefault(int(scope["path"][1:]), set()).add(threading.current_thread().name)

    def middleware(get_response: Any) -> Any:
        def call(request: Any) -> Any:
            note(request)
            return get_response(request)

        return call

    def respond(request: Any) -> HttpResponse:
        response = HttpResponse()
        response._resource_closers.append(lambda: note(request))
        return response

    async def view(request: Any) -> HttpResponse:
        await checkpoint()
        return respond(request)

    def sync_view(request: Any) -> HttpResponse:
        note(request)
        return respond(request)

    request_started.connect(started)
    try:
        with site(sync_view if kind == "sync" else view, middleware=[middleware] if kind == "sync middleware" else []):
            handler = OURS(max_workers=8)
            with anyio.fail_after(SECONDS):
                async with anyio.create_task_group() as group:
                    for number in range(100):
                        channel = Channel()
                        group.start_soon(handler, http_scope(path=f"/{number}"), channel.receive, channel.send)
            assert handler.workers.in_use == handler.workers.waiting == 0
            assert handler.workers.alive <= 8
    finally:
        assert request_started.disconnect(started)
    assert len(threads) == 100
    for found in threads.values():
        assert len(found) == 1
        assert found != {threading.main_thread().name}


# --- errors ------------------------------------------------------------------------------------------------


@kinds
@signal_kinds
async def test_exit_after_a_view_that_raises_is_as_under_stock_django(kind: str, receiving: Any) -> None:
    """Django's 500 goes out, and is closed like any response."""
    diaries = []
    answers = []
    for base in (STOCK, OURS):
        scene = Scene(kind, fails="view")
        with receivers(scene.diary, receiving):
            outcome = await scene.ask(base)
        assert outcome.raised is None
        scene.check(has_response=False)
        diaries.append(scene.diary.entries)
        answers.append(outcome.answer)
    assert diaries[0] == diaries[1]
    assert answers[0] == answers[1]
    assert answers[1][0] == 500


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_exit_after_a_middleware_that_raises_is_as_under_stock_django(kind: str) -> None:
    """An error of the outermost middleware is a 500 of Django's, too."""
    diaries = []
    for base in (STOCK, OURS):
        scene = Scene(kind, fails="middleware")
        with receivers(scene.diary):
            outcome = await scene.ask(base)
        assert outcome.status == 500
        scene.check(has_response=False)
        diaries.append(scene.diary.entries)
    assert diaries[0] == diaries[1]


@pytest.mark.parametrize("kind", ["async", "sync"])
@signal_kinds
async def test_exit_after_an_error_that_is_propagated_closes_everything(kind: str, receiving: Any) -> None:
    """With ``DEBUG_PROPAGATE_EXCEPTIONS`` the error reaches the server as under stock Django, which closes nothing."""
    scene = Scene(kind, fails="view")
    with receivers(scene.diary, receiving), scene.site(DEBUG_PROPAGATE_EXCEPTIONS=True):
        handler = scene.handler(OURS)
        outcome = await run(handler, Channel(), scene.diary)
    assert repr(outcome.raised) == "RuntimeError('view')"
    assert outcome.channel.sent == []
    scene.check(has_response=False)


@pytest.mark.parametrize("kind", ["async stream", "sync stream", "stream of sync view"])
@signal_kinds
async def test_exit_after_a_stream_that_raises_closes_everything(kind: str, receiving: Any) -> None:
    """The response is not ended, the error reaches the server itself, and nothing is left open."""
    scene = Scene(kind, fails="stream")
    with receivers(scene.diary, receiving):
        outcome = await scene.ask(OURS)
    assert repr(outcome.raised) == "RuntimeError('stream')"
    assert outcome.body == b"01"
    assert not outcome.is_ended
    scene.check()
    assert scene.diary.count("generator") == 1


@handlers
@signal_kinds
async def test_exit_after_a_refused_request_is_as_under_stock_django(base: Any, receiving: Any) -> None:
    """A query that is no UTF-8 is answered with 400 by Django; both signals are sent."""
    diary = Diary()
    with receivers(diary, receiving), site(lambda request: HttpResponse()):
        handler = noting(base, diary)
        outcome = await run(handler, Channel(), diary, query_string=b"a=\xff")
    assert outcome.status == 400
    finished = [what for what in diary.events if what.startswith("finished")]
    assert len(finished) == len(set(finished)) == (2 if receiving == "both" else 1)
    assert len(diary.events) == 2 * len(finished)
    assert [body.closed for body in handler.bodies] == [True]


async def test_exit_after_a_create_request_that_raises_is_answered_and_closed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What goes wrong in a hook of the application's own is logged and answered; both signals are sent once."""
    diary = Diary()
    bodies = []

    class Handler(OURS):
        def create_request(self, scope: Any, body_file: Any) -> Any:
            bodies.append(body_file)
            raise RuntimeError("create_request")

    with receivers(diary), site(lambda request: HttpResponse()):
        outcome = await run(Handler(), Channel(), diary)
    assert outcome.status == 500
    assert diary.events == ["started", "finished"]
    assert [repr(record.exc_info[1]) for record in caplog.records if record.exc_info] == [
        "RuntimeError('create_request')"
    ]


@pytest.mark.parametrize("is_async", [False, True])
async def test_exit_after_a_started_receiver_that_raises_is_a_500(
    is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Difference "errors": the error is logged once and answered, and the end of the request is told."""
    diary = Diary()

    def fail(**arguments: Any) -> None:
        raise RuntimeError("receiver")

    async def fail_async(**arguments: Any) -> None:
        raise RuntimeError("receiver")

    receiver = fail_async if is_async else fail
    with site(lambda request: HttpResponse()), receivers(diary):
        request_started.connect(receiver)
        try:
            outcome = await run(OURS(), Channel(), diary)
        finally:
            assert request_started.disconnect(receiver)
    assert outcome.raised is None
    assert outcome.status == 500
    assert diary.count("finished") == 1
    errors = [record for record in caplog.records if record.exc_info]
    assert len(errors) == 1


@pytest.mark.parametrize("receiving", ["sync", "async"])
async def test_exit_after_a_finished_receiver_that_raises_leaves_the_response(
    receiving: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The client has its response by then; the error is logged once, and the body is closed."""

    def fail(**arguments: Any) -> None:
        raise RuntimeError("receiver")

    async def fail_async(**arguments: Any) -> None:
        raise RuntimeError("receiver")

    receiver = fail_async if receiving == "async" else fail
    diary = Diary()
    with site(lambda request: HttpResponse(b"whole")):
        handler = noting(OURS, diary)
        request_finished.connect(receiver)
        try:
            outcome = await run(handler, Channel(), diary)
        finally:
            assert request_finished.disconnect(receiver)
    assert outcome.body == b"whole"
    assert outcome.is_ended
    assert [body.closed for body in handler.bodies] == [True]
    errors = [record for record in caplog.records if record.exc_info]
    assert len(errors) == 1
    assert handler.workers.in_use == 0


async def test_exit_after_a_close_that_raises_sends_the_signal(caplog: pytest.LogCaptureFixture) -> None:
    """A resource closer that fails hides nothing: Django goes on to the others and to the signal."""
    diary = Diary()

    def fail() -> None:
        raise RuntimeError("close")

    def view(request: Any) -> HttpResponse:
        response = HttpResponse(b"whole")
        response._resource_closers.append(fail)
        return response

    with site(view), receivers(diary):
        outcome = await run(noting(OURS, diary), Channel(), diary)
    assert outcome.is_ended
    assert diary.events == ["started", "request.close", "finished"]


# --- the channel fails -------------------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize("number", [0, 1, 2, 3])
async def test_exit_after_a_send_that_raises_oserror_closes_everything(kind: str, number: int) -> None:
    """Difference "quiet": whichever message the server cannot take, the request ends quietly and is closed."""

    async def on_send(index: int, message: Message) -> None:
        if index == number:
            raise ConnectionResetError("the peer is gone")

    scene = Scene(kind)
    with receivers(scene.diary):
        outcome = await scene.ask(OURS, Channel(on_send=on_send))
    assert outcome.raised is None
    assert len(outcome.channel.sent) <= number
    scene.check()
    assert scene.file is None or scene.file.closed
    if scene.diary.count("generator"):
        assert scene.diary.count("generator") == 1
    else:
        assert number == 0 or "stream" not in kind


@kinds
async def test_exit_after_a_send_that_raises_another_error_closes_everything(kind: str) -> None:
    """A server that breaks is told so by its own error."""

    async def on_send(index: int, message: Message) -> None:
        if index == 1:
            raise RuntimeError("server")

    scene = Scene(kind)
    with receivers(scene.diary):
        outcome = await scene.ask(OURS, Channel(on_send=on_send))
    assert repr(outcome.raised) == "RuntimeError('server')"
    scene.check()


@pytest.mark.parametrize("messages", [0, 1, 2])
@handlers
async def test_exit_after_a_disconnect_within_the_body_calls_nobody(base: Any, messages: int) -> None:
    """As under stock Django there was no request: no signal, no view, no message, no file left."""
    diary = Diary()
    before = open_files()
    parts = body_messages(b"x" * 50, b"y" * 50, b"z" * 50)[:messages]

    def view(request: Any) -> HttpResponse:
        diary.note("view")
        return HttpResponse()

    with receivers(diary), site(view, FILE_UPLOAD_MAX_MEMORY_SIZE=60):
        outcome = await run(noting(base, diary), Channel([*parts, DISCONNECT]), diary, method="POST")
    assert outcome.raised is None
    assert outcome.channel.sent == []
    assert diary.events == []
    assert open_files() == before


async def test_exit_after_a_receive_that_raises_calls_nobody() -> None:
    """What the server's own channel raises reaches the server; no signal was sent yet."""
    diary = Diary()

    async def breaks(index: int) -> None:
        raise RuntimeError("receive")

    with receivers(diary), site(lambda request: HttpResponse()):
        outcome = await run(OURS(), Channel(on_receive=breaks), diary)
    assert repr(outcome.raised) == "RuntimeError('receive')"
    assert diary.events == []
    assert outcome.channel.sent == []


@pytest.mark.parametrize("kind", ["async", "async stream", "sync stream", "stream of sync view", "sync middleware"])
@pytest.mark.parametrize("receiving", ["sync", "async"])
async def test_exit_after_a_disconnect_in_what_waits_closes_everything(kind: str, receiving: Any) -> None:
    """A view or stream that waits is cancelled, and all is closed before the application returns."""
    scene = Scene(kind, waits=True)
    server = Channel()
    with receivers(scene.diary, receiving), scene.site():
        handler = scene.handler(OURS)
        request = start(run(handler, server, scene.diary))
        with anyio.fail_after(SECONDS):
            await scene.is_waiting.wait()
            server.disconnect()
            await server.told.wait()
            scene.release.set()
            outcome = await request
    assert outcome.raised is None
    assert not outcome.is_ended
    assert handler.workers.in_use == 0
    scene.check(has_response="stream" in kind)
    if "stream" in kind:
        assert scene.diary.count("generator") == 1
        assert outcome.body == b"01"
    else:
        assert scene.diary.count("view left") == 1
    assert [body.closed for body in handler.bodies] == [True]


@pytest.mark.parametrize("receiving", ["sync", "async"])
async def test_exit_after_a_disconnect_in_a_synchronous_view_closes_its_response(receiving: Any) -> None:
    """The thread cannot be cancelled: what the view returns in the end is closed, though nobody gets it."""
    scene = Scene("sync", waits=True)
    server = Channel()
    with receivers(scene.diary, receiving), scene.site():
        handler = scene.handler(OURS)
        request = start(run(handler, server, scene.diary))
        with anyio.fail_after(SECONDS):
            await scene.is_waiting.wait()
            server.disconnect()
            await server.told.wait()
            scene.release.set()
            outcome = await request
    assert outcome.raised is None
    assert outcome.channel.sent == []
    scene.check()


@pytest.mark.parametrize("kind", ["async", "sync", "async stream", "sync stream"])
async def test_exit_after_a_disconnect_that_follows_the_response_is_that_of_a_whole_one(kind: str) -> None:
    """A client that leaves with its last byte has got everything."""

    async def on_send(index: int, message: Message) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body"):
            server.disconnect()

    server = Channel(on_send=on_send)
    scene = Scene(kind)
    with receivers(scene.diary):
        outcome = await scene.ask(OURS, server)
    assert outcome.is_ended
    assert outcome.body == b"0123"
    scene.check()


@pytest.mark.parametrize("when_cancelled", ["raise", "disconnect", "error"])
@pytest.mark.parametrize("kind", ["async", "sync", "async stream", "sync stream"])
async def test_exit_whatever_receive_does_when_it_is_cancelled_is_that_of_a_whole_response(
    kind: str, when_cancelled: Any
) -> None:
    """Once the final message is sent, what the listener gets is nobody's business."""
    scene = Scene(kind)
    with receivers(scene.diary):
        outcome = await scene.ask(OURS, Channel(when_cancelled=when_cancelled, suspends=True))
    assert outcome.raised is None
    assert outcome.is_ended
    scene.check()


@pytest.mark.parametrize("tells", ["event", "raise", "both"])
@pytest.mark.parametrize("spec", ["2.0", "2.3", "2.4"])
async def test_exit_of_an_endless_stream_however_the_server_tells(tells: Any, spec: str) -> None:
    """An event or an error of ``send``, under any version of the specification, both end the request."""
    ended = []

    async def parts() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x"
                await checkpoint()
        finally:
            ended.append(True)

    async def view(request: Any) -> StreamingHttpResponse:
        return StreamingHttpResponse(parts())

    async def on_send(index: int, message: Message) -> None:
        if index == 5:
            server.disconnect()

    server = Channel(tells=tells, on_send=on_send)
    diary = Diary()
    with site(view), receivers(diary):
        outcome = await run(OURS(), server, diary, asgi={"version": "3.0", "spec_version": spec})
    assert outcome.raised is None
    assert ended == [True]
    assert diary.events == ["started", "finished"]


async def _stepped(steps: Steps, coro: Any) -> Any:
    return await steps.run(coro)


# --- cancelled from outside --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("receiving", ["sync", "async"])
async def test_exit_after_native_cancellation_at_every_await_closes_everything(kind: str, receiving: Any) -> None:
    """Wherever a server cancels the request, it is closed, the cancellation arrives, and no task is left."""
    number, before = 0, open_files()
    while True:
        number += 1
        scene = Scene(kind)
        with receivers(scene.diary, receiving), scene.site():
            handler = scene.handler(OURS)
            channel = Channel(suspends=True)
            steps = Steps(number, lambda: task.cancel())  # noqa: B023  # called before the loop goes on
            tasks = living_tasks()
            task = start(_stepped(steps, handler(http_scope(), channel.receive, channel.send)))
            with anyio.fail_after(SECONDS):
                await asyncio.wait([task])
                while living_tasks() - tasks:
                    await checkpoint()
        if not steps.has_acted:
            assert not task.cancelled()
            break
        assert task.cancelled() or task.exception() is None
        # A cancellation during the closing itself is held back, and then it arrives.
        assert task.cancelled(), f"step {number} swallowed the cancellation"
        events = scene.diary.events
        where = f"step {number}: {events}"
        started = scene.diary.count("started")
        if events:
            assert started == scene.diary.count("finished") == 1, where
            if handler.bodies:
                assert scene.diary.count("request.close") == 1, where
            if scene.diary.count("view") and (scene.is_sync or channel.sent):
                assert scene.diary.count("response.close") == 1, where
            assert events[-1] == "finished", where
        assert all(body.closed for body in handler.bodies), where
        assert scene.file is None or scene.file.closed, where
        assert handler.workers.in_use == 0, where
        assert open_files() == before or number < 3
    assert number > 4


@pytest.mark.parametrize("kind", ["async", "async stream", "sync middleware"])
async def test_exit_after_cancellation_of_a_scope_around_closes_everything(kind: str) -> None:
    """A scope of anyio around the application cancels again and again, and must not get into the closing."""
    scene = Scene(kind, waits=True)
    server = Channel()
    with receivers(scene.diary), scene.site():
        handler = scene.handler(OURS)
        with anyio.fail_after(SECONDS):
            async with anyio.create_task_group() as group:
                group.start_soon(handler, http_scope(), server.receive, server.send)
                await scene.is_waiting.wait()
                group.cancel_scope.cancel()
    scene.check(has_response="stream" in kind)


@pytest.mark.parametrize("kind", ["async", "async stream", "sync middleware"])
@pytest.mark.parametrize("receiving", ["sync", "async"])
async def test_exit_cut_by_a_cancellation_while_the_client_leaves_closes_everything(kind: str, receiving: Any) -> None:
    """Both at once: the client leaves, and the server cancels the request before that is dealt with."""
    scene = Scene(kind, waits=True)
    server = Channel()
    with receivers(scene.diary, receiving), scene.site():
        handler = scene.handler(OURS)
        task = start(handler(http_scope(), server.receive, server.send))
        with anyio.fail_after(SECONDS):
            await scene.is_waiting.wait()
            server.disconnect()
            await server.told.wait()
            task.cancel()
            await asyncio.wait([task])
    assert task.cancelled()
    scene.check(has_response="stream" in kind)


@pytest.mark.parametrize("kind", ["async", "sync middleware"])
@pytest.mark.parametrize("receiving", ["", "sync", "async"])
async def test_exit_of_a_request_that_the_loop_gives_up_closes_what_it_can(kind: str, receiving: Any) -> None:
    """Where the coroutine is closed, nothing can be awaited: what is there is closed all the same, and told."""
    scene = Scene(kind, waits=True)
    server = Channel()
    with receivers(scene.diary, receiving), scene.site():
        handler = scene.handler(OURS)
        before = asyncio.all_tasks()
        coro = handler(http_scope(), server.receive, server.send)
        task = start(_stepped(Steps(0, lambda: None), coro))
        with anyio.fail_after(SECONDS):
            await scene.is_waiting.wait()
            coro.close()
            # As asyncio.run() does with whatever is left.
            left = asyncio.all_tasks() - before
            for other in left:
                other.cancel()
            await asyncio.wait(left)
            assert task.cancelled() or isinstance(task.exception(), RuntimeError)  # its coroutine is closed
            if receiving:
                await eventually(lambda: scene.diary.count("finished"), "request_finished")
            await eventually(lambda: scene.diary.count("request.close"), "the request is closed")
            await eventually(lambda: handler.workers.in_use == 0, "the thread is given back")
    assert scene.diary.count("started") == scene.diary.count("finished") == (1 if receiving else 0)
    assert scene.diary.count("request.close") == 1
    assert [body.closed for body in handler.bodies] == [True]


# --- nothing of Django's own needs a thread ----------------------------------------------------------------


async def test_exit_of_an_asynchronous_request_needs_no_thread() -> None:
    """Where only Django's own receivers are connected, no thread starts; all is closed as ever."""
    made = []

    async def view(request: Any) -> HttpResponse:
        made.append((request, response := HttpResponse(b"here")))
        return response

    with site(view):
        handler = OURS()
        before = set(threading.enumerate())  # those of other tests end when they like
        outcome = await ask(handler)
        assert handler.workers.alive == 0
    assert outcome.body == b"here"
    assert set(threading.enumerate()) <= before
    request, response = made[0]
    assert response.closed
    assert request._stream.closed


@pytest.mark.parametrize("what", ["closer", "response", "request", "files", "upload"])
async def test_exit_of_an_asynchronous_request_with_something_to_close_closes_it_in_a_thread(what: str) -> None:
    """Closing that is not known to be nothing runs where Django runs it."""
    diary = Diary()

    class Response(HttpResponse):
        def close(self) -> None:
            diary.note("closed")
            super().close()

    class Request(OURS.request_class):
        def close(self) -> None:
            diary.note("closed")
            super().close()

    class Handler(OURS):
        request_class = Request if what == "request" else OURS.request_class

    async def view(request: Any) -> HttpResponse:
        if what == "files":
            from django.core.files.uploadedfile import SimpleUploadedFile

            class Upload(SimpleUploadedFile):
                def close(self) -> Any:
                    diary.note("closed")
                    return super().close()

            request.FILES["one"] = Upload("one", b"content")
        elif what == "upload":
            stream = request._stream
            close = stream.close

            def closing() -> None:
                diary.note("closed")
                close()

            stream.close = closing
        response = Response() if what == "response" else HttpResponse()
        if what == "closer":
            response._resource_closers.append(lambda: diary.note("closed"))
        return response

    parts = body_messages(b"x" * 40, b"y" * 40) if what == "upload" else [EMPTY]
    with site(view, FILE_UPLOAD_MAX_MEMORY_SIZE=60):
        handler = Handler()
        outcome = await run(handler, Channel(parts), diary, method="POST")
    assert outcome.status == 200
    # The engine closes a body that went to disk once more, which does nothing.
    assert diary.entries[0] == ("closed", "thread 1")
    assert "loop" not in diary.places()
    assert handler.workers.in_use == 0


@pytest.mark.parametrize("exit_", ["ok", "error", "disconnect"])
async def test_exit_without_a_thread_resets_what_django_resets(exit_: Literal["ok", "error", "disconnect"]) -> None:
    """The urlconf that a middleware chose for one request is gone with it."""
    from django.urls import get_urlconf, set_urlconf

    entered = anyio.Event()

    async def view(request: Any) -> HttpResponse:
        set_urlconf("django_site")
        if exit_ == "error":
            raise RuntimeError("view")
        if exit_ == "disconnect":
            entered.set()
            await anyio.sleep_forever()
        return HttpResponse()

    server = Channel()
    with site(view):
        request = start(_urlconf_after(OURS(), server, get_urlconf))
        if exit_ == "disconnect":
            with anyio.fail_after(SECONDS):
                await entered.wait()
                server.disconnect()
        assert await request is None


async def _urlconf_after(handler: Any, server: Channel, get_urlconf: Any) -> Any:
    await run(handler, server)
    return get_urlconf()


async def test_exit_of_a_request_whose_closing_fails_sends_the_signal(caplog: pytest.LogCaptureFixture) -> None:
    """A request that is cancelled before it has a response, and cannot be closed: logged, and told of all the same."""

    class Request(OURS.request_class):
        def close(self) -> None:
            super().close()
            raise LookupError("closing failed")

    class Handler(OURS):
        request_class = Request

    begun = asyncio.Event()

    async def view(request: Any) -> HttpResponse:
        begun.set()
        await anyio.sleep_forever()
        raise AssertionError

    server, diary = Channel(), Diary()
    with receivers(diary), site(view):
        task = start(Handler()(http_scope(), server.receive, server.send))
        with anyio.fail_after(SECONDS):
            await begun.wait()
            server.disconnect()
            await task
    assert diary.events == ["started", "finished"]
    assert "closing failed" in caplog.text
