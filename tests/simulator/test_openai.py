"""Chat and completions over a socket, as vLLM answers them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import openai
import pytest

from headgate.simulator import text

if TYPE_CHECKING:
    import httpx

    from tests.simulated import Engine


def ask(words: str = "how deep is the river", **more: Any) -> dict[str, Any]:
    """A chat request's body."""
    return {"messages": [{"role": "user", "content": words}], **more}


def events(raw: str) -> list[str]:
    """The data of a stream's events; anything that is not such an event is an error."""
    blocks = raw.split("\n\n")
    assert blocks.pop() == "", "the stream ends with an empty line"
    assert all(block.startswith("data: ") and "\n" not in block for block in blocks)
    return [block.removeprefix("data: ") for block in blocks]


def test_a_whole_chat_has_exactly_the_tokens_asked_for(client: httpx.Client) -> None:
    reply = client.post("/v1/chat/completions", json=ask(max_tokens=23)).json()
    (choice,) = reply["choices"]
    assert reply["object"] == "chat.completion"
    assert choice["finish_reason"] == "length"
    assert choice["message"]["role"] == "assistant"
    assert text.token_count(choice["message"]["content"].encode()) == 23
    usage = reply["usage"]
    assert usage["completion_tokens"] == 23
    assert usage["total_tokens"] == usage["prompt_tokens"] + 23


def test_a_stream_says_what_the_whole_reply_says(client: httpx.Client) -> None:
    whole = client.post("/v1/chat/completions", json=ask(max_completion_tokens=9)).json()
    reply = client.post("/v1/chat/completions", json=ask(max_completion_tokens=9, stream=True))
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    *chunks, done = events(reply.text)
    assert done == "[DONE]"
    parsed = [json.loads(chunk) for chunk in chunks]
    assert len({chunk["id"] for chunk in parsed}) == 1
    assert all(chunk["object"] == "chat.completion.chunk" and "usage" not in chunk for chunk in parsed)
    deltas = [chunk["choices"][0]["delta"] for chunk in parsed]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert all("role" not in delta for delta in deltas[1:])
    assert "".join(delta["content"] for delta in deltas) == whole["choices"][0]["message"]["content"]
    assert [chunk["choices"][0]["finish_reason"] for chunk in parsed][-2:] == [None, "length"]


def test_usage_is_streamed_only_where_asked_for_and_with_no_choices(client: httpx.Client) -> None:
    body = ask(max_tokens=4, stream=True, stream_options={"include_usage": True})
    *chunks, _ = events(client.post("/v1/chat/completions", json=body).text)
    *deltas, last = [json.loads(chunk) for chunk in chunks]
    assert all("usage" not in delta for delta in deltas)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 4


@pytest.mark.parametrize("n", [1, 2])
def test_so_many_tokens_come_at_a_time_but_for_the_first_and_the_last(client: httpx.Client, n: int) -> None:
    body = ask(max_tokens=12, stream=True, stream_options={"include_usage": True}, n=n)
    single = events(client.post("/v1/chat/completions", json=body).text)
    fours = events(client.post("/v1/chat/completions", json={**body, "stream_interval": 4}).text)

    def texts(chunks: list[str], index: int) -> list[str]:
        choices = [choice for chunk in chunks[:-1] for choice in json.loads(chunk)["choices"]]
        return [choice["delta"]["content"] for choice in choices if choice["index"] == index]

    for index in range(n):
        role, *told = texts(fours, index)
        pieces = texts(single, index)[1:]
        assert role == ""
        assert "".join(told) == "".join(pieces)
        assert len(told) == 4
        assert told[0] == pieces[0]
    assert json.loads(fours[-2])["usage"]["completion_tokens"] == 12 * n
    refused = client.post("/v1/chat/completions", json={**body, "stream_interval": 0})
    assert refused.status_code == 400


def test_continuous_usage_counts_up_in_every_chunk(client: httpx.Client) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    body = ask(max_tokens=4, stream=True, stream_options=options)
    *chunks, _ = events(client.post("/v1/chat/completions", json=body).text)
    counts = [json.loads(chunk)["usage"]["completion_tokens"] for chunk in chunks]
    assert counts[0] == 0
    assert counts == sorted(counts)
    assert counts[-1] == 4


def test_nothing_said_gives_128_tokens_as_far_as_the_model_reaches(client: httpx.Client) -> None:
    assert client.post("/v1/chat/completions", json=ask()).json()["usage"]["completion_tokens"] == 128
    near_the_end = {"prompt": "x" * 4 * 4000}
    assert client.post("/v1/completions", json=near_the_end).json()["usage"]["completion_tokens"] == 96


def test_a_stop_string_ends_the_text_before_it(client: httpx.Client) -> None:
    whole = client.post("/v1/completions", json={"prompt": "stop", "max_tokens": 40}).json()
    full = whole["choices"][0]["text"]
    stop = full[30:37]
    body = {"prompt": "stop", "max_tokens": 40, "stop": [stop]}
    (choice,) = client.post("/v1/completions", json=body).json()["choices"]
    assert choice["text"] == full[: full.index(stop)]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", stop)
    streamed = events(client.post("/v1/completions", json=body | {"stream": True}).text)[:-1]
    assert "".join(json.loads(chunk)["choices"][0]["text"] for chunk in streamed) == choice["text"]


def test_a_simulated_length_ends_sooner_with_stop(client: httpx.Client) -> None:
    reply = client.post("/v1/chat/completions", json=ask(max_tokens=50, simulate={"tokens": 6})).json()
    assert reply["usage"]["completion_tokens"] == 6
    assert reply["choices"][0]["finish_reason"] == "stop"


