"""django_bridge/_workers.py: warm threads, each lent to one request at a time, and nobody is forgotten."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import itertools
import random
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from queue import Empty
from time import monotonic
from typing import Any

import anyio
import pytest
from faults import on_asyncio, turn

from asgicore.testing._living import collect_cycles

if importlib.util.find_spec("django") is None:
    pytest.skip("needs Django", allow_module_level=True)

from asgicore._jobs import new_waiter
from asgicore.django_bridge._hop import _Above
from asgicore.django_bridge._workers import Lease, Worker, Workers

DEADLINE = 5.0

_made: list[Workers] = []
_gates: list[Gate]


class Gate:
    """Jobs that wait to be let through, and the order in which they began."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.begun: list[object] = []
        self.ended: list[object] = []
        _gates.append(self)

    def job(self, name: object = None) -> object:
        self.begun.append(name)
        assert self.open.wait(DEADLINE)
        self.ended.append(name)
        return name


_gates = []


def new_workers(max_workers: int = 40, **options: Any) -> Workers:
    """Workers that the test need not end."""
    workers = Workers(max_workers, **options)
    _made.append(workers)
    return workers


@pytest.fixture(autouse=True)
def _ends_all_threads() -> Iterator[None]:
    """Every thread that a test started ends when it is told to, also where the test has failed."""
    before = set(threads())
    yield
    for gate in _gates:
        gate.open.set()
    for workers in _made:
        for worker in workers.exit():
            worker.jobs.put(None)  # also those that a test never gave back
    del _gates[:], _made[:]
    gc.collect()
    until_sync(lambda: not set(threads()) - before)


def threads() -> list[Worker]:
    """The workers of this process."""
    return [one for one in threading.enumerate() if isinstance(one, Worker)]


def until_sync(is_true: Callable[[], object]) -> None:
    """Wait for what another thread does."""
    end = monotonic() + DEADLINE
    while not is_true():
        assert monotonic() < end
        threading.Event().wait(0.001)


async def until(is_true: Callable[[], object]) -> None:
    """Wait for what another thread does, and let the loop run."""
    with anyio.fail_after(DEADLINE):
        while not is_true():
            await anyio.sleep(0.001)


async def result(future: asyncio.Future[Any]) -> Any:
    """What a job gives; a deadline for one that is forgotten."""
    return await asyncio.wait_for(future, DEADLINE)


async def run(lease: Lease, function: Callable[..., Any], *args: Any) -> Any:
    return await result(lease.submit(function, *args))


async def idle_lease(workers: Workers) -> Lease:
    """A lease that has a thread and does not use it: its request waits in asynchronous code."""
    lease = Lease(workers)
    await run(lease, len, "")
    return lease


async def held_lease(workers: Workers, gate: Gate, name: object = None) -> Lease:
    """A lease whose thread works until the gate opens."""
    lease = Lease(workers)
    lease.submit(gate.job, name)
    await until(lambda: name in gate.begun)
    return lease


def has_begun(gate: Gate) -> bool:
    return bool(gate.begun)


def counts(workers: Workers) -> tuple[int, int, int]:
    return workers.in_use, workers.waiting, workers.alive


# --- what a job gives ------------------------------------------------------------------------------------


@on_asyncio
async def test_submit_of_function_runs_in_a_worker_and_gives_its_result() -> None:
    """Arguments and result pass as they are; the loop's thread is not used."""
    lease = Lease(new_workers())
    given = object()
    assert await run(lease, lambda *args: args, given, 2) == (given, 2)
    worker = lease.worker
    assert worker is not None
    assert await run(lease, threading.current_thread) is worker
    assert worker.daemon
    assert worker.name.startswith("asgicore-django-")
    lease.release()


@on_asyncio
@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit, MemoryError])
async def test_submit_of_function_that_raises_gives_the_very_error(kind: type[BaseException]) -> None:
    """Also what ends a process; the thread goes on."""
    lease = Lease(new_workers(1))
    error = kind("no")

    def fail() -> None:
        raise error

    first = await run(lease, threading.get_ident)
    with pytest.raises(kind) as caught:
        await run(lease, fail)
    assert caught.value is error
    assert "fail" in [entry.name for entry in caught.traceback]
    assert await run(lease, threading.get_ident) == first
    lease.release()


class _Stop(StopIteration):
    """A subclass, as some libraries have it."""


@on_asyncio
@pytest.mark.parametrize("kind", [StopIteration, _Stop, GeneratorExit])
async def test_submit_of_function_that_raises_what_steers_coroutines_gives_runtime_error(
    kind: type[BaseException],
) -> None:
    """It is the cause: no future takes a StopIteration, and a GeneratorExit would say that the loop gives up."""
    lease = Lease(new_workers(1))

    def fail() -> None:
        raise kind(1)

    with pytest.raises(RuntimeError, match="raised") as caught:
        await run(lease, fail)
    assert type(caught.value.__cause__) is kind
    assert await run(lease, len, "abc") == 3
    lease.release()


@on_asyncio
async def test_submit_of_several_functions_runs_them_in_order_in_one_thread() -> None:
    """As with an executor of one thread, which this stands for."""
    workers = new_workers(3)
    lease = Lease(workers)
    seen: list[tuple[int, int]] = []
    futures = [lease.submit(lambda number=number: seen.append((number, threading.get_ident()))) for number in range(50)]
    for future in futures:
        await result(future)
    assert [number for number, _ in seen] == list(range(50))
    assert len({ident for _, ident in seen}) == 1
    assert counts(workers) == (1, 0, 1)
    lease.release()
    assert counts(workers) == (0, 0, 1)


@on_asyncio
async def test_submit_is_what_asyncio_takes_for_an_executor() -> None:
    """``run_in_executor`` takes its future as it is, also in debug mode."""
    lease: Any = Lease(new_workers())
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    try:
        assert await asyncio.wait_for(loop.run_in_executor(lease, len, "abc"), DEADLINE) == 3
    finally:
        loop.set_debug(False)
    lease.release()


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "4", None, True], ids=repr)
def test_workers_with_an_impossible_number_are_refused(wrong: Any) -> None:
    """An error that says what is taken."""
    with pytest.raises(ValueError, match="max_workers takes a number of threads of at least 1"):
        Workers(wrong)


# --- threads ---------------------------------------------------------------------------------------------


@on_asyncio
async def test_lease_without_jobs_starts_no_thread() -> None:
    """A request that runs no synchronous code costs none, and giving back what it never had does nothing."""
    workers = new_workers()
    lease = Lease(workers)
    lease.give_back()
    lease.release()
    lease.release()
    assert counts(workers) == (0, 0, 0)


@on_asyncio
async def test_leases_one_after_the_other_use_one_thread() -> None:
    """A thread is idle when its request is over, so that the next one finds it warm."""
    workers = new_workers()
    idents = set()
    for _ in range(200):
        lease = Lease(workers)
        idents.add(await run(lease, threading.get_ident))
        lease.release()
    assert len(idents) == 1
    assert counts(workers) == (0, 0, 1)


