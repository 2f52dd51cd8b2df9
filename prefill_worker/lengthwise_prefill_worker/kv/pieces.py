"""Pieces of KV that are ready to leave, cut from a running batch while later layers are
computed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lengthwise_engine.kv.layout import KVLayout
from lengthwise_engine.transfer.base import Piece
from lengthwise_policy.types import RequestId


@dataclass(frozen=True, slots=True, kw_only=True)
class PieceReady:
    """These blocks of these layers will not change any more. `first_block` counts from the first
    block of the request."""

    request_id: RequestId
    piece: Piece
    first_block: int


class LayerPieces:
    """Groups layers of each chunk until a group has `piece_bytes`, or the last layer is done."""

    def __init__(self, chunks: Sequence[PieceReady], *, layout: KVLayout, piece_bytes: int) -> None:
        """`chunks`: for each chunk its blocks with all layers."""
        self._chunks = chunks
        self._first_layers = [0] * len(chunks)
        self._layout = layout
        self._piece_bytes = piece_bytes

    def after_layer(self, layer: int) -> list[PieceReady]:
        """The pieces that are whole now that `layer` is computed."""
        ready = []
        last = layer == self._layout.num_layers - 1
        for index, chunk in enumerate(self._chunks):
            first = self._first_layers[index]
            piece = replace(chunk.piece, first_layer=first, num_layers=layer + 1 - first)
            if last or piece.num_bytes(self._layout) >= self._piece_bytes:
                ready.append(replace(chunk, piece=piece))
                self._first_layers[index] = layer + 1
        return ready


def split_blocks(ready: PieceReady, *, layout: KVLayout, piece_bytes: int) -> list[PieceReady]:
    """Cuts a piece into ones of at most `piece_bytes`, or of one block where that is more."""
    blocks = ready.piece.block_ids
    step = max(1, piece_bytes // (ready.piece.num_layers * layout.block_bytes))
    return [
        replace(
            ready,
            piece=replace(ready.piece, block_ids=blocks[start : start + step]),
            first_block=ready.first_block + start,
        )
        for start in range(0, len(blocks), step)
    ]
