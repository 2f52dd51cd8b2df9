"""A run as Chrome's trace viewer and Perfetto show it: a line for each request, its waiting,
computing and generating in the colours of their names."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from lengthwise_simulator.cluster.journey import Journey


def write_chrome_trace(journeys: Sequence[Journey], path: Path) -> None:
    """Errors: OSError."""
    events = [event for journey in journeys for event in _events(journey)]
    document = {"traceEvents": events, "displayTimeUnit": "ms"}
    path.write_text(json.dumps(document), encoding="utf-8")


def _events(journey: Journey) -> Iterator[dict[str, object]]:
    if journey.ending != "done":
        yield _event(journey, journey.ending or "", journey.arrived_at, journey.ended_at, "")
        return
    computing = journey.prefill or journey.decode
    yield _event(journey, "wait", journey.arrived_at, journey.began_at, "")
    yield _event(journey, "prefill", journey.began_at, journey.first_token_at, computing)
    yield _event(journey, "decode", journey.first_token_at, journey.ended_at, journey.decode)


def _event(
    journey: Journey, name: str, begin: float, end: float, worker: str | None
) -> dict[str, object]:
    return {
        "name": name,
        "ph": "X",
        "pid": 1,
        "tid": journey.number,
        "ts": round(begin * 1e6, 1),
        "dur": round(max(end - begin, 0.0) * 1e6, 1),
        "args": {
            "worker": worker or "",
            "prompt_tokens": journey.request.prompt_tokens,
            "output_tokens": journey.generated,
            "rule": journey.rule,
            "reason": journey.reason,
        },
    }
