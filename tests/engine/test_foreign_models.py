"""Whose code computes a checkpoint, and what is refused in one line before memory is taken."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from harness.foreign.architectures import write_foreign_checkpoint
from harness.foreign.deviations import Computing, prompt, reference_logits
from safetensors.torch import load_file, save_file

from lengthwise_checkpoint.architectures import is_native, read_limits
from lengthwise_checkpoint.config_json import ConfigJson
from lengthwise_checkpoint.errors import CheckpointError, UnsupportedModel
from lengthwise_checkpoint.families import read_config
from lengthwise_engine.errors import DeviceMemoryError, NumericsError
from lengthwise_engine.loaded_model import LoadedModel, check_servable, load_runner
from lengthwise_engine.models.foreign.norm import ForeignNorm, put_norms
from lengthwise_engine.runner.base import SequenceChunk
from lengthwise_engine.runner.sampler import SampledToken, SamplingParameters

Generate = Callable[..., list[list[SampledToken]]]
WEIGHTS = "model.safetensors"


@pytest.fixture
def gpt2(tmp_path: Path) -> Path:
    return write_foreign_checkpoint(tmp_path / "gpt2", "gpt2")


def _config(folder: Path, of: str, changes: dict[str, Any]) -> Path:
    """A folder with a config.json alone, as transformers writes it but for the changes."""
    from transformers import AutoConfig

    folder.mkdir()
    values = AutoConfig.for_model(of).to_diff_dict()
    (folder / "config.json").write_text(json.dumps({**values, **changes}))
    return folder


def _load(folder: Path, **settings: Any) -> LoadedModel:
    return load_runner(folder, device="cpu", **{"num_blocks": 64, **settings})


@pytest.mark.parametrize(
    ("model_type", "changes", "message"),
    [
        ("t5", {}, "is_encoder_decoder: encoder-decoders are not served"),
        ("mamba", {"num_hidden_layers": 2}, "keep state"),
        ("bamba", {"num_hidden_layers": 2}, "keep state"),
        (
            "lfm2",
            {"layer_types": ["conv", "full_attention"]},
            "layer_types: layers of kind conv are not served",
        ),
        ("qwen3_next", {}, "layer_types: layers of kind linear_attention are not served"),
        ("bert", {"is_decoder": False}, "see other tokens than all before"),
        ("gpt2", {"quantization_config": {"quant_method": "gptq"}}, "full weights alone"),
        ("gpt2", {"architectures": ["GPT2ForSequenceClassification"]}, "GPT2ForSequence"),
        ("gpt2", {"model_type": "nonsense"}, "has no language model 'nonsense'"),
        ("gpt2", {"model_type": "own", "auto_map": {"a": "b.C"}}, "a checkpoint is not run"),
        ("gpt2", {"n_head": 7}, "transformers cannot build it"),
        ("llama", {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "'dynamic'"),
        ("llama", {"hidden_act": "nonsense"}, "transformers cannot build it"),
    ],
)
def test_what_cannot_be_served_is_refused_without_weights(
    model_type: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = _config(tmp_path / "model", model_type, changes)
    with pytest.raises(UnsupportedModel, match=message) as caught:
        check_servable(folder, "auto")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{folder / 'config.json'}: ")


def test_without_the_extra_it_is_named(gpt2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UnsupportedModel, match=r"pip install 'lengthwise\[transformers\]'"):
        _load(gpt2)


def test_the_backend_that_is_asked_for_is_the_one(
    gpt2: Path, make_checkpoint: Callable[..., Path]
) -> None:
    llama = read_config(make_checkpoint("llama"))
    assert is_native(llama)
    assert not is_native(llama, "transformers")
    assert not is_native(read_config(gpt2))
    with pytest.raises(UnsupportedModel, match="'gpt2' is not supported; supported are llama"):
        is_native(read_config(gpt2), "native")


def test_what_is_beyond_our_code_in_a_family_of_ours_is_computed_by_transformers(
    tmp_path: Path,
) -> None:
    config = ConfigJson.read(
        _config(tmp_path / "model", "llama", {"hidden_act": "gelu"}) / "config.json"
    )
    assert not is_native(config)
    assert read_limits(config).context_length == 2048


@pytest.mark.parametrize("variant", ["llama-gqa-tied", "mistral-window", "qwen3-yarn"])
def test_both_backends_say_the_same(
    variant: str, make_checkpoint: Callable[..., Path], generate: Generate
) -> None:
    folder = make_checkpoint(variant)
    prompts = [prompt(length) for length in (1, 40, 90)]

    def tokens(backend: str) -> list[list[int]]:
        loaded = _load(folder, model_backend=backend)
        generated = generate(loaded, prompts, 12, chunk_sizes=[1, 16, 37])
        return [[token.token_id for token in each] for each in generated]

    assert tokens("transformers") == tokens("native")


def test_layers_are_announced_once_they_are_in_the_cache(gpt2: Path, generate: Generate) -> None:
    loaded = _load(gpt2)
    before, seen = loaded.cache.tensor.clone(), []

    def saw(layer: int) -> None:
        changed = (loaded.cache.tensor != before).flatten(1).any(-1)
        seen.append((layer, changed.tolist()))

    chunk = SequenceChunk(token_ids=prompt(20), start=0, block_ids=[5, 9], sampling=None)
    assert loaded.runner.run([chunk], on_layer=saw) == [None]
    assert seen == [(0, [True, False]), (1, [True, True])]


def test_long_rotary_frequencies_are_those_of_the_whole_context(tmp_path: Path) -> None:
    """transformers changes to them beyond the trained length; a prompt there has its logits."""
    factors = {"short_factor": [1.0] * 6, "long_factor": [1.5, 2.0, 2.5, 3.0, 4.0, 5.0]}
    folder = write_foreign_checkpoint(
        tmp_path / "phi3",
        "phi3",
        original_max_position_embeddings=32,
        rope_parameters={"rope_type": "longrope", "rope_theta": 10000.0, **factors},
    )
    tokens = prompt(60)
    computing = Computing(folder)
    got = [
        computing.logits((tokens[:20], 0, [1, 2, 3, 4]))[:0],
        computing.logits((tokens, 20, [1, 2, 3, 4])),
    ]
    expected = reference_logits(folder, tokens)
    torch.testing.assert_close(torch.cat(got), expected, atol=1e-4, rtol=0)


def _drop(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["transformer.h.1.mlp.c_fc.weight"]


def _add(tensors: dict[str, torch.Tensor]) -> None:
    tensors["transformer.h.7.mlp.c_fc.weight"] = torch.zeros(2)


def _reshape(tensors: dict[str, torch.Tensor]) -> None:
    tensors["transformer.ln_f.weight"] = torch.zeros(47)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_drop, r"1 tensors are missing, such as .*h\.1\.mlp\.c_fc\.weight"),
        (_add, r"1 tensors are not of this architecture, such as .*h\.7"),
        (_reshape, r"ln_f\.weight"),
    ],
)
def test_weights_that_do_not_fit_are_named(
    spoil: Callable[[dict[str, torch.Tensor]], None], message: str, gpt2: Path
) -> None:
    tensors = load_file(gpt2 / WEIGHTS)
    spoil(tensors)
    save_file(tensors, gpt2 / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=message) as caught:
        _load(gpt2)
    assert "\n" not in str(caught.value)


def test_half_a_file_is_told_as_such(gpt2: Path) -> None:
    (gpt2 / WEIGHTS).write_bytes((gpt2 / WEIGHTS).read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: not a whole safetensors file"):
        _load(gpt2)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"tensor_parallel_size": 2}, UnsupportedModel, "needs tensor_parallel_size 1"),
        ({"quantization": "fp8"}, UnsupportedModel, "needs quantization none"),
        ({"num_blocks": None, "memory_bytes": 1 << 20}, DeviceMemoryError, "leaves no KV block"),
    ],
)
def test_settings_that_transformers_models_cannot_have_are_refused_before_weights_are_read(
    settings: dict[str, Any], error: type[Exception], message: str, gpt2: Path
) -> None:
    (gpt2 / WEIGHTS).unlink()
    with pytest.raises(error, match=message):
        _load(gpt2, **settings)


@pytest.mark.slow
def test_invariant_models_say_the_same_to_the_bit_however_prompts_are_cut(
    gpt2: Path, generate: Generate
) -> None:
    loaded = _load(gpt2, numerics="invariant")
    assert len(loaded.numerics) == 16
    sampling = [SamplingParameters(temperature=0.0, top_logprobs=3)] * 3
    prompts = [prompt(length) for length in (1, 40, 90)]
    whole = generate(loaded, prompts, 8, samplings=sampling)
    assert generate(loaded, prompts, 8, samplings=sampling, chunk_sizes=[1, 7, 33]) == whole
    assert [generate(loaded, [each], 8, samplings=sampling[:1])[0] for each in prompts] == whole


def test_numerics_that_cannot_be_had_are_refused_or_fast(tmp_path: Path) -> None:
    folder = write_foreign_checkpoint(tmp_path / "gemma2", "gemma2")
    with pytest.raises(NumericsError, match="soft caps and sinks are not invariant"):
        _load(folder, numerics="invariant")
    assert _load(folder, numerics="auto").numerics == ""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("model_type", "is_ours"), [("llama", True), ("gemma", False)])
@torch.inference_mode()
def test_norms_become_ours_where_these_compute_the_same(
    model_type: str, is_ours: bool, dtype: torch.dtype
) -> None:
    """Gemma's weights are what is added to 1."""
    from transformers import AutoConfig, AutoModelForCausalLM

    make: Any = AutoModelForCausalLM.from_config
    size = {"hidden_size": 32, "num_hidden_layers": 1, "vocab_size": 64, "head_dim": 16}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    model = make(AutoConfig.for_model(model_type, **size, **heads), dtype=dtype)
    norms = [name for name, module in model.named_modules() if "RMSNorm" in str(type(module))]
    assert len(norms) == 3
    tokens = torch.arange(7).unsqueeze(0)
    expected = model(input_ids=tokens).logits
    put_norms(model)
    assert {type(model.get_submodule(name)) is ForeignNorm for name in norms} == {is_ours}
    torch.testing.assert_close(model(input_ids=tokens).logits, expected)


def test_a_model_that_mixes_the_tokens_of_a_step_is_found_out(
    gpt2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.models.gpt2.modeling_gpt2 import GPT2MLP

    plain: Any = GPT2MLP.forward

    def mixing(self: Any, hidden: torch.Tensor) -> Any:
        return plain(self, hidden + hidden.roll(1, dims=1))

    monkeypatch.setattr(GPT2MLP, "forward", mixing)
    with pytest.raises(UnsupportedModel, match="does not keep sequences of a step apart"):
        _load(gpt2)


def test_workers_of_different_code_share_no_kv(make_checkpoint: Callable[..., Path]) -> None:
    folder = make_checkpoint("llama")
    backends: Sequence[str] = ("native", "transformers", "transformers")
    ours, theirs, again = (_load(folder, model_backend=each).fingerprint for each in backends)
    assert ours != theirs == again
