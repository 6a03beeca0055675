"""What the head of a request says: nothing is parsed until asked for, then kept.

Source: ASGI HTTP specification 2.5, "HTTP Connection Scope".
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from datetime import datetime
from typing import Any, cast

from multidict import CIMultiDictProxy, MultiDictProxy

from ._body import Body
from ._conditions import check_etag, evaluate
from ._cookies import parse_cookies
from ._dates import to_timestamp
from ._extensions import TLS, find_tls
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
from ._target import address, build_url, check_host, host_from_server, split_root_path
from .errors import HTTPError, MalformedRequestError
from .types import HeadersInput, RawHeaders, Scope

__all__ = ["RequestHead"]


def _as_list(fields: Any) -> list[Any]:
    # The list of the scope itself, where it is one: nobody here changes it.
    return fields if fields.__class__ is list else [*fields]


class RequestHead:
    """The connection scope of one request, read.

    An accessor that needs text raises ``asgicore.MalformedRequestError`` (400), naming the field, where there is
    none.
    """

    __slots__ = (
        "_body",
        "_content_type",
        "_cookies",
        "_headers",
        "_query_params",
        "_raw",
        "_state",
        "scope",
    )

    scope: Scope
    # Set by Request: a call less is 0.2 us for each request.
    _body: Body
    """Its limits bound what is parsed here, too."""
    _raw: list[Any] | None
    _headers: CIMultiDictProxy[str] | None
    _query_params: MultiDictProxy[str] | None
    _cookies: dict[str, str] | None
    _content_type: tuple[str, dict[str, str]] | None
    _state: MutableMapping[str, Any] | None

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
        """The path below ``root_path``, which is removed on whole segments only; the whole path outside of it."""
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
        from ._accept import best_type

        return best_type(self._members(b"accept"), offers)

    def accepts(self, media_type: str) -> bool:
        """Whether the client takes this media type; raises as ``preferred_type()``."""
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
        from ._accept import best_encoding

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
        from ._accept import best_language

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

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.scope.get('method')!r} {self.scope.get('path')!r}>"
