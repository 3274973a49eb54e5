"""One answer and its slot: given back exactly once on every way in which an exchange can end."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from headgate.errors import Reason, Refusal
from headgate.openai import DONE, Dialect
from headgate.relay.reply import Ending, EngineBroke, FinalEvent, Plan, Reply, StaleConnection
from headgate.relay.upstream import Headers, Upstream
from tests.relay.test_exchange import run

HELLO = b'data: {"choices":[{"delta":{"content":"Hello"}}]}\n\n'
SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
JSON = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
LATE = Refusal(Reason.REQUEST_TIMEOUT, "Too late.")


def chunked(*parts: bytes) -> bytes:
    return b"transfer-encoding: chunked\r\n\r\n" + b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in parts)


END = b"0\r\n\r\n"


class Client:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: Headers = []
        self.body = b""
        self.ended = self.was_cut = False
        self.first = asyncio.Event()
        self.on_pause: Callable[[], object] | None = None
        self.on_resume: Callable[[], object] | None = None

    def start(self, status: int, headers: Headers) -> None:
        assert not self.status, "one head"
        self.status, self.headers = status, headers

    def write(self, data: bytes) -> None:
        assert self.status
        assert not self.ended
        self.body += data
        self.first.set()

    def takes_chunks(self) -> asyncio.Transport | None:
        return None

    def end(self) -> None:
        assert not self.ended, "one end"
        self.ended = True

    def cut(self) -> None:
        self.was_cut = True


class Slot:
    """Counts how often it is given back."""

    def __init__(self) -> None:
        self.released = 0
        self.trouble_before = False

    def release(self) -> None:
        self.released += 1


class Rig:
    """A reply between a client and an engine that says ``answer``."""

    def __init__(
        self,
        client: Client | None = None,
        *,
        streamed: bool = True,
        dialect: Dialect = Dialect.OPENAI,
        final_event: FinalEvent = FinalEvent.AUTO,
    ) -> None:
        self.client = client or Client()
        self.slot = slot = Slot()
        self.trouble: list[int] = []
        trouble = self.trouble
        self.reply = Reply(
            self.client,
            Plan(dialect, streamed=streamed, wants_usage=False, final_event=final_event),
            loop=asyncio.get_running_loop(),
            clock=asyncio.get_running_loop().time,
            arrived=asyncio.get_running_loop().time(),
            headers=[],
            gap=lambda _: None,
            first=lambda _: None,
            trouble=lambda: trouble.append(slot.released),
            retry_after_s=lambda: 2.5,
        )

    async def carry(self, upstream: Upstream) -> Ending:
        return await self.reply.carry(await upstream.connect(), b"x", self.slot)


def play(answer: bytes, claim: Callable[[Upstream], Awaitable[None]], *, close: bool = False) -> None:
    """Let ``claim`` talk to an engine that answers everything with ``answer``, and hangs up then or stays."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1000):
            writer.write(answer)
            if close:
                return

    run(serve, claim)


@pytest.mark.parametrize(
    ("answer", "close", "ending"),
    [
        (SSE + chunked(HELLO, DONE) + END, False, "ok"),
        (SSE + chunked(HELLO, DONE), True, "ok"),  # whole, though HTTP's own end is missing
        (SSE + chunked(HELLO) + END, False, "engine_failed"),
        (SSE + chunked(HELLO), True, "engine_failed"),
        (SSE + chunked(HELLO) + b"garbage\r\n", False, "engine_failed"),
        (SSE + chunked(HELLO, HELLO.replace(b"}]", b',"finish_reason":"abort"}]'), DONE), False, "engine_failed"),
        (JSON + b"content-length: 2\r\n\r\n{}", False, "ok"),
        (JSON.replace(b"200", b"404") + b"content-length: 2\r\n\r\n{}", False, "not_found"),
        (JSON + b"content-length: 900000\r\n\r\n" + bytes(900_000), False, "ok"),
        (JSON + b"content-length: 900000\r\n\r\n" + bytes(600_000), True, "engine_failed"),
    ],
)
def test_slot_is_given_back_once_however_the_exchange_ends(answer: bytes, close: bool, ending: str) -> None:
    async def claim(upstream: Upstream) -> None:
        rig = Rig()
        assert (await rig.carry(upstream)).reason == ending
        assert rig.slot.released == 1
        assert rig.client.ended is not rig.client.was_cut
        if ending == "engine_failed":
            assert rig.trouble == [0], "told before the slot goes back: nobody shall be granted a dying engine"

    play(answer, claim, close=close)


