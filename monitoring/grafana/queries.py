"""The words that the dashboards' PromQL is made of.

Every series of the gateway is narrowed by the variable ``gateway`` (its address as Prometheus scrapes it); the others
only where a dashboard has them. A rate is over ``$__rate_interval``, a figure of "now" over the last five minutes, a
total over what the dashboard shows.
"""

from __future__ import annotations

GATEWAY = 'instance=~"$gateway"'
ENGINE = 'engine=~"$engine"'
MODEL = 'model=~"$model"'
SERVED = 'model_name=~"$model"'
"""The same models as vLLM labels them."""
KEY = 'key=~"$key"'
GENERATION = (
    'route=~"/generate|/pooling|/classify|/score|(/v2)?/rerank|'
    '/v1/(chat/completions|completions|responses|messages|embeddings|score|rerank|audio/.+)"'
)
"""Routes that take slots: the rest is health checks and scrapes."""
CONTENDED = 'reason=~"slots_busy|queue_full|wait_too_long|shed|queue_timeout|engine_unavailable|draining"'
"""Refused for want of capacity: not for what was asked, nor for a limit of the caller's own (rate_limited)."""
BROKEN = 'reason=~"engine_failed|request_timeout"'
MADE = 'kind=~"completion.*"'
GRANTED = 'outcome="granted"'
OWN = 'job="headgate"'
"""For the metrics that every process has."""

STEP = "$__rate_interval"
NOW = "5m"
SHOWN = "$__range"


def series(metric: str, *where: str) -> str:
    """A metric of the gateway, narrowed."""
    return f"{metric}{{{','.join((GATEWAY, *where))}}}"


def total(metric: str, *where: str, by: str = "") -> str:
    """The sum of a gauge."""
    return f"sum{_by(by)} ({series(metric, *where)})"


def rate(metric: str, *where: str, by: str = "", over: str = STEP) -> str:
    """A counter each second."""
    return f"sum{_by(by)} (rate({series(metric, *where)}[{over}]))"


def increase(metric: str, *where: str, by: str = "", over: str = SHOWN) -> str:
    """A counter over a time."""
    return f"sum{_by(by)} (increase({series(metric, *where)}[{over}]))"


def quantile(q: float, histogram: str, *where: str, by: str = "", over: str = STEP) -> str:
    """A quantile of a histogram, estimated from its buckets."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({q:g}, {rate(f'{histogram}_bucket', *where, by=labels, over=over)})"


def mean(histogram: str, *where: str, by: str = "", over: str = STEP) -> str:
    """The mean of a histogram."""
    return share(
        rate(f"{histogram}_sum", *where, by=by, over=over), rate(f"{histogram}_count", *where, by=by, over=over)
    )


def share(part: str, whole: str) -> str:
    """One over the other; nothing, rather than not-a-number, where there is none of the other."""
    return f"{part} / ({whole} > 0)"


def none_is_zero(expression: str) -> str:
    """For a counter that has not counted yet, and so isn't there."""
    return f"({expression} or vector(0))"


def within_objectives(over: str, *where: str, by: str = "") -> str:
    """Share of the answers that met every objective; 0 where there were answers and none did."""
    met = rate("api_slo_requests_total", 'result="met"', *where, by=by, over=over)
    answers = rate("api_slo_requests_total", *where, by=by, over=over)
    return share(f"({met} or 0 * {answers})", answers)


def objective(name: str) -> str:
    """An objective in seconds: ``ttft``, ``itl``, ``latency``."""
    which = f'objective="{name}"'
    return f"max({series('api_slo_seconds', which)})"


def burn(over: str, *where: str) -> str:
    """How fast the error budget goes: 1 uses it up exactly. The target is the rules' own, 99 % without them."""
    missed = f"(1 - {within_objectives(over, *where)})"
    return f"{missed} / scalar(1 - (headgate:slo_target:ratio or vector(0.99)))"


def gpu(dcgm: str, nvml: str) -> str:
    """A figure of each GPU from NVIDIA's exporter, and from the gateway where the exporter doesn't have that GPU.

    Args:
        dcgm: an expression of ``DCGM_FI_DEV_*``, in the unit of the other.
        nvml: the gateway's metric.
    """
    named = f"{series(nvml)} * on (instance, gpu) group_left (uuid) {series('gpu_info')}"
    own = f'label_replace({named}, "UUID", "$1", "uuid", "(.+)")'
    return f"max by (gpu, UUID) ({dcgm}) or on (UUID) max by (gpu, UUID) ({own})"


def _by(labels: str) -> str:
    return f" by ({labels})" if labels else ""
