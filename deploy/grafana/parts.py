"""Building blocks of the dashboards: panels, variables and annotations in a common style."""

from collections.abc import Sequence

from grafana_foundation_sdk.builders import common, dashboard, heatmap, prometheus, stat, table, timeseries
from grafana_foundation_sdk.models import common as common_model
from grafana_foundation_sdk.models import heatmap as heatmap_model
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    DataTransformerConfig,
    DynamicConfigValue,
    VariableOption,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")

Query = tuple[str, str]
"""A PromQL expression, and the legend of its series."""

ANY = 'job="$job"'
MODEL = 'job="$job",model="$model"'
VERSION = 'job="$job",model="$model",version=~"$version"'
RATE = "[$__rate_interval]"
"""Label matchers and the range of expressions, in terms of the dashboard's variables."""

_HEIGHT = 8
_REFERENCES = "ABCDEFGH"


def board(uid: str, title: str, about: str, tags: Sequence[str] = ()) -> dashboard.Dashboard:
    """Returns an empty dashboard with the common variables, and links to the other dashboards."""
    return (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(about)
        .tags(["turnout", *tags])
        .editable()
        .refresh("10s")
        .time("now-1h", "now")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .link(
            dashboard.DashboardLink("Turnout")
            .type(DashboardLinkType.DASHBOARDS)
            .tags(["turnout"])
            .as_dropdown(True)
            .include_vars(True)
            .keep_time(True)
        )
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(variable("job", "label_values(turnout_policy_epoch, job)"))
    )


def variable(name: str, query: str, *, several: bool = False) -> dashboard.QueryVariable:
    """Returns a variable with the values of `query`. With `several`, it allows several values, initially all."""
    made = (
        dashboard.QueryVariable(name)
        .label(name)
        .datasource(SOURCE)
        .query({"query": query, "refId": name})
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.NATURAL_ASC)
        .multi(several)
        .include_all(several)
    )
    return made.current(VariableOption(selected=True, text="All", value="$__all")) if several else made


def with_model(made: dashboard.Dashboard) -> dashboard.Dashboard:
    """Adds the variable that selects a model."""
    return made.with_variable(variable("model", f"label_values(turnout_policy_epoch{{{ANY}}}, model)"))


def quantile(q: float, metric: str, by: str, labels: str) -> str:
    """Returns the expression for a histogram's quantile, by one label."""
    return f"histogram_quantile({q}, sum by ({by}, le) (rate({metric}_bucket{{{labels}}}{RATE})))"


def moved() -> dashboard.AnnotationQuery:
    """Returns an annotation for changes of the model's traffic."""
    changes = f"max by (model) (changes(turnout_policy_epoch{{{MODEL}}}[1m])) > 0"
    return annotation("traffic moved", changes, "blue")


def annotation(name: str, expression: str, colour: str) -> dashboard.AnnotationQuery:
    """Returns an annotation that marks the times at which `expression` has a sample."""
    return dashboard.AnnotationQuery().name(name).datasource(SOURCE).enable(True).icon_color(colour).expr(expression)


def lines(
    title: str,
    *queries: Query,
    about: str = "",
    unit: str = "short",
    width: int = 8,
    logarithmic: bool = False,
    dashed: str = "",
    highest: float | None = None,
    lowest: float | None = 0,
) -> timeseries.Panel:
    """Returns a panel with lines over time.

    Args:
        title: Title of the panel.
        queries: The lines to draw.
        about: Description of the panel.
        unit: Grafana's name of the unit.
        width: Width of the panel, of 24 columns.
        logarithmic: Whether the axis is logarithmic.
        dashed: Regular expression for the names of lines that are drawn as limits.
        highest: Upper end of the axis; None to derive it from the data.
        lowest: Lower end of the axis; None to derive it from the data.
    """
    panel = (
        timeseries.Panel()
        .title(title)
        .description(about)
        .datasource(SOURCE)
        .unit(unit)
        .span(width)
        .height(_HEIGHT)
        .line_width(1)
        .fill_opacity(0)
        .show_points(common_model.VisibilityMode.NEVER)
        .legend(
            common.VizLegendOptions()
            .display_mode(common_model.LegendDisplayMode.LIST)
            .placement(common_model.LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(
            common.VizTooltipOptions()
            .mode(common_model.TooltipDisplayMode.MULTI)
            .sort(common_model.SortOrder.DESCENDING)
        )
    )
    if logarithmic:
        scale = common.ScaleDistributionConfig().type(common_model.ScaleDistribution.LOG).log(10)
        panel.scale_distribution(scale)
    elif lowest is not None:
        panel.min(lowest)
    if highest is not None:
        panel.max(highest)
    if dashed:
        style = DynamicConfigValue(id_val="custom.lineStyle", value={"fill": "dash", "dash": [8, 8]})
        colour = DynamicConfigValue(id_val="color", value={"mode": "fixed", "fixedColor": "red"})
        panel.override_by_regexp(f"/{dashed}/", [style, colour])
    for reference, (expression, legend) in zip(_REFERENCES, queries, strict=False):
        panel.with_target(_query(expression, reference).legend_format(legend))
    return panel


def heat(title: str, expression: str, *, about: str = "", unit: str = "s", width: int = 12) -> heatmap.Panel:
    """Returns a heat map of a histogram over time. `expression` returns the buckets by `le`."""
    return (
        heatmap.Panel()
        .title(title)
        .description(about)
        .datasource(SOURCE)
        .span(width)
        .height(_HEIGHT)
        .calculate(False)
        .y_axis(heatmap.YAxisConfig().unit(unit))
        .color(
            heatmap.HeatmapColorOptions()
            .mode(heatmap_model.HeatmapColorMode.SCHEME)
            .scheme("Oranges")
            .scale(heatmap_model.HeatmapColorScale.EXPONENTIAL)
            .exponent(0.5)
            .steps(64)
        )
        .with_target(_query(expression, "A").format(PromQueryFormat.HEATMAP).legend_format("{{le}}"))
    )


def number(title: str, expression: str, *, about: str = "", unit: str = "short", width: int = 4) -> stat.Panel:
    """Returns a panel with one number, the current value."""
    target = _query(expression, "A").instant()
    panel = stat.Panel().title(title).description(about).datasource(SOURCE).unit(unit).span(width).height(4)
    return panel.with_target(target)


def rows(title: str, expression: str, columns: Sequence[str], *, about: str = "", width: int = 12) -> table.Panel:
    """Returns a table with a row for each current series, and the labels `columns`."""
    chosen = DataTransformerConfig(id_val="filterFieldsByName", options={"include": {"names": list(columns)}})
    target = _query(expression, "A").instant().format(PromQueryFormat.TABLE)
    panel = table.Panel().title(title).description(about).datasource(SOURCE).span(width).height(_HEIGHT)
    return panel.transformations([chosen]).with_target(target)


def _query(expression: str, reference: str) -> prometheus.Dataquery:
    return prometheus.Dataquery().expr(expression).ref_id(reference).datasource(SOURCE)
