"""The scopes that are no HTTP request: lifespan answered, websocket refused.

Source: ASGI specifications "Lifespan Protocol" 2.0, "WebSocket" 2.5 and the extension "websocket.http.response".
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeAlias, cast

from .errors import ServerProtocolError
from .types import Message, Receive, Scope, Send

__all__ = ["Lifespan", "as_http", "bind_lifespan", "is_connecting", "offers_denial", "refuse_websocket", "run_lifespan"]

logger = logging.getLogger("asgicore")

Lifespan: TypeAlias = (
    Callable[[], AbstractAsyncContextManager[Mapping[str, Any] | None]]
    | Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any] | None]]
)
"""An async context manager function, called with the handler or with nothing; what it yields becomes ``state``."""

_Bound: TypeAlias = Callable[[], AbstractAsyncContextManager[Mapping[str, Any] | None]]


def bind_lifespan(lifespan: Lifespan, handler: object) -> _Bound:
    """Give the function its handler if it takes one; decided once.

    Raises:
        TypeError: It is not callable with one argument or none.
    """
    try:
        signature = inspect.signature(lifespan)
    except (TypeError, ValueError):
        raise TypeError(f"lifespan takes an async context manager function, not {lifespan!r}") from None
    for arguments in ((handler,), ()):
        try:
            signature.bind(*arguments)
        except TypeError:
            continue
        return lambda: lifespan(*arguments)
    raise TypeError(f"lifespan is called with the handler or with nothing, which {lifespan!r} does not allow")


async def run_lifespan(
    lifespan: _Bound | None,
    scope: Scope,
    receive: Receive,
    send: Send,
    end: Callable[[], Awaitable[object]],
    begin: Callable[[], object] | None = None,
) -> None:
    """Answer one lifespan scope, from startup to shutdown.

    ``begin`` is called when the application's startup is complete and ``scope["state"]`` has what it yielded, ``end``
    after its shutdown.

    A failure is logged with its traceback and reported to the server with its message; it is not raised
    as well, which servers take for an application without lifespan support.
    """
    await _expect(receive, "lifespan.startup")
    if lifespan is None:
        await send({"type": "lifespan.startup.complete"})
        await _expect(receive, "lifespan.shutdown")
        await end()
        await send({"type": "lifespan.shutdown.complete"})
        return
    phase = "startup"
    server_error: Exception | None = None
    try:
        async with lifespan() as state:
            if state is not None:
                _share(state, scope)
            if begin is not None:
                begin()
            await send({"type": "lifespan.startup.complete"})
            phase = "run"
            try:
                await _expect(receive, "lifespan.shutdown")
            except Exception as exc:
                server_error = exc
                raise
            phase = "shutdown"
    except Exception as exc:
        if phase == "run":
            if exc is not server_error:
                # Of what it ran beside; a server may take this for an application without lifespan, and be silent.
                logger.error("the application's lifespan ended before the shutdown", exc_info=exc)
            raise
        logger.error("the application's %s failed", phase, exc_info=exc)
        await end()
        await send({"type": f"lifespan.{phase}.failed", "message": f"{type(exc).__name__}: {exc}"})
        return
    await end()
    await send({"type": "lifespan.shutdown.complete"})


def _share(state: Mapping[str, Any], scope: Scope) -> None:
    if not isinstance(state, Mapping):
        raise TypeError(f"lifespan yields a mapping or None, not {type(state).__name__}")
    shared: Any = scope.get("state")
    if isinstance(shared, MutableMapping):
        cast("MutableMapping[str, Any]", shared).update(state)


async def _expect(receive: Receive, kind: str) -> None:
    message = await receive()
    if message.get("type") != kind:
        raise ServerProtocolError(f"the server sent {message.get('type')!r} where {kind} must come")


def offers_denial(scope: Scope) -> bool:
    """Whether the server sends a response in place of accepting a websocket."""
    extensions = scope.get("extensions")
    return isinstance(extensions, Mapping) and "websocket.http.response" in extensions


async def is_connecting(receive: Receive) -> bool:
    """Take the first message of a websocket; ``False`` if the client left first."""
    try:
        return (await receive()).get("type") == "websocket.connect"
    except OSError:
        return False


def as_http(scope: Scope, receive: Receive, send: Send) -> tuple[Scope, Receive, Send]:
    """A websocket that is connecting, as the HTTP request that gets the response in its place."""

    async def receive_disconnect() -> Message:
        await receive()  # nothing else can come before a websocket is accepted
        return {"type": "http.disconnect"}

    async def send_denial(message: Any) -> None:
        await send({**message, "type": f"websocket.{message['type']}"})

    scheme = "https" if scope.get("scheme") == "wss" else "http"
    scope = {**scope, "type": "http", "method": "GET", "scheme": scheme, "extensions": {}}
    return scope, receive_disconnect, send_denial


async def refuse_websocket(scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse a websocket: with a 403 response where the server offers that, else by closing it unaccepted."""
    if not await is_connecting(receive):
        return
    try:
        if offers_denial(scope):
            await send({"type": "websocket.http.response.start", "status": 403, "headers": [(b"content-length", b"0")]})
            await send({"type": "websocket.http.response.body", "body": b"", "more_body": False})
        else:
            await send({"type": "websocket.close", "code": 1000, "reason": ""})
    except OSError:
        logger.debug("the client left before the websocket was refused")
