"""How it stands, in plain words: one sentence for whoever looks on, and what to do about it.

Pure: what was seen comes in, words go out. ``picture`` looks and shows them, in ``/status`` and on the page. Apart
from it because this is where a person's question is answered, and words need tests of their own. It ends at the
gateway's own figures: what a graph over a day would tell is not known here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from math import ceil
from typing import NamedTuple

import msgspec

from headgate.errors import Reason
from headgate.pool.lifecycle import State

KV_FULL = 0.95
"""Above this an engine pushes sequences aside to go on with others."""


class Kind(StrEnum):
    """What stands out."""

    IDLE = "idle"
    SERVING = "serving"
    BUSY = "busy"
    FULL = "full"
    REFUSING = "refusing"
    EASED = "eased"
    LOADING = "loading"
    ASLEEP = "asleep"
    UNREACHED = "unreached"
    TROUBLE = "trouble"
    FAILED = "failed"
    DRAINING = "draining"


class Standing(NamedTuple):
    """One sentence or two (``says``), and what to do (``advice``; empty where nothing need be done)."""

    kind: Kind
    says: str
    advice: str = ""


class Load(msgspec.Struct, frozen=True):
    """How far a start has come: ``fraction`` of this phase."""

    phase: str
    fraction: float | None = None


class Engine(msgspec.Struct, frozen=True):
    """An engine's own status, as far as it matters here.

    Attributes:
        failure: what went wrong last, in this life or the one before.
        trouble: what was wrong at the last look.
        max_num_seqs: what it runs at once, where known.
    """

    name: str
    state: State
    kind: str | None = None
    url: str | None = None
    load: Load | None = None
    eta_s: float | None = None
    since_s: float = 0.0
    failure: str | None = None
    trouble: str | None = None
    kv_usage: float | None = None
    max_num_seqs: int | None = None


class Seen(NamedTuple):
    """What was seen.

    Attributes:
        eta_s: what a newcomer would wait behind all who wait now; None: unknown.
        in_turn: the line is first come, first served, so that nobody comes in before others.
        head_weight: slots that the first in the line needs.
        aside: how many of those who wait do so for others of their key, which holds as many slots as it may.
        held_back: slots that came free in a bunch and will be given out a moment later.
        late: how many of those who wait have done so for too long already to be served in time.
        refused: by reason, within the last ``lately_s`` seconds, those that were not the callers' fault.
        ttft_p95_s, slo_ttft_s: the slowest first tokens of late, and how soon they should come.
        max_active: the setting; None: found from what the engine says.
    """

    slots: int
    active: int
    waiting: int
    engines: Sequence[Engine]
    eta_s: float | None = 0.0
    in_turn: bool = True
    head_weight: int = 1
    aside: int = 0
    held_back: int = 0
    late: int = 0
    draining: bool = False
    refused: Mapping[str, int] = {}
    lately_s: int = 10
    ttft_p95_s: float | None = None
    slo_ttft_s: float | None = None
    reject: bool = False
    queue_max: int = 64
    max_active: int | None = None
    queue_timeout_s: float = 30.0
    wake_timeout_s: float = 300.0
    request_timeout_s: float = 300.0
    drain_timeout_s: float = 30.0


def standing(seen: Seen) -> Standing:
    """The sentence. What can't be worked with comes first, then what callers feel, then how much is going on."""
    if seen.draining:
        return _draining(seen)
    if not seen.slots:
        return _no_engine(seen)
    if any(seen.refused.values()):
        told = _refusing(seen)
    elif seen.waiting:
        told = _line(seen)
    else:
        told = _no_line(seen)
    down = [engine for engine in seen.engines if engine.state is not State.READY]
    if down:
        which = ", ".join(f"{engine.name} {_does(engine)}" for engine in down[:3])
        more = f", and {len(down) - 3} more" if len(down) > 3 else ""
        said = f"{told.says} {len(down)} of {len(seen.engines)} engines can't help: {which}{more}."
        return told._replace(says=said, advice=f"See the engines below. {told.advice}".strip())
    return told


