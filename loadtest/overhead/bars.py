"""The bars that Headgate is held to, and whether a raw file shows them met.

A bar without figures on both sides is "not measured", never met. One that is met by the median but missed in
some round says so: that is what noise looks like.
"""

from collections.abc import Callable
from dataclasses import dataclass

from loadtest.overhead.figures import Figure, Figures, cpu_us, start_s, time_ms

OURS = ("headgate", "headgate-compiled")
YARDSTICK = "haproxy"


@dataclass(frozen=True, slots=True)
class Verdict:
    bar: str
    seen: str
    verdict: str
    """`met`, `not met`, `not measured`."""


def verdicts(figures: Figures, ours: str) -> list[Verdict]:
    """Of one of `OURS`."""
    paced, whole = cpu_us("paced"), cpu_us("whole")
    per_event = "CPU per paced event"
    per_request = "CPU per whole request"

    def times(what: str, other: str, limit: float, note: str = "") -> Verdict:
        measure = paced if what == per_event else whole
        ratio = figures.ratio(ours, other, measure)
        text = f"{what}: below {other}" if limit == 1 else f"{what}: at most {limit:g} × {other}{note}"
        # "below" is below; "at most" may be reached
        return judged(text, ratio, " ×", lambda value: value < limit or (limit != 1 and value == limit))

    return [
        times(per_event, YARDSTICK, 1.3),
        times(per_event, "sglang-router", 1),
        times(per_event, "vllm-router", 1),
        times(per_event, "litellm", 0.02),
        times(per_request, YARDSTICK, 3),
        times(per_request, YARDSTICK, 2, " (goal)"),
        times(per_request, "sglang-router", 1),
        judged(
            "added time to first token, p50: at most 1 ms",
            figures.added(ours, "direct", time_ms("ttft", "ttft_ms", "p50")),
            " ms",
            lambda value: value <= 1,
        ),
        _first_token_p99(figures, ours),
        judged("start to /health: at most 1 s", figures.figure(ours, start_s), " s", lambda value: value <= 1),
        _no_errors(figures, ours),
    ]


def judged(bar: str, figure: Figure | None, unit: str, met: Callable[[float], bool]) -> Verdict:
    if figure is None:
        return Verdict(bar, "–", "not measured")
    seen = f"{figure.middle:.3g}{unit}"
    if figure.rounds > 1:
        seen += f" ({figure.least:.3g}–{figure.most:.3g})"
    if met(figure.middle):
        return Verdict(bar, seen, "met" if met(figure.most) else "met, missed in some round")
    return Verdict(bar, seen, "not met, but in some round" if met(figure.least) else "not met")


def _first_token_p99(figures: Figures, ours: str) -> Verdict:
    """The spread is the range of direct's own p99 over its rounds: how one run differs from the next."""
    bar = "time to first token, p99: within direct's spread + 1 ms"
    measure = time_ms("ttft", "ttft_ms", "p99")
    own, direct = figures.figure(ours, measure), figures.figure("direct", measure)
    if own is None or direct is None or direct.rounds < 2:
        return Verdict(bar, "–", "not measured")
    limit = direct.middle + (direct.most - direct.least) + 1
    seen = f"{own.middle:.3g} ms ({own.least:.3g}–{own.most:.3g}), limit {limit:.3g} ms"
    return Verdict(bar, seen, "met" if own.middle <= limit else "not met")


def _no_errors(figures: Figures, ours: str) -> Verdict:
    bar = "every answer whole, in order, its own"
    if ours not in figures.targets:
        return Verdict(bar, "–", "not measured")
    errors = figures.errors(ours)
    seen = ", ".join(f"{kind} × {count}" for kind, count in errors.items()) or "no error"
    return Verdict(bar, seen, "not met" if errors else "met")
