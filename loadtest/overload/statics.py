"""``python -m loadtest.overload.statics``: slots found while running beside the best fixed number, in virtual time.

Five kinds of work at twice the load of the peak. What came in the first 60 s is not looked at, so what is found must be
found by then. The best number is known only afterwards, from trying them: a coarse row of numbers, then all between the
neighbours of the best of them in steps of 4. It is chosen by the same arrivals that it is judged by, which flatters it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial

from loadtest import options
from loadtest.overload.rehearsed import Outcome, peak, run

CASES = [
    ("short prompts, short answers", "20 in, 40 out", "slow", False),
    ("short prompts, long answers", "200 in, 200 out", "slow", False),
    ("long prompts", "1500 in, 64 out", "fast", False),
    ("mixed", "mixed", "fast, small KV cache", False),
    ("mixed, in bursts", "mixed", "fast, small KV cache", True),
]
COARSE = (16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 256)
FINE = 4


def best_number(outcome: Callable[..., Outcome]) -> tuple[int, float]:
    """The number of ``slots`` with most goodput of those that are tried, and its goodput."""
    tried = {slots: outcome(slots=slots).good for slots in COARSE}
    near = COARSE.index(max(tried, key=tried.__getitem__))
    low, high = COARSE[max(near - 1, 0)], COARSE[min(near + 1, len(COARSE) - 1)]
    tried |= {slots: outcome(slots=slots).good for slots in range(low + FINE, high, FINE) if slots not in tried}
    best = max(tried, key=tried.__getitem__)
    return best, tried[best]


def main() -> None:
    """Print a row for each kind of work and seed."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.overload.statics", description=__doc__)
    parser.add_argument("--load", type=options.positive, default=2.0, help="times the peak's load (2)")
    parser.add_argument("--seconds", type=options.positive, default=180.0)
    parser.add_argument("--warm-s", type=options.not_negative, default=60.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[2, 3, 4])
    chosen = parser.parse_args()
    if chosen.warm_s >= chosen.seconds:
        parser.error("--warm-s takes less than --seconds")
    head = ["work", "engine", "seed", "best fixed number", "good/s", "auto", "of the best", "within 15 % after"]
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for name, work, engine, bursty in CASES:
        _, at = peak(work, engine)
        for seed in chosen.seeds:
            how = {"seconds": chosen.seconds, "warm_s": chosen.warm_s, "seed": seed, "bursty": bursty}
            outcome = partial(run, work, engine, at * chosen.load, gate="fair", **how)
            best, good = best_number(outcome)
            auto = outcome()
            row = [
                name,
                engine,
                str(seed),
                str(best),
                f"{good:.1f}",
                f"{auto.good:.1f} ({auto.slots} slots at the end)",
            ]
            print(
                "| " + " | ".join([*row, f"{auto.good / good:.0%}" if good else "–", f"{auto.found_s()} s"]) + " |",
                flush=True,
            )


if __name__ == "__main__":
    sys.exit(options.status(main))
