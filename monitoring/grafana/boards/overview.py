"""Overview: is it well, and if not, which dashboard tells more."""

from __future__ import annotations

from monitoring.grafana.boards.shared import (
    alerts_firing,
    engine_states,
    gpu_memory,
    gpu_use,
    limit,
    results,
    slots_and_line,
    tokens_per_second,
)
from monitoring.grafana.page import Board, Row, Section
from monitoring.grafana.panels import BLUE, ORANGE, RED, YELLOW, Query, course, figure
from monitoring.grafana.queries import (
    CONTENDED,
    GATEWAY,
    GENERATION,
    MODEL,
    NOW,
    burn,
    none_is_zero,
    quantile,
    rate,
    share,
    total,
    within_objectives,
)

UP = figure(
    "Gateway",
    "Whether Prometheus reaches every gateway. Red: the process is gone or doesn't answer; "
    "see its log, and that it is started again (systemd, Kubernetes).",
    f'min(up{{job="headgate",{GATEWAY}}})',
    "none",
    {0: RED, 1: "green"},
    base=RED,
    texts={0: "DOWN", 1: "UP"},
    empty="not scraped",
    to="headgate-infrastructure",
)

ENGINES_MISSING = figure(
    "Engines missing",
    "Engines that should be ready and are not. Red: /status and Engines & Cost say whether "
    "one loads, restarts or was given up on.",
    f"{total('api_engines_desired')} - {total('api_engine_up')}",
    "none",
    {1: RED},
    texts={0: "none"},
    to="headgate-engines",
)

SLOTS_IN_USE = figure(
    "Slots in use",
    "Share of all slots that are held. Red for long means that callers wait or are refused: see Capacity & Saturation.",
    share(total("api_active_requests"), total("api_max_active")),
    "percentunit",
    {0.8: YELLOW, 0.95: RED},
    empty="no engine",
    decimals=0,
    maximum=1,
    to="headgate-capacity",
)

REFUSED = figure(
    "Refused",
    "Share of generations in the last 5 minutes that were refused for want of capacity "
    "(429 and 503). Red: more is asked than can be served; see Capacity & Saturation.",
    share(
        none_is_zero(rate("api_refusals_total", CONTENDED, MODEL, over=NOW)),
        rate("api_requests_total", GENERATION, MODEL, over=NOW),
    ),
    "percentunit",
    {0.01: YELLOW, 0.05: RED},
    empty="no traffic",
    decimals=1,
    to="headgate-capacity",
)

WITHIN_OBJECTIVES = figure(
    "Within objectives",
    "Share of answers in the last 5 minutes that met every objective (SLO_TTFT_S, "
    "SLO_ITL_MS, SLO_LATENCY_S). Red: the graph below tells which was missed.",
    within_objectives(NOW, MODEL),
    "percentunit",
    {0: RED, 0.95: YELLOW, 0.99: "green"},
    base=RED,
    empty="no traffic",
    decimals=1,
    maximum=1,
    to="headgate-llm",
)

BURN = figure(
    "Budget burn, 1 h",
    "How fast the month's error budget goes: at 1 it lasts exactly the month, at 14.4 two "
    "days. Red pages somebody; Within objectives says why.",
    burn("1h", MODEL),
    "none",
    {1: YELLOW, 6: ORANGE, 14.4: RED},
    empty="no traffic",
    decimals=1,
    to="headgate-llm",
)

TIME_TO_FIRST_TOKEN = course(
    "Time to first token",
    "What callers wait for the first token, the line included; dashed, the objective. "
    "Above it: the line is long (Capacity) or too many run at once (LLM Performance).",
    [
        Query(quantile(0.5, "api_time_to_first_token_seconds", MODEL), "half wait less"),
        Query(quantile(0.95, "api_time_to_first_token_seconds", MODEL), "95 % wait less"),
        limit("ttft"),
    ],
    "s",
)

REFUSALS_BY_REASON = course(
    "Refusals by reason",
    "Who is sent away, and why; each reason has its row in docs/api.md. queue_full and "
    "queue_timeout: too much is asked. engine_unavailable: no engine.",
    [Query(rate("api_refusals_total", MODEL, by="reason"), "{{reason}}")],
    "reqps",
    stacked=True,
)

SPENDING = course(
    "Spending",
    "Dollars an hour: work on the GPU, a GPU that waits, and energy. Nothing here: set GPU_PRICE_PER_HOUR.",
    [
        Query(
            f"3600 * {rate('api_cost_dollars_total', by='kind')}",
            "{{kind}}",
        )
    ],
    "currencyUSD",
    stacked=True,
    colors={"gpu": "green", "idle": ORANGE, "energy": BLUE},
)

BOARD = Board(
    uid="headgate-overview",
    title="Headgate / Overview",
    description="Is it well? Green means yes. What is red leads to the dashboard that tells more.",
    variables=("model",),
    sections=[
        Section(
            None,
            [
                Row(
                    4,
                    [
                        (4, UP),
                        (4, ENGINES_MISSING),
                        (4, SLOTS_IN_USE),
                        (4, REFUSED),
                        (4, WITHIN_OBJECTIVES),
                        (4, BURN),
                    ],
                ),
                Row(8, [(12, results()), (12, slots_and_line())]),
                Row(8, [(8, TIME_TO_FIRST_TOKEN), (8, REFUSALS_BY_REASON), (8, tokens_per_second())]),
                Row(7, [(8, engine_states()), (8, gpu_use()), (8, gpu_memory())]),
                Row(7, [(16, alerts_firing()), (8, SPENDING)]),
            ],
        )
    ],
)
