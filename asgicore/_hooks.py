"""What a subclass of ``Handler`` may override, and what each hook does by itself.

The names are those of Django's ``ASGIHandler``, freed from Django.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Coroutine, Iterable, Mapping
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from anyio.lowlevel import checkpoint

from ._body import Body
from ._chunks import slice_bytes
from ._exchange import Exchange, is_head, note_error
from ._extensions import PATHSEND, TRAILERS, ZEROCOPYSEND
from ._headers import check_request_headers, list_headers
from ._jobs import Job
from ._request import Request
from ._response import Response
from ._streaming_response import StreamingResponse
from ._target import check_target
from ._threads import Threads
from ._watch import run_shielded
from ._writer import Writer
from .errors import HTTPError, RequestError
from .limits import Limits
from .types import Receive, Scope, Send

if TYPE_CHECKING:
    from tempfile import SpooledTemporaryFile

logger = logging.getLogger("asgicore")


class Hooks:
    """The hooks, in the order in which a request comes by them. Each can be overridden alone."""

    chunk_size: int = 65536
    """Longest body message of a response, in bytes."""

    checks_content_length: bool = True
    """Whether a body that is longer or shorter than its ``content-length`` is refused (400). Turn it off behind
    middleware that changes bodies and leaves the field as it was; a client that leaves in between is noticed anyway."""

    request_class: type[Any] = Request
    """Built by ``create_request()`` with the scope and the ``Body``."""

    _base: ClassVar[type[Any]]
    """The class whose hooks do what the engine does by itself; bridges have their own."""

    endpoint: Any
    limits: Limits
    threads: Threads
    """Where synchronous code runs; tells how many threads are ``in_use`` and how many requests ``waiting``."""
    debug: bool
    _is_async: bool
    _cuts_itself: bool

    def _overrides(self, hook: str) -> bool:
        """Whether a subclass has a hook of its own."""
        classes = type(self).__mro__
        return any(hook in vars(cls) for cls in classes[: classes.index(self._base)])

    def create_request(self, scope: Scope, body: Body) -> tuple[Any, Response | None]:
        """Check the head of the request.

        Returns:
            ``(request, None)``, or ``(None, response)`` if the head is malformed or too large.
        """
        limits = self.limits
        headers = scope.get("headers")
        try:
            if type(headers) is not list:
                # The specification allows any iterable, and an iterator can be read once.
                headers = list_headers(headers)
                scope = {**scope, "headers": headers}
            check_target(scope.get("path"), scope.get("query_string"), limits)
            declared = check_request_headers(headers, limits)
            if declared is not None:
                body.declare(declared, self.checks_content_length)
        except RequestError as exc:
            return None, self._refuse_head(exc, body)
        return self.request_class(scope, body), None

    def _refuse_head(self, error: RequestError, body: Body) -> Response:
        note_error(error, body)
        return self.handle_http_error(None, error)

    async def read_body(self, receive: Receive) -> SpooledTemporaryFile[bytes]:
        """Read the body to its end into a file, positioned at 0. Called with ``body="spool"``, before the endpoint.

        Args:
            receive: Gives the messages of the request, checked and counted.

        Raises:
            ClientDisconnectedError: The client left first.
            RequestError: The body is too large, too slow or not as long as declared.
        """
        body = receive if isinstance(receive, Body) else Body(receive, self.limits, keep=True)
        await body.load()
        return await body.file()

    async def run_get_response(self, request: Any) -> Response:
        """Get the response: awaits the endpoint, or runs it in a worker thread.

        Raises:
            ThreadsBusyError: A synchronous endpoint would have to wait behind too many others.
        """
        endpoint: Any = self.endpoint
        if self._is_async:
            response: Response = await endpoint(request)
            return response
        job = self.threads.start(endpoint, request)
        try:
            given: Any = await job.wait()
        except GeneratorExit:
            raise  # nothing can be awaited any more
        except BaseException:
            await self._close_lost(job)
            raise
        # A synchronous function may call an asynchronous one.
        answer: Response = await given if isawaitable(given) else given
        return answer

    async def _close_lost(self, job: Job[Any]) -> None:
        """Close the response of an endpoint whose client left while it ran."""
        try:
            lost = job.take()
        except Exception:
            return  # it raised, which is on its way already or is told to nobody
        if isinstance(lost, Response):
            await run_shielded(self._close_unseen(lost), self.limits.close_timeout_seconds)

    async def _close_unseen(self, response: Response) -> None:
        try:
            await response.aclose()
        except Exception as exc:
            logger.info("closing a response that nobody was there to get failed", exc_info=exc)

    async def listen_for_disconnect(self, receive: Receive) -> None:
        """Return, or raise ``ClientDisconnectedError``, when the client has left, and not before.

        Called beside an endpoint that waits. After the body, ``receive`` gives ``http.disconnect`` alone.
        """
        if isinstance(receive, Body):
            await receive.listen()
            return
        while (await receive()).get("type") != "http.disconnect":
            await checkpoint()

    async def response_ready(self, request: Any, response: Response) -> None:
        """The endpoint is done and nothing was sent yet. Does nothing; for frameworks."""

    def handle_http_error(self, request: Any, exc: HTTPError) -> Response:
        """The response to an ``HTTPError``; ``request`` is ``None`` if its head was refused."""
        if exc.status_code == 304:
            # It has no body, and a length would be that of the 200 it stands for (RFC 9110 section 8.6).
            return Response(b"", 304, exc.headers)
        return Response(exc.detail, exc.status_code, exc.headers, "text/plain; charset=utf-8")

    def handle_uncaught_exception(self, request: Any, exc: Exception) -> Response:
        """The response to any other exception, which was logged already; ``request`` may be ``None``."""
        text = "".join(traceback.format_exception(exc)) if self.debug else "Internal Server Error"
        return Response(text.encode(errors="backslashreplace"), 500, content_type="text/plain; charset=utf-8")

    async def send_response(self, response: Response, send: Send) -> None:
        """Send start, body messages of at most ``chunk_size`` bytes, and end.

        Args:
            response: What the endpoint returned.
            send: Takes the messages of the response and checks them.
        """
        writer = send if isinstance(send, Writer) else Writer(send, is_head.get(), self.chunk_size)
        await self._sending(response, writer)

    def _sending(self, response: Response, writer: Writer) -> Coroutine[Any, Any, None]:
        extras = response._extras
        # Set in any case: another response may have come this far, and no further.
        writer.trailers = extras.trailers if extras is not None and TRAILERS in writer.extensions else None
        if extras is not None and extras.debug_info is not None:
            return self._send_with_debug(response, writer, extras.debug_info)
        return self._send_plain(response, writer)

    async def _send_with_debug(self, response: Response, writer: Writer, info: Mapping[str, Any]) -> None:
        await writer.send_debug(info)
        await self._send_plain(response, writer)

    def _send_plain(self, response: Response, writer: Writer) -> Coroutine[Any, Any, None]:
        headers = response.raw_headers()
        if isinstance(response, StreamingResponse):
            # Trailers are mostly made of what passed through the iterator.
            can_leave_it = writer.trailers is None
            if response.path is not None and can_leave_it and PATHSEND in writer.extensions:
                return writer.send_path(response.status_code, headers, response.path)
            if response.segments is not None and can_leave_it and ZEROCOPYSEND in writer.extensions:
                return writer.send_segments(response.status_code, headers, response.file, response.segments)
            if isinstance(writer, Exchange):
                return writer.stream(
                    response,
                    headers,
                    self.threads,
                    self.chunk_bytes,
                    cuts_all=self._cuts_itself,
                    close_seconds=self.limits.close_timeout_seconds,
                )
            parts = response.parts(self.threads)
            return writer.send_stream(
                response.status_code, headers, parts, self.chunk_bytes, cuts_all=self._cuts_itself
            )
        body = response.body
        if writer.trailers is not None:
            return writer.send_trailed(response.status_code, headers, body, self.chunk_bytes)
        chunks = self.chunk_bytes if len(body) > self.chunk_size or self._cuts_itself else None
        return writer.send_whole(response.status_code, headers, body, chunks)

    def chunk_bytes(self, data: bytes) -> Iterable[tuple[bytes, bool]]:
        """Cut ``data`` into (chunk, is_last) of at most ``chunk_size``; empty data gives one ``(b"", True)``."""
        return slice_bytes(data, self.chunk_size)

    async def client_left(self, request: Any, phase: Literal["body", "handler", "response"]) -> None:
        """The client left before the response was complete. Called once, shielded, before ``request_finished()``.

        Args:
            request: The request, ``None`` if the client left before there was one.
            phase: What was under way: the body being read, the endpoint, or the response being sent.

        Does nothing; for frameworks.
        """

    async def request_finished(self, request: Any, response: Response | None) -> None:
        """The request is over. Called once on every exit, shielded, while the body is still open.

        Args:
            request: The request, ``None`` if its head was refused.
            response: The response, ``None`` if there was none.

        Does nothing; for frameworks.
        """
