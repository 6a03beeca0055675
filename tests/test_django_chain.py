"""Middleware whose hooks share a hop: called as Django calls it, in the same order and thread, with fewer hops."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from django_site import OURS, STOCK, Diary, ask, backends, receivers, run, site

from asgicore.django_bridge import _chain
from asgicore.testing import EMPTY, Channel

pytest.importorskip("django", reason="needs the extra 'django'")

from asgiref.sync import SyncToAsync
from django.http import HttpResponse
from django.utils.decorators import sync_and_async_middleware
from django.utils.deprecation import MiddlewareMixin

HABITS = ["passes", "answers", "raises", "fails later", "replaces", "views"]
"""What a middleware does with a request or its response."""


def make(number: int, habit: str, diary: Diary) -> type[Any]:
    """A middleware of Django's kind, which notes what it is asked."""

    class Middleware(MiddlewareMixin):
        def process_request(self, request: Any) -> HttpResponse | None:
            diary.note(f"{number} request")
            if habit == "raises":
                raise ValueError(f"request {number}")
            return HttpResponse(b"answer %d" % number) if habit == "answers" else None

        def process_response(self, request: Any, response: Any) -> Any:
            diary.note(f"{number} response {response.status_code}")
            if habit == "fails later":
                raise ValueError(f"response {number}")
            return HttpResponse(b"instead %d" % number, status=203) if habit == "replaces" else response

        def process_view(self, request: Any, view: Any, args: Any, kwargs: Any) -> HttpResponse | None:
            diary.note(f"{number} view")
            return HttpResponse(b"view %d" % number) if habit == "views" else None

    return Middleware


def only_response(diary: Diary) -> type[Any]:
    """A middleware with one hook."""

    class OnlyResponse(MiddlewareMixin):
        def process_response(self, request: Any, response: Any) -> Any:
            diary.note("only response")
            return response

    return OnlyResponse


def of_its_own(diary: Diary) -> type[Any]:
    """A middleware that calls its hooks in a way of its own."""

    class OfItsOwn(MiddlewareMixin):
        async def __acall__(self, request: Any) -> Any:
            diary.note("own before")
            response = await self.get_response(request)
            diary.note("own after")
            return response

    return OfItsOwn


def function(diary: Diary) -> Any:
    """Middleware that is a function."""

    def middleware(get_response: Any) -> Any:
        async def call(request: Any) -> Any:
            diary.note("function before")
            response = await get_response(request)
            diary.note("function after")
            return response

        return call

    return sync_and_async_middleware(middleware)


def synchronous(diary: Diary) -> type[Any]:
    """Middleware that is synchronous alone."""

    class Synchronous:
        async_capable = False

        def __init__(self, get_response: Any) -> None:
            self.get_response = get_response

        def __call__(self, request: Any) -> Any:
            diary.note("sync before")
            response = self.get_response(request)
            diary.note("sync after")
            return response

    return Synchronous


async def outcome_of(base: Any, build: Callable[[Diary], list[Any]], is_async: bool) -> tuple[Any, list[str], int]:
    """What the client gets, who was called, and in how many threads."""
    diary = Diary()

    def view(request: Any) -> HttpResponse:
        diary.note("view")
        return HttpResponse(b"view")

    async def async_view(request: Any) -> HttpResponse:
        return view(request)

    with site(async_view if is_async else view, middleware=build(diary)):
        outcome = await run(base(), Channel([EMPTY]), diary)
    assert outcome.raised is None
    return outcome.answer, diary.events, len(diary.places() - {"loop"})


@backends
@pytest.mark.parametrize("is_async", [True, False], ids=["async view", "sync view"])
@pytest.mark.parametrize("habits", list(itertools.product(HABITS, repeat=2)), ids=lambda pair: "-".join(pair))
async def test_middleware_of_any_habit_is_called_as_by_stock_django(habits: tuple[str, str], is_async: bool) -> None:
    """An answer, an error or another response goes through the same hooks, with the same outcome."""

    def build(diary: Diary) -> list[Any]:
        between = make(1, "passes", diary)
        return [make(0, habits[0], diary), between, make(2, habits[1], diary)]

    assert await outcome_of(OURS, build, is_async) == await outcome_of(STOCK, build, is_async)


