"""What a router reports to Prometheus of one model. TTFT and TPOT are measured here, where tokens
leave for the client; names, meanings and labels are written down in docs/metrics.md."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import pairwise, product
from typing import get_args

from prometheus_client import Histogram

from lengthwise_policy.admission.admission import RefusalRule
from lengthwise_policy.length_class import LENGTH_CLASSES, LengthClass
from lengthwise_policy.objectives import Objectives
from lengthwise_policy.placement.placement import PlacementRule
from lengthwise_policy.types import Role
from lengthwise_router.fleet_metrics import RequestEndings, report_workers
from lengthwise_router.labels import FAILURE_REASONS, PHASES, Condition
from lengthwise_router.metric_families import MetricFamilies
from lengthwise_runtime.metrics import LATENCY_BUCKETS, TOKEN_BUCKETS, TOKEN_LATENCY_BUCKETS

OBJECTIVES = (*(f"ttft_{name}" for name in LENGTH_CLASSES), "tpot")

RATIO_BUCKETS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99)


class RouterMetrics:
    """Children of the labelled metrics are made once: looking one up costs as much as counting, and
    one that is missing does not report 0."""

    def __init__(
        self,
        families: MetricFamilies,
        *,
        model: str,
        placement_rules: Iterable[PlacementRule],
        objectives: Objectives,
        num_workers: Callable[[Role, Condition], int],
        num_waiting: Callable[[], int],
    ) -> None:
        """`num_workers` and `num_waiting` are asked at every scrape, in another thread."""
        self._counter = partial(families.counter, model)
        self._gauge = partial(families.gauge, model)
        self._histogram = partial(families.histogram, model)
        self._objectives = objectives
        self.requests = RequestEndings(families, model)
        self._ttft = self._by_length_class(
            "lengthwise_time_to_first_token_seconds",
            "From a request's arrival to its first token",
            LATENCY_BUCKETS,
        )
        self._tpot = self._by_length_class(
            "lengthwise_time_per_output_token_seconds",
            "(last token - first token) / (output tokens - 1), of requests with at least two",
            TOKEN_LATENCY_BUCKETS,
        )
        self.inter_token_latency = self._histogram(
            "lengthwise_inter_token_latency_seconds",
            "Between consecutive messages to a client, by the tokens in the later one",
            TOKEN_LATENCY_BUCKETS,
        )()
        self._add_placement(placement_rules)
        self._add_admission(num_waiting)
        self._add_arrivals()
        self._add_tokens()
        self._add_objectives()
        report_workers(families, model, num_workers)

    def _add_placement(self, placement_rules: Iterable[PlacementRule]) -> None:
        self.placements = self._counter(
            "lengthwise_placements_total",
            "Placements of requests on workers, by the rule that chose",
            "reason",
        )
        for rule in placement_rules:
            self.placements(rule)
        self.retries = self._counter(
            "lengthwise_retries_total",
            "Attempts that failed and were, if any were left, followed by another",
            *("phase", "reason"),
        )
        for phase, failure in product(PHASES, FAILURE_REASONS):
            self.retries(phase, failure)

    def _add_admission(self, num_waiting: Callable[[], int]) -> None:
        self.in_flight = self._gauge("lengthwise_requests_in_flight", "Requests in this router")()
        waiting = self._gauge("lengthwise_requests_waiting", "Requests that wait for admission")
        waiting().set_function(num_waiting)
        self.admission_seconds = self._histogram(
            "lengthwise_admission_seconds",
            "From a tokenised request's wish for admission to the admission",
            LATENCY_BUCKETS,
        )()
        self.refusals = self._counter(
            "lengthwise_refusals_total",
            "Requests that admission refused, by the rule that did",
            "reason",
        )
        for rule in get_args(RefusalRule):
            self.refusals(rule)

    def _add_arrivals(self) -> None:
        requests = self._counter(
            "lengthwise_arrived_requests_total",
            "Requests that arrived, before admission",
            "length_class",
        )
        tokens = self._counter(
            "lengthwise_arrived_tokens_total",
            "Prompt tokens of arrived requests that no worker had cached",
            "length_class",
        )
        self._arrivals = {name: (requests(name), tokens(name)) for name in LENGTH_CLASSES}

    def _add_tokens(self) -> None:
        self.prompt_tokens = self._histogram(
            "lengthwise_prompt_tokens", "Tokens of an admitted request's prompt", TOKEN_BUCKETS
        )()
        self._output_tokens = self._histogram(
            "lengthwise_output_tokens",
            "Tokens generated for a request that ended well",
            TOKEN_BUCKETS,
        )()
        self._residual_ratio = self._histogram(
            "lengthwise_residual_ratio",
            "Of a prompt's tokens, the part that had to be computed; the rest was cached",
            RATIO_BUCKETS,
        )()
        self._cached_prompt_tokens = self._counter(
            "lengthwise_cached_prompt_tokens_total",
            "Prompt tokens that were cached, and not computed",
        )()

    def _add_objectives(self) -> None:
        counter = self._counter(
            "lengthwise_slo_total",
            "Requests by whether a latency objective of the configuration was met",
            *("slo", "met"),
        )
        self._met = {
            (name, met): counter(name, str(met).lower())
            for name in OBJECTIVES
            for met in (True, False)
        }
        good = self._counter(
            "lengthwise_good_requests_total",
            "Requests that ended well and met their objectives of TTFT and TPOT: goodput",
            "length_class",
        )
        self._good = {name: good(name) for name in LENGTH_CLASSES}

    def _by_length_class(
        self, name: str, meaning: str, buckets: tuple[float, ...]
    ) -> dict[LengthClass, Histogram]:
        histogram = self._histogram(name, meaning, buckets, "length_class")
        return {name: histogram(name) for name in LENGTH_CLASSES}

    def latencies(self) -> Iterator[tuple[str, LengthClass, list[float], list[int]]]:
        """(measure, length class, upper bounds of buckets in seconds, requests in each bucket and
        beyond the last bound), since the start."""
        for measure, histograms in (("ttft", self._ttft), ("tpot", self._tpot)):
            for name, histogram in histograms.items():
                yield measure, name, *_buckets(histogram)

    def arrived(self, length_class: LengthClass, residual_tokens: int) -> None:
        requests, tokens = self._arrivals[length_class]
        requests.inc()
        tokens.inc(residual_tokens)

    def first_token(self, length_class: LengthClass, seconds: float) -> None:
        self._ttft[length_class].observe(seconds)
        met = seconds <= self._objectives.ttft_seconds(length_class)
        self._met[f"ttft_{length_class}", met].inc()

    def prompt_computed(self, num_tokens: int, num_cached: int) -> None:
        self._residual_ratio.observe(1 - num_cached / num_tokens)
        self._cached_prompt_tokens.inc(num_cached)

    def finished(
        self, length_class: LengthClass, output_tokens: int, *, ttft: float, tpot: float
    ) -> None:
        """A request ended well; `tpot` is 0 for a single token."""
        self._output_tokens.observe(output_tokens)
        tpot_met = tpot <= self._objectives.tpot_seconds
        if output_tokens > 1:
            self._tpot[length_class].observe(tpot)
            self._met["tpot", tpot_met].inc()
        if tpot_met and ttft <= self._objectives.ttft_seconds(length_class):
            self._good[length_class].inc()


def _buckets(histogram: Histogram) -> tuple[list[float], list[int]]:
    """A histogram's upper bounds, and what each bucket counts, not cumulated as Prometheus has
    it."""
    samples = [
        sample
        for metric in histogram.collect()
        for sample in metric.samples
        if sample.name.endswith("_bucket")
    ]
    bounds = [float(sample.labels["le"]) for sample in samples]
    totals = [int(sample.value) for sample in samples]
    counts = [total - before for before, total in pairwise([0, *totals])]
    return bounds[:-1], counts
