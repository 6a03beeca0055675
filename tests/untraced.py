"""What coverage does not look at, since other tests cover it: a test takes half the time then.

The marker ``no_cover`` of pytest-cov is not used: it stops the tracers of other threads, too, and may leave them
locked.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager, nullcontext, suppress

import pytest

import asgicore


@contextmanager
def _untraced() -> Iterator[None]:
    """Nothing is traced in this thread, nor in those that begin now."""
    here, elsewhere = sys.gettrace(), threading.gettrace()
    sys.settrace(None)
    threading.settrace(None)
    try:
        yield
    finally:
        threading.settrace(elsewhere)
        sys.settrace(here)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what runs in other processes, and what asyncio has covered."""
    for item in items:
        call = getattr(item, "callspec", None)
        backend = call and call.params.get("anyio_backend")
        if item.path.parent.name == "wire" or backend == ("asyncio", {"use_uvloop": True}):
            item.add_marker(pytest.mark.untraced)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Do what the marker says."""
    with _untraced() if item.get_closest_marker("untraced") else nullcontext():
        return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection() -> Generator[None, object, object]:
    """Modules of tests are no concern of coverage; those that they import are here before."""
    for module in pkgutil.walk_packages(asgicore.__path__, "asgicore.", onerror=lambda name: None):
        if not module.name.endswith(".__main__"):
            with suppress(ImportError):  # of an extra that is not installed
                importlib.import_module(module.name)
    with _untraced():
        return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, bool | None, bool | None]:
    """The process that hands out the tests runs nothing of the package."""
    with _untraced() if session.config.pluginmanager.hasplugin("dsession") else nullcontext():
        return (yield)
