"""Backends of the suite, and the clock that tests of fairness go by."""

from __future__ import annotations

import gc
import importlib.util
import os
import runpy
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import hypothesis  # before the heap is frozen: it asks the collector who refers to its generators
import pytest
from _pytest.assertion.rewrite import AssertionRewritingHook
from clocks import Clock

from asgicore import _encoded, _parts, _receiver, _watch, _writer

# Where coverage has begun: pyproject.toml keeps pytest from loading it by its entry point.
pytest_plugins = ["asgicore._pytest_plugin", "distribution", "untraced"]

# Dozens of processes are started by the tests, and would compile everything anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# How long an example takes is the machine's business; a test that hangs is ended by its own time.
hypothesis.settings.register_profile("suite", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("suite")

STOP_SECONDS = _watch._STOP_SECONDS

BACKENDS: list[Any] = [pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio")]
if importlib.util.find_spec("uvloop"):
    BACKENDS.append(pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"))
if importlib.util.find_spec("trio"):
    BACKENDS.append(pytest.param(("trio", {}), id="trio"))


# What is collected stays: half a million objects, which the collector would look at again and again.
gc.disable()


def pytest_collection_finish() -> None:
    gc.enable()


@pytest.fixture(params=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    # What may be used for one run alone, as trio's clocks, is made here.
    return request.param() if callable(request.param) else request.param


@pytest.fixture(scope="session", autouse=True)
def _patient_engine() -> Iterator[None]:
    """A machine that halts for a second changes nothing.

    Time creeps for the engine where it decides to give up the loop, and it does not leave a listener behind that is
    about to end. Were time to stand still, a stream whose thread is as fast as the client would never see it leave.
    """
    with pytest.MonkeyPatch.context() as patch:
        _set_clock(patch, lambda: perf_counter() / 1000)
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


def _set_clock(patch: pytest.MonkeyPatch, clock: Callable[[], float]) -> None:
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


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Let go of what an error among the parameters refers to: the frames that raised it, and their event loop."""
    callspec = getattr(item, "callspec", None)
    for value in callspec.params.values() if callspec else ():
        if isinstance(value, BaseException):
            value.__traceback__ = value.__context__ = None
