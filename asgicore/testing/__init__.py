"""Tests of ASGI applications, any of them, on asyncio and trio: a client, servers and faults, a guard against leaks.

::

    from asgicore.testing import Client

    async def test_hello():
        response = await Client(app).get("/")
        assert response.text == "Hello, world!"
"""

from __future__ import annotations

from ._channel import DISCONNECT as DISCONNECT
from ._channel import EMPTY as EMPTY
from ._channel import Channel as Channel
from ._channel import body_messages as body_messages
from ._channel import call as call
from ._client import Client as Client
from ._client_response import ClientResponse as ClientResponse
from ._client_response import ResponseStart as ResponseStart
from ._errors import IncompleteResponseError as IncompleteResponseError
from ._errors import Leak as Leak
from ._errors import LeakError as LeakError
from ._errors import LifespanError as LifespanError
from ._exchange import Exchange as Exchange
from ._faults import Fault as Fault
from ._faults import every_fault as every_fault
from ._leaks import LeakGuard as LeakGuard
from ._lint.lint import LintError as LintError
from ._lint.lint import LintWarning as LintWarning
from ._lint.lint import lint as lint
from ._lint.rules import Finding as Finding
from ._messages import check_messages as check_messages
from ._requests import ExchangeOptions as ExchangeOptions
from ._requests import Message as Message
from ._requests import RequestOptions as RequestOptions
from ._requests import http_scope as http_scope
from ._servers import ANYCORN as ANYCORN
from ._servers import DAPHNE as DAPHNE
from ._servers import GRANIAN as GRANIAN
from ._servers import GUNICORN as GUNICORN
from ._servers import HYPERCORN as HYPERCORN
from ._servers import HYPERCORN_TRIO as HYPERCORN_TRIO
from ._servers import SERVERS as SERVERS
from ._servers import STRICT as STRICT
from ._servers import UVICORN as UVICORN
from ._servers import Server as Server

__all__ = [
    "ANYCORN",
    "Channel",
    "Client",
    "ClientResponse",
    "DAPHNE",
    "DISCONNECT",
    "EMPTY",
    "Exchange",
    "ExchangeOptions",
    "Fault",
    "Finding",
    "GRANIAN",
    "GUNICORN",
    "HYPERCORN",
    "HYPERCORN_TRIO",
    "IncompleteResponseError",
    "Leak",
    "LeakError",
    "LeakGuard",
    "LifespanError",
    "LintError",
    "LintWarning",
    "Message",
    "RequestOptions",
    "ResponseStart",
    "SERVERS",
    "STRICT",
    "Server",
    "UVICORN",
    "body_messages",
    "call",
    "check_messages",
    "every_fault",
    "http_scope",
    "lint",
]
