"""What is public: listed, importable and documented."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import asgicore

PUBLIC_MODULES = ["errors", "limits", "types"]
LISTED = [name for name in asgicore.__all__ if name != "__version__"]
CLASSES = [name for name in LISTED if inspect.isclass(getattr(asgicore, name))]


def test_all_of_package_is_what_it_imports() -> None:
    """Every name that the root re-exports is listed, once, and nothing else is."""
    tree = ast.parse(Path(asgicore.__file__).read_text("utf-8"))
    reexported = [
        alias.asname
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level
        for alias in node.names
        if alias.asname == alias.name
    ]
    assert sorted([*reexported, "__version__"]) == sorted(asgicore.__all__)
    assert len(set(asgicore.__all__)) == len(asgicore.__all__)


@pytest.mark.parametrize("name", asgicore.__all__)
def test_listed_name_is_importable(name: str) -> None:
    """What is listed is there."""
    assert getattr(asgicore, name) is not None


def test_star_import_of_package_gives_the_listed_names() -> None:
    """No optional dependency is needed for it."""
    names: dict[str, Any] = {}
    exec("from asgicore import *", names)
    assert set(names) - {"__builtins__"} == set(asgicore.__all__)


def test_public_attributes_of_package_are_listed_or_modules() -> None:
    """Nothing else looks public."""
    public = {
        name for name, value in vars(asgicore).items() if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert public - {"annotations"} == set(LISTED)


@pytest.mark.parametrize("name", PUBLIC_MODULES)
def test_all_of_public_module_names_what_it_defines(name: str) -> None:
    """What a public module lists is there, and every documented alias or class it defines is listed."""
    module = importlib.import_module(f"asgicore.{name}")
    assert all(hasattr(module, listed) for listed in module.__all__)
    body = ast.parse(inspect.getsource(module)).body
    defined = {node.name for node in body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")}
    for before, after in pairwise(body):
        is_documented = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        if isinstance(before, ast.AnnAssign) and isinstance(before.target, ast.Name) and is_documented:
            defined.add(before.target.id)
    assert defined <= set(module.__all__)


@pytest.mark.parametrize("name", LISTED)
def test_listed_object_says_where_it_is_from(name: str) -> None:
    """Everything public is asgicore's own."""
    module = getattr(getattr(asgicore, name), "__module__", "asgicore")
    assert module.partition(".")[0] in ("asgicore", "typing", "types", "collections")


@pytest.mark.parametrize("name", CLASSES)
def test_public_class_has_docstring(name: str) -> None:
    """The docstring is the class's own, in sentences."""
    docstring = getattr(asgicore, name).__doc__
    assert docstring
    assert docstring.strip().splitlines()[0].rstrip().endswith((".", ":", ","))


def members_of(name: str) -> Iterator[tuple[str, Any]]:
    """The public methods and properties that a public class defines itself."""
    found: type = getattr(asgicore, name)
    for key, value in vars(found).items():
        is_public = not key.startswith("_") or key == "__call__"
        if is_public and (inspect.isfunction(value) or isinstance(value, property | classmethod | staticmethod)):
            yield key, getattr(found, key) if not isinstance(value, property) else value


@pytest.mark.parametrize("name", CLASSES)
def test_public_method_has_docstring(name: str) -> None:
    """Every public method and property says what it does; an override may leave that to what it overrides."""
    undocumented = [
        key for key, value in members_of(name) if not inspect.getdoc(value) and not overridden_doc(name, key)
    ]
    assert undocumented == []


def overridden_doc(name: str, key: str) -> str | None:
    found: type = getattr(asgicore, name)
    return next((inspect.getdoc(getattr(base, key)) for base in found.__mro__[1:] if hasattr(base, key)), None)


@pytest.mark.parametrize(
    "name", [*PUBLIC_MODULES, *(f"_{part}" for part in ("body", "handler", "request", "response"))]
)
def test_module_has_docstring(name: str) -> None:
    """Every module opens with what it is for."""
    assert importlib.import_module(f"asgicore.{name}").__doc__


def test_package_is_marked_as_typed() -> None:
    """PEP 561: type checkers read the annotations."""
    assert (Path(asgicore.__file__).parent / "py.typed").is_file()