@on_asyncio
async def test_leases_at_once_have_threads_of_their_own() -> None:
    """Never one for two, and the one that came back last goes out first."""
    workers = new_workers()
    leases = [await idle_lease(workers) for _ in range(5)]
    used = [lease.worker for lease in leases]
    assert len(set(used)) == 5
    assert counts(workers) == (5, 0, 5)
    for lease in leases:
        lease.release()
    assert counts(workers) == (0, 0, 5)
    again = [await idle_lease(workers) for _ in range(5)]
    assert [lease.worker for lease in again] == used[::-1]
    for lease in again:
        lease.release()


@on_asyncio
async def test_lease_that_gave_its_thread_back_gets_it_again() -> None:
    """The one that it knows if that is idle, though another one worked later; else any other."""
    workers = new_workers()
    first, second, third = [await idle_lease(workers) for _ in range(3)]
    worker = first.worker
    for lease in (first, second, third):
        lease.give_back()
        assert lease.worker is None
    assert await run(first, threading.current_thread) is worker
    first.give_back()
    taking = [await idle_lease(workers) for _ in range(3)]
    assert worker in [lease.worker for lease in taking]
    other = await run(first, threading.current_thread)
    assert other not in [lease.worker for lease in taking]
    for lease in (first, second, third, *taking):
        lease.release()


@on_asyncio
async def test_lease_that_gives_its_busy_thread_back_is_without_it_when_that_is_done() -> None:
    """What was submitted is done first, without anybody waiting for it; the next job takes a thread again."""
    workers = new_workers(1)
    gate = Gate()
    lease = await held_lease(workers, gate)
    lease.give_back()
    assert workers.in_use == 1
    gate.open.set()
    await until(lambda: workers.in_use == 0)
    assert lease.worker is None
    assert await run(lease, len, "abc") == 3
    assert workers.in_use == 1  # and it keeps that one
    lease.release()
    assert counts(workers) == (0, 0, 1)


@on_asyncio
async def test_lease_that_is_used_again_before_its_thread_went_back_keeps_it() -> None:
    """A job that comes while the thread still works is behind the others, in the same thread."""
    workers = new_workers(1)
    gate = Gate()
    lease = await held_lease(workers, gate)
    lease.give_back()
    following = lease.submit(threading.get_ident)
    gate.open.set()
    worker = next(iter(workers.alive_threads))
    assert await result(following) == worker.ident
    lease.release()
    await until(lambda: counts(workers) == (0, 0, 1))


@on_asyncio
async def test_leases_beyond_the_limit_wait_in_order() -> None:
    """First come, first served; no more than the limit at once, in threads as in requests."""
    workers = new_workers(3)
    gate = Gate()
    leases = [Lease(workers) for _ in range(20)]
    futures = [lease.submit(gate.job, number) for number, lease in enumerate(leases)]
    await until(lambda: len(gate.begun) == 3)
    assert counts(workers) == (3, 17, 3)
    gate.open.set()
    for future, lease in zip(futures, leases, strict=True):
        await result(future)
        lease.release()
    assert set(gate.begun[:3]) == {0, 1, 2}
    assert len(gate.begun) == 20
    assert counts(workers) == (0, 0, 3)


@on_asyncio
async def test_leases_with_one_thread_are_first_come_first_served() -> None:
    """The order is exact where one thread does it all; jobs of one request stay together."""
    workers = new_workers(1)
    gate = Gate()
    leases = [Lease(workers) for _ in range(30)]
    futures = [[lease.submit(gate.job, (number, step)) for step in range(3)] for number, lease in enumerate(leases)]
    assert counts(workers) == (1, 29, 1)
    gate.open.set()
    for jobs, lease in zip(futures, leases, strict=True):
        for future in jobs:
            await result(future)
        lease.release()
    assert gate.begun == [(number, step) for number in range(30) for step in range(3)]


@on_asyncio
async def test_idle_worker_ends_after_its_time_and_forgets_what_it_had() -> None:
    """In its own thread; the next request gets a new one."""
    forgot: list[threading.Thread] = []
    workers = new_workers(idle_seconds=0.001, forget=lambda: forgot.append(threading.current_thread()))
    lease = await idle_lease(workers)
    first = lease.worker
    lease.release()
    await until(lambda: workers.alive == 0)
    assert forgot == [first]
    other = await idle_lease(workers)
    assert other.worker is not first
    other.release()


@on_asyncio
async def test_worker_of_a_request_that_waits_for_long_does_not_end() -> None:
    """Its time runs while it is lent, and means nothing then: its connections are the request's."""
    workers = new_workers(idle_seconds=0.001)
    lease = await idle_lease(workers)
    worker = lease.worker
    assert worker is not None
    tries = 0

    class Counted(weakref.ref[Workers]):
        def __call__(self) -> Workers | None:
            nonlocal tries
            tries += 1
            return super().__call__()

    worker.workers = Counted(workers)
    await until(lambda: tries > 3)
    assert await run(lease, threading.current_thread) is worker
    lease.release()
    await until(lambda: workers.alive == 0)


@on_asyncio
async def test_threads_beyond_the_limit_end_when_their_requests_do() -> None:
    """Parked requests may have more threads than the limit; no more than that stay idle."""
    workers = new_workers(2)
    leases = [await idle_lease(workers) for _ in range(6)]
    assert workers.alive == 6
    for lease in leases:
        lease.release()
    await until(lambda: counts(workers) == (0, 0, 2))


@on_asyncio
async def test_job_does_not_see_the_context_of_who_started_its_thread() -> None:
    """Also where threads inherit a context, as from Python 3.14 on: another request's variables are not there."""
    variable: ContextVar[str] = ContextVar("variable", default="none")
    workers = new_workers(1)
    variable.set("of the first request")
    lease = Lease(workers)
    assert await run(lease, variable.get) == "none"
    lease.release()


# --- looks, preparation and the end of a thread ----------------------------------------------------------


@on_asyncio
async def test_prepare_is_called_in_a_used_thread_before_the_first_job() -> None:
    """Once; and not at all in a thread that has nothing to be looked after."""
    state = [(False, False, True)]
    workers = new_workers(1, look=lambda: state[0])
    order: list[object] = []

    def prepare() -> None:
        order.append(threading.current_thread())

    for is_used in (False, True):
        lease = Lease(workers)
        lease.prepare = prepare
        await run(lease, order.append, 1)
        await run(lease, order.append, 2)
        assert order == ([lease.worker] if is_used else []) + [1, 2]
        order.clear()
        state[0] = (True, True, False)
        await run(lease, len, "")
        assert lease.worker is not None
        assert (lease.worker.is_used, lease.worker.is_open, lease.worker.is_pristine) == (True, True, False)
        state[0] = (True, True, True)
        await run(lease, len, "")
        lease.release()


