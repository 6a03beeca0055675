"""_threads.py and _jobs.py: few warm threads, first come first served, and nothing of a job left in them."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import Context, ContextVar, Token, copy_context
from functools import partial
from importlib.util import find_spec
from time import monotonic
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from faults import frees_at_once, on_asyncio, on_trio, turn

from asgicore import Handler, Request, Response, ThreadsBusyError, UsageError
from asgicore._jobs import Job, new_waiter
from asgicore._spool import _files, in_file_thread
from asgicore._threads import Threads, _exit, _forget, _Worker
from asgicore._watch import run_shielded
from asgicore.testing import LeakGuard, call

DEADLINE = 10.0


@pytest.fixture(autouse=True)
def _leaves_no_thread() -> Iterator[None]:
    """Every worker that a test started is gone when its ``Threads`` is."""
    before = set(workers())
    yield
    gc.collect()
    until_sync(lambda: not set(workers()) - before)


def until_sync(is_true: Callable[[], object]) -> None:
    """Wait for what another thread does."""
    end = monotonic() + DEADLINE
    while not is_true():
        assert monotonic() < end
        threading.Event().wait(0.001)


def workers() -> list[_Worker]:
    """The workers of this process but for those of files, which stay for a while."""
    return [one for one in threading.enumerate() if isinstance(one, _Worker) and one not in _files.living]


async def until(is_true: Callable[[], object]) -> None:
    """Wait for what another thread does, and let the loop run."""
    with anyio.fail_after(DEADLINE):
        while not is_true():
            await anyio.sleep(0.001)


def are_there(threads: Threads, number: int) -> bool:
    return threads.in_use + threads.waiting == number


class Gate:
    """Jobs that wait to be let through, and the order in which they began."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.begun: list[object] = []
        self.ended: list[object] = []

    def job(self, name: object = None) -> object:
        self.begun.append(name)
        assert self.open.wait(DEADLINE)
        self.ended.append(name)
        return name


# --- what a job gives ------------------------------------------------------------------------------------


async def test_run_of_function_runs_elsewhere_and_gives_its_result() -> None:
    """Arguments and result pass as they are; the loop's thread is not used."""
    threads = Threads()
    given = object()
    assert await threads.run(lambda *args: args, given, 2) == (given, 2)
    assert await threads.run(threading.get_ident) != threading.get_ident()


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit, MemoryError])
async def test_run_of_function_that_raises_raises_the_very_error(kind: type[BaseException]) -> None:
    """Also what ends a process; the worker goes on."""
    threads = Threads(1)
    error = kind("no")

    def fail() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        await threads.run(fail)
    assert caught.value is error
    assert "fail" in [entry.name for entry in caught.traceback]
    first = await threads.run(threading.get_ident)
    assert await threads.run(threading.get_ident) == first
    assert threads.alive == 1


def trio_cancelled() -> BaseException:
    """A cancellation of trio's, which only trio makes."""
    import trio

    async def main() -> BaseException:
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.lowlevel.checkpoint()
            except trio.Cancelled as exc:
                return exc.with_traceback(None)
        raise AssertionError("not reached")

    return trio.run(main)


STEERING: list[Any] = [
    lambda: StopIteration(1),
    StopAsyncIteration,
    GeneratorExit,
    asyncio.CancelledError,
    pytest.param(trio_cancelled, marks=pytest.mark.skipif(not find_spec("trio"), reason="needs the extra 'trio'")),
]


@pytest.mark.parametrize("make", STEERING)
async def test_run_of_function_that_raises_a_signal_of_coroutines_raises_runtime_error(make: Any) -> None:
    """What would end an iteration or a task instead of failing it is the cause, and hangs nothing."""
    threads = Threads()
    errors: list[BaseException] = []

    def fail() -> None:
        errors.append(make())
        raise errors[0]

    with anyio.fail_after(DEADLINE), pytest.raises(RuntimeError, match=r"fail raised \w+ in a thread") as caught:
        await threads.run(fail)
    assert caught.value.__cause__ is errors[0]


