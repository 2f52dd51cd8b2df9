"""From Prometheus' vectors to the load of each group of pools.

Pools without a settled pod have no series of workers, and that is a zero; the seconds of a token
there are those last measured, or those of the cost model's prior.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from statistics import median

from lengthwise_autoscaler.errors import ScalingError
from lengthwise_autoscaler.load.data_check import DECODE, DataCheck, Settled, group_of, groups_of
from lengthwise_autoscaler.load.plausibility import SECONDS_OF_TOKEN
from lengthwise_autoscaler.load.prometheus import Vector
from lengthwise_autoscaler.load.queries import QueryName
from lengthwise_autoscaler.load.table import Table
from lengthwise_policy.cost.model import PRIOR, CostModel
from lengthwise_policy.length_class import DEFAULT_SHORT_TOKENS, LENGTH_CLASSES, LengthClass
from lengthwise_policy.scaling.state import DecodeLoad, Group, Pool, PrefillLoad
from lengthwise_policy.types import Role

BLOCK_TOKENS = 16
"""Tokens of a KV block, where no worker reports it."""

TYPICAL_TOKENS: Mapping[LengthClass, float] = {
    "short": DEFAULT_SHORT_TOKENS / 2,
    "long": 4.0 * DEFAULT_SHORT_TOKENS,
}
"""Residual tokens of a prompt, where none has arrived within the window."""

Load = PrefillLoad | DecodeLoad


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One round's vectors, as loads."""

    loads: Mapping[Group, Load]
    errors: tuple[ScalingError, ...]
    # By pod; nothing where it cannot be believed.
    requests: Mapping[str, float] = field(default_factory=dict)
    cached_blocks: Mapping[str, float] = field(default_factory=dict)


class LoadReader:
    """Remembers what a token took, for pools that are scaled to zero."""

    def __init__(
        self, pools: Sequence[Pool], scrape_interval_seconds: float, model: str = ""
    ) -> None:
        """`model`: whose pools they are; empty where the release serves one alone."""
        self._pools = {pool.name: pool for pool in pools}
        self._groups = groups_of(pools)
        self._model = model
        self._check = DataCheck(pools, scrape_interval_seconds)
        self._token_seconds: dict[tuple[Group, LengthClass], float] = {}

    def read(
        self,
        vectors: Mapping[QueryName, Vector],
        settled: Sequence[Settled],
        most: Mapping[str, float],
    ) -> Reading:
        """`settled`: all of them; without a router among them no group's load is known.

        `most`: workers that each pool can have.
        """
        routers = [pod for pod in settled if pod.role is None]
        if not routers:
            return Reading(loads={}, errors=())
        table = Table(vectors, self._model)
        try:
            self._check.routers(table, routers)
        except ScalingError as error:
            return Reading(loads={}, errors=(error,))
        errors, blind = self._check.workers(table, settled, most)
        loads: dict[Group, Load] = {}
        for group in self._groups - blind:
            try:
                loads[group] = (
                    self._decode(table) if group == DECODE else self._prefill(table, group)
                )
            except ScalingError as error:
                errors.append(error)
        return Reading(
            loads=loads,
            errors=tuple(errors),
            requests=table.by("pod_requests", "pod"),
            cached_blocks=table.by("pod_cached", "pod"),
        )

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
        sizes = [value for value in table.values("block_tokens", pools) if value >= 1]
        return DecodeLoad(
            running_requests=table.sum("decode_running", pools),
            context_tokens=table.sum("decode_context", pools),
            queued_requests=table.sum("decode_queued", pools),
            queued_tokens=table.sum("queued_tokens", pools, role="decode"),
            blocks_predicted=table.sum("decode_predicted", pools),
            blocks_per_worker=blocks / workers if workers else 0.0,
            block_size=int(sizes[0]) if sizes else BLOCK_TOKENS,
            generated_tokens=table.sum("generated_tokens", pools),
            tpot_seconds=_known(table.values("tpot")),
            cost=_cost(table, pools, "decode"),
            waiting_requests=table.sum("waiting_requests"),
            mean_workers=_mean(table, pools, "decode"),
            arrived_requests=table.sum("arrived_requests"),
            output_tokens=_known(table.values("output_tokens")),
            prompt_tokens=0.0 if self._has_prefill else table.sum("arrived_tokens"),
        )

    @property
    def _has_prefill(self) -> bool:
        """Whether a pool computes prompts for the decode workers."""
        return any(role == "prefill" for role, _ in self._groups)

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
            if busy / tokens > SECONDS_OF_TOKEN:
                raise ScalingError(
                    "data_implausible",
                    f"{tokens:g} {length} tokens took {busy:g} s of a worker, expected at most"
                    f" {SECONDS_OF_TOKEN:g} s for one",
                    pool=next((name for name in pools if self._pools[name].role == "prefill"), ""),
                    query="prefill_busy",
                )
            self._token_seconds[group, length] = busy / tokens
            return busy / tokens
        cost = _cost(table, pools, "prefill")
        if cost is None and (group, length) in self._token_seconds:
            return self._token_seconds[group, length]
        requests = table.by("arrived_requests", "length_class")[length]
        arrived = table.by("arrived_tokens", "length_class")[length]
        typical = arrived / requests if requests > 0 and arrived > 0 else TYPICAL_TOKENS[length]
        return (cost or PRIOR).prefill_seconds(max(1, round(typical))) / typical


def _known(values: Iterable[float]) -> float | None:
    """The largest that observations stand behind; None when there is none."""
    return max((value for value in values if isfinite(value) and value >= 0), default=None)


def _mean(table: Table, pools: Sequence[str], role: Role) -> float | None:
    """Workers of the role within the window; None when there was none."""
    return table.sum("mean_workers", pools, role=role) or None


def _cost(table: Table, pools: Sequence[str], role: Role) -> CostModel | None:
    """The median of the pools' medians; None while no worker has fitted one."""

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
