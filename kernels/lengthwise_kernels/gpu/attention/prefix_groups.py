"""Which decode rows share so long a prefix that reading it once for all of them pays.

Found from block ids alone, since sequences that share blocks share what is in them; and
cheap where there is nothing to find, because every decode step looks.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

MIN_PREFIX_BLOCKS: Final = 16
"""Rows are grouped by their first so many blocks: shorter prefixes are not looked for."""

SECOND_PASS_BYTES: Final = 32 << 20
"""What has to be saved in a layer before two more kernels pay: what an H200's memory moves in the
8 us that they are presumed to take. Not yet measured on a GPU: `make gpu-check` compares both ways
at sizes around it (shared_prefix_attention)."""


MAX_GROUPS: Final = 8
"""Groups of one step; CUDA graphs have room for so many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixGroup:
    """`members` (numbers of rows) share the blocks of their first `keys` keys."""

    members: tuple[int, ...]
    keys: int


def find_groups(
    tables: Sequence[Sequence[int]],
    positions: Sequence[int],
    *,
    block_size: int,
    key_bytes: int,
    part_bytes: int,
) -> list[PrefixGroup]:
    """Groups of decode rows, none if they do not pay; `positions` are those of the rows' tokens.

    Saved is what the others of a group need not read: (members - 1) keys `key_bytes`, where
    `key_bytes` is a key and its value of all heads. Paid is a second pass, and `part_bytes` for
    every row of the step, whose parts are written and read again.
    """
    candidates: dict[tuple[int, ...], list[int]] = {}
    for row, table in enumerate(tables):
        # The block of the row's own token belongs to this row alone.
        if positions[row] >= MIN_PREFIX_BLOCKS * block_size:
            candidates.setdefault(tuple(table[:MIN_PREFIX_BLOCKS]), []).append(row)
    groups = [
        PrefixGroup(members=tuple(rows), keys=_common(tables, positions, rows, block_size))
        for rows in candidates.values()
        if len(rows) > 1
    ]
    groups = heapq.nlargest(MAX_GROUPS, groups, key=_saved_keys)
    saved = sum(map(_saved_keys, groups)) * key_bytes
    return groups if saved > SECOND_PASS_BYTES + len(tables) * part_bytes else []


def _saved_keys(group: PrefixGroup) -> int:
    return (len(group.members) - 1) * group.keys


def _common(
    tables: Sequence[Sequence[int]], positions: Sequence[int], rows: Sequence[int], block_size: int
) -> int:
    """Keys in the blocks that all `rows` have in common."""
    low = MIN_PREFIX_BLOCKS
    high = min(positions[row] for row in rows) // block_size
    first = tables[rows[0]]
    for row in rows[1:]:
        table = tables[row]
        if table[:high] == first[:high]:
            continue
        # Bisection, because comparing slices is fast: [low, high) is where they part.
        below = low
        while high - below > 1:
            middle = (below + high) // 2
            if table[:middle] == first[:middle]:
                below = middle
            else:
                high = middle
        high = below
    return high * block_size