@on_asyncio
async def test_run_of_function_that_raises_where_trio_is_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trio is asked for its cancellation only where it is in use."""
    monkeypatch.delitem(sys.modules, "trio", raising=False)
    threads = Threads()
    with pytest.raises(ZeroDivisionError):
        await threads.run(divmod, 1, 0)
    with pytest.raises(RuntimeError, match="StopIteration"):
        await threads.run(next, iter([]))


async def test_start_of_function_goes_on_and_wait_gives_the_result() -> None:
    """Also after it has ended; once."""
    threads = Threads()
    gate = Gate()
    job = threads.start(gate.job, 5)
    assert not job.is_done
    gate.open.set()
    await until(lambda: job.is_done)
    assert await job.wait() == 5
    with pytest.raises(UsageError, match="taken already"):
        await job.wait()
    failed = threads.start(divmod, 1, 0)
    with pytest.raises(ZeroDivisionError):
        await failed.wait()
    with pytest.raises(UsageError, match="taken already"):
        await failed.wait()


# --- threads ---------------------------------------------------------------------------------------------


async def test_run_one_after_the_other_uses_one_thread() -> None:
    """A worker is idle before its result arrives, so that no second one is started."""
    threads = Threads()
    assert threads.alive == 0
    idents = [await threads.run(threading.get_ident) for _ in range(200)]
    assert len(set(idents)) == 1
    assert threads.alive == 1


async def test_run_takes_the_worker_that_was_idle_last() -> None:
    """The others may end."""
    threads = Threads()
    gate = Gate()
    jobs = [threads.start(gate.job, number) for number in range(3)]
    await until(lambda: len(gate.begun) == 3)
    assert (threads.in_use, threads.waiting, threads.alive) == (3, 0, 3)
    gate.open.set()
    for job in jobs:
        await job.wait()
    await until(lambda: len(threads.idle) == 3)
    last = list(threads.idle)[-1].ident
    assert [await threads.run(threading.get_ident) for _ in range(20)] == [last] * 20
    assert threads.alive == 3


async def test_run_of_more_than_the_limit_waits_in_order() -> None:
    """No more than the limit at once, in threads as in jobs; first come, first served."""
    threads = Threads(3)
    gate = Gate()
    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(threads.run, gate.job, number)
                await until(partial(are_there, threads, number + 1))
            await until(lambda: len(gate.begun) == 3)
            assert (threads.in_use, threads.waiting, threads.alive) == (3, 17, 3)
            gate.open.set()
    assert set(gate.begun[:3]) == {0, 1, 2}
    assert len(gate.begun) == 20
    assert (threads.in_use, threads.waiting, threads.alive) == (0, 0, 3)


async def test_run_with_one_thread_is_first_come_first_served() -> None:
    """The order is exact where one thread does it all."""
    threads = Threads(1)
    gate = Gate()
    jobs = [threads.start(gate.job, number) for number in range(50)]
    gate.open.set()
    for job in reversed(jobs):
        await job.wait()
    assert gate.begun == list(range(50))


async def test_run_with_a_full_queue_is_refused_at_once() -> None:
    """503 with ``retry-after``; who waits already is not disturbed."""
    threads = Threads(1, max_waiting=2)
    gate = Gate()
    jobs = [threads.start(gate.job, number) for number in range(3)]
    with pytest.raises(ThreadsBusyError) as caught:
        await threads.run(gate.job, 3)
    assert caught.value.waiting == 2
    with pytest.raises(ThreadsBusyError):
        threads.start(gate.job, 4)
    gate.open.set()
    assert [await job.wait() for job in jobs] == [0, 1, 2]
    assert await threads.run(gate.job, 5) == 5


async def test_run_without_a_queue_is_refused_where_no_thread_is_free() -> None:
    """``max_waiting=0``; ``None`` lets any number wait."""
    gate = Gate()
    none, endless = Threads(1, max_waiting=0), Threads(1, max_waiting=None)
    job = none.start(gate.job)
    with pytest.raises(ThreadsBusyError):
        none.start(gate.job)
    jobs = [endless.start(gate.job, number) for number in range(3000)]
    gate.open.set()
    await job.wait()
    assert await jobs[-1].wait() == 2999


async def test_handler_whose_threads_are_busy_answers_503() -> None:
    """The refusal is an answer, and is not logged as an error."""
    threads = Threads(1, max_waiting=0)
    gate = Gate()
    job = threads.start(gate.job)

    async def endpoint(request: Request) -> Response:
        return Response(await threads.run(bytes))

    channel = await call(Handler(endpoint))
    assert channel.status == 503
    assert (b"retry-after", b"1") in channel.headers
    gate.open.set()
    await job.wait()
    assert (await call(Handler(endpoint))).status == 200


async def test_blocked_threads_of_endpoints_leave_file_threads_alone() -> None:
    """60 endpoints that block everything they may: a file operation is done at once."""
    threads = Threads()
    gate = Gate()
    jobs = [threads.start(gate.job) for _ in range(60)]
    await until(lambda: len(gate.begun) == 40)
    with anyio.fail_after(DEADLINE):
        assert await in_file_thread(len, b"abc") == 3
    assert (threads.in_use, threads.waiting) == (40, 20)
    gate.open.set()
    for job in jobs:
        await job.wait()


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_threads": 0},
        {"max_threads": -1},
        {"max_waiting": -1},
        {"idle_seconds": -0.1},
        {"idle_seconds": float("nan")},
    ],
    ids=str,
)
def test_threads_with_impossible_numbers_are_refused(wrong: dict[str, Any]) -> None:
    """An error that says what is taken."""
    with pytest.raises(ValueError, match="max_threads of at least 1"):
        Threads(**wrong)


def test_threads_of_one_process_may_idle_for_ever() -> None:
    """An infinite time is one."""
    assert Threads(idle_seconds=float("inf")).idle_seconds == threading.TIMEOUT_MAX


async def test_idle_worker_ends_after_its_time() -> None:
    """And the next job gets a new one."""
    threads = Threads(idle_seconds=0.0)
    first = await threads.run(threading.current_thread)
    await until(lambda: threads.alive == 0)
    assert threads.idle == {}
    assert await threads.run(threading.current_thread) is not first


async def test_idle_worker_that_is_given_a_job_as_it_ends_does_it() -> None:
    """Its time was over, but somebody had taken it out already."""
    threads = Threads()

    real: Any = None

    class Wake:
        """The worker's lock: its time is over in the very moment that it is given a job."""

        def __init__(self, worker: Any) -> None:
            self.worker = worker

        def acquire(self, timeout: float | None = None) -> bool:
            if timeout is not None:
                del threads.idle[self.worker]
                threads._running.add(late)
                self.worker.given = (threads, late)
                return False
            self.worker.wake = real
            return True

    def change() -> None:
        nonlocal real
        worker: Any = threading.current_thread()
        real = worker.wake
        worker.wake = Wake(worker)

    late: Job[str] = Job(threads, lambda: "late", (), None)
    await threads.run(change)
    with anyio.fail_after(DEADLINE):
        assert await late.wait() == "late"
        assert await threads.run(len, "x") == 1
    assert threads.alive == 1


