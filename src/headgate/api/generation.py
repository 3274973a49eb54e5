"""The routes that go to the engine, straight from the connection (an endpoint of FastAPI's costs more than the relay).

``ENDPOINTS`` is the one list of them: the connection, the OpenAPI document and the tests read it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import msgspec

from headgate import openai
from headgate.api import peers, problems, wishes
from headgate.api.auth import NOBODY, Keys
from headgate.api.connection import Connection, Downstream
from headgate.api.peers import Network
from headgate.api.request import Headers, Request, Road, kept_id
from headgate.api.wishes import Wishes
from headgate.call import Call, priority
from headgate.errors import Reason, Refusal
from headgate.flow import Flow
from headgate.keys import Key
from headgate.openai import Dialect
from headgate.relay.reply import FinalEvent, Plan
from headgate.shapes import Asked
from headgate.telemetry import tracecontext
from headgate.telemetry.metrics import OTHER, Metrics
from headgate.telemetry.tracecontext import TraceContext

log = logging.getLogger(__name__)

_READ = frozenset(
    (
        *(b"content-type", b"content-length", b"content-encoding"),
        *(b"x-request-id", b"traceparent", b"tracestate"),
        *(b"authorization", b"x-api-key"),
        *wishes.HEADERS,
    )
)
"""The headers that are looked at: each of the looks then walks along a short list."""

_LENGTH_DIGITS = 20


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One route to the engine.

    Attributes:
        reads: how its body is read.
        required: fields that it can't do without, besides ``model``.
        answers: whether the engine writes anything: vectors and scores have no tokens.
        gated: whether it takes slots.
        can_ask_usage: whether its streams know ``stream_options.include_usage``.
        target: the engine's path, where it is another.
    """

    path: str
    summary: str
    dialect: Dialect = Dialect.OPENAI
    reads: Literal["json", "multipart", "generate", "scored"] = "json"
    required: tuple[str, ...] = ()
    answers: bool = True
    gated: bool = True
    can_ask_usage: bool = False
    target: str | None = None


ENDPOINTS: dict[str, Endpoint] = {
    endpoint.path: endpoint
    for endpoint in (
        Endpoint("/v1/chat/completions", "Chat completion", required=("messages",), can_ask_usage=True),
        Endpoint("/v1/completions", "Text completion", required=("prompt",), can_ask_usage=True),
        Endpoint("/v1/responses", "Response (OpenAI Responses API)", Dialect.RESPONSES, required=("input",)),
        Endpoint("/v1/messages", "Message (Anthropic Messages API)", Dialect.ANTHROPIC, required=("messages",)),
        Endpoint("/v1/embeddings", "Embeddings", answers=False),
        *(Endpoint(path, "Similarity scores", reads="scored", answers=False) for path in ("/v1/score", "/score")),
        *(
            Endpoint(path, "Rerank documents", reads="scored", answers=False)
            for path in ("/v1/rerank", "/v2/rerank", "/rerank")
        ),
        Endpoint("/classify", "Classes of texts", answers=False),
        Endpoint("/pooling", "What a model's pooler says of texts", answers=False),
        Endpoint("/v1/audio/transcriptions", "Transcribe audio", reads="multipart"),
        Endpoint("/v1/audio/translations", "Translate audio", reads="multipart"),
        Endpoint("/generate", "One prompt in, one text out", reads="generate", target="/v1/completions"),
        Endpoint("/tokenize", "Tokens of a text", gated=False),
        Endpoint("/detokenize", "Text of tokens", gated=False),
        Endpoint("/v1/messages/count_tokens", "Count tokens (Anthropic)", Dialect.ANTHROPIC, gated=False),
    )
}


