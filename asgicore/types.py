"""The ASGI callables as asgicore accepts them.

They are loose on purpose: ``Mapping`` in, ``Any`` out is what uvicorn, Hypercorn, Starlette, httpx,
Litestar and asgiref all accept, where the stricter spellings are each refused by several of them
(``tests/typing_samples.py`` assigns a ``asgicore.Handler`` to each).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeAlias

__all__ = ["HeadersInput", "Message", "RawHeaders", "Receive", "Scope", "Send"]

Scope: TypeAlias = Mapping[str, Any]
"""The connection scope, ASGI specification, "Connection scope"."""

Message: TypeAlias = Mapping[str, Any]
"""One event, a mapping with a ``"type"``; events we send are plain ``dict``."""

Receive: TypeAlias = Callable[[], Awaitable[Mapping[str, Any]]]
"""Awaited once for every event from the server."""

Send: TypeAlias = Callable[[Any], Awaitable[None]]
"""Awaited with every event for the server."""

RawHeaders: TypeAlias = list[tuple[bytes, bytes]]
"""Pairs of name and value, both bytes, names in lower case, in wire order."""

HeadersInput: TypeAlias = Mapping[str, str] | Iterable[tuple[str, str]]
"""What a ``headers=`` argument takes: a mapping (a multidict keeps its repeats) or pairs."""
