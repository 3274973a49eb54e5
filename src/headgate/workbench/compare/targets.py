"""Who is compared: gateways with different settings, addresses, and the engine by itself. Pure.

A comparison of settings is their product: ``--modes queue,reject --max-active 4,8`` is four gateways. Any setting can
be varied (``--vary queue_max=8,64``); the flags with a name of their own are only shorter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

MOST = 64

SHORT = {"orders": "queue_order", "modes": "queue_mode", "max_active": "max_active"}
"""Flags of ``compare`` that vary a setting."""

_CALLED = {"queue_mode": "{}", "queue_order": "{}", "max_active": "{} slots"}
"""How a value is called where that is shorter than ``setting=value``, and as clear."""

DIRECT = "direct"


class BadTarget(ValueError):
    """One line that says what is wrong."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One of those that are compared.

    Attributes:
        url: where it is; None where it has to be started.
        settings: of a gateway that has to be started.
        direct: the engine by itself.
    """

    name: str
    url: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    direct: bool = False


def candidates(
    vary: Mapping[str, Sequence[str]],
    fixed: Mapping[str, str],
    urls: Sequence[tuple[str, str]],
    *,
    direct: bool,
) -> list[Candidate]:
    """Everybody who is compared, in the order of the flags: the engine, the settings, the addresses.

    Raises:
        BadTarget: nobody to compare, too many, or two of one name.
    """
    found = [Candidate(DIRECT, direct=True)] if direct else []
    if vary or fixed:
        for values in product(*vary.values()):
            varied = dict(zip(vary, values, strict=True))
            called = (_CALLED.get(setting, f"{setting}={{}}").format(value) for setting, value in varied.items())
            name = ", ".join(called) or "headgate"
            found.append(Candidate(name, settings={**fixed, **varied}))
    found += [Candidate(name, url) for name, url in urls]
    if not found:
        raise BadTarget("nobody to compare: give --modes, --max-active, --vary, --direct or --url NAME=URL")
    if len(found) > MOST:
        raise BadTarget(f"{len(found)} targets are too many: at most {MOST}")
    names = [candidate.name for candidate in found]
    for name in names:
        if names.count(name) > 1:
            raise BadTarget(f"two targets are called {name!r}")
    return found


def assignments(given: Sequence[str], flag: str) -> dict[str, str]:
    """``NAME=VALUE`` of a flag that may be given more than once. Raises BadTarget."""
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals or not name or not value.strip():
            raise BadTarget(f"{flag} takes NAME=VALUE, not {text!r}")
        if name in found:
            raise BadTarget(f"{flag} {name} is there twice")
        found[name] = value.strip()
    return found


def setting(name: str) -> str:
    """A setting's name as the flags of ``serve`` and the variables have it: ``QUEUE_MAX`` is ``queue_max``."""
    return name.lower().replace("-", "_").removeprefix("headgate_")


def values(text: str, flag: str) -> list[str]:
    """``4,8,16``. Raises BadTarget."""
    found = [part.strip() for part in text.split(",") if part.strip()]
    if not found or len(set(found)) < len(found):
        raise BadTarget(f"{flag} takes different values with commas between them, not {text!r}")
    return found


def rotated(everybody: Sequence[Candidate], round_: int) -> list[Candidate]:
    """The order of a round (counted from 1): each begins with the next one."""
    first = (round_ - 1) % len(everybody)
    return [*everybody[first:], *everybody[:first]]
