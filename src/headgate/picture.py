"""What is shown of the whole house: readiness, the JSON of ``/status``, and the metrics that are states.

Everything here is read from its owner at the moment of asking; nothing is kept but the last five minutes, of which
``tick`` takes a note each second. Lists are bounded, so that a look costs little however much goes on. Apart from
``app``, which builds the house, because this only looks at it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec
from prometheus_client.core import Metric

from headgate import __version__, is_compiled
from headgate.api.auth import Keys
from headgate.api.generation import ENDPOINTS
from headgate.api.problems import STATUS
from headgate.call import Asker
from headgate.charges import Charges
from headgate.errors import Reason
from headgate.flow import Flow
from headgate.gate import Gate, Statistics
from headgate.gate.entries import Waiter
from headgate.pool.lifecycle import State
from headgate.pool.pool import Pool
from headgate.pool.supervisor import CAUSES
from headgate.quotas import Quotas
from headgate.settings import Settings
from headgate.standing import Engine, Seen, Standing, standing
from headgate.telemetry.gpu import Gpus
from headgate.telemetry.lag import LoopLag
from headgate.telemetry.metrics import Metrics, counters, gauge, gauges, process_times
from headgate.telemetry.recent import LATELY, Levels, Recent, Totals
from headgate.telemetry.slo import Objectives

HELD_MAX = 256
LINE_MAX = 100

_WORK = frozenset(path for path, endpoint in ENDPOINTS.items() if endpoint.gated)
_NOT_THE_CALLERS_FAULT = frozenset(
    reason for reason, status in STATUS.items() if (status == 429 and reason is not Reason.RATE_LIMITED) or status > 500
)


class Picture:
    """Looks at gate, flow, pool and metrics.

    Args:
        draining: asked at each look: whether the gateway is shutting down.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        settings: Settings,
        gate: Gate,
        flow: Flow,
        pool: Pool,
        metrics: Metrics,
        objectives: Objectives,
        lag: LoopLag,
        gpus: Gpus,
        keys: Keys,
        *,
        draining: Callable[[], bool],
        clock: Callable[[], float],
        charges: Charges | None = None,
        quotas: Quotas | None = None,
    ) -> None:
        self._settings = settings
        self._gate = gate
        self._flow = flow
        self._pool = pool
        self._metrics = metrics
        self._objectives = objectives
        self._lag = lag
        self._gpus = gpus
        self._keys = keys
        self._charges = charges
        self._quotas = quotas
        self._draining = draining
        self._clock = clock
        self._started_at = clock()
        self._recent = Recent(self._started_at, metrics.ttft.bounds)

    def ready(self) -> tuple[bool, str]:
        """Whether requests should be sent here, and what it waits for otherwise."""
        if self._draining():
            return False, "draining"
        states = set(self._pool.states().values())
        if states & {State.READY, State.ASLEEP}:
            return True, "ready"
        if states == {State.FAILED}:
            return False, "failed"
        return False, "starting"

    def status(self) -> dict[str, object]:
        """The picture of ``GET /status``."""
        books = self._gate.statistics()
        well, reason = self.ready()
        engines = self._pool.status()
        line, eta_s = self._gate.outlook(LINE_MAX)
        return {
            "version": __version__,
            "ready": well,
            "reason": reason,
            "auth": {
                "generation": "open" if self._keys.is_open else "key",
                "operation": self._settings.ops_auth,
            },
            "rates": self._quotas.status() if self._quotas is not None else None,
            "keys": self._keys.book.status() if self._keys.book is not None else None,
            "standing": self._standing(books, line, eta_s, engines)._asdict(),
            "uptime_s": round(self._clock() - self._started_at, 1),
            "slots": {
                "max_active": books.slots,
                "active": books.active,
                "held_back": books.held_back,
                "by_engine": {  # in the order of their names, not of their starts
                    engine.name: {
                        "slots": books.slots_by_engine[engine.name],
                        "active": books.active_by_engine[engine.name],
                    }
                    for engine in self._pool.engines
                    if engine.name in books.slots_by_engine
                },
                "held": self._held(),
            },
            "queue": {
                "mode": self._settings.queue_mode,
                "order": self._settings.queue_order,
                "depth": books.waiting,
                "aside": books.aside,
                "late": books.late,
                "max": self._settings.queue_max,
                "bytes": books.waiting_bytes,
                "oldest_wait_s": round(books.oldest_wait_s, 3),
                "timeout_s": self._settings.queue_timeout_s,
                "eta_s": _rounded(eta_s),
                "line": self._line(line),
            },
            "limits": {
                "request_timeout_s": self._settings.request_timeout_s,
                "send_stall_s": self._settings.send_stall_s,
            },
            "granted_total": books.granted_total,
            "refused_total": books.refused_total,
            "generations": self._generations(),
            "requests": _sums(self._metrics.requests.values, 4),
            "refusals": _sums(self._metrics.refusals.values, 0),
            "tokens": _sums(self._metrics.tokens.values, 0),
            "cancelled": _sums(self._metrics.cancelled.values, 0),
            "slo": {
                "ttft_s": self._settings.slo_ttft_s,
                "itl_ms": self._settings.slo_itl_ms,
                "latency_s": self._settings.slo_latency_s,
                "results": _sums(self._metrics.slo.values, 1),
            },
            "engines": engines,
            "gpu": self._gpus.status(),
            "cost": self._charges.status() if self._charges is not None else None,
            "process": {**process_times(), "loop_lag_s": round(self._lag.worst_s(), 4)},
        }

    def status_with_recent(self) -> dict[str, object]:
        """The same with the last five minutes, a point a second."""
        return {**self.status(), "recent": self._recent.columns()}

    def status_with_point(self) -> dict[str, object]:
        """The same with the newest of these points."""
        newest = self._recent.newest
        return {**self.status(), "point": newest._asdict() if newest is not None else None}

    def tick(self, unix: float) -> None:
        """Take a note of the second that has passed, for ``recent``; ``unix`` is the time of day."""
        gate, metrics = self._gate, self._metrics
        firsts = [spread.counts for spread in metrics.ttft.spreads.values()] or [[0] * (len(metrics.ttft.bounds) + 1)]
        totals = Totals(
            requests=sum(self._generations().values()),
            refused=self._refused(),
            tokens=self._flow.tokens,
            ttft=[sum(bucket) for bucket in zip(*firsts, strict=True)],
        )
        self._recent.add(self._clock(), unix, Levels(gate.active, gate.slots, gate.waiting), totals)

    def _generations(self) -> dict[str, int]:
        """Ended since the start, by reason: those that take slots."""
        work = {labels: count for labels, count in self._metrics.requests.values.items() if labels[0] in _WORK}
        return _sums(work, 4)

    def _refused(self) -> dict[str, int]:
        """Since the start, by reason: those that were not the callers' fault."""
        sums = _sums(self._metrics.refusals.values, 0)
        return {reason: count for reason, count in sums.items() if reason in _NOT_THE_CALLERS_FAULT}

    def _standing(
        self, books: Statistics, line: list[Waiter], eta_s: float | None, engines: list[dict[str, object]]
    ) -> Standing:
        settings, newest = self._settings, self._recent.newest
        return standing(
            Seen(
                books.slots,
                books.active,
                books.waiting,
                msgspec.convert(engines, list[Engine]),
                eta_s=eta_s,
                in_turn=settings.queue_order == "fifo",
                head_weight=line[0].weight if line else 1,
                aside=books.aside,
                late=books.late,
                held_back=books.held_back,
                draining=books.draining,
                refused=self._recent.refused,
                lately_s=LATELY,
                ttft_p95_s=newest.ttft_p95_s if newest is not None else None,
                slo_ttft_s=settings.slo_ttft_s,
                reject=settings.queue_mode == "reject",
                queue_max=settings.queue_max,
                max_active=settings.max_active,
                queue_timeout_s=settings.queue_timeout_s,
                wake_timeout_s=settings.wake_timeout_s,
                request_timeout_s=settings.request_timeout_s,
                drain_timeout_s=settings.drain_timeout_s,
            )
        )

    def _held(self) -> list[dict[str, object]]:
        held: list[dict[str, object]] = []
        for number, who, engine, weight, held_s in self._gate.held(HELD_MAX):
            assert isinstance(who, Asker)
            held.append(
                {
                    "id": number,
                    "engine": engine,
                    "key": who.key,
                    "model": who.model,
                    "age_s": round(held_s, 3),
                    "ttft_s": _rounded(who.reply.ttft_s) if who.streamed else None,
                    "tokens": who.reply.tokens,
                    "max_tokens": who.max_tokens,
                    "weight": weight,
                    "stream": who.streamed,
                }
            )
        return held

    def _line(self, waiters: list[Waiter]) -> list[dict[str, object]]:
        line: list[dict[str, object]] = []
        for position, (number, who, weight, waited_s, eta_s) in enumerate(waiters, 1):
            assert isinstance(who, Asker)
            line.append(
                {
                    "id": number,
                    "position": position,
                    "key": who.key,
                    "model": who.model,
                    "waited_s": round(waited_s, 3),
                    "weight": weight,
                    "eta_s": _rounded(eta_s),
                }
            )
        return line

    def states(self) -> Iterator[Metric]:
        """Gauges and counters that their owners keep, for a scrape."""
        books = self._gate.statistics()
        engines = self._pool.engines
        yield gauge("api_active_requests", "Slots held now.", books.active)
        yield gauge("api_max_active", "Slots of all ready engines.", books.slots)
        yield gauge("api_queue_depth", "Requests waiting in the line.", books.waiting)
        yield gauge("api_queue_bytes", "Bytes that waiting requests keep in memory.", books.waiting_bytes)
        yield gauge("api_queue_oldest_wait_seconds", "How long the first in the line has waited.", books.oldest_wait_s)
        yield gauge("api_queue_max", "Requests that may wait at once (QUEUE_MAX).", self._settings.queue_max)
        yield gauge(
            "api_queue_timeout_seconds", "Longest wait for a slot (QUEUE_TIMEOUT_S).", self._settings.queue_timeout_s
        )
        yield gauges(
            "api_build_info",
            "1, for the version that runs; whether its road is compiled.",
            ("version", "compiled"),
            {(__version__, "true" if is_compiled() else "false"): 1.0},
        )
        yield gauge(
            "api_event_loop_lag_seconds",
            "The worst lateness of the event loop's once-a-second tick over the last 15 s.",
            self._lag.worst_s(),
        )
        yield gauges(
            "api_slo_seconds",
            "The objectives that a good answer meets: ttft, itl, latency; absent where off.",
            ("objective",),
            {(name,): limit_s for name, limit_s in self._objectives.in_force().items()},
        )
        if self._keys.book is not None:
            yield gauge(
                "api_keys_file_ok",
                "1 while the keys in force are those of API_KEYS_FILE as it is now.",
                float(self._keys.book.error is None),
            )
            yield gauge("api_keys", "Keys of API_KEYS_FILE in force, expired ones too.", len(self._keys.book.keys))
        yield gauge("api_engines_desired", "Engines that should be running.", len(engines))
        yield gauges(
            "api_engine_up",
            "Whether the engine is ready.",
            ("engine",),
            {(engine.name,): float(engine.state is State.READY) for engine in engines},
        )
        yield gauges(
            "api_engine_slots",
            "Slots of the engine, 0 while it is not ready.",
            ("engine",),
            {(engine.name,): engine.slots for engine in engines},
        )
        yield gauges(
            "api_engine_active_requests",
            "Slots held on the engine.",
            ("engine",),
            {(engine.name,): books.active_by_engine.get(engine.name, 0) for engine in engines},
        )
        yield gauges(
            "api_engine_state",
            "1 for the engine's state, 0 for every other.",
            ("engine", "state"),
            {(e.name, str(state)): float(e.state is state) for e in engines for state in State},
        )
        yield counters(
            "api_engine_starts",
            "Starts of the engine by cause: start, crash, wedged, operator.",
            ("engine", "cause"),
            {(e.name, cause): float(e.starts[cause]) for e in engines for cause in CAUSES},  # a rate needs the 0 first
        )
        yield gauges(
            "api_engine_wake_seconds",
            "How long the engine's last start took.",
            ("engine",),
            {(e.name,): e.last_wake_s for e in engines if e.last_wake_s is not None},
        )


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def _sums(values: dict[tuple[str, ...], float], label: int) -> dict[str, int]:
    """Totals by one of the labels: whole numbers, of things that were counted."""
    out: dict[str, int] = {}
    for labels, value in values.items():
        out[labels[label]] = out.get(labels[label], 0) + round(value)
    return out
