"""LoRA adapters against transformers' model with the adapter's weights added to its own."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from engine.random_schedule import (
    NUM_BLOCKS,
    CachedRunner,
    alone,
    in_crowds,
    random_requests,
)
from harness.lora.adapters import PREFIX, best_tokens, merged, write_adapter
from safetensors.torch import load_file, save_file

from lengthwise_checkpoint.errors import CheckpointError, UnsupportedModel
from lengthwise_engine.loaded_model import LoadedModel, load_runner
from lengthwise_engine.models.adapters.files import read_adapter
from lengthwise_engine.models.adapters.room import AdapterRoom, AdapterSettings
from lengthwise_engine.models.decoder_loader import read_spec
from lengthwise_engine.models.shard import ModelShard
from lengthwise_engine.runner.base import SequenceChunk
from lengthwise_engine.runner.sampler import SampledToken, SamplingParameters, SamplingState
from lengthwise_engine.toy.checkpoint import write_toy_checkpoint

Generate = Callable[..., list[list[SampledToken]]]
Folders = dict[str, Path]
Change = Callable[[dict[str, torch.Tensor]], object]

VARIANTS = ("llama-biases", "qwen2-some-windows", "qwen3")


@pytest.fixture(scope="module")
def make_adapters(
    make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, Folders]]:
    """A checkpoint and three adapters of it, of different ranks and targets."""

    def make(variant: str) -> tuple[Path, Folders]:
        checkpoint = make_checkpoint(variant)
        folder = tmp_path_factory.mktemp("adapters")
        return checkpoint, {
            "all": write_adapter(folder / "all", checkpoint, seed=1),
            "some": write_adapter(
                folder / "some", checkpoint, seed=2, rank=8, targets=("q_proj", "v_proj")
            ),
            "stable": write_adapter(
                folder / "stable",
                checkpoint,
                seed=3,
                rank=2,
                targets=("o_proj", "down_proj"),
                dtype=torch.bfloat16,
                use_rslora=True,
            ),
        }

    return make


def _load(checkpoint: Path, adapters: Folders, **options: Any) -> LoadedModel:
    options = {"dtype": torch.float32, "num_blocks": 160, **options}
    settings = AdapterSettings(folders=adapters)
    return load_runner(checkpoint, device="cpu", adapters=settings, **options)


def _prompt(length: int) -> list[int]:
    return torch.randint(320, (length,), generator=torch.Generator().manual_seed(length)).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_batch_of_several_adapters_and_the_base_is_what_each_merged_model_says(
    variant: str, make_adapters: Callable[[str], tuple[Path, Folders]], generate: Generate
) -> None:
    """In whole prompts, chunks and decode rows that share steps."""
    checkpoint, folders = make_adapters(variant)
    loaded = _load(checkpoint, folders)
    assert loaded.adapters is not None
    assert [file.key.partition("@")[0] for file in loaded.adapters.files] == list(folders)
    adapters = [None, 0, 1, 2, 0, None]
    prompts = [_prompt(length) for length in (40, 40, 40, 40, 90, 7)]
    sampling = SamplingParameters(temperature=0.0, top_logprobs=0)
    answers = generate(
        loaded,
        prompts,
        8,
        adapters=adapters,
        chunk_sizes=[40, 16, 7, 40, 33, 7],
        samplings=[sampling] * len(prompts),
    )
    texts = [[token.token_id for token in answer] for answer in answers]
    models: dict[int | None, Any] = {None: merged(checkpoint, None)}
    models |= {slot: merged(checkpoint, folder) for slot, folder in enumerate(folders.values())}
    for prompt, adapter, answer, text in zip(prompts, adapters, answers, texts, strict=True):
        with torch.inference_mode():
            logits = models[adapter](torch.tensor([prompt + text])).logits[0, len(prompt) - 1 : -1]
        assert text == logits.argmax(-1).tolist()
        expected = logits.log_softmax(-1).max(-1).values
        got = torch.tensor([token.logprob for token in answer])
        torch.testing.assert_close(got, expected, atol=1e-3, rtol=0)
    assert len({tuple(text) for text in texts[:4]}) == 4, "the adapters change nothing"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "dtype", "quantization"),
    [
        ("qwen3", torch.float32, "none"),
        ("llama-biases", torch.bfloat16, "none"),
        ("qwen2-some-windows", torch.bfloat16, "int4"),
    ],
)
def test_an_invariant_answer_is_the_same_in_any_batch_of_adapters(
    variant: str,
    dtype: torch.dtype,
    quantization: str,
    make_adapters: Callable[[str], tuple[Path, Folders]],
) -> None:
    checkpoint, folders = make_adapters(variant)
    options = {"dtype": dtype, "quantization": quantization, "numerics": "invariant"}
    models = [_load(checkpoint, folders, num_blocks=NUM_BLOCKS, **options) for _ in range(2)]
    plain = _load(checkpoint, {}, num_blocks=NUM_BLOCKS, **options)
    assert models[0].fingerprint == plain.fingerprint, "the base's is not the adapters'"
    workers = [CachedRunner(model.runner, model.cache) for model in models]
    requests = [
        replace(request, adapter=(None, 0, 1, 2)[index % 4])
        for index, request in enumerate(random_requests(12, models[0].spec.vocab_size, seed=3))
    ]
    assert in_crowds(workers, requests, seed=3) == [alone(workers[0], each) for each in requests]
    without = CachedRunner(plain.runner, plain.cache)
    for request in requests[::4]:
        assert alone(without, request) == alone(workers[0], request)


def test_a_base_row_beside_adapters_is_not_touched(
    make_adapters: Callable[[str], tuple[Path, Folders]],
) -> None:
    checkpoint, folders = make_adapters("qwen3")
    loaded = _load(checkpoint, folders)
    prompts = [_prompt(length) for length in (20, 33, 20)]

    def step(adapters: list[int | None]) -> list[SampledToken | None]:
        chunks = []
        for place, (prompt, adapter) in enumerate(zip(prompts, adapters, strict=True)):
            state = SamplingState(
                sampling=SamplingParameters(temperature=0.0, top_logprobs=3),
                token_ids=prompt,
                num_prompt_tokens=len(prompt),
            )
            blocks = range(10 * place, 10 * place + 10)
            chunk = SequenceChunk(token_ids=prompt, start=0, block_ids=blocks, sampling=state)
            chunks.append(replace(chunk, adapter=adapter))
        return loaded.runner.run(chunks)

    base, mixed = step([None, None, None]), step([None, 1, 0])
    assert mixed[0] == base[0]
    assert mixed[1] != base[1]
    assert mixed[2] != base[2]


def test_greedy_text_of_one_adapter_is_the_merged_models(
    make_adapters: Callable[[str], tuple[Path, Folders]], generate: Generate
) -> None:
    checkpoint, folders = make_adapters("qwen2-some-windows")
    (answer,) = generate(_load(checkpoint, folders), [_prompt(30)], 6, adapters=[1])
    expected = best_tokens(merged(checkpoint, folders["some"]), _prompt(30), 6)
    assert [token.token_id for token in answer] == expected


def test_the_same_weights_under_one_name_have_one_key(
    make_adapters: Callable[[str], tuple[Path, Folders]], tmp_path: Path
) -> None:
    checkpoint, folders = make_adapters("qwen3")
    spec = read_spec(checkpoint)

    def key(folder: Path) -> str:
        return read_adapter("name", folder, spec).key

    copied = Path(shutil.copytree(folders["all"], tmp_path / "copy"))
    stronger = write_adapter(tmp_path / "stronger", checkpoint, seed=1, lora_alpha=9)
    assert key(copied) == key(folders["all"])
    assert len({key(folders["all"]), key(folders["some"]), key(stronger)}) == 3


def test_the_memory_of_adapters_is_planned_to_the_byte(
    make_adapters: Callable[[str], tuple[Path, Folders]], tmp_path: Path
) -> None:
    checkpoint, folders = make_adapters("qwen3")
    shard = ModelShard(whole=read_spec(checkpoint))
    for settings in (
        AdapterSettings(folders=folders),
        AdapterSettings(folders=folders, places=2),
        AdapterSettings(places=5, other_rank=16),
    ):
        room = AdapterRoom(settings, shard, torch.device("cpu"), torch.bfloat16)
        assert room.num_bytes == sum(each.nbytes for each in room.open().tensors()) > 0
    with pytest.raises(UnsupportedModel, match="got r 32, expected at most 16"):
        room.read("large", write_adapter(tmp_path / "large", checkpoint, seed=5, rank=32))


def _changed(adapter: Path, folder: Path, change: Change) -> Path:
    """A copy whose tensors were changed."""
    copy = Path(shutil.copytree(adapter, folder / "changed"))
    tensors = load_file(copy / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, copy / "adapter_model.safetensors")
    return copy


LAYER = f"{PREFIX}model.layers.0."


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda t: t.update({f"{LAYER}self_attn.q_proj.lora_A.weight": torch.zeros(4, 65)}),
            r"shape \(4, 65\), the model and r 4 imply \(4, 64\): the adapter is of another base",
        ),
        (
            lambda t: t.update({f"{LAYER}mlp.up_proj.lora_B.weight": torch.zeros(112, 5)}),
            r"shape \(112, 5\), the model and r 4 imply \(112, 4\)",
        ),
        (
            lambda t: t.pop(f"{LAYER}self_attn.v_proj.lora_B.weight"),
            r"v_proj\.lora_B\.weight is missing",
        ),
        (
            lambda t: t.update(
                {LAYER.replace("0", "3") + "mlp.up_proj.lora_A.weight": torch.zeros(4, 64)}
            ),
            "of layer 3, the model has 3: the adapter is of another base model",
        ),
        (
            lambda t: t.update({f"{PREFIX}lm_head.lora_A.weight": torch.zeros(4, 64)}),
            "lm_head.lora_A.weight is no lora_A or lora_B of a layer's",
        ),
        (
            lambda t: t.update({f"{LAYER}mlp.experts.0.up_proj.lora_A.weight": torch.zeros(1)}),
            "is no lora_A or lora_B of a layer's",
        ),
        (
            lambda t: t.update(
                {f"{LAYER}mlp.up_proj.lora_A.weight": torch.zeros(4, 64, dtype=torch.int8)}
            ),
            "has type I8; supported are F32, BF16, F16",
        ),
        (lambda t: t.clear(), "has no tensors"),
    ],
)
def test_an_adapter_of_another_model_is_refused_by_the_tensor_that_shows_it(
    change: Change,
    expected: str,
    make_adapters: Callable[[str], tuple[Path, Folders]],
    tmp_path: Path,
) -> None:
    checkpoint, folders = make_adapters("qwen3")
    adapter = _changed(folders["all"], tmp_path, change)
    with pytest.raises(CheckpointError, match=expected):
        _load(checkpoint, {"odd": adapter})


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"quantization": "fp8"}, "cannot be added to projections in FP8"),
        ({"model_backend": "transformers"}, "native models alone, and this one is computed by"),
    ],
)
def test_where_adapters_are_not_computed_they_are_refused(
    options: dict[str, Any],
    expected: str,
    make_adapters: Callable[[str], tuple[Path, Folders]],
) -> None:
    checkpoint, folders = make_adapters("qwen3")
    with pytest.raises(UnsupportedModel, match=expected):
        _load(checkpoint, folders, **options)


def test_a_mixture_of_experts_has_no_adapters(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    """Told before anything is read of either."""
    checkpoint = make_checkpoint("mixtral")
    with pytest.raises(UnsupportedModel, match="cannot be added to a mixture of experts"):
        _load(checkpoint, {"one": tmp_path / "nowhere"})


def test_the_toy_has_nothing_to_adapt(tmp_path: Path) -> None:
    folder = write_toy_checkpoint(tmp_path / "toy")
    with pytest.raises(UnsupportedModel, match="the toy model has no projections; serve it with"):
        _load(folder, {"one": tmp_path})
