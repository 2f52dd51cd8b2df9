"""What the chart says before anything runs: both versions of Helm, every values file, bad ones."""

import os
import subprocess
from pathlib import Path

import pytest
from harness.kubectl import CHART, CommandFailed, Namespace, run

VALUES = sorted((CHART.parent / "values").glob("*.yaml"))

KUBE_VERSION = "--kube-version=1.35.0"  # without a cluster Helm assumes an old one


def values_files() -> list[object]:
    return [
        pytest.param([], id="none"),
        *(pytest.param([f"--values={p}"], id=p.stem) for p in VALUES),
    ]


@pytest.mark.parametrize("values", values_files())
def test_lint_finds_nothing(helm: str, values: list[str]) -> None:
    run(helm, "lint", "--strict", str(CHART), *values)


@pytest.mark.parametrize("values", values_files())
def test_the_api_server_accepts_every_object(namespace: Namespace, values: list[str]) -> None:
    rendered = run("helm", "template", "dry", str(CHART), *values, f"--namespace={namespace.name}")
    try:
        namespace.kubectl(
            "apply", "--dry-run=server", "--validate=strict", "--filename=-", stdin=rendered
        )
    except CommandFailed as error:
        if "ensure CRDs are installed first" in str(error):
            pytest.skip(
                "the cluster lacks the resource types of cert-manager or of the Prometheus operator"
            )
        raise


ONE_PREFILL = '[{"name":"a","role":"prefill","replicas":1}]'
UNKNOWN_ROLE = '[{"name":"a","role":"refill","replicas":1}]'
SAME_NAME = '[{"name":"a","role":"prefill","replicas":1},{"name":"a","role":"decode","replicas":1}]'
NO_REPLICA = (
    '[{"name":"a","role":"prefill","replicas":0},{"name":"b","role":"decode","replicas":1}]'
)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        pytest.param(
            [f"--set-json=pools={UNKNOWN_ROLE}"],
            "at '/pools/0/role': value must be one of 'prefill', 'decode'",
            id="unknown role",
        ),
        pytest.param(
            [f"--set-json=pools={NO_REPLICA}"],
            "pools: got no replica of role prefill, expected at least one",
            id="no replica of a role",
        ),
        pytest.param(
            [f"--set-json=pools={ONE_PREFILL}"],
            "pools: got no replica of role decode, expected at least one",
            id="a role missing",
        ),
        pytest.param(
            [f"--set-json=pools={SAME_NAME}"],
            "pools: got two pools named a, expected different names",
            id="one name twice",
        ),
        pytest.param(
            ["--set=tls.enabled=true"],
            "at '/tls/secretName': minLength: got 0, want 1",
            id="TLS without a Secret",
        ),
        pytest.param(
            ["--set=model.source=hub"], "at '/model/hub/id': '' does not match", id="hub without id"
        ),
        pytest.param(
            ["--set=model.source=claim", "--set=model.name=x"],
            "at '/model/claim/name': minLength: got 0, want 1",
            id="no claim",
        ),
        pytest.param(
            ["--set=modle.source=hub"],
            "additional properties 'modle' not allowed",
            id="typing error",
        ),
        pytest.param(
            ["--set=router.config.listen=x"],
            "at '/router/config/listen': false schema",
            id="what the chart sets itself",
        ),
    ],
)
def test_values_that_contradict_are_refused_in_one_line(
    helm: str, values: list[str], told: str
) -> None:
    with pytest.raises(CommandFailed) as error:
        run(helm, "template", "bad", str(CHART), *values, KUBE_VERSION)
    assert [line for line in str(error.value).splitlines() if told in line]


@pytest.mark.parametrize("path", VALUES, ids=lambda path: path.stem)
def test_rendering_needs_no_cluster(helm: str, path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "KUBECONFIG"}
    done = subprocess.run(
        [helm, "template", "x", str(CHART), f"--values={path}", KUBE_VERSION],
        capture_output=True, text=True, timeout=60, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "/dev/shm" not in done.stdout
