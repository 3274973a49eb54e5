"""From the pool's engines to the relay's connections: what the flow asks of them, and what the gate is told.

It joins ``pool`` and ``relay`` as ``flow`` joins them all, and is apart from it because it outlives a request: it
keeps each engine's connections for as long as the engine keeps its address.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from headgate.call import Route
from headgate.pool.launchers import Address
from headgate.pool.lifecycle import State
from headgate.relay.upstream import Unreachable, Upstream

if TYPE_CHECKING:
    from headgate.pool.pool import Pool
    from headgate.pool.supervisor import Supervisor

log = logging.getLogger(__name__)

OWN_IDLE_S = 60.0
"""Our own vLLM is told to keep connections for 75 s."""
LAST_WORDS_S = 0.75
"""After EngineCore's death vLLM answers 500 while its ``/health`` is still 200, for 0.2 to 0.6 s (seen with 0.32)."""
FAILS_MOST = 2
AVOIDED_S = 10.0
"""An engine that failed so many tries one after another gets work only where no other has room, for so long after the
last of them. It may look well: each that it fails leaves it empty, and the emptiest would get all the others, and their
second tries. After that one request finds out whether it has got over it."""
REMOTE_IDLE_S = 2.0
"""vLLM's default is 5 s, and nobody knows what stands before somebody else's."""


class Engines:
    """The flow's view of a pool.

    Args:
        on_capacity: told an engine's slots, 0 while nothing may be granted on it.
        clock: seconds, monotonic.
    """

    def __init__(
        self, pool: Pool, *, on_capacity: Callable[[str, int], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._failed: dict[str, tuple[int, float]] = {}
        """Of each whose last try failed, how many did one after another, and when the last."""
        self._on_capacity = on_capacity
        self._routes: dict[str, tuple[tuple[Address, str | None], Route]] = {}
        """Each with what it was made for: a new start may get the old port, but never the old key."""
        self._names: dict[str, None] = {}
        self._differ = False
        for engine in pool.engines:
            engine.subscribe(self._changed)
            self._changed(engine)

    def route(self, engine: str) -> Route:
        supervisor = self._pool.engine(engine)
        if supervisor is None or supervisor.state not in (State.READY, State.DRAINING):
            raise Unreachable("it has just gone")
        return self._routes[engine][1]

    def ask_for(self, engine: str, per_event: int, *, obeys: bool) -> None:
        """Ask this engine for so many tokens in an event from now on, where that does no harm.

        Args:
            obeys: whether it is known to do as it is asked.
        """
        known = self._routes.get(engine)
        if known is not None:
            known[1].per_event, known[1].obeys = per_event, obeys

    def suspect(self, engine: str) -> None:
        fails, _ = self._failed.get(engine, (0, 0.0))
        self._failed[engine] = fails + 1, self._clock()
        supervisor = self._pool.engine(engine)
        if supervisor is not None:
            supervisor.suspect()

    def served(self, engine: str) -> None:
        self._failed.pop(engine, None)

    def is_avoided(self, engine: str) -> bool:
        """Whether it failed its last tries, a moment ago: another that has room does better."""
        fails, failed_at = self._failed.get(engine, (0, 0.0))
        return fails >= FAILS_MOST and self._clock() < failed_at + AVOIDED_S

    async def recovered(self, engine: str) -> bool:
        supervisor = self._pool.engine(engine)
        if supervisor is None or not await supervisor.looked_at():
            return False
        life = supervisor.life
        await asyncio.sleep(LAST_WORDS_S)
        supervisor.suspect()
        return await supervisor.looked_at() and supervisor.life == life

    def any_ready(self) -> str | None:
        ready = [engine.name for engine in self._pool.ready()]
        return min(ready, key=self.is_avoided, default=None)  # the first of those that do well

    def given_up(self) -> bool:
        return all(engine.state is State.FAILED for engine in self._pool.engines)

    def serves(self, model: str) -> bool | None:
        return model in self._names if self._names else None

    def eta_s(self) -> float | None:
        return self._pool.eta_s()

    @property
    def default_model(self) -> str | None:
        """The first model served; None while none is known."""
        return next(iter(self._names), None)

    def close(self) -> None:
        """Close all connections to engines."""
        for _, route in self._routes.values():
            route.upstream.close()

    def _changed(self, engine: Supervisor) -> None:
        address = engine.address
        if address is not None:
            self._connect_to(engine, address)
        self._names = {str(card["id"]): None for card in self._pool.models()}
        self._on_capacity(engine.name, engine.slots)
        self._compare()

    def _compare(self) -> None:
        """Say so where the engines don't serve the same models: a request goes to the one that has room."""
        served = {engine.name: engine.model_names for engine in self._pool.engines if engine.model_names}
        differ = len({frozenset(names) for names in served.values()}) > 1
        if differ and not self._differ:
            each = "; ".join(f"{name}: {', '.join(names)}" for name, names in served.items())
            log.warning(
                "the engines don't serve the same models (%s): any of them may get a request, and answers 404 where it "
                "doesn't serve its model. Put a gateway in front of each set that does",
                each,
            )
        self._differ = differ

    def _connect_to(self, engine: Supervisor, address: Address) -> None:
        launch = engine.launch
        assert launch is not None  # it has an address
        known = self._routes.get(engine.name)
        if known is not None:
            if known[0] == (address, launch.api_key):
                return
            known[1].upstream.close()
        host = f"[{address.host}]" if ":" in address.host else address.host
        headers = b"host: %b:%d\r\naccept: */*\r\n" % (host.encode("idna"), address.port)
        if launch.api_key:
            headers += b"authorization: Bearer %b\r\n" % launch.api_key.encode()
        upstream = Upstream(
            address.host, address.port, tls=address.tls, idle_s=OWN_IDLE_S if launch.is_ours else REMOTE_IDLE_S
        )
        self._routes[engine.name] = (
            (address, launch.api_key),
            Route(upstream, address.prefix.encode(), headers, launch.can_include_usage),
        )