@on_asyncio
async def test_prepare_that_raises_fails_the_job_and_is_not_called_again() -> None:
    """Whoever waits gets the error; what runs later, the closing above all, is not kept from it."""
    workers = new_workers(1, look=lambda: (True, True, True))
    (await idle_lease(workers)).release()
    lease = Lease(workers)

    def prepare() -> None:
        raise LookupError("prepare")

    lease.prepare = prepare
    with pytest.raises(LookupError, match="prepare"):
        await run(lease, len, "abc")
    assert await run(lease, len, "abc") == 3
    lease.release()


@on_asyncio
async def test_prepare_that_raises_does_not_keep_a_kept_job_from_running() -> None:
    """What closes a request runs, whatever the preparation did."""
    workers = new_workers(1, look=lambda: (True, True, True))
    (await idle_lease(workers)).release()
    lease = Lease(workers)

    def prepare() -> None:
        raise LookupError("prepare")

    closed: list[object] = []
    lease.prepare = prepare
    lease.keeps = True
    with suppress(LookupError):
        await run(lease, closed.append, True)
    lease.release()
    assert closed == [True]


@on_asyncio
async def test_look_that_raises_hangs_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits gets what the job gave, and the thread can be given back."""
    monkeypatch.setattr(threading, "excepthook", lambda _: None)

    def look() -> tuple[bool, bool, bool]:
        raise LookupError("look")

    workers = new_workers(1, look=look)
    lease = Lease(workers)
    assert await run(lease, len, "abc") == 3
    lease.release()
    await until(lambda: workers.in_use == 0)
    other = Lease(workers)
    assert await run(other, len, "abc") == 3
    other.release()


@on_asyncio
async def test_forget_that_raises_leaves_no_thread_in_the_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is told as that of any thread."""
    told: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", told.append)

    def forget() -> None:
        raise LookupError("forget")

    workers = new_workers(1, forget=forget, idle_seconds=0.001)
    (await idle_lease(workers)).release()
    await until(lambda: told)
    assert workers.alive == 0
    assert told[0].exc_type is LookupError


# --- parking ---------------------------------------------------------------------------------------------


@on_asyncio
async def test_parked_requests_do_not_keep_others_from_a_thread() -> None:
    """Forty long polls that have each used a thread, and forty more requests: all are served, and in turn."""
    workers = new_workers(40)
    polls = [await idle_lease(workers) for _ in range(40)]
    own = [lease.worker for lease in polls]
    assert counts(workers) == (40, 0, 40)
    others = [Lease(workers) for _ in range(40)]
    gate = Gate()
    futures = [lease.submit(gate.job, number) for number, lease in enumerate(others)]
    assert workers.waiting == 40
    await until(lambda: len(gate.begun) == 40)
    assert counts(workers) == (40, 0, 80)
    gate.open.set()
    for future, lease in zip(futures, others, strict=True):
        await result(future)
        lease.release()
    # The polls find their own threads again.
    assert [await run(lease, threading.current_thread) for lease in polls] == own
    for lease in polls:
        lease.release()
    await until(lambda: counts(workers) == (0, 0, 40))


@on_asyncio
async def test_request_that_waits_for_another_one_of_the_same_site_does_not_deadlock() -> None:
    """With a single thread; three deep."""
    workers = new_workers(1)

    async def request(depth: int) -> int:
        lease = Lease(workers)
        try:
            await run(lease, len, "")
            below = await request(depth - 1) if depth else 0
            own: int = await run(lease, len, "x")
            return below + own
        finally:
            lease.release()

    with anyio.fail_after(DEADLINE):
        assert await request(3) == 4
    await until(lambda: counts(workers) == (0, 0, 1))


@on_asyncio
async def test_requests_whose_threads_work_are_not_parked() -> None:
    """However long it takes, and also while a job of theirs waits behind another one."""
    workers = new_workers(2)
    gate = Gate()
    leases = [await held_lease(workers, gate, number) for number in range(2)]
    looks = 0
    tick = workers._tick

    def counted(loop: asyncio.AbstractEventLoop) -> None:
        nonlocal looks
        looks += 1
        tick(loop)

    workers._tick = counted  # type: ignore[method-assign]
    waiting = Lease(workers)
    future = waiting.submit(len, "abc")
    await until(lambda: looks > 5)
    assert counts(workers) == (2, 1, 2)
    gate.open.set()
    await until(lambda: not leases[0].is_busy)
    leases[0].release()
    assert await result(future) == 3
    for lease in (*leases, waiting):
        lease.release()


@on_asyncio
async def test_parked_request_comes_back_before_newcomers() -> None:
    """It has begun already, and its thread is there."""
    workers = new_workers(1)
    gate = Gate()
    parked = await idle_lease(workers)
    worker = parked.worker
    holding = await held_lease(workers, gate, "holding")
    assert parked.is_parked
    new = Lease(workers)
    newcomer = new.submit(gate.job, "newcomer")
    back = parked.submit(gate.job, "back")
    more = parked.submit(gate.job, "more")
    assert counts(workers) == (1, 2, 2)
    gate.open.set()
    await until(lambda: not holding.is_busy)
    holding.release()
    assert await result(back) == "back"
    assert await result(more) == "more"
    assert parked.worker is worker
    parked.release()
    assert await result(newcomer) == "newcomer"
    assert gate.begun == ["holding", "back", "more", "newcomer"]
    new.release()
    await until(lambda: counts(workers) == (0, 0, 1))


@on_asyncio
async def test_parked_requests_come_back_in_the_order_in_which_they_ask() -> None:
    """The first is not passed by those that come after it, else it might wait for ever."""
    workers = new_workers(1)
    gate = Gate()
    parked = [await idle_lease(workers) for _ in range(4)]
    holding = await held_lease(workers, gate, "holding")
    assert all(lease.is_parked for lease in parked)
    futures = [lease.submit(gate.job, number) for number, lease in enumerate(parked)]
    gate.open.set()
    await until(lambda: not holding.is_busy)
    holding.release()
    for future, lease in zip(futures, parked, strict=True):
        await result(future)
        lease.release()
    assert gate.begun == ["holding", 0, 1, 2, 3]


@on_asyncio
async def test_newcomer_is_admitted_though_parked_requests_keep_coming_back() -> None:
    """Twenty streams that ask the database ten times a second leave the one thread idle nearly always."""
    workers = new_workers(1)
    begun = 0

    async def poll() -> None:
        nonlocal begun
        lease = Lease(workers)
        try:
            while True:
                await lease.submit(len, "")
                begun += 1
                await asyncio.sleep(0.1)
        finally:
            lease.release()

    tasks = [asyncio.create_task(poll()) for _ in range(20)]
    try:
        await until(lambda: begun > 60)
        newcomer = Lease(workers)
        assert await asyncio.wait_for(newcomer.submit(len, "abc"), 1) == 3
        newcomer.release()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    await until(lambda: counts(workers)[:2] == (0, 0))


