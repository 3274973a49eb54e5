"""What is read of requests: as little as is needed, strictly, and every mistake is told with its place."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate import openai, shapes
from headgate.errors import Reason, Refusal
from headgate.openai import DONE, Dialect, ask_for_interval, ask_for_usage, read_multipart, read_request, read_scored

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=10,
)
STREAMED = shapes.Asked("m", stream=True, has_stream_options=True)
FORM = 'multipart/form-data; boundary="edge"'


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "m", **fields}).encode()


def refused(raw: bytes, **more: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        read_request(raw, **more)
    assert caught.value.reason is Reason.INVALID_REQUEST
    assert "\n" not in caught.value.message
    return caught.value


class refusing:  # noqa: N801  reads as what it allows
    """Nothing else may be raised here than a refusal for an invalid request."""

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        return isinstance(error, Refusal) and error.reason is Reason.INVALID_REQUEST


@pytest.mark.parametrize(
    ("raw", "param", "message"),
    [
        (b"", None, "The body is empty"),
        (b"{", None, "The body is not JSON"),
        (b'{"model": "m"} x', None, "The body is not JSON"),
        (b'{"model": "m", "x": "\xff"}', None, "The body is not JSON"),
        (b'{"model": "\xff"}', None, "The body is not JSON"),
        (b"[]", None, "The body must be a JSON object"),
        (b"7", None, "The body must be a JSON object"),
        (b'{"model":"m","messages":' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}", None, "nested too deeply"),
        (b"{}", "model", "`model` is required"),
        (b'{"model": 7}', "model", "`model`"),
        (b'{"model": ""}', "model", "must not be empty"),
        (body(stream=1), "stream", "`stream`"),
        (body(stream_options={"include_usage": 1}), "stream_options", "`stream_options.include_usage`"),
        (body(n=0), "n", "`n`"),
        (body(n=1.5), "n", "`n`"),
        (body(max_tokens="x"), "max_tokens", "`max_tokens`"),
        (body(messages="x"), "messages", "must be an array"),
        (body(background=True), "background", "not offered"),
        (body(previous_response_id=7), "previous_response_id", "`previous_response_id`"),
    ],
)
def test_mistake_is_told_with_its_place(raw: bytes, param: str | None, message: str) -> None:
    error = refused(raw)
    assert error.param == param
    assert message in error.message


@pytest.mark.parametrize("value", [None, ...])
def test_required_field_that_is_missing_or_null_is_told(value: Any) -> None:
    raw = body() if value is ... else body(prompt=None)
    error = refused(raw, required=("prompt",))
    assert (error.param, error.message) == ("prompt", "`prompt` is required.")


def test_prompt_may_come_as_embeddings_alone() -> None:
    """It was refused, though vLLM takes it."""
    assert read_request(body(prompt_embeds="one"), required=("prompt",)).sequences == 1
    assert refused(body(prompt_embeds=None), required=("prompt",)).param == "prompt"


@pytest.mark.parametrize(
    ("dialect", "told", "aborted"),
    [
        (Dialect.OPENAI, {"choices": [{"finish_reason": "abort"}]}, True),
        (Dialect.OPENAI, {"choices": [{"text": '"finish_reason":"abort"', "finish_reason": "stop"}]}, False),
        (Dialect.RESPONSES, {"object": "response", "status": "cancelled"}, True),
        (Dialect.RESPONSES, {"type": "response.completed", "response": {"status": "cancelled"}}, True),
        (Dialect.RESPONSES, {"status": "completed", "metadata": {"status": "cancelled"}}, False),
        (Dialect.RESPONSES, {"status": "completed", "metadata": {"finish_reason": "abort"}}, False),
        (Dialect.RESPONSES, {"response": {"status": "completed", "metadata": {"status": "cancelled"}}}, False),
        (Dialect.RESPONSES, {"status": None}, False),
        (Dialect.ANTHROPIC, {"type": "message", "content": []}, True),
        (Dialect.ANTHROPIC, {"type": "message", "stop_reason": None}, True),
        (Dialect.ANTHROPIC, {"type": "message", "stop_reason": "end_turn"}, False),
        (Dialect.ANTHROPIC, {"type": "message_delta", "delta": {"stop_reason": None}}, True),
        (Dialect.ANTHROPIC, {"type": "message_delta", "delta": {"stop_reason": "max_tokens"}}, False),
        (Dialect.ANTHROPIC, {"input_tokens": 7}, False),
        (Dialect.ANTHROPIC, [], False),
    ],
)
def test_engine_that_gave_an_answer_up_says_so_in_each_api_by_another_word(
    dialect: Dialect, told: object, aborted: bool
) -> None:
    """What a caller sent and gets back with the answer passed for the engine's word."""
    assert openai.was_aborted(json.dumps(told, separators=(",", ":")).encode(), dialect) is aborted
    assert openai.was_aborted(json.dumps(told).encode(), dialect) is aborted


