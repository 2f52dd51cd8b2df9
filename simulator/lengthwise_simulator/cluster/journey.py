"""One request on its way through the cluster, and what became of it."""

from dataclasses import dataclass, field
from math import nan
from typing import Literal, Protocol

from lengthwise_policy.admission.fair_share import Ticket
from lengthwise_policy.kv.prefix_cache import BlockHash
from lengthwise_policy.length_class import LengthClass
from lengthwise_policy.objectives import Objectives
from lengthwise_policy.placement.attempts import Attempts
from lengthwise_policy.placement.blame import Blame
from lengthwise_policy.placement.outstanding import Placed
from lengthwise_policy.types import RequestId, WorkerId
from lengthwise_simulator.cluster.network import NetworkPort
from lengthwise_simulator.workload.planned import ArrivingRequest
from lengthwise_simulator.workload.text import block_names


class PromptComputer(Protocol):
    """A prefill worker, as routers call it."""

    worker_id: WorkerId

    def prefill(self, attempt: "JourneyAttempt") -> None: ...
    def cancel(self, attempt: "JourneyAttempt") -> None: ...


class TokenGenerator(Protocol):
    """A decode worker, as routers and prefill workers call it."""

    worker_id: WorkerId
    port: NetworkPort

    def reserve(self, attempt: "JourneyAttempt") -> None: ...
    def renew(self, attempt: "JourneyAttempt", older: "JourneyAttempt") -> None: ...
    def commit(self, attempt: "JourneyAttempt") -> None: ...
    def release(self, attempt: "JourneyAttempt") -> None: ...
    def link_lost(self, attempt: "JourneyAttempt") -> None: ...


class JourneyOwner(Protocol):
    """A router, as workers answer it."""

    def reserved(self, attempt: "JourneyAttempt") -> None: ...
    def prefilled(self, attempt: "JourneyAttempt") -> None: ...
    def began_to_decode(self, attempt: "JourneyAttempt") -> None: ...
    def finished(self, attempt: "JourneyAttempt") -> None: ...
    def crowded(self, attempt: "JourneyAttempt", tokens_ahead: int) -> None: ...
    def not_local(self, attempt: "JourneyAttempt", requests: int) -> None: ...
    def attempt_failed(
        self, attempt: "JourneyAttempt", blame: Blame, reason: str, *, busy: bool
    ) -> None: ...


NAMED_AHEAD = 32
"""Blocks that are named before they are asked for: generated one by one, each would take a walk
along the text."""

Ending = Literal["done", "refused", "failed"]


@dataclass(slots=True, kw_only=True, eq=False)
class JourneyAttempt:
    """Of one journey, over one path; what a worker does for it names it by `request_id`."""

    journey: "Journey"
    request_id: RequestId
    num_tokens: int  # of its prompt
    prefill: PromptComputer | None
    decode: TokenGenerator | None
    residual_tokens: int  # of the prompt, to be computed, as the router believes
    most_tokens_ahead: int | None = None  # behind which the prefill worker queues it
    most_requests: int | None = None  # beside which the decode worker computes its prompt
    prefill_placed: Placed | None = None
    decode_placed: Placed | None = None
    prefill_called_at: float = 0.0
    held_tokens: int = 0  # of the prompt, that the decode worker had when it reserved
    is_sending: bool = False  # a prefill worker has taken it, and not all of its KV has arrived
    has_arrived: bool = False  # all of its KV is at the decode worker
    last_piece_at: float = 0.0  # of its KV, ready to be sent
    late_bytes: int = 0  # that were not sent by then, with that piece
    sent_until: float = 0.0  # when what was pushed so far has arrived

    def renewed(self) -> "JourneyAttempt":
        """Another one with the blocks that this one holds."""
        return JourneyAttempt(
            journey=self.journey,
            request_id=self.request_id,
            num_tokens=self.num_tokens,
            prefill=None,
            decode=self.decode,
            residual_tokens=self.residual_tokens,
            decode_placed=self.decode_placed,
            held_tokens=self.held_tokens,
        )

    @property
    def is_local(self) -> bool:
        return self.prefill is None

    @property
    def is_current(self) -> bool:
        return self.journey.attempt is self

    def needs(self, worker_id: WorkerId) -> bool:
        """Whether it fails with this worker: a prefill worker has done its part once all of the
        KV has arrived."""
        if self.decode is not None and self.decode.worker_id == worker_id:
            return True
        prefill = self.prefill
        return prefill is not None and prefill.worker_id == worker_id and not self.has_arrived


@dataclass(slots=True, kw_only=True, eq=False)
class Journey:
    """Instants are seconds of the simulation; nan until something has happened."""

    request: ArrivingRequest
    number: int
    router: JourneyOwner
    arrived_at: float
    attempts: Attempts
    num_attempts: int = 0
    attempt: JourneyAttempt | None = None  # under way
    ticket: Ticket | None = None
    prefill: WorkerId | None = None  # of the last attempt
    decode: WorkerId | None = None
    rule: str = ""  # of the last placement
    length: LengthClass = "long"  # by what was to be computed when it was placed first
    residual_tokens: int = 0  # to be computed, as believed then; of its prompt until it is placed
    computed_tokens: int = 0  # prompt tokens that were computed for it, anywhere
    admitted_at: float = nan
    began_at: float = nan  # its first prompt tokens are computed
    first_token_at: float = nan
    ended_at: float = nan
    generated: int = 0
    preemptions: int = 0
    paused_seconds: float = 0.0  # the longest that it had no blocks for after a preemption
    ending: Ending | None = None
    reason: str = ""
    names: list[BlockHash] = field(default_factory=list)  # of the text's blocks, as far as asked
    short_hashes: list[int] = field(default_factory=list)

    def names_of(self, num_blocks: int, block_size: int) -> list[BlockHash]:
        """Of the first blocks of its text; not to be changed."""
        return self.names_from(num_blocks, block_size)[:num_blocks]

    def names_from(self, num_blocks: int, block_size: int) -> list[BlockHash]:
        """Of so many blocks of its text, or some more; not to be changed, and it may grow."""
        known = len(self.names)
        if known < num_blocks:
            end = num_blocks + NAMED_AHEAD
            self.names += block_names(self.request.text, block_size, known, end)
        return self.names

    @property
    def num_tokens(self) -> int:
        """Of the prompt, and of what an earlier attempt generated."""
        return self.request.prompt_tokens + self.generated

    @property
    def tokens_left(self) -> int:
        """Until it ends by itself."""
        return self.request.output_tokens - self.generated

    @property
    def ttft_seconds(self) -> float:
        return self.first_token_at - self.arrived_at

    @property
    def tpot_seconds(self) -> float:
        """0 where one token is all (DistServe)."""
        if self.generated < 2:
            return 0.0
        return (self.ended_at - self.first_token_at) / (self.generated - 1)

    def meets(self, objectives: Objectives) -> bool:
        return (
            self.ending == "done"
            and self.ttft_seconds <= objectives.ttft_seconds(self.length)
            and self.tpot_seconds <= objectives.tpot_seconds
        )