@on_asyncio
@pytest.mark.parametrize("how", ["release", "give back"])
async def test_parked_request_that_ends_frees_nothing_twice(how: str) -> None:
    """It did not count any more, so that nobody gets its place."""
    workers = new_workers(1)
    gate = Gate()
    parked = await idle_lease(workers)
    holding = await held_lease(workers, gate, "holding")
    waiting = Lease(workers)
    future = waiting.submit(gate.job, "waiting")
    if how == "release":
        parked.release()
    else:
        parked.give_back()
    await turn(5)
    assert workers.in_use == 1
    assert gate.begun == ["holding"]
    gate.open.set()
    await until(lambda: not holding.is_busy)
    holding.release()
    await result(future)
    waiting.release()
    await until(lambda: counts(workers) == (0, 0, 1))


@on_asyncio
async def test_parked_request_that_is_released_while_it_waits_runs_its_jobs() -> None:
    """Its thread goes back when they are done."""
    workers = new_workers(1)
    gate = Gate()
    parked = await idle_lease(workers)
    holding = await held_lease(workers, gate, "holding")
    future = parked.submit(gate.job, "last")
    parked.release()
    gate.open.set()
    await until(lambda: not holding.is_busy)
    holding.release()
    assert await result(future) == "last"
    await until(lambda: counts(workers) == (0, 0, 1))


@on_asyncio
async def test_parking_goes_on_with_who_waits_later() -> None:
    """Looks end when nobody waits, and begin again."""
    workers = new_workers(1)
    first = await idle_lease(workers)
    second = await idle_lease(workers)
    await until(lambda: not workers._ticking)
    third = await idle_lease(workers)
    assert (first.is_parked, second.is_parked, third.is_parked) == (True, True, False)
    for lease in (first, second, third):
        lease.release()
    await until(lambda: counts(workers) == (0, 0, 1))


# --- cancellation ----------------------------------------------------------------------------------------


@on_asyncio
async def test_job_cancelled_in_the_queue_never_runs() -> None:
    """The request may go on and run others, in its turn."""
    workers = new_workers(1)
    gate = Gate()
    holding = await held_lease(workers, gate, "holding")
    waiting = Lease(workers)
    cancelled = waiting.submit(gate.job, "cancelled")
    kept_back = waiting.submit(gate.job, "next")
    cancelled.cancel()
    gate.open.set()
    await until(lambda: not holding.is_busy)
    holding.release()
    assert await result(kept_back) == "next"
    assert gate.begun == ["holding", "next"]
    waiting.release()


@on_asyncio
@pytest.mark.parametrize("how", ["future", "waited"])
async def test_job_cancelled_while_it_runs_keeps_its_thread_until_it_ends(how: str) -> None:
    """Though the request is over: nobody else gets the thread before."""
    workers = new_workers(1)
    gate = Gate()
    lease = Lease(workers)
    if how == "future":
        future: Any = lease.submit(gate.job, "cancelled")
    else:
        job = lease.start(gate.job, "cancelled")
        future = asyncio.create_task(job.wait())
    await until(lambda: gate.begun)
    future.cancel()
    await asyncio.wait([future])
    if how == "waited":
        job.give_up()
    lease.release()
    other = Lease(workers)
    later = other.submit(gate.job, "other")
    await turn(5)
    assert counts(workers) == (1, 1, 1)
    gate.open.set()
    assert await result(later) == "other"
    assert gate.begun == ["cancelled", "other"]
    assert gate.ended == ["cancelled", "other"]
    other.release()


@on_asyncio
async def test_waited_job_can_be_waited_for_again_after_a_cancellation() -> None:
    """And gives its result once it is there, or raises the error of the function."""
    lease = Lease(new_workers(1))

    def fail() -> None:
        gate.job()
        raise LookupError("no")

    for fails in (False, True):
        gate = Gate()
        job = lease.start(fail) if fails else lease.start(gate.job, "done")
        task = asyncio.create_task(job.wait())
        await until(partial(has_begun, gate))
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert not job.is_done
        again = asyncio.create_task(job.wait())
        await turn(3)
        gate.open.set()
        if fails:
            with pytest.raises(LookupError, match="no"):
                await asyncio.wait_for(again, DEADLINE)
        else:
            assert await asyncio.wait_for(again, DEADLINE) == "done"
        assert job.is_done
    lease.release()


@on_asyncio
async def test_waited_job_that_ends_at_any_moment_wakes_its_task() -> None:
    """Before, while and after the task begins to wait for it; a thousand times."""
    lease = Lease(new_workers(1))
    dice = random.Random(20251202)
    for number in range(1000):
        job = lease.start(int, number)
        for _ in range(dice.randrange(50)):
            pass
        if dice.random() < 0.1:
            until_sync(partial(getattr, job, "is_done"))
        assert await asyncio.wait_for(job.wait(), DEADLINE) == number
    lease.release()


