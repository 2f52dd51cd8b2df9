"""Projections with weights of 8 and 4 bits: what they compute, whom they serve with."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from engine.integer_checkpoints import ROUND, reference_model
from engine.next_token import load, logprobs, prompt

from lengthwise_engine.models.decoder_loader import load_model
from lengthwise_engine.models.integers import linear
from lengthwise_engine.models.integers.codes import Codes
from lengthwise_engine.models.integers.linear import IntegerLinear

BITS = pytest.mark.parametrize("bits", [8, 4])


@pytest.mark.slow
@BITS
@pytest.mark.parametrize("vnni", [True, False])
@pytest.mark.parametrize("variant", ["llama-biases", "mistral-window", "qwen2", "qwen3"])
def test_every_family_computes_what_rounding_by_hand_computes(
    variant: str,
    vnni: bool,
    bits: int,
    make_checkpoint: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not vnni:
        monkeypatch.setattr(linear, "multiplies_int8", lambda: False)
    folder, name = make_checkpoint(variant), f"int{bits}"
    loaded, reference = (
        load(folder, name, dtype=torch.float32),
        reference_model(folder, lambda _, weight: ROUND[name](weight)),
    )
    for length in (1, 5, 40):
        with torch.inference_mode():
            logits = reference(torch.tensor([prompt(length)])).logits[0, -1]
        expected = logits.log_softmax(-1)
        difference = (logprobs(loaded, length) - expected).norm() / (
            expected - expected.mean()
        ).norm()
        assert difference < 1e-3


@BITS
def test_ranks_round_their_own_shares(bits: int, make_checkpoint: Callable[..., Path]) -> None:
    """Of the outputs, which have scales of their own, they are those of the whole."""
    folder = make_checkpoint("qwen3")
    weight = load_model(folder, torch.device("cpu"), torch.float32).weights.layers[1].gate_up.weight  # type: ignore[attr-defined]
    whole = Codes.rounded(weight, bits)
    upper, lower = (Codes.rounded(half, bits) for half in weight.chunk(2))
    assert torch.equal(upper.below([lower]).values, whole.values)
    assert torch.equal(upper.below([lower]).scales, whole.scales)


def test_workers_that_round_in_another_way_share_no_kv(
    make_checkpoint: Callable[..., Path],
) -> None:
    folder = make_checkpoint("llama")
    fingerprints = {load(folder, each).fingerprint for each in ("none", "fp8", "int8", "int4")}
    assert len(fingerprints) == 4
    assert load(folder, "int4").fingerprint in fingerprints


@BITS
def test_weights_of_zeros_stay_zeros(bits: int) -> None:
    codes = Codes.rounded(torch.zeros(20, 40), bits)
    bias = torch.randn(20)
    result = IntegerLinear.of(codes, bias, torch.float32)(torch.randn(3, 40))
    assert torch.equal(result, bias.expand(3, -1))


@BITS
def test_where_no_type_is_asked_for_4_bits_are_multiplied_in_bfloat16(
    bits: int, make_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which PyTorch's kernel has instructions for; three random layers err by 3 %."""
    monkeypatch.setattr(linear, "multiplies_int8", lambda: False)
    folder, name = make_checkpoint("llama-gqa-tied"), f"int{bits}"
    model = load_model(folder, torch.device("cpu"), quantization=name)  # type: ignore[arg-type]
    down = model.weights.layers[0].down  # type: ignore[attr-defined]
    assert [part.scales.dtype for part in down.parts] == [torch.bfloat16] * (bits // 4)
    assert down(torch.randn(2, 112)).dtype == model.dtype == torch.float32
    exact = logprobs(load(folder, name, dtype=torch.float32), 40)
    fast = logprobs(load(folder, name, numerics="invariant"), 40)
    assert 0 < (fast - exact).norm() < 0.06 * (exact - exact.mean()).norm()
