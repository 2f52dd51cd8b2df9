"""The length-aware discipline: classes, window, share, ageing, chunks, shapes, priorities."""

import itertools
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthwise_policy.cost.model import CostModel
from lengthwise_policy.kv.prefix_cache import PrefixCache
from lengthwise_policy.length_class import LENGTH_CLASSES
from lengthwise_policy.objectives import Objectives
from lengthwise_policy.prefill.batch import PrefillBatch
from lengthwise_policy.prefill.policy import PrefillPolicy
from lengthwise_policy.prefill.queue import PrefillJob
from lengthwise_policy.prefill.scheduler import PrefillScheduler
from lengthwise_policy.types import RequestId

BLOCK_SIZE = 16
# A step costs 10 ms, and so do 200 tokens.
COST = CostModel(
    step_seconds=0.010,
    token_seconds=5e-5,
    attention_seconds=0.0,
    history_seconds=0.0,
    decode_request_seconds=0.0,
    decode_context_seconds=0.0,
)


def objective(**seconds: float) -> dict[str, Any]:
    return {"objectives": Objectives(**seconds)}


class Worker:
    """A scheduler on a clock of its own; a batch takes what the cost model says. Classes share no
    batch unless a test asks for it."""

    def __init__(self, cost: CostModel = COST, *, num_blocks: int = 10_000, **policy: Any) -> None:
        objectives = policy.pop("objectives", Objectives())
        self.cost = cost
        self.policy = PrefillPolicy(**{"top_up_share": 0.0, **policy})
        self.scheduler = PrefillScheduler(
            self.policy, objectives, PrefixCache(num_blocks), BLOCK_SIZE
        )
        self.now = 0.0
        self.num_arrived = 0

    def enqueue(self, num_tokens: int, *, priority: int = 0, deadline_at: float = math.inf) -> str:
        self.num_arrived += 1
        name = f"r{self.num_arrived}"
        self.scheduler.enqueue(
            PrefillJob(
                request_id=RequestId(name),
                num_tokens=num_tokens,
                arrived_at=self.now,
                deadline_at=deadline_at,
                priority=priority,
            )
        )
        return name

    def plan(self) -> PrefillBatch | None:
        return self.scheduler.next_batch(self.now, self.cost)

    def run(self) -> PrefillBatch:
        batch = self.plan()
        assert batch is not None
        self.end(batch)
        return batch

    def end(self, batch: PrefillBatch) -> None:
        self.now += self.seconds(batch)
        for request_id in self.scheduler.computed(batch):
            self.scheduler.release(request_id)

    def seconds(self, batch: PrefillBatch) -> float:
        chunks = (self.cost.chunk_seconds(c.num_tokens, c.start) for c in batch.chunks)
        return self.cost.step_seconds + sum(chunks)

    def stream_of_shorts(self, count: int, gap: float) -> None:
        """Lets short prompts come and go, so that their rate is known."""
        for _ in range(count):
            self.now += gap
            self.scheduler.release(RequestId(self.enqueue(20)))


def rule(batch: PrefillBatch | None) -> str:
    assert batch is not None
    return batch.rule


def names(batch: PrefillBatch | None) -> list[str]:
    assert batch is not None
    return [chunk.request_id for chunk in batch.chunks]


def test_short_prompts_go_ahead_of_a_long_one_that_came_first() -> None:
    worker = Worker()
    worker.enqueue(2000)
    shorts = [worker.enqueue(30), worker.enqueue(40)]
    batch = worker.run()
    assert (names(batch), batch.length, rule(batch)) == (shorts, "short", "ahead")
    assert worker.run().length == "long"


def test_the_boundary_is_the_callers() -> None:
    worker = Worker()
    worker.scheduler.next_batch(0.0, COST, short_tokens=64)
    worker.enqueue(100)
    worker.enqueue(64)
    batch = worker.scheduler.next_batch(0.0, COST, short_tokens=64)
    assert names(batch) == ["r2"]


