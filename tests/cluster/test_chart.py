"""What a real API server says of the chart's objects. tests/chart has what needs no cluster."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from chart.helm import VALUES
from cluster.kubectl import CHART, CommandFailed, Namespace, image_values, run

EVERYTHING = Path(__file__).parents[1] / "chart" / "everything.yaml"

COST = "controller.kubernetes.io/pod-deletion-cost"


def values_files() -> list[object]:
    return [
        pytest.param([], id="none"),
        *(pytest.param([f"--values={p}"], id=p.stem) for p in (*VALUES, EVERYTHING)),
    ]


@pytest.mark.parametrize("values", values_files())
def test_the_api_server_accepts_every_object(
    helm: str, namespace: Namespace, values: list[str]
) -> None:
    # Asking no cluster, Helm assumes an old one.
    given = (*values, f"--namespace={namespace.name}", "--kube-version=1.35.0")
    rendered = run(helm, "template", "dry", str(CHART), *given)
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


Apply = Callable[..., None]
"""`apply("install" or "upgrade", *arguments)`."""


@pytest.fixture
def still_life(helm: str, namespace: Namespace, image: str) -> Iterator[tuple[str, Apply]]:
    """A release's name, and what installs or upgrades it: an autoscaled prefill pool, a decode pool
    that is not, and nowhere for pods to run, since objects are all that is asked about."""
    autoscaled = {"autoscale": {"enabled": True, "min": 1, "max": 5}}
    pools = [
        {"name": "prefill", "role": "prefill", "replicas": 1, **autoscaled},
        {"name": "decode", "role": "decode", "replicas": 1},
    ]
    nowhere = '{"lengthwise/no-such-node":"true"}'
    name = f"still-{helm}"
    given = [
        f"--namespace={namespace.name}",
        *image_values(image),
        f"--set-json=pools={json.dumps(pools)}",
        *(
            f"--set-json={each}.nodeSelector={nowhere}"
            for each in ("router", "poolDefaults", "autoscaler")
        ),
        "--set=autoscaler.enabled=true",
        "--set=autoscaler.prometheus.url=http://prometheus:9090",
    ]
    with ExitStack() as stack:

        def apply(verb: str, *more: str) -> None:
            run(helm, verb, name, str(CHART), *given, *more)
            if verb == "install":
                place = (f"--namespace={namespace.name}", "--wait", "--timeout=60s")
                stack.callback(run, helm, "uninstall", name, *place)

        yield name, apply


def test_an_upgrade_keeps_the_replicas_of_what_is_autoscaled(
    helm: str, namespace: Namespace, still_life: tuple[str, Apply]
) -> None:
    name, apply = still_life
    apply("install")
    for pool in ("prefill", "decode"):
        namespace.kubectl("scale", f"deployment/{name}-lengthwise-{pool}", "--replicas=3")
    # Helm 4 takes back what another writer has set only when asked to.
    apply("upgrade", *(["--force-conflicts"] if helm == "helm" else []))
    replicas = {
        each["metadata"]["labels"]["lengthwise/pool"]: each["spec"]["replicas"]
        for each in namespace.objects(
            "deployments", f"app.kubernetes.io/instance={name},lengthwise/pool"
        )
    }
    assert replicas == {"prefill": 3, "decode": 1}