@on_asyncio
async def test_waited_job_that_ends_just_now_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may end between the look and the waiting, when it wakes nobody."""
    lease = Lease(new_workers(1))
    gate = Gate()
    job = lease.start(gate.job, "done")

    def late() -> Any:
        gate.open.set()
        until_sync(lambda: job.is_done)
        return new_waiter()

    monkeypatch.setattr("asgicore.django_bridge._job.new_waiter", late)
    assert await asyncio.wait_for(job.wait(), DEADLINE) == "done"
    lease.release()


@on_asyncio
async def test_what_a_thread_was_handed_and_failed_is_given_up_quietly() -> None:
    """asyncio does not complain of an error that nobody asks for any more."""
    complaints: list[Any] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: complaints.append(context))
    future = loop.create_future()
    future.set_exception(RuntimeError("late"))
    _Above(future).give_up()
    del future
    gc.collect()
    assert complaints == []


@on_asyncio
async def test_drop_cancelled_takes_a_lease_out_of_the_queue() -> None:
    """If nobody waits for anything in it; it may come again."""
    workers = new_workers(1)
    gate = Gate()
    holding = await held_lease(workers, gate, "holding")
    lease = Lease(workers)
    futures = [lease.submit(gate.job, number) for number in range(2)]
    job = lease.start(gate.job, 2)
    futures[0].cancel()
    job.give_up()
    lease.drop_cancelled()
    assert workers.waiting == 1
    futures[1].cancel()
    lease.drop_cancelled()
    lease.drop_cancelled()
    assert (workers.waiting, lease.is_busy) == (0, False)
    holding.drop_cancelled()
    again = lease.submit(gate.job, "again")
    gate.open.set()
    await until(lambda: not holding.is_busy)
    holding.release()
    assert await result(again) == "again"
    assert gate.begun == ["holding", "again"]
    lease.release()


@on_asyncio
async def test_job_that_is_kept_runs_though_it_is_cancelled() -> None:
    """In the queue and behind another one: what closes a request runs whatever cancels who waits for it."""
    workers = new_workers(1)
    gate = Gate()
    holding = await held_lease(workers, gate, "holding")
    holding.keeps = True
    holding.submit(gate.job, "behind").cancel()
    holding.release()
    waiting = Lease(workers)
    waiting.keeps = True
    waiting.submit(gate.job, "in the queue").cancel()
    waiting.release()
    gate.open.set()
    await until(lambda: len(gate.ended) == 3)
    assert gate.begun == ["holding", "behind", "in the queue"]
    await until(lambda: counts(workers) == (0, 0, 1))


@on_asyncio
async def test_release_in_the_queue_tells_whoever_waits() -> None:
    """A task that outlives its request gets an error that says so, and does not wait for ever."""
    workers = new_workers(1)
    gate = Gate()
    holding = await held_lease(workers, gate, "holding")
    lease = Lease(workers)
    futures = [lease.submit(gate.job, number) for number in range(3)]
    futures[1].cancel()
    lease.release()
    assert workers.waiting == 0
    for future in (futures[0], futures[2]):
        with pytest.raises(RuntimeError, match="request is over"):
            await asyncio.wait_for(future, 1)
    gate.open.set()
    await until(lambda: not holding.is_busy)
    holding.release()
    assert gate.begun == ["holding"]


@on_asyncio
async def test_submit_after_release_raises() -> None:
    """A clear error, with and without a thread, and no thread is taken."""
    workers = new_workers(1)
    for lease in (Lease(workers), await idle_lease(workers)):
        lease.release()
        with pytest.raises(RuntimeError, match="the request is over"):
            lease.submit(len, "")
    assert workers.in_use == 0


@on_asyncio
async def test_jobs_cancelled_at_any_turn_lose_no_thread() -> None:
    """Before, while and just when they end; requests that are over, go on, or give their thread back."""
    workers = new_workers(3)
    dice = random.Random(20251201)

    async def request() -> None:
        lease = Lease(workers)
        try:
            for _ in range(dice.randrange(1, 4)):
                future = lease.submit(len, "abc")
                for _ in range(dice.randrange(6)):
                    await asyncio.sleep(0)
                if dice.random() < 0.5:
                    future.cancel()
                else:
                    assert await result(future) == 3
                if dice.random() < 0.3:
                    lease.give_back()
        finally:
            if dice.random() < 0.3:
                lease.keeps = True
                lease.submit(len, "").cancel()
            lease.release()

    for _ in range(20):
        with anyio.fail_after(DEADLINE):
            async with anyio.create_task_group() as group:
                for _ in range(30):
                    group.start_soon(request)
    await until(lambda: (workers.in_use, workers.waiting) == (0, 0))
    assert workers.alive <= 3
    assert workers._parked == 0
    assert not workers._held


# --- nothing is kept -------------------------------------------------------------------------------------


async def ended(future: asyncio.Future[Any]) -> None:
    """Wait for a job; nothing is raised, so that no frame of the test is part of a traceback."""
    await asyncio.wait([future], timeout=DEADLINE)
    assert future.done()
    if not future.cancelled():
        future.exception()


class Thing:
    """Something that can be seen to go."""


@on_asyncio
async def test_idle_worker_keeps_nothing_of_its_last_job() -> None:
    """Arguments, result and error are gone when the request lets go of them, with the collector off."""
    workers = new_workers(1)
    gone: list[weakref.ref[Any]] = []

    def good(thing: Thing) -> Thing:
        return thing

    def bad(thing: Thing) -> Thing:
        raise LookupError(thing)

    async def request(function: Callable[[Thing], Thing]) -> None:
        thing = Thing()
        gone.append(weakref.ref(thing))
        lease = Lease(workers)
        await ended(lease.submit(function, thing))
        lease.release()
        gone.append(weakref.ref(lease))

    gc.collect()
    gc.disable()
    try:
        for function in (good, bad):
            await request(function)
        await until(lambda: not [ref for ref in gone if ref() is not None])
        assert len(gone) == 4
        assert workers.alive == 1
    finally:
        gc.enable()


@on_asyncio
@pytest.mark.parametrize("how", ["succeed", "fail", "cancelled", "cancelled and fail", "never begun"])
async def test_jobs_leave_no_cycle(how: str) -> None:
    """A hundred jobs of each kind leave nothing to the collector."""
    workers = new_workers(1)

    class Own(Lease):
        """Of this test: threads of those before it may let go of theirs just now."""

    def job(begun: threading.Event, go: threading.Event) -> None:
        begun.set()
        assert go.wait(DEADLINE)
        if "fail" in how:
            raise ValueError("no")

    async def request() -> None:
        begun, go = threading.Event(), threading.Event()
        lease = Own(workers)
        future = lease.submit(job, begun, go)
        if how == "never begun":
            future.cancel()
        elif "cancelled" in how:
            assert begun.wait(DEADLINE)
            future.cancel()
        go.set()
        await ended(future)
        lease.release()

    async def requests(number: int) -> None:
        for _ in range(number):
            await request()
        await until(lambda: workers.in_use == 0)
        await turn(3)

    await requests(5)
    gc.collect()
    gc.disable()
    try:
        # A thread may be about to let go of the last job; a cycle that each job makes is there every time.
        for _ in range(3):
            await requests(100)
            if not (found := collect_cycles([__name__])):
                break
        assert found == []
    finally:
        gc.enable()


@on_asyncio
async def test_workers_that_are_collected_end_their_idle_threads() -> None:
    """Idle threads do not keep them, and close what they have."""
    forgot: list[int] = []
    workers = Workers(5, idle_seconds=1000, forget=lambda: forgot.append(1))
    gate = Gate()
    leases = [Lease(workers) for _ in range(5)]
    futures = [lease.submit(gate.job) for lease in leases]
    gate.open.set()
    for future in futures:
        await result(future)
    for lease in leases:
        lease.release()
    alive, gone = workers.alive_threads, weakref.ref(workers)
    assert len(alive) == 5
    del workers, leases, lease, futures, future
    await until(lambda: gone() is None)
    await until(lambda: not alive)
    assert len(forgot) == 5


@on_asyncio
async def test_workers_that_nobody_holds_finish_the_requests_that_have_a_thread() -> None:
    """A lease keeps them; the thread ends with the last one, which is dropped within the thread itself."""
    gate = Gate()
    lease = Lease(Workers(1, idle_seconds=1000))
    alive = lease._workers.alive_threads
    future = lease.submit(gate.job, 1)
    lease.release()
    del lease
    gate.open.set()
    assert await result(future) == 1
    await until(lambda: not alive)


# --- loops -----------------------------------------------------------------------------------------------


def in_loop(main: Callable[[], Any], is_closed: bool = True) -> Any:
    """Run an asynchronous function in a loop of its own; returns the loop, which may be left open."""
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(asyncio.wait_for(main(), DEADLINE))
    finally:
        if is_closed:
            loop.close()
    return loop


def test_job_whose_loop_is_gone_frees_its_thread() -> None:
    """Nobody can be told: nothing breaks, nothing is written, and who waits in another loop is served."""
    workers = new_workers(1)
    gate = Gate()
    leases = [Lease(workers) for _ in range(2)]

    async def first() -> None:
        leases[0].submit(gate.job, "first")
        await until(lambda: gate.begun)
        leases[0].release()
        leases[1].keeps = True
        leases[1].submit(gate.job, "kept")
        leases[1].release()

    async def second() -> None:
        lease = Lease(workers)
        future = lease.submit(gate.job, "second")
        gate.open.set()
        assert await result(future) == "second"
        lease.release()

    in_loop(first)
    in_loop(second)
    assert gate.ended == ["first", "kept", "second"]
    until_sync(lambda: counts(workers) == (0, 0, 1))


def test_workers_shared_by_several_loops_serve_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every result arrives in the loop that asked for it."""
    # Of four loops on a busy machine one may stand still, and its requests be taken for some that wait.
    monkeypatch.setattr("asgicore.django_bridge._workers._TICK_SECONDS", 60)
    workers = new_workers(4)
    results: dict[int, list[int]] = {name: [] for name in range(4)}

    async def request(name: int, number: int) -> None:
        lease = Lease(workers)
        loop = asyncio.get_running_loop()
        results[name].append(await run(lease, lambda: name * 1000 + number))
        assert asyncio.get_running_loop() is loop
        lease.release()

    async def main(name: int) -> None:
        for _ in range(10):
            await asyncio.gather(*[request(name, number) for number in range(20)])

    loops = [threading.Thread(target=in_loop, args=[partial(main, name)]) for name in results]
    for loop in loops:
        loop.start()
    for loop in loops:
        loop.join(DEADLINE)
    for name in results:
        assert sorted(results[name]) == sorted([name * 1000 + number for number in range(20)] * 10)
    assert counts(workers)[:2] == (0, 0)
    assert workers.alive <= 4


