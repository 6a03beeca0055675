"""Servers that are told to stop."""

from __future__ import annotations

import shutil
import subprocess
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from time import monotonic

import pytest
from event_streams import read

from .clients import curl_command, exchange
from .servers import UVICORN, Kind, running

STREAMS = 10


def test_sigterm_with_open_streams_ends_them_and_the_server(kind: Kind, tmp_path: Path) -> None:
    """A server that cuts ten open streams off is gone within seconds, and every generator was closed."""
    if not kind.cuts_streams:
        pytest.skip("the server does not cut streams off; the application ends them, as in the next test")
    with ExitStack() as clients, running(kind, tmp_path) as server:
        for number in range(STREAMS):
            stream = clients.enter_context(exchange(server, "GET", f"/drip?id=stream{number}"))
            stream.await_body()
    assert [server.events(f"stream{number}") for number in range(STREAMS)] == [["dripping", "closed"]] * STREAMS
    assert server.complaints(of="asgicore" if kind.tells_of_cuts else "") == [], server.log
    if kind.has_lifespan:
        assert server.events("lifespan") == ["startup", "shutdown"]


def test_sigterm_with_streams_that_the_application_ends_cuts_nothing_off(kind: Kind, tmp_path: Path) -> None:
    """Streams that ``close_on_signals`` ends are whole for their clients, and no server has anything to complain of."""
    if not kind.has_lifespan:
        pytest.skip("the server does not run the lifespan protocol, where the application prepares for it")
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    with running(kind, tmp_path, environment={"WIRE_CLOSES": "1"}, grace=20) as server, ExitStack() as clients:
        # curl tells a stream that has ended from one that was cut off by its exit status.
        streams = [
            clients.enter_context(
                subprocess.Popen(
                    curl_command(server, f"/drip?id=stream{number}"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
                )
            )
            for number in range(STREAMS)
        ]
        for number in range(STREAMS):
            server.await_event(f"stream{number}", "dripping")
        # Where the server cuts off what ends late, its workers have to be told before it begins to stop.
        with nullcontext() if kind.ends_late else server.held_up():
            server.terminate(whole_group=not kind.hands_signals_on)
            for stream in streams:
                output, _ = stream.communicate(timeout=20)
                assert set(output.splitlines()) == {b"drip"}, server.log
                assert stream.returncode == 0
    assert [server.events(f"stream{number}") for number in range(STREAMS)] == [["dripping", "closed"]] * STREAMS
    assert server.complaints() == [], server.log
    assert server.events("lifespan") == ["startup", "shutdown"]


def test_sigterm_with_streams_of_events_ends_uvicorn_within_two_seconds(tmp_path: Path) -> None:
    """Without ``close_on_signals`` uvicorn would wait for them without end; clients see whole responses."""
    patient = replace(UVICORN, arguments=("--http", "h11", "--host", "127.0.0.1", "--port", "{port}", "{app}"))
    with running(patient, tmp_path, environment={"WIRE_CLOSES": "1"}) as server, ExitStack() as clients:
        streams = [
            clients.enter_context(exchange(server, "GET", f"/events?id=stream{number}")) for number in range(STREAMS)
        ]
        for number in range(STREAMS):
            server.await_event(f"stream{number}", "streaming")
        began = monotonic()
        server.terminate()
        for stream in streams:
            answer = stream.answer()
            assert answer.status == 200
            source = read(answer.body)
            assert [event.data for event in source.events] == ['{"number":1}', "after\n1", '{"number":3}', "after\n3"]
            assert source.last_event_id == "3"
        server.process.wait(10)
        assert monotonic() - began < 2
    assert [server.events(f"stream{number}")[-1] for number in range(STREAMS)] == ["closed"] * STREAMS
    assert server.complaints() == [], server.log
    assert server.events("lifespan") == ["startup", "shutdown"]


def test_sigterm_without_requests_runs_the_shutdown_of_the_lifespan(kind: Kind, tmp_path: Path) -> None:
    """A server that is idle ends at once, after the application's own shutdown."""
    with running(kind, tmp_path) as server:
        pass
    assert server.complaints() == [], server.log
    assert server.events("lifespan") == (["startup", "shutdown"] if kind.has_lifespan else [])
