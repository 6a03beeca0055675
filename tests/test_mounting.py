"""A Handler mounted in other frameworks, and responses that their endpoints return: as each framework does it."""

from __future__ import annotations

import contextlib
import functools
import gzip
import logging
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import anyio
import pytest
from faults import turn

from asgicore import (
    EventSourceResponse,
    FileResponse,
    Handler,
    HTTPError,
    JSONResponse,
    Limits,
    Request,
    Response,
    StreamingResponse,
)
from asgicore.testing import EMPTY, Channel, Client, Message, body_messages, call, check_messages, http_scope, lint

MOUNT = "/mount"


async def serve(app: Any, server: Channel, **scope: Any) -> None:
    with anyio.fail_after(5):
        await app(http_scope(**scope), server.receive, server.send)


async def get(app: Any, path: str, **scope: Any) -> Channel:
    return await call(app, path=path, raw_path=path.encode(), **scope)


# --- the application that is mounted -------------------------------------------------------------------------


class Site:
    """One of every kind of endpoint, and notes of what became of them."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.waiting = anyio.Event()
        self.handler = Handler(self.endpoint)

    async def endpoint(self, request: Request) -> Response:
        name = request.path_info.strip("/")
        endpoint: Callable[[Request], Any] = getattr(self, name)
        answer: Response = await endpoint(request)
        return answer

    async def where(self, request: Request) -> Response:
        return JSONResponse([request.root_path, request.path_info, request.path, request.url])

    async def state(self, request: Request) -> Response:
        return JSONResponse(request.state.get("pool"))

    async def echo(self, request: Request) -> Response:
        return Response(await request.body(), headers={"x-method": request.method})

    async def stream(self, request: Request) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            for part in (b"a", b"b", b"c"):
                await turn()
                yield part

        return StreamingResponse(parts())

    async def forever(self, request: Request) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            try:
                yield b"tick"
                self.waiting.set()
                await anyio.sleep_forever()
            finally:
                self.notes.append("closed")

        return StreamingResponse(parts())

    async def wait(self, request: Request) -> Response:
        try:
            self.waiting.set()
            await anyio.sleep_forever()
        finally:
            self.notes.append("cancelled")
        raise AssertionError("not reached")

    async def background(self, request: Request) -> Response:
        async def work() -> None:
            await turn(2)
            self.notes.append("background")

        return Response(b"accepted", 202, background=work)

    async def teapot(self, request: Request) -> Response:
        raise HTTPError(418, "short and stout")

    async def broken(self, request: Request) -> Response:
        raise LookupError("the endpoint's")

    async def breaks(self, request: Request) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            yield b"a"
            await turn()
            raise LookupError("the stream's")

        return StreamingResponse(parts())


# --- the frameworks ------------------------------------------------------------------------------------------


def starlette(handler: Any) -> Any:
    applications = pytest.importorskip("starlette.applications")
    routing = pytest.importorskip("starlette.routing")
    return applications.Starlette(routes=[routing.Mount(MOUNT, app=handler)])


def starlette_with_middleware(handler: Any) -> Any:
    base = pytest.importorskip("starlette.middleware.base")

    async def dispatch(request: Any, call_next: Any) -> Any:
        response = await call_next(request)
        response.headers["x-middleware"] = "1"
        return response

    app = starlette(handler)
    app.add_middleware(base.BaseHTTPMiddleware, dispatch=dispatch)
    return app


def fastapi(handler: Any) -> Any:
    app = pytest.importorskip("fastapi").FastAPI()
    app.mount(MOUNT, handler)
    return app


def litestar(handler: Any) -> Any:
    module = pytest.importorskip("litestar")
    return module.Litestar([module.asgi(MOUNT, is_mount=True, copy_scope=True)(handler)], logging_config=None)


def quart(handler: Any) -> Any:
    app = pytest.importorskip("quart").Quart("site")
    dispatcher = pytest.importorskip("hypercorn.middleware").DispatcherMiddleware
    return dispatcher({MOUNT: handler, "": app})


def quart_by_hand(handler: Any) -> Any:
    """Without Hypercorn: ``app.asgi_app`` is what any middleware wraps."""
    app: Any = pytest.importorskip("quart").Quart("site")
    inner = app.asgi_app

    async def dispatch(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"].startswith(MOUNT + "/"):
            await handler({**scope, "root_path": scope["root_path"] + MOUNT}, receive, send)
        else:
            await inner(scope, receive, send)

    app.asgi_app = dispatch
    return app


FRAMEWORKS = [starlette, starlette_with_middleware, fastapi, litestar, quart, quart_by_hand]


everywhere = pytest.mark.parametrize("framework", FRAMEWORKS)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # theirs


@everywhere
async def test_handler_mounted_knows_where_it_is(framework: Any) -> None:
    """root_path is the mount point and path_info what is below it; a nested mount adds to the server's own."""
    app = framework(Site().handler)
    answer = (await get(app, f"{MOUNT}/where")).body
    if framework is litestar:  # takes the mount point out of the path, and tells nobody
        assert answer == b'["","/where/","/where/","http://testserver/mount/where"]'
    else:
        assert answer == b'["/mount","/where","/mount/where","http://testserver/mount/where"]'