def test_prompts_of_the_first_ones_length_come_before_others() -> None:
    worker = Worker(chunk_tokens=64)
    worker.enqueue(20)
    worker.enqueue(5)
    worker.enqueue(30)
    assert names(worker.run()) == ["r1", "r3", "r2"]


def test_higher_priority_goes_first_within_a_class_whatever_its_length() -> None:
    worker = Worker(max_batch_requests=2)
    worker.enqueue(20)
    worker.enqueue(30)
    worker.enqueue(200, priority=1)
    assert names(worker.run()) == ["r3", "r1"]
    worker.enqueue(1000)
    worker.enqueue(1000, priority=5)
    assert names(worker.run()) == ["r2"]
    assert names(worker.run())[0] == "r5"


def test_an_idle_device_does_not_wait_where_nothing_is_gained() -> None:
    worker = Worker()
    worker.stream_of_shorts(200, gap=0.02)  # 50 a second: 0.5 would come in one launch's time
    worker.enqueue(20)
    assert rule(worker.plan()) == "alone"


def busy_worker(**policy: Any) -> Worker:
    """400 short prompts a second: 4 come in the time of one launch."""
    worker = Worker(**policy)
    worker.stream_of_shorts(2000, gap=0.0025)
    return worker


def test_a_window_opens_where_waiting_gains_and_closes_in_time() -> None:
    worker = busy_worker()
    opened_at = worker.now
    worker.enqueue(20)
    assert worker.plan() is None
    assert worker.scheduler.wake_at == pytest.approx(opened_at + 0.008)
    worker.now += 0.002
    worker.enqueue(20)
    assert worker.plan() is None
    assert worker.scheduler.wake_at == pytest.approx(opened_at + 0.008)  # not extended
    worker.now = opened_at + 0.008
    batch = worker.plan()
    assert (names(batch), rule(batch)) == (["r2001", "r2002"], "window")


def test_a_window_closes_when_enough_have_come() -> None:
    worker = busy_worker()
    worker.enqueue(20)
    assert worker.plan() is None
    for _ in range(4):
        worker.enqueue(20)
    batch = worker.plan()
    assert batch is not None
    assert (len(batch.chunks), rule(batch)) == (5, "window")


@pytest.mark.parametrize(
    ("policy", "deadline_in", "seconds"),
    [
        pytest.param(objective(ttft_short_seconds=0.018), math.inf, 0.006, id="objective"),
        pytest.param({}, 0.017, 0.005, id="deadline of the request"),
        pytest.param(objective(ttft_short_seconds=0.012), math.inf, None, id="no slack at all"),
        pytest.param({"max_wait_seconds": 0.0}, math.inf, None, id="no window allowed"),
    ],
)
def test_a_window_never_eats_the_slack(
    policy: dict[str, Any], deadline_in: float, seconds: float | None
) -> None:
    """A batch of one short prompt takes 11 ms, and 1 ms is kept."""
    worker = busy_worker(**policy)
    worker.enqueue(20, deadline_at=worker.now + deadline_in)
    batch = worker.plan()
    if seconds is None:
        assert rule(batch) == "alone"
    else:
        assert batch is None
        assert worker.scheduler.wake_at == pytest.approx(worker.now + seconds)


def test_nothing_is_waited_for_while_a_long_prompt_waits() -> None:
    worker = busy_worker()
    worker.enqueue(20)
    assert worker.plan() is None
    worker.enqueue(2000)
    batch = worker.plan()
    assert batch is not None
    assert batch.length == "short"


def shares(worker: Worker, num_batches: int) -> tuple[dict[str, float], set[tuple[str, str]]]:
    """Seconds of each class, and the rules it ran by, while both always wait."""
    seconds = {"short": 0.0, "long": 0.0}
    rules: set[tuple[str, str]] = set()
    for _ in range(num_batches):
        worker.enqueue(30)
        batch = worker.run()
        seconds[batch.length] += worker.seconds(batch)
        rules.add((batch.length, rule(batch)))
    return seconds, rules


