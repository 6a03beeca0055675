"""The client: requests to an ASGI application in the same process, without a server."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Unpack

from ._client_response import ClientResponse
from ._connection import Connection
from ._cookie_jar import build_cookie, store_cookies
from ._exchange import App, Exchange
from ._lifespan import Lifespan
from ._requests import (
    OWN_FIELDS,
    ExchangeOptions,
    FieldsInput,
    RequestOptions,
    build_scope,
    check_options,
    encode_content,
    encode_headers,
    merge_headers,
)
from ._servers import UVICORN, Server

__all__ = ["Client"]


class Client:
    """Calls an ASGI application as a server does, on asyncio and trio.

    ::

        client = Client(app)
        response = await client.get("/")
        assert response.status_code == 200

    ``async with client:`` runs the application's startup before the block and its shutdown after it.

    Args:
        app: Any ASGI application.
        server: Whose behaviour it sees.
        root_path: Where it is mounted; the paths of requests are below it.
        client: The client's address.
        http_version: ``"1.0"``, ``"1.1"``, ``"2"`` or ``"3"``.
        scheme: ``"http"`` or ``"https"``.
        headers: Fields of every request; they take the place of ``host`` and ``user-agent``.
        raise_app_exceptions: Whether what the application raises is raised in the test. Else it is answered with a 500
            if there was no response yet, as servers do, and kept in ``error``.
        timeout_seconds: How long a test waits for the application.
        grace_seconds: How long the application may go on when the client has left after an exchange; then it is
            cancelled.
        max_body_bytes: How long a response may be that is taken as a whole.
    """

    app: App
    """The application."""
    server: Server
    """Whose behaviour it sees."""
    state: dict[str, Any]
    """What the lifespan has left; each request gets a copy."""
    cookies: dict[str, str]
    """What responses have set; sent with every request that has no ``cookie`` field of its own."""

    def __init__(
        self,
        app: App,
        *,
        server: Server = UVICORN,
        root_path: str = "",
        client: tuple[str, int] | None = ("127.0.0.1", 50000),
        http_version: str = "1.1",
        scheme: str = "http",
        headers: FieldsInput | None = None,
        raise_app_exceptions: bool = True,
        timeout_seconds: float = 5.0,
        grace_seconds: float = 0.05,
        max_body_bytes: int = 64 * 2**20,
    ) -> None:
        self.app = app
        self.server = server
        self.state = {}
        self.cookies = {}
        self._root_path = root_path
        self._client = client
        self._http_version = http_version
        self._scheme = scheme
        self._headers = merge_headers(OWN_FIELDS, encode_headers(headers))
        self._raises = raise_app_exceptions
        self._timeout = timeout_seconds
        self._grace = grace_seconds
        self._max_body_bytes = max_body_bytes
        self._lifespan: Lifespan | None = None

    # --- lifespan

    async def __aenter__(self) -> Client:
        if self._lifespan is not None:
            raise RuntimeError("the lifespan of this client is open already")
        if self.server.has_lifespan:
            lifespan = Lifespan(self.app, self.server, self.state, self._timeout)
            await lifespan.__aenter__()
            self._lifespan = lifespan
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        lifespan, self._lifespan = self._lifespan, None
        return None if lifespan is None else await lifespan.__aexit__(kind, error, traceback)

    # --- requests

    def exchange(self, method: str, path: str, **options: Unpack[ExchangeOptions]) -> Exchange:
        """One request and its response, message by message: ``async with client.exchange("GET", "/") as exchange``.

        Args:
            method: The method.
            path: Path and query.
            **options: Those of ``ExchangeOptions``.

        Raises:
            TypeError: There is no such option.
        """
        check_options(options)
        content, announced = encode_content(options, self._http_version)
        given = encode_headers(options.get("headers"))
        scope = build_scope(
            method,
            path,
            server=self.server,
            headers=merge_headers(self._headers, build_cookie(self.cookies), announced, given),
            params=options.get("params"),
            root_path=self._root_path,
            client=self._client,
            http_version=self._http_version,
            scheme=self._scheme,
            state=self.state,
            changes=options.get("scope"),
        )
        fault = options.get("fault")
        if fault is not None:
            fault.is_used = True
        connection = Connection(
            self.server,
            scope,
            window=options.get("window"),
            window_bytes=options.get("window_bytes", self.server.window_bytes),
            fault=fault,
            on_start=lambda headers: store_cookies(self.cookies, headers),
        )
        return Exchange(
            self.app,
            scope,
            connection,
            content,
            more_body=options.get("more_body", False),
            record=options.get("record", True),
            fault=fault,
            raises=self._raises,
            timeout_seconds=self._timeout,
            grace_seconds=self._grace,
            max_body_bytes=self._max_body_bytes,
        )

    async def request(self, method: str, path: str, **options: Unpack[RequestOptions]) -> ClientResponse:
        """One request and its whole response; the application has ended then.

        Args:
            method: The method.
            path: Path and query.
            **options: Those of ``RequestOptions``.

        Raises:
            TimeoutError: The application did not end.
            Exception: The application's.
            IncompleteResponseError: It returned before its response was complete.
        """
        async with self.exchange(method, path, **options) as exchange:
            return await exchange.finish()

    async def get(self, path: str, **options: Unpack[RequestOptions]) -> ClientResponse:
        """``request()`` with GET."""
        return await self.request("GET", path, **options)

    async def head(self, path: str, **options: Unpack[RequestOptions]) -> ClientResponse:
        """``request()`` with HEAD."""
        return await self.request("HEAD", path, **options)

    async def options(self, path: str, **options: Unpack[RequestOptions]) -> ClientResponse:
        """``request()`` with OPTIONS."""
        return await self.request("OPTIONS", path, **options)

    async def post(self, path: str, **options: Unpack[RequestOptions]) -> ClientResponse:
        """``request()`` with POST."""
        return await self.request("POST", path, **options)

    async def put(self, path: str, **options: Unpack[RequestOptions]) -> ClientResponse:
        """``request()`` with PUT."""
        return await self.request("PUT", path, **options)

    async def patch(self, path: str, **options: Unpack[RequestOptions]) -> ClientResponse:
        """``request()`` with PATCH."""
        return await self.request("PATCH", path, **options)

    async def delete(self, path: str, **options: Unpack[RequestOptions]) -> ClientResponse:
        """``request()`` with DELETE."""
        return await self.request("DELETE", path, **options)
