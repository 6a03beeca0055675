"""The check's watch: what is left behind or done beside, on asyncio, uvloop and trio."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from asgicore import Threads
from asgicore.testing._check import watch
from asgicore.testing._check.exchange import Call


def asleep(event: threading.Event) -> None:
    event.wait(5)


def outer(event: threading.Event) -> None:
    asleep(event)


def busy_threads(others: frozenset[int]) -> dict[int, str]:
    """Those of the test: what runs the tests may have threads that wait in ways of their own."""
    return {number: what for number, what in watch.busy_threads().items() if number not in others}


async def until(check: Callable[[], object]) -> None:
    with anyio.fail_after(5):
        while not check():
            await anyio.sleep(0.002)


async def test_busy_threads_are_those_that_run_something() -> None:
    """Idle threads of pools are not: ours, anyio's, the standard library's."""
    busy = partial(busy_threads, frozenset(watch.busy_threads()))
    event = threading.Event()
    pool = ThreadPoolExecutor(2)
    threads = Threads()
    await anyio.to_thread.run_sync(int)
    await threads.run(int)
    pool.submit(int).result()
    await until(lambda: not busy())
    pool.submit(asleep, event)
    thread = threading.Thread(target=outer, args=(event,))
    thread.start()
    await until(lambda: len(busy()) == 2)
    # Where the application is, and not what of the standard library it waits in.
    assert all("asleep in " in place and __file__ in place for place in busy().values())
    event.set()
    thread.join()
    await until(lambda: not busy())
    pool.shutdown()
    await threads.aclose()


async def test_thread_that_waits_within_the_standard_library_is_named_by_it() -> None:
    """Where there is nothing of the application's to name."""
    busy = partial(busy_threads, frozenset(watch.busy_threads()))
    event = threading.Event()
    with ThreadPoolExecutor(1) as first, ThreadPoolExecutor(1) as second:
        waiting = second.submit(event.wait, 5)
        first.submit(waiting.result)
        await until(lambda: len(busy()) == 2)
        assert all(watch.STDLIB in place for place in busy().values())
        event.set()


async def parts() -> AsyncIterator[int]:
    yield 1
    yield 2


async def test_left_open_tells_generators_and_files_that_nobody_closed() -> None:
    """What was exhausted or closed is not told."""
    with watch.LeftOpen() as left:
        async for _ in parts():
            pass
        open(__file__, "rb").close()  # noqa: ASYNC230  # what is watched for
        await left.look()
        assert (left.generators, left.files) == ([], [])
        async for _ in parts():
            break
        open(__file__, "rb")  # noqa: ASYNC230  # and what is found
        await left.look()
    assert left.generators == ["parts"]
    assert len(left.files) == 1
    assert left.files[0].startswith("unclosed file")


def test_left_open_works_where_no_loop_runs() -> None:
    """There is no hook of a loop then."""
    left = watch.LeftOpen()
    with left:

        async def step() -> None:
            await parts().__anext__()

        with pytest.raises(StopIteration):
            step().send(None)
    assert left.generators == ["parts"]


async def test_audit_sees_files_opened_on_the_loop_and_threads_started(tmp_path: Path) -> None:
    """Not those of other threads, of the interpreter, or that are no disk."""
    with watch.audit() as seen:
        await anyio.to_thread.run_sync((tmp_path / "elsewhere").write_text, "x")
        open(os.devnull, "rb").close()  # noqa: ASYNC230  # no disk
        open(__file__, "rb").close()  # noqa: ASYNC230  # source text, as the interpreter reads it
        assert seen.opened == []
        (tmp_path / "here").write_text("x")
        open(os.fsencode(tmp_path / "here"), "rb").close()  # noqa: ASYNC230  # what is found
        with tempfile.TemporaryFile():
            pass
        before = seen.threads
        thread = threading.Thread(target=int)
        thread.start()
        thread.join()
        assert seen.threads == before + 1
    assert seen.opened[:2] == [str(tmp_path / "here")] * 2
    assert len(seen.opened) > 2
    (tmp_path / "later").write_text("x")
    assert str(tmp_path / "later") not in seen.opened
    watch.see("open", (__file__, "r", 0))


def test_audit_hook_ignores_what_is_no_path() -> None:
    """Descriptors, and events that are none of its own; it must never fail."""
    with watch.audit() as seen:
        watch.see("open", (3, "r", 0))
        watch.see("open", (b"/tmp/\xff", "r", 0))
        watch.see("import", ("x",))
    assert seen.opened == [os.fsdecode(b"/tmp/\xff")]


def test_traced_memory_tells_the_most_that_was_taken() -> None:
    """Within the block; whether memory was traced before stays as it was."""
    assert not tracemalloc.is_tracing()
    with watch.traced_memory() as peak:
        held = bytearray(3 * 2**20)
        del held
        assert 3 * 2**20 <= peak() < 4 * 2**20
    assert not tracemalloc.is_tracing()
    tracemalloc.start()
    try:
        with watch.traced_memory():
            pass
        assert tracemalloc.is_tracing()
    finally:
        tracemalloc.stop()


async def test_lag_tells_how_late_the_loop_is() -> None:
    """And that a thread beside it is not."""
    async with watch.Lag() as lag:
        await anyio.sleep(0.03)
        time.sleep(0.3)  # noqa: ASYNC251  # what it is about
        await anyio.sleep(0.03)
    assert lag.loop > 0.2
    assert lag.thread < lag.loop
    assert sys.getswitchinterval() < 0.1


async def test_call_that_is_cancelled_before_its_first_step_has_ended() -> None:
    """Nothing of it runs, and nothing of it is left."""
    call = Call(anyio.sleep_forever())
    call.cancel()
    assert await call.until_ended(5)
    assert call.was_cancelled
    assert call.error is None
