"""The command: CPU of the gateway's process for each scrape, idle and under streams, one line for each page.

Streams cost CPU of their own, so each figure is the difference of two windows of the same length, one after the other:
one in which nobody scrapes, and one in which so many scrapes are spread evenly. What a scrape merely does earlier than
it would be done anyway (gathering the gaps between events) is in both. CPU is the kernel's clock of the process.

The engine, the client and the way in which processes are started and metered are those of `loadtest.overhead`.

    python -m loadtest.scrape
"""

import argparse
import http.client
import json
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from loadtest.options import count, positive
from loadtest.overhead.bench import REPO, Cores, RoundError, free_ports, wait_until_healthy, wait_until_serving
from loadtest.overhead.client import Job, job_line
from loadtest.overhead.processes import Process
from loadtest.overhead.run import leave, machine, one_of, say, source
from loadtest.overhead.targets import Absent, Site, headgate
from loadtest.overhead.wire import MODEL

READY_WITHIN_S = 60.0
PAGES = {
    "text": ("/metrics", ""),
    "openmetrics": ("/metrics", "application/openmetrics-text; version=1.0.0"),
    "json": ("/metrics?format=json", ""),
    "status": ("/status", ""),
}


@dataclass(frozen=True, slots=True)
class Window:
    """What the gateway burned in a time."""

    cpu_s: float
    wall_s: float


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one page: ms of CPU a scrape in each round, and its size."""

    page: str
    streams: int
    rounds_ms: list[float]
    size_bytes: int

    @property
    def median_ms(self) -> float:
        return statistics.median(self.rounds_ms)


def cost_ms(quiet: Window, scraping: Window, scrapes: int) -> float:
    """CPU of one scrape: what the second window has more than the first would have had in its time."""
    return (scraping.cpu_s - quiet.cpu_s * scraping.wall_s / quiet.wall_s) / scrapes * 1e3


class Scraper:
    """One keep-alive connection to the gateway, as Prometheus has it."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def get(self, path: str, accept: str = "") -> bytes:
        self._connection.request("GET", path, headers={"accept": accept} if accept else {})
        reply = self._connection.getresponse()
        body = reply.read()
        if reply.status != 200:
            raise RoundError(f"{path} answered {reply.status}")
        return body


class Bench:
    """The gateway between its engine and its clients, for one run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._cores = Cores.choose(pin=True)
        self._started: list[Process] = []

    def start(self, settings: Mapping[str, str] | None = None) -> None:
        """Engine and gateway, up to the first answer; raises RoundError where they don't come.

        Args:
            settings: of the gateway, in its environment.
        """
        folder = self._folder
        engine = self._start("upstream", self._cores.engine)
        engine_port = int(json.loads(engine.read_line(READY_WITHIN_S))["port"])
        wait_until_serving(engine_port, engine, folder / "upstream.log")
        port, spare = free_ports(2)
        launch = headgate(Site(engine_port, port, spare, folder, (), MODEL))
        if isinstance(launch, Absent):
            raise RoundError(launch.why)
        log = folder / "headgate.log"
        env = {**launch.env, **(settings or {})}
        self.gateway = Process(launch.argv, cores=self._cores.gateway, env=env, cwd=folder, log=log)
        self._started.append(self.gateway)
        self.port = port
        wait_until_healthy(f"http://127.0.0.1:{port}{launch.health}", self.gateway, log)
        wait_until_serving(port, self.gateway, log)
        self.scraper = Scraper(port)
        self._use_every_route()

    def _use_every_route(self) -> None:
        """So that the page has the series of a gateway that is in use, and of each way to go wrong at its door."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        document = json.loads(self.scraper.get("/openapi.json"))
        for path, methods in document["paths"].items():
            if path.endswith("/events"):
                continue  # an answer without an end
            for method, body in (("POST", "{"), ("POST", '{"model":"x"}')) if "post" in methods else (("GET", ""),):
                connection.request(method, path, body, {"content-type": "application/json"})
                connection.getresponse().read()

    def stream(self, count: int, interval_ms: float) -> Process:
        """So many streams that run until this process is stopped."""
        client = self._start("client", self._cores.client)
        job = Job(
            port=self.port,
            stream=True,
            at_once=count,
            requests=count,
            limit_s=3600,
            events=1_000_000,
            interval_ms=interval_ms,
            stagger_s=min(2.0, count / 500),
        )
        client.write_line(job_line(job))
        client.read_line(READY_WITHIN_S)
        client.write_line(b"go\n")
        self.until_active(count)
        return client

    def until_active(self, count: int) -> None:
        self.until(count, self.active, "streams")

    def until(self, count: int, ask: Callable[[], int], what: str) -> None:
        """Wait until the gateway says that there are so many; raises RoundError where it never does."""
        give_up_at = time.monotonic() + READY_WITHIN_S
        while ask() != count:
            if time.monotonic() > give_up_at:
                raise RoundError(f"there were never {count} {what}")
            time.sleep(0.05)

    def active(self) -> int:
        """How many streams there are."""
        return int(json.loads(self.scraper.get("/status"))["slots"]["active"])

    def window(self, wall_s: float, page: str, scrapes: int) -> Window:
        """Scrape so many times, spread over this time."""
        path, accept = PAGES[page]
        began, cpu_ns = time.monotonic(), self.gateway.cpu_ns()
        for number in range(scrapes):
            time.sleep(max(0.0, began + wall_s * number / scrapes - time.monotonic()))
            self.scraper.get(path, accept)
        time.sleep(max(0.0, began + wall_s - time.monotonic()))
        return Window((self.gateway.cpu_ns() - cpu_ns) / 1e9, time.monotonic() - began)

    def close(self) -> None:
        for process in reversed(self._started):
            process.stop()

    def _start(self, module: str, cores: set[int] | None) -> Process:
        argv = (sys.executable, "-m", f"loadtest.overhead.{module}")
        process = Process(argv, cores=cores, cwd=REPO, log=self._folder / f"{module}.log", piped=True)
        self._started.append(process)
        return process


