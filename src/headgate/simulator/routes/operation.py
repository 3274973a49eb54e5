"""What an operator and a supervisor ask: health, models, metrics, sleep; and what a test asks."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import msgspec

from headgate.simulator import faults
from headgate.simulator.fields import Fields
from headgate.simulator.problem import Problem
from headgate.simulator.service import VERSION

if TYPE_CHECKING:
    from headgate.simulator.metrics import Exposition
    from headgate.simulator.service import Service
    from headgate.simulator.wire import Exchange


async def health(exchange: Exchange, service: Service) -> None:
    """200 as long as the process answers: it says nothing about progress."""
    await exchange.whole(b"")


async def version(exchange: Exchange, service: Service) -> None:
    """The version of vLLM that is spoken."""
    await exchange.json({"version": VERSION})


async def load(exchange: Exchange, service: Service) -> None:
    """Requests being answered."""
    await exchange.json({"server_load": service.open})


async def models(exchange: Exchange, service: Service) -> None:
    """The served names; each is said to be simulated."""
    cards: list[dict[str, Any]] = [
        {
            "id": name,
            "object": "model",
            "created": service.created,
            "owned_by": "headgate-simulated",
            "root": name,
            "parent": None,
            "max_model_len": service.planner.max_model_len,
            "permission": [],
        }
        for name in service.models
    ]
    await exchange.json({"object": "list", "data": cards})


class Metrics:
    """``GET /metrics``."""

    def __init__(self, exposition: Exposition) -> None:
        self._exposition = exposition

    async def __call__(self, exchange: Exchange, service: Service) -> None:
        media = b"text/plain; version=0.0.4; charset=utf-8"
        await exchange.whole(self._exposition.text(), media)


async def sleep(exchange: Exchange, service: Service) -> None:
    """``POST /sleep?level=1|2``: answers when it is done. Of vLLM's modes only ``abort``, its default."""
    level = exchange.query.get("level", "1")
    if level not in ("1", "2"):
        raise Problem(400, f"Sleep level {level} is not supported.", param="level")
    await service.engine.sleep(int(level))
    await exchange.whole(b"")


async def wake_up(exchange: Exchange, service: Service) -> None:
    """``POST /wake_up``, in whole or by ``tags=weights`` and ``tags=kv_cache``: answers when it is done."""
    tags = [value for name, value in exchange.asked if name == "tags"] or ["weights", "kv_cache"]
    await service.engine.wake_up(weights="weights" in tags, kv_cache="kv_cache" in tags)
    await exchange.whole(b"")


async def is_sleeping(exchange: Exchange, service: Service) -> None:
    """``GET /is_sleeping``."""
    await exchange.json({"is_sleeping": bool(service.engine.asleep)})


async def collective_rpc(exchange: Exchange, service: Service) -> None:
    """``POST /collective_rpc``: of its methods only ``reload_weights`` is known."""
    method = Fields(await exchange.json_body()).text("method")
    if method != "reload_weights":
        raise Problem(400, f"method {method!r} is not simulated", param="method")
    await asyncio.sleep(service.engine.scheduler.constants.load_s)
    service.engine.weights_lost = False
    await exchange.json({"results": [None]})


async def reset_prefix_cache(exchange: Exchange, service: Service) -> None:
    """``POST /reset_prefix_cache``."""
    service.engine.scheduler.blocks.forget()
    await exchange.whole(b"")


async def state(exchange: Exchange, service: Service) -> None:
    """``GET /simulator/state``: numbers of sequences, but ``open``, ``max_open_seen`` and ``requests_seen``,
    which count HTTP requests; ``inflight`` is running and waiting together.

    With numbers in the query (``?inflight=0&aborted=3``) the answer waits until they are so, and has status
    408 and the state as it is where they are not after ``timeout_s`` (5).
    """
    wanted = {name: int(value) for name, value in exchange.query.items() if name != "timeout_s"}
    until = time.monotonic() + float(exchange.query.get("timeout_s", "5"))
    while any(service.state().get(name) != value for name, value in wanted.items()):
        if time.monotonic() > until:
            await exchange.json(service.state(), 408)
            return
        await asyncio.sleep(0.002)
    await exchange.json(service.state())


async def recent(exchange: Exchange, service: Service) -> None:
    """``GET /simulator/recent``: how the bodies of the last requests began, in the order in which they came."""
    await exchange.json(list(service.recent))


async def forget_most(exchange: Exchange, service: Service) -> None:
    """``DELETE /simulator/state``: ``max_running_seen``, ``max_inflight_seen`` and ``max_open_seen`` begin anew."""
    service.forget_most()
    await exchange.json(service.state())


async def show_faults(exchange: Exchange, service: Service) -> None:
    """``GET /simulator/faults``."""
    await exchange.json(service.faults.listed())


async def add_faults(exchange: Exchange, service: Service) -> None:
    """``POST /simulator/faults``; those that happen at once do so after the reply."""
    try:
        found = faults.parse(await exchange.body())
    except ValueError as error:
        raise Problem(400, str(error)) from error
    if any(fault.at_start for fault in found):
        raise Problem(400, "this fault is for the start: use --fault")
    service.faults.add(found)
    await exchange.json(msgspec.to_builtins(found))
    await asyncio.sleep(0.02)  # lets the reply leave
    for fault in service.faults.take_at_once():
        service.hit(fault)


async def clear_faults(exchange: Exchange, service: Service) -> None:
    """``DELETE /simulator/faults``: none any more, and a hang is over."""
    service.faults.clear()
    service.engine.thaw()
    await exchange.json([])
