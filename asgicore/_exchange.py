"""What one request holds from its first step to its last cleanup."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextvars import ContextVar
from threading import local
from types import TracebackType
from typing import Any, Final, Literal, Protocol, Self, TypeAlias, cast
from urllib.parse import quote
from weakref import WeakMethod

from anyio import Event, get_cancelled_exc_class

from ._body import Body
from ._chunks import Chunks
from ._extensions import EARLY_HINT
from ._grace import GraceScope
from ._keep_alive import KeepAlive
from ._late_scope import ShieldAround
from ._response import Response
from ._streaming_response import StreamingResponse
from ._threads import Threads
from ._watch import Listener, is_cancelled, log_cut, run_shielded
from ._writer import Writer
from .errors import RequestError, UsageError
from .types import RawHeaders, Scope, Send

Closer: TypeAlias = Callable[[], Coroutine[Any, Any, None]]

logger = logging.getLogger("asgicore")

_HAS_NOTHING_TO_CLOSE: Final = Response.aclose


is_head: Final[ContextVar[bool]] = ContextVar("asgicore_is_head", default=False)
"""Whether the response that a hook sends is to a HEAD, which a writer around a ``send`` of its own cannot see."""


OBSERVATION: Final[ContextVar[Any]] = ContextVar("asgicore_observation", default=None)
"""What the observers of the current request are told by; ``None`` where there are none."""


def note_error(error: BaseException | None, subject: object) -> None:
    """Have the observers of the current request know of an error that was answered where the engine does not see it.

    Args:
        error: What was raised.
        subject: The request, or its body: the current request may be that of another handler around this one.
    """
    observation = OBSERVATION.get()
    if error is not None and observation is not None and observation.is_about(subject):
        if isinstance(error, RequestError):
            observation.note(error)
        else:
            observation.note_elsewhere(error)


def _of_the_iterator(cancelled: BaseException) -> UsageError:
    """The error in place of a cancellation that nobody outside of a stream has asked for."""
    error = UsageError(
        "a cancel scope or task group that the iterator holds across its yield was cancelled while a part was being "
        "sent; put it around what the iterator waits for, between two parts"
    )
    error.__cause__ = cancelled
    return error


class Cancellation(Protocol):
    """What a request that waits is cancelled through; left like a cancel scope."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> bool | None: ...
    def cancel(self) -> None: ...


