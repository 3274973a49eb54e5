"""The model in real time: one task steps the scheduler, and those who wait for tokens are woken.

The only place that reads a clock. A step ends when it is due; the next one is due from that moment and not
from when the event loop got round to it, so a busy loop makes tokens late but not fewer. Ends at pieces of
text: what they look like on the wire is in ``routes``.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING

from headgate.simulator.answer import Answer, Plan
from headgate.simulator.sequence import Sequence
from headgate.simulator.timer import Timer

if TYPE_CHECKING:
    from headgate.simulator.metrics import Statistics
    from headgate.simulator.scheduler import Scheduler
    from headgate.simulator.sequence import Step

_LATE_S = 0.01
"""How late a step may begin and still count as begun when it was due: the loop's own timers know whole milliseconds."""
_MOST_LAG_S = 0.5  # behind by more (a stopped process, a debugger), time lost is not made up for


class Draining(Exception):
    """The engine is shutting down and takes nothing new."""


class Engine:
    """A scheduler that runs. Everything here happens on one event loop."""

    def __init__(self, scheduler: Scheduler, statistics: Statistics) -> None:
        self.scheduler = scheduler
        self.statistics = statistics
        self.asleep = 0
        self.weights_lost = False
        self.draining = False
        self.requests_seen = 0
        self.max_inflight_seen = 0
        self._parts: dict[Sequence, tuple[Answer, int]] = {}
        self._leaving: list[Answer] = []
        self._woken = asyncio.Event()
        self._moving = asyncio.Event()
        self._moving.set()
        self._thaw_timer: asyncio.TimerHandle | None = None
        self._timer = Timer()
        self._task: asyncio.Task[None] | None = None

    @property
    def inflight(self) -> int:
        """Sequences running and waiting."""
        return len(self._parts)

    def start(self) -> None:
        """Begin to step; needs a running loop."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="engine")
        self._task.add_done_callback(_must_not_end)

    def submit(self, plans: list[Plan], came: float) -> Answer:
        """Put a request's sequences in the line.

        Args:
            came: when the request was there, by ``time.monotonic``. What the simulator takes to read it isn't the
                engine's, whose latency begins then.

        Raises Draining, and ValueError where one is too long.
        """
        if self.draining:
            raise Draining
        self.requests_seen += 1
        answer = Answer(plans, [self._sequence(plan) for plan in plans])
        for index, sequence in enumerate(answer.sequences):
            self.scheduler.add(sequence, came)
            self._parts[sequence] = (answer, index)
        self.max_inflight_seen = max(self.max_inflight_seen, len(self._parts))
        self._woken.set()
        return answer

    def leave(self, answer: Answer) -> None:
        """The client is gone: its sequences are aborted before the next step (never in one that hangs)."""
        answer.leave()
        self._leaving.append(answer)
        self._woken.set()

    def abort_all(self) -> None:
        """End everything in flight with ``abort``; whoever waits gets what there is."""
        for sequence in list(self._parts):
            self._abort(sequence)

    async def sleep(self, level: int) -> None:
        """Free the KV cache, and at level 2 forget the weights. What runs is aborted, what comes waits."""
        self.abort_all()
        self.asleep = level
        self.scheduler.blocks.forget()
        constants = self.scheduler.constants
        await asyncio.sleep(constants.sleep_2_s if level == 2 else constants.sleep_1_s)
        if level == 2:
            self.weights_lost = True

    async def wake_up(self, *, weights: bool = True, kv_cache: bool = True) -> None:
        """Come back, in parts where asked; steps begin again once the KV cache is there."""
        constants = self.scheduler.constants
        if weights and self.asleep:
            await asyncio.sleep(constants.wake_2_s if self.asleep == 2 else constants.wake_1_s)
        if kv_cache:
            self.asleep = 0
            self._woken.set()

    def hang(self, seconds: float | None = None) -> None:
        """Make no progress, for ever or so many seconds, while everything else goes on."""
        self._moving.clear()
        if seconds is not None:
            self._thaw_timer = asyncio.get_running_loop().call_later(seconds, self.thaw)

    def thaw(self) -> None:
        """End a hang."""
        if self._thaw_timer is not None:
            self._thaw_timer.cancel()
            self._thaw_timer = None
        self._moving.set()

    async def idle(self) -> None:
        """Return once nothing is in flight."""
        while self._parts:
            await next(iter(self._parts.values()))[0].ended.wait()

    async def _run(self) -> None:
        due = time.monotonic()
        while True:
            await self._moving.wait()
            self._book_leaving()
            step = None if self.asleep else self.scheduler.begin(due)
            if step is None:
                self._woken.clear()
                coming = None if self.asleep else self.scheduler.next_s
                if not self._leaving:
                    await self._something_to_do(coming)
                due = now = time.monotonic()
                if coming is not None and now - _LATE_S < coming < now:
                    due = coming
                continue
            due += step.seconds
            await self._timer.until(due)
            if not self._moving.is_set():
                await self._moving.wait()
            due = max(due, time.monotonic() - _MOST_LAG_S)
            self._book(step, due)

    async def _something_to_do(self, coming: float | None) -> None:
        """Return once somebody has come or left, or at the moment at which one that is coming will be in the line."""
        if coming is None:
            await self._woken.wait()
        else:
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, coming - time.monotonic())):
                    await self._woken.wait()

    def _book(self, step: Step, now: float) -> None:
        made = self.scheduler.end(step, now)
        self.statistics.step(made)
        for sequence in made.gained:
            answer, index = self._parts[sequence]
            answer.gained(index)
        for sequence in made.ended:
            answer, _ = self._parts.pop(sequence)
            answer.one_ended()
            self.statistics.ended(sequence, now)

    def _book_leaving(self) -> None:
        for answer in self._leaving:
            for sequence in answer.sequences:
                if sequence in self._parts:
                    self._abort(sequence)
        self._leaving.clear()

    def _abort(self, sequence: Sequence) -> None:
        answer, index = self._parts.pop(sequence)
        self.scheduler.abort(sequence)
        self.statistics.ended(sequence, time.monotonic())
        answer.gained(index)
        answer.one_ended()

    def _sequence(self, plan: Plan) -> Sequence:
        return Sequence(
            prompt_tokens=plan.prompt_tokens,
            output_tokens=max(1, len(plan.pieces)),
            ends=plan.ends,
            hashes=plan.hashes,
            pooling=plan.pooling,
        )


def _must_not_end(task: asyncio.Task[None]) -> None:
    """A stepping task that failed is a fault of the simulator's own: better no process than one that hangs."""
    if not task.cancelled() and (error := task.exception()) is not None:
        traceback.print_exception(error, file=sys.stderr)
        os._exit(70)
