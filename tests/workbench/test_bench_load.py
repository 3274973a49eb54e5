"""The load against a server in the same loop, that answers when a test says so: nothing here depends on how fast."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from headgate.pool.launchers import Address, free_port
from headgate.workbench.bench import load as load_module
from headgate.workbench.bench import raw
from headgate.workbench.bench.callers import Caller
from headgate.workbench.bench.load import Load
from headgate.workbench.bench.raw import End, Header, Outcome, Plan, Record, Run, Target
from headgate.workbench.bench.target import Aim
from headgate.workbench.bench.trace import Entry
from headgate.workbench.bench.words import Scale

ANSWER = (
    b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1}}\n\n'
    b"data: [DONE]\n\n"
)


def reply(status: int, body: bytes, kind: str, *more: str) -> bytes:
    head = [f"HTTP/1.1 {status} X", f"content-type: {kind}", f"content-length: {len(body)}", *more]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


OK = reply(200, ANSWER, "text/event-stream")
BUSY = reply(429, b'{"error":{"code":"queue_full"}}', "application/json", "retry-after-ms: 20")

Handle = Callable[[int, dict[str, Any]], Awaitable[bytes]]
"""What the server answers to its n-th request; nothing means that it closes the connection."""


class Server:
    """HTTP, as far as the load speaks it."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self.seen: list[dict[str, Any]] = []
        self.headers: list[str] = []
        self.arrived = asyncio.Condition()

    async def until(self, count: int) -> None:
        """So many requests have come."""
        async with self.arrived:
            await self.arrived.wait_for(lambda: len(self.seen) >= count)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = int(head.lower().partition("content-length: ")[2].partition("\r")[0])
                body = json.loads(await reader.readexactly(length))
                async with self.arrived:
                    number = len(self.seen)
                    self.seen.append(body)
                    self.headers.append(head)
                    self.arrived.notify_all()
                said = await self._handle(number, body)
                writer.write(said)
                if not said:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def load(
    plan: Plan,
    handle: Callable[[Server], Handle],
    callers: Sequence[Caller] = (Caller(),),
    entries: Sequence[Entry] = (),
    meanwhile: Callable[[Load, Server], Awaitable[None]] | None = None,
) -> tuple[list[Record], End, Server]:
    """Run a plan on a server."""

    async def go() -> tuple[list[Record], End, Server]:
        server = Server(lambda number, body: answer(number, body))
        answer = handle(server)
        listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        target = Target(url="x", path="/v1/chat/completions", model="m", ignore_eos=True)
        one = Load(plan, Aim(Address("127.0.0.1", port), target, Scale()), callers, entries)
        async with asyncio.timeout(20):
            beside = asyncio.ensure_future(meanwhile(one, server)) if meanwhile else None
            end = await one.run()
            if beside is not None:
                await beside
        listening.close()
        return one.records, end, server

    return asyncio.run(go())


def at_once(_: Server) -> Handle:
    async def handle(number: int, body: dict[str, Any]) -> bytes:
        return OK

    return handle


def test_an_open_load_never_waits_for_an_answer() -> None:
    def when_all_are_here(server: Server) -> Handle:
        async def handle(number: int, body: dict[str, Any]) -> bytes:
            await server.until(20)
            return OK

        return handle

    records, end, _ = load(Plan(rate="200", arrivals="constant", duration_s=0.1), when_all_are_here)
    assert [record.outcome for record in records] == [Outcome.OK] * 20, "a closed loop would have waited for ever"
    assert end.max_in_flight == 20


def test_latency_counts_from_the_moment_a_request_was_due() -> None:
    """Coordinated omission: while the first answer is held back, those due meanwhile get late, and it shows."""

    def when_all_are_here(server: Server) -> Handle:
        async def handle(number: int, body: dict[str, Any]) -> bytes:
            await server.until(20)
            return OK

        return handle

    records, _, _ = load(Plan(rate="200", arrivals="constant", duration_s=0.1), when_all_are_here)
    assert [round(record.at_s, 3) for record in records] == [round(n * 0.005, 3) for n in range(20)]
    last_due_s = records[-1].at_s
    for record in records:
        assert record.latency_s >= last_due_s - record.at_s
        assert record.ttft_s is not None
        assert record.ttft_s <= record.latency_s
        assert record.late_s <= record.latency_s


def test_a_closed_load_has_so_many_at_once_and_no_more() -> None:
    def when_three_are_here(server: Server) -> Handle:
        async def handle(number: int, body: dict[str, Any]) -> bytes:
            await server.until(3)
            return OK

        return handle

    records, end, server = load(Plan(users=3, requests=12), when_three_are_here)
    assert (len(records), end.max_in_flight, len(server.seen)) == (12, 3, 12)
    assert {record.late_s for record in records} == {0.0}


