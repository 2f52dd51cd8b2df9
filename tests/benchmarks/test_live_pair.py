"""The live pair's arrivals, and what is put beside each other."""

from random import Random

import pytest
from simulation.live.pair import OUTPUTS, PROMPTS, arrivals, compared
from simulator.clusters import group

from lengthwise_cli.bench.run import RequestResult, Run
from lengthwise_simulator.cluster.simulation import Simulation
from lengthwise_simulator.cluster.spec import ClusterSpec
from lengthwise_simulator.results import RunSummary
from lengthwise_simulator.workload.arrivals import poisson


def test_a_measurement_that_equals_its_prediction_compares_as_equal() -> None:
    requests = arrivals(Random(0), poisson(5.0, Random(0)), 40)
    assert {PROMPTS[0] <= each.prompt_tokens <= PROMPTS[1] for each in requests} == {True}
    assert {OUTPUTS[0] <= each.output_tokens <= OUTPUTS[1] for each in requests} == {True}
    run = Simulation(ClusterSpec(groups=(group("prefill", 1), group("decode", 1))), requests).run()
    measured = Run(
        tuple(
            RequestResult(
                due_at=each.arrived_at, sent_late=0.0, length_class="short",
                prompt_tokens=each.request.prompt_tokens, cached_tokens=0,
                output_tokens=each.generated, ttft=each.ttft_seconds, tpot=each.tpot_seconds,
                total=each.ended_at - each.arrived_at, retries=0, error="",
            )
            for each in run.journeys
        )
    )  # fmt: skip
    found = list(compared(RunSummary.of(run), measured))
    assert [name for name, *_ in found] == [
        "TTFT p50, ms", "TTFT p90, ms", "TPOT p50, ms", "TPOT p90, ms",
    ]  # fmt: skip
    assert [live for *_, live in found] == pytest.approx([simulated for _, simulated, _ in found])
