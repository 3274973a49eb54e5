"""How it stands, in words: each situation has its sentence, and no situation has a silly one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.api.problems import STATUS
from headgate.errors import Reason
from headgate.pool.lifecycle import State
from headgate.standing import Engine, Kind, Load, Seen, standing

READY = Engine("e0", State.READY, max_num_seqs=64)


def seen(active: int = 8, waiting: int = 0, *, slots: int = 8, engines: Any = (READY,), **more: Any) -> Seen:
    return Seen(slots, active, waiting, engines, **{"eta_s": 5.2, "max_active": slots, **more})


def starting(**more: Any) -> Seen:
    return seen(0, more.pop("waiting", 0), slots=0, engines=(Engine("e0", State.STARTING, **more),))


def engine(state: State, **more: Any) -> Seen:
    return seen(0, slots=0, engines=(Engine("e0", state, **more),))


FULL = "The gate is full: 8 of 8 slots are busy, 12 wait, a newcomer waits about 6 s."
RAISE = "To serve more at once: raise MAX_ACTIVE (now 8; the engine runs up to 64)"
WAITS = "Requests are taken and wait for it, up to 300 s (WAKE_TIMEOUT_S)."


@pytest.mark.parametrize(
    ("what", "kind", "says", "advice"),
    [
        (seen(0), Kind.IDLE, "Idle: all 8 slots are free, a newcomer starts at once.", ""),
        (seen(0, slots=1), Kind.IDLE, "Idle: the one slot is free, a newcomer starts at once.", ""),
        (seen(0, slots=2), Kind.IDLE, "Idle: both slots are free, a newcomer starts at once.", ""),
        (seen(1), Kind.SERVING, "1 of 8 slots is busy; a newcomer starts at once.", ""),
        (seen(8), Kind.BUSY, "8 of 8 slots are busy and nobody waits; a newcomer waits about 6 s.", ""),
        (
            seen(8, reject=True),
            Kind.BUSY,
            "8 of 8 slots are busy and nobody waits; newcomers are refused (QUEUE_MODE=reject).",
            "",
        ),
        (
            seen(4, ttft_p95_s=2.26, slo_ttft_s=1.0),
            Kind.SERVING,
            "4 of 8 slots are busy; a newcomer starts at once.",
            "First tokens take up to 2.3 s (p95) and should take 1 s.",
        ),
        (seen(8, 12), Kind.FULL, FULL, RAISE),
        (
            seen(8, 12, in_turn=False),
            Kind.FULL,
            "The gate is full: 8 of 8 slots are busy, 12 wait, a newcomer waits up to about 6 s.",
            RAISE,
        ),
        (
            seen(8, 12, max_active=None),
            Kind.FULL,
            FULL,
            "MAX_ACTIVE=auto has found that 8 can be served at once within SLO_TTFT_S and SLO_ITL_MS.",
        ),
        (
            seen(8, 12, late=9),
            Kind.FULL,
            "The gate is full: 8 of 8 slots are busy, 12 wait (9 too long already to be in time), a newcomer waits",
            RAISE,
        ),
        (seen(1, 1, slots=1), Kind.FULL, "The gate is full: the one slot is busy, 1 waits, a newcomer", ""),
        (seen(6, 3, head_weight=4), Kind.FULL, "3 wait though 2 slots are free: the first in the line needs 4.", ""),
        (
            seen(7, 12, held_back=1),
            Kind.FULL,
            "The gate is full: 7 of 8 slots are busy, 12 wait, a newcomer waits about 6 s.",
            RAISE,
        ),
        (
            seen(8, 12, engines=(Engine("e0", State.READY, kv_usage=0.97, max_num_seqs=64),)),
            Kind.FULL,
            FULL,
            "The KV cache is 97 % full: more slots would only push work aside.",
        ),
        (
            seen(8, 12, engines=(Engine("e0", State.READY, max_num_seqs=8),), max_active=8),
            Kind.FULL,
            FULL,
            "The engine runs 8 at once (--max-num-seqs), and no more. To serve more: raise that and MAX_ACTIVE if",
        ),
        (
            seen(8, 12, engines=(READY, Engine("e1", State.STOPPING), Engine("e2", State.STARTING, kind="remote"))),
            Kind.FULL,
            f"{FULL} 2 of 3 engines can't help: e1 is stopping, e2 does not answer.",
            f"See the engines below. {RAISE}",
        ),
        (
            seen(8, 64, refused={Reason.QUEUE_FULL: 14}),
            Kind.REFUSING,
            "Refusing: 8 of 8 slots are busy, 64 wait, 14 were refused in the last 10 s (queue_full).",
            (
                f"{RAISE} for as long as tokens come fast enough, or add an engine. To let more wait instead, raise "
                "QUEUE_MAX (now 64)."
            ),
        ),
        (
            seen(3, refused={Reason.QUEUE_FULL: 3, Reason.QUEUE_TIMEOUT: 1}),
            Kind.EASED,
            "Refusing no longer: 3 of 8 slots are busy, but 4 were refused in the last 10 s (3 queue_full).",
            "",
        ),
        (
            seen(0, refused={Reason.TOO_MANY_CONNECTIONS: 20}),
            Kind.REFUSING,
            "Refusing: 0 of 8 slots are busy, 20 were refused in the last 10 s (too_many_connections).",
            "As many clients are connected as may be: raise MAX_CONNECTIONS",
        ),
        (
            seen(0, refused={Reason.ENGINE_FAILED: 1}),
            Kind.EASED,
            "Refusing no longer: all 8 slots are free, but 1 was refused in the last 10 s (engine_failed).",
            "The engine failed at them; its log says why.",
        ),
        (
            starting(load=Load("loading weights", 0.43), eta_s=19.5),
            Kind.LOADING,
            "The engine is starting (loading weights, 43 %): about 20 s to go.",
            WAITS,
        ),
        (
            starting(since_s=3.0, waiting=2, failure="ended by itself: exit 1"),
            Kind.LOADING,
            (
                "The engine is starting, for 3 s now. How long it takes is known once it was seen to start. It was "
                "started again: ended by itself: exit 1. 2 wait for it."
            ),
            WAITS,
        ),
        (
            starting(eta_s=9, trouble="GET /v1/models is answered with 401"),
            Kind.LOADING,
            "The engine is starting: about 9 s to go. At the last look: GET /v1/models is answered with 401.",
            WAITS,
        ),
        (
            starting(eta_s=9, failure="its /health says no", trouble="its /health says no"),
            Kind.LOADING,
            "The engine is starting: about 9 s to go. At the last look: its /health says no.",
            WAITS,
        ),
        (
            starting(kind="remote", url="http://gpu:8000", waiting=1),
            Kind.UNREACHED,
            "The engine does not answer at http://gpu:8000. 1 waits for it.",
            "Somebody else runs it: start it, or mend ENGINE_URLS or ENGINE_API_KEY.",
        ),
        (
            starting(kind="remote", url="http://gpu:8000", failure="GET /v1/models is answered with 401"),
            Kind.UNREACHED,
            "The engine does not answer as it should at http://gpu:8000: GET /v1/models is answered with 401.",
            "Somebody else runs it: start it, or mend ENGINE_URLS or ENGINE_API_KEY.",
        ),
        (
            engine(State.BACKOFF, failure="ended by itself: killed", eta_s=7),
            Kind.TROUBLE,
            "The engine has failed (ended by itself: killed) and should be back in 7 s.",
            "Its last words are below.",
        ),
        (
            engine(State.FAILED, failure="exit 2"),
            Kind.FAILED,
            "The engine has failed again and again and was given up on (exit 2).",
            "Its last words are below. Mend the cause, then POST /admin/engines/e0/restart",
        ),
        (
            seen(0, slots=0, engines=(Engine("e0", State.FAILED), Engine("e1", State.WEDGED, failure="hangs"))),
            Kind.TROUBLE,
            "None of 2 engines is ready; e1 hangs: hangs.",
            "It is being restarted.",
        ),
        (engine(State.ASLEEP), Kind.ASLEEP, "The engine is asleep, and is woken by the next request.", ""),
        (engine(State.READY), Kind.TROUBLE, "The engine has failed a request and is being looked at.", WAITS),
        (
            seen(3, 2, draining=True),
            Kind.DRAINING,
            "Draining: newcomers are refused; 3 slots are still at work, 2 wait.",
            "It ends by itself when they are done, or cuts them short 30 s after the signal (DRAIN_TIMEOUT_S).",
        ),
        (seen(0, draining=True), Kind.DRAINING, "Draining: all work is done, and the engine is being stopped.", ""),
    ],
)
def test_each_situation_has_its_sentence(what: Seen, kind: Kind, says: str, advice: str) -> None:
    told = standing(what)
    assert told.kind is kind
    assert told.says.startswith(says)
    assert told.advice.startswith(advice)
    assert bool(told.advice) or kind in (Kind.IDLE, Kind.SERVING, Kind.BUSY, Kind.ASLEEP, Kind.DRAINING)


@pytest.mark.parametrize("reason", [reason for reason, status in STATUS.items() if status == 429 or status > 500])
def test_every_refusal_that_is_ours_has_advice(reason: Reason) -> None:
    for reject in (False, True):
        told = standing(seen(8, 1, refused={reason: 2}, reject=reject))
        assert reason in told.says
        assert told.advice.endswith(".")


maybe_s = st.none() | st.floats(0, 4000)
an_engine = st.builds(
    Engine,
    st.sampled_from(["e0", "e1"]),
    st.sampled_from(State),
    st.sampled_from([None, "vllm", "remote"]),
    st.sampled_from([None, "http://x"]),
    st.none() | st.builds(Load, st.sampled_from(["", "compiling"]), st.none() | st.floats(0, 1)),
    maybe_s,
    st.floats(0, 1e6),
    st.sampled_from([None, "", "it broke."]),
    st.sampled_from([None, "GET /v1/models is answered with 401"]),
    st.none() | st.floats(0, 1),
    st.none() | st.integers(1, 300),
)


@given(
    st.builds(
        Seen,
        *(st.integers(0, 9) for _ in range(3)),
        st.lists(an_engine, max_size=6),
        eta_s=maybe_s,
        draining=st.booleans(),
        refused=st.dictionaries(st.sampled_from(Reason), st.integers(0, 3)),
        ttft_p95_s=maybe_s,
        slo_ttft_s=maybe_s,
        reject=st.booleans(),
        max_active=st.none() | st.integers(1, 9),
        lately_s=st.just(10),
        **{f"{name}_timeout_s": st.floats(0.1, 3600) for name in ("queue", "wake", "request", "drain")},
    )
)
def test_whatever_is_seen_is_told_in_whole_sentences(what: Seen) -> None:
    told = standing(what)
    for text in (told.says, told.advice):
        assert not text or (text.endswith(".") and text[0] == text[0].upper()), text
        for silly in ("None", "..", "  ", " .", "nan", "State", "()"):
            assert silly not in text.replace("None of", "")
    assert told.says
