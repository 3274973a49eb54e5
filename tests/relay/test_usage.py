"""What events and whole replies say of tokens; and what of it others get to see."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.relay.usage import (
    USAGE_BYTES,
    Finder,
    Pieces,
    Usage,
    error_status,
    has_no_choices,
    read,
    with_headgate,
    without_usage,
)

ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["usage", "choices", "error", "code", "response", "message", "prompt_tokens", "x"]), inner
        )
    ),
    max_leaves=8,
)


def encoded(value: object) -> bytes:
    return json.dumps(value).encode()


@pytest.mark.parametrize(
    ("told", "prompt", "completion"),
    [
        ({"usage": {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}}, 3, 5),
        ({"usage": {"input_tokens": 3, "output_tokens": 5}}, 3, 5),
        ({"response": {"usage": {"input_tokens": 3, "output_tokens": 5}}}, 3, 5),
        ({"usage": {"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": 1}}}, 3, 0),
        ({"type": "message_delta", "usage": {"output_tokens": 5}}, 0, 5),
        ({"usage": {"input_tokens": 3, "cache_read_input_tokens": 40, "output_tokens": 5}}, 43, 5),
        ({"usage": {"input_tokens": 3, "cache_read_input_tokens": None, "output_tokens": 5}}, 3, 5),
        ({"usage": {"input_tokens": 3, "cache_creation_input_tokens": 2, "cache_read_input_tokens": 40}}, 45, 0),
        ({"usage": {"prompt_tokens": 43, "cache_read_input_tokens": 40, "completion_tokens": 5}}, 43, 5),
    ],
)
def test_usage_is_read_in_every_apis_words(told: object, prompt: int, completion: int) -> None:
    """What a cache had of a message's prompt is beside the rest of it there, and was not counted."""
    usage = Usage()
    assert read(encoded(told), usage)
    assert (usage.prompt_tokens, usage.completion_tokens) == (prompt, completion)


def test_beginning_of_a_message_tells_its_prompt_and_no_figure_of_its_answer() -> None:
    """`output_tokens: 0` was taken for the final word, and a cancelled message counted none."""
    usage = Usage()
    start: dict[str, Any] = {"type": "message_start", "message": {"usage": {"input_tokens": 9, "output_tokens": 0}}}
    assert not read(encoded(start), usage)
    assert usage.prompt_tokens == 9
    start["message"]["usage"]["cache_read_input_tokens"] = 40
    assert not read(encoded(start), usage)
    assert usage.prompt_tokens == 49


@pytest.mark.parametrize(
    "told", [{}, {"usage": None}, {"usage": {}}, {"usage": {"type": "duration", "seconds": 3}}, []]
)
def test_where_nothing_is_said_nothing_is_read(told: object) -> None:
    usage = Usage(prompt_tokens=1, completion_tokens=2)
    assert not read(encoded(told), usage)
    assert usage == Usage(prompt_tokens=1, completion_tokens=2)


@given(value=ANYTHING, raw=st.binary(max_size=30))
def test_no_event_of_any_kind_raises(value: Any, raw: bytes) -> None:
    """An exception here would be one in the socket's callback."""
    for data in (encoded(value), raw, b"[" * 5000):
        read(data, Usage())
        Finder(Usage()).feed(b'..."usage":' + data)
        has_no_choices(data)
        status = error_status(data)
        assert status is None or 400 <= status <= 599
        assert without_usage(b"data: " + data + b"\n\n").endswith(b"\n\n")
        with_headgate(data, {"a": 1})


def found(*parts: bytes) -> Usage | None:
    """What is found in a long reply that comes in these parts."""
    finder = Finder(usage := Usage())
    for part in parts:
        finder.feed(part)
    return usage if finder.told else None


@pytest.mark.parametrize("details", [None, {"cached_tokens": 1, "deep": {"er": [1, {"2": 3}]}}])
@pytest.mark.parametrize("behind", ["", "x" * 2 * USAGE_BYTES], ids=["nothing", "much"])
def test_usage_of_a_long_reply_is_read_whatever_is_inside_and_behind_and_wherever_it_is_cut(
    details: object, behind: str
) -> None:
    """Its details hid it: it was read up to the first closing brace. And so did what vLLM writes behind it."""
    usage = {"prompt_tokens": 3, "prompt_tokens_details": details, "completion_tokens": 5}
    reply = encoded({"choices": ["x" * 9000], "usage": usage, "prompt_logprobs": behind, "headgate": {}})
    at = reply.index(b'"usage"')
    for cut in range(at - 2, at + len(encoded(usage)) + 12):
        assert found(reply[:cut], reply[cut:]) == Usage(3, 5)
    assert found(*(reply[i : i + 1] for i in range(len(reply)))) == Usage(3, 5)