@frees_at_once
async def test_threads_that_are_collected_leave_no_thread_behind() -> None:
    """Idle workers do not keep them, and end with them."""
    threads = Threads(idle_seconds=1000)
    gate = Gate()
    jobs = [threads.start(gate.job) for _ in range(5)]
    gate.open.set()
    for job in jobs:
        await job.wait()
    idle, living, gone = threads.idle, threads.living, weakref.ref(threads)
    await until(lambda: len(idle) == 5)
    del threads, jobs, job
    await until(lambda: gone() is None)  # the last one to become idle may be about to let go of them
    await until(lambda: not living)


async def test_threads_that_nobody_holds_finish_their_jobs() -> None:
    """A job keeps them for as long as it runs."""
    gate = Gate()
    job = Threads(1).start(gate.job, 1)
    gate.open.set()
    assert await job.wait() == 1


# --- nothing is kept -------------------------------------------------------------------------------------


class Thing:
    """Something that can be seen to go."""


@frees_at_once
async def test_idle_worker_keeps_nothing_of_its_last_job() -> None:
    """Arguments, result, error and context are gone when the caller lets go of them, with the collector off."""
    threads = Threads(1)
    variable: ContextVar[Any] = ContextVar("variable")
    gone: list[weakref.ref[Any]] = []

    def good(thing: Thing) -> Thing:
        variable.set(made := Thing())
        gone.append(weakref.ref(made))
        return thing

    def bad(thing: Thing) -> Thing:
        raise LookupError(thing)

    def job(function: Callable[[Thing], Thing]) -> Job[Thing]:
        thing = Thing()
        gone.append(weakref.ref(thing))
        return threads.start(function, thing)

    async def calls() -> None:
        await job(good).wait()
        with pytest.raises(LookupError):
            await job(bad).wait()
        # Nobody ever asks for these.
        job(good)
        job(bad)
        variable.set(None)

    gc.collect()
    gc.disable()
    try:
        await calls()
        await until(lambda: threads.in_use == 0)
        await until(lambda: not [ref for ref in gone if ref() is not None])
        assert len(gone) == 6
        assert threads.alive == 1
    finally:
        gc.enable()


@frees_at_once
async def test_run_leaves_no_cycle() -> None:
    """A thousand jobs, half of them failing, leave nothing to the collector."""
    threads = Threads()

    async def calls(number: int) -> None:
        for _ in range(number):
            await threads.run(len, b"abc")
            with suppress(ZeroDivisionError):
                await threads.run(divmod, 1, 0)

    await calls(5)
    async with LeakGuard(cycles=["asgicore._jobs", "asgicore._threads"]):
        await calls(500)


async def test_run_cancelled_leaves_no_file_and_no_thread_beyond_the_limit() -> None:
    """Two thousand jobs, cancelled at any moment: counts and threads are as before."""
    threads = Threads(5)

    async def one(number: int) -> None:
        with anyio.move_on_after(0 if number % 3 else None):
            await threads.run(len, b"")

    for _ in range(20):
        with anyio.fail_after(DEADLINE):
            async with anyio.create_task_group() as group:
                for number in range(100):
                    group.start_soon(one, number)
                await turn(number % 7)
    await until(lambda: threads.in_use == 0)
    assert threads.waiting == 0
    assert threads.alive <= 5


# --- context variables -----------------------------------------------------------------------------------

first: ContextVar[Any] = ContextVar("first", default=None)
second: ContextVar[Any] = ContextVar("second")


