"""An OTLP collector of a few lines: a real gRPC server that keeps the spans it is sent."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1 import trace_pb2


@dataclass(frozen=True, slots=True)
class Seen:
    """A span, and the `service.name` of the process that sent it."""

    service: str
    span: trace_pb2.Span

    @property
    def facts(self) -> dict[str, object]:
        """Attributes without what all their names begin with."""
        found: dict[str, object] = {}
        for each in self.span.attributes:
            kind = each.value.WhichOneof("value") or "string_value"
            found[each.key.removeprefix("lengthwise.")] = getattr(each.value, kind)
        return found


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Its `endpoint` is what processes are configured with."""

    def __init__(self) -> None:
        self.endpoint = ""
        self.spans: list[Seen] = []

    def Export(
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: object
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        for resource in request.resource_spans:
            names = {each.key: each.value.string_value for each in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans.extend(Seen(names["service.name"], span) for span in scope.spans)
        return trace_service_pb2.ExportTraceServiceResponse()

    def of(self, trace_id: int) -> list[Seen]:
        name = trace_id.to_bytes(16, "big")
        return [seen for seen in self.spans if seen.span.trace_id == name]


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    collector.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield collector
    finally:
        server.stop(0).wait()
