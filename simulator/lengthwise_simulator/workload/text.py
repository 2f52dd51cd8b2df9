"""Which texts are alike, without any text: the names of KV blocks, for prefix caches to share.

A text is a row of spans. A span's key stands for its own tokens and all before them, so that two
texts are equal up to a token where that token lies at one place of spans with one key.
"""

from typing import NamedTuple

from lengthwise_policy.kv.prefix_cache import BlockHash

_PLACE_BITS = 24
"""Of a place in a span: 16 million tokens."""


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
        high = key << _PLACE_BITS
        names += [
            BlockHash((high | (block + 1) * block_size - begin).to_bytes(16, "little"))
            for block in range(first + len(names), stop)
        ]
        begin += num_tokens
    return names
