"""Wherever the engine's reads fall, the client gets the same bytes: the quick ways must not be quicker than true."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.relay.reply import Ending, FinalEvent
from headgate.relay.upstream import Exchange, Upstream, Usual
from tests.relay.test_reply import END, SSE, Client, Rig, chunked


def chunk(text: bytes, finish: bytes = b"null") -> bytes:
    choice = b'{"index":0,"delta":{"content":"%b"},"logprobs":null,"finish_reason":%b}' % (text, finish)
    return b'data: {"id":"chatcmpl-1","created":7,"choices":[%b]}\n\n' % choice


WORDS = [chunk(b" word%d" % i) for i in range(6)]
LONG = chunk(b"x" * 5000)
USAGE = b'data: {"id":"chatcmpl-1","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":9}}\n\n'
DONE = b"data: [DONE]\n\n"
STOP = chunk(b"", b'"stop"')
ERROR = b'data: {"error":{"message":"no","code":500}}\n\n'
STREAMS = {
    "plain": [*WORDS, STOP, USAGE, DONE],
    "comments": [WORDS[0], b": keep-alive\n\n", *WORDS, b": keep-alive\n\n", STOP, USAGE, DONE],
    "long": [*WORDS, LONG, *WORDS, LONG, LONG, STOP, USAGE, DONE],
    "two in a chunk": [WORDS[0], WORDS[1] + WORDS[2], WORDS[3], WORDS[4] + STOP + USAGE, DONE],
    "an event in two chunks": [*WORDS[:3], WORDS[3][:40], WORDS[3][40:], *WORDS[4:], STOP, USAGE, DONE],
    "odd blank lines": [*WORDS[:3], b"\n\n", b"\n", *WORDS[3:], b"\n\n\n", STOP, USAGE, DONE],
    "crlf": [event.replace(b"\n", b"\r\n") for event in (*WORDS, STOP, USAGE, DONE)],
    "error": [*WORDS, ERROR],
    "cut": [*WORDS],
    "words that look special": [*WORDS, chunk(b'\\"usage\\" [DONE] \\"error\\"'), *WORDS, STOP, USAGE, DONE],
}


def unframed(data: bytes) -> list[bytes]:
    """The chunks' data, with their framing taken off, strictly."""
    parts: list[bytes] = []
    while data:
        size, _, rest = data.partition(b"\r\n")
        length = int(size, 16)
        assert rest[length : length + 2] == b"\r\n"
        parts.append(rest[:length])
        data = rest[length + 2 :]
    return parts


class Framed(Client):
    """A client whose chunks can be handed through with their framing, which is taken off here."""

    def takes_chunks(self) -> asyncio.Transport:
        return Wire(self._framed)

    def _framed(self, data: bytes) -> None:
        for part in unframed(data):
            self.write(part)


class Wire(asyncio.Transport):
    """A transport with no socket: what an engine says is put in by hand, piece by piece."""

    def __init__(self, write: Callable[[bytes], None] = lambda _: None) -> None:
        super().__init__()
        self._write = write
        self._closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._write(bytes(data))

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self._closing

    def abort(self) -> None:
        self._closing = True

    def close(self) -> None:
        self._closing = True

    def pause_reading(self) -> None:
        return

    def resume_reading(self) -> None:
        return


async def carried(pieces: Sequence[bytes], kind: type[Client]) -> tuple[bytes, int, Ending | str]:
    """What the client got of an answer that came in these pieces, the events counted, and how it ended."""
    rig = Rig(kind(), final_event=FinalEvent.OFF)
    exchange = Exchange(Upstream("127.0.0.1", 9))
    exchange.connection_made(Wire())
    task = asyncio.create_task(rig.reply.carry(exchange, b"x", rig.slot))
    await asyncio.sleep(0)
    for piece in pieces:
        exchange.data_received(piece)
    exchange.connection_lost(None)
    ending = await task
    assert rig.slot.released == 1
    return rig.client.body, rig.reply.events, ending


def run(pieces: Sequence[bytes], kind: type[Client] = Client) -> tuple[bytes, int, Ending | str]:
    async def bounded() -> tuple[bytes, int, Ending | str]:
        async with asyncio.timeout(10):
            return await carried(pieces, kind)

    return asyncio.run(bounded())


def raw(name: str) -> bytes:
    return SSE + chunked(*STREAMS[name]) + (b"" if name == "cut" else END)


def begun(name: str) -> int:
    """A place behind the first event: what breaks after it is told in the stream, wherever the reads fall."""
    return raw(name).index(b"word1")


