from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from headgate.telemetry.gpu import Gpus, Sample
from headgate.telemetry.nvml import Reading, Unavailable
from tests.wire.gateway import wait_until

H100 = Reading("0", "GPU-aa", "NVIDIA H100", 0.5, 60, 80, 54.0, 350.0, 700.0, 1000.0)
LOST = Reading("1", "GPU-bb", "NVIDIA H100", failure="GPU is lost")


class Driver:
    """One that says what the test wants, or hangs."""

    version = "570.1"

    def __init__(self, *gpus: Reading) -> None:
        self.gpus = gpus
        self.absent: str | None = None
        self.opened = 0
        self.hangs = False
        self.answers = threading.Event()
        self.answers.set()

    def open(self) -> None:
        self.opened += 1
        self.answers.wait()
        if self.absent is not None:
            raise Unavailable(self.absent)

    def read(self) -> tuple[Reading, ...]:
        self.hangs = not self.answers.is_set()
        self.answers.wait()
        return self.gpus

    def close(self) -> None:
        return


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@contextmanager
def sampled(driver: Driver, clock: Clock | None = None, again_s: float = 0.001) -> Iterator[Gpus]:
    gpus = Gpus(driver, clock=clock or Clock(), period_s=0.001, again_s=again_s, slack_s=8.0)
    gpus.start()
    try:
        yield gpus
    finally:
        gpus.stop()
        driver.answers.set()


def names(gpus: Gpus) -> set[str]:
    return {sample.name for metric in gpus.states() for sample in metric.samples}


def value(gpus: Gpus, name: str, gpu: str | None = None) -> float | None:
    for metric in gpus.states():
        for sample in metric.samples:
            if sample.name == name and sample.labels.get("gpu") == gpu:
                return sample.value
    return None


def test_what_was_seen_last_is_what_a_scrape_shows() -> None:
    with sampled(Driver(H100)) as gpus:
        wait_until(lambda: gpus.now().gpus, "a sample")
        assert value(gpus, "gpu_available") == 1
        assert value(gpus, "gpu_power_watts", "0") == 350
        assert value(gpus, "gpu_energy_joules_total", "0") == 1000
        assert gpus.status()["status"] == "ok"


def test_before_the_first_answer_it_is_unavailable_and_says_so() -> None:
    gpus = Gpus(Driver(H100), clock=Clock())
    assert names(gpus) == {"gpu_available"}
    assert value(gpus, "gpu_available") == 0
    assert gpus.status() == {
        "status": "unavailable",
        "reason": "the NVIDIA driver is being asked for the first time",
    }


def test_a_driver_that_hangs_is_unavailable_once_its_sample_is_old() -> None:
    clock, driver = Clock(), Driver(H100)
    with sampled(driver, clock) as gpus:
        wait_until(lambda: gpus.now().gpus, "a sample")
        driver.answers.clear()
        wait_until(lambda: driver.hangs, "it is asked again")
        clock.now_s += 8
        assert gpus.status()["status"] == "ok"
        clock.now_s += 1
        assert gpus.status() == {"status": "unavailable", "reason": "the NVIDIA driver has not answered for 9 s"}
        assert names(gpus) == {"gpu_available"}
        driver.answers.set()
        wait_until(lambda: gpus.now().gpus, "it answers again")


def test_a_driver_that_comes_later_is_found() -> None:
    driver = Driver(H100)
    driver.absent = "the NVIDIA driver is not loaded"
    with sampled(driver) as gpus:
        wait_until(lambda: driver.opened > 1, "it is looked for again")
        assert gpus.status() == {"status": "unavailable", "reason": "the NVIDIA driver is not loaded"}
        driver.absent = None
        wait_until(lambda: value(gpus, "gpu_available") == 1, "it is there")


def test_no_driver_is_looked_for_now_and_then_only() -> None:
    driver = Driver()
    driver.absent = "there is none"
    seen: list[Sample] = []
    gpus = Gpus(driver, clock=Clock(), on_sample=seen.append, period_s=0.001, again_s=3600.0)
    gpus.start()
    wait_until(lambda: seen, "a look")
    gpus.stop()
    assert seen[0].due - seen[0].at == 3600.0
    assert driver.opened == 1


def test_a_lost_gpu_makes_the_whole_unavailable_and_leaves_the_others_in_sight() -> None:
    with sampled(Driver(H100, LOST)) as gpus:
        wait_until(lambda: gpus.now().gpus, "a sample")
        status = gpus.status()
        assert status["status"] == "unavailable"
        assert status["reason"] == "GPU 1 (NVIDIA H100): GPU is lost"
        assert value(gpus, "gpu_available") == 0
        assert value(gpus, "gpu_power_watts", "0") == 350
        assert value(gpus, "gpu_power_watts", "1") is None


def test_a_lost_gpu_is_looked_for_again() -> None:
    clock, driver = Clock(), Driver(LOST)
    with sampled(driver, clock, again_s=60.0) as gpus:
        wait_until(lambda: gpus.now().gpus, "the first look")
        clock.now_s += 61
        wait_until(lambda: driver.opened == 2, "the second")


def test_what_a_gpu_does_not_report_has_no_series() -> None:
    with sampled(Driver(Reading("0", "GPU-aa", "NVIDIA GB10", utilization=0.0))) as gpus:
        wait_until(lambda: gpus.now().gpus, "a sample")
        assert names(gpus) == {"gpu_available", "gpu_info", "gpu_utilization_ratio"}


def test_a_library_that_breaks_in_a_new_way_is_told_and_asked_again() -> None:
    class Odd(Driver):
        def read(self) -> tuple[Reading, ...]:
            if self.opened == 1:
                raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "odd")
            return super().read()

    with sampled(Odd(H100)) as gpus:
        wait_until(lambda: value(gpus, "gpu_available") == 1, "it is read again")


def test_nobody_waits_for_the_thread() -> None:
    driver = Driver(H100)
    driver.answers.clear()
    before = set(threading.enumerate())
    gpus = Gpus(driver, clock=Clock())
    gpus.start()
    [thread] = set(threading.enumerate()) - before
    wait_until(lambda: driver.opened, "it is being asked")
    gpus.stop()
    assert thread.is_alive()
    assert thread.daemon
    driver.answers.set()
    thread.join()


def test_every_series_is_documented() -> None:
    docs = Path(__file__).parents[2] / "docs"
    with sampled(Driver(H100)) as gpus:
        wait_until(lambda: gpus.now().gpus, "a sample")
        for page in (docs / "api.md", docs / "observability.md"):
            assert [name for name in names(gpus) if f"`{name}" not in page.read_text()] == []
