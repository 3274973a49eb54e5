"""What reads bytes in the gateway, given bytes that nobody meant: it says what is wrong, and nothing else happens.

The SSE splitter and the engine's connection besides: wherever the reads fall, they find the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed
from hypothesis import settings as tried
from hypothesis import strategies as st

from headgate import openai
from headgate.errors import Refusal
from headgate.keys import KeysError, records
from headgate.relay.sse import EventSplitter, payload
from headgate.relay.upstream import Exchange, Upstream
from headgate.settings import Settings, SettingsError, load
from headgate.telemetry import tracecontext
from tests.fuzz import SEED, TOLD, chance, share
from tests.fuzz.mutate import TOKENS, body, mutated
from tests.fuzz.test_requests import _PARTS, BODIES
from tests.relay.test_splits import STREAMS, Wire, raw

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from headgate.relay.upstream import Headers

_BITS = st.one_of(
    st.sampled_from(
        (b"data: x", b"\n", b"\r", b"\r\n", b"\n\n", b"\r\n\r\n", b"\r\r", b": c", b"event: e", b"id:", b"")
    ),
    st.binary(max_size=8),
)


@seed(SEED)
@tried(
    max_examples=share(0.1),
    database=None,
    phases=(Phase.generate, Phase.shrink),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(st.lists(_BITS, max_size=40), st.data())
def test_any_cutting_of_a_stream_gives_the_same_events(bits: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(bits)
    places = data.draw(st.lists(st.integers(0, len(whole)), max_size=12))
    once = EventSplitter()
    expected = once.feed(whole)
    cut = EventSplitter()
    found: list[bytes] = []
    for start, end in itertools.pairwise(sorted({0, len(whole), *places})):
        found += cut.feed(whole[start:end])
    assert b"".join(found) + cut.rest == whole, "no byte is lost or moved"
    assert _events(b"".join(found)) == _events(b"".join(expected))
    for event in found:
        payload(event)


def _events(data: bytes) -> list[bytes]:
    """What a client gets of it: blank lines end an event, and how many there are says nothing."""
    return [part for part in re.split(rb"(?:\r\n|\n|\r){2,}", data) if part]


class _Told:
    """A receiver that holds its connection to its word."""

    def __init__(self) -> None:
        self.head: tuple[int, Headers] | None = None
        self.body = b""
        self.end = ""

    def on_head(self, status: int, headers: Headers) -> None:
        assert self.head is None, "a second head"
        assert not self.end
        self.head = status, list(headers)

    def on_data(self, data: bytes) -> None:
        assert self.head is not None, "data before a head"
        assert not self.end
        self.body += data

    def on_end(self) -> None:
        assert not self.end
        self.end = "end"

    def on_broken(self, why: str, *, answered: bool) -> None:
        assert not self.end
        self.end = "broken"

    def on_failed(self, error: Exception) -> None:
        raise AssertionError("the connection itself failed") from error


def _read(pieces: Sequence[bytes]) -> _Told:
    """What a receiver is told of an answer in these pieces, and then of the connection's end."""
    exchange = Exchange(Upstream("127.0.0.1", 9))
    exchange.connection_made(Wire())
    told = _Told()
    exchange.send(b"x", told)
    for piece in pieces:
        if exchange.usable:
            exchange.data_received(piece)
    exchange.connection_lost(None)
    return told


_REPLIES = [
    *(raw(name) for name in STREAMS),
    b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 13\r\n\r\n{"choices":1}',
    b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
    b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nok",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\n{}",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nwords",
    b"HTTP/1.1 500 Oops\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-trailer: y\r\n\r\n",
]


def test_mangled_replies_end_once_whatever_the_engine_says() -> None:
    async def all_of_them() -> None:
        for number in range(share(0.15)):
            dice = chance("reply", number)
            data = mutated(dice.choice(_REPLIES), dice)
            places = sorted({0, len(data), *(dice.randint(0, len(data)) for _ in range(dice.choice((0, 1, 3, 10))))})
            pieces = [data[a:b] for a, b in itertools.pairwise(places)]
            try:
                told = _read(pieces)
                whole = _read([data])
            except Exception as error:
                raise AssertionError(f"{TOLD}: reply {number}: {pieces!r}") from error
            assert told.end in ("end", "broken"), (TOLD, number, pieces)
            assert (told.end, told.head, told.body) == (whole.end, whole.head, whole.body), (TOLD, number, pieces)

    asyncio.run(all_of_them())


