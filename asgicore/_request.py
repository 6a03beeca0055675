"""The request, as the endpoint sees it: nothing is parsed until asked for, then kept.

Source: ASGI HTTP specification 2.5, "HTTP Connection Scope".
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, MutableMapping
from datetime import datetime
from functools import partial
from tempfile import SpooledTemporaryFile
from typing import Any, Final, cast

from anyio import Lock
from multidict import CIMultiDictProxy, MultiDictProxy

from ._accept import best_encoding, best_language, best_type
from ._body import Body
from ._channel import find_channel
from ._conditions import check_etag, evaluate
from ._cookies import parse_cookies
from ._dates import to_timestamp
from ._extensions import TLS, encode_links, find_tls
from ._form import open_parts, open_parts_nowait, read_form, read_form_nowait
from ._headers import (
    NO_PAIR,
    decode_request_headers,
    find,
    find_all,
    pairs,
    parse_content_length,
    parse_content_type,
)
from ._params import parse_query
from ._parts import Part, SyncPart
from ._target import address, build_url, check_host, host_from_server, split_root_path
from ._uploads import UploadFile
from ._writer import Writer
from .errors import HTTPError, MalformedBodyError, MalformedRequestError, RequestError
from .limits import DEFAULT_LIMITS, Limits
from .types import HeadersInput, RawHeaders, Receive, Scope, Send

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


def _as_list(fields: Any) -> list[Any]:
    # The list of the scope itself, where it is one: nobody here changes it.
    return fields if fields.__class__ is list else [*fields]


class Request:
    """One HTTP request.

    Building one never fails, however odd the scope. An accessor that needs text raises
    :class:`asgicore.MalformedRequestError` (400), naming the field, where there is none.

    Args:
        scope: The connection scope; not changed. Where ``receive`` is the server's channel, the first use of the body
            is noted there, so that another request on the same channel does not wait for what is gone.
        receive: The server's channel, or the :class:`Body` that owns it already.
        send: The server's channel for the response, for :meth:`send_early_hints`; not needed where a ``Body`` is given.
            Hints sent after a start that went out by other means than a :class:`Response` are the caller's mistake.
        limits: Bounds of what the accessors parse and of the body; those of the ``Body`` if it is one.
    """

    __slots__ = (
        "_body",
        "_content_type",
        "_cookies",
        "_form",
        "_forming",
        "_headers",
        "_query_params",
        "_raw",
        "_state",
        "scope",
    )

    scope: Scope

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
        self._raw: list[Any] | None = None
        self._headers: CIMultiDictProxy[str] | None = None
        self._query_params: MultiDictProxy[str] | None = None
        self._cookies: dict[str, str] | None = None
        self._content_type: tuple[str, dict[str, str]] | None = None
        self._state: MutableMapping[str, Any] | None = None
        # The form, or why there is none: what cannot be read twice is to fail twice in the same way.
        self._form: MultiDictProxy[str | UploadFile] | RequestError | None = None
        self._forming: Lock | None = None

    # --- the request line ----------------------------------------------------------------------------

    @property
    def method(self) -> str:
        """The method as the server gives it (upper case by the specification), ``"GET"`` if the server gives none."""
        return self._text("method", "GET")

    @property
    def path(self) -> str:
        """The whole path, decoded, the mount point included."""
        return self._text("path", "")

    @property
    def raw_path(self) -> bytes | None:
        """The path as it was sent, percent-encoded; ``None`` if the server does not give it."""
        value = self.scope.get("raw_path")
        return value if isinstance(value, bytes) else None

    @property
    def root_path(self) -> str:
        """Where the application is mounted, without a trailing slash; ``""`` at the top."""
        return split_root_path("", self._text("root_path", ""))[0]

    @property
    def path_info(self) -> str:
        """The path below :attr:`root_path`, which is removed on whole segments only; the whole path outside of it."""
        return split_root_path(self.path, self._text("root_path", ""))[1]

    @property
    def scheme(self) -> str:
        """``"http"`` or ``"https"``."""
        return self._text("scheme", "") or "http"

    @property
    def http_version(self) -> str:
        """``"1.0"``, ``"1.1"``, ``"2"`` or ``"3"``, as the server gives it."""
        return self._text("http_version", "") or "1.1"

    @property
    def query_string(self) -> bytes:
        """What follows ``?``, percent-encoded, ``b""`` if nothing does."""
        value: object = self.scope.get("query_string")
        return value if isinstance(value, bytes) else b""

    @property
    def query_params(self) -> MultiDictProxy[str]:
        """The fields of the query string, every repeat in order.

        Raises:
            MalformedRequestError: Raw bytes that are no UTF-8, or more than ``Limits.max_query_params`` fields.
        """
        if self._query_params is None:
            self._query_params = parse_query(self.query_string, self._body.limits.max_query_params)
        return self._query_params

    @property
    def url(self) -> str:
        """The URL of the request; relative if neither ``host`` nor ``server`` is known.

        Raises:
            MalformedRequestError: ``host``, path or query cannot be part of a URL.
        """
        return build_url(self.scheme, self.host, self.path, self.raw_path, self.query_string)

    def _text(self, key: str, default: str) -> str:
        value = self.scope.get(key)
        if isinstance(value, str):
            return value
        if value is None:
            return default
        raise MalformedRequestError(key, f"the server gave {type(value).__name__} in place of text")

    # --- header fields -------------------------------------------------------------------------------

    @property
    def raw_headers(self) -> RawHeaders:
        """The header fields as they came: pairs of bytes, names in lower case."""
        try:
            raw = [(name.lower(), value) for name, value in self._fields()]
            if all(isinstance(name, bytes) and isinstance(value, bytes) for name, value in raw):
                return raw
            raise TypeError
        except (AttributeError, TypeError, ValueError):
            raise MalformedRequestError("headers", NO_PAIR) from None

    def _fields(self) -> list[Any]:
        raw = self._raw
        if raw is None:
            fields: Any = self.scope.get("headers")
            try:
                raw = _as_list(fields or ())
            except TypeError:
                raise MalformedRequestError("headers", NO_PAIR) from None
            self._raw = raw
        return raw

    def _field(self, name: bytes) -> bytes | None:
        try:
            value = find(self._fields(), name)
            if value is None or isinstance(value, bytes):
                return value
            raise TypeError
        except (AttributeError, TypeError, ValueError):
            raise MalformedRequestError("headers", NO_PAIR) from None

    @property
    def headers(self) -> CIMultiDictProxy[str]:
        """The header fields as text (latin-1), case-insensitive, every repeat in order."""
        if self._headers is None:
            self._headers = decode_request_headers(self._fields())
        return self._headers

    @property
    def cookies(self) -> Mapping[str, str]:
        """The cookies by name, from all ``cookie`` fields; of repeats the last.

        Raises:
            HeadersTooLargeError: More than ``Limits.max_cookies`` or ``Limits.max_cookie_bytes``.
        """
        if self._cookies is None:
            try:
                values = find_all(self._fields(), b"cookie")
                self._cookies = parse_cookies(values, self._body.limits) if values else {}
            except (AttributeError, TypeError, ValueError):
                raise MalformedRequestError("headers", NO_PAIR) from None
        return self._cookies

    @property
    def content_type(self) -> str:
        """The media type of the body in lower case and without parameters, ``""`` if none is given."""
        return self._parsed_content_type()[0]

    @property
    def charset(self) -> str | None:
        """The ``charset`` parameter of the content type, as given."""
        return self._parsed_content_type()[1].get("charset")

    def _parsed_content_type(self) -> tuple[str, dict[str, str]]:
        if self._content_type is None:
            self._content_type = parse_content_type(self._field(b"content-type") or b"")
        return self._content_type

    @property
    def content_length(self) -> int | None:
        """The declared length of the body in bytes, ``None`` if none is declared.

        Raises:
            MalformedRequestError: It is no number of bytes.
        """
        value = self._field(b"content-length")
        return None if value is None else parse_content_length(value)

    @property
    def last_event_id(self) -> str | None:
        """The id of the last event that a client got which reconnects to a stream of events; ``None`` if it has none.

        Raises:
            MalformedRequestError: It is no UTF-8.

        Source: WHATWG HTML Living Standard, section 9.2.4.
        """
        value = self._field(b"last-event-id")
        try:
            return None if value is None else value.decode()
        except UnicodeDecodeError:
            raise MalformedRequestError("last-event-id", "no UTF-8") from None

    # --- negotiation ---------------------------------------------------------------------------------

    def preferred_type(self, *offers: str) -> str | None:
        """The media type that the client likes best (``accept``, RFC 9110 section 12.5.1).

        Args:
            offers: Media types, with parameters or without, the best first: of those that the client likes equally,
                the first is taken.

        Returns:
            One of the offers; ``None`` if the client takes none of them, which 406 answers.

        Raises:
            MalformedRequestError: The field is longer than 4096 bytes.
            ValueError: An offer is no media type.

        A request without the field takes anything. Malformed members count for nothing, nor does what follows the
        128th.
        """
        return best_type(self._members(b"accept"), offers)

    def accepts(self, media_type: str) -> bool:
        """Whether the client takes this media type; raises as :meth:`preferred_type`."""
        return self.preferred_type(media_type) is not None

    def preferred_encoding(self, *offers: str) -> str | None:
        """The content coding that the client likes best (``accept-encoding``, RFC 9110 section 12.5.3).

        Args:
            offers: Content codings such as ``"gzip"``, the best first.

        Returns:
            One of the offers; ``None`` if the content is better sent as it is.

        Raises:
            MalformedRequestError: The field is longer than 4096 bytes.
        """
        return best_encoding(self._members(b"accept-encoding"), offers)

    def preferred_language(self, *offers: str) -> str | None:
        """The language that the client likes best (``accept-language``, RFC 9110 section 12.5.4).

        Args:
            offers: Language tags such as ``"pt-BR"``, the best first.

        Returns:
            One of the offers; ``None`` if the client knows none of them, so that one's own default is best.

        Raises:
            MalformedRequestError: The field is longer than 4096 bytes.

        "pt" finds "pt-BR", and "de-CH" finds "de" (RFC 4647 sections 3.3.1 and 3.4).
        """
        return best_language(self._members(b"accept-language"), offers)

    def _members(self, name: bytes) -> bytes:
        """A field that is a list, its repeats joined."""
        try:
            return b",".join(find_all(self._fields(), name))
        except (AttributeError, TypeError, ValueError):
            raise MalformedRequestError("headers", NO_PAIR) from None

    # --- conditions ----------------------------------------------------------------------------------

    def check_preconditions(
        self,
        *,
        etag: str | None = None,
        last_modified: datetime | float | None = None,
        exists: bool = True,
        headers: HeadersInput | None = None,
    ) -> None:
        """Hold the preconditions against what is there now, before anything is changed (RFC 9110 section 13).

        ::

            request.check_preconditions(etag=note.etag)  # a PUT with If-Match of an older version: 412
            note.update(await request.json())

        Args:
            etag: The current tag, with its quotes; ``None`` if it has none.
            last_modified: When it changed last, a ``datetime`` (without a zone: UTC) or seconds since 1970.
            exists: Whether there is anything; ``If-None-Match: *`` asks for nothing to be there.
            headers: Further fields of the answer. Those that a 200 would have and caches go by belong on a 304, too:
                ``cache-control``, ``content-location``, ``expires``, ``vary``.

        Raises:
            HTTPError: 412, or 304 for a GET or HEAD whose client has it already.
            InvalidHeaderError: ``etag`` is no tag.
        """
        verdict = evaluate(
            self.method,
            self.raw_headers,
            None if etag is None else check_etag(etag),
            None if last_modified is None else to_timestamp(last_modified),
            exists=exists,
        )
        if verdict is not None:
            raise HTTPError(verdict, headers=[*pairs(headers), *(() if etag is None else (("etag", etag),))])

    # --- where it came from --------------------------------------------------------------------------

    @property
    def host(self) -> str:
        """Host and port as the client named them, else of the listening socket; ``""`` if neither is known.

        Raises:
            MalformedRequestError: The ``host`` field is no host.
        """
        value = self._field(b"host")
        return check_host(value) if value else host_from_server(self.server, self.scheme)

    @property
    def client(self) -> tuple[str, int | None] | None:
        """Address and port of the peer; ``None`` if the server does not know them."""
        return address(self.scope.get("client"))

    @property
    def server(self) -> tuple[str, int | None] | None:
        """Address and port of the listening socket; for a unix socket its path and ``None``."""
        return address(self.scope.get("server"))

    @property
    def state(self) -> MutableMapping[str, Any]:
        """What the lifespan has put there, and room for more: a copy for this request alone."""
        state = self._state
        if state is None:
            given: Any = self.scope.get("state")
            state = self._state = cast("MutableMapping[str, Any]", given) if isinstance(given, MutableMapping) else {}
        return state

    @property
    def extensions(self) -> Mapping[str, Any]:
        """The ASGI extensions that the server offers."""
        given: Any = self.scope.get("extensions")
        return cast("Mapping[str, Any]", given) if isinstance(given, Mapping) else {}

    @property
    def tls(self) -> TLS | None:
        """The TLS connection; ``None`` where there is none, or the server does not tell."""
        return find_tls(self.extensions)

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

        The iterator raises as :meth:`body` does.
        """
        return self._body.stream()

    async def file(self) -> SpooledTemporaryFile[bytes]:
        """Return the body as a binary file at position 0: in memory if small, else on disk.

        It is closed with the request.
        A large file is read from the disk: in an ``async`` function, read it in a worker thread, or use :meth:`stream`.

        Raises:
            BodyConsumedError: In stream mode, if the body was used before; or the request is over.
            RequestError: As :meth:`body`.
            ClientDisconnectedError: As :meth:`body`.
        """
        return await self._body.file()

    async def json(self, *, loads: Callable[[str], Any] = _decode_json) -> Any:
        """Return the body parsed as JSON (RFC 8259: UTF-8).

        Args:
            loads: Replaces the standard library's parser; raises ``ValueError`` for what is no JSON.

        Raises:
            MalformedBodyError: It is no JSON, or nested too deeply.
            BodyConsumedError: As :meth:`body`.
            RequestError: As :meth:`body`.
            ClientDisconnectedError: As :meth:`body`.
        """
        # Without a call where the body is kept and here, as it mostly is.
        body = self._body.data if self._body.is_kept else None
        if body is None:
            body = await self._body.read()
        return _parse_json(body, loads)

    async def form(self) -> MultiDictProxy[str | UploadFile]:
        """Return the fields of a form, urlencoded or multipart, every repeat in order: text, or :class:`UploadFile`.

        Later calls return the same object. Multipart forms need the extra ``forms``.
        Large files go to a temporary file, which is closed with the request.

        Raises:
            UnsupportedMediaTypeError: The body is of another media type.
            MalformedBodyError: The form is cut short or malformed, or has too many fields, files or header fields.
            BodyTooLargeError: A field, or all of them together, is too large.
            MalformedRequestError: The content type of a multipart form has no boundary, or none that can be.
            MissingExtraError: The form is multipart, and the extra ``forms`` is not installed.
            BodyConsumedError: As :meth:`body`.
            RequestError: As :meth:`body`.
            ClientDisconnectedError: As :meth:`body`.
        """
        if self._form is None:
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
            MalformedRequestError: As :meth:`form`.
            MissingExtraError: As :meth:`form`.
            BodyConsumedError: At once, in stream mode, if the body was used before.

        The iterator raises as :meth:`form` does. There are at most ``Limits.max_form_fields`` and
        ``Limits.max_form_files`` parts.
        """
        return open_parts(self._body, *self._parsed_content_type())

    async def aclose(self) -> None:
        """Close the files of body and form. A ``Handler`` does it; for requests that were built without one."""
        await self._body.aclose()

    # --- body, in a synchronous endpoint -------------------------------------------------------------

    def body_nowait(self) -> bytes:
        """As :meth:`body`, in a synchronous endpoint.

        Raises:
            BodyConsumedError: The body is not here, as in an endpoint of a ``Handler`` with ``body="stream"``; or the
                request is over.
        """
        return self._body.read_nowait()

    def stream_nowait(self) -> Iterator[bytes]:
        """As :meth:`stream`, in a synchronous endpoint; reads the disk if the body is large.

        Raises:
            BodyConsumedError: As :meth:`body_nowait`.
        """
        return self._body.stream_nowait()

    def file_nowait(self) -> SpooledTemporaryFile[bytes]:
        """As :meth:`file`, in a synchronous endpoint.

        Raises:
            BodyConsumedError: As :meth:`body_nowait`.
        """
        return self._body.file_nowait()

    def json_nowait(self, *, loads: Callable[[str], Any] = _decode_json) -> Any:
        """As :meth:`json`, in a synchronous endpoint.

        Raises:
            MalformedBodyError: As :meth:`json`.
            BodyConsumedError: As :meth:`body_nowait`.
        """
        return _parse_json(self._body.read_nowait(), loads)

    def form_nowait(self) -> MultiDictProxy[str | UploadFile]:
        """As :meth:`form`, in a synchronous endpoint.

        Raises:
            BodyConsumedError: As :meth:`body_nowait`.
            RequestError: As :meth:`form`.
        """
        if self._form is None:
            self._form = read_form_nowait(self._body, *self._parsed_content_type())
        return self._given_form()

    def multipart_nowait(self) -> Iterator[SyncPart]:
        """As :meth:`multipart`, in a synchronous endpoint.

        Raises:
            BodyConsumedError: As :meth:`body_nowait`.
            RequestError: As :meth:`multipart`.
        """
        return open_parts_nowait(self._body, *self._parsed_content_type())

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.scope.get('method')!r} {self.scope.get('path')!r}>"
