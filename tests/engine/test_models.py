"""Real models against transformers, in float32: the numbers and the text."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lengthwise_engine.kv.layout import KVLayout
from lengthwise_engine.loaded_model import LoadedModel, load_runner
from lengthwise_engine.models.decoder import Decoder
from lengthwise_engine.models.decoder_loader import load_model
from lengthwise_engine.models.step import StepTensors
from lengthwise_engine.runner.base import SequenceChunk
from lengthwise_engine.runner.sampler import SampledToken, SamplingParameters, SamplingState
from lengthwise_engine.runner.step_tensors import lay_out_step
from lengthwise_kernels.staging import to_device

Generate = Callable[..., list[list[SampledToken]]]
LENGTHS = (1, 2, 16, 17, 130, 600)
BLOCKS_EACH = 40


def _reference(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    from transformers import AutoModelForCausalLM

    load: Callable[..., Any] = AutoModelForCausalLM.from_pretrained
    return load(folder, dtype=dtype).eval()


def _prompt(length: int) -> list[int]:
    generator = torch.Generator().manual_seed(length)
    return torch.randint(320, (length,), generator=generator).tolist()


def _load(folder: Path) -> LoadedModel:
    return load_runner(folder, device="cpu", num_blocks=160, kv_memory_bytes=0)


def _whole_prompts() -> list[SequenceChunk]:
    """A step of whole prompts of all LENGTHS, each with blocks of its own."""
    chunks = []
    for row, length in enumerate(LENGTHS):
        prompt = _prompt(length)
        state = SamplingState(
            sampling=SamplingParameters(temperature=0.0), token_ids=prompt, num_prompt_tokens=length
        )
        blocks = range(row * BLOCKS_EACH, (row + 1) * BLOCKS_EACH)
        chunks.append(SequenceChunk(token_ids=prompt, start=0, block_ids=blocks, sampling=state))
    return chunks


def _step_of_whole_prompts(model: Decoder) -> StepTensors:
    layout = lay_out_step(
        _whole_prompts(), windows=model.spec.windows, block_size=16, attention=model.attention
    )
    return StepTensors.bind(layout.form, to_device(layout.arrays, model.device))


def test_logits_of_a_batch_of_mixed_lengths_equal_those_of_transformers(
    any_checkpoint: Path,
) -> None:
    check_logits(any_checkpoint)


def test_linear_scaling_goes_on_beyond_the_trained_length(
    make_checkpoint: Callable[..., Path],
) -> None:
    folder = make_checkpoint("llama-linear", max_position_embeddings=160)
    assert load_model(folder, torch.device("cpu")).spec.context_length == 640
    check_logits(folder)


@torch.inference_mode()
def check_logits(folder: Path) -> None:
    model, reference = load_model(folder, torch.device("cpu")), _reference(folder)
    layout = KVLayout.of(model.spec, block_size=16, dtype="float32")
    cache = torch.zeros(
        layout.num_layers, BLOCKS_EACH * len(LENGTHS), 2, 16, layout.num_kv_heads, layout.head_dim
    )
    step = _step_of_whole_prompts(model)
    got = model.forward(step, cache)
    expected = torch.cat(
        [reference(torch.tensor([_prompt(length)])).logits[:, -1] for length in LENGTHS]
    )
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


def test_greedy_text_equals_that_of_transformers_however_prompts_are_cut(
    any_checkpoint: Path, generate: Generate
) -> None:
    prompts = [_prompt(length) for length in (1, 40, 150, 333)]
    num_tokens = 20
    generated = generate(_load(any_checkpoint), prompts, num_tokens, chunk_sizes=[1, 16, 37, 333])
    texts = [[token.token_id for token in tokens] for tokens in generated]
    reference = _reference(any_checkpoint)
    for prompt, text in zip(prompts, texts, strict=True):
        # Each generated token has to be the reference's best after everything before it.
        with torch.inference_mode():
            logits = reference(torch.tensor([prompt + text])).logits[0, len(prompt) - 1 : -1]
        assert text == logits.argmax(-1).tolist()
    assert all(len(set(text)) > 4 for text in texts), "degenerate text proves little"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@torch.inference_mode()
def test_half_precision_stays_near_the_float32_logits_as_transformers_does(
    dtype: torch.dtype, make_checkpoint: Callable[..., Path]
) -> None:
    folder = make_checkpoint("qwen3")
    prompt = torch.tensor([_prompt(130)])
    exact = _reference(folder)(prompt).logits[0, -1]
    theirs = _reference(folder, dtype)(prompt).logits[0, -1].float()
    model = load_model(folder, torch.device("cpu"), dtype)
    layout = KVLayout.of(model.spec, block_size=16, dtype="float32")
    cache = torch.zeros(
        3, BLOCKS_EACH * len(LENGTHS), 2, 16, layout.num_kv_heads, layout.head_dim, dtype=dtype
    )
    step = _step_of_whole_prompts(model)
    ours = model.forward(step, cache)[LENGTHS.index(130)]
    assert (ours - exact).abs().mean() < 1.5 * (theirs - exact).abs().mean()


def test_what_former_owners_left_in_the_blocks_does_not_matter(
    make_checkpoint: Callable[..., Path], generate: Generate
) -> None:
    loaded = _load(make_checkpoint("qwen2-some-windows"))
    prompts = [_prompt(length) for length in (1, 16, 47, 100)]
    clean = generate(loaded, prompts, 34, chunk_sizes=[1, 16, 9, 100])
    loaded.cache.tensor.fill_(float("nan"))
    assert generate(loaded, prompts, 34, chunk_sizes=[1, 16, 9, 100]) == clean


def test_a_prompt_chunk_that_samples_nothing_computes_no_logits(
    make_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = _load(make_checkpoint("llama"))
    layers: list[int] = []
    chunk = SequenceChunk(token_ids=_prompt(20), start=0, block_ids=[5, 9], sampling=None)
    before = loaded.cache.tensor.clone()

    def saw(layer: int) -> None:
        layers.append(layer)
        changed = (loaded.cache.tensor != before).flatten(2).any(-1)
        assert changed[layer, 5]
        assert changed[layer, 9]
        assert not changed[layer + 1 :].any()

    assert loaded.runner.run([chunk], on_layer=saw) == [None]
    assert layers == [0, 1, 2]
    changed = (loaded.cache.tensor != before).flatten(2).any(-1).any(0)
    assert changed.nonzero().flatten().tolist() == [5, 9]


def test_an_empty_step_is_no_work(make_checkpoint: Callable[..., Path]) -> None:
    assert _load(make_checkpoint("llama")).runner.run([]) == []
