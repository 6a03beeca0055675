"""_scope.py: the scope of an ASGI application, right whatever the WSGI server put into the environ."""

from __future__ import annotations

import io
from typing import Any
from urllib.parse import quote
from wsgiref.util import setup_testing_defaults

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgicore.testing import http_scope
from asgicore.wsgi_bridge._environ import build_environ
from asgicore.wsgi_bridge._scope import body_length, build_scope


def scope_of(**environ: Any) -> dict[str, Any]:
    """The scope of a usual environ with these changes; a change to ``...`` removes the key."""
    usual: dict[str, Any] = {}
    setup_testing_defaults(usual)
    usual |= {"REMOTE_ADDR": "10.0.0.1", "REMOTE_PORT": "5000", "QUERY_STRING": "a=1"}
    usual.update({key.replace("__", "."): value for key, value in environ.items()})
    return build_scope({key: value for key, value in usual.items() if value is not ...}, {})


def test_scope_of_usual_environ_has_every_key() -> None:
    """As a usual ASGI server has it."""
    state = {"a": 1}
    environ: dict[str, Any] = {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "/app",
        "PATH_INFO": "/x",
        "QUERY_STRING": "b=2",
        "RAW_URI": "/app/x?b=2",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_NAME": "example.com",
        "SERVER_PORT": "443",
        "REMOTE_ADDR": "10.0.0.1",
        "REMOTE_PORT": "5000",
        "CONTENT_TYPE": "text/plain",
        "CONTENT_LENGTH": "3",
        "HTTP_HOST": "example.com",
        "HTTP_X_OTHER": "é",
        "wsgi.url_scheme": "https",
    }
    scope = build_scope(environ, state)
    assert scope == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "https",
        "path": "/app/x",
        "raw_path": b"/app/x",
        "query_string": b"b=2",
        "root_path": "/app",
        "headers": [
            (b"content-type", b"text/plain"),
            (b"content-length", b"3"),
            (b"host", b"example.com"),
            (b"x-other", b"\xe9"),
        ],
        "client": ("10.0.0.1", 5000),
        "server": ("example.com", 443),
        "state": {"a": 1},
        "extensions": {},
        "wsgi.environ": environ,
    }
    scope["state"]["b"] = 2
    assert state == {"a": 1}


@pytest.mark.parametrize(
    ("environ", "path", "raw_path"),
    [
        ({"PATH_INFO": ""}, "/", b"/"),
        ({"PATH_INFO": "/a b"}, "/a b", b"/a%20b"),
        ({"PATH_INFO": "/a b", "REQUEST_URI": "/a%20b?c"}, "/a b", b"/a%20b"),
        ({"PATH_INFO": "/a/b", "RAW_URI": "/a%2Fb"}, "/a/b", b"/a%2Fb"),
        ({"PATH_INFO": "/\xc3\xa9"}, "/é", b"/%C3%A9"),
        ({"PATH_INFO": "/\xc3\xa9", "REQUEST_URI": "/\xc3\xa9"}, "/é", b"/\xc3\xa9"),
        ({"PATH_INFO": "/\xe9"}, "/\ufffd", b"/%E9"),
        ({"PATH_INFO": "/a", "REQUEST_URI": "http://example.com/a?b"}, "/a", b"/a"),
        ({"PATH_INFO": "/", "REQUEST_URI": "http://example.com"}, "/", b"/"),
        ({"PATH_INFO": "/changed", "REQUEST_URI": "/a"}, "/changed", b"/changed"),
        ({"PATH_INFO": "/a", "REQUEST_URI": "/☃"}, "/a", b"/a"),
        ({"PATH_INFO": "/a", "REQUEST_URI": ""}, "/a", b"/a"),
        ({"SCRIPT_NAME": "/app", "PATH_INFO": "", "REQUEST_URI": "/app"}, "/app", b"/app"),
    ],
)
def test_scope_has_the_path_decoded_and_as_it_came(environ: dict[str, str], path: str, raw_path: bytes) -> None:
    """``path`` is UTF-8; ``raw_path`` is the client's, as long as nobody has changed the path since."""
    scope = scope_of(**environ)
    assert (scope["path"], scope["raw_path"]) == (path, raw_path)


