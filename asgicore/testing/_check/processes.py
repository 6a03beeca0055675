"""The processes in which applications are checked, and what bounds them from outside."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from importlib.util import find_spec
from time import monotonic
from typing import IO, Any, Final, cast

from .._lint.rules import Finding
from .probing import profile_from
from .report import Result
from .rules import CHECK_RULES

__all__ = ["CheckError", "check"]

MAX_BYTES: Final = 2**30
"""More than any probe needs; an application without bounds would take all that the machine has."""

_POLL_SECONDS: Final = 0.05


class CheckError(Exception):
    """The application could not be checked at all."""


def check(
    target: str,
    jobs: list[tuple[str, str]],
    *,
    directory: str = ".",
    backend: str = "asyncio",
    deadline: float = 3.0,
    grace: float = 1.0,
    glance: float | None = None,
    verbose: bool = False,
    patience: float | None = None,
) -> list[Result]:
    """Run probes against an application.

    Args:
        target: The application, ``module:attribute``.
        jobs: Names of probes, and a path each.
        directory: Where the module is.
        backend: The event loop, ``"asyncio"`` or ``"trio"``.
        deadline: How long an answer may take, in seconds.
        grace: How long work may go on when its client has left, in seconds.
        glance: How long what comes at once or not at all may take, in seconds; a thirtieth of the deadline.
        verbose: Whether the application's own output is shown.
        patience: After how many seconds without a word a probe is given up; 20 deadlines, at least 5 s.

    An application that holds the event loop for so long is not tried any further: each probe would wait as long.

    Raises:
        CheckError: The application cannot be imported, or does not start, or the backend is not installed.
    """
    if backend == "trio" and find_spec("trio") is None:
        raise CheckError("the backend trio is not installed: it comes with asgicore[trio]")
    results: list[Result] = []
    profiles: dict[str, list[Any]] = {}
    pending = list(jobs)
    wait = patience or max(5.0, 20 * deadline)
    while pending:
        given = {
            "target": target,
            "directory": os.path.abspath(directory),
            "jobs": pending,
            "profiles": profiles,
            "backend": backend,
            "options": {"deadline": deadline, "grace": grace, "glance": glance},
        }
        with _Worker(given, verbose) as worker:
            done = _follow(worker, pending, profiles, wait)
        results += done
        pending = pending[len(done) :]
        if any(finding.rule == "stuck" for finding in done[-1].findings):
            return results + [
                Result(name, path, skipped="the application holds the event loop") for name, path in pending
            ]
    return results


class _Silent(Exception):
    """Nothing more is to be expected of a worker."""

    def __init__(self, rule: str, why: str) -> None:
        self.rule = rule
        self.why = why


def _next_line(worker: _Worker, wait: float) -> dict[str, Any] | None:
    """What a worker says next, ``None`` at its end.

    Raises:
        _Silent: It said nothing for too long, or takes too much memory.
    """
    deadline = monotonic() + wait
    while True:
        try:
            return worker.lines.get(timeout=min(wait, _POLL_SECONDS))
        except queue.Empty:
            if monotonic() > deadline:
                raise _Silent("stuck", f"nothing was heard for {wait:g} s") from None
            if (_resident_bytes(worker.process.pid) or 0) > MAX_BYTES:
                raise _Silent("memory", f"the process took more than {MAX_BYTES // 2**20} MiB, and was ended") from None


def _resident_bytes(process: int) -> int | None:
    """How much memory a process takes; ``None`` where the system does not tell."""
    try:
        with open(f"/proc/{process}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * 4096
    except (OSError, IndexError):
        return None


def _follow(worker: _Worker, jobs: list[tuple[str, str]], profiles: dict[str, list[Any]], wait: float) -> list[Result]:
    """Listen to a worker until it ends, by itself or because it has to; at least one probe is done then."""
    done: list[Result] = []
    current: Result | None = None
    is_ready = False
    while True:
        try:
            line = _next_line(worker, wait)
            if line is None:
                status = worker.process.wait()
                raise _Silent("crashed", f"the process ended with the status {status}")
        except _Silent as exc:
            if not is_ready:
                raise CheckError(exc.why + worker.last_lines()) from None
            if exc.rule == "crashed" and current is None and done:
                return done  # it has told all that it had to
            name, path = jobs[len(done)]
            text = exc.why + (worker.last_lines() if exc.rule == "crashed" else "")
            done.append(Result(name, path, findings=[CHECK_RULES[exc.rule].broken(text, path)]))
            return done
        if "failure" in line:
            raise CheckError(line["failure"] + worker.last_lines())
        is_ready = True
        if "begin" in line:
            current = Result(*line["begin"])
        elif current is not None:
            current.seconds = line["seconds"]
            current.skipped = line["skipped"]
            if line["profile"] is not None:
                profiles[current.path] = line["profile"]
                current.profile = profile_from(line["profile"])
            current.findings = [Finding(**finding) for finding in line["findings"]]
            done.append(current)
            current = None


class _Worker:
    """Within ``with``: a process that runs probes.

    Args:
        given: What it is to do.
        verbose: Whether what it prints is shown.
    """

    def __init__(self, given: dict[str, Any], verbose: bool) -> None:
        self.lines: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._given = given
        self._errors: IO[str] | None = (
            None if verbose else tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
        )

    def __enter__(self) -> _Worker:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "asgicore.testing._check.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
        )
        self._channel, self._stream = cast("IO[str]", self.process.stdin), cast("IO[str]", self.process.stdout)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        # It stays open: its end tells the worker that nobody listens any more, however this process ended.
        with suppress(BrokenPipeError):
            self._channel.write(json.dumps(self._given) + "\n")
            self._channel.flush()
        return self

    def _read(self) -> None:
        for line in self._stream:
            self.lines.put(json.loads(line))
        self.lines.put(None)

    def last_lines(self) -> str:
        """The end of what it has printed."""
        if self._errors is None:
            return ""
        self._errors.seek(0)
        last = self._errors.read()[-2000:].rstrip()
        return f"\n{last}" if last else ""

    def __exit__(self, *exc: object) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        self._stream.close()
        with suppress(BrokenPipeError):
            self._channel.close()
        if self._errors is not None:
            self._errors.close()
