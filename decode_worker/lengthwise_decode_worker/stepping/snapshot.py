"""What the decode engine reports of one moment."""

from dataclasses import dataclass

from lengthwise_policy.cost.fit import CostFit
from lengthwise_policy.decode.scheduler import DecodeScheduler
from lengthwise_policy.kv.prefix_cache import PrefixCache
from lengthwise_worker.snapshot import EngineSnapshot

PREDICT_SECONDS = 0.1
"""How often the predicted peak is drawn anew: 256 running requests take 0.2 ms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeSnapshot(EngineSnapshot):
    """Its one queue is for prompts of all lengths."""

    blocks_predicted: int
    context_tokens: int
    output_tokens_total: int


class Snapshots:
    """Takes them, twice per step."""

    def __init__(self, scheduler: DecodeScheduler, blocks: PrefixCache, fit: CostFit) -> None:
        self._scheduler = scheduler
        self._blocks = blocks
        self._fit = fit
        self._output_tokens = 0
        self._prompt_tokens = 0
        self._predicted = 0
        self._predict_at = 0.0

    def count(self, *, output_tokens: int, prompt_tokens: int) -> None:
        """What a step sampled and computed."""
        self._output_tokens += output_tokens
        self._prompt_tokens += prompt_tokens

    def take(self, now: float) -> DecodeSnapshot:
        is_empty = not self._scheduler.num_running and not self._scheduler.num_reserved
        if now >= self._predict_at or is_empty:
            self._predicted = self._scheduler.predicted_blocks()
            self._predict_at = now + PREDICT_SECONDS
        return DecodeSnapshot(
            blocks_free=self._blocks.num_free,
            blocks_cached=self._blocks.num_cached,
            blocks_predicted=self._predicted,
            running_requests=self._scheduler.num_running,
            context_tokens=self._scheduler.context_tokens,
            queues=(("", self._scheduler.num_queued, self._scheduler.queued_tokens),),
            output_tokens_total=self._output_tokens,
            prompt_tokens_total=self._prompt_tokens,
            cost=self._fit.measured,
            cost_samples=self._fit.num_samples,
            short_tokens=self._fit.short_tokens,
        )
