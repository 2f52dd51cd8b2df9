"""The times of prompts that are computed here, from the grant to the first token."""

from dataclasses import dataclass

from lengthwise_decode_worker.messages import DecodeWork
from lengthwise_policy.decode.request import Grant
from lengthwise_policy.types import PromptChunk, RequestId
from lengthwise_wire.v1 import decode_pb2


@dataclass(slots=True, kw_only=True)
class _Prefill:
    granted_at: float
    num_cached_tokens: int
    started_at: float | None = None
    reason: str = ""


class LocalPrefills:
    """Knows a local request until its first token; one preempted before that is still the same."""

    def __init__(self) -> None:
        self._prefills: dict[RequestId, _Prefill] = {}

    def granted(self, grant: Grant, now: float) -> None:
        self._prefills[grant.request_id] = _Prefill(
            granted_at=now, num_cached_tokens=grant.num_cached_tokens
        )

    def started(self, chunk: PromptChunk, now: float, reason: str) -> bool:
        """A chunk is about to be computed, `reason` is its step's; False unless of a local
        prefill."""
        prefill = self._prefills.get(chunk.request_id)
        if prefill is None:
            return False
        if prefill.started_at is None:
            prefill.started_at, prefill.reason = now, reason
        return True

    def ended(self, work: DecodeWork, now: float) -> decode_pb2.LocalPrefill | None:
        """A token was sampled: the report if it is the first of a local prefill."""
        prefill = self._prefills.pop(work.request_id, None) if self._prefills else None
        if prefill is None or prefill.started_at is None:
            return None
        return decode_pb2.LocalPrefill(
            reservation=work.number,
            queue_seconds=prefill.started_at - prefill.granted_at,
            prefill_seconds=now - prefill.started_at,
            num_cached_tokens=prefill.num_cached_tokens,
            reason=prefill.reason,
        )

    def forget(self, request_id: RequestId) -> None:
        self._prefills.pop(request_id, None)
