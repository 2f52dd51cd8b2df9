"""What runs beside Prometheus: finds the pods of its namespace, as Prometheus itself would.

Debian's Prometheus is built without the discovery of Kubernetes. So targets and their labels are
written to a file that it watches, named as its own discovery names them.
"""

import json
import os
import re
import ssl
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

PAUSE_SECONDS = 1.0

PREFIX = "__meta_kubernetes_pod"


def pods() -> list[dict[str, Any]]:
    namespace = (ACCOUNT / "namespace").read_text()
    host, port = (os.environ[f"KUBERNETES_SERVICE_{part}"] for part in ("HOST", "PORT"))
    request = urllib.request.Request(
        f"https://{host}:{port}/api/v1/namespaces/{namespace}/pods",
        headers={"Authorization": f"Bearer {(ACCOUNT / 'token').read_text()}"},
    )
    trust = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    with urllib.request.urlopen(request, timeout=5, context=trust) as response:
        items: list[dict[str, Any]] = json.load(response)["items"]
    return items


def targets(pod: dict[str, Any]) -> list[dict[str, Any]]:
    """One for each port of each container."""
    metadata, status = pod["metadata"], pod["status"]
    labels = {
        "__meta_kubernetes_namespace": metadata["namespace"],
        f"{PREFIX}_name": metadata["name"],
        f"{PREFIX}_phase": status["phase"],
        **{
            f"{PREFIX}_label_{re.sub('[^a-zA-Z0-9_]', '_', name)}": value
            for name, value in metadata.get("labels", {}).items()
        },
        **{
            f"{PREFIX}_annotation_{re.sub('[^a-zA-Z0-9_]', '_', name)}": value
            for name, value in metadata.get("annotations", {}).items()
        },
    }
    return [
        {
            "targets": [f"{status['podIP']}:{port['containerPort']}"],
            "labels": {**labels, f"{PREFIX}_container_port_name": port.get("name", "")},
        }
        for container in pod["spec"]["containers"]
        for port in container.get("ports", ())
        if "podIP" in status
    ]


def main(path: Path) -> None:
    written = path.with_suffix(".new")
    while True:
        try:
            found = [target for pod in pods() for target in targets(pod)]
        except OSError as error:
            print(f"going on with the pods known so far: {error}", flush=True)
        else:
            written.write_text(json.dumps(found))
            written.rename(path)
        time.sleep(PAUSE_SECONDS)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
