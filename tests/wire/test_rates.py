"""Limits by the minute from outside: what passes, what is refused, and what is told of it."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.simulated import Engine
from tests.wire.client import CHAT, MODEL, Reply, chat
from tests.wire.gateway import Gateway, gateway, wait_until
from tests.wire.scripted import JSON, scripted_engine, sized
from tests.wire.test_keys_file import KeysFile, ask, keyed
from tests.wire.test_refusals import check

SLOW = 0.1
"""A rate in a minute at which nothing comes back within a test."""


@pytest.fixture
def keys(tmp_path: Path) -> KeysFile:
    return KeysFile(tmp_path / "keys.toml")


def limits(reply: Reply, kind: str) -> tuple[str, str, str]:
    """Limit, remaining and reset, as the headers say."""
    limit, remaining, reset = (reply.headers[f"x-ratelimit-{what}-{kind}"] for what in ("limit", "remaining", "reset"))
    return limit, remaining, reset


def at_once(gate: Gateway, secret: str, count: int) -> list[int]:
    with ThreadPoolExecutor(8) as pool:
        return [reply.status for reply in pool.map(lambda _: ask(gate, secret), range(count))]


def test_a_burst_passes_and_the_next_is_refused_until_the_time_it_is_told(engine: Engine, keys: KeysFile) -> None:
    secret = keys.add("a", requests_per_min=SLOW, requests_burst=5)
    with keyed(engine, keys, "--max-active", "4") as gate:
        assert sorted(at_once(gate, secret, 12)) == [200] * 5 + [429] * 7
        refused = ask(gate, secret)
        check(refused, "rate_limited")
        assert 590 < refused.error["retry_after_s"] <= 600
        assert refused.headers["retry-after"] == "60", "SDKs ignore more"
        assert "`a`" in refused.error["message"]
        assert limits(refused, "requests")[:2] == ("0.1", "0")
        gate.until_counted(8, "api_refusals_total", reason="rate_limited", key="a")
        assert gate.status()["generations"] == {"ok": 5, "rate_limited": 8}
        assert gate.status()["slo"]["results"].get("refused") is None, "not the gateway's fault"


def test_there_is_room_when_it_was_told_and_not_before(engine: Engine, keys: KeysFile) -> None:
    secret = keys.add("a", requests_per_min=60, requests_burst=1)
    with keyed(engine, keys) as gate:
        assert ask(gate, secret).status == 200
        told_s = int(ask(gate, secret).headers["retry-after-ms"]) / 1000
        asked = time.monotonic()
        assert 0 < told_s <= 1
        wait_until(lambda: ask(gate, secret).status == 200, "it passes")
        assert told_s - 0.05 < time.monotonic() - asked < told_s + 5


def test_answers_say_how_it_stands_as_openai_writes_it(engine: Engine, keys: KeysFile) -> None:
    secret = keys.add("a", requests_per_min=60, tokens_per_min=6000)
    with keyed(engine, keys) as gate:
        reply = ask(gate, secret)
        limit, remaining, reset = limits(reply, "requests")
        assert (limit, remaining) == ("60", "59")
        assert re.fullmatch(r"1s|9\d\dms", reset)
        limit, left, reset = limits(reply, "tokens")
        assert limit == "6000"
        assert 5000 < int(left) < 6000
        assert re.fullmatch(r"(\d+m)?\d+(\.\d+)?m?s", reset)
        other = gate.ask({"model": "nobody's"}, authorization=f"Bearer {secret}")
        assert other.status == 400
        whole = gate.ask(chat(stream=False), authorization=f"Bearer {secret}")
        assert limits(whole, "requests")[0] == "60"


def test_whoever_has_no_limits_is_told_none(engine: Engine, keys: KeysFile) -> None:
    secret = keys.add("free")
    with keyed(engine, keys, "--rate-limit-per-min", "1000") as gate:
        assert not [name for name in ask(gate, secret).headers if "ratelimit" in name]


def test_other_refusals_say_how_it_stands_too(engine: Engine, keys: KeysFile) -> None:
    secret = keys.add("a", requests_per_min=SLOW, requests_burst=5)
    with keyed(engine, keys, "--max-active", "1", "--queue-max", "0") as gate, gate.client() as holder:
        holder.post("/v1/chat/completions", chat(4000), x_api_key=secret).until_events(1)
        refused = ask(gate, secret)
        assert refused.error["code"] == "queue_full"
        assert limits(refused, "requests")[:2] == ("0.1", "3")


@pytest.mark.parametrize("tokens", [20, 400])
def test_tokens_are_charged_as_expected_and_settled_as_used(engine: Engine, keys: KeysFile, tokens: int) -> None:
    """A request may take 900 tokens: where it takes far fewer the rest is there for the next, where more it is not."""
    secret = keys.add("a", tokens_per_min=SLOW, tokens_burst=1000)
    with keyed(engine, keys) as gate:
        first = ask(gate, secret, tokens=900, simulate={"tokens": tokens})
        used = first.figures
        assert used is not None
        assert used["completion_tokens"] == tokens
        spent = used["prompt_tokens"] + used["completion_tokens"]
        assert int(limits(first, "tokens")[1]) < 1000 - 128
        gate.until(active=0)
        again = ask(gate, secret, tokens=1)
        left = int(limits(again, "tokens")[1])
        assert 1000 - spent - 60 <= left <= 1000 - spent


def test_tokens_that_are_used_up_are_refused(engine: Engine, keys: KeysFile) -> None:
    secret = keys.add("a", tokens_per_min=SLOW, tokens_burst=50)
    with keyed(engine, keys) as gate:
        assert ask(gate, secret, tokens=100).status == 200, "more than a burst passes when the bucket is full"
        gate.until(active=0)
        refused = ask(gate, secret, tokens=1)
        check(refused, "rate_limited")
        assert "tokens a minute" in refused.error["message"]
        assert limits(refused, "tokens")[:2] == ("0.1", "0")


def test_what_was_never_served_costs_no_tokens(engine: Engine, keys: KeysFile) -> None:
    secret = keys.add("a", tokens_per_min=SLOW, tokens_burst=1000)
    other = keys.add("b")
    with keyed(engine, keys, "--max-active", "1", "--queue-max", "0") as gate:
        with gate.client() as holder:
            holder.post("/v1/chat/completions", chat(4000), x_api_key=other).until_events(1)
            for _ in range(30):
                assert ask(gate, secret, tokens=100).error["code"] == "queue_full"
        gate.until(active=0)
        assert ask(gate, secret, tokens=100).status == 200


def test_what_the_engine_refuses_costs_no_tokens(engine: Engine, keys: KeysFile) -> None:
    """Its refusal comes as an answer does, and was charged the prompt, over and over: over-long ones are long."""
    secret = keys.add("a", tokens_per_min=SLOW, tokens_burst=1000)
    engine.faults({"kind": "error", "status": 400, "times": 10})
    with keyed(engine, keys) as gate:
        for _ in range(10):
            assert ask(gate, secret, tokens=10, text="x" * 2000).status == 400
        gate.until(active=0)
        assert int(limits(ask(gate, secret, tokens=10), "tokens")[1]) > 900


def test_what_the_engine_refuses_late_costs_no_tokens_either(keys: KeysFile) -> None:
    """Its status had gone out, a 200, to keep proxies patient; what was told in the stream was charged as an answer."""
    secret = keys.add("a", tokens_per_min=SLOW, tokens_burst=10_000)
    with scripted_engine() as engine, keyed(engine.url, keys, "--status-hold-s", "0.1") as gate:
        with gate.client() as client:
            client.post(CHAT, chat(10, text="x" * 20_000), x_api_key=secret).until_events(1)
            refusal = sized(b'{"error":{"message":"too long"}}')
            engine.say(b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n" + refusal)
            assert b"too long" in client.reply().body
        gate.until(active=0)
        engine.say(JSON + sized(b"{}"))
        assert int(limits(ask(gate, secret, tokens=10), "tokens")[1]) > 9000


def test_vectors_have_no_answers_and_teach_nothing_of_them(engine: Engine, keys: KeysFile) -> None:
    """A hundred texts were expected to take 12,800 tokens of answers, and a chat after them none."""
    secret = keys.add("a", tokens_per_min=SLOW, tokens_burst=20_000)
    as_key = {"authorization": f"Bearer {secret}"}

    def left(reply: Reply) -> int:
        assert reply.status == 200
        gate.until(active=0)
        return int(limits(reply, "tokens")[1])

    with keyed(engine, keys) as gate:
        texts = {"model": MODEL, "input": ["a text"] * 100}
        assert left(gate.ask(texts, "/v1/embeddings", **as_key)) > 19_000
        scored = {"model": MODEL, "query": "a text", "documents": ["a text"] * 100}
        for _ in range(30):
            before = left(gate.ask(scored, "/v1/rerank", **as_key))
        question = chat()
        del question["max_tokens"]
        assert before - left(gate.ask(question, **as_key)) > 100, "an answer is expected still"


def test_a_picture_is_not_charged_by_its_bytes(engine: Engine, keys: KeysFile) -> None:
    secret = keys.add("a", tokens_per_min=SLOW, tokens_burst=10_000)
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 200_000}}
    with keyed(engine, keys) as gate:
        assert ask(gate, secret).status == 200
        gate.until(active=0)
        seen = gate.ask(chat(messages=[{"role": "user", "content": [picture]}]), authorization=f"Bearer {secret}")
        assert seen.status == 200, "50,000 tokens would have had to wait for a full bucket"
        assert int(limits(seen, "tokens")[1]) > 8000


def test_a_changed_limit_counts_for_the_next_request(engine: Engine, keys: KeysFile) -> None:
    secret = keys.add("a", requests_per_min=SLOW, requests_burst=1)
    with keyed(engine, keys) as gate:
        assert at_once(gate, secret, 2).count(200) == 1
        keys.path.write_text(keys.path.read_text().replace("requests_burst = 1", "requests_burst = 3"))
        wait_until(lambda: ask(gate, secret).status == 200, "the new limit is in force")


def test_a_rate_that_is_raised_ends_what_was_owed_at_the_old_one(engine: Engine, keys: KeysFile) -> None:
    """A debt is a time. Of 4,000 tokens at 0.1 a minute it was a month, and stayed one at any rate."""
    secret = keys.add("a", tokens_per_min=SLOW, tokens_burst=50)
    with keyed(engine, keys) as gate:
        assert ask(gate, secret, tokens=4000).status == 200
        gate.until(active=0)
        refused = ask(gate, secret)
        assert refused.error["retry_after_s"] > 86400
        assert "The key `a` may use 0.1 tokens a minute" in refused.error["message"]
        keys.path.write_text(keys.path.read_text().replace("tokens_per_min = 0.1", "tokens_per_min = 100_000"))
        wait_until(lambda: ask(gate, secret).status == 200, "the new rate is in force")


def test_all_callers_together_are_held_to_one_rate(engine: Engine) -> None:
    with gateway(engine, "--rate-limit-per-min", "3") as gate:
        replies = [gate.ask() for _ in range(5)]
        assert [reply.status for reply in replies] == [200, 200, 200, 429, 429]
        check(replies[-1], "rate_limited")
        assert "The gateway takes 3 requests a minute" in replies[-1].error["message"]
        assert 15 < replies[-1].error["retry_after_s"] <= 20
