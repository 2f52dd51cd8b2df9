"""What workers report of their caches decides where requests go, and is passed on."""

import asyncio
import time
from collections.abc import Sequence

import pytest
from harness.waiting import eventually
from router.deployment import Deploy, Deployment
from router.stub_workers import StubWorker, stub_answer

from lengthwise_policy.kv.prefix_cache import block_hashes, short_hash
from lengthwise_policy.kv.prefix_index import PrefixIndex
from lengthwise_policy.placement.outstanding import SEEN_SECONDS, Outstanding, Placed
from lengthwise_policy.types import WorkerId
from lengthwise_router.workers.prefixes import Prefixes, PromptPrefix
from lengthwise_wire.v1 import worker_pb2

LONG = tuple(b"once upon a time there was a router which knew who had read what before. " * 4)
COST = worker_pb2.CostModel(step_seconds=0.001, token_seconds=1e-3)


def names(token_ids: tuple[int, ...], fingerprint: str = "weights") -> list[int]:
    return [short_hash(each) for each in block_hashes(token_ids, 16, fingerprint.encode())]


async def holding(deployment: Deployment, worker: StubWorker, token_ids: tuple[int, ...]) -> None:
    """The worker reports the prompt's blocks, and the router has received it."""
    for each in deployment.workers:
        each.status = {"cost": COST}
    worker.blocks = names(token_ids)
    prefixes = deployment.served.workers.prefixes
    fleet = deployment.served.workers
    asked = [*token_ids, 1]

    async def cached() -> bool:
        known = await prefixes.cached_tokens(asked, PromptPrefix())
        return WorkerId(worker.worker_id) in known

    give_up_at = time.monotonic() + 5
    while not await cached():
        assert time.monotonic() < give_up_at
        await asyncio.sleep(0.02)
    await eventually(lambda: all(view.is_fitted for views in fleet.views() for view in views))


async def test_the_worker_that_holds_the_prefix_is_chosen(deploy: Deploy) -> None:
    deployment = await deploy(3, 1)
    holder = max(deployment.prefill, key=lambda worker: worker.worker_id)
    await holding(deployment, holder, LONG[:160])
    for _ in range(3):
        await deployment.generate(prompt=LONG, max_tokens=3)
    assert len(holder.requests) == 3
    await deployment.generate(max_tokens=3)
    assert len(holder.requests) == 3, "another prompt does not follow it"


async def test_the_next_turn_goes_to_the_decode_worker_that_has_the_last_one(
    deploy: Deploy,
) -> None:
    deployment = await deploy(1, 3, local_prefill=True)
    holder = max(deployment.decode, key=lambda worker: worker.worker_id)
    await holding(deployment, holder, LONG[:288])
    holder.num_cached_tokens = 288
    answer = await deployment.generate(prompt=LONG, max_tokens=3)
    assert answer.token_ids == stub_answer(LONG, 3)
    assert [reserve.local for reserve in holder.reserves] == [True]
    assert answer.last.usage.cached_prompt_tokens == 288
    assert not deployment.prefill[0].requests


async def test_what_the_decode_worker_has_is_sent_to_the_prefill_worker(deploy: Deploy) -> None:
    deployment = await deploy()
    deployment.decode[0].num_cached_tokens = 64
    deployment.prefill[0].num_cached_tokens = 32
    answer = await deployment.generate(prompt=LONG, max_tokens=3, priority=7)
    (request,), (reserve,) = deployment.prefill[0].requests, deployment.decode[0].reserves
    assert request.destination.num_cached_tokens == 64
    assert answer.last.usage.cached_prompt_tokens == 32
    assert (request.priority, reserve.priority, reserve.local) == (7, 7, False)


@pytest.mark.parametrize("returns", [True, False])
async def test_workers_receive_whether_the_conversation_returns(
    deploy: Deploy, returns: bool
) -> None:
    deployment = await deploy()
    await deployment.generate(max_tokens=3, conversation_returns=returns)
    (request,), (reserve,) = deployment.prefill[0].requests, deployment.decode[0].reserves
    assert (request.conversation_returns, reserve.conversation_returns) == (returns, returns)


async def test_a_lost_worker_is_forgotten(deploy: Deploy) -> None:
    deployment = await deploy(2, 1)
    worker = deployment.prefill[0]
    await holding(deployment, worker, LONG[:160])
    await worker.stop()
    await deployment.ready(2)
    prefixes = deployment.served.workers.prefixes
    assert await prefixes.cached_tokens(LONG, PromptPrefix()) == {}
    assert (await deployment.generate(prompt=LONG, max_tokens=3)).token_ids


def status(worker_id: str, token_ids: tuple[int, ...], **fields: str) -> worker_pb2.WorkerStatus:
    fingerprint = fields.get("fingerprint", "weights")
    return worker_pb2.WorkerStatus(
        worker_id=worker_id,
        model_fingerprint=fingerprint,
        block_size=16,
        block_events=worker_pb2.BlockEvents(reset=True, added=names(token_ids, fingerprint)),
    )


