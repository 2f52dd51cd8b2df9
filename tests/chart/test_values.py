"""What the chart says of values before anything runs: under both versions of Helm, in one line."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from chart.helm import CHART, VALUES, template

PREFILL = {"name": "a", "role": "prefill", "replicas": 1}
DECODE = {"name": "b", "role": "decode", "replicas": 1}
AUTOSCALED = {"autoscale": {"enabled": True, "min": 1, "max": 3}}
AUTOSCALER = ["--set=autoscaler.enabled=true", "--set=autoscaler.prometheus.url=http://p:9090"]


def pools(*given: dict[str, Any]) -> str:
    return f"--set-json=pools={json.dumps(given)}"


def values_files() -> list[object]:
    return [
        pytest.param([], id="none"),
        *(pytest.param([f"--values={p}"], id=p.stem) for p in VALUES),
    ]


@pytest.mark.parametrize("values", values_files())
def test_lint_finds_nothing(helm: str, values: list[str]) -> None:
    done = subprocess.run(
        [helm, "lint", "--strict", str(CHART), *values],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


WRONG = [
    pytest.param(
        [pools({**PREFILL, "role": "refill"})],
        "at '/pools/0/role': value must be one of 'prefill', 'decode'",
        id="unknown role",
    ),
    pytest.param(
        [pools(PREFILL)],
        "pools: got no replica of role decode, expected at least one",
        id="a role missing",
    ),
    pytest.param(
        [pools(PREFILL, {**DECODE, "replicas": 0})],
        "pools: got no replica of role decode, expected at least one",
        id="no replica of decode",
    ),
    pytest.param(
        [pools({**PREFILL, "replicas": 0}, DECODE), "--set=router.config.local_prefill=false"],
        "pools: got no replica of role prefill, expected at least one:"
        " router.config.local_prefill is false",
        id="no worker computes prompts",
    ),
    pytest.param(
        [pools(PREFILL, {**DECODE, "name": "a"})],
        "pools: got two pools named a, expected different names",
        id="one name twice",
    ),
    pytest.param(
        [pools({"name": "a", "role": "prefill"}, DECODE)],
        "at '/pools/0': missing property 'replicas'",
        id="no number of replicas",
    ),
    pytest.param(
        [*AUTOSCALER, pools(PREFILL, {**DECODE, **AUTOSCALED, "replicas": None})],
        "pool b: got autoscale.enabled and no replicas, expected how many there are at first",
        id="autoscaled twice",
    ),
    pytest.param(
        ["--set=fullnameOverride=Not_A_Name"],
        "at '/fullnameOverride': 'Not_A_Name' does not match",
        id="no name",
    ),
    pytest.param(
        ["--set-string=commonLabels.lengthwise/pool=x"],
        "commonLabels: got lengthwise/pool, expected other labels",
        id="a label that pods are found by",
    ),
    pytest.param(
        [pools({**PREFILL, "podLabels": {"app.kubernetes.io/name": "x"}}, DECODE)],
        "pool a: podLabels: got app.kubernetes.io/name, expected other labels",
        id="a label that pods are found by, of a pool",
    ),
    pytest.param(
        ['--set-json=podDefaults.podLabels={"app.kubernetes.io/component": "x"}'],
        "podDefaults.podLabels: got app.kubernetes.io/component, expected other labels",
        id="a label that pods are found by, of all",
    ),
    pytest.param(
        ["--set=image.digest=sha256:abc"],
        "at '/image/digest': 'sha256:abc' does not match",
        id="no digest",
    ),
    pytest.param(
        ['--set-json=podDefaults.env=[{"name": "A", "value": 1}]'],
        "at '/podDefaults/env/0/value': got number, want string",
        id="a number in the environment",
    ),
    pytest.param(
        ['--set-json=router.extraVolumeMounts=[{"name": "a", "mountPath": "/a"}]'],
        "router: extraVolumeMounts: got a, expected the name of one of extraVolumes",
        id="a mount of nothing",
    ),
    pytest.param(
        ['--set-json=poolDefaults.extraVolumes=[{"name": "tmp", "emptyDir": {}}]'],
        "pool prefill: extraVolumes: got a volume named tmp, expected another name",
        id="a volume of the chart's name",
    ),
    pytest.param(
        ["--set=persistence.enabled=true"],
        "persistence.enabled: got model.source demo, expected hub",
        id="nothing to keep",
    ),
    pytest.param(
        ["--set=ingress.enabled=true"],
        "at '/ingress/hosts': minItems: got 0, want 1",
        id="an Ingress of no host",
    ),
    pytest.param(
        ["--set=http.ingress.enabled=true"],
        "at '/http/ingress/hosts': minItems: got 0, want 1",
        id="an Ingress of HTTP of no host",
    ),
    pytest.param(
        ["--set=http.route.enabled=true"],
        "at '/http/route/parentRefs': minItems: got 0, want 1",
        id="a route of no Gateway",
    ),
    pytest.param(
        ["--set=http.enabled=false,http.route.enabled=true,http.route.parentRefs[0].name=a"],
        "http.route.enabled: got true and http.enabled false",
        id="a route to what does not listen",
    ),
    pytest.param(
        ["--set=http.port=50051"],
        "http.port: got 50051, which is service.port too",
        id="two ports that are one",
    ),
    pytest.param(
        ["--set=service.loadBalancerClass=a/b"],
        "service.loadBalancerClass: got a/b and service.type ClusterIP, expected LoadBalancer",
        id="a load balancer's class without one",
    ),
    pytest.param(
        [pools(PREFILL, {**DECODE, "lengthClass": "long"})],
        "pool b: got lengthClass long, expected none",
        id="length class of decode",
    ),
    pytest.param(
        [pools({**PREFILL, "lengthClass": "long", "flexible": True}, DECODE)],
        "pool a: got lengthClass long and flexible, expected one of them",
        id="flexible with a length class",
    ),
    pytest.param(
        [pools({**PREFILL, "lengthClass": "medium"}, DECODE)],
        "at '/pools/0/lengthClass': value must be one of '', 'short', 'long'",
        id="unknown length class",
    ),
    pytest.param(
        ["--set=autoscaler.enabled=true", pools({**PREFILL, **AUTOSCALED}, DECODE)],
        "autoscaler.prometheus.url: got none, expected http://HOST:PORT",
        id="autoscaler without Prometheus",
    ),
    pytest.param(
        [*AUTOSCALER[:1], "--set=autoscaler.prometheus.url=prometheus:9090"],
        "at '/autoscaler/prometheus/url': 'prometheus:9090' does not match",
        id="no URL",
    ),
    pytest.param(
        AUTOSCALER,
        "autoscaler.enabled: got no pool with autoscale.enabled",
        id="autoscaler of nothing",
    ),
    pytest.param(
        [pools({**PREFILL, **AUTOSCALED}, DECODE)],
        "pool a: got autoscale.enabled, expected autoscaler.enabled too",
        id="autoscaled by no autoscaler",
    ),
    pytest.param(
        [pools({**PREFILL, "autoscale": {"min": 5, "max": 2}}, DECODE)],
        "pool a: got autoscale.min 5 above autoscale.max 2",
        id="min above max",
    ),
    pytest.param(
        [*AUTOSCALER, pools(PREFILL, {**DECODE, **AUTOSCALED, "replicas": 0})],
        "pool b: got replicas 0, expected autoscale.min 1 to autoscale.max 3",
        id="fewer than min",
    ),
    pytest.param(
        ["--set=tls.enabled=true"],
        "at '/tls/secretName': minLength: got 0, want 1",
        id="TLS without a Secret",
    ),
    pytest.param(
        ["--set=tls.certManager.enabled=true"],
        "at '/tls/certManager/issuerRef': missing property 'name'",
        id="cert-manager without an issuer",
    ),
    pytest.param(
        ["--set=model.source=hub"],
        "at '/model/hub/id': '' does not match",
        id="hub without id",
    ),
    pytest.param(
        ["--set=model.source=claim", "--set=model.name=x"],
        "at '/model/claim/name': minLength: got 0, want 1",
        id="no claim",
    ),
    pytest.param(
        [pools({**PREFILL, "weights": {"source": "claim"}}, DECODE)],
        "pool a: weights.claim.name: got none",
        id="no claim of a pool",
    ),
    pytest.param(
        [pools({**PREFILL, "weights": {"source": "hub", "hub": {"id": "x"}}}, DECODE)],
        'pool a: weights.hub.id: got "x", expected OWNER/NAME',
        id="hub without id of a pool",
    ),
    pytest.param(
        [pools({**PREFILL, "weights": {"source": "download"}}, DECODE)],
        'pool a: weights.download.url: got "", expected http://',
        id="no URL of a pool",
    ),
    pytest.param(
        [pools({**PREFILL, "weights": {"name": "other"}}, DECODE)],
        "at '/pools/0/weights': additional properties 'name' not allowed",
        id="another model in a pool",
    ),
    pytest.param(
        ["--set=poolDefaults.sharedMemory=much"],
        "at '/poolDefaults/sharedMemory': 'much' does not match",
        id="no size",
    ),
    pytest.param(
        [
            pools(
                {**PREFILL, "serviceAccount": {"create": True, "name": "w"}},
                {
                    **DECODE,
                    "serviceAccount": {"create": True, "name": "w", "annotations": {"x": "y"}},
                },
            )
        ],
        'serviceAccount w: got annotations {} and {"x":"y"}, expected the same',
        id="one account with two sets of annotations",
    ),
    pytest.param(
        ["--set=podDefaults=null"],
        "at '': missing property 'podDefaults'",
        id="defaults taken away",
    ),
    pytest.param(
        ["--set=tls.clients=null"],
        "at '/tls': missing property 'clients'",
        id="defaults of a section taken away",
    ),
    pytest.param(
        ["--set=modle.source=hub"],
        "at '': additional properties 'modle' not allowed",
        id="typing error",
    ),
]


@pytest.mark.parametrize(("values", "expected"), WRONG)
def test_values_that_contradict_are_refused_in_one_line(
    helm: str, values: list[str], expected: str
) -> None:
    _refused(helm, values, expected)


WRONG_CONFIG = [
    pytest.param(
        ["--set=router.config.max_queud=3"],
        "at '/router/config': additional properties 'max_queud' not allowed",
        id="router: unknown key",
    ),
    pytest.param(
        ["--set=router.config.max_queued=few"],
        "at '/router/config/max_queued': got string, want integer",
        id="router: wrong type",
    ),
    pytest.param(
        ["--set=router.config.pools.tolerance=x"],
        "at '/router/config/pools/tolerance': got string, want number",
        id="router: wrong type in a section",
    ),
    pytest.param(
        ["--set=router.config.strategy=fastest"],
        "at '/router/config/strategy': value must be one of 'least_loaded',",
        id="router: unknown strategy",
    ),
    pytest.param(
        ["--set=router.config.listen=x"],
        "at '/router/config': additional properties 'listen' not allowed",
        id="router: what the chart sets itself",
    ),
    pytest.param(
        ["--set=poolDefaults.config.layerwise_tokens=3"],
        "at '/poolDefaults/config': additional properties 'layerwise_tokens' not allowed",
        id="defaults: one role's key",
    ),
    pytest.param(
        [pools({**PREFILL, "config": {"policy": {"discipline": "lifo"}}}, DECODE)],
        "at '/pools/0/config/policy/discipline': value must be one of 'length_aware',",
        id="prefill: unknown discipline",
    ),
    pytest.param(
        [pools({**PREFILL, "config": {"length_class": "long"}}, DECODE)],
        "at '/pools/0/config': additional properties 'length_class' not allowed",
        id="prefill: what the pool says",
    ),
    pytest.param(
        [pools(PREFILL, {**DECODE, "config": {"num_blocks": "many"}})],
        "at '/pools/1/config/num_blocks': got string, want null or integer",
        id="decode: wrong type",
    ),
    pytest.param(
        [pools(PREFILL, {**DECODE, "config": {"layerwise_tokens": 3}})],
        "at '/pools/1/config': additional properties 'layerwise_tokens' not allowed",
        id="decode: a key of prefill workers",
    ),
    pytest.param(
        [pools({**PREFILL, "flexible": True, "config": {"decode": {"polcy": {}}}}, DECODE)],
        "at '/pools/0/config/decode': additional properties 'polcy' not allowed",
        id="flexible: unknown key",
    ),
    pytest.param(
        [pools({**PREFILL, "flexible": True, "config": {"policy": {}}}, DECODE)],
        "at '/pools/0/config': additional properties 'policy' not allowed",
        id="flexible: a role's key at the top",
    ),
    pytest.param(
        ["--set=autoscaler.config.scaling.scale_in_seconds=soon"],
        "at '/autoscaler/config/scaling/scale_in_seconds': got string, want number",
        id="autoscaler: wrong type",
    ),
    pytest.param(
        ["--set=autoscaler.config.prometheus.url=http://p:9090"],
        "at '/autoscaler/config/prometheus': additional properties 'url' not allowed",
        id="autoscaler: what has a value of its own",
    ),
    pytest.param(
        ["--set=autoscaler.config.objectives.tpot_seconds=1"],
        "at '/autoscaler/config': additional properties 'objectives' not allowed",
        id="autoscaler: objectives of its own",
    ),
    pytest.param(
        ["--set=objectives.tpot_second=1"],
        "at '/objectives': additional properties 'tpot_second' not allowed",
        id="objectives: unknown key",
    ),
    pytest.param(
        ["--set=tracing.samplingRatio=2"],
        "at '/tracing/samplingRatio': maximum: got 2, want 1",
        id="tracing: more than all",
    ),
    pytest.param(
        ["--set=router.config.tracing.endpoint=http://c:4317"],
        "at '/router/config': additional properties 'tracing' not allowed",
        id="tracing: of a router alone",
    ),
]


@pytest.mark.parametrize(("values", "expected"), WRONG_CONFIG)
def test_what_a_process_would_refuse_helm_refuses_with_its_path(
    helm: str, values: list[str], expected: str
) -> None:
    _refused(helm, values, expected)


def _refused(helm: str, values: list[str], expected: str) -> None:
    done = template(helm, *values)
    assert done.returncode != 0
    lines = [line.strip().removeprefix("- ") for line in done.stderr.splitlines() if line.strip()]
    heads = ("Error: values don't meet the specifications", "lengthwise:", "Use --debug flag")
    about_values = [line for line in lines if not line.startswith(heads)]
    assert len(about_values) == 1, done.stderr
    assert expected in about_values[0]


def test_pools_may_begin_without_workers_where_some_will_come(helm: str) -> None:
    from_zero = {"replicas": 0, "autoscale": {"enabled": True, "min": 0, "max": 2}}
    done = template(helm, pools({**PREFILL, "replicas": 0}, {**DECODE, **from_zero}), *AUTOSCALER)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", VALUES, ids=lambda path: path.stem)
def test_values_files_render(helm: str, path: Path) -> None:
    done = template(helm, f"--values={path}")
    assert done.returncode == 0, done.stderr
