"""``headgate report``: made from raw files and nothing else, well drawn, and fit to be opened anywhere."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from html import escape
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from playwright.sync_api import Browser, sync_playwright

from headgate.cli import main
from headgate.workbench.bench import raw
from headgate.workbench.bench.raw import (
    CallerPlan,
    End,
    Header,
    Objective,
    Outcome,
    Place,
    Plan,
    Record,
    Run,
    Target,
    Try,
)
from headgate.workbench.report.axis import counted, percent, seconds
from headgate.workbench.report.chart import HEIGHT, WIDTH, Chart, shortened
from headgate.workbench.report.markdown import markdown
from headgate.workbench.report.series import cumulative, per_second
from tests.tools import tool
from tests.workbench.running import environment

SLO = [Objective("latency_p95_s", 2.0), Objective("ttft_p95_s", 0.5), Objective("errors_percent", 0.1)]


def made(target: str = "queue, 4 slots", rate: str = "5", round_: int = 1, slower: float = 1.0, **more: object) -> Run:
    """A run of forty requests, four of them refused, one cut."""
    header = Header(
        headgate="0.1.0",
        started_at=f"2026-11-21T12:0{round_}:00.000+00:00",
        command=f"headgate compare --rate {rate} --seed 1",
        plan=Plan(rate=rate, duration_s=8.0, seed=1, callers=[CallerPlan("alice"), CallerPlan("bob")]),
        target=Target(url="http://127.0.0.1:8080", path="/v1/chat/completions", model="m", server="Headgate 0.1.0"),
        slo=SLO,
        place=Place(comparison="c", target=target, round=round_),
    )
    records = []
    for n in range(40):
        at_s, caller = n * 0.2, "alice" if n % 3 else "bob"
        if n % 10 == 9:
            refused = Record(n=n, at_s=at_s, outcome=Outcome.REFUSED, status=429, reason="queue_full", latency_s=0.002)
            records.append(msgspec.structs.replace(refused, caller=caller))
            continue
        ttft_s = 0.05 + 0.01 * n * slower
        records.append(
            Record(
                n=n,
                at_s=at_s,
                caller=caller,
                outcome=Outcome.OK if n != 15 else Outcome.ERROR,
                status=200,
                reason="" if n != 15 else "cut",
                ttft_s=ttft_s,
                latency_s=ttft_s + 0.5 * slower,
                tokens=11,
                prompt_tokens=200,
                gaps_ms=[50.0 * slower] * 10,
                late_s=0.001,
            )
        )
    run = Run(header, records, End(span_s=9.0, offered_s=8.0, cpu_s=0.2, lags_ms=[1.0] * 9, max_in_flight=5))
    return msgspec.structs.replace(run, **more) if more else run


def keep(folder: Path, *runs: Run) -> list[Path]:
    paths = []
    for number, run in enumerate(runs, 1):
        paths.append(folder / f"run-{number}.jsonl")
        raw.write(paths[-1], run)
    return paths


def report(*arguments: str | Path) -> str:
    done = CliRunner().invoke(main, ["report", *map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done.output


def html(folder: Path, *runs: Run) -> str:
    keep(folder, *runs)
    report(folder)
    return (folder / "report.html").read_text()


COMPARED = (
    made(),
    made("reject, 4 slots", slower=2.0),
    made(rate="9", slower=3.0),
    made("reject, 4 slots", rate="9", slower=4.0),
    made(round_=2, slower=1.2),
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return html(tmp_path_factory.mktemp("report"), *COMPARED)


def test_a_report_is_made_only_from_raw_files_and_changes_with_them(tmp_path: Path) -> None:
    """In an empty folder, by a process of its own, with the raw file and nothing else in the world."""
    (path,) = keep(tmp_path, made())
    command = [sys.executable, "-m", "headgate", "report", "run-1.jsonl", "--html", "a.html", "--markdown", "a.md"]

    def shown() -> tuple[str, str]:
        for name in ("a.html", "a.md"):
            (tmp_path / name).unlink(missing_ok=True)
        assert [one.name for one in tmp_path.iterdir()] == ["run-1.jsonl"]
        subprocess.run(command, cwd=tmp_path, env=environment(), check=True, capture_output=True, timeout=30)
        return (tmp_path / "a.html").read_text(), (tmp_path / "a.md").read_text()

    before = shown()
    assert shown() == before, "the same file gives the same report"
    text = path.read_text()
    slowest = max(record.latency_s for record in made().records if record.outcome is Outcome.OK)
    assert text.count(f'"latency_s":{slowest},') == 1
    path.write_text(text.replace(f'"latency_s":{slowest},', '"latency_s":7.5,'))
    after = shown()
    assert figure(after[0], "Latency") != figure(before[0], "Latency"), "the line goes further"
    assert figure(after[0], "Time to first token") == figure(before[0], "Time to first token"), "that was not touched"
    assert after[1] != before[1]
    path.write_text(text.replace('"reason":"queue_full"', '"reason":"sunspots"', 1))
    assert "refused: 429 sunspots: 1 of 40" in shown()[0]


def figure(page: str, title: str) -> str:
    """What is drawn under a title."""
    (found,) = re.findall(rf"<figure><figcaption><h2>{re.escape(escape(title))}</h2>.*?</figure>", page)
    drawn = re.search(r"<svg.*</svg>", found)
    assert drawn is not None
    return drawn[0]


def test_every_figure_and_table_of_results_names_its_raw_files(page: str) -> None:
    for block in re.findall(r"<figure>.*?</figure>|<section>.*?</section>", page):
        title = re.search(r"<h2>(.*?)</h2>", block)
        assert title is not None
        if title[1] not in ("Commands", "Raw files"):
            assert re.search(r'class="source">.*run-\d\.jsonl', block), title[1]
    (over,) = re.findall(r"<figure><figcaption><h2>Throughput.*?</figure>", page)
    assert [f"run-{n}.jsonl" in over for n in range(1, 7)] == [True] * 5 + [False]
    (latency,) = re.findall(r"<h2>Latency, 9 requests/s, poisson arrivals</h2>.*?</figure>", page)
    assert set(re.findall(r"run-\d", latency)) == {"run-3", "run-4"}


def test_all_the_figures_are_there(page: str) -> None:
    titles = re.findall(r"<figure><figcaption><h2>(.*?)</h2>", page)
    assert titles[0] == "Throughput and goodput over offered load"
    kinds = ["What became of requests", "Latency", "Time to first token", "Inter-token latency", "Over time"]
    assert titles[1:] == [f"{kind}, {rate} requests/s, poisson arrivals" for rate in (5, 9) for kind in kinds]
    assert "SLO 2.0 s" in page
    assert "1.000" not in page
    assert "Jain, tokens" in page


def test_drawings_are_well_formed_and_lie_within_their_frame(page: str) -> None:
    drawings = re.findall(r"<svg.*?</svg>", page)
    assert len(drawings) == 11
    for drawing in drawings:
        root = ElementTree.fromstring(drawing)
        _, _, wide, high = map(float, root.attrib["viewBox"].split())
        assert wide == WIDTH
        assert "nan" not in drawing
        assert "inf" not in re.sub(r"<title>.*?</title>|<text.*?</text>|aria-label=\"[^\"]*\"", "", drawing)
        for part in root.iter():
            for name, limit in (
                ("cx", wide),
                ("x1", wide),
                ("x2", wide),
                ("x", wide),
                ("cy", high),
                ("y1", high),
                ("y2", high),
                ("y", high),
            ):
                if name in part.attrib:
                    assert -1e-6 <= float(part.attrib[name]) <= limit
            for x, y in re.findall(r"([\d.-]+) ([\d.-]+)", part.attrib.get("d", "")):
                assert 0 <= float(x) <= wide
                assert 0 <= float(y) <= high


def test_the_page_opens_with_no_network_and_runs_no_script(page: str) -> None:
    assert not re.search(r"<script|<link|<img|<iframe|@import|url\(|src=|href=|\son\w+=\"", page)
    assert "prefers-color-scheme:dark" in page


def test_what_a_target_or_a_server_is_called_is_never_markup(tmp_path: Path) -> None:
    evil = '<script>alert("x")</script>|`*'
    bad = Record(n=99, at_s=0.0, outcome=Outcome.ERROR, status=500, reason=evil, latency_s=1.0)
    run = made(evil)
    header = msgspec.structs.replace(
        run.header, command=evil, target=msgspec.structs.replace(run.header.target, model=evil)
    )
    shown = html(tmp_path, Run(header, [*run.records, bad], run.end))
    assert "<script" not in shown
    assert escape(evil) in shown
    for drawing in re.findall(r"<svg.*?</svg>", shown):
        ElementTree.fromstring(drawing)
    tables = re.sub(r"```.*?```", "", report(tmp_path / "run-1.jsonl", "--markdown", "-"), flags=re.DOTALL)
    assert "<script" not in tables
    for block in tables.split("\n\n"):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines() if line.startswith("|")}
        assert len(widths) <= 1, "an unescaped | would be a column more"


def test_markdown_has_no_markup_of_others() -> None:
    """A name could be a link to anywhere, and a command end its block."""
    names = {
        "[x](http://evil)": r"\[x](http://evil)",
        "_a_ queue_max __b__": r"\_a\_ queue_max \_\_b\_\_",
        "a & &lt;b> ~~c~~": r"a &amp; &amp;lt;b> \~\~c\~\~",
        "<i>|\\`*": r"&lt;i>\|\\\`\*",
    }
    assert markdown("t", list(names), [], [], []) == "\n\n".join(["# t", *names.values()]) + "\n"
    assert markdown("t", [], [], [], ["a ```", "````"]).endswith("`````sh\na ```\n````\n`````\n")


def test_a_page_is_written_as_it_says_wherever_it_is(tmp_path: Path) -> None:
    """In the character set of the place, which may lack what is in it, while the page says utf-8."""
    keep(tmp_path, made())
    command = [sys.executable, "-m", "headgate", "report", "run-1.jsonl"]
    ascii_only = environment(LC_ALL="C", PYTHONUTF8="0")
    subprocess.run(command, cwd=tmp_path, env=ascii_only, check=True, capture_output=True, timeout=30)
    assert "≤ 2.0 s" in (tmp_path / "report.html").read_bytes().decode()


def test_markdown_says_what_the_page_says(tmp_path: Path) -> None:
    keep(tmp_path, *COMPARED)
    text = report(tmp_path, "--markdown", "-")
    assert "## Results, 5 requests/s, poisson arrivals" in text
    assert "<sub>from run-1.jsonl, run-5.jsonl, run-2.jsonl</sub>" in text
    assert "| reject, 4 slots | 0 of 1 |" in text
    assert "headgate compare --rate 9 --seed 1" in text
    shown = re.sub(r"<[^>]+>", " ", html(tmp_path, *COMPARED))
    for figures in re.findall(r"\d+ ms|\d\.\d s", text):
        assert figures in shown


def test_runs_that_asked_for_different_things_are_no_rounds_of_one_load(tmp_path: Path) -> None:
    """Prompts of 100 and of 800 tokens, at one rate, were rounds of one load, with a median over both."""

    def asking(tokens: int) -> Run:
        run = made()
        plan = msgspec.structs.replace(run.header.plan, input_tokens=tokens)
        return Run(msgspec.structs.replace(run.header, plan=plan), run.records, run.end)

    keep(tmp_path, asking(100), asking(800), asking(800))
    text = report(tmp_path, "--markdown", "-")
    for tokens, sources in ((100, "run-1.jsonl"), (800, "run-2.jsonl, run-3.jsonl")):
        load = f"5 requests/s, poisson arrivals; fixed: {tokens} tokens in, 200 out, streamed"
        (section,) = re.findall(rf"## Results, {load}\n.*?<sub>from (.*?)</sub>", text, re.DOTALL)
        assert section == sources


def test_what_was_due_is_shown_where_something_was(tmp_path: Path) -> None:
    """Of a closed loop it was what the first target had answered in time."""
    run = made()
    users = msgspec.structs.replace(run.header.plan, rate=None, users=4)
    closed = Run(msgspec.structs.replace(run.header, plan=users), run.records, run.end)
    assert "dotted, what was due in it." in html(tmp_path / "open", run)
    assert "dotted" not in html(tmp_path / "closed", closed)


def test_another_slo_can_judge_what_was_measured(tmp_path: Path) -> None:
    keep(tmp_path, made())
    (tmp_path / "slo.toml").write_text("latency_p95_s = 60\nrefusals_percent = 20\n")
    assert "| yes |" in report(tmp_path, "--markdown", "-", "--slo", tmp_path / "slo.toml")
    assert "| no |" in report(tmp_path, "--markdown", "-")


def test_those_who_came_again_and_a_client_that_was_late_are_told_of(tmp_path: Path) -> None:
    run = made()
    told = Try(at_s=0.0, status=429, reason="queue_full", took_s=0.001, retry_after_s=1.0)
    records = [msgspec.structs.replace(record, tries=[told], late_s=0.5) for record in run.records]
    header = msgspec.structs.replace(run.header, plan=msgspec.structs.replace(run.header.plan, obey_retry_after=True))
    shown = html(tmp_path, Run(header, records, run.end))
    assert "40 were refused at first, 35 of them answered in the end" in shown
    assert "this client was late itself" in shown


@pytest.mark.parametrize(
    "change",
    [
        lambda run: Run(run.header, [], run.end),
        lambda run: Run(run.header, run.records[:1], run.end),
        lambda run: Run(run.header, [run.records[9]], run.end),
        lambda run: Run(run.header, run.records, msgspec.structs.replace(run.end, offered_s=0.0, span_s=0.0)),
        lambda run: Run(run.header, run.records * 30, run.end),
        lambda run: Run(msgspec.structs.replace(run.header, place=None, slo=[]), run.records, run.end),
    ],
    ids=["nobody", "one", "only a refusal", "no time", "many", "no place and no SLO"],
)
def test_odd_runs_make_a_report_too(tmp_path: Path, change: Callable[[Run], Run]) -> None:
    shown = html(tmp_path, change(made()))
    for drawing in re.findall(r"<svg.*?</svg>", shown):
        ElementTree.fromstring(drawing)
        assert "nan" not in drawing


def test_many_targets_are_drawn_a_few_at_a_time(tmp_path: Path) -> None:
    shown = html(tmp_path, *(made(f"target {n}") for n in range(19)))
    assert len(re.findall(r"<h2>Latency</h2>", shown)) == 3


@pytest.mark.parametrize(
    ("content", "why"),
    [("{}", "no raw result"), ("", "no first line"), (None, "no raw results (*.jsonl) in it")],
)
def test_what_is_no_raw_file_is_one_line_and_2(tmp_path: Path, content: str | None, why: str) -> None:
    if content is not None:
        (tmp_path / "a.jsonl").write_text(content)
    done = CliRunner().invoke(main, ["report", str(tmp_path)])
    assert done.exit_code == 2
    assert why in done.output
    assert len(done.output.splitlines()) == 1


def test_two_files_of_one_name_would_be_mixed_up_and_are_refused(tmp_path: Path) -> None:
    for name in "ab":
        keep(tmp_path / name, made())
    done = CliRunner().invoke(main, ["report", str(tmp_path / "a"), str(tmp_path / "b")])
    assert done.exit_code == 2
    assert "two raw files are called run-1.jsonl" in done.output


VALUES = st.lists(st.floats(1e-6, 1e5), min_size=1, max_size=50)


@settings(deadline=None)
@given(VALUES, st.booleans())
def test_marks_of_an_axis_lie_on_it_in_order_and_there_are_a_few(values: list[float], log: bool) -> None:
    for axis in (seconds(values, "x", may_log=log), counted(values, "x"), percent("x")):
        places = [axis.at(mark) for mark, _ in axis.ticks()]
        assert all(before < after for before, after in pairwise(places))
        assert 1 <= len(places) <= 12
        texts = [text for _, text in axis.ticks()]
        assert len(set(texts)) == len(texts)
        assert all(0 <= axis.at(value) <= 1 for value in values)


@settings(deadline=None)
@given(VALUES, st.integers(0, 100))
def test_a_cumulative_line_rises_to_the_share_that_has_a_value(values: list[float], without: int) -> None:
    count = len(values) + without
    points = cumulative(values, count)
    assert all(a[0] <= b[0] and a[1] <= b[1] for a, b in pairwise(points))
    assert points[0][1] == 0
    assert points[-1][0] == max(values)
    assert points[-1][1] == pytest.approx(len(values) / count)


@settings(deadline=None)
@given(st.lists(st.floats(0, 100.0), max_size=200))
def test_rates_over_time_add_up_to_what_there_was(times: list[float]) -> None:
    points = per_second(times, 100.0, 1)
    width = points[1][0]
    assert per_second([100.0], 100.0, 1)[-1][1] * width == pytest.approx(1), "the last answer ends with the run"
    assert sum(value * width for _, value in points) == pytest.approx(len(times))


def test_a_chart_keeps_inside_whatever_lies_outside() -> None:
    chart = Chart(counted([10.0], "x"), counted([10.0], "y"), "t")
    chart.line([(-5, -5), (1e9, inf)], 0)
    chart.mark_x(99, "beyond is not shown")
    drawn = chart.svg()
    assert "beyond" not in drawn
    assert f"{HEIGHT}" in drawn
    assert "inf" not in drawn


def test_a_long_name_keeps_its_end() -> None:
    assert shortened("short", 20) == "short"
    long = shortened("queue_order=fair, max_active=16, queue_max=8", 26)
    assert len(long) <= 26
    assert long.endswith("queue_max=8")


def test_the_page_is_legible_in_a_browser_light_and_dark(page: str, tmp_path: Path) -> None:
    path = tool("chromium")
    (tmp_path / "r.html").write_text(page)
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        light, dark = (looked(browser, (tmp_path / "r.html").as_uri(), scheme) for scheme in ("light", "dark"))
        browser.close()
    assert light > 200 > 60 > dark


def looked(browser: Browser, url: str, scheme: Any) -> float:
    """How bright the page is, once it has been seen to be legible."""
    said: list[str] = []
    shown = browser.new_page(viewport={"width": 900, "height": 800}, color_scheme=scheme, offline=True)
    shown.on("console", lambda message: said.append(message.text))
    shown.on("requestfailed", lambda request: said.append(request.url))
    shown.goto(url)
    assert shown.evaluate("document.documentElement.scrollWidth") <= 900, "wide tables scroll by themselves"
    colours = shown.evaluate(
        "(({backgroundColor, color}) => [backgroundColor, color])(getComputedStyle(document.body))"
    )
    background, ink = map(brightness, colours)
    assert abs(background - ink) > 150
    labels = shown.evaluate("[...document.querySelectorAll('svg text')].map(t => t.getBoundingClientRect().height)")
    assert min(labels) >= 9, "in pixels"
    assert said == []
    return background


def brightness(colour: str) -> float:
    """Of ``rgb(…)``."""
    red, green, blue = map(int, re.findall(r"\d+", colour)[:3])
    return 0.3 * red + 0.6 * green + 0.1 * blue
