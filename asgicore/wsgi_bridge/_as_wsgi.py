"""An ASGI application under a WSGI server.

::

    thread of the WSGI server                      thread of the event loop, one a process
    __call__   scope from environ      ── begin ─▶ task: app(scope, receive, send)
               waits for events       ◀── read ──  receive(): the body is wanted
               wsgi.input.read()       ── part ──▶
               start_response         ◀── start ─  send()
    __next__   the parts that are there ◀─ part ─  send(): waits while too much is ahead
               and room for more       ── room ──▶
    close      the client left         ── leave ─▶ http.disconnect, OSError of send()

Source: PEP 3333; ASGI HTTP specification 2.5.
"""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import errno
import logging
import os
import sys
import threading
import weakref
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from queue import SimpleQueue
from typing import Any, Final

from .. import _headers
from .._jobs import hide_async_library
from .._writer import Writer
from ..errors import ClientDisconnectedError, ResponseStateError
from ..types import Message, Receive, Scope, Send
from . import _start_response
from ._loop import CANCEL_SECONDS, ASGIApplication, Loop
from ._scope import body_length, build_scope

__all__ = ["WSGIApplication", "as_wsgi"]

logger = logging.getLogger("asgicore")

# What one read of wsgi.input asks for, and how far the application may be ahead of the client: one usual part.
_READ_BYTES: Final = 65536
_AHEAD_BYTES: Final = 65536

# What is said about the connection is the server's to say: PEP 3333 lets no application do it, and some servers
# fail on it.
_HOP_BY_HOP: Final = _start_response.HOP_BY_HOP | {name.encode() for name in _headers.HOP_BY_HOP}

_REASONS: Final = {status.value: status.phrase for status in HTTPStatus}

_DISCONNECT: Final = {"type": "http.disconnect"}

# Events for the thread, beside (status, headers) and the parts of the body.
_READ: Final = object()
_END: Final = object()


class _Failure:
    """The application ended without a complete response."""

    def __init__(self, exc: BaseException) -> None:
        self.exc = exc


