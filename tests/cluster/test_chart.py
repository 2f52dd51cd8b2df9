"""What a real API server says of the chart's objects. tests/chart has what needs no cluster."""

import json
from pathlib import Path

import pytest
from harness.helm import VALUES
from harness.kubectl import CHART, CommandFailed, Namespace, image_values, run

EVERYTHING = Path(__file__).parents[1] / "chart" / "everything.yaml"


def values_files() -> list[object]:
    return [
        pytest.param([], id="none"),
        *(pytest.param([f"--values={p}"], id=p.stem) for p in (*VALUES, EVERYTHING)),
    ]


@pytest.mark.parametrize("values", values_files())
def test_the_api_server_accepts_every_object(
    helm: str, namespace: Namespace, values: list[str]
) -> None:
    rendered = run(helm, "template", "dry", str(CHART), *values, f"--namespace={namespace.name}")
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


def test_an_upgrade_keeps_the_replicas_of_what_is_autoscaled(
    helm: str, namespace: Namespace, image: str
) -> None:
    scaled = {"autoscale": {"enabled": True, "min": 1, "max": 5}}
    pools = [
        {"name": "prefill", "role": "prefill", "replicas": 1, **scaled},
        {"name": "decode", "role": "decode", "replicas": 1},
    ]
    # Deployments are all it is about: no pod finds a node.
    nowhere = '{"lengthwise/no-such-node":"true"}'
    arguments = [
        str(CHART),
        f"--namespace={namespace.name}",
        *image_values(image),
        f"--set-json=pools={json.dumps(pools)}",
        *(f"--set-json={each}.nodeSelector={nowhere}" for each in ("router", "poolDefaults")),
        f"--set-json=autoscaler.nodeSelector={nowhere}",
        "--set=autoscaler.enabled=true",
        "--set=autoscaler.prometheus.url=http://prometheus:9090",
    ]
    name = f"upgraded-{helm}"
    run(helm, "install", name, *arguments)
    try:
        for pool in ("prefill", "decode"):
            namespace.kubectl("scale", f"deployment/{name}-lengthwise-{pool}", "--replicas=3")
        # Helm 4 refuses to take back what somebody else has set.
        run(helm, "upgrade", name, *arguments, *(["--force-conflicts"] if helm == "helm" else []))
        replicas = {
            each["metadata"]["labels"]["lengthwise/pool"]: each["spec"]["replicas"]
            for each in namespace.objects(
                "deployments", f"app.kubernetes.io/instance={name},lengthwise/pool"
            )
        }
        assert replicas == {"prefill": 3, "decode": 1}
    finally:
        run(helm, "uninstall", name, f"--namespace={namespace.name}", "--wait", "--timeout=60s")
