"""The pytest plugin as it is installed; .ci/package runs it where neither trio nor an extra for tests is."""

import sys

import pytest

from asgicore import Handler, Request, Response


@pytest.fixture
def anyio_backend():
    return "asyncio"


def test_plugin_is_loaded_without_the_kit(pytestconfig):
    """The entry point is found; who uses no fixture of it does not pay for the kit."""
    assert pytestconfig.pluginmanager.hasplugin("asgicore")
    assert "asgicore.testing" not in sys.modules


@pytest.mark.anyio
async def test_fixtures_work(asgi_client, leak_guard):
    async def hello(request: Request) -> Response:
        return Response("Hello, world!")

    response = await asgi_client(Handler(hello)).get("/")
    assert response.text == "Hello, world!"
