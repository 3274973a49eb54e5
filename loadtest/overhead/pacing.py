"""How streams move on: one write for each event, on a wheel or as fast as the loop turns.

Paced streams hang on one wheel of 1 ms steps instead of a timer each; they are spread evenly over it, so that
a gateway is woken all the time and not once in 20 ms. A late step catches up, no event is lost. Streams with
no pace take turns, one event each, as the steps of an engine give them.

It knows transports, and ends there: requests and HTTP heads are `upstream`'s.
"""

import asyncio
import time
from collections.abc import Callable

from loadtest.overhead import wire

STEP_S = 0.001


class Stream:
    """One streamed answer; `emit` writes the next event and says whether another will follow."""

    __slots__ = ("_asked", "_event", "_finished", "_index", "_transport", "interval_ms", "paused")

    def __init__(self, asked: wire.Asked, transport: asyncio.Transport, finished: Callable[[], None]) -> None:
        self._asked = asked
        self._event = chunked(wire.event_template(asked, last=False), grows_by=20 + 6 - len("%020d%06d"))
        self._finished = finished
        self._index = 0
        self._transport = transport
        self.interval_ms = asked.interval_ms
        self.paused = False

    def emit(self) -> bool:
        transport = self._transport
        if transport.is_closing():
            return False
        if self.paused:
            return True
        index = self._index
        self._index = index + 1
        if self._index < self._asked.events:
            transport.write(self._event % (time.monotonic_ns(), index))
            return True
        last = wire.event_template(self._asked, last=True) % (time.monotonic_ns(), index)
        usage = chunked(wire.usage_event(self._asked)) if self._asked.include_usage else b""
        transport.write(chunked(last) + usage + chunked(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        self._finished()
        return False


class Pace:
    """Who is streaming, and the two ways of moving them on: the wheel, and as fast as the loop turns."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._wheel: dict[int, list[Stream]] = {}
        self._on_wheel = 0
        self._step = 0
        self._phase = 0
        self._bulk: list[Stream] = []

    def start(self, stream: Stream) -> None:
        if not stream.emit():
            return
        if stream.interval_ms > 0:
            self._hang(stream)
        else:
            self._bulk.append(stream)
            if len(self._bulk) == 1:
                self._loop.call_soon(self._run_bulk)

    def _run_bulk(self) -> None:
        self._bulk = [stream for stream in self._bulk if stream.emit()]
        if self._bulk:
            if all(stream.paused for stream in self._bulk):
                self._loop.call_later(STEP_S, self._run_bulk)
            else:
                self._loop.call_soon(self._run_bulk)

    def _hang(self, stream: Stream) -> None:
        """The first step is somewhere within the interval, each newcomer at another place in it."""
        if self._on_wheel == 0:
            self._step = self._now_step()
            self._loop.call_later(STEP_S, self._turn)
        self._phase += 1
        steps = steps_of(stream.interval_ms)
        # An even spread over 1 … steps that does not follow the order of arrival.
        self._wheel.setdefault(self._step + 1 + (self._phase * 7) % steps, []).append(stream)
        self._on_wheel += 1

    def _turn(self) -> None:
        now_step = self._now_step()
        while self._step < now_step:
            self._step += 1
            for stream in self._wheel.pop(self._step, ()):
                if stream.emit():
                    self._wheel.setdefault(self._step + steps_of(stream.interval_ms), []).append(stream)
                else:
                    self._on_wheel -= 1
        if self._on_wheel:
            self._loop.call_later(STEP_S, self._turn)

    def _now_step(self) -> int:
        """The loop's clock in whole steps: sums of fractions drift, and a timer a hair early would spin."""
        return round(self._loop.time() / STEP_S)


def steps_of(interval_ms: float) -> int:
    return max(1, round(interval_ms / 1000 / STEP_S))


def chunked(data: bytes, *, grows_by: int = 0) -> bytes:
    """One HTTP chunk; `grows_by` is what a template will gain when it is filled in."""
    return b"%x\r\n" % (len(data) + grows_by) + data + b"\r\n"
