"""The whole gate in one random walk: ``python -m tests.gate.walk --steps 100000``.

``model`` holds the ledger against a naive one, step by step. Here everything that a gateway has around it is joined:
tasks that wait, are cancelled, come back when told, from dead engines and with slots taken from them; keys with caps;
engines that come and go and whose slots ``MAX_ACTIVE=auto`` moves; shedding, and a drain at the end. Looked at is what
must be so whenever nothing is left to do at a moment, and what is left at the end, which is nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from math import inf, isfinite

from headgate.errors import Reason, Refusal
from headgate.gate import Claim, Gate, Lease, Ledger, Shedder, make_order
from headgate.gate.bookings import Bookings
from headgate.gate.capped import Capped
from headgate.gate.limits import Limit, Reading
from headgate.gate.orders import Name
from headgate.gate.slots import NONE_ENDED, Ended
from headgate.gate.timely import Timely
from tests.gate.clock import nothing_is_left_to_do, pass_time, run

ENGINES = ("e0", "e1", "e2")
MOST = {"a": None, "b": 1, "c": 3, "d": 4}
"""What each key may hold."""
TOLD_LATE_S = 0.002
"""The gate's timer comes a little after the deadline."""
WENT = frozenset((Reason.SLOTS_BUSY, Reason.QUEUE_FULL, Reason.WAIT_TOO_LONG, Reason.SHED, Reason.QUEUE_TIMEOUT))
"""Refusals whose return is known."""


@dataclass(eq=False)
class Client:
    """One request, and where it is."""

    number: int
    key: str
    claim: Claim
    weight: int
    size_bytes: int
    hold_s: float
    fate: str
    """What becomes of its first slots: ``ends``, ``dies`` (its engine does), ``put_back``."""
    task: asyncio.Task[None] | None = None
    lease: Lease | None = None
    passes: bool = False
    front: bool = False
    waits: bool = False
    cancelled: bool = False
    ends: list[str] = field(default_factory=list)