async def test_run_sees_context_variables_and_brings_changes_back() -> None:
    """The caller's are there; what the function sets is set for the caller, also if it raises."""
    threads = Threads()
    first.set(1)

    def work() -> tuple[Any, Any]:
        seen = first.get(), second.get("none")
        first.set(seen[0] + 1)
        second.set("set")
        return seen

    def fail() -> None:
        first.set("failed")
        raise ZeroDivisionError

    assert await threads.run(work) == (1, "none")
    assert (first.get(), second.get()) == (2, "set")
    with pytest.raises(ZeroDivisionError):
        await threads.run(fail)
    assert first.get() == "failed"
    assert await threads.run(first.get) == "failed"


async def test_wait_brings_only_changes_back() -> None:
    """What the caller set while the job ran stays, where the job did not set it itself."""
    threads = Threads()
    first.set(1)
    second.set(1)
    gate = Gate()

    def work() -> None:
        gate.job()
        second.set("theirs")

    job = threads.start(work)
    first.set("mine")
    second.set("mine")
    gate.open.set()
    await job.wait()
    assert (first.get(), second.get()) == ("mine", "theirs")


async def test_runs_of_one_task_after_each_other_keep_tokens_valid() -> None:
    """What one function sets the next one can take back, as when both were called in the task itself."""
    threads = Threads()
    variable: ContextVar[str] = ContextVar("variable", default="default")
    variable.set("before")
    token = await threads.run(variable.set, "within")
    assert variable.get() == "within"
    assert await threads.run(variable.get) == "within"
    await threads.run(variable.reset, token)
    assert variable.get() == "before"
    # Also after one that failed.
    token = await threads.run(variable.set, "again")
    with pytest.raises(ZeroDivisionError):
        await threads.run(divmod, 1, 0)
    await threads.run(variable.reset, token)
    assert variable.get() == "before"
    await threads.aclose()


async def test_runs_at_once_do_not_share_a_context() -> None:
    """Neither those of tasks that a request starts, nor anything of the one with the other."""
    threads = Threads()
    variable: ContextVar[int] = ContextVar("variable")
    meet = threading.Barrier(3)

    def work(number: int) -> int:
        variable.set(number)
        meet.wait(DEADLINE)
        return variable.get()

    async def one(number: int) -> None:
        assert await threads.run(work, number) == number
        assert variable.get() == number

    await threads.run(str)
    with anyio.fail_after(DEADLINE):
        for _ in range(3):
            async with anyio.create_task_group() as group:
                for number in range(3):
                    group.start_soon(one, number)
    assert variable.get(None) is None
    await threads.aclose()


async def test_run_does_not_see_what_was_unset_since() -> None:
    """A variable that the task has taken back is not there in the thread, though a run before saw it."""
    threads = Threads()
    variable: ContextVar[str] = ContextVar("variable", default="unset")
    token = variable.set("set")
    assert await threads.run(variable.get) == "set"
    variable.reset(token)
    assert await threads.run(variable.get) == "unset"
    await threads.aclose()


async def test_run_in_a_shared_context_keeps_tokens_valid() -> None:
    """A token from one job is good in the next, which sees what the caller has set since."""
    threads = Threads()
    shared = copy_context()
    first.set("before")

    def enter() -> Token[Any]:
        return first.set("within")

    def leave(token: Token[Any]) -> tuple[Any, Any]:
        seen = first.get(), second.get("none")
        first.reset(token)
        return seen

    token = await threads.run(enter, context=shared)
    assert first.get() == "within"
    second.set("new")
    assert await threads.run(leave, token, context=shared) == ("within", "new")
    assert first.get() == "before"
    with pytest.raises(ValueError, match="different Context"):
        await threads.run(leave, await threads.run(enter), context=shared)


async def test_run_in_a_context_that_is_in_use_raises() -> None:
    """Two jobs in one context at once cannot be; nothing hangs."""
    threads = Threads()
    shared = Context()
    gate = Gate()
    job = threads.start(gate.job, context=shared)
    await until(lambda: gate.begun)
    with pytest.raises(RuntimeError, match="already entered"):
        await threads.run(len, b"", context=shared)
    gate.open.set()
    await job.wait()


async def inner() -> str:
    await checkpoint()
    return "ran"


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
async def test_run_of_another_loop_in_a_worker_works(backend: str) -> None:
    """A loop of its own in the thread is not taken for one inside of another; the caller's name for its own stays."""
    if backend == "trio":
        pytest.importorskip("trio")
    sniffio = pytest.importorskip("sniffio")
    threads = Threads()
    token = sniffio.current_async_library_cvar.set("trio" if on_trio() else "asyncio")
    try:
        assert await threads.run(lambda: anyio.run(inner, backend=backend)) == "ran"
        assert sniffio.current_async_library_cvar.get() == ("trio" if on_trio() else "asyncio")
    finally:
        sniffio.current_async_library_cvar.reset(token)


