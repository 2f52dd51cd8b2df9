"""What a router knows of one worker when it places a request."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from sys import intern

from lengthwise_policy.cost.model import PRIOR, CostModel, typical_cost
from lengthwise_policy.length_class import DEFAULT_SHORT_TOKENS, LengthClass
from lengthwise_policy.types import STEP_TOKENS, Role, WorkerId

COMPUTED_SHARE = 0.7
"""Of the time since a status that is taken to have gone into the queue that it showed; the rest may
have gone into what others have placed since. In fleet/herding.py with 16 and 16 workers and
statuses every two thirds of a second first tokens take one router 52.5 ms without this, 48.3 ms
with 0.7, 48.5 ms with 1."""

LOOK_ANEW_SECONDS = 0.2
"""How old a view of a worker with a queue may become: looking at one takes 15 microseconds."""

Kind = str
"""Fingerprints of model and KV layout: workers of one kind can exchange KV."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerView:
    """What a router knows of one worker: its last status, and what the router itself placed there.

    Statuses lag, `outstanding_*` do not: they count what the router has placed and a status does
    not show yet. Policies add the two; without the second a burst between two statuses would go to
    one worker.

    The last fields are what placement asks of every worker for every request. They follow from the
    others, and are computed once here instead of once per request and worker.
    """

    worker_id: WorkerId
    role: Role
    blocks_total: int
    blocks_free: int
    block_size: int
    running_requests: int
    queued_requests: int
    queued_tokens: int  # residual prompt tokens (prefill); KV slots waited for (decode)
    step: int  # grows while the worker works
    draining: bool  # it takes no new work
    model_fingerprint: str
    layout_fingerprint: str
    outstanding_requests: int  # placed by this router, and not ended, nor in the status yet
    outstanding_tokens: int
    fresh_requests: int = 0  # the part that reached it after its last status had left
    fresh_tokens: int = 0
    queued_short_tokens: int = 0  # the part of `queued_tokens` in class "short"
    outstanding_short_tokens: int = 0
    short_tokens: int = DEFAULT_SHORT_TOKENS  # the worker's boundary between the classes
    cost: CostModel = PRIOR
    is_fitted: bool = False  # whether `cost` was measured, at the worker or at its peers
    context_tokens: int = 0  # of its running requests (decode)
    blocks_predicted: int = 0  # peak of what is admitted already (decode)
    kv_bytes_per_token: int = 0
    kv_bytes_per_second: float = 0.0  # out of this worker (prefill); 0 until measured
    # Of prompts placed here to be computed here (decode), by all routers if each places as many.
    outstanding_local_tokens: int = 0
    length_class: LengthClass | None = None  # of the prompts meant for it (prefill); None: all
    capabilities: frozenset[str] = frozenset()  # what older workers cannot do
    context_length: int = 0  # the most tokens of a request, its last one too; 0: unknown
    transfers: bool = True  # whether KV can leave it (prefill) or reach it (decode) now
    kind: Kind = field(init=False, repr=False, compare=False)
    capacity_tokens: int = field(init=False, repr=False, compare=False)
    open_tokens: int = field(init=False, repr=False, compare=False)  # the most of a new request
    paired_tokens: int = field(init=False, repr=False, compare=False)  # if KV has to cross
    tokens_ahead: int = field(init=False, repr=False, compare=False)
    short_wait_seconds: float = field(init=False, repr=False, compare=False)
    long_wait_seconds: float = field(init=False, repr=False, compare=False)
    load_requests: int = field(init=False, repr=False, compare=False)
    room_tokens: int = field(init=False, repr=False, compare=False)
    next_step_seconds: float = field(init=False, repr=False, compare=False)
    kv_seconds_per_token: float = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        derive = object.__setattr__
        derive(self, "kind", intern(f"{self.model_fingerprint}/{self.layout_fingerprint}"))
        slots = self.blocks_total * self.block_size
        # The last token of a sequence needs no slot.
        longest = self.context_length - 1 if self.context_length else slots
        capacity = min(slots, longest)
        derive(self, "capacity_tokens", capacity)
        derive(self, "open_tokens", 0 if self.draining else capacity)
        derive(self, "paired_tokens", 0 if self.draining or not self.transfers else capacity)
        ahead = self.queued_tokens + self.outstanding_tokens
        derive(self, "tokens_ahead", ahead)
        # A short prompt waits for the short ones and at most for one step of a long one, which
        # cannot be stopped; a long prompt waits for all.
        short_ahead = min(self.queued_short_tokens + self.outstanding_short_tokens, ahead)
        short_wait = short_ahead + min(ahead - short_ahead, STEP_TOKENS)
        derive(self, "short_wait_seconds", wait_seconds(self.cost, short_wait))
        derive(self, "long_wait_seconds", wait_seconds(self.cost, ahead))
        load = self.running_requests + self.queued_requests + self.outstanding_requests
        derive(self, "load_requests", load)
        # Blocks that no request holds now nor is predicted to hold, less what is waited for
        # already.
        blocks = min(self.blocks_free, self.blocks_total - self.blocks_predicted)
        derive(self, "room_tokens", blocks * self.block_size - ahead)
        step = self.cost.decode_step_seconds(load + 1, self.context_tokens + ahead)
        derive(self, "next_step_seconds", step)
        rate = self.kv_bytes_per_second
        derive(self, "kv_seconds_per_token", self.kv_bytes_per_token / rate if rate > 0 else 0.0)


