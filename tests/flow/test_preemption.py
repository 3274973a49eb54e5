"""Whose slot is taken for somebody more urgent, and what becomes of who had it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

from headgate.gate.fair import Fair
from headgate.gate.orders import make_order
from headgate.relay.upstream import Upstream
from tests.flow.test_flow import Rig
from tests.relay.test_exchange import run
from tests.relay.test_reply import JSON, Client

BODY = (
    b'{"id":"x","choices":[{"message":{"content":"hi"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":1,"completion_tokens":5}}'
)
LOW, NORMAL, HIGH = 1, 0, -1


class Patient:
    """An engine that takes requests, and answers none before it may ``go``. ``begins``: what it says at once."""

    def __init__(self, begins: bytes = b"") -> None:
        self.go = asyncio.Event()
        self.asked = asyncio.Semaphore(0)
        self.times = 0
        self._begins = begins

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1000):
            self.times += 1
            head = JSON + b"content-length: %d\r\n\r\n" % len(BODY)
            writer.write(head + self._begins if self._begins else b"")
            self.asked.release()
            await self.go.wait()
            writer.write(BODY[len(self._begins) :] if self._begins else head + BODY)

    async def until_asked(self, times: int) -> None:
        for _ in range(times):
            await self.asked.acquire()


def play(claim: Callable[[Upstream, Patient], Awaitable[None]], begins: bytes = b"") -> None:
    engines: list[Patient] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await engines[0].serve(reader, writer)

    async def with_engine(upstream: Upstream) -> None:
        engines.append(Patient(begins))
        await claim(upstream, engines[0])

    run(serve, with_engine)


def begun(rig: Rig, *, rank: int, gated: bool = True) -> asyncio.Task[None]:
    return asyncio.create_task(rig.serve(Client(), rank=rank, gated=gated, streamed=False))


def put_back(rig: Rig) -> float:
    return rig.metrics.engine_requests.values.get(("e0", "put_back"), 0.0)


def test_of_several_that_come_in_one_turn_each_takes_another_slot() -> None:
    async def claim(upstream: Upstream, engine: Patient) -> None:
        rig = Rig(upstream, slots=3, order=make_order("priority"), preempt=True)
        low = [begun(rig, rank=LOW) for _ in range(3)]
        await engine.until_asked(3)
        high = [begun(rig, rank=HIGH) for _ in range(3)]
        await engine.until_asked(3)
        assert put_back(rig) == 3
        engine.go.set()
        await asyncio.gather(*high, *low)
        assert rig.ended() == [("200", "ok")] * 6
        assert put_back(rig) == 3, "nor is one put back that waits again"

    play(claim)


def test_a_call_that_holds_no_slot_is_left_alone() -> None:
    """It was ended, as a fault of the gateway's own, and nobody had a slot of it."""

    async def claim(upstream: Upstream, engine: Patient) -> None:
        rig = Rig(upstream, order=make_order("priority"), preempt=True)
        holds = begun(rig, rank=NORMAL)
        await engine.until_asked(1)
        aside = begun(rig, rank=LOW, gated=False)
        await engine.until_asked(1)
        waits = begun(rig, rank=NORMAL)
        engine.go.set()
        await asyncio.gather(holds, aside, waits)
        assert rig.ended() == [("200", "ok")] * 3

    play(claim)


def test_nothing_is_put_back_where_its_slot_could_be_granted_to_nobody() -> None:
    """The engine is suspected, and has no slots for now: what runs there may well end."""

    async def claim(upstream: Upstream, engine: Patient) -> None:
        rig = Rig(upstream, slots=3, order=make_order("priority"), preempt=True)
        low = [begun(rig, rank=LOW) for _ in range(3)]
        await engine.until_asked(3)
        rig.gate.resize("e0", 0)
        high = [begun(rig, rank=HIGH) for _ in range(3)]
        engine.go.set()
        await asyncio.gather(*low)
        rig.gate.resize("e0", 3)
        await asyncio.gather(*high)
        assert (put_back(rig), engine.times) == (0, 6)

    play(claim)


async def until_one_has_begun(upstream: Upstream) -> None:
    while [exchange._answered for exchange in upstream._open] != [True]:  # noqa: ASYNC110  it comes in a later turn
        await asyncio.sleep(0)


def test_its_times_are_those_of_the_answer_that_was_sent() -> None:
    """Of a whole answer the first part had come; it was thrown away, and its time was told as that of the other's."""

    async def claim(upstream: Upstream, engine: Patient) -> None:
        rig = Rig(upstream, order=make_order("priority"), preempt=True)
        rig.now_s = 100.0
        low = begun(rig, rank=LOW)
        await engine.until_asked(1)
        await until_one_has_begun(upstream)
        high = begun(rig, rank=HIGH)
        await engine.until_asked(1)
        await until_one_has_begun(upstream)
        rig.now_s = 107.0
        engine.go.set()
        await asyncio.gather(low, high)
        rig.log.flush()
        lines = [json.loads(line) for line in rig.logged.getvalue().splitlines()]
        assert put_back(rig) == 1
        assert [line["ttft_ms"] for line in lines] == [0.0, 7000.0], "the second is the one that was put back"

    play(claim, begins=BODY[:20])


def charged(rig: Rig) -> float:
    """The tokens that the one caller has been charged, all in all."""
    order = rig.gate._ledger._order
    assert isinstance(order, Fair)
    (member,) = order._keys.members.values()
    return member.finish


async def one_for_another(upstream: Upstream, engine: Patient) -> tuple[Rig, asyncio.Task[None], asyncio.Task[None]]:
    """One slot, taken from a low request for a high one, which the engine has; the low one waits."""
    rig = Rig(upstream, order=Fair(), preempt=True)
    low = begun(rig, rank=LOW)
    await engine.until_asked(1)
    high = begun(rig, rank=HIGH)
    await engine.until_asked(1)
    return rig, low, high


def test_it_is_charged_once_for_what_it_got() -> None:
    async def claim(upstream: Upstream, engine: Patient) -> None:
        rig, low, high = await one_for_another(upstream, engine)
        engine.go.set()
        await asyncio.gather(low, high)
        assert put_back(rig) == 1
        assert charged(rig) == 2 * 6, "prompt and answer of both"

    play(claim)


def test_who_leaves_the_line_after_it_was_put_back_is_charged_nothing() -> None:
    async def claim(upstream: Upstream, engine: Patient) -> None:
        rig, low, high = await one_for_another(upstream, engine)
        low.cancel()
        await low
        engine.go.set()
        await high
        assert put_back(rig) == 1
        assert charged(rig) == 6, "prompt and answer of the other"

    play(claim)
