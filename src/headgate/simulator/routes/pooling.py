"""What is answered by one prefill and no generated token: embeddings, classes, scores, rankings; and tokens counted.

Vectors are drawn by a hash of their text, so equal texts have equal vectors and nothing else means anything.
"""

from __future__ import annotations

import base64
import hashlib
import math
import struct
import time
from typing import TYPE_CHECKING, Any

from headgate.simulator import text
from headgate.simulator.fields import Fields, rendered, wrong
from headgate.simulator.service import Generation, request_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from headgate.simulator.service import Service
    from headgate.simulator.wire import Exchange

DIMENSIONS = 32


def vector(content: bytes, dimensions: int = DIMENSIONS) -> list[float]:
    """A vector of length 1."""
    drawn = [byte - 127.5 for byte in hashlib.shake_128(content).digest(dimensions)]
    length = math.sqrt(sum(x * x for x in drawn))
    return [x / length for x in drawn]


def similarity(one: bytes, other: bytes) -> float:
    """How alike two texts are said to be, from 0 to 1; 1 for equal ones."""
    return (1 + sum(a * b for a, b in zip(vector(one), vector(other), strict=True))) / 2


async def _prefilled(exchange: Exchange, service: Service, prompts: list[bytes]) -> dict[str, int]:
    """Compute the prompts; their usage."""
    with Generation(service, exchange, service.planner.pool(prompts)) as answer:
        await answer.whole()
        tokens = sum(plan.prompt_tokens for plan in answer.plans)
    return {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0}


async def _listed(exchange: Exchange, kind: str, model: str, data: object, usage: dict[str, int]) -> None:
    reply = {"id": request_id(exchange, kind), "object": "list", "created": int(time.time())}
    await exchange.json(reply | {"model": model, "data": data, "usage": usage})


async def embeddings(exchange: Exchange, service: Service) -> None:
    """``POST /v1/embeddings``; ``encoding_format`` may be ``base64``, ``dimensions`` is obeyed."""
    fields = Fields(await exchange.json_body())
    service.receive(exchange)
    model = service.model(fields)
    prompts = fields.prompts("input")
    dimensions = fields.integer("dimensions", 1) or DIMENSIONS
    usage = await _prefilled(exchange, service, prompts)
    data = []
    for index, prompt in enumerate(prompts):
        found: Any = vector(prompt, dimensions)
        if fields.text("encoding_format") == "base64":
            found = base64.b64encode(struct.pack(f"<{dimensions}f", *found)).decode()
        data.append({"index": index, "object": "embedding", "embedding": found})
    await _listed(exchange, "embd", model, data, usage)


async def classify(exchange: Exchange, service: Service) -> None:
    """``POST /classify``: two classes, and how likely each is."""

    def classes(prompt: bytes) -> dict[str, Any]:
        second = similarity(prompt, b"")
        return {"label": f"LABEL_{second > 0.5:d}", "probs": [1 - second, second], "num_classes": 2}

    await _of_each(exchange, service, "classify", classes)


async def pooling(exchange: Exchange, service: Service) -> None:
    """``POST /pooling``: a vector for each text."""
    await _of_each(exchange, service, "pool", lambda prompt: {"object": "pooling", "data": vector(prompt)})


async def _of_each(exchange: Exchange, service: Service, kind: str, told: Callable[[bytes], dict[str, Any]]) -> None:
    fields = Fields(await exchange.json_body())
    service.receive(exchange)
    model = service.model(fields)
    prompts = _inputs(fields)
    usage = await _prefilled(exchange, service, prompts)
    await _listed(exchange, kind, model, [{"index": i} | told(prompt) for i, prompt in enumerate(prompts)], usage)


def _inputs(fields: Fields) -> list[bytes]:
    """Texts, or a conversation that is one."""
    if fields.any("messages") is not None:
        return [rendered(fields.any("messages"), None)]
    return fields.prompts("input")


def _texts(fields: Fields, *names: str) -> list[bytes]:
    found = next(filter(None, map(fields.texts, names)), None)
    if found is None:
        wrong(names[0], "Field required")
    return [item.encode() for item in found]


async def score(exchange: Exchange, service: Service) -> None:
    """``POST /v1/score``: one text against one or many, or pairs."""
    fields = Fields(await exchange.json_body())
    service.receive(exchange)
    model = service.model(fields)
    ones, others = _texts(fields, "text_1", "queries"), _texts(fields, "text_2", "documents")
    if len(ones) == 1:
        ones = ones * len(others)
    if len(ones) != len(others):
        wrong("text_1", "Input lengths must be either 1:1, 1:N or N:N")
    pairs = list(zip(ones, others, strict=True))
    usage = await _prefilled(exchange, service, [one + other for one, other in pairs])
    data = [{"index": i, "object": "score", "score": similarity(*pair)} for i, pair in enumerate(pairs)]
    await _listed(exchange, "score", model, data, usage)


async def rerank(exchange: Exchange, service: Service) -> None:
    """``POST /v1/rerank``: documents by likeness to the query, the best ``top_n`` of them."""
    fields = Fields(await exchange.json_body())
    service.receive(exchange)
    model = service.model(fields)
    (query,) = _texts(fields, "query")[:1]
    documents = _texts(fields, "documents")
    usage = await _prefilled(exchange, service, [query + document for document in documents])
    results = [
        {"index": i, "document": {"text": document.decode()}, "relevance_score": similarity(query, document)}
        for i, document in enumerate(documents)
    ]
    results.sort(key=lambda result: result["relevance_score"], reverse=True)  # type: ignore[arg-type, return-value]
    best = results[: fields.integer("top_n") or len(results)]
    reply: dict[str, Any] = {"id": request_id(exchange, "rerank"), "model": model, "results": best}
    await exchange.json(reply | {"usage": {"total_tokens": usage["total_tokens"]}})


async def tokenize(exchange: Exchange, service: Service) -> None:
    """``POST /tokenize``, of a prompt or a conversation."""
    fields = Fields(await exchange.json_body())
    service.model(fields)
    if fields.any("messages") is not None:
        prompt = rendered(fields.any("messages"), fields.any("tools"))
    else:
        (prompt,) = fields.prompts("prompt")[:1]
    tokens = text.token_ids(prompt)
    await exchange.json(
        {
            "count": len(tokens),
            "max_model_len": service.planner.max_model_len,
            "tokens": tokens,
            "token_strs": None,
        }
    )


async def detokenize(exchange: Exchange, service: Service) -> None:
    """``POST /detokenize``: what ``/tokenize`` was given."""
    fields = Fields(await exchange.json_body())
    service.model(fields)
    prompt, *others = fields.prompts("tokens")
    if others:
        wrong("tokens", "Input should be a valid list of token ids")
    await exchange.json({"prompt": prompt.rstrip(b"\0").decode("utf-8", "replace")})
