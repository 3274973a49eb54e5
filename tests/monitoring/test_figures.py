"""What panels make of series that are made up: queries of the dashboards, evaluated by Prometheus' own tool.

Here is what a house under load doesn't show: several engines, a model that is never served well, figures that are
known.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.monitoring.boards import filled, queries
from tests.tools import tool

EVERY_S = 5
GATEWAY = 'job="headgate",instance="g:1"'


def shows(
    folder: Path,
    asked: tuple[str, str, str],
    seen: Mapping[str, str],
    expected: Mapping[str, float],
    chosen: Mapping[str, Sequence[str]] | None = None,
    form: str = "{}",
) -> None:
    """The query of a panel has these values, a quarter of an hour after the series began.

    Args:
        asked: dashboard, panel and reference of the query.
        seen: series to what ``promtool`` writes for their samples, one each five seconds.
        expected: labels as in PromQL to value.
        chosen: values of variables; All where nothing is picked.
        form: what is asked of the query, which stands for ``{}``.
    """
    (query,) = [each for each in queries() if (each.board, each.panel, each.ref) == asked]
    picked = {"gateway": (), "engine": (), "model": (), "key": (), **(chosen or {})}
    case = {
        "interval": f"{EVERY_S}s",
        "input_series": [{"series": name, "values": values} for name, values in seen.items()],
        "promql_expr_test": [
            {
                "expr": form.replace("{}", f"({filled(query.expr, picked, rate_interval='20s', shown='10m')})"),
                "eval_time": "15m",
                "exp_samples": [{"labels": labels, "value": value} for labels, value in expected.items()],
            }
        ],
    }
    path = folder / "case.yml"
    path.write_text(json.dumps({"evaluation_interval": f"{EVERY_S}s", "tests": [case]}))
    done = subprocess.run(
        [tool("promtool"), "test", "rules", str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_model_of_which_no_answer_is_good_has_none_within_objectives(tmp_path: Path) -> None:
    """It had a dash, as one that nobody asked for."""
    shows(
        tmp_path,
        ("llm", "Models", "B"),
        {
            f'api_slo_requests_total{{{GATEWAY},model="good",result="met"}}': "0+1x180",
            f'api_slo_requests_total{{{GATEWAY},model="good",result="ttft"}}': "0+1x180",
            f'api_slo_requests_total{{{GATEWAY},model="bad",result="ttft"}}': "0+1x180",
        },
        {'{model="good"}': 0.5, '{model="bad"}': 0.0},
    )


def test_engine_that_is_ready_is_not_missing_where_it_is_the_one_that_was_picked(tmp_path: Path) -> None:
    """All engines that should be were compared with the picked ones that are."""
    shows(
        tmp_path,
        ("engines", "Engines missing", "A"),
        {
            f"api_engines_desired{{{GATEWAY}}}": "2+0x180",
            f'api_engine_up{{{GATEWAY},engine="e0"}}': "1+0x180",
            f'api_engine_up{{{GATEWAY},engine="e1"}}': "0+0x180",
        },
        {"{}": 0.0},
        {"engine": ["e0"]},
    )


def test_share_of_slots_is_no_number_while_there_is_none(tmp_path: Path) -> None:
    """Not nothing, in whose place the last number before would be shown."""
    seen = {
        f"api_active_requests{{{GATEWAY}}}": "4+0x90 0+0x90",
        f"api_max_active{{{GATEWAY}}}": "8+0x90 0+0x90",
    }
    shows(tmp_path, ("overview", "Slots in use", "A"), seen, {"{}": 1}, form="count({} != {})")


def test_heat_of_waits_is_how_many_a_second_as_its_unit_says(tmp_path: Path) -> None:
    """It was how many in the rate's window, four scrapes or more."""
    shows(
        tmp_path,
        ("capacity", "Waits, all of them", "A"),
        {f'api_queue_wait_seconds_bucket{{{GATEWAY},outcome="granted",le="1.0"}}': f"0+{2 * EVERY_S}x180"},
        {'{le="1.0"}': 2.0},
    )
