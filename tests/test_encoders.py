"""_encoders.py: the content codings, by every package that brings one."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from codings import MODULES, decode, new_decoder
from hypothesis import given
from hypothesis import strategies as st

from asgicore import _encoders
from asgicore._encoders import ENCODINGS, Codec, load_codec

INSTALLED = [(coding, module) for coding, modules in MODULES.items() for module in modules]


def load(coding: str, module: str) -> Codec:
    """The coding of one of the packages that bring it."""
    with pytest.MonkeyPatch.context() as patch:
        for name in {"compression.zstd", "zstandard", "backports.zstd", "brotli", "brotlicffi"} - {module}:
            patch.setitem(sys.modules, name, None)
        return load_codec(coding)


@pytest.fixture(params=INSTALLED, ids=lambda pair: "-".join(pair))
def pair(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.mark.parametrize("coding", [coding for coding, _ in INSTALLED])
@given(parts=st.lists(st.binary(max_size=300) | st.builds(bytes, st.integers(0, 100_000)), max_size=6), data=st.data())
def test_body_in_any_parts_is_the_same_when_decoded(coding: str, parts: list[bytes], data: st.DataObject) -> None:
    """At every level, with flushes or without."""
    for name, module in INSTALLED:
        if name == coding:
            codec = load(coding, module)
            level = data.draw(st.sampled_from([codec.levels[0], codec.level, codec.quick_level]))
            encoder = codec.build(level)
            encoded = b""
            for part in parts:
                encoded += encoder.encode(part)
                if data.draw(st.booleans()):
                    encoded += encoder.flush()
            assert decode(coding, encoded + encoder.finish()) == b"".join(parts)


def test_part_that_was_flushed_can_be_decoded(pair: tuple[str, str]) -> None:
    """Nothing of what was taken waits for what follows."""
    encoder = load(*pair).build(load(*pair).level)
    decoder = new_decoder(pair[0])
    for part in (b"a", b"one line\n", bytes(200_000), b"b"):
        assert decoder(encoder.encode(part) + encoder.flush()) == part
    assert decoder(encoder.finish()) == b""


def test_body_of_every_level_is_the_same_when_decoded(pair: tuple[str, str]) -> None:
    """The levels that are allowed are those that the package knows."""
    codec, body = load(*pair), b"text that is repeated " * 100
    for level in codec.levels:
        encoder = codec.build(level)
        encoded = encoder.encode(body) + encoder.finish()
        assert len(encoded) < len(body) / 4
        assert decode(pair[0], encoded) == body
    assert codec.level in codec.levels
    assert codec.quick_level in codec.levels


def test_body_of_the_same_bytes_is_encoded_to_the_same(pair: tuple[str, str]) -> None:
    """No time and no name is in it, so that a cache may compare."""
    codec, body = load(*pair), b"text" * 1000
    first, second = (encoder.encode(body) + encoder.finish() for encoder in map(codec.build, [codec.level] * 2))
    assert first == second


@pytest.mark.skipif("zstandard" not in MODULES["zstd"], reason="needs zstandard, which reads the heads of frames")
@pytest.mark.parametrize("module", MODULES["zstd"])
def test_window_of_zstd_is_one_that_browsers_take(module: str) -> None:
    """RFC 9659: at most 8 MiB; here half of one, at any level and size."""
    import zstandard

    codec = load("zstd", module)
    for level in (codec.level, codec.levels[-1]):
        encoder = codec.build(level)
        head = encoder.encode(bytes(2**20)) + encoder.flush()
        assert zstandard.get_frame_parameters(head).window_size <= 2**19


@pytest.mark.parametrize("module", MODULES["br"])
def test_window_of_brotli_is_as_small(module: str) -> None:
    """RFC 7932 section 9.1: the first bits 0101 are half a megabyte."""
    codec = load("br", module)
    for level in (codec.level, codec.levels[-1]):
        encoder = codec.build(level)
        assert (encoder.encode(bytes(2**20)) + encoder.flush())[0] & 0b1111 == 0b0101


@pytest.mark.parametrize("coding", ["br", "zstd"])
def test_coding_that_is_not_installed_names_the_extra(coding: str) -> None:
    """The error says what to install."""
    with pytest.raises(ImportError, match=r"asgicore\[compression\]"):
        load(coding, "none of them")


@pytest.mark.parametrize("coding", ["deflate", "identity", "GZIP", ""])
def test_coding_that_is_unknown_is_refused(coding: str) -> None:
    """The error names those that there are."""
    with pytest.raises(ValueError, match="'zstd', 'br', 'gzip'"):
        load_codec(coding)


def test_encodings_are_those_that_can_be_loaded() -> None:
    """The best first."""
    assert ENCODINGS == tuple(_encoders._LOADERS) == ("zstd", "br", "gzip")
