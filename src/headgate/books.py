"""The books: what a request has come to, written down once, at its end.

Counters and histograms, the verdict by the objectives, what gate and quotas had charged too much or too little, the log
line. Apart from the flow because nothing is decided here: whatever a request came to, it is written down like this.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from headgate.errors import Reason
from headgate.telemetry.slo import LEFT, OK, Objectives, judge

if TYPE_CHECKING:
    from headgate.call import Call, Life
    from headgate.gate import Estimate, Gate, Shedder
    from headgate.quotas import Quotas
    from headgate.relay.reply import Ending, Reply
    from headgate.telemetry.logs import RequestLog
    from headgate.telemetry.metrics import Metrics


class Books:
    """Closes the account of each request.

    Args:
        estimate, shedder, quotas: those that learn from what a request really took; None: there are none.

    Attributes:
        tokens_of_whole: completion tokens of replies that were no streams, ever.
    """

    def __init__(
        self,
        gate: Gate,
        metrics: Metrics,
        log: RequestLog,
        objectives: Objectives,
        clock: Callable[[], float],
        estimate: Estimate,
        shedder: Shedder | None,
        quotas: Quotas | None,
    ) -> None:
        self._gate = gate
        self._metrics = metrics
        self._log = log
        self._objectives = objectives
        self._clock = clock
        self._estimate = estimate
        self._shedder = shedder
        self._quotas = quotas
        self.tokens_of_whole = 0

    def close(self, call: Call, reply: Reply, ending: Ending, life: Life) -> None:
        """Once for each request, when it has ended."""
        now = self._clock()
        latency_s = now - call.arrived
        model = life.model
        metrics, told = self._metrics, reply.usage
        metrics.requests.add((call.route, model, call.key, str(ending.status), ending.reason))
        first = reply.first_event_at
        estimated = not reply.usage_told and reply.events > 0
        completion = reply.tokens if estimated else told.completion_tokens
        if completion:
            kind = "completion_estimated" if estimated else "completion"
            metrics.tokens.add((kind, model, call.key), completion)
            if not call.plan.streamed:
                self.tokens_of_whole += completion
        if told.prompt_tokens:
            metrics.tokens.add(("prompt", model, call.key), told.prompt_tokens)
        if call.gated and first is not None and ending.status < 400:
            if self._shedder is not None:
                self._shedder.learn(latency_s)
            metrics.latency.at((call.route, model)).observe_example(latency_s, *life.example, time.time())
        self._settle(call, reply, ending, life, completion)
        if call.gated:
            verdict = judge(
                self._objectives,
                reason=ending.reason,
                began=reply.committed,
                ttft_s=first - call.arrived if first is not None and reply.events else None,
                itl_s=reply.mean_gap_s,
                latency_s=latency_s,
                for_own=life.for_own,
            )
            if verdict is not None:
                metrics.slo.add((model, verdict))
        trace = life.trace
        if trace is not None:
            trace.ends(now, ending.status, ending.reason, call.key, call.request_id, estimated=estimated)
        self._log.write(
            {
                "request_id": call.request_id,
                "trace_id": trace.trace_id if trace is not None else call.trace and call.trace.trace_id,
                "route": call.route,
                "model": model,
                "key": call.key,
                "client": call.client or None,
                "engine": life.engine,
                "engine_request_id": life.engine_request_id or None,
                "status": ending.status,
                "reason": ending.reason,
                "stream": call.plan.streamed,
                "queue_ms": round(reply.queue_s * 1e3, 1),
                "ttft_ms": round((first - call.arrived) * 1e3, 1) if first is not None else None,
                "duration_ms": round(latency_s * 1e3, 1),
                "prompt_tokens": told.prompt_tokens,
                "completion_tokens": completion,
                "estimated": estimated,
                "detail": ending.detail,
            },
            failed=ending.reason not in (OK, LEFT),
        )

    def _settle(self, call: Call, reply: Reply, ending: Ending, life: Life, completion: int) -> None:
        """What was charged when it came becomes what it took."""
        # What the engine refused it has not worked at, though it said so with a first byte.
        went_out = reply.committed and ending.status < 400
        answered = reply.first_event_at is not None and (went_out or ending.reason == LEFT)
        lease = life.lease
        size = call.prompt_bytes
        prompt = reply.usage.prompt_tokens
        if life.at_engine and not answered and ending.reason == Reason.REQUEST_TIMEOUT:
            return  # it held its slots to the limit: that is no less than what was expected
        # Whoever leaves a prompt to the engine and goes has used it all the same.
        worked = answered or (life.at_engine and ending.reason == LEFT)
        took = (prompt or size / 4) + completion if worked else 0.0
        if lease is not None:
            if answered and (ending.reason in (OK, LEFT) or reply.usage_told):  # an error is no short answer
                self._estimate.learn(
                    call.key, size, prompt, completion, call.asked.sequences, most=call.asked.max_tokens
                )
            self._gate.settle(lease, took)
        if life.taken is not None and self._quotas is not None:
            self._quotas.settle(life.taken, took)
