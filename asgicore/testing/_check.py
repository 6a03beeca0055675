"""``python -m asgicore check module:app``: a battery of requests and faults against an application.

Every probe has a deadline, and runs in another process, which is ended where it does not keep it.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import IO, Any, Final, TextIO, cast

from ._check_probes import PROBES
from ._check_report import Result, count_levels, describe_probe, leave_out_repeats, to_json, to_text
from ._check_rules import CHECK_RULES
from ._check_worker import LIFESPAN
from ._rules import RULES, Finding

__all__ = ["CheckError", "add_arguments", "check", "run"]

NAMES: Final = [*PROBES, LIFESPAN]


class CheckError(Exception):
    """The application could not be checked at all."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("target", metavar="module:app", help="the application, by its module and name")
    parser.add_argument("--app-dir", metavar="DIR", default=".", help="where the module is; the current directory")
    parser.add_argument(
        "--path", action="append", metavar="/PATH", help='a path to ask for, may be given several times; "/"'
    )
    parser.add_argument(
        "--only", action="append", metavar="PROBE", choices=NAMES, help="run this probe, may be given several times"
    )
    parser.add_argument(
        "--ignore", action="append", metavar="RULE", default=[], help="leave out what is found by this rule"
    )
    parser.add_argument("--backend", choices=["asyncio", "trio"], default="asyncio", help="the event loop; asyncio")
    parser.add_argument(
        "--deadline", type=_seconds, metavar="SECONDS", default=3.0, help="how long an answer may take; 3"
    )
    parser.add_argument(
        "--grace",
        type=_seconds,
        metavar="SECONDS",
        default=1.0,
        help="how long work may go on for a client that left; 1",
    )
    parser.add_argument("--strict", action="store_true", help="warnings are errors")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--verbose", action="store_true", help="show what the application prints and logs")
    width = max(map(len, NAMES))
    parser.epilog = "probes:\n" + "\n".join(f"  {name:{width}}  {describe_probe(name)}" for name in NAMES)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < 3600:
        raise ValueError(text)
    return seconds


def run(options: argparse.Namespace, parser: argparse.ArgumentParser, out: TextIO) -> int:
    """Check the application and print the report.

    Returns:
        The exit status: 0 if all is well, 1 if something was found, 2 if the application could not be checked.
    """
    unknown = [name for name in options.ignore if name not in RULES and name not in CHECK_RULES]
    if unknown:
        parser.error(f"--ignore: there is no rule {unknown[0]!r}")
    paths: list[str] = options.path or ["/"]
    for path in paths:
        if not path.startswith("/"):
            parser.error(f"--path: {path!r} does not begin with a slash")
    names: list[str] = options.only or NAMES
    jobs = [(name, path) for path in paths for name in names if name != LIFESPAN]
    # Last, so that it ends the application.
    jobs += [(LIFESPAN, "")] * (LIFESPAN in names)
    try:
        results = check(
            options.target,
            jobs,
            directory=options.app_dir,
            backend=options.backend,
            deadline=options.deadline,
            grace=options.grace,
            verbose=options.verbose,
        )
    except CheckError as exc:
        print(f"asgicore check: {exc}", file=sys.stderr)
        return 2
    leave_out_repeats(results, set(options.ignore))
    again = _again(options)
    if options.json:
        print(json.dumps(to_json(options.target, again, results), indent=2), file=out)
    else:
        print(to_text(options.target, again, results), file=out)
    counted = count_levels(results)
    return 1 if counted["error"] or (options.strict and counted["warning"]) else 0


def _again(options: argparse.Namespace) -> list[str]:
    """The options that a probe has to be run with, to be seen again."""
    chosen: list[str] = []
    for name, default in (("app_dir", "."), ("backend", "asyncio"), ("deadline", 3.0), ("grace", 1.0)):
        value: Any = getattr(options, name)
        if value != default:
            chosen += [f"--{name.replace('_', '-')}", f"{value:g}" if isinstance(value, float) else value]
    return chosen


