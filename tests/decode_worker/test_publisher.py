"""What is published for a router reaches it: in order, gathered, before the end of its stream."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from lengthwise_decode_worker.publisher import Publisher
from lengthwise_decode_worker.stepping.rows import RouterRows
from lengthwise_engine.runner.sampler import SampledToken
from lengthwise_wire.errors import NoWorkerAvailable
from lengthwise_wire.v1 import common_pb2, decode_pb2

LENGTH = common_pb2.FINISH_REASON_LENGTH

Batches = AsyncGenerator[decode_pb2.TokenBatch]


def _ended(reservation: int) -> RouterRows:
    rows = RouterRows()
    rows.fail(reservation, "going away")
    return rows


def _step(index: int, *reservations: int, logprob: float | None = None) -> RouterRows:
    """One token of each."""
    rows = RouterRows()
    for reservation in reservations:
        token_id = 100 * reservation + index
        token = SampledToken(token_id=token_id, logprob=logprob, top_logprobs=())
        rows.append(reservation, index, token)
    return rows


async def _open(publisher: Publisher, interval_seconds: float = 0.0) -> Batches:
    batches = publisher.stream("router", interval_seconds)
    assert await anext(batches) == decode_pb2.TokenBatch()
    return batches


def _rows(batch: decode_pb2.TokenBatch) -> list[tuple[int, int, int]]:
    return list(zip(batch.reservations, batch.indices, batch.token_ids, strict=True))


async def test_what_was_published_while_a_batch_was_on_its_way_comes_before_the_end() -> None:
    publisher = Publisher()
    batches = await _open(publisher)
    publisher.publish("router", _ended(1))
    first = await anext(batches)
    publisher.publish("router", _ended(2))
    publisher.close()
    second = await anext(batches)
    assert [[row.reservation for row in batch.ended] for batch in (first, second)] == [[1], [2]]
    with pytest.raises(NoWorkerAvailable, match="going away"):
        await anext(batches)
    assert not publisher.is_open("router")


async def test_steps_within_the_interval_share_a_batch_and_the_first_waits_for_none() -> None:
    publisher = Publisher()
    batches = await _open(publisher, 0.2)
    loop = asyncio.get_running_loop()
    publisher.publish("router", _step(1, 1, 2))
    assert _rows(await anext(batches)) == [(1, 1, 101), (2, 1, 201)]
    left_at = loop.time()
    for index in (2, 3):
        publisher.publish("router", _step(index, 1, 2))
    assert _rows(await anext(batches)) == [(1, 2, 102), (2, 2, 202), (1, 3, 103), (2, 3, 203)]
    assert loop.time() - left_at > 0.15


async def test_what_begins_or_ends_a_request_leaves_at_once_and_takes_no_other_along() -> None:
    publisher = Publisher()
    batches = await _open(publisher, 10.0)
    publisher.publish("router", _step(1, 1, 2))
    await anext(batches)
    publisher.publish("router", _step(2, 1, 2, logprob=-0.5))
    last = _step(3, 1, 2, logprob=-1.5)
    last.end(2, LENGTH)
    last.preempted.append(1)
    publisher.publish("router", last)
    ended = await anext(batches)
    assert _rows(ended) == [(2, 2, 202), (2, 3, 203)]
    assert [(each.row, each.logprobs.logprob) for each in ended.logprobs] == [(0, -0.5), (1, -1.5)]
    assert [(each.reservation, each.finish_reason) for each in ended.ended] == [(2, LENGTH)]
    assert not ended.preempted
    begun = _step(4, 1, 3)
    begun.urgent.add(3)
    publisher.publish("router", begun)
    assert _rows(await anext(batches)) == [(3, 4, 304)]
    publisher.close()
    rest = await anext(batches)
    assert _rows(rest) == [(1, 2, 102), (1, 3, 103), (1, 4, 104)]
    assert [(each.row, each.logprobs.logprob) for each in rest.logprobs] == [(0, -0.5), (1, -1.5)]
    assert list(rest.preempted) == [1]


async def test_what_an_urgent_batch_leaves_behind_comes_when_it_is_due() -> None:
    publisher = Publisher()
    batches = await _open(publisher, 0.1)
    publisher.publish("router", _step(1, 1))
    await anext(batches)
    mixed = _step(2, 1)
    mixed.fail(2, "gone")
    publisher.publish("router", mixed)
    assert [each.reservation for each in (await anext(batches)).ended] == [2]
    async with asyncio.timeout(5):
        assert _rows(await anext(batches)) == [(1, 2, 102)]


async def test_without_an_interval_every_step_is_a_batch() -> None:
    publisher = Publisher()
    batches = await _open(publisher)
    for index in range(5):
        publisher.publish("router", _step(index, 1))
        async with asyncio.timeout(5):
            assert _rows(await anext(batches)) == [(1, index, 100 + index)]
