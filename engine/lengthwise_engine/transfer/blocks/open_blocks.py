"""Which kind of blocks serves which caches, and blocks that go from one worker's to another's."""

from collections.abc import Sequence
from typing import Any

import xxhash

from lengthwise_engine.kv.cache import KVCache
from lengthwise_engine.kv.layout import KVLayout
from lengthwise_engine.transfer.blocks.base import Blocks, Gate
from lengthwise_engine.transfer.blocks.host_blocks import HostBlocks
from lengthwise_engine.transfer.blocks.tensor_blocks import TensorBlocks


def open_blocks(layout: KVLayout, caches: Sequence[KVCache]) -> Blocks:
    """`layout` is the whole model's, `caches` are those of all ranks, in their order."""
    if len(caches) == 1 and caches[0].tensor.device.type == "cpu":
        return HostBlocks(caches[0])
    return TensorBlocks(layout, caches)


def pull(
    source: Blocks,
    theirs: Any,
    target: Blocks,
    message: Any,
    buffer: Any,
    checksum: xxhash.xxh3_64,
    gate: Gate,
) -> None:
    """What the message `theirs` names in `source` goes to what `message` names in `target`, which
    the buffer is of, as long as the gate is open."""
    if isinstance(source, HostBlocks) and isinstance(target, HostBlocks):
        target.copy_from(source, theirs, message, checksum, gate)
    else:
        target.unpack(message, source.pack(theirs, buffer), buffer, checksum, gate)
