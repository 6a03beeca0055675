"""The layers of the package: imports go downward, modules stand alone, and the root loads nothing that is optional."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import asgicore

PACKAGE = Path(asgicore.__file__).parent
PATHS = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
MODULES = sorted(PATHS)
TREES = {name: ast.parse(path.read_text("utf-8")) for name, path in PATHS.items()}

# From the bottom up; a module imports from lower layers alone, so the members of one layer never import each other.
LAYERS: list[set[str]] = [
    {"errors", "types", "limits"},
    {"_grammar", "_state", "_callables", "_chunks", "_dates", "_encoders", "_observer"},
    {
        *("_headers", "_params", "_cookies", "_target", "_accept", "_conditions"),
        *("_disposition", "_media_types", "_paths", "_sse"),
    },
    {"_meta", "_extensions", "_multipart_library", "_ranges"},
    {"_form_data"},
    {"_from_thread", "_grace", "_watch"},
    {"_jobs", "_stepped", "_late_scope"},
    {"_threads"},
    {"_idle", "_pump", "_spool", "_writer", "_lifespan", "_signals", "_channel"},
    {"_receiver"},
    {"_body", "_disk", "_files", "_keep_alive", "_uploads"},
    {"_parts", "_request_head"},
    {"_form"},
    {"_request", "_response"},
    {"_responses", "_streaming_response"},
    {"_exchange", "_encoded", "_events", "_file_response"},
    {"_compression", "_observe"},
    {"_hooks"},
    {"_handler"},
    {"_alone"},
    {"__init__"},
    # What stands on the core, and nothing of it imports.
    {"wsgi_bridge._environ", "wsgi_bridge._start_response", "wsgi_bridge._input", "wsgi_bridge._loop"},
    {"wsgi_bridge._scope", "wsgi_bridge._overflow"},
    {"wsgi_bridge._handler", "wsgi_bridge._as_wsgi"},
    {"wsgi_bridge.__init__"},
    {f"django_bridge.{name}" for name in ("_options", "_quiet", "_cancel", "_job", "_stock", "_variables")},
    {"django_bridge._workers"},
    {"django_bridge._hop"},
    {"django_bridge._call", "django_bridge._chain"},
    {"django_bridge._request", "django_bridge._answer", "django_bridge._visit"},
    {"django_bridge._handler"},
    {"django_bridge._check"},
    {"django_bridge.__main__"},
    {"django_bridge.__init__"},
    # For tests; it knows of the core what is pure.
    {"testing._lint.rules"},
    {"testing._lint.fields"},
    {"testing._lint.scope"},
    {"testing._lint.http"},
    {"testing._lint.lifespan"},
    {"testing._lint.lint"},
    {"testing._lint.__init__"},
    {"testing._errors", "testing._servers", "testing._faults", "testing._where", "testing._cookie_jar"},
    {"testing._requests", "testing._living"},
    {"testing._client_response", "testing._connection", "testing._leaks"},
    {"testing._messages"},
    {"testing._exchange"},
    {"testing._channel"},
    {"testing._lifespan"},
    {"testing._client"},
    {"testing._check.rules", "testing._check.exchange", "testing._check.watch"},
    {"testing._check.probing"},
    {"testing._check.requests", "testing._check.leaving", "testing._check.resources"},
    {"testing._check.probes"},
    {"testing._check.worker", "testing._check.report"},
    {"testing._check.processes"},
    {"testing._check.command"},
    {"testing._check.__init__"},
    {"testing.__init__"},
    {"__main__", "_pytest_plugin"},
]
PURE = {name for layer in LAYERS[:5] for name in layer} | {
    "wsgi_bridge._environ",
    "wsgi_bridge._scope",
    "wsgi_bridge._start_response",
    *(f"testing._lint.{name}" for name in ("rules", "fields", "scope", "http", "lifespan")),
}
# They stand between a server and an application, and have channels of their own.
OF_TESTS = {name for name in MODULES if name.startswith("testing.")}
# Tasks and threads are for the layer above; multidict is a container.
THIRD_PARTY = {"anyio", "multidict"}
# What a bridge is to, its extra brings; its root says so where it is missing.
BRIDGED = {"django_bridge": {"django", "asgiref"}}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
OPTIONAL = [
    "django",
    "trio",
    "uvicorn",
    "asgiref.sync",
    "multipart",
    "python_multipart",
    "httpx",
    "uvloop",
    "starlette",
    "brotli",
    "brotlicffi",
    "zstandard",
    "backports.zstd",
]


def imports_of(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(level, name) of every import, wherever it stands; ``from . import x`` gives x."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.module is None:
                yield from ((node.level, alias.name) for alias in node.names)
            else:
                yield node.level, node.module


def calls_of(name: str, module: str) -> set[str]:
    """The functions of a module, as ``Class.method``, that call a channel of this name."""
    found: set[str] = set()

    def look(node: ast.AST, path: tuple[str, ...]) -> None:
        if isinstance(node, ast.Call):
            function = node.func
            if (isinstance(function, ast.Name) and function.id == name) or (
                isinstance(function, ast.Attribute) and function.attr == f"_{name}"
            ):
                found.add(".".join(path))
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                look(child, (*path, child.name))
            else:
                look(child, path)

    look(TREES[module], ())
    return found


def test_layers_of_package_hold_every_module_once() -> None:
    """A new module gets its place here before anything else."""
    placed = [name for layer in LAYERS for name in layer]
    assert sorted(placed) == MODULES


@pytest.mark.parametrize("name", MODULES)
def test_imports_of_module_go_downward(name: str) -> None:
    """A module imports from lower layers of the package alone, never by its absolute name."""
    height = next(index for index, layer in enumerate(LAYERS) if name in layer)
    below = {lower for layer in LAYERS[:height] for lower in layer}
    package = name.split(".")[:-1]
    for level, imported in imports_of(TREES[name]):
        if level:
            above = package[: len(package) - level + 1]
            assert ".".join([*above, imported]) in below
        else:
            assert imported.partition(".")[0] != "asgicore"


@pytest.mark.parametrize("name", MODULES)
def test_imports_of_module_at_its_top_are_installed_with_the_package(name: str) -> None:
    """What an extra brings is imported where it is used, and not on top."""
    pending: list[ast.AST] = [TREES[name]]
    installed = THIRD_PARTY | BRIDGED.get(name.partition(".")[0], set())
    if name == "_pytest_plugin":
        installed = installed | {"pytest"}  # which alone imports it
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            for level, imported in imports_of(node):
                top = imported.partition(".")[0]
                assert level or top in sys.stdlib_module_names or top in installed
        pending += [child for child in ast.iter_child_nodes(node) if not isinstance(child, FUNCTIONS)]


def test_errors_types_and_limits_import_nothing_of_the_package() -> None:
    """The bottom of the graph."""
    for name in LAYERS[0]:
        assert not [imported for level, imported in imports_of(TREES[name]) if level]


def test_request_and_response_do_not_import_each_other() -> None:
    """One can be used without the other."""
    for name, other in (("_request", "_response"), ("_response", "_request")):
        assert other not in {imported for _, imported in imports_of(TREES[name])}


@pytest.mark.parametrize("name", sorted(PURE))
def test_module_of_pure_layer_neither_awaits_nor_needs_anyio(name: str) -> None:
    """Bytes in, values out: whatever waits is above."""
    waiting = (ast.Await, ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith, ast.Yield)
    allowed = {"_headers": (ast.Yield,), "_chunks": (ast.Yield,)}.get(name, ())
    assert not [node for node in ast.walk(TREES[name]) if isinstance(node, waiting) and not isinstance(node, allowed)]
    assert "anyio" not in {imported.partition(".")[0] for _, imported in imports_of(TREES[name])}


def test_receive_is_called_by_the_body_alone() -> None:
    """One reader of ``receive``: the body, its timer, and the scopes that have no body.

    The listener hook is handed the body as its ``receive``.
    """
    callers = {f"{name}:{function}" for name in set(MODULES) - OF_TESTS for function in calls_of("receive", name)}
    may = {"_receiver", "_body", "_idle", "_lifespan"}
    others = {caller for caller in callers if caller.partition(":")[0] not in may}
    assert others <= {"_hooks:Hooks.listen_for_disconnect"}
    assert any(caller.startswith("_receiver:") for caller in callers)


def test_send_is_called_by_the_writer_alone() -> None:
    """One sender: the writer, and the scopes that have no response."""
    callers = {name for name in set(MODULES) - OF_TESTS if calls_of("send", name)}
    assert callers == {"_writer", "_lifespan"}


def test_legal_order_is_known_to_body_and_writer_alone() -> None:
    """The tables of transitions are consulted by the two that own a channel; the body that is whole needs none."""
    users = {name for name in MODULES if (1, "_state") in set(imports_of(TREES[name]))}
    assert users == {"_receiver", "_body", "_writer"}


def run_python(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=150, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


ALONE = """
import importlib, sys
for name in {names!r}:
    for loaded in [loaded for loaded in sys.modules if loaded.partition(".")[0] == "asgicore"]:
        del sys.modules[loaded]
    # The package itself, without the imports of its root, so that the module has to find its own.
    package = type(sys)("asgicore")
    package.__path__ = [{path!r}]
    sys.modules["asgicore"] = package
    importlib.import_module("asgicore." + name)
    print(name)
