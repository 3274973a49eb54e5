"""Objectives: which there are, how they are read, and whether a run met them. Pure but for reading the file.

    latency_p95_s = 5.0         # from the moment a request was due to its last byte, of those answered
    ttft_p95_s = 1.0            # to the first event with text
    inter_token_p95_ms = 100    # between two events, over all streams
    errors_percent = 0.1        # of all requests, those that were not answered whole

A refusal is a request that was not answered: it counts as an error, unless ``refusals_percent`` gives refusals a bound
of their own. Time bounds say too what one good answer is, whatever percentile they were given for, and from that comes
goodput: the answers within every one of them.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from headgate.workbench.bench.figures import RANKS, Spread
from headgate.workbench.bench.raw import Objective

DEFAULT = (Objective("latency_p95_s", 5.0), Objective("errors_percent", 0.1))

_MOST = 1e12
_AT_MOST = ("errors_percent", "refusals_percent")
_AT_LEAST = ("goodput_percent", "requests_per_s", "tokens_per_s")
_TIME = re.compile(rf"(?P<what>latency|ttft|inter_token|tpot)_(?P<at>{'|'.join(RANKS)}|mean|max)_(?P<unit>ms|s)")
_TAKES = (
    "latency_, ttft_, inter_token_ or tpot_, then p50, p90, p95, p99, p999, mean or max, then _s or _ms; or "
    + ", ".join((*_AT_MOST, *_AT_LEAST))
)


class BadSlo(ValueError):
    """One line that says what is wrong."""


class Judged(msgspec.Struct, frozen=True):
    """One objective and what was seen; ``met`` is None where nothing could be seen.

    ``with_refusals``: what was seen of errors has refusals in it.
    """

    name: str
    bound: float
    seen: float | None
    met: bool | None
    at_least: bool = False
    note: str = ""
    with_refusals: bool = False


class Good(msgspec.Struct, frozen=True):
    """What one good answer is, in seconds; None where nothing is asked."""

    latency_s: float | None = None
    ttft_s: float | None = None
    inter_token_s: float | None = None
    tpot_s: float | None = None

    def met(self, latency_s: float, ttft_s: float | None, gap_s: float | None, tpot_s: float | None) -> bool:
        """Whether an answer was good; a bound on what it doesn't have (a whole reply has no first token) is met."""
        seen = ((latency_s, self.latency_s), (ttft_s, self.ttft_s), (gap_s, self.inter_token_s), (tpot_s, self.tpot_s))
        return all(value is None or bound is None or value <= bound for value, bound in seen)


class Seen(msgspec.Struct, frozen=True):
    """What is judged. Spreads are in seconds."""

    times: Mapping[str, Spread | None]
    errors: int
    refused: int
    ended: int
    goodput: float | None
    requests_per_s: float
    tokens_per_s: float


def read(path: Path) -> list[Objective]:
    """The objectives of a file.

    Raises:
        BadSlo: one line.
    """
    try:
        with path.open("rb") as file:
            values = tomllib.load(file)
    except OSError as error:
        raise BadSlo(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadSlo(f"{path}: {error}") from None
    except (RecursionError, ValueError):  # nested too deeply, a number of thousands of digits
        raise BadSlo(f"{path}: it is not TOML that anybody would write") from None
    return parse(values, str(path))


def parse(values: Mapping[str, object], where: str) -> list[Objective]:
    """The objectives of a flat table. Raises BadSlo."""
    objectives = []
    for name, bound in values.items():
        if not (name in _AT_MOST or name in _AT_LEAST or _TIME.fullmatch(name)):
            raise BadSlo(f"{where}: there is no objective {name!r}. It takes {_TAKES}.")
        if isinstance(bound, bool) or not isinstance(bound, int | float) or not 0 <= bound <= _MOST:
            raise BadSlo(f"{where}: {name} must be a number of at least 0, not {bound!r:.40}")
        objectives.append(Objective(name, float(bound)))
    if not objectives:
        raise BadSlo(f"{where} has no objective in it. It takes {_TAKES}.")
    return objectives


def good(objectives: Sequence[Objective]) -> Good:
    """What one good answer is: the strictest of the bounds on each time, whatever percentile each is for."""
    bounds: dict[str, float] = {}
    for objective in objectives:
        if found := _TIME.fullmatch(objective.name):
            name = f"{found['what']}_s"
            bounds[name] = min(bounds.get(name, float("inf")), _seconds(objective.bound, found["unit"]))
    return Good(**bounds)


def judge(objectives: Sequence[Objective], seen: Seen) -> list[Judged]:
    """Each objective against what was seen."""
    own_bound = any(objective.name == "refusals_percent" for objective in objectives)
    failed = seen.errors if own_bound else seen.errors + seen.refused
    return [_judge(objective, seen, failed, refusals_apart=own_bound) for objective in objectives]


def met(judged: Sequence[Judged]) -> bool:
    """Whether all were met. One of which nothing could be seen was not: no answers are no good answers."""
    return all(one.met for one in judged)


def _judge(objective: Objective, seen: Seen, failed: int, *, refusals_apart: bool) -> Judged:
    name, bound = objective.name, objective.bound
    if name in _AT_MOST:
        count, what = (failed, "errors") if name == "errors_percent" else (seen.refused, "refusals")
        if not seen.ended:
            return Judged(name, bound, None, None)
        with_refusals = what == "errors" and seen.refused > 0 and not refusals_apart
        notes = [f"{count:,} of {seen.ended:,}"]
        if with_refusals:
            notes.append(f"{seen.refused:,} refused, {seen.errors:,} errors")
        if bound > 0 and bound * seen.ended < 100 and not count:
            notes.append(f"one {what.removesuffix('s')} in so few would miss it")
        share = 100 * count / seen.ended
        note = ", ".join(notes)
        return Judged(name, bound, share, share <= bound, note=note, with_refusals=with_refusals)
    if name in _AT_LEAST:
        at_least = {
            "goodput_percent": None if seen.goodput is None else 100 * seen.goodput,
            "requests_per_s": seen.requests_per_s,
            "tokens_per_s": seen.tokens_per_s,
        }[name]
        return Judged(name, bound, at_least, None if at_least is None else at_least >= bound, at_least=True)
    found = _TIME.fullmatch(name)
    if found is None:  # of a file that a newer Headgate wrote
        return Judged(name, bound, None, None, note="an objective that this Headgate doesn't know")
    times = seen.times[found["what"]]
    if times is None:
        return Judged(name, bound, None, None, note="nothing to measure it by")
    value = times.at(found["at"])
    few = f"of {times.count} only" if times.count < 20 and found["at"] not in ("p50", "mean", "max") else ""
    return Judged(
        name, bound, value if found["unit"] == "s" else value * 1000, value <= _seconds(bound, found["unit"]), note=few
    )


def _seconds(bound: float, unit: str) -> float:
    return bound if unit == "s" else bound / 1000
