"""Every query of the dashboards, asked of a real Prometheus that watches a real gateway under load.

Each must bring something: a metric that is renamed, a label that goes, a join that doesn't match leaves a panel empty,
and nobody sees it before the night in which it is needed.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from tests.monitoring.boards import NAMES, Asked, board, filled, metrics, queries, variables
from tests.monitoring.conftest import House
from tests.wire.gateway import wait_until

STEP_S = 1
RATE_INTERVAL = "5s"
"""What Grafana makes of a scrape interval of a second: four of them, and one more for a scrape that is late."""

MAY_BE_ZERO = {
    ("capacity", "Slots of each engine", "B"),
    ("gateway", "Gateway CPU", "B"),
    ("infrastructure", "Gateway CPU", "B"),
    ("infrastructure", "Gateways down", "A"),
    ("infrastructure", "Rules that fail", "A"),
    ("infrastructure", "GPU faults", "C"),
    ("llm", "What the gateway adds", "A"),
}
"""Where 0 is what is hoped for; that their metrics exist is checked all the same."""

ALL: Mapping[str, Sequence[str]] = {"gateway": (), "engine": (), "model": (), "key": ()}


def shown(house: House, expr: str, chosen: Mapping[str, Sequence[str]]) -> str:
    """An expression on a dashboard that shows everything since the start."""
    since_s = math.ceil(time.time() - house.began)
    return filled(expr, chosen, rate_interval=RATE_INTERVAL, shown=f"{since_s}s")


def seen(house: House, query: Asked, chosen: Mapping[str, Sequence[str]]) -> list[float]:
    """The numbers that a panel would draw now, of the series that it can name."""
    expr = shown(house, query.expr, chosen)
    if query.at_end:
        rows = [{**row, "values": [row["value"]]} for row in house.asked.query(expr)]
    else:
        rows = house.asked.range(expr, house.began, time.time(), STEP_S)
    named = [row for row in rows if all(row["metric"].get(label) for label in query.named_by)]
    return [number for row in named for _, value in row["values"] if math.isfinite(number := float(value))]


def until_seen(house: House, query: Asked, chosen: Mapping[str, Sequence[str]]) -> None:
    """Until a panel has something to draw; the load goes on meanwhile."""

    def look() -> bool:
        found = seen(house, query, chosen)
        return bool(found) if (query.board, query.panel, query.ref) in MAY_BE_ZERO else any(found)

    wait_until(look, f"{query} has something to show: {query.expr}")


@pytest.mark.parametrize("query", list(queries()), ids=str)
def test_query_has_something_to_show(house: House, query: Asked) -> None:
    until_seen(house, query, ALL)


@pytest.mark.parametrize("query", list(queries()), ids=str)
def test_query_has_something_to_show_for_one_of_each(house: House, query: Asked) -> None:
    """With one value picked in every variable, as somebody does who follows a trail."""
    address = f"127.0.0.1:{house.gate.port}"
    one = {"gateway": [address], "engine": ["e0"], "model": ["headgate-simulated"], "key": ["default", "admin"]}
    until_seen(house, query, one)


def test_what_is_picked_narrows() -> None:
    """And a value that there isn't leaves nothing: the variable is really in the query."""
    for query in queries():
        names = set(re.findall(r"\$(gateway|engine|model|key)\b", query.expr))
        known = {"gateway", *variables(board(query.board))}
        assert names <= known, f"{query} uses a variable that its dashboard doesn't have"
        narrowed = {metric for metric in metrics(query.expr) if metric.startswith(("api_", "gpu_", "vllm:"))}
        assert not narrowed or "$gateway" in query.expr, f"{query} shows every gateway, whichever is picked"


def test_every_metric_that_is_asked_for_exists(house: House) -> None:
    """A sum of what isn't there can still be 0: names are checked by themselves."""
    wanted = {metric: query for query in queries() for metric in metrics(query.expr)}

    def missing() -> dict[str, str]:
        names = set(house.asked.get("label/__name__/values"))
        return {metric: str(query) for metric, query in wanted.items() if metric not in names}

    wait_until(lambda: not missing(), f"every metric exists; missing: {missing()}")


@pytest.mark.parametrize("name", NAMES)
def test_variables_have_values(house: House, name: str) -> None:
    for variable in variables(board(name)).values():
        values = label_values(house, variable["query"]["query"])
        assert values, variable
        expected = {
            "gateway": f"127.0.0.1:{house.gate.port}",
            "engine": "e0",
            "model": "headgate-simulated",
            "key": "default",
        }
        assert expected[variable["name"]] in values


def label_values(house: House, query: str) -> set[str]:
    """What Grafana's ``label_values(series, label)`` finds."""
    found = re.fullmatch(r"label_values\((.+), (\w+)\)", query)
    assert found, query
    selector = shown(house, found[1], ALL)
    rows: list[dict[str, Any]] = house.asked.get("series", **{"match[]": selector})
    return {row[found[2]] for row in rows if found[2] in row}


def test_each_gpu_is_shown_once_although_two_tell_of_it(house: House) -> None:
    """The exporter knows GPU 0, the gateway both: the second is the gateway's own reading."""
    (query,) = [q for q in queries() if (q.board, q.panel) == ("infrastructure", "GPU use")]
    expr = shown(house, query.expr, ALL)
    found = {row["metric"]["gpu"]: float(row["value"][1]) for row in house.asked.until(expr)}
    assert found == {"0": 0.87, "1": 0.12}


def test_requests_are_kept_as_examples_of_slow_first_tokens(house: House) -> None:
    def kept() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = house.asked.get(
            "query_exemplars", query="api_time_to_first_token_seconds_bucket", start=time.time() - 60, end=time.time()
        )
        return found

    (*_, family) = wait_until(kept, "Prometheus kept examples")
    assert family["exemplars"][0]["labels"]["request"].startswith("hg-")
