"""One request's way, with a real gate and a real socket: what it leaves behind, which is nothing."""

from __future__ import annotations

import asyncio
import gc
import io
import time
import weakref
from collections.abc import Awaitable, Callable

import pytest

from headgate.call import Call, Limits, Route
from headgate.errors import Reason, Refusal
from headgate.flow import Flow
from headgate.gate import Gate, Ledger
from headgate.gate.bookings import Bookings
from headgate.gate.fair import Fair
from headgate.gate.ordering import Order
from headgate.openai import Dialect
from headgate.relay.reply import Plan
from headgate.relay.upstream import Unreachable, Upstream
from headgate.shapes import Asked
from headgate.telemetry.logs import RequestLog
from headgate.telemetry.metrics import Metrics
from tests.relay.test_exchange import run
from tests.relay.test_reply import END, HELLO, JSON, LATE, SSE, Client, chunked, play

DONE = b"data: [DONE]\n\n"
WHOLE = SSE + chunked(HELLO, DONE) + END


class OneEngine:
    """The engines as the flow sees them: one, that is always there and well."""

    def __init__(self, upstream: Upstream | None) -> None:
        self._upstream = upstream
        self.suspected = 0
        self.is_given_up = False

    def route(self, engine: str) -> Route:
        if self._upstream is None:
            raise Unreachable("it has just gone")
        return Route(self._upstream, b"", b"host: x\r\n", can_include_usage=True)

    def served(self, engine: str) -> None:
        return

    def suspect(self, engine: str) -> None:
        self.suspected += 1

    async def recovered(self, engine: str) -> bool:
        return True

    def life(self, engine: str) -> int:
        return 1

    def any_ready(self) -> str | None:
        return None if self.is_given_up else "e0"

    def given_up(self) -> bool:
        return self.is_given_up

    def serves(self, model: str) -> bool | None:
        return model != "none"

    def eta_s(self) -> float | None:
        return 1.0


class Rig:
    """A flow with a gate, of one slot and in the order of coming where nothing else is said."""

    def __init__(
        self,
        upstream: Upstream | None,
        *,
        slots: int = 1,
        order: Order | None = None,
        request_timeout_s: float = 3600.0,
        preempt: bool = False,
    ) -> None:
        self.gate = Gate(Ledger(queue_max=4, order=order))
        self.gate.resize("e0", slots)
        self.metrics = Metrics()
        self.engines = OneEngine(upstream)
        self.logged = io.StringIO()
        self.log = log = RequestLog(self.logged, as_json=True, level="info")
        limits = Limits(request_timeout_s=request_timeout_s, status_hold_s=3600.0, preempt=preempt)
        self.now_s: float | None = None
        self.flow = Flow(self.gate, self.engines, self.metrics, log, limits, self.clock, bookings=Bookings())
        self.refused: list[Refusal] = []

    def clock(self) -> float:
        return time.monotonic() if self.now_s is None else self.now_s

    async def serve(
        self,
        client: Client,
        *,
        model: str = "m",
        gated: bool = True,
        body: bytes = b"{}",
        rank: int = 0,
        streamed: bool = True,
        max_tokens: int | None = None,
    ) -> None:
        plan = Plan(Dialect.OPENAI, streamed=streamed, wants_usage=False)
        call = Call(
            route="/r",
            target=b"/r",
            body=body,
            content_type=b"application/json",
            asked=Asked(model=model, stream=streamed, max_tokens=max_tokens),
            plan=plan,
            request_id="r1",
            key="k",
            arrived=self.clock(),
            gated=gated,
            rank=rank,
        )

        def refuse(refusal: Refusal) -> int:
            self.refused.append(refusal)
            return 599

        await self.flow.serve(call, client, refuse)
        client.on_pause = client.on_resume = None  # as Downstream.finish does

    def ended(self) -> list[tuple[str, str]]:
        """Status and reason of every request that is in the books."""
        found: list[tuple[str, str]] = []
        for labels, count in self.metrics.requests.values.items():
            found += [(labels[3], labels[4])] * int(count)
        return sorted(found)


