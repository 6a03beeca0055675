"""Observers at work: around the engine, which knows nothing of them where there are none.

A handler with observers has ``Observers.serve()`` in place of its ``handle``, and makes ``ObservedExchange``
in place of ``Exchange``; both find each other by a context variable, so that whatever a subclass puts between them, or
an endpoint calls, does not matter.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from contextvars import Context, copy_context
from time import monotonic
from typing import Any, Final, TypeAlias, cast

from ._body import Body
from ._callables import is_async_callable
from ._exchange import OBSERVATION, Exchange
from ._extensions import PATHSEND, TRAILERS, ZEROCOPYSEND
from ._headers import encode_field, find, list_headers, pairs
from ._observer import Observe, Observer, ObserverCall, Outcome, Timings
from ._receiver import tap_receive
from ._request import Request
from ._response import Response
from ._writer import tap_send
from .errors import HTTPError, InvalidHeaderError, RequestError, ThreadsBusyError
from .types import Message, RawHeaders, Receive, Scope, Send

__all__ = ["ObservedExchange", "Observers"]

logger = logging.getLogger("asgicore")

# Fields of which each line, or each member, stands for itself.
_LISTS: Final = frozenset(
    name.encode()
    for name in ("cache-control", "link", "server-timing", "set-cookie", "vary", "warning", "www-authenticate")
)

Handle: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Told: TypeAlias = Callable[[Exchange], tuple[Any, Any]]


class Observers:
    """The observers of one handler.

    Args:
        observe: One or more.
        told: Gives request and response of an exchange as hooks get them.

    Raises:
        TypeError: One cannot be called, or is asynchronous.
    """

    def __init__(self, observe: Observe, told: Told) -> None:
        self.all: tuple[ObserverCall, ...] = (observe,) if callable(observe) else tuple(observe)
        for observer in self.all:
            if not callable(observer) or isinstance(observer, type):
                raise TypeError(f"an observer is a function or an instance of Observer, not {observer!r}")
            if is_async_callable(observer):
                raise TypeError(f"the observer {observer!r} is asynchronous; nothing waits for observers")
        whole = [observer for observer in self.all if isinstance(observer, Observer)]
        self.around = [observer for observer in whole if type(observer).around is not Observer.around]
        self.adding = [observer for observer in whole if type(observer).extra_headers is not Observer.extra_headers]
        self.told = told

    async def serve(self, handle: Handle, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request by ``handle``, and tell what becomes of it."""
        if type(scope.get("headers")) is not list:
            # The specification allows any iterable, and an iterator can be read once.
            try:
                fields: Any = list_headers(scope.get("headers"))
            except Exception as exc:
                fields = _Unreadable(exc)
            scope = {**scope, "headers": fields}
        observation = _Observation(self, scope, receive)
        token = OBSERVATION.set(observation)
        raised: BaseException | None = None
        try:
            observation.enter()
            await handle(
                scope,
                tap_receive(receive, observation.on_received),
                tap_send(send, observation.on_send if self.adding else None, observation.on_sent),
            )
        except BaseException as exc:
            raised = exc
            raise
        finally:
            observation.finish(raised)
            raised = None
            with suppress(ValueError):  # another context: the loop has given the request up
                OBSERVATION.reset(token)


