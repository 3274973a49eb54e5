"""Which fault comes after which request: drawn from a seed, so that the seed alone gives it again.

Faults that end the gateway lie in the first tenth of the run, so that its last life is nine tenths long: the memory of
that life is compared with itself. All others are spread over the whole of it, each kind as often as every other.

Pure: what a fault does is in `faults`.
"""

import random
from collections.abc import Collection
from dataclasses import dataclass

ENDS_ENGINE = ("api_kill", "core_kill", "guard_kill")
"""After these an engine is started again as after a crash; five in a row and the gateway gives it up, by design."""
ENDS_GATEWAY = ("gateway_drain", "gateway_second_signal", "gateway_kill")
KINDS = {
    "api_kill": "SIGKILL to the engine's API server; its core is left an orphan",
    "core_kill": "SIGKILL to the engine's core; the API server leaves with exit status 0, as vLLM's does",
    "guard_kill": "SIGKILL to the guard between gateway and engine",
    "engine_pause": "SIGSTOP to the engine, SIGCONT within 1.5 s",
    "engine_freeze": "SIGSTOP to the engine, and no SIGCONT",
    "hang": "the engine makes no progress, while its pages answer",
    "engine_restart": "an operator's restart of the engine under load",
    "broken_answers": "answers cut, reset, garbled, with a 500, with error events",
    "slow_network": "late heads, stalls, dribbled events, events of 1 MiB, other line ends",
    "client_storm": "three times the clients, nine in ten of whom leave: queued, before the first byte, mid-stream",
    "slow_clients": "requests that come in pieces, answers that are not read for a while",
    "memory_pressure": "bodies of some MiB at once, beside a process that fills memory",
    "log_disk_full": "no byte more can be written to the log's file",
    "clock_jump": "the time of day jumps, to and fro, by up to a day",
    "gateway_pause": "SIGSTOP to the gateway, SIGCONT within 1 s: all its timers are late at once",
    "fd_exhaustion": "the gateway may open no more files than it has",
    "gateway_drain": "SIGTERM to the gateway under load, then a new one",
    "gateway_second_signal": "SIGTERM twice",
    "gateway_kill": "SIGKILL to the gateway",
}


@dataclass(frozen=True, slots=True)
class Step:
    """A fault that is due once so many requests have been sent; ``draw`` (0 to 1) says how hard it is."""

    at: int
    kind: str
    draw: float


def plan(seed: int, requests: int, every: int, kinds: Collection[str] = tuple(KINDS)) -> list[Step]:
    """Faults about ``every`` so many requests, each of ``kinds`` at least once where there is room for that.

    No more than three deaths of an engine come one after the other with nothing between that starts it anew otherwise.
    """
    dice = random.Random(seed)
    ending = [kind for kind in KINDS if kind in kinds and kind in ENDS_GATEWAY]
    lasting = [kind for kind in KINDS if kind in kinds and kind not in ENDS_GATEWAY]
    first_tenth = requests // 10
    steps: list[Step] = []
    if ending:
        rounds = max(1, min(4, first_tenth // max(1, every) // len(ending)))
        drawn = [kind for _ in range(rounds) for kind in dice.sample(ending, len(ending))]
        gap = first_tenth / (len(drawn) + 1)
        steps += [Step(int(gap * (i + 1)), kind, dice.random()) for i, kind in enumerate(drawn)]
    if lasting:
        count = max(len(lasting), requests * 97 // 100 // max(1, every))
        drawn = []
        while len(drawn) < count:
            drawn += dice.sample(lasting, len(lasting))
        gap = requests * 0.97 / count
        steps += [Step(int(gap * (i + 0.5)), kind, dice.random()) for i, kind in enumerate(drawn[:count])]
    return _eased(sorted(steps, key=lambda step: step.at))


def _eased(steps: list[Step]) -> list[Step]:
    out: list[Step] = []
    deaths = 0
    for step in steps:
        if step.kind in ENDS_ENGINE:
            if deaths == 3:
                out.append(Step(step.at, "engine_restart", 0.0))
                deaths = 0
            deaths += 1
        elif step.kind in (*ENDS_GATEWAY, "engine_restart", "engine_freeze", "hang"):
            deaths = 0
        out.append(step)
    return out
