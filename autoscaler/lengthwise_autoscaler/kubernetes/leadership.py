"""Leadership by a Lease: one of several autoscalers acts.

As client-go does it. `kubernetes_asyncio.leaderelection` is not used: its requests have no timeout,
an unreachable API server ends it with an exception, it stays leader while a request hangs, writes
local time as if it were UTC, and does not give the Lease up at its end.

Clocks of different machines are not compared: others count LEASE_SECONDS from when they see a
renewal, the leader counts RENEW_SECONDS from before it sent one. So a leader that is frozen, or cut
off, has stopped leading before its Lease can be taken, and knows it at once when it runs again.

`is_leader` is asked before each write.
"""

import asyncio
import logging
import random
import secrets
import socket
import time
from contextlib import AbstractContextManager
from datetime import UTC, datetime

from lengthwise_autoscaler.errors import ApiServerRefused, ScalingError
from lengthwise_autoscaler.kubernetes.api_server import (
    CONFLICT,
    NOT_FOUND,
    ApiServer,
    Object,
    reading,
)
from lengthwise_autoscaler.kubernetes.reporter import Reporter

logger = logging.getLogger(__name__)

# client-go's, which survive an API server's restart.
LEASE_SECONDS = 15
RENEW_SECONDS = 10.0
MAX_LEASE_SECONDS = 3600
RETRY_SECONDS = 2.0

RELEASE_SECONDS = 2.0


class Leadership:
    """Life: construct, `run` as a task, cancel it, `release`."""

    def __init__(
        self, api: ApiServer, reporter: Reporter, *, lease: str, identity: str = ""
    ) -> None:
        self._api = api
        self._reporter = reporter
        self._lease = lease
        # Two processes with one name must not both lead: a container that was started again
        # shares its host's name with one that may be frozen.
        self.identity = f"{identity or socket.gethostname()}_{secrets.token_hex(4)}"
        self._leads_until = 0.0
        self._seen: tuple[str, str, str] | None = None  # holder and times of what others wrote
        self._seen_at = 0.0

    @property
    def is_leader(self) -> bool:
        return time.monotonic() < self._leads_until

    async def run(self) -> None:
        """Tries to lead, and to go on leading, for ever."""
        led = False
        while True:
            await self._try()
            if self.is_leader != led:
                led = not led
                logger.info("leads as %s" if led else "%s leads no more", self.identity)
            await asyncio.sleep(RETRY_SECONDS * random.uniform(0.8, 1.2))

    async def release(self) -> None:
        """Lets another lead at once; bounded, and not insisted on."""
        if not self.is_leader:
            return
        self._leads_until = 0.0
        try:
            async with asyncio.timeout(RELEASE_SECONDS):
                lease = await self._api.ask("get", "leases", self._lease)
                with self._reading():
                    spec = dict(lease.get("spec") or {})
                if spec.get("holderIdentity") != self.identity:
                    return
                spec |= {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _now()}
                await self._api.ask("update", "leases", self._lease, {**lease, "spec": spec})
        except (ScalingError, TimeoutError) as error:
            reason = str(error) or f"no answer within {RELEASE_SECONDS:g} s"
            logger.warning("the Lease is not given up, it will expire: %s", reason)

    async def _try(self) -> None:
        try:
            await self._acquire_or_renew()
        except ApiServerRefused as error:
            if error.status == CONFLICT:
                logger.debug("another autoscaler was faster: %s", error)
            else:
                self._reporter.error(error)
        except ScalingError as error:
            self._reporter.error(error)

    async def _acquire_or_renew(self) -> None:
        began_at = time.monotonic()
        try:
            lease = await self._api.ask("get", "leases", self._lease)
        except ApiServerRefused as error:
            if error.status != NOT_FOUND:
                raise
            await self._create()
        else:
            with self._reading():
                is_held = self._is_held_by_another(lease)
                spec = {} if is_held else self._renewed(lease.get("spec") or {})
            if is_held:
                self._leads_until = 0.0
                return
            await self._api.ask("update", "leases", self._lease, {**lease, "spec": spec})
        self._leads_until = began_at + RENEW_SECONDS

    async def _create(self) -> None:
        body: Object = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self._lease},
            "spec": self._renewed({}),
        }
        await self._api.ask("create", "leases", body=body)

    def _reading(self) -> AbstractContextManager[None]:
        return reading(f"Lease {self._lease!r}")

    def _is_held_by_another(self, lease: Object) -> bool:
        spec = lease.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        seen = holder, str(spec.get("acquireTime")), str(spec.get("renewTime"))
        if seen != self._seen:
            self._seen, self._seen_at = seen, time.monotonic()
        if holder in ("", self.identity):
            return False
        lasts = float(spec.get("leaseDurationSeconds") or LEASE_SECONDS)
        if not 0 < lasts <= MAX_LEASE_SECONDS:
            raise ValueError(
                f"leaseDurationSeconds is {lasts}, expected {MAX_LEASE_SECONDS} at most"
            )
        return time.monotonic() < self._seen_at + lasts

    def _renewed(self, spec: Object) -> Object:
        now = _now()
        if spec.get("holderIdentity") == self.identity:
            return {**spec, "renewTime": now}
        return {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": LEASE_SECONDS,
            "acquireTime": now,
            "renewTime": now,
            "leaseTransitions": int(spec.get("leaseTransitions") or 0) + bool(spec),
        }


def _now() -> str:
    """As a MicroTime is written."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
