"""What a dashboard of ours is made of, and how Grafana reads it.

A panel has a sentence on what it shows, in which unit, and what each line is called. Every
query selects the release that is chosen at the top.
"""

import json
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Literal, get_args

from grafana_foundation_sdk.builders import common, heatmap, prometheus, timeseries
from grafana_foundation_sdk.builders.dashboard import (
    Dashboard,
    DatasourceVariable,
    QueryVariable,
    Row,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    VariableRefresh,
)
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

GrafanaUnit = Literal["short", "s", "reqps", "percentunit", "bytes", "Bps"]
Unit = GrafanaUnit | Literal["cores", "tokens", "tokens/s", "blocks"]
"""Those that Grafana does not know are written behind the number."""

WIDTH, HEIGHT = 8, 8
"""Three panels in a row of 24 columns."""

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")


def of(metric: str, **labels: str) -> str:
    """A selector of the release's series. A label's value with a bar is alternatives."""
    matchers = {"namespace": "$namespace", "release": "$release", **labels}
    selectors = (
        f'{name}{"=~" if "|" in value else "="}"{value}"' for name, value in matchers.items()
    )
    return f"{metric}{{{','.join(selectors)}}}"


def rate(metric: str, **labels: str) -> str:
    return f"rate({of(metric, **labels)}[$__rate_interval])"


def per_second(by: str, metric: str, **labels: str) -> str:
    """A counter's growth per second, summed."""
    return f"sum by ({by}) ({rate(metric, **labels)})"


def quantile(portion: float, by: str, metric: str, **labels: str) -> str:
    """Of a histogram; `by` may be empty."""
    groups = f"{by}, le" if by else "le"
    return f"histogram_quantile({portion:g}, {per_second(groups, f'{metric}_bucket', **labels)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """`legend` names a line by its labels, {{like_this}}."""

    expression: str
    legend: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """Values over time; `stacked`: those that add up to a whole."""

    title: str
    description: str
    unit: Unit
    queries: tuple[Query, ...]
    stacked: bool = False
    width: int = WIDTH


@dataclass(frozen=True, slots=True, kw_only=True)
class Buckets:
    """A histogram over time."""

    title: str
    description: str
    unit: Unit
    metric: str
    width: int = WIDTH

    @property
    def queries(self) -> tuple[Query, ...]:
        buckets = of(f"{self.metric}_bucket")
        expression = f"sum by (le) (increase({buckets}[$__rate_interval]))"
        return (Query(expression=expression, legend="{{le}}"),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    title: str
    panels: tuple[Lines | Buckets, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """`name` is the file's and, with a prefix, the dashboard's uid."""

    name: str
    title: str
    description: str
    sections: tuple[Section, ...]


def quantiles(metric: str, by: str = "", **labels: str) -> tuple[Query, ...]:
    """The median, the 90th and the 99th percentile."""
    names = " ".join(f"{{{{{name}}}}}" for name in by.split(", ") if name)
    return tuple(
        Query(
            expression=quantile(portion, by, metric, **labels),
            legend=f"p{round(100 * portion)} {names}".strip(),
        )
        for portion in (0.5, 0.9, 0.99)
    )


def to_json(board: Board) -> str:
    """The file's content; the same for the same board."""
    dashboard = (
        Dashboard(f"Lengthwise / {board.title}")
        .uid(f"lengthwise-{board.name}")
        .description(board.description)
        .tags(["lengthwise"])
        .time("now-1h", "now")
        .refresh("30s")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(DatasourceVariable("datasource").type("prometheus").label("Data source"))
        .with_variable(_variable("namespace", 'up{job="lengthwise"}'))
        .with_variable(_variable("release", 'up{job="lengthwise",namespace="$namespace"}'))
    )
    number = 0
    for section in board.sections:
        number += 1
        dashboard.with_row(Row(section.title).id(number))
        for panel in section.panels:
            number += 1
            built = _lines(panel) if isinstance(panel, Lines) else _buckets(panel)
            dashboard.with_panel(built.id(number))
    return json.dumps(dashboard.build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def _variable(name: str, series: str) -> QueryVariable:
    return (
        QueryVariable(name)
        .label(name.capitalize())
        .datasource(SOURCE)
        .query(f"label_values({series}, {name})")
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
    )


def _lines(panel: Lines) -> timeseries.Panel:
    built = (
        timeseries.Panel()
        .title(panel.title)
        .description(panel.description)
        .datasource(SOURCE)
        .unit(_grafana_unit(panel.unit))
        .min(0)
        .span(panel.width)
        .height(HEIGHT)
        .line_width(1)
        .fill_opacity(30 if panel.stacked else 0)
        .show_points(VisibilityMode.AUTO)
        .legend(
            common.VizLegendOptions()
            .display_mode(LegendDisplayMode.TABLE)
            .placement(LegendPlacement.BOTTOM)
            .calcs(["lastNotNull", "max"])
            .show_legend(True)
        )
        .tooltip(
            common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING)
        )
    )
    if panel.stacked:
        built.stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    for query, name in zip(panel.queries, ascii_uppercase, strict=False):
        built.with_target(_target(query, name))
    return built


def _buckets(panel: Buckets) -> heatmap.Panel:
    target = _target(panel.queries[0], "A").format(PromQueryFormat.HEATMAP)
    return (
        heatmap.Panel()
        .title(panel.title)
        .description(panel.description)
        .datasource(SOURCE)
        .span(panel.width)
        .height(HEIGHT)
        .calculate(False)
        .color(
            heatmap.HeatmapColorOptions()
            .mode(HeatmapColorMode.SCHEME)
            .scheme("Oranges")
            .exponent(0.5)
            .fill("dark-orange")
            .steps(64)
        )
        .show_tooltip()
        .y_axis(heatmap.YAxisConfig().unit(_grafana_unit(panel.unit)))
        .with_target(target)
    )


def _target(query: Query, name: str) -> prometheus.Dataquery:
    return (
        prometheus.Dataquery()
        .expr(query.expression)
        .legend_format(query.legend)
        .ref_id(name)
        .datasource(SOURCE)
    )


def _grafana_unit(unit: Unit) -> str:
    return unit if unit in get_args(GrafanaUnit) else f"suffix: {unit}"
