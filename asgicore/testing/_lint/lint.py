"""A pair of eyes between an ASGI server and an application: whatever is not as the specifications say is found.

::

    from asgicore.testing import lint

    app = lint(app)  # raises LintError at the first message that is not allowed
"""

from __future__ import annotations

import warnings
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal, TypeAlias, cast

from ...errors import AsgicoreError
from ...types import Receive, Send
from .http import HTTPExchange
from .lifespan import LifespanExchange
from .rules import RULES, Finding

__all__ = ["Application", "Collect", "Journal", "Lint", "LintError", "LintWarning", "lint"]

Application: TypeAlias = Callable[[Any, Any, Any], Awaitable[Any]]
"""An ASGI application, typed as loosely as servers and frameworks type theirs."""

Collect: TypeAlias = Literal[False] | list[Finding] | Callable[[Finding], object]
"""Where findings go: nowhere, they are raised; to a list; to a function."""


class LintError(AsgicoreError):
    """A message, a scope or an end that the specification does not allow.

    ``finding`` tells what, by whom and where it is written.
    """

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding)
        self.finding = finding

    def __str__(self) -> str:
        return str(self.finding)


class LintWarning(UserWarning):
    """Something that the specification allows and does not recommend."""


def lint(app: Application, *, collect: Collect = False) -> Lint:
    """Wrap an ASGI application, so that each HTTP request and lifespan is held against the specifications.

    Messages pass as they are, the same objects; nothing is consumed. What is not allowed raises
    ``LintError`` in the call that it is about: out of ``send``, ``receive`` or the application. If the
    application swallows it, it is raised once more when the application ends. What is not recommended is a
    ``LintWarning``. What is worth knowing is only collected. With ``collect``, nothing is raised or warned
    of, and every message goes its way.

    Other scopes, websockets among them, are handed through untouched.

    Args:
        app: Any ASGI application. Middleware is one, too: a lint around and a lint within tell who did it.
        collect: A list that gets every ``Finding``, or a function that is called with it.

    Returns:
        The wrapped application; ``app`` is the one within.

    Raises:
        TypeError: ``collect`` is none of these.
    """
    sink: Any = collect
    if isinstance(sink, list):
        return Lint(app, cast("list[Finding]", sink).append)
    if sink is not False and not callable(sink):
        raise TypeError(f"collect takes a list or a function, not {sink!r}; leave it out to have errors raised")
    return Lint(app, sink or None)


class Lint:
    """An application that is held against the specifications; made by ``lint()``."""

    def __init__(self, app: Application, collect: Callable[[Finding], object] | None) -> None:
        self.app = app
        self._collect = collect

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Serve one scope.

        Raises:
            LintError: Something is not allowed, and findings are not collected.
            BaseException: What the application raises.
        """
        journal = Journal(self._collect, scope)
        kind: object = _as_mapping(scope).get("type")
        python_type = type(scope).__name__
        if not isinstance(scope, dict) or not isinstance(kind, str):
            journal("scope-type", f"the scope is a {python_type} with the type {kind!r}")
        if kind not in ("http", "lifespan"):
            await self.app(scope, receive, send)
            return
        exchange = (HTTPExchange if kind == "http" else LifespanExchange)(_as_mapping(scope), journal)
        channels = _Channels(exchange, receive, send)
        try:
            await self.app(scope, channels.receive, channels.send)
        except Exception as exc:
            raised = journal.take_raised()
            if raised is None:
                exchange.ended(exc)
                raise
            if exc is raised:
                raise
            raise raised from exc
        raised = journal.take_raised()
        if raised is not None:
            raise raised
        exchange.ended(None)


class Journal:
    """What an exchange reports to."""

    def __init__(self, collect: Callable[[Finding], object] | None, scope: Any) -> None:
        self._collect = collect
        self._request = _describe(scope)
        self._raised: LintError | None = None

    def __call__(self, rule: str, message: str, section: str = "") -> None:
        known = RULES[rule]
        finding = known.broken(message, self._request, section)
        if self._collect is not None:
            self._collect(finding)
        elif known.level == "error":
            error = LintError(finding)
            if self._raised is None:
                self._raised = error
            raise error
        elif known.level == "warning":
            warnings.warn(LintWarning(str(finding)), stacklevel=3)

    def take_raised(self) -> LintError | None:
        """The first error, once: an exception that is kept would keep its frames."""
        raised, self._raised = self._raised, None
        return raised


class _Channels:
    """``receive`` and ``send``, told to the exchange."""

    def __init__(self, exchange: HTTPExchange | LifespanExchange, receive: Receive, send: Send) -> None:
        self._exchange = exchange
        self._receive = receive
        self._send = send
        self._receiving = 0

    async def receive(self) -> Mapping[str, Any]:
        self._exchange.receiving(self._receiving == 0)
        self._receiving += 1
        try:
            message = await self._receive()
        except Exception:
            self._exchange.channel_failed()
            raise
        finally:
            self._receiving -= 1
        self._exchange.received(message)
        return message

    async def send(self, message: Any) -> None:
        self._exchange.sending(message)
        try:
            await self._send(message)
        except Exception:
            self._exchange.channel_failed()
            raise


def _as_mapping(scope: Any) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", scope) if isinstance(scope, Mapping) else {}


def _describe(scope: Any) -> str:
    """What a finding says of its request."""
    given = _as_mapping(scope)
    kind = given.get("type", "")
    return f"{given.get('method')} {given.get('path')}" if kind == "http" else str(kind)