def pieces_of(name: str, places: Iterable[int]) -> list[bytes]:
    """The answer, cut at its beginning and at these places behind it."""
    whole, start = raw(name), begun(name)
    bounds = sorted({0, start, len(whole), *(start + place % (len(whole) - start) for place in places)})
    return [whole[a:b] for a, b in itertools.pairwise(bounds)]


@pytest.mark.parametrize("kind", [Client, Framed])
@pytest.mark.parametrize("name", STREAMS)
def test_pieces_of_every_small_size_give_the_same_bytes(name: str, kind: type[Client]) -> None:
    """A blank line that came alone went out at once, past the event that it ends."""
    expected = run(pieces_of(name, ()))
    for width in (1, 2, 3, 5, 7, 64, 1000):
        assert run(pieces_of(name, range(0, len(raw(name)), width)), kind) == expected, width


@pytest.mark.parametrize("kind", [Client, Framed])
@pytest.mark.parametrize("name", STREAMS)
def test_a_chunk_at_a_time_gives_the_same_bytes(name: str, kind: type[Client]) -> None:
    head = SSE + b"transfer-encoding: chunked\r\n\r\n"
    chunks = [b"%x\r\n%b\r\n" % (len(part), part) for part in STREAMS[name]]
    assert run([head, *chunks, *([] if name == "cut" else [END])], kind) == run(pieces_of(name, ()))


@settings(max_examples=100, deadline=None)
@given(name=st.sampled_from(list(STREAMS)), places=st.lists(st.integers(0, 30_000), max_size=30), framed=st.booleans())
def test_any_split_gives_the_same_bytes(name: str, places: list[int], framed: bool) -> None:
    assert run(pieces_of(name, places), Framed if framed else Client) == run(pieces_of(name, ()))


@settings(max_examples=100, deadline=None)
@given(name=st.sampled_from(list(STREAMS)), sizes=st.lists(st.integers(1, 6), min_size=20, max_size=20))
def test_several_chunks_at_a_time_give_the_same_bytes(name: str, sizes: list[int]) -> None:
    head = SSE + b"transfer-encoding: chunked\r\n\r\n"
    chunks = [b"%x\r\n%b\r\n" % (len(part), part) for part in STREAMS[name]]
    reads = [b"".join(itertools.islice(rest, size)) for rest in [iter(chunks)] for size in sizes]
    assert run([head, *filter(None, reads), *([] if name == "cut" else [END])], Framed) == run(pieces_of(name, ()))


USUAL = Usual(WORDS[0][: WORDS[0].index(b"[") + 1], WORDS[0][WORDS[0].index(b'"finish') :] + b"\r\n", Wire())


def framed(*events: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in events)


@pytest.mark.parametrize("of", [1, 2, 6])
def test_usual_chunks_in_one_read_are_counted(of: int) -> None:
    assert USUAL.several(framed(*WORDS[:of])) == of


@pytest.mark.parametrize(
    "read",
    [
        framed(*WORDS)[:-1],
        framed(*WORDS)[1:],
        framed(*WORDS) + b"0\r\n\r\n",
        framed(*WORDS, STOP),
        framed(STOP, *WORDS),
        framed(WORDS[0] + WORDS[1]),
        framed(WORDS[0], b": comment\n\n", WORDS[1]),
        framed(WORDS[0], LONG),
        framed(WORDS[0], USAGE),
        b"5\r\n" + framed(*WORDS),
        framed(WORDS[0]) + b"\r\n" + framed(WORDS[1]),
    ],
    ids=itertools.count(),
)
def test_a_read_with_anything_else_in_it_goes_the_careful_way(read: bytes) -> None:
    assert USUAL.several(read) == 0


def test_events_of_one_read_are_not_parsed_and_share_the_time_since_the_last() -> None:
    async def read() -> tuple[bytes, list[float]]:
        gaps: list[float] = []
        rig = Rig(Framed(), final_event=FinalEvent.OFF)
        rig.reply.gap = gaps.append
        exchange = Exchange(Upstream("127.0.0.1", 9))
        exchange.connection_made(Wire())
        task = asyncio.create_task(rig.reply.carry(exchange, b"x", rig.slot))
        await asyncio.sleep(0)
        exchange.data_received(SSE + b"transfer-encoding: chunked\r\n\r\n" + framed(*WORDS[:2]))
        exchange.data_received(framed(WORDS[2]))
        exchange._parser = None  # type: ignore[assignment]  # it would be missed
        exchange.data_received(framed(*WORDS[3:6]))
        rig.reply.count()
        task.cancel()
        return rig.client.body, gaps

    body, gaps = asyncio.run(read())
    assert body == b"".join(WORDS)
    # A clock of days is exact to some 10 ps.
    assert gaps[-3:] == [pytest.approx(gaps[-1], abs=1e-9)] * 3
    assert sum(gaps) > 0
