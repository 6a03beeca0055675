"""Figures as rows, and rows as text."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from .workloads import Goal

OURS = "asgicore"


@dataclass
class Verdict:
    """A goal, and what became of it."""

    text: str
    value: float | None = None
    is_met: bool | None = None


@dataclass
class Row:
    """One measurement of all peers: ``figures`` has, for each, one number a round."""

    name: str
    title: str
    unit: str
    figures: dict[str, list[float]]
    goals: list[Verdict] = field(default_factory=list)
    note: str = ""
    is_higher_better: bool = False

    def median(self, peer: str) -> float:
        return statistics.median(self.figures[peer])

    def ordered(self) -> list[str]:
        """The peers, the lowest figure first."""
        return sorted(self.figures, key=self.median)

    def as_json(self) -> dict[str, Any]:
        return {
            **{key: value for key, value in asdict(self).items() if key != "figures"},
            "results": {
                peer: {
                    "median": significant(self.median(peer)),
                    "low": significant(min(self.figures[peer])),
                    "high": significant(max(self.figures[peer])),
                    "rounds": [significant(figure) for figure in self.figures[peer]],
                }
                for peer in self.ordered()
            },
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Row:
        results, goals = data["results"], data["goals"]
        kept = {key: value for key, value in data.items() if key not in ("results", "goals")}
        figures = {peer: result["rounds"] for peer, result in results.items()}
        return cls(**kept, figures=figures, goals=[Verdict(**goal) for goal in goals])


def significant(value: float) -> float:
    """Five digits are more than any figure here is good for."""
    return float(f"{value:.5g}")


def is_ours(peer: str) -> bool:
    return peer.split("-")[0] == OURS


def ratio(figures: Mapping[str, Sequence[float]], ours: str, reference: str) -> float:
    """Median of the ratios round by round: what slows the machine down for a while slows both."""
    return statistics.median(mine / theirs for mine, theirs in zip(figures[ours], figures[reference], strict=True))


def judge(figures: Mapping[str, Sequence[float]], goals: Sequence[Goal]) -> list[Verdict]:
    """Hold the figures against the goals."""
    verdicts = []
    for goal in goals:
        if not goal.reference:
            label = f"{goal.ours} ≤ {goal.limit:.3g}"
            value = statistics.median(figures[goal.ours]) if goal.ours in figures else None
            verdicts.append(Verdict(label, value, None if value is None else value <= goal.limit))
            continue
        reference: str | None = goal.reference
        if reference == "best":
            peers = [peer for peer in figures if not is_ours(peer) and peer != "raw"]
            reference = min(peers, key=lambda peer: statistics.median(figures[peer]), default=None)
        label = f"{goal.ours} ≤ {goal.limit:.3g} times {goal.reference}"
        if goal.reference == "best" and reference is not None:
            label += f" peer ({reference})"
        if reference is None or reference not in figures or goal.ours not in figures:
            verdicts.append(Verdict(label))
        else:
            value = ratio(figures, goal.ours, reference)
            verdicts.append(Verdict(label, value, value <= goal.limit))
    return verdicts


def at_most(text: str, value: float, limit: float) -> Verdict:
    """A goal that is a number and not a ratio."""
    return Verdict(f"{text} ≤ {limit:g}", value, value <= limit)


def number(value: float) -> str:
    """Three significant digits, without an exponent."""
    value = float(f"{value:.3g}")
    if value == 0:
        return "0"
    digits = 3 - len(str(int(abs(value)))) if abs(value) >= 1 else 3
    return f"{value:,.{max(digits, 0)}f}"


def spread(figures: Sequence[float]) -> str:
    return f"{number(min(figures))} to {number(max(figures))}"


def verdict_text(verdict: Verdict) -> str:
    if verdict.value is None:
        return f"{verdict.text}: not measured"
    return f"{verdict.text}: {number(verdict.value)}, {'met' if verdict.is_met else 'MISSED'}"


def print_row(row: Row) -> None:
    """One row for the terminal."""
    print(f"\n{row.title} [{row.unit}]")
    base = row.median(OURS) if OURS in row.figures else None
    for peer in row.ordered():
        median = row.median(peer)
        share = "" if base is None or not median else f"  asgicore/peer {base / median:5.2f}"
        print(f"  {peer:18}{number(median):>12}   {spread(row.figures[peer]):>24}{share}")
    for verdict in row.goals:
        print(f"  goal: {verdict_text(verdict)}")
    if row.note:
        print(f"  ({row.note})", flush=True)
