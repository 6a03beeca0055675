"""asgicore.testing: whole requests and responses of any application, as a server gives and takes them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from faults import on_asyncio

from asgicore import Handler, Request, Response, StreamingResponse
from asgicore.testing import (
    DAPHNE,
    GRANIAN,
    HYPERCORN,
    STRICT,
    UVICORN,
    Client,
    IncompleteResponseError,
    Server,
    http_scope,
)


async def hello(scope: Any, receive: Any, send: Any) -> None:
    """The smallest application."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"hello"})


async def reflect(scope: Any, receive: Any, send: Any) -> None:
    """Tells what it was given, as JSON."""
    body, parts, more = b"", 0, True
    while more:
        message = await receive()
        assert message["type"] == "http.request"
        body += message.get("body", b"")
        parts += 1
        more = message.get("more_body", False)
    told = {
        "method": scope["method"],
        "path": scope["path"],
        "raw_path": scope["raw_path"].decode(),
        "query": scope["query_string"].decode(),
        "root_path": scope["root_path"],
        "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]],
        "body": body.decode("latin-1"),
        "parts": parts,
    }
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(told).encode(), "more_body": False})


class Answers:
    """Sends these messages, and nothing else."""

    def __init__(self, *messages: dict[str, Any], error: BaseException | None = None) -> None:
        self.messages = messages
        self.error = error

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        for message in self.messages:
            await send(message)
        if self.error is not None:
            raise self.error


def start(status: int = 200, *headers: tuple[bytes, bytes], **more: Any) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": list(headers), **more}