def measure(bench: Bench, streams: int, options: argparse.Namespace) -> list[Cost]:
    """One cost for each page; the rounds are interleaved over them."""
    seen: dict[str, list[float]] = {page: [] for page in options.pages}
    for page in options.pages:
        bench.window(0.1, page, 3)  # the first of its kind fills caches
    for number in range(1, options.rounds + 1):
        say(f"{streams:,} streams, round {number}/{options.rounds}")
        for page in options.pages:
            quiet = bench.window(options.window_s, page, 0)
            scraping = bench.window(options.window_s, page, options.scrapes)
            seen[page].append(cost_ms(quiet, scraping, options.scrapes))
    if (left := bench.active()) != streams:
        raise RoundError(f"{left} of {streams} streams were left at the end")
    sizes = {page: len(bench.scraper.get(*PAGES[page])) for page in options.pages}
    return [Cost(page, streams, rounds_ms, sizes[page]) for page, rounds_ms in seen.items()]


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    signal.signal(signal.SIGTERM, leave)
    costs: list[Cost] = []
    with tempfile.TemporaryDirectory(prefix="scrape-") as folder:
        bench = Bench(Path(folder))
        try:
            bench.start()
            costs += measure(bench, 0, options)
            clients = bench.stream(options.streams, options.interval_ms)
            costs += measure(bench, options.streams, options)
            clients.stop()
            bench.until_active(0)
        except (RoundError, OSError) as problem:
            say(f"no figures: {problem}")
            return 2
        except KeyboardInterrupt:
            say("interrupted: nothing was kept")
            return 130
        finally:
            bench.close()
    if options.as_json:
        rows = [{**asdict(cost), "median_ms": cost.median_ms} for cost in costs]
        print(json.dumps({"machine": machine(), "source": source(), "costs": rows}))
    else:
        print(render(costs, options))
    return 0 if all(cost.median_ms <= options.limit_ms for cost in costs if cost.page in ("text", "openmetrics")) else 1


def render(costs: Sequence[Cost], options: argparse.Namespace) -> str:
    """A table in Markdown: CPU of one scrape, median of the rounds, their least and most."""
    about = machine()
    lines = [
        f"{source()} on {about['cpu']}, {about['cores']} cores, Python {about['python']}, load {about['load_average']}",
        f"{options.rounds} rounds of {options.scrapes} scrapes in {options.window_s:g} s",
        f"streams with an event each {options.interval_ms:g} ms",
        "",
        "| page | streams | CPU of a scrape, ms | size, kB |",
        "|---|---|---|---|",
    ]
    for cost in costs:
        spread = f"{cost.median_ms:.1f} ({min(cost.rounds_ms):.1f}–{max(cost.rounds_ms):.1f})"
        lines.append(f"| {cost.page} | {cost.streams:,} | {spread} | {cost.size_bytes / 1000:.0f} |")
    return "\n".join(lines)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.scrape",
        description="What a scrape of /metrics costs the gateway. Exit status 1 where it is over the limit.",
    )
    parser.add_argument("--streams", type=count, default=1000, help="(1000)")
    parser.add_argument("--interval-ms", type=positive, default=200.0, help="between two events of a stream (200)")
    parser.add_argument("--scrapes", type=count, default=40, help="in a window (40)")
    parser.add_argument("--window-s", type=positive, default=4.0, help="(4)")
    parser.add_argument("--rounds", type=count, default=5, help="(5)")
    parser.add_argument("--pages", type=one_of(PAGES), default=",".join(PAGES), help=f"of: {', '.join(PAGES)}")
    parser.add_argument("--limit-ms", type=positive, default=10.0, help="of text and OpenMetrics (10)")
    parser.add_argument("--json", dest="as_json", action="store_true", help="one JSON object instead of the table")
    options = parser.parse_args(arguments)
    if not options.pages:
        parser.error("--pages names none")
    return options
