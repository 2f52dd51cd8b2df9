"""Traces of requests, by OpenTelemetry. Nothing of that is imported unless they are configured."""
