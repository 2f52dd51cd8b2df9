"""Workers that Kubernetes calls ready, found by watching the EndpointSlices of their Services.

The watch is a loop of cycles: list all slices, then follow their changes for about 25 seconds. So
an event that was missed is made good by the next list, a resourceVersion that has expired (410
Gone) only ends its cycle early, and a connection that died silently is given up.
While the API server cannot be reached the last known workers stay: their heartbeats show which of
them live. A cycle that ended early is followed by a pause that doubles from one such cycle
to the next and is jittered, so that neither a broken API server nor routers that lost it together
make a storm.

`kubernetes_asyncio` is generated and released as the official client is, minus the threads: the
official client's watch blocks one in a socket that cannot be woken, so that a router could not stop
before its time-out. It finds the API server, verifies it, and follows the rotation of the
ServiceAccount's token. Importing it takes 0.4 s and 45 MB, which is why `discovery_of` imports this
module where it is needed and nowhere else.
"""

import asyncio
import json
import logging
import math
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import aiohttp
from kubernetes_asyncio.client import ApiClient, Configuration, DiscoveryV1Api
from kubernetes_asyncio.config import ConfigException, load_incluster_config

from lengthwise_router.config import KubernetesConfig
from lengthwise_router.discovery.endpoint_slices import EndpointSlices
from lengthwise_router.labels import DiscoveryFailure
from lengthwise_runtime.config import ConfigError

logger = logging.getLogger(__name__)

RELIST_SECONDS = 25.0
"""Between two lists, jittered by a fifth. A list of a few slices costs the API server about as much
as one renewal of a kubelet's lease, and every node renews one each ten seconds."""

ANSWER_SECONDS = 5.0
"""For the API server to begin an answer, and to end a list."""

MIN_PAUSE_SECONDS = 0.1
MAX_PAUSE_SECONDS = 3.0

FORBIDDEN = 403
GONE = 410

NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class _Refused(Exception):
    """The API server responded with an error."""

    def __init__(self, verb: str, status: int, message: str) -> None:
        super().__init__(message)
        self.verb = verb
        self.status = status


