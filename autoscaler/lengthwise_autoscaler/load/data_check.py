"""Whether Prometheus' data may be believed: every pod that should be in it is, and lately.

The pods that must be in the data are learnt from Kubernetes: every pod that has been ready for
SETTLE_SCRAPES scrape intervals is scraped, and its pool is in every result.

Invariant: missing or stale data is an error, never a zero. It costs the load of the groups that it
belongs to, so that their pools are held, and no other's.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lengthwise_autoscaler.errors import ScalingError
from lengthwise_autoscaler.load.queries import QueryName
from lengthwise_autoscaler.load.table import Table, missing
from lengthwise_policy.length_class import LENGTH_CLASSES
from lengthwise_policy.scaling.state import Group, Pool
from lengthwise_policy.types import Role

SETTLE_SCRAPES = 3
"""Scrape intervals after which a pod's data can be demanded, and may not be older: a rate needs two
samples, and one scrape may fail."""

DECODE: Group = ("decode", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """A pod whose data can be demanded; `role` is None for a router."""

    name: str
    pool: str
    role: Role | None


def group_of(pool: Pool, role: Role) -> Group:
    """The group that a pool's worker of that role works for."""
    return (role, pool.length_class if role == pool.role else None)


def groups_of(pools: Iterable[Pool]) -> frozenset[Group]:
    """All that any worker of the pools could work for."""
    groups: set[Group] = set()
    for pool in pools:
        groups.add(group_of(pool, pool.role))
        if pool.flexible:
            groups |= {("prefill", None), DECODE}
    return frozenset(groups)


class DataCheck:
    """Checks one round's vectors against the pods that are ready."""

    def __init__(self, pools: Sequence[Pool], scrape_interval_seconds: float) -> None:
        self._pools = {pool.name: pool for pool in pools}
        self._oldest = SETTLE_SCRAPES * scrape_interval_seconds

    def workers(
        self, table: Table, settled: Sequence[Settled], most: Mapping[str, float]
    ) -> tuple[list[ScalingError], set[Group]]:
        """What is wrong with the workers' data, and the groups whose load is unknown for it.

        `most`: workers that each pool can have.
        """
        errors: list[ScalingError] = []
        blind: set[Group] = set()
        for name, pool in self._pools.items():
            try:
                table.require_plausible(most, name)
            except ScalingError as error:
                errors.append(error)
                blind |= groups_of([pool])
            for role in ("prefill", "decode"):
                pods = [pod for pod in settled if (pod.pool, pod.role) == (name, role)]
                if not pods:
                    continue
                try:
                    self._require_scraped(table, pods, name)
                    table.require(_WORKER_QUERIES[role], name, role)
                    if role == "decode":
                        _require_counted(table, pods, name)
                except ScalingError as error:
                    errors.append(error)
                    blind.add(group_of(pool, role))
        return errors, blind

    def _require_scraped(self, table: Table, pods: Sequence[Settled], pool: str) -> None:
        """Errors: ScalingError naming a pod that is not scraped, or was long ago."""
        ages = table.by("sample_age", "pod")
        scraped = table.by("scraped", "pod")
        absent = [pod.name for pod in pods if pod.name not in ages]
        if absent:
            raise ScalingError(
                "data_missing",
                f"{_some(absent)} of {len(pods)} ready pods are no targets of"
                " Prometheus; is the release's PodMonitor there, and are its labels kept?",
                pool=pool,
                query="sample_age",
            )
        failed = [pod.name for pod in pods if not scraped.get(pod.name)]
        if failed:
            raise ScalingError(
                "data_missing",
                f"Prometheus cannot scrape {_some(failed)} of {len(pods)} ready"
                " pods; do they live, and may it reach their metrics port?",
                pool=pool,
                query="scraped",
            )
        stale = [pod.name for pod in pods if not ages[pod.name] <= self._oldest]
        if stale:
            raise ScalingError(
                "data_stale",
                f"the samples of {_some(stale)} are up to"
                f" {max(ages[name] for name in stale):.1f} s old, expected at most"
                f" {self._oldest:g} s; does Prometheus scrape, and is"
                " prometheus.scrape_interval_seconds right?",
                pool=pool,
                query="sample_age",
            )

    def routers(self, table: Table, pods: Sequence[Settled]) -> None:
        """Errors: ScalingError naming a query without the series that routers have from their
        start, or a router that is not scraped."""
        table.require_distinct()
        self._require_scraped(table, pods, "")
        for name in _BY_LENGTH:
            found = table.by(name, "length_class")
            for length in LENGTH_CLASSES:
                if length not in found:
                    raise missing(name, f"length_class {length!r}")
        for name in _TOTALS:
            if not table.values(name):
                raise missing(name, "the routers")
        table.require_plausible({})


_BY_LENGTH: tuple[QueryName, ...] = ("arrived_requests", "arrived_tokens", "recent_tokens", "ttft")
_TOTALS: tuple[QueryName, ...] = ("waiting_requests", "output_tokens", "tpot")

_WORKER_QUERIES: Mapping[Role, tuple[QueryName, ...]] = {
    "prefill": ("prefill_tokens", "prefill_busy", "queue_seconds", "queued_tokens"),
    "decode": (
        "decode_running",
        "decode_context",
        "decode_queued",
        "decode_predicted",
        "decode_blocks",
        "decode_workers",
        "generated_tokens",
        "queued_tokens",
    ),
}
"""Of which each pool with a settled worker of the role has to have rows."""


def _require_counted(table: Table, pods: Sequence[Settled], pool: str) -> None:
    """Errors: ScalingError where fewer workers report than have long been ready, or fewer blocks:
    none is ready without one, and no blocks at all would look like no need of workers."""
    counted = table.sum("decode_workers", [pool])
    if counted < len(pods):
        raise ScalingError(
            "data_implausible",
            f"{counted:g} decode workers report, but {len(pods)} have been ready for long; does"
            " Prometheus scrape all of them?",
            pool=pool,
            query="decode_workers",
        )
    blocks = table.sum("decode_blocks", [pool])
    if blocks < len(pods):
        raise ScalingError(
            "data_implausible",
            f"got {blocks:g} KV blocks of {len(pods)} decode workers, expected at least as many",
            pool=pool,
            query="decode_blocks",
        )


def _some(names: Sequence[str]) -> str:
    """So that a message stays short."""
    shown = ", ".join(sorted(names)[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