async def test_each_worker_has_what_it_reported() -> None:
    prefixes = Prefixes()
    prefixes.update(status("a", LONG[:32]))
    prefixes.update(status("b", LONG[:80]))
    prefixes.update(status("other", LONG[:48], fingerprint="other weights"))
    prefixes.update(status("none", LONG[::-1]))
    prefixes.update(worker_pb2.WorkerStatus(worker_id="silent"))
    expected = {"a": 32, "b": 80, "other": 48}
    assert await prefixes.cached_tokens(LONG, PromptPrefix()) == expected
    # The last token is computed in any case.
    assert await prefixes.cached_tokens(LONG[:80], PromptPrefix()) == {**expected, "b": 64}
    prefixes.forget(WorkerId("b"))
    assert await prefixes.cached_tokens(LONG, PromptPrefix()) == {"a": 32, "other": 48}


async def test_hashes_are_computed_once_and_go_on_where_they_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hashed: list[int] = []

    def counting(token_ids, block_size, salt, known=()):  # type: ignore[no-untyped-def]
        hashed.append(len(token_ids) // block_size - len(known))
        return block_hashes(token_ids, block_size, salt, known)

    monkeypatch.setattr("lengthwise_router.workers.prefixes.block_hashes", counting)
    prefix = PromptPrefix()
    token_ids = list(range(10_001))
    expected = names(tuple(token_ids[:10_000]))
    assert list(await prefix.hashes(token_ids, ("weights", 16))) == expected
    assert await prefix.hashes(token_ids, ("weights", 16)) == expected
    assert hashed == [256, 256, 113], "long prompts are hashed in slices"
    token_ids += range(20)
    assert len(await prefix.hashes(token_ids, ("weights", 16))) == 626
    assert hashed == [256, 256, 113, 1]


async def test_other_requests_go_on_while_a_long_prompt_is_hashed() -> None:
    hashing = asyncio.create_task(PromptPrefix().hashes(list(range(100_000)), ("weights", 16)))
    turns = 0
    while not hashing.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 20


def test_a_placement_counts_until_a_status_has_left_that_shows_it() -> None:
    outstanding = Outstanding()
    first, second = Placed(tokens=100, short_tokens=100), Placed(tokens=900)
    outstanding.add(first, 1.0)
    outstanding.status_came(1.0 + SEEN_SECONDS / 2)
    outstanding.add(second, 1.0 + SEEN_SECONDS / 2)
    assert (outstanding.unseen_tokens, outstanding.unseen_short_tokens) == (1000, 100)
    outstanding.status_came(1.0 + SEEN_SECONDS)
    assert (outstanding.unseen_requests, outstanding.unseen_tokens) == (1, 900)
    outstanding.remove(first)
    assert (outstanding.requests, outstanding.unseen_tokens) == (1, 900)
    outstanding.remove(second)
    outstanding.status_came(2.0)
    assert (outstanding.requests, outstanding.unseen_tokens) == (0, 0)


def test_a_local_prompt_counts_until_it_is_computed() -> None:
    outstanding = Outstanding()
    placed = Placed(tokens=50, local_tokens=50)
    outstanding.add(placed, 1.0)
    outstanding.status_came(2.0)
    assert (outstanding.local_tokens, outstanding.unseen_tokens) == (50, 0)
    outstanding.computed(placed)
    outstanding.remove(placed)
    assert outstanding.local_tokens == 0


async def test_the_index_is_walked_once_per_request_unless_it_changes(
    deploy: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment = await deploy(
        1, 2, shed_factor=100.0, max_requests_in_flight=1, step_stall_seconds=9.0
    )
    prefill = deployment.prefill[0]
    await holding(deployment, prefill, LONG[:160])
    walks: list[int] = []
    walk = PrefixIndex.matched_blocks

    def counted(index: PrefixIndex, hashes: Sequence[int]) -> dict[WorkerId, int]:
        walks.append(len(hashes))
        return walk(index, hashes)

    monkeypatch.setattr(PrefixIndex, "matched_blocks", counted)
    await deployment.generate(prompt=LONG, max_tokens=3)
    assert len(walks) == 1, "counted, predicted for admission and placed by one walk"
    prefill.hangs = True
    first = deployment.call(prompt=LONG, max_tokens=3)
    await eventually(lambda: prefill.running)
    second = asyncio.create_task(deployment.generate(prompt=LONG, max_tokens=3))
    await eventually(lambda: deployment.served.gate.num_waiting)
    assert len(walks) == 3
    changes = deployment.served.workers.prefixes._changes
    prefill.blocks = names(LONG[:192])
    await eventually(lambda: deployment.served.workers.prefixes._changes > changes)
    prefill.hangs = False
    first.cancel()
    await second
    assert len(walks) == 4, "what waited is placed by what is cached now"
