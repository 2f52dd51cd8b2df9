"""A step's chunks as tensors.

The rule: this is the only place where lists of a step become tensors; models see no chunk.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from lengthwise_engine.runner import SequenceChunk
from lengthwise_kernels.dispatch import (
    AttentionBatch,
    AttentionPlan,
    AttentionSpec,
    kv_rows,
    plan_attention,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTensors:
    """New tokens of all chunks one after the other, and what their layers share.

    `token_ids` and `positions` are [tokens]; `kv_rows` [2, tokens] says where their keys and values
    go, `begun` which blocks have to be cleared before that; `sampled` numbers the tokens whose
    logits are wanted. `plans` has the attention of all tokens for each sliding window in use,
    `last_plan` that of the sampled ones in the last layer.
    """

    token_ids: torch.Tensor
    positions: torch.Tensor
    kv_rows: torch.Tensor
    begun: torch.Tensor
    sampled: torch.Tensor
    plans: Mapping[int | None, AttentionPlan]
    last_plan: AttentionPlan


def step_tensors(
    chunks: Sequence[SequenceChunk],
    *,
    windows: Sequence[int | None],
    block_size: int,
    attention: AttentionSpec,
) -> StepTensors:
    """Lay out checked `chunks` for a model whose layers have these `windows`."""
    device = attention.device
    token_ids: list[int] = []
    positions: list[int] = []
    blocks: list[int] = []
    sampled: list[int] = []
    for chunk in chunks:
        token_ids.extend(chunk.token_ids)
        positions.extend(range(chunk.start, chunk.end))
        blocks.extend(chunk.block_ids[p // block_size] for p in range(chunk.start, chunk.end))
        if chunk.sampling is not None:
            sampled.append(len(token_ids) - 1)
    begun = [chunk.begun_block(block_size) for chunk in chunks]
    sampling = [chunk for chunk in chunks if chunk.sampling is not None]
    whole = AttentionBatch(
        query_lengths=[len(chunk.token_ids) for chunk in chunks],
        starts=[chunk.start for chunk in chunks],
        block_ids=[chunk.block_ids for chunk in chunks],
        block_size=block_size,
    )
    last = AttentionBatch(
        query_lengths=[1] * len(sampling),
        starts=[chunk.end - 1 for chunk in sampling],
        block_ids=[chunk.block_ids for chunk in sampling],
        block_size=block_size,
    )
    plans = {
        window: plan_attention(whole, window=window, spec=attention) for window in set(windows)
    }
    last_window = windows[-1]
    last_plan = (
        plans[last_window]
        if len(sampled) == len(token_ids)
        else plan_attention(last, window=last_window, spec=attention)
    )
    position = torch.tensor(positions, device=device)
    return StepTensors(
        token_ids=torch.tensor(token_ids, device=device),
        positions=position,
        kv_rows=kv_rows(position, torch.tensor(blocks, device=device), block_size),
        begun=torch.tensor(
            [block for block in begun if block is not None], dtype=torch.long, device=device
        ),
        sampled=torch.tensor(sampled, dtype=torch.long, device=device),
        plans=plans,
        last_plan=last_plan,
    )
