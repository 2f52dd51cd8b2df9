"""Which implementation of each operation runs.

The rule: callers import operations from here and never name an implementation.
"""

from lengthwise_kernels.reference.attention import (
    AttentionBatch,
    AttentionPlan,
    paged_attention,
    plan_attention,
)
from lengthwise_kernels.reference.kv import kv_rows, store_kv
from lengthwise_kernels.reference.layers import rms_norm, rotate, silu_mul
from lengthwise_kernels.reference.sampling import gumbel_noise, gumbel_noise_everywhere

__all__ = [
    "AttentionBatch",
    "AttentionPlan",
    "gumbel_noise",
    "gumbel_noise_everywhere",
    "kv_rows",
    "paged_attention",
    "plan_attention",
    "rms_norm",
    "rotate",
    "silu_mul",
    "store_kv",
]
