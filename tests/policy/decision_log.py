"""Prints a digest of what the schedulers and strategies decide on one made-up afternoon.

Run by test_same_decisions.py in processes that hash strings differently: a decision that depends on
the order of a set would differ there, and nowhere else.
"""

from dataclasses import replace
from hashlib import sha256
from random import Random

from lengthwise_policy.blocks import BlockPool
from lengthwise_policy.decode import DecodePolicy, DecodeScheduler, Reservation
from lengthwise_policy.placement import STRATEGIES
from lengthwise_policy.prefill import PrefillJob, PrefillPolicy, PrefillScheduler
from lengthwise_policy.types import PlacementRequest, RequestId, WorkerId, WorkerView


def prefill_decisions(random: Random) -> list[object]:
    scheduler = PrefillScheduler(PrefillPolicy(), BlockPool(400), block_size=16)
    log: list[object] = []
    for tick in range(300):
        for number in range(random.randrange(3)):
            scheduler.enqueue(
                PrefillJob(
                    request_id=RequestId(f"r{tick}.{number}"),
                    num_tokens=min(6000, int(random.lognormvariate(5, 1.5)) + 1),
                    arrived_at=tick,
                    deadline_at=tick + random.randrange(1, 100),
                )
            )
        expired = scheduler.expired(tick)
        batch = scheduler.next_batch(tick)
        done = scheduler.computed(batch) if batch else ()
        log += [expired, batch, [scheduler.block_ids(request_id) for request_id in done]]
        for request_id in (*expired, *done):
            scheduler.release(request_id)
    return log


def decode_decisions(random: Random) -> list[object]:
    scheduler = DecodeScheduler(DecodePolicy(max_running=16), BlockPool(300), block_size=16)
    log: list[object] = []
    for tick in range(300):
        request_id = RequestId(f"r{tick}")
        granted = scheduler.take_granted()
        if scheduler.reserve(
            Reservation(
                request_id=request_id,
                num_tokens=random.randrange(1, 500),
                max_new_tokens=random.randrange(1, 100),
                deadline_at=tick + random.randrange(1, 60),
            )
        ):
            granted.append(request_id)
        for each in granted:
            scheduler.commit(each)
        step = scheduler.next_step()
        expired = scheduler.expired(tick)
        for each in expired:
            scheduler.release(each)
        log += [granted, expired, step, scheduler.emitted(step) if step else ()]
    return log


def placement_decisions(random: Random) -> list[object]:
    views = [
        WorkerView(
            worker_id=WorkerId(f"w{number}"),
            role="prefill" if number % 2 else "decode",
            blocks_total=1000,
            blocks_free=random.randrange(1000),
            block_size=16,
            running_requests=0,
            queued_requests=0,
            queued_tokens=random.randrange(3),
            step=0,
            draining=random.random() < 0.1,
            model_fingerprint=random.choice(["old", "new"]),
            layout_fingerprint="layout",
            outstanding_requests=0,
            outstanding_tokens=0,
        )
        for number in range(40)
    ]
    request = PlacementRequest(request_id=RequestId("r"), num_tokens=100, max_new_tokens=10)
    log: list[object] = []
    for name in sorted(STRATEGIES):
        strategy = STRATEGIES[name](random.random)
        for _ in range(50):
            tried = frozenset(view.worker_id for view in random.sample(views, 5))
            asked = replace(request, excluded=tried)
            log.append(strategy(asked, views[1::2], views[0::2]))
    return log


if __name__ == "__main__":
    random = Random(7)
    decisions = [prefill_decisions(random), decode_decisions(random), placement_decisions(random)]
    print(sha256(repr(decisions).encode()).hexdigest())
