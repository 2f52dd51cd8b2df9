"""Every query of the chart's dashboards, rules and alerts, asked of a Prometheus.

After traffic of every kind no query of a panel and no recording rule may be without a
number, and every selector of an alert must select something: an alert on series that do not exist
never fires. Alerts themselves are rightly empty.
"""

import json
import math
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[2] / "helm/lengthwise"
DASHBOARDS = CHART / "dashboards"
RULES = CHART / "rules"

SELECTOR = re.compile(
    r"""(?<![\w:"$])                                        # not within a name or a label's value
        (lengthwise_\w+|process_\w+|up|[a-z]\w*:[\w:]+)     # a metric, or a recording rule's series
        (?![\w:"(])
        (?:\{([^{}]*)\})?""",
    re.VERBOSE,
)

OF_THE_AUTOSCALER = re.compile(
    r"lengthwise_(replicas|workers_needed|scaling_|autoscaler_|pool_m)|:lengthwise_workers_needed:"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A query, and where it stands."""

    where: str
    expression: str
    may_be_empty: bool = False


def selectors(expression: str) -> list[str]:
    """The series that an expression reads."""
    return [
        f"{match[1]}{{{match[2]}}}" if match[2] else match[1]
        for match in SELECTOR.finditer(expression)
    ]


def all_queries(*, namespace: str, release: str, window: str = "5m") -> Iterator[Asked]:
    """`window` stands for the interval that Grafana would choose."""
    yield from _of_panels(
        {
            "$namespace": namespace,
            "$release": release,
            "$model": ".*",
            "$pool": ".*",
            "$pod": ".*",
            "$__rate_interval": window,
        }
    )
    of_release = f'namespace="{namespace}",release="{release}"'
    for path in sorted(RULES.glob("*.yaml")):
        for group in yaml.safe_load(path.read_text("utf-8"))["groups"]:
            for rule in group["rules"]:
                yield from _of_rule(rule, of_release)


def _of_panels(variables: dict[str, str]) -> Iterator[Asked]:
    for path in sorted(DASHBOARDS.glob("*.json")):
        for panel in json.loads(path.read_text("utf-8"))["panels"]:
            for target in panel.get("targets", ()):
                expression = target["expr"]
                for name, value in variables.items():
                    expression = expression.replace(name, value)
                yield Asked(
                    where=f"dashboard {path.stem}, panel {panel['title']}", expression=expression
                )


def _of_rule(rule: dict[str, Any], of_release: str) -> Iterator[Asked]:
    if "record" in rule:
        own = "".join(f',{name}="{value}"' for name, value in rule.get("labels", {}).items())
        yield Asked(
            where=f"rule {rule['record']}", expression=f"{rule['record']}{{{of_release}{own}}}"
        )
        return
    where = f"alert {rule['alert']}"
    yield Asked(where=where, expression=rule["expr"], may_be_empty=True)
    for selector in selectors(rule["expr"]):
        name, _, matchers = selector.rstrip("}").partition("{")
        joined = ",".join(filter(None, (matchers, of_release)))
        yield Asked(where=f"{where}, {selector}", expression=f"count({name}{{{joined}}})")


def check_queries(
    url: str, *, namespace: str, release: str, autoscaler: bool = True, window: str = "5m"
) -> list[str]:
    """What is wrong, one line each. `autoscaler`: whether the release has one."""
    problems = []
    for asked in all_queries(namespace=namespace, release=release, window=window):
        if not autoscaler and OF_THE_AUTOSCALER.search(asked.expression):
            continue
        try:
            values = ask(url, asked.expression)
        except (OSError, ValueError) as error:
            problems.append(f"{asked.where}: {error}: {asked.expression}")
            continue
        if not asked.may_be_empty and all(math.isnan(value) for value in values):
            problems.append(f"{asked.where}: no number among {len(values)}: {asked.expression}")
    return problems


def ask(url: str, expression: str) -> list[float]:
    """The values of an instant query. Errors: OSError, ValueError with Prometheus' own words."""
    body = urllib.parse.urlencode({"query": expression}).encode()
    try:
        with urllib.request.urlopen(f"{url}/api/v1/query", data=body, timeout=10) as reply:
            answer = json.load(reply)
    except urllib.error.HTTPError as error:
        raise ValueError(error.read().decode()) from error
    data = answer["data"]
    if data["resultType"] == "scalar":
        return [float(data["result"][1])]
    return [float(sample["value"][1]) for sample in data["result"]]
