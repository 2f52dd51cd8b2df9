"""What a router reports to Prometheus of its API keys."""

from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter

from lengthwise_policy.admission.usage import LIMIT_NAMES, LimitName

KeyRefusal = Literal["no_key", "unknown_key"]

ReadOutcome = Literal["ok", "failed"]


class KeyMetrics:
    """Of the file, and of what its entries refuse."""

    def __init__(self, registry: CollectorRegistry) -> None:
        reads = Counter(
            "lengthwise_key_file_reads_total",
            "Times that the file of API keys was read",
            ("outcome",),
            registry=registry,
        )
        refusals = Counter(
            "lengthwise_key_refusals_total",
            "Calls and requests that were refused for their API key, or a limit of it",
            ("reason",),
            registry=registry,
        )
        self._reads = {outcome: reads.labels(outcome) for outcome in get_args(ReadOutcome)}
        self._refusals = {
            reason: refusals.labels(reason) for reason in (*get_args(KeyRefusal), *LIMIT_NAMES)
        }

    def read(self, outcome: ReadOutcome) -> None:
        self._reads[outcome].inc()

    def refused(self, reason: KeyRefusal | LimitName) -> None:
        self._refusals[reason].inc()
