"""What a dashboard of ours is made of, and how Grafana reads it.

A panel has a sentence on what it shows, in which unit, and what each line is called. Every
query selects the release that is chosen at the top.
"""

import json
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Literal, get_args

from grafana_foundation_sdk.builders import common, heatmap, prometheus, stat, timeseries
from grafana_foundation_sdk.builders.dashboard import (
    Dashboard,
    DashboardLink,
    DatasourceVariable,
    QueryVariable,
    Row,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
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

NUMBER_WIDTH, NUMBER_HEIGHT = 4, 4
"""Six numbers in a row."""

TAG = "lengthwise"

OF_RELEASE = 'job="lengthwise",namespace="$namespace",release="$release"'

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")


def of(metric: str, **labels: str) -> str:
    """A selector of the release's series. A label's value with a bar is alternatives.

    What a pod reports is also of the pools and pods that are chosen. Pods of no pool, such as
    routers, are of every choice; so is what is of no model.
    """
    matchers = {"namespace": "$namespace", "release": "$release", "model": "$model|", **labels}
    if ":" not in metric:  # no recording rule's
        matchers |= {"pool": "$pool|", "pod": "$pod|"}
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
class Number:
    """One value now, and how it came there."""

    title: str
    description: str
    unit: Unit
    expression: str

    @property
    def queries(self) -> tuple[Query, ...]:
        return (Query(expression=self.expression, legend=self.title),)


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
    panels: tuple[Lines | Buckets | Number, ...]


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
        .tags([TAG])
        .link(
            DashboardLink("Lengthwise")
            .type(DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .as_dropdown(True)
            .include_vars(True)
            .keep_time(True)
        )
        .time("now-1h", "now")
        .refresh("30s")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(DatasourceVariable("datasource").type("prometheus").label("Data source"))
        .with_variable(_variable("namespace", 'up{job="lengthwise"}'))
        .with_variable(_variable("release", 'up{job="lengthwise",namespace="$namespace"}'))
        .with_variable(_choice("model", f"lengthwise_requests_waiting{{{OF_RELEASE}}}"))
        .with_variable(_choice("pool", f"up{{{OF_RELEASE}}}"))
        .with_variable(_choice("pod", f'up{{{OF_RELEASE},pool=~"$pool|"}}'))
    )
    number = 0
    for section in board.sections:
        number += 1
        dashboard.with_row(Row(section.title).id(number))
        for panel in section.panels:
            number += 1
            dashboard.with_panel(_panel(panel).id(number))
    return json.dumps(dashboard.build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def _variable(name: str, series: str) -> QueryVariable:
    return (
        QueryVariable(name)
        .label(name.capitalize())
        .datasource(SOURCE)
        .query(f"label_values({series}, {name})")
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
    )


def _choice(name: str, series: str) -> QueryVariable:
    """A variable of which several values may be chosen, at first all."""
    return _variable(name, series).multi(True).include_all(True).all_value(".*")


def _panel(panel: Lines | Buckets | Number) -> timeseries.Panel | heatmap.Panel | stat.Panel:
    match panel:
        case Lines():
            return _lines(panel)
        case Buckets():
            return _buckets(panel)
        case Number():
            return _number(panel)


def _number(panel: Number) -> stat.Panel:
    return (
        stat.Panel()
        .title(panel.title)
        .description(panel.description)
        .datasource(SOURCE)
        .unit(_grafana_unit(panel.unit))
        .span(NUMBER_WIDTH)
        .height(NUMBER_HEIGHT)
        .graph_mode(BigValueGraphMode.AREA)
        .color_mode(BigValueColorMode.NONE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .no_value("no traffic")
        .with_target(_target(panel.queries[0], "A"))
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
