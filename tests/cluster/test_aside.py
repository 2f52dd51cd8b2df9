"""A second release, of what the first does without: TLS, weights from elsewhere, and troubles.

Its autoscaler never finds its Prometheus, then loses a Deployment and its rights.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster.kubectl import CHART, CommandFailed, Release, image_values, new_namespace
from cluster.scaling import errors_of, events_of
from harness.waiting import wait_for

SHELF = "shelf"

SECRET = "keys"

NOWHERE = "http://nowhere:9090"

SERVE = """
import functools, http.server, tarfile
with tarfile.open("/tmp/model.tar.gz", "w:gz", compresslevel=1) as archive:
    archive.add("/opt/lengthwise/demo_model/", ".")
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory="/tmp")
http.server.ThreadingHTTPServer(("", 8000), handler).serve_forever()
"""


@pytest.fixture(scope="module")
def aside(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    if not shutil.which("openssl"):
        pytest.skip("makes keys with openssl")
    with new_namespace() as namespace:
        release = Release(name="aside", namespace=namespace)
        namespace.apply(*shelf(image))
        folder = tmp_path_factory.mktemp("keys")
        make_keys(folder, release.fullname)
        files = [f"--from-file={name}={folder / name}" for name in ("tls.crt", "tls.key", "ca.crt")]
        namespace.kubectl("create", "secret", "generic", SECRET, *files)
        scaled = {"enabled": True, "min": 1, "max": 2}
        release.install(
            [
                f"--values={CHART.parent / 'values' / 'laptop.yaml'}",
                *image_values(image),
                *("--set=tls.enabled=true", f"--set=tls.secretName={SECRET}"),
                "--set=model.source=download,model.name=far-away",
                f"--set=model.download.url=http://{SHELF}:8000/model.tar.gz",
                f"--set-json=poolDefaults.autoscale={json.dumps(scaled)}",
                f"--set=autoscaler.enabled=true,autoscaler.prometheus.url={NOWHERE}",
                "--set=autoscaler.config.interval_seconds=1",
                "--set=router.drainSeconds=1,poolDefaults.drainSeconds=1",
            ]
        )
        try:
            yield release
        finally:
            release.uninstall(wait=False)


def test_a_completion_is_answered_over_mutual_tls(aside: Release) -> None:
    assert "Succeeded" in aside.test()


def test_weights_are_downloaded_before_the_start(aside: Release) -> None:
    (pod,) = aside.ready("decode")
    mounted = aside.namespace.kubectl("exec", pod, "--", "ls", "/models")
    assert "config.json" in mounted
    config = "/etc/lengthwise/config/worker.yaml"
    assert "/models" in aside.namespace.kubectl("exec", pod, "--", "grep", "^model:", config)


def test_an_unreachable_prometheus_is_reported_everywhere_and_scales_nothing(
    aside: Release,
) -> None:
    reported(aside, "prometheus_unreachable", ["prefill", "decode"])
    assert NOWHERE in logs_of(aside, "autoscaler")
    assert replicas_of(aside) == {"prefill": 1, "decode": 1}


def test_a_pool_that_is_not_there_is_reported_everywhere(aside: Release) -> None:
    aside.namespace.kubectl("delete", f"deployment/{aside.fullname}-prefill", "--wait=false")
    reported(aside, "unknown_pool", ["prefill"])


def test_missing_rights_of_the_autoscaler_are_reported_everywhere(aside: Release) -> None:
    role = f"role/{aside.fullname}-autoscaler"
    rights = json.loads(aside.namespace.kubectl("get", role, "--output=json"))["rules"]
    kept = [rule for rule in rights if rule["apiGroups"] != ["apps"]]
    body = json.dumps({"rules": kept})
    aside.namespace.kubectl("patch", role, "--type=merge", f"--patch={body}")
    reported(aside, "forbidden", ["decode"])


def test_missing_rights_of_a_router_are_reported(aside: Release) -> None:
    namespace = aside.namespace
    namespace.kubectl("delete", "rolebinding", f"{aside.fullname}-router")
    namespace.kubectl("delete", "pod", "--selector", aside.routers, "--grace-period=1")
    complaint = "not allowed to list endpointslices (discovery.k8s.io)"
    wait_for("the router's complaint", lambda: complaint in logs_of(aside, "router"), 60)


def reported(release: Release, reason: str, pools: list[str]) -> None:
    """In the log, by a metric, and as an Event on each pool's Deployment."""
    wait_for("a metric", lambda: errors_of(release).get(reason, 0) > 0, 30)
    wait_for("a line of the log", lambda: reason in logs_of(release, "autoscaler"), 10)
    for pool in pools:

        def event(pool: str = pool) -> list[str]:
            return [each for each in events_of(release, pool, "ScalingFailed") if reason in each]

        wait_for("an Event", event, 10)


def logs_of(release: Release, component: str) -> str:
    selector = f"{release.selector()},app.kubernetes.io/component={component}"
    try:
        return release.namespace.kubectl("logs", "--selector", selector, "--tail=-1")
    except CommandFailed:
        return ""  # its container has not started yet


def replicas_of(release: Release) -> dict[str, int]:
    found = release.namespace.objects("deployments", f"{release.selector()},lengthwise/pool")
    return {
        each["metadata"]["labels"]["lengthwise/pool"]: each["spec"]["replicas"] for each in found
    }


def shelf(image: str) -> list[dict[str, Any]]:
    """A pod that offers the demo model as an archive, and its Service."""
    container = {
        "name": SHELF,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-c", SERVE],
        "readinessProbe": {"tcpSocket": {"port": 8000}, "periodSeconds": 1},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": SHELF, "labels": {"app": SHELF}},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 10001,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
        },
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": SHELF},
        "spec": {"selector": {"app": SHELF}, "ports": [{"port": 8000}]},
    }
    return [pod, service]


def make_keys(folder: Path, fullname: str) -> None:
    """An authority, and one certificate for all: with the names that the chart asks for."""
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=ca",
            folder=folder)  # fmt: skip
    openssl("req", *curve, "-keyout", "tls.key", "-out", "tls.csr", "-subj", "/CN=lengthwise",
            folder=folder)  # fmt: skip
    names = (fullname, f"{fullname}-headless", f"{fullname}-workers")
    (folder / "names").write_text("subjectAltName=" + ",".join(f"DNS:{name}" for name in names))
    openssl("x509", "-req", "-in", "tls.csr", "-out", "tls.crt", "-extfile", "names", "-days", "2",
            "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", folder=folder)  # fmt: skip


def openssl(*arguments: str, folder: Path) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, timeout=30)
