"""Steps that are replayed instead of launched.

Graphs are captured before a worker is ready, as many as `memory_bytes` holds, and stay for good;
every step that has none is computed by ordinary launches, with the same tokens. All graphs share
one input and one output and what they compute in between, since steps are computed one after the
other.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import torch

from lengthwise_engine.models.experts.routed import ExpertCounts
from lengthwise_engine.runner.graph_recorder import Graph, Recorder
from lengthwise_engine.runner.graph_shapes import DECODE_ROWS, GraphPlan
from lengthwise_engine.runner.step_tensors import StepLayout
from lengthwise_kernels.dispatch import AttentionForm, PaddedShape
from lengthwise_kernels.staging import Place, places, refill

logger = logging.getLogger(__name__)

StepKind = Literal["decode", "prefill", "mixed"]
STEP_KINDS: Final[tuple[StepKind, ...]] = ("decode", "prefill", "mixed")

Tensors = Mapping[str, torch.Tensor]
Compute = Callable[[AttentionForm, Tensors], tuple[torch.Tensor, torch.Tensor]]
"""Logits [rows, vocab_size] and tokens, int64 [rows], of a bound step."""

_Key = tuple[AttentionForm, tuple[tuple[str, Place], ...]]

_INPUT_BYTES: Final = 2 << 20
"""For all arrays of a step but its block tables: 1.1 MB at 4,096 tokens."""

_ROUNDING_BYTES: Final = 48 << 20
"""Of a pool beyond what a body has allocated at once: cuBLAS' workspace, 32 MiB on Hopper, and what
segments are rounded up by."""

_LAYER_BYTES: Final = 768 << 10
"""Of the driver, for each layer of a graph: a dozen launches of 64 KB each. That was measured with
driver 470 (forums.developer.nvidia.com, 244901), and is near the 26 MiB that vLLM logs for a graph
(its #22897). The first part of `make gpu-check` measures it."""


def kind_of(lengths: Sequence[int]) -> StepKind:
    """What a step of chunks with so many tokens is."""
    if max(lengths) == 1:
        return "decode"
    return "mixed" if min(lengths) == 1 else "prefill"


@dataclass(slots=True)
class StepCounts:
    """What a runner has done so far; read by other threads."""

    graphs: int = 0
    graph_bytes: int = 0
    capture_seconds: float = 0.0
    replayed: Counter[StepKind] = field(default_factory=Counter)
    launched: Counter[StepKind] = field(default_factory=Counter)
    experts: Sequence[ExpertCounts] = ()


class StepGraphs:
    """The graphs of one model and cache. Captured are those of steps computed while `captures`."""

    def __init__(
        self,
        recorder: Recorder,
        compute: Compute,
        agree: Callable[[bool], bool],
        plan: GraphPlan,
        *,
        device: torch.device,
        dtype: torch.dtype,
        vocab_size: int,
        num_layers: int,
        most_blocks: int,
        counts: StepCounts,
    ) -> None:
        """`most_blocks` is how many blocks a sequence may have; `agree` says whether something is
        true on all ranks, which have to capture the same.

        Raises `torch.OutOfMemoryError` when input and output do not fit.
        """
        self.plan = plan
        self.captures = False
        self.missed = 0
        self._recorder = recorder
        self._compute = compute
        self._agree = agree
        self._driver_bytes = num_layers * _LAYER_BYTES
        self._counts = counts
        self._graphs: dict[_Key, Graph] = {}
        self._shapes: set[PaddedShape] = set()
        rows = DECODE_ROWS[-1]
        size = _INPUT_BYTES + 4 * rows * most_blocks
        self._input = torch.zeros(size, dtype=torch.uint8, device=device)
        self._logits = torch.zeros(rows, vocab_size, dtype=dtype, device=device)
        self._tokens = torch.zeros(rows, dtype=torch.int64, device=device)
        counts.graph_bytes = self._held(0, 0)

    def padded_shape(self, lengths: Sequence[int]) -> PaddedShape | None:
        """What to pad a step to; None: it is not to be replayed."""
        shape = self.plan.padded(lengths)
        return shape if self.captures or shape in self._shapes else None

    def compute(
        self, layout: StepLayout, padded_to: PaddedShape, prepare: Callable[[Tensors], None]
    ) -> tuple[torch.Tensor, torch.Tensor, bool]:
        """Logits and tokens of a step padded to `padded_to`, and whether they were replayed.

        They stay what they are until the next step. `prepare` is called once the arrays are on the
        device and may change them.
        """
        where = places(layout.arrays)
        last = next(reversed(where))
        form, fixed = layout.form, tuple(where.items())[:-1]
        refill(layout.arrays, where, self._input)
        tensors = {name: place.of(self._input) for name, place in fixed}
        rest = self._input[where[last].offset :]
        tensors[last] = rest[: len(rest) // 4 * 4].view(where[last].dtype)
        prepare(tensors)
        rows = len(tensors["sampled"])
        result = self._logits[:rows], self._tokens[:rows]
        key = form, fixed
        graph = self._graphs.get(key)
        if graph is not None:
            graph.replay()
            return *result, True

        def body() -> None:
            logits, tokens = self._compute(form, tensors)
            result[0].copy_(logits)
            result[1].copy_(tokens)

        if self.captures:
            self._capture(key, padded_to, body)
        else:
            body()
        return *result, False

    def _held(self, pool_bytes: int, num_graphs: int) -> int:
        own = self._input.nbytes + self._logits.nbytes + self._tokens.nbytes
        return own + pool_bytes + num_graphs * self._driver_bytes

    def _capture(self, key: _Key, padded_to: PaddedShape, body: Callable[[], None]) -> None:
        """Compute a step, and capture it if that fits beside all others."""
        needed, began_at = self._recorder.measure(body), time.monotonic()
        pool = max(self._recorder.pool_bytes(), needed + _ROUNDING_BYTES)
        fits = self._held(pool, self._counts.graphs + 1) <= self.plan.memory_bytes
        graph = self._record(body) if self._agree(fits) else None
        if not self._agree(graph is not None) or graph is None:
            self.missed += 1
            return
        self._graphs[key] = graph
        self._shapes.add(padded_to)
        self._counts.graphs += 1
        self._counts.graph_bytes = self._held(self._recorder.pool_bytes(), self._counts.graphs)
        self._counts.capture_seconds += time.monotonic() - began_at
        logger.debug("captured CUDA graph %d, for %s", self._counts.graphs, padded_to)

    def _record(self, body: Callable[[], None]) -> Graph | None:
        try:
            return self._recorder.capture(body)
        except torch.OutOfMemoryError as error:
            logger.warning("no memory for a CUDA graph: %s; lower kv_memory_bytes", error)
            return None
