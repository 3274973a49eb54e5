"""What clients see when vLLM dies, hangs or loses its gateway, and that nothing of it is left behind.

One gateway for the whole file: each test ends with an engine that serves, but for the last, which kills the gateway.
"""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import openai
import pytest

from tests.vllm.processes import processes, wait_freed, wait_in_loop, wait_until
from tests.vllm.running import ENGINE_ARGS, GONE_WITHIN_S, MODEL, READY_WITHIN_S, Gateway
from tests.vllm.talk import HELLO, TO_THE_END, Told, async_sdk, follow, sdk, start_streams

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.vllm.conftest import StartGateway

pytestmark = pytest.mark.vllm

MAX_ACTIVE = 4
FAR = 7000
"""Tokens that take longer to make than any of this takes to notice a death."""
IN_EIGHTS = f"{ENGINE_ARGS} --stream-interval 8"
"""An event for eight tokens, so that the SDK keeps up with long streams on a small machine."""
WEDGED_AFTER_S = 5


@pytest.fixture(scope="module")
def started(start_gateway: StartGateway) -> Gateway:
    return start_gateway(
        engine_args=IN_EIGHTS,
        max_active=MAX_ACTIVE,
        queue_max=16,
        queue_timeout_s=200,
        wedged_after_s=WEDGED_AFTER_S,
        drain_timeout_s=5,
    )


@pytest.fixture(scope="module")
def shared_memory() -> set[Path]:
    """What each of the engines had in shared memory."""
    return set()


@pytest.fixture
def gateway(started: Gateway, shared_memory: set[Path]) -> Gateway:
    started.wait_ready()
    shared_memory |= started.shared_memory()
    return started


def alive(pids: set[int]) -> set[int]:
    return pids & {process.pid for process in processes()}


def streams_through(gateway: Gateway, blow: Callable[[], None], *, waiting: int = 0) -> tuple[list[Told], list[Told]]:
    """Streams that run and streams that wait when the blow falls, each followed to its end."""

    def in_line(tasks: list[asyncio.Task[Told]]) -> bool:
        assert not any(task.done() for task in tasks), [task.result() for task in tasks if task.done()]
        return gateway.metric("api_queue_depth") == waiting

    async def through() -> tuple[list[Told], list[Told]]:
        async with async_sdk(gateway) as client:
            run = await start_streams(client, MAX_ACTIVE, FAR)
            wait = [asyncio.create_task(follow(client, 5)) for _ in range(waiting)]
            await wait_in_loop(lambda: in_line([*run, *wait]), f"{waiting} wait in the line")
            blow()
            return await asyncio.gather(*run), await asyncio.gather(*wait)

    return asyncio.run(through())


def assert_ended_in_an_error(told: list[Told]) -> None:
    for one in told:
        assert isinstance(one.error, openai.APIError), one
        assert not isinstance(one.error, openai.APIConnectionError), "it was cut, without a word"
        assert one.finish_reason is None, "it looks like one that ended well"


def assert_serves(gateway: Gateway) -> None:
    with closing(sdk(gateway)) as client:
        answer = client.chat.completions.create(
            model=MODEL, messages=HELLO, max_tokens=3, extra_body=TO_THE_END, timeout=READY_WITHIN_S
        )
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3


def test_engine_core_killed_running_streams_end_in_an_error_and_those_who_waited_are_served(gateway: Gateway) -> None:
    old = gateway.engine_family()
    core = gateway.engine_core()
    crashes = gateway.metric("api_engine_starts_total", cause="crash")
    ran, waited = streams_through(gateway, lambda: os.kill(core.pid, signal.SIGKILL), waiting=MAX_ACTIVE)
    assert_ended_in_an_error(ran)
    assert [one.completion_tokens for one in waited] == [5] * MAX_ACTIVE, [one.error for one in waited]
    assert not alive(old)
    assert gateway.metric("api_engine_starts_total", cause="crash") == crashes + 1
    assert gateway.metric("api_active_requests") == 0


def test_api_server_killed_its_orphaned_engine_is_gone_and_another_serves(gateway: Gateway) -> None:
    old = gateway.engine_family()
    server = gateway.api_server()
    crashes = gateway.metric("api_engine_starts_total", cause="crash")
    ran, _ = streams_through(gateway, lambda: os.kill(server.pid, signal.SIGKILL))
    assert_ended_in_an_error(ran)
    wait_until(lambda: not alive(old), "the old engine's processes are gone", GONE_WITHIN_S)
    assert_serves(gateway)
    assert not old & gateway.engine_family()
    assert gateway.metric("api_engine_starts_total", cause="crash") == crashes + 1


def test_engine_that_hangs_is_replaced_and_its_requests_end_in_an_error(gateway: Gateway) -> None:
    old = gateway.engine_family()
    core = gateway.engine_core()
    ran, waited = streams_through(gateway, lambda: os.kill(core.pid, signal.SIGSTOP), waiting=1)
    assert_ended_in_an_error(ran)
    assert waited[0].completion_tokens == 5, waited[0].error
    assert_serves(gateway)
    assert not alive(old)
    assert gateway.metric("api_engine_starts_total", cause="wedged") == 1


def test_gateway_killed_takes_its_vllm_with_it(gateway: Gateway) -> None:
    assert gateway.below(), "vLLM is running"

    async def streams_to_the_end() -> list[BaseException | Told]:
        async with async_sdk(gateway) as client:
            tasks = await start_streams(client, 2, FAR)
            gateway.process.kill()
            return await asyncio.gather(*tasks, return_exceptions=True)

    ends = asyncio.run(streams_to_the_end())
    assert all(isinstance(end, BaseException) or end.error is not None for end in ends)
    assert gateway.process.wait(5) == -signal.SIGKILL
    gateway.wait_nothing_left()


def test_no_shared_memory_is_left_of_any_of_them(started: Gateway, shared_memory: set[Path]) -> None:
    if started.process.poll() is None:
        pytest.skip("it is the rest of a whole run")
    assert shared_memory, "vLLM has had shared memory"
    wait_freed(shared_memory)


def test_engine_that_cannot_start_is_not_ready_and_says_why(start_gateway: StartGateway) -> None:
    gateway = start_gateway(engine_args="--no-such-option")

    def says_why() -> bool:
        (engine,) = gateway.status()["engines"]
        return "unrecognized arguments: --no-such-option" in f"{engine['failure']} {engine['last_lines']}"

    wait_until(says_why, "/status has vLLM's own words", READY_WITHIN_S)
    assert not gateway.is_ready()
    assert gateway.terminate() == 0
