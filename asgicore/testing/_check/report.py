"""What the check says: for a person, and for a program."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Set
from dataclasses import dataclass, field
from typing import Any, Final

from .._lint.rules import RULES, Finding
from .probes import LIFESPAN, describe_probe
from .probing import Kind, Profile
from .rules import CHECK_RULES

__all__ = ["Result", "again", "count_levels", "leave_out_repeats", "to_json", "to_text"]


@dataclass
class Result:
    """What came of one probe of one path."""

    probe: str
    path: str
    seconds: float = 0.0
    skipped: str | None = None
    """Why there was nothing to try."""
    profile: Profile | None = None
    """What the path answers, if it was asked."""
    findings: list[Finding] = field(default_factory=list[Finding])


_RULES: Final = RULES | CHECK_RULES

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
    """The report for a person: each path, each probe, and under it what was found, and which rule that breaks."""
    lines: list[str] = []
    for path in dict.fromkeys(result.path for result in results):
        of_path = [result for result in results if result.path == path]
        profile = next((result.profile for result in of_path if result.profile), None)
        lines += [f"{path}  (GET: {_describe(profile)})" if profile else path, ""] if path else []
        for result in of_path:
            levels = count_levels([result])
            usual = "-" if result.skipped else "ok"
            worst = next((level for level in ("error", "warning", "note") if levels[level]), usual)
            text = f"(skipped: {result.skipped})" if worst == "-" else describe_probe(result.probe)
            lines.append(f"  {worst:8}{result.probe:17}{text}")
            for finding in result.findings:
                rule = _RULES[finding.rule]
                lines += [
                    _entry(finding.level, finding.message),
                    _entry("rule", f"{rule.text} ({rule.name}; {finding.section})"),
                ]
            if result.findings:
                lines.append(_entry("again", again(target, options, result)))
        lines.append("")
    counted = count_levels(results)
    numbers = ", ".join(_number(counted[level], level) for level in ("error", "warning", "note"))
    seconds = sum(result.seconds for result in results)
    lines.append(f"{numbers}; {_number(len(results), 'probe')} of {target} in {seconds:.1f} s")
    if counted["error"] or counted["warning"]:
        lines.append("What is so on purpose is left out by --ignore RULE.")
    return "\n".join(lines)


def _describe(profile: Profile) -> str:
    status, _, size = profile.answer
    texts: dict[Kind, str] = {
        "complete": f"{status}, {size} bytes",
        "streams": f"{status}, a stream",
        "waits": "no answer",
        "fails": "fails",
    }
    return texts[profile.kind]


def _entry(label: str, text: str) -> str:
    """Text after a label, further lines below its first one."""
    return f"          {label + ':':9}" + text.replace("\n", "\n" + " " * 19)


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
