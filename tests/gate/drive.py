"""The state machine's checks over a million random steps: ``python -m tests.gate.drive --steps 1000000``.

Hypothesis looks for the odd case and shrinks it; this goes far. A seed gives the same drive again.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from headgate.gate.capped import Capped
from headgate.gate.entries import Claim
from headgate.gate.fair import Fair
from headgate.gate.ordering import Fifo, Order, Turns
from headgate.gate.priority import Priority
from headgate.gate.timely import Timely
from tests.gate.model import Rig, Rules

ORDERS: dict[str, Callable[[], Order]] = {
    "fifo": Fifo,
    "fair": Fair,
    "priority": lambda: Priority(Fifo, age_s=2.0),
    "timely": lambda: Timely(lambda: Priority(Fair, age_s=2.0), shared=True),
    "turns": lambda: Priority(lambda: Fifo(Turns), age_s=2.0),
    "crowd": lambda: Timely(lambda: Priority(Fair, age_s=2.0), shared=True, crowd_of=2),
    "capped crowd": lambda: Capped(lambda: Timely(lambda: Priority(lambda: Fifo(Turns), age_s=2.0), crowd_of=2)),
    "capped": lambda: Capped(lambda: Timely(lambda: Priority(Fair, age_s=2.0), shared=True)),
    "capped fifo": lambda: Capped(Fifo),
}


@dataclass
class Driven:
    """What a drive has seen."""

    steps: int = 0
    ledgers: int = 0
    granted: int = 0
    longest_line: int = 0
    refused: Counter[str] = field(default_factory=Counter)


def drive(steps: int, seed: int) -> Driven:
    """Take so many random steps; ``AssertionError`` at the first that the model doesn't allow."""
    dice = random.Random(seed)
    driven = Driven()
    while driven.steps < steps:
        rig = Rig(_some_rules(dice))
        life = min(dice.choice([50, 500, 2000]), steps - driven.steps)
        for taken in range(life):
            try:
                _step(rig, dice, last=taken > 0.95 * life)
                rig.check()
            except AssertionError as broken:
                broken.add_note(f"seed {seed}, step {driven.steps + taken}, {rig.ledger!r}")
                raise
            driven.longest_line = max(driven.longest_line, len(rig.line))
            del rig.ended[:-100]
        driven.steps += life
        driven.ledgers += 1
        driven.granted += rig.granted
        driven.refused.update(rig.refused)
    return driven


def _some_rules(dice: random.Random) -> Rules:
    return Rules(
        mode=dice.choice(["queue", "queue", "reject"]),
        queue_max=dice.choice([0, 2, 8, 40]),
        queue_max_bytes=dice.choice([100, 1000, 10**6]),
        queue_timeout_s=dice.choice([0.5, 4.0, 30.0]),
        wake_timeout_s=dice.choice([0.5, 8.0, 60.0]),
        order=dice.choice(list(ORDERS.values())),
    )


def _some_claim(dice: random.Random) -> Claim:
    key = dice.choice("abc")
    return Claim(
        key=key,
        user=dice.choice(["", "u", "v"]),
        share=2.0 if key == "b" else 1.0,
        rank=dice.choice([-1, 0, 0, 1]),
        tokens=dice.choice([1.0, 4.0, 64.0]),
        within_s=dice.choice([0.25, 1.0, math.inf]),
        deadline_s=dice.choice([0.5, math.inf, math.inf, math.inf]),
        booked=dice.random() < 0.3,
        most={"a": None, "b": 1, "c": 3}[key],
    )


def _step(rig: Rig, dice: random.Random, *, last: bool) -> None:
    nth = dice.randrange(1000)
    match dice.choices(range(11), weights=[40, 25, 4, 1, 20, 6, 1, 1, 6, 3, 2])[0]:
        case 0:
            rig.offer(
                dice.choice([1, 1, 1, 2, 3, 9]),
                dice.choice([0, 1, 10, 60]),
                dice.choice([0.0, 1.0, 3.0, 300.0]),
                _some_claim(dice),
            )
        case 1 if rig.line or rig.running:
            rig.leave(nth)
        case 2 if rig.running:
            rig.come_back(nth, dice.choice([0.5, 300.0]))
        case 3 if rig.ended:
            rig.leave_again(nth)
        case 4:
            rig.advance(dice.choice([0.0, 0.125, 0.25, 1.0]), tick=dice.random() < 0.8)
        case 5:
            rig.resize(dice.choice(["e0", "e1", "e2"]), dice.choice([0, 0, 0, 1, 2, 4, 8, 8, 16]))
        case 6 if last:
            rig.close(dice.choice([0.0, 5.0]))
        case 7 if last and rig.draining:
            rig.evict()
        case 8 if rig.running or rig.ended:
            rig.settle(nth, dice.choice([0.0, 2.0, 100.0]))
        case 9 if rig.running:
            rig.put_back(nth, dice.choice([0.5, 300.0]))
        case 10:
            rig.pace(dice.choice(["e0", "e1", "e2"]), dice.choice([0.0, 0.125, 1.0, 4.0]))


def main() -> None:
    """Drive, and say what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    started = time.perf_counter()
    driven = drive(arguments.steps, arguments.seed)
    took_s = time.perf_counter() - started
    print(f"{driven.steps} steps, {driven.ledgers} ledgers, {took_s:.0f} s: everything held")
    print(f"granted {driven.granted}, longest line {driven.longest_line}")
    for reason, count in sorted(driven.refused.items()):
        print(f"refused {reason}: {count}")


if __name__ == "__main__":
    main()
