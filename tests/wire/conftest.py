"""Every server once per session, and a look at its log after every test."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import httpx
import pytest

from .servers import KINDS, Kind, Server, running

_numbers = count(1)


@pytest.fixture(scope="session", params=KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    chosen: Kind = request.param
    return chosen


@pytest.fixture(scope="session")
def shared_server(kind: Kind, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(kind, tmp_path_factory.mktemp(kind.name)) as server:
        yield server
    assert server.complaints() == [], server.log


@pytest.fixture
def server(shared_server: Server) -> Iterator[Server]:
    """A server that complains of nothing while the test runs."""
    before = len(shared_server.complaints())
    yield shared_server
    assert shared_server.complaints()[before:] == [], shared_server.log


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


@pytest.fixture
def ident() -> str:
    """A name for what the application records for this test."""
    return f"test{next(_numbers)}"