def test_one_who_obeys_comes_again_when_told_and_its_time_goes_on() -> None:
    def second_time(_: Server) -> Handle:
        async def handle(number: int, body: dict[str, Any]) -> bytes:
            return OK if number else BUSY

        return handle

    (record,), _, server = load(Plan(users=1, requests=1, obey_retry_after=True), second_time)
    assert record.outcome is Outcome.OK
    (told,) = record.tries
    assert (told.status, told.reason, told.retry_after_s) == (429, "queue_full", 0.02)
    assert record.latency_s >= told.took_s + told.retry_after_s
    assert server.seen[0] == server.seen[1], "the same request"


def test_one_whose_patience_would_be_over_does_not_come_again() -> None:
    def never(_: Server) -> Handle:
        async def handle(number: int, body: dict[str, Any]) -> bytes:
            return BUSY

        return handle

    (record,), _, _ = load(Plan(users=1, requests=1, obey_retry_after=True, patience_s=0.01), never)
    assert (record.outcome, record.tries, record.retry_after_s) == (Outcome.REFUSED, [], 0.02)
    (record,), _, server = load(Plan(users=1, requests=1), never)
    assert (record.outcome, len(server.seen)) == (Outcome.REFUSED, 1)


def test_a_kept_connection_that_was_closed_meanwhile_is_no_error() -> None:
    def closes_every_second(_: Server) -> Handle:
        async def handle(number: int, body: dict[str, Any]) -> bytes:
            return b"" if number == 1 else OK

        return handle

    records, _, server = load(Plan(users=1, requests=2), closes_every_second)
    assert [record.outcome for record in records] == [Outcome.OK] * 2
    assert len(server.seen) == 3


def test_a_kept_connection_that_is_closed_later_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the server had had a request, it was sent again when the connection broke, and was no error."""
    monkeypatch.setattr(load_module, "_STALE_S", 0.0)

    def closes_every_second(_: Server) -> Handle:
        async def handle(number: int, body: dict[str, Any]) -> bytes:
            return b"" if number == 1 else OK

        return handle

    records, _, server = load(Plan(users=1, requests=2), closes_every_second)
    assert [record.outcome for record in records] == [Outcome.OK, Outcome.ERROR]
    assert (records[1].reason, len(server.seen)) == ("closed_unanswered", 2)


def test_a_new_connection_that_is_closed_is_one() -> None:
    def closes(_: Server) -> Handle:
        async def handle(number: int, body: dict[str, Any]) -> bytes:
            return b""

        return handle

    records, _, _ = load(Plan(users=1, requests=2), closes)
    assert [(r.outcome, r.reason) for r in records] == [(Outcome.ERROR, "closed_unanswered")] * 2


def never(_: Server) -> Handle:
    async def handle(number: int, body: dict[str, Any]) -> bytes:
        await asyncio.get_running_loop().create_future()
        return OK

    return handle


def test_an_answer_that_does_not_come_is_given_up() -> None:
    (record,), _, _ = load(Plan(users=1, requests=1, timeout_s=0.05), never)
    assert (record.outcome, record.reason) == (Outcome.ERROR, "client_timeout")
    assert record.latency_s >= 0.05


def test_the_wait_for_the_last_answers_is_bounded() -> None:
    records, end, _ = load(Plan(rate="100", arrivals="constant", duration_s=0.03, drain_s=0.05), never)
    assert [record.outcome for record in records] == [Outcome.UNFINISHED] * 3
    assert not end.interrupted


def test_the_wait_for_the_last_answers_of_a_closed_load_is_bounded_too() -> None:
    """A user that waited for its answer, for as long as a request may take, held up the whole run."""
    records, end, _ = load(Plan(users=2, duration_s=0.03, drain_s=0.05), never)
    assert [record.outcome for record in records] == [Outcome.UNFINISHED] * 2
    assert not end.interrupted


def test_users_of_a_closed_load_do_not_hammer_at_a_door_that_nobody_opens() -> None:
    """An engine that died in mid-run made 14,000 errors of eight users in three seconds."""

    async def closed(load: Load, server: Server) -> None:
        del server
        load._upstream.port = free_port()

    records, _, _ = load(Plan(users=2, duration_s=0.1), at_once, meanwhile=closed)
    assert sum(record.reason == "no_connection" for record in records) <= 2


def test_an_end_before_the_moment_it_was_due_takes_no_time(tmp_path: Path) -> None:
    """A timer woke early and the connection was refused at once: its raw file could not be read."""

    async def early(load: Load, server: Server) -> None:
        del server
        launch = load._launch

        def before_it_is_due(one: load_module._One, body: bytes | None) -> asyncio.Task[None]:
            one.at += 60
            return launch(one, body)

        load._launch = before_it_is_due  # type: ignore[method-assign]

    records, end, _ = load(Plan(rate="100", arrivals="constant", duration_s=0.02), at_once, meanwhile=early)
    assert [(record.ttft_s, record.latency_s) for record in records] == [(0.0, 0.0)] * 2
    header = Header(started_at="", plan=Plan(), target=Target(url="", path="", model=""))
    raw.write(tmp_path / "run.jsonl", Run(header, records, end))
    assert len(raw.read(tmp_path / "run.jsonl").records) == 2


def test_nobody_thinks_beyond_the_end_of_the_load() -> None:
    records, _, _ = load(Plan(users=2, duration_s=0.03, think_s=3600), at_once)
    assert [record.outcome for record in records] == [Outcome.OK] * 2


def test_no_more_are_in_flight_than_the_client_can_bear_and_the_rest_are_errors_that_say_so() -> None:
    records, _, server = load(
        Plan(rate="100", arrivals="constant", duration_s=0.05, drain_s=0.05, max_in_flight=2), never
    )
    assert [record.reason for record in records] == ["run_ended"] * 2 + ["client_limit"] * 3
    assert len(server.seen) == 2


def test_a_whole_answer_with_no_usage_has_tokens_that_nobody_counted() -> None:
    def whole(_: Server) -> Handle:
        async def handle(number: int, body: dict[str, Any]) -> bytes:
            return reply(200, b'{"choices":[{"message":{"content":"Hello."}}]}', "application/json")

        return handle

    (record,), _, _ = load(Plan(users=1, requests=1, stream=False), whole)
    assert (record.outcome, record.tokens, record.estimated) == (Outcome.OK, 0, True)


def test_more_users_than_that_are_no_errors() -> None:
    """Those beyond it failed at once, and used up the run's requests within a moment."""
    records, _, _ = load(Plan(users=3, requests=9, max_in_flight=1), at_once)
    assert {record.outcome for record in records} == {Outcome.OK}


