"""``python -m asgicore check module:app``: a battery of requests and faults against an application.

Every probe has a deadline, and runs in another process, which is ended where it does not keep it.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any, Final, TextIO

from .._lint.rules import RULES
from .probes import LIFESPAN, NAMES, describe_probe
from .processes import CheckError, check
from .report import count_levels, leave_out_repeats, to_json, to_text
from .rules import CHECK_RULES

__all__ = ["add_arguments", "run"]

_EXITS: Final = """exit status:
  0  no error was found (with --strict: no warning, too)
  1  one was
  2  the application could not be checked: it cannot be imported, or does not start"""


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
        "--deadline",
        type=_seconds,
        metavar="SECONDS",
        default=3.0,
        help="how long an answer may take, of which other waits are parts; 3",
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
    probes = "\n".join(f"  {name:{width}}  {describe_probe(name)}" for name in NAMES)
    parser.epilog = f"probes:\n{probes}\n\n{_EXITS}"
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
