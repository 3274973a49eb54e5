"""The engine's GPUs as they are shown: a thread asks the driver, a scrape reads what it was told last.

The driver is asked on a thread of its own because it may take its time, or never answer: then the last sample grows
old, and is shown as unavailable with that reason. Nobody ever waits for this thread, not even the end of the process.
It ends at the picture; the driver itself is ``nvml``'s.

A call that hangs inside the kernel can't be left by any thread: the process then stays until the kernel lets go, as
``nvidia-smi`` does.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from prometheus_client.core import Metric

from headgate.telemetry.instruments import Labels
from headgate.telemetry.metrics import counters, gauge, gauges
from headgate.telemetry.nvml import Reading, Unavailable

log = logging.getLogger(__name__)

PERIOD_S = 2.0
AGAIN_S = 60.0
SLACK_S = 8.0


class Source(Protocol):
    """What is asked: the driver."""

    version: str

    def open(self) -> None: ...

    def read(self) -> tuple[Reading, ...]: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Sample:
    """What was seen at ``at``, with the next one ``due`` then.

    ``reason`` says why not everything could be read, and is None where all is well.
    """

    at: float
    due: float
    gpus: tuple[Reading, ...] = ()
    driver: str = ""
    reason: str | None = None


class Gpus:
    """Samples the GPUs from ``start`` on.

    Args:
        source: the driver; only the thread touches it.
        clock: seconds, monotonic.
        on_sample: called in the thread with each sample.
        period_s: between two samples.
        again_s: between two looks for GPUs, where there is none or one fails.
        slack_s: how late a sample may be before it counts as missing.
    """

    def __init__(
        self,
        source: Source,
        *,
        clock: Callable[[], float] = time.monotonic,
        on_sample: Callable[[Sample], object] | None = None,
        period_s: float = PERIOD_S,
        again_s: float = AGAIN_S,
        slack_s: float = SLACK_S,
    ) -> None:
        self._source = source
        self._clock = clock
        self._on_sample = on_sample
        self._period_s = period_s
        self._again_s = again_s
        self._slack_s = slack_s
        self._ended = threading.Event()
        self._seen = False
        self._sample = Sample(clock(), clock(), reason="the NVIDIA driver is being asked for the first time")

    def start(self) -> None:
        """Begin. The thread is nobody's to wait for: it may hang in the driver."""
        threading.Thread(target=self._run, name="gpu", daemon=True).start()

    def stop(self) -> None:
        """Ask it to end, and don't wait."""
        self._ended.set()

    def now(self) -> Sample:
        """The last sample, or why there is none that is fresh."""
        sample, now = self._sample, self._clock()
        if now - sample.due <= self._slack_s:
            return sample
        return Sample(sample.at, sample.due, reason=f"the NVIDIA driver has not answered for {now - sample.at:.0f} s")

    # Shown.

    def status(self) -> dict[str, object]:
        """For ``/status``."""
        sample = self.now()
        well = [
            {
                "index": gpu.index,
                "name": gpu.name,
                "utilization": gpu.utilization,
                "memory_used_bytes": gpu.memory_used_bytes,
                "memory_total_bytes": gpu.memory_total_bytes,
                "temperature_c": gpu.temperature_c,
                "power_w": gpu.power_w,
                "power_limit_w": gpu.power_limit_w,
                "energy_j": gpu.energy_j,
            }
            for gpu in sample.gpus
            if gpu.failure is None
        ]
        if sample.reason is None:
            return {"status": "ok", "gpus": well}
        return {"status": "unavailable", "reason": sample.reason, **({"gpus": well} if well else {})}

    def states(self) -> Iterator[Metric]:
        """For a scrape. What a GPU doesn't report is absent."""
        sample = self.now()
        gpus = [gpu for gpu in sample.gpus if gpu.failure is None]
        yield gauge(
            "gpu_available",
            "1 while all of the engine's GPUs can be read; /status says why not.",
            float(sample.reason is None),
        )
        if gpus:
            yield gauges(
                "gpu_info",
                "A GPU by name.",
                ("gpu", "name", "uuid", "driver"),
                {(gpu.index, gpu.name, gpu.uuid, sample.driver): 1.0 for gpu in gpus},
            )
        for name, help_, value in _GAUGES:
            found: dict[Labels, float] = {(gpu.index,): read for gpu in gpus if (read := value(gpu)) is not None}
            if found:
                yield gauges(name, help_, ("gpu",), found)
        joules: dict[Labels, float] = {(gpu.index,): gpu.energy_j for gpu in gpus if gpu.energy_j is not None}
        if joules:
            yield counters("gpu_energy_joules", "Energy used since the driver was loaded.", ("gpu",), joules)

    # The thread.

    def _tell(self, sample: Sample, before: str | None) -> None:
        """One line where something has changed; none where there never was a GPU."""
        if sample.reason is not None and sample.reason != before and self._seen:
            log.warning("gpu: %s", sample.reason)
        elif sample.reason is None and (before is not None or not self._seen):
            self._seen = True
            log.info("gpu: %s", ", ".join(f"{gpu.index}: {gpu.name}" for gpu in sample.gpus))

    def _run(self) -> None:
        opened_at: float | None = None
        reason: str | None = None
        while not self._ended.is_set():
            gpus: tuple[Reading, ...] = ()
            before = reason
            try:
                if opened_at is None or (reason is not None and self._clock() - opened_at >= self._again_s):
                    self._source.open()
                    opened_at = self._clock()
                gpus = self._source.read()
                reason = "; ".join(map(_trouble, filter(_is_lost, gpus))) or None
            except Unavailable as absence:
                opened_at, reason = None, str(absence)
            except Exception as error:
                # Whatever a driver's library does, it is no reason to lose the thread, nor to say nothing.
                opened_at, reason = None, f"the GPUs can't be read: {error!r}"
            wait_s = self._again_s if opened_at is None else self._period_s
            now = self._clock()
            self._sample = sample = Sample(now, now + wait_s, gpus, self._source.version, reason)
            self._tell(sample, before)
            if self._on_sample is not None:
                self._on_sample(sample)
            self._ended.wait(wait_s)


def _is_lost(gpu: Reading) -> bool:
    return gpu.failure is not None


def _trouble(gpu: Reading) -> str:
    return f"GPU {gpu.index}{f' ({gpu.name})' if gpu.name else ''}: {gpu.failure}"


_GAUGES: tuple[tuple[str, str, Callable[[Reading], float | None]], ...] = (
    ("gpu_utilization_ratio", "Share of the time in which a kernel ran, 0 to 1.", lambda gpu: gpu.utilization),
    ("gpu_memory_used_bytes", "Memory in use.", lambda gpu: gpu.memory_used_bytes),
    ("gpu_memory_total_bytes", "Memory that there is.", lambda gpu: gpu.memory_total_bytes),
    ("gpu_temperature_celsius", "Temperature of the GPU.", lambda gpu: gpu.temperature_c),
    ("gpu_power_watts", "Power drawn.", lambda gpu: gpu.power_w),
    ("gpu_power_limit_watts", "The power that it is held to.", lambda gpu: gpu.power_limit_w),
)
