"""A simulated cluster: whatever its shape, no block leaks, no request is lost, and equal input
gives equal runs."""

from collections.abc import Iterable
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulator.clusters import check_nothing_is_left, group, random_requests

from lengthwise_policy.admission.admission import AdmissionPolicy
from lengthwise_policy.decode.policy import DecodePolicy
from lengthwise_policy.placement.policy import PlacementPolicy
from lengthwise_policy.placement.strategies import STRATEGIES
from lengthwise_policy.prefill.disciplines import DISCIPLINES
from lengthwise_policy.prefill.policy import PrefillPolicy
from lengthwise_simulator.cluster.decode_worker import SimulatedDecodeWorker
from lengthwise_simulator.cluster.simulation import SimulatedRun, Simulation
from lengthwise_simulator.cluster.spec import ClusterPolicies, ClusterSpec, WorkerFailure
from lengthwise_simulator.errors import SimulationError
from lengthwise_simulator.workload.arrivals import poisson
from lengthwise_simulator.workload.planned import ArrivingRequest, single_request
from lengthwise_simulator.workload.requests import Sessions, conversations
from lengthwise_simulator.workload.traces import TraceRow

PAIR = ClusterSpec(groups=(group("prefill", 1), group("decode", 1)))
NO_LOCAL = ClusterPolicies(placement=PlacementPolicy(local_prefill=False))
AGGREGATED = ClusterSpec(groups=(group("decode", 2),))


def run(cluster: ClusterSpec, requests: Iterable[ArrivingRequest]) -> SimulatedRun:
    return Simulation(cluster, requests).run()


def trail(done: SimulatedRun) -> list[object]:
    """What could differ between two runs."""
    return [
        (each.arrived_at, each.first_token_at, each.ended_at, each.prefill, each.decode, each.rule)
        for each in done.journeys
    ]


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(
    prefill=st.integers(0, 3),
    decode=st.integers(1, 3),
    routers=st.integers(1, 3),
    kv_tokens=st.integers(64, 4000),
    rate=st.floats(5, 500),
    discipline=st.sampled_from(sorted(DISCIPLINES)),
    strategy=st.sampled_from(sorted(STRATEGIES)),
    in_flight=st.integers(1, 40),
    queue=st.integers(1, 8),
    block_size=st.sampled_from([1, 7, 16]),
    seed=st.integers(0, 9),
)
def test_no_block_leaks_and_no_request_is_lost(
    prefill: int, decode: int, routers: int, kv_tokens: int, rate: float, discipline: str,
    strategy: str, in_flight: int, queue: int, block_size: int, seed: int,
) -> None:  # fmt: skip
    cluster = ClusterSpec(
        groups=(
            group("prefill", prefill, kv_tokens=kv_tokens),
            group("decode", decode, kv_tokens=kv_tokens, link=1e8),
        ),
        policies=ClusterPolicies(
            strategy=strategy,
            admission=AdmissionPolicy(max_requests_in_flight=in_flight, max_queued=20),
            prefill=PrefillPolicy(discipline=discipline, queue_limit=queue),  # type: ignore[arg-type]
        ),
        routers=routers,
        block_size=block_size,
        seed=seed,
    )
    done = run(cluster, random_requests(40, rate=rate, seed=seed))
    assert len(done.journeys) == 40
    check_nothing_is_left(done)


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(
    failures=st.lists(
        st.tuples(
            st.floats(0, 3),
            st.sampled_from(["prefill-0-0000", "prefill-0-0001", "decode-1-0000", "decode-1-0001"]),
        ),
        max_size=6,
    ),
    start=st.floats(0, 12),
    kv_tokens=st.integers(200, 4000),
    caching=st.booleans(),
    rate=st.floats(20, 200),
    routers=st.integers(1, 2),
    seed=st.integers(0, 9),
)
def test_whatever_fails_no_block_leaks_and_no_request_is_lost(
    failures: list[tuple[float, str]], start: float, kv_tokens: int, caching: bool, rate: float,
    routers: int, seed: int,
) -> None:  # fmt: skip
    slow = {"kv_tokens": kv_tokens, "link": 1e8}
    cluster = ClusterSpec(
        groups=(
            replace(group("prefill", 2, **slow), start_seconds=start),  # type: ignore[arg-type]
            replace(group("decode", 2, **slow), start_seconds=start),  # type: ignore[arg-type]
        ),
        policies=ClusterPolicies(prefix_caching=caching),
        failures=tuple(WorkerFailure(at=at, worker=worker) for at, worker in failures),
        routers=routers,
    )
    done = run(cluster, random_requests(60, rate=rate, seed=seed))
    assert len(done.journeys) == 60
    check_nothing_is_left(done)