@pytest.mark.parametrize("framework", [starlette, starlette_with_middleware, fastapi])
async def test_handler_mounted_below_a_root_path_knows_where_it_is(framework: Any) -> None:
    """A proxy has given the outer application a place already."""
    app = framework(Site().handler)
    channel = await get(app, f"/api{MOUNT}/where", root_path="/api")
    assert channel.body == b'["/api/mount","/where","/api/mount/where","http://testserver/api/mount/where"]'


@everywhere
async def test_handler_mounted_answers(framework: Any) -> None:
    """A body in several messages, any method, and a stream."""
    app = framework(Site().handler)
    path = f"{MOUNT}/echo"
    channel = await call(app, body_messages(b"a", b"b", b"c"), path=path, raw_path=path.encode(), method="PUT")
    check_messages(channel.sent, complete=True)
    assert channel.body == b"abc"
    assert (b"x-method", b"PUT") in channel.headers
    channel = await get(app, f"{MOUNT}/stream")
    check_messages(channel.sent, complete=True)
    assert channel.body == b"abc"


@everywhere
async def test_handler_mounted_has_its_errors_answered_by_itself(
    framework: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """What an endpoint raises before the start does not reach the framework."""
    app = framework(Site().handler)
    channel = await get(app, f"{MOUNT}/teapot")
    assert (channel.status, channel.body) == (418, b"short and stout")
    channel = await get(app, f"{MOUNT}/broken")
    assert (channel.status, channel.body) == (500, b"Internal Server Error")
    assert [record.name for record in caplog.records if record.levelno >= logging.ERROR] == ["asgicore"]


@everywhere
async def test_handler_mounted_that_fails_within_a_stream_aborts(framework: Any) -> None:
    """The error passes the framework and reaches the server; no end is sent."""
    app = framework(Site().handler)
    server = Channel()
    with pytest.raises(Exception, match=r"the stream's|after response started") as caught:
        await serve(app, server, path=f"{MOUNT}/breaks", raw_path=f"{MOUNT}/breaks".encode())
    error = caught.value.__cause__ if framework is litestar else caught.value  # Litestar has one of its own around it
    assert isinstance(error, LookupError)
    # BaseHTTPMiddleware ends what it was not told the end of, and raises then.
    check_messages(server.sent, complete=framework is starlette_with_middleware)


@everywhere
async def test_handler_mounted_runs_background_work(framework: Any) -> None:
    """After the last byte."""
    site = Site()
    channel = await get(framework(site.handler), f"{MOUNT}/background")
    assert (channel.status, site.notes) == (202, ["background"])


@everywhere
@pytest.mark.parametrize("name", ["wait", "forever"])
async def test_handler_mounted_is_cancelled_when_the_client_leaves(framework: Any, name: str) -> None:
    """Endpoint and stream; the framework hears of no error."""
    site = Site()
    app = framework(site.handler)
    server = Channel()
    path = f"{MOUNT}/{name}"
    # BaseHTTPMiddleware asks for a response, also where nobody is there to get one.
    misses = framework is starlette_with_middleware and name == "wait"

    async def one() -> None:
        with pytest.raises(RuntimeError, match="No response returned") if misses else contextlib.nullcontext():
            await serve(app, server, path=path, raw_path=path.encode())

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(one)
            await site.waiting.wait()
            server.disconnect()
    assert site.notes == ["cancelled" if name == "wait" else "closed"]
    check_messages(server.sent, complete=framework is starlette_with_middleware)


@everywhere
async def test_handler_mounted_has_the_state_of_the_server(framework: Any) -> None:
    """A lifespan is the outer application's: what that yields is in the scope of all requests."""
    channel = await get(framework(Site().handler), f"{MOUNT}/state", state={"pool": "of the server"})
    assert channel.body == b'"of the server"'


@contextlib.asynccontextmanager
async def pool(app: Any) -> AsyncIterator[dict[str, str]]:
    yield {"pool": "of the lifespan"}


@pytest.mark.parametrize("name", ["starlette", "fastapi"])
async def test_handler_mounted_has_the_state_of_the_outer_lifespan(name: str) -> None:
    """By the server, as the specification says."""
    if name == "starlette":
        app = pytest.importorskip("starlette.applications").Starlette(lifespan=pool)
    else:
        app = pytest.importorskip("fastapi").FastAPI(lifespan=pool)
    app.mount(MOUNT, Site().handler)
    async with Client(lint(app)) as client:
        response = await client.get(f"{MOUNT}/state")
    assert response.body == b'"of the lifespan"'


# --- responses in Starlette ----------------------------------------------------------------------------------


def tick_forever(site: Site) -> Response:
    async def parts() -> AsyncIterator[bytes]:
        try:
            yield b"tick"
            site.waiting.set()
            await anyio.sleep_forever()
        finally:
            site.notes.append("closed")

    return StreamingResponse(parts())


def failing() -> Response:
    async def parts() -> AsyncIterator[bytes]:
        yield b"a"
        raise LookupError("the stream's")

    return StreamingResponse(parts())


class Unpreparable(Response):
    async def prepare(self, scope: Any) -> Response:
        raise LookupError("prepare")


def precious() -> Response:
    response = Response(b"content", content_type="text/plain")
    response.set_etag("v1")
    return response


ANSWERS: dict[str, Callable[[], Response]] = {
    "whole": lambda: Response(b"whole"),
    "json": lambda: JSONResponse({"a": 1}),
    "stream": lambda: StreamingResponse(iter([b"a", b"b"])),
    "large": lambda: Response(b"x" * 200_000, content_type="text/plain"),
    "etag": precious,
    "file": lambda: FileResponse(__file__),
    "events": lambda: EventSourceResponse(["one", "two"]),
    "failing": failing,
    "unpreparable": Unpreparable,
}


def answering(make: Callable[[Any], Response]) -> Any:
    """A Starlette application whose endpoint returns this; under BaseHTTPMiddleware at /base, under GZip at /gzip."""
    applications = pytest.importorskip("starlette.applications")
    base = pytest.importorskip("starlette.middleware.base")
    gzipping = pytest.importorskip("starlette.middleware.gzip")
    middleware = pytest.importorskip("starlette.middleware").Middleware
    routing = pytest.importorskip("starlette.routing")

    async def endpoint(request: Any) -> Any:
        return make(request)

    async def dispatch(request: Any, call_next: Any) -> Any:
        return await call_next(request)

    return applications.Starlette(
        routes=[
            routing.Route("/plain", endpoint, methods=["GET", "POST"]),
            routing.Route("/base", endpoint, middleware=[middleware(base.BaseHTTPMiddleware, dispatch=dispatch)]),
            routing.Route("/gzip", endpoint, middleware=[middleware(gzipping.GZipMiddleware, minimum_size=10)]),
        ]
    )


PATHS = ["/plain", "/base", "/gzip"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", ["whole", "json", "stream", "large", "etag", "file", "events"])
async def test_response_returned_from_a_starlette_endpoint_is_sent(name: str, path: str) -> None:
    """Starlette calls what an endpoint returns as an ASGI application; its middleware sees legal messages."""
    app = answering(lambda request: ANSWERS[name]())
    channel = await get(app, path, headers=[(b"accept-encoding", b"gzip")])
    check_messages(channel.sent, complete=True)
    body = channel.body
    if (b"content-encoding", b"gzip") in channel.headers:
        body = gzip.decompress(body)
    assert body == (await call(ANSWERS[name]())).body


@pytest.mark.parametrize("path", PATHS)
async def test_response_returned_from_a_starlette_endpoint_is_conditional(path: str) -> None:
    """The 304 leaves as one."""
    channel = await get(answering(lambda request: precious()), path, headers=[(b"if-none-match", b'"v1"')])
    check_messages(channel.sent, complete=True)
    assert channel.status == 304


@pytest.mark.parametrize("path", PATHS)
async def test_response_returned_from_a_starlette_endpoint_stops_with_the_client(path: str) -> None:
    """Its stream is closed, and no error is raised."""
    site, server = Site(), Channel()
    app = answering(lambda request: tick_forever(site))
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(partial(serve, app, server, path=path, raw_path=path.encode()))
            await site.waiting.wait()
            server.disconnect()
    assert site.notes == ["closed"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", ["failing", "unpreparable"])
async def test_response_that_fails_in_starlette_is_starlettes(name: str, path: str) -> None:
    """Its page for errors where nothing was sent, an abort where something was; the error is the server's to log."""
    server = Channel()
    with pytest.raises(LookupError):
        await serve(answering(lambda request: ANSWERS[name]()), server, path=path, raw_path=path.encode())
    # BaseHTTPMiddleware ends what it was not told the end of, and raises then.
    check_messages(server.sent, complete=name == "unpreparable" or path == "/base")
    assert server.status == (500 if name == "unpreparable" else 200)


async def test_response_made_of_the_upload_of_a_starlette_request_comes_back() -> None:
    """Read before the response is returned, by the framework's own request."""
    app = answering(lambda request: StreamingResponse(iter([b"read: ", request.state.upload])))

    async def reads(scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        scope["state"]["upload"] = await request.body()
        await app(scope, receive, send)

    channel = await call(reads, body_messages(b"up", b"load"), method="POST", path="/plain", raw_path=b"/plain")
    check_messages(channel.sent, complete=True)
    assert channel.body == b"read: upload"


async def test_response_as_the_application_of_a_starlette_route() -> None:
    """It is an ASGI application; so is a Handler."""
    applications = pytest.importorskip("starlette.applications")
    routing = pytest.importorskip("starlette.routing")
    app = applications.Starlette(
        routes=[
            routing.Route("/robots.txt", Response("User-agent: *")),
            routing.Route("/where", Site().handler),
            routing.Mount("/mounted", app=Response("mounted")),
        ]
    )
    for _ in range(2):
        assert (await get(app, "/robots.txt")).body == b"User-agent: *"
        assert (await get(app, "/mounted/anything")).body == b"mounted"
    assert (await get(app, "/where")).body == b'["","/where","/where","http://testserver/where"]'


async def test_response_from_a_starlette_exception_handler_is_sent() -> None:
    """A page for errors."""
    applications = pytest.importorskip("starlette.applications")
    routing = pytest.importorskip("starlette.routing")

    async def endpoint(request: Any) -> Any:
        raise LookupError("note")

    async def page(request: Any, exc: Exception) -> Any:
        return JSONResponse({"missing": str(exc)}, 404)

    app = applications.Starlette(
        routes=[routing.Route("/", endpoint)], exception_handlers={LookupError: page, 404: page}
    )
    channel = await get(app, "/")
    assert (channel.status, channel.body) == (404, b'{"missing":"note"}')
    assert (await get(app, "/nowhere")).status == 404


@pytest.mark.parametrize("offers", [False, True])
async def test_response_denies_a_starlette_websocket(offers: bool) -> None:
    """``send_denial_response`` calls it with the scope of the websocket."""
    applications = pytest.importorskip("starlette.applications")
    routing = pytest.importorskip("starlette.routing")
    channel = Channel([{"type": "websocket.connect"}])

    async def endpoint(websocket: Any) -> None:
        await Response(b"log in first", 401)(websocket.scope, channel.receive, channel.send)

    app = applications.Starlette(routes=[routing.WebSocketRoute("/", endpoint)])
    scope = http_scope(type="websocket", extensions={"websocket.http.response": {}} if offers else {}, subprotocols=[])
    with anyio.fail_after(5):
        await app(scope, channel.receive, channel.send)
    assert [message["type"] for message in channel.sent] == (
        ["websocket.http.response.start", "websocket.http.response.body"] if offers else ["websocket.close"]
    )


async def test_response_returned_under_starlettes_lifespan_and_threads() -> None:
    """A ``def`` endpoint, which Starlette runs in a thread, may return one."""
    applications = pytest.importorskip("starlette.applications")
    routing = pytest.importorskip("starlette.routing")

    def endpoint(request: Any) -> Any:
        return JSONResponse({"sync": True})

    app = applications.Starlette(routes=[routing.Route("/", endpoint)])
    assert (await get(app, "/")).body == b'{"sync":true}'


# --- responses in FastAPI ------------------------------------------------------------------------------------


async def test_response_in_fastapi_by_a_wrapper_of_its_own_class() -> None:
    """FastAPI sends what is an instance of its own Response class; docs/mounting.md has this one."""
    module = pytest.importorskip("fastapi")
    from starlette.responses import Response as StarletteResponse

    class Answer(StarletteResponse):
        def __init__(self, response: Response) -> None:
            super().__init__()
            self.response = response

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await self.response(scope, receive, send)

    app = module.FastAPI()

    def dependency() -> Answer:
        return Answer(JSONResponse({"made": "by a dependency"}))

    async def stream() -> Any:
        return Answer(StreamingResponse(iter([b"a", b"b"])))

    async def depending(answer: Any = module.Depends(dependency)) -> Any:
        return answer

    app.get("/stream", response_model=None)(stream)
    app.get("/dependency", response_model=None)(depending)
    assert (await get(app, "/stream")).body == b"ab"
    channel = await get(app, "/dependency")
    check_messages(channel.sent, complete=True)
    assert channel.body == b'{"made":"by a dependency"}'


async def test_response_in_fastapi_as_the_application_of_a_route() -> None:
    """Routes of Starlette, and mounts, take any ASGI application."""
    app = pytest.importorskip("fastapi").FastAPI()
    app.mount("/mounted", Response("mounted"))
    app.add_route("/robots.txt", Response("User-agent: *"))
    app.add_route("/where", Site().handler)
    assert (await get(app, "/mounted/anything")).body == b"mounted"
    assert (await get(app, "/robots.txt")).body == b"User-agent: *"
    assert (await get(app, "/where")).body == b'["","/where","/where","http://testserver/where"]'


async def test_response_from_a_fastapi_exception_handler_is_sent() -> None:
    """The same for its own errors."""
    module = pytest.importorskip("fastapi")
    app = module.FastAPI()

    async def page(request: Any, exc: Exception) -> Any:
        return JSONResponse({"error": type(exc).__name__}, 422)

    app.add_exception_handler(module.exceptions.RequestValidationError, page)

    async def endpoint(number: int) -> int:
        return number

    endpoint.__annotations__.update({"number": int, "return": int})
    app.get("/{number}")(endpoint)
    assert (await get(app, "/a")).body == b'{"error":"RequestValidationError"}'


# --- responses in Litestar -----------------------------------------------------------------------------------


async def test_response_returned_from_a_litestar_handler_is_sent() -> None:
    """Annotated as what it is: an ASGI application."""
    module = pytest.importorskip("litestar")

    async def endpoint() -> Response:
        return JSONResponse({"from": "litestar"})

    async def stream() -> Response:
        return StreamingResponse(iter([b"a", b"b"]))

    for function in (endpoint, stream):
        function.__annotations__["return"] = Response
    app = module.Litestar([module.get("/")(endpoint), module.get("/stream")(stream)])
    assert (await get(app, "/")).body == b'{"from":"litestar"}'
    channel = await get(app, "/stream")
    check_messages(channel.sent, complete=True)
    assert channel.body == b"ab"


async def test_response_called_in_a_litestar_asgi_handler_is_sent() -> None:
    """Where Litestar hands over scope and channels, they are used as anywhere."""
    module = pytest.importorskip("litestar")

    async def endpoint(scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive, send)
        await Response(await request.body())(scope, receive, send)

    endpoint.__annotations__.update(dict.fromkeys(("scope", "receive", "send"), Any))
    app = module.Litestar([module.asgi("/", copy_scope=True)(endpoint)])
    channel = await call(app, body_messages(b"a", b"b"), method="POST")
    assert channel.body == b"ab"


# --- a bare application --------------------------------------------------------------------------------------


async def bare(scope: Any, receive: Any, send: Any) -> None:
    """A request and responses without a handler."""
    assert scope["type"] == "http"
    request = Request(scope, receive, send)
    match request.path:
        case "/hello":
            await Response(f"Hello, {request.query_params.get('name', 'world')}!")(scope, receive, send)
        case "/echo":
            await StreamingResponse(request.stream())(scope, receive, send)
        case "/json":
            await JSONResponse(await request.json())(scope, receive, send)
        case _:
            await Response("not here", 404)(scope, receive, send)


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [("/hello", 200, b"Hello, Ada!"), ("/echo", 200, b"[1,2]"), ("/json", 200, b"[1,2]"), ("/x", 404, b"not here")],
)
async def test_request_and_responses_in_a_bare_application(path: str, status: int, body: bytes) -> None:
    """What a handler does around them, each does for itself."""
    messages = body_messages(b"[1", b",2]") if path in ("/echo", "/json") else [EMPTY]
    channel = await call(bare, messages, path=path, query_string=b"name=Ada")
    check_messages(channel.sent, complete=True)
    assert (channel.status, channel.body) == (status, body)


async def test_middleware_of_ones_own_wraps_a_handler_and_a_response() -> None:
    """Both are plain ASGI applications: three arguments, messages that may be changed on the way."""

    def stamped(app: Any) -> Any:
        @functools.wraps(app.__call__)
        async def middleware(scope: Any, receive: Any, send: Any) -> None:
            async def stamp(message: Message) -> None:
                if message["type"] == "http.response.start":
                    message = {**message, "headers": [*message["headers"], (b"x-stamp", b"1")]}
                await send(message)

            await app(scope, receive, stamp)

        return middleware

    for app in (Site().handler, Response(b"a")):
        channel = await get(stamped(app), "/where")
        assert (b"x-stamp", b"1") in channel.headers


Wait = Callable[[Any], Any]


async def in_a_group(function: Any) -> Any:
    """As Starlette's BaseHTTPMiddleware receives: in a task group, beside a task that waits for something else."""
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep_forever)
        result = await function()
        group.cancel_scope.cancel()
    return result


async def with_timeout(function: Any) -> Any:
    with anyio.fail_after(60):
        return await function()


@pytest.mark.parametrize("body", ["spool", "stream"])
@pytest.mark.parametrize("on_disconnect", ["cancel", "notify"])
@pytest.mark.parametrize("seconds", [None, 60], ids=["no timeout", "timeout"])
@pytest.mark.parametrize("around", [in_a_group, with_timeout])
async def test_middleware_that_waits_in_scopes_of_its_own_wraps_a_handler(
    around: Wait, seconds: float | None, on_disconnect: Any, body: Any
) -> None:
    """Scopes nest, whoever entered them first: those of a receive() that waits, and those of a send()."""

    async def endpoint(request: Request) -> Response:
        upload = await request.body()

        async def parts() -> AsyncIterator[bytes]:
            yield upload
            await turn()
            yield b"!"

        return StreamingResponse(parts())

    handler = Handler(endpoint, body=body, on_disconnect=on_disconnect, limits=Limits(body_timeout_seconds=seconds))

    async def middleware(scope: Any, receive: Any, send: Any) -> None:
        await handler(scope, partial(around, receive), lambda message: around(partial(send, message)))

    server = Channel(body_messages(b"a", b"b"), suspends=True)
    with anyio.CancelScope():
        await serve(middleware, server)
    check_messages(server.sent, complete=True)
    assert server.body == b"ab!"


@pytest.mark.parametrize("around", [in_a_group, with_timeout])
async def test_closing_a_handler_whose_middleware_waits_in_scopes_ends_the_upload(around: Wait) -> None:
    """The scope that is cancelled lies around those that the middleware has entered."""
    handler = Handler(Site().endpoint)
    waiting = anyio.Event()

    async def on_receive(index: int) -> None:
        waiting.set()
        await anyio.sleep_forever()

    server = Channel(on_receive=on_receive)

    async def one() -> None:
        await handler(http_scope(), partial(around, server.receive), server.send)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(one)
            await waiting.wait()
            await handler.aclose(0)
    check_messages(server.sent, complete=True)
    assert server.status == 503
