"""An access log in the combined format: ``uvicorn --no-access-log examples.access_log:app``.

It is written when a request is over, so that it has the bytes that were sent. Whatever the client sent is escaped as
Apache does it: nothing in it can end a field or a line, or reach a terminal.
"""

from __future__ import annotations

import logging
import re
from datetime import datetime
from typing import Any
from urllib.parse import quote

from asgicore import Handler, Outcome, Request, Response, Timings

logger = logging.getLogger("access")

# Not by strftime: the names must not depend on the locale.
MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()

UNSAFE = re.compile(r"[^\x20-\x7e]|[\"\\]")
# Outside of quotes a blank ends a field, and a bracket begins the time.
UNSAFE_WORD = re.compile(r"[^\x21-\x7e]|[\"\\\[\]]")


def escape(text: str, unsafe: re.Pattern[str] = UNSAFE) -> str:
    """Text of a client's, in printable ASCII without quotes and backslashes."""
    data = unsafe.sub(lambda found: "".join(rf"\x{byte:02x}" for byte in found[0].encode(errors="replace")), text)
    return data[:4096]


def field(scope: Any, name: bytes) -> str:
    """A header field of the request; the scope may be one whose head was refused."""
    for pair in scope.get("headers") or ():
        if len(pair) == 2 and pair[0].lower() == name:
            return escape(pair[1].decode("latin-1"))
    return "-"


def target(scope: Any) -> str:
    """Path and query, as the client sent them."""
    raw_path, query = scope.get("raw_path"), scope.get("query_string")
    path = raw_path.decode("latin-1") if raw_path else quote(str(scope.get("path")), errors="replace")
    return f"{path}?{query.decode('latin-1')}" if query else str(path)


def access_log(request: Any, response: Any, timings: Timings, outcome: Outcome, error: BaseException | None) -> None:
    scope = request.scope
    now = datetime.now().astimezone()
    client = scope.get("client")
    # 499 is nginx's: there was nobody to be answered.
    status = timings.status_code or 499
    logger.info(
        '%s - - [%02d/%s/%s] "%s %s HTTP/%s" %d %s "%s" "%s"',
        escape(client[0], UNSAFE_WORD) if client else "-",
        now.day,
        MONTHS[now.month - 1],
        now.strftime("%Y:%H:%M:%S %z"),
        escape(str(scope.get("method")), UNSAFE_WORD),
        escape(target(scope), UNSAFE_WORD),
        escape(str(scope.get("http_version")), UNSAFE_WORD),
        status,
        timings.bytes_sent or "-",
        field(scope, b"referer"),
        field(scope, b"user-agent"),
    )


async def endpoint(request: Request) -> Response:
    return Response("Look into the log.\n")


logging.basicConfig(format="%(message)s", level=logging.INFO)

app = Handler(endpoint, observe=access_log)
