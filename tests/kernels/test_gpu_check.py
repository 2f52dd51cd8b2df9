"""The cases of `make gpu-check`, in small: ours and the rivals compute the same."""

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")
from gpu_check_case import Sizes, disagreement
from gpu_check_kernels import cases

TINY = Sizes(
    tokens=32,
    hidden=48,
    inner=40,
    linear_rows=(3,),
    heads=(4, 2, 16),
    packed=(2, 2),
    vocabulary=(2, 100),
    prompts=(40,),
    short=(2, 8, 24),
    decodes={"two": [40, 7]},
    prefixes=[(3, 32, 5)],
)


def test_every_case_runs_and_agrees_with_its_rivals(device: str) -> None:
    seen = set()
    for case in cases(TINY, device, torch.float32):
        assert disagreement(case) < 1e-5, f"{case.op} {case.shape}"
        assert case.rivals
        assert case.ceiling_seconds > 0
        seen.add(case.op)
    assert seen == {
        "rms_norm",
        "add_rms_norm",
        "silu_mul",
        "rotate_and_store",
        "pack_blocks",
        "quantise_rows",
        "add_rms_norm_fp8",
        "silu_mul_fp8",
        "scaled_linear",
        "pack_blocks_fp8",
        "sample_tokens",
        "prefill_attention",
        "decode_attention",
        "shared_prefix_attention",
    }


def test_the_ceiling_is_the_slower_of_bytes_and_operations() -> None:
    (case,) = (case for case in cases(TINY, "cpu", torch.float32) if case.op == "prefill_attention"
               and "causal" in case.shape)  # fmt: skip
    # 4 heads of 16, 40 queries that see 1..40 keys: a product and a sum for scores and for values.
    assert case.flops == 4 * 4 * 16 * (40 * 41 // 2)
    assert case.ceiling_seconds == max(case.num_bytes / 4.3e12, case.flops / 790e12)
