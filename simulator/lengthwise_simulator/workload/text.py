"""Which texts are alike, without any text: the names of KV blocks, for prefix caches to share.

A text is a row of spans. A span's key stands for its own tokens and all before them, so that two
texts are equal up to a token where that token lies at one place of spans with one key.
"""

from array import array
from struct import unpack
from typing import Final, NamedTuple, cast

from lengthwise_policy.kv.prefix_cache import BlockHash

_SPREAD: Final = 0x9E3779B97F4A7C15
"""The golden ratio: its multiples by any two keys lie so far apart that spans of up to 3 million
tokens have no number in common; consecutive blocks have near ones, which tables of them like."""

_MASK: Final = (1 << 63) - 1


class TextSpan(NamedTuple):
    key: int
    num_tokens: int


Text = tuple[TextSpan, ...]
"""The last span goes on for as long as tokens are asked for: what is generated belongs to it."""


def block_names(text: Text, block_size: int, first: int, end: int) -> list[BlockHash]:
    """Of the blocks [first, end) of a text: each is named by its last token."""
    names: list[BlockHash] = []
    begin = 0
    for number, (key, num_tokens) in enumerate(text, 1):
        if len(names) == end - first:
            break
        is_last = number == len(text)
        stop = end if is_last else min(end, (begin + num_tokens) // block_size)
        begun = first + len(names)
        if begun < stop:
            low = (key * _SPREAD & _MASK) - begin
            ends = range(low + (begun + 1) * block_size, low + stop * block_size + 1, block_size)
            wide = array("Q", bytes(16 * len(ends)))
            wide[::2] = array("Q", ends)
            wide.byteswap()
            names += cast(tuple[BlockHash, ...], unpack("16s" * len(ends), wide))
        begin += num_tokens
    return names
