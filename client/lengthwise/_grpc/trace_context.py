"""Which trace a call is part of, by W3C's trace context."""

import sys


def trace_context() -> tuple[tuple[str, str], ...] | None:
    """OpenTelemetry's current context, where the program has loaded that; None elsewhere."""
    if "opentelemetry.trace" not in sys.modules:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return tuple(carrier.items()) or None
