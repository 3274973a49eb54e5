"""What comes of a case. Pure.

A case returns ``Held``, or raises ``Broken`` (the claim is not kept) or ``Inapplicable`` (it can't be judged here, and
why). Each carries one sentence for a person and its figures for a script.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec


class Verdict(StrEnum):
    """How it stands with a claim."""

    PASS = "pass"  # noqa: S105  no password
    FAIL = "fail"
    NOT_APPLICABLE = "n/a"


class Held(msgspec.Struct, frozen=True):
    """The claim was kept: what was seen."""

    said: str
    evidence: dict[str, Any]


class Broken(Exception):
    """The claim was not kept."""

    def __init__(self, said: str, **evidence: Any) -> None:
        super().__init__(said)
        self.said = said
        self.evidence = evidence


class Inapplicable(Exception):
    """The claim can't be judged here."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class Result(msgspec.Struct, frozen=True):
    """One case in one round, as it is reported."""

    case: str
    claim: str
    verdict: Verdict
    said: str
    evidence: dict[str, Any]
    seconds: float
    round: int = 1


def held(said: str, **evidence: Any) -> Held:
    """The claim was kept, with these figures."""
    return Held(said, evidence)
