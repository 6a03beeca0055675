"""Observers of a Django site: they get Django's requests and responses, and see what Django makes of exceptions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from django.core.exceptions import PermissionDenied
from django.core.signals import got_request_exception
from django.http import Http404, HttpRequest, HttpResponse, StreamingHttpResponse
from django_site import OURS, ask, backends, run, site

from asgicore import BodyTooLargeError, Handler, HTTPError, MalformedRequestError, Observer, Outcome, Request, Response
from asgicore.django_bridge import ASGIRequest
from asgicore.testing import DISCONNECT, Channel, body_messages, http_scope
from asgicore.types import Scope

pytestmark = backends

variable: ContextVar[str] = ContextVar("variable", default="unset")


class Seeing(Observer):
    """Keeps what it is told, and sets a context variable around each request."""

    def __init__(self) -> None:
        self.ends: list[tuple[Any, ...]] = []

    @contextmanager
    def around(self, scope: Scope) -> Iterator[None]:
        token = variable.set("set")
        yield
        variable.reset(token)

    def extra_headers(self, request: Any, response: Any, timings: Any) -> dict[str, str]:
        return {"X-Class": type(response).__name__}

    def __call__(self, *told: Any) -> None:
        self.ends.append(told)

    def only(self) -> Any:
        (end,) = self.ends
        return end


def plain(request: HttpRequest) -> HttpResponse:
    return HttpResponse(variable.get())


async def asynchronous(request: HttpRequest) -> HttpResponse:
    await checkpoint()
    return HttpResponse(variable.get())


def streaming(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(variable.get() for _ in range(2))


@pytest.mark.parametrize("view", [plain, asynchronous, streaming])
async def test_observer_of_a_view_gets_request_and_response_of_django(view: Any) -> None:
    """A view of any kind runs within what is around the request, in its thread, too."""
    seeing = Seeing()
    with site(view):
        outcome = await ask(OURS(observe=seeing), path="/here")
    request, response, timings, end, error = seeing.only()
    assert outcome.body in (b"set", b"setset")
    assert outcome.header("x-class") == [type(response).__name__]
    assert (type(request), request.path, response.status_code) == (ASGIRequest, "/here", 200)
    assert (end, error) == (Outcome.COMPLETED, None)
    assert timings.bytes_sent == len(outcome.body)
    assert timings.total_seconds >= timings.endpoint_seconds > 0
    assert variable.get() == "unset"


@pytest.mark.parametrize("is_async", [False, True])
async def test_observer_of_a_view_that_fails_gets_the_exception(is_async: bool) -> None:
    """Django answers with a 500 by itself; the observer is told what for."""
    failure = KeyError("no")

    def fails(request: HttpRequest) -> HttpResponse:
        raise failure

    async def fails_later(request: HttpRequest) -> HttpResponse:
        raise failure

    seeing = Seeing()
    with site(fails_later if is_async else fails):
        outcome = await ask(OURS(observe=seeing))
    _, response, _, end, error = seeing.only()
    assert outcome.status == response.status_code == 500
    assert (end, error) == (Outcome.FAILED, failure)


async def test_observer_of_a_view_that_reports_an_exception_and_answers_is_told_completed() -> None:
    """The signal alone is no failure."""

    def reports(request: HttpRequest) -> HttpResponse:
        try:
            raise KeyError("no")
        except KeyError:
            got_request_exception.send(sender=None, request=request)
        return HttpResponse("yes")

    seeing = Seeing()
    with site(reports):
        await ask(OURS(observe=seeing))
    _, response, timings, end, error = seeing.only()
    assert (response.status_code, timings.status_code) == (200, 200)
    assert (end, error) == (Outcome.COMPLETED, None)


@pytest.mark.parametrize(("raised", "status"), [(Http404, 404), (PermissionDenied, 403)])
async def test_observer_of_a_view_that_answers_by_an_exception_is_told_completed(raised: Any, status: int) -> None:
    """What Django takes for an answer is one."""

    def refuses(request: HttpRequest) -> HttpResponse:
        raise raised

    seeing = Seeing()
    with site(refuses):
        outcome = await ask(OURS(observe=seeing))
    assert outcome.status == status
    assert seeing.only()[3:] == (Outcome.COMPLETED, None)


async def test_observer_of_a_request_that_django_does_not_see_gets_one_of_ours() -> None:
    """Refused by the engine, or left by its client before the body was there."""
    seeing = Seeing()
    with site(plain):
        app = OURS(observe=seeing, max_body_bytes=3)
        assert (await ask(app, path="/\x00")).status == 400
        assert (await ask(app, body_messages(b"abcd"), headers=[(b"content-length", b"4")])).status == 413
        assert (await ask(app, [DISCONNECT])).status is None
    assert [type(end[0]) for end in seeing.ends] == [Request] * 3
    assert [None if end[1] is None else end[1].status_code for end in seeing.ends] == [400, 413, None]
    assert [end[3] for end in seeing.ends] == [Outcome.REFUSED, Outcome.REFUSED, Outcome.CLIENT_LEFT]
    assert [type(end[4]) for end in seeing.ends] == [MalformedRequestError, BodyTooLargeError, type(None)]


async def test_observer_of_a_request_that_breaks_the_engine_has_no_response() -> None:
    """What fails before anything is known of a request is told all the same."""

    class Broken(OURS):  # type: ignore[misc]
        def _check_head(self, scope: Any, body: Any) -> Any:
            raise KeyError("no")

    seeing = Seeing()
    with site(plain):
        await run(Broken(observe=seeing), Channel())
    assert seeing.only()[3] is Outcome.FAILED


async def test_observer_of_a_client_that_leaves_a_view_is_told() -> None:
    """As under the engine alone."""
    server = Channel()

    async def waits(request: HttpRequest) -> HttpResponse:
        server.disconnect()
        await anyio.sleep_forever()
        raise AssertionError("not reached")

    seeing = Seeing()
    with site(waits):
        await run(OURS(observe=seeing), server, path="/here")
    request, response, _, end, error = seeing.only()
    assert (request.path, response, end, error) == ("/here", None, Outcome.CLIENT_LEFT, None)


async def test_observers_of_the_setting_are_told_unless_others_are_given() -> None:
    """ASGICORE = {"OBSERVE": ...} stands for the argument, which leads."""
    of_setting, of_argument = Seeing(), Seeing()
    with site(plain, ASGICORE={"OBSERVE": [of_setting]}):
        await ask(OURS())
        await ask(OURS(observe=of_argument))
        await ask(OURS(observe=()))
    assert (len(of_setting.ends), len(of_argument.ends)) == (1, 1)


async def test_observer_around_a_site_is_not_told_of_its_exceptions() -> None:
    """An exception that the site answers is the site's, not that of the handler that asked it."""
    outer = Seeing()

    def fails(request: HttpRequest) -> HttpResponse:
        raise KeyError("no")

    with site(fails):
        OURS(observe=Seeing())  # from here on Django tells of exceptions
        inner = OURS()

        async def endpoint(request: Request) -> Response:
            outcome = await ask(inner)
            if outcome.status != 500:
                raise HTTPError(502)
            return Response(b"asked")

        channel = Channel()
        await Handler(endpoint, observe=outer)(http_scope(), channel.receive, channel.send)
    assert channel.body == b"asked"
    assert outer.only()[3:] == (Outcome.COMPLETED, None)
