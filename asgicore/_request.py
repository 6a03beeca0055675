"""The request, as the endpoint sees it: its head, and what comes by its channel.

Source: ASGI HTTP specification 2.5, "HTTP Connection Scope".
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from anyio import Lock
from multidict import MultiDictProxy

from ._body import Body
from ._channel import find_channel
from ._extensions import encode_links
from ._request_head import RequestHead
from ._writer import Writer
from .errors import MalformedBodyError, RequestError
from .limits import DEFAULT_LIMITS, Limits
from .types import Receive, Scope, Send

if TYPE_CHECKING:
    from tempfile import SpooledTemporaryFile

    from ._parts import Part, SyncPart
    from ._uploads import UploadFile

__all__ = ["Request"]


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


# One decoder for all; NaN and the infinities are no JSON (RFC 8259 section 6).
_decode_json: Final = json.JSONDecoder(parse_constant=_refuse_constant).decode


def _parse_json(body: bytes, loads: Callable[[str], Any]) -> Any:
    try:
        return loads(body.decode("utf-8-sig" if body[:1] == b"\xef" else "utf-8"))
    except (ValueError, RecursionError) as exc:
        # The message of a JSONDecodeError names a position and nothing of the body.
        reason = str(exc) if isinstance(exc, json.JSONDecodeError) else "no JSON that can be read"
        raise MalformedBodyError("body", reason) from exc


def _hinter(scope: Scope, receive: Receive, writer: Writer) -> Callable[[Iterable[str]], Awaitable[bool]] | None:
    """What sends early hints, as long as no response of ours was sent on that channel."""
    return None if find_channel(scope, receive).is_answered else writer.send_early_hints


class Request(RequestHead):
    """One HTTP request.

    Building one never fails, however odd the scope. An accessor that needs text raises
    ``asgicore.MalformedRequestError`` (400), naming the field, where there is none.

    Args:
        scope: The connection scope; not changed. Where ``receive`` is the server's channel, the first use of the body
            is noted there, so that another request on the same channel does not wait for what is gone.
        receive: The server's channel, or the ``Body`` that owns it already.
        send: The server's channel for the response, for ``send_early_hints()``; not needed where a ``Body`` is given.
            Hints sent after a start that went out by other means than a ``Response`` are the caller's mistake.
        limits: Bounds of what the accessors parse and of the body; those of the ``Body`` if it is one.
    """

    __slots__ = ("_form", "_forming")

    def __init__(
        self, scope: Scope, receive: Receive | Body, send: Send | None = None, *, limits: Limits = DEFAULT_LIMITS
    ) -> None:
        self.scope = scope
        if isinstance(receive, Body):
            self._body = receive
        else:
            self._body = Body(receive, limits)
            self._body.lone_scope = scope
            if send is not None:
                writer = Writer(send)
                writer.extensions = self.extensions
                self._body.find_hinter = partial(_hinter, scope, receive, writer)
        self._raw = None
        self._headers = None
        self._query_params = None
        self._cookies = None
        self._content_type = None
        self._state = None
        # The form, or why there is none: what cannot be read twice is to fail twice in the same way.
        self._form: MultiDictProxy[str | UploadFile] | RequestError | None = None
        self._forming: Lock | None = None

    # --- body ----------------------------------------------------------------------------------------

    @property
    def is_disconnected(self) -> bool:
        """Whether the client is known to have left. Costs nothing; changes while the endpoint waits for something."""
        return self._body.is_disconnected

    async def wait_disconnected(self) -> None:
        """Return when the client has left. Of use with ``on_disconnect="notify"``: else the endpoint is cancelled."""
        await self._body.wait_disconnected()

    async def body(self) -> bytes:
        """Return the whole body, ``b""`` if there is none.

        Raises:
            BodyConsumedError: In stream mode, if the body was used before.
            RequestError: It is too large (413), too slow (408) or not as long as declared (400).
            ClientDisconnectedError: The client left before the end.
        """
        return await self._body.read()

    def stream(self) -> AsyncIterator[bytes]:
        """Return an asynchronous iterator over the body; no part is empty.

        Raises:
            BodyConsumedError: At once, in stream mode, if the body was used before.

        The iterator raises as ``body()`` does.
        """
        return self._body.stream()

    async def file(self) -> SpooledTemporaryFile[bytes]:
        """Return the body as a binary file at position 0: in memory if small, else on disk.

        It is closed with the request.
        A large file is read from the disk: in an ``async`` function, read it in a worker thread, or use ``stream()``.

        Raises:
            BodyConsumedError: In stream mode, if the body was used before; or the request is over.
            RequestError: As ``body()``.
            ClientDisconnectedError: As ``body()``.
        """
        return await self._body.file()

    async def json(self, *, loads: Callable[[str], Any] = _decode_json) -> Any:
        """Return the body parsed as JSON (RFC 8259: UTF-8).

        Args:
            loads: Replaces the standard library's parser; raises ``ValueError`` for what is no JSON.

        Raises:
            MalformedBodyError: It is no JSON, or nested too deeply.
            BodyConsumedError: As ``body()``.
            RequestError: As ``body()``.
            ClientDisconnectedError: As ``body()``.
        """
        # Without a call where the body is kept and here, as it mostly is.
        body = self._body.data if self._body.is_kept else None
        if body is None:
            body = await self._body.read()
        return _parse_json(body, loads)

    async def form(self) -> MultiDictProxy[str | UploadFile]:
        """Return the fields of a form, urlencoded or multipart, every repeat in order: text, or ``UploadFile``.

        Later calls return the same object. Multipart forms need the extra ``forms``.
        Large files go to a temporary file, which is closed with the request.

        Raises:
            UnsupportedMediaTypeError: The body is of another media type.
            MalformedBodyError: The form is cut short or malformed, or has too many fields, files or header fields.
            BodyTooLargeError: A field, or all of them together, is too large.
            MalformedRequestError: The content type of a multipart form has no boundary, or none that can be.
            MissingExtraError: The form is multipart, and the extra ``forms`` is not installed.
            BodyConsumedError: As ``body()``.
            RequestError: As ``body()``.
            ClientDisconnectedError: As ``body()``.
        """
        if self._form is None:
            from ._form import read_form

            if self._forming is None:
                self._forming = Lock(fast_acquire=True)
            # Two tasks may be the first to ask.
            async with self._forming:
                if self._form is None:
                    try:
                        self._form = await read_form(self._body, *self._parsed_content_type())
                    except RequestError as exc:
                        self._form = exc
        return self._given_form()

    def _given_form(self) -> MultiDictProxy[str | UploadFile]:
        form = self._form
        assert form is not None
        if isinstance(form, RequestError):
            raise form
        return form

    def multipart(self) -> AsyncIterator[Part]:
        """Return an asynchronous iterator over the parts of a multipart form, as they come; nothing is kept.

        ::

            async for part in request.multipart():
                async for piece in part.stream(): ...

        What is not read of a part is skipped when the next one is asked for.

        Raises:
            UnsupportedMediaTypeError: The body is of another media type.
            MalformedRequestError: As ``form()``.
            MissingExtraError: As ``form()``.
            BodyConsumedError: At once, in stream mode, if the body was used before.

        The iterator raises as ``form()`` does. There are at most ``Limits.max_form_fields`` and
        ``Limits.max_form_files`` parts.
        """
        from ._form import open_parts

        return open_parts(self._body, *self._parsed_content_type())

    async def send_early_hints(self, *links: str) -> bool:
        """Tell the client what to fetch while the response is being made: a 103 with ``link`` fields (RFC 8297).

        ::

            await request.send_early_hints("</style.css>; rel=preload; as=style")

        Args:
            links: Values of ``link`` fields (RFC 8288).

        Returns:
            Whether it was sent: ``False`` if there are no links, the server does not offer it, or the response was
            started.

        Raises:
            InvalidHeaderError: A link must not leave.
            ClientDisconnectedError: The client left.
        """
        hinter = None if self._body.find_hinter is None else self._body.find_hinter()
        if hinter is None:
            encode_links(links)  # what is wrong is wrong under every server
            return False
        return await hinter(links)

    async def aclose(self) -> None:
        """Close the files of body and form. A ``Handler`` does it; for requests that were built without one."""
        await self._body.aclose()

    # --- body, in a synchronous endpoint -------------------------------------------------------------

    def body_nowait(self) -> bytes:
        """As ``body()``, in a synchronous endpoint.

        Raises:
            BodyConsumedError: The body is not here, as in an endpoint of a ``Handler`` with ``body="stream"``; or the
                request is over.
        """
        return self._body.read_nowait()

    def stream_nowait(self) -> Iterator[bytes]:
        """As ``stream()``, in a synchronous endpoint; reads the disk if the body is large.

        Raises:
            BodyConsumedError: As ``body_nowait()``.
        """
        return self._body.stream_nowait()

    def file_nowait(self) -> SpooledTemporaryFile[bytes]:
        """As ``file()``, in a synchronous endpoint.

        Raises:
            BodyConsumedError: As ``body_nowait()``.
        """
        return self._body.file_nowait()

    def json_nowait(self, *, loads: Callable[[str], Any] = _decode_json) -> Any:
        """As ``json()``, in a synchronous endpoint.

        Raises:
            MalformedBodyError: As ``json()``.
            BodyConsumedError: As ``body_nowait()``.
        """
        return _parse_json(self._body.read_nowait(), loads)

    def form_nowait(self) -> MultiDictProxy[str | UploadFile]:
        """As ``form()``, in a synchronous endpoint.

        Raises:
            BodyConsumedError: As ``body_nowait()``.
            RequestError: As ``form()``.
        """
        if self._form is None:
            from ._form import read_form_nowait

            self._form = read_form_nowait(self._body, *self._parsed_content_type())
        return self._given_form()

    def multipart_nowait(self) -> Iterator[SyncPart]:
        """As ``multipart()``, in a synchronous endpoint.

        Raises:
            BodyConsumedError: As ``body_nowait()``.
            RequestError: As ``multipart()``.
        """
        from ._form import open_parts_nowait

        return open_parts_nowait(self._body, *self._parsed_content_type())