def body(part: bytes = b"", more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": part, "more_body": more}


# --- applications ----------------------------------------------------------------------------------------


async def echo(request: Request) -> Response:
    return Response(await request.body(), headers=[("x-method", request.method)])


def starlette_app() -> Any:
    pytest.importorskip("starlette")
    from starlette.applications import Starlette
    from starlette.requests import Request as StarletteRequest
    from starlette.responses import Response as StarletteResponse
    from starlette.routing import Route

    async def endpoint(request: StarletteRequest) -> StarletteResponse:
        return StarletteResponse(await request.body(), headers={"x-method": request.method})

    return Starlette(routes=[Route("/", endpoint, methods=["POST"])])


def quart_app() -> Any:
    quart: Any = pytest.importorskip("quart")
    app = quart.Quart("site")

    async def endpoint() -> Any:
        return await quart.request.get_data(), 200, {"x-method": quart.request.method}

    app.add_url_rule("/", view_func=endpoint, methods=["POST"])
    return app


async def raw_echo(scope: Any, receive: Any, send: Any) -> None:
    await send(start(200, (b"x-method", scope["method"].encode())))
    more = True
    while more:
        message = await receive()
        more = message.get("more_body", False)
        await send(body(message["body"], more))


@pytest.mark.parametrize("server", [UVICORN, HYPERCORN, GRANIAN, DAPHNE, STRICT], ids=str)
@pytest.mark.parametrize(
    "make", [lambda: Handler(echo), starlette_app, lambda: raw_echo], ids=["ours", "theirs", "raw"]
)
async def test_request_to_any_application_is_answered(make: Any, server: Server) -> None:
    """The same request to an application of ours, of a framework's, and to a bare function."""
    response = await Client(make(), server=server).post("/", content=b"a body")
    assert (response.status_code, response.body) == (200, b"a body")
    assert response.headers["X-Method"] == "POST"
    assert response.is_complete
    assert response.error is None


@on_asyncio
async def test_request_to_quart_is_answered() -> None:
    """Quart, which asks for no more than asyncio."""
    response = await Client(quart_app()).post("/", content=b"a body")
    assert (response.status_code, response.text, response.headers["x-method"]) == (200, "a body", "POST")


# --- the request -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["body", "files", "timeout"])
async def test_option_of_other_clients_is_refused(name: str) -> None:
    """It would be passed over otherwise, and a test would try nothing; the error names those that there are."""
    client = Client(reflect)
    options: Any = {name: b"x"}
    with pytest.raises(TypeError, match=f"no option '{name}'; it takes headers, params, content, json, data, scope"):
        await client.post("/", **options)


@pytest.mark.parametrize("method", ["get", "head", "options", "post", "put", "patch", "delete"])
async def test_client_method_sends_its_method(method: str) -> None:
    """Each method of the client is the one of HTTP."""
    assert (await getattr(Client(reflect), method)("/")).json()["method"] == method.upper()


@pytest.mark.parametrize(
    ("path", "root_path", "expected"),
    [
        pytest.param("/a/b", "", ("/a/b", "/a/b", ""), id="plain"),
        pytest.param("/a%20b?x=1", "", ("/a b", "/a%20b", "x=1"), id="escaped"),
        pytest.param("/ä b", "", ("/ä b", "/%C3%A4%20b", ""), id="not escaped"),
        pytest.param("/%ff", "", ("/\ufffd", "/%ff", ""), id="no UTF-8"),
        pytest.param("/x", "/app", ("/app/x", "/app/x", ""), id="mounted"),
        pytest.param("*", "", ("*", "*", ""), id="asterisk"),
    ],
)
async def test_request_path_is_split_as_servers_do(path: str, root_path: str, expected: tuple[str, ...]) -> None:
    """The path is decoded, the raw one is encoded, and both are below the mount point."""
    told = (await Client(reflect, root_path=root_path).options(path)).json()
    assert (told["path"], told["raw_path"], told["query"]) == expected
    assert told["root_path"] == root_path


async def test_request_path_without_slash_raises() -> None:
    """An absolute URL is no path."""
    with pytest.raises(ValueError, match="begins with '/'"):
        await Client(reflect).get("http://testserver/")


@pytest.mark.parametrize("params", [{"b": "2 3", "c": ["4", "5"]}, [("b", "2 3"), ("c", "4"), ("c", "5")]])
async def test_request_params_are_added_to_the_query(params: Any) -> None:
    """From a mapping, with lists for repeats, or from pairs."""
    client = Client(reflect)
    assert (await client.get("/?a=1", params=params)).json()["query"] == "a=1&b=2+3&c=4&c=5"
    assert (await client.get("/", params={"a": 1})).json()["query"] == "a=1"


async def test_request_headers_take_the_place_of_the_clients() -> None:
    """Names are in lower case; a given field replaces those of its name, and may be repeated."""
    client = Client(reflect, headers={"X-Own": "1", "User-Agent": "mine"})
    fields = (await client.get("/", headers=[("X-Own", "2"), (b"x-own", b"\xff"), ("Host", "other")])).json()["headers"]
    assert fields == [["user-agent", "mine"], ["x-own", "2"], ["x-own", "\xff"], ["host", "other"]]


async def produce() -> AsyncIterator[bytes]:
    yield b"ab"
    yield b"cd"


def generate() -> Iterator[str]:
    yield "ab"
    yield "cd"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param({}, ("", 1, {}), id="none"),
        pytest.param({"content": b"abcd"}, ("abcd", 1, {"content-length": "4"}), id="bytes"),
        pytest.param({"content": "ä"}, ("\xc3\xa4", 1, {"content-length": "2"}), id="text"),
        pytest.param({"content": [b"ab", "cd"]}, ("abcd", 2, {"transfer-encoding": "chunked"}), id="list"),
        pytest.param({"content": ()}, ("", 1, {"transfer-encoding": "chunked"}), id="empty tuple"),
        pytest.param({"content": produce}, ("abcd", 3, {"transfer-encoding": "chunked"}), id="asynchronous"),
        pytest.param({"content": generate}, ("abcd", 3, {"transfer-encoding": "chunked"}), id="generator"),
        pytest.param(
            {"content": [b"ab", b"cd"], "headers": {"content-length": "4"}},
            ("abcd", 2, {"content-length": "4"}),
            id="list of declared length",
        ),
        pytest.param(
            {"json": {"a": [1]}},
            ('{"a":[1]}', 1, {"content-type": "application/json", "content-length": "9"}),
            id="json",
        ),
        pytest.param(
            {"data": {"a": "1 2", "b": ["3", "4"]}},
            ("a=1+2&b=3&b=4", 1, {"content-type": "application/x-www-form-urlencoded", "content-length": "13"}),
            id="form",
        ),
    ],
)
async def test_request_body_is_sent_and_announced(options: dict[str, Any], expected: Any) -> None:
    """However it is given, with the fields that go with it, and in as many parts."""
    if callable(options.get("content")):
        options = {**options, "content": options["content"]()}
    told = (await Client(reflect).post("/", **options)).json()
    fields = {name: value for name, value in told["headers"] if name not in ("host", "user-agent")}
    assert (told["body"], told["parts"], fields) == expected


async def test_request_body_in_two_ways_raises() -> None:
    """A request has one body."""
    with pytest.raises(TypeError, match="one body, not content and json"):
        await Client(reflect).post("/", content=b"", json=1)


async def test_request_body_in_parts_over_http2_needs_no_field() -> None:
    """Chunked coding is of HTTP/1.1."""
    told = (await Client(reflect, http_version="2").post("/", content=[b"a", b"b"])).json()
    assert "transfer-encoding" not in dict(told["headers"])


