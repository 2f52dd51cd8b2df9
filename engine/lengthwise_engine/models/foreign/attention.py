"""The attention of a step as transformers calls it, layer by layer."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, cast

import torch
from torch.nn import functional

from lengthwise_engine.models.foreign.spec import AttentionCall
from lengthwise_engine.models.step import StepTensors
from lengthwise_kernels.dispatch import ScoredPlan, Scoring, store

NAME: Final = "lengthwise"
"""Of `paged_attention` in transformers' registry. It has no masks there, for plans hide keys."""


class CalledAttention:
    """A step's calls: the first is of layer 0 of the cache, and so on."""

    def __init__(
        self,
        calls: Sequence[AttentionCall],
        step: StepTensors,
        cache: torch.Tensor,
        on_layer: Callable[[int], None] | None,
    ) -> None:
        self._calls = calls
        self._step = step
        self._cache = cache
        self._on_layer = on_layer
        self._next = 0

    def attend(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        sinks: torch.Tensor | None,
    ) -> torch.Tensor:
        """Of [heads, tokens, size] each; returns [tokens, num_heads, value size]."""
        index, self._next = self._next, self._next + 1
        call, layer, step = self._calls[index], self._cache[index], self._step
        store(_rows(keys, layer), _rows(values, layer), layer, step.kv_rows)
        if self._on_layer is not None:
            self._on_layer(index)
        plan, rows = step.plans[call.window], _rows(queries, layer)
        if call.cap is None and sinks is None:
            attended = plan.attend(rows, layer, call.scale)
        else:
            scoring = Scoring(cap=call.cap, sinks=sinks)
            attended = cast(ScoredPlan, plan).attend_scored(rows, layer, call.scale, scoring)
        return attended[..., : call.value_size]


def _rows(heads: torch.Tensor, layer: torch.Tensor) -> torch.Tensor:
    """[heads, tokens, size] as [tokens, heads, head_dim] of the cache, zeros where it is wider."""
    missing = layer.shape[-1] - heads.shape[-1]
    rows = heads.transpose(0, 1)
    return functional.pad(rows, (0, missing)) if missing else rows.contiguous()


_step: ContextVar[CalledAttention] = ContextVar("the step that is computed")


@contextmanager
def attending(step: CalledAttention) -> Iterator[None]:
    token = _step.set(step)
    try:
        yield
    finally:
        _step.reset(token)


def paged_attention(
    module: torch.nn.Module,
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    attention_mask: object,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """As transformers calls an attention, with [1, heads, tokens, size] each."""
    attended = _step.get().attend(queries[0], keys[0], values[0], s_aux)
    return attended.unsqueeze(0), None
