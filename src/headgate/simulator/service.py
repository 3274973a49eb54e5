"""What every route needs: the engine, what it is called, and the way from a request's fields to a running
answer.

Ends where the APIs differ: each route reads its own fields and writes its own shapes.
"""

from __future__ import annotations

import time
import uuid
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from headgate.simulator.answer import ClientLeft
from headgate.simulator.engine import Draining
from headgate.simulator.problem import Problem
from headgate.simulator.wire import die

if TYPE_CHECKING:
    from types import TracebackType

    from headgate.simulator.answer import Answer, Plan
    from headgate.simulator.engine import Engine
    from headgate.simulator.faults import Fault, Faults
    from headgate.simulator.fields import Fields
    from headgate.simulator.planner import Planner
    from headgate.simulator.protocol import Connection
    from headgate.simulator.wire import Exchange

VERSION = "0.32.0+simulated"
_BEGINNING = 1024


@dataclass(slots=True)
class Service:
    """The engine as its routes see it.

    Args:
        models: served names; the first one labels the metrics.
        connections: those with a request that is being answered by the engine now.
        stream_interval: tokens of a choice in one event, where a request doesn't ask for more.
        recent: how the bodies of the last requests began, in the order in which they came.
    """

    engine: Engine
    models: tuple[str, ...]
    faults: Faults
    planner: Planner
    api_keys: tuple[str, ...] = ()
    sleep_mode: bool = False
    stream_interval: int = 1
    created: int = field(default_factory=lambda: int(time.time()))
    connections: set[Connection] = field(default_factory=set)
    max_open_seen: int = 0
    recent: deque[str] = field(default_factory=lambda: deque(maxlen=256))

    @property
    def open(self) -> int:
        """HTTP requests that are being answered by the engine now."""
        return len(self.connections)

    def opened(self, connection: Connection) -> None:
        """A request on this connection is being answered from now on."""
        self.connections.add(connection)
        if self.open > self.max_open_seen:
            # One that its client has closed may not have been told of yet: it makes no room, and takes none.
            self.max_open_seen = max(self.max_open_seen, sum(not one.closed_by_peer() for one in self.connections))

    def forget_most(self) -> None:
        """What was seen at most is counted from here on."""
        self.max_open_seen = self.open
        self.engine.max_inflight_seen = self.engine.inflight
        self.engine.scheduler.max_running_seen = len(self.engine.scheduler.running)

    def model(self, fields: Fields) -> str:
        """The model asked for, the first one where none is. Raises Problem (404) for another's."""
        name = fields.text("model")
        if name is None:
            return self.models[0]
        if name not in self.models:
            raise Problem(404, f"The model `{name}` does not exist.", "NotFoundError", "model")
        return name

    def generate(self, fields: Fields, prompts: list[bytes], limit: int | None, n: int = 1) -> list[Plan]:
        """Plans for a generation; see ``Planner.generate``."""
        plans = self.planner.generate(fields, prompts, limit, n)
        if self.engine.weights_lost:
            # What an engine says whose weights were dropped and not loaded again.
            for plan in plans:
                plan.pieces = [" !!!"] * len(plan.pieces)
        return plans

    def hit(self, fault: Fault) -> None:
        """Apply a fault that hits the process and not one reply."""
        if fault.kind == "crash":
            die(fault.exit_code)
        elif fault.kind == "hang":
            self.engine.hang(fault.seconds)
        elif fault.kind == "hang_hard":
            until = float("inf") if fault.seconds is None else time.monotonic() + fault.seconds
            while (left := until - time.monotonic()) > 0:
                time.sleep(min(left, 3600.0))

    def receive(self, exchange: Exchange) -> None:
        """Let the faults that wait for a request hit this one. Raises Problem where it is to be refused."""
        exchange.faults = self.faults.for_request(exchange.path, exchange.received)
        for fault in exchange.faults:
            if fault.kind == "error":
                raise Problem(fault.status, fault.message, "InternalServerError")
            if fault.after_events is None:
                self.hit(fault)

    def state(self) -> dict[str, Any]:
        """What a test asks: sequences now and at most, and how all ended; see ``routes.operation``."""
        engine, scheduler = self.engine, self.engine.scheduler
        finished = engine.statistics.finished
        return {
            "running": len(scheduler.running),
            "waiting": len(scheduler.waiting),
            "inflight": engine.inflight,
            "finished": finished["stop"] + finished["length"],
            "aborted": finished["abort"],
            "max_running_seen": scheduler.max_running_seen,
            "max_inflight_seen": engine.max_inflight_seen,
            "open": self.open,
            "max_open_seen": self.max_open_seen,
            "requests_seen": engine.requests_seen,
            "prompt_tokens": engine.statistics.prompt_tokens,
            "generation_tokens": engine.statistics.generation_tokens,
            "blocks_used": scheduler.blocks.used,
            "preemptions": scheduler.preemptions,
            "asleep": engine.asleep,
            "draining": engine.draining,
        }


class Generation:
    """A request's answer for as long as its client is there: ``with Generation(…) as answer``.

    Leaving the block before the answer has ended, in whatever way, aborts it.
    """

    def __init__(self, service: Service, exchange: Exchange, plans: list[Plan]) -> None:
        self._service = service
        self._exchange = exchange
        self._plans = plans

    def __enter__(self) -> Answer:
        service = self._service
        if self._exchange.connection.lost:
            # Nobody would tell of a connection that was lost between the request's last byte and now.
            raise ClientLeft
        try:
            self._answer = answer = service.engine.submit(self._plans, self._exchange.connection.whole_at)
        except Draining:
            message = "cannot schedule new futures after shutdown"
            raise Problem(500, message, "InternalServerError") from None
        service.recent.append(self._exchange.received[:_BEGINNING].decode(errors="replace"))
        self._lost = lambda: service.engine.leave(answer)
        self._exchange.connection.when_lost[self._lost] = None
        service.opened(self._exchange.connection)
        return answer

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._service.connections.discard(self._exchange.connection)
        told = self._exchange.connection.when_lost.pop(self._lost, True) is None
        if told and not self._answer.ended.is_set():
            self._service.engine.leave(self._answer)


def request_id(exchange: Exchange, prefix: str) -> str:
    """The engine's id of a request: the client's own ``X-Request-Id`` after the prefix, or a new one."""
    return f"{prefix}-{exchange.header(b'x-request-id') or uuid.uuid4().hex}"
