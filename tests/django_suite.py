"""Run the tests of the installed Django with our handler in place of Django's, and compare with Django's own.

The source distribution of exactly the installed version is fetched with pip. Every label is run twice, each time in a
process of its own: as it is, and with the names of asgicore.django_bridge in place of those of django.core.asgi and
django.core.handlers.asgi. The outcome of every test must be the same.

Exits with 0 if it is, 1 if it is not or a run did not come to its end, 2 if there is nothing to run, and 77 if the
source distribution is not to be had.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
import textwrap
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter

ROOT = Path(__file__).resolve().parent.parent
INSIDE = Path(__file__).resolve().with_name("django_suite_inside.py")
LABELS = ["asgi", "handlers", "requests_tests", "file_uploads", "async"]
MORE_LABELS = ["test_client", "signals", "responses", "middleware", "view_tests", "servers"]
DIFFERENT, UNUSABLE, SKIPPED = 1, 2, 77
PIP_SECONDS = 300
KINDS = ["passed", "expected failure", "skipped", "unexpected success", "failed", "error"]
"""What can become of a test; of several, the last one counts."""
FAILING = KINDS[3:]


class UnavailableError(Exception):
    """The source distribution is not to be had."""


def indent(text: str) -> str:
    return textwrap.indent(text.rstrip(), "    ")


@dataclass
class Outcome:
    """What became of a test, with the traceback or the reason."""

    kind: str
    detail: str = ""

    @property
    def is_failing(self) -> bool:
        return self.kind in FAILING


@dataclass
class Results:
    """What a run has written: the tests by their names, and why the run says nothing, if it does not."""

    outcomes: dict[str, Outcome] = field(default_factory=dict)
    problem: str | None = None
    seconds: float = 0.0

    def summary(self) -> str:
        """The counts on one line."""
        kinds = [outcome.kind for outcome in self.outcomes.values()]
        counts = [f"{kinds.count(kind)} {kind}" for kind in KINDS if kind in kinds]
        return f"{len(kinds)} tests ({', '.join(counts)}) in {self.seconds:.1f} s"


@dataclass
class Difference:
    """A test with another outcome under our handler; None where it did not run at all."""

    test: str
    stock: Outcome | None
    ours: Outcome | None

    def __str__(self) -> str:
        stock, ours = self.stock, self.ours
        kinds = [outcome.kind if outcome else "not run" for outcome in (stock, ours)]
        lines = [f"{self.test}: {kinds[0]} with Django's handler, {kinds[1]} with ours"]
        # The traceback of what is new; where Django alone fails, how it does.
        for outcome in (ours, stock):
            if outcome and outcome.detail:
                lines.append(indent(outcome.detail))
                break
        return "\n".join(lines)


def read_results(lines: Iterable[str]) -> Results:
    """Read what a run has written, as far as it came."""
    results = Results()
    running: list[str] = []
    end = None
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            break  # The process died while it wrote this.
        if "status" in record:
            end = record
        elif record["outcome"] == "started":
            running.append(record["test"])
        else:
            test, outcome = record["test"], Outcome(record["outcome"], record["detail"])
            before = results.outcomes.get(test)
            if before is None or KINDS.index(before.kind) < KINDS.index(outcome.kind):
                results.outcomes[test] = outcome
            elif before.is_failing and outcome.is_failing:
                before.detail += outcome.detail
    results.problem = find_problem(results, end, [test for test in running if test not in results.outcomes])
    return results


def find_problem(results: Results, end: dict[str, object] | None, running: list[str]) -> str | None:
    """Why a run says nothing, or None: it has to come to its end, and to agree with what it wrote."""
    failing = sum(outcome.is_failing for outcome in results.outcomes.values())
    if end is None:
        return f"it ended within {running[-1]}" if running else "it ended early"
    if end["leftovers"]:
        return f"Django's own handler was still in use: {end['leftovers']}"
    # Both runs would lack the same tests, and be found equal.
    if missing := [test for test in results.outcomes if test.startswith("unittest.loader._FailedTest")]:
        return f"not imported: {missing}"
    if running:
        return f"nothing became of {', '.join(running)}"
    if not results.outcomes:
        return "it has no tests"
    if bool(end["status"]) != bool(failing):
        return f"it exited with {end['status']} and {failing} failing tests"
    return None


def compare(stock: dict[str, Outcome], ours: dict[str, Outcome]) -> list[Difference]:
    """The tests whose outcome is not the same in both runs, worst first."""
    differences = []
    for test in {**stock, **ours}:
        before, after = stock.get(test), ours.get(test)
        if (before and before.kind) != (after and after.kind):
            differences.append(Difference(test, before, after))
    return sorted(differences, key=lambda each: (not (each.ours and each.ours.is_failing), each.test))


def last_line(outcome: Outcome) -> str:
    """What a failing test says in the end."""
    return outcome.detail.rstrip().rpartition("\n")[2]


def find_common_failures(stock: dict[str, Outcome], ours: dict[str, Outcome]) -> list[str]:
    """The tests that fail in both runs; where they do not say the same, what they say, for it is worth a look."""
    lines = []
    for test, before in stock.items():
        after = ours.get(test)
        if before.is_failing and after and after.is_failing:
            said = last_line(before), last_line(after)
            other = "" if said[0] == said[1] else f": {said[0]!r} with Django's handler, {said[1]!r} with ours"
            lines.append(test + other)
    return lines


def fetch(version: str, folder: Path) -> Path:
    """The source distribution of this version in a folder, from pip if it is not there yet."""
    name = f"django-{version}.tar.gz"
    if not (folder / name).exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as download:
            # pip also asks the source for its metadata, so it has to build in isolation: the environment may have no
            # setuptools. What builds it may come as a wheel; Django may not.
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
            command += ["--no-deps", "--no-binary", "django", "--dest", download, f"django=={version}"]
            try:
                done = subprocess.run(
                    command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PIP_SECONDS
                )
            except subprocess.TimeoutExpired:
                raise UnavailableError(f"pip took longer than {PIP_SECONDS} s") from None
            found = list(Path(download).glob("*.tar.gz"))
            if done.returncode or not found:
                said = [line for line in done.stderr.splitlines() if line.strip()] or ["nothing"]
                errors = [line for line in said if line.lower().startswith("error")] or said
                raise UnavailableError(f"pip exited with {done.returncode} and says {errors[-1]}")
            found[0].replace(folder / name)
    return folder / name


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack the tests of a source distribution, and nothing that could stand in for the Django that is installed."""
    if not hasattr(tarfile, "data_filter"):
        raise UnavailableError("this Python unpacks archives without a filter")
    with tarfile.open(archive) as tar:
        members = [member for member in tar if Path(member.name).parts[1:2] == ("tests",)]
        tar.extractall(folder, members, filter="data")
    found = list(folder.glob("*/tests/runtests.py"))
    if not found:
        raise UnavailableError(f"{archive.name} holds no tests/runtests.py")
    return found[0].parent


