"""From Prometheus' vectors to the load of each group of pools.

Who must be in the data is learnt from Kubernetes: every pod that has been ready for SETTLE_SCRAPES
scrape intervals is scraped, and its pool is in every result. Pools without such a pod have no
series of workers, and that is a zero; what a token takes there is what it took last, or what the
prior of the cost model says.

The rule: missing or stale data is an error, never a zero. It costs the load of the groups that it
belongs to, so that their pools are held, and no other's.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import median

from lengthwise_autoscaler.errors import ScalingError
from lengthwise_autoscaler.load.prometheus import Vector
from lengthwise_autoscaler.load.queries import QueryName
from lengthwise_autoscaler.load.table import Table, missing
from lengthwise_policy.cost.model import PRIOR, CostModel
from lengthwise_policy.length_class import DEFAULT_SHORT_TOKENS, LENGTH_CLASSES, LengthClass
from lengthwise_policy.scaling.state import DecodeLoad, Group, Pool, PrefillLoad
from lengthwise_policy.types import Role

SETTLE_SCRAPES = 3
"""Scrape intervals after which a pod's data can be demanded, and may not be older: a rate needs two
samples, and one scrape may fail."""

BLOCK_TOKENS = 16
"""Tokens of a KV block, where no worker is there to tell."""

TYPICAL_TOKENS: Mapping[LengthClass, float] = {
    "short": DEFAULT_SHORT_TOKENS / 2,
    "long": 4.0 * DEFAULT_SHORT_TOKENS,
}
"""Residual tokens of a prompt, where none has arrived within the window."""

DECODE: Group = ("decode", None)

Load = PrefillLoad | DecodeLoad


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """A pod whose data can be demanded; `role` is None for a router."""

    name: str
    pool: str
    role: Role | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one round's vectors say."""

    loads: Mapping[Group, Load]
    errors: tuple[ScalingError, ...]


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


