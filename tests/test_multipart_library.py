"""_multipart_library.py: the library is found, or told apart from what has its name."""

from __future__ import annotations

import importlib
import sys
import types
from typing import Any

import pytest
from forms import needs_multipart

from asgicore import MissingExtraError
from asgicore._multipart_library import load_library


def module(**names: Any) -> types.ModuleType:
    made = types.ModuleType("multipart")
    vars(made).update(names)
    return made


@needs_multipart
def test_library_that_is_installed_is_loaded() -> None:
    """What is used of it is there."""
    library = load_library()
    assert {"PushMultipartParser", "MultipartError", "ParserLimitReached"} <= vars(library).keys()


def test_library_that_is_missing_is_an_error_that_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The application's fault, and an ImportError, too."""
    monkeypatch.setitem(sys.modules, "multipart", None)
    with pytest.raises(MissingExtraError, match=r"not installed; install asgicore\[forms\]$") as caught:
        load_library()
    assert caught.value.extra == "forms"
    assert isinstance(caught.value, ImportError)


def test_library_of_another_package_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package of the same name that python-multipart installs has no such parser."""
    monkeypatch.setitem(sys.modules, "multipart", module(__version__="0.0.34", MultipartParser=object))
    with pytest.raises(MissingExtraError, match=r"another package, as python-multipart .* asgicore\[forms\]$"):
        load_library()


def test_library_of_another_package_that_warns_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its import warns; where warnings are errors, ours is the one that is seen."""

    def import_module(name: str) -> Any:
        assert name == "multipart"
        raise PendingDeprecationWarning("Please use another name")

    monkeypatch.setattr(importlib, "import_module", import_module)
    with pytest.raises(MissingExtraError, match="another package"):
        load_library()


@pytest.mark.parametrize("version", ["1.3.1", "3.0.0", None])
def test_library_of_another_version_is_refused(version: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its interface is that of 2.x."""
    names = {"PushMultipartParser": object} | ({} if version is None else {"__version__": version})
    monkeypatch.setitem(sys.modules, "multipart", module(**names))
    with pytest.raises(MissingExtraError, match=rf"2\.x; {version or 'unknown'} is installed"):
        load_library()
