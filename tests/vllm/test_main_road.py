"""A real vLLM behind the gateway, used as people use it, from its cold start to an orderly end.

One gateway serves the whole file, since each start of vLLM costs about 40 s: the first test finds the engine still
loading, the last one ends the gateway. Those between leave nothing running.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING

import httpx
import openai
import pytest
from prometheus_client import parser

from tests.monitoring.boards import metrics, queries
from tests.vllm.processes import LOOKS_EVERY_S, environment, wait_freed, wait_in_loop, wait_until
from tests.vllm.running import CONTEXT, MODEL, READY_WITHIN_S, Gateway
from tests.vllm.talk import HELLO, TO_THE_END, Told, async_sdk, follow, sdk, start_streams

if TYPE_CHECKING:
    from tests.vllm.conftest import StartGateway

pytestmark = pytest.mark.vllm

MAX_ACTIVE = 4
QUEUE_MAX = 16
TOO_LONG = [{"role": "user", "content": "a word more " * CONTEXT}]


@pytest.fixture(scope="module")
def loading_gateway(start_gateway: StartGateway) -> Gateway:
    return start_gateway(max_active=MAX_ACTIVE, queue_max=QUEUE_MAX, queue_timeout_s=200, drain_timeout_s=120)


@pytest.fixture
def gateway(loading_gateway: Gateway) -> Gateway:
    loading_gateway.wait_ready()
    return loading_gateway


@pytest.fixture
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with closing(sdk(gateway)) as opened:
        yield opened


def counted(gateway: Gateway, kind: str) -> float:
    return gateway.metric("api_tokens_total", kind=kind, model=MODEL)


def wait_counted(gateway: Gateway, kind: str, tokens: float) -> None:
    """Until the gateway has counted so many; the request's end may be booked just after the client has seen it."""
    wait_until(lambda: counted(gateway, kind) >= tokens, f"{tokens} {kind} tokens are counted", 5)
    assert counted(gateway, kind) == tokens


def test_request_sent_while_the_engine_loads_is_held_and_answered(loading_gateway: Gateway) -> None:
    assert not loading_gateway.is_ready(), "the engine cannot be ready yet"
    body = {"model": MODEL, "messages": HELLO, "max_tokens": 4, **TO_THE_END}
    answer = loading_gateway.http.post("/v1/chat/completions", json=body, timeout=READY_WITHIN_S)
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["completion_tokens"] == 4
    assert float(answer.headers["x-headgate-queue-ms"]) > 1000
    assert loading_gateway.is_ready()