def test_prompts_and_n_give_their_choices_in_order(client: httpx.Client) -> None:
    body = {"prompt": ["alpha", "beta"], "n": 2, "max_tokens": 5}
    reply = client.post("/v1/completions", json=body).json()
    assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2, 3]
    assert len({choice["text"] for choice in reply["choices"]}) == 4
    assert reply["usage"] == {
        "prompt_tokens": 2 + 1,
        "completion_tokens": 20,
        "total_tokens": 23,
        "prompt_tokens_details": None,
    }
    streamed: dict[int, str] = {}
    for chunk in events(client.post("/v1/completions", json=body | {"stream": True}).text)[:-1]:
        (choice,) = json.loads(chunk)["choices"]
        streamed[choice["index"]] = streamed.get(choice["index"], "") + choice["text"]
    assert streamed == {choice["index"]: choice["text"] for choice in reply["choices"]}


def test_token_ids_are_a_prompt_too(client: httpx.Client) -> None:
    ids = client.post("/tokenize", json={"prompt": "upstream of the weir"}).json()["tokens"]
    as_ids = client.post("/v1/completions", json={"prompt": ids, "max_tokens": 3}).json()
    as_text = client.post("/v1/completions", json={"prompt": "upstream of the weir", "max_tokens": 3}).json()
    assert as_ids["choices"] == as_text["choices"]
    two = client.post("/v1/completions", json={"prompt": [ids, ids], "max_tokens": 3}).json()
    assert len(two["choices"]) == 2


def test_the_request_id_becomes_the_engines(client: httpx.Client) -> None:
    headers = {"x-request-id": 'mine "quoted"'}
    chat = client.post("/v1/chat/completions", json=ask(max_tokens=1), headers=headers).json()
    assert chat["id"] == 'chatcmpl-mine "quoted"'
    streamed = client.post("/v1/completions", json={"prompt": "a", "stream": True}, headers=headers).text
    assert json.loads(events(streamed)[0])["id"] == 'cmpl-mine "quoted"'


def test_unknown_fields_are_taken(client: httpx.Client) -> None:
    body = ask(max_tokens=2, ignore_eos=True, min_tokens=2, temperature=0, top_k=3, unheard_of={"a": 1})
    assert client.post("/v1/chat/completions", json=body).status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "type_"),
    [
        (ask(stream_options={"include_usage": True}), 400, "Bad Request"),
        (ask(model="gpt-5"), 404, "NotFoundError"),
        (ask(max_tokens=5000), 400, "BadRequestError"),
        (ask("x" * 40_000, stream=True), 400, "BadRequestError"),
        (ask(max_tokens="many"), 400, "Bad Request"),
        (ask(max_tokens=0), 400, "Bad Request"),
        (ask(stream="yes"), 400, "Bad Request"),
        ({"messages": []}, 400, "Bad Request"),
        ({"messages": [{"content": "who?"}]}, 400, "Bad Request"),
        ({}, 400, "Bad Request"),
        ([], 400, "Bad Request"),
    ],
)
def test_a_wrong_request_is_refused_in_vllms_shape(client: httpx.Client, body: Any, status: int, type_: str) -> None:
    reply = client.post("/v1/chat/completions", json=body)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["type"]) == (status, status, type_)
    assert set(error) == {"message", "type", "param", "code"}


def test_what_is_no_json_is_refused(client: httpx.Client) -> None:
    json_type = {"content-type": "application/json"}
    assert client.post("/v1/completions", content=b"{", headers=json_type).status_code == 400
    assert client.post("/v1/completions", content=b"[" * 50_000, headers=json_type).status_code == 400
    assert client.post("/v1/completions", content=b"{}").status_code == 400


def test_several_names_are_served(client: httpx.Client) -> None:
    cards = client.get("/v1/models").json()
    assert cards["object"] == "list"
    assert [card["id"] for card in cards["data"]] == ["headgate-simulated", "second"]
    assert {card["owned_by"] for card in cards["data"]} == {"headgate-simulated"}
    assert {card["max_model_len"] for card in cards["data"]} == {4096}
    assert client.post("/v1/chat/completions", json=ask(model="second")).json()["model"] == "second"


def test_openais_own_client_reads_a_stream(engine: Engine) -> None:
    with openai.OpenAI(base_url=f"{engine.url}/v1", api_key="none", max_retries=0) as sdk:
        stream = sdk.chat.completions.create(
            model="headgate-simulated",
            messages=[{"role": "user", "content": "hello"}],
            max_tokens=12,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = list(stream)
    words = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text.token_count(words.encode()) == 12
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 12


def test_openais_own_client_reads_responses_and_embeddings(engine: Engine) -> None:
    with openai.OpenAI(base_url=f"{engine.url}/v1", api_key="none", max_retries=0) as sdk:
        whole = sdk.responses.create(model="second", input="hello", max_output_tokens=7)
        stream = sdk.responses.create(model="second", input="hello", max_output_tokens=7, stream=True)
        kinds = [event.type for event in stream]
        vectors = sdk.embeddings.create(model="second", input=["a", "b", "a"]).data
    assert whole.usage is not None
    assert whole.usage.output_tokens == 7
    assert text.token_count(whole.output_text.encode()) == 7
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
    assert kinds.count("response.output_text.delta") == 7
    assert vectors[0].embedding == vectors[2].embedding != vectors[1].embedding
