"""The worked example that docs/policies.md begins with: its numbers are computed here."""

from math import inf
from pathlib import Path
from random import Random
from typing import Any

from lengthwise_policy.admission.admission import (
    Admission,
    AdmissionPolicy,
    AdmissionRequest,
    Admit,
)
from lengthwise_policy.cost.model import CostModel
from lengthwise_policy.decode.policy import DecodePolicy
from lengthwise_policy.decode.request import Reservation
from lengthwise_policy.decode.scheduler import DecodeScheduler
from lengthwise_policy.kv.prefix_cache import BlockHash, PrefixCache, block_hashes
from lengthwise_policy.length_class import length_class
from lengthwise_policy.objectives import Objectives
from lengthwise_policy.placement.placement import Placement, PlacementInput, PlacementRequest
from lengthwise_policy.placement.policy import PlacementPolicy
from lengthwise_policy.placement.strategies import make_strategy
from lengthwise_policy.placement.worker_view import WorkerView
from lengthwise_policy.prefill.policy import PrefillPolicy
from lengthwise_policy.prefill.queue import PrefillJob
from lengthwise_policy.prefill.scheduler import PrefillScheduler
from lengthwise_policy.types import RequestId, Role, WorkerId

PAGE = Path(__file__).parents[2] / "docs" / "policies.md"

PROMPT, CACHED, NEW = 1800, 1024, 200
BLOCK_SIZE = 16
REQUEST = RequestId("r1")
OBJECTIVES = Objectives()
COST = CostModel(
    step_seconds=0.010,
    token_seconds=5e-5,
    attention_seconds=2e-9,
    history_seconds=2e-7,
    decode_request_seconds=2e-4,
    decode_context_seconds=1e-7,
)


def hashes_of_prompt() -> list[BlockHash]:
    return block_hashes(range(PROMPT), BLOCK_SIZE, b"model")


def view(worker_id: str, role: Role, **changes: Any) -> WorkerView:
    idle: dict[str, Any] = {
        "running_requests": 0,
        "queued_requests": 0,
        "queued_tokens": 0,
        "blocks_free": 4096,
    }
    return WorkerView(
        worker_id=WorkerId(worker_id),
        role=role,
        blocks_total=4096,
        block_size=BLOCK_SIZE,
        step=1,
        draining=False,
        model_fingerprint="m",
        layout_fingerprint="k",
        outstanding_requests=0,
        outstanding_tokens=0,
        cost=COST,
        is_fitted=True,
        kv_bytes_per_token=65536,
        kv_bytes_per_second=2e9,
        **(idle | changes),
    )


def placed() -> Placement:
    """p1 holds 1,024 tokens of the prompt and has 700 ahead; p2 is idle; d1 runs 24 requests."""
    strategy = make_strategy("predicted_ttft", PlacementPolicy(objectives=OBJECTIVES), lambda: 0.0)
    request = PlacementRequest(
        num_tokens=PROMPT, max_new_tokens=NEW, cached_tokens={WorkerId("p1"): CACHED}
    )
    prefill = (
        view("p1", "prefill", queued_requests=1, queued_tokens=700),
        view("p2", "prefill"),
    )
    decode = (
        view("d1", "decode", running_requests=24, context_tokens=36_000, blocks_free=1840),
        view("d2", "decode", running_requests=8, context_tokens=12_000, blocks_free=3344),
    )
    asked = PlacementInput(request=request, prefill=prefill, decode=decode, now=0.0)
    return strategy(asked)


def candidates(placement: Placement) -> list[str]:
    return [
        f"{each.prefill or '-'} {each.decode}  {each.residual_tokens:>5} tokens"
        f"  queue {each.queue_seconds * 1e3:5.1f}  prefill {each.prefill_seconds * 1e3:5.1f}"
        f"  transfer {each.transfer_seconds * 1e3:4.1f}  = {each.ttft_seconds * 1e3:5.1f} ms"
        for each in placement.candidates
    ]


def imposed() -> str:
    """What local prefill would add to the steps of the 8 requests of d2."""
    each = COST.chunk_seconds(PROMPT)
    return f"8 requests x {each * 1e3:.1f} ms = {8 * each * 1e3:.0f} ms imposed on others"


def admitted(placement: Placement) -> str:
    chosen = placement.chosen
    assert chosen is not None
    objective = OBJECTIVES.ttft_seconds(length_class(chosen.residual_tokens))
    admission = Admission(AdmissionPolicy(shed_factor=2.0))
    answer = admission.ask(
        AdmissionRequest(
            num_tokens=PROMPT,
            predicted_ttft_seconds=chosen.ttft_seconds,
            ttft_objective_seconds=objective,
        ),
        now=0.0,
    )
    assert isinstance(answer, Admit)
    return f"{answer.rule}: {answer.reason}"


def prefilled() -> list[str]:
    """The batches of p1, once those ahead are done."""
    blocks = PrefixCache(4096)
    hashes = hashes_of_prompt()
    taken = blocks.take((), CACHED // BLOCK_SIZE)
    assert taken is not None
    blocks.publish(taken.block_ids, hashes[: len(taken.block_ids)])
    blocks.release(taken.block_ids)
    scheduler = PrefillScheduler(PrefillPolicy(), OBJECTIVES, blocks, BLOCK_SIZE)
    job = PrefillJob(
        request_id=REQUEST,
        num_tokens=PROMPT,
        arrived_at=0.0,
        deadline_at=inf,
        hashes=tuple(hashes),
    )
    scheduler.enqueue(job)
    now, told = 0.0, []
    while (batch := scheduler.next_batch(now, COST)) is not None:
        (chunk,) = batch.chunks
        seconds = COST.prefill_seconds(chunk.num_tokens, chunk.start)
        told.append(
            f"[{chunk.start}, {chunk.start + chunk.num_tokens})  {seconds * 1e3:.1f} ms"
            f"  {batch.reason}"
        )
        now += seconds
        scheduler.computed(batch)
    return told


def granted() -> str:
    """By d2, which has admitted 8 requests of 1,500 tokens and at most 400 new ones."""
    scheduler = DecodeScheduler(
        DecodePolicy(), OBJECTIVES, PrefixCache(4096), BLOCK_SIZE, Random(1).random
    )
    for number in range(8):
        scheduler.reserve(
            Reservation(
                request_id=RequestId(f"before-{number}"),
                num_tokens=1500,
                max_new_tokens=400,
                deadline_at=inf,
            )
        )
    grant = scheduler.reserve(
        Reservation(
            request_id=REQUEST,
            num_tokens=PROMPT,
            max_new_tokens=NEW,
            deadline_at=inf,
            hashes=hashes_of_prompt(),
        )
    )
    assert grant is not None
    return f"{len(grant.block_ids)} blocks, {grant.reason}"


def worked_example() -> list[str]:
    placement = placed()
    return [
        admitted(placement),
        *candidates(placement),
        imposed(),
        placement.reason,
        *prefilled(),
        granted(),
    ]


def test_the_page_begins_with_these_numbers() -> None:
    page = PAGE.read_text(encoding="utf-8")
    missing = [line for line in worked_example() if f"    {line}\n" not in page]
    assert not missing, "docs/policies.md lacks these lines:\n" + "\n".join(missing)
