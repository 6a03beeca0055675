"""An endpoint as an ASGI application: the life of a request from the scope to the last byte.

What it calls on the way, and a subclass may override, is in ``_hooks.py``.

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

import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import suppress
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, TypeAlias, cast

from anyio import CancelScope, Event, move_on_after

from ._body import Body
from ._callables import is_async_callable
from ._channel import NOTED, is_read
from ._exchange import Cancellation, Closer, Exchange, OfThread, is_head
from ._extensions import TRAILERS
from ._grace import GraceScope
from ._hooks import Hooks
from ._jobs import forget_context
from ._late_scope import EARLY, Outer, ScopeAround, innermost_scope
from ._lifespan import Lifespan, bind_lifespan, refuse_websocket, run_lifespan
from ._request import Request
from ._response import Background, Response
from ._stepped import SteppedListener
from ._streaming_response import StreamingResponse
from ._threads import Threads
from ._watch import (
    Listener,
    resume,
    run_shielded,
    running_asyncio_task,
    start_listener,
    timed,
)
from ._writer import DONE, TRAILING, limit_send
from .errors import (
    ClientDisconnectedError,
    HTTPError,
    RequestError,
    ResponseStateError,
    ServerProtocolError,
)
from .limits import DEFAULT_LIMITS, Limits
from .types import Receive, Scope, Send

if TYPE_CHECKING:
    from ._compression import Compression
    from ._observer import Observe

__all__ = ["Endpoint", "Handler"]

logger = logging.getLogger("asgicore")

Endpoint: TypeAlias = Callable[[Any], Awaitable[Response]] | Callable[[Any], Response]
"""A function, async or not, that takes a ``Request`` and returns a ``Response``."""

# No event loop is given this by a coroutine.
_FINISHED: Final = object()


def _of_the_client(exc: Exception) -> Exception:
    """The error that a group stands for, where a task group was about nothing but the client's errors."""
    error: Any = exc
    if isinstance(exc, ExceptionGroup) and error.split(RequestError)[1] is None:
        while isinstance(error, ExceptionGroup):
            error = cast("Any", error).exceptions[0]
    return cast("Exception", error)


def _closing() -> HTTPError:
    """What a request is answered with that the handler's closing cuts short."""
    return HTTPError(503, headers={"retry-after": "1"})


