"""What coverage does not look at: what runs the tests, which takes twice as long then, and tests that others cover.

The marker ``no_cover`` of pytest-cov is not used: it stops the tracers of other threads, too.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import pytest

import asgicore
from asgicore._spool import _files
from asgicore._threads import SHARED

# In this thread, and in those that begin.
Tracers = tuple[Any, Any]

OFF: Tracers = (None, None)

# What trio alone runs is covered by these; of all else asyncio's run tells enough. And what uvloop runs is asyncio's.
OF_TRIO = {
    *("test_check.py", "test_check_probes.py", "test_testing_exchange.py", "test_testing_faults.py"),
    *("test_from_thread.py", "test_idle.py", "test_keep_alive.py", "test_late_scope.py", "test_signals.py"),
    *("test_grace.py", "test_threads.py", "test_watch.py"),
}
# What takes long to import for our modules.
OTHERS = ("django.core.handlers.asgi", "django.contrib.staticfiles.handlers", "django.core.management", "trio")
# Threads that outlive the request that began them, and so the test.
POOLS = (_files, SHARED)

_tracers = pytest.StashKey[Tracers]()
_has_untraced_threads = pytest.StashKey[bool]()


@contextmanager
def _traced_by(tracers: Tracers) -> Iterator[Tracers]:
    """Have these look at what follows; gives those that did before."""
    before = sys.gettrace(), threading.gettrace()
    threading.settrace(tracers[1])
    sys.settrace(tracers[0])
    try:
        yield before
    finally:
        sys.settrace(before[0])
        threading.settrace(before[1])


def _tracers_of(item: pytest.Item) -> Tracers:
    return OFF if item.get_closest_marker("untraced") else item.config.stash[_tracers]


def _end_untraced_threads(item: pytest.Item) -> None:
    """A thread is traced, or not, for all its life: those of a test that is not traced are for no other one."""
    if item.get_closest_marker("untraced"):
        item.config.stash[_has_untraced_threads] = True
    elif item.config.stash.get(_has_untraced_threads, False):
        item.config.stash[_has_untraced_threads] = False
        for pool in POOLS:
            pool._retire()


def _hands_out(session: pytest.Session) -> bool:
    """Whether other processes run the tests."""
    return session.config.pluginmanager.hasplugin("dsession")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what runs in other processes, what asyncio has covered, and what hypothesis does a hundred times."""
    for item in items:
        call = getattr(item, "callspec", None)
        ids = call.id.split("-") if call else []
        if (
            item.path.parent.name == "wire"
            or "uvloop" in ids
            or ("trio" in ids and item.path.name not in OF_TRIO)
            or hasattr(getattr(item, "function", None), "hypothesis")
        ):
            item.add_marker(pytest.mark.untraced)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """Modules of tests are no concern of coverage, nor are those of others; ours are here before the tests."""
    if _hands_out(session):
        return (yield)
    with _traced_by(OFF):
        for name in OTHERS:
            with suppress(ImportError):
                importlib.import_module(name)
    for module in pkgutil.walk_packages(asgicore.__path__, "asgicore.", onerror=lambda name: None):
        if not module.name.endswith(".__main__"):
            with suppress(ImportError):  # of an extra that is not installed
                importlib.import_module(module.name)
    with _traced_by(OFF):
        return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, bool | None, bool | None]:
    """The process that hands out the tests runs nothing of the package."""
    with _traced_by(OFF) if _hands_out(session) else nullcontext():
        return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """What surrounds the tests and their fixtures is pytest's."""
    _end_untraced_threads(item)
    with _traced_by(OFF) as tracers:
        item.config.stash[_tracers] = tracers
        return (yield)


# The last wrapper is the innermost one.
@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_fixture_setup(request: pytest.FixtureRequest) -> Generator[None, object, object]:
    with _traced_by(_tracers_of(request.node) if isinstance(request.node, pytest.Item) else OFF):
        return (yield)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    with _traced_by(_tracers_of(item)):
        return (yield)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    """The ends of fixtures."""
    with _traced_by(_tracers_of(item)):
        return (yield)
