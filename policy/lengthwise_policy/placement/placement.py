"""What placement is asked, and what it answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lengthwise_policy.kv.blocks import kv_slots
from lengthwise_policy.placement.blame import NO_BLAME, Blame
from lengthwise_policy.placement.worker_view import WorkerView
from lengthwise_policy.spreading import ALONE, OtherRouters
from lengthwise_policy.types import WorkerId

PlacementRule = str
"""What decided: one of the few `rules` that the strategy names, values of a metric's label."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementRequest:
    """What placement needs to know of a request."""

    num_tokens: int  # prompt tokens (and, when a request resumes, the tokens generated before)
    max_new_tokens: int
    blame: Blame = NO_BLAME  # what failed this request: only if nothing else is left
    reserved_decode: WorkerId | None = None  # holds this request's reservation already: it is kept
    # Prompt tokens whose KV a worker is known to have, in whole blocks; workers with none are left
    # out.
    cached_tokens: Mapping[WorkerId, int] = field(default_factory=dict)
    needs: frozenset[str] = frozenset()  # capabilities that its workers must have

    @property
    def needs_decode(self) -> bool:
        """The prefill worker samples the first token: a request for one token ends there."""
        return self.max_new_tokens > 1

    def residual_tokens(self, worker_id: WorkerId) -> int:
        """Tokens that this worker would have to compute: at least the last one, to sample."""
        return max(self.num_tokens - self.cached_tokens.get(worker_id, 0), 1)

    @property
    def kv_tokens(self) -> int:
        """KV slots that the request takes on the decode worker when it runs to its limit."""
        return kv_slots(self.num_tokens, self.max_new_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementInput:
    """A request, and all that is known when it is placed."""

    request: PlacementRequest
    prefill: Sequence[WorkerView]
    decode: Sequence[WorkerView]
    now: float
    others: OtherRouters = ALONE


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One choice that placement had, and the seconds it predicted."""

    prefill: WorkerId | None
    decode: WorkerId | None
    residual_tokens: int
    queue_seconds: float
    prefill_seconds: float
    transfer_seconds: float  # the part that is not hidden behind the computation

    @property
    def ttft_seconds(self) -> float:
        return self.queue_seconds + self.prefill_seconds + self.transfer_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Which worker computes the prompt and which generates.

    `decode` is None when one token is all; `prefill` is None when the decode worker computes the
    prompt itself.
    """

    prefill: WorkerId | None
    decode: WorkerId | None
    rule: PlacementRule
    reason: str  # the rule, and the numbers behind it
    candidates: tuple[Candidate, ...] = ()  # the best few, best first, of rules that predict
    # Behind more tokens than these the prefill worker is not to queue the prompt; None: behind any.
    most_tokens_ahead: int | None = None
    # Beside more requests than these the decode worker is not to compute the prompt itself, but to
    # hold blocks that a prefill worker fills; None: beside any.
    most_requests: int | None = None

    @property
    def chosen(self) -> Candidate | None:
        """What was predicted of the choice, where the rule predicts."""
        for candidate in self.candidates:
            if (candidate.prefill, candidate.decode) == (self.prefill, self.decode):
                return candidate
        return None
