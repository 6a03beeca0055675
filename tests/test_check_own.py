"""The check finds nothing in ours: neither where it finds something in others, nor by any other probe."""

from __future__ import annotations

import importlib
import importlib.util
import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from pages import ROOT, pieces, tried_by
from test_check_peers import A2WSGI, APPS, ASGIREF, DJANGO, STARLETTE, jobs_for

from asgicore.__main__ import main
from asgicore.testing._check.probes import LIFESPAN, PROBES
from asgicore.testing._check.processes import check
from asgicore.testing._check.worker import work

pytestmark = [pytest.mark.timeout(120), pytest.mark.untraced]

# Every probe is tried on these; of the others, those that find something in others.
PATHS = {
    "own_site:app": ["/hello", "/plain", "/read-stream", "/stream", "/sync-stream", "/file", "/events"],
    "wsgi_site:own": ["/hello", "/read", "/stream"],
    "django_one_file:own": ["/hello", "/sync", "/read", "/stream", "/file"],
}
PEERS = {"own_site:app": [STARLETTE], "wsgi_site:own": [A2WSGI, ASGIREF], "django_one_file:own": [DJANGO]}


def jobs_of(target: str) -> list[tuple[str, str]]:
    jobs = [(probe, path) for path in PATHS[target] for probe in PROBES]
    jobs += [job for peer in PEERS[target] for job in jobs_for(peer, "asyncio") if job[0] != LIFESPAN]
    return [*dict.fromkeys(jobs), (LIFESPAN, "")]


# A probe waits for things that do not happen, and uvloop keeps asyncio's rules.
LOOPS = [pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio")]
if importlib.util.find_spec("trio"):
    LOOPS.append(pytest.param(("trio", {}), id="trio"))


@pytest.mark.parametrize("anyio_backend", LOOPS, indirect=True)
@pytest.mark.parametrize("target", ["own_site:app", "wsgi_site:own"])
async def test_check_finds_nothing_in_ours(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Endpoints of every kind, bodies of both, files, events, and the WSGI bridge: neither error nor warning."""
    monkeypatch.syspath_prepend(os.fspath(APPS))
    module, _, name = target.partition(":")
    app = getattr(importlib.import_module(module), name)
    told: list[dict[str, Any]] = []
    with anyio.fail_after(60):
        await work(app, jobs_of(target), {"deadline": 10.0, "grace": 10.0, "glance": 0.03}, told.append)
    ends = [line for line in told if "end" in line]
    assert [tuple(line["end"]) for line in ends] == jobs_of(target)
    assert [(line["end"], one) for line in ends for one in line["findings"] if one["level"] != "note"] == []


# What the view raises is raised on.
KEPT = {("get", "/broken-stream", "request-raised")}


def test_check_finds_nothing_in_our_bridge_to_django() -> None:
    """The same probes of the same views, in a process of its own: there is one Django in a process."""
    pytest.importorskip("django", reason="needs the extra 'django'")
    target = "django_one_file:own"
    results = check(target, jobs_of(target), directory=os.fspath(APPS), deadline=2.0, grace=10.0, glance=0.03)
    bad = [
        (result.probe, result.path, finding)
        for result in results
        for finding in result.findings
        if finding.level != "note"
        and finding.rule != "header-case"  # Django's own handler keeps the case of names, and so does a drop-in
        and (result.probe, result.path, finding.rule) not in KEPT
    ]
    assert bad == []


def test_check_of_a_site_as_it_comes_finds_what_the_page_on_the_check_explains() -> None:
    """Names in Django's case, which make the exit status 1, and bodies of any size; nothing else by any probe."""
    pytest.importorskip("django", reason="needs the extra 'django'")
    paths = ["/hello", "/read"]
    asked = [word for path in paths for word in ("--path", path)]
    out = io.StringIO()
    options = ["--app-dir", os.fspath(APPS), "--grace", "10", "--json"]
    status = main(["check", "django_one_file:default", *asked, *options], out)
    found = {
        (result["probe"], result["path"], finding["rule"], finding["level"])
        for result in json.loads(out.getvalue())["results"]
        for finding in result["findings"]
    }
    assert found == {
        (probe, path, rule, level)
        for path in paths
        for probe, rule, level in (
            ("get", "header-case", "error"),
            ("body-limit", "body-unlimited", "warning"),
            ("odd-scopes", "query-refused", "note"),
        )
    }
    assert status == 1


def test_check_of_the_readme_finds_nothing(tmp_path: Path) -> None:
    """As its reader runs it, on the first example: neither an error nor a warning."""
    (piece,) = tried_by("test_check_own.py::test_check_of_the_readme_finds_nothing")
    (hello,) = (one.text for one in pieces() if one.page == piece.page and one.text.startswith("# hello.py\n"))
    (tmp_path / "hello.py").write_text(hello, encoding="utf-8")
    words = shlex.split(piece.text)
    assert words[0] == "python"
    done = subprocess.run(
        [sys.executable, *words[1:]],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^0 errors, 0 warnings, ", done.stdout, re.MULTILINE), done.stdout
