"""However the gateway goes, its engines go with it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.pool.engines import DEADLINE_S, Family, alive, command, gone

if TYPE_CHECKING:
    from pathlib import Path

_GATEWAY = """
import asyncio, json, signal, sys
from headgate.pool.launchers import Address, Launch, free_port
from headgate.pool.supervisor import Supervisor

def launch():
    port = free_port()
    argv = [str(port) if word == "PORT" else word for word in json.loads(sys.argv[1])]
    return Launch(kind="scripted", address=Address("127.0.0.1", port), argv=tuple(argv))

async def main():
    told = lambda engine: print(engine.state, flush=True)
    engine = Supervisor("e0", launch, on_change=told)
    engine.start()
    await asyncio.Event().wait()

# A shell's background job inherits SIGINT ignored, and Python then leaves it so.
signal.signal(signal.SIGINT, signal.default_int_handler)
asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGSEGV])
def test_nothing_of_an_engine_outlives_a_gateway_that_is_killed(tmp_path: Path, number: signal.Signals) -> None:
    family = Family(tmp_path)
    helpers = ["group", "own group", "own session", "bare session", "parent"]
    argv = ["PORT" if word == "0" else word for word in command(0, family=family.path, helpers=helpers)]
    gateway = subprocess.Popen(
        [sys.executable, "-c", _GATEWAY, json.dumps(argv)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with gateway:
        try:
            pids = asyncio.run(family.pids())
            assert gateway.stdout is not None
            while gateway.stdout.readline() != b"ready\n":
                pass
            assert len(alive(pids)) == len(helpers) + 2
            os.kill(gateway.pid, number)
            gateway.wait(DEADLINE_S)
        finally:
            gateway.kill()
    assert gone(pids)
