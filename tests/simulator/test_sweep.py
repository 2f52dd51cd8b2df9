"""Sweeps that end in the middle go on; settings are taken for a sure gain alone."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from simulator.clusters import SmallRun, group, random_requests

from lengthwise_cli.errors import CommandError
from lengthwise_cli.simulate.sweeping import SweepGrid
from lengthwise_cli.simulate.tuning import tuned_values
from lengthwise_policy.prefill.policy import PrefillPolicy
from lengthwise_simulator.cluster.simulation import Simulation
from lengthwise_simulator.cluster.spec import ClusterPolicies, ClusterSpec
from lengthwise_simulator.errors import SimulationError
from lengthwise_simulator.results import RunSummary
from lengthwise_simulator.search.sweep import SweepFile, sweep
from lengthwise_simulator.search.tune import TunedKnob, tune

GRID = SweepGrid(
    rates=(2.0, 20.0), disciplines=("fcfs", "length_aware"), strategies=("predicted_ttft",),
    ratios=("1:1", "0:2"), seeds=(0,),
)  # fmt: skip


@pytest.mark.parametrize("cut", ["a line", "within a line"])
def test_a_sweep_that_was_ended_runs_only_what_its_file_lacks(tmp_path: Path, cut: str) -> None:
    points, path = GRID.points("some"), tmp_path / "sweep.csv"
    assert len(points) == 8
    running = sweep(points, SmallRun(), SweepFile(path), processes=1)
    for _ in range(5):
        next(running)
    running.close()
    whole = path.read_text()
    if cut == "within a line":
        path.write_text(whole[:-10])
    lacking = SweepFile(path).lacking(points)
    assert len(lacking) == (3 if cut == "a line" else 4)
    assert list(sweep(points, SmallRun(), SweepFile(path), processes=1)) == lacking
    straight = tmp_path / "straight.csv"
    list(sweep(points, SmallRun(), SweepFile(straight), processes=1))
    rows = [line for line in path.read_text().splitlines() if line.count(",") == 18]
    assert sorted(rows) == sorted(straight.read_text().splitlines())
    assert SweepFile(path).lacking(GRID.points("another")) != []


@pytest.mark.slow
def test_processes_give_the_rows_of_one(tmp_path: Path) -> None:
    points = GRID.points("some")
    texts = []
    for processes in (1, 2):
        path = tmp_path / f"{processes}.csv"
        list(sweep(points, SmallRun(), SweepFile(path), processes))
        texts.append(path.read_text())
    assert texts[0] == texts[1]


def test_a_file_of_something_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(SimulationError, match="line 1"):
        SweepFile(path)
    assert path.read_text() == "a,b\n1,2\n"


@pytest.mark.parametrize("ratio", ["1", "1:0", "-1:2", "a:b", "1:2:3", "", "²:1", "1:99999999"])
def test_a_ratio_that_cannot_be_is_refused(ratio: str) -> None:
    with pytest.raises(CommandError, match="--ratio: got"):
        replace(GRID, ratios=(ratio,)).points("some")


@pytest.mark.parametrize("rate", [0.0, -1.0, float("inf"), float("nan")])
def test_a_rate_that_cannot_be_is_refused(rate: float) -> None:
    with pytest.raises(CommandError, match="--rate"):
        replace(GRID, rates=(rate,)).points("some")


@pytest.fixture(scope="module")
def summary() -> RunSummary:
    cluster = ClusterSpec(groups=(group("decode", 1),))
    return RunSummary.of(Simulation(cluster, random_requests(5, rate=5)).run())


def scored(
    summary: RunSummary, score: Callable[[PrefillPolicy, int], float]
) -> Callable[[ClusterPolicies, int], RunSummary]:
    """Runs with this share in time."""

    def run(policies: ClusterPolicies, seed: int) -> RunSummary:
        whole = replace(summary.classes[-1], attainment=score(policies.prefill, seed))
        return replace(summary, classes=(whole,))

    return run


CHUNK = TunedKnob(role="prefill", name="chunk_tokens", choices=(256, 512, 1024))
AGE = TunedKnob(role="prefill", name="max_age_seconds", choices=(0.25, 0.5))


def test_the_best_value_is_taken_and_the_next_knob_tried_beside_it(summary: RunSummary) -> None:
    def score(policy: PrefillPolicy, seed: int) -> float:
        with_age = policy.max_age_seconds == 0.25 and policy.chunk_tokens == 1024
        return 0.5 + policy.chunk_tokens / 10_000 + 0.01 * seed + 0.1 * with_age

    before = ClusterPolicies()
    tried = list(tune(before, scored(summary, score), range(3), (CHUNK, AGE)))
    assert [(choice.value, choice.is_taken) for choice, _ in tried] == [
        (256, False), (1024, True), (0.25, True),
    ]  # fmt: skip
    after = tried[-1][1]
    assert (after.prefill.chunk_tokens, after.prefill.max_age_seconds) == (1024, 0.25)
    text = tuned_values(before, after)
    assert "chunk_tokens: 1024\n" in text
    assert "max_age_seconds: 0.25\n" in text


def test_a_gain_within_its_spread_changes_nothing(summary: RunSummary) -> None:
    def score(policy: PrefillPolicy, seed: int) -> float:
        return 0.5 + (0.1 if seed else -0.08) * (policy.chunk_tokens != 512)

    before = ClusterPolicies()
    tried = list(tune(before, scored(summary, score), range(2), (CHUNK,)))
    assert not any(choice.is_taken for choice, _ in tried)
    assert tried[-1][1] == before
    assert tuned_values(before, before) == ""


def test_values_that_other_settings_exclude_are_not_tried(summary: RunSummary) -> None:
    share = TunedKnob(role="prefill", name="long_share", choices=(0.3, 0.95))
    run = scored(summary, lambda policy, seed: policy.long_share)
    assert list(tune(ClusterPolicies(), run, range(2), (share,))) == []
