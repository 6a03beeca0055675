"""A log for machines, with an id for each request in every line of it: ``uvicorn examples.structured_log:app``.

Needs structlog. The id comes from the proxy or is made here, goes back to the client, and is in what endpoints log,
those in worker threads included. JSON escapes what the client sent.
"""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from typing import Any
from uuid import uuid4

import structlog

from asgicore import Handler, Observer, Outcome, Request, Response, Timings

# An id of the client's is taken where it can do no harm in any log.
SAFE_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


class RequestLog(Observer):
    """Binds ``request_id`` around each request, and logs its end."""

    def around(self, scope: Any) -> AbstractContextManager[None]:
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        request_id = given.decode() if SAFE_ID.fullmatch(given) else uuid4().hex
        return structlog.contextvars.bound_contextvars(request_id=request_id)

    def extra_headers(self, request: Any, response: Any, timings: Timings) -> dict[str, str]:
        return {"x-request-id": structlog.contextvars.get_contextvars()["request_id"]}

    def __call__(
        self, request: Any, response: Any, timings: Timings, outcome: Outcome, error: BaseException | None
    ) -> None:
        log = structlog.get_logger("access")
        log.info(
            "request",
            method=request.scope["method"],
            path=request.scope["path"],
            status=timings.status_code,
            outcome=outcome.value,
            seconds=timings.total_seconds,
            bytes_received=timings.bytes_received,
            bytes_sent=timings.bytes_sent,
            error=None if error is None else type(error).__qualname__,
        )


def endpoint(request: Request) -> Response:
    structlog.get_logger("app").info("in a worker thread")
    return Response("Look into the log.\n")


structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.JSONRenderer(),
    ]
)

app = Handler(endpoint, observe=RequestLog())
