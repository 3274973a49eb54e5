from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.workbench.bench.answer import Answer, Seen, retry_after_s
from headgate.workbench.bench.raw import Outcome

EVENTS = b"text/event-stream; charset=utf-8"


def event(said: object) -> bytes:
    return b"data: " + json.dumps(said).encode() + b"\n\n"


def token(text: str | None, **delta: Any) -> bytes:
    return event({"choices": [{"index": 0, "delta": {"content": text, **delta}, "finish_reason": None}]})


USAGE = event({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}})
DONE = b"data: [DONE]\n\n"
WHOLE = [token(None, role="assistant"), token(""), b": keep-alive\n\n", token("a"), token("b"), token("c"), USAGE, DONE]


def received(
    *blocks: bytes,
    status: int = 200,
    stream: bool = True,
    kind: bytes = EVENTS,
    keep: bool = False,
    end: str = "end",
    headers: list[tuple[bytes, bytes]] | None = None,
) -> Seen:
    ends: list[None] = []
    answer = Answer(stream=stream, keep=keep, ended=lambda: ends.append(None))
    answer.on_head(status, [(b"content-type", kind), *(headers or [])])
    for block in blocks:
        answer.on_data(block)
    if end == "end":
        answer.on_end()
    else:
        answer.on_broken("gone", answered=bool(blocks))
    answer.give_up("an end is an end")
    assert len(ends) == 1
    return answer.seen


def test_a_whole_stream_is_timed_and_counted() -> None:
    seen = received(*WHOLE, keep=True)
    assert (seen.outcome, seen.reason, seen.status) == (Outcome.OK, "", 200)
    assert (seen.events, len(seen.gaps_ms), seen.prompt_tokens, seen.completion_tokens) == (3, 2, 7, 3)
    assert seen.text == "abc"
    assert 0 < seen.first_at <= seen.ended_at


@settings(deadline=None)
@given(st.lists(st.integers(0, 600), max_size=8))
def test_it_is_the_same_however_the_bytes_are_cut(cuts: list[int]) -> None:
    data = b"".join(WHOLE)
    edges = [0, *sorted(cut % len(data) for cut in cuts), len(data)]
    seen = received(*(data[a:b] for a, b in pairwise(edges)), keep=True)
    assert (seen.outcome, seen.events, seen.completion_tokens, seen.text) == (Outcome.OK, 3, 3, "abc")


@pytest.mark.parametrize(
    "delta", [{"reasoning_content": "hm"}, {"reasoning": "hm"}, {"tool_calls": [{"index": 0}]}, {"content": "x"}]
)
def test_thoughts_and_tool_calls_are_text_too(delta: dict[str, Any]) -> None:
    assert received(token(None, **{"content": None, **delta}), DONE).events == 1


def test_a_stream_of_completions_has_its_text_elsewhere() -> None:
    seen = received(event({"choices": [{"index": 0, "text": " a", "finish_reason": "length"}]}), DONE, keep=True)
    assert (seen.events, seen.text, seen.completion_tokens) == (1, " a", None)


@pytest.mark.parametrize(
    ("blocks", "reason"),
    [
        ([token("a")], "no_done"),
        ([token("a"), b"data: {"], "cut_event"),
        ([token("a"), b"data: {]\n\n", DONE], "bad_event"),
        ([token("a"), event({"error": {"message": "x", "code": "engine_failed"}}), DONE], "engine_failed"),
        ([token("a"), event({"error": {"message": "x", "code": 500, "type": "internal"}}), DONE], "internal"),
        ([token("a"), event({"error": "x"}), DONE], "error_event"),
    ],
)
def test_a_stream_that_went_wrong_is_an_error_with_its_reason(blocks: list[bytes], reason: str) -> None:
    seen = received(*blocks)
    assert (seen.outcome, seen.reason) == (Outcome.ERROR, reason)


def test_a_connection_that_broke_is_told_from_one_that_never_answered() -> None:
    cut = received(token("a"), end="broken")
    assert (cut.outcome, cut.reason, cut.broken_unanswered) == (Outcome.ERROR, "cut", False)
    silent = received(end="broken")
    assert (silent.reason, silent.broken_unanswered) == ("closed_unanswered", True)


def test_a_reply_that_is_no_stream_is_an_error_where_one_was_asked_for() -> None:
    assert received(b'{"choices":[{}]}', kind=b"application/json").reason == "not_a_stream"


def test_a_whole_reply_is_read() -> None:
    body = json.dumps(
        {
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "Yes."}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 4, "completion_tokens": 2},
        }
    ).encode()
    seen = received(body[:9], body[9:], stream=False, kind=b"application/json", keep=True)
    assert (seen.outcome, seen.text, seen.completion_tokens, seen.first_at) == (Outcome.OK, "Yes.", 2, 0)


@pytest.mark.parametrize(("body", "reason"), [(b"{", "bad_body"), (b"{}", "no_choices"), (b"[]", "bad_body")])
def test_a_whole_reply_that_is_none_is_an_error(body: bytes, reason: str) -> None:
    assert received(body, stream=False, kind=b"application/json").reason == reason


@pytest.mark.parametrize(
    ("status", "headers", "body", "outcome", "reason"),
    [
        (429, [(b"x-headgate-reason", b"queue_full")], {"error": {"code": "other"}}, Outcome.REFUSED, "queue_full"),
        (503, [], {"error": {"code": "queue_timeout", "type": "x"}}, Outcome.REFUSED, "queue_timeout"),
        (429, [], {"error": {"code": None, "type": "rate_limit_error"}}, Outcome.REFUSED, "rate_limit_error"),
        (400, [], {"object": "error", "code": 400, "type": "BadRequestError"}, Outcome.ERROR, "BadRequestError"),
        (500, [], "nothing of the kind", Outcome.ERROR, "no_reason"),
        (429, [(b"x-headgate-reason", b"<b>a page</b>")], {"detail": "x"}, Outcome.REFUSED, "no_reason"),
    ],
)
def test_only_429_and_503_are_refusals(
    status: int, headers: list[tuple[bytes, bytes]], body: object, outcome: Outcome, reason: str
) -> None:
    seen = received(json.dumps(body).encode(), status=status, headers=headers, kind=b"application/json")
    assert (seen.outcome, seen.reason, seen.status) == (outcome, reason, status)


def test_what_the_gateway_says_of_itself_is_kept() -> None:
    seen = received(*WHOLE, headers=[(b"x-headgate-queue-ms", b"12.5"), (b"x-headgate-engine", b"e0")])
    assert (seen.queue_ms, seen.engine) == (12.5, "e0")


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([(b"retry-after", b"3")], 3.0),
        ([(b"retry-after", b"3"), (b"retry-after-ms", b"2250")], 2.25),
        ([(b"retry-after", b"Thu, 01 Jan 1970 00:00:00 GMT")], 0.0),
        ([(b"retry-after", b"soon")], None),
        ([(b"retry-after", b"-3")], None),
        ([(b"retry-after", b"nan")], None),
        ([], None),
    ],
)
def test_retry_after_is_read_as_clients_read_it(headers: list[tuple[bytes, bytes]], seconds: float | None) -> None:
    assert retry_after_s(headers) == seconds


def test_an_endless_body_is_not_kept() -> None:
    seen = received(*[b"x" * 2**20] * 20, stream=False, kind=b"application/json")
    assert seen.reason == "too_large"
