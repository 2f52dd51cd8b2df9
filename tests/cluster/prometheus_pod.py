"""A real Prometheus as a pod, which finds a release's pods as the chart's PodMonitor does.

It labels targets exactly like helm/lengthwise/templates/pod-monitor.yaml, and sees its
own namespace alone.
"""

import json
import subprocess
import urllib.parse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from cluster.kubectl import Namespace, run
from harness.waiting import wait_for

NAME = "prometheus"

PORT = 9090

FINDER = Path(__file__).with_name("find_pods.py")

TARGETS = "/targets/pods.json"

SCRAPE_SECONDS = 2.0


class PrometheusPod:
    """Life: construct, `apply`; `stop` and `start` at will. Its data go with its pod."""

    def __init__(
        self, namespace: Namespace, image: str, python_image: str, rules: Sequence[Path]
    ) -> None:
        """`python_image`: any with python3."""
        self._namespace = namespace
        self._image = image
        self._python_image = python_image
        self._rules = rules

    @property
    def url(self) -> str:
        """From inside of the cluster."""
        return f"http://{NAME}.{self._namespace.name}:{PORT}"

    def apply(self) -> None:
        files = {f"rules-{path.name}": path.read_text(encoding="utf-8") for path in self._rules}
        files[FINDER.name] = FINDER.read_text(encoding="utf-8")
        self._namespace.apply(
            *self._rights(),
            _object(
                "v1", "ConfigMap", data={"prometheus.yaml": yaml.safe_dump(_config()), **files}
            ),
            _object("v1", "Service", spec={"selector": {"app": NAME}, "ports": [{"port": PORT}]}),
            _object("apps/v1", "Deployment", spec=self._deployment()),
        )

    def wait_until_ready(self, seconds: float = 60.0) -> None:
        wait_for("Prometheus", lambda: self._namespace.ready_pods(f"app={NAME}"), seconds)

    def stop(self) -> None:
        """Returns when it is gone."""
        self._namespace.kubectl("scale", f"deployment/{NAME}", "--replicas=0")
        wait_for("the end of Prometheus", lambda: not self._pods(), 60)

    def start(self) -> None:
        self._namespace.kubectl("scale", f"deployment/{NAME}", "--replicas=1")
        self.wait_until_ready()

    def query(self, text: str) -> list[dict[str, Any]]:
        """The result of an instant query, asked through the API server."""
        service = f"/api/v1/namespaces/{self._namespace.name}/services/{NAME}:{PORT}/proxy"
        asked = urllib.parse.urlencode({"query": text})
        answer = json.loads(run("kubectl", "get", "--raw", f"{service}/api/v1/query?{asked}"))
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result

    @contextmanager
    def forwarded(self) -> Iterator[str]:
        """Its URL on this machine."""
        command = ("kubectl", "--namespace", self._namespace.name, "port-forward")
        with subprocess.Popen(
            [*command, f"service/{NAME}", f":{PORT}"], stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                assert process.stdout is not None
                # "Forwarding from 127.0.0.1:35123 -> 9090"
                address = process.stdout.readline().split()[2]
                yield f"http://{address}"
            finally:
                process.terminate()

    def _pods(self) -> list[str]:
        return self._namespace.names("pods", f"app={NAME}")

    def _rights(self) -> list[dict[str, Any]]:
        rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}]
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": NAME}
        account = {"kind": "ServiceAccount", "name": NAME, "namespace": self._namespace.name}
        group = "rbac.authorization.k8s.io/v1"
        return [
            _object("v1", "ServiceAccount"),
            _object(group, "Role", rules=rules),
            _object(group, "RoleBinding", roleRef=role, subjects=[account]),
        ]

    def _deployment(self) -> dict[str, Any]:
        prometheus = {
            "name": NAME,
            "image": self._image,
            "args": [
                "--config.file=/etc/prometheus/prometheus.yaml",
                "--storage.tsdb.path=/data",
                f"--web.listen-address=:{PORT}",
            ],
            "env": [{"name": "GOMAXPROCS", "value": "1"}],
            "readinessProbe": {"httpGet": {"path": "/-/ready", "port": PORT}, "periodSeconds": 1},
        }
        finder = {
            "name": "finder",
            "image": self._python_image,
            "command": ["python3", f"/etc/prometheus/{FINDER.name}", TARGETS],
        }
        common = {
            "imagePullPolicy": "IfNotPresent",
            # Pods with a CPU request come before one without, which a busy machine starves.
            "resources": {"requests": {"cpu": "200m", "memory": "64Mi"}},
            "volumeMounts": [
                {"name": "config", "mountPath": "/etc/prometheus"},
                {"name": "data", "mountPath": "/data"},
                {"name": "targets", "mountPath": str(Path(TARGETS).parent)},
            ],
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            },
        }
        spec = {
            "serviceAccountName": NAME,
            "terminationGracePeriodSeconds": 2,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65534,
                "fsGroup": 65534,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [prometheus | common, finder | common],
            "volumes": [
                {"name": "config", "configMap": {"name": NAME}},
                {"name": "data", "emptyDir": {}},
                {"name": "targets", "emptyDir": {}},
            ],
        }
        labels = {"app": NAME}
        return {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        }


def _object(group: str, kind: str, **content: Any) -> dict[str, Any]:
    return {"apiVersion": group, "kind": kind, "metadata": {"name": NAME}, **content}


def _config() -> dict[str, Any]:
    pod = "__meta_kubernetes_pod"
    labels = {
        "namespace": "__meta_kubernetes_namespace",
        "pod": f"{pod}_name",
        "release": f"{pod}_label_app_kubernetes_io_instance",
        "component": f"{pod}_label_app_kubernetes_io_component",
        "pool": f"{pod}_label_lengthwise_pool",
        "model": f"{pod}_annotation_lengthwise_model",
    }
    interval = f"{SCRAPE_SECONDS:g}s"
    job = {
        "job_name": "lengthwise",
        "honor_labels": True,
        "file_sd_configs": [{"files": [TARGETS], "refresh_interval": "5s"}],
        "relabel_configs": [
            {
                "action": "keep",
                "source_labels": [f"{pod}_container_port_name"],
                "regex": "metrics",
            },
            {"action": "drop", "source_labels": [f"{pod}_phase"], "regex": "Succeeded|Failed"},
            *(
                {"source_labels": [source], "target_label": label}
                for label, source in labels.items()
            ),
        ],
    }
    return {
        "global": {
            "scrape_interval": interval,
            "scrape_timeout": interval,
            "evaluation_interval": interval,
        },
        "rule_files": ["/etc/prometheus/rules-*.yaml"],
        "scrape_configs": [job],
    }
