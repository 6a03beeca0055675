"""One WSGI application behind each of the bridges to ASGI."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from .. import shared
from . import App, Peer

TEXT = ("content-type", "text/plain; charset=utf-8")


def hello(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    return whole(start_response, shared.HELLO)


def upload(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    return whole(start_response, str(len(environ["wsgi.input"].read())))


def pieces(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """What the application itself holds is one piece, so that the bridge is what is measured."""
    return whole(start_response, str(shared.read_back(environ["wsgi.input"])))


def whole(start_response: Any, text: str) -> Iterable[bytes]:
    body = text.encode()
    start_response("200 OK", [TEXT, ("content-length", str(len(body)))])
    return [body]


def download(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [TEXT])
    return shared.sync_download()


def fresh(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [TEXT])
    return shared.sync_fresh()


APPS: dict[str, Callable[..., Iterable[bytes]]] = {
    "wsgi-hello": hello,
    "wsgi-upload": upload,
    "wsgi-download": download,
    "wsgi-pieces": pieces,
    "wsgi-fresh": fresh,
}


def build(workload: str, variant: str) -> App | None:
    app: Any = APPS[workload]
    # Each needs a package of its own, which may be missing.
    bridge: Any
    if variant == "asgiref":
        from asgiref.wsgi import WsgiToAsgi

        bridge = WsgiToAsgi
    elif variant == "a2wsgi":
        from a2wsgi import WSGIMiddleware

        bridge = WSGIMiddleware
    else:
        from asgicore import Limits
        from asgicore.wsgi_bridge import WSGIHandler

        bridge = partial(WSGIHandler, limits=Limits(max_body_bytes=shared.LIMIT_BYTES))
    handler: App = bridge(app)
    return handler


BRIDGES = {
    peer.name: peer
    for peer in (
        Peer("asgicore", "wsgi", "asgicore"),
        Peer("asgiref", "wsgi", "asgiref", "asgiref"),
        Peer("a2wsgi", "wsgi", "a2wsgi", "a2wsgi"),
    )
}
