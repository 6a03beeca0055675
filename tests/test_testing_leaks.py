"""asgicore.testing: the guard against leaks finds what is left behind, says where it is from, and nothing else."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import os
import socket
import tempfile
import threading
import tracemalloc
from collections.abc import AsyncIterator, Coroutine, Generator, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.to_thread
import pytest
from anyio.lowlevel import checkpoint
from faults import on_asyncio, on_trio

from asgicore import Handler, Request, Response
from asgicore.testing import Client, Leak, LeakError, LeakGuard, _living

QUICK: dict[str, Any] = {"settle_seconds": 0.05}


def leaks_of(error: pytest.ExceptionInfo[LeakError]) -> list[str]:
    return [leak.kind for leak in error.value.leaks]


# --- tasks -----------------------------------------------------------------------------------------------


async def lingers(stop: anyio.Event) -> None:
    await stop.wait()


async def test_guard_finds_a_task_that_goes_on() -> None:
    """It tells the task's name, its function and where that waits."""
    stop = anyio.Event()
    if on_trio():
        import trio

        with pytest.raises(LeakError) as raised:
            async with LeakGuard(**QUICK):
                trio.lowlevel.spawn_system_task(lingers, stop, name="leaked")
    else:
        with pytest.raises(LeakError) as raised:
            async with LeakGuard(**QUICK):
                task = asyncio.create_task(lingers(stop), name="leaked")
    assert leaks_of(raised) == ["task"]
    text = str(raised.value)
    assert text.startswith("left behind:\n- task 'leaked', of lingers() at test_testing_leaks.py:")
    assert "waiting at test_testing_leaks.py:" in text
    stop.set()
    for _ in range(3):
        await checkpoint()
    assert on_trio() or task.done()


class Lingers(Coroutine[Any, Any, None]):
    """A coroutine that is an object of a class, as those of compiled code and of wrappers are: it has no name."""

    def __init__(self) -> None:
        self._inner = anyio.sleep_forever()

    def __await__(self) -> Generator[Any, Any, None]:
        return self._inner.__await__()

    def send(self, value: Any) -> Any:
        return self._inner.send(value)

    def throw(self, *error: Any) -> Any:
        return self._inner.throw(*error)

    def close(self) -> None:
        self._inner.close()


@on_asyncio
async def test_guard_finds_a_task_of_a_coroutine_without_a_name() -> None:
    """There is less to say of it."""
    with pytest.raises(LeakError, match=r"- task 'leaked'$") as raised:
        async with LeakGuard(**QUICK):
            task = asyncio.create_task(Lingers(), name="leaked")
    assert leaks_of(raised) == ["task"]
    task.cancel()
    await asyncio.wait([task])


async def test_guard_waits_for_a_task_that_ends() -> None:
    """What ends soon after the block is no leak; what was there before it is none either."""
    stop = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(lingers, stop)
        async with LeakGuard():
            async with Client(Handler(hello)).exchange("GET", "/") as exchange:
                await exchange.start()
            if not on_trio():
                ends = asyncio.create_task(anyio.sleep(0.01))
        stop.set()
    assert on_trio() or ends.done()


async def hello(request: Request) -> Response:
    return Response(b"hello")


@on_asyncio
async def test_guard_finds_a_task_that_has_not_begun() -> None:
    """There is no line that it waits at; a task of a generator has one that it begins at."""

    async def never() -> None:
        raise AssertionError

    with pytest.raises(LeakError) as raised:
        with LeakGuard(settle_seconds=0):
            task = asyncio.create_task(never(), name="unborn")
    assert "task 'unborn', of test_guard_finds_a_task_that_has_not_begun.<locals>.never()" in str(raised.value)
    task.cancel()


