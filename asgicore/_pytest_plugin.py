"""The pytest plugin of asgicore.testing, found by its entry point: ``asgi_server``, ``asgi_client``, ``leak_guard``.

pytest imports it at every start, wherever asgicore is installed. So it stands at the root of the package, and imports
the kit where a test asks for one of its fixtures.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, cast

import pytest

if TYPE_CHECKING:
    from .testing._client import Client
    from .testing._leaks import LeakGuard
    from .testing._servers import Server


@pytest.fixture
def asgi_server() -> Server:
    """The server whose behaviour ``asgi_client`` shows to the application; override it, with ``params``, for others."""
    from .testing._servers import UVICORN

    return UVICORN


@pytest.fixture
def asgi_client(asgi_server: Server) -> Callable[..., Client]:
    """Makes clients: ``asgi_client(app)`` is ``Client(app, server=asgi_server)``; further options go through."""
    from .testing._client import Client

    def make(app: Any, **options: Any) -> Client:
        options.setdefault("server", asgi_server)
        return Client(app, **options)

    return make


@pytest.fixture
def leak_guard() -> LeakGuard:
    """Guards the body of the test, not its fixtures; what else counts is set on the guard: ``leak_guard.cycles``."""
    from .testing._leaks import LeakGuard

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
