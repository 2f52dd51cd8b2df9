"""Models without a checkpoint, their costs, and the engine's part of `make gpu-check` in small."""

from dataclasses import replace

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")
from gpu.against_transformers import transformers, twin_of
from gpu.engine import engine_tasks, peak_of
from gpu.scale import TINY
from gpu.task import Deadline
from random_models.engines import Engine, Engines
from random_models.generate import generate, random_prompts
from random_models.models import (
    SHAPES,
    head_parameters,
    prefill_flops,
    projection_parameters,
    spec_of,
    step_bytes,
)


@pytest.fixture(scope="module")
def engine() -> Engine:
    torch.set_num_threads(1)
    return Engines(TINY.shapes, TINY.device, TINY.dtype).get("tiny", 40)


def test_weights_are_counted_as_they_are(engine: Engine) -> None:
    spec = engine.model.decoder.spec
    matrices = {
        name: tensor.numel() for name, tensor in engine.model.tensors.items() if tensor.dim() == 2
    }
    vocabulary = sum(matrices.pop(name) for name in ("model.embed_tokens.weight", "lm_head.weight"))
    assert projection_parameters(spec) == sum(matrices.values())
    assert head_parameters(spec) * 2 == vocabulary


def test_operations_are_those_of_each_token_and_each_pair_it_attends_to(engine: Engine) -> None:
    spec = engine.model.decoder.spec
    pairs = sum(1 for query in range(5) for key in range(5) if key <= query)
    # Two layers of four heads of 8: a product and a sum for scores, and again for values.
    attention = 2 * 4 * 8 * 4 * pairs
    expected = 2 * projection_parameters(spec) * 5 + attention + 2 * head_parameters(spec)
    assert prefill_flops(spec, [5]) == expected
    assert prefill_flops(spec, [5, 5]) == 2 * expected
    weights = 2 * (projection_parameters(spec) + head_parameters(spec))
    # Keys and values of two layers with two heads of 8, in two bytes.
    assert step_bytes(spec, 7, 2) == weights + 7 * 2 * 2 * 2 * 8 * 2


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("Qwen2.5-0.5B", 0.49e9), ("Qwen2.5-7B", 7.61e9), ("Qwen2.5-32B", 32.5e9)],
)
def test_shapes_have_as_many_parameters_as_their_cards_say(name: str, parameters: float) -> None:
    spec = spec_of(SHAPES[name])
    tables = 1 if spec.tied_embeddings else 2
    counted = projection_parameters(spec) + tables * head_parameters(spec)
    assert counted == pytest.approx(parameters, rel=0.02)


def test_in_fp8_projections_take_a_byte_and_half_the_time(engine: Engine) -> None:
    full = engine.model.decoder.spec
    fp8 = replace(full, projections="fp8")
    assert step_bytes(full, 7, 2) - step_bytes(fp8, 7, 2) == projection_parameters(full)
    seconds = [prefill_flops(spec, [5]) / peak_of(spec, [5]) for spec in (full, fp8)]
    assert seconds[0] - seconds[1] == pytest.approx(projection_parameters(full) * 5 / 790e12)


@pytest.mark.parametrize("graphs", [False, True], ids=["eager", "graphs"])
@pytest.mark.parametrize("step_tokens", [16, 50, 1000])
def test_tokens_do_not_depend_on_how_prompts_are_cut(
    engine: Engine, graphs: bool, step_tokens: int
) -> None:
    prompts = random_prompts([5, 30, 61], 128)

    def tokens(size: int) -> list[list[int]]:
        runner = engine.runner(graphs=graphs)
        rows = generate(runner, prompts, 6, num_blocks=40, step_tokens=size)
        assert all(len(row.known_at) == 6 for row in rows)
        return [row.generated for row in rows]

    assert tokens(step_tokens) == tokens(64)


@pytest.mark.slow
def test_transformers_computes_the_same_tokens_from_the_same_memory(engine: Engine) -> None:
    prompts = random_prompts([5, 30, 61], 128)
    rows = generate(engine.runner(graphs=False), prompts, 9, num_blocks=40, step_tokens=64)
    twin = twin_of(engine.model)
    theirs = transformers(twin, prompts, 9)
    assert [list(tokens) for tokens in theirs.tokens] == [row.generated for row in rows]
    assert theirs.prefill_seconds > 0
    assert theirs.decode_seconds > 0
    assert 0 < theirs.num_decoded <= 3 * 8
    weight = twin.model.layers[0].self_attn.k_proj.weight
    name = "model.layers.0.self_attn.k_proj.weight"
    assert weight.data_ptr() == engine.model.tensors[name].data_ptr()


@pytest.mark.slow
def test_every_task_of_the_engine_yields_a_row_with_numbers() -> None:
    torch.set_num_threads(1)
    rows = [row for task in engine_tasks(TINY) for row in task.run(Deadline.after(60))]
    ops = [(row["op"], row["implementation"]) for row in rows]
    assert ops == [
        ("prefill", "lengthwise"),
        *[("decode", "lengthwise")] * 2,
        ("prefill", "lengthwise fp8"),
        *[("decode", "lengthwise fp8")] * 2,
        *[("short prefill", "eager"), ("short prefill", "graphs")] * 2,
    ]
    for row in rows:
        assert 0 < row["p20_ms"] <= row["p50_ms"] <= row["p80_ms"]
        assert row["tokens_per_second"] > 0
