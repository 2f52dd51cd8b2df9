"""What an autoscaler on a cluster did and said, as an operator would look it up."""

from cluster.kubectl import CommandFailed, Release, run
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample


def replicas(release: Release, pool: str) -> int:
    """What the pool's Deployment is to have."""
    name = f"deployment/{release.fullname}-{pool}"
    return int(release.namespace.kubectl("get", name, "--output=jsonpath={.spec.replicas}"))


def events_of(release: Release, pool: str, reason: str) -> list[str]:
    """Messages of the Events on a pool's Deployment."""
    wanted = f"involvedObject.name={release.fullname}-{pool},reason={reason}"
    return release.namespace.kubectl(
        *("get", "events", f"--field-selector={wanted}"),
        '--output=jsonpath={range .items[*]}{.message}{"\\n"}{end}',
    ).splitlines()


def errors_of(release: Release) -> dict[str, float]:
    """lengthwise_scaling_errors_total by reason."""
    samples = samples_of(release, "lengthwise_scaling_errors_total")
    return {sample.labels["reason"]: sample.value for sample in samples}


def wanted(release: Release, pool: str) -> int:
    """lengthwise_replicas_wanted; 0 while it is not known."""
    samples = samples_of(release, "lengthwise_replicas_wanted")
    return sum(int(sample.value) for sample in samples if sample.labels["pool"] == pool)


def decided_at(release: Release) -> float:
    """When it last knew enough to decide: Unix time; 0 while that is not known."""
    name = "lengthwise_autoscaler_last_decision_timestamp_seconds"
    return sum(sample.value for sample in samples_of(release, name))


def roles_of(release: Release, pool: str) -> list[str]:
    """What the pool's ready workers do now, by their own metrics."""
    return [
        sample.labels["role"]
        for pod in release.ready(pool)
        for sample in samples_in(release, pod, "lengthwise_worker_info")
        if sample.value == 1
    ]


def samples_of(release: Release, name: str) -> list[Sample]:
    """Of the one autoscaler, read through the API server; none while it does not answer."""
    selector = f"{release.selector()},app.kubernetes.io/component=autoscaler"
    pods = release.namespace.ready_pods(selector)
    return samples_in(release, pods[0], name) if len(pods) == 1 else []


def samples_in(release: Release, pod: str, name: str) -> list[Sample]:
    """Of one pod, read through the API server; none while it does not answer."""
    path = f"/api/v1/namespaces/{release.namespace.name}/pods/{pod}:9090/proxy/metrics"
    try:
        families = list(text_string_to_metric_families(run("kubectl", "get", "--raw", path)))
    except CommandFailed:
        return []  # it is on its way out, or not there yet
    return [each for family in families for each in family.samples if each.name == name]
