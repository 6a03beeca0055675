"""Compression of responses: which ones, by which coding, and what becomes of their fields.

Sources: RFC 9110 sections 8.4, 8.8.3, 9.3.2, 12.5.3, 12.5.5 and 15.4.5; RFC 9111 section 5.2.2.6 (no-transform).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from ._accept import best_encoding
from ._encoded import StreamEncoding, derive, encode_whole
from ._encoders import ENCODINGS, Codec, load_codec
from ._headers import find, find_all, list_headers
from ._response import Response
from ._streaming_response import StreamingResponse
from .errors import MalformedRequestError, RequestError
from .types import RawHeaders, Scope

__all__ = ["Compression", "is_compressible"]

# What is encoded on the loop: at the levels taken by default 0.3 (zstd) to 0.9 ms of work (gzip), at others 1.3, where
# the way to a thread and back takes 0.1. The levels that are slower still always take that way.
_LOOP_BYTES: Final = 65536

# Fields that tell of content which is encoded already, which is a part of something, or whose bytes were counted.
_FORBIDDING: Final = frozenset(
    (b"content-encoding", b"content-range", b"content-digest", b"repr-digest", b"digest", b"content-md5")
)

# Fields that are not true any more of encoded content.
_DROPPED: Final = (b"content-length", b"accept-ranges")

_EVENT_STREAM: Final = "text/event-stream"

_COMPRESSIBLE: Final = frozenset(
    "application/ecmascript application/graphql application/graphql-response+json application/javascript "
    "application/json application/json-seq application/jsonl application/manifest+json application/msgpack "
    "application/rtf application/sql application/toml application/vnd.ms-fontobject application/wasm "
    "application/x-javascript application/x-ndjson application/x-sh application/x-tar application/x-yaml "
    "application/xml application/xml-dtd application/yaml font/otf font/ttf image/bmp image/vnd.microsoft.icon "
    "image/x-icon model/gltf-binary model/obj model/stl".split()
)


def is_compressible(media_type: str) -> bool:
    """Whether content of this type gets smaller: text, and what is written as text; not what is compressed already.

    Args:
        media_type: In lower case, without parameters.
    """
    return (
        media_type in _COMPRESSIBLE
        or media_type.endswith(("+json", "+xml", "+yaml"))
        or (media_type.startswith("text/") and media_type != _EVENT_STREAM)
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Compression:
    """What ``Handler`` compresses responses by, where the client wants it.

    A secret beside text that a client chooses can be read from the length of the compressed page (BREACH).

    Args:
        encodings: ``"zstd"``, ``"br"`` and ``"gzip"``, the best first; if ``None``, those of them, in this order, that
            are installed. gzip is always there, the extra ``compression`` brings the others.
        minimum_bytes: What is shorter goes out as it is. 1,024: below it nothing is gained, for a packet takes 1,400.
        levels: The level of an encoding, if not 3 for zstd, 4 for br and 5 for gzip.
        content_types: The media types to compress, as a collection or as a function that is asked; if left out,
            ``is_compressible()`` is. ``text/event-stream`` is compressed if a collection names it.

    Raises:
        ImportError: An encoding that is named is not installed.
        ValueError: ``encodings`` or ``levels`` name another encoding, or a level is none; ``minimum_bytes`` is below 0.
    """

    encodings: Sequence[str] | None = None
    minimum_bytes: int = 1024
    levels: Mapping[str, int] = field(default_factory=dict[str, int])
    content_types: Collection[str] | Callable[[str], bool] = is_compressible
    _codecs: dict[str, tuple[Codec, int]] = field(init=False, repr=False)
    _offers: tuple[str, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.minimum_bytes < 0:
            raise ValueError(f"minimum_bytes takes a number of bytes, not {self.minimum_bytes!r}")
        if isinstance(self.encodings, str) or isinstance(self.content_types, str):
            raise TypeError("encodings and content_types take a list of names, not a single text")
        if unknown := set(self.levels).difference(ENCODINGS):
            raise ValueError(f"levels takes {', '.join(map(repr, ENCODINGS))}; not {unknown.pop()!r}")
        codecs = _installed() if self.encodings is None else {name: load_codec(name) for name in self.encodings}
        chosen: dict[str, tuple[Codec, int]] = {}
        for name, codec in codecs.items():
            level = self.levels.get(name, codec.level)
            if level not in codec.levels:
                raise ValueError(f"a level of {name} is {codec.levels[0]} to {codec.levels[-1]}, not {level!r}")
            chosen[name] = (codec, level)
        set_once = object.__setattr__
        set_once(self, "encodings", tuple(chosen))
        set_once(self, "levels", MappingProxyType({name: level for name, (_, level) in chosen.items()}))
        set_once(self, "_codecs", chosen)
        set_once(self, "_offers", tuple(chosen))

    def concerns(self, response: Response) -> bool:
        """Whether clients that want it get a response of this type compressed, if it is long enough.

        Raises:
            InvalidHeaderError: As ``Response.raw_headers()``.
        """
        return self._may_encode(response.raw_headers(), is_unknown_open=False)

    async def apply(self, scope: Scope, response: Response, given: Response | None = None) -> Response:
        """Compress a response, if the client, the response and its length allow it.

        Args:
            scope: Of the request.
            response: Fitted to the request: see ``Response.prepare()``.
            given: What it was before, if it is another one: a 304 does not tell the type of what it stands for.

        Returns:
            The response itself, or another one with its background work. One that streams closes the one it is made
            from; both stay as they are otherwise.

        Raises:
            InvalidHeaderError: As ``Response.raw_headers()``.
        """
        status, is_head = response.status_code, scope.get("method") == "HEAD"
        if status == 206:
            # RFC 9110 section 15.3.7: a part varies as the whole does.
            is_part = response._extras is not None and response._extras.is_compressible
            return derive(response, _with_vary(response.raw_headers())) if is_part else response
        is_stream = isinstance(response, StreamingResponse)
        if not (is_stream or is_head or status == 304) and len(response.body) < self.minimum_bytes:
            return response
        if status < 200 or status in (204, 205):
            return response
        raw = response.raw_headers()
        # A 304 says little of its content; the response that it stands for does.
        about = given.raw_headers() if status == 304 and given is not None else raw
        if not self._may_encode(about, is_unknown_open=status == 304):
            return response
        if status == 304:
            return derive(response, _revalidated(scope, raw))
        declared = find(raw, b"content-length")
        size = int(declared) if declared is not None else None if is_stream else len(response.body)
        if size is not None and size < self.minimum_bytes:
            return response
        varying = _with_vary(raw)
        encoding = self._negotiate(scope)
        if encoding is None:
            return derive(response, varying)
        codec, level = self._codecs[encoding]
        loop_bytes = _LOOP_BYTES if level <= codec.quick_level else 0
        fields = [_weak(one) for one in varying if one[0] not in _DROPPED]
        fields.append((b"content-encoding", encoding.encode()))
        if is_stream:
            return derive(response, fields, StreamEncoding(codec, level, loop_bytes, size))
        if is_head:
            return derive(response, fields, b"")
        body = await encode_whole(codec.build(level), response.body, loop_bytes)
        if len(body) >= len(response.body):
            return derive(response, varying)
        fields.append((b"content-length", b"%d" % len(body)))
        return derive(response, fields, body)

    def _may_encode(self, raw: RawHeaders, is_unknown_open: bool) -> bool:
        """Whether the fields allow it; without a type, ``is_unknown_open``."""
        media_type: str | None = None
        for name, value in raw:
            if name in _FORBIDDING or (name == b"cache-control" and b"no-transform" in value.lower()):
                return False
            if name == b"content-type":
                media_type = value.partition(b";")[0].strip().lower().decode("latin-1")
        if media_type is None:
            return is_unknown_open
        if callable(self.content_types):
            return media_type != _EVENT_STREAM and self.content_types(media_type)
        return media_type in self.content_types

    def _negotiate(self, scope: Scope) -> str | None:
        try:
            return best_encoding(_field_of(scope, b"accept-encoding"), self._offers)
        except MalformedRequestError:
            return None


def _field_of(scope: Scope, name: bytes) -> bytes:
    """A field of the request that is a list, its repeats joined; a response is no place to complain of the request."""
    try:
        return b",".join(find_all(list_headers(scope.get("headers")), name))
    except (AttributeError, RequestError, TypeError, ValueError):
        return b""


def _installed() -> dict[str, Codec]:
    codecs: dict[str, Codec] = {}
    for name in ENCODINGS:
        try:
            codecs[name] = load_codec(name)
        except ImportError:
            continue
    return codecs


# --- fields ----------------------------------------------------------------------------------------------


def _with_vary(raw: RawHeaders) -> RawHeaders:
    """The fields, and among them that the response depends on ``accept-encoding``."""
    members = [member.strip() for value in find_all(raw, b"vary") for member in value.split(b",")]
    if any(member.lower() in (b"accept-encoding", b"*") for member in members):
        return raw
    value = b", ".join([*filter(None, members), b"accept-encoding"])
    return [*(one for one in raw if one[0] != b"vary"), (b"vary", value)]


def _weak(one: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    """A field; if it is a strong ``etag``, a weak one: the bytes differ, what they say does not (RFC 9110 8.8.1)."""
    name, value = one
    return (name, b"W/" + value) if name == b"etag" and not value.startswith(b"W/") else one


def _revalidated(scope: Scope, raw: RawHeaders) -> RawHeaders:
    """The fields of a 304, with the ``etag`` of the response that the client has: a weak one, if it was compressed."""
    etag = find(raw, b"etag") or b""
    known = _field_of(scope, b"if-none-match")
    has_weak = known.count(b"W/" + etag)
    if has_weak and has_weak == known.count(etag):
        raw = [_weak(one) for one in raw]
    return _with_vary(raw)
