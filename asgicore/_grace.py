"""A cancel scope that lets what it cancels clean up.

In a cancelled scope of anyio or trio every ``await`` raises again, those of cleanup among them. This one has a second
scope inside, which begins to shield when the cancellation has arrived, and ends the cleanup when its time is over.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from anyio import CancelScope, current_time, get_cancelled_exc_class

__all__ = ["GraceScope"]


class GraceScope:
    """Cancels once; entered and left like any other cancel scope.

    Args:
        seconds: How long what was cancelled may wait for this and that.
    """

    __slots__ = ("_around", "_reason", "_seconds", "_within")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._reason = f"the client left, says asgicore {id(self):x}"
        self._around = CancelScope()
        self._within = CancelScope()

    def __enter__(self) -> Self:
        self._around.__enter__()
        self._within.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        if self._within.__exit__(kind, error, trace):
            self._around.__exit__(None, None, None)
            return True
        return self._around.__exit__(kind, error, trace)

    def cancel(self) -> None:
        """Cancel what is inside."""
        self._around.cancel(self._reason)

    @property
    def is_cleaning_up(self) -> bool:
        """Whether the cancellation has arrived."""
        return self._within.shield

    def arrived(self, what: Any) -> None:
        """Look at what a task was resumed with; if it is the cancellation, the time begins.

        Args:
            what: An exception, or what trio sends in place of one.
        """
        error: Any = what if isinstance(what, BaseException) else getattr(what, "error", None)
        # Any other error of what the task has waited for comes here, too.
        if self.is_cleaning_up or not isinstance(error, get_cancelled_exc_class()):
            return
        # Whose cancellation it is, trio's tells, and asyncio's has in its text.
        if (getattr(error, "reason", None) or str(error)).endswith(self._reason):
            self._within.shield = True
            self._within.deadline = current_time() + self._seconds
