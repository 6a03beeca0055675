"""Makes pages of what stands in docs/, and adds to them what the last benchmark run has written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"

# What the tests read, and no reader of the site needs.
FOR_TESTS = re.compile(r"^ *<!-- (?:try|shown by).*?-->\n", re.DOTALL | re.MULTILINE)


def on_files(files: Files, *, config: Any) -> Files:
    """Take the charts, which are no part of docs/."""
    for chart in sorted(RESULTS.glob("*.svg")):
        files.append(File.generated(config, f"figures/{chart.name}", abs_src_path=str(chart)))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Leave out what is for the tests; the page of the benchmarks gets their tables and charts."""
    markdown = FOR_TESTS.sub("", markdown)
    results = RESULTS / "results.md"
    if page.file.src_uri == "benchmarks.md" and results.exists():
        # One level of headings down, below the page's own title.
        text = re.sub(r"^#", "##", results.read_text(encoding="utf-8"), flags=re.MULTILINE)
        markdown += "\n" + re.sub(r"\]\(([\w.-]+\.svg)\)", r"](figures/\1){ .chart }", text)
    return markdown