def test_long_prompts_get_their_share_while_short_ones_go_ahead() -> None:
    worker = Worker(long_share=0.3, max_age_seconds=1000.0, **objective(ttft_long_seconds=1e6))
    worker.enqueue(100_000)
    seconds, rules = shares(worker, 150)
    assert seconds["long"] / sum(seconds.values()) == pytest.approx(0.3, abs=0.03)
    assert rules == {("short", "ahead"), ("long", "share")}


def test_short_prompts_get_their_share_while_aged_long_ones_go_first() -> None:
    worker = Worker(short_share=0.1, max_age_seconds=0.0)
    worker.enqueue(100_000)
    seconds, rules = shares(worker, 150)
    assert seconds["short"] / sum(seconds.values()) == pytest.approx(0.1, abs=0.03)
    assert rules == {("long", "aged"), ("short", "share")}


@pytest.mark.parametrize(
    ("policy", "age"),
    [
        pytest.param({"max_age_seconds": 0.2}, 0.2, id="cap"),
        # 2000 tokens take 0.11 s: of an objective of 0.31 s half the slack is 0.1 s.
        pytest.param(objective(ttft_long_seconds=0.31), 0.1, id="half the slack"),
        pytest.param(objective(ttft_long_seconds=0.1), 0.0, id="no slack"),
    ],
)
def test_a_long_prompt_is_overtaken_only_by_what_came_before_it_aged(
    policy: dict[str, Any], age: float
) -> None:
    worker = Worker(**policy)
    worker.enqueue(2000)
    if age > 0:
        worker.now = age - 0.001
        worker.enqueue(30)
        worker.now = age + 1.0
        assert rule(worker.run()) == "ahead"
    worker.now = age + 0.001
    worker.enqueue(30)
    batch = worker.plan()
    assert (names(batch), rule(batch)) == (["r1"], "aged")


def test_blocks_gather_for_a_long_prompt_that_has_aged() -> None:
    """30 of 40 blocks are held: short prompts could begin for ever, one of 20 blocks never."""
    worker = Worker(num_blocks=40, max_age_seconds=0.5)
    holder = worker.enqueue(30 * BLOCK_SIZE)
    held = worker.plan()
    assert held is not None
    worker.scheduler.computed(held)
    worker.enqueue(20 * BLOCK_SIZE)
    worker.now = 0.4
    worker.enqueue(30)
    assert names(worker.run()) == ["r3"]  # not aged: others may go
    worker.now = 0.6
    worker.enqueue(30)
    assert worker.plan() is None
    worker.scheduler.release(RequestId(holder))
    assert names(worker.run()) == ["r2"]


def test_chunks_are_smaller_while_short_prompts_wait() -> None:
    worker = Worker(chunk_seconds=0.02, max_age_seconds=0.0, min_chunk_tokens=64)
    worker.enqueue(5000)
    assert worker.run().num_tokens == 512
    worker.enqueue(30)
    batch = worker.run()
    assert batch.length == "long"
    assert batch.num_tokens == 192  # 10 ms and 200 tokens, in whole blocks


def test_chunks_are_never_below_the_least() -> None:
    worker = Worker(chunk_seconds=0.0, max_age_seconds=0.0, min_chunk_tokens=64)
    worker.enqueue(5000)
    worker.enqueue(30)
    batch = worker.run()
    assert (batch.length, batch.num_tokens) == ("long", 64)


def test_long_prompts_share_the_rest_of_a_batch() -> None:
    worker = Worker()
    worker.enqueue(600)
    worker.enqueue(700)
    worker.run()
    assert [(c.request_id, c.num_tokens) for c in worker.run().chunks] == [("r1", 88), ("r2", 416)]


Arrival = tuple[float, int]


