"""What a refused person reads."""

from __future__ import annotations

from headgate.gate import Ledger
from headgate.gate.outcomes import Decision, Refused
from headgate.gate.sentences import sentence
from tests.gate.says import a_ledger, granted, waiting


def said(ledger: Ledger, decision: Decision) -> str:
    assert isinstance(decision, Refused)
    return sentence(decision, ledger)


def test_slots_busy() -> None:
    ledger = a_ledger(mode="reject")
    granted(ledger.offer(0.0))
    assert said(ledger, ledger.offer(0.0)) == "The one slot is busy. Come back in about 1 s."


def test_queue_full() -> None:
    ledger = a_ledger(slots=4, queue_max=1)
    granted(ledger.offer(0.0, weight=4))
    waiting(ledger.offer(0.0))
    wanted = "All 4 slots are busy and the line of 1 is full. Come back in about 1 s."
    assert said(ledger, ledger.offer(0.0)) == wanted


def test_queue_full_by_bytes() -> None:
    ledger = a_ledger(slots=4, queue_max_bytes=10)
    granted(ledger.offer(0.0, weight=2))
    wanted = "The 4 slots that this request takes are not free and the line holds as many bytes as it may."
    assert said(ledger, ledger.offer(0.0, weight=9, size_bytes=11)) == f"{wanted} Come back in about 1 s."


def test_queue_full_while_the_engine_wakes() -> None:
    ledger = Ledger(queue_max=0)
    ledger.expect(0.0, 3000.0)
    wanted = "No engine is ready yet and the line of 0 is full. Come back in about 50 min."
    assert said(ledger, ledger.offer(0.0)) == wanted


def test_queue_timeout() -> None:
    ledger = a_ledger(queue_timeout_s=2.5)
    granted(ledger.offer(0.0))
    waiting(ledger.offer(0.0))
    assert said(ledger, ledger.tick(2.5)[0]) == "No slot came free within 2.5 s. Come back in about 3 s."


def test_request_timeout() -> None:
    ledger = a_ledger()
    granted(ledger.offer(0.0))
    waiting(ledger.offer(0.0, request_timeout_s=0.0))
    wanted = "The request's time was over before a slot came free. Come back in about 1 s."
    assert said(ledger, ledger.tick(0.0)[0]) == wanted


def test_engine_unavailable() -> None:
    ledger = Ledger(wake_timeout_s=300.0)
    waiting(ledger.offer(0.0))
    assert said(ledger, ledger.tick(300.0)[0]) == "No engine became ready within 300 s. Come back in about 5 s."


def test_draining() -> None:
    ledger = a_ledger()
    ledger.close(0.0, 30.0)
    wanted = "The gateway is shutting down and takes no new work. Come back in about 30 s."
    assert said(ledger, ledger.offer(0.0)) == wanted
