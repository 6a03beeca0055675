"""The site that is built of docs/: without a warning, whole, and without a request to anybody else."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import asgicore

ROOT = Path(__file__).parent.parent

# .ci/run fails if this skips where the extra is installed.
pytestmark = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ["material", "mkdocs", "mkdocstrings"])), reason="needs the extra 'docs'"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    # From another directory: nothing in mkdocs.yml depends on where the command is given.
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(ROOT / "mkdocs.yml"), "-d", str(folder)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


def read(site: Path, page: str) -> str:
    return (site / page / "index.html").read_text(encoding="utf-8")


def test_each_entry_of_the_reference_is_rendered(site: Path) -> None:
    """A name that is asked for has its heading, with an anchor to link to."""
    pages = sorted((ROOT / "docs" / "reference").glob("*.md"))
    assert pages
    for page in pages:
        names = re.findall(r"^::: ([\w.]+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
        html = read(site, f"reference/{page.stem}")
        assert names
        assert [name for name in names if f'<h{2 + (page.stem == "testing")} id="{name}"' not in html] == []


@pytest.mark.parametrize(("name", "page"), [("Handler", "handler"), ("Request", "requests"), ("Response", "responses")])
def test_each_method_of_a_class_is_rendered(site: Path, name: str, page: str) -> None:
    """Every public method and property, also of a private base, which only keeps the modules small."""
    html = read(site, f"reference/{page}")
    cls = getattr(asgicore, name)
    public = {member: getattr(cls, member) for member in dir(cls) if not member.startswith("_")}
    methods = [member for member, value in public.items() if callable(value) or isinstance(value, property)]
    assert len(methods) > 10
    assert [member for member in methods if f'id="asgicore.{name}.{member}"' not in html] == []


def test_name_in_a_docstring_is_a_link(site: Path) -> None:
    """To where it is described: a member of the class, of another class, a class of another page."""
    html = read(site, "reference/requests")
    for target, text in [
        ("#asgicore.Request.body", "body()"),
        ("../limits/#asgicore.Limits.max_form_fields", "Limits.max_form_fields"),
        ("../errors/#asgicore.MalformedRequestError", "asgicore.MalformedRequestError"),
    ]:
        assert re.search(rf'<a [^>]*href="{re.escape(target)}"><code>{re.escape(text)}</code></a>', html), target


def test_example_in_a_docstring_is_highlighted(site: Path) -> None:
    """What stands after ``::`` is Python; no sign of another markup is left."""
    html = read(site, "reference/testing")
    assert re.search(r'<span class="k">await</span> <span class="n">client</span><span class="o">\.</span>', html)
    for page in (ROOT / "docs" / "reference").glob("*.md"):
        html = read(site, f"reference/{page.stem}")
        assert re.search(r"``|:(class|meth|func|exc|attr|data|mod):|<p>::</p>", html) is None, page.name


def test_page_of_the_benchmarks_shows_every_table_and_chart(site: Path) -> None:
    """As the last run has written them, below the page's own text."""
    results = ROOT / "benchmarks" / "results"
    html = read(site, "benchmarks")
    assert re.findall(r"<h2[^>]*>(\w+)", html) == ["Results"]
    sections = len(re.findall(r"^## ", (results / "results.md").read_text(encoding="utf-8"), re.MULTILINE))
    assert html.count("<h3") == sections > 0
    charts = {path.name for path in results.glob("*.svg")}
    assert charts
    assert set(re.findall(r'<img [^>]*src="\.\./figures/([\w.-]+)"', html)) == charts
    assert all((site / "figures" / chart).read_bytes() == (results / chart).read_bytes() for chart in charts)


def test_changelog_is_that_of_the_project(site: Path) -> None:
    """Its titles are there."""
    titles = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert titles
    assert re.findall(r"<h2[^>]*>(.+?)<a", read(site, "changelog")) == titles


def test_site_asks_nobody_else_for_anything(site: Path) -> None:
    """Scripts, styles, fonts and images are its own."""
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        html = page.read_text(encoding="utf-8")
        assert re.findall(r'<(?:script|img|iframe)[^>]* src="(?:https?:)?//[^"]*"', html) == []
        assert re.findall(r'<link[^>]* href="(?:https?:)?//[^"]*"', html) == []
    for style in site.rglob("*.css"):
        assert re.findall(r"(?:@import|url\()[\s\"']*(?:https?:)?//", style.read_text(encoding="utf-8")) == []


def test_site_holds_nothing_of_how_it_was_built(site: Path) -> None:
    """Neither the scripts nor the comments for the tests, nor the directory that it was built in."""
    assert list(site.rglob("*.py")) == []
    for path in site.rglob("*.*"):
        if path.suffix in (".html", ".json", ".xml"):
            text = path.read_text(encoding="utf-8")
            assert "<!-- try" not in text, path.name
            assert str(ROOT) not in text, path.name
