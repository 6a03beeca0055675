"""How long what took, for the developer tools of browsers: ``uvicorn examples.server_timing:app``.

Also on errors, and without a change to the endpoint. It tells everybody who asks: see to it that they may know.
"""

from __future__ import annotations

from time import monotonic
from typing import Any

import anyio

from asgicore import Handler, Observer, Request, Response, Timings


class ServerTiming(Observer):
    """Adds ``server-timing`` to each response, in milliseconds."""

    def extra_headers(self, request: Any, response: Any, timings: Timings) -> dict[str, str]:
        seconds = {
            "body": timings.body_seconds,
            "endpoint": timings.endpoint_seconds,
            "total": monotonic() - timings.received,
        }
        return {
            "server-timing": ", ".join(
                f"{name};dur={1000 * value:.3f}" for name, value in seconds.items() if value is not None
            )
        }


async def endpoint(request: Request) -> Response:
    await anyio.sleep(0.05)
    return Response("Look into the network panel.\n")


app = Handler(endpoint, observe=ServerTiming())
