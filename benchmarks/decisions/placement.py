"""What a placement costs: microseconds of CPU time of one decision, over a large fleet. CPU time is
that of this process, whatever else runs.

Run `python -m decisions.placement`; it prints a table and appends to
benchmarks/data/placement.csv. Budget of the default strategy: 300 microseconds over 256 prefill and
as many decode workers, 500 over 500 of each.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from random import Random
from statistics import quantiles
from time import thread_time

from rows import append_rows

from lengthwise_policy.cost.model import CostModel
from lengthwise_policy.placement.placement import PlacementInput, PlacementRequest
from lengthwise_policy.placement.policy import PlacementPolicy
from lengthwise_policy.placement.strategies import STRATEGIES, make_strategy
from lengthwise_policy.placement.worker_view import WorkerView
from lengthwise_policy.spreading import ALONE, OtherRouters
from lengthwise_policy.types import Role, WorkerId

REPEATS = 1000

SHARED = ("predicted_ttft", OtherRouters(7, Random(2).random))
"""A strategy of a router that shares the workers with others."""


def microseconds(call: Callable[[float], object]) -> list[float]:
    """`call` gets a clock that goes on 1 ms from one call to the next."""
    taken = []
    for tick in range(REPEATS):
        start = thread_time()
        call(tick * 1e-3)
        taken.append((thread_time() - start) * 1e6)
    return taken


def view(role: Role, number: int, random: Random) -> WorkerView:
    """A loaded worker with a cost model of its own."""
    slower = 1 + 0.1 * random.random()
    queued = random.randrange(10_000)
    return WorkerView(
        worker_id=WorkerId(f"{role}-{number}"),
        role=role,
        blocks_total=10_000,
        blocks_free=random.randrange(10_000),
        block_size=16,
        running_requests=random.randrange(64),
        queued_requests=0,
        queued_tokens=queued if role == "prefill" else 0,
        queued_short_tokens=queued // 3 if role == "prefill" else 0,
        step=0,
        draining=False,
        model_fingerprint="0123456789abcdef",
        layout_fingerprint="fedcba9876543210",
        outstanding_requests=0,
        outstanding_tokens=random.randrange(1_000),
        fresh_tokens=random.randrange(1_000) if number % 4 == 0 else 0,
        cost=CostModel(
            step_seconds=0.01 * slower,
            token_seconds=5e-5 * slower,
            attention_seconds=1e-8,
            history_seconds=1e-7,
            decode_request_seconds=1e-4,
            decode_context_seconds=1e-8 * slower,
        ),
        is_fitted=True,
        context_tokens=random.randrange(50_000),
        kv_bytes_per_token=131_072,
        kv_bytes_per_second=1e10,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dry", action="store_true", help="print rows without recording them")
    arguments = parser.parse_args()
    random = Random(1)
    rows: list[dict[str, object]] = []
    for count in (128, 256, 500):
        prefill = [view("prefill", number, random) for number in range(count)]
        decode = [view("decode", number, random) for number in range(count)]
        everyone = [one.worker_id for one in (*prefill, *decode)]
        for holders in (0, 4, len(everyone)):
            request = PlacementRequest(
                num_tokens=1000,
                max_new_tokens=100,
                cached_tokens={
                    who: 16 * random.randrange(1, 60) for who in random.sample(everyone, holders)
                },
            )
            for name, others in (*((name, ALONE) for name in sorted(STRATEGIES)), SHARED):
                strategy = make_strategy(name, PlacementPolicy(), random.random)
                asked = PlacementInput(
                    request=request, prefill=prefill, decode=decode, now=0.0, others=others
                )
                taken = microseconds(lambda now: strategy(replace(asked, now=now)))  # noqa: B023
                cuts = quantiles(taken, n=100)
                rows.append(
                    {
                        "strategy": f"{name} of 8 routers" if others.count else name,
                        "prefill_workers": count,
                        "decode_workers": count,
                        "holding_a_prefix": holders,
                        "repeats": REPEATS,
                        "p50_us": round(cuts[49], 1),
                        "p99_us": round(cuts[98], 1),
                        "budget_us": (500 if count > 256 else 300)
                        if name == "predicted_ttft"
                        else "",
                    }
                )
                print(rows[-1], flush=True)
    if not arguments.dry:
        append_rows("placement", rows)


if __name__ == "__main__":
    main()
