"""The toy model over a real KV cache.

What it answers is read from the cache alone, never from the tokens of the step, so a test
that moves blocks between two caches proves that every one of them arrived.
"""

import time
from collections.abc import Callable, Sequence

import torch

from lengthwise_checkpoint.toy import HEAD_DIM, NUM_KV_HEADS, ToySpec
from lengthwise_engine.errors import CacheSizeError
from lengthwise_engine.kv.cache import KVCache
from lengthwise_engine.kv.layout import KVLayout
from lengthwise_engine.runner.base import (
    PendingStep,
    SampledToken,
    SequenceChunk,
    SettledStep,
    check_chunks,
    with_known_tokens,
)
from lengthwise_engine.runner.sampler import sample
from lengthwise_engine.toy.arithmetic import (
    NUM_CHANNELS,
    VALUE_MODULUS,
    channel_number,
    channel_weight,
    next_token_of_sum,
    toy_logits,
)


class ToyRunner:
    """A `ModelRunner` whose greedy tokens follow from `arithmetic` alone."""

    def __init__(self, cache: KVCache, spec: ToySpec) -> None:
        expected = KVLayout.of(spec, block_size=cache.layout.block_size, dtype="float32")
        if cache.layout != expected:
            raise CacheSizeError(f"the toy model needs {expected}, got {cache.layout}")
        self._cache = cache
        self._spec = spec
        numbers = torch.tensor(
            [
                [[channel_number(layer, kv, i) for i in range(NUM_CHANNELS)] for kv in range(2)]
                for layer in range(spec.num_layers)
            ]
        )
        self._numbers = numbers
        self._slots = torch.arange(cache.layout.block_size)
        self._layers = torch.arange(spec.num_layers).view(-1, 1, 1)
        self._block_weights = _block_weights(numbers, cache.layout.block_size)
        self._before: Sequence[SequenceChunk] = ()
        self._sampled: list[SampledToken | None] = []

    @property
    def layout(self) -> KVLayout:
        return self._cache.layout

    @property
    def runs_ahead(self) -> bool:
        return False

    def launch(
        self, chunks: Sequence[SequenceChunk], on_layer: Callable[[int], None] | None = None
    ) -> PendingStep:
        self._check(chunks)
        known = with_known_tokens(chunks, self._sampled)
        self._before, self._sampled = chunks, self._compute(known, on_layer)
        return SettledStep(self._sampled)

    def run(
        self, chunks: Sequence[SequenceChunk], on_layer: Callable[[int], None] | None = None
    ) -> list[SampledToken | None]:
        return self.launch(chunks, on_layer).tokens()

    def _check(self, chunks: Sequence[SequenceChunk]) -> None:
        check_chunks(
            chunks,
            layout=self.layout,
            num_blocks=self._cache.num_blocks,
            spec=self._spec,
            before=self._before,
        )

    def _compute(
        self, chunks: Sequence[SequenceChunk], on_layer: Callable[[int], None] | None
    ) -> list[SampledToken | None]:
        if not chunks:
            return []
        self._store(chunks, on_layer)
        tokens = iter(self._sample([chunk for chunk in chunks if chunk.sampling is not None]))
        return [None if chunk.sampling is None else next(tokens) for chunk in chunks]

    def _sample(self, chunks: Sequence[SequenceChunk]) -> list[SampledToken]:
        if not chunks:
            return []
        best = [next_token_of_sum(total, self._spec) for total in self._totals(chunks)]
        states = [chunk.sampling for chunk in chunks if chunk.sampling is not None]
        if all(state.sampling.takes_best for state in states):
            return [SampledToken(token_id=token, logprob=None, top_logprobs=()) for token in best]
        return sample(torch.tensor([toy_logits(token) for token in best]), states)

    def _store(
        self, chunks: Sequence[SequenceChunk], on_layer: Callable[[int], None] | None
    ) -> None:
        """Write the new tokens' values layer by layer, each layer taking its share of the time."""
        started_at = time.monotonic()
        block_size = self.layout.block_size
        token_ids: list[int] = []
        positions: list[int] = []
        blocks: list[int] = []
        for chunk in chunks:
            token_ids.extend(chunk.token_ids)
            positions.extend(range(chunk.start, chunk.end))
            blocks.extend(chunk.block_ids[p // block_size] for p in range(chunk.start, chunk.end))
        token = torch.tensor(token_ids).view(-1, 1, 1, 1)
        position = torch.tensor(positions)
        block, slot = torch.tensor(blocks), position % block_size
        begun = [chunk.begun_block(block_size) for chunk in chunks]
        cleared = torch.tensor([b for b in begun if b is not None], dtype=torch.long)
        c = self._numbers
        values = ((2 * c + 1) * token + c * position.view(-1, 1, 1, 1) + c * c) % VALUE_MODULUS
        values = values.float().view(-1, self._spec.num_layers, 2, NUM_KV_HEADS, HEAD_DIM)
        seconds = self._pace(chunks)
        for layer in range(self._spec.num_layers):
            if seconds:
                due_at = started_at + seconds * (layer + 1) / self._spec.num_layers
                time.sleep(max(0.0, due_at - time.monotonic()))
            # A NaN behind the last token would survive being multiplied by zero.
            self._cache.tensor[layer].index_fill_(0, cleared, 0.0)
            self._cache.tensor[layer][block, :, slot] = values[:, layer]
            if on_layer is not None:
                on_layer(layer)

    def _pace(self, chunks: Sequence[SequenceChunk]) -> float:
        per_token = self._spec.prefill_seconds_per_token
        if not per_token:
            return self._spec.step_seconds
        num_prompt_tokens = sum(
            len(chunk.token_ids)
            for chunk in chunks
            if chunk.sampling is None or chunk.end <= chunk.sampling.num_prompt_tokens
        )
        return self._spec.step_seconds + per_token * num_prompt_tokens

    def _totals(self, chunks: Sequence[SequenceChunk]) -> list[int]:
        """The sum over the whole cached sequence of each chunk."""
        block_size = self.layout.block_size
        block_ids: list[int] = []
        first_positions: list[int] = []
        ends: list[int] = []
        rows: list[int] = []
        for row, chunk in enumerate(chunks):
            count = self.layout.num_blocks_for(chunk.end)
            block_ids.extend(chunk.block_ids[:count])
            first_positions.extend(range(0, count * block_size, block_size))
            ends.extend([chunk.end] * count)
            rows.extend([row] * count)
        blocks = self._cache.tensor.index_select(1, torch.tensor(block_ids)).flatten(2)
        per_position = torch.bmm(blocks, self._block_weights)  # [layers, blocks, slots], exact
        position = torch.tensor(first_positions).view(-1, 1) + self._slots
        factor = 1 + self._layers + self._spec.num_layers * position
        factor *= position < torch.tensor(ends).view(-1, 1)
        per_block = (per_position.long() * factor).sum(dim=(0, 2))
        totals = torch.zeros(len(chunks), dtype=torch.long)
        totals.index_add_(0, torch.tensor(rows), per_block)
        result: list[int] = totals.tolist()
        return result


def _block_weights(numbers: torch.Tensor, block_size: int) -> torch.Tensor:
    """[layers, elements of a block, slots]: one matrix product sums the channels of each slot."""
    weight = torch.tensor([channel_weight(c) for c in numbers.flatten().tolist()])
    weight = weight.view(-1, 2, 1, NUM_CHANNELS, 1)
    slots = torch.eye(block_size, dtype=torch.long).view(1, 1, block_size, 1, block_size)
    return (weight * slots).flatten(1, 3).float()