def test_prompts_that_wait_at_a_worker_come_to_the_one_that_starts() -> None:
    """Each takes 0.17 s, and 40 are there before the second worker is back."""
    cluster = replace(
        PAIR,
        groups=(
            replace(group("prefill", 2, kv_tokens=1_000_000), start_seconds=1.0),
            group("decode", 1, kv_tokens=1_000_000),
        ),
        policies=NO_LOCAL,
        failures=(WorkerFailure(at=0.0, worker="prefill-0-0000"),),
    )
    done = run(cluster, [single_request(0.5, 8000, 4, key=key) for key in range(40)])
    check_nothing_is_left(done)
    at_newcomer = [each for each in done.journeys if each.prefill != "prefill-0-0001"]
    assert 16 <= len(at_newcomer) <= 20
    assert {each.num_attempts for each in at_newcomer} == {1}  # with the blocks that they had
    generating = next(each for each in done.workers if isinstance(each, SimulatedDecodeWorker))
    assert generating.scheduler._num_reservations == 40


def test_a_worker_that_fails_before_routers_have_met_it_is_not_waited_for() -> None:
    failing = replace(
        PAIR,
        groups=(replace(group("prefill", 2), start_seconds=0.0), group("decode", 1)),
        policies=NO_LOCAL,
        failures=(
            WorkerFailure(at=0.5, worker="prefill-0-0000"),
            WorkerFailure(at=0.50001, worker="prefill-0-0000"),
        ),
    )
    requests = [single_request(1.0 + key, 100, 4, key=key) for key in range(4)]
    assert [each.ending for each in run(failing, requests).journeys] == ["done"] * 4


def test_a_request_goes_on_where_its_decode_worker_has_failed() -> None:
    failing = replace(
        PAIR,
        groups=(group("prefill", 1), group("decode", 2)),
        policies=NO_LOCAL,
        failures=(WorkerFailure(at=1.5, worker="decode-1-0000"),),
    )
    journeys = run(failing, [single_request(1.0, 100, 400, key=key) for key in (1, 2)]).journeys
    assert [each.ending for each in journeys] == ["done", "done"]
    (moved,) = [each for each in journeys if each.num_attempts == 2]
    assert moved.decode == "decode-1-0001"
    # What had been generated in 0.5 s of steps of 6 ms; the prefill worker has the prompt still.
    assert 70 < moved.computed_tokens - 100 < 90


def test_a_pod_takes_the_place_of_a_failed_one_once_it_has_started() -> None:
    alone = replace(
        AGGREGATED,
        groups=(replace(group("decode", 1), start_seconds=3.0),),
        failures=(WorkerFailure(at=1.0, worker="decode-0-0000"),),
    )
    (journey,) = run(alone, [single_request(2.0, 100, 5, key=1)]).journeys
    assert journey.decode == "decode-0-0000+1"
    assert 4.0 < journey.first_token_at < 4.2


def test_equal_seeds_give_equal_runs() -> None:
    cluster = ClusterSpec(groups=(group("prefill", 2), group("decode", 2)), routers=2)
    one, other = (run(cluster, random_requests(60, rate=30)) for _ in range(2))
    assert trail(one) == trail(other)


def test_a_lone_request_takes_what_its_steps_and_calls_take() -> None:
    cost = PAIR.groups[0].costs
    cluster = replace(PAIR, call_seconds=0.001)
    (journey,) = run(cluster, [single_request(1.0, 400, 3, key=1)]).journeys
    assert journey.rule == "predicted ttft"
    # Reserve and its answer, Prefill and its answer; the first of a pair opens the link between.
    first = 1.0 + 6 * 0.001 + cost.step_seconds([(400, 0)], 0, 0)
    assert journey.first_token_at == pytest.approx(first)
    sent = first - 0.001 + 0.001 + 400 * 131_072 / 25e9 + 0.001  # announced, sent, committed
    steps = sum(cost.step_seconds([], 1, 400 + done) for done in (1, 2))
    assert journey.ended_at == pytest.approx(sent + steps + 0.001)


def test_a_long_prompt_leaves_layer_by_layer_while_it_is_computed() -> None:
    slow = replace(
        PAIR,
        policies=NO_LOCAL,
        groups=(group("prefill", 1, link=1e9), group("decode", 1, link=1e9)),
    )
    (journey,) = run(slow, [single_request(0.0, 4096, 2, key=1)]).journeys
    bytes_in_all, computing = 4096 * 131_072, journey.first_token_at - journey.began_at
    sending = bytes_in_all / 1e9
    between = journey.ended_at - journey.first_token_at
    assert max(sending - computing, 0) < between < sending


