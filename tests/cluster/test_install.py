"""The chart on a real cluster: it answers soon, wherever it is asked."""

import json

from cluster.cluster_events import UnderLoad
from cluster.cluster_load import Load
from cluster.kubectl import Release, seconds_of

FIRST_ANSWER_SECONDS = 60.0
"""From `helm install`, with the image on the nodes."""


def test_the_first_answer_comes_within_a_minute_of_helm_install(
    release: Release, load: Load, took: dict[str, float]
) -> None:
    began = seconds_of(json.loads(release.status())["info"]["first_deployed"])
    answered = min(answer.began + answer.total for answer in load.answers) - began
    took["helm install to the first answer"] = answered
    assert answered < FIRST_ANSWER_SECONDS


def test_a_completion_is_answered_through_the_service(release: Release) -> None:
    assert "Succeeded" in release.test()


def test_nothing_happening(under_load: UnderLoad) -> None:
    """What events compare with: clients ask through the headless Service's DNS name."""
    with under_load() as load:
        for _ in range(5):
            load.wait_for_a_round()
