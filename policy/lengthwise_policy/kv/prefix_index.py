"""What a router remembers of the blocks that workers hold: how much of a prompt each has already.

The workers' caches are the truth and every one names its contents in its statuses; this is a
bounded copy that may lag behind. A wrong answer costs a worse placement, never a wrong token.

Invariant: one entry per content with one bit per worker, never one entry per worker; the entries
are bounded, and those neither reported nor asked for longest are forgotten first (in halves: two
generations, of which the older is dropped whole when the younger is full).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import groupby

from lengthwise_policy.checks import require_at_least
from lengthwise_policy.types import WorkerId

MAX_RETIRED_SLOTS = 64
"""A slot is used again after its bit was cleared in every entry, which is done for so many slots at
once: with a million entries that takes 0.2 s, too long to do at every loss of a worker."""


class PrefixIndex:
    """Short block hash -> bit mask of workers, in two generations of `max_blocks / 2` entries."""

    def __init__(self, max_blocks: int = 1_000_000) -> None:
        require_at_least("max_blocks", max_blocks, 2)
        self._generation_blocks = max_blocks // 2
        # A content is in one of the two at most. Contents of one worker share its mask's object,
        # which halves the memory.
        self._young: dict[int, int] = {}
        self._old: dict[int, int] = {}
        self._bits: dict[WorkerId, int] = {}  # a mask with one bit set
        self._workers: list[WorkerId | None] = []  # by slot; None: free or retired
        self._free: list[int] = []
        self._retired = 0  # mask
        self._live = 0  # mask

    @property
    def num_blocks(self) -> int:
        """Entries, those of workers forgotten lately among them."""
        return len(self._young) + len(self._old)

    def update(
        self, worker_id: WorkerId, *, reset: bool, added: Collection[int], removed: Collection[int]
    ) -> None:
        """Takes over one status' events; with `reset` the worker holds `added` and nothing else."""
        if reset:
            self.forget(worker_id)
        bit = self._bits.get(worker_id) or self._join(worker_id)
        self._remove(bit, removed)
        self._add(bit, added)

    def forget(self, worker_id: WorkerId) -> None:
        """The worker is gone. Unknown workers are ignored."""
        bit = self._bits.pop(worker_id, 0)
        if not bit:
            return
        self._workers[bit.bit_length() - 1] = None
        self._live &= ~bit
        self._retired |= bit
        if self._retired.bit_count() >= MAX_RETIRED_SLOTS:
            self._sweep()

    def matched_blocks(self, hashes: Sequence[int]) -> dict[WorkerId, int]:
        """How many of the leading blocks each worker holds; workers with none are left out.

        One walk along the prompt, in which the set of workers that have all so far shrinks.
        """
        matched: dict[WorkerId, int] = {}
        asked_again = []
        young, old = self._young, self._old

        def held_by(content: int) -> int:
            mask = young.get(content)
            if mask is None:
                mask = old.get(content, 0)
                if mask:
                    asked_again.append(content)
            return mask

        mask_of: Callable[[int], int | None] = held_by if old else young.get
        holders = self._live
        depth = 0
        for mask, run in groupby(hashes, mask_of):
            left = holders & (mask or 0)
            if left != holders:
                if depth:
                    self._credit(holders & ~left, depth, matched)
                holders = left
                if not holders:
                    break
            depth += len(list(run))
        if depth:
            self._credit(holders, depth, matched)
        if asked_again:
            self._renew(asked_again)
        return matched

    def _remove(self, bit: int, contents: Collection[int]) -> None:
        for generation in (self._young, self._old):
            for mask, run in _runs(contents, generation) if generation else ():
                if mask == bit:
                    for content in run:
                        generation.pop(content, None)
                elif mask is not None and mask & bit:
                    generation.update(dict.fromkeys(run, mask ^ bit))

    def _add(self, bit: int, contents: Collection[int]) -> None:
        young, old = self._young, self._old
        if len(young) + len(contents) > self._generation_blocks:
            for content in contents:  # on the way the young become the old ones
                self._insert(content, bit)
            return
        for mask, run in _runs(contents, young):
            if mask is not None:
                young.update(dict.fromkeys(run, mask | bit))
            elif not old or old.keys().isdisjoint(run):
                young.update(dict.fromkeys(run, bit))
            else:
                for content in run:
                    self._insert(content, bit)

    def _renew(self, contents: Sequence[int]) -> None:
        """Moves old entries to the young, all at once: the first moved may drop the old ones."""
        for content, mask in [(each, self._old.pop(each)) for each in dict.fromkeys(contents)]:
            self._insert(content, mask)

    def _credit(self, holders: int, depth: int, matched: dict[WorkerId, int]) -> None:
        while holders:
            bit = holders & -holders
            holders ^= bit
            worker_id = self._workers[bit.bit_length() - 1]
            assert worker_id is not None
            matched[worker_id] = depth

    def _join(self, worker_id: WorkerId) -> int:
        """Gives the worker a slot whose bit is set nowhere."""
        if self._free:
            slot = self._free.pop()
            self._workers[slot] = worker_id
        else:
            slot = len(self._workers)
            self._workers.append(worker_id)
        bit = 1 << slot
        self._bits[worker_id] = bit
        self._live |= bit
        return bit

    def _insert(self, content: int, mask: int) -> None:
        """These workers too hold it."""
        held = self._young.get(content)
        if held is None:
            held = self._old.pop(content, 0)
            if len(self._young) >= self._generation_blocks:
                self._old = self._young
                self._young = {}
        self._young[content] = held | mask

    def _sweep(self) -> None:
        """Clears the retired slots' bits everywhere and frees the slots."""
        for generation in (self._young, self._old):
            stale = [item for item in generation.items() if item[1] & self._retired]
            for content, mask in stale:
                left = mask & ~self._retired
                if left:
                    generation[content] = left
                else:
                    del generation[content]
        slots = range(self._retired.bit_length())
        self._free.extend(slot for slot in reversed(slots) if self._retired >> slot & 1)
        self._retired = 0


def _runs(
    contents: Collection[int], masks: Mapping[int, int]
) -> list[tuple[int | None, Collection[int]]]:
    """Contents that follow one another and are held by the same workers, as those of a prompt
    usually are: all that is done with them is done at once."""
    found = list(map(masks.get, contents))
    if found and found.count(found[0]) == len(found):
        return [(found[0], contents)]
    return [(mask, list(run)) for mask, run in groupby(contents, masks.get)]
