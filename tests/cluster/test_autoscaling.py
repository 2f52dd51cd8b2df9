"""Pools follow their load: each by its own kind of work, and back when it is over."""

import functools
import time
from collections.abc import Iterator

import pytest
from cluster.cluster_events import UnderLoad
from cluster.cluster_load import Load, StartLoad, Traffic, assert_none_failed
from cluster.kubectl import Release
from cluster.scaling import errors_of, events_of, replicas, wanted
from harness.waiting import wait_for

LONG_PROMPTS = Traffic(streams=6, max_tokens=2, prompt_lines=90)

LONG_OUTPUTS = Traffic(streams=32, max_tokens=320)
"""18 KV blocks each: more than two workers are planned with, 460, and fewer than three."""

pytestmark = pytest.mark.usefixtures("prometheus", "autoscaler_log")


@pytest.fixture(scope="module")
def long_prompts(release: Release, image: str) -> Iterator[Load]:
    load = Load(release, image, LONG_PROMPTS)
    try:
        load.start()
        yield load
    finally:
        load.remove()


def test_a_dry_run_reports_and_touches_nothing(release: Release, long_prompts: Load) -> None:
    wait_for("a third prefill worker to be wanted", lambda: wanted(release, "prefill") == 3, 60)
    name = f"deployment/{release.fullname}-autoscaler"
    log = release.namespace.kubectl("logs", name, "--tail=-1")
    assert "pool prefill would have 3 replicas" in log
    assert replicas(release, "prefill") == 2
    assert not events_of(release, "prefill", "ScaledOut")


def test_long_prompts_add_prefill_workers(
    release: Release,
    values: list[str],
    long_prompts: Load,
    under_load: UnderLoad,
) -> None:
    with under_load():
        release.upgrade([*values, "--set=autoscaler.dryRun=false"])
        scaled(release, "prefill", 3)
        release.wait_until_ready()
        assert_none_failed(long_prompts.stop())
    assert "from 2 to 3" in events_of(release, "prefill", "ScaledOut")[0]
    assert replicas(release, "decode") == 2


def test_long_outputs_add_decode_workers(
    release: Release, start_load: StartLoad, under_load: UnderLoad, took: dict[str, float]
) -> None:
    with under_load():
        load = start_load(LONG_OUTPUTS)
        scaled(release, "decode", 3)
        release.wait_until_ready()
        began = min(answer.began for answer in load.answers)
        took["long outputs to one more decode worker that serves"] = time.time() - began
        assert_none_failed(load.stop())
    assert "from 2 to 3" in events_of(release, "decode", "ScaledOut")[0]


@pytest.mark.parametrize("pool", ["prefill", "decode"])
def test_what_is_not_needed_any_more_goes(
    release: Release, under_load: UnderLoad, pool: str
) -> None:
    with under_load():
        scaled(release, pool, 2)
        release.wait_until_ready()
    assert "from 3 to 2" in events_of(release, pool, "ScaledIn")[0]


@pytest.mark.usefixtures("prometheus_stopped_at")
def test_what_cannot_be_known_is_reported_and_scales_nothing(release: Release) -> None:
    """For a minute, in which other tests go on; test_outage.py sees its end."""
    reason = "prometheus_unreachable"
    wait_for("a metric", lambda: errors_of(release)[reason] > 0, 30)
    for pool in ("prefill", "decode"):
        failures = functools.partial(events_of, release, pool, "ScalingFailed")
        wait_for("an Event", failures, 10)
        assert any(reason in message for message in failures())
        assert replicas(release, pool) == 2


def scaled(release: Release, pool: str, number: int) -> float:
    """Seconds until the pool's Deployment is to have so many."""
    what = f"{number} replicas of pool {pool}"
    return wait_for(what, lambda: replicas(release, pool) == number, 90)
