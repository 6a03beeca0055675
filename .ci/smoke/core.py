"""What an installation without extras must do; .ci/package runs it there, with the version as argument."""

import asyncio
import importlib
import importlib.metadata
import sys
from pathlib import Path

import asgicore
import asgicore.errors
import asgicore.limits
import asgicore.testing
import asgicore.types
import asgicore.wsgi_bridge
from asgicore import Handler, JSONResponse, Request, Response, StreamingResponse
from asgicore.testing import Client
from asgicore.wsgi_bridge import WSGIHandler, as_wsgi

assert Path(asgicore.__file__).is_relative_to(sys.prefix), f"not what was installed: {asgicore.__file__}"
assert asgicore.__version__ == importlib.metadata.version("asgicore") == sys.argv[1]

# What needs an extra says which one.
try:
    importlib.import_module("asgicore.django_bridge")
    needed = "nothing"
except ImportError as error:
    needed = str(error)
assert "asgicore[django]" in needed, needed


async def greet(request: Request) -> Response:
    if request.method == "POST":
        return JSONResponse({"hello": (await request.json())["name"]})
    return Response("Hello, world!")


def numbers(request: Request) -> Response:
    return StreamingResponse(f"{number}\n" for number in range(3))


def site(environ, start_response):  # type: ignore[no-untyped-def]
    start_response("200 OK", [("content-type", "text/plain")])
    return [b"Hello from ", environ["PATH_INFO"].encode()]


async def main() -> None:
    client = Client(Handler(greet))
    response = await client.get("/")
    assert (response.status_code, response.text) == (200, "Hello, world!"), response
    response = await client.post("/", json={"name": "Ada"})
    assert response.json() == {"hello": "Ada"}, response
    response = await Client(Handler(numbers)).get("/")
    assert response.text == "0\n1\n2\n", response
    response = await Client(WSGIHandler(site)).get("/wsgi")
    assert response.text == "Hello from /wsgi", response


asyncio.run(main())
assert callable(as_wsgi(Handler(greet)))
