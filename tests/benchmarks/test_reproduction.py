"""What reproductions are made of."""

import pytest
from simulation.past_future import MIXES, REQUESTS, closed_loop, cluster, counted
from simulation.splitwise import DESIGNS, highest_rate

from lengthwise_simulator.cluster.simulation import Simulation
from lengthwise_simulator.workload.planned import turns


@pytest.mark.parametrize("mix", MIXES)
def test_callers_of_a_closed_loop_share_all_requests(mix: str) -> None:
    first = closed_loop(MIXES[mix], 7)
    every = [turn for each in first for turn in turns(each)]
    assert len(first) == 7
    assert len({each.text for each in every}) == len(every) == REQUESTS
    (least_in, most_in), (least_out, most_out), limit = MIXES[mix]
    assert all(least_in <= each.prompt_tokens <= most_in for each in every)
    assert all(least_out <= each.output_tokens <= most_out <= limit for each in every)


def test_what_is_counted_ended_while_all_callers_went_on() -> None:
    short = ((10, 20), (2, 5), 5)
    run = Simulation(cluster("past_future", 0.05), closed_loop(short, 7)).run()
    assert len(run.journeys) == REQUESTS
    last = max(each.ended_at for each in counted(run))
    assert not [
        each for each in run.journeys if each.request.follow_up is None and each.ended_at < last
    ]
    assert len(counted(run)) > REQUESTS / 3


@pytest.mark.parametrize("capacity", [0.0, 7.0, 30.0, 200.0])
def test_the_highest_rate_that_stands_is_found_within_three_percent(capacity: float) -> None:
    found = highest_rate(lambda rate: rate <= capacity)
    assert found <= capacity
    assert found >= 0.97 * capacity


def test_designs_have_equal_power() -> None:
    powers = [design.power for design in DESIGNS.values()]
    assert max(powers) / min(powers) < 1.03
