"""A cancel scope that is entered late: not before an endpoint waits, and then around the scopes it is in by then.

``anyio.CancelScope`` costs 2.7 us, as much as all else that a small request needs, and most endpoints never wait. anyio
has no call that enters a scope around others, so on asyncio its own books are kept here: which scope a task is in, and
which scope is around which. That is tried out once, on scopes made for it, before the first request relies on it.
Where it does not come out right, and on trio, the scope is entered before the endpoint's first step.
"""

from __future__ import annotations

import sys
from asyncio import current_task
from enum import Enum, auto
from types import TracebackType
from typing import Any, Final, Literal, TypeAlias, cast
from weakref import WeakKeyDictionary, ref

from anyio import CancelScope, current_effective_deadline, current_time

from ._watch import is_trio


class _Early(Enum):
    EARLY = auto()


EARLY: Final = _Early.EARLY
"""The scope has to be entered before the endpoint's first step."""

Outer: TypeAlias = CancelScope | Literal[_Early.EARLY] | None

_modules = sys.modules
_current_task: Any = current_task


def innermost_scope() -> Outer:
    """The scope that the current task is in, ``None`` if there is none; for :class:`ScopeAround`."""
    if "trio" in _modules and is_trio():
        return EARLY
    state = _state_of(ref(_current_task()))
    return None if state is None else state.cancel_scope


class ScopeAround:
    """Enters a cancel scope inside of ``outer`` and around what the task entered since; left like any other.

    Args:
        outer: What :func:`innermost_scope` gave before.
    """

    __slots__ = ("_outer", "_scope")

    def __init__(self, outer: CancelScope | None) -> None:
        self._outer: Any = outer
        self._scope: Any = None

    def __enter__(self) -> CancelScope:
        # Any: nothing of this is in anyio's interface.
        scope: Any = _scope_class()
        outer, task = self._outer, _current_task()
        state: Any = _state_of(ref(task))
        inner: Any = None if state is None else state.cancel_scope
        self._scope = scope
        if state is None or inner is outer:
            scope.__enter__()
            return cast("CancelScope", scope)
        outermost = inner
        while outermost._parent_scope is not outer:
            outermost = outermost._parent_scope
        # As if the task had left all scopes since, entered this one, and entered those again.
        state.cancel_scope = outer
        scope.__enter__()
        scope._tasks.discard(task)
        if outer is not None:
            outer._child_scopes.discard(outermost)
        scope._child_scopes.add(outermost)
        outermost._parent_scope = scope
        state.cancel_scope = inner
        return cast("CancelScope", scope)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        left: bool | None = self._scope.__exit__(kind, error, trace)
        return left


class _Closed:
    """The state of every task where anyio's books cannot be read."""

    cancel_scope = EARLY


def _closed(_: ref[Any]) -> Any:
    return _Closed


def _look_up(task: ref[Any]) -> Any:
    """Find anyio's books, see whether they are kept as we think, and look the task up in them."""
    global _scope_class, _state_of
    _scope_class = type(CancelScope())
    states = getattr(_modules[_scope_class.__module__], "_task_states", None)
    if isinstance(states, WeakKeyDictionary):
        # The dictionary within: its own get() takes twice as long.
        _state_of = cast("Any", states).data.get
        if _is_understood():
            return _state_of(task)
    _state_of = _closed
    return _Closed


# What anyio knows of a task, by a weak reference to it; None if it knows nothing of it.
_state_of: Any = _look_up
# anyio's class for asyncio.
_scope_class: Any = CancelScope


def _is_understood() -> bool:
    """Whether a scope that is entered late comes out around the one that was entered before it."""
    before = _state_of(ref(_current_task()))
    outer = None if before is None else before.cancel_scope
    try:
        deadline = current_time() + 3600
        around = ScopeAround(outer)
        with _scope_class():
            scope = around.__enter__()
            scope.shield, scope.deadline = True, deadline
            is_inside = current_effective_deadline() == deadline
        is_next = current_effective_deadline() == deadline
        around.__exit__(None, None, None)
        return is_inside and is_next and innermost_scope() is outer
    except Exception:
        if before is not None:
            before.cancel_scope = outer
        return False
