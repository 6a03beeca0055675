"""Runs Django's own tests in one process, on request with another handler in place of Django's.

``tests/django_suite.py`` starts this file, once for each run. What becomes of every test goes to a file as soon as it
is known, one JSON object on a line, so that a run that hangs or dies tells how far it came.
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib
import json
import os
import re
import runpy
import sys
import unittest
from collections.abc import Iterator
from typing import Any, TextIO

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NAMES = {
    "django.core.handlers.asgi": ("ASGIHandler", "ASGIRequest"),
    "django.core.asgi": ("ASGIHandler", "get_asgi_application"),
}
"""Where Django keeps what a bridge replaces; ``from`` imports elsewhere find it there."""


class Swap:
    """Puts the names of a bridge in the place of Django's, and tells whether any of Django's is still in use."""

    def __init__(self, bridge: str) -> None:
        # Our checkout is on the path for this import alone: the tests of Django must not find modules in it.
        sys.path.insert(0, ROOT)
        try:
            ours = importlib.import_module(bridge)
        finally:
            sys.path.remove(ROOT)
        self._package = bridge.partition(".")[0]
        self._ours: list[Any] = []
        self._stock: list[Any] = []
        for module_name, names in NAMES.items():
            module = importlib.import_module(module_name)
            for name in names:
                self._stock.append(getattr(module, name))
                self._ours.append(getattr(ours, name))
        pairs = list(zip(self._stock, self._ours, strict=True))
        if same := {stock.__qualname__ for stock, own in pairs if stock is own}:
            raise SystemExit(f"{bridge} has Django's own {', '.join(sorted(same))}")
        # What the bridge imported may have taken Django's names already, so every module is gone through.
        for module in self._modules():
            for name, value in list(vars(module).items()):
                for stock, own in pairs:
                    if value is stock:
                        setattr(module, name, own)

    def _modules(self) -> Iterator[Any]:
        """Every module that is loaded, without those of the bridge, which build on Django's."""
        for name, module in list(sys.modules.items()):
            if name.partition(".")[0] != self._package and hasattr(module, "__dict__"):
                yield module

    def leftovers(self) -> list[str]:
        """Where Django's own is still in use: names of modules, and classes that derive from it but not from ours."""
        found = [
            f"{module.__name__}.{name}"
            for module in self._modules()
            for name, value in list(vars(module).items())
            if any(value is stock for stock in self._stock)
        ]
        classes: list[type[Any]] = [stock for stock in self._stock if isinstance(stock, type)]
        ours = tuple(own for own in self._ours if isinstance(own, type))
        bases = {base for own in ours for base in own.__mro__}
        while classes:
            for derived in classes.pop().__subclasses__():
                of_bridge = derived.__module__.partition(".")[0] == self._package
                if not of_bridge and derived not in bases and not issubclass(derived, ours):
                    found.append(f"{derived.__module__}.{derived.__qualname__}")
                classes.append(derived)
        return sorted(set(found))


def identify(test: unittest.TestCase) -> str:
    """The name of a test; that of a part of it may hold an object, whose address is of this run alone."""
    return re.sub(r"\b0x[0-9a-f]+", "0x...", test.id())


def recorder(stream: TextIO) -> type[unittest.TestResult]:
    """A class of results that writes what becomes of each test to a stream."""

    def write(test: unittest.TestCase, outcome: str, detail: str = "") -> None:
        stream.write(json.dumps({"test": identify(test), "outcome": outcome, "detail": detail}) + "\n")
        # A process that a test forks has nothing left to write a second time.
        stream.flush()

    class Recorder(unittest.TextTestResult):
        def startTest(self, test: unittest.TestCase) -> None:
            write(test, "started")
            super().startTest(test)

        def addSuccess(self, test: unittest.TestCase) -> None:
            super().addSuccess(test)
            write(test, "passed")

        def addFailure(self, test: unittest.TestCase, err: Any) -> None:
            super().addFailure(test, err)
            write(test, "failed", self.failures[-1][1])

        def addError(self, test: unittest.TestCase, err: Any) -> None:
            super().addError(test, err)
            write(test, "error", self.errors[-1][1])

        def addSkip(self, test: unittest.TestCase, reason: str) -> None:
            super().addSkip(test, reason)
            write(test, "skipped", reason)

        def addExpectedFailure(self, test: unittest.TestCase, err: Any) -> None:
            super().addExpectedFailure(test, err)
            write(test, "expected failure")

        def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:
            super().addUnexpectedSuccess(test)
            write(test, "unexpected success")

        def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any) -> None:
            super().addSubTest(test, subtest, err)
            if err is not None:
                failed = issubclass(err[0], test.failureException)
                # The test itself ends without a word when a part of it has failed.
                for failing in (subtest, test):
                    detail = (self.failures if failed else self.errors)[-1][1]
                    write(failing, "failed" if failed else "error", detail if failing is subtest else "in a part of it")

    return Recorder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bridge", metavar="MODULE")
    parser.add_argument("--timeout", type=float, required=True)
    parser.add_argument("suite", help="the folder of Django's runtests.py")
    parser.add_argument("results")
    parser.add_argument("label")
    options = parser.parse_args()

    # A hang ends with the stacks of all threads.
    faulthandler.dump_traceback_later(options.timeout, exit=True)
    with open(options.results, "w", encoding="utf-8") as stream:
        swap = Swap(options.bridge) if options.bridge else None
        runner: Any = importlib.import_module("django.test.runner")
        Recorder = recorder(stream)
        runner.DiscoverRunner.get_resultclass = lambda self: Recorder

        os.chdir(options.suite)
        sys.path.insert(0, options.suite)
        script = os.path.join(options.suite, "runtests.py")
        # One process: what is swapped here is swapped for all tests.
        sys.argv = [script, "--settings=test_sqlite", "--parallel=1", "--noinput", "--verbosity=1", options.label]
        status: Any = 0
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as exception:
            status = exception.code
        leftovers = swap.leftovers() if swap else []
        stream.write(json.dumps({"status": status, "leftovers": leftovers}) + "\n")


if __name__ == "__main__":
    main()
