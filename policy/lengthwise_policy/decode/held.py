"""The requests that a decode worker holds, and when their blocks may be used again.

Invariant: a block returns to the cache only when nothing writes to it any more, neither a step in
flight nor a transfer that still arrives.
"""

from lengthwise_policy.decode.request import DecodeRequest, Phase
from lengthwise_policy.errors import DuplicateRequest, UnknownRequest
from lengthwise_policy.kv.prefix_cache import PrefixCache
from lengthwise_policy.types import RequestId


class HeldRequests:
    """Requests by id, in every phase."""

    def __init__(self, blocks: PrefixCache) -> None:
        self._blocks = blocks
        self._requests: dict[RequestId, DecodeRequest] = {}
        self.num_draining_blocks = 0
        """Of ended requests, which a transfer or a step in flight may still write."""

    def __getitem__(self, request_id: RequestId) -> DecodeRequest:
        return self._requests[request_id]

    def add(self, request: DecodeRequest) -> None:
        self._requests[request.request_id] = request

    def forget(self, request: DecodeRequest) -> None:
        """The request holds no blocks."""
        del self._requests[request.request_id]

    def living(self, request_id: RequestId) -> DecodeRequest | None:
        """None where it has ended, or is not known."""
        request = self._requests.get(request_id)
        return None if request is None or request.phase == "draining" else request

    def in_phase(self, request_id: RequestId, *phases: Phase) -> DecodeRequest:
        """Raises UnknownRequest unless it is in one of them."""
        request = self._requests.get(request_id)
        if request is None or request.phase not in phases:
            got = "nothing of this id" if request is None else f"a {request.phase} one"
            raise UnknownRequest(
                f"request {request_id!r}: expected a {' or '.join(phases)} one, got {got}"
            )
        return request

    def check_unused(self, request_id: RequestId) -> None:
        """Raises DuplicateRequest while a request of this id is held, or its blocks drain."""
        if request_id in self._requests:
            raise DuplicateRequest(
                f"reservation for {request_id!r}: the worker holds this id already; release it, "
                f"and let its transfer and the steps in flight end, before it is used again"
            )

    def drain(self, request: DecodeRequest, *, receiving: bool, returning: bool) -> None:
        """The request has ended: its blocks return once nothing writes to them."""
        request.phase = "draining"
        request.receiving = receiving
        request.returning = returning
        self.num_draining_blocks += len(request.block_ids)
        self._free_if_unused(request)

    def transfer_ended(self, request_id: RequestId) -> bool:
        """Nothing arrives for this ended request any more; False when nothing was expected to."""
        request = self._requests.get(request_id)
        if request is None or not request.receiving:
            return False
        request.receiving = False
        self._free_if_unused(request)
        return True

    def step_ended(self, request: DecodeRequest) -> bool:
        """A step no longer writes to its blocks. False when it ended meanwhile."""
        request.steps_in_flight -= 1
        if request.phase != "draining":
            return True
        self._free_if_unused(request)
        return False

    def _free_if_unused(self, request: DecodeRequest) -> None:
        if not request.steps_in_flight and not request.receiving:
            del self._requests[request.request_id]
            self.num_draining_blocks -= len(request.block_ids)
            self._blocks.release(request.block_ids, returning=request.returning)
