"""Panels that more than one dashboard shows, so that they look and read the same wherever they are met."""

from __future__ import annotations

from grafana_foundation_sdk.models import dashboard

from headgate.pool.lifecycle import State
from monitoring.grafana.panels import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    RESULTS,
    YELLOW,
    Query,
    course,
    labels_table,
    states,
)
from monitoring.grafana.queries import MADE, MODEL, OWN, gpu, objective, rate, series, total

STATES: dict[State, tuple[int, str]] = {
    State.READY: (1, GREEN),
    State.STARTING: (2, BLUE),
    State.ASLEEP: (3, PURPLE),
    State.STOPPED: (4, GREY),
    State.DRAINING: (5, YELLOW),
    State.STOPPING: (6, YELLOW),
    State.BACKOFF: (7, ORANGE),
    State.WEDGED: (8, RED),
    State.FAILED: (9, RED),
}
"""Each state's number on a timeline, and its colour."""


def in_state(state: State) -> str:
    """Narrows ``api_engine_state``."""
    return f'state="{state}"'


def limit(name: str) -> Query:
    """An objective's line."""
    return Query(objective(name), "objective", limit=True)


def results() -> dashboard.Panel:
    """How answers end, against the objectives."""
    return course(
        "Answers by result",
        "Every generation that was the gateway's to serve: met, or the first objective it missed; grey, clients that "
        "left. Orange: refused, see Capacity. Red: the engine failed after it began, see Engines.",
        [
            Query(rate("api_slo_requests_total", MODEL, by="result"), "{{result}}"),
            Query(rate("api_requests_total", 'reason="client_left"', MODEL), "left"),
        ],
        "reqps",
        stacked=True,
        colors=RESULTS,
    )


def slots_and_line() -> dashboard.Panel:
    """Slots held, their number, and who waits."""
    return course(
        "Slots and line",
        "Slots held, all slots (dashed), and requests waiting. Held at the dashed line with a line that grows: "
        "saturated. No dashed line, or one at 0: no engine is ready.",
        [
            Query(total("api_active_requests"), "held", BLUE),
            Query(total("api_queue_depth"), "waiting", ORANGE),
            Query(total("api_max_active"), "slots", RED, limit=True),
        ],
        "none",
        decimals=0,
    )


def tokens_per_second() -> dashboard.Panel:
    """Tokens in and out."""
    return course(
        "Tokens per second",
        "Tokens made and prompts read, booked at each answer's end. A drop while requests still come means that the "
        "engine slows or hangs.",
        [
            Query(rate("api_tokens_total", MADE, MODEL), "made", GREEN),
            Query(rate("api_tokens_total", 'kind="prompt"', MODEL), "prompts", BLUE),
        ],
        "short",
    )


def engine_states() -> dashboard.Panel:
    """Each engine's life as a band."""
    parts = [
        f"{number} * {total('api_engine_state', in_state(state), by='instance, engine')}"
        for state, (number, _) in STATES.items()
    ]
    return states(
        "Engines",
        "Each engine's state. Orange waits before it starts again after a crash; red hangs, or was given up on: its "
        "last lines are in /status, and POST /admin/engines/{name}/restart starts it anew.",
        [Query(" + ".join(parts), "{{engine}} · {{instance}}")],
        {number: (str(state), color) for state, (number, color) in STATES.items()},
    )


def alerts_firing() -> dashboard.Panel:
    """What fires now."""
    return labels_table(
        "Alerts",
        "What fires now, by the rules in monitoring/prometheus/rules. Each has a section in docs/operations.md that "
        "says what to do.",
        'ALERTS{alertname=~"Headgate.+",alertstate="firing"}',
        {"severity": "Severity", "alertname": "Alert", "instance": "Gateway", "engine": "Engine", "gpu": "GPU"},
        empty="nothing fires",
    )


