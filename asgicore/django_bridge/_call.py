# pyright: basic
# Django has no types of its own.
"""Asynchronous work of a request that nothing cuts short."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import Any, Generic, TypeVar

from .._jobs import bring, settle

__all__ = ["Call"]

T = TypeVar("T")


class Call(Generic[T]):
    """Runs a coroutine in a task of its own, out of reach of whoever cancels the request.

    asgiref leaves a thread to itself when the task that waits for it is cancelled, and cancels what was called from
    that thread.
    """

    __slots__ = ("_context", "task")

    def __init__(self, work: Coroutine[Any, Any, T]) -> None:
        self._context = copy_context()
        self.task: asyncio.Task[T] = asyncio.get_running_loop().create_task(work, context=self._context)

    @property
    def is_done(self) -> bool:
        """Whether it has ended."""
        return self.task.done()

    async def wait(self) -> T:
        """Return or raise what the coroutine did, with its changes of context variables.

        A cancellation that arrives meanwhile is raised when it has ended.
        """
        await self.settle()
        return self.take()

    def take(self) -> T:
        """As ``wait()``, when it has ended."""
        bring(self._context)
        return self.task.result()

    def cancelled(self, cancel: Callable[[], object], is_once: bool) -> None:
        """As under stock Django, ``anyio.from_thread`` does not know the threads of its views."""

    def told(self) -> None:
        """As ``cancelled()``."""

    async def settle(self) -> None:
        """Wait for the end, whatever cancels; a cancellation that arrives meanwhile is raised then."""
        await settle(self)

    async def ended(self) -> None:
        """Wait for the end, or for a cancellation."""
        await asyncio.wait((self.task,))
