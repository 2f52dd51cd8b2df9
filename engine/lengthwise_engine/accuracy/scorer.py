"""A model that says of every token of a text what it had expected there."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import torch

from lengthwise_engine.fingerprint import model_fingerprint
from lengthwise_engine.kv.cache import KVCache
from lengthwise_engine.kv.layout import KVDtype, KVLayout
from lengthwise_engine.models.decoder import Decoder
from lengthwise_engine.models.decoder_loader import Quantization, load_model
from lengthwise_engine.models.step import StepTensors
from lengthwise_engine.runner.base import SequenceChunk
from lengthwise_engine.runner.step_tensors import lay_out_step
from lengthwise_kernels.staging import to_device

CHUNK_TOKENS: Final = 64
"""Of a piece in one step: bounds what is held of logits, 40 MB for 152,000 tokens in float32."""

_BLOCK_SIZE: Final = 16


class Scorer:
    """A native model on one device, with room for one piece in its cache."""

    def __init__(self, model: Decoder, length: int, kv_dtype: KVDtype = "auto") -> None:
        """`length`: of a piece, in tokens."""
        self.model = model
        self.dtype = str(model.dtype).removeprefix("torch.")
        stored = self.dtype if kv_dtype == "auto" else kv_dtype
        layout = KVLayout.of(model.spec, block_size=_BLOCK_SIZE, dtype=stored)
        self._cache = KVCache.allocate(layout, layout.num_blocks_for(length), model.device)

    @classmethod
    def load(
        cls,
        checkpoint: Path,
        device: torch.device,
        dtype: torch.dtype | None,
        quantization: Quantization,
        length: int,
        kv_dtype: KVDtype = "auto",
    ) -> "Scorer":
        """Errors: as `load_model`."""
        return cls(load_model(checkpoint, device, dtype, quantization), length, kv_dtype)

    def fingerprint(self, checkpoint: Path) -> str:
        """Of the checkpoint that it was loaded from, however it is computed."""
        return model_fingerprint(checkpoint, self.model.weights.digest)

    @torch.inference_mode()
    def logits(self, piece: Sequence[int]) -> Iterator[torch.Tensor]:
        """Of the token after each of the piece's: float32 [tokens, vocab_size], a chunk at a time.

        What comes of the models' own type is what requests are served with, and no more exact.
        """
        for start in range(0, len(piece), CHUNK_TOKENS):
            chunk = SequenceChunk(
                token_ids=piece[start : start + CHUNK_TOKENS],
                start=start,
                block_ids=range(self._cache.num_blocks),
                sampling=None,
            )
            layout = lay_out_step(
                [chunk],
                windows=self.model.windows,
                block_size=_BLOCK_SIZE,
                attention=self.model.attention,
                samples_all=True,
            )
            tensors = to_device(layout.arrays, self.model.device)
            step = StepTensors.bind(layout.form, tensors)
            yield self.model.forward(step, self._cache.tensor).float()