async def _left_behind(rig: Rig, serve: Callable[[Client], Awaitable[None]]) -> list[object]:
    """What is still alive of a request after its end, with no help of the garbage collector."""
    gc.collect()
    gc.disable()
    try:
        client = Client()
        seen = weakref.ref(client)
        await serve(client)
        del client
        assert rig.gate.statistics().active == rig.gate.statistics().waiting == 0
        return [alive for alive in [seen()] if alive is not None]
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("answer", "ending"),
    [
        (WHOLE, ("200", "ok")),
        (SSE + chunked(HELLO) + END, ("200", "engine_failed")),
        (JSON + b"content-length: 2\r\n\r\n{}", ("200", "ok")),
        (JSON.replace(b"200", b"404") + b"content-length: 2\r\n\r\n{}", ("404", "not_found")),
    ],
)
def test_nothing_of_an_answered_request_is_left(answer: bytes, ending: tuple[str, str]) -> None:
    """A deadline's timer, say, would keep a request and its client for five minutes after the answer."""

    async def claim(upstream: Upstream) -> None:
        rig = Rig(upstream)
        assert not await _left_behind(rig, rig.serve)
        assert rig.ended() == [ending]

    play(answer, claim)


def test_nothing_of_a_client_that_left_is_left() -> None:
    async def claim(upstream: Upstream) -> None:
        rig = Rig(upstream)

        async def leave(client: Client) -> None:
            task = asyncio.create_task(rig.serve(client))
            await client.first.wait()
            task.cancel()
            await task
            del task

        assert not await _left_behind(rig, leave)
        assert rig.ended() == [("499", "client_left")]
        assert rig.metrics.cancelled.values == {("streaming",): 1.0}

    play(SSE + chunked(HELLO), claim)


def test_client_that_leaves_the_line_is_booked_as_queued() -> None:
    async def claim(upstream: Upstream) -> None:
        rig = Rig(upstream)
        first, second = Client(), Client()
        running = asyncio.create_task(rig.serve(first))
        await first.first.wait()
        waiting = asyncio.create_task(rig.serve(second))
        await asyncio.sleep(0)  # it has run, and waits
        assert rig.gate.statistics().waiting == 1
        waiting.cancel()
        await waiting
        assert rig.metrics.cancelled.values == {("queued",): 1.0}
        running.cancel()
        await running
        assert rig.gate.statistics().active == 0

    play(SSE + chunked(HELLO), claim)


def test_who_comes_back_when_it_was_told_gets_a_place_in_a_full_line() -> None:
    async def claim(upstream: Upstream) -> None:
        rig = Rig(upstream)
        rig.now_s = 1000.0
        held = await rig.gate.acquire()
        line = [asyncio.create_task(rig.gate.acquire()) for _ in range(4)]
        await asyncio.sleep(0)  # they have run, and wait
        await rig.serve(Client(), body=b"mine")
        told_s = rig.refused[-1].told_s
        assert told_s is not None
        rig.now_s += told_s / 2
        await rig.serve(Client(), body=b"mine")
        rig.now_s += told_s
        await rig.serve(Client(), body=b"another's")
        assert [refusal.reason for refusal in rig.refused] == [Reason.QUEUE_FULL] * 3, "too soon; and new"
        serving = asyncio.create_task(rig.serve(Client(), body=b"mine"))
        await asyncio.sleep(0)
        with pytest.raises(Refusal):
            await line.pop()  # the newest gave way
        held.release()
        await serving
        assert len(rig.refused) == 3
        assert rig.metrics.returns.values == {("granted",): 1.0}
        for waiter in line:
            (await waiter).release()

    play(WHOLE, claim)


def test_unknown_model_is_refused_before_the_gate() -> None:
    async def claim(upstream: Upstream) -> None:
        rig = Rig(upstream)
        await rig.serve(Client(), model="none")
        assert [refusal.reason for refusal in rig.refused] == [Reason.NOT_FOUND]
        assert rig.gate.statistics().granted_total == 0

    play(WHOLE, claim)


@pytest.mark.parametrize("gated", [True, False])
def test_nobody_waits_for_an_engine_that_was_given_up_on(gated: bool) -> None:
    """Each waited WAKE_TIMEOUT_S, five minutes, for what only an operator could bring back."""

    async def claim(_: Upstream) -> None:
        rig = Rig(None, slots=0)
        rig.engines.is_given_up = True
        await rig.serve(Client(), gated=gated)
        assert [(refusal.reason, refusal.retry_after_s) for refusal in rig.refused] == [("engine_unavailable", 60.0)]
        assert rig.ended() == [("599", "engine_unavailable")]

    play(WHOLE, claim)


