"""Every operation has a kernel that can take the place of its truth."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from lengthwise_kernels.reference import attention, digest, fp8, kv, layers, routing, sampling

pytest.importorskip("triton", reason="Triton is not installed")
from lengthwise_kernels.gpu import digest as gpu_digest
from lengthwise_kernels.gpu import (
    kv_clear,
    kv_pack,
    kv_store,
    quantise_rows,
    rms_norm,
    scaled_linear,
    silu_mul,
)
from lengthwise_kernels.gpu import sampling as gpu_sampling
from lengthwise_kernels.gpu.attention import plan as gpu_attention
from lengthwise_kernels.gpu.experts import combine, grouped_linear
from lengthwise_kernels.gpu.experts import routing as gpu_routing

PAIRS: list[tuple[Callable[..., Any], Callable[..., Any]]] = [
    (layers.rms_norm, rms_norm.rms_norm),
    (layers.add_rms_norm, rms_norm.add_rms_norm),
    (layers.silu_mul, silu_mul.silu_mul),
    (fp8.quantise_rows, quantise_rows.quantise_rows),
    (fp8.add_rms_norm_fp8, quantise_rows.add_rms_norm_fp8),
    (fp8.silu_mul_fp8, quantise_rows.silu_mul_fp8),
    (fp8.scaled_linear, scaled_linear.scaled_linear),
    (routing.route, gpu_routing.route),
    (routing.gathered_linear, grouped_linear.gathered_linear),
    (routing.scattered_linear, grouped_linear.scattered_linear),
    (routing.combine, combine.combine),
    (kv.rotate_and_store, kv_store.rotate_and_store),
    (kv.pack_blocks, kv_pack.pack_blocks),
    (kv.unpack_blocks, kv_pack.unpack_blocks),
    (sampling.sample_tokens, gpu_sampling.sample_tokens),
    (kv.clear_blocks, kv_clear.clear_blocks),
    (digest.digest, gpu_digest.digest),
    (attention.plan_attention, gpu_attention.plan_attention),
    (attention.lay_out_attention, gpu_attention.lay_out_attention),
]


@pytest.mark.parametrize(("truth", "kernel"), PAIRS, ids=[truth.__name__ for truth, _ in PAIRS])
def test_a_kernel_is_called_like_its_truth(
    truth: Callable[..., Any], kernel: Callable[..., Any]
) -> None:
    assert kernel.__name__ == truth.__name__
    assert inspect.signature(kernel) == inspect.signature(truth)
