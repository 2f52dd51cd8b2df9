"""The pools of one model: they share their work with one another, and with no other model's."""

from collections.abc import Mapping, Sequence

from lengthwise_autoscaler.config import AutoscalerConfig
from lengthwise_autoscaler.load.data_check import Settled, group_of
from lengthwise_autoscaler.load.prometheus import Vector
from lengthwise_autoscaler.load.queries import QueryName
from lengthwise_autoscaler.load.readings import LoadReader, Reading
from lengthwise_policy.scaling.demand import DemandPolicy, decode_demand, prefill_demand
from lengthwise_policy.scaling.scaler import Scaler
from lengthwise_policy.scaling.state import (
    Action,
    Demand,
    Group,
    Pool,
    PoolName,
    PoolState,
    PrefillLoad,
)


class ModelPools:
    """Remembers what the reader and the scaler of the model do."""

    def __init__(self, model: str, pools: Sequence[Pool], config: AutoscalerConfig) -> None:
        """`model`: empty where the release serves one alone."""
        self.model = model
        self._names = frozenset(pool.name for pool in pools)
        self._reader = LoadReader(pools, config.prometheus.scrape_interval_seconds, model)
        objectives = config.model_objectives.get(model, config.objectives)
        self._demand_policy = DemandPolicy(objectives=objectives)
        self._scaler = Scaler(config.scaling)

    def has(self, pool: PoolName) -> bool:
        return pool in self._names

    def forget(self) -> None:
        """Leadership was lost."""
        self._scaler.forget()

    def read(
        self,
        vectors: Mapping[QueryName, Vector],
        settled: Sequence[Settled],
        most: Mapping[str, float],
    ) -> Reading:
        """See `LoadReader.read`."""
        return self._reader.read(vectors, settled, most)

    def demands(self, reading: Reading, states: Sequence[PoolState]) -> dict[Group, Demand]:
        """`states`: of the model's pools."""
        workers: dict[Group, int] = {}
        for state in states:
            for pod in state.pods:
                if pod.phase == "ready":
                    group = group_of(state.pool, pod.role)
                    workers[group] = workers.get(group, 0) + 1
        return {
            group: (
                prefill_demand(load, self._demand_policy, workers.get(group, 0))
                if isinstance(load, PrefillLoad)
                else decode_demand(load, self._demand_policy, workers.get(group, 0))
            )
            for group, load in reading.loads.items()
        }

    def decide(
        self, now: float, states: Sequence[PoolState], demands: Mapping[Group, Demand]
    ) -> list[Action]:
        """See `Scaler.decide`."""
        return self._scaler.decide(now, states, demands)


def by_model(config: AutoscalerConfig) -> list[ModelPools]:
    """In the order in which the models' first pools are configured."""
    models: dict[str, list[Pool]] = {}
    for item in config.pools:
        models.setdefault(item.model, []).append(item.pool)
    return [ModelPools(model, pools, config) for model, pools in models.items()]
