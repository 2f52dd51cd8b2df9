"""A release of two models: each has a decode worker of its own, which computes prompts too. Its
pods run as a user that the image does not know, as OpenShift chooses one."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster.kubectl import CHART, CommandFailed, Release, image_values, new_namespace
from cluster.scaling import samples_in
from harness.waiting import wait_for

MODELS = ("one", "another/b")

USER = 1_000_730_001


@pytest.fixture(scope="module")
def values(image: str) -> list[str]:
    models = [{"name": name, "source": "demo"} for name in MODELS]
    pools = [
        {"name": f"decode-{index}", "role": "decode", "model": name, "replicas": 1}
        for index, name in enumerate(MODELS)
    ]
    user = {"runAsUser": USER, "runAsGroup": 0, "fsGroup": USER}
    return [
        f"--values={CHART.parent / 'values' / 'laptop.yaml'}",
        *image_values(image),
        f"--set-json=models={json.dumps(models)}",
        f"--set-json=pools={json.dumps(pools)}",
        f"--set-json=podDefaults.podSecurityContext={json.dumps(user)}",
        f"--set-json=podDefaults.env={json.dumps([{'name': 'GREETING', 'value': 'hello'}])}",
        "--set=router.drainSeconds=1,poolDefaults.drainSeconds=1",
    ]


@pytest.fixture(scope="module")
def two(values: list[str]) -> Iterator[Release]:
    with new_namespace() as namespace:
        release = Release(name="two", namespace=namespace)
        release.install(values)
        try:
            yield release
        finally:
            release.uninstall(wait=False)


def test_both_answer(two: Release) -> None:
    assert two.test().count("Succeeded") == len(MODELS)


def test_requests_reach_the_worker_of_their_model(two: Release) -> None:
    before = [generated(two, index) for index in range(2)]
    ask(two, MODELS[1])
    assert generated(two, 0) == before[0]
    assert generated(two, 1) > before[1]


def test_a_request_that_names_none_is_told_which_there_are(two: Release) -> None:
    with pytest.raises(CommandFailed, match=r"model: got none, expected one of 'another/b', 'one'"):
        ask(two, "")


def test_one_goes_on_while_the_other_has_no_worker(two: Release) -> None:
    name = f"deployment/{two.fullname}-decode-0"
    two.namespace.kubectl("scale", name, "--replicas=0")
    wait_for("the end of a worker", lambda: not two.ready("decode-0"), 60)
    ask(two, MODELS[1])
    two.namespace.kubectl("scale", name, "--replicas=1")
    two.wait_until_ready()
    ask(two, MODELS[0])


def test_every_pod_has_that_user_and_the_environment_it_was_given(two: Release) -> None:
    program = "import os; print(os.getuid(), os.getgid(), os.environ['GREETING'])"
    pods = two.all_pods()
    assert len(pods) >= 3
    for pod in pods:
        told = two.namespace.kubectl("exec", pod, "--", "python", "-c", program)
        assert told.split() == [str(USER), "0", "hello"]


def test_another_version_of_the_chart_restarts_no_pod(
    two: Release, values: list[str], tmp_path: Path
) -> None:
    newer = tmp_path / "lengthwise"
    shutil.copytree(CHART, newer)
    about = newer / "Chart.yaml"
    version = re.compile(r"^(version|appVersion): .*$", re.MULTILINE)
    about.write_text(version.sub(r'\1: "99.0.0"', about.read_text()))
    assert about.read_text().count("99.0.0") == 2
    before = identities(two)
    two.upgrade(values, chart=newer)
    assert identities(two) == before


def identities(release: Release) -> set[str]:
    """Of the pods that run, and whatever restarted in them."""
    found = release.namespace.objects("pods", release.selector())
    return {
        f"{pod['metadata']['uid']} {container['containerID']}"
        for pod in found
        for container in pod["status"]["containerStatuses"]
    }


def ask(release: Release, model: str) -> str:
    """What `lengthwise generate` prints in the router's pod. Errors: CommandFailed."""
    (pod,) = release.ready("router")
    option = [f"--model={model}"] if model else []
    command = ("lengthwise", "generate", "def f(", "--max-tokens=8", *option)
    return release.namespace.kubectl("exec", pod, "--", *command)


def generated(release: Release, index: int) -> float:
    (pod,) = release.ready(f"decode-{index}")
    samples = samples_in(release, pod, "lengthwise_generated_tokens_total")
    return sum(sample.value for sample in samples)
