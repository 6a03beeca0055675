"""What ASGI servers really do, as values: each was seen with sockets and a bare application, over HTTP/1.1.

Versions: uvicorn 0.54, Hypercorn 0.18, anycorn 0.20, Granian 2.8, Daphne 4.2, gunicorn 27 with its ASGI worker.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

__all__ = [
    "ANYCORN",
    "DAPHNE",
    "GRANIAN",
    "GUNICORN",
    "HYPERCORN",
    "HYPERCORN_TRIO",
    "SERVERS",
    "STRICT",
    "UVICORN",
    "CancelledReceive",
    "Server",
]

CancelledReceive: TypeAlias = Literal["raise", "disconnect", "error", "wait"]

_MIB: Final = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """The personality of a server; ``dataclasses.replace`` makes others of those that are here.

    The defaults are what most servers do.
    """

    name: str
    """What tests are called by."""

    # --- the scope
    spec_version: str | None = "2.3"
    """``scope["asgi"]["spec_version"]``; ``None``: the key is missing."""
    extensions: tuple[str, ...] | None = None
    """The keys of ``scope["extensions"]``; ``None``: it is missing."""
    http2_extensions: tuple[str, ...] | None = None
    """The same for requests of HTTP version 2."""
    has_state: bool = True
    """Whether there is a ``scope["state"]``."""
    has_lifespan: bool = True
    """Whether the application gets a lifespan scope."""
    addresses: Literal["tuple", "list", "text port"] = "tuple"
    """How ``client`` and ``server`` are written."""
    drops_underscores: bool = False
    """Whether request headers with ``_`` in their name are left out."""

    # --- receive
    max_body_message_bytes: int | None = 256 * 1024
    """How long the body of one ``http.request`` is at most."""
    ends_body_apart: bool = False
    """Whether an empty message comes after a body, to end it."""
    reads_body_first: bool = False
    """Whether the application is called when the whole body is there, and not before."""
    extra_requests: int = 0
    """How many empty ``http.request`` messages come after the end of the body: harmless, and seen."""
    tells_disconnect: bool = True
    """Whether ``receive`` gives ``http.disconnect`` when the client has left."""
    repeats_disconnect: bool = True
    """Whether it gives it again; else it waits for ever then."""
    disconnects_after_response: bool = True
    """Whether ``receive`` gives ``http.disconnect`` once the response is complete, before the client leaves."""
    cancelled_receive: CancelledReceive = "raise"
    """What a cancelled ``receive`` does: passes the cancellation on, returns a disconnect in its place, raises
    ``RuntimeError`` in its place, or does not heed it."""

    # --- send
    window_bytes: int | None = 3 * _MIB
    """How many bytes ``send`` takes ahead of a client that does not read, kernel buffers included; ``None``: all."""
    holds_start: bool = False
    """Whether the client sees the start of a response only with its first body message."""
    send_after_disconnect: Literal["silent", "raise", "wait"] = "silent"
    """What ``send`` does when the client has left: takes everything, raises ``OSError`` as ASGI HTTP 2.4 demands, or
    does not return."""
    illegal: type[Exception] | None = RuntimeError
    """What ``send`` raises for a message that is out of order or unknown; ``None``: it takes it."""
    after_end: type[Exception] | None = RuntimeError
    """What ``send`` raises for a message after the response was complete; ``None``: it ignores it."""
    wrong_length: Literal["error", "send", "cut"] = "error"
    """What becomes of a body that is not as long as declared: ``send`` raises ``illegal``, sends it as it is, or cuts
    off what is too much."""
    needs_headers: bool = False
    """Whether a start without ``headers`` is illegal."""
    needs_bytes: bool = False
    """Whether a ``bytearray`` or ``memoryview`` as body raises ``TypeError``."""

    suspends: bool = False
    """Whether each ``receive`` and ``send`` gives up the event loop once, even where there is nothing to wait for."""

    def __str__(self) -> str:
        return self.name


_TRAILERS, _HINT = "http.response.trailers", "http.response.early_hint"
_PATHSEND, _ZEROCOPY = "http.response.pathsend", "http.response.zerocopysend"

STRICT: Final = Server(
    name="strict",
    spec_version="2.5",
    extensions=("http.response.debug", _HINT, _PATHSEND, _TRAILERS, _ZEROCOPY),
    http2_extensions=("http.response.debug", _HINT, _PATHSEND, "http.response.push", _TRAILERS, _ZEROCOPY),
    window_bytes=0,
    send_after_disconnect="raise",
    suspends=True,
)
"""The specification as written, with every extension; waits wherever a server may wait."""

UVICORN: Final = Server(name="uvicorn", http2_extensions=(_HINT, _TRAILERS))
"""uvicorn, with h11 as with httptools."""

HYPERCORN: Final = Server(
    name="hypercorn",
    spec_version="2.1",
    extensions=(),
    http2_extensions=(_TRAILERS, "http.response.push", _HINT),
    max_body_message_bytes=64 * 1024,
    ends_body_apart=True,
    repeats_disconnect=False,
)
"""Hypercorn, with its workers on asyncio and uvloop."""

HYPERCORN_TRIO: Final = replace(HYPERCORN, name="hypercorn-trio", window_bytes=_MIB // 8)
"""Hypercorn, with its worker on trio: it takes little ahead."""

ANYCORN: Final = replace(
    HYPERCORN,
    name="anycorn",
    extensions=(_PATHSEND, _ZEROCOPY),
    http2_extensions=(_TRAILERS, "http.response.push", _HINT, _PATHSEND),
)
"""anycorn, a Hypercorn on anyio: files are sent by their path, or by their descriptor."""

GRANIAN: Final = Server(
    name="granian",
    extensions=(_PATHSEND, "websocket.http.response"),
    http2_extensions=(_PATHSEND, "websocket.http.response"),
    addresses="text port",
    ends_body_apart=True,
    window_bytes=4 * _MIB,
    holds_start=True,
    wrong_length="send",
    needs_headers=True,
)
"""Granian: ports are text, files are sent by their path."""

DAPHNE: Final = Server(
    name="daphne",
    spec_version=None,
    has_state=False,
    has_lifespan=False,
    addresses="list",
    drops_underscores=True,
    max_body_message_bytes=8 * 1024,
    reads_body_first=True,
    repeats_disconnect=False,
    window_bytes=None,
    holds_start=True,
    illegal=ValueError,
    after_end=None,
    wrong_length="send",
    needs_bytes=True,
)
"""Daphne: no lifespan, no state, no back-pressure, and the whole body is there before the application starts."""

GUNICORN: Final = Server(
    name="gunicorn",
    spec_version="2.4",
    http2_extensions=("http.response.priority", _TRAILERS),
    drops_underscores=True,
    disconnects_after_response=False,
    holds_start=True,
    illegal=None,
    after_end=None,
    wrong_length="cut",
)
"""gunicorn's ASGI worker: claims ASGI HTTP 2.4 and is silent all the same; takes any message."""

SERVERS: Final = (STRICT, UVICORN, HYPERCORN, HYPERCORN_TRIO, ANYCORN, GRANIAN, DAPHNE, GUNICORN)
"""All of them, to parametrise tests with."""