@pytest.mark.parametrize("answer", [b"", b"garbage\r\n\r\n", SSE + chunked(), SSE + chunked(b": keep-alive\n\n"), JSON])
def test_exchange_that_breaks_before_anything_was_sent_can_be_repeated(answer: bytes) -> None:
    async def claim(upstream: Upstream) -> None:
        rig = Rig()
        for tries in (1, 2):
            with pytest.raises(EngineBroke):
                await rig.carry(upstream)
            assert rig.slot.released == tries
        assert not rig.client.status

    play(answer, claim, close=True)


def test_error_in_the_same_read_as_the_first_events_still_becomes_the_status() -> None:
    """What was read and never sent was counted as sent."""

    async def claim(upstream: Upstream) -> None:
        rig = Rig()
        with pytest.raises(EngineBroke) as broke:
            await rig.carry(upstream)
        assert broke.value.answer is not None
        assert broke.value.answer.status == 500
        assert (rig.slot.released, rig.reply.events, rig.reply.first_event_at) == (1, 0, None)
        assert not rig.client.status

    play(SSE + chunked(HELLO, b'data: {"error":{"message":"no"}}\n\n'), claim)


def test_500_is_kept_back_and_can_be_passed_on() -> None:
    async def claim(upstream: Upstream) -> None:
        rig = Rig()
        with pytest.raises(EngineBroke) as broke:
            await rig.carry(upstream)
        assert rig.slot.released == 1
        assert broke.value.answer is not None
        assert rig.reply.pass_on(broke.value.answer).reason == "engine_failed"
        assert (rig.client.status, rig.client.body) == (500, b"no")

    play(JSON.replace(b"200 OK", b"500 No") + b"content-length: 2\r\n\r\nno", claim)


def test_used_connection_that_is_closed_without_an_answer_is_stale_and_keeps_the_slot() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(JSON + b"content-length: 2\r\n\r\n{}")
        await reader.read(1000)  # the second request is read and not answered

    async def claim(upstream: Upstream) -> None:
        await Rig().carry(upstream)
        rig = Rig()
        exchange = upstream.idle()
        assert exchange is not None
        with pytest.raises(StaleConnection):
            await rig.reply.carry(exchange, b"x", rig.slot)
        assert rig.slot.released == 0

    run(serve, claim)


@pytest.mark.parametrize("answer", [b"", SSE + chunked(HELLO)])
def test_client_that_leaves_gives_the_slot_back_in_the_same_turn(answer: bytes) -> None:
    async def claim(upstream: Upstream) -> None:
        rig = Rig()
        exchange = await upstream.connect()
        task = asyncio.create_task(rig.reply.carry(exchange, b"x", rig.slot))
        if answer:
            await rig.client.first.wait()
        else:
            await asyncio.sleep(0)  # the task has run, and waits
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert rig.slot.released == 1
        rig.reply.expire(LATE)
        assert rig.slot.released == 1

    play(answer, claim)


def test_time_that_is_over_while_there_was_no_exchange_is_over_for_the_next_one() -> None:
    """A deadline that came while the engine was being connected to was forgotten: there was none any more."""

    async def claim(upstream: Upstream) -> None:
        rig = Rig()
        rig.reply.expire(LATE)
        with pytest.raises(Refusal) as refused:
            await rig.carry(upstream)
        assert refused.value is LATE

    play(b"", claim)


