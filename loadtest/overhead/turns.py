"""Versions of the gateway, started together, that take turns: what differs by a little shows on a busy machine, too.

    python -m loadtest.overhead.turns now=src before=/tmp/before/src haproxy
    python -m loadtest.overhead.turns --phase paced --turns 16 now=src other=src:/path/to/python3.14

Each is ``NAME=FOLDER``, a folder of sources that goes first on the interpreter's path, with ``:PYTHON`` behind it where
that is not this one; or a target of `python -m loadtest.overhead`. In a turn each of them gets one short load;
who begins moves on by one from turn to turn. Told is the CPU per event or per request: its median, and in relation to
the first of them, turn by turn, mean ± standard error and median. Two copies of the same code tell how far that can be
trusted: name it twice.
"""

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median, stdev

from loadtest.overhead.bench import REPO, Bench, Cores, RoundError
from loadtest.overhead.phases import Phase
from loadtest.overhead.targets import TARGETS, Absent, Launch, Site, Target, headgate

PHASES = {
    "paced": Phase("paced", "events", True, 200, 200, events=100, interval_ms=20, stagger_s=0.2),
    "bulk": Phase("bulk", "events", True, 32, 32, events=500),
    "whole": Phase("whole", "completed", False, 32, 2_500, limit_s=20),
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.overhead.turns", description="Versions side by side, taking turns."
    )
    parser.add_argument("who", nargs="+", metavar="NAME=FOLDER[:PYTHON] | PEER")
    parser.add_argument("--phase", choices=PHASES, default="whole")
    parser.add_argument("--turns", type=int, default=20, help="of each (20)")
    parser.add_argument(
        "--peers-env", type=Path, default=REPO / ".venv-peers", metavar="DIR", help="where peers are (.venv-peers)"
    )
    options = parser.parse_args(arguments)
    launches: dict[str, Target] = {}
    for who in options.who:
        name, _, where = who.partition("=")
        if not where and name not in TARGETS:
            parser.error(f"{who!r}: NAME=FOLDER, or one of {', '.join(TARGETS)}")
        if name in launches:
            parser.error(f"two are called {name}")
        launches[name] = version(where) if where else TARGETS[name]
    with tempfile.TemporaryDirectory(prefix="turns-") as folder:
        try:
            seen = take_turns(Path(folder), launches, PHASES[options.phase], options.turns, options.peers_env.resolve())
        except RoundError as problem:
            print(f"turns: {problem}", file=sys.stderr)
            return 1
    print(
        json.dumps({"phase": options.phase, "cpu_us": {name: [round(us, 2) for us in of] for name, of in seen.items()}})
    )
    first = next(iter(seen))
    print(f"\nCPU per {'request' if options.phase == 'whole' else 'event'}, {options.phase}, {options.turns} turns\n")
    print(f"{'':<14}{'median':>9}    ÷ {first}")
    for name, of in seen.items():
        ratios = [mine / theirs for mine, theirs in zip(of, seen[first], strict=True)]
        error = stdev(ratios) / len(ratios) ** 0.5 if len(ratios) > 1 else 0.0
        said = "" if name == first else f"{fmean(ratios):.3f} ± {error:.3f}, median {median(ratios):.3f}"
        print(f"{name:<14}{median(of):7.1f}µs    {said}")
    return 0


def version(where: str) -> Target:
    """The gateway out of ``FOLDER`` or ``FOLDER:PYTHON``."""
    folder, _, python = where.partition(":")

    def launch(site: Site) -> Launch | Absent:
        launch = headgate(site)
        if isinstance(launch, Absent):
            return launch
        argv = (python or sys.executable, *launch.argv[1:])
        return replace(launch, argv=argv, env=launch.env | {"PYTHONPATH": str(Path(folder).resolve())})

    return launch


def take_turns(
    folder: Path,
    launches: dict[str, Target],
    phase: Phase,
    turns: int,
    peers_env: Path,
) -> dict[str, list[float]]:
    """CPU in µs per event or per request, by name, one figure a turn."""
    bench = Bench(folder, Cores.choose(pin=True), (peers_env,))
    with contextlib.ExitStack() as stack:
        stack.callback(bench.close)
        gateways = {name: stack.enter_context(bench.started(name, launch)) for name, launch in launches.items()}
        seen: dict[str, list[float]] = {name: [] for name in gateways}
        for there in [*gateways.values()] * 2:
            bench.warm_up(there)
        names = list(gateways)
        for turn in range(turns):
            began = time.monotonic()
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                what = bench.measure(phase, gateways[name])
                seen[name].append(what["cpu_ns"] / 1000 / what[phase.per])
            print(f"turn {turn + 1}/{turns}: {time.monotonic() - began:.1f} s", file=sys.stderr)
    return seen


if __name__ == "__main__":
    sys.exit(main())
