"""The chart as Helm renders it, with no cluster: both versions of Helm, whichever are there."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

CHART = Path(__file__).parents[2] / "helm" / "lengthwise"

VALUES = sorted((CHART.parent / "values").glob("*.yaml"))

HELMS = ("helm", "helm3")
"""The names that both versions go by: 4 and 3."""

Manifest = dict[str, Any]


def helm_or_skip(name: str) -> str:
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not on the PATH")
    return name


def template(helm: str, *arguments: str, chart: Path = CHART) -> subprocess.CompletedProcess[str]:
    """`helm template` of a release named demo in the namespace somewhere."""
    # Without a cluster Helm assumes an old one.
    given = ("--namespace=somewhere", "--kube-version=1.35.0", *arguments)
    environment = {key: value for key, value in os.environ.items() if key != "KUBECONFIG"}
    return subprocess.run(
        [helm, "template", "demo", str(chart), *given],
        capture_output=True, text=True, timeout=60, env=environment, check=False,
    )  # fmt: skip


class Rendered:
    """The objects of a chart."""

    def __init__(self, helm: str, *arguments: str, chart: Path = CHART) -> None:
        done = template(helm, *arguments, chart=chart)
        assert done.returncode == 0, done.stderr
        self.objects: list[Manifest] = [
            each for each in yaml.safe_load_all(done.stdout) if each is not None
        ]

    def of(self, kind: str) -> list[Manifest]:
        return [each for each in self.objects if each["kind"] == kind]

    def one(self, kind: str, name: str) -> Manifest:
        """`name`: without the release's, which all names begin with; empty: that alone."""
        (found,) = [
            each
            for each in self.of(kind)
            if each["metadata"]["name"] == f"demo-lengthwise-{name}".rstrip("-")
        ]
        return found

    def containers(self) -> Iterator[tuple[str, Manifest, Manifest]]:
        """Name of the Deployment, pod, container of its process; sidecars are values' own."""
        for deployment in self.of("Deployment"):
            pod = deployment["spec"]["template"]["spec"]
            yield deployment["metadata"]["name"], pod, pod["containers"][0]
