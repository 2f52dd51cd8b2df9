"""Weights that are not in the image."""

from typing import Any

from harness.kubectl import CHART, Namespace, Release, image_values, new_namespace

SHELF = "shelf"

SERVE = """
import functools, http.server, tarfile
with tarfile.open("/tmp/model.tar.gz", "w:gz") as archive:
    archive.add("/opt/lengthwise/demo_model/", ".")
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory="/tmp")
http.server.ThreadingHTTPServer(("", 8000), handler).serve_forever()
"""


def test_weights_are_downloaded_before_the_start(image: str) -> None:
    with new_namespace() as namespace:
        namespace.apply(*shelf(image))
        wait = ("wait", "--for=condition=Ready", f"pod/{SHELF}", "--timeout=60s")
        namespace.kubectl(*wait, seconds=90)
        release = Release(name="far", namespace=namespace)
        try:
            release.install(
                [
                    f"--values={CHART.parent / 'values' / 'laptop.yaml'}",
                    *image_values(image),
                    "--set=model.source=download,model.name=far-away",
                    f"--set=model.download.url=http://{SHELF}:8000/model.tar.gz",
                ]
            )
            assert "Succeeded" in release.test()
            assert "/models" in weights_of(namespace, release)
        finally:
            release.uninstall()


def weights_of(namespace: Namespace, release: Release) -> str:
    """The configuration that a worker runs with."""
    (pod,) = release.ready("decode")
    return namespace.kubectl("exec", pod, "--", "grep", "^model:", "/tmp/worker.yaml")


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
