"""_late_scope.py: a scope that is entered late behaves as one that was entered first."""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, cast
from weakref import ref

import anyio
import pytest
from anyio.lowlevel import checkpoint
from conftest import BACKENDS

from asgicore import Handler, Limits, Request, Response, _late_scope
from asgicore._late_scope import EARLY, Outer, ScopeAround, ShieldAround, innermost_scope
from asgicore.testing import DISCONNECT, EMPTY, Channel, Message, http_scope

only_trio = pytest.mark.parametrize("anyio_backend", [b for b in BACKENDS if b.values[0][0] == "trio"])
only_asyncio = pytest.mark.parametrize("anyio_backend", [b for b in BACKENDS if b.values[0][0] == "asyncio"])


@asynccontextmanager
async def plain(trace: list[str]) -> AsyncIterator[None]:
    with anyio.CancelScope() as scope:
        yield
    trace.append(f"plain left, caught: {scope.cancelled_caught}")


@asynccontextmanager
async def shielded(trace: list[str]) -> AsyncIterator[None]:
    with anyio.CancelScope(shield=True):
        yield
    trace.append("shielded left")


@asynccontextmanager
async def timeout(trace: list[str]) -> AsyncIterator[None]:
    with anyio.fail_after(60):
        yield
    trace.append("timeout left")


@asynccontextmanager
async def group(trace: list[str]) -> AsyncIterator[None]:
    async def child() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            trace.append("child ended")

    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(child)
            yield
            tasks.cancel_scope.cancel()
    finally:
        trace.append("group left")


Kind = Callable[[list[str]], AbstractAsyncContextManager[None]]
KINDS: list[Kind] = [plain, shielded, timeout, group]
# Up to two at once, and one of each kind.
STACKS = [
    *(stack for length in range(3) for stack in itertools.product(KINDS, repeat=length)),
    tuple(KINDS),
    tuple(KINDS[::-1]),
]


async def life(stack: tuple[Kind, ...], outer: Kind | None, leaves: bool) -> list[str]:
    """What an endpoint sees that is in these scopes, inside of ``outer``, when it first waits."""
    trace: list[str] = []
    waits, release = anyio.Event(), anyio.Event()

    async def endpoint(request: Request) -> Response:
        try:
            async with AsyncExitStack() as within:
                for kind in stack:
                    await within.enter_async_context(kind(trace))
                waits.set()
                await release.wait()
                trace.append("released")
            trace.append("out of all")
            await checkpoint()
            trace.append("went on")
            return Response("done")
        except BaseException as exc:
            trace.append(type(exc).__name__ if isinstance(exc, Exception) else "cancelled")
            raise

    channel = Channel()
    app = Handler(endpoint)

    async def serve() -> None:
        async with AsyncExitStack() as around:
            if outer is not None:
                await around.enter_async_context(outer(trace))
            await app(http_scope(), channel.receive, channel.send)
            trace.append("served")
            await checkpoint()
            trace.append("server goes on")

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serve)
            await waits.wait()
            if leaves:
                channel.disconnect()
                for _ in range(20):
                    await checkpoint()
            release.set()
    return [*trace, f"{len(channel.sent)} sent"]


