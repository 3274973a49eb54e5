"""How a panel looks. Each function here is one kind of panel; where it stands and its ids are the page's matter.

A panel always has a title, a description (what it shows, and what to do when it is red), a unit and thresholds. Made of
Grafana's own models and not of its builders: those hide legends and overflow the grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.models import common, dashboard, heatmap, prometheus, stat, statetimeline, table, timeseries

SOURCE = common.DataSourceRef("prometheus", "${datasource}")

GREEN, YELLOW, ORANGE, RED = "green", "yellow", "orange", "red"
BLUE, PURPLE, GREY, TEXT = "blue", "purple", "#8e8e8e", "text"

Steps = Mapping[float, str]
"""From which value on a colour holds; below the first it is green, or the ``base`` that is said."""

RESULTS = {
    "met": GREEN,
    "refused": ORANGE,
    "failed": RED,
    "ttft": YELLOW,
    "itl": "#c7b42c",
    "latency": "#a68c0d",
    "left": GREY,
}
"""Colours of how an answer ended, the same everywhere."""


@dataclass(frozen=True, slots=True)
class Query:
    """One expression of a panel.

    Args:
        legend: the name of its series; ``{{label}}`` is replaced.
        color: of all its series; Grafana's palette where it is none.
        limit: it is a limit or an objective: drawn as a thin dashed line that is never filled.
        exemplars: mark the requests that Prometheus kept as examples.
        at_end: ask only for its value at the end of what is shown.
    """

    expr: str
    legend: str = ""
    color: str | None = None
    limit: bool = False
    exemplars: bool = False
    at_end: bool = False


def figure(
    title: str,
    description: str,
    expr: str,
    unit: str,
    steps: Steps | None = None,
    *,
    base: str = GREEN,
    legend: str = "",
    empty: str = "no data",
    decimals: int | None = None,
    spark: bool = True,
    maximum: float | None = None,
    texts: Mapping[float, str] | None = None,
    to: str | None = None,
) -> dashboard.Panel:
    """One number of now, its background the colour of its step, with its course behind it.

    Prometheus leaves out what isn't there, and the last that was there is no number of now. So where a course is drawn,
    what isn't there is not-a-number, and the last of that course is shown whatever it is.

    Args:
        empty: said where there is no value.
        spark: draw the course; off for what is a total over the shown time.
        texts: words for some values.
        to: uid of the dashboard that tells more.
    """
    query = Query(f"{expr} or vector(NaN)" if spark else expr, legend, at_end=not spark)
    panel = _panel("stat", title, description, [query], unit, steps, base)
    defaults = _defaults(panel)
    defaults.no_value = empty
    defaults.decimals = decimals
    defaults.min_val, defaults.max_val = 0, maximum
    defaults.color = dashboard.FieldColor(dashboard.FieldColorModeId.THRESHOLDS)
    words = {f"{value:g}": dashboard.ValueMappingResult(text=text) for value, text in (texts or {}).items()}
    defaults.mappings = [
        *([dashboard.ValueMap(words)] if words else []),
        dashboard.SpecialValueMap(
            dashboard.DashboardSpecialValueMapOptions(
                match=dashboard.SpecialValueMatch.NULL_AND_NAN,
                result=dashboard.ValueMappingResult(text=empty, color=GREY),
            )
        ),
    ]
    panel.options = stat.Options(
        graph_mode=common.BigValueGraphMode.AREA if spark else common.BigValueGraphMode.NONE,
        color_mode=common.BigValueColorMode.BACKGROUND if steps else common.BigValueColorMode.NONE,
        text_mode=common.BigValueTextMode.NAME if legend else common.BigValueTextMode.VALUE,
        reduce_options=common.ReduceDataOptions(values=False, calcs=["last"], fields=""),
    )
    if to is not None:
        url = f"/d/{to}?${{__url_time_range}}&${{gateway:queryparam}}&${{datasource:queryparam}}"
        panel.links = [dashboard.DashboardLink(title="More", type_val=dashboard.DashboardLinkType.LINK, url=url)]
    return panel


def course(
    title: str,
    description: str,
    queries: Sequence[Query],
    unit: str,
    steps: Steps | None = None,
    *,
    stacked: bool = False,
    bars: bool = False,
    colors: Mapping[str, str] | None = None,
    minimum: float | None = 0,
    maximum: float | None = None,
    soft_maximum: float | None = None,
    decimals: int | None = None,
    log: bool = False,
) -> dashboard.Panel:
    """Lines over time; ``steps`` are drawn across it.

    Args:
        colors: by the name of a series.
        soft_maximum: the axis goes at least so far, so that little noise doesn't look like much.
    """
    panel = _panel("timeseries", title, description, queries, unit, steps, GREEN if steps else TEXT)
    defaults = _defaults(panel)
    defaults.min_val, defaults.max_val, defaults.decimals = minimum, maximum, decimals
    defaults.color = dashboard.FieldColor(dashboard.FieldColorModeId.PALETTE_CLASSIC)
    lines = common.GraphThresholdsStyleMode
    defaults.custom = common.GraphFieldConfig(
        draw_style=common.GraphDrawStyle.BARS if bars else common.GraphDrawStyle.LINE,
        line_width=1,
        fill_opacity=60 if stacked or bars else 10,
        show_points=common.VisibilityMode.NEVER,
        span_nulls=False,
        axis_soft_max=soft_maximum,
        stacking=common.StackingConfig(
            mode=common.StackingMode.NORMAL if stacked else common.StackingMode.NONE, group="A"
        ),
        thresholds_style=common.GraphThresholdsStyleConfig(mode=lines.DASHED if steps else lines.OFF),
        scale_distribution=common.ScaleDistributionConfig(
            type_val=common.ScaleDistribution.LOG if log else common.ScaleDistribution.LINEAR, log=10 if log else None
        ),
    )
    overrides = _overrides(panel)
    for name, color in (colors or {}).items():
        overrides.append(_override("byName", name, color=_fixed(color)))
    for ref, query in zip(_refs(queries), queries, strict=True):
        if query.limit:
            overrides.append(
                _override(
                    "byFrameRefID",
                    ref,
                    color=_fixed(query.color or RED),
                    **{
                        "custom.lineStyle": common.LineStyle(fill="dash", dash=[8, 6]),
                        "custom.fillOpacity": 0,
                        "custom.stacking": common.StackingConfig(mode=common.StackingMode.NONE, group="limits"),
                        "custom.drawStyle": common.GraphDrawStyle.LINE,
                    },
                )
            )
        elif query.color:
            overrides.append(_override("byFrameRefID", ref, color=_fixed(query.color)))
    panel.options = timeseries.Options(
        legend=_legend(calcs=[] if stacked or bars else ["lastNotNull"]),
        tooltip=common.VizTooltipOptions(mode=common.TooltipDisplayMode.MULTI, sort=common.SortOrder.DESCENDING),
    )
    return panel


def states(
    title: str,
    description: str,
    queries: Sequence[Query],
    names: Mapping[int, tuple[str, str]],
) -> dashboard.Panel:
    """A band for each series, in the colour of its state.

    Args:
        names: number to word and colour.
    """
    steps = {float(number): color for number, (_, color) in names.items()}
    panel = _panel("state-timeline", title, description, queries, "none", steps, GREY)
    defaults = _defaults(panel)
    defaults.color = dashboard.FieldColor(dashboard.FieldColorModeId.THRESHOLDS)
    defaults.mappings = [
        dashboard.ValueMap(
            {
                str(number): dashboard.ValueMappingResult(text=word, color=color, index=index)
                for index, (number, (word, color)) in enumerate(names.items())
            }
        )
    ]
    defaults.custom = statetimeline.FieldConfig(line_width=0, fill_opacity=80)
    panel.options = statetimeline.Options(
        show_value=common.VisibilityMode.AUTO,
        merge_values=True,
        row_height=0.8,
        legend=common.VizLegendOptions(
            display_mode=common.LegendDisplayMode.LIST, placement=common.LegendPlacement.BOTTOM, show_legend=True
        ),
        tooltip=common.VizTooltipOptions(mode=common.TooltipDisplayMode.SINGLE),
    )
    return panel


def warmth(title: str, description: str, expr: str, unit: str) -> dashboard.Panel:
    """A histogram over time; the darker the more. ``expr`` is the rate of its buckets by ``le``."""
    panel = _panel("heatmap", title, description, [Query(expr, "{{le}}")], unit, None, TEXT)
    target = panel.targets[0] if panel.targets else None
    assert isinstance(target, prometheus.Dataquery)
    target.format_val = prometheus.PromQueryFormat.HEATMAP
    _defaults(panel).custom = heatmap.FieldConfig(
        scale_distribution=common.ScaleDistributionConfig(type_val=common.ScaleDistribution.LINEAR)
    )
    panel.options = heatmap.Options(
        color=heatmap.HeatmapColorOptions(
            mode=heatmap.HeatmapColorMode.SCHEME, scheme="Oranges", fill="dark-orange", exponent=0.5, steps=64
        ),
        cell_values=heatmap.CellValues(unit="reqps"),
        y_axis=heatmap.YAxisConfig(unit=unit, axis_placement=common.AxisPlacement.LEFT),
        legend=heatmap.HeatmapLegend(show=True),
        tooltip=heatmap.HeatmapTooltip(mode=common.TooltipDisplayMode.SINGLE, y_histogram=False),
        exemplars=heatmap.ExemplarConfig(color="rgba(255,0,255,0.7)"),
        filter_values=heatmap.FilterValueRange(le=1e-9),
    )
    return panel


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: its name, where its values come from, how they are shown."""

    name: str
    expr: str
    unit: str
    steps: Steps | None = None


