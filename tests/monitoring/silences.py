"""Histories in which an alert must not fire, for each condition that keeps it from firing."""

from monitoring.history import ARRIVALS, LEADS, ROUTER_UP, Silence, counter, metric, series

SILENCES = [
    Silence(
        name="a request in five minutes fails",
        alert="LengthwiseAvailabilityBurn",
        history={metric("requests_total", code="UNAVAILABLE", model="m"): "0+0.2x90"},
        until=90,
    ),
    Silence(
        name="clients send what is wrong, leave, or find no room",
        alert="LengthwiseAvailabilityBurn",
        history={
            metric("requests_total", code="OK", model="m"): "0+10x90",
            metric("requests_total", code="INVALID_ARGUMENT", model="m"): "0+90x90",
            metric("requests_total", code="CANCELLED", model="m"): "0+90x90",
            metric("requests_total", code="RESOURCE_EXHAUSTED", model="m"): "0+90x90",
        },
        until=90,
    ),
    Silence(
        name="all is scaled to zero and nothing arrives",
        alert="LengthwiseNoDecodeWorkers",
        history={
            metric("workers", role="decode", state="ready"): "0x60",
            metric("arrived_requests_total", length_class="short"): "50x60",
        },
        until=60,
    ),
    Silence(
        name="there never was a prefill worker",
        alert="LengthwiseNoPrefillWorkers",
        history={metric("workers", role="prefill", state="ready"): "0x60", **ARRIVALS},
        until=60,
    ),
    Silence(
        name="a release is uninstalled",
        alert="LengthwiseAutoscalerNoLeader",
        history={
            metric("autoscaler_leader"): "1x9 _x50",
            series("up", job="lengthwise", component="router"): "1x9 _x50",
        },
        until=60,
    ),
    Silence(
        name="an autoscaler only reports",
        alert="LengthwiseAutoscalerNoLeader",
        history={
            metric("autoscaler_leader"): "0x60",
            metric("autoscaler_dry_run"): "1x60",
            **ROUTER_UP,
        },
        until=60,
    ),
    Silence(
        name="an error says why nothing is decided",
        alert="LengthwiseAutoscalerStuck",
        history={
            metric("autoscaler_last_decision_timestamp_seconds"): "0x60",
            metric("scaling_errors_total", reason="data_missing"): "0+12x60",
            **LEADS,
        },
        until=60,
    ),
    Silence(
        name="a queue that is long and shrinks",
        alert="LengthwiseQueueGrowing",
        history={metric("requests_waiting"): "90-1x60"},
        until=60,
    ),
    Silence(
        name="the API server restarts",
        alert="LengthwiseDiscoveryFailing",
        history={
            metric("discovery_errors_total", reason="unreachable"): counter(
                (10, 0), (1, 20), (30, 0)
            )
        },
        until=40,
    ),
    Silence(
        name="a pool that is not scaled does a part of the work",
        alert="LengthwiseAtMaxReplicas",
        history={
            metric("workers_needed", role="decode", length_class=""): "2x60",
            metric("running_requests", role="decode", pool="scaled", pod="a"): "1x60",
            metric("running_requests", role="decode", pool="fixed", pod="b"): "1x60",
            metric("pool_max_replicas", pool="scaled", pod="autoscaler"): "1x60",
        },
        until=60,
    ),
]
