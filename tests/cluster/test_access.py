"""What the processes may ask of the API server: what they need, and nothing else."""

import json
from typing import Any

import pytest
from cluster.accounts import patch_pod
from cluster.kubectl import CommandFailed, Namespace, Release
from cluster.prometheus_pod import PrometheusPod

ALLOWED = {
    "router": {("endpointslices.discovery.k8s.io", ""): {"list", "watch"}},
    "autoscaler": {
        ("deployments.apps", "main-lengthwise-decode"): {"get"},
        ("deployments.apps", "main-lengthwise-prefill"): {"get"},
        ("deployments.apps/scale", "main-lengthwise-decode"): {"patch"},
        ("deployments.apps/scale", "main-lengthwise-prefill"): {"patch"},
        ("pods", ""): {"list", "patch"},
        ("leases.coordination.k8s.io", ""): {"create"},
        ("leases.coordination.k8s.io", "main-lengthwise-autoscaler"): {"get", "update"},
        ("events", ""): {"create"},
    },
}
"""By (resource, name; none: all): every right that there is."""

VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")

RESOURCES = (
    "pods",
    "pods/exec",
    "pods/eviction",
    "secrets",
    "configmaps",
    "services",
    "events",
    "serviceaccounts",
    "serviceaccounts/token",
    "nodes",
    "namespaces",
    "persistentvolumeclaims",
    "deployments.apps",
    "deployments.apps/scale",
    "replicasets.apps",
    "statefulsets.apps",
    "jobs.batch",
    "leases.coordination.k8s.io",
    "endpointslices.discovery.k8s.io",
    "roles.rbac.authorization.k8s.io",
    "rolebindings.rbac.authorization.k8s.io",
    "clusterroles.rbac.authorization.k8s.io",
    "clusterrolebindings.rbac.authorization.k8s.io",
    "poddisruptionbudgets.policy",
    "networkpolicies.networking.k8s.io",
    "validatingadmissionpolicies.admissionregistration.k8s.io",
)

Body = dict[str, Any]

DEFAULTS = frozenset(
    {
        "selfsubjectreviews.authentication.k8s.io",
        "selfsubjectaccessreviews.authorization.k8s.io",
        "selfsubjectrulesreviews.authorization.k8s.io",
    }
)
"""Anybody may ask what he may do."""


@pytest.mark.parametrize("component", ALLOWED)
def test_every_right_is_one_that_is_needed(
    release: Release, prometheus: PrometheusPod, component: str
) -> None:
    assert rights_of(release, component) == ALLOWED[component]


@pytest.mark.parametrize("component", ["router", "autoscaler", "default"])
def test_the_api_server_grants_nothing_else(
    release: Release, prometheus: PrometheusPod, component: str
) -> None:
    """`default` is the workers' account. In the release's namespace, and in another one."""
    own, allowed = release.namespace, ALLOWED.get(component, {})
    account = account_of(release, component)
    wanted = {
        (own.name, resource, verb)
        for (resource, name), verbs in allowed.items()
        if not name
        for verb in verbs
    }
    assert granted(own, account, (own.name, "kube-system")) == wanted


def test_the_autoscaler_is_refused_what_is_not_its_own(
    release: Release, prometheus: PrometheusPod
) -> None:
    namespace, me = release.namespace, f"--as={account_of(release, 'autoscaler')}"
    pod = release.ready("decode")[0]
    for attempt in (
        ("delete", "pod", pod),
        ("get", "secrets"),
        ("scale", f"deployment/{release.fullname}-router", "--replicas=0"),
        ("scale", "deployment/prometheus", "--replicas=0"),
        ("set", "image", f"deployment/{release.fullname}-decode", "worker=evil:1"),
        ("exec", pod, "--", "true"),
        ("get", "pods", "--namespace=kube-system"),
    ):
        refused(namespace, me, *attempt)


