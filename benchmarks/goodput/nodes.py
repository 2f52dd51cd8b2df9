"""Workers of simulated time: the schedulers that serve, whose steps take what a cost model says."""

import heapq
import itertools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from goodput.measure import OBJECTIVES
from goodput.player import Outcome
from goodput.traffic import Arrival
from lengthwise_policy.cost.model import CostModel
from lengthwise_policy.decode.policy import DecodePolicy
from lengthwise_policy.decode.request import Reservation
from lengthwise_policy.decode.scheduler import DecodeScheduler
from lengthwise_policy.decode.step import DecodeStep
from lengthwise_policy.kv.prefix_cache import PrefixCache
from lengthwise_policy.objectives import Objectives
from lengthwise_policy.placement.worker_view import WorkerView
from lengthwise_policy.prefill.batch import PrefillBatch
from lengthwise_policy.prefill.policy import PrefillPolicy
from lengthwise_policy.prefill.queue import PrefillJob
from lengthwise_policy.prefill.scheduler import PrefillScheduler
from lengthwise_policy.types import PromptChunk, RequestId, Role, WorkerId

NUM_BLOCKS: Final = 8192
BLOCK_SIZE: Final = 16
SHORT_TOKENS: Final = 256
STRICT: Final = Objectives(
    ttft_short_seconds=OBJECTIVES[-1].ttft_seconds,
    ttft_long_seconds=OBJECTIVES[-1].ttft_seconds,
    tpot_seconds=OBJECTIVES[-1].tpot_seconds,
)


class Clock:
    """Simulated time."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def after(self, seconds: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._numbers), event))

    def run(self) -> None:
        while self._events:
            self.now, _, event = heapq.heappop(self._events)
            event()


@dataclass(slots=True, eq=False)
class Served:
    """A request on its way."""

    request_id: RequestId
    arrival: Arrival
    decode: "DecodeNode | None" = None
    first_at: float = math.inf
    last_at: float = math.inf
    num_tokens: int = 0

    def got_token(self, now: float) -> bool:
        """Whether it was the last."""
        self.num_tokens += 1
        self.first_at, self.last_at = min(self.first_at, now), now
        return self.num_tokens == self.arrival.output_tokens

    @property
    def outcome(self) -> Outcome:
        gaps = max(1, self.arrival.output_tokens - 1)
        return Outcome(
            ttft_seconds=self.first_at - self.arrival.at,
            tpot_seconds=(self.last_at - self.first_at) / gaps,
            output_tokens=self.num_tokens,
        )


class Node:
    """A worker that runs one step at a time."""

    role: Role

    def __init__(self, number: int, clock: Clock, cost: CostModel) -> None:
        self.worker_id = WorkerId(f"{self.role}-{number}")
        self.clock, self.cost, self.is_busy = clock, cost, False
        self.blocks = PrefixCache(NUM_BLOCKS, enabled=False)

    def run(self, seconds: float, ended: Callable[[], None]) -> None:
        self.is_busy = True
        self.clock.after(seconds, ended)

    def chunk_seconds(self, chunks: Sequence[PromptChunk]) -> float:
        return sum(self.cost.chunk_seconds(chunk.num_tokens, chunk.start) for chunk in chunks)

    def view(self) -> WorkerView:
        return WorkerView(
            worker_id=self.worker_id,
            role=self.role,
            blocks_total=NUM_BLOCKS,
            blocks_free=self.blocks.num_free,
            block_size=BLOCK_SIZE,
            running_requests=0,
            queued_requests=0,
            queued_tokens=0,
            step=0,
            draining=False,
            model_fingerprint="",
            layout_fingerprint="",
            outstanding_requests=0,
            outstanding_tokens=0,
            cost=self.cost,
            is_fitted=True,
            short_tokens=SHORT_TOKENS,
        )


class DecodeNode(Node):
    role: Role = "decode"

    def __init__(self, number: int, clock: Clock, cost: CostModel) -> None:
        super().__init__(number, clock, cost)
        draw = random.Random(number).random
        self._scheduler = DecodeScheduler(DecodePolicy(), STRICT, self.blocks, BLOCK_SIZE, draw)
        self._held: dict[RequestId, Served] = {}
        self._local: dict[RequestId, int] = {}  # prompt tokens to be computed here

    def view(self) -> WorkerView:
        return replace(
            super().view(),
            running_requests=self._scheduler.num_running,
            queued_requests=self._scheduler.num_queued,
            outstanding_requests=self._scheduler.num_reserved,
            context_tokens=self._scheduler.context_tokens,
            outstanding_local_tokens=sum(self._local.values()),
        )

    def reserve(self, served: Served, *, local: bool) -> None:
        arrival = served.arrival
        self._held[served.request_id] = served
        if local:
            self._local[served.request_id] = arrival.prompt_tokens
        self._scheduler.reserve(
            Reservation(
                request_id=served.request_id,
                num_tokens=arrival.prompt_tokens,
                max_new_tokens=arrival.output_tokens,
                deadline_at=math.inf,
                local=local,
            )
        )
        self.step()

    def received(self, served: Served) -> None:
        """The prompt's KV, and its first token with it."""
        self._scheduler.commit(served.request_id)
        self.step()

    def step(self) -> None:
        if self.is_busy:
            return
        self._scheduler.take_granted()
        step = self._scheduler.next_step(self.cost)
        if step is None:
            return
        seconds = self.cost.decode_step_seconds(
            len(step.request_ids), self._scheduler.context_tokens
        )
        self.run(seconds + self.chunk_seconds(step.chunks), lambda: self._ended(step))

    def _ended(self, step: DecodeStep) -> None:
        self.is_busy = False
        for request_id in self._scheduler.emitted(step):
            self._local.pop(request_id, None)
            if self._held[request_id].got_token(self.clock.now):
                self._scheduler.finish(request_id)
                del self._held[request_id]
        self.step()


class PrefillNode(Node):
    role: Role = "prefill"

    def __init__(self, number: int, clock: Clock, cost: CostModel) -> None:
        super().__init__(number, clock, cost)
        self._scheduler = PrefillScheduler(PrefillPolicy(), STRICT, self.blocks, BLOCK_SIZE)
        self._queued: dict[RequestId, Served] = {}

    def view(self) -> WorkerView:
        tokens = [served.arrival.prompt_tokens for served in self._queued.values()]
        return replace(
            super().view(),
            queued_requests=len(tokens),
            queued_tokens=sum(tokens),
            queued_short_tokens=sum(each for each in tokens if each <= SHORT_TOKENS),
        )

    def enqueue(self, served: Served) -> None:
        self._queued[served.request_id] = served
        self._scheduler.enqueue(
            PrefillJob(
                request_id=served.request_id,
                num_tokens=served.arrival.prompt_tokens,
                arrived_at=self.clock.now,
                deadline_at=math.inf,
            )
        )
        self.step()

    def step(self) -> None:
        if self.is_busy:
            return
        batch = self._scheduler.next_batch(self.clock.now, self.cost, SHORT_TOKENS)
        if batch is not None:
            seconds = self.cost.step_seconds + self.chunk_seconds(batch.chunks)
            self.run(seconds, lambda: self._ended(batch))
        elif self._scheduler.wake_at is not None:
            self.clock.after(max(1e-6, self._scheduler.wake_at - self.clock.now), self.step)

    def _ended(self, batch: PrefillBatch) -> None:
        self.is_busy = False
        for request_id in self._scheduler.computed(batch):
            served = self._queued.pop(request_id)
            self._scheduler.release(request_id)
            if not served.got_token(self.clock.now) and served.decode is not None:
                served.decode.received(served)
        self.step()
