"""Blocks at a decode worker, held for one request by this router.

The rule: whoever makes a reservation closes it. Closing gives the blocks back, unless the worker
has ended the request itself or is lost.
"""

import itertools

from lengthwise_policy.types import WorkerId
from lengthwise_router.serving.generation import Generation
from lengthwise_router.workers.outstanding import Placed
from lengthwise_router.workers.pacer import Pacer
from lengthwise_router.workers.token_streams import TokenStream
from lengthwise_router.workers.worker import Worker
from lengthwise_wire.v1 import decode_pb2

_numbers = itertools.count(1)

LEASE_SLACK_SECONDS = 5.0
"""A lease outlives the request's deadline by this much: it is the last resort, not the first."""


class DecodeReservation:
    """Names what is held; each prefill attempt at it has an epoch of its own.

    A local reservation is one whose worker computes the prompt too.
    """

    def __init__(
        self,
        worker: Worker,
        generation: Generation,
        pacer: Pacer,
        *,
        is_local: bool,
        residual_tokens: int,
    ) -> None:
        self.worker = worker
        self.worker_id: WorkerId = worker.worker_id
        self.number = next(_numbers)
        self.epoch = 0
        self.is_local = is_local
        self.num_cached_tokens = 0  # that the worker has, as it said last
        # A prefill worker's token comes first, and not through the stream.
        first_index = generation.num_generated + (0 if is_local else 1)
        self.stream = TokenStream(
            first_index,
            generation.deadline.wakeup,
            pacer,
            local_tokens=len(generation.token_ids) if is_local else 0,
        )
        self._placed = Placed(
            tokens=residual_tokens, local_tokens=residual_tokens if is_local else 0
        )
        self._asked = False
        worker.streams.add(self.number, self.stream)
        worker.place(self._placed)

    @property
    def is_untouched(self) -> bool:
        """Nothing has come of it yet: another prefill worker may fill it."""
        stream = self.stream
        return (
            not self.is_local
            and stream.failure is None
            and stream.last_row_at is None
            and stream.ended is None
        )

    def request(self, generation: Generation, router_id: str) -> decode_pb2.ReserveRequest:
        """The message that asks for the blocks, for the next epoch."""
        self.epoch += 1
        self._asked = True
        request = generation.request
        return decode_pb2.ReserveRequest(
            request_id=request.request_id,
            router_id=router_id,
            reservation=self.number,
            epoch=self.epoch,
            token_ids=generation.token_ids,
            num_prompt_tokens=generation.num_prompt_tokens,
            sampling=request.sampling,
            stop_token_ids=request.stop_token_ids,
            max_tokens=generation.num_remaining,
            top_logprobs=request.top_logprobs,
            lease_seconds=generation.deadline.remaining_seconds + LEASE_SLACK_SECONDS,
            priority=request.priority,
            local=self.is_local,
            conversation_returns=request.conversation_returns,
        )

    def computed(self) -> None:
        """The worker of a local reservation has computed the prompt."""
        if self._placed.local_tokens:
            self.worker.computed(self._placed)

    def close(self) -> None:
        worker = self.worker
        worker.streams.remove(self.number)
        worker.unplace(self._placed)
        if self._asked and self.stream.ended is None and worker.is_streaming:
            worker.releases.add(self.number)
