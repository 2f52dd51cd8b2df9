"""Blocks that keep their content and that no request uses, those released longest ago first.

What is released at once stays together, so that little is done for each block. A block that is
used again stays listed where it was until it surfaces, or until such blocks are most of the list.
"""

from collections import deque
from collections.abc import Iterator
from itertools import groupby

_Group = tuple[int, list[int]]
"""Blocks, the newest first, and the number of its release; each further one has a number less."""


class EvictionQueue:
    """`len` counts the blocks that wait in it."""

    def __init__(self, references: list[int]) -> None:
        """`references` of every block, the cache's own: of one that waits here, it is the negative
        number of its group."""
        self._references = references
        self._groups: deque[_Group] = deque()  # none is empty
        self._num_blocks = 0
        self._num_listed = 0

    def __len__(self) -> int:
        return self._num_blocks

    def __iter__(self) -> Iterator[int]:
        """The oldest first."""
        for number, block_ids in self._groups:
            yield from (each for each in reversed(block_ids) if self._references[each] == -number)

    @property
    def oldest(self) -> int:
        """The number of the release of the first to go; there must be one."""
        while True:
            number, block_ids = self._groups[0]
            if self._references[block_ids[-1]] == -number:
                return number - len(block_ids) + 1
            self._unlist(1)

    def add(self, block_ids: list[int], number: int) -> None:
        """They are released. The first is the newest, with a number above those of all others in
        the cache; the others have those below. The list is kept."""
        for block_id in block_ids:
            self._references[block_id] = -number
        self._groups.append((number, block_ids))
        self._num_blocks += len(block_ids)
        self._num_listed += len(block_ids)
        if self._num_listed > 2 * self._num_blocks + 64:
            self._unlist_used()

    def leave(self, block_id: int) -> None:
        """It is used again."""
        self._references[block_id] = 0
        self._num_blocks -= 1

    def pop(self, most: int) -> list[int]:
        """Takes out as many, or all there are; the first to go first."""
        references = self._references
        popped: list[int] = []
        while len(popped) < most and self._groups:
            number = self._groups[0][0]
            for block_id in self._unlist(most - len(popped)):
                if references[block_id] == -number:
                    references[block_id] = 0
                    popped.append(block_id)
        self._num_blocks -= len(popped)
        return popped

    def _unlist(self, most: int) -> list[int]:
        """The oldest of the oldest group, the first to go first."""
        block_ids = self._groups[0][1]
        oldest = block_ids[-most:]
        del block_ids[-most:]
        if not block_ids:
            self._groups.popleft()
        self._num_listed -= len(oldest)
        oldest.reverse()
        return oldest

    def _unlist_used(self) -> None:
        references = self._references
        groups, self._groups = self._groups, deque()
        self._num_blocks = self._num_listed = 0
        for number, block_ids in groups:
            waits = [references[block_id] == -number for block_id in block_ids]
            parts = groupby(range(len(waits)), waits.__getitem__)
            for part in reversed([list(places) for is_left, places in parts if is_left]):
                self.add(block_ids[part[0] : part[-1] + 1], number - part[0])
