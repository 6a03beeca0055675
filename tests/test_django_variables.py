"""django_bridge/_variables.py: context variables that are set directly are as asgiref's storages would set them."""

from __future__ import annotations

import importlib.util
from contextvars import Context, ContextVar
from threading import Thread
from typing import Any

import pytest

if importlib.util.find_spec("django") is None:
    pytest.skip("needs Django", allow_module_level=True)

from asgiref.sync import AsyncToSync, async_to_sync
from django.urls import get_script_prefix, get_urlconf, set_urlconf

from asgicore.django_bridge import _variables
from asgicore.django_bridge._variables import SetVariable, reset_urlconf, set_prefix, thread_above, variable_of


def in_thread(function: Any) -> Any:
    """What a function returns in another thread."""
    found: list[Any] = []
    thread = Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join(5)
    assert not thread.is_alive()
    return found[0]


def test_set_prefix_is_read_by_django() -> None:
    """Another prefix, the same one again, in another context and another thread: Django reads what was set last."""

    def set_and_get(prefix: str) -> str:
        set_prefix(prefix)
        return str(get_script_prefix())

    for prefix, expected in [("", "/"), ("/a", "/a/"), ("/a", "/a/"), ("/b/", "/b/"), ("", "/")]:
        assert Context().run(set_and_get, prefix) == expected
        assert in_thread(lambda prefix=prefix: set_and_get(prefix)) == expected
        assert Context().run(set_and_get, prefix) == expected
    assert Context().run(get_script_prefix) == "/"


def test_reset_urlconf_is_read_by_django() -> None:
    """There is no URLconf afterwards, whether there was one or not, and another one can be set."""

    def reset_and_get() -> list[Any]:
        found = []
        for urlconf in ("first", None, "second"):
            set_urlconf(urlconf)
            found.append(get_urlconf())
            reset_urlconf()
            found.append(get_urlconf("none"))
        return found

    expected = ["first", "none", None, "none", "second", "none"]
    assert Context().run(reset_and_get) == expected
    assert in_thread(reset_and_get) == expected


@pytest.mark.parametrize("number", [0, 1, 2])
def test_set_variable_of_a_function_that_sets_another_number_calls_it(number: int) -> None:
    """Another Django may do more: then its function is called each time."""
    variables: list[ContextVar[str]] = [ContextVar(f"variable {position}") for position in range(number)]
    calls: list[str] = []

    def function(argument: str) -> None:
        calls.append(argument)
        for variable in variables:
            variable.set(argument)

    setter = SetVariable(function)
    assert variable_of(function, "a") == ((variables[0], "a") if number == 1 else None)
    Context().run(setter, "a")
    del calls[:]
    for argument in ("a", "b", "b"):
        context = Context()
        context.run(setter, argument)
        assert [context[variable] for variable in variables] == [argument] * number
    # What was found out is known the next time; where nothing can be, the function is called each time as well.
    assert calls == (["b"] if number == 1 else ["a", "b", "b", "b"])


@pytest.mark.parametrize("is_known", [True, False])
def test_thread_above_is_that_of_asgiref(is_known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """None where there is no ``async_to_sync``, nor after one; within, its executor, with another asgiref, too."""
    if not is_known:
        monkeypatch.setattr(_variables, "_above", None)

    async def within() -> tuple[Any, Any]:
        return thread_above(), getattr(AsyncToSync.executors, "current", None)

    def look() -> None:
        assert thread_above() is None
        found, expected = async_to_sync(within)()
        assert found is expected is not None
        assert thread_above() is None

    Context().run(look)
