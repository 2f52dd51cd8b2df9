"""A round's data: a row that has to be there and is not is an error that names the query."""

from collections.abc import Mapping, Sequence, Set

from lengthwise_autoscaler.errors import ScalingError
from lengthwise_autoscaler.load.plausibility import expected_of
from lengthwise_autoscaler.load.prometheus import Row, Vector
from lengthwise_autoscaler.load.queries import LABELS, OF_MODELS, QueryName
from lengthwise_policy.types import Role


class Table:
    """The vectors of one round, by name and labels, as far as they are of one model."""

    def __init__(self, vectors: Mapping[QueryName, Vector], model: str) -> None:
        """`model`: empty where the release serves one alone, whichever that is."""
        self._vectors = {
            name: tuple(
                _without_model(row) for row in rows if row.label("model") == model or not model
            )
            if name in OF_MODELS
            else rows
            for name, rows in vectors.items()
        }

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

    def require_distinct(self) -> None:
        """Errors: ScalingError naming a query with two rows of the same labels, or with others than
        it asked for."""
        for name, rows in self._vectors.items():
            seen = {frozenset(row.labels.items()) for row in rows}
            others = {label for row in rows for label in row.labels} - LABELS[name]
            if len(seen) < len(rows) or others:
                got = f"the labels {_some(others)}" if others else "the same labels twice"
                raise ScalingError(
                    "data_implausible",
                    f"expected rows that differ in {_some(LABELS[name]) or 'nothing'}, got {got}",
                    query=name,
                )

    def require_plausible(self, workers: Mapping[str, float], pool: str = "") -> None:
        """Errors: ScalingError naming a query that gave a pool, or the rest, what no release has.

        `workers`: the most that each pool can have.
        """
        for name, rows in self._vectors.items():
            for row in rows:
                if row.label("pool") != pool:
                    continue
                expected = expected_of(name, row.value, workers.get(pool))
                if expected:
                    raise ScalingError(
                        "data_implausible",
                        f"expected {expected}, got {row.value} for {dict(row.labels)}",
                        pool=pool,
                        query=name,
                    )


def _without_model(row: Row) -> Row:
    """So that rows of two models, where one is expected, are found to be the same."""
    labels = {name: value for name, value in row.labels.items() if name != "model"}
    return Row(labels=labels, value=row.value)


def missing(name: QueryName, what: str, pool: str = "") -> ScalingError:
    return ScalingError(
        "data_missing",
        f"no data of {what}; are all processes of the same version, and are the"
        " labels namespace, release, component, pod and pool set when they are scraped?",
        pool=pool,
        query=name,
    )


def _some(labels: Set[str]) -> str:
    return ", ".join(sorted(labels)[:3])