@given(
    arrivals=st.lists(
        st.tuples(st.floats(0.0, 0.05), st.sampled_from([8, 60, 200, 300, 900, 3000])),
        min_size=5,
        max_size=80,
    ),
    short_share=st.floats(0.05, 0.4),
    long_share=st.floats(0.05, 0.6),
    max_age=st.sampled_from([0.0, 0.1, 10.0]),
    top_up=st.sampled_from([0.0, 0.5, 2.0]),
)
def test_no_class_waits_beyond_its_bound(
    arrivals: list[Arrival], short_share: float, long_share: float, max_age: float, top_up: float
) -> None:
    """The bounds that length_aware.py states, on the clock of the predicted seconds."""
    worker = Worker(
        short_share=short_share, long_share=long_share, max_age_seconds=max_age, top_up_share=top_up
    )
    largest = worker.cost.prefill_seconds(worker.policy.chunk_tokens)
    bounds = {
        length: (1 - share) / share * largest + largest + 1e-9
        for length, share in (("short", short_share), ("long", long_share))
    }
    times = list(itertools.accumulate(gap for gap, _ in arrivals))
    waited = {"short": 0.0, "long": 0.0}
    arrived = 0
    while arrived < len(arrivals) or worker.scheduler.num_queued:
        while arrived < len(arrivals) and times[arrived] <= worker.now:
            worker.enqueue(arrivals[arrived][1])
            arrived += 1
        waiting = [
            length for length in LENGTH_CLASSES if worker.scheduler.queue_length(length).requests
        ]
        batch = worker.plan()
        if batch is None:
            wake_at = worker.scheduler.wake_at
            instants = [at for at in (wake_at, *times[arrived : arrived + 1]) if at is not None]
            worker.now = max(worker.now, min(instants))
            continue
        for length in LENGTH_CLASSES:
            waits = length in waiting and batch.length not in (length, "mixed")
            waited[length] = waited[length] + worker.seconds(batch) if waits else 0.0
            assert waited[length] <= bounds[length]
        worker.end(batch)


def test_a_small_batch_of_short_prompts_is_topped_up_with_a_long_one() -> None:
    """The step costs what 200 tokens cost: up to 100 of them, in whole blocks."""
    worker = Worker(top_up_share=0.5)
    worker.enqueue(5000)
    worker.enqueue(30)
    batch = worker.run()
    assert [(c.request_id, c.num_tokens) for c in batch.chunks] == [("r2", 30), ("r1", 64)]
    assert (batch.length, batch.rule) == ("mixed", "ahead")
    worker.enqueue(90)
    assert names(worker.run()) == ["r3"]  # it has enough itself
    assert worker.run().chunks[0].start == 64
    worker.enqueue(5000)
    worker.enqueue(30)
    assert worker.run().num_tokens == 30 + 160  # 100 for each of the two


def test_a_batch_is_topped_up_within_its_limits() -> None:
    worker = Worker(top_up_share=50.0, chunk_tokens=64, max_batch_requests=2)
    worker.enqueue(5000)
    for _ in range(2):
        worker.enqueue(10)
    assert names(worker.run()) == ["r2", "r3"]  # so many requests
    worker.enqueue(40)
    assert worker.run().num_tokens == 56


def test_long_prompts_yield_to_much_shorter_ones_that_come_soon_after() -> None:
    worker = Worker(max_age_seconds=0.3)
    slowest = worker.enqueue(4000)  # takes 0.21 s: yields for min(0.42, 0.3) s
    worker.now += 0.1
    soon = worker.enqueue(500)  # yields for 0.07 s
    worker.now += 0.15
    late = worker.enqueue(500)
    order = list(itertools.chain.from_iterable(names(worker.run()) for _ in range(10)))
    assert list(dict.fromkeys(order)) == [soon, slowest, late]


def test_a_long_prompt_is_overtaken_by_none_that_comes_after_its_age() -> None:
    worker = Worker(max_age_seconds=0.3, long_share=0.3)
    slowest = worker.enqueue(8000)
    worker.now += 0.31
    worker.enqueue(300)
    assert names(worker.run()) == [slowest]
