"""From a pool's engines to the connections that the flow uses."""

from __future__ import annotations

import asyncio
import time

from headgate.engines import AVOIDED_S, Engines
from headgate.pool.launchers import Address, Launch
from headgate.pool.lifecycle import State
from headgate.pool.pool import Pool
from headgate.pool.supervisor import Supervisor


def test_a_new_start_that_gets_the_old_port_is_spoken_to_with_its_own_key() -> None:
    """One start in ten thousand gets it, and would have been asked with the key of the engine before."""

    async def claim() -> None:
        supervisor = Supervisor("e0", lambda: Launch(kind="vllm", address=Address("127.0.0.1", 20_000)))
        engines = Engines(Pool([supervisor], max_active=1, clock=time.monotonic), on_capacity=lambda *_: None)
        supervisor.state = State.READY
        for key in ("first", "second"):
            supervisor.launch = Launch(kind="vllm", address=Address("127.0.0.1", 20_000), api_key=key)
            supervisor._tell()
            assert b"authorization: Bearer %b\r\n" % key.encode() in engines.route("e0").headers
            assert key not in repr(engines.route("e0"))

    asyncio.run(claim())


def test_an_engine_that_failed_twice_running_is_avoided_for_a_while() -> None:
    now_s = [100.0]

    async def claim() -> None:
        engines = Engines(
            Pool([], max_active=1, clock=time.monotonic), on_capacity=lambda *_: None, clock=lambda: now_s[0]
        )
        engines.suspect("e0")
        assert not engines.is_avoided("e0"), "one failure may be its request's fault"
        engines.served("e0")
        engines.suspect("e0")
        assert not engines.is_avoided("e0"), "what it served in between counts"
        engines.suspect("e0")
        assert engines.is_avoided("e0")
        assert not engines.is_avoided("e1")
        now_s[0] += AVOIDED_S
        assert not engines.is_avoided("e0"), "one request finds out whether it has got over it"
        engines.suspect("e0")
        assert engines.is_avoided("e0")

    asyncio.run(claim())
