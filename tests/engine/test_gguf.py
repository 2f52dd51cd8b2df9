"""Models of GGUF files against transformers' of the folders that they were made of."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from harness.gguf.files import write_file, write_gguf
from safetensors.torch import load_file

from lengthwise_checkpoint.errors import CheckpointError, UnsupportedModel
from lengthwise_checkpoint.gguf.tensor_types import TENSOR_TYPES
from lengthwise_engine.fingerprint import model_fingerprint
from lengthwise_engine.loaded_model import LoadedModel, load_runner
from lengthwise_engine.models.decoder_loader import load_model
from lengthwise_engine.models.weight_files import TensorPart, WeightFiles
from lengthwise_engine.runner.sampler import SampledToken

Generate = Callable[..., list[list[SampledToken]]]
VARIANTS = (
    *("llama-gqa-tied", "llama-biases", "llama-mqa-head-dim", "llama-linear", "llama-3.1"),
    *("llama-yarn", "mistral", "qwen2", "qwen3", "qwen3-yarn"),
)
CPU = torch.device("cpu")


def read(files: WeightFiles, part: TensorPart) -> torch.Tensor:
    target = torch.empty([len(kept) for kept in part.kept])
    files.copy_into(target, part)
    return target


def load(checkpoint: Path, **settings: Any) -> LoadedModel:
    return load_runner(checkpoint, device="cpu", num_blocks=160, kv_memory_bytes=0, **settings)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_greedy_text_equals_that_of_transformers(
    variant: str, make_checkpoint: Callable[..., Path], generate: Generate, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    folder = make_checkpoint(variant)
    loaded = load(write_gguf(folder, tmp_path / "model.gguf"))
    prompts = [[prompt % 320 for prompt in range(7, 7 + length)] for length in (1, 40, 333)]
    texts = generate(loaded, prompts, 16, chunk_sizes=[16, 37, 333])
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for prompt, tokens in zip(prompts, texts, strict=True):
        text = [token.token_id for token in tokens]
        with torch.inference_mode():
            logits = model(torch.tensor([prompt + text])).logits[0, len(prompt) - 1 : -1]
        assert text == logits.argmax(-1).tolist()


@pytest.mark.parametrize("kind", [kind.name for kind in TENSOR_TYPES.values()])
def test_numbers_of_every_type_are_those_of_the_package_gguf(kind: str, tmp_path: Path) -> None:
    """Of 300 rows, in pieces and in part."""
    ggml = GGMLQuantizationType[kind]
    block, size = GGML_QUANT_SIZES[ggml]
    drawn = np.random.default_rng(1).integers(0, 64, (300, 5120 // block * size), dtype=np.uint8)
    raw = drawn.view({"F32": np.float32, "F16": np.float16}.get(kind, np.uint8))
    embedding = ("token_embd.weight", np.zeros((4, 32), np.float32), "F32")
    path = tmp_path / "model.gguf"
    write_file(path, MINIMAL, [embedding, ("blk.0.ffn_up.weight", raw, kind)])
    expected = torch.from_numpy(dequantize(raw, ggml).astype(np.float32))
    part = TensorPart("model.layers.0.mlp.up_proj.weight", (300, 5120), (range(300), range(5120)))
    files = WeightFiles(path)
    torch.testing.assert_close(read(files, part), expected, rtol=0, atol=0, equal_nan=True)
    some = TensorPart(part.name, part.shape, (range(70, 290), range(64, 4000)))
    torch.testing.assert_close(
        read(files, some), expected[70:290, 64:4000], rtol=0, atol=0, equal_nan=True
    )


MINIMAL = {
    "general.architecture": "llama",
    "llama.embedding_length": 32,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
}


def test_a_rank_reads_its_heads_in_the_order_of_folders(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_checkpoint("llama-gqa-tied")
    files = WeightFiles(write_gguf(folder, tmp_path / "model.gguf"))
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        name = f"model.layers.1.self_attn.{name}.weight"
        stored = load_file(folder / "model.safetensors")[name]
        rows, columns = range(16, 32), range(8, 40)
        got = read(files, TensorPart(name, tuple(stored.shape), (rows, columns)))
        assert torch.equal(got, stored[16:32, 8:40])


def test_parts_are_one_model(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_checkpoint("llama-gqa-tied")
    whole = load(write_gguf(folder, tmp_path / "whole.gguf"))
    first = write_gguf(folder, tmp_path / "model.gguf", parts=3)
    assert load(first).fingerprint == whole.fingerprint
    assert load(write_gguf(folder, tmp_path / "q.gguf", "Q8_0")).fingerprint != whole.fingerprint


def test_what_the_metadata_say_is_part_of_the_fingerprint(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_checkpoint("llama-gqa-tied")
    one = write_gguf(folder, tmp_path / "one.gguf")
    other = write_gguf(folder, tmp_path / "other.gguf", changes={"llama.rope.freq_base": 5e5})
    named = write_gguf(folder, tmp_path / "named.gguf", changes={"general.name": "Another"})
    assert model_fingerprint(one) == model_fingerprint(named) != model_fingerprint(other)


@pytest.mark.parametrize(
    ("kind", "mapped"), [("F32", True), ("BF16", False), ("Q8_0", False)], ids=str
)
def test_what_is_stored_as_it_is_computed_is_mapped(
    kind: str, mapped: bool, make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    path = write_gguf(make_checkpoint("llama-gqa-tied"), tmp_path / "model.gguf", kind)
    files = WeightFiles(path)
    part = TensorPart.whole("model.layers.0.mlp.up_proj.weight", (112, 64))
    assert (files.map([part], torch.float32) is not None) == mapped
    query = TensorPart.whole("model.layers.0.self_attn.q_proj.weight", (64, 64))
    assert files.map([query], torch.float32) is None


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"model_backend": "transformers"}, "computed by transformers' code"),
        ({"quantization": "fp8"}, None),
        ({"tensor_parallel_size": 3}, "model.gguf|heads|ranks"),
    ],
    ids=str,
)
def test_settings_hold_for_gguf_as_for_folders(
    settings: dict[str, Any], told: str | None, make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    path = write_gguf(make_checkpoint("llama-gqa-tied"), tmp_path / "model.gguf")
    if told is None:
        assert load(path, **settings).spec.model_type == "llama"
    else:
        with pytest.raises(UnsupportedModel, match=told):
            load(path, **settings)


def test_tensors_that_do_not_belong_are_refused(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_checkpoint("llama-gqa-tied")
    path = write_gguf(folder, tmp_path / "less.gguf", changes={"llama.block_count": 2})
    with pytest.raises(CheckpointError, match=r"9 tensors that .* such as model\.layers\.2\."):
        load_model(path, CPU)
    path = write_gguf(folder, tmp_path / "more.gguf", changes={"llama.block_count": 4})
    with pytest.raises(CheckpointError, match=r"tensor model\.layers\.3\..* is missing"):
        load_model(path, CPU)


def test_without_the_package_gguf_one_line_says_how_to_install_it(
    make_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_gguf(make_checkpoint("llama-gqa-tied"), tmp_path / "model.gguf")
    monkeypatch.setitem(sys.modules, "gguf.quants", None)
    with pytest.raises(CheckpointError, match=r"pip install 'lengthwise\[gguf\]'"):
        load_model(path, CPU)


@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_what_was_read_is_rounded_where_that_is_asked_for(
    quantization: str, make_checkpoint: Callable[..., Path], tmp_path: Path, generate: Generate
) -> None:
    """As the same weights of a folder are."""
    folder = make_checkpoint("llama-gqa-tied", intermediate_size=128)
    path = write_gguf(folder, tmp_path / "model.gguf")
    prompt = list(range(30))
    of_file, of_folder = (
        [
            token.token_id
            for token in generate(load(each, quantization=quantization), [prompt], 8)[0]
        ]
        for each in (path, folder)
    )
    assert of_file == of_folder
