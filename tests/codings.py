"""Content codings from the other side: decoders, and which of the codings are installed here."""

from __future__ import annotations

import importlib.util
import zlib
from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest


def find_modules(*names: str) -> list[str]:
    """Those of the modules that are installed."""
    found = []
    for name in names:
        try:
            if importlib.util.find_spec(name):
                found.append(name)
        except ModuleNotFoundError:  # of the package that it is in
            continue
    return found


MODULES = {
    "gzip": ["zlib"],
    "br": find_modules("brotli", "brotlicffi"),
    "zstd": find_modules("compression.zstd", "zstandard", "backports.zstd"),
}
"""By coding, who brings it."""

CODINGS = [
    pytest.param(name, marks=pytest.mark.skipif(not found, reason=f"no package for {name} is installed"))
    for name, found in MODULES.items()
]


def new_decoder(coding: str) -> Callable[[bytes], bytes]:
    """What decodes a body part by part, by another way than it was encoded where there is one."""
    if coding == "gzip":
        return zlib.decompressobj(31).decompress
    module: Any = import_module(MODULES[coding][-1])
    if coding == "br":
        decoder: Any = module.Decompressor()

        def decompress(data: bytes) -> bytes:
            decoded: bytes = decoder.process(data)
            while more := decoder.process(b""):  # it gives 32 KiB at a time
                decoded += more
            return decoded

        return decompress
    if hasattr(module, "ZstdCompressionParameters"):
        by_zstandard: Callable[[bytes], bytes] = module.ZstdDecompressor().decompressobj().decompress
        return by_zstandard
    by_standard_library: Callable[[bytes], bytes] = module.ZstdDecompressor().decompress
    return by_standard_library


def decode(coding: str | None, data: bytes) -> bytes:
    """Decode a whole body; ``None``: it is as it was."""
    return data if coding is None else new_decoder(coding)(data)
