"""``headgate conformance`` from its options to its exit status.

0: every claim that applies was kept; 1: one was not; 2: bad arguments; 3: the gateway could not be tried; 130:
interrupted.

A gateway that we start is started anew for each setting of its limits, and after a case that failed: each case is
judged by itself. One that somebody else runs can't be, and what follows a failure may be its consequence; that is said.
"""

from __future__ import annotations

import asyncio
import resource
import signal
import ssl
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from rich.console import Console
from rich.status import Status

from headgate import __version__
from headgate.workbench.compare.start import NotStarted
from headgate.workbench.conformance import report as report_
from headgate.workbench.conformance.caller import Address
from headgate.workbench.conformance.claims import Claim
from headgate.workbench.conformance.engine import MODEL, Engine, Gauges, Scripted
from headgate.workbench.conformance.peers import Launch, Stand
from headgate.workbench.conformance.promises import WORDS, Promises, of_status
from headgate.workbench.conformance.report import Report
from headgate.workbench.conformance.site import Site
from headgate.workbench.conformance.start import calm, started, until_it_serves
from headgate.workbench.conformance.verdict import Broken, Inapplicable, Result, Verdict

PASSED, FAILED, NOT_TRIED, INTERRUPTED = 0, 1, 3, 130
POINTED_WITHIN_S = 120.0
_SERVES_WITHIN_S = 1.0
_CASE_S = 180.0
_DESCRIPTORS = 16_384


@dataclass(frozen=True, slots=True)
class Trial:
    """What is asked for."""

    claims: Sequence[Claim]
    promises: Promises
    name: str
    again: str
    how: Callable[[Stand], Launch] | None = None
    url: str | None = None
    """With no slash at its end and no /v1."""
    environments: tuple[Path, ...] = ()
    engine_port: int | None = None
    engine_metrics: str | None = None
    model: str | None = None
    key: str | None = None
    streams: int = 1000
    patience_s: float = 20.0
    rounds: int = 1


@dataclass(slots=True)
class _Seen:
    results: list[Result] = field(default_factory=list)
    version: str = ""
    interrupted: bool = False


def run(trial: Trial, *, as_json: bool) -> int:
    """Try everything; the exit status."""
    console = Console(stderr=True, highlight=False)
    _many_descriptors()
    seen = _Seen()
    broke_off = False
    with suppress(ValueError):  # not the main thread
        signal.signal(signal.SIGTERM, _as_ctrl_c)  # or what was started would outlive this process
    try:
        asyncio.run(_all(trial, seen, console))
    except KeyboardInterrupt:
        seen.interrupted = True
    except (NotStarted, httpx.HTTPError, OSError) as error:
        console.print(f"headgate: {trial.name} could not be tried: {error}", style="bold red", markup=False)
        if not seen.results:
            return NOT_TRIED
        broke_off = True
    engine = "vLLM's gauges" if trial.engine_metrics else "scripted" if trial.how or trial.engine_port else "not seen"
    listed = [claim.name for claim in trial.claims]
    seen.results.sort(key=lambda result: (result.round, listed.index(result.case)))
    found = Report(trial.name, seen.version, engine, __version__, seen.results, seen.interrupted)
    if as_json:
        sys.stdout.write(report_.as_json(found) + "\n")
    else:
        report_.show(Console(highlight=False), found, trial.again)
    if seen.interrupted:
        return INTERRUPTED
    if broke_off:
        return NOT_TRIED
    return FAILED if found.count(Verdict.FAIL) else PASSED


def _as_ctrl_c(*_: object) -> None:
    raise KeyboardInterrupt


