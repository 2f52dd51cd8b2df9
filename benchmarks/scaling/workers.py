"""Workers of the autoscaling simulation: they compute what a cost model says, and nothing else.

A prefill worker serves short prompts before long ones; a decode worker gives every running request
a token per step and lets requests wait while their KV does not fit. A pod takes a while to start,
and one that leaves or changes its role finishes its work first.

Exact between the instants at which something arrives; no noise of its own.
"""

import heapq
from collections import deque
from dataclasses import dataclass, field
from math import inf
from typing import Final

from lengthwise_policy.cost.model import CostModel
from lengthwise_policy.length_class import LENGTH_CLASSES, LengthClass
from lengthwise_policy.types import Role

COST: Final = CostModel(
    step_seconds=0.02,
    token_seconds=4e-4,
    attention_seconds=0.0,
    history_seconds=0.0,
    decode_request_seconds=5e-4,
    decode_context_seconds=3e-7,
)
"""2,500 prompt tokens per second; 0.05 s a token with 33 requests of 1,300 tokens."""

BLOCK_SIZE: Final = 16
BLOCKS: Final = 6000  # 96,000 tokens
START_SECONDS: Final = 60.0
FLIP_SECONDS: Final = 2.0  # beside draining
TTFT_SECONDS: Final[dict[LengthClass, float]] = {"short": 0.4, "long": 2.0}
TPOT_SECONDS: Final = 0.05


@dataclass(slots=True, kw_only=True)
class Request:
    """One request and what became of it."""

    at: float
    prompt_tokens: int
    output_tokens: int
    length: LengthClass
    first_token_at: float = inf
    decode_at: float = inf  # at a decode worker, waiting there or running
    done_at: float = inf
    left_seconds: float = field(init=False)  # of its prefill

    def __post_init__(self) -> None:
        self.left_seconds = self.service_seconds

    @property
    def service_seconds(self) -> float:
        return COST.prefill_seconds(self.prompt_tokens)

    @property
    def queue_seconds(self) -> float:
        return max(self.first_token_at - self.at - self.service_seconds, 0.0)

    @property
    def blocks(self) -> int:
        return -(-(self.prompt_tokens + self.output_tokens) // BLOCK_SIZE)

    @property
    def tpot_seconds(self) -> float:
        return (self.done_at - self.decode_at) / max(self.output_tokens - 1, 1)

    @property
    def is_in_time(self) -> bool:
        """Both objectives are met."""
        ttft = self.first_token_at - self.at
        is_first_in_time = ttft <= TTFT_SECONDS[self.length]
        return is_first_in_time and (self.output_tokens == 1 or self.tpot_seconds <= TPOT_SECONDS)


class Worker:
    """One pod."""

    def __init__(self, name: str, home: Role, ready_at: float) -> None:
        self.name = name
        self.home = home
        self.role = home
        self.ready_at = ready_at  # inf: can run nowhere
        self.target: Role | None = None  # drains, and then serves this role
        self.is_leaving = False
        self.busy_seconds = 0.0
        self.generated = 0.0  # tokens
        self.queues: dict[LengthClass, deque[Request]] = {name: deque() for name in LENGTH_CLASSES}
        self.queue_seconds: dict[LengthClass, float] = dict.fromkeys(LENGTH_CLASSES, 0.0)
        self.waiting: deque[Request] = deque()
        self.blocks_used = 0
        self._prefilled_to = 0.0
        self._tokens = 0.0  # that a request would have which ran all the time
        self._running: list[tuple[float, int, float, Request]] = []  # by the end, in tokens
        self._context = 0.0  # of the running requests, less their number * _tokens
        self._number = 0

    def takes_work(self, now: float) -> bool:
        return now >= self.ready_at and not self.is_leaving and self.target is None

    @property
    def is_empty(self) -> bool:
        return not (self._running or self.waiting or any(self.queues.values()))

    @property
    def num_requests(self) -> int:
        return len(self._running) + len(self.waiting) + sum(map(len, self.queues.values()))

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def context_tokens(self) -> float:
        return max(self._context + len(self._running) * self._tokens, 0.0)

    def queue_prompt(self, now: float, request: Request) -> None:
        """`prefill_until(now)` has been called."""
        self._prefilled_to = max(self._prefilled_to, now)
        self.queues[request.length].append(request)
        self.queue_seconds[request.length] += request.left_seconds

    def prefill_until(self, now: float) -> list[Request]:
        """Computes prompts; returns those that are done."""
        done = []
        while self._prefilled_to < now:
            queue = self.queues["short"] or self.queues["long"]
            if not queue:
                self._prefilled_to = now
                break
            request = queue[0]
            seconds = min(request.left_seconds, now - self._prefilled_to)
            request.left_seconds -= seconds
            self.queue_seconds[request.length] -= seconds
            self.busy_seconds += seconds
            self._prefilled_to += seconds
            if request.left_seconds <= 1e-12:
                queue.popleft()
                request.first_token_at = self._prefilled_to
                done.append(request)
        return done

    def queue_decode(self, now: float, request: Request) -> None:
        request.decode_at = now
        self.waiting.append(request)

    def decode(self, now: float, seconds: float) -> list[Request]:
        """Generates for so long, until `now`; returns the requests that are done."""
        while self.waiting and self.blocks_used + self.waiting[0].blocks <= BLOCKS:
            request = self.waiting.popleft()
            self.blocks_used += request.blocks
            self._number += 1
            self._context += request.prompt_tokens - self._tokens
            end = self._tokens + request.output_tokens - 1
            heapq.heappush(self._running, (end, self._number, self._tokens, request))
        if not self._running:
            return []
        self.busy_seconds += seconds
        step = COST.decode_step_seconds(len(self._running), int(self.context_tokens))
        self._tokens += seconds / step
        self.generated += len(self._running) * seconds / step
        done = []
        while self._running and self._running[0][0] <= self._tokens:
            end, _, begin, request = heapq.heappop(self._running)
            self._context -= request.prompt_tokens - begin
            self.blocks_used -= request.blocks
            request.done_at = now - (self._tokens - end) * step
            done.append(request)
        return done
