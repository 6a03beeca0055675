"""One client of an application, without a server: says what it is told to, leaves when it is told to.

The application runs beside the caller and can be left behind, whatever it does.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator, Iterable
from contextvars import copy_context
from typing import Any, Final

from anyio import Event, get_cancelled_exc_class, move_on_after, sleep
from anyio.lowlevel import checkpoint

from .._watch import is_trio
from ._rules import Finding
from .lint import Application, lint

__all__ = ["Call", "Exchange", "Item", "http_scope"]

Item = dict[str, Any] | float
"""What ``receive`` gives next, or a pause in seconds before it."""

KEPT_BYTES: Final = 2**20
"""So much of a body is kept, to be looked at."""


class Call:
    """Runs a coroutine in a task of its own, outside of every scope of the caller."""

    def __init__(self, work: Coroutine[Any, Any, None]) -> None:
        self.error: BaseException | None = None
        """What it raised."""
        self.was_cancelled = False
        """Whether it ended because it was cancelled."""
        self.is_ended = False
        self._ended = Event()
        self.cancel: Callable[[], object]
        """Cancel it once, as a server does."""
        if is_trio():
            import trio

            scope = trio.CancelScope()
            self.cancel = scope.cancel
            trio.lowlevel.spawn_system_task(self._run_in, scope, work, name="asgicore check", context=copy_context())
        else:
            task = asyncio.get_running_loop().create_task(self._run(work))
            # A task that is cancelled before its first step runs nothing of its own.
            task.add_done_callback(lambda _: None if self.is_ended else self._never_began(work))
            self.cancel = task.cancel

    async def _run_in(self, scope: Any, work: Coroutine[Any, Any, None]) -> None:
        with scope:
            await self._run(work)

    async def _run(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except BaseException as exc:
            self.was_cancelled = isinstance(exc, get_cancelled_exc_class())
            # Trio has to get its own back; whatever else an application raises ends nothing but its call.
            if self.was_cancelled:
                raise
            self.error = exc
        finally:
            self._end()

    def _never_began(self, work: Coroutine[Any, Any, None]) -> None:
        work.close()
        self.was_cancelled = True
        self._end()

    def _end(self) -> None:
        self.is_ended = True
        self._ended.set()

    async def until_ended(self, seconds: float) -> bool:
        """Wait for its end, for so long at most; returns whether it has ended."""
        with move_on_after(seconds):
            await self._ended.wait()
        return self.is_ended


def http_scope(path: str, method: str = "GET", **changes: Any) -> dict[str, Any]:
    """A scope as servers give it, with ``changes``; a change to ``...`` leaves the key out."""
    target, _, query = path.partition("?")
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": target,
        "raw_path": target.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(b"host", b"localhost:8000"), (b"user-agent", b"asgicore-check"), (b"accept", b"*/*")],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
    }
    scope.update(changes)
    return {key: value for key, value in scope.items() if value is not ...}


class Exchange:
    """One request, under the lint; it is sent at once.

    Args:
        app: The application.
        scope: The scope.
        items: What ``receive`` gives; after them it waits for the end of the response or of the client.
        send_raises: Whether ``send`` raises when the client has left, or says nothing.
        fail_at: The client leaves at this call of ``send``.
        hold_at: From this call on, ``send`` waits for ``release()``.
        cancel_at: The call is cancelled when it waits for the so-manieth time.
        is_deaf: Whether ``receive`` goes on waiting when the response is complete.
    """

    def __init__(
        self,
        app: Application,
        scope: dict[str, Any],
        items: Iterable[Item],
        *,
        send_raises: bool = False,
        fail_at: int | None = None,
        hold_at: int | None = None,
        cancel_at: int | None = None,
        is_deaf: bool = False,
    ) -> None:
        self.findings: list[Finding] = []
        """What the lint has found."""
        self._app = lint(app, collect=self.findings)
        self._scope = scope
        self._items = iter(items)
        self._send_raises = send_raises
        self._fail_at = fail_at
        self._hold_at = hold_at
        self._cancel_at = cancel_at
        self._is_deaf = is_deaf
        self._changed = Event()
        self._over = Event()
        self._released = Event()
        self.has_left = False
        self.was_told = False
        """Whether the application got http.disconnect."""
        self.is_held = False
        self.awaits = 0
        """How often the application has waited; counted where it is to be cancelled."""
        self.taken = 0
        """How many bytes of the request it has received."""
        self.sends = 0
        self.status: int | None = None
        self.told_status: int | None = None
        """The status, if the response was started after the application had got http.disconnect."""
        self.is_complete = False
        self.parts = 0
        self.size = 0
        self.largest = 0
        self.body = b""
        """The beginning of the body."""
        self.call = Call(self._serve())

    # --- the two channels ---------------------------------------------------------------------------------

    async def receive(self) -> dict[str, Any]:
        await checkpoint()
        while not self.has_left:
            item = next(self._items, None)
            if item is None:
                await self._over.wait()
                break
            if isinstance(item, dict):
                self.taken += len(item.get("body", b""))
                self._notify()
                return item
            await sleep(item)
        self.was_told = True
        self._notify()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        self.sends += 1
        await checkpoint()
        if self._hold_at is not None and self.sends >= self._hold_at:
            self.is_held = True
            self._notify()
            await self._released.wait()
        kind = message.get("type")
        if kind == "http.response.start" and self.was_told and not self.is_complete:
            self.told_status = message.get("status")
        if self._fail_at is not None and self.sends >= self._fail_at:
            self.leave()
        if self.has_left:
            self._notify()
            if self._send_raises:
                raise ConnectionResetError("the client has left")
            return
        self._record(kind, message)
        self._notify()

    def _record(self, kind: Any, message: dict[str, Any]) -> None:
        if kind == "http.response.start":
            self.status = message.get("status")
        elif kind == "http.response.body":
            part: Any = message.get("body") or b""
            self.parts += 1
            self.size += len(part)
            self.largest = max(self.largest, len(part))
            if len(self.body) < KEPT_BYTES:
                self.body += bytes(part[:KEPT_BYTES])
            if not message.get("more_body"):
                self.is_complete = True
                if not self._is_deaf:
                    self._over.set()

    def _notify(self) -> None:
        self._changed.set()

    # --- what the client does -----------------------------------------------------------------------------

    async def _serve(self) -> None:
        try:
            work = self._app(self._scope, self.receive, self.send)
            await (work if self._cancel_at is None else self._count(work))
        finally:
            self._notify()

    @types.coroutine
    def _count(self, work: Coroutine[Any, Any, None]) -> Generator[Any, Any, None]:
        step: Callable[[Any], Any] = work.send
        argument: Any = None
        while True:
            try:
                yielded = step(argument)
            except StopIteration:
                return
            self.awaits += 1
            if self.awaits == self._cancel_at:
                self.cancel()
                self._notify()
            try:
                argument = yield yielded
                step = work.send
            except BaseException as exc:
                argument = exc
                step = work.throw

    def leave(self) -> None:
        """Close the connection."""
        self.has_left = True
        self._over.set()

    def release(self) -> None:
        """Read on."""
        self._released.set()

    def cancel(self) -> None:
        """Cancel the call, once."""
        self.call.cancel()

    # --- what became of it --------------------------------------------------------------------------------

    @property
    def is_ended(self) -> bool:
        return self.call.is_ended

    @property
    def error(self) -> BaseException | None:
        return self.call.error

    async def until(self, check: Callable[[Exchange], object], seconds: float) -> None:
        """Wait until something is so or the call has ended, for so long at most."""
        with move_on_after(seconds):
            while not check(self) and not self.is_ended:
                self._changed = Event()
                await self._changed.wait()

    async def until_ended(self, seconds: float) -> bool:
        """Wait for the end of the call, for so long at most; returns whether it has ended."""
        return await self.call.until_ended(seconds)
