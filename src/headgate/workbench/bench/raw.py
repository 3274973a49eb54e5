"""What is kept of a run: JSON lines, the first how it was made, then one for each request, the last how it ended.

Nothing that is computed from the requests is in it, so that no figure can differ from what it was made of; what the
client saw of itself is, since it can't be seen again. Keys are never in it. Separate from ``summary`` because files
outlive the code: a reader passes over fields that it doesn't know, and a missing one takes its default.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec

SCHEMA = 1
SUFFIXES = (".jsonl", ".jsonl.gz")


Measured = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
"""Seconds or milliseconds as a clock can have told them: a damaged file may have any number."""


class Outcome(StrEnum):
    """What became of a request."""

    OK = "ok"
    """Answered, to its end."""
    REFUSED = "refused"
    """429 or 503: the server says that it can't now."""
    ERROR = "error"
    """Everything else that is no whole answer: another status, a cut, a timeout, no connection."""
    UNFINISHED = "unfinished"
    """The run ended before it did."""


class Objective(msgspec.Struct, frozen=True):
    """One bound of an SLO, as it stood at the run: ``latency_p95_s`` and ``5.0``."""

    name: str
    bound: float


class CallerPlan(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who sends, without the key."""

    name: str
    share: float = 1.0
    headers: dict[str, str] = {}
    input: int | None = None
    output: int | None = None
    backlog: int = 0


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The load: what, when, how much of it, and the bounds that end it."""

    api: str = "chat"
    stream: bool = True
    rate: str | None = None
    arrivals: str = "poisson"
    users: int | None = None
    think_s: float = 0.0
    trace: str | None = None
    speed: float = 1.0
    duration_s: float = 30.0
    warm_s: float = 0.0
    """Requests that were due before it are kept, and count in no figure."""
    requests: int = 100_000
    workload: str = "fixed"
    input_tokens: int = 200
    output_tokens: int = 200
    turns: int = 5
    prefix_tokens: int = 1000
    prefixes: int = 1
    timeout_s: float = 300.0
    drain_s: float = 60.0
    starved_s: float = 30.0
    max_in_flight: int = 4096
    obey_retry_after: bool = False
    patience_s: float = 60.0
    seed: int = 0
    salt: str = ""
    callers: list[CallerPlan] = msgspec.field(default_factory=lambda: [CallerPlan("anonymous")])


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Who was asked, and what it was found to take."""

    url: str
    path: str
    model: str
    server: str = ""
    ignore_eos: bool = False
    usage: bool = True
    words_per_token: float = 1.0
    counted: bool = False
    """Prompt lengths were fitted to the engine's own count."""
    notes: list[str] = []


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Where the client ran."""

    cpu: str = ""
    cores: int = 0
    memory_bytes: int = 0
    system: str = ""
    python: str = ""
    loop: str = ""
    load_average: list[float] = []


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a run stands in a comparison."""

    comparison: str
    target: str
    round: int = 1
    settings: dict[str, str] = {}


class Header(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="run"):
    """How a run was made."""

    schema: int = SCHEMA
    headgate: str = ""
    started_at: str
    command: str = ""
    plan: Plan
    target: Target
    machine: Machine = Machine()
    slo: list[Objective] = []
    place: Place | None = None


class Try(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One that was refused and came again. ``retry_after_s`` is what it was told."""

    at_s: float
    status: int
    reason: str
    took_s: float
    retry_after_s: float


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind", tag="request"):
    """One request. Times are seconds from the start of the load; durations count from ``at_s``.

    Attributes:
        at_s: when it was due. In a closed loop, when its user was ready to send it.
        late_s: how much later this client began to send it.
        ttft_s: to the first event with text.
        latency_s: to the last byte, or to whatever ended it.
        gaps_ms: between two events with text, in milliseconds.
        tokens: completion tokens, by the engine's count; of events where ``estimated`` (a whole answer then has 0).
        tries: the refusals that it obeyed before this end.
    """

    n: int
    at_s: Measured
    outcome: Outcome
    latency_s: Measured
    late_s: Measured = 0.0
    caller: str = "anonymous"
    status: int = 0
    reason: str = ""
    ttft_s: Measured | None = None
    prompt_tokens: int = 0
    tokens: int = 0
    estimated: bool = False
    asked_tokens: int = 0
    gaps_ms: Sequence[Measured] = []
    retry_after_s: float | None = None
    queue_ms: Measured | None = None
    engine: str = ""
    conversation: int = -1
    turn: int = 0
    tries: list[Try] = []


class End(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="end"):
    """How it ended, and what the client saw of itself.

    Attributes:
        span_s: from the start to the last byte.
        offered_s: for how long requests were due.
        cpu_s: this process's, over the span.
        lags_ms: how late the client's own loop was, at each of its ticks, the worst of each second.
        interrupted: by hand.
        max_in_flight: the most at once.
    """

    span_s: Measured
    offered_s: Measured
    cpu_s: Measured = 0.0
    lags_ms: list[Measured] = []
    interrupted: bool = False
    max_in_flight: int = 0


class Run(msgspec.Struct, frozen=True):
    """A run, whole. ``source`` is the name of its file."""

    header: Header
    records: list[Record]
    end: End
    source: str = ""

    @property
    def counted(self) -> list[Record]:
        """Those that were due after the warm-up."""
        warm_s = self.header.plan.warm_s
        return [record for record in self.records if record.at_s >= warm_s] if warm_s else self.records


class BadFile(Exception):
    """A file that is no raw result: one line that says why."""


_line = msgspec.json.Decoder(Header | Record | End)


def write(path: Path, run: Run) -> None:
    """Write a run; ``….gz`` is compressed. A file has its name once it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    encoder = msgspec.json.Encoder(enc_hook=list)  # an array of gaps
    buffer = bytearray()
    own = not path.exists() or (path.is_file() and not path.is_symlink())
    part = path.with_name(f"{path.name}.part") if own else path
    try:
        with gzip.open(part, "wb", 6) if path.suffix == ".gz" else part.open("wb") as file:
            for line in (run.header, *run.records, run.end):
                encoder.encode_into(line, buffer)
                file.write(buffer + b"\n")
        if own:
            part.replace(path)
    finally:
        if own:
            part.unlink(missing_ok=True)


def read(path: Path) -> Run:
    """A run that was written.

    Raises:
        BadFile: it can't be read, or is none.
    """
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            return decode((line for line in file if line.strip()), path.name)
    except (OSError, EOFError, zlib.error) as error:
        raise BadFile(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    except ValueError as error:
        raise BadFile(f"{path} is no raw result of `headgate bench`: {error}") from None


def decode(lines: Iterable[bytes], source: str) -> Run:
    """A run from its lines. Raises ValueError."""
    header: Header | None = None
    end: End | None = None
    records: list[Record] = []
    for number, line in enumerate(lines, 1):
        try:
            found = _line.decode(line)
        except msgspec.MsgspecError as error:
            raise ValueError(f"line {number}: {error}") from None
        if end is not None:
            raise ValueError(f"line {number} comes after its last: a file holds one run")
        if isinstance(found, Record):
            records.append(found)
        elif isinstance(found, End):
            end = found
        elif header is not None:
            raise ValueError(f"line {number} begins another run: a file holds one")
        elif found.schema > SCHEMA:
            raise ValueError(f"it is of schema {found.schema}, this Headgate reads {SCHEMA}")
        else:
            header = found
    if header is None:
        raise ValueError("it has no first line that says how it was made")
    if end is None:
        raise ValueError("its last line is missing: the run was cut short")
    return Run(header, records, end, source)
