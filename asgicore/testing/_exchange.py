"""One request and its response, message by message: the test's end, and the task that the application runs in."""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Iterable,
)
from contextlib import AsyncExitStack, aclosing, contextmanager
from functools import partial
from types import TracebackType
from typing import Any, Final, Literal, TypeAlias

from anyio import CancelScope, create_task_group, get_cancelled_exc_class, move_on_after
from anyio.lowlevel import checkpoint

from ._client_response import ClientResponse, ResponseStart, build_response, build_start
from ._connection import Connection, Sent
from ._errors import IncompleteResponseError
from ._faults import Fault, count_awaits
from ._requests import Content, Message
from ._where import describe_wait

__all__ = ["App", "Exchange"]

_GRACE_TURNS: Final = 20

App: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]
"""Any ASGI application."""


class Exchange:
    """One request, made by ``Client.exchange()``; its application runs within ``async with``.

    After the block the client leaves. An application that goes on then is cancelled after the client's
    ``grace_seconds``. What it raised is raised, unless the test has got it already.
    """

    error: Exception | None
    """What the application raised."""
    outcome: Literal["running", "returned", "raised", "cancelled"]
    """How far the application is."""

    def __init__(
        self,
        app: App,
        scope: dict[str, Any],
        connection: Connection,
        content: Content,
        *,
        more_body: bool,
        record: bool,
        fault: Fault | None,
        raises: bool,
        timeout_seconds: float,
        grace_seconds: float,
        max_body_bytes: int,
    ) -> None:
        self._app = app
        self._scope = scope
        self._connection = connection
        self._content = content
        self._more_body = more_body
        self._record: list[Sent] | None = [] if record else None
        self._fault = fault
        self._raises = raises
        self._timeout = timeout_seconds
        self._grace = grace_seconds
        self._max_body_bytes = max_body_bytes
        self._stack = AsyncExitStack()
        self._cancel_scope = CancelScope()
        self._feed_scope = CancelScope()
        self._feed_error: Exception | None = None
        self._own_cancellation: BaseException | None = None
        self._fatal: BaseException | None = None
        self._is_entered = False
        self._coro: Coroutine[Any, Any, None] | None = None
        self._task: asyncio.Task[Any] | None = None
        self._is_native = False
        self._had_left = False
        self._is_start_taken = False
        self._is_error_shown = False
        self.error = None
        self.outcome = "running"

    # --- the task of the application

    async def __aenter__(self) -> Exchange:
        if self._is_entered:
            raise RuntimeError("an exchange is one request: it is entered once")
        self._is_entered = True
        group = await self._stack.enter_async_context(create_task_group())
        self._stack.push_async_callback(self._end)
        content, connection = self._content, self._connection
        if isinstance(content, (bytes, str)):
            if content or not self._more_body:
                connection.add_body(content, self._more_body)
        elif isinstance(content, (list, tuple)):
            parts: list[bytes | str] = [*content] or [b""]
            for index, part in enumerate(parts):
                connection.add_body(part, self._more_body or index < len(parts) - 1)
        else:
            group.start_soon(self._feed, content)
        group.start_soon(self._run)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        if error is not None and isinstance(error, get_cancelled_exc_class()):
            return await self._stack.__aexit__(kind, error, traceback)
        # What the test raises goes on as it is, and does not become a group of errors.
        await self._stack.__aexit__(None, None, None)
        if error is None:
            self._show_error()
        elif self.error is not None and self.error is not error:
            error.add_note(f"the application had raised {self.error!r}")
        return None

    async def _end(self) -> None:
        connection = self._connection
        with CancelScope(shield=True):
            connection.leave()
            with move_on_after(self._grace):
                await self._ended()
            # A machine that halted for that long has not kept it from going on.
            for _ in range(_GRACE_TURNS):
                if self.outcome != "running":
                    break
                await checkpoint()
            self.cancel()
            connection.close()
            await self._ended()

    async def _ended(self) -> None:
        while self.outcome == "running":
            await self._connection.change()

    async def _run(self) -> None:
        connection, fault = self._connection, self._fault
        outcome: Literal["returned", "raised", "cancelled"] = "cancelled"
        self._task = _asyncio_task()
        try:
            with self._cancel_scope:
                while connection.server.reads_body_first and not (connection.is_request_whole or connection.has_left):
                    await connection.change()
                self._coro = self._call()
                if fault is not None and fault.kind in ("cancel", "native_cancel"):
                    await count_awaits(self._coro, fault.at, partial(self._happen, fault))
                else:
                    await self._coro
                outcome = "returned"
        except Exception as exc:
            self.error, outcome = exc, "raised"
        except get_cancelled_exc_class() as exc:
            if self._task is not None and not self._task.cancelling():
                # Nobody has cancelled it, and nothing around it is to be.
                self._own_cancellation = exc
            elif not self._is_native:
                raise
        except BaseException as exc:
            # As it is, it goes to the test, and not in a group of errors.
            self._fatal, outcome = exc, "raised"
        finally:
            if self._is_native and self._task is not None:
                self._task.uncancel()
            self._coro = self._task = None
            self._had_left = connection.has_left
            if outcome != "cancelled" and not (self._raises or self._fault or self._had_left):
                connection.answer_500()
            self.outcome = outcome
            self._feed_scope.cancel()
            connection.notify()

    async def _call(self) -> None:
        await self._app(self._scope, self._connection.receive, self._connection.send)

    def _happen(self, fault: Fault) -> None:
        fault.happened = True
        self.cancel(native=fault.kind == "native_cancel")

    async def _feed(self, content: Iterable[bytes | str] | AsyncIterable[bytes | str]) -> None:
        connection = self._connection
        try:
            with self._feed_scope:
                async with aclosing(_parts(content)) as parts:
                    async for part in parts:
                        connection.add_body(part, True)
                        while connection.unreceived:
                            await connection.change()
                if not self._more_body:
                    connection.add_body(b"", False)
        except Exception as exc:
            # The rest of the body will not come.
            self._feed_error = exc
            connection.leave()

    # --- what is known

    @property
    def scope(self) -> dict[str, Any]:
        """The scope that the application was called with."""
        return self._scope

    @property
    def is_finished(self) -> bool:
        """Whether the application has ended."""
        return self.outcome != "running"

    @property
    def is_complete(self) -> bool:
        """Whether the application sent the end of its response."""
        return self._connection.is_complete

    @property
    def is_receiving(self) -> bool:
        """Whether the application waits in ``receive``."""
        return self._connection.readers > 0

    @property
    def is_sending(self) -> bool:
        """Whether the application waits in ``send``."""
        return self._connection.senders > 0

    @property
    def receives(self) -> int:
        """How often the application called ``receive``."""
        return self._connection.receives

    @property
    def sends(self) -> int:
        """How often the application called ``send``."""
        return self._connection.sends

    @property
    def most_readers(self) -> int:
        """How many calls of ``receive`` waited at the same time at most: two may each take what the other needs."""
        return self._connection.most_readers

    @property
    def messages(self) -> list[Message]:
        """All messages that the test has taken, in order."""
        return [sent.message for sent in self._recorded()]

    @property
    def response(self) -> ClientResponse:
        """The response as far as the test has taken it."""
        connection, taken = self._connection, self._recorded()
        return build_response(
            connection.start if self._is_start_taken else None,
            [sent.message for sent in taken],
            [sent.part for sent in taken],
            is_complete=connection.is_complete and not connection.outgoing,
            error=self.error,
        )

    def _recorded(self) -> list[Sent]:
        if self._record is None:
            raise RuntimeError("nothing is kept of an exchange with record=False")
        return self._record

    # --- from the application

    async def next_message(self) -> Message | None:
        """The next message of the application, whatever it is; ``None`` when there will be none.

        Raises:
            TimeoutError: None came in time.
            Exception: The application's, if it raised before its response was complete.
            IncompleteResponseError: The application returned before its response was complete.
        """
        sent = await self._next()
        return sent.message if sent else None

    async def start(self) -> ResponseStart:
        """Status and header fields, as soon as the client sees them; later calls return them again.

        Raises:
            Exception: As for ``next_message()``.
        """
        while not self._is_start_taken:
            if await self._next() is None:
                return build_start(None)
        return build_start(self._connection.start)

    async def next_part(self) -> bytes:
        """The next part of the body; ``b""`` at its end, and only there.

        Raises:
            Exception: As for ``next_message()``.
        """
        while (sent := await self._next()) is not None:
            if sent.part:
                return sent.part
        return b""

    def __aiter__(self) -> Exchange:
        """The parts of the body as they come, to its end.

        Raises:
            Exception: As for ``next_message()``.
        """
        # Not a generator: nobody would close it where the test breaks off.
        return self

    async def __anext__(self) -> bytes:
        part = await self.next_part()
        if not part:
            raise StopAsyncIteration
        return part

    async def finish(self) -> ClientResponse:
        """Take everything, until the application has ended.

        Raises:
            TimeoutError: It does not end.
            Exception: The application's.
            IncompleteResponseError: The application returned before its response was complete, or the body is longer
                than the client's ``max_body_bytes``.
        """
        with self._deadline("the application did not end"):
            size = 0
            while (sent := await self._take()) is not None:
                size += len(sent.part)
                if size > self._max_body_bytes:
                    raise IncompleteResponseError(
                        f"the body is longer than {self._max_body_bytes} bytes: raise the client's max_body_bytes, or "
                        "take it part by part from client.exchange(…, record=False)"
                    )
            await self._ended()
        self._show_error()
        return self.response

    async def _next(self) -> Sent | None:
        with self._deadline("the application sent nothing"):
            sent = await self._take()
        if sent is None:
            self._show_error()
        return sent

    async def _take(self) -> Sent | None:
        connection = self._connection
        while not connection.outgoing:
            if connection.is_complete or self.outcome != "running" or self._feed_error:
                return None
            await connection.change()
        sent = connection.take()
        self._is_start_taken = self._is_start_taken or sent.message is connection.start
        if self._record is not None:
            self._record.append(sent)
        return sent

    def _show_error(self) -> None:
        """Raise what the application raised, once, and complain about a response that it did not end."""
        if self._feed_error is not None:
            error, self._feed_error = self._feed_error, None
            raise error
        if self._fatal is not None:
            fatal, self._fatal = self._fatal, None
            raise fatal
        if self.outcome == "running" or not self._raises or self._fault or self._is_error_shown:
            return
        self._is_error_shown = True
        if self.error is not None:
            if not (self._had_left and _is_disconnect(self.error)):
                raise self.error
        elif not (self._connection.is_complete or self._had_left):
            problem = "ended its response" if self._connection.start else "began a response"
            if self.outcome == "returned":
                raise IncompleteResponseError(f"the application returned before it {problem}")
            if self._own_cancellation is not None:
                raise IncompleteResponseError(
                    f"the application raised CancelledError, and nobody had cancelled it, before it {problem}"
                ) from self._own_cancellation

    # --- towards the application

    async def send_body(self, part: bytes | str, more: bool = True) -> None:
        """Put this part of the body before the application, and wait until it has received it or has ended.

        Raises:
            RuntimeError: The body has ended.
            TimeoutError: The application did not receive it.
        """
        self.send_body_nowait(part, more)
        with self._deadline("the application did not receive the body"):
            while self._connection.unreceived and self.outcome == "running":
                await self._connection.change()

    def send_body_nowait(self, part: bytes | str, more: bool = True) -> None:
        """Put this part of the body before the application.

        Raises:
            RuntimeError: The body has ended.
        """
        if self._connection.is_request_whole:
            raise RuntimeError("the body has ended; an exchange with more_body=True leaves its end to the test")
        self._connection.add_body(part, more)

    def send_message_nowait(self, message: Message) -> None:
        """Put any message before the application, also one that no server should send."""
        self._connection.add_message(message)

    def disconnect(self) -> None:
        """Leave. What the application has not received yet it still does; then the server tells in its own way."""
        self._connection.leave()

    def cancel(self, native: bool = False) -> None:
        """Cancel the application, as a server may that stops.

        Args:
            native: By ``Task.cancel()``, which breaks into shielded scopes; on asyncio only.

        Raises:
            RuntimeError: There is no native cancellation on this backend.
        """
        if not native:
            self._cancel_scope.cancel()
        elif self._task is not None:
            self._is_native = True
            self._task.cancel()
        elif self.outcome == "running":
            raise RuntimeError("only a running task of asyncio can be cancelled natively")

    # --- deadlines

    @contextmanager
    def _deadline(self, problem: str) -> Generator[None, None, None]:
        if not self._is_entered:
            raise RuntimeError("an exchange runs within async with")
        with move_on_after(self._timeout) as scope:
            yield
        if scope.cancelled_caught:
            raise TimeoutError(f"{problem} within {self._timeout:g} s: it {self._describe()}")

    def _describe(self) -> str:
        """What the application is doing, in words."""
        connection = self._connection
        done = f"called receive {connection.receives} and send {connection.sends} times"
        place = "in receive" if connection.readers else "in send" if connection.senders else ""
        where = describe_wait(self._coro)
        return ", ".join(part for part in (done, f"{where} {place}".strip()) if part)


async def _parts(content: Iterable[bytes | str] | AsyncIterable[bytes | str]) -> AsyncGenerator[bytes | str, None]:
    if isinstance(content, AsyncIterable):
        try:
            async for part in content:
                yield part
        finally:
            close: Any = getattr(content, "aclose", None)
            if close is not None:
                with CancelScope(shield=True):
                    await close()
    else:
        for part in content:
            yield part


def _is_disconnect(error: BaseException | None) -> bool:
    """Whether an error is the ``OSError`` of a server's ``send``, or was raised because of it.

    ASGI HTTP 2.4 has servers pass over the one, and frameworks make others of it.
    """
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return error is not None


def _asyncio_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None  # trio
