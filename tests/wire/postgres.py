"""A PostgreSQL of its own for the tests: a cluster in a temporary directory, on a free port."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from .servers import free_port

if TYPE_CHECKING:
    import psycopg

SECONDS = 30

# Nothing of it has to survive anything. The log tells of each connection, so that none is missed.
_CONFIGURATION = """
listen_addresses = '127.0.0.1'
port = {port}
unix_socket_directories = '{directory}'
fsync = off
synchronous_commit = off
full_page_writes = off
shared_buffers = 16MB
log_connections = on
log_line_prefix = '%p '
"""


class Cluster:
    """A cluster that runs; its superuser is ``postgres``."""

    def __init__(self, directory: Path, port: int, password: str) -> None:
        self._log = directory / "log"
        self._port = port
        self._password = password

    def connect(self, database: str = "postgres") -> psycopg.Connection[Any]:
        import psycopg

        return psycopg.connect(
            host="127.0.0.1",
            port=self._port,
            user="postgres",
            password=self._password,
            dbname=database,
            autocommit=True,
            connect_timeout=SECONDS,
        )

    def variables(self, database: str) -> dict[str, str]:
        """Where a database is, for the settings of the project."""
        return {
            "DATABASE_ENGINE": "django.db.backends.postgresql",
            "DATABASE_NAME": database,
            "DATABASE_USER": "postgres",
            "DATABASE_PASSWORD": self._password,
            "DATABASE_HOST": "127.0.0.1",
            "DATABASE_PORT": str(self._port),
        }

    def sessions(self, database: str) -> list[int]:
        """The backends that ever served a database, by process, in order."""
        pattern = rf"^(\d+) LOG:  connection authorized: user=postgres database={database}\b"
        return [int(pid) for pid in re.findall(pattern, self._log.read_text(errors="replace"), re.MULTILINE)]


def _binaries() -> Path:
    """The directory of ``initdb`` and ``pg_ctl``: on the path, or where Debian has it."""
    found = shutil.which("initdb")
    candidates = [Path(found).resolve().parent] if found else []
    debian = Path("/usr/lib/postgresql").glob("*/bin")
    candidates += sorted(debian, key=lambda path: float(path.parent.name), reverse=True)
    for candidate in candidates:
        if (candidate / "initdb").exists() and (candidate / "pg_ctl").exists():
            return candidate
    pytest.skip("PostgreSQL is not installed: no initdb on the path")


def _account() -> dict[str, Any]:
    """Whom its programs run as, for ``subprocess``: they refuse to run as root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            account = pwd.getpwnam(name)
            return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    pytest.skip("PostgreSQL does not run as root, and there is neither a user postgres nor nobody")


@contextlib.contextmanager
def cluster() -> Iterator[Cluster]:
    """A cluster for the length of a block; skips the test where PostgreSQL or its driver is not installed."""
    if importlib.util.find_spec("psycopg") is None:
        pytest.skip("psycopg is not installed")
    binaries, account = _binaries(), _account()
    # Not below pytest's own directory, which other users may not enter.
    with tempfile.TemporaryDirectory(prefix="postgres-") as name:
        directory = Path(name)
        password = secrets.token_hex()
        (directory / "password").write_text(password)
        if account:
            for path in (directory, directory / "password"):
                os.chown(path, account["user"], account["group"])

        def run(program: str, *arguments: str) -> None:
            # pg_ctl leaves its standard streams to the server, so they cannot be pipes: nobody would close them.
            with (directory / "output").open("w+b") as output:
                done = subprocess.run(
                    [str(binaries / program), "-D", str(directory / "data"), *arguments],
                    cwd=directory,
                    env={"PATH": os.defpath, "LC_ALL": "C"},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    timeout=2 * SECONDS,
                    **account,
                )
                output.seek(0)
                assert done.returncode == 0, f"{program} {arguments}:\n{output.read().decode(errors='replace')}"

        run(
            "initdb",
            *("--username=postgres", "--auth=scram-sha-256", f"--pwfile={directory / 'password'}"),
            *("--encoding=UTF8", "--locale=C", "--no-sync"),
        )
        port = free_port()
        with (directory / "data" / "postgresql.conf").open("a") as file:
            file.write(_CONFIGURATION.format(port=port, directory=directory))
        try:
            run("pg_ctl", "start", "--wait", f"--timeout={SECONDS}", f"--log={directory / 'log'}")
            yield Cluster(directory, port, password)
        finally:
            _stop(directory / "data" / "postmaster.pid", run)


def _stop(pid_file: Path, run: Any) -> None:
    if not pid_file.exists():
        return
    pid = int(pid_file.read_text().split()[0])
    try:
        run("pg_ctl", "stop", "--mode=immediate", "--wait", f"--timeout={SECONDS}")
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        raise
