"""What the check says: for a person, and for a program."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Set
from dataclasses import dataclass, field
from typing import Any, Final

from ._check_probes import PROBES
from ._check_worker import LIFESPAN
from ._rules import RULES, Finding

__all__ = ["Result", "again", "count_levels", "describe_probe", "leave_out_repeats", "to_json", "to_text"]

_TEXTS: Final = {LIFESPAN: "Startup and shutdown."}


@dataclass
class Result:
    """What came of one probe of one path."""

    probe: str
    path: str
    seconds: float = 0.0
    skipped: str | None = None
    """Why there was nothing to try."""
    findings: list[Finding] = field(default_factory=list[Finding])


def describe_probe(name: str) -> str:
    """What a probe tries, in a sentence."""
    return _TEXTS.get(name) or PROBES[name].text


# What is seen wherever it is looked for.
_ONCE: Final = {*RULES, "request-raised", "answered-500", "task-left", "thread-left", "file-left"}


def leave_out_repeats(results: list[Result], ignored: Set[str]) -> None:
    """Take out of the results what is ignored, and what an earlier probe of the same path has found already."""
    seen: set[tuple[str, str]] = set()
    for result in results:
        kept = [one for one in result.findings if one.rule not in ignored and (result.path, one.rule) not in seen]
        seen |= {(result.path, one.rule) for one in kept if one.rule in _ONCE}
        result.findings = kept


def count_levels(results: Iterable[Result]) -> Counter[str]:
    """How many findings of each level there are."""
    return Counter(finding.level for result in results for finding in result.findings)


def again(target: str, options: list[str], result: Result) -> str:
    """The command that runs a probe once more."""
    path = [] if result.probe == LIFESPAN else ["--path", result.path]
    return shlex.join(["python", "-m", "asgicore", "check", target, *options, *path, "--only", result.probe])


def to_json(target: str, options: list[str], results: list[Result]) -> dict[str, Any]:
    """The report as a value for ``json``."""
    counted = count_levels(results)
    return {
        "target": target,
        "errors": counted["error"],
        "warnings": counted["warning"],
        "notes": counted["note"],
        "results": [
            {
                "probe": result.probe,
                "path": result.path,
                "tried": describe_probe(result.probe),
                "seconds": result.seconds,
                "skipped": result.skipped,
                "again": again(target, options, result),
                "findings": [
                    {
                        "rule": finding.rule,
                        "level": finding.level,
                        "section": finding.section,
                        "message": finding.message,
                    }
                    for finding in result.findings
                ],
            }
            for result in results
        ],
    }


def to_text(target: str, options: list[str], results: list[Result]) -> str:
    """The report for a person: each path, each probe, and under it what was found, where it is written."""
    lines: list[str] = []
    paths = list(dict.fromkeys(result.path for result in results))
    for path in paths:
        lines += [path, ""] if path else []
        for result in results:
            if result.path != path:
                continue
            levels = count_levels([result])
            usual = "-" if result.skipped else "ok"
            worst = next((level for level in ("error", "warning", "note") if levels[level]), usual)
            text = f"(skipped: {result.skipped})" if worst == "-" else describe_probe(result.probe)
            lines.append(f"  {worst:8}{result.probe:17}{text}")
            for finding in result.findings:
                lines += [
                    f"          {finding.level}: {finding.message}",
                    f"          {' ' * len(finding.level)}  {finding.rule}; {finding.section}",
                ]
            if result.findings:
                lines.append(f"          again: {again(target, options, result)}")
        lines.append("")
    counted = count_levels(results)
    numbers = ", ".join(_number(counted[level], level) for level in ("error", "warning", "note"))
    seconds = sum(result.seconds for result in results)
    lines.append(f"{numbers}; {_number(len(results), 'probe')} of {target} in {seconds:.1f} s")
    return "\n".join(lines)


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