@pytest.mark.parametrize("gated", [True, False])
def test_engine_that_has_just_gone_gives_every_slot_back_and_is_suspected(gated: bool) -> None:
    async def claim(_: Upstream) -> None:
        rig = Rig(None)
        await rig.serve(Client(), gated=gated)
        assert [refusal.reason for refusal in rig.refused] == [Reason.ENGINE_FAILED]
        assert rig.engines.suspected >= 1
        assert rig.gate.statistics().active == 0

    play(WHOLE, claim)


def test_fault_of_our_own_is_told_booked_and_gives_the_slot_back(caplog: pytest.LogCaptureFixture) -> None:
    """Any exception but a refusal left the request out of the books, and the client with a page of plain text."""

    async def claim(upstream: Upstream) -> None:
        rig = Rig(upstream)

        class Failing(Client):
            def write(self, data: bytes) -> None:
                if not self.first.is_set():
                    self.first.set()
                    raise KeyError("a fault of ours")
                super().write(data)

        client = Failing()
        await rig.serve(client)
        assert rig.gate.statistics().active == 0
        assert rig.ended() == [("200", "engine_failed")]
        assert client.ended
        assert b"its log says how" in client.body

    play(WHOLE, claim)
    assert "the gateway itself failed" in caplog.text


def test_cut_all_ends_what_runs_with_the_refusal() -> None:
    async def claim(upstream: Upstream) -> None:
        rig = Rig(upstream)
        client = Client()
        task = asyncio.create_task(rig.serve(client))
        await client.first.wait()
        assert rig.flow.cut_all(LATE) == 1
        await task
        assert client.body.endswith(DONE)
        assert rig.ended() == [("200", "request_timeout")]
        assert rig.flow.cut_all(LATE) == 0

    play(SSE + chunked(HELLO), claim)


def test_ids_are_unique_and_ours() -> None:
    async def claim(upstream: Upstream) -> None:
        one, other = Rig(upstream).flow, Rig(upstream).flow
        assert len({one.new_id() for _ in range(100)} | {other.new_id() for _ in range(100)}) == 200

    play(WHOLE, claim)


def test_nobody_is_charged_for_what_the_engine_never_gave() -> None:
    """Whoever is hit by a dying engine would have lost its turns as well."""

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)

    async def claim(upstream: Upstream) -> None:
        order = Fair()
        rig = Rig(upstream, order=order)
        for _ in range(5):
            await rig.serve(Client())
        assert rig.ended() == [("599", "engine_failed")] * 5
        (member,) = order._keys.members.values()
        assert member.finish == 0

    run(hang_up, claim)


def test_an_error_of_the_engine_is_no_short_answer() -> None:
    """Thirty of them had it expect five tokens of a caller's next answer, so that a burst passed its token limit."""

    async def claim(upstream: Upstream) -> None:
        rig = Rig(upstream)
        expected = rig.flow._estimate.answer("k", None)
        for _ in range(30):
            await rig.serve(Client())
        assert rig.flow._estimate.answer("k", None) == expected

    play(JSON.replace(b"200 OK", b"400 Bad Request") + b"content-length: 2\r\n\r\n{}", claim)


def test_an_answer_that_was_cut_at_its_most_teaches_nothing_of_others() -> None:
    """Titles of three tokens had it expect three of a question, which was charged and told its wait by that."""
    body = b'{"usage":{"prompt_tokens":5,"completion_tokens":3,"total_tokens":8}}'

    async def claim(upstream: Upstream) -> None:
        rig = Rig(upstream)
        expected = rig.flow._estimate.answer("k", None)
        await rig.serve(Client(), streamed=False, max_tokens=3)
        assert rig.flow._estimate.answer("k", None) == expected
        await rig.serve(Client(), streamed=False, max_tokens=4)
        assert rig.flow._estimate.answer("k", None) < expected

    play(JSON + b"content-length: %d\r\n\r\n" % len(body) + body, claim)


def test_who_holds_a_slot_to_its_time_limit_is_charged_what_was_expected() -> None:
    """It was charged nothing: whoever asked for what never ends had as many turns as everybody, each for minutes."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1000):
            pass

    async def claim(upstream: Upstream) -> None:
        order = Fair()
        rig = Rig(upstream, order=order, request_timeout_s=0.05)
        await rig.serve(Client())
        assert rig.ended() == [("599", "request_timeout")]
        (member,) = order._keys.members.values()
        assert member.finish > 100

    run(silent, claim)