class KubernetesDiscovery:
    """The ready endpoints of some Services of one namespace."""

    def __init__(
        self,
        configuration: Configuration,
        namespace: str,
        services: tuple[str, ...],
        *,
        on_failure: Callable[[DiscoveryFailure], None],
        relist_seconds: float = RELIST_SECONDS,
    ) -> None:
        """`on_failure` is called for every cycle that ended in an error."""
        self._configuration = configuration
        self._namespace = namespace
        self._selector = f"kubernetes.io/service-name in ({','.join(services)})"
        self._on_failure = on_failure
        self._relist_seconds = relist_seconds
        self._slices = EndpointSlices()
        self._trouble: tuple[str, int] | None = None  # what has been reported last, if it lasts

    async def addresses(self) -> AsyncIterator[frozenset[str]]:
        known: frozenset[str] | None = None
        pause = MIN_PAUSE_SECONDS
        async with ApiClient(configuration=self._configuration) as client:
            api = DiscoveryV1Api(client)
            while True:
                began_at = time.monotonic()
                async for found in self._cycle(api):
                    if found != known:
                        known = found
                        yield found
                lasted = time.monotonic() - began_at
                pause = MIN_PAUSE_SECONDS if lasted > 1.0 else min(2 * pause, MAX_PAUSE_SECONDS)
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))

    async def _cycle(self, api: DiscoveryV1Api) -> AsyncIterator[frozenset[str]]:
        """What is ready after the list, and after each change, until there is reason to list
        anew."""
        period = self._relist_seconds * random.uniform(0.8, 1.2)
        ends_at = asyncio.get_running_loop().time() + period
        try:
            version = await self._list(api)
            yield self._slices.ready
            async with await self._watch(api, version) as changes:
                while await self._follow(changes, ends_at):
                    yield self._slices.ready
        except _Refused as error:
            if error.status != GONE:
                self._on_failure("forbidden" if error.status == FORBIDDEN else "refused")
                self._report(error.verb, error.status, str(error))
        # TimeoutError is an OSError; ConfigException: the token's file cannot be read.
        except (aiohttp.ClientError, OSError, ConfigException) as error:
            self._on_failure("unreachable")
            self._report("reach", 0, f"{type(error).__name__} {error}".strip())
        except (ValueError, KeyError, TypeError) as error:
            self._on_failure("malformed")
            self._report("read", 0, f"{type(error).__name__} {error}")

    async def _list(self, api: DiscoveryV1Api) -> str:
        """Takes over all slices there are; returns the version to watch from."""
        async with asyncio.timeout(ANSWER_SECONDS):
            async with await self._ask(api, "list") as response:
                answer = await response.json()
        self._slices.replace(answer["items"])
        return str(answer["metadata"]["resourceVersion"])

    async def _watch(self, api: DiscoveryV1Api, version: str) -> aiohttp.ClientResponse:
        async with asyncio.timeout(ANSWER_SECONDS):
            seconds = math.ceil(1.2 * self._relist_seconds)
            changes = await self._ask(
                api, "watch", watch=True, resource_version=version, timeout_seconds=seconds
            )
        if self._trouble is not None:
            self._trouble = None
            logger.info("endpointslices of namespace %r are watched again", self._namespace)
        return changes

    async def _follow(self, changes: aiohttp.ClientResponse, ends_at: float) -> bool:
        """Takes one change over; False when the watch has ended or has lasted long enough.

        Errors: _Refused when the API server cannot go on.
        """
        try:
            async with asyncio.timeout_at(ends_at):
                line = await changes.content.readline()
        except (TimeoutError, aiohttp.ClientError) as error:
            logger.debug("the watch has ended: %r", error)
            return False
        if not line:
            return False
        event = json.loads(line)
        if event["type"] == "ERROR":
            raise _Refused("watch", int(event["object"]["code"]), str(event["object"]["message"]))
        self._slices.apply(event["type"], event["object"])
        return True

    async def _ask(self, api: DiscoveryV1Api, verb: str, **options: Any) -> aiohttp.ClientResponse:
        """A response of status 200. Errors: _Refused."""
        # With `_preload_content` off the method's annotation is wrong.
        response = await cast(
            Awaitable[aiohttp.ClientResponse],
            api.list_namespaced_endpoint_slice(
                self._namespace, label_selector=self._selector, _preload_content=False, **options
            ),
        )
        if response.status != 200:
            async with response:
                raise _Refused(verb, response.status, _message_of(await response.text()))
        return response

    def _report(self, verb: str, status: int, message: str) -> None:
        """One line when a trouble begins; it lasts until a watch succeeds."""
        if self._trouble == (verb, status):
            return
        self._trouble = verb, status
        what = f"endpointslices (discovery.k8s.io) in namespace {self._namespace!r}"
        if status == FORBIDDEN:
            logger.error(
                "not allowed to %s %s: %s; grant the router's ServiceAccount the verbs list and"
                " watch on them",
                *(verb, what, message),
            )
        elif status:
            logger.error("cannot %s %s: HTTP %d %s", verb, what, status, message)
        else:
            logger.warning(
                "cannot %s %s: %s; going on with the workers known so far", verb, what, message
            )


def _message_of(body: str) -> str:
    """The message of the Status object that the API server explains a refusal with."""
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body[:200]


def in_cluster(
    config: KubernetesConfig, on_failure: Callable[[DiscoveryFailure], None]
) -> KubernetesDiscovery:
    """Speaks to the API server of the cluster that this process runs in, as its ServiceAccount.

    Errors: ConfigError when it runs in none.
    """
    configuration = Configuration()
    try:
        load_incluster_config(client_configuration=configuration)
        namespace = config.namespace or NAMESPACE_FILE.read_text(encoding="utf-8").strip()
    except (ConfigException, OSError) as error:
        raise ConfigError(
            f"discovery.kubernetes: not in a pod with a ServiceAccount's token: {error}; outside of"
            " Kubernetes set discovery.endpoints or discovery.folder"
        ) from error
    return KubernetesDiscovery(configuration, namespace, config.services, on_failure=on_failure)
