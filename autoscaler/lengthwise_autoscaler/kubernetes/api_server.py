"""The Kubernetes API server: each request bounded in time, each refusal explained.

Objects are the plain JSON they come as: making `kubernetes_asyncio`'s classes of 100 pods costs
more than all else in a round. What that library is used for is finding the server, verifying it,
and following the rotation of the ServiceAccount's token.

Nothing here retries; the next round asks anew.
"""

import asyncio
from collections.abc import Awaitable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Self, cast

import aiohttp
from kubernetes_asyncio.client import ApiClient, Configuration
from kubernetes_asyncio.config import (
    ConfigException,
    list_kube_config_contexts,
    load_incluster_config,
    load_kube_config,
)
from pydantic_core import from_json

from lengthwise_autoscaler.config import AutoscalerConfig
from lengthwise_autoscaler.errors import ApiServerRefused, ScalingError
from lengthwise_runtime.config import ConfigError

Object = dict[str, Any]

Verb = Literal["get", "list", "create", "update", "patch"]

ANSWER_SECONDS = 5.0
"""For a whole answer. A healthy API server lists hundreds of pods in less than 0.1 s."""

MAX_ANSWER_BYTES = 64 << 20
"""A pod with everything that controllers write to it is 10 kB; this is six thousand of them."""

LOGIN_SECONDS = 30.0
"""For programs that a kubeconfig may name to log in with."""

NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

NOT_FOUND = 404
CONFLICT = 409

_METHODS: dict[Verb, str] = {
    "get": "GET",
    "list": "GET",
    "create": "POST",
    "update": "PUT",
    "patch": "PATCH",
}

_GROUPS = {
    "deployments": "/apis/apps/v1",
    "pods": "/api/v1",
    "events": "/api/v1",
    "leases": "/apis/coordination.k8s.io/v1",
}


class ApiServer:
    """Objects of one namespace. Every method raises ScalingError: `forbidden` naming verb and
    resource, `api_server_unreachable`; and ApiServerRefused with the status for other refusals."""

    def __init__(self, configuration: Configuration, namespace: str) -> None:
        """Errors: ConfigError when the files of the configuration cannot be used. Needs a running
        event loop."""
        self.namespace = namespace
        try:
            self._client = ApiClient(configuration=configuration)
        except (OSError, ConfigException) as error:
            raise ConfigError(f"cannot speak to the API server: {error}") from error

    @classmethod
    async def of(cls, config: AutoscalerConfig) -> Self:
        """Errors: ConfigError when there is neither a ServiceAccount nor a usable kubeconfig."""
        configuration = Configuration()
        try:
            if config.kubeconfig is None:
                load_incluster_config(client_configuration=configuration)
                namespace = _own_namespace()
            else:
                path = str(config.kubeconfig)
                async with asyncio.timeout(LOGIN_SECONDS):
                    await load_kube_config(path, client_configuration=configuration)
                _, active = list_kube_config_contexts(path)
                namespace = (active or {"context": {}})["context"].get("namespace", "default")
        except (ConfigException, OSError) as error:
            raise ConfigError(
                f"kubeconfig {config.kubeconfig}: {error}"
                if config.kubeconfig
                else f"not in a pod with a ServiceAccount's token: {error}; outside of Kubernetes"
                " set kubeconfig"
            ) from error
        return cls(configuration, config.namespace or namespace)

    async def close(self) -> None:
        await self._client.close()

    async def list(self, resource: str, label_selector: str) -> list[Object]:
        answer = await self.ask("list", resource, query={"labelSelector": label_selector})
        with reading(f"the list of {resource}"):
            if (answer.get("metadata") or {}).get("continue"):
                raise ValueError("it is a part of the list")
            items = answer["items"] or []  # null where there are none
            if not isinstance(items, list):
                raise TypeError(f"items are a {type(items).__name__}")
        return items

    async def ask(
        self,
        verb: Verb,
        resource: str,
        name: str = "",
        body: Object | None = None,
        query: Mapping[str, str] | None = None,
    ) -> Object:
        """`resource` may name a subresource: "deployments/scale". Patches are merge patches."""
        kind, _, subresource = resource.partition("/")
        path = "/".join(
            part
            for part in (f"{_GROUPS[kind]}/namespaces/{{namespace}}/{kind}", name, subresource)
            if part
        )
        what = f"{verb} {resource}" + (f" {name!r}" if name else "")
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                status, answer = await self._send(verb, path, body, query or {})
        # TimeoutError is an OSError; ConfigException: the token's file cannot be read.
        except (aiohttp.ClientError, OSError, ConfigException) as error:
            reason = str(error) or f"no answer within {ANSWER_SECONDS:g} s"
            raise ScalingError(
                "api_server_unreachable",
                f"cannot {what}: {type(error).__name__} {reason}; going on trying",
            ) from error
        if status >= 300:
            raise self._refusal(what, status, answer)
        return _read(what, answer)

    async def _send(
        self, verb: Verb, path: str, body: Object | None, query: Mapping[str, str]
    ) -> tuple[int, bytes]:
        kind = "merge-patch+json" if verb == "patch" else "json"
        headers = {"Accept": "application/json", "Content-Type": f"application/{kind}"}
        # With `_preload_content` off the method returns another type than its annotation's.
        response = await cast(
            Awaitable[aiohttp.ClientResponse],
            self._client.call_api(
                path,
                _METHODS[verb],
                {"namespace": self.namespace},
                list(query.items()),
                headers,
                body=body,
                response_types_map={},
                auth_settings=["BearerToken"],
                _preload_content=False,
                _request_timeout=ANSWER_SECONDS,
            ),
        )
        async with response:
            answer = bytearray()
            async for part in response.content.iter_chunked(1 << 16):
                answer += part
                if len(answer) > MAX_ANSWER_BYTES:
                    raise aiohttp.ClientPayloadError(
                        f"the answer is larger than {MAX_ANSWER_BYTES} bytes"
                    )
            return response.status, bytes(answer)

    def _refusal(self, what: str, status: int, answer: bytes) -> ApiServerRefused:
        message = _message_of(answer)
        if status in (401, 403):
            return ApiServerRefused(
                "forbidden",
                f"not allowed to {what} in namespace {self.namespace!r}: {message}; grant the"
                " autoscaler's ServiceAccount that verb on that resource",
                status=status,
            )
        return ApiServerRefused(
            "api_server_unreachable", f"cannot {what}: HTTP {status} {message}", status=status
        )


def _own_namespace() -> str:
    return NAMESPACE_FILE.read_text(encoding="utf-8").strip()


@contextmanager
def reading(what: str) -> Iterator[None]:
    """What answers may be no API server: what it raises where it is read is a ScalingError."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ScalingError(
            "api_server_unreachable",
            f"cannot read {what}: {type(error).__name__} {error}; is an API server there?",
        ) from error


def _read(what: str, body: bytes) -> Object:
    try:
        answer = from_json(body)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        shown = body[:80].decode("utf-8", "replace")
        raise ScalingError(
            "api_server_unreachable", f"cannot {what}: expected a JSON object, got {shown!r}"
        )
    return answer


def _message_of(body: bytes) -> str:
    """The message of the Status object that the API server explains a refusal with."""
    try:
        return str(from_json(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode("utf-8", "replace")