def check(
    target: str,
    jobs: list[tuple[str, str]],
    *,
    directory: str = ".",
    backend: str = "asyncio",
    deadline: float = 3.0,
    grace: float = 1.0,
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
        verbose: Whether the application's own output is shown.
        patience: After how many seconds without a word a probe is given up; 20 deadlines, at least a minute.

    Raises:
        CheckError: The application cannot be imported, or does not start.
    """
    results: list[Result] = []
    profiles: dict[str, list[Any]] = {}
    pending = list(jobs)
    wait = patience or max(60.0, 20 * deadline)
    while pending:
        given = {
            "target": target,
            "directory": os.path.abspath(directory),
            "jobs": pending,
            "profiles": profiles,
            "backend": backend,
            "options": {"deadline": deadline, "grace": grace},
        }
        with _worker(json.dumps(given), verbose) as (process, lines, errors):
            done = _follow(process, lines, errors, pending, profiles, wait)
        results += done
        pending = pending[len(done) :]
    return results


def _follow(
    process: subprocess.Popen[str],
    lines: queue.SimpleQueue[dict[str, Any] | None],
    errors: IO[str] | None,
    jobs: list[tuple[str, str]],
    profiles: dict[str, list[Any]],
    wait: float,
) -> list[Result]:
    """Listen to a worker until it ends, by itself or because it is silent; at least one probe is done then."""
    done: list[Result] = []
    current: Result | None = None
    is_ready = False
    while True:
        try:
            line = lines.get(timeout=wait)
        except queue.Empty:
            name, path = jobs[len(done)]
            done.append(
                Result(name, path, wait, findings=[_finding("stuck", f"nothing was heard for {wait:g} s", path)])
            )
            return done
        if line is None:
            status = process.wait()
            if not is_ready:
                raise CheckError(f"the process ended with the status {status}{_last_lines(errors)}")
            if current is not None or not done:
                name, path = jobs[len(done)]
                text = f"the process ended with the status {status}{_last_lines(errors)}"
                done.append(Result(name, path, findings=[_finding("crashed", text, path)]))
            return done
        if "failure" in line:
            raise CheckError(line["failure"] + _last_lines(errors))
        is_ready = True
        if "begin" in line:
            current = Result(*line["begin"])
        elif current is not None:
            current.seconds = line["seconds"]
            current.skipped = line["skipped"]
            if line["profile"] is not None:
                profiles[current.path] = line["profile"]
            current.findings = [Finding(**finding) for finding in line["findings"]]
            done.append(current)
            current = None


def _finding(rule: str, message: str, path: str) -> Finding:
    known = CHECK_RULES[rule]
    return Finding(section=known.section, message=message, rule=rule, level=known.level, by=known.by, request=path)


@contextmanager
def _worker(
    given: str, verbose: bool
) -> Generator[tuple[subprocess.Popen[str], queue.SimpleQueue[dict[str, Any] | None], IO[str] | None]]:
    """A process that runs probes; it is ended on the way out."""
    lines: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    errors: IO[str] | None = None if verbose else tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
    process = subprocess.Popen(
        [sys.executable, "-m", "asgicore.testing._check_worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        encoding="utf-8",
    )
    channel, stream = cast("IO[str]", process.stdin), cast("IO[str]", process.stdout)
    reader = threading.Thread(target=_read, args=(stream, lines), daemon=True)
    reader.start()
    try:
        channel.write(given)
        channel.close()
        yield process, lines, errors
    finally:
        process.kill()
        process.wait()
        reader.join()
        stream.close()
        if errors is not None:
            errors.close()


def _read(stream: IO[str], lines: queue.SimpleQueue[dict[str, Any] | None]) -> None:
    for line in stream:
        lines.put(json.loads(line))
    lines.put(None)


def _last_lines(errors: IO[str] | None) -> str:
    """The end of what a process has printed."""
    if errors is None:
        return ""
    errors.seek(0)
    last = errors.read()[-2000:].rstrip()
    return f"\n{last}" if last else ""