class _Exchange:
    """One request, and the iterable that the WSGI server gets for it.

    What begins with ``_on_loop`` and what the application calls runs on the event loop, everything else in the thread
    of the server. They share the queue of events, which only the thread takes from, and the count of bytes ahead.
    """

    def __init__(self, loop: Loop, environ: Mapping[str, Any], close_timeout_seconds: float) -> None:
        self._loop = loop
        self._environ = environ
        self._input = environ["wsgi.input"]
        self._left = body_length(environ)
        self._close_timeout_seconds = close_timeout_seconds
        self._events: SimpleQueue[Any] = SimpleQueue()
        self._held: Any = None
        self._is_over = False
        # Shared; whether the response is complete is the loop's, and read by the thread:
        self._lock = threading.Lock()
        self._ahead = 0
        self._wants_room = False
        # The loop's:
        self._task: asyncio.Task[None]
        self._news: asyncio.Event
        self._room: asyncio.Event
        self._inbox: Message | BaseException | None = None
        self._is_body_over = self._left == 0
        self._is_asked = False
        self._is_gone = False
        self._is_complete = False
        if self._left == 0:
            self._inbox = {"type": "http.request", "body": b"", "more_body": False}

    # --- the thread of the server --------------------------------------------------------------------

    def open(self, start_response: Callable[..., Any]) -> _Exchange:
        """Run the application until it has started its response.

        Raises:
            BaseException: What the application raised before that.
        """
        context = contextvars.copy_context()
        hide_async_library(context)
        self._loop.call(self._on_loop_begin, context)
        try:
            status, headers = self._next_event()
            start_response(
                f"{status} {_REASONS.get(status, 'Unknown')}",
                [(name.decode("ascii"), value.decode("latin-1")) for name, value in headers],
            )
        except BaseException:
            self.close()
            raise
        return self

    def __iter__(self) -> _Exchange:
        return self

    def __next__(self) -> bytes:
        if self._is_over:
            raise StopIteration
        event = self._next_event()
        if event is _END:
            self._is_over = True
            raise StopIteration
        # Many small parts that are there already are one for the server, which makes a system call of each.
        parts: list[bytes] = [event]
        size = len(event)
        while size < _AHEAD_BYTES and not self._events.empty():
            event = self._events.get()
            if type(event) is not bytes:
                self._held = event
                break
            parts.append(event)
            size += len(event)
        with self._lock:
            self._ahead -= size
            has_room = self._wants_room and self._ahead <= _AHEAD_BYTES
            if has_room:
                self._wants_room = False
        if has_room:
            self._loop.tell(self._room.set)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """The server is done with the response; before its end, the client has left. Waits for the application."""
        if self._is_over or self._is_complete:
            return  # what the application does after its response keeps no thread
        self._is_over = True
        ended = threading.Event()
        self._loop.tell(self._on_loop_leave, ended)
        if not ended.wait(self._close_timeout_seconds):
            self._loop.tell(self._on_loop_cancel)
            if not ended.wait(CANCEL_SECONDS):
                logger.error("the application goes on %g seconds after the client left", self._close_timeout_seconds)

    def _next_event(self) -> Any:
        while True:
            event, self._held = self._held, None
            if event is None:
                event = self._events.get()
            if event is _READ:
                # Reading may wait for the client: what the application has to say goes first.
                if self._events.empty():
                    self._loop.tell(self._on_loop_arrived, self._read())
                else:
                    self._events.put(_READ)
            elif isinstance(event, _Failure):
                self._is_over = True
                try:
                    raise event.exc
                finally:
                    del event  # its traceback leads back to this frame
            else:
                return event

    def _read(self) -> Message | BaseException:
        """The next part of the body; ``http.disconnect`` if it breaks off."""
        size = _READ_BYTES if self._left is None else min(_READ_BYTES, self._left)
        try:
            part: bytes = self._input.read(size)
        except OSError as exc:
            logger.debug("wsgi.input: %r", exc)
            return _DISCONNECT
        except Exception as exc:
            return exc
        if self._left is None:
            return {"type": "http.request", "body": part, "more_body": bool(part)}
        if not part:
            return _DISCONNECT  # short of the declared length: no end of the body
        self._left -= len(part)
        return {"type": "http.request", "body": part, "more_body": self._left > 0}

    # --- the event loop ------------------------------------------------------------------------------

    def _on_loop_begin(self, context: contextvars.Context) -> None:
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        # What middleware of the server's side has set is seen by the application.
        self._task = asyncio.get_running_loop().create_task(self._run(), context=context)
        self._loop.keep(self._task)

    async def _run(self) -> None:
        scope = build_scope(self._environ, self._loop.state)
        writer = Writer(self._deliver, scope["method"] == "HEAD")

        async def send(message: Any) -> None:
            if message.get("type") == "http.response.start":
                headers = [field for field in message.get("headers") or () if field[0].lower() not in _HOP_BY_HOP]
                message = {**message, "headers": headers}
            await writer(message)

        try:
            await self._loop.app(scope, self._receive, send)
            if not self._is_complete:
                raise ResponseStateError("the application ended before its response was complete")
        except asyncio.CancelledError:
            self._fail(RuntimeError("the request was cancelled"))
        except BaseException as exc:
            # SystemExit and its like, too: they are for the thread that serves the request, not for the loop.
            self._fail(exc)

    def _fail(self, exc: BaseException) -> None:
        if self._is_complete:
            # Nobody is left whom it could be raised to.
            logger.error("the application failed after its response", exc_info=exc)
            return
        if self._is_gone:
            logger.debug("the client left, then %r was raised", exc)
            exc = ClientDisconnectedError()
            # By this servers know that it is no error of anybody.
            exc.errno = errno.EPIPE
        self._events.put(_Failure(exc))

    async def _receive(self) -> Message:
        while True:
            if self._inbox is not None:
                message, self._inbox = self._inbox, None
                if isinstance(message, BaseException):
                    raise message
                return message
            if self._is_gone or self._is_complete:
                return _DISCONNECT
            if not self._is_body_over and not self._is_asked:
                self._is_asked = True
                self._events.put(_READ)
            # What arrives is kept for the next call, should this one be cancelled.
            self._news.clear()
            await self._news.wait()

    def _on_loop_arrived(self, message: Message | BaseException) -> None:
        self._is_asked = False
        if message is _DISCONNECT:
            self._on_loop_gone()
            return
        self._inbox = message
        self._is_body_over = isinstance(message, BaseException) or not message["more_body"]
        self._news.set()

    async def _deliver(self, message: Message) -> None:
        """Take one message of the ``Writer``, checked and in order."""
        if self._is_gone:
            raise ClientDisconnectedError
        if message["type"] == "http.response.start":
            self._events.put((message["status"], message["headers"]))
            return
        body: bytes = message["body"]
        must_wait = False
        if body:
            with self._lock:
                self._ahead += len(body)
                must_wait = self._wants_room = self._ahead > _AHEAD_BYTES
            if must_wait:
                self._room.clear()
            self._events.put(body)
        if not message["more_body"]:
            self._is_complete = True
            self._events.put(_END)
            self._news.set()
        elif must_wait:
            await self._room.wait()
            if self._is_gone:
                raise ClientDisconnectedError

    def _on_loop_leave(self, ended: threading.Event) -> None:
        if self._is_complete or self._task.done():
            ended.set()
        else:
            self._task.add_done_callback(lambda _: ended.set())
            self._on_loop_gone()

    def _on_loop_gone(self) -> None:
        if not self._is_complete:
            self._is_gone = True
        self._news.set()
        self._room.set()

    def _on_loop_cancel(self) -> None:
        self._task.cancel()