class Exchange(Writer):
    """The writer of a request's response, and all else that belongs to the request."""

    # Defaults live in the class: most requests change none of them.
    request: Any = None
    response: Response | None = None
    unclosed: tuple[Response, ...] = ()
    """Responses with something to close, those among them that errors put others in place of."""
    listener: Listener | None = None
    """Waits for the disconnect while the endpoint waits for something."""
    keep_alive: KeepAlive | None = None
    """Sends something while the stream waits for its next part, from when the request first waits."""
    cancel_scope: Cancellation | None = None
    """Around endpoint and response while they wait and may be cancelled."""
    waiting: Waiting
    """Where it is listed, from when it first waits."""
    is_begun: bool = False
    """Whether the body was read, as far as it is, and the endpoint called."""
    is_ending: bool = False
    """Whether the handler is being closed."""
    is_cut: bool = False
    """Whether that has ended the request."""

    def __init__(self, scope: Scope, body: Body, send: Send, chunk_size: int) -> None:
        self.scope = scope
        self.body = body
        # As Writer.__init__ does: the call is 0.1 us.
        self._send = send
        self._head = scope.get("method") == "HEAD"
        self._chunk_size = chunk_size
        offered = scope.get("extensions")
        if offered and isinstance(offered, Mapping):
            self.extensions = cast("Mapping[str, Any]", offered)
            if EARLY_HINT in self.extensions:
                # Weak: the body would hold what holds it.
                body.find_hinter = WeakMethod(self.send_early_hints)

    @property
    def is_gone(self) -> bool:
        """Whether the client left before the response was complete."""
        return not self.is_done and (self.body.is_disconnected or self.is_broken)

    @property
    def phase(self) -> Literal["body", "handler", "response"]:
        """What is under way."""
        if self.is_started:
            return "response"
        return "handler" if self.is_begun else "body"

    def take(self, response: Response) -> None:
        """Have this response be the one that is sent, and closed in the end."""
        self.response = response
        # Asked of the class: most have nothing to close, and no method has to be called to learn that.
        if type(response).aclose is not _HAS_NOTHING_TO_CLOSE:
            self.unclosed += (response,)

    def forget(self, response: Response) -> None:
        """Leave the closing of this response to somebody else."""
        self.unclosed = tuple(other for other in self.unclosed if other is not response)

    def note(self, error: Exception) -> None:
        """An error was answered or logged; for those who observe."""

    def refuse_body(self) -> None:
        """Have the connection closed if a body is under way: it would be drained at our cost."""
        # HTTP/2 has no such field (RFC 9113 section 8.2.2), and ends the stream alone.
        self.closes_connection = not self.body.is_settled and str(self.scope.get("http_version")).startswith("1")

    def leave(self) -> None:
        """The client has left, or may have: cancel what waits, unless nothing is left to be said."""
        # After the final message the client may leave as it likes; servers report a disconnect then.
        if self.cancel_scope is not None and not self.is_done:
            self.cancel_scope.cancel()

    def keep(self, parts: AsyncIterator[Any], seconds: float, data: bytes) -> KeepAlive:
        """Have ``data`` sent when no part has come for so long."""
        self.keep_alive = kept = KeepAlive(parts, seconds, data, self)
        if self.listener is not None:
            kept.attend()
        return kept

    def lose(self, error: Exception) -> None:
        """A part between two others could not be sent: end what waits for the next one."""
        if self.is_broken:
            self.body.leave()
        else:
            self.body.fail(error)
        self.leave()

    async def stream(
        self,
        response: StreamingResponse,
        headers: RawHeaders,
        threads: Threads,
        chunks: Chunks,
        *,
        cuts_all: bool,
        close_seconds: float | None,
    ) -> None:
        """Send a stream and close it, before any scope is left that its iterator may have entered others in."""
        failure: BaseException | None = None
        shield = ShieldAround()
        try:
            with shield:
                try:
                    await self.send_stream(
                        response.status_code,
                        headers,
                        response.kept_parts(threads, self.keep),
                        chunks,
                        cuts_all=cuts_all,
                    )
                except GeneratorExit:
                    raise
                except BaseException as exc:
                    failure = exc
                self.keep_alive = None
                if self.is_started:  # else it has not begun, and the answer to the failure comes first
                    self.forget(response)
                    shield.entered_since = self.cancel_scope
                    close = self.close_one(response.aclose)
                    try:
                        await run_shielded(close, close_seconds, shield)
                    except GeneratorExit:
                        response.close_nowait()
                        raise
        except asyncio.CancelledError as exc:  # held back
            comes_first = failure is None or isinstance(failure, asyncio.CancelledError) or is_cancelled(exc)
            failure = exc if comes_first else failure
        if shield.is_cut:
            log_cut(close_seconds)
        if failure is not None:
            is_ours = isinstance(self.cancel_scope, GraceScope) and self.cancel_scope.is_cleaning_up
            if isinstance(failure, get_cancelled_exc_class()) and not (is_ours or is_cancelled(failure)):
                # Let out, it would end a server on trio, and pass in silence on asyncio.
                failure = _of_the_iterator(failure)
            try:
                raise failure
            finally:
                failure = None

    async def close_one(self, close: Closer) -> None:
        """Close one thing; that it fails is logged and keeps nothing else from being closed."""
        try:
            await close()
        except Exception as exc:
            self._log_unclosed(exc)
        except BaseExceptionGroup as group:
            # A task group wraps the GeneratorExit that a generator inside of it is closed with.
            errors = group.split(GeneratorExit)[1]
            if isinstance(errors, Exception):
                self._log_unclosed(errors)
            elif errors is not None:
                raise errors from None

    def _log_unclosed(self, exc: Exception) -> None:
        self.note(exc)
        level = logging.INFO if self.is_gone else logging.ERROR
        logger.log(level, "closing %s failed", str(self), exc_info=exc)

    def drop(self) -> None:
        """Close what can be closed without waiting."""
        self.body.close_nowait()
        for response in self.unclosed:
            response.close_nowait()

    def __str__(self) -> str:
        """Method and path for a log, so escaped that neither can forge a line."""
        method, path = self.scope.get("method"), self.scope.get("path")
        return f"{quote(str(method), errors='replace')} {quote(str(path), safe='/', errors='replace')}"


class Waiting(set[Exchange]):
    """The requests of one event loop that wait for something."""

    __slots__ = ("drained",)

    drained: Event | None
    """Set, once, when there are none any more."""

    def __init__(self) -> None:
        self.drained = None


class OfThread(local):
    """What a handler keeps for each event loop that it serves; a thread runs one."""

    def __init__(self) -> None:
        self.waiting = Waiting()
        self.state: dict[str, Any] | None = None
