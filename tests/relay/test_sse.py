"""Cutting a stream into events: wherever the reads fall, the same events with the same bytes."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.relay import sse
from headgate.relay.sse import EventSplitter, EventTooLarge, comment, payload

LINE_ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
WORDS = st.sampled_from(
    [b"data: {}", b"data: [DONE]", b": comment", b"event: x", b"data:", b"id: 1", "data: ä€".encode()]
)


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Events with the line ends that a well-behaved server keeps to throughout."""
    end = draw(LINE_ENDS)
    events = draw(st.lists(st.lists(WORDS, min_size=1, max_size=3), max_size=6))
    return b"".join(end.join(lines) + end + end for lines in events) + draw(st.sampled_from([b"", b"data: cut"]))


WILD = st.text(alphabet="\r\nd:a ", max_size=40).map(str.encode)


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    bounds = sorted({place % (len(stream) + 1) for place in places} | {0, len(stream)})
    return [stream[a:b] for a, b in itertools.pairwise(bounds)]


def fed(pieces: list[bytes]) -> tuple[list[bytes], bytes]:
    splitter = EventSplitter()
    events = [event for piece in pieces for event in splitter.feed(piece)]
    return events, splitter.rest


@given(stream=st.one_of(streams(), WILD), places=st.lists(st.integers(0, 10_000), max_size=12))
def test_any_split_of_any_stream_gives_the_same_events(stream: bytes, places: list[int]) -> None:
    """A block of several events with mixed line ends was one event, unless a read fell between them."""
    events, rest = fed(cut(stream, places))
    assert (events, rest) == fed([stream[i : i + 1] for i in range(len(stream))])
    assert b"".join(events) + rest == stream, "no byte is added, lost or moved"


@given(stream=streams())
def test_events_end_at_blank_lines_and_nowhere_else(stream: bytes) -> None:
    events, rest = fed([stream])
    for event in events:
        assert re.search(rb"(\r\n\r\n|\n\n|\r\r)\Z", event)
        assert not re.search(rb"(\r\n\r\n|\n\n|\r\r)(?!\Z)", event)
    assert not re.search(rb"\r\n\r\n|\n\n|\r\r", rest)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_boundary_across_two_reads_is_found(end: bytes) -> None:
    stream = b"data: 1" + end + end + b"data: 2" + end + end
    for at in range(1, len(stream)):
        assert fed([stream[:at], stream[at:]]) == ([b"data: 1" + end + end, b"data: 2" + end + end], b"")


def test_event_that_is_a_block_is_given_back_as_it_is() -> None:
    block = b"data: {}\n\n"
    assert EventSplitter().feed(block)[0] is block


def test_event_without_an_end_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 100)
    splitter = EventSplitter()
    assert splitter.feed(b"x" * 100) == []
    with pytest.raises(EventTooLarge):
        splitter.feed(b"x")


def test_large_event_that_ends_is_none_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 100)
    splitter = EventSplitter()
    splitter.feed(b"x" * 99)
    assert splitter.feed(b"y\n\n" + b"z" * 100) == [b"x" * 99 + b"y\n\n"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["data: {}"], b"{}"),
        (["data:{}"], b"{}"),
        (["data:  two"], b" two"),
        (["data: a", "data: b"], b"a\nb"),
        (["event: x", "data: {}", "id: 1"], b"{}"),
        ([": comment"], b""),
        (["event: x"], b""),
        (["data:"], b""),
        (["data: ä\u2028b"], "ä\u2028b".encode()),
    ],
)
def test_payload_is_what_the_data_lines_say(lines: list[str], expected: bytes, end: str) -> None:
    assert payload((end.join(lines) + end + end).encode()) == expected


def test_comment_is_one_event_without_data() -> None:
    assert fed([comment("hello")]) == ([b": hello\n\n"], b"")
    assert payload(comment("hello")) == b""
