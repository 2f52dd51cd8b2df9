"""Blocks at a decode worker, held for one request by this router.

Whatever makes a reservation closes it. Closing gives the blocks back, unless the worker has ended
the request itself or is lost.
"""

import itertools

from lengthwise_policy.placement.outstanding import Placed
from lengthwise_policy.types import WorkerId
from lengthwise_router.serving.generation import Generation
from lengthwise_router.workers.token_streams import TokenStream
from lengthwise_router.workers.worker import Worker

_numbers = itertools.count(1)


class DecodeReservation:
    """Names what is held; each attempt to fill it has an epoch of its own.

    The worker of a local reservation computes the prompt too.
    """

    def __init__(
        self,
        worker: Worker,
        generation: Generation,
        *,
        is_local: bool,
        residual_tokens: int,
    ) -> None:
        self.worker = worker
        self.worker_id: WorkerId = worker.worker_id
        self._generation = generation
        self.block_size = worker.view().block_size
        self.number = next(_numbers)
        self.epoch = 0
        self.is_local = is_local
        self.is_empty = False  # the worker holds blocks, and no prefill worker has taken this epoch
        self.num_cached_tokens = 0  # that the worker has, as it reported last
        self.stream = self._open_stream()
        self._placed = Placed(
            tokens=residual_tokens, local_tokens=residual_tokens if is_local else 0
        )
        worker.place(self._placed)

    @property
    def is_untouched(self) -> bool:
        """Whether another prefill worker may fill it still."""
        stream = self.stream
        return (
            not self.is_local
            and stream.failure is None
            and stream.last_row_at is None
            and stream.ended is None
        )

    def next_epoch(self) -> int:
        """The blocks are requested (again)."""
        self.epoch += 1
        return self.epoch

    def became_remote(self, requests: int) -> None:
        """The worker has so many requests, this one among them, that a prefill worker is to compute
        the prompt; it holds the blocks."""
        self.is_local = False
        self.stream = self._open_stream()
        self.worker.has_requests(requests)
        self.computed()

    def _open_stream(self) -> TokenStream:
        generation = self._generation
        # A prefill worker's token comes first, and not through the stream.
        stream = TokenStream(
            generation.num_generated + (0 if self.is_local else 1),
            generation.deadline.wakeup,
            local_tokens=len(generation.token_ids) if self.is_local else 0,
        )
        self.worker.streams.add(self.number, stream)
        return stream

    def computed(self) -> None:
        """The worker of a local reservation has computed the prompt."""
        if self._placed.local_tokens:
            self.worker.computed(self._placed)

    def close(self) -> None:
        worker = self.worker
        worker.streams.remove(self.number)
        worker.unplace(self._placed)
        if self.epoch and self.stream.ended is None and worker.is_streaming:
            worker.releases.add(self.number)
