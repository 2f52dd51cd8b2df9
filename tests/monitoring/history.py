"""What happens to a release, as Prometheus sees it, and what an alert is to make of it.

One value a minute in Prometheus' own notation (`a+bxn`: a, and n more, each b larger;
`_`: none).
"""

from dataclasses import dataclass
from typing import Any

TARGET = {"namespace": "n", "release": "r"}

OF_NO_MODEL = ("autoscaler_", "scaling_", "discovery_", "pool_", "replicas")
"""How names of metrics begin that tell of a release or of pools."""

Labels = dict[str, str]
History = dict[str, str]
"""Values by series."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One alert in one history. Instants are minutes since its begin."""

    name: str
    alert: str
    history: History
    labels: Labels  # beside TARGET
    quiet: int  # it does not fire yet
    fires: int
    cleared: int

    def checks(self) -> list[dict[str, Any]]:
        """What `promtool test rules` is to expect."""
        expected = {"alertname": self.alert, "alertstate": "firing", **TARGET, **self.labels}
        sample = {"labels": "ALERTS" + _braces(expected), "value": 1}
        return [
            _check(self.alert, self.variant, self.quiet, []),
            _check(self.alert, self.variant, self.fires, [sample]),
            _check(self.alert, self.variant, self.cleared, []),
        ]

    @property
    def variant(self) -> Labels:
        """The labels that tell an alert's rules apart."""
        return {name: self.labels[name] for name in ("severity", "window") if name in self.labels}


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """One alert in a history that is none of its business."""

    name: str
    alert: str
    history: History
    until: int

    def checks(self) -> list[dict[str, Any]]:
        return [_check(self.alert, {}, minute, []) for minute in range(0, self.until, 5)]


def _check(
    alert: str, labels: Labels, minute: int, samples: list[dict[str, Any]]
) -> dict[str, Any]:
    expression = "ALERTS" + _braces({"alertname": alert, "alertstate": "firing", **labels})
    return {"expr": expression, "eval_time": f"{minute}m", "exp_samples": samples}


def _braces(labels: Labels) -> str:
    return "{" + ",".join(f'{name}="{value}"' for name, value in labels.items()) + "}"


def series(name: str, **labels: str) -> str:
    return name + _braces({**TARGET, "pod": "a", **labels})


def metric(name: str, **labels: str) -> str:
    """Of model m, where a metric is of a model."""
    of_model = {} if name.startswith(OF_NO_MODEL) else {"model": "m"}
    return series(f"lengthwise_{name}", **{**of_model, **labels})


def counter(*phases: tuple[int, int]) -> str:
    """Values of a counter that grows by so much a minute, for so many minutes each. Whole numbers:
    a sum that is off by a rounding error looks like a restart."""
    values, value = ["0"], 0
    for minutes, step in phases:
        values.append(f"{value + step}+{step}x{minutes - 1}")
        value += minutes * step
    return " ".join(values)


ARRIVALS = {metric("arrived_requests_total", length_class="short"): "0+10x60"}
REQUESTS = {metric("requests_total", code="OK", model="m"): "0+10x90"}
ROUTER_UP = {series("up", job="lengthwise", component="router"): "1x60"}
LEADS = {metric("autoscaler_leader"): "1x60"}
CRITICAL, WARNING = {"severity": "critical"}, {"severity": "warning"}
MODEL = {"model": "m"}
WORKER = {"job": "lengthwise", "component": "worker", "pool": "decode", "pod": "a"}
