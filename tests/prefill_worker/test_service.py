"""What the prefill service refuses at its edge, before anything is queued."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from lengthwise_policy.prefill.queue import PrefillJob
from lengthwise_policy.sampling import SamplingParameters
from lengthwise_policy.types import RequestId
from lengthwise_prefill_worker.messages import Command, PrefillWork
from lengthwise_prefill_worker.service import PrefillService, check_destination
from lengthwise_runtime.mailbox import Mailbox
from lengthwise_wire.convert import sampling_to_wire
from lengthwise_wire.errors import DeadlineExceeded, InvalidRequest
from lengthwise_wire.v1 import prefill_pb2
from lengthwise_worker.adapters.held import HeldAdapters


@pytest.mark.parametrize("cached", [0, 16, 96])
def test_whole_blocks_before_the_last_token_may_lie_at_the_decode_worker(cached: int) -> None:
    check_destination(
        prefill_pb2.KVDestination(num_cached_tokens=cached), num_tokens=100, block_size=16
    )


@pytest.mark.parametrize(
    "cached",
    [
        pytest.param(15, id="not whole blocks"),
        pytest.param(112, id="more than the prompt"),
    ],
)
def test_other_numbers_of_tokens_there_are_refused(cached: int) -> None:
    destination = prefill_pb2.KVDestination(num_cached_tokens=cached)
    with pytest.raises(InvalidRequest, match=f"num_cached_tokens: got {cached}"):
        check_destination(destination, num_tokens=100, block_size=16)


def test_the_last_token_is_never_there() -> None:
    destination = prefill_pb2.KVDestination(num_cached_tokens=96)
    with pytest.raises(InvalidRequest, match="below the 96 tokens"):
        check_destination(destination, num_tokens=96, block_size=16)


QUEUED = 700
WAITING = 500


@pytest.mark.parametrize("most", [None, 0, QUEUED, QUEUED + WAITING - 1, QUEUED + WAITING])
async def test_a_prompt_is_queued_unless_more_tokens_are_ahead_than_the_router_allows(
    most: int | None,
) -> None:
    mailbox: Mailbox[Command] = Mailbox(10)
    job = PrefillJob(
        request_id=RequestId("earlier"), num_tokens=WAITING, arrived_at=0.0, deadline_at=1.0
    )
    mailbox.post(PrefillWork(job=job, sampling=SimpleNamespace(), sent_from=None))  # type: ignore[arg-type]
    service = _service(mailbox)
    request = prefill_pb2.PrefillRequest(
        request_id="r",
        token_ids=range(20),
        num_prompt_tokens=20,
        sampling=sampling_to_wire(SamplingParameters()),
        most_tokens_ahead=most,
    )
    context: Any = SimpleNamespace(time_remaining=lambda: 0.01)
    if most is None or most >= QUEUED + WAITING:
        with pytest.raises(DeadlineExceeded):
            await service.Prefill(request, context)
        assert len(mailbox.waiting()) == 2
    else:
        response = await service.Prefill(request, context)
        assert response == prefill_pb2.PrefillResponse(tokens_ahead=QUEUED + WAITING)
        assert len(mailbox.waiting()) == 1
    assert not service.num_pending


def _service(mailbox: Mailbox[Command]) -> PrefillService:
    async def no_grammar(_: str) -> None:
        await asyncio.sleep(0)

    model = SimpleNamespace(
        spec=SimpleNamespace(context_length=100, vocab_size=100),
        shards=SimpleNamespace(layout=SimpleNamespace(block_size=16)),
        fingerprint="weights",
    )
    engine: Any = SimpleNamespace(
        model=model, grammars=SimpleNamespace(state=no_grammar), adapters=HeldAdapters(None)
    )
    nothing: Any = SimpleNamespace(cancel=lambda _: None)
    return PrefillService(
        engine,
        mailbox=mailbox,
        send=nothing,
        metrics=nothing,
        queued_tokens=lambda: QUEUED,
        max_seconds=1.0,
    )
