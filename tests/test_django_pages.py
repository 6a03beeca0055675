"""What the pages show of Django, in a site: a view beside the endpoint that it becomes, and a handler of one's own."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from django.http import StreamingHttpResponse
from django_site import Outcome, ask, backends, same, site
from pages import pieces

pytestmark = backends


def example(page: str, holds: str) -> dict[str, Any]:
    """What a block of Python on a page defines."""
    (code,) = (one.text for one in pieces() if one.page == page and one.language == "python" and holds in one.text)
    namespace: dict[str, Any] = {"__name__": "example"}
    exec(compile(code, page, "exec"), namespace)
    return namespace


def gist(outcome: Outcome) -> tuple[Any, ...]:
    """What view and endpoint have in common: not the blanks of JSON, nor the order of what is said of a cookie."""
    text = outcome.body.decode()
    cookies = [{part.strip().lower() for part in cookie.split(";")} for cookie in outcome.header("set-cookie")]
    return outcome.status, json.loads(text) if "{" in text else text, cookies, outcome.header("cache-control")


@pytest.mark.parametrize(("query", "status"), [(b"word=a&word=b", 200), (b"", 400)])
async def test_view_and_the_endpoint_that_it_becomes_answer_alike(query: bytes, status: int) -> None:
    """docs/from-django.md: there, under Django's handler and ours, as here."""
    scope: dict[str, Any] = {"query_string": query, "headers": [(b"user-agent", b"a browser")]}
    with site(example("docs/from-django.md", "# there.py\n")["search"]):
        there = await same(**scope)
    here = await ask(example("docs/from-django.md", "# here.py\n")["app"], **scope)
    assert here.status == status
    assert gist(here) == gist(there)


async def test_handler_of_the_page_knows_the_requests_that_views_are_at() -> None:
    """docs/django.md: one request while its view works, none while the response is sent, nor when it failed."""
    seen: list[int] = []

    async def view(request: Any) -> StreamingHttpResponse:
        async def parts() -> AsyncIterator[bytes]:
            seen.append(len(application.at_work))
            yield b"part"

        seen.append(len(application.at_work))
        if "broken" in request.GET:
            raise ValueError("of the view's own")
        return StreamingHttpResponse(parts())

    with site(view):
        application = example("docs/django.md", "class SiteHandler")["get_application"]()
        assert (await ask(application)).body == b"part"
        assert seen == [1, 0]
        assert (await ask(application, query_string=b"broken")).status == 500
    assert seen == [1, 0, 1]
    assert application.at_work == set()