@given(raw=st.one_of(st.binary(max_size=60), JSON.map(lambda value: json.dumps(value).encode())))
def test_any_body_is_read_or_refused(raw: bytes) -> None:
    for read in (read_request, lambda raw: openai.generate_to_completion(raw, "m")):
        with refusing():
            read(raw)


@pytest.mark.parametrize(
    ("fields", "sequences"),
    [
        ({}, 1),
        ({"n": None}, 1),
        ({"n": 3}, 3),
        ({"prompt": "one"}, 1),
        ({"prompt": []}, 1),
        ({"prompt": ["one"]}, 1),
        ({"prompt": ["one", "two, [three]"]}, 2),
        ({"prompt": ["one", "two"], "n": 3}, 6),
        ({"prompt": [1, 2, 3]}, 1),
        ({"prompt": [[1, 2], [3]]}, 2),
        ({"input": ["one", "two"]}, 2),
        ({"input": [{"role": "user", "content": "one"}]}, 1),
        ({"messages": [{"role": "user", "content": "one"}]}, 1),
        ({"messages": [[{"role": "user", "content": "one"}], [{"role": "user", "content": "two"}]]}, 2),
        ({"prompt_embeds": "one"}, 1),
        ({"prompt_embeds": ["one", "two"], "n": 2}, 4),
        ({"prompt_embeds": ["one", "two"], "prompt": ["three", "four"]}, 4),
    ],
)
def test_sequences_are_choices_times_prompts(fields: dict[str, Any], sequences: int) -> None:
    """Conversations in `messages` and prompts in `prompt_embeds` took one slot, however many they were."""
    assert read_request(body(**fields)).sequences == sequences


@pytest.mark.parametrize(
    ("fields", "sequences"),
    [
        ({"query": "q", "documents": ["one", "two", "three"]}, 3),
        ({"query": "q", "documents": [{"content": [{"type": "text", "text": "one"}]}, "two"]}, 2),
        ({"query": "q", "documents": {"content": [{"type": "text", "text": "one"}, {"type": "text"}]}}, 1),
        ({"query": "q", "documents": []}, 1),
        ({"query": "q"}, 1),
        ({"text_1": "q", "text_2": "one"}, 1),
        ({"text_1": "q", "text_2": ["one", "two"]}, 2),
        ({"text_1": ["q", "r"], "text_2": ["one", "two"]}, 2),
        ({"data_1": "q", "data_2": ["one", "two"]}, 2),
        ({"queries": "q", "documents": ["one", "two"]}, 2),
        ({"queries": ["q", "r"], "items": ["one", "two"]}, 2),
        ({"text_1": "q", "text_2": "one", "items": ["one", "two"]}, 2),
    ],
)
def test_each_pair_that_is_scored_is_a_sequence(fields: dict[str, Any], sequences: int) -> None:
    """A request for a thousand of them took one slot."""
    assert read_scored(body(**fields)).sequences == sequences


