"""REDIS_URL: several gateways hold callers to one limit, and none of them needs Redis to serve."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event

import pytest

from tests.redis_server import RedisServer
from tests.simulated import Engine
from tests.wire.client import chat
from tests.wire.gateway import Gateway, wait_until
from tests.wire.test_keys_file import KeysFile, ask, keyed

SLOW = 0.1


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    server = RedisServer()
    yield server
    server.kill()


@pytest.fixture
def keys(tmp_path: Path) -> KeysFile:
    return KeysFile(tmp_path / "keys.toml")


@contextmanager
def two(engine: Engine, keys: KeysFile, redis: RedisServer, *flags: str) -> Iterator[tuple[Gateway, Gateway]]:
    """Two gateways that share a Redis, both of which it answers."""
    with ExitStack() as stack:
        gates = [stack.enter_context(keyed(engine, keys, "--redis-url", redis.url, *flags)) for _ in range(2)]
        for gate in gates:
            gate.until_counted(1, "api_redis_up")
        yield gates[0], gates[1]


def spread(gates: tuple[Gateway, Gateway], secret: str, count: int) -> list[int]:
    """The statuses of so many requests, at both at once."""
    with ThreadPoolExecutor(8) as pool:
        return [reply.status for reply in pool.map(lambda i: ask(gates[i % 2], secret, tokens=2), range(count))]


def test_two_gateways_hold_a_key_to_one_limit_exactly(engine: Engine, keys: KeysFile, redis: RedisServer) -> None:
    secret = keys.add("a", requests_per_min=SLOW, requests_burst=20)
    other = keys.add("b", requests_per_min=SLOW, requests_burst=5)
    with two(engine, keys, redis, "--queue-max", "100") as gates:
        statuses = spread(gates, secret, 60)
        assert (statuses.count(200), statuses.count(429)) == (20, 40)
        assert spread(gates, other, 10).count(200) == 5
        for gate in gates:
            assert gate.status()["rates"] == {"requests_per_min": None, "redis": "up"}


def test_tokens_and_the_rate_of_all_are_shared_too(engine: Engine, keys: KeysFile, redis: RedisServer) -> None:
    secret = keys.add("a", tokens_per_min=SLOW, tokens_burst=1000)
    with two(engine, keys, redis, "--rate-limit-per-min", "4") as (one, other):
        used = ask(one, secret, tokens=10).figures
        assert used is not None
        one.until(active=0)
        spent = used["prompt_tokens"] + used["completion_tokens"]

        def left() -> int:
            return int(ask(other, secret, tokens=1).headers["x-ratelimit-remaining-tokens"])

        assert 1000 - spent - 100 < left() <= 1000 - spent
        assert [ask(one, secret).status, ask(other, secret).status] == [200, 200]
        assert [ask(one, secret).status, ask(other, secret).status] == [429, 429]


@pytest.mark.parametrize("leave", [RedisServer.kill, RedisServer.hang])
def test_no_request_fails_when_redis_goes_and_limits_hold_until_it_is_back(
    engine: Engine, keys: KeysFile, redis: RedisServer, leave: Callable[[RedisServer], None]
) -> None:
    free = keys.add("loaded", requests_per_min=1e6, tokens_per_min=1e9)
    tight = keys.add("tight", requests_per_min=SLOW, requests_burst=10)
    with two(engine, keys, redis, "--queue-max", "100") as gates:
        assert spread(gates, tight, 6).count(200) == 6
        ending = Event()

        def load(gate: Gateway) -> set[int]:
            seen: set[int] = set()
            while not ending.is_set():
                seen.add(ask(gate, free, tokens=2).status)
            return seen

        with ThreadPoolExecutor(4) as pool:
            loads = [pool.submit(load, gate) for gate in gates * 2]
            leave(redis)
            for gate in gates:
                gate.until_counted(0, "api_redis_up")
            # Each goes on from where the shared bucket stood when it last heard of it, and by itself.
            local = [[ask(gate, tight).status for _ in range(12)].count(200) for gate in gates]
            assert all(4 <= passed <= 9 for passed in local)
            assert [ask(gate, tight).status for gate in gates] == [429, 429]
            redis.kill()
            redis.start()
            for gate in gates:
                gate.until_counted(1, "api_redis_up")
            ending.set()
            assert [each.result() for each in loads] == [{200}] * 4
        assert spread(gates, tight, 30).count(200) == 10, "shared again, from a new bucket"
        for gate in gates:
            # On a busy machine it may be too slow once more; each time has one line, and its end another.
            wait_until(lambda gate=gate: gate.log().count("rates are shared") >= 2, "it is back")  # type: ignore[misc]
            assert gate.log().count("does not answer") == gate.log().count("rates are shared") - 1


def test_a_gateway_starts_and_serves_with_no_redis_and_finds_it_later(
    engine: Engine, keys: KeysFile, redis: RedisServer
) -> None:
    secret = keys.add("a", requests_per_min=SLOW, requests_burst=2)
    redis.kill()
    with keyed(engine, keys, "--redis-url", redis.url.replace("//", "//:a-password@")) as gate:
        assert [ask(gate, secret).status for _ in range(3)] == [200, 200, 429]
        assert gate.metric("api_redis_up") == 0
        assert gate.status()["rates"]["redis"] == "down"
        assert "a-password" not in gate.log() + gate.get("/status").text


def test_who_leaves_while_it_is_asked_gets_its_tokens_back(engine: Engine, keys: KeysFile, redis: RedisServer) -> None:
    secret = keys.add("a", tokens_per_min=SLOW, tokens_burst=5000)
    with two(engine, keys, redis) as (gate, _):
        for _ in range(20):
            with gate.client() as client:
                client.post("/v1/chat/completions", chat(4000), x_api_key=secret)
        gate.until(active=0, queued=0)
        wait_until(
            lambda: int(ask(gate, secret, tokens=1).headers["x-ratelimit-remaining-tokens"]) > 2500,
            "most of 20 × 128 tokens came back",
        )


def test_no_redis_is_asked_for_callers_without_limits(engine: Engine, keys: KeysFile, redis: RedisServer) -> None:
    secret = keys.add("a")
    with two(engine, keys, redis) as (gate, _):
        redis.hang()
        for _ in range(5):
            assert ask(gate, secret).status == 200
        assert gate.metric("api_redis_up") == 1, "nobody noticed that it hangs"


@pytest.mark.parametrize(
    ("away", "back"),
    [
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
        (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
    ],
    ids=["a replica", "full"],
)
def test_a_redis_that_writes_nothing_is_down_and_said_once(
    engine: Engine, keys: KeysFile, redis: RedisServer, away: tuple[str, ...], back: tuple[str, ...]
) -> None:
    """It took the script, so it was up, and rates were "shared" while none was; two lines of log at each request."""
    secret = keys.add("a", requests_per_min=1e6)
    with keyed(engine, keys, "--redis-url", redis.url) as gate:
        gate.until_counted(1, "api_redis_up")
        assert redis.ask(*away) == "+OK"
        for _ in range(5):
            assert ask(gate, secret).status == 200
        gate.until_counted(0, "api_redis_up")
        for _ in range(5):
            assert ask(gate, secret).status == 200
        assert gate.log().count("does not answer") == 1
        assert redis.ask(*back) == "+OK"
        gate.until_counted(1, "api_redis_up")
        assert gate.log().count("rates are shared") == 2


def test_a_connection_that_redis_closed_is_opened_again_without_a_word(
    engine: Engine, keys: KeysFile, redis: RedisServer
) -> None:
    """As many close what was idle for minutes: each pause ended with a warning, and a request that was not shared."""
    secret = keys.add("a", requests_per_min=SLOW, requests_burst=5)
    with keyed(engine, keys, "--redis-url", redis.url) as gate:
        gate.until_counted(1, "api_redis_up")
        for left in (4, 3, 2):
            assert ask(gate, secret).headers["x-ratelimit-remaining-requests"] == str(left)
            assert redis.ask("CLIENT", "KILL", "TYPE", "normal") == ":1"
        assert ask(gate, secret).status == 200
        assert "does not answer" not in gate.log()
