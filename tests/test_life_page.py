"""docs/life-of-a-request.md: what its table and its picture say is what happens."""

from __future__ import annotations

import logging
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from asgicore import Handler, HTTPError, Limits, Request, Response, StreamingResponse
from asgicore.testing import Client, Exchange, Fault

DOCS = Path(__file__).parent.parent / "docs"
PAGE = (DOCS / "life-of-a-request.md").read_text(encoding="utf-8")
PICTURE = ElementTree.parse(DOCS / "life-of-a-request.svg").getroot()

SVG = "{http://www.w3.org/2000/svg}"

Row = tuple[str, ...]


class Traced(Handler):
    """Remembers what was called."""

    def __init__(self) -> None:
        super().__init__(self.answer, limits=Limits(max_body_bytes=100, max_path_bytes=100))
        self.endpoint_is: str = "not called"
        self.iterator: list[str] = []
        self.background: list[str] = []
        self.ends: list[str] = []
        self.waiting = anyio.Event()

    async def answer(self, request: Request) -> Response:
        self.endpoint_is = "called"
        match request.path:
            case "/wait":
                self.waiting.set()
                try:
                    await anyio.sleep_forever()
                finally:
                    self.endpoint_is = "cancelled"
            case "/refuse":
                raise HTTPError(404)
            case "/fail":
                raise KeyError("a mistake")
            case "/length":
                return Response("three", headers={"content-length": "10"}, background=self.work)
            case "/break" | "/stream":
                return StreamingResponse(self.parts(fails=request.path == "/break"), background=self.work)
            case _:
                pass
        return Response("whole", background=self.work)

    async def parts(self, *, fails: bool) -> AsyncIterator[bytes]:
        self.iterator.append("begun")
        try:
            yield b"one"
            if fails:
                raise KeyError("a mistake")
            self.waiting.set()
            await anyio.sleep_forever()
        finally:
            self.iterator.append("closed")

    async def work(self) -> None:
        self.background.append("run")

    async def client_left(self, request: Any, phase: str) -> None:
        self.ends.append(f'`"{phase}"`')

    async def request_finished(self, request: Any, response: Response | None) -> None:
        self.ends.append("finished")


async def leave(exchange: Exchange, handler: Traced) -> None:
    await handler.waiting.wait()
    exchange.disconnect()


async def cancel(exchange: Exchange, handler: Traced) -> None:
    await handler.waiting.wait()
    exchange.cancel()


async def close(exchange: Exchange, handler: Traced) -> None:
    await handler.waiting.wait()
    await handler.aclose(grace_seconds=0)


async def nothing(exchange: Exchange, handler: Traced) -> None:
    pass


async def leave_at_once(exchange: Exchange, handler: Traced) -> None:
    await anyio.wait_all_tasks_blocked()
    exchange.disconnect()


Meanwhile = Callable[[Exchange, Traced], Awaitable[None]]

# In the order of the page: a request, and what happens meanwhile.
EXITS: list[tuple[str, dict[str, Any], Meanwhile]] = [
    ("/", {}, nothing),
    ("/" + "x" * 100, {}, nothing),
    ("/", {"content": b"x" * 101}, nothing),
    ("/", {"content": b"x", "more_body": True}, leave_at_once),
    ("/refuse", {}, nothing),
    ("/fail", {}, nothing),
    ("/length", {}, nothing),
    ("/wait", {}, leave),
    ("/break", {}, nothing),
    ("/stream", {}, leave),
    ("/stream", {"fault": Fault("send", 2)}, nothing),
    ("/wait", {}, cancel),
    ("/stream", {}, cancel),
    ("/wait", {}, close),
    ("/stream", {}, close),
]


def table() -> list[Row]:
    """The rows of the page, without the names of the exits."""
    found = re.search(r"^\| exit \|.*\n\|[-|]+\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    assert found
    return [tuple(cell.strip() for cell in row.strip("|").split(" | "))[1:] for row in found[1].splitlines()]


async def observe(
    caplog: pytest.LogCaptureFixture, path: str, options: dict[str, Any], meanwhile: Meanwhile
) -> tuple[Traced, Row]:
    """What becomes of one request, in the words of the page."""
    handler = Traced()
    caplog.clear()
    with caplog.at_level(logging.DEBUG, "asgicore"), anyio.fail_after(10):
        async with Client(handler, raise_app_exceptions=False).exchange("POST", path, **options) as exchange:
            await meanwhile(exchange, handler)
            messages = (await exchange.finish()).messages
    levels = [record.levelname for record in caplog.records if record.name == "asgicore"]
    sent = "nothing"
    if messages:
        is_whole = any(message["type"] == "http.response.body" and not message["more_body"] for message in messages)
        sent = f"{messages[0]['status']}" + ("" if is_whole else ", cut off")
    phases = [end for end in handler.ends if end != "finished"]
    raised = type(exchange.error).__name__ if exchange.error else None
    row = (
        handler.endpoint_is,
        sent,
        "runs" if handler.background else "no",
        *(phases or ["no"]),
        ", ".join(levels) or "nothing",
        "returns" if exchange.outcome == "returned" else "raises the error" if raised else "is cancelled",
    )
    return handler, row


@pytest.mark.parametrize("number", range(len(EXITS)), ids=lambda number: f"exit-{number + 1}")
async def test_exit_is_as_the_table_says(number: int, caplog: pytest.LogCaptureFixture) -> None:
    """Endpoint, messages, background work, hooks, log and the call's end are those of the row."""
    rows = table()
    assert len(rows) == len(EXITS)
    handler, row = await observe(caplog, *EXITS[number])
    assert row == rows[number]
    assert handler.ends[-1] == "finished"
    assert handler.ends.count("finished") == 1
    assert handler.iterator in ([], ["begun", "closed"])


def texts() -> list[ElementTree.Element]:
    return list(PICTURE.iter(f"{SVG}text"))


def test_picture_has_its_words_as_text() -> None:
    """It has a title and a description, and its words can be searched and read aloud."""
    assert PICTURE.get("role") == "img"
    assert PICTURE.find(f"{SVG}title") is not None
    assert PICTURE.find(f"{SVG}desc") is not None
    assert len(texts()) > 10
    assert list(PICTURE.iter(f"{SVG}image")) == []


def test_picture_names_hooks_that_exist() -> None:
    """What it sets in the type of code is a method of Handler."""
    names = [text.text for text in texts() if text.get("class") == "code"]
    assert len(names) > 5
    for name in names:
        assert hasattr(Handler, str(name)), name


def test_words_of_the_picture_stay_within_it() -> None:
    """On a phone the picture is as wide as the screen: none of its lines is longer than it is."""
    width = float(PICTURE.attrib["viewBox"].split()[2])
    for text in texts():
        x, length = float(text.attrib["x"]), len("".join(text.itertext()))
        wide = 8.5 if text.get("class") == "code" else 7.5
        half = 2 if text.get("text-anchor") == "middle" else 1
        assert x + length * wide / half <= width, text.text
