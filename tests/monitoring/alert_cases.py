"""For every alert a history in which it fires and then clears, and some in which it must not.

The rule: one value a minute in Prometheus' own notation (`a+bxn`: a, and n more, each b larger;
`_`: none); a history begins well, goes wrong, and becomes well again.
"""

from dataclasses import dataclass
from typing import Any

TARGET = {"namespace": "n", "release": "r"}

Labels = dict[str, str]
History = dict[str, str]
"""Values by series."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One alert in one history. Instants are minutes since its begin."""

    name: str
    alert: str
    history: History
    labels: Labels  # beside TARGET
    quiet: int  # it does not fire yet
    fires: int
    cleared: int

    def checks(self) -> list[dict[str, Any]]:
        """What `promtool test rules` is to expect."""
        expected = {"alertname": self.alert, "alertstate": "firing", **TARGET, **self.labels}
        sample = {"labels": "ALERTS" + _braces(expected), "value": 1}
        return [
            _check(self.alert, self.variant, self.quiet, []),
            _check(self.alert, self.variant, self.fires, [sample]),
            _check(self.alert, self.variant, self.cleared, []),
        ]

    @property
    def variant(self) -> Labels:
        """The labels that tell an alert's rules apart."""
        return {name: self.labels[name] for name in ("severity", "window") if name in self.labels}


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """One alert in a history that is none of its business."""

    name: str
    alert: str
    history: History
    until: int

    def checks(self) -> list[dict[str, Any]]:
        return [_check(self.alert, {}, minute, []) for minute in range(0, self.until, 5)]


def _check(
    alert: str, labels: Labels, minute: int, samples: list[dict[str, Any]]
) -> dict[str, Any]:
    expression = "ALERTS" + _braces({"alertname": alert, "alertstate": "firing", **labels})
    return {"expr": expression, "eval_time": f"{minute}m", "exp_samples": samples}


def _braces(labels: Labels) -> str:
    return "{" + ",".join(f'{name}="{value}"' for name, value in labels.items()) + "}"


def _series(name: str, **labels: str) -> str:
    return name + _braces({**TARGET, "pod": "a", **labels})


def _metric(name: str, **labels: str) -> str:
    return _series(f"lengthwise_{name}", **labels)


def _counter(*phases: tuple[int, int]) -> str:
    """Values of a counter that grows by so much a minute, for so many minutes each. Whole numbers:
    a sum that is off by a rounding error looks like a restart."""
    values, value = ["0"], 0
    for minutes, step in phases:
        values.append(f"{value + step}+{step}x{minutes - 1}")
        value += minutes * step
    return " ".join(values)


def _burn(
    slo: str, window: str, severity: str, *, well: int, bad: int, share: int, quiet: int, end: int
) -> Case:
    """1,000 requests a minute; after `well` minutes, for `bad` minutes, so many of them are bad."""
    if slo == "availability":
        good = _metric("requests_total", code="OK", model="m")
        missed = _metric("requests_total", code="UNAVAILABLE", model="m")
    else:
        good = _metric("slo_total", slo=slo, met="true")
        missed = _metric("slo_total", slo=slo, met="false")
    return Case(
        name=f"{slo} burns within {window}",
        alert="LengthwiseAvailabilityBurn" if slo == "availability" else "LengthwiseLatencyBurn",
        history={
            good: _counter((well, 1000), (bad, 1000 - share), (300, 1000)),
            missed: _counter((well, 0), (bad, share), (300, 0)),
        },
        labels={"slo": slo, "window": window, "severity": severity},
        quiet=quiet,  # the short window is full already
        fires=well + bad,
        cleared=end,
    )


LATENCY = ("ttft_short", "ttft_long", "tpot")

BURNS = [
    _burn("availability", "1h", "page", well=60, bad=30, share=100, quiet=66, end=100),
    _burn("availability", "6h", "page", well=60, bad=140, share=10, quiet=130, end=240),
    _burn("availability", "3d", "ticket", well=60, bad=60, share=4, quiet=75, end=300),
    *(
        case
        for slo in LATENCY
        for case in (
            _burn(slo, "1h", "page", well=10, bad=50, share=1000, quiet=20, end=70),
            _burn(slo, "6h", "page", well=60, bad=90, share=600, quiet=100, end=190),
            _burn(slo, "3d", "ticket", well=60, bad=120, share=100, quiet=100, end=270),
        )
    ),
]

ARRIVALS = {_metric("arrived_requests_total", length_class="short"): "0+10x60"}
REQUESTS = {_metric("requests_total", code="OK", model="m"): "0+10x90"}
ROUTER_UP = {_series("up", job="lengthwise", component="router"): "1x60"}
LEADS = {_metric("autoscaler_leader"): "1x60"}
PAGE, TICKET = {"severity": "page"}, {"severity": "ticket"}
WORKER = {"job": "lengthwise", "component": "worker", "pool": "decode", "pod": "a"}

