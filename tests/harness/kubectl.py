"""kubectl and helm as tests call them: bounded, and loud when they fail.

The rule: nothing here knows which program made the cluster.
"""

import json
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

CHART = Path(__file__).parents[2] / "helm" / "lengthwise"

WORK_DONE = {
    "prefill": "lengthwise_prefill_seconds_count",
    "decode": "lengthwise_generated_tokens_total",
    "router": "lengthwise_requests_total",
}
"""A counter by which pods of a kind can be compared."""

INSTANCE_LABEL = "app.kubernetes.io/instance"


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


def wait_for(what: str, condition: Callable[[], Any], seconds: float) -> float:
    """How many seconds the condition took to turn true. Errors: AssertionError."""
    began_at = time.monotonic()
    while not condition():
        assert time.monotonic() - began_at < seconds, f"not within {seconds:g} s: {what}"
        time.sleep(0.1)
    return time.monotonic() - began_at


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
            pod["metadata"]["name"]
            for pod in self.objects("pods", selector)
            if "deletionTimestamp" not in pod["metadata"]
            and any(
                condition["type"] == "Ready" and condition["status"] == "True"
                for condition in pod["status"].get("conditions", ())
            )
        )

    def apply(self, *manifests: dict[str, Any]) -> None:
        documents = "\n---\n".join(json.dumps(each) for each in manifests)
        self.kubectl("apply", "--filename=-", stdin=documents)


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """The chart, installed."""

    name: str
    namespace: Namespace
    num_pods: int = 1  # of the routers and of each pool

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

    def busiest(self, what: str, seconds: float = 1.0) -> str:
        """The ready pod that has done the most work meanwhile: losing it costs something."""
        before = {pod: self._work_done(pod, what) for pod in self.ready(what)}
        time.sleep(seconds)
        return max(before, key=lambda pod: self._work_done(pod, what) - before[pod])

    def _work_done(self, pod: str, what: str) -> float:
        """Read through the API server, which reaches pods wherever it is."""
        path = f"/api/v1/namespaces/{self.namespace.name}/pods/{pod}:9090/proxy/metrics"
        families = text_string_to_metric_families(run("kubectl", "get", "--raw", path))
        samples = [sample for family in families for sample in family.samples]
        return sum(sample.value for sample in samples if sample.name == WORK_DONE[what])

    def all_pods(self) -> list[str]:
        found = self.namespace.objects("pods", self.selector())
        return [pod["metadata"]["name"] for pod in found]

    def nodes(self) -> list[str]:
        """The nodes that its pods run on."""
        found = self.namespace.objects("pods", self.selector())
        return sorted({pod["spec"]["nodeName"] for pod in found})

    def wait_until_ready(self, seconds: float = 120.0) -> None:
        """Returns when all pods that there should be are ready, and no others are left."""
        for what in ("router", "prefill", "decode"):
            wait_for(
                f"{self.num_pods} ready {what} pods",
                lambda what=what: len(self.ready(what)) == self.num_pods,  # type: ignore[misc]
                seconds,
            )

    def install(self, values: Sequence[str], seconds: int = 180) -> None:
        self._helm("install", str(CHART), *values, "--wait", f"--timeout={seconds}s")

    def test(self, seconds: int = 120) -> str:
        return self._helm("test", "--logs", f"--timeout={seconds}s")

    def uninstall(self, seconds: int = 120) -> None:
        self._helm("uninstall", "--wait", f"--timeout={seconds}s")

    def _helm(self, verb: str, *arguments: str) -> str:
        place = ("--namespace", self.namespace.name)
        return run("helm", verb, self.name, *arguments, *place, seconds=300.0)


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
        run("kubectl", "delete", "namespace", namespace.name, "--timeout=60s", seconds=90)


def image_values(image: str) -> list[str]:
    """Arguments of helm that make it use this NAME:TAG."""
    repository, _, tag = image.rpartition(":")
    return [f"--set=image.repository={repository}", f"--set-string=image.tag={tag}"]