def run(label: str, suite: Path, bridge: str | None, timeout: float) -> Results:
    """Run the tests of one label in a process of its own."""
    began = perf_counter()
    with tempfile.TemporaryDirectory(prefix="django_suite_") as temporary:
        written, log = Path(temporary, "results.jsonl"), Path(temporary, "log")
        # The folder that runs it must not be on the path: its modules are none of Django's tests.
        command = [sys.executable, "-P", str(INSIDE), "--timeout", str(timeout), str(suite), str(written), label]
        if bridge:
            command += ["--bridge", bridge]
        environ = {name: value for name, value in os.environ.items() if not name.startswith("DJANGO_")}
        problem = None
        with log.open("wb") as output:
            try:
                status = subprocess.run(
                    command,
                    env={**environ, "TMPDIR": temporary},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    timeout=timeout + 15,
                ).returncode
                problem = f"it exited with {status}" if status else None
            except subprocess.TimeoutExpired:
                problem = "it had to be killed"
        lines = written.read_text(encoding="utf-8").splitlines() if written.exists() else []
        results = read_results(lines)
        if problem:
            results.problem = f"{problem}; {results.problem}" if results.problem else problem
        if results.problem:
            results.problem += "\n" + log.read_text(encoding="utf-8", errors="replace")[-6000:].rstrip()
    results.seconds = perf_counter() - began
    return results


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "django_suite.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--label", action="append", metavar="LABEL", help=f"run this ({' '.join(LABELS)})")
    parser.add_argument("--all-labels", action="store_true", help=f"and {' '.join(MORE_LABELS)}")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--ours-only", action="store_true", help="compare with nothing; no test may fail")
    which.add_argument("--stock-only", action="store_true", help="show how Django's own handler does")
    parser.add_argument("--timeout", type=float, default=180, metavar="SECONDS", help="for one run of a label (180)")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="keeps the source distribution (nothing is kept)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all outcomes")
    parser.add_argument(
        "--bridge",
        default="asgicore.django_bridge",
        metavar="MODULE",
        help="has ASGIHandler, ASGIRequest and get_asgi_application (asgicore.django_bridge)",
    )
    return parser.parse_args(arguments)


