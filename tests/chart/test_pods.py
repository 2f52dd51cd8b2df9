"""What values say of pods, and of what surrounds them."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart.helm import CHART, VALUES, Manifest, Rendered

EVERYTHING = Path(__file__).with_name("everything.yaml")

SELECTING = ("app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/component")

NEVER_ON_PODS = ("app.kubernetes.io/version", "helm.sh/chart")


@pytest.fixture(scope="module")
def everything(helm: str) -> Rendered:
    return Rendered(helm, f"--values={EVERYTHING}")


@pytest.fixture(scope="module")
def bare(helm: str) -> Rendered:
    return Rendered(helm)


def _pod(rendered: Rendered, name: str) -> Manifest:
    template: Manifest = rendered.one("Deployment", name)["spec"]["template"]
    return template


def _environment(container: Manifest) -> dict[str, Any]:
    names = [each["name"] for each in container["env"]]
    assert len(names) == len(set(names)), "the API server refuses a name that is there twice"
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container["env"]}


def test_environments_are_merged_by_name(everything: Rendered) -> None:
    everywhere = {"configMapKeyRef": {"name": "place", "key": "region"}}
    for _, _, container in everything.containers():
        assert _environment(container)["REGION"] == everywhere
        assert container["envFrom"] == [{"secretRef": {"name": "more"}}]
    router, decode = (
        _environment(_pod(everything, name)["spec"]["containers"][0])
        for name in ("router", "decode")
    )
    assert router["HTTPS_PROXY"] == "http://proxy:3128"
    assert (decode["HTTPS_PROXY"], decode["NCCL_IB_HCA"]) == ("", "mlx5")
    assert (decode["HF_HOME"], decode["HF_ENDPOINT"]) == ("/models", "https://mirror.example")


def test_a_download_goes_the_way_that_its_pod_goes(everything: Rendered) -> None:
    download, warm = _pod(everything, "download")["spec"]["initContainers"]
    assert warm["name"] == "warm"
    environment = _environment(download)
    assert environment["HTTPS_PROXY"] == "http://proxy:3128"
    assert environment["URL"] == "https://weights.example/a.tar"
    assert "authorities" in [each["name"] for each in download["volumeMounts"]]


def test_every_kind_of_pod_has_what_all_pods_have(everything: Rendered) -> None:
    for deployment in everything.of("Deployment"):
        template = deployment["spec"]["template"]
        pod = template["spec"]
        assert template["metadata"]["labels"]["network"] == "fast"
        assert template["metadata"]["annotations"]["sidecar.istio.io/inject"] == "false"
        assert pod["containers"][1]["name"] == "beside"
        assert pod["initContainers"][-1]["name"] == "warm"
        mounted = {each["name"] for each in pod["containers"][0]["volumeMounts"]}
        assert {"authorities"} <= mounted == {each["name"] for each in pod["volumes"]}
        (spread,) = pod["topologySpreadConstraints"]
        assert spread["labelSelector"] == deployment["spec"]["selector"]


def test_a_pool_may_differ(everything: Rendered) -> None:
    decode = _pod(everything, "decode")["spec"]
    assert decode["containers"][0]["securityContext"]["capabilities"] == {
        "drop": ["ALL"], "add": ["IPC_LOCK"],
    }  # fmt: skip
    assert decode["affinity"] == {"podAntiAffinity": {}}
    assert "affinity" not in _pod(everything, "short")["spec"]
    assert decode["serviceAccountName"] == "weights"
    assert _pod(everything, "short")["spec"]["serviceAccountName"] == "default"
    accounts = {
        each["metadata"]["name"]: each["metadata"].get("annotations")
        for each in everything.of("ServiceAccount")
    }
    assert accounts == {
        "weights": {"cloud/role": "workers"},
        "demo-lengthwise-router": {"cloud/role": "routers"},
        "demo-lengthwise-autoscaler": None,
    }


def test_images_differ_by_component_and_a_digest_is_of_its_own_image(helm: str) -> None:
    digest = "sha256:" + "ab" * 32
    rendered = Rendered(
        helm,
        f"--set=image.repository=all,image.digest={digest}",
        "--set=router.image.tag=cpu,poolDefaults.image.repository=gpu",
    )
    images = {name: each["image"] for name, _, each in rendered.containers()}
    assert images == {
        "demo-lengthwise-router": "all:cpu",
        "demo-lengthwise-prefill": "gpu:0.1.0",
        "demo-lengthwise-decode": "gpu:0.1.0",
    }
    (test,) = rendered.of("Pod")
    assert test["spec"]["containers"][0]["image"] == f"all@{digest}"


def test_the_cluster_may_choose_user_and_groups(everything: Rendered, helm: str) -> None:
    (openshift,) = [path for path in VALUES if path.stem == "openshift"]
    for rendered in (everything, Rendered(helm, f"--values={openshift}")):
        for _, pod, container in rendered.containers():
            assert pod["securityContext"] == {
                "runAsNonRoot": True,
                "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": {"type": "RuntimeDefault"},
            }
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            # What is written is written where any user may: HOME is /tmp in the image.
            (tmp,) = [each for each in pod["volumes"] if each["name"] == "tmp"]
            assert "emptyDir" in tmp


def test_a_pool_may_leave_out_what_all_pods_say(helm: str) -> None:
    pools = '[{"name":"a","role":"decode","replicas":1,"podSecurityContext":{"runAsUser":null}}]'
    rendered = Rendered(helm, f"--set-json=pools={pools}")
    assert "runAsUser" not in _pod(rendered, "a")["spec"]["securityContext"]
    assert _pod(rendered, "router")["spec"]["securityContext"]["runAsUser"] == 10001


def test_who_else_counts_replicas_is_not_overruled(everything: Rendered, bare: Rendered) -> None:
    counted = {
        each["metadata"]["name"]: each["spec"].get("replicas")
        for each in everything.of("Deployment")
    }
    assert counted["demo-lengthwise-router"] is counted["demo-lengthwise-download"] is None
    assert counted["demo-lengthwise-short"] == 2
    assert [each["spec"]["replicas"] for each in bare.of("Deployment")] == [1, 1, 1]


def test_a_rollout_has_failed_only_after_pods_may_have_started(everything: Rendered) -> None:
    for deployment in everything.of("Deployment"):
        probe = deployment["spec"]["template"]["spec"]["containers"][0]["startupProbe"]
        starting = probe["periodSeconds"] * probe["failureThreshold"]
        deadline = deployment["spec"].get("progressDeadlineSeconds", 600)
        assert deadline >= starting + 300, deployment["metadata"]["name"]


def test_objects_say_what_they_belong_to(everything: Rendered) -> None:
    for each in everything.objects:
        if each["metadata"]["name"] in ("demo-text", "demo-lengthwise-router") and (
            each["kind"] in ("ConfigMap", "HorizontalPodAutoscaler")
        ):
            continue  # extraObjects are values' own
        labels = each["metadata"]["labels"]
        assert labels.keys() >= {*SELECTING, *NEVER_ON_PODS, "app.kubernetes.io/managed-by"}
        assert labels["app.kubernetes.io/part-of"] == "platform", "commonLabels come before"
        assert labels["cost-centre"] == "42"
    for deployment in everything.of("Deployment"):
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        assert labels.keys() >= {*SELECTING, "cost-centre"}
        assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_another_version_of_the_chart_restarts_no_pod(helm: str, tmp_path: Path) -> None:
    newer = tmp_path / "lengthwise"
    shutil.copytree(CHART, newer)
    about = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    changed = about | {"version": "9.8.7", "appVersion": "6.5.4"}
    (newer / "Chart.yaml").write_text(yaml.safe_dump(changed), encoding="utf-8")
    given = (f"--values={EVERYTHING}", "--set=image.tag=pinned")
    before, after = (Rendered(helm, *given, chart=chart) for chart in (CHART, newer))
    for old, new in zip(before.of("Deployment"), after.of("Deployment"), strict=True):
        assert old["metadata"]["labels"] != new["metadata"]["labels"]
        assert old["spec"] == new["spec"]


def test_a_change_of_one_pool_restarts_no_other(helm: str) -> None:
    before, after = (
        Rendered(helm, f"--set=pools[0].config.threads={threads}", *_POOLS) for threads in (1, 2)
    )
    changed = [
        old["metadata"]["name"]
        for old, new in zip(before.of("Deployment"), after.of("Deployment"), strict=True)
        if old["spec"]["template"] != new["spec"]["template"]
    ]
    assert changed == ["demo-lengthwise-prefill"]


_POOLS = (
    "--set=pools[0].name=prefill,pools[0].role=prefill,pools[0].replicas=1",
    "--set=pools[1].name=decode,pools[1].role=decode,pools[1].replicas=1",
)


def test_names_may_be_chosen(helm: str) -> None:
    rendered = Rendered(helm, "--set=fullnameOverride=llm,nameOverride=serving")
    names = {each["metadata"]["name"] for each in rendered.objects}
    assert names >= {"llm", "llm-router", "llm-workers", "llm-prefill"}
    assert all(name.startswith("llm") for name in names)
    for each in rendered.objects:
        assert each["metadata"]["labels"]["app.kubernetes.io/name"] == "serving"
    (policy,) = [each for each in rendered.of("NetworkPolicy") if "workers" in str(each)][:1]
    assert policy["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/name"] == "serving"


def test_downloads_are_kept_in_a_claim(everything: Rendered, helm: str) -> None:
    (claim,) = everything.of("PersistentVolumeClaim")
    assert claim["metadata"]["name"] == "demo-lengthwise-models"
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert claim["spec"] == {
        "accessModes": ["ReadWriteMany"],
        "storageClassName": "shared",
        "resources": {"requests": {"storage": "200Gi"}},
    }
    assert _models(everything, "decode") == {"claimName": "demo-lengthwise-models"}
    given = Rendered(
        helm,
        "--set=model.source=hub,model.hub.id=owner/name",
        "--set=persistence.enabled=true,persistence.existingClaim=there",
    )
    assert given.of("PersistentVolumeClaim") == []
    assert _models(given, "router") == _models(given, "prefill") == {"claimName": "there"}


def _models(rendered: Rendered, name: str) -> Any:
    (volume,) = [e for e in _pod(rendered, name)["spec"]["volumes"] if e["name"] == "models"]
    return volume["persistentVolumeClaim"]


def test_grpc_comes_in_through_an_ingress(everything: Rendered) -> None:
    ingress = everything.one("Ingress", "")
    annotation = {"nginx.ingress.kubernetes.io/backend-protocol": "GRPCS"}
    assert ingress["metadata"]["annotations"] == annotation
    (rule,) = ingress["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    service = everything.one("Service", "")
    assert path["backend"]["service"]["name"] == service["metadata"]["name"]
    assert path["backend"]["service"]["port"]["name"] in [
        port["name"] for port in service["spec"]["ports"]
    ]
    assert service["spec"]["loadBalancerClass"] == "example.com/internal"


def test_http_comes_in_through_an_ingress_and_a_route(everything: Rendered) -> None:
    ingress, route = everything.one("Ingress", "http"), everything.one("HTTPRoute", "http")
    assert ingress["metadata"]["annotations"] == {
        "nginx.ingress.kubernetes.io/backend-protocol": "HTTPS",
        "nginx.ingress.kubernetes.io/proxy-body-size": "16m",
    }
    (path,) = ingress["spec"]["rules"][0]["http"]["paths"]
    assert (path["path"], path["backend"]["service"]["port"]) == ("/v1", {"name": "http"})
    service = everything.one("Service", "")
    ports = {port["name"]: port["port"] for port in service["spec"]["ports"]}
    (rule,) = route["spec"]["rules"]
    assert rule["backendRefs"] == [
        {"name": service["metadata"]["name"], "port": ports["http"]},
    ]
    assert rule["matches"] == [{"path": {"type": "PathPrefix", "value": "/"}}]
    assert rule["timeouts"] == {"request": "0s"}, "streams last as long as answers"
    assert route["spec"]["parentRefs"][0]["name"] == "gateway"
    assert route["spec"]["hostnames"] == ["api.example"]


def test_extra_objects_know_the_release(everything: Rendered) -> None:
    (scaler,) = everything.of("HorizontalPodAutoscaler")
    target = everything.one("Deployment", "router")["metadata"]["name"]
    assert scaler["metadata"]["name"] == scaler["spec"]["scaleTargetRef"]["name"] == target
    assert "demo-text" in [each["metadata"]["name"] for each in everything.of("ConfigMap")]


def test_dashboards_go_into_a_folder(everything: Rendered) -> None:
    folders = [
        each["metadata"]["annotations"]["grafana_folder"]
        for each in everything.of("ConfigMap")
        if "dashboard" in each["metadata"]["name"]
    ]
    assert set(folders) == {"Lengthwise"}
