"""A generation → the requests that its workers receive."""

from typing import Any

from lengthwise_router.serving.generation import Generation
from lengthwise_router.serving.reservation import DecodeReservation
from lengthwise_wire.v1 import decode_pb2, prefill_pb2

LEASE_SLACK_SECONDS = 5.0
"""A lease outlives the request's deadline by this much: it is the last resort, not the first."""


def reserve_request(
    generation: Generation, reservation: DecodeReservation, most_requests: int | None
) -> decode_pb2.ReserveRequest:
    """Asks for the reservation's blocks, for its next epoch; a local one not to be computed beside
    more than `most_requests`."""
    return decode_pb2.ReserveRequest(
        router_id=reservation.worker.router_id,
        reservation=reservation.number,
        epoch=reservation.next_epoch(),
        max_tokens=generation.num_remaining,
        lease_seconds=generation.deadline.remaining_seconds + LEASE_SLACK_SECONDS,
        local=reservation.is_local,
        most_requests=most_requests if reservation.is_local else None,
        **_common(generation),
    )


def prefill_request(
    generation: Generation, reservation: DecodeReservation | None, most_tokens_ahead: int | None
) -> prefill_pb2.PrefillRequest:
    """Asks for the first token and, with a reservation, for the KV to be sent there; to be refused
    behind more than `most_tokens_ahead`."""
    common = {**_common(generation), "most_tokens_ahead": most_tokens_ahead}
    if reservation is None:
        return prefill_pb2.PrefillRequest(epoch=1, **common)
    return prefill_pb2.PrefillRequest(
        epoch=reservation.epoch,
        destination=prefill_pb2.KVDestination(
            address=reservation.worker.address,
            worker_id=reservation.worker_id,
            reservation=reservation.number,
            router_id=reservation.worker.router_id,
            num_cached_tokens=reservation.num_cached_tokens,
        ),
        **common,
    )


def _common(generation: Generation) -> dict[str, Any]:
    request = generation.request
    return {
        "request_id": request.request_id,
        "token_ids": generation.token_ids,
        "num_prompt_tokens": generation.num_prompt_tokens,
        "sampling": request.sampling,
        "stop_token_ids": request.stop_token_ids,
        "top_logprobs": request.top_logprobs,
        "priority": request.priority,
        "conversation_returns": request.conversation_returns,
        "cache_salt": request.cache_salt,
        "grammar": generation.grammar,
        "adapter": request.adapter,
    }
