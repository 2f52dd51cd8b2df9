"""For every alert a history in which it fires and then clears.

A history begins well, goes wrong, and becomes well again.
"""

from monitoring.history import (
    ARRIVALS,
    CRITICAL,
    LEADS,
    MODEL,
    REQUESTS,
    ROUTER_UP,
    WARNING,
    WORKER,
    Case,
    counter,
    metric,
    series,
)


def _burn(
    slo: str, window: str, severity: str, *, well: int, bad: int, share: int, quiet: int, end: int
) -> Case:
    """1,000 requests a minute; after `well` minutes, for `bad` minutes, so many of them are bad."""
    if slo == "availability":
        good = metric("requests_total", code="OK", model="m")
        missed = metric("requests_total", code="UNAVAILABLE", model="m")
    else:
        good = metric("slo_total", slo=slo, met="true")
        missed = metric("slo_total", slo=slo, met="false")
    return Case(
        name=f"{slo} burns within {window}",
        alert="LengthwiseAvailabilityBurn" if slo == "availability" else "LengthwiseLatencyBurn",
        history={
            good: counter((well, 1000), (bad, 1000 - share), (300, 1000)),
            missed: counter((well, 0), (bad, share), (300, 0)),
        },
        labels={**MODEL, "slo": slo, "window": window, "severity": severity},
        quiet=quiet,  # the short window is full already
        fires=well + bad,
        cleared=end,
    )


LATENCY = ("ttft_short", "ttft_long", "tpot")

BURNS = [
    _burn("availability", "1h", "critical", well=60, bad=30, share=100, quiet=66, end=100),
    _burn("availability", "6h", "critical", well=60, bad=140, share=10, quiet=130, end=240),
    _burn("availability", "3d", "warning", well=60, bad=60, share=4, quiet=75, end=300),
    *(
        case
        for slo in LATENCY
        for case in (
            _burn(slo, "1h", "critical", well=10, bad=50, share=1000, quiet=20, end=70),
            _burn(slo, "6h", "critical", well=60, bad=90, share=600, quiet=100, end=190),
            _burn(slo, "3d", "warning", well=60, bad=120, share=100, quiet=100, end=270),
        )
    ),
    Case(
        name="a model's requests fail and another's are many",
        alert="LengthwiseAvailabilityBurn",
        history={
            metric("requests_total", code="OK", model="other"): counter((400, 100_000)),
            metric("requests_total", code="OK"): counter((60, 1000), (30, 900), (300, 1000)),
            metric("requests_total", code="UNAVAILABLE"): counter((60, 0), (30, 100), (300, 0)),
        },
        labels={**MODEL, "slo": "availability", "window": "1h", **CRITICAL},
        quiet=66,
        fires=90,
        cleared=100,
    ),
]

WORKERS = [
    Case(
        name="one model of two has no decode worker",
        alert="LengthwiseNoDecodeWorkers",
        history={
            metric("workers", role="decode", state="ready"): "1x9 0x20 1x30",
            metric("workers", role="decode", state="ready", model="other"): "9x60",
            metric("arrived_requests_total", length_class="short", model="other"): "0+10x60",
            **ARRIVALS,
        },
        labels={**MODEL, **CRITICAL},
        quiet=10,
        fires=12,
        cleared=31,
    ),
    Case(
        name="no decode worker is ready",
        alert="LengthwiseNoDecodeWorkers",
        history={metric("workers", role="decode", state="ready"): "1x9 0x20 1x30", **ARRIVALS},
        labels={**MODEL, **CRITICAL},
        quiet=10,
        fires=12,
        cleared=31,
    ),
    Case(
        name="the prefill workers are gone",
        alert="LengthwiseNoPrefillWorkers",
        history={
            metric("workers", role="prefill", state="ready"): "1x9 0x20 1x30",
            metric("running_requests", role="prefill"): "0x9 _x20 0x30",
            **ARRIVALS,
        },
        labels={**MODEL, **CRITICAL},
        quiet=14,
        fires=16,
        cleared=31,
    ),
    *(
        Case(
            name=f"a worker stays {state}",
            alert="LengthwiseWorkersUnusable",
            history={metric("workers", role="decode", state=state): "0x9 1x15 0x10"},
            labels={**MODEL, "role": "decode", "state": state, **WARNING},
            quiet=14,
            fires=16,
            cleared=27,
        )
        for state in ("connecting", "lost", "stalled", "incompatible")
    ),
    Case(
        name="a worker starts four times",
        alert="LengthwiseRestarts",
        history={series("process_start_time_seconds", **WORKER): "100x9 700x2 900x2 1100x60"},
        labels={**WORKER, **WARNING},
        quiet=15,
        fires=17,
        cleared=60,
    ),
    Case(
        name="a worker cannot be scraped",
        alert="LengthwiseTargetDown",
        history={series("up", **WORKER): "1x9 0x15 1x10"},
        labels={**WORKER, **WARNING},
        quiet=14,
        fires=16,
        cleared=27,
    ),
    Case(
        name="one of eleven transfers fails",
        alert="LengthwiseTransferFailures",
        history={
            metric("kv_transfer_seconds_count", role="decode"): "0+10x60",
            metric("kv_transfer_failures_total", role="decode", reason="link_down"): counter(
                (10, 0), (20, 1), (30, 0)
            ),
        },
        labels={**MODEL, "role": "decode", **WARNING},
        quiet=15,
        fires=25,
        cleared=40,
    ),
    Case(
        name="every fifth request is preempted",
        alert="LengthwisePreemptions",
        history={
            metric("preemptions_total"): counter((10, 0), (40, 2), (30, 0)),
            metric("decode_admissions_total", reason="fits"): "0+10x80",
        },
        labels={**MODEL, **WARNING},
        quiet=25,
        fires=50,
        cleared=70,
    ),
]

