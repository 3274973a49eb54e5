"""Lanes, where they are compiled: the same bytes in the same order as without them, and to nobody else."""

from __future__ import annotations

import os
import select
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate import app
from headgate.settings import Settings
from tests.relay.test_exchange import read_all
from tests.relay.test_reply import END
from tests.relay.test_splits import DONE, ERROR, LONG, STOP, USAGE, USUAL, WORDS, framed

_express: Any = pytest.importorskip("headgate.relay._express", reason="only where it is compiled: make test-compiled")


class Lane:
    """A lane between two socket pairs, and what becomes of what the engine says."""

    def __init__(self, express: Any) -> None:
        self._express = express
        self.engine, near = socket.socketpair()
        self.client, far = socket.socketpair()
        self.near, self.far = near, far
        for end in (self.engine, self.client, near, far):
            end.setblocking(False)
        self.given: list[bytes] = []
        self.written: list[bytes] = []
        self.left = 0
        self.ends = 0
        self.gone = False
        self.on_given: Callable[[], object] = lambda: None
        self.lane = express.open(
            near.fileno(), far.fileno(), self._received, self._over, self._write, lambda: self.left
        )

    def _received(self, data: bytes) -> None:
        self.given.append(data)
        self.on_given()

    def _over(self) -> None:
        self.ends += 1
        self.lane.close()

    def _write(self, data: bytes) -> None:
        if self.gone:
            raise RuntimeError("closed")
        self.written.append(data)
        self.left += len(data)

    def arm(self) -> None:
        self.lane.arm(USUAL.head, USUAL.end)

    def say(self, data: bytes) -> None:
        self.engine.sendall(data)
        self._express.run()

    def got(self) -> bytes:
        return read_all(self.client)

    def close(self) -> None:
        self.lane.close()
        for end in (self.engine, self.client, self.near, self.far):
            end.close()


@pytest.fixture
def express() -> Any:
    return _express.Express()


@pytest.fixture
def lane(express: Any) -> Iterator[Lane]:
    lane = Lane(express)
    lane.arm()
    yield lane
    lane.close()


READS = [
    *(framed(*WORDS[:of]) for of in (1, 2, 6)),
    *(framed(event) for event in (STOP, LONG, USAGE, DONE, ERROR, b": keep-alive\n\n", WORDS[0] + WORDS[1])),
    *(framed(WORDS[0], other, WORDS[1]) for other in (STOP, LONG, USAGE, b"\n\n")),
    framed(WORDS[0]).upper(),
    b"0" + framed(WORDS[0]),
    b"5\r\n" + framed(*WORDS),
    framed(*WORDS) + END,
    framed(*(event.replace(b"\n", b"\r\n") for event in WORDS)),
    *(b"fff" + framed(WORDS[0])[:cut] for cut in range(5)),
]


@settings(max_examples=500, deadline=None)
@given(
    read=st.sampled_from(READS),
    cut=st.tuples(st.integers(0, 20), st.integers(0, 20)),
    other=st.none() | st.tuples(st.integers(0, 1 << 12), st.binary(min_size=1, max_size=1)),
)
def test_what_is_usual_is_the_same_in_python(
    read: bytes, cut: tuple[int, int], other: tuple[int, bytes] | None
) -> None:
    if other is not None:
        at = other[0] % len(read)
        read = read[:at] + other[1] + read[at + 1 :]
    read = read[cut[0] if cut[0] > 15 else 0 : len(read) - (cut[1] if cut[1] > 15 else 0)]
    if not read:
        return
    lane = Lane(_express.Express())
    try:
        lane.arm()
        lane.say(read)
        usual = USUAL.several(read)
        assert lane.lane.came == usual
        assert (lane.got(), lane.given) == ((read, []) if usual else (b"", [read]))
    finally:
        lane.close()


def test_times_are_those_of_the_reads(lane: Lane) -> None:
    lane.say(framed(WORDS[0]))
    lane.say(framed(*WORDS[1:4]))
    assert lane.lane.came == 4
    times, bunched = lane.lane.take()
    assert times == sorted(times)
    assert len(set(times)) == 2
    assert bunched
    assert lane.lane.take() == ([], False)
    for _ in range(100):
        lane.say(framed(WORDS[0]))
    times, bunched = lane.lane.take()
    assert (len(times), bunched) == (100, False)


def test_nothing_is_usual_until_it_is_armed_again(lane: Lane) -> None:
    lane.say(framed(STOP))
    lane.say(framed(WORDS[0]))
    assert lane.given == [framed(STOP), framed(WORDS[0])]
    lane.arm()
    lane.say(framed(WORDS[1]))
    assert lane.got() == framed(WORDS[1])


def test_a_shape_that_is_too_long_is_not_usual(lane: Lane) -> None:
    lane.lane.arm(USUAL.head + b"x" * 600, USUAL.end)
    lane.say(framed(WORDS[0]))
    assert lane.given == [framed(WORDS[0])]


def test_nothing_overtakes_what_the_transport_holds(lane: Lane) -> None:
    lane.say(framed(WORDS[0]))
    lane.say(framed(STOP))  # whatever Python makes of it, it may write
    lane.left = 9
    lane.arm()
    lane.say(framed(WORDS[1]))
    assert lane.got() == framed(WORDS[0])
    assert lane.written == [framed(WORDS[1])]
    lane.left = 0
    lane.say(framed(WORDS[2]))
    assert lane.got() == framed(WORDS[2])