@on_asyncio
async def test_run_without_sniffio_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no dependency."""
    monkeypatch.delitem(sys.modules, "sniffio", raising=False)
    assert await Threads().run(len, b"abc") == 3


# --- cancellation ----------------------------------------------------------------------------------------


async def test_run_in_a_cancelled_scope_never_begins() -> None:
    """As if it had not been called."""
    threads = Threads()
    gate = Gate()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await threads.run(gate.job)
    assert scope.cancelled_caught
    assert gate.begun == []
    assert threads.alive == 0


async def test_run_cancelled_by_a_scope_waits_for_the_thread() -> None:
    """The slot is held until then; the cancellation is raised afterwards, whatever the function does."""
    threads = Threads(1)
    gate = Gate()
    ended = False

    async def work() -> None:
        nonlocal ended
        with scope:
            await threads.run(gate.job)
        ended = True

    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as group:
            scope = anyio.CancelScope()
            group.start_soon(work)
            await until(lambda: gate.begun)
            scope.cancel()
            await turn(20)
            scope.cancel()
            await turn(20)
            assert not ended
            assert threads.in_use == 1
            gate.open.set()
    assert scope.cancelled_caught
    assert gate.ended == [None]
    assert threads.in_use == 0


async def test_run_cancelled_in_the_queue_leaves_it_at_once() -> None:
    """It never runs, and makes room for others."""
    threads = Threads(1, max_waiting=1)
    gate = Gate()
    job = threads.start(gate.job, "first")
    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as group:
            group.start_soon(threads.run, gate.job, "cancelled")
            await until(lambda: threads.waiting == 1)
            group.cancel_scope.cancel()
    assert threads.waiting == 0
    last = threads.start(gate.job, "last")
    gate.open.set()
    assert await job.wait() == "first"
    assert await last.wait() == "last"
    assert gate.begun == ["first", "last"]


async def test_aclose_of_a_job_in_the_queue_tells_whoever_waits_for_it() -> None:
    """It was given up; of one that runs the end is waited for, and the outcome can be had."""
    threads = Threads(1)
    gate = Gate()
    running, queued = threads.start(gate.job, 1), threads.start(gate.job, 2)
    errors: list[BaseException] = []

    async def wait() -> None:
        try:
            await queued.wait()
        except UsageError as exc:
            errors.append(exc)

    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await turn(5)
            await queued.aclose()
            await queued.aclose()
        assert "given up" in str(errors[0])
        gate.open.set()
        await running.aclose()
        assert await running.wait() == 1
    assert gate.begun == [1]


@on_asyncio
@pytest.mark.parametrize("times", [1, 2, 5])
async def test_run_cancelled_natively_waits_for_the_thread(times: int) -> None:
    """However often; then the task is cancelled, with the message of the first."""
    threads = Threads(1)
    gate = Gate()
    task = asyncio.create_task(threads.run(gate.job))
    await until(lambda: gate.begun)
    for number in range(times):
        task.cancel(f"number {number}")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert not task.done()
    assert threads.in_use == 1
    gate.open.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()
    assert threads.in_use == 0


@on_asyncio
async def test_run_cancelled_natively_in_the_queue_never_runs() -> None:
    """The task ends at once."""
    threads = Threads(1)
    gate = Gate()
    job = threads.start(gate.job, "first")
    task = asyncio.create_task(threads.run(gate.job, "cancelled"))
    await until(lambda: threads.waiting == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.open.set()
    await job.wait()
    assert gate.begun == ["first"]


@on_asyncio
async def test_run_cancelled_natively_at_any_turn_loses_no_slot() -> None:
    """Before, while and just when the thread ends."""
    threads = Threads(2)
    for turns in range(30):
        task = asyncio.create_task(threads.run(len, b""))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
    await until(lambda: threads.in_use == 0)
    assert threads.waiting == 0


@on_asyncio
async def test_run_within_a_timeout_of_asyncio_becomes_a_timeout() -> None:
    """The cancellation that is raised afterwards is the one that came."""
    threads = Threads()
    gate = Gate()
    asyncio.get_running_loop().call_later(0.05, gate.open.set)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await threads.run(gate.job)
    assert gate.ended == [None]
    current = asyncio.current_task()
    assert current is not None
    assert current.cancelling() == 0


async def test_run_in_a_cleanup_with_a_bound_waits_for_the_thread() -> None:
    """The bound of the cleanup is raised when the thread is done, also on asyncio."""
    threads = Threads(1)
    gate = Gate()

    async def work() -> None:
        with anyio.move_on_after(0.01) as scope:
            await threads.run(gate.job)
        assert scope.cancelled_caught

    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as group:
            group.start_soon(run_shielded, work(), None)
            await until(lambda: gate.begun)
            await anyio.sleep(0.05)
            gate.open.set()
    assert gate.ended == [None]


@on_asyncio
async def test_settle_cancelled_from_inside_of_a_cleanup_waits_for_the_thread() -> None:
    """A native timeout inside of a cleanup passes its guards; it is raised when the thread is done."""
    threads = Threads(1)
    gate = Gate()
    job = threads.start(gate.job)
    raised: list[type[BaseException]] = []

    async def work() -> None:
        asyncio.get_running_loop().call_later(0.03, gate.open.set)
        try:
            async with asyncio.timeout(0.01):
                await job.settle()
        except TimeoutError as exc:
            raised.append(type(exc))

    await run_shielded(work(), None)
    assert raised == [TimeoutError]
    assert gate.ended == [None]


# --- loops -----------------------------------------------------------------------------------------------


def test_job_whose_loop_is_gone_frees_its_slot(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody can be told: nothing breaks, nothing is logged, and the queue goes on."""
    threads = Threads(1)
    runners: list[Callable[[Callable[[], Awaitable[None]]], None]] = [lambda main: asyncio.run(main())]  # type: ignore[arg-type]
    if "trio" in sys.modules:
        import trio

        runners.append(trio.run)
    for run in runners:
        gate = Gate()

        kept: list[Any] = []

        async def main(gate: Gate = gate, kept: list[Any] = kept) -> None:
            waits = [threads.start(gate.job, number).wait() for number in range(3)]
            for coroutine in waits:
                coroutine.send(None)
            # The loop ends, and its tasks are closed and not cancelled: nothing can be awaited.
            waits[1].close()
            waits[0].close()
            kept.append(waits[2])

        run(main)
        gate.open.set()
        until_sync(lambda: threads.in_use == 0)
        kept.pop().close()
        assert gate.begun == [0, 2]
    assert caplog.records == []