# With no engine.


def _draining(seen: Seen) -> Standing:
    if not seen.active and not seen.waiting:
        return Standing(Kind.DRAINING, "Draining: all work is done, and the engine is being stopped.")
    running = _many(seen.active, "slot is still at work", "slots are still at work")
    wait = f", {_wait(seen.waiting)}" if seen.waiting else ""
    return Standing(
        Kind.DRAINING,
        f"Draining: newcomers are refused; {running}{wait}.",
        f"It ends by itself when they are done, or cuts them short {seen.drain_timeout_s:g} s after the signal "
        "(DRAIN_TIMEOUT_S).",
    )


_NEAREST = (State.READY, State.STARTING, State.ASLEEP, State.BACKOFF, State.WEDGED, State.DRAINING, State.STOPPING)
"""Which of several engines that can't be used is waited for: the one that is nearest to being ready."""


def _no_engine(seen: Seen) -> Standing:
    if not seen.engines:
        return Standing(Kind.FAILED, "There is no engine.")
    engine = min(seen.engines, key=lambda each: _NEAREST.index(each.state) if each.state in _NEAREST else len(_NEAREST))
    it = "The engine" if len(seen.engines) == 1 else f"None of {len(seen.engines)} engines is ready; {engine.name}"
    wait = f" {_wait(seen.waiting).capitalize()} for it." if seen.waiting else ""
    patience = f"Requests are taken and wait for it, up to {seen.wake_timeout_s:g} s (WAKE_TIMEOUT_S)."
    match engine.state:
        case State.STARTING if engine.kind == "remote":
            at = f" at {engine.url}" if engine.url else ""
            how = f" as it should{at}: {_cause(engine)}" if engine.failure else at
            return Standing(
                Kind.UNREACHED,
                f"{it} does not answer{how}.{wait}",
                f"Somebody else runs it: start it, or mend ENGINE_URLS or ENGINE_API_KEY. {patience}",
            )
        case State.STARTING:
            is_told = engine.failure in (None, engine.trouble)
            again = "" if is_told else f" It was started again: {_cause(engine)}."
            now = f" At the last look: {engine.trouble}." if engine.trouble else ""
            return Standing(Kind.LOADING, f"{it} is starting{_progress(engine)}.{again}{now}{wait}", patience)
        case State.READY:
            return Standing(Kind.TROUBLE, f"{it} has failed a request and is being looked at.{wait}", patience)
        case State.ASLEEP:
            return Standing(Kind.ASLEEP, f"{it} is asleep, and is woken by the next request.{wait}")
        case State.BACKOFF:
            soon = f" in {_about(engine.eta_s)}" if engine.eta_s is not None else " soon"
            return Standing(
                Kind.TROUBLE,
                f"{it} has failed ({_cause(engine)}) and should be back{soon}.{wait}",
                f"Its last words are below. {patience}",
            )
        case State.WEDGED:
            then = "Restart it where it runs" if engine.kind == "remote" else "It is being restarted"
            return Standing(Kind.TROUBLE, f"{it} hangs: {_cause(engine)}.{wait}", f"{then}. {patience}")
        case State.FAILED:
            return Standing(
                Kind.FAILED,
                f"{it} has failed again and again and was given up on ({_cause(engine)}).{wait}",
                f"Its last words are below. Mend the cause, then POST /admin/engines/{engine.name}/restart with the "
                "admin key, or start the gateway anew.",
            )
        case _:
            return Standing(Kind.TROUBLE, f"{it} is {engine.state}.{wait}", patience)


def _progress(engine: Engine) -> str:
    load = engine.load
    phase = ""
    if load is not None and load.phase:
        phase = f" ({load.phase}{f', {_percent(load.fraction)}' if load.fraction is not None else ''})"
    if engine.eta_s is None:
        return f"{phase}, for {_about(engine.since_s)} now. How long it takes is known once it was seen to start"
    return f"{phase}: about {_about(engine.eta_s)} to go"