"""


@pytest.mark.timeout(160)  # every module, and each with all that it imports, again and again
def test_module_imported_alone_in_fresh_interpreter_loads() -> None:
    """No module needs another one to be imported first."""
    # A bridge to what is not installed says so.
    missing = {bridge for bridge, wanted in BRIDGED.items() if not all(map(importlib.util.find_spec, wanted))}
    names = [name for name in MODULES if not name.endswith("__init__") and name.partition(".")[0] not in missing]
    assert run_python(ALONE.format(names=names, path=str(PACKAGE))).split() == names


def test_import_of_package_loads_nothing_optional() -> None:
    """``import asgicore`` loads neither Django, trio, uvicorn, ``asgiref.sync`` nor a form parser."""
    loaded = set(run_python("import sys, asgicore; print(*sys.modules)").split())
    assert "asgicore._handler" in loaded
    assert not [name for name in OPTIONAL if name in loaded]


def test_import_of_package_works_where_extras_are_missing() -> None:
    """The core is complete without any extra."""
    blocked = "import sys; sys.modules.update(dict.fromkeys({names!r})); import asgicore; print(asgicore.__version__)"
    assert run_python(blocked.format(names=OPTIONAL)).strip() == asgicore.__version__


LATE = """
import sys
import asgicore
before = set(sys.modules)
for name in asgicore.__all__:
    assert name in dir(asgicore), name
    getattr(asgicore, name)