def test_the_autoscaler_may_patch_deletion_costs_alone(
    release: Release, prometheus: PrometheusPod
) -> None:
    namespace = release.namespace

    def refused(pod: str, metadata: Body, **more: Any) -> str:
        body = {"metadata": metadata, **more}
        return patch_pod(namespace, f"{release.fullname}-autoscaler", pod, body)

    key = "controller.kubernetes.io/pod-deletion-cost"
    worker = release.ready("decode")[0]
    assert not refused(worker, {"annotations": {key: "-1"}})
    assert not refused(worker, {"annotations": {key: None}})
    image = {"containers": [{"name": "worker", "image": "evil:1"}]}
    for why in (
        refused(worker, {"labels": {"lengthwise/pool": "prefill"}}),
        refused(worker, {"annotations": {key: "-1", "another": "one"}}),
        refused(worker, {"finalizers": ["lengthwise/held"]}),
        refused(worker, {}, spec=image),
        refused(worker, {}, spec={"activeDeadlineSeconds": 1}),
    ):
        assert f"may patch the annotation {key} alone" in why
    for pod in (*release.ready("router"), *namespace.ready_pods("app=prometheus")):
        assert "may patch workers of its own release alone" in refused(
            pod, {"annotations": {key: "-1"}}
        )


@pytest.mark.parametrize("pool", ["prefill", "decode"])
def test_workers_have_no_token(release: Release, pool: str) -> None:
    account = "/var/run/secrets/kubernetes.io/serviceaccount"
    with pytest.raises(CommandFailed, match="No such file"):
        release.namespace.kubectl("exec", release.ready(pool)[0], "--", "ls", account)


def account_of(release: Release, component: str) -> str:
    name = component if component == "default" else f"{release.fullname}-{component}"
    return f"system:serviceaccount:{release.namespace.name}:{name}"


def rights_of(release: Release, component: str) -> dict[tuple[str, str], set[str]]:
    """As the API server resolves them."""
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": release.namespace.name},
    }
    answer = release.namespace.kubectl(
        *(
            "create",
            "--filename=-",
            "--output=json",
            f"--as={account_of(release, component)}",
            "--validate=false",
        ),
        stdin=json.dumps(review),
    )
    rights: dict[tuple[str, str], set[str]] = {}
    for rule in json.loads(answer)["status"]["resourceRules"]:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                kind, slash, part = resource.partition("/")
                full = (f"{kind}.{group}" if group else kind) + slash + part
                for name in rule.get("resourceNames", [""]):
                    if full not in DEFAULTS:
                        rights.setdefault((full, name), set()).update(rule["verbs"])
    return rights


def granted(
    namespace: Namespace, account: str, places: tuple[str, ...]
) -> set[tuple[str, str, str]]:
    """What of RESOURCES and VERBS the API server allows: (namespace, resource, verb)."""
    asked = [(place, each, verb) for place in places for each in RESOURCES for verb in VERBS]
    reviews = []
    for place, full, verb in asked:
        path, _, part = full.partition("/")
        kind, _, group = path.partition(".")
        attributes = {"namespace": place, "verb": verb, "group": group, "resource": kind}
        reviews.append(
            {
                "apiVersion": "authorization.k8s.io/v1",
                "kind": "SubjectAccessReview",
                "spec": {
                    "user": account,
                    "groups": groups_of(account),
                    "resourceAttributes": {**attributes, "subresource": part},
                },
            }
        )
    answers = namespace.kubectl(
        *("create", "--filename=-", "--output=jsonpath={.status.allowed} "),
        stdin="\n---\n".join(map(json.dumps, reviews)),
        seconds=120,
    ).split()
    assert len(answers) == len(asked)
    return {each for each, answer in zip(asked, answers, strict=True) if answer == "true"}


def groups_of(account: str) -> list[str]:
    place = account.split(":")[2]
    every = "system:serviceaccounts"
    return [every, f"{every}:{place}", "system:authenticated"]


def refused(namespace: Namespace, *attempt: str) -> None:
    with pytest.raises(CommandFailed, match=r"(?i)forbidden"):
        namespace.kubectl(*attempt)