def _many_descriptors() -> None:
    """A thousand streams take as many here, and twice as many in the gateway, which inherits the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(_DESCRIPTORS, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def _all(trial: Trial, seen: _Seen, console: Console) -> None:
    with tempfile.TemporaryDirectory(prefix="headgate-conformance-") as name:
        folder = Path(name)
        async with _engine(trial, folder) as engine:
            for round_ in range(1, trial.rounds + 1):
                await _Round(trial, engine, folder, seen, console, round_).all()


@asynccontextmanager
async def _engine(trial: Trial, folder: Path) -> AsyncIterator[Engine | None]:
    """What is behind the gateway, running."""
    if trial.how is None and trial.engine_port is None:
        gauges = Gauges(trial.engine_metrics) if trial.engine_metrics else None
        if gauges is not None:
            await gauges.open()
        yield gauges
        return
    scripted = Scripted(folder, trial.engine_port or 0)
    try:
        await scripted.start()
        yield scripted
    finally:
        await scripted.close()


class _Round:
    """Every claim once."""

    def __init__(
        self, trial: Trial, engine: Engine | None, folder: Path, seen: _Seen, console: Console, round_: int
    ) -> None:
        self._trial, self._engine, self._folder = trial, engine, folder
        self._seen, self._console, self._round = seen, console, round_
        self._done = 0

    async def all(self) -> None:
        trial = self._trial
        if trial.how is None:
            site = await self._somebody_elses()
            for claim in trial.claims:
                await self._one(claim, site)
            return
        for limits in dict.fromkeys(claim.under for claim in trial.claims):
            await self._under(limits, [claim for claim in trial.claims if claim.under is limits])

    async def _under(self, limits: Promises, claims: Sequence[Claim]) -> None:
        """The claims of one setting; the gateway is started anew when something is left of a case."""
        trial = self._trial
        assert trial.how is not None
        assert isinstance(self._engine, Scripted)
        left = list(claims)
        while left:
            async with AsyncExitStack() as stack:
                with self._busy(f"starting {trial.name}"):
                    site, launch = await stack.enter_async_context(
                        started(trial.how, limits, self._engine, self._folder, trial.environments)
                    )
                self._seen.version = launch.version
                site.streams = trial.streams
                site.promises = site.promises.but(trial.promises)
                fresh = True
                while left and fresh:
                    fresh = await self._one(left.pop(0), site)
            await self._engine.start()  # nothing of the gateway before is on it

    async def _somebody_elses(self) -> Site:
        """The gateway at a URL, and what it says of itself."""
        trial = self._trial
        assert trial.url is not None
        parts = urlsplit(trial.url)
        tls = parts.scheme == "https"
        address = Address(parts.hostname or "127.0.0.1", parts.port or (443 if tls else 80), parts.path, tls)
        if isinstance(self._engine, Scripted):
            self._console.print(
                f"The scripted engine listens on {self._engine.url}/v1 as {MODEL}: point {trial.url} at it.",
                markup=False,
                soft_wrap=True,
            )
        promises, version = await _says(trial)
        self._seen.version = version
        model = trial.model or (MODEL if isinstance(self._engine, Scripted) else await _first_model(trial))
        site = Site(address, promises.but(trial.promises), model, trial.key, self._engine, streams=trial.streams)
        self._console.print(f"It is held to: {report_.promised(site.promises)}.", markup=False, soft_wrap=True)
        with self._busy("waiting until it serves"):
            await until_it_serves(site, POINTED_WITHIN_S if isinstance(self._engine, Scripted) else _SERVES_WITHIN_S)
        return site

    async def _one(self, claim: Claim, site: Site) -> bool:
        """Try a claim; whether the gateway can be tried further as it is."""
        began = time.monotonic()
        with self._busy(f"{self._done + 1}/{len(self._trial.claims)} {claim.name}: {claim.says}"):
            verdict, said, evidence = await self._judged(claim, site)
        result = Result(
            claim.name, claim.says, verdict, said, evidence, round(time.monotonic() - began, 2), self._round
        )
        self._seen.results.append(result)
        self._done += 1
        if verdict is Verdict.FAIL or not (self._console.is_terminal and sys.stdout.isatty()):
            # A person who will see the table below in this terminal needs but the failures now.
            self._console.print(report_.line(result, self._done, len(self._trial.claims)), soft_wrap=True)
        stopped = claim.name == "drain" and verdict is not Verdict.NOT_APPLICABLE
        ours = self._trial.how is not None
        if verdict is Verdict.NOT_APPLICABLE:
            site.close()
            return True
        if ours and (verdict is Verdict.FAIL or stopped):
            return False
        with self._busy(f"{claim.name}: until all is quiet"):
            quiet = await calm(site, self._engine)
        if not quiet and not ours:
            self._console.print("    it does not come to rest: what follows may be its consequence", style="yellow")
        return quiet or not ours

    async def _judged(self, claim: Claim, site: Site) -> tuple[Verdict, str, dict[str, object]]:
        why = _does_not_apply(claim, site)
        if why:
            return Verdict.NOT_APPLICABLE, why, {}
        try:
            async with asyncio.timeout(_CASE_S):
                kept = await claim.run(site, self._trial.patience_s)
        except Inapplicable as missing:
            return Verdict.NOT_APPLICABLE, missing.why, {}
        except Broken as broken:
            return Verdict.FAIL, broken.said, broken.evidence
        except TimeoutError:
            return Verdict.FAIL, f"the case had no end within {_CASE_S:g} s", {}
        finally:
            site.close()
        return Verdict.PASS, kept.said, kept.evidence

    def _busy(self, what: str) -> Status:
        """Something that moves, in a terminal."""
        return Status(what, console=self._console, spinner="dots")


def _does_not_apply(claim: Claim, site: Site) -> str | None:
    """Why a claim can't be judged here; None where it can."""
    if claim.script and not isinstance(site.engine, Scripted):
        return "needs the scripted engine behind it (--engine-port)"
    if claim.engine and site.engine is None:
        return "needs to see the engine (--engine-port, or --engine-metrics)"
    missing = [WORDS[name] for name in claim.promises if getattr(site.promises, name) is None]
    return f"it promises no {missing[0]}" if missing else None


async def _says(trial: Trial) -> tuple[Promises, str]:
    """What a Headgate says of its limits, and its version; nothing where it is none."""
    async with _client(trial) as http:
        with suppress(httpx.HTTPError, ValueError, AttributeError):
            status = (await http.get(f"{trial.url}/status")).raise_for_status().json()
            return of_status(status), str(status.get("version", ""))
    return Promises(), ""


def _client(trial: Trial) -> httpx.AsyncClient:
    headers = {"authorization": f"Bearer {trial.key}"} if trial.key else {}
    trusted = ssl.create_default_context() if (trial.url or "").startswith("https:") else True  # as the cases trust
    return httpx.AsyncClient(trust_env=False, timeout=10.0, headers=headers, verify=trusted)


async def _first_model(trial: Trial) -> str:
    async with _client(trial) as http:
        try:
            listed = (await http.get(f"{trial.url}/v1/models")).raise_for_status().json()["data"]
            return str(listed[0]["id"])
        except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
            raise NotStarted(f"{trial.url}/v1/models names no model ({error}): give --model") from None