def _does(engine: Engine) -> str:
    away = engine.state is State.STARTING and engine.kind == "remote"
    return "does not answer" if away else f"is {engine.state}"


def _cause(engine: Engine) -> str:
    return (engine.failure or "nobody knows why").rstrip(".")


# With slots.


def _refusing(seen: Seen) -> Standing:
    total = sum(seen.refused.values())
    reason = max(seen.refused, key=lambda each: seen.refused[each])
    which = reason if seen.refused[reason] == total else f"{seen.refused[reason]} {reason}"
    refused = f"{total} {'was' if total == 1 else 'were'} refused in the last {seen.lately_s} s ({which})"
    if seen.active >= seen.slots or reason == Reason.TOO_MANY_CONNECTIONS:  # which has nothing to do with slots
        wait = f", {_wait(seen.waiting)}" if seen.waiting else ""
        return Standing(Kind.REFUSING, f"Refusing: {_held(seen)}{wait}, {refused}.", _mend(reason, seen))
    now = _held(seen) if seen.active else _free(seen)
    return Standing(Kind.EASED, f"Refusing no longer: {now}, but {refused}.", _mend(reason, seen))


def _mend(reason: str, seen: Seen) -> str:
    match reason:
        case Reason.QUEUE_FULL:
            return f"{_more(seen)} To let more wait instead, raise QUEUE_MAX (now {seen.queue_max})."
        case Reason.SLOTS_BUSY if seen.reject:
            return f"{_more(seen)} QUEUE_MODE=queue would let them wait for a slot."
        case Reason.SHED:
            return f"SHED turns some away by chance before all must be. {_more(seen)}"
        case Reason.QUEUE_TIMEOUT:
            return (
                f"They waited {seen.queue_timeout_s:g} s (QUEUE_TIMEOUT_S) for nothing. {_more(seen)} A shorter line "
                f"(QUEUE_MAX, now {seen.queue_max}) would tell them at once."
            )
        case Reason.ENGINE_UNAVAILABLE:
            return f"No engine was ready within {seen.wake_timeout_s:g} s (WAKE_TIMEOUT_S); see the engines below."
        case Reason.ENGINE_FAILED:
            return "The engine failed at them; its log says why. See the engines below."
        case Reason.TOO_MANY_CONNECTIONS:
            return (
                "As many clients are connected as may be: raise MAX_CONNECTIONS, and the limit of open files with it."
            )
        case Reason.REQUEST_TIMEOUT:
            return f"{seen.request_timeout_s:g} s (REQUEST_TIMEOUT_S) passed before their first token. {_more(seen)}"
        case _:
            return _more(seen)


def _line(seen: Seen) -> Standing:
    if seen.waiting == seen.aside:
        others = "a newcomer with another key starts at once" if seen.active < seen.slots else _newcomers(seen)
        return Standing(
            Kind.BUSY if seen.active >= seen.slots else Kind.SERVING,
            f"{_held(seen).capitalize()}; {_wait(seen.waiting)} for others of the same key; {others}.",
            "Their keys hold as many slots as they may (max_active in API_KEYS_FILE).",
        )
    free_slots = seen.slots - seen.active - seen.held_back
    if free_slots > 0:
        free = _many(free_slots, "slot is free", "slots are free")
        return Standing(
            Kind.FULL,
            f"{_wait(seen.waiting).capitalize()} though {free}: the first in the line needs {seen.head_weight}.",
            "A request takes a slot for each of its sequences (n times the number of prompts). Nobody overtakes it.",
        )
    late = f" ({seen.late} too long already to be in time)" if seen.late else ""
    return Standing(
        Kind.FULL,
        f"The gate is full: {_held(seen)}, {_wait(seen.waiting)}{late}, {_newcomers(seen)}.",
        _more(seen),
    )