@pytest.mark.untraced
@pytest.mark.parametrize("leaves", [False, True], ids=["stays", "leaves"])
@pytest.mark.parametrize("outer", [None, *KINDS], ids=lambda kind: kind.__name__ if kind else "bare")
async def test_scope_entered_late_is_as_one_entered_first(
    outer: Kind | None, leaves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever scopes the endpoint is in when it first waits, it cannot tell when ours was entered."""
    late = [await life(stack, outer, leaves) for stack in STACKS]
    with monkeypatch.context() as patch:
        patch.setattr("asgicore._handler.innermost_scope", lambda: EARLY)
        early = [await life(stack, outer, leaves) for stack in STACKS]
    assert late == early
    assert late[0] == (
        ["cancelled", "served", "server goes on"]
        if leaves
        else ["released", "out of all", "went on", "served", "server goes on"]
    ) + (
        [f"{outer.__name__} left" + (", caught: False" if outer is plain else "")]
        if outer and outer is not group
        else []
    ) + (["child ended", "group left"] if outer is group else []) + ["0 sent" if leaves else "2 sent"]


async def hello(request: Request) -> Response:
    return Response("hello")


@pytest.mark.parametrize("part", [None, b"first"], ids=["first message", "second message"])
@pytest.mark.parametrize("end", ["comes", "late", "closed", "leaves", "notify"])
async def test_receive_that_waits_in_scopes_of_its_own_is_waited_for_in_ours(end: str, part: bytes | None) -> None:
    """Middleware may hold scopes and task groups while it waits for a message; ours are entered around them."""
    trace: list[str] = []
    waits = anyio.Event()
    first: list[Message] = [] if part is None else [{"type": "http.request", "body": part, "more_body": True}]
    come = anyio.Event()

    async def on_receive(index: int) -> None:
        if index != len(first):
            return
        async with AsyncExitStack() as within:
            for kind in (plain, group, timeout):
                await within.enter_async_context(kind(trace))
            waits.set()
            await come.wait()
        trace.append("came")

    handler = Handler(
        hello,
        limits=Limits(body_timeout_seconds=0.02 if end == "late" else 5),
        on_disconnect="notify" if end == "notify" else "cancel",
    )
    channel = Channel([*first, DISCONNECT if end == "leaves" else EMPTY], on_receive=on_receive)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(handler, http_scope(), channel.receive, channel.send)
            await waits.wait()
            if end == "closed":
                await handler.aclose(0)
            elif end != "late":
                come.set()
    if end in ("late", "closed"):
        assert trace == ["child ended", "group left"]
        assert channel.status == (408 if end == "late" else 503)
    else:
        assert trace == ["timeout left", "child ended", "group left", "plain left, caught: False", "came"]
        assert channel.sent == [] if end == "leaves" else channel.status == 200


@only_asyncio
async def test_innermost_scope_is_what_the_task_is_in() -> None:
    """None outside of every scope of a task's own, else the scope that was entered last."""
    seen: list[Any] = []

    async def task() -> None:
        seen.append(innermost_scope())
        with anyio.CancelScope() as scope:
            assert innermost_scope() is scope
            with anyio.CancelScope() as inner:
                await checkpoint()
                assert innermost_scope() is inner
            assert innermost_scope() is scope

    await asyncio.create_task(task())
    assert seen == [None]


def test_innermost_scope_is_none_where_no_task_is_in_any(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then nothing is asked of the task."""
    monkeypatch.setattr(_late_scope, "_states", {})
    monkeypatch.setattr(_late_scope, "_state_of", None)

    async def ask() -> object:
        return innermost_scope()

    assert asyncio.run(ask()) is None


@only_trio
async def test_innermost_scope_on_trio_is_what_the_task_keeps_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is another one within each scope, and the same one again outside of it; tried out at the first call."""
    monkeypatch.setattr(_late_scope, "_is_trio_tried", False)
    monkeypatch.setattr(_late_scope, "_status_class", None)
    outside = innermost_scope()
    assert outside is not EARLY
    with anyio.CancelScope():
        inside = innermost_scope()
        assert inside is not outside
        await checkpoint()
        assert innermost_scope() is inside
    assert innermost_scope() is outside


def test_innermost_scope_outside_of_all_loops_is_early() -> None:
    """Where trio is there, but does not run: whoever enters a scope there hears of it."""
    pytest.importorskip("trio")
    assert innermost_scope() is EARLY


class Unknown:
    """anyio's module, as it may be one day."""


class Shuffled(ScopeAround):
    """Enters inside of what is there, as if the books were kept in another way."""

    def __enter__(self) -> Shuffled:
        self._scope = _late_scope._scope_class()
        self._scope.__enter__()
        return self


class Failing(ScopeAround):
    def __enter__(self) -> Failing:
        raise AttributeError("_parent_scope")


def look_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have anyio's books be looked for as before the first request."""
    monkeypatch.setattr(_late_scope, "_state_of", _late_scope._look_up)
    monkeypatch.setattr(_late_scope, "_states", _late_scope._UNREAD)


def test_looking_leaves_nothing_in_the_books(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody is in a scope, the trial was in the last one; a scope that another task is in is not ours."""
    look_again(monkeypatch)

    async def main() -> None:
        assert innermost_scope() is None
        assert ref(asyncio.current_task()) not in _late_scope._states
        in_scope, is_over = asyncio.Event(), asyncio.Event()

        async def other() -> None:
            with anyio.CancelScope() as scope:
                assert innermost_scope() is scope
                look_again(monkeypatch)
                assert innermost_scope() is scope
                in_scope.set()
                await is_over.wait()

        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            group.create_task(other())
            await in_scope.wait()
            assert len(_late_scope._states) > 0
            assert innermost_scope() is None
            is_over.set()

    with asyncio.Runner() as runner:
        runner.run(main())


@only_asyncio
@pytest.mark.parametrize("around", [Shuffled, Failing])
@pytest.mark.parametrize("outer", [False, True], ids=["bare", "in a scope"])
async def test_books_that_are_kept_otherwise_are_left_alone(
    around: type[ScopeAround], outer: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the trial does not come out right, scopes are entered first, and all else works."""

    async def trial() -> None:
        async with AsyncExitStack() as stack:
            if outer:
                await stack.enter_async_context(plain([]))
            look_again(monkeypatch)
            monkeypatch.setattr(_late_scope, "ScopeAround", around)
            assert innermost_scope() is EARLY
            assert innermost_scope() is EARLY
            assert (await life((timeout,), None, True))[-1] == "0 sent"

    await asyncio.create_task(trial())


@only_trio
@pytest.mark.parametrize("around", [Shuffled, Failing])
async def test_books_of_trio_that_are_kept_otherwise_are_left_alone(
    around: type[ScopeAround], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the trial does not come out right, scopes are entered first, bodies are timed all the same."""
    monkeypatch.setattr(_late_scope, "_is_trio_tried", False)
    monkeypatch.setattr(_late_scope, "_status_class", None)
    with monkeypatch.context() as patch:
        patch.setattr(_late_scope, "_scope_class", type(anyio.CancelScope()))
        patch.setattr(_late_scope, "ScopeAround", around)
        assert innermost_scope() is EARLY
    assert innermost_scope() is EARLY
    assert (await life((timeout,), None, True))[-1] == "0 sent"
    assert (await life((timeout,), None, False))[-1] == "2 sent"
    for mode in ("cancel", "notify"):
        channel = Channel([{**EMPTY, "more_body": True}])
        handler = Handler(hello, limits=Limits(body_timeout_seconds=0.01), on_disconnect=cast("Any", mode))
        await handler(http_scope(), channel.receive, channel.send)
        assert channel.status == 408


@only_asyncio
async def test_books_that_are_gone_are_not_looked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """An anyio without what is read here serves as before."""
    look_again(monkeypatch)
    monkeypatch.setattr(
        _late_scope, "_modules", {**_late_scope._modules, type(anyio.CancelScope()).__module__: Unknown()}
    )
    assert innermost_scope() is EARLY
    assert (await life((plain,), None, True))[-1] == "0 sent"


@only_asyncio
async def test_trio_as_a_guest_of_asyncio_keeps_books_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """There, asyncio has a loop that runs, and no task."""
    trio = pytest.importorskip("trio")
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[Any] = loop.create_future()

    async def guest() -> tuple[Outer, list[str]]:
        return innermost_scope(), await life((timeout,), None, True)

    with anyio.fail_after(10):
        trio.lowlevel.start_guest_run(
            guest,
            run_sync_soon_threadsafe=loop.call_soon_threadsafe,
            done_callback=ended.set_result,
            host_uses_signal_set_wakeup_fd=True,
        )
        outcome = await ended
    outer, trace = outcome.unwrap()
    assert outer is not EARLY
    assert outer is not None
    assert trace[-1] == "0 sent"
    with monkeypatch.context() as patch:
        patch.setattr(_late_scope, "_modules", {name: module for name, module in sys.modules.items() if name != "trio"})
        assert not isinstance(innermost_scope(), trio.CancelScope)


@pytest.mark.parametrize("early", [False, True], ids=["late", "early"])
@pytest.mark.parametrize("seconds", [None, 5.0])
async def test_shield_holds_off_what_cancels_outside(
    seconds: float | None, early: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a time or without one; nothing is shielded before it begins."""
    if early:
        monkeypatch.setattr(_late_scope, "innermost_scope", lambda: EARLY)
    finished = False
    with anyio.fail_after(5), anyio.CancelScope() as outside:
        shield = ShieldAround()
        with shield:
            shield.begin(seconds)
            outside.cancel()
            await checkpoint()
            finished = True
        await checkpoint()
    assert finished
    assert outside.cancelled_caught
    assert not shield.is_cut