def wait_seconds(cost: CostModel, tokens: int) -> float:
    """Of a prefill worker, for queued prompts of so many tokens in all, in full steps."""
    steps = -(-tokens // STEP_TOKENS)
    per_token = cost.token_seconds + cost.attention_seconds * STEP_TOKENS
    return steps * cost.step_seconds + tokens * per_token


def still_queued(role: Role, tokens: int, cost: CostModel, seconds: float) -> int:
    """Of the tokens that a worker's status showed as queued, so many seconds later: a prefill
    worker computes them, those of decode workers wait for blocks."""
    step_seconds = wait_seconds(cost, STEP_TOKENS)
    if role != "prefill" or not step_seconds:
        return tokens
    return max(tokens - int(COMPUTED_SHARE * seconds / step_seconds * STEP_TOKENS), 0)


def is_dated(view: WorkerView, seconds: float) -> bool:
    """Whether the queue is shorter by now than in a view of so many seconds ago."""
    return view.role == "prefill" and view.queued_tokens > 0 and seconds >= LOOK_ANEW_SECONDS


def presumed_costs(views: Sequence[WorkerView]) -> dict[WorkerId, CostModel]:
    """Of those that have computed no prompts yet, their peers': by the prior a newcomer among slow
    workers would be given every prompt."""
    costs = {view.worker_id: view.cost for view in views if _knows_prompts(view)}
    if len(costs) < len(views):
        presumed = typical_cost(costs.values()) if costs else PRIOR
        costs |= {view.worker_id: presumed for view in views if view.worker_id not in costs}
    return costs


def comparable_cost(view: WorkerView, prefill: WorkerView) -> CostModel:
    """Two predictions are compared: both must be measured, or rest on the same assumption."""
    own, other = view.cost, prefill.cost
    if not prefill.is_fitted:
        return PRIOR
    if not view.is_fitted:
        return replace(other, decode_request_seconds=PRIOR.decode_request_seconds)
    if _knows_prompts(view):
        return own
    # It has not computed a prompt yet: as fast as the prefill worker.
    return replace(
        own,
        token_seconds=other.token_seconds,
        attention_seconds=other.attention_seconds,
        history_seconds=other.history_seconds,
    )


def _knows_prompts(view: WorkerView) -> bool:
    return view.is_fitted and bool(view.cost.token_seconds or view.cost.attention_seconds)
