"""One ASGI request/response engine, for frameworks, services and small applications.

::

    from asgicore import Handler, Response

    async def hello(request):
        return Response("Hello, world!")

    app = Handler(hello)
"""

from __future__ import annotations

import importlib
import typing

from . import _alone
from ._body import Body as Body
from ._extensions import TLS as TLS
from ._handler import Endpoint as Endpoint
from ._handler import Handler as Handler
from ._headers import Headers as Headers
from ._request import Request as Request
from ._response import Response as Response
from ._responses import HTMLResponse as HTMLResponse
from ._responses import JSONResponse as JSONResponse
from ._responses import RedirectResponse as RedirectResponse
from ._streaming_response import StreamingResponse as StreamingResponse
from ._threads import Threads as Threads
from .errors import AsgicoreError as AsgicoreError
from .errors import BodyConsumedError as BodyConsumedError
from .errors import BodyTimeoutError as BodyTimeoutError
from .errors import BodyTooLargeError as BodyTooLargeError
from .errors import ClientDisconnectedError as ClientDisconnectedError
from .errors import ContentLengthError as ContentLengthError
from .errors import HeadersTooLargeError as HeadersTooLargeError
from .errors import HTTPError as HTTPError
from .errors import InvalidHeaderError as InvalidHeaderError
from .errors import MalformedBodyError as MalformedBodyError
from .errors import MalformedRequestError as MalformedRequestError
from .errors import MissingExtraError as MissingExtraError
from .errors import RequestError as RequestError
from .errors import ResponseStateError as ResponseStateError
from .errors import ServerProtocolError as ServerProtocolError
from .errors import TargetTooLongError as TargetTooLongError
from .errors import ThreadsBusyError as ThreadsBusyError
from .errors import UnsupportedMediaTypeError as UnsupportedMediaTypeError
from .errors import UsageError as UsageError
from .limits import Limits as Limits

if typing.TYPE_CHECKING:
    from ._compression import Compression as Compression
    from ._compression import is_compressible as is_compressible
    from ._events import EventSourceResponse as EventSourceResponse
    from ._file_response import FileResponse as FileResponse
    from ._observer import Observe as Observe
    from ._observer import Observer as Observer
    from ._observer import Outcome as Outcome
    from ._observer import Timings as Timings
    from ._parts import Part as Part
    from ._parts import SyncPart as SyncPart
    from ._signals import close_on_signals as close_on_signals
    from ._sse import ServerSentEvent as ServerSentEvent
    from ._uploads import UploadFile as UploadFile
else:  # a type checker that saw __getattr__() would take any name for one that is here
    # Not every application uses these, which bring a third of all modules: imported when they are first asked for.
    _LATE = {
        "Compression": "_compression",
        "EventSourceResponse": "_events",
        "FileResponse": "_file_response",
        "Observe": "_observer",
        "Observer": "_observer",
        "Outcome": "_observer",
        "Part": "_parts",
        "ServerSentEvent": "_sse",
        "SyncPart": "_parts",
        "Timings": "_observer",
        "UploadFile": "_uploads",
        "close_on_signals": "_signals",
        "is_compressible": "_compression",
    }

    def __getattr__(name: str) -> object:
        if name not in _LATE:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(importlib.import_module(f".{_LATE[name]}", __name__), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *_LATE})


__version__ = "0.1.0"

# A response is an ASGI application by the engine, which stands above it.
Response._serve = _alone.serve_alone

__all__ = [
    "AsgicoreError",
    "Body",
    "BodyConsumedError",
    "BodyTimeoutError",
    "BodyTooLargeError",
    "ClientDisconnectedError",
    "Compression",
    "ContentLengthError",
    "Endpoint",
    "EventSourceResponse",
    "FileResponse",
    "HTMLResponse",
    "HTTPError",
    "Handler",
    "Headers",
    "HeadersTooLargeError",
    "InvalidHeaderError",
    "JSONResponse",
    "Limits",
    "MalformedBodyError",
    "MalformedRequestError",
    "MissingExtraError",
    "Observe",
    "Observer",
    "Outcome",
    "Part",
    "RedirectResponse",
    "Request",
    "RequestError",
    "Response",
    "ResponseStateError",
    "ServerProtocolError",
    "ServerSentEvent",
    "StreamingResponse",
    "SyncPart",
    "TLS",
    "TargetTooLongError",
    "Threads",
    "ThreadsBusyError",
    "Timings",
    "UnsupportedMediaTypeError",
    "UploadFile",
    "UsageError",
    "__version__",
    "close_on_signals",
    "is_compressible",
]