def test_time_that_is_over_between_two_tries_is_told_in_a_held_stream() -> None:
    async def claim(upstream: Upstream) -> None:
        rig = Rig()
        with pytest.raises(EngineBroke):
            await rig.carry(upstream)
        rig.reply.hold()
        rig.reply.expire(LATE)
        assert (await rig.carry(upstream)).reason == "request_timeout"
        assert rig.client.body.startswith(b": waiting\n\n")
        assert rig.client.body.endswith(DONE)
        assert rig.client.ended

    play(b"", claim, close=True)


@pytest.mark.parametrize(
    ("answer", "ending"),
    [(SSE + chunked(HELLO), "request_timeout"), (SSE + chunked(HELLO, DONE), "ok")],
)
def test_time_limit_ends_what_runs_but_not_what_is_whole(answer: bytes, ending: str) -> None:
    async def claim(upstream: Upstream) -> None:
        rig = Rig()
        task = asyncio.create_task(rig.carry(upstream))
        await rig.client.first.wait()
        rig.reply.expire(LATE)
        assert (await task).reason == ending
        assert rig.slot.released == 1
        assert rig.client.body.count(DONE) == 1

    play(answer, claim)


@pytest.mark.parametrize("dialect", list(Dialect))
def test_error_in_a_held_stream_has_its_dialects_shape(dialect: Dialect) -> None:
    """On /v1/messages it came without the line that makes it an error there."""
    event = b"event: error\n" if dialect is not Dialect.OPENAI else b""
    event += b'data: {"type":"error","message":"no","error":{"message":"no"}}\n\n'

    async def claim(upstream: Upstream) -> None:
        rig = Rig(dialect=dialect)
        rig.reply.hold()
        await rig.carry(upstream)
        expected = b": waiting\n\n" + event + (DONE if dialect is Dialect.OPENAI else b"")
        assert rig.client.body == expected
        assert rig.slot.released == 1

    play(SSE + chunked(event), claim)


def test_json_over_256_kib_in_a_held_stream_is_an_error_event() -> None:
    """A second head, and then the JSON, went into the stream."""

    async def claim(upstream: Upstream) -> None:
        rig = Rig()
        rig.reply.hold()
        with pytest.raises(EngineBroke):
            await rig.carry(upstream)
        assert rig.client.body == b": waiting\n\n"

    play(JSON + b"content-length: 900000\r\n\r\n" + bytes(900_000), claim)


def test_exception_in_the_reply_reaches_whoever_waits_for_it(caplog: pytest.LogCaptureFixture) -> None:
    async def claim(upstream: Upstream) -> None:
        rig = Rig()
        failing: Any = rig.client

        def write(_: bytes) -> None:
            raise KeyError("a fault of ours")

        failing.write = write
        with pytest.raises(KeyError):
            await rig.carry(upstream)
        assert rig.slot.released == 1

    play(SSE + chunked(HELLO, DONE) + END, claim)
    assert "could not be handled" in caplog.text


@pytest.mark.interpreted
def test_nothing_keeps_a_reply_once_its_request_is_over() -> None:
    async def claim(upstream: Upstream) -> None:
        gc.disable()  # what reference counting frees needs no collector
        try:
            rig = Rig()
            await rig.carry(upstream)
            rig.client.on_pause = rig.client.on_resume = None  # as Downstream.finish does
            seen = weakref.ref(rig.reply)
            del rig
            assert seen() is None
        finally:
            gc.enable()

    play(SSE + chunked(HELLO, DONE) + END, claim)


