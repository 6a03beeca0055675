# pyright: basic
# Django has no types of its own.
"""Django's ASGI handler on the engine.

::

    scope, receive, send
      │  ASGIHandler.__call__   lifespan, websocket: answered quietly, or sent elsewhere
      │    a lease              the thread of the request, not borrowed yet
      │  Handler.handle
      │    the head checked, the body read         ┐ the engine
      │    request_started                         │ skipped where it would do nothing
      │    create_request                          │ Django's
      │    run_get_response     middleware, view   │ Django's                  ┐ watched: cancelled when
      │    send_response                           │ the engine                ┘ the client leaves
      ▼    response.close(), request_finished      ┘ in the thread of the request, if it has one

Source: ``django.core.handlers.asgi``, whose hooks these are.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from io import BytesIO
from typing import Any, ClassVar, Final, Literal, NoReturn, cast

import django
from anyio.lowlevel import checkpoint_if_cancelled
from asgiref.sync import AsyncToSync, SyncToAsync, iscoroutinefunction
from django.conf import settings
from django.core.exceptions import BadRequest, RequestAborted
from django.core.handlers import asgi
from django.core.handlers import exception as handlers_exception
from django.core.signals import got_request_exception, setting_changed
from django.http import HttpResponse, HttpResponseBadRequest, HttpResponseServerError
from django.http.response import HttpResponseBase
from django.urls import get_resolver, get_urlconf

from .._body import Body
from .._exchange import Closer, Exchange, is_head, note_error
from .._handler import Handler
from .._headers import check_request_headers, list_headers, refuse_underscores
from .._lifespan import Lifespan, run_lifespan
from .._observer import Observe
from .._response import Response
from .._spool import in_file_thread
from .._target import check_encodable, check_target
from .._watch import is_trio, run_shielded
from .._writer import Writer
from ..errors import (
    BodyTooLargeError,
    ClientDisconnectedError,
    HTTPError,
    RequestError,
    ServerProtocolError,
    UsageError,
)
from ..limits import Limits
from ..types import Receive, Scope, Send
from ._answer import Answer, StreamAnswer, answer, answer_in_lower_case
from ._call import Call
from ._cancel import CancelOnce, no_scope
from ._chain import join_hops, join_view_hooks
from ._hop import Hop, RequestContext, around, noting
from ._options import read_options
from ._quiet import FINISHED, STARTED, forget_connections, look_at_connections
from ._request import ASGIRequest
from ._stock import DjangoHandler
from ._variables import set_prefix, thread_above
from ._visit import Visit
from ._workers import Lease, Workers

__all__ = ["ASGIHandler", "get_asgi_application"]

logger = logging.getLogger("django.request")

_stock_handler: Final[Any] = DjangoHandler

# A site has fewer; what makes views as it goes must not fill the memory.
_MAX_VIEWS: Final = 4096

_NEEDS_ASYNCIO: Final = (
    "asgicore.django_bridge needs asyncio, as Django does: have the server run its workers on asyncio or uvloop"
)


_REFUSED: Final = "Django can only handle ASGI/HTTP connections, not %s."


def _refuse_trio() -> NoReturn:
    raise UsageError(_NEEDS_ASYNCIO)


class ASGIHandler(Handler, DjangoHandler):
    """Django's handler on the engine; a subclass of Django's own, with its hooks.

    Every option can be given as a key of the setting ``ASGICORE``, too, in capitals.

    Args:
        on_disconnect: ``"cancel"``: an asynchronous view and its response are cancelled when the client leaves.
            ``"notify"``: nothing happens before the response is sent.
        strict: Refuse lifespan and websocket scopes by ``ValueError``, as Django does.
        lifespan: As for ``asgicore.Handler``.
        routes: ASGI applications by scope type, such as ``{"websocket": chat}``.
        max_workers: How many requests run synchronous code at once.
        max_body_bytes: Requests that declare or send more are refused with 413 before Django sees them. ``None``:
            Django's own limits alone apply, once everything is here.
        underscores: ``"drop"``: header fields with an underscore in their name are left out, as under Django.
            ``"refuse"``: the request is answered with 400.
        preserve_header_case: Whether response header names keep the case that Django gives them; ASGI wants lower case.
        observe: As for ``asgicore.Handler``; request and response are Django's.

    Raises:
        ImproperlyConfigured: The setting is malformed, or a middleware cannot be loaded.
        ValueError: An option has a value that it cannot have.
    """

    request_class: type[Any] = ASGIRequest
    chunk_size: int = 2**16

    _view_middleware: Any
    _base: ClassVar[type[Any]]
    _leaving: ClassVar[tuple[type[Exception], ...]] = (ClientDisconnectedError, RequestAborted)

    def __new__(cls, *args: Any, **options: Any) -> ASGIHandler:
        """Make the handler usable, whatever ``__init__`` does: Django's own for static files does nothing of this."""
        handler: ASGIHandler = super().__new__(cls)
        handler._set_up({})
        return handler

    def __init__(
        self,
        *,
        on_disconnect: Literal["cancel", "notify"] | None = None,
        strict: bool | None = None,
        lifespan: Lifespan | None = None,
        routes: Mapping[str, Any] | None = None,
        max_workers: int | None = None,
        max_body_bytes: int | None = None,
        underscores: Literal["drop", "refuse"] | None = None,
        preserve_header_case: bool | None = None,
        observe: Observe | None = None,
    ) -> None:
        given: dict[str, Any] = {
            "on_disconnect": on_disconnect,
            "strict": strict,
            "lifespan": lifespan,
            "routes": routes,
            "max_workers": max_workers,
            "max_body_bytes": max_body_bytes,
            "underscores": underscores,
            "preserve_header_case": preserve_header_case,
            "observe": observe,
        }
        given = {name: value for name, value in given.items() if value is not None}
        if given:
            self._set_up(given)
        self.load_middleware(is_async=True)

    def _set_up(self, given: dict[str, Any]) -> None:
        options = read_options(given)
        vars(self).pop("handle", None)  # of observers that the setting names, and the arguments others
        super().__init__(
            self._serve,
            on_disconnect=options["on_disconnect"],
            lifespan=options["lifespan"],
            limits=Limits(
                max_body_bytes=options["max_body_bytes"],
                spool_threshold_bytes=settings.FILE_UPLOAD_MAX_MEMORY_SIZE,
                body_timeout_seconds=getattr(self.request_class, "body_receive_timeout", None),
            ),
            observe=options["observe"],
            debug=False,
        )
        if "handle" in vars(self):
            got_request_exception.connect(_note_exception)
        if options["underscores"] not in ("drop", "refuse"):
            raise ValueError(f"underscores is 'drop' or 'refuse', not {options['underscores']!r}")
        self._refuses_underscores = options["underscores"] == "refuse"
        self._answer_of = answer if options["preserve_header_case"] else answer_in_lower_case
        self._strict = bool(options["strict"])
        self._routes: Mapping[str, Any] = options["routes"] or {}
        self._max_workers: int = options["max_workers"]
        self.workers: Workers = self._new_workers()
        """The threads that synchronous code runs in: ``alive``, ``in_use``, ``waiting`` and ``max_workers``."""
        self._outer_scope, self._scope_around = no_scope, CancelOnce
        self._answering = self._serve
        self._open, self._deliver = self._check_head, self._send_answer
        self._refuse, self._fail = self._answer_http_error, self._answer_uncaught
        setting_changed.connect(self._setting_changed)
        self._tells_of_ends = self._is_told_of_ends
        self._views: dict[Any, Any] = {}
        self._is_told_of_ends = True  # every request is closed
        self._tells_of_responses, self._is_told_of_responses = self._is_told_of_responses, False

    def _setting_changed(self, *, setting: str, value: Any, **_: Any) -> None:
        """A test overrides a setting."""
        if setting == "FILE_UPLOAD_MAX_MEMORY_SIZE":
            self.limits: Limits = replace(self.limits, spool_threshold_bytes=settings.FILE_UPLOAD_MAX_MEMORY_SIZE)

    def _new_workers(self) -> Workers:
        return Workers(self._max_workers, look=look_at_connections, forget=forget_connections)

    # --- the connection ------------------------------------------------------------------------------

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection scope.

        Raises:
            ValueError: The scope is of an unknown type, or ``strict`` and none of HTTP.
            UsageError: This is trio. A lifespan says so, too, so that the server does not start.
        """
        kind = scope["type"]
        if is_trio():
            if kind != "lifespan":
                _refuse_trio()
            # The server is told at its start.
            await run_lifespan(_refuse_trio, scope, receive, send, partial(Handler._end_threads, self))
        elif kind in self._routes:
            await self._routes[kind](scope, receive, send)
        elif kind == "http":
            # In a context of somebody else synchronous code has a thread already. One of ours that another task has
            # entered is none: servers go on with a connection in the context in which they last resumed reading it.
            context, outer = None, around()
            if outer is None or (type(outer) is RequestContext and outer.task is not asyncio.current_task()):
                context = RequestContext(self.workers)
                context.enter()
            if self._states and scope.get("state") is None:
                scope = self._with_state(scope)
            try:
                await self.handle(scope, receive, send)
            except ServerProtocolError as exc:
                if exc.kind is None:
                    raise
                raise AssertionError(f"Invalid ASGI message after request body: {exc.kind}") from exc
            finally:
                if context is not None:
                    context.leave()
        elif self._strict or kind not in ("lifespan", "websocket"):
            raise ValueError(_REFUSED % kind)
        else:
            await super().__call__(scope, receive, send)

    async def _end_threads(self) -> None:
        workers, self.workers = self.workers, self._new_workers()
        await workers.aclose()
        await super()._end_threads()

    # --- the life of a request -----------------------------------------------------------------------

    def _check_head(self, scope: Scope, body: Body) -> tuple[Visit, Response | None]:
        limits = self.limits
        headers = scope.get("headers")
        refusal: Response | None = None
        if type(headers) is not list:
            headers = list_headers(headers)
            scope = {**scope, "headers": headers}
        visit = Visit(scope, body)
        try:
            path = scope.get("path")
            check_target(path, scope.get("query_string"), limits)
            if isinstance(path, str) and not path.isascii():
                check_encodable(path)  # Django quotes it again, in many a place
            declared = check_request_headers(headers, limits)
            if self._refuses_underscores:
                refuse_underscores(headers)
            # What was declared and what comes are the server's to compare, as under Django.
            if declared is not None and limits.max_body_bytes is not None and declared > limits.max_body_bytes:
                raise BodyTooLargeError(limits.max_body_bytes)
        except RequestError as exc:
            note_error(exc, body)
            refusal = self._answer_http_error(visit, exc)
        return visit, refusal

    async def _serve(self, visit: Visit) -> Response:
        scope, lease = visit.scope, visit.lease
        data = visit.body.data
        body_file = await self._body_file(visit.body) if data is None else BytesIO(data)
        set_prefix(asgi.get_script_prefix(scope))
        sender = type(self)
        own = STARTED.only(sender)
        if own is None or lease is None:
            await self._tell_of_start(visit)
        elif own:
            lease.prepare = partial(_send_to, own, STARTED.signal, sender, scope)
        visit.is_started = True
        request, response = self.create_request(scope, body_file)
        if request is None:
            body_file.close()
        else:
            visit.request = request
            response = await self.run_get_response(request)
        if not isinstance(response, HttpResponseBase):
            raise TypeError(f"run_get_response returned {type(response).__name__}; it must return an HttpResponse")
        visit.responses += (response,)
        answered: Any = response
        if lease is not None and lease.worker is not None and answered.streaming and answered.is_async:
            # Middleware and view are done. A stream may go on for hours, and needs no thread to wait.
            self._give_back(lease)
        if self._tells_of_responses:
            await self.response_ready(request, answered)
        return self._answer_of(response)

    async def _tell_of_start(self, visit: Visit) -> None:
        """Send ``request_started``: to all receivers, or to none if the request is cancelled already."""
        await checkpoint_if_cancelled()
        visit.is_started = True
        await Call(STARTED.signal.asend(sender=type(self), scope=visit.scope)).wait()

    async def _body_file(self, body: Body) -> Any:
        if self._reads_itself and body._spool is not None:
            return body._spool.file
        return await body.file()

    def _give_back(self, lease: Lease) -> None:
        worker = lease.worker
        if (
            worker is not None
            and worker.is_pristine
            # An asynchronous view may have left a cursor open that its stream reads from.
            and not lease.has_foreign_jobs
            and FINISHED.only(type(self)) is not None
        ):
            if worker.is_open:
                lease.submit_last(_close_connections)
            lease.prepare = _close_connections
            lease.give_back()

    async def _send_answer(self, made: Response, exchange: Exchange) -> None:
        """Have the hook send a response."""
        exchange.unclosed = tuple(other for other in exchange.unclosed if other is not made)
        exchange.keeps_case = True
        await self.send_response(cast("Answer | StreamAnswer", made).django, exchange)

    def _answer_http_error(self, visit: Visit | None, exc: HTTPError) -> Response:
        return self._add(visit, self.handle_http_error(None if visit is None else visit.request, exc))

    def _answer_uncaught(self, visit: Visit | None, exc: Exception) -> Response:
        if settings.DEBUG_PROPAGATE_EXCEPTIONS:
            raise exc
        request = None if visit is None else visit.request
        exc_info = (type(exc), exc, exc.__traceback__)
        return self._add(visit, self.handle_uncaught_exception(request, get_resolver(get_urlconf()), exc_info))

    def _add(self, visit: Visit | None, response: Any) -> Response:
        if visit is not None:
            visit.responses += (response,)
        return self._answer_of(response)

    def _as_told(self, exchange: Exchange) -> tuple[Any, Any]:
        visit = exchange.request
        if not isinstance(visit, Visit):
            return None, None
        return visit.request, visit.responses[-1] if visit.responses else None

    # --- the end of a request ------------------------------------------------------------------------

    async def _close(self, exchange: Exchange) -> None:
        visit = exchange.request
        if exchange.unclosed or exchange.body.needs_closing or self._tells_of_ends or not isinstance(visit, Visit):
            await super()._close(exchange)
        elif not visit.close_now(type(self)):
            await run_shielded(exchange.close_one(partial(self._finish, visit)), None)

    def _enders(self, exchange: Exchange) -> Iterator[Closer]:
        visit = exchange.request
        if isinstance(visit, Visit):
            if self._tells_of_ends:
                response = visit.responses[-1] if visit.responses else None
                if exchange.is_gone:
                    yield lambda: self.client_left(visit.request, exchange.phase)
                yield lambda: self.request_finished(visit.request, response)
            # However long it takes: a thread cannot be left.
            yield lambda: run_shielded(exchange.close_one(partial(self._finish, visit)), None)
        yield exchange.body.aclose

    async def _finish(self, visit: Visit) -> None:
        """Close everything as Django does: in the thread of the request."""
        visit.is_finished = True
        lease, sender = visit.lease, type(self)
        if lease is not None:
            # The thread does it even if nobody can wait for that.
            lease.keeps = True
            if thread_above() is not None:
                # A thread that waited in async_to_sync when the request was cancelled: asgiref brings its variables
                # back, and would have us wait for that thread, which is on its way out.
                AsyncToSync.executors.current = None
        try:
            try:
                await Call(Hop(visit.close)(sender)).wait()
            except RuntimeError:
                if visit.is_closed:
                    raise
                visit.close(sender)  # the system has no thread for it
        finally:
            if lease is not None:
                lease.keeps = False

    def _drop(self, exchange: Exchange) -> None:
        super()._drop(exchange)
        visit = exchange.request
        if isinstance(visit, Visit) and not visit.is_finished:
            visit.is_finished = True
            lease = visit.lease
            if lease is not None and lease.worker is not None:
                lease.submit_last(visit.close, type(self))
            else:
                visit.close(type(self))

    def load_middleware(self, is_async: bool = False) -> None:
        """As Django's; synchronous hooks that follow each other take one hop to the thread together."""
        super().load_middleware(is_async=is_async)
        if is_async:
            join_hops(self._middleware_chain)
            self._view_middleware = join_view_hooks(self._view_middleware)

    def adapt_method_mode(self, is_async: bool, method: Any, *args: Any, **kwargs: Any) -> Any:
        """As Django's, by a shorter way to the thread."""
        made = super().adapt_method_mode(is_async, method, *args, **kwargs)
        return Hop(made.func) if type(made) is SyncToAsync else made

    def make_view_atomic(self, view: Any) -> Any:
        """As Django's; a synchronous view is made awaitable here, once for all requests."""
        made = super().make_view_atomic(view)
        if made is not view or view.__hash__ is None:
            return noting(made) if iscoroutinefunction(made) else Hop(made, notes=True)
        awaitable = self._views.get(view)
        if awaitable is None:
            if len(self._views) >= _MAX_VIEWS:
                self._views.clear()
            awaitable = noting(view) if iscoroutinefunction(view) else Hop(view, notes=True)
            self._views[view] = awaitable
        return awaitable

    # --- hooks, as Django has them -------------------------------------------------------------------

    def create_request(self, scope: Any, body_file: Any) -> tuple[Any, Any]:
        """Create the request.

        Returns:
            ``(request, None)``, or ``(None, response)`` if something about it is the client's fault.
        """
        try:
            made: tuple[Any, Any] = _stock_handler.create_request(self, scope, body_file)
            return made
        except BadRequest as exc:
            logger.warning("Bad Request (%s)", exc, extra={"status_code": 400})
            return None, HttpResponseBadRequest()

    run_get_response: Any = vars(_stock_handler)["run_get_response"]
    chunk_bytes: Any = vars(_stock_handler)["chunk_bytes"]

    async def read_body(self, receive: Receive) -> Any:
        """Read the body to its end into a file, positioned at 0.

        Raises:
            RequestAborted: The client left first.
        """
        body = receive if isinstance(receive, Body) else Body(receive, self.limits)
        body_file = tempfile.SpooledTemporaryFile(max_size=settings.FILE_UPLOAD_MAX_MEMORY_SIZE, mode="w+b")
        size = 0
        try:
            while not body.is_settled:
                part = (await body())["body"]
                size += len(part)
                if size <= settings.FILE_UPLOAD_MAX_MEMORY_SIZE:
                    body_file.write(part)
                else:
                    await in_file_thread(body_file.write, part)
            await in_file_thread(body_file.seek, 0)
        except BaseException as exc:
            body_file.close()
            if isinstance(exc, ClientDisconnectedError):
                raise RequestAborted from exc
            raise
        return body_file

    async def listen_for_disconnect(self, receive: Receive) -> None:
        """Raise ``RequestAborted`` when the client has left, and not before.

        Raises:
            RequestAborted: The client has left.
            ServerProtocolError: The server gave a message that may not come now.
        """
        await (receive if isinstance(receive, Body) else Body(receive, self.limits)).listen()
        raise RequestAborted

    def handle_uncaught_exception(self, request: Any, resolver: Any, exc_info: Any) -> Any:  # type: ignore[override]
        """The response to an exception that no middleware has turned into one; it was logged already."""
        try:
            return handlers_exception.handle_uncaught_exception(request, resolver, exc_info)
        except Exception:
            text = traceback.format_exc() if settings.DEBUG else "Internal Server Error"
            return HttpResponseServerError(text.encode(errors="backslashreplace"), content_type="text/plain")

    def handle_http_error(self, request: Any, exc: HTTPError) -> Any:
        """The response to a request that the engine refuses: malformed, too large or too slow."""
        response = HttpResponse(exc.detail.encode(), status=exc.status_code, content_type="text/plain; charset=utf-8")
        for name, value in dict(exc.headers or {}).items():
            response[name] = value
        logger.warning("%s: %s", response.reason_phrase, exc.detail, extra={"status_code": exc.status_code})
        return response

    async def send_response(self, response: Any, send: Send) -> None:
        """Send start, body messages of at most ``chunk_size`` bytes, and end.

        Args:
            response: Django's response.
            send: Takes the messages of the response and checks them.
        """
        made = self._answer_of(response)
        if isinstance(send, Exchange):
            send.take(made)
            await self._sending(made, send)
            return
        try:
            await self._sending(made, Writer(send, is_head.get(), self.chunk_size))
        finally:
            await run_shielded(self._close_unseen(made), self.limits.close_timeout_seconds)


ASGIHandler._base = ASGIHandler


def get_asgi_application(**options: Any) -> ASGIHandler:
    """Set Django up and return its ASGI application; in place of ``django.core.asgi.get_asgi_application``.

    Args:
        options: As for ``ASGIHandler``; none are needed.
    """
    django.setup(set_prefix=False)
    return ASGIHandler(**options)


def _send_to(receivers: list[Any], signal: Any, sender: type, scope: Scope) -> None:
    for receiver in receivers:
        receiver(signal=signal, sender=sender, scope=scope)


def _note_exception(request: Any = None, **_: Any) -> None:
    """Django turns an exception into a response, and the engine does not see it."""
    note_error(sys.exception(), request)


def _close_connections() -> None:
    """What Django's own receivers do for the database, between a view and its stream."""
    for receiver in STARTED.only(ASGIHandler) or ():
        receiver(signal=STARTED.signal, sender=ASGIHandler)
