"""Prints a digest of what the schedulers and strategies decide on one made-up afternoon.

Run by test_same_decisions.py in processes that hash strings differently: a decision that depends on
the order of a set would differ there, and nowhere else.
"""

from dataclasses import replace
from hashlib import sha256
from random import Random
from typing import get_args

from lengthwise_policy.admission.admission import (
    Admission,
    AdmissionPolicy,
    AdmissionRequest,
    Admit,
)
from lengthwise_policy.admission.fair_share import Ticket
from lengthwise_policy.decode.policy import DecodePolicy
from lengthwise_policy.decode.request import Reservation
from lengthwise_policy.decode.scheduler import DecodeScheduler
from lengthwise_policy.kv.prefix_cache import BlockHash, PrefixCache, block_hashes
from lengthwise_policy.objectives import Objectives
from lengthwise_policy.placement.blame import Blame
from lengthwise_policy.placement.placement import PlacementInput, PlacementRequest
from lengthwise_policy.placement.policy import PlacementPolicy
from lengthwise_policy.placement.strategies import STRATEGIES, make_strategy
from lengthwise_policy.placement.worker_view import WorkerView
from lengthwise_policy.prefill.policy import DisciplineName, PrefillPolicy
from lengthwise_policy.prefill.queue import PrefillJob
from lengthwise_policy.prefill.scheduler import PrefillScheduler
from lengthwise_policy.types import RequestId, WorkerId


def hashes(num_tokens: int, conversation: int) -> tuple[BlockHash, ...]:
    return tuple(block_hashes([conversation] * num_tokens, 16, b"salt"))


def prefill_decisions(random: Random, discipline: DisciplineName) -> list[object]:
    policy = PrefillPolicy(discipline=discipline)
    scheduler = PrefillScheduler(policy, Objectives(), PrefixCache(400), block_size=16)
    log: list[object] = []
    for tick in range(300):
        for number in range(random.randrange(3)):
            num_tokens = min(6000, int(random.lognormvariate(5, 1.5)) + 1)
            scheduler.enqueue(
                PrefillJob(
                    request_id=RequestId(f"r{tick}.{number}"),
                    num_tokens=num_tokens,
                    arrived_at=tick,
                    deadline_at=tick + random.randrange(1, 100),
                    hashes=hashes(num_tokens, random.randrange(3)),
                    priority=random.randrange(2),
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
    policy = DecodePolicy(max_running=16)
    scheduler = DecodeScheduler(policy, Objectives(), PrefixCache(120), 16, Random(1).random)
    filled: set[RequestId] = set()
    log: list[object] = []
    for tick in range(300):
        num_tokens = random.randrange(1, 500)
        reservation = Reservation(
            request_id=RequestId(f"r{tick}"),
            num_tokens=num_tokens,
            max_new_tokens=random.randrange(1, 400),
            deadline_at=tick + random.randrange(1, 60),
            hashes=hashes(num_tokens, random.randrange(20)),
            local=random.random() < 0.3,
        )
        if not reservation.local:
            filled.add(reservation.request_id)
        grant = scheduler.reserve(reservation)
        grants = [*scheduler.take_granted(), *([grant] if grant else [])]
        for each in grants:
            if each.request_id in filled and each.rule != "resumed":
                scheduler.commit(each.request_id)
        step = scheduler.next_step()
        emitted = scheduler.emitted(step) if step else ()
        for request_id in emitted:
            if random.random() < 0.05:
                scheduler.finish(request_id)
        expired = scheduler.expired(tick)
        for request_id in expired:
            scheduler.release(request_id)
        log += [grants, step, emitted, expired]
    return log


def admission_decisions(random: Random) -> list[object]:
    policy = AdmissionPolicy(max_requests_in_flight=3, max_queued=5, shed_factor=3.0)
    admission = Admission(policy)
    in_flight: list[Ticket] = []
    log: list[object] = []
    for tick in range(500):
        demand = AdmissionRequest(
            num_tokens=random.randrange(1, 500),
            tenant=random.choice(["one", "two", "three"]),
            priority=random.randrange(2),
            ttft_objective_seconds=2.0,
        )
        answer = admission.ask(demand, tick)
        admits: tuple[Admit, ...] = (answer,) if isinstance(answer, Admit) else ()
        if in_flight and random.random() < 0.6:
            ended = in_flight.pop(random.randrange(len(in_flight)))
            admission.charge(ended, random.randrange(300))
            admits += admission.finished(ended, tick + 0.5)
        in_flight += [admit.ticket for admit in admits]
        log += [answer, admits]
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
    request = PlacementRequest(num_tokens=100, max_new_tokens=10)
    log: list[object] = []
    for name in sorted(STRATEGIES):
        strategy = make_strategy(name, PlacementPolicy(), random.random)
        for tick in range(50):
            tried, caching = (
                [view.worker_id for view in random.sample(views, 5)] for _ in range(2)
            )
            asked = replace(
                request,
                blame=Blame.of(*tried),
                cached_tokens=dict.fromkeys(caching, 16 * random.randrange(1, 6)),
            )
            log.append(
                strategy(
                    PlacementInput(request=asked, prefill=views[1::2], decode=views[0::2], now=tick)
                )
            )
    return log


if __name__ == "__main__":
    random = Random(7)
    decisions = [
        *(prefill_decisions(random, discipline) for discipline in get_args(DisciplineName)),
        decode_decisions(random),
        admission_decisions(random),
        placement_decisions(random),
    ]
    print(sha256(repr(decisions).encode()).hexdigest())
