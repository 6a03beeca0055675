"""A small WSGI application, and three bridges around it. Some of its paths hold the bridge against PEP 3333."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from asgicore.wsgi_bridge import WSGIHandler

TEXT = ("Content-Type", "text/plain")
Environ = dict[str, Any]


def hello(environ: Environ, start_response: Any) -> list[bytes]:
    start_response("200 OK", [TEXT, ("Content-Length", "13")])
    return [b"Hello, world!"]


def echo(environ: Environ, start_response: Any) -> list[bytes]:
    keys = ("PATH_INFO", "QUERY_STRING", "HTTP_COOKIE", "HTTP_X_FORWARDED_FOR", "SERVER_PORT")
    body = "\n".join(str(environ.get(key, "-")) for key in keys).encode("latin-1")
    start_response("200 OK", [TEXT, ("Content-Length", str(len(body)))])
    return [body]


def read(environ: Environ, start_response: Any) -> list[bytes]:
    body = b"%d bytes" % len(environ["wsgi.input"].read())
    start_response("200 OK", [TEXT, ("Content-Length", str(len(body)))])
    return [body]


def readline(environ: Environ, start_response: Any) -> list[bytes]:
    line = environ["wsgi.input"].readline(1000)
    assert line or environ["REQUEST_METHOD"] != "POST", "readline() loses the body"
    start_response("200 OK", [TEXT, ("Content-Length", str(len(line)))])
    return [line]


def readlines(environ: Environ, start_response: Any) -> list[bytes]:
    lines = environ["wsgi.input"].readlines(10)
    assert all(lines), "readlines() makes lines up"
    start_response("200 OK", [TEXT, ("Content-Length", str(sum(map(len, lines))))])
    return list(lines)


def write(environ: Environ, start_response: Any) -> list[bytes]:
    send = start_response("200 OK", [TEXT, ("Content-Length", "6")])
    send(b"abc")
    return [b"def"]


def bare_status(environ: Environ, start_response: Any) -> list[bytes]:
    start_response("200", [TEXT, ("Content-Length", "2")])
    return [b"ok"]


def latin1(environ: Environ, start_response: Any) -> list[bytes]:
    start_response("200 OK", [TEXT, ("Content-Length", "2"), ("X-Name", "caf\xe9")])
    return [b"ok"]


def exc_info(environ: Environ, start_response: Any) -> list[bytes]:
    import sys

    start_response("200 OK", [TEXT, ("Content-Length", "2")])
    try:
        raise KeyError("handled here")
    except KeyError:
        start_response("404 Not Found", [TEXT, ("Content-Length", "2")], sys.exc_info())
    return [b"no"]


def too_long(environ: Environ, start_response: Any) -> list[bytes]:
    start_response("200 OK", [TEXT, ("Content-Length", "3")])
    return [b"abc", b"def"]


class File:
    """An iterable that has something to close."""

    def __init__(self) -> None:
        self._file = open(__file__, "rb")

    def __iter__(self) -> Iterator[bytes]:
        yield self._file.read(100)

    def close(self) -> None:
        self._file.close()


def file(environ: Environ, start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [TEXT, ("Content-Length", str(min(100, Path(__file__).stat().st_size)))])
    return File()


def parts(environ: Environ, start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", [TEXT])
    yield from [b"x" * 1024] * 64


def stream(environ: Environ, start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", [TEXT])
    while True:
        time.sleep(0.0002)  # whoever takes it all does not take the machine's memory within the second
        yield b"x" * 65536


def blocking(environ: Environ, start_response: Any) -> list[bytes]:
    time.sleep(0.05)
    start_response("200 OK", [TEXT, ("Content-Length", "5")])
    return [b"slept"]


PATHS: dict[str, Callable[[Environ, Any], Iterable[bytes]]] = {
    f"/{function.__name__.replace('_', '-')}": function
    for function in (
        hello, read, readline, readlines, write, bare_status, latin1, exc_info, too_long, file, parts, stream, blocking,
    )
}  # fmt: skip


def site(environ: Environ, start_response: Any) -> Iterable[bytes]:
    return PATHS.get(environ.get("PATH_INFO", ""), echo)(environ, start_response)


own = WSGIHandler(site)

with suppress(ImportError):
    from a2wsgi import WSGIMiddleware

    a2wsgi: Any = WSGIMiddleware(site)  # type: ignore[arg-type]  # its environ is a TypedDict

with suppress(ImportError):
    from asgiref.wsgi import WsgiToAsgi

    asgiref: Any = WsgiToAsgi(site)  # type: ignore[no-untyped-call]  # it has no types
