"""Conditional requests for any response: set_etag, last_modified and check_preconditions (RFC 9110 section 13).

The decision itself, with every combination of fields, is tested in test_conditions.py.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgicore import (
    Handler,
    HTTPError,
    InvalidHeaderError,
    JSONResponse,
    Request,
    Response,
    StreamingResponse,
    UsageError,
)
from asgicore._conditions import evaluate
from asgicore.testing import Channel, call, check_messages, http_scope

TAG = '"v1"'
MOMENT = datetime(2024, 5, 17, 12, 30, 45, tzinfo=UTC)
DATE = "Fri, 17 May 2024 12:30:45 GMT"
EARLIER = "Fri, 17 May 2024 12:30:44 GMT"


def tagged(content: bytes = b"content", status_code: int = 200) -> Response:
    response = Response(content, status_code)
    response.set_etag("v1")
    return response


def dated() -> Response:
    response = Response(b"content")
    response.last_modified = MOMENT
    return response


async def ask(make: Callable[[], Response], method: str = "GET", **fields: str) -> Channel:
    """One request with these conditions, to a handler and to the response itself: both answer the same."""

    async def endpoint(request: Request) -> Response:
        return make()

    headers = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in fields.items()]
    channel = await call(Handler(endpoint), method=method, headers=headers)
    check_messages(channel.sent, method=method, complete=True)
    alone = await call(make(), method=method, headers=headers)
    assert alone.sent == channel.sent
    return channel


# --- validators ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("v1",), '"v1"'),
        (('"v1"',), '"v1"'),
        (('W/"v1"',), 'W/"v1"'),
        (("",), '""'),
        (("a\xe9",), '"a\xe9"'),
    ],
)
def test_set_etag_takes_a_tag_with_or_without_quotes(arguments: tuple[str, ...], expected: str) -> None:
    """What goes out is a tag of RFC 9110 section 8.8.3."""
    response = Response()
    response.set_etag(*arguments)
    assert response.headers["etag"] == expected


@pytest.mark.parametrize("value", ["v1", '"v1"', 'W/"v1"'])
def test_set_etag_weak_is_weak_however_the_tag_is_written(value: str) -> None:
    """Quotes around it do not make it strong."""
    response = Response()
    response.set_etag(value, weak=True)
    assert response.headers["etag"] == 'W/"v1"'


@pytest.mark.parametrize("value", ['a"b', "a b", '"a b"', 'w/"a"', '""a"', "\u2603", "a\r\nb", "\x7f", 5, b"v1", 1.5])
def test_set_etag_with_what_is_no_tag_raises(value: Any) -> None:
    """Where it is set; the field is named."""
    with pytest.raises(InvalidHeaderError, match="etag"):
        Response().set_etag(value)


def test_set_etag_without_value_is_a_hash_of_the_body() -> None:
    """Equal bytes have equal tags, other bytes have others; calling again replaces it."""
    tags = []
    for body in (b"a", b"a", b"b", b""):
        response = Response(body)
        response.set_etag()
        tags.append(response.headers["etag"])
    assert tags[0] == tags[1]
    assert len(set(tags)) == 3
    response.body = b"a"
    response.set_etag()
    assert response.headers.getall("etag") == [tags[0]]


def test_set_etag_of_a_stream_without_value_raises() -> None:
    """There is nothing to take a hash of."""
    with pytest.raises(UsageError, match="give set_etag"):
        StreamingResponse([b"part"]).set_etag()


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        (MOMENT, DATE),
        (MOMENT.replace(tzinfo=None), DATE),
        (MOMENT.replace(microsecond=999_999), DATE),
        (MOMENT.astimezone(timezone(timedelta(hours=-7))), DATE),
        (MOMENT.timestamp(), DATE),
        (MOMENT.timestamp() + 0.9, DATE),
        (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
        (-1, "Wed, 31 Dec 1969 23:59:59 GMT"),
        (-0.5, "Wed, 31 Dec 1969 23:59:59 GMT"),
        (datetime(1969, 12, 31, 23, 59, 59, 500_000), "Wed, 31 Dec 1969 23:59:59 GMT"),
        (datetime(1, 1, 1), "Mon, 01 Jan 0001 00:00:00 GMT"),
    ],
    ids=str,
)
def test_last_modified_is_whole_seconds_in_utc(moment: Any, expected: str) -> None:
    """Cut, not rounded, so that it is never later than the change; without a zone it is UTC."""
    response = Response()
    response.last_modified = moment
    assert response.headers["last-modified"] == expected
    assert response.last_modified is not None
    assert response.last_modified.utcoffset() == timedelta(0)


def test_last_modified_in_the_future_is_now() -> None:
    """RFC 9110 section 8.8.2.1: no later than the date of the message."""
    response = Response()
    before = datetime.now(UTC).replace(microsecond=0)
    response.last_modified = datetime(9999, 12, 31)
    assert response.last_modified is not None
    assert before <= response.last_modified <= datetime.now(UTC)


def test_last_modified_none_takes_the_field_away() -> None:
    """Also where there is none."""
    response = dated()
    for _ in range(2):
        response.last_modified = None
        assert response.last_modified is None
        assert "last-modified" not in response.headers


@pytest.mark.parametrize(
    "moment", [float("nan"), -1e12, "yesterday", datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1)))]
)
def test_last_modified_with_what_is_no_moment_raises(moment: Any) -> None:
    """What is no number, no ``datetime``, or beyond the calendar."""
    with pytest.raises((TypeError, ValueError)):
        Response().last_modified = moment


def test_last_modified_that_is_no_date_is_none() -> None:
    """A field that was set by hand, and says nothing."""
    assert Response(headers={"last-modified": "yesterday"}).last_modified is None


# --- 304 and 412 ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("field", ['"v1"', 'W/"v1"', "*", '"v0", "v1"'])
async def test_etag_that_the_client_has_is_answered_with_304(method: str, field: str) -> None:
    """Compared weakly (RFC 9110 section 13.1.2)."""
    channel = await ask(tagged, method, if_none_match=field)
    assert channel.status == 304
    assert channel.headers == [(b"etag", b'"v1"')]


async def test_etag_that_the_client_has_not_is_answered_in_full() -> None:
    """With the tag."""
    channel = await ask(tagged, if_none_match='"v0"')
    assert (channel.status, channel.body) == (200, b"content")
    assert dict(channel.headers)[b"etag"] == b'"v1"'


@pytest.mark.parametrize(
    ("field", "status"), [('"v1"', 200), ("*", 200), ('"v0"', 412), ('W/"v1"', 412), ("nonsense", 412)]
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_if_match_of_a_get_is_held_against_the_etag(method: str, field: str, status: int) -> None:
    """Compared strongly (RFC 9110 section 13.1.1)."""
    assert (await ask(tagged, method, if_match=field)).status == status


async def test_if_match_fails_before_if_none_match_is_looked_at() -> None:
    """The order of RFC 9110 section 13.2.2."""
    assert (await ask(tagged, if_match='"v0"', if_none_match='"v1"')).status == 412


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"if_modified_since": DATE}, 304),
        ({"if_modified_since": EARLIER}, 200),
        ({"if_modified_since": "yesterday"}, 200),
        ({"if_unmodified_since": DATE}, 200),
        ({"if_unmodified_since": EARLIER}, 412),
    ],
)
async def test_last_modified_is_held_against_dates(fields: dict[str, str], status: int) -> None:
    """Malformed dates are ignored."""
    assert (await ask(dated, **fields)).status == status


async def test_if_modified_since_is_ignored_beside_if_none_match() -> None:
    """The tag knows better (RFC 9110 section 13.1.3)."""

    def both() -> Response:
        response = tagged()
        response.last_modified = MOMENT
        return response

    assert (await ask(both, if_none_match='"v0"', if_modified_since=DATE)).status == 200


async def test_last_modified_is_compared_in_whole_seconds() -> None:
    """A client gives back what it got, which has no fraction."""

    def build() -> Response:
        response = Response()
        response.last_modified = MOMENT + timedelta(seconds=0.75)
        return response

    assert (await ask(build, if_modified_since=DATE)).status == 304


@pytest.mark.parametrize("status", [300, 304, 404, 412, 500])
async def test_conditions_are_ignored_for_other_than_2xx(status: int) -> None:
    """RFC 9110 section 13.2.1: what would not have been a success is what it is."""
    channel = await ask(lambda: tagged(b"", status), if_match='"v0"', if_none_match='"v1"')
    assert channel.status == status


@pytest.mark.parametrize("status", [200, 201, 203, 204, 206])
async def test_conditions_hold_for_every_2xx(status: int) -> None:
    """204 among them."""
    assert (await ask(lambda: tagged(b"", status), if_none_match='"v1"')).status == 304


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PURGE"])
async def test_conditions_of_other_methods_are_left_to_the_endpoint(method: str) -> None:
    """When its response is there, the change was made: check_preconditions is for before."""
    channel = await ask(tagged, method, if_match='"v0"', if_none_match='"v1"')
    assert (channel.status, channel.body) == (200, b"content")


async def test_conditions_without_a_validator_set_are_ignored() -> None:
    """A field that was given among ``headers=`` is sent, and asked nothing of."""
    channel = await ask(lambda: Response(b"content", headers={"etag": TAG}), if_none_match=TAG, if_match='"v0"')
    assert channel.status == 200


async def test_repeated_condition_fields_are_one_list() -> None:
    """RFC 9110 section 5.3."""
    headers = [(b"if-none-match", b'"v0"'), (b"if-none-match", b'"v1"')]
    assert (await call(tagged(), headers=headers)).status == 304


# --- what a 304 is -------------------------------------------------------------------------------------------


async def test_304_keeps_what_is_about_the_message_and_drops_what_is_about_content() -> None:
    """RFC 9110 section 15.4.5."""

    def build() -> Response:
        response = Response(
            b"content",
            headers=[
                ("cache-control", "max-age=60"),
                ("content-encoding", "identity"),
                ("content-language", "en"),
                ("content-location", "/a.en"),
                ("date", DATE),
                ("expires", DATE),
                ("vary", "accept"),
                ("vary", "cookie"),
                ("x-own", "1"),
            ],
            content_type="text/plain",
        )
        response.set_cookie("a", "1")
        response.set_cookie("b", "2")
        response.set_etag("v1")
        response.last_modified = MOMENT
        return response

    channel = await ask(build, if_none_match=TAG)
    assert channel.status == 304
    names = [name for name, _ in channel.headers]
    assert sorted(names) == [
        b"cache-control",
        b"content-location",
        b"date",
        b"etag",
        b"expires",
        b"last-modified",
        b"set-cookie",
        b"set-cookie",
        b"vary",
        b"vary",
        b"x-own",
    ]


class Parts:
    """A body in parts that notes what was asked of it, and that it was closed."""

    def __init__(self) -> None:
        self.asked = 0
        self.closed = 0

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        self.asked += 1
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self.closed += 1


@pytest.mark.parametrize(
    ("fields", "status"), [({"if_none_match": TAG}, 304), ({"if_match": '"v0"'}, 412)], ids=["304", "412"]
)
async def test_stream_that_is_not_sent_is_closed_unread(fields: dict[str, str], status: int) -> None:
    """A stream with a tag costs nothing where the client has it."""
    made: list[Parts] = []

    def build() -> Response:
        made.append(Parts())
        response = StreamingResponse(made[-1], headers={"content-length": "10"})
        response.set_etag("v1")
        return response

    channel = await ask(build, **fields)
    assert channel.status == status
    assert [(parts.asked, parts.closed) for parts in made] == [(0, 1)] * 2


async def test_synchronous_stream_that_is_not_sent_is_closed_unread() -> None:
    """In its thread, as ever."""
    closed: list[str] = []

    class Lines:
        def __iter__(self) -> Iterator[bytes]:
            raise AssertionError("not to be read")

        def close(self) -> None:
            closed.append("closed")

    def build() -> Response:
        response = StreamingResponse(Lines())
        response.set_etag("v1")
        return response

    assert (await ask(build, if_none_match=TAG)).status == 304
    assert closed == ["closed", "closed"]


def test_background_work_can_be_taken_away() -> None:
    """``None`` is none; what cannot be called is refused where it is set."""
    response = Response(background=list)
    response.background = None
    assert response.background is None
    wrong: Any = 5
    with pytest.raises(TypeError, match="background takes a function"):
        response.background = wrong


@pytest.mark.parametrize("fields", [{"if_none_match": TAG}, {"if_none_match": '"v0"'}], ids=["304", "200"])
async def test_background_work_runs_after_either_answer(fields: dict[str, str]) -> None:
    """A client that has the content is served, too."""
    ran: list[str] = []

    def build() -> Response:
        response = tagged()
        response.background = lambda: ran.append("background")
        return response

    await ask(build, **fields)
    assert ran == ["background"] * 2


async def test_response_with_an_etag_serves_any_number_of_requests() -> None:
    """What is prepared for one request does not show in the next, side by side or one after the other."""
    response = JSONResponse({"a": 1})
    response.set_etag("v1")
    response.set_cookie("a", "1")

    async def endpoint(request: Request) -> Response:
        return response

    handler = Handler(endpoint)
    before = response.raw_headers()
    answers: dict[int, int] = {}

    async def one(number: int) -> None:
        headers = [(b"if-none-match", b'"v1"')] if number % 2 else []
        channel = await call(handler if number % 3 else response, headers=headers)
        answers[number] = channel.status
        assert channel.body == (b"" if number % 2 else b'{"a":1}')

    async with anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(one, number)
    assert answers == {number: 304 if number % 2 else 200 for number in range(20)}
    assert response.raw_headers() == before


async def test_validator_that_a_hook_sets_is_held_against_the_request() -> None:
    """response_ready comes before the response is prepared: a framework can tag all responses there."""

    class Tagging(Handler):
        async def response_ready(self, request: Any, response: Response) -> None:
            response.set_etag()

    async def endpoint(request: Request) -> Response:
        return Response(b"content")

    first = await call(Tagging(endpoint))
    tag = dict(first.headers)[b"etag"]
    assert (await call(Tagging(endpoint), headers=[(b"if-none-match", tag)])).status == 304


# --- prepare -------------------------------------------------------------------------------------------------


class Prepared(Response):
    """A response with a ``prepare`` of its own, as an application would write it."""

    __slots__ = ("act",)

    def __init__(self, act: Callable[[Any], Any]) -> None:
        super().__init__(b"unprepared")
        self.act = act

    async def prepare(self, scope: Any) -> Response:
        result: Response = self.act(scope)
        return result


async def prepared(act: Callable[[Any], Any], **scope: Any) -> Channel:
    async def endpoint(request: Request) -> Response:
        return Prepared(act)

    return await call(Handler(endpoint), **scope)


async def test_prepare_of_a_subclass_is_called_once_with_the_scope() -> None:
    """Nothing has to be set for it; the header fields are a list, whatever the server gave."""
    seen: list[Any] = []

    def act(scope: Any) -> Response:
        seen.append((scope["path"], scope["headers"]))
        return Response(scope["path"])

    fields = ((b"accept", b"*/*"),)
    assert (await prepared(act, path="/a", headers=iter(fields))).body == b"/a"
    assert (await call(Prepared(act), path="/b", headers=iter(fields))).body == b"/b"
    assert seen == [("/a", list(fields)), ("/b", list(fields))]


async def test_prepare_of_a_stream_subclass_is_called() -> None:
    """The same for streams."""

    class Shouting(StreamingResponse):
        async def prepare(self, scope: Any) -> Response:
            self.headers["x-prepared"] = "1"
            return await super().prepare(scope)

    async def endpoint(request: Request) -> Response:
        return Shouting([b"part"])

    channel = await call(Handler(endpoint))
    assert (b"x-prepared", b"1") in channel.headers
    assert channel.body == b"part"


async def test_prepare_that_returns_another_response_has_both_closed() -> None:
    """The one that was made first and the one that is sent."""
    first, second = Parts(), Parts()

    class Replaced(StreamingResponse):
        async def prepare(self, scope: Any) -> Response:
            return StreamingResponse(second)

    async def endpoint(request: Request) -> Response:
        return Replaced(first)

    await call(Handler(endpoint))
    assert (first.asked, first.closed) == (0, 1)
    assert (second.asked, second.closed) == (1, 1)


async def test_prepare_that_raises_http_error_is_answered_with_it(caplog: pytest.LogCaptureFixture) -> None:
    """A file that is not there, for example; nothing is logged."""

    def act(scope: Any) -> Response:
        raise HTTPError(404, "no such file")

    assert (await prepared(act)).body == b"no such file"
    assert not caplog.records


async def test_prepare_that_raises_is_a_500(caplog: pytest.LogCaptureFixture) -> None:
    """Logged once with its traceback, as of an endpoint."""
    assert (await prepared(lambda scope: 1 / 0)).status == 500
    assert [type(record.exc_info[1]) for record in caplog.records if record.exc_info] == [ZeroDivisionError]


@pytest.mark.parametrize("nonsense", [None, b"bytes", 5, Response], ids=repr)
async def test_prepare_that_returns_nonsense_is_a_clear_error(nonsense: Any, caplog: pytest.LogCaptureFixture) -> None:
    """It names the method and what came."""
    assert (await prepared(lambda scope: nonsense)).status == 500
    (record,) = caplog.records
    assert record.exc_info
    assert str(record.exc_info[1]) == f"Prepared.prepare returned {type(nonsense).__name__}; it must return a Response"


@pytest.mark.parametrize("where", ["endpoint", "head", "body", "send"])
async def test_answer_to_an_error_is_prepared_like_any_response(where: str) -> None:
    """An error page may depend on the request, wherever the error came from."""

    class Paged(Handler):
        def handle_http_error(self, request: Any, exc: HTTPError) -> Response:
            return Prepared(lambda scope: Response(f"page for {scope['path']}", exc.status_code))

        def handle_uncaught_exception(self, request: Any, exc: Exception) -> Response:
            return Prepared(lambda scope: Response(f"page for {scope['path']}", 500))

    class Unstartable(Parts):
        def start_thread(self) -> None:
            raise LookupError

    async def endpoint(request: Request) -> Response:
        if where == "send":
            return StreamingResponse(Unstartable())
        raise HTTPError(404)

    headers = {"head": [(b"content-length", b"x")], "body": [(b"content-length", b"5")]}.get(where, [])
    channel = await call(Paged(endpoint), path="/a", headers=headers)
    check_messages(channel.sent, complete=True)
    assert channel.body == b"page for /a"
    assert channel.status == {"endpoint": 404, "head": 400, "body": 400, "send": 500}[where]


async def test_answer_to_an_error_that_cannot_be_prepared_is_a_plain_500(caplog: pytest.LogCaptureFixture) -> None:
    """It is not asked for again, which would fail the same way."""
    asked: list[int] = []

    class Broken(Handler):
        def handle_http_error(self, request: Any, exc: HTTPError) -> Response:
            asked.append(exc.status_code)
            return Prepared(lambda scope: 1 / 0)

    async def endpoint(request: Request) -> Response:
        raise HTTPError(404)

    channel = await call(Broken(endpoint))
    assert (channel.status, channel.body) == (500, b"Internal Server Error")
    assert asked == [404]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


async def test_prepared_response_reaches_an_overridden_send_response() -> None:
    """What the hook gets is what is to be sent, trailers and conditions included."""
    seen: list[int] = []

    class Own(Handler):
        async def send_response(self, response: Response, send: Any) -> None:
            seen.append(response.status_code)
            await super().send_response(response, send)

    async def endpoint(request: Request) -> Response:
        return tagged()

    channel = await call(Own(endpoint), headers=[(b"if-none-match", b"*")])
    assert (channel.status, seen) == (304, [304])


async def test_finished_hook_gets_the_response_that_was_sent() -> None:
    """The 304, not the response that it stands for."""
    finished: list[int | None] = []

    class Noting(Handler):
        async def request_finished(self, request: Any, response: Response | None) -> None:
            finished.append(None if response is None else response.status_code)

    async def endpoint(request: Request) -> Response:
        return tagged()

    await call(Noting(endpoint), headers=[(b"if-none-match", b"*")])
    assert finished == [304]


# --- check_preconditions -------------------------------------------------------------------------------------


def request_with(method: str = "PUT", **fields: str) -> Request:
    headers = [(name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()]

    async def never(index: int) -> None:
        raise AssertionError("receive was called")

    return Request(http_scope(method=method, headers=headers), Channel(on_receive=never).receive)


@pytest.mark.parametrize(
    ("fields", "options", "status"),
    [
        ({}, {}, None),
        ({"if_match": TAG}, {"etag": TAG}, None),
        ({"if_match": '"v0"'}, {"etag": TAG}, 412),
        ({"if_match": TAG}, {"etag": 'W/"v1"'}, 412),
        ({"if_match": "*"}, {}, None),
        ({"if_match": "*"}, {"exists": False}, 412),
        ({"if_none_match": "*"}, {}, 412),
        ({"if_none_match": "*"}, {"exists": False}, None),
        ({"if_unmodified_since": EARLIER}, {"last_modified": MOMENT}, 412),
        ({"if_unmodified_since": DATE}, {"last_modified": MOMENT.timestamp() + 0.5}, None),
        ({"if_modified_since": DATE}, {"last_modified": MOMENT}, None),
    ],
)
def test_check_preconditions_of_a_put_refuses_before_the_change(
    fields: dict[str, str], options: dict[str, Any], status: int | None
) -> None:
    """The lost update of RFC 9110 section 13.1.1."""
    request = request_with(**fields)
    if status is None:
        request.check_preconditions(**options)
    else:
        with pytest.raises(HTTPError) as caught:
            request.check_preconditions(**options)
        assert caught.value.status_code == status


async def test_check_preconditions_of_a_get_answers_304_with_the_fields_of_caches() -> None:
    """RFC 9110 section 15.4.5: those that the 200 would have had."""

    async def endpoint(request: Request) -> Response:
        request.check_preconditions(etag=TAG, headers={"cache-control": "max-age=60", "vary": "accept"})
        raise AssertionError("not reached")

    channel = await call(Handler(endpoint), headers=[(b"if-none-match", TAG.encode())])
    check_messages(channel.sent, complete=True)
    assert channel.status == 304
    assert channel.headers == [(b"cache-control", b"max-age=60"), (b"vary", b"accept"), (b"etag", b'"v1"')]


@pytest.mark.parametrize("etag", ["v1", "", 'W/"a b"', 5, b'"v1"'])
def test_check_preconditions_with_what_is_no_tag_raises(etag: Any) -> None:
    """Also where the request has no conditions: the mistake is in the endpoint."""
    with pytest.raises(InvalidHeaderError, match="etag"):
        request_with().check_preconditions(etag=etag)


# --- both ways agree -----------------------------------------------------------------------------------------

TAGS = st.sampled_from(['"a"', '"b"', 'W/"a"', 'W/"b"', "*", '"a", "b"', "", "nonsense", '"a'])
DATES = st.sampled_from([DATE, EARLIER, "Sat, 18 May 2024 12:30:45 GMT", "yesterday", ""])
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "if-match": TAGS,
        "if-none-match": TAGS,
        "if-modified-since": DATES,
        "if-unmodified-since": DATES,
    },
)


@given(
    method=st.sampled_from(["GET", "HEAD", "POST"]),
    fields=FIELDS,
    etag=st.sampled_from([None, '"a"', 'W/"a"']),
    is_dated=st.booleans(),
    status=st.sampled_from([200, 206, 404]),
)
def test_any_response_answers_as_the_conditions_decide(
    method: str, fields: dict[str, str], etag: str | None, is_dated: bool, status: int
) -> None:
    """Every combination is a legal response of the status that RFC 9110 section 13.2.2 comes to."""

    def build() -> Response:
        response = Response(b"content", status)
        if etag:
            response.set_etag(etag)
        if is_dated:
            response.last_modified = MOMENT
        return response

    headers = [(name.encode(), value.encode()) for name, value in fields.items()]
    expected: int | None = None
    if method != "POST" and status < 300 and (etag or is_dated):
        expected = evaluate(method, headers, etag, int(MOMENT.timestamp()) if is_dated else None)

    async def main() -> None:
        named = {name.replace("-", "_"): value for name, value in fields.items()}
        assert (await ask(build, method, **named)).status == (expected or status)

    anyio.run(main)