class Handler(Hooks):
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
        grace_seconds: How long an endpoint that was cancelled may still wait for its cleanup. If ``None``, every
            ``await`` in its ``finally`` blocks is cancelled at once, as in any cancelled scope, but for shielded ones.
        limits: Bounds for every request.
        lifespan: An async context manager function, called with the handler or with nothing; the mapping that it yields
            becomes ``request.state``.
        threads: Run what is synchronous: endpoints, iterators, background work. If ``None``, 40 threads of the
            handler's own, which end with the lifespan; others are their owner's to close.
        compression: Compresses what the endpoint returns, where the client wants it. Off if ``None``.
        observe: Called with ``(request, response, timings, outcome, error)`` at the end of every request: a function,
            an ``Observer``, or several of them.
        debug: Answer uncaught exceptions with their traceback, and report code that blocks the event loop.
            Never in production.

    Raises:
        TypeError: The endpoint is no callable, or there is none; ``limits`` or ``compression`` is something else; an
            observer is no callable, or asynchronous.
        ValueError: ``body`` or ``on_disconnect`` is none of the words above, ``grace_seconds`` is negative or goes with
            ``"notify"``, or a synchronous endpoint is to stream.
    """

    _leaving: ClassVar[tuple[type[Exception], ...]] = (ClientDisconnectedError,)
    """What says that the client has left."""

    def __init__(
        self,
        endpoint: Endpoint | None = None,
        *,
        body: Literal["spool", "stream"] = "spool",
        on_disconnect: Literal["cancel", "notify"] = "cancel",
        grace_seconds: float | None = None,
        limits: Limits = DEFAULT_LIMITS,
        lifespan: Lifespan | None = None,
        threads: Threads | None = None,
        compression: Compression | None = None,
        observe: Observe = (),
        debug: bool = False,
    ) -> None:
        if body not in ("spool", "stream"):
            raise ValueError(f"body is 'spool' or 'stream', not {body!r}")
        if on_disconnect not in ("cancel", "notify"):
            raise ValueError(f"on_disconnect is 'cancel' or 'notify', not {on_disconnect!r}")
        if grace_seconds is not None and (on_disconnect == "notify" or not grace_seconds >= 0):
            raise ValueError(
                "grace_seconds takes a number of seconds of at least 0, or None, and needs on_disconnect='cancel'; "
                f"not {grace_seconds!r} with {on_disconnect!r}"
            )
        if not isinstance(cast("object", limits), Limits):
            raise TypeError(f"limits takes a Limits, as in Limits(max_body_bytes=...), not {type(limits).__name__}")
        if compression is not None:
            from ._compression import Compression

            if not isinstance(cast("object", compression), Compression):
                raise TypeError(
                    f"compression takes a Compression, as in Compression(), not {type(compression).__name__}"
                )
        if endpoint is None:
            if not self._overrides("run_get_response"):
                raise TypeError("Handler takes an endpoint, or a subclass overrides run_get_response")
        elif not callable(endpoint):
            raise TypeError(f"the endpoint {endpoint!r} cannot be called; it takes a request and returns a response")
        self._is_async = is_async_callable(endpoint)
        if body == "stream" and not self._is_async and endpoint is not None:
            raise ValueError("a synchronous endpoint runs when its body is here; leave out body='stream'")
        self.endpoint = endpoint
        self._import_late()
        self._owns_threads = threads is None
        self.threads: Threads = Threads() if threads is None else threads
        self.limits = limits
        self._compression = compression
        self.debug = debug
        self._keeps = body == "spool"
        self._cancels = on_disconnect == "cancel"
        self.grace_seconds = grace_seconds
        self._lifespan = None if lifespan is None else bind_lifespan(lifespan, self)
        # Of the lifespans that run, where the server keeps no state between them and requests.
        self._states: dict[object, dict[str, Any]] = {}
        self._here = OfThread()
        # One for each event loop that serves this.
        self._lifespans: set[object] = set()
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
        self._outer_scope: Callable[[], Outer] = innermost_scope if grace_seconds is None else lambda: EARLY
        self._scope_around: Callable[[Any], Cancellation] = ScopeAround
        # What the engine calls; a bridge whose hooks take other arguments puts its own there.
        self._open: Callable[[Scope, Body], tuple[Any, Response | None]] = self.create_request
        self._deliver: Callable[[Response, Exchange], Awaitable[None]] = self.send_response
        self._refuse: Callable[[Any, HTTPError], Response] = self.handle_http_error
        self._fail: Callable[[Any, Exception], Response] = self.handle_uncaught_exception
        self._new_exchange: type[Exchange] = Exchange
        if callable(observe) or observe:
            from ._observe import ObservedExchange, Observers

            self._new_exchange = ObservedExchange
            # In place of the method: a handler without observers does nothing to find that out.
            vars(self)["handle"] = partial(Observers(observe, self._as_told).serve, partial(type(self).handle, self))

    def _import_late(self) -> None:
        """Import what some requests ask for, and not every program that imports the package needs.

        No request has to wait for it then, nor finds that the process has no descriptor left to read it by.
        """
        for name in ("hashlib", "tempfile"):
            import_module(name)
        for name in ("_accept", "_form"):
            import_module(f".{name}", __package__)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection scope.

        Raises:
            ServerProtocolError: The scope is of an unknown type; nothing was received or sent.
        """
        kind = scope.get("type")
        if kind == "http":
            if self._states and scope.get("state") is None:
                scope = self._with_state(scope)
            await self.handle(scope, receive, send)
        elif kind == "lifespan":
            await self._live(scope, receive, send)
        elif kind == "websocket":
            await refuse_websocket(scope, receive, send)
        else:
            raise ServerProtocolError(f"asgicore serves http, lifespan and websocket scopes, not {kind!r}")

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a lifespan. Where several loops have one each, the threads end with the last one."""
        mark = object()
        state: dict[str, Any] | None = None
        if scope.get("state") is None:
            state = {}
            scope = {**scope, "state": state}

        def begin() -> None:
            if state is not None:
                self._here.state = self._states[mark] = state

        async def end() -> None:
            self._lifespans.discard(mark)
            if not self._lifespans:
                await self._end_threads()

        self._lifespans.add(mark)
        try:
            await run_lifespan(self._lifespan, scope, receive, send, end, begin)
        finally:
            self._lifespans.discard(mark)
            if self._states.pop(mark, None) is not None and self._here.state is state:
                self._here.state = None

    def _with_state(self, scope: Scope) -> Scope:
        """The scope with what its loop's lifespan has yielded, or, in a thread without one, the last that began."""
        state = self._here.state
        if state is None:
            state = next(reversed([*self._states.values()]), cast("dict[str, Any]", {}))
        return {**scope, "state": dict(state)}

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
        exchange = self._new_exchange(scope, body, send, self.chunk_size)
        is_read_already = NOTED in scope and is_read(scope, receive)
        if is_read_already:
            body.give_up()
        try:
            # Asked before anything is stepped by hand: a receive() of middleware may wait in scopes, too.
            outer = self._outer_scope() if self._cancels else None
            try:
                exchange.request, response = self._open(scope, body)
                if response is not None:
                    exchange.take(response)
                    exchange.refuse_body()
                elif self._keeps and not is_read_already:
                    if self._reads_itself:
                        body.adopt(await self.read_body(body))
                    elif (rest := body.begin(outer if self._cancels else innermost_scope())) is not None:
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
                grace = None if self.grace_seconds is None else GraceScope(self.grace_seconds)
                with CancelScope() if grace is None else grace as exchange.cancel_scope:
                    yielded = next(coro.__await__(), _FINISHED)
                    if yielded is not _FINISHED:
                        self._attend(exchange)
                        await resume(coro, yielded, body, None if grace is None else grace.arrived)
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
            if body.is_dropped:
                # A scope that is left in no task says so; nobody is there to hear it.
                self._drop(exchange)
                raise GeneratorExit from None
            if not exchange.is_gone:
                raise
            body.leave()
            self._log_gone(exchange, exc)
        except GeneratorExit:
            # The loop throws the request away; nothing can be awaited any more.
            body.is_dropped = True
            self._drop(exchange)
            raise
        finally:
            try:
                if exchange.listener is not None and (rest := self._dismiss(exchange, exchange.listener)) is not None:
                    await rest
            except GeneratorExit:
                body.is_dropped = True
                self._drop(exchange)
                raise
            finally:
                if (body.needs_closing or exchange.unclosed or self._is_told_of_ends) and not body.is_dropped:
                    await self._close(exchange)

    async def _load(self, exchange: Exchange, rest: Coroutine[Any, Any, None], outer: Outer) -> None:
        """Wait for the rest of the body."""
        exchange.waiting = waiting = self._here.waiting
        waiting.add(exchange)
        try:
            if self._cancels:
                with CancelScope() if outer is EARLY else self._scope_around(outer) as exchange.cancel_scope:
                    try:
                        await rest
                    except GeneratorExit:
                        exchange.body.is_dropped = True  # else the scope's complaint would be answered
                        raise
            else:
                await rest
        finally:
            exchange.cancel_scope = None
            self._forget(exchange)
        if exchange.is_ending:
            exchange.is_cut = True
            exchange.refuse_body()
            raise _closing()

    def _forget(self, exchange: Exchange) -> None:
        waiting = exchange.waiting
        waiting.discard(exchange)
        if waiting.drained is not None and not waiting:
            waiting.drained.set()
            waiting.drained = None

    def _attend(self, exchange: Exchange) -> None:
        """The endpoint waits: have somebody listen for the disconnect meanwhile."""
        exchange.waiting = waiting = self._here.waiting
        waiting.add(exchange)
        body = exchange.body
        # Before the body is here, the listener waits for other things than receive().
        task = running_asyncio_task() if body.is_settled and not self._listens_itself else None
        if task is not None:
            exchange.listener = SteppedListener(task, body.await_disconnect(), exchange.leave)
        else:
            exchange.listener = start_listener(
                self._listen(exchange) if self._listens_itself else body.watch(exchange.leave)
            )
        if exchange.keep_alive is not None:
            exchange.keep_alive.attend()

    def _dismiss(self, exchange: Exchange, listener: Listener) -> Coroutine[Any, Any, None] | None:
        """Stop the listener; returns what waits for its end, if that has to be."""
        forget_context()
        exchange.listener = None  # its task refers to the exchange
        exchange.body.find_hinter = None  # a task that was left behind may still ask for it
        self._forget(exchange)
        if exchange.body.is_dropped:
            listener.cancel()
            return None
        return listener.stop()

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
            exchange.note(exc)
            logger.error("%s failed", str(exchange), exc_info=exc)
            response = Handler.handle_uncaught_exception(self, exchange.request, exc)
            exchange.take(response)
            return response

    def _answer(self, exchange: Exchange, exc: Exception) -> Response:
        """The response to an exception; raises it where nobody is there to get one."""
        exc = _of_the_client(exc)
        if (
            exchange.is_gone
            or exchange.body.is_dropped
            or (exc is exchange.body.failure and not isinstance(exc, RequestError))
        ):
            raise exc
        exchange.note(exc)
        if isinstance(exc, HTTPError):
            if isinstance(exc, RequestError):
                exchange.refuse_body()
            try:
                return self._refuse(exchange.request, exc)
            except Exception as error:
                exc = error
                exchange.note(exc)
        logger.error("%s failed", str(exchange), exc_info=exc)
        return self._fail(exchange.request, exc)

    async def _run_background(self, exchange: Exchange, background: Background) -> None:
        try:
            if is_async_callable(background):
                await cast("Awaitable[object]", background())
            else:
                await self.threads.run(background)
        except Exception as exc:
            exchange.note(exc)
            logger.error("the background work of %s failed", str(exchange), exc_info=exc)
        finally:
            forget_context()

    async def _end(self, exchange: Exchange) -> None:
        """The handler is being closed: end what was cut short so that the client can tell."""
        exchange.is_cut = True
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
            exchange.note(exc)
            logger.info("%s: the client left, then %s was raised", str(exchange), type(exc).__name__, exc_info=exc)

    async def _close(self, exchange: Exchange) -> None:
        """Close everything, whatever fails on the way."""
        interrupted: BaseException | None = None
        for close in (*(response.aclose for response in exchange.unclosed), *self._enders(exchange)):
            try:
                await run_shielded(exchange.close_one(close), self.limits.close_timeout_seconds)
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
        exchange.drop()

    def _as_told(self, exchange: Exchange) -> tuple[Any, Any]:
        """Request and response as hooks get them."""
        return exchange.request, exchange.response

    def _enders(self, exchange: Exchange) -> Iterator[Closer]:
        """What is called at the end, in this order."""
        if self._is_told_of_ends:
            if exchange.is_gone:
                yield lambda: self.client_left(exchange.request, exchange.phase)
            yield lambda: self.request_finished(exchange.request, exchange.response)
        yield exchange.body.aclose

    async def aclose(self, grace_seconds: float = 5.0) -> None:
        """End the requests that wait for something, for a shutdown that long streams would hold up.

        Those of the event loop that this is called on; another one may be served by the same handler, and go on.
        Those that end by themselves within ``grace_seconds`` do. Of the others, a stream is cancelled and ended
        with a final message, an endpoint that has not answered is cancelled and answered with 503, and a
        response of declared length, compressed or not, is aborted. With ``on_disconnect="notify"`` nothing is
        cancelled.
        """
        waiting = self._here.waiting
        with move_on_after(grace_seconds):
            while waiting:
                if waiting.drained is None:
                    waiting.drained = Event()
                await waiting.drained.wait()
        for exchange in waiting:
            if exchange.cancel_scope is not None and not exchange.is_done:
                exchange.is_ending = True
                exchange.cancel_scope.cancel()


Handler._base = Handler
