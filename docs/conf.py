"""Sphinx: ``python -m sphinx -W -b html docs docs/_build/html``."""

from pathlib import Path

import asgicore

project = "asgicore"
author = "the asgicore authors"
copyright = "2026, the asgicore authors"
version = release = asgicore.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"asgicore {version}"

myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
add_module_names = False
napoleon_numpy_docstring = False

RESULTS = "../benchmarks/results/results.md"


def add_results(app, docname, source):
    """Show the results of the last benchmark run, if there are any."""
    if docname == "benchmarks" and Path(app.srcdir, RESULTS).exists():
        source[0] += f"```{{include}} {RESULTS}\n:relative-images:\n:heading-offset: 1\n```\n"


def setup(app):
    app.connect("source-read", add_results)
