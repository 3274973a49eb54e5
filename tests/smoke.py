"""Start `make run` as a person would, chat once, stop it, and see that nothing of it is left.

Run by `make smoke`, with the standard library alone: it checks what a fresh machine has after `make run` and no more.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

LIMIT_S = 300.0
"""For the first `make run` on a fresh machine, which installs what it needs."""


def main() -> int:
    """Exit status 0 if all went well."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    base = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile("w+") as log:
        make = subprocess.Popen(["make", "run", f"PORT={port}"], stdout=log, stderr=log, start_new_session=True)
        try:
            what = _road(base, make)
        except (OSError, AssertionError, KeyError, ValueError) as error:
            log.seek(0)
            print(f"smoke: {error!r}\n{log.read()}")
            return 1
        finally:
            if make.poll() is None:
                os.killpg(make.pid, signal.SIGKILL)
    print(f"smoke: {what}")
    return 0


def _road(base: str, make: subprocess.Popen[bytes]) -> str:
    _wait_ready(base, make)
    body = {
        "model": "headgate-simulated",
        "stream": True,
        "max_tokens": 5,
        "messages": [{"role": "user", "content": "Hello"}],
    }
    request = urllib.request.Request(
        f"{base}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        events = [event for event in answer.read().decode().split("\n\n") if event.startswith("data: ")]
    assert events[-1] == "data: [DONE]", events
    assert len(events) > 5, events
    with urllib.request.urlopen(f"{base}/status", timeout=10) as answer:
        engine = json.load(answer)["engines"][0]["pid"]
    os.killpg(make.pid, signal.SIGTERM)
    make.wait(timeout=60)
    assert not Path(f"/proc/{engine}").exists(), f"the engine's process {engine} is still there"
    try:
        urllib.request.urlopen(f"{base}/health", timeout=5).close()
    except urllib.error.URLError:
        return "started, chatted, stopped, nothing left"
    raise AssertionError("the gateway still answers")


def _wait_ready(base: str, make: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        assert make.poll() is None, f"make ended with {make.returncode}"
        try:
            urllib.request.urlopen(f"{base}/ready", timeout=5).close()
        except urllib.error.URLError:
            time.sleep(0.2)  # a process outside this one: there is nothing to wait on but its port
        else:
            return
    raise AssertionError("not ready in time")


if __name__ == "__main__":
    sys.exit(main())
