"""The requests that a decode worker computes, and what the next step makes of them.

Planned in the order of seniority: every request that decodes gets the block that its token needs,
if need be from the most junior one; what the budget leaves goes to chunks.

A step is planned ahead when the last one has not ended: as if all its requests went on. Then none
is preempted, because what runs still writes to its blocks; a step that would need that is not
planned before the last one has ended.

Invariant: a junior never takes anything from a senior.
"""

import math
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from lengthwise_policy.cost.model import CostModel
from lengthwise_policy.decode.policy import DecodePolicy
from lengthwise_policy.decode.request import DecodeRequest, seniority
from lengthwise_policy.decode.step import DecodeStep, StepRule
from lengthwise_policy.kv.prefix_cache import PrefixCache
from lengthwise_policy.objectives import Objectives
from lengthwise_policy.types import PromptChunk, RequestId

PlannedStep = tuple[DecodeStep, Sequence[DecodeRequest]]
"""A step, and the requests that decode in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkRoom:
    """What the requests that decode leave of a step."""

    tokens: int
    seconds: float  # inf while no request decodes

    def __str__(self) -> str:
        within = "" if math.isinf(self.seconds) else f" and {self.seconds * 1e3:.1f} ms"
        return f"room for {self.tokens} tokens{within}"


def plan_chunks(
    computing: Iterable[DecodeRequest], room: ChunkRoom, cost: CostModel, block_size: int
) -> tuple[PromptChunk, ...]:
    """Chunks of the first in line, as far as the room goes; none overtakes.

    Each goes on where the steps in flight leave its request.
    """
    chunks: list[PromptChunk] = []
    tokens, seconds = room.tokens, room.seconds
    for request in computing:
        missing = request.sequence_tokens - request.num_launched
        history = request.num_launched
        affordable = cost.tokens_within(seconds, history)
        if not chunks:
            affordable = max(affordable, block_size)
        num_tokens = int(min(missing, tokens, affordable))
        if num_tokens < missing:
            num_tokens -= num_tokens % block_size
        if num_tokens <= 0:
            break
        chunks.append(
            PromptChunk(
                request_id=request.request_id,
                start=history,
                num_tokens=num_tokens,
                is_last=num_tokens == missing,
            )
        )
        tokens -= num_tokens
        seconds -= cost.chunk_seconds(num_tokens, history)
        if num_tokens < missing:
            break
    return tuple(chunks)


class DecodeBatch:
    """Computing and running requests by seniority."""

    def __init__(
        self, policy: DecodePolicy, objectives: Objectives, blocks: PrefixCache, block_size: int
    ) -> None:
        self._policy = policy
        self._tpot_seconds = objectives.tpot_seconds
        self._blocks = blocks
        self._block_size = block_size
        self._requests: list[DecodeRequest] = []
        self._starved: DecodeRequest | None = None
        self._last: PlannedStep | None = None  # if all of the batch decoded in it

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[DecodeRequest]:
        return iter(self._requests)

    @property
    def is_starved(self) -> bool:
        """Whether a request still runs for which the last plan found no block."""
        return self._starved is not None and self._starved.phase in ("computing", "running")

    def join(self, request: DecodeRequest) -> None:
        insort(self._requests, request, key=seniority)

    def leave(self, request: DecodeRequest) -> None:
        del self._requests[bisect_left(self._requests, seniority(request), key=seniority)]

    def plan(self, cost: CostModel, *, ahead: bool) -> PlannedStep | None:
        """The next step. The requests that it names as preempted have left and hold no blocks.

        None: nothing can run, or a request has no block for its next token and `ahead` none may be
        preempted for it.
        """
        preempted: list[RequestId] = []
        rows = self._rows(None if ahead else preempted)
        if ahead and self._starved is not None:
            return None
        is_plain = not preempted and len(rows) == len(self._requests)
        if is_plain and self._last is not None and rows == self._last[1]:
            return self._last
        computing = [
            request
            for request in self._requests
            if request.phase == "computing" and not request.num_awaited
        ]
        chunks: tuple[PromptChunk, ...] = ()
        if computing:  # the room asks every row
            room = self._room(rows, cost)
            chunks = plan_chunks(computing, room, cost, self._block_size)
        if not rows and not chunks and not preempted:
            return None
        rule: StepRule = "preempt" if preempted else "mixed" if chunks else "decode"
        reason = f"{rule}: {len(rows)} decode"
        if chunks:
            num_tokens = sum(chunk.num_tokens for chunk in chunks)
            reason += f", {num_tokens} tokens in {len(chunks)} chunks, {room}"
        if preempted:
            reason += f"; {len(preempted)} preempted, no block was free for their seniors"
        step = DecodeStep(
            request_ids=tuple([request.request_id for request in rows]),
            chunks=chunks,
            preempted=tuple(preempted),
            rule=rule,
            reason=reason,
        )
        self._last = (step, rows) if is_plain else None
        return step, rows

    def _rows(self, preempted: list[RequestId] | None) -> list[DecodeRequest]:
        """Running requests whose next token has a slot, most senior first.

        `preempted` receives those whose blocks went to others; None: none may be preempted.
        """
        rows: list[DecodeRequest] = []
        self._starved = None
        for request in tuple(self._requests):
            if len(rows) == self._policy.max_running:
                break
            num_tokens = request.sequence_tokens
            awaited = 0
            if request.steps_in_flight:
                awaited = request.num_awaited
                num_tokens += awaited
            if (request.phase != "running" and not awaited) or request.tokens_left <= awaited:
                continue
            if num_tokens > request.num_slots and not self._has_grown(request, preempted):
                # It keeps its blocks: seniors have theirs, and a junior that could give up one is
                # not there. What is filled by a transfer will be, or will be gone.
                self._starved = request
                break
            rows.append(request)
        return rows

    def _has_grown(self, request: DecodeRequest, preempted: list[RequestId] | None) -> bool:
        """Gives it one block more, if need be of juniors that may be preempted."""
        while True:
            fresh = self._blocks.extend(1)
            if fresh is not None:
                request.block_ids += fresh
                request.num_slots += self._block_size
                return True
            if preempted is None:
                return False
            victim = self._most_junior()
            if victim is request:
                return False
            self._preempt(victim)
            preempted.append(victim.request_id)

    def _preempt(self, victim: DecodeRequest) -> None:
        self.leave(victim)
        # It certainly returns; until then its blocks are the last to be evicted.
        self._blocks.release(victim.block_ids, returning=True)
        victim.preempted()

    def _most_junior(self) -> DecodeRequest:
        """Of those that may lose their blocks: one that has its last token ends anyway."""
        return next(each for each in reversed(self._requests) if each.tokens_left)

    def _room(self, rows: list[DecodeRequest], cost: CostModel) -> ChunkRoom:
        seconds = math.inf
        if rows:
            context = sum(request.sequence_tokens + request.num_awaited for request in rows)
            decode_seconds = cost.decode_step_seconds(len(rows), context)
            seconds = self._tpot_seconds - decode_seconds
        return ChunkRoom(tokens=self._policy.step_tokens - len(rows), seconds=seconds)
