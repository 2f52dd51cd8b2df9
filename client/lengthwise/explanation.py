"""What a router decided for a request and why, what it predicted, and what came of it. Times are in
seconds."""

from dataclasses import dataclass
from typing import Literal

from lengthwise.types import Timings


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedCandidate:
    """A pair of workers, or a decode worker alone, and what the router predicted of it."""

    prefill_worker: str
    """Empty: the decode worker computes the prompt."""
    decode_worker: str
    """Empty: one token is all."""
    residual_tokens: int
    """Tokens of the prompt that would have to be computed there."""
    queue_seconds: float
    prefill_seconds: float
    transfer_seconds: float
    """The part that is not hidden behind the computation."""
    time_to_first_token_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedAttempt:
    """One attempt at a request: where it was sent, why, and what happened there."""

    prefill_worker: str
    """Empty: the decode worker computed the prompt."""
    decode_worker: str
    """Empty: one token was all."""
    placement_reason: str
    candidates: tuple[ExplainedCandidate, ...]
    """The best of them, best first, where the placement strategy predicts."""
    cached_tokens_prefill: int
    """Tokens that the prefill worker had already."""
    cached_tokens_decode: int
    """Tokens that the decode worker had already."""
    reserve_reason: str
    """Why the decode worker admitted the request when it did."""
    reserve_seconds: float
    prefill_reason: str
    """Why the batch with the request's first chunk ran when it did."""
    queue_seconds: float
    prefill_seconds: float
    transfer_seconds: float
    """From the prefill worker's token to the decode worker's first: what computing did not hide of
    the transfer, and a step. 0 where the decode worker computed the prompt."""
    failure: str
    """Empty unless the attempt failed."""

    @property
    def chosen(self) -> ExplainedCandidate | None:
        """The candidate that the attempt went to, where it was predicted."""
        for candidate in self.candidates:
            if (candidate.prefill_worker, candidate.decode_worker) == (
                self.prefill_worker,
                self.decode_worker,
            ):
                return candidate
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedEnd:
    """How a request ended."""

    code: str
    """Name of the gRPC status, such as OK."""
    timings: Timings
    cached_prompt_tokens: int
    """Prompt tokens whose KV was reused."""
    preemptions: int
    """Times the request lost its blocks at a decode worker and was computed again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What `Client.explain` gives."""

    request_id: str
    model: str
    priority: int
    prompt_tokens: int
    """0 where the prompt was never tokenised."""
    output_tokens: int
    """0 until the request has ended."""
    max_tokens: int
    length_class: Literal["short", "long"]
    """By the tokens that the first attempt had to compute."""
    admission_reason: str
    """Why the router took the request, or did not."""
    admission_seconds: float
    attempts: tuple[ExplainedAttempt, ...]
    """In the order they were made; all but the last failed."""
    end: ExplainedEnd | None
    """None while the request goes on."""
