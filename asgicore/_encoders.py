"""Content codings: gzip of the standard library, brotli and zstd where a package brings them.

Sources: RFC 9110 section 8.4.1, RFC 1952 (gzip), RFC 7932 (brotli), RFC 8878 and RFC 9659 (zstd).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any, Final, NamedTuple

__all__ = ["ENCODINGS", "Codec", "Encoder", "load_codec"]

# How far back an encoder looks, as a power of two: half a megabyte. Ten thousand streams at once should fit into
# memory; and browsers refuse zstd that looks back further than 8 MiB (RFC 9659).
_WINDOW_BITS: Final = 19

# zlib's largest window, and 16 for the frame of gzip, without a time in it.
_GZIP_WINDOW_BITS: Final = 31


class Encoder(NamedTuple):
    """What encodes one body."""

    encode: Callable[[bytes], bytes]
    """Takes some of the body; gives what is ready, which may be nothing."""
    flush: Callable[[], bytes]
    """Gives what is needed to decode all that was taken so far."""
    finish: Callable[[], bytes]
    """Gives the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Codec:
    """One content coding, as some package has it."""

    build: Callable[[int], Encoder]
    """Makes an encoder of this level."""
    levels: range
    """The levels that there are."""
    level: int
    """The one to take: it encodes 64 KiB of JSON in less than a millisecond."""
    quick_level: int
    """The highest that encodes them in less than two; beyond it the time goes up tenfold."""


def _gzip() -> Codec:
    def build(level: int) -> Encoder:
        encoder = zlib.compressobj(level, zlib.DEFLATED, _GZIP_WINDOW_BITS)
        return Encoder(encoder.compress, partial(encoder.flush, zlib.Z_SYNC_FLUSH), encoder.flush)

    return Codec(build=build, levels=range(1, 10), level=5, quick_level=6)


def _brotli() -> Codec:
    brotli = _import_one_of("brotli", "brotlicffi")

    def build(level: int) -> Encoder:
        encoder = brotli.Compressor(quality=level, lgwin=_WINDOW_BITS)
        return Encoder(encoder.process, encoder.flush, encoder.finish)

    return Codec(build=build, levels=range(12), level=4, quick_level=6)


def _zstd() -> Codec:
    zstd = _import_one_of("compression.zstd", "zstandard", "backports.zstd")

    def build(level: int) -> Encoder:
        option = zstd.CompressionParameter
        encoder = zstd.ZstdCompressor(options={option.compression_level: level, option.window_log: _WINDOW_BITS})
        return Encoder(encoder.compress, partial(encoder.flush, encoder.FLUSH_BLOCK), encoder.flush)

    def build_zstandard(level: int) -> Encoder:
        parameters = zstd.ZstdCompressionParameters.from_level(level, window_log=_WINDOW_BITS)
        encoder = zstd.ZstdCompressor(compression_params=parameters).compressobj()
        return Encoder(encoder.compress, partial(encoder.flush, zstd.COMPRESSOBJ_FLUSH_BLOCK), encoder.flush)

    is_zstandard = hasattr(zstd, "ZstdCompressionParameters")
    return Codec(build=build_zstandard if is_zstandard else build, levels=range(1, 20), level=3, quick_level=9)


_LOADERS: Final = {"zstd": _zstd, "br": _brotli, "gzip": _gzip}

ENCODINGS: Final = tuple(_LOADERS)
"""The content codings there may be, the best first."""


def load_codec(encoding: str) -> Codec:
    """The content coding of this name.

    Raises:
        ImportError: No package for it is installed; the text names the extra.
        ValueError: There is none of this name here.
    """
    loader = _LOADERS.get(encoding)
    if loader is None:
        raise ValueError(f"encodings are {', '.join(map(repr, ENCODINGS))}; not {encoding!r}")
    return loader()


def _import_one_of(*names: str) -> Any:
    for name in names:
        try:
            return import_module(name)
        except ImportError:
            continue
    raise ImportError(f"none of {', '.join(names)} is installed; the extra asgicore[compression] brings one")
