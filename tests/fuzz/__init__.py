"""Inputs that nobody would write by hand, in numbers: a few with every ``make test``, 100,000 with ``make test-fuzz``.

``HEADGATE_FUZZ_COUNT`` is how many in all, ``HEADGATE_FUZZ_SEED`` where they start from; the seed is printed. Each
input is made of the seed and its own number alone, so that what fails can be made again by itself.
"""

from __future__ import annotations

import os
import random

COUNT = int(os.environ.get("HEADGATE_FUZZ_COUNT", "4000"))
SEED = int(os.environ.get("HEADGATE_FUZZ_SEED") or random.SystemRandom().randrange(1 << 32))
TOLD = f"HEADGATE_FUZZ_SEED={SEED} HEADGATE_FUZZ_COUNT={COUNT}"


def share(part: float) -> int:
    """So many of all inputs."""
    return max(1, int(COUNT * part))


def chance(what: str, number: int) -> random.Random:
    """The dice of one input."""
    return random.Random(f"{SEED}:{what}:{number}")