class Walk:
    """One gate, from its start to the end of its drain."""

    def __init__(self, dice: random.Random, order: Name) -> None:
        self.dice = dice
        self.queue_max = dice.choice([0, 2, 8, 40])
        self.queue_timeout_s = dice.choice([0.5, 3.0, 30.0])
        self.wake_timeout_s = dice.choice([1.0, 5.0])
        self.order = make_order(order, capped=True)
        self.ledger = Ledger(
            queue_mode=dice.choice(["queue", "queue", "reject"]),
            queue_max=self.queue_max,
            queue_max_bytes=dice.choice([500, 10**6]),
            queue_timeout_s=self.queue_timeout_s,
            wake_timeout_s=self.wake_timeout_s,
            order=self.order,
        )
        self.loop = asyncio.get_running_loop()
        self.gate = Gate(self.ledger, clock=self.loop.time)
        self.bookings = Bookings()
        self.shedder = Shedder() if dice.random() < 0.5 else None
        self.limits: dict[str, Limit] = {}
        self.ended: dict[str, Ended] = {}
        self.clients: list[Client] = []
        self.seen: Counter[str] = Counter()
        self.came = 0
        self.passed = 0  # that went past the line's bound since it was last within it

    # What happens.

    def step(self) -> None:
        dice = self.dice
        match dice.choices(range(6), weights=[60, 12, 6, 3, 4, 2])[0]:
            case 0:
                for _ in range(dice.choice([1, 1, 1, 2, 5, 20])):
                    self.come()
            case 1 if self.clients:
                self.cancel(dice.choice(self.clients))
            case 2:
                self.read()
            case 3:
                self.turn(dice.choice(ENGINES))
            case 4:
                self.gate.pace(dice.choice(ENGINES), dice.choice([0.0, 0.05, 1.0]))
            case 5:
                self.gate.tempo(dice.choice([0.001, 0.02, 0.5]))
                self.gate.expect(dice.choice([None, 0.0, 3.0]))

    def come(self) -> None:
        dice = self.dice
        key = dice.choice("aabbccd")
        claim = Claim(
            key=key,
            user=dice.choice(["", "u", "v"]),
            share=dice.choice([1.0, 4.0]) if key == "a" else 1.0,
            rank=dice.choice([-1, 0, 0, 0, 1]),
            tokens=dice.choice([1.0, 30.0, 2000.0]),
            within_s=dice.choice([0.2, 1.0, inf]),
            deadline_s=dice.choice([0.3, 2.0, inf, inf, inf]),
            most=MOST[key],
            answer=dice.choice([1.0, 100.0, 5000.0]),
        )
        self.begin(
            Client(
                self.came,
                key,
                claim,
                dice.choice([1, 1, 1, 1, 2, 5, 40]),
                dice.choice([0, 10, 100]),
                dice.choice([0.01, 0.1, 0.5, 3.0]) * (1.0 - dice.random()),
                dice.choices(["ends", "dies", "put_back"], weights=[20, 1, 1])[0],
            )
        )

    def begin(self, client: Client) -> None:
        self.came += 1
        self.clients.append(client)
        client.task = asyncio.create_task(self.serve(client))
        client.task.add_done_callback(lambda task: self.over(client, task))

    def cancel(self, client: Client) -> None:
        assert client.task is not None
        client.cancelled = True
        client.task.cancel()

    def turn(self, engine: str) -> None:
        """It comes, with so many slots, or goes."""
        slots = self.dice.choice([0, 0, 1, 2, 8, 24])
        self.limits.pop(engine, None)
        if slots:
            self.limits[engine] = Limit(slots, itl_s=0.05, ttft_s=0.5)
            self.ended[engine] = self.gate.ended_on(engine)
        self.gate.resize(engine, slots)

    def read(self) -> None:
        """A second of ``MAX_ACTIVE=auto``, with engines that show anything."""
        dice = self.dice
        for engine, limit in self.limits.items():
            ended, before = self.gate.ended_on(engine), self.ended[engine]
            if ended.number < before.number:
                before = NONE_ENDED
            gaps, firsts = float(dice.choice([0, 50])), float(dice.choice([0, 5]))
            first_s = dice.choice([0.01, 0.6])
            slots = limit.read(
                Reading(
                    seconds=1.0,
                    active=self.gate.held_on(engine),
                    wanted=self.gate.wanting > 0,
                    gaps_s=gaps * dice.choice([0.01, 0.1]),
                    gaps=gaps,
                    firsts_s=firsts * first_s,
                    firsts_s2=firsts * first_s**2,
                    firsts=firsts,
                    begun=ended.firsts - before.firsts,
                    in_time=ended.in_time - before.in_time,
                    holds_s=ended.held_s - before.held_s,
                    holds_s2=ended.held_s2 - before.held_s2,
                    holds=ended.number - before.number,
                    preempted=dice.choice([0, 0, 0, 0, 1]),
                    running=dice.choice([None, 3.0]),
                    waiting=dice.choice([None, 0.0, 9.0]),
                    held_back=self.gate.held_back_on(engine),
                )
            )
            assert 1 <= slots <= limit.most
            assert isfinite(limit.pace_s)
            assert limit.pace_s >= 0
            self.ended[engine] = ended
            self.gate.resize(engine, slots)
            self.gate.pace(engine, limit.pace_s)

    async def serve(self, client: Client) -> None:
        now = self.loop.time()
        mark = hash((client.key, client.number))
        booked = self.bookings.redeem(now, mark)
        client.claim = client.claim._replace(booked=booked)
        try:
            if self.shedder is not None and not booked:
                chance = self.shedder.chance(self.gate.wanting, self.queue_max, client.claim.rank)
                assert 0.0 <= chance <= 1.0
                if chance and self.dice.random() < chance:
                    raise self.gate.turn_away(Reason.SHED, client.weight)
            await self.hold(client)
            client.ends.append("ok")
        except Refusal as refusal:
            self.refused(client, refusal, mark)
        except asyncio.CancelledError:
            client.ends.append("left")
            raise
        finally:
            client.waits = False
            if self.shedder is not None:
                self.shedder.learn(self.loop.time() - now)

    def refused(self, client: Client, refusal: Refusal, mark: int) -> None:
        client.ends.append(refusal.reason)
        told_s = refusal.told_s
        assert told_s is not None
        assert 0 < told_s <= (refusal.retry_after_s or 0.0) < inf
        assert 0 <= refusal.aside_s <= self.queue_timeout_s + TOLD_LATE_S, refusal.aside_s
        assert refusal.for_own or client.passes or not refusal.aside_s
        if refusal.reason in WENT and self.dice.random() < 0.5:
            self.bookings.book(self.loop.time(), mark, told_s)
            self.loop.call_later(told_s, self.come_back, client)

    def come_back(self, old: Client) -> None:
        self.seen["came back"] += 1
        self.begin(Client(old.number, old.key, old.claim, old.weight, old.size_bytes, old.hold_s, "ends"))

    async def hold(self, client: Client) -> None:
        lease = self.gate.acquire_nowait(weight=client.weight, claim=client.claim, who=client)
        if lease is None:
            client.waits = True
            lease = await self.gate.acquire(
                weight=client.weight, size_bytes=client.size_bytes, claim=client.claim, who=client
            )
        while True:
            self.granted(client, lease)
            try:
                await pass_time(client.hold_s / 2)
                lease.first_token()
                await pass_time(client.hold_s / 2)
            except BaseException:
                self.release(client)
                raise
            fate, client.fate = client.fate, "ends"
            if fate == "ends":
                self.release(client)
                self.gate.settle(lease, self.dice.choice([0.0, 10.0, 3000.0]))
                return
            self.seen[fate] += 1
            kept = None
            if fate == "put_back":
                kept = lease
                self.release(client)
                self.gate.settle(lease, 0.0)
            client.lease = None  # given back within, where its engine died
            client.passes = client.waits = True
            self.passed += 1
            client.front = kept is None
            lease = await self.gate.acquire(
                weight=client.weight,
                size_bytes=client.size_bytes,
                after=None if kept is not None else lease,
                kept=kept,
                claim=client.claim,
                who=client,
            )

    def granted(self, client: Client, lease: Lease) -> None:
        client.waits = False
        client.lease = lease
        assert 0 <= lease.aside_s <= lease.waited_s + 1e-9
        assert lease.waited_s <= self.queue_timeout_s + TOLD_LATE_S
        assert lease.predicted_s is None or 0 <= lease.predicted_s < inf
        self.seen["granted"] += 1
        self.seen["stood aside"] += lease.for_own
        self.seen["booked"] += client.claim.booked

    def release(self, client: Client) -> None:
        assert client.lease is not None
        client.lease.release()
        client.lease = None

    def over(self, client: Client, task: asyncio.Task[None]) -> None:
        self.clients.remove(client)
        if not client.ends and task.cancelled():  # it was before it had begun
            client.ends.append("left")
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error
        assert len(client.ends) == 1, f"{client.ends}: a request has one end"
        assert client.lease is None
        assert client.ends != ["left"] or client.cancelled
        self.seen[client.ends[0]] += 1

    # What must be so when nothing is left to do.

    def check(self) -> None:
        now = self.loop.time()
        seen = self.gate.statistics()
        holders = [each for each in self.clients if each.lease is not None]
        waiting = [each for each in self.clients if each.waits]
        held = Counter[str]()
        for each in holders:
            assert each.lease is not None
            held[each.lease.engine] += each.lease.weight
        assert seen.active_by_engine == {name: held[name] for name in seen.active_by_engine}
        assert seen.active == held.total(), "a slot was lost"
        assert seen.waiting == len(waiting) == len(self.gate._futures)
        if seen.waiting <= self.queue_max:
            self.passed = 0
        assert seen.waiting <= self.queue_max + self.passed, "the line is longer than it may be"
        assert seen.waiting_bytes == sum(each.size_bytes for each in waiting)
        assert seen.oldest_wait_s <= self.queue_timeout_s + self.wake_timeout_s + TOLD_LATE_S
        assert seen.aside <= seen.waiting
        assert self.gate.wanting == seen.waiting - seen.aside
        for name, most in MOST.items():
            own = [each for each in holders if each.key == name]
            weights = [each.lease.weight for each in own if each.lease is not None]
            if most is not None and len(own) > 1 and not any(each.front for each in own):
                assert sum(weights) <= most, "a key holds more than it may"
        if self.gate._timer_at > now:  # else the gate is about to look
            head = self.order.head(self.ledger._deadlines.clocks(now)[0])
            assert head is None or not self.ledger._slots.has_room(head.weight), "room, and the head waits"
        assert isinstance(self.order, Capped)
        for key in self.order._keys.values():
            first = key.aside.head(-inf)
            assert first is None or not self.order.admits(first), "it stands aside for nobody"
        line, newcomer_s = self.gate.outlook(1000)
        assert len(line) == seen.waiting
        for eta_s in [newcomer_s, *(each.eta_s for each in line)]:
            assert eta_s is None or 0 <= eta_s < inf

    def check_empty(self) -> None:
        """Nothing of anybody is left."""
        assert not self.clients
        assert not self.gate._futures
        order, ledger = self.order, self.ledger
        assert isinstance(order, Capped)
        assert not order._keys
        assert not order._counted
        assert not order._stand_aside
        assert (order.aside_weights.all, order.aside_weights._heavy) == (0, {})
        assert (ledger._weights.all, ledger._weights._heavy, ledger._waiting_bytes) == (0, {}, 0)
        assert abs(ledger._waiting_answers) < 1e-6
        assert abs(order.aside_answers) < 1e-6
        assert not ledger._slots.holders
        if isinstance(order.beneath, Timely):
            beneath = order.beneath
            assert not any(map(len, (beneath._in_time, beneath._parked, beneath._all)))
            assert not any((beneath._since, beneath._watched, beneath._returned))