def run_labels(labels: list[str], suite: Path, options: argparse.Namespace) -> int:
    """Run and compare all labels; returns the exit status."""
    handlers = {"stock": None, "ours": options.bridge}
    if options.ours_only or options.stock_only:
        del handlers["stock" if options.ours_only else "ours"]
    data: dict[str, object] = {}
    broken, same, failing = 0, 0, 0
    differences: list[Difference] = []
    lines: list[str] = []
    for label in labels:
        runs: dict[str, Results] = {}
        for name, bridge in handlers.items():
            results = runs[name] = run(label, suite, bridge, options.timeout)
            print(f"{label:20} {name:6} {results.summary()}", flush=True)
            if results.problem:
                broken += 1
                print(f"{label:20} {name:6} does not count: {results.problem}", flush=True)
        data[label] = {name: asdict(results) for name, results in runs.items()}
        if len(runs) == 2:
            stock, ours = runs["stock"].outcomes, runs["ours"].outcomes
            found = compare(stock, ours)
            if any(results.problem for results in runs.values()):
                # It is told already; what a run did not come to would hide what went wrong before.
                found = [each for each in found if each.stock and each.ours]
            same += sum(test in ours and ours[test].kind == each.kind for test, each in stock.items())
            differences += found
            lines += [f"fails with both: {line}" for line in find_common_failures(stock, ours)]
        else:
            failed = {test: outcome for test, outcome in results.outcomes.items() if outcome.is_failing}
            failing += len(failed)
            lines += [f"{outcome.kind}: {test}\n{indent(outcome.detail)}" for test, outcome in failed.items()]
    print("", *lines, *(f"difference: {each}" for each in differences), sep="\n")
    if options.json:
        whole = {"labels": data, "differences": [asdict(each) for each in differences]}
        options.json.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    if len(handlers) == 2:
        print(f"{same} tests the same, {len(differences)} different, {broken} runs that do not count")
    else:
        print(f"{failing} tests failing, {broken} runs that do not count")
    return DIFFERENT if differences or broken or (failing and options.ours_only) else 0


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    labels = LABELS + MORE_LABELS if options.all_labels else [] if options.label else LABELS
    labels = list(dict.fromkeys([*labels, *(options.label or [])]))
    try:
        version = importlib.metadata.version("django")
    except importlib.metadata.PackageNotFoundError:
        print("Django is not installed", file=sys.stderr)
        return UNUSABLE
    print(f"Django {version}, Python {platform.python_version()}{'' if options.stock_only else ', ' + options.bridge}")
    with tempfile.TemporaryDirectory(prefix="django_suite_") as temporary:
        try:
            archive = fetch(version, options.cache or Path(temporary))
            suite = unpack(archive, Path(temporary))
        except UnavailableError as exception:
            print(f"skipped: the source distribution of Django {version} is not to be had: {exception}")
            return SKIPPED
        return run_labels(labels, suite, options)


if __name__ == "__main__":
    sys.exit(main())
