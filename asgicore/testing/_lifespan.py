"""Startup and shutdown of the application under test.

Source: ASGI specification "Lifespan Protocol" 2.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any

from anyio import CancelScope, Event, create_task_group, get_cancelled_exc_class, move_on_after

from ._errors import LifespanError
from ._exchange import App
from ._requests import Message
from ._servers import Server

__all__ = ["Lifespan"]


class Lifespan:
    """One lifespan scope, open within ``async with``.

    Args:
        app: The application.
        server: Whose scope it is.
        state: What the application fills.
        timeout_seconds: How long startup and shutdown may take, each.
    """

    def __init__(self, app: App, server: Server, state: dict[str, Any], timeout_seconds: float) -> None:
        self._app = app
        self._timeout = timeout_seconds
        self._scope: dict[str, Any] = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}}
        if server.has_state:
            self._scope["state"] = state
        self._stack = AsyncExitStack()
        self._cancel_scope = CancelScope()
        self._messages = iter(({"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}))
        self._phase = "startup"
        self._stopping = Event()
        self._answered = Event()
        self._answer: Mapping[str, Any] = {}
        self._ended = Event()
        self._error: BaseException | None = None

    async def __aenter__(self) -> None:
        group = await self._stack.enter_async_context(create_task_group())
        group.start_soon(self._run)
        try:
            await self._expect_answer()
        except BaseException:
            self._cancel_scope.cancel()
            await self._stack.__aexit__(None, None, None)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        if error is not None and isinstance(error, get_cancelled_exc_class()):
            self._cancel_scope.cancel()
            return await self._stack.__aexit__(kind, error, traceback)
        try:
            self._phase, self._answer = "shutdown", {}
            if not self._ended.is_set():
                self._answered = Event()
            self._stopping.set()
            await self._expect_answer()
            with move_on_after(self._timeout):
                await self._ended.wait()
        except Exception as failure:
            if error is None:
                raise
            error.add_note(f"the shutdown of the application failed: {failure!r}")
        finally:
            self._cancel_scope.cancel()
            await self._stack.__aexit__(None, None, None)
        return None

    async def _run(self) -> None:
        try:
            with self._cancel_scope:
                await self._app(self._scope, self._receive, self._take)
        except get_cancelled_exc_class():
            raise
        except BaseException as exc:
            self._error = exc
        finally:
            self._ended.set()
            self._answered.set()

    async def _receive(self) -> Message:
        for message in self._messages:
            if message["type"] == "lifespan.shutdown":
                await self._stopping.wait()
            return message
        while True:  # no third message ever comes
            await Event().wait()

    async def _take(self, message: Mapping[str, Any]) -> None:
        self._answer = dict(message)
        self._answered.set()

    async def _expect_answer(self) -> None:
        with move_on_after(self._timeout) as scope:
            await self._answered.wait()
            if self._answer.get("type") == f"lifespan.{self._phase}.failed":
                # The exception itself tells more, and comes right after its message if it comes at all.
                await self._ended.wait()
        if self._error is not None:
            raise self._error
        if self._answer.get("type") == f"lifespan.{self._phase}.complete":
            return
        if self._answer:
            raise LifespanError(f"{self._answer.get('type')}: {self._answer.get('message', '')}")
        if scope.cancelled_caught:
            raise TimeoutError(f"the application did not answer lifespan.{self._phase} within {self._timeout:g} s")
        raise LifespanError(f"the application returned without an answer to lifespan.{self._phase}")