WORKERS = [
    Case(
        name="no decode worker is ready",
        alert="LengthwiseNoDecodeWorkers",
        history={_metric("workers", role="decode", state="ready"): "1x9 0x20 1x30", **ARRIVALS},
        labels=PAGE,
        quiet=10,
        fires=12,
        cleared=31,
    ),
    Case(
        name="the prefill workers are gone",
        alert="LengthwiseNoPrefillWorkers",
        history={
            _metric("workers", role="prefill", state="ready"): "1x9 0x20 1x30",
            _metric("running_requests", role="prefill"): "0x9 _x20 0x30",
            **ARRIVALS,
        },
        labels=PAGE,
        quiet=14,
        fires=16,
        cleared=31,
    ),
    *(
        Case(
            name=f"a worker stays {state}",
            alert="LengthwiseWorkersUnusable",
            history={_metric("workers", role="decode", state=state): "0x9 1x15 0x10"},
            labels={"role": "decode", "state": state, **TICKET},
            quiet=14,
            fires=16,
            cleared=27,
        )
        for state in ("connecting", "lost", "stalled", "incompatible")
    ),
    Case(
        name="a worker starts four times",
        alert="LengthwiseRestarts",
        history={_series("process_start_time_seconds", **WORKER): "100x9 700x2 900x2 1100x60"},
        labels={**WORKER, **TICKET},
        quiet=15,
        fires=17,
        cleared=60,
    ),
    Case(
        name="a worker cannot be scraped",
        alert="LengthwiseTargetDown",
        history={_series("up", **WORKER): "1x9 0x15 1x10"},
        labels={**WORKER, **TICKET},
        quiet=14,
        fires=16,
        cleared=27,
    ),
    Case(
        name="one of eleven transfers fails",
        alert="LengthwiseTransferFailures",
        history={
            _metric("kv_transfer_seconds_count", role="decode"): "0+10x60",
            _metric("kv_transfer_failures_total", role="decode", reason="link_down"): _counter(
                (10, 0), (20, 1), (30, 0)
            ),
        },
        labels={"role": "decode", **TICKET},
        quiet=15,
        fires=25,
        cleared=40,
    ),
    Case(
        name="every fifth request is preempted",
        alert="LengthwisePreemptions",
        history={
            _metric("preemptions_total"): _counter((10, 0), (40, 2), (30, 0)),
            _metric("decode_admissions_total", reason="fits"): "0+10x80",
        },
        labels=TICKET,
        quiet=25,
        fires=50,
        cleared=70,
    ),
]

ROUTERS = [
    Case(
        name="more and more requests wait",
        alert="LengthwiseQueueGrowing",
        history={_metric("requests_waiting"): "0x9 5+1x25 0x20"},
        labels=TICKET,
        quiet=23,
        fires=27,
        cleared=38,
    ),
    Case(
        name="every tenth request finds the queue full",
        alert="LengthwiseRefusals",
        history={
            _metric("refusals_total", reason="queue full"): _counter((10, 0), (30, 1), (30, 0)),
            **REQUESTS,
        },
        labels=TICKET,
        quiet=18,
        fires=30,
        cleared=50,
    ),
    Case(
        name="every third request finds the queue full",
        alert="LengthwiseRefusals",
        history={
            _metric("refusals_total", reason="queue full"): _counter((10, 0), (30, 3), (30, 0)),
            **REQUESTS,
        },
        labels=PAGE,
        quiet=18,
        fires=30,
        cleared=50,
    ),
    Case(
        name="every fifth request is attempted again",
        alert="LengthwiseRetries",
        history={
            _metric("retries_total", phase="prefill", reason="rpc_error"): _counter(
                (10, 0), (30, 2), (30, 0)
            ),
            **REQUESTS,
        },
        labels=TICKET,
        quiet=18,
        fires=30,
        cleared=50,
    ),
    Case(
        name="the API server is away",
        alert="LengthwiseDiscoveryFailing",
        history={
            _metric("discovery_errors_total", reason="unreachable"): _counter(
                (10, 0), (10, 20), (20, 0)
            )
        },
        labels={"reason": "unreachable", **TICKET},
        quiet=12,
        fires=17,
        cleared=25,
    ),
]

