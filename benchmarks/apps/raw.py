"""Bare ASGI functions: the least that the task can cost in Python, without a check of anything."""

from __future__ import annotations

import asyncio
import json as jsonlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from urllib.parse import parse_qsl

from .. import shared
from . import App

TEXT = (b"content-type", b"text/plain; charset=utf-8")


async def answer(send: Any, body: bytes, content_type: tuple[bytes, bytes] = TEXT) -> None:
    headers = [content_type, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def stream(receive: Any) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await receive()
        yield message["body"]
        more = message["more_body"]


async def hello(scope: Any, receive: Any, send: Any) -> None:
    await answer(send, shared.HELLO.encode())


async def inspect(scope: Any, receive: Any, send: Any) -> None:
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    query = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
    cookies = dict(pair.split("=", 1) for pair in headers["cookie"].split("; "))
    data = shared.summary(
        [headers[name] for name in shared.HEADER_NAMES],
        [query[name] for name in shared.QUERY_NAMES],
        [cookies[name] for name in shared.COOKIE_NAMES],
    )
    await answer(send, jsonlib.dumps(data).encode(), (b"content-type", b"application/json"))


async def json(scope: Any, receive: Any, send: Any) -> None:
    body = b""
    more = True
    while more:
        message = await receive()
        body += message["body"]
        more = message["more_body"]
    await answer(send, jsonlib.loads(body)["name"].encode())


async def count(scope: Any, receive: Any, send: Any) -> None:
    size = 0
    more = True
    while more:
        message = await receive()
        size += len(message["body"])
        more = message["more_body"]
    await answer(send, b"%d" % size)


async def spool(scope: Any, receive: Any, send: Any) -> None:
    await answer(send, b"%d" % await shared.spool(stream(receive)))


async def kept(scope: Any, receive: Any, send: Any) -> None:
    await answer(send, b"%d" % await shared.keep(stream(receive)))


async def whole(scope: Any, receive: Any, send: Any) -> None:
    body = shared.whole()
    size = len(body)
    headers = [(b"content-length", b"%d" % size)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    step = shared.MESSAGE_BYTES
    for position in range(0, size, step):
        more = position + step < size
        await send({"type": "http.response.body", "body": body[position : position + step], "more_body": more})


async def parts(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [TEXT]})
    async for part in shared.parts():
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def wait(scope: Any, receive: Any, send: Any) -> None:
    await shared.gate.wait()
    await answer(send, shared.HELLO.encode())


async def thread(scope: Any, receive: Any, send: Any) -> None:
    body = await asyncio.get_running_loop().run_in_executor(None, shared.HELLO.encode)
    await answer(send, body)


def streamed(parts: Callable[[], Iterator[bytes]]) -> App:
    """A hop for each part, as most have it."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise NotImplementedError(scope["type"])  # or all parts would go to whoever asks for the lifespan
        run, generator = asyncio.get_running_loop().run_in_executor, parts()
        await send({"type": "http.response.start", "status": 200, "headers": [TEXT]})
        while part := await run(None, next, generator, b""):
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    return app


APPS = {
    "hello": hello,
    "inspect": inspect,
    "json": json,
    "count": count,
    "spool": spool,
    "whole": whole,
    "parts": parts,
    "wait": wait,
    "kept": kept,
    "thread": thread,
    **{name: streamed(parts) for name, parts in shared.GENERATORS.items()},
}


def build(workload: str, variant: str) -> App | None:
    return APPS.get(workload)