def test_the_last_usage_that_has_figures_counts() -> None:
    schema = b'"tools":[{"usage":{"type":"string"}}]'
    assert found(b'{"usage":{"input_tokens":3},', schema + b"}") == Usage(3, 0)
    assert found(b'{"usage":{"input_tokens":3},', b'"x":' + b" " * 9000, b'"usage":{"input_tokens":4}}') == Usage(4, 0)


def test_usage_is_found_beside_tokens_that_are_called_so() -> None:
    """Of each part only the last "usage" was looked at, and log-probabilities are full of words."""
    told = b'{"usage":{"prompt_tokens":3,"completion_tokens":5},'
    assert found(told + b'"prompt_logprobs":[{"7":{"logprob":-1.5,"decoded_token":"usage"}}]}') == Usage(3, 5)
    assert found(told + b'"x":[{"usage":-1.5}]}') == Usage(3, 5)


def test_usage_that_is_cut_is_no_figure() -> None:
    assert found(b'"usage": {"prompt_tokens": 3, "comp') is None
    assert found(b"no word of it") is None
    assert found(b'"usage": null}') is None
    assert found(b'"usage": {"x": "' + b"x" * USAGE_BYTES, b'", "prompt_tokens": 3}}') is None


@given(value=st.dictionaries(st.text(max_size=5), ANYTHING, max_size=4))
def test_headgate_key_is_added_and_the_rest_is_as_it_was(value: dict[str, Any]) -> None:
    value.pop("headgate", None)
    body = json.dumps(value, allow_nan=False, default=str).encode() if _finite(value) else b"{}"
    told = with_headgate(body, {"latency_ms": 1.5})
    if body in (b"{}", b"null"):
        assert told == body
    else:
        assert json.loads(told) == {**json.loads(body), "headgate": {"latency_ms": 1.5}}


def _finite(value: object) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("body", [b"", b"{}", b"{ }", b"{\n\t}", b"[]", b"null", b'"text"', b"{", b"}"])
def test_what_has_no_room_for_a_key_comes_back_as_it_was(body: bytes) -> None:
    """`{ }` became `{ ,"headgate":…}`."""
    assert with_headgate(body, {"a": 1}) == body


def test_usage_is_taken_out_and_nothing_else_is_touched() -> None:
    event = b'data: {"id":1e2,"choices":[{"delta":{"content":"\\u00e4"}}],"usage":{"x":1}}\n\n'
    assert without_usage(event) == b'data: {"id":1e2,"choices":[{"delta":{"content":"\\u00e4"}}]}\n\n'


@pytest.mark.parametrize("event", [b'data: { "a": "usage" }\n\n', b"data: {broken usage\n\n", b"data: [1]\n\n"])
def test_event_with_no_usage_of_its_own_keeps_its_bytes(event: bytes) -> None:
    """One that was no JSON raised in the socket's callback."""
    assert without_usage(event) is event


@pytest.mark.parametrize(
    ("told", "status"),
    [
        ({"error": {"message": "no", "code": 404}}, 404),
        ({"error": {"message": "no", "code": 503}}, 503),
        ({"error": {"message": "no", "code": 200}}, 500),
        ({"error": {"message": "no", "code": "context_length"}}, 500),
        ({"error": {"message": "no"}}, 500),
        ({"error": "no"}, 500),
        ({"error": None, "choices": []}, None),
        ({"choices": []}, None),
        (["error"], None),
    ],
)
def test_status_of_an_error_event(told: object, status: int | None) -> None:
    assert error_status(encoded(told)) == status


@pytest.mark.parametrize(
    ("events", "tokens"),
    [(0, 0), (1, 1), (2, 2), (3, 6), (5, 14), (9, 20), (30, 30)],
)
def test_tokens_are_told_by_events_as_they_were_asked_for(events: int, tokens: int) -> None:
    """A role, a first token, then four at a time, and no more than there may be; but as many as there are events."""
    assert Pieces(per_event=4, alone=2, most=20).tokens(events) == tokens


def test_tokens_of_several_sequences_begin_one_by_one() -> None:
    assert Pieces(per_event=8, alone=6, most=None).tokens(6) == 6
    assert Pieces(per_event=8, alone=6, most=None).tokens(8) == 22
