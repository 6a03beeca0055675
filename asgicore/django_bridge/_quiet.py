# pyright: basic
# Django has no types of its own.
"""What Django does at both ends of a request, and when all of it would be nothing.

``request_started`` and ``request_finished`` have receivers of Django's own, which are synchronous, so that stock Django
starts a thread for them. They look after the database connections and caches of their thread: where there is no thread
yet, or nothing is open in it, they have nothing to do. Every other receiver is called by Django's own code.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

from django.core.cache import caches, close_caches
from django.core.cache.backends.base import BaseCache
from django.core.handlers import base
from django.core.signals import request_finished, request_started
from django.db import close_old_connections, connections, reset_queries
from django.utils.module_loading import import_string

__all__ = [
    "FINISHED",
    "STARTED",
    "OwnReceivers",
    "caches_are_quiet",
    "forget_connections",
    "look_at_connections",
]

Receiver = Callable[..., Any]


class OwnReceivers:
    """A signal, and those of its receivers that are known.

    Args:
        signal: Django's signal.
        known: Receivers that this module knows to have nothing to do at times.
    """

    __slots__ = ("_last", "known", "signal")

    def __init__(self, signal: Any, *known: Receiver) -> None:
        self.signal = signal
        self.known = known
        # What is connected, and what of that is known. In one piece, for other threads.
        self._last: tuple[list[Any] | None, list[Receiver] | None] = (None, None)

    def only(self, sender: object) -> list[Receiver] | None:
        """The known receivers that are connected, in order; ``None`` if there is any other one for this sender."""
        signal = self.signal
        before, own = self._last
        # The same entries as last time, mostly; comparing them costs next to nothing.
        if signal.receivers != before or signal._dead_receivers:
            connected = list(signal.receivers)
            try:
                synchronous, asynchronous = signal._live_receivers(sender)
                own = None if asynchronous or any(it not in self.known for it in synchronous) else list(synchronous)
            except (TypeError, ValueError):  # another Django than is known
                own = None
            # Another sender may have receivers of its own.
            if all(lookup_key[1] == _ANY_SENDER for lookup_key, *_ in connected):
                self._last = connected, own
        return own


def _any_sender() -> int:
    """What an entry for all senders is marked with."""
    from django.dispatch import dispatcher

    none_id: Any = dispatcher.NONE_ID
    return int(none_id)


_ANY_SENDER: Final = _any_sender()

STARTED: Final = OwnReceivers(request_started, reset_queries, close_old_connections)
FINISHED: Final = OwnReceivers(request_finished, close_caches, close_old_connections, base.reset_urlconf)


class _Caches:
    """Which of the configured caches have something to close."""

    __slots__ = ("_settings", "aliases")

    def __init__(self) -> None:
        self._settings: object = None
        self.aliases: list[str] = []

    def are_quiet(self) -> bool:
        """Whether none has, or none of those was used in this request."""
        settings: Any = caches.settings
        if settings is not self._settings:
            self.aliases = [
                alias
                for alias, entry in settings.items()
                if getattr(import_string(entry["BACKEND"]), "close", None) is not BaseCache.close
            ]
            self._settings = settings
        return not self.aliases or not any(hasattr(caches._connections, alias) for alias in self.aliases)


caches_are_quiet: Final = _Caches().are_quiet


def look_at_connections() -> tuple[bool, bool, bool]:
    """Whether this thread has database connections, whether one is open, and whether none is within a transaction."""
    is_used, is_open, is_pristine = False, False, True
    storage = vars(connections._connections).get("_storage")
    if type(storage) is threading.local and not vars(storage):
        return is_used, is_open, is_pristine  # asked for each alias, Django takes 3.5 us to find none
    for connection in connections.all(initialized_only=True):
        is_used = True
        if connection.in_atomic_block:
            is_pristine = False
        if connection.connection is not None:
            is_open = True
            if connection.get_autocommit() != connection.settings_dict["AUTOCOMMIT"]:
                is_pristine = False
    return is_used, is_open, is_pristine


def forget_connections() -> None:
    """Close the connections of a thread that ends."""
    connections.close_all()
