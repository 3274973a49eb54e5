"""Turns good bytes into bad ones: what a careless or a wicked client, or engine, might make of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

TOKENS = (
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b"\0",
        b" ",
        b"\t",
        b":",
        b";",
        b",",
        b"\xff",
        b"\xc3\x28",
        b"%00",
        b"%",
        b"/",
        b"//",
        b"..",
    ),
    *(
        b"content-length: 5\r\n",
        b"content-length: 0\r\n",
        b"transfer-encoding: chunked\r\n",
        b"transfer-encoding: x\r\n",
    ),
    *(
        b"connection: close\r\n",
        b"connection: upgrade\r\nupgrade: h2c\r\n",
        b"expect: 100-continue\r\n",
        b"host: x\r\n",
    ),
    *(
        b"origin: http://x\r\n",
        b"x-headgate-priority: high\r\n",
        b"x-headgate-deadline-ms: 1\r\n",
        b"0\r\n\r\n",
        b"\r\n\r\n",
    ),
    *(b"ffffffffffffffff", b"99999999999999999999", b"-1", b"1e400", b"NaN", b"0x10", b"null", b"true", b"{}", b"[]"),
    *(b"HTTP/1.0", b"HTTP/1.1", b"HTTP/2.0", b"GET ", b"POST ", b"data: ", b"\n\n", b": ", b"event: x\n", b"[DONE]"),
)


def mutated(data: bytes, dice: random.Random, most: int = 6) -> bytes:
    """``data`` with a few changes."""
    for _ in range(dice.randint(1, most)):
        data = dice.choice(_CHANGES)(data, dice)
    return data[:200_000]


def _place(data: bytes, dice: random.Random) -> tuple[int, int]:
    start = dice.randint(0, len(data))
    return start, min(len(data), start + dice.choice((0, 1, 1, 2, 4, 16, 100)))


def _flip(data: bytes, dice: random.Random) -> bytes:
    if not data:
        return data
    at = dice.randrange(len(data))
    return data[:at] + bytes((data[at] ^ (1 << dice.randrange(8)),)) + data[at + 1 :]


def _drop(data: bytes, dice: random.Random) -> bytes:
    start, end = _place(data, dice)
    return data[:start] + data[end:]


def _double(data: bytes, dice: random.Random) -> bytes:
    start, end = _place(data, dice)
    return data[:end] + data[start:end] * dice.choice((1, 1, 2, 50)) + data[end:]


def _insert(data: bytes, dice: random.Random) -> bytes:
    at = dice.randint(0, len(data))
    return data[:at] + dice.choice(TOKENS) + data[at:]


def _insert_line(data: bytes, dice: random.Random) -> bytes:
    lines = data.split(b"\r\n")
    lines.insert(dice.randint(0, min(len(lines), 12)), dice.choice(TOKENS).strip())
    return b"\r\n".join(lines)


def _swap_lines(data: bytes, dice: random.Random) -> bytes:
    lines = data.split(b"\r\n")
    one, other = dice.randrange(len(lines)), dice.randrange(len(lines))
    lines[one], lines[other] = lines[other], lines[one]
    return b"\r\n".join(lines)


def _cut(data: bytes, dice: random.Random) -> bytes:
    return data[: dice.randint(0, len(data))]


def _noise(data: bytes, dice: random.Random) -> bytes:
    start, end = _place(data, dice)
    return data[:start] + dice.randbytes(dice.choice((1, 3, 20))) + data[end:]


_CHANGES: Sequence[Callable[[bytes, random.Random], bytes]] = (
    *(_flip, _flip, _drop, _double, _insert, _insert, _insert_line, _insert_line, _swap_lines, _cut, _noise),
)

ODD: Sequence[Any] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2**31,
        2**63,
        2**70,
        -(2**70),
        1.5,
        1e308,
        "",
        "x",
        "\0",
        "\u202e",
        "é" * 300,
        "x" * 5000,
    ),
    *([], {}, [[]], [None], {"": None}, [1, 2, 3], ["a"], [{}], "headgate-simulated", "assistant", "user"),
)
FIELDS = (
    *("model", "messages", "prompt", "input", "stream", "stream_options", "n", "max_tokens", "max_completion_tokens"),
    *("max_output_tokens", "background", "previous_response_id", "temperature", "stop", "tools", "tool_choice", "user"),
    *("response_format", "logprobs", "best_of", "echo", "suffix", "seed", "content", "role", "include_usage", "query"),
)


def changed(value: Any, dice: random.Random, depth: int = 0) -> Any:
    """JSON with a few of its parts replaced, dropped, added or nested."""
    if depth > 6 or dice.random() < 0.08:
        return dice.choice(ODD)
    if isinstance(value, dict):
        out = {name: changed(part, dice, depth + 1) for name, part in value.items() if dice.random() > 0.04}
        if dice.random() < 0.25:
            out[dice.choice(FIELDS)] = dice.choice(ODD)
        return out
    if isinstance(value, list):
        return [changed(part, dice, depth + 1) for part in value for _ in range(dice.choice((0, 1, 1, 1, 1, 1, 2)))]
    return value


def body(value: Any, dice: random.Random) -> bytes:
    """The bytes of changed JSON; now and then changed once more as bytes."""
    data = json.dumps(changed(value, dice), ensure_ascii=dice.random() < 0.5).encode("utf-8", "surrogatepass")
    return mutated(data, dice, 2) if dice.random() < 0.15 else data
