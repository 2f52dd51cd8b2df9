"""Which request may take blocks now.

Past-Future (past_future.py) asks whether the predicted peak of all admitted requests and one more
stays within what the cache can give them. There are two comparisons. The worst case asks whether
all of them could run to their limits at once; then none is ever preempted. What is free now is all
that engines ask for which do not predict (vLLM); they preempt when the batch has grown.

Requests that are filled by a transfer count as those that run do; blocks in use that no
admitted request brought in (shared ones, and ones that still drain) are taken off the capacity.
"""

from collections.abc import Collection, Sequence

from lengthwise_policy.decode.past_future import PastFutureAdmission, Verdict
from lengthwise_policy.decode.policy import DecodePolicy
from lengthwise_policy.decode.request import DecodeRequest, Grant
from lengthwise_policy.kv.blocks import blocks_for
from lengthwise_policy.kv.prefix_cache import BlockHash, PrefixCache
from lengthwise_policy.types import Random


class DecodeAdmission:
    """Decides about the first of the queue, and takes its blocks."""

    def __init__(
        self, policy: DecodePolicy, blocks: PrefixCache, block_size: int, random: Random
    ) -> None:
        self._rule = policy.admission
        self._reserve = policy.past_future.reserve
        self._blocks = blocks
        self._block_size = block_size
        self._future = PastFutureAdmission(policy.past_future, block_size, random)

    def finished(self, num_generated: int) -> None:
        """A request ended by itself after so many tokens."""
        self._future.finished(num_generated)

    def grant(
        self, request: DecodeRequest, admitted: Collection[DecodeRequest], num_draining_blocks: int
    ) -> Grant | None:
        """Blocks for all of the request's tokens; None while it has to wait."""
        hashes = request.shareable_hashes(self._block_size)
        if self._rule == "worst_case":
            verdict = self._worst_case(request, admitted, num_draining_blocks)
        elif self._rule == "free_now":
            verdict = self._free_now(request, admitted, hashes)
        else:
            verdict = self._may_join(request, admitted, hashes)
        if verdict.rule == "waits for memory":
            return None
        needed = blocks_for(request.sequence_tokens, self._block_size)
        taken = self._blocks.take(hashes, needed)
        if taken is None:
            return None
        request.granted(taken.block_ids, taken.num_shared, self._block_size)
        return Grant(
            request_id=request.request_id,
            block_ids=request.block_ids,
            num_cached_tokens=request.num_computed,
            rule="resumed" if request.resumed else verdict.rule,
            reason=f"resumed: {verdict.reason}" if request.resumed else verdict.reason,
        )

    def predicted_blocks(self, admitted: Collection[DecodeRequest]) -> int:
        """The most blocks that the admitted requests are predicted to hold at once."""
        if not admitted:
            return 0
        peak = self._future.predicted_blocks(tuple(admitted))
        shared = self._blocks.num_blocks - self._capacity(admitted)
        return min(peak + shared, self._blocks.num_blocks)

    def _may_join(
        self,
        request: DecodeRequest,
        admitted: Collection[DecodeRequest],
        hashes: Sequence[BlockHash],
    ) -> Verdict:
        """Blocks that it shares with running requests count once, with those: looked up only where
        it would wait without, for a long prompt has thousands."""
        running, capacity = tuple(admitted), self._capacity(admitted)
        request.own_slots = request.sequence_tokens
        verdict = self._future.may_join(running, request, capacity)
        if verdict.rule == "waits for memory" and (shared := self._blocks.in_use(hashes)):
            request.own_slots -= shared * self._block_size
            verdict = self._future.may_join(running, request, capacity)
        return verdict

    def _worst_case(
        self, request: DecodeRequest, admitted: Collection[DecodeRequest], num_draining_blocks: int
    ) -> Verdict:
        needed = num_draining_blocks + sum(
            blocks_for(each.reservation.kv_tokens, self._block_size)
            for each in (*admitted, request)
        )
        capacity = self._blocks.num_blocks
        return Verdict(
            rule="fits" if needed <= capacity else "waits for memory",
            peak_blocks=needed,
            details=f"worst case of {needed} blocks with {len(admitted)} running, the cache has "
            f"{capacity}",
        )

    def _free_now(
        self,
        request: DecodeRequest,
        admitted: Collection[DecodeRequest],
        hashes: Sequence[BlockHash],
    ) -> Verdict:
        """Alone a request may have what would be left free: else one as large would never begin."""
        needed = blocks_for(request.sequence_tokens, self._block_size) - self._blocks.in_use(hashes)
        free = self._blocks.num_free
        left = int(self._blocks.num_blocks * self._reserve) if admitted else 0
        return Verdict(
            rule="fits" if needed <= free - left else "waits for memory",
            peak_blocks=self._blocks.num_blocks - free + needed,
            details=f"{needed} blocks with {len(admitted)} running, {free} are free, {left} stay",
        )

    def _capacity(self, admitted: Collection[DecodeRequest]) -> int:
        """What can be had, and what the admitted requests hold for themselves."""
        return self._blocks.num_free + sum(each.num_own_blocks for each in admitted)
