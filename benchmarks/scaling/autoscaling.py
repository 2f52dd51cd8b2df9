"""Lengthwise's scaler against other rules in a simulated release: objectives met, and what it cost.

Run `python -m scaling.autoscaling [--trace AZURE_CSV]`; it takes about a minute, and
rows go to benchmarks/data/autoscaling.csv.
"""

import argparse
from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Final

from rows import append_rows
from traces import AZURE_CONVERSATIONS

from lengthwise_policy.scaling.state import Pool
from scaling.arms import ARMS, PerRole, Static
from scaling.loop import DRAIN_SECONDS, Controller, Outcome, simulate
from scaling.plant import ROLES, Plant
from scaling.traffic import bursts, chat, code, copies, phases, poisson, ramp, read_trace, step
from scaling.workers import BLOCKS, START_SECONDS, TPOT_SECONDS, TTFT_SECONDS, Request

MAX_REPLICAS: Final = 12
SECONDS: Final = 2400.0
SEED: Final = 7


def traffics(trace: Path) -> Mapping[str, tuple[list[Request], float]]:
    """What is played, and for how long."""
    plays = {
        "step 2 to 8 requests/s": poisson(step(2, 8, 600, 1500), 8, SECONDS, chat, SEED),
        "ramp 1 to 10 requests/s": poisson(ramp(1, 10, SECONDS), 10, SECONDS, chat, SEED),
        "bursts, CV 13, code": bursts(2.57, 13, SECONDS, code, SEED),
        "phases of 300 s": poisson(lambda _: 4.0, 4, SECONDS, phases(300), SEED),
        "phases of 600 s": poisson(lambda _: 4.0, 4, SECONDS, phases(600), SEED),
    }
    found = {name: (requests, SECONDS) for name, requests in plays.items()}
    requests = read_trace(trace)
    found["Azure conversations"] = (requests, requests[-1].at)
    return found


def play(
    controller: Controller,
    requests: Sequence[Request],
    seconds: float,
    *,
    flexible: bool = False,
    replicas: tuple[int, int] = (2, 2),
) -> Outcome:
    pools = [
        Pool(name="prefill", role="prefill", max_replicas=MAX_REPLICAS, flexible=flexible),
        Pool(name="decode", role="decode", max_replicas=MAX_REPLICAS, flexible=flexible),
    ]
    plant = Plant(pools, {"prefill": replicas[0], "decode": replicas[1]})
    return simulate(plant, controller, copies(requests), seconds)


def row(traffic: str, arm: str, outcome: Outcome, seconds: float) -> dict[str, object]:
    return {
        "traffic": traffic,
        "arm": arm,
        "requests": outcome.requests,
        "start_seconds": START_SECONDS,
        "max_replicas": MAX_REPLICAS,
        "kv_blocks": BLOCKS,
        "ttft_short_slo_s": TTFT_SECONDS["short"],
        "ttft_long_slo_s": TTFT_SECONDS["long"],
        "tpot_slo_s": TPOT_SECONDS,
        "in_time": round(outcome.in_time, 4),
        "mean_workers": round(outcome.worker_seconds / (seconds + DRAIN_SECONDS), 2),
        "peak_workers": outcome.peak_workers,
        "changes": outcome.changes,
        "flips": outcome.flips,
    }


def compare(requests: Sequence[Request], seconds: float) -> dict[str, Outcome]:
    """All arms on the same requests."""
    outcomes = {name: play(make(), requests, seconds) for name, make in ARMS.items()}
    flexible = play(ARMS["lengthwise"](), requests, seconds, flexible=True)
    serving = outcomes["lengthwise"].workers_at
    means = [sum(workers[role] for _, workers in serving) / len(serving) for role in ROLES]
    prefill, decode = (ceil(mean) for mean in means)
    static = play(PerRole(Static), requests, seconds, replicas=(prefill, decode))
    return {"lengthwise, flexible": flexible, **outcomes, "static, hindsight": static}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--trace", type=Path, default=AZURE_CONVERSATIONS, help="TIMESTAMP, ContextTokens, ..."
    )
    table = []
    for traffic, (requests, seconds) in traffics(parser.parse_args().trace).items():
        for name, outcome in compare(requests, seconds).items():
            table.append(row(traffic, name, outcome, seconds))
            print(table[-1], flush=True)
    append_rows("autoscaling", table)


if __name__ == "__main__":
    main()