def test_threads_shared_by_several_loops_serve_all() -> None:
    """Two loops of each kind in threads of their own: every result arrives where it belongs."""
    threads = Threads(4)
    results: dict[int, list[int]] = {}

    async def one(name: int, number: int) -> None:
        results[name].append(await threads.run(lambda: name * 1000 + number))

    async def main(name: int) -> None:
        with anyio.fail_after(DEADLINE):
            for _ in range(10):
                async with anyio.create_task_group() as group:
                    for number in range(20):
                        group.start_soon(one, name, number)

    backends = ["asyncio", "asyncio"] + ["trio", "trio"] * ("trio" in sys.modules)
    loops = []
    for name, backend in enumerate(backends):
        results[name] = []
        loops.append(threading.Thread(target=lambda name=name, backend=backend: anyio.run(main, name, backend=backend)))
    for loop in loops:
        loop.start()
    for loop in loops:
        loop.join(DEADLINE)
    for name in results:
        assert sorted(results[name]) == sorted([name * 1000 + number for number in range(20)] * 10)
    assert threads.alive <= 4
    assert (threads.in_use, threads.waiting) == (0, 0)


# --- executors and failures ------------------------------------------------------------------------------


async def test_threads_with_an_executor_run_there_within_their_own_limit() -> None:
    """Each job is submitted on its own; limit, queue and counts are ours."""
    submitted = 0

    class Counting(ThreadPoolExecutor):
        def submit(self, *args: Any, **kwargs: Any) -> Any:
            nonlocal submitted
            submitted += 1
            return super().submit(*args, **kwargs)

    with Counting(4, thread_name_prefix="theirs") as executor:
        threads = Threads(2, max_waiting=3, executor=executor)
        gate = Gate()
        jobs = [threads.start(gate.job, number) for number in range(5)]
        await until(lambda: len(gate.begun) == 2)
        assert (threads.in_use, threads.waiting, threads.alive) == (2, 3, 0)
        with pytest.raises(ThreadsBusyError):
            threads.start(gate.job)
        gate.open.set()
        assert [await job.wait() for job in jobs] == [0, 1, 2, 3, 4]
        assert (await threads.run(lambda: threading.current_thread().name)).startswith("theirs")
        assert submitted == 6
        job = threads.start(until_sync, lambda: threads._is_closed)
        assert await threads.aclose()
        await job.wait()
    assert threads.in_use == 0


async def test_threads_whose_executor_takes_no_more_raise_that() -> None:
    """For the job at hand and for those in the queue; the slots are free afterwards."""
    executor = ThreadPoolExecutor(1)
    threads = Threads(1, executor=executor)
    gate = Gate()
    jobs = [threads.start(gate.job, number) for number in range(4)]
    await until(lambda: gate.begun)
    executor.shutdown(wait=False)
    gate.open.set()
    assert await jobs[0].wait() == 0
    for job in jobs[1:]:
        with pytest.raises(RuntimeError, match="after shutdown"):
            await job.wait()
    with pytest.raises(RuntimeError, match="after shutdown"):
        await threads.run(gate.job)
    assert (threads.in_use, threads.waiting) == (0, 0)


