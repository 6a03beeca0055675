"""Everything a browser asks of a server, on one page to try it: ``uvicorn examples.showcase:app``.

An upload with its progress, events that go on where they were cut, sound that can be seeked, downloads with names in
any language, cookies, and answers that are not sent twice. Needs the extras ``forms`` and ``server``.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
import wave
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter
from typing import IO, Any, Final

import anyio
from anyio.to_thread import run_sync

from asgicore import (
    Compression,
    EventSourceResponse,
    FileResponse,
    Handler,
    HTTPError,
    JSONResponse,
    Limits,
    Request,
    Response,
    ServerSentEvent,
    UploadFile,
    close_on_signals,
)

PAGE: Final = Path(__file__).with_suffix(".html")

# One upload may take this much of the directory for temporary files.
LIMITS: Final = Limits(max_body_bytes=4 * 2**30)

RATE: Final = 8000
SECONDS: Final = 120

FILES: Final = {
    "Grüße aus Köln.txt": "Schöne Grüße!\n",
    "履歴書 最終版.txt": "こんにちは、世界。\n",
    'quotes "and" 100% signs.txt': "Nothing is lost on the way.\n",
}

EVENTS_PER_CONNECTION: Final = 5


@asynccontextmanager
async def lifespan(app: Handler) -> AsyncIterator[dict[str, Any]]:
    """A directory with the files that are served, for as long as the server runs; streams end when it is told to."""
    with tempfile.TemporaryDirectory(prefix="showcase-") as name:
        directory = Path(name)
        await run_sync(make_files, directory)
        async with close_on_signals(app, grace_seconds=0.2):
            yield {"directory": directory}


def make_files(directory: Path) -> None:
    for name, text in FILES.items():
        (directory / name).write_text(text, "utf-8")
    # A tone that rises from 220 to 880 Hz, so that one hears where one is.
    samples, phase = array("h"), 0.0
    for number in range(RATE * SECONDS):
        phase += 220 * 4 ** (number / (RATE * SECONDS)) / RATE
        samples.append(int(6000 * math.sin(2 * math.pi * phase)))
    with wave.open(str(directory / "tone.wav"), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(RATE)
        sound.writeframes(samples.tobytes())


async def page(request: Request) -> Response:
    return FileResponse(PAGE)


async def upload(request: Request) -> Response:
    """A form with a file: by now it is here as a whole, a large one on disk."""
    began = perf_counter()
    form = await request.form()
    file = form.get("file")
    if not isinstance(file, UploadFile):
        raise HTTPError(400, "file: a file is missing")
    parsed = perf_counter()
    sha256 = await run_sync(hash_file, file.file)
    hashed = perf_counter()
    response = JSONResponse({"name": file.filename, "size": file.size, "sha256": sha256, "note": form.get("note", "")})
    response.add_server_timing("form", 1000 * (parsed - began), "the form was read")
    response.add_server_timing("hash", 1000 * (hashed - parsed), "the file was hashed")
    return response


def hash_file(file: IO[bytes]) -> str:
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


async def events(request: Request) -> Response:
    """Counts on from the last event that the browser has seen; the connection is cut every few events."""
    try:
        last = int(request.last_event_id or "0")
    except ValueError:
        last = 0
    return EventSourceResponse(count(last + 1), retry_milliseconds=500)


async def count(first: int) -> AsyncIterator[ServerSentEvent]:
    for number in range(first, first + EVENTS_PER_CONNECTION):
        yield ServerSentEvent({"number": number}, event="count", id=str(number))
        await anyio.sleep(0.5)


async def tone(request: Request) -> Response:
    """What a player asks for piece by piece; the page shows which piece it asked for last."""
    response = FileResponse(request.state["directory"] / "tone.wav")
    response.set_cookie("range", (request.headers.get("range") or "all").replace("=", ":").replace(",", "+"))
    return response


async def download(request: Request) -> Response:
    name = request.path_info.removeprefix("/files/")
    return FileResponse.under(request.state["directory"], name, filename=name, disposition="attachment")


async def list_files(request: Request) -> Response:
    """The same answer every time: a browser that has it gets a 304."""
    response = JSONResponse(list(FILES))
    response.set_etag()
    response.headers["cache-control"] = "no-cache"
    return response


async def visits(request: Request) -> Response:
    """Counts visits in a cookie; DELETE forgets them."""
    if request.method == "DELETE":
        response = Response(status_code=204)
        response.delete_cookie("visits")
        return response
    known = request.cookies.get("visits", "")
    number = int(known) + 1 if known.isascii() and known.isdecimal() and len(known) < 10 else 1
    response = JSONResponse({"visits": number})
    response.set_cookie("visits", str(number), max_age=3600, httponly=True)
    return response


ENDPOINTS: Final[dict[tuple[str, str], Callable[[Request], Awaitable[Response]]]] = {
    ("GET", "/"): page,
    ("POST", "/upload"): upload,
    ("GET", "/events"): events,
    ("GET", "/tone.wav"): tone,
    ("GET", "/files"): list_files,
    ("POST", "/visits"): visits,
    ("DELETE", "/visits"): visits,
}


async def endpoint(request: Request) -> Response:
    """A handler has one endpoint; choosing among several is what a framework does."""
    method = "GET" if request.method == "HEAD" else request.method
    path = request.path_info
    if method == "GET" and path.startswith("/files/"):
        return await download(request)
    chosen = ENDPOINTS.get((method, path))
    if chosen is not None:
        return await chosen(request)
    allowed = sorted({known for known, at in ENDPOINTS if at == path})
    if allowed:
        raise HTTPError(405, headers={"allow": ", ".join(allowed)})
    raise HTTPError(404)


app = Handler(endpoint, limits=LIMITS, lifespan=lifespan, compression=Compression())
