"""Pictures of the page at work: ``make screenshots``, or ``python -m tests.console.screenshots FOLDER``. About 90 s.

A gateway of eight slots in front of the simulated engine is put under more and more load, and photographed: full, in
the light, in the dark and on a phone; refusing; idle again.
"""

from __future__ import annotations

import argparse
import json
import random
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from tests.console.conftest import FLAGS
from tests.tools import tool
from tests.wire.client import CHAT, chat
from tests.wire.gateway import Gateway, gateway, wait_until

ENGINE = "--load-s 0.5 --base-s 0.02 --per-prefill-token-s 0.0004 --max-model-len 8192 --num-gpu-blocks 8192"
CALLERS = ("open-webui", "team-a", "notebooks", "agents", "ci")
WIDE = {"width": 1280, "height": 1030}
PHONE = {"width": 360, "height": 780}
LARGEST_BYTES = 300_000


class Load:
    """So many clients; each asks again when it was answered, and comes back after a refusal when it was told to."""

    def __init__(self, gate: Gateway, keys: list[str]) -> None:
        self._gate = gate
        self._keys = keys
        self._wanted = 0
        self._dice = random.Random(7)

    def set(self, clients: int) -> None:
        before, self._wanted = self._wanted, clients
        for number in range(before, clients):
            threading.Thread(target=self._ask_again_and_again, args=(number,), daemon=True).start()

    def _ask_again_and_again(self, number: int) -> None:
        key = self._keys[number % len(self._keys)]
        while number < self._wanted:
            words = self._dice.randint(5, 400)
            tokens = int(self._dice.lognormvariate(4.9, 0.6))
            stream = self._dice.random() < 0.85
            try:
                reply = self._gate.ask(chat(tokens, text="word " * words, stream=stream), CHAT, **{"x-api-key": key})
            except TimeoutError:
                continue  # it gave up, as people do, and asks again
            pause_s = reply.error["retry_after_s"] if reply.status == 429 else self._dice.uniform(0.0, 0.4)
            time.sleep(pause_s * self._dice.uniform(1.0, 1.5))


def _keys(file: Path) -> list[str]:
    """A file of keys with these names; their secrets."""
    secrets: list[str] = []
    for name in CALLERS:
        add = [sys.executable, "-m", "headgate", "keys", "add", name, "--file", str(file), "--json"]
        made = subprocess.run(add, check=True, capture_output=True, text=True)
        secrets.append(json.loads(made.stdout)["key"])
    return secrets


def _open(browser: Browser, gate: Gateway, scheme: str, size: dict[str, int], scale: float) -> Page:
    context = browser.new_context(
        viewport={"width": size["width"], "height": size["height"]},
        color_scheme="dark" if scheme == "dark" else "light",
        device_scale_factor=scale,
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.goto(f"http://127.0.0.1:{gate.port}/")
    return page


def _take(page: Page, folder: Path, name: str) -> None:
    page.bring_to_front()
    page.wait_for_function("document.getElementById('link').dataset.link === 'live'")
    page.wait_for_timeout(1200)  # a picture of its own
    path = folder / f"{name}.png"
    path.write_bytes(smaller(page.screenshot()))
    size = path.stat().st_size
    print(f"{path}: {size // 1000} kB, {page.locator('#says').inner_text()!r}")
    assert size < LARGEST_BYTES, "too large for a README"


def smaller(png: bytes) -> bytes:
    """The same picture, packed as tightly as zlib can: a browser is in a hurry."""
    packed, chunks = b"", []
    for kind, content in _chunks(png):
        if kind == b"IDAT":
            packed += content
        else:
            chunks.append((kind, content))
    pixels = zlib.decompress(packed)
    chunks.insert(-1, (b"IDAT", zlib.compress(pixels, 9)))
    return png[:8] + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 8
    while at < len(png):
        (size,) = struct.unpack_from(">I", png, at)
        yield png[at + 4 : at + 8], png[at + 8 : at + 8 + size]
        at += size + 12


@contextmanager
def _browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=tool("chromium"), args=FLAGS)
        yield browser
        browser.close()


def main() -> None:
    """Take them all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("docs/screenshots"))
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)

    def kind() -> str:
        return str(gate.status()["standing"]["kind"])

    with ExitStack() as stack:
        file = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "keys.toml"
        secrets = _keys(file)
        flags = ("--max-active", "8", "--queue-max", "24", "--api-keys-file", str(file), "--engine-args", ENGINE)
        gate = stack.enter_context(gateway(None, *flags))
        browser = stack.enter_context(_browser())
        load = Load(gate, secrets)
        for clients, seconds in ((3, 8), (6, 8), (9, 8), (20, 18)):
            load.set(clients)
            time.sleep(seconds)
        wait_until(lambda: kind() == "full", "the gate is full")
        for name, scheme, size, scale in (
            ("full-light", "light", WIDE, 1.0),
            ("full-dark", "dark", WIDE, 1.0),
            ("phone", "light", PHONE, 2.0),
        ):
            _take(_open(browser, gate, scheme, size, scale), folder, name)
        load.set(44)
        wait_until(lambda: kind() == "refusing", "it refuses")
        time.sleep(6)
        _take(_open(browser, gate, "light", WIDE, 1.0), folder, "refusing")
        load.set(0)
        wait_until(lambda: kind() == "idle", "it is idle", within_s=60)
        _take(_open(browser, gate, "light", WIDE, 1.0), folder, "idle")


if __name__ == "__main__":
    main()