@pytest.mark.parametrize("tries", [1, 2])
def test_answer_to_a_client_that_takes_nothing_yet_is_not_read_from_the_engine(tries: int) -> None:
    """Paused by what it was sent before (its place in the line, say): there was no exchange then to be paused."""
    asked = 0
    asked_last = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        await reader.read(1000)
        asked += 1
        if asked < tries:
            writer.close()
        else:
            writer.write(SSE + chunked(HELLO, DONE) + END)
            asked_last.set()

    async def claim(upstream: Upstream) -> None:
        rig = Rig()
        assert rig.client.on_pause is not None
        assert rig.client.on_resume is not None
        if tries > 1:
            with pytest.raises(EngineBroke):
                await rig.carry(upstream)
        rig.client.on_pause()
        carried = asyncio.create_task(rig.carry(upstream))
        await asked_last.wait()
        await Rig().carry(upstream)  # what was said before this has come by now
        assert not rig.client.body
        rig.client.on_resume()
        assert (await carried).reason == "ok"
        assert rig.client.ended

    run(serve, claim)


def named(name: str) -> bytes:
    """An event of that name."""
    data = {"type": name, "delta": {"stop_reason": "end_turn"}} if name == "message_delta" else {"type": name}
    return b"event: %b\ndata: %b\n\n" % (name.encode(), json.dumps(data).encode())


@pytest.mark.parametrize(
    ("dialect", "opening", "token", "closing"),
    [
        (Dialect.RESPONSES, "response.created", "response.output_text.delta", ["response.output_text.done"]),
        (Dialect.RESPONSES, "response.in_progress", "response.function_call_arguments.delta", []),
        (Dialect.ANTHROPIC, "message_start", "content_block_delta", ["content_block_stop", "message_delta"]),
    ],
)
def test_first_token_is_the_first_event_that_brings_one(
    dialect: Dialect, opening: str, token: str, closing: list[str]
) -> None:
    """vLLM sends the first events of a response before it computes: that was its time to the first token, what it took
    for the prompt a gap between two tokens, and the events at its end were tokens, too."""
    last = {Dialect.RESPONSES: "response.completed", Dialect.ANTHROPIC: "message_stop"}[dialect]

    def chunk(*names: str) -> bytes:
        return b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in map(named, names))

    begin = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(SSE + chunked(named(opening)))
        await begin.wait()
        writer.write(chunk(token, token, *closing, last) + END)
        await reader.read(1000)

    async def claim(upstream: Upstream) -> None:
        rig = Rig(dialect=dialect)
        carried = asyncio.create_task(rig.carry(upstream))
        if dialect is Dialect.ANTHROPIC:
            await rig.client.first.wait()
        before = rig.reply.ttft_s
        begin.set()
        assert (await carried).reason == "ok"
        assert (before, rig.reply.ttft_s is not None, rig.reply.events) == (None, True, 2)

    run(serve, claim)


def test_response_of_which_only_its_opening_has_come_can_still_be_tried_again() -> None:
    """vLLM opens it before it computes, and passed on that cost the second try, and an error its status."""
    opening = named("response.created") + named("response.in_progress")
    rest = named("response.output_text.delta") + named("response.completed")
    says = iter([chunked(opening), chunked(opening, rest) + END, chunked(opening, b"event: error\ndata: {}\n\n")])

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(SSE + next(says))

    async def claim(upstream: Upstream) -> None:
        rig = Rig(dialect=Dialect.RESPONSES)
        with pytest.raises(EngineBroke):
            await rig.carry(upstream)
        assert not rig.client.status
        assert (await rig.carry(upstream)).reason == "ok"
        assert rig.client.body.startswith(opening + rest)
        other = Rig(dialect=Dialect.RESPONSES)
        with pytest.raises(EngineBroke) as broke:
            await other.carry(upstream)
        assert broke.value.answer is not None
        assert broke.value.answer.status == 500

    run(serve, claim)


def test_answer_without_a_token_began_when_it_ended() -> None:
    async def claim(upstream: Upstream) -> None:
        rig = Rig(dialect=Dialect.RESPONSES)
        assert (await rig.carry(upstream)).reason == "ok"
        assert rig.reply.ttft_s is not None

    play(SSE + chunked(b'event: response.completed\ndata: {"type":"response.completed"}\n\n') + END, claim)
