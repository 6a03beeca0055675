"""_wsgi_input.py: ``wsgi.input`` over a body that is still coming."""

from __future__ import annotations

import gc
import io
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgicore import BodyTooLargeError, ClientDisconnectedError
from asgicore.wsgi_bridge._input import open_input


def giving(*parts: bytes | BaseException) -> Callable[[], bytes]:
    """A body of these parts; an exception among them is raised. After its end nobody may ask again."""
    given = iter(parts)

    def receive_part() -> bytes:
        part = next(given)
        if isinstance(part, BaseException):
            raise part
        return part

    return receive_part


# Short lines and long ones, and breaks within and between the parts.
bodies = st.lists(st.sampled_from([b"a", b"\n", b"bc\n", b"\r\n", b"d" * 100, b"e" * 70000, b"\n\nf"]), max_size=12)

calls = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.integers(-1, 200)),
        st.tuples(st.just("read"), st.sampled_from([65535, 65536, 65537, 10**6])),
        st.tuples(st.just("readline"), st.integers(-1, 200)),
        st.tuples(st.just("readlines"), st.integers(-1, 200)),
        st.tuples(st.sampled_from(["read", "readline", "readlines", "__next__"])),
    ),
    max_size=8,
)


def ask(file: Any, method: str, *arguments: int) -> Any:
    try:
        return getattr(file, method)(*arguments)
    except StopIteration:
        return "the end"


@given(parts=bodies, calls=calls)
def test_input_reads_as_a_file_does(parts: list[bytes], calls: list[tuple[Any, ...]]) -> None:
    """``read``, ``readline``, ``readlines`` and iteration give what they give on the whole body, in any order."""
    body = b"".join(parts)
    # Not a BytesIO alone: its readlines() stops at the hint, where that of every other file stops behind it.
    expected = io.BufferedReader(io.BytesIO(body))
    with open_input(giving(*parts, b"")) as file:
        for call in calls:
            assert ask(file, *call) == ask(expected, *call)
        assert file.read() == expected.read()
        # The end is an end, and nobody asks for what cannot come.
        assert (file.read(), file.read(5), file.readline(), list(file)) == (b"", b"", b"", [])


def test_input_reads_no_further_than_it_is_asked_for() -> None:
    """The client is held back by an application that does not read."""
    received: list[int] = []

    def parts() -> Iterator[bytes]:
        for number in range(10):
            received.append(number)
            yield b"a" * 65536

    with open_input(parts().__next__) as file:
        assert received == []
        assert file.read(65536) == b"a" * 65536
        assert received == [0]
        assert file.read(1) == b"a"
        assert file.read(65535) == b"a" * 65535
        assert received == [0, 1]
        assert file.read(10) == b"a" * 10
        assert received == [0, 1, 2]


@pytest.mark.parametrize(
    "read",
    [
        pytest.param(lambda file: file.read(), id="read()"),
        pytest.param(lambda file: file.read(10), id="read(10)"),
        pytest.param(lambda file: file.readline(), id="readline()"),
        pytest.param(lambda file: file.readline(100), id="readline(100)"),
        pytest.param(lambda file: file.readlines(), id="readlines()"),
        pytest.param(lambda file: list(file), id="iteration"),
        pytest.param(lambda file: file.readinto(bytearray(10)), id="readinto"),
    ],
)
def test_input_of_a_client_that_left_raises_and_never_ends(read: Callable[[Any], object]) -> None:
    """A body that was cut off is not taken for a whole one, however often it is asked for."""
    with open_input(giving(b"abcde", ClientDisconnectedError())) as file:
        for _ in range(3):
            with pytest.raises(ClientDisconnectedError):
                read(file)


def test_input_gives_what_came_before_the_client_left() -> None:
    """The part that is there can be read; then comes the error, which is an ``OSError``."""
    with open_input(giving(b"abcde\nfg", ClientDisconnectedError())) as file:
        assert file.readline() == b"abcde\n"
        for _ in range(2):
            with pytest.raises(OSError, match="disconnected"):
                file.readline()


def test_input_raises_what_the_body_raised() -> None:
    """A body that is too large is refused with the same error by every read."""
    error = BodyTooLargeError(5)
    with open_input(giving(b"a", error)) as file:
        depths = []
        for _ in range(3):
            with pytest.raises(BodyTooLargeError) as caught:
                file.read()
            assert caught.value is error
            depths.append(len(caught.traceback))
    assert depths[1] == depths[2]  # the traceback does not grow


def test_input_closed_lets_go_of_its_source() -> None:
    """No read after the request, and no cycle by way of the error."""
    gc.disable()
    try:
        receive_part = giving(ClientDisconnectedError())
        file = open_input(receive_part)
        with pytest.raises(ClientDisconnectedError):
            file.read()
        gone = weakref.ref(file)
        file.close()
        file.close()
        with pytest.raises(ValueError, match="closed"):
            file.read()
        del file
        assert gone() is None
    finally:
        gc.enable()


def test_input_can_be_read_and_nothing_else() -> None:
    """It is a stream: it has no place to go back to."""
    with open_input(giving(b"")) as file:
        assert file.readable()
        assert not file.seekable()
        assert not file.writable()
        with pytest.raises(io.UnsupportedOperation):
            file.seek(0)
