"""What a run comes to: every figure, from its raw records and nothing else. Pure.

Rates of an open load are over the time for which requests were due: a request belongs to the second in which it was
due, even where its answer came later, so no figure depends on how long one waits for the last. In a closed loop, where
nothing is due, they are over the whole run. Tokens per second are always over the whole run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from headgate.workbench.bench import fairness, slo
from headgate.workbench.bench.fairness import CallerFigures
from headgate.workbench.bench.figures import Spread, spread
from headgate.workbench.bench.raw import Header, Objective, Outcome, Record, Run

LATE_MS = 10.0
"""The 99th percentile of this client's own lateness, above which its figures are not to be trusted."""
BUSY = 0.85
"""Of one core: beyond it the client is near its own limit."""


class Obeyed(msgspec.Struct, frozen=True):
    """What those lived through who were refused, and came back when they were told to."""

    refused_first: int
    answered: int
    came_again: int
    """Those who came back at least once; the others' patience was over before."""
    in_at_first: int
    """Of those who came back, who were let in at the first return."""
    refused_again: int
    """Refusals of those who had come when they were told to."""
    tries: Spread | None
    """Of those answered, the one that was answered among them."""
    latency: Spread | None
    """Of those answered, from the moment they were due."""


class Client(msgspec.Struct, frozen=True):
    """What this client saw of itself."""

    cpu: float
    late: Spread | None
    lag: Spread | None
    max_in_flight: int


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """A run. Times are in seconds, rates in 1/s; spreads are None where there was nothing."""

    load: str
    requests: int
    answered: int
    refused: int
    errors: int
    unfinished: int
    by_reason: dict[str, int]
    span_s: float
    offered_s: float
    offered_per_s: float
    answered_per_s: float
    goodput_per_s: float
    goodput: float | None
    tokens_per_s: float
    tokens: int
    prompt_tokens: int
    estimated: int
    """Answers whose tokens the engine didn't count: streams by their events, whole answers with none."""
    latency: Spread | None
    ttft: Spread | None
    inter_token: Spread | None
    tpot: Spread | None
    queue: Spread | None
    mean_prompt_tokens: float | None
    mean_tokens: float | None
    short_answers: int
    callers: list[CallerFigures]
    jain_tokens: float | None
    jain_answered: float | None
    obeyed: Obeyed | None
    client: Client
    objectives: list[slo.Judged]
    met: bool
    interrupted: bool
    warnings: list[str]


def summarize(run: Run, objectives: Sequence[Objective] | None = None) -> Summary:
    """Every figure of a run, judged by its own objectives or by others."""
    objectives = run.header.slo if objectives is None else objectives
    plan, end = run.header.plan, run.end
    records = run.counted
    ended = [record for record in records if record.outcome is not Outcome.UNFINISHED or not end.interrupted]
    answered = [record for record in ended if record.outcome is Outcome.OK]
    good = slo.good(objectives)
    well = [record for record in answered if is_good(record, good)]
    counts = Counter(record.outcome for record in ended)
    span_s = max(end.span_s - plan.warm_s, 1e-9)
    # One request alone, or all of them at once, were due in no time at all.
    offered_s = end.offered_s - plan.warm_s
    over_s = offered_s if plan.users is None and offered_s > 0 else span_s
    tokens = sum(record.tokens for record in records)
    tokens_per_s = tokens / span_s
    times = {
        "latency": spread(record.latency_s for record in answered),
        "ttft": spread(record.ttft_s for record in answered if record.ttft_s is not None),
        "inter_token": spread(gap / 1000 for record in answered for gap in record.gaps_ms),
        "tpot": spread(value for record in answered if (value := tpot_s(record)) is not None),
    }
    failed = counts[Outcome.ERROR] + counts[Outcome.UNFINISHED]
    goodput = len(well) / len(ended) if ended else None
    judged = slo.judge(
        objectives,
        slo.Seen(times, failed, counts[Outcome.REFUSED], len(ended), goodput, len(answered) / over_s, tokens_per_s),
    )
    callers = fairness.by_caller(plan.callers, ended, set(map(id, well)), over_s, span_s, plan.starved_s)
    lateness = [record.late_s for record in records] if plan.users is None else []
    client = Client(
        end.cpu_s / max(end.span_s, 1e-9),
        spread(lateness),
        spread(lag / 1000 for lag in end.lags_ms),
        end.max_in_flight,
    )
    counted = [record for record in answered if record.prompt_tokens]
    return Summary(
        load=load_of(run),
        requests=len(ended),
        answered=len(answered),
        refused=counts[Outcome.REFUSED],
        errors=failed,
        unfinished=counts[Outcome.UNFINISHED],
        by_reason=reasons(ended),
        span_s=end.span_s,
        offered_s=end.offered_s,
        offered_per_s=len(ended) / over_s,
        answered_per_s=len(answered) / over_s,
        goodput_per_s=len(well) / over_s,
        goodput=goodput,
        tokens_per_s=tokens_per_s,
        tokens=tokens,
        prompt_tokens=sum(record.prompt_tokens for record in records),
        estimated=sum(record.estimated for record in answered),
        latency=times["latency"],
        ttft=times["ttft"],
        inter_token=times["inter_token"],
        tpot=times["tpot"],
        queue=spread(record.queue_ms / 1000 for record in answered if record.queue_ms is not None),
        mean_prompt_tokens=sum(r.prompt_tokens for r in counted) / len(counted) if counted else None,
        mean_tokens=sum(r.tokens for r in answered) / len(answered) if answered else None,
        short_answers=sum(
            # An event may hold several tokens: of a count by events only none at all says something.
            record.tokens < record.asked_tokens
            for record in answered
            if not record.estimated or (plan.stream and not record.tokens)
        ),
        callers=callers,
        jain_tokens=fairness.jain_tokens(callers),
        jain_answered=fairness.jain_answered(callers),
        obeyed=_obeyed(ended) if plan.obey_retry_after else None,
        client=client,
        objectives=judged,
        met=slo.met(judged) and bool(ended),
        interrupted=end.interrupted,
        warnings=_warnings(run, client),
    )


