"""What stands around the package: the workflows, the checks of what is released, and the pages for contributors."""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import asgicore

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
VERSIONS = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))


def load_workflow(path: Path) -> Any:
    """A workflow as it stands, every value a text; skips where there is no parser."""
    yaml = pytest.importorskip("yaml", reason="needs the extra 'test'")
    return yaml.load(path.read_text("utf-8"), yaml.BaseLoader)


def steps(workflow: Any) -> list[Any]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def versions_of(step: Any) -> list[str]:
    """The Pythons that a step of a workflow brings."""
    versions: str = step.get("with", {}).get("python-version", "")
    return versions.split()


@pytest.fixture(scope="module")
def package() -> ModuleType:
    """The script .ci/package, as a module."""
    loader = importlib.machinery.SourceFileLoader("ci_package", str(ROOT / ".ci" / "package"))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "dont_write_bytecode", True)  # no cache beside a script
        loader.exec_module(module)
    return module


def test_version_of_the_project_is_that_of_the_package() -> None:
    """Both are written by hand."""
    assert PROJECT["version"] == asgicore.__version__


# --- workflows ----------------------------------------------------------------------------------------------


def test_workflow_on_a_change_runs_the_checks() -> None:
    """It runs .ci/run, for pull requests too, and one run replaces the one before it."""
    workflow = load_workflow(ROOT / ".github" / "workflows" / "ci.yml")
    assert {"push", "pull_request"} <= workflow["on"].keys()
    assert ".ci/run" in [step.get("run") for step in steps(workflow)]
    assert workflow["concurrency"]["group"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflow_has_every_python_of_the_classifiers(path: Path) -> None:
    """The lowest one comes last: that makes it python3, which the checks take for the first environment."""
    found = [step for step in steps(load_workflow(path)) if step.get("uses", "").startswith("actions/setup-python@")]
    assert found
    for step in found:
        versions = [version for version in versions_of(step) if not version.endswith("t")]
        assert sorted(versions) == sorted(VERSIONS)
        assert f">={versions[-1]}" == PROJECT["requires-python"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflow_may_read_alone_and_ends(path: Path) -> None:
    """No job may write to the repository, keep credentials, or run without end."""
    workflow = load_workflow(path)
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert job.get("permissions", {}) in ({}, {"id-token": "write"})
        assert int(job["timeout-minutes"]) <= 20
    for step in steps(workflow):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] == "false"


def test_workflow_of_a_release_publishes_what_was_checked() -> None:
    """The files come from .ci/package, and the job that may publish runs nothing else."""
    jobs = load_workflow(ROOT / ".github" / "workflows" / "release.yml")["jobs"]
    assert any(".ci/package --output dist" in step.get("run", "") for step in jobs["build"]["steps"])
    assert "id-token" not in jobs["build"].get("permissions", {})
    assert jobs["publish"]["needs"] == "build"
    assert all("run" not in step for step in jobs["publish"]["steps"])


def test_checks_try_every_python_of_the_classifiers() -> None:
    """The versions that .ci/run looks for are those that the project claims; the lowest one is python3 there."""
    loops = re.findall(r"^for version in ([\d. ]+); do$", (ROOT / ".ci" / "run").read_text("utf-8"), re.MULTILINE)
    assert [loop.split() for loop in loops] == [VERSIONS, VERSIONS[1:]]


def test_checks_try_a_python_without_the_gil() -> None:
    """The one that .ci/run looks for is there on every change."""
    looked_for = re.findall(r"find_python (3\.\d+t)\b", (ROOT / ".ci" / "run").read_text("utf-8"))
    workflow = load_workflow(ROOT / ".github" / "workflows" / "ci.yml")
    brought = [version for step in steps(workflow) for version in versions_of(step) if version.endswith("t")]
    assert looked_for == brought == ["3.14t"]


# --- what .ci/package finds ---------------------------------------------------------------------------------

TRACKED = ["README.md", "asgicore/__init__.py", "asgicore/py.typed", "tests/test_it.py"]
INFO = ["METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"]


def wheel_names(package: ModuleType) -> list[str]:
    return [*(name for name in TRACKED if name.startswith("asgicore/")), *(package.INFO + name for name in INFO)]


def test_package_with_its_files_has_no_fault(package: ModuleType) -> None:
    """The sdist holds what git does, the wheel the package and its description."""
    assert package.sdist_faults([f"{package.STEM}/{name}" for name in (*TRACKED, "PKG-INFO")], TRACKED) == []
    assert package.wheel_faults(wheel_names(package), TRACKED) == []


def test_package_with_other_files_has_a_fault_for_each(package: ModuleType) -> None:
    """What is missing, and what is too much, in either."""
    names = [f"{package.STEM}/{name}" for name in (*TRACKED[1:], "PKG-INFO", "scratch.txt")]
    assert package.sdist_faults(names, TRACKED) == [
        f"sdist: {package.STEM}/README.md is missing",
        f"sdist: {package.STEM}/scratch.txt does not belong there",
    ]
    names = [*wheel_names(package)[1:], "tests/test_it.py"]
    assert package.wheel_faults(names, TRACKED) == [
        "wheel: asgicore/__init__.py is missing",
        "wheel: tests/test_it.py does not belong there",
    ]
    untyped = [name for name in TRACKED if name != "asgicore/py.typed"]
    names = [name for name in wheel_names(package) if name != "asgicore/py.typed"]
    assert package.wheel_faults(names, untyped) == ["no py.typed: type checkers would not look"]


METADATA = """\
Metadata-Version: 2.4
Name: asgicore
Summary: An engine.
License-Expression: BSD-3-Clause
License-File: LICENSE
Keywords: asgi
Classifier: Programming Language :: Python :: 3 :: Only
Classifier: Programming Language :: Python :: 3.11
Classifier: Programming Language :: Python :: 3.12
Requires-Python: >=3.11
Requires-Dist: anyio>=4
Requires-Dist: multipart<3,>=2; extra == 'forms'
Description-Content-Type: text/markdown

# Title: «an engine»
"""
ENTRY_POINTS = "[pytest11]\nasgicore = asgicore._pytest_plugin\n"
README = "# Title: «an engine»\n"


def test_complete_metadata_has_no_fault(package: ModuleType) -> None:
    """Every field, the README, agreeing versions of Python, bounded dependencies, the plugin."""
    assert package.metadata_faults(METADATA, ENTRY_POINTS, README) == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        pytest.param("Summary: An engine.\n", "", "metadata: Summary is missing", id="field"),
        pytest.param("# Title", "# Other", "metadata: the description is not the README", id="description"),
        pytest.param(
            "Requires-Python: >=3.11",
            "Requires-Python: >=3.12",
            "metadata: Requires-Python is >=3.12, the classifiers name ['3.11', '3.12']",
            id="pythons",
        ),
        pytest.param(
            "anyio>=4",
            "anyio; python_version >= '3'",
            "metadata: anyio; python_version >= '3' has no lower bound",
            id="bound",
        ),
    ],
)
def test_metadata_that_lacks_something_has_a_fault(package: ModuleType, old: str, new: str, fault: str) -> None:
    """One fault for one lack."""
    assert old in METADATA
    assert package.metadata_faults(METADATA.replace(old, new), ENTRY_POINTS, README) == [fault]