@backends
@pytest.mark.parametrize(
    "between",
    [only_response, of_its_own, function, synchronous],
    ids=["one hook", "calls its hooks itself", "function", "synchronous"],
)
async def test_middleware_of_other_kinds_in_between_is_called_as_by_stock_django(between: Any) -> None:
    """Stretches end where another kind of middleware stands, and what is around what stays as it is."""

    def build(diary: Diary) -> list[Any]:
        around = [make(number, "passes", diary) for number in range(4)]
        return [*around[:2], between(diary), *around[2:]]

    assert await outcome_of(OURS, build, True) == await outcome_of(STOCK, build, True)


@backends
async def test_middleware_without_hooks_in_a_stretch_changes_nothing() -> None:
    """A stretch of response hooks alone takes no hop for the request."""

    def build(diary: Diary) -> list[Any]:
        return [only_response(diary), only_response(diary)]

    assert await outcome_of(OURS, build, True) == await outcome_of(STOCK, build, True)

    class OnlyRequest(MiddlewareMixin):
        def process_request(self, request: Any) -> None:
            request.seen = [*getattr(request, "seen", []), self]

    async def view(request: Any) -> HttpResponse:
        return HttpResponse(b"%d" % len(request.seen))

    with site(view, middleware=[OnlyRequest, OnlyRequest]):
        assert (await ask(OURS())).body == b"2"


@backends
async def test_middleware_of_the_default_kind_takes_one_hop_each_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five middleware with all hooks: one hop for requests, one for views, one for responses."""
    hops: list[str] = []
    original = SyncToAsync.__call__

    async def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        hops.append(self.func.__name__)
        return await original(self, *args, **kwargs)

    diary = Diary()

    async def view(request: Any) -> HttpResponse:
        return HttpResponse(b"view")

    with site(view, middleware=[make(number, "passes", diary) for number in range(5)]):
        handler = OURS()
        monkeypatch.setattr(SyncToAsync, "__call__", counted)
        assert (await ask(handler)).body == b"view"
    assert hops == ["_before", "first", "_after"]
    assert diary.places() == {"thread 1"}
    assert len(diary.events) == 15


@backends
async def test_middleware_joined_sees_signals_in_the_same_thread() -> None:
    """request_started, the hooks, and request_finished are of one thread."""
    diary = Diary()

    async def view(request: Any) -> HttpResponse:
        return HttpResponse(b"view")

    with receivers(diary), site(view, middleware=[make(0, "passes", diary), make(1, "passes", diary)]):
        await ask(OURS())
    assert diary.events[0] == "started"
    assert diary.events[-1] == "finished"
    assert diary.places() == {"thread 1"}


def test_hooks_of_middleware_that_are_asynchronous_are_left_to_it() -> None:
    """A hook that is a coroutine function is nothing that a thread could call."""

    class Asynchronous(MiddlewareMixin):
        async def process_request(self, request: Any) -> None: ...

    assert _chain.hooks_of(Asynchronous) == []
    assert _chain.hooks_of(object()) == []
    assert _chain.hooks_of(of_its_own(Diary())) == []
    assert _chain.hooks_of(only_response(Diary())) == ["process_response"]


def test_view_hooks_that_are_asynchronous_stay_between_those_that_are_not() -> None:
    """Only neighbours are joined."""

    async def asynchronous() -> None: ...

    def first() -> None: ...

    made = [SyncToAsync(first), SyncToAsync(first), asynchronous, SyncToAsync(first)]
    joined = _chain.join_view_hooks(made)
    assert [it is asynchronous for it in joined] == [False, True, False]
    assert joined[2] is made[3]
