"""What ``check`` found out, as data: one thing looked at, how it stands, and the mend.

Separate so that the looking can be tested without reading a screen. It ends at values; ``report`` prints them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

GIB = 1024**3
MIB = 1024**2


class Verdict(StrEnum):
    """``warn``: it works, but not as well or as safely as it could. ``fail``: what was asked for won't work."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: what was looked at, in a word.
        verdict: how it stands.
        what: what was seen, with its numbers.
        mend: what to do about it; empty where nothing need be done.
    """

    name: str
    verdict: Verdict
    what: str
    mend: str = ""


def ok(name: str, what: str) -> Finding:
    """It is as it should be."""
    return Finding(name, Verdict.OK, what)


def warn(name: str, what: str, mend: str) -> Finding:
    """It works, with a drawback."""
    return Finding(name, Verdict.WARN, what, mend)


def fail(name: str, what: str, mend: str) -> Finding:
    """With this, what was asked for won't work."""
    return Finding(name, Verdict.FAIL, what, mend)


def size(n_bytes: float) -> str:
    """Bytes for a person: ``1.2 GiB``, ``340 MiB``, ``12 KiB``."""
    for unit, factor in (("GiB", GIB), ("MiB", MIB), ("KiB", 1024)):
        if n_bytes >= factor:
            number = n_bytes / factor
            return f"{number:,.0f} {unit}" if number >= 100 else f"{number:.3g} {unit}"
    return f"{n_bytes:.0f} bytes"


def some(number: float) -> str:
    """An estimate for a person, with two digits that mean something: ``15,000``."""
    if number < 100:
        return f"{number:.0f}"
    step = 10 ** (len(str(int(number))) - 2)
    return f"{int(number // step * step):,}"
