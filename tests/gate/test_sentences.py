"""What a refused person reads."""

from __future__ import annotations

from headgate.gate import Claim, Ledger, make_order
from headgate.gate.outcomes import Decision, Refused, Waiting
from headgate.gate.sentences import sentence
from tests.gate.says import a_ledger, granted, waiting


def said(ledger: Ledger, decision: Decision) -> str:
    assert isinstance(decision, Refused)
    return sentence(decision, ledger)


def test_slots_busy() -> None:
    ledger = a_ledger(mode="reject")
    granted(ledger.offer(0.0))
    assert said(ledger, ledger.offer(0.0)) == "The model is busy: its one slot is taken. Try again in about 1 second."


def test_queue_full() -> None:
    ledger = a_ledger(slots=4, queue_max=1)
    granted(ledger.offer(0.0, weight=4))
    waiting(ledger.offer(0.0))
    wanted = "The model is busy: all 4 slots are taken and the line of 1 is full. Try again in about 1 second."
    assert said(ledger, ledger.offer(0.0)) == wanted


def test_queue_full_by_bytes() -> None:
    ledger = a_ledger(slots=4, queue_max_bytes=10)
    granted(ledger.offer(0.0, weight=2))
    wanted = (
        "The model is busy: the 4 slots that this request takes are not free and the line holds as many bytes as it"
        " may. Try again in about 1 second."
    )
    assert said(ledger, ledger.offer(0.0, weight=9, size_bytes=11)) == wanted


def test_queue_full_while_the_engine_wakes() -> None:
    ledger = Ledger(queue_max=0)
    ledger.expect(0.0, 3000.0)
    wanted = "The model is not ready yet and no line is kept. Try again in about 50 minutes."
    assert said(ledger, ledger.offer(0.0)) == wanted


def test_a_deadline_of_its_own_that_passed() -> None:
    ledger = a_ledger(slots=2)
    granted(ledger.offer(0.0, weight=2))
    waiting(ledger.offer(0.0, claim=Claim(deadline_s=0.25)))
    (refused,) = ledger.tick(0.25)
    assert isinstance(refused, Refused)
    wanted = "The model is busy: both slots are taken, and this request may wait for 0.25 s at most."
    assert sentence(refused, ledger).startswith(wanted)


def test_queue_timeout() -> None:
    ledger = a_ledger(queue_timeout_s=2.5)
    granted(ledger.offer(0.0))
    waiting(ledger.offer(0.0))
    assert (
        said(ledger, ledger.tick(2.5)[0])
        == "The model is busy: no slot came free within 2.5 s. Try again in about 3 seconds."
    )


def test_request_timeout() -> None:
    ledger = a_ledger()
    granted(ledger.offer(0.0))
    waiting(ledger.offer(0.0, request_timeout_s=0.0))
    wanted = "The request's time was over before a slot came free. Try again in about 1 second."
    assert said(ledger, ledger.tick(0.0)[0]) == wanted


def test_engine_unavailable() -> None:
    ledger = Ledger(wake_timeout_s=300.0)
    waiting(ledger.offer(0.0))
    assert (
        said(ledger, ledger.tick(300.0)[0])
        == "The model is not ready: no engine came up within 300 s. Try again in about 5 seconds."
    )


def test_draining() -> None:
    ledger = a_ledger()
    ledger.close(0.0, 30.0)
    wanted = "The gateway is shutting down and takes no new work. Try again in about 30 seconds."
    assert said(ledger, ledger.offer(0.0)) == wanted


def test_a_place_that_went_to_another_is_not_laid_to_the_callers_deadline() -> None:
    ledger = a_ledger(queue_max=1, order=make_order("fair"))
    granted(ledger.offer(0.0))
    waiting(ledger.offer(0.1, claim=Claim(key="a", rank=1, deadline_s=3600.0)))
    decision = ledger.offer(0.2, claim=Claim(key="b", deadline_s=3600.0))
    assert isinstance(decision, Waiting)
    assert decision.displaced is not None
    assert "3600" not in sentence(decision.displaced, ledger)
