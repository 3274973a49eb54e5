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
from statistics import fmean

from loadtest import options
from loadtest.overload.rehearsed import peak, run

CASES = [
    ("short prompts, short answers", "20 in, 40 out", "slow", False),
    ("short prompts, long answers", "200 in, 200 out", "slow", False),
    ("long prompts", "1500 in, 64 out", "fast", False),
    ("mixed", "mixed", "fast, small KV cache", False),
    ("mixed, in bursts", "mixed", "fast, small KV cache", True),
]
COARSE = (16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 256)
FINE = 4


def best_number(good: Callable[[int], float]) -> tuple[int, float]:
    """The number of slots with most goodput of those that are tried, and its goodput."""
    tried = {slots: good(slots) for slots in COARSE}
    near = COARSE.index(max(tried, key=tried.__getitem__))
    low, high = COARSE[max(near - 1, 0)], COARSE[min(near + 1, len(COARSE) - 1)]
    tried |= {slots: good(slots) for slots in range(low + FINE, high, FINE) if slots not in tried}
    best = max(tried, key=tried.__getitem__)
    return best, tried[best]


def main() -> None:
    """Print a row for each kind of work and seed."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.overload.statics", description=__doc__)
    parser.add_argument("--load", type=options.positive, default=2.0, help="times the peak's load (2)")
    parser.add_argument("--seconds", type=options.positive, default=180.0)
    parser.add_argument("--warm-s", type=options.not_negative, default=60.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[2, 3, 4])
    parser.add_argument("--together", action="store_true", help="one fixed number for all seeds, not one for each")
    parser.add_argument("--work", choices=[case[0] for case in CASES], help="this alone")
    chosen = parser.parse_args()
    if chosen.warm_s >= chosen.seconds:
        parser.error("--warm-s takes less than --seconds")
    head = ["work", "engine", "seed", "best fixed number", "good/s", "auto", "of the best", "within 15 % after"]
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    groups = [chosen.seeds] if chosen.together else [[seed] for seed in chosen.seeds]
    for name, work, engine, bursty in CASES:
        if chosen.work not in (None, name):
            continue
        _, at = peak(work, engine)
        how = {"gate": "fair", "seconds": chosen.seconds, "warm_s": chosen.warm_s, "bursty": bursty}
        outcome = partial(run, work, engine, at * chosen.load, **how)
        for seeds in groups:
            best, good = best_number(lambda slots: fmean(outcome(seed=seed, slots=slots).good for seed in seeds))  # noqa: B023
            found = [outcome(seed=seed) for seed in seeds]
            auto = fmean(each.good for each in found)
            row = [
                name,
                engine,
                ", ".join(map(str, seeds)),
                str(best),
                f"{good:.1f}",
                f"{auto:.1f} ({', '.join(str(each.slots) for each in found)} slots at the end)",
                f"{auto / good:.0%}" if good else "–",
                f"{max(each.found_s() for each in found)} s",
            ]
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    sys.exit(options.status(main))
