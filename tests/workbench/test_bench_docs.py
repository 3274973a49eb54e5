"""docs/benchmarking.md is tied to the commands: what it names exists, what people see first is in it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import click
import pytest

from headgate.simulator.cli import main as simulate
from headgate.workbench.bench import slo
from headgate.workbench.bench.arrivals import shape
from headgate.workbench.bench.command import bench
from headgate.workbench.bench.workload import WORKLOADS
from headgate.workbench.compare.command import compare
from headgate.workbench.fitting.command import fit
from headgate.workbench.report.command import report

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "benchmarking.md").read_text()


def flags(command: click.Command, *, hidden: bool) -> set[str]:
    return {
        flag
        for option in command.params
        if isinstance(option, click.Option) and (hidden or not option.hidden)
        for flag in (*option.opts, *option.secondary_opts)
    }


def test_every_flag_on_the_page_exists() -> None:
    known = set().union(*(flags(command, hidden=True) for command in (bench, compare, report, simulate, fit)))
    of_vllm = {"--max-num-seqs"}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE)) - {"--help", "--fit"} <= known | of_vllm


@pytest.mark.parametrize(
    "flag", ["--rate", "--users", "--arrivals", "--workload", "--trace", "--duration", "--requests"]
)
def test_what_people_see_first_is_explained(flag: str) -> None:
    assert flag in flags(bench, hidden=False)
    assert f"`{flag}" in PAGE


@pytest.mark.parametrize("kind", WORKLOADS)
def test_every_workload_has_its_row(kind: str) -> None:
    assert re.search(rf"^\| `{kind}` \|", PAGE, re.MULTILINE)


def test_the_slo_file_and_the_rates_on_the_page_can_be_used() -> None:
    (block,) = re.findall(r"```toml\n(latency.*?)```", PAGE, re.DOTALL)
    names = [objective.name for objective in slo.parse(tomllib.loads(block), "the page")]
    assert names[0] == "latency_p95_s"
    assert "refusals_percent" in names
    for given in re.findall(r"--rate ([\w:,.-]+)", PAGE):
        assert shape(given, 10).mean_rate > 0