AUTOSCALER = [
    Case(
        name="no autoscaler leads",
        alert="LengthwiseAutoscalerNoLeader",
        history={_metric("autoscaler_leader"): "1x9 0x10 1x20", **ROUTER_UP},
        labels=TICKET,
        quiet=11,
        fires=13,
        cleared=21,
    ),
    Case(
        name="the autoscaler is gone",
        alert="LengthwiseAutoscalerNoLeader",
        history={_metric("autoscaler_leader"): "1x9 _x10 1x20", **ROUTER_UP},
        labels=TICKET,
        quiet=11,
        fires=19,
        cleared=21,
    ),
    Case(
        name="Prometheus is away",
        alert="LengthwiseAutoscalerErrors",
        history={
            _metric("scaling_errors_total", reason="prometheus_unreachable"): _counter(
                (10, 0), (10, 12), (20, 0)
            )
        },
        labels={"reason": "prometheus_unreachable", **TICKET},
        quiet=15,
        fires=18,
        cleared=27,
    ),
    Case(
        name="the autoscaler leads and decides nothing",
        alert="LengthwiseAutoscalerStuck",
        history={
            _metric("autoscaler_last_decision_timestamp_seconds"): "0+60x10 600x14 1500+60x20",
            **LEADS,
        },
        labels=TICKET,
        quiet=13,
        fires=16,
        cleared=26,
    ),
    Case(
        name="the work needs more workers than there may be",
        alert="LengthwiseAtMaxReplicas",
        history={
            _metric("workers_needed", role="decode", length_class=""): "1x9 3.5x20 1x20",
            _metric("running_requests", role="decode", pool="decode"): "1x60",
            _metric("pool_max_replicas", pool="decode", pod="autoscaler"): "3x60",
        },
        labels={"role": "decode", **TICKET},
        quiet=19,
        fires=21,
        cleared=31,
    ),
]

CASES = [*BURNS, *WORKERS, *ROUTERS, *AUTOSCALER]

SILENCES = [
    Silence(
        name="a request in five minutes fails",
        alert="LengthwiseAvailabilityBurn",
        history={_metric("requests_total", code="UNAVAILABLE", model="m"): "0+0.2x90"},
        until=90,
    ),
    Silence(
        name="clients send what is wrong, leave, or find no room",
        alert="LengthwiseAvailabilityBurn",
        history={
            _metric("requests_total", code="OK", model="m"): "0+10x90",
            _metric("requests_total", code="INVALID_ARGUMENT", model="m"): "0+90x90",
            _metric("requests_total", code="CANCELLED", model="m"): "0+90x90",
            _metric("requests_total", code="RESOURCE_EXHAUSTED", model="m"): "0+90x90",
        },
        until=90,
    ),
    Silence(
        name="all is scaled to zero and nothing arrives",
        alert="LengthwiseNoDecodeWorkers",
        history={
            _metric("workers", role="decode", state="ready"): "0x60",
            _metric("arrived_requests_total", length_class="short"): "50x60",
        },
        until=60,
    ),
    Silence(
        name="there never was a prefill worker",
        alert="LengthwiseNoPrefillWorkers",
        history={_metric("workers", role="prefill", state="ready"): "0x60", **ARRIVALS},
        until=60,
    ),
    Silence(
        name="a release is uninstalled",
        alert="LengthwiseAutoscalerNoLeader",
        history={
            _metric("autoscaler_leader"): "1x9 _x50",
            _series("up", job="lengthwise", component="router"): "1x9 _x50",
        },
        until=60,
    ),
    Silence(
        name="an autoscaler only tells",
        alert="LengthwiseAutoscalerNoLeader",
        history={
            _metric("autoscaler_leader"): "0x60",
            _metric("autoscaler_dry_run"): "1x60",
            **ROUTER_UP,
        },
        until=60,
    ),
    Silence(
        name="an error tells why nothing is decided",
        alert="LengthwiseAutoscalerStuck",
        history={
            _metric("autoscaler_last_decision_timestamp_seconds"): "0x60",
            _metric("scaling_errors_total", reason="data_missing"): "0+12x60",
            **LEADS,
        },
        until=60,
    ),
    Silence(
        name="a queue that is long and shrinks",
        alert="LengthwiseQueueGrowing",
        history={_metric("requests_waiting"): "90-1x60"},
        until=60,
    ),
    Silence(
        name="the API server restarts",
        alert="LengthwiseDiscoveryFailing",
        history={
            _metric("discovery_errors_total", reason="unreachable"): _counter(
                (10, 0), (1, 20), (30, 0)
            )
        },
        until=40,
    ),
    Silence(
        name="a pool that is not scaled does a part of the work",
        alert="LengthwiseAtMaxReplicas",
        history={
            _metric("workers_needed", role="decode", length_class=""): "2x60",
            _metric("running_requests", role="decode", pool="scaled", pod="a"): "1x60",
            _metric("running_requests", role="decode", pool="fixed", pod="b"): "1x60",
            _metric("pool_max_replicas", pool="scaled", pod="autoscaler"): "1x60",
        },
        until=60,
    ),
]