def test_a_stop_ends_the_sending_and_what_is_in_flight() -> None:
    async def stop(one: Load, server: Server) -> None:
        await server.until(3)
        one.stop()

    records, end, _ = load(Plan(rate="100", arrivals="constant", duration_s=60), never, meanwhile=stop)
    assert end.interrupted
    assert end.offered_s < 20
    assert {record.outcome for record in records} == {Outcome.UNFINISHED}


def test_the_number_of_requests_is_a_bound_and_the_time_offered_ends_with_it() -> None:
    records, end, _ = load(Plan(rate="100", arrivals="constant", duration_s=60, requests=5), at_once)
    assert len(records) == 5
    assert end.offered_s == pytest.approx(0.05), "100 a second"


def test_a_trace_is_sent_when_it_says_and_by_whom_it_says() -> None:
    entries = [
        Entry(arrival_s=0.0, prompt="one", output_tokens=5, caller="bob"),
        Entry(arrival_s=0.2, prompt="two", output_tokens=6),
        Entry(arrival_s=99.0, prompt="too late", output_tokens=6),
    ]
    plan = Plan(trace="t.jsonl", speed=10.0, duration_s=1.0, requests=3)
    records, _, server = load(plan, at_once, [Caller("alice", key="sk-a"), Caller("bob", key="sk-b")], entries)
    assert records[0].caller == "bob"
    assert [round(r.at_s, 6) for r in records] == [0.0, 0.02]
    assert [(b["messages"][0]["content"], b["max_tokens"]) for b in server.seen] == [("one", 5), ("two", 6)]
    assert "authorization: Bearer sk-b" in server.headers[0]


def test_each_caller_sends_its_own_key_and_headers() -> None:
    callers = [Caller("a", key="sk-a"), Caller("b", headers={"X-Headgate-Priority": "low 100%"})]
    records, _, server = load(Plan(users=2, requests=2), at_once, callers)
    assert sorted(record.caller for record in records) == ["a", "b"]
    assert sum("authorization: Bearer sk-a\r\n" in head for head in server.headers) == 1
    assert sum("x-headgate-priority: low 100%\r\n" in head for head in server.headers) == 1


def test_a_header_of_ones_own_takes_the_place_of_the_usual_one() -> None:
    """There were two, and a second Host is a bad request to most servers."""
    _, _, server = load(Plan(users=1, requests=1), at_once, [Caller(headers={"Host": "api.example"})])
    (head,) = server.headers
    assert [line for line in head.lower().split("\r\n") if line.startswith("host:")] == ["host: api.example"]


def test_what_is_asked_is_what_the_plan_says() -> None:
    _, _, server = load(Plan(users=1, requests=1, output_tokens=33), at_once)
    (body,) = server.seen
    assert body.pop("messages")[0]["role"] == "user"
    assert body == {
        "model": "m",
        "max_tokens": 33,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
    }
