# pyright: basic
# Django has no types of its own.
"""Django's responses as the engine sends them.

::

    HttpResponse                      Answer           one body, chunked
    FileResponse, a regular file      StreamAnswer     the path, or large blocks read in file threads
    StreamingHttpResponse, async      StreamAnswer     the view's own iterator
    StreamingHttpResponse, sync       StreamAnswer     the pump, in the thread of the request
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from functools import lru_cache, partial
from typing import Any, Final, cast

from django.http import FileResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase, ResponseHeaders

from .. import _grammar
from .._files import FileParts, path_of, regular_file_status
from .._headers import HOP_BY_HOP, find
from .._pump import Pump, iterate
from .._response import Response
from .._streaming_response import StreamingResponse
from .._threads import SHARED, Threads
from ..errors import InvalidHeaderError, is_status
from ..types import RawHeaders
from ._call import Call
from ._hop import Hop

__all__ = ["Answer", "StreamAnswer", "answer", "answer_in_lower_case"]


@lru_cache(maxsize=512)
def _encode_name(name: str | bytes) -> bytes | None:
    """A field name as it was given, checked; ``None`` for fields that are the server's business."""
    text = name if isinstance(name, str) else name.decode("latin-1")
    if not _grammar.TOKEN.fullmatch(text):
        raise InvalidHeaderError(text, "the name may hold only letters, digits and !#$%&'*+-.^_`|~")
    return None if text.lower() in HOP_BY_HOP else text.encode("ascii")


def _encode_value(name: str | bytes, value: str | bytes) -> bytes:
    if isinstance(value, str):
        if value.isascii() and value.isprintable() and value[:1] != " " and value[-1:] != " ":
            return value.encode("ascii")
        raw = value.encode("latin-1")
    else:
        raw = bytes(value)
    raw = raw.strip(b" \t")
    if _grammar.NOT_FIELD_VALUE_BYTES.search(raw):
        raise InvalidHeaderError(name, "the value holds a control character")
    return raw


def _encode(response: Any) -> RawHeaders:
    """The header fields and cookies of a response, with their names as Django writes them."""
    fields: RawHeaders = []
    headers = response.headers
    # The fields of a mapping that is all Python take 0.5 us each by its items().
    own = type(headers) is ResponseHeaders and type(response).items is HttpResponseBase.items
    for name, value in headers._store.values() if own else response.items():
        encoded = _encode_name(name)
        if encoded is not None:
            fields.append((encoded, _encode_value(name, value)))
    if response.cookies:
        fields.extend(
            (b"Set-Cookie", _encode_value("Set-Cookie", cookie.OutputString())) for cookie in response.cookies.values()
        )
    return fields


class _Fields:
    """The fields of a Django response, for both kinds of it."""

    __slots__ = ()

    django: Any
    _body: bytes
    _check_length: Callable[[RawHeaders], None]

    def raw_headers(self) -> RawHeaders:
        """As ``asgicore.Response.raw_headers()``, with the names as Django writes them."""
        response = self.django
        fields = _encode(response)
        status = response.status_code
        if not is_status(status):
            raise ValueError(f"the status of a response is an integer from 100 to 599, not {status!r}")
        if status == 204 or status < 200:
            # RFC 9110 section 8.6: these have none.
            return [field for field in fields if field[0].lower() != b"content-length"]
        if find(fields, b"content-length") is None:
            # RFC 9110 section 8.6: on 304 that of the representation, which is not known here.
            if self._body or not (response.streaming or status == 304):
                fields.append((b"Content-Length", b"%d" % len(self._body)))
        elif not response.streaming:
            self._check_length(fields)
        return fields


class Answer(_Fields, Response):
    """A response whose body is there."""

    __slots__ = ("django",)

    django: Any
    """Django's response."""


class StreamAnswer(_Fields, StreamingResponse):
    """A response whose body comes part by part.

    Its iterator is closed with it; Django's response is closed by the handler.
    """

    __slots__ = ("django",)

    django: Any
    """Django's response."""

    def parts(self, threads: Threads = SHARED) -> AsyncIterator[bytes | str]:
        """As ``asgicore.StreamingResponse.parts()``; what is synchronous runs in the thread of the request."""
        content = self._content
        if content is not None and not isinstance(content, AsyncIterable):
            self._content = _Synchronous(threads, partial(iterate, content))
        return super().parts(threads)

    async def aclose(self) -> None:
        """Close an iterator that has begun; what never began is closed with Django's response."""
        if self._iterator is None and not isinstance(self._content, AsyncIterable):
            self._content = None
        await super().aclose()


