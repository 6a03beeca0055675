"""The application that the servers run.

What its endpoints saw is appended to the file that the environment variable ``WIRE_EVENTS`` names, one
line each: the ``id`` of the query string, a blank, and a word. The file can still be read when the server is gone.
"""

from __future__ import annotations

import hashlib
import logging
import os
import random
import signal
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from anyio.lowlevel import checkpoint

from asgicore import (
    EventSourceResponse,
    FileResponse,
    Handler,
    HTTPError,
    JSONResponse,
    Limits,
    Request,
    Response,
    ServerSentEvent,
    StreamingResponse,
    close_on_signals,
)

# A server that does not set up logging would hide the warnings of asgicore; INFO holds what is nobody's fault.
logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")

PART_BYTES = 65536
_NOISE = random.Random(0).randbytes(PART_BYTES - 8)
_events = os.open(os.environ.get("WIRE_EVENTS", os.devnull), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def content(size: int) -> list[bytes]:
    """A body of ``size`` bytes that compresses badly and shows lost, repeated and swapped parts."""
    count, rest = divmod(size, PART_BYTES)
    parts = [index.to_bytes(8, "big") + _NOISE for index in range(count)]
    return [*parts, _NOISE[:rest]] if rest else parts


def record(request: Request, what: str) -> None:
    os.write(_events, f"{request.query_params.get('id', '-')} {what}\n".encode())


# --- bodies --------------------------------------------------------------------------------------------------


async def hello(request: Request) -> Response:
    return Response(f"Hello over HTTP/{request.http_version}!\n")


async def digest(request: Request) -> Response:
    """The SHA-256 and the size of the body, however it arrives."""
    sha256, size = hashlib.sha256(), 0
    record(request, "began")
    try:
        async for part in request.stream():
            if not size:
                record(request, "receiving")
            sha256.update(part)
            size += len(part)
    except BaseException as exc:
        record(request, f"stopped by {type(exc).__name__}")
        raise
    return JSONResponse({"sha256": sha256.hexdigest(), "size": size})


async def whole(request: Request) -> Response:
    return Response(b"".join(content(int(request.query_params["size"]))))


async def parts(request: Request) -> Response:
    async def produce() -> AsyncIterator[bytes]:
        for part in content(int(request.query_params["size"])):
            yield part

    return StreamingResponse(produce())


FILE_BYTES = 5 * 2**20 + 321
_folder = tempfile.TemporaryDirectory(prefix="wire-files-")
Path(_folder.name, "file.bin").write_bytes(b"".join(content(FILE_BYTES)))


async def file(request: Request) -> Response:
    """A file, named by the client."""
    return FileResponse.under(_folder.name, request.query_params["path"], filename=request.query_params.get("name"))


# --- statuses and fields -------------------------------------------------------------------------------------


async def no_content(request: Request) -> Response:
    return Response(status_code=204)


async def not_modified(request: Request) -> Response:
    return Response(status_code=304, headers={"etag": '"1"'})


async def text(request: Request) -> Response:
    response = Response("five\n")
    response.set_cookie("first", "1")
    response.set_cookie("second", "2", httponly=True)
    response.set_cookie("first", "3", path="/below")
    return response


async def cookies(request: Request) -> Response:
    return JSONResponse(dict(request.cookies))


async def state(request: Request) -> Response:
    return JSONResponse(dict(request.state))


# --- waiting -------------------------------------------------------------------------------------------------


async def wait(request: Request) -> Response:
    """Waits for ever; what is recorded after the cancellation comes from a shielded cleanup that suspends."""
    record(request, "waiting")
    try:
        await anyio.sleep_forever()
    except anyio.get_cancelled_exc_class():
        record(request, "cancelled")
        raise
    finally:
        with anyio.CancelScope(shield=True):
            await checkpoint()
            record(request, "cleaned")
    return Response()


async def drip(request: Request) -> Response:
    """A stream without end that mostly waits."""

    async def produce() -> AsyncIterator[bytes]:
        count = 0
        try:
            while True:
                yield b"drip\n"
                # The next part is asked for when the server has taken this one.
                if not count:
                    record(request, "dripping")
                count += 1
                await anyio.sleep(0.02)
        finally:
            record(request, "closed")

    return StreamingResponse(produce(), content_type="text/plain")


async def events(request: Request) -> Response:
    """Events without end, from after the last one that the client got; only every second one has an id."""
    begin = int(request.last_event_id or 0) + 1

    async def produce() -> AsyncIterator[ServerSentEvent | str]:
        record(request, f"began at {begin}")
        try:
            for number in range(begin, begin + 4, 2):
                yield ServerSentEvent({"number": number}, event="number", id=str(number))
                yield f"after\n{number}"
            record(request, "streaming")
            await anyio.sleep_forever()
        finally:
            record(request, "closed")

    return EventSourceResponse(produce(), ping_seconds=0.05, retry_milliseconds=10)


async def flood(request: Request) -> Response:
    """A stream without end that is always ahead of its client."""

    async def produce() -> AsyncIterator[bytes]:
        try:
            while True:
                yield _NOISE
                _flooded[request.query_params["id"]] += len(_NOISE)
        finally:
            record(request, "closed")

    return StreamingResponse(produce())


_flooded: defaultdict[str, int] = defaultdict(int)


async def flooded(request: Request) -> Response:
    """How many bytes of ``/flood`` with this id the server has taken."""
    return JSONResponse(_flooded[request.query_params["id"]])


_gates: defaultdict[str, anyio.Event] = defaultdict(anyio.Event)
_guests: defaultdict[str, int] = defaultdict(int)


async def steps(request: Request) -> Response:
    """Two parts; the second comes when somebody asks for ``/go`` with the same id."""
    gate = _gates[request.query_params["id"]]

    async def produce() -> AsyncIterator[str]:
        yield "one\n"
        await gate.wait()
        yield "two\n"

    return StreamingResponse(produce())


async def go(request: Request) -> Response:
    _gates[request.query_params["id"]].set()
    return Response(status_code=204)


async def meet(request: Request) -> Response:
    """Answers when ``size`` requests with this id are here at once."""
    ident, size = request.query_params["id"], int(request.query_params["size"])
    _guests[ident] += 1
    if _guests[ident] == size:
        _gates[ident].set()
    await _gates[ident].wait()
    return Response(str(_guests[ident]))


# --- the application -----------------------------------------------------------------------------------------

ENDPOINTS: dict[str, Callable[[Request], Awaitable[Response]]] = {
    "": hello,
    "cookies": cookies,
    "digest": digest,
    "drip": drip,
    "events": events,
    "file": file,
    "flood": flood,
    "flooded": flooded,
    "go": go,
    "meet": meet,
    "no-content": no_content,
    "not-modified": not_modified,
    "parts": parts,
    "state": state,
    "steps": steps,
    "text": text,
    "wait": wait,
    "whole": whole,
}


async def endpoint(request: Request) -> Response:
    chosen = ENDPOINTS.get(request.path.rpartition("/")[2])
    if chosen is None:
        raise HTTPError(404)
    return await chosen(request)


@asynccontextmanager
async def lifespan() -> AsyncIterator[dict[str, Any]]:
    os.write(_events, b"lifespan startup\n")
    async with AsyncExitStack() as stack:
        if os.environ.get("WIRE_CLOSES"):
            if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
                # A worker of Hypercorn, which would be gone at once; its master tells it in another way to end.
                signal.signal(signal.SIGTERM, lambda number, frame: None)
            await stack.enter_async_context(close_on_signals(_main, *_mounts.values(), grace_seconds=0))
        yield {"shared": "since startup"}
    os.write(_events, b"lifespan shutdown\n")


class Reporting(Handler):
    """Records beginning and end of every request, also where the endpoint never ran."""

    def create_request(self, scope: Any, body: Any) -> tuple[Any, Response | None]:
        request, response = super().create_request(scope, body)
        if request is not None:
            record(request, "created")
        return request, response

    async def request_finished(self, request: Any, response: Response | None) -> None:
        if request is not None:
            record(request, "finished")


TIGHT = Limits(max_body_bytes=1000, max_headers=30)
IMPATIENT = Limits(body_timeout_seconds=0.4)

_large = Limits(max_body_bytes=2**30)
_main = Handler(endpoint, limits=_large, lifespan=lifespan)
_mounts = {
    "/stream/": Handler(endpoint, limits=_large, body="stream"),
    "/tight/": Handler(endpoint, limits=TIGHT),
    "/tight-stream/": Handler(endpoint, limits=TIGHT, body="stream"),
    "/impatient/": Handler(endpoint, limits=IMPATIENT),
    "/impatient-stream/": Handler(endpoint, limits=IMPATIENT, body="stream"),
    "/reporting/": Reporting(endpoint, limits=_large),
}


async def app(scope: Any, receive: Any, send: Any) -> None:
    path = str(scope.get("path", ""))
    handler = next((mounted for prefix, mounted in _mounts.items() if path.startswith(prefix)), _main)
    await handler(scope, receive, send)
