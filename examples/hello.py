"""The smallest application: ``uvicorn examples.hello:app``."""

from asgicore import Handler, Request, Response


async def hello(request: Request) -> Response:
    return Response("Hello, world!\n")


app = Handler(hello)