def test_without_prefill_workers_decode_workers_compute_prompts() -> None:
    done = run(AGGREGATED, random_requests(50, rate=20))
    assert {each.rule for each in done.journeys} == {"no prefill worker"}
    assert all(each.prefill is None for each in done.journeys)


def test_a_prompt_that_no_worker_can_hold_is_refused() -> None:
    (journey,) = run(PAIR, [single_request(0.0, 120_000, 2, key=1)]).journeys
    assert journey.ending == "refused"
    assert "100000 tokens of KV" in journey.reason


def test_the_next_turn_finds_what_the_last_one_left() -> None:
    rows = [TraceRow(None, 100, 60, ())]
    sessions = Sessions(mean_turns=5, think_seconds=2.0)
    turns = conversations(sessions, rows, poisson(2.0, Random(1)), 20, Random(2))
    alone = replace(AGGREGATED, groups=(group("decode", 1),))
    done = run(alone, turns)
    check_nothing_is_left(done)
    later = [each for each in done.journeys if each.request.prompt_tokens > 100]
    assert len(later) > 20
    assert all(each.ending == "done" for each in later)
    # 100 tokens are new; of the history all but a partial block is there.
    assert sum(each.computed_tokens for each in later) <= (100 + 16) * len(later)
    without = replace(alone, policies=ClusterPolicies(prefix_caching=False))
    again = run(without, turns)
    assert all(each.computed_tokens >= each.request.prompt_tokens for each in again.journeys)


def test_a_system_prompt_is_computed_once_by_each_worker() -> None:
    rows = [TraceRow(None, 50, 5, ())]
    sessions = Sessions(mean_turns=1, system_tokens=1000)
    turns = conversations(sessions, rows, poisson(5.0, Random(1)), 40, Random(2))
    done = run(replace(AGGREGATED, groups=(group("decode", 1),)), turns)
    first, *others = sorted(done.journeys, key=lambda each: each.arrived_at)
    assert first.computed_tokens == 1050
    assert max(each.computed_tokens for each in others[2:]) < 70


def test_too_much_load_is_refused_once_the_line_is_full() -> None:
    policies = ClusterPolicies(admission=AdmissionPolicy(max_requests_in_flight=4, max_queued=2))
    done = run(replace(PAIR, policies=policies), random_requests(100, rate=1000))
    refused = [each for each in done.journeys if each.ending == "refused"]
    assert len(refused) > 50
    assert all("the limit is 4" in each.reason for each in refused)


def test_a_preempted_request_tells_how_long_it_had_no_blocks() -> None:
    full = ClusterSpec(
        groups=(group("decode", 1, kv_tokens=256),),
        policies=ClusterPolicies(decode=DecodePolicy(admission="free_now")),
    )
    done = run(full, [single_request(0.0, 30, 60, key=key) for key in range(1, 7)])
    check_nothing_is_left(done)
    preempted = [each for each in done.journeys if each.preemptions]
    assert preempted, "six of 6 blocks each in 16"
    assert all(each.paused_seconds > 0 for each in preempted)
    assert not any(each.paused_seconds for each in done.journeys if not each.preemptions)


def test_local_prefill_is_a_choice_of_the_policy() -> None:
    done = run(replace(PAIR, policies=NO_LOCAL), random_requests(50, rate=2))
    assert {each.rule for each in done.journeys} == {"predicted ttft"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"groups": (group("prefill", 1),)}, "no decode worker"),
        ({"groups": (group("decode", 1, kv_tokens=3),)}, "does not fit"),
        ({"policies": ClusterPolicies(strategy="best")}, "predicted_ttft"),
        ({"failures": (WorkerFailure(at=1.0, worker="decode-0"),)}, "decode-1-0000"),
    ],
)
def test_a_cluster_that_cannot_be_is_refused(change: dict[str, object], told: str) -> None:
    with pytest.raises(SimulationError, match=told):
        replace(PAIR, **change)  # type: ignore[arg-type]


def test_a_workload_in_disorder_is_refused() -> None:
    with pytest.raises(SimulationError, match="order of arrival"):
        run(PAIR, [single_request(2.0, 10, 1, key=1), single_request(1.0, 10, 1, key=2)])
    with pytest.raises(SimulationError, match="no request"):
        run(PAIR, [])
