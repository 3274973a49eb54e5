"""Every path beside chat and completions."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from headgate.simulator import text
from tests.simulated import simulated_engine


def named(raw: str) -> list[tuple[str, dict[str, Any]]]:
    """The named events of a stream."""
    blocks = raw.split("\n\n")
    assert blocks.pop() == ""
    pairs = [block.split("\n") for block in blocks]
    found = [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in pairs]
    assert all(name == data["type"] for name, data in found)
    return found


def test_responses_stream_named_events_and_no_done(client: httpx.Client) -> None:
    body = {"input": "hello", "instructions": "be short", "max_output_tokens": 5}
    whole = client.post("/v1/responses", json=body).json()
    found = named(client.post("/v1/responses", json=body | {"stream": True}).text)
    assert [name for name, _ in found[:4]] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    deltas = [data["delta"] for name, data in found if name == "response.output_text.delta"]
    assert len(deltas) == 5
    assert "".join(deltas) == whole["output"][0]["content"][0]["text"]
    assert [data["sequence_number"] for _, data in found] == list(range(len(found)))
    last = found[-1][1]["response"]
    assert last["status"] == whole["status"] == "incomplete"
    assert last["usage"] == whole["usage"]
    assert last["usage"]["output_tokens"] == 5


def test_messages_speak_anthropics_shape(client: httpx.Client) -> None:
    body = {"messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}], "max_tokens": 5}
    whole = client.post("/v1/messages", json=body).json()
    assert whole["type"] == "message"
    assert whole["stop_reason"] == "max_tokens"
    assert whole["usage"]["output_tokens"] == 5
    found = named(client.post("/v1/messages", json=body | {"stream": True}).text)
    assert [name for name, _ in found] == [
        "message_start",
        "content_block_start",
        *["content_block_delta"] * 5,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert found[0][1]["message"]["usage"]["input_tokens"] == whole["usage"]["input_tokens"]
    assert found[-2][1]["usage"]["output_tokens"] == 5
    words = "".join(data["delta"]["text"] for name, data in found if name == "content_block_delta")
    assert words == whole["content"][0]["text"]
    counted = client.post("/v1/messages/count_tokens", json=body).json()
    assert counted == {"input_tokens": whole["usage"]["input_tokens"]}


def test_messages_are_refused_in_anthropics_shape(client: httpx.Client) -> None:
    reply = client.post("/v1/messages", json={"messages": [], "max_tokens": 1})
    assert reply.status_code == 400
    assert reply.json()["type"] == "error"
    assert set(reply.json()["error"]) == {"type", "message"}


def test_embeddings_are_the_same_for_the_same_text(client: httpx.Client) -> None:
    reply = client.post("/v1/embeddings", json={"input": ["one", "two", "one"], "dimensions": 8}).json()
    vectors = [item["embedding"] for item in reply["data"]]
    assert vectors[0] == vectors[2] != vectors[1]
    assert all(len(vector) == 8 and sum(x * x for x in vector) == pytest.approx(1) for vector in vectors)
    assert reply["usage"]["prompt_tokens"] == 3


def test_scores_and_ranks_put_the_same_text_first(client: httpx.Client) -> None:
    documents = ["a mill", "the weir", "a pond"]
    scores = client.post("/v1/score", json={"text_1": "the weir", "text_2": documents}).json()["data"]
    assert max(scores, key=lambda item: item["score"])["index"] == 1
    ranked = client.post("/v1/rerank", json={"query": "the weir", "documents": documents, "top_n": 2}).json()
    assert [len(ranked["results"]), ranked["results"][0]["index"]] == [2, 1]
    assert ranked["results"][0]["relevance_score"] == pytest.approx(1)


def test_texts_and_conversations_have_classes_and_what_a_pooler_says(client: httpx.Client) -> None:
    classes = client.post("/classify", json={"input": ["a mill", "the weir", "a mill"]}).json()["data"]
    assert classes[0] | {"index": 2} == classes[2]
    assert all(sum(each["probs"]) == pytest.approx(1) and len(each["probs"]) == each["num_classes"] for each in classes)
    conversation = [{"role": "user", "content": "the weir"}]
    pooled = client.post("/pooling", json={"messages": conversation}).json()
    assert [len(pooled["data"]), pooled["data"][0]["object"]] == [1, "pooling"]
    assert client.post("/pooling", json={"input": []}).status_code == 400


@pytest.mark.parametrize("kind", ["transcription", "translation"])
def test_speech_becomes_text_whole_and_streamed(client: httpx.Client, kind: str) -> None:
    files = {"file": ("a.wav", b"RIFF" + bytes(9000), "audio/wav")}
    form = {"model": "second", "max_completion_tokens": "6"}
    whole = client.post(f"/v1/audio/{kind}s", data=form, files=files).json()["text"]
    assert text.token_count(whole.encode()) == 6
    streamed = client.post(f"/v1/audio/{kind}s", data=form | {"stream": "true"}, files=files).text
    *chunks, done = [block.removeprefix("data: ") for block in streamed.split("\n\n")[:-1]]
    assert done == "[DONE]"
    parsed = [json.loads(chunk) for chunk in chunks]
    assert {chunk["object"] for chunk in parsed} == {f"{kind}.chunk"}
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in parsed) == whole


def test_tokenizing_and_back(client: httpx.Client) -> None:
    found = client.post("/tokenize", json={"prompt": "größer als zuvor"}).json()
    assert found["count"] == len(found["tokens"])
    assert found["max_model_len"] == 4096
    back = client.post("/detokenize", json={"tokens": found["tokens"]}).json()
    assert back == {"prompt": "größer als zuvor"}
    chat = [{"role": "user", "content": "hello"}]
    counted = client.post("/tokenize", json={"messages": chat}).json()["count"]
    asked = client.post("/v1/chat/completions", json={"messages": chat, "max_tokens": 1}).json()
    assert counted == asked["usage"]["prompt_tokens"]


def test_an_operator_is_answered(client: httpx.Client) -> None:
    assert client.get("/health").content == b""
    assert client.get("/ping").status_code == client.post("/ping").status_code == 200
    assert "simulated" in client.get("/version").json()["version"]
    assert client.get("/load").json() == {"server_load": 0}


def test_unknown_paths_and_methods_are_refused(client: httpx.Client) -> None:
    assert client.get("/v1/nothing").json()["error"]["code"] == 404
    assert client.get("/v1/chat/completions").status_code == 405
    assert client.post("/sleep").status_code == 404, "sleep mode is behind its flag"


def test_a_key_guards_v1_and_nothing_else() -> None:
    env = {"VLLM_API_KEY": "secret"}
    with simulated_engine(env=env) as guarded, httpx.Client(base_url=guarded.url) as client:
        refused = client.get("/v1/models")
        assert (refused.status_code, refused.json()) == (401, {"error": "Unauthorized"})
        assert client.get("/v1/models", headers={"authorization": "Bearer secret"}).status_code == 200
        assert client.post("/tokenize", json={"prompt": "a"}).status_code == 200
        assert client.get("/metrics").status_code == 200
