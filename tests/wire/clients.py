"""Clients that can do what a well-behaved one cannot: stop half-way, leave, and be silent."""

from __future__ import annotations

import socket
from http.client import HTTPResponse
from types import TracebackType
from typing import Any, Self

from .servers import Server

SECONDS = 10.0

Fields = list[tuple[str, str]]


class Answer:
    """A response, as far as the tests look at it."""

    def __init__(self, status: int, fields: Fields, body: bytes) -> None:
        self.status = status
        self.fields = fields
        self.body = body

    def get(self, name: str) -> str | None:
        return next((value for field, value in self.fields if field == name), None)


class Exchange:
    """One request over a connection of its own; every wait is bounded by ten seconds.

    Args:
        server: Whom to ask, in HTTP/1.1 or HTTP/2 as its kind says.
        method: The method.
        target: Path and query.
        fields: Header fields beside ``host``.
        body: What of the body is sent at once.
        length: The declared length; ``None`` declares nothing.
    """

    def __init__(
        self,
        server: Server,
        method: str,
        target: str,
        fields: Fields | None = None,
        body: bytes = b"",
        length: int | None = None,
    ) -> None:
        self._method = method
        self._host = f"127.0.0.1:{server.port}"
        fields = list(fields or ())
        if length is not None:
            fields.append(("content-length", str(length)))
        self._socket = socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS)
        try:
            self._send(target, fields, body, is_ended=length is None or length == len(body))
        except BaseException:
            self._socket.close()
            raise

    def _send(self, target: str, fields: Fields, body: bytes, is_ended: bool) -> None:
        raise NotImplementedError

    def await_body(self) -> bytes:
        """The first bytes of the response's body."""
        raise NotImplementedError

    def answer(self) -> Answer:
        """The whole response.

        Raises:
            ConnectionResetError: The server broke the exchange off.
        """
        raise NotImplementedError

    def leave(self) -> None:
        """Break the exchange off."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._socket.close()


class Http1Exchange(Exchange):
    """Leaves by closing the connection."""

    def _send(self, target: str, fields: Fields, body: bytes, is_ended: bool) -> None:
        fields = [("host", self._host), *fields]
        lines = [f"{self._method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields)]
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode("ascii") + body)

    def await_body(self) -> bytes:
        received = b""
        while not (body := received.partition(b"\r\n\r\n")[2]):
            part = self._socket.recv(4096)
            if not part:
                raise ConnectionResetError("the server closed the connection")
            received += part
        return body

    def answer(self) -> Answer:
        with HTTPResponse(self._socket, method=self._method) as response:
            response.begin()
            body = response.read()
            return Answer(response.status, [(name.lower(), value) for name, value in response.getheaders()], body)

    def rest(self) -> bytes:
        """Everything until the server closes, as it is on the wire."""
        received = b""
        while part := self._socket.recv(65536):
            received += part
        return received

    def leave(self) -> None:
        self._socket.close()


class Http2Exchange(Exchange):
    """Leaves by resetting the stream, as browsers do; the connection stays."""

    def _send(self, target: str, fields: Fields, body: bytes, is_ended: bool) -> None:
        from h2.config import H2Configuration
        from h2.connection import H2Connection

        self._h2 = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self._h2.initiate_connection()
        pseudo = [(":method", self._method), (":scheme", "http"), (":authority", self._host), (":path", target)]
        self._h2.send_headers(1, [*pseudo, *fields], end_stream=is_ended and not body)
        if body:
            self._h2.send_data(1, body, end_stream=is_ended)
        self._flush()

    def _flush(self) -> None:
        self._socket.sendall(self._h2.data_to_send())

    def _events(self) -> list[Any]:
        part = self._socket.recv(65536)
        if not part:
            raise ConnectionResetError("the server closed the connection")
        return list(self._h2.receive_data(part))

    def await_body(self) -> bytes:
        from h2.events import DataReceived, StreamReset

        while True:
            for event in self._events():
                if isinstance(event, StreamReset):
                    raise ConnectionResetError("the server reset the stream")
                if isinstance(event, DataReceived) and event.data:
                    # Nothing is acknowledged: the window closes, and this client does not read any further.
                    self._flush()
                    return bytes(event.data)
            self._flush()

    def answer(self) -> Answer:
        from h2.events import DataReceived, ResponseReceived, StreamEnded, StreamReset

        fields: Fields = []
        body = b""
        while True:
            for event in self._events():
                if isinstance(event, ResponseReceived):
                    fields = [(str(name), str(value)) for name, value in event.headers or ()]
                elif isinstance(event, DataReceived):
                    body += event.data or b""
                    self._h2.acknowledge_received_data(event.flow_controlled_length or 0, 1)
                elif isinstance(event, StreamEnded):
                    status = next(value for name, value in fields if name == ":status")
                    return Answer(int(status), fields, body)
                elif isinstance(event, StreamReset):
                    raise ConnectionResetError("the server reset the stream")
            self._flush()

    def leave(self) -> None:
        self._h2.reset_stream(1, error_code=8)  # CANCEL
        self._flush()


def curl_command(server: Server, path: str, *arguments: str) -> list[str]:
    """The command line that asks for ``path`` in the protocol of the server's kind."""
    protocol = "--http2-prior-knowledge" if server.kind.http2 else "--http1.1"
    command = ["curl", "--disable", "--noproxy", "*", "--silent", "--show-error", "--no-buffer", "--max-time", "40"]
    return [*command, protocol, *arguments, f"{server.url}{path}"]


def exchange(server: Server, method: str, target: str, **arguments: Any) -> Exchange:
    """Begin an exchange in the protocol of the server's kind."""
    return (Http2Exchange if server.kind.http2 else Http1Exchange)(server, method, target, **arguments)
