# pyright: basic
# Django has no types of its own.
"""Django's request, made from an ASGI scope.

Source: ASGI HTTP specification 2.5, "HTTP Connection Scope"; RFC 9113 section 8.2.3; ``django.core.handlers.asgi``.
"""

from __future__ import annotations

from typing import Any

from django.core.handlers import asgi

from .._meta import add_headers
from .._target import address, split_root_path
from ._stock import DjangoRequest

__all__ = ["ASGIRequest"]


class ASGIRequest(DjangoRequest):
    """A request as that of Django 6.1, on every version that is supported.

    Cookies of several fields are joined by a semicolon, the script name is taken off the path on whole segments only,
    and odd ``client`` and ``server`` entries give what a view can use.

    Args:
        scope: The connection scope.
        body_file: The body, a seekable binary file.

    Raises:
        UnicodeDecodeError: The query string is no UTF-8.
    """

    def __init__(self, scope: Any, body_file: Any) -> None:
        self.scope: Any = scope
        self._post_parse_error = False
        self._read_started = False
        self.resolver_match: Any = None
        path = scope["path"]
        self.path: str = path
        script_name: str = asgi.get_script_prefix(scope)
        self.script_name: str = script_name
        self.path_info: str = split_root_path(path, script_name)[1] if script_name else path
        method: str = scope["method"].upper()
        self.method: str = method
        query_string = scope.get("query_string", "")
        if isinstance(query_string, bytes):
            query_string = query_string.decode()
        meta: dict[str, Any] = {
            "REQUEST_METHOD": method,
            "QUERY_STRING": query_string,
            "SCRIPT_NAME": script_name,
            "PATH_INFO": self.path_info,
            "wsgi.multithread": True,
            "wsgi.multiprocess": True,
        }
        client = address(scope.get("client"))
        if client is not None:
            meta["REMOTE_ADDR"] = meta["REMOTE_HOST"] = client[0]
            meta["REMOTE_PORT"] = client[1]
        server = address(scope.get("server"))
        meta["SERVER_NAME"], port = server or ("unknown", None)
        meta["SERVER_PORT"] = "0" if port is None else str(port)
        headers = scope.get("headers")
        if headers:
            add_headers(meta, headers)
            cookie = meta.get("HTTP_COOKIE")
            if cookie is not None:
                meta["HTTP_COOKIE"] = cookie.rstrip("; ")
        self.META: dict[str, Any] = meta
        if "CONTENT_TYPE" in meta:
            self._set_content_type_params(meta)
        else:
            self.content_type: str = ""
            self.content_params: dict[str, str] = {}
        self._stream = body_file