def rows(
    title: str, description: str, columns: Sequence[Column], by: str, heading: str, *, sort: str
) -> dashboard.Panel:
    """A table with a row for each value of the label ``by``, as of the end of what is shown."""
    queries = [Query(column.expr, at_end=True) for column in columns]
    panel = _panel("table", title, description, queries, "short", None, TEXT)
    defaults = _defaults(panel)
    defaults.no_value = "–"
    defaults.custom = _cells()
    refs = _refs(queries)
    for target in panel.targets or ():
        assert isinstance(target, prometheus.Dataquery)
        target.format_val = prometheus.PromQueryFormat.TABLE
    names = {f"Value #{ref}" if len(refs) > 1 else "Value": c.name for ref, c in zip(refs, columns, strict=True)}
    panel.transformations = [
        dashboard.DataTransformerConfig("joinByField", options={"byField": by, "mode": "outer"}),
        dashboard.DataTransformerConfig(
            "filterFieldsByName",
            options={"include": {"names": [by, *names]}},
        ),
        dashboard.DataTransformerConfig("organize", options={"renameByName": {by: heading, **names}}),
    ]
    for column in columns:
        more: dict[str, object] = {"unit": column.unit}
        if column.steps:
            more["thresholds"] = _thresholds(column.steps, GREEN)
            more["custom.cellOptions"] = {"type": "color-text"}
            more["color"] = dashboard.FieldColor(dashboard.FieldColorModeId.THRESHOLDS)
        _overrides(panel).append(_override("byName", column.name, **more))
    panel.options = table.Options(
        show_header=True,
        cell_height=common.TableCellHeight.SM,
        sort_by=[common.TableSortByFieldState(display_name=sort, desc=True)],
    )
    return panel


