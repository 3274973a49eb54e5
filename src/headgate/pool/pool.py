"""All engines as the gateway sees them: which are ready, what they serve, how many slots there are.

Separate from the supervisors, each of which knows one engine only. It keeps no state of its own but the turns
at which engines were chosen; all else is asked of the supervisors. It ends at an engine; the way to it is the
relay's.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from headgate.pool.choose import Candidate, choose

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from headgate.pool.lifecycle import State
    from headgate.pool.supervisor import Supervisor


class Pool:
    """The engines.

    Args:
        supervisors: one for each engine, named ``e0``, ``e1``, …
        max_active: slots of each engine while it is ready; None for what follows from its own statement.
        clock: the supervisors' own.
    """

    def __init__(
        self,
        supervisors: Sequence[Supervisor],
        *,
        max_active: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engines = {supervisor.name: supervisor for supervisor in supervisors}
        self._clock = clock
        self._turn = 0
        self._turns = dict.fromkeys(self._engines, 0)
        if max_active is not None:
            for supervisor in supervisors:
                supervisor.set_max_active(max_active)

    def __repr__(self) -> str:
        return f"<pool {' '.join(map(repr, self._engines.values()))}>"

    @property
    def engines(self) -> tuple[Supervisor, ...]:
        """All of them, in the order of their names."""
        return tuple(self._engines.values())

    def start(self) -> None:
        """Have all of them running."""
        for supervisor in self._engines.values():
            supervisor.start()

    async def stop(self, *, at_once: bool = False) -> None:
        """Stop all of them, at the same time; on return nothing of any is left. ``at_once``: they are killed."""
        await asyncio.gather(*(supervisor.stop(at_once=at_once) for supervisor in self._engines.values()))

    def engine(self, name: str) -> Supervisor | None:
        """The engine of that name."""
        return self._engines.get(name)

    def ready(self) -> tuple[Supervisor, ...]:
        """Those that can take work."""
        return tuple(supervisor for supervisor in self._engines.values() if supervisor.slots > 0)

    def choose(
        self, active: Callable[[str], int], weight: int = 1, *, among: Collection[str] | None = None
    ) -> Supervisor | None:
        """The engine for the next request; None where no single one has room.

        Args:
            active: the weight in flight at the engine of that name.
            weight: of the request.
            among: the engines that may be chosen, if not all.
        """
        name = choose(
            [
                Candidate(supervisor.name, supervisor.slots, active(supervisor.name), self._turns[supervisor.name])
                for supervisor in self.ready()
                if among is None or supervisor.name in among
            ],
            weight,
        )
        if name is None:
            return None
        self._turn += 1
        self._turns[name] = self._turn
        return self._engines[name]

    def eta_s(self) -> float | None:
        """Seconds until the soonest can be ready; 0 if one is, None if nobody can tell."""
        now_s = self._clock()
        known_s = [eta for supervisor in self._engines.values() if (eta := supervisor.eta_s(now_s)) is not None]
        return min(known_s, default=None)

    def models(self) -> tuple[dict[str, object], ...]:
        """The cards of all models, each id once; a short one where only the name is known yet."""
        cards: dict[str, dict[str, object]] = {}
        for supervisor in self._engines.values():
            for card in supervisor.models:
                cards.setdefault(str(card["id"]), card)
        for supervisor in self._engines.values():
            for name in supervisor.model_names:
                cards.setdefault(name, {"id": name, "object": "model", "created": 0, "owned_by": "headgate"})
        return tuple(cards.values())

    def states(self) -> dict[str, State]:
        """The state of each."""
        return {name: supervisor.state for name, supervisor in self._engines.items()}

    def status(self) -> list[dict[str, object]]:
        """One picture of each, ready for JSON."""
        return [supervisor.status() for supervisor in self._engines.values()]
