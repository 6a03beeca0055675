"""Where code stands: the line at which a coroutine waits, or a thread runs."""

from __future__ import annotations

from os.path import basename
from types import CodeType, FrameType
from typing import Any, Final

__all__ = ["describe_code", "describe_thread", "describe_wait", "runs_code_of_others"]

# What stands between the code under test and what it waits for.
_PLUMBING: Final = ("anyio", "asgicore.testing", "asyncio", "outcome", "trio", "uvloop")

# What a worker thread of a pool consists of while it has nothing to do.
_POOLS: Final = (*_PLUMBING, "asgicore", "concurrent", "contextlib", "queue", "threading")

# What pools call their jobs by: the executor's, Trio's, ours.
_JOBS: Final = ("_WorkItem.run", "WorkerThread._handle_job", "Job.run")

# Where anyio's threads call theirs, and wait for the next in a function of the queue.
_LOOP: Final = "WorkerThread.run"


def describe_code(code: CodeType) -> str:
    """The name of a function and the line it begins at."""
    return f"{code.co_qualname}() at {basename(code.co_filename)}:{code.co_firstlineno}"


def describe_wait(awaitable: Any) -> str:
    """The line at which a coroutine waits, of the code under test rather than of what that calls; ``""`` if it does
    not wait."""
    return _describe(_suspended(awaitable), "waiting", _PLUMBING)


def describe_thread(frame: FrameType | None) -> str:
    """The line that a thread is at, of the code under test; ``""`` if it has none."""
    return _describe(_stack(frame), "running", _POOLS)


def runs_code_of_others(frame: FrameType | None) -> bool:
    """Whether a thread of a pool is at work: something on its stack belongs neither to the pool nor to its queue, or
    the pool itself calls a job, which is not written in Python."""
    frames = _stack(frame)
    names = [frame.f_code.co_qualname for frame in frames]
    is_at_job = names[-1:] == [_LOOP] or not set(names).isdisjoint(_JOBS)
    return is_at_job or any(not _is_of(_POOLS, frame) for frame in frames)


def _suspended(awaitable: Any) -> list[FrameType]:
    """The frames of what is suspended, outermost first."""
    frames: list[FrameType] = []
    while awaitable is not None:
        # Coroutines and generators name the same things differently; what stands between does not tell.
        frame: FrameType | None = getattr(awaitable, "cr_frame", None) or getattr(awaitable, "gi_frame", None)
        if frame is None:
            break
        frames.append(frame)
        awaitable = awaitable.cr_await if hasattr(awaitable, "cr_await") else awaitable.gi_yieldfrom
    return frames


def _stack(frame: FrameType | None) -> list[FrameType]:
    """The frames of a thread, outermost first."""
    frames: list[FrameType] = []
    while frame is not None:
        frames.insert(0, frame)
        frame = frame.f_back
    return frames


def _describe(frames: list[FrameType], doing: str, plumbing: tuple[str, ...]) -> str:
    if not frames:
        return ""
    frame = next((frame for frame in reversed(frames) if not _is_of(plumbing, frame)), frames[-1])
    return f"{doing} at {basename(frame.f_code.co_filename)}:{frame.f_lineno} in {frame.f_code.co_qualname}()"


def _is_of(packages: tuple[str, ...], frame: FrameType) -> bool:
    name: str = frame.f_globals.get("__name__", "")
    return any(name == package or name.startswith(f"{package}.") for package in packages)