@pytest.mark.parametrize(
    ("remote", "client"),
    [
        (("10.0.0.1", "5000"), ("10.0.0.1", 5000)),
        (("10.0.0.1", 5000), ("10.0.0.1", 5000)),
        (("10.0.0.1", ...), ("10.0.0.1", 0)),
        (("10.0.0.1", ""), ("10.0.0.1", 0)),
        (("", "5000"), None),
        ((..., ...), None),
    ],
)
def test_scope_has_a_client_where_the_server_knows_one(remote: tuple[Any, Any], client: Any) -> None:
    """Unix sockets have none; some servers leave the port out."""
    assert scope_of(REMOTE_ADDR=remote[0], REMOTE_PORT=remote[1])["client"] == client


@pytest.mark.parametrize(
    ("name", "port", "server"), [("a", "80", ("a", 80)), ("/run/site.sock", "", ("/run/site.sock", None))]
)
def test_scope_has_a_server_of_host_or_socket(name: str, port: str, server: Any) -> None:
    """A unix socket has no port (ASGI, "Connection Scope")."""
    assert scope_of(SERVER_NAME=name, SERVER_PORT=port)["server"] == server


@pytest.mark.parametrize(
    ("protocol", "version"),
    [("HTTP/1.0", "1.0"), ("HTTP/2.0", "2"), ("HTTP/2", "2"), ("HTTP/3.0", "3"), ("", "1.1"), (..., "1.1")],
)
def test_scope_has_the_version_of_http(protocol: Any, version: str) -> None:
    """In the form of ASGI."""
    assert scope_of(SERVER_PROTOCOL=protocol)["http_version"] == version


def test_scope_has_the_header_fields_and_no_others() -> None:
    """Empty type and length count as missing; what pretends to be one of them is left out."""
    scope = scope_of(
        CONTENT_TYPE="",
        CONTENT_LENGTH="",
        HTTP_CONTENT_LENGTH="5",
        HTTP_CONTENT_TYPE="x",
        HTTP_ACCEPT="",
        HTTPS="on",
        HTTP_HOST=...,
        AUTH_TYPE="Basic",
    )
    assert scope["headers"] == [(b"accept", b"")]


@pytest.mark.parametrize(
    ("environ", "length"),
    [
        ({}, 0),
        ({"CONTENT_LENGTH": ""}, 0),
        ({"CONTENT_LENGTH": "5"}, 5),
        ({"CONTENT_LENGTH": "5", "wsgi.input_terminated": True}, 5),
        ({"wsgi.input_terminated": True}, None),
        ({"CONTENT_LENGTH": "-1"}, 0),
        ({"CONTENT_LENGTH": "²"}, 0),
        ({"HTTP_TRANSFER_ENCODING": "chunked"}, 0),
    ],
)
def test_body_is_as_long_as_the_server_can_tell(environ: dict[str, Any], length: int | None) -> None:
    """A stream that nobody ends is not read."""
    assert body_length(environ) == length


@given(path=st.binary(max_size=30), query=st.binary(max_size=30), root=st.sampled_from(["", "/a", "/é/b"]))
def test_scope_survives_the_way_through_the_environ(path: bytes, query: bytes, root: str) -> None:
    """What one bridge makes the other one understands."""
    path = root.encode() + b"/" + path
    scope = http_scope(
        path=path.decode("utf-8", "replace"),
        raw_path=quote(path).encode(),
        query_string=query,
        root_path=root,
        state={"a": 1},
        extensions={},
    )
    back = build_scope(build_environ(scope, input=io.BytesIO()), {"a": 1})
    del back["wsgi.environ"]
    assert back == scope
