"""A WSGI application on the engine.

::

    the loop                                     one worker thread
    body spooled, thread asked for   ──────────▶ environ, app(environ, start_response)
                                                 a body that is complete: all of it ─┐
    Response                         ◀───────────────────────────────────────────────┤
    StreamingResponse over the Pump  ◀── part ── the iterable, part by part ─────────┤
    StreamingResponse over the file  ◀───────────────────────── wsgi.file_wrapper ───┘
    cleanup                          ── stop ──▶ close(), always, in the same thread

Source: PEP 3333.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from functools import partial
from io import BytesIO
from typing import IO, Any, Final, Literal, Self, TypeAlias, cast

from .._body import Body
from .._callables import is_async_callable
from .._compression import Compression
from .._files import FileParts, path_of, regular_file_status
from .._handler import Handler
from .._headers import refuse_underscores
from .._lifespan import Lifespan
from .._observer import Observe
from .._pump import Put
from .._request import Request
from .._response import Response
from .._streaming_response import AsyncParts, StreamingResponse
from .._threads import Threads
from .._watch import run_shielded
from ..errors import ClientDisconnectedError, RequestError
from ..limits import DEFAULT_LIMITS, Limits
from ..types import RawHeaders, Scope
from ._environ import Extra, build_environ
from ._input import Conversation, open_input
from ._overflow import Overflowing
from ._start_response import StartResponse

__all__ = ["FileWrapper", "WSGIHandler"]

logger = logging.getLogger("asgicore")

WSGIApp: TypeAlias = Callable[[dict[str, Any], Any], Iterable[bytes]]

_Converse: TypeAlias = Callable[[Threads, Callable[[Put], None], Callable[[], AsyncIterator[bytes]]], Conversation]

# A list of parts up to this size goes out in one message.
_JOIN_BYTES: Final = 65536


class FileWrapper:
    """``wsgi.file_wrapper``: an iterator over a file, which the engine sends by itself where it is a real one.

    What wraps it in turn, as Werkzeug does for a range, can close it and find its place: ``close``, ``seek``, ``tell``
    and ``seekable`` are those of the file, where it has them.

    Args:
        filelike: Whatever has ``read``.
        block_size: How much one part holds, in bytes.
    """

    def __init__(self, filelike: Any, block_size: int = 65536) -> None:
        self.filelike = filelike
        self.block_size = block_size
        for name in ("close", "seek", "tell", "seekable"):
            if hasattr(filelike, name):
                setattr(self, name, getattr(filelike, name))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        block: bytes = self.filelike.read(self.block_size)
        if not block:
            raise StopIteration
        return block


class _Answer:
    """What the application has answered so far; filled in its thread, read by the loop."""

    __slots__ = ("body", "file", "file_bytes", "headers", "parts", "path", "status")

    def __init__(self) -> None:
        self.status = 0
        self.headers: RawHeaders = []
        self.body: bytes | None = None
        """The whole body, where it was complete when the application returned..."""
        self.parts: _Ready | None = None
        """... or all its parts, where they are too large to be joined."""
        self.file: FileWrapper | None = None
        """What the engine sends, from where the file stands..."""
        self.file_bytes = 0
        """... and how much of it."""
        self.path: str | None = None
        """Where that file is, if the body is the whole of it."""

    def begin(self, status: int, headers: RawHeaders) -> None:
        self.status, self.headers = status, headers


class WSGIHandler(Handler):
    """An ASGI application around a WSGI application.

    Args:
        app: The WSGI application (PEP 3333).
        body: ``"spool"``: it is called when the whole request body is here, so that a slow upload costs no thread.
            ``"stream"``: it is called at once, and ``wsgi.input`` waits for the client.
        limits: As for ``asgicore.Handler``.
        response_spool_bytes: How much of one response may wait in a temporary file for a slow client, so that the
            thread is free when the application is done. 0: nothing; beyond 768 KiB the application waits for the
            client. ``None``: any amount.
        environ: Further keys of the environ: a mapping, or a function that makes one from the scope.
        underscores: What becomes of a header field with an underscore in its name, which would pass for another one in
            the environ: ``"drop"`` leaves it out, ``"refuse"`` answers 400.
        threads: As for ``asgicore.Handler``; with one thread ``wsgi.multithread`` is false.
        lifespan: As for ``asgicore.Handler``.
        compression: As for ``asgicore.Handler``.
        observe: As for ``asgicore.Handler``.
        debug: As for ``asgicore.Handler``.

    Raises:
        TypeError: ``app`` cannot be called, or is asynchronous.
        ValueError: ``body`` or ``underscores`` is none of the words above; ``response_spool_bytes`` is negative, or no
            integer.
    """

    def __init__(
        self,
        app: WSGIApp,
        *,
        body: Literal["spool", "stream"] = "spool",
        limits: Limits = DEFAULT_LIMITS,
        response_spool_bytes: int | None = 0,
        environ: Extra | None = None,
        underscores: Literal["drop", "refuse"] = "drop",
        threads: Threads | None = None,
        lifespan: Lifespan | None = None,
        compression: Compression | None = None,
        observe: Observe = (),
        debug: bool = False,
    ) -> None:
        if not callable(app):
            raise TypeError(f"WSGIHandler takes a WSGI application, not {app!r}")
        if is_async_callable(app):
            raise TypeError(f"{app!r} is asynchronous, so no WSGI application; an ASGI application needs no bridge")
        if response_spool_bytes is not None and (
            isinstance(cast("object", response_spool_bytes), bool)
            or not isinstance(cast("object", response_spool_bytes), int)
            or response_spool_bytes < 0
        ):
            raise ValueError(
                "WSGIHandler takes response_spool_bytes as an integer of at least 0, or None for no limit; "
                f"not {response_spool_bytes!r}"
            )
        super().__init__(
            body=body,
            limits=limits,
            lifespan=lifespan,
            threads=threads,
            compression=compression,
            observe=observe,
            debug=debug,
        )
        if underscores not in ("drop", "refuse"):
            raise ValueError(f"underscores is 'drop' or 'refuse', not {underscores!r}")
        self.app = app
        self._extra = environ
        self._refuses_underscores = underscores == "refuse"
        self._converse: _Converse = (
            Conversation if response_spool_bytes == 0 else partial(Overflowing, max_disk_bytes=response_spool_bytes)
        )

    def create_request(self, scope: Scope, body: Body) -> tuple[Any, Response | None]:
        """As of ``asgicore.Handler``; with ``underscores="refuse"`` no name of a field has one."""
        request, response = super().create_request(scope, body)
        if self._refuses_underscores and response is None:
            try:
                refuse_underscores(request.scope["headers"])
            except RequestError as exc:
                return None, self._refuse_head(exc, body)
        return request, response

    async def run_get_response(self, request: Request) -> Response:
        """Call the application in a worker thread; returns when it is complete or has given its first part.

        Raises:
            ThreadsBusyError: Too many wait for a thread.
            RequestError: The application read a body that is too large, too slow or malformed.
        """
        answer = _Answer()
        pump = self._converse(self.threads, partial(self._produce, request, answer), request.stream)
        pump.start_thread()
        try:
            first = await pump.first()
            failure = request._body.failure
            if isinstance(failure, RequestError):
                raise failure  # whatever the application has made of it
        except GeneratorExit:
            pump.stop_thread()  # the loop throws the request away; nothing can be awaited any more
            raise
        except BaseException:
            await run_shielded(self._give_up(pump, answer), self.limits.close_timeout_seconds)
            raise
        if answer.body is not None:
            return Response.prepared(answer.body, answer.status, answer.headers)
        parts: AsyncParts
        if answer.parts is not None:
            parts = answer.parts
        elif answer.file is None:
            parts = _Parts(first, pump)
        else:
            parts = FileParts(answer.file.filelike, answer.file_bytes, answer.file)
        response = StreamingResponse.prepared(parts, answer.status, answer.headers)
        response.path = answer.path
        return response

    async def _give_up(self, pump: Conversation, answer: _Answer) -> None:
        with suppress(Exception):
            await pump.aclose()
        if answer.file is not None:
            await FileParts(answer.file.filelike, 0, answer.file).aclose()

    # --- in the worker -------------------------------------------------------------------------------

    def _produce(self, request: Request, answer: _Answer, put: Put) -> None:
        if put.is_closed:
            return  # the client left before there was a thread
        pump = cast("Conversation", put)
        scope, body = request.scope, request._body
        length: int | None = None
        source: IO[bytes]
        if not self._keeps:
            source = open_input(pump.receive_part)
        elif body.data is not None:
            source, length = BytesIO(body.data), len(body.data)
        else:
            source = body.file_nowait()
            length = source.seek(0, os.SEEK_END)
            source.seek(0)
        try:
            environ = build_environ(
                scope,
                input=source,
                multithread=self.threads.max_threads > 1,
                file_wrapper=FileWrapper,
                content_length=length,
                trusts_declared=self.checks_content_length,
                extra=self._extra,
            )
            start = StartResponse(answer.begin, pump, scope.get("method") == "HEAD")
            result = self.app(environ, start)
            try:
                self._give(result, start, answer, pump)
            finally:
                if answer.file is None:
                    self._close_result(result, scope)
            if start.has_excess:
                logger.error("%r gave more than its content-length declares; the rest was left out", scope.get("path"))
        finally:
            if not self._keeps:
                source.close()

    def _give(self, result: Any, start: StartResponse, answer: _Answer, pump: Conversation) -> None:
        """Hand over what the application returned."""
        if not start.is_begun:
            if type(result) in (list, tuple):
                for part in result:
                    start.check(part)
                size = sum(map(len, result))
                room = start.settle_length(size)
                if not room:
                    answer.body = b""
                elif len(result) == 1 or size <= _JOIN_BYTES:
                    answer.body = (result[0] if len(result) == 1 else b"".join(result))[:room]
                else:
                    answer.parts = _Ready(result, room)
                answer.begin(start.status, start.headers)
                return
            if isinstance(result, FileWrapper) and start.status and not start.is_bodiless:
                status = regular_file_status(result.filelike)
                if status is not None:
                    rest = max(status.st_size - result.filelike.tell(), 0)
                    if start.length is None:
                        start.declare(rest)
                    answer.file_bytes = rest if start.length is None else start.length
                    if rest == answer.file_bytes == status.st_size:
                        answer.path = path_of(result.filelike, status)
                    answer.file = result
                    answer.begin(start.status, start.headers)
                    return
            elif isinstance(result, FileWrapper) and start.is_bodiless:
                result = ()
        for part in result:
            if pump.is_closed:
                raise ClientDisconnectedError
            if not start.put_part(part):
                break
        start.finish()

    def _close_result(self, result: Any, scope: Scope) -> None:
        close = getattr(result, "close", None)
        if close is not None:
            try:
                close()
            except Exception as exc:
                # The response stands: everything of it was handed over.
                logger.error("closing the response of %r failed", scope.get("path"), exc_info=exc)


class _Ready:
    """The first ``size`` bytes of parts that are all here; itself its iterator."""

    __slots__ = ("_parts", "_size")

    def __init__(self, parts: Iterable[bytes], size: int) -> None:
        # The application's list is its own again, to fill for the next request of its thread.
        self._parts = iter(tuple(parts))
        self._size = size

    def __aiter__(self) -> _Ready:
        return self

    async def __anext__(self) -> bytes:
        if self._size <= 0:
            raise StopAsyncIteration
        part = next(self._parts)[: self._size]  # there are as many bytes at least
        self._size -= len(part)
        return part


class _Parts:
    """What the application gives, with the part that was waited for in front; itself its iterator."""

    __slots__ = ("_first", "_pump")

    def __init__(self, first: bytes | str | None, pump: Conversation) -> None:
        self._first = first
        self._pump = pump

    def __aiter__(self) -> _Parts:
        return self

    async def __anext__(self) -> bytes | str:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        return await self._pump.__anext__()

    async def aclose(self) -> None:
        await self._pump.aclose()

    def stop_thread(self) -> None:
        self._pump.stop_thread()
