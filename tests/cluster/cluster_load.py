"""A pod that keeps asking, and what became of its requests."""

import json
import subprocess
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.kubectl import Release
from harness.reference import Reference
from harness.waiting import wait_for

SCRIPT = Path(__file__).with_name("load.py")

CHECKED_ANSWERS = 40
"""Of a load, those compared with the reference; each costs half a second."""

ANSWERED_SECONDS = 30.0
"""The longest that any request may take, whatever happens meanwhile, on a busy machine of two
cores. Without an event it is about one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What a pod asks for: each stream asks again once it has been answered."""

    streams: int
    max_tokens: int
    prompt_lines: int = 0  # of 11 tokens or so
    pause_seconds: float = 0.0  # between an answer and the next request


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A line of load.py. Times are in seconds."""

    stream: int
    began: float
    first: float | None
    total: float
    gap: float
    retries: int
    error: str
    prompt: str
    token_ids: tuple[int, ...]


class Load:
    """Life: construct, `start`, `stop` for the answers, `remove`."""

    def __init__(self, release: Release, image: str, traffic: Traffic) -> None:
        self.node = ""  # that its pod runs on
        self._namespace = release.namespace
        self._name = f"load-{uuid.uuid4().hex[:6]}"
        self._endpoint = (
            f"dns:///{release.fullname}-headless.{release.namespace.name}.svc.cluster.local:50051"
        )
        self._image = image
        self._traffic = traffic
        self._lines: list[dict[str, Any]] = []
        self._removed = threading.Event()
        self._logs: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    @property
    def answers(self) -> list[Answer]:
        return [
            Answer(**{**line, "token_ids": tuple(line["token_ids"])})
            for line in list(self._lines)
            if "began" in line
        ]

    @property
    def is_done(self) -> bool:
        return any("done" in line for line in list(self._lines))

    def start(self) -> None:
        """Returns when the first answer has come."""
        self._namespace.apply(self._script(), self._pod())
        self._namespace.kubectl(
            "wait", "--for=condition=Ready", f"pod/{self._name}", "--timeout=60s", seconds=90
        )
        self.node = self._namespace.kubectl(
            "get", "pod", self._name, "--output=jsonpath={.spec.nodeName}"
        )
        self._reader = threading.Thread(target=self._follow, daemon=True)
        self._reader.start()
        wait_for("a first answer", lambda: self.answers, 60)

    def wait_for_a_round(self, seconds: float = 60.0) -> None:
        """Returns when every stream has been answered what it asked after this moment: none
        hangs."""
        now = time.time()

        def answered() -> bool:
            streams = {answer.stream for answer in self.answers if answer.began > now}
            return len(streams) == self._traffic.streams

        wait_for("an answer to every stream", answered, seconds)

    def answers_since(self, began: float) -> list[Answer]:
        """To requests that were on their way then or later."""
        return [answer for answer in self.answers if answer.began + answer.total > began]

    def stop(self) -> list[Answer]:
        """All answers; none is left without one."""
        self._namespace.kubectl("exec", self._name, "--", "python3", "-c", END)
        wait_for("an answer to every request", lambda: self.is_done, 90)
        return self.answers

    def remove(self) -> None:
        names = [f"pod/{self._name}", f"configmap/{self._name}"]
        self._namespace.kubectl(
            "delete", *names, "--ignore-not-found", "--grace-period=1", "--wait=false"
        )
        self._unfollow()

    def _unfollow(self) -> None:
        self._removed.set()
        if self._logs is not None and self._reader is not None:
            self._logs.terminate()
            self._reader.join(10)

    def _follow(self) -> None:
        """Reads the pod's log, from its beginning again whenever the stream breaks: it does when
        the API server goes away, and its kubelet may refuse it for a while after that."""
        while not self._removed.is_set():
            with subprocess.Popen(
                ["kubectl", "--namespace", self._namespace.name, "logs", "--follow", self._name],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            ) as self._logs:
                assert self._logs.stdout is not None
                records = (line for line in self._logs.stdout if line.startswith("{"))
                for number, line in enumerate(records):
                    if number >= len(self._lines) and line.endswith("\n"):
                        self._lines.append(json.loads(line))
            self._removed.wait(1.0)

    def _script(self) -> dict[str, Any]:
        return {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": self._name},
            "data": {"load.py": SCRIPT.read_text(encoding="utf-8")},
        }

    def _pod(self) -> dict[str, Any]:
        traffic = self._traffic
        numbers = (
            *(traffic.streams, traffic.max_tokens, traffic.prompt_lines),
            traffic.pause_seconds,
        )
        container = {
            "name": "load",
            "image": self._image,
            "imagePullPolicy": "IfNotPresent",
            # Pods with a CPU request come before one without, which a busy machine starves.
            "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
            "command": ["python3", "/load/load.py", self._endpoint, *map(str, numbers)],
            "volumeMounts": [{"name": "script", "mountPath": "/load"}],
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            },
        }
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": self._name},
            "spec": {
                "restartPolicy": "Never",
                "automountServiceAccountToken": False,
                "securityContext": {
                    "runAsNonRoot": True,
                    "runAsUser": 10001,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [container],
                "volumes": [{"name": "script", "configMap": {"name": self._name}}],
            },
        }


END = "import os, signal; os.kill(1, signal.SIGTERM)"
"""Run in the pod: its process handles the signal, which an init process otherwise ignores."""


def assert_none_failed(answers: list[Answer]) -> None:
    """No request was refused, cut short, or left waiting."""
    assert answers
    failed = [answer.error for answer in answers if answer.error]
    assert not failed, f"{len(failed)} of {len(answers)} requests failed: {failed[:3]}"
    assert max(answer.total for answer in answers) < ANSWERED_SECONDS


def assert_tokens_are_right(answers: list[Answer], reference: Reference) -> None:
    """A sample is what the reference says: those continued elsewhere, and of the others every so
    many, from the first to the last."""
    moved = [answer for answer in answers if answer.retries][: CHECKED_ANSWERS // 2]
    others = answers[:: max(1, len(answers) // (CHECKED_ANSWERS - len(moved)))]
    for answer in (*moved, *others):
        expected = reference.token_ids(answer.prompt, len(answer.token_ids))
        assert answer.token_ids == expected, f"after {answer.retries} retries: {answer.prompt!r}"


StartLoad = Callable[[Traffic], Load]
