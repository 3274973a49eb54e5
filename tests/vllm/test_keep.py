"""ENGINE_KEEP with a real vLLM: the next gateway is ready long before a vLLM could be."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.pool.engines import gone
from tests.vllm.processes import wait_until
from tests.vllm.running import GONE_WITHIN_S, MODEL
from tests.vllm.talk import HELLO, sdk

if TYPE_CHECKING:
    from pathlib import Path

    from tests.vllm.conftest import StartGateway

pytestmark = pytest.mark.vllm


def test_a_killed_gateway_s_vllm_is_taken_over_in_a_tenth_of_its_start_and_stopped_when_not_kept(
    start_gateway: StartGateway, tmp_path: Path
) -> None:
    first = start_gateway(engine_keep=1, cache_dir=tmp_path)
    first.wait_ready()
    engine = first.status()["engines"][0]
    core = first.engine_core().pid
    with closing(sdk(first)) as client:
        running = client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=7000, stream=True)
        next(iter(running))
        first.process.kill()
        first.process.wait()
    assert not gone([engine["pid"], core], 0)

    second = start_gateway(engine_keep=1, cache_dir=tmp_path)
    wait_until(second.is_ready, "the second is ready")
    told = second.status()["engines"][0]
    assert (told["pid"], told["url"]) == (engine["pid"], engine["url"])
    print(f"start {engine['last_wake_s']:.1f} s, taken over in {told['last_wake_s']:.2f} s")
    assert told["last_wake_s"] < engine["last_wake_s"] / 10
    wait_until(lambda: second.running() == 0, "what the first still ran is aborted")
    with closing(sdk(second)) as client:
        answer = client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=5, stream=False)
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 5
    assert second.terminate() == 0
    assert not gone([engine["pid"], core], 0)

    third = start_gateway(cache_dir=tmp_path)
    assert gone([engine["pid"], core], GONE_WITHIN_S), "ENGINE_KEEP is off now"
    third.wait_ready()
    assert third.status()["engines"][0]["pid"] != engine["pid"]