class WSGIApplication:
    """What ``as_wsgi()`` returns: call it as a WSGI server does."""

    def __init__(
        self,
        app: ASGIApplication,
        lifespan: bool,
        close_timeout_seconds: float,
        loop_factory: Callable[[], asyncio.AbstractEventLoop] | None,
    ) -> None:
        self._app = app
        self._has_lifespan = lifespan
        self._close_timeout_seconds = close_timeout_seconds
        self._loop_factory = loop_factory
        self._lock = threading.Lock()
        self._loop: Loop | None = None
        self._is_closed = False
        _applications.add(self)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> _Exchange:
        """Serve one request.

        Raises:
            BaseException: What the application raised before it started its response; what it raises later comes out
                of the iterable.
            RuntimeError: The application failed to start (the next request tries again), or ``close()`` was called.
        """
        loop = self._loop or self._start()
        return _Exchange(loop, environ, self._close_timeout_seconds).open(start_response)

    def _start(self) -> Loop:
        with self._lock:
            if self._is_closed:
                raise RuntimeError("this application was closed, and its lifespan is over")
            if self._loop is None:
                loop = Loop(self._app, self._has_lifespan, self._close_timeout_seconds, self._loop_factory)
                loop.start()
                self._loop = loop
            return self._loop

    def close(self) -> None:
        """Let requests end, shut the application down and stop the event loop; called at interpreter exit, too."""
        with self._lock:
            self._is_closed = True
            loop, self._loop = self._loop, None
        if loop is not None:
            loop.stop()

    def _forked(self) -> None:
        """This process has the loop of another one, without its thread: the next request starts one of its own."""
        if self._loop is not None:
            # Not to be collected: its selector is shared with the process that serves with it.
            _inherited.append(self._loop)
        self._loop = None
        self._lock = threading.Lock()


_applications: weakref.WeakSet[WSGIApplication] = weakref.WeakSet()
_inherited: list[Loop] = []


def _close_all() -> None:
    for application in list(_applications):
        application.close()


def _after_fork() -> None:
    for application in list(_applications):
        application._forked()


atexit.register(_close_all)
if sys.platform != "win32":  # pragma: no branch
    os.register_at_fork(after_in_child=_after_fork)


def as_wsgi(
    app: Callable[[Scope, Receive, Send], Awaitable[object]] | ASGIApplication,
    *,
    lifespan: bool = True,
    close_timeout_seconds: float = 10.0,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> WSGIApplication:
    """Make a WSGI application of an ASGI application, for a server that speaks WSGI alone.

    The first request of a process starts an event loop in a thread of its own, and the application's lifespan on it;
    server processes that were forked before that have one each. Each request takes a thread of the server for as
    long as it lasts. That thread reads the body when the application asks for it, so a read that waits for the
    client holds up a response that is already under way.

    WSGI servers learn that a client has left when they write to it. Until then the application goes on; it is told
    by ``http.disconnect``, and by an ``OSError`` of ``send``, when the server closes the response.

    Args:
        app: The ASGI application; websockets cannot come this way.
        lifespan: Whether to run the application's lifespan. One that has none is served without.
        close_timeout_seconds: How long the application may go on after the client has left, and take to shut down,
            before it is cancelled.
        loop_factory: Makes the event loop, for example ``uvloop.new_event_loop``.
    """
    return WSGIApplication(app, lifespan, close_timeout_seconds, loop_factory)
