"""The runner of a model that several ranks compute together; this is rank 0's, the worker's own.

The rule: rank 0 plans and samples. It tells the others each step before it computes its own part,
and whatever goes wrong with one of them ends the step with a `RankError`, and the worker with it.
"""

from collections.abc import Callable, Sequence

from lengthwise_engine.kv.layout import KVLayout
from lengthwise_engine.kv.shards import KVShards
from lengthwise_engine.models.spec import ModelSpec
from lengthwise_engine.parallel.rank_process import RankProcess
from lengthwise_engine.parallel.steps import pack_step
from lengthwise_engine.parallel.watch import RankWatch
from lengthwise_engine.runner import (
    SampledToken,
    SequenceChunk,
    SettledStep,
    check_chunks,
    with_known_tokens,
)
from lengthwise_engine.torch_runner import TorchRunner


class ParallelRunner:
    """A `ModelRunner` of the whole model. It does not run ahead: the other ranks have to be told
    each token."""

    def __init__(
        self,
        own: TorchRunner,
        ranks: Sequence[RankProcess],
        watch: RankWatch,
        *,
        spec: ModelSpec,
        shards: KVShards,
        stall_seconds: float,
    ) -> None:
        """`own` is rank 0's part, `spec` and `shards` the whole model's."""
        self._own = own
        self._ranks = ranks
        self._watch = watch
        self._spec = spec
        self._shards = shards
        self._stall_seconds = stall_seconds
        # Collectives on CPUs are bounded each; those on CUDA only by who waits for the device.
        self._step_seconds = stall_seconds if shards.device_type == "cuda" else None
        self._before: Sequence[SequenceChunk] = ()
        self._sampled: list[SampledToken | None] = []

    @property
    def layout(self) -> KVLayout:
        return self._shards.layout

    @property
    def runs_ahead(self) -> bool:
        return False

    def launch(
        self,
        chunks: Sequence[SequenceChunk],
        on_layer: Callable[[int], None] | None = None,
    ) -> SettledStep:
        check_chunks(
            chunks,
            layout=self.layout,
            num_blocks=self._shards.num_blocks,
            spec=self._spec,
            before=self._before,
        )
        known = with_known_tokens(chunks, self._sampled)
        self._before, self._sampled = chunks, self._compute(known, on_layer)
        return SettledStep(self._sampled)

    def run(
        self,
        chunks: Sequence[SequenceChunk],
        on_layer: Callable[[int], None] | None = None,
    ) -> list[SampledToken | None]:
        return self.launch(chunks, on_layer).tokens()

    def _compute(
        self, chunks: Sequence[SequenceChunk], on_layer: Callable[[int], None] | None
    ) -> list[SampledToken | None]:
        if not chunks:
            return []
        message = pack_step(chunks, self.layout.block_size)
        with self._watch.step(self._step_seconds):
            for rank in self._ranks:
                rank.tell(message, self._stall_seconds)
            return self._own.run(chunks, on_layer)