def test_too_many_texts_to_be_scored_are_refused() -> None:
    most = shapes.SEQUENCES_MOST
    assert read_scored(body(documents=["a, b"] * most)).sequences == most
    with pytest.raises(Refusal, match="16384"):
        read_scored(body(documents=["a"] * (most + 1)))


def test_documents_that_a_chat_is_about_are_no_sequences() -> None:
    assert read_request(body(messages=[], documents=[{"text": "one"}, {"text": "two"}])).sequences == 1


def test_null_is_as_good_as_nothing() -> None:
    asked = read_request(body(stream=None, n=None, stream_options=None, max_tokens=None, background=None))
    assert asked == read_request(body())


@given(
    fields=st.dictionaries(st.text(max_size=6).filter(lambda name: name != "model"), JSON, max_size=4),
    options=st.sampled_from([..., None, {}, {"include_usage": False}, {"include_usage": None, "other": [1]}]),
    tail=st.sampled_from([b"", b" ", b"\r\n\t"]),
)
def test_usage_is_asked_for_and_nothing_else_is_changed(fields: dict[str, Any], options: Any, tail: bytes) -> None:
    whole = {**fields, "stream": True, "model": "m"} | ({} if options is ... else {"stream_options": options})
    raw = json.dumps(whole).encode() + tail
    try:
        asked = read_request(raw)
    except Refusal:
        return
    told = json.loads(ask_for_usage(raw, asked))
    assert told.pop("stream_options") == {**(options if isinstance(options, dict) else {}), "include_usage": True}
    whole.pop("stream_options", None)
    assert told == whole
    assert read_request(ask_for_usage(raw, asked)).include_usage


@given(
    fields=st.dictionaries(st.text(max_size=6).filter(lambda name: name != "model"), JSON, max_size=4),
    said=st.sampled_from([..., None]),
    tokens=st.integers(2, 64),
    tail=st.sampled_from([b"", b" ", b"\r\n\t"]),
)
def test_larger_events_are_asked_for_and_nothing_else_is_changed(
    fields: dict[str, Any], said: Any, tokens: int, tail: bytes
) -> None:
    whole = {**fields, "model": "m"} | ({} if said is ... else {"stream_interval": said})
    raw = json.dumps(whole).encode() + tail
    try:
        asked = read_request(raw)
    except Refusal:
        return
    assert asked.interval is None
    assert json.loads(ask_for_interval(raw, tokens)) == whole | {"stream_interval": tokens}
    assert read_request(ask_for_interval(raw, tokens)).interval == tokens


@pytest.mark.parametrize(
    ("said", "read"), [(4, 4), (None, None), (0, 0), (-3, 1), (2.5, 1), ("8", 1), (True, 1), ([8], 1), (10**30, 1)]
)
def test_a_callers_own_interval_is_read_as_far_as_it_can_be(said: Any, read: int | None) -> None:
    assert read_request(body(stream_interval=said)).interval == read


@pytest.mark.parametrize(
    ("fields", "has"),
    [
        ({}, False),
        ({"tools": None}, False),
        ({"functions": None}, False),
        ({"tools": [{"type": "function"}]}, True),
        ({"functions": [{"name": "f"}]}, True),
    ],
)
def test_tools_are_seen(fields: dict[str, Any], *, has: bool) -> None:
    assert read_request(body(**fields)).has_tools is has


