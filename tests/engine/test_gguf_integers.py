"""GGUF files whose integers are computed with as they are stored, with `quantization`."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine.next_token import load, logprobs
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from harness.gguf.files import write_file, write_gguf

from lengthwise_checkpoint.errors import UnsupportedModel
from lengthwise_engine.models.decoder_loader import load_model, read_spec
from lengthwise_engine.models.integers.linear import IntegerLinear
from lengthwise_engine.models.shard import ModelShard
from lengthwise_engine.models.weight_files import TensorPart, WeightFiles
from lengthwise_engine.models.weights import DenseLayerWeights, load_weights
from lengthwise_engine.runner.memory_plan import weight_bytes

CPU = torch.device("cpu")
KEPT = {"Q8_0": 8, "Q4_0": 4, "Q4_1": 4, "Q4_K": 4}
NAME = "model.layers.0.mlp.up_proj.weight"


def write_matrix(path: Path, kind: str, rows: int, columns: int) -> "np.ndarray[Any, Any]":
    """A file with one of any integers, and scales below 2; returns its numbers."""
    block, size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    drawn = np.random.default_rng(1).integers(0, 256, (rows, columns // block, size), np.uint8)
    for place in (1, 3) if kind in ("Q4_1", "Q4_K") else (1,):
        drawn[..., place] &= 63
    raw = drawn.reshape(rows, -1)
    metadata = {
        "general.architecture": "llama",
        "llama.embedding_length": 32,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
    }
    embedding = ("token_embd.weight", np.zeros((4, 32), np.float32), "F32")
    write_file(path, metadata, [embedding, ("blk.0.ffn_up.weight", raw, kind)])
    numbers: np.ndarray[Any, Any] = dequantize(raw, GGMLQuantizationType[kind])
    return numbers


@pytest.mark.parametrize("kind", KEPT)
def test_integers_scales_and_offsets_are_those_of_the_package_gguf(
    kind: str, tmp_path: Path
) -> None:
    """Of 900 rows, in pieces and in part, to the bit."""
    expected = torch.from_numpy(write_matrix(tmp_path / "model.gguf", kind, 900, 2560))
    files = WeightFiles(tmp_path / "model.gguf")
    for rows, columns in ((range(900), range(2560)), (range(70, 290), range(64, 1600))):
        part = TensorPart(NAME, (900, 2560), (rows, columns))
        assert files.kept_bits(part) == KEPT[kind]
        codes = files.read_codes(part)
        assert int(codes.values.max()) == (1 << KEPT[kind]) - 1
        groups = codes.values.float().view(len(rows), -1, 32)
        got = groups * codes.scales.unsqueeze(2) + codes.offsets.unsqueeze(2)
        assert torch.equal(
            got.flatten(1), expected[rows.start : rows.stop, columns.start : columns.stop]
        )
    for columns in (range(16, 2560), range(2500)):
        assert files.kept_bits(TensorPart(NAME, (900, 2560), (range(900), columns))) == 0


@pytest.mark.parametrize("kind", KEPT)
def test_products_are_those_of_the_numbers(kind: str, tmp_path: Path) -> None:
    """In which a scale and an offset of a block may all but cancel."""
    expected = torch.from_numpy(write_matrix(tmp_path / "model.gguf", kind, 48, 512))
    codes = WeightFiles(tmp_path / "model.gguf").read_codes(TensorPart.whole(NAME, (48, 512)))
    got = IntegerLinear.of(codes, None, torch.float32)(torch.eye(512)).T
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6 * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("kind", "quantization"),
    [("Q8_0", "int8"), ("Q4_0", "int8"), ("Q4_0", "int4"), ("Q4_1", "int4")],
)
def test_a_file_is_computed_with_as_its_full_weights_are(
    kind: str,
    quantization: str,
    make_checkpoint: Callable[..., Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Those of attention, with heads in another order than in the file, and of the MLP."""
    folder = make_checkpoint("llama-gqa-tied", intermediate_size=128)
    path = write_gguf(folder, tmp_path / "model.gguf", kind)
    caplog.set_level(logging.INFO, "lengthwise_engine")
    full = load(path, dtype=torch.float32)
    assert f"become float32; quantization: int{KEPT[kind]} keeps them" in caplog.text
    kept = load(path, quantization, dtype=torch.float32)
    assert "the integers of 12 of 12 matrices are kept as the file has them" in caplog.text
    for length in (1, 40):
        torch.testing.assert_close(
            logprobs(kept, length), logprobs(full, length), atol=1e-3, rtol=0
        )
    assert kept.fingerprint != full.fingerprint


def test_more_bits_than_are_asked_for_are_rounded(
    make_checkpoint: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_checkpoint("llama-gqa-tied", intermediate_size=128)
    caplog.set_level(logging.INFO, "lengthwise_engine")
    load_model(write_gguf(folder, tmp_path / "model.gguf", "Q8_0"), CPU, quantization="int4")
    assert "the integers of 0 of 12 matrices are kept" in caplog.text
    assert "the others rounded to int4" in caplog.text


@pytest.mark.parametrize("size", [128, 112])
def test_ranks_keep_what_they_cut_no_block_of(
    size: int, make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    """Half of 112 inputs is not whole blocks, and neither are all: the file has them in full."""
    folder = make_checkpoint("llama-gqa-tied", intermediate_size=size)
    files = WeightFiles(write_gguf(folder, tmp_path / "model.gguf", "Q4_0"))
    spec = read_spec(files.folder, "int4")
    whole, *ranks = (
        load_weights(
            files, ModelShard(whole=spec, rank=rank, size=count), device=CPU, dtype=torch.float32
        ).layers[1]
        for rank, count in ((0, 1), (0, 2), (1, 2))
    )
    assert isinstance(whole, DenseLayerWeights)
    x = torch.randn(3, size)
    down = [
        rank.down(half)
        for rank, half in zip(ranks, x.chunk(2, 1), strict=True)
        if isinstance(rank, DenseLayerWeights)
    ]
    expected = whole.down(x)
    difference = (sum(down) - expected).norm() / expected.norm()
    assert difference < (1e-5 if size == 128 else 0.2)


@pytest.mark.parametrize(("kind", "quantization"), [("Q8_0", "int8"), ("Q4_1", "int8")])
def test_memory_is_counted_before_it_is_taken(
    kind: str, quantization: Any, make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_checkpoint("llama-gqa-tied", intermediate_size=128)
    path = write_gguf(folder, tmp_path / "model.gguf", kind)
    model = load_model(path, CPU, torch.float32, quantization)
    taken = sum(
        getattr(layer, each).num_bytes
        for layer in model.weights.layers
        for each in ("qkv", "output", "gate_up", "down")
    )
    counted = weight_bytes(ModelShard(whole=model.spec), "cpu", "float32")
    full = weight_bytes(ModelShard(whole=read_spec(path)), "cpu", "float32")
    assert taken < counted < full


def test_a_vector_in_blocks_is_one_line(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    metadata = {"general.architecture": "llama", "llama.embedding_length": 32}
    metadata |= {"llama.attention.head_count": 4}
    embedding = ("token_embd.weight", np.zeros((4, 32), np.float32), "F32")
    norm = ("blk.0.attn_norm.weight", np.zeros((1, 34), np.uint8)[0], "Q8_0")
    write_file(tmp_path / "model.gguf", metadata, [embedding, norm])
    with pytest.raises(UnsupportedModel, match=r"attn_norm.weight is a vector of type Q8_0"):
        WeightFiles(tmp_path / "model.gguf")
