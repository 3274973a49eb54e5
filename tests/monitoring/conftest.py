"""A whole small house under load, seen by a real Prometheus: for all the tests here that only ask it things."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.monitoring.prometheus import Prometheus, prometheus
from tests.standins.dcgm import dcgm_exporter
from tests.standins.nvml import Standin, standin
from tests.wire.client import CHAT, Client, chat
from tests.wire.gateway import Gateway, gateway, wait_until

TEAM, OPERATOR = "the-teams-key", "the-operators-key"
HISTORY = "What did the canal's keeper say about the water that evening, and who heard it? " * 3
ENGINE = "--base-s 0.015 --max-num-seqs 8 --max-model-len 512 --num-gpu-blocks 32 --load-s 0.8"
"""Slow enough for a busy machine, and with so small a KV cache that eight answers don't fit."""


@dataclass(slots=True)
class House:
    """What runs."""

    gate: Gateway
    asked: Prometheus
    gpus: Standin
    began: float


class Load:
    """Clients that ask until they are stopped, each in its own way; more of them than there are places. The GPUs use
    energy meanwhile.
    """

    def __init__(self, gate: Gateway, gpus: Standin) -> None:
        self._gate = gate
        self._gpus = gpus
        self._joules = 1000
        self._stopped = threading.Event()
        ways = [self._stream] * 9 + [self._whole] * 4 + [self._many] + [self._leaves] * 2 + [self._wrong]
        ways += [self._returns] * 2
        self._threads = [threading.Thread(target=self._again, args=(way, n)) for n, way in enumerate(ways)]
        self._threads.append(threading.Thread(target=self._burn))

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _again(self, way: Callable[[Client, int], None], number: int) -> None:
        while not self._stopped.is_set():
            try:
                with self._gate.client() as client:
                    way(client, number)
            except (OSError, AssertionError):
                pass  # the engine is killed under some of them, and that is meant
            self._stopped.wait(0.05)  # a client that is refused doesn't come back at once

    def _burn(self) -> None:
        while not self._stopped.wait(0.5):
            self._joules += 400
            self._gpus.set({f"{gpu}.energy_mj": self._joules * 1000 for gpu in (0, 1)})

    def _stream(self, client: Client, number: int) -> None:
        body = chat(64, text=f"({number % 3}) {HISTORY}")
        client.ask(CHAT, body, authorization=f"Bearer {TEAM if number % 2 else OPERATOR}")

    def _whole(self, client: Client, number: int) -> None:
        client.ask(CHAT, chat(20, stream=False, text=HISTORY), authorization=f"Bearer {TEAM}")

    def _many(self, client: Client, number: int) -> None:
        client.ask(CHAT, chat(10, stream=False, n=2), authorization=f"Bearer {OPERATOR}")

    def _leaves(self, client: Client, number: int) -> None:
        client.post(CHAT, chat(400), authorization=f"Bearer {TEAM}")
        if number % 2:
            client.until_events(3)

    def _returns(self, client: Client, number: int) -> None:
        refused = client.ask(CHAT, chat(10, text=f"({number}) {HISTORY}"), authorization=f"Bearer {TEAM}")
        if told_s := refused.headers.get("retry-after"):
            self._stopped.wait(float(told_s))
            client.ask(CHAT, chat(10, text=f"({number}) {HISTORY}"), authorization=f"Bearer {TEAM}")

    def _wrong(self, client: Client, number: int) -> None:
        client.ask(CHAT, chat(4), authorization="Bearer guessed")


def break_streams(gate: Gateway) -> None:
    """Some answers of the engine break off in their middle."""
    url = gate.status()["engines"][0]["url"]
    fault = {"kind": "cut", "after_events": 3, "times": 8}
    httpx.post(f"{url}/simulator/faults", json=fault, trust_env=False).raise_for_status()


def crash_engine(gate: Gateway, asked: Prometheus) -> None:
    """The engine dies until Prometheus has seen it down; the first times it is up again within a second or two."""

    def seen_down() -> bool:
        if asked.query('max_over_time(api_engine_state{state="backoff"}[1m]) == 1'):
            return True
        (engine,) = gate.status()["engines"]
        if engine["state"] == "ready":
            with suppress(ProcessLookupError):  # it died of the last time, and /status hasn't noticed
                os.kill(engine["pid"], signal.SIGKILL)
        return False

    wait_until(seen_down, "Prometheus has seen the engine down")


@pytest.fixture(scope="package")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A gateway with an engine of its own, GPUs, prices and objectives, asked for more than it can do, while Prometheus
    looks every second; its engine crashes once and breaks some streams.
    """
    folder: Path = tmp_path_factory.mktemp("house")
    gpus = standin(folder).gpu(0).gpu(1, utilization=12)
    env = {**gpus.env, "HEADGATE_API_KEY": TEAM, "HEADGATE_ADMIN_KEY": OPERATOR}
    flags = [
        *("--max-active", "auto", "--queue-max", "5", "--queue-timeout-s", "3", "--engine-args", ENGINE),
        *("--gpu-price-per-hour", "4", "--energy-price-per-kwh", "0.3"),
        *("--slo-ttft-s", "0.4", "--slo-itl-ms", "60", "--slo-latency-s", "2"),
    ]
    began = time.time()
    with ExitStack() as stack:
        exporter = stack.enter_context(dcgm_exporter({"0": f"GPU-{0:08x}-0000-0000-0000-000000000000"}))
        gate = stack.enter_context(gateway(None, *flags, env=env))
        asked = stack.enter_context(prometheus(folder, hurried=True, gateway=gate.port, dcgm=exporter))
        asked.until('min(up{job=~"headgate|vllm|dcgm"}) == 1 and count(up) >= 4')
        load = Load(gate, gpus)
        load.start()
        stack.callback(load.stop)
        asked.until("sum(rate(api_tokens_total[5s])) > 0")
        break_streams(gate)
        crash_engine(gate, asked)
        gate.until_ready()
        yield House(gate, asked, gpus, began)
