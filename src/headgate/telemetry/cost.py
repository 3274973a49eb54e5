"""Money: whose the engines' time and energy were.

An engine costs the same whether one request runs on it or fifty. So while slots are held its time is shared between
those who hold them, by weight; while none is held it is idle, and nobody's. What is shared out, with what was idle,
is always the whole bill.

That is processor sharing, and it is reckoned as fair queueing reckons it (Demers, Keshav and Shenker 1989), by
virtual time: a clock that goes slower the more is held, by 1/weight. A request's share is what that clock went while
the request held its slots, times its weight. So a grant and a release cost the same beside one other as beside fifty,
and only a scrape looks at all who hold slots.

Pure: time and the meter's figures are arguments. It ends at dollars by account; which states of an engine cost, and
when a request holds its slots, is decided in ``charges``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeVar

IDLE_KEY = "none"

_K = TypeVar("_K")

_HOUR_S = 3600.0
_KWH_J = 3.6e6


class Account(NamedTuple):
    """Who pays."""

    model: str
    key: str


class Holding:
    """Somebody's slots while they are held; what it cost up to ``since``, in virtual time, is booked."""

    __slots__ = ("account", "since", "weight")

    def __init__(self, account: Account, weight: int, since: float) -> None:
        self.account, self.weight, self.since = account, weight, since


class Shares:
    """The seconds of one thing, shared out.

    Args:
        now: the time; it counts nothing until it is turned on.

    Attributes:
        seconds: what each account's share was, up to the last ``settle``.
        idle: seconds in which nobody held anything, by the model that stood idle.
    """

    def __init__(self, now: float) -> None:
        self.seconds: dict[Account, float] = {}
        self.idle: dict[str, float] = {}
        self._at = now
        self._virtual = 0.0
        self._weight = 0
        self._model: str | None = None
        self._holdings: set[Holding] = set()

    def turn(self, now: float, model: str | None) -> None:
        """From now on it costs, and what is idle is this model's; None: it costs nothing."""
        self._advance(now)
        self._model = model
        if model is not None:
            self.idle.setdefault(model, 0.0)

    def join(self, now: float, account: Account, weight: int) -> Holding:
        """Somebody holds so many slots from now on."""
        self._advance(now)
        holding = Holding(account, weight, self._virtual)
        self._weight += weight
        self._holdings.add(holding)
        return holding

    def leave(self, now: float, holding: Holding) -> None:
        """They are given back. Once only."""
        self._advance(now)
        self._holdings.remove(holding)
        self._weight -= holding.weight
        self._book(holding)

    def settle(self, now: float) -> None:
        """Bring ``seconds`` and ``idle`` up to date with all who hold slots now."""
        self._advance(now)
        for holding in self._holdings:
            self._book(holding)

    def _book(self, holding: Holding) -> None:
        _add(self.seconds, holding.account, (self._virtual - holding.since) * holding.weight)
        holding.since = self._virtual

    def _advance(self, now: float) -> None:
        passed_s = now - self._at
        if passed_s <= 0:
            return  # a meter's reading is a moment older than what came meanwhile
        self._at = now
        if self._model is None:
            return
        if self._weight:
            self._virtual += passed_s / self._weight
        else:
            self.idle[self._model] += passed_s


class Charge(NamedTuple):
    """What one request holds: of its engine's time, of everybody's energy."""

    time: Holding | None
    energy: Holding | None
    engine: str


class Costs:
    """The bill.

    Args:
        now: the time.
        engines: their names.
        gpu_price_per_hour: dollars for one engine that runs; None: not counted.
        energy_price_per_kwh: dollars; None: not counted.
        unnamed: the model of energy that is used before any engine has one.
    """

    def __init__(
        self,
        now: float,
        engines: Iterable[str],
        *,
        gpu_price_per_hour: float | None = None,
        energy_price_per_kwh: float | None = None,
        unnamed: str = "other",
    ) -> None:
        self._per_second = None if gpu_price_per_hour is None else gpu_price_per_hour / _HOUR_S
        self._per_joule = None if energy_price_per_kwh is None else energy_price_per_kwh / _KWH_J
        self._time = {} if self._per_second is None else {engine: Shares(now) for engine in engines}
        self._energy = None if self._per_joule is None else Shares(now)
        if self._energy is not None:
            self._energy.turn(now, unnamed)
        self._joules: dict[Account, float] = {}
        self._meters: dict[str, float] = {}

    def turn(self, now: float, engine: str, model: str | None) -> None:
        """An engine costs from now on, under its model's name when it is idle; None: it costs nothing."""
        if self._time:
            self._time[engine].turn(now, model)
        # The GPUs draw power whatever the engine does: their idle energy only takes the name.
        if self._energy is not None and model is not None:
            self._energy.turn(now, model)

    def join(self, now: float, engine: str, account: Account, weight: int) -> Charge:
        """A request holds so many slots from now on."""
        return Charge(
            self._time[engine].join(now, account, weight) if self._time else None,
            self._energy.join(now, account, weight) if self._energy is not None else None,
            engine,
        )

    def leave(self, now: float, charge: Charge) -> None:
        """It has given them back."""
        if charge.time is not None:
            self._time[charge.engine].leave(now, charge.time)
        if charge.energy is not None and self._energy is not None:
            self._energy.leave(now, charge.energy)

    def read_meters(self, now: float, joules: Mapping[str, float]) -> None:
        """What the GPUs' energy counters show, by GPU: their growth is shared like the time in which it came.

        A counter that is seen for the first time, or went back, only begins to count.
        """
        shares = self._energy
        if shares is None or not joules:
            return
        for gpu, shown in joules.items():
            self._meters.setdefault(gpu, shown)
        shares.settle(now)
        idle = [(Account(model, IDLE_KEY), seconds) for model, seconds in shares.idle.items() if seconds]
        total_s = sum(shares.seconds.values()) + sum(seconds for _, seconds in idle)
        if total_s <= 0:
            return  # no time has passed: what was used is for the next reading
        used_j = sum(max(0.0, shown - self._meters[gpu]) for gpu, shown in joules.items())
        self._meters.update(joules)
        for account, seconds in (*shares.seconds.items(), *idle):
            _add(self._joules, account, used_j * seconds / total_s)
        shares.seconds.clear()
        shares.idle = dict.fromkeys(shares.idle, 0.0)

    def dollars(self, now: float) -> dict[tuple[str, ...], float]:
        """All that it has cost, by kind (``gpu``, ``idle``, ``energy``), model and key."""
        out: dict[tuple[str, ...], float] = {}
        for shares in self._time.values():
            assert self._per_second is not None
            shares.settle(now)
            for model, seconds in shares.idle.items():
                _add(out, ("idle", model, IDLE_KEY), seconds * self._per_second)
            for (model, key), seconds in shares.seconds.items():
                _add(out, ("gpu", model, key), seconds * self._per_second)
        for (model, key), joules in self._joules.items():
            assert self._per_joule is not None
            out["energy", model, key] = joules * self._per_joule
        return out


def _add(to: dict[_K, float], key: _K, amount: float) -> None:
    to[key] = to.get(key, 0.0) + amount