def test_metadata_without_the_entry_point_has_a_fault(package: ModuleType) -> None:
    """pytest would not find the plugin."""
    faults = package.metadata_faults(METADATA, "[console_scripts]\n", README)
    assert faults == ["metadata: the entry point of the pytest plugin is missing"]


def test_command_that_fails_shows_what_it_printed(package: ModuleType, tmp_path: Path) -> None:
    """Whoever reads the log sees the cause."""
    with pytest.raises(package.Failed, match=r"exit status 3\nthe cause"):
        package.run(sys.executable, "-c", "print('the cause', flush=True); raise SystemExit(3)", cwd=tmp_path)


# --- the suite ----------------------------------------------------------------------------------------------

CHANNELS = ("receive", "send")
SCOPE = re.compile(r"scope|SCOPE|\w+\.scope|\w*_scope\(.*\)|\{.*'type'.*\}", re.DOTALL)

HAND_WRITTEN = {
    # A body, a timeout or a writer alone, below the ASGI interface: it takes one function and knows no server.
    "test_body.py": 1,
    "test_idle.py": 2,
    "test_writer.py": 4,
    # What is measured is the engine: a channel must keep nothing, take no time, and be in no cycle.
    "test_fairness.py": 6,
    "test_leaks.py": 2,
    # A receive() that fails when it is called, and not when it is awaited.
    "test_handler.py": 1,
    # The lint is told what no channel of the kit gives, and by which of the two.
    "test_lint.py": 6,
    # Clients of real servers: what they send are bytes.
    "wire/clients.py": 3,
}
"""How many functions a module has that stand for a server's ``receive`` or ``send``, and why it may."""


