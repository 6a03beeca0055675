"""An endpoint as an ASGI application: the life of a request from the scope to the last byte.

The names of the hooks are those of Django's ``ASGIHandler``, freed from Django.

::

    scope, receive, send
      │  Handler.__call__     lifespan answered, websocket refused
      │  Handler.handle
      │    create_request     the head checked; Request over Body, or an error response
      │    read_body          in spool mode
      │    run_get_response   the endpoint                  ┐ watched: cancelled when
      │    send_response      start, body, end, by Writer   ┘ the client leaves
      │    background work
      ▼    cleanup            iterator, body, file: always, shielded
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import suppress
from inspect import isawaitable
from tempfile import SpooledTemporaryFile
from typing import Any, ClassVar, Final, Literal, TypeAlias, cast

from anyio import CancelScope, Event, get_cancelled_exc_class, move_on_after
from anyio.lowlevel import checkpoint

from ._body import Body
from ._callables import is_async_callable
from ._compression import Compression
from ._exchange import Cancellation, Exchange, is_head
from ._extensions import PATHSEND, TRAILERS, ZEROCOPYSEND
from ._headers import check_request_headers, list_headers
from ._jobs import Job
from ._late_scope import EARLY, Outer, ScopeAround, ShieldAround, innermost_scope
from ._lifespan import Lifespan, bind_lifespan, refuse_websocket, run_lifespan
from ._request import Request
from ._response import Background, Response
from ._stepped import SteppedListener
from ._streaming_response import StreamingResponse
from ._target import check_target
from ._threads import Threads
from ._watch import (
    Listener,
    is_cancelled,
    log_cut,
    resume,
    run_shielded,
    running_asyncio_task,
    start_listener,
    timed,
)
from ._writer import DONE, TRAILING, Writer, limit_send, slice_bytes
from .errors import (
    ClientDisconnectedError,
    HTTPError,
    RequestError,
    ResponseStateError,
    ServerProtocolError,
    UsageError,
)
from .limits import DEFAULT_LIMITS, Limits
from .types import RawHeaders, Receive, Scope, Send

__all__ = ["Endpoint", "Handler"]

logger = logging.getLogger("asgicore")

Endpoint: TypeAlias = Callable[[Any], Awaitable[Response]] | Callable[[Any], Response]
"""A function, async or not, that takes a :class:`Request` and returns a :class:`Response`."""

Closer: TypeAlias = Callable[[], Coroutine[Any, Any, None]]

# No event loop is given this by a coroutine.
_FINISHED: Final = object()


def _of_the_client(exc: Exception) -> Exception:
    """The error that a group stands for, where a task group was about nothing but the client's errors."""
    error: Any = exc
    if isinstance(exc, ExceptionGroup) and error.split(RequestError)[1] is None:
        while isinstance(error, ExceptionGroup):
            error = cast("Any", error).exceptions[0]
    return cast("Exception", error)


def _of_the_iterator(cancelled: BaseException) -> UsageError:
    """The error in place of a cancellation that nobody outside of a stream has asked for."""
    error = UsageError(
        "a cancel scope or task group that the iterator holds across its yield was cancelled while a part was being "
        "sent; put it around what the iterator waits for, between two parts"
    )
    error.__cause__ = cancelled
    return error


def _closing() -> HTTPError:
    """What a request is answered with that the handler's closing cuts short."""
    return HTTPError(503, headers={"retry-after": "1"})


