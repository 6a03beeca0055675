"""limits.py: finite defaults, checked when they are given."""

from __future__ import annotations

import ast
import inspect
from dataclasses import FrozenInstanceError, fields
from itertools import pairwise
from typing import Any

import pytest

from asgicore import Limits, limits
from asgicore.limits import DEFAULT_LIMITS

# Documented in limits.py, each with its reason.
DEFAULTS = {
    "max_body_bytes": 16 * 2**20,
    "spool_threshold_bytes": 2**20,
    "body_timeout_seconds": 30.0,
    "max_body_seconds": None,
    "send_timeout_seconds": None,
    "close_timeout_seconds": 10.0,
    "max_headers": 128,
    "max_header_bytes": 64 * 2**10,
    "max_path_bytes": 16 * 2**10,
    "max_query_bytes": 64 * 2**10,
    "max_query_params": 1000,
    "max_cookie_bytes": 16 * 2**10,
    "max_cookies": 256,
    "max_form_fields": 1000,
    "max_form_files": 100,
    "max_form_field_bytes": 2**20,
    "max_form_memory_bytes": 2 * 2**20,
    "max_part_headers": 8,
    "max_part_header_bytes": 4 * 2**10,
}
SECONDS = [name for name in DEFAULTS if name.endswith("_seconds")]
INTEGERS = [name for name in DEFAULTS if not name.endswith("_seconds")]


def test_limits_without_arguments_have_the_documented_defaults() -> None:
    """The defaults are those of the threat model."""
    assert {field.name: getattr(DEFAULT_LIMITS, field.name) for field in fields(Limits)} == DEFAULTS
    assert Limits() == DEFAULT_LIMITS


@pytest.mark.parametrize("name", DEFAULTS)
@pytest.mark.parametrize("value", [-1, True, False, "1", b"1", [], float("nan"), -0.5])
def test_limit_with_value_of_other_kind_is_refused(name: str, value: Any) -> None:
    """A limit that is negative or no number is a ValueError that names it."""
    with pytest.raises(ValueError, match=rf"Limits\.{name} "):
        Limits(**{name: value})


@pytest.mark.parametrize("name", INTEGERS)
def test_limit_in_units_with_fraction_is_refused(name: str) -> None:
    """There are no half bytes or fields."""
    with pytest.raises(ValueError, match="takes an integer"):
        Limits(**{name: 1.0})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", SECONDS)
@pytest.mark.parametrize("value", [0, 1, 0.25, 3600.0])
def test_limit_in_seconds_with_number_is_kept(name: str, value: float) -> None:
    """Seconds may be whole or not."""
    assert getattr(Limits(**{name: value}), name) == value  # type: ignore[arg-type]


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("value", [0, 1, 2**40])
def test_limit_in_units_with_integer_is_kept(name: str, value: int) -> None:
    """Zero is a limit, too."""
    assert getattr(Limits(**{name: value}), name) == value


@pytest.mark.parametrize("name", [name for name in DEFAULTS if name != "spool_threshold_bytes"])
def test_limit_with_none_is_lifted(name: str) -> None:
    """Every limit can be lifted with None."""
    assert getattr(Limits(**{name: None}), name) is None  # type: ignore[arg-type]


def test_spool_threshold_with_none_is_refused() -> None:
    """There is always a size from which a body goes to disk."""
    with pytest.raises(ValueError, match="spool_threshold_bytes"):
        Limits(spool_threshold_bytes=None)  # type: ignore[arg-type]


def test_limits_when_changed_or_given_by_position_are_refused() -> None:
    """One object is shared by all requests: it is frozen, hashable, and built by keyword."""
    with pytest.raises(FrozenInstanceError):
        DEFAULT_LIMITS.max_headers = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        Limits(5)  # type: ignore[call-arg]
    assert hash(Limits()) == hash(DEFAULT_LIMITS)


def test_limits_of_source_give_a_reason_under_every_field() -> None:
    """Each default stands with its reason."""
    (found,) = (node for node in ast.parse(inspect.getsource(limits)).body if isinstance(node, ast.ClassDef))
    documented = {
        before.target.id
        for before, after in pairwise(found.body)
        if isinstance(before, ast.AnnAssign)
        and isinstance(before.target, ast.Name)
        and isinstance(after, ast.Expr)
        and isinstance(after.value, ast.Constant)
    }
    assert documented == set(DEFAULTS)