NAMES = st.sampled_from(["stream_options", "include_usage", "model", 'a"stream_options', "\\"])
ALIKE: st.SearchStrategy[Any] = st.recursive(
    st.none() | NAMES | st.just('{"stream_options":1,"include_usage":2}'),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


@given(
    before=st.dictionaries(NAMES, ALIKE),
    after=ALIKE,
    options=st.dictionaries(NAMES, ALIKE),
    indent=st.none() | st.just(1),
)
def test_usage_is_asked_for_in_the_object_itself_whatever_else_is_called_so(
    before: dict[str, Any], after: Any, options: dict[str, Any], indent: int | None
) -> None:
    options["include_usage"] = None
    whole = {**before, "model": "m", "stream_options": options, "after": after}
    raw = json.dumps(whole, indent=indent).encode()
    told = ask_for_usage(raw, read_request(raw))
    assert json.loads(told) == whole | {"stream_options": options | {"include_usage": True}}


def test_usage_is_asked_for_without_the_key_standing_there_twice() -> None:
    raw = b'{ "stream_options" : {} , "model":"m", "tools":[{"stream_options":1}]}'
    told = ask_for_usage(raw, read_request(raw))
    assert told == b'{ "stream_options" : {"include_usage":true} , "model":"m", "tools":[{"stream_options":1}]}'


def test_usage_is_asked_for_though_the_key_stands_there_twice_the_second_time_with_escapes() -> None:
    """The last one counts, and its length is not that of the one that is found."""
    raw = b'{"stream_options":{"a":1},"stream\\u005foptions":{"include_usage":false,"x":[1,2,3]},"model":"m"}'
    told = json.loads(ask_for_usage(raw, read_request(raw)))
    assert told["stream_options"] == {"include_usage": True, "x": [1, 2, 3]}
    raw = b'{"stream_options":{},"stream\\u005foptions":{},"model":"m"}'
    assert json.loads(ask_for_usage(raw, read_request(raw)))["stream_options"] == {"include_usage": True}


MANY = 300_000
FIELDS = b",".join(b'"%x":1' % number for number in range(MANY))
TOO_MANY = (
    b'"",' * MANY + b'""',
    b"[1]," * MANY + b"[1]",
    b'"",' + b"1," * MANY + b"1",
    b'[],"",' + b"{}," * MANY + b"{}",
)


def _peak_bytes(act: Callable[[], object]) -> int:
    """The most memory that Python's objects took meanwhile."""
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("listed", TOO_MANY)
def test_too_many_prompts_are_refused_before_all_of_them_are_made(listed: bytes) -> None:
    """31 MiB of them took 1.6 s, in which nobody was served, and 800 MiB."""
    raw = b'{"model":"m","prompt":[' + listed + b"]}"
    assert _peak_bytes(lambda: refused(raw)) < 3 * len(raw) + 4_000_000


def test_as_many_prompts_as_vllm_takes_choices_are_taken_and_no_more() -> None:
    most = shapes.SEQUENCES_MOST
    assert read_request(body(prompt=[""] * most)).sequences == most
    assert read_request(body(input=["a, b"] * most)).sequences == most
    assert read_request(body(prompt=["a," * 50_000, '",' * 50_000])).sequences == 2
    assert read_request(body(prompt=[[1] * 50_000])).sequences == 1
    assert "16384" in refused(body(prompt=[""] * (most + 1))).message


@pytest.mark.parametrize(
    "act",
    [
        lambda: ask_for_usage(b'{"model":"m","stream_options":{},%b}' % FIELDS, STREAMED),
        lambda: ask_for_usage(b'{"model":"m","stream_options":{%b}}' % FIELDS, STREAMED),
        lambda: openai.generate_to_completion(b'{"prompt":"x",%b}' % FIELDS, "m"),
    ],
)
def test_millions_of_fields_are_not_made_to_set_one(act: Callable[[], object]) -> None:
    """29 MiB of them took 2 s, in which nobody was served, and 600 MiB."""
    assert _peak_bytes(act) < 6 * len(FIELDS)


def test_generate_is_a_completion() -> None:
    raw, asked = openai.generate_to_completion(b'{"prompt": "Hello", "top_k": 3, "n": 2}', "m")
    assert json.loads(raw) == {"prompt": "Hello", "top_k": 3, "n": 2, "model": "m"}
    assert (asked.model, asked.stream, asked.sequences) == ("m", False, 2)
    raw, asked = openai.generate_to_completion(b'{"prompt": "Hello", "model": "mine"}', "m")
    assert asked.model == "mine"
    raw, asked = openai.generate_to_completion(b'{"model": null, "prompt": "Hello"}', "m")
    assert raw == b'{"model": "m", "prompt": "Hello"}'


@pytest.mark.parametrize(
    ("raw", "default", "param"),
    [
        (b"{}", "m", "prompt"),
        (b'{"prompt": ["Hello"]}', "m", "prompt"),
        (b'{"prompt": "Hello", "stream": true}', "m", "stream"),
        (b'{"prompt": "Hello", "n": 0}', "m", "n"),
        (b'{"prompt": "Hello"}', None, "model"),
        (b'{"prompt": "Hello", "model": 7}', "m", "model"),
        (b'{"prompt": "\xff"}', "m", None),
        (b"[" * 100_000, "m", None),
    ],
)
def test_generate_is_refused_with_the_place(raw: bytes, default: str | None, param: str | None) -> None:
    with pytest.raises(Refusal) as caught:
        openai.generate_to_completion(raw, default)
    assert caught.value.param == param


def test_completion_becomes_the_flat_answer_of_generate() -> None:
    completion = {"model": "m", "choices": [{"text": "one", "finish_reason": "stop"}, {"text": "two"}]}
    told = openai.completion_to_generate(json.dumps(completion).encode(), {"latency_ms": 2.0})
    assert json.loads(told) == {"text": "one", "model": "m", "finish_reason": "stop", "latency_ms": 2.0}
    assert json.loads(openai.completion_to_generate(b"{}", {}))["text"] == ""
    with pytest.raises(msgspec.MsgspecError):
        openai.completion_to_generate(b"[]", {})


# Multipart.


def part(name: str, value: bytes, more: str = "") -> bytes:
    return f'--edge\r\ncontent-disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + value + b"\r\n"


END = b"--edge--\r\n"
FILE = part("file", bytes(range(256)) * 100, '; filename="a.wav"\r\ncontent-type: audio/wav')


@pytest.mark.parametrize(
    ("raw", "model", "stream"),
    [
        (part("model", b"m") + FILE + END, "m", False),
        (FILE + part("stream", b"true") + part("model", b"m") + END, "m", True),
        (b"preamble\r\n" + part("model", b"m") + END, "m", False),
        (part("model", b"m") + END + b'epilogue; name="model"\r\n\r\nother', "m", False),
        (part("model", b"--edg") + END, "--edg", False),
        (part("file", b'x\r\n--other\r\n; name="model"\r\n\r\nno\r\n') + part("model", b"m") + END, "m", False),
    ],
)
def test_form_is_read_for_its_model_and_stream(raw: bytes, model: str, stream: bool) -> None:
    asked = read_multipart(raw, FORM)
    assert (asked.model, asked.stream, asked.sequences) == (model, stream, 1)


@pytest.mark.parametrize(
    ("raw", "kind", "param"),
    [
        (b"", FORM, "model"),
        (END, FORM, "model"),
        (FILE + END, FORM, "model"),
        (part("model", b"") + END, FORM, "model"),
        (part("model", b"m" * 1025) + END, FORM, "model"),
        (part("model", b"m") + END, "multipart/form-data", None),
        (part("model", b"m") + END, 'multipart/form-data; boundary=""', None),
        (b"--edge\r\n" + b"x" * 9000 + b"\r\n\r\n" + part("model", b"m"), FORM, "model"),
    ],
)
def test_form_that_cannot_be_read_is_refused(raw: bytes, kind: str, param: str | None) -> None:
    with pytest.raises(Refusal) as caught:
        read_multipart(raw, kind)
    assert (caught.value.reason, caught.value.param) == (Reason.INVALID_REQUEST, param)


@pytest.mark.parametrize("kind", ["multipart/form-data; BOUNDARY=edge", "multipart/form-data;boundary=edge; charset=x"])
def test_boundary_is_found_however_it_is_written(kind: str) -> None:
    assert read_multipart(part("model", b"m") + END, kind).model == "m"


def test_body_of_very_many_parts_is_refused_and_not_read() -> None:
    """Each part cost a search: 32 MiB of them kept everybody waiting for many seconds."""
    with pytest.raises(Refusal, match="more than 64 parts"):
        read_multipart(
            b"--e\r\ncontent-disposition: form-data; name=x\r\n\r\n\r\n" * 100_000,
            "multipart/form-data; boundary=e",
        )


@given(raw=st.text(alphabet='-e\r\n;name="model ', max_size=200).map(str.encode))
def test_any_form_is_read_or_refused(raw: bytes) -> None:
    with refusing():
        read_multipart(raw, "multipart/form-data; boundary=e")


# Errors.


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_has_its_shape_in_every_dialect(reason: Reason) -> None:
    refusal = Refusal(reason, "No.", retry_after_s=1.23456, param="n")
    plain = json.loads(openai.error_body(refusal))
    assert set(plain) == {"error"}
    assert plain["error"] | {"type": ""} == {
        "message": "No.",
        "type": "",
        "param": "n",
        "code": reason.value,
        "retry_after_s": 1.235,
    }
    anthropic = json.loads(openai.error_body(refusal, Dialect.ANTHROPIC))
    assert (anthropic["type"], anthropic["error"]["code"]) == ("error", reason.value)
    assert openai.error_event(refusal, Dialect.OPENAI).endswith(b"\n\n" + DONE)
    for named in (Dialect.ANTHROPIC, Dialect.RESPONSES):
        event = openai.error_event(refusal, named)
        assert event.startswith(b"event: error\ndata: {")
        assert event.count(b"\n\n") == 1
        assert b"[DONE]" not in event


def test_long_name_is_shortened_and_a_short_one_is_not() -> None:
    assert openai.shortened("a" * 200) == "a" * 200
    assert len(openai.shortened("a" * 201)) == 201


def test_flat_error_becomes_the_shape_of_an_error_reply() -> None:
    flat = b'{"type":"error","code":"server_error","message":"no","param":null,"sequence_number":3}'
    assert json.loads(openai.unflattened(flat)) == {
        "error": {"type": "server_error", "message": "no", "param": None, "code": "server_error"}
    }
    for other in (b"[]", b"{}", b'{"error":{"message":"no"}}', b"no"):
        assert openai.unflattened(other) == other


@pytest.mark.parametrize(
    ("told", "message"),
    [(b'{"error":{"message":"no"}}', "no"), (b'{"error":"no"}', ""), (b"no", ""), (b"{}", ""), (b'{"error":{}}', "")],
)
def test_message_of_an_engines_error(told: bytes, message: str) -> None:
    assert openai.error_message(told) == message


@pytest.mark.parametrize(
    ("begins", "background"),
    [
        ("### Task:\nGenerate a concise title summarizing the chat history.", True),
        ("### Task:\nGenerate 1-3 broad tags categorizing the main themes", True),
        ("### Task:\nPredict 3-5 useful messages this user might naturally send next", True),
        ("### Task:\nSuggest 3-5 relevant follow-up questions", True),
        ("### Task:\nAnalyze the chat history to determine the necessity of generating search queries", False),
        ("### Task:\nRespond to the user query using the provided context", False),
        ("### Task:\nGenerate a detailed prompt for an image", False),
        ("Generate a concise title", False),
    ],
)
def test_only_what_nobody_waits_for_is_in_the_background(begins: str, background: bool) -> None:
    fields = {"model": "m", "messages": [{"role": "user", "content": begins}]}
    assert read_request(json.dumps(fields).encode()).in_background is background
    assert not read_request(json.dumps({**fields, "stream": True}).encode()).in_background


_PART = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nallowed\r\n'


@pytest.mark.parametrize(
    "second",
    [
        b'--b\r\ncontent-disposition: form-data; name="model"\r\n\r\nforbidden\r\n',
        b"--b\r\ncontent-disposition: form-data; name=model\r\n\r\nforbidden\r\n",
        b'--b\r\ncontent-disposition: form-data; name="mod\\el"\r\n\r\nforbidden\r\n',
        b"--b\r\ncontent-disposition: form-data; name*=utf-8''model\r\n\r\nforbidden\r\n",
        b'--b\r\ncontent-disposition: form-data; filename="x"; name="model"\r\n\r\nforbidden\r\n',
        b'--b\r\ncontent-disposition: form-data; name="x"\r\ncontent-disposition: form-data; name="model"\r\n\r\n',
        b'--b\r\ncontent-disposition : form-data; name="model"\r\n\r\nforbidden\r\n',
        b'--b \r\ncontent-disposition: form-data; name="model"\r\n\r\nforbidden\r\n',
    ],
)
def test_part_that_the_engine_might_read_as_another_model_is_refused(second: bytes) -> None:
    """The gateway took the first name that it understood, the engine the last: a key's models could be overstepped."""
    with pytest.raises(Refusal):
        openai.read_multipart(_PART + second + b"--b--\r\n", "multipart/form-data; boundary=b")
    with pytest.raises(Refusal):
        openai.read_multipart(_PART + b"--b--\r\n", "multipart/form-data; boundary=a; boundary=b")


def test_parts_named_as_other_clients_do_are_read() -> None:
    """.NET's client names its parts without quotes."""
    body = b"--b\r\nContent-Disposition: form-data; name=model\r\n\r\nm\r\n"
    body += b"--b\r\nContent-Disposition: form-data; name=file; filename=a.wav; filename*=utf-8''a.wav\r\n\r\n"
    body += b"RIFF\r\n--b--\r\n"
    assert openai.read_multipart(body, 'multipart/form-data; boundary="b"').model == "m"


PICTURE = "iVBORw0KGgo/+" * 20_000


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PICTURE}"}},
        {"type": "input_audio", "input_audio": {"data": PICTURE, "format": "wav"}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PICTURE}},
    ],
)
def test_a_picture_counts_as_a_thousand_tokens_however_long_it_is(part: dict[str, Any]) -> None:
    text = {"type": "text", "text": "What is this?"}
    raw = body(messages=[{"role": "user", "content": [text, part, part, text]}])
    assert len(raw) - read_request(raw).media_bytes < 2 * 4096 + 1000
    escaped = raw.replace(b"/", b"\\/")
    assert len(escaped) - read_request(escaped).media_bytes < 2 * 4096 + 1000


@pytest.mark.parametrize(
    "text",
    [
        f'<img src="data:image/png;base64,{PICTURE}">',
        f'{{"data": "{PICTURE}"}}',
        "data " * 10_000,
        '"data:" ' * 10_000,
        PICTURE,
    ],
)
def test_what_a_prompt_quotes_is_text_that_the_engine_reads(text: str) -> None:
    assert read_request(body(messages=[{"role": "user", "content": text}])).media_bytes == 0
    assert read_request(body(messages=[], source={"data": "two words " * 5000})).media_bytes == 0


def test_a_film_of_many_pictures_is_charged_by_the_picture() -> None:
    """Sixty-four were found, and the others taken for text."""
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PICTURE[:20_000]}"}}
    raw = body(messages=[{"role": "user", "content": [picture] * 200}])
    assert len(raw) - read_request(raw).media_bytes < 200 * (4096 + 120)


def test_a_sound_in_a_form_is_no_prompt() -> None:
    sound = part("model", b"m") + part("file", b"\0" * 10**6) + END
    assert len(sound) - read_multipart(sound, FORM).media_bytes == 4096
    assert read_multipart(part("model", b"m") + END, FORM).media_bytes == 0
