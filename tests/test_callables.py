"""_callables.py: whether a callable is asynchronous."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator
from typing import Any
from unittest.mock import AsyncMock, Mock

import asgiref.sync
import pytest

from asgicore._callables import is_async_callable


async def asynchronous(*args: object) -> None:
    """An async function."""


def synchronous(*args: object) -> None:
    """A plain function."""


async def generator() -> AsyncIterator[None]:
    """An async generator function: calling it gives nothing to await."""
    yield


class Methods:
    """Methods of every kind."""

    async def method(self) -> None: ...

    @classmethod
    async def class_method(cls) -> None: ...

    @staticmethod
    async def static_method() -> None: ...

    def plain(self) -> None: ...

    partial = functools.partialmethod(method)


class Callable:
    """Objects that are called like async functions."""

    async def __call__(self) -> None: ...


class PartialCallable:
    """Objects whose ``__call__`` is a partial."""

    __call__ = functools.partial(asynchronous, 1)


class PlainCallable:
    """Objects that are called like plain functions."""

    def __call__(self) -> None: ...


def decorated() -> Any:
    """A wrapper that looks like the async function it wraps, but is not."""

    @functools.wraps(asynchronous)
    def wrapper(*args: object) -> object:
        return None

    return wrapper


def marked() -> Any:
    """A plain function that says it returns an awaitable."""

    def returns_awaitable() -> Any:
        return asynchronous()

    return asgiref.sync.markcoroutinefunction(returns_awaitable)


class Marked:
    """Objects that say of themselves that they return an awaitable."""

    def __init__(self) -> None:
        asgiref.sync.markcoroutinefunction(self)

    def __call__(self) -> Any:
        return asynchronous()


@pytest.mark.parametrize(
    "target",
    [
        pytest.param(asynchronous, id="function"),
        pytest.param(functools.partial(asynchronous), id="partial"),
        pytest.param(functools.partial(functools.partial(asynchronous, 1), 2), id="partial of partial"),
        pytest.param(Methods().method, id="bound method"),
        pytest.param(Methods.method, id="method"),
        pytest.param(Methods.class_method, id="class method"),
        pytest.param(Methods().static_method, id="static method"),
        pytest.param(Methods().partial, id="partial method"),
        pytest.param(functools.partial(Methods().method), id="partial of bound method"),
        pytest.param(Callable(), id="object"),
        pytest.param(functools.partial(Callable()), id="partial of object"),
        pytest.param(Callable().__call__, id="bound __call__"),
        pytest.param(PartialCallable(), id="object with partial"),
        pytest.param(marked(), id="marked function"),
        pytest.param(functools.partial(marked()), id="partial of marked function"),
        pytest.param(Marked(), id="marked object"),
        pytest.param(AsyncMock(), id="async mock"),
    ],
)
def test_callable_that_gives_an_awaitable_is_asynchronous(target: Any) -> None:
    """Seen through partials, bound methods, objects and markers."""
    assert is_async_callable(target) is True


@pytest.mark.parametrize(
    "target",
    [
        pytest.param(synchronous, id="function"),
        pytest.param(functools.partial(synchronous), id="partial"),
        pytest.param(Methods().plain, id="bound method"),
        pytest.param(PlainCallable(), id="object"),
        pytest.param(Callable, id="class with async __call__"),
        pytest.param(functools.partial(Callable), id="partial of class"),
        pytest.param(Marked, id="class of marked objects"),
        pytest.param(generator, id="async generator function"),
        pytest.param(decorated(), id="wrapper"),
        pytest.param(lambda: None, id="lambda"),
        pytest.param(Mock(), id="mock"),
        pytest.param(print, id="builtin"),
        pytest.param(5, id="no callable"),
        pytest.param(None, id="None"),
    ],
)
def test_callable_that_gives_something_else_is_not_asynchronous(target: Any) -> None:
    """Classes, generators and plain functions give nothing to await, whatever they look like."""
    assert is_async_callable(target) is False


def test_callable_with_attribute_lookup_that_fails_is_not_asynchronous() -> None:
    """An object that cannot be called is none, without an error."""
    assert is_async_callable(object()) is False


def test_callable_object_whose_call_is_a_static_method_is_asynchronous() -> None:
    """What stands behind a static method counts."""

    async def endpoint() -> None: ...

    class Static:
        __call__ = staticmethod(endpoint)

    assert is_async_callable(Static())
