"""The project in ``examples/django_site``: its databases, and servers that run it."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from .servers import PROJECT, TESTS, Kind, Server, eventually, running

SITE = PROJECT / "examples" / "django_site"
APP = "mysite.asgi:application"

# Fewer than there are clients in the tests, so that a worker that is not given back is missed at once.
MAX_WORKERS = 4

ADMIN = ("ann", "a long password")
NOTES = 60

# Of a view that raises, and of ``BadRequest``, Django logs the traceback.
_RAISED = (
    r"(?:ERROR django\.request: Internal Server Error: /broken/"
    r"|WARNING django\.request: seconds takes a number from 0 to 60: /slow/)\n"
    r"Traceback [^\n]*\n(?:[ \t][^\n]*\n)*(?:RuntimeError|django\.core\.exceptions\.BadRequest): [^\n]*\n"
)

# What was left to the collector, and what Django says of streams that it reads to the end before it sends them.
_CARELESS = re.compile(r"ResourceWarning|was deleted while still open|must consume synchronous iterators")


def environment(database: Mapping[str, str], directory: Path, **more: str) -> dict[str, str]:
    """Variables for the project: the database, a directory for uploads, and what a test wants different."""
    return {
        "PYTHONPATH": os.pathsep.join([str(SITE), str(TESTS), str(PROJECT)]),
        "PYTHONWARNINGS": "always::ResourceWarning",
        "DJANGO_SETTINGS_MODULE": "wire.quick_site",
        "SECRET_KEY": "of the tests",
        "MAX_WORKERS": str(MAX_WORKERS),
        "MEDIA_ROOT": str(directory / "media"),
        **database,
        **more,
    }


# Three times ``manage.py`` in one process.
_PREPARE = """
import django
from django.core.management import call_command
django.setup()
call_command("migrate", "--verbosity=0")
call_command("createsuperuser", "--noinput", "--username={name}", "--email=ann@example.org")
call_command("fill", "{notes}")
"""


def prepare(variables: Mapping[str, str]) -> None:
    """Make the tables of a database, somebody who may use the admin, and some rows."""
    name, password = ADMIN
    done = subprocess.run(
        [sys.executable, "-c", _PREPARE.format(name=name, notes=NOTES)],
        cwd=SITE,
        env={**os.environ, **variables, "DJANGO_SUPERUSER_PASSWORD": password},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"


def complaints(server: Server) -> list[str]:
    """What the log holds that a site in good order does not say."""
    return [*server.complaints(), *(line for line in server.log.splitlines() if _CARELESS.search(line))]


@contextlib.contextmanager
def site(kind: Kind, directory: Path, variables: Mapping[str, str]) -> Iterator[Server]:
    """A server that runs the project for the length of a block, and then has to end without a complaint."""
    with running(replace(kind, excused=_RAISED), directory, APP, variables) as server:
        yield server
    assert complaints(server) == [], server.log


# --- what the site says of itself ------------------------------------------------------------------------------


def status(server: Server) -> dict[str, Any]:
    with server.client() as client:
        told: dict[str, Any] = client.get("/status/").raise_for_status().json()
        return told


def activity(server: Server, name: str) -> dict[str, int]:
    """How many activities of a kind are open, were finished, and were broken off."""
    told: dict[str, int] = status(server)["activities"].get(name, {"open": 0, "finished": 0, "broken_off": 0})
    return told


def await_activity(server: Server, name: str, **counts: int) -> None:
    """Wait until the activities of a kind are counted so."""

    def agrees() -> bool:
        return activity(server, name).items() >= counts.items()

    try:
        eventually(agrees, f"{name}: {counts}")
    except AssertionError as exc:
        raise AssertionError(f"{exc}, but {activity(server, name)}:\n{server.log}") from None


def open_files(server: Server) -> list[str]:
    """The temporary files and the uploads that the process of the site has open; empty where this cannot be seen."""
    links = Path(f"/proc/{status(server)['process']}/fd")
    names = []
    for link in links.iterdir() if links.is_dir() else ():
        with contextlib.suppress(FileNotFoundError):
            names.append(str(link.readlink()))
    return [name for name in names if "(deleted)" in name or "/media/" in name]
