"""Lengthwise's scaler against other rules in a simulated release: objectives met, and what it cost.

Run `python -m scaling.autoscaling [--trace TRACE] [--traffic NAME]`; it takes ten minutes of a
core, and rows go to benchmarks/data/autoscaling_simulation.csv.
"""

import argparse
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from math import ceil
from pathlib import Path
from typing import Final

from rows import append_rows
from traces import AZURE_CONVERSATIONS

from lengthwise_simulator.scaling.observed import ROLES
from lengthwise_simulator.workload.planned import ArrivingRequest
from lengthwise_simulator.workload.requests import as_recorded
from lengthwise_simulator.workload.traces import read_trace
from scaling.arms import ARMS, PerRole, Static
from scaling.release import (
    KV_TOKENS,
    MAX_REPLICAS,
    OBJECTIVES,
    START_SECONDS,
    ScaledPlay,
    play,
    two_pools,
)
from scaling.traffic import bursts, chat, code, phases, poisson, step, up_and_down

SECONDS: Final = 900.0
SEED: Final = 7
PROCESSES: Final = 3

FLEXIBLE: Final = "lengthwise, flexible"
HINDSIGHT: Final = "static, hindsight"
NAMES: Final = (FLEXIBLE, *ARMS, HINDSIGHT)


def traffics(trace: Path) -> Mapping[str, Sequence[ArrivingRequest]]:
    """What is played."""
    return {
        "step 2 to 8 requests/s": poisson(step(2, 8, 200, 500), 8, SECONDS, chat, SEED),
        "ramp 1 to 10 requests/s": poisson(up_and_down(1, 10, SECONDS), 10, SECONDS, chat, SEED),
        "bursts, CV 13, code": bursts(2.57, 13, SECONDS, code, SEED),
        "phases of 300 s": poisson(lambda _: 4.0, 4, SECONDS, phases(300), SEED),
        "the trace": [each for each in as_recorded(read_trace(trace)) if each.arrived_at < SECONDS],
    }


def played(trace: Path, traffic: str, arm: str) -> dict[str, object]:
    """A row; equal arms of one traffic play the same requests."""
    requests = traffics(trace)[traffic]
    if arm == FLEXIBLE:
        done = play(ARMS["lengthwise"](), requests, pools=two_pools(flexible=True))
    elif arm == HINDSIGHT:
        serving = play(ARMS["lengthwise"](), requests).scaled.workers_at
        means = [sum(workers[role] for _, workers in serving) / len(serving) for role in ROLES]
        done = play(PerRole(Static), requests, replicas=[ceil(mean) for mean in means])
    else:
        done = play(ARMS[arm](), requests)
    return _row(traffic, arm, done)


def _row(traffic: str, arm: str, done: ScaledPlay) -> dict[str, object]:
    scaled = done.scaled
    return {
        "traffic": traffic,
        "arm": arm,
        "requests": len(scaled.run.journeys),
        "start_seconds": START_SECONDS,
        "max_replicas": MAX_REPLICAS,
        "kv_tokens": KV_TOKENS,
        "ttft_short_slo_s": OBJECTIVES.ttft_short_seconds,
        "ttft_long_slo_s": OBJECTIVES.ttft_long_seconds,
        "tpot_slo_s": OBJECTIVES.tpot_seconds,
        "in_time": round(done.in_time, 4),
        "mean_workers": round(done.mean_workers, 2),
        "peak_workers": scaled.peak_workers,
        "changes": scaled.changes,
        "flips": scaled.flips,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trace", type=Path, default=AZURE_CONVERSATIONS, help="With times.")
    parser.add_argument("--traffic", action="append", help="Of those all; repeat for more.")
    asked = parser.parse_args()
    names = asked.traffic or list(traffics(asked.trace))
    table = []
    with ProcessPoolExecutor(PROCESSES) as pool:
        for row in pool.map(
            partial(played, asked.trace), *zip(*product(names, NAMES), strict=True)
        ):
            table.append(row)
            print(row, flush=True)
    append_rows("autoscaling_simulation", table)


if __name__ == "__main__":
    main()
