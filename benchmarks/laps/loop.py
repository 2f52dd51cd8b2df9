"""A closed loop of clients before the scheduler that serves and a runner, in one process.

Each client sends its next prompt when the last one's token is there; one token is asked for. What
it leaves out: the router, the wire, and the push of KV to a decode worker.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from random_models.generate import GREEDY

from lengthwise_engine.runner.base import ModelRunner, SequenceChunk
from lengthwise_engine.runner.sampler import SamplingState
from lengthwise_policy.cost.fit import CostFit, StepSample
from lengthwise_policy.kv.prefix_cache import PrefixCache
from lengthwise_policy.objectives import Objectives
from lengthwise_policy.prefill.batch import PrefillBatch
from lengthwise_policy.prefill.policy import PrefillPolicy
from lengthwise_policy.prefill.queue import PrefillJob
from lengthwise_policy.prefill.scheduler import PrefillScheduler
from lengthwise_policy.types import PromptChunk, RequestId


@dataclass(slots=True, kw_only=True)
class Played:
    """A run: seconds from a prompt's sending to its token, in the order they came, and of all."""

    ttft_seconds: list[float] = field(default_factory=list)
    seconds: float = 0.0
    num_batches: int = 0


class ClosedLoop:
    """Plays prompts through one scheduling policy; what its cost model has learnt stays."""

    def __init__(
        self,
        runner: ModelRunner,
        policy: PrefillPolicy,
        num_blocks: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runner = runner
        self._policy = policy
        self._num_blocks = num_blocks
        self._clock = clock
        self._fit = CostFit()

    def play(self, prompts: Sequence[Sequence[int]], concurrency: int) -> Played:
        """All prompts, in their order, from `concurrency` clients; no prefix is reused."""
        blocks = PrefixCache(self._num_blocks, enabled=False)
        scheduler = PrefillScheduler(
            self._policy, Objectives(), blocks, self._runner.layout.block_size
        )
        states = [
            SamplingState(sampling=GREEDY, token_ids=prompt, num_prompt_tokens=len(prompt))
            for prompt in prompts
        ]
        played = Played()
        sent_at: list[float] = []

        def send() -> None:
            if len(sent_at) < len(states):
                sent_at.append(self._clock())
                scheduler.enqueue(
                    PrefillJob(
                        request_id=RequestId(str(len(sent_at) - 1)),
                        num_tokens=len(prompts[len(sent_at) - 1]),
                        arrived_at=sent_at[-1],
                        deadline_at=math.inf,
                    )
                )

        began_at = self._clock()
        for _ in range(concurrency):
            send()
        while len(played.ttft_seconds) < len(states):
            batch = self._next_batch(scheduler)
            chunks = [self._chunk(chunk, states, scheduler) for chunk in batch.chunks]
            self._run(batch, chunks)
            played.num_batches += 1
            done_at = self._clock()
            for request_id in scheduler.computed(batch):
                played.ttft_seconds.append(done_at - sent_at[int(request_id)])
                scheduler.release(request_id)
                send()
        played.seconds = self._clock() - began_at
        return played

    def _next_batch(self, scheduler: PrefillScheduler) -> PrefillBatch:
        """Waits as long as the policy does: no other client can send anything meanwhile."""
        while True:
            now = self._clock()
            batch = scheduler.next_batch(now, self._fit.model, self._fit.short_tokens)
            if batch is not None:
                return batch
            if scheduler.wake_at is None:
                raise RuntimeError(
                    f"{scheduler.num_queued} prompts wait and nothing can run: the cache of"
                    f" {self._num_blocks} blocks is too small for one of them"
                )
            time.sleep(max(0.0, scheduler.wake_at - now))

    def _run(self, batch: PrefillBatch, chunks: Sequence[SequenceChunk]) -> None:
        began_at = self._clock()
        self._runner.run(chunks)
        self._fit.observe(
            StepSample(
                seconds=self._clock() - began_at,
                new_tokens=batch.num_tokens,
                attention=sum(c.num_tokens * (c.num_tokens + 2 * c.start) for c in batch.chunks),
                history=sum(chunk.start for chunk in batch.chunks),
            )
        )

    @staticmethod
    def _chunk(
        chunk: PromptChunk, states: Sequence[SamplingState], scheduler: PrefillScheduler
    ) -> SequenceChunk:
        state = states[int(chunk.request_id)]
        return SequenceChunk(
            token_ids=state.token_ids[chunk.start : chunk.start + chunk.num_tokens],
            start=chunk.start,
            block_ids=scheduler.block_ids(chunk.request_id),
            sampling=state if chunk.is_last else None,
        )
