"""``python -m asgicore``: ``check module:app`` runs a battery of requests and faults against an application."""

from __future__ import annotations

import argparse
import sys
from typing import TextIO

from .testing._check.command import add_arguments, run

__all__ = ["main"]


def main(arguments: list[str] | None = None, out: TextIO | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m asgicore", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    check = commands.add_parser(
        "check",
        help="run a battery of requests and faults against an ASGI application",
        description="Run a battery of requests and faults against an ASGI application, and report what it does wrong.",
    )
    add_arguments(check)
    options = parser.parse_args(arguments)
    return run(options, check, out or sys.stdout)


if __name__ == "__main__":
    sys.exit(main())
