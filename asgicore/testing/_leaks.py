"""A block of code leaves nothing behind, or an error tells what."""

from __future__ import annotations

import functools
import gc
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from inspect import iscoroutinefunction
from typing import Any, Final, TypeVar, cast

import anyio

from . import _living
from ._errors import Leak, LeakError

__all__ = ["LeakGuard"]

F = TypeVar("F", bound=Callable[..., Any])

_POLL_SECONDS: Final = 0.002


class LeakGuard:
    """Compares what there is after a block with what there was before it, and raises ``LeakError``.

    ::

        async with LeakGuard():
            await client.get("/")

    ``with`` does the same where no event loop runs, and as a decorator it guards each call of a function. What was
    there before the block does not count, and neither do idle threads of pools. A block that raises is not looked at.
    Two guards may be nested, but not overlap otherwise.

    Args:
        tasks: Whether tasks count that have not ended: those of the running event loop, system tasks included.
        threads: Whether threads count that have not ended, and threads of pools that still work.
        descriptors: Whether open file descriptors count, of files, sockets and pipes; not on Windows.
        temp_files: Whether files count that the module ``tempfile`` made and nobody removed.
        cycles: Whether objects count that only the garbage collector can free: of these packages, or ``True`` for all.
            The collector does not run within the block then.
        settle_seconds: How long the rest may take to end after the block.
    """

    def __init__(
        self,
        *,
        tasks: bool = True,
        threads: bool = True,
        descriptors: bool = True,
        temp_files: bool = True,
        cycles: bool | Collection[str] = False,
        settle_seconds: float = 1.0,
    ) -> None:
        if isinstance(cycles, str):
            raise TypeError(f"cycles takes the names of packages as a list, not {cycles!r}")
        self.tasks = tasks
        self.threads = threads
        self.descriptors = descriptors
        self.temp_files = temp_files
        self.cycles = cycles
        self.settle_seconds = settle_seconds
        self._before: dict[str, set[Any]] = {}
        self._directory: str | None = None
        self._directory_before: str | None = None
        self._had_collector = False

    def __enter__(self) -> LeakGuard:
        if self._before:
            raise RuntimeError("this guard is at work already")
        if self.temp_files:
            directory = tempfile.mkdtemp(prefix="leak-guard-")
            self._directory, self._directory_before = directory, tempfile.tempdir
            tempfile.tempdir = directory
        if self.cycles:
            gc.collect()
            self._had_collector = gc.isenabled()
            gc.disable()
        self._before = self._look()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        try:
            if kind is None:
                for _ in self._settling():
                    time.sleep(_POLL_SECONDS)
                self._judge()
        finally:
            self._end()

    async def __aenter__(self) -> LeakGuard:
        return self.__enter__()

    async def __aexit__(self, kind: type[BaseException] | None, *error: object) -> None:
        try:
            if kind is None:
                for _ in self._settling():
                    await anyio.sleep(_POLL_SECONDS)
                self._judge()
        finally:
            self._end()

    def __call__(self, function: F) -> F:
        """Guard each call of ``function``, asynchronous or not."""

        async def guarded_async(*args: Any, **kwargs: Any) -> Any:
            async with self:
                return await function(*args, **kwargs)

        def guarded(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        wrapper: Any = guarded_async if iscoroutinefunction(function) else guarded
        return cast("F", functools.wraps(function)(wrapper))

    # --- what there is

    def _look(self) -> dict[str, set[Any]]:
        return {
            "task": _living.tasks() if self.tasks else set(),
            "thread": _living.threads() if self.threads else set(),
            "file descriptor": _living.descriptors() if self.descriptors else set(),
            "temporary file": set(os.listdir(self._directory)) if self._directory else set(),
        }

    def _find(self) -> list[tuple[str, Any]]:
        return [(kind, one) for kind, found in self._look().items() for one in found - self._before[kind]]

    def _settling(self) -> Iterator[None]:
        """Once for each time that it is worth to wait: nothing tells when a thread or a task has ended."""
        deadline = time.monotonic() + self.settle_seconds
        while self._find() and time.monotonic() < deadline:
            yield

    def _judge(self) -> None:
        leaks = [_LEAKS[kind](one) for kind, one in self._find()]
        if self.cycles:
            leaks += _living.collect_cycles(None if self.cycles is True else self.cycles)
        if leaks:
            raise LeakError(tuple(leaks))

    def _end(self) -> None:
        self._before = {}
        if self._directory is not None:
            tempfile.tempdir = self._directory_before
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None
        if self.cycles and self._had_collector:
            gc.enable()


def _leak_of_file(name: str) -> Leak:
    return Leak("temporary file", name, "")


_LEAKS: Final[dict[str, Callable[[Any], Leak]]] = {
    "task": _living.leak_of_task,
    "thread": _living.leak_of_thread,
    "file descriptor": _living.leak_of_descriptor,
    "temporary file": _leak_of_file,
}
