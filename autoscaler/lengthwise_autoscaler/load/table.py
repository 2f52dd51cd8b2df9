"""A round's data: a row that has to be there and is not is an error that names the query."""

from collections.abc import Mapping, Sequence
from math import isfinite

from lengthwise_autoscaler.errors import ScalingError
from lengthwise_autoscaler.load.prometheus import Vector
from lengthwise_autoscaler.load.queries import QueryName
from lengthwise_policy.types import Role

_OBSERVED: frozenset[QueryName] = frozenset({"ttft", "tpot", "queue_seconds", "output_tokens"})
"""NaN there means that nothing was observed within the window."""


class Table:
    """The vectors of one round, by name and labels."""

    def __init__(self, vectors: Mapping[QueryName, Vector]) -> None:
        self._vectors = vectors

    def by(self, name: QueryName, label: str) -> dict[str, float]:
        return {row.label(label): row.value for row in self._vectors[name]}

    def values(
        self, name: QueryName, pools: Sequence[str] | None = None, **labels: str
    ) -> list[float]:
        return [
            row.value
            for row in self._vectors[name]
            if (pools is None or row.label("pool") in pools)
            and all(row.label(label) == value for label, value in labels.items())
        ]

    def sum(self, name: QueryName, pools: Sequence[str] | None = None, **labels: str) -> float:
        return sum(self.values(name, pools, **labels))

    def require(self, names: Sequence[QueryName], pool: str, role: Role) -> None:
        """Errors: ScalingError naming a query without, or without sensible, data of the pool."""
        for name in names:
            rows = [row for row in self._vectors[name] if row.label("pool") == pool]
            if name == "queued_tokens":
                rows = [row for row in rows if row.label("role") == role]
            if not rows:
                raise missing(name, f"the {role} workers of pool {pool}", pool)

    def require_numbers(self, pool: str = "") -> None:
        """Errors: ScalingError naming a query that gave a pool, or the rest, what is no amount."""
        for name, rows in self._vectors.items():
            for row in rows:
                is_amount = isfinite(row.value) and row.value >= 0
                if row.label("pool") == pool and not (is_amount or name in _OBSERVED):
                    raise ScalingError(
                        "data_missing",
                        f"expected a number of at least 0, got {row.value} for {dict(row.labels)}",
                        pool=pool,
                        query=name,
                    )


def missing(name: QueryName, what: str, pool: str = "") -> ScalingError:
    return ScalingError(
        "data_missing",
        f"no data of {what}; are all processes of the same version, and are the"
        " labels namespace, release, component, pod and pool set when they are scraped?",
        pool=pool,
        query=name,
    )
