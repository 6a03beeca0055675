"""What is going on in this process: for ``/status/``."""

import logging
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

from django.db.backends.signals import connection_created
from django.dispatch import receiver

logger = logging.getLogger(__name__)

# Views and generators run in many threads.
_lock = threading.Lock()
_activities: dict[str, Counter[str]] = {}
_connections: WeakSet[Any] = WeakSet()


@contextmanager
def counted(name: str) -> Iterator[None]:
    """Count what is in this block now, and how it ends: by itself, or because the client has left."""
    _count(name, open=1)
    how = "broken_off"
    try:
        yield
        how = "finished"
    finally:
        # Cancellation, ``close`` of a generator and errors all come by here.
        _count(name, open=-1, **{how: 1})
        logger.info("%s %s", name, how)


def _count(name: str, **changes: int) -> None:
    with _lock:
        _activities.setdefault(name, Counter(open=0, finished=0, broken_off=0)).update(changes)


@receiver(connection_created)
def _remember(connection: Any, **_: object) -> None:
    with _lock:
        _connections.add(connection)


def snapshot() -> dict[str, Any]:
    with _lock:
        return {
            "threads": threading.active_count(),
            "connections": sum(known.connection is not None for known in _connections),
            "activities": {name: dict(counter) for name, counter in _activities.items()},
        }