def gpu_use() -> dashboard.Panel:
    """How busy each GPU is."""
    return course(
        "GPU use",
        "Share of the time in which each GPU worked. Low while slots are full: the engine waits for its host, or "
        "slots are few. High while nothing is served: something else runs there.",
        [Query(gpu("DCGM_FI_DEV_GPU_UTIL / 100", "gpu_utilization_ratio"), "GPU {{gpu}}")],
        "percentunit",
        maximum=1,
    )


def gpu_memory() -> dashboard.Panel:
    """How full each GPU is."""
    return course(
        "GPU memory",
        "Share of each GPU's memory in use. vLLM takes its share at the start and keeps it (0.92 by default); above "
        "98 % something else takes memory too, and the next start may fail.",
        [
            Query(
                gpu(
                    "DCGM_FI_DEV_FB_USED / (DCGM_FI_DEV_FB_USED + DCGM_FI_DEV_FB_FREE)",
                    "gpu_memory_used_bytes",
                ).replace(
                    series("gpu_memory_used_bytes"),
                    f"({series('gpu_memory_used_bytes')} / {series('gpu_memory_total_bytes')})",
                ),
                "GPU {{gpu}}",
            )
        ],
        "percentunit",
        {0.98: RED},
        maximum=1,
    )


def gpu_temperature() -> dashboard.Panel:
    """How hot each GPU is."""
    return course(
        "GPU temperature",
        "Each GPU's core. From 80 °C on clocks begin to fall on most cards, from 90 °C they do on all: look at fans, "
        "airflow and the power limit.",
        [Query(gpu("DCGM_FI_DEV_GPU_TEMP", "gpu_temperature_celsius"), "GPU {{gpu}}")],
        "celsius",
        {80: YELLOW, 90: RED},
        soft_maximum=95,
    )


def gpu_power() -> dashboard.Panel:
    """What each GPU draws."""
    return course(
        "GPU power",
        "What each GPU draws; dashed, its limit. At the limit its clocks fall: tokens come slower, and nothing is "
        "broken.",
        [
            Query(gpu("DCGM_FI_DEV_POWER_USAGE", "gpu_power_watts"), "GPU {{gpu}}"),
            Query(f"max by (gpu) ({series('gpu_power_limit_watts')})", "limit of GPU {{gpu}}", limit=True),
        ],
        "watt",
    )


def cpu() -> dashboard.Panel:
    """What the gateway computes."""
    return course(
        "Gateway CPU",
        "Cores that the gateway's process uses. It has one event loop: near 1 it is the bottleneck; run several "
        "gateways, or look for what else it does. `shared` at 1: others want its core, so it takes events together, "
        "COALESCE_MS apart.",
        [
            Query(f"rate({series('process_cpu_seconds_total', OWN)}[$__rate_interval])", "{{instance}}"),
            Query(series("api_coalescing"), "shared · {{instance}}"),
        ],
        "short",
        {0.7: YELLOW, 0.9: RED},
        soft_maximum=1,
    )


def memory() -> dashboard.Panel:
    """What the gateway keeps."""
    return course(
        "Gateway memory",
        "Resident memory of the gateway's process, and how much of it are bodies that wait in line (at most "
        "QUEUE_MAX_BYTES). Slow readers take memory too; growth without either is a leak.",
        [
            Query(series("process_resident_memory_bytes", OWN), "{{instance}}"),
            Query(series("api_queue_bytes"), "waiting · {{instance}}"),
        ],
        "bytes",
    )


def loop_lag() -> dashboard.Panel:
    """How late the event loop is."""
    return course(
        "Event-loop lag",
        "The worst lateness of the gateway's own clock tick in 15 s: every token of every stream waits at least so "
        "long. Red: the gateway lacks CPU, or something blocks it.",
        [Query(series("api_event_loop_lag_seconds"), "{{instance}}")],
        "s",
        {0.05: YELLOW, 0.25: RED},
        soft_maximum=0.05,
    )
