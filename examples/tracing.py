"""OpenTelemetry: a span and metrics for each request, printed: ``uvicorn examples.tracing:app``.

Needs opentelemetry-sdk; with an exporter of your own in the lifespan they go elsewhere. The span is current in the
endpoint, in iterators and in background work, in worker threads, too; its parent comes from ``traceparent``. Names are
those of the semantic conventions for HTTP servers.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import quote

from opentelemetry import metrics, propagate, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

from asgicore import Handler, Observer, Outcome, Request, Response, Timings

METHODS = frozenset("CONNECT DELETE GET HEAD OPTIONS PATCH POST PUT TRACE".split())

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)


class Tracing(Observer):
    """Makes a span of each request, and measures it.

    Args:
        tracer_provider: The global one if ``None``.
        meter_provider: The global one if ``None``.
    """

    def __init__(
        self,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
    ) -> None:
        self.tracer = trace.get_tracer(__name__, tracer_provider=tracer_provider)
        meter = metrics.get_meter(__name__, meter_provider=meter_provider)
        self.active = meter.create_up_down_counter("http.server.active_requests", "{request}")
        self.duration = meter.create_histogram(
            "http.server.request.duration", "s", explicit_bucket_boundaries_advisory=BUCKETS
        )

    @contextmanager
    def around(self, scope: Any) -> Iterator[None]:
        low = basics(scope)
        carrier: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            carrier.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        name = low["http.request.method"]
        with self.tracer.start_as_current_span(
            "HTTP" if name == "_OTHER" else name,
            propagate.extract(carrier),
            trace.SpanKind.SERVER,
            attributes={**low, **details(scope, carrier)},
        ):
            self.active.add(1, low)
            yield
            self.active.add(-1, low)

    def __call__(
        self, request: Any, response: Any, timings: Timings, outcome: Outcome, error: BaseException | None
    ) -> None:
        span = trace.get_current_span()
        ended: dict[str, Any] = {"network.protocol.version": str(request.scope.get("http_version"))}
        if timings.status_code is not None:
            ended["http.response.status_code"] = timings.status_code
        if outcome is Outcome.FAILED:
            ended["error.type"] = type(error).__qualname__
        elif ended.get("http.response.status_code", 0) >= 500:
            ended["error.type"] = str(timings.status_code)
        elif timings.response_ended is None:
            ended["error.type"] = outcome.value
        self.duration.record(timings.total_seconds or 0, {**basics(request.scope), **ended})
        span.set_attributes({**ended, "http.response.body.size": timings.bytes_sent, "asgicore.outcome": outcome.value})
        if error is not None:
            span.record_exception(error)
        # A client that leaves is no error of the server's.
        if "error.type" in ended and outcome is not Outcome.CLIENT_LEFT:
            span.set_status(trace.StatusCode.ERROR)


def basics(scope: Any) -> dict[str, str]:
    """Of few different values, as metrics need them."""
    method = scope.get("method")
    return {
        "http.request.method": method if method in METHODS else "_OTHER",
        "url.scheme": str(scope.get("scheme")),
    }


def details(scope: Any, fields: dict[str, list[str]]) -> dict[str, str | int]:
    """The rest of what a span has. No query: it may hold what is secret."""
    found: dict[str, str | int] = {"url.path": quote(str(scope.get("path")), errors="replace")}
    if scope.get("method") not in METHODS:
        found["http.request.method_original"] = quote(str(scope.get("method")), errors="replace")
    if scope.get("client"):
        found["client.address"] = scope["client"][0]
    if scope.get("server"):
        found["server.address"] = scope["server"][0]
        if scope["server"][1] is not None:
            found["server.port"] = int(scope["server"][1])
    if "user-agent" in fields:
        found["user_agent.original"] = fields["user-agent"][0]
    return found


@asynccontextmanager
async def lifespan(app: Handler) -> AsyncIterator[dict[str, Any]]:
    """Print what is measured, for as long as the server runs."""
    traces = TracerProvider()
    traces.add_span_processor(BatchSpanProcessor(ConsoleSpanExporter()))
    trace.set_tracer_provider(traces)
    measured = MeterProvider([PeriodicExportingMetricReader(ConsoleMetricExporter())])
    metrics.set_meter_provider(measured)
    yield {}
    traces.shutdown()
    measured.shutdown()


def endpoint(request: Request) -> Response:
    with trace.get_tracer(__name__).start_as_current_span("work"):
        return Response("Look at the spans.\n")


app = Handler(endpoint, lifespan=lifespan, observe=Tracing())
