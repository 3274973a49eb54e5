"""The command: load and faults at once, rests in between at which the books are compared, and a verdict.

    python -m loadtest.chaos --requests 1000000 --seed 7 --profile long

It ends by itself: after so many requests, or after `--limit-s`. Exit status: 0 all that must hold held, 1 something
did not, 2 bad arguments, 130 interrupted. The raw file has everything, the verdict first.
"""

import argparse
import asyncio
import contextlib
import json
import random
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvloop

from loadtest.chaos.books import Books
from loadtest.chaos.clients import Crowd
from loadtest.chaos.faults import Faults
from loadtest.chaos.plan import KINDS, plan
from loadtest.chaos.report import render
from loadtest.chaos.stage import MAX_ACTIVE, Stage, StageError, get, total, wait
from loadtest.options import count, positive
from loadtest.overhead.bench import REPO
from loadtest.overhead.run import leave, machine, one_of, source

SCHEMA = 1
REST_S = 20.0
"""How long a gateway and its engine may take to come to rest once nobody asks any more."""
MEMORY_FROM = 200_000
"""Requests from which on the memory of the second tenth and of the last are compared: a short life still warms up."""
MEMORY_WITHIN = 0.05
PROGRESS_S = 2.0


@dataclass(frozen=True, slots=True)
class Profile:
    """How dense the faults are. ``load`` is how many requests a fault takes that is made of requests."""

    requests: int
    every: int
    load: int
    rests: int
    at_once: int


PROFILES = {
    "short": Profile(requests=12_000, every=550, load=250, rests=6, at_once=96),
    "long": Profile(requests=1_000_000, every=6_000, load=2_000, rests=40, at_once=128),
}


