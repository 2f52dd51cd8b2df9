"""How much of a prompt a decode step computes."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthwise_policy.cost.model import PRIOR
from lengthwise_policy.decode.batch import ChunkRoom, plan_chunks
from lengthwise_policy.decode.request import DecodeRequest, Reservation
from lengthwise_policy.types import RequestId

BLOCK_SIZE = 16
COST = replace(PRIOR, attention_seconds=1e-7, history_seconds=1e-6)


def request(number: int, num_tokens: int, computed: int = 0) -> DecodeRequest:
    reservation = Reservation(
        request_id=RequestId(f"r{number}"),
        num_tokens=num_tokens,
        max_new_tokens=1,
        deadline_at=math.inf,
        local=True,
    )
    return DecodeRequest(
        reservation=reservation,
        number=number,
        sequence_tokens=num_tokens,
        own_slots=num_tokens,
        hashes=[],
        phase="computing",
        num_computed=computed,
        num_launched=computed,
    )


@pytest.mark.parametrize(
    ("prompts", "tokens", "expected"),
    [
        pytest.param([100, 100], 512, [100, 100], id="all of them"),
        pytest.param([400, 400], 512, [400, 112], id="the second in whole blocks"),
        pytest.param([400, 120], 512, [400, 112], id="no end of a prompt cut off"),
        pytest.param([512, 100], 512, [512], id="exactly full"),
        pytest.param([1000, 5], 500, [496], id="no request overtakes"),
        pytest.param([500, 100], 512, [500], id="less than a block left"),
    ],
)
def test_the_budget_is_filled_in_order(
    prompts: list[int], tokens: int, expected: list[int]
) -> None:
    computing = [request(number, num_tokens) for number, num_tokens in enumerate(prompts)]
    room = ChunkRoom(tokens=tokens, seconds=math.inf)
    chunks = plan_chunks(computing, room, COST, BLOCK_SIZE)
    assert [chunk.num_tokens for chunk in chunks] == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        pytest.param(0.0101, [192], id="200 tokens' worth"),
        pytest.param(0.001, [16], id="less than a block's worth"),
        pytest.param(-1.0, [16], id="late already"),
    ],
)
def test_chunks_keep_to_the_time_that_is_left_but_for_a_first_block(
    seconds: float, expected: list[int]
) -> None:
    room = ChunkRoom(tokens=512, seconds=seconds)
    chunks = plan_chunks([request(0, 1000), request(1, 10)], room, PRIOR, BLOCK_SIZE)
    assert [chunk.num_tokens for chunk in chunks] == expected


@given(
    prompts=st.lists(st.tuples(st.integers(1, 2000), st.integers(0, 20)), min_size=1, max_size=6),
    tokens=st.integers(16, 600),
    seconds=st.floats(-1, 0.2),
)
def test_no_chunk_goes_beyond_its_room(
    prompts: list[tuple[int, int]], tokens: int, seconds: float
) -> None:
    computing = [
        request(number, num_tokens + done * BLOCK_SIZE, done * BLOCK_SIZE)
        for number, (num_tokens, done) in enumerate(prompts)
    ]
    chunks = plan_chunks(computing, ChunkRoom(tokens=tokens, seconds=seconds), COST, BLOCK_SIZE)
    assert chunks, "the first in line always gets on"
    assert sum(chunk.num_tokens for chunk in chunks) <= tokens
    later = sum(COST.chunk_seconds(chunk.num_tokens, chunk.start) for chunk in chunks[1:])
    assert later <= max(seconds, 0.0)
    for chunk, each in zip(chunks, computing, strict=False):
        assert chunk.start == each.num_launched
        assert chunk.is_last == (chunk.start + chunk.num_tokens == each.sequence_tokens)
        assert chunk.is_last or chunk.num_tokens % BLOCK_SIZE == 0