ROUTERS = [
    Case(
        name="more and more requests wait",
        alert="LengthwiseQueueGrowing",
        history={metric("requests_waiting"): "0x9 5+1x25 0x20"},
        labels={**MODEL, **WARNING},
        quiet=23,
        fires=27,
        cleared=38,
    ),
    Case(
        name="every tenth request finds the queue full",
        alert="LengthwiseRefusals",
        history={
            metric("refusals_total", reason="queue full"): counter((10, 0), (30, 1), (30, 0)),
            **REQUESTS,
        },
        labels={**MODEL, **WARNING},
        quiet=18,
        fires=30,
        cleared=50,
    ),
    Case(
        name="every third request finds the queue full",
        alert="LengthwiseRefusals",
        history={
            metric("refusals_total", reason="queue full"): counter((10, 0), (30, 3), (30, 0)),
            **REQUESTS,
        },
        labels={**MODEL, **CRITICAL},
        quiet=18,
        fires=30,
        cleared=50,
    ),
    Case(
        name="every fifth request is attempted again",
        alert="LengthwiseRetries",
        history={
            metric("retries_total", phase="prefill", reason="rpc_error"): counter(
                (10, 0), (30, 2), (30, 0)
            ),
            **REQUESTS,
        },
        labels={**MODEL, **WARNING},
        quiet=18,
        fires=30,
        cleared=50,
    ),
    Case(
        name="the API server is away",
        alert="LengthwiseDiscoveryFailing",
        history={
            metric("discovery_errors_total", reason="unreachable"): counter(
                (10, 0), (10, 20), (20, 0)
            )
        },
        labels={"reason": "unreachable", **WARNING},
        quiet=12,
        fires=17,
        cleared=25,
    ),
]

AUTOSCALER = [
    Case(
        name="no autoscaler leads",
        alert="LengthwiseAutoscalerNoLeader",
        history={metric("autoscaler_leader"): "1x9 0x10 1x20", **ROUTER_UP},
        labels=WARNING,
        quiet=11,
        fires=13,
        cleared=21,
    ),
    Case(
        name="the autoscaler is gone",
        alert="LengthwiseAutoscalerNoLeader",
        history={metric("autoscaler_leader"): "1x9 _x10 1x20", **ROUTER_UP},
        labels=WARNING,
        quiet=11,
        fires=19,
        cleared=21,
    ),
    Case(
        name="Prometheus is away",
        alert="LengthwiseAutoscalerErrors",
        history={
            metric("scaling_errors_total", reason="prometheus_unreachable"): counter(
                (10, 0), (10, 12), (20, 0)
            )
        },
        labels={"reason": "prometheus_unreachable", **WARNING},
        quiet=15,
        fires=18,
        cleared=27,
    ),
    Case(
        name="the autoscaler leads and decides nothing",
        alert="LengthwiseAutoscalerStuck",
        history={
            metric("autoscaler_last_decision_timestamp_seconds"): "0+60x10 600x14 1500+60x20",
            **LEADS,
        },
        labels=WARNING,
        quiet=13,
        fires=16,
        cleared=26,
    ),
    Case(
        name="the work needs more workers than there may be",
        alert="LengthwiseAtMaxReplicas",
        history={
            metric("workers_needed", role="decode", length_class=""): "1x9 3.5x20 1x20",
            metric("running_requests", role="decode", pool="decode"): "1x60",
            metric("pool_max_replicas", pool="decode", pod="autoscaler"): "3x60",
        },
        labels={**MODEL, "role": "decode", **WARNING},
        quiet=19,
        fires=21,
        cleared=31,
    ),
]

CASES = [*BURNS, *WORKERS, *ROUTERS, *AUTOSCALER]