class Run:
    """One run."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        profile: Profile = options.profile
        self._requests: int = options.requests or profile.requests
        self._seed: int = options.seed
        self._profile = profile
        self._steps = plan(self._seed, self._requests, options.every or profile.every, options.faults)
        self.books = Books(self._requests)
        self.stage = Stage(folder, self.books)
        self.crowd = Crowd(self.stage.port, self._seed, self._requests, profile.at_once, self.books)
        self.crowd.may_send = self._may_send
        self._faults = Faults(self.stage, self.crowd, profile.load)
        self._next = 0
        self._busy = self._resting = False
        self._between = asyncio.Event()
        self._between.set()
        """No fault is being carried out."""
        self.done: list[dict[str, object]] = []
        self.rests: list[dict[str, object]] = []
        self.memory: list[tuple[int, int]] = []
        """Of the present gateway: requests sent so far, resident bytes."""
        self._sent_before = 0
        """Requests of the gateways before this one."""
        self._base: tuple[int, int] = (0, 0)
        self._open_at_end: tuple[int, int] = (0, 0)
        self._counted: dict[str, float] = {}
        self._seen: object = None
        self._began = time.monotonic()

    async def go(self) -> None:
        stage, crowd = self.stage, self.crowd
        await stage.start()
        self._base = await self._open()
        watching = asyncio.create_task(self._watch())
        driving = asyncio.create_task(self._drive())
        try:
            for number in self._rests():
                await crowd.until(number)
                await self._between.wait()
                self._resting = True
                await self._rest(final=number == self._requests)
                self._resting = False
            if self._next < len(self._steps):
                self.books.violate("every fault of the plan", f"{len(self._steps) - self._next} were not carried out")
        finally:
            driving.cancel()
            watching.cancel()
            await asyncio.gather(driving, watching, return_exceptions=True)
        status = await stage.end(signal.SIGTERM)
        if status != 0:
            self.books.violate("an orderly end", f"exit status {status}")

    def _rests(self) -> list[int]:
        """Before each so manieth fault, and at the end: so every fault has the load up to the next one for itself."""
        every = max(1, len(self._steps) // self._profile.rests)
        before = {step.at - 1 for step in self._steps[every::every] if step.at > 1}
        return [*sorted(before - {self._requests}), self._requests]

    # The faults.

    def _may_send(self, number: int) -> bool:
        """The load goes no further than the next fault while one is being carried out, nor past one that is due."""
        ahead = self._next + 1 if self._busy else self._next
        return ahead >= len(self._steps) or number <= self._steps[ahead].at

    async def _drive(self) -> None:
        while self._next < len(self._steps):
            step = self._steps[self._next]
            while self.crowd.sent < step.at or self._resting:  # noqa: ASYNC110  it is the load that is watched
                await asyncio.sleep(0.01)
            self._busy = True
            self._between.clear()
            life = self.stage.life
            began = time.monotonic()
            try:
                note = await self._faults.carry_out(step)
            except (StageError, OSError) as error:
                note = f"not got over: {error}"
                self.books.violate("the gateway gets over it", f"{step.kind} at {step.at}: {error}")
                if not self.stage.lives:
                    await self.stage.start()
            except Exception as error:
                self.books.violate("the gateway gets over it", f"{step.kind} at {step.at}: {error!r}")
                raise
            took_s = time.monotonic() - began
            self.done.append({**asdict(step), "sent": self.crowd.sent, "took_s": round(took_s, 2), "note": note})
            if self.stage.life != life:
                self.memory.clear()
                self._sent_before = self.crowd.sent  # about: some of them may have met the one before
            self._next += 1
            self._busy = False
            self._between.set()

    # The rests.

    async def _rest(self, *, final: bool) -> None:
        """Nobody asks: now nothing may be under way anywhere, and the books must agree."""
        books, stage = self.books, self.stage
        began = time.monotonic()
        for what, look in (
            ("0 slots leaked", self._gate_is_idle),
            ("0 engine work left", self._engine_is_idle),
        ):
            try:
                await wait(look, what, REST_S)
            except StageError:
                books.violate(what, f"after {self.crowd.sent} requests: {self._seen}")
        await asyncio.sleep(0.1)  # the log's lines are written 20 ms after their requests' ends
        stage.read_log(cut=True)
        books.compare(self.crowd.sent)
        await self._metrics()
        for line in books.life.other:
            books.violate("no exception in the gateway", line)
        books.life.other.clear()
        if final:
            await self._files_and_tasks()
        self.rests.append({"sent": self.crowd.sent, "took_s": round(time.monotonic() - began, 2)})

    async def _gate_is_idle(self) -> bool:
        status = await self.stage.status()
        self._seen = {"slots": status["slots"], "queue": status["queue"]}
        return bool(status["slots"]["active"] == 0 and status["queue"]["depth"] == 0 and status["queue"]["bytes"] == 0)

    async def _engine_is_idle(self) -> bool:
        _, port = await self.stage.engine()
        _, body = await get(port, "/simulator/state")
        state: dict[str, int] = json.loads(body)
        self._seen = state
        if state["max_running_seen"] > MAX_ACTIVE:
            self.books.violate("never more than MAX_ACTIVE", f"{state['max_running_seen']} at once on the engine")
        return state["inflight"] == 0 and state["open"] == 0

    async def _metrics(self) -> None:
        """The gateway's own counts against one another and against its log."""
        samples, status = await self.stage.samples(), await self.stage.status()
        books = self.books
        ended = total(samples, "api_requests_total", 'route="/v1/chat/completions"')
        arriving = total(samples, "api_cancelled_total", 'stage="arriving"')
        granted = total(samples, "api_queue_wait_seconds_count", 'outcome="granted"')
        tries = total(samples, "api_engine_requests_total")
        left = total(samples, "api_cancelled_total")
        left_as_ended = total(samples, "api_requests_total", 'reason="client_left"')
        refused = total(samples, "api_refusals_total")
        if tries != granted:
            books.violate("every grant matched", f"{granted:g} grants of slots, {tries:g} tries at an engine ended")
        if status["granted_total"] < granted:
            books.violate(
                "every grant matched", f"the gate granted {status['granted_total']}, the flow took {granted:g}"
            )
        if left != left_as_ended:
            books.violate("one end each", f"{left:g} clients left, {left_as_ended:g} requests ended so")
        missing = ended - arriving - books.life.lines
        if missing < 0 or (missing > 0 and not books.lossy):
            what = f"{ended:g} ends counted, {arriving:g} left while arriving, {books.life.lines} lines in the log"
            books.violate("one end each", what)
        for gauge in ("api_active_requests", "api_queue_depth", "api_queue_bytes", "api_engine_active_requests"):
            if total(samples, gauge):
                books.violate("0 slots leaked", f"{gauge} is {total(samples, gauge):g} at rest")
        self._counted = {
            "ended": ended,
            "lines": books.life.lines,
            "arriving": arriving,
            "grants": granted,
            "granted_by_the_gate": status["granted_total"],
            "tries": tries,
            "left": left,
            "refused": refused,
        }

    async def _open(self) -> tuple[int, int]:
        """Files and tasks that are open while nobody asks, without idle connections to the engine: those are kept."""
        _, port = await self.stage.engine()
        kept = self.stage.connections_to(port)
        if kept > MAX_ACTIVE + 2:
            self.books.violate("files and tasks back to the start", f"{kept} idle connections to the engine")
        return len(self.stage.files()) - kept, await self.stage.tasks()

    async def _files_and_tasks(self) -> None:
        """Both back to what they were at the start of the run."""
        self.crowd.hang_up()
        now = (0, 0)

        async def back() -> bool:
            nonlocal now
            now = await self._open()
            return now[0] <= self._base[0] and now[1] <= self._base[1]

        try:
            await wait(back, "files and tasks are back", REST_S)
        except StageError:
            self.books.violate("files and tasks back to the start", f"(files, tasks) {self._base}, at the end {now}")
        self._open_at_end = now

    # What is seen.

    async def _watch(self) -> None:
        shown_at = 0.0
        while True:
            self.stage.read_log()
            resident = self.stage.resident_bytes()
            if resident and not (self._busy and self._steps[self._next].kind.startswith("gateway_")):
                self.memory.append((self.crowd.sent, resident))
            now = time.monotonic()
            if now - shown_at >= PROGRESS_S:
                shown_at = now
                self._show(resident)
            await asyncio.sleep(0.25)

    def _show(self, resident: int) -> None:
        fault = self._steps[self._next].kind if self._busy else ""
        spent_s = time.monotonic() - self._began
        print(
            f"{spent_s:6.0f} s {self.crowd.sent:>9,} of {self._requests:,}  {self.crowd.sent / spent_s:5.0f}/s"
            f"  {resident / 2**20:6.1f} MiB  fault {self._next}/{len(self._steps)} {fault:<22}"
            f" violations {sum(self.books.broken_rules.values())}"
            f"{', the last: ' + self.books.violations[-1].what[:150] if self.books.violations else ''}",
            file=sys.stderr,
            flush=True,
        )

    def figures(self) -> dict[str, object]:
        memory = self._memory()
        rules = {rule: self.books.broken_rules[rule] for rule in RULES}
        rules |= {rule: count for rule, count in self.books.broken_rules.items() if rule not in RULES}
        return {
            "passed": not self.books.broken_rules,
            "rules": rules,
            "violations": [asdict(violation) for violation in self.books.violations],
            "requests": self.crowd.sent,
            "outcomes": dict(sorted(self.books.seen.items())),
            "gateways": len(self.stage.exits),
            "exits": self.stage.exits,
            "last_gateway": {**self._counted, "first_request": self._sent_before + 1},
            "memory": memory,
            "files_tasks": {"start": self._base, "end": self._open_at_end},
            "garbled_log_lines": self.books.garbled_lines,
            "faults": self.done,
            "rests": self.rests,
            "memory_samples": self.memory[:: max(1, len(self.memory) // 500)],
            "seconds": round(time.monotonic() - self._began, 1),
        }

    def _memory(self) -> dict[str, object]:
        """Of the second and the last tenth of the run, where the last gateway was there for both.

        The lower quartile of each: what leaks is never below it, and a fault that fills memory for a while, in which
        little is sent, may be half of a tenth's time.
        """

        def tenth(number: int) -> float | None:
            low, high = self._requests * (number - 1) // 10, self._requests * number // 10
            within = [resident for sent, resident in self.memory if low < sent <= high]
            return sorted(within)[len(within) // 4] if within and self._sent_before <= low else None

        second, last = tenth(2), tenth(10)
        growth = last / second - 1 if second and last else None
        judged = self._requests >= MEMORY_FROM
        if judged and (growth is None or abs(growth) > MEMORY_WITHIN):
            what = f"second tenth {second}, last tenth {last} bytes" if growth is None else f"{growth:+.1%}"
            self.books.violate("memory flat", what)
        return {"second_tenth": second, "last_tenth": last, "growth": growth, "judged": judged}


RULES = (
    "0 slots leaked",
    "every grant matched",
    "one end each",
    "0 engine work left",
    "never more than MAX_ACTIVE",
    "text intact",
    "memory flat",
    "files and tasks back to the start",
    "nothing left of processes",
    "no exception in the gateway",
    "the gateway gets over it",
    "every fault of the plan",
    "an orderly end",
    "an end in time",
)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    signal.signal(signal.SIGTERM, leave)
    requests = options.requests or options.profile.requests
    limit_s = options.limit_s or 120 + requests / 100
    print(f"seed {options.seed}", file=sys.stderr, flush=True)
    started = datetime.now(UTC)
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:

        async def bounded() -> dict[str, object]:
            run = Run(options, Path(folder))
            try:
                async with asyncio.timeout(limit_s):
                    await run.go()
            except TimeoutError:
                run.books.violate("an end in time", f"not within {limit_s:g} s")
            except StageError as error:
                run.books.violate("an end in time", str(error))
            finally:
                run.stage.kill_all()
            return run.figures()

        try:
            figures = uvloop.run(bounded())
        except KeyboardInterrupt:
            print("interrupted: nothing was kept", file=sys.stderr)
            return 130
        finally:
            if options.keep_log is not None:
                with contextlib.suppress(OSError):
                    options.keep_log.write_bytes((Path(folder) / "gateway.log").read_bytes())
    raw: dict[str, Any] = {
        "schema": SCHEMA,
        "kind": "chaos",
        "started_at": started.isoformat(timespec="seconds"),
        "command": f"python -m loadtest.chaos {shlex.join(sys.argv[1:] if arguments is None else arguments)}",
        "seed": options.seed,
        "machine": machine(),
        "source": source(),
        **figures,
    }
    path = options.results / f"chaos-{started:%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps(raw, indent=1) + "\n")
    print(f"{render(raw)}\nraw figures: {path}")
    return 0 if raw["passed"] else 1


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.chaos", description="Load and faults at once, and whether the gateway's promises held."
    )
    parser.add_argument("--profile", type=_profile, default="short", help=f"{', '.join(PROFILES)} (short)")
    parser.add_argument("--requests", type=count, help="how many in all (the profile's)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31), help="repeats a plan")
    parser.add_argument("--faults", type=one_of(KINDS), default=",".join(KINDS), help=f"of: {', '.join(KINDS)}")
    parser.add_argument("--every", type=count, help="a fault every so many requests (the profile's)")
    parser.add_argument("--limit-s", type=positive, help="longest it may take (120 s and 10 ms a request)")
    parser.add_argument("--results", type=Path, default=REPO / "results", metavar="DIR", help="for the raw file")
    parser.add_argument("--keep-log", type=Path, metavar="FILE", help="where the gateway's last log lines go")
    options = parser.parse_args(arguments)
    if not options.faults:
        parser.error("--faults names none")
    try:
        options.results.mkdir(parents=True, exist_ok=True)  # now, and not when there is something to be kept
        if options.keep_log is not None:
            options.keep_log.open("ab").close()
    except OSError as error:
        parser.error(f"{error.filename} can't be written: {error.strerror}")
    return options


def _profile(name: str) -> Profile:
    if name not in PROFILES:
        raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(PROFILES)}")
    return PROFILES[name]
