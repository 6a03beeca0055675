"""The application of ``site`` for servers that speak WSGI alone."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from asgicore.wsgi_bridge._as_wsgi import as_wsgi

from . import site


async def _app(scope: Any, receive: Any, send: Any) -> None:
    if scope.get("path") != "/broken":
        await site.app(scope, receive, send)
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"x" * 1000, "more_body": True})
    raise RuntimeError("broken on purpose")


app = as_wsgi(_app)

if os.environ.get("WIRE_SIGTERM"):
    # waitress has no handler: the process would end at once, without the exit handlers of Python.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
