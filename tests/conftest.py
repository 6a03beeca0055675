"""Backends of the suite, and the clock that tests of fairness go by."""

from __future__ import annotations

import gc
import importlib.util
import os
import pkgutil
import runpy
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import hypothesis  # noqa: F401  # before the heap is frozen: it asks the collector who refers to its generators
import pytest
from _pytest.assertion.rewrite import AssertionRewritingHook
from clocks import Clock

import asgicore
from asgicore import _encoded, _parts, _receiver, _watch, _writer

# Where coverage has begun: pyproject.toml keeps pytest from loading it by its entry point.
pytest_plugins = ["asgicore._pytest_plugin"]

# Dozens of processes are started by the tests, and would compile everything anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

STOP_SECONDS = _watch._STOP_SECONDS

UVLOOP = ("asyncio", {"use_uvloop": True})
BACKENDS: list[Any] = [pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio")]
if importlib.util.find_spec("uvloop"):
    BACKENDS.append(pytest.param(UVLOOP, id="uvloop"))
if importlib.util.find_spec("trio"):
    BACKENDS.append(pytest.param(("trio", {}), id="trio"))


@pytest.fixture(params=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    # What may be used for one run alone, as trio's clocks, is made here.
    return request.param() if callable(request.param) else request.param


@pytest.fixture(scope="session", autouse=True)
def _patient_engine() -> Iterator[None]:
    """A machine that halts for milliseconds changes nothing.

    Time stands still for the engine where it decides to give up the loop, and it does not leave a listener behind that
    is about to end.
    """
    with pytest.MonkeyPatch.context() as patch:
        _set_clock(patch, Clock())
        patch.setattr(_watch, "_STOP_SECONDS", 60)
        yield


@pytest.fixture(scope="module", autouse=True)
def _young_heap() -> None:
    """Collections in tests look at what tests make, and not at all modules: a tenth of a second each otherwise."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def leaves_listeners_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine waits for a listener as long as it does outside of the tests: for those that never end."""
    monkeypatch.setattr(_watch, "_STOP_SECONDS", STOP_SECONDS)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """What the engine takes for ``perf_counter`` then, for tests that move it."""
    clock = Clock()
    _set_clock(monkeypatch, clock)
    return clock


def _set_clock(patch: pytest.MonkeyPatch, clock: Clock) -> None:
    patch.setattr(_receiver, "perf_counter", clock)
    patch.setattr(_encoded, "perf_counter", clock)
    patch.setattr(_writer, "perf_counter", clock)
    patch.setattr(_parts, "perf_counter", clock)


@pytest.fixture
def small_heap() -> None:
    """Keep thousands of tests out of what the collector goes through: for tests that run it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def as_command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs a module as ``python -m`` does, in this process, with these arguments."""
    # pytest rewrites the asserts of what brings a plugin, and what does that has no code to run as a command.
    plain = [finder for finder in sys.meta_path if not isinstance(finder, AssertionRewritingHook)]

    def run(name: str, *arguments: str, run_name: str = "__main__") -> None:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        monkeypatch.setattr(sys, "meta_path", plain)
        for module in (name, f"{name}.__main__"):
            if module not in sys.modules or not hasattr(sys.modules[module], "__path__"):
                monkeypatch.delitem(sys.modules, module, raising=False)
        runpy.run_module(name, run_name=run_name)

    return run


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those of the servers stand first: they wait now and then, and what takes long is not left for the end."""
    items.sort(key=lambda item: item.path.parent.name != "wire")
    for item in items:
        call = getattr(item, "callspec", None)
        if item.path.parent.name == "wire" or (call and call.params.get("anyio_backend") == UVLOOP):
            # What runs in other processes, and what asyncio has covered.
            item.add_marker(pytest.mark.untraced)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Tell pytest-xdist what belongs together: the tests of a file, and those of a server, which is started once.

    ``--dist loadgroup`` would do that by marks, but knows of none in pytest 9.2.
    """
    from wire.servers import KINDS

    def group(nodeid: str) -> str:
        file, _, test = nodeid.partition("::")
        parameters = test.partition("[")[2]
        return next((kind.name for kind in KINDS if parameters.startswith(kind.name)), file)

    config.option.loadscopereorder = False
    scheduler = importlib.import_module("xdist.scheduler").LoadScopeScheduling(config, log)
    scheduler._split_scope = group
    return scheduler


@contextmanager
def _untraced() -> Iterator[None]:
    """Nothing is traced in this thread nor in those that begin now.

    The marker ``no_cover`` of pytest-cov stops its tracers in other threads, too, which may leave them locked.
    """
    here, elsewhere = sys.gettrace(), threading.gettrace()
    sys.settrace(None)
    threading.settrace(None)
    try:
        yield
    finally:
        threading.settrace(elsewhere)
        sys.settrace(here)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """What the marker says."""
    with _untraced() if item.get_closest_marker("untraced") else nullcontext():
        return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection() -> Generator[None, object, object]:
    """Modules of tests are no concern of coverage: those that they import are here before."""
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


class _WithoutDjango(pytest.Module):
    """A file of tests that cannot even be imported."""

    def collect(self) -> list[pytest.Item]:
        pytest.skip("needs Django")


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Skip the tests of the Django bridge, with their imports, where there is no Django."""
    # The script of that one runs in processes of its own.
    is_of_django = module_path.name.startswith("test_django_") and module_path.name != "test_django_suite.py"
    if not is_of_django or importlib.util.find_spec("django") is not None:
        return None
    return _WithoutDjango.from_parent(parent, path=module_path)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Make what was logged fit for pytest-xdist, which sends it as UTF-8: tests log lone surrogates."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report
