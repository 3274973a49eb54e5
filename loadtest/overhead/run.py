"""The command: rounds interleaved over the targets (A B C A B C …), and one raw file with all that was seen.

Interleaved, because a machine has good and bad minutes, and they should fall on all alike. It measures
nothing itself (`bench` does) and judges nothing (`report` does).

    python -m loadtest.overhead --targets direct,headgate,haproxy --rounds 5
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from loadtest.overhead.bench import REPO, Bench, Cores, RoundError
from loadtest.overhead.phases import CORE, GROUPS, PHASES, Phase, phases
from loadtest.overhead.report import render
from loadtest.overhead.targets import TARGETS, Absent

DEFAULT_TARGETS = "direct,headgate,haproxy,sglang-router,vllm-router"
DEFAULT_ENVS = [REPO / ".venv-peers", REPO / ".venv-compiled"]
SCHEMA = 1


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    signal.signal(signal.SIGTERM, leave)
    cores = Cores.choose(pin=not options.no_pin)
    plan = [phase for phase in phases(quick=options.quick) if phase.name in options.phases]
    rounds = options.rounds or (2 if options.quick else 5)
    started = datetime.now(UTC)
    with tempfile.TemporaryDirectory(prefix="overhead-") as folder:
        bench = Bench(
            Path(folder),
            cores,
            tuple(folder.resolve() for folder in options.peers_env or DEFAULT_ENVS),
        )
        try:
            raw: dict[str, object] = {
                "schema": SCHEMA,
                "kind": "overhead",
                "started_at": started.isoformat(timespec="seconds"),
                "machine": machine(),
                "source": source(),
                "cores": cores.as_json(),
                "settings": {"rounds": rounds, "quick": options.quick, "phases": [asdict(p) for p in plan]},
            }
            raw |= run_rounds(bench, options.targets, plan, rounds)
        except KeyboardInterrupt:
            print("interrupted: nothing was kept", file=sys.stderr)
            return 130
        finally:
            bench.close()
    raw["seconds"] = round((datetime.now(UTC) - started).total_seconds(), 1)
    options.results.mkdir(parents=True, exist_ok=True)
    path = options.results / f"overhead-{started:%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps(raw, indent=1) + "\n")
    print(f"\n{render(raw)}\nraw figures: {path}")
    return 0 if raw["rounds"] else 1


def run_rounds(bench: Bench, names: Sequence[str], plan: Sequence[Phase], rounds: int) -> dict[str, object]:
    """A target that fails in one round is tried again in the next; what went wrong is kept too."""
    targets: dict[str, dict[str, str]] = {}
    present = []
    for name in names:
        _, launch = bench.launch(TARGETS[name])
        if isinstance(launch, Absent):
            targets[name] = {"absent": launch.why}
            say(f"{name}: left out, {launch.why}")
        else:
            targets[name] = {"version": launch.version, "command": " ".join(launch.argv)}
            present.append(name)
    seen: list[dict[str, object]] = []
    failures: list[dict[str, object]] = []
    for number in range(1, rounds + 1):
        for name in present:
            began = time.monotonic()
            say(f"round {number}/{rounds}  {name:<14}", end="", flush=True)
            try:
                figures = bench.round(name, plan)
            except RoundError as failure:
                failures.append({"round": number, "target": name, "why": str(failure)})
                say(f" failed: {failure}")
            else:
                seen.append({"round": number, "target": name, **figures})
                say(f" {time.monotonic() - began:5.1f} s")
    return {"targets": targets, "rounds": seen, "failures": failures}


def say(text: str, end: str = "\n", *, flush: bool = False) -> None:
    print(text, end=end, flush=flush, file=sys.stderr)


def machine() -> dict[str, object]:
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return {
        "cpu": model or platform.machine(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }


def source() -> str:
    """The commit that was measured, `+` where `src` differs from it; empty outside a checkout."""

    def git(*arguments: str) -> str:
        # --no-optional-locks: a look must not write the index while somebody else works with it
        argv = ["git", "--no-optional-locks", *arguments]
        return subprocess.run(argv, cwd=REPO, capture_output=True, text=True, check=False).stdout.strip()

    commit = git("rev-parse", "--short=12", "HEAD")
    return commit + ("+" if commit and git("status", "--porcelain", "--", "src") else "")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.overhead",
        description="What a gateway costs per streamed event and per request, beside its peers.",
    )
    parser.add_argument("--targets", type=one_of(TARGETS), default=DEFAULT_TARGETS, help=f"of: {', '.join(TARGETS)}")
    parser.add_argument(
        "--phases",
        type=one_of(PHASES, GROUPS | {"all": PHASES}),
        default=",".join(CORE),
        help=f"of: {', '.join(PHASES)}; streams for the last {len(GROUPS['streams'])}, or all ({','.join(CORE)})",
    )
    parser.add_argument("--rounds", type=int, help="of each target (5; with --quick 2)")
    parser.add_argument("--quick", action="store_true", help="under a minute, for a look; figures are rough")
    parser.add_argument(
        "--peers-env",
        type=Path,
        action="append",
        metavar="DIR",
        help="where peers are installed (.venv-peers and .venv-compiled); may be given more than once",
    )
    parser.add_argument("--results", type=Path, default=REPO / "results", metavar="DIR", help="for the raw file")
    parser.add_argument("--no-pin", action="store_true", help="let the scheduler choose the cores")
    return parser.parse_args(arguments)


def one_of(known: Collection[str], groups: Mapping[str, Sequence[str]] | None = None) -> Callable[[str], list[str]]:
    """The type of an option that takes some of these names, with commas, or a word for several."""

    def chosen(text: str) -> list[str]:
        said = [name.strip() for name in text.split(",") if name.strip()]
        names = [name for word in said for name in (groups or {}).get(word, (word,))]
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return names

    return chosen


def leave(number: int, frame: FrameType | None) -> None:
    """SIGTERM ends the run as Ctrl-C does, so that what was started is stopped."""
    raise KeyboardInterrupt