def test_request_is_admitted_where_the_loop_that_looked_after_threads_has_stopped() -> None:
    """A loop that is neither closed nor running looks after nothing; another one's request must not wait for it."""
    workers = new_workers(1)

    async def first() -> None:
        await idle_lease(workers)
        waiting = Lease(workers)
        waiting.submit(len, "").cancel()
        waiting.release()

    async def second() -> None:
        lease = Lease(workers)
        assert await run(lease, len, "abc") == 3
        lease.release()

    stopped = in_loop(first, is_closed=False)
    try:
        in_loop(second)
    finally:
        stopped.close()


def test_request_is_admitted_where_the_loop_that_looked_after_threads_closes_meanwhile() -> None:
    """It had waited already when the other loop went, and nobody else comes."""
    workers = new_workers(1)
    ready = threading.Event()

    async def first() -> None:
        await idle_lease(workers)
        waiting = Lease(workers)
        waiting.submit(len, "").cancel()
        ready.set()
        until_sync(lambda: workers.waiting == 2)
        waiting.release()

    async def second() -> None:
        lease = Lease(workers)
        assert await run(lease, len, "abc") == 3
        lease.release()

    other = threading.Thread(target=in_loop, args=[first])
    other.start()
    assert ready.wait(DEADLINE)
    try:
        in_loop(second)
    finally:
        other.join(DEADLINE)


def test_workers_keep_no_loop_that_is_closed() -> None:
    """Though it was to look after their threads."""
    workers = new_workers(1)

    async def main() -> None:
        held = await idle_lease(workers)
        waiting = Lease(workers)
        waiting.submit(len, "").cancel()
        waiting.release()
        held.release()

    gone = weakref.ref(in_loop(main))
    # The thread may be about to let go of its last job.
    until_sync(lambda: gc.collect() >= 0 and gone() is None)


# --- the system has no more threads ----------------------------------------------------------------------