async def test_request_body_whose_producer_fails_raises_that() -> None:
    """The error of the test comes out, and the application sees a client that left."""
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while True:
            seen.append((await receive())["type"])
            if seen[-1] == "http.disconnect":
                return

    def fails() -> Iterator[bytes]:
        yield b"a"
        raise KeyError("of the test")

    with pytest.raises(KeyError, match="of the test"):
        await Client(app).post("/", content=fails())
    assert seen == ["http.request", "http.disconnect"]


async def test_request_body_that_nobody_reads_is_closed() -> None:
    """An application that does not ask for it ends, and so does what makes it."""
    closed: list[bool] = []

    async def endless() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x"
        finally:
            await checkpoint()
            closed.append(True)

    class Bare:
        """An iterator that has nothing to close."""

        def __aiter__(self) -> Bare:
            return self

        async def __anext__(self) -> bytes:
            return b"x"

    assert (await Client(hello).post("/", content=endless())).body == b"hello"
    assert (await Client(hello).post("/", content=Bare())).body == b"hello"
    assert closed == [True]


async def test_request_scope_changes_are_made_last() -> None:
    """Any key can be set, or taken out."""
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)
        await hello(scope, receive, send)

    client = Client(app, client=None, scheme="https")
    await client.get("/", scope={"path": "x", "state": ...})
    assert seen[0]["path"] == "x"
    assert "state" not in seen[0]
    assert (seen[0]["client"], seen[0]["server"], seen[0]["scheme"]) == (None, ("127.0.0.1", 443), "https")


def test_http_scope_alone_is_that_of_a_get() -> None:
    """For code that takes a scope and no more."""
    scope = http_scope()
    assert (scope["type"], scope["method"], scope["path"]) == ("http", "GET", "/")
    assert Request(scope, None).url == "http://testserver/"  # type: ignore[arg-type]


# --- the response ----------------------------------------------------------------------------------------


async def test_response_holds_everything_that_was_sent() -> None:
    """Hints, debug information, repeated fields, parts and trailers."""
    app = Answers(
        {"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload", b"</b.js>; rel=preload"]},
        {"type": "http.response.debug", "info": {"template": "x"}},
        start(201, (b"X-A", b"1"), (b"x-a", b"2"), trailers=True),
        body(b"a", True),
        body(b"", True),
        body(b"b"),
        {"type": "http.response.trailers", "headers": [(b"x-sum", b"1")], "more_trailers": True},
        {"type": "http.response.trailers", "headers": [(b"x-more", b"2")]},
    )
    response = await Client(app, server=STRICT).get("/")
    assert response.status_code == 201
    assert response.headers.getall("x-a") == ["1", "2"]
    assert response.raw_headers == [(b"X-A", b"1"), (b"x-a", b"2")]
    assert (response.parts, response.body, response.text) == ((b"a", b"b"), b"ab", "ab")
    assert dict(response.trailers) == {"x-sum": "1", "x-more": "2"}
    assert response.early_hints == (("</a.css>; rel=preload", "</b.js>; rel=preload"),)
    assert response.debug == {"template": "x"}
    assert [message["type"].rpartition(".")[2] for message in response.messages] == [
        *("early_hint", "debug", "start", "body", "body", "body", "trailers", "trailers")
    ]
    assert response.path is None


async def test_response_of_a_path_has_path_and_bytes(tmp_path: Any) -> None:
    """A file that the server was told to send is seen as such, and its bytes are the body."""
    file = tmp_path / "file"
    file.write_bytes(b"0123456789")
    app = Answers(start(), {"type": "http.response.pathsend", "path": str(file)})
    response = await Client(app, server=GRANIAN).get("/")
    assert (response.path, response.body, response.is_complete) == (str(file), b"0123456789", True)


async def test_response_of_a_file_has_its_bytes(tmp_path: Any) -> None:
    """Parts of an open file, by object or descriptor, at an offset or from where it stands."""
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    with path.open("rb") as file:
        kind = "http.response.zerocopysend"
        app = Answers(
            start(),
            {"type": kind, "file": file, "offset": 2, "count": 3, "more_body": True},
            {"type": kind, "file": file.fileno(), "count": 2, "more_body": True},
            {"type": kind, "file": file},
        )
        response = await Client(app, server=STRICT).get("/")
    assert response.parts == (b"234", b"01", b"23456789")


