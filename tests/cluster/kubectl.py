"""kubectl and helm as tests call them: bounded, and loud when they fail.

Nothing here knows which program made the cluster.
"""

import json
import re
import subprocess
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from harness.waiting import wait_for

CHART = Path(__file__).parents[2] / "helm" / "lengthwise"

INSTANCE_LABEL = "app.kubernetes.io/instance"

KINDS = ("prefill", "decode", "router")
"""What a release's pods are of, as `Release.ready` calls it."""


class CommandFailed(AssertionError):
    """A command ended with another exit code than 0."""


def run(*command: str, seconds: float = 60.0, stdin: str | None = None) -> str:
    """What a command prints. Errors: CommandFailed with all that it said."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=seconds, input=stdin, check=False
    )
    if done.returncode:
        raise CommandFailed(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout


def is_ready(pod: dict[str, Any]) -> bool:
    """Of an object as Kubernetes reports it: a pod that is ready and not on its way out."""
    return (
        pod["kind"] == "Pod"
        and "deletionTimestamp" not in pod["metadata"]
        and any(
            condition["type"] == "Ready" and condition["status"] == "True"
            for condition in pod["status"].get("conditions", ())
        )
    )


def _kind_of(found: dict[str, Any]) -> tuple[str, str]:
    """What a Deployment and its pods have in common within a release."""
    labels = found["metadata"]["labels"]
    return labels["app.kubernetes.io/component"], labels.get("lengthwise/pool", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Namespace:
    """One namespace of the cluster that KUBECONFIG names."""

    name: str

    def kubectl(self, *arguments: str, seconds: float = 60.0, stdin: str | None = None) -> str:
        return run("kubectl", "--namespace", self.name, *arguments, seconds=seconds, stdin=stdin)

    def objects(self, kinds: str, selector: str = "") -> list[dict[str, Any]]:
        arguments = ["get", kinds, "--output=json", *(["--selector", selector] if selector else [])]
        items: list[dict[str, Any]] = json.loads(self.kubectl(*arguments))["items"]
        return items

    def names(self, kinds: str, selector: str = "") -> list[str]:
        found = self.objects(kinds, selector)
        return sorted(f"{each['kind']}/{each['metadata']['name']}" for each in found)

    def ready_pods(self, selector: str) -> list[str]:
        """Names of the pods that are ready and not on their way out."""
        return sorted(
            pod["metadata"]["name"] for pod in self.objects("pods", selector) if is_ready(pod)
        )

    def apply(self, *manifests: dict[str, Any]) -> None:
        documents = "\n---\n".join(json.dumps(each) for each in manifests)
        self.kubectl("apply", "--filename=-", stdin=documents)


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """The chart, installed."""

    name: str
    namespace: Namespace

    @property
    def fullname(self) -> str:
        return f"{self.name}-lengthwise"

    def selector(self, **labels: str) -> str:
        given = {INSTANCE_LABEL: self.name, **labels}
        return ",".join(f"{key}={value}" for key, value in given.items())

    def pool(self, name: str) -> str:
        """Selects the pods of a pool."""
        return f"{self.selector()},lengthwise/pool={name}"

    @property
    def routers(self) -> str:
        return f"{self.selector()},app.kubernetes.io/component=router"

    def ready(self, what: str) -> list[str]:
        """Pods of a pool, or of the routers, that are ready."""
        return self.namespace.ready_pods(self.routers if what == "router" else self.pool(what))

    def wait_until_gone(self, pods: Iterable[str], seconds: float = 90.0) -> None:
        wait_for("the end of pods", lambda: not set(pods) & set(self.all_pods()), seconds)

    def wait_until_missed(self, what: str, pod: str, seconds: float = 30.0) -> None:
        """Returns when Kubernetes knows that the pod is not ready."""
        wait_for(f"{pod} to be missed", lambda: pod not in self.ready(what), seconds)

    def all_pods(self) -> list[str]:
        found = self.namespace.objects("pods", self.selector())
        return [pod["metadata"]["name"] for pod in found]

    def nodes(self) -> list[str]:
        """The nodes that its pods run on."""
        found = self.namespace.objects("pods", self.selector())
        return sorted({pod["spec"]["nodeName"] for pod in found})

    def wait_until_ready(self, seconds: float = 120.0) -> None:
        """Returns when all pods that there should be are ready, and no others are left."""
        wait_for("as many ready pods as there should be", self._is_complete, seconds)

    def _is_complete(self) -> bool:
        found = self.namespace.objects("deployments,pods", self.selector())
        wanted = {
            _kind_of(each): each["spec"]["replicas"]
            for each in found
            if each["kind"] == "Deployment"
        }
        ready = Counter(_kind_of(each) for each in found if is_ready(each))
        return ready == Counter(wanted)

    def install(self, values: Sequence[str], seconds: int = 180) -> None:
        self._helm("install", str(CHART), *values, "--wait", f"--timeout={seconds}s")

    def upgrade(self, values: Sequence[str], seconds: int = 180, chart: Path = CHART) -> float:
        """How many seconds it took. Takes replicas over from their last writer; the chart keeps
        their number."""
        began_at = time.monotonic()
        took = ["--force-conflicts"] if _is_helm_4() else []
        self._helm("upgrade", str(chart), *values, *took, "--wait", f"--timeout={seconds}s")
        return time.monotonic() - began_at

    def status(self) -> str:
        return self._helm("status", "--output=json")

    def test(self, seconds: int = 120) -> str:
        return self._helm("test", "--logs", f"--timeout={seconds}s")

    def uninstall(self, seconds: int = 120, *, wait: bool = True) -> None:
        patience = ["--wait", f"--timeout={seconds}s"] if wait else []
        self._helm("uninstall", "--ignore-not-found", *patience)

    def _helm(self, verb: str, *arguments: str) -> str:
        place = ("--namespace", self.namespace.name)
        return run("helm", verb, self.name, *arguments, *place, seconds=300.0)


def _is_helm_4() -> bool:
    return run("helm", "version", "--short").startswith("v4")


@contextmanager
def new_namespace() -> Iterator[Namespace]:
    """Pods there have to satisfy the strictest Pod Security level."""
    namespace = Namespace(name=f"lengthwise-{uuid.uuid4().hex[:6]}")
    run("kubectl", "create", "namespace", namespace.name)
    try:
        level = "pod-security.kubernetes.io/enforce=restricted"
        run("kubectl", "label", "namespace", namespace.name, level)
        yield namespace
    finally:
        run("kubectl", "delete", "namespace", namespace.name, "--wait=false")


def condition_time(namespace: Namespace, pod: str) -> datetime:
    """When a pod turned ready."""
    found = json.loads(namespace.kubectl("get", "pod", pod, "--output=json"))
    (ready,) = (each for each in found["status"]["conditions"] if each["type"] == "Ready")
    return datetime.fromisoformat(ready["lastTransitionTime"])


def seconds_of(written: str) -> float:
    """Unix time of what Go writes: up to nine digits of a second."""
    whole, _, rest = written.partition(".")
    digits = re.match(r"\d*", rest).group() if rest else ""  # type: ignore[union-attr]
    zone = rest[len(digits) :]
    return datetime.fromisoformat(f"{whole}.{digits[:6]:0<6}{zone}" if rest else whole).timestamp()


def image_values(image: str) -> list[str]:
    """Arguments of helm that make it use this NAME:TAG."""
    repository, _, tag = image.rpartition(":")
    return [f"--set=image.repository={repository}", f"--set-string=image.tag={tag}"]