@on_asyncio
async def test_submit_where_no_thread_can_be_started_raises_that_and_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The request can still be closed, and the next job tries again."""
    workers = new_workers(1)
    lease = Lease(workers)

    def no_thread(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(Worker, "start", no_thread)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="can't start new thread"):
                lease.submit(len, "")
            assert counts(workers) == (0, 0, 0)
            assert not lease.is_busy
    assert await asyncio.wait_for(lease.submit(len, "abc"), 1) == 3
    lease.release()
    assert counts(workers) == (0, 0, 1)


@on_asyncio
async def test_release_where_no_thread_could_be_started_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a request never raises."""
    workers = new_workers(1)
    lease = Lease(workers)

    def no_thread(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(Worker, "start", no_thread)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        lease.submit(len, "")
    lease.release()
    assert counts(workers) == (0, 0, 0)


@on_asyncio
async def test_requests_in_the_queue_where_no_thread_can_be_started_get_that_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each of them, with all its jobs; nobody waits for ever, and the next ones find everything in order."""
    workers = new_workers(1)
    gate = Gate()
    parked = await idle_lease(workers)
    waiting = [Lease(workers) for _ in range(3)]

    def no_thread(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(Worker, "start", no_thread)
        futures = [lease.submit(gate.job, number) for number in range(2) for lease in waiting]
        assert counts(workers) == (1, 3, 1)
        for future in futures:
            with pytest.raises(RuntimeError, match="can't start new thread"):
                await result(future)
        assert counts(workers) == (0, 0, 1)
        for lease in waiting:
            assert not lease.is_busy
            lease.release()
    assert await run(parked, len, "abc") == 3
    parked.release()
    assert gate.begun == []
    assert counts(workers) == (0, 0, 1)


@on_asyncio
async def test_release_while_another_call_fails_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that ends while a call of another one raises gives its thread back, though nothing comes after it."""
    workers = new_workers(2)
    ending = await idle_lease(workers)
    lease = Lease(workers)

    def no_thread(self: threading.Thread) -> None:
        ending.release()
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(Worker, "start", no_thread)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        lease.submit(len, "")
    assert counts(workers) == (0, 0, 1)
    lease.release()


class HeldLock:
    """A lock within whose first holding a request ends, as when the collector comes by: nobody gets in then."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._lock = threading.Lock()
        self._act: Callable[[], object] | None = act

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        act, self._act = self._act, None
        if act is not None:
            act()
        self._lock.release()

    def acquire(self, blocking: bool = True) -> bool:
        return self._lock.acquire(blocking)

    def release(self) -> None:
        self._lock.release()


@on_asyncio
@pytest.mark.parametrize("call", ["run", "run that raises", "ended", "tick", "retire", "exit", "drop cancelled"])
async def test_release_within_a_call_of_the_workers_is_done_when_that_leaves(call: str) -> None:
    """Whatever holds the lock does what found it held, and nothing has to come after it."""
    workers = new_workers(3)
    ending, other = await idle_lease(workers), await idle_lease(workers)
    over = Lease(workers)
    over.release()
    job: Any = None
    if call == "ended":
        gate = Gate()
        job = other.submit(gate.job)
    lock: Any = HeldLock(ending.release)
    workers._lock = lock
    if call == "run":
        await run(other, len, "")
    elif call == "run that raises":
        with pytest.raises(RuntimeError, match="request is over"):
            over.submit(len, "")
    elif call == "ended":
        gate.open.set()
        await result(job)
    elif call == "tick":
        workers._tick(asyncio.get_running_loop())
    elif call == "retire":
        assert not workers.retire(Worker(workers))
    elif call == "exit":
        workers.exit()
    else:
        other.drop_cancelled()
    await until(lambda: workers.in_use == 1)
    assert ending.worker is None
    other.release()
    assert workers.in_use == 0


@on_asyncio
async def test_last_job_of_a_request_runs_before_its_thread_goes_back() -> None:
    """What a finalizer hands over, where nothing can be awaited; without a thread it is not run."""
    workers = new_workers(1)
    gate = Gate()
    lease = await held_lease(workers, gate, "running")
    lease.submit_last(gate.job, "last")
    lease.release()
    assert counts(workers) == (1, 0, 1)
    gate.open.set()
    await until(lambda: workers.in_use == 0)
    assert gate.ended == ["running", "last"]
    Lease(workers).submit_last(gate.job, "never")
    await turn(5)
    assert gate.ended == ["running", "last"]


@on_asyncio
async def test_last_job_that_raises_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody waits for it; and its thread goes back all the same."""
    workers = new_workers(1)
    lease = await idle_lease(workers)

    def fail() -> None:
        raise LookupError("no")

    lease.submit_last(fail)
    lease.release()
    await until(lambda: workers.in_use == 0 and caplog.records)
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert record.exc_info is not None
    assert record.exc_info[0] is LookupError
    assert counts(workers) == (0, 0, 1)


# --- the end ---------------------------------------------------------------------------------------------


@on_asyncio
async def test_aclose_ends_idle_threads_and_refuses_requests() -> None:
    """What they had open is closed when it returns; the error says why; it may be called again."""
    forgot: list[int] = []
    workers = new_workers(4, forget=lambda: forgot.append(1))
    leases = [await idle_lease(workers) for _ in range(3)]
    for lease in leases:
        lease.release()
    assert await workers.aclose()
    assert forgot == [1, 1, 1]
    assert workers.alive == 0
    with pytest.raises(RuntimeError, match="closed"):
        Lease(workers).submit(len, "")
    assert await workers.aclose()
    assert workers.waiting == 0


@on_asyncio
async def test_aclose_waits_for_requests_that_have_a_thread() -> None:
    """They run what they still have to; then their threads end."""
    workers = new_workers(2)
    gate = Gate()
    lease = await held_lease(workers, gate, "first")
    closing = asyncio.create_task(workers.aclose(DEADLINE))
    await turn(5)
    assert not closing.done()
    gate.open.set()
    assert await run(lease, gate.job, "second") == "second"
    lease.release()
    assert await asyncio.wait_for(closing, DEADLINE)
    assert workers.alive == 0


@on_asyncio
async def test_aclose_waits_for_requests_in_the_queue() -> None:
    """They were taken: it returns when they are done, or tells that they are not."""
    workers = new_workers(1)
    first, second = Gate(), Gate()
    holding = await held_lease(workers, first)
    waiting = Lease(workers)
    future = waiting.submit(second.job, "waiting")
    closing = asyncio.create_task(workers.aclose(DEADLINE))
    await turn(5)
    first.open.set()
    await until(lambda: not holding.is_busy)
    holding.release()
    await until(lambda: second.begun)
    done, _ = await asyncio.wait([closing], timeout=0.1)
    if done:
        assert not closing.result(), "a request runs, and its thread is alive"
    second.open.set()
    assert await result(future) == "waiting"
    waiting.release()
    assert await asyncio.wait_for(closing, DEADLINE) or done
    await until(lambda: workers.alive == 0)


@on_asyncio
async def test_aclose_with_a_request_that_does_not_end_returns_after_its_time() -> None:
    """It tells so; the thread ends with the request."""
    workers = new_workers(1)
    gate = Gate()
    lease = await held_lease(workers, gate)
    with anyio.fail_after(DEADLINE):
        assert not await workers.aclose(0.01)
    assert workers.alive == 1
    gate.open.set()
    lease.release()
    await until(lambda: workers.alive == 0)


@on_asyncio
async def test_aclose_does_not_keep_a_request_from_being_closed() -> None:
    """What is kept runs, though the request has no thread yet, or gave it back: else nothing would be closed."""
    workers = new_workers(1)
    gave_back, never_had = await idle_lease(workers), Lease(workers)
    gave_back.give_back()
    assert await workers.aclose()
    closed: list[int] = []
    for number, lease in enumerate((gave_back, never_had)):
        lease.keeps = True
        await run(lease, closed.append, number)
        lease.release()
    assert closed == [0, 1]
    await until(lambda: workers.alive == 0)


# --- races -----------------------------------------------------------------------------------------------


@pytest.mark.untraced
@pytest.mark.timeout(150)  # a switch every microsecond takes its time
def test_workers_under_stress_lend_no_thread_twice_and_forget_nobody() -> None:
    """Six loops in threads of their own, and a switch every microsecond: requests of every fate."""
    workers = new_workers(4, idle_seconds=0.002)
    owners: dict[int, Lease] = {}
    lock = threading.Lock()
    local = threading.local()
    failures: list[str] = []
    answered = itertools.count()

    def job(lease: Lease, step: int) -> int:
        ident = threading.get_ident()
        with lock:
            if owners.setdefault(ident, lease) is not lease:
                failures.append("a thread of two requests")
        if getattr(local, "is_running", False):
            failures.append("two jobs at once in a thread")
        local.is_running = True
        local.is_running = False
        return step

    def disown(lease: Lease) -> None:
        worker = lease.worker
        if worker is not None:
            with lock:
                owners.pop(worker.ident or 0, None)

    async def request(dice: random.Random) -> None:
        lease = Lease(workers)
        try:
            for step in range(dice.randrange(1, 6)):
                futures = [lease.submit(job, lease, step) for _ in range(dice.randrange(1, 4))]
                if dice.random() < 0.2:
                    futures[0].cancel()
                for future in futures:
                    if not future.cancelled():
                        assert await future == step
                if dice.random() < 0.02:
                    await asyncio.sleep(0.1)  # parked, if somebody waits
                if dice.random() < 0.2:
                    await asyncio.sleep(0)
                if dice.random() < 0.2 and not lease.is_busy:
                    disown(lease)
                    lease.give_back()
        finally:
            while lease.is_busy:
                await asyncio.sleep(0)
            disown(lease)
            lease.release()
        next(answered)

    async def main(seed: int) -> None:
        dice = random.Random(seed)
        for _ in range(3):
            await asyncio.gather(*[request(dice) for _ in range(25)])

    def loop(seed: int) -> None:
        try:
            asyncio.run(asyncio.wait_for(main(seed), 100))
        except BaseException as exc:
            failures.append(repr(exc))

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        loops = [threading.Thread(target=loop, args=[seed]) for seed in range(6)]
        for one in loops:
            one.start()
        for one in loops:
            one.join(120)
    finally:
        sys.setswitchinterval(before)
    assert failures == []
    assert next(answered) == 6 * 3 * 25
    assert (workers.in_use, workers.waiting, workers._parked) == (0, 0, 0)
    until_sync(lambda: workers.alive == 0)
    assert not owners


def test_worker_that_is_lent_as_its_time_ends_does_the_job() -> None:
    """Its time was over, but somebody had taken it out already."""
    workers = new_workers(1)

    class Late:
        """The queue of a worker whose time is over in the very moment that it is lent."""

        def __init__(self, jobs: Any) -> None:
            self.jobs = jobs
            self.late: Any = None

        def get(self, timeout: float) -> Any:
            if self.late is None:
                return self.jobs.get(timeout=DEADLINE)
            (worker, act), self.late = self.late, None
            worker.jobs = self.jobs
            act()
            raise Empty

        def put(self, job: Any) -> None:
            self.jobs.put(job)

    async def main() -> None:
        lease = await idle_lease(workers)
        worker: Any = lease.worker
        other = Lease(workers)
        futures: list[asyncio.Future[Any]] = []
        loop = asyncio.get_running_loop()

        def lend() -> None:
            asyncio.run_coroutine_threadsafe(take(), loop).result(DEADLINE)

        async def take() -> None:
            lease.release()
            futures.append(other.submit(threading.current_thread))

        def change() -> None:
            late: Any = Late(worker.jobs)
            late.late = (worker, lend)
            worker.jobs = late

        await run(lease, change)
        await until(lambda: futures)
        assert await result(futures[0]) is worker
        other.release()

    in_loop(main)
    assert workers.alive == 1


# --- the process -----------------------------------------------------------------------------------------

START = """
import asyncio, gc, os, sys, threading, time
from asgicore import _threads
from asgicore._jobs import new_waiter
from asgicore.django_bridge._workers import Lease, Worker, Workers
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


def test_collector_within_a_call_of_the_workers_may_end_a_request() -> None:
    """A request that was thrown away is closed by the collector, at any moment and in any thread: no deadlock."""
    code = """
import faulthandler
faulthandler.dump_traceback_later(5, exit=True)
class Collecting(set):
    def add(self, worker):  # called where the workers must not be changed by two
        gc.collect()
        super().add(worker)
class Request:
    def __init__(self, lease):
        self.lease, self.itself = lease, self
    def __del__(self):
        self.lease.release()
async def main():
    workers = Workers(2)
    await (held := Lease(workers)).submit(len, "")
    workers.alive_threads = Collecting(workers.alive_threads)
    Request(held)
    del held
    lease = Lease(workers)
    assert await lease.submit(len, "abc") == 3
    print(workers.in_use)
    lease.release()
    print(workers.in_use, workers.waiting)
gc.disable()
asyncio.run(main())
"""
    assert run_python(code) == "1\n0 0\n"


def test_exit_with_many_idle_workers_is_clean_and_prompt() -> None:
    """They are told, close what they have, and nothing waits for their time."""
    code = """
closed = []
async def main():
    leases = [Lease(workers) for _ in range(40)]
    futures = [lease.submit(go.wait, 10) for lease in leases]
    while workers.alive < 40:
        await asyncio.sleep(0.001)
    go.set()
    for future, lease in zip(futures, leases):
        await future
        lease.release()
workers = Workers(40, idle_seconds=1000, forget=lambda: closed.append(1))
go = threading.Event()
import atexit
atexit.unregister(_threads._exit)
atexit.register(lambda: print(len(closed)))
atexit.register(_threads._exit)
asyncio.run(main())
print(workers.alive)
"""
    assert run_python(code) == "40\n40\n"


def test_exit_while_a_request_runs_waits_for_it() -> None:
    """What has a thread is finished, and its thread forgets what it had."""
    code = """
go = threading.Event()
def work():
    print("begun", flush=True)
    go.wait(10)
    time.sleep(0.2)
    print("finished", flush=True)
async def main():
    lease = Lease(workers)
    lease.submit(work)
    lease.release()
workers = Workers(1, forget=lambda: print("forgot", flush=True))
asyncio.run(main())
go.set()
"""
    assert run_python(code) == "begun\nfinished\nforgot\n"


@pytest.mark.parametrize("how", ["runs", "waits in asynchronous code", "is in the queue"])
def test_exit_while_a_request_does_not_end_gives_up_after_its_time(how: str) -> None:
    """A process can be stopped, whatever its threads do."""
    code = """
_threads.EXIT_SECONDS = 0.1
async def main():
    begun = threading.Event()
    lease = Lease(workers)
    if how == "waits in asynchronous code":
        await lease.submit(len, "")
    else:
        lease.submit(lambda: (begun.set(), threading.Event().wait(100)))
        begun.wait(10)
    if how == "is in the queue":
        kept.append(other := Lease(workers))
        other.keeps = True
        other.submit(print, "never")
    kept.append(lease)
kept = []
workers = Workers(1)
asyncio.run(main())
print("end")
"""
    assert run_python(f"how = {how!r}{code}") == "end\n"


def test_exit_after_a_queue_was_left_behind_runs_what_is_kept() -> None:
    """A thread that comes free at the exit does not fail with those that wait for one, and complains of nothing."""
    code = """
go = threading.Event()
async def main():
    first, second = Lease(workers), Lease(workers)
    first.submit(go.wait, 10)
    second.keeps = True
    second.submit(print, "kept")
    first.release()
    second.release()
workers = Workers(1)
asyncio.run(main())
go.set()
"""
    assert run_python(code) in ("kept\n", "")


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="needs fork")
def test_child_of_a_fork_begins_with_nothing() -> None:
    """Threads are not copied by a fork: the child has none, takes requests, and ends in peace; the parent goes on."""
    code = """
async def request(workers):
    lease = Lease(workers)
    await asyncio.wait_for(lease.submit(len, ""), 5)
    name = await asyncio.wait_for(lease.submit(threading.get_ident), 5)
    lease.release()
    return name
async def parent():
    await request(workers)
    held.append(Lease(workers))
    await held[0].submit(len, "")
    waiting.append(Lease(workers))
    waiting[0].submit(len, "")
workers = Workers(1)
held, waiting = [], []
asyncio.run(parent())
print(workers.in_use, workers.waiting, workers.alive, flush=True)
if (child := os.fork()) == 0:
    print(workers.in_use, workers.waiting, workers.alive, flush=True)
    asyncio.run(request(workers))
    print(workers.in_use, workers.waiting, workers.alive, flush=True)
    sys.exit(0)
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status), workers.in_use, workers.waiting, workers.alive, flush=True)
held[0].release()
waiting[0].release()
asyncio.run(request(workers))
print(workers.in_use, workers.waiting, workers.alive, flush=True)
"""
    # From Python 3.12 on a fork beside threads is warned of.
    code = "import warnings\nwarnings.simplefilter('ignore', DeprecationWarning)\n" + code
    assert run_python(code) == "1 1 1\n0 0 0\n0 0 1\n0 1 1 1\n0 0 1\n"
