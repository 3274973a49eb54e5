"""Who sends: callers with a name, a share of the load and a key. Pure.

In an open loop each request belongs to a caller by chance, in proportion to the shares: so each caller's requests are
a Poisson process of their own, where the whole is one. In a closed loop the users are divided up.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from math import isfinite
from pathlib import Path

import msgspec

from headgate.workbench.bench.raw import CallerPlan

ANONYMOUS = "anonymous"


class BadCaller(ValueError):
    """One line that says what is wrong."""


@dataclass(frozen=True, slots=True)
class Caller:
    """One caller. ``share`` is relative to the others'; ``headers`` are sent besides the key.

    Attributes:
        input, output: tokens of its prompts and answers; None: the load's.
        backlog: so many requests more, all due at the start of an open loop.
    """

    name: str = ANONYMOUS
    share: float = 1.0
    key: str | None = field(default=None, repr=False)
    headers: dict[str, str] = field(default_factory=dict)
    input: int | None = None
    output: int | None = None
    backlog: int = 0

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise BadCaller("a caller needs a name")
        if not (isfinite(self.share) and (self.share > 0 or (self.share == 0 and self.backlog > 0))):
            raise BadCaller(f"caller {self.name!r}: a share is a number above 0, or 0 with a backlog")
        if min(self.input or 1, self.output or 1) < 1 or self.backlog < 0:
            raise BadCaller(f"caller {self.name!r}: input and output are numbers above 0, a backlog is none below")
        for text in (self.key or "", *self.headers, *self.headers.values()):
            if not text.isprintable() or not text.isascii():
                raise BadCaller(f"caller {self.name!r}: keys and headers are visible ASCII")

    def plan(self) -> CallerPlan:
        """As it is kept: without the key, and without what headers say that might be one."""
        shown = {name: value if name.lower().startswith("x-headgate-") else "…" for name, value in self.headers.items()}
        return CallerPlan(self.name, self.share, shown, self.input, self.output, self.backlog)


def parse(text: str, default_key: str | None = None) -> Caller:
    """``alice``, ``alice:3`` (thrice the share of others), ``alice=KEY``, ``alice:3=KEY``.

    Raises:
        BadCaller: it is none of these.
    """
    said, _, key = text.partition("=")
    name, _, share = said.partition(":")
    try:
        return Caller(name, float(share) if share else 1.0, key or default_key)
    except ValueError as error:
        if isinstance(error, BadCaller):
            raise
        raise BadCaller(f"caller {name!r}: a share is a number above 0, not {share!r}") from None


class _Row(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    share: float = 1.0
    key: str | None = None
    headers: dict[str, str] = {}
    priority: str | int | None = None
    input: int | None = None
    output: int | None = None
    backlog: int = 0

    def caller(self) -> Caller:
        headers = self.headers
        if self.priority is not None:
            headers = {"x-headgate-priority": str(self.priority), **headers}
        return Caller(self.name, float(self.share), self.key, headers, self.input, self.output, self.backlog)


class _File(msgspec.Struct, forbid_unknown_fields=True):
    caller: list[_Row]


def read(path: Path) -> list[Caller]:
    """Callers from a TOML file of ``[[caller]]`` tables: name, share, key, headers, priority, input, output, backlog.

    Raises:
        BadCaller: it can't be read.
    """
    try:
        rows = msgspec.toml.decode(path.read_bytes(), type=_File).caller
    except (OSError, UnicodeDecodeError, msgspec.MsgspecError) as error:
        raise BadCaller(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    return [row.caller() for row in rows]


def check(callers: Sequence[Caller]) -> None:
    """Names are told apart. Raises BadCaller."""
    names = [caller.name for caller in callers]
    for name in names:
        if names.count(name) > 1:
            raise BadCaller(f"caller {name!r} is there twice")
    if callers and not any(caller.share for caller in callers):
        raise BadCaller("somebody must have a share above 0")


class Drawn:
    """Callers by chance, in proportion to their shares."""

    def __init__(self, callers: Sequence[Caller], seed: int) -> None:
        self._callers = callers
        self._upto = list(accumulate(caller.share for caller in callers))
        self._dice = random.Random(f"{seed}/callers")

    def next(self) -> Caller:
        """Whose the next request is."""
        return self._dice.choices(self._callers, cum_weights=self._upto)[0]


def backlog(callers: Sequence[Caller]) -> list[str]:
    """Whose the requests are that are due at the start: everybody's turn by turn, as if they had come together."""
    waiting = [(place / caller.backlog, caller.name) for caller in callers for place in range(caller.backlog)]
    return [name for _, name in sorted(waiting, key=lambda pair: pair[0])]


def divided(callers: Sequence[Caller], users: int) -> list[Caller]:
    """Users in proportion to the shares, by largest remainders, each caller's spread among the others'."""
    total = sum(caller.share for caller in callers)
    exact = [users * caller.share / total for caller in callers]
    counts = [int(part) for part in exact]
    by_remainder = sorted(range(len(callers)), key=lambda i: (counts[i] - exact[i], i))
    for i in by_remainder[: users - sum(counts)]:
        counts[i] += 1
    places = [((k + 0.5) / count, i) for i, count in enumerate(counts) for k in range(count)]
    return [callers[i] for _, i in sorted(places)]
