"""What the chart makes of values: configuration files that the processes accept, rights, pods."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart.helm import CHART, VALUES, Manifest, Rendered

from lengthwise_autoscaler.config import AutoscalerConfig
from lengthwise_decode_worker.config import DecodeWorkerConfig
from lengthwise_flexible_worker.config import FlexibleWorkerConfig
from lengthwise_policy.objectives import Objectives
from lengthwise_prefill_worker.config import PrefillWorkerConfig
from lengthwise_router.config import RouterConfig
from lengthwise_runtime.config import load_config

CONFIGS: dict[str, type] = {
    "lengthwise-router": RouterConfig,
    "lengthwise-prefill-worker": PrefillWorkerConfig,
    "lengthwise-decode-worker": DecodeWorkerConfig,
    "lengthwise-flexible-worker": FlexibleWorkerConfig,
    "lengthwise-autoscaler": AutoscalerConfig,
}

EVERYTHING = Path(__file__).with_name("everything.yaml")


@pytest.fixture(scope="module")
def everything(helm: str) -> Rendered:
    return Rendered(helm, f"--values={EVERYTHING}")


@pytest.fixture(scope="module")
def bare(helm: str) -> Rendered:
    return Rendered(helm)


def loaded(rendered: Rendered, folder: Path) -> dict[str, Any]:
    """The configuration of each Deployment, read as its process does."""
    configs: dict[str, Any] = {}
    for name, pod, container in rendered.containers():
        (volume,) = [each for each in pod["volumes"] if each["name"] == "config"]
        (source,) = [
            each
            for each in rendered.of("ConfigMap")
            if each["metadata"]["name"] == volume["configMap"]["name"]
        ]
        program, place, *more = container["command"]
        file = Path(place.removeprefix("--config=/etc/lengthwise/config/"))
        path = folder / f"{name}-{file}"
        path.write_text(source["data"][str(file)], encoding="utf-8")
        overrides = [
            each.removeprefix("--set=").replace("$(POD_IP)", "fd00::1:2:3")
            for each in more
            if each.startswith("--set=")
        ]
        configs[name.removeprefix("demo-lengthwise-")] = load_config(
            path, CONFIGS[program], overrides
        )
    return configs


@pytest.mark.parametrize("values", [None, *VALUES], ids=lambda path: path.stem if path else "none")
def test_processes_accept_their_configuration(
    helm: str, values: Path | None, tmp_path: Path
) -> None:
    rendered = Rendered(helm, *([f"--values={values}"] if values else []))
    assert len(loaded(rendered, tmp_path)) >= 3


def test_configuration_says_what_values_say(everything: Rendered, tmp_path: Path) -> None:
    configs = loaded(everything, tmp_path)
    short, mixed, decode = configs["short"], configs["mixed"], configs["decode"]
    assert (short.length_class, short.prefix_caching, short.kv_memory_bytes) == (
        "short", False, 10_000_000_000,
    )  # fmt: skip
    assert short.advertise_host == "fd00::1:2:3"
    assert (mixed.role, mixed.prefix_caching, mixed.prefill.layerwise_tokens) == (
        "prefill", True, 12,
    )  # fmt: skip
    assert (decode.model, decode.served_name) == ("owner/weights@v2", configs["router"].served_name)
    assert short.model == configs["router"].model == "/opt/lengthwise/demo_model"
    assert configs["router"].local_prefill is False


def test_all_processes_have_the_objectives_of_the_release(
    everything: Rendered, tmp_path: Path
) -> None:
    configs = loaded(everything, tmp_path)
    assert {type(config) for config in configs.values()} >= {
        RouterConfig, PrefillWorkerConfig, DecodeWorkerConfig, FlexibleWorkerConfig,
        AutoscalerConfig,
    }  # fmt: skip
    assert {config.objectives for config in configs.values()} == {
        Objectives(ttft_short_seconds=0.3, tpot_seconds=0.05)
    }
    flexible = configs["mixed"]
    assert flexible.as_prefill().objectives == flexible.as_decode().objectives
    assert flexible.as_decode().objectives == flexible.objectives


def test_requests_are_traced_in_every_process_or_in_none(
    everything: Rendered, bare: Rendered, tmp_path: Path
) -> None:
    configs = loaded(everything, tmp_path)
    traced = [config for config in configs.values() if not isinstance(config, AutoscalerConfig)]
    assert {config.tracing.endpoint for config in traced} == {"http://collector:4317"}
    assert configs["mixed"].as_decode().tracing == configs["decode"].tracing
    assert configs["router"].tracing.sampling_ratio == 0.25
    assert not any(config.tracing.endpoint for config in loaded(bare, tmp_path).values())


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_no_process_of_a_release_has_objectives_of_its_own(
    helm: str, values: Path, tmp_path: Path
) -> None:
    configs = loaded(Rendered(helm, f"--values={values}"), tmp_path)
    assert len({config.objectives for config in configs.values()}) == 1


def test_objectives_are_the_processes_own_where_values_do_not_say(
    bare: Rendered, tmp_path: Path
) -> None:
    assert {config.objectives for config in loaded(bare, tmp_path).values()} == {Objectives()}


def test_the_autoscaler_knows_all_pools_and_which_it_sizes(
    everything: Rendered, tmp_path: Path
) -> None:
    config = loaded(everything, tmp_path)["autoscaler"]
    assert [
        (pool.name, pool.deployment, pool.length_class, pool.min_replicas, pool.max_replicas)
        for pool in config.sized_pools
    ] == [
        ("short", "demo-lengthwise-short", "short", 2, 6),
        ("mixed", "demo-lengthwise-mixed", None, 0, 4),
    ]
    assert [pool.flexible for pool in config.pools] == [False, True, False, False]
    assert [pool.name for pool in config.pools if pool.fixed] == ["decode", "download"]
    assert (config.release, config.namespace, config.dry_run) == ("demo", "somewhere", True)
    assert config.scaling.flip_seconds == 60
    prometheus = config.prometheus
    assert (prometheus.scrape_interval_seconds, prometheus.window_seconds) == (30.0, 120.0)
    assert str(prometheus.bearer_token) == "/etc/lengthwise/prometheus/token"
    assert config.tls.server_name == "demo-lengthwise-workers"


def test_the_autoscaler_may_size_its_pools_and_nothing_else(everything: Rendered) -> None:
    deployments = ["demo-lengthwise-short", "demo-lengthwise-mixed"]
    role = everything.one("Role", "autoscaler")
    assert sorted(role["rules"], key=json.dumps) == sorted(
        [
            _rule("apps", "deployments", ["get"], deployments),
            _rule("apps", "deployments/scale", ["patch"], deployments),
            _rule("", "pods", ["list", "patch"]),
            _rule("coordination.k8s.io", "leases", ["create"]),
            _rule(
                "coordination.k8s.io", "leases", ["get", "update"], ["demo-lengthwise-autoscaler"]
            ),
            _rule("", "events", ["create"]),
        ],
        key=json.dumps,
    )
    (policy,) = everything.of("ValidatingAdmissionPolicy")
    (condition,) = policy["spec"]["matchConditions"]
    assert "system:serviceaccount:somewhere:demo-lengthwise-autoscaler" in condition["expression"]


def _rule(group: str, resource: str, verbs: list[str], names: list[str] | None = None) -> Manifest:
    # In the order of the chart's keys: sorted by their text.
    rule: Manifest = {"apiGroups": [group], "resources": [resource]}
    return rule | ({"resourceNames": names} if names else {}) | {"verbs": verbs}


def test_http_is_at_every_door_or_at_none(helm: str, bare: Rendered, tmp_path: Path) -> None:
    without = Rendered(helm, "--set=http.enabled=false")
    for rendered, expected in ((bare, True), (without, False)):
        ports = rendered.one("Service", "")["spec"]["ports"]
        pod = rendered.one("Deployment", "router")["spec"]["template"]["spec"]
        doors = [
            [port["name"] for port in ports],
            [port["name"] for port in pod["containers"][0]["ports"]],
            [
                each["port"]
                for each in rendered.one("NetworkPolicy", "router")["spec"]["ingress"][0]["ports"]
            ],
        ]
        assert ["http" in names for names in doors] == [expected] * 3
        listen = loaded(rendered, tmp_path)["router"].http.listen
        assert listen == ("0.0.0.0:8000" if expected else "")


def test_workers_are_reached_by_the_autoscaler_where_there_is_one(
    everything: Rendered, bare: Rendered
) -> None:
    assert _may_reach_workers(everything) == {"worker", "router", "autoscaler"}
    assert _may_reach_workers(bare) == {"worker", "router"}


def _may_reach_workers(rendered: Rendered) -> set[str]:
    ingress = rendered.one("NetworkPolicy", "workers")["spec"]["ingress"]
    return {
        peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"]
        for rule in ingress
        for peer in rule.get("from", [])
    }


def test_pods_need_no_shell_and_no_rights(bare: Rendered) -> None:
    for _, pod, container in bare.containers():
        assert container["command"][0] in CONFIGS
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_shared_memory_is_where_nccl_needs_it(everything: Rendered, bare: Rendered) -> None:
    assert _shared_memory(bare) == {}
    assert _shared_memory(everything) == {"mixed": "1Gi", "decode": "3Gi"}


def _shared_memory(rendered: Rendered) -> dict[str, str]:
    sizes = {}
    for name, pod, container in rendered.containers():
        for mount in container["volumeMounts"]:
            if mount["mountPath"] == "/dev/shm":
                (volume,) = [each for each in pod["volumes"] if each["name"] == mount["name"]]
                assert volume["emptyDir"]["medium"] == "Memory"
                sizes[name.removeprefix("demo-lengthwise-")] = volume["emptyDir"]["sizeLimit"]
    return sizes


def test_probes_see_more_than_an_open_port_with_tls_too(
    everything: Rendered, bare: Rendered
) -> None:
    for _, _, container in everything.containers():
        port = {"port": "metrics", "scheme": "HTTPS"}
        assert container["readinessProbe"]["httpGet"] == {"path": "/healthz", **port}
        assert container["livenessProbe"]["httpGet"] == {"path": "/livez", **port}
    for _, _, container in bare.containers():
        assert container["readinessProbe"]["grpc"] == {"port": 50051}
        assert container["livenessProbe"]["grpc"] == {"port": 50051, "service": "live"}


def test_each_part_shows_a_certificate_of_its_own(everything: Rendered) -> None:
    secrets = {"router": "certificate", "worker": "worker-certificate"}
    for deployment in everything.of("Deployment"):
        template = deployment["spec"]["template"]
        component = template["metadata"]["labels"]["app.kubernetes.io/component"]
        (volume,) = [each for each in template["spec"]["volumes"] if each["name"] == "tls"]
        expected = secrets.get(component, "autoscaler-certificate")
        assert volume["secret"]["secretName"] == expected
    named = {
        each["spec"]["secretName"]: each["spec"]["dnsNames"][0]
        for each in everything.of("Certificate")
    }
    assert named == {
        "certificate": "demo-lengthwise",
        "worker-certificate": "demo-lengthwise-workers",
        "autoscaler-certificate": "demo-lengthwise-autoscaler",
    }


def test_workers_are_told_the_names_in_those_certificates(
    everything: Rendered, tmp_path: Path
) -> None:
    configs = loaded(everything, tmp_path)
    for name, config in configs.items():
        names = config.tls.callers
        assert (names.routers, names.workers, names.autoscalers) == (
            ("demo-lengthwise",),
            ("demo-lengthwise-workers",),
            ("demo-lengthwise-autoscaler",),
        ), name
        assert config.metrics_tls.authority is None, "probes show no certificate"
    router: Any = configs["router"]
    assert str(router.client_tls.authority) == "/etc/lengthwise/client-tls/ca.crt"


def test_keys_come_from_a_secret_and_are_shared_by_the_replicas(
    helm: str, everything: Rendered, tmp_path: Path
) -> None:
    keys = loaded(everything, tmp_path)["router"].keys
    assert keys.router_replicas == 1, "nobody knows how many an autoscaler has"
    pod = everything.one("Deployment", "router")["spec"]["template"]["spec"]
    (volume,) = [each for each in pod["volumes"] if each["name"] == "keys"]
    assert volume["secret"]["secretName"] == "api-keys"
    (mount,) = [each for each in pod["containers"][0]["volumeMounts"] if each["name"] == "keys"]
    assert Path(mount["mountPath"]) == keys.file.parent
    assert "subPath" not in mount, "such a mount is never renewed"
    rendered = Rendered(helm, "--set=router.keys.secretName=api-keys,router.replicas=3")
    assert loaded(rendered, tmp_path)["router"].keys.router_replicas == 3
    assert loaded(Rendered(helm), tmp_path)["router"].keys is None


def test_one_secret_is_enough(helm: str, tmp_path: Path) -> None:
    values = ["--set=tls.enabled=true,tls.secretName=one,tls.certManager.enabled=true"]
    rendered = Rendered(helm, *values, "--set=tls.certManager.issuerRef.name=internal")
    (certificate,) = rendered.of("Certificate")
    for config in loaded(rendered, tmp_path).values():
        names = config.tls.callers
        known = {*names.routers, *names.workers, *names.autoscalers}
        assert known <= set(certificate["spec"]["dnsNames"])


def test_prometheus_labels_what_rules_and_the_autoscaler_select_by(everything: Rendered) -> None:
    (monitor,) = everything.of("PodMonitor")
    prefix = "__meta_kubernetes_pod_label_"
    endpoints = monitor["spec"]["podMetricsEndpoints"]
    for endpoint in endpoints:
        assert (endpoint["port"], endpoint["honorLabels"]) == ("metrics", True)
        kept, *relabelings = endpoint["relabelings"]
        assert kept["sourceLabels"] == [f"{prefix}app_kubernetes_io_component"]
        assert {each["targetLabel"]: each.get("sourceLabels") for each in relabelings} == {
            "job": None,
            "release": [f"{prefix}app_kubernetes_io_instance"],
            "component": [f"{prefix}app_kubernetes_io_component"],
            "pool": [f"{prefix}lengthwise_pool"],
            "model": ["__meta_kubernetes_pod_annotation_lengthwise_model"],
        }
    names = {each["relabelings"][0]["regex"]: each["tlsConfig"]["serverName"] for each in endpoints}
    assert names == {
        "router": "demo-lengthwise",
        "worker": "demo-lengthwise-workers",
        "autoscaler": "demo-lengthwise-autoscaler",
    }
    selected = monitor["spec"]["selector"]["matchLabels"].items()
    for deployment in everything.of("Deployment"):
        assert selected <= deployment["spec"]["template"]["metadata"]["labels"].items()


def _expressions(rules: dict[str, Any]) -> list[str]:
    return [rule["expr"] for group in rules["groups"] for rule in group["rules"]]


def test_rules_and_dashboards_arrive_as_they_are(everything: Rendered, bare: Rendered) -> None:
    rules = {path.stem: path for path in (CHART / "rules").glob("*.yaml")}
    for name, path in rules.items():
        found = everything.one("PrometheusRule", name)
        committed = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert [group["name"] for group in found["spec"]["groups"]] == [
            group["name"] for group in committed["groups"]
        ]
        assert _expressions(found["spec"]) == _expressions(committed)
        assert found["metadata"]["labels"]["team"] == "serving"
    dashboards = {path.stem: path for path in (CHART / "dashboards").glob("*.json")}
    for name, path in dashboards.items():
        found = everything.one("ConfigMap", f"dashboard-{name}")
        assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
        shown = json.loads(found["data"][path.name])
        assert shown == json.loads(path.read_text(encoding="utf-8"))
    assert len(everything.of("PrometheusRule")) == len(rules)
    assert rules
    assert dashboards
    assert not bare.of("PrometheusRule")
    assert not [each for each in bare.of("ConfigMap") if "dashboard" in each["metadata"]["name"]]


def test_alerts_call_as_their_readers_are_used_to(everything: Rendered, bare: Rendered) -> None:
    rules = [
        rule
        for each in everything.of("PrometheusRule")
        for group in each["spec"]["groups"]
        for rule in group["rules"]
        if "alert" in rule
    ]
    assert {rule["labels"]["severity"] for rule in rules} == {"page", "critical"}
    for rule in rules:
        place = f"https://wiki.example/lengthwise#{rule['alert'].lower()}"
        assert rule["annotations"]["runbook_url"] == place
        assert "{{ $labels.namespace }}" in rule["annotations"]["summary"]
    assert not bare.of("PrometheusRule")
