"""A cancel scope that is entered late: not before an endpoint waits, and then around the scopes it is in by then.

``anyio.CancelScope`` costs 2.7 us, trio's 15, as much as all else that a small request needs, and most endpoints never
wait. Neither has a call that enters a scope around others, so their own books are kept here: which scope a task is in,
and which scope is around which. That is tried out once, on scopes made for it, before the first request relies on it.
Where it does not come out right, the scope is entered before the endpoint's first step.
"""

from __future__ import annotations

import sys
from asyncio import CancelledError, Task, current_task
from enum import Enum, auto
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeAlias, cast
from weakref import WeakKeyDictionary, ref

from anyio import CancelScope, current_effective_deadline, current_time

from ._watch import is_held_back


class _Early(Enum):
    EARLY = auto()


EARLY: Final = _Early.EARLY
"""The scope has to be entered before the endpoint's first step."""

Outer: TypeAlias = CancelScope | Literal[_Early.EARLY] | None
"""A scope of anyio's, or, by courtesy, what a task of trio's keeps of one of its own."""

_modules = sys.modules
_current_task: Any = current_task


def innermost_scope(task: Task[Any] | None = None) -> Outer:
    """The scope that the task (the current one) is in, ``None`` if there is none; for ``ScopeAround``."""
    if task is None:
        if "trio" in _modules:
            # As is_trio(), without a second call for the task: many tests, and few servers, have both.
            try:
                task = _current_task()
            except RuntimeError:
                return _status_of_trio()
            if task is None:
                return _status_of_trio()
        if not _states:
            return None
    state = _state_of(ref(task or _current_task()))
    return None if state is None else state.cancel_scope


class ScopeAround:
    """Enters a cancel scope inside of ``outer`` and around what the task entered since; left like any other.

    Args:
        outer: What ``innermost_scope()`` gave before.
    """

    __slots__ = ("_cancelling", "_outer", "_scope", "_task")

    def __init__(self, outer: CancelScope | None) -> None:
        self._outer: Any = outer
        self._scope: Any = None
        self._task: Any = None
        # How many cancellations the task had when this scope was cancelled.
        self._cancelling: int | None = None

    def __enter__(self) -> Self:
        # Any: nothing of this is in anyio's interface, nor in trio's.
        outer: Any = self._outer
        if type(outer) is _status_class:
            self._scope = _enter_on_trio(outer)
            return self
        scope: Any = _scope_class()
        task = _current_task()
        state: Any = _state_of(ref(task))
        inner: Any = None if state is None else state.cancel_scope
        self._scope, self._task = scope, task
        if state is None or inner is outer:
            scope.__enter__()
            return self
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
        return self

    @property
    def cancel_called(self) -> bool:
        """Whether it was cancelled, by ``cancel()`` or after its time."""
        return bool(self._scope.cancel_called)

    @property
    def inside(self) -> Outer:
        """What ``innermost_scope()`` gives right within it."""
        return cast("Outer", self._scope if self._task is not None else self._scope._cancel_status)

    def expire(self, seconds: float) -> None:
        """Cancel what is inside after so long."""
        self._scope.deadline = current_time() + seconds

    def shield(self, seconds: float | None) -> None:
        """Let nothing from outside cancel what is inside, and cancel it after so long."""
        self._scope.shield = True
        if seconds is not None:
            self.expire(seconds)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        swallows: bool | None = self._scope.__exit__(kind, error, trace)
        if not swallows and kind is CancelledError and self._cancelling is not None and not is_held_back(error):
            # Before Python 3.13 an asyncio.TaskGroup whose child failed may leave a cancellation of its own behind in
            # the task's count, for which anyio takes ours to be somebody else's.
            swallows = self._task.cancelling() <= self._cancelling
        return swallows

    def cancel(self) -> None:
        """Cancel what is inside."""
        waits_for = getattr(self._task, "_fut_waiter", None)
        if waits_for is not None and not waits_for.done():
            # The task waits, so no cancellation is on its way: what was counted by now is of the past.
            self._cancelling = self._task.cancelling()
        self._scope.cancel()


class ShieldAround:
    """Shields the closing of an iterator that may hold scopes of its own across its ``yield``.

    Entered before the iterator's first step. Where scopes can be entered late, nothing is entered before
    ``begin()``; elsewhere a scope is at once.
    """

    __slots__ = ("_outer", "_scope", "entered_since", "is_cut")

    entered_since: object
    """A scope that may have been entered late, around all this; it stays outside."""
    is_cut: bool
    """Whether the closing took too long."""

    def __enter__(self) -> Self:
        self._outer = innermost_scope()
        self._scope: CancelScope | ScopeAround | None = None
        self.entered_since = None
        self.is_cut = False
        if self._outer is EARLY:
            self._scope = CancelScope()
            self._scope.__enter__()
        return self

    def begin(self, seconds: float | None) -> None:
        """As ``asgicore._watch.Shield``."""
        if self._outer is not EARLY:
            late, outer = self.entered_since, self._outer
            if isinstance(late, ScopeAround) and late._outer is outer:
                outer = cast("CancelScope | None", late.inside)
            self._scope = scope = ScopeAround(outer)
            scope.__enter__()
            scope.shield(seconds)
        else:
            early = cast("CancelScope", self._scope)
            early.shield = True
            if seconds is not None:
                early.deadline = current_time() + seconds

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        scope = self._scope
        if scope is None:
            return None
        swallows = scope.__exit__(kind, error, trace)
        self.is_cut = scope.cancel_called
        return swallows