print(*sorted(name for name in set(sys.modules) - before if name.startswith("asgicore.")))
"""


def test_names_that_not_everybody_uses_are_imported_when_they_are_asked_for() -> None:
    """``import asgicore`` brings what every request needs; all other names are there as well."""
    later = {name.removeprefix("asgicore.") for name in run_python(LATE).split()}
    assert later >= {"_compression", "_events", "_file_response", "_observer", "_parts", "_signals", "_sse", "_uploads"}
    assert later >= set(vars(asgicore)["_LATE"].values())


def test_name_that_not_everybody_uses_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an attribute of the package from then on; what is not there at all is an AttributeError as ever."""
    monkeypatch.delitem(vars(asgicore), "UploadFile", raising=False)
    assert "UploadFile" in dir(asgicore)
    assert asgicore.UploadFile is sys.modules["asgicore._uploads"].UploadFile
    assert "UploadFile" in vars(asgicore)
    with pytest.raises(AttributeError, match="module 'asgicore' has no attribute 'Uploads'"):
        asgicore.Uploads  # type: ignore[attr-defined]  # noqa: B018 - asked for what is not there


# The kit would import what is looked for.
ASKED_FOR = """
import sys
import anyio
import asgicore
assert not {"tempfile", "hashlib", "asgicore._accept", "asgicore._form"} & set(sys.modules)

async def endpoint(request):
    request.preferred_type("text/html")
    request.preferred_encoding("gzip")
    request.preferred_language("en")
    await (request.form() if request.method == "POST" else request.file())
    response = asgicore.Response("hello")
    response.set_etag()
    return response

async def status_of(handler, method, body, *headers):
    sent = []
    messages = [{"type": "http.request", "body": body}]

    async def receive():
        return messages.pop() if messages else await anyio.sleep_forever()

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": method, "path": "/", "headers": list(headers)}
    await handler(scope, receive, send)
    return sent[0]["status"]

async def main():
    await asgicore.Threads().run(len, b"")  # anyio's backend imports at its first use
    handlers = [
        asgicore.Handler(endpoint, body=body, limits=asgicore.Limits(spool_threshold_bytes=10))
        for body in ("spool", "stream")
    ]
    before = set(sys.modules)
    for handler in handlers:
        for arguments in (
            ("POST", b"a=1&b=" + b"2" * 100, (b"content-type", b"application/x-www-form-urlencoded")),
            ("GET", b"x" * 100),
            ("GET", b"", (b"content-length", b"+1")),
        ):
            print(await status_of(handler, *arguments), *sorted(set(sys.modules) - before))

anyio.run(main)
"""


def test_no_request_imports_anything() -> None:
    """A handler has imported what its requests may ask for: none waits for that, nor fails for want of a descriptor."""
    assert run_python(ASKED_FOR).split() == ["200", "200", "400"] * 2
