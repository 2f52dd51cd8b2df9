"""Another image, and workers that may change their role: all pods are replaced, under load."""

from pathlib import Path

import pytest
from cluster.cluster_events import UnderLoad
from cluster.cluster_load import StartLoad, Traffic, assert_none_failed
from cluster.kubectl import Release, image_values
from cluster.prometheus_pod import PrometheusPod
from cluster.scaling import events_of, roles_of
from harness.waiting import wait_for
from monitoring.queries import check_queries

FLEXIBLE = Path(__file__).parent / "flexible.yaml"

LONG_PROMPTS = Traffic(streams=8, max_tokens=2, prompt_lines=90)


def test_an_upgrade_to_another_image(
    release: Release,
    values: list[str],
    under_load: UnderLoad,
    next_image: str,
    took: dict[str, float],
) -> None:
    before = set(release.all_pods())
    is_sized = any("autoscaling" in value for value in values)
    more = [f"--values={FLEXIBLE}"] if is_sized else []
    with under_load():
        took["helm upgrade"] = release.upgrade([*values, *more, *image_values(next_image)])
        release.wait_until_gone(before)
        release.wait_until_ready()
    images = {
        container["image"]
        for pod in release.namespace.objects("pods", release.selector())
        for container in pod["spec"]["containers"]
    }
    assert images == {next_image}


@pytest.mark.usefixtures("prometheus", "next_image", "autoscaler_log")
def test_a_role_flipped_where_no_pool_may_grow(
    release: Release, start_load: StartLoad, under_load: UnderLoad, took: dict[str, float]
) -> None:
    """A decode worker helps out, and goes home afterwards."""
    with under_load():
        resume(release)
        load = start_load(LONG_PROMPTS)
        took["flip wanted"] = wait_for(
            "a flip", lambda: events_of(release, "decode", "RoleFlipped"), 60
        )
        took["flip done"] = wait_for(
            "a third prefill worker", lambda: roles_of(release, "decode").count("prefill") == 1, 30
        )
        load.wait_for_a_round()
        assert_none_failed(load.stop())


@pytest.mark.usefixtures("prometheus", "next_image", "autoscaler_log")
def test_a_role_flipped_back(release: Release, under_load: UnderLoad) -> None:
    with under_load():
        wait_for("its return", lambda: "prefill" not in roles_of(release, "decode"), 90)
    assert len(release.ready("decode")) == 2


def test_every_query_of_dashboards_alerts_and_rules_has_an_answer(
    release: Release, prometheus: PrometheusPod
) -> None:
    with prometheus.forwarded() as url:
        namespace = release.namespace.name
        assert not check_queries(url, namespace=namespace, release=release.name)


def resume(release: Release) -> None:
    """The autoscaler, which is paused while tests take pods away."""
    for pool in ("prefill", "decode"):
        deployment = f"deployment/{release.fullname}-{pool}"
        release.namespace.kubectl("annotate", deployment, "lengthwise/autoscale-")
