"""The committed dashboards are what the generator writes, and are fit to be imported and read."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

from headgate.api.generation import ENDPOINTS
from tests.monitoring.boards import FOLDER, NAMES, board, metrics, panels, queries

ROOT = Path(__file__).parents[2]
GRAFANA = ROOT / "monitoring" / "grafana"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}

BOARDS = pytest.mark.parametrize("name", NAMES)


def test_committed_files_are_what_the_generator_writes(tmp_path: Path) -> None:
    """``make dashboards`` after a change in monitoring/grafana. In a process of its own: its library warns, when it is
    loaded, that a newer form of dashboards would be better.
    """
    subprocess.run([sys.executable, "-m", "monitoring.grafana", str(tmp_path)], check=True, cwd=ROOT, timeout=60)
    written = {path.name: path.read_text() for path in tmp_path.glob("*.json")}
    assert written == {path.name: path.read_text() for path in FOLDER.glob("*.json")}, "run `make dashboards`"
    assert sorted(written) == sorted(f"{name}.json" for name in NAMES)


@BOARDS
def test_dashboard_can_be_imported_anywhere(name: str) -> None:
    """No id of another Grafana's, a uid that stays, the form that is old enough."""
    read = board(name)
    assert read.get("id") is None
    assert read["uid"] == f"headgate-{name}"
    assert read["schemaVersion"] == 42
    assert read["tags"] == ["headgate"]
    assert read["refresh"] == "10s"
    assert read["description"]


@BOARDS
def test_ids_and_ref_ids_are_unique(name: str) -> None:
    read = board(name)
    ids = [panel["id"] for panel in read["panels"]]
    assert ids == list(range(1, len(ids) + 1))
    for panel in panels(read):
        refs = [target["refId"] for target in panel["targets"]]
        assert refs == [chr(ord("A") + number) for number in range(len(refs))], panel["title"]


@BOARDS
def test_panels_fill_the_grid_and_none_covers_another(name: str) -> None:
    cells: Counter[tuple[int, int]] = Counter()
    for panel in board(name)["panels"]:
        place = panel["gridPos"]
        assert 0 <= place["x"] < place["x"] + place["w"] <= 24, panel["title"]
        cells.update(
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        )
    assert set(cells.values()) == {1}, "two panels in one place"
    depth = max(y for _, y in cells) + 1
    assert len(cells) == 24 * depth, "a hole"
    assert depth <= 60, "nobody scrolls so far at three in the morning"


@BOARDS
def test_data_source_is_the_variable_everywhere(name: str) -> None:
    read = board(name)
    for panel in panels(read):
        assert panel["datasource"] == SOURCE, panel["title"]
        assert all(target["datasource"] == SOURCE for target in panel["targets"]), panel["title"]
    for annotation in read["annotations"]["list"]:
        assert annotation["datasource"] == SOURCE
    first, *others = read["templating"]["list"]
    assert (first["name"], first["type"], first["query"]) == ("datasource", "datasource", "prometheus")
    assert all(variable["datasource"] == SOURCE for variable in others)


@BOARDS
def test_every_panel_says_what_it_shows_in_what_unit_and_from_where_on_it_is_bad(name: str) -> None:
    for panel in panels(board(name)):
        title = panel["title"]
        assert 40 <= len(panel["description"]) <= 260, title
        assert panel["description"].endswith("."), title
        defaults = panel["fieldConfig"]["defaults"]
        assert defaults["unit"], title
        steps = defaults["thresholds"]["steps"]
        assert steps[0]["value"] is None, title
        assert [step["value"] for step in steps[1:]] == sorted(step["value"] for step in steps[1:]), title
        if panel["type"] == "stat" and any(step["color"] == "red" for step in steps):
            assert re.search(r"\b[Rr]ed\b", panel["description"]), f"{title} can be red, and doesn't say what then"
        if panel["type"] == "timeseries":
            custom = defaults["custom"]
            assert (len(steps) > 1) == (custom["thresholdsStyle"]["mode"] != "off"), title
            assert panel["options"]["legend"]["showLegend"], title
            assert panel["options"]["tooltip"]["mode"] == "multi", title
        if defaults["unit"] == "percentunit" and panel["type"] == "timeseries":
            assert (defaults["min"], defaults["max"]) == (0, 1), title
        if panel["type"] == "stat":
            assert defaults["noValue"], title


@BOARDS
def test_figure_is_of_now_and_says_what_it_means_that_there_is_none(name: str) -> None:
    """It showed the last number that there had been in the shown time: "50 %" of slots while there was no engine."""
    for panel in panels(board(name)):
        if panel["type"] == "stat":
            (target,) = panel["targets"]
            assert target["instant"] or target["expr"].endswith(" or vector(NaN)"), panel["title"]
            assert panel["options"]["reduceOptions"]["calcs"] == ["last"], panel["title"]
            defaults = panel["fieldConfig"]["defaults"]
            (special,) = [each["options"] for each in defaults["mappings"] if each["type"] == "special"]
            assert (special["match"], special["result"]["text"]) == ("null+nan", defaults["noValue"]), panel["title"]


@BOARDS
def test_every_series_has_a_name(name: str) -> None:
    """A legend of raw labels can't be read."""
    for panel in panels(board(name)):
        if panel["type"] in ("timeseries", "state-timeline"):
            for target in panel["targets"]:
                assert target["legendFormat"], panel["title"]
                for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                    aggregated = re.findall(r"by \(([^)]*)\)", target["expr"])
                    assert not aggregated or any(label in labels for labels in aggregated), (
                        f"{panel['title']}: no label {label} is left"
                    )