@pytest.mark.parametrize(
    ("content_type", "raw", "text"),
    [
        (b"text/plain; charset=latin-1", b"\xe4", "ä"),
        (b"text/plain", "ä".encode(), "ä"),
    ],
)
async def test_response_text_is_in_its_charset(content_type: bytes, raw: bytes, text: str) -> None:
    """UTF-8 where the content type names none."""
    app = Answers(start(200, (b"content-type", content_type)), body(raw))
    assert (await Client(app).get("/")).text == text


async def test_response_of_a_stream_has_its_parts() -> None:
    """Parts are as they were sent."""

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(produce())

    assert (await Client(Handler(endpoint)).get("/")).parts == (b"ab", b"cd")


async def test_response_to_head_shows_what_was_sent() -> None:
    """A body that HEAD forbids is not hidden from the test; its length is not counted."""
    app = Answers(start(200, (b"content-length", b"5")), body(b"x"))
    assert (await Client(app).head("/")).body == b"x"


# --- cookies and state -----------------------------------------------------------------------------------


async def test_cookies_of_responses_are_sent_again() -> None:
    """A cookie replaces the one of its name, one that has expired goes, and a field of the test's own counts more."""
    set_cookies = [b"a=1; Path=/", b"b=2", b"c=3", b"d=4"]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        fields = [(b"set-cookie", value) for value in set_cookies]
        given = [value for name, value in scope["headers"] if name == b"cookie"]
        await send(start(200, *fields))
        await send(body(b"|".join(given)))

    client = Client(app)
    assert (await client.get("/")).body == b""
    assert client.cookies == {"a": "1", "b": "2", "c": "3", "d": "4"}
    set_cookies[:] = [
        b"a=5; expires=Thu, 01 Jan 2099 00:00:00 GMT",
        b"b=; Max-Age=0; expires=Thu, 01 Jan 2099 00:00:00 GMT",
        b"c=; expires=Thu, 01 Jan 1970 00:00:00 GMT",
        b"d=6; max-age=60; expires=Thu, 01 Jan 1970 00:00:00 GMT",
        b"never=; max-age=-1",
    ]
    assert (await client.get("/")).body == b"a=1; b=2; c=3; d=4"
    assert client.cookies == {"a": "5", "d": "6"}
    assert (await client.get("/", headers={"cookie": "mine=1"})).body == b"mine=1"


# --- failures --------------------------------------------------------------------------------------------


async def test_error_of_the_application_is_raised_as_it_is() -> None:
    """The very object, in no group of errors, before the start and after it."""
    error = ValueError("of the application")
    for messages in ([], [start()], [start(), body(b"a", True)], [start(), body(b"a")]):
        with pytest.raises(ValueError, match="of the application") as raised:
            await Client(Answers(*messages, error=error)).get("/")
        assert raised.value is error


async def test_error_of_the_application_that_is_not_raised_becomes_a_500() -> None:
    """As servers answer it; once the response was begun it ends there."""
    error = ValueError("of the application")
    response = await Client(Answers(error=error), raise_app_exceptions=False).get("/")
    assert (response.status_code, response.text, response.is_complete) == (500, "Internal Server Error", True)
    assert response.error is error
    response = await Client(Answers(start(), body(b"a", True), error=error), raise_app_exceptions=False).get("/")
    assert (response.status_code, response.body, response.is_complete) == (200, b"a", False)
    assert response.error is error


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        pytest.param([], "before it began a response", id="nothing"),
        pytest.param([start()], "before it ended its response", id="start"),
        pytest.param([start(), body(b"a", True)], "before it ended its response", id="part"),
    ],
)
async def test_response_that_does_not_end_raises(messages: list[Any], problem: str) -> None:
    """An application that returns too early leaves its client without an answer."""
    with pytest.raises(IncompleteResponseError, match=problem):
        await Client(Answers(*messages)).get("/")
    response = await Client(Answers(*messages), raise_app_exceptions=False).get("/")
    assert response.status_code == (200 if messages else 500)


async def test_response_that_does_not_come_in_time_raises() -> None:
    """The error tells what the application did last, and where it waits."""

    async def waits(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await anyio.sleep_forever()

    with pytest.raises(TimeoutError) as raised:
        await Client(waits, timeout_seconds=0.1).get("/")
    assert str(raised.value).startswith(
        "the application did not end within 0.1 s: it called receive 1 and send 0 times"
    )
    assert "waiting at test_testing_client.py:" in str(raised.value)
    assert "waits()" in str(raised.value)


async def test_response_without_end_raises_when_it_is_too_long() -> None:
    """A whole response is bounded."""

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        while True:
            await send(body(bytes(1000), True))

    with pytest.raises(IncompleteResponseError, match="longer than 5000 bytes"):
        await Client(endless, max_body_bytes=5000).get("/")
