"""_from_thread.py: ``anyio.from_thread`` in the threads of synchronous endpoints, iterators and WSGI applications."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import partial
from itertools import count
from queue import SimpleQueue
from typing import Any

import anyio
import anyio.to_thread
import pytest
from anyio import from_thread
from anyio.lowlevel import checkpoint
from conftest import BACKENDS
from faults import frees_at_once, interrupted

from asgicore import ContentLengthError, Handler, Request, Response, StreamingResponse, Threads, _from_thread
from asgicore.testing import Client
from asgicore.wsgi_bridge import WSGIHandler

SECONDS = 10

variable: ContextVar[str] = ContextVar("variable", default="unset")


async def answer(app: Any) -> str:
    with anyio.fail_after(SECONDS):
        async with Client(app) as client:
            return (await client.get("/")).text


async def double(number: int) -> int:
    await checkpoint()
    return 2 * number


async def test_endpoint_awaits_on_the_loop_and_calls_there() -> None:
    """What Starlette's users write in a ``def`` endpoint; context variables are seen, errors come back."""
    loop_thread = threading.get_ident()

    async def fail() -> None:
        raise LookupError(variable.get())

    def endpoint(request: Request) -> Response:
        variable.set("set")
        assert threading.get_ident() != loop_thread
        assert from_thread.run_sync(threading.get_ident) == loop_thread
        with pytest.raises(LookupError, match="set"):
            from_thread.run(fail)
        from_thread.check_cancelled()
        return Response(str(from_thread.run(double, 21)))

    assert await answer(Handler(endpoint)) == "42"


async def test_iterator_and_wsgi_application_await_on_the_loop() -> None:
    def parts() -> Iterator[str]:
        yield str(from_thread.run(double, 1))
        yield str(from_thread.run(double, 2))

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(parts())

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response("200 OK", [])
        return [b"%d" % from_thread.run(double, 3)]

    assert await answer(Handler(endpoint)) == "24"
    assert await answer(WSGIHandler(app)) == "6"


async def test_thread_that_has_ended_a_job_knows_no_loop() -> None:
    """Nothing of a request is left behind in a thread, for what is started without a loop."""
    threads, is_over = Threads(1), threading.Event()
    seen: list[BaseException] = []

    def look() -> None:
        try:
            from_thread.run(double, 1)
        except BaseException as exc:
            seen.append(exc)
        is_over.set()

    await threads.run(from_thread.check_cancelled)
    outside = threading.Thread(target=threads.start, args=(look,))
    outside.start()
    with anyio.fail_after(SECONDS):
        await anyio.to_thread.run_sync(is_over.wait, SECONDS)
        await threads.aclose()
    outside.join(SECONDS)
    assert isinstance(seen[0], anyio.NoEventLoopError)


async def test_thread_of_anyio_that_runs_a_job_knows_afterwards_what_it_knew() -> None:
    """An executor may have threads of any kind."""
    handed: SimpleQueue[Callable[[], object]] = SimpleQueue()

    class Executor:
        def submit(self, function: Callable[..., Any], /, *args: Any) -> None:
            handed.put(partial(function, *args))

    def work() -> int:
        handed.get(timeout=SECONDS)()
        from_thread.check_cancelled()
        return from_thread.run(double, 4)

    job = Threads(executor=Executor()).start(from_thread.run, double, 5)
    with anyio.fail_after(SECONDS):
        assert await anyio.to_thread.run_sync(work) == 8
        assert await job.wait() == 10


@pytest.mark.parametrize("manner", ["polls", "waits", "waits later"])
async def test_thread_learns_that_its_client_has_left(manner: str) -> None:
    """The check raises within one poll, and what the thread awaits on the loop is cancelled; the slot is free then."""
    began, ended = anyio.Event(), threading.Event()
    raised: list[BaseException] = []
    loop_ended: list[str] = []

    async def sleep() -> None:
        try:
            await anyio.sleep(SECONDS)
        finally:
            loop_ended.append("cancelled")

    def endpoint(request: Request) -> Response:
        from_thread.run_sync(began.set)
        try:
            if manner == "waits":
                from_thread.run(sleep)
            while not (manner == "waits later" and request.is_disconnected):
                from_thread.check_cancelled()
                ended.wait(0.001)
            from_thread.run(sleep)
        except BaseException as exc:
            raised.append(exc)
            raise
        return Response()

    handler = Handler(endpoint)
    with anyio.fail_after(SECONDS):
        async with Client(handler) as client, client.exchange("GET", "/") as exchange:
            await began.wait()
            exchange.disconnect()
            await exchange.finish()
    assert isinstance(raised[0], anyio.get_cancelled_exc_class())
    assert loop_ended == ([] if manner == "polls" else ["cancelled"])
    assert handler.threads.in_use == 0


async def test_producer_learns_that_its_client_has_left() -> None:
    """An iterator that waits on the loop is cut short there, and closed."""
    closed: list[None] = []

    def parts() -> Iterator[bytes]:
        try:
            yield b"first"
            from_thread.run(anyio.sleep, SECONDS)
        finally:
            closed.append(None)

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(parts())

    with anyio.fail_after(SECONDS):
        async with Client(Handler(endpoint)) as client, client.exchange("GET", "/") as exchange:
            assert (await exchange.next_part()) == b"first"
            exchange.disconnect()
            await exchange.finish()
    assert closed == [None]