def test_what_the_client_does_not_take_goes_to_its_transport(lane: Lane) -> None:
    said = b""
    while not lane.written:
        said += framed(*WORDS)
        lane.say(framed(*WORDS))
    said += framed(WORDS[0])
    lane.say(framed(WORDS[0]))
    taken = lane.got()
    assert taken + b"".join(lane.written) == said
    assert lane.given == []


def test_a_client_that_has_gone_is_for_python(lane: Lane) -> None:
    lane.gone = True
    lane.client.close()
    lane.say(framed(WORDS[0]))
    assert lane.given == [framed(WORDS[0])]
    assert lane.lane.came == 0


def test_a_lane_closed_while_its_transport_is_asked_sends_nothing(express: Any) -> None:
    lane = Lane(express)
    lane.lane.close()

    def closes() -> int:
        lane.lane.close()
        return 0

    lane.lane = express.open(lane.near.fileno(), lane.far.fileno(), lane.given.append, lane._over, lane._write, closes)
    lane.arm()
    lane.say(framed(WORDS[0]))
    assert (lane.got(), lane.written, lane.given) == (b"", [], [])
    lane.close()


def test_pause_leaves_everything_where_it_is(express: Any, lane: Lane) -> None:
    lane.lane.pause()
    lane.say(framed(WORDS[0]))
    assert lane.got() == b""
    lane.lane.resume()
    lane.lane.resume()
    express.run()
    assert lane.got() == framed(WORDS[0])


def test_more_than_a_read_holds_is_read_on(express: Any, lane: Lane) -> None:
    lane.engine.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    said = framed(LONG) * 40
    lane.engine.sendall(said)
    for _ in range(8):
        express.run()
    assert b"".join(lane.given) == said
    assert len(lane.given) > 1


@pytest.mark.parametrize("how", ["end", "reset"])
def test_end_is_for_the_transport_and_so_is_what_came_before_it(how: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        engine = socket.create_connection(server.getsockname())
        near, _ = server.accept()
    client, far = socket.socketpair()
    express = _express.Express()
    ends: list[str] = []
    lane = express.open(near.fileno(), far.fileno(), ends.append, lambda: ends.append("over"), ends.append, lambda: 0)
    with near, client, far:
        engine.sendall(framed(WORDS[0]))
        if how == "reset":
            engine.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        engine.close()
        select.select([express.fileno()], [], [], 10)
        express.run()
        lane.close()
        express.run()
        assert ends == ["over"]
        if how == "end":
            assert near.recv(1000) == framed(WORDS[0])
            assert near.recv(1000) == b""


def test_a_lane_closed_by_another_is_not_served(express: Any) -> None:
    lanes = [Lane(express) for _ in range(2)]
    first, second = lanes
    for one, other in ((first, second), (second, first)):
        one.on_given = other.lane.close
    for lane in lanes:
        lane.engine.sendall(framed(STOP))
    express.run()
    express.run()
    served = [lane for lane in lanes if lane.given]
    assert len(served) == 1
    (closed,) = (lane for lane in lanes if lane is not served[0])
    assert closed.near.recv(1000) == framed(STOP), "left for whoever reads now"
    for lane in lanes:
        lane.close()


def test_a_lane_that_closes_itself_while_it_is_served(express: Any, lane: Lane) -> None:
    lane.on_given = lane.lane.close
    lane.say(framed(STOP))
    lane.say(framed(STOP))
    assert lane.given == [framed(STOP)]
    lane.arm()
    lane.lane.resume()
    express.run()
    assert lane.given == [framed(STOP)]


def test_an_exception_is_told_and_stops_nothing(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr("sys.unraisablehook", told.append)

    def fails() -> None:
        raise KeyError("x")

    lane.on_given = fails
    lane.say(framed(STOP))
    assert [type(each.exc_value) for each in told] == [KeyError]
    lane.on_given = lambda: None
    lane.say(framed(STOP))
    assert len(lane.given) == 2


def test_whoever_gets_the_number_of_a_closed_socket_gets_nothing_of_its_answer(lane: Lane) -> None:
    number = lane.far.detach()
    other, strange = socket.socketpair()
    os.dup2(strange.fileno(), number)  # which closes the one that had it
    with other, strange:
        lane.say(framed(WORDS[0]))
        other.setblocking(False)
        assert read_all(other) == b""
        assert lane.got() == framed(WORDS[0])
    os.close(number)


def test_no_descriptor_is_left(express: Any) -> None:
    before = len(os.listdir("/proc/self/fd"))
    lane = Lane(express)
    lane.close()
    assert len(os.listdir("/proc/self/fd")) == before
    lane = Lane(express)
    for end in (lane.engine, lane.client, lane.near, lane.far):
        end.close()
    del lane
    assert len(os.listdir("/proc/self/fd")) <= before + 1, "a lane is closed with its last reference"


def test_a_closed_socket_makes_no_lane(express: Any) -> None:
    end, other = socket.socketpair()
    with end:
        other.close()
        for ends in ((end.fileno(), -1), (-1, end.fileno())):
            with pytest.raises(OSError, match="Bad file"):
                express.open(*ends, print, print, print, int)


def test_files_are_kept_for_the_lanes_of_as_many_clients_as_may_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for two a client, streams took the files that the last clients' engine connections needed."""
    monkeypatch.setattr("resource.getrlimit", lambda _: (1024, 1024))
    guard = app._guard(cast("Any", Settings)(), lambda _: None, is_open=True)
    assert guard.connections * 3 + app.FILES_KEPT <= 1024