def labels_table(title: str, description: str, expr: str, columns: Mapping[str, str], *, empty: str) -> dashboard.Panel:
    """A table of series by their labels alone.

    Args:
        columns: label to heading, in this order.
    """
    panel = _panel("table", title, description, [Query(expr, at_end=True)], "string", None, TEXT)
    target = panel.targets[0] if panel.targets else None
    assert isinstance(target, prometheus.Dataquery)
    target.format_val = prometheus.PromQueryFormat.TABLE
    defaults = _defaults(panel)
    defaults.no_value = empty
    defaults.custom = _cells()
    panel.transformations = [
        dashboard.DataTransformerConfig("filterFieldsByName", options={"include": {"names": list(columns)}}),
        dashboard.DataTransformerConfig(
            "organize",
            options={
                "indexByName": {label: index for index, label in enumerate(columns)},
                "renameByName": dict(columns),
            },
        ),
    ]
    words = {"critical": ("critical", RED), "warning": ("warning", ORANGE), "info": ("info", BLUE)}
    mapping = dashboard.ValueMap(
        {word: dashboard.ValueMappingResult(text=text, color=color) for word, (text, color) in words.items()}
    )
    _overrides(panel).append(
        _override("byName", columns["severity"], mappings=[mapping], **{"custom.cellOptions": {"type": "color-text"}})
    )
    panel.options = table.Options(
        show_header=True,
        cell_height=common.TableCellHeight.SM,
    )
    return panel


