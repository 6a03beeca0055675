"""The thread of the event loop that ``as_wsgi()`` runs an ASGI application on, one in a process, and its lifespan.

Source: ASGI Lifespan 2.0.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

from ..errors import ResponseStateError
from ..types import Message

logger = logging.getLogger("asgicore")

ASGIApplication: TypeAlias = Callable[[Any, Any, Any], Awaitable[object]]

# How long a task that was cancelled may take to end.
CANCEL_SECONDS: Final = 1.0


class _Lifespan:
    """One run of the application's lifespan, on the event loop."""

    def __init__(self, app: ASGIApplication, state: dict[str, Any]) -> None:
        self._app = app
        self._state = state
        self._started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._stopped = asyncio.Event()
        self._is_stopping = asyncio.Event()
        self._script = iter(("startup", "shutdown"))

    async def start(self) -> None:
        """Wait until the application has started.

        Raises:
            RuntimeError: It has failed to.
        """
        self._task = asyncio.create_task(self._run())
        await self._started

    async def stop(self, seconds: float) -> None:
        """Wait until the application has shut down, if it takes part."""
        self._is_stopping.set()
        try:
            async with asyncio.timeout(seconds):
                await self._stopped.wait()
        except TimeoutError:
            logger.error("the application's shutdown takes longer than %g seconds", seconds)

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self._state}
        try:
            await self._app(scope, self._receive, self._take)
        except Exception as exc:
            if self._started.done():
                # What kept it from starting was raised already.
                if self._started.exception() is None:
                    logger.error("the application's lifespan failed", exc_info=exc)
            else:
                # ASGI, "Lifespan Protocol": an application that raises here knows nothing of it, and is served.
                logger.debug("the application has no lifespan", exc_info=exc)
        finally:
            if not self._started.done():
                self._started.set_result(None)
            self._stopped.set()

    async def _receive(self) -> Message:
        kind = next(self._script, None)
        if kind != "startup":
            await self._is_stopping.wait()
        if kind is None:
            await asyncio.Event().wait()  # there is nothing more to tell
        return {"type": f"lifespan.{kind}"}

    async def _take(self, message: Message) -> None:
        kind = message.get("type")
        if kind == "lifespan.startup.complete" and not self._started.done():
            self._started.set_result(None)
        elif kind == "lifespan.startup.failed" and not self._started.done():
            reason = message.get("message") or "it does not say why"
            self._started.set_exception(RuntimeError(f"the application failed to start: {reason}"))
        elif kind in ("lifespan.shutdown.complete", "lifespan.shutdown.failed") and self._is_stopping.is_set():
            if kind == "lifespan.shutdown.failed":
                logger.error("the application failed to shut down: %s", message.get("message"))
            self._stopped.set()
        else:
            raise ResponseStateError(f"{kind!r} may not be sent here by a lifespan")


class Loop:
    """The event loop of one process, in a thread of its own, with the application's lifespan around it."""

    def __init__(
        self,
        app: ASGIApplication,
        has_lifespan: bool,
        close_timeout_seconds: float,
        loop_factory: Callable[[], asyncio.AbstractEventLoop] | None,
    ) -> None:
        self.app = app
        self.state: dict[str, Any] = {}
        self._has_lifespan = has_lifespan
        self._close_timeout_seconds = close_timeout_seconds
        self._loop_factory = loop_factory
        self._loop: asyncio.AbstractEventLoop
        self._is_stopping: asyncio.Event
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_up = threading.Event()
        self._failure: BaseException | None = None
        # A thread that is not a daemon would be waited for before atexit could stop it.
        self._thread = threading.Thread(target=self._run, name="asgicore-as-wsgi", daemon=True)

    def start(self) -> None:
        """Start the thread and the application.

        Raises:
            RuntimeError: The application failed to start.
        """
        self._thread.start()
        self._is_up.wait()
        if self._failure is not None:
            self._thread.join()
            failure, self._failure = self._failure, None
            try:
                raise failure
            finally:
                del failure

    def stop(self) -> None:
        """Let requests end, shut the application down and end the thread."""
        self.tell(self._on_loop_stop)
        # Requests, lifespan, and what the loop itself cancels and closes.
        self._thread.join(3 * self._close_timeout_seconds + 2 * CANCEL_SECONDS)
        if self._thread.is_alive():
            logger.error("the event loop of as_wsgi does not end")

    def call(self, function: Callable[..., object], *args: Any) -> None:
        """Have the loop call a function.

        Raises:
            RuntimeError: The loop is closed.
        """
        self._loop.call_soon_threadsafe(function, *args)

    def tell(self, function: Callable[..., object], *args: Any) -> None:
        """The same for what is pointless once the loop is closed: everybody was told of that."""
        with contextlib.suppress(RuntimeError):
            self.call(function, *args)

    def keep(self, task: asyncio.Task[None]) -> None:
        """Hold a task while it runs: the event loop itself does not."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=self._loop_factory) as runner:
                self._loop = runner.get_loop()
                runner.run(self._serve())
        except BaseException as exc:
            if self._is_up.is_set():
                logger.critical("the event loop of as_wsgi ended", exc_info=exc)
            else:
                self._failure = exc
        finally:
            self._is_up.set()

    async def _serve(self) -> None:
        self._is_stopping = asyncio.Event()
        lifespan = _Lifespan(self.app, self.state) if self._has_lifespan else None
        if lifespan is not None:
            await lifespan.start()
        self._is_up.set()
        await self._is_stopping.wait()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=self._close_timeout_seconds)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=CANCEL_SECONDS)
        if lifespan is not None:
            await lifespan.stop(self._close_timeout_seconds)

    def _on_loop_stop(self) -> None:
        self._is_stopping.set()