async def test_cleanup_of_a_producer_may_await() -> None:
    """Whether its stream was read to the end, is longer than declared, or never began; nothing is left to collect."""

    class Parts:
        def __init__(self, *parts: bytes) -> None:
            self.parts = parts
            self.closed: list[int] = []

        def __iter__(self) -> Iterator[bytes]:
            return iter(self.parts)

        def close(self) -> None:
            self.closed.append(from_thread.run(double, 1))

    def streaming(parts: Parts, length: str) -> Handler:
        async def endpoint(request: Request) -> Response:
            return StreamingResponse(parts, headers={"content-length": length})

        return Handler(endpoint)

    for method, length in (("GET", "8"), ("GET", "6"), ("HEAD", "8")):
        # More than goes ahead of the client: the thread is still at it when the rest is refused.
        parts = Parts(b"four", b"more", *[bytes(2**16)] * 100 * (length == "6"))
        with anyio.fail_after(SECONDS):
            async with Client(streaming(parts, length)) as client:
                try:
                    await client.request(method, "/")
                except ContentLengthError:
                    assert length == "6"
        assert parts.closed == [2]


@frees_at_once
async def test_errors_that_come_through_a_thread_leave_no_cycle(small_heap: None) -> None:
    """One that a job catches, and one of a call that was cancelled, know the frames that they came through."""

    async def fail() -> None:
        raise LookupError

    def catches() -> None:
        with contextlib.suppress(LookupError):
            from_thread.run(fail)

    def waits() -> None:
        from_thread.run(anyio.sleep_forever)

    def checks() -> None:
        while True:
            from_thread.check_cancelled()

    threads = Threads()
    with anyio.fail_after(SECONDS):
        for job in (catches, waits, checks) * 2:
            gc.collect()
            gc.disable()
            try:
                for _ in range(5):
                    with anyio.move_on_after(None if job is catches else 0.01):
                        await threads.run(job)
                assert gc.collect() < 10, job
            finally:
                gc.enable()
        await threads.aclose()


async def test_iterator_that_has_ended_is_told_as_such() -> None:
    """What ends a coroutine comes through all the same, as in threads of anyio's."""
    numbers = iter([1])

    def endpoint(request: Request) -> Response:
        assert from_thread.run_sync(next, numbers) == 1
        with pytest.raises(StopIteration):
            from_thread.run_sync(next, numbers)
        return Response("ended")

    assert await answer(Handler(endpoint)) == "ended"


@pytest.mark.parametrize("is_shielded", [False, True])
async def test_check_sees_the_scope_around_the_wait(is_shielded: bool) -> None:
    """A scope of the endpoint's own counts, and a shield holds it off, as in threads of anyio's."""
    threads, began, go = Threads(), anyio.Event(), threading.Event()

    def job() -> str:
        from_thread.run_sync(began.set)
        go.wait(SECONDS)
        from_thread.check_cancelled()
        return "not cancelled"

    result: list[str] = []

    async def wait() -> None:
        with anyio.CancelScope(shield=is_shielded):
            result.append(await threads.run(job))

    with anyio.fail_after(SECONDS):
        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await began.wait()
            group.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await anyio.wait_all_tasks_blocked()
                go.set()
        await threads.aclose()
    assert result == (["not cancelled"] if is_shielded else [])


async def test_notified_endpoint_is_not_cancelled() -> None:
    began = anyio.Event()
    seen: list[str] = []

    def endpoint(request: Request) -> Response:
        from_thread.run_sync(began.set)
        while not request.is_disconnected:
            pass
        from_thread.check_cancelled()
        seen.append(str(from_thread.run(double, 5)))
        return Response()

    with anyio.fail_after(SECONDS):
        handler = Handler(endpoint, on_disconnect="notify")
        async with Client(handler) as client, client.exchange("GET", "/") as exchange:
            await began.wait()
            exchange.disconnect()
            await exchange.finish()
    assert seen == ["10"]


@pytest.mark.parametrize("name", [backend.id for backend in BACKENDS])
def test_loop_that_has_ended_is_told_of(name: Any) -> None:
    """As by anyio itself: a job that outlives its loop is not left waiting for it."""
    options = {"asyncio": ("asyncio", {}), "uvloop": ("asyncio", {"use_uvloop": True}), "trio": ("trio", {})}[name]
    threads, is_over, seen, done = Threads(), threading.Event(), [], threading.Event()

    def job() -> None:
        is_over.wait(SECONDS)
        try:
            from_thread.run(double, 1)
        except BaseException as exc:
            seen.append(exc)
        done.set()

    async def main() -> None:
        threads.start(job)

    anyio.run(main, backend=options[0], backend_options=options[1])
    is_over.set()
    assert done.wait(SECONDS)
    assert isinstance(seen[0], anyio.RunFinishedError)


async def test_anyio_that_looks_elsewhere_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads work without the note, and ``from_thread`` says what it always says."""
    monkeypatch.setattr(_from_thread, "_local", None)

    def endpoint(request: Request) -> Response:
        with pytest.raises(anyio.NoEventLoopError):
            from_thread.run(double, 1)
        return Response("still here")

    assert await answer(Handler(endpoint)) == "still here"


def test_thread_that_asks_at_any_moment_is_told_once() -> None:
    """What it awaits in its cleanup afterwards is not cancelled, too."""
    for number in count(1):
        origin = _from_thread.Origin()
        origin._cancel, origin._is_once, origin._scopes = None, False, ()
        told: list[bool] = []
        with interrupted(_from_thread.Origin.cancelled, number, origin.check_cancelled) as came_in:
            origin.cancelled(partial(told.append, True), is_once=True)
        origin.check_cancelled()
        origin.check_cancelled()
        assert told == [True]
        if not came_in():
            break
    assert number > 5