class _InLowerCase(_Fields):
    """Names as ASGI wants them."""

    __slots__ = ()

    def raw_headers(self) -> RawHeaders:
        """As ``asgicore.Response.raw_headers()``."""
        return [(name.lower(), value) for name, value in super().raw_headers()]


class _LowerAnswer(_InLowerCase, Answer):
    __slots__ = ()


class _LowerStreamAnswer(_InLowerCase, StreamAnswer):
    __slots__ = ()


def answer(
    response: Any, whole: type[Answer] = Answer, streamed: type[StreamAnswer] = StreamAnswer
) -> Answer | StreamAnswer:
    """What the engine sends for a Django response."""
    made: Answer | StreamAnswer
    if response.streaming:
        content, path = _content(response)
        made = streamed.prepared(content, response.status_code, [])
        made.path = path
    else:
        made = whole.prepared(response.content, response.status_code, [])
    made.django = response
    return made


def answer_in_lower_case(response: Any) -> Answer | StreamAnswer:
    """The same, with the names of header fields in lower case."""
    return answer(response, _LowerAnswer, _LowerStreamAnswer)


def _content(response: Any) -> tuple[AsyncIterable[Any] | Iterable[Any], str | None]:
    """The parts of a streaming response, and the path of the file that they are the whole of."""
    kind: Any = type(response)
    if not isinstance(response, StreamingHttpResponse):
        return response, None
    if kind.__aiter__ is not StreamingHttpResponse.__aiter__:
        return response, None
    if kind.streaming_content is not StreamingHttpResponse.streaming_content:
        return response.streaming_content, None
    if response.is_async:
        is_plain = kind.make_bytes is HttpResponseBase.make_bytes
        return _Parts(response._iterator, response.make_bytes, is_plain), None
    file = response.file_to_stream if isinstance(response, FileResponse) else None
    if file is not None:
        status = regular_file_status(file)
        if status is not None:
            return _file(response, file, status)
    return response.streaming_content, None


def _file(response: Any, file: Any, status: Any) -> tuple[FileParts, str | None]:
    # Django declares what is left of the file; a view may have said otherwise.
    declared = response.get("Content-Length")
    rest = max(status.st_size - file.tell(), 0)
    size = int(declared) if declared is not None and str(declared).isdecimal() else rest
    return FileParts(file, size), path_of(file, status) if size == rest == status.st_size else None


# As deep as a queryset's asynchronous iterator is nested, and one more.
_TURNS: Final = 5


class _Parts:
    """What a view's asynchronous iterator gives, as bytes; itself its iterator."""

    __slots__ = ("_is_plain", "_iterator", "_make_bytes", "_next")

    def __init__(self, iterator: AsyncIterator[Any], make_bytes: Callable[[Any], bytes], is_plain: bool) -> None:
        self._iterator = iterator
        self._next = iterator.__anext__
        self._make_bytes = make_bytes
        # Django's own gives bytes back as they are.
        self._is_plain = is_plain

    def __aiter__(self) -> _Parts:
        return self

    async def __anext__(self) -> bytes:
        part: Any = await self._next()
        return part if self._is_plain and type(part) is bytes else self._make_bytes(part)

    async def aclose(self) -> None:
        """Close the view's own iterator, which Django leaves to the collector."""
        close = getattr(self._iterator, "aclose", None)
        if close is not None:
            await close()
        # Generators within it, such as that of a queryset, are left to asyncio, which closes them some turns later:
        # that has to be before their database connection is closed, or somebody else's.
        for _ in range(_TURNS):
            await asyncio.sleep(0)


class _Synchronous(Pump[None]):
    """A pump whose producer runs where the request's synchronous code runs: in its thread."""

    __slots__ = ()

    def _start(self, max_waiting: int | None) -> Call[None]:
        produce, self._produce = cast("Callable[[Any], None]", self._produce), None
        call: Call[None] = Call(Hop(produce)(self))
        call.task.add_done_callback(lambda _: self.notify())
        self._job = call
        return call

    async def aclose(self) -> None:
        """As ``Pump.aclose()``; what never began is closed with Django's response."""
        if self._job is None:
            self.stop_thread()
        else:
            await super().aclose()
