"""Bars for each row, in two columns, as SVG that reads on light and dark pages."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from html import escape

from .report import OURS, Row, number

CHARTED = (
    "hello",
    "hello-task",
    "inspect",
    "json",
    "count",
    "spool",
    "whole",
    "parts",
    "thread",
    "sync-parts",
    "sync-download",
    "wsgi-hello",
    "wsgi-upload",
    "wsgi-download",
    "inflight",
    "import",
    "django-async",
    "django-sync",
    "django-async-default",
    "django-sync-query",
    "django-file",
    "django-inflight",
    "wire-hello",
    "wire-django-async",
    "wire-django-sync",
)

WIDTH = 920
GAP = 36
PANEL = (WIDTH - 3 * GAP) // 2
LABEL = 120
BAR = 14
STEP = 20
HEAD = 24
LINE = 17
CUT = 4.0
"""Bars end at this many times asgicore's; longer ones are cut and say so."""

STYLE = """
text { font: 12px system-ui, sans-serif; fill: #0b0b0b; }
.title { font-weight: 600; font-size: 13px; }
.small { font-size: 11px; fill: #52514e; }
.peer { fill: #b5b3ab; } .ours { fill: #2a78d6; } .variant { fill: #8fbcf0; }
.cut { fill: none; stroke: #fcfcfb; stroke-width: 3; }
.page { fill: #fcfcfb; }
@media (prefers-color-scheme: dark) {
  text { fill: #ffffff; } .small { fill: #c3c2b7; }
  .peer { fill: #66645e; } .ours { fill: #3987e5; } .variant { fill: #274f80; }
  .cut { stroke: #1a1a19; } .page { fill: #1a1a19; }
}
"""


def panel(row: Row, left: int, top: int) -> tuple[list[str], int]:
    """The marks of one row, and how high they are."""
    start = top
    peers = row.ordered()
    if row.is_higher_better:
        peers.reverse()
    longest = max(row.median(peer) for peer in peers)
    if OURS in row.figures:
        longest = min(longest, CUT * row.median(OURS))
    marks = []
    for line in textwrap.wrap(f"{row.title} [{row.unit}]", 50):
        marks.append(f'<text class="title" x="{left}" y="{top + 12}">{escape(line)}</text>')
        top += LINE
    top -= LINE
    room = PANEL - LABEL - 70
    for index, peer in enumerate(peers):
        median = row.median(peer)
        y = top + HEAD + index * STEP
        length = room * min(median / longest, 1) if longest else 0
        kind = "ours" if peer == OURS else "variant" if peer.startswith(OURS) else "peer"
        x = left + LABEL
        marks.append(f'<text x="{x - 8}" y="{y + 11}" text-anchor="end">{escape(peer)}</text>')
        marks.append(f'<rect class="{kind}" x="{x}" y="{y}" width="{length:.1f}" height="{BAR}" rx="2"/>')
        if median > longest:
            end = x + length - 14
            marks.append(f'<path class="cut" d="M{end:.1f} {y + BAR + 1} l6 -{BAR + 2}"/>')
        marks.append(f'<text class="small" x="{x + length + 6:.1f}" y="{y + 11}">{number(median)}</text>')
    return marks, top + HEAD + len(peers) * STEP - start


def chart(rows: Sequence[Row], captions: Sequence[str]) -> str:
    """The chart as a document of its own."""
    marks: list[str] = []
    heights = [GAP, GAP]
    for row in rows:
        if row.name in CHARTED and row.figures:
            column = heights.index(min(heights))
            drawn, height = panel(row, GAP + column * (PANEL + GAP), heights[column])
            marks += drawn
            heights[column] += height + GAP // 2
    bottom = max(heights) + 10
    legend = (
        f"Medians. Lower is better, except for requests per second. A cut bar is longer than {CUT:g} times asgicore's."
    )
    lines = [legend, *(line for caption in captions for line in textwrap.wrap(caption, 140))]
    for index, line in enumerate(lines):
        marks.append(f'<text class="small" x="{GAP}" y="{bottom + 16 * index}">{escape(line)}</text>')
    height = bottom + 16 * len(lines) + 6
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
            'role="img" aria-label="asgicore and its peers: medians of the benchmarks">',
            f"<style>{STYLE}</style>",
            f'<rect class="page" width="{WIDTH}" height="{height}" rx="8"/>',
            *marks,
            "</svg>",
            "",
        ]
    )