def hand_written(source: str) -> list[int]:
    """The lines of what stands for a channel: functions of that name, and what else is given to an application.

    What hands on to another channel, as middleware does, is none.
    """
    nodes = [*ast.walk(ast.parse(source))]
    given = [each for node in nodes for each in channels_in(node)]
    names = {*CHANNELS, *[each.id for each in given if isinstance(each, ast.Name)]}
    functions = [node for node in nodes if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    found = [
        *[each for each in functions if each.name.strip("_") in names],
        *[each for each in given if isinstance(each, ast.Lambda) or re.match(r"_*[A-Z]\w*\(", ast.unparse(each))],
    ]
    return sorted({each.lineno for each in found if not hands_on(each)})


def channels_in(node: ast.AST) -> Iterator[ast.expr]:
    """The two arguments of a call that come after one that is a scope, and what takes the place of a channel's own."""
    if isinstance(node, ast.Call):
        for place, argument in enumerate(node.args[:-2], 1):
            if SCOPE.fullmatch(ast.unparse(argument)):
                yield from node.args[place : place + 2]
    elif isinstance(node, ast.Assign) and getattr(node.targets[0], "attr", "") in CHANNELS:
        yield node.value


def hands_on(function: ast.AST) -> bool:
    named = [getattr(node, "attr", getattr(node, "id", "")) for node in ast.walk(function)]
    return any(name in CHANNELS for name in named)


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("async def receive(): pass", [1]),
        ("class Server:\n    async def _send(self, message): pass", [2]),
        ("def plain(message): pass\napp(http_scope(), channel.receive, plain)", [1]),
        ("group.start_soon(app, {'type': 'lifespan'}, lambda: {}, channel.send)", [1]),
        ("await app(scope, Endless(1), channel.send)", [1]),
        ("async def breaks(): pass\nchannel.receive = breaks", [1]),
        ("async def receive(): return await channel.receive()", []),
        ("async def late(message): await send(message)\nasync def app(*a): await inner(scope, receive, late)", []),
        ("app(http_scope(), partial(around, channel.receive), lambda message: channel.send(message))", []),
        ("def plain(message): pass\nanswer(scope, send, repr(plain))", []),
    ],
)
def test_channel_that_is_written_by_hand_is_found(source: str, lines: list[int]) -> None:
    """By its name, or by where it is given; not where it is around one of the kit's."""
    assert hand_written(source) == lines


def test_suite_has_the_channels_of_the_kit() -> None:
    """What they cannot do is in the table above; else the kit is what its users need as well."""
    folder = ROOT / "tests"
    found = {
        path.relative_to(folder).as_posix(): hand_written(path.read_text("utf-8")) for path in folder.rglob("*.py")
    }
    assert {name: len(lines) for name, lines in found.items() if lines} == HAND_WRITTEN, found


# --- pages --------------------------------------------------------------------------------------------------


def test_map_of_the_contributors_page_names_every_folder() -> None:
    """Each that holds something of the project, and none that is not there."""
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    named = {name for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for name in re.findall(r"`(.+?)/`", row)}
    assert all((ROOT / name).is_dir() for name in named)
    assert {"asgicore", "tests", "docs", "examples", "benchmarks", ".ci", ".github"} <= named
    assert {f"asgicore/{path.parent.name}" for path in ROOT.glob("asgicore/*/__init__.py")} <= named
