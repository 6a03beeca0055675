"""One hop to a worker thread and back, in a bare ASGI function: the ways there are."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio.to_thread

from asgicore._threads import Threads

from .. import shared
from . import App, Peer
from .raw import answer

threads = Threads()


def work() -> bytes:
    """What is done in the thread: nothing, so that the hop is what is measured."""
    return shared.HELLO.encode()


async def ours(scope: Any, receive: Any, send: Any) -> None:
    await answer(send, await threads.run(work))


async def with_anyio(scope: Any, receive: Any, send: Any) -> None:
    await answer(send, await anyio.to_thread.run_sync(work))


async def with_executor(scope: Any, receive: Any, send: Any) -> None:
    await answer(send, await asyncio.get_running_loop().run_in_executor(None, work))


APPS = {"ours": ours, "anyio": with_anyio, "executor": with_executor}


def build(workload: str, variant: str) -> App | None:
    return APPS[variant]


OURS = Peer("asgicore", "hops", "asgicore", "ours")
ANYIO = Peer("anyio.to_thread", "hops", "anyio", "anyio")
EXECUTOR = Peer("run_in_executor", "hops", "", "executor")
