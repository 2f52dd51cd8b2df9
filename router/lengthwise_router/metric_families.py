"""Metrics that exist once for each served model, under one name with the label `model`."""

from collections.abc import Callable
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class MetricFamilies:
    """Each family is made when its first model asks for it."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}

    def counter(self, model: str, name: str, meaning: str, *labels: str) -> Callable[..., Counter]:
        """Called with the values of the labels, in order, it gives the model's counter."""
        if name not in self._counters:
            self._counters[name] = Counter(
                name, meaning, ("model", *labels), registry=self.registry
            )
        return partial(self._counters[name].labels, model)

    def gauge(self, model: str, name: str, meaning: str, *labels: str) -> Callable[..., Gauge]:
        """As `counter`."""
        if name not in self._gauges:
            self._gauges[name] = Gauge(name, meaning, ("model", *labels), registry=self.registry)
        return partial(self._gauges[name].labels, model)

    def histogram(
        self, model: str, name: str, meaning: str, buckets: tuple[float, ...], *labels: str
    ) -> Callable[..., Histogram]:
        """As `counter`; `buckets`: their upper bounds."""
        if name not in self._histograms:
            self._histograms[name] = Histogram(
                name, meaning, ("model", *labels), buckets=buckets, registry=self.registry
            )
        return partial(self._histograms[name].labels, model)
