"""The runner of real models.

It owns a model and a cache, and nothing between two steps depends on what it ran before
but the cache, and the tokens that the next step's rows follow.
"""

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from lengthwise_engine.errors import CacheSizeError
from lengthwise_engine.kv.cache import KVCache
from lengthwise_engine.kv.layout import KVLayout
from lengthwise_engine.models.step import StepModel, StepTensors
from lengthwise_engine.runner.base import (
    PendingStep,
    SampledToken,
    SequenceChunk,
    SettledStep,
    check_chunks,
)
from lengthwise_engine.runner.device_step import DeviceStep
from lengthwise_engine.runner.graph_recorder import Recorder
from lengthwise_engine.runner.graph_shapes import GraphPlan
from lengthwise_engine.runner.graphs import StepCounts, StepGraphs, Tensors, kind_of
from lengthwise_engine.runner.layer_events import LayerEvents, mark_stream
from lengthwise_engine.runner.memory import step_out_of_memory
from lengthwise_engine.runner.sampler import adjusted, choose, draw_arrays, report
from lengthwise_engine.runner.step_tensors import StepLayout, adapter_arrays, lay_out_step, padded
from lengthwise_engine.runner.warm_up import WARM_UP_BLOCKS, capture_steps, warm_up_steps
from lengthwise_engine.sampling.state import SamplingState
from lengthwise_engine.sampling.token_counts import NUM_SLOTS, NewTokens, TokenCounts
from lengthwise_kernels.dispatch import (
    AttentionForm,
    PaddedShape,
    check_attention,
    warm_up_attention,
)
from lengthwise_kernels.staging import Arrays, to_device

logger = logging.getLogger(__name__)

_PROGRESS_SECONDS: Final = 5.0

OnLayer = Callable[[int], None]