async def test_run_where_the_system_has_no_more_threads_raises_that(monkeypatch: pytest.MonkeyPatch) -> None:
    """The slot is free, and whoever came meanwhile fails too instead of waiting for ever."""
    threads = Threads(1)

    def no_thread(self: threading.Thread) -> None:
        if not late:
            late.append(threads.start(len, b"late"))
        raise RuntimeError("can't start new thread")

    late: list[Job[int]] = []
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(RuntimeError, match="can't start"):
            await threads.run(len, b"")
        with pytest.raises(RuntimeError, match="can't start"):
            await late[0].wait()
    assert (threads.in_use, threads.waiting) == (0, 0)
    assert await threads.run(len, b"abc") == 3


# --- the end ---------------------------------------------------------------------------------------------


async def test_aclose_ends_idle_workers_and_refuses_jobs() -> None:
    """Nothing is left, and the error says why; it may be called again."""
    threads = Threads(idle_seconds=1000)
    await threads.run(len, b"")
    assert await threads.aclose()
    await until(lambda: threads.alive == 0)
    for _ in range(2):
        with pytest.raises(UsageError, match="closed"):
            await threads.run(len, b"")
        assert await threads.aclose()


async def test_aclose_waits_for_running_and_waiting_jobs() -> None:
    """What was taken is done; then the workers end."""
    threads = Threads(2, idle_seconds=1000)
    gate = Gate()
    jobs = [threads.start(gate.job, number) for number in range(6)]
    results: list[bool] = []

    async def close() -> None:
        results.append(await threads.aclose())

    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as group:
            group.start_soon(close)
            group.start_soon(close)
            await turn(5)
            assert not results
            gate.open.set()
    assert results == [True, True]
    assert [await job.wait() for job in jobs] == [0, 1, 2, 3, 4, 5]
    await until(lambda: threads.alive == 0)


async def test_aclose_with_jobs_that_do_not_end_returns_after_its_time() -> None:
    """What runs goes on and ends its thread; what waits fails."""
    threads = Threads(1)
    gate = Gate()
    running, waiting = threads.start(gate.job, 1), threads.start(gate.job, 2)
    with anyio.fail_after(DEADLINE):
        assert not await threads.aclose(0.01)
        with pytest.raises(UsageError, match="closed before the job began"):
            await waiting.wait()
    assert threads.in_use == 1
    gate.open.set()
    assert await running.wait() == 1
    await until(lambda: threads.alive == 0)


async def test_aclose_cancelled_lets_nothing_begin_any_more() -> None:
    """As if its time were over."""
    threads = Threads(1)
    gate = Gate()
    running, waiting = threads.start(gate.job, 1), threads.start(gate.job, 2)
    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as group:
            group.start_soon(threads.aclose)
            await turn(5)
            group.cancel_scope.cancel()
        with pytest.raises(UsageError, match="closed before"):
            await waiting.wait()
    gate.open.set()
    await running.wait()


async def test_aclose_whose_last_job_ends_just_now_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    """The job may end between the look and the waiting for it."""
    threads = Threads(1)
    gate = Gate()
    threads.start(gate.job)

    def late() -> Any:
        gate.open.set()
        until_sync(lambda: threads.in_use == 0)
        return new_waiter()

    monkeypatch.setattr("asgicore._threads.new_waiter", late)
    with anyio.fail_after(DEADLINE):
        assert await threads.aclose()


async def test_wait_for_a_job_that_ends_just_now_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for a single job."""
    threads = Threads(1)
    gate = Gate()
    job = threads.start(gate.job, 1)

    def late(origin: Any) -> Any:
        gate.open.set()
        until_sync(lambda: job.is_done)
        return new_waiter(origin)

    monkeypatch.setattr("asgicore._jobs.new_waiter", late)
    with anyio.fail_after(DEADLINE):
        assert await job.wait() == 1


async def test_a_waiter_that_is_notified_before_it_waits_returns() -> None:
    """A job that ends between the making of its waiter and the wait has nobody to wake."""
    waiter = new_waiter()
    waiter.notify()
    with anyio.fail_after(DEADLINE):
        await waiter


@on_asyncio
async def test_a_waiter_that_is_notified_as_its_task_begins_to_wait_wakes_it() -> None:
    """Another thread may come between the look and the waiting."""
    waiter: Any = new_waiter()
    waiting = waiter.__await__()
    assert next(waiting) is waiter
    waiter.notify()
    woken = asyncio.Event()
    waiter.add_done_callback(lambda _: woken.set())
    with anyio.fail_after(DEADLINE):
        await woken.wait()
    assert next(waiting, None) is None


# --- the process -----------------------------------------------------------------------------------------

START = """
import asyncio, os, sys, threading, time
from asgicore._threads import Threads, _exit, _forget, _Worker
import asgicore._threads as module
"""


def run_python(code: str, seconds: float = 20) -> str:
    """What a process prints that ends by itself, in peace."""
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-W", "error", "-c", START + code],
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_exit_with_many_idle_workers_is_clean_and_prompt() -> None:
    """They are told, and nothing waits for their time."""
    code = """
