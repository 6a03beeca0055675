"""examples/: the access logs, the traces and the timings that the examples of observers give, on every loop."""

from __future__ import annotations

import importlib.util
import json
import logging
import re
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from asgicore import Handler, HTTPError, Request, Response, StreamingResponse
from asgicore.testing import EMPTY, Channel, body_messages, call, http_scope

EXAMPLES = Path(__file__).parent.parent / "examples"


def load(name: str, *needs: str) -> Any:
    """An example as a module; skips the test where a package is missing that it needs."""
    for need in needs:
        pytest.importorskip(need, reason=f"needs {need}")
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # for what looks up annotations
    spec.loader.exec_module(module)
    return module


async def leave(handler: Handler, server: Channel) -> None:
    """A request whose client leaves."""
    with anyio.fail_after(5):
        await handler(http_scope(), server.receive, server.send)


# --- access log --------------------------------------------------------------------------------------------


@pytest.fixture
def access(caplog: pytest.LogCaptureFixture) -> Any:
    caplog.set_level(logging.INFO, "access")
    return load("access_log")


async def test_access_log_has_a_line_in_the_combined_format(access: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Address, time, request line, status, bytes, referrer and user agent."""
    headers = [(b"referer", b"https://example.org/"), (b"user-agent", b"fake/1.0")]
    await call(access.app, path="/ü b", raw_path=b"/%C3%BC%20b", query_string=b"q=1", headers=headers)
    assert re.fullmatch(
        r"127\.0\.0\.1 - - \[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] "
        r'"GET /%C3%BC%20b\?q=1 HTTP/1\.1" 200 19 "https://example\.org/" "fake/1\.0"',
        caplog.messages[0],
    )


async def test_access_log_cannot_be_forged(access: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Quotes, backslashes, line ends and escape sequences of a client's stay within their field."""
    headers = [(b"user-agent", b'a" 200 0 "\\\r\n\x1b[31m\xff'), (b"referer", b"\x00")]
    await call(access.app, path='/a"\r\n', raw_path=None, method="G\nET", client=("\n", 1), headers=headers)
    (line,) = caplog.messages
    assert line.isprintable()
    assert line.isascii()
    assert line.startswith(r"\x0a - - [")
    assert '"G\\x0aET /a%22%0D%0A HTTP/1.1" 400 ' in line
    assert line.endswith(r' "\x00" "a\x22 200 0 \x22\x5c\x0d\x0a\x1b[31m\xc3\xbf"')


async def test_access_log_of_odd_requests_has_a_line(access: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Also of a head that is refused, and where there are no address and no fields."""
    await call(access.app, headers=None, client=None, path="/\udcff", raw_path=None)
    await call(access.app, headers=[(b"user-agent",)], method="HEAD", http_version="2", client=None)
    assert [line.partition("] ")[2] for line in caplog.messages] == [
        '"GET /%3F HTTP/1.1" 200 19 "-" "-"',
        '"HEAD / HTTP/2" 400 - "-" "-"',
    ]


async def test_access_log_of_a_client_that_left_says_499(access: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing was sent, whatever the endpoint would have answered."""
    server = Channel()
    server.disconnect()

    async def waits(request: Request) -> Response:
        await anyio.sleep_forever()
        raise AssertionError("not reached")

    await leave(Handler(waits, observe=access.access_log), server)
    assert '"GET / HTTP/1.1" 499 - "-" "asgicore.testing"' in caplog.messages[0]


# --- structlog ---------------------------------------------------------------------------------------------


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    yield lambda: [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    if "structlog" in sys.modules:
        sys.modules["structlog"].reset_defaults()


async def test_structured_log_has_one_id_in_each_line_of_a_request(lines: Any) -> None:
    """The client's id is in what a worker thread logs, in the line of the end, and in the response."""
    example = load("structured_log", "structlog")
    channel = await call(example.app, path="/a\n", headers=[(b"x-request-id", b"abc-1")])
    assert (b"x-request-id", b"abc-1") in channel.headers
    assert channel.status == 400
    channel = await call(example.app, body_messages(b"body"), headers=[(b"x-request-id", b"abc-2")])
    first, second, third = lines()
    assert (first["path"], first["status"], first["outcome"], first["error"]) == (
        *("/a\n", 400),
        *("refused", "MalformedRequestError"),
    )
    assert second["event"] == "in a worker thread"
    assert [line["request_id"] for line in (first, second, third)] == ["abc-1", "abc-2", "abc-2"]
    assert (third["method"], third["status"], third["outcome"]) == ("GET", 200, "completed")
    assert (third["bytes_received"], third["bytes_sent"], third["error"]) == (4, len(channel.body), None)
    assert third["seconds"] > 0


@pytest.mark.parametrize("given", [[], [(b"x-request-id", b"a\nb")], [(b"x-request-id", b"a" * 65)]])
async def test_structured_log_makes_an_id_where_the_given_one_is_none(lines: Any, given: Any) -> None:
    """An id that could do harm in a log is not taken."""
    example = load("structured_log", "structlog")
    channel = await call(example.app, headers=given)
    ids = {line["request_id"] for line in lines()}
    assert len(ids) == 1
    assert re.fullmatch("[0-9a-f]{32}", ids.pop())
    assert [len(value) for name, value in channel.headers if name == b"x-request-id"] == [32]


async def test_structured_log_of_nothing_sent_has_no_status(lines: Any) -> None:
    """The client was gone."""
    example = load("structured_log", "structlog")
    server = Channel(())
    server.disconnect()
    await leave(example.app, server)
    (line,) = lines()
    assert (line["status"], line["outcome"], line["error"]) == (None, "client_left", None)


# --- OpenTelemetry -----------------------------------------------------------------------------------------


class Measured:
    """The example with exporters in memory."""

    def __init__(self) -> None:
        self.example = load("tracing", "opentelemetry.sdk")
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        self.exporter, self.reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.meters = MeterProvider([self.reader], shutdown_on_exit=False)
        self.tracing = self.example.Tracing(self.provider, self.meters)

    def inside(self, name: str) -> None:
        """A span of the application's own."""
        self.provider.get_tracer("test").start_span(name).end()

    @property
    def spans(self) -> dict[str, Any]:
        return {span.name: span for span in self.exporter.get_finished_spans()}

    def points(self) -> dict[str, Any]:
        """The data points of each metric."""
        data: Any = self.reader.get_metrics_data()
        return {
            metric.name: list(metric.data.data_points)
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


@pytest.fixture
def measured() -> Iterator[Measured]:
    measured = Measured()
    yield measured
    measured.provider.shutdown()
    measured.meters.shutdown()


TRACEPARENT = (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")


async def test_tracing_span_has_parent_names_and_status(measured: Measured) -> None:
    """The parent comes from W3C traceparent; names are those of the semantic conventions."""
    await call(
        Handler(lambda request: Response(b"12345"), observe=measured.tracing),
        path="/ü",
        query_string=b"secret=1",
        headers=[TRACEPARENT, (b"user-agent", b"fake/1.0")],
    )
    span = measured.spans["GET"]
    assert f"{span.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert f"{span.parent.span_id:016x}" == "b7ad6b7169203331"
    assert span.kind.name == "SERVER"
    assert span.status.status_code.name == "UNSET"
    assert dict(span.attributes) == {
        "http.request.method": "GET",
        "url.scheme": "http",
        "url.path": "/%C3%BC",
        "client.address": "127.0.0.1",
        "server.address": "127.0.0.1",
        "server.port": 80,
        "user_agent.original": "fake/1.0",
        "network.protocol.version": "1.1",
        "http.response.status_code": 200,
        "http.response.body.size": 5,
        "asgicore.outcome": "completed",
    }


async def test_tracing_span_is_current_wherever_the_application_runs(measured: Measured) -> None:
    """What the application traces is a child: in endpoints, iterators and background work, in threads, too."""
    names = []

    def note(name: str) -> None:
        names.append(name)
        measured.inside(name)

    async def parts() -> AsyncIterator[bytes]:
        await checkpoint()
        note("async iterator")
        yield b"a"

    def sync_parts() -> Iterator[bytes]:
        note("sync iterator")
        yield b"a"

    async def endpoint(request: Request) -> Response:
        await checkpoint()
        note("async endpoint")
        return StreamingResponse(parts(), background=lambda: note("background"))

    def synchronous(request: Request) -> Response:
        note("def endpoint")
        return StreamingResponse(sync_parts())

    for each in (endpoint, synchronous):
        await call(Handler(each, observe=measured.tracing))
        spans = measured.spans
        for name in names:
            assert spans[name].parent.span_id == spans["GET"].context.span_id, name
        names.clear()
    assert measured.example.trace.get_current_span() is measured.example.trace.INVALID_SPAN


async def test_tracing_of_failures_sets_status_and_error(measured: Measured) -> None:
    """A failure of the server's is an error with its exception, also after the start; what a client does is none."""
    failure = KeyError("no")

    async def endpoint(request: Request) -> Response:
        if request.path == "/before":
            raise failure
        if request.path == "/404":
            raise HTTPError(404)
        if request.path == "/503":
            return Response(status_code=503)

        async def parts() -> AsyncIterator[bytes]:
            yield b"a"
            raise failure

        return StreamingResponse(parts())

    handler = Handler(endpoint, observe=measured.tracing)
    seen = {}
    for path in ("/before", "/after", "/404", "/503"):
        if path == "/after":
            with pytest.raises(KeyError):
                await call(handler, path=path)
        else:
            await call(handler, path=path)
        span = measured.spans["GET"]
        events = [event.attributes["exception.type"] for event in span.events]
        seen[path] = (span.status.status_code.name, span.attributes.get("error.type"), events)
    assert seen == {
        "/before": ("ERROR", "KeyError", ["KeyError"]),
        "/after": ("ERROR", "KeyError", ["KeyError"]),
        "/404": ("UNSET", None, ["asgicore.errors.HTTPError"]),
        "/503": ("ERROR", "503", []),
    }


async def test_tracing_of_a_client_that_left_is_no_error(measured: Measured) -> None:
    """There is no status, the outcome says why, and it is not the server's fault."""
    server = Channel([EMPTY])

    async def waits(request: Request) -> Response:
        server.disconnect()
        await anyio.sleep_forever()
        raise AssertionError("not reached")

    await leave(Handler(waits, observe=measured.tracing), server)
    span = measured.spans["GET"]
    assert (span.status.status_code.name, span.attributes["asgicore.outcome"]) == ("UNSET", "client_left")
    assert "http.response.status_code" not in span.attributes
    assert span.attributes["error.type"] == "client_left"


async def test_tracing_of_odd_requests_makes_spans_of_few_names(measured: Measured) -> None:
    """A method that nobody knows makes no name and no series of a metric, and no address is no error."""
    handler = Handler(lambda request: Response(), observe=measured.tracing)
    await call(handler, method="HACK\n", client=None, server=("/run/asgi.sock", None), path="/\udcff")
    await call(handler, method="HACK\n", client=None, server=None)
    span = measured.spans["HTTP"]
    assert (span.attributes["http.request.method"], span.attributes["http.request.method_original"]) == (
        *("_OTHER", "HACK%0A"),
    )
    assert "client.address" not in span.attributes
    assert len(measured.exporter.get_finished_spans()) == 2


async def test_tracing_metrics_count_requests(measured: Measured) -> None:
    """Durations by method and status; none is active in the end, and one was."""
    active: list[int] = []

    async def endpoint(request: Request) -> Response:
        active.extend(point.value for point in measured.points()["http.server.active_requests"])
        return Response()

    handler = Handler(endpoint, observe=measured.tracing)
    for _ in range(2):
        await call(handler)
    points = measured.points()
    assert active == [1, 1]
    assert [point.value for point in points["http.server.active_requests"]] == [0]
    (point,) = points["http.server.request.duration"]
    assert (point.count, tuple(point.explicit_bounds)) == (2, measured.example.BUCKETS)
    assert dict(point.attributes) == {
        "http.request.method": "GET",
        "url.scheme": "http",
        "network.protocol.version": "1.1",
        "http.response.status_code": 200,
    }


# --- Server-Timing -----------------------------------------------------------------------------------------


async def test_server_timing_is_on_each_response() -> None:
    """Milliseconds of body, endpoint and all, also on errors; beside what the response says by itself."""
    example = load("server_timing")

    async def endpoint(request: Request) -> Response:
        if request.path == "/404":
            raise HTTPError(404)
        response = Response()
        response.add_server_timing("db", 1.5)
        return response

    handler = Handler(endpoint, observe=example.ServerTiming())
    for path, number in (("/", 2), ("/404", 1), ("/\x00", 1)):
        channel = await call(handler, path=path)
        values = [value.decode() for name, value in channel.headers if name == b"server-timing"]
        assert len(values) == number
        metrics = r"total;dur=\d+\.\d{3}"
        if path != "/\x00":
            metrics = rf"body;dur=\d+\.\d{{3}}, endpoint;dur=\d+\.\d{{3}}, {metrics}"
        assert re.fullmatch(metrics, values[-1])