class TorchRunner:
    """A `ModelRunner` that computes a loaded model."""

    def __init__(
        self,
        model: StepModel,
        cache: KVCache,
        *,
        recorder: Recorder | None = None,
        graphs: GraphPlan | None = None,
    ) -> None:
        """With a `recorder`, steps that `graphs` plans are replayed once they were captured."""
        computed = str(model.dtype).removeprefix("torch.")
        expected = KVLayout.of(
            model.spec,
            block_size=cache.layout.block_size,
            dtype="int8" if cache.layout.dtype == "int8" else computed,
        )
        if cache.layout != expected:
            raise CacheSizeError(f"the model needs {expected}, got {cache.layout}")
        check_attention(model.attention)
        self._model = model
        self._cache = cache
        self._before: Sequence[SequenceChunk] = ()
        self._tokens_before = torch.empty(0, dtype=torch.int64, device=model.device)
        self._token_counts = TokenCounts(model.spec.vocab_size, model.device)
        self.counts = StepCounts(experts=model.expert_counts)
        self.graphs: StepGraphs | None = None
        if recorder is not None and graphs is not None and graphs.memory_bytes:
            self.graphs = StepGraphs(
                recorder,
                self._compute,
                model.all_agree,
                graphs,
                device=model.device,
                dtype=model.dtype,
                vocab_size=model.spec.vocab_size,
                num_layers=model.spec.num_layers,
                most_blocks=cache.layout.num_blocks_for(model.spec.context_length),
                counts=self.counts,
            )

    @property
    def layout(self) -> KVLayout:
        return self._cache.layout

    @property
    def runs_ahead(self) -> bool:
        return self._model.device.type == "cuda"

    @torch.inference_mode()
    def launch(
        self, chunks: Sequence[SequenceChunk], on_layer: OnLayer | None = None
    ) -> PendingStep:
        check_chunks(
            chunks,
            layout=self.layout,
            num_blocks=self._cache.num_blocks,
            spec=self._model.spec,
            before=self._before,
        )
        if not chunks:
            return SettledStep([])
        try:
            step = self._launch(chunks, on_layer)
        except torch.OutOfMemoryError as error:
            raise step_out_of_memory(error, self._cache, chunks) from error
        self._before = chunks
        return step

    @torch.inference_mode()
    def warm_up(self) -> float:
        """Compute a step of each kind, so that no request waits for a compiler; returns seconds.

        Overwrites the first blocks of the cache with zeros: only before anything is in it.
        """
        began_at = time.monotonic()
        warm_up_attention(self._model.attention, self._cache.tensor[0])
        for chunks in warm_up_steps(
            layout=self.layout,
            num_blocks=self._cache.num_blocks,
            spec=self._model.spec,
            has_adapters=self._model.num_adapters > 0,
        ):
            self.run(chunks)
        self._cache.tensor[:, :WARM_UP_BLOCKS].zero_()
        self._before = ()
        return time.monotonic() - began_at

    @torch.inference_mode()
    def capture_graphs(self) -> None:
        """Capture what is planned, so that no request waits for it, and log how it goes.

        Overwrites the first block of the cache with zeros: only before anything is in it.
        """
        graphs, counts = self.graphs, self.counts
        if graphs is None:
            return
        spec, has_adapters = self._model.spec, self._model.num_adapters > 0
        steps = capture_steps(graphs.plan, self.layout, spec, has_adapters=has_adapters)
        began_at = told_at = time.monotonic()
        graphs.captures = True
        for number, chunks in enumerate(steps, 1):
            self.run(chunks)
            if time.monotonic() - told_at > _PROGRESS_SECONDS:
                told_at = time.monotonic()
                logger.info("captured %d of %d CUDA graphs", number, len(steps))
        graphs.captures = False
        self._cache.tensor[:, :1].zero_()
        self._before = ()
        logger.info(
            "captured %d CUDA graphs in %.1f s; with input and output they take %d bytes",
            *(counts.graphs, time.monotonic() - began_at, counts.graph_bytes),
        )
        if graphs.missed:
            logger.warning(
                "graph_memory_bytes %d has no room for %d more graphs, whose steps are launched:"
                " raise it, or plan fewer with graph_rows and graph_prompt_tokens",
                *(graphs.plan.memory_bytes, graphs.missed),
            )

    def run(
        self, chunks: Sequence[SequenceChunk], on_layer: OnLayer | None = None
    ) -> list[SampledToken | None]:
        return self.launch(chunks, on_layer).tokens()

    def _launch(self, chunks: Sequence[SequenceChunk], on_layer: OnLayer | None) -> DeviceStep:
        events = None if on_layer is None else LayerEvents(on_layer, self._mark)
        lengths = [len(chunk.token_ids) for chunk in chunks]
        padded_to = None if self.graphs is None else self.graphs.padded_shape(lengths)
        states = [chunk.sampling for chunk in chunks]
        sampling = [state for state in states if state is not None]
        counts, new_tokens = self._count(chunks, sampling)
        layout = self._lay_out(chunks, padded_to, new_tokens.slots)
        follow = partial(self._follow, any(chunk.follows is not None for chunk in chunks))
        tokens, replayed = None, False
        if self.graphs is not None and padded_to is not None:
            logits, tokens, replayed = self.graphs.compute(layout, padded_to, follow)
        else:
            tensors = to_device(layout.arrays, self._model.device)
            follow(tensors)
            launched = None if events is None else events.launched
            logits = self._logits(layout.form, tensors, launched)
        (self.counts.replayed if replayed else self.counts.launched)[kind_of(lengths)] += 1
        if padded_to is not None:
            logits = logits[: len(sampling)]
            # A graph has no place for callbacks: its layers are announced when it has ended.
            for layer in range(self.layout.num_layers):
                if events is not None:
                    events.launched(layer)
        ends = [chunk.end for chunk in chunks if chunk.sampling is not None]
        scores = adjusted(logits, sampling, ends)
        if tokens is None:
            tokens = choose(scores, tensors, counts.table)
        elif scores is not logits:
            arrays = draw_arrays(sampling, ends, new_tokens.slots)
            tokens = choose(scores, to_device(arrays, self._model.device), counts.table)
        self._tokens_before = tokens = self._model.agree(tokens)
        if len(tokens) > len(sampling):
            tokens = tokens[: len(sampling)]
        chosen = report(logits, tokens, sampling, scores)
        return DeviceStep(states, chosen, self._model.device, events)

    def _count(
        self, chunks: Sequence[SequenceChunk], states: Sequence[SamplingState]
    ) -> tuple[TokenCounts, NewTokens]:
        """Counts for the penalties of a step that samples for `states`, brought up to date."""
        counts, rows = self._token_counts, self._rows_before()
        num_penalised = sum(state.sampling.penalised for state in states)
        if num_penalised > NUM_SLOTS:
            counts = TokenCounts(self._model.spec.vocab_size, self._model.device, num_penalised)
        sources = [
            None if chunk.follows is None else int(rows[chunk.follows])
            for chunk in chunks
            if chunk.sampling is not None
        ]
        new = counts.plan(states, sources)
        counts.add(new, self._tokens_before)
        return counts, new

    def _lay_out(
        self,
        chunks: Sequence[SequenceChunk],
        padded_to: PaddedShape | None,
        slots: Sequence[int],
    ) -> StepLayout:
        sampling = [(chunk.sampling, chunk.end) for chunk in chunks if chunk.sampling is not None]
        rows = None if padded_to is None else padded_to.sequences
        states, ends = [state for state, _ in sampling], [end for _, end in sampling]
        is_prompts = padded_to is not None and padded_to.chunks > 0
        draws = draw_arrays(states, ends, slots, rows, always=is_prompts)
        model = self._model
        adapters = adapter_arrays(chunks, model.device, model.num_adapters, padded_to)
        return lay_out_step(
            chunks,
            windows=self._model.windows,
            block_size=self.layout.block_size,
            attention=self._model.attention,
            padded_to=padded_to,
            more={**draws, **self._follows(chunks, rows), **adapters},
        )

    def _follows(self, chunks: Sequence[SequenceChunk], rows: int | None) -> Arrays:
        """Which tokens are those that the step before sampled, and in which of its rows."""
        following = {
            index: chunk.follows for index, chunk in enumerate(chunks) if chunk.follows is not None
        }
        if not following:
            # A graph's arrays are the same in every step.
            nothing = np.zeros(rows or 0, dtype=np.int64)
            return {"follow.places": nothing, "follow.rows": nothing} if rows else {}
        row_of = self._rows_before()
        firsts = np.cumsum([0, *(len(chunk.token_ids) for chunk in chunks)])
        places, sources = firsts[list(following)], row_of[list(following.values())]
        if rows is not None:
            # Padding does again what the first does.
            places = padded(places, rows, int(places[0]))
            sources = padded(sources, rows, int(sources[0]))
        return {"follow.places": places, "follow.rows": sources}

    def _rows_before(self) -> NDArray[np.int64]:
        """In which row of its sampled tokens each chunk of the step before has its own."""
        return np.cumsum([chunk.sampling is not None for chunk in self._before]) - 1

    def _follow(self, any_follows: bool, tensors: Tensors) -> None:
        if any_follows:
            tokens = self._tokens_before.index_select(0, tensors["follow.rows"])
            tensors["token_ids"].index_copy_(0, tensors["follow.places"], tokens)

    def _compute(self, form: AttentionForm, tensors: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
        """What graphs hold: logits of a step's sampled rows, and tokens chosen from them as is."""
        logits = self._logits(form, tensors, None)
        return logits, choose(logits, tensors, self._token_counts.table)

    def _logits(
        self, form: AttentionForm, tensors: Tensors, on_layer: OnLayer | None
    ) -> torch.Tensor:
        """Of a step's sampled rows."""
        step = StepTensors.bind(form, tensors)
        return self._model.forward(step, self._cache.tensor, on_layer)

    def _mark(self) -> Callable[[], bool]:
        """See `layer_events.Mark`; a CPU has computed what it has launched."""
        return mark_stream() if self._cache.tensor.is_cuda else lambda: True