class _Closed:
    """The state of every task where anyio's books cannot be read."""

    cancel_scope = EARLY


def _closed(_: ref[Any]) -> Any:
    return _Closed


def _look_up(task: ref[Any]) -> Any:
    """Find anyio's books, see whether they are kept as we think, and look the task up in them."""
    global _scope_class, _state_of, _states
    _scope_class = type(CancelScope())
    states = getattr(_modules[_scope_class.__module__], "_task_states", None)
    if isinstance(states, WeakKeyDictionary):
        # The dictionary within: its own get() takes twice as long.
        within = cast("Any", states).data
        _state_of = within.get
        if _is_understood(within):
            _states = within
            return _state_of(task)
    _state_of = _closed
    return _Closed


# What anyio knows of a task, by a weak reference to it; None if it knows nothing of it.
_state_of: Any = _look_up
_UNREAD: Final = ("not looked at yet",)
# All that it knows: empty where no task is in a scope, as on most servers, and then it need not be known which one
# this is.
_states: Any = _UNREAD
# anyio's class for asyncio.
_scope_class: Any = CancelScope


def _is_understood(states: dict[ref[Any], Any]) -> bool:
    """Whether a scope that is entered late comes out around the one that was entered before it."""
    task = ref(_current_task())
    before = _state_of(task)
    outer = None if before is None else before.cancel_scope
    try:
        deadline = current_time() + 3600
        around = ScopeAround(outer)
        with _scope_class():
            around.__enter__()
            around._scope.shield, around._scope.deadline = True, deadline
            is_inside = current_effective_deadline() == deadline
        is_next = current_effective_deadline() == deadline
        around.__exit__(None, None, None)
        is_left = innermost_scope() is outer
        if before is None:
            # anyio keeps a task that has left its last scope; this one was in none but for the trial.
            states.pop(task, None)
        return is_inside and is_next and is_left
    except Exception:
        if before is not None:
            before.cancel_scope = outer
        return False


# --- trio --------------------------------------------------------------------------------------------------------

# The class of what a trio task keeps of its innermost scope; None as long as that was not looked at, or cannot be read.
_status_class: Any = None
_is_trio_tried = False


def _status_of_trio() -> Outer:
    """What the current task of trio's keeps of its innermost scope, ``EARLY`` if there is no such thing."""
    global _is_trio_tried, _status_class
    try:
        task = _modules["trio"].lowlevel.current_task()
    except RuntimeError:
        return EARLY  # nor is there any task
    if not _is_trio_tried:
        _is_trio_tried = True
        _status_class = cast("Any", type(getattr(task, "_cancel_status", None)))
        if not _trio_is_understood(task):
            _status_class = None
    return EARLY if _status_class is None else cast("Outer", task._cancel_status)


def _enter_on_trio(outer: Any) -> Any:
    """Enter a scope inside of ``outer`` and around what the task has entered since."""
    trio = _modules["trio"]
    scope = trio.CancelScope()
    task = trio.lowlevel.current_task()
    outermost = outermost_since(outer)
    if outermost is None:
        return scope.__enter__()
    # As if the task had left all scopes since, entered this one, and entered those again.
    inner = task._cancel_status
    task._activate_cancel_status(outer)
    scope.__enter__()
    outermost.parent = scope._cancel_status
    task._activate_cancel_status(inner)
    return scope


def outermost_since(outer: Any) -> Any:
    """What the current task of trio's keeps of the outermost scope that it has entered inside of ``outer``, if any.

    Args:
        outer: What ``innermost_scope()`` gave before; ``None``, or a scope of anyio's, on asyncio.
    """
    if type(outer) is not _status_class:
        return None
    status = _modules["trio"].lowlevel.current_task()._cancel_status
    if status is outer:
        return None
    while status.parent is not outer:
        status = status.parent
    return status


def _trio_is_understood(task: Any) -> bool:
    """As ``_is_understood()``."""
    trio = _modules["trio"]
    outer = getattr(task, "_cancel_status", None)
    try:
        around = ScopeAround(outer)
        with trio.CancelScope():
            around.__enter__()
            around.shield(3600)
            deadline = around._scope.deadline
            is_inside = trio.current_effective_deadline() == deadline
        is_next = trio.current_effective_deadline() == deadline
        around.__exit__(None, None, None)
        return bool(is_inside and is_next) and task._cancel_status is outer
    except Exception:
        return False
