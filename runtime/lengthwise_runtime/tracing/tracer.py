"""Spans → an OTLP collector. A request waits for none of it: spans go into a bounded queue, whose
oldest are dropped when the collector does not take them, and a thread sends them.

OpenTelemetry's own variables say the rest: OTEL_EXPORTER_OTLP_HEADERS, _CERTIFICATE and _TIMEOUT,
OTEL_BSP_* (queue and batches), OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_SDK_DISABLED.
"""

import logging
import os
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Final

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

CLOSE_SECONDS: Final = 2.0
"""For the last spans, when a process ends."""

_W3C: Final = TraceContextTextMapPropagator()

Headers = Iterable[tuple[str, str | bytes]]
"""Of a call, among others those of W3C's trace context."""

Facts = Mapping[str, str | int | float | bool]
"""Never a text of a caller's."""

# The exporter says so itself when it gives a batch up; each of its tries before is a warning.
logging.getLogger("opentelemetry.exporter.otlp.proto.grpc.exporter").setLevel(logging.ERROR)


class TracedSpan:
    """A process's part in a request that is sampled. Times are of the monotonic clock."""

    def __init__(self, tracer: trace.Tracer, name: str, headers: Headers, began_at: float) -> None:
        self._tracer = tracer
        self._offset = time.time_ns() - time.monotonic_ns()
        carrier = {key: value for key, value in headers if key in _W3C.fields}
        parent = _W3C.extract(carrier)
        self._span = tracer.start_span(
            name, parent, trace.SpanKind.SERVER, start_time=self._clock(began_at)
        )
        self._context = trace.set_span_in_context(self._span, parent)

    @property
    def is_sampled(self) -> bool:
        return self._span.get_span_context().trace_flags.sampled

    def headers(self) -> tuple[tuple[str, str], ...]:
        """Of calls to peers, which continue the trace."""
        carrier: dict[str, str] = {}
        _W3C.inject(carrier, self._context)
        return tuple(carrier.items())

    def child(
        self,
        name: str,
        began_at: float,
        ended_at: float,
        facts: Facts | None = None,
        error: str = "",
    ) -> None:
        """A phase that is over; it may end after its parent."""
        span = self._tracer.start_span(name, self._context, start_time=self._clock(began_at))
        self._finish(span, max(began_at, ended_at), facts or {}, error)

    def end(self, ended_at: float, facts: Facts, error: str = "") -> None:
        self._finish(self._span, ended_at, facts, error)

    def _finish(self, span: trace.Span, ended_at: float, facts: Facts, error: str) -> None:
        for name, value in facts.items():
            span.set_attribute(f"lengthwise.{name}", value)
        if error:
            span.set_status(trace.StatusCode.ERROR, error)
        span.end(self._clock(ended_at))

    def _clock(self, at: float) -> int:
        """In nanoseconds since 1970, by one reading of both clocks: phases keep their order."""
        return int(at * 1e9) + self._offset


class Tracer:
    """Of one process."""

    def __init__(self, endpoint: str, sampling_ratio: float, service: str, instance: str) -> None:
        """`sampling_ratio`: of requests that come without a trace context."""
        name = os.environ.get("OTEL_SERVICE_NAME") or service
        self._exporter = OTLPSpanExporter(endpoint=endpoint)
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(sampling_ratio)),
            resource=Resource.create({"service.name": name, "service.instance.id": instance}),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("lengthwise")

    def begin(
        self, name: str, headers: Headers, began_at: float | None = None
    ) -> TracedSpan | None:
        """Continues the trace that the `headers` name, or begins one; None where it is not sampled.
        `began_at`: unless that is now."""
        at = time.monotonic() if began_at is None else began_at
        span = TracedSpan(self._tracer, name, headers, at)
        return span if span.is_sampled else None

    def close(self) -> None:
        """Sends the last spans, within a bounded time."""
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)
        if closing.is_alive():
            self._exporter.shutdown()
