"""Past-Future: the peak that is predicted, what it is predicted from, and who joins."""

from dataclasses import dataclass
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthwise_policy.decode.past_future import (
    Footprint,
    OutputLengths,
    PastFutureAdmission,
    Verdict,
    peak_blocks,
)
from lengthwise_policy.decode.policy import PastFuturePolicy

HOLDS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 100)), max_size=12)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    own_slots: int
    generated: int = 1
    max_new_tokens: int = 1000


def admits(verdict: Verdict) -> bool:
    return verdict.rule != "waits for memory"


def drawn(lengths: OutputLengths, requests: list[Request], random: Random) -> list[Footprint]:
    (holds,) = lengths.samplings(requests, random.random, 1)
    return holds


def true_peak(held: list[Footprint], block_size: int) -> int:
    """Plays every step: all gain a token, and leave after their last."""
    steps = range(max((remaining for remaining, _ in held), default=0) + 1)
    return max(
        sum(-(-(tokens + step) // block_size) for remaining, tokens in held if step <= remaining)
        for step in steps
    )


@given(HOLDS)
def test_the_peak_in_tokens_is_that_of_all_future_steps(held: list[Footprint]) -> None:
    assert peak_blocks(held, 1) == true_peak(held, 1)


@given(HOLDS, st.integers(1, 20))
def test_the_peak_in_blocks_is_never_below_the_true_one_and_at_most_a_block_per_request_above(
    held: list[Footprint], block_size: int
) -> None:
    assert 0 <= peak_blocks(held, block_size) - true_peak(held, block_size) <= len(held)


@given(HOLDS, st.randoms(use_true_random=False))
def test_the_peak_does_not_depend_on_the_order(held: list[Footprint], random: Random) -> None:
    shuffled = random.sample(held, len(held))
    assert peak_blocks(shuffled, 16) == peak_blocks(held, 16)


@given(
    st.lists(st.integers(0, 50), max_size=40),
    st.integers(0, 12),
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 50)), min_size=1, max_size=10),
    st.integers(0, 1000),
)
def test_a_prediction_is_a_longer_past_output_or_the_limit_and_never_above_the_limit(
    finished: list[int], window: int, requests: list[tuple[int, int]], seed: int
) -> None:
    lengths = OutputLengths(window)
    for length in finished:
        lengths.finished(length)
    remembered = finished[-window:] if window else []
    running = [
        Request(own_slots=7, generated=min(generated, limit), max_new_tokens=limit)
        for generated, limit in requests
    ]
    for request, (remaining, held) in zip(
        running, drawn(lengths, running, Random(seed)), strict=True
    ):
        limit = request.max_new_tokens
        possible = {min(x, limit) for x in (*remembered, limit) if x > request.generated}
        assert held == 7
        assert remaining + request.generated in possible or (remaining == 0 and not possible)


def test_predictions_are_drawn_evenly_from_the_past_and_begin_with_worst_cases() -> None:
    lengths = OutputLengths(200)
    random = Random(1)
    request = [Request(own_slots=1, generated=0, max_new_tokens=1000)] * 4000
    worst = [1000]
    assert {remaining for remaining, _ in drawn(lengths, request, random)} == set(worst)
    for _ in range(50):
        lengths.finished(10)
    to_come = [remaining for remaining, _ in drawn(lengths, request, random)]
    assert to_come.count(10) == pytest.approx(2000, abs=200)  # the other half is not known yet
    for length in [10, 20] * 100:
        lengths.finished(length)
    to_come = [remaining for remaining, _ in drawn(lengths, request, random)]
    assert to_come.count(10) == pytest.approx(2000, abs=200)
    assert to_come.count(20) == pytest.approx(2000, abs=200)


def admission(policy: PastFuturePolicy, outputs: list[int], seed: int = 0) -> PastFutureAdmission:
    """Blocks of 16 tokens."""
    future = PastFutureAdmission(policy, 16, Random(seed).random)
    for length in outputs:
        future.finished(length)
    return future


def test_short_outputs_let_more_join_than_their_worst_case_would() -> None:
    running = [Request(own_slots=160)] * 20  # 10 blocks each; the worst case has 72.5
    candidate = Request(own_slots=160)
    predicting = admission(PastFuturePolicy(), [32] * 300).may_join(running, candidate, 1000)
    assert admits(predicting)
    assert predicting.reason.startswith("fits: predicted peak of ")
    cautious = admission(PastFuturePolicy(window=0), [32] * 300).may_join(running, candidate, 1000)
    assert not admits(cautious)
    assert cautious.peak_blocks == 21 * (10 + 63)
    assert cautious.reason == (
        "waits for memory: predicted peak of 1533 blocks with 20 running, limit 950"
    )


