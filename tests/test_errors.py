"""errors.py: the tree by who must act, the status of each error, the text of each error."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import pytest

import asgicore
from asgicore import (
    AsgicoreError,
    BodyConsumedError,
    BodyTimeoutError,
    BodyTooLargeError,
    ClientDisconnectedError,
    ContentLengthError,
    Handler,
    HeadersTooLargeError,
    HTTPError,
    InvalidHeaderError,
    MalformedBodyError,
    MalformedRequestError,
    MissingExtraError,
    Request,
    RequestError,
    Response,
    ResponseStateError,
    ServerProtocolError,
    TargetTooLongError,
    ThreadsBusyError,
    UnsupportedMediaTypeError,
    UsageError,
    errors,
)
from asgicore.errors import is_status
from asgicore.testing import call

TREE: list[tuple[type[Exception], tuple[type[Exception], ...], int]] = [
    (AsgicoreError, (Exception,), 500),
    (HTTPError, (AsgicoreError,), 500),
    (RequestError, (HTTPError,), 400),
    (MalformedRequestError, (RequestError,), 400),
    (TargetTooLongError, (RequestError,), 414),
    (HeadersTooLargeError, (RequestError,), 431),
    (MalformedBodyError, (RequestError,), 400),
    (BodyTooLargeError, (RequestError,), 413),
    (UnsupportedMediaTypeError, (RequestError,), 415),
    (BodyTimeoutError, (RequestError,), 408),
    (ThreadsBusyError, (HTTPError,), 503),
    (UsageError, (AsgicoreError,), 500),
    (BodyConsumedError, (UsageError,), 500),
    (MissingExtraError, (UsageError, ImportError), 500),
    (InvalidHeaderError, (UsageError, ValueError), 500),
    (ContentLengthError, (UsageError, ValueError), 500),
    (ResponseStateError, (UsageError,), 500),
    (ServerProtocolError, (AsgicoreError,), 500),
    (ClientDisconnectedError, (AsgicoreError, OSError), 500),
]


@pytest.mark.parametrize(("error", "bases", "status"), TREE, ids=lambda value: getattr(value, "__name__", None))
def test_error_tree_of_class_gives_bases_and_status(
    error: type[AsgicoreError], bases: tuple[type[Exception], ...], status: int
) -> None:
    """Each error stands under the one who must act, and names the status that answers it."""
    assert error.__bases__ == bases
    assert error.status_hint == status


def test_error_tree_has_no_class_beside_the_table() -> None:
    """The table above holds every error, and all of them are public."""
    names = {error.__name__ for error, _, _ in TREE}
    assert names == set(errors.__all__)
    assert names <= set(asgicore.__all__)


def test_error_tree_in_module_docstring_names_every_class() -> None:
    """The tree that opens the module is complete and in order."""
    assert errors.__doc__ is not None
    drawn = [line.split("─ ")[-1].split()[0] for line in errors.__doc__.splitlines() if "─ " in line]
    assert drawn == [error.__name__ for error, _, _ in TREE[1:]]


TEXTS: list[tuple[Exception, str]] = [
    (HTTPError(404), "404 Not Found"),
    (HTTPError(404, "no such page"), "404 no such page"),
    (HTTPError(404, ""), "404 "),
    (HTTPError(599), "599 Error"),
    (RequestError("host", "empty"), "400 host: empty"),
    (MalformedRequestError("path", "holds a control character"), "400 path: holds a control character"),
    (TargetTooLongError("path", "too long"), "414 path: too long"),
    (HeadersTooLargeError("headers", "too many"), "431 headers: too many"),
    (MalformedBodyError("body", "too short"), "400 body: too short"),
    (BodyTooLargeError(10), "413 body: larger than the limit of 10 bytes"),
    (BodyTooLargeError(10, "form fields"), "413 form fields: larger than the limit of 10 bytes"),
    (
        UnsupportedMediaTypeError("text/x\n", "a/b", "c/d"),
        "415 content-type: 'text/x\\n'; a/b or c/d is wanted",
    ),
    (UnsupportedMediaTypeError("", "a/b"), "415 content-type: missing; a/b is wanted"),
    (BodyTimeoutError(30.0), "408 body: nothing received for 30 seconds"),
    (BodyTimeoutError(0.5), "408 body: nothing received for 0.5 seconds"),
    (ThreadsBusyError(1000), "503 Service Unavailable"),
    (BodyConsumedError("used"), "used"),
    (MissingExtraError("forms", "a package is needed"), "a package is needed; install asgicore[forms]"),
    (InvalidHeaderError("x\r\ny", "no token"), "header 'x\\r\\ny': no token"),
    (InvalidHeaderError(b"x", "no str"), "header \"b'x'\": no str"),
    (
        ContentLengthError(5, 3),
        "content-length declares 5 bytes, the body has 3; leave the header out, or set it to the number of bytes",
    ),
    (ResponseStateError("twice"), "twice"),
    (ServerProtocolError("odd"), "odd"),
    (ClientDisconnectedError(), "the client disconnected"),
    (ClientDisconnectedError("gone"), "gone"),
]


@pytest.mark.parametrize(("error", "text"), TEXTS, ids=[type(error).__name__ for error, _ in TEXTS])
def test_error_text_of_instance_says_the_facts(error: Exception, text: str) -> None:
    """The text of an error is made of its facts, and nothing given by others stands in it unescaped."""
    assert str(error) == text


def test_error_attributes_of_instance_hold_the_facts() -> None:
    """Whoever catches an error reads its facts from attributes."""
    http = HTTPError(401, "who?", {"www-authenticate": "Basic"})
    assert (http.status_code, http.detail, http.headers) == (401, "who?", {"www-authenticate": "Basic"})
    request = MalformedRequestError("host", "empty")
    assert (request.status_code, request.field, request.detail, request.headers) == (400, "host", "host: empty", None)
    assert (BodyTooLargeError(7).limit, BodyTimeoutError(2.5).seconds) == (7, 2.5)
    assert BodyTooLargeError(7, "part header").field == "part header"
    assert UnsupportedMediaTypeError("text/plain", "a/b").media_type == "text/plain"
    missing = MissingExtraError("forms", "why")
    assert (missing.extra, missing.reason) == ("forms", "why")
    busy = ThreadsBusyError(1000)
    assert (busy.waiting, busy.status_code, busy.headers) == (1000, 503, {"retry-after": "1"})
    header = InvalidHeaderError("X-A", "no")
    assert (header.header, header.reason) == ("X-A", "no")
    length = ContentLengthError(5, 3)
    assert (length.declared, length.actual) == (5, 3)


def test_http_error_with_enum_status_keeps_a_plain_integer() -> None:
    """A member of HTTPStatus is taken as its number."""
    error = HTTPError(HTTPStatus.CONFLICT)
    assert type(error.status_code) is int
    assert error.detail == "Conflict"


NO_ERROR_STATUS: list[Any] = [0, -1, 99, 100, 200, 299, 600, 1000, True, "404", 404.0, None]


@pytest.mark.parametrize("status", NO_ERROR_STATUS)
def test_http_error_with_other_status_is_refused(status: Any) -> None:
    """An HTTPError has an integer status from 300 to 599; anything else is a ValueError that says so."""
    with pytest.raises(ValueError, match="from 300 to 599"):
        HTTPError(status)


@pytest.mark.parametrize("status", [300, 399, 400, 599])
def test_http_error_at_the_bounds_is_accepted(status: int) -> None:
    """The bounds of the range are inside of it."""
    assert HTTPError(status).status_code == status


@pytest.mark.parametrize(
    ("value", "expected"),
    [(100, True), (599, True), (HTTPStatus.OK, True), (99, False), (600, False), (True, False), ("200", False)],
)
def test_is_status_of_value_tells_integers_from_100_to_599(value: object, expected: bool) -> None:
    """RFC 9110 section 15: a status is an integer from 100 to 599; bool is none."""
    assert is_status(value) is expected


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param({"headers": {"x-a": "b\r\nset-cookie: c"}}, id="illegal header"),
        pytest.param({"headers": 5}, id="no headers"),
        pytest.param({"detail": "\ud800"}, id="detail without UTF-8 form"),
        pytest.param({"detail": 5}, id="detail that is no text"),
    ],
)
async def test_http_error_that_cannot_be_answered_gives_500(
    fault: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """An HTTPError with a header or a detail that cannot be sent is the application's fault: a 500, logged once."""

    async def endpoint(request: Request) -> Response:
        raise HTTPError(401, **fault)

    channel = await call(Handler(endpoint))
    assert channel.status == 500
    assert [record.levelname for record in caplog.records if record.name == "asgicore"] == ["ERROR"]
