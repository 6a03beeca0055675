"""Where pytest-xdist has several processes: which tests run one after the other in the same one, which run first, and
what is told of them."""

from __future__ import annotations

import importlib
from contextlib import suppress
from typing import Any

import pytest
from _pytest.runner import runtestprotocol


class Indexed(list[str]):
    """The tests, each of which pytest-xdist asks for its place."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(names)
        self._places = {name: place for place, name in enumerate(names)}

    def index(self, name: str, *_: Any) -> int:
        return self._places[name]


def pending_of(workload: dict[str, dict[str, bool]]) -> int:
    """How many tests of these files are not done: asked after each, and so the files that are done go.

    pytest-xdist keeps them, and counts everything that a process has ever done.
    """
    for name in [name for name, tests in workload.items() if all(tests.values())]:
        del workload[name]
    return sum(not is_done for tests in workload.values() for is_done in tests.values())


# They take more than twenty seconds each.
LONG = (
    *("test_check_probes.py", "test_django_threads.py", "test_leaks.py", "test_check_own.py", "test_file_response.py"),
    *("test_messages.py", "test_form.py", "test_django_middleware.py", "test_django_suite.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those of the servers stand first: they wait now and then, and what takes long is not left for the end."""
    items.sort(key=lambda item: (item.path.parent.name != "wire", item.path.name not in LONG))


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Have each process begin with its share of the files: whose asserts one has rewritten, the others only load.

    In a fresh clone, that is; all of them would rewrite everything otherwise, in the same order and at the same time.
    """
    worker = getattr(session.config, "workerinput", None)
    if worker is None or session.config.args_source is not pytest.Config.ArgsSource.TESTPATHS:
        return
    tests = session.config.rootpath / "tests"
    files = sorted(tests.rglob("test_*.py"))[int(worker["workerid"][2:]) :: worker["workercount"]]
    for name in (".".join(file.relative_to(tests).with_suffix("").parts) for file in files):
        # What cannot be imported here, or is skipped, says so when it is collected.
        with suppress(Exception, pytest.skip.Exception):
            importlib.import_module(name)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Tell pytest-xdist what belongs together: the tests of a file, and those of a server, which is started once.

    ``--dist loadgroup`` would do that by marks, but pytest-xdist 3.8 sees none of them under pytest 9.2.
    """
    from wire.servers import KINDS

    def group(nodeid: str) -> str:
        file, _, test = nodeid.partition("::")
        parameters = test.partition("[")[2]
        return next((kind.name for kind in KINDS if parameters.startswith(kind.name)), file)

    config.option.loadscopereorder = False
    scheduler = importlib.import_module("xdist.scheduler").LoadScopeScheduling(config, log)
    add = scheduler.add_node_collection

    def add_indexed(node: Any, collection: list[str]) -> None:
        add(node, collection)
        if node in scheduler.registered_collections:
            scheduler.registered_collections[node] = Indexed(collection)

    scheduler._split_scope = group
    scheduler._pending_of = pending_of
    scheduler.add_node_collection = add_indexed
    return scheduler


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Tell of a test that passed in one message: the five of pytest-xdist take longer than most of the tests."""
    if not hasattr(item.config, "workerinput"):
        return None
    for report in runtestprotocol(item, log=False, nextitem=nextitem):
        if report.when == "call" or not report.passed:
            if report.passed:
                report.sections.clear()
                report.keywords = {}
            item.ihook.pytest_runtest_logreport(report=report)
    return True