async def main():
    while threads.alive < 40:
        await asyncio.sleep(0.001)
    go.set()
    for job in jobs:
        await job.wait()
threads = Threads(idle_seconds=1000)
go = threading.Event()
jobs = [threads.start(go.wait, 10) for _ in range(40)]
asyncio.run(main())
print(threads.alive)
"""
    assert run_python(code) == "40\n"


def test_exit_while_a_job_runs_waits_for_it() -> None:
    """What was begun is finished; what waits is not begun."""
    code = """
go = threading.Event()
def work():
    print("begun", flush=True)
    go.wait(10)
    time.sleep(0.2)
    print("finished", flush=True)
async def main():
    threads.start(work)
    threads.start(print, "never")
threads = Threads(1)
asyncio.run(main())
go.set()
"""
    assert run_python(code) == "begun\nfinished\n"


def test_exit_while_a_job_does_not_end_gives_up_after_its_time() -> None:
    """A process can be stopped, whatever its threads do."""
    code = """
module.EXIT_SECONDS = 0.1
async def main():
    begun = threading.Event()
    threads.start(lambda: (begun.set(), threading.Event().wait(100)))
    begun.wait(10)
threads = Threads(1)
asyncio.run(main())
print("end")
"""
    assert run_python(code) == "end\n"


async def test_exit_ends_all_threads_and_refuses_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every ``Threads`` there is: what runs is waited for, what waits fails, and what is idle ends."""
    idle, busy = Threads(idle_seconds=1000), Threads(1)
    await idle.run(len, b"")
    gate = Gate()
    running, waiting = busy.start(gate.job, 1), busy.start(gate.job, 2)
    await until(lambda: gate.begun)
    timer = threading.Timer(0.05, gate.open.set)
    timer.start()
    monkeypatch.setattr("asgicore._threads._all", {idle, busy})
    _exit()
    timer.join(DEADLINE)
    assert (idle.alive, busy.alive) == (0, 0)
    assert await running.wait() == 1
    with pytest.raises(UsageError, match="closed before the job began"):
        await waiting.wait()
    for threads in (idle, busy):
        with pytest.raises(UsageError, match="no more jobs"):
            await threads.run(len, b"")


async def test_forget_makes_threads_as_new(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the child of a fork does: nothing runs or waits, and what ends from before is not counted."""
    threads = Threads(1, idle_seconds=1000)
    gate = Gate()
    running = threads.start(gate.job, 1)
    threads.start(gate.job, 2)
    await until(lambda: gate.begun)
    monkeypatch.setattr("asgicore._threads._all", {threads})
    _forget()
    assert (threads.in_use, threads.waiting, threads.alive) == (0, 0, 0)
    assert await threads.run(len, b"abc") == 3
    assert threads.alive == 1
    gate.open.set()
    assert await running.wait() == 1
    assert (threads.in_use, threads.waiting, threads.alive) == (0, 0, 1)
    # The worker from before is idle in a register that nobody looks into, and would stay for its time.
    for worker in workers():
        if worker not in threads.living:
            worker.wake.release()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_fork_gives_the_child_empty_threads_and_leaves_the_parent_s_alone() -> None:
    """Also with jobs that run and wait, an idle worker and a lock that is held in that moment."""
    code = """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 and later warn of what is tested here
go = threading.Event()
async def one():
    assert await threads.run(len, b"abc") == 3
async def ends():
    assert [await job.wait() for job in started] == [True] * 5
threads = Threads(3)
asyncio.run(one())
started = [threads.start(go.wait, 10) for _ in range(5)]
while threads.alive < 3:
    time.sleep(0.001)
threads._lock.acquire()
child = os.fork()
if child:
    threads._lock.release()
    assert (threads.in_use, threads.waiting, threads.alive) == (3, 2, 3)
    status = os.waitpid(child, 0)[1]
    go.set()
    asyncio.run(ends())
    asyncio.run(one())
    assert threads.alive == 3
    print("parent", os.waitstatus_to_exitcode(status), flush=True)
else:
    assert (threads.in_use, threads.waiting, threads.alive) == (0, 0, 0)
    asyncio.run(one())
    assert threads.alive == 1
    print("child", flush=True)
"""
    assert run_python(code) == "child\nparent 0\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_fork_in_a_worker_lets_the_child_go_on_there() -> None:
    """The one thread that the child has may end its job as if nothing had happened."""
    code = """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)
def work():
    child = os.fork()
    if not child:
        threads_in_child = threads.in_use, threads.alive
        print("child", *threads_in_child, flush=True)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
threads = Threads(3)
async def main():
    print("parent", await threads.run(work))
asyncio.run(main())
"""
    assert run_python(code) == "child 0 0\nparent 0\n"


def test_import_of_threads_starts_none() -> None:
    """Only a job does."""
    assert run_python("import asgicore; print(threading.active_count())") == "1\n"
