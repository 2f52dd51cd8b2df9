"""The API server goes away under load. Last of the events: kubelets that lost their API server take
up to a minute to look for it again."""

import subprocess
import time

from harness.cluster_events import UnderLoad
from harness.kubectl import CommandFailed, Release, run, wait_for

AWAY_SECONDS = 20.0


def test_the_api_server_away(release: Release, under_load: UnderLoad, cluster_program: str) -> None:
    routers = release.ready("router")
    with under_load() as load:
        run(cluster_program, "stop", "kube-apiserver")
        try:
            time.sleep(AWAY_SECONDS)  # the event itself: there is nothing to wait for
        finally:
            run(cluster_program, "start", "kube-apiserver")
        wait_for("the API server", api_answers, 60)
        load.follow()  # kubectl's own stream of the log broke
        told = "endpointslices of namespace"
        for router in routers:
            wait_for("the watch's return", lambda: told in log_of(release, router), 60)  # noqa: B023
    assert release.ready("router") == routers


def log_of(release: Release, pod: str) -> str:
    """Why there is none, while its kubelet does not answer."""
    try:
        return release.namespace.kubectl("logs", pod, "--since=3m")
    except CommandFailed as error:
        return str(error)


def api_answers() -> bool:
    try:
        return run("kubectl", "get", "--raw", "/readyz", seconds=5) == "ok"
    except (CommandFailed, subprocess.TimeoutExpired):
        return False