class Handler:
    """An ASGI application around one endpoint.

    Subclass it and override ``create_request`` and ``run_get_response`` to put a framework on top; every other
    hook can be overridden alone, too.

    Args:
        endpoint: ``async def endpoint(request) -> Response``, or a ``def``, which runs in a worker thread when the
            whole body is here. May be left out where ``run_get_response`` is overridden.
        body: ``"spool"``: the endpoint runs when the whole body is here, which it can use any number of times.
            ``"stream"``: it runs at once, and nothing is received before it asks.
        on_disconnect: ``"cancel"``: the endpoint and its response are cancelled when the client leaves.
            ``"notify"``: only ``request.is_disconnected`` changes.
        limits: Bounds for every request.
        lifespan: An async context manager function, called with the handler or with nothing; the mapping that it yields
            becomes ``request.state``.
        threads: Run what is synchronous: endpoints, iterators, background work. If ``None``, 40 threads of the
            handler's own, which end with the lifespan; others are their owner's to close.
        compression: Compresses what the endpoint returns, where the client wants it. Off if ``None``.
        debug: Answer uncaught exceptions with their traceback, and report code that blocks the event loop.
            Never in production.

    Raises:
        TypeError: The endpoint is no callable, or there is none.
        ValueError: ``body`` or ``on_disconnect`` is none of the words above, or a synchronous endpoint is to stream.
    """

    chunk_size: int = 65536
    """Longest body message of a response, in bytes."""

    request_class: type[Any] = Request
    """Built by :meth:`create_request` with the scope and the :class:`Body`."""

    _base: ClassVar[type[Any]]
    """The class whose hooks do what the engine does by itself; bridges have their own."""
    _leaving: ClassVar[tuple[type[Exception], ...]] = (ClientDisconnectedError,)
    """What says that the client has left."""

    def __init__(
        self,
        endpoint: Endpoint | None = None,
        *,
        body: Literal["spool", "stream"] = "spool",
        on_disconnect: Literal["cancel", "notify"] = "cancel",
        limits: Limits = DEFAULT_LIMITS,
        lifespan: Lifespan | None = None,
        threads: Threads | None = None,
        compression: Compression | None = None,
        debug: bool = False,
    ) -> None:
        if body not in ("spool", "stream"):
            raise ValueError(f"body is 'spool' or 'stream', not {body!r}")
        if on_disconnect not in ("cancel", "notify"):
            raise ValueError(f"on_disconnect is 'cancel' or 'notify', not {on_disconnect!r}")
        if endpoint is None:
            if not self._overrides("run_get_response"):
                raise TypeError("Handler takes an endpoint, or a subclass overrides run_get_response")
        elif not callable(endpoint):
            raise TypeError(f"the endpoint {endpoint!r} cannot be called; it takes a request and returns a response")
        self._is_async = is_async_callable(endpoint)
        if body == "stream" and not self._is_async and endpoint is not None:
            raise ValueError("a synchronous endpoint runs when its body is here; leave out body='stream'")
        self.endpoint = endpoint
        self._owns_threads = threads is None
        self.threads: Threads = Threads() if threads is None else threads
        """Where synchronous code runs; tells how many threads are ``in_use`` and how many requests ``waiting``."""
        self.limits = limits
        self._compression = compression
        self.debug = debug
        self._keeps = body == "spool"
        self._cancels = on_disconnect == "cancel"
        self._lifespan = None if lifespan is None else bind_lifespan(lifespan, self)
        # For servers that keep no state between lifespan and requests.
        self._state: dict[str, Any] = {}
        self._waiting: set[Exchange] = set()
        self._drained: Event | None = None
        # Hooks that do nothing are not called: a call of an empty async function is 0.1 us.
        self._reads_itself = self._overrides("read_body")
        self._listens_itself = self._overrides("listen_for_disconnect")
        self._sends_itself = self._overrides("send_response")
        self._answering: Callable[[Any], Awaitable[Response]] = (
            cast("Callable[[Any], Awaitable[Response]]", endpoint)
            if self._is_async and not self._overrides("run_get_response")
            else self.run_get_response
        )
        self._cuts_itself = self._overrides("chunk_bytes")
        self._is_told_of_responses = self._overrides("response_ready")
        self._is_told_of_ends = self._overrides("request_finished") or self._overrides("client_left")
        # How a request that waits is cancelled.
        self._outer_scope: Callable[[], Outer] = innermost_scope
        self._scope_around: Callable[[Any], Cancellation] = ScopeAround
        # What the engine calls; a bridge whose hooks take other arguments puts its own there.
        self._open: Callable[[Scope, Body], tuple[Any, Response | None]] = self.create_request
        self._deliver: Callable[[Response, Exchange], Awaitable[None]] = self.send_response
        self._refuse: Callable[[Any, HTTPError], Response] = self.handle_http_error
        self._fail: Callable[[Any, Exception], Response] = self.handle_uncaught_exception

    def _overrides(self, hook: str) -> bool:
        """Whether a subclass has a hook of its own."""
        classes = type(self).__mro__
        return any(hook in vars(cls) for cls in classes[: classes.index(self._base)])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection scope.

        Raises:
            ServerProtocolError: The scope is of an unknown type; nothing was received or sent.
        """
        kind = scope.get("type")
        if kind == "http":
            if self._state and scope.get("state") is None:
                scope = {**scope, "state": dict(self._state)}
            await self.handle(scope, receive, send)
        elif kind == "lifespan":
            if scope.get("state") is None:
                self._state = {}
                scope = {**scope, "state": self._state}
            await run_lifespan(self._lifespan, scope, receive, send, self._end_threads)
        elif kind == "websocket":
            await refuse_websocket(scope, receive, send)
        else:
            raise ServerProtocolError(f"asgicore serves http, lifespan and websocket scopes, not {kind!r}")

    async def _end_threads(self) -> None:
        """The lifespan is over. Should another one begin, in tests, it gets new threads."""
        if self._owns_threads:
            threads, self.threads = self.threads, Threads()
            await threads.aclose()

    # --- the life of a request -----------------------------------------------------------------------

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request, from the first ``receive`` to the last cleanup.

        Raises:
            BaseException: What the endpoint or its response raised after the response was started, unchanged; what
                ``receive`` raised; cancellation from outside.
        """
        limits = self.limits
        body = Body(receive, limits, self._keeps)
        if limits.send_timeout_seconds is not None:
            send = limit_send(send, limits.send_timeout_seconds)
        exchange = Exchange(scope, body, send, self.chunk_size)
        try:
            # Asked before anything is stepped by hand: a receive() of middleware may wait in scopes, too.
            outer = self._outer_scope() if self._cancels else None
            try:
                exchange.request, response = self._open(scope, body)
                if response is not None:
                    exchange.take(response)
                    exchange.refuse_body()
                elif self._keeps:
                    if self._reads_itself:
                        body.adopt(await self.read_body(body))
                    elif (rest := body.load() if outer is EARLY else body.begin()) is not None:
                        await self._load(exchange, rest, outer)
            except Exception as exc:
                exchange.take(self._answer(exchange, exc))
            exchange.is_begun = True
            coro = self._respond(exchange)
            if self.debug:
                coro = timed(coro, str(exchange))
            # The endpoint's first step is made by hand: most finish in it, and then nothing had to be started.
            # next() with a default does so without the exception that send() ends with.
            if outer is EARLY:
                with CancelScope() as exchange.cancel_scope:
                    yielded = next(coro.__await__(), _FINISHED)
                    if yielded is not _FINISHED:
                        self._attend(exchange)
                        await resume(coro, yielded, body)
            else:
                yielded = next(coro.__await__(), _FINISHED)
                if yielded is not _FINISHED:
                    if self._cancels:
                        with self._scope_around(outer) as exchange.cancel_scope:
                            self._attend(exchange)
                            await resume(coro, yielded, body)
                    else:
                        self._attend(exchange)
                        await resume(coro, yielded, body)
            if exchange.state is DONE:
                response = exchange.response
                if response is not None and response._extras is not None and response.background is not None:
                    await self._run_background(exchange, response.background)
            elif exchange.is_ending:
                await self._end(exchange)
            elif body.failure is not None and not isinstance(body.failure, RequestError):
                raise body.failure
            elif exchange.is_gone:
                self._log_gone(exchange, None)
        except Exception as exc:
            if not exchange.is_gone:
                raise
            body.leave()
            self._log_gone(exchange, exc)
        except GeneratorExit:
            # The loop throws the request away; nothing can be awaited any more.
            exchange.is_dropped = True
            self._drop(exchange)
            raise
        finally:
            try:
                if exchange.listener is not None:
                    await self._dismiss(exchange, exchange.listener)
            except GeneratorExit:
                exchange.is_dropped = True
                self._drop(exchange)
                raise
            finally:
                if (body.needs_closing or exchange.unclosed or self._is_told_of_ends) and not exchange.is_dropped:
                    await self._close(exchange)

    async def _load(self, exchange: Exchange, rest: Coroutine[Any, Any, None], outer: Outer) -> None:
        """Wait for the rest of the body."""
        self._waiting.add(exchange)
        try:
            if self._cancels:
                with CancelScope() if outer is EARLY else self._scope_around(outer) as exchange.cancel_scope:
                    await rest
            else:
                await rest
        finally:
            exchange.cancel_scope = None
            self._forget(exchange)
        if exchange.is_ending:
            exchange.refuse_body()
            raise _closing()

    def _forget(self, exchange: Exchange) -> None:
        self._waiting.discard(exchange)
        if self._drained is not None and not self._waiting:
            self._drained.set()
            self._drained = None

    def _attend(self, exchange: Exchange) -> None:
        """The endpoint waits: have somebody listen for the disconnect meanwhile."""
        self._waiting.add(exchange)
        body = exchange.body
        # Before the body is here, the listener waits for other things than receive().
        task = running_asyncio_task() if body.is_settled and not self._listens_itself else None
        if task is not None:
            exchange.listener = SteppedListener(task, body.watch(), exchange.leave)
        else:
            exchange.listener = start_listener(
                self._listen(exchange) if self._listens_itself else body.watch(exchange.leave)
            )
        if exchange.keep_alive is not None:
            exchange.keep_alive.attend()

    async def _dismiss(self, exchange: Exchange, listener: Listener) -> None:
        exchange.listener = None  # its task refers to the exchange
        exchange.body.find_hinter = None  # a task that was left behind may still ask for it
        self._forget(exchange)
        if exchange.is_dropped:
            listener.cancel()
        else:
            await listener.stop()

    async def _listen(self, exchange: Exchange) -> None:
        try:
            await self.listen_for_disconnect(exchange.body)
            exchange.body.leave()
        except self._leaving:
            exchange.body.leave()
        except Exception as exc:
            exchange.body.fail(exc)
        exchange.leave()

    async def _respond(self, exchange: Exchange) -> None:
        response = exchange.response
        try:
            if response is None:
                response = await self._answering(exchange.request)
                if not isinstance(response, Response):
                    raise TypeError(f"the endpoint returned {type(response).__name__}; it must return a Response")
                exchange.take(response)
                if self._is_told_of_responses:
                    await self.response_ready(exchange.request, response)
            if response._extras is not None or self._compression is not None:
                response = await self._prepare(exchange, response)
        except Exception as exc:
            response = await self._fit(exchange, self._answer(exchange, exc))
        if self._cancels and exchange.body.is_disconnected:
            return  # the endpoint swallowed the cancellation; nobody is there to answer
        try:
            if self._sends_itself:
                await self._hand_over(response, exchange)
                if not exchange.is_done:
                    raise ResponseStateError("send_response returned before the final message was sent")
            elif (
                self._cuts_itself
                or isinstance(response, StreamingResponse)
                or len(response.body) > self.chunk_size
                or response._extras is not None
            ):
                await self._sending(response, exchange)
            else:
                # The usual response goes out in one message; a call less is 0.1 us.
                await exchange.send_whole(response.status_code, response.raw_headers(), response.body, None)
        except Exception as exc:
            if exchange.is_started:
                raise
            response = await self._fit(exchange, self._answer(exchange, exc))
            await self._hand_over(response, exchange)

    async def _hand_over(self, response: Response, exchange: Exchange) -> None:
        """Have the hook send the response."""
        token = is_head.set(exchange.scope.get("method") == "HEAD")
        try:
            await self._deliver(response, exchange)
        finally:
            with suppress(ValueError):  # another context: the loop has given the request up
                is_head.reset(token)

    async def _prepare(self, exchange: Exchange, response: Response) -> Response:
        """Fit the response to the request."""
        # The request's own scope: its fields are a list, whatever the server gave.
        request = exchange.request
        scope = request.scope if isinstance(request, Request) else exchange.scope
        prepared = response
        if response._extras is not None:
            if self._compression is not None:
                response._extras.is_compressible = self._compression.concerns(response)
            prepared = await response.prepare(scope)
            if prepared is not response:
                if not isinstance(cast("object", prepared), Response):
                    raise TypeError(
                        f"{type(response).__name__}.prepare returned {type(prepared).__name__}; "
                        "it must return a Response"
                    )
                exchange.take(prepared)
        if self._compression is None:
            return prepared
        compressed = await self._compression.apply(scope, prepared, response)
        if compressed is not prepared:
            if isinstance(compressed, StreamingResponse):
                exchange.forget(prepared)  # closed by the one that is made from it
            exchange.take(compressed)
        return compressed

    async def _fit(self, exchange: Exchange, response: Response) -> Response:
        """Take an answer in place of what failed, and prepare it like any other response."""
        exchange.take(response)
        if response._extras is None:
            return response
        try:
            return await self._prepare(exchange, response)
        except Exception as exc:
            # The answer to this could fail as this one did.
            logger.error("%s failed", str(exchange), exc_info=exc)
            response = Handler.handle_uncaught_exception(self, exchange.request, exc)
            exchange.take(response)
            return response

    async def _stream(self, exchange: Exchange, response: StreamingResponse, headers: RawHeaders) -> None:
        """Send a stream and close it, before any scope is left that its iterator may have entered others in."""
        failure: BaseException | None = None
        shield = ShieldAround()
        try:
            with shield:
                try:
                    await exchange.send_stream(
                        response.status_code,
                        headers,
                        response.kept_parts(self.threads, exchange.keep),
                        self.chunk_bytes,
                        cuts_all=self._cuts_itself,
                    )
                except GeneratorExit:
                    raise
                except BaseException as exc:
                    failure = exc
                exchange.keep_alive = None
                if exchange.is_started:  # else it has not begun, and the answer to the failure comes first
                    exchange.forget(response)
                    shield.entered_since = exchange.cancel_scope
                    close = self._close_one(exchange, response.aclose)
                    try:
                        await run_shielded(close, self.limits.close_timeout_seconds, shield)
                    except GeneratorExit:
                        response.close_nowait()
                        raise
        except asyncio.CancelledError as exc:  # held back
            comes_first = failure is None or isinstance(failure, asyncio.CancelledError) or is_cancelled(exc)
            failure = exc if comes_first else failure
        if shield.is_cut:
            log_cut(self.limits.close_timeout_seconds)
        if failure is not None:
            if isinstance(failure, get_cancelled_exc_class()) and not is_cancelled(failure):
                # Let out, it would end a server on trio, and pass in silence on asyncio.
                failure = _of_the_iterator(failure)
            try:
                raise failure
            finally:
                failure = None

    def _answer(self, exchange: Exchange, exc: Exception) -> Response:
        """The response to an exception; raises it where nobody is there to get one."""
        exc = _of_the_client(exc)
        if exchange.is_gone or (exc is exchange.body.failure and not isinstance(exc, RequestError)):
            raise exc
        if isinstance(exc, HTTPError):
            if isinstance(exc, RequestError):
                exchange.refuse_body()
            try:
                return self._refuse(exchange.request, exc)
            except Exception as error:
                exc = error
        logger.error("%s failed", str(exchange), exc_info=exc)
        return self._fail(exchange.request, exc)

    async def _run_background(self, exchange: Exchange, background: Background) -> None:
        try:
            if is_async_callable(background):
                await cast("Awaitable[object]", background())
            else:
                await self.threads.run(background)
        except Exception as exc:
            logger.error("the background work of %s failed", str(exchange), exc_info=exc)

    async def _end(self, exchange: Exchange) -> None:
        """The handler is being closed: end what was cut short so that the client can tell."""
        response = exchange.response
        rest = response.cut() if isinstance(response, StreamingResponse) else b""
        if exchange.is_open and rest is not None:
            await exchange({"type": "http.response.body", "body": rest, "more_body": False})
        if exchange.state is TRAILING:
            await exchange({"type": TRAILERS, "headers": [], "more_trailers": False})
        elif not exchange.is_started:
            response = await self._fit(exchange, self._refuse(exchange.request, _closing()))
            await self._deliver(response, exchange)
        elif not exchange.is_done:
            raise ResponseStateError("the handler was closed within a response of declared length")

    def _log_gone(self, exchange: Exchange, exc: Exception | None) -> None:
        if exc is None or isinstance(exc, self._leaving):
            logger.debug("%s: the client left", str(exchange))
        else:
            # Mostly the endpoint's way of telling that it was cut short; nobody waits for an answer.
            logger.info("%s: the client left, then %s was raised", str(exchange), type(exc).__name__, exc_info=exc)

    async def _close(self, exchange: Exchange) -> None:
        """Close everything, whatever fails on the way."""
        interrupted: BaseException | None = None
        for close in (*(response.aclose for response in exchange.unclosed), *self._enders(exchange)):
            try:
                await run_shielded(self._close_one(exchange, close), self.limits.close_timeout_seconds)
            except GeneratorExit:
                self._drop(exchange)
                raise
            except BaseException as exc:
                interrupted = exc  # a cancellation that was held back: first the rest is closed
        exchange.body.close_nowait()
        if interrupted is not None:
            try:
                raise interrupted
            finally:
                interrupted = None

    def _drop(self, exchange: Exchange) -> None:
        """Close what can be closed without waiting."""
        exchange.body.close_nowait()
        for response in exchange.unclosed:
            response.close_nowait()

    def _enders(self, exchange: Exchange) -> Iterator[Closer]:
        """What is called at the end, in this order."""
        if self._is_told_of_ends:
            if exchange.is_gone:
                yield lambda: self.client_left(exchange.request, exchange.phase)
            yield lambda: self.request_finished(exchange.request, exchange.response)
        yield exchange.body.aclose

    async def _close_one(self, exchange: Exchange, close: Closer) -> None:
        try:
            await close()
        except Exception as exc:
            self._log_unclosed(exchange, exc)
        except BaseExceptionGroup as group:
            # A task group wraps the GeneratorExit that a generator inside of it is closed with.
            errors = group.split(GeneratorExit)[1]
            if isinstance(errors, Exception):
                self._log_unclosed(exchange, errors)
            elif errors is not None:
                raise errors from None

    def _log_unclosed(self, exchange: Exchange, exc: Exception) -> None:
        level = logging.INFO if exchange.is_gone else logging.ERROR
        logger.log(level, "closing %s failed", str(exchange), exc_info=exc)

    async def aclose(self, grace_seconds: float = 5.0) -> None:
        """End the requests that wait for something, for a shutdown that long streams would hold up.

        Those that end by themselves within ``grace_seconds`` do. Of the others, a stream is cancelled and ended
        with a final message, an endpoint that has not answered is cancelled and answered with 503, and a
        response of declared length, compressed or not, is aborted. With ``on_disconnect="notify"`` nothing is
        cancelled.
        """
        with move_on_after(grace_seconds):
            while self._waiting:
                if self._drained is None:
                    self._drained = Event()
                await self._drained.wait()
        for exchange in self._waiting:
            if exchange.cancel_scope is not None and not exchange.is_done:
                exchange.is_ending = True
                exchange.cancel_scope.cancel()

    # --- hooks ---------------------------------------------------------------------------------------

    async def read_body(self, receive: Receive) -> SpooledTemporaryFile[bytes]:
        """Read the body to its end into a file, positioned at 0. Called with ``body="spool"``, before the endpoint.

        Args:
            receive: Gives the messages of the request, checked and counted.

        Raises:
            ClientDisconnectedError: The client left first.
            RequestError: The body is too large, too slow or not as long as declared.
        """
        body = receive if isinstance(receive, Body) else Body(receive, self.limits, keep=True)
        await body.load()
        return await body.file()

    def create_request(self, scope: Scope, body: Body) -> tuple[Any, Response | None]:
        """Check the head of the request.

        Returns:
            ``(request, None)``, or ``(None, response)`` if the head is malformed or too large.
        """
        limits = self.limits
        headers = scope.get("headers")
        try:
            if type(headers) is not list:
                # The specification allows any iterable, and an iterator can be read once.
                headers = list_headers(headers)
                scope = {**scope, "headers": headers}
            check_target(scope.get("path"), scope.get("query_string"), limits)
            declared = check_request_headers(headers, limits)
            if declared is not None:
                body.declare(declared)
        except RequestError as exc:
            return None, self.handle_http_error(None, exc)
        return self.request_class(scope, body), None

    async def run_get_response(self, request: Any) -> Response:
        """Get the response: awaits the endpoint, or runs it in a worker thread.

        Raises:
            ThreadsBusyError: A synchronous endpoint would have to wait behind too many others.
        """
        endpoint: Any = self.endpoint
        if self._is_async:
            response: Response = await endpoint(request)
            return response
        job = self.threads.start(endpoint, request)
        try:
            given: Any = await job.wait()
        except GeneratorExit:
            raise  # nothing can be awaited any more
        except BaseException:
            await self._close_lost(job)
            raise
        # A synchronous function may call an asynchronous one.
        answer: Response = await given if isawaitable(given) else given
        return answer

    async def _close_lost(self, job: Job[Any]) -> None:
        """Close the response of an endpoint whose client left while it ran."""
        try:
            lost = job.take()
        except Exception:
            return  # it raised, which is on its way already or is told to nobody
        if isinstance(lost, Response):
            await run_shielded(self._close_unseen(lost), self.limits.close_timeout_seconds)

    async def _close_unseen(self, response: Response) -> None:
        try:
            await response.aclose()
        except Exception as exc:
            logger.info("closing a response that nobody was there to get failed", exc_info=exc)

    async def listen_for_disconnect(self, receive: Receive) -> None:
        """Return, or raise :class:`ClientDisconnectedError`, when the client has left, and not before.

        Called beside an endpoint that waits. After the body, ``receive`` gives ``http.disconnect`` alone.
        """
        if isinstance(receive, Body):
            await receive.listen()
            return
        while (await receive()).get("type") != "http.disconnect":
            await checkpoint()

    def handle_http_error(self, request: Any, exc: HTTPError) -> Response:
        """The response to an :class:`HTTPError`; ``request`` is ``None`` if its head was refused."""
        if exc.status_code == 304:
            # It has no body, and a length would be that of the 200 it stands for (RFC 9110 section 8.6).
            return Response(b"", 304, exc.headers)
        return Response(exc.detail, exc.status_code, exc.headers, "text/plain; charset=utf-8")

    def handle_uncaught_exception(self, request: Any, exc: Exception) -> Response:
        """The response to any other exception, which was logged already; ``request`` may be ``None``."""
        text = "".join(traceback.format_exception(exc)) if self.debug else "Internal Server Error"
        return Response(text.encode(errors="backslashreplace"), 500, content_type="text/plain; charset=utf-8")

    async def send_response(self, response: Response, send: Send) -> None:
        """Send start, body messages of at most :attr:`chunk_size` bytes, and end.

        Args:
            response: What the endpoint returned.
            send: Takes the messages of the response and checks them.
        """
        writer = send if isinstance(send, Writer) else Writer(send, is_head.get(), self.chunk_size)
        await self._sending(response, writer)

    def _sending(self, response: Response, writer: Writer) -> Coroutine[Any, Any, None]:
        extras = response._extras
        # Set in any case: another response may have come this far, and no further.
        writer.trailers = extras.trailers if extras is not None and TRAILERS in writer.extensions else None
        if extras is not None and extras.debug_info is not None:
            return self._send_with_debug(response, writer, extras.debug_info)
        return self._send_plain(response, writer)

    async def _send_with_debug(self, response: Response, writer: Writer, info: Mapping[str, Any]) -> None:
        await writer.send_debug(info)
        await self._send_plain(response, writer)

    def _send_plain(self, response: Response, writer: Writer) -> Coroutine[Any, Any, None]:
        headers = response.raw_headers()
        if isinstance(response, StreamingResponse):
            # Trailers are mostly made of what passed through the iterator.
            can_leave_it = writer.trailers is None
            if response.path is not None and can_leave_it and PATHSEND in writer.extensions:
                return writer.send_path(response.status_code, headers, response.path)
            if response.segments is not None and can_leave_it and ZEROCOPYSEND in writer.extensions:
                return writer.send_segments(response.status_code, headers, response.file, response.segments)
            if isinstance(writer, Exchange):
                return self._stream(writer, response, headers)
            parts = response.parts(self.threads)
            return writer.send_stream(
                response.status_code, headers, parts, self.chunk_bytes, cuts_all=self._cuts_itself
            )
        body = response.body
        if writer.trailers is not None:
            return writer.send_trailed(response.status_code, headers, body, self.chunk_bytes)
        chunks = self.chunk_bytes if len(body) > self.chunk_size or self._cuts_itself else None
        return writer.send_whole(response.status_code, headers, body, chunks)

    def chunk_bytes(self, data: bytes) -> Iterable[tuple[bytes, bool]]:
        """Cut ``data`` into (chunk, is_last) of at most :attr:`chunk_size`; empty data gives one ``(b"", True)``."""
        return slice_bytes(data, self.chunk_size)

    async def response_ready(self, request: Any, response: Response) -> None:
        """The endpoint is done and nothing was sent yet. Does nothing; for frameworks."""

    async def client_left(self, request: Any, phase: Literal["body", "handler", "response"]) -> None:
        """The client left before the response was complete. Called once, shielded, before :meth:`request_finished`.

        Args:
            request: The request, ``None`` if the client left before there was one.
            phase: What was under way: the body being read, the endpoint, or the response being sent.

        Does nothing; for frameworks.
        """

    async def request_finished(self, request: Any, response: Response | None) -> None:
        """The request is over. Called once on every exit, shielded, while the body is still open.

        Args:
            request: The request, ``None`` if its head was refused.
            response: The response, ``None`` if there was none.

        Does nothing; for frameworks.
        """


Handler._base = Handler