@BOARDS
def test_no_field_strays_in_that_belongs_elsewhere(name: str) -> None:
    """What the library writes on its own account: an interval's fields on every variable, a menu's place on links."""
    read = board(name)
    for variable in read["templating"]["list"]:
        assert not {"auto", "auto_min", "auto_count"} & set(variable)
        assert variable.get("hide") in (None, 0)
    for thing in (*read["links"], *read["annotations"]["list"]):
        assert "placement" not in thing
    for panel in panels(read):
        assert "footer" not in panel["options"]


@BOARDS
def test_variables_take_several_values_and_all(name: str) -> None:
    for variable in board(name)["templating"]["list"][1:]:
        assert variable["multi"], variable["name"]
        assert variable["includeAll"], variable["name"]
        assert variable["allValue"] == ".*", "All is whatever there is, also what comes later"
        assert variable["current"]["value"] == ["$__all"]
        used = f"${variable['name']}"
        everywhere = json.dumps(board(name)["panels"])
        assert used in everywhere, f"{used} changes nothing"


@BOARDS
def test_dashboards_lead_to_each_other(name: str) -> None:
    read = board(name)
    (link,) = read["links"]
    assert (link["type"], link["tags"], link["keepTime"], link["includeVars"]) == (
        "dashboards",
        ["headgate"],
        True,
        True,
    )
    uids = {board(other)["uid"] for other in NAMES}
    for panel in panels(read):
        for to in panel.get("links", ()):
            assert re.match(r"/d/([\w-]+)\?", to["url"])[1] in uids  # type: ignore[index]


@BOARDS
def test_few_panels_and_the_figures_first(name: str) -> None:
    read = panels(board(name))
    assert len(read) <= 24
    assert [panel["type"] for panel in read[:6]] == ["stat"] * 6, "the first row answers whether it is well"
    assert len({panel["title"] for panel in read if panel["type"] != "stat"}) == len(
        [panel for panel in read if panel["type"] != "stat"]
    )


def test_titles_are_unique_among_the_dashboards() -> None:
    titles = [board(name)["title"] for name in NAMES]
    assert len(set(titles)) == len(titles) == 6


def test_generation_routes_of_the_queries_are_the_gateways() -> None:
    """The one place where a dashboard lists routes."""
    patterns = {found for query in queries() for found in re.findall(r'route=~"([^"]+)"', query.expr)}
    (pattern,) = patterns
    gated = {path for path, endpoint in ENDPOINTS.items() if endpoint.gated}
    assert {path for path in ENDPOINTS if re.fullmatch(pattern, path)} == gated
    assert not any(re.fullmatch(pattern, path) for path in ("/metrics", "/health", "/v1/models", "/v1/models/x", "/"))


def test_names_of_metrics_are_found_in_an_expression() -> None:
    """The reader of the queries, which others rely on."""
    expr = (
        'sum by (a, b) (rate(api_x_total{c="d(e)",f=~"$g"}[5m])) / on (h) group_left (i) (vllm:y_z > 0) * 1e6'
        ' or label_replace(DCGM_FI_W, "j", "$1", "k", "(.+)") unless clamp_min(up, 0) or vector(1)'
    )
    assert metrics(expr) == {"api_x_total", "vllm:y_z", "DCGM_FI_W", "up"}


def test_provisioning_gives_grafana_the_source_and_the_folder() -> None:
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    assert (source["uid"], source["type"], source["isDefault"]) == ("headgate-prometheus", "prometheus", True)
    scraped = yaml.safe_load((ROOT / "monitoring/prometheus/prometheus.yml").read_text())["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == scraped, "Grafana makes $__rate_interval of it"
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/headgate.yml").read_text())["providers"]
    assert (provider["type"], provider["folder"]) == ("file", "Headgate")


@pytest.mark.parametrize("name", ["prometheus.yml", "prometheus.compose.yml"])
def test_red_line_of_a_scrape_is_where_prometheus_gives_up(name: str) -> None:
    """It stood at Prometheus' default of 10 s, which is never more than the scrape interval."""
    scraping = yaml.safe_load((ROOT / "monitoring/prometheus" / name).read_text())["global"]
    gives_up_s = min(10, int(scraping["scrape_interval"].removesuffix("s")))
    (panel,) = [panel for panel in panels(board("infrastructure")) if panel["title"] == "Time of a scrape"]
    assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"][-1] == {"color": "red", "value": gives_up_s}
    assert f"after {gives_up_s} s" in panel["description"]


def test_docs_say_of_every_metric_which_dashboards_show_it() -> None:
    """docs/observability.md has a row for each, with exactly these dashboards."""
    names = {
        "overview": "Overview",
        "gateway": "Gateway",
        "capacity": "Capacity",
        "llm": "LLM",
        "infrastructure": "Infrastructure",
        "engines": "Engines",
    }
    shown: dict[str, list[str]] = {}
    for query in queries():
        for metric in sorted(metrics(query.expr)) if not query.panel.startswith("annotation") else ():
            boards = shown.setdefault(re.sub(r"_(bucket|sum|count)$", "", metric), [])
            if names[query.board] not in boards:
                boards.append(names[query.board])
    page = (ROOT / "docs/observability.md").read_text().partition("### Where a metric is shown")[2]
    rows = re.findall(r"^\| (`.+?`) \| .+? \| ([A-Z][\w, ]+) \|$", page, re.MULTILINE)
    told = {metric: boards.split(", ") for cell, boards in rows for metric in re.findall(r"`([^`]+)`", cell)}
    # One row may speak of several: it names all their dashboards.
    for cell, boards in rows:
        together = {name for metric in re.findall(r"`([^`]+)`", cell) for name in shown.get(metric, ())}
        assert together == set(boards.split(", ")), cell
    assert set(told) == set(shown)
