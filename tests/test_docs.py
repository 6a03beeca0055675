"""Every Python example of the README and the documentation runs, and what the pages list is what the code has.

An example that defines ``app`` is followed by requests: those of the ``<!-- try ... -->`` comment above it, or
those of the ``test_`` functions in the examples after it.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import os
import re
import subprocess
import sys
import tempfile
import textwrap
import types
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import anyio
import pytest

import asgicore
from asgicore import (
    AsgicoreError,
    Compression,
    Handler,
    Limits,
    Observer,
    Outcome,
    Request,
    Response,
    Threads,
    Timings,
    errors,
)
from asgicore._hooks import Hooks
from asgicore.testing import EMPTY, body_messages, call
from asgicore.wsgi_bridge import WSGIHandler, as_wsgi

pytestmark = pytest.mark.untraced

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
MODULES = [
    "asgicore",
    *("asgicore.errors", "asgicore.limits", "asgicore.types"),
    *("asgicore.django_bridge", "asgicore.wsgi_bridge", "asgicore.testing"),
]

# Examples may be indented, as they are within lists and tabs.
FENCE = re.compile(
    r"(?:^ *<!-- try\n(?P<tries>.*?)^ *-->\n)?^(?P<indent> *)```python\n(?P<code>.*?)^(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)
ENTRY = re.compile(r"^::: ([\w.]+)$", re.MULTILINE)
TRY = re.compile(r"(?P<method>[A-Z]+) (?P<path>\S+)(?: (?P<body>.+))? -> (?P<status>\d{3})(?: (?P<text>.+))?")
ROW = re.compile(r"^\| `(?P<name>\w+)[^`|]*`[^|\n]*\|[ ]*(?P<second>[^|\n]*?)[ ]*\|", re.MULTILINE)


def title(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@dataclass(frozen=True)
class Example:
    """One block of Python on a page."""

    path: Path
    line: int
    code: str
    tries: tuple[re.Match[str], ...]

    @property
    def module(self) -> str | None:
        """The name that later examples import it by: its first line is ``# name.py``."""
        found = re.match(r"# (\w+)\.py\n", self.code)
        return found[1] if found else None

    def imports(self) -> set[str]:
        names: set[str] = set()
        for node in ast.walk(ast.parse(self.code)):
            if isinstance(node, ast.Import):
                names.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module)
        return names


def examples(path: Path) -> list[Example]:
    text = path.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        tries = []
        for line in (match["tries"] or "").splitlines():
            request = TRY.fullmatch(line.strip())
            assert request, f"{path.name}: {line!r} is not METHOD PATH [BODY] -> STATUS [TEXT]"
            tries.append(request)
        code = textwrap.dedent(match["code"])
        found.append(Example(path, text.count("\n", 0, match.start("code")), code, tuple(tries)))
    return found


def entries(module: str) -> set[str]:
    """The names of a module that the reference describes."""
    paths = [path for page in DOCS.rglob("*.md") for path in ENTRY.findall(page.read_text(encoding="utf-8"))]
    # A function and its module have the same name there.
    names = {path.replace("testing.lint.lint", "testing.lint").removeprefix(f"{module}.") for path in paths}
    return {name for name in names if "." not in name}


def rows(page: str) -> dict[str, str]:
    """The tables of a page: the name in the first column, the text of the second."""
    return {row["name"]: row["second"] for row in ROW.finditer((DOCS / page).read_text(encoding="utf-8"))}


