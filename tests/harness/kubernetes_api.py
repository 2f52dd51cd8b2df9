"""An API server of a few kinds of objects, over real HTTP, that misbehaves on request.

It keeps what a real one keeps: a version that grows with every change, a history that watches
start from, and label selectors of one form. Its faults are what routers meet in the field.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from kubernetes_asyncio.client import Configuration

from harness.kubernetes_objects import FakeObjects

PATH = "/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"

SERVICE_LABEL = "kubernetes.io/service-name"


def endpoint(address: str, **conditions: bool | None) -> dict[str, Any]:
    return {"addresses": [address], "conditions": {"ready": True, **conditions}}


def endpoint_slice(
    name: str, *endpoints: dict[str, Any], service: str = "workers", port_name: str = "grpc"
) -> dict[str, Any]:
    """As the API server writes it: without endpoints both lists are null."""
    return {
        "metadata": {"name": name, "labels": {SERVICE_LABEL: service}},
        "addressType": "IPv4",
        "endpoints": list(endpoints) or None,
        "ports": [{"name": port_name, "port": 50051, "protocol": "TCP"}] if endpoints else None,
    }


@dataclass(slots=True)
class FakeApi:
    """The server's state. `put` and `remove` are what controllers do; the rest are faults."""

    slices: dict[str, dict[str, Any]] = field(default_factory=dict)
    history: list[tuple[int, dict[str, Any]]] = field(default_factory=list)  # (version, event)
    version: int = 100
    requests: list[str] = field(default_factory=list)  # verbs, in order
    forbidden: set[str] = field(default_factory=set)  # verbs
    gone: bool = False  # every watch's version has expired; reported before the stream begins
    gone_in_stream: bool = False  # the same, reported as an event
    silent: bool = False  # changes happen, and no watch is notified
    garbage: str = ""  # what lists answer instead of JSON
    watches: set[asyncio.Queue[dict[str, Any] | None]] = field(default_factory=set)

    def put(self, item: dict[str, Any]) -> None:
        kind = "MODIFIED" if item["metadata"]["name"] in self.slices else "ADDED"
        self.slices[item["metadata"]["name"]] = item
        self._changed(kind, item)

    def remove(self, name: str) -> None:
        self._changed("DELETED", self.slices.pop(name))

    def repeat_last(self) -> None:
        """The last event comes a second time."""
        self._send(self.history[-1][1])

    def drop_watches(self) -> None:
        for queue in self.watches:
            queue.put_nowait(None)

    @property
    def lists(self) -> int:
        return self.requests.count("list")

    def _changed(self, kind: str, item: dict[str, Any]) -> None:
        self.version += 1
        item["metadata"]["resourceVersion"] = str(self.version)
        event = {"type": kind, "object": item}
        self.history.append((self.version, event))
        if not self.silent:
            self._send(event)

    def _send(self, event: dict[str, Any]) -> None:
        for queue in self.watches:
            queue.put_nowait(event)


def _status(code: int, message: str) -> dict[str, Any]:
    return {"kind": "Status", "status": "Failure", "code": code, "message": message}


class _Handler:
    def __init__(self, api: FakeApi) -> None:
        self._api = api

    async def get(self, request: web.Request) -> web.StreamResponse:
        verb = "watch" if request.query.get("watch") in ("true", "True") else "list"
        api = self._api
        api.requests.append(verb)
        namespace = request.match_info["namespace"]
        if verb in api.forbidden:
            message = (
                'endpointslices.discovery.k8s.io is forbidden: User "system:serviceaccount:'
                f'{namespace}:router" cannot {verb} resource "endpointslices" in API group'
                f' "discovery.k8s.io" in the namespace "{namespace}"'
            )
            return web.json_response(_status(403, message), status=403)
        wanted = _services(request.query["labelSelector"])
        if verb == "watch":
            return await self._watch(request, wanted)
        if api.garbage:
            return web.Response(text=api.garbage, content_type="application/json")
        items = [item for item in api.slices.values() if _service(item) in wanted]
        return web.json_response(
            {"metadata": {"resourceVersion": str(api.version)}, "items": items}
        )

    async def _watch(self, request: web.Request, wanted: set[str]) -> web.StreamResponse:
        api = self._api
        expired = _status(410, "too old resource version")
        if api.gone:
            return web.json_response(expired, status=410)
        response = web.StreamResponse()
        response.content_type = "application/json"
        await response.prepare(request)
        if api.gone_in_stream:
            await _write(response, {"type": "ERROR", "object": expired})
            return response
        queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue(1000)
        start = int(request.query["resourceVersion"])
        for version, event in api.history:
            if version > start and not api.silent:
                queue.put_nowait(event)
        api.watches.add(queue)
        try:
            async with asyncio.timeout(float(request.query["timeoutSeconds"])):
                while (event := await queue.get()) is not None:  # type: ignore[assignment]
                    if _service(event["object"]) in wanted:
                        await _write(response, event)
        except TimeoutError:
            pass  # as a real one ends a watch whose time is over
        finally:
            api.watches.discard(queue)
        return response


def _service(item: dict[str, Any]) -> str:
    return str(item["metadata"]["labels"][SERVICE_LABEL])


def _services(selector: str) -> set[str]:
    match = re.fullmatch(rf"{re.escape(SERVICE_LABEL)} in \(([^)]*)\)", selector)
    assert match, f"a selector this server does not know: {selector}"
    return set(match[1].split(","))


async def _write(response: web.StreamResponse, event: dict[str, Any]) -> None:
    await response.write(json.dumps(event).encode() + b"\n")


class Server:
    """The fake behind a port of this machine; the port stays the same when it is started again."""

    def __init__(self) -> None:
        self.api = FakeApi()
        self.objects = FakeObjects()  # other kinds than EndpointSlices
        self._port = 0
        self._runner: web.AppRunner | None = None

    @property
    def configuration(self) -> Configuration:
        return Configuration(host=f"http://127.0.0.1:{self._port}")

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get(PATH, _Handler(self.api).get)
        self.objects.add_routes(app)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port)
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        self.api.drop_watches()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None


@asynccontextmanager
async def api_server() -> AsyncIterator[Server]:
    server = Server()
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
