"""Steps that are replayed instead of launched.

A graph is captured when its form comes first, as long as `memory_bytes` lasts, and stays
for good; every step that has none is computed by ordinary launches, with the same tokens. All
graphs share one input and one output, since steps are computed one after the other.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import torch

from lengthwise_engine.runner.graph_recorder import Graph, Recorder
from lengthwise_engine.runner.graph_shapes import DECODE_ROWS, padded_shape
from lengthwise_engine.runner.step_tensors import StepLayout
from lengthwise_kernels.dispatch import AttentionForm, PaddedShape
from lengthwise_kernels.staging import Place, places, refill

logger = logging.getLogger(__name__)

StepKind = Literal["decode", "prefill", "mixed"]
STEP_KINDS: Final[tuple[StepKind, ...]] = ("decode", "prefill", "mixed")

Tensors = Mapping[str, torch.Tensor]
Compute = Callable[[AttentionForm, Tensors], tuple[torch.Tensor, torch.Tensor]]
"""Logits, float32 [rows, vocab_size], and tokens, int64 [rows], of a bound step."""

_Key = tuple[AttentionForm, tuple[tuple[str, Place], ...]]

_INPUT_BYTES: Final = 2 << 20
"""For all arrays of a step but its block tables: 1.1 MB at 4,096 tokens."""


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


class StepGraphs:
    """The graphs of one model and cache."""

    def __init__(
        self,
        recorder: Recorder,
        compute: Compute,
        *,
        memory_bytes: int,
        device: torch.device,
        vocab_size: int,
        most_blocks: int,
        counts: StepCounts,
    ) -> None:
        """`most_blocks` is how many blocks a sequence may have.

        Raises `torch.OutOfMemoryError` when input and output do not fit.
        """
        self._recorder = recorder
        self._compute = compute
        self._memory_bytes = memory_bytes
        self._counts = counts
        self._graphs: dict[_Key, Graph] = {}
        self._shapes: set[PaddedShape] = set()
        self._largest = 0
        used = recorder.used_bytes()
        rows = DECODE_ROWS[-1]
        size = _INPUT_BYTES + 4 * rows * most_blocks
        self._input = torch.zeros(size, dtype=torch.uint8, device=device)
        self._logits = torch.zeros(rows, vocab_size, dtype=torch.float32, device=device)
        self._tokens = torch.zeros(rows, dtype=torch.int64, device=device)
        self._own_bytes = self._input.nbytes + self._logits.nbytes
        counts.graph_bytes = max(self._own_bytes, recorder.used_bytes() - used)

    def padded_shape(self, lengths: Sequence[int]) -> PaddedShape | None:
        """What to pad a step to; None: it is not to be replayed."""
        shape = padded_shape(lengths)
        return shape if shape in self._shapes or self._may_capture() else None

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

        body()
        if self._may_capture():
            self._capture(key, padded_to, body)
        return *result, False

    def _may_capture(self) -> bool:
        return self._counts.graph_bytes + self._largest <= self._memory_bytes

    def _capture(self, key: _Key, padded_to: PaddedShape, body: Callable[[], None]) -> None:
        """The next graph is presumed to be as large as the largest so far."""
        used, began_at = self._recorder.used_bytes(), time.monotonic()
        try:
            self._graphs[key] = self._recorder.capture(body)
        except torch.OutOfMemoryError:
            logger.warning(
                "no memory for a CUDA graph after %d bytes of graph_memory_bytes %d: no more are"
                " captured; lower kv_memory_bytes or graph_memory_bytes",
                self._counts.graph_bytes,
                self._memory_bytes,
            )
            self._memory_bytes = 0
            return
        size = max(0, self._recorder.used_bytes() - used)
        seconds = time.monotonic() - began_at
        self._shapes.add(padded_to)
        self._largest = max(self._largest, size)
        self._counts.graphs += 1
        self._counts.graph_bytes += size
        self._counts.capture_seconds += seconds
        logger.info(
            "captured CUDA graph %d for %s in %.2f s, %d bytes",
            self._counts.graphs,
            padded_to,
            seconds,
            size,
        )
