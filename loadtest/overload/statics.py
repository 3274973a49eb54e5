"""``python -m loadtest.overload.statics``: slots found while running beside the best fixed number, in virtual time.

Five kinds of work at twice the load of the peak. What came in the first 60 s is not looked at, so what is found must be
found by then. The best number is known only afterwards, from trying them all.
"""

from __future__ import annotations

import argparse

from loadtest.overload.rehearsed import peak, run

CASES = [
    ("short prompts, short answers", "20 in, 40 out", "slow", False),
    ("short prompts, long answers", "200 in, 200 out", "slow", False),
    ("long prompts", "1500 in, 64 out", "fast", False),
    ("mixed", "mixed", "fast, small KV cache", False),
    ("mixed, in bursts", "mixed", "fast, small KV cache", True),
]
STATICS = (32, 48, 64, 80, 96, 112, 128, 160, 192, 256)


def main() -> None:
    """Print a row for each kind of work."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--load", type=float, default=2.0, help="times the peak's load (2)")
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--warm-s", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=2)
    chosen = parser.parse_args()
    how = {"gate": "fair", "seconds": chosen.seconds, "warm_s": chosen.warm_s, "seed": chosen.seed}
    head = ["work", "engine", "best fixed number", "good/s", "auto", "of the best", "within 15 % after"]
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for name, work, engine, bursty in CASES:
        _, at = peak(work, engine)
        rate = at * chosen.load
        fixed = {slots: run(work, engine, rate, slots=slots, bursty=bursty, **how).good for slots in STATICS}
        best = max(fixed, key=lambda slots: fixed[slots])
        auto = run(work, engine, rate, bursty=bursty, **how)
        share = auto.good / fixed[best]
        row = [name, engine, str(best), f"{fixed[best]:.1f}", f"{auto.good:.1f} ({auto.slots} slots at the end)"]
        print("| " + " | ".join([*row, f"{share:.0%}", f"{auto.found_s()} s"]) + " |", flush=True)


if __name__ == "__main__":
    main()
