"""Money, joined: which engines cost now, whose slots are held, what the GPUs' meters show.

``telemetry.cost`` reckons; here it is told what happens, and its bill is shown. Apart from ``flow`` and ``pool``
because neither has to know that anything costs: without a price this isn't even there.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import Metric

from headgate.pool.lifecycle import State
from headgate.telemetry.cost import Account, Charge, Costs
from headgate.telemetry.metrics import OTHER, Metrics, counters

if TYPE_CHECKING:
    from headgate.gate import Lease
    from headgate.pool.pool import Pool
    from headgate.pool.supervisor import Supervisor
    from headgate.relay.reply import Slot
    from headgate.telemetry.gpu import Sample

_ANSWERS = frozenset((State.READY, State.ASLEEP, State.DRAINING, State.WEDGED))
_GIVEN_BACK = frozenset((State.STOPPED, State.FAILED))


class Charges:
    """The bill of one gateway.

    Args:
        clock: seconds, monotonic; the flow's own.
        gpu_price_per_hour: dollars for one engine's GPUs; None: not counted.
        energy_price_per_kwh: dollars; None: not counted.
    """

    def __init__(
        self,
        pool: Pool,
        metrics: Metrics,
        *,
        clock: Callable[[], float],
        gpu_price_per_hour: float | None,
        energy_price_per_kwh: float | None,
    ) -> None:
        self._metrics = metrics
        self._clock = clock
        self._gpu_price, self._energy_price = gpu_price_per_hour, energy_price_per_kwh
        self._loop = asyncio.get_running_loop()
        self._costs = Costs(
            clock(),
            [engine.name for engine in pool.engines],
            gpu_price_per_hour=gpu_price_per_hour,
            energy_price_per_kwh=energy_price_per_kwh,
            unnamed=OTHER,
        )
        for engine in pool.engines:
            engine.subscribe(self._changed)
            self._changed(engine)

    # Told.

    def hold(self, lease: Lease, model: str, key: str) -> Slot:
        """The same slot, charged from now on until it is released."""
        now = self._clock()
        return _Charged(self, lease, self._costs.join(now, lease.engine, Account(model, key), lease.weight))

    def release(self, charge: Charge) -> None:
        """A charged slot goes back."""
        self._costs.leave(self._clock(), charge)

    def sampled(self, sample: Sample) -> None:
        """The GPUs were read. Called in another thread."""
        if self._energy_price is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended before the thread
                self._loop.call_soon_threadsafe(self._read, sample)

    def _read(self, sample: Sample) -> None:
        joules = {gpu.uuid or gpu.index: gpu.energy_j for gpu in sample.gpus if gpu.energy_j is not None}
        self._costs.read_meters(sample.at, joules)

    def _changed(self, engine: Supervisor) -> None:
        model = next(iter(engine.model_names), OTHER)
        self._costs.turn(self._clock(), engine.name, model if costs_now(engine) else None)

    # Shown.

    def status(self) -> dict[str, object]:
        """For ``/status``; None is what isn't counted."""
        kinds: dict[str, float] = {} if self._gpu_price is None else {"gpu": 0.0, "idle": 0.0}
        for (kind, _, _), dollars in self._costs.dollars(self._clock()).items():
            kinds[kind] = kinds.get(kind, 0.0) + dollars
        made = sum(n for (kind, *_), n in self._metrics.tokens.values.items() if kind != "prompt")
        return {
            "gpu_price_per_hour": self._gpu_price,
            "energy_price_per_kwh": self._energy_price,
            "dollars": {kind: round(kinds[kind], 6) if kind in kinds else None for kind in ("gpu", "idle", "energy")},
            "dollars_per_million_tokens": round(sum(kinds.values()) / made * 1e6, 4) if made and kinds else None,
        }

    def states(self) -> Iterator[Metric]:
        """For a scrape: what runs is in it up to now."""
        yield counters(
            "api_cost_dollars",
            "Dollars by kind: gpu (time of held slots), idle (time with none held), energy.",
            ("kind", "model", "key"),
            self._costs.dollars(self._clock()),
        )


def costs_now(engine: Supervisor) -> bool:
    """Whether somebody pays for its GPUs.

    Ours from its start until it has stopped or was given up on: loading, asleep, hung, and the wait between a crash
    and the next try, in which the GPU is kept for it. Somebody else's while it can be reached.
    """
    if engine.launch is None:
        return False
    return engine.state not in _GIVEN_BACK if engine.launch.is_ours else engine.state in _ANSWERS


class _Charged:
    """A lease whose time is on the bill."""

    __slots__ = ("_charge", "_charges", "_lease")

    def __init__(self, charges: Charges, lease: Lease, charge: Charge) -> None:
        self._charges = charges
        self._lease = lease
        self._charge: Charge | None = charge

    def release(self) -> None:
        charge, self._charge = self._charge, None
        if charge is not None:
            self._charges.release(charge)
            self._lease.release()
