"""Which KV of a batch leaves for decode workers, and when."""

from collections.abc import Mapping

from lengthwise_engine.kv.layout import KVLayout
from lengthwise_engine.transfer.base import Piece
from lengthwise_policy.prefill.batch import PrefillBatch
from lengthwise_policy.prefill.scheduler import PrefillScheduler
from lengthwise_policy.types import PromptChunk, RequestId
from lengthwise_prefill_worker.kv.pieces import LayerPieces, PieceReady, split_blocks
from lengthwise_prefill_worker.messages import PrefillWork


class BatchPieces:
    """Asked when a batch is planned: its requests may be released while it is computed."""

    def __init__(
        self,
        scheduler: PrefillScheduler,
        works: Mapping[RequestId, PrefillWork],
        *,
        layout: KVLayout,
        layerwise_tokens: int,
        piece_bytes: int,
    ) -> None:
        """`works` are those of the requests that the scheduler has."""
        self._scheduler = scheduler
        self._works = works
        self._layout = layout
        self._layerwise_tokens = layerwise_tokens
        self._piece_bytes = piece_bytes

    def cached(self, chunk: PromptChunk) -> list[PieceReady]:
        """What lies before a request's first chunk and can leave at once."""
        piece = self._piece(chunk.request_id, 0, chunk.start)
        if piece is None:
            return []
        return split_blocks(piece, layout=self._layout, piece_bytes=self._piece_bytes)

    def packed(self, batch: PrefillBatch) -> list[PieceReady]:
        """What leaves once the batch has ended."""
        return self._of(batch, layerwise=False)

    def layer_by_layer(self, batch: PrefillBatch) -> LayerPieces:
        """What leaves while it is computed."""
        chunks = self._of(batch, layerwise=True)
        return LayerPieces(chunks, layout=self._layout, piece_bytes=self._piece_bytes)

    def _of(self, batch: PrefillBatch, *, layerwise: bool) -> list[PieceReady]:
        """All layers of the blocks that the batch fills, of those that are pushed in this way."""
        pieces = []
        for chunk in batch.chunks:
            num_tokens = self._works[chunk.request_id].job.num_tokens
            residual = num_tokens - self._scheduler.num_cached_tokens(chunk.request_id)
            if (residual > self._layerwise_tokens) is not layerwise:
                continue
            piece = self._piece(chunk.request_id, chunk.start, chunk.start + chunk.num_tokens)
            if piece is not None:
                pieces.append(piece)
        return pieces

    def _piece(self, request_id: RequestId, start: int, end: int) -> PieceReady | None:
        """All layers of the blocks of tokens [start, end) that the decode worker lacks."""
        sent_from = self._works[request_id].sent_from
        if sent_from is None or sent_from >= end:
            return None
        block_size = self._layout.block_size
        first = max(start, sent_from) // block_size
        blocks = self._scheduler.block_ids(request_id)[first : -(-end // block_size)]
        return PieceReady(
            request_id=request_id,
            piece=Piece(first_layer=0, num_layers=self._layout.num_layers, block_ids=blocks),
            first_block=first,
        )