class Generation:
    """Takes a request from its connection, reads and checks it, and hands it to the flow.

    Args:
        trusted_proxies: whose word on users and priority counts, though it has no key; and on whom it asks for.
        with_client: whether the client's address is kept for the log.
        default_model: what ``/generate`` uses where the caller names none; asked at each call.
        one_engine: whether the same engine gets all requests, and so can know of earlier ones.
    """

    def __init__(
        self,
        flow: Flow,
        keys: Keys,
        metrics: Metrics,
        *,
        max_body_bytes: int,
        final_event: FinalEvent,
        default_model: Callable[[], str | None],
        clock: Callable[[], float],
        trusted_proxies: Sequence[Network] = (),
        with_client: bool = True,
        one_engine: bool = True,
    ) -> None:
        self._flow = flow
        self._with_client = with_client
        self._trusted_proxies = tuple(trusted_proxies)
        self._keys = keys
        self._metrics = metrics
        self._max_body_bytes = max_body_bytes
        self._final_event = final_event
        self._default_model = default_model
        self._clock = clock
        self._one_engine = one_engine

    @property
    def roads(self) -> dict[str, Road]:
        """Who answers what is POSTed where."""
        return {path: partial(self._answer, endpoint) for path, endpoint in ENDPOINTS.items()}

    async def _answer(self, endpoint: Endpoint, connection: Connection, request: Request) -> None:
        arrived = self._clock()
        sink = Downstream(connection)
        headers: Headers = [pair for pair in request.headers if pair[0] in _READ]
        request_id, trace = self._told(headers)

        call: Call | None = None

        def refuse(refusal: Refusal) -> int:
            status, head, body = problems.answer(refusal, endpoint.dialect)
            sink.start(
                status,
                [*openai.id_headers(endpoint.dialect, request_id), *(call.told if call is not None else ()), *head],
            )
            sink.write(body)
            sink.end()
            return status

        key = NOBODY
        wished = wishes.NONE
        try:
            key = self._keys.caller(headers)
            proxies = self._trusted_proxies
            believed = key is not NOBODY or bool(proxies and peers.comes_from(connection.client, proxies))
            wished = wishes.read(headers, believed=believed)
            content_type = self._content_type(endpoint, headers)
            body = await self._body(connection, request)
            if body is not None:
                call = self._call(endpoint, request, body, content_type, request_id, trace, key, arrived, wished)
                if self._with_client:
                    call.client = peers.address(connection.client, request.headers, proxies)
        except Exception as error:
            refusal = error if isinstance(error, Refusal) else self._mistake(request_id)
            status = refuse(refusal)
            self._metrics.requests.add((endpoint.path, OTHER, key.name, str(status), refusal.reason))
            self._metrics.refusals.add((refusal.reason, priority(wished.rank), OTHER, key.name))
            sink.finish()
            return
        if call is None or sink.gone:  # the client left while it was sending, or at once
            self._metrics.requests.add((endpoint.path, OTHER, key.name, "499", "client_left"))
            self._metrics.cancelled.add(("arriving",))
            sink.finish()
            return
        connection.on_gone = request.cancel
        try:
            await self._flow.serve(call, sink, refuse)
        finally:
            sink.finish()

    def _mistake(self, request_id: str) -> Refusal:
        """What is said where the gateway itself fails at reading a request."""
        log.exception("request %s: the gateway itself failed at reading it", request_id)
        return Refusal(Reason.ENGINE_FAILED, "The gateway itself failed at this request; its log says how.")

    def _call(
        self,
        endpoint: Endpoint,
        request: Request,
        body: bytes,
        content_type: bytes,
        request_id: str,
        trace: TraceContext | None,
        key: Key,
        arrived: float,
        wished: Wishes,
    ) -> Call:
        """The request as a call.

        Raises:
            Refusal: it can't be served as it is.
        """
        asked = self._asked(endpoint, body, content_type)
        if endpoint.reads == "generate":
            body, asked = asked if isinstance(asked, tuple) else (body, asked)
        assert isinstance(asked, Asked)
        if not endpoint.answers:
            asked = msgspec.structs.replace(asked, max_tokens=0)
        if asked.follows and not self._one_engine:
            what = "`previous_response_id` is not offered here: only one of several engines remembers that response."
            raise Refusal(Reason.INVALID_REQUEST, what, param="previous_response_id")
        target = endpoint.target or endpoint.path
        return Call(
            route=endpoint.path,
            target=target.encode() + (b"?" + request.query if request.query else b""),
            body=body,
            content_type=content_type,
            asked=asked,
            plan=Plan(
                endpoint.dialect,
                streamed=asked.stream and endpoint.gated,
                wants_usage=asked.include_usage or not endpoint.can_ask_usage,
                final_event=self._final_event if endpoint.gated else FinalEvent.OFF,
                as_generate=endpoint.reads == "generate",
            ),
            request_id=request_id,
            key=key.name,
            arrived=arrived,
            gated=endpoint.gated,
            can_ask_usage=endpoint.can_ask_usage,
            user=wished.user,
            rank=max(wished.rank + asked.in_background, key.rank_least),
            deadline_s=wished.deadline_s,
            tells_place=wished.tells_place,
            rights=key.rights,
            trace=trace,
        )

    def _asked(self, endpoint: Endpoint, body: bytes, content_type: bytes) -> Asked | tuple[bytes, Asked]:
        if endpoint.reads == "json":
            return openai.read_request(body, required=endpoint.required)
        if endpoint.reads == "multipart":
            return openai.read_multipart(body, content_type.decode("latin-1"))
        if endpoint.reads == "generate":
            return openai.generate_to_completion(body, self._default_model())
        return openai.read_scored(body)

    async def _body(self, connection: Connection, request: Request) -> bytes | None:
        """The whole body; None where the client left first."""
        if request.more_body:
            try:
                body = await self._arriving(connection, request)
            except asyncio.CancelledError:  # by the server's end: a client that leaves is told otherwise here
                raise Refusal(Reason.DRAINING, "The gateway is shutting down.", retry_after_s=1.0) from None
        elif request.disconnected:
            return None
        else:  # it came with its head: nothing to wait for, and no need to tell the client to go on
            body = bytes(request.body)
            request.body.clear()
            request.waiting_for_100_continue = False
        if body is not None and len(body) > self._max_body_bytes:
            raise self._too_large()
        # uvicorn stops reading at 64 KiB of body until it is asked for more, and would not see the client leave.
        connection.flow.resume_reading()
        return body

    async def _arriving(self, connection: Connection, request: Request) -> bytes | None:
        parts: list[bytes] = []
        size = 0
        while size <= self._max_body_bytes:
            part = await request.part()
            if part is None:
                return None
            if not request.more_body:
                return b"".join((*parts, part)) if parts else part
            if connection.broken is not None:
                raise connection.broken
            parts.append(part)
            size += len(part)
        raise self._too_large()

    def _too_large(self) -> Refusal:
        return Refusal(Reason.TOO_LARGE, f"The body is larger than {self._max_body_bytes} bytes.")

    def _content_type(self, endpoint: Endpoint, headers: Headers) -> bytes:
        wanted = b"multipart/form-data" if endpoint.reads == "multipart" else b"application/json"
        given = b""
        for name, value in headers:
            if name == b"content-type":
                given = value
            elif name == b"content-length" and value.isdigit():
                if len(value) > _LENGTH_DIGITS:  # zeros before it, and Python doesn't read any number of them
                    raise Refusal(Reason.INVALID_REQUEST, "`content-length` has more digits than any length.")
                if int(value) > self._max_body_bytes:
                    raise self._too_large()
            elif name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
                what = openai.shortened(value.decode("latin-1"))
                raise Refusal(Reason.UNSUPPORTED_MEDIA_TYPE, f"A body can't come with `content-encoding: {what}` here.")
        kind = given.split(b";")[0].strip().lower()
        if kind == wanted or (not kind and endpoint.reads != "multipart"):
            return given or wanted
        raise Refusal(
            Reason.UNSUPPORTED_MEDIA_TYPE,
            f"`content-type` must be {wanted.decode()}, not {openai.shortened(given.decode('latin-1')) or 'missing'}.",
        )

    def _told(self, headers: Headers) -> tuple[str, TraceContext | None]:
        """The caller's id of this request, or one of ours; and its trace, where it told one."""
        id_: bytes | None = None
        parents: list[bytes] = []
        states: list[bytes] = []
        for name, value in headers:
            if name == b"x-request-id":
                id_ = value if id_ is None else id_
            elif name == b"traceparent":
                parents.append(value)
            elif name == b"tracestate":
                states.append(value)
        trace = tracecontext.read(parents, states) if parents else None
        if id_ is not None and (text := kept_id(id_)) is not None:
            return text, trace
        return self._flow.new_id(), trace
