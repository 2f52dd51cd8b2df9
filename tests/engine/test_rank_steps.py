"""What the other ranks are told of a step."""

import socket
from dataclasses import replace

import pytest
import torch

from lengthwise_engine.runner.base import SequenceChunk
from lengthwise_engine.runner.sampler import SamplingParameters, SamplingState, draw_arrays
from lengthwise_engine.tensor_parallel.steps import AdapterLayer, pack_adapter, pack_step, receive

GREEDY = SamplingParameters(temperature=0.0)


@pytest.mark.parametrize(
    "sampling",
    [
        GREEDY,
        SamplingParameters(temperature=0.7, seed=2),
        SamplingParameters(temperature=0.0, repetition_penalty=1.05),
        SamplingParameters(temperature=0.0, presence_penalty=0.5),
        SamplingParameters(temperature=0.0, logit_bias={3: 1.0}),
        SamplingParameters(temperature=0.0, top_logprobs=2),
    ],
    ids=["greedy", "drawn", "repetition", "presence", "bias", "logprobs"],
)
def test_all_ranks_choose_graphs_of_one_form(sampling: SamplingParameters) -> None:
    """One that captured or replayed another graph than rank 0 would wait for it for ever."""
    tokens = [4, 5, 6]
    chunks = [
        SequenceChunk(
            token_ids=tokens,
            start=0,
            block_ids=[0],
            sampling=SamplingState(sampling=each, token_ids=tokens, num_prompt_tokens=3),
        )
        for each in (GREEDY, sampling)
    ]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(pack_step(chunks, 16))
        received = receive(theirs)
    assert isinstance(received, list)
    assert _arrays(received) == _arrays(chunks)


def _arrays(chunks: list[SequenceChunk]) -> set[str]:
    states = [chunk.sampling for chunk in chunks if chunk.sampling is not None]
    return set(draw_arrays(states, [3, 3], [0, 0]))


def test_an_adapter_arrives_as_it_was_sent_before_the_step_that_needs_it() -> None:
    numbers = torch.randn(1000, generator=torch.Generator().manual_seed(1)).bfloat16()
    chunk = SequenceChunk(token_ids=[5], start=0, block_ids=[1], sampling=None)
    chunks = [chunk, replace(chunk, adapter=0), replace(chunk, adapter=63)]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(pack_adapter(63, 2, numbers) + pack_step(chunks, 16))
        layer, step = receive(theirs), receive(theirs)
    assert isinstance(layer, AdapterLayer)
    assert (layer.number, layer.layer) == (63, 2)
    assert torch.equal(layer.data.view(torch.bfloat16), numbers)
    assert isinstance(step, list)
    assert [each.adapter for each in step] == [None, 0, 63]
