"""One client of an application, without a server: says what it is told to, leaves when it is told to.

The application runs beside the caller and can be left behind, whatever it does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from contextvars import copy_context
from typing import Any, Final, NamedTuple

from anyio import Event, get_cancelled_exc_class, move_on_after, sleep
from anyio.lowlevel import checkpoint

from ..._watch import is_trio
from .._faults import count_awaits
from .._lint.lint import Application, lint
from .._lint.rules import Finding

__all__ = ["Answer", "Call", "Exchange", "Item"]

Item = dict[str, Any] | float
"""What ``receive`` gives next, or a pause in seconds before it."""

KEPT_BYTES: Final = 2**16
"""So much of a body is kept, to be looked at."""


class Answer(NamedTuple):
    """What can be compared of a response."""

    status: int | None
    body: str
    """Its beginning, as Latin-1."""
    size: int


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
        gives_in: Whether a ``receive`` that is cancelled gives http.disconnect in place of its cancellation.
        is_eager: Whether ``receive`` gives what is there at once, without a turn of the event loop.
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
        gives_in: bool = False,
        is_eager: bool = False,
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
        self._gives_in = gives_in
        self._is_eager = is_eager
        self._fields: Any = ()
        self._changed = Event()
        self._over = Event()
        self._released = Event()
        self.has_left = False
        self.was_told = False
        """Whether the application got http.disconnect."""
        self.is_held = False
        self.was_whole = False
        """Whether the response was complete when the call was cancelled."""
        self.is_cut = False
        """Whether it came to the await where it was to be cancelled."""
        self.taken = 0
        """How many bytes of the request it has received."""
        self.sends = 0
        self.lost = 0
        """How many messages it has sent when the client had left."""
        self.status: int | None = None
        self.told_status: int | None = None
        """The status, if the response was started after the application had got http.disconnect."""
        self.is_complete = False
        self.is_answered = False
        """Whether the application sent the end of its response, to the client or to nobody."""
        self.receivers = 0
        """How many calls of ``receive`` wait."""
        self.parts = 0
        self.size = 0
        self.largest = 0
        self.body = b""
        """The beginning of the body."""
        self.call = Call(self._serve())

    # --- the two channels ---------------------------------------------------------------------------------

    async def receive(self) -> dict[str, Any]:
        self.receivers += 1
        try:
            return await self._receive()
        finally:
            self.receivers -= 1

    async def _receive(self) -> dict[str, Any]:
        if not self._is_eager:
            await checkpoint()
        while not self.has_left:
            item = next(self._items, None)
            if item is None:
                await self._until_over()
                break
            if isinstance(item, dict):
                self.taken += len(item.get("body", b""))
                self._notify()
                return item
            await sleep(item)
        self.was_told = True
        self._notify()
        kind: str = self._scope["type"]
        return {"type": f"{kind}.disconnect"}

    async def _until_over(self) -> None:
        try:
            await self._over.wait()
        except get_cancelled_exc_class():
            if not self._gives_in:
                raise

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
        if kind == "http.response.body" and not message.get("more_body"):
            self.is_answered = True
        if self.has_left:
            self.lost += 1
            # Who is woken at every turn of the event loop does not get to know that time is over.
            if self.lost == 1 or self.is_answered:
                self._notify()
            if self._send_raises:
                raise ConnectionResetError("the client has left")
            return
        self._record(kind, message)
        self._notify()

    def _record(self, kind: Any, message: dict[str, Any]) -> None:
        if kind == "http.response.start":
            status = message.get("status")
            self.status = status if isinstance(status, int) else None
            self._fields = message.get("headers")
        elif kind == "http.response.body":
            part: Any = message.get("body") or b""
            self.parts += 1
            self.size += len(part)
            self.largest = max(self.largest, len(part))
            if len(self.body) < KEPT_BYTES:
                self.body += bytes(part[: KEPT_BYTES - len(self.body)])
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
            await (work if self._cancel_at is None else count_awaits(work, self._cancel_at, self._cut))
        finally:
            self._notify()

    def _cut(self) -> None:
        self.is_cut = True
        self.cancel()
        self._notify()

    def leave(self) -> None:
        """Close the connection."""
        self.has_left = True
        self._over.set()

    def release(self) -> None:
        """Read on."""
        self._released.set()

    def cancel(self) -> None:
        """Cancel the call, once."""
        self.was_whole = self.is_complete
        self.call.cancel()

    # --- what became of it --------------------------------------------------------------------------------

    @property
    def is_ended(self) -> bool:
        return self.call.is_ended

    @property
    def is_misled(self) -> bool:
        """Whether the application goes on because ``send`` says nothing, though the scope claims that it raises."""
        version: str = self._scope["asgi"].get("spec_version", "2.0")
        return self.lost > 1 and not self._send_raises and tuple(map(int, version.split("."))) >= (2, 4)

    @property
    def error(self) -> BaseException | None:
        return self.call.error

    @property
    def answer(self) -> Answer:
        return Answer(self.status, self.body.decode("latin-1"), self.size)

    def header(self, name: bytes) -> bytes | None:
        """A field of the response, by its name in lower case."""
        # What is not as it should be, the lint has found.
        with suppress(TypeError, ValueError):
            return next((bytes(value) for key, value in self._fields if bytes(key).lower() == name), None)
        return None

    async def until(self, check: Callable[[Exchange], object], seconds: float) -> None:
        """Wait until something is so or the call has ended, for so long at most."""
        with move_on_after(seconds):
            while not check(self) and not self.is_ended:
                self._changed = Event()
                await self._changed.wait()

    async def until_ended(self, seconds: float) -> bool:
        """Wait for the end of the call, for so long at most; returns whether it has ended."""
        return await self.call.until_ended(seconds)