# What they are made of.


def _panel(
    kind: str, title: str, description: str, queries: Sequence[Query], unit: str, steps: Steps | None, base: str
) -> dashboard.Panel:
    return dashboard.Panel(
        kind,
        title=title,
        description=description,
        datasource=SOURCE,
        targets=[_target(ref, query) for ref, query in zip(_refs(queries), queries, strict=True)],
        field_config=dashboard.FieldConfigSource(
            dashboard.FieldConfig(unit=unit, thresholds=_thresholds(steps or {}, base)), []
        ),
    )


def _target(ref: str, query: Query) -> prometheus.Dataquery:
    return prometheus.Dataquery(
        ref_id=ref,
        datasource=SOURCE,
        editor_mode=prometheus.QueryEditorMode.CODE,
        expr=query.expr,
        legend_format=query.legend or None,
        instant=query.at_end,
        range_val=not query.at_end,
        exemplar=query.exemplars,
    )


def _refs(queries: Sequence[Query]) -> list[str]:
    return [chr(ord("A") + number) for number in range(len(queries))]


def _thresholds(steps: Steps, base: str) -> dashboard.ThresholdsConfig:
    first = dashboard.Threshold(None, base)
    rest = [dashboard.Threshold(value, color) for value, color in sorted(steps.items())]
    return dashboard.ThresholdsConfig(dashboard.ThresholdsMode.ABSOLUTE, [first, *rest])


def _defaults(panel: dashboard.Panel) -> dashboard.FieldConfig:
    assert panel.field_config is not None
    return panel.field_config.defaults


def _overrides(panel: dashboard.Panel) -> list[dashboard.DashboardFieldConfigSourceOverrides]:
    assert panel.field_config is not None
    return panel.field_config.overrides


def _override(matcher: str, what: str, **properties: object) -> dashboard.DashboardFieldConfigSourceOverrides:
    return dashboard.DashboardFieldConfigSourceOverrides(
        matcher=dashboard.MatcherConfig(matcher, options=what),
        properties=[dashboard.DynamicConfigValue(name, value) for name, value in properties.items()],
    )


def _fixed(color: str) -> dashboard.FieldColor:
    return dashboard.FieldColor(dashboard.FieldColorModeId.FIXED, fixed_color=color)


def _cells() -> common.TableFieldOptions:
    return common.TableFieldOptions(
        align=common.FieldTextAlignment.AUTO, cell_options=common.TableAutoCellOptions(), inspect=False
    )


def _legend(calcs: list[str]) -> common.VizLegendOptions:
    return common.VizLegendOptions(
        display_mode=common.LegendDisplayMode.LIST,
        placement=common.LegendPlacement.BOTTOM,
        show_legend=True,
        calcs=calcs,
    )
