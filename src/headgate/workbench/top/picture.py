"""What a gateway says of itself: its ``/status`` and ``/metrics?format=json``, as far as they are shown.

Fields that are missing take their default and new ones are passed over, so that ``top`` can look at a gateway of
another version. It ends at values.
"""

from __future__ import annotations

import msgspec


class Slots(msgspec.Struct, frozen=True):
    """The gate."""

    max_active: int = 0
    active: int = 0


class Queue(msgspec.Struct, frozen=True):
    """The line."""

    mode: str = "queue"
    depth: int = 0
    max: int = 0
    oldest_wait_s: float = 0.0
    timeout_s: float = 0.0


class Load(msgspec.Struct, frozen=True):
    """How far a start has come."""

    phase: str = ""
    fraction: float | None = None


class Engine(msgspec.Struct, frozen=True):
    """One engine; the numbers that it doesn't tell are None."""

    name: str = ""
    kind: str | None = None
    state: str = ""
    since_s: float = 0.0
    url: str | None = None
    models: list[str] = []
    slots: int = 0
    in_flight: int = 0
    eta_s: float | None = None
    load: Load | None = None
    failure: str | None = None
    last_lines: list[str] = []
    starts: dict[str, int] = {}
    running: float | None = None
    waiting: float | None = None
    kv_usage: float | None = None


class Process(msgspec.Struct, frozen=True):
    """The gateway's own process."""

    cpu_s: float = 0.0
    resident_bytes: int = 0


class Gpu(msgspec.Struct, frozen=True):
    """One GPU; what it doesn't report is None."""

    index: str = ""
    name: str = ""
    utilization: float | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    power_limit_w: float | None = None


class Gpus(msgspec.Struct, frozen=True):
    """The engine's GPUs, or why there are none to be seen."""

    status: str = ""
    reason: str = ""
    gpus: list[Gpu] = []


class Cost(msgspec.Struct, frozen=True):
    """Dollars by kind; None is what isn't counted."""

    dollars: dict[str, float | None] = {}
    dollars_per_million_tokens: float | None = None


class Status(msgspec.Struct, frozen=True):
    """``/status``."""

    version: str
    ready: bool
    reason: str = ""
    uptime_s: float = 0.0
    slots: Slots = Slots()
    queue: Queue = Queue()
    engines: list[Engine] = []
    process: Process = Process()
    gpu: Gpus = Gpus()
    cost: Cost | None = None


class Sample(msgspec.Struct, frozen=True):
    """One number of ``/metrics``; None stands for one that JSON has no word for."""

    name: str
    labels: dict[str, str] = {}
    value: float | None = None


class Family(msgspec.Struct, frozen=True):
    """One metric with its samples."""

    samples: list[Sample] = []


Metrics = dict[str, Family]
