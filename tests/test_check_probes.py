"""The probes of the check: an application with one defect each, and one with none."""

from __future__ import annotations

import functools
import gc
import importlib.util
import tempfile
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from asgicore.testing._check import worker
from asgicore.testing._check.exchange import Call
from asgicore.testing._check.probes import PROBES
from asgicore.testing._check.probing import Session
from asgicore.testing._check.rules import CHECK_RULES
from asgicore.testing._check.watch import busy_threads
from asgicore.testing._check.worker import run_probe

App = Callable[[Any, Any, Any], Any]

# What an application leaves behind on purpose, to be cleared away after the test.
left = ExitStack()


@pytest.fixture(autouse=True)
def _cleared() -> Iterator[None]:
    yield
    left.close()


async def read_all(receive: Any) -> bytes | None:
    """The body, ``None`` if the client left."""
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += bytes(message.get("body", b""))
        if not message.get("more_body"):
            return body


async def answer(scope: Any, send: Any, body: bytes = b"hello", status: int = 200) -> None:
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [length]})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


def values(scope: Any, name: bytes) -> list[bytes]:
    return [value for key, value in scope["headers"] if key.lower() == name]


# --- applications without a defect ------------------------------------------------------------------------


def http_only(app: App) -> App:
    """Websockets are refused without a word."""

    @functools.wraps(app)
    async def both(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close"})
        else:
            await app(scope, receive, send)

    return both


@http_only
async def good(scope: Any, receive: Any, send: Any) -> None:
    if int((values(scope, b"content-length") or [b"0"])[0]) > 16 * 2**20:
        await answer(scope, send, b"too large", 413)
    elif await read_all(receive) is not None:
        await answer(scope, send)


@http_only
async def good_stream(scope: Any, receive: Any, send: Any) -> None:
    """Endless, until the client leaves; on whichever way it gets to know."""
    if int((values(scope, b"content-length") or [b"0"])[0]) > 16 * 2**20:
        await answer(scope, send, b"too large", 413)
        return
    if await read_all(receive) is None:
        return
    if scope["method"] == "HEAD":
        await answer(scope, send, b"")
        return

    async def leave() -> None:
        await receive()
        group.cancel_scope.cancel()

    async def parts() -> AsyncGenerator[bytes, None]:
        while True:
            yield b"x" * 1000

    async with anyio.create_task_group() as group:
        group.start_soon(leave)
        stream = parts()
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            async for part in stream:
                await send({"type": "http.response.body", "body": part, "more_body": True})
        except OSError:
            group.cancel_scope.cancel()
        finally:
            await stream.aclose()


@http_only
async def good_wait(scope: Any, receive: Any, send: Any) -> None:
    """Has nothing to say until the client leaves, but to bodies that are too large."""
    if int((values(scope, b"content-length") or [b"0"])[0]) > 16 * 2**20:
        await answer(scope, send, b"too large", 413)
        return
    while (await receive())["type"] != "http.disconnect":
        pass


@pytest.mark.parametrize("app", [good, good_stream, good_wait], ids=lambda app: app.__name__)
async def test_application_without_a_defect_passes_every_probe(app: App) -> None:
    """An answer, a stream and a wait: nothing but a note that the last one does not answer."""
    # Nothing but the one that waits uses up its time.
    seconds = (0.1, 0.003) if app is good_wait else (10.0, 0.02)
    session = Session(app, deadline=seconds[0], grace=10.0, glance=seconds[1], state={})
    for name in PROBES:
        with anyio.fail_after(30):
            p, goes_on = await run_probe(session, name, "/")
        assert [finding for finding in p.findings if finding.rule not in ("unanswered", "length-unknown")] == [], name
        assert not goes_on


async def works_after(scope: Any, receive: Any, send: Any) -> None:
    """Has work to do when its response is complete, which is nobody's business."""
    await read_all(receive)
    await answer(scope, send)
    await anyio.sleep(0.2)


@pytest.mark.parametrize("name", ["get", "leave-before", "leave-after", "send-fails"])
async def test_work_after_a_complete_response_is_no_finding(name: str) -> None:
    """Whether the client has left or not, and if send() has raised at the last message."""
    session = Session(works_after, deadline=1.0, grace=0.1, glance=0.02, state={})
    with anyio.fail_after(30):
        p, goes_on = await run_probe(session, name, "/")
    assert (p.findings, p.is_spoilt, goes_on) == ([], False, False)
    assert {known.kind for known in session.profiles.values()} <= {"complete"}


async def raises_after(scope: Any, receive: Any, send: Any) -> None:
    await works_after(scope, receive, send)
    raise KeyError("late")


async def test_work_after_a_complete_response_that_raises_is_found() -> None:
    """Nobody waits for it before the end of the probe."""
    with anyio.fail_after(30):
        p, _ = await run_probe(Session(raises_after, deadline=5.0, grace=0.1, glance=0.02), "get", "/")
    assert [(one.rule, one.message) for one in p.findings] == [
        ("request-raised", "what goes on after a response raises KeyError: 'late'")
    ]


# --- applications that are right in an unusual way -----------------------------------------------------------


async def requires_length(scope: Any, receive: Any, send: Any) -> None:
    """RFC 9110 section 15.5.12."""
    is_refused = scope["method"] == "POST" and not values(scope, b"content-length")
    await answer(scope, send, status=411 if is_refused else 200)


async def echoes_fields(scope: Any, receive: Any, send: Any) -> None:
    await answer(scope, send, repr(scope["headers"]).encode())


async def sends_part_of_unknown(scope: Any, receive: Any, send: Any) -> None:
    """RFC 9110 section 14.4."""
    if values(scope, b"range"):
        await file_answer(scope, send, b"h", 206, b"bytes 0-0/*")
    else:
        await file_answer(scope, send, b"hello")


async def needs_no_body(scope: Any, receive: Any, send: Any) -> None:
    """Answers after a few turns, with somebody beside who listens for the client to leave."""

    async def listen() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    async with anyio.create_task_group() as group:
        group.start_soon(listen)
        for _ in range(6):
            await checkpoint()
        with suppress(OSError):
            await answer(scope, send)
        group.cancel_scope.cancel()


def limits_rate() -> Any:
    asked: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        asked.append(scope)
        await answer(scope, send, status=200 if len(asked) == 1 else 429)

    return app


@pytest.mark.parametrize(
    ("probe", "make"),
    [
        ("post", lambda: requires_length),
        ("post", lambda: echoes_fields),
        ("cookies", lambda: echoes_fields),
        ("ranges", lambda: sends_part_of_unknown),
        ("truncated", lambda: needs_no_body),
        ("slow-uploads", lambda: one_by_one()),
        ("extra-messages", limits_rate),
    ],
    ids=["411", "echo", "echo-cookies", "range-of-unknown", "no-body", "one-by-one", "429"],
)
async def test_application_that_is_right_in_an_unusual_way_passes(probe: str, make: Callable[[], App]) -> None:
    """What differs, or is slow, for another reason than the one that is looked for."""
    session = Session(make(), deadline=0.2, grace=0.1, glance=0.02)
    with anyio.fail_after(30):
        p, _ = await run_probe(session, probe, "/")
    assert p.findings == []


# --- applications with one --------------------------------------------------------------------------------


async def raises(scope: Any, receive: Any, send: Any) -> None:
    raise KeyError("no")


async def raises_text_that_raises(scope: Any, receive: Any, send: Any) -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            raise ValueError

    raise Odd


async def fails(scope: Any, receive: Any, send: Any) -> None:
    await answer(scope, send, status=500)


async def waits(scope: Any, receive: Any, send: Any) -> None:
    await read_all(receive)
    await anyio.sleep_forever()


async def returns(scope: Any, receive: Any, send: Any) -> None:
    return


async def speaks_otherwise(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.flush"})
    await answer(scope, send)


async def counts_messages(scope: Any, receive: Any, send: Any) -> None:
    count = 0
    more = True
    while more:
        message = await receive()
        count += 1
        more = message.get("more_body", False)
    await answer(scope, send, b"%d" % count)


async def first_cookie(scope: Any, receive: Any, send: Any) -> None:
    await answer(scope, send, (values(scope, b"cookie") or [b"-"])[0])


async def refuses_cookies(scope: Any, receive: Any, send: Any) -> None:
    await answer(scope, send, status=400 if len(values(scope, b"cookie")) > 1 else 200)


async def raises_at_cookies(scope: Any, receive: Any, send: Any) -> None:
    assert len(values(scope, b"cookie")) < 2
    await answer(scope, send)


async def underscores(scope: Any, receive: Any, send: Any) -> None:
    named = {key.replace(b"_", b"-"): value for key, value in scope["headers"]}
    await answer(scope, send, named.get(b"x-forwarded-for", b"-"))


async def quadratic(scope: Any, receive: Any, send: Any) -> None:
    found = values(scope, b"x-probe")
    sizes = [len(b"".join(found[:number] * 2)) for number in range(len(found))]
    await answer(scope, send, b"%d" % len(sizes))


async def needs_server(scope: Any, receive: Any, send: Any) -> None:
    await answer(scope, send, str(scope["server"][1]).encode())


async def waits_without_server(scope: Any, receive: Any, send: Any) -> None:
    if not scope.get("server"):
        await anyio.sleep_forever()
    await answer(scope, send)


async def fails_without_server(scope: Any, receive: Any, send: Any) -> None:
    await answer(scope, send, status=200 if scope.get("server") else 500)


async def adds_root(scope: Any, receive: Any, send: Any) -> None:
    await answer(scope, send, ("" + scope.get("root_path", "")).encode())


async def port_as_text(scope: Any, receive: Any, send: Any) -> None:
    await answer(scope, send, str((scope.get("server") or ("", 0))[1]).encode())


async def cuts_root(scope: Any, receive: Any, send: Any) -> None:
    await answer(scope, send, scope["path"].removeprefix(scope.get("root_path") or "").encode())


async def knows_its_root(scope: Any, receive: Any, send: Any) -> None:
    is_under = scope["path"].startswith((scope.get("root_path") or "") + "/")
    await answer(scope, send, status=200 if is_under else 404)


async def needs_text(scope: Any, receive: Any, send: Any) -> None:
    try:
        scope["query_string"].decode()
    except UnicodeDecodeError:
        await answer(scope, send, status=400)
    else:
        await answer(scope, send)


async def asserts_disconnect(scope: Any, receive: Any, send: Any) -> None:
    await read_all(receive)
    await answer(scope, send)
    assert (await receive())["type"] == "http.disconnect"


async def refuses_extra(scope: Any, receive: Any, send: Any) -> None:
    await read_all(receive)
    with anyio.move_on_after(0.05) as bound:
        await receive()
    await answer(scope, send, status=200 if bound.cancelled_caught else 400)


async def takes_what_came(scope: Any, receive: Any, send: Any) -> None:
    await read_all(receive)
    await answer(scope, send)


async def answers_500_to_nobody(scope: Any, receive: Any, send: Any) -> None:
    body = await read_all(receive)
    await answer(scope, send, status=200 if body is not None else 500)


async def raises_at_disconnect(scope: Any, receive: Any, send: Any) -> None:
    if await read_all(receive) is None:
        raise ValueError("incomplete")
    await answer(scope, send)


async def waits_for_the_end(scope: Any, receive: Any, send: Any) -> None:
    await read_all(receive)
    await answer(scope, send)
    await receive()


async def goes_on_after_the_end(scope: Any, receive: Any, send: Any) -> None:
    await waits_for_the_end(scope, receive, send)
    await anyio.sleep(0.3)


async def goes_on(scope: Any, receive: Any, send: Any) -> None:
    """A stream that nothing ends but a cancellation."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while True:
        try:
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
        except OSError:
            await anyio.sleep_forever()


async def trusts_send(scope: Any, receive: Any, send: Any) -> None:
    """Looks at receive() where the scope does not say that send() raises, and there only."""
    if scope["asgi"]["spec_version"] < "2.4":
        await good_stream(scope, receive, send)
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    with suppress(OSError):
        while True:
            await send({"type": "http.response.body", "body": b"x", "more_body": True})


def with_slots() -> Any:
    slots = anyio.Semaphore(8)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with slots:
            await goes_on(scope, receive, send)

    return app


async def ignores_cancel(scope: Any, receive: Any, send: Any) -> None:
    try:
        await anyio.sleep_forever()
    except anyio.get_cancelled_exc_class():
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.12)
        raise


async def relabels_cancel(scope: Any, receive: Any, send: Any) -> None:
    try:
        await anyio.sleep_forever()
    except anyio.get_cancelled_exc_class():
        raise ValueError("no time") from None


async def swallows_cancel(scope: Any, receive: Any, send: Any) -> None:
    try:
        await anyio.sleep_forever()
    except anyio.get_cancelled_exc_class():
        return


async def answers_cancel(scope: Any, receive: Any, send: Any) -> None:
    with suppress(anyio.get_cancelled_exc_class()):
        await anyio.sleep_forever()
    with anyio.CancelScope(shield=True):
        await answer(scope, send)


async def leaves_task(scope: Any, receive: Any, send: Any) -> None:
    call = Call(anyio.sleep(5))
    left.callback(call.cancel)
    await answer(scope, send)


async def leaves_thread(scope: Any, receive: Any, send: Any) -> None:
    event = threading.Event()
    left.callback(event.set)

    def work() -> None:
        def inner() -> None:
            event.wait(5)

        inner()

    threading.Thread(target=work, daemon=True).start()
    await answer(scope, send)


async def leaves_generator(scope: Any, receive: Any, send: Any) -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield b"hello"
        yield b"never"

    async for part in parts():
        await answer(scope, send, part)
        break


async def leaves_file(scope: Any, receive: Any, send: Any) -> None:
    open(__file__, "rb")  # noqa: ASYNC230
    await answer(scope, send)


async def leaks_files(scope: Any, receive: Any, send: Any) -> None:
    left.enter_context(open(__file__, "rb"))  # noqa: ASYNC230
    await answer(scope, send)


async def leaks_cycles(scope: Any, receive: Any, send: Any) -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    await answer(scope, send)


async def starts_threads(scope: Any, receive: Any, send: Any) -> None:
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()
    await answer(scope, send)


async def holds_all(scope: Any, receive: Any, send: Any) -> None:
    parts = [b"%d" % number * 65536 for number in range(250)]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for part in parts:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body"})


async def opens_on_loop(scope: Any, receive: Any, send: Any) -> None:
    await read_all(receive)
    with tempfile.NamedTemporaryFile():
        await answer(scope, send)


async def blocks(scope: Any, receive: Any, send: Any) -> None:
    time.sleep(0.25)  # noqa: ASYNC251
    await answer(scope, send)


async def reads_all(scope: Any, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    await answer(scope, send)


def thread_each() -> Any:
    events: list[threading.Event] = []
    are_many: list[anyio.Event] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        event, many = threading.Event(), anyio.Event()
        thread = threading.Thread(target=event.wait)
        thread.start()
        events.append(event)
        are_many.append(many)
        # Of many, each waits until the others have a thread, too.
        if len(events) > 90:
            for one in are_many:
                one.set()
        with anyio.move_on_after(5 if len(events) > 8 else 0.05):
            await many.wait()
            await anyio.sleep(0.05)
        event.set()
        thread.join()
        events.remove(event)
        are_many.remove(many)
        await answer(scope, send)

    return app


async def never_answers_post(scope: Any, receive: Any, send: Any) -> None:
    if scope["method"] == "POST":
        await waits(scope, receive, send)
    await answer(scope, send)


async def skips_what_is_there(scope: Any, receive: Any, send: Any) -> None:
    """Looks whether the client is still there, by a receive() that it cancels, and forgets what came."""
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
        with anyio.CancelScope() as look:
            look.cancel()
            message = await receive()
            more = message.get("more_body", False)
    await answer(scope, send, b"%d" % size)


async def raises_at_late_disconnect(scope: Any, receive: Any, send: Any) -> None:
    await read_all(receive)
    await answer(scope, send)
    message = None
    with anyio.move_on_after(0.01) as bound:
        message = await receive()
    if bound.cancel_called and message is not None:
        raise ValueError("left too late")


def with_places() -> Any:
    places = anyio.Semaphore(8)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with places:
            await read_all(receive)
            await answer(scope, send)

    return app


async def file_answer(scope: Any, send: Any, body: bytes, status: int = 200, of: bytes = b"bytes 0-0/5") -> None:
    fields = [
        (b"content-length", b"%d" % len(body)),
        (b"last-modified", b"Mon, 01 Jan 2024 00:00:00 GMT"),
        (b"content-range", of),
    ]
    await send({"type": "http.response.start", "status": status, "headers": fields[: 2 if status == 200 else 3]})
    await send({"type": "http.response.body", "body": body})


async def ignores_range(scope: Any, receive: Any, send: Any) -> None:
    await file_answer(scope, send, b"hello")


async def begins_at_one(scope: Any, receive: Any, send: Any) -> None:
    is_part = bool(values(scope, b"range"))
    await file_answer(scope, send, b"e" if is_part else b"hello", 206 if is_part else 200)


def one_by_one() -> Any:
    locks: list[anyio.Lock] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if not locks:
            locks.append(anyio.Lock())
        async with locks[0]:
            await anyio.sleep(0.1)  # on a busy machine one alone may take a third longer
        await answer(scope, send)

    return app


DEFECTS: list[tuple[str, str, Any]] = [
    ("request-raised", "get", raises),
    ("request-raised", "get", raises_text_that_raises),
    ("answered-500", "get", fails),
    ("unanswered", "get", waits),
    ("parts-differ", "post", counts_messages),
    ("cookies-split", "cookies", first_cookie),
    ("cookies-split", "cookies", refuses_cookies),
    ("cookies-split", "cookies", raises_at_cookies),
    ("header-alias", "header-alias", underscores),
    ("header-cost", "header-cost", quadratic),
    ("odd-scope", "odd-scopes", needs_server),
    ("odd-scope", "odd-scopes", waits_without_server),
    ("odd-scope", "odd-scopes", fails_without_server),
    ("bad-scope", "odd-scopes", adds_root),
    ("none-as-text", "odd-scopes", port_as_text),
    ("query-refused", "odd-scopes", needs_text),
    ("root-cut", "root-path", cuts_root),
    ("root-beside", "root-path", knows_its_root),
    ("extra-message", "extra-messages", asserts_disconnect),
    ("extra-message", "extra-messages", refuses_extra),
    ("unanswered", "post", never_answers_post),
    ("parts-differ", "post", skips_what_is_there),
    ("range-ignored", "ranges", ignores_range),
    ("range-wrong", "ranges", begins_at_one),
    ("websocket-raised", "websocket", raises),
    ("late-disconnect", "leave-after", raises_at_late_disconnect),
    ("uploads-hold", "slow-uploads", with_places),
    ("truncated-answered", "truncated", takes_what_came),
    ("disconnect-as-error", "truncated", answers_500_to_nobody),
    ("disconnect-raised", "leave-before", raises_at_disconnect),
    ("works-on", "leave-before", waits),
    ("works-on", "truncated", waits),
    ("works-on", "leave-waiting", waits),
    ("works-on", "leave-streaming", goes_on),
    ("works-on", "send-fails", goes_on),
    ("trusts-send", "leave-streaming", trusts_send),
    ("waits-for-disconnect", "leave-after", waits_for_the_end),
    ("pool-stuck", "aborts", with_slots),
    ("ignores-cancel", "leave-waiting", ignores_cancel),
    ("ignores-cancel", "cancel", ignores_cancel),
    ("cancel-relabelled", "cancel", relabels_cancel),
    ("cancel-relabelled", "cancel", swallows_cancel),
    ("cancel-relabelled", "cancel", answers_cancel),
    ("task-left", "get", leaves_task),
    ("thread-left", "get", leaves_thread),
    ("generator-left", "get", leaves_generator),
    ("file-left", "get", leaves_file),
    ("leak-tasks", "leaks", leaves_task),
    ("leak-threads", "leaks", leaves_thread),
    ("leak-files", "leaks", leaks_files),
    ("leak-cycles", "leaks", leaks_cycles),
    ("threads-started", "leaks", starts_threads),
    ("memory", "slow-reader", holds_all),
    ("disk-on-loop", "large-upload", opens_on_loop),
    ("loop-held", "holds-loop", blocks),
    ("body-unlimited", "body-limit", reads_all),
    ("threads-unlimited", "concurrency", thread_each),
    ("serial", "concurrency", one_by_one),
    ("no-response", "get", returns),
    ("message-unknown", "get", speaks_otherwise),
]


WAITING = {"works-on", "trusts-send", "ignores-cancel", "cancel-relabelled", "pool-stuck", "unanswered"}

# A probe waits for things that do not happen, and uvloop keeps asyncio's rules.
LOOPS = [pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio")]
if importlib.util.find_spec("trio"):
    LOOPS.append(pytest.param(("trio", {}), id="trio"))


@pytest.mark.parametrize("anyio_backend", LOOPS, indirect=True)
@pytest.mark.parametrize(
    ("rule", "probe", "app"), [pytest.param(*row, id=f"{row[0]}-{row[1]}-{row[2].__name__}") for row in DEFECTS]
)
async def test_defect_is_found_by_its_probe(rule: str, probe: str, app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One application, one probe, one rule, within a bound."""
    if app is leaves_thread:
        monkeypatch.setattr(worker, "_BEGINNING_SECONDS", 10)  # a busy machine may let it wait that long
    if app in (with_slots, with_places, thread_each, one_by_one):
        app = app()  # what it shares between requests belongs to one event loop
    # What is found when time is over need not wait long; what has to end within it may take long on a busy machine.
    waits_for_nothing = rule in WAITING or app in (waits_without_server, never_answers_post)
    deadline = 0.06 if waits_for_nothing else 0.6 if app is blocks else 1.0
    grace, glance = (0.03, 0.01) if waits_for_nothing else (0.05, 0.1)
    session = Session(app, deadline=deadline, grace=grace, glance=glance)
    with anyio.fail_after(30):
        p, _ = await run_probe(session, probe, "/")
    assert rule in [finding.rule for finding in p.findings]


@pytest.mark.parametrize("leaves", ["thread", "task-and-thread"])
async def test_thread_that_has_only_just_begun_is_not_taken_for_idle(
    leaves: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has called nothing yet when the response is complete, as on a machine that is busy."""
    monkeypatch.setattr(worker, "_BEGINNING_SECONDS", 0.5)
    begins, seen = threading.Event(), threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        def inner() -> None:
            seen.wait(30)

        def work() -> None:
            begins.wait(30)
            inner()

        threading.Thread(target=work, daemon=True).start()
        await (leaves_task(scope, receive, send) if leaves == "task-and-thread" else answer(scope, send))

    def busy() -> dict[int, str]:
        found = busy_threads()
        if looks.pop():
            begins.set()  # after it was looked at once, for nothing
        return found

    # Before the probe, when its request has ended, and then every few milliseconds.
    looks = [False] * 1000 + [True, False]
    monkeypatch.setattr(worker, "busy_threads", busy)
    try:
        with anyio.fail_after(30):
            p, _ = await run_probe(Session(app, deadline=1.0, grace=0.0, glance=0.01), "get", "/")
        assert [finding.rule for finding in p.findings] == [f"{what}-left" for what in leaves.split("-and-")]
    finally:
        begins.set()
        seen.set()


async def test_thread_with_the_number_of_one_that_has_ended_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers are given again: one that was busy before the probe may have ended in it."""

    class Everyone(dict[int, str]):
        def __contains__(self, number: object) -> bool:
            return True

    seen: list[dict[int, str]] = []

    def busy() -> dict[int, str]:
        seen.append(busy_threads() if seen else Everyone())
        return seen[-1]

    monkeypatch.setattr(worker, "busy_threads", busy)
    monkeypatch.setattr(worker, "_BEGINNING_SECONDS", 10)
    with anyio.fail_after(30):
        p, _ = await run_probe(Session(leaves_thread, deadline=1.0, grace=0.0, glance=0.01), "get", "/")
    assert [finding.rule for finding in p.findings] == ["thread-left"]


async def test_work_after_the_response_and_the_disconnect_is_no_wait_for_that() -> None:
    """The call goes on whether the client has left or not."""
    session = Session(goes_on_after_the_end, deadline=1.0, grace=0.05, glance=0.01)
    with anyio.fail_after(30):
        p, _ = await run_probe(session, "leave-after", "/")
    assert p.findings == []


async def test_leaks_leave_the_collector_as_it_was() -> None:
    """Off, if it was off."""
    gc.disable()
    try:
        p, _ = await run_probe(Session(good, deadline=0.01, grace=0.5), "leaks", "/")
        assert not gc.isenabled()
    finally:
        gc.enable()
    assert p.findings == []


def test_every_rule_of_the_check_has_a_defect() -> None:
    """The table of rules holds none that nothing shows; the last two are of processes."""
    assert CHECK_RULES.keys() - {rule for rule, _, _ in DEFECTS} == {"stuck", "crashed"}


SKIPPING = (
    "header-cost odd-scopes root-path extra-messages leave-streaming leave-after send-fails cancel aborts slow-reader "
    "concurrency leaks"
).split()


@pytest.mark.parametrize("anyio_backend", LOOPS, indirect=True)
@pytest.mark.parametrize("app", [raises, returns, good_wait, good_stream, good], ids=lambda app: app.__name__)
async def test_probe_that_has_nothing_to_try_says_why(app: App) -> None:
    """What a plain GET gives decides what can be tried."""
    session = Session(app, deadline=0.05 if app is good_wait else 10.0, grace=0.5, glance=0.003)
    skipped = {}
    for name in SKIPPING:
        p, _ = await run_probe(session, name, "/")
        if p.skipped:
            skipped[name] = p.skipped
    wanted = {
        "raises": (len(SKIPPING), "a GET fails"),
        "returns": (len(SKIPPING), "a GET fails"),
        "good_wait": (8, "a GET is not answered"),
        "good_stream": (5, "a GET is answered with a stream"),
        "good": (2, "a GET is answered at once"),
    }
    count, why = wanted[app.__name__]
    assert len(skipped) == count
    assert why in skipped.values()
