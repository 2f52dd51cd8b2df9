"""Steps that are planned before the last one has ended."""

from random import Random

import pytest

from lengthwise_policy.decode.policy import DecodePolicy, PastFuturePolicy
from lengthwise_policy.decode.request import Reservation
from lengthwise_policy.decode.scheduler import DecodeScheduler
from lengthwise_policy.decode.step import DecodeStep
from lengthwise_policy.errors import DuplicateRequest
from lengthwise_policy.kv.prefix_cache import PrefixCache, block_hashes
from lengthwise_policy.objectives import Objectives
from lengthwise_policy.types import PromptChunk, RequestId

BLOCK_SIZE = 4
A, B = RequestId("a"), RequestId("b")


class Worker:
    """A scheduler whose steps are launched one before the other has ended."""

    def __init__(self, step_tokens: int = 12) -> None:
        self.blocks = PrefixCache(8)
        policy = DecodePolicy(
            max_running=4, step_tokens=step_tokens, past_future=PastFuturePolicy(reserve=0.0)
        )
        self.scheduler = DecodeScheduler(
            policy, Objectives(), self.blocks, BLOCK_SIZE, Random(1).random
        )

    def start(
        self, request_id: RequestId, num_tokens: int, max_new_tokens: int, *, local: bool = False
    ) -> None:
        """Computes its prompt, or has it from a transfer."""
        reservation = Reservation(
            request_id=request_id,
            num_tokens=num_tokens,
            max_new_tokens=max_new_tokens,
            deadline_at=9.0,
            hashes=block_hashes([1] * num_tokens, BLOCK_SIZE, request_id.encode()),
            local=local,
        )
        assert self.scheduler.reserve(reservation)
        if not local:
            self.scheduler.commit(request_id)

    def launch(self) -> DecodeStep:
        step = self.scheduler.next_step()
        assert step is not None
        return step


def test_a_request_is_not_taken_beyond_its_last_token() -> None:
    worker = Worker()
    worker.start(A, num_tokens=4, max_new_tokens=4)
    worker.start(B, num_tokens=4, max_new_tokens=3)
    first, second = worker.launch(), worker.launch()
    assert first.request_ids == second.request_ids == (A, B)
    assert worker.scheduler.emitted(first) == (A, B)
    assert worker.launch().request_ids == (A,)
    assert worker.scheduler.emitted(second) == (A, B)
    assert worker.scheduler.next_step() is None


def test_chunks_go_on_where_those_in_flight_end_and_the_last_is_followed_by_a_row() -> None:
    worker = Worker(step_tokens=8)
    worker.start(A, num_tokens=14, max_new_tokens=3, local=True)
    chunks = [
        PromptChunk(request_id=A, start=0, num_tokens=8, is_last=False),
        PromptChunk(request_id=A, start=8, num_tokens=6, is_last=True),
    ]
    first, second = worker.launch(), worker.launch()
    assert [*first.chunks, *second.chunks] == chunks
    assert worker.blocks.match(block_hashes([1] * 14, BLOCK_SIZE, A.encode())) == 0
    assert worker.scheduler.emitted(first) == ()
    assert worker.blocks.match(block_hashes([1] * 14, BLOCK_SIZE, A.encode())) == 2
    assert worker.launch().request_ids == (A,)
    assert worker.scheduler.emitted(second) == (A,)
    assert worker.launch().request_ids == (A,)


@pytest.mark.parametrize("by", ["finish", "release"])
def test_blocks_of_a_request_that_ended_are_held_until_its_step_in_vain_has_ended(by: str) -> None:
    worker = Worker()
    worker.start(A, num_tokens=7, max_new_tokens=9)
    first, in_vain = worker.launch(), worker.launch()
    assert worker.scheduler.emitted(first) == (A,)
    if by == "finish":
        worker.scheduler.finish(A)
    else:
        worker.scheduler.release(A)
    held = 3  # the third for the token computed in vain
    assert worker.blocks.num_free == 8 - held
    with pytest.raises(DuplicateRequest, match="let its transfer and the steps in flight end"):
        worker.start(A, num_tokens=4, max_new_tokens=4)
    assert worker.scheduler.emitted(in_vain) == ()
    assert worker.blocks.num_free == 8