class LoadReader:
    """Remembers what a token took, for pools that are scaled to zero."""

    def __init__(self, pools: Sequence[Pool], scrape_interval_seconds: float) -> None:
        self._pools = {pool.name: pool for pool in pools}
        self._groups = groups_of(pools)
        self._oldest = SETTLE_SCRAPES * scrape_interval_seconds
        self._token_seconds: dict[tuple[Group, LengthClass], float] = {}

    def read(self, vectors: Mapping[QueryName, Vector], settled: Sequence[Settled]) -> Reading:
        """`settled`: all of them; without a router among them no group's load is known."""
        routers = [pod for pod in settled if pod.role is None]
        if not routers:
            return Reading(loads={}, errors=())
        table = Table(vectors)
        try:
            self._check_scraped(table, routers, "")
            self._check_routers(table)
        except ScalingError as error:
            return Reading(loads={}, errors=(error,))
        errors, blind = self._check_workers(table, settled)
        loads: dict[Group, Load] = {}
        for group in self._groups - blind:
            loads[group] = self._decode(table) if group == DECODE else self._prefill(table, group)
        return Reading(loads=loads, errors=tuple(errors))

    def _check_workers(
        self, table: Table, settled: Sequence[Settled]
    ) -> tuple[list[ScalingError], set[Group]]:
        """What is wrong with the workers' data, and the groups whose load is unknown for it."""
        errors: list[ScalingError] = []
        blind: set[Group] = set()
        for name, pool in self._pools.items():
            try:
                table.require_numbers(name)
            except ScalingError as error:
                errors.append(error)
                blind |= groups_of([pool])
            for role in ("prefill", "decode"):
                pods = [pod for pod in settled if (pod.pool, pod.role) == (name, role)]
                if not pods:
                    continue
                try:
                    self._check_scraped(table, pods, name)
                    table.require(_WORKER_QUERIES[role], name, role)
                except ScalingError as error:
                    errors.append(error)
                    blind.add(group_of(pool, role))
        return errors, blind

    def _check_scraped(self, table: Table, pods: Sequence[Settled], pool: str) -> None:
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

    def _check_routers(self, table: Table) -> None:
        """Errors: ScalingError naming a query without the series that routers have from their
        start."""
        for name in _BY_LENGTH:
            found = table.by(name, "length_class")
            for length in LENGTH_CLASSES:
                if length not in found:
                    raise missing(name, f"length_class {length!r}")
        for name in _TOTALS:
            if not table.values(name):
                raise missing(name, "the routers")
        table.require_numbers()

    def _prefill(self, table: Table, group: Group) -> PrefillLoad:
        classes = self._classes(group)
        pools = [name for name, pool in self._pools.items() if self._serves(pool, group)]
        arrived = table.by("arrived_tokens", "length_class")
        recent = table.by("recent_tokens", "length_class")
        ttft = table.by("ttft", "length_class")
        queued = {
            length: table.sum("queued_tokens", pools, role="prefill", length_class=length)
            for length in classes
        }
        waits = {
            length: _known(table.values("queue_seconds", pools, length_class=length))
            for length in classes
        }
        return PrefillLoad(
            arrived_tokens={length: arrived[length] for length in classes},
            token_seconds={
                length: self._seconds_of_token(table, group, pools, length) for length in classes
            },
            queued_tokens=queued,
            ttft_seconds={length: _known([ttft[length]]) for length in classes},
            queue_seconds=waits,
            waiting_requests=table.sum("waiting_requests"),
            mean_workers=_mean(table, pools, "prefill"),
            recent_tokens={length: recent[length] for length in classes},
        )

    def _decode(self, table: Table) -> DecodeLoad:
        pools = [name for name, pool in self._pools.items() if self._serves(pool, DECODE)]
        workers = table.sum("decode_workers", pools)
        blocks = table.sum("decode_blocks", pools)
        (tpot,) = table.values("tpot")
        sizes = [value for value in table.values("block_tokens") if value >= 1]
        return DecodeLoad(
            running_requests=table.sum("decode_running", pools),
            context_tokens=table.sum("decode_context", pools),
            queued_requests=table.sum("decode_queued", pools),
            queued_tokens=table.sum("queued_tokens", pools, role="decode"),
            blocks_predicted=table.sum("decode_predicted", pools),
            blocks_per_worker=blocks / workers if workers else 0.0,
            block_size=int(sizes[0]) if sizes else BLOCK_TOKENS,
            generated_tokens=table.sum("generated_tokens", pools),
            tpot_seconds=_known([tpot]),
            cost=_cost(table, pools, "decode"),
            waiting_requests=table.sum("waiting_requests"),
            mean_workers=_mean(table, pools, "decode"),
            arrived_requests=table.sum("arrived_requests"),
            output_tokens=_known(table.values("output_tokens")),
        )

    def _classes(self, group: Group) -> tuple[LengthClass, ...]:
        """Whose prompts go to the group: its own class, or those that have no pool of their own."""
        _, own = group
        if own is not None:
            return (own,)
        return tuple(length for length in LENGTH_CLASSES if ("prefill", length) not in self._groups)

    def _serves(self, pool: Pool, group: Group) -> bool:
        role, _ = group
        return (pool.role == role or pool.flexible) and group_of(pool, role) == group

    def _seconds_of_token(
        self, table: Table, group: Group, pools: Sequence[str], length: LengthClass
    ) -> float:
        """What it took within the window; else by the fitted cost; else what it took last."""
        tokens = table.sum("prefill_tokens", pools, length_class=length)
        busy = table.sum("prefill_busy", pools, length_class=length)
        if tokens > 0 and busy > 0:
            self._token_seconds[group, length] = busy / tokens
            return busy / tokens
        cost = _cost(table, pools, "prefill")
        if cost is None and (group, length) in self._token_seconds:
            return self._token_seconds[group, length]
        requests = table.by("arrived_requests", "length_class")[length]
        arrived = table.by("arrived_tokens", "length_class")[length]
        typical = arrived / requests if requests > 0 and arrived > 0 else TYPICAL_TOKENS[length]
        return (cost or PRIOR).prefill_seconds(max(1, round(typical))) / typical


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


def _known(values: Iterable[float]) -> float | None:
    """The largest that observations stand behind; None when there is none."""
    return max((value for value in values if isfinite(value) and value >= 0), default=None)


def _mean(table: Table, pools: Sequence[str], role: Role) -> float | None:
    """Workers of the role within the window; None when there was none."""
    return table.sum("mean_workers", pools, role=role) or None


def _cost(table: Table, pools: Sequence[str], role: Role) -> CostModel | None:
    """The median of the pools' medians; None while nobody has fitted one."""

    def coefficient(name: str) -> float:
        values = table.values("cost", pools, role=role, coefficient=name)
        return median(values) if values else 0.0

    if not table.values("cost", pools, role=role):
        return None
    return CostModel(
        step_seconds=coefficient("step"),
        token_seconds=coefficient("token"),
        attention_seconds=coefficient("attention"),
        history_seconds=coefficient("history"),
        decode_request_seconds=coefficient("decode_request"),
        decode_context_seconds=coefficient("decode_context"),
    )


def _some(names: Sequence[str]) -> str:
    """So that a message stays short."""
    shown = ", ".join(sorted(names)[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