async def walk(steps: int, dice: random.Random, order: Name) -> Counter[str]:
    """One gate's life; ``AssertionError`` at the first thing that must not be."""
    errors: list[BaseException] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: errors.append(context.get("exception") or Exception(str(context))))
    one = Walk(dice, order)
    for _ in range(steps):
        one.step()
        if dice.random() < 0.5:
            await pass_time(dice.choice([0.0, 0.01, 0.1, 1.0]))
        await nothing_is_left_to_do()
        if errors:
            raise errors[0]
        one.check()
    one.gate.close(5.0)
    await pass_time(5.0)
    one.gate.evict()
    await asyncio.wait_for(one.gate.wait_idle(), 60.0)
    await pass_time(100.0)  # who comes back when told is refused now
    one.check_empty()
    if errors:
        raise errors[0]
    return one.seen


def walks(steps: int, seed: int, life: int = 500) -> Counter[str]:
    """Gates one after another, for so many steps."""
    seen: Counter[str] = Counter()
    dice = random.Random(seed)
    for begun in range(0, steps, life):
        order: Name = dice.choice(["fifo", "priority", "fair", "fair"])
        try:
            seen += run(walk(min(life, steps - begun), dice, order))
        except AssertionError as broken:
            broken.add_note(f"seed {seed}, in the {life} steps from {begun}, {order}")
            raise
    return seen


def main() -> None:
    """Walk, and say what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    for what, count in sorted(walks(arguments.steps, arguments.seed).items()):
        print(f"{what}: {count}")


if __name__ == "__main__":
    main()
