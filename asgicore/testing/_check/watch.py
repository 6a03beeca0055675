"""What an application leaves behind or does beside its answers: threads, generators, files, memory, time."""

from __future__ import annotations

import gc
import os
import queue
import selectors
import sys
import sysconfig
import threading
import tracemalloc
import warnings
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from time import perf_counter, sleep
from types import FrameType
from typing import Any, Final

import anyio
from anyio.abc import TaskStatus
from anyio.lowlevel import checkpoint

__all__ = [
    "STDLIB",
    "Lag",
    "LeftOpen",
    "audit",
    "busy_threads",
    "traced_memory",
]


# --- threads ---------------------------------------------------------------------------------------------

# Where a thread that has nothing to do waits.
_WAITING: Final = {module.__file__ for module in (threading, queue, selectors)}
STDLIB: Final = sysconfig.get_path("stdlib")


def busy_threads() -> dict[int, str]:
    """Threads that run something for somebody, by their number: what they run.

    A thread is idle if nothing but waiting stands above the function that it was started with. Of a thread whose
    function works itself, without calling any other, that cannot be told.
    """
    found: dict[int, str] = {}
    for number, top in sys._current_frames().items():
        if number in (threading.main_thread().ident, threading.get_ident()):
            continue
        frames = list(_frames(top))
        working = [frame.f_code for frame in frames[1:] if frame.f_code.co_filename not in _WAITING]
        if working:
            # Where the application itself is, rather than what of the standard library it waits in.
            others = [code for code in working if not code.co_filename.startswith(STDLIB)]
            code = (others or working)[-1]
            found[number] = f"{code.co_qualname} in {code.co_filename}:{code.co_firstlineno}"
    return found


def _frames(top: FrameType) -> Iterator[FrameType]:
    """The frames of a thread from its own function on, the outermost first."""
    stack: list[FrameType] = []
    frame: FrameType | None = top
    while frame is not None:
        stack.append(frame)
        frame = frame.f_back
    stack.reverse()
    while stack and stack[0].f_code.co_filename == threading.__file__:
        stack.pop(0)
    yield from stack


# --- what is left to the collector -------------------------------------------------------------------------


class LeftOpen:
    """Within ``with``: asynchronous generators and files that nobody closed before they were forgotten."""

    def __init__(self) -> None:
        self.generators: list[str] = []
        self.files: list[str] = []

    def __enter__(self) -> LeftOpen:
        self._hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(finalizer=self._finalize)
        self._catching = warnings.catch_warnings(record=True)
        self._caught = self._catching.__enter__()
        warnings.simplefilter("always", ResourceWarning)
        return self

    def _finalize(self, generator: Any) -> None:
        self.generators.append(generator.ag_code.co_qualname)
        if self._hooks.finalizer is not None:
            self._hooks.finalizer(generator)

    async def look(self) -> None:
        """Have what was forgotten come to light."""
        gc.collect()
        # The loop closes generators in tasks of their own.
        for _ in range(3):
            await checkpoint()
        caught = [str(one.message) for one in self._caught if issubclass(one.category, ResourceWarning)]
        self.files = [text for text in caught if text.startswith("unclosed")]

    def __exit__(self, *exc: object) -> None:
        self._catching.__exit__(None, None, None)
        sys.set_asyncgen_hooks(*self._hooks)


# --- disk and threads --------------------------------------------------------------------------------------


class _Audit:
    """What happened since it was begun."""

    def __init__(self) -> None:
        self.loop_thread = threading.get_ident()
        self.opened: list[str] = []
        """Paths that were opened in the thread of the event loop."""
        self.threads = 0
        """How many threads were started."""


_audit: _Audit | None = None
_is_hooked = False

# The interpreter's own, and what the system has no disk for.
_NOT_DISK: Final = (".py", ".pyc", ".so", ".pyd", ".dll", ".json", ".txt", "METADATA")
_NO_DISK: Final = ("/dev/", "/proc/", "/sys/")


def see(event: str, args: tuple[Any, ...]) -> None:
    """The interpreter's audit hook; what it must not do is fail."""
    if _audit is not None and event == "open":
        path = args[0]
        if isinstance(path, bytes):
            path = os.fsdecode(path)
        is_here = threading.get_ident() == _audit.loop_thread
        if is_here and isinstance(path, str) and not path.endswith(_NOT_DISK) and not path.startswith(_NO_DISK):
            _audit.opened.append(path)


@contextmanager
def audit() -> Generator[_Audit]:
    """Within ``with``: files that are opened on the event loop, threads that are started."""
    global _audit, _is_hooked
    if not _is_hooked:
        sys.addaudithook(see)
        _is_hooked = True
    _audit = found = _Audit()
    # Before 3.12 there is no audit event for it.
    start = threading.Thread.start

    def count(thread: threading.Thread) -> None:
        found.threads += 1
        start(thread)

    threading.Thread.start = count  # type: ignore[method-assign, assignment]
    try:
        yield found
    finally:
        threading.Thread.start = start  # type: ignore[method-assign]
        _audit = None


# --- memory and time -----------------------------------------------------------------------------------------


@contextmanager
def traced_memory() -> Generator[Any]:
    """Within ``with``: a function that tells how many bytes at most were taken since."""
    was_tracing = tracemalloc.is_tracing()
    tracemalloc.start()
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    try:
        yield lambda: tracemalloc.get_traced_memory()[1] - before
    finally:
        if not was_tracing:
            tracemalloc.stop()


_BEAT_SECONDS: Final = 0.01


class Lag:
    """Within ``async with``: how late the event loop is at most, and how late a thread beside it, in seconds.

    A machine that is busy with something else makes both late.
    """

    def __init__(self) -> None:
        self.loop = 0.0
        self.thread = 0.0
        self._is_over = False

    async def __aenter__(self) -> Lag:
        self._beside = threading.Thread(target=self._beat, name="asgicore check", daemon=True)
        self._beside.start()
        self._group = anyio.create_task_group()
        await self._group.__aenter__()
        # What is late before the first beat would not be seen.
        await self._group.start(self._beat_on_loop)
        return self

    def _beat(self) -> None:
        while not self._is_over:
            began = perf_counter()
            sleep(_BEAT_SECONDS)
            self.thread = max(self.thread, perf_counter() - began - _BEAT_SECONDS)

    async def _beat_on_loop(self, *, task_status: TaskStatus[None]) -> None:
        began = perf_counter()
        task_status.started()
        while True:
            await anyio.sleep(_BEAT_SECONDS)
            now = perf_counter()
            self.loop = max(self.loop, now - began - _BEAT_SECONDS)
            began = now

    async def __aexit__(self, *exc: Any) -> None:
        self._is_over = True
        self._group.cancel_scope.cancel()
        await self._group.__aexit__(None, None, None)
        self._beside.join()
