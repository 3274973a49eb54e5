"""When the loop's turns are put off, and that what comes meanwhile is all done before they are put off again."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop

from headgate.coalescing import TURNS, Coalescing, Spent, spent_here

LEAST_S = 0.01
LOOPS = pytest.mark.parametrize("new_loop", [uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])


class Machine:
    """A processor and its clock, moved by hand."""

    def __init__(self, loop: asyncio.AbstractEventLoop, least_s: float = LEAST_S) -> None:
        self.now_s = 100.0
        self.spent: Spent | None = Spent(1.0, 1.0)
        self.events = 0
        self.slept: list[float] = []
        self.while_asleep: Callable[[], object] = lambda: None
        self.coalescing = Coalescing(
            loop,
            least_s,
            events=lambda: self.events,
            spent=lambda: self.spent,
            clock=lambda: self.now_s,
            sleep=self.sleep,
        )

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds
        self.while_asleep()

    def second(self, ran: float, waited: float, events: int) -> bool:
        """A second in which the thread had so much; whether turns are put off behind it."""
        assert self.spent is not None
        self.now_s += 1
        self.events += events
        self.spent = Spent(self.spent.ran_s + ran, self.spent.waited_s + waited)
        self.coalescing.look()
        return self.coalescing.is_on

    def shared(self) -> bool:
        return self.second(ran=0.2, waited=0.2, events=5_000)


def of_a_loop(play: Callable[[Machine], object], least_s: float = LEAST_S) -> None:
    async def main() -> None:
        play(Machine(asyncio.get_running_loop(), least_s))

    asyncio.run(main())


@pytest.mark.parametrize(
    ("ran", "waited", "events", "on"),
    [
        (0.2, 0.15, 4_000, True),
        (0.05, 0.05, 500, True),
        (0.2, 0.04, 4_000, False),  # a core of its own
        (0.04, 0.15, 4_000, False),  # it hardly runs
        (0.2, 0.15, 499, False),  # less than five events in ten milliseconds
        (0.6, 0.3, 0, False),  # requests alone
    ],
)
def test_puts_off_only_where_the_core_is_shared_and_events_are_many(
    ran: float, waited: float, events: int, on: bool
) -> None:
    def play(machine: Machine) -> None:
        machine.second(ran=0.0, waited=0.0, events=0)
        assert machine.second(ran + 1e-9, waited + 1e-9, events) is on

    of_a_loop(play)


@pytest.mark.parametrize(
    ("ran", "waited", "events", "on"),
    [
        (0.03, 0.03, 300, True),
        (0.02, 0.03, 300, False),
        (0.03, 0.02, 300, False),
        (0.03, 0.03, 200, False),
    ],
)
def test_goes_on_with_half_of_what_it_began_with(ran: float, waited: float, events: int, on: bool) -> None:
    def play(machine: Machine) -> None:
        machine.shared()
        assert machine.shared()
        assert machine.second(ran, waited, events) is on
        assert machine.second(ran, waited, events) is on  # and what was too little to go on is too little to begin

    of_a_loop(play)


def test_first_look_decides_nothing() -> None:
    def play(machine: Machine) -> None:
        assert not machine.shared()
        assert machine.shared()

    of_a_loop(play)


def test_nothing_is_put_off_where_nothing_tells_or_it_is_off() -> None:
    def untold(machine: Machine) -> None:
        machine.spent = None
        machine.coalescing.look()
        machine.coalescing.look()
        assert not machine.coalescing.is_on

    def off(machine: Machine) -> None:
        assert not machine.shared()
        assert not machine.shared()

    of_a_loop(untold)
    of_a_loop(off, least_s=0.0)


def test_gauge_says_whether_it_does() -> None:
    def gauge(machine: Machine) -> float:
        (family,) = machine.coalescing.states()
        assert family.name == "api_coalescing"
        (sample,) = family.samples
        return sample.value

    def play(machine: Machine) -> None:
        machine.shared()
        assert gauge(machine) == 0
        machine.shared()
        assert gauge(machine) == 1
        machine.second(ran=0.0, waited=0.0, events=0)
        assert gauge(machine) == 0

    of_a_loop(play)


@LOOPS
def test_what_came_in_a_pause_is_done_before_the_next(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """Twenty sockets get a byte while it sleeps; each byte takes one more turn of the loop to be done."""
    answered: list[int] = []
    at_each_pause: list[int] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        machine = Machine(loop)
        ends = [socket.socketpair() for _ in range(20)]
        enough = asyncio.Event()

        def came(at: int) -> None:
            ends[at][1].recv(16)
            loop.call_soon(answered.append, at)

        def while_asleep() -> None:
            at_each_pause.append(len(answered))
            if len(at_each_pause) == 10:
                enough.set()
            for ours, _ in ends:
                ours.send(b"x")

        for at, (_, theirs) in enumerate(ends):
            theirs.setblocking(False)
            loop.add_reader(theirs.fileno(), came, at)
        machine.while_asleep = while_asleep
        machine.shared()
        machine.shared()
        await enough.wait()
        for ours, theirs in ends:
            loop.remove_reader(theirs.fileno())
            ours.close()
            theirs.close()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())
    assert at_each_pause[:10] == [20 * pause for pause in range(10)]


@LOOPS
def test_pauses_are_what_the_turns_left_of_the_time(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def turns_that_take(machine: Machine, seconds: float) -> list[float]:
        before = len(machine.slept)
        for _ in range(5 * TURNS):
            machine.now_s += seconds
            await asyncio.sleep(0)
        return machine.slept[before:]

    async def main() -> None:
        machine = Machine(asyncio.get_running_loop())
        machine.shared()
        machine.shared()
        await turns_that_take(machine, 0.001)
        slept = await turns_that_take(machine, 0.001)
        assert slept == pytest.approx([LEAST_S - TURNS * 0.001] * 5)
        await turns_that_take(machine, 2 * LEAST_S / TURNS)
        assert await turns_that_take(machine, 2 * LEAST_S / TURNS) == []

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


@LOOPS
def test_stops_at_once_when_it_is_not_worth_it_any_more(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def main() -> None:
        machine = Machine(asyncio.get_running_loop())
        machine.shared()
        machine.shared()
        await asyncio.sleep(0)
        assert not machine.second(ran=0.2, waited=0.0, events=5_000)
        before = len(machine.slept)
        for _ in range(5 * TURNS):
            await asyncio.sleep(0)
        assert len(machine.slept) == before

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


@pytest.mark.skipif(not Path("/proc/thread-self/schedstat").exists(), reason="only Linux tells")
def test_what_linux_tells_is_of_the_calling_thread() -> None:
    seen: list[Spent] = []

    def work() -> None:
        before = spent_here()
        began_s = time.thread_time()
        while time.thread_time() - began_s < 0.05:
            pass
        after = spent_here()
        assert before is not None
        assert after is not None
        seen.append(Spent(after.ran_s - before.ran_s, after.waited_s - before.waited_s))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for spent in seen:
        assert spent.ran_s == pytest.approx(0.05, rel=0.5)
        assert spent.waited_s >= 0
    assert len(seen) == 2
