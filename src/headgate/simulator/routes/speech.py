"""``POST /v1/audio/transcriptions`` and ``/translations``: a multipart upload in, words out.

The sound is not listened to: its bytes are the seed of what it says, and 2,000 of them are a token of prompt.
"""

from __future__ import annotations

import hashlib
import re
import time
from typing import TYPE_CHECKING

import msgspec

from headgate.simulator.fields import Fields
from headgate.simulator.problem import Problem
from headgate.simulator.routes.openai import DONE
from headgate.simulator.service import Generation, request_id
from headgate.simulator.wire import Events

if TYPE_CHECKING:
    from headgate.simulator.service import Service
    from headgate.simulator.wire import Exchange

_BYTES_PER_TOKEN = 2000
_MOST_TOKENS = 1500  # thirty seconds of sound


def parts(body: bytes, content_type: str) -> dict[str, bytes]:
    """The parts of a multipart form by name. Raises Problem (400) where it is none."""
    found = re.search(r'boundary="?([^";]+)"?', content_type)
    if not content_type.startswith("multipart/form-data") or found is None:
        raise Problem(400, "a multipart/form-data body is needed", "Bad Request")
    named = {}
    for part in body.split(b"--" + found[1].encode("latin-1"))[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        if name := re.search(rb'\bname="([^"]*)"', head):
            named[name[1].decode("utf-8", "replace")] = content.removesuffix(b"\r\n")
    return named


async def transcribe(exchange: Exchange, service: Service) -> None:
    """Both paths; ``stream=true`` gives chunks like those of a chat."""
    form = parts(await exchange.body(), exchange.header(b"content-type") or "")
    service.receive(exchange)
    sound = form.pop("file", None)
    if sound is None:
        raise Problem(400, "file: Field required", "Bad Request", "file")
    given = {name: value.decode("utf-8", "replace") for name, value in form.items()}
    model = service.model(Fields({"model": given.get("model")}))
    length = min(_MOST_TOKENS, max(1, len(sound) // _BYTES_PER_TOKEN))
    seed = (hashlib.sha256(sound + exchange.path.encode()).digest() * (length // 8 + 1))[: 4 * length]
    limit = given.get("max_completion_tokens")
    plans = service.generate(Fields({}), [seed], int(limit) if limit and limit.isdecimal() else None)
    with Generation(service, exchange, plans) as answer:
        if given.get("stream", "").lower() not in ("true", "1"):
            (whole,) = await answer.whole()
            usage = {"type": "duration", "seconds": max(1, length // 50)}
            await exchange.json({"text": whole, "usage": usage})
            return
        kind = exchange.path.rsplit("/", 1)[1].removesuffix("s")
        fixed = {"id": request_id(exchange, "trsc"), "object": f"{kind}.chunk", "created": int(time.time())}

        def chunk(piece: str, finish: str | None = None) -> bytes:
            choice = {"delta": {"content": piece}, "finish_reason": finish, "stop_reason": None}
            return b"data: " + msgspec.json.encode(fixed | {"model": model, "choices": [choice]}) + b"\n\n"

        def error(message: str) -> bytes:
            body = Problem(500, message, "InternalServerError").body
            return b"data: " + msgspec.json.encode(body) + b"\n\n" + DONE

        await exchange.head()
        events = Events(exchange, error, chunk)
        while deltas := await answer.deltas():
            for delta in deltas:
                await events.event(chunk(delta.text, delta.finish))
        await events.event(DONE)
        await events.close()
