"""An application that tells how its server behaves: under real servers, and under the personalities of the testing kit.

Each path is one question. What is found out is recorded as ``path word``, one line each, in the file that the
environment variable ``WIRE_EVENTS`` names.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any

import anyio

WAIT_SECONDS = 0.3
"""After which what has not come does not come."""

UPLOAD = bytes(300_000)

Record = Callable[[str], None]


def start(*headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return {"type": "http.response.start", "status": 200, "headers": list(headers)}


def body(part: bytes = b"", more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": part, "more_body": more}


class Probe:
    """The application; ``record`` gets (path, word)."""

    def __init__(self, record: Callable[[str, str], None]) -> None:
        self._record = record

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        path: str = scope["path"]
        question = QUESTIONS.get(path)
        if question is not None:
            await question(scope, receive, send, lambda word: self._record(path, word))
            self._record(path, "over")
        else:
            await send(start())
            await send(body(b"hello"))


async def ask(call: Callable[..., Awaitable[Any]], *message: dict[str, Any]) -> str:
    """What becomes of a call; it may raise before there is something to await."""
    try:
        with anyio.fail_after(WAIT_SECONDS):
            result = await call(*message)
    except TimeoutError:
        return "waits"
    except OSError:
        return "OSError"
    except Exception as exc:
        return "ValueError" if isinstance(exc, ValueError) else "refused"
    return "taken" if result is None else str(result["type"])


async def tell_scope(scope: Any, receive: Any, send: Any, record: Record) -> None:
    record(f"spec {scope['asgi'].get('spec_version')}")
    record(f"extensions {sorted(scope['extensions']) if 'extensions' in scope else None}")
    record(f"state {'state' in scope}")
    record(f"client {type(scope['client']).__name__} {type(scope['client'][1]).__name__}")
    record(f"underscore {any(name == b'x_y' for name, _ in scope['headers'])}")
    await send(start())
    await send(body())


async def read_body(scope: Any, receive: Any, send: Any, record: Record) -> None:
    sizes, more = [], True
    while more:
        message = await receive()
        sizes.append(len(message.get("body", b"")))
        more = message.get("more_body", False)
    record(f"bytes {sum(sizes)}")
    record(f"longest {max(sizes)}")
    record(f"ends apart {sizes[-1] == 0}")
    await send(start())
    await send(body())


async def go_on_after_the_end(scope: Any, receive: Any, send: Any, record: Record) -> None:
    await receive()
    await send(start((b"content-length", b"1")))
    await send(body(b"x"))
    record(f"send {await ask(send, body(b'y'))}")
    record(f"receive {await ask(receive)}")


async def start_twice(scope: Any, receive: Any, send: Any, record: Record) -> None:
    await send(start())
    record(await ask(send, start()))
    await send(body())


async def send_nonsense(scope: Any, receive: Any, send: Any, record: Record) -> None:
    record(await ask(send, {"type": "http.response.nonsense"}))
    await send(start())
    await send(body())


async def start_without_headers(scope: Any, receive: Any, send: Any, record: Record) -> None:
    """A server may look at the start with the first part of the body."""
    try:
        await send({"type": "http.response.start", "status": 200})
        await send(body())
    except Exception:
        record("refused")
    else:
        record("taken")


async def send_memoryview(scope: Any, receive: Any, send: Any, record: Record) -> None:
    await send(start())
    try:
        await send({"type": "http.response.body", "body": memoryview(b"x"), "more_body": True})
    except TypeError:
        record("TypeError")
    else:
        record("taken")
    await send(body())


async def send_too_much(scope: Any, receive: Any, send: Any, record: Record) -> None:
    await send(start((b"content-length", b"3")))
    record(await ask(send, body(b"abcdef")))


async def send_too_little(scope: Any, receive: Any, send: Any, record: Record) -> None:
    await send(start((b"content-length", b"6")))
    record(await ask(send, body(b"abc")))


async def wait_for_the_disconnect(scope: Any, receive: Any, send: Any, record: Record) -> None:
    """The client leaves when it hears of this."""
    record("waiting")
    with anyio.fail_after(10):
        while (await receive())["type"] != "http.disconnect":
            pass
    record("told")
    record(f"receive {await ask(receive)}")
    record(f"send {await ask(send, start())}")


QUESTIONS: dict[str, Callable[[Any, Any, Any, Record], Awaitable[None]]] = {
    "/scope": tell_scope,
    "/body": read_body,
    "/after-the-end": go_on_after_the_end,
    "/start-twice": start_twice,
    "/nonsense": send_nonsense,
    "/without-headers": start_without_headers,
    "/memoryview": send_memoryview,
    "/too-much": send_too_much,
    "/too-little": send_too_little,
    "/left": wait_for_the_disconnect,
}

_events = os.open(os.environ.get("WIRE_EVENTS", os.devnull), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def _record(path: str, word: str) -> None:
    os.write(_events, f"{path} {word}\n".encode())


app = Probe(_record)
