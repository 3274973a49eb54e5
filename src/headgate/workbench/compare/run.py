"""``headgate compare`` from its options to its exit status.

0: every target was measured in every round; 1: something was not, and it says what; 2: bad arguments; 130: interrupted.
It passes no verdict: which of two is better is for whoever looks at the table.
"""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from headgate.workbench.bench import raw
from headgate.workbench.bench.raw import Place, Plan, Run
from headgate.workbench.bench.run import INTERRUPTED, Job, file_time, measure
from headgate.workbench.bench.target import Unreachable
from headgate.workbench.compare.medians import Figure, Row, judged, rows
from headgate.workbench.compare.start import Engine, NotStarted, running
from headgate.workbench.compare.targets import Candidate, rotated
from headgate.workbench.top.words import rate, span

MEASURED = 0
NOT_ALL = 1


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything that is compared. ``loads``: (rate, users), one of them None."""

    job: Job
    candidates: Sequence[Candidate]
    loads: Sequence[tuple[str | None, int | None]]
    rounds: int
    engine: Engine
    ready_within_s: float


@dataclass(slots=True)
class _Seen:
    runs: list[Run]
    failures: list[str]
    interrupted: bool = False


def compare(what: Comparison, out: Path | None, *, as_json: bool) -> int:
    """Measure everybody; the exit status."""
    console = Console(stderr=True, highlight=False)
    started = file_time(datetime.now(UTC).isoformat(timespec="milliseconds"))
    folder = out or Path("results") / f"compare-{started}"
    count = len(what.candidates) * len(what.loads) * what.rounds
    about_s = count * (what.job.plan.duration_s + 3)
    console.print(
        f"{count} runs in {what.rounds} rounds, about {span(about_s)}; results in {folder}",
        markup=False,
        soft_wrap=True,
    )
    seen = _measure(what, folder, started, console)
    found = rows(judged(seen.runs))
    if as_json:
        said = {"folder": str(folder), "failures": seen.failures, "rows": found}
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(said)).decode() + "\n")
    else:
        show(Console(highlight=False), found, seen.failures, folder)
    if seen.interrupted:
        return INTERRUPTED
    return NOT_ALL if seen.failures or len(seen.runs) < count else MEASURED


def results_in(folder: Path) -> list[Path]:
    """The raw results in a folder; none where there is no such folder."""
    return sorted(path for path in folder.glob("*") if path.name.endswith(raw.SUFFIXES))


def _measure(what: Comparison, folder: Path, comparison: str, console: Console) -> _Seen:
    seen = _Seen([], [])
    with suppress(ValueError):  # not the main thread
        signal.signal(signal.SIGTERM, _as_ctrl_c)  # or what was started would outlive this process
    try:
        for round_ in range(1, what.rounds + 1):
            for candidate in rotated(what.candidates, round_):
                _round(what, candidate, round_, folder, comparison, console, seen)
                if seen.interrupted:
                    return seen
    except KeyboardInterrupt:
        seen.interrupted = True
    return seen


def _as_ctrl_c(*_: object) -> None:
    raise KeyboardInterrupt


def _round(
    what: Comparison,
    candidate: Candidate,
    round_: int,
    folder: Path,
    comparison: str,
    console: Console,
    seen: _Seen,
) -> None:
    """One target in one round: started once, under each load."""
    name = f"round {round_}, {candidate.name}"
    try:
        with ExitStack() as stack:
            url = stack.enter_context(running(candidate, what.engine, what.ready_within_s))
            for number, (rate_, users) in enumerate(what.loads):
                plan = plan_of(what.job.plan, rate_, users, round_, candidate.name, number)
                place = Place(
                    comparison=comparison, target=candidate.name, round=round_, settings=shown(candidate.settings)
                )
                run = measure(replace(what.job, plan=plan), url, console, place)
                if run.end.interrupted:
                    seen.interrupted = True
                    return
                stem = file_names([one.name for one in what.candidates])[candidate.name]
                path = folder / f"{stem}-{number + 1}-round{round_}.jsonl"
                raw.write(path, run)
                seen.runs.append(msgspec.structs.replace(run, source=path.name))
                console.print(f"{name}: {_in_short(run)}", markup=False, soft_wrap=True)
    except (NotStarted, Unreachable, OSError) as error:
        seen.failures.append(f"{name}: {error}")
        console.print(f"{name}: {error}", style="bold red", markup=False, soft_wrap=True)


def plan_of(plan: Plan, rate_: str | None, users: int | None, round_: int, target: str, load: int) -> Plan:
    """The plan of one run: in a round the same arrivals and lengths for all, and words of its own for each."""
    seed = plan.seed + round_ - 1
    salt = f"{seed}/{target}/{load}"
    return msgspec.structs.replace(plan, rate=rate_, users=users, seed=seed, salt=salt)


def shown(settings: Mapping[str, str]) -> dict[str, str]:
    """Settings as they are kept: without keys."""
    return {name: "…" if name.endswith("_key") else value for name, value in settings.items()}


def file_name(name: str) -> str:
    """A target's name, fit for a file's."""
    return re.sub(r"[^A-Za-z0-9._=-]+", "_", name).strip("_")[:80] or "target"


def file_names(targets: Sequence[str]) -> dict[str, str]:
    """A file's name for each target's; one that is another's already gets a number, or the two would share a file."""
    found: dict[str, str] = {}
    for target in targets:
        stem = file_name(target)
        before = sum(file_name(other) == stem for other in found)
        found[target] = f"{stem}~{before + 1}" if before else stem
    return found