def is_good(record: Record, good: slo.Good) -> bool:
    """Whether an answer was within every time bound."""
    gap_s = sum(record.gaps_ms) / len(record.gaps_ms) / 1000 if record.gaps_ms else None
    return good.met(record.latency_s, record.ttft_s, gap_s, tpot_s(record))


def tpot_s(record: Record) -> float | None:
    """Time per output token: from the first event to the last, over the tokens after the first."""
    if record.tokens < 2 or not record.gaps_ms:
        return None
    return sum(record.gaps_ms) / 1000 / (record.tokens - 1)


def reasons(records: Iterable[Record]) -> dict[str, int]:
    """How often each status and reason was an end, the commonest first; refusals that were obeyed are not ends."""
    counts: Counter[str] = Counter()
    for record in records:
        if record.outcome is not Outcome.OK:
            counts[f"{record.status} {record.reason}" if record.status else record.reason] += 1
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def load_of(run: Run) -> str:
    """The load in a few words."""
    plan = run.header.plan
    if plan.users is not None:
        think = f", {plan.think_s:g} s apart" if plan.think_s else ""
        return f"{plan.users} user{'s' if plan.users != 1 else ''} at once{think}"
    if plan.rate is None:
        return "as in the trace" + (f", {plan.speed:g} times as fast" if plan.speed != 1 else "")
    return f"{plan.rate} requests/s, {plan.arrivals} arrivals"


def what(header: Header) -> str:
    """What was asked, in a few words."""
    plan = header.plan
    how = "streamed" if plan.stream else "whole"
    if plan.trace is not None:
        return f"the requests of {plan.trace}, {how}"
    lengths = f"{plan.input_tokens} tokens in, {plan.output_tokens} out"
    extra = {
        "mixed": ", lengths drawn around these",
        "conversation": f", {plan.turns} turns a conversation",
        "shared-prefix": f", after {plan.prefixes} shared prefix{'es' if plan.prefixes > 1 else ''} of "
        f"{plan.prefix_tokens}",
    }.get(plan.workload, "")
    return f"{plan.workload}: {lengths}{extra}, {how}"


def _obeyed(records: Sequence[Record]) -> Obeyed:
    # One whose patience was over was refused and has no try before its end: what it was told is in its record.
    refused = [record for record in records if record.tries or record.outcome is Outcome.REFUSED]
    answered = [record for record in refused if record.outcome is Outcome.OK]
    return Obeyed(
        refused_first=len(refused),
        answered=len(answered),
        came_again=sum(bool(record.tries) for record in refused),
        in_at_first=sum(len(record.tries) == 1 and record.outcome is not Outcome.REFUSED for record in refused),
        refused_again=sum(len(r.tries) - 1 + (r.outcome is Outcome.REFUSED) for r in refused if r.tries),
        tries=spread(float(len(record.tries) + 1) for record in answered),
        latency=spread(record.latency_s for record in answered),
    )


def _warnings(run: Run, client: Client) -> list[str]:
    found = []
    if client.late is not None and client.late.p99 * 1000 > LATE_MS:
        found.append(
            f"this client was late itself: 1 in 100 requests was sent {client.late.p99 * 1000:.0f} ms or more after it "
            "was due; its own lateness is in every time below"
        )
    if client.cpu > BUSY:
        found.append(f"this client used {client.cpu:.0%} of a core, near its own limit: offer less, or run two of it")
    if client.lag is not None and client.lag.p90 * 1000 > 2 * LATE_MS:
        found.append(
            f"this client's loop was held up: by {client.lag.p90 * 1000:.0f} ms or more in 1 second of 10; the machine "
            "is busy with other things, or the load is too much for one client"
        )
    if any(record.reason == "client_limit" for record in run.records):
        found.append(
            f"requests were not sent because {run.header.plan.max_in_flight} were in flight already "
            "(--max-in-flight): they count as errors"
        )
    if run.end.interrupted:
        found.append("the run was interrupted: those in flight then are left out")
    return found
