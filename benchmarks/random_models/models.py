"""Models with random weights in the shapes of real ones, made on the device, and what they cost.

A model is made without a byte on disk, through the same reader that loads a checkpoint;
its tensors are remembered by their names, so that a rival computes with the very same memory.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import torch

from lengthwise_checkpoint.config_json import ConfigJson
from lengthwise_checkpoint.families import read_decoder_spec
from lengthwise_checkpoint.spec import DecoderSpec, Projections
from lengthwise_engine.kv.cache import KVCache
from lengthwise_engine.kv.layout import KVLayout
from lengthwise_engine.models.decoder import Decoder
from lengthwise_engine.models.shard import ModelShard
from lengthwise_engine.models.weight_files import TensorPart, WeightFiles
from lengthwise_engine.models.weights import load_weights

BLOCK: Final = 16
WEIGHT_DEVIATION: Final = 0.02
"""As transformers initialises; activations stay in range through 64 layers."""

Shape = Mapping[str, Any]
"""What config.json says."""


def qwen2(
    *, hidden: int, inner: int, layers: int, heads: tuple[int, int], vocab: int, tied: bool = False
) -> Shape:
    """Qwen2.5 with other sizes; `heads` are those of queries and of keys."""
    return {
        "model_type": "qwen2",
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads[0],
        "num_key_value_heads": heads[1],
        "max_position_embeddings": 32_768,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
        "tie_word_embeddings": tied,
    }


SHAPES: Final[Mapping[str, Shape]] = {
    "Qwen2.5-0.5B": qwen2(
        hidden=896, inner=4864, layers=24, heads=(14, 2), vocab=151_936, tied=True
    ),
    "Qwen2.5-7B": qwen2(hidden=3584, inner=18_944, layers=28, heads=(28, 4), vocab=152_064),
    "Qwen2.5-32B": qwen2(hidden=5120, inner=27_648, layers=64, heads=(40, 8), vocab=152_064),
}


def spec_of(shape: Shape) -> DecoderSpec:
    return read_decoder_spec(ConfigJson(Path("config.json"), shape))


class RandomTensors(WeightFiles):
    """Stands in for a checkpoint's files: fills whatever is asked for, and remembers it.

    With `filled_on` "cpu" weights are equal on all devices.
    """

    def __init__(self, filled_on: str | None) -> None:
        self.folder = Path("random weights")
        self._filled_on = filled_on
        self.tensors: dict[str, torch.Tensor] = {}

    def __contains__(self, name: str) -> bool:
        return False  # asked about a head of its own where embeddings are tied

    def names(self) -> set[str]:
        return set(self.tensors)

    def digest(self) -> str:
        return ""

    def log_end(self) -> None:
        """Nothing was loaded."""

    def require(self, part: TensorPart) -> None:
        """Every tensor has the shape that the model needs."""

    def map(self, parts: Sequence[TensorPart], dtype: torch.dtype) -> None:
        """There is no file."""

    def copy_into(self, target: torch.Tensor, part: TensorPart) -> None:
        name = part.name
        self.tensors[name] = target
        if name.endswith("norm.weight"):
            target.fill_(1.0)
        elif self._filled_on is None:
            target.normal_(0.0, WEIGHT_DEVIATION)
        else:
            values = torch.empty(target.shape, dtype=target.dtype, device=self._filled_on)
            target.copy_(values.normal_(0.0, WEIGHT_DEVIATION))


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomModel:
    """A decoder, and its tensors under the names that checkpoints give them; where projections are
    quantised there are none: no rival can compute with those."""

    shape: Shape
    decoder: Decoder
    tensors: Mapping[str, torch.Tensor] = field(repr=False)

    def cache(self, num_blocks: int) -> KVCache:
        dtype = str(self.decoder.dtype).removeprefix("torch.")
        layout = KVLayout.of(self.decoder.spec, block_size=BLOCK, dtype=dtype)
        return KVCache.allocate(layout, num_blocks, self.decoder.device)


def random_model(
    shape: Shape,
    device: str,
    dtype: torch.dtype,
    *,
    filled_on: str | None = None,
    projections: Projections = "full",
) -> RandomModel:
    """Equal weights for equal arguments; filled where they lie unless a device is named for it."""
    torch.manual_seed(0)
    spec = replace(spec_of(shape), projections=projections)
    files = RandomTensors(filled_on)
    shard = ModelShard(whole=spec)
    weights = load_weights(files, shard, device=torch.device(device), dtype=dtype)
    tensors = files.tensors if projections == "full" else {}
    return RandomModel(shape=shape, decoder=Decoder(spec, weights), tensors=tensors)


def projection_parameters(spec: DecoderSpec) -> int:
    """Weights that every token is multiplied with: all but the vocabulary's two matrices."""
    query, keys = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
    attention = spec.hidden_size * (query + 2 * keys) + query * spec.hidden_size
    return spec.num_layers * (attention + 3 * spec.hidden_size * spec.intermediate_size)


def head_parameters(spec: DecoderSpec) -> int:
    return spec.vocab_size * spec.hidden_size


def prefill_flops(spec: DecoderSpec, lengths: Sequence[int]) -> int:
    """Of whole prompts: two per weight and token, causal attention, the head once per prompt."""
    pairs = sum(length * (length + 1) // 2 for length in lengths)
    attention = 4 * spec.num_layers * spec.num_heads * spec.head_dim * pairs
    head = 2 * head_parameters(spec) * len(lengths)
    return 2 * projection_parameters(spec) * sum(lengths) + attention + head


def step_bytes(spec: DecoderSpec, num_keys: int, item_bytes: int) -> int:
    """The fewest a step moves: every weight once, and the keys and values it attends to."""
    keys = 2 * spec.num_layers * spec.num_kv_heads * spec.head_dim * num_keys
    weight_bytes = item_bytes if spec.projections == "full" else 1
    projections = projection_parameters(spec) * weight_bytes
    return projections + (head_parameters(spec) + keys) * item_bytes
