"""What an application has sent, held against the specifications when it is there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ._lint.http import HTTPExchange
from ._lint.lint import Journal
from ._requests import http_scope

__all__ = ["check_messages"]


def check_messages(
    messages: Iterable[Any], *, method: str = "GET", complete: bool | None = None, extensions: Iterable[str] = ()
) -> None:
    """Hold the messages of one response against the specifications, as ``lint`` does it.

    ::

        check_messages(channel.sent, complete=True)

    What is not recommended is a ``LintWarning``.

    Args:
        messages: What the application sent, in order: a whole response or its beginning.
        method: The method of the request.
        complete: Whether the response must be complete; ``False`` for one that must have been cut short.
        extensions: What the scope offered, like ``"http.response.trailers"``.

    Raises:
        LintError: One of them is not allowed, or the end is missing.
        AssertionError: The response is complete, and was to be cut short.
    """
    scope = http_scope(method, extensions={name: {} for name in extensions})
    exchange = HTTPExchange(scope, Journal(None, scope))
    for message in messages:
        exchange.sending(message)
    if complete:
        exchange.ended(None)
    elif complete is False:
        assert not exchange.is_complete, "the response is complete"
