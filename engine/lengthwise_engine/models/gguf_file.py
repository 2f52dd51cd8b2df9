"""One GGUF file's tensors, under the names and in the order of rows that checkpoint folders have.

Numbers become float32 by the package gguf, a piece of a tensor at a time.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from lengthwise_checkpoint.errors import CheckpointError, UnsupportedModel
from lengthwise_checkpoint.gguf.config import ROPE_FACTORS
from lengthwise_checkpoint.gguf.header import GgufHeader
from lengthwise_checkpoint.gguf.model import GgufModel, read_gguf
from lengthwise_checkpoint.gguf.tensor_types import TENSOR_TYPES, TensorType
from lengthwise_engine.models.tensor_file import DTYPES, TensorFile, TensorPlace

_LAYER: Final = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")
_IN_LAYER: Final = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OUTSIDE: Final = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}

_PIECE_WEIGHTS: Final = 1 << 20
"""Made numbers of at once: 4 MiB of float32. Four times as many were 5 to 20 % slower."""


def open_gguf(path: Path) -> "dict[str, GgufFile]":
    """All files of a model, by their names. Raises `CheckpointError`."""
    model = read_gguf(path)
    return {part.path.name: GgufFile(part, _rotated(model)) for part in model.parts}


def _rotated(model: GgufModel) -> Mapping[str, int]:
    """How many heads the tensors of each kind have whose rows lie as llama.cpp rotates them:
    neighbours together, where folders have the two halves of a head."""
    if model.metadata.text("general.architecture") != "llama":
        return {}
    keys = model.metadata.below("llama.")
    heads = keys.integer("attention.head_count")
    return {"attn_q": heads, "attn_k": keys.integer("attention.head_count_kv", heads)}


class GgufFile(TensorFile):
    """Its places are those of `header`, which was found to fit the file."""

    full_dtypes = tuple(kind.name for kind in TENSOR_TYPES.values())

    def __init__(self, header: GgufHeader, rotated: Mapping[str, int]) -> None:
        self._header = header
        self._rotated = rotated
        self._interleaved: dict[str, int] = {}
        self._kinds: dict[str, TensorType] = {}
        super().__init__(header.path)

    def _read_places(self) -> dict[str, TensorPlace]:
        try:
            import gguf.quants  # noqa: F401
        except ImportError as error:
            raise CheckpointError(
                f"{self.path}: needs the package gguf: pip install 'lengthwise[gguf]'"
            ) from error
        return dict(self._places())

    def _places(self) -> Iterator[tuple[str, TensorPlace]]:
        for stored, tensor in self._header.tensors.items():
            if stored == ROPE_FACTORS:
                continue  # of the configuration
            name, kind = _OUTSIDE.get(stored, stored), ""
            if (layer := _LAYER.fullmatch(stored)) and layer[2] in _IN_LAYER:
                kind = layer[2]
                name = f"model.layers.{layer[1]}.{_IN_LAYER[kind]}.{layer[3]}"
            self._kinds[name] = tensor.type
            if kind in self._rotated:
                self._interleaved[name] = self._rotated[kind]
            if len(tensor.shape) < 2 and tensor.type.block_weights > 1:
                raise UnsupportedModel(
                    f"{self.path}: tensor {stored} is a vector of type {tensor.type.name}, expected"
                    " F32, F16 or BF16"
                )
            yield (
                name,
                TensorPlace(
                    dtype=tensor.type.name, shape=tensor.shape, begin=tensor.begin, end=tensor.end
                ),
            )

    def can_map(self, name: str, dtype: torch.dtype) -> bool:
        return name not in self._interleaved and super().can_map(name, dtype)

    def kind(self, name: str) -> TensorType:
        """Of a tensor, as it is stored."""
        return self._kinds[name]

    def read_rows(self, name: str, kept: range) -> Iterator[torch.Tensor]:
        place = self.places[name]
        for rows in self.raw_rows(name, kept):
            yield _numbers(place.dtype, rows.numpy()).view(len(rows), *place.shape[1:])

    def raw_rows(self, name: str, kept: range) -> Iterator[torch.Tensor]:
        """As `read_rows`, uint8 [rows, bytes of a row]."""
        place = self.places[name]
        raw = self.rows(place.begin, place.end, torch.uint8).view(place.shape[0], -1)
        order = self._order(name)
        count = max(1, _PIECE_WEIGHTS * place.shape[0] // max(1, _size(place.shape)))
        for at in range(kept.start, kept.stop, count):
            stop = min(at + count, kept.stop)
            rows = raw[at:stop] if order is None else raw[order[at:stop]]
            yield rows
            # Of rows in another order some are read again, which is no error.
            begin = place.begin + at * place.row_bytes
            self.let_go(begin, begin + len(rows) * place.row_bytes)

    def _order(self, name: str) -> torch.Tensor | None:
        """Which row of the file each row is; None: the same."""
        num_rows = self.places[name].shape[0]
        heads = self._interleaved.get(name)
        if heads is None:
            return None
        if num_rows % (2 * heads):
            raise CheckpointError(
                f"{self.path}: tensor {name} has {num_rows} rows for {heads} heads"
            )
        return torch.arange(num_rows).view(heads, -1, 2).transpose(1, 2).reshape(-1)


def _numbers(kind: str, raw: "np.ndarray[Any, Any]") -> torch.Tensor:
    if kind in DTYPES:
        return torch.from_numpy(raw).view(DTYPES[kind])
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    return torch.from_numpy(dequantize(raw, GGMLQuantizationType[kind]))


def _size(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape))
