# pyright: basic
# Django has no types of its own.
"""What the bridge holds of one request, and how that is closed."""

from __future__ import annotations

import asyncio
import logging
from io import BytesIO
from typing import Any, Final

from asgiref.sync import AsyncToSync
from django.core.signals import request_finished
from django.http.response import HttpResponseBase

from .._body import Body
from ..types import Scope
from ._hop import RequestContext, around
from ._quiet import FINISHED, caches_are_quiet
from ._stock import DjangoRequest
from ._variables import reset_urlconf, thread_above
from ._workers import Lease

__all__ = ["Visit"]

logger = logging.getLogger("django.request")

_CLOSE_REQUEST: Final[Any] = vars(DjangoRequest)["close"]


def _is_light(request: Any) -> bool:
    """Whether closing a request closes a body in memory and nothing else."""
    return (
        type(request).close is _CLOSE_REQUEST and type(request._stream) is BytesIO and "_files" not in request.__dict__
    )


def _call_all(closers: list[Any]) -> None:
    """Close what belongs to no response that is sent, whatever fails on the way."""
    for closer in closers:
        try:
            closer()
        except Exception:
            logger.exception("closing what was not sent failed")


def _lease_of(context: Any) -> Lease | None:
    """The lease of the request, unless its synchronous code may run elsewhere: in the thread that waits in an
    ``async_to_sync`` above, as in Django's tests, where it must see the transaction of the test."""
    if type(context) is not RequestContext:
        return None
    loops = AsyncToSync.loop_thread_executors
    if loops and asyncio.get_running_loop() in loops and thread_above() is not None:
        return None
    return context.lease


class Visit:
    """What the bridge knows of one request; the engine's ``exchange.request``."""

    __slots__ = ("body", "is_closed", "is_finished", "is_started", "lease", "made", "request", "responses", "scope")

    def __init__(self, scope: Scope, body: Body) -> None:
        self.scope = scope
        self.body = body
        context = around()
        self.lease = _lease_of(context)
        self.made: list[Any] = context.made if type(context) is RequestContext else []
        """The responses of views and middleware, those included that nobody got."""
        self.request: Any = None
        """Django's request, once there is one."""
        self.responses: tuple[Any, ...] = ()
        """Django's responses; of several the last one stands for the others."""
        self.is_started = False
        """Whether ``request_started`` was sent, or would have been."""
        self.is_finished = False
        """Whether somebody sees to it that everything is closed."""
        self.is_closed = False
        """Whether that has begun."""

    def close_now(self, sender: type) -> bool:
        """Close everything on the loop, if nothing of it can block and nobody could tell the difference.

        Args:
            sender: Of ``request_finished``.

        Returns:
            Whether that was so.
        """
        lease, request = self.lease, self.request
        if lease is None:
            return False
        if lease.pending and lease.worker is None:
            lease.drop_cancelled()
        if lease.is_busy or (lease.worker is not None and lease.worker.is_open):
            return False
        own = FINISHED.only(sender)
        if own is None or not caches_are_quiet():
            return False
        if request is not None and not _is_light(request):
            return False
        for response in (*self.responses, *self.made):
            if type(response).close is not HttpResponseBase.close:
                return False
            for closer in response._resource_closers:
                if getattr(closer, "__func__", None) is not _CLOSE_REQUEST:
                    return False
        self.is_finished = True
        if request is not None:
            request._stream.close()
        for response in self.responses:
            response._resource_closers.clear()
            response.closed = True
        if self.is_started:
            reset_urlconf()
        return True

    def close(self, sender: type) -> None:
        """Close responses and request and send ``request_finished``; in the thread of the request."""
        self.is_closed = True
        request = self.request
        # The one that was sent is the last; before it those that others took the place of, or that nobody got.
        responses: list[Any] = []
        for response in (*self.made, *self.responses):
            responses = [other for other in responses if other is not response]
            responses.append(response)
        if request is not None and not any(
            closer == request.close for response in responses for closer in response._resource_closers
        ):
            if responses:
                responses[-1]._resource_closers.append(request.close)
            else:
                _call_all([request.close])
        for response in responses[:-1]:
            # Another one took its place; closing it by its own method would tell of the end twice.
            _call_all(response._resource_closers)
            response._resource_closers.clear()
        if not self.is_started:
            return  # refused by the engine: nobody was told of it, and its response holds nothing
        if responses:
            sent = responses[-1]
            sent._handler_class = sender
            sent.close()
            if getattr(sent, "file_to_stream", None) is not None:
                # Django's way to read it refers to the response, which holds that until it is read to its end.
                sent._iterator = iter(())
        else:
            request_finished.send(sender=sender)
