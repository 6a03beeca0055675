"""What the testing kit raises about the application under test: failed expectations, which pytest shows as such."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["IncompleteResponseError", "Leak", "LeakError", "LifespanError"]


class IncompleteResponseError(AssertionError):
    """The application ended, or went silent, before its response was whole."""


class LifespanError(AssertionError):
    """Startup or shutdown failed, or was not answered; the text is the application's message."""


@dataclass(frozen=True, slots=True)
class Leak:
    """One thing that was there after the block and not before."""

    kind: str
    """``"task"``, ``"thread"``, ``"file descriptor"``, ``"temporary file"`` or ``"cycle"``."""
    what: str
    """Its name."""
    where: str
    """Where it was made, or what it is doing, as far as that is known; ``""`` if it is not."""

    def __str__(self) -> str:
        return f"{self.kind} {self.what}" + (f", {self.where}" if self.where else "")


class LeakError(AssertionError):
    """Something was left behind."""

    leaks: tuple[Leak, ...]
    """All of it."""

    def __init__(self, leaks: tuple[Leak, ...]) -> None:
        self.leaks = leaks
        super().__init__(leaks)

    def __str__(self) -> str:
        return "left behind:" + "".join(f"\n- {leak}" for leak in self.leaks)