@pytest.mark.parametrize(
    ("capacity", "admitted"), [pytest.param(80, True, id="80"), pytest.param(79, False, id="79")]
)
def test_the_reserve_is_kept_free(capacity: int, admitted: bool) -> None:
    request = Request(own_slots=16, max_new_tokens=16 * 19 + 1)  # 20 blocks in the end
    future = admission(PastFuturePolicy(window=0, reserve=0.5), [])
    assert future.may_join([request], request, capacity).peak_blocks == 40
    assert admits(future.may_join([request], request, capacity)) is admitted


def test_a_request_whose_kv_still_arrives_counts_as_running() -> None:
    arriving = Request(own_slots=1600)  # 100 blocks, what the reserve leaves of 106
    future = admission(PastFuturePolicy(), [2] * 300)
    assert admits(future.may_join([Request(own_slots=16)], Request(own_slots=16), 106))  # 4 blocks
    crowd = [Request(own_slots=16), arriving]
    assert not admits(future.may_join(crowd, Request(own_slots=16), 106))


def test_an_empty_worker_takes_whatever_fits_at_all() -> None:
    future = admission(PastFuturePolicy(reserve=0.5), [])
    candidate = Request(own_slots=160, max_new_tokens=161)  # 320 slots
    assert admits(future.may_join([], candidate, 20))
    refused = future.may_join([], candidate, 19)
    assert not admits(refused)
    assert refused.reason == "waits for memory: at most 20 blocks, 19 can be had"


@dataclass(slots=True)
class Played:
    """A request whose output length only the test knows."""

    prompt: int
    output: int
    generated: int = 1
    max_new_tokens: int = 1024

    @property
    def own_slots(self) -> int:
        return self.prompt + self.generated - 1


def play(policy: PastFuturePolicy) -> tuple[int, int]:
    """4000 steps of a worker of 1000 blocks with a line before it: requests done, and those that
    had to go because no block was left."""
    random = Random(1)
    future = PastFutureAdmission(policy, 16, Random(2).random)

    def arrival() -> Played:
        output = min(max(int(random.lognormvariate(5, 0.8)), 2), 1024)
        return Played(random.randrange(20, 600), output)

    running: list[Played] = []
    candidate = arrival()
    done = thrown_out = 0
    for _ in range(4000):
        while admits(future.may_join(running, candidate, 1000)):
            running.append(candidate)
            candidate = arrival()
        for request in running:
            request.generated += 1
        for request in running:
            if request.generated == request.output:
                future.finished(request.output)
                done += 1
        running = [request for request in running if request.generated < request.output]
        while sum(-(-request.own_slots // 16) for request in running) > 1000:
            running.pop()
            thrown_out += 1
    return done, thrown_out


@pytest.mark.slow
def test_predicting_serves_more_than_worst_cases_and_hardly_anybody_is_thrown_out() -> None:
    done, thrown_out = play(PastFuturePolicy())
    cautious, none = play(PastFuturePolicy(window=0))
    assert done > 1.4 * cautious
    assert thrown_out <= 0.02 * done
    assert none == 0


def test_the_same_seed_decides_the_same() -> None:
    def verdicts(seed: int) -> list[int]:
        random = Random(7)
        future = admission(PastFuturePolicy(), [random.randrange(1, 500) for _ in range(100)], seed)
        running = [Request(own_slots=random.randrange(1, 2000)) for _ in range(30)]
        return [future.may_join(running, Request(own_slots=50), 2000).peak_blocks for _ in range(5)]

    assert verdicts(3) == verdicts(3)
    assert verdicts(3) != verdicts(4)


def test_few_requests_are_sampled_more_often_than_many() -> None:
    draws = []

    def random() -> float:
        draws.append(0)
        return 0.5

    for running, expected in [(1, 5), (39, 5 * 39), (120, 2 * 120), (256, 256)]:
        draws.clear()
        PastFutureAdmission(PastFuturePolicy(), 16, random).predicted_blocks(
            [Request(own_slots=1)] * running
        )
        assert len(draws) == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"window": -1}, "window: expected at least 0, got -1"),
        ({"reserve": -0.1}, "reserve: expected at least 0"),
        ({"reserve": 0.95}, "reserve: expected at most 0.9, got 0.95"),
    ],
)
def test_a_policy_out_of_range_is_refused_by_name(values: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PastFuturePolicy(**values)