def test_sdk_lists_the_model(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert model.id == MODEL
    assert (model.model_extra or {})["max_model_len"] == CONTEXT


def test_streamed_and_whole_chats_have_the_same_usage_and_both_are_counted(
    gateway: Gateway, client: openai.OpenAI
) -> None:
    before = {kind: counted(gateway, kind) for kind in ("prompt", "completion")}
    whole = client.chat.completions.create(
        model=MODEL, messages=HELLO, max_tokens=24, temperature=0, extra_body=TO_THE_END
    )
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 24
    assert whole.usage.prompt_tokens > 0
    assert whole.choices[0].finish_reason == "length"
    assert whole.choices[0].message.content
    with client.chat.completions.create(
        model=MODEL,
        messages=HELLO,
        max_tokens=24,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
        extra_body=TO_THE_END,
    ) as stream:
        chunks = list(stream)
    *_, last = chunks
    assert [chunk.usage for chunk in chunks if chunk.usage] == [last.usage]
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == whole.usage.completion_tokens
    assert last.usage.prompt_tokens == whole.usage.prompt_tokens
    figures = (last.model_extra or {})["headgate"]
    assert figures["completion_tokens"] == 24
    assert figures["ttft_ms"] <= figures["latency_ms"]
    for kind, tokens in (("prompt", 2 * whole.usage.prompt_tokens), ("completion", 48)):
        wait_counted(gateway, kind, before[kind] + tokens)


def test_stream_that_asked_for_no_usage_gets_none_and_is_counted_exactly(
    gateway: Gateway, client: openai.OpenAI
) -> None:
    before = counted(gateway, "completion")
    with client.chat.completions.create(
        model=MODEL, messages=HELLO, max_tokens=31, stream=True, extra_body=TO_THE_END
    ) as stream:
        chunks = list(stream)
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "length"
    wait_counted(gateway, "completion", before + 31)


def test_stream_that_asked_for_no_usage_has_its_figures_in_a_comment(gateway: Gateway) -> None:
    body = {"model": MODEL, "messages": HELLO, "max_tokens": 5, "stream": True, **TO_THE_END}
    answer = gateway.http.post("/v1/chat/completions", json=body)
    *_, comment, done = [line for line in answer.text.splitlines() if line]
    assert done == "data: [DONE]"
    assert comment.startswith(": headgate ")
    assert json.loads(comment.removeprefix(": headgate "))["completion_tokens"] == 5
    assert answer.headers["x-headgate-engine"] == "e0"


@pytest.mark.parametrize(
    ("path", "asked"), [("/v1/chat/completions", {"messages": HELLO}), ("/v1/completions", {"prompt": "Once upon"})]
)
def test_vllm_puts_as_many_tokens_into_an_event_as_it_is_asked_for(
    gateway: Gateway, path: str, asked: dict[str, object]
) -> None:
    """What the gateway asks for where requests wait and vLLM's front is behind."""
    body = {"model": MODEL, "max_tokens": 24, "stream": True, "stream_interval": 8, **asked, **TO_THE_END}
    *events, comment, done = [line for line in gateway.http.post(path, json=body).text.splitlines() if line]
    assert done == "data: [DONE]"
    assert json.loads(comment.removeprefix(": headgate "))["completion_tokens"] == 24
    assert len(events) <= 5, "a role, the first token, and three events for the other 23"


def test_completions_whole_and_streamed(gateway: Gateway, client: openai.OpenAI) -> None:
    before = counted(gateway, "completion")
    whole = client.completions.create(model=MODEL, prompt=["Once upon", "a time"], max_tokens=7, extra_body=TO_THE_END)
    assert len(whole.choices) == 2
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 14
    with client.completions.create(
        model=MODEL, prompt="Once upon", max_tokens=7, stream=True, extra_body=TO_THE_END
    ) as stream:
        chunks = list(stream)
    assert chunks[-1].choices[0].finish_reason == "length"
    wait_counted(gateway, "completion", before + 21)


def test_tokenize_and_back(gateway: Gateway) -> None:
    tokens = gateway.http.post("/tokenize", json={"model": MODEL, "prompt": "Hello there"}).json()["tokens"]
    assert tokens
    back = gateway.http.post("/detokenize", json={"model": MODEL, "tokens": tokens}).json()
    assert back["prompt"] == "Hello there"


def test_vllm_itself_refuses_whoever_has_not_the_key_that_the_gateway_made(gateway: Gateway) -> None:
    engine = gateway.status()["engines"][0]
    (key,) = [word.decode()[13:] for word in environment(engine["pid"]) if word.startswith(b"VLLM_API_KEY=")]
    for given, status in ((None, 401), ("Bearer somebody-elses", 401), (f"Bearer {key}", 200)):
        headers = {"authorization": given} if given else None
        assert httpx.get(f"{engine['url']}/v1/models", headers=headers, trust_env=False).status_code == status
    assert key not in gateway.http.get("/status").text + gateway.log_file.read_text(errors="replace")


def test_unknown_model_is_404(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="nobody", messages=HELLO)


@pytest.mark.parametrize("stream", [False, True])
def test_over_long_context_is_vllms_own_400(gateway: Gateway, *, stream: bool) -> None:
    body = {"model": MODEL, "messages": TOO_LONG, "stream": stream}
    answer = gateway.http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400
    assert answer.headers["content-type"].startswith("application/json")
    assert f"maximum context length is {CONTEXT}" in answer.json()["error"]["message"]


def test_responses_whole_and_streamed(gateway: Gateway, client: openai.OpenAI) -> None:
    before = counted(gateway, "completion")
    try:
        whole = client.responses.create(model=MODEL, input="Hello", max_output_tokens=8, temperature=0)
    except openai.NotFoundError:
        pytest.skip("this vLLM has no /v1/responses")
    assert whole.usage is not None
    tokens = whole.usage.output_tokens
    with client.responses.create(model=MODEL, input="Hello", max_output_tokens=8, temperature=0, stream=True) as stream:
        events = list(stream)
    assert events[0].type == "response.created"
    assert any(event.type == "response.output_text.delta" for event in events)
    last = events[-1]
    assert last.type in ("response.completed", "response.incomplete")
    assert last.response.usage is not None
    assert last.response.usage.output_tokens == tokens
    wait_counted(gateway, "completion", before + 2 * tokens)


def test_messages_whole_and_streamed(gateway: Gateway) -> None:
    before = counted(gateway, "completion")
    body = {"model": MODEL, "messages": HELLO, "max_tokens": 8, "temperature": 0}
    whole = gateway.http.post("/v1/messages", json=body)
    if whole.status_code == 404:
        pytest.skip("this vLLM has no /v1/messages")
    assert whole.status_code == 200, whole.text
    tokens = whole.json()["usage"]["output_tokens"]
    streamed = gateway.http.post("/v1/messages", json={**body, "stream": True})
    names = [line.removeprefix("event: ") for line in streamed.text.splitlines() if line.startswith("event: ")]
    assert names[0] == "message_start"
    assert "content_block_delta" in names
    assert names[-1] == "message_stop"
    assert "[DONE]" not in streamed.text
    wait_counted(gateway, "completion", before + 2 * tokens)


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_client_that_leaves_ends_its_generation_in_vllm(gateway: Gateway, *, stream: bool) -> None:
    far = CONTEXT - 100
    made_before = gateway.engine_metric("vllm:generation_tokens_total")
    left_before = gateway.metric("api_cancelled_total")

    async def leave() -> None:
        async with async_sdk(gateway) as client:
            if stream:
                (task,) = await start_streams(client, 1, far)
            else:
                request = client.chat.completions.create(
                    model=MODEL, messages=HELLO, max_tokens=far, extra_body=TO_THE_END
                )
                task = asyncio.create_task(request)  # type: ignore[arg-type]
            seen: list[float] = []

            def runs_it() -> bool:
                seen.append(gateway.running())
                return seen[-1] == 1 or task.done()

            try:
                await wait_in_loop(runs_it, "vLLM runs it")
            except AssertionError as late:
                raise AssertionError(f"{late}; running, as asked: {seen[:3]} … {seen[-3:]}") from None
            assert not task.done(), f"it was over when vLLM was asked: {task}"
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(leave())
    wait_until(lambda: gateway.running() == 0, "vLLM runs nothing")
    assert gateway.engine_metric("vllm:generation_tokens_total") - made_before < far, "it was made to its end"
    wait_until(lambda: gateway.metric("api_active_requests") == 0, "the slot is free")
    assert gateway.metric("api_cancelled_total") == left_before + 1


def test_forty_at_once_never_more_than_the_slots_at_vllm_and_the_rest_are_told_when_to_come_back(
    gateway: Gateway,
) -> None:
    clients = 40
    length = 1500  # the first must not end before the last has come, however slowly they come
    most = 0.0

    async def all_at_once() -> list[Told]:
        nonlocal most
        async with async_sdk(gateway) as client:
            tasks = [asyncio.create_task(follow(client, length, seed=number)) for number in range(clients)]
            gathered = asyncio.gather(*tasks)
            while not gathered.done():
                most = max(most, gateway.running())
                await asyncio.sleep(LOOKS_EVERY_S)
            return await gathered

    told = asyncio.run(all_at_once())
    well = [one for one in told if one.went_well]
    refused = [one for one in told if isinstance(one.error, openai.RateLimitError)]
    assert max(one.ended_s for one in refused) < min(one.ended_s for one in well), "a stream ended before all came"
    assert (len(well), len(refused)) == (MAX_ACTIVE + QUEUE_MAX, clients - MAX_ACTIVE - QUEUE_MAX)
    assert all(one.completion_tokens == length for one in well)
    assert most == MAX_ACTIVE
    for one in refused:
        assert isinstance(one.error, openai.RateLimitError)
        assert one.error.response.headers["x-headgate-reason"] == "queue_full"
        assert one.error.code == "queue_full"
        assert 1 <= int(one.error.response.headers["retry-after"]) <= 60
    assert gateway.metric("api_refusals_total", reason="queue_full") == len(refused)


def test_vllm_has_every_series_that_the_dashboards_ask_it_for_with_the_labels_that_they_use(gateway: Gateway) -> None:
    """It renames them at times; the simulated engine, which the other tests of dashboards scrape, would not tell."""
    page = gateway.http.get("/engines/e0/metrics").text
    labels: dict[str, set[str]] = {}
    for family in parser.text_string_to_metric_families(page):
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    from_prometheus = {"job", "instance", "engine"}
    for query in queries():
        names = {name for name in metrics(query.expr) if name.startswith("vllm:")}
        assert names <= set(labels), f"{query} asks for {names - set(labels)}"
        for name in names:
            (matched,) = set(re.findall(rf"{name}\{{([^}}]*)\}}", query.expr))
            used = set(re.findall(r"(\w+)=~?\"", matched)) | set(query.named_by)
            assert used <= labels[name] | from_prometheus, f"{query} narrows {name} by {used - labels[name]}"


def test_sigterm_finishes_what_runs_refuses_newcomers_and_leaves_nothing(gateway: Gateway) -> None:
    shared = gateway.shared_memory()
    assert shared, "vLLM is running"

    async def streams_over_the_end() -> tuple[httpx.Response, list[Told]]:
        async with async_sdk(gateway) as client:
            tasks = await start_streams(client, 2, 1500)
            gateway.process.terminate()
            await wait_in_loop(lambda: not gateway.is_ready(), "/ready says that it drains", 5.0)
            body = {"model": MODEL, "messages": HELLO, "max_tokens": 4}
            newcomer = gateway.http.post("/v1/chat/completions", json=body)
            assert not any(task.done() for task in tasks), "the streams were too short for this test"
            return newcomer, await asyncio.gather(*tasks)

    newcomer, told = asyncio.run(streams_over_the_end())
    assert newcomer.status_code == 503
    assert newcomer.headers["x-headgate-reason"] == "draining"
    assert int(newcomer.headers["retry-after"]) >= 1
    assert [one.completion_tokens for one in told] == [1500, 1500], [one.error for one in told]
    assert gateway.process.wait(60) == 0, gateway.last_words()
    gateway.wait_nothing_left()
    wait_freed(shared)
