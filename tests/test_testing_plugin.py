"""The pytest plugin of asgicore.testing: its fixtures, in runs of pytest of their own, and what it costs at start."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from pages import tried_by

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
PLUGIN: str = PROJECT["entry-points"]["pytest11"]["asgicore"]

HEAD = """
import anyio, asyncio, os, pytest, tempfile

async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["asgi"].get("spec_version", "none").encode()})
"""


on_both_backends = pytest.mark.skipif(importlib.util.find_spec("trio") is None, reason="needs the extra 'trio'")


def run_pytest(path: Path, code: str, *arguments: str) -> str:
    """What a run of pytest over this file prints; it runs in this process, where its coverage is looked at."""
    file = path / "test_it.py"
    file.write_text(HEAD + code, encoding="utf-8")
    # By their names: what else is installed is not needed, and takes its time to start.
    options = ["-q", "-s", "-Werror", "-pno:cacheprovider", "-panyio.pytest_plugin"]
    options += ["--import-mode=importlib", "--rootdir=.", f"-c{os.devnull}"]
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        patch.setenv("PYTEST_ADDOPTS", "")
        patch.chdir(path)
        pytest.main([*options, *arguments, file.name], plugins=[importlib.import_module(PLUGIN)])
    del sys.modules[file.stem]  # the next one is another
    return out.getvalue()


def test_plugin_is_found_by_its_entry_point() -> None:
    """The project declares the module that has the fixtures."""
    assert {"asgi_client", "asgi_server", "leak_guard"} <= vars(importlib.import_module(PLUGIN)).keys()


def test_plugin_at_start_imports_the_root_alone() -> None:
    """A project that uses no fixture of it does not pay for the testing kit."""
    code = f"import asgicore, sys; before = {{*sys.modules}}; import {PLUGIN}; print(*{{*sys.modules}} - before)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=50, check=True
    )
    assert [name for name in done.stdout.split() if name.startswith("asgicore")] == [PLUGIN]


@on_both_backends
def test_client_fixture_makes_clients_of_the_server_fixture(tmp_path: Path) -> None:
    """uvicorn's personality unless a test says otherwise; the server fixture can be overridden with parameters."""
    out = run_pytest(
        tmp_path,
        """
@pytest.mark.anyio
async def test_default(asgi_client):
    assert (await asgi_client(app).get("/")).text == "2.3"

@pytest.mark.anyio
async def test_given(asgi_client):
    from asgicore.testing import DAPHNE
    assert (await asgi_client(app, server=DAPHNE).get("/")).text == "none"

class TestAll:
    @pytest.fixture(params=["STRICT", "GUNICORN"])
    def asgi_server(self, request):
        import asgicore.testing
        return getattr(asgicore.testing, request.param)

    @pytest.mark.anyio
    async def test_each(self, asgi_client, asgi_server):
        assert (await asgi_client(app).get("/")).text == asgi_server.spec_version
""",
    )
    assert re.search(r"^8 passed", out, re.MULTILINE), out


LEAKS = """
@pytest.fixture(autouse=True)
def quick(leak_guard):
    leak_guard.settle_seconds = 0.1

def leave():
    number, path = tempfile.mkstemp()
    os.close(number)
    return path

@pytest.fixture
def before():
    path = leave()
    yield
    os.unlink(path)

def test_clean(leak_guard, before):
    os.unlink(leave())

def test_leaky(leak_guard):
    leave()

@pytest.mark.anyio
async def test_async_clean(leak_guard, before, asgi_client):
    assert (await asgi_client(app).get("/")).text == "2.3"

@pytest.mark.anyio
async def test_async_leaky(leak_guard, anyio_backend_name):
    if anyio_backend_name == "trio":
        import trio
        trio.lowlevel.spawn_system_task(trio.sleep, 3)
    else:
        global task
        task = asyncio.create_task(asyncio.sleep(3))
    await anyio.lowlevel.checkpoint()

def test_settings(leak_guard):
    leak_guard.temp_files = False
    os.unlink(leave())

class TestMethods:
    @pytest.mark.anyio
    async def test_method(self, leak_guard):
        leave()
"""


@on_both_backends
def test_leak_guard_fixture_guards_the_body_of_a_test(tmp_path: Path) -> None:
    """Asynchronous tests in their loop, methods too; files of fixtures and of other tests do not count."""
    out = run_pytest(tmp_path, LEAKS, "-rA")
    outcomes = {
        name: outcome for outcome, name in re.findall(r"^(PASSED|FAILED) test_it\.py::(\S+)", out, re.MULTILINE)
    }
    failed = {name for name, outcome in outcomes.items() if outcome == "FAILED"}
    assert failed == {
        "test_leaky",
        *(f"test_async_leaky[{backend}]" for backend in ("asyncio", "trio")),
        *(f"TestMethods::test_method[{backend}]" for backend in ("asyncio", "trio")),
    }, out
    assert len(outcomes) == 9
    assert "LeakError: left behind:" in out


@on_both_backends
def test_leak_guard_fixture_guards_tests_of_hypothesis(tmp_path: Path) -> None:
    """All examples of a test together; the runner of anyio's plugin is no leak."""
    pytest.importorskip("hypothesis")
    out = run_pytest(
        tmp_path,
        """
from hypothesis import HealthCheck, given, settings, strategies

unchecked = settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))

@pytest.mark.anyio
@unchecked
@given(strategies.integers())
async def test_async(leak_guard, number):
    await anyio.lowlevel.checkpoint()

@unchecked
@given(strategies.integers())
def test_sync(leak_guard, number):
    pass
""",
    )
    assert re.search(r"^3 passed", out, re.MULTILINE), out


def test_page_on_testing_shows_fixtures_that_work(tmp_path: Path) -> None:
    """The example of the documentation passes, on both backends."""
    (example,) = tried_by("test_testing_plugin.py::test_page_on_testing_shows_fixtures_that_work")
    out = run_pytest(tmp_path, example.text)
    assert re.search(r"^\d+ passed in", out, re.MULTILINE), out