def _no_line(seen: Seen) -> Standing:
    slow = ""
    if seen.ttft_p95_s is not None and seen.slo_ttft_s is not None and seen.ttft_p95_s > seen.slo_ttft_s:
        slow = (
            f"First tokens take up to {_precisely(seen.ttft_p95_s)} (p95) and should take {seen.slo_ttft_s:g} s. If "
            "nobody had to wait in the line, too many run at once for the engine: lower MAX_ACTIVE."
        )
    if seen.active >= seen.slots:
        return Standing(Kind.BUSY, f"{_held(seen).capitalize()} and nobody waits; {_newcomers(seen)}.", slow)
    if seen.active:
        return Standing(Kind.SERVING, f"{_held(seen).capitalize()}; a newcomer starts at once.", slow)
    return Standing(Kind.IDLE, f"Idle: {_free(seen)}, a newcomer starts at once.")


def _more(seen: Seen) -> str:
    """What would let more be served at once."""
    ready = [engine for engine in seen.engines if engine.state is State.READY]
    full = [engine.kv_usage for engine in ready if engine.kv_usage is not None and engine.kv_usage >= KV_FULL]
    if ready and len(full) == len(ready):
        return (
            f"The KV cache is {_percent(min(full))} full: more slots would only push work aside. To serve more: "
            "shorter contexts, more GPU memory, or another engine."
        )
    takes = min((engine.max_num_seqs for engine in ready if engine.max_num_seqs is not None), default=None)
    each = seen.slots // max(len(ready), 1)
    if takes is not None and each >= takes:
        return (
            f"The engine runs {takes} at once (--max-num-seqs), and no more. To serve more: raise that"
            f"{' and MAX_ACTIVE' if seen.max_active is not None else ''} if its KV cache has room, or add an engine."
        )
    if seen.max_active is None:
        return (
            f"MAX_ACTIVE=auto has found that {each}{' an engine' if len(ready) > 1 else ''} can be served at once "
            "within SLO_TTFT_S and SLO_ITL_MS. To serve more: add an engine, or give up speed with a higher MAX_ACTIVE."
        )
    limit = f"; the engine runs up to {takes}" if takes is not None else ""
    return (
        f"To serve more at once: raise MAX_ACTIVE (now {each}{' an engine' if len(ready) > 1 else ''}{limit}) for as "
        "long as tokens come fast enough, or add an engine."
    )


def _free(seen: Seen) -> str:
    return {1: "the one slot is free", 2: "both slots are free"}.get(seen.slots, f"all {seen.slots} slots are free")


def _held(seen: Seen) -> str:
    if seen.slots == 1:
        return "the one slot is busy"
    if seen.active >= seen.slots:
        return "both slots are busy" if seen.slots == 2 else f"{seen.active} of {seen.slots} slots are busy"
    return f"{seen.active} of {seen.slots} slots {'is' if seen.active == 1 else 'are'} busy"


def _newcomers(seen: Seen) -> str:
    if seen.reject:
        return "newcomers are refused (QUEUE_MODE=reject)"
    if seen.waiting >= seen.queue_max:
        return f"newcomers are refused: the line of {seen.queue_max} is full"
    if seen.eta_s is None:
        return "newcomers wait"
    return f"a newcomer waits {'about' if seen.in_turn else 'up to about'} {_about(seen.eta_s)}"


def _wait(count: int) -> str:
    return _many(count, "waits", "wait")


def _many(count: int, one: str, several: str) -> str:
    return f"{count} {one if count == 1 else several}"


def _about(seconds: float | None) -> str:
    if seconds is None:
        return "some time"
    return f"{max(ceil(seconds), 1)} s" if seconds <= 120 else f"{ceil(seconds / 60)} min"


def _percent(share: float) -> str:
    return f"{share * 100:.0f} %"


def _precisely(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
