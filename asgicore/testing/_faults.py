"""One thing that goes wrong in one request, at a chosen moment; and all such moments, one after the other."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator, Iterator
from typing import Any, Final, Literal, TypeAlias, TypeVar

__all__ = ["KINDS", "Fault", "FaultKind", "count_awaits", "every_fault"]

T = TypeVar("T")

FaultKind: TypeAlias = Literal["send", "receive", "disconnect", "cancel", "native_cancel"]
"""``"send"`` and ``"receive"``: that call raises, and each one after it. ``"disconnect"``: the client leaves when so
many messages have passed, in either direction. ``"cancel"``: the application is cancelled where it waits for the n-th
time. ``"native_cancel"``: the same by ``Task.cancel()``, which knows no shields; only on asyncio."""

KINDS: Final[tuple[FaultKind, ...]] = ("send", "receive", "disconnect", "cancel", "native_cancel")

_ENDLESS: Final = 10_000


class Fault:
    """Something that goes wrong in one request.

    Args:
        kind: What.
        at: When: at the first, the second … call, message or await.
        error: What ``send`` or ``receive`` raises; ``ConnectionResetError`` if ``None``.

    Raises:
        ValueError: The kind is unknown, or ``at`` is less than 1.
    """

    __slots__ = ("at", "error", "happened", "is_used", "kind")

    happened: bool
    """Whether the request came that far."""
    is_used: bool
    """Whether a request was made with it."""

    def __init__(self, kind: FaultKind, at: int = 1, error: Exception | None = None) -> None:
        if kind not in KINDS:
            raise ValueError(f"the kind of a fault is one of {', '.join(KINDS)}, not {kind!r}")
        if at < 1:
            raise ValueError(f"a fault happens at the first call or a later one, not at {at!r}")
        self.kind: FaultKind = kind
        self.at: int = at
        self.error: Exception = error or ConnectionResetError(f"fault of the test: {kind} {at}")
        self.happened = False
        self.is_used = False

    def __repr__(self) -> str:
        return f"<Fault {self}{' happened' if self.happened else ''}>"

    def __str__(self) -> str:
        return f"{self.kind}-{self.at}"


def every_fault(*kinds: FaultKind, limit: int | None = None) -> Iterator[Fault]:
    """Every moment at which a request can go wrong: for each kind the first, the second … until one does not happen.

    ::

        for fault in every_fault():
            await client.get("/", fault=fault)
            assert pool.in_use == 0

    Args:
        *kinds: Which; all that the running backend has if there are none.
        limit: How many of each kind at most: for responses without end.

    Raises:
        RuntimeError: A fault was not given to a request, or the response does not end.
    """
    for kind in kinds or KINDS:
        if kind == "native_cancel" and not _is_on_asyncio():
            continue
        for at in range(1, (limit or _ENDLESS) + 1):
            fault = Fault(kind, at)
            yield fault
            if not fault.is_used:
                raise RuntimeError(f"no request was made with the fault {fault}: pass it as fault=fault")
            if not fault.happened:
                break
        else:
            if limit is None:
                raise RuntimeError(
                    f"{_ENDLESS} faults of kind {kind!r} happened: give a limit to a response without end"
                )


def _is_on_asyncio() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


@types.coroutine
def count_awaits(coro: Coroutine[Any, Any, T], number: int, act: Callable[[], object]) -> Generator[Any, Any, T]:
    """Await ``coro``, and act when it waits for the ``number``-th time; what it yields passes through unchanged."""
    seen = 0
    value: Any = None
    error: BaseException | None = None
    while True:
        try:
            yielded = coro.send(value) if error is None else coro.throw(error)
        except StopIteration as stop:
            result: T = stop.value
            return result
        seen += 1
        if seen == number:
            act()
        try:
            value, error = (yield yielded), None
        except BaseException as exc:
            value, error = None, exc