class Marked(ast.NodeTransformer):
    """Makes each function of an example tell that it was called."""

    def __init__(self) -> None:
        self.names: dict[int, str] = {}
        self.called: set[int] = set()

    @property
    def uncalled(self) -> list[str]:
        return [f"{name}, line {line}" for line, name in self.names.items() if line not in self.called]

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self._mark(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return self._mark(node)

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        self.generic_visit(node)
        node.body = ast.BoolOp(ast.Or(), [self._call(node, "lambda"), node.body])  # a set's ``add`` returns None
        return node

    def _mark(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
        self.generic_visit(node)
        node.body.insert(ast.get_docstring(node) is not None, ast.Expr(self._call(node, node.name)))
        return node

    def _call(self, node: ast.expr | ast.stmt, name: str) -> ast.expr:
        self.names[node.lineno] = name
        return ast.parse(f"__called__.add({node.lineno})", mode="eval").body


# A call is given these, whether it makes use of them or not.
GIVEN = {"send", "receive"}

# What runs in test_readme_example_passes_its_test_under_pytest, wire/test_tutorial.py, and test_django_pages.py.
CALLED_ELSEWHERE = {
    "README.md": {"anyio_backend"},
    "tutorial.md": {"wait", "parts"},
    "from-django.md": {"search"},
    "django.md": {"__init__", "create_request", "response_ready", "request_finished", "get_application"},
}


async def run(example: Example, namespace: dict[str, Any], marked: Marked) -> None:
    """Execute one block and do what it promises."""
    before = dict(namespace)
    # Blank lines in front: a traceback names the line of the page.
    tree = marked.visit(ast.parse("\n" * example.line + example.code))
    namespace["__called__"] = marked.called
    exec(compile(ast.fix_missing_locations(tree), example.path, "exec"), namespace)
    for request in example.tries:
        path, _, query = request["path"].partition("?")
        body = (request["body"] or "").encode()
        channel = await call(
            namespace["app"],
            body_messages(body) if body else [EMPTY],
            method=request["method"],
            path=path,
            raw_path=path.encode(),
            query_string=query.encode(),
        )
        assert channel.status == int(request["status"]), f"{example.path.name}: {request[0]}: {channel.body!r}"
        if request["text"]:
            lines = " / ".join(line for line in channel.body.decode().splitlines() if line)
            assert lines.strip() == request["text"], f"{example.path.name}: {request[0]}"
    for name, value in namespace.items():
        if name.startswith("test_") and value is not before.get(name):
            with anyio.fail_after(10):
                await value()


def test_options_of_the_django_page_are_those_of_the_bridge() -> None:
    """The table has every option and its default."""
    pytest.importorskip("django", reason="needs the extra 'django'")
    from asgicore.django_bridge._options import DEFAULTS

    listed = {name: second.strip("`") for name, second in rows("django.md").items()}
    assert listed == {name: repr(value).replace("'", '"') for name, value in DEFAULTS.items()}


@pytest.mark.parametrize("page", PAGES, ids=title)
async def test_examples_of_a_page_do_what_the_page_says(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each block runs after those above it, answers its requests as written, passes its own tests, and is all used."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # some make a folder of their own
    namespace: dict[str, Any] = {"__name__": "example"}
    marked = Marked()
    for example in examples(page):
        for name in example.imports() - sys.modules.keys():
            try:
                is_there = importlib.util.find_spec(name) is not None
            except ModuleNotFoundError:  # nor is what it belongs to
                is_there = False
            if not is_there:
                pytest.skip(f"{page.name} needs {name}")
        if example.module:
            module = types.ModuleType(example.module)
            monkeypatch.setitem(sys.modules, example.module, module)
            namespace = vars(module)
        await run(example, namespace, marked)
    elsewhere = GIVEN | CALLED_ELSEWHERE.get(page.name, set())
    assert [one for one in marked.uncalled if one.partition(",")[0] not in elsewhere] == []


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_example_with_an_application_is_tried(page: Path) -> None:
    """No application stands on a page without a request that it answers."""
    blocks = examples(page)
    for index, example in enumerate(blocks):
        if re.search(r"^app\b.*=", example.code, re.MULTILINE):
            used = any("test_" in later.code and re.search(r"\bapp\b", later.code) for later in blocks[index:])
            assert example.tries or used, f"{page.name}:{example.line}"


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_fence_of_python_is_one_that_runs(page: Path) -> None:
    """It says ``python``, and nothing beside it; ``py`` is for what a test of its own runs."""
    fences = re.findall(r"^ *(?:```|~~~)[ {.]*(py.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(fences) <= {"python", "py"}
    assert fences.count("python") == len(examples(page))
    assert "py" not in fences or page.name in ("lint.md", "testing.md")


def test_readme_example_passes_its_test_under_pytest(tmp_path: Path) -> None:
    """The two files of the README, saved under their names, are collected by pytest and pass on both backends."""
    pytest.importorskip("trio")
    named = {example.module: example.code for example in examples(ROOT / "README.md") if example.module}
    assert {"hello", "test_hello"} <= named.keys()
    for name, code in named.items():
        (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""}
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", ".", "."],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert "2 passed" in result.stdout, result.stdout + result.stderr


def test_limits_page_lists_every_field_with_its_default() -> None:
    """The table names each field of Limits once, in order, with the default that it has."""
    assert rows("limits.md") == {field.name: str(field.default) for field in fields(Limits)}


def test_errors_page_shows_the_tree_of_the_classes() -> None:
    """The tree holds every error, under the error that it is a kind of."""
    tree = re.search(r"```text\n(AsgicoreError\n.*?)```", (DOCS / "errors.md").read_text(encoding="utf-8"), re.DOTALL)
    assert tree
    parents: list[str] = []
    shown: dict[str, str | None] = {}
    for line in tree[1].splitlines():
        found = re.match(r"([│├└─ ]*)(\w+)", line)
        assert found
        depth = (len(found[1]) + 3) // 4
        del parents[depth:]
        shown[found[2]] = parents[-1] if parents else None
        parents.append(found[2])
    public = {name: getattr(errors, name) for name in errors.__all__}
    assert shown == {
        name: error.__bases__[0].__name__ if error is not AsgicoreError else None for name, error in public.items()
    }


async def test_response_ready_that_raises_is_answered_as_the_errors_page_says(caplog: pytest.LogCaptureFixture) -> None:
    """Before the start, what a hook raises is logged once and answered with a 500."""

    class Failing(Handler):
        async def response_ready(self, request: Any, response: Response) -> None:
            if response.status_code == 200:
                raise KeyError("a hook of the framework")

    async def endpoint(request: Request) -> Response:
        return Response("never sent")

    channel = await call(Failing(endpoint))
    assert (channel.status, channel.body) == (500, b"Internal Server Error")
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_hooks_page_lists_every_hook() -> None:
    """The table names what a subclass may override: every public method of Handler but the ones for its user."""
    public = {name for name in {**vars(Hooks), **vars(Handler)} if not name.startswith("_") and name != "aclose"}
    listed = rows("hooks.md")
    assert listed.keys() == public
    text = (DOCS / "hooks.md").read_text(encoding="utf-8")
    for name in sorted(public):
        hook = getattr(Handler, name)
        if inspect.isfunction(hook):
            arguments = ", ".join(list(inspect.signature(hook).parameters)[1:])
            assert f"`{name}({arguments})`" in text


@pytest.mark.parametrize("module", MODULES)
def test_reference_has_an_entry_for_every_public_name(module: str) -> None:
    """What can be imported has one, under its own name or that of asgicore, which has it, too."""
    extra = "django" if module.endswith("django_bridge") else None
    if extra and not importlib.util.find_spec(extra):
        pytest.skip(f"needs {extra}")
    names: set[str] = set(importlib.import_module(module).__all__) - {"__version__"}
    at_the_root = names & set(asgicore.__all__)
    assert {*entries(module), *(entries("asgicore") & at_the_root)} == names


def test_observability_page_lists_every_outcome_and_every_moment() -> None:
    """The tables name each member of Outcome and each field of Timings, in order, and what a subclass may override."""
    listed = list(rows("observability.md"))
    methods = ["around", "extra_headers", "__call__"]
    assert listed == [*Outcome.__members__, *(field.name for field in fields(Timings)), *methods]
    assert set(methods) == {name for name, value in vars(Observer).items() if inspect.isfunction(value)}


def test_testing_page_lists_every_option_of_a_request() -> None:
    """The table names each of RequestOptions."""
    from asgicore.testing import RequestOptions

    assert RequestOptions.__annotations__.keys() <= rows("testing.md").keys()


def test_flask_page_claims_what_tests_show() -> None:
    """Each row of its comparison has a test, which is there."""
    text = (DOCS / "flask.md").read_text(encoding="utf-8")
    table = re.search(r"^\| \| asgicore \| asgiref \|.*\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    tests = re.search(r"^<!-- shown by, row by row\n(.*?)^-->", text, re.MULTILINE | re.DOTALL)
    assert table
    assert tests
    shown = [line.split() for line in tests[1].splitlines()]
    assert len(shown) == len(table[1].splitlines()) == 20
    for path, name in shown:
        assert re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE), name


def test_guarantees_page_names_tests_that_exist() -> None:
    """Each promise has a test, which is there."""
    text = (DOCS / "guarantees.md").read_text(encoding="utf-8")
    promises = re.findall(r"^\| (?!promise |--)(.+)\|$", text, re.MULTILINE)
    assert len(promises) > 60
    for row in promises:
        named = re.search(r"\| `(tests/[\w/]+\.py)::(test_\w+)` $", row)
        assert named, row
        source = (ROOT / named[1]).read_text(encoding="utf-8")
        assert re.search(rf"^(async )?def {named[2]}\(", source, re.MULTILINE), row


def test_synchronous_page_lists_every_option_of_threads_with_its_default() -> None:
    """The table names each argument of Threads, in order, with the default that it has."""
    options = list(inspect.signature(Threads).parameters.values())
    listed = rows("synchronous.md")
    assert {name: default.strip("`") for name, default in listed.items()} == {
        option.name: str(option.default) for option in options
    }


def test_compression_page_lists_every_option_with_its_default() -> None:
    """The table names each argument of Compression, in order, with the default that it has."""
    options = [field for field in fields(Compression) if field.init]
    defaults = [option.default if option.default is not MISSING else {} for option in options]
    assert {name: default.strip("`") for name, default in rows("compression.md").items()} == {
        option.name: getattr(default, "__name__", str(default))
        for option, default in zip(options, defaults, strict=True)
    }


def test_flask_page_lists_every_option_of_the_bridge() -> None:
    """Each argument of WSGIHandler but the application."""
    options = set(inspect.signature(WSGIHandler).parameters) - {"app"}
    assert options <= rows("flask.md").keys()


def test_as_wsgi_page_lists_every_option_with_its_default() -> None:
    """Each argument of as_wsgi but the application."""
    options = list(inspect.signature(as_wsgi).parameters.values())[1:]
    assert {name: default.strip("`") for name, default in rows("as-wsgi.md").items()} == {
        option.name: str(option.default) for option in options
    }


def test_readme_has_one_command_each_to_serve_and_to_test() -> None:
    """The lines that a fresh machine runs, and that the continuous integration takes from here."""
    commands = re.findall(
        r"^python3 -m venv \.venv && .*$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert len(commands) == 2
    module = re.search(r"uvicorn examples\.(\w+):app$", commands[0])
    assert module
    assert (ROOT / "examples" / f"{module[1]}.py").exists()
    assert "pytest" in commands[1]


def test_links_between_pages_lead_somewhere() -> None:
    """Every relative link of a page names a file, and a section that is there."""
    broken = []
    for page in [*ROOT.glob("*.md"), *DOCS.glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text(encoding="utf-8")):
            name, _, section = target.partition("#")
            path = page.parent / name if name else page
            if not path.exists():
                broken.append(f"{page.name}: {target}")
            elif section:
                titles = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
                anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
                if section not in anchors:
                    broken.append(f"{page.name}: {target}")
    assert not broken
