"""What became of every request, by the client's books and by the gateway's, and where the two differ.

The client gives every request one outcome. The gateway's log has one line for each request that it read whole, with the
client's number in its id; its metrics count the same ends again. `Books.compare` looks at every request since the last
look, at a moment when none is under way. A fault may excuse what it makes unavoidable, and only for requests that were
under way during it: lines are lost on a full disk, answers are cut when the gateway is killed.
"""

from collections import Counter
from dataclasses import dataclass, field
from enum import IntEnum

import msgspec

MOST_TOLD = 20


class Outcome(IntEnum):
    """What a client saw."""

    UNSENT = 0
    OK = 1
    REFUSED = 2
    ERROR_EVENT = 3
    CUT = 4
    """The connection ended before the answer did."""
    LEFT = 5
    """Its client left, as it was to do."""
    STUCK = 6
    """No end within the client's own limit."""
    WRONG = 7
    """An answer that ended well and is not what was to be answered."""


class Excuse(IntEnum):
    """What a fault makes unavoidable for requests under way; bits."""

    LINE_LOST = 1
    """Its log line may be missing."""
    CUT = 2
    """Its answer may be cut, or never begin."""
    UNBEGUN = 4
    """It may find a closed door: no answer, not a byte of one."""


class _Line(msgspec.Struct):
    message: str = ""
    request_id: str = ""
    reason: str = ""
    level: str = ""


@dataclass(slots=True)
class Violation:
    """One thing that must not be."""

    rule: str
    what: str


@dataclass(slots=True)
class Life:
    """The gateway's log of one life, as far as it was read."""

    lines: int = 0
    lossy: bool = False
    other: list[str] = field(default_factory=list)
    """Lines that are no request's and speak of an error of the gateway's own."""


class Books:
    """Of one run. Numbers begin at 1."""

    def __init__(self, requests: int) -> None:
        self.outcomes = bytearray(requests + 1)
        self.excuses = bytearray(requests + 1)
        self.reasons: dict[int, str] = {}
        """What a client was told, of those who were refused or got an error event, since the last comparison."""
        self.wrong: dict[int, str] = {}
        self.seen: Counter[str] = Counter()
        self.violations: list[Violation] = []
        self.broken_rules: Counter[str] = Counter()
        self.life = Life()
        self.lives: list[Life] = [self.life]
        self.garbled_lines = 0
        self._logged: dict[int, str] = {}
        self._compared = 0
        self._decoder = msgspec.json.Decoder(_Line)

    def end(self, number: int, outcome: Outcome, reason: str = "", what: str = "") -> None:
        """A client's request has ended."""
        if self.outcomes[number] != Outcome.UNSENT:
            self.violate("one end each", f"request {number} ended twice for its client: then as {outcome.name}")
            return
        self.outcomes[number] = outcome
        self.seen[f"{outcome.name.lower()}{' ' + reason if reason else ''}"] += 1
        if reason:
            self.reasons[number] = reason
        if what:
            self.wrong[number] = what

    def violate(self, rule: str, what: str) -> None:
        self.broken_rules[rule] += 1
        if len(self.violations) < MOST_TOLD * 10 and self.broken_rules[rule] <= MOST_TOLD:
            self.violations.append(Violation(rule, what))

    def read_log(self, whole_lines: bytes) -> None:
        """Lines of the gateway's log."""
        for raw in whole_lines.split(b"\n"):
            if not raw:
                continue
            try:
                line = self._decoder.decode(raw)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                self.garbled_lines += 1
                if b"Traceback" in raw or b"Error" in raw:
                    self.life.other.append(raw[:500].decode(errors="replace"))
                continue
            if line.message != "request":
                if b'"exception"' in raw or b"Traceback" in raw:
                    self.life.other.append(raw[:2000].decode(errors="replace"))
                continue
            self.life.lines += 1
            number = int(line.request_id.removeprefix("chaos-"))
            if number in self._logged or number <= self._compared:
                self.violate("one end each", f"request {number} has a second line in the gateway's log")
            self._logged[number] = line.reason

    @property
    def lossy(self) -> bool:
        """Whether lines of this life's log may be missing."""
        return self.life.lossy

    def new_life(self) -> None:
        self.life = Life()
        self.lives.append(self.life)

    def compare(self, sent: int) -> None:
        """Judge every request up to number `sent`; none of them is under way, and the log was read to its end."""
        for number in range(self._compared + 1, sent + 1):
            outcome = self.outcomes[number]
            logged = self._logged.get(number)
            excuse = self.excuses[number]
            if outcome == Outcome.OK:
                wanted = "ok"
            elif outcome in (Outcome.REFUSED, Outcome.ERROR_EVENT):
                wanted = self.reasons.get(number, "")
            elif outcome == Outcome.LEFT:
                continue
            elif outcome == Outcome.CUT:
                unbegun = self.wrong.get(number, "").startswith("0 bytes")
                if not (excuse & Excuse.CUT or (unbegun and excuse & Excuse.UNBEGUN)):
                    self.violate("one end each", f"request {number} was cut: {self.wrong.get(number)}; log: {logged}")
                continue
            else:
                rule = "text intact" if outcome == Outcome.WRONG else "one end each"
                name = Outcome(outcome).name
                self.violate(rule, f"request {number}: {name} {self.wrong.get(number, '')}; log: {logged}")
                continue
            if logged is None:
                if not excuse & Excuse.LINE_LOST:
                    self.violate("one end each", f"request {number} ended as {wanted}, and the log has no line of it")
            elif logged != wanted:
                self.violate("one end each", f"request {number}: its client saw {wanted}, the log says {logged}")
        self._compared = sent
        self._logged.clear()
        self.reasons.clear()
        self.wrong.clear()
