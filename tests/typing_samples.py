"""Code as users write it, for type checkers to read; ``test_typing.py`` runs them over it. Never executed.

An application of asgicore fits wherever servers, frameworks and clients take one, what they hand out fits into
asgicore, and the accessors have the types that they promise.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, MutableMapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from tempfile import SpooledTemporaryFile
from typing import Any, assert_type

import asgiref.typing
import httpx
import hypercorn.asyncio
import hypercorn.config
import hypercorn.trio
import hypercorn.typing
import litestar.handlers
import litestar.types
import starlette.applications
import starlette.routing
import starlette.types
import uvicorn
import uvicorn._types
from multidict import CIMultiDict, CIMultiDictProxy, MultiDictProxy

from asgicore import (
    TLS,
    Body,
    BodyTooLargeError,
    Endpoint,
    Handler,
    Headers,
    HTMLResponse,
    HTTPError,
    InvalidHeaderError,
    JSONResponse,
    Limits,
    RedirectResponse,
    Request,
    RequestError,
    Response,
    StreamingResponse,
)
from asgicore.types import Receive, Scope, Send

# --- endpoints -------------------------------------------------------------------------------------------


async def endpoint(request: Request) -> Response:
    return Response("Hello, world!")


async def stream_endpoint(request: Request) -> StreamingResponse:
    async def parts() -> AsyncIterator[bytes]:
        async for part in request.stream():
            yield part

    return StreamingResponse(parts(), content_type="text/plain")


class Endpoints:
    async def method(self, request: Request) -> HTMLResponse:
        return HTMLResponse("<p>")

    async def __call__(self, request: Request) -> Response:
        return Response()


endpoints: list[Endpoint] = [endpoint, stream_endpoint, Endpoints().method, Endpoints()]
app = Handler(endpoint)
Handler(stream_endpoint, body="stream", on_disconnect="notify", limits=Limits(max_body_bytes=None), debug=True)
Handler(Endpoints())


@asynccontextmanager
async def lifespan() -> AsyncGenerator[dict[str, int], None]:
    yield {"db": 1}


@asynccontextmanager
async def lifespan_of_handler(handler: Handler) -> AsyncGenerator[None, None]:
    yield


Handler(endpoint, lifespan=lifespan)
Handler(endpoint, lifespan=lifespan_of_handler)

# --- whoever takes an application ------------------------------------------------------------------------

for_asgiref: asgiref.typing.ASGIApplication = app
for_asgiref_3: asgiref.typing.ASGI3Application = app
for_uvicorn: uvicorn._types.ASGIApplication = app
for_uvicorn_3: uvicorn._types.ASGI3Application = app
# Hypercorn leaves parts of its own types open.
for_hypercorn: hypercorn.typing.Framework = app  # pyright: ignore[reportUnknownMemberType]
for_hypercorn_asgi: hypercorn.typing.ASGIFramework = app
for_starlette: starlette.types.ASGIApp = app
for_litestar: litestar.types.ASGIApp = app

# A response is an application, too.
answer = Response("Hello, world!")
answer_for_asgiref: asgiref.typing.ASGIApplication = answer
answer_for_uvicorn: uvicorn._types.ASGI3Application = answer
answer_for_starlette: starlette.types.ASGIApp = answer
answer_for_litestar: litestar.types.ASGIApp = answer


def serve() -> None:
    uvicorn.run(app)
    uvicorn.Config(app)


async def serve_with_hypercorn() -> None:
    await hypercorn.asyncio.serve(app, hypercorn.config.Config())  # pyright: ignore[reportUnknownMemberType]
    await hypercorn.trio.serve(app, hypercorn.config.Config())  # pyright: ignore[reportUnknownMemberType]


mounted = starlette.applications.Starlette(routes=[starlette.routing.Mount("/app", app)])
mounted.mount("/other", app)
litestar_mount = litestar.handlers.asgi("/app", is_mount=True)(app)
transport = httpx.ASGITransport(app)
client = httpx.AsyncClient(transport=transport)


# --- applications of others around ours and ours within theirs -------------------------------------------


async def starlette_middleware(
    scope: starlette.types.Scope, receive: starlette.types.Receive, send: starlette.types.Send
) -> None:
    await app(scope, receive, send)
    await app.handle(scope, receive, send)
    request = Request(scope, receive, send)
    await request.body()
    await Response("Hello, world!")(scope, receive, send)


async def asgiref_middleware(
    scope: asgiref.typing.Scope,
    receive: asgiref.typing.ASGIReceiveCallable,
    send: asgiref.typing.ASGISendCallable,
) -> None:
    await app(scope, receive, send)
    await answer(scope, receive, send)


async def uvicorn_middleware(
    scope: uvicorn._types.Scope,
    receive: uvicorn._types.ASGIReceiveCallable,
    send: uvicorn._types.ASGISendCallable,
) -> None:
    await app(scope, receive, send)


async def litestar_middleware(
    scope: litestar.types.Scope, receive: litestar.types.Receive, send: litestar.types.Send
) -> None:
    await app(scope, receive, send)
    await answer(scope, receive, send)


async def own_middleware(scope: Scope, receive: Receive, send: Send) -> None:
    await app(scope, receive, send)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})
    message = await receive()
    assert_type(message, Mapping[str, Any])


# --- accessors -------------------------------------------------------------------------------------------


async def accessors(request: Request) -> None:
    assert_type(request.scope, Mapping[str, Any])
    assert_type(request.method, str)
    assert_type(request.path, str)
    assert_type(request.raw_path, bytes | None)
    assert_type(request.root_path, str)
    assert_type(request.path_info, str)
    assert_type(request.scheme, str)
    assert_type(request.http_version, str)
    assert_type(request.query_string, bytes)
    assert_type(request.query_params, MultiDictProxy[str])
    assert_type(request.url, str)
    assert_type(request.raw_headers, list[tuple[bytes, bytes]])
    assert_type(request.headers, CIMultiDictProxy[str])
    assert_type(request.headers["host"], str)
    assert_type(request.cookies, Mapping[str, str])
    assert_type(request.content_type, str)
    assert_type(request.charset, str | None)
    assert_type(request.content_length, int | None)
    assert_type(request.host, str)
    assert_type(request.client, tuple[str, int | None] | None)
    assert_type(request.server, tuple[str, int | None] | None)
    assert_type(request.state, MutableMapping[str, Any])
    assert_type(request.extensions, Mapping[str, Any])
    assert_type(request.tls, TLS | None)
    assert_type(await request.send_early_hints("</a>", "</b>"), bool)
    request.check_preconditions(etag='"a"', last_modified=datetime(2030, 1, 1), headers={"vary": "accept"})
    assert_type(request.is_disconnected, bool)
    assert_type(await request.body(), bytes)
    assert_type(request.stream(), AsyncIterator[bytes])
    assert_type(await request.file(), SpooledTemporaryFile[bytes])
    assert_type(await request.json(), Any)
    await request.json(loads=float)


def responses() -> list[Response]:
    response = Response(b"a", 201, {"x-a": "b"}, "text/plain", background=work)
    assert_type(response.status_code, int)
    assert_type(response.body, bytes)
    assert_type(response.headers, Headers)
    assert_type(response.headers["x-a"], str)
    assert_type(response.headers.getall("x-a"), list[str])
    assert_type(response.raw_headers(), list[tuple[bytes, bytes]])
    multi: CIMultiDict[str] = response.headers
    response.body = "text"
    response.set_cookie(
        "a",
        "b",
        timedelta(days=1),
        datetime(2030, 1, 1),
        "/",
        "example.com",
        secure=True,
        httponly=True,
        samesite="none",
        partitioned=True,
    )
    response.delete_cookie("a", samesite="strict")
    response.set_etag()
    response.set_etag("v1", weak=True)
    assert_type(response.last_modified, datetime | None)
    response.set_trailers(["x-a"], lambda: {"x-a": "b"})
    response.set_trailers(("x-a",), fields)
    response.debug_info = {"template": "page.html"}
    response.add_server_timing("db", 53, "Query")
    return [
        response,
        Response("a", headers=multi),
        Response(headers=CIMultiDictProxy(multi)),
        Response(headers=[("set-cookie", "a"), ("set-cookie", "b")]),
        HTMLResponse("<p>", headers=(pair for pair in [("a", "b")])),
        JSONResponse({"a": [1, None]}, dumps=repr),
        RedirectResponse("/", 303),
    ]


async def fields() -> list[tuple[str, str]]:
    return [("x-a", "b")]


class FittedResponse(Response):
    async def prepare(self, scope: Scope) -> Response:
        self.headers["x-path"] = scope["path"]
        return await super().prepare(scope)


async def work() -> None:
    raise HTTPError(404, "no such page", {"x-a": "b"})


def errors(error: Exception) -> None:
    if isinstance(error, RequestError):
        assert_type(error.status_code, int)
        assert_type(error.detail, str)
        assert_type(error.field, str)
        assert_type(error.status_hint, int)
    if isinstance(error, BodyTooLargeError):
        assert_type(error.limit, int)
    if isinstance(error, InvalidHeaderError):
        assert_type(error.header, str)


# --- frameworks on top -----------------------------------------------------------------------------------


class OwnRequest(Request):
    __slots__ = ("user",)

    user: str

    @property
    def path(self) -> str:
        return super().path.lower()

    async def body(self) -> bytes:
        return (await super().body()).upper()


class OwnHandler(Handler):
    chunk_size = 4096
    request_class = OwnRequest

    def create_request(self, scope: Scope, body: Body) -> tuple[OwnRequest | None, Response | None]:
        request, response = super().create_request(scope, body)
        if response is not None:
            return None, response
        request.user = "me"
        return request, None

    async def run_get_response(self, request: OwnRequest) -> Response:
        return Response(request.user)

    async def read_body(self, receive: Receive) -> SpooledTemporaryFile[bytes]:
        return await super().read_body(receive)

    async def listen_for_disconnect(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    def handle_http_error(self, request: OwnRequest | None, exc: HTTPError) -> Response:
        return JSONResponse({"detail": exc.detail}, exc.status_code, exc.headers)

    def handle_uncaught_exception(self, request: OwnRequest | None, exc: Exception) -> Response:
        return Response(repr(exc), 500)

    async def send_response(self, response: Response, send: Send) -> None:
        response.headers["server"] = "own"
        await super().send_response(response, send)

    def chunk_bytes(self, data: bytes) -> Iterable[tuple[bytes, bool]]:
        return super().chunk_bytes(data)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        await super().handle({**scope, "path": "/"}, receive, send)

    async def response_ready(self, request: OwnRequest | None, response: Response) -> None:
        response.headers.add("vary", "cookie")

    async def request_finished(self, request: OwnRequest | None, response: Response | None) -> None:
        del request


own_app: asgiref.typing.ASGI3Application = OwnHandler()
