"""FastAPI: parameters are declared, as its tutorial has it; the body of an upload comes from the ``Request``."""

# No postponed annotations: FastAPI evaluates them where the models are local names.
from typing import Annotated, Any

from fastapi import Cookie, FastAPI, Header, Query, Request
from fastapi.responses import PlainTextResponse, StreamingResponse
from pydantic import BaseModel, create_model

from .. import shared
from . import App

Headers: Any = create_model("Headers", **{name.replace("-", "_"): (str, ...) for name in shared.HEADER_NAMES})  # type: ignore[call-overload]
Fields: Any = create_model("Fields", **dict.fromkeys(shared.QUERY_NAMES, (str, ...)))  # type: ignore[call-overload]
Cookies: Any = create_model("Cookies", **dict.fromkeys(shared.COOKIE_NAMES, (str, ...)))  # type: ignore[call-overload]


class Item(BaseModel):
    name: str
    tags: list[str]
    numbers: list[int]


async def hello() -> str:
    return shared.HELLO


async def inspect(
    headers: Annotated[Headers, Header()], query: Annotated[Fields, Query()], cookies: Annotated[Cookies, Cookie()]
) -> dict[str, int]:
    return shared.summary(
        [getattr(headers, name.replace("-", "_")) for name in shared.HEADER_NAMES],
        [getattr(query, name) for name in shared.QUERY_NAMES],
        [getattr(cookies, name) for name in shared.COOKIE_NAMES],
    )


async def json(item: Item) -> str:
    return item.name


async def count(request: Request) -> str:
    return str(await shared.count(request.stream()))


async def spool(request: Request) -> str:
    return str(await shared.spool(request.stream()))


async def kept(request: Request) -> str:
    return str(await shared.keep(request.stream()))


async def parts() -> StreamingResponse:
    return StreamingResponse(shared.parts(), media_type="text/plain")


async def wait() -> str:
    await shared.gate.wait()
    return shared.HELLO


def thread() -> str:
    return shared.HELLO


def build(workload: str, variant: str) -> App | None:
    app = FastAPI()
    path = f"/{workload}"
    if workload == "inspect":
        app.get(path)(inspect)
    elif workload == "parts":
        app.get(path)(parts)
    elif workload in shared.GENERATORS:
        generator = shared.GENERATORS[workload]

        @app.get(path)
        async def streamed() -> StreamingResponse:
            return StreamingResponse(generator(), media_type="text/plain")

    elif workload in ("hello", "wait", "thread"):
        view: Any = {"hello": hello, "wait": wait, "thread": thread}[workload]
        app.get(path, response_class=PlainTextResponse)(view)
    elif workload in ("json", "count", "spool", "kept"):
        endpoint: Any = {"json": json, "count": count, "spool": spool, "kept": kept}[workload]
        app.post(path, response_class=PlainTextResponse)(endpoint)
    else:
        return None
    return app
