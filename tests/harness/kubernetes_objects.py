"""Deployments, pods, Leases and Events of an API server that is not there, over real HTTP.

It keeps what a real one keeps: versions that grow, conflicts for what was decided on another
version, merge patches, rights by verb and resource. `settle` is what controllers, scheduler and
kubelets do. Its faults are what autoscalers meet in the field.
"""

import asyncio
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from aiohttp import web

from lengthwise_autoscaler.kubernetes.pods import COST_ANNOTATION

Object = dict[str, Any]

RELEASE = "demo"

_PREFIXES = ("/api/v1", "/apis/apps/v1", "/apis/coordination.k8s.io/v1")

_VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch"}


def ago(seconds: float) -> str:
    """An instant as the API server writes it."""
    return (datetime.now(UTC) - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def deployment(name: str, replicas: int, **annotations: str) -> Object:
    return {
        "metadata": {"name": name, "uid": f"uid-{name}", "annotations": annotations or None},
        "spec": {"replicas": replicas},
    }


def pod(
    name: str,
    *,
    pool: str = "",
    component: str = "worker",
    ready: float | None = 60.0,
    address: str = "",
    annotations: Mapping[str, str] | None = None,
    release: str = RELEASE,
) -> Object:
    """Ready for so many seconds; None: not ready. `address`: host:port of its gRPC server."""
    host, _, port = address.rpartition(":")
    labels = {
        "app.kubernetes.io/instance": release,
        "app.kubernetes.io/component": component,
    }
    return {
        "metadata": {
            "name": name,
            "creationTimestamp": ago(1000),
            "labels": labels | ({"lengthwise/pool": pool} if pool else {}),
            "annotations": dict(annotations or {}),
        },
        "spec": {
            "containers": [
                {"name": "main", "ports": [{"name": "grpc", "containerPort": int(port or 50051)}]}
            ]
        },
        "status": {
            "phase": "Running" if ready is not None else "Pending",
            "podIP": host or None,
            "conditions": [
                {"type": "PodScheduled", "status": "True", "lastTransitionTime": ago(900)},
                {
                    "type": "Ready",
                    "status": "False" if ready is None else "True",
                    "lastTransitionTime": ago(ready or 0.0),
                },
            ],
        },
    }


@dataclass(slots=True)
class FakeObjects:
    """The server's state. `put`, `remove`, `edit` and `settle` are what others do; the rest are
    faults."""

    objects: dict[str, dict[str, Object]] = field(
        default_factory=lambda: {"deployments": {}, "pods": {}, "leases": {}, "events": {}}
    )
    requests: list[str] = field(default_factory=list)  # "verb resource", in order
    forbidden: set[str] = field(default_factory=set)  # the same
    broken: set[str] = field(default_factory=set)  # answered with 500
    garbage: str = ""  # what everything is answered with
    status: int = 200  # of garbage
    before_write: Callable[[str], None] | None = None  # receives what is to be written
    answers: asyncio.Event = field(default_factory=asyncio.Event)  # cleared: requests wait
    _versions: "itertools.count[int]" = field(default_factory=lambda: itertools.count(100))

    def __post_init__(self) -> None:
        self.answers.set()

    def put(self, kind: str, item: Object) -> Object:
        item["metadata"]["resourceVersion"] = str(next(self._versions))
        self.objects[kind][item["metadata"]["name"]] = item
        return item

    def remove(self, kind: str, name: str) -> None:
        del self.objects[kind][name]

    def get(self, kind: str, name: str) -> Object:
        return self.objects[kind][name]

    def edit(self, name: str, replicas: int) -> None:
        """An operator scales a Deployment."""
        item = self.get("deployments", name)
        item["spec"]["replicas"] = replicas
        self.put("deployments", item)

    def replicas(self, name: str) -> int:
        return int(self.get("deployments", name)["spec"]["replicas"])

    def costs(self) -> dict[str, str]:
        """Deletion costs by pod."""
        return {
            name: item["metadata"]["annotations"][COST_ANNOTATION]
            for name, item in self.objects["pods"].items()
            if COST_ANNOTATION in (item["metadata"].get("annotations") or {})
        }

    def events(self, reason: str = "") -> list[str]:
        """Messages, oldest first."""
        return [
            item["message"]
            for item in self.objects["events"].values()
            if reason in ("", item["reason"])
        ]

    def settle(
        self, name: str, pool: str, make: Callable[[int], Object]
    ) -> tuple[list[str], list[str]]:
        """Makes and deletes pods of a pool as its Deployment wants, by costs; returns which."""
        pods = [
            item
            for item in self.objects["pods"].values()
            if item["metadata"]["labels"].get("lengthwise/pool") == pool
        ]
        pods.sort(key=lambda item: int(item["metadata"]["annotations"].get(COST_ANNOTATION, 0)))
        surplus = len(pods) - self.replicas(name)
        gone = [item["metadata"]["name"] for item in pods[: max(surplus, 0)]]
        for leaving in gone:
            self.remove("pods", leaving)
        made = [
            self.put("pods", make(index))["metadata"]["name"]
            for index in range(len(pods), self.replicas(name))
        ]
        return made, gone

    def add_routes(self, app: web.Application) -> None:
        for prefix in _PREFIXES:
            path = f"{prefix}/namespaces/{{namespace}}/{{kind}}"
            for tail in ("", "/{name}", "/{name}/{subresource}"):
                app.router.add_route("*", path + tail, self._answer)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        where = request.match_info
        kind, name = where["kind"], where.get("name", "")
        verb = _VERBS[request.method]
        if verb == "get" and not name:
            verb = "list"
        subresource = where.get("subresource")
        resource = f"{kind}/{subresource}" if subresource else kind
        self.requests.append(f"{verb} {resource}")
        await self.answers.wait()
        if f"{verb} {resource}" in self.forbidden:
            user = f"system:serviceaccount:{where['namespace']}:autoscaler"
            why = f'{resource} is forbidden: User "{user}" cannot {verb} resource "{resource}"'
            return _refuse(403, why)
        if f"{verb} {resource}" in self.broken:
            return _refuse(500, "etcdserver: leader changed")
        if self.garbage:
            return web.Response(
                text=self.garbage, status=self.status, content_type="application/json"
            )
        body = await request.json() if request.can_read_body else {}
        if verb not in ("get", "list") and self.before_write is not None:
            self.before_write(f"{verb} {resource}")
        return self._do(verb, kind, name, subresource, body, request)

    def _do(
        self,
        verb: str,
        kind: str,
        name: str,
        subresource: str | None,
        body: Object,
        request: web.Request,
    ) -> web.StreamResponse:
        items = self.objects[kind]
        if verb == "list":
            wanted = dict(part.split("=") for part in request.query["labelSelector"].split(","))
            found = [item for item in items.values() if wanted.items() <= _labels(item).items()]
            return web.json_response({"items": found})
        if verb == "create":
            metadata = body["metadata"]
            metadata.setdefault("name", f"{metadata.get('generateName')}{next(self._versions)}")
            if metadata["name"] in items:
                return _refuse(409, f"{kind} {metadata['name']!r} already exists")
            return web.json_response(self.put(kind, body), status=201)
        item = items.get(name)
        if item is None:
            return _refuse(404, f"{kind} {name!r} not found")
        version = (body.get("metadata") or {}).get("resourceVersion")
        if version not in (None, item["metadata"]["resourceVersion"]):
            return _refuse(409, "the object has been modified; please apply your changes")
        if verb == "update":
            return web.json_response(self.put(kind, body))
        if verb == "patch":
            assert request.content_type == "application/merge-patch+json"
            assert (subresource == "scale") == (kind == "deployments")
            body.get("metadata", {}).pop("resourceVersion", None)
            _merge(item, body)
            self.put(kind, item)
        return web.json_response(item)


def _labels(item: Object) -> dict[str, str]:
    return item["metadata"].get("labels") or {}


def _merge(target: Object, patch: Object) -> None:
    """RFC 7386."""
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        elif isinstance(value, dict):
            if not isinstance(target.get(key), dict):
                target[key] = {}
            _merge(target[key], value)
        else:
            target[key] = value


def _refuse(code: int, message: str) -> web.Response:
    status = {"kind": "Status", "status": "Failure", "code": code, "message": message}
    return web.json_response(status, status=code)
