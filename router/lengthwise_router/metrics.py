"""What a router reports to Prometheus. TTFT and TPOT are measured here, where tokens leave for the
client; names, meanings and labels are written down in docs/metrics.md.
"""

from collections.abc import Callable, Iterable
from functools import partial
from itertools import product
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from lengthwise_policy.admission.admission import RefusalRule
from lengthwise_policy.length_class import LENGTH_CLASSES, LengthClass
from lengthwise_policy.objectives import Objectives
from lengthwise_policy.placement.placement import PlacementRule
from lengthwise_policy.types import Role
from lengthwise_router.labels import (
    CODES,
    CONDITIONS,
    DISCOVERY_FAILURES,
    FAILURE_REASONS,
    PHASES,
    ROLES,
    Condition,
    DiscoveryFailure,
)
from lengthwise_runtime.metrics import LATENCY_BUCKETS, TOKEN_BUCKETS, TOKEN_LATENCY_BUCKETS

OBJECTIVES = (*(f"ttft_{name}" for name in LENGTH_CLASSES), "tpot")

RATIO_BUCKETS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99)


class RouterMetrics:
    """Children of the labelled metrics are made once: looking one up costs as much as counting, and
    one that is missing does not report 0."""

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        model: str,
        placement_rules: Iterable[PlacementRule],
        objectives: Objectives,
        num_workers: Callable[[Role, Condition], int],
        num_discovered: Callable[[], int],
        num_waiting: Callable[[], int],
    ) -> None:
        """`num_workers`, `num_discovered` and `num_waiting` are asked at every scrape, in another
        thread."""
        self._objectives = objectives
        requests = Counter(
            "lengthwise_requests_total",
            "Requests ended, by gRPC status code",
            ("code", "model"),
            registry=registry,
        )
        self._requests = {code: requests.labels(code, model) for code in CODES}
        self._ttft = _by_length_class(
            registry,
            "lengthwise_time_to_first_token_seconds",
            "From a request's arrival to its first token",
            LATENCY_BUCKETS,
        )
        self._tpot = _by_length_class(
            registry,
            "lengthwise_time_per_output_token_seconds",
            "(last token - first token) / (output tokens - 1), of requests with at least two",
            TOKEN_LATENCY_BUCKETS,
        )
        self.inter_token_latency = Histogram(
            "lengthwise_inter_token_latency_seconds",
            "Between consecutive messages to a client, by the tokens in the later one",
            buckets=TOKEN_LATENCY_BUCKETS,
            registry=registry,
        )
        self._add_placement(registry, placement_rules)
        self._add_admission(registry, num_waiting)
        self._add_arrivals(registry)
        self._add_tokens(registry)
        self._add_objectives(registry)
        self._add_discovery(registry, num_discovered)
        _add_workers(registry, num_workers)

    def _add_placement(
        self, registry: CollectorRegistry, placement_rules: Iterable[PlacementRule]
    ) -> None:
        self.placements = Counter(
            "lengthwise_placements_total",
            "Placements of requests on workers, by the rule that chose",
            ("reason",),
            registry=registry,
        )
        for rule in placement_rules:
            self.placements.labels(rule)
        self.retries = Counter(
            "lengthwise_retries_total",
            "Attempts that failed and were, if any were left, followed by another",
            ("phase", "reason"),
            registry=registry,
        )
        for phase, failure in product(PHASES, FAILURE_REASONS):
            self.retries.labels(phase, failure)

    def _add_admission(self, registry: CollectorRegistry, num_waiting: Callable[[], int]) -> None:
        self.in_flight = Gauge(
            "lengthwise_requests_in_flight", "Requests in this router", registry=registry
        )
        waiting = Gauge(
            "lengthwise_requests_waiting", "Requests that wait for admission", registry=registry
        )
        waiting.set_function(num_waiting)
        self.admission_seconds = Histogram(
            "lengthwise_admission_seconds",
            "From a tokenised request's wish for admission to the admission",
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.refusals = Counter(
            "lengthwise_refusals_total",
            "Requests that admission refused, by the rule that did",
            ("reason",),
            registry=registry,
        )
        for rule in get_args(RefusalRule):
            self.refusals.labels(rule)

    def _add_arrivals(self, registry: CollectorRegistry) -> None:
        requests = Counter(
            "lengthwise_arrived_requests_total",
            "Requests that arrived, before admission",
            ("length_class",),
            registry=registry,
        )
        tokens = Counter(
            "lengthwise_arrived_tokens_total",
            "Prompt tokens of arrived requests that no worker had cached",
            ("length_class",),
            registry=registry,
        )
        self._arrivals = {
            name: (requests.labels(name), tokens.labels(name)) for name in LENGTH_CLASSES
        }

    def _add_tokens(self, registry: CollectorRegistry) -> None:
        self.prompt_tokens = Histogram(
            "lengthwise_prompt_tokens",
            "Tokens of an admitted request's prompt",
            buckets=TOKEN_BUCKETS,
            registry=registry,
        )
        self._output_tokens = Histogram(
            "lengthwise_output_tokens",
            "Tokens generated for a request that ended well",
            buckets=TOKEN_BUCKETS,
            registry=registry,
        )
        self._residual_ratio = Histogram(
            "lengthwise_residual_ratio",
            "Of a prompt's tokens, the part that had to be computed; the rest was cached",
            buckets=RATIO_BUCKETS,
            registry=registry,
        )
        self._cached_prompt_tokens = Counter(
            "lengthwise_cached_prompt_tokens_total",
            "Prompt tokens that were cached, and not computed",
            registry=registry,
        )

    def _add_objectives(self, registry: CollectorRegistry) -> None:
        counter = Counter(
            "lengthwise_slo_total",
            "Requests by whether a latency objective of the configuration was met",
            ("slo", "met"),
            registry=registry,
        )
        self._met = {
            (name, met): counter.labels(name, str(met).lower())
            for name in OBJECTIVES
            for met in (True, False)
        }

    def _add_discovery(
        self, registry: CollectorRegistry, num_discovered: Callable[[], int]
    ) -> None:
        discovered = Gauge(
            "lengthwise_discovered_workers",
            "Workers' addresses that discovery proposes",
            registry=registry,
        )
        discovered.set_function(num_discovered)
        errors = Counter(
            "lengthwise_discovery_errors_total",
            "Times that Kubernetes could not be asked for the workers",
            ("reason",),
            registry=registry,
        )
        self._discovery_errors = {reason: errors.labels(reason) for reason in DISCOVERY_FAILURES}

    def discovery_failed(self, reason: DiscoveryFailure) -> None:
        self._discovery_errors[reason].inc()

    def arrived(self, length_class: LengthClass, residual_tokens: int) -> None:
        requests, tokens = self._arrivals[length_class]
        requests.inc()
        tokens.inc(residual_tokens)

    def request_ended(self, code: str) -> None:
        self._requests[code].inc()

    def first_token(self, length_class: LengthClass, seconds: float) -> None:
        self._ttft[length_class].observe(seconds)
        met = seconds <= self._objectives.ttft_seconds(length_class)
        self._met[f"ttft_{length_class}", met].inc()

    def prompt_computed(self, num_tokens: int, num_cached: int) -> None:
        self._residual_ratio.observe(1 - num_cached / num_tokens)
        self._cached_prompt_tokens.inc(num_cached)

    def finished(self, length_class: LengthClass, output_tokens: int, tpot: float) -> None:
        """A request ended well; `tpot` is 0 for a single token."""
        self._output_tokens.observe(output_tokens)
        if output_tokens > 1:
            self._tpot[length_class].observe(tpot)
            self._met["tpot", tpot <= self._objectives.tpot_seconds].inc()


def _add_workers(
    registry: CollectorRegistry, num_workers: Callable[[Role, Condition], int]
) -> None:
    gauge = Gauge(
        "lengthwise_workers",
        "Workers known to this router, by role and state",
        ("role", "state"),
        registry=registry,
    )
    for role, condition in product(ROLES, CONDITIONS):
        gauge.labels(role, condition).set_function(partial(num_workers, role, condition))


def _by_length_class(
    registry: CollectorRegistry, name: str, meaning: str, buckets: tuple[float, ...]
) -> dict[LengthClass, Histogram]:
    histogram = Histogram(name, meaning, ("length_class",), buckets=buckets, registry=registry)
    return {name: histogram.labels(name) for name in LENGTH_CLASSES}
