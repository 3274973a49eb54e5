"""``headgate bench`` from its options to its exit status: look at the target, load it, keep, summarize, show.

Exit status: 0 the SLO was met, 1 missed, 2 bad arguments, a target that can't be measured or results that can't be
kept, 130 interrupted (what was seen until then is kept and shown).
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from headgate import __version__
from headgate.workbench.bench import raw, tables, target, view, watch
from headgate.workbench.bench.callers import Caller
from headgate.workbench.bench.load import Load
from headgate.workbench.bench.raw import End, Header, Objective, Place, Plan, Record, Run
from headgate.workbench.bench.summary import Summary, summarize
from headgate.workbench.bench.target import Aim
from headgate.workbench.bench.trace import Entry

MET = 0
MISSED = 1
NOT_MEASURED = 2
INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Job:
    """Everything that a run needs, checked."""

    plan: Plan
    callers: Sequence[Caller]
    objectives: Sequence[Objective]
    entries: Sequence[Entry] = ()
    model: str | None = None
    ignore_eos: str = "auto"
    extra: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""


def bench(job: Job, url: str, kept_in: Path | None, *, as_json: bool) -> int:
    """Run a load on a URL; the exit status."""
    progress = Console(stderr=True, highlight=False)
    try:
        run = measure(job, url, progress)
    except target.Unreachable as error:
        progress.print(f"headgate bench: {error}", style="bold red", markup=False)
        return NOT_MEASURED
    except KeyboardInterrupt:
        return INTERRUPTED  # before the load: there is nothing to keep
    path = kept_in or Path("results") / f"bench-{file_time(run.header.started_at)}.jsonl"
    summary = summarize(run)
    status = INTERRUPTED if run.end.interrupted else MET if summary.met else MISSED
    kept = str(path)
    try:
        raw.write(path, run)
    except OSError as error:
        # What was seen can't be seen again: it is shown all the same.
        kept, status = "not kept", NOT_MEASURED
        progress.print(f"headgate bench: {path} can't be written: {error.strerror}", style="bold red", markup=False)
    if as_json:
        sys.stdout.write(to_json(run, summary, kept, status) + "\n")
    else:
        tables.show(Console(highlight=False), run, summary, kept)
    return status


def measure(job: Job, url: str, console: Console | None, place: Place | None = None) -> Run:
    """Look at a target and load it. Ctrl-C and SIGTERM end the load early.

    Raises:
        Unreachable: it can't be measured.
    """
    aim = target.find(job.plan, url, job.callers, model=job.model, ignore_eos=job.ignore_eos, extra=job.extra)
    started = datetime.now(UTC)
    records, end = carry_out(job, aim, console)
    header = Header(
        headgate=__version__,
        started_at=started.isoformat(timespec="milliseconds"),
        command=job.command,
        plan=job.plan,
        target=aim.target,
        machine=watch.machine(_loop_name()),
        slo=list(job.objectives),
        place=place,
    )
    return Run(header, records, end)


def carry_out(job: Job, aim: Aim, console: Console | None) -> tuple[list[Record], End]:
    """The load, in an event loop of its own."""
    load = Load(job.plan, aim, job.callers, job.entries)

    async def go() -> End:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            with suppress(ValueError, RuntimeError):  # in a thread that is not the main one there are none
                loop.add_signal_handler(number, load.stop)
        return await load.run()

    with (
        _signals_as_they_were(),
        view.shown(console, f"{aim.target.url}  {aim.target.model}", job.plan, load.progress),
        asyncio.Runner(loop_factory=_loop_factory()) as runner,
    ):
        end = runner.run(go())
    return load.records, end


@contextmanager
def _signals_as_they_were() -> Iterator[None]:
    """Put signal handlers back: a closed loop leaves its own, deaf, and Ctrl-C between two loads would be lost."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        with suppress(ValueError):  # not the main thread
            for number, handler in before.items():
                signal.signal(number, handler)


def to_json(run: Run, summary: Summary, kept: str, status: int) -> str:
    """A run for a script."""
    header = run.header
    said = {
        "exit_status": status,
        "raw": kept,
        "started_at": header.started_at,
        "target": header.target,
        "plan": header.plan,
        "summary": summary,
    }
    return msgspec.json.format(msgspec.json.encode(said)).decode()


def file_time(started_at: str) -> str:
    """A moment as part of a file's name; in milliseconds, since two runs may be started in one second."""
    moment = datetime.fromisoformat(started_at)
    return f"{moment:%Y%m%dT%H%M%S}{moment.microsecond // 1000:03d}Z"


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _loop_name() -> str:
    return "asyncio" if _loop_factory() is None else "uvloop"
