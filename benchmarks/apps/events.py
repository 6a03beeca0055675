"""A stream of server-sent events, by whoever has them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from .. import shared
from . import App, Peer

NAME = "update"


def raw(is_named: bool) -> App:
    """What is known to be right is written without a look, and no pings are sent."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise NotImplementedError(scope["type"])  # or all events would go to whoever asks for the lifespan
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        number = 0
        async for data in shared.events():
            head = f"event: {NAME}\nid: {number}\n" if is_named else ""
            body = f"{head}data: {data}\n\n".encode()
            await send({"type": "http.response.body", "body": body, "more_body": True})
            number += 1
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    return app


def ours(is_named: bool) -> App:
    from asgicore import EventSourceResponse, Handler, Request, Response, ServerSentEvent

    async def named() -> AsyncIterator[ServerSentEvent]:
        number = 0
        async for data in shared.events():
            yield ServerSentEvent(data, event=NAME, id=str(number))
            number += 1

    async def endpoint(request: Request) -> Response:
        return EventSourceResponse(named() if is_named else shared.events())

    return Handler(endpoint)


def sse_starlette(is_named: bool) -> App:
    from sse_starlette import EventSourceResponse, ServerSentEvent

    async def named() -> AsyncIterator[ServerSentEvent]:
        number = 0
        async for data in shared.events():
            yield ServerSentEvent(data, event=NAME, id=str(number))
            number += 1

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise NotImplementedError(scope["type"])
        await EventSourceResponse(named() if is_named else shared.events())(scope, receive, send)

    return app


def baize(is_named: bool) -> App:
    from baize.asgi import Request, Response, SendEventResponse, request_response

    async def events() -> AsyncIterator[Any]:
        number = 0
        async for data in shared.events():
            yield {"event": NAME, "id": str(number), "data": data} if is_named else {"data": data}
            number += 1

    @request_response
    async def endpoint(request: Request) -> Response:
        return SendEventResponse(events())

    return endpoint


def blacksheep(is_named: bool) -> App:
    from blacksheep import Application, Response, Router
    from blacksheep.server.sse import ServerSentEventsResponse, TextServerSentEvent

    async def events() -> AsyncIterator[Any]:
        number = 0
        async for data in shared.events():
            yield TextServerSentEvent(data, NAME, str(number)) if is_named else TextServerSentEvent(data)
            number += 1

    async def endpoint() -> Response:
        return ServerSentEventsResponse(events)

    # BlackSheep and Litestar evaluate annotations, and these are of local names.
    endpoint.__annotations__["return"] = Response
    app = Application(router=Router())
    app.router.get("/named-events" if is_named else "/events")(endpoint)
    return app


def litestar(is_named: bool) -> App:
    from litestar import Litestar, get
    from litestar.response import ServerSentEvent, ServerSentEventMessage

    async def named() -> AsyncIterator[Any]:
        number = 0
        async for data in shared.events():
            yield ServerSentEventMessage(data, NAME, number)
            number += 1

    async def endpoint() -> ServerSentEvent:
        return ServerSentEvent(named() if is_named else shared.events())

    endpoint.__annotations__["return"] = ServerSentEvent
    return Litestar([get("/named-events" if is_named else "/events")(endpoint)], openapi_config=None)


APPS = {
    "raw": raw,
    "ours": ours,
    "sse-starlette": sse_starlette,
    "baize": baize,
    "blacksheep": blacksheep,
    "litestar": litestar,
}


def build(workload: str, variant: str) -> App | None:
    return APPS[variant](workload == "named-events")


PEERS = (
    Peer("raw", "events", "", "raw"),
    Peer("asgicore", "events", "asgicore", "ours"),
    *(Peer(name, "events", name, name) for name in ("sse-starlette", "baize", "blacksheep", "litestar")),
)
