"""Who got what: the same figures for each caller, and how evenly it was shared. Pure.

Two indexes, because they answer two questions. Of tokens: what a fair gate evens out between callers that all want
more than they get. Of the part that was answered: whether some were turned away more than others.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec

from headgate.workbench.bench.figures import Spread, jain, spread
from headgate.workbench.bench.raw import CallerPlan, Outcome, Record


class CallerFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One caller. Rates are per second."""

    name: str
    share: float
    requests: int
    answered: int
    refused: int
    errors: int
    tokens: int
    tokens_per_s: float
    goodput_per_s: float
    latency: Spread | None
    ttft: Spread | None
    queue: Spread | None
    """In line, of those answered, by what the gateway says."""
    starved: int
    """Those who had no answer begun after ``starved_s``, nor were told that they get none."""


def by_caller(
    plans: Sequence[CallerPlan],
    ended: Sequence[Record],
    good: Collection[int],
    over_s: float,
    span_s: float,
    starved_s: float,
) -> list[CallerFigures]:
    """The figures of each, in the plan's order, then of those only a trace knows; ``good`` has the ids of the good.

    Tokens per second are over ``span_s``, other rates over ``over_s``, as those of the whole run are.
    """
    names = [plan.name for plan in plans]
    shares = {plan.name: plan.share for plan in plans}
    records: dict[str, list[Record]] = {name: [] for name in names}
    for record in ended:
        records.setdefault(record.caller, []).append(record)
    return [
        _figures(name, shares.get(name, 1.0), mine, good, over_s, span_s, starved_s)
        for name, mine in records.items()
        if mine or name in shares
    ]


def jain_tokens(callers: Sequence[CallerFigures]) -> float | None:
    """How evenly completion tokens were shared."""
    return jain([float(caller.tokens) for caller in callers])


def jain_answered(callers: Sequence[CallerFigures]) -> float | None:
    """How evenly the chance to be answered was."""
    return jain([caller.answered / caller.requests for caller in callers if caller.requests])


def waited_s(record: Record) -> float:
    """Until the answer began, as far as can be seen, or until whatever came instead."""
    if record.ttft_s is not None:
        return record.ttft_s
    if record.outcome is Outcome.OK and record.queue_ms is not None:
        return record.queue_ms / 1000
    return record.latency_s


def _figures(
    name: str,
    share: float,
    records: Sequence[Record],
    good: Collection[int],
    over_s: float,
    span_s: float,
    starved_s: float,
) -> CallerFigures:
    answered = [record for record in records if record.outcome is Outcome.OK]
    refused = sum(record.outcome is Outcome.REFUSED for record in records)
    tokens = sum(record.tokens for record in records)
    return CallerFigures(
        name=name,
        share=share,
        requests=len(records),
        answered=len(answered),
        refused=refused,
        errors=len(records) - len(answered) - refused,
        tokens=tokens,
        tokens_per_s=tokens / span_s,
        goodput_per_s=sum(id(record) in good for record in answered) / over_s,
        latency=spread(record.latency_s for record in answered),
        ttft=spread(record.ttft_s for record in answered if record.ttft_s is not None),
        queue=spread(record.queue_ms / 1000 for record in answered if record.queue_ms is not None),
        starved=sum(waited_s(record) > starved_s for record in records),
    )
