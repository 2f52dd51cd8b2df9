"""What Prometheus answers of a release in which nothing happens, and what is read from it."""

import math
from collections.abc import Mapping
from typing import Any, get_args

from lengthwise_autoscaler.load.data_check import Settled
from lengthwise_autoscaler.load.prometheus import Row, Vector
from lengthwise_autoscaler.load.queries import QueryName
from lengthwise_autoscaler.load.readings import LoadReader, Reading
from lengthwise_policy.scaling.state import Group, Pool

QUERY_NAMES: tuple[QueryName, ...] = get_args(QueryName)

ALL: Group = ("prefill", None)
SHORT: Group = ("prefill", "short")
LONG: Group = ("prefill", "long")

POOLS = [Pool(name="prefill", role="prefill"), Pool(name="decode", role="decode")]

SETTLED = [
    Settled(name="router-0", pool="", role=None),
    Settled(name="prefill-0", pool="prefill", role="prefill"),
    Settled(name="decode-0", pool="decode", role="decode"),
]

INTERVAL = 5.0
MOST = dict.fromkeys(("prefill", "decode", "quick"), 4.0)


def vector(value: float, *labels: Mapping[str, str]) -> Vector:
    return tuple(Row(labels=each, value=value) for each in (labels or ({},)))


def classed(**more: str) -> list[dict[str, str]]:
    return [{"length_class": length, **more} for length in ("short", "long")]


def vectors(**changed: Any) -> dict[QueryName, Vector]:
    """What a quiet release of one pod of each kind gives."""
    pods = [{"pod": pod.name} for pod in SETTLED]
    decode = {"pool": "decode"}
    prefill = classed(pool="prefill")
    quiet: dict[QueryName, Vector] = {
        "sample_age": vector(1.0, *pods),
        "scraped": vector(1.0, *pods),
        "arrived_requests": vector(0.0, *classed()),
        "arrived_tokens": vector(0.0, *classed()),
        "recent_tokens": vector(0.0, *classed()),
        "output_tokens": vector(math.nan),
        "waiting_requests": vector(0.0),
        "ttft": vector(math.nan, *classed()),
        "tpot": vector(math.nan),
        "prefill_tokens": vector(0.0, *prefill),
        "prefill_busy": vector(0.0, *prefill),
        "queue_seconds": vector(math.nan, *prefill),
        "queued_tokens": vector(
            0.0, *classed(pool="prefill", role="prefill"), {**decode, "role": "decode"}
        ),
        "decode_running": vector(0.0, decode),
        "decode_context": vector(0.0, decode),
        "decode_queued": vector(0.0, decode),
        "decode_predicted": vector(0.0, decode),
        "decode_blocks": vector(1000.0, decode),
        "decode_workers": vector(1.0, decode),
        "block_tokens": vector(16.0, decode),
        "generated_tokens": vector(0.0, decode),
        "mean_workers": vector(1.0, {**decode, "role": "decode"}),
        "cost": (),
        "pod_requests": (),
        "pod_cached": (),
    }
    assert set(quiet) == set(QUERY_NAMES)
    return {**quiet, **changed}  # type: ignore[dict-item]


def read(*, settled: Any = SETTLED, pools: Any = POOLS, **changed: Any) -> Reading:
    return LoadReader(pools, INTERVAL).read(vectors(**changed), settled, MOST)