class _Unreadable:
    """Header fields that raise what they have raised before, to whoever asks for them."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        raise self._error


class _Observation:
    """What is seen of one request."""

    __slots__ = (
        "_answered",
        "_body_complete",
        "_bytes_received",
        "_bytes_sent",
        "_context",
        "_elsewhere",
        "_entered",
        "_headers",
        "_observers",
        "_receive",
        "_received",
        "_response_ended",
        "_response_started",
        "_scope",
        "_status",
        "_trails",
        "endpoint_called",
        "endpoint_returned",
        "error",
        "exchange",
        "is_refused",
    )

    def __init__(self, observers: Observers, scope: Scope, receive: Receive) -> None:
        self._received = monotonic()
        self._observers = observers
        self._scope = scope
        self._receive = receive
        self._entered: list[tuple[Observer, AbstractContextManager[object]]] = []
        self._context: Context | None = None
        self._body_complete: float | None = None
        self.endpoint_called: float | None = None
        self.endpoint_returned: float | None = None
        self._response_started: float | None = None
        self._response_ended: float | None = None
        self._bytes_received = 0
        self._bytes_sent = 0
        self._headers: Iterable[tuple[bytes, bytes]] = ()
        self._status: int | None = None
        self._trails = False
        self._elsewhere: BaseException | None = None
        self._answered: BaseException | None = None
        self.error: BaseException | None = None
        self.exchange: ObservedExchange | None = None
        self.is_refused = False

    def enter(self) -> None:
        for observer in self._observers.around:
            try:
                manager = observer.around(self._scope)
                if manager is not None:
                    manager.__enter__()
                    self._entered.append((observer, manager))
            except Exception as exc:
                _log(observer, exc)
        self._context = copy_context()

    # --- what passes through the channels --------------------------------------------------------------

    def on_received(self, message: Any) -> None:
        # What the server gives may be anything; the body says what is wrong with it.
        if self._body_complete is not None or not isinstance(message, Mapping):
            return
        message = cast("Message", message)
        if message.get("type") == "http.request":
            part: Any = message.get("body")
            if isinstance(part, (bytes, bytearray, memoryview)):
                self._bytes_received += len(cast("bytes", part))
            if not message.get("more_body"):
                self._body_complete = monotonic()

    def on_send(self, message: Any) -> Any:
        if message.get("type") == "http.response.start":
            fields = [*(message.get("headers") or ())]
            added = self._extra_headers(fields)
            if added:
                message = {**message, "headers": fields + added}
        return message

    def on_sent(self, message: Any) -> None:
        kind = message.get("type")
        if kind == "http.response.start":
            self._response_started = monotonic()
            self._status = message.get("status")
            if self._elsewhere is not None and (self._status or 0) >= 500:
                self.note(self._elsewhere)
            self._trails = bool(message.get("trailers"))
            self._headers = message.get("headers") or ()
            return
        if kind == "http.response.body":
            self._bytes_sent += len(message.get("body") or b"")
        elif kind == ZEROCOPYSEND:
            self._bytes_sent += message.get("count") or 0
        elif kind == PATHSEND:
            self._bytes_sent += int(find(self._headers, b"content-length") or 0)
        elif kind == TRAILERS:
            self._trails = bool(message.get("more_trailers"))
        else:
            return
        if not self._trails and not message.get("more_body"):
            self._response_ended = monotonic()
            # What fails after this decides nothing.
            self._answered = self.error

    def _extra_headers(self, head: RawHeaders) -> RawHeaders:
        added: RawHeaders = []
        for observer in self._observers.adding:
            request, response = self._subjects()
            try:
                given = pairs(observer.extra_headers(request, response, self.timings()))
                fields = [encode_field(name, value) for name, value in given]
                for name, _ in fields:
                    if name == b"content-length" or (name not in _LISTS and find(head, name) is not None):
                        raise InvalidHeaderError(name.decode(), "an observer cannot change what is sent")
            except Exception as exc:
                _log(observer, exc)
            else:
                added += fields
        return added

    # --- the end ---------------------------------------------------------------------------------------

    def note(self, error: BaseException) -> None:
        """An error that was answered or logged."""
        if self._response_ended is None or self.error is None:
            self.error = error

    def note_elsewhere(self, error: BaseException) -> None:
        """An error that somebody else made a response of, if that says so."""
        self._elsewhere = error

    def is_about(self, subject: object) -> bool:
        exchange = self.exchange
        return exchange is not None and (exchange.body is subject or self._observers.told(exchange)[0] is subject)

    def timings(self, finished: float | None = None) -> Timings:
        return Timings(
            status_code=self._status,
            received=self._received,
            body_complete=self._body_complete,
            endpoint_called=self.endpoint_called,
            endpoint_returned=self.endpoint_returned,
            response_started=self._response_started,
            response_ended=self._response_ended,
            finished=finished,
            bytes_received=self._bytes_received,
            bytes_sent=self._bytes_sent,
        )

    def finish(self, raised: BaseException | None) -> None:
        """Tell all observers, then leave what they have entered."""
        timings = self.timings(monotonic())
        # The loop has given the request up in the middle of something else, whose context is none of ours.
        is_elsewhere = OBSERVATION.get() is not self
        outcome = self._judge(raised, is_elsewhere)
        error = self._answered
        if error is None:
            error = self.error if raised is None else raised
        request, response = self._subjects()
        for observer in self._observers.all:
            try:
                if is_elsewhere and self._context is not None:
                    self._context.run(observer, request, response, timings, outcome, error)
                else:
                    observer(request, response, timings, outcome, error)
            except Exception as exc:
                _log(observer, exc)
        for observer, manager in reversed(self._entered):
            try:
                manager.__exit__(None, None, None)
            except Exception as exc:
                # No context variable can be reset in another context.
                if not (is_elsewhere and isinstance(exc, ValueError)):
                    _log(observer, exc)
        # Each refers to this.
        self.exchange = self.error = self._answered = self._elsewhere = self._context = None

    def _subjects(self) -> tuple[Any, Any]:
        exchange = self.exchange
        request, response = (None, None) if exchange is None else self._observers.told(exchange)
        if request is None:
            request = Request(self._scope, Body(self._receive) if exchange is None else exchange.body)
        return request, response

    def _judge(self, raised: BaseException | None, is_elsewhere: bool) -> Outcome:
        exchange = self.exchange
        if exchange is not None and exchange.is_cut:
            return Outcome.CLOSED
        if exchange is not None and exchange.is_gone:
            return Outcome.CLIENT_LEFT
        is_complete = self._response_ended is not None
        is_elsewhere = is_elsewhere and not is_complete
        error = self._answered if is_complete else self.error if raised is None else raised
        if is_elsewhere or isinstance(error, (GeneratorExit, asyncio.CancelledError)) or _is_of_trio(error):
            return Outcome.CANCELLED
        if isinstance(error, (RequestError, ThreadsBusyError)):
            return Outcome.REFUSED
        if not is_complete or not (error is None or isinstance(error, HTTPError)):
            return Outcome.FAILED
        return Outcome.REFUSED if self.is_refused else Outcome.COMPLETED


class ObservedExchange(Exchange):
    """An exchange that somebody looks at."""

    _is_begun = False
    _observation: _Observation | None = None

    def __init__(self, scope: Scope, body: Body, send: Send, chunk_size: int) -> None:
        super().__init__(scope, body, send, chunk_size)
        observation = OBSERVATION.get()
        # There is none, or it has another exchange already, where handle() was called as the class has it.
        if observation is not None and observation.exchange is None:
            self._observation = observation
            observation.exchange = self

    @property
    def is_begun(self) -> bool:
        """As of ``Exchange``."""
        return self._is_begun

    @is_begun.setter
    def is_begun(self, value: bool) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        self._is_begun = value
        if self._observation is not None and self.response is None:
            self._observation.endpoint_called = monotonic()

    def take(self, response: Response) -> None:
        """As of ``Exchange``."""
        super().take(response)
        observation = self._observation
        if observation is None:
            return
        if not self._is_begun:
            observation.is_refused = True
        elif observation.endpoint_called is not None and observation.endpoint_returned is None:
            observation.endpoint_returned = monotonic()

    def note(self, error: Exception) -> None:
        """As of ``Exchange``."""
        if self._observation is not None:
            self._observation.note(error)


def _is_of_trio(error: BaseException | None) -> bool:
    """Whether it is a cancellation of trio's, whose module may not be here."""
    trio: Any = sys.modules.get("trio")
    return trio is not None and isinstance(error, trio.Cancelled)


def _log(observer: object, exc: Exception) -> None:
    name = getattr(observer, "__qualname__", None) or type(observer).__qualname__
    logger.error("the observer %s failed", name, exc_info=exc)
