"""Values about who watches a release: Prometheus, Grafana, a collector of traces."""

from typing import Annotated, Any

from pydantic import Field, with_config
from typing_extensions import TypedDict

from lengthwise_runtime.config import STRICT

Interval = Annotated[str, Field(pattern="^[0-9]+(ms|s|m)$")]
Strings = dict[str, str]
# Prometheus' operator knows it better.
Relabeling = dict[str, Any]


@with_config(STRICT)
class Tracing(TypedDict, total=False):
    endpoint: Annotated[str, Field(pattern="^(https?://.+)?$")]
    samplingRatio: Annotated[float, Field(ge=0, le=1)]


@with_config(STRICT)
class PodMonitor(TypedDict, total=False):
    enabled: bool
    namespace: str
    interval: Interval
    scrapeTimeout: Annotated[str, Field(pattern="^([0-9]+(ms|s|m))?$")]
    labels: Strings
    relabelings: list[Relabeling]
    metricRelabelings: list[Relabeling]


@with_config(STRICT)
class Dashboards(TypedDict, total=False):
    enabled: bool
    labels: Strings
    annotations: Strings


@with_config(STRICT)
class Severities(TypedDict):
    critical: str
    warning: str


@with_config(STRICT)
class PrometheusRule(TypedDict, total=False):
    enabled: bool
    labels: Strings
    severities: Severities
    runbookUrl: str