def test_guard_outside_of_a_loop_finds_tasks_of_loops_that_were_closed() -> None:
    """Nothing runs them any more."""
    made: list[Any] = []

    async def main() -> None:
        made.append(asyncio.ensure_future(asyncio.sleep(60)))
        await asyncio.sleep(0)

    loop = asyncio.new_event_loop()
    try:
        with pytest.raises(LeakError) as raised:
            with LeakGuard(descriptors=False, **QUICK):
                loop.run_until_complete(main())
        assert leaks_of(raised) == ["task"]
        assert "of sleep() at tasks.py" in str(raised.value)
        made[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(made[0])
    finally:
        loop.close()


def test_guard_outside_of_a_loop_is_content_with_whole_runs() -> None:
    """On either backend, with trio imported."""

    async def main() -> None:
        assert (await Client(Handler(hello)).get("/")).body == b"hello"

    for backend in ("asyncio", "trio"):
        pytest.importorskip(backend)
        with LeakGuard():
            anyio.run(main, backend=backend)


def test_task_of_a_generator_is_described() -> None:
    """As trio's and asyncio's tasks are."""

    def generator() -> Iterator[None]:
        yield

    made = generator()
    next(made)
    leak = _living.leak_of_task(SimpleNamespace(name="old", coro=made))
    assert leak.where.startswith(
        "of test_task_of_a_generator_is_described.<locals>.generator() at test_testing_leaks.py:"
    )
    assert "waiting at" in leak.where
    assert str(_living.leak_of_task(SimpleNamespace(name="odd", coro=object()))) == "task 'odd'"


async def test_wait_for_an_asynchronous_generator_is_described() -> None:
    """The line is that of the loop over it: a generator does not tell where it stands."""
    stop = anyio.Event()

    async def parts() -> AsyncIterator[None]:
        await stop.wait()
        yield

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async for _ in parts():
            pass

    async with Client(app, timeout_seconds=0.01).exchange("GET", "/") as exchange:
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(TimeoutError, match=r"in .*app\(\)$"):
            await exchange.next_message()


# --- threads ---------------------------------------------------------------------------------------------


def test_guard_finds_a_thread_that_goes_on() -> None:
    """It tells the thread's name and where it is; one that ends soon is none."""
    stop = threading.Event()

    def works() -> None:
        stop.wait()

    with LeakGuard():
        threading.Timer(0.01, lambda: None).start()
    with pytest.raises(
        LeakError, match=r"thread 'leaked', running at test_testing_leaks.py:\d+ in .*works\(\)"
    ) as raised:
        with LeakGuard(**QUICK):
            threading.Thread(target=works, name="leaked").start()
    assert leaks_of(raised) == ["thread"]
    with LeakGuard(**QUICK):
        assert not stop.is_set()  # that one was there before
    stop.set()


def test_guard_takes_an_idle_thread_of_a_pool_for_none() -> None:
    """One that works counts, also if the thread was there before."""
    stop, works = threading.Event(), threading.Event()

    def work() -> None:
        works.set()
        stop.wait()

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with LeakGuard():
            pool.submit(int).result()
        with pytest.raises(LeakError, match=r"thread 'ThreadPoolExecutor-.*running at .*work\(\)"):
            with LeakGuard(**QUICK):
                pool.submit(work)
                works.wait()
        stop.set()


def test_guard_finds_a_thread_of_a_pool_whose_job_is_not_written_in_python() -> None:
    """No frame of such a function is on the stack."""
    lock = threading.Lock()
    lock.acquire()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with pytest.raises(LeakError, match="thread 'ThreadPoolExecutor-"):
            with LeakGuard(**QUICK):
                pool.submit(lock.acquire)
        lock.release()


@on_asyncio
async def test_guard_finds_a_thread_of_the_backend_whose_job_is_not_written_in_python() -> None:
    """Of anyio's threads."""
    lock = threading.Lock()
    lock.acquire()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            try:
                with pytest.raises(LeakError, match="thread 'AnyIO worker thread"):
                    async with LeakGuard(tasks=False, **QUICK):
                        group.start_soon(partial(anyio.to_thread.run_sync, lock.acquire))
                        await anyio.wait_all_tasks_blocked()
            finally:
                lock.release()


@on_asyncio
async def test_guard_takes_an_idle_thread_of_the_event_loop_for_none() -> None:
    """The executor of asyncio's own loop and that of uvloop name their threads differently."""
    async with LeakGuard(**QUICK):
        await asyncio.get_running_loop().run_in_executor(None, int)
        assert [thread for thread in threading.enumerate() if thread.name in ("asyncio_0", "uvloop_0")]


async def test_guard_takes_idle_threads_of_the_backend_for_none() -> None:
    """Those of anyio, of trio, and ours."""

    async def endpoint(request: Request) -> Response:
        return Response(await anyio.to_thread.run_sync(lambda: b"there"))

    def synchronous(request: Request) -> Response:
        return Response(b"here")

    async with LeakGuard():
        assert (await Client(Handler(endpoint)).get("/")).body == b"there"
        assert (await Client(Handler(synchronous)).get("/")).body == b"here"


def test_thread_without_a_frame_is_described_by_its_name() -> None:
    """It may have ended in between."""
    assert str(_living.leak_of_thread(threading.Thread(name="over"))) == "thread 'over'"


# --- file descriptors and temporary files ----------------------------------------------------------------

lists_descriptors = pytest.mark.skipif(not _living.descriptors(), reason="no list of descriptors here")


@lists_descriptors
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_guard_finds_an_open_file(tmp_path: Path) -> None:
    """It tells the file, what holds it, and with tracemalloc where that was made."""
    path = tmp_path / "file"
    before = path.open("w")
    closed = path.open("rb", buffering=0)  # among those that are asked whether it is theirs
    closed.close()
    with pytest.raises(LeakError, match=rf"file descriptor \d+ \({path}\), held by a FileIO") as raised:
        with LeakGuard(**QUICK):
            file = path.open("rb", buffering=0)
    assert leaks_of(raised) == ["file descriptor"]
    file.close()
    tracemalloc.start()
    try:
        with pytest.raises(LeakError, match=r"held by a FileIO, made at test_testing_leaks\.py:\d+"):
            with LeakGuard(**QUICK):
                file = open(path, "rb", buffering=0)
    finally:
        tracemalloc.stop()
    file.close()
    before.close()


@lists_descriptors
def test_guard_finds_an_open_socket() -> None:
    """Closed ones are none, and neither is a descriptor that nobody holds an object of."""
    closed = socket.socket()
    closed.close()
    with pytest.raises(LeakError, match=r"file descriptor \d+ \(socket:.*held by a socket"):
        with LeakGuard(**QUICK):
            made = socket.socket()
    made.close()
    with pytest.raises(LeakError, match=r"file descriptor \d+ \(/dev/null\)$"):
        with LeakGuard(**QUICK):
            number = os.open(os.devnull, os.O_RDONLY)
    os.close(number)
    assert str(_living.leak_of_descriptor((10**6, 0, 0))) == "file descriptor 1000000"


def test_descriptors_where_the_system_lists_none_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows."""
    monkeypatch.setattr(_living, "_DESCRIPTORS", "/nowhere")
    assert _living.descriptors() == set()


def test_guard_finds_a_temporary_file() -> None:
    """One that is removed is none; the next guard begins anew, and tempfile is as it was."""
    before = tempfile.gettempdir()
    with LeakGuard(), tempfile.NamedTemporaryFile(prefix="closed-"):
        assert tempfile.gettempdir() != before
    with pytest.raises(LeakError, match="temporary file left-") as raised:
        with LeakGuard(**QUICK):
            number, path = tempfile.mkstemp(prefix="left-")
            os.close(number)
    assert leaks_of(raised) == ["temporary file"]
    assert not os.path.exists(path)
    assert tempfile.gettempdir() == before
    with LeakGuard(temp_files=False):
        assert tempfile.gettempdir() == before


# --- cycles ----------------------------------------------------------------------------------------------


class Knot:
    """Refers to itself."""

    def __init__(self) -> None:
        self.itself = self


def test_guard_finds_cycles_where_it_is_asked_to() -> None:
    """By packages, or all; only those of the block."""
    assert gc.isenabled()
    Knot()
    with LeakGuard():
        Knot()
    with LeakGuard(cycles=["asgicore", "test_testing"]):
        Knot()
    gc.collect()
    with pytest.raises(LeakError, match=r"cycle with 2 x test_testing_leaks\.Knot") as raised:
        with LeakGuard(cycles=["test_testing_leaks"]):
            assert not gc.isenabled()
            Knot()
            Knot()
    assert leaks_of(raised) == ["cycle"]
    with pytest.raises(LeakError) as everything:
        with LeakGuard(cycles=True):
            Knot()
    assert {leak.what for leak in everything.value.leaks} >= {"with 1 x test_testing_leaks.Knot"}
    assert gc.isenabled()
    assert gc.garbage == []


def test_guard_tells_the_code_of_a_cycle() -> None:
    """Functions, frames and tracebacks belong to their module."""

    def ties() -> None:
        def function() -> Any:
            return function

        try:
            raise ValueError
        except ValueError as exc:
            held = exc  # noqa: F841

    with pytest.raises(LeakError) as raised:
        with LeakGuard(cycles=["test_testing_leaks"]):
            ties()
    found = {leak.what.split(" x ")[1]: leak.where for leak in raised.value.leaks}
    assert {"function", "traceback", "frame"} <= found.keys()
    for where in found.values():
        assert "ties" in where
        assert "test_testing_leaks.py" in where


def test_guard_with_the_collector_off_leaves_it_off() -> None:
    """It is as it was."""
    gc.disable()
    try:
        with LeakGuard(cycles=True):
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


async def test_guard_finds_no_cycles_of_ours() -> None:
    """A request that succeeds leaves nothing of asgicore to the collector."""
    client = Client(Handler(hello))
    await client.get("/")  # caches fill with the first
    async with LeakGuard(cycles=["asgicore"]):
        await client.get("/")


def test_cycles_of_a_single_text_raise() -> None:
    """A text is no list of names."""
    with pytest.raises(TypeError, match="a list, not 'asgicore'"):
        LeakGuard(cycles="asgicore")


# --- the guard itself ------------------------------------------------------------------------------------


def test_leak_is_told_in_words() -> None:
    """With where, or without."""
    assert str(Leak("thread", "'x'", "")) == "thread 'x'"
    assert str(LeakError((Leak("a", "b", "c"), Leak("d", "e", "")))) == "left behind:\n- a b, c\n- d e"


async def test_guard_does_not_look_at_a_block_that_raises() -> None:
    """The error of the block is what counts."""
    with pytest.raises(KeyError):
        with LeakGuard(**QUICK):
            tempfile.mkstemp()
            raise KeyError
    with pytest.raises(KeyError):
        async with LeakGuard(**QUICK):
            tempfile.mkstemp()
            raise KeyError
    for number in _living.descriptors():
        if number[0] > 2 and "leak-guard" in os.readlink(f"/dev/fd/{number[0]}"):
            os.close(number[0])


def test_guard_at_work_cannot_begin_again() -> None:
    """Another one can: guards are nested."""
    guard = LeakGuard()
    with guard, LeakGuard():
        with pytest.raises(RuntimeError, match="at work already"):
            guard.__enter__()
    with guard:
        pass


async def test_guard_that_looks_at_nothing_finds_nothing() -> None:
    """Each kind can be left out."""
    with LeakGuard(tasks=False, threads=False, descriptors=False, temp_files=False, settle_seconds=0):
        number, path = tempfile.mkstemp()
        thread = threading.Timer(60, print)
        thread.start()
    thread.cancel()
    os.close(number)
    os.unlink(path)


async def test_guard_as_decorator_guards_each_call() -> None:
    """Of functions, asynchronous or not; names and results stay."""

    @LeakGuard(**QUICK)
    def makes(leaves: bool) -> str:
        """What it does."""
        number, path = tempfile.mkstemp()
        os.close(number)
        if not leaves:
            os.unlink(path)
        return "made"

    @LeakGuard(**QUICK)
    async def awaits(leaves: bool) -> str:
        await checkpoint()
        number, path = tempfile.mkstemp()
        os.close(number)
        if not leaves:
            os.unlink(path)
        return "awaited"

    assert (makes.__name__, makes.__doc__) == ("makes", "What it does.")
    assert makes(False) == "made"
    assert await awaits(False) == "awaited"
    with pytest.raises(LeakError):
        makes(True)
    with pytest.raises(LeakError):
        await awaits(True)
    assert makes(False) == "made"
