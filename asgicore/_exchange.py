"""What one request holds from its first step to its last cleanup."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Final, Literal, Protocol, Self, cast
from urllib.parse import quote
from weakref import WeakMethod

from ._body import Body
from ._extensions import EARLY_HINT
from ._keep_alive import KeepAlive
from ._response import Response
from ._watch import Listener
from ._writer import Writer
from .types import Scope, Send

_HAS_NOTHING_TO_CLOSE: Final = Response.aclose


is_head: Final[ContextVar[bool]] = ContextVar("asgicore_is_head", default=False)
"""Whether the response that a hook sends is to a HEAD, which a writer around a ``send`` of its own cannot see."""


class Cancellation(Protocol):
    """What a request that waits is cancelled through; left like a cancel scope."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> bool | None: ...
    def cancel(self) -> None: ...


class Exchange(Writer):
    """The writer of a request's response, and all else that belongs to the request."""

    # Defaults live in the class: most requests change none of them.
    request: Any = None
    response: Response | None = None
    unclosed: tuple[Response, ...] = ()
    """Responses with something to close, those among them that errors put others in place of."""
    listener: Listener | None = None
    """Waits for the disconnect while the endpoint waits for something."""
    keep_alive: KeepAlive | None = None
    """Sends something while the stream waits for its next part, from when the request first waits."""
    cancel_scope: Cancellation | None = None
    """Around endpoint and response while they wait and may be cancelled."""
    is_begun: bool = False
    """Whether the body was read, as far as it is, and the endpoint called."""
    is_ending: bool = False
    """Whether the handler is being closed."""
    is_dropped: bool = False
    """Whether the event loop has given the request up."""

    def __init__(self, scope: Scope, body: Body, send: Send, chunk_size: int) -> None:
        self.scope = scope
        self.body = body
        # As Writer.__init__ does: the call is 0.1 us.
        self._send = send
        self._head = scope.get("method") == "HEAD"
        self._chunk_size = chunk_size
        offered = scope.get("extensions")
        if offered and isinstance(offered, Mapping):
            self.extensions = cast("Mapping[str, Any]", offered)
            if EARLY_HINT in self.extensions:
                # Weak: the body would hold what holds it.
                body.find_hinter = WeakMethod(self.send_early_hints)

    @property
    def is_gone(self) -> bool:
        """Whether the client left before the response was complete."""
        return not self.is_done and (self.body.is_disconnected or self.is_broken)

    @property
    def phase(self) -> Literal["body", "handler", "response"]:
        """What is under way."""
        if self.is_started:
            return "response"
        return "handler" if self.is_begun else "body"

    def take(self, response: Response) -> None:
        """Have this response be the one that is sent, and closed in the end."""
        self.response = response
        # Asked of the class: most have nothing to close, and no method has to be called to learn that.
        if type(response).aclose is not _HAS_NOTHING_TO_CLOSE:
            self.unclosed += (response,)

    def forget(self, response: Response) -> None:
        """Leave the closing of this response to somebody else."""
        self.unclosed = tuple(other for other in self.unclosed if other is not response)

    def refuse_body(self) -> None:
        """Have the connection closed if a body is under way: it would be drained at our cost."""
        # HTTP/2 has no such field (RFC 9113 section 8.2.2), and ends the stream alone.
        self.closes_connection = not self.body.is_settled and str(self.scope.get("http_version")).startswith("1")

    def leave(self) -> None:
        """The client has left, or may have: cancel what waits, unless nothing is left to be said."""
        # After the final message the client may leave as it likes; servers report a disconnect then.
        if self.cancel_scope is not None and not self.is_done:
            self.cancel_scope.cancel()

    def keep(self, parts: AsyncIterator[Any], seconds: float, data: bytes) -> KeepAlive:
        """Have ``data`` sent when no part has come for so long."""
        self.keep_alive = kept = KeepAlive(parts, seconds, data, self)
        if self.listener is not None:
            kept.attend()
        return kept

    def lose(self, error: Exception) -> None:
        """A part between two others could not be sent: end what waits for the next one."""
        if self.is_broken:
            self.body.leave()
        else:
            self.body.fail(error)
        self.leave()

    def __str__(self) -> str:
        """Method and path for a log, so escaped that neither can forge a line."""
        method, path = self.scope.get("method"), self.scope.get("path")
        return f"{quote(str(method), errors='replace')} {quote(str(path), safe='/', errors='replace')}"
