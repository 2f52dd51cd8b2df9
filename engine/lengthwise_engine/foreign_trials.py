"""What holds of a model whose code is not ours, found by trying it when it is loaded.

That it keeps the sequences of a step apart and needs nothing of them but keys and values, or it is
not served. A layer that keeps other state, looks at its neighbours in a step or counts positions by
itself gives a token other logits in a batch and after chunks than alone. And, where that is asked
for, whether a token's logits are the same to the bit.
"""

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import torch

from lengthwise_checkpoint.errors import UnsupportedModel
from lengthwise_engine.kv.layout import KVLayout
from lengthwise_engine.models.foreign.model import ForeignModel
from lengthwise_engine.models.step import StepTensors
from lengthwise_engine.runner.base import SequenceChunk
from lengthwise_engine.runner.sampler import SamplingParameters, SamplingState
from lengthwise_engine.runner.step_tensors import lay_out_step
from lengthwise_kernels.staging import to_device

_BLOCK_SIZE: Final = 16
_BLOCKS_EACH: Final = 5
_DIFFERENCE: Final = 0.1
"""Of logits, in their standard deviations, on average. Rounding to bfloat16 made up to 0.01 of
eight small random models, neighbours that are added before a small model's MLP 0.16."""

_CUTS: Final = (0, 1, 3, 6, 7, 40, 66, 67)
"""Of a prompt that is computed in chunks: ones, twos, threes, ends of tiles."""


class _Steps:
    """Of up to eight sequences over a cache of their own."""

    def __init__(self, model: ForeignModel) -> None:
        self._model = model
        dtype = str(model.dtype).removeprefix("torch.")
        layout = KVLayout.of(model.spec, block_size=_BLOCK_SIZE, dtype=dtype)
        shape = (layout.num_layers, 8 * _BLOCKS_EACH, 2, _BLOCK_SIZE, layout.num_kv_heads)
        self._cache = torch.zeros(*shape, layout.head_dim, dtype=model.dtype, device=model.device)

    def tokens(self, seed: int, count: int) -> list[int]:
        vocab_size = self._model.spec.vocab_size
        return [(7919 * seed * place) % vocab_size for place in range(1, count + 1)]

    def logits(self, *chunks: tuple[Sequence[int], int, int]) -> torch.Tensor:
        """After the last token of each: (all tokens, how many of them are cached, sequence)."""
        rows = [
            SequenceChunk(
                token_ids=tokens[start:],
                start=start,
                block_ids=range(_BLOCKS_EACH * sequence, _BLOCKS_EACH * (sequence + 1)),
                sampling=SamplingState(
                    sampling=SamplingParameters(), token_ids=tokens, num_prompt_tokens=len(tokens)
                ),
            )
            for tokens, start, sequence in chunks
        ]
        model = self._model
        layout = lay_out_step(
            rows, windows=model.windows, block_size=_BLOCK_SIZE, attention=model.attention
        )
        step = StepTensors.bind(layout.form, to_device(layout.arrays, model.device))
        return model.forward(step, self._cache)

    def keys(self, sequence: int, count: int) -> torch.Tensor:
        """And values, of a sequence's first tokens in every layer."""
        own = self._cache[:, _BLOCKS_EACH * sequence : _BLOCKS_EACH * (sequence + 1)]
        return own.transpose(1, 2).flatten(2, 3)[:, :, :count]


@torch.inference_mode()
def check_isolation(model: ForeignModel) -> None:
    """Two sequences alone, against one in chunks beside the other: four steps of few tokens.

    Raises `UnsupportedModel` where their logits differ by more than rounding.
    """
    steps = _Steps(model)
    first, other = steps.tokens(1, 9), steps.tokens(2, 9)
    alone = torch.cat([steps.logits((first, 0, 0)), steps.logits((other, 0, 1))])
    steps.logits((first[:8], 0, 2))
    together = steps.logits((other, 0, 3), (first, 8, 2)).flip(0)
    apart = (alone - together).abs().mean(1).max()
    difference = float(apart / alone.std().clamp(min=1e-30))
    if not difference < _DIFFERENCE:
        raise UnsupportedModel(
            f"model_type: {model.spec.model_type!r}: transformers' code does not keep sequences of"
            " a step apart, or keeps more of them than keys and values: logits in chunks beside"
            f" another sequence differ by {difference:.2f} standard deviations from those alone"
        )


@torch.inference_mode()
def invariance_digest(model: ForeignModel) -> str:
    """16 hex digits of logits, keys and values of a prompt, where they are the same to the bit on
    one thread and on all, at once and in chunks, alone and beside others; else empty."""
    steps, threads, count = _Steps(model), torch.get_num_threads(), _CUTS[-1]
    prompt = steps.tokens(1, count)
    torch.set_num_threads(1)
    try:
        whole = steps.logits((prompt, 0, 0))
    finally:
        torch.set_num_threads(threads)
    found = [steps.logits((prompt[:end], start, 1)) for start, end in pairwise(_CUTS)][-1:]
    found.append(steps.logits((prompt[:33], 0, 3), (prompt, 0, 2), (prompt[:1], 0, 4))[1:2])
    for sequence in (5, 6, 7):
        steps.logits((prompt[:66], 0, sequence))
    found.append(steps.logits(*((prompt, 66, sequence) for sequence in (5, 6, 7))))
    keys = steps.keys(0, count)
    alike = all(torch.equal(whole.expand_as(each), each) for each in found)
    if not alike or not all(torch.equal(keys, steps.keys(each, count)) for each in (1, 2, 5, 6, 7)):
        return ""
    digest = hashlib.sha256(f"{torch.__version__} {model.device.type}".encode())
    for tensor in (whole, keys):
        digest.update(tensor.contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
