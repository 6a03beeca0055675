"""What is alive in this process right now: tasks, threads and file descriptors, and the garbage that is in cycles."""

from __future__ import annotations

import asyncio
import gc
import io
import os
import socket
import sys
import threading
import tracemalloc
from collections import Counter
from collections.abc import Iterable, Iterator
from os.path import basename
from types import FrameType, FunctionType, TracebackType
from typing import Any, Final, cast

from ._errors import Leak
from ._where import describe_code, describe_thread, describe_wait, runs_code_of_others

__all__ = ["collect_cycles", "descriptors", "leak_of_descriptor", "leak_of_task", "leak_of_thread", "tasks", "threads"]

# Threads of pools stay when their work is done, for the next; they count while they work.
_POOLS: Final = ("AnyIO worker thread", "Trio thread", "ThreadPoolExecutor-", "asyncio_", "uvloop_", "asgicore-")

# What runs the tests in anyio's pytest plugin.
_RUNNER: Final = "TestRunner._run_tests_and_fixtures"

_DESCRIPTORS: Final = "/dev/fd"


# --- tasks -----------------------------------------------------------------------------------------------


def tasks() -> set[Any]:
    """The tasks that have not ended: of the running event loop, or where none runs, of all loops of asyncio."""
    try:
        found: set[Any] = set(asyncio.all_tasks())
    except RuntimeError:
        trio = sys.modules.get("trio")
        if trio is not None and (root := _trio_root(trio)) is not None:
            return set(_tasks_under(root))
        found = {one for one in gc.get_objects() if issubclass(type(one), asyncio.Task) and not one.done()}
    return {task for task in found if getattr(task.get_coro(), "__qualname__", "") != _RUNNER}


def _trio_root(trio: Any) -> Any:
    try:
        return trio.lowlevel.current_root_task()
    except RuntimeError:
        return None


def _tasks_under(task: Any) -> Iterator[Any]:
    yield task
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            yield from _tasks_under(child)


def leak_of_task(task: Any) -> Leak:
    """What there is to say of a task, of asyncio or trio."""
    name: str
    coro: Any
    if hasattr(task, "get_coro"):
        name, coro = task.get_name(), task.get_coro()
    else:
        name, coro = task.name, task.coro
    code = getattr(coro, "cr_code", None) or getattr(coro, "gi_code", None)
    places = (f"of {describe_code(code)}" if code else "", describe_wait(coro))
    return Leak("task", repr(name), ", ".join(place for place in places if place))


# --- threads ---------------------------------------------------------------------------------------------


def threads() -> set[threading.Thread]:
    """The threads that have something to do, but for the current one."""
    frames = sys._current_frames()
    # This function's own frame would hold itself.
    del frames[threading.get_ident()]
    return {
        thread
        for thread in threading.enumerate()
        if thread is not threading.current_thread()
        and (not thread.name.startswith(_POOLS) or runs_code_of_others(frames.get(thread.ident or 0)))
    }


def leak_of_thread(thread: threading.Thread) -> Leak:
    """What there is to say of a thread."""
    return Leak("thread", repr(thread.name), describe_thread(sys._current_frames().get(thread.ident or 0)))


# --- file descriptors ------------------------------------------------------------------------------------


def descriptors() -> set[tuple[int, int, int]]:
    """The open file descriptors, with what tells two files of the same number apart; empty where the system has none
    to list."""
    try:
        names = os.listdir(_DESCRIPTORS)
    except OSError:
        return set()
    found: set[tuple[int, int, int]] = set()
    for number in map(int, names):
        try:
            status = os.fstat(number)
        except OSError:
            continue  # that of the listing itself
        found.add((number, status.st_dev, status.st_ino))
    return found


def leak_of_descriptor(descriptor: tuple[int, int, int]) -> Leak:
    """What there is to say of a file descriptor: what it leads to, and who holds it."""
    number = descriptor[0]
    try:
        what = f"{number} ({os.readlink(f'{_DESCRIPTORS}/{number}')})"
    except OSError:
        what = str(number)
    return Leak("file descriptor", what, ", ".join(_holders(number)))


def _holders(number: int) -> Iterator[str]:
    for one in gc.get_objects():
        kind = cast("type[object]", type(one))
        if not issubclass(kind, io.FileIO | socket.socket):
            continue
        try:
            is_holder = one.fileno() == number
        except ValueError:
            continue  # closed
        if is_holder:
            yield f"held by a {kind.__name__}{_made_at(one)}"


def _made_at(one: object) -> str:
    """Where an object was made; only tracemalloc knows."""
    frames = tracemalloc.get_object_traceback(one)
    return f", made at {basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""


# --- cycles ----------------------------------------------------------------------------------------------


def collect_cycles(packages: Iterable[str] | None) -> list[Leak]:
    """Collect the garbage that only the collector can free, and tell what was among it.

    Suspended generators and coroutines are closed before anybody sees them: what they held is told, they are not.

    Args:
        packages: Whose objects count; everything if ``None``.
    """
    debug = gc.get_debug()
    known = len(gc.garbage)
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        gc.collect()
        found = Counter(map(_describe, _of_packages(gc.garbage[known:], packages)))
    finally:
        gc.set_debug(debug)
        del gc.garbage[known:]
    return [Leak("cycle", f"with {count} x {what}", where) for (what, where), count in found.items()]


def _of_packages(garbage: list[Any], packages: Iterable[str] | None) -> list[Any]:
    if packages is None:
        return garbage
    named = tuple(packages)
    return [
        one for one in garbage if _module(one).startswith(tuple(f"{name}." for name in named)) or _module(one) in named
    ]


def _module(one: Any) -> str:
    frame = _frame(one)
    if frame is not None:
        module: Any = frame.f_globals.get("__name__")
    elif type(one).__module__ == "builtins":
        module = getattr(one, "__module__", None)  # a function tells
    else:
        module = type(one).__module__
    return module if isinstance(module, str) else ""


def _frame(one: Any) -> FrameType | None:
    if isinstance(one, TracebackType):
        return one.tb_frame
    return one if isinstance(one, FrameType) else None


def _describe(one: Any) -> tuple[str, str]:
    kind = cast("type[object]", type(one))
    what = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    frame = _frame(one)
    code = frame.f_code if frame else one.__code__ if isinstance(one, FunctionType) else None
    return what, describe_code(code) if code else _made_at(one).removeprefix(", ")
