"""The runner of real models.

The rule: it owns a model and a cache, and nothing between two steps depends on what it ran before
but the cache, and the tokens that the next step's rows follow.
"""

from collections.abc import Callable, Sequence

import torch

from lengthwise_engine.errors import CacheSizeError
from lengthwise_engine.kv.cache import KVCache
from lengthwise_engine.kv.layout import KVLayout
from lengthwise_engine.models.decoder import Decoder
from lengthwise_engine.runner import (
    SampledToken,
    SequenceChunk,
    SettledStep,
    check_chunks,
    with_known_tokens,
)
from lengthwise_engine.sampler import sample
from lengthwise_engine.step_tensors import step_tensors
from lengthwise_kernels.dispatch import check_attention


class TorchRunner:
    """A `ModelRunner` that computes a `Decoder`."""

    def __init__(self, model: Decoder, cache: KVCache) -> None:
        expected = model.spec.kv_layout(
            block_size=cache.layout.block_size, dtype=str(model.dtype).removeprefix("torch.")
        )
        if cache.layout != expected:
            raise CacheSizeError(f"the model needs {expected}, got {cache.layout}")
        check_attention(model.attention)
        self._model = model
        self._cache = cache
        self._before: Sequence[SequenceChunk] = ()
        self._sampled: list[SampledToken | None] = []

    @property
    def layout(self) -> KVLayout:
        return self._cache.layout

    @property
    def runs_ahead(self) -> bool:
        return False

    def launch(
        self,
        chunks: Sequence[SequenceChunk],
        on_layer: Callable[[int], None] | None = None,
    ) -> SettledStep:
        check_chunks(
            chunks,
            layout=self.layout,
            num_blocks=self._cache.num_blocks,
            spec=self._model.spec,
            before=self._before,
        )
        known = with_known_tokens(chunks, self._sampled)
        self._before, self._sampled = chunks, self._compute(known, on_layer)
        return SettledStep(self._sampled)

    def run(
        self,
        chunks: Sequence[SequenceChunk],
        on_layer: Callable[[int], None] | None = None,
    ) -> list[SampledToken | None]:
        return self.launch(chunks, on_layer).tokens()

    @torch.inference_mode()
    def _compute(
        self, chunks: Sequence[SequenceChunk], on_layer: Callable[[int], None] | None
    ) -> list[SampledToken | None]:
        if not chunks:
            return []
        step = step_tensors(
            chunks,
            windows=self._model.spec.windows,
            block_size=self.layout.block_size,
            attention=self._model.attention,
        )
        logits = self._model.forward(step, self._cache.tensor, self._computed(on_layer))
        states = [chunk.sampling for chunk in chunks]
        tokens = iter(sample(logits, [state for state in states if state is not None]))
        return [None if state is None else next(tokens) for state in states]

    def _computed(self, on_layer: Callable[[int], None] | None) -> Callable[[int], None] | None:
        """`on_layer`, called when a GPU has computed the layer rather than when it was told to."""
        if on_layer is None or not self._cache.tensor.is_cuda:
            return on_layer
        stream = torch.cuda.current_stream(self._cache.tensor.device)

        def synchronised(layer: int) -> None:
            stream.synchronize()
            on_layer(layer)

        return synchronised