KEYS = b"""
[keys.ana]
hash = "sha256:%b"
role = "user"
priority = "high"
weight = 2.5
requests_per_min = 60
tokens_per_min = 100000
max_active = 3
models = ["a", "b"]
expires = 2030-01-01T00:00:00Z

[keys.ops]
hash = ["sha256:%b", "sha256:%b"]
role = "ops"
""" % (b"a" * 64, b"b" * 64, b"c" * 64)
_WORDS = (
    *(
        b"nan",
        b"inf",
        b"-1",
        b"1e400",
        b"true",
        b"[]",
        b"{}",
        b"[keys.ana]\n",
        b"[keys]\n",
        b'""',
        b"2030-01-01",
        b"keys = 1\n",
    ),
    *(
        b"a.b.c = 1\n",
        b"'''",
        b'"""',
        b"\\u0000",
        b"[[keys.x]]\n",
        b'hash = "sha256:"\n',
        b"9" * 5000,
        b"[" * 3000,
        b"00:00:00",
    ),
)


def test_mangled_key_files_are_taken_or_refused_with_one_line() -> None:
    taken = 0
    lines: list[str] = []
    for number in range(share(0.08)):
        dice = chance("keys", number)
        data = mutated(KEYS, dice, 3)
        if dice.random() < 0.5:
            at = dice.randint(0, len(data))
            data = data[:at] + dice.choice(_WORDS) + data[at:]
        with contextlib.suppress(UnicodeDecodeError):  # the store says that of a file by itself
            text = data.decode()
            try:
                keys = records.parse(text)
            except KeysError as error:
                lines.append(str(error))
            except Exception as error:
                raise AssertionError(f"{TOLD}: key file {number}: {text!r}") from error
            else:
                taken += 1
                for key in keys.values():
                    key.allows("x")
    assert taken
    assert not [line for line in lines if "\n" in line or "a" * 64 in line], "one line each, and no hash in it"


_VALUES = (
    *(
        "",
        " ",
        "0",
        "-1",
        "1",
        "nan",
        "inf",
        "-inf",
        "1e400",
        "1e5",
        "9" * 400,
        "9" * 5000,
        "0x10",
        "1_0",
        "\u0663",
        "true",
        "off",
    ),
    *(
        "auto",
        "null",
        "\0",
        "a\nb",
        "é",
        "\ud800",
        "*",
        ",",
        "http://",
        "http://[",
        "http://a:b",
        "https://a/b",
        "redis://[",
        "::",
    ),
    *(
        "10.0.0.0/99",
        "10.0.0.0/8,",
        "'",
        '"',
        "--x",
        "--host=1 --port 2",
        "32MiB",
        "MiB",
        "5 kb",
        "unix://",
        "1 2",
        "[]",
        "{}",
    ),
    *("simulated", "remote", "vllm", "json", "debug", "fifo", "key", "/", ".", "x" * 5000, "file:///etc/passwd"),
)


def test_odd_settings_are_taken_or_refused_with_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = list(Settings.model_fields)
    file = tmp_path / "odd.toml"
    taken = 0
    lines: list[str] = []
    for number in range(share(0.04)):
        dice = chance("settings", number)
        given_: dict[str, str] = {}
        for _ in range(dice.choice((1, 1, 1, 2, 4))):
            value = dice.choice(_VALUES)
            if dice.random() < 0.2:
                value = mutated(value.encode("utf-8", "surrogatepass"), dice, 2).decode("utf-8", "replace")
            given_[f"HEADGATE_{dice.choice(names).upper()}"] = value
        toml = None
        if dice.random() < 0.2:
            file.write_bytes(mutated(b'queue_max = 5\nhost = "::1"\nmax_active = "auto"\nshed = true\n', dice, 2))
            toml = file
        try:
            load({}, given_, toml)
            taken += 1
        except SettingsError as error:
            lines.append(str(error))
        except Exception as error:
            raise AssertionError(f"{TOLD}: settings {number}: {given_!r}") from error
    assert taken
    assert not [line for line in lines if "\n" in line], "one line each"


def test_mangled_bodies_are_read_or_refused() -> None:
    for number in range(share(0.1)):
        dice = chance("body", number)
        path = dice.choice(list(BODIES))
        data = body(BODIES[path], dice) if dice.random() < 0.7 else mutated(_PARTS, dice)
        _one_refusal(number, data, lambda data=data: openai.read_request(data, required=("messages",)))
        _one_refusal(number, data, lambda data=data: openai.generate_to_completion(data, "m"))
        kind = mutated(b"multipart/form-data; boundary=b", dice, 2).decode("latin-1")
        _one_refusal(number, data, lambda data=data, kind=kind: openai.read_multipart(data, kind))
        openai.error_message(data)
        openai.unflattened(data)
        tracecontext.read([dice.choice((data, *TOKENS))], [data])


def _one_refusal(number: int, data: bytes, read: Any) -> None:
    try:
        read()
    except Refusal:
        pass
    except Exception as error:
        raise AssertionError(f"{TOLD}: body {number}: {data!r}") from error
