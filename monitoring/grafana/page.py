"""What every dashboard has: the grid, ids, variables, links to the others, annotations; and its JSON.

The grid is made of rows whose panels fill 24 columns exactly; a board that doesn't is refused here, when it is written,
and not seen by whoever opens it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard, prometheus

from monitoring.grafana.panels import BLUE, PURPLE, RED, SOURCE
from monitoring.grafana.queries import GATEWAY, series

WIDTH = 24
TAG = "headgate"


@dataclass(frozen=True, slots=True)
class Row:
    """Panels side by side, each with its width; one height for all of them."""

    height: int
    panels: Sequence[tuple[int, dashboard.Panel]]


@dataclass(frozen=True, slots=True)
class Section:
    """Rows under a heading; the first of a board has none."""

    title: str | None
    rows: Sequence[Row]


@dataclass(frozen=True, slots=True)
class Board:
    """A dashboard.

    Args:
        variables: names out of ``VARIABLES``, besides ``datasource`` and ``gateway``, which every board has.
        shown: how far back it looks at first.
    """

    uid: str
    title: str
    description: str
    sections: Sequence[Section]
    variables: Sequence[str] = ()
    shown: str = "now-1h"


VARIABLES: Mapping[str, tuple[str, str, str]] = {
    "gateway": ("Gateway", "label_values(api_max_active, instance)", "Its address, as Prometheus scrapes it."),
    "engine": ("Engine", f"label_values({series('api_engine_up')}, engine)", "e0, e1, …"),
    "model": ("Model", f"label_values({series('api_tokens_total')}, model)", "Served names."),
    "key": ("Key", f"label_values({series('api_tokens_total')}, key)", "Names of keys, or anonymous."),
}
"""By name: what it is called, where its values come from, what they are."""


def to_json(board: Board) -> str:
    """The dashboard as Grafana imports it."""
    made = dashboard.Dashboard(
        uid=board.uid,
        title=board.title,
        description=board.description,
        tags=[TAG],
        timezone="browser",
        editable=True,
        graph_tooltip=dashboard.DashboardCursorSync.CROSSHAIR,
        time=dashboard.DashboardDashboardTime(board.shown, "now"),
        timepicker=dashboard.TimePickerConfig(refresh_intervals=["5s", "10s", "30s", "1m", "5m", "15m"]),
        refresh="10s",
        panels=list(_placed(board)),
        templating=dashboard.DashboardDashboardTemplating(
            [_source(), *(_variable(name) for name in ("gateway", *board.variables))]
        ),
        annotations=dashboard.AnnotationContainer(list(_annotations())),
        links=[
            dashboard.DashboardLink(
                title="Headgate",
                type_val=dashboard.DashboardLinkType.DASHBOARDS,
                icon="external link",
                tags=[TAG],
                include_vars=True,
                keep_time=True,
            )
        ],
    )
    plain = json.loads(json.dumps(made, cls=JSONEncoder))
    return json.dumps(_without_strays(plain), indent=2, ensure_ascii=False) + "\n"


def _placed(board: Board) -> Iterator[dashboard.Panel | dashboard.RowPanel]:
    """Panels and headings with their places and ids, top to bottom."""
    y = number = 0
    for section in board.sections:
        if section.title is not None:
            number += 1
            yield dashboard.RowPanel(title=section.title, id_val=number, grid_pos=dashboard.GridPos(1, WIDTH, 0, y))
            y += 1
        for row in section.rows:
            x = 0
            for width, panel in row.panels:
                number += 1
                panel.id_val = number
                panel.grid_pos = dashboard.GridPos(row.height, width, x, y)
                yield panel
                x += width
            if x != WIDTH:
                raise ValueError(f"{board.title}: a row with {row.panels[0][1].title!r} is {x} columns wide")
            y += row.height


def _source() -> dashboard.VariableModel:
    return dashboard.VariableModel(
        dashboard.VariableType.DATASOURCE,
        name="datasource",
        label="Data source",
        description="The Prometheus that scrapes the gateway.",
        query="prometheus",
        regex="",
        refresh=dashboard.VariableRefresh.ON_DASHBOARD_LOAD,
    )


def _variable(name: str) -> dashboard.VariableModel:
    label, query, description = VARIABLES[name]
    return dashboard.VariableModel(
        dashboard.VariableType.QUERY,
        name=name,
        label=label,
        description=description,
        datasource=SOURCE,
        query={"qryType": 1, "query": query, "refId": f"Variable-{name}"},
        definition=query,
        refresh=dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED,
        sort=dashboard.VariableSort.NATURAL_ASC,
        multi=True,
        include_all=True,
        all_value=".*",
        current=dashboard.VariableOption(text=["All"], value=["$__all"], selected=True),
    )


def _annotations() -> Iterator[dashboard.AnnotationQuery]:
    """What has happened, across every graph. Samples that follow each other become one band."""
    down = series("api_engine_state", 'state=~"backoff|wedged|failed"')
    starting = series("api_engine_state", 'state="starting"')
    for name, color, expr, title, text in (
        ("Engine starting", BLUE, f"{starting} == 1", "{{engine}} starts", "{{instance}}"),
        ("Engine down", RED, f"{down} == 1", "{{engine}}: {{state}}", "{{instance}}"),
    ):
        yield dashboard.AnnotationQuery(
            name=name,
            datasource=SOURCE,
            icon_color=color,
            target=_annotated(expr),
            title_format=title,
            text_format=text,
            tag_keys="engine",
        )
    yield dashboard.AnnotationQuery(
        name="Gateway started",
        datasource=SOURCE,
        icon_color=PURPLE,
        target=_annotated(f'process_start_time_seconds{{job="headgate",{GATEWAY}}} * 1000'),
        title_format="The gateway started",
        text_format="{{instance}}",
        use_value_for_time=True,
    )


def _annotated(expr: str) -> prometheus.Dataquery:
    return prometheus.Dataquery(ref_id="Anno", expr=expr, range_val=True, datasource=SOURCE)


STRAYS = {
    "auto": ("includeAll",),
    "auto_min": ("includeAll",),
    "auto_count": ("includeAll",),
    "placement": ("keepTime", "iconColor"),
    "footer": ("showHeader",),
}
"""Fields that the models write on their own account, and neighbours that tell in what: an interval's on every variable,
a menu's place on links and annotations, a footer that Grafana's tables no longer have.
"""


def _without_strays(node: object) -> object:
    if isinstance(node, dict):
        return {
            name: _without_strays(value)
            for name, value in node.items()
            if not any(neighbour in node for neighbour in STRAYS.get(name, ()))
        }
    if isinstance(node, list):
        return [_without_strays(item) for item in node]
    return node
