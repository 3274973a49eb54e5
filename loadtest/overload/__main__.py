"""``python -m loadtest.overload``: the tables of docs/goodput.md. In virtual time, or ``--on sockets``."""

from __future__ import annotations

import argparse
import sys

from headgate.gate.orders import ORDERS, Name
from loadtest import options
from loadtest.overload.rehearsed import ENGINES, WORK, peak, run

PROG = "python -m loadtest.overload"


def main() -> int:
    """In virtual time, or on sockets."""
    where = argparse.ArgumentParser(prog=PROG, add_help=False)
    where.add_argument("--on", choices=["rehearsal", "sockets"], default="rehearsal")
    chosen, left = where.parse_known_args()
    if chosen.on == "sockets":
        from loadtest.overload import sockets

        return sockets.main(left)
    rehearse(left)
    return 0


def rehearse(arguments: list[str]) -> None:
    """Print a row for each engine and workload: good answers a second with no gate → with it, the median time to the
    first token with it, and its slots at the end."""
    parser = argparse.ArgumentParser(prog=PROG, description=__doc__)
    parser.add_argument("--on", choices=["rehearsal", "sockets"], default="rehearsal", help="see --on sockets --help")
    parser.add_argument("--order", choices=sorted(ORDERS), default="fair")
    parser.add_argument(
        "--loads", type=options.positive, nargs="+", default=[0.5, 1, 2, 4], help="times the peak's load"
    )
    parser.add_argument("--seconds", type=options.positive, default=150.0)
    parser.add_argument(
        "--warm-s", type=options.not_negative, default=60.0, help="requests that came before are not looked at"
    )
    parser.add_argument("--seed", type=int, default=2)
    chosen = parser.parse_args(arguments)
    if chosen.warm_s >= chosen.seconds:
        parser.error("--warm-s takes less than --seconds")
    order: Name = chosen.order
    head = ["engine", "work", "peak by itself", *(f"at {load:g} ×" for load in chosen.loads)]
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for engine in ENGINES:
        for work in WORK:
            best, at = peak(work, engine)
            row = [engine, work, f"{best:.1f}/s at {at:.1f}"]
            for load in chosen.loads:
                rate = at * load
                alone = run(
                    work, engine, rate, gate=None, seconds=chosen.seconds, warm_s=chosen.warm_s, seed=chosen.seed
                )
                gated = run(
                    work, engine, rate, gate=order, seconds=chosen.seconds, warm_s=chosen.warm_s, seed=chosen.seed
                )
                row.append(f"{alone.good:.1f} → **{gated.good:.1f}**, {gated.ttft_p50_s:.2f} s ({gated.slots})")
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    sys.exit(options.status(main))
