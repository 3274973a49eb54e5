"""One task owns one engine; all others ask it.

Here the pure parts meet a process and a clock: what has happened to the engine becomes an event of
``lifecycle``, and its state decides what is done next. Nobody else starts, stops or judges an engine. An
engine of somebody else's has the same life but for the process: it is only looked at. It ends at the engine's
state and slots; who uses them is the pool's and the gate's part.

Longer than other files here: one owner's state in two places would need a protocol between them.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from enum import Enum
from typing import TYPE_CHECKING

from headgate.pool import statement as statements
from headgate.pool.backoff import Backoff
from headgate.pool.health import Health, Pace
from headgate.pool.history import History
from headgate.pool.lifecycle import Event, State, advance
from headgate.pool.nudge import Nudge
from headgate.pool.output import last_words
from headgate.pool.process import EngineProcess
from headgate.pool.statement import Statement

if TYPE_CHECKING:
    from collections.abc import Callable

    from headgate.pool.keep import Keep
    from headgate.pool.launchers import Address, Launch, LoadProgress


class _Ending(Enum):
    """Why a life of an engine ends; the value is the cause of the start that follows."""

    ASKED = "start"
    OPERATOR = "operator"
    WEDGED = "wedged"
    CRASHED = "crash"


_FAILURES = (_Ending.CRASHED, _Ending.WEDGED)

CAUSES = tuple(ending.value for ending in _Ending)
"""Why an engine can have been started: the keys of ``Supervisor.starts``."""


class Supervisor:
    """Owns one engine.

    Args:
        name: ``e0``, ``e1``, …
        launch_factory: makes the next launch, with a fresh port.
        clock: seconds that only go forward.
        chance: a number in [0, 1), for the jitter.
        backoff: delays between starts, and when to give up.
        history: how long starts took.
        wedged_after_s: work in flight and no progress for so long is a hang.
        start_timeout_s: a start may take so long; None for as long as the process lives.
        in_flight: our work at this engine now.
        relayed: how many events were relayed from it so far.
        on_change: called when its state, slots, models or phase of loading have changed.
        keep: how it outlives this gateway, and how it is found again; None: it never does.
        max_active: slots while it is ready; None for what follows from its own statement.

    Attributes:
        state: where it is in its life.
        launch: the latest start; None before the first.
        models: its cards of ``/v1/models``; they survive while it is down.
        starts: how many there were, by cause: ``start``, ``crash``, ``wedged``, ``operator``.
        last_wake_s: how long the latest start took.
        failure: what went wrong last; None once it is ready again.
    """

    def __init__(
        self,
        name: str,
        launch_factory: Callable[[], Launch],
        *,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
        backoff: Backoff | None = None,
        history: History | None = None,
        wedged_after_s: float = 60.0,
        start_timeout_s: float | None = None,
        in_flight: Callable[[], int] = lambda: 0,
        relayed: Callable[[], int] = lambda: 0,
        on_change: Callable[[Supervisor], None] | None = None,
        max_active: int | None = None,
        pace: Pace | None = None,
        keep: Keep | None = None,
        logger: logging.Logger | None = None,
    ) -> None:
        self.name = name
        self.state = State.STOPPED
        self.launch: Launch | None = None
        self.models: tuple[dict[str, object], ...] = ()
        self.starts: Counter[str] = Counter()
        self.last_wake_s: float | None = None
        self.failure: str | None = None
        self._launch_factory = launch_factory
        self._clock = clock
        self._chance = chance
        self._backoff = backoff or Backoff()
        self._history = history or History()
        self._wedged_after_s = wedged_after_s
        self._start_timeout_s = start_timeout_s
        self._in_flight = in_flight
        self._relayed = relayed
        self._listeners = [on_change] if on_change else []
        self._max_active = max_active
        self._pace = pace or Pace()
        self._keep = keep
        self._log = logger or logging.getLogger(__name__)

        self._task: asyncio.Task[None] | None = None
        self._nudge = Nudge()
        self._stopped = asyncio.Event()
        self._wanted = False
        self._restart_asked = self._hurried = False
        self._cause = _Ending.ASKED
        self._failures = self._failed_starts = 0
        self._retry_at_s = 0.0

        self._process: EngineProcess | None = None
        self._taken_over = False
        self._health: Health | None = None
        self._since_s = self._born_s = clock()
        self._first_ready_s: float | None = None
        self._look_at_s = 0.0
        self._suspicions = self._settled = 0
        self._cleared = asyncio.Event()
        self._load: LoadProgress | None = None
        self._trouble: str | None = None
        self._last_lines: list[str] = []

    def __repr__(self) -> str:
        return f"<engine {self.name} {self.state} slots={self.slots}>"

    # What others ask.

    @property
    def address(self) -> Address | None:
        """Where the engine listens, or did last; None before the first start."""
        return self.launch.address if self.launch else None

    @property
    def model_names(self) -> tuple[str, ...]:
        """The names it serves: before it first answered, those that its launcher knows."""
        if self.models:
            return tuple(str(card.get("id")) for card in self.models)
        return self.launch.model_names if self.launch else ()

    @property
    def statement(self) -> Statement:
        """What it says of itself in this life."""
        return self._health.statement if self._health else Statement()

    @property
    def slots(self) -> int:
        """How many generations it takes at once now: 0 unless it is ready."""
        if self.state is not State.READY or self._is_suspected or self.launch is None:
            return 0
        if self._max_active is not None:
            return self._max_active
        return statements.slots(self.launch.max_num_seqs, self.statement)

    @property
    def most(self) -> int:
        """How many it may be given at most, whatever it has now; 0 before it was started."""
        return statements.slots(self.launch.max_num_seqs, self.statement) if self.launch is not None else 0

    @property
    def gauges(self) -> statements.Metrics | None:
        """Its latest metrics; None where it has none, or isn't there."""
        return self._health.gauges if self._health is not None else None

    @property
    def max_num_seqs(self) -> int | None:
        """How many sequences it runs at once, by its arguments or its own word; None where nobody knows."""
        started_with = self.launch.max_num_seqs if self.launch else None
        return started_with if started_with is not None else self.statement.max_num_seqs

    def eta_s(self, now_s: float) -> float | None:
        """Seconds until it can be ready, by what starts took before; None if nobody can tell."""
        if self.state is State.READY:
            return 0.0
        if self.launch is None or self.state is State.FAILED:
            return None
        # One that was ready and is lost has not been starting all its life: it ends, or is ended, and starts anew.
        is_coming = self.state is State.STARTING and self._first_ready_s is None
        elapsed_s = now_s - self._born_s if is_coming else 0.0
        start_s = self._history.eta_s(self.launch.history_key, elapsed_s)
        if start_s is not None and self.state is State.BACKOFF:
            return start_s + max(0.0, self._retry_at_s - now_s)
        return start_s

    def status(self) -> dict[str, object]:
        """One picture of it, ready for JSON."""
        now_s = self._clock()
        load = self._load if self.state is State.STARTING else None
        return {
            "name": self.name,
            "kind": self.launch.kind if self.launch else None,
            "state": str(self.state),
            "since_s": round(now_s - self._since_s, 1),
            "url": self.address.url if self.address else None,
            "pid": self._process.pid if self._process else None,
            "models": list(self.model_names),
            "slots": self.slots,
            "in_flight": self._in_flight(),
            "eta_s": self.eta_s(now_s),
            "load": {"phase": load.phase, "fraction": load.fraction, "line": load.line} if load else None,
            "failure": self.failure,
            "last_lines": self._last_lines,
            "starts": dict(self.starts),
            "last_wake_s": self.last_wake_s,
            "max_num_seqs": self.max_num_seqs,
            **(self._health.status() if self._health else {}),
        }

    def subscribe(self, listener: Callable[[Supervisor], None]) -> None:
        """Call this back, too, whenever ``on_change`` is."""
        self._listeners.append(listener)

    # What others ask for.

    def start(self) -> None:
        """Have it running. One that runs, or tries to, is left alone; a failed one needs ``restart``."""
        if not self._wanted:
            self._wanted, self._hurried = True, False
            self._cause = _Ending.ASKED
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._own(), name=f"engine {self.name}")

    def restart(self) -> None:
        """An operator's restart: whatever it is doing, and even if it was given up on, it starts anew."""
        self.start()
        self._cause = _Ending.OPERATOR
        self._restart_asked = True
        self._nudge.set()

    def drain(self) -> None:
        """Give it no more work; ``stop`` follows once nothing is in flight."""
        if self.state in (State.READY, State.ASLEEP):
            self._move(Event.DRAIN)

    async def stop(self, *, at_once: bool = False) -> None:
        """Stop it; on return nothing of it is left. What is in flight there is cut off: drain first.

        Args:
            at_once: it is killed, without the time that it would have for leaving by itself.
        """
        self._wanted = False
        if self._task is None or self._task.done():
            return
        self._stopped.clear()
        self._hurried = at_once
        if at_once:  # its task may wait for an end, of its own engine or of one that was left behind
            if self.state is State.STOPPING and self._process is not None:
                self._process.hurry()
            if self._keep is not None:
                self._keep.hurry()
        self._nudge.set()
        await self._stopped.wait()

    def set_max_active(self, slots: int | None) -> None:
        """Change how many slots it has while it is ready."""
        if slots != self._max_active:
            self._max_active = slots
            self._tell()

    def suspect(self) -> None:
        """It failed somebody's request: it has no slots until it has been looked at, which is done now."""
        if self.state is not State.READY:
            return
        was_suspected = self._is_suspected
        self._suspicions += 1
        self._look_at_s = float("-inf")
        self._nudge.set()
        if not was_suspected:
            self._cleared.clear()
            self._tell()

    @property
    def life(self) -> int:
        """The number of its present life: it has failed once for all who were there."""
        return sum(self.starts.values())

    async def looked_at(self) -> bool:
        """Wait until a suspicion is settled: whether the engine is well."""
        while self._is_suspected:
            await self._cleared.wait()
        return self.state is State.READY

    @property
    def _is_suspected(self) -> bool:
        return self._suspicions != self._settled

    # The one task.

    async def _own(self) -> None:
        try:
            while self._wanted:
                ending = await self._live()
                self._cause = ending
                await self._go_down(ending)
        finally:
            if self._process is not None:
                self._process.let_go()
            self._stopped.set()

    async def _live(self) -> _Ending:
        """One life of the engine, from its start until it has to end."""
        self.starts[self._cause.value] += 1
        if self._cause not in _FAILURES:
            self._failures = self._failed_starts = 0
        self._restart_asked = False
        self._first_ready_s = None
        self._load = self._trouble = None
        self._look_at_s = self._born_s = self._clock()
        self._move(Event.START)
        try:
            await self._launch()
            while (ending := self._ending()) is None:
                wait_s = self._look_at_s - self._clock()
                if wait_s > 0:
                    await self._nudge.wait(wait_s)
                else:
                    await self._nudge.unless(lambda: self._ending() is not None, self._look())
        except OSError as error:  # no file may be opened any more, say: where it happened tells nothing more
            self.failure = f"cannot be started or watched: {error}"
            return _Ending.CRASHED
        except Exception as error:
            # An error of ours is no reason to leave an engine without an owner.
            self._log.exception("engine %s cannot be supervised", self.name)
            self.failure = f"cannot be started or watched: {error}"
            return _Ending.CRASHED
        else:
            return ending
        finally:
            if self._health is not None:
                self._health.end()

    async def _launch(self) -> None:
        launch = self._launch_factory()
        found: tuple[EngineProcess, Launch] | None = None
        if launch.is_ours and self._keep is not None:
            found = await self._keep.rejoin(launch, self._read_line)
        self._taken_over = found is not None
        if found is not None:
            self._process, launch = found
        self.launch = launch
        self._health = Health(
            launch,
            clock=self._clock,
            in_flight=self._in_flight,
            relayed=self._relayed,
            pace=self._pace,
        )
        if found is None and not self._wanted:  # any more, since another had to be stopped first
            return
        verb = "starts" if found is None else "runs already"
        self._log.info("engine %s: %s %s at %s", self.name, launch.kind, verb, launch.address.url)
        if launch.is_ours:
            if self._process is None:
                keep = self._keep.plan(launch) if self._keep is not None else lambda _: {}
                self._process = await EngineProcess.start(
                    launch.argv, launch.env, self._read_line, keep, secret=launch.api_key
                )
            self._process.on_end(self._nudge.set)
        self._tell()  # its address and names are known now

    def _ending(self) -> _Ending | None:
        """Whether this life has to end, judged from what is known now."""
        assert self.launch is not None and self._health is not None  # noqa: PT018
        if self._process is not None and self._process.has_ended:
            return _Ending.CRASHED
        if not self._wanted:
            return _Ending.ASKED
        if self._restart_asked:
            return _Ending.OPERATOR
        if not self.launch.is_ours:
            return None
        if self.state is State.READY and self._health.is_wedged(self._wedged_after_s):
            self.failure = f"work in flight and no progress for {self._health.stalled_s:.0f} s"
            return _Ending.WEDGED
        if self.state is State.STARTING:
            now_s = self._clock()
            if self._first_ready_s is not None:
                # Its process lives, but it does not answer any more: it is about to end, or it never will.
                if now_s - self._since_s >= self._wedged_after_s:
                    self.failure = f"unreachable for {self._wedged_after_s:.0f} s while its process lives"
                    return _Ending.WEDGED
            elif self._health.silent_s >= self._wedged_after_s:
                # It listens, so it has loaded: an engine that was taken over may have hung before.
                self.failure = f"listens and has answered nothing for {self._health.silent_s:.0f} s"
                return _Ending.WEDGED
            elif self._start_timeout_s is not None and now_s - self._born_s >= self._start_timeout_s:
                why = f": {self._trouble}" if self._trouble else ""
                self.failure = f"not ready after {self._start_timeout_s:g} s (START_TIMEOUT_S){why}"
                return _Ending.CRASHED
        return None

    async def _look(self) -> None:
        assert self._health is not None
        self._look_at_s = self._clock() + self._period_s()
        if self.state is State.STARTING:
            if await self._health.is_ready():
                self._become_ready()
            else:
                self._note_trouble(self._health.trouble)
            return
        slots, models = self.slots, self._health.models
        # A suspicion that comes while we look is for the next look: this one may see the engine as it was before.
        suspicions = self._suspicions
        well = await self._health.look(closely=self._is_suspected)
        reachable = well is not False
        self.models = self._health.models or self.models
        if self.state is State.WEDGED:
            # Somebody else's: we cannot restart it, so it is tried again once it moves, or once nobody waits
            # for it.
            if not reachable or self._health.stalled_s == 0.0 or self._in_flight() == 0:
                self._move(Event.LOST)
        elif self.state is State.READY and not reachable:
            self._trouble = self.failure = self._health.trouble
            self._log.warning("engine %s: %s", self.name, self.failure)
            self._look_at_s = self._clock()
            self._move(Event.LOST)
        elif self._process is None and self.state is State.READY and self._health.is_wedged(self._wedged_after_s):
            self.failure = f"work in flight and no progress for {self._health.stalled_s:.0f} s"
            self._move(Event.STALLED)
        else:
            if well:
                self._settled = suspicions
                if not self._is_suspected:
                    self._cleared.set()  # else whoever waits would spin: the event is only cleared at a first suspicion
            if slots != self.slots or models != self._health.models:
                self._tell()

    def _note_trouble(self, trouble: str | None) -> None:
        """Why it isn't ready, as far as a look at one that starts can tell."""
        if trouble is not None and self._trouble is None:
            self._log.warning("engine %s: %s", self.name, trouble)
        self._trouble = trouble
        if self._process is None:  # somebody else's: nothing but this tells why it isn't reached
            self.failure = trouble

    def _period_s(self) -> float:
        if self._is_suspected:
            return self._pace.eager_s
        if self.state is not State.STARTING:
            return self._pace.busy_s
        is_fresh = self._clock() - self._since_s < self._pace.eager_for_s
        return self._pace.eager_s if is_fresh else self._pace.starting_s

    def _become_ready(self) -> None:
        assert self.launch is not None
        assert self._health is not None
        now_s = self._clock()
        if self._first_ready_s is None:
            self._first_ready_s = now_s
            self.last_wake_s = now_s - self._born_s
            if self.launch.is_ours and not self._taken_over:
                self._history.record(self.launch.history_key, self.last_wake_s)
        self.models = self._health.models
        self.failure = self._trouble = None
        self._last_lines = []
        self._move(Event.LISTED)

    async def _go_down(self, ending: _Ending) -> None:
        """Bring the engine down in the way that its ending asks for, and wait until it may start again."""
        process = self._process
        if ending in _FAILURES:
            if ending is _Ending.WEDGED:
                self._move(Event.STALLED)
            if process is not None:
                ended_alone = ending is _Ending.CRASHED and process.has_ended
                how = await process.kill()
                self._last_lines = last_words(process.lines)
                self._process = None
                if ended_alone:
                    self.failure = f"ended by itself: {how}"
            await self._after_failure(was_started=process is not None)
            return
        self._move(Event.STOP)
        if process is not None and ending is _Ending.ASKED and process.is_kept:
            process.release()
            self._log.info("engine %s is left running: process %s", self.name, process.pid)
            self._process = None
        elif process is not None:
            assert self.launch is not None
            # A vLLM that loads swallows a SIGTERM and goes on loading.
            deaf = self._hurried or self._first_ready_s is None
            grace_s = 0.0 if deaf else self.launch.stop_grace_s
            how = await process.terminate(grace_s)
            self._log.info("engine %s has stopped: %s", self.name, how)
            self._process = None
        self._move(Event.EXITED)

    async def _after_failure(self, *, was_started: bool) -> None:
        now_s = self._clock()
        ready_for_s = None if self._first_ready_s is None else now_s - self._first_ready_s
        self._log.error("engine %s: %s\n%s", self.name, self.failure, "\n".join(self._last_lines))
        if was_started:
            self._failures = self._backoff.failures_after(self._failures, ready_for_s)
            self._failed_starts = self._failed_starts + 1 if ready_for_s is None else 0
            delay_s = self._backoff.delay_s(self._failures, self._chance())
        else:  # no file may be opened, say: no failure of the engine, and trying costs little
            delay_s = self._backoff.delay_s(self._backoff.attempts, self._chance())
        self._retry_at_s = now_s + delay_s
        self._move(Event.EXITED)
        if self.state is State.STOPPED:  # it was draining: it has only left early
            self._wanted = False
            return
        if was_started and self._backoff.give_up(self._failed_starts):
            starts = self._failed_starts
            self._log.error("engine %s failed to start %d times in a row and is given up on", self.name, starts)
            self._move(Event.GAVE_UP)
        while self._wanted and not self._restart_asked:
            wait_s = None if self.state is State.FAILED else self._retry_at_s - self._clock()
            if wait_s is not None and wait_s <= 0:
                return
            await self._nudge.wait(wait_s)
        if self._restart_asked:
            self._cause = _Ending.OPERATOR
        if not self._wanted:
            self._move(Event.STOP)

    # Its tools.

    def _move(self, event: Event) -> None:
        before, self.state = self.state, advance(self.state, event)
        self._settled = self._suspicions  # of a state that is over
        self._cleared.set()
        self._since_s = self._clock()
        self._log.info("engine %s: %s, was %s", self.name, self.state, before)
        if self.state is State.STOPPED:
            self._stopped.set()
        self._tell()

    def _tell(self) -> None:
        for listener in self._listeners:
            try:
                listener(self)
            except Exception:
                self._log.exception("engine %s: a listener failed", self.name)

    def _read_line(self, line: str) -> None:
        self._log.debug("engine %s: %s", self.name, line)
        if self.launch is not None and self.state is State.STARTING:
            before, self._load = self._load, self.launch.read_line(line) or self._load
            if self._load is not None and (before is None or before.phase != self._load.phase):
                self._log.info("engine %s: %s", self.name, self._load.phase)
                self._tell()
