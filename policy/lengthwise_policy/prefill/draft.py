"""A prefill batch while it is made: what fits into it still, and what it becomes.

Invariant: it stays within `max_tokens` and `max_requests` of its choice, and a chunk that is not
the last of its prompt ends on a block boundary.
"""

from lengthwise_policy.cost.model import CostModel
from lengthwise_policy.kv.prefix_cache import BlockHash
from lengthwise_policy.prefill.batch import PrefillBatch
from lengthwise_policy.prefill.discipline import BatchChoice
from lengthwise_policy.prefill.queue import Prompt
from lengthwise_policy.types import PromptChunk

WORTH_LEAVING_OUT = 0.25
"""Of a step's constant cost: a prompt left out now costs a part of a later step, and usually
several wait for the same prefix."""


class Draft:
    """Prompts with the tokens each gets, in order."""

    def __init__(self, choice: BatchChoice, block_size: int) -> None:
        self.choice = choice
        self.bucket: int | None = None
        """Of the first prompt: others of its length come before prompts of other lengths."""
        self.ended_by = "end of queue"
        self._block_size = block_size
        self._tokens_left = choice.max_tokens
        self._planned: list[tuple[Prompt, int]] = []
        self._computing: set[BlockHash] = set()

    def __len__(self) -> int:
        return len(self._planned)

    @property
    def is_full(self) -> bool:
        """Whether no request may be added; `fitting` is about tokens."""
        return len(self._planned) == self.choice.max_requests

    def limit(self, num_tokens: int) -> bool:
        """From now on it takes no more than makes so many tokens in all; whether a block fits."""
        planned = sum(n for _, n in self._planned)
        self._tokens_left = max(min(self._tokens_left, num_tokens - planned), 0)
        return self._tokens_left >= self._block_size and not self.is_full

    def fitting(self, prompt: Prompt) -> int:
        """Tokens of the prompt's next chunk: its rest, or the whole blocks that are left; or 0."""
        missing, left = prompt.num_missing, self._tokens_left
        return missing if missing <= left else left - left % self._block_size

    def is_worth_leaving_out(self, prompt: Prompt, cost: CostModel) -> bool:
        """Whether enough of what the prompt lacks is computed here for another one."""
        if not self._computing or not prompt.usable:
            return False
        first = end = prompt.num_computed // self._block_size
        while end < len(prompt.usable) and prompt.usable[end] in self._computing:
            end += 1
        saved = cost.chunk_seconds((end - first) * self._block_size, prompt.num_computed)
        return end > first and saved >= WORTH_LEAVING_OUT * cost.step_seconds

    def add(self, prompt: Prompt, num_tokens: int) -> None:
        if not self._planned:
            self.bucket = self.choice.queue.bucket_of(prompt)
        first = prompt.num_computed // self._block_size
        end = (prompt.num_computed + num_tokens) // self._block_size
        self._computing.update(prompt.job.hashes[first:end])
        self._planned.append((prompt, num_tokens))
        self._tokens_left -= num_tokens
        if num_tokens < prompt.num_missing:
            self.ended_by = "token budget"

    def seconds(self, cost: CostModel) -> float:
        """Predicted time of the batch."""
        chunks = [cost.chunk_seconds(n, prompt.num_computed) for prompt, n in self._planned]
        return cost.step_seconds + sum(chunks)

    def start(self, now: float, seconds: float) -> PrefillBatch:
        """Marks the prompts as running, for so long as predicted."""
        for prompt, _ in self._planned:
            prompt.in_batch = True
            prompt.served_seconds += seconds
        lengths = {prompt.length for prompt, _ in self._planned}
        waited = now - min([prompt.job.arrived_at for prompt, _ in self._planned])
        chunks = tuple(
            [
                PromptChunk(
                    request_id=prompt.job.request_id,
                    start=prompt.num_computed,
                    num_tokens=num_tokens,
                    is_last=num_tokens == prompt.num_missing,
                )
                for prompt, num_tokens in self._planned
            ]
        )
        what = f"{len(chunks)} {' and '.join(sorted(lengths))}"
        return PrefillBatch(
            chunks=chunks,
            length=self._planned[0][0].length if len(lengths) == 1 else "mixed",
            rule=self.choice.rule,
            reason=(
                f"{self.choice.rule}: {self.choice.why}; {what}, cut by {self.ended_by}, "
                f"oldest waited {waited:.3f} s"
            ),
        )
