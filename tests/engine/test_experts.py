"""Mixtures of experts: which rows go where, what they become there, and what is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lengthwise_checkpoint.errors import CheckpointError, UnsupportedModel
from lengthwise_checkpoint.families import read_config, read_decoder_spec
from lengthwise_engine.loaded_model import load_runner
from lengthwise_engine.models import weights
from lengthwise_engine.models.decoder_loader import Quantization, load_model, read_spec
from lengthwise_engine.models.experts.grouped import GroupedExperts
from lengthwise_engine.models.experts.routed import Experts
from lengthwise_engine.models.shard import ModelShard
from lengthwise_engine.models.weights import RoutedLayerWeights
from lengthwise_engine.runner.base import SequenceChunk
from lengthwise_engine.runner.sampler import SamplingParameters, SamplingState
from lengthwise_kernels.dispatch import route

CPU = torch.device("cpu")
MakeCheckpoint = Callable[..., Path]


@given(st.data(), st.integers(1, 9), st.integers(1, 6), st.booleans())
def test_every_row_goes_to_the_experts_of_its_largest_scores(
    data: st.DataObject, num_rows: int, num_experts: int, is_normalised: bool
) -> None:
    num_chosen = data.draw(st.integers(1, num_experts))
    # Apart from each other, so that no two are equal in float32.
    order = data.draw(st.permutations(range(num_rows * num_experts)))
    logits = torch.tensor(order).view(num_rows, num_experts) / 4
    routes = route(logits, num_chosen, is_normalised=is_normalised)
    found: list[tuple[int, int, float]] = []
    for expert, own in routes.segments():
        places = routes.order[own]
        assert places.tolist() == sorted(places.tolist())
        weights = routes.shares.flatten()[places]
        found += [
            (place // num_chosen, expert, weight)
            for place, weight in zip(places.tolist(), weights.tolist(), strict=True)
        ]
    assert routes.counts() == [sum(each[1] == e for each in found) for e in range(num_experts)]
    expected: list[tuple[int, int, Any]] = []
    for row, scores in enumerate(logits.double()):
        shares = (scores - scores.max()).exp() / (scores - scores.max()).exp().sum()
        best = sorted(range(num_experts), key=lambda each: -scores[each])[:num_chosen]
        whole = shares[best].sum() if is_normalised else 1.0
        expected += [(row, each, pytest.approx(float(shares[each] / whole))) for each in best]
    assert sorted(found) == sorted(expected, key=lambda each: each[:2])


def _experts(
    folder: Path, dtype: torch.dtype, layer: int = 1, quantization: Quantization = "none"
) -> Experts:
    found = load_model(folder, CPU, dtype, quantization).weights.layers[layer]
    assert isinstance(found, RoutedLayerWeights)
    assert isinstance(found.experts, Experts)
    return found.experts


@pytest.mark.parametrize("variant", ["qwen3_moe", "mixtral"])
@torch.inference_mode()
def test_a_row_gets_the_weighted_sum_of_its_experts(
    variant: str, make_checkpoint: MakeCheckpoint
) -> None:
    """One by one, from the matrices alone."""
    experts = _experts(make_checkpoint(variant), torch.float32)
    x = torch.randn(23, 64, generator=torch.Generator().manual_seed(1))
    shares = experts.router(x).double().softmax(-1)
    for row, result in zip(range(23), experts(x), strict=True):
        best = shares[row].topk(experts.num_chosen)
        total = torch.zeros(64, dtype=torch.double)
        for share, expert in zip(best.values / best.values.sum(), best.indices, strict=True):
            mlp: Any = experts.experts[int(expert)]
            gate, up = (mlp.gate_up.weight.to_dense().double() @ x[row].double()).chunk(2)
            inner = torch.nn.functional.silu(gate) * up
            total += share * (mlp.down.weight.to_dense().double() @ inner)
        torch.testing.assert_close(result.double(), total, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@torch.inference_mode()
def test_a_row_is_the_same_to_the_bit_beside_any_others(
    dtype: torch.dtype, make_checkpoint: MakeCheckpoint
) -> None:
    experts = _experts(make_checkpoint("qwen3_moe"), dtype).in_any_batch()
    x = torch.randn(40, 64, generator=torch.Generator().manual_seed(2)).to(dtype)
    whole = experts(x)
    for rows in ([0], [7, 3], [39, 0, 12], list(range(20)), list(range(39, 4, -1))):
        assert torch.equal(experts(x[rows]), whole[rows])
    assert experts(x[:0]).shape == (0, 64)


def test_a_runner_counts_what_experts_compute(make_checkpoint: MakeCheckpoint) -> None:
    """Of two routed layers the last computes the sampled row alone."""
    loaded = load_runner(make_checkpoint("qwen3_moe-some-dense"), device="cpu", num_blocks=4)
    assert len(loaded.steps.experts) == 2
    before = [(layer.rows, layer.busiest_rows, layer.reads) for layer in loaded.steps.experts]
    state = SamplingState(
        sampling=SamplingParameters(temperature=0.0), token_ids=[*range(9)], num_prompt_tokens=9
    )
    chunk = SequenceChunk(token_ids=range(9), start=0, block_ids=[1], sampling=state)
    loaded.runner.run([chunk])
    after = [(layer.rows, layer.busiest_rows, layer.reads) for layer in loaded.steps.experts]
    first, last = (
        [b - a for a, b in zip(*each, strict=True)] for each in zip(before, after, strict=True)
    )
    assert first[0] == 2 * 9
    assert 18 / 5 <= first[1] <= 9
    assert 2 <= first[2] <= 5
    assert last == [2, 1, 2]


@pytest.mark.parametrize("quantization", ["none", "fp8"])
@torch.inference_mode()
def test_all_experts_at_once_find_what_they_find_one_by_one(
    quantization: Quantization, make_checkpoint: MakeCheckpoint
) -> None:
    """As GPUs compute them, by plain PyTorch; `tests/kernels` has the kernels."""
    experts = _experts(make_checkpoint("qwen3_moe"), torch.float32, quantization=quantization)
    settings: Any = {"num_chosen": experts.num_chosen, "is_normalised": experts.is_normalised}
    x = torch.randn(23, 64, generator=torch.Generator().manual_seed(1))
    parts = []
    for own in (range(6), range(2), range(2, 6)):
        grouped = GroupedExperts.of(
            experts.experts[own.start : own.stop], len(own), experts.router, first=own.start,
            **settings,
        )  # fmt: skip
        parts.append(grouped(x))
        torch.testing.assert_close(grouped.in_any_batch()(x), parts[-1])
    torch.testing.assert_close(parts[0], experts(x))
    torch.testing.assert_close(parts[1] + parts[2], experts(x))


def test_experts_on_gpus_are_not_rounded_to_integers(
    make_checkpoint: MakeCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_checkpoint("qwen3_moe")
    monkeypatch.setattr(weights, "groups_experts", lambda device: True)
    with pytest.raises(UnsupportedModel, match="in full or in FP8 on GPUs, got integers; set"):
        load_model(folder, CPU, torch.float32, "int4")


@torch.inference_mode()
def test_ranks_with_some_experts_each_find_parts_of_the_sum(
    make_checkpoint: MakeCheckpoint,
) -> None:
    experts = _experts(make_checkpoint("qwen3_moe"), torch.float32)
    x = torch.randn(23, 64, generator=torch.Generator().manual_seed(1))
    parts = [
        replace(experts, experts=experts.experts[own.start : own.stop], first=own.start)(x)
        for own in (range(2), range(2, 6))
    ]
    torch.testing.assert_close(parts[0] + parts[1], experts(x))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_experts_per_tok": 7}, "num_experts_per_tok: 7 are more than the 6 experts"),
        ({"num_local_experts": 0, "num_experts": 0}, "experts: expected an integer >= 1"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "full checkpoints alone"),
    ],
)
def test_what_no_layer_of_experts_can_be_is_refused(
    changes: dict[str, Any], message: str, make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    values = json.loads((make_checkpoint("qwen3_moe") / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | changes))
    with pytest.raises(CheckpointError, match=message):
        read_decoder_spec(read_config(tmp_path))


def test_a_model_whose_layers_are_all_dense_has_no_experts(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    values = json.loads((make_checkpoint("qwen3_moe") / "config.json").read_text())
    for changes in ({"mlp_only_layers": [0, 1, 2]}, {"decoder_sparse_step": 4}):
        (tmp_path / "config.json").write_text(json.dumps(values | changes))
        assert read_decoder_spec(read_config(tmp_path)).experts is None
    (tmp_path / "config.json").write_text(json.dumps(values | {"decoder_sparse_step": 2}))
    assert read_decoder_spec(read_config(tmp_path)).routed == (False, True, False)


def test_experts_that_ranks_cannot_share_are_refused(make_checkpoint: MakeCheckpoint) -> None:
    whole = read_spec(make_checkpoint("qwen3_moe", moe_intermediate_size=41))
    with pytest.raises(UnsupportedModel, match=r"experts' intermediate_size 41 is no multiple of"):
        ModelShard(whole=whole, size=2)
    halves = [ModelShard(whole=whole, rank=n, size=2, expert_parallel=True) for n in range(2)]
    assert [half.experts for half in halves] == [range(3), range(3, 6)]
    assert [half.expert_neurons for half in halves] == [range(41)] * 2
    four = [ModelShard(whole=whole, rank=n, size=4, expert_parallel=True) for n in range(4)]
    assert [each.experts for each in four] == [range(2), range(2, 3), range(3, 5), range(5, 6)]
    few = read_spec(make_checkpoint("mixtral", num_attention_heads=8, num_key_value_heads=8))
    with pytest.raises(UnsupportedModel, match="4 experts are fewer than tensor_parallel_size 8"):
        ModelShard(whole=few, size=8, expert_parallel=True)
    with pytest.raises(UnsupportedModel, match="expert_parallel: the model has no experts"):
        ModelShard(whole=read_spec(make_checkpoint("llama")), size=2, expert_parallel=True)