def show(console: Console, found: Sequence[Row], failures: Sequence[str], folder: Path) -> None:
    """Print the table of each load."""
    for load in dict.fromkeys(row.load for row in found):
        console.print(Text(f"\n{load}", "bold"))
        console.print(_table([row for row in found if row.load == load]))
    if any(row.rounds > 1 for row in found):
        console.print(
            Text("\nMedian of the rounds (least–most). Where two ranges overlap, they were not told apart.", "dim")
        )
    for failure in failures:
        console.print(Text(f"not measured: {failure}", "bold red"))
    console.print(f"\nraw results: {folder}\na report:    headgate report {folder}/*.jsonl", markup=False)


def _table(found: Sequence[Row]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("target", style="cyan", overflow="fold")
    names = ["answered\n/s", "goodput\n/s", "p95", "TTFT\np95", "refused"]
    fair = any(row.jain_tokens.median is not None for row in found)
    wrong = any(row.errors.median for row in found)
    for name in [*names, *(["errors"] if wrong else []), *(["Jain"] if fair else []), "SLO\nmet"]:
        table.add_column(name, justify="right", no_wrap=True)
    for row in found:
        cells = [
            _cell(row.answered_per_s, rate),
            _cell(row.goodput_per_s, rate),
            _cell(row.latency_p95_s, span),
            _cell(row.ttft_p95_s, span),
            _cell(row.refused, _percent),
            *([_cell(row.errors, _percent)] if wrong else []),
            *([_cell(row.jain_tokens, "{:.3f}".format)] if fair else []),
        ]
        met = Text(f"{row.met} of {row.rounds}", "green" if row.met == row.rounds else "red")
        table.add_row(Text(row.target), *cells, met)
    return table


def _cell(figure: Figure, words: Callable[[float], str]) -> str:
    """The median, and under it the range."""
    return "\n".join(filter(None, figure.in_words(words)))


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _in_short(run: Run) -> str:
    (row,) = rows(judged([run]))
    return (
        f"{row.load}: {rate(row.answered_per_s.median or 0)} answered/s, p95 {span(row.latency_p95_s.median)}, "
        f"{_percent(row.refused.median or 0)} refused"
    )
