"""The pytest plugin of asgicore.testing, found by its entry point: ``asgi_server``, ``asgi_client``, ``leak_guard``."""

from __future__ import annotations

from collections.abc import Callable, Generator
from inspect import iscoroutinefunction
from typing import Any, cast

import pytest

from ._client import Client
from ._leaks import LeakGuard
from ._servers import UVICORN, Server


@pytest.fixture
def asgi_server() -> Server:
    """The server whose behaviour ``asgi_client`` shows to the application; override it, with ``params``, for others."""
    return UVICORN


@pytest.fixture
def asgi_client(asgi_server: Server) -> Callable[..., Client]:
    """Makes clients: ``asgi_client(app)`` is ``Client(app, server=asgi_server)``; further options go through."""

    def make(app: Any, **options: Any) -> Client:
        options.setdefault("server", asgi_server)
        return Client(app, **options)

    return make


@pytest.fixture
def leak_guard() -> LeakGuard:
    """Guards the body of the test, not its fixtures; what else counts is set on the guard: ``leak_guard.cycles``."""
    return LeakGuard()


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, Any, Any]:
    """Run the test within its guard: in its event loop, where it has one."""
    if "leak_guard" not in pyfuncitem.funcargs:
        return (yield)
    guard = cast("LeakGuard", pyfuncitem.funcargs["leak_guard"])
    test = pyfuncitem.obj
    if not iscoroutinefunction(test):
        with guard:
            return (yield)
    pyfuncitem.obj = guard(test)
    try:
        return (yield)
    finally:
        pyfuncitem.obj = test
