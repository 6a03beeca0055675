"""Compressed responses: asgicore's ``Compression`` beside Starlette's ``GZipMiddleware``, level by level."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator

from . import App, Peer

PART_COUNT = 20


def build_document() -> bytes:
    """64 KiB of JSON as an interface gives it: names that come again, numbers that do not."""
    chance = random.Random(1)
    words = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(3, 9))) for _ in range(800)]
    records: list[str] = []
    size = 0
    while size < 65300:
        record = {
            "id": chance.randrange(10**6),
            "name": " ".join(chance.choices(words, k=3)),
            "tags": chance.choices(words, k=4),
            "price": chance.randrange(10**5) / 100,
            "available": chance.random() < 0.5,
        }
        records.append(json.dumps(record))
        size += len(records[-1]) + 2
    return f"[{', '.join(records)}]".encode()


DOCUMENT = build_document()
PARTS = [
    DOCUMENT[len(DOCUMENT) * index // PART_COUNT : len(DOCUMENT) * (index + 1) // PART_COUNT]
    for index in range(PART_COUNT)
]


async def parts() -> AsyncIterator[bytes]:
    for part in PARTS:
        yield part


def build_ours(workload: str, encoding: str, level: int) -> App:
    from asgicore import Compression, Handler, Request, Response, StreamingResponse

    async def endpoint(request: Request) -> Response:
        if workload == "gzip":
            return Response(DOCUMENT, content_type="application/json")
        return StreamingResponse(parts(), content_type="application/json")

    return Handler(endpoint, compression=Compression(encodings=[encoding], levels={encoding: level}))


def build_starlette(workload: str, level: int) -> App:
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.gzip import GZipMiddleware
    from starlette.requests import Request
    from starlette.responses import Response, StreamingResponse
    from starlette.routing import Route

    async def endpoint(request: Request) -> Response:
        if workload == "gzip":
            return Response(DOCUMENT, media_type="application/json")
        return StreamingResponse(parts(), media_type="application/json")

    return Starlette(
        routes=[Route(f"/{workload}", endpoint)], middleware=[Middleware(GZipMiddleware, compresslevel=level)]
    )


def build(workload: str, variant: str) -> App | None:
    name, encoding, level = variant.split()
    if name == "starlette":
        return build_starlette(workload, int(level))
    return build_ours(workload, encoding, int(level))


PEERS = (
    Peer("asgicore", "compression", "asgicore", "asgicore gzip 5"),
    Peer("asgicore-9", "compression", "asgicore", "asgicore gzip 9"),
    Peer("starlette-5", "compression", "starlette", "starlette gzip 5"),
    Peer("starlette", "compression", "starlette", "starlette gzip 9"),
)
