"""A model over packed weights is the model: the same weights, the same logits to the bit."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from lengthwise_engine.loaded_model import LoadedModel, load_runner
from lengthwise_engine.models import weight_reader
from lengthwise_engine.models.decoder_loader import read_spec
from lengthwise_engine.models.linear import Linear
from lengthwise_engine.models.shard import ModelShard
from lengthwise_engine.models.weight_files import WeightFiles
from lengthwise_engine.models.weights import DecoderWeights, load_weights
from lengthwise_engine.runner.sampler import SamplingParameters
from lengthwise_kernels.packed import multiplies_bfloat16

MakeCheckpoint = Callable[..., Path]
CPU = torch.device("cpu")

pytestmark = pytest.mark.skipif(
    not multiplies_bfloat16(), reason="this CPU has no instructions for bfloat16"
)


@contextmanager
def plain_weights() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weight_reader, "packs", lambda device, dtype: False)
        patch.setattr(weight_reader, "packs_copy", lambda weight: False)
        yield


def load(folder: Path, shard: ModelShard) -> DecoderWeights:
    files = WeightFiles(folder, hashed=True)
    return load_weights(files, shard, device=CPU, dtype=torch.bfloat16)


def projections(weights: DecoderWeights) -> list[Linear]:
    found = [getattr(layer, field.name) for layer in weights.layers for field in fields(layer)]
    return [weights.head, *(each for each in found if isinstance(each, Linear))]


@pytest.mark.parametrize("variant", ["llama-gqa-tied", "qwen3-biases-layer-types"])
@pytest.mark.parametrize("size", [1, 2])
def test_every_rank_packs_the_weights_that_it_would_have_had(
    make_checkpoint: MakeCheckpoint, variant: str, size: int
) -> None:
    folder = make_checkpoint(variant)
    for rank in range(size):
        shard = ModelShard(whole=read_spec(folder), rank=rank, size=size)
        mine = load(folder, shard)
        with plain_weights():
            plain = load(folder, shard)
        assert mine.digest == plain.digest
        assert not mine.embedding.is_mkldnn
        pairs = list(zip(projections(mine), projections(plain), strict=True))
        assert len(pairs) == 4 * shard.whole.num_layers + 1
        for packed, other in pairs:
            assert packed.weight.is_mkldnn
            assert torch.equal(packed.weight.to_dense(), other.weight)
            assert (packed.bias is None) == (other.bias is None)


@pytest.mark.parametrize("variant", ["llama-gqa-tied", "qwen3-biases-layer-types"])
def test_tokens_and_log_probabilities_are_those_of_plain_weights(
    make_checkpoint: MakeCheckpoint, generate: Callable[..., object], variant: str
) -> None:
    folder = make_checkpoint(variant)

    def answers() -> tuple[str, object]:
        loaded: LoadedModel = load_runner(folder, device="cpu", num_blocks=64, dtype=torch.bfloat16)
        prompts = [list(range(3, 40)), [5, 6, 7], list(range(60, 80))]
        samplings = [SamplingParameters(temperature=0.0, top_logprobs=5)] * len(prompts)
        tokens = generate(loaded, prompts, 12, samplings=samplings, chunk_sizes=[16, 3, 7])
        return loaded.fingerprint, tokens

    packed = answers()
    with plain_weights():
        assert answers() == packed
