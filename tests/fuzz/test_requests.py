"""Mangled requests to a real gateway with a simulated engine: each gets an answer of HTTP's, or none; never a 5xx.

After all of them the gateway answers, holds no slot and no engine work, has logged no exception, and has as many
connections to the engine as the engine has to it.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from headgate.api.generation import ENDPOINTS
from headgate.errors import Reason
from tests.fuzz import TOLD, chance, share
from tests.fuzz.mutate import body, mutated
from tests.simulated import simulated_engine
from tests.wire.client import CHAT, MODEL, chat, request
from tests.wire.conftest import ROOMY
from tests.wire.gateway import Gateway, gateway

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.simulated import Engine

AT_ONCE = 48
WAIT_S = 0.25
"""An input that is no whole request gets no answer: it is left after so long."""

_PARTS = (
    b'--b\r\ncontent-disposition: form-data; name="model"\r\n\r\nheadgate-simulated\r\n'
    b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.wav"\r\n\r\nRIFF\r\n--b--\r\n'
)
BODIES: dict[str, Any] = {
    CHAT: chat(2),
    "/v1/completions": {"model": MODEL, "prompt": ["a", "b"], "max_tokens": 2, "stream": True, "n": 2},
    "/v1/responses": {"model": MODEL, "input": "Hello", "max_output_tokens": 2, "stream": True},
    "/v1/messages": {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2},
    "/v1/embeddings": {"model": MODEL, "input": ["a", "b"]},
    "/v1/score": {"model": MODEL, "text_1": "a", "text_2": ["b"]},
    "/v1/rerank": {"model": MODEL, "query": "a", "documents": ["b"]},
    "/generate": {"prompt": "Hello", "max_tokens": 2, "temperature": 0},
    "/tokenize": {"model": MODEL, "prompt": "Hello"},
    "/detokenize": {"model": MODEL, "tokens": [1, 2]},
    "/v1/messages/count_tokens": {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]},
}
_AUDIO = {"content-type": "multipart/form-data; boundary=b"}
_NAMED = {
    "x-request-id": "an-id",
    "x-headgate-deadline-ms": "5000",
    "traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01",
}


def _chunked(path: str, content: bytes) -> bytes:
    head, _, _ = request(path, b"", {"content-length": "", "transfer-encoding": "chunked"}).partition(b"\r\n\r\n")
    return head + b"\r\n\r\n" + b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content)


SEEDS = [
    *(request(path, content, _NAMED) for path, content in BODIES.items()),
    *(request(path, _PARTS, _AUDIO) for path, endpoint in ENDPOINTS.items() if endpoint.reads == "multipart"),
    *(_chunked(path, json.dumps(content).encode()) for path, content in BODIES.items()),
    *(request(path, method="GET") for path in ("/", "/health", "/ready", "/metrics", "/status?recent=1", "/v1/models")),
    *(request(path, method="GET") for path in (f"/v1/models/{MODEL}", "/engines", "/openapi.json", "/docs")),
    request("/admin/engines/e0/restart", {}, {"authorization": "Bearer x"}),
    request("/console/burst?count=2", chat(2)),
    request(CHAT, chat(2)) * 2,
]
NOT_OURS = frozenset((Reason.QUEUE_TIMEOUT, Reason.TOO_MANY_CONNECTIONS))
"""5xx that say how things are, and were honest here."""

_STATUS = re.compile(rb"HTTP/1\.1 (\d\d\d) ")


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with simulated_engine(*ROOMY) as running:
        yield running


@pytest.fixture(scope="module")
def gate(engine: Engine) -> Iterator[Gateway]:
    flags = ("--max-active", "64", "--queue-max", "1000", "--max-head-bytes", "16384", "--log-level", "warning")
    with gateway(engine, *flags, "--head-timeout-s", "5", "--body-timeout-s", "5") as running:
        yield running


def mangled(number: int) -> bytes:
    """One input: half of them broken as bytes, half whole requests with broken bodies."""
    dice = chance("request", number)
    if dice.random() < 0.5:
        return mutated(dice.choice(SEEDS), dice)
    path = dice.choice(list(BODIES))
    headers = {"content-type": ""} if dice.random() < 0.1 else {}
    return request(path, body(BODIES[path], dice), headers)


async def _send(port: int, data: bytes) -> bytes:
    """What comes back; the client leaves when the gateway closes, or a reply has ended, or nothing comes."""
    answer = b""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError as error:
        raise AssertionError("the gateway takes no connection") from error
    try:
        writer.write(data)
        async with asyncio.timeout(WAIT_S):
            while piece := await reader.read(65536):
                answer += piece
                if piece.endswith((b"0\r\n\r\n", b"}}", b"}]}")):
                    break
    except (TimeoutError, ConnectionError):
        pass
    finally:
        writer.transport.abort()
    return answer


def _judge(data: bytes, answer: bytes) -> str | None:
    """What is wrong with an answer."""
    if not answer:
        return None
    if not answer.startswith(b"HTTP/1.1 "):
        return "no HTTP"
    head = answer.partition(b"\r\n\r\n")[0]
    status = int(_STATUS.match(answer)[1])  # type: ignore[index]
    reason = re.search(rb"\r\nx-headgate-reason: (\w+)", head)
    if status >= 500 and (reason is None or reason[1].decode() not in NOT_OURS):
        return f"{status} {reason}"
    if any(name.count(b"\n") for name in head.split(b"\r\n")):
        return "a line feed in its head"
    return None


async def _rounds(port: int, count: int) -> list[str]:
    wrong: list[str] = []
    free = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        async with free:
            data = mangled(number)
            answer = await _send(port, data)
            if (what := _judge(data, answer)) is not None:
                wrong.append(f"{number}: {what}: {data[:300]!r} -> {answer[:300]!r}")

    for start in range(0, count, 2000):
        async with asyncio.TaskGroup() as group:
            for number in range(start, min(count, start + 2000)):
                group.create_task(one(number))
        if wrong:
            break
    return wrong


def test_mangled_requests_bring_no_5xx_no_leak_and_no_exception(gate: Gateway, engine: Engine) -> None:
    wrong = asyncio.run(_rounds(gate.port, share(0.5)))
    assert not wrong, f"{TOLD}\n" + "\n".join(wrong[:5])
    gate.until(active=0, queued=0)
    engine.state(inflight=0, open=0)
    assert gate.ask(chat(2)).status == 200
    assert "failed" not in gate.log(), gate.log()[-3000:]
