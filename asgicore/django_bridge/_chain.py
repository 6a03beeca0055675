# pyright: basic
# Django has no types of its own.
"""Fewer hops to the thread of the request, for what Django's middleware does there one hook after the other.

Most middleware is synchronous within: ``MiddlewareMixin`` takes one hop for ``process_request`` and one for
``process_response``, and the handler one for each ``process_view``. That is a dozen for Django's default stack. Hooks
that follow each other are called in the same order and the same thread here, with one hop for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from asgiref.sync import SyncToAsync, iscoroutinefunction
from django.core.handlers.exception import response_for_exception
from django.utils.deprecation import MiddlewareMixin

from ._hop import Hop, note

__all__ = ["hooks_of", "join_hops", "join_view_hooks"]

REQUEST_AND_RESPONSE: Final = ("process_request", "process_response")


class _Stretch:
    """Middleware that follows each other, from the outside in, called as ``MiddlewareMixin`` would call it.

    Args:
        middleware: One or more.
        inner: What they are around.
    """

    __slots__ = ("_ask", "_inner", "_middleware", "_tell")

    def __init__(self, middleware: list[Any], inner: Callable[[Any], Any]) -> None:
        self._middleware = middleware
        self._inner = inner
        self._ask: Any = None
        if any(hasattr(it, "process_request") for it in middleware):
            self._ask = Hop(self._before)
        self._tell: Any = None
        if any(hasattr(it, "process_response") for it in middleware):
            self._tell = Hop(self._after)

    async def __call__(self, request: Any) -> Any:
        response, depth = None, len(self._middleware)
        if self._ask is not None:
            response, depth = await self._ask(request)
        if response is None:
            response = await self._inner(request)
        return response if self._tell is None else await self._tell(request, response, depth)

    def _before(self, request: Any) -> tuple[Any, int]:
        """Call the hooks for the request; returns the response if there is one, and how many are to see it."""
        for depth, middleware in enumerate(self._middleware):
            hook = getattr(middleware, "process_request", None)
            if hook is None:
                continue
            try:
                response = hook(request)
            except Exception as exc:
                if not depth:
                    raise  # what is around the outermost one turns it into a response
                return note(response_for_exception(request, exc)), depth
            if response:
                return note(response), depth + 1
        return None, len(self._middleware)

    def _after(self, request: Any, response: Any, depth: int) -> Any:
        """Call the hooks for the response, from the inside out."""
        for position in range(depth - 1, -1, -1):
            hook = getattr(self._middleware[position], "process_response", None)
            if hook is None:
                continue
            try:
                response = hook(request, response)
            except Exception as exc:
                if not position:
                    raise
                response = response_for_exception(request, exc)
        return response


def hooks_of(middleware: Any) -> list[str]:
    """The hooks for which ``MiddlewareMixin`` takes a hop each; none if the class calls them in a way of its own."""
    kind: Any = middleware if isinstance(middleware, type) else type(middleware)
    if not issubclass(kind, MiddlewareMixin) or (kind.__call__, kind.__acall__) != (
        MiddlewareMixin.__call__,
        MiddlewareMixin.__acall__,
    ):
        return []
    hooks = [name for name in REQUEST_AND_RESPONSE if hasattr(middleware, name)]
    return [] if any(iscoroutinefunction(getattr(middleware, name)) for name in hooks) else hooks


def join_hops(chain: Any) -> None:
    """Join the hops of middleware that follows each other.

    Args:
        chain: What Django's ``load_middleware`` has made.
    """
    stretch: list[Any] = []
    for middleware in _walk(chain):
        if hooks_of(middleware) and middleware.async_mode:
            stretch.append(middleware)
        else:
            _join(stretch)
            stretch = []
    _join(stretch)


def _join(stretch: list[Any]) -> None:
    if stretch:
        # What MiddlewareMixin calls in asynchronous mode; the others are not called by themselves any more.
        stretch[0].__acall__ = _Stretch(stretch, stretch[-1].get_response)


def _walk(handler: Any) -> Iterator[Any]:
    """The middleware of a chain from the outside in, as far as it can be told what is around what."""
    while handler is not None:
        # convert_exception_to_response() is around each.
        middleware = getattr(handler, "__wrapped__", None)
        if middleware is None or not iscoroutinefunction(handler):
            return
        yield middleware
        handler = getattr(middleware, "get_response", None) or _free_variable(middleware, "get_response")


def _free_variable(function: Any, name: str) -> Any:
    """What a function refers to by this name, if it was made by another one; so function middleware keeps the next."""
    names = getattr(getattr(function, "__code__", None), "co_freevars", ())
    return function.__closure__[names.index(name)].cell_contents if name in names else None


def join_view_hooks(hooks: list[Any]) -> list[Any]:
    """Join the hops of ``process_view`` hooks that follow each other; each returns a response or ``None``."""
    joined: list[Any] = []
    stretch: list[Any] = []
    for hook in [*hooks, None]:
        if isinstance(hook, SyncToAsync):
            stretch.append(hook)
            continue
        joined += stretch if len(stretch) < 2 else [Hop(_first_of([it.func for it in stretch]))]
        stretch = []
        if hook is not None:
            joined.append(hook)
    return joined


def _first_of(hooks: list[Callable[..., Any]]) -> Callable[..., Any]:
    def first(*args: Any) -> Any:
        for hook in hooks:
            response = hook(*args)
            if response:
                return note(response)
        return None

    return first
